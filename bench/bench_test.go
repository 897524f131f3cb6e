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
		Runs:    2, Threads: 2, AuditRows: 16,
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
	if len(report.Peak) != 2 || !(report.Peak[1] > 0) || !(report.Peak[2] > 0) {
		t.Errorf("peak is %v; want those of 1 and 2 threads", report.Peak)
	}
	if !slices.IsSorted(shares) || len(shares) == 0 || shares[len(shares)-1] != 1 {
		t.Errorf("progress is %v; want shares ascending to 1", shares)
	}

	line, err := json.Marshal(report.Results[0])
	if err != nil {
		t.Fatal(err)
	}
	for _, field := range strings.Fields("method isa dtype workload n heads kv_heads dim threads runs seconds_median gflops executed_gflops density recall_mean recall_min speedup_vs_dense stage_seconds") {
		if !strings.Contains(string(line), `"`+field+`":`) {
			t.Errorf("%s has no field %s", line, field)
		}
	}
	var table strings.Builder
	if err := report.Write(&table); err != nil {
		t.Fatal(err)
	}
	if lines := strings.Split(table.String(), "\n"); len(lines) != 10 {
		t.Errorf("table has %d lines; want 10:\n%s", len(lines), table.String())
	}
}

// The peak is measured on powers of two and on all threads asked for.
func TestPeakThreads(t *testing.T) {
	for threads, want := range map[int][]int{1: {1}, 2: {1, 2}, 6: {1, 2, 4, 6}} {
		p := make(Peak)
		if err := p.measure(context.Background(), threads); err != nil {
			t.Fatal(err)
		}
		if got := slices.Sorted(maps.Keys(p)); !slices.Equal(got, want) {
			t.Errorf("%d threads: measured on %v; want %v", threads, got, want)
		}
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
		{func(c *Config) { c.Threads = -1 }, "threads are -1"},
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
