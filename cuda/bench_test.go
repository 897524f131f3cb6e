package cuda

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
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

// Benchmark measures on the device's clock, with tensors that lie there: causal prefill, 32 query heads over 8 KV heads, dim 128
// (and 16 over 4, dim 256), bfloat16, and a theta that keeps 10 % of the candidates of such inputs, or all. ms are medians of
// seven of the whole, and of seven others of its stages, between which kernels cannot be made ready ahead; TFLOP/s are of
// operations done, those of the search included.
func Benchmark(b *testing.B) {
	d := device(b)
	b.Log(d)
	params := anchor.DefaultParams()
	params.Theta = 2.757
	everything := params
	everything.Theta = math.Inf(1)
	for _, c := range []struct{ heads, kvHeads, dim, n int }{
		{32, 8, 128, 8192}, {32, 8, 128, 16384}, {32, 8, 128, 32768}, {32, 8, 128, 65536}, {32, 8, 128, 131072}, {16, 4, 256, 16384},
	} {
		b.Run(fmt.Sprintf("%d/%d", c.dim, c.n), func(b *testing.B) {
			s := prefill(b, d, c.heads, c.kvHeads, c.n, c.dim)
			for _, x := range []struct {
				name    string
				planner anchor.Planner
			}{{"dense", anchor.Dense()}, {"anchor", anchor.AnchorAttention(params)}, {"all", anchor.AnchorAttention(everything)},
				{"auto", anchor.Auto(params)}, {"auto-all", anchor.Auto(everything)}} {
				b.Run(x.name, func(b *testing.B) { measure(b, d, x.planner, s) })
			}
		})
	}
}

// prefill returns a sequence of nearly normal numbers that attends to itself.
func prefill(b *testing.B, d *Device, heads, kvHeads, n, dim int) Sequence {
	var s Sequence
	for i, t := range []*Tensor{&s.Q, &s.K, &s.V} {
		h := kvHeads
		if i == 0 {
			h = heads
		}
		data := make([]uint16, h*n*dim)
		fill(data, uint64(i+1))
		*t = alloc(b, d, anchor.BFloat16, h, n, dim)
		if err := Write(t.Memory, 0, data); err != nil {
			b.Fatal(err)
		}
	}
	s.O = alloc(b, d, anchor.BFloat16, heads, n, dim)
	return s
}

// BenchmarkDensities measures what auto costs beside dense attention, whatever theta keeps: 8192 tokens, heads and dim as in
// Benchmark. x-dense is the median of the ratios of 21 rounds, in each of which both had a turn.
func BenchmarkDensities(b *testing.B) {
	d := device(b)
	s := prefill(b, d, 32, 8, 8192, 128)
	dense, err := d.Prepare(anchor.Options{Planner: anchor.Dense()}, s)
	if err != nil {
		b.Fatal(err)
	}
	defer dense.Close()
	for _, theta := range []float64{2, 2.7, 2.75, 2.8, 2.85, 2.875, 2.9, 2.925, 2.95, 3, 3.1, math.Inf(1)} {
		params := anchor.DefaultParams()
		params.Theta = theta
		for _, planner := range []anchor.Planner{anchor.AnchorAttention(params), anchor.Auto(params)} {
			b.Run(fmt.Sprintf("%s/%v", planner.Name(), theta), func(b *testing.B) {
				c, err := d.Prepare(anchor.Options{Planner: planner}, s)
				if err != nil {
					b.Fatal(err)
				}
				defer c.Close()
				for b.Loop() {
					var ratios []float64
					for range 22 {
						var times [2]float64
						for i, c := range []*Call{dense, c} {
							if times[i], err = d.Time(c.Start); err != nil {
								b.Fatal(err)
							}
						}
						ratios = append(ratios, times[1]/times[0])
					}
					ratios = ratios[1:]
					slices.Sort(ratios)
					b.ReportMetric(ratios[len(ratios)/2], "x-dense")
				}
				res, err := c.Result()
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(0, "ns/op")
				b.ReportMetric(100*res.Density(), "%density")
				b.ReportMetric(100*res.DenseShare(), "%groups-dense")
			})
		}
	}
}

// alloc returns a contiguous tensor in new memory.
func alloc(t testing.TB, d *Device, dtype anchor.DType, heads, rows, dim int) Tensor {
	t.Helper()
	element := Tensor{DType: dtype}
	m, err := d.Alloc(element.size() * heads * rows * dim)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := m.Free(); err != nil {
			t.Error(err)
		}
	})
	return m.Tensor(dtype, heads, rows, dim)
}

