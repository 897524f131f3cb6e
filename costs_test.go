package anchor

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/anchorattention/anchor/internal/kernel"
)

// walks are costs under which every key is gathered, and under which every block with a stripe is attended to as it
// lies.
var walks = []*Costs{{0, 0}, {1e9, 1e9}}

// However keys are walked, they are the same keys: outputs, stripes and pairs are those of the definition, and what a
// row does not see cannot spoil it.
func TestWalks(t *testing.T) {
	r := rand.New(rand.NewPCG(41, 1))
	par := small(1.6)
	par.Tail = 9
	forLevels(t, func(t *testing.T, set *kernel.Set) {
		for _, dtype := range inputs(set) {
			for _, dim := range []int{16, 72} {
				p := newProblem(r, 4, 2, 450, 700, dim)
				for i, x := range p.k { // numbers that bfloat16 holds
					p.k[i] = math.Float32frombits(math.Float32bits(x) &^ 0xffff)
				}
				for i, x := range p.q {
					p.q[i] = math.Float32frombits(math.Float32bits(x) &^ 0xffff)
				}
				var first *Result
				for i, costs := range walks {
					opt := Options{Planner: AnchorAttention(par), Stripes: true, Costs: costs}
					o, lse, res := mustAttend(t, set, opt, p.as(dtype))
					lists := res.StripeSets[0].split()
					want := p.solve(&par, lists)
					tolerance := 2e-5
					if dtype == BFloat16 {
						tolerance = 0.05
					}
					if d := differ(o[0], want.O); d > tolerance {
						t.Errorf("walk %d, %v, dim %d: o differs by %g", i, dtype, dim, d)
					}
					if d := differ(lse[0], want.LSE); d > 2e-5 {
						t.Errorf("walk %d, %v, dim %d: lse differs by %g", i, dtype, dim, d)
					}
					if first == nil {
						first = res
					}
					if res.Pairs != first.Pairs || !slices.Equal(res.StripeSets[0].Indices, first.StripeSets[0].Indices) {
						t.Errorf("walk %d, %v, dim %d: %d pairs and %d stripes; want %d and %d", i, dtype, dim, res.Pairs, res.Stripes, first.Pairs, first.Stripes)
					}
					if gathers := res.Stages[StageGather] > 0; gathers != (i == 0) {
						t.Errorf("walk %d, %v, dim %d: gathers: %v", i, dtype, dim, gathers)
					}

					// A value that no row of a group sees.
					const group, h = 12, 1
					list, key := lists[h*len(lists)/4+group-6], int32(par.Init)
					for slices.Contains(list, key) {
						key++
					}
					if key >= group*40-int32(par.Local) {
						t.Fatalf("walk %d, %v, dim %d: every key is a stripe; nothing to test", i, dtype, dim)
					}
					spoiled := *p
					spoiled.v = slices.Clone(p.v)
					for d := range dim {
						spoiled.v[int(key)*dim+d] = float32(math.NaN())
					}
					so, _, _ := mustAttend(t, set, opt, spoiled.as(dtype))
					from, to := (h*450+group*40-250)*dim, (h*450+group*40-250+40)*dim
					if !slices.Equal(bitsOf(so[0][from:to]), bitsOf(o[0][from:to])) {
						t.Errorf("walk %d, %v, dim %d: the value of key %d, which no row of group %d sees, changes it", i, dtype, dim, key, group)
					}
				}
			}
		}
	})
}

