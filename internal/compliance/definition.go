package compliance

import (
	"encoding/json"
	"fmt"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/reference"
	"github.com/anchorattention/anchor/internal/safetensors"
)

// small are parameters whose groups fit short test prompts: 40 positions each.
func small(theta float64) anchor.Params {
	return anchor.Params{Block: 8, Step: 5, Init: 3, Local: 8, Theta: theta, Tail: 4}
}

// planner returns that of parameters, dense attention without.
func planner(params *anchor.Params) anchor.Planner {
	if params == nil {
		return anchor.Dense()
	}
	return anchor.AnchorAttention(*params)
}

// plain returns parameters as the reference has them.
func plain(p *anchor.Params) *reference.Params {
	if p == nil {
		return nil
	}
	return &reference.Params{Block: p.Block, Step: p.Step, Init: p.Init, Local: p.Local, Tail: p.Tail, Theta: p.Theta}
}

// tolerance returns how far outputs may be off: by element, or by norm where weights are rounded; and log-sum-exps.
func (s *suite) tolerance(dim int) (o, lse float64) {
	switch {
	case s.typ.Rounding > 0:
		return 1e-2, s.typ.LSE
	case dim > 128:
		return 5e-5, 5e-5
	}
	return 2e-5, s.typ.LSE
}

// close checks outputs against the answer.
func (s *suite) close(t *testing.T, x output, dim int, o, lse []float64) {
	t.Helper()
	d := apart(x.o, o)
	if s.typ.Rounding > 0 {
		d = relative(x.o, o)
	}
	tolerance, lseTolerance := s.tolerance(dim)
	if d > tolerance {
		t.Errorf("o differs by %.3g; want at most %g", d, tolerance)
	}
	if d := apart(x.lse, lse); d > lseTolerance {
		t.Errorf("lse differs by %.3g; want at most %g", d, lseTolerance)
	}
}

// stripes checks lists of stripes against those of the definition, but for keys near θ.
func stripes(t *testing.T, got, want, near [][]int32) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%d lists of stripes; want %d", len(got), len(want))
	}
	for i := range got {
		if !slices.IsSortedFunc(got[i], func(a, b int32) int { return int(a) - int(b) }) || len(slices.Compact(slices.Clone(got[i]))) != len(got[i]) {
			t.Errorf("stripes %d do not ascend: %v", i, got[i])
		}
		if g, w := without(got[i], near[i]), without(want[i], near[i]); !slices.Equal(g, w) {
			t.Errorf("stripes %d are %v; want %v", i, g, w)
		}
	}
}

// defined checks all that a call says of a problem against the definition, and returns how many candidates there are and how
// many of them are stripes.
func (s *suite) defined(t *testing.T, p *problem, params *anchor.Params) (kept, candidates int64) {
	t.Helper()
	outputs, res := s.attend(t, anchor.Options{Planner: planner(params), Stripes: true, AuditRows: p.Queries}, p)
	var found [][]int32
	search := &reference.Search{}
	if params != nil {
		found = lists(res.StripeSets[0])
		search = p.Search(*plain(params), s.typ.Near)
		stripes(t, found, search.Stripes, search.Near)
	}
	want := p.Attend(plain(params), found)
	s.close(t, outputs[0], p.Dim, want.O, want.LSE)
	if n := int64(p.Heads) * int64(p.Queries) * int64(p.First()+p.Keys+1) / 2; res.Pairs != want.Pairs || res.CausalPairs != n || res.SearchPairs != search.Pairs {
		t.Errorf("pairs: %d of %d, %d searched; want %d of %d, %d", res.Pairs, res.CausalPairs, res.SearchPairs, want.Pairs, n, search.Pairs)
	}
	if flops := float64(p.Dim) * (4*float64(want.Pairs) + 2*float64(search.Pairs)); res.FLOPs != flops {
		t.Errorf("%g FLOPs; want %g", res.FLOPs, flops)
	}
	if res.NonFiniteRows != 0 {
		t.Errorf("%d rows not finite", res.NonFiniteRows)
	}
	for i, list := range found {
		kept += int64(len(list))
		if h := i * p.Heads / len(found); res.Heads[h].Groups != int64(search.Groups) || res.Heads[h].DenseGroups != 0 {
			t.Errorf("head %d: %d of %d groups are dense; want 0 of %d", h, res.Heads[h].DenseGroups, res.Heads[h].Groups, search.Groups)
		}
	}
	if res.Stripes != kept {
		t.Errorf("%d stripes are counted and %d listed", res.Stripes, kept)
	}
	tolerance := 1e-5
	if s.typ.Rounding > 0 {
		tolerance = 2 * s.typ.LSE
	}
	for _, a := range res.Audit {
		if w := want.Recall[a.Head*p.Queries+a.Position-p.First()]; !(math.Abs(a.Recall-w) <= tolerance) {
			t.Errorf("recall of head %d, position %d is %v; want %v", a.Head, a.Position, a.Recall, w)
		}
	}
	if len(res.Audit) != p.Heads*p.Queries {
		t.Errorf("%d rows audited; want all %d", len(res.Audit), p.Heads*p.Queries)
	}
	return kept, search.Candidates
}

