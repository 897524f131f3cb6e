package anchor

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/anchorattention/anchor/internal/kernel"
)

// inPages cuts a contiguous [heads, rows, dim] into pages of so many rows. What the last page has beyond is full of rubbish.
func inPages[T any](x []T, rubbish T, pageRows, heads, rows, dim int) [][]T {
	var all [][]T
	for from := 0; from < rows; from += pageRows {
		page := slices.Repeat([]T{rubbish}, heads*pageRows*dim)
		for h := range heads {
			copy(page[h*pageRows*dim:(h+1)*pageRows*dim], x[(h*rows+from)*dim:(h*rows+min(from+pageRows, rows))*dim])
		}
		all = append(all, page)
	}
	return all
}

// eighths rounds rows of dim numbers to 8 bits, with a factor for each row.
func eighths(x []float32, dim int) (data []int8, scales []float32) {
	for row := range slices.Chunk(x, dim) {
		top := float32(0)
		for _, v := range row {
			top = max(top, float32(math.Abs(float64(v))))
		}
		scales = append(scales, top/127)
		for _, v := range row {
			data = append(data, int8(math.RoundToEven(float64(v/top*127))))
		}
	}
	return data, scales
}

// Pages of any size give bit by bit what the same numbers give in one piece, for every type; 8-bit rows give what their numbers
// give in single precision.
func TestPages(t *testing.T) {
	r := rand.New(rand.NewPCG(14, 14))
	nan := float32(math.NaN())
	planners := []Planner{Dense(), AnchorAttention(small(3)), Auto(small(8))}
	for _, m := range Methods() {
		if m.Plain() {
			planners = append(planners, m.Planner(small(3), m.Value))
		}
	}
	forLevels(t, func(t *testing.T, set *kernel.Set) {
		for i, planner := range slices.Concat(planners, planners) {
			const heads, kvHeads, nk = 4, 2, 320
			dim, nq := []int{16, 20, 64}[i%3], 60
			if i >= len(planners) { // as when a model writes
				nq = 1
			}
			p := newProblem(r, heads, kvHeads, nq, nk, dim)
			for _, c := range []struct {
				name  string
				views func(pageRows int) (q, k, v Tensor) // 0: in one piece
			}{
				{"F32", func(n int) (q, k, v Tensor) {
					view := func(x []float32) Tensor {
						if n == 0 {
							return FromFloat32(x, kvHeads, nk, dim)
						}
						return FromPages(inPages(x, nan, n, kvHeads, nk, dim), n, kvHeads, nk, dim)
					}
					return FromFloat32(p.q, heads, nq, dim), view(p.k), view(p.v)
				}},
				{"BF16", func(n int) (q, k, v Tensor) {
					view := func(t Tensor) Tensor {
						if n == 0 {
							return t
						}
						return FromBFloat16Pages(inPages(t.u16[0], 0x7fc0, n, kvHeads, nk, dim), n, kvHeads, nk, dim)
					}
					s := p.as(BFloat16)
					return s.Q, view(s.K), view(s.V)
				}},
				{"F16", func(n int) (q, k, v Tensor) {
					view := func(x []float32) Tensor {
						half := make([]uint16, len(x))
						for i := range x {
							half[i] = toHalf(x[i])
						}
						if n == 0 {
							return FromFloat16(half, kvHeads, nk, dim)
						}
						return FromFloat16Pages(inPages(half, 0x7e00, n, kvHeads, nk, dim), n, kvHeads, nk, dim)
					}
					return FromFloat32(p.q, heads, nq, dim), view(p.k), view(p.v)
				}},
				{"I8", func(n int) (q, k, v Tensor) {
					view := func(x []float32) Tensor {
						data, scales := eighths(x, dim)
						if n == 0 {
							return FromInt8(data, scales, kvHeads, nk, dim)
						}
						return FromInt8Pages(inPages(data, 99, n, kvHeads, nk, dim), inPages(scales, nan, n, kvHeads, nk, 1), n, kvHeads, nk, dim)
					}
					return FromFloat32(p.q, heads, nq, dim), view(p.k), view(p.v)
				}},
			} {
				attended := func(q, k, v Tensor) []uint32 {
					s := p.sequence()
					s.Q, s.K, s.V, s.Prompt = q, k, v, 340
					o, lse, _ := mustAttend(t, set, Options{Planner: planner}, s)
					return bitsOf(o[0], lse[0])
				}
				q, k, v := c.views(0)
				want := attended(q, k, v)
				for _, n := range []int{1, 128, 200} {
					if got := attended(c.views(n)); !slices.Equal(got, want) {
						t.Errorf("%s, %s: pages of %d rows give another result", planner.Name(), c.name, n)
					}
				}
				if c.name != "I8" {
					continue
				}
				read := func(x Tensor) Tensor {
					y := make([]float32, kvHeads*nk*dim)
					for i := range kvHeads * nk {
						x.Read(y[i*dim:(i+1)*dim], i/nk, i%nk)
					}
					return FromFloat32(y, kvHeads, nk, dim)
				}
				if got := attended(q, read(k), read(v)); !slices.Equal(got, want) {
					t.Errorf("%s: 8-bit rows give another result than what they read as", planner.Name())
				}
				// Rows and heads may lie apart; their scales do not.
				apart := func(x Tensor) Tensor {
					wide := make([]int8, kvHeads*nk*2*dim)
					for i := range kvHeads * nk {
						copy(wide[(i%nk*kvHeads+i/nk)*2*dim:][:dim], x.i8[0][i*dim:])
					}
					return FromInt8(wide, x.scales[0], kvHeads, nk, dim).Strided(2*dim, 2*dim*kvHeads)
				}
				if got := attended(q, apart(k), apart(v)); !slices.Equal(got, want) {
					t.Errorf("%s: strided 8-bit rows give another result", planner.Name())
				}
			}
		}
	})
}

