package model

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/kernel"
	"github.com/anchorattention/anchor/internal/matrix"
	"github.com/anchorattention/anchor/internal/parallel"
)

var allTypes = []matrix.Type{matrix.F32, matrix.F16, matrix.BF16, matrix.Q8_0, matrix.Q4_0, matrix.Q4_K, matrix.Q5_K, matrix.Q6_K}

// benchMatrix returns a matrix of small numbers.
func benchMatrix(b *testing.B, t matrix.Type, rows, cols int) *matrix.Matrix {
	elements, bytes := t.Block()
	data := make([]byte, rows*cols/elements*bytes)
	rng := rand.New(rand.NewPCG(1, 1))
	for i := range data {
		data[i] = byte(rng.Uint32()) & 0x3f // no exponent is large
	}
	m, err := matrix.New(t, rows, cols, data)
	if err != nil {
		b.Fatal(err)
	}
	return m
}

func newBench(b *testing.B, tokens int) *forward {
	k, err := kernel.Default()
	if err != nil {
		b.Fatal(err)
	}
	f := &forward{Model: &Model{kernels: k}, n: tokens, threads: parallel.Threads(0), width: tileTokens}
	if tokens <= kernel.Lanes {
		f.width = kernel.Lanes
	}
	f.tiles = (tokens + f.width - 1) / f.width
	return f
}

// shares runs work and, right before and after each time, reference on all threads. It reports the best rate of the work, and
// the median of its share of the reference's: a machine that is shared gives both more and less from one moment to the next.
func shares(b *testing.B, unit string, work, reference func() float64) {
	rate := func(f func() float64) float64 {
		start := time.Now()
		amount := f()
		return amount / float64(time.Since(start).Nanoseconds())
	}
	var best float64
	var all []float64
	before := rate(reference)
	for b.Loop() {
		did, after := rate(work), rate(reference)
		best = max(best, did)
		all = append(all, did/((before+after)/2))
		before = after
	}
	slices.Sort(all)
	b.ReportMetric(best, unit)
	b.ReportMetric(100*all[len(all)/2], "%")
}

// BenchmarkPrefill reports products with 512 tokens, of a matrix of each type, and what part that is of the rate of
// multiply-adds that the type's kernels use.
func BenchmarkPrefill(b *testing.B) {
	for _, shape := range [][2]int{{1536, 576}, {576, 1536}, {4096, 4096}} {
		for _, t := range allTypes {
			rows, cols := shape[0], shape[1]
			if elements, _ := t.Block(); cols%elements != 0 {
				continue
			}
			b.Run(fmt.Sprintf("%dx%d/%v", rows, cols, t), func(b *testing.B) {
				const tokens = 512
				f := newBench(b, tokens)
				m := benchMatrix(b, t, rows, cols)
				x, y := make([]float32, cols*tokens), make([]float32, rows*tokens)
				for i := range x {
					x[i] = float32(i%31) - 15
				}
				peak := f.kernels.FMA
				switch {
				case t == matrix.BF16 && f.kernels.Pairs():
					peak = func(rounds int) float64 {
						f.kernels.BeginPairs()
						defer f.kernels.EndPairs()
						return f.kernels.Dot(rounds)
					}
				case t >= matrix.Q8_0 && f.kernels.Bytes():
					peak = f.kernels.DotBytes
				}
				shares(b, "GFLOP/s", func() float64 {
					f.multiply(f.tiles, product{m, x, y, false})
					return 2 * float64(rows) * float64(cols) * tokens
				}, func() float64 {
					flops := make([]float64, f.threads)
					parallel.For(f.threads, f.threads, func(_, i int) {
						flops[i] = peak(50000)
					})
					sum := 0.
					for _, n := range flops {
						sum += n
					}
					return sum
				})
			})
		}
	}
}

// BenchmarkDecode reports products with one token, of a matrix of each type that no cache holds, and what part that is of
// the rate at which memory is read.
func BenchmarkDecode(b *testing.B) {
	for _, t := range allTypes {
		b.Run(t.String(), func(b *testing.B) {
			const rows, cols = 16384, 2304
			f := newBench(b, 1)
			m := benchMatrix(b, t, rows, cols)
			x, y := make([]float32, cols*f.width), make([]float32, rows*f.width)
			for p := range cols {
				x[p*f.width] = float32(p%31) - 15
			}
			memory := make([]float32, 16<<20)
			for i := range memory {
				memory[i] = float32(i)
			}
			shares(b, "GB/s", func() float64 {
				f.multiply(1, product{m, x, y, false})
				return float64(len(m.Bytes()))
			}, func() float64 {
				const piece = 1 << 18
				parallel.For(f.threads, len(memory)/piece, func(_, i int) { f.kernels.Finite(memory[i*piece : (i+1)*piece]) })
				return 4 * float64(len(memory))
			})
		})
	}
}

// A source of weights of one type, by chance.
type chance struct {
	b *testing.B
	t matrix.Type
}

func (s chance) matrix(_ string, rows, cols int) (*matrix.Matrix, error) {
	return benchMatrix(s.b, s.t, rows, cols), nil
}

func (s chance) vector(_ string, n int) (*matrix.Matrix, error) {
	return benchMatrix(s.b, matrix.F32, 1, n), nil
}

// BenchmarkForward reports what a model of SmolLM2-135M's shape takes for prompts and for single tokens after them, and how
// much of that is attention.
func BenchmarkForward(b *testing.B) {
	c := Config{
		Vocab: 49152, Hidden: 576, Intermediate: 1536, Layers: 30, Heads: 9, KVHeads: 3, HeadDim: 64, MaxPositions: 1 << 15,
		RMSNormEps: 1e-5, RopeTheta: 1e5, Tied: true, BOS: -1,
	}
	for _, t := range []matrix.Type{matrix.F32, matrix.BF16, matrix.Q8_0} {
		m, err := build(c, chance{b, t})
		if err != nil {
			b.Fatal(err)
		}
		cache, err := m.NewCache(2100)
		if err != nil {
			b.Fatal(err)
		}
		for _, n := range []int{2048, 1} {
			b.Run(fmt.Sprint(t, "/", n), func(b *testing.B) {
				ids := make([]int32, n)
				var attention, other, best float64
				for b.Loop() {
					keep := 0
					if n == 1 {
						keep = 100
					}
					if err := cache.Truncate(min(keep, cache.Len())); err != nil {
						b.Fatal(err)
					}
					_, s, err := m.Forward(b.Context(), cache, ids, ForwardOptions{Planner: anchor.Dense()})
					if err != nil {
						b.Fatal(err)
					}
					if total := s.AttentionSeconds + s.OtherSeconds; best == 0 || total < best {
						attention, other, best = s.AttentionSeconds, s.OtherSeconds, total
					}
				}
				b.ReportMetric(float64(n)/best, "tokens/s")
				b.ReportMetric(1000*attention, "ms-attention")
				b.ReportMetric(1000*other, "ms-other")
			})
		}
	}
}
