package anchor

import (
	"fmt"
	"math"
)

var inf = float32(math.Inf(1))

// A Group is a group of query rows, of query heads that share a KV head, in the middle of an online softmax. A
// planner's Plan receives it, attends to the keys it chooses, and must not keep it.
type Group struct {
	Shape
	Rows
	KVHead              int
	FirstHead, NumHeads int // the query heads [FirstHead, FirstHead+NumHeads); methods count heads from FirstHead

	// In the worker the rows stand head by head, each head's padded to whole tiles if the heads may go separate ways.
	seq    *Sequence
	worker *worker
	rows   int // of one head
	stride int // rows from one head to the next

	surveyed []any // of each head, what the planner's survey found

	searched int64
	pairs    []int64   // by head
	kept     []int64   // number of stripes, likewise
	dense    []int64   // 1 for heads that went dense, likewise
	stripes  [][]int32 // the stripes themselves, where they are wanted
	bad      []int64   // number of rows that are not finite, by head
	choice   []string  // see HeadResult.Choice
	trace    func(head int, keys KeySet)
}

// held returns how many rows the tile at row r holds: fewer than tileRows when the rest is padding.
func (g *Group) held(r int) int {
	if g.stride == g.rows { // heads follow one another without padding
		return min(g.worker.TileRows, g.NumHeads*g.rows-r)
	}
	return min(g.worker.TileRows, g.rows-r%g.stride)
}

// Attend continues the softmax of every row over the given keys. Time is accounted to the given stage, but for that
// of gathering stripes. Keys that break the rules of [KeySet] are a fault of the planner: Attend panics.
func (g *Group) Attend(stage Stage, keys KeySet) {
	g.attend(stage, keys, 0, len(g.worker.pos))
	for h := range g.NumHeads {
		g.count(h, keys)
	}
}

// AttendHead is Attend for the rows of one head, counted from FirstHead. Only groups cut PerHead allow it.
func (g *Group) AttendHead(stage Stage, head int, keys KeySet) {
	if !g.PerHead {
		panic("anchor: AttendHead on a group that was not cut PerHead")
	}
	g.attend(stage, keys, head*g.stride, (head+1)*g.stride)
	g.count(head, keys)
}

// attend continues the softmax of the worker's rows [from, to).
func (g *Group) attend(stage Stage, keys KeySet, from, to int) {
	w := g.worker
	w.enter(stage)
	for _, s := range keys.Spans {
		if s.From < 0 || s.To > g.Keys {
			panic(fmt.Sprintf("anchor: span [%d, %d) of %d keys", s.From, s.To, g.Keys))
		}
		w.attendRange(g, s.From, min(s.To, g.To), everywhere, true, from, to)
	}
	for _, b := range keys.Bands {
		if b.Near < 0 || b.Far < b.Near || b.From < 0 {
			panic(fmt.Sprintf("anchor: band from %d to %d keys away, from key %d; want 0 ≤ Near ≤ Far and From ≥ 0", b.Near, b.Far, b.From))
		}
		b.Near, b.Far = min(b.Near, maxPosition), min(b.Far, maxPosition)
		w.attendRange(g, max(g.From-b.Far, b.From), g.To-b.Near, b, true, from, to)
	}
	for i, j := range keys.Stripes {
		if j < 0 || int(j) >= g.From || i > 0 && j <= keys.Stripes[i-1] {
			panic(fmt.Sprintf("anchor: stripe %d at key %d; want them ascending from 0 and before %d", i, j, g.From))
		}
	}
	w.attendStripes(g, stage, keys.Stripes, from, to)
}

// count adds the keys to a head's account.
func (g *Group) count(head int, keys KeySet) {
	for _, s := range keys.Spans {
		g.pairs[head] += causalPairs(g.From, g.To, s)
	}
	for _, b := range keys.Bands {
		for p := g.From; p < g.To; p++ {
			g.pairs[head] += int64(max(p-b.Near-max(p-b.Far, b.From)+1, 0))
		}
	}
	g.pairs[head] += int64(len(keys.Stripes)) * int64(g.To-g.From)
	g.kept[head] += int64(len(keys.Stripes))
	if g.stripes != nil {
		g.stripes[head] = append(g.stripes[head], keys.Stripes...)
	}
	if g.trace != nil {
		g.trace(g.FirstHead+head, keys)
	}
}

// causalPairs counts the keys of s that the rows at positions [from, to) see, up to their own position.
func causalPairs(from, to int, s Span) int64 {
	// Row p sees min(s.To, p+1) − s.From of them, if positive.
	n := int64(0)
	if first, last := max(from, s.From), min(to, s.To); first < last {
		n += int64(last-first) * int64(first+last+1-2*s.From) / 2
	}
	if first := max(from, s.To); first < to && s.To > s.From {
		n += int64(to-first) * int64(s.To-s.From)
	}
	return n
}

// rowMax returns a row's largest logit so far, in powers of two, NaN when one of them is.
func (g *Group) rowMax(head, position int) float32 {
	w := g.worker
	i := head*g.stride + position - g.From
	if s := w.sum[i]; s != s && w.top[i] != inf {
		return float32(math.NaN())
	}
	return w.top[i]
}