// The golden cases were computed in float64 by an independent implementation. Rounded to 16 bits they are as good as others.
func (s *suite) golden(t *testing.T) {
	files, err := filepath.Glob(filepath.Join(s.Golden, "*.safetensors"))
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files in %s: %v", s.Golden, err)
	}
	for _, file := range files {
		t.Run(strings.TrimSuffix(filepath.Base(file), ".safetensors"), func(t *testing.T) {
			f, err := safetensors.Open(file)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			var params anchor.Params
			var density, mean, least float64
			for key, to := range map[string]any{"params": &params, "density": &density, "recall_mean": &mean, "recall_min": &least} {
				if err := json.Unmarshal([]byte(f.Metadata()[key]), to); err != nil {
					t.Fatalf("%s: %v", key, err)
				}
			}
			numbers := func(name string) []float32 {
				x, err := f.Float32s(name)
				if err != nil {
					t.Fatal(err)
				}
				return x
			}
			q, _ := f.Info("q")
			k, _ := f.Info("k")
			p := &problem{dtype: s.typ.DType, Problem: reference.Problem{
				Heads: q.Shape[0], Queries: q.Shape[1], Dim: q.Shape[2], KVHeads: k.Shape[0], Keys: k.Shape[1],
				Q: numbers("q"), K: numbers("k"), V: numbers("v"),
			}}
			p = p.copy().round()               // the file is mapped to be read
			if s.typ.DType != anchor.Float32 { // rounded, it is another case
				s.defined(t, p, &params)
				return
			}
			set := func(name string) [][]int32 {
				offsets, err := f.Int64s(name + "_offsets")
				if err != nil {
					t.Fatal(err)
				}
				indices, err := f.Int32s(name + "_indices")
				if err != nil {
					t.Fatal(err)
				}
				return lists(anchor.StripeSet{Offsets: offsets, Indices: indices})
			}
			outputs, res := s.attend(t, anchor.Options{Planner: planner(&params), Stripes: true, AuditRows: p.Queries}, p)
			s.close(t, outputs[0], p.Dim, double(numbers("o")), double(numbers("lse")))
			stripes(t, lists(res.StripeSets[0]), set("stripe"), set("near"))
			for _, c := range []struct {
				name      string
				got, want float64
			}{{"density", res.Density(), density}, {"mean recall", res.Recall.Mean, mean}, {"least recall", res.Recall.Min, least}} {
				if math.Abs(c.got-c.want) > 1e-5 {
					t.Errorf("%s is %v; want %v", c.name, c.got, c.want)
				}
			}
		})
	}
}

// A shape is one of a problem, with the parameters and the scale of a call.
type shape struct {
	heads, kvHeads, queries, keys, prompt int
	params                                *anchor.Params
	scale                                 *float32
}

