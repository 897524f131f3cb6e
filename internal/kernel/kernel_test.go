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

// GemmPanels gives what Gemm gives, to the bit, and touches nothing else.
func TestGemmPanels(t *testing.T) {
	forLevels(t, func(t *testing.T, s *Set) {
		if !s.HasPanels() {
			t.Skip("has no panels")
		}
		r := rand.New(rand.NewPCG(21, 22))
		for _, m := range []int{0, 1, 2, 5, 6, 7, 8, 9, 12, 15, 16, 31, 32, 128} {
			for _, n := range []int{16, 32, 48, 80, 112} {
				for _, k := range []int{1, 2, 7, 64, 129} {
					for _, add := range []bool{false, true} {
						rows, lda := k+r.IntN(3), m+r.IntN(3)
						ldb, ldc := n+r.IntN(3), n+r.IntN(3)
						a, b, c := random(r, max((rows-1)*lda+m, 0)), random(r, (k-1)*ldb+n), random(r, m*ldc+1)
						size := s.PanelSize(rows, m)
						panels := random(r, size+1)
						after := panels[size]
						s.Panels(rows, m, a, lda, panels[:size])
						if panels[size] != after {
							t.Fatalf("Panels of %d×%d wrote beyond their end", rows, m)
						}
						want := slices.Clone(c)
						s.Gemm(m, n, k, a, 1, lda, b, ldb, want, ldc, add)
						s.GemmPanels(m, n, k, panels[:size], rows, b, ldb, c, ldc, add, nil)
						if !slices.Equal(c, want) {
							t.Fatalf("m=%d n=%d k=%d of %d add=%v: GemmPanels differs from Gemm", m, n, k, rows, add)
						}
					}
				}
			}
		}
	})
}

