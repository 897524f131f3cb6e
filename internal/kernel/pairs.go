package kernel

import (
	"fmt"
	"math"
	"runtime"
	"unsafe"
)

// Pairs reports whether the level has the kernels on pairs of bfloat16s: GemmPairs, GemmValues, PackValues, ExpPairs and
// Dot. PairRows and PairDepth say how they want matrices padded.
func (s *Set) Pairs() bool { return s.pairs != nil }

// PairRows is the number of rows of a that GemmPairs takes at once: row counts are multiples of it.
func (s *Set) PairRows() int { return s.pairs.rows }

// A Tiling is how many query rows should meet how many keys at a time, and the scores of how many of those keys should be
// made into weights before those of the next are computed.
type Tiling struct{ TileRows, BlockKeys, StripKeys int }

// PairTiling returns the tiling that suits the level's products of pairs. A level that wants strips shorter than a block
// sums values pair after pair, so that it makes no difference how GemmValues is cut into calls.
//
// AMX is so fast that what its products read and write should not leave the first-level cache: strips of 32 keys; and that
// loading and storing the sums of a tile is dear: blocks of 512 keys. Measured at dim 128: bench/NOTES.md.
func (s *Set) PairTiling() Tiling { return s.pairs.tiling }

// PairDepth is what numbers of pairs that are summed over are multiples of.
func (s *Set) PairDepth() int { return s.pairs.depth }

// BeginPairs comes before any number of calls of GemmPairs, GemmValues and Dot, and EndPairs after: AMX tiles belong to
// a thread and have to be set up, and the goroutine stays on its thread meanwhile.
func (s *Set) BeginPairs() {
	if s.pairs.begin != nil {
		runtime.LockOSThread()
		s.pairs.begin()
	}
}

// EndPairs ends what BeginPairs began.
func (s *Set) EndPairs() {
	if s.pairs.begin != nil {
		s.pairs.end()
		runtime.UnlockOSThread()
	}
}

// GemmPairs computes the m×n matrix c = a·b, or c += a·b when add is set, over the k pairs of a row of a, which start
// at a[i*lda], and b[p*ldb+j]. n is a multiple of Lanes, m of PairRows and k of PairDepth.
func (s *Set) GemmPairs(m, n, k int, a []uint16, lda int, b []uint32, ldb int, c []float32, ldc int, add bool) {
	if s.emptyPairs("GemmPairs", m, n, k) {
		return
	}
	_ = a[(m-1)*lda+2*k-1]
	_ = b[(k-1)*ldb+n-1]
	_ = c[(m-1)*ldc+n-1]
	multiply(s.pairs.tiles, m, n, k, true, single(&a[0]), uintptr(lda)*2, uintptr(lda)*2, single(&b[0]), uintptr(ldb)*size, &c[0], uintptr(ldc)*size, add)
}

// GemmPairsByCols is GemmPairs of an a by columns, for levels whose PairRows is 1: pair p of row i is a[p*lda+i].
func (s *Set) GemmPairsByCols(m, n, k int, a []uint32, lda int, b []uint32, ldb int, c []float32, ldc int, add bool) {
	if s.emptyPairs("GemmPairsByCols", m, n, k) {
		return
	}
	if s.pairs.byRows() {
		panic("kernel: GemmPairsByCols at level " + s.name)
	}
	_ = a[(k-1)*lda+m-1]
	_ = b[(k-1)*ldb+n-1]
	_ = c[(m-1)*ldc+n-1]
	multiply(s.pairs.tiles, m, n, k, false, single(&a[0]), size, uintptr(lda)*size, single(&b[0]), uintptr(ldb)*size, &c[0], uintptr(ldc)*size, add)
}

// MultiplyRowPairs is GemmPairsByCols of one row and Lanes rows of pairs, k numbers each from src on and lda apart, that need
// not be turned before: out[i] is the product of row i and pair p at x[p*Lanes], or is added to. It asks for as much as it
// reads, from ahead numbers behind src's start on. Done is false where the level has nothing for that k.
func (s *Set) MultiplyRowPairs(k int, src []uint16, lda, ahead int, x []uint32, out []float32, add bool) (done bool) {
	const block = 16
	if s.pairs.dotRows == nil || k == 0 || k%block != 0 {
		return false
	}
	_, _, _ = src[(Lanes-1)*lda+k-1], x[(k/2-1)*Lanes], out[Lanes-1]
	s.pairs.dotRows(k/block, (*byte)(unsafe.Pointer(&src[0])), uintptr(lda)*2, uintptr(ahead)*2, &x[0], &out[0], add)
	return true
}

// PackPairs makes pairs of the rows of src, two of k rows of n numbers that follow one another, rounded to bfloat16. k is
// even and n a multiple of Lanes.
func (s *Set) PackPairs(k, n int, src []float32, dst []uint32) {
	if k%2 != 0 || empty("PackPairs", k, n) {
		panic(fmt.Sprintf("kernel: PackPairs with k = %d, n = %d", k, n))
	}
	_, _ = src[k*n-1], dst[k/2*n-1]
	s.pairs.round(k/2, n, &src[0], &dst[0])
}

