package matrix

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

var all = []Type{F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q5_K, Q6_K}

// bits returns n bits of b from bit at on, the least significant of a byte first.
func bits(b []byte, at, n int) int {
	v := 0
	for i := range n {
		v |= int(b[(at+i)/8]>>((at+i)%8)&1) << i
	}
	return v
}

// half16 evaluates a half-precision number by the standard's formula.
func half16(b []byte) float64 {
	fraction, exponent, sign := float64(bits(b, 0, 10)), bits(b, 10, 5), 1-2*float64(bits(b, 15, 1))
	switch exponent {
	case 0:
		return sign * fraction * 0x1p-24
	case 31:
		if fraction != 0 {
			return math.NaN()
		}
		return math.Inf(int(sign))
	}
	return sign * math.Ldexp(1+fraction/1024, exponent-15)
}

// signed interprets n bits as a number in two's complement.
func signed(v, n int) float64 { return float64(v << (64 - n) >> (64 - n)) }

// element computes element e of a block from the formats' definitions, bit by bit and in double precision.
func element(t Type, b []byte, e int) float64 {
	switch t {
	case F32:
		return float64(math.Float32frombits(uint32(bits(b, 0, 32))))
	case F16:
		return half16(b)
	case BF16:
		return float64(math.Float32frombits(uint32(bits(b, 0, 16)) << 16))
	case Q8_0: // half d; int8 qs[32]
		return half16(b) * signed(bits(b, 16+8*e, 8), 8)
	case Q4_0: // half d; qs[16], whose lower halves are the first 16 elements
		return half16(b) * float64(bits(b, 16+8*(e%16)+4*(e/16), 4)-8)
	case Q4_K, Q5_K:
		// half d, dmin; 12 bytes of scales and minima; for Q5_K the fifth bits, bit s of byte i for element i of sub-block
		// s; qs[128], of which 32 bytes hold two sub-blocks, the first below.
		s, i := e/32, e%32
		scale, minimum := 0, 0
		if s < 4 {
			scale, minimum = bits(b, 32+8*s, 6), bits(b, 64+8*s, 6)
		} else {
			scale = bits(b, 96+8*(s-4), 4) + 16*bits(b, 32+8*(s-4)+6, 2)
			minimum = bits(b, 96+8*(s-4)+4, 4) + 16*bits(b, 64+8*(s-4)+6, 2)
		}
		q := 0
		if t == Q4_K {
			q = bits(b, 128+8*(32*(s/2)+i)+4*(s%2), 4)
		} else {
			q = bits(b, 384+8*(32*(s/2)+i)+4*(s%2), 4) + 16*bits(b, 128+8*i+s, 1)
		}
		return half16(b)*float64(scale)*float64(q) - half16(b[2:])*float64(minimum)
	case Q6_K: // lower[128], upper[64], int8 scales[16], half d
		h, k, j := e/128, e/32%4, e%32
		low := bits(b, 8*(64*h+32*(k%2)+j)+4*(k/2), 4)
		high := bits(b, 8*(128+32*h+j)+2*k, 2)
		return half16(b[208:]) * signed(bits(b, 8*(192+e/16), 8), 8) * float64(low+16*high-32)
	}
	panic(t)
}

func seeded(seed uint64) *rand.Rand { return rand.New(rand.NewPCG(seed, 1)) }

func randomBytes(r *rand.Rand, n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(r.Uint32())
	}
	return b
}

// Unpacking random bytes gives exactly what the definitions say: their products fit in single precision, so only the
// subtraction rounds.
func TestUnpack(t *testing.T) {
	r := seeded(1)
	for _, typ := range all {
		t.Run(typ.String(), func(t *testing.T) {
			elements, size := typ.Block()
			src, dst := randomBytes(r, 500*size), make([]float32, 500*elements)
			Unpack(typ, src, dst)
			for i, got := range dst {
				want := float32(element(typ, src[i/elements*size:], i%elements))
				if got != want && (got == got || want == want) {
					t.Fatalf("element %d is %v; want %v", i, got, want)
				}
			}
		})
	}
}

