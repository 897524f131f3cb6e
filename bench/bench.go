// Package bench measures attention: how long methods take on synthetic heads, beside what the machine's arithmetic
// units could do at best, and what they attend to.
package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"time"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/kernel"
	"github.com/anchorattention/anchor/internal/parallel"
	"github.com/anchorattention/anchor/internal/workload"
)

// A Config says what to measure.
type Config struct {
	Workload            string // one of Workloads
	Seed                uint64 // of the workload's random numbers
	Lengths             []int  // tokens: keys of the one sequence that is made for each
	Queries             int    // the last so many positions ask; 0 means all
	Heads, KVHeads, Dim int
	DTypes              []anchor.DType // of queries, keys and values, which are rounded where they must be
	Methods             []anchor.Planner
	Costs               *anchor.Costs // see anchor.Options
	Runs                int           // timed rounds at each length, ≥ 1
	Threads             []int         // numbers of threads to measure with; 0 means GOMAXPROCS
	AuditRows           int           // rows of each head whose exact recall is measured, outside the timed runs, ≥ 1

	// Engine is what computes; nil means this processor. Times are then by the engine's own clock, without what copying
	// takes, and there are no peaks.
	Engine anchor.Engine

	// Result, when set, is called with each result as soon as all of its length are there. Its error ends Run.
	Result func(Result) error
	// Progress, when set, is called now and then with the share of the work that is done, ascending in [0, 1], by
	// one goroutine at a time.
	Progress func(share float64)
}

// Workloads returns the names of the synthetic heads there are, the default first.
func Workloads() []string { return workload.Names() }

// A Result is what a method did at one length, with one type of inputs and number of threads.
type Result struct {
	Method   string `json:"method"`
	ISA      string `json:"isa"`   // level of the kernels: generic, avx2, avx512, avx512bf16, amx or neon
	DType    string `json:"dtype"` // of queries, keys and values
	Workload string `json:"workload"`
	N        int    `json:"n"`       // tokens
	Queries  int    `json:"queries"` // of which the last so many ask
	Heads    int    `json:"heads"`
	KVHeads  int    `json:"kv_heads"`
	Dim      int    `json:"dim"`
	Threads  int    `json:"threads"`
	Runs     int    `json:"runs"`      // timed rounds
	RunsKept int    `json:"runs_kept"` // of which so many were quiet enough to count
	Noisy    bool   `json:"noisy"`     // less than half were, so that all count

	Seconds    float64 `json:"seconds_median"` // of one call, over the rounds kept
	SecondsMin float64 `json:"seconds_min"`
	SecondsMax float64 `json:"seconds_max"`

	// GFLOPS counts the operations of dense causal attention whatever the method left out, 4·heads·dim for each row
	// and key that it sees (2·heads·dim·n² when all positions ask), and ExecutedGFLOPS those that the method did: see
	// [anchor.Result].
	GFLOPS         float64 `json:"gflops"`
	ExecutedGFLOPS float64 `json:"executed_gflops"`

	// OfPeak is the executed rate over the peak of the units that did it, as measured just before and after each run on as
	// many threads: multiply-adds in single precision, or products of pairs of bfloat16 numbers where Pairs is set.
	OfPeak float64 `json:"of_peak"`
	Pairs  bool    `json:"pairs"`
	// OfRead is the keys' and values' bytes over the time and the rate at which memory was read on as many threads:
	// what bounds a few queries over a long cache. Only set for up to 64 queries.
	OfRead  float64 `json:"of_read,omitempty"`
	ReadGBs float64 `json:"read_gbs,omitempty"`

	Density    float64 `json:"density"`
	DenseShare float64 `json:"dense_share"` // of the groups planned by head, those that went dense
	RecallMean float64 `json:"recall_mean"`
	RecallMin  float64 `json:"recall_min"`
	ScratchMiB float64 `json:"scratch_mib_per_thread"` // memory beyond inputs and outputs that a first call takes

	SpeedupVsDense float64            `json:"speedup_vs_dense,omitempty"`   // of medians, when dense was measured too
	TimeVsDense    *Ratio             `json:"time_vs_dense,omitempty"`      // over dense's in the same round
	RateVsDense    *Ratio             `json:"rate_vs_dense,omitempty"`      // executed operations a second, likewise
	Scaling        *Ratio             `json:"speedup_vs_threads,omitempty"` // over the first number of threads measured, in the same round
	StageSeconds   map[string]float64 `json:"stage_seconds"`                // of the run with the median time
}

