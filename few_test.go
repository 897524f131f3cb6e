package anchor

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/anchorattention/anchor/internal/kernel"
)

// One row, or two, of few heads give bit by bit what the same rows give in a longer call, for every type of keys and values,
// whole or in pages, with values that are not finite, too. The longer call has tiles of many rows.
func TestFewRows(t *testing.T) {
	r := rand.New(rand.NewPCG(15, 15))
	bits := func(x []float32) []uint16 {
		y := make([]uint16, len(x))
		for i := range x {
			y[i] = uint16(math.Float32bits(x[i]) >> 16)
		}
		return y
	}
	forLevels(t, func(t *testing.T, set *kernel.Set) {
		for _, c := range []struct{ heads, kvHeads, nk, dim int }{
			{2, 2, 193, 64}, {3, 1, 451, 64}, {8, 2, 640, 128}, {7, 1, 257, 32}, {8, 1, 128, 256}, {5, 1, 200, 80},
		} {
			const many = 50
			p := newProblem(r, c.heads, c.kvHeads, many, c.nk, c.dim)
			for _, last := range []float32{0, float32(math.Inf(1))} {
				if last != 0 { // which rows before the last do not see
					p.v[(c.nk-1)*c.dim+3] = last
				}
				for name, dtypes := range map[string][2]DType{
					"F32": {Float32, Float32}, "BF16": {BFloat16, BFloat16}, "BF16 under F32": {Float32, BFloat16}, "F16": {Float32, Float16}, "I8": {Float32, Int8},
				} {
					if dtypes[1] == Int8 && last != 0 {
						continue
					}
					attended := func(rows, pageRows int) []uint32 {
						var q []float32
						for h := range c.heads {
							q = append(q, p.q[((h+1)*many-rows)*c.dim:(h+1)*many*c.dim]...)
						}
						one := *p
						one.nq, one.q = rows, q
						s := one.sequence()
						if dtypes[0] == BFloat16 {
							s.Q = FromBFloat16(bits(q), c.heads, rows, c.dim)
						}
						view := func(x []float32) Tensor {
							switch dtypes[1] {
							case BFloat16:
								return FromBFloat16Pages(inPages(bits(x), 0x7fc0, pageRows, c.kvHeads, c.nk, c.dim), pageRows, c.kvHeads, c.nk, c.dim)
							case Float16:
								half := make([]uint16, len(x))
								for i := range x {
									half[i] = toHalf(x[i])
								}
								return FromFloat16Pages(inPages(half, 0x7e00, pageRows, c.kvHeads, c.nk, c.dim), pageRows, c.kvHeads, c.nk, c.dim)
							case Int8:
								data, scales := eighths(x, c.dim)
								nan := float32(math.NaN())
								return FromInt8Pages(inPages(data, 99, pageRows, c.kvHeads, c.nk, c.dim), inPages(scales, nan, pageRows, c.kvHeads, c.nk, 1), pageRows, c.kvHeads, c.nk, c.dim)
							}
							return FromPages(inPages(x, float32(math.NaN()), pageRows, c.kvHeads, c.nk, c.dim), pageRows, c.kvHeads, c.nk, c.dim)
						}
						s.K, s.V = view(p.k), view(p.v)
						o, lse, _ := mustAttend(t, set, Options{Planner: Dense()}, s)
						var tail []float32 // the last row of each head
						for h := range c.heads {
							tail = append(tail, o[0][((h+1)*rows-1)*c.dim:(h+1)*rows*c.dim]...)
							tail = append(tail, lse[0][(h+1)*rows-1])
						}
						for i, x := range tail {
							if x != x { // of which there are many
								tail[i] = float32(math.NaN())
							}
						}
						return bitsOf(tail)
					}
					want := attended(many, c.nk)
					for _, rows := range []int{1, 2} {
						for _, pageRows := range []int{c.nk, 128, 33} {
							if got := attended(rows, pageRows); !slices.Equal(got, want) {
								t.Errorf("%+v, %s, last value %v: %d rows over pages of %d differ", c, name, last, rows, pageRows)
							}
						}
					}
				}
			}
		}
	})
}
