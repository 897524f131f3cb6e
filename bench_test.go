package anchor

import (
	"fmt"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/anchorattention/anchor/internal/workload"
)

// BenchmarkDense reports dense causal GFLOP/s, 2·H·D·N² over the time, at heads 8/2, dim 128.
func BenchmarkDense(b *testing.B) {
	for _, dtype := range []DType{Float32, BFloat16} {
		for _, n := range []int{1024, 4096, 8192} {
			b.Run(fmt.Sprint(dtype, "/", n), func(b *testing.B) {
				s := newProblem(rand.New(rand.NewPCG(1, 2)), 8, 2, n, n, 128).as(dtype)
				attendAll(b, s)
				b.ReportMetric(float64(2*8*128*n*n)/(float64(b.Elapsed().Nanoseconds())/float64(b.N)), "GFLOP/s")
			})
		}
	}
}

// BenchmarkDecode reports the rate at which one query row's keys and values, heads 8/2, dim 128, are read.
func BenchmarkDecode(b *testing.B) {
	for _, dtype := range []DType{Float32, BFloat16, Int8} {
		for _, n := range []int{4096, 32768} {
			b.Run(fmt.Sprint(dtype, "/", n), func(b *testing.B) {
				p := newProblem(rand.New(rand.NewPCG(1, 2)), 8, 2, 1, n, 128)
				s := p.as(dtype)
				if dtype == Int8 {
					view := func(x []float32) Tensor {
						data, scales := eighths(x, 128)
						return FromInt8(data, scales, 2, n, 128)
					}
					s.K, s.V = view(p.k), view(p.v)
				}
				attendAll(b, s)
				b.ReportMetric(float64(2*2*128*n)*float64(dtype.size())/(float64(b.Elapsed().Nanoseconds())/float64(b.N)), "GB/s")
			})
		}
	}
}

// BenchmarkMethods times methods on synthetic heads: mixed ones, and flat ones that nothing can be left out of.
func BenchmarkMethods(b *testing.B) {
	for _, c := range []struct {
		workload string
		n        int
		methods  []Planner
	}{
		{"mixture", 32768, []Planner{Dense(), AnchorAttention(DefaultParams())}},
		{"diffuse", 4096, []Planner{Dense(), Auto(DefaultParams())}},
	} {
		w, err := workload.Lookup(c.workload)
		if err != nil {
			b.Fatal(err)
		}
		data, err := w.Generate(workload.Size{Heads: 8, KVHeads: 2, Length: c.n, Dim: 128}, 1, 0)
		if err != nil {
			b.Fatal(err)
		}
		p := &problem{heads: 8, kvHeads: 2, dim: 128, nq: c.n, nk: c.n, q: data.Q, k: data.K, v: data.V}
		for _, dtype := range []DType{Float32, BFloat16} {
			s := p.as(dtype)
			for _, m := range c.methods {
				b.Run(fmt.Sprint(c.workload, "/", dtype, "/", m.Name()), func(b *testing.B) {
					var res *Result
					for b.Loop() {
						if res, err = Attend(b.Context(), Options{Planner: m}, s); err != nil {
							b.Fatal(err)
						}
					}
					b.ReportMetric(res.FLOPs/(float64(b.Elapsed().Nanoseconds())/float64(b.N)), "GFLOP/s")
				})
			}
		}
	}
}

// as returns the problem's sequence with inputs of the given type.
func (p *problem) as(dtype DType) Sequence {
	s := p.sequence()
	if dtype == BFloat16 {
		narrow := func(x []float32) []uint16 {
			y := make([]uint16, len(x))
			for i := range x {
				y[i] = uint16(math.Float32bits(x[i]) >> 16)
			}
			return y
		}
		s.Q = FromBFloat16(narrow(p.q), p.heads, p.nq, p.dim)
		s.K, s.V = FromBFloat16(narrow(p.k), p.kvHeads, p.nk, p.dim), FromBFloat16(narrow(p.v), p.kvHeads, p.nk, p.dim)
	}
	return s
}

func attendAll(b *testing.B, s Sequence) {
	for b.Loop() {
		if _, err := Attend(b.Context(), Options{Planner: Dense()}, s); err != nil {
			b.Fatal(err)
		}
	}
}