// Auto equals AnchorAttention where stripes are few and dense attention where they are not, head by head, and says so.
func TestAuto(t *testing.T) {
	forLevels(t, func(t *testing.T, set *kernel.Set) {
		for _, dtype := range inputs(set) {
			// The same problem at every level, so that it is not another one on other machines.
			p := newProblem(rand.New(rand.NewPCG(42, 1)), 4, 2, 333, 500, 16)
			for i := range p.q { // the odd heads are flat: they keep every key
				if i/(333*16)%2 == 1 {
					p.q[i] /= 256
				}
			}
			par, costs := small(1), Costs{32, 128}
			do, dl, dense := mustAttend(t, set, Options{Planner: Dense()}, p.as(dtype))
			ao, al, anchor := mustAttend(t, set, Options{Planner: AnchorAttention(par)}, p.as(dtype))
			o, l, res := mustAttend(t, set, Options{Planner: Auto(par), Costs: &costs}, p.as(dtype))
			if res.Method != "auto" {
				t.Errorf("method is %q", res.Method)
			}
			n := 333 * 16
			for h := range 4 {
				head := res.Heads[h]
				want, wl, pairs := ao, al, anchor.Heads[h].Pairs
				if h%2 == 1 {
					want, wl, pairs = do, dl, dense.Heads[h].Pairs
					if head.DenseGroups != head.Groups || head.Groups == 0 || head.Stripes != 0 {
						t.Errorf("%v: head %d went dense in %d of %d groups, with %d stripes; want all", dtype, h, head.DenseGroups, head.Groups, head.Stripes)
					}
				} else if head.DenseGroups != 0 {
					t.Errorf("%v: head %d went dense in %d of %d groups; want none", dtype, h, head.DenseGroups, head.Groups)
				}
				if head.Pairs != pairs {
					t.Errorf("%v: head %d attends to %d pairs; want %d", dtype, h, head.Pairs, pairs)
				}
				tolerance := 5e-6
				if dtype == BFloat16 {
					tolerance = 1e-2
				}
				if d := maxDiff(o[0][h*n:(h+1)*n], want[0][h*n:(h+1)*n]); d > tolerance {
					t.Errorf("%v: head %d differs by %g", dtype, h, d)
				}
				if d := maxDiff(l[0][h*333:(h+1)*333], wl[0][h*333:(h+1)*333]); d > 1e-5 {
					t.Errorf("%v: lse of head %d differs by %g", dtype, h, d)
				}
			}
			if share := res.DenseShare(); share != 0.5 {
				t.Errorf("%v: dense share is %v; want 0.5", dtype, share)
			}

			// With nothing to leave out in any head, a sample is all the search there is.
			clear(p.q)
			_, _, res = mustAttend(t, set, Options{Planner: Auto(par), Costs: &costs}, p.as(dtype))
			_, _, full := mustAttend(t, set, Options{Planner: AnchorAttention(par)}, p.as(dtype))
			if res.DenseShare() != 1 || res.Density() != 1 || res.SearchPairs >= full.SearchPairs {
				t.Errorf("%v: of flat heads, %v of the groups are dense, with %d pairs searched of %d", dtype, res.DenseShare(), res.SearchPairs, full.SearchPairs)
			}
		}
	})
}

func TestCosts(t *testing.T) {
	for _, k := range []struct{ in, want string }{
		{`{"gather_rows": 5}`, ""},
		{`{"gather_rows": -1}`, "Costs.GatherRows is -1"},
		{`{"gather_rows_pairs": 1e999}`, "1e999"},
		{`{"gather": 1}`, `"gather"`},
		{`[]`, "Costs"},
	} {
		c := DefaultCosts()
		err := json.Unmarshal([]byte(k.in), &c)
		switch {
		case k.want == "" && (err != nil || c != Costs{5, DefaultCosts().GatherRowsPairs}):
			t.Errorf("%s: %+v, %v", k.in, c, err)
		case k.want != "" && (err == nil || !strings.Contains(err.Error(), k.want) || c != DefaultCosts()):
			t.Errorf("%s: %+v, %v; want %q", k.in, c, err, k.want)
		}
	}
	s := newProblem(rand.New(rand.NewPCG(1, 1)), 1, 1, 4, 4, 4).sequence()
	_, err := Attend(t.Context(), Options{Planner: Dense(), Costs: &Costs{GatherRows: math.NaN()}}, s)
	if err == nil || !strings.Contains(err.Error(), "Options.Costs.GatherRows is NaN") {
		t.Errorf("%v; want one that names Options.Costs.GatherRows", err)
	}
}
