package model

import (
	"github.com/anchorattention/anchor/internal/matrix"
	"github.com/anchorattention/anchor/internal/parallel"
)

// A product is a matrix [out, in] times tiles b [in, width], written or added to tiles c [out, width].
type product struct {
	matrix *matrix.Matrix // [out, in]
	b, c   []float32
	add    bool
}

// multiply computes products over the first tiles of their b.
func (f *forward) multiply(tiles int, products ...product) {
	inputs := make([]*matrix.Inputs, len(products))
	used, out, bytes := 0, 0, 0
	for i, p := range products {
		out += p.matrix.Rows()
		bytes += len(p.matrix.Bytes())
		b := p.b[:tiles*p.matrix.Cols()*f.width]
		for _, in := range f.inputs[:used] {
			if in.Accept(p.matrix, b) {
				inputs[i] = in
			}
		}
		if inputs[i] != nil {
			continue
		}
		if used == len(f.inputs) {
			f.inputs = append(f.inputs, new(matrix.Inputs))
		}
		in := f.inputs[used]
		used++
		in.Reset(f.kernels, p.matrix, f.width, b)
		inputs[i] = in
		if in.Packing() {
			parallel.For(f.threads, tiles, func(_, t int) { in.Pack(t) })
		}
	}

	// Enough blocks for every thread to find another when it is done; but where each row is read once, for one tile, long runs
	// of rows are read faster than short ones.
	type block struct{ product, from, to, first, last int }
	wanted := 8 * f.threads
	if tiles == 1 {
		const run = 1 << 20
		wanted = max(3*f.threads, bytes/run)
	}
	units := (out + matrix.RowsAtOnce - 1) / matrix.RowsAtOnce
	height := max(1, units/wanted) * matrix.RowsAtOnce
	groups := min(tiles, max(1, wanted/units))
	var blocks []block
	for i, p := range products {
		for from := 0; from < p.matrix.Rows(); from += height {
			for g := range groups {
				blocks = append(blocks, block{i, from, min(from+height, p.matrix.Rows()), g * tiles / groups, (g + 1) * tiles / groups})
			}
		}
	}
	tokens := min(f.n, f.width)
	f.scratch = append(f.scratch, make([]matrix.Scratch, max(0, min(f.threads, len(blocks))-len(f.scratch)))...)
	parallel.For(f.threads, len(blocks), func(worker, i int) {
		b := &blocks[i]
		p := &products[b.product]
		p.matrix.Multiply(inputs[b.product], b.from, b.to, b.first, b.last, tokens, p.c, p.add, &f.scratch[worker])
	})
}
