package anchor

import (
	"fmt"
	"math"
	"slices"
	"sync/atomic"
	"time"

	"github.com/anchorattention/anchor/internal/kernel"
)

const (
	lanes = kernel.Lanes
	// tileRows query rows meet blockKeys keys at a time: their scores and the rows' packed queries (24 KiB each at
	// dim 128) stay near the first-level cache while the keys and values (64 KiB each) stream from the second.
	// 48 rows are whole tiles of every level's matrix product.
	tileRows  = 48
	blockKeys = 128
	// slack is how far, in powers of two, scores may rise above the reference of the exponentials before sums
	// are rescaled to a new one. 2^8 leaves single precision all the room it needs.
	slack = 8
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

	searched int64
	pairs    []int64   // by head
	kept     []int64   // number of stripes, likewise
	stripes  [][]int32 // the stripes themselves, where they are wanted
}

// A worker is one goroutine's scratch memory, kept for later calls, and its account of time.
type worker struct {
	kernels *kernel.Set
	stop    *atomic.Bool
	scale   float64 // turns q·k into a logit in powers of two

	// Of the rows of the current group:
	pos  []int32   // absolute positions
	q    []float32 // queries, scaled, in tiles of [dim][tileRows]
	acc  []float32 // sums of weighted values, [rows][dim padded]
	top  []float32 // largest logit so far
	base []float32 // reference of the exponentials
	sum  []float32 // sum of the exponentials

	tile       []float32 // scores of a tile, [blockKeys][tileRows]
	part       []float32 // its columns' sums
	kbuf, vbuf []float32 // keys and values that do not lie as the kernels want them
	row        []float32
	pool       []float32
	anchors    []float32
	scores     []float32
	stripes    [][]int32

	stage Stage
	since time.Time
	spent [NumStages]time.Duration
}

// grow returns a slice of n elements of arbitrary content, kept at *buf for the next time.
func grow[T any](buf *[]T, n int) []T {
	if cap(*buf) < n {
		*buf = make([]T, n)
	}
	*buf = (*buf)[:n]
	return *buf
}

func padded(n, multiple int) int { return (n + multiple - 1) / multiple * multiple }

func (w *worker) stopped() bool { return w.stop.Load() }

// enter accounts the time since the last call to the stage that was current, and makes s current.
func (w *worker) enter(s Stage) {
	now := time.Now()
	w.spent[w.stage] += now.Sub(w.since)
	w.stage, w.since = s, now
}

// load prepares the worker for rows of g that stand at the given positions, the same ones for each head.
func (w *worker) load(g *Group, positions int, position func(i int) int) {
	heads, dim := g.NumHeads, g.Dim
	g.worker = w
	g.rows, g.stride = positions, positions
	if g.PerHead {
		g.stride = padded(positions, tileRows)
	}
	rows := padded((heads-1)*g.stride+positions, tileRows)
	pos := grow(&w.pos, rows)
	q := grow(&w.q, rows*dim)
	tile := grow(&w.row, tileRows*dim)
	for first := 0; first < rows; first += tileRows {
		for i := range tileRows {
			// Rows of padding repeat the last one's position and ask nothing.
			h := min((first+i)/g.stride, heads-1)
			r := first + i - h*g.stride
			p := position(min(r, positions-1))
			pos[first+i] = int32(p)
			if row := tile[i*dim : (i+1)*dim]; r < positions {
				g.seq.Q.read(row, g.FirstHead+h, p-g.First())
			} else {
				clear(row)
			}
		}
		w.kernels.Pack(tileRows, dim, tile, dim, q[first*dim:], tileRows, float32(w.scale))
	}
	clear(grow(&w.acc, rows*padded(dim, lanes)))
	clear(grow(&w.sum, rows))
	for i, top, base := 0, grow(&w.top, rows), grow(&w.base, rows); i < rows; i++ {
		top[i] = -inf
		base[i] = -math.MaxFloat32
	}
	grow(&w.tile, blockKeys*tileRows)
	grow(&w.part, tileRows)
}

// held returns how many rows the tile at row r holds: fewer than tileRows when the rest is padding.
func (g *Group) held(r int) int {
	if g.stride == g.rows { // heads follow one another without padding
		return min(tileRows, g.NumHeads*g.rows-r)
	}
	return min(tileRows, g.rows-r%g.stride)
}

// keys returns up to n keys from position j on as rows a step apart, and how many: contiguous single-precision keys
// as they lie, others copied.
func (w *worker) keys(g *Group, j, n int) (k []float32, step, rows int) {
	t := &g.seq.K
	if f32, _, have := t.run(g.KVHead, j); f32 != nil && have >= n {
		return f32, t.rowStep, n
	}
	return w.copyRows(&w.kbuf, g, t, g.Dim, n, func(i int) int { return j + i }), g.Dim, n
}

