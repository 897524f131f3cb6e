package matrix

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"

	"github.com/anchorattention/anchor/internal/kernel"
)

// Pack converts single precision to whole blocks: what Unpack makes of them is the nearest that their scales allow. The
// scales are the least that cover a block's elements, so an element that is quantised changes by half a step at most;
// 0 stays 0, but for types with minima, Q4_K and Q5_K. Elements must be finite, and those to be quantised less than 2¹⁸
// in size. The length of dst must be that of as many elements as src has.
func Pack(t Type, src []float32, dst []byte) {
	elements, bytes := t.Block()
	if len(src)%elements != 0 || len(dst) != len(src)/elements*bytes {
		panic(fmt.Sprintf("matrix: %d elements into %d bytes of %v", len(src), len(dst), t))
	}
	for ; len(src) > 0; src, dst = src[elements:], dst[bytes:] {
		switch t {
		case F32:
			binary.LittleEndian.PutUint32(dst, math.Float32bits(src[0]))
		case F16:
			binary.LittleEndian.PutUint16(dst, kernel.RoundToFloat16(src[0]))
		case BF16:
			binary.LittleEndian.PutUint16(dst, kernel.RoundToBFloat16(src[0]))
		case Q8_0:
			packQ8_0(src, dst)
		case Q4_0:
			packQ4_0(src, dst)
		case Q4_K:
			packK(4, src, dst)
		case Q5_K:
			packK(5, src, dst)
		case Q6_K:
			packQ6_K(src, dst)
		}
	}
}

// putScale stores the least half that is no less than a positive scale, or 0, and returns it.
func putScale(dst []byte, scale float64) float64 {
	h := kernel.RoundToFloat16(float32(scale))
	binary.LittleEndian.PutUint16(dst, h)
	if float64(half(dst)) < scale { // halves of one sign are ordered as their bits
		binary.LittleEndian.PutUint16(dst, h+1)
	}
	return float64(half(dst))
}

// divide returns the integer nearest to x/step, from low to high, and 0 where step is.
func divide(x, step float64, low, high int) int {
	if step == 0 {
		return 0
	}
	return min(max(int(math.RoundToEven(x/step)), low), high)
}

// ceiling returns the least integer n for which n·step covers x, up to high.
func ceiling(x, step float64, high int) int {
	if step == 0 {
		return 0
	}
	return min(int(math.Ceil(x/step)), high)
}

// span returns the least and the largest of x and 0.
func span(x []float32) (low, high float64) {
	return min(0, float64(slices.Min(x))), max(0, float64(slices.Max(x)))
}

func packQ8_0(src []float32, dst []byte) {
	low, high := span(src[:32])
	d := putScale(dst, max(high, -low)/127)
	for i, x := range src[:32] {
		dst[2+i] = byte(divide(float64(x), d, -127, 127))
	}
}

func packQ4_0(src []float32, dst []byte) {
	low, high := span(src[:32])
	// Integers go from −8 to 7: the side that reaches further gets the 8, by the scale's sign.
	positive, negative := max(high/7, -low/8), max(-low/7, high/8)
	d := putScale(dst, min(positive, negative))
	if negative < positive {
		d = -d
		dst[1] |= 0x80
	}
	for i := range 16 {
		dst[2+i] = byte(divide(float64(src[i]), d, -8, 7)+8) | byte(divide(float64(src[i+16]), d, -8, 7)+8)<<4
	}
}

// packK packs 256 elements to Q4_K or Q5_K, by bits: sub-blocks of 32 with a scale and a minimum to subtract.
func packK(bits int, src []float32, dst []byte) {
	most := 1<<bits - 1
	var low, high [8]float64
	for sub := range 8 {
		low[sub], high[sub] = span(src[sub*32:][:32])
	}
	var scales, minima [8]int
	dmin := putScale(dst[2:], -slices.Min(low[:])/63)
	var steps [8]float64 // what each sub-block needs to reach from its minimum to its largest element
	for sub := range 8 {
		minima[sub] = ceiling(-low[sub], dmin, 63)
		steps[sub] = (high[sub] + dmin*float64(minima[sub])) / float64(most)
	}
	d := putScale(dst, slices.Max(steps[:])/63)
	for sub := range 8 {
		scales[sub] = ceiling(steps[sub], d, 63)
	}

	packed, quants := dst[4:16], dst[16:]
	var fifth []byte
	if bits == 5 {
		fifth, quants = dst[16:48], dst[48:]
		clear(fifth)
	}
	for i := range 4 { // six bits of the first four; of the others, four bits and, above the first, two
		packed[i] = byte(scales[i] | scales[i+4]>>4<<6)
		packed[i+4] = byte(minima[i] | minima[i+4]>>4<<6)
		packed[i+8] = byte(scales[i+4]&15 | minima[i+4]&15<<4)
	}
	clear(quants[:128])
	for sub := range 8 {
		step, minimum := d*float64(scales[sub]), dmin*float64(minima[sub])
		for i, x := range src[sub*32:][:32] {
			q := divide(float64(x)+minimum, step, 0, most)
			quants[sub/2*32+i] |= byte(q & 15 << (sub % 2 * 4))
			if bits == 5 {
				fifth[i] |= byte(q >> 4 << sub)
			}
		}
	}
}

func packQ6_K(src []float32, dst []byte) {
	var steps [16]float64
	for sub := range steps {
		low, high := span(src[sub*16:][:16])
		steps[sub] = max(high/31, -low/32)
	}
	d := putScale(dst[208:], slices.Max(steps[:])/127)
	quants, upper, scales := dst[:128], dst[128:192], dst[192:208]
	clear(dst[:192])
	for sub := range steps {
		scale := ceiling(steps[sub], d, 127)
		scales[sub] = byte(scale)
		for i, x := range src[sub*16:][:16] {
			q := divide(float64(x), d*float64(scale), -32, 31) + 32
			// Element 128h + 32k + j is in byte 64h + 32(k mod 2) + j of the lower four bits and 32h + j of the upper two.
			h, k, j := sub/8, sub/2%4, sub%2*16+i
			quants[64*h+32*(k%2)+j] |= byte(q & 15 << (k / 2 * 4))
			upper[32*h+j] |= byte(q >> 4 << (2 * k))
		}
	}
}