// A Ratio is the median of ratios within rounds, and a 95 % confidence interval of it by order statistics.
type Ratio struct {
	Median float64 `json:"median"`
	Low    float64 `json:"low"`
	High   float64 `json:"high"`
}

// A Growth is how the time of a method grew from one length to the next longer one: with that power of the length, in all
// and stage by stage.
type Growth struct {
	Method   string             `json:"method"`
	DType    string             `json:"dtype"`
	Threads  int                `json:"threads"`
	From     int                `json:"from"`
	To       int                `json:"to"`
	Exponent float64            `json:"exponent"`
	Stages   map[string]float64 `json:"stages"`
}

// A Report is all that was measured.
type Report struct {
	Results []Result `json:"-"`
	Peaks
	Growth []Growth `json:"growth,omitempty"`
}

// Validate reports what in the configuration is missing or out of range.
func (c *Config) Validate() error {
	switch {
	case len(c.Lengths) == 0:
		return errors.New("bench: no lengths; want at least one")
	case len(c.Methods) == 0:
		return errors.New("bench: no methods; want at least one")
	case c.Runs < 1:
		return fmt.Errorf("bench: runs are %d; want ≥ 1", c.Runs)
	case len(c.DTypes) == 0:
		return errors.New("bench: no types of inputs; want at least one")
	case c.Queries < 0:
		return fmt.Errorf("bench: queries are %d; want ≥ 0", c.Queries)
	case len(c.Threads) == 0:
		return errors.New("bench: no numbers of threads; want at least one")
	case c.AuditRows < 1:
		return fmt.Errorf("bench: audited rows are %d; want ≥ 1", c.AuditRows)
	}
	if _, err := workload.Lookup(c.Workload); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	for _, n := range c.Threads {
		if n < 0 {
			return fmt.Errorf("bench: threads are %d; want ≥ 0", n)
		}
	}
	for _, n := range c.Lengths {
		if err := c.size(n).Validate(); err != nil {
			return fmt.Errorf("bench: %w", err)
		}
		if c.Queries > n {
			return fmt.Errorf("bench: queries are %d; want at most the length, %d", c.Queries, n)
		}
	}
	for _, m := range c.Methods {
		if err := m.Validate(); err != nil {
			return fmt.Errorf("bench: method %s: %w", m.Name(), err)
		}
	}
	return nil
}

func (c *Config) size(n int) workload.Size {
	return workload.Size{Heads: c.Heads, KVHeads: c.KVHeads, Length: n, Dim: c.Dim}
}

// Run measures. At each length every contestant (a method with a type of inputs and a number of threads) runs once with an
// audit, which also warms up, and then takes turns with the others in timed rounds, in an order that changes from round to
// round, so that a slow minute of the machine falls on all of them. What the machine can do is measured beside every run:
// where it fell below 90 % of the best, something else was using the machine, and the run does not count.
func Run(ctx context.Context, c Config) (*Report, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	w, err := workload.Lookup(c.Workload)
	if err != nil {
		return nil, err
	}
	c.Threads = slices.Clone(c.Threads)
	for i, n := range c.Threads {
		c.Threads[i] = parallel.Threads(n)
	}
	var m *meter
	if c.Engine == nil {
		if m, err = newMeter(c.Threads); err != nil {
			return nil, err
		}
	}
	report := &Report{}
	if err := m.best(ctx); err != nil {
		return nil, err
	}
	p := progress{report: c.Progress}
	for _, n := range c.Lengths {
		p.all += float64(c.Runs+1) * float64(len(c.contestants())) * float64(n) * float64(n)
	}
	for _, n := range c.Lengths {
		data, err := w.Generate(c.size(n), c.Seed, 0)
		if err != nil {
			return nil, fmt.Errorf("bench: %w", err)
		}
		results, err := c.measure(ctx, m, n, data, &p)
		if err != nil {
			return nil, err
		}
		report.Results = append(report.Results, results...)
		for _, r := range results {
			if c.Result != nil {
				if err := c.Result(r); err != nil {
					return nil, err
				}
			}
		}
	}
	if err := m.best(ctx); err != nil {
		return nil, err
	}
	if m != nil {
		report.Peaks = m.peaks
	}
	report.Growth = growth(report.Results)
	return report, nil
}

