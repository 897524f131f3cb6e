package anchor

import (
	"bytes"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/anchorattention/anchor/internal/kernel"
)

// A verdict is what a formula says of one row and one key.
type verdict byte

const (
	isDropped verdict = iota
	isKept
	isNear // hangs on rounding, so is not insisted on
)

// sets are the verdicts of every head and row, [head·nq + row][key], on keys up to the row's own.
type sets [][]verdict

// An exact is a problem in double precision, for direct transcriptions of the formulas in the planners' doc comments: plain
// loops that share nothing with the library.
type exact struct {
	*problem
	first, end int         // position of the first row, and length of the prompt
	logits     [][]float64 // [head·nq + row][key], keys up to the row's own

	// What over was last asked, and what it answered.
	met    [][]byte
	o, lse []float64
}

func newExact(p *problem) *exact {
	x := &exact{problem: p, first: p.nk - p.nq, end: p.prompt}
	if x.end == 0 {
		x.end = p.nk
	}
	for h := range p.heads {
		for row := range p.nq {
			l := make([]float64, x.first+row+1)
			for j := range l {
				l[j] = p.logit(h, row, j)
			}
			x.logits = append(x.logits, l)
		}
	}
	return x
}

// row returns the logits of a head's row at a position.
func (x *exact) row(h, pos int) []float64 { return x.logits[h*x.nq+pos-x.first] }

// shares returns the softmax of a head's row at a position.
func (x *exact) shares(h, pos int) []float64 { return shares(x.row(h, pos)) }

func shares(logits []float64) []float64 {
	s, sum, top := make([]float64, len(logits)), 0.0, slices.Max(logits)
	for j, l := range logits {
		s[j] = math.Exp(l - top)
		sum += s[j]
	}
	for j := range s {
		s[j] /= sum
	}
	return s
}

// meanQuery is the mean of a head's queries at positions [from, to), and meanKey that of the keys it reads.
func (x *exact) meanQuery(h, from, to int) []float64 {
	return meanOf(x.q[(h*x.nq+from-x.first)*x.dim:], x.dim, to-from)
}

func (x *exact) meanKey(h, from, to int) []float64 {
	return meanOf(x.k[(h*x.kvHeads/x.heads*x.nk+from)*x.dim:], x.dim, to-from)
}

func meanOf(rows []float32, dim, n int) []float64 {
	mean := make([]float64, dim)
	for i := range n * dim {
		mean[i%dim] += float64(rows[i]) / float64(n)
	}
	return mean
}

// score is scale·q·k in nats.
func (x *exact) score(q, k []float64) float64 {
	sum := 0.0
	for d := range q {
		sum += q[d] * k[d]
	}
	return sum * x.factor()
}

// byBlocks gives the rows of every block of positions, those that are in the call and not of the tail, the verdicts that f
// returns for all keys before to. Tail rows see every key.
func (x *exact) byBlocks(size, tail int, f func(h, from, to int) []verdict) sets {
	var all sets
	for h := range x.heads {
		for from := x.first; from < x.nk; {
			to := min(from/size*size+size, x.nk, max(x.end-tail, from))
			if to == from {
				all = append(all, slices.Repeat([]verdict{isKept}, from+1))
				from++
				continue
			}
			keys := f(h, from, to)
			for ; from < to; from++ {
				all = append(all, keys[:from+1])
			}
		}
	}
	return all
}

// fewest returns how many of the largest values hold the mass: at least lo and at most hi, whatever rounding does.
func fewest(values []float64, mass float64) (lo, hi int) {
	total, sum := 0.0, 0.0
	for _, v := range values {
		total += v
	}
	slack := 2e-5 * total
	for _, v := range descending(values) {
		if sum < mass-slack {
			lo++
		}
		if sum < mass+slack {
			hi++
		}
		sum += v
	}
	return lo, hi
}

func descending(values []float64) []float64 {
	s := slices.Sorted(slices.Values(values))
	slices.Reverse(s)
	return s
}

// largest says which of the positive values are among the largest, at least lo and at most hi of them.
func largest(values []float64, lo, hi int) []verdict {
	const close = 2e-4 // relative
	s := descending(values)
	out := make([]verdict, len(values))
	for i, v := range values {
		switch {
		case lo >= len(s) || v > s[lo]*(1+close):
			out[i] = isKept
		case hi > 0 && (hi > len(s) || v >= s[hi-1]*(1-close)):
			out[i] = isNear
		}
	}
	return out
}

// markBlocks spreads verdicts on blocks of keys to the keys before to. What is kept for one reason is kept.
func markBlocks(keys []verdict, block verdict, from, to int) {
	for j := max(from, 0); j < min(to, len(keys)); j++ {
		if block != isDropped && keys[j] != isKept {
			keys[j] = block
		}
	}
}

func streamingSets(p StreamingParams) func(x *exact) sets {
	return func(x *exact) sets {
		return x.byBlocks(1, p.Tail, func(h, pos, _ int) []verdict { return aShapeOf(pos, p.Sink, p.Window) })
	}
}

func aShapeOf(pos, first, last int) []verdict {
	keys := make([]verdict, pos+1)
	for j := range keys {
		if j < first || pos-last < j {
			keys[j] = isKept
		}
	}
	return keys
}

