package anchor

import (
	"math"

	"github.com/anchorattention/anchor/internal/kernel"
)

// Search scores the candidate keys against the group's rows and returns for each head those kept: ascending, and
// valid until the next call. A block, a span of positions inside the group, stands for its rows by the mean of their
// queries and the mean of their anchors, the largest logit each has attended to so far. A key is dropped when mean
// anchor − logit of the mean query > theta, in nats, for every block. There is at least one block.
func (g *Group) Search(candidates Span, blocks []Span, theta float64) [][]int32 {
	return g.probe(func(int) []Span { return blocks }, true).search(candidates, func(int) float64 { return theta })
}

// A probe is some vectors of each head of a group, means of queries, ready to be multiplied with keys.
type probe struct {
	*Group
	used    int       // vectors of the head that has most
	columns int       // of a head in the products; those without a vector repeat the first
	width   int       // of all heads, in whole vectors of the processor
	vectors []float32 // [dim][width], scaled so that products are logits in powers of two
	spans   [][]Span  // by head, the positions whose mean each vector is
	anchors []float32 // [width], the means of the rows' largest logits so far, likewise, if the probe is anchored

	// Where vectors are parts of a block, by head the index after each block's last one, and of each vector its rows as a share of
	// the block's. Otherwise each is a block.
	ends   [][]int
	shares [][]float64
	most   float32 // the logarithm of the largest sum of a block's shares, in powers of two
}

// probe makes one vector of each span of positions that blocks returns for a head, one at least. A probe that is to be
// anchored has whole vectors of the processor for each head.
func (g *Group) probe(blocks func(head int) []Span, anchored bool) *probe {
	w := g.worker
	w.enter(StageSearch)
	heads, dim := g.NumHeads, g.Dim
	s := &probe{Group: g, spans: make([][]Span, heads)}
	for h := range heads {
		s.spans[h] = blocks(h)
	}
	for _, spans := range s.spans {
		s.used = max(s.used, len(spans))
	}
	s.columns = s.used
	if anchored {
		s.columns = padded(s.used, lanes)
	}
	s.width = padded(heads*s.columns, lanes)
	s.vectors = grow(&w.pool, dim*s.width)
	clear(s.vectors)
	mean := grow(&w.mean, dim)
	for h := range heads {
		first := h * s.columns
		for c, b := range s.spans[h] {
			g.sumQueries(mean, h, b)
			rows := float64(b.To - b.From)
			for d, x := range mean {
				s.vectors[d*s.width+first+c] = float32(float64(x) / rows * w.scale)
			}
		}
		// Repeating the first changes nothing.
		for d := range dim {
			pad(s.vectors[d*s.width+first:][:s.columns], len(s.spans[h]))
		}
	}
	if w.inPairs {
		w.split(s.vectors, dim, s.width)
	}
	if anchored {
		s.anchor()
	}
	return s
}

// anchor computes the anchors of the vectors.
func (s *probe) anchor() {
	s.anchors = grow(&s.worker.anchors, s.width)
	for h, spans := range s.spans {
		anchors := s.anchors[h*s.columns:][:s.columns]
		for c, b := range spans {
			var sum float64
			for p := b.From; p < b.To; p++ {
				sum += float64(s.rowMax(h, p))
			}
			anchors[c] = float32(sum / float64(b.To-b.From))
		}
		pad(anchors, len(spans))
	}
}

// sumQueries sets sum to that of a head's queries at the given positions.
func (g *Group) sumQueries(sum []float32, head int, rows Span) {
	w, q := g.worker, &g.seq.Q
	one := grow(&w.row, g.Dim)
	clear(sum)
	for p := rows.From; p < rows.To; {
		f32, u16, n := q.run(g.FirstHead+head, p-g.First())
		n = min(n, rows.To-p)
		for i := range n {
			at := i * q.rowStep
			switch q.dtype {
			case Float32:
				w.kernels.Add(sum, f32[at:][:g.Dim])
			case BFloat16:
				w.kernels.AddBFloat16(sum, u16[at:][:g.Dim])
			case Float16:
				w.kernels.FromFloat16(one, u16[at:][:g.Dim])
				w.kernels.Add(sum, one)
			}
		}
		p += n
	}
}

