package compliance

import (
	"math"
	"slices"
	"testing"

	"github.com/anchorattention/anchor"
)

// lengths returns lengths of prompts around the borders of blocks and groups.
func (s *suite) lengths() []int {
	all := []int{1, 127, 128, 129, 2049, 1000, 2047, 2048, 4097}
	switch {
	case testing.Short():
		return all[:4]
	case s.Slow:
		return all[:5]
	}
	return all
}

// planners are dense attention and AnchorAttention.
func planners() []anchor.Planner {
	return []anchor.Planner{anchor.Dense(), anchor.AnchorAttention(small(1.5))}
}

// Every (row, key ≤ p) pair is in exactly one of window, stripes and dropped. With equal logits θ ≥ 0 attends to every key once
// and θ < 0 to the window, and where values name their keys, outputs count how often keys of each residue were attended to.
func (s *suite) partition(t *testing.T) {
	const dim = 64
	for _, n := range s.lengths() {
		if n > 1000 && s.Slow {
			continue
		}
		for _, params := range []anchor.Params{anchor.DefaultParams(), {Block: 8, Step: 5, Init: 0, Local: 8, Tail: 16}, {Block: 128, Step: 2, Init: 3, Local: 0, Tail: 0}} {
			for _, queries := range []int{n, (n + 1) / 2, 1} {
				for _, params.Theta = range []float64{0, -1} {
					p := s.problem(1, 1, queries, n, dim)
					clear(p.Q)
					clear(p.V)
					for j := range n {
						p.V[j*dim+j%dim] = 1
					}
					x, _ := s.attendOne(t, planner(&params), p)
					for range 40 {
						row := s.r.IntN(queries)
						pos := n - queries + row
						start := pos - pos%(params.Block*params.Step)
						var times [dim]int
						total := 0
						for j := range pos + 1 {
							if params.Theta == 0 || pos >= n-params.Tail || j < params.Init || j >= start-params.Local {
								times[j%dim]++
								total++
							}
						}
						for d, want := range times {
							if got := float64(x.o[row*dim+d]) * float64(total); !(math.Abs(got-float64(want)) <= 1e-2) {
								t.Fatalf("n %d, %d queries, %+v: position %d attends to %.3f keys ≡ %d mod %d; want %d", n, queries, params, pos, got, d, dim, want)
							}
						}
					}
				}
			}
		}
	}
}

// θ = +∞ equals dense attention, and θ = −∞ the window alone, whatever the lengths.
func (s *suite) theta(t *testing.T) {
	check := func(queries, n, dim int) {
		p := s.problem(2, 1, queries, n, dim)
		params := anchor.Params{Block: 16, Step: 8, Init: 4, Local: 16, Tail: 8, Theta: math.Inf(1)}
		want, dense := s.attendOne(t, anchor.Dense(), p)
		got, all := s.attend(t, anchor.Options{Planner: planner(&params), AuditRows: 16}, p)
		s.sameBut(t, got[0], want, "n %d, %d queries, dim %d: θ = +∞ and dense", n, queries, dim)
		if all.Pairs != dense.Pairs || all.Density() != 1 || all.Recall.Min < 1-max(1e-5, s.typ.LSE) {
			t.Errorf("n %d, %d queries, dim %d: θ = +∞ attends to %d pairs with least recall %v; dense to %d", n, queries, dim, all.Pairs, all.Recall.Min, dense.Pairs)
		}
		params.Theta = math.Inf(-1)
		if _, window := s.attendOne(t, planner(&params), p); window.Stripes != 0 {
			t.Errorf("n %d, %d queries, dim %d: θ = −∞ keeps %d stripes", n, queries, dim, window.Stripes)
		}
	}
	for _, n := range s.lengths() {
		for _, queries := range []int{n, n/2 + 1, 1} {
			check(queries, n, 8)
		}
	}
	for _, dim := range s.dims(s.r.Int()) {
		check(300, 700, dim)
	}
}

// Results are the same from run to run and for any number of threads.
func (s *suite) runs(t *testing.T) {
	for i, p := range []*problem{
		s.problem(4, 2, 300, 500, 40), s.problem(3, 1, 129, 129, 1), s.problem(2, 2, 1, 2049, 80), s.problem(4, 1, 90, 250, 192),
	} {
		for _, planner := range planners() {
			var first []output
			for _, threads := range []int{1, 2, 3, 8, 1} {
				got, _ := s.attend(t, anchor.Options{Planner: planner, Threads: threads}, p)
				if first == nil {
					first = got
				}
				if !equal(got[0], first[0]) {
					t.Errorf("problem %d, %s: %d threads give another result", i, planner.Name(), threads)
				}
			}
		}
	}
}

