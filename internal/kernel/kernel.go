// Package kernel holds the micro-kernels of the CPU engine: small loops over float32 matrices that are the same
// for every attention method and every layer of a model, in one version per instruction-set level.
//
// All matrices are row-major with a row stride given in elements. Nothing here knows of queries, keys or heads
// beyond the names of arguments; packing, masking and scheduling stand above.
//
// The generic level is plain Go and is always built. On amd64 the levels avx2 and avx512 are assembly printed by
// the generator in gen; the best that the machine can run is the default, and the environment variable ANCHOR_CPU
// (generic, avx2 or avx512) forces one. The build tag purego leaves the assembly out.
package kernel

import (
	"fmt"
	"math"
	"os"
	"strings"
	"sync"
)

//go:generate go run ./gen

// Lanes is the number of columns that every kernel handles at once: column counts are multiples of it.
const Lanes = 16

// A Set is the kernels of one instruction-set level. All sets compute the same functions, up to rounding.
type Set struct {
	name   string
	tiles  []tiles // of the matrix product, widest first and the last Lanes wide
	colMax func(rows int, x *float32, ld uintptr, n int, mx *float32)
	expSum func(rows int, x *float32, ld uintptr, n int, m, l *float32)
	sel    func(rows int, x *float32, ld uintptr, n int, top *float32, theta float32, base int32, dst *int32) (kept int)
	pack   func(cols int, src *float32, lds uintptr, dst *float32, ldd uintptr, f float32)
	scale  func(n int, dst, src *float32, f float32) (bad uint32) // 0 if all of dst is finite
	add    func(n int, dst, src *float32)
	fma    func(rounds int)
	flops  int // floating-point operations in one round of fma
}

// tiles are the matrix-product tiles of one width, tallest first and the last one row tall.
type tiles struct {
	cols    int
	heights []tile
}

// A tile computes some rows of c (+)= a·b at once, for an a whose rows are contiguous and one whose columns are.
type tile struct {
	rows           int
	byRows, byCols tileFunc
}

// A tileFunc computes c[i][j] (+)= Σ_p a[i][p]·b[p][j], p in [0, k). Strides are in bytes; lda is that of a's rows or
// of its columns.
type tileFunc func(k int, a *float32, lda uintptr, b *float32, ldb uintptr, c *float32, ldc uintptr, add bool)

const size = 4 // bytes in an element

// Name returns the level: generic, avx2 or avx512.
func (s *Set) Name() string { return s.name }

// Levels returns the sets that this machine can run, the slowest (generic) first.
func Levels() []*Set { return levels() }

var levels = sync.OnceValue(func() []*Set { return append([]*Set{&generic}, native()...) })

// Default returns the fastest set this machine can run, or the one that ANCHOR_CPU names. The error says what it
// may name here.
var Default = sync.OnceValues(func() (*Set, error) { return choose(os.Getenv("ANCHOR_CPU")) })

func choose(level string) (*Set, error) {
	sets := levels()
	if level == "" {
		return sets[len(sets)-1], nil
	}
	var names []string
	for _, s := range sets {
		if s.name == level {
			return s, nil
		}
		names = append(names, s.name)
	}
	return nil, fmt.Errorf("ANCHOR_CPU is %q; this build on this machine has %s", level, strings.Join(names, ", "))
}

// Gemm computes the m×n matrix c = a·b, or c += a·b when add is set: c[i*ldc+j] over a[i*ars+p*acs] and
// b[p*ldb+j], p in [0, k). n is a multiple of Lanes, and a lies by rows (acs = 1) or by columns (ars = 1). Sums run
// over p in ascending order for every element, so a result does not depend on how the rows were cut into calls.
func (s *Set) Gemm(m, n, k int, a []float32, ars, acs int, b []float32, ldb int, c []float32, ldc int, add bool) {
	if m == 0 || n == 0 {
		return
	}
	byRows, lda := true, ars
	if acs != 1 {
		byRows, lda = false, acs
	}
	if k == 0 || n%Lanes != 0 || acs != 1 && ars != 1 {
		panic(fmt.Sprintf("kernel: Gemm with k = %d, n = %d, strides %d and %d of a", k, n, ars, acs))
	}
	// The assembly does not check bounds; these do.
	_ = a[(m-1)*ars+(k-1)*acs]
	_ = b[(k-1)*ldb+n-1]
	_ = c[(m-1)*ldc+n-1]
	for j, w := 0, 0; j < n; {
		for s.tiles[w].cols > n-j {
			w++
		}
		heights := s.tiles[w].heights
		for i, t := 0, 0; i < m; {
			for heights[t].rows > m-i {
				t++
			}
			f := heights[t].byCols
			if byRows {
				f = heights[t].byRows
			}
			f(k, &a[i*ars], uintptr(lda)*size, &b[j], uintptr(ldb)*size, &c[i*ldc+j], uintptr(ldc)*size, add)
			i += heights[t].rows
		}
		j += s.tiles[w].cols
	}
}

