package compliance

import (
	"math"
	"slices"
	"testing"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/kernel"
	"github.com/anchorattention/anchor/internal/reference"
)

// A problem is one sequence whose numbers are such as its type holds.
type problem struct {
	reference.Problem
	dtype anchor.DType
}

// problem draws one from the normal distribution.
func (s *suite) problem(heads, kvHeads, queries, keys, dim int) *problem {
	p := &problem{reference.Problem{Heads: heads, KVHeads: kvHeads, Dim: dim, Queries: queries, Keys: keys}, s.typ.DType}
	normal := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(s.r.NormFloat64())
		}
		return x
	}
	p.Q, p.K, p.V = normal(heads*queries*dim), normal(kvHeads*keys*dim), normal(kvHeads*keys*dim)
	return p.round()
}

// round makes every number one that the type holds.
func (p *problem) round() *problem {
	for _, x := range [][]float32{p.Q, p.K, p.V} {
		for i, v := range x {
			switch p.dtype {
			case anchor.BFloat16:
				x[i] = math.Float32frombits(uint32(kernel.RoundToBFloat16(v)) << 16)
			case anchor.Float16:
				x[i] = kernel.HalfToSingle(kernel.RoundToFloat16(v))
			}
		}
	}
	return p
}

// copy returns the problem with numbers of its own, to be changed.
func (p *problem) copy() *problem {
	c := *p
	c.Q, c.K, c.V = slices.Clone(p.Q), slices.Clone(p.K), slices.Clone(p.V)
	return &c
}

// rows cuts the problem to the query rows [from, to): a chunk of the prompt whose keys end where it ends.
func (p *problem) rows(from, to int) *problem {
	c := *p
	if c.Prompt == 0 {
		c.Prompt = p.Keys
	}
	c.Queries, c.Keys = to-from, p.First()+to
	c.Q, c.K, c.V = nil, nil, nil
	for h := range p.Heads {
		c.Q = append(c.Q, p.Q[(h*p.Queries+from)*p.Dim:(h*p.Queries+to)*p.Dim]...)
	}
	for h := range p.KVHeads {
		c.K = append(c.K, p.K[h*p.Keys*p.Dim:][:c.Keys*p.Dim]...)
		c.V = append(c.V, p.V[h*p.Keys*p.Dim:][:c.Keys*p.Dim]...)
	}
	return &c
}

// bits are numbers as a 16-bit type has them.
func (p *problem) bits(x []float32) []uint16 {
	y := make([]uint16, len(x))
	for i, v := range x {
		if p.dtype == anchor.BFloat16 {
			y[i] = kernel.RoundToBFloat16(v)
		} else {
			y[i] = kernel.RoundToFloat16(v)
		}
	}
	return y
}

// tensor is numbers as a contiguous tensor.
func (p *problem) tensor(x []float32, heads, rows int) anchor.Tensor {
	switch p.dtype {
	case anchor.BFloat16:
		return anchor.FromBFloat16(p.bits(x), heads, rows, p.Dim)
	case anchor.Float16:
		return anchor.FromFloat16(p.bits(x), heads, rows, p.Dim)
	}
	return anchor.FromFloat32(x, heads, rows, p.Dim)
}

// pages is keys or values in pages of so many rows. What the last has beyond is NaN.
func (p *problem) pages(x []float32, rows int) anchor.Tensor {
	var single [][]float32
	var half [][]uint16
	for from := 0; from < p.Keys; from += rows {
		page := poison(p.KVHeads * rows * p.Dim)
		for h := range p.KVHeads {
			copy(page[h*rows*p.Dim:], x[(h*p.Keys+from)*p.Dim:(h*p.Keys+min(from+rows, p.Keys))*p.Dim])
		}
		single, half = append(single, page), append(half, p.bits(page))
	}
	switch p.dtype {
	case anchor.BFloat16:
		return anchor.FromBFloat16Pages(half, rows, p.KVHeads, p.Keys, p.Dim)
	case anchor.Float16:
		return anchor.FromFloat16Pages(half, rows, p.KVHeads, p.Keys, p.Dim)
	}
	return anchor.FromPages(single, rows, p.KVHeads, p.Keys, p.Dim)
}

// poison returns numbers that are not.
func poison(n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(math.NaN())
	}
	return x
}

// An output is what one sequence gives.
type output struct {
	o, lse []float32
	heads  int
}

// head returns a head's part.
func (x output) head(h int) output { return x.rows(h, 0, len(x.lse)/x.heads) }

// rows returns the rows [from, to) of a head.
func (x output) rows(h, from, to int) output {
	n, dim := len(x.lse)/x.heads, len(x.o)/len(x.lse)
	return output{x.o[(h*n+from)*dim : (h*n+to)*dim], x.lse[h*n+from : h*n+to], 1}
}

