package anchor

import (
	"math"
	"math/bits"
	"slices"
	"sync/atomic"
	"time"
	"unsafe"

	"github.com/anchorattention/anchor/internal/kernel"
)

// The executor computes scores as keys × rows: keys are read as they lie, queries are packed once a group, the softmax
// runs down columns, and its weights are what the product with the values wants, whose sums stand as dims × rows. Rows
// come in tiles and keys in blocks; a block is brought in once for all tiles of a group.

const (
	lanes = kernel.Lanes
	// slack is how far, in powers of two, scores may rise above the reference of the exponentials before sums
	// are rescaled to a new one. 2^8 leaves single precision all the room it needs.
	slack = 8
	// stateRows rows, with their queries and sums some 1 MiB at dim 128, go through all keys of a range before the next
	// do, so that what changes with every block stays in the second-level cache.
	stateRows = 1024
	// mostRows is the most rows that a tile may have.
	mostRows = 64
)

// everywhere is the band of all keys up to a row's own.
var everywhere = Band{Far: maxPosition}

// inSingle is the tiling in single precision. 48 rows are whole tiles of every level's matrix product. Scores and the
// rows' packed queries, 36 and 24 KiB at dim 128, stay near the first-level cache while keys and values, 96 KiB each, stream
// from the second.
var inSingle = kernel.Tiling{TileRows: 48, BlockKeys: 192, StripKeys: 192}

// A worker is one goroutine's scratch memory, kept for later calls, and its account of time.
type worker struct {
	kernels *kernel.Set
	stop    *atomic.Bool
	scale   float64 // turns q·k into a logit in powers of two
	costs   *Costs

	// Of the call: whether queries, keys and values are multiplied as pairs of bfloat16s.
	inPairs bool
	kernel.Tiling
	scoreUnit float32 // turns scores into logits in powers of two: 1 where queries are scaled

	// Of the rows of the current group:
	pos    []int32   // absolute positions
	tops   []Span    // of each tile, the first position and the one after the last
	ready  []bool    // and whether it has been read
	q      []float32 // queries, scaled, in tiles of [dim][TileRows]
	qPairs []uint32  // or as they are, in tiles of [depth][TileRows]
	acc    []float32 // sums of weighted values, in tiles of [dim padded][TileRows]
	top    []float32 // largest logit so far
	base   []float32 // reference of the exponentials
	sum    []float32 // sum of the exponentials

	tile    []float32 // scores of a tile, [BlockKeys][TileRows]
	weights []uint32  // its weights in pairs, [BlockKeys/2][TileRows]
	factor  [mostRows]float32
	most    [mostRows]float32 // of a tile's scores, by column

	// What products are to ask for meanwhile: the next tile's queries, and the next block's keys and values.
	ahead [3][]float32

	kPieces, vPieces []piece // of a block

	// Keys and values that do not lie as the kernels want them.
	kbuf, vbuf, panels    []float32
	kPairs, vPairs        []uint16
	packedValues, packing []uint32

	row       []float32
	mean      []float32
	pool      []float32
	halves    []uint32
	anchors   []float32
	limits    []float32
	seen      []int32   // positions of a probe's rows
	softmaxes []float32 // their largest logits and sums
	scores    []float32
	keyed     []float32 // a number for each key
	ranked    []weighed
	stripes   [][]int32
	waiting   []int32

	stage Stage
	since time.Time
	spent [NumStages]time.Duration
}

