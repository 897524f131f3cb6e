package anchor

import (
	"math"
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/anchorattention/anchor/internal/kernel"
)

// planned is a planner made of functions.
type planned struct {
	cut  func(s Shape) []Rows
	plan func(g *Group)
}

func (planned) Name() string         { return "planned" }
func (planned) Validate() error      { return nil }
func (p planned) Cut(s Shape) []Rows { return p.cut(s) }
func (p planned) Plan(g *Group)      { p.plan(g) }
func whole(perHead bool) func(Shape) []Rows {
	return func(s Shape) []Rows { return []Rows{{s.First(), s.Keys, perHead}} }
}

// solveKeys computes attention to the keys that a row of a head sees, plainly.
func (p *problem) solveKeys(sees func(head, pos, key int) bool) (o []float64, pairs int64) {
	o = make([]float64, p.heads*p.nq*p.dim)
	for h := range p.heads {
		for row := range p.nq {
			pos := p.nk - p.nq + row
			out := o[(h*p.nq+row)*p.dim:][:p.dim]
			var sum float64
			for j := range pos + 1 {
				if !sees(h, pos, j) {
					continue
				}
				pairs++
				w := math.Exp(p.logit(h, row, j))
				sum += w
				for d, v := range p.v[(h*p.kvHeads/p.heads*p.nk+j)*p.dim:][:p.dim] {
					out[d] += w * float64(v)
				}
			}
			for d := range out {
				out[d] /= sum
			}
		}
	}
	return o, pairs
}

// Spans, bands and stripes are what they say, for all heads or one, and an infinite value spoils none but the rows
// that see it.
func TestKeys(t *testing.T) {
	for _, c := range []struct {
		name string
		cut  func(s Shape) []Rows
		plan func(g *Group)
		sees func(h, pos, j int) bool
	}{
		{"sliding window", Dense().Cut,
			func(g *Group) { g.Attend(StageDense, KeySet{Bands: []Band{{0, 36, 0}}}) },
			func(h, pos, j int) bool { return j >= pos-36 }},
		{"window of one", Dense().Cut,
			func(g *Group) { g.Attend(StageDense, KeySet{Bands: []Band{{0, 0, 0}}}) },
			func(h, pos, j int) bool { return j == pos }},
		{"diagonals", Dense().Cut,
			func(g *Group) {
				g.Attend(StageDense, KeySet{Bands: []Band{{0, 0, 0}, {3, 5, 0}, {100, 131, 0}, {250, 1 << 40, 0}}})
			},
			func(h, pos, j int) bool {
				d := pos - j
				return d == 0 || d >= 3 && d <= 5 || d >= 100 && d <= 131 || d >= 250
			}},
		{"vertical and slash by head", whole(true),
			func(g *Group) {
				for h := range g.NumHeads {
					head := g.FirstHead + h
					g.AttendHead(StageSparse, h, KeySet{Bands: []Band{{0, 10 + head, 0}, {40, 40 + head, 0}}})
				}
			},
			func(h, pos, j int) bool { return pos-j <= 10+h || pos-j >= 40 && pos-j <= 40+h }},
		{"spans and stripes", whole(true),
			func(g *Group) {
				for h := range g.NumHeads {
					g.AttendHead(StageSparse, h, KeySet{Spans: []Span{{20, 40}, {g.From, g.To}}, Stripes: []int32{0, int32(1 + g.FirstHead + h), 50}})
				}
			},
			func(h, pos, j int) bool { return j >= 20 && j < 40 || j >= 120 || j == 0 || j == 1+h || j == 50 }},
	} {
		forLevels(t, func(t *testing.T, set *kernel.Set) {
			for _, dim := range []int{16, 24} {
				p := newProblem(rand.New(rand.NewPCG(1, 9)), 4, 2, 180, 300, dim)
				want, pairs := p.solveKeys(c.sees)
				o, _, res := mustAttend(t, set, Options{Planner: planned{c.cut, c.plan}}, p.sequence())
				if d := differ(o[0], want); d > 2e-5 || res.Pairs != pairs {
					t.Errorf("%s, dim %d: o differs by %g, %d pairs; want %d", c.name, dim, d, res.Pairs, pairs)
				}
				p.v[(p.nk+200)*dim] = float32(math.Inf(1)) // of the second KV head
				spoiled, _, _ := mustAttend(t, set, Options{Planner: planned{c.cut, c.plan}}, p.sequence())
				for i, x := range spoiled[0] {
					h, pos := i/dim/p.nq, i/dim%p.nq+p.nk-p.nq
					if sees := h >= 2 && pos >= 200 && c.sees(h, pos, 200) && i%dim == 0; !sees && math.Float32bits(x) != math.Float32bits(o[0][i]) {
						t.Fatalf("%s: an infinite value changes head %d, position %d", c.name, h, pos)
					}
				}
			}
		})
	}
}

