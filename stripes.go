package anchor

import (
	"math"

	"github.com/anchorattention/anchor/internal/kernel"
)

// AnchorAttention returns the planner of AnchorAttention: see [Params].
func AnchorAttention(p Params) Planner { return anchorAttention{Params: p} }

// Auto returns the planner that is AnchorAttention where stripes pay, and dense where they do not: a head of a group
// attends to all candidates when those that would be kept are so many that gathering them takes as long, by
// [Options].Costs. Candidates are first sampled, so that a flat head costs next to no search. The choice depends on the
// inputs alone, never on a clock; [HeadResult] tells how often it was made.
func Auto(p Params) Planner { return anchorAttention{Params: p, auto: true} }

type anchorAttention struct {
	Params
	auto bool
}

func (a anchorAttention) Name() string {
	if a.auto {
		return "auto"
	}
	return "anchor"
}

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
	candidates := Span{init, local}
	dense := func(kept, of int) bool {
		return a.auto && g.worker.costs.contiguous(g.worker.inPairs, g.rows, kept, of)
	}
	s := g.pool(blocks, a.Theta)
	if a.auto {
		flat := true
		kept, of := s.sample(candidates)
		for _, keys := range kept {
			flat = flat && dense(len(keys), of)
		}
		if flat {
			for h := range g.NumHeads {
				g.dense[h] = 1
			}
			g.Attend(StageSparse, KeySet{Spans: []Span{candidates}})
			return
		}
	}
	for h, keys := range s.search(candidates) {
		if dense(len(keys), local-init) {
			g.dense[h] = 1
			g.AttendHead(StageSparse, h, KeySet{Spans: []Span{candidates}})
			continue
		}
		g.AttendHead(StageSparse, h, KeySet{Stripes: keys})
	}
}

// Search scores the candidate keys against the group's rows and returns for each head those kept: ascending, and
// valid until the next call. A block, a span of positions inside the group, stands for its rows by the mean of their
// queries and the mean of their anchors, the largest logit each has attended to so far. A key is dropped when mean
// anchor − logit of the mean query > theta, in nats, for every block. There is at least one block.
func (g *Group) Search(candidates Span, blocks []Span, theta float64) [][]int32 {
	return g.pool(blocks, theta).search(candidates)
}

// A search is the pooled queries of a group, ready to score keys.
type search struct {
	*Group
	blocks         int
	columns, width int // of scores: of a head, and of all
	pool, anchors  []float32
	limit          float32
}

// pool computes the blocks' mean queries and anchors.
func (g *Group) pool(blocks []Span, theta float64) *search {
	w := g.worker
	w.enter(StageSearch)
	heads, dim := g.NumHeads, g.Dim
	// Columns come in whole vectors; those left over repeat the first block, which changes nothing.
	columns := padded(len(blocks), lanes)
	s := &search{Group: g, blocks: len(blocks), columns: columns, width: heads * columns, limit: float32(theta * math.Log2E)}
	s.pool = grow(&w.pool, dim*s.width)
	s.anchors = grow(&w.anchors, s.width)
	mean := grow(&w.row, 2*dim)
	mean, row := mean[:dim], mean[dim:]
	for h := range heads {
		for c, b := range blocks {
			clear(mean)
			var anchor float64
			for p := b.From; p < b.To; {
				f32, u16, n := g.seq.Q.run(g.FirstHead+h, p-g.First())
				n = min(n, b.To-p)
				for i := range n {
					at := i * g.seq.Q.rowStep
					switch g.seq.Q.dtype {
					case Float32:
						w.kernels.Add(mean, f32[at:][:dim])
					case BFloat16:
						w.kernels.AddBFloat16(mean, u16[at:][:dim])
					case Float16:
						w.kernels.FromFloat16(row, u16[at:][:dim])
						w.kernels.Add(mean, row)
					}
					anchor += float64(g.rowMax(h, p+i))
				}
				p += n
			}
			rows := float64(b.To - b.From)
			for d, x := range mean {
				s.pool[d*s.width+h*columns+c] = float32(float64(x) / rows * w.scale)
			}
			s.anchors[h*columns+c] = float32(anchor / rows)
		}
		first := h * columns
		for d := range dim {
			pad(s.pool[d*s.width+first:][:columns], len(blocks))
		}
		pad(s.anchors[first:][:columns], len(blocks))
	}
	if w.inPairs {
		w.split(s.pool, dim, s.width)
	}
	return s
}

