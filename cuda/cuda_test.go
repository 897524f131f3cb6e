package cuda

import (
	"encoding/json"
	"flag"
	"fmt"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/kernel"
	"github.com/anchorattention/anchor/internal/safetensors"
)

var archFlag = flag.String("arch", "", "architecture whose kernels benchmarks and some tests run; default the device's best")

// device opens the first device, or skips the test.
func device(t testing.TB) *Device {
	t.Helper()
	return deviceOf(t, *archFlag)
}

// forDevices runs a test on the first device with the kernels of each architecture that it runs, or skips it.
func forDevices(t *testing.T, test func(t *testing.T, d *Device)) {
	for _, a := range architectures {
		t.Run(a.name, func(t *testing.T) { test(t, deviceOf(t, a.name)) })
	}
}

// deviceOf opens the first device with the kernels for an architecture, "" for its best, or skips the test.
func deviceOf(t testing.TB, arch string) *Device {
	t.Helper()
	d, err := open(libraryName, 0, arch)
	if err != nil {
		t.Skipf("needs an NVIDIA GPU: %v", err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	})
	return d
}

// A problem is one sequence whose inputs are 16-bit numbers.
type problem struct {
	dtype               anchor.DType
	heads, kvHeads, dim int
	nq, nk, prompt      int
	q, k, v             []uint16
}

func newProblem(seed uint64, heads, kvHeads, nq, nk, dim int, dtype anchor.DType) *problem {
	r := rand.New(rand.NewPCG(seed, 1))
	p := &problem{dtype: dtype, heads: heads, kvHeads: kvHeads, nq: nq, nk: nk, dim: dim}
	normal := func(n int, by float64) []uint16 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(by * r.NormFloat64())
		}
		return narrow(x, dtype)
	}
	p.q, p.k, p.v = normal(heads*nq*dim, 1.5), normal(kvHeads*nk*dim, 1.5), normal(kvHeads*nk*dim, 1)
	return p
}

// narrow rounds numbers of moderate size to 16 bits.
func narrow(x []float32, dtype anchor.DType) []uint16 {
	y := make([]uint16, len(x))
	for i, v := range x {
		if dtype == anchor.BFloat16 {
			y[i] = kernel.RoundToBFloat16(v)
			continue
		}
		b := math.Float32bits(v)
		sign, size := uint16(b>>16&0x8000), math.Abs(float64(v))
		if size < 0x1p-14 {
			y[i] = sign | uint16(math.RoundToEven(size*0x1p24))
		} else {
			b = b&0x7fffffff - (127-15)<<23
			y[i] = sign | uint16((b+0xfff+b>>13&1)>>13)
		}
	}
	return y
}

// widen gives the numbers that bits stand for.
func widen(x []uint16, dtype anchor.DType) []float32 {
	y := make([]float32, len(x))
	for i, b := range x {
		if dtype == anchor.BFloat16 {
			y[i] = math.Float32frombits(uint32(b) << 16)
		} else {
			y[i] = kernel.HalfToSingle(b)
		}
	}
	return y
}

// outputs gives a sequence outputs full of NaN.
func (p *problem) outputs(s anchor.Sequence) anchor.Sequence {
	o, lse := make([]float32, p.heads*p.nq*p.dim), make([]float32, p.heads*p.nq)
	for _, x := range [][]float32{o, lse} {
		for i := range x {
			x[i] = float32(math.NaN())
		}
	}
	s.O, s.LSE = anchor.FromFloat32(o, p.heads, p.nq, p.dim), anchor.FromFloat32(lse, p.heads, p.nq, 1)
	s.Prompt = p.prompt
	return s
}

func (p *problem) sequence() anchor.Sequence {
	from := anchor.FromBFloat16
	if p.dtype == anchor.Float16 {
		from = anchor.FromFloat16
	}
	return p.outputs(anchor.Sequence{Q: from(p.q, p.heads, p.nq, p.dim), K: from(p.k, p.kvHeads, p.nk, p.dim), V: from(p.v, p.kvHeads, p.nk, p.dim)})
}

