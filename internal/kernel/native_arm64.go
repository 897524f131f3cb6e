//go:build !purego

package kernel

// laneBits is a bit for each column; the assembly reads it.
var laneBits = [Lanes]uint16{1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384, 32768}

// native returns the level that every machine can run.
func native() []*Set {
	return []*Set{{
		name: "neon",
		tiles: []tiles{{16, []tile{
			{rows: 6, byRows: gemm6x16RowsNEON, byCols: gemm6x16ColsNEON},
			{rows: 4, byRows: gemm4x16RowsNEON, byCols: gemm4x16ColsNEON},
			{rows: 2, byRows: gemm2x16RowsNEON, byCols: gemm2x16ColsNEON},
			{rows: 1, byRows: gemm1x16RowsNEON, byCols: gemm1x16ColsNEON},
		}}},
		colMax: colMaxNEON, expSum: expSumNEON, mask: maskNEON, sel: selectNEON, transpose: transposeNEON,
		scale: scaleNEON, scaleCols: scaleColsNEON, add: addNEON, finite: finiteNEON,
		swiGLU: swiGLUGeneric, squares: squaresGeneric, scaleBoth: scaleBothGeneric, bf16: bf16NEON, f16: f16NEON, addBF16: addBF16NEON,
		fma: fmaNEON, flops: 2 * 4 * 48,
	}}
}