func minferenceSets(p MInferenceParams) func(x *exact) sets {
	return func(x *exact) sets {
		columns, distances := make([][]verdict, x.heads), make([][]verdict, x.heads)
		pattern := func(h int) Pattern {
			if len(p.Heads) > 0 {
				return p.Heads[h]
			}
			return p.Pattern
		}
		for h := range x.heads {
			byColumn, byDistance := make([]float64, x.nk), make([]float64, x.nk)
			for pos := max(x.nk-64, x.first); pos < x.nk; pos++ {
				for j, s := range x.shares(h, pos) {
					byColumn[j] += s
					byDistance[pos-j] += s
				}
			}
			firstOf := func(values []float64, n, size int) []verdict {
				n = min(n, len(values))
				size = max(min(size, len(values))-n, 0)
				return append(slices.Repeat([]verdict{isKept}, n), largest(values[n:], size, size)...)
			}
			columns[h] = firstOf(byColumn, 30, pattern(h).Vertical)
			distances[h] = firstOf(byDistance, 100, pattern(h).Slash)
		}
		verdicts := x.byBlocks(64, p.Tail, func(h, a, b int) []verdict {
			keys := make([]verdict, b)
			switch pattern(h).Kind {
			case VerticalSlash:
				for j, c := range columns[h][:b] {
					markBlocks(keys, c, j, j+1)
				}
				for d, s := range distances[h] {
					markBlocks(keys, s, a-d, b-d)
				}
			case BlockSparse:
				var scores []float64
				for c := 0; c < a/64*64; c += 64 {
					scores = append(scores, math.Exp(x.score(x.meanQuery(h, a, b), x.meanKey(h, c, c+64))))
				}
				n := max(pattern(h).Blocks-1, 0) // its own is one of them
				for c, s := range append(largest(scores, n, n), isKept) {
					markBlocks(keys, s, c*64, c*64+64)
				}
			}
			return keys
		})
		for h := range x.heads {
			for pos := x.first; pos < min(x.end-p.Tail, x.nk); pos++ {
				if pattern(h).Kind == AShape {
					verdicts[h*x.nq+pos-x.first] = aShapeOf(pos, pattern(h).Vertical, pattern(h).Slash)
				}
			}
		}
		return verdicts
	}
}

// flexDivergences returns √JSD(E, P) of every head.
func flexDivergences(x *exact) []float64 {
	var all []float64
	for h := range x.heads {
		last := max(x.nk-128, x.first)
		var estimate []float64
		truth := make([]float64, (x.nk+127)/128)
		for c := range truth {
			estimate = append(estimate, x.score(x.meanQuery(h, last, x.nk), x.meanKey(h, c*128, min(c*128+128, x.nk))))
		}
		estimate = shares(estimate)
		for pos := last; pos < x.nk; pos++ {
			for j, s := range x.shares(h, pos) {
				truth[j/128] += s / float64(x.nk-last)
			}
		}
		jsd := 0.0
		for c, e := range estimate {
			m := (e + truth[c]) / 2
			jsd += (e*math.Log(e/m) + truth[c]*math.Log(truth[c]/m)) / 2
		}
		all = append(all, math.Sqrt(jsd))
	}
	return all
}

func flexSets(p FlexPrefillParams) func(x *exact) sets {
	return func(x *exact) sets {
		blocks := (x.nk + 127) / 128
		columns, distances, cover := make([][]verdict, x.heads), make([][]verdict, x.heads), make([][]verdict, x.heads)
		for h, d := range flexDivergences(x) {
			if math.Abs(d-p.Tau) < 1e-3 {
				panic("too close to Tau: choose another")
			}
			aware := d < p.Tau
			last := max(x.nk-128, x.first)
			column, distance := make([]float64, x.nk), make([]float64, x.nk)
			for pos := last; pos < x.nk; pos++ {
				for j, s := range x.shares(h, pos) {
					column[j] += s
					distance[pos-j] += s
				}
			}
			keep := func(single []float64) []verdict {
				lo, hi := 0, 0
				if !aware {
					lo, hi = fewest(single, p.Gamma*float64(x.nk-last))
					lo, hi = lo/128+1, hi/128+1
				}
				budget := (p.MinBudget + 127) / 128
				lo, hi = max(lo, budget, 1), max(hi, budget, 1)
				sums := make([]float64, blocks)
				for i, s := range single {
					sums[i/128] += s
				}
				return append([]verdict{isKept}, largest(sums[1:], lo-1, hi-1)...)
			}
			columns[h], distances[h] = keep(column), keep(distance)
			if !aware {
				continue
			}
			var flat []float64
			rows := 0
			for b := x.first / 128; b < blocks; b++ {
				var scores []float64
				for c := 0; c <= b; c++ {
					q := x.meanQuery(h, max(b*128, x.first), min(b*128+128, x.nk))
					scores = append(scores, x.score(q, x.meanKey(h, c*128, min(c*128+128, x.nk))))
				}
				flat = append(flat, shares(scores)...)
				rows++
			}
			lo, hi := fewest(flat, p.Gamma*float64(rows))
			cover[h] = largest(flat, lo, hi)
		}
		return x.byBlocks(128, p.Tail, func(h, from, to int) []verdict {
			keys := make([]verdict, to)
			own, at := from/128, 0
			for b := x.first / 128; b < own; b++ {
				at += b + 1
			}
			for c := range own + 1 {
				markBlocks(keys, columns[h][c], c*128, c*128+128)
				markBlocks(keys, distances[h][own-c], c*128, c*128+128)
				if cover[h] != nil {
					markBlocks(keys, cover[h][at+c], c*128, c*128+128)
				}
			}
			return keys
		})
	}
}

func xattentionSets(p XAttentionParams) func(x *exact) sets {
	return func(x *exact) sets {
		s := p.Stride
		return x.byBlocks(128, p.Tail, func(h, from, to int) []verdict {
			own := from / 128
			sums := make([]float64, own+1)
			for i := from / s; i <= (to-1)/s; i++ {
				scores := make([]float64, i+1)
				for j := range scores {
					for d := range s {
						// Rows of the call that are not of the tail, and keys up to the last of them.
						if row, key := i*s+s-1-d, j*s+d; row >= from && row < to && key < to {
							scores[j] += x.logit(h, row-x.first, key) / float64(s)
						}
					}
				}
				for j, y := range shares(scores) {
					sums[j*s/128] += y
				}
			}
			keys := make([]verdict, to)
			markBlocks(keys, isKept, 0, 128)
			markBlocks(keys, isKept, own*128, to)
			if own < 2 {
				return keys
			}
			mass := -sums[0] - sums[own]
			for _, y := range sums {
				mass += p.Threshold * y
			}
			others := sums[1:own]
			lo, hi := fewest(others, mass)
			for c, v := range largest(others, lo, hi) {
				markBlocks(keys, v, c*128+128, c*128+256)
			}
			return keys
		})
	}
}