// Pack transposes a matrix of whole Lanes of rows: dst[j*ldd+i] = f·src[i*lds+j] for i in [0, rows) and j in [0, cols).
func (s *Set) Pack(rows, cols int, src []float32, lds int, dst []float32, ldd int, f float32) {
	if rows == 0 || cols == 0 {
		return
	}
	if rows%Lanes != 0 || lds > math.MaxInt32/size/Lanes {
		panic(fmt.Sprintf("kernel: Pack with %d rows, %d apart", rows, lds))
	}
	_, _ = src[(rows-1)*lds+cols-1], dst[(cols-1)*ldd+rows-1]
	for i := 0; i < rows; i += Lanes {
		s.pack(cols, &src[i*lds], uintptr(lds)*size, &dst[i], uintptr(ldd)*size, f)
	}
}

// Scale sets dst = f·src and reports whether all of dst is finite. The two have the same length and may be the same.
func (s *Set) Scale(dst, src []float32, f float32) (finite bool) {
	finite = true
	n := len(src) / Lanes * Lanes
	_ = dst[:len(src)]
	if n > 0 {
		finite = s.scale(n, &dst[0], &src[0], f) == 0
	}
	for i, x := range src[n:] {
		x *= f
		dst[n+i] = x
		finite = finite && x*0 == 0
	}
	return finite
}

// Add adds src to dst, which is as long.
func (s *Set) Add(dst, src []float32) {
	n := len(src) / Lanes * Lanes
	_ = dst[:len(src)]
	if n > 0 {
		s.add(n, &dst[0], &src[0])
	}
	for i, x := range src[n:] {
		dst[n+i] += x
	}
}

// ColMax raises mx[j] to the largest of x[i*ld+j], i in [0, rows), for j in [0, n), n a
// multiple of Lanes. A NaN raises nothing.
func (s *Set) ColMax(rows, n int, x []float32, ld int, mx []float32) {
	if rows == 0 || n == 0 {
		return
	}
	if n%Lanes != 0 {
		panic(fmt.Sprintf("kernel: ColMax with n = %d", n))
	}
	_, _ = x[(rows-1)*ld+n-1], mx[n-1]
	s.colMax(rows, &x[0], uintptr(ld)*size, n, &mx[0])
}

// ExpSum replaces x[i*ld+j] by 2^(x[i*ld+j] − m[j]) and adds it to l[j], for i in [0, rows) and j in [0, n), n a
// multiple of Lanes. It is within 2 ulp, for exponents up to 127; below 2^−64, a share that no sum in single precision
// notices, it is 0.
func (s *Set) ExpSum(rows, n int, x []float32, ld int, m, l []float32) {
	if rows == 0 || n == 0 {
		return
	}
	if n%Lanes != 0 {
		panic(fmt.Sprintf("kernel: ExpSum with n = %d", n))
	}
	_, _, _ = x[(rows-1)*ld+n-1], m[n-1], l[n-1]
	s.expSum(rows, &x[0], uintptr(ld)*size, n, &m[0], &l[0])
}

// Select appends base+i to dst for every row i in [0, rows) of x in which some column j in [0, n) does not satisfy
// top[j] − x[i*ld+j] > theta. A NaN does not satisfy it. n is a multiple of Lanes.
func (s *Set) Select(dst []int32, base int32, rows, n int, x []float32, ld int, top []float32, theta float32) []int32 {
	if rows == 0 || n == 0 {
		return dst
	}
	if n%Lanes != 0 {
		panic(fmt.Sprintf("kernel: Select with n = %d", n))
	}
	_, _ = x[(rows-1)*ld+n-1], top[n-1]
	have := len(dst)
	if cap(dst)-have < rows {
		dst = append(dst, make([]int32, rows)...)
	}
	dst = dst[:have+rows]
	kept := s.sel(rows, &x[0], uintptr(ld)*size, n, &top[0], theta, base, &dst[have])
	return dst[:have+kept]
}

// FMA runs rounds of dependent-free multiply-adds, the fastest that the level can do, and returns how many
// floating-point operations that was: what peak figures are measured with.
func (s *Set) FMA(rounds int) (flops float64) {
	s.fma(rounds)
	return float64(rounds) * float64(s.flops)
}
