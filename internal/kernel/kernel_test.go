package kernel

import (
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
)

// forLevels runs the compliance suite's f at every level that this machine has.
func forLevels(t *testing.T, f func(t *testing.T, s *Set)) {
	for _, s := range Levels() {
		t.Run(s.Name(), func(t *testing.T) { f(t, s) })
	}
}

func random(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

// Gemm equals the sum in float64 within rounding, touches nothing else, and does not depend on how rows are cut.
func TestGemm(t *testing.T) {
	forLevels(t, func(t *testing.T, s *Set) {
		r := rand.New(rand.NewPCG(1, 2))
		for _, m := range []int{0, 1, 2, 3, 4, 5, 6, 7, 11, 12, 13, 25, 32} {
			for _, n := range []int{16, 32, 48, 80, 112} {
				for _, k := range []int{1, 2, 7, 64, 129} {
					for _, byColumn := range []bool{false, true} {
						for _, add := range []bool{false, true} {
							ars, acs := k+3, 1
							if byColumn {
								ars, acs = 1, m+5
							}
							ldb, ldc := n+r.IntN(3), n+r.IntN(3)
							a := random(r, max((m-1)*ars+(k-1)*acs+1, 1))
							b, c := random(r, (k-1)*ldb+n), random(r, m*ldc+1)
							before := slices.Clone(c)
							s.Gemm(m, n, k, a, ars, acs, b, ldb, c, ldc, add)
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
								for p := range k {
									x := float64(a[row*ars+p*acs]) * float64(b[p*ldb+j])
									sum += x
									size += math.Abs(x)
								}
								if diff := math.Abs(float64(c[i]) - sum); !(diff <= size*float64(k+1)*0x1p-24) {
									t.Fatalf("m=%d n=%d k=%d byColumn=%v add=%v: c[%d][%d] = %v, want %v", m, n, k, byColumn, add, row, j, c[i], sum)
								}
							}
							if m > 1 {
								cut := slices.Clone(before)
								s.Gemm(1, n, k, a, ars, acs, b, ldb, cut, ldc, add)
								s.Gemm(m-1, n, k, a[ars:], ars, acs, b, ldb, cut[ldc:], ldc, add)
								if !slices.Equal(cut, c) {
									t.Fatalf("m=%d n=%d k=%d: cutting rows changes the result", m, n, k)
								}
							}
						}
					}
				}
			}
		}
	})
}

// A bound that is crossed panics instead of reaching the assembly.
func TestBounds(t *testing.T) {
	forLevels(t, func(t *testing.T, s *Set) {
		x := make([]float32, 64)
		for name, f := range map[string]func(){
			"a":            func() { s.Gemm(4, 16, 1, x[:3], 1, 1, x, 16, x, 16, false) },
			"b":            func() { s.Gemm(1, 16, 2, x, 1, 1, x[:31], 16, x, 16, false) },
			"c":            func() { s.Gemm(2, 16, 1, x, 1, 1, x, 16, x[:31], 16, false) },
			"n":            func() { s.Gemm(1, 8, 1, x, 1, 1, x, 16, x, 16, false) },
			"k":            func() { s.Gemm(1, 16, 0, x, 1, 1, x, 16, x, 16, false) },
			"a by neither": func() { s.Gemm(2, 16, 2, x, 2, 4, x, 16, x, 16, false) },
			"colmax":       func() { s.ColMax(2, 16, x[:31], 16, x) },
			"expsum":       func() { s.ExpSum(1, 16, x, 16, x, x[:15]) },
			"select":       func() { s.Select(nil, 0, 1, 8, x, 16, x, 0) },
		} {
			func() {
				defer func() {
					if recover() == nil {
						t.Errorf("%s: no panic", name)
					}
				}()
				f()
			}()
		}
	})
}

// Pack transposes and scales, and writes nothing else.
func TestPack(t *testing.T) {
	forLevels(t, func(t *testing.T, s *Set) {
		r := rand.New(rand.NewPCG(9, 10))
		for _, rows := range []int{0, 16, 48} {
			for _, cols := range []int{1, 5, 16, 33} {
				lds, ldd := cols+r.IntN(3), rows+1+r.IntN(3)
				src, dst := random(r, (rows+1)*lds), make([]float32, cols*ldd)
				s.Pack(rows, cols, src, lds, dst, ldd, 2)
				for at, got := range dst {
					want := float32(0)
					if i := at % ldd; i < rows {
						want = 2 * src[i*lds+at/ldd]
					}
					if got != want {
						t.Fatalf("%d×%d: element %d is %v; want %v", rows, cols, at, got, want)
					}
				}
			}
		}
	})
}