// values is keys for values, whose rows must be whole vectors.
func (w *worker) values(g *Group, j, n int) (v []float32, step int) {
	t := &g.seq.V
	if f32, _, have := t.run(g.KVHead, j); f32 != nil && have >= n && g.Dim%lanes == 0 {
		return f32, t.rowStep
	}
	step = padded(g.Dim, lanes)
	return w.copyRows(&w.vbuf, g, t, step, n, func(i int) int { return j + i }), step
}

// copyRows gathers n rows of t, zero-padded to step elements, into buf.
func (w *worker) copyRows(buf *[]float32, g *Group, t *Tensor, step, n int, row func(i int) int) []float32 {
	out := grow(buf, blockKeys*step)
	for i := range n {
		dst := out[i*step : (i+1)*step]
		t.read(dst[:g.Dim], g.KVHead, row(i))
		clear(dst[g.Dim:])
	}
	return out
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
		w.attendRange(g, s.From, min(s.To, g.To), Band{0, maxPosition}, true, from, to)
	}
	for _, b := range keys.Bands {
		if b.Near < 0 || b.Far < b.Near {
			panic(fmt.Sprintf("anchor: band from %d to %d keys away; want 0 ≤ Near ≤ Far", b.Near, b.Far))
		}
		b.Near, b.Far = min(b.Near, maxPosition), min(b.Far, maxPosition)
		w.attendRange(g, max(g.From-b.Far, 0), g.To-b.Near, b, true, from, to)
	}
	for i, j := range keys.Stripes {
		if j < 0 || int(j) >= g.From || i > 0 && j <= keys.Stripes[i-1] {
			panic(fmt.Sprintf("anchor: stripe %d at key %d; want them ascending from 0 and before %d", i, j, g.From))
		}
	}
	for some := range slices.Chunk(keys.Stripes, blockKeys) {
		if w.stopped() {
			return
		}
		w.enter(StageGather)
		row := func(i int) int { return int(some[i]) }
		b := block{n: len(some), all: true, kstep: g.Dim, vstep: padded(g.Dim, lanes)}
		b.k = w.copyRows(&w.kbuf, g, &g.seq.K, b.kstep, b.n, row)
		b.v = w.copyRows(&w.vbuf, g, &g.seq.V, b.vstep, b.n, row)
		w.enter(stage)
		w.attendBlock(g, b, from, to)
	}
}

