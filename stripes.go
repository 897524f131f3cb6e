package anchor

import "math"

// AnchorAttention returns the planner of AnchorAttention: see [Params].
func AnchorAttention(p Params) Planner { return anchorAttention{p} }

type anchorAttention struct{ Params }

func (anchorAttention) Name() string { return "anchor" }

// window returns the keys before the group at position start that every row sees: [0, init) and [local, start).
// Between the two lie the candidates, if any.
func (a anchorAttention) window(start int) (init, local int) {
	local = max(start-a.Local, 0)
	return min(a.Init, local), local
}

// tail returns the first position whose row sees every key.
func (a anchorAttention) tail(s Shape) int { return max(s.Prompt-a.Tail, 0) }

func (a anchorAttention) Cut(s Shape) []Rows {
	var rows []Rows
	for from := s.First(); from < s.Keys; {
		start := from - from%a.group()
		end := min(start+a.group(), s.Keys)
		sparse := min(end, max(a.tail(s), from))
		if init, local := a.window(start); init == local { // the window is all there is
			sparse = from
		} else if sparse > from {
			rows = append(rows, Rows{From: from, To: sparse, PerHead: true})
		}
		rows = cutDense(rows, s, sparse, end)
		from = end
	}
	return rows
}

func (a anchorAttention) Plan(g *Group) {
	start := g.From - g.From%a.group()
	init, local := a.window(start)
	if g.From >= a.tail(g.Shape) {
		g.Attend(StageDense, KeySet{Spans: []Span{{0, g.To}}})
		return
	}
	g.Attend(StageWindow, KeySet{Spans: []Span{{0, init}, {local, g.To}}})
	if init == local {
		return
	}
	var blocks []Span
	for from := g.From; from < g.To; {
		to := min(from-from%a.Block+a.Block, g.To)
		blocks = append(blocks, Span{from, to})
		from = to
	}
	for h, keys := range g.Search(Span{init, local}, blocks, a.Theta) {
		g.AttendHead(StageSparse, h, KeySet{Stripes: keys})
	}
}

// Search scores the candidate keys against the group's rows and returns for each head those kept: ascending, and
// valid until the next call. A block, a span of positions inside the group, stands for its rows by the mean of their
// queries and the mean of their anchors, the largest logit each has attended to so far. A key is dropped when mean
// anchor − logit of the mean query > theta, in nats, for every block. There is at least one block.
func (g *Group) Search(candidates Span, blocks []Span, theta float64) [][]int32 {
	w := g.worker
	w.enter(StageSearch)
	heads, dim := g.NumHeads, g.Dim
	// Columns come in whole vectors; those left over repeat the first block, which changes nothing.
	columns := padded(len(blocks), lanes)
	width := heads * columns
	pool := grow(&w.pool, dim*width)
	anchors := grow(&w.anchors, width)
	mean := grow(&w.row, 2*dim)
	mean, row := mean[:dim], mean[dim:]
	for h := range heads {
		for c := range columns {
			b := blocks[0]
			if c < len(blocks) {
				b = blocks[c]
			}
			clear(mean)
			var anchor float64
			for p := b.From; p < b.To; p++ {
				g.seq.Q.read(row, g.FirstHead+h, p-g.First())
				w.kernels.Add(mean, row)
				anchor += float64(g.rowMax(h, p))
			}
			rows := float64(b.To - b.From)
			for d, x := range mean {
				pool[d*width+h*columns+c] = float32(float64(x) / rows * w.scale)
			}
			anchors[h*columns+c] = float32(anchor / rows)
		}
	}
	if cap(w.stripes) < heads {
		w.stripes = make([][]int32, heads)
	}
	kept := w.stripes[:heads]
	for h := range kept {
		kept[h] = kept[h][:0]
	}
	limit := float32(theta * math.Log2E)
	scores := grow(&w.scores, blockKeys*width)
	for j := candidates.From; j < candidates.To && !w.stopped(); {
		k, step, n := w.keys(g, j, min(candidates.To-j, blockKeys))
		w.kernels.Gemm(n, width, dim, k, step, 1, pool, width, scores, width, false)
		for h := range kept {
			c := h * columns
			kept[h] = w.kernels.Select(kept[h], int32(j), n, columns, scores[c:], width, anchors[c:], limit)
		}
		j += n
	}
	g.searched += int64(heads) * int64(len(blocks)) * int64(max(candidates.To-candidates.From, 0))
	return kept
}
