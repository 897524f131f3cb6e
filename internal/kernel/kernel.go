// Package kernel holds the micro-kernels of the CPU engine: small loops over matrices that are the same for every
// attention method and every layer of a model, in one version per instruction-set level.
//
// All matrices are row-major with a row stride given in elements. Nothing here knows of queries, keys or heads
// beyond the names of arguments; packing, masking and scheduling stand above.
//
// The generic level is plain Go and is always built. On amd64 the levels avx2, avx512, avx512vnni, avx512bf16 and amx, and on
// arm64 the level neon, are assembly printed by the generator in gen; the best that the machine can run is the default, and
// the environment variable ANCHOR_CPU forces one by name. The build tag purego leaves the assembly out.
//
// # Pairs
//
// The levels avx512bf16 and amx multiply bfloat16 numbers two at a time and add up in float32. For them matrices are
// made of pairs, two numbers that follow one another along the dimension summed over, in a uint32 with the first in
// the lower half: see [Set.Pairs].
package kernel

import (
	"fmt"
	"math"
	"os"
	"strings"
	"sync"
	"unsafe"
)

//go:generate go run ./gen

// Lanes is the number of columns that every kernel handles at once: column counts are multiples of it.
const Lanes = 16

// A Set is the kernels of one instruction-set level. All sets compute the same functions, up to rounding.
type Set struct {
	name      string
	tiles     []tiles // of the matrix product, widest first and the last Lanes wide
	panel     int     // rows of a panel; 0 where panels do not pay
	panels    func(rows, cols, step int, src *float32, lds uintptr, dst *float32, ldd uintptr)
	colMax    func(rows int, x *float32, ld uintptr, n int, scale, slack float32, top, base *float32) (raised uint64)
	expSum    func(rows int, x *float32, ld uintptr, n int, scale float32, m, l *float32)
	mask      func(rows int, x *float32, ld uintptr, n int, pos *int32, first, far, near int32)
	sel       func(rows int, x *float32, ld uintptr, n int, top *float32, theta float32, base int32, dst *int32) (kept int)
	transpose func(cols int, src *float32, lds uintptr, dst *float32, ldd uintptr) // of Lanes rows
	// transposeAhead is transpose that asks for what is so many bytes ahead; nil where there is none.
	transposeAhead func(cols int, src *float32, lds uintptr, dst *float32, ldd uintptr, ahead uintptr)
	scale          func(n int, dst, src *float32, f float32) (bad uint32) // 0 if all of dst is finite
	// scaleStream is scale that writes past the caches, to whole lines of them; nil where there is none.
	scaleStream func(n int, dst, src *float32, f float32) (bad uint32)
	scaleCols   func(rows int, x *float32, ld uintptr, n int, f *float32)
	add         func(n int, dst, src *float32)
	finite      func(n int, x *float32) (bad uint32) // 0 if all of x is finite
	swiGLU      func(n int, gate, up *float32)
	squares     func(rows int, x *float32, ld uintptr, sum *float64)           // of Lanes columns
	scaleBoth   func(rows int, dst, src *float32, ld uintptr, f, row *float32) // Lanes columns
	bf16, f16   func(n int, dst *float32, src *uint16)
	addBF16     func(n int, dst *float32, src *uint16)
	// splitF16 and splitBF16 make two rows of numbers of each row of pairs; nil where there are none.
	splitF16, splitBF16 func(rows, n int, src *uint32, dst *float32)
	prefetch            func(p *float32, lines int) // nil where there is none
	fma                 func(rounds int)
	flops               int // floating-point operations in one round of fma

	few   *few     // nil where there are no kernels for a few rows
	pairs *pairs   // nil where pairs of bfloat16s are not faster than float32s
	bytes *byteSet // nil where there are no products of bytes
}

