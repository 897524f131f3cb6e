package bench

import "math"

// round rounds every number of x to 16 bits.
func round(x []float32, to func(float32) uint16) []uint16 {
	y := make([]uint16, len(x))
	for i, v := range x {
		y[i] = to(v)
	}
	return y
}

// toFloat16 returns the bits of the half-precision number nearest to a finite number, the even one of two, or an
// infinity beyond their range.
func toFloat16(x float32) uint16 {
	b := math.Float32bits(x)
	sign := uint16(b >> 16 & 0x8000)
	size := math.Abs(float64(x))
	switch {
	case size >= 65520:
		return sign | 0x7c00
	case size < 0x1p-14: // subnormal: a multiple of 2^−24
		return sign | uint16(math.RoundToEven(size*0x1p24))
	}
	b = b&0x7fffffff - (127-15)<<23
	return sign | uint16((b+0xfff+b>>13&1)>>13)
}
