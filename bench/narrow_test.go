package bench

import (
	"math"
	"testing"

	"github.com/anchorattention/anchor/internal/kernel"
)

// Rounding takes the nearest number: every 16-bit number is its own, and a number between two neighbours goes to the
// nearer, or to the even one.
func TestRound(t *testing.T) {
	for _, k := range []struct {
		name string
		to   func(float32) uint16
		from func(uint16) float32
		last uint16 // the largest finite one
	}{
		{"bfloat16", kernel.RoundToBFloat16, func(x uint16) float32 { return math.Float32frombits(uint32(x) << 16) }, 0x7f7f},
		{"half", kernel.RoundToFloat16, kernel.HalfToSingle, 0x7bff},
	} {
		for i := uint16(0); i < k.last; i++ {
			for _, sign := range []uint16{0, 0x8000} {
				a, b := k.from(i|sign), k.from(i+1|sign)
				even := i + i&1
				between := a/2 + b/2
				for _, c := range []struct {
					x    float32
					want uint16
				}{{a, i}, {between, even}, {math.Nextafter32(between, a), i}, {math.Nextafter32(between, b), i + 1}} {
					if between == a || between == b || math.Nextafter32(between, a) == a {
						continue // not to be told apart in single precision
					}
					if got := k.to(c.x); got != c.want|sign {
						t.Fatalf("%s of %v is %#x; want %#x", k.name, c.x, got, c.want|sign)
					}
				}
			}
		}
	}
	if got := kernel.RoundToFloat16(1e6); got != 0x7c00 {
		t.Errorf("half of 1e6 is %#x; want infinity", got)
	}
}