// shapes returns shapes around all borders: of blocks, groups, chunks and tails.
func (s *suite) shapes() []shape {
	number := func(x float32) *float32 { return &x }
	theta := func(least float64) float64 { return least + s.r.Float64() }
	var all []shape
	for _, n := range []int{1, 7, 8, 39, 40, 41, 127, 128, 129, 200} {
		p, q := small(theta(1)), small(theta(0.8))
		p.Init, q.Init, q.Tail, q.Local = 0, 0, 0, 0
		all = append(all, shape{4, 2, n, n, 0, &p, nil}, shape{3, 3, n, n + 33, 0, &q, nil}, shape{6, 1, n, n + 80, 0, nil, nil})
	}
	for _, limit := range []float64{math.Inf(1), math.Inf(-1)} {
		p, q := small(limit), small(limit)
		q.Init, q.Local, q.Tail = 0, 0, 0
		all = append(all, shape{4, 2, 129, 150, 0, &p, nil}, shape{2, 2, 127, 127, 0, &q, nil})
	}
	for _, prompt := range []int{100, 131, 140, 170, 300} { // tails before, across and beyond the call
		p := small(theta(0.8))
		p.Tail = 23
		all = append(all, shape{4, 2, 57, 140, prompt, &p, nil})
	}
	for _, p := range []anchor.Params{
		{Block: 1, Step: 1, Init: 0, Local: 0, Theta: 2, Tail: 0}, {Block: 1, Step: 40, Init: 5, Local: 1, Theta: 1, Tail: 1},
		{Block: 33, Step: 1, Init: 3, Local: 100, Theta: 2.5, Tail: 0}, {Block: 16, Step: 17, Init: 1000, Local: 0, Theta: 1, Tail: 0},
		{Block: 8, Step: 5, Init: 0, Local: 1 << 29, Theta: 1, Tail: 0}, {Block: 8, Step: 5, Init: 0, Local: 0, Theta: -1, Tail: 1 << 29},
		{Block: 64, Step: 1, Init: 0, Local: 0, Theta: 2, Tail: 3}, {Block: 2, Step: 45, Init: 1, Local: 1, Theta: 1, Tail: 1},
		{Block: 8, Step: 16, Init: 10, Local: 0, Theta: 1.5, Tail: 0},
	} {
		all = append(all, shape{2, 1, 150, 163, 0, &p, nil}, shape{5, 1, 101, 311, 0, &p, nil})
	}
	for _, scale := range []*float32{number(-0.1), number(0), number(1e-40), number(0.3)} {
		p := small(theta(1))
		all = append(all, shape{2, 1, 140, 203, 0, &p, scale}, shape{3, 1, 100, 211, 0, nil, scale})
	}
	p := anchor.Params{Block: 32, Step: 4, Init: 10, Local: 0, Theta: theta(2), Tail: 100}
	all = append(all, shape{1, 1, 1, 300, 0, nil, nil}, shape{8, 2, 2, 500, 0, nil, nil}, shape{4, 2, 129, 700, 0, nil, nil}, shape{4, 2, 377, 600, 0, &p, nil})
	if !s.Slow && !testing.Short() {
		p, q := anchor.DefaultParams(), anchor.DefaultParams()
		p.Theta, q.Theta, q.Block, q.Step = 2.65+s.r.Float64()/4, 2.65+s.r.Float64()/4, 100, 9
		all = append(all, shape{2, 1, 400, 4300, 0, &p, nil}, shape{2, 1, 150, 9000, 0, &p, nil}, shape{2, 1, 1900, 1900, 0, &q, nil})
	}
	return all
}

// dims returns sizes of heads for the i-th of some cases.
func (s *suite) dims(i int) []int {
	others := []int{1, 128, 72, 256, 17, 96, 200, 64, 112, 192, 80, 7}
	dim := others[i%len(others)]
	return append([]int{dim}, slices.DeleteFunc(slices.Clone(s.Dims), func(d int) bool { return d == dim })...)
}

// The operator equals the definition: output, log-sum-exp, stripes, pairs, recall.
func (s *suite) definition(t *testing.T) {
	var kept, candidates int64
	turn := s.r.IntN(1000)
	for i, c := range s.shapes() {
		for _, dim := range s.dims(turn + i) {
			if c.heads*c.queries*dim < 64 { // so few numbers have no norm to speak of
				dim = 64
			}
			if testing.Short() && c.keys*dim > 1<<14 {
				dim = 16
			}
			t.Run(fmt.Sprintf("%d/%d", i, dim), func(t *testing.T) {
				p := s.problem(c.heads, c.kvHeads, c.queries, c.keys, dim)
				p.Prompt, p.Scale = c.prompt, c.scale
				some, of := s.defined(t, p, c.params)
				kept, candidates = kept+some, candidates+of
				if t.Failed() {
					t.Logf("%d heads, %d of keys; %d queries, %d keys; prompt %d", c.heads, c.kvHeads, c.queries, c.keys, c.prompt)
					t.Logf("params %+v, scale %g", c.params, p.Factor())
				}
			})
		}
	}
	if kept*20 < candidates || kept*20 > 19*candidates {
		t.Errorf("%d of %d candidates are stripes; want some kept and some dropped", kept, candidates)
	}
}

// Large logits, far beyond what exponentials can hold, are exact.
func (s *suite) largeLogits(t *testing.T) {
	p := s.problem(1, 1, 150, 150, 16)
	for i := range p.Q {
		p.Q[i] *= 100
	}
	p.round()
	want := p.Attend(nil, nil)
	x, _ := s.attendOne(t, anchor.Dense(), p)
	d, tolerance := apart(x.o, want.O), 1e-3
	if s.typ.Rounding > 0 {
		d, tolerance = relative(x.o, want.O), 1e-2
	}
	if d > tolerance {
		t.Errorf("o differs by %.3g; want at most %g", d, tolerance)
	}
	for i, w := range want.LSE {
		if d := math.Abs(float64(x.lse[i]) - w); !(d <= s.typ.LSE+3e-6*math.Abs(w)) {
			t.Errorf("lse of row %d differs by %.3g from %g", i, d, w)
		}
	}
}