func vecattentionSets(p VecAttentionParams) func(x *exact) sets {
	return func(x *exact) sets {
		return x.byBlocks(p.Rows, p.Tail, func(h, from, to int) []verdict {
			q := x.meanQuery(h, from, to)
			scores := make([]float64, to)
			for j := range scores {
				scores[j] = x.score(q, x.meanKey(h, j, j+1))
			}
			top := slices.Max(scores)
			keys := make([]verdict, to)
			for j, s := range scores {
				switch d := s + p.Gap - top; {
				case j < p.Init || j >= from/p.Rows*p.Rows-p.Local || d >= 1e-4:
					keys[j] = isKept
				case d > -1e-4:
					keys[j] = isNear
				}
			}
			return keys
		})
	}
}

// A method is a planner, what its formula says, and the same with its knob as far open as it goes.
type method struct {
	name    string
	planner Planner
	sets    func(x *exact) sets
	dense   Planner // with which every row sees every key
}

// flexTau divides the tests' heads in two kinds.
const flexTau = 0.12

// rivals are the planners of other methods, with budgets that suit some 1000 keys.
func rivals() []method {
	var all []method
	add := func(name string, planner Planner, sets func(x *exact) sets, dense Planner) {
		all = append(all, method{name, planner, sets, dense})
	}
	for _, s := range []StreamingParams{{50, 150, 70}, {0, 1, 0}, {1, 64, 3}} {
		add(fmt.Sprintf("streaming %d %d", s.Sink, s.Window), StreamingLLM(s), streamingSets(s), StreamingLLM(StreamingParams{Window: 1 << 29}))
	}
	for name, c := range map[string][2]Pattern{
		"vertical-slash": {{Kind: VerticalSlash, Vertical: 60, Slash: 180}, {Kind: VerticalSlash, Slash: 1 << 29}},
		"columns":        {{Kind: VerticalSlash, Vertical: 200}, {Kind: VerticalSlash, Vertical: 1 << 29}},
		"block-sparse":   {{Kind: BlockSparse, Blocks: 4}, {Kind: BlockSparse, Blocks: 1 << 29}},
		"a-shape":        {{Kind: AShape, Vertical: 33, Slash: 65}, {Kind: AShape, Vertical: 0, Slash: 1 << 29}},
	} {
		p, open := MInferenceParams{Pattern: c[0], Tail: 70}, MInferenceParams{Pattern: c[1]}
		add("minference "+name, MInference(p), minferenceSets(p), MInference(open))
	}
	mixed := MInferenceParams{Pattern: Pattern{Kind: AShape, Slash: 1}, Tail: 9, Heads: []Pattern{
		{Kind: BlockSparse, Blocks: 3}, {Kind: VerticalSlash, Vertical: 40, Slash: 120}, {Kind: AShape, Vertical: 10, Slash: 99}, {Kind: VerticalSlash, Vertical: 31, Slash: 101},
	}}
	add("minference by head", MInference(mixed), minferenceSets(mixed), nil)
	for name, c := range map[string][2]FlexPrefillParams{
		"vertical-slash": {{0.5, 0, 0, 70}, {1, 0, 0, 0}},
		"query-aware":    {{0.6, 9, 0, 70}, {1, 9, 0, 0}},
		"either":         {{0.7, flexTau, 130, 70}, {0, flexTau, 1 << 29, 0}},
	} {
		add("flexprefill "+name, FlexPrefill(c[0]), flexSets(c[0]), FlexPrefill(c[1]))
	}
	for _, p := range []XAttentionParams{{8, 0.6, 70}, {16, 0.5, 70}, {8, 0.3, 5}} {
		add(fmt.Sprintf("xattention %d %g", p.Stride, p.Threshold), XAttention(p), xattentionSets(p), XAttention(XAttentionParams{p.Stride, 1, 0}))
	}
	for _, p := range []VecAttentionParams{{128, 1.5, 10, 40, 70}, {64, 1, 0, 0, 70}, {48, 2, 300, 30, 0}} {
		open := p
		open.Gap = math.Inf(1)
		add(fmt.Sprintf("vecattention %d", p.Rows), VecAttention(p), vecattentionSets(p), VecAttention(open))
	}
	return all
}

// methods are all methods that choose keys: see also refinements_test.go and oracle_test.go.
func methods() []method {
	return slices.Concat(rivals(), refined(), oracles())
}

// drifting returns a problem whose heads have favourite keys that drift, from flat to sharp.
func drifting(seed uint64, heads, kvHeads, nq, nk, dim int) *problem {
	r := rand.New(rand.NewPCG(seed, 77))
	p := newProblem(r, heads, kvHeads, nq, nk, dim)
	for h := range heads {
		a, b := normal(r, dim), normal(r, dim)
		strength := []float32{0.2, 1, 1.4, 2}[h%4]
		for row := range nq {
			along := float32(row) / float32(nq)
			for d := range dim {
				q := &p.q[(h*nq+row)*dim+d]
				*q = strength * (0.6**q + 0.9*(1-along)*a[d] + 0.9*along*b[d])
			}
		}
	}
	return p
}

// spiked makes every 13th query three times as long.
func (p *problem) spiked() *problem {
	for row := 5; row < p.heads*p.nq; row += 13 {
		for d := range p.dim {
			p.q[row*p.dim+d] *= 3
		}
	}
	return p
}

// truncate makes every number of the problem a bfloat16.
func (p *problem) truncate() *problem {
	for _, x := range [][]float32{p.q, p.k, p.v} {
		for i := range x {
			x[i] = math.Float32frombits(math.Float32bits(x[i]) &^ 0xffff)
		}
	}
	return p
}

// follow runs the operator and returns how often each row met each key, as the trace has it: [head·nq + row][key].
func follow(t *testing.T, set *kernel.Set, opt Options, p *problem, s Sequence) (met [][]byte, o, lse []float32, res *Result) {
	t.Helper()
	first := p.nk - p.nq
	for range p.heads {
		for row := range p.nq {
			met = append(met, make([]byte, first+row+1))
		}
	}
	opt.Scale = p.scale
	opt.Trace = func(tr Trace) { expand(tr, func(pos, j int) { met[tr.Head*p.nq+pos-first][j]++ }) }
	os, lses, res := mustAttend(t, set, opt, s)
	return met, os[0], lses[0], res
}