// pad fills x from n on with its first element.
func pad(x []float32, n int) {
	for i := n; i < len(x); i++ {
		x[i] = x[0]
	}
}

// sample scores the first sampleKeys of every sampleEvery candidates and returns what each head keeps of how many.
func (s *search) sample(candidates Span) (kept [][]int32, of int) {
	const sampleKeys, sampleEvery = 128, 1024
	kept = s.empty()
	for j := candidates.From; j < candidates.To; j += sampleEvery {
		end := min(j+sampleKeys, candidates.To)
		s.scan(kept, Span{j, end})
		of += end - j
	}
	return kept, of
}

// search returns the keys that each head keeps.
func (s *search) search(candidates Span) [][]int32 {
	kept := s.empty()
	s.scan(kept, candidates)
	return kept
}

// empty returns the worker's lists of stripes, emptied.
func (s *search) empty() [][]int32 {
	w := s.worker
	for len(w.stripes) < s.NumHeads {
		w.stripes = append(w.stripes, nil)
	}
	kept := w.stripes[:s.NumHeads]
	for h := range kept {
		kept[h] = kept[h][:0]
	}
	return kept
}

// scan appends the keys that each head keeps.
func (s *search) scan(kept [][]int32, candidates Span) {
	w := s.worker
	w.enter(StageSearch)
	// So few keys at a time that their scores stay in the first-level cache.
	const some = 64
	scores := grow(&w.scores, some*s.width)
	if w.inPairs {
		w.kernels.BeginPairs()
		defer w.kernels.EndPairs()
	}
	for j := candidates.From; j < candidates.To && !w.stopped(); {
		b := w.span(s.Group, j, candidates.To, Band{}, false)
		for i := 0; i < b.n; i += some {
			n := min(b.n-i, some)
			if w.inPairs {
				rows, depth, k := padded(n, w.kernels.PairRows()), w.depth(s.Dim), b.kPairs[i*b.kstep:]
				if next := (i + some) * b.kstep; next < len(b.kPairs) {
					kernel.Prefetch(w.kernels, b.kPairs[next:min(next+some*b.kstep, len(b.kPairs))])
				}
				w.kernels.GemmPairsTwice(rows, s.width, depth, k, b.kstep, w.halves, s.width, scores, s.width)
			} else {
				w.kernels.Gemm(n, s.width, s.Dim, b.k[i*b.kstep:], b.kstep, 1, s.pool, s.width, scores, s.width, false)
			}
			for h := range kept {
				c := h * s.columns
				kept[h] = w.kernels.Select(kept[h], int32(j+i), n, s.columns, scores[c:], s.width, s.anchors[c:], s.limit)
			}
		}
		j += b.n
	}
	s.searched += int64(s.NumHeads) * int64(s.blocks) * int64(max(candidates.To-candidates.From, 0))
}

// split makes pairs of pooled queries, each the sum of two bfloat16s: 16 bits, so that scores stay within 2^−16 of what
// single precision gives.
func (w *worker) split(pool []float32, dim, width int) {
	size := w.depth(dim) * width
	halves := grow(&w.halves, 2*size)
	clear(halves)
	high, low := halves[:size], halves[size:]
	for d := range dim {
		shift := d % 2 * 16
		for c, x := range pool[d*width : (d+1)*width] {
			h := uint32(kernel.RoundToBFloat16(x))
			l := uint32(kernel.RoundToBFloat16(x - math.Float32frombits(h<<16)))
			if x-x != 0 { // NaN or infinite, which no second part mends
				l = 0
			}
			high[d/2*width+c] |= h << shift
			low[d/2*width+c] |= l << shift
		}
	}
}
