package bench

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/kernel"
)

func config() Config {
	return Config{
		Workload: "mixture", Seed: 1, Lengths: []int{256, 400}, Heads: 4, KVHeads: 2, Dim: 32,
		Methods: []anchor.Planner{anchor.Dense(), anchor.AnchorAttention(anchor.Params{Block: 16, Step: 2, Init: 8, Local: 8, Theta: 8, Tail: 4})},
		DTypes:  []anchor.DType{anchor.Float32},
		Runs:    2, Threads: []int{2}, AuditRows: 16,
	}
}

// Every result agrees with the operator's own account, dense has density and recall 1, and figures that are derived
// from others agree with them.
func TestRun(t *testing.T) {
	c := config()
	var streamed []Result
	c.Result = func(r Result) error { streamed = append(streamed, r); return nil }
	var shares []float64
	c.Progress = func(share float64) { shares = append(shares, share) }
	report, err := Run(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Results) != 4 || len(streamed) != 4 {
		t.Fatalf("%d results, %d of them streamed; want 4", len(report.Results), len(streamed))
	}
	for i, r := range report.Results {
		if n := c.Lengths[i/2]; r.N != n || r.Method != []string{"dense", "anchor"}[i%2] || r.Runs != 2 || r.Threads != 2 || r.DType != "F32" {
			t.Errorf("result %d is of %s at %d: %+v", i, r.Method, r.N, r)
		}
		near := func(name string, got, want float64) {
			if !(math.Abs(got-want) <= 1e-9*math.Abs(want)) {
				t.Errorf("%s at %d: %s is %g; want %g", r.Method, r.N, name, got, want)
			}
		}
		near("gflops", r.GFLOPS, 2*4*32*float64(r.N)*float64(r.N)/r.Seconds/1e9)
		near("speedup", r.SpeedupVsDense, report.Results[i-i%2].Seconds/r.Seconds)
		if r.SecondsMin > r.Seconds || r.Seconds > r.SecondsMax {
			t.Errorf("median %g is not in [%g, %g]", r.Seconds, r.SecondsMin, r.SecondsMax)
		}
		if len(r.StageSeconds) == 0 {
			t.Errorf("%s at %d has no stages", r.Method, r.N)
		}
		if _, ok := r.StageSeconds["audit"]; ok {
			t.Errorf("%s at %d: the audit was timed", r.Method, r.N)
		}
		if r.Method == "dense" {
			near("density", r.Density, 1)
			near("executed", r.ExecutedGFLOPS*float64(r.N), r.GFLOPS*float64(r.N+1))
			if r.RecallMin < 0.99999 {
				t.Errorf("dense has recall %g", r.RecallMin)
			}
		} else if r.Density <= 0 || r.Density >= 1 || r.RecallMin <= 0 || r.RecallMean > 1 || r.RecallMin > r.RecallMean {
			t.Errorf("anchor at %d has density %g, recall %g, at least %g", r.N, r.Density, r.RecallMean, r.RecallMin)
		}
	}
	for name, p := range map[string]Peak{"multiply-adds": report.FMA, "memory": report.Read} {
		if len(p) != 2 || !(p[1] > 0) || !(p[2] > 0) {
			t.Errorf("peak of %s is %v; want those of 1 and 2 threads", name, p)
		}
	}
	if !slices.IsSorted(shares) || len(shares) == 0 || shares[len(shares)-1] != 1 {
		t.Errorf("progress is %v; want shares ascending to 1", shares)
	}

	line, err := json.Marshal(report.Results[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range strings.Fields("queries of_peak pairs runs_kept noisy time_vs_dense rate_vs_dense scratch_mib_per_thread dense_share method isa dtype workload n heads kv_heads dim threads runs seconds_median gflops executed_gflops density recall_mean recall_min speedup_vs_dense stage_seconds") {
		if !strings.Contains(string(line), `"`+field+`":`) {
			t.Errorf("%s has no field %s", line, field)
		}
	}
	var table strings.Builder
	if err := report.Write(&table); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"   256  ", "   400  ", "time over dense's", "256 → 400", "Most seen of multiply-adds"} {
		if !strings.Contains(table.String(), want) {
			t.Errorf("table has no %q:\n%s", want, table.String())
		}
	}
}

// The peak is measured on powers of two and on all numbers of threads asked for.
func TestPeakThreads(t *testing.T) {
	for _, k := range []struct{ threads, want []int }{{[]int{1}, []int{1}}, {[]int{2}, []int{1, 2}}, {[]int{3, 6}, []int{1, 2, 3, 4, 6}}} {
		m, err := newMeter(k.threads)
		if err != nil {
			t.Fatal(err)
		}
		m.memory = []float32{1, 2, 3, 4, 5, 6}
		if err := m.best(context.Background()); err != nil {
			t.Fatal(err)
		}
		for _, p := range []Peak{m.peaks.FMA, m.peaks.Read} {
			if got := slices.Sorted(maps.Keys(p)); !slices.Equal(got, k.want) {
				t.Errorf("%d threads: measured on %v; want %v", k.threads, got, k.want)
			}
		}
	}
}

// The interval of a median holds the order statistics that 95 % of samples have on either side of it.
func TestRatio(t *testing.T) {
	for n, want := range map[int][2]float64{1: {0, 0}, 5: {0, 4}, 6: {0, 5}, 10: {1, 8}, 100: {39, 60}, 200: {85, 114}} {
		var rounds []int
		for i := range n {
			rounds = append(rounds, n-1-i)
		}
		r := ratio(rounds, func(i int) float64 { return float64(i) })
		if r.Low != want[0] || r.High != want[1] || r.Median != float64(n-1)/2 {
			t.Errorf("of 0 … %d: %v; want the median in %v", n-1, r, want)
		}
	}
	if r := ratio(nil, nil); r != nil {
		t.Errorf("of nothing: %v", r)
	}
}

// Runs beside which the machine could do less than 90 % of its best do not count, unless most are so.
func TestQuiet(t *testing.T) {
	x := &contestant{dtype: anchor.Float32, threads: 2}
	m := &meter{peaks: Peaks{FMA: Peak{2: 100}}, kernels: kernel.Levels()[0]}
	for _, fma := range []float64{95, 100, 80, 99, 98} {
		m.readings = append(m.readings, reading{fma: Peak{2: fma}})
	}
	for _, before := range []int{0, 0, 1, 2, 3} {
		x.runs = append(x.runs, timed{before: before})
	}
	if got := m.quiet(x); !slices.Equal(got, []int{0, 1, 4}) || m.noisy(x) {
		t.Errorf("runs %v are quiet, noisy: %v; want 0, 1 and 4", got, m.noisy(x))
	}
	x.runs[4].before = 1
	if got := m.quiet(x); len(got) != 5 || !m.noisy(x) {
		t.Errorf("of mostly disturbed runs %v are quiet, noisy: %v; want all", got, m.noisy(x))
	}
}

// Other types of inputs, numbers of threads and a few queries: every contestant is measured, and compared with its like.
func TestContestants(t *testing.T) {
	c := config()
	c.Methods = append(c.Methods, anchor.Auto(anchor.DefaultParams()))
	c.DTypes = []anchor.DType{anchor.Float32, anchor.BFloat16, anchor.Float16}
	c.Threads, c.Queries, c.Runs, c.Lengths = []int{1, 2}, 3, 3, []int{200}
	report, err := Run(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	if len(report.Results) != 18 {
		t.Fatalf("%d results; want 18", len(report.Results))
	}
	seen := map[string]bool{}
	for _, r := range report.Results {
		seen[r.Method+r.DType+string(rune('0'+r.Threads))] = true
		if r.Queries != 3 || !(r.OfRead > 0) || !(r.OfPeak > 0) || r.RunsKept < 2 || r.TimeVsDense == nil || (r.Scaling != nil) != (r.Threads == 2) {
			t.Errorf("%+v", r)
		}
		if r.Method == "dense" && (*r.TimeVsDense != Ratio{1, 1, 1}) {
			t.Errorf("dense takes %v of its own time", r.TimeVsDense)
		}
		bytes := 2 * 2 * 200 * 32 * 4.0
		if r.DType != "F32" {
			bytes /= 2
		}
		if got := r.ReadGBs * r.Seconds * 1e9; math.Abs(got-bytes) > 1 {
			t.Errorf("%s: %g bytes read; want %g", r.DType, got, bytes)
		}
	}
	if len(seen) != 18 {
		t.Errorf("contestants are %v; want 18", seen)
	}
}

// A tuned cost is a number of rows, and what is not used here keeps its default.
func TestTune(t *testing.T) {
	if set, err := kernel.Default(); err != nil || set.Name() == "generic" {
		t.Skip("takes long without vector kernels")
	}
	last := 0.0
	costs, err := Tune(context.Background(), 1, func(share float64) { last = share })
	if err != nil {
		t.Skip(err) // a busy machine
	}
	if err := costs.Validate(); err != nil || costs.GatherRows > 1e4 || last != 1 {
		t.Errorf("%+v, %v, progress up to %v", costs, err, last)
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := Tune(ctx, 1, nil); !errors.Is(err, context.Canceled) {
		t.Errorf("%v; want %v", err, context.Canceled)
	}
}

// Without dense among the methods there is no speed-up to state.
func TestNoDense(t *testing.T) {
	c := config()
	c.Methods, c.Lengths, c.Runs = c.Methods[1:], c.Lengths[:1], 1
	report, err := Run(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	line, err := json.Marshal(report.Results[0])
	if err != nil || strings.Contains(string(line), "speedup") {
		t.Errorf("%s, %v; want no speed-up", line, err)
	}
}

// The default workload is worth measuring: AnchorAttention with its default parameters finds nearly all of the mass
// on a part of the keys. (At 32768 tokens the part is 13 %; here windows alone are a third.)
func TestMixtureIsSparse(t *testing.T) {
	if set, err := kernel.Default(); err != nil || set.Name() == "generic" {
		t.Skip("takes long without vector kernels")
	}
	c := config()
	c.Lengths, c.Heads, c.KVHeads, c.Dim, c.Runs = []int{8192}, 4, 1, 128, 1
	c.Methods = []anchor.Planner{anchor.AnchorAttention(anchor.DefaultParams())}
	report, err := Run(context.Background(), c)
	if err != nil {
		t.Fatal(err)
	}
	r := report.Results[0]
	if r.Density > 0.45 || r.RecallMean < 0.97 {
		t.Errorf("density is %.3f, mean recall %.4f; want ≤ 0.45 and ≥ 0.97", r.Density, r.RecallMean)
	}
}

func TestErrors(t *testing.T) {
	for _, k := range []struct {
		change func(*Config)
		want   string
	}{
		{func(c *Config) { c.Workload = "x" }, `workload is "x"`},
		{func(c *Config) { c.Lengths = nil }, "no lengths"},
		{func(c *Config) { c.Lengths = []int{256, 0} }, "length is 0"},
		{func(c *Config) { c.Heads = 5 }, "heads are 5"},
		{func(c *Config) { c.Dim = 8 }, "dim is 8"},
		{func(c *Config) { c.Methods = nil }, "no methods"},
		{func(c *Config) { c.Methods = []anchor.Planner{anchor.AnchorAttention(anchor.Params{})} }, "Params.Block is 0"},
		{func(c *Config) { c.Runs = 0 }, "runs are 0"},
		{func(c *Config) { c.Threads = []int{-1} }, "threads are -1"},
		{func(c *Config) { c.AuditRows = 0 }, "audited rows are 0"},
	} {
		c := config()
		k.change(&c)
		if _, err := Run(context.Background(), c); err == nil || !strings.Contains(err.Error(), k.want) {
			t.Errorf("%v; want %q", err, k.want)
		}
	}
}

// When the context ends, so does Run, with its error; so too when Result fails.
func TestStop(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	c := config()
	c.Progress = func(share float64) { cancel() }
	if _, err := Run(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("%v; want %v", err, context.Canceled)
	}
	full := errors.New("disk full")
	c = config()
	c.Result = func(Result) error { return full }
	if _, err := Run(context.Background(), c); !errors.Is(err, full) {
		t.Errorf("%v; want %v", err, full)
	}
}

// A clocked engine is this processor, by another clock: of every call it says that it took 42 seconds.
type clocked struct{}

func (clocked) Attend(ctx context.Context, call anchor.Call) (*anchor.Result, error) {
	opt := call.Options
	opt.Engine = nil
	res, err := anchor.Attend(ctx, opt, call.Sequences...)
	if err == nil {
		res.Stages = [anchor.NumStages]float64{anchor.StageWindow: 40, anchor.StageSparse: 2, anchor.StageAudit: 7}
	}
	return res, err
}

// What an engine computes is timed by the engine, and not compared with what this processor could do.
func TestEngine(t *testing.T) {
	cfg := Config{
		Workload: Workloads()[0], Lengths: []int{256}, Heads: 2, KVHeads: 1, Dim: 32, DTypes: []anchor.DType{anchor.BFloat16},
		Methods: []anchor.Planner{anchor.Dense(), anchor.AnchorAttention(anchor.DefaultParams())}, Runs: 2, Threads: []int{1}, AuditRows: 4, Engine: clocked{},
	}
	r, err := Run(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	for _, x := range r.Results {
		if x.Seconds != 42 || x.SecondsMax != 42 || x.OfPeak != 0 || x.RunsKept != 2 || x.Noisy || x.RecallMean < 0.9 || x.SpeedupVsDense != 1 {
			t.Errorf("%s: %+v", x.Method, x)
		}
	}
	var out strings.Builder
	if err := r.Write(&out); err != nil || len(r.FMA) > 0 || strings.Contains(out.String(), "Most seen") {
		t.Errorf("peaks %v, error %v, in %q", r.FMA, err, out.String())
	}
	in, err := WorkloadInput(Workloads()[0], 1, 2, 1, 256, 32, anchor.BFloat16, 0.5)
	if err != nil {
		t.Fatal(err)
	}
	m, _ := anchor.LookupMethod("anchor")
	c, err := Compare(t.Context(), CompareConfig{
		Inputs: []CompareInput{in}, Methods: []anchor.Method{m}, Params: anchor.DefaultParams(), Points: 1, Runs: 1, Rows: 4, Maps: 1, Engine: clocked{},
	})
	if err != nil {
		t.Fatal(err)
	}
	if x := c.Inputs[0]; x.DenseSeconds != 42 || x.Points[0].Seconds != 42 || len(x.Maps) != 1 {
		t.Errorf("dense takes %v, the first point %v, maps: %d", x.DenseSeconds, x.Points[0].Seconds, len(x.Maps))
	}
}
