package matrix

import (
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/anchorattention/anchor/internal/kernel"
)

var allTypes = []Type{F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q5_K, Q6_K}

// random returns a matrix of about unit scale.
func random(t testing.TB, r *rand.Rand, typ Type, rows, cols int) *Matrix {
	elements, bytes := typ.Block()
	data := make([]byte, rows*cols/elements*bytes)
	put := func(at int, x float64, half bool) {
		bits := math.Float32bits(float32(x))
		switch {
		case typ == F32:
			binary.LittleEndian.PutUint32(data[at:], bits)
		case half: // toward zero: exponents here are those of normal numbers
			binary.LittleEndian.PutUint16(data[at:], uint16(bits>>16&0x8000|(bits>>13&0x3ffff-112<<10)&0x7fff))
		default:
			binary.LittleEndian.PutUint16(data[at:], uint16(bits>>16))
		}
	}
	for at := 0; at < len(data); at += bytes {
		block := data[at : at+bytes]
		for i := range block {
			block[i] = byte(r.Uint32())
		}
		size := 0.5 + r.Float64()
		if r.IntN(2) == 0 {
			size = -size
		}
		switch typ {
		case F32, F16, BF16:
			put(at, size, typ == F16)
		case Q8_0:
			put(at, size/128, true)
		case Q4_0:
			put(at, size/8, true)
		case Q4_K:
			put(at, size/(64*8), true)
			put(at+2, size/64, true)
		case Q5_K:
			put(at, size/(64*16), true)
			put(at+2, size/64, true)
		case Q6_K:
			put(at+208, size/(128*32), true)
		}
	}
	m, err := New(typ, rows, cols, data)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// roundInputs gives the numbers of a token [cols] the precision that goes with a type.
func roundInputs(typ Type, x []float64) {
	switch typ {
	case F32, F16:
	case BF16:
		for i := range x {
			x[i] = float64(math.Float32frombits(uint32(kernel.RoundToBFloat16(float32(x[i]))) << 16))
		}
	default:
		for ; len(x) > 0; x = x[32:] {
			var most float64
			for _, v := range x[:32] {
				most = max(most, math.Abs(v))
			}
			if most == 0 {
				continue
			}
			by := 127 / float32(most)
			for i, v := range x[:32] {
				x[i] = math.RoundToEven(float64(float32(v)*by)) * float64(float32(most)/127)
			}
		}
	}
}

func multiply(k *kernel.Set, m *Matrix, width, tokens, tiles int, b, c []float32, add bool) {
	var in Inputs
	var s Scratch
	in.Reset(k, m, width, b)
	for t := range tiles {
		in.Pack(t)
	}
	m.Multiply(&in, 0, m.Rows(), 0, tiles, tokens, c, add, &s)
}

// At every level products equal those in double precision of weights and numbers rounded as the type says, within the
// rounding of sums in single precision; and each is the same, bit by bit, however rows, tokens and tiles are cut.
func TestMultiply(t *testing.T) {
	for _, k := range kernel.Levels() {
		for _, typ := range allTypes {
			t.Run(fmt.Sprint(k.Name(), "/", typ), func(t *testing.T) {
				r := rand.New(rand.NewPCG(1, uint64(typ)))
				shapes := [][2]int{{1, 256}, {50, 256}, {99, 768}}
				if elements, _ := typ.Block(); elements == 1 {
					shapes = append(shapes, [][2]int{{3, 1}, {17, 7}, {65, 40}}...)
				}
				if testing.Short() {
					shapes = shapes[1:2]
				}
				for _, shape := range shapes {
					rows, cols := shape[0], shape[1]
					const width, tiles = 32, 3
					m := random(t, r, typ, rows, cols)
					b, before := make([]float32, tiles*cols*width), make([]float32, tiles*rows*width)
					for i := range b {
						b[i] = float32(r.NormFloat64())
					}
					for i := range before {
						before[i] = float32(r.NormFloat64())
					}
					for i := range cols { // a token of nothing
						b[i*width+3] = 0
					}
					sum, plain := slices.Clone(before), slices.Clone(before)
					multiply(k, m, width, width, tiles, b, sum, true)
					multiply(k, m, width, width, tiles, b, plain, false)
					check(t, m, width, b, plain)
					for i := range sum {
						want := float64(plain[i]) + float64(before[i])
						if d := math.Abs(float64(sum[i]) - want); !(d <= 1e-3) {
							t.Fatalf("%v: number %d added is %v; want %v", shape, i, sum[i], want)
						}
					}

					// In parts: of rows, of tiles, and of few tokens.
					var in Inputs
					var s Scratch
					in.Reset(k, m, width, b)
					for tile := range tiles {
						in.Pack(tile)
					}
					parts := make([]float32, len(plain))
					for from := 0; from < rows; from += RowsAtOnce {
						to := min(from+RowsAtOnce, rows)
						m.Multiply(&in, from, to, 0, 1, width, parts, false, &s)
						m.Multiply(&in, from, to, 1, tiles, width, parts, false, &s)
					}
					if !slices.Equal(parts, plain) {
						t.Fatalf("%v: products in parts differ", shape)
					}
					for _, tokens := range []int{1, 2, 4, 5, 8, 13, 16} {
						first := r.IntN(width - tokens + 1)
						few, got := make([]float32, cols*kernel.Lanes), make([]float32, rows*kernel.Lanes)
						for p := range cols {
							copy(few[p*kernel.Lanes:][:tokens], b[(cols+p)*width+first:])
						}
						result, add := plain, tokens%2 == 0
						if add {
							result = sum
							for i := range rows {
								copy(got[i*kernel.Lanes:][:tokens], before[(rows+i)*width+first:])
							}
						}
						multiply(k, m, kernel.Lanes, tokens, 1, few, got, add)
						for i := range rows {
							if want := result[(rows+i)*width+first:][:tokens]; !slices.Equal(got[i*kernel.Lanes:][:tokens], want) {
								t.Fatalf("%v: row %d of %d tokens alone is %v; want %v", shape, i, tokens, got[i*kernel.Lanes:][:tokens], want)
							}
						}
					}
				}
			})
		}
	}
}

// check compares products c with those in double precision.
func check(t *testing.T, m *Matrix, width int, b, c []float32) {
	rows, cols := m.Rows(), m.Cols()
	tokens := make([][]float64, len(b)/cols)
	for col := range tokens {
		x := make([]float64, cols)
		for p := range x {
			x[p] = float64(b[(col/width*cols+p)*width+col%width])
		}
		roundInputs(m.Type(), x)
		tokens[col] = x
	}
	w := make([]float32, cols)
	for i := range rows {
		m.Row(i, w)
		most := 0.
		for _, v := range w {
			most = max(most, math.Abs(float64(v)))
		}
		for col, x := range tokens {
			var sum, size float64
			for p, v := range w {
				sum += float64(v) * x[p]
				size += most * math.Abs(x[p])
			}
			if got := c[(col/width*rows+i)*width+col%width]; !(math.Abs(float64(got)-sum) <= size*float64(cols+8)*0x1p-24) {
				t.Fatalf("%v: row %d of token %d is %v; want %v", []int{rows, cols}, i, col, got, sum)
			}
		}
	}
}

// A number that is not finite spoils its own token alone.
func TestMultiplyNotFinite(t *testing.T) {
	for _, k := range kernel.Levels() {
		for _, typ := range allTypes {
			r := rand.New(rand.NewPCG(2, uint64(typ)))
			for _, bad := range []float64{math.NaN(), math.Inf(1)} {
				const rows, cols, width = 16, 256, 32
				m := random(t, r, typ, rows, cols)
				b, c := make([]float32, cols*width), make([]float32, rows*width)
				for i := range b {
					b[i] = float32(r.NormFloat64())
				}
				b[100*width+5] = float32(bad)
				multiply(k, m, width, width, 1, b, c, false)
				for i, x := range c {
					if finite := x-x == 0; finite != (i%width != 5) {
						t.Errorf("%s, %v: with a %v in token 5, token %d has %v", k.Name(), typ, bad, i%width, x)
						break
					}
				}
			}
		}
	}
}
