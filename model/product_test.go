package model

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

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

// shares runs work and, right before each time, reference on all threads, until the benchmark has had enough. It reports the
// best rate of the one over the best of the other: machines that others use too have good moments for both.
func shares(b *testing.B, f *forward, unit string, work, reference func() float64) {
	best := func(most *float64, f func() float64) {
		start := time.Now()
		amount := f()
		*most = max(*most, amount/float64(time.Since(start).Nanoseconds()))
	}
	var did, could float64
	for b.Loop() {
		best(&could, reference)
		best(&did, work)
	}
	b.ReportMetric(did, unit)
	b.ReportMetric(100*did/could, "%")
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
					peak = f.kernels.Dot
				case t >= matrix.Q8_0 && f.kernels.Bytes():
					peak = f.kernels.DotBytes
				}
				shares(b, f, "GFLOP/s", func() float64 {
					f.multiply(f.tiles, product{m, x, y, false})
					return 2 * float64(rows) * float64(cols) * tokens
				}, func() float64 {
					flops := make([]float64, f.threads)
					parallel.For(f.threads, f.threads, func(_, i int) {
						flops[i] = peak(10000)
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
			const rows, cols = 49152, 2048
			f := newBench(b, 1)
			m := benchMatrix(b, t, rows, cols)
			x, y := make([]float32, cols*f.width), make([]float32, rows*f.width)
			for p := range cols {
				x[p*f.width] = float32(p%31) - 15
			}
			memory := make([]float32, 64<<20)
			for i := range memory {
				memory[i] = float32(i)
			}
			shares(b, f, "GB/s", func() float64 {
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
