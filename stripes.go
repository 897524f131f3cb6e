package anchor

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// AnchorAttention returns the planner of AnchorAttention: see [Params].
func AnchorAttention(p Params) Planner { return &anchorAttention{Params: p} }

// Auto returns the planner that is AnchorAttention where stripes pay, and dense where they do not: a head of a group
// attends to all candidates when those that would be kept are so many that gathering them takes as long, by
// [Options].Costs. Candidates are first sampled, so that a flat head costs next to no search. The choice depends on the
// inputs alone, never on a clock; [HeadResult] tells how often it was made. An [Engine] chooses by its own costs.
func Auto(p Params) Planner { return &anchorAttention{Params: p, auto: true} }

// It is used by reference: copies of the parameters in every frame would make the stacks of new goroutines grow once more
// than dense attention does, which short prompts notice.
type anchorAttention struct {
	Params
	auto bool
	name string // unless it is anchor or auto
}

func (a *anchorAttention) Name() string {
	if a.auto {
		return "auto"
	}
	return cmp.Or(a.name, "anchor")
}

func (a *anchorAttention) validateFor(s Shape) error {
	if n := len(a.HeadTheta); n != 0 && n != s.Heads {
		return fmt.Errorf("Params.HeadTheta has %d numbers; want one for each of the %d heads, or none", n, s.Heads)
	}
	return nil
}

// window returns the keys before the group at position start that every row sees: [0, init) and [local, start).
// Between the two lie the candidates, if any.
func (p *Params) window(start int) (init, local int) {
	local = max(start-p.Local, 0)
	return min(p.Init, local), local
}

// tail returns the first position whose row sees every key, when the last rows, so many of them, do.
func (s Shape) tail(rows int) int { return max(s.Prompt-rows, 0) }

func (a *anchorAttention) Cut(s Shape) []Rows { return a.cut(s) }

// cut cuts the rows into groups and the dense tail.
func (p *Params) cut(s Shape) []Rows {
	var rows []Rows
	for from := s.First(); from < s.Keys; {
		start := from - from%p.group()
		end := min(start+p.group(), s.Keys)
		sparse := min(end, max(s.tail(p.Tail), from))
		if init, local := p.window(start); init == local { // the window is all there is
			sparse = from
		} else if sparse > from {
			rows = append(rows, Rows{From: from, To: sparse, PerHead: true})
		}
		rows = cutDense(rows, s, sparse, end)
		from = end
	}
	return rows
}

// attendWindow attends to the window of the group, or to all keys if it is one of the tail, and returns the candidates, if
// there are any.
func (p *Params) attendWindow(g *Group) (candidates Span, any bool) {
	init, local := p.window(g.From - g.From%p.group())
	if g.From >= g.tail(p.Tail) {
		g.Attend(StageDense, KeySet{Spans: []Span{{0, g.To}}})
		return Span{}, false
	}
	if init == local { // in one span, so that sums run as those of dense attention
		g.Attend(StageWindow, KeySet{Spans: []Span{{0, g.To}}})
		return Span{}, false
	}
	g.Attend(StageWindow, KeySet{Spans: []Span{{0, init}, {local, g.To}}})
	return Span{init, local}, true
}

// probe returns the probe of the group's blocks, which are made of the parts that Pool and Spikes say.
func (p *Params) probe(g *Group) *probe {
	s := g.probe(func(head int) []Span {
		var parts []Span
		for from := g.From; from < g.To; {
			block := Span{from, min(from-from%p.Block+p.Block, g.To)}
			var spikes []int
			size := p.Block
			if p.Pool > 0 || p.Spikes > 0 {
				if spikes = g.spikes(head, block, max(p.Spikes, 1)); p.Pool > 0 && len(spikes) > 0 {
					size = p.Pool
				}
			}
			for from < block.To {
				to := min(from-from%size+size, block.To)
				parts = append(parts, Span{from, to})
				from = to
			}
			if p.Spikes > 0 {
				for _, at := range spikes {
					parts = append(parts, Span{at, at + 1})
				}
			}
		}
		return parts
	}, true)
	if p.Pool > 0 || p.Spikes > 0 {
		s.parts(p.Block)
	}
	return s
}

