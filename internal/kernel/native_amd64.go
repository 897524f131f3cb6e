//go:build !purego

package kernel

import "golang.org/x/sys/cpu"

// Constants that the assembly reads.
var (
	// iota16 counts the lanes of a vector.
	iota16 = [Lanes]int32{0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15}
	// interleave takes two runs of 16 words to pairs, one of each.
	interleave = [2 * Lanes]uint16{
		0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31,
	}
	// evenWords takes pairs of words apart, the first of all before the second; evenBytes does so in eight.
	evenWords = [2 * Lanes]uint16{
		0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
	}
	evenBytes        = [16]uint8{0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15}
	upperWord uint32 = 0xffff0000
	// firstLanes has masks of the first lanes of eight: all of them, and less and less.
	firstLanes = [2 * 8]int32{-1, -1, -1, -1, -1, -1, -1, -1}
	// Of numbers as bytes: their largest, and the smallest largest magnitude that is told from zero.
	byteMost float32 = 127
	byteTiny float32 = 0x1p-100
	// Bits, bytes and words.
	absBits    uint32 = 1<<31 - 1
	lowByte    uint32 = 0xff
	lowNibbles uint32 = 0x0f0f0f0f
	bit4       uint32 = 0x10101010
	bits45     uint32 = 0x30303030
	low6       uint32 = 0x3f3f3f3f
	plus128    uint32 = 0x80808080
	plus120    uint32 = 0x78787878
	plus96     uint32 = 0x60606060
	minus8     uint32 = 0xf8f8f8f8
	minus32    uint32 = 0xe0e0e0e0
	wordOnes   uint32 = 0x00010001
	// bf16Inf is two infinities: their bits are the exponents'.
	bf16Inf uint32 = 0x7f807f80
	// tileConfig makes all eight AMX tiles 16 rows of 64 bytes.
	tileConfig = [64]byte{
		0:  1, // palette
		16: 64, 18: 64, 20: 64, 22: 64, 24: 64, 26: 64, 28: 64, 30: 64,
		48: 16, 49: 16, 50: 16, 51: 16, 52: 16, 53: 16, 54: 16, 55: 16,
	}
)