// prompts calls f with problems of many lengths, for dense attention and AnchorAttention.
func (s *suite) prompts(t *testing.T, f func(t *testing.T, planner anchor.Planner, p *problem)) {
	turn := s.r.IntN(1000)
	for i, n := range append(s.lengths(), 39, 333) {
		for _, planner := range planners() {
			for _, dim := range s.dims(turn + i) {
				heads := 4
				if n > 500 { // which is about positions, not numbers
					dim, heads = min(dim, 16), 2
				}
				f(t, planner, s.problem(heads, 1<<s.r.IntN(heads/2+1), n, n, dim))
			}
		}
	}
}

// Grouped heads equal repeated heads, and a head does not depend on others.
func (s *suite) heads(t *testing.T) {
	s.prompts(t, func(t *testing.T, planner anchor.Planner, p *problem) {
		want, _ := s.attendOne(t, planner, p)
		repeated := *p
		repeated.KVHeads, repeated.K, repeated.V = p.Heads, nil, nil
		for h := range p.Heads {
			from := h * p.KVHeads / p.Heads * p.Keys * p.Dim
			repeated.K = append(repeated.K, p.K[from:from+p.Keys*p.Dim]...)
			repeated.V = append(repeated.V, p.V[from:from+p.Keys*p.Dim]...)
		}
		got, _ := s.attendOne(t, planner, &repeated)
		s.same(t, got, want, "%s, %d rows, dim %d: repeated heads", planner.Name(), p.Keys, p.Dim)
		h := s.r.IntN(p.Heads)
		one := repeated
		one.Heads, one.KVHeads = 1, 1
		one.Q, one.K, one.V = p.Q[h*p.Queries*p.Dim:][:p.Queries*p.Dim], repeated.K[h*p.Keys*p.Dim:][:p.Keys*p.Dim], repeated.V[h*p.Keys*p.Dim:][:p.Keys*p.Dim]
		got, _ = s.attendOne(t, planner, &one)
		s.same(t, got, want.head(h), "%s, %d rows, dim %d: head %d alone", planner.Name(), p.Keys, p.Dim, h)
	})
}

// A prompt cut at the borders of groups equals one call.
func (s *suite) chunks(t *testing.T) {
	s.prompts(t, func(t *testing.T, planner anchor.Planner, p *problem) {
		want, whole := s.attendOne(t, planner, p)
		var chunks []*problem
		var from []int
		for at := 0; at < p.Queries; {
			to := min(at+40*(1+s.r.IntN(3)*(1+p.Queries/200)), p.Queries)
			chunks, from = append(chunks, p.rows(at, to)), append(from, at)
			at = to
		}
		outputs, res := s.attend(t, anchor.Options{Planner: planner}, chunks...)
		for i, c := range chunks {
			for h := range p.Heads {
				s.same(t, outputs[i].head(h), want.rows(h, from[i], from[i]+c.Queries), "%s, %d rows, dim %d: rows %d … %d of head %d", planner.Name(), p.Queries, p.Dim, from[i], from[i]+c.Queries, h)
			}
		}
		if res.Stripes != whole.Stripes || res.Pairs != whole.Pairs {
			t.Errorf("%s, %d rows, dim %d: chunks keep %d stripes and attend to %d pairs; want %d and %d", planner.Name(), p.Queries, p.Dim, res.Stripes, res.Pairs, whole.Stripes, whole.Pairs)
		}
	})
}

// A batch equals its sequences.
func (s *suite) batch(t *testing.T) {
	for _, planner := range planners() {
		for _, dim := range s.dims(s.r.Int()) {
			problems := []*problem{
				s.problem(4, 2, 300, 433, dim), s.problem(4, 2, 1, 177, dim), s.problem(4, 2, 5, 5, dim),
				s.problem(4, 2, 640, 640, dim).rows(100, 300), s.problem(4, 2, 129, 600, dim),
			}
			together, batch := s.attend(t, anchor.Options{Planner: planner, Stripes: true}, problems...)
			var pairs, stripes int64
			for i, p := range problems {
				alone, res := s.attendOne(t, planner, p)
				s.same(t, together[i], alone, "%s, dim %d: sequence %d of a batch", planner.Name(), dim, i)
				pairs, stripes = pairs+res.Pairs, stripes+res.Stripes
				if batch.StripeSets != nil && !slices.Equal(batch.StripeSets[i].Indices, res.StripeSets[0].Indices) {
					t.Errorf("%s, dim %d: sequence %d of a batch has other stripes", planner.Name(), dim, i)
				}
			}
			if batch.Pairs != pairs || batch.Stripes != stripes {
				t.Errorf("%s, dim %d: a batch attends to %d pairs, %d stripes; its sequences to %d, %d", planner.Name(), dim, batch.Pairs, batch.Stripes, pairs, stripes)
			}
		}
	}
}