func measure(b *testing.B, d *Device, planner anchor.Planner, s Sequence) {
	c, err := d.Prepare(anchor.Options{Planner: planner}, s)
	if err != nil {
		b.Fatal(err)
	}
	defer func() {
		if err := c.Close(); err != nil {
			b.Error(err)
		}
	}()
	if err := c.Start(); err != nil {
		b.Fatal(err)
	}
	res, err := c.Result()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		var totals []float64
		var times [][anchor.NumStages]float64
		for range 7 {
			total, err := d.Time(c.Start)
			if err != nil {
				b.Fatal(err)
			}
			totals = append(totals, total)
		}
		for range 7 {
			err := d.do(func() error {
				t, err := c.timed()
				times = append(times, t)
				return err
			})
			if err != nil {
				b.Fatal(err)
			}
		}
		for stage, t := range median(times) {
			if t > 0 {
				b.ReportMetric(1000*t, anchor.Stage(stage).String()+"-ms")
			}
		}
		slices.Sort(totals)
		total := totals[len(totals)/2]
		b.ReportMetric(0, "ns/op")
		b.ReportMetric(1000*total, "ms")
		b.ReportMetric(res.FLOPs/total/1e12, "TFLOP/s")
		b.ReportMetric(100*res.Density(), "%density")
		b.ReportMetric(float64(c.Scratch())/(1<<20), "scratch-MiB")
	}
}

// median returns the middle time of each stage.
func median(times [][anchor.NumStages]float64) (m [anchor.NumStages]float64) {
	for stage := range m {
		slices.SortFunc(times, func(a, b [anchor.NumStages]float64) int { return cmp.Compare(a[stage], b[stage]) })
		m[stage] = times[len(times)/2][stage]
	}
	return m
}

// A million tokens, at which offsets need more than 32 bits: some rows against attention by the definition.
func TestLong(t *testing.T) {
	if testing.Short() {
		t.Skip("takes 40 GB of memory")
	}
	d := device(t)
	const heads, kvHeads, dim, n = 32, 8, 128, 1<<20 + 77
	q, k, v := make([]uint16, heads*n*dim), make([]uint16, kvHeads*n*dim), make([]uint16, kvHeads*n*dim)
	fill(q, 1)
	fill(k, 2)
	fill(v, 3)
	o := make([]float32, heads*n*dim)
	s := anchor.Sequence{Q: anchor.FromBFloat16(q, heads, n, dim), K: anchor.FromBFloat16(k, kvHeads, n, dim), V: anchor.FromBFloat16(v, kvHeads, n, dim), O: anchor.FromFloat32(o, heads, n, dim)}
	params := anchor.DefaultParams()
	params.Theta = math.Inf(1)
	for _, planner := range []anchor.Planner{anchor.Dense(), anchor.AnchorAttention(params)} {
		for i := range o {
			o[i] = float32(math.NaN())
		}
		res := mustAttend(t, anchor.Options{Planner: planner, Engine: d}, s)
		t.Log(planner.Name(), res.StageSeconds())
		if res.NonFiniteRows != 0 || res.Density() != 1 {
			t.Errorf("%s: rows not finite: %d, density %v", planner.Name(), res.NonFiniteRows, res.Density())
		}
		for _, h := range []int{0, 17, heads - 1} {
			for _, row := range []int{0, 4097, n / 2, n - 200, n - 1} {
				at := (h*n + row) * dim
				query := widen(q[at:at+dim], anchor.BFloat16)
				head := h * kvHeads / heads * n * dim
				var sum float64
				want := make([]float64, dim)
				for j := range row + 1 {
					key, value := widen(k[head+j*dim:][:dim], anchor.BFloat16), v[head+j*dim:][:dim]
					var logit float64
					for i, x := range query {
						logit += float64(x) * float64(key[i])
					}
					w := math.Exp(logit / math.Sqrt(dim))
					sum += w
					for i, x := range widen(value, anchor.BFloat16) {
						want[i] += w * float64(x)
					}
				}
				whole := make([]float32, dim)
				for i := range whole {
					whole[i] = float32(want[i] / sum)
				}
				if x := distance(o[at:at+dim], whole); x > 1e-2 {
					t.Errorf("%s: head %d, row %d differs by %g", planner.Name(), h, row, x)
				}
			}
		}
	}
}
