package anchor

import (
	"encoding/json"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/anchorattention/anchor/internal/kernel"
	"github.com/anchorattention/anchor/internal/safetensors"
)

// forLevels runs f at every level of kernels that this machine has; with the race detector, which levels have no part in,
// at the fastest.
func forLevels(t *testing.T, f func(t *testing.T, set *kernel.Set)) {
	levels := kernel.Levels()
	if raceEnabled {
		levels = levels[len(levels)-1:]
	}
	for _, set := range levels {
		t.Run(set.Name(), func(t *testing.T) { f(t, set) })
	}
}

// mustAttend runs the operator and returns its outputs.
func mustAttend(t *testing.T, set *kernel.Set, opt Options, seqs ...Sequence) (o, lse [][]float32, res *Result) {
	t.Helper()
	res, err := attend(t.Context(), set, opt, seqs)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range seqs {
		o, lse = append(o, s.O.f32[0]), append(lse, s.LSE.f32[0])
	}
	return o, lse, res
}

// differ returns the largest absolute difference; NaN equals NaN alone.
func differ(got []float32, want []float64) float64 {
	worst := 0.0
	for i, w := range want {
		d := math.Abs(float64(got[i]) - w)
		if d != d && !(w != w && got[i] != got[i]) {
			return math.Inf(1)
		}
		worst = max(worst, d)
	}
	return worst
}

// split returns the lists of a set by head · groups + group.
func (s *StripeSet) split() [][]int32 {
	lists := make([][]int32, len(s.Offsets)-1)
	for i := range lists {
		lists[i] = s.Indices[s.Offsets[i]:s.Offsets[i+1]]
	}
	return lists
}

// without returns list less the elements of drop.
func without(list, drop []int32) []int32 {
	return slices.DeleteFunc(slices.Clone(list), func(j int32) bool { return slices.Contains(drop, j) })
}

// The golden cases were computed in float64 by an independent implementation.
func TestGolden(t *testing.T) {
	files, err := filepath.Glob("testdata/golden/*.safetensors")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		name := strings.TrimSuffix(filepath.Base(file), ".safetensors")
		t.Run(name, func(t *testing.T) {
			f := readGolden(t, file)
			q, _ := f.Info("q")
			k, _ := f.Info("k")
			p := &problem{
				heads: q.Shape[0], nq: q.Shape[1], dim: q.Shape[2], kvHeads: k.Shape[0], nk: k.Shape[1],
				q: f.f32(t, "q"), k: f.f32(t, "k"), v: f.f32(t, "v"),
			}
			tolerance := 2e-5
			if p.dim > 128 {
				tolerance = 5e-5
			}
			want, near := f.csr(t, "stripe"), f.csr(t, "near")
			forLevels(t, func(t *testing.T, set *kernel.Set) {
				o, lse, res := mustAttend(t, set, Options{Planner: AnchorAttention(f.params), Stripes: true, AuditRows: p.nq}, p.sequence())
				if d := differ(o[0], f.f64(t, "o")); d > tolerance {
					t.Errorf("o differs by %g; want at most %g", d, tolerance)
				}
				if d := differ(lse[0], f.f64(t, "lse")); d > tolerance {
					t.Errorf("lse differs by %g; want at most %g", d, tolerance)
				}
				got := res.StripeSets[0].split()
				if len(got) != len(want) {
					t.Fatalf("%d lists of stripes; want %d", len(got), len(want))
				}
				for i := range got {
					if g, w := without(got[i], near[i]), without(want[i], near[i]); !slices.Equal(g, w) {
						t.Errorf("stripes %d: got %v, want %v", i, g, w)
					}
				}
				for _, c := range []struct {
					name      string
					got, want float64
				}{{"density", res.Density(), f.density}, {"mean recall", res.Recall.Mean, f.mean}, {"least recall", res.Recall.Min, f.min}} {
					if math.Abs(c.got-c.want) > 1e-5 {
						t.Errorf("%s is %v; want %v", c.name, c.got, c.want)
					}
				}
			})
		})
	}
}

// A golden is one file of testdata/golden.
type golden struct {
	*safetensors.File
	params             Params
	density, mean, min float64
}

func readGolden(t *testing.T, file string) *golden {
	t.Helper()
	f, err := safetensors.Open(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	g := &golden{File: f}
	for key, to := range map[string]any{"params": &g.params, "density": &g.density, "recall_mean": &g.mean, "recall_min": &g.min} {
		if err := json.Unmarshal([]byte(f.Metadata()[key]), to); err != nil {
			t.Fatalf("%s: %v", key, err)
		}
	}
	return g
}

func (g *golden) f32(t *testing.T, name string) []float32 {
	t.Helper()
	x, err := g.Float32s(name)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

func (g *golden) f64(t *testing.T, name string) []float64 {
	t.Helper()
	var x []float64
	for _, v := range g.f32(t, name) {
		x = append(x, float64(v))
	}
	return x
}

// csr returns the lists of name_indices that name_offsets bounds.
func (g *golden) csr(t *testing.T, name string) [][]int32 {
	t.Helper()
	offsets, err := g.Int64s(name + "_offsets")
	if err != nil {
		t.Fatal(err)
	}
	indices, err := g.Int32s(name + "_indices")
	if err != nil {
		t.Fatal(err)
	}
	return (&StripeSet{Offsets: offsets, Indices: indices}).split()
}