// single returns the sequence with the same inputs in single precision.
func (p *problem) single() anchor.Sequence {
	return p.outputs(anchor.Sequence{
		Q: anchor.FromFloat32(widen(p.q, p.dtype), p.heads, p.nq, p.dim), K: anchor.FromFloat32(widen(p.k, p.dtype), p.kvHeads, p.nk, p.dim),
		V: anchor.FromFloat32(widen(p.v, p.dtype), p.kvHeads, p.nk, p.dim),
	})
}

// rows cuts the problem to the query rows [from, to), a chunk of the prompt.
func (p *problem) rows(from, to int) *problem {
	c := *p
	if c.prompt == 0 {
		c.prompt = p.nk
	}
	c.nq, c.nk = to-from, p.nk-p.nq+to
	c.q, c.k, c.v = nil, nil, nil
	for h := range p.heads {
		c.q = append(c.q, p.q[(h*p.nq+from)*p.dim:(h*p.nq+to)*p.dim]...)
	}
	for h := range p.kvHeads {
		c.k = append(c.k, p.k[h*p.nk*p.dim:(h*p.nk+c.nk)*p.dim]...)
		c.v = append(c.v, p.v[h*p.nk*p.dim:(h*p.nk+c.nk)*p.dim]...)
	}
	return &c
}

func mustAttend(t *testing.T, opt anchor.Options, s ...anchor.Sequence) *anchor.Result {
	t.Helper()
	res, err := anchor.Attend(t.Context(), opt, s...)
	if err != nil {
		t.Fatal(err)
	}
	return res
}

// values returns all elements of an output.
func values(x anchor.Tensor) []float32 {
	var all []float32
	for h := range x.Heads() {
		f32, _, _ := x.Elements(h, 0)
		_, step := x.Strides()
		for i := range x.Rows() {
			all = append(all, f32[i*step:][:x.Dim()]...)
		}
	}
	return all
}

// distance is the norm of the difference over that of want; +∞ when something is NaN.
func distance(got, want []float32) float64 {
	var d, n float64
	for i, w := range want {
		x := float64(got[i]) - float64(w)
		d, n = d+x*x, n+float64(w)*float64(w)
	}
	if x := math.Sqrt(d / n); x == x {
		return x
	}
	return math.Inf(1)
}

// lists returns a set's stripes by head · groups + group.
func lists(s anchor.StripeSet) [][]int32 {
	var all [][]int32
	for i := range len(s.Offsets) - 1 {
		all = append(all, s.Indices[s.Offsets[i]:s.Offsets[i+1]])
	}
	return all
}

// compare checks the device's results against the CPU's in single precision.
func compare(t *testing.T, d *Device, p *problem, params *anchor.Params, scale *float32) {
	t.Helper()
	planner := func(by float64) anchor.Planner {
		if params == nil {
			return anchor.Dense()
		}
		q := *params
		q.Theta += by
		return anchor.AnchorAttention(q)
	}
	s, c := p.sequence(), p.single()
	got := mustAttend(t, anchor.Options{Planner: planner(0), Engine: d, Stripes: true, Scale: scale}, s)
	want := mustAttend(t, anchor.Options{Planner: planner(0), Stripes: true, Scale: scale}, c)
	if x := distance(values(s.O), values(c.O)); x > 1e-2 {
		t.Errorf("o differs by %.3g of its norm; want at most 1e-2", x)
	}
	worst := 0.0
	cpu := values(c.LSE)
	for i, x := range values(s.LSE) {
		if y := math.Abs(float64(x - cpu[i])); y > worst || y != y {
			worst = y
		}
	}
	if !(worst < 1e-3) && params == nil || !(worst < 2e-2) {
		t.Errorf("lse differs by %.3g", worst)
	}
	if got.CausalPairs != want.CausalPairs || got.SearchPairs != want.SearchPairs {
		t.Errorf("pairs %d, searched %d; want %d, %d", got.CausalPairs, got.SearchPairs, want.CausalPairs, want.SearchPairs)
	}
	if got.NonFiniteRows != want.NonFiniteRows {
		t.Errorf("rows not finite: %d; want %d", got.NonFiniteRows, want.NonFiniteRows)
	}
	if math.Abs(got.Density()-want.Density()) > 1e-3 || got.ISA != "cuda "+d.arch || got.Method != want.Method {
		t.Errorf("density %v, isa %s, method %s; want %v, %s", got.Density(), got.ISA, got.Method, want.Density(), want.Method)
	}
	if params == nil {
		return
	}
	// Stripes are equal but for keys within 2e-3 nats of the threshold.
	const near = 2e-3
	some := mustAttend(t, anchor.Options{Planner: planner(-near), Stripes: true, Scale: scale}, p.single())
	most := mustAttend(t, anchor.Options{Planner: planner(+near), Stripes: true, Scale: scale}, p.single())
	g, few, many := lists(got.StripeSets[0]), lists(some.StripeSets[0]), lists(most.StripeSets[0])
	if len(g) != len(few) {
		t.Fatalf("lists of stripes: %d; want %d", len(g), len(few))
	}
	n := int64(0)
	for i := range g {
		n += int64(len(g[i]))
		if !slices.IsSorted(g[i]) || !subset(few[i], g[i]) || !subset(g[i], many[i]) {
			t.Errorf("stripes %d: got %d, want between %d and %d", i, len(g[i]), len(few[i]), len(many[i]))
		}
	}
	if got.Stripes != n {
		t.Errorf("%d stripes counted, %d listed", got.Stripes, n)
	}
	for h := range got.Heads {
		if a, b := got.Heads[h], want.Heads[h]; a.Groups != b.Groups || a.CausalPairs != b.CausalPairs || a.DenseGroups != 0 {
			t.Errorf("head %d: got %+v, want %+v", h, a, b)
		}
	}
}