// An element of an 8-bit row is its number times the row's factor.
func TestInt8Reads(t *testing.T) {
	x := FromInt8Pages([][]int8{{1, -2, 3, 4, 5, 6, 7, -128}, {9, 10, 0, 0, 11, 12}}, [][]float32{{1, 2, 0.5, 3}, {10, 0, 20}}, 2, 2, 3, 2)
	var got []float32
	for h := range 2 {
		for row := range 3 {
			two := make([]float32, 2)
			x.Read(two, h, row)
			got = append(got, two...)
		}
	}
	if want := "[1 -2 6 8 90 100 2.5 3 21 -384 220 240]"; fmt.Sprint(got) != want {
		t.Errorf("read %v; want %s", got, want)
	}
	if err := x.check(); err != nil {
		t.Error(err)
	}
}

// Borders are what they are said to be: rows before one, or before which all rows are dense, do not depend on what comes after
// them.
func TestBorders(t *testing.T) {
	r := rand.New(rand.NewPCG(15, 15))
	p := small(3)
	set := kernel.Levels()[len(kernel.Levels())-1]
	for _, m := range Methods() {
		if !m.Plain() {
			continue
		}
		planner := m.Planner(p, m.Value)
		borders, ok := BordersOf(planner)
		if sure := m.Name != "minference" && m.Name != "block-topk" && m.Name != "flexprefill"; ok != sure {
			t.Errorf("%s: ok %v", m.Name, ok)
		}
		if !ok {
			continue
		}
		const n, other = 330, 290
		cuts := 0
		a := newProblem(r, 2, 1, n, n, 16)
		for cut := 1; cut < other; cut++ {
			some := cut%29 == 0
			if inDense := cut <= borders.Dense && some; !inDense && (cut%borders.Every != 0 || cut > other-borders.Tail || borders.Every < 8 && !some) {
				continue
			}
			// Another prompt of another length that is the same up to the cut.
			b := newProblem(r, 2, 1, other, other, 16)
			for h := range 2 {
				copy(b.q[h*other*16:][:cut*16], a.q[h*n*16:])
			}
			copy(b.k[:cut*16], a.k)
			copy(b.v[:cut*16], a.v)
			ao, al, _ := mustAttend(t, set, Options{Planner: planner}, a.sequence())
			bo, bl, _ := mustAttend(t, set, Options{Planner: planner}, b.sequence())
			cuts++
			for h := range 2 {
				if !slices.Equal(bitsOf(ao[0][h*n*16:][:cut*16], al[0][h*n:][:cut]), bitsOf(bo[0][h*other*16:][:cut*16], bl[0][h*other:][:cut])) {
					t.Errorf("%s: what comes after %d changes what was before", m.Name, cut)
				}
			}
		}
		if cuts == 0 {
			t.Errorf("%s: no borders within %d rows", m.Name, other)
		}
	}
}