// spikes returns the positions of the n rows of a head whose queries lie furthest from the mean of rows, as far as they are
// outliers: see [Refinements].
func (g *Group) spikes(head int, rows Span, n int) []int {
	w := g.worker
	mean := grow(&w.mean, g.Dim)
	g.sumQueries(mean, head, rows)
	for d := range mean {
		mean[d] /= float32(rows.To - rows.From)
	}
	q, far := grow(&w.row, g.Dim), make([]float32, rows.To-rows.From)
	for i := range far {
		g.seq.Q.read(w.kernels, q, g.FirstHead+head, rows.From+i-g.First())
		var squares float32
		for d, x := range q {
			squares += (x - mean[d]) * (x - mean[d])
		}
		far[i] = float32(math.Sqrt(float64(squares)))
	}
	// Medians do not heed the outliers themselves. Ten median deviations are more than six standard ones of a normal distribution.
	const outlying = 10
	sorted := slices.Sorted(slices.Values(far))
	middle := (len(sorted) - 1) / 2
	median := sorted[middle]
	for i, x := range sorted {
		sorted[i] = float32(math.Abs(float64(x - median)))
	}
	slices.Sort(sorted)
	bound := median + outlying*sorted[middle]
	var at []int
	for _, i := range heaviest(far, min(n, len(far)-1), math.Inf(1), &w.ranked) {
		if far[i] > bound {
			at = append(at, rows.From+int(i))
		}
	}
	return at
}

// limit returns how many stripes a head of the group may have under MaxDensity.
func (p *Params) limit(g *Group, candidates Span) int {
	if p.MaxDensity == 0 {
		return candidates.To - candidates.From
	}
	all := causalPairs(g.From, g.To, Span{0, g.To})
	left := p.MaxDensity*float64(all) - float64(all-int64(candidates.To-candidates.From)*int64(g.To-g.From))
	return int(max(left, 0)) / (g.To - g.From)
}

func (a *anchorAttention) Plan(g *Group) {
	if candidates, any := a.attendWindow(g); any {
		a.attendFound(g, candidates)
	}
}

// attendFound searches the candidates and attends to what is found.
func (a *anchorAttention) attendFound(g *Group, candidates Span) {
	of, limit := candidates.To-candidates.From, a.limit(g, candidates)
	theta := func(head int) float64 { return a.theta(g.FirstHead + head) }
	dense := func(kept, of int) bool {
		return a.auto && limit >= of && g.worker.costs.contiguous(g.worker.inPairs, g.rows, kept, of)
	}
	s := a.probe(g)
	if a.auto {
		flat := true
		kept, sampled := s.sample(candidates, theta)
		for _, keys := range kept {
			flat = flat && dense(len(keys), sampled)
		}
		if flat {
			for h := range g.NumHeads {
				g.dense[h] = 1
			}
			g.Attend(StageSparse, KeySet{Spans: []Span{candidates}})
			return
		}
	}
	kept := s.search(candidates, theta)
	if slices.ContainsFunc(kept, func(keys []int32) bool { return len(keys) > limit }) {
		for h, near := range s.nearest(candidates) {
			if len(kept[h]) > limit {
				kept[h] = append(kept[h][:0], heaviest(near, limit, math.Inf(1), &g.worker.ranked)...)
				shift(kept[h], candidates.From)
			}
		}
	}
	for h, keys := range kept {
		if dense(len(keys), of) {
			g.dense[h] = 1
			g.AttendHead(StageSparse, h, KeySet{Spans: []Span{candidates}})
			continue
		}
		g.AttendHead(StageSparse, h, KeySet{Stripes: keys})
	}
}

// shift adds by to every key.
func shift(keys []int32, by int) {
	for i := range keys {
		keys[i] += int32(by)
	}
}
