package cuda

import (
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"reflect"
	"slices"
	"testing"

	"github.com/anchorattention/anchor"
)

// rowsFirst, instead of a number of rows, makes resident lay all tensors out as [rows, heads, dim].
const rowsFirst = -1

// resident copies the problem to the device, with outputs full of NaN, in pages of so many rows if any, as a cache lays
// them out: [pages, rows, KV heads, dim], in an order by chance. The function gives the memory back, also upon an error.
func (p *problem) resident(d *Device, pageRows int) (s Sequence, free func() error, err error) {
	var all []*Memory
	free = func() error {
		var errs []error
		for _, m := range all {
			errs = append(errs, m.Free(), m.Free())
		}
		return errors.Join(errs...)
	}
	alloc := func(bytes int) *Memory {
		if err != nil {
			return nil
		}
		var m *Memory
		if m, err = d.Alloc(bytes); err == nil {
			all = append(all, m)
		}
		return m
	}
	inputs := func(data []uint16, heads, rows int) Tensor {
		m := alloc(2 * len(data))
		if err == nil {
			err = Write(m, 0, data)
		}
		if err != nil {
			return Tensor{}
		}
		return m.Tensor(p.dtype, heads, rows, p.dim)
	}
	outputs := func(rows, dim int) Tensor {
		data := make([]float32, p.heads*rows*dim)
		for i := range data {
			data[i] = float32(math.NaN())
		}
		m := alloc(4 * len(data))
		if err == nil {
			err = Write(m, 0, data)
		}
		if err != nil {
			return Tensor{}
		}
		return m.Tensor(anchor.Float32, p.heads, rows, dim)
	}
	s.Prompt = p.prompt
	if pageRows == rowsFirst {
		swapped := func(data []uint16, heads, rows int) Tensor {
			all := make([]uint16, len(data))
			for h := range heads {
				for i := range rows {
					copy(all[(i*heads+h)*p.dim:][:p.dim], data[(h*rows+i)*p.dim:])
				}
			}
			t := inputs(all, heads, rows)
			t.HeadStep, t.RowStep = p.dim, heads*p.dim
			return t
		}
		s.Q, s.K, s.V = swapped(p.q, p.heads, p.nq), swapped(p.k, p.kvHeads, p.nk), swapped(p.v, p.kvHeads, p.nk)
		s.O, s.LSE = outputs(p.nq, p.dim), outputs(p.nq, 1)
		s.O.HeadStep, s.O.RowStep, s.LSE.HeadStep, s.LSE.RowStep = p.dim, p.heads*p.dim, 1, p.heads
		return s, free, err
	}
	s.Q = inputs(p.q, p.heads, p.nq)
	if pageRows == 0 {
		s.K, s.V = inputs(p.k, p.kvHeads, p.nk), inputs(p.v, p.kvHeads, p.nk)
	} else {
		pages := (p.nk + pageRows - 1) / pageRows
		s.PageRows = pageRows
		for _, page := range rand.New(rand.NewPCG(1, uint64(p.nk))).Perm(pages + 3)[:pages] {
			s.Pages = append(s.Pages, int32(page))
		}
		paged := func(data []uint16) Tensor {
			all := make([]uint16, (pages+3)*pageRows*p.kvHeads*p.dim)
			for i := range all {
				all[i] = 0x7fff // NaN
			}
			for h := range p.kvHeads {
				for i := range p.nk {
					row := int(s.Pages[i/pageRows])*pageRows + i%pageRows
					copy(all[(row*p.kvHeads+h)*p.dim:][:p.dim], data[(h*p.nk+i)*p.dim:])
				}
			}
			t := inputs(all, p.kvHeads, p.nk)
			t.HeadStep, t.RowStep, t.PageStep = p.dim, p.kvHeads*p.dim, pageRows*p.kvHeads*p.dim
			return t
		}
		s.K, s.V = paged(p.k), paged(p.v)
	}
	s.O, s.LSE = outputs(p.nq, p.dim), outputs(p.nq, 1)
	return s, free, err
}

