package bench

// round rounds every number of x to 16 bits.
func round(x []float32, to func(float32) uint16) []uint16 {
	y := make([]uint16, len(x))
	for i, v := range x {
		y[i] = to(v)
	}
	return y
}