// expand calls f for every row and key of a trace.
func expand(tr Trace, f func(pos, j int)) {
	for pos := tr.Rows.From; pos < tr.Rows.To; pos++ {
		for _, s := range tr.Keys.Spans {
			for j := s.From; j < min(s.To, pos+1); j++ {
				f(pos, j)
			}
		}
		for _, b := range tr.Keys.Bands {
			for j := max(pos-b.Far, b.From, 0); j <= pos-b.Near; j++ {
				f(pos, j)
			}
		}
		for _, j := range tr.Keys.Stripes {
			f(pos, int(j))
		}
	}
}

// over computes attention to the keys met, plainly.
func (x *exact) over(met [][]byte) (o, lse []float64) {
	if x.met != nil && slices.EqualFunc(x.met, met, bytes.Equal) {
		return x.o, x.lse
	}
	defer func() { x.met, x.o, x.lse = met, o, lse }()
	o = make([]float64, len(met)*x.dim)
	for i, keys := range met {
		h := i / x.nq
		top, sum := math.Inf(-1), 0.0
		for j, n := range keys {
			if n > 0 {
				top = max(top, x.logits[i][j])
			}
		}
		out := o[i*x.dim : (i+1)*x.dim]
		for j, n := range keys {
			if n == 0 {
				continue
			}
			w := math.Exp(x.logits[i][j] - top)
			sum += w
			for d, v := range x.v[(h*x.kvHeads/x.heads*x.nk+j)*x.dim:][:x.dim] {
				out[d] += w * float64(v)
			}
		}
		for d := range out {
			out[d] /= sum
		}
		lse = append(lse, top+math.Log(sum))
	}
	return o, lse
}

// insist compares the keys met with the formula's verdicts, and returns the share of pairs that is not insisted on.
func (x *exact) insist(t *testing.T, met [][]byte, want sets) (near float64) {
	t.Helper()
	pairs, skipped, wrong := 0, 0, 0
	for i, keys := range met {
		for j, n := range keys {
			pairs++
			v := want[i][j]
			if v == isNear {
				skipped++
			}
			if n > 1 || v != isNear && n != byte(v) {
				if wrong++; wrong <= 3 {
					t.Errorf("head %d, position %d meets key %d %d times; the formula says %d", i/x.nq, x.first+i%x.nq, j, n, v)
				}
			}
		}
	}
	if wrong > 3 {
		t.Errorf("%d of %d pairs are wrong", wrong, pairs)
	}
	return float64(skipped) / float64(pairs)
}

// ends are the slowest and the fastest level of kernels.
func ends() []*kernel.Set {
	all := kernel.Levels()
	if raceEnabled || len(all) == 1 {
		return all[len(all)-1:]
	}
	return []*kernel.Set{all[0], all[len(all)-1]}
}

// Each method attends to exactly the keys that its formula gives, each once, and computes exact attention to them.
func TestMethods(t *testing.T) {
	t.Parallel()
	scale := float32(-0.2)
	whole := drifting(1, 4, 2, 400, 400, 16).spiked()
	chunk := drifting(2, 4, 2, 150, 1333, 16).spiked().truncate() // from position 1183 on, inside every block
	middle := drifting(3, 4, 2, 180, 801, 16).spiked().truncate() // the tail begins inside the call, and inside blocks
	middle.prompt, middle.scale = 810, &scale
	early := drifting(6, 4, 2, 60, 400, 16).spiked().truncate() // none of the rows is of the tail
	early.prompt = 900
	slowest, fastest := ends()[0], ends()[len(ends())-1]
	type run struct {
		set   *kernel.Set
		dtype DType
	}
	for _, c := range []struct {
		*problem
		short bool
		runs  []run
	}{
		{middle, true, []run{{slowest, Float32}, {fastest, BFloat16}, {fastest, Float32}}},
		{early, true, []run{{slowest, BFloat16}}},
		{whole, false, []run{{fastest, Float32}}},
		{chunk, false, []run{{fastest, BFloat16}}},
	} {
		if testing.Short() && !c.short {
			continue
		}
		if testing.Short() && len(c.runs) > 2 {
			c.runs = c.runs[:2]
		}
		x := newExact(c.problem)
		for _, m := range methods() {
			want := m.sets(x)
			for _, r := range c.runs {
				t.Run(fmt.Sprintf("%s/%d of %d/%s/%s", m.name, c.nq, c.nk, r.set.Name(), r.dtype), func(t *testing.T) {
					met, o, lse, res := follow(t, r.set, Options{Planner: m.planner}, c.problem, c.as(r.dtype))
					if near := x.insist(t, met, want); near > 0.02 {
						t.Errorf("%.3f of all pairs hang on rounding: choose another seed", near)
					}
					byHead := make([]int64, c.heads)
					for i, keys := range met {
						for _, n := range keys {
							byHead[i/c.nq] += int64(n)
						}
					}
					for h, n := range byHead {
						if res.Heads[h].Pairs != n {
							t.Errorf("head %d has %d pairs; the trace %d", h, res.Heads[h].Pairs, n)
						}
					}
					wantO, wantLSE := x.over(met)
					if r.set.Pairs() && r.dtype == BFloat16 {
						if d := relative(o, wantO); !(d < 1e-2) {
							t.Errorf("o differs by %g of its size", d)
						}
					} else if d := differ(o, wantO); !(d < 2e-5) {
						t.Errorf("o differs by %g", d)
					}
					if d := differ(lse, wantLSE); !(d < 2e-5) {
						t.Errorf("lse differs by %g", d)
					}
				})
			}
		}
	}
}