// attend attends to the problems in one call, whose outputs are full of NaN before.
func (s *suite) attend(t *testing.T, opt anchor.Options, problems ...*problem) ([]output, *anchor.Result) {
	t.Helper()
	var sequences []anchor.Sequence
	var outputs []output
	for _, p := range problems {
		x := output{poison(p.Heads * p.Queries * p.Dim), poison(p.Heads * p.Queries), p.Heads}
		outputs = append(outputs, x)
		sequences = append(sequences, p.sequence(x))
		opt.Scale = p.Scale
	}
	return outputs, s.do(t, opt, sequences...)
}

// attendOne is attend to one problem.
func (s *suite) attendOne(t *testing.T, planner anchor.Planner, p *problem) (output, *anchor.Result) {
	t.Helper()
	x, res := s.attend(t, anchor.Options{Planner: planner, Stripes: true}, p)
	return x[0], res
}

func (s *suite) do(t *testing.T, opt anchor.Options, sequences ...anchor.Sequence) *anchor.Result {
	t.Helper()
	res, err := s.Attend(t.Context(), opt, sequences...)
	if err != nil {
		t.Fatal(err)
	}
	if res.Method != opt.Planner.Name() || res.ISA != s.ISA {
		t.Errorf("result of %s by %s; want %s by %s", res.Method, res.ISA, opt.Planner.Name(), s.ISA)
	}
	return res
}

// sequence is the problem as the operator wants it.
func (p *problem) sequence(x output) anchor.Sequence {
	return anchor.Sequence{
		Q: p.tensor(p.Q, p.Heads, p.Queries), K: p.tensor(p.K, p.KVHeads, p.Keys), V: p.tensor(p.V, p.KVHeads, p.Keys),
		O: anchor.FromFloat32(x.o, p.Heads, p.Queries, p.Dim), LSE: anchor.FromFloat32(x.lse, p.Heads, p.Queries, 1), Prompt: p.Prompt,
	}
}

// equal reports whether outputs are the same; NaN equals NaN.
func equal(a, b output) bool {
	same := func(a, b float32) bool { return a == b || a != a && b != b }
	return slices.EqualFunc(a.o, b.o, same) && slices.EqualFunc(a.lse, b.lse, same)
}

// apart returns the largest difference; infinity where there is a NaN.
func apart(got []float32, want []float64) float64 {
	worst := 0.0
	for i, w := range want {
		d := math.Abs(float64(got[i]) - w)
		if d != d {
			return math.Inf(1)
		}
		worst = max(worst, d)
	}
	return worst
}

// relative returns the norm of the difference over that of want; infinity where there is a NaN.
func relative(got []float32, want []float64) float64 {
	var d, n float64
	for i, w := range want {
		x := float64(got[i]) - w
		d, n = d+x*x, n+w*w
	}
	if d == 0 {
		return 0
	}
	if x := math.Sqrt(d / n); x == x {
		return x
	}
	return math.Inf(1)
}

func double(x []float32) []float64 {
	y := make([]float64, len(x))
	for i, v := range x {
		y[i] = float64(v)
	}
	return y
}

// sameBut checks that attention of two kinds is the same but for rounding: by 5e-6, or what rounding a weight does.
func (s *suite) sameBut(t *testing.T, got, want output, format string, args ...any) {
	t.Helper()
	o, tolerance, lse := apart(got.o, double(want.o)), 5e-6, 5e-6
	if s.typ.Rounding > 0 {
		o, tolerance, lse = relative(got.o, double(want.o)), s.typ.Rounding, s.typ.LSE
	}
	if l := apart(got.lse, double(want.lse)); o > tolerance || l > lse {
		t.Errorf(format+": o differs by %.3g, lse by %.3g; want at most %.3g and %.3g", append(args, o, l, tolerance, lse)...)
	}
}

// same checks that attention which is the same by definition is.
func (s *suite) same(t *testing.T, got, want output, format string, args ...any) {
	t.Helper()
	switch {
	case !s.Bitwise:
		s.sameBut(t, got, want, format, args...)
	case !equal(got, want):
		t.Errorf(format+": outputs are not the same, by %.3g and %.3g", append(args, apart(got.o, double(want.o)), apart(got.lse, double(want.lse)))...)
	}
}

// lists returns the stripes by head · groups + group.
func lists(s anchor.StripeSet) [][]int32 {
	all := make([][]int32, len(s.Offsets)-1)
	for i := range all {
		all[i] = s.Indices[s.Offsets[i]:s.Offsets[i+1]]
	}
	return all
}

// without returns ascending list less the elements of ascending drop.
func without(list, drop []int32) []int32 {
	return slices.DeleteFunc(slices.Clone(list), func(j int32) bool {
		_, found := slices.BinarySearch(drop, j)
		return found
	})
}
