package anchor

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"
)

// sorted transcribes heaviest's doc comment by sorting. An infinite mass is no bound.
func sorted(values []float32, limit int, mass float64) []int32 {
	order := make([]int32, len(values))
	for i := range order {
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(a, b int32) int {
		x, y := values[a], values[b]
		switch {
		case x > y, x != x && y == y:
			return -1
		case x < y, x == x && y != y:
			return 1
		}
		return 0
	})
	sum, n := 0.0, 0
	for n < min(limit, len(order)) && !(sum >= mass && mass < math.Inf(1)) {
		sum += float64(values[order[n]])
		n++
	}
	order = order[:n]
	slices.Sort(order)
	return order
}

// heaviest chooses what sorting chooses: ties, NaN, infinities and odd limits included.
func TestHeaviest(t *testing.T) {
	r := rand.New(rand.NewPCG(41, 1))
	inf, nan := float32(math.Inf(1)), float32(math.NaN())
	// Eighths, whose sums are exact in any order.
	kinds := map[string]func(n int) float32{
		"many":      func(int) float32 { return float32(r.IntN(1<<20)) / 8 },
		"ties":      func(int) float32 { return float32(r.IntN(4)) / 8 },
		"equal":     func(int) float32 { return 1 },
		"zeros":     func(int) float32 { return 0 },
		"ascending": func(i int) float32 { return float32(i) },
		"falling":   func(i int) float32 { return float32(5000 - i) },
		"+Inf":      func(int) float32 { return []float32{inf, 1, 2, 0}[r.IntN(4)] },
		"one +Inf":  func(i int) float32 { return []float32{inf, 1}[min(i, 1)] },
		"negative":  func(int) float32 { return float32(r.NormFloat64()) },
		"−Inf":      func(int) float32 { return []float32{-inf, 1, -2, 0}[r.IntN(4)] },
		"NaN":       func(int) float32 { return []float32{nan, 1, 2, inf}[r.IntN(4)] },
		"all NaN":   func(int) float32 { return nan },
		"all −Inf":  func(int) float32 { return -inf },
	}
	var buf []weighed
	for name, value := range kinds {
		signed := name == "negative" || name == "−Inf" || name == "all −Inf"
		t.Run(name, func(t *testing.T) {
			for range 150 {
				values := make([]float32, r.IntN(40)*r.IntN(4))
				total := 0.0
				for i := range values {
					values[i] = value(i)
					if y := float64(values[i]); !math.IsNaN(y) && !math.IsInf(y, 0) {
						total += y
					}
				}
				n := len(values)
				limits := []int{0, -1, math.MinInt, math.MaxInt, n, 1, n - 1, r.IntN(n + 1)}
				masses := []float64{math.Inf(1)}
				if !signed { // where mass is finite, values are not negative
					masses = append(masses, 0, -1, math.Inf(-1), 1e300, total, total-0.125, total+0.125, math.Floor(r.Float64()*total*8)/8)
				}
				for _, limit := range limits {
					for _, mass := range masses {
						got, want := heaviest(values, limit, mass, &buf), sorted(values, limit, mass)
						if !slices.Equal(got, want) {
							t.Fatalf("heaviest(%v, %d, %v) = %v; want %v", values, limit, mass, got, want)
						}
					}
				}
			}
		})
	}
}

// heaviest chooses the fewest: without any one of them the mass is not reached, and none left out is heavier.
func TestHeaviestIsFewest(t *testing.T) {
	r := rand.New(rand.NewPCG(42, 1))
	var buf []weighed
	for range 400 {
		values, total := make([]float32, 1+r.IntN(300)), 0.0
		for i := range values {
			values[i] = float32(math.Exp(3 * r.NormFloat64()))
			total += float64(values[i])
		}
		mass := r.Float64() * total
		got := heaviest(values, len(values), mass, &buf)
		sum, least := 0.0, float32(math.Inf(1))
		in := make([]bool, len(values))
		for _, i := range got {
			sum, least, in[i] = sum+float64(values[i]), min(least, values[i]), true
		}
		rounding := 1e-12 * total
		if sum < mass-rounding || sum-float64(least) > mass+rounding {
			t.Fatalf("%d values hold %g, without the lightest %g; want %g", len(got), sum, sum-float64(least), mass)
		}
		for i, x := range values {
			if !in[i] && x > least {
				t.Fatalf("%g is left out and %g not", x, least)
			}
		}
	}
}

// heaviest looks at a few times as many values as there are, whatever their order; quadratic time would be thousands of times.
func TestHeaviestIsLinear(t *testing.T) {
	const n = 1 << 15
	for name, value := range map[string]func(i int) float32{
		"equal": func(int) float32 { return 1 }, "ascending": func(i int) float32 { return float32(i) }, "falling": func(i int) float32 { return float32(n - i) },
		"organ pipe": func(i int) float32 { return float32(min(i, n-i)) }, "valley": func(i int) float32 { return float32(max(i, n-i)) },
		"saw": func(i int) float32 { return float32(i % 1000) }, "two": func(i int) float32 { return float32(i % 2) }, "NaN": func(int) float32 { return float32(math.NaN()) },
		"interleaved": func(i int) float32 { return float32(i/2 + i%2*n/2) },
	} {
		values, sum := make([]float32, n), 0.0
		for i := range values {
			values[i] = value(i)
			sum += float64(values[i])
		}
		for _, c := range []struct {
			limit int
			mass  float64
		}{{n / 2, math.Inf(1)}, {1, math.Inf(1)}, {n - 1, math.Inf(1)}, {n, sum / 2}} {
			all := make([]weighed, n)
			for i, x := range values {
				all[i] = weighed{x, int32(i)}
			}
			mass := c.mass
			if math.IsNaN(mass) {
				mass = math.Inf(1)
			}
			if _, looked := bringForward(all, c.limit, mass); looked > 10*n {
				t.Errorf("%s, limit %d: looked at %d of %d values", name, c.limit, looked, n)
			}
		}
	}
}
