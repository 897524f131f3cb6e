// Package bench measures attention: how long methods take on synthetic heads, beside what the machine's arithmetic
// units could do at best, and what they attend to.
package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/parallel"
	"github.com/anchorattention/anchor/internal/workload"
)

// A Config says what to measure.
type Config struct {
	Workload            string // one of Workloads
	Seed                uint64 // of the workload's random numbers
	Lengths             []int  // tokens; one sequence of queries and as many keys is made for each
	Heads, KVHeads, Dim int
	Methods             []anchor.Planner
	Runs                int // timed runs of each method at each length, ≥ 1
	Threads             int // 0 means GOMAXPROCS
	AuditRows           int // rows of each head whose exact recall is measured, outside the timed runs, ≥ 1

	// Result, when set, is called with each result as soon as all of its length are there. Its error ends Run.
	Result func(Result) error
	// Progress, when set, is called now and then with the share of the work that is done, ascending in [0, 1], by
	// one goroutine at a time.
	Progress func(share float64)
}

// Workloads returns the names of the synthetic heads there are, the default first.
func Workloads() []string { return workload.Names() }

// A Result is what a method did at one length.
type Result struct {
	Method   string `json:"method"`
	ISA      string `json:"isa"`   // level of the kernels: generic, avx2 or avx512
	DType    string `json:"dtype"` // of queries, keys and values
	Workload string `json:"workload"`
	N        int    `json:"n"` // tokens
	Heads    int    `json:"heads"`
	KVHeads  int    `json:"kv_heads"`
	Dim      int    `json:"dim"`
	Threads  int    `json:"threads"`
	Runs     int    `json:"runs"`

	Seconds    float64 `json:"seconds_median"` // over the timed runs
	SecondsMin float64 `json:"seconds_min"`
	SecondsMax float64 `json:"seconds_max"`

	// GFLOPS counts the operations of dense causal attention, 2·heads·dim·n², whatever the method left out, and
	// ExecutedGFLOPS those that the method did: see [anchor.Result].
	GFLOPS         float64 `json:"gflops"`
	ExecutedGFLOPS float64 `json:"executed_gflops"`

	Density    float64 `json:"density"`
	RecallMean float64 `json:"recall_mean"`
	RecallMin  float64 `json:"recall_min"`

	SpeedupVsDense float64            `json:"speedup_vs_dense,omitempty"` // of medians, when dense was measured too
	StageSeconds   map[string]float64 `json:"stage_seconds"`              // of the run with the median time
}

// A Report is all that was measured.
type Report struct {
	Results []Result
	Peak    Peak
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
	case c.Threads < 0:
		return fmt.Errorf("bench: threads are %d; want ≥ 0", c.Threads)
	case c.AuditRows < 1:
		return fmt.Errorf("bench: audited rows are %d; want ≥ 1", c.AuditRows)
	}
	if _, err := workload.Lookup(c.Workload); err != nil {
		return fmt.Errorf("bench: %w", err)
	}
	for _, n := range c.Lengths {
		if err := c.size(n).Validate(); err != nil {
			return fmt.Errorf("bench: %w", err)
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

// Run measures. At each length every method runs once with an audit, which also warms up, and then Runs times
// against the clock, the methods taking turns so that a slow minute of the machine falls on all of them. The
// machine's peak is measured before and after.
func Run(ctx context.Context, c Config) (*Report, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	w, err := workload.Lookup(c.Workload)
	if err != nil {
		return nil, err
	}
	c.Threads = parallel.Threads(c.Threads)
	report := &Report{Peak: make(Peak)}
	if err := report.Peak.measure(ctx, c.Threads); err != nil {
		return nil, err
	}
	p := progress{report: c.Progress}
	for _, n := range c.Lengths {
		p.all += float64(c.Runs+1) * float64(len(c.Methods)) * float64(n) * float64(n)
	}
	for _, n := range c.Lengths {
		data, err := w.Generate(c.size(n), c.Seed, c.Threads)
		if err != nil {
			return nil, fmt.Errorf("bench: %w", err)
		}
		results, err := c.measure(ctx, n, data, &p)
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
	return report, report.Peak.measure(ctx, c.Threads)
}

// measure runs all methods at one length.
func (c *Config) measure(ctx context.Context, n int, data *workload.Data, p *progress) ([]Result, error) {
	seq := anchor.Sequence{
		Q: anchor.FromFloat32(data.Q, c.Heads, n, c.Dim),
		K: anchor.FromFloat32(data.K, c.KVHeads, n, c.Dim),
		V: anchor.FromFloat32(data.V, c.KVHeads, n, c.Dim),
		O: anchor.FromFloat32(make([]float32, len(data.Q)), c.Heads, n, c.Dim),
	}
	runtime.GC() // data of another length are no business of the runs to come
	run := func(method anchor.Planner, auditRows int) (*anchor.Result, error) {
		opt := anchor.Options{Planner: method, Threads: c.Threads, AuditRows: auditRows, Progress: p.part(float64(n) * float64(n))}
		return anchor.Attend(ctx, opt, seq)
	}
	audits := make([]*anchor.Result, len(c.Methods))
	timed := make([][]*anchor.Result, len(c.Methods))
	for i, m := range c.Methods {
		var err error
		if audits[i], err = run(m, c.AuditRows); err != nil {
			return nil, err
		}
	}
	for range c.Runs {
		for i, m := range c.Methods {
			r, err := run(m, 0)
			if err != nil {
				return nil, err
			}
			timed[i] = append(timed[i], r)
		}
	}
	results := make([]Result, len(c.Methods))
	var dense float64
	for i := range results {
		results[i] = c.result(n, audits[i], timed[i])
		if results[i].Method == anchor.Dense().Name() {
			dense = results[i].Seconds
		}
	}
	for i := range results {
		results[i].SpeedupVsDense = dense / results[i].Seconds
	}
	return results, nil
}

func (c *Config) result(n int, audit *anchor.Result, timed []*anchor.Result) Result {
	slices.SortFunc(timed, func(a, b *anchor.Result) int { return cmp.Compare(a.Seconds, b.Seconds) })
	middle := timed[(len(timed)-1)/2]
	median := (middle.Seconds + timed[len(timed)/2].Seconds) / 2
	dense := 2 * float64(c.Heads) * float64(c.Dim) * float64(n) * float64(n)
	return Result{
		Method: audit.Method, ISA: audit.ISA, DType: anchor.Float32.String(), Workload: c.Workload,
		N: n, Heads: c.Heads, KVHeads: c.KVHeads, Dim: c.Dim, Threads: c.Threads, Runs: len(timed),
		Seconds: median, SecondsMin: timed[0].Seconds, SecondsMax: timed[len(timed)-1].Seconds,
		GFLOPS: dense / median / 1e9, ExecutedGFLOPS: audit.FLOPs / median / 1e9,
		Density: audit.Density(), RecallMean: audit.Recall.Mean, RecallMin: audit.Recall.Min,
		StageSeconds: middle.StageSeconds(),
	}
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
	return func(share float64) { p.report(min((begin+work*share)/p.all, 1)) }
}
