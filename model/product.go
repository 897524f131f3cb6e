package model

import (
	"github.com/anchorattention/anchor/internal/matrix"
	"github.com/anchorattention/anchor/internal/parallel"
)

const (
	blockBytes  = 256 << 10 // of a matrix, kept in the second-level cache while tiles of tokens pass by
	blockRowsOf = 12        // blocks are this many rows, or a multiple: the height of the tallest kernel
)

// A product is a matrix [out, in] times tiles b [in, width], written or added to tiles c [out, width].
type product struct {
	matrix *matrix.Matrix // [out, in]
	b, c   []float32
	add    bool
}

// multiply computes products over the first tiles of their b. Blocks of rows meet one tile after another.
func (f *forward) multiply(tiles int, products ...product) {
	type block struct {
		product
		from, rows int
		tile, to   int
	}
	// Enough blocks for every thread to find another when it is done; few tiles do not profit from large ones.
	wanted, out := 4*f.threads, 0
	for _, p := range products {
		out += p.matrix.Rows()
	}
	var blocks []block
	for _, p := range products {
		height := blockBytes / 4 / p.matrix.Cols()
		groups := min(tiles, max(1, wanted*height/out))
		if groups == tiles {
			height = min(height, out*tiles/wanted)
		}
		height = max(1, (height+blockRowsOf-1)/blockRowsOf) * blockRowsOf
		for from := 0; from < p.matrix.Rows(); from += height {
			for g := range groups {
				blocks = append(blocks, block{p, from, min(height, p.matrix.Rows()-from), g * tiles / groups, (g + 1) * tiles / groups})
			}
		}
	}
	parallel.For(f.threads, len(blocks), func(_, i int) {
		b := &blocks[i]
		weights, out, in := b.matrix.Float32s(), b.matrix.Rows(), b.matrix.Cols()
		if f.n == 1 && f.kernels.Name() == "generic" {
			// Vector levels get the columns without a token for nothing, plain Go does not.
			multiplyColumn(weights[b.from*in:(b.from+b.rows)*in], b.b, b.c[b.from*f.width:], f.width, in, b.add)
			return
		}
		for t := b.tile; t < b.to; t++ {
			f.kernels.Gemm(b.rows, f.width, in, weights[b.from*in:], in, 1, b.b[t*in*f.width:], f.width,
				b.c[(t*out+b.from)*f.width:], f.width, b.add)
		}
	})
}

// multiplyColumn multiplies a matrix [out, in] by the first column of b [in, width], into that of c [out, width]. Sums
// run in the order of the kernels.
func multiplyColumn(matrix, b, c []float32, width, in int, add bool) {
	x := make([]float32, in)
	for p := range x {
		x[p] = b[p*width]
	}
	for i := 0; i < len(matrix)/in; {
		// Four sums at once keep the processor busy.
		var sum [4]float32
		rows := min(4, len(matrix)/in-i)
		if rows == 4 {
			w0, w1, w2, w3 := matrix[i*in:][:in], matrix[(i+1)*in:][:in], matrix[(i+2)*in:][:in], matrix[(i+3)*in:][:in]
			for p, v := range x {
				sum[0] += w0[p] * v
				sum[1] += w1[p] * v
				sum[2] += w2[p] * v
				sum[3] += w3[p] * v
			}
		} else {
			for r := range rows {
				for p, w := range matrix[(i+r)*in:][:in] {
					sum[r] += w * x[p]
				}
			}
		}
		for r := range rows {
			if add {
				sum[r] += c[(i+r)*width]
			}
			c[(i+r)*width] = sum[r]
		}
		i += rows
	}
}
