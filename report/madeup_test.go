package report

import (
	"math"
	"math/rand/v2"
)

// madeUp returns a comparison that looks like a real one: so many methods, at five settings and two goals, on inputs of
// these lengths, with maps of size² cells.
func madeUp(methods int, lengths []int, size int) *Comparison {
	r := rand.New(rand.NewPCG(1, 2))
	names := []string{"anchor", "auto", "anchor-score", "anchor-block", "anchor-topk", "anchor-mass", "streaming", "minference",
		"flexprefill", "xattention", "vecattention", "oracle", "pooled-16", "spikes"}
	knobs := []string{"theta", "theta", "theta", "theta", "keys", "mass", "", "verticals", "gamma", "tau", "ratio", "mass", "theta", "theta"}
	kinds := []string{"sink", "local", "stripe", "diffuse", "slash", "retrieval", "mixture", "flat"}
	c := &Comparison{Command: "anchor compare --workload mixed --lengths 8192,32768,131072 --recall 0.95 --report compared",
		Machine: "Intel Xeon", ISA: "amx", Threads: 2}
	for _, n := range lengths {
		in := Input{Name: "mixed", DType: "F32", Tokens: n, Queries: n, Heads: 8, KVHeads: 2, Dim: 128, Seed: 1,
			DenseSeconds: 5.8 * math.Pow(float64(n)/32768, 2)}
		floor := 0.32 * math.Pow(8192/float64(n), 0.9)
		lossAt := func(density float64, method int) float64 {
			return min(1, (0.35+0.06*float64(method))*math.Pow(floor/density, 1.5+2/float64(method+1))*math.Exp(-4*density))
		}
		point := func(m int, name string, t float64, goal Goal) Point {
			density := floor * math.Pow(0.9/floor, t) * (1 + 0.03*r.Float64())
			loss := lossAt(density, m)
			p := Point{Method: name, Knob: knobs[m], Value: Number(4 + 16*t), Goal: goal, Default: math.Abs(t-0.5) < 0.01,
				Always: "first 128, 128 before the group; last 128 rows dense", Density: density, Stripes: int64(float64(n) * t * 40),
				Recall:      Recall{1 - loss, 1 - min(1, 3*loss), 1 - min(1, 9*loss)},
				OutputError: Spread{0.4 * loss, 0.9 * loss, 2 * loss}, LSEError: Spread{loss, 2 * loss, 5 * loss}}
			p.Stages = map[string]float64{"dense": in.DenseSeconds * 0.01, "window": in.DenseSeconds * floor * 0.4,
				"search": in.DenseSeconds * 0.01 * float64(m+1), "gather": in.DenseSeconds * 0.002 * float64(m),
				"sparse": in.DenseSeconds * density * 0.7}
			for _, s := range p.Stages {
				p.Seconds += s * 1.02
			}
			p.FLOPs = density * 2 * float64(n) * float64(n) * 128 * 8
			for h := range in.Heads {
				x := (0.2 + 1.6*r.Float64()) * loss
				p.HeadPoints = append(p.HeadPoints, Head{Head: h, Kind: kinds[h%len(kinds)], Choice: []string{"", "theta 16", "dense"}[h%3],
					Density: density * (0.5 + r.Float64()), Stripes: p.Stripes / 8, Recall: Recall{1 - min(1, x), 1 - min(1, 3*x), 1 - min(1, 9*x)},
					OutputError: Spread{0.4 * x, 0.9 * x, 2 * x}, LSEError: Spread{x, 2 * x, 5 * x}})
			}
			return p
		}
		for m := range methods {
			steps := 5
			if knobs[m] == "" {
				steps = 1
			}
			first := len(in.Points)
			for i := range steps {
				in.Points = append(in.Points, point(m, names[m], float64(i)/4, Goal{}))
			}
			if steps > 1 {
				t := 0.0
				for t < 0.6 && lossAt(floor*math.Pow(0.9/floor, t), m) > 0.049 {
					t += 0.01
				}
				met := lossAt(floor*math.Pow(0.9/floor, t), m) < 0.05
				in.Points = append(in.Points, point(m, names[m], t, Goal{"recall", 0.95, met}))
				in.Points = append(in.Points, point(m, names[m], 0.1, Goal{"density", math.Ceil(floor*130) / 100, true}))
			} else {
				in.Points[first].Default = true
			}
		}
		for _, mass := range []float64{0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999} {
			in.RowOracle = append(in.RowOracle, Bound{mass, 0.02 * floor / (1 - mass + 0.02*math.Pow(1-mass, 0.1))})
		}
		for h := range 2 {
			in.Maps = append(in.Maps, madeUpMap(r, &in, h, size, n))
		}
		c.Inputs = append(c.Inputs, in)
	}
	return c
}

func madeUpMap(r *rand.Rand, in *Input, h, size, n int) Map {
	m := Map{Head: h, Kind: []string{"stripe", "slash"}[h%2], Cell: n / size, Size: size, Mass: make([]float64, size*size)}
	stripes := map[int]bool{size / 5: true, size / 3: true, size * 2 / 3: true}
	for row := range size {
		sum := 0.0
		for col := range row + 1 {
			x := 1e-4 * math.Exp(r.NormFloat64())
			if col == 0 {
				x += 0.3
			}
			x += 0.4 * math.Exp(-float64(row-col))
			if h == 0 && stripes[col] && row/8%2 == 0 {
				x += 0.1
			}
			if h == 1 && (row-col) == size/4 {
				x += 0.2
			}
			m.Mass[row*size+col] = x
			sum += x
		}
		for col := range row + 1 {
			m.Mass[row*size+col] /= sum
		}
	}
	seen := make(map[string]bool)
	for i, p := range in.Points {
		if seen[p.Method] || p.Goal.Kind == "" {
			continue
		}
		seen[p.Method] = true
		kept := Kept{Method: p.Method, Point: i, Share: make([]float64, size*size)}
		for row := range size {
			for col := range row + 1 {
				x := 0.0
				switch {
				case col == 0 || row-col < 1+row%4 || row == size-1:
					x = 1
				case m.Mass[row*size+col] > 0.02 && r.Float64() < 1-float64(i)/200:
					x = 0.05 + 0.2*r.Float64()
				case r.Float64() < 0.01*float64(i%7):
					x = 0.004
				}
				kept.Share[row*size+col] = x
			}
		}
		m.Kept = append(m.Kept, kept)
	}
	return m
}
