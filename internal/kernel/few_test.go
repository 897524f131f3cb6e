package kernel

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// Score is Gemm of the same keys, or GemmPairs, to the bit, and Weigh and AddSums are the products with values by columns, wherever
// values are cut into calls. Nothing is written beyond them.
func TestFew(t *testing.T) {
	forLevels(t, func(t *testing.T, s *Set) {
		r := rand.New(rand.NewPCG(61, 62))
		for kind := range Kind(numKinds) {
			if !s.HasFew(kind, 64) {
				continue
			}
			if s.HasFew(kind, 48) {
				t.Errorf("kind %d: has kernels for rows of 48 numbers", kind)
			}
			for _, dim := range []int{32, 64, 96, 128, 256} {
				for rows := 1; rows <= FewRows; rows++ {
					n := []int{2, 16, 32, 48, 98, 128}[r.IntN(6)]
					testFew(t, r, s, kind, dim, rows, n)
				}
			}
		}
	})
}

func testFew(t *testing.T, r *rand.Rand, s *Set, kind Kind, dim, rows, n int) {
	step, ld := dim+r.IntN(2)*8, Lanes+r.IntN(2)*32
	lines := Lines{Step: step}
	var numbers []float32 // the same, each in single precision
	switch size := (n-1)*step + dim; kind {
	case Singles:
		numbers = random(r, size)
		lines.F32 = slices.Clone(numbers)
	case Pairs:
		lines.U16 = truncated(r, size)
	case Bytes:
		lines.I8, lines.Scales, numbers = make([]int8, size), random(r, n), make([]float32, size)
		for i := range size {
			lines.I8[i] = int8(r.IntN(256) - 128)
			numbers[i] = float32(lines.I8[i]) * lines.Scales[i/step]
		}
	}
	// Columns of numbers of which those beyond rows are zero, and of bits likewise.
	columns := func(n int) []float32 {
		x := make([]float32, n*ld)
		for i := range x {
			if i%ld < rows {
				x[i] = float32(r.NormFloat64())
			}
		}
		return x
	}
	pairs := func(n int) []uint32 {
		x := make([]uint32, n*ld)
		for i := range x {
			if i%ld < rows {
				pair := truncated(r, 2)
				x[i] = uint32(pair[0]) | uint32(pair[1])<<16
			}
		}
		return x
	}
	next := []Lines{{}, lines, lines.Skip(n / 2)}[r.IntN(3)]
	fault := func(what string) {
		t.Errorf("kind %d, %d × %d, %d rows: %s", kind, n, dim, rows, what)
	}

	if n%Lanes == 0 {
		got := random(r, n*ld+1)
		want := slices.Clone(got)
		if kind == Pairs {
			q := pairs(dim / 2)
			Score(s, n, rows, dim, lines, q, ld, got, next)
			s.GemmPairs(n, Lanes, dim/2, lines.U16, step, q, ld, want, ld, false)
		} else {
			q := columns(dim)
			Score(s, n, rows, dim, lines, q, ld, got, next)
			s.Gemm(n, Lanes, dim, numbers, step, 1, q, ld, want, ld, false)
		}
		if !slices.Equal(got, want) {
			fault("Score differs")
		}
	}

	cut := r.IntN(n+1) / 2 * 2
	sums := make([]float32, SumsSize(dim)+1)
	sums[SumsSize(dim)] = 7
	got := random(r, dim*ld+1)
	want := slices.Clone(got)
	if kind == Pairs {
		w := pairs(n / 2)
		Weigh(s, cut, rows, dim, lines, w, ld, sums, next)
		Weigh(s, n-cut, rows, dim, lines.Skip(cut%n), w[cut%n/2*ld:], ld, sums, next)
		packed := make([]uint32, n/2*dim)
		s.PackValues(n, dim, n/2, func(j int) []uint16 { return lines.U16[j*step:] }, packed, packed)
		s.GemmValues(dim, Lanes, 0, n/2, n/2, packed, w, ld, want, ld)
	} else {
		w := columns(n)
		Weigh(s, cut, rows, dim, lines, w, ld, sums, next)
		Weigh(s, n-cut, rows, dim, lines.Skip(cut%n), w[cut%n*ld:], ld, sums, next)
		s.Gemm(dim, Lanes, n, numbers, 1, step, w, ld, want, ld, true)
	}
	s.AddSums(kind, rows, dim, sums, got, ld)
	if !slices.Equal(got, want) {
		fault("Weigh and AddSums differ")
	}
	if sums[SumsSize(dim)] != 7 {
		fault("Weigh writes beyond its sums")
	}
}
