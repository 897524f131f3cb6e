package cuda

import (
	"context"
	"flag"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
	"unsafe"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/compliance"
	"github.com/anchorattention/anchor/internal/kernel"
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

// eager lets auto look for stripes where they save anything at all, which in small problems nothing would be worth.
var eager = costs{gather: 1.1}

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

// The device is an engine like all others.
func TestCompliance(t *testing.T) { forDevices(t, testCompliance) }

func testCompliance(t *testing.T, d *Device) {
	d.costs = eager
	compliance.Test(t, compliance.Engine{
		Attend: func(ctx context.Context, opt anchor.Options, sequences ...anchor.Sequence) (*anchor.Result, error) {
			opt.Engine = d
			return anchor.Attend(ctx, opt, sequences...)
		},
		ISA:     "cuda " + d.arch,
		Golden:  "../testdata/golden",
		Types:   []compliance.Type{compliance.Rounded(anchor.BFloat16, 1e-3, 2e-3), compliance.Rounded(anchor.Float16, 1e-3, 2e-3)},
		Dims:    dims,
		Bitwise: true,
		Auto:    true,
		Spoils:  tileRows - 1,
	})
}

var small = anchor.Params{Block: 32, Step: 4, Init: 10, Local: 20, Theta: 6, Tail: 60}

// The layout that the kernels expect, as they assert it.
func TestArgsLayout(t *testing.T) {
	if a, b, c := unsafe.Sizeof(place{}), unsafe.Sizeof(tile{}), unsafe.Sizeof(group{}); a != 104 || b != 20 || c != 48 {
		t.Errorf("places, tiles and groups are %d, %d and %d bytes; want 104, 20 and 48", a, b, c)
	}
	var a args
	if size := unsafe.Sizeof(a); size != 192 {
		t.Errorf("args are %d bytes; want 192", size)
	}
	text, err := ptx.ReadFile("ptx/bf16_128.sm_90a.ptx")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(text), "_param_0[192]") {
		t.Error("the kernels' arguments are not 192 bytes")
	}
}

func TestPlan(t *testing.T) {
	params := anchor.Params{Block: 16, Step: 4, Init: 8, Local: 8, Theta: 1, Tail: 30}
	for _, s := range []anchor.Shape{{Heads: 1, KVHeads: 1, Dim: 64, Queries: 1000, Keys: 1000, Prompt: 1000},
		{Heads: 1, KVHeads: 1, Dim: 64, Queries: 333, Keys: 1000, Prompt: 1000}, {Heads: 1, KVHeads: 1, Dim: 64, Queries: 10, Keys: 1000, Prompt: 5000},
		{Heads: 1, KVHeads: 1, Dim: 64, Queries: 10, Keys: 1000, Prompt: 1000}, {Heads: 1, KVHeads: 1, Dim: 64, Queries: 1000, Keys: 1000, Prompt: 20}} {
		for i, params := range []*anchor.Params{nil, &params, &params} {
			auto := i == 2
			p := newPlan(params, auto, eager, s)
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

// Where stripes cannot save what it takes to look for them, auto is dense from the start.
func TestPlanAuto(t *testing.T) {
	params := anchor.DefaultParams()
	for _, c := range []struct {
		heads, queries, keys int
		sparse               bool
	}{{32, 4096, 4096, false}, {32, 8192, 8192, true}, {2, 8192, 8192, false}, {32, 1, 131072, false}, {32, 1024, 131072, true}} {
		s := anchor.Shape{Heads: c.heads, KVHeads: 1, Dim: 128, Queries: c.queries, Keys: c.keys, Prompt: 1 << 18}
		if p := newPlan(&params, true, measured, s); len(p.sparse) > 0 != c.sparse {
			t.Errorf("%+v: %d tiles have stripes; want any: %v", s, len(p.sparse), c.sparse)
		}
	}
}
