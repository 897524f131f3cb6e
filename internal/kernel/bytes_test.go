package kernel

import (
	"encoding/binary"
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// forBytes runs f at every level that has kernels on bytes.
func forBytes(t *testing.T, f func(t *testing.T, s *Set)) {
	for _, s := range Levels() {
		if s.Bytes() {
			t.Run(s.Name(), func(t *testing.T) { f(t, s) })
		}
	}
}

// columnsOfBytes returns Lanes columns of k numbers of several sizes, some of them all zeros or tiny.
func columnsOfBytes(r *rand.Rand, k, ld int) []float32 {
	x := random(r, (k-1)*ld+Lanes)
	for j := range Lanes {
		for g := 0; g < k; g += groupSize {
			size := float32(math.Exp(r.NormFloat64() * 5))
			switch r.IntN(6) {
			case 0:
				size = 0
			case 1:
				size = 1e-36
			}
			for p := g; p < g+groupSize; p++ {
				x[p*ld+j] *= size
			}
		}
	}
	return x
}

// Quantise rounds the numbers of each group to the nearest 127th of the largest, and writes what goes with them; nothing else
// is written.
func TestQuantise(t *testing.T) {
	forBytes(t, func(t *testing.T, s *Set) {
		r := rand.New(rand.NewPCG(41, 42))
		for _, groups := range []int{1, 2, 5} {
			k, ld := groups*groupSize, Lanes+r.IntN(3)
			x := columnsOfBytes(r, k, ld)
			dst := make([]uint32, InputSize(k)+1)
			dst[len(dst)-1] = 77
			s.Quantise(k, x, ld, dst[:InputSize(k)])
			if dst[len(dst)-1] != 77 {
				t.Fatal("Quantise wrote beyond its end")
			}
			for g := range groups {
				group := dst[g*inputWords:]
				for j := range Lanes {
					var most float32
					for p := range groupSize {
						most = max(most, float32(math.Abs(float64(x[(g*groupSize+p)*ld+j]))))
					}
					scale, by := most/127, float32(0)
					if most >= 0x1p-100 {
						by = 127 / most
					}
					if got := math.Float32frombits(group[128+j]); got != scale {
						t.Fatalf("group %d of column %d: scale is %v; want %v", g, j, got, scale)
					}
					var sum [2]int
					for p := range groupSize {
						got := int(int8(group[p/4*Lanes+j] >> (p % 4 * 8)))
						if want := int(math.RoundToEven(float64(x[(g*groupSize+p)*ld+j] * by))); got != want {
							t.Fatalf("group %d of column %d: number %d is %d; want %d", g, j, p, got, want)
						}
						sum[p/16] += got
					}
					for i, want := range []int{sum[0] + sum[1], sum[0], sum[1]} {
						if got := int(int32(group[144+16*i+j])); got != -128*want {
							t.Fatalf("group %d of column %d: correction %d is %d; want −128·%d", g, j, i, got, want)
						}
					}
					if got, want := math.Float32frombits(group[192+j]), scale*float32(sum[0]+sum[1]); got != want {
						t.Fatalf("group %d of column %d: scaled sum is %v; want %v", g, j, got, want)
					}
				}
			}
		}
	})
}

// A product of a panel is the sum over groups, in order, of whole-number products that are exact, whatever columns are
// computed with it and wherever the sum is cut.
func TestPanelOfBytes(t *testing.T) {
	forBytes(t, func(t *testing.T, s *Set) {
		r := rand.New(rand.NewPCG(43, 44))
		const groups = 7
		const k = groups * groupSize
		src := make([]byte, Lanes*groups*34)
		for at := 0; at < len(src); at += 34 {
			binary.LittleEndian.PutUint16(src[at:], uint16(r.IntN(0x400)+0x3000)) // 2^−3 … 2^−2
			for i := range 32 {
				src[at+2+i] = byte(r.Uint32())
			}
		}
		copy(src[2:34], slices.Repeat([]byte{0x80}, 32)) // the largest magnitude, beside the largest numbers
		x := columnsOfBytes(r, k, Lanes)
		for p := range groupSize {
			x[p*Lanes] = 1
		}
		inputs, panel := make([]uint32, InputSize(k)), make([]uint32, Q8_0.PanelSize(k))
		s.Quantise(k, x, Lanes, inputs)
		s.UnpackPanel(Q8_0, k, 0, k, src, panel)
		before := [Lanes * Lanes]float32(random(r, Lanes*Lanes))
		want := before
		for i := range Lanes {
			for g := range groups {
				block := src[(i*groups+g)*34:]
				for j := range Lanes {
					dot := 0
					for p := range groupSize {
						dot += int(int8(block[2+p])) * int(int8(inputs[g*inputWords+p/4*Lanes+j]>>(p%4*8)))
					}
					scale := HalfToSingle(binary.LittleEndian.Uint16(block)) * math.Float32frombits(inputs[g*inputWords+128+j])
					// A product of 24 and 24 bits is exact in double precision; so nearly is the sum.
					want[j*Lanes+i] = float32(float64(want[j*Lanes+i]) + float64(dot)*float64(scale))
				}
			}
		}
		all := before
		s.MultiplyPanel(Q8_0, k, panel, inputs, 0, Lanes, &all)
		for i := range all {
			if d := math.Abs(float64(all[i] - want[i])); !(d <= 1e-6*math.Abs(float64(want[i]))+1e-30) {
				t.Fatalf("row %d, column %d: %v; want %v", i%Lanes, i/Lanes, all[i], want[i])
			}
		}
		for from := range Lanes {
			for to := from + 1; to <= Lanes; to++ {
				got, cut := before, before
				s.MultiplyPanel(Q8_0, k, panel, inputs, from, to, &got)
				s.MultiplyPanel(Q8_0, 96, panel, inputs, from, to, &cut)
				s.MultiplyPanel(Q8_0, k-96, panel[Q8_0.PanelSize(96):], inputs[InputSize(96):], from, to, &cut)
				for i := from * Lanes; i < to*Lanes; i++ {
					if got[i] != all[i] || cut[i] != all[i] {
						t.Fatalf("columns %d … %d, column %d: %v and, in two parts, %v; want %v", from, to, i/Lanes, got[i], cut[i], all[i])
					}
				}
			}
		}
		rows := before
		for j := range Lanes {
			if !s.MultiplyRows(Q8_0, k, src, inputs, j, &rows) {
				t.Fatal("MultiplyRows wants a panel")
			}
		}
		if rows != all {
			t.Fatal("products without a panel differ")
		}
		parts := make([]uint32, len(panel))
		s.UnpackPanel(Q8_0, k, 0, 64, src, parts)
		s.UnpackPanel(Q8_0, k, 64, k, src, parts[Q8_0.PanelSize(64):])
		if !slices.Equal(parts, panel) {
			t.Fatal("a panel unpacked in two parts differs")
		}
	})
}

// PackPairs rounds to the nearest; SplitFloat16 and SplitBFloat16 take pairs apart.
func TestPairsOfRows(t *testing.T) {
	forLevels(t, func(t *testing.T, s *Set) {
		r := rand.New(rand.NewPCG(45, 46))
		for _, rows := range []int{1, 2, 7} {
			for _, n := range []int{16, 48} {
				if s.Pairs() {
					src, dst := random(r, 2*rows*n), make([]uint32, rows*n)
					s.PackPairs(2*rows, n, src, dst)
					for i, got := range dst {
						low, high := RoundToBFloat16(src[i/n*2*n+i%n]), RoundToBFloat16(src[(i/n*2+1)*n+i%n])
						if want := uint32(low) | uint32(high)<<16; got != want {
							t.Fatalf("%d×%d: pair %d is %#x; want %#x", rows, n, i, got, want)
						}
					}
				}
				if !s.Splits() {
					continue
				}
				src, dst := make([]uint32, rows*n), make([]float32, 2*rows*n)
				for i := range src {
					src[i] = r.Uint32()
				}
				for name, kind := range map[string]struct {
					split func(rows, n int, src []uint32, dst []float32)
					one   func(uint16) float32
				}{
					"SplitFloat16":  {s.SplitFloat16, HalfToSingle},
					"SplitBFloat16": {s.SplitBFloat16, func(x uint16) float32 { return math.Float32frombits(uint32(x) << 16) }},
				} {
					kind.split(rows, n, src, dst)
					for i, got := range dst {
						want := kind.one(uint16(src[i/n/2*n+i%n] >> (i / n % 2 * 16)))
						if got != want && (got == got || want == want) {
							t.Fatalf("%s %d×%d: number %d is %v; want %v", name, rows, n, i, got, want)
						}
					}
				}
			}
		}
	})
}