// grow returns a slice of n elements of arbitrary content, kept at *buf for the next time and aligned to 64 bytes:
// vectors that cross the lines of a cache take twice as long.
func grow[T any](buf *[]T, n int) []T {
	if cap(*buf) < n {
		const line = 64
		size := int(unsafe.Sizeof(*new(T)))
		all := make([]T, n+line/size)
		skip := 0
		for skip < line/size && uintptr(unsafe.Pointer(&all[skip]))%line != 0 {
			skip++
		}
		*buf = all[skip : skip+n : skip+n]
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

// depth returns how many pairs a row of queries or keys is padded to.
func (w *worker) depth(dim int) int { return padded((dim+1)/2, w.kernels.PairDepth()) }

// width returns how many rows of sums a tile has.
func width(dim int) int { return padded(dim, lanes) }

// load prepares the worker for rows of g that stand at the given positions, ascending and the same ones for each head.
func (w *worker) load(g *Group, positions int, position func(i int) int) {
	heads, dim := g.NumHeads, g.Dim
	g.worker = w
	w.choose(g)
	g.rows, g.stride = positions, positions
	if g.PerHead {
		g.stride = padded(positions, w.TileRows)
	}
	rows := padded((heads-1)*g.stride+positions, w.TileRows)
	pos := grow(&w.pos, rows)
	tops := grow(&w.tops, rows/w.TileRows)
	for first := 0; first < rows; first += w.TileRows {
		for i := range w.TileRows {
			// Rows of padding repeat the last one's position.
			h := min((first+i)/g.stride, heads-1)
			pos[first+i] = int32(position(min(first+i-h*g.stride, positions-1)))
		}
		tile := pos[first : first+w.TileRows]
		tops[first/w.TileRows] = Span{int(slices.Min(tile)), int(slices.Max(tile)) + 1}
	}
	// Tiles are read when they are first attended to.
	if w.inPairs {
		grow(&w.qPairs, rows*w.depth(dim))
		grow(&w.weights, w.BlockKeys/2*w.TileRows)
	} else {
		grow(&w.q, rows*dim)
	}
	clear(grow(&w.ready, rows/w.TileRows))
	grow(&w.acc, rows*width(dim))
	clear(grow(&w.sum, rows))
	for i, top, base := 0, grow(&w.top, rows), grow(&w.base, rows); i < rows; i++ {
		top[i] = -inf
		base[i] = -math.MaxFloat32
	}
	grow(&w.tile, w.BlockKeys*w.TileRows)
}

// prepare reads the queries of the tile at row r, unless that has been done.
func (w *worker) prepare(g *Group, r int) {
	if w.ready[r/w.TileRows] {
		return
	}
	w.ready[r/w.TileRows] = true
	clear(w.acc[r*width(g.Dim) : (r+w.TileRows)*width(g.Dim)])
	if !w.inPairs {
		tile := grow(&w.row, w.TileRows*g.Dim)
		held := g.held(r)
		clear(tile[held*g.Dim:])
		for i := range held {
			head, row := g.at(r + i)
			to := tile[i*g.Dim : (i+1)*g.Dim]
			from, _, _ := g.seq.Q.run(head, row)
			if from == nil {
				g.seq.Q.read(w.kernels, to, head, row)
				from = to
			}
			w.kernels.Scale(to, from[:g.Dim], float32(w.scale))
		}
		if next := r + w.TileRows; next < len(w.pos) {
			head, row := g.at(next)
			w.ahead[0] = g.seq.Q.rowsAt(head, row, g.held(next))
		}
		kernel.Transpose(w.kernels, w.TileRows, g.Dim, tile, g.Dim, w.q[r*g.Dim:], w.TileRows)
		return
	}
	// As pairs, negated where the scale is.
	depth := w.depth(g.Dim)
	tile := w.buffer(g)[:w.TileRows*depth]
	clear(tile)
	for i := range g.held(r) {
		head, row := g.at(r + i)
		_, x, _ := g.seq.Q.run(head, row)
		copy(unsafe.Slice((*uint16)(unsafe.Pointer(&tile[i*depth])), g.Dim), x)
	}
	if w.scale < 0 {
		for i := range tile {
			tile[i] ^= 0x80008000
		}
	}
	kernel.Transpose(w.kernels, w.TileRows, depth, tile, depth, w.qPairs[r*depth:], w.TileRows)
}

// buffer returns memory for a tile of queries, or for packing a block's values.
func (w *worker) buffer(g *Group) []uint32 {
	return grow(&w.packing, max(w.TileRows*w.depth(g.Dim), w.BlockKeys/2*width(g.Dim)))
}

// choose decides how the group's products are computed: bfloat16 inputs as pairs where the kernels can.
func (w *worker) choose(g *Group) {
	w.inPairs, w.Tiling, w.scoreUnit = false, inSingle, 1
	scale := float32(math.Abs(w.scale))
	const least = 0x1p-126
	if w.kernels.Pairs() && scale >= least && scale <= math.MaxFloat32 &&
		g.seq.Q.dtype == BFloat16 && g.seq.K.dtype == BFloat16 && g.seq.V.dtype == BFloat16 {
		w.inPairs, w.Tiling, w.scoreUnit = true, w.kernels.PairTiling(), scale
	}
}

// at returns the head and the row of the tensors that the worker's row i, which is none of padding, stands for.
func (g *Group) at(i int) (head, row int) {
	return g.FirstHead + i/g.stride, int(g.worker.pos[i]) - g.First()
}

// A block is up to BlockKeys keys and, unless only scores are wanted, their values.
type block struct {
	n          int
	rows       int   // that attend to it at a time
	all        bool  // every row sees every key; otherwise
	first      int   // the first key's position, the others following
	band       Band  // and what each row sees of them,
	dropped    []int // but for these, which nobody sees
	withValues bool

	k, v             []float32
	kstep, vstep     int
	panels           []float32 // the values once more, as products read them best, where rows are many
	kPairs           []uint16  // or, in pairs, keys,
	values           []uint32  // and values as packed
	kPieces, vPieces []piece   // or, where rows are few, both as they lie
	checked          bool      // values are known to be finite but for
	apart            []apart   // these, which are zero in v or values
}

// A piece is n rows of a block, those from number from on, that lie in one page. After the pieces of a block comes what is read next.
type piece struct {
	from, n int
	kernel.Lines
}

// An apart is a value that is not finite.
type apart struct {
	key, dim int
	value    float32
}

// seen returns which of the block's keys the row at position p sees: [from, to), empty if to ≤ from.
func (b *block) seen(p int) (from, to int) {
	if b.all {
		return 0, b.n
	}
	return max(p-b.band.Far-b.first, 0), min(p-b.band.Near-b.first+1, b.n)
}

// attendRange attends to the keys [j, end), as far as they lie in each row's band. Heads that all take part go side by side,
// so that what is brought in serves them all.
func (w *worker) attendRange(g *Group, j, end int, band Band, withValues bool, from, to int) {
	heads, stride := 1, to-from
	if g.PerHead && to-from > g.stride {
		heads, stride = g.NumHeads, g.stride
	}
	rows := padded(stateRows/heads, w.TileRows)
	for first := 0; first < stride; first += rows {
		last := min(first+rows, stride)
		seen := 0 // by any of these rows: keys before it
		for _, t := range w.tops[(from+first)/w.TileRows : (from+last)/w.TileRows] {
			seen = max(seen, t.To-band.Near)
		}
		for j := j; j < min(end, seen) && !w.stopped(); {
			b := w.span(g, j, end, band, withValues)
			if next := j + b.n; withValues && next < min(end, seen) {
				w.ahead[1] = g.seq.K.rowsAt(g.KVHead, next, w.BlockKeys)
				w.ahead[2] = g.seq.V.rowsAt(g.KVHead, next, w.BlockKeys)
			}
			for h := range heads {
				w.attendBlock(g, &b, from+h*stride+first, from+h*stride+last)
			}
			j += b.n
		}
	}
}

// attendStripes attends to single keys, gathered or, where many lie together, with those between them masked.
func (w *worker) attendStripes(g *Group, stage Stage, keys []int32, from, to int) {
	rows := min((to-from+g.stride-1)/g.stride, g.NumHeads) * g.rows
	waiting := grow(&w.waiting, w.BlockKeys)[:0]
	flush := func() {
		w.enter(StageGather)
		b := w.gather(g, waiting)
		w.enter(stage)
		w.attendBlock(g, &b, from, to)
		waiting = waiting[:0]
	}
	for len(keys) > 0 && !w.stopped() {
		// The stripes of one aligned block.
		first := int(keys[0]) / w.BlockKeys * w.BlockKeys
		n, _ := slices.BinarySearch(keys, int32(first+w.BlockKeys))
		some := keys[:n]
		keys = keys[n:]
		if end := min(first+w.BlockKeys, g.From); w.costs.contiguous(w.inPairs, rows, n, end-first) {
			b := w.span(g, first, end, everywhere, true)
			for j := range int32(b.n) {
				if _, wanted := slices.BinarySearch(some, int32(first)+j); !wanted {
					b.dropped = append(b.dropped, int(j))
				}
			}
			w.attendBlock(g, &b, from, to)
			continue
		}
		for len(some) > 0 {
			n := min(len(some), w.BlockKeys-len(waiting))
			waiting, some = append(waiting, some[:n]...), some[n:]
			if len(waiting) == w.BlockKeys {
				flush()
			}
		}
	}
	if len(waiting) > 0 && !w.stopped() {
		flush()
	}
}

// span brings in a block of keys from position j on, as they lie where that will do.
func (w *worker) span(g *Group, j, end int, band Band, withValues bool) block {
	k, v := &g.seq.K, &g.seq.V
	k32, k16, kRows := k.run(g.KVHead, j)
	v32, _, vRows := v.run(g.KVHead, j)
	n := min(end-j, w.BlockKeys)
	b := block{n: n, first: j, band: band, withValues: withValues}
	row := func(i int) int { return j + i }
	if withValues && w.few(g) {
		b.kPieces = w.pieces(&w.kPieces, &w.kbuf, g, k, j, n, end)
		if b.vPieces = w.pieces(&w.vPieces, &w.vbuf, g, v, j, n, end); w.inPairs && slices.ContainsFunc(b.vPieces, func(p piece) bool { return p.from%2 != 0 && p.from < n }) {
			w.takeValues(g, &b)
		}
		return b
	}
	if w.inPairs {
		if b.kPairs, b.kstep = k16, k.rowStep; kRows < n || g.Dim%(2*w.kernels.PairDepth()) != 0 || n%w.kernels.PairRows() != 0 {
			b.kPairs, b.kstep = w.copyPairs(&w.kPairs, g, k, 2*w.depth(g.Dim), n, row)
		}
		if withValues {
			w.pack(g, &b, row)
		}
		return b
	}
	if b.k, b.kstep = k32, k.rowStep; k32 == nil || kRows < n {
		b.k, b.kstep = w.copySpan(&w.kbuf, g, k, n, j)
	}
	if b.v, b.vstep = v32, v.rowStep; withValues && (v32 == nil || vRows < n) {
		b.v, b.vstep = w.copySpan(&w.vbuf, g, v, n, j)
	}
	return b
}

// few reports whether the group is one tile of so few rows that reading takes longer than multiplying, and the level has
// kernels for that.
func (w *worker) few(g *Group) bool {
	kind := kernel.Singles
	if w.inPairs {
		kind = kernel.Pairs
	}
	return len(w.pos) == w.TileRows && g.held(0) <= kernel.FewRows && w.StripKeys == w.BlockKeys && w.kernels.HasFew(kind, g.Dim)
}

// pieces returns the n rows of t from number first on as they lie, or widened to buf where the kernels do not read their type.
func (w *worker) pieces(all *[]piece, buf *[]float32, g *Group, t *Tensor, first, n, end int) []piece {
	found := (*all)[:0]
	if !w.inPairs && (t.dtype == BFloat16 || t.dtype == Float16) {
		rows, step := w.copySpan(buf, g, t, n, first)
		found = append(found, piece{0, n, kernel.Lines{F32: rows, Step: step}}, piece{from: n})
	} else {
		for i := 0; i < n; {
			lines, lie := t.lines(g.KVHead, first+i)
			lie = min(lie, n-i)
			found = append(found, piece{i, lie, lines})
			i += lie
		}
		next := piece{from: n}
		if first+n < end {
			next.Lines, _ = t.lines(g.KVHead, first+n)
		}
		found = append(found, next)
	}
	*all = found
	return found
}

// takeValues brings in the values of a block whose keys are in pieces, as products of many rows want them.
func (w *worker) takeValues(g *Group, b *block) {
	b.vPieces = nil
	if w.inPairs {
		w.pack(g, b, func(i int) int { return b.first + i })
		return
	}
	v, _, rows := g.seq.V.run(g.KVHead, b.first)
	if b.v, b.vstep = v, g.seq.V.rowStep; v == nil || rows < b.n {
		b.v, b.vstep = w.copySpan(&w.vbuf, g, &g.seq.V, b.n, b.first)
	}
}

// gather brings in a block of single keys.
func (w *worker) gather(g *Group, keys []int32) block {
	b := block{n: len(keys), all: true, withValues: true}
	k, v := &g.seq.K, &g.seq.V
	if w.inPairs {
		b.kPairs, b.kstep = w.copyPairs(&w.kPairs, g, k, 2*w.depth(g.Dim), b.n, w.scattered(g, k, keys))
		w.pack(g, &b, w.scattered(g, v, keys))
		return b
	}
	b.k, b.kstep = w.copyRows(&w.kbuf, g, k, b.n, w.scattered(g, k, keys))
	b.v, b.vstep = w.copyRows(&w.vbuf, g, v, b.n, w.scattered(g, v, keys))
	return b
}

// scattered returns which rows of t the keys are, and asks for the memory of each while some before it are read.
func (w *worker) scattered(g *Group, t *Tensor, keys []int32) func(i int) int {
	const ahead = 8
	return func(i int) int {
		if i+ahead < len(keys) {
			f32, u16, _ := t.run(g.KVHead, int(keys[i+ahead]))
			switch {
			case f32 != nil:
				kernel.Prefetch(w.kernels, f32[:g.Dim])
			case u16 != nil:
				kernel.Prefetch(w.kernels, u16[:g.Dim])
			}
		}
		return int(keys[i])
	}
}

// copyRows gathers n rows of t in buf, as single-precision numbers.
func (w *worker) copyRows(buf *[]float32, g *Group, t *Tensor, n int, row func(i int) int) (rows []float32, step int) {
	out := grow(buf, w.BlockKeys*g.Dim)
	for i := range n {
		t.read(w.kernels, out[i*g.Dim:(i+1)*g.Dim], g.KVHead, row(i))
	}
	return out, g.Dim
}

// copySpan is copyRows of rows that follow one another, as many at a time as lie so: pages are for a few rows of queries,
// too, whom a call for each row of keys would cost as much as what they are read for.
func (w *worker) copySpan(buf *[]float32, g *Group, t *Tensor, n, from int) (rows []float32, step int) {
	if t.rowStep != t.dim || t.dtype == Int8 {
		return w.copyRows(buf, g, t, n, func(i int) int { return from + i })
	}
	out := grow(buf, w.BlockKeys*g.Dim)
	for i := 0; i < n; {
		f32, u16, lie := t.run(g.KVHead, from+i)
		lie = min(lie, n-i)
		to := out[i*g.Dim : (i+lie)*g.Dim]
		switch t.dtype {
		case Float32:
			copy(to, f32)
		case BFloat16:
			w.kernels.FromBFloat16(to, u16[:len(to)])
		case Float16:
			w.kernels.FromFloat16(to, u16[:len(to)])
		}
		i += lie
	}
	return out, g.Dim
}

// copyPairs gathers n rows of t in buf, zero-padded to step numbers and to whole tiles of rows.
func (w *worker) copyPairs(buf *[]uint16, g *Group, t *Tensor, step, n int, row func(i int) int) ([]uint16, int) {
	out := grow(buf, w.BlockKeys*step)
	for i := range n {
		_, x, _ := t.run(g.KVHead, row(i))
		dst := out[i*step : (i+1)*step]
		copy(dst, x[:g.Dim])
		clear(dst[g.Dim:])
	}
	clear(out[n*step : padded(n, w.kernels.PairRows())*step])
	return out, step
}

// pack packs a block's values.
func (w *worker) pack(g *Group, b *block, row func(i int) int) {
	v := &g.seq.V
	if step := width(g.Dim); step > g.Dim { // not whole vectors as they lie
		copied, _ := w.copyPairs(&w.vPairs, g, v, step, b.n, row)
		w.packRows(g, b, func(i int) []uint16 { return copied[i*step:] })
		return
	}
	w.packRows(g, b, func(i int) []uint16 {
		_, x, _ := v.run(g.KVHead, row(i))
		return x
	})
}

func (w *worker) packRows(g *Group, b *block, v func(i int) []uint16) {
	b.values = grow(&w.packedValues, w.BlockKeys/2*width(g.Dim))
	b.checked = w.kernels.PackValues(b.n, width(g.Dim), padded((b.n+1)/2, w.kernels.PairDepth()), v, b.values, w.buffer(g))
}

// attendBlock continues the softmax of the group's rows [from, to), whole tiles, over a block.
func (w *worker) attendBlock(g *Group, b *block, from, to int) {
	width := width(g.Dim)
	strip := w.StripKeys
	b.rows = to - from
	if w.inPairs {
		w.kernels.BeginPairs()
		defer w.kernels.EndPairs()
	}
	for r := from; r < to; r += w.TileRows {
		columns := padded(g.held(r), lanes)
		// The tile as a whole sees keys up to n; masked tells whether some row does not see some of them.
		tops := w.tops[r/w.TileRows]
		start, seenByFirst := b.seen(tops.From)
		seenFrom, n := b.seen(tops.To - 1)
		if start >= n {
			continue
		}
		masked := seenByFirst < n || seenFrom > 0
		if !b.checked && b.withValues && (masked || n < b.n || b.dropped != nil) {
			if b.vPieces != nil {
				w.takeValues(g, b)
			}
			if !b.checked {
				w.setApart(g, b)
			}
		}
		if seenFrom > 0 {
			seenByFirst = 0
		}
		w.prepare(g, r)
		top, base, sum := w.top[r:r+w.TileRows], w.base[r:r+w.TileRows], w.sum[r:r+w.TileRows]
		waiting := 0 // first key whose weight has not met its value
		for from := 0; from < n; from += strip {
			m := min(strip, n-from)
			found := w.score(g, b, r, from, m, columns, !masked && b.dropped == nil)
			if skip := max(seenByFirst-from, 0); masked && skip < m { // keys that all rows see need no look
				w.kernels.Mask(m-skip, columns, w.tile[skip*w.TileRows:], w.TileRows, w.pos[r:], b.first+from+skip, b.band.Far, b.band.Near)
			}
			for _, j := range b.dropped {
				if j >= from && j < from+m {
					row := w.tile[(j-from)*w.TileRows:][:columns]
					for i := range row {
						row[i] = -inf
					}
				}
			}
			scores, rows := w.tile, m
			if found {
				scores, rows = w.most[:], 1
			}
			if raised := w.kernels.ColMax(rows, columns, scores, w.TileRows, w.scoreUnit, slack, top, base); raised != 0 {
				if b.withValues && waiting < from {
					w.addValues(g, b, r, waiting, from, columns)
					waiting = from
				}
				w.raise(r, raised, m, columns, width)
			}
			if b.withValues && w.inPairs {
				var next []uint16
				if from+strip < n {
					next = b.kPairs[(from+strip)*b.kstep:]
				}
				w.kernels.ExpPairs(m, columns, w.tile, w.TileRows, w.scoreUnit, base, sum, w.weights[from/2*w.TileRows:], w.TileRows, next, b.kstep)
			} else {
				w.kernels.ExpSum(m, columns, w.tile, w.TileRows, w.scoreUnit, base, sum)
			}
		}
		if b.withValues {
			w.addValues(g, b, r, waiting, n, columns)
			if len(b.apart) > 0 {
				w.attendApart(g, b, r)
			}
		}
	}
}

// score computes the scores of the tile at row r and n keys of the block. Where their maxima are wanted and come with them,
// these are found in most.
func (w *worker) score(g *Group, b *block, r, from, n, columns int, wanted bool) (found bool) {
	if b.kPieces != nil { // from is 0, r too
		w.scorePieces(g, b, n)
		return false
	}
	if w.inPairs {
		depth := w.depth(g.Dim)
		w.kernels.GemmPairs(padded(n, w.kernels.PairRows()), columns, depth, b.kPairs[from*b.kstep:], b.kstep, w.qPairs[r*depth:], w.TileRows, w.tile, w.TileRows, false)
		return false
	}
	if wanted {
		for i := range w.most {
			w.most[i] = -inf
		}
		return w.kernels.GemmMax(n, columns, g.Dim, b.k[from*b.kstep:], b.kstep, w.q[r*g.Dim:], w.TileRows, w.tile, w.TileRows, w.most[:])
	}
	// Some row does not see some keys: those that none of the first rows sees are left to Mask.
	for done, first := from, 0; first < columns; first += lanes {
		last := from + n
		if first+lanes < columns {
			_, last = b.seen(int(slices.Max(w.pos[r+first:][:lanes])))
			last = min(last, from+n)
		}
		if last > done {
			w.kernels.Gemm(last-done, columns-first, g.Dim, b.k[done*b.kstep:], b.kstep, 1, w.q[r*g.Dim+first:], w.TileRows, w.tile[(done-from)*w.TileRows+first:], w.TileRows, false)
			done = last
		}
	}
	return false
}

// scorePieces computes the scores of the only tile, which holds few rows, and the first n keys of the block.
func (w *worker) scorePieces(g *Group, b *block, n int) {
	for i, k := range b.kPieces {
		keys := min(k.n, n-k.from)
		if keys <= 0 {
			break
		}
		c := w.tile[k.from*w.TileRows:]
		whole := keys / lanes * lanes
		next := b.kPieces[i+1].Lines
		if whole < keys {
			next = k.Skip(whole)
		}
		if w.inPairs {
			kernel.Score(w.kernels, whole, g.held(0), g.Dim, k.Lines, w.qPairs, w.TileRows, c, next)
		} else {
			kernel.Score(w.kernels, whole, g.held(0), g.Dim, k.Lines, w.q, w.TileRows, c, next)
		}
		if whole == keys {
			continue
		}
		rest, c := k.Skip(whole), c[whole*w.TileRows:]
		switch keys -= whole; {
		case w.inPairs:
			w.kernels.GemmPairs(keys, lanes, w.depth(g.Dim), rest.U16, rest.Step, w.qPairs, w.TileRows, c, w.TileRows, false)
		case rest.F32 != nil:
			w.kernels.Gemm(keys, lanes, g.Dim, rest.F32, rest.Step, 1, w.q, w.TileRows, c, w.TileRows, false)
		default:
			x, step := w.copySpan(&w.kbuf, g, &g.seq.K, keys, b.first+k.from+whole)
			w.kernels.Gemm(keys, lanes, g.Dim, x, step, 1, w.q, w.TileRows, c, w.TileRows, false)
		}
	}
}

// addPieces adds the values of the block, weighted, to the sums of the only tile, which holds few rows.
func (w *worker) addPieces(g *Group, b *block) {
	sums := grow(&w.row, kernel.SumsSize(g.Dim))
	clear(sums)
	kind := kernel.Singles
	for i, v := range b.vPieces[:len(b.vPieces)-1] {
		next := b.vPieces[i+1].Lines
		if !w.inPairs {
			kernel.Weigh(w.kernels, v.n, g.held(0), g.Dim, v.Lines, w.tile[v.from*w.TileRows:], w.TileRows, sums, next)
			continue
		}
		kind = kernel.Pairs
		whole, weights := v.n/2*2, w.weights[v.from/2*w.TileRows:]
		kernel.Weigh(w.kernels, whole, g.held(0), g.Dim, v.Lines, weights, w.TileRows, sums, next)
		if whole < v.n { // the block's last value, beside zeros
			last := kernel.Lines{U16: grow(&w.vPairs, 2*g.Dim), Step: g.Dim}
			copy(last.U16, v.Skip(whole).U16[:g.Dim])
			clear(last.U16[g.Dim:])
			kernel.Weigh(w.kernels, 2, g.held(0), g.Dim, last, weights[whole/2*w.TileRows:], w.TileRows, sums, kernel.Lines{})
		}
	}
	w.kernels.AddSums(kind, g.held(0), g.Dim, sums, w.acc, w.TileRows)
}

// addValues adds the values of the block's keys [from, to), weighted, to the sums of the tile at row r. In single
// precision from is 0, weights being where scores were.
func (w *worker) addValues(g *Group, b *block, r, from, to, columns int) {
	width := width(g.Dim)
	acc := w.acc[r*width : (r+w.TileRows)*width]
	if b.vPieces != nil {
		w.addPieces(g, b)
		return
	}
	if w.inPairs {
		depth := w.kernels.PairDepth()
		w.kernels.GemmValues(width, columns, from/2, padded((to+1)/2, depth), padded((b.n+1)/2, depth), b.values, w.weights, w.TileRows, acc, w.TileRows)
		return
	}
	if held := g.held(r); held <= fewRows && g.Dim%lanes == 0 {
		// The same sums as rows × dims: values are read in order, which matters when they come from memory for a few rows.
		sums := grow(&w.row, w.TileRows*g.Dim)
		w.kernels.Gemm(held, g.Dim, to, w.tile, 1, w.TileRows, b.v, b.vstep, sums, g.Dim, false)
		for i := range held {
			for d, x := range sums[i*g.Dim : (i+1)*g.Dim] {
				acc[d*w.TileRows+i] += x
			}
		}
		return
	}
	if b.panels == nil && b.rows >= panelRows && w.kernels.HasPanels() {
		b.panels = grow(&w.panels, w.kernels.PanelSize(b.n, g.Dim))
		w.kernels.Panels(b.n, g.Dim, b.v, b.vstep, b.panels)
	}
	if b.panels != nil {
		next := &w.ahead[0]
		for i := range w.ahead {
			if next = &w.ahead[i]; len(*next) > 0 {
				break
			}
		}
		*next = w.kernels.GemmPanels(g.Dim, columns, to, b.panels, b.n, w.tile, w.TileRows, acc, w.TileRows, true, *next)
		return
	}
	w.kernels.Gemm(g.Dim, columns, to, b.v, 1, b.vstep, w.tile, w.TileRows, acc, w.TileRows, true)
}

// panelRows is how many rows make copying a block's values to panels pay: it takes as long as four tiles gain by it.
const panelRows = 5 * 48

// fewRows is how many rows are so few that reading values takes longer than multiplying them.
const fewRows = 8

// raise moves the references of the exponentials of raised rows, of the tile at row r, to their largest logits.
func (w *worker) raise(r int, raised uint64, n, columns, width int) {
	scale := false
	for i := range w.factor {
		w.factor[i] = 1
	}
	for ; raised != 0; raised &= raised - 1 {
		i := bits.TrailingZeros64(raised)
		t, old := w.top[r+i], w.base[r+i]
		if t == inf && hasNaN(w.sum[r+i], old, w.tile[i:], n, w.TileRows) {
			w.top[r+i] = float32(math.NaN())
		}
		if !(t > old+slack) {
			continue
		}
		if w.base[r+i] = t; old != -math.MaxFloat32 { // else there are nothing but zeros so far
			w.factor[i] = float32(math.Exp2(float64(old) - float64(t)))
			w.sum[r+i] *= w.factor[i]
			scale = true
		}
	}
	if scale {
		w.kernels.ScaleCols(width, columns, w.acc[r*width:], w.TileRows, w.factor[:])
	}
}

// hasNaN tells whether a row with an infinite logit has met a NaN too, in the sum of earlier blocks or in the n
// scores of this one: the maximum that the kernels keep passes over a NaN, and the sum is one in either case.
func hasNaN(sum, base float32, scores []float32, n, step int) bool {
	if sum != sum && base != inf {
		return true
	}
	for j := range n {
		if s := scores[j*step]; s != s {
			return true
		}
	}
	return false
}

// setApart finds the values of a block, which is a span, that are not finite: a weight of zero would turn the infinite
// value of a key that a row does not see into NaN. It leaves zeros in their place, and attendApart adds them to the rows
// that see them.
func (w *worker) setApart(g *Group, b *block) {
	b.checked = true
	at := func(i int) int { return b.first + i }
	if w.inPairs {
		v, step := w.copyPairs(&w.vPairs, g, &g.seq.V, width(g.Dim), b.n, at)
		const exponent = 0x7f80
		for i, x := range v[:b.n*step] {
			if x&exponent == exponent {
				b.apart = append(b.apart, apart{i / step, i % step, math.Float32frombits(uint32(x) << 16)})
				v[i] = 0
			}
		}
		w.packRows(g, b, func(i int) []uint16 { return v[i*step:] })
		return
	}
	finite := true
	for i := range b.n {
		finite = finite && w.kernels.Finite(b.v[i*b.vstep:][:g.Dim])
	}
	if finite {
		return
	}
	b.v, b.vstep = w.copyRows(&w.vbuf, g, &g.seq.V, b.n, at)
	b.panels = nil
	for i, x := range b.v[:b.n*b.vstep] {
		if x-x != 0 {
			b.apart = append(b.apart, apart{i / b.vstep, i % b.vstep, x})
			b.v[i] = 0
		}
	}
}

// attendApart adds the weighted values set apart to the tile at row r.
func (w *worker) attendApart(g *Group, b *block, r int) {
	acc := w.acc[r*width(g.Dim):]
	for _, x := range b.apart {
		for i := range g.held(r) {
			if from, to := b.seen(int(w.pos[r+i])); x.key < from || x.key >= to || slices.Contains(b.dropped, x.key) {
				continue
			}
			weight := w.tile[x.key*w.TileRows+i]
			if w.inPairs {
				weight = math.Float32frombits(w.weights[x.key/2*w.TileRows+i] >> (x.key % 2 * 16) << 16)
			}
			acc[x.dim*w.TileRows+i] += weight * x.value
		}
	}
}

// farBytes is how large an output is that no near cache will hold until it is read.
const farBytes = 4 << 20

// finish divides, writes the group's outputs and counts the rows that are not finite.
func (g *Group) finish() {
	w, width := g.worker, width(g.Dim)
	rows := grow(&w.row, w.TileRows*width)
	scale := w.kernels.Scale
	if bytes := 4 * g.Heads * g.Queries * g.Dim; bytes > farBytes {
		scale = w.kernels.ScaleStream
	}
	for r := 0; r < len(w.pos); r += w.TileRows {
		held := g.held(r)
		w.prepare(g, r) // rows that saw nothing
		kernel.Transpose(w.kernels, width, held, w.acc[r*width:], w.TileRows, rows, width)
		for i := range held {
			head, row := g.at(r + i)
			out, _, _ := g.seq.O.run(head, row)
			if !scale(out[:g.Dim], rows[i*width:][:g.Dim], 1/w.sum[r+i]) {
				g.bad[head-g.FirstHead]++
			}
			if g.seq.LSE.dtype != 0 {
				lse, _, _ := g.seq.LSE.run(head, row)
				lse[0] = w.lse(r + i)
			}
		}
	}
}

// lse returns the log-sum-exp of row i in nats.
func (w *worker) lse(i int) float32 {
	return float32((float64(w.base[i]) + math.Log2(float64(w.sum[i]))) * math.Ln2)
}