// FlexPrefill's heads are query-aware where their divergence is below τ, and the results say which.
func TestFlexPrefillBranches(t *testing.T) {
	p := drifting(3, 4, 2, 200, 768, 16)
	divergences := flexDivergences(newExact(p))
	for _, c := range []struct {
		tau    float64
		chosen int // of the two branches
	}{{0, 1}, {flexTau, 2}, {9, 1}} {
		_, _, _, res := follow(t, ends()[0], Options{Planner: FlexPrefill(FlexPrefillParams{Gamma: 0.5, Tau: c.tau})}, p, p.sequence())
		chosen := map[string]bool{}
		for h, d := range divergences {
			want := "vertical-slash"
			if d < c.tau {
				want = "query-aware"
			}
			if chosen[want] = true; res.Heads[h].Choice != want {
				t.Errorf("τ %g: head %d, whose divergence is %g, is %s; want %s", c.tau, h, d, res.Heads[h].Choice, want)
			}
		}
		if len(chosen) != c.chosen {
			t.Errorf("τ %g, divergences %g: choose another", c.tau, divergences)
		}
	}
}

// What the trace tells is what outputs are made of: with values that are the columns of an identity, an output is positive
// just where its key was attended.
func TestTraceByOutputs(t *testing.T) {
	t.Parallel()
	const nk, dim = 250, 256
	p := drifting(4, 2, 1, 180, nk, dim).truncate()
	clear(p.v)
	for j := range nk {
		p.v[j*dim+j] = 1
	}
	for i := range p.q {
		p.q[i] /= 8 // every weight a number that single precision can tell from zero
	}
	p.truncate()
	for _, m := range methods() {
		if m.dense == nil {
			continue // has tables for four heads
		}
		for i, set := range ends() {
			if testing.Short() && i == 0 {
				continue
			}
			for _, dtype := range inputs(set) {
				met, o, _, _ := follow(t, set, Options{Planner: m.planner}, p, p.as(dtype))
				wrong := 0
				for i, keys := range met {
					for j := range dim {
						attended := j < len(keys) && keys[j] == 1
						if j < len(keys) && keys[j] > 1 || attended != (o[i*dim+j] > 0) {
							wrong++
						}
					}
				}
				if wrong > 0 {
					t.Errorf("%s, %s, %s: trace and outputs tell differently of %d pairs", m.name, set.Name(), dtype, wrong)
				}
			}
		}
	}
}

// What holds for every method: each row sees its own key, tail rows all, the knob fully open is dense, threads make no
// difference, and grouped heads equal repeated ones. A prompt cut where groups begin sees the same keys, unless the method looks at
// the last queries of the call.
func TestMethodLaws(t *testing.T) {
	t.Parallel()
	const nq, nk, dim = 120, 470, 16
	const cut = 384 // the border of blocks of many sizes
	p := drifting(6, 4, 2, nq, nk, dim).truncate()
	whole := Shape{Heads: 4, KVHeads: 2, Dim: dim, Queries: nq, Keys: nk, Prompt: nk}
	repeated := *p
	repeated.kvHeads, repeated.k, repeated.v = 4, nil, nil
	for h := range 4 {
		repeated.k = append(repeated.k, p.k[h/2*nk*dim:(h/2+1)*nk*dim]...)
		repeated.v = append(repeated.v, p.v[h/2*nk*dim:(h/2+1)*nk*dim]...)
	}
	for _, m := range methods() {
		tail := int(reflect.ValueOf(m.planner).FieldByName("Tail").Int())
		t.Run(m.name, func(t *testing.T) {
			sets := ends()
			if testing.Short() {
				sets = sets[len(sets)-1:]
			}
			for _, set := range sets {
				for _, dtype := range inputs(set) {
					met, o, lse, _ := follow(t, set, Options{Planner: m.planner, Threads: 1}, p, p.as(dtype))
					for i, keys := range met {
						pos := nk - nq + i%nq
						if keys[pos] != 1 {
							t.Fatalf("%s: head %d, position %d does not see its own key", set.Name(), i/nq, pos)
						}
						if pos >= nk-tail && slices.Contains(keys, 0) {
							t.Fatalf("%s: head %d, position %d of the tail does not see every key", set.Name(), i/nq, pos)
						}
					}
					again, o3, lse3, _ := follow(t, set, Options{Planner: m.planner, Threads: 3}, p, p.as(dtype))
					if !slices.Equal(bitsOf(o, lse), bitsOf(o3, lse3)) || !reflect.DeepEqual(met, again) {
						t.Errorf("%s: three threads give another result than one", set.Name())
					}
					alone, oa, lsea, _ := follow(t, set, Options{Planner: m.planner}, &repeated, repeated.as(dtype))
					if !reflect.DeepEqual(met, alone) {
						t.Errorf("%s: repeated heads see other keys", set.Name())
					}
					if m.planner.Name() == "streaming" { // cuts the rows by how many heads share keys: equal but for rounding
						if d := max(maxDiff(o, oa), maxDiff(lse, lsea)); d > 1e-6 && dtype == Float32 {
							t.Errorf("%s: repeated heads give another result, by %g", set.Name(), d)
						}
					} else if !slices.Equal(bitsOf(o, lse), bitsOf(oa, lsea)) {
						t.Errorf("%s: repeated heads give another result, by %g", set.Name(), maxDiff(o, oa))
					}
					if _, looks := m.planner.(surveyor); !looks && slices.ContainsFunc(m.planner.Cut(whole), func(r Rows) bool { return r.From == cut }) {
						for _, rows := range [][2]int{{0, cut - nk + nq}, {cut - nk + nq, nq}} {
							c := p.rows(rows[0], rows[1])
							chunk, _, _, _ := follow(t, set, Options{Planner: m.planner}, c, c.as(dtype))
							for i, keys := range chunk {
								if !bytes.Equal(keys, met[i/c.nq*nq+rows[0]+i%c.nq]) {
									t.Fatalf("%s: a chunk that begins or ends at %d gives head %d, position %d other keys", set.Name(), cut, i/c.nq, nk-nq+rows[0]+i%c.nq)
								}
							}
						}
					}
					if m.dense != nil {
						met, _, _, res := follow(t, set, Options{Planner: m.dense}, p, p.as(dtype))
						if res.Pairs != res.CausalPairs || slices.ContainsFunc(met, func(keys []byte) bool { return slices.Contains(keys, 0) }) {
							t.Errorf("%s: fully open, density is %v", set.Name(), res.Density())
						}
					}
				}
			}
		})
	}
}