// Scale and Add do what they say at every length, and Scale notices every NaN and infinity.
func TestScaleAdd(t *testing.T) {
	forLevels(t, func(t *testing.T, s *Set) {
		r := rand.New(rand.NewPCG(11, 12))
		for n := range 50 {
			src, dst, was := random(r, n), random(r, n+1), []float32(nil)
			was = slices.Clone(dst)
			s.Add(dst[:n], src)
			for i := range dst {
				if want := was[i]; i < n && dst[i] != want+src[i] || i == n && dst[i] != want {
					t.Fatalf("Add of %d: element %d is %v", n, i, dst[i])
				}
			}
			was = slices.Clone(dst)
			if !s.Scale(dst[:n], src, 3) {
				t.Fatalf("Scale of %d finite numbers is not finite", n)
			}
			for i := range dst {
				if i < n && dst[i] != 3*src[i] || i == n && dst[i] != was[i] {
					t.Fatalf("Scale of %d: element %d is %v", n, i, dst[i])
				}
			}
			for i := range src {
				for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
					x := slices.Clone(src)
					x[i] = float32(bad)
					if s.Scale(x, x, 3) {
						t.Fatalf("Scale of %d with %v at %d is finite", n, bad, i)
					}
				}
			}
		}
	})
}

var odd = []float32{
	0, float32(math.Copysign(0, -1)), 1, -1, 0x1p-140, -64, -63.5, -65, -140, -1e30, -math.MaxFloat32,
	float32(math.Inf(-1)), float32(math.Inf(1)), float32(math.NaN()), 7.9999995, 8, 0.99999994, -0.99999994, -1e-9,
}

// ColMax is the running maximum, and a NaN changes nothing.
func TestColMax(t *testing.T) {
	forLevels(t, func(t *testing.T, s *Set) {
		r := rand.New(rand.NewPCG(3, 4))
		for _, rows := range []int{0, 1, 2, 3, 4, 5, 8, 127, 128} {
			for _, n := range []int{16, 32, 48} {
				ld := n + r.IntN(4)
				x, got := random(r, rows*ld+n), random(r, n)
				for i := range x {
					if r.IntN(20) == 0 {
						x[i] = odd[r.IntN(len(odd))]
					}
				}
				want := slices.Clone(got)
				for i := range rows {
					for j := range n {
						if v := x[i*ld+j]; v > want[j] {
							want[j] = v
						}
					}
				}
				s.ColMax(rows, n, x, ld, got)
				if !slices.Equal(got, want) {
					t.Fatalf("rows=%d n=%d: got %v, want %v", rows, n, got, want)
				}
			}
		}
	})
}

// ExpSum is within 2 ulp of 2^(x − m), and exact in its special cases.
func TestExpSum(t *testing.T) {
	forLevels(t, func(t *testing.T, s *Set) {
		r := rand.New(rand.NewPCG(5, 6))
		const n = 32
		worst := 0.0
		for range 200 {
			rows, ld := 1+r.IntN(130), n+r.IntN(4)
			x, m, l := make([]float32, rows*ld), make([]float32, n), random(r, n)
			for i := range x {
				x[i] = float32(r.Float64()*80 - 70)
				if r.IntN(30) == 0 {
					x[i] = odd[r.IntN(len(odd))]
				}
			}
			for j := range m {
				m[j] = float32(r.IntN(3))
			}
			before, sum := slices.Clone(x), slices.Clone(l)
			s.ExpSum(rows, n, x, ld, m, l)
			for i := range x {
				if i%ld >= n {
					if x[i] != before[i] && before[i] == before[i] {
						t.Fatalf("element %d outside the columns was written", i)
					}
					continue
				}
				d := before[i] - m[i%ld]
				want := math.Exp2(float64(d))
				sum[i%ld] += x[i]
				switch got := float64(x[i]); {
				case math.IsNaN(want):
					if !math.IsNaN(got) {
						t.Fatalf("2^%v = %v, want NaN", d, got)
					}
				case d > 127: // not promised
				case d < -64:
					if got != 0 {
						t.Fatalf("2^%v = %v, want 0", d, got)
					}
				default:
					ulp := float64(math.Nextafter32(float32(want), float32(math.Inf(1)))) - float64(float32(want))
					worst = max(worst, math.Abs(got-want)/ulp)
				}
			}
			for j, want := range sum {
				if l[j] != want && (l[j] == l[j] || want == want) {
					t.Fatalf("sum of column %d is %v, want %v", j, l[j], want)
				}
			}
		}
		t.Logf("worst error %.3f ulp", worst)
		if worst > 2 {
			t.Errorf("error of %.3f ulp; want at most 2", worst)
		}
	})
}

