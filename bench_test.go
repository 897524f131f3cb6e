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
			p := newProblem(rand.New(rand.NewPCG(1, 2)), 8, 2, n, n, 128)
			s := p.sequence()
			var res *Result
			for b.Loop() {
				var err error
				if res, err = Attend(b.Context(), Options{Planner: Dense()}, s); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportMetric(float64(2*8*128*n*n)/(float64(b.Elapsed().Nanoseconds())/float64(b.N)), "GFLOP/s")
			_ = res
		})
	}
}