// pairs are the kernels on pairs of bfloat16s.
type pairs struct {
	tiles    []tiles
	twice    []tiles // of products with the sum of two matrices; nil where these are two products
	expPairs func(rows int, x *float32, ld uintptr, n int, scale float32, m, l *float32, dst *uint32, ldd uintptr, next *uint16, ldn uintptr)
	pair     func(n int, dst *uint32, even, odd *uint16) (bad uint32) // 0 if all of dst is finite
	round    func(k, n int, src *float32, dst *uint32)                // k pairs of rows of n numbers
	// dotRows multiplies Lanes rows of blocks of 16 numbers by a column of pairs; nil where there is none.
	dotRows func(blocks int, src *byte, step, ahead uintptr, x *uint32, out *float32, add bool)
	rows    int // row counts of a are multiples of it
	depth   int // and those of pairs summed over, of this
	tiling  Tiling
	// What products must stand between, on one thread; nil if nothing.
	begin, end func()
	dot        func(rounds int)
	flops      int // floating-point operations in one round of dot
}

// byRows tells whether products read a by rows only, which makes values lie by dimension.
func (p *pairs) byRows() bool { return p.tiles[0].heights[0].byCols == nil }

// tiles are the matrix-product tiles of one width, tallest first and the last one row (or pairs.rows) tall.
type tiles struct {
	cols    int
	heights []tile
}

// A tile computes some rows of c (+)= a·b at once, for an a whose rows are contiguous, one whose columns are and, if it
// is as tall as they are, one in panels.
type tile struct {
	rows           int
	byRows, byCols tileFunc
	byPanels       panelFunc
	byRowsMax      maxFunc // nil where there is none
}

// A tileFunc computes tiles, one below the other, of c[i][j] (+)= Σ_p a[i][p]·b[p][j], p in [0, k). Strides are in
// bytes; lda is that of a's rows, of its columns or of its panels.
type tileFunc func(tiles, k int, a *float32, lda uintptr, b *float32, ldb uintptr, c *float32, ldc uintptr, add bool)

// A panelFunc is a tileFunc of an a in panels that also asks for what is at next: step bytes for every p of every tile.
type panelFunc func(tiles, k int, a *float32, lda uintptr, b *float32, ldb uintptr, c *float32, ldc uintptr, add bool, next *float32, step uintptr)

// A maxFunc is a tileFunc of an a by rows that does not add, and raises most[j] to the largest of column j of c.
type maxFunc func(tiles, k int, a *float32, lda uintptr, b *float32, ldb uintptr, c *float32, ldc uintptr, most *float32)

const size = 4 // bytes in an element

var (
	negInf   = float32(math.Inf(-1))
	maxFloat = float32(math.MaxFloat32)
)

// Name returns the level: generic, avx2, avx512, avx512vnni, avx512bf16, amx or neon.
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
	rows, lda := true, ars
	if acs != 1 {
		rows, lda = false, acs
	}
	if k == 0 || n%Lanes != 0 || acs != 1 && ars != 1 {
		panic(fmt.Sprintf("kernel: Gemm with k = %d, n = %d, strides %d and %d of a", k, n, ars, acs))
	}
	// The assembly does not check bounds; these do.
	_ = a[(m-1)*ars+(k-1)*acs]
	_ = b[(k-1)*ldb+n-1]
	_ = c[(m-1)*ldc+n-1]
	multiply(s.tiles, m, n, k, rows, &a[0], uintptr(ars)*size, uintptr(lda)*size, &b[0], uintptr(ldb)*size, &c[0], uintptr(ldc)*size, add)
}

// multiply covers c with tiles. Strides are in bytes: ars that between rows of a, lda that which tiles want.
func multiply(all []tiles, m, n, k int, rows bool, a *float32, ars, lda uintptr, b *float32, ldb uintptr, c *float32, ldc uintptr, add bool) {
	for w := 0; n > 0; {
		for all[w].cols > n {
			w++
		}
		pa, pc, left := a, c, m
		for _, t := range all[w].heights {
			count := left / t.rows
			if count == 0 {
				continue
			}
			f := t.byCols
			if rows {
				f = t.byRows
			}
			f(count, k, pa, lda, b, ldb, pc, ldc, add)
			if left -= count * t.rows; left == 0 {
				break
			}
			pa = at(pa, uintptr(count*t.rows)*ars)
			pc = at(pc, uintptr(count*t.rows)*ldc)
		}
		if n -= all[w].cols; n > 0 {
			b, c = at(b, uintptr(all[w].cols)*size), at(c, uintptr(all[w].cols)*size)
		}
	}
}