// A contestant is one of those that take turns.
type contestant struct {
	method  anchor.Planner
	dtype   anchor.DType
	threads int
	seq     anchor.Sequence

	audit   *anchor.Result
	scratch float64 // MiB a thread
	calls   int     // timed together, so that a run is long enough to time
	runs    []timed
}

// A timed run is what a contestant did in one round.
type timed struct {
	seconds float64 // of one call
	before  int     // the meter's last reading before
	stages  map[string]float64
}

func (c *Config) contestants() []*contestant {
	var all []*contestant
	for _, dtype := range c.DTypes {
		for _, threads := range c.Threads {
			for _, method := range c.Methods {
				all = append(all, &contestant{method: method, dtype: dtype, threads: threads, calls: 1})
			}
		}
	}
	return all
}

// measure runs all contestants at one length.
func (c *Config) measure(ctx context.Context, m *meter, n int, data *workload.Data, p *progress) ([]Result, error) {
	queries := cmp.Or(c.Queries, n)
	out := make([]float32, c.Heads*queries*c.Dim)
	seqs := make(map[anchor.DType]anchor.Sequence)
	for _, dtype := range c.DTypes {
		seqs[dtype] = sequence(dtype, data, c.size(n), queries, out)
	}
	runtime.GC() // data of another length are no business of the runs to come
	all := c.contestants()
	calls := 1 // the same for all: the first of a row of calls finds caches that others left
	for _, x := range all {
		x.seq = seqs[x.dtype]
		if err := c.warmUp(ctx, x, p.part(float64(n)*float64(n))); err != nil {
			return nil, err
		}
		calls = max(calls, x.calls)
	}
	order := rand.New(rand.NewPCG(c.Seed, uint64(n)))
	for range c.Runs {
		if err := m.read(ctx); err != nil {
			return nil, err
		}
		// In an order by chance: what came before, by its heat alone, makes a difference.
		for _, i := range order.Perm(len(all)) {
			x := all[i]
			run := timed{before: m.last()}
			opt := anchor.Options{Planner: x.method, Threads: x.threads, Costs: c.Costs, Engine: c.Engine, Progress: p.part(float64(n) * float64(n))}
			start := time.Now()
			var res *anchor.Result
			for range calls {
				var err error
				if res, err = anchor.Attend(ctx, opt, x.seq); err != nil {
					return nil, err
				}
			}
			run.stages = res.StageSeconds()
			run.seconds = time.Since(start).Seconds() / float64(calls)
			if c.Engine != nil {
				run.seconds = stageSum(res)
			}
			x.runs = append(x.runs, run)
			if m.old() {
				if err := m.read(ctx); err != nil {
					return nil, err
				}
			}
		}
	}
	if err := m.read(ctx); err != nil {
		return nil, err
	}
	results := make([]Result, len(all))
	for i, x := range all {
		kept := m.quiet(x)
		results[i] = c.result(m, n, queries, x, kept)
		for _, y := range all {
			if y.dtype == x.dtype && y.threads == x.threads && y.method.Name() == anchor.Dense().Name() {
				both := intersect(kept, m.quiet(y))
				results[i].SpeedupVsDense = y.seconds(m.quiet(y)) / x.seconds(kept)
				results[i].TimeVsDense = ratio(both, func(r int) float64 { return x.runs[r].seconds / y.runs[r].seconds })
				results[i].RateVsDense = ratio(both, func(r int) float64 {
					return x.audit.FLOPs / x.runs[r].seconds / (y.audit.FLOPs / y.runs[r].seconds)
				})
			}
			if y.dtype == x.dtype && y.method.Name() == x.method.Name() && y.threads == c.Threads[0] && x.threads != y.threads {
				results[i].Scaling = ratio(intersect(kept, m.quiet(y)), func(r int) float64 { return y.runs[r].seconds / x.runs[r].seconds })
			}
		}
	}
	return results, nil
}

