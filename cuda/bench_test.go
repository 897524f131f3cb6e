package cuda

import (
	"fmt"
	"math"
	"math/rand/v2"
	"sync"
	"testing"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/kernel"
)

// fill gives nearly normal bfloat16 numbers, fast.
func fill(x []uint16, seed uint64) {
	const parts = 16
	var all sync.WaitGroup
	for i := range parts {
		all.Go(func() {
			r := rand.NewPCG(seed, uint64(i))
			for j := i * len(x) / parts; j < (i+1)*len(x)/parts; j++ {
				u := r.Uint64()
				sum := float64(u&0xffff) + float64(u>>16&0xffff) + float64(u>>32&0xffff) + float64(u>>48) - 2*0xffff
				x[j] = kernel.RoundToBFloat16(float32(sum / 0xffff * math.Sqrt(3)))
			}
		})
	}
	all.Wait()
}

// Benchmark measures on the device's clock: causal prefill, 32 query heads over 8 KV heads, dim 128, bfloat16, and a theta
// that keeps 10 % of the candidates of such inputs. ms are medians, of the whole and of stages; TFLOP/s are of operations done.
func Benchmark(b *testing.B) {
	d := device(b)
	b.Log(d)
	const heads, kvHeads, dim = 32, 8, 128
	for _, n := range []int{8192, 16384, 32768, 65536, 131072} {
		var q, k, v []uint16
		o := make([]float32, heads*n*dim)
		s := anchor.Sequence{O: anchor.FromFloat32(o, heads, n, dim)}
		params := anchor.DefaultParams()
		params.Theta = 2.757
		for _, c := range []struct {
			name    string
			planner anchor.Planner
		}{{"dense", anchor.Dense()}, {"anchor", anchor.AnchorAttention(params)}} {
			b.Run(fmt.Sprintf("%s/%d", c.name, n), func(b *testing.B) {
				if q == nil {
					q, k, v = make([]uint16, heads*n*dim), make([]uint16, kvHeads*n*dim), make([]uint16, kvHeads*n*dim)
					fill(q, 1)
					fill(k, 2)
					fill(v, 3)
					s.Q, s.K, s.V = anchor.FromBFloat16(q, heads, n, dim), anchor.FromBFloat16(k, kvHeads, n, dim), anchor.FromBFloat16(v, kvHeads, n, dim)
				}
				repeat = 7
				defer func() { repeat = 1 }()
				for b.Loop() {
					res, err := anchor.Attend(b.Context(), anchor.Options{Planner: c.planner, Engine: d}, s)
					if err != nil {
						b.Fatal(err)
					}
					total := 0.0
					for stage, t := range res.Stages {
						if t > 0 {
							total += t
							b.ReportMetric(1000*t, anchor.Stage(stage).String()+"-ms")
						}
					}
					b.ReportMetric(0, "ns/op")
					b.ReportMetric(1000*total, "ms")
					b.ReportMetric(res.FLOPs/total/1e12, "TFLOP/s")
					b.ReportMetric(100*res.Density(), "%dense")
				}
			})
		}
	}
}