// GemmPairsTwice computes c = a·b + a·b', where b is followed by b' in k rows more: what GemmPairs of b and of b' give.
func (s *Set) GemmPairsTwice(m, n, k int, a []uint16, lda int, b []uint32, ldb int, c []float32, ldc int) {
	if s.pairs.twice == nil {
		s.GemmPairs(m, n, k, a, lda, b, ldb, c, ldc, false)
		s.GemmPairs(m, n, k, a, lda, b[k*ldb:], ldb, c, ldc, true)
		return
	}
	if s.emptyPairs("GemmPairsTwice", m, n, k) {
		return
	}
	_ = a[(m-1)*lda+2*k-1]
	_ = b[(2*k-1)*ldb+n-1]
	_ = c[(m-1)*ldc+n-1]
	multiply(s.pairs.twice, m, n, k, true, single(&a[0]), uintptr(lda)*2, uintptr(lda)*2, single(&b[0]), uintptr(ldb)*size, &c[0], uintptr(ldc)*size, false)
}

func (s *Set) emptyPairs(name string, m, n, k int) bool {
	if m%s.pairs.rows != 0 || k == 0 || k%s.pairs.depth != 0 {
		panic(fmt.Sprintf("kernel: %s with m = %d, k = %d", name, m, k))
	}
	return empty(name, m, n)
}

// single lets matrices of pairs pass where tiles want float32s: both are read 4 bytes at a time.
func single[T uint16 | uint32 | float32](p *T) *float32 { return (*float32)(unsafe.Pointer(p)) }

var zeros [256]uint16

// RoundToBFloat16 returns the bits of the bfloat16 nearest to x, the even one of two; a NaN stays one.
func RoundToBFloat16(x float32) uint16 {
	b := math.Float32bits(x)
	if x != x {
		return uint16(b>>16 | 1<<6)
	}
	return uint16((b + 0x7fff + b>>16&1) >> 16)
}

// PackValues packs the values of n ≤ 2·pairs keys, the first dim numbers of v(j) for key j, for GemmValues, with zeros
// for keys that are missing, and reports whether all are finite. dim is a multiple of Lanes, pairs one of PairDepth; dst
// holds pairs·dim pairs, and buf as many.
func (s *Set) PackValues(n, dim, pairs int, v func(j int) []uint16, dst, buf []uint32) (finite bool) {
	if dim%Lanes != 0 || pairs%s.pairs.depth != 0 || n < 1 || n > 2*pairs {
		panic(fmt.Sprintf("kernel: PackValues with n = %d, dim = %d, pairs = %d", n, dim, pairs))
	}
	_, _ = dst[pairs*dim-1], buf[pairs*dim-1]
	to := dst
	if s.pairs.byRows() {
		to = buf
	}
	bad := uint32(0)
	for p := range (n + 1) / 2 {
		even, odd := v(2 * p)[:dim], zeros[:dim]
		if 2*p+1 < n {
			odd = v(2*p + 1)[:dim]
		}
		bad |= s.pairs.pair(dim, &to[p*dim], &even[0], &odd[0])
	}
	clear(to[(n+1)/2*dim : pairs*dim])
	if s.pairs.byRows() {
		for p := 0; p < pairs; p += Lanes {
			s.transpose(dim, single(&buf[p*dim]), uintptr(dim)*size, single(&dst[p]), uintptr(pairs)*size)
		}
	}
	return bad == 0
}

// GemmValues computes c[d*ldc+j] += Σ v[d][p]·w[p*ldw+j], over the pairs p in [from, to) of the values that PackValues
// packed into v and for j in [0, n), n a multiple of Lanes. from and to − from are multiples of PairDepth, to ≤ pairs.
func (s *Set) GemmValues(dim, n, from, to, pairs int, v []uint32, w []uint32, ldw int, c []float32, ldc int) {
	if s.emptyPairs("GemmValues", dim, n, to-from) {
		return
	}
	_, _, _ = v[pairs*dim-1], w[(to-1)*ldw+n-1], c[(dim-1)*ldc+n-1]
	rows, first, ars, lda := false, from*dim, 1, dim
	if s.pairs.byRows() {
		rows, first, ars, lda = true, from, pairs, pairs
	}
	multiply(s.pairs.tiles, dim, n, to-from, rows, single(&v[first]), uintptr(ars)*size, uintptr(lda)*size, single(&w[from*ldw]), uintptr(ldw)*size, &c[0], uintptr(ldc)*size, true)
}

// ExpPairs is ExpSum that leaves x as it is and writes the weights, rounded to bfloat16, two rows to one row of pairs
// at dst: dst[i/2*ldd+j]. The sums are those of the weights before rounding. Missing rows up to a multiple of
// 2·PairDepth are written as zeros. next, if not nil, is memory that is read next, rows ldn apart: the first 4·n bytes of as
// many of them as x has are brought into the cache meanwhile.
func (s *Set) ExpPairs(rows, n int, x []float32, ld int, scale float32, m, l []float32, dst []uint32, ldd int, next []uint16, ldn int) {
	if empty("ExpPairs", rows, n) {
		return
	}
	used := (rows + 1) / 2
	pairs := (used + s.pairs.depth - 1) / s.pairs.depth * s.pairs.depth
	_, _, _, _ = x[(rows-1)*ld+n-1], m[n-1], l[n-1], dst[(pairs-1)*ldd+n-1]
	s.pairs.expPairs(rows, &x[0], uintptr(ld)*size, n, scale, &m[0], &l[0], &dst[0], uintptr(ldd)*size, unsafe.SliceData(next), uintptr(ldn)*2)
	for p := used; p < pairs; p++ {
		clear(dst[p*ldd : p*ldd+n])
	}
}

// Dot is FMA for the product of pairs.
func (s *Set) Dot(rounds int) (flops float64) {
	s.pairs.dot(rounds)
	return float64(rounds) * float64(s.pairs.flops)
}
