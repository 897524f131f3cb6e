package kernel

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// forPairs runs f at every level that has kernels on pairs.
func forPairs(t *testing.T, f func(t *testing.T, s *Set)) {
	for _, s := range Levels() {
		if s.Pairs() {
			t.Run(s.Name(), func(t *testing.T) {
				s.BeginPairs()
				defer s.EndPairs()
				f(t, s)
			})
		}
	}
}

// truncated returns normal numbers as bfloat16s, of which products and short sums in float32 are nearly exact.
func truncated(r *rand.Rand, n int) []uint16 {
	x := make([]uint16, n)
	for i := range x {
		x[i] = uint16(math.Float32bits(float32(r.NormFloat64())) >> 16)
	}
	return x
}

func wide(x uint16) float64 { return float64(math.Float32frombits(uint32(x) << 16)) }

// GemmPairs equals the sum in float64 within rounding, touches nothing else, and does not depend on how rows are cut.
func TestGemmPairs(t *testing.T) {
	forPairs(t, func(t *testing.T, s *Set) {
		r := rand.New(rand.NewPCG(1, 2))
		for _, tall := range []int{0, 1, 2, 3, 5, 8, 13} {
			for _, n := range []int{16, 32, 48, 80, 112} {
				for _, deep := range []int{1, 2, 7} {
					for _, add := range []bool{false, true} {
						m, k := tall*s.PairRows(), deep*s.PairDepth()
						lda, ldb, ldc := 2*k+r.IntN(3), n+r.IntN(3), n+r.IntN(3)
						a, b := truncated(r, max((m-1)*lda+2*k, 1)), truncated(r, 2*k*ldb)
						pairs := make([]uint32, k*ldb) // b[2p][j] and b[2p+1][j]
						for i := range pairs {
							p, j := i/ldb, i%ldb
							pairs[i] = uint32(b[2*p*ldb+j]) | uint32(b[(2*p+1)*ldb+j])<<16
						}
						c := random(r, m*ldc+1)
						before := slices.Clone(c)
						s.GemmPairs(m, n, k, a, lda, pairs, ldb, c, ldc, add)
						for i := range c {
							row, j := i/ldc, i%ldc
							if row >= m || j >= n {
								if c[i] != before[i] {
									t.Fatalf("m=%d n=%d: element %d of c, outside the result, was written", m, n, i)
								}
								continue
							}
							var sum, size float64
							if add {
								sum = float64(before[i])
								size = math.Abs(sum)
							}
							for p := range 2 * k {
								x := wide(a[row*lda+p]) * wide(b[p*ldb+j])
								sum += x
								size += math.Abs(x)
							}
							if diff := math.Abs(float64(c[i]) - sum); !(diff <= size*float64(2*k+1)*0x1p-24) {
								t.Fatalf("m=%d n=%d k=%d add=%v: c[%d][%d] = %v, want %v", m, n, k, add, row, j, c[i], sum)
							}
						}
						if k%(2*s.PairDepth()) == 0 && !add && m > 0 { // two halves of the depth are two products
							a := truncated(r, (m-1)*lda+k)
							for i := range a { // of the same a
								a[i] &= 0xfff0
							}
							twice, want := make([]float32, m*ldc), make([]float32, m*ldc)
							s.GemmPairsTwice(m, n, k/2, a, lda, pairs, ldb, twice, ldc)
							s.GemmPairs(m, n, k/2, a, lda, pairs, ldb, want, ldc, false)
							s.GemmPairs(m, n, k/2, a, lda, pairs[k/2*ldb:], ldb, want, ldc, true)
							for i := range want {
								if d := math.Abs(float64(twice[i] - want[i])); !(d <= 1e-3) {
									t.Fatalf("m=%d n=%d k=%d: twice c[%d] = %v, want %v", m, n, k, i, twice[i], want[i])
								}
							}
						}
						if one := s.PairRows(); m > one {
							cut := slices.Clone(before)
							s.GemmPairs(one, n, k, a, lda, pairs, ldb, cut, ldc, add)
							s.GemmPairs(m-one, n, k, a[one*lda:], lda, pairs, ldb, cut[one*ldc:], ldc, add)
							if !slices.Equal(cut, c) {
								t.Fatalf("m=%d n=%d k=%d: cutting rows changes the result", m, n, k)
							}
						}
					}
				}
			}
		}
	})
}

