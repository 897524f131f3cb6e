//go:build !purego

package kernel

import "golang.org/x/sys/cpu"

// iota16 counts the lanes of a vector.
var iota16 = [Lanes]int32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}

func native() []*Set {
	var sets []*Set
	if !cpu.X86.HasAVX2 || !cpu.X86.HasFMA {
		return nil
	}
	sets = append(sets, &Set{
		name: "avx2",
		tiles: []tiles{{16, []tile{
			{6, gemm6x16RowsAVX2, gemm6x16ColsAVX2},
			{4, gemm4x16RowsAVX2, gemm4x16ColsAVX2},
			{2, gemm2x16RowsAVX2, gemm2x16ColsAVX2},
			{1, gemm1x16RowsAVX2, gemm1x16ColsAVX2},
		}}},
		colMax: colMaxAVX2, expSum: expSumAVX2, sel: selectAVX2,
		pack: packAVX2, scale: scaleAVX2, add: addAVX2,
		fma: fmaAVX2, flops: 2 * 8 * 48,
	})
	if cpu.X86.HasAVX512F && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512VL {
		sets = append(sets, &Set{
			name: "avx512",
			tiles: []tiles{
				{48, []tile{
					{8, gemm8x48RowsAVX512, gemm8x48ColsAVX512},
					{4, gemm4x48RowsAVX512, gemm4x48ColsAVX512},
					{2, gemm2x48RowsAVX512, gemm2x48ColsAVX512},
					{1, gemm1x48RowsAVX512, gemm1x48ColsAVX512},
				}},
				{32, []tile{
					{12, gemm12x32RowsAVX512, gemm12x32ColsAVX512},
					{8, gemm8x32RowsAVX512, gemm8x32ColsAVX512},
					{4, gemm4x32RowsAVX512, gemm4x32ColsAVX512},
					{2, gemm2x32RowsAVX512, gemm2x32ColsAVX512},
					{1, gemm1x32RowsAVX512, gemm1x32ColsAVX512},
				}},
				{16, []tile{
					{12, gemm12x16RowsAVX512, gemm12x16ColsAVX512},
					{8, gemm8x16RowsAVX512, gemm8x16ColsAVX512},
					{4, gemm4x16RowsAVX512, gemm4x16ColsAVX512},
					{2, gemm2x16RowsAVX512, gemm2x16ColsAVX512},
					{1, gemm1x16RowsAVX512, gemm1x16ColsAVX512},
				}},
			},
			colMax: colMaxAVX512, expSum: expSumAVX512, sel: selectAVX512,
			pack: packAVX512, scale: scaleAVX512, add: addAVX512,
			fma: fmaAVX512, flops: 2 * 16 * 48,
		})
	}
	return sets
}