// The scale is a factor on the queries: twice of one is half of the other, and so is a sign.
func (s *suite) scale(t *testing.T) {
	for _, planner := range planners() {
		p := s.problem(4, 2, 200, 300, 64)
		scale := float32(0.1875)
		p.Scale = &scale
		want, _ := s.attendOne(t, planner, p)
		for _, by := range []float32{2, -2, -1} {
			other, factor := p.copy(), scale/by
			for i := range other.Q {
				other.Q[i] *= by
			}
			other.Scale = &factor
			got, _ := s.attendOne(t, planner, other)
			s.same(t, got, want, "%s: queries %v times as large, and the scale so much smaller", planner.Name(), by)
		}
	}
}

// A prompt no longer than one group is dense, at the cost of dense.
func (s *suite) short(t *testing.T) {
	for _, n := range []int{1, 128, 129, 2047, 2048} {
		if n > 1000 && (s.Slow || testing.Short()) {
			continue
		}
		p := s.problem(4, 2, n, n, 16)
		want, dense := s.attendOne(t, anchor.Dense(), p)
		params := anchor.DefaultParams()
		params.Theta, params.Tail = -1000, 0
		got, res := s.attendOne(t, planner(&params), p)
		s.same(t, got, want, "n %d: AnchorAttention and dense", n)
		if res.FLOPs != dense.FLOPs {
			t.Errorf("n %d: %g FLOPs; dense attention takes %g", n, res.FLOPs, dense.FLOPs)
		}
	}
}

// Tensors with heads innermost, as a model has them, with room between rows, and in pages give what contiguous ones give, and
// nothing is written beside outputs.
func (s *suite) views(t *testing.T) {
	const heads, kvHeads, queries, keys = 4, 2, 150, 333
	for _, planner := range planners() {
		for _, dim := range s.dims(s.r.Int()) {
			p := s.problem(heads, kvHeads, queries, keys, dim)
			want, _ := s.attendOne(t, planner, p)
			for _, room := range []int{0, 3} {
				step := dim + room
				spread := func(x []float32, heads int) []float32 {
					rows := len(x) / heads / dim
					y := poison(heads * rows * step)
					for h := range heads {
						for i := range rows {
							copy(y[(i*heads+h)*step:], x[(h*rows+i)*dim:][:dim])
						}
					}
					return y
				}
				view := func(x []float32, heads, rows int) anchor.Tensor {
					y := spread(x, heads)
					switch p.dtype {
					case anchor.BFloat16:
						return anchor.FromBFloat16(p.bits(y), heads, rows, dim).Strided(step, heads*step)
					case anchor.Float16:
						return anchor.FromFloat16(p.bits(y), heads, rows, dim).Strided(step, heads*step)
					}
					return anchor.FromFloat32(y, heads, rows, dim).Strided(step, heads*step)
				}
				o, lse := poison(heads*queries*step), poison(heads*queries)
				s.do(t, anchor.Options{Planner: planner}, anchor.Sequence{
					Q: view(p.Q, heads, queries), K: view(p.K, kvHeads, keys), V: view(p.V, kvHeads, keys),
					O: anchor.FromFloat32(o, heads, queries, dim).Strided(step, heads*step), LSE: anchor.FromFloat32(lse, heads, queries, 1).Strided(1, heads),
				})
				got := output{poison(len(want.o)), poison(len(lse)), heads}
				for h := range heads {
					for i := range queries {
						copy(got.o[(h*queries+i)*dim:][:dim], o[(i*heads+h)*step:])
						got.lse[h*queries+i] = lse[i*heads+h]
						if slices.ContainsFunc(o[(i*heads+h)*step+dim:][:room], func(x float32) bool { return x == x }) {
							t.Fatalf("%s, dim %d: written beyond row %d of head %d", planner.Name(), dim, i, h)
						}
					}
				}
				s.same(t, got, want, "%s, dim %d: rows %d apart, heads innermost", planner.Name(), dim, step)
			}
			for _, rows := range []int{1, 50, 128, 400} {
				got := output{poison(len(want.o)), poison(len(want.lse)), heads}
				sequence := p.sequence(got)
				sequence.K, sequence.V = p.pages(p.K, rows), p.pages(p.V, rows)
				s.do(t, anchor.Options{Planner: planner}, sequence)
				s.same(t, got, want, "%s, dim %d: pages of %d rows", planner.Name(), dim, rows)
			}
			got := output{poison(len(want.o)), poison(len(want.lse)), heads}
			sequence := p.sequence(got)
			sequence.LSE = anchor.Tensor{}
			s.do(t, anchor.Options{Planner: planner}, sequence)
			got.lse = want.lse
			s.same(t, got, want, "%s, dim %d: without log-sum-exps", planner.Name(), dim)
		}
	}
}