// Packing in the formats that only round gives the nearest number, for every exponent, and keeps what can be kept.
func TestPackFloats(t *testing.T) {
	var b [4]byte
	var x [1]float32
	for _, typ := range []Type{F16, BF16} {
		// Every number of 16 bits is kept, but for the kind of a NaN.
		for v := range 1 << 16 {
			binary.LittleEndian.PutUint16(b[:], uint16(v))
			Unpack(typ, b[:2], x[:])
			Pack(typ, x[:], b[:2])
			if got := binary.LittleEndian.Uint16(b[:]); int(got) != v && x[0] == x[0] {
				t.Fatalf("%v %#04x, which is %v, becomes %#04x", typ, v, x[0], got)
			}
			if y := x; y[0] != y[0] {
				if Unpack(typ, b[:2], y[:]); y[0] == y[0] {
					t.Fatalf("%v %#04x, a NaN, becomes %v", typ, v, y[0])
				}
			}
		}
		// Others go to the nearer of their neighbours, to the even one in the middle.
		at := func(v int) float64 {
			binary.LittleEndian.PutUint16(b[:], uint16(v))
			Unpack(typ, b[:2], x[:])
			return float64(x[0])
		}
		for v := range 1<<15 - 1 {
			low, high := at(v), at(v+1)
			if math.IsInf(high, 0) || high != high {
				continue
			}
			for _, share := range []float64{0.25, 0.5, 0.75} {
				between := low + share*(high-low)
				want := v
				if share > 0.5 || share == 0.5 && v%2 == 1 {
					want++
				}
				if x[0] = float32(between); float64(x[0]) != between {
					continue // BF16's least numbers lie as close as single precision's
				}
				Pack(typ, x[:], b[:2])
				if got := int(binary.LittleEndian.Uint16(b[:])); got != want {
					t.Fatalf("%v of %v, between %#04x and the next, is %#04x; want %#04x", typ, between, v, got, want)
				}
			}
		}
	}
	x[0] = 65520
	if Pack(F16, x[:], b[:2]); !math.IsInf(half16(b[:]), 1) {
		t.Errorf("65520 in half precision is %v", half16(b[:]))
	}
}

// halfStep bounds the change of each element, by what the format's scales allow for these elements.
func halfStep(typ Type, x []float32) []float64 {
	const half = 1 + 0x1p-10 // how much larger a scale may become when it is stored as a half; its least is 2^−24
	round := func(scale float64) float64 { return scale*half + 0x1p-24 }
	reach := func(x []float32) (below, above float64) {
		for _, v := range x {
			below, above = max(below, -float64(v)), max(above, float64(v))
		}
		return below, above
	}
	bound := make([]float64, len(x))
	fill := func(from, n int, step float64) {
		for i := range n {
			bound[from+i] = step / 2
		}
	}
	switch typ {
	case Q8_0:
		below, above := reach(x)
		fill(0, 32, round(max(below, above)/127))
	case Q4_0:
		below, above := reach(x)
		fill(0, 32, round(max(min(below, above)/7, max(below, above)/8)))
	case Q4_K, Q5_K:
		most := 15.0
		if typ == Q5_K {
			most = 31
		}
		deepest, widest := 0.0, 0.0
		for s := range 8 {
			below, _ := reach(x[s*32:][:32])
			deepest = max(deepest, below)
		}
		dmin := round(deepest / 63)
		for s := range 8 {
			below, above := reach(x[s*32:][:32])
			widest = max(widest, (below+dmin+above)/most)
		}
		for s := range 8 {
			below, above := reach(x[s*32:][:32])
			fill(s*32, 32, (below+dmin+above)/most+round(widest/63))
		}
	case Q6_K:
		largest := 0.0
		for s := range 16 {
			below, above := reach(x[s*16:][:16])
			largest = max(largest, below/32, above/31)
		}
		for s := range 16 {
			below, above := reach(x[s*16:][:16])
			fill(s*16, 16, max(below/32, above/31)+round(largest/127))
		}
	}
	return bound
}

