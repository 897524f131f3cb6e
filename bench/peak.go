package bench

import (
	"context"
	"sync"
	"time"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/kernel"
)

// Peaks are the most that the machine was seen to do, by number of threads.
type Peaks struct {
	FMA  Peak `json:"peak"`               // multiply-adds in single precision, in GFLOP/s
	Dot  Peak `json:"dot_peak,omitempty"` // products of pairs of bfloat16 numbers, in GFLOP/s, where they are used
	Read Peak `json:"read_peak"`          // memory read, in GB/s
}

// A Peak is a rate by number of threads.
type Peak map[int]float64

// A meter reads what the machine can do. A nil one reads nothing: it is for what another device does.
type meter struct {
	kernels  *kernel.Set
	threads  []int
	fma, dot int // rounds that take about as long as a reading should
	peaks    Peaks

	readings []reading
	at       time.Time
	memory   []float32
}

// A reading is what the machine could do at one moment.
type reading struct{ fma, dot Peak }

const (
	// readingTime is how long a rate is measured, and fresh how long the reading is good for. Processors change their
	// clock, by what they are asked to do and by what their neighbours do, within milliseconds.
	readingTime = 10 * time.Millisecond
	fresh       = 50 * time.Millisecond
)

func newMeter(threads []int) (*meter, error) {
	set, err := kernel.Default()
	if err != nil {
		return nil, err
	}
	m := &meter{kernels: set, threads: threads, peaks: Peaks{FMA: Peak{}, Read: Peak{}}}
	m.fma = roundsFor(set.FMA)
	if set.Pairs() {
		m.dot, m.peaks.Dot = roundsFor(m.dotFLOPs), Peak{}
	}
	return m, nil
}

// roundsFor returns how many rounds of f take about as long as a reading.
func roundsFor(f func(rounds int) float64) int {
	for rounds := 1 << 10; ; rounds *= 2 {
		start := time.Now()
		f(rounds)
		if time.Since(start) >= readingTime/2 {
			return rounds
		}
	}
}

// best raises the peaks on 1, 2, 4, … threads and all numbers of threads that are measured with: the best of several
// readings, because whatever else runs can only slow one down.
func (m *meter) best(ctx context.Context) error {
	if m == nil {
		return ctx.Err()
	}
	most := 1
	for _, n := range m.threads {
		most = max(most, n)
	}
	counts := m.threads
	for n := 1; n < most; n *= 2 {
		counts = append(counts, n)
	}
	for _, n := range append(counts, most) {
		for range 5 {
			if err := ctx.Err(); err != nil {
				return err
			}
			m.raise(n)
		}
		m.peaks.Read[n] = max(m.peaks.Read[n], m.readMemory(n))
	}
	return nil
}

// raise measures on n threads.
func (m *meter) raise(n int) (fma, dot float64) {
	fma = rate(n, func() float64 { return m.kernels.FMA(m.fma) })
	m.peaks.FMA[n] = max(m.peaks.FMA[n], fma)
	if m.dot > 0 {
		dot = rate(n, func() float64 { return m.dotFLOPs(m.dot) })
		m.peaks.Dot[n] = max(m.peaks.Dot[n], dot)
	}
	return fma, dot
}

func (m *meter) dotFLOPs(rounds int) float64 {
	m.kernels.BeginPairs()
	defer m.kernels.EndPairs()
	return m.kernels.Dot(rounds)
}

// rate returns how many thousand millions of what f returns are done in a second by n threads at the same time.
func rate(n int, f func() float64) float64 {
	done := make([]float64, n)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range done {
		wg.Go(func() { done[i] = f() })
	}
	wg.Wait()
	return done[0] * float64(n) / time.Since(start).Seconds() / 1e9
}

// readMemory returns the GB/s at which n threads read memory that no cache holds.
func (m *meter) readMemory(n int) float64 {
	const size = 64 << 20 // numbers: 256 MiB
	if m.memory == nil {
		m.memory = make([]float32, size)
		for i := range m.memory {
			m.memory[i] = 1
		}
	}
	best := 0.0
	for range 3 {
		best = max(best, readRate(m.kernels, m.memory, n))
	}
	return best
}

func readRate(kernels *kernel.Set, memory []float32, n int) float64 {
	var wg sync.WaitGroup
	start := time.Now()
	for i := range n {
		part := memory[i*len(memory)/n : (i+1)*len(memory)/n]
		wg.Go(func() { kernels.Finite(part) })
	}
	wg.Wait()
	return 4 * float64(len(memory)) / time.Since(start).Seconds() / 1e9
}

// read takes a reading on the numbers of threads that are measured with.
func (m *meter) read(ctx context.Context) error {
	if err := ctx.Err(); err != nil || m == nil {
		return err
	}
	r := reading{fma: Peak{}, dot: Peak{}}
	for _, n := range m.threads {
		r.fma[n], r.dot[n] = m.raise(n)
	}
	m.readings = append(m.readings, r)
	m.at = time.Now()
	return nil
}

// last returns the number of the last reading.
func (m *meter) last() int {
	if m == nil {
		return 0
	}
	return len(m.readings) - 1
}

// old reports whether it is time for another reading.
func (m *meter) old() bool { return m != nil && time.Since(m.at) > fresh }

// inPairs reports whether inputs of a type are multiplied in pairs.
func (m *meter) inPairs(dtype anchor.DType) bool {
	return m != nil && dtype == anchor.BFloat16 && m.kernels.Pairs()
}

// around returns the readings before and after a run, of the units that it used and on as many threads.
func (m *meter) around(run timed, x *contestant) (before, after, best float64) {
	a, b := m.readings[run.before], m.readings[run.before+1]
	if m.inPairs(x.dtype) {
		return a.dot[x.threads], b.dot[x.threads], m.peaks.Dot[x.threads]
	}
	return a.fma[x.threads], b.fma[x.threads], m.peaks.FMA[x.threads]
}

// beside returns what the machine could do around a run.
func (m *meter) beside(run timed, x *contestant) float64 {
	before, after, _ := m.around(run, x)
	return (before + after) / 2
}

// disturbed reports whether the machine did other things around a run.
func (m *meter) disturbed(run timed, x *contestant) bool {
	if m == nil {
		return false
	}
	before, after, best := m.around(run, x)
	return min(before, after) < 0.9*best
}

// quiet returns the contestant's undisturbed runs or, if those are less than half, all.
func (m *meter) quiet(x *contestant) []int {
	var quiet, all []int
	for i, run := range x.runs {
		all = append(all, i)
		if !m.disturbed(run, x) {
			quiet = append(quiet, i)
		}
	}
	if 2*len(quiet) < len(all) {
		return all
	}
	return quiet
}

// noisy reports whether less than half of the contestant's runs were undisturbed.
func (m *meter) noisy(x *contestant) bool {
	n := 0
	for _, run := range x.runs {
		if m.disturbed(run, x) {
			n++
		}
	}
	return 2*n > len(x.runs)
}