// panelStep is the numbers from one column of a panel to the next.
const panelStep = 8

// HasPanels reports whether the level has Panels and GemmPanels: whether these are faster than Gemm of an a by columns.
func (s *Set) HasPanels() bool { return s.panel > 0 }

// PanelSize returns how many numbers hold the panels of rows × cols of a matrix.
func (s *Set) PanelSize(rows, cols int) int { return (cols + s.panel - 1) / s.panel * rows * panelStep }

// Panels copies a matrix, src[i*lds+j] for i in [0, rows) and j in [0, cols), to panels of few columns, in which the
// numbers of these in all rows follow one another. Products read a column after the other: as they lie, each number comes
// from another line, and lines a power of two apart share few places of the first-level cache.
func (s *Set) Panels(rows, cols int, src []float32, lds int, dst []float32) {
	if rows == 0 || cols == 0 {
		return
	}
	_, _ = src[(rows-1)*lds+cols-1], dst[s.PanelSize(rows, cols)-1]
	s.panels(rows, cols, s.panel, &src[0], uintptr(lds)*size, &dst[0], uintptr(rows)*panelStep*size)
}

// GemmPanels is Gemm of an a by columns that Panels has copied from a src of so many rows, the first k of which are summed
// over: row i of c is that of src's column i. Results are the same to the bit. Meanwhile it asks for what next holds, from
// further than the caches of a core, as far as the product leaves time, and returns the rest.
func (s *Set) GemmPanels(m, n, k int, a []float32, rows int, b []float32, ldb int, c []float32, ldc int, add bool, next []float32) (rest []float32) {
	if m == 0 || n == 0 {
		return next
	}
	if k == 0 || k > rows || n%Lanes != 0 {
		panic(fmt.Sprintf("kernel: GemmPanels with k = %d of %d, n = %d", k, rows, n))
	}
	_ = a[s.PanelSize(rows, m)-1]
	_ = b[(k-1)*ldb+n-1]
	_ = c[(m-1)*ldc+n-1]
	lda := uintptr(rows) * panelStep * size
	whole := m / s.panel
	ahead, step := &b[0], uintptr(0)
	if len(next) > 0 {
		ahead, step = &next[0], 4*size
	}
	pb, pc := &b[0], &c[0]
	for w := 0; n > 0; {
		for s.tiles[w].cols > n {
			w++
		}
		if whole > 0 {
			for _, t := range s.tiles[w].heights {
				if t.rows == s.panel {
					t.byPanels(whole, k, &a[0], lda, pb, uintptr(ldb)*size, pc, uintptr(ldc)*size, add, ahead, step)
					asked := min(whole*k*4, len(next))
					if next = next[asked:]; len(next) > 0 {
						ahead = &next[0]
					} else {
						ahead, step = &b[0], 0
					}
				}
			}
		}
		if left := m % s.panel; left > 0 {
			multiply(s.tiles[w:], left, s.tiles[w].cols, k, false, at(&a[0], uintptr(whole)*lda), size, panelStep*size,
				pb, uintptr(ldb)*size, at(pc, uintptr(whole*s.panel*ldc)*size), uintptr(ldc)*size, add)
		}
		cols := s.tiles[w].cols
		if n -= cols; n > 0 {
			pb, pc = at(pb, uintptr(cols)*size), at(pc, uintptr(cols)*size)
		}
	}
	return next
}

