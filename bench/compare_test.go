package bench

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/report"
)

// compareConfig is a comparison of a second: groups of 128 rows, so that short inputs have candidates.
func compareConfig(t testing.TB, methods ...string) CompareConfig {
	t.Helper()
	p := anchor.DefaultParams()
	p.Block, p.Step, p.Init, p.Local, p.Tail = 32, 4, 16, 16, 16
	c := CompareConfig{Params: p, Threads: 2, Points: 3, Recall: 0.95, Runs: 1, Rows: 8}
	for _, name := range methods {
		m, ok := anchor.LookupMethod(name)
		if !ok {
			t.Fatalf("no method %s", name)
		}
		c.Methods = append(c.Methods, m)
	}
	in, err := WorkloadInput("mixture", 1, 4, 2, 1000, 32, anchor.Float32, 0.5)
	if err != nil {
		t.Fatal(err)
	}
	c.Inputs = []CompareInput{in}
	return c
}

// Every point agrees with the operator's own account and audit, goals are met where it is said, curves ascend, and nothing
// is above the row oracle.
func TestCompare(t *testing.T) {
	names := []string{"dense", "anchor", "anchor-guard", "streaming"}
	if !testing.Short() {
		names = append(names, "anchor-heads", "vecattention", "xattention", "oracle")
	}
	c := compareConfig(t, names...)
	var told []report.Point
	c.Point = func(_ *report.Input, p *report.Point) error { told = append(told, *p); return nil }
	var shares []float64
	c.Progress = func(share float64) { shares = append(shares, share) }
	c.Maps = 2
	got, err := Compare(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	in := got.Inputs[0]
	if in.Name != "mixture" || in.Tokens != 1000 || in.Queries != 1000 || in.Heads != 4 || in.KVHeads != 2 || in.Dim != 32 || in.DType != "F32" || !(in.DenseSeconds > 0) {
		t.Errorf("input is %+v", in)
	}
	if !slices.IsSorted(shares) || len(shares) == 0 {
		t.Errorf("progress is %v; want shares ascending", shares)
	}
	if len(told) < len(in.Points) {
		t.Errorf("%d points told; want at least the %d there are", len(told), len(in.Points))
	}
	seq, kind, err := c.Inputs[0].Load()
	if err != nil {
		t.Fatal(err)
	}
	seq.O = anchor.FromFloat32(make([]float32, 4*1000*32), 4, 1000, 32)
	goals := map[string]int{}
	for i, p := range in.Points {
		if p.Goal.Kind != "" {
			goals[p.Method]++
			ok := p.Recall.Mean >= p.Goal.Target
			if p.Goal.Kind == "density" {
				ok = p.Density <= p.Goal.Target
			}
			if ok != p.Goal.Met {
				t.Errorf("%s at %s = %v: goal %+v at density %g, recall %g", p.Method, p.Knob, p.Value, p.Goal, p.Density, p.Recall.Mean)
			}
		} else if i > 0 && in.Points[i-1].Method == p.Method && in.Points[i-1].Density > p.Density {
			t.Errorf("%s: density %g after %g", p.Method, p.Density, in.Points[i-1].Density)
		}
		m, _ := anchor.LookupMethod(p.Method)
		opt := anchor.Options{}
		if err := m.Set(t.Context(), &opt, c.Params, float64(p.Value), seq); err != nil {
			t.Fatal(err)
		}
		opt.AuditRows = in.Queries
		if p.Method == "anchor-guard" {
			opt.AuditRows = 32
		}
		res, err := anchor.Attend(t.Context(), opt, seq)
		if err != nil {
			t.Fatal(err)
		}
		if p.Density != res.Density() || p.Stripes != res.Stripes || p.FLOPs != res.FLOPs {
			t.Errorf("%s at %v: density %g, %d stripes; want %g, %d", p.Method, p.Value, p.Density, p.Stripes, res.Density(), res.Stripes)
		}
		if r := res.Recall; opt.AuditRows == in.Queries && (math.Abs(p.Recall.Mean-r.Mean) > 1e-5 || math.Abs(p.Recall.Min-r.Min) > 1e-4) {
			t.Errorf("%s at %v: recall %+v; its audit says %+v", p.Method, p.Value, p.Recall, r)
		}
		pairs := 0.0
		for h, head := range p.HeadPoints {
			pairs += head.Density / float64(in.Heads)
			if head.Head != h || head.Kind != kind(h) || head.Recall.Min > head.Recall.Mean {
				t.Errorf("%s: head %d is %+v", p.Method, h, head)
			}
		}
		if math.Abs(pairs-p.Density) > 1e-9 {
			t.Errorf("%s: heads have density %g, all have %g", p.Method, pairs, p.Density)
		}
		if p.Method == "dense" && (p.Density != 1 || p.Recall.Min != 1 || p.OutputError.Max != 0 || p.LSEError.Max != 0) {
			t.Errorf("dense is %+v", p)
		}
		for _, b := range in.RowOracle {
			// Bounds are estimated from few rows, hence the factor.
			if p.Recall.P5 > b.Mass && p.Density < 0.2*b.Density {
				t.Errorf("%s: recall %g at density %g, where the oracle needs %g for %g", p.Method, p.Recall.P5, p.Density, b.Density, b.Mass)
			}
		}
	}
	for _, m := range c.Methods {
		want := 2
		if m.Name == "dense" {
			want = 1
		}
		if goals[m.Name] != want {
			t.Errorf("%s has %d goals; want %d", m.Name, goals[m.Name], want)
		}
	}
	if len(in.Maps) != 2 {
		t.Fatalf("%d maps; want 2", len(in.Maps))
	}
	for _, m := range in.Maps {
		for r := range m.Size {
			sum := 0.0
			for _, x := range m.Mass[r*m.Size:][:m.Size] {
				sum += x
			}
			if math.Abs(sum-1) > 1e-6 {
				t.Errorf("map of head %d: row %d has mass %g; want 1", m.Head, r, sum)
			}
		}
		if len(m.Kept) != len(c.Methods) {
			t.Errorf("map of head %d shows %d methods; want %d", m.Head, len(m.Kept), len(c.Methods))
		}
		for _, k := range m.Kept {
			for i, x := range k.Share {
				want := 1.0
				if i%m.Size > i/m.Size {
					want = 0
				}
				if x < 0 || x > want || k.Method == "dense" && x != want {
					t.Errorf("map of head %d: %s kept %g of cell (%d, %d); want at most %g, all if dense", m.Head, k.Method, x, i/m.Size, i%m.Size, want)
				}
			}
		}
	}
}

// countPairs counts what counting pair by pair does.
func TestCountPairs(t *testing.T) {
	const n, cell = 50, 7
	size := (n + cell - 1) / cell
	r := rand.New(rand.NewPCG(1, 2))
	for range 50 {
		from := r.IntN(n)
		trace := anchor.Trace{Rows: anchor.Span{From: from, To: from + 1 + r.IntN(n-from)}}
		a := r.IntN(n)
		trace.Keys.Spans = []anchor.Span{{From: a, To: a + r.IntN(n-a+1)}}
		near := r.IntN(20)
		trace.Keys.Bands = []anchor.Band{{Near: near, Far: near + r.IntN(20), From: r.IntN(20)}}
		for j := range from {
			if r.IntN(3) == 0 {
				trace.Keys.Stripes = append(trace.Keys.Stripes, int32(j))
			}
		}
		got, want := make([]float64, size*size), make([]float64, size*size)
		countPairs(got, trace, cell, size)
		for row := trace.Rows.From; row < trace.Rows.To; row++ {
			for j := range row + 1 {
				b := trace.Keys.Bands[0]
				if s := trace.Keys.Spans[0]; j >= s.From && j < s.To {
					want[row/cell*size+j/cell]++
				}
				if row-j >= b.Near && row-j <= b.Far && j >= b.From {
					want[row/cell*size+j/cell]++
				}
				if slices.Contains(trace.Keys.Stripes, int32(j)) {
					want[row/cell*size+j/cell]++
				}
			}
		}
		if !slices.Equal(got, want) {
			t.Fatalf("%+v: %v; want %v", trace, got, want)
		}
	}
}

// An interrupted comparison keeps what is finished.
func TestCompareInterrupted(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	c := compareConfig(t, "anchor", "vecattention")
	c.Point = func(_ *report.Input, p *report.Point) error {
		if p.Method == "vecattention" {
			cancel()
		}
		return nil
	}
	got, err := Compare(ctx, c)
	if !errors.Is(err, context.Canceled) || len(got.Inputs) != 1 || len(got.Inputs[0].Points) == 0 || got.Inputs[0].Points[0].Method != "anchor" {
		t.Errorf("got %+v, %v; want anchor's points and %v", got, err, context.Canceled)
	}
	failed := errors.New("disk is full")
	c.Point = func(*report.Input, *report.Point) error { return failed }
	if _, err := Compare(t.Context(), c); !errors.Is(err, failed) {
		t.Errorf("error is %v; want Point's", err)
	}
}

func TestCompareValidate(t *testing.T) {
	for _, k := range []struct {
		change func(c *CompareConfig)
		want   string
	}{
		{func(c *CompareConfig) { c.Inputs = nil }, "no inputs"},
		{func(c *CompareConfig) { c.Methods = nil }, "no methods"},
		{func(c *CompareConfig) { c.Threads = -1 }, "threads are -1"},
		{func(c *CompareConfig) { c.Points = 0 }, "points are 0"},
		{func(c *CompareConfig) { c.Runs = 0 }, "runs are 0"},
		{func(c *CompareConfig) { c.Rows = 0 }, "rows are 0"},
		{func(c *CompareConfig) { c.Maps = -1 }, "maps are -1"},
		{func(c *CompareConfig) { c.Recall = 1.5 }, "recall to reach is 1.5"},
		{func(c *CompareConfig) { c.Recall = math.NaN() }, "recall to reach is NaN"},
		{func(c *CompareConfig) { c.Inputs[0].Density = -1 }, "density to stay within is -1"},
		{func(c *CompareConfig) { c.Params.Block = 0 }, "Params.Block is 0"},
	} {
		c := compareConfig(t, "anchor")
		k.change(&c)
		if _, err := Compare(t.Context(), c); err == nil || !strings.Contains(err.Error(), k.want) {
			t.Errorf("error is %v; want one with %q", err, k.want)
		}
	}
	for _, k := range []struct{ name, want string }{{"mess", `workload is "mess"`}} {
		if _, err := WorkloadInput(k.name, 1, 4, 2, 100, 32, anchor.Float32, 0); err == nil || !strings.Contains(err.Error(), k.want) {
			t.Errorf("error is %v; want one with %q", err, k.want)
		}
	}
	if _, err := WorkloadInput("mixture", 1, 4, 3, 100, 32, anchor.Float32, 0); err == nil {
		t.Error("4 heads over 3 KV heads: no error")
	}
}
