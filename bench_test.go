package anchor

import (
	"fmt"
	"math/rand/v2"
	"testing"
)

// BenchmarkDense reports dense causal GFLOP/s, 2·H·D·N² over the time, at heads 8/2, dim 128.
func BenchmarkDense(b *testing.B) {
	for _, n := range []int{1024, 4096, 8192} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := newProblem(rand.New(rand.NewPCG(1, 2)), 8, 2, n, n, 128).sequence()
			attendAll(b, s)
			b.ReportMetric(float64(2*8*128*n*n)/(float64(b.Elapsed().Nanoseconds())/float64(b.N)), "GFLOP/s")
		})
	}
}

// BenchmarkDecode reports the rate at which one query row's keys and values, heads 8/2, dim 128, are read.
func BenchmarkDecode(b *testing.B) {
	for _, n := range []int{4096, 32768} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := newProblem(rand.New(rand.NewPCG(1, 2)), 8, 2, 1, n, 128).sequence()
			attendAll(b, s)
			b.ReportMetric(float64(2*2*128*4*n)/(float64(b.Elapsed().Nanoseconds())/float64(b.N)), "GB/s")
		})
	}
}

func attendAll(b *testing.B, s Sequence) {
	for b.Loop() {
		if _, err := Attend(b.Context(), Options{Planner: Dense()}, s); err != nil {
			b.Fatal(err)
		}
	}
}