// native returns the levels that this machine can run, the fastest last.
func native() []*Set {
	x := &cpu.X86
	_, _, features, _ := cpuid(1, 0)
	const f16c = 1 << 29
	if !x.HasAVX2 || !x.HasFMA || features&f16c == 0 {
		return nil
	}
	sets := []*Set{{
		name: "avx2",
		tiles: []tiles{{16, []tile{
			{rows: 6, byRows: gemm6x16RowsAVX2, byCols: gemm6x16ColsAVX2, byPanels: gemm6x16PanelsAVX2},
			{rows: 4, byRows: gemm4x16RowsAVX2, byCols: gemm4x16ColsAVX2},
			{rows: 2, byRows: gemm2x16RowsAVX2, byCols: gemm2x16ColsAVX2},
			{rows: 1, byRows: gemm1x16RowsAVX2, byCols: gemm1x16ColsAVX2},
		}}},
		panel: 6, panels: panelsAVX2,
		colMax: colMaxAVX2, expSum: expSumAVX2, mask: maskAVX2, sel: selectAVX2, transpose: transposeAVX2, transposeAhead: transposeAheadAVX2,
		scale: scaleAVX2, scaleStream: scaleStreamAVX2, scaleCols: scaleColsAVX2, add: addAVX2, finite: finiteAVX2,
		swiGLU: swiGLUAVX2, squares: squaresAVX2, scaleBoth: scaleBothAVX2, bf16: bf16AVX2, f16: f16AVX2, addBF16: addBF16AVX2,
		splitF16: splitF16AVX2, splitBF16: splitBF16AVX2, prefetch: prefetch,
		bytes: &byteSet{
			quantise: quantiseAVX2,
			columns:  4,
			formats: [...]byteFormat{
				Q8_0: {unpackQ8_0AVX2, dotBytes4AVX2, dotBytes1AVX2},
				Q4_0: {unpackQ4_0AVX2, dotBytes4AVX2, dotBytes1AVX2},
				Q4_K: {unpackQ4_KAVX2, dotBytes4MinAVX2, dotBytes1MinAVX2},
				Q5_K: {unpackQ5_KAVX2, dotBytes4MinAVX2, dotBytes1MinAVX2},
				Q6_K: {unpackQ6_KAVX2, dotBytes4HalvesAVX2, dotBytes1HalvesAVX2},
			},
			rowsQ8_0: dotQ8_0AVX2,
			dot:      dotBytesAVX2, ops: 2 * 32 * 48,
		},
		fma: fmaAVX2, flops: 2 * 8 * 48,
	}}
	if !x.HasAVX512F || !x.HasAVX512DQ || !x.HasAVX512BW || !x.HasAVX512VL {
		return sets
	}
	avx512 := Set{
		name: "avx512",
		tiles: []tiles{
			{48, []tile{
				{rows: 8, byRows: gemm8x48RowsAVX512, byCols: gemm8x48ColsAVX512, byPanels: gemm8x48PanelsAVX512, byRowsMax: gemmMax8x48RowsAVX512},
				{rows: 4, byRows: gemm4x48RowsAVX512, byCols: gemm4x48ColsAVX512},
				{rows: 2, byRows: gemm2x48RowsAVX512, byCols: gemm2x48ColsAVX512},
				{rows: 1, byRows: gemm1x48RowsAVX512, byCols: gemm1x48ColsAVX512},
			}},
			{32, []tile{
				{rows: 8, byRows: gemm8x32RowsAVX512, byCols: gemm8x32ColsAVX512, byPanels: gemm8x32PanelsAVX512},
				{rows: 4, byRows: gemm4x32RowsAVX512, byCols: gemm4x32ColsAVX512},
				{rows: 2, byRows: gemm2x32RowsAVX512, byCols: gemm2x32ColsAVX512},
				{rows: 1, byRows: gemm1x32RowsAVX512, byCols: gemm1x32ColsAVX512},
			}},
			{16, []tile{
				{rows: 12, byRows: gemm12x16RowsAVX512, byCols: gemm12x16ColsAVX512},
				{rows: 8, byRows: gemm8x16RowsAVX512, byCols: gemm8x16ColsAVX512, byPanels: gemm8x16PanelsAVX512},
				{rows: 4, byRows: gemm4x16RowsAVX512, byCols: gemm4x16ColsAVX512},
				{rows: 2, byRows: gemm2x16RowsAVX512, byCols: gemm2x16ColsAVX512},
				{rows: 1, byRows: gemm1x16RowsAVX512, byCols: gemm1x16ColsAVX512},
			}},
		},
		panel: 8, panels: panelsAVX2,
		colMax: colMaxAVX512, expSum: expSumAVX512, mask: maskAVX512, sel: selectAVX512, transpose: transposeAVX512, transposeAhead: transposeAheadAVX512,
		scale: scaleAVX512, scaleStream: scaleStreamAVX512, scaleCols: scaleColsAVX512, add: addAVX512, finite: finiteAVX512,
		swiGLU: swiGLUAVX512, squares: squaresAVX512, scaleBoth: scaleBothAVX512, bf16: bf16AVX512, f16: f16AVX512, addBF16: addBF16AVX512,
		splitF16: splitF16AVX512, splitBF16: splitBF16AVX512, prefetch: prefetch,
		fma: fmaAVX512, flops: 2 * 16 * 48,
	}
	avx512.bytes = sets[0].bytes
	sets = append(sets, &avx512)
	best := &avx512
	if x.HasAVX512VNNI {
		vnni := avx512
		vnni.name = "avx512vnni"
		vnni.bytes = &byteSet{
			quantise: quantiseAVX512VNNI,
			columns:  8,
			formats: [...]byteFormat{
				Q8_0: {unpackQ8_0AVX512VNNI, dotBytes8AVX512VNNI, dotBytes1AVX512VNNI},
				Q4_0: {unpackQ4_0AVX512VNNI, dotBytes8AVX512VNNI, dotBytes1AVX512VNNI},
				Q4_K: {unpackQ4_KAVX512VNNI, dotBytes8MinAVX512VNNI, dotBytes1MinAVX512VNNI},
				Q5_K: {unpackQ5_KAVX512VNNI, dotBytes8MinAVX512VNNI, dotBytes1MinAVX512VNNI},
				Q6_K: {unpackQ6_KAVX512VNNI, dotBytes8HalvesAVX512VNNI, dotBytes1HalvesAVX512VNNI},
			},
			rowsQ8_0: dotQ8_0AVX512VNNI,
			dot:      dotBytesAVX512VNNI, ops: 2 * 64 * 48,
		}
		sets = append(sets, &vnni)
		best = &vnni
	}
	if !x.HasAVX512BF16 {
		return sets
	}
	bf16 := *best
	bf16.name = "avx512bf16"
	bf16.pairs = &pairs{
		tiles: []tiles{
			{48, []tile{
				{rows: 8, byRows: dot8x48RowsAVX512BF16, byCols: dot8x48ColsAVX512BF16},
				{rows: 4, byRows: dot4x48RowsAVX512BF16, byCols: dot4x48ColsAVX512BF16},
				{rows: 2, byRows: dot2x48RowsAVX512BF16, byCols: dot2x48ColsAVX512BF16},
				{rows: 1, byRows: dot1x48RowsAVX512BF16, byCols: dot1x48ColsAVX512BF16},
			}},
			{32, []tile{
				{rows: 8, byRows: dot8x32RowsAVX512BF16, byCols: dot8x32ColsAVX512BF16},
				{rows: 4, byRows: dot4x32RowsAVX512BF16, byCols: dot4x32ColsAVX512BF16},
				{rows: 2, byRows: dot2x32RowsAVX512BF16, byCols: dot2x32ColsAVX512BF16},
				{rows: 1, byRows: dot1x32RowsAVX512BF16, byCols: dot1x32ColsAVX512BF16},
			}},
			{16, []tile{
				{rows: 12, byRows: dot12x16RowsAVX512BF16, byCols: dot12x16ColsAVX512BF16},
				{rows: 8, byRows: dot8x16RowsAVX512BF16, byCols: dot8x16ColsAVX512BF16},
				{rows: 4, byRows: dot4x16RowsAVX512BF16, byCols: dot4x16ColsAVX512BF16},
				{rows: 2, byRows: dot2x16RowsAVX512BF16, byCols: dot2x16ColsAVX512BF16},
				{rows: 1, byRows: dot1x16RowsAVX512BF16, byCols: dot1x16ColsAVX512BF16},
			}},
		},
		expPairs: expPairsAVX512BF16, pair: pairAVX512BF16, round: roundAVX512BF16, dotRows: dotRowsAVX512BF16, rows: 1, depth: 1, tiling: Tiling{TileRows: 48, BlockKeys: 128, StripKeys: 128},
		dot: dotAVX512BF16, flops: 2 * 32 * 48,
	}
	if intel() {
		// Measured: VDPBF16PS does half the operations of VFMADD231PS in a time there, and AMX sixteen times as many.
		sets = append(sets[:len(sets)-1], &bf16, best)
	} else {
		sets = append(sets, &bf16)
	}
	if x.HasAMXTile && x.HasAMXBF16 && allowAMX() {
		amx := *best
		amx.name = "amx"
		amx.pairs = &pairs{
			tiles: []tiles{
				{64, []tile{{rows: 32, byRows: dot32x64RowsAMX}, {rows: 16, byRows: dot16x64RowsAMX}}},
				{32, []tile{{rows: 32, byRows: dot32x32RowsAMX}, {rows: 16, byRows: dot16x32RowsAMX}}},
				{16, []tile{{rows: 32, byRows: dot32x16RowsAMX}, {rows: 16, byRows: dot16x16RowsAMX}}},
			},
			twice: []tiles{
				{64, []tile{{rows: 32, byRows: dotTwice32x64RowsAMX}, {rows: 16, byRows: dotTwice16x64RowsAMX}}},
				{32, []tile{{rows: 32, byRows: dotTwice32x32RowsAMX}, {rows: 16, byRows: dotTwice16x32RowsAMX}}},
				{16, []tile{{rows: 32, byRows: dotTwice32x16RowsAMX}, {rows: 16, byRows: dotTwice16x16RowsAMX}}},
			},
			expPairs: expPairsAVX512BF16, pair: pairAVX512BF16, round: roundAVX512BF16, rows: 16, depth: 16, tiling: Tiling{TileRows: 32, BlockKeys: 512, StripKeys: 32},
			begin: beginAMX, end: endAMX,
			dot: dotAMX, flops: 4 * 2 * 16 * 16 * 32,
		}
		sets = append(sets, &amx)
	}
	return sets
}

func intel() bool {
	_, b, c, d := cpuid(0, 0)
	return b == 'G'|'e'<<8|'n'<<16|'u'<<24 && d == 'i'|'n'<<8|'e'<<16|'I'<<24 && c == 'n'|'t'<<8|'e'<<16|'l'<<24
}