// Values packed and multiplied equal the sum in float64; missing keys count for nothing; and a value that is not finite is
// noticed wherever it is.
func TestValues(t *testing.T) {
	forPairs(t, func(t *testing.T, s *Set) {
		r := rand.New(rand.NewPCG(3, 4))
		for _, dim := range []int{16, 80, 128, 256} {
			for _, n := range []int{1, 2, 31, 32, 33, 128} {
				for _, width := range []int{16, 48} {
					const pairs = 64
					ldv, ldw, ldc := dim+r.IntN(3), width+r.IntN(3), width+r.IntN(3)
					v, w := truncated(r, n*ldv), truncated(r, n*width)
					depth := (n + 2*s.PairDepth() - 1) / (2 * s.PairDepth()) * s.PairDepth()
					weights := make([]uint32, pairs*ldw)
					for i, x := range w {
						j, row := i/width, i%width
						weights[j/2*ldw+row] |= uint32(x) << (j % 2 * 16)
					}
					row := func(j int) []uint16 { return v[j*ldv:] }
					packed, buf := make([]uint32, pairs*dim), make([]uint32, pairs*dim)
					for i := range packed {
						packed[i], buf[i] = 0x7fc07fc0, 0x7fc07fc0 // what is not written shows
					}
					if !s.PackValues(n, dim, pairs, row, packed, buf) {
						t.Fatalf("%d keys of dim %d are not finite", n, dim)
					}
					c := random(r, dim*ldc)
					before := slices.Clone(c)
					s.GemmValues(dim, width, 0, depth, pairs, packed, weights, ldw, c, ldc)
					for i := range c {
						d, j := i/ldc, i%ldc
						sum := float64(before[i])
						size := math.Abs(sum)
						if j < width {
							for p := range n {
								x := wide(v[p*ldv+d]) * wide(w[p*width+j])
								sum += x
								size += math.Abs(x)
							}
						}
						if diff := math.Abs(float64(c[i]) - sum); !(diff <= size*float64(n+2)*0x1p-24) {
							t.Fatalf("n=%d dim=%d: c[%d][%d] = %v, want %v", n, dim, d, j, c[i], sum)
						}
					}
					if one := s.PairDepth(); depth > one { // in two parts
						parts := slices.Clone(before)
						s.GemmValues(dim, width, 0, one, pairs, packed, weights, ldw, parts, ldc)
						s.GemmValues(dim, width, one, depth, pairs, packed, weights, ldw, parts, ldc)
						for i := range c {
							if d := math.Abs(float64(parts[i] - c[i])); !(d <= 1e-4) {
								t.Fatalf("n=%d dim=%d: in two parts c[%d] = %v; want %v", n, dim, i, parts[i], c[i])
							}
						}
					}
					for _, bad := range []uint16{0x7f80, 0xff80, 0x7fc1, 0xffff} {
						was := r.IntN(n)*ldv + r.IntN(dim)
						old := v[was]
						v[was] = bad
						if s.PackValues(n, dim, pairs, row, packed, buf) {
							t.Fatalf("n=%d dim=%d: %#x at %d passes for finite", n, dim, bad, was)
						}
						v[was] = old
					}
				}
			}
		}
	})
}