// What is packed and unpacked differs by half a step at most; zero and, where the range has them, signs are kept.
func TestPackQuantised(t *testing.T) {
	r := seeded(2)
	shapes := map[string]func(i int) float64{
		"normal":       func(int) float64 { return r.NormFloat64() },
		"small":        func(int) float64 { return 0.02 * r.NormFloat64() },
		"tiny":         func(int) float64 { return 1e-7 * r.NormFloat64() },
		"large":        func(int) float64 { return 5e4 * r.NormFloat64() },
		"positive":     func(int) float64 { return 3 + r.Float64() },
		"negative":     func(int) float64 { return -3 - r.Float64() },
		"outlier":      func(i int) float64 { return r.NormFloat64() * (1 + 100*float64(i%97/96)) },
		"uneven":       func(i int) float64 { return math.Pow(8, float64(i/16%5)) * r.NormFloat64() },
		"one":          func(i int) float64 { return float64(i % 256 / 255) },
		"minus one":    func(i int) float64 { return -float64(i % 256 / 255) },
		"zero":         func(int) float64 { return 0 },
		"constant":     func(int) float64 { return 0.3 },
		"both extrema": func(i int) float64 { return []float64{1, -1, 0, 0.5}[i%4] },
	}
	for _, typ := range all[3:] {
		for name, shape := range shapes {
			t.Run(fmt.Sprint(typ, "/", name), func(t *testing.T) {
				elements, size := typ.Block()
				for range 50 {
					x, y, b := make([]float32, elements), make([]float32, elements), randomBytes(r, size)
					for i := range x {
						x[i] = float32(shape(i))
					}
					Pack(typ, x, b)
					Unpack(typ, b, y)
					for i, bound := range halfStep(typ, x) {
						change := math.Abs(float64(y[i]) - float64(x[i]))
						if !(change <= bound+1e-6*math.Abs(float64(x[i]))) {
							t.Fatalf("element %d changes from %v to %v, by %.4g; want at most %.4g", i, x[i], y[i], change, bound)
						}
						if x[i] == 0 && (typ == Q8_0 || typ == Q4_0 || typ == Q6_K) && y[i] != 0 {
							t.Fatalf("element %d changes from 0 to %v", i, y[i])
						}
					}
					again := make([]byte, size)
					Pack(typ, x, again)
					if !bytes.Equal(b, again) {
						t.Fatal("what was in the destination shows")
					}
				}
			})
		}
	}
}

// A matrix gives its rows, whatever its type.
func TestRow(t *testing.T) {
	r := seeded(3)
	for _, typ := range all {
		x := make([]float32, 3*512)
		for i := range x {
			x[i] = r.Float32()
		}
		elements, size := typ.Block()
		b := make([]byte, len(x)/elements*size)
		Pack(typ, x, b)
		m, err := New(typ, 3, 512, b)
		if err != nil {
			t.Fatal(err)
		}
		if m.Type() != typ || m.Rows() != 3 || m.Cols() != 512 || len(m.Bytes()) != len(b) {
			t.Errorf("%v [%d, %d] of %d bytes; want %v [3, 512] of %d", m.Type(), m.Rows(), m.Cols(), len(m.Bytes()), typ, len(b))
		}
		all, row := make([]float32, len(x)), make([]float32, 512)
		Unpack(typ, b, all)
		for i := range 3 {
			m.Row(i, row)
			for j, got := range row {
				if got != all[i*512+j] {
					t.Fatalf("%v: row %d has %v at %d; want %v", typ, i, got, j, all[i*512+j])
				}
			}
		}
	}
	m := FromFloat32([]float32{1, 2, 3, 4, 5, 6}, 2, 3)
	if x := m.Float32s(); len(x) != 6 || x[5] != 6 {
		t.Errorf("elements are %v", x)
	}
	y := make([]float32, 3)
	if m.Row(1, y); y[0] != 4 {
		t.Errorf("row 1 is %v", y)
	}
}

// A matrix whose parts contradict one another is an error that says which.
func TestNewErrors(t *testing.T) {
	data := make([]byte, 1024)
	for _, c := range []struct {
		typ        Type
		rows, cols int
		data       []byte
		want       string
	}{
		{0, 1, 1, data, "Type(0)"},
		{Q6_K + 1, 1, 1, data, "Type(9)"},
		{F32, 0, 1, nil, "[0, 1]"},
		{F32, 1, -1, nil, "[1, -1]"},
		{F32, math.MaxInt, 2, data, "elements"},
		{Q4_K, 1, 128, data[:72], "256"},
		{Q8_0, 1, 33, data[:34], "32"},
		{F16, 2, 3, data[:11], "12"},
		{F16, 2, 3, nil, "12"},
		{F32, 1, 2, data[1:9], "multiple of 4"},
		{Q8_0, 1, 32, data[1:35], "multiple of 2"},
	} {
		if _, err := New(c.typ, c.rows, c.cols, c.data); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("New(%v, %d, %d, %d bytes): error %v; want one that mentions %q", c.typ, c.rows, c.cols, len(c.data), err, c.want)
		}
	}
}