// starved are the methods with budgets of nothing. What they always keep is left.
func starved() []method {
	var all []method
	add := func(name string, p Planner) { all = append(all, method{name: name + " of nothing", planner: p}) }
	add("streaming", StreamingLLM(StreamingParams{Window: 1}))
	add("vertical-slash", MInference(MInferenceParams{Pattern: Pattern{Kind: VerticalSlash}}))
	add("block-sparse", MInference(MInferenceParams{Pattern: Pattern{Kind: BlockSparse}}))
	add("a-shape", MInference(MInferenceParams{Pattern: Pattern{Kind: AShape, Slash: 1}}))
	add("flexprefill", FlexPrefill(FlexPrefillParams{}))
	add("query-aware", FlexPrefill(FlexPrefillParams{Tau: math.Inf(1)}))
	add("xattention", XAttention(XAttentionParams{Stride: 128}))
	add("xattention by ones", XAttention(XAttentionParams{Stride: 1}))
	add("vecattention", VecAttention(VecAttentionParams{Rows: 1, Gap: math.Inf(-1)}))
	bare := Params{Block: 16, Step: 3, Theta: math.Inf(-1)}
	add("anchor", AnchorAttention(bare))
	add("auto", Auto(bare))
	for c := range choices {
		add(choices[c], Ablation(AblationParams{Params: bare, Choice: Choice(c)}))
	}
	bare.Theta, bare.MaxDensity, bare.Spikes, bare.Pool = 100, 1e-300, 16, 1
	add("max density", AnchorAttention(bare))
	add("max density, auto", Auto(bare))
	add("oracle", Oracle(OracleParams{Rows: 1}))
	add("oracle of groups", Oracle(OracleParams{Rows: 1 << 29}))
	return all
}

// Whatever the inputs, every method lets each row see its own key, and each key once; gives finite outputs, those of exact
// attention to the keys it says it attends to, for finite inputs; and spoils only the rows that see a number which is not.
func TestDegenerate(t *testing.T) {
	t.Parallel()
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	const nq, nk, dim = 80, 270, 8
	const at, row = 220, 40 // the key of heads 2 and 3, and the row of head 1, that are not finite
	scaled := func(x float32) func(p *problem) { return func(p *problem) { p.scale = &x } }
	key := func(x float32) func(p *problem) { return func(p *problem) { p.k[(nk+at)*dim+3] = x } }
	query := func(row int, x float32) func(p *problem) { return func(p *problem) { p.q[(nq+row)*dim+3] = x } }
	for i, c := range []struct {
		name   string
		nq, nk int
		spoil  func(p *problem)
		badKey bool
		badRow int // 0: none
	}{
		{"NaN key", nq, nk, key(nan), true, 0},
		{"one token", 1, 1, nil, false, 0},
		{"last query −Inf", nq, nk, query(nq-1, -inf), false, nq - 1},
		{"two tokens", 2, 2, nil, false, 0},
		{"huge key", nq, nk, func(p *problem) {
			for d := range dim {
				p.k[(nk+at)*dim+d] *= 1e4
			}
		}, false, 0},
		{"equal keys", nq, nk, func(p *problem) {
			for i := range p.k {
				p.k[i] = p.k[i%dim]
			}
		}, false, 0},
		{"zero queries", nq, nk, func(p *problem) { clear(p.q) }, false, 0},
		{"one row", 1, nk, nil, false, 0},
		{"zero scale", nq, nk, scaled(0), false, 0},
		{"negative scale", nq, nk, scaled(-3), false, 0},
		{"+Inf key", nq, nk, key(inf), true, 0},
		{"−Inf key", nq, nk, key(-inf), true, 0},
		{"NaN query", nq, nk, query(row, nan), false, row},
		{"+Inf query", nq, nk, query(row, inf), false, row},
		{"last query NaN", nq, nk, query(nq-1, nan), false, nq - 1},
	} {
		if testing.Short() && i%2 == 1 {
			continue
		}
		p := drifting(uint64(8+i), 4, 2, c.nq, c.nk, dim)
		if c.spoil != nil {
			c.spoil(p)
		}
		x := newExact(p.truncate())
		for _, m := range append(methods(), starved()...) {
			for _, set := range ends() {
				for _, dtype := range inputs(set) {
					t.Run(fmt.Sprintf("%s/%s/%s", c.name, m.name, set.Name()), func(t *testing.T) {
						met, o, lse, res := follow(t, set, Options{Planner: m.planner, AuditRows: 10}, p, p.as(dtype))
						for i, keys := range met {
							h, row := i/c.nq, i%c.nq
							if keys[len(keys)-1] != 1 || slices.Max(keys) > 1 {
								t.Fatalf("head %d, row %d meets its own key %d times, some key %d times", h, row, keys[len(keys)-1], slices.Max(keys))
							}
							if c.badKey && h >= 2 && len(keys) > at && keys[at] > 0 || c.badRow > 0 && h == 1 && row == c.badRow {
								continue
							}
							for _, y := range append(o[i*dim:(i+1)*dim:(i+1)*dim], lse[i]) {
								if y-y != 0 {
									t.Fatalf("head %d, row %d holds %v", h, row, y)
								}
							}
						}
						if c.badKey || c.badRow > 0 {
							return
						}
						if res.NonFiniteRows != 0 {
							t.Errorf("%d rows are not finite", res.NonFiniteRows)
						}
						want, _ := x.over(met)
						if d := relative(o, want); !(d < 1e-4 || dtype == BFloat16 && d < 1e-2) {
							t.Errorf("o differs by %g of its size", d)
						}
					})
				}
			}
		}
	}
}