// subset reports whether ascending a lies in ascending b.
func subset(a, b []int32) bool {
	for _, x := range a {
		if _, ok := slices.BinarySearch(b, x); !ok {
			return false
		}
	}
	return true
}

// The operator's golden cases, rounded to 16 bits.
func TestGolden(t *testing.T) {
	d := device(t)
	files, err := filepath.Glob("../testdata/golden/*.safetensors")
	if err != nil || len(files) == 0 {
		t.Fatalf("no golden files: %v", err)
	}
	for _, file := range files {
		for _, dtype := range []anchor.DType{anchor.BFloat16, anchor.Float16} {
			t.Run(fmt.Sprintf("%s/%v", strings.TrimSuffix(filepath.Base(file), ".safetensors"), dtype), func(t *testing.T) {
				f, err := safetensors.Open(file)
				if err != nil {
					t.Fatal(err)
				}
				defer f.Close()
				var params anchor.Params
				if err := json.Unmarshal([]byte(f.Metadata()["params"]), &params); err != nil {
					t.Fatal(err)
				}
				q, _ := f.Info("q")
				k, _ := f.Info("k")
				p := &problem{dtype: dtype, heads: q.Shape[0], nq: q.Shape[1], dim: q.Shape[2], kvHeads: k.Shape[0], nk: k.Shape[1]}
				for name, to := range map[string]*[]uint16{"q": &p.q, "k": &p.k, "v": &p.v} {
					x, err := f.Float32s(name)
					if err != nil {
						t.Fatal(err)
					}
					*to = narrow(x, dtype)
				}
				compare(t, d, p, &params, nil)
				compare(t, d, p, nil, nil)
			})
		}
	}
}

func TestShapes(t *testing.T) {
	d := device(t)
	negative, zero := float32(-0.1), float32(0)
	seed := uint64(0)
	for _, dtype := range []anchor.DType{anchor.BFloat16, anchor.Float16} {
		for _, dim := range []int{1, 17, 64, 80, 96, 128, 200, 256} {
			for _, c := range []struct {
				heads, kvHeads, nq, nk int
				params                 *anchor.Params
				scale                  *float32
			}{
				{2, 1, 1, 1, nil, nil},
				{4, 2, 129, 700, nil, nil},
				{3, 3, 300, 300, nil, &negative},
				{3, 1, 100, 300, &anchor.Params{Block: 16, Step: 2, Init: 4, Local: 3, Theta: 4, Tail: 7}, &negative},
				{2, 2, 200, 300, &anchor.Params{Block: 16, Step: 2, Init: 4, Local: 3, Theta: 0.5, Tail: 7}, &zero},
				{8, 2, 777, 1500, &anchor.Params{Block: 32, Step: 4, Init: 10, Local: 0, Theta: 5, Tail: 100}, nil},
				{6, 2, 400, 900, &anchor.Params{Block: 1, Step: 7, Init: 0, Local: 1, Theta: 6, Tail: 0}, nil},
				{2, 1, 5000, 5000, &anchor.Params{Block: 128, Step: 16, Init: 128, Local: 128, Theta: 7, Tail: 128}, nil},
				{2, 1, 3000, 3000, &anchor.Params{Block: 100, Step: 9, Init: 128, Local: 128, Theta: 7, Tail: 1 << 29}, nil},
				{5, 1, 600, 600, &anchor.Params{Block: 2, Step: 90, Init: 1, Local: 1, Theta: 7, Tail: 1}, nil},
			} {
				seed++
				t.Run(fmt.Sprintf("%v/%d/%d", dtype, dim, seed), func(t *testing.T) {
					compare(t, d, newProblem(seed, c.heads, c.kvHeads, c.nq, c.nk, dim, dtype), c.params, c.scale)
				})
			}
		}
	}
}