// ExpPairs is ExpSum, rounded to the nearest bfloat16, in pairs of rows and padded with zeros.
func TestExpPairs(t *testing.T) {
	forPairs(t, func(t *testing.T, s *Set) {
		r := rand.New(rand.NewPCG(5, 6))
		for _, rows := range []int{1, 2, 3, 31, 32, 127, 128} {
			for _, n := range []int{16, 48} {
				ld, ldd := n+r.IntN(3), n+r.IntN(3)
				x, m, l := make([]float32, rows*ld), random(r, n), random(r, n)
				for i := range x {
					x[i] = float32(r.Float64()*80 - 70)
					if r.IntN(30) == 0 {
						x[i] = odd[r.IntN(len(odd))]
					}
				}
				want, sum := slices.Clone(x), slices.Clone(l)
				s.ExpSum(rows, n, want, ld, 0.7, m, sum)
				depth := (rows + 2*s.PairDepth() - 1) / (2 * s.PairDepth()) * s.PairDepth()
				dst := make([]uint32, depth*ldd)
				for i := range dst {
					dst[i] = 0xabcdabcd
				}
				s.ExpPairs(rows, n, x, ld, 0.7, m, l, dst, ldd, nil, 0)
				for i, got := range dst {
					for half := range 2 {
						row, j := i/ldd*2+half, i%ldd
						got := uint16(got >> (16 * half))
						switch {
						case j >= n:
							if got != 0xabcd {
								t.Fatalf("%d×%d: column %d was written", rows, n, j)
							}
						case row >= rows:
							if got != 0 {
								t.Fatalf("%d×%d: row %d of padding is %#x", rows, n, row, got)
							}
						default:
							w := want[row*ld+j]
							if w != w && wide(got) != wide(got) {
								continue
							}
							bits := math.Float32bits(w)
							if nearest := uint16((bits + 0x7fff + bits>>16&1) >> 16); got != nearest {
								t.Fatalf("%d×%d: weight [%d][%d] is %#x; want %v, %#x", rows, n, row, j, got, w, nearest)
							}
						}
					}
				}
				for j := range sum { // in another order
					if d := math.Abs(float64(l[j] - sum[j])); !(d <= 1e-5*math.Abs(float64(sum[j]))) && sum[j] == sum[j] && sum[j] < maxFloat {
						t.Fatalf("%d×%d: sum of column %d is %v; want %v", rows, n, j, l[j], sum[j])
					}
				}
			}
		}
	})
}

// BenchmarkPairs reports the two products of attention on pairs, what goes with them, and the rate that bounds them.
func BenchmarkPairs(b *testing.B) {
	for _, s := range Levels() {
		if !s.Pairs() {
			continue
		}
		const rows, keys, dim = 64, 128, 128
		k, q := make([]uint16, keys*dim), make([]uint32, rows*dim/2)
		v, buf, p := make([]uint32, keys*dim/2), make([]uint32, keys*dim/2), make([]uint32, keys/2*rows)
		st, o, m, l := make([]float32, rows*keys), make([]float32, rows*dim), make([]float32, rows), make([]float32, rows)
		const flops = 2 * rows * keys * dim
		for _, c := range []struct {
			name string
			f    func() float64
		}{
			{"peak", func() float64 { return s.Dot(1000) }},
			{"scores", func() float64 { s.GemmPairs(keys, rows, dim/2, k, dim, q, rows, st, rows, false); return flops }},
			{"values", func() float64 { s.GemmValues(dim, rows, 0, keys/2, keys/2, v, p, rows, o, rows); return flops }},
			{"max", func() float64 { s.ColMax(keys, rows, st, rows, 1, 8, m, l); return flops }},
			{"exp", func() float64 { s.ExpPairs(keys, rows, st, rows, 1, m, l, p, rows, nil, 0); return flops }},
			{"pack", func() float64 {
				s.PackValues(keys, dim, keys/2, func(j int) []uint16 { return k[j*dim:] }, v, buf)
				return flops
			}},
		} {
			b.Run(s.Name()+"/"+c.name, func(b *testing.B) {
				s.BeginPairs()
				defer s.EndPairs()
				var done float64
				for b.Loop() {
					done += c.f()
				}
				b.ReportMetric(done/float64(b.Elapsed().Nanoseconds()), "GFLOP/s")
			})
		}
	}
}