// Parameters that are out of range are errors that name the field, its value and what is allowed.
func TestMethodErrors(t *testing.T) {
	nan := math.NaN()
	streaming := func(f func(p *StreamingParams)) Planner {
		p := DefaultStreamingParams()
		f(&p)
		return StreamingLLM(p)
	}
	minference := func(f func(p *MInferenceParams)) Planner {
		p := DefaultMInferenceParams()
		f(&p)
		return MInference(p)
	}
	flex := func(f func(p *FlexPrefillParams)) Planner {
		p := DefaultFlexPrefillParams()
		f(&p)
		return FlexPrefill(p)
	}
	xa := func(f func(p *XAttentionParams)) Planner {
		p := DefaultXAttentionParams()
		f(&p)
		return XAttention(p)
	}
	vec := func(f func(p *VecAttentionParams)) Planner {
		p := DefaultVecAttentionParams()
		f(&p)
		return VecAttention(p)
	}
	ablate := func(f func(p *AblationParams)) Planner {
		p := AblationParams{Params: DefaultParams()}
		f(&p)
		return Ablation(p)
	}
	anchored := func(f func(p *Params)) Planner {
		p := DefaultParams()
		f(&p)
		return AnchorAttention(p)
	}
	oracle := func(f func(p *OracleParams)) Planner {
		p := DefaultOracleParams()
		f(&p)
		return Oracle(p)
	}
	const most = maxPosition + 1
	for _, c := range []struct {
		planner Planner
		want    string // words that the error holds
	}{
		{streaming(func(p *StreamingParams) { p.Sink = -1 }), "StreamingParams.Sink|-1|0 …"},
		{streaming(func(p *StreamingParams) { p.Sink = most }), "StreamingParams.Sink|536870913|… 536870912"},
		{streaming(func(p *StreamingParams) { p.Window = 0 }), "StreamingParams.Window|is 0|1 …"},
		{streaming(func(p *StreamingParams) { p.Tail = -2 }), "StreamingParams.Tail|-2|0 …"},
		{minference(func(p *MInferenceParams) { p.Pattern.Kind = "slant" }), "Pattern.Kind|\"slant\"|vertical_and_slash|block_sparse|stream_llm"},
		{minference(func(p *MInferenceParams) { p.Pattern.Vertical = -3 }), "Pattern.Vertical|-3|0 …"},
		{minference(func(p *MInferenceParams) { p.Pattern.Slash = most }), "Pattern.Slash|536870913"},
		{minference(func(p *MInferenceParams) { p.Pattern = Pattern{Kind: AShape} }), "Pattern.Slash|is 0|1 …"},
		{minference(func(p *MInferenceParams) { p.Pattern = Pattern{Kind: BlockSparse, Blocks: -1} }), "Pattern.Blocks|-1|0 …"},
		{minference(func(p *MInferenceParams) { p.Heads = []Pattern{p.Pattern, {Kind: AShape}} }), "Heads[1].Slash|is 0|1 …"},
		{minference(func(p *MInferenceParams) { p.Heads = []Pattern{p.Pattern} }), "MInferenceParams.Heads|1 patterns|4 heads"},
		{minference(func(p *MInferenceParams) { p.Tail = -1 }), "MInferenceParams.Tail|-1|0 …"},
		{flex(func(p *FlexPrefillParams) { p.Gamma = 1.5 }), "FlexPrefillParams.Gamma|1.5|0 … 1"},
		{flex(func(p *FlexPrefillParams) { p.Gamma = nan }), "FlexPrefillParams.Gamma|NaN|0 … 1"},
		{flex(func(p *FlexPrefillParams) { p.Tau = -0.1 }), "FlexPrefillParams.Tau|-0.1|≥ 0"},
		{flex(func(p *FlexPrefillParams) { p.Tau = nan }), "FlexPrefillParams.Tau|NaN|≥ 0"},
		{flex(func(p *FlexPrefillParams) { p.MinBudget = -1 }), "FlexPrefillParams.MinBudget|-1|0 …"},
		{flex(func(p *FlexPrefillParams) { p.Tail = most }), "FlexPrefillParams.Tail|536870913"},
		{xa(func(p *XAttentionParams) { p.Stride = 0 }), "XAttentionParams.Stride|is 0|divisor of 128"},
		{xa(func(p *XAttentionParams) { p.Stride = 12 }), "XAttentionParams.Stride|12|divisor of 128"},
		{xa(func(p *XAttentionParams) { p.Stride = 256 }), "XAttentionParams.Stride|256|divisor of 128"},
		{xa(func(p *XAttentionParams) { p.Threshold = -1 }), "XAttentionParams.Threshold|-1|0 … 1"},
		{xa(func(p *XAttentionParams) { p.Threshold = nan }), "XAttentionParams.Threshold|NaN|0 … 1"},
		{xa(func(p *XAttentionParams) { p.Tail = -1 }), "XAttentionParams.Tail|-1|0 …"},
		{vec(func(p *VecAttentionParams) { p.Rows = 0 }), "VecAttentionParams.Rows|is 0|1 …"},
		{vec(func(p *VecAttentionParams) { p.Gap = nan }), "VecAttentionParams.Gap|NaN|±Inf"},
		{vec(func(p *VecAttentionParams) { p.Init = -1 }), "VecAttentionParams.Init|-1|0 …"},
		{vec(func(p *VecAttentionParams) { p.Local = -1 }), "VecAttentionParams.Local|-1|0 …"},
		{vec(func(p *VecAttentionParams) { p.Tail = -1 }), "VecAttentionParams.Tail|-1|0 …"},
		{ablate(func(p *AblationParams) { p.Choice = 4 }), "AblationParams.Choice|4|0 … 3"},
		{ablate(func(p *AblationParams) { p.Choice = -1 }), "AblationParams.Choice|-1|0 … 3"},
		{ablate(func(p *AblationParams) { p.Choice, p.Mass = ByMass, 1.01 }), "AblationParams.Mass|1.01|0 … 1"},
		{ablate(func(p *AblationParams) { p.Choice, p.Mass = ByMass, nan }), "AblationParams.Mass|NaN|0 … 1"},
		{ablate(func(p *AblationParams) { p.Choice, p.Keys = ByCount, -1 }), "AblationParams.Keys|-1|0 …"},
		{ablate(func(p *AblationParams) { p.Theta = nan }), "Params.Theta|NaN|±Inf"},
		{ablate(func(p *AblationParams) { p.HeadTheta = Thetas{1} }), "Params.HeadTheta|1 numbers|4 heads"},
		{anchored(func(p *Params) { p.Pool = 48 }), "Params.Pool|48|divisor of Block, 128"},
		{anchored(func(p *Params) { p.Pool = -1 }), "Params.Pool|-1|divisor of Block, 128"},
		{anchored(func(p *Params) { p.Pool = 256 }), "Params.Pool|256|divisor of Block, 128"},
		{anchored(func(p *Params) { p.Spikes = -1 }), "Params.Spikes|-1|0 … Block, 128"},
		{anchored(func(p *Params) { p.Spikes = 129 }), "Params.Spikes|129|0 … Block, 128"},
		{anchored(func(p *Params) { p.MaxDensity = -0.5 }), "Params.MaxDensity|-0.5|0 (no bound) … 1"},
		{anchored(func(p *Params) { p.MaxDensity = 1.5 }), "Params.MaxDensity|1.5|0 (no bound) … 1"},
		{anchored(func(p *Params) { p.MaxDensity = nan }), "Params.MaxDensity|NaN|… 1"},
		{anchored(func(p *Params) { p.HeadTheta = Thetas{1, nan, 2, 3} }), "Params.HeadTheta[1]|NaN|±Inf"},
		{anchored(func(p *Params) { p.HeadTheta = Thetas{1, 2, 3} }), "Params.HeadTheta|3 numbers|4 heads"},
		{oracle(func(p *OracleParams) { p.Rows = 0 }), "OracleParams.Rows|is 0|1 …"},
		{oracle(func(p *OracleParams) { p.Mass = 2 }), "OracleParams.Mass|2|0 … 1"},
		{oracle(func(p *OracleParams) { p.Mass = nan }), "OracleParams.Mass|NaN|0 … 1"},
		{oracle(func(p *OracleParams) { p.Tail = -1 }), "OracleParams.Tail|-1|0 …"},
	} {
		p := newProblem(rand.New(rand.NewPCG(1, 1)), 4, 2, 3, 5, 8)
		_, err := Attend(t.Context(), Options{Planner: c.planner}, p.sequence())
		for _, w := range strings.Split(c.want, "|") {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("%s: error %v does not say %q", c.want, err, w)
			}
		}
	}
	for _, p := range []Planner{
		StreamingLLM(DefaultStreamingParams()), MInference(DefaultMInferenceParams()), FlexPrefill(DefaultFlexPrefillParams()),
		XAttention(DefaultXAttentionParams()), VecAttention(DefaultVecAttentionParams()), Oracle(DefaultOracleParams()),
	} {
		if err := p.Validate(); err != nil {
			t.Errorf("defaults: %v", err)
		}
	}
}

