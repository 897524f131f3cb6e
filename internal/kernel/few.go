package kernel

import (
	"fmt"
	"unsafe"
)

// FewRows is the most rows of queries that Score and Weigh take.
const FewRows = 8

// few is the kernels for a few rows of queries, which wait for keys and values: these are read once, as they lie, and what
// follows is asked for meanwhile. Each is for up to four rows and for up to eight; nil where the level has none for a type.
type few struct {
	score   [numKinds][2]scoreFunc
	weigh   [numKinds][2]weighFunc
	addSums [numKinds][2]func(slices int, sums, dst *float32, ld uintptr)
}

type (
	scoreFunc func(groups, blocks int, src *byte, step, ahead uintptr, q *float32, ld uintptr, out, scales *float32)
	weighFunc func(n, slices int, v *byte, step, ahead uintptr, w *float32, ld uintptr, sums, scales *float32)
)

// A Kind is what the numbers of keys and values are.
type Kind uint8

const (
	Singles  Kind = iota // single precision
	Pairs                // bfloat16s, multiplied in pairs
	Bytes                // whole numbers, each row with a factor of its own
	numKinds = iota
)

// Lines are rows of keys or of values that lie Step numbers apart, of one kind.
type Lines struct {
	F32    []float32
	U16    []uint16
	I8     []int8
	Scales []float32 // of I8, one a row
	Step   int
}

// Skip returns the lines from row n on.
func (l Lines) Skip(n int) Lines {
	switch {
	case n == 0:
	case l.F32 != nil:
		l.F32 = l.F32[n*l.Step:]
	case l.U16 != nil:
		l.U16 = l.U16[n*l.Step:]
	case l.I8 != nil:
		l.I8, l.Scales = l.I8[n*l.Step:], l.Scales[n:]
	}
	return l
}

// start returns where the lines begin, their kind, the size of a number, and the factors.
func (l *Lines) start() (first *byte, kind Kind, bytes uintptr, scales *float32) {
	switch {
	case l.F32 != nil:
		return (*byte)(unsafe.Pointer(unsafe.SliceData(l.F32))), Singles, 4, nil
	case l.U16 != nil:
		return (*byte)(unsafe.Pointer(unsafe.SliceData(l.U16))), Pairs, 2, nil
	}
	return (*byte)(unsafe.Pointer(unsafe.SliceData(l.I8))), Bytes, 1, unsafe.SliceData(l.Scales)
}

// check panics unless n rows of dim numbers lie there.
func (l *Lines) check(n, dim int) {
	last := (n-1)*l.Step + dim - 1
	switch {
	case l.F32 != nil:
		_ = l.F32[last]
	case l.U16 != nil:
		_ = l.U16[last]
	default:
		_, _ = l.I8[last], l.Scales[n-1]
	}
}

// HasFew reports whether the level has Score, Weigh and AddSums for a kind and that many numbers in a row.
func (s *Set) HasFew(kind Kind, dim int) bool {
	return s.few != nil && s.few.score[kind][0] != nil && dim%(2*Lanes) == 0
}

// behind returns how far behind from the lines begin, or 0 if there are none. It is for asking alone: no matter what lies there.
func (l *Lines) behind(from *byte) uintptr {
	first, _, _, _ := l.start()
	if first == nil {
		return 0
	}
	return uintptr(unsafe.Pointer(first)) - uintptr(unsafe.Pointer(from))
}

func tall(rows int) int { return (rows - 1) / 4 }