// count adds the keys to a head's account.
func (g *Group) count(head int, keys KeySet) {
	for _, s := range keys.Spans {
		g.pairs[head] += causalPairs(g.From, g.To, s)
	}
	for _, b := range keys.Bands {
		for p := g.From; p < g.To; p++ {
			g.pairs[head] += int64(max(p-b.Near-max(p-b.Far, 0)+1, 0))
		}
	}
	g.pairs[head] += int64(len(keys.Stripes)) * int64(g.To-g.From)
	g.kept[head] += int64(len(keys.Stripes))
	if g.stripes != nil {
		g.stripes[head] = append(g.stripes[head], keys.Stripes...)
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

// attendRange attends to the keys [j, end), as far as they lie in each row's band.
func (w *worker) attendRange(g *Group, j, end int, band Band, withValues bool, from, to int) {
	for j < end && !w.stopped() {
		k, kstep, n := w.keys(g, j, min(end-j, blockKeys))
		b := block{n: n, first: j, band: band, k: k, kstep: kstep}
		if withValues {
			b.v, b.vstep = w.values(g, j, n)
		}
		w.attendBlock(g, b, from, to)
		j += n
	}
}

// A block is up to blockKeys keys and, unless only scores are wanted, their values.
type block struct {
	n            int
	all          bool // every row sees every key; otherwise
	first        int  // the first key's position, the others following
	band         Band // and what each row sees of them
	k, v         []float32
	kstep, vstep int
}

// seen returns which of the block's keys the row at position p sees: [from, to), empty if to ≤ from.
func (b *block) seen(p int) (from, to int) {
	if b.all {
		return 0, b.n
	}
	return max(p-b.band.Far-b.first, 0), min(p-b.band.Near-b.first+1, b.n)
}

// attendBlock continues the softmax of the group's rows [from, to), whole tiles, over a block.
func (w *worker) attendBlock(g *Group, b block, from, to int) {
	dim, width := g.Dim, padded(g.Dim, lanes)
	checked, finite := false, false
	for r := from; r < to; r += tileRows {
		rows := g.held(r)
		columns := padded(rows, lanes)
		pos := w.pos[r : r+rows]
		// The tile as a whole sees keys up to n; masked tells whether some row does not see some of them.
		first, last := slices.Min(pos), slices.Max(pos)
		start, seenByFirst := b.seen(int(first))
		seenFrom, n := b.seen(int(last))
		if start >= n {
			continue
		}
		masked := seenByFirst < n || seenFrom > 0
		w.kernels.Gemm(n, columns, dim, b.k, b.kstep, 1, w.q[r*dim:], tileRows, w.tile, tileRows, false)
		if masked {
			for i, p := range pos {
				from, to := b.seen(int(p))
				for j := range min(from, n) {
					w.tile[j*tileRows+i] = -inf
				}
				for j := max(to, 0); j < n; j++ {
					w.tile[j*tileRows+i] = -inf
				}
			}
		}
		top, base, sum := w.top[r:r+tileRows], w.base[r:r+tileRows], w.sum[r:r+tileRows]
		w.kernels.ColMax(n, columns, w.tile, tileRows, top)
		for i, t := range top[:rows] {
			if t == inf && hasNaN(sum[i], base[i], w.tile[i:], n) {
				top[i] = float32(math.NaN())
			}
			if t > base[i]+slack {
				w.rescale(r+i, t, width)
			}
		}
		// A sum over few keys first, so that long sums lose no digits.
		clear(w.part)
		w.kernels.ExpSum(n, columns, w.tile, tileRows, base, w.part)
		for i, x := range w.part[:rows] {
			sum[i] += x
		}
		if b.v == nil {
			continue
		}
		if masked && !checked {
			checked, finite = true, allFinite(b.v, b.vstep, b.n, dim)
		}
		if masked && !finite {
			// A weight of zero would turn the infinite value of a key that the row does not see into NaN.
			for i, p := range pos {
				if from, to := b.seen(int(p)); from < to {
					w.kernels.Gemm(1, width, to-from, w.tile[from*tileRows+i:], 1, tileRows, b.v[from*b.vstep:], b.vstep, w.acc[(r+i)*width:], width, true)
				}
			}
			continue
		}
		w.kernels.Gemm(rows, width, n, w.tile, 1, tileRows, b.v, b.vstep, w.acc[r*width:], width, true)
	}
}

// rescale moves the reference of row i's exponentials to top.
func (w *worker) rescale(i int, top float32, width int) {
	old := w.base[i]
	w.base[i] = top
	if old == -math.MaxFloat32 {
		return // nothing but zeros so far
	}
	f := float32(math.Exp2(float64(old) - float64(top)))
	w.sum[i] *= f
	acc := w.acc[i*width:][:width]
	w.kernels.Scale(acc, acc, f)
}

// hasNaN tells whether a row with an infinite logit has met a NaN too, in the sum of earlier blocks or in the n
// scores of this one: the maximum that the kernels keep passes over a NaN, and the sum is one in either case.
func hasNaN(sum, base float32, scores []float32, n int) bool {
	if sum != sum && base != inf {
		return true
	}
	for j := range n {
		if s := scores[j*tileRows]; s != s {
			return true
		}
	}
	return false
}

// allFinite reports whether n rows of v hold no NaN and no infinity.
func allFinite(v []float32, step, n, dim int) bool {
	for i := range n {
		var bad float32
		for _, x := range v[i*step : i*step+dim] {
			bad += x * 0
		}
		if bad != 0 {
			return false
		}
	}
	return true
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

// finish divides, writes the group's outputs and returns how many rows are not finite.
func (g *Group) finish() (notFinite int64) {
	w, width := g.worker, padded(g.Dim, lanes)
	for h := range g.NumHeads {
		for p := g.From; p < g.To; p++ {
			i := h*g.stride + p - g.From
			head, row := g.FirstHead+h, p-g.First()
			out, _, _ := g.seq.O.run(head, row)
			out = out[:g.Dim]
			acc := w.acc[i*width:][:g.Dim]
			if !w.kernels.Scale(out, acc, 1/w.sum[i]) {
				notFinite++
			}
			if g.seq.LSE.dtype != 0 {
				lse, _, _ := g.seq.LSE.run(head, row)
				lse[0] = w.lse(i)
			}
		}
	}
	return notFinite
}

// lse returns the log-sum-exp of row i in nats.
func (w *worker) lse(i int) float32 {
	return float32((float64(w.base[i]) + math.Log2(float64(w.sum[i]))) * math.Ln2)
}