// MInference's files of patterns are read as they lie, by layer and head.
func TestReadPatterns(t *testing.T) {
	f, err := os.Open("testdata/minference/patterns.json")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	got, err := ReadPatterns(f)
	if err != nil {
		t.Fatal(err)
	}
	want := [][]Pattern{
		{{VerticalSlash, 1000, 6096, 100}, {AShape, 1024, 4096, 100}, {BlockSparse, 100, 100, 100}},
		{{VerticalSlash, 30, 800, 100}, {VerticalSlash, 0, 0, 100}, {AShape, 0, 1, 100}},
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	for text, want := range map[string]string{
		``:                                         "EOF",
		`{}`:                                       "object",
		`[{"0": ["vertical_and_slash", 1, 2]}`:     "EOF",
		`[{"1": ["vertical_and_slash", 1, 2]}]`:    `layer 0 has head "1"; want 0 … 0`,
		`[{}, {"x": ["stream_llm", 1, 2]}]`:        `layer 1 has head "x"`,
		`[{"-1": ["stream_llm", 1, 2]}]`:           `head "-1"`,
		`[{"-0": ["stream_llm", 1, 2]}]`:           `head "-0"`,
		`[{"00": ["stream_llm", 1, 2]}]`:           `head "00"`,
		`[{"0": ["vertical_and_slash", 1]}]`:       "layer 0, head 0: 2 fields",
		`[{"0": ["diagonal", 1, 2]}]`:              `Kind is "diagonal"; want "vertical_and_slash"`,
		`[{"0": [7, 1, 2]}]`:                       "field 0 is 7",
		`[{"0": ["vertical_and_slash", "1", 2]}]`:  `field 1 is "1"`,
		`[{"0": ["vertical_and_slash", 1, 2.5]}]`:  "field 2 is 2.5",
		`[{"0": ["vertical_and_slash", -1, 2]}]`:   "Vertical is -1; want 0 …",
		`[{"0": ["stream_llm", 1, 0]}]`:            "Slash is 0; want 1 …",
		`[{"0": "vertical_and_slash"}]`:            "cannot unmarshal",
		`[{"0": ["vertical_and_slash", 1, 1e30]}]`: "field 2 is 1e30",
	} {
		if got, err := ReadPatterns(strings.NewReader(text)); err == nil || got != nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s gives %v, %v; want an error that says %s", text, got, err, want)
		}
	}
}

// Patterns read from anything are an error or such as validate, and never panic.
func FuzzReadPatterns(f *testing.F) {
	f.Add(`[{"0": ["vertical_and_slash", 1000, 6096, 0.98], "1": ["stream_llm", 4, 8, 1]}, {"0": ["block_sparse", 0, 0, 1]}]`)
	f.Add(`[null, {"0": null}]`)
	f.Fuzz(func(t *testing.T, text string) {
		layers, err := ReadPatterns(strings.NewReader(text))
		if err != nil {
			return
		}
		for _, heads := range layers {
			p := DefaultMInferenceParams()
			p.Heads = heads
			if err := MInference(p).Validate(); err != nil {
				t.Fatalf("%s: %v", text, err)
			}
		}
	})
}