// GemmMax gives what Gemm gives and, where it says so, the maxima of its columns, which a NaN is not.
func TestGemmMax(t *testing.T) {
	forLevels(t, func(t *testing.T, s *Set) {
		r := rand.New(rand.NewPCG(23, 24))
		for _, m := range []int{0, 1, 8, 9, 16, 48} {
			for _, n := range []int{16, 32, 48, 96} {
				for _, k := range []int{1, 7, 64, 129} {
					lda, ldb, ldc := k+r.IntN(3), n+r.IntN(3), n+r.IntN(3)
					a, b, c, most := random(r, max((m-1)*lda+k, 1)), random(r, (k-1)*ldb+n), random(r, m*ldc+1), random(r, n)
					if m > 3 {
						a[3*lda] = float32(math.NaN())
						a[2*lda] = float32(math.Inf(1))
					}
					want, wantMost := slices.Clone(c), slices.Clone(most)
					s.Gemm(m, n, k, a, lda, 1, b, ldb, want, ldc, false)
					if found := s.GemmMax(m, n, k, a, lda, b, ldb, c, ldc, most); found {
						for i := range m {
							for j := range n {
								wantMost[j] = max(wantMost[j], nonNaN(want[i*ldc+j]))
							}
						}
					}
					same := func(a, b float32) bool { return a == b || a != a && b != b }
					if !slices.EqualFunc(c, want, same) || !slices.Equal(most, wantMost) {
						t.Fatalf("m=%d n=%d k=%d: %v and %v; want %v and %v", m, n, k, c, most, want, wantMost)
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
		long := make([]float32, 32*16)
		keys := Lines{F32: long, Step: 32}
		for name, f := range map[string]func(){
			"keys":         func() { Score(s, 16, 1, 32, Lines{F32: long[:511], Step: 32}, long, 16, long, Lines{}) },
			"queries":      func() { Score(s, 16, 1, 32, keys, long[:511], 16, long, Lines{}) },
			"scores":       func() { Score(s, 16, 1, 32, keys, long, 16, long[:255], Lines{}) },
			"rows":         func() { Score(s, 16, FewRows+1, 32, keys, long, 16, long, Lines{}) },
			"some keys":    func() { Score(s, 15, 1, 32, keys, long, 16, long, Lines{}) },
			"values":       func() { Weigh(s, 17, 1, 32, keys, long, 16, long, Lines{}) },
			"weights":      func() { Weigh(s, 16, 1, 32, keys, long[:255], 16, long, Lines{}) },
			"sums":         func() { Weigh(s, 16, 1, 32, keys, long, 16, long[:255], Lines{}) },
			"factors":      func() { Weigh(s, 2, 1, 32, Lines{I8: make([]int8, 64), Scales: x[:1], Step: 32}, x, 16, long, Lines{}) },
			"one of pair":  func() { Weigh(s, 1, 1, 32, Lines{U16: make([]uint16, 32), Step: 32}, x, 16, long, Lines{}) },
			"added sums":   func() { s.AddSums(Singles, 1, 32, long, long[:511], 16) },
			"a":            func() { s.Gemm(4, 16, 1, x[:3], 1, 1, x, 16, x, 16, false) },
			"b":            func() { s.Gemm(1, 16, 2, x, 1, 1, x[:31], 16, x, 16, false) },
			"c":            func() { s.Gemm(2, 16, 1, x, 1, 1, x, 16, x[:31], 16, false) },
			"n":            func() { s.Gemm(1, 8, 1, x, 1, 1, x, 16, x, 16, false) },
			"k":            func() { s.Gemm(1, 16, 0, x, 1, 1, x, 16, x, 16, false) },
			"a by neither": func() { s.Gemm(2, 16, 2, x, 2, 4, x, 16, x, 16, false) },
			"panels":       func() { s.Panels(4, 16, x, 16, x[:s.PanelSize(4, 16)-1]) },
			"panels' a":    func() { s.GemmPanels(4, 16, 1, x[:s.PanelSize(2, 4)-1], 2, x, 16, x, 16, false, nil) },
			"panels' k":    func() { s.GemmPanels(1, 16, 3, x, 2, x, 16, x, 16, false, nil) },
			"max":          func() { s.GemmMax(8, 48, 1, x[:7], 1, x[:48], 48, make([]float32, 8*48), 48, make([]float32, 48)) },
			"colmax":       func() { s.ColMax(2, 16, x[:31], 16, 1, 8, x, x) },
			"expsum":       func() { s.ExpSum(1, 16, x, 16, 1, x, x[:15]) },
			"mask":         func() { s.Mask(1, 16, x, 16, make([]int32, 15), 0, 0, 0) },
			"transpose":    func() { Transpose(s, 16, 4, x, 4, x[:63], 16) },
			"scale cols":   func() { s.ScaleCols(1, 16, x, 16, x[:15]) },
			"widen":        func() { s.FromBFloat16(x[:16], make([]uint16, 17)) },
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

// Transpose moves bits, and writes nothing else.
func TestTranspose(t *testing.T) {
	forLevels(t, func(t *testing.T, s *Set) {
		r := rand.New(rand.NewPCG(9, 10))
		for _, rows := range []int{0, 16, 48} {
			for _, cols := range []int{1, 5, 8, 15, 16, 17, 33, 48} {
				lds, ldd := cols+r.IntN(3), rows+1+r.IntN(3)
				src, dst := make([]float32, (rows+1)*lds), make([]float32, cols*ldd)
				for i := range src {
					src[i] = math.Float32frombits(r.Uint32())
				}
				Transpose(s, rows, cols, src, lds, dst, ldd)
				if rows == Lanes {
					ahead := make([]float32, len(dst))
					TransposeAhead(s, cols, src, lds, 1<<20, ahead, ldd)
					for i := range dst {
						if math.Float32bits(ahead[i]) != math.Float32bits(dst[i]) {
							t.Fatalf("%d×%d: element %d is %v with TransposeAhead; want %v", rows, cols, i, ahead[i], dst[i])
						}
					}
				}
				for at, got := range dst {
					want := float32(0)
					if i := at % ldd; i < rows {
						want = src[i*lds+at/ldd]
					}
					if math.Float32bits(got) != math.Float32bits(want) {
						t.Fatalf("%d×%d: element %d is %v; want %v", rows, cols, at, got, want)
					}
				}
			}
		}
	})
}

// ScaleCols multiplies every row by the factors, and writes nothing else.
func TestScaleCols(t *testing.T) {
	forLevels(t, func(t *testing.T, s *Set) {
		r := rand.New(rand.NewPCG(19, 20))
		for _, rows := range []int{0, 1, 7} {
			for _, n := range []int{16, 48} {
				ld := n + r.IntN(3)
				x, f := random(r, rows*ld+n), random(r, n)
				was := slices.Clone(x)
				s.ScaleCols(rows, n, x, ld, f)
				for i, got := range x {
					want := was[i]
					if i < rows*ld && i%ld < n {
						want *= f[i%ld]
					}
					if got != want {
						t.Fatalf("%d×%d: element %d is %v; want %v", rows, n, i, got, want)
					}
				}
			}
		}
	})
}

// Mask hides what does not lie between the two borders, and writes nothing else.
func TestMask(t *testing.T) {
	forLevels(t, func(t *testing.T, s *Set) {
		r := rand.New(rand.NewPCG(21, 22))
		for range 200 {
			rows, n := r.IntN(20), 16*(1+r.IntN(3))
			ld := n + r.IntN(3)
			x, pos := random(r, rows*ld+n), make([]int32, n)
			for j := range pos {
				pos[j] = 100 + r.Int32N(30)
			}
			first, near := 85+r.IntN(40), r.IntN(5)
			far := near + r.IntN(20)
			if r.IntN(4) == 0 {
				far = 1 << 29
			}
			was := slices.Clone(x)
			s.Mask(rows, n, x, ld, pos, first, far, near)
			for i, got := range x {
				want, row, j := was[i], i/ld, i%ld
				if key := first + row; row < rows && j < n && (key < int(pos[j])-far || key > int(pos[j])-near) {
					want = negInf
				}
				if got != want {
					t.Fatalf("row %d, column %d at %d with keys from %d, %d … %d away: %v; want %v", row, j, pos[j], first, near, far, got, want)
				}
			}
		}
	})
}

// Every bfloat16 and every half widens to the float32 of the same value, and a NaN to one.
func TestWiden(t *testing.T) {
	forLevels(t, func(t *testing.T, s *Set) {
		src, dst := make([]uint16, 1<<16), make([]float32, 1<<16)
		for i := range src {
			src[i] = uint16(i)
		}
		same := func(a, b float32) bool { return math.Float32bits(a) == math.Float32bits(b) || a != a && b != b }
		s.FromBFloat16(dst, src)
		for i, got := range dst {
			if want := math.Float32frombits(uint32(i) << 16); !same(got, want) {
				t.Fatalf("bfloat16 %#x is %v; want %v", i, got, want)
			}
		}
		s.FromFloat16(dst, src)
		for i, got := range dst {
			exp, frac := i>>10&31, float64(i&1023)
			want := math.Ldexp(1+frac/1024, exp-15)
			switch {
			case exp == 0:
				want = math.Ldexp(frac, -24)
			case exp == 31 && frac == 0:
				want = math.Inf(1)
			case exp == 31:
				want = math.NaN()
			}
			if i>>15 == 1 {
				want = -want
			}
			if !same(got, float32(want)) {
				t.Fatalf("half %#x is %v; want %v", i, got, want)
			}
		}
		for n := range 40 {
			clear(dst)
			s.FromFloat16(dst[:n], src[15360:15360+n])
			for i, got := range dst[:64] {
				if i >= n && got != 0 || i < n && got != HalfToSingle(src[15360+i]) {
					t.Fatalf("of %d halves, element %d is %v", n, i, got)
				}
			}
		}
	})
}

// Scale, Add and AddBFloat16 do what they say at every length, and Scale and Finite notice every NaN and infinity.
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
			narrow := make([]uint16, n)
			for i, x := range src {
				narrow[i] = uint16(math.Float32bits(x) >> 16)
			}
			s.AddBFloat16(dst[:n], narrow)
			for i := range dst {
				want := was[i]
				if i < n {
					want += math.Float32frombits(uint32(narrow[i]) << 16)
				}
				if dst[i] != want {
					t.Fatalf("AddBFloat16 of %d: element %d is %v; want %v", n, i, dst[i], want)
				}
			}
			was = slices.Clone(dst)
			if !s.Scale(dst[:n], src, 3) || !s.Finite(src) {
				t.Fatalf("%d finite numbers are not finite", n)
			}
			for i := range dst {
				if i < n && dst[i] != 3*src[i] || i == n && dst[i] != was[i] {
					t.Fatalf("Scale of %d: element %d is %v", n, i, dst[i])
				}
			}
			aligned := make([]float32, n+32)
			for skip := range 17 { // one of these begins a line
				to := aligned[skip:][:n]
				clear(aligned)
				if !s.ScaleStream(to, src, 3) || !slices.Equal(to, dst[:n]) || slices.Max(aligned[skip+n:]) != 0 {
					t.Fatalf("ScaleStream of %d: %v; want %v", n, to, dst[:n])
				}
			}
			for i := range src {
				for _, bad := range []float64{math.NaN(), math.Inf(1), math.Inf(-1)} {
					x := slices.Clone(src)
					x[i] = float32(bad)
					if s.Finite(x) || s.ScaleStream(aligned[:n], x, 3) || s.Scale(x, x, 3) {
						t.Fatalf("%d numbers with %v at %d are finite", n, bad, i)
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

// ColMax is the running maximum, and a NaN changes nothing; what it reports is who outgrew the limit.
func TestColMax(t *testing.T) {
	forLevels(t, func(t *testing.T, s *Set) {
		r := rand.New(rand.NewPCG(3, 4))
		for _, rows := range []int{0, 1, 2, 3, 4, 5, 8, 127, 128} {
			for _, n := range []int{16, 32, 48, 64} {
				ld, scale := n+r.IntN(4), float32(r.Float64()+0.5)
				x, got, base := random(r, rows*ld+n), random(r, n), random(r, n)
				for i := range x {
					if r.IntN(20) == 0 {
						x[i] = odd[r.IntN(len(odd))]
					}
				}
				for j := range base {
					if r.IntN(4) == 0 {
						base[j] = odd[r.IntN(len(odd))]
					}
				}
				want, raised := slices.Clone(got), uint64(0)
				for j := range want {
					most := negInf
					for i := range rows {
						most = max(most, nonNaN(x[i*ld+j]))
					}
					want[j] = max(want[j], most*scale)
					if limit := base[j] + 8; rows > 0 && !(want[j] <= limit && want[j] <= math.MaxFloat32) {
						raised |= 1 << j
					}
				}
				if r := s.ColMax(rows, n, x, ld, scale, 8, got, base); r != raised {
					t.Fatalf("rows=%d n=%d: raised %b, want %b", rows, n, r, raised)
				}
				if !slices.Equal(got, want) {
					t.Fatalf("rows=%d n=%d: got %v, want %v", rows, n, got, want)
				}
			}
		}
	})
}

func nonNaN(x float32) float32 {
	if x != x {
		return negInf
	}
	return x
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
			before, sum := slices.Clone(x), make([]float32, n)
			scale := []float32{1, 0.5}[r.IntN(2)] // by which products are exact
			start := slices.Clone(l)
			s.ExpSum(rows, n, x, ld, scale, m, l)
			for i := range x {
				if i%ld >= n {
					if x[i] != before[i] && before[i] == before[i] {
						t.Fatalf("element %d outside the columns was written", i)
					}
					continue
				}
				d := scale*before[i] - m[i%ld]
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
				if want += start[j]; l[j] != want && (l[j] == l[j] || want == want) {
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

// ExpSum is within 2 ulp all over the octaves below 1, where more than elsewhere is rounded.
func TestExpSumOctaves(t *testing.T) {
	forLevels(t, func(t *testing.T, s *Set) {
		const n, step = 1024, 61
		x, zero, l := make([]float32, n), make([]float32, n), make([]float32, n)
		worst, at := 0.0, float32(0)
		for bits := math.Float32bits(-0x1p-26); bits <= math.Float32bits(-2); bits += n * step {
			for i := range x {
				x[i] = math.Float32frombits(bits + uint32(i)*step)
			}
			was := slices.Clone(x)
			s.ExpSum(1, n, x, n, 1, zero, l)
			for i, got := range x {
				want := math.Exp2(float64(was[i]))
				ulp := float64(math.Nextafter32(float32(want), 2)) - float64(float32(want))
				if e := math.Abs(float64(got)-want) / ulp; e > worst {
					worst, at = e, was[i]
				}
			}
		}
		t.Logf("worst error %.3f ulp, of 2^%v", worst, at)
		if worst > 2 {
			t.Errorf("error of %.3f ulp for 2^%v; want at most 2", worst, at)
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
			{"values", func() float64 { s.Gemm(dim, rows, keys, v, 1, dim, st, rows, o, rows, true); return flops }},
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
				s.ExpSum(rows, n, x, n, 1, m, l)
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N)/(rows*n/16), "ns/16")
		})
	}
}

// SwiGLU and Normalise equal what they are in double precision.
func TestActivations(t *testing.T) {
	forLevels(t, func(t *testing.T, s *Set) {
		r := rand.New(rand.NewPCG(31, 32))
		near := func(what string, got float32, want, size float64) {
			t.Helper()
			if d := math.Abs(float64(got) - want); !(d <= 8*0x1p-24*size) {
				t.Fatalf("%s is %v; want %v", what, got, want)
			}
		}
		gate, up := random(r, 4096), random(r, 4096)
		for i := range gate {
			gate[i] *= float32(math.Exp(r.Float64()*10 - 5))
		}
		gate[0], gate[1], gate[2], gate[3] = 0, 200, -200, float32(math.NaN())
		was := slices.Clone(gate)
		s.SwiGLU(gate, up)
		for i, x := range was {
			want := float64(x) / (1 + math.Exp(-float64(x))) * float64(up[i])
			if x == x && x > -40 { // below, the kernel's exponentials have an end
				near("SwiGLU", gate[i], want, (1+math.Abs(float64(x)))*math.Abs(want)+1e-30)
			}
		}
		if gate[3] == gate[3] || math.Abs(float64(gate[2])) > 1e-30 {
			t.Errorf("SwiGLU of NaN and -200 is %v and %v", gate[3], gate[2])
		}
		for _, n := range []int{16, 48} {
			for _, rows := range []int{1, 7, 64} {
				src, weight, dst := random(r, rows*n), random(r, rows), make([]float32, rows*n)
				s.Normalise(n, dst, src, weight, 1e-3)
				for i, got := range dst {
					var sum float64
					for d := range rows {
						sum += float64(src[d*n+i%n]) * float64(src[d*n+i%n])
					}
					want := float64(src[i]) / math.Sqrt(sum/float64(rows)+1e-3) * float64(weight[i/n])
					near("Normalise", got, want, math.Abs(want))
				}
			}
		}
	})
}

// What is asked for may end where memory does, be it one number of 16 bits. (The race detector's build looks at pointers.)
func TestPrefetch(t *testing.T) {
	half, single := make([]uint16, 1024), make([]float32, 1024)
	forLevels(t, func(t *testing.T, s *Set) {
		for _, n := range []int{0, 1, 2, 3, 33} {
			Prefetch(s, half[len(half)-n:])
			Prefetch(s, single[len(single)-n:])
		}
	})
}
