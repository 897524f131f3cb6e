package anchor

import (
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/anchorattention/anchor/internal/kernel"
)

// forLevels runs f at every level of kernels that this machine has.
func forLevels(t *testing.T, f func(t *testing.T, set *kernel.Set)) {
	for _, set := range kernel.Levels() {
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

// splitStripes returns the lists of a set by head · groups + group.
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
			q, k := f.tensors["q"], f.tensors["k"]
			p := &problem{
				heads: q.shape[0], nq: q.shape[1], dim: q.shape[2], kvHeads: k.shape[0], nk: k.shape[1],
				q: q.f32, k: k.f32, v: f.tensors["v"].f32,
			}
			tolerance := 2e-5
			if p.dim > 128 {
				tolerance = 5e-5
			}
			want, near := f.csr("stripe"), f.csr("near")
			forLevels(t, func(t *testing.T, set *kernel.Set) {
				o, lse, res := mustAttend(t, set, Options{Planner: AnchorAttention(f.params), Stripes: true, AuditRows: p.nq}, p.sequence())
				if d := differ(o[0], f.tensors["o"].f64()); d > tolerance {
					t.Errorf("o differs by %g; want at most %g", d, tolerance)
				}
				if d := differ(lse[0], f.tensors["lse"].f64()); d > tolerance {
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
	params             Params
	density, mean, min float64
	tensors            map[string]goldenTensor
}

type goldenTensor struct {
	shape []int
	f32   []float32
	ints  []int64
}

func (g goldenTensor) f64() []float64 {
	x := make([]float64, len(g.f32))
	for i, v := range g.f32 {
		x[i] = float64(v)
	}
	return x
}

func (g *golden) csr(name string) [][]int32 {
	offsets := g.tensors[name+"_offsets"].ints
	lists := make([][]int32, len(offsets)-1)
	for i := range lists {
		for _, j := range g.tensors[name+"_indices"].ints[offsets[i]:offsets[i+1]] {
			lists[i] = append(lists[i], int32(j))
		}
	}
	return lists
}

func readGolden(t *testing.T, file string) *golden {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	n := binary.LittleEndian.Uint64(data)
	var header map[string]json.RawMessage
	if err := json.Unmarshal(data[8:8+n], &header); err != nil {
		t.Fatal(err)
	}
	g := &golden{tensors: map[string]goldenTensor{}}
	for name, raw := range header {
		if name == "__metadata__" {
			var m map[string]string
			if err := json.Unmarshal(raw, &m); err != nil {
				t.Fatal(err)
			}
			for key, to := range map[string]any{"params": &g.params, "density": &g.density, "recall_mean": &g.mean, "recall_min": &g.min} {
				if err := json.Unmarshal([]byte(m[key]), to); err != nil {
					t.Fatalf("%s: %v", key, err)
				}
			}
			continue
		}
		var h struct {
			DType   string `json:"dtype"`
			Shape   []int  `json:"shape"`
			Offsets [2]int `json:"data_offsets"`
		}
		if err := json.Unmarshal(raw, &h); err != nil {
			t.Fatal(err)
		}
		bytes := data[8+int(n)+h.Offsets[0] : 8+int(n)+h.Offsets[1]]
		tensor := goldenTensor{shape: h.Shape}
		for i := 0; i < len(bytes); {
			switch h.DType {
			case "F32":
				tensor.f32 = append(tensor.f32, math.Float32frombits(binary.LittleEndian.Uint32(bytes[i:])))
				i += 4
			case "I32":
				tensor.ints = append(tensor.ints, int64(int32(binary.LittleEndian.Uint32(bytes[i:]))))
				i += 4
			case "I64":
				tensor.ints = append(tensor.ints, int64(binary.LittleEndian.Uint64(bytes[i:])))
				i += 8
			}
		}
		g.tensors[name] = tensor
	}
	return g
}