// NaN and infinities reach the rows that see them and no others, or those just before; rows that are not finite are counted;
// a NaN keeps a key.
func (s *suite) notFinite(t *testing.T) {
	const n, at = 200, 100
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	params := small(math.Inf(1))
	counted := func(what string, x output, res *anchor.Result) {
		t.Helper()
		var want int64
		dim := len(x.o) / len(x.lse)
		for row := range slices.Chunk(x.o, dim) {
			if slices.ContainsFunc(row, func(x float32) bool { return x-x != 0 }) {
				want++
			}
		}
		if res.NonFiniteRows != want {
			t.Errorf("%s: %d rows not finite are counted; want %d", what, res.NonFiniteRows, want)
		}
		for _, h := range res.Heads {
			want -= h.NonFiniteRows
		}
		if want != 0 {
			t.Errorf("%s: heads count %d rows not finite less than the whole", what, want)
		}
	}
	for _, bad := range []float32{nan, inf, -inf} {
		for _, planner := range []anchor.Planner{anchor.Dense(), planner(&params)} {
			const dim = 16
			p := s.problem(2, 1, n, n, dim)
			want, _ := s.attendOne(t, planner, p)

			spoiled := p.copy()
			spoiled.V[at*dim+3] = bad
			x, res := s.attendOne(t, planner, spoiled)
			counted(planner.Name()+", value", x, res)
			for i, got := range x.o {
				switch row, d := i/dim%n, i%dim; {
				case row >= at && d == 3:
					if got-got == 0 || bad == bad && got == -bad {
						t.Fatalf("%s: value %v at key %d gives %v at row %d", planner.Name(), bad, at, got, row)
					}
				case row >= at-s.Spoils && d == 3:
				case got != want.o[i]:
					t.Fatalf("%s: value %v at key %d changes row %d, element %d", planner.Name(), bad, at, row, d)
				}
			}
			if !slices.Equal(x.lse, want.lse) {
				t.Errorf("%s: value %v at key %d changes log-sum-exps", planner.Name(), bad, at)
			}

			spoiled = p.copy()
			spoiled.K[at*dim+3] = bad
			x, res = s.attendOne(t, planner, spoiled)
			counted(planner.Name()+", key", x, res)
			for i, got := range x.o {
				h, row := i/dim/n, i/dim%n
				if q := spoiled.Query(h, row)[3]; row >= at && bad*q == -inf {
					continue // a key with logit −∞ has no weight
				}
				if row >= at && got == got || row < at && got != want.o[i] {
					t.Fatalf("%s: key %v at %d gives %v at row %d, which was %v", planner.Name(), bad, at, got, row, want.o[i])
				}
			}
		}
	}
	// A NaN in a query spoils its own row, and makes its block's mean NaN, which keeps every key for the group.
	p := s.problem(2, 1, n, n, 16)
	p.Q[(n+150)*16] = nan
	for _, planner := range []anchor.Planner{anchor.Dense(), anchor.AnchorAttention(small(-1000))} {
		x, res := s.attendOne(t, planner, p)
		counted(planner.Name()+", query", x, res)
		if x := x.o[(n+150)*16]; res.NonFiniteRows != 1 || x == x {
			t.Errorf("%s: a NaN in a query spoils %d rows; want its own", planner.Name(), res.NonFiniteRows)
		}
		if res.StripeSets == nil {
			continue
		}
		for i, keys := range lists(res.StripeSets[0]) {
			want := 0
			if i == 5+150/40 {
				want = 3*40 - 8 - 3
			}
			if len(keys) != want {
				t.Errorf("a NaN in a query of group 3 of head 1: head %d, group %d has %d stripes; want %d", i/5, i%5, len(keys), want)
			}
		}
	}
	// Keys with logit −∞ have no weight, be they the first that rows see: here no row sees others before.
	const weightless = 150
	p = s.problem(1, 1, n, n, 16)
	for i := range n {
		p.Q[i*16] = max(p.Q[i*16], 0.5)
		if i < weightless {
			p.K[i*16] = -inf
		}
	}
	for _, planner := range []anchor.Planner{anchor.Dense(), anchor.AnchorAttention(params)} {
		x, res := s.attendOne(t, planner, p)
		counted(planner.Name()+", keys without weight", x, res)
		want := p.Attend(nil, nil)
		s.close(t, x.rows(0, weightless, n), 16, want.O[weightless*16:], want.LSE[weightless:])
	}
	// All logits −∞: no softmax.
	p = s.problem(1, 1, 50, 50, 1)
	for i := range p.K {
		p.Q[i], p.K[i] = 1, -inf
	}
	x, _ := s.attendOne(t, anchor.AnchorAttention(small(1)), p)
	for i := range x.o {
		if x.o[i] == x.o[i] || x.lse[i]-x.lse[i] == 0 || x.lse[i] == inf {
			t.Fatalf("row of −∞ logits gives %v, log-sum-exp %v; want NaN, and NaN or −∞", x.o[i], x.lse[i])
		}
	}
}