// Select keeps a row unless top − x > theta in every column, so that a NaN keeps.
func TestSelect(t *testing.T) {
	forLevels(t, func(t *testing.T, s *Set) {
		r := rand.New(rand.NewPCG(7, 8))
		inf := float32(math.Inf(1))
		for _, rows := range []int{0, 1, 3, 128} {
			for _, n := range []int{16, 32, 64} {
				for _, theta := range []float32{0, 1.5, -3, inf, -inf} {
					ld := n + r.IntN(4)
					x, top := random(r, rows*ld+n), make([]float32, n)
					for j := range top {
						top[j] = theta + 2.5
						if theta == inf || theta == -inf || r.IntN(40) == 0 {
							top[j] = float32(r.NormFloat64())
						}
					}
					for i := range x {
						if r.IntN(50) == 0 {
							x[i] = odd[r.IntN(len(odd))]
						}
					}
					want := []int32{-7}
					for i := range rows {
						for j := range n {
							if !(top[j]-x[i*ld+j] > theta) {
								want = append(want, int32(1000+i))
								break
							}
						}
					}
					got := s.Select([]int32{-7}, 1000, rows, n, x, ld, top, theta)
					if !slices.Equal(got, want) {
						t.Fatalf("rows=%d n=%d theta=%v: got %v, want %v", rows, n, theta, got, want)
					}
				}
			}
		}
	})
}

func TestChoose(t *testing.T) {
	for _, s := range Levels() {
		if got, err := choose(s.Name()); err != nil || got != s {
			t.Errorf("choose(%q) = %v, %v", s.Name(), got, err)
		}
	}
	if s, err := choose(""); err != nil || s != Levels()[len(Levels())-1] {
		t.Errorf("choose of nothing = %v, %v; want the last level", s, err)
	}
	_, err := choose("mmx")
	if err == nil || !strings.Contains(err.Error(), `"mmx"`) || !strings.Contains(err.Error(), "generic") {
		t.Errorf("choose(mmx): error %v; want one that names it and what is allowed", err)
	}
	if level := os.Getenv("ANCHOR_CPU"); level != "" {
		if s, err := Default(); err == nil && s.Name() != level {
			t.Errorf("ANCHOR_CPU=%s chose %s", level, s.Name())
		}
	}
}

// BenchmarkGemm reports the two products of attention, and the multiply-add rate that bounds them.
func BenchmarkGemm(b *testing.B) {
	for _, s := range Levels() {
		const rows, keys, dim = 48, 128, 128
		q, k, v := make([]float32, rows*dim), make([]float32, keys*dim), make([]float32, keys*dim)
		st, o := make([]float32, rows*keys), make([]float32, rows*dim)
		const flops = 2 * rows * keys * dim
		for _, c := range []struct {
			name string
			f    func() float64
		}{
			{"peak", func() float64 { return s.FMA(1000) }},
			{"scores", func() float64 { s.Gemm(keys, rows, dim, k, dim, 1, q, rows, st, rows, false); return flops }},
			{"values", func() float64 { s.Gemm(rows, dim, keys, st, 1, rows, v, dim, o, dim, true); return flops }},
		} {
			b.Run(s.Name()+"/"+c.name, func(b *testing.B) {
				var done float64
				for b.Loop() {
					done += c.f()
				}
				b.ReportMetric(done/float64(b.Elapsed().Nanoseconds()), "GFLOP/s")
			})
		}
	}
}

func BenchmarkExpSum(b *testing.B) {
	for _, s := range Levels() {
		b.Run(s.Name(), func(b *testing.B) {
			const rows, n = 128, 32
			x, m, l := make([]float32, rows*n), make([]float32, n), make([]float32, n)
			for b.Loop() {
				s.ExpSum(rows, n, x, n, m, l)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(rows*n/16), "ns/16")
		})
	}
}