// stageSum returns the time of all stages: that of a call by an engine's own clock.
func stageSum(res *anchor.Result) float64 {
	sum := 0.0
	for stage, t := range res.Stages {
		if anchor.Stage(stage) != anchor.StageAudit {
			sum += t
		}
	}
	return sum
}

// warmUp runs a contestant with an audit, measures the memory it takes and finds out how many calls a run should be.
func (c *Config) warmUp(ctx context.Context, x *contestant, progress func(float64)) error {
	runtime.GC() // twice: what an earlier call kept for the next goes too
	runtime.GC()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	opt := anchor.Options{Planner: x.method, Threads: x.threads, Costs: c.Costs, Engine: c.Engine, AuditRows: c.AuditRows, Progress: progress}
	var err error
	if x.audit, err = anchor.Attend(ctx, opt, x.seq); err != nil {
		return err
	}
	if c.Engine != nil {
		return nil // its memory is not the program's, and its clock is fine enough
	}
	runtime.ReadMemStats(&after)
	lse := uint64(4 * c.Heads * x.seq.Q.Rows()) // made for the audit
	x.scratch = float64(after.TotalAlloc-before.TotalAlloc-lse) / float64(x.threads) / (1 << 20)
	const long = 2e-3
	opt.AuditRows, opt.Progress = 0, nil
	for { // short calls only
		start := time.Now()
		for range x.calls {
			if x.audit.Seconds > long {
				return nil
			}
			if _, err := anchor.Attend(ctx, opt, x.seq); err != nil {
				return err
			}
		}
		if time.Since(start).Seconds() > long {
			return nil
		}
		x.calls *= 2
	}
}

// sequence views data as one sequence of the given type, of which the last rows ask.
func sequence(dtype anchor.DType, data *workload.Data, s workload.Size, queries int, out []float32) anchor.Sequence {
	tensor := func(x []float32, heads, rows int) anchor.Tensor {
		skip := (s.Length - rows) * s.Dim
		var t anchor.Tensor
		switch dtype {
		case anchor.BFloat16:
			t = anchor.FromBFloat16(round(x[skip:], kernel.RoundToBFloat16), heads, rows, s.Dim)
		case anchor.Float16:
			t = anchor.FromFloat16(round(x[skip:], kernel.RoundToFloat16), heads, rows, s.Dim)
		default:
			t = anchor.FromFloat32(x[skip:], heads, rows, s.Dim)
		}
		return t.Strided(s.Length*s.Dim, s.Dim)
	}
	return anchor.Sequence{
		Q: tensor(data.Q, s.Heads, queries), K: tensor(data.K, s.KVHeads, s.Length), V: tensor(data.V, s.KVHeads, s.Length),
		O: anchor.FromFloat32(out, s.Heads, queries, s.Dim),
	}
}