// GemmMax is Gemm of an a by rows that does not add, and may raise most[j] to the largest number of column j of c, NaN not
// being one, while that is in registers: found reports whether it has.
func (s *Set) GemmMax(m, n, k int, a []float32, lda int, b []float32, ldb int, c []float32, ldc int, most []float32) (found bool) {
	t := &s.tiles[0].heights[0]
	if m == 0 || n == 0 || k == 0 || n != s.tiles[0].cols || m%t.rows != 0 || t.byRowsMax == nil {
		s.Gemm(m, n, k, a, lda, 1, b, ldb, c, ldc, false)
		return false
	}
	_ = a[(m-1)*lda+k-1]
	_ = b[(k-1)*ldb+n-1]
	_ = c[(m-1)*ldc+n-1]
	_ = most[n-1]
	t.byRowsMax(m/t.rows, k, &a[0], uintptr(lda)*size, &b[0], uintptr(ldb)*size, &c[0], uintptr(ldc)*size, &most[0])
	return true
}

func at(p *float32, bytes uintptr) *float32 {
	return (*float32)(unsafe.Add(unsafe.Pointer(p), bytes))
}

// Transpose transposes a matrix of whole Lanes of rows, of float32s or of pairs: dst[j*ldd+i] = src[i*lds+j] for i in
// [0, rows) and j in [0, cols).
func Transpose[T float32 | uint32](s *Set, rows, cols int, src []T, lds int, dst []T, ldd int) {
	if rows == 0 || cols == 0 {
		return
	}
	if rows%Lanes != 0 {
		panic(fmt.Sprintf("kernel: Transpose with %d rows", rows))
	}
	_, _ = src[(rows-1)*lds+cols-1], dst[(cols-1)*ldd+rows-1]
	for i := 0; i < rows; i += Lanes {
		s.transpose(cols, single(&src[i*lds]), uintptr(lds)*size, single(&dst[i]), uintptr(ldd)*size)
	}
}