// Score computes the products of n keys, whole Lanes of them, and up to FewRows rows of queries, dim numbers each: c[i*ld+j] of key
// i and query row j. Queries are columns, number p of row j at q[p*ld+j], or pair p. Up to row 4, or FewRows, q must be zero where
// there are no rows; c is zero from there to Lanes. It is Gemm, or GemmPairs, of fewer columns, the same to the bit, with
// keys of Bytes widened before. next is read after these keys.
func Score[Q float32 | uint32](s *Set, n, rows, dim int, k Lines, q []Q, ld int, c []float32, next Lines) {
	if n == 0 {
		return
	}
	src, kind, bytes, scales := k.start()
	if n%Lanes != 0 || rows < 1 || rows > FewRows || !s.HasFew(kind, dim) {
		panic(fmt.Sprintf("kernel: Score of %d keys of kind %d and dim %d, %d rows", n, kind, dim, rows))
	}
	k.check(n, dim)
	depth := dim
	if kind == Pairs {
		depth = dim / 2
	}
	_, _ = q[(depth-1)*ld+Lanes-1], c[(n-1)*ld+Lanes-1]
	f := s.few.score[kind][tall(rows)]
	const block = 32 // bytes
	blocks, step := dim*int(bytes)/block, uintptr(k.Step)*bytes
	near, ahead := asks(n, Lanes, step, next.behind(src))
	if near > 0 {
		f(near/Lanes, blocks, src, step, ahead, single(&q[0]), uintptr(ld)*size, &c[0], scales)
	}
	if near < n {
		k = k.Skip(near)
		src, _, _, scales = k.start()
		f((n-near)/Lanes, blocks, src, step, next.behind(src), single(&q[0]), uintptr(ld)*size, &c[near*ld], scales)
	}
}

// asks returns how many of n rows, in chunks, ask for what is so many bytes ahead, some 16 KiB: all, unless what follows
// the last lies elsewhere than behind them. The rest are to ask for that.
func asks(n, chunk int, step, follows uintptr) (near int, ahead uintptr) {
	const bytes = 16 << 10
	rows := chunk * int(max(bytes/(uintptr(chunk)*max(step, 1)), 1))
	if follows == uintptr(n)*step {
		return n, uintptr(rows) * step
	}
	return max(n-rows, 0) / chunk * chunk, uintptr(rows) * step
}

// SumsSize returns how many numbers Weigh wants for its sums.
func SumsSize(dim int) int { return FewRows * dim }

// Weigh adds the products of n rows of values, dim numbers each, and of up to FewRows rows of weights to sums, which are zero at
// first. Weights are columns, that of value i and row j at w[i*ld+j] or, for pairs, that of values 2i and 2i+1; then n is even.
// For each number it is one sum in the order of rows, wherever these are cut into calls. next is read after these values.
func Weigh[W float32 | uint32](s *Set, n, rows, dim int, v Lines, w []W, ld int, sums []float32, next Lines) {
	if n == 0 {
		return
	}
	src, kind, bytes, scales := v.start()
	if rows < 1 || rows > FewRows || !s.HasFew(kind, dim) || kind == Pairs && n%2 != 0 {
		panic(fmt.Sprintf("kernel: Weigh of %d values of kind %d and dim %d, %d rows", n, kind, dim, rows))
	}
	v.check(n, dim)
	each := 1 // rows that share weights
	if kind == Pairs {
		each = 2
	}
	_, _ = w[(n/each-1)*ld+Lanes-1], sums[SumsSize(dim)-1]
	f := s.few.weigh[kind][tall(rows)]
	step, slices := uintptr(v.Step)*bytes, dim/(2*Lanes)
	near, ahead := asks(n, Lanes*each, step, next.behind(src))
	if near > 0 {
		f(near/each, slices, src, step, ahead, single(&w[0]), uintptr(ld)*size, &sums[0], scales)
	}
	if near < n {
		v = v.Skip(near)
		src, _, _, scales = v.start()
		f((n-near)/each, slices, src, step, next.behind(src), single(&w[near/each*ld]), uintptr(ld)*size, &sums[0], scales)
	}
}

// AddSums adds to c[d*ld+j] the sum of number d and row j that Weigh has left, for values of the kind.
func (s *Set) AddSums(kind Kind, rows, dim int, sums, c []float32, ld int) {
	_, _ = sums[SumsSize(dim)-1], c[(dim-1)*ld+Lanes-1]
	s.few.addSums[kind][tall(rows)](dim/(2*Lanes), &sums[0], &c[0], uintptr(ld)*size)
}