var small = anchor.Params{Block: 32, Step: 4, Init: 10, Local: 20, Theta: 6, Tail: 60}

func TestLaws(t *testing.T) {
	d := device(t)
	for _, dim := range []int{64, 128, 256} {
		p := newProblem(uint64(dim), 4, 2, 1000, 1300, dim, anchor.BFloat16)
		run := func(p *problem, planner anchor.Planner) (o, lse []float32, res *anchor.Result) {
			s := p.sequence()
			res = mustAttend(t, anchor.Options{Planner: planner, Engine: d, Stripes: true}, s)
			return values(s.O), values(s.LSE), res
		}
		all, none := small, small
		all.Theta, none.Theta = math.Inf(1), math.Inf(-1)
		o, _, res := run(p, anchor.AnchorAttention(all))
		dense, _, _ := run(p, anchor.Dense())
		if x := distance(o, dense); x > 2e-3 || res.Density() != 1 {
			t.Errorf("dim %d: θ = ∞ differs from dense by %g, density %v", dim, x, res.Density())
		}
		if _, _, res := run(p, anchor.AnchorAttention(none)); res.Stripes != 0 {
			t.Errorf("dim %d: θ = −∞ keeps %d stripes", dim, res.Stripes)
		}
		o, lse, whole := run(p, anchor.AnchorAttention(small))
		again, lseAgain, _ := run(p, anchor.AnchorAttention(small))
		if !slices.Equal(o, again) || !slices.Equal(lse, lseAgain) {
			t.Errorf("dim %d: two runs differ", dim)
		}
		// Grouped heads equal repeated heads.
		repeated := *p
		repeated.kvHeads, repeated.k, repeated.v = p.heads, nil, nil
		for h := range p.heads {
			at := h * p.kvHeads / p.heads * p.nk * dim
			repeated.k = append(repeated.k, p.k[at:at+p.nk*dim]...)
			repeated.v = append(repeated.v, p.v[at:at+p.nk*dim]...)
		}
		if again, _, _ := run(&repeated, anchor.AnchorAttention(small)); !slices.Equal(o, again) {
			t.Errorf("dim %d: repeated heads differ by %g", dim, distance(again, o))
		}
		// Chunks cut at group borders equal the whole; position 300 is row 0.
		at, stripes := 0, int64(0)
		for _, to := range []int{84, 84 + 256, 1000} {
			part, _, res := run(p.rows(at, to), anchor.AnchorAttention(small))
			stripes += res.Stripes
			for h := range p.heads {
				n := (to - at) * dim
				if a, b := part[h*n:(h+1)*n], o[(h*p.nq+at)*dim:][:n]; distance(a, b) > 1e-6 {
					t.Errorf("dim %d: rows [%d, %d) of head %d differ by %g in a chunk", dim, at, to, h, distance(a, b))
				}
			}
			at = to
		}
		if stripes != whole.Stripes {
			t.Errorf("dim %d: chunks keep %d stripes; want %d", dim, stripes, whole.Stripes)
		}
		// A batch equals its sequences.
		other := newProblem(77, 4, 2, 500, 500, dim, anchor.BFloat16)
		a, b := other.sequence(), p.sequence()
		batch := mustAttend(t, anchor.Options{Planner: anchor.AnchorAttention(small), Engine: d}, a, b)
		alone, _, res := run(other, anchor.AnchorAttention(small))
		if !slices.Equal(values(b.O), o) || !slices.Equal(values(a.O), alone) || batch.Pairs != whole.Pairs+res.Pairs {
			t.Errorf("dim %d: a batch differs from its sequences", dim)
		}
	}
}