// TransposeAhead is Transpose of Lanes rows of a matrix that is read from memory, slice by slice: it asks for as many bytes as it
// reads, from ahead numbers behind src's start on.
func TransposeAhead[T float32 | uint32](s *Set, cols int, src []T, lds, ahead int, dst []T, ldd int) {
	if s.transposeAhead == nil || cols == 0 {
		Transpose(s, Lanes, cols, src, lds, dst, ldd)
		return
	}
	_, _ = src[(Lanes-1)*lds+cols-1], dst[(cols-1)*ldd+Lanes-1]
	s.transposeAhead(cols, single(&src[0]), uintptr(lds)*size, single(&dst[0]), uintptr(ldd)*size, uintptr(ahead)*size)
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

// ScaleStream is Scale for a dst that is not read before long: where it can, it writes to memory and spares the caches what
// lies there.
func (s *Set) ScaleStream(dst, src []float32, f float32) (finite bool) {
	const line = 64
	if n := len(src); s.scaleStream != nil && n > 0 && n%Lanes == 0 && uintptr(unsafe.Pointer(unsafe.SliceData(dst)))%line == 0 {
		_ = dst[:n]
		return s.scaleStream(n, &dst[0], &src[0], f) == 0
	}
	return s.Scale(dst, src, f)
}

// ScaleCols multiplies column j of x by f[j]: x[i*ld+j] for i in [0, rows) and j in [0, n), n a multiple of Lanes.
func (s *Set) ScaleCols(rows, n int, x []float32, ld int, f []float32) {
	if empty("ScaleCols", rows, n) {
		return
	}
	_, _ = x[(rows-1)*ld+n-1], f[n-1]
	s.scaleCols(rows, &x[0], uintptr(ld)*size, n, &f[0])
}

// SwiGLU replaces gate by gate·sigmoid(gate)·up, which is as long, a multiple of Lanes.
func (s *Set) SwiGLU(gate, up []float32) {
	if empty("SwiGLU", 1, len(gate)) {
		return
	}
	_ = up[len(gate)-1]
	s.swiGLU(len(gate), &gate[0], &up[0])
}

// Normalise scales the columns of src [len(weight), n], n a multiple of Lanes, to a mean square of one less what eps adds to
// it, and row i by weight[i]. dst may be src. Sums of squares are in double precision.
func (s *Set) Normalise(n int, dst, src, weight []float32, eps float64) {
	rows := len(weight)
	if empty("Normalise", rows, n) {
		return
	}
	_, _ = dst[rows*n-1], src[rows*n-1]
	for j := 0; j < n; j += Lanes {
		var sum [Lanes]float64
		var factor [Lanes]float32
		s.squares(rows, &src[j], uintptr(n)*size, &sum[0])
		for i, x := range sum {
			factor[i] = float32(1 / math.Sqrt(x/float64(rows)+eps))
		}
		s.scaleBoth(rows, &dst[j], &src[j], uintptr(n)*size, &factor[0], &weight[0])
	}
}

// Finite reports whether x holds no NaN and no infinity.
func (s *Set) Finite(x []float32) bool {
	n := len(x) / Lanes * Lanes
	if n > 0 && s.finite(n, &x[0]) != 0 {
		return false
	}
	for _, x := range x[n:] {
		if x*0 != 0 {
			return false
		}
	}
	return true
}

// Prefetch asks for x, which is read soon, where processors cannot foresee that. One 16-bit number is not worth it.
func Prefetch[T float32 | uint16](s *Set, x []T) {
	const line = 64
	if bytes := len(x) * int(unsafe.Sizeof(*new(T))); s.prefetch != nil && bytes >= 4 {
		s.prefetch(single(&x[0]), (bytes+line-1)/line)
	}
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

// AddBFloat16 adds the bfloat16 numbers in src to dst, which is as long.
func (s *Set) AddBFloat16(dst []float32, src []uint16) {
	n := len(src) / Lanes * Lanes
	_ = dst[:len(src)]
	if n > 0 {
		s.addBF16(n, &dst[0], &src[0])
	}
	for i, x := range src[n:] {
		dst[n+i] += math.Float32frombits(uint32(x) << 16)
	}
}

// FromBFloat16 widens the bfloat16 numbers in src to dst, which is as long. A NaN stays one.
func (s *Set) FromBFloat16(dst []float32, src []uint16) {
	s.widen(s.bf16, dst, src, func(x uint16) float32 { return math.Float32frombits(uint32(x) << 16) })
}

// FromFloat16 widens the IEEE half-precision numbers in src to dst, which is as long. A NaN stays one.
func (s *Set) FromFloat16(dst []float32, src []uint16) {
	s.widen(s.f16, dst, src, HalfToSingle)
}

func (s *Set) widen(f func(n int, dst *float32, src *uint16), dst []float32, src []uint16, one func(uint16) float32) {
	n := len(src) / Lanes * Lanes
	_ = dst[:len(src)]
	if n > 0 {
		f(n, &dst[0], &src[0])
	}
	for i, x := range src[n:] {
		dst[n+i] = one(x)
	}
}

// Splits reports whether the level has SplitFloat16 and SplitBFloat16.
func (s *Set) Splits() bool { return s.splitF16 != nil }

// SplitFloat16 widens rows of n pairs of IEEE half-precision numbers, n a multiple of Lanes: the lower halves of row i go to
// row 2i of dst, the upper ones to row 2i + 1. All rows follow one another.
func (s *Set) SplitFloat16(rows, n int, src []uint32, dst []float32) {
	split(s.splitF16, rows, n, src, dst)
}

// SplitBFloat16 is SplitFloat16 of bfloat16 numbers.
func (s *Set) SplitBFloat16(rows, n int, src []uint32, dst []float32) {
	split(s.splitBF16, rows, n, src, dst)
}

func split(f func(rows, n int, src *uint32, dst *float32), rows, n int, src []uint32, dst []float32) {
	if empty("Split", rows, n) {
		return
	}
	_, _ = src[rows*n-1], dst[2*rows*n-1]
	f(rows, n, &src[0], &dst[0])
}

// RoundToFloat16 returns the bits of the half nearest to x, the even one of two, or an infinity beyond their range. A
// NaN stays one.
func RoundToFloat16(x float32) uint16 {
	b := math.Float32bits(x)
	sign := uint16(b >> 16 & 0x8000)
	size := math.Abs(float64(x))
	switch {
	case x != x:
		return sign | 0x7e00
	case size >= 65520:
		return sign | 0x7c00
	case size < 0x1p-14: // subnormal: a multiple of 2^−24
		return sign | uint16(math.RoundToEven(size*0x1p24))
	}
	b = b&0x7fffffff - (127-15)<<23
	return sign | uint16((b+0xfff+b>>13&1)>>13)
}

// HalfToSingle converts an IEEE half exactly; a NaN stays one.
func HalfToSingle(h uint16) float32 {
	sign, exp, frac := uint32(h&0x8000)<<16, uint32(h>>10&31), uint32(h&0x3ff)
	switch exp {
	case 0: // zero or subnormal: frac · 2^−24
		f := float32(frac) * (1.0 / (1 << 24))
		return math.Float32frombits(math.Float32bits(f) | sign)
	case 31:
		return math.Float32frombits(sign | 0x7f800000 | frac<<13)
	}
	return math.Float32frombits(sign | (exp+112)<<23 | frac<<13)
}

// empty reports whether there is nothing to do, and panics unless n is a multiple of Lanes.
func empty(name string, rows, n int) bool {
	if n%Lanes != 0 {
		panic(fmt.Sprintf("kernel: %s with n = %d", name, n))
	}
	return rows == 0 || n == 0
}

// ColMax raises top[j] to scale times the largest of x[i*ld+j], i in [0, rows), for j in [0, n), n a multiple of Lanes
// up to 64 and scale positive. A NaN in x raises nothing. Bit j of what it returns is set unless
// top[j] ≤ min(base[j] + slack, the largest finite number).
func (s *Set) ColMax(rows, n int, x []float32, ld int, scale, slack float32, top, base []float32) (raised uint64) {
	if empty("ColMax", rows, n) {
		return 0
	}
	if n > 64 {
		panic(fmt.Sprintf("kernel: ColMax with n = %d", n))
	}
	_, _, _ = x[(rows-1)*ld+n-1], top[n-1], base[n-1]
	return s.colMax(rows, &x[0], uintptr(ld)*size, n, scale, slack, &top[0], &base[0])
}

// ExpSum replaces x[i*ld+j] by 2^(scale·x[i*ld+j] − m[j]) and adds the sum of a column to l[j], for i in [0, rows) and j
// in [0, n), n a multiple of Lanes. It is within 2 ulp, for exponents up to 127; below 2^−64, a share that no sum in
// single precision notices, it is 0.
func (s *Set) ExpSum(rows, n int, x []float32, ld int, scale float32, m, l []float32) {
	if empty("ExpSum", rows, n) {
		return
	}
	_, _, _ = x[(rows-1)*ld+n-1], m[n-1], l[n-1]
	s.expSum(rows, &x[0], uintptr(ld)*size, n, scale, &m[0], &l[0])
}

// Mask sets x[i*ld+j] to −∞ unless pos[j] − far ≤ first + i ≤ pos[j] − near, for i in [0, rows) and j in [0, n), n a
// multiple of Lanes. No difference or sum may leave the range of an int32.
func (s *Set) Mask(rows, n int, x []float32, ld int, pos []int32, first, far, near int) {
	if empty("Mask", rows, n) {
		return
	}
	_, _ = x[(rows-1)*ld+n-1], pos[n-1]
	s.mask(rows, &x[0], uintptr(ld)*size, n, &pos[0], int32(first), int32(far), int32(near))
}

// Select appends base+i to dst for every row i in [0, rows) of x in which some column j in [0, n) does not satisfy
// top[j] − x[i*ld+j] > theta. A NaN does not satisfy it. n is a multiple of Lanes.
func (s *Set) Select(dst []int32, base int32, rows, n int, x []float32, ld int, top []float32, theta float32) []int32 {
	if empty("Select", rows, n) {
		return dst
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