// Auto attends in each group of rows of each head to what AnchorAttention attends to, or to every key, and says how often.
func (s *suite) auto(t *testing.T) {
	if !s.Auto {
		t.Skip("the engine has no planner auto")
	}
	const queries, keys, size = 333, 500, 40
	for _, dim := range s.dims(s.r.Int()) {
		p := s.problem(4, 2, queries, keys, dim)
		for i := range p.Q { // flat heads keep every key
			if h := i / (queries * dim); h%2 == 1 {
				p.Q[i] /= 256
			}
		}
		p.round()
		params := small(1)
		dense, all := s.attendOne(t, anchor.Dense(), p)
		sparse, some := s.attendOne(t, planner(&params), p)
		got, res := s.attendOne(t, anchor.Auto(params), p)
		for h, head := range res.Heads {
			var wholly int64
			for g := (keys - queries) / size; g <= (keys-1)/size; g++ {
				from, to := max(g*size-(keys-queries), 0), min((g+1)*size, keys)-(keys-queries)
				x := got.rows(h, from, to)
				near := func(want output) bool {
					o, tolerance, lse := apart(x.o, double(want.o)), 5e-6, 5e-6
					if s.typ.Rounding > 0 {
						o, tolerance, lse = relative(x.o, double(want.o)), s.typ.Rounding, s.typ.LSE
					}
					return o <= tolerance && apart(x.lse, double(want.lse)) <= lse
				}
				a, d := near(sparse.rows(h, from, to)), near(dense.rows(h, from, to))
				if !a && !d {
					t.Errorf("dim %d: group %d of head %d is neither AnchorAttention nor dense", dim, g, h)
				}
				if !a {
					wholly++
				}
			}
			least, most := some.Heads[h], all.Heads[h]
			unseen := least.Groups - head.Groups // which had nothing to gain, and are dense
			if wholly > head.DenseGroups+unseen {
				t.Errorf("dim %d: head %d is dense in %d groups; it says %d, and looked for stripes in %d of %d", dim, h, wholly, head.DenseGroups, head.Groups, least.Groups)
			}
			switch {
			case unseen < 0 || head.Pairs < least.Pairs || head.Pairs > most.Pairs || head.Stripes > least.Stripes:
				t.Errorf("dim %d: head %d is %+v; AnchorAttention is %+v, dense %+v", dim, h, head, least, most)
			case head.DenseGroups+unseen == 0 && (head.Pairs != least.Pairs || head.Stripes != least.Stripes):
				t.Errorf("dim %d: head %d is %+v; want %+v", dim, h, head, least)
			case head.DenseGroups == head.Groups && (head.Pairs != most.Pairs || head.Stripes != 0):
				t.Errorf("dim %d: head %d is %+v; want %+v", dim, h, head, most)
			}
		}
		if res.CausalPairs != all.CausalPairs || res.NonFiniteRows != 0 {
			t.Errorf("dim %d: %d pairs, %d rows not finite; want %d, none", dim, res.CausalPairs, res.NonFiniteRows, all.CausalPairs)
		}
	}
}