// Strided inputs and outputs, the audit, and NaN.
func TestViews(t *testing.T) {
	d := device(t)
	p := newProblem(5, 4, 2, 300, 400, 64, anchor.BFloat16)
	want := p.sequence()
	opt := anchor.Options{Planner: anchor.AnchorAttention(small), Engine: d, AuditRows: 50}
	wanted := mustAttend(t, opt, want)
	exact := mustAttend(t, anchor.Options{Planner: opt.Planner, AuditRows: 50}, p.single())
	if math.Abs(wanted.Recall.Mean-exact.Recall.Mean) > 1e-3 || len(wanted.Audit) != len(exact.Audit) {
		t.Errorf("recall %v; want %v", wanted.Recall, exact.Recall)
	}
	interleave := func(x []uint16, heads, rows int) anchor.Tensor {
		y := make([]uint16, len(x))
		for h := range heads {
			for i := range rows {
				copy(y[(i*heads+h)*64:][:64], x[(h*rows+i)*64:][:64])
			}
		}
		return anchor.FromBFloat16(y, heads, rows, 64).Strided(64, heads*64)
	}
	got := p.sequence()
	got.Q, got.K, got.V = interleave(p.q, 4, 300), interleave(p.k, 2, 400), interleave(p.v, 2, 400)
	o := make([]float32, 4*300*64)
	got.O = anchor.FromFloat32(o, 4, 300, 64).Strided(64, 4*64)
	mustAttend(t, opt, got)
	if !slices.Equal(values(got.O), values(want.O)) {
		t.Error("strided tensors differ")
	}
	bad := p.sequence()
	q := slices.Clone(p.q)
	q[(300+7)*64+3] = 0x7fc0
	bad.Q = anchor.FromBFloat16(q, 4, 300, 64)
	res := mustAttend(t, anchor.Options{Planner: anchor.Dense(), Engine: d}, bad)
	if res.NonFiniteRows != 1 || !math.IsNaN(float64(values(bad.O)[(300+7)*64])) {
		t.Errorf("a NaN in a query spoils %d rows; want its own", res.NonFiniteRows)
	}
}

// The layout that the kernels expect, as they assert it.
func TestArgsLayout(t *testing.T) {
	if a, b, c := unsafe.Sizeof(place{}), unsafe.Sizeof(tile{}), unsafe.Sizeof(group{}); a != 104 || b != 20 || c != 40 {
		t.Errorf("places, tiles and groups are %d, %d and %d bytes; want 104, 20 and 40", a, b, c)
	}
	var a args
	if size := unsafe.Sizeof(a); size != 168 {
		t.Errorf("args are %d bytes; want 168", size)
	}
	text, err := ptx.ReadFile("ptx/bf16_128.sm_90a.ptx")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "_param_0[168]") {
		t.Error("the kernels' arguments are not 168 bytes")
	}
}

func TestPlan(t *testing.T) {
	params := anchor.Params{Block: 16, Step: 4, Init: 8, Local: 8, Theta: 1, Tail: 30}
	for _, s := range []anchor.Shape{{Heads: 1, KVHeads: 1, Dim: 64, Queries: 1000, Keys: 1000, Prompt: 1000},
		{Heads: 1, KVHeads: 1, Dim: 64, Queries: 333, Keys: 1000, Prompt: 1000}, {Heads: 1, KVHeads: 1, Dim: 64, Queries: 10, Keys: 1000, Prompt: 5000},
		{Heads: 1, KVHeads: 1, Dim: 64, Queries: 10, Keys: 1000, Prompt: 1000}, {Heads: 1, KVHeads: 1, Dim: 64, Queries: 1000, Keys: 1000, Prompt: 20}} {
		for i, params := range []*anchor.Params{nil, &params, &params} {
			auto := i == 2
			p := newPlan(params, auto, s)
			seen := make([]int, s.Keys)
			for _, t := range p.tiles {
				for i := t.from; i < t.to; i++ {
					seen[i]++
				}
			}
			for i, n := range seen {
				if want := 0; n != want && i < s.First() || n != 1 && i >= s.First() {
					t.Fatalf("%+v: row %d is in %d tiles", s, i, n)
				}
			}
		}
	}
}