func (c *Config) result(m *meter, n, queries int, x *contestant, kept []int) Result {
	median := x.seconds(kept)
	r := Result{
		Method: x.audit.Method, ISA: x.audit.ISA, DType: x.dtype.String(), Workload: c.Workload,
		N: n, Queries: queries, Heads: c.Heads, KVHeads: c.KVHeads, Dim: c.Dim, Threads: x.threads,
		Runs: len(x.runs), RunsKept: len(kept), Noisy: m.noisy(x),
		Seconds: median, ExecutedGFLOPS: x.audit.FLOPs / median / 1e9, Pairs: m.inPairs(x.dtype),
		Density: x.audit.Density(), DenseShare: x.audit.DenseShare(), RecallMean: x.audit.Recall.Mean, RecallMin: x.audit.Recall.Min,
		ScratchMiB: x.scratch,
	}
	dense := 2 * float64(n) * float64(n)
	if queries < n {
		dense = 4 * float64(queries) * (float64(n) - float64(queries-1)/2)
	}
	r.GFLOPS = dense * float64(c.Heads) * float64(c.Dim) / median / 1e9
	var seconds, ofPeak []float64
	for _, i := range kept {
		run := x.runs[i]
		seconds = append(seconds, run.seconds)
		if m != nil {
			ofPeak = append(ofPeak, x.audit.FLOPs/run.seconds/1e9/m.beside(run, x))
		}
	}
	r.SecondsMin, r.SecondsMax = slices.Min(seconds), slices.Max(seconds)
	if m != nil {
		r.OfPeak = middle(ofPeak)
	}
	nearest := slices.MinFunc(kept, func(i, j int) int {
		return cmp.Compare(math.Abs(x.runs[i].seconds-median), math.Abs(x.runs[j].seconds-median))
	})
	r.StageSeconds = x.runs[nearest].stages
	if queries <= 64 {
		bytes := 2 * float64(c.KVHeads) * float64(n) * float64(c.Dim) * 4
		if x.dtype != anchor.Float32 {
			bytes /= 2
		}
		r.ReadGBs = bytes / median / 1e9
		if m != nil {
			r.OfRead = r.ReadGBs / m.peaks.Read[x.threads]
		}
	}
	return r
}

// seconds returns the median time of some of the runs.
func (x *contestant) seconds(runs []int) float64 {
	var all []float64
	for _, i := range runs {
		all = append(all, x.runs[i].seconds)
	}
	return middle(all)
}

// middle returns the median of x, which it sorts.
func middle(x []float64) float64 {
	slices.Sort(x)
	return (x[(len(x)-1)/2] + x[len(x)/2]) / 2
}

// ratio returns the median of f over rounds and its confidence interval: of n values in order, the k-th lowest is above the
// median with the chance that fewer than k of n fair coins fall. With too few rounds the interval is their range.
func ratio(rounds []int, f func(round int) float64) *Ratio {
	if len(rounds) == 0 {
		return nil
	}
	var all []float64
	for _, i := range rounds {
		all = append(all, f(i))
	}
	r := &Ratio{Median: middle(all)}
	n, k := len(all), 0
	chance, below := math.Pow(0.5, float64(n)), 0.0
	for below+chance <= 0.025 {
		below += chance
		k++
		chance *= float64(n-k+1) / float64(k)
	}
	k = max(k-1, 0)
	r.Low, r.High = all[k], all[n-1-k]
	return r
}

func intersect(a, b []int) []int {
	var both []int
	for _, i := range a {
		if slices.Contains(b, i) {
			both = append(both, i)
		}
	}
	return both
}

// growth compares each result with the next longer one of the same contestant.
func growth(results []Result) []Growth {
	var all []Growth
	for i, a := range results {
		for _, b := range results[i+1:] {
			if b.Method != a.Method || b.DType != a.DType || b.Threads != a.Threads || b.N <= a.N {
				continue
			}
			exponent := func(from, to float64) float64 { return math.Log(to/from) / math.Log(float64(b.N)/float64(a.N)) }
			g := Growth{Method: a.Method, DType: a.DType, Threads: a.Threads, From: a.N, To: b.N, Exponent: exponent(a.Seconds, b.Seconds), Stages: map[string]float64{}}
			for stage, s := range a.StageSeconds {
				if t := b.StageSeconds[stage]; t > 0 {
					g.Stages[stage] = exponent(s, t)
				}
			}
			all = append(all, g)
			break
		}
	}
	return all
}

// progress turns the progress of runs into that of the whole.
type progress struct {
	report    func(share float64)
	all, done float64
}

// part returns the Progress of a run that is that much of the whole, nil if nobody wants to know.
func (p *progress) part(work float64) func(share float64) {
	begin := p.done
	p.done += work
	if p.report == nil {
		return nil
	}
	most := 0.0 // a run may be several calls
	return func(share float64) {
		most = max(most, share)
		p.report(min((begin+work*most)/p.all, 1))
	}
}