// pad fills x from n on with its first element.
func pad(x []float32, n int) {
	for i := n; i < len(x); i++ {
		x[i] = x[0]
	}
}

// search returns the keys that each head keeps, those within theta(head) nats of the anchor.
func (s *probe) search(candidates Span, theta func(head int) float64) [][]int32 {
	kept := s.empty()
	s.scan(kept, candidates, theta)
	return kept
}

// empty returns the worker's lists of stripes, emptied.
func (s *probe) empty() [][]int32 {
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
func (s *probe) scan(kept [][]int32, candidates Span, theta func(head int) float64) {
	limits := grow(&s.worker.limits, len(kept))
	for h := range limits {
		limits[h] = float32(theta(h) * math.Log2E)
	}
	s.each(candidates, func(first, n int, scores []float32) {
		for h := range kept {
			c, had := h*s.columns, len(kept[h])
			if s.ends == nil {
				kept[h] = s.worker.kernels.Select(kept[h], int32(first), n, s.columns, scores[c:], s.width, s.anchors[c:], limits[h])
				continue
			}
			// No block is nearer than its nearest part by more.
			const rounding = 1e-3
			kept[h] = s.worker.kernels.Select(kept[h], int32(first), n, s.columns, scores[c:], s.width, s.anchors[c:], limits[h]+s.most+rounding)
			near := kept[h][had:]
			kept[h] = kept[h][:had]
			for _, j := range near {
				if !(-s.above(h, scores[(int(j)-first)*s.width+c:]) > limits[h]) {
					kept[h] = append(kept[h], j)
				}
			}
		}
	})
}

// parts makes the vectors parts of blocks of so many positions.
func (s *probe) parts(block int) {
	s.ends, s.shares = make([][]int, s.NumHeads), make([][]float64, s.NumHeads)
	for h, spans := range s.spans {
		for c := 0; c < len(spans); {
			start := spans[c].From / block * block
			rows := float64(min(start+block, s.To) - max(start, s.From))
			sum := 0.0
			for ; c < len(spans) && spans[c].From < start+block; c++ {
				share := float64(spans[c].To-spans[c].From) / rows
				s.shares[h] = append(s.shares[h], share)
				sum += share
			}
			s.ends[h] = append(s.ends[h], c)
			s.most = max(s.most, float32(math.Log2(sum)))
		}
	}
}

// above returns how far a key is above the anchors of the nearest of a head's blocks, in powers of two, from its scores with the
// head's vectors: +Inf where one is NaN, so that what cannot be ranked is kept.
func (s *probe) above(h int, scores []float32) float32 {
	spans := s.spans[h]
	scores, anchors := scores[:len(spans)], s.anchors[h*s.columns:][:len(spans)]
	best := -inf
	if s.ends == nil {
		for c, x := range scores {
			if d := x - anchors[c]; d > best {
				best = d
			} else if d != d {
				best = inf
			}
		}
		return best
	}
	c := 0
	for _, end := range s.ends[h] {
		top := -inf // of the block's parts
		for i := c; i < end; i++ {
			if d := scores[i] - anchors[i]; d > top {
				top = d
			} else if d != d {
				top = inf
			}
		}
		switch {
		case top == inf:
			return inf
		case top+s.most > best:
			sum := 0.0
			for i := c; i < end; i++ {
				sum += s.shares[h][i] * math.Exp2(float64(scores[i]-anchors[i]-top))
			}
			best = max(best, top+float32(math.Log2(sum)))
		}
		c = end
	}
	return best
}

// sample scores the first sampleKeys of every sampleEvery candidates and returns what each head keeps of how many.
func (s *probe) sample(candidates Span, theta func(head int) float64) (kept [][]int32, of int) {
	const sampleKeys, sampleEvery = 128, 1024
	kept = s.empty()
	for j := candidates.From; j < candidates.To; j += sampleEvery {
		end := min(j+sampleKeys, candidates.To)
		s.scan(kept, Span{j, end}, theta)
		of += end - j
	}
	return kept, of
}

// each calls f for the keys in order, some at a time: for the n keys from first on, scores[i*width+c] is the product of
// key first+i with vector c, a logit in powers of two. f may change the scores.
func (s *probe) each(keys Span, f func(first, n int, scores []float32)) {
	w := s.worker
	w.enter(StageSearch)
	// So few keys at a time that their scores stay in the first-level cache.
	const some = 64
	scores := grow(&w.scores, some*s.width)
	if w.inPairs {
		w.kernels.BeginPairs()
		defer w.kernels.EndPairs()
	}
	for j := keys.From; j < keys.To && !w.stopped(); {
		b := w.span(s.Group, j, keys.To, Band{}, false)
		for i := 0; i < b.n; i += some {
			n := min(b.n-i, some)
			if w.inPairs {
				rows, depth, k := padded(n, w.kernels.PairRows()), w.depth(s.Dim), b.kPairs[i*b.kstep:]
				if next := (i + some) * b.kstep; next < len(b.kPairs) {
					kernel.Prefetch(w.kernels, b.kPairs[next:min(next+some*b.kstep, len(b.kPairs))])
				}
				w.kernels.GemmPairsTwice(rows, s.width, depth, k, b.kstep, w.halves, s.width, scores, s.width)
			} else {
				w.kernels.Gemm(n, s.width, s.Dim, b.k[i*b.kstep:], b.kstep, 1, s.vectors, s.width, scores, s.width, false)
			}
			f(j+i, n, scores)
		}
		j += b.n
	}
	for _, spans := range s.spans {
		s.searched += int64(len(spans)) * int64(max(keys.To-keys.From, 0))
	}
}

// nearest returns for each head, for every key, how far it is above: see there. Valid until the next call.
func (s *probe) nearest(keys Span) [][]float32 {
	all := s.worker.perKey(s.NumHeads, keys.To-keys.From)
	s.each(keys, func(first, n int, scores []float32) {
		for h, out := range all {
			for i := range n {
				out[first-keys.From+i] = s.above(h, scores[i*s.width+h*s.columns:])
			}
		}
	})
	return all
}

// softmax calls f for the keys in order, some at a time, with the shares of the vectors' softmax over all keys in place of
// the scores of each: see each. The vectors are those of single rows, none of which sees keys beyond its position.
func (s *probe) softmax(f func(first, n int, shares []float32)) {
	w := s.worker
	pos := grow(&w.seen, s.width)
	least, end := s.Keys, 0
	for c := range pos {
		b := s.spans[min(c/s.columns, len(s.spans)-1)][c%s.columns]
		pos[c] = int32(b.From)
		least, end = min(least, b.From), max(end, b.To)
	}
	scratch := grow(&w.softmaxes, 3*s.width)
	top, old, sum := scratch[:s.width], scratch[s.width:2*s.width], scratch[2*s.width:]
	for c := range top {
		top[c] = -inf
	}
	clear(sum)
	mask := func(first, n int, scores []float32) {
		if first+n > least {
			w.kernels.Mask(n, s.width, scores, s.width, pos, first, maxPosition, 0)
		}
	}
	const atOnce = 64 // columns that ColMax takes
	s.each(Span{0, end}, func(first, n int, scores []float32) {
		mask(first, n, scores)
		copy(old, top)
		for c := 0; c < s.width; c += atOnce {
			m := min(atOnce, s.width-c)
			w.kernels.ColMax(n, m, scores[c:], s.width, 1, 0, top[c:c+m], old[c:c+m])
		}
		for c, was := range old {
			if was != top[c] {
				sum[c] *= float32(math.Exp2(float64(was - top[c])))
			}
		}
		w.kernels.ExpSum(n, s.width, scores, s.width, 1, top, sum)
	})
	for c := range top {
		top[c] += float32(math.Log2(float64(sum[c])))
	}
	s.each(Span{0, end}, func(first, n int, scores []float32) {
		mask(first, n, scores)
		w.kernels.ExpSum(n, s.width, scores, s.width, 1, top, old)
		f(first, n, scores)
	})
}

// perKey returns a number for each key of each head, of arbitrary content and valid until the next call.
func (w *worker) perKey(heads, keys int) [][]float32 {
	all := make([][]float32, heads)
	buf := grow(&w.keyed, heads*keys)
	for h := range all {
		all[h] = buf[h*keys : (h+1)*keys : (h+1)*keys]
	}
	return all
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