// What breaks the rules of a planner is told: by an error where rows are left out, by a panic where keys are wrong.
func TestPlannerRules(t *testing.T) {
	p := newProblem(rand.New(rand.NewPCG(1, 9)), 2, 1, 30, 60, 8)
	set := kernel.Levels()[0]
	for name, rows := range map[string][]Rows{
		"gap": {{30, 40, false}, {41, 60, false}}, "late": {{31, 60, false}}, "short": {{30, 59, false}}, "empty": {{30, 30, false}, {30, 60, false}},
		"twice": {{30, 60, false}, {30, 60, false}}, "none": nil,
	} {
		planner := planned{func(Shape) []Rows { return rows }, func(g *Group) { g.Attend(StageDense, KeySet{}) }}
		if _, err := attend(t.Context(), set, Options{Planner: planner}, []Sequence{p.sequence()}); err == nil || !strings.Contains(err.Error(), "planned cut rows") {
			t.Errorf("%s: error %v", name, err)
		}
	}
	for name, keys := range map[string]KeySet{
		"span": {Spans: []Span{{-1, 3}}}, "long span": {Spans: []Span{{0, 61}}}, "band": {Bands: []Band{{-1, 3, 0}}}, "inside out": {Bands: []Band{{3, 2, 0}}},
		"stripe": {Stripes: []int32{30}}, "negative": {Stripes: []int32{-1}}, "descending": {Stripes: []int32{3, 3}},
	} {
		planner := planned{whole(false), func(g *Group) { g.Attend(StageDense, keys) }}
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("%s: no panic", name)
				}
			}()
			attend(t.Context(), set, Options{Planner: planner, Threads: 2}, []Sequence{p.sequence()})
		}()
	}
}

// Logits that rise from block to block, far beyond what exponentials can hold, are exact.
func TestRisingLogits(t *testing.T) {
	forLevels(t, func(t *testing.T, set *kernel.Set) {
		for _, slope := range []float64{0.05, 0.3, 0.9, 3} {
			p := newProblem(rand.New(rand.NewPCG(3, 9)), 1, 1, 20, 700, 16)
			for i := range 20 {
				p.q[i*16] = 4
			}
			for j := range 700 {
				p.k[j*16] = float32(float64(j) * slope)
			}
			want := p.solve(nil, nil)
			o, lse, _ := mustAttend(t, set, Options{Planner: Dense()}, p.sequence())
			if d := differ(o[0], want.O); d > 2e-3 {
				t.Errorf("slope %v: o differs by %g", slope, d)
			}
			for i, w := range want.LSE {
				if d := math.Abs(float64(lse[0][i]) - w); d > 1e-6*w {
					t.Errorf("slope %v: lse of row %d differs by %g of %g", slope, i, d, w)
				}
			}
		}
	})
}

// A NaN among a row's logits keeps every key, even beside an infinity, whichever comes first.
func TestNaNBesideInfinity(t *testing.T) {
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	par := Params{Block: 8, Step: 16, Init: 40, Local: 100, Theta: -1000, Tail: 0}
	forLevels(t, func(t *testing.T, set *kernel.Set) {
		for _, c := range []struct {
			infAt, nanAt int
			keeps        bool
		}{{3, 200, true}, {200, 3, true}, {3, 4, true}, {190, 350, true}, {3, -1, false}} {
			p := newProblem(rand.New(rand.NewPCG(4, 9)), 1, 1, 400, 400, 1)
			for i := range p.q {
				p.q[i] = 1
			}
			p.k[c.infAt] = inf
			if c.nanAt >= 0 {
				p.k[c.nanAt] = nan
			}
			_, _, res := mustAttend(t, set, Options{Planner: AnchorAttention(par), Stripes: true}, p.sequence())
			lists := res.StripeSets[0].split()
			group := 2 // positions 256 … 383, window [0, 40) and [156, p], candidates [40, 156)
			want := 0
			if c.keeps {
				want = 156 - 40
			}
			if len(lists[group]) != want {
				t.Errorf("+Inf at %d, NaN at %d: %d stripes; want %d", c.infAt, c.nanAt, len(lists[group]), want)
			}
		}
	})
}
