package main

import (
	"context"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"sync"
	"syscall"
	"time"

	"github.com/anchorattention/anchor/internal/kernel"
)

// A contestant takes its turn on the clock.
type contestant struct {
	name, dtype string
	flops       float64   // operations that a run counts as
	exact       bool      // out must agree with the baseline's
	out         []float32 // what a run writes
	run         func(context.Context) error
}

// A round is one run of every contestant.
type round struct {
	seconds []float64 // by contestant
	peak    float64   // least multiply-add rate measured before, between and after the runs, in GFLOP/s
}

// settle waits until the process is idle, for a second at most: the threads of a library spin for a while after its
// work, OpenBLAS's for a tenth of a second, and would take cores from whoever is next.
func settle() error {
	const window = 5 * time.Millisecond
	before, err := cpuTime()
	if err != nil {
		return err
	}
	for end := time.Now().Add(time.Second); time.Now().Before(end); {
		time.Sleep(window)
		now, err := cpuTime()
		if err != nil || now-before < window/10 {
			return err
		}
		before = now
	}
	return nil
}

// cpuTime returns the time that cores have spent on this process.
func cpuTime() (time.Duration, error) {
	var u syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}

// measure runs all contestants once, to warm up and to compare outputs with those of the first, the baseline, and then
// in rounds against the clock. The order changes from round to round, so that none always follows the same one.
func measure(ctx context.Context, cs []contestant, rounds int, p *peak) ([]round, []float64, error) {
	diffs := make([]float64, len(cs))
	for i, c := range cs {
		if err := runOne(ctx, c); err != nil {
			return nil, nil, err
		}
		if c.exact {
			var err error
			if diffs[i], err = agree(c, cs[0]); err != nil {
				return nil, nil, err
			}
		}
	}
	var all []round
	for r := range rounds {
		one := round{seconds: make([]float64, len(cs)), peak: math.Inf(1)}
		for _, c := range rand.New(rand.NewPCG(1, uint64(r))).Perm(len(cs)) {
			if err := settle(); err != nil {
				return nil, nil, err
			}
			one.peak = min(one.peak, p.measure())
			start := time.Now()
			if err := runOne(ctx, cs[c]); err != nil {
				return nil, nil, err
			}
			one.seconds[c] = time.Since(start).Seconds()
		}
		if err := settle(); err != nil {
			return nil, nil, err
		}
		one.peak = min(one.peak, p.measure())
		all = append(all, one)
	}
	return all, diffs, nil
}

func runOne(ctx context.Context, c contestant) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := c.run(ctx); err != nil {
		return fmt.Errorf("%s: %w", c.name, err)
	}
	return ctx.Err()
}

// tolerance is how far an output in single precision may lie from another. Values have deviation 1 and logits go up to
// some tens, for which rounding alone makes a few hundredths of it.
const tolerance = 1e-3

// agree returns the largest difference between the outputs of two contestants; the error says when they do not compute
// the same thing, so that comparing their time would mean nothing.
func agree(c, baseline contestant) (float64, error) {
	var most float64
	for i, x := range c.out {
		d := math.Abs(float64(x) - float64(baseline.out[i]))
		if !(d <= tolerance) { // NaN too
			return d, fmt.Errorf("%s: output %d is %g where %s has %g; want at most %g between them",
				c.name, i, x, baseline.name, baseline.out[i], tolerance)
		}
		most = max(most, d)
	}
	return most, nil
}

// A peak measures the rate at which the machine multiplies and adds in single precision.
type peak struct {
	set     *kernel.Set
	threads int
	rounds  int
	best    float64 // GFLOP/s, of all measurements
}

func newPeak(threads int) (*peak, error) {
	set, err := kernel.Default()
	if err != nil {
		return nil, err
	}
	p := &peak{set: set, threads: threads, rounds: 1 << 10}
	for { // until a repetition takes about 10 ms
		start := time.Now()
		set.FMA(p.rounds)
		if time.Since(start) >= 5*time.Millisecond {
			break
		}
		p.rounds *= 2
	}
	for range 20 {
		p.measure()
	}
	return p, nil
}

// measure returns the rate now, in GFLOP/s: the best of some repetitions, because after a pause the system may have
// threads share a core at first. It ends with the first repetition that shows the machine at its best.
func (p *peak) measure() float64 {
	var now float64
	flops := make([]float64, p.threads)
	for range 10 {
		var wg sync.WaitGroup
		start := time.Now()
		for i := range flops {
			wg.Go(func() { flops[i] = p.set.FMA(p.rounds) })
		}
		wg.Wait()
		seconds := time.Since(start).Seconds()
		now = max(now, flops[0]*float64(p.threads)/seconds/1e9)
		p.best = max(p.best, now)
		if now >= quiet*p.best {
			break
		}
	}
	return now
}

// quiet is the share of the best peak that a round must keep to count.
const quiet = 0.9

// keep returns the rounds during which the machine was as fast as it can be. When those are fewer than half, it returns
// all, and says so: a median over rounds that are mostly slow is better than one over a lucky few.
func keep(rounds []round, best float64) (kept []round, noisy bool) {
	for _, r := range rounds {
		if r.peak >= quiet*best {
			kept = append(kept, r)
		}
	}
	if 2*len(kept) < len(rounds) {
		return rounds, true
	}
	return kept, false
}

// A spread is a median and the range it comes from.
type spread struct {
	Median float64 `json:"median"`
	Min    float64 `json:"min"`
	Max    float64 `json:"max"`
}

// spreadOf summarizes at least one number.
func spreadOf(x []float64) spread {
	x = slices.Sorted(slices.Values(x))
	return spread{Median: (x[(len(x)-1)/2] + x[len(x)/2]) / 2, Min: x[0], Max: x[len(x)-1]}
}

// A result is what one contestant did at one length.
type result struct {
	N          int     `json:"n"` // tokens
	Contestant string  `json:"contestant"`
	DType      string  `json:"dtype"`      // of the inputs
	Seconds    spread  `json:"seconds"`    // over the rounds that count
	GFLOPS     float64 `json:"gflops"`     // at the median, counting dense causal attention as 2·heads·dim·n²
	PeakShare  float64 `json:"peak_share"` // of the best multiply-add rate in single precision
	// VsDense is how many times as many GFLOP/s as Anchor's dense attention in F32 made in the same round.
	VsDense spread   `json:"vs_dense"`
	MaxDiff *float64 `json:"max_diff,omitempty"` // from its output, where the two must agree
	Rounds  int      `json:"rounds"`
	Kept    int      `json:"kept"`  // rounds that count
	Noisy   bool     `json:"noisy"` // all rounds count, because the machine was slow in most of them
}

// summarize makes the results of one length. Contestant 0 is the baseline.
func summarize(n int, cs []contestant, rounds []round, diffs []float64, best float64) []result {
	kept, noisy := keep(rounds, best)
	results := make([]result, len(cs))
	for i, c := range cs {
		var seconds, ratios []float64
		for _, r := range kept {
			seconds = append(seconds, r.seconds[i])
			ratios = append(ratios, c.flops/r.seconds[i]/(cs[0].flops/r.seconds[0]))
		}
		s := spreadOf(seconds)
		rate := c.flops / s.Median / 1e9
		results[i] = result{
			N: n, Contestant: c.name, DType: c.dtype, Seconds: s, GFLOPS: rate, PeakShare: rate / best,
			VsDense: spreadOf(ratios), Rounds: len(rounds), Kept: len(kept), Noisy: noisy,
		}
		if c.exact {
			results[i].MaxDiff = &diffs[i]
		}
	}
	return results
}
