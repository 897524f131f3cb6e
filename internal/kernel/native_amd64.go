//go:build !purego

package kernel

import "golang.org/x/sys/cpu"

// expLow is the lowest exponent that the AVX2 level of ExpSum does not take for zero.
var expLow float32 = -126

func native() []*Set {
	var sets []*Set
	if !cpu.X86.HasAVX2 || !cpu.X86.HasFMA {
		return nil
	}
	sets = append(sets, &Set{
		name: "avx2",
		tiles: []tile{
			{6, gemm6x16AVX2, nil}, {4, gemm4x16AVX2, nil}, {2, gemm2x16AVX2, nil}, {1, gemm1x16AVX2, nil},
		},
		colMax: colMaxAVX2, expSum: expSumAVX2, sel: selectAVX2,
		fma: fmaAVX2, flops: 2 * 8 * 48,
	})
	if cpu.X86.HasAVX512F && cpu.X86.HasAVX512DQ && cpu.X86.HasAVX512BW && cpu.X86.HasAVX512VL {
		sets = append(sets, &Set{
			name: "avx512",
			tiles: []tile{
				{12, gemm12x16AVX512, gemm12x32AVX512}, {8, gemm8x16AVX512, gemm8x32AVX512}, {4, gemm4x16AVX512, gemm4x32AVX512},
				{2, gemm2x16AVX512, gemm2x32AVX512}, {1, gemm1x16AVX512, gemm1x32AVX512},
			},
			colMax: colMaxAVX512, expSum: expSumAVX512, sel: selectAVX512,
			fma: fmaAVX512, flops: 2 * 16 * 48,
		})
	}
	return sets
}