// mustResident is resident in a test.
func (p *problem) mustResident(t *testing.T, d *Device, pageRows int) Sequence {
	t.Helper()
	s, free, err := p.resident(d, pageRows)
	t.Cleanup(func() {
		if err := free(); err != nil {
			t.Error(err)
		}
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// read returns the outputs of a sequence, and poisons them.
func read(t *testing.T, s Sequence) (o, lse []float32) {
	t.Helper()
	all := func(x Tensor) (rows []float32) {
		data := make([]float32, x.Heads*x.Rows*x.Dim)
		if err := Read(x.Memory, 0, data); err != nil {
			t.Fatal(err)
		}
		for h := range x.Heads {
			for i := range x.Rows {
				rows = append(rows, data[h*x.HeadStep+i*x.RowStep:][:x.Dim]...)
			}
		}
		for i := range data {
			data[i] = float32(math.NaN())
		}
		if err := Write(x.Memory, 0, data); err != nil {
			t.Fatal(err)
		}
		return rows
	}
	return all(s.O), all(s.LSE)
}

func mustPrepare(t *testing.T, d *Device, planner anchor.Planner, s ...Sequence) *Call {
	t.Helper()
	c, err := d.Prepare(anchor.Options{Planner: planner}, s...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// Tensors on the device give bit for bit what those in the program's memory do: contiguous, strided and in pages, sequence by sequence
// and several of different lengths in one call, started by itself and as part of a graph, and again with other inputs.
func TestCalls(t *testing.T) { forDevices(t, testAllCalls) }

func testAllCalls(t *testing.T, d *Device) {
	for _, dtype := range []anchor.DType{anchor.BFloat16, anchor.Float16} {
		for _, dim := range dims {
			t.Run(fmt.Sprintf("%v/%d", dtype, dim), func(t *testing.T) {
				testCalls(t, d, dtype, dim)
			})
		}
	}
}

func testCalls(t *testing.T, d *Device, dtype anchor.DType, dim int) {
	problems := []*problem{
		newProblem(1, 4, 2, 1000, 1300, dim, dtype), newProblem(2, 4, 2, 1, 777, dim, dtype),
		newProblem(3, 4, 2, 5, 5, dim, dtype), newProblem(4, 4, 2, 640, 640, dim, dtype).rows(100, 500), newProblem(5, 4, 2, 129, 2000, dim, dtype),
	}
	wide := anchor.Params{Block: 128, Step: 4, Init: 64, Local: 32, Theta: 6, Tail: 100}
	odd := anchor.Params{Block: 16, Step: 7, Init: 5, Local: 3, Theta: 6, Tail: 9}
	d.costs = eager
	for name, planner := range map[string]anchor.Planner{
		"dense": anchor.Dense(), "small": anchor.AnchorAttention(small), "wide": anchor.AnchorAttention(wide), "odd": anchor.AnchorAttention(odd),
		"auto": anchor.Auto(small), "auto wide": anchor.Auto(wide), "auto odd": anchor.Auto(odd),
	} {
		var pairs, stripes int64
		var wantO, wantLSE [][]float32
		var wantSets []anchor.StripeSet
		for _, p := range problems {
			s := p.sequence()
			res := mustAttend(t, anchor.Options{Planner: planner, Engine: d, Stripes: true}, s)
			pairs += res.Pairs
			wantSets = append(wantSets, res.StripeSets...)
			stripes += res.Stripes
			wantO, wantLSE = append(wantO, values(s.O)), append(wantLSE, values(s.LSE))
		}
		for _, pageRows := range []int{0, rowsFirst, 1, 16, 128} {
			var all []Sequence
			for _, p := range problems {
				all = append(all, p.mustResident(t, d, pageRows))
			}
			check := func(what string, i int) {
				t.Helper()
				if o, lse := read(t, all[i]); !slices.Equal(o, wantO[i]) || !slices.Equal(lse, wantLSE[i]) {
					t.Errorf("%s, pages of %d, sequence %d, %s: differs by %g", name, pageRows, i, what, distance(o, wantO[i]))
				}
			}
			start := func(c interface{ Start() error }) {
				t.Helper()
				if err := c.Start(); err != nil {
					t.Fatal(err)
				}
			}
			var calls []*Call
			for i := range all {
				calls = append(calls, mustPrepare(t, d, planner, all[i]))
				start(calls[i])
				check("alone", i)
			}
			together := mustPrepare(t, d, planner, all...)
			for range 2 {
				start(together)
				for i := range all {
					check("together", i)
				}
			}
			res, err := together.Result()
			if err != nil {
				t.Fatal(err)
			}
			if sets, err := together.Stripes(); err != nil || !reflect.DeepEqual(sets, wantSets) {
				t.Errorf("%s, pages of %d: stripes differ, or %v", name, pageRows, err)
			}
			if res.Pairs != pairs || res.Stripes != stripes || res.NonFiniteRows != 0 {
				t.Errorf("%s, pages of %d: pairs %d, stripes %d, not finite %d; want %d, %d, 0", name, pageRows, res.Pairs, res.Stripes, res.NonFiniteRows, pairs, stripes)
			}
			g, err := d.Graph(calls...)
			if err != nil {
				t.Fatal(err)
			}
			for range 2 {
				start(g)
				for i := range all {
					check("in a graph", i)
				}
			}
			if err := g.Close(); err != nil {
				t.Error(err)
			}
		}
		// What tensors hold when a call starts counts.
		s := problems[0].mustResident(t, d, 0)
		c := mustPrepare(t, d, planner, s)
		other := newProblem(9, 4, 2, 1000, 1300, dim, dtype)
		for tensor, data := range map[*Tensor][]uint16{&s.Q: other.q, &s.K: other.k, &s.V: other.v} {
			if err := Write(tensor.Memory, 0, data); err != nil {
				t.Fatal(err)
			}
		}
		want := other.sequence()
		mustAttend(t, anchor.Options{Planner: planner, Engine: d}, want)
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		if o, _ := read(t, s); !slices.Equal(o, values(want.O)) {
			t.Errorf("%s: other inputs differ by %g", name, distance(o, values(want.O)))
		}
	}
}

// Under Auto every head of a group has the bits of dense attention or those of AnchorAttention, by what is counted as dense; theta
// decides at its ends.
func TestAuto(t *testing.T) { forDevices(t, testAuto) }

func testAuto(t *testing.T, d *Device) {
	for _, dim := range dims {
		const heads, n = 8, 8192
		p := newProblem(uint64(dim), heads, 2, n, n, dim, anchor.BFloat16)
		params := anchor.Params{Block: 64, Step: 8, Init: 64, Local: 64, Tail: 100}
		size := params.Block * params.Step
		run := func(planner anchor.Planner) ([]float32, *anchor.Result) {
			s := p.sequence()
			res := mustAttend(t, anchor.Options{Planner: planner, Engine: d, Stripes: true}, s)
			return values(s.O), res
		}
		dense, _ := run(anchor.Dense())
		mixed := false
		for _, theta := range []float64{math.Inf(-1), 5, 5.5, 6, 6.5, math.Inf(1)} {
			params.Theta = theta
			sparse, whole := run(anchor.AnchorAttention(params))
			auto, res := run(anchor.Auto(params))
			for h := range heads {
				var all, certain, groups int64 // that have dense attention's bits, and that have no others'
				for from := size; from < n-params.Tail; from += size {
					at, end := (h*n+from)*dim, (h*n+min(from+size, n-params.Tail))*dim
					isSparse, isDense := slices.Equal(auto[at:end], sparse[at:end]), slices.Equal(auto[at:end], dense[at:end])
					groups++
					if isDense {
						all++
						if !isSparse {
							certain++
						}
					} else if !isSparse {
						t.Errorf("dim %d, theta %v, head %d, group from %d: neither dense nor sparse", dim, theta, h, from)
					}
				}
				// Groups that have nothing to gain are not even looked into, and not counted.
				got := res.Heads[h]
				unseen := groups - got.Groups
				if n := got.DenseGroups; n+unseen < certain || n > all || unseen < 0 {
					t.Errorf("dim %d, theta %v, head %d: %d … %d of %d groups are dense; counted %d of %d", dim, theta, h, certain, all, groups, n, got.Groups)
				}
			}
			share := res.DenseShare()
			mixed = mixed || share > 0 && share < 1
			if theta < 0 && share != 0 || theta > 1e9 && share != 1 || res.Density() < whole.Density() {
				t.Errorf("dim %d, theta %v: %v of groups dense, density %v of %v", dim, theta, share, res.Density(), whole.Density())
			}
			if n := int64(len(res.StripeSets[0].Indices)); n != res.Stripes {
				t.Errorf("dim %d, theta %v: %d stripes listed, %d counted", dim, theta, n, res.Stripes)
			}
			t.Logf("dim %d, theta %v: density %.3f, auto %.3f, dense groups %.2f", dim, theta, whole.Density(), res.Density(), share)
		}
		if !mixed {
			t.Errorf("dim %d: at no theta are some groups dense and others not", dim)
		}
	}
}

// Outputs in 16 bits are those in single precision, rounded.
func TestNarrowOutputs(t *testing.T) { forDevices(t, testNarrowOutputs) }

func testNarrowOutputs(t *testing.T, d *Device) {
	for _, dtype := range []anchor.DType{anchor.BFloat16, anchor.Float16} {
		for _, dim := range dims {
			p := newProblem(uint64(dim), 4, 2, 300, 700, dim, dtype)
			s := p.mustResident(t, d, 16)
			c := mustPrepare(t, d, anchor.AnchorAttention(small), s)
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			want, _ := read(t, s)
			s.O = alloc(t, d, dtype, 4, 300, dim)
			got := make([]uint16, len(want))
			for i := range got {
				got[i] = 0x7fff // NaN
			}
			if err := Write(s.O.Memory, 0, got); err != nil {
				t.Fatal(err)
			}
			c = mustPrepare(t, d, anchor.AnchorAttention(small), s)
			if err := c.Start(); err != nil {
				t.Fatal(err)
			}
			if err := Read(s.O.Memory, 0, got); err != nil {
				t.Fatal(err)
			}
			if !slices.Equal(got, narrow(want, dtype)) {
				t.Errorf("%v, dim %d: outputs differ by %g", dtype, dim, distance(widen(got, dtype), want))
			}
		}
	}
}
