package anchor

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/anchorattention/anchor/internal/kernel"
)

// relative returns ‖got − want‖ / ‖want‖.
func relative(got []float32, want []float64) float64 {
	var diff, size float64
	for i, w := range want {
		d := float64(got[i]) - w
		diff += d * d
		size += w * w
	}
	return math.Sqrt(diff / size)
}

// With bfloat16 inputs the operator stays within 1e-2 of float64 at every level, with stripes that are right but for
// those near the threshold; where weights are not rounded it stays within single precision. Negative, tiny and zero
// scales are as good as others.
func TestBFloat16(t *testing.T) {
	r := rand.New(rand.NewPCG(31, 1))
	scale := func(x float32) *float32 { return &x }
	forLevels(t, func(t *testing.T, set *kernel.Set) {
		for _, c := range []struct {
			heads, kvHeads, nq, nk, dim int
			scale                       *float32
		}{
			{2, 1, 129, 129, 64, nil}, {4, 2, 57, 140, 80, nil}, {2, 1, 200, 233, 96, scale(-0.1)}, {8, 2, 200, 200, 128, nil},
			{1, 1, 1, 300, 128, nil}, {3, 1, 130, 131, 192, nil}, {2, 2, 127, 257, 256, nil}, {2, 1, 90, 200, 7, nil}, {2, 1, 90, 200, 1, nil},
			{2, 1, 40, 170, 16, scale(0)}, {2, 1, 40, 170, 16, scale(1e-40)},
		} {
			for _, planner := range []Planner{Dense(), AnchorAttention(small(4))} {
				name := fmt.Sprintf("%+v, %s", c, planner.Name())
				p := newProblem(r, c.heads, c.kvHeads, c.nq, c.nk, c.dim)
				for _, x := range [][]float32{p.q, p.k, p.v} {
					for i := range x {
						x[i] = math.Float32frombits(math.Float32bits(x[i]) &^ 0xffff)
					}
				}
				p.scale = c.scale
				opt := Options{Planner: planner, Scale: c.scale, Stripes: true, AuditRows: 50}
				o, lse, res := mustAttend(t, set, opt, p.as(BFloat16))
				var params *Params
				var lists [][]int32
				if a, ok := planner.(*anchorAttention); ok {
					params, lists = &a.Params, res.StripeSets[0].split()
					ref := p.solve(params, nil)
					for i := range lists {
						if g, w := without(lists[i], ref.near[i]), without(ref.stripes[i], ref.near[i]); !slices.Equal(g, w) {
							t.Fatalf("%s: stripes %d are %v; want %v", name, i, g, w)
						}
					}
				}
				want := p.solve(params, lists)
				tolerance := 1e-5
				if set.Pairs() {
					tolerance = 1e-2
				}
				if d := relative(o[0], want.o); !(d <= tolerance) {
					t.Errorf("%s: o differs by %g of its size", name, d)
				}
				if d := differ(lse[0], want.lse); d > 5e-5 {
					t.Errorf("%s: lse differs by %g", name, d)
				}
				if res.Pairs != want.pairs {
					t.Errorf("%s: %d pairs; want %d", name, res.Pairs, want.pairs)
				}
				for _, a := range res.Audit {
					if w := want.recall[a.Head*c.nq+a.Position-(c.nk-c.nq)]; math.Abs(a.Recall-w) > 1e-4 {
						t.Errorf("%s: recall of head %d, position %d is %v; want %v", name, a.Head, a.Position, a.Recall, w)
					}
				}
			}
		}
	})
}
