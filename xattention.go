package anchor

import (
	"fmt"
)

// XAttentionParams are the parameters of XAttention (Xu et al., "XAttention: Block Sparse Attention with Antidiagonal
// Scoring", ICML 2025, arXiv 2503.16428).
//
// Positions are taken Stride at a time. With i and j such strides of rows and keys, their score is the sum over an
// antidiagonal, Σ_s q[i·Stride + Stride − 1 − s] · k[j·Stride + s], times the scale of logits over Stride; rows that the call
// does not hold or that are of the tail, and keys from there on, count as zero. The softmax of a stride of rows over the strides of keys up to its own is summed by
// blocks of 128 rows and 128 keys. A block of rows attends to the first block of keys and its own, and to the fewest others,
// heaviest first, with which the sum reaches Threshold of all.
type XAttentionParams struct {
	Stride    int     // positions, a divisor of 128
	Threshold float64 // τ, 0 … 1
	Tail      int     // last rows of the prompt, which see every key, ≥ 0
}

// DefaultXAttentionParams returns the published parameters, with a tail of 128 rows.
func DefaultXAttentionParams() XAttentionParams {
	return XAttentionParams{Stride: 8, Threshold: 0.9, Tail: 128}
}

// XAttention returns its planner.
func XAttention(p XAttentionParams) Planner { return xAttention{p} }

type xAttention struct{ XAttentionParams }

const xBlock = 128

func (xAttention) Name() string { return "xattention" }

func (x xAttention) Validate() error {
	switch {
	case x.Stride < 1 || xBlock%x.Stride != 0:
		return fmt.Errorf("XAttentionParams.Stride is %d; want a divisor of %d", x.Stride, xBlock)
	case !(x.Threshold >= 0 && x.Threshold <= 1):
		return fmt.Errorf("XAttentionParams.Threshold is %v; want 0 … 1", x.Threshold)
	}
	return inRange("XAttentionParams", bound{"Tail", x.Tail, 0})
}

func (x xAttention) Cut(s Shape) []Rows { return cutBlocks(s, xBlock, x.Tail) }

func (x xAttention) Plan(g *Group) {
	if g.attendTail(x.Tail) {
		return
	}
	own := g.From / xBlock
	for h, sums := range x.blockSums(g) {
		kept := make([]bool, own+1)
		all, have := 0.0, 0.0
		for c, sum := range sums {
			all += float64(sum)
			if c == 0 || c == own {
				kept[c] = true
				have += float64(sum)
				sums[c] = 0 // comes last among the others
			}
		}
		for _, c := range heaviest(sums, len(sums), x.Threshold*all-have, &g.worker.ranked) {
			kept[c] = true
		}
		g.AttendHead(StageSparse, h, KeySet{Spans: g.marked(kept, xBlock)})
	}
}

// blockSums returns for each head the sums of the group's softmax by blocks of keys.
func (x xAttention) blockSums(g *Group) [][]float32 {
	w := g.worker
	w.enter(StageSearch)
	a := x.antidiagonals(g)
	strides := (g.To + x.Stride - 1) / x.Stride // of keys
	blocks := g.From/xBlock + 1
	products := grow(&w.keyed, strides*a.width)
	for j := 0; j < g.To && !w.stopped(); {
		n := a.multiply(j, products[j/x.Stride*a.width:])
		j += n
	}
	g.searched += int64(g.NumHeads) * int64(a.used) * int64(strides) * int64(x.Stride)

	// The softmax of each column, over the strides of keys up to its own.
	scratch := grow(&w.softmaxes, 2*a.width)
	top, sum := scratch[:a.width], scratch[a.width:]
	own := grow(&w.seen, a.width)
	for c := range own {
		own[c] = int32(a.first + c%a.columns)
		top[c], sum[c] = -inf, 0
	}
	if past := strides - a.first; past > 0 {
		w.kernels.Mask(past, a.width, products[a.first*a.width:], a.width, own, a.first, maxPosition, 0)
	}
	const atOnce = 64 // columns that ColMax takes
	for c := 0; c < a.width; c += atOnce {
		n := min(atOnce, a.width-c)
		w.kernels.ColMax(strides, n, products[c:], a.width, a.unit, 0, top[c:c+n], sum[c:c+n])
	}
	w.kernels.ExpSum(strides, a.width, products, a.width, a.unit, top, sum)
	for c, x := range sum {
		sum[c] = 1 / x
	}
	w.kernels.ScaleCols(strides, a.width, products, a.width, sum)
	sums := make([][]float32, g.NumHeads)
	for h := range sums {
		sums[h] = make([]float32, blocks)
		for j := range strides {
			for _, share := range products[j*a.width+h*a.columns:][:a.used] {
				sums[h][j*x.Stride/xBlock] += share
			}
		}
	}
	return sums
}

// Antidiagonals are the strides of a group's rows, ready to be multiplied with strides of keys.
type antidiagonals struct {
	*Group
	stride         int
	first, used    int       // the first stride, and how many there are
	columns, width int       // of products: of a head, and of all
	depth          int       // numbers or pairs in a row of keys
	unit           float32   // turns products into logits in powers of two
	rows           []float32 // [stride][depth][width]
	pairs          []uint32  // or likewise
}

func (x xAttention) antidiagonals(g *Group) *antidiagonals {
	w := g.worker
	a := &antidiagonals{Group: g, stride: x.Stride, first: g.From / x.Stride, depth: g.Dim}
	a.used = (g.To+x.Stride-1)/x.Stride - a.first
	a.columns = a.used
	a.width = padded(g.NumHeads*a.columns, lanes)
	a.unit = 1
	if w.inPairs {
		a.unit = w.scoreUnit / float32(x.Stride)
		a.depth = w.depth(g.Dim)
		a.pairs = grow(&w.halves, x.Stride*a.depth*a.width)
		clear(a.pairs)
	} else {
		a.rows = grow(&w.pool, x.Stride*a.depth*a.width)
		clear(a.rows)
	}
	var negative uint16 // where the scale is
	if w.scale < 0 {
		negative = 0x8000
	}
	one := grow(&w.row, g.Dim)
	for h := range g.NumHeads {
		for p := g.From; p < g.To; p++ {
			column := h*a.columns + p/x.Stride - a.first
			s := x.Stride - 1 - p%x.Stride
			if w.inPairs {
				_, q, _ := g.seq.Q.run(g.FirstHead+h, p-g.First())
				for d, b := range q[:g.Dim] {
					a.pairs[(s*a.depth+d/2)*a.width+column] |= uint32(b^negative) << (d % 2 * 16)
				}
				continue
			}
			g.seq.Q.read(w.kernels, one, g.FirstHead+h, p-g.First())
			for d, y := range one {
				a.rows[(s*a.depth+d)*a.width+column] = float32(float64(y) * w.scale / float64(x.Stride))
			}
		}
	}
	return a
}

// multiply writes the products of the strides of keys from position j on, a multiple of the stride, and returns how many
// keys those are.
func (a *antidiagonals) multiply(j int, products []float32) (keys int) {
	w := a.worker
	most := w.BlockKeys / a.stride * a.stride
	if most == 0 {
		most = a.stride
	}
	n := min(most, a.To-j)
	strides := padded(n, a.stride) / a.stride
	k := &a.seq.K
	f32, u16, lie := k.run(a.KVHead, j) // so many rows as they lie
	if !w.inPairs {
		rows, step := f32, k.rowStep
		if f32 == nil || lie < n || n < strides*a.stride {
			rows, step = grow(&w.kbuf, max(strides*a.stride, w.BlockKeys)*a.Dim), a.Dim
			for i := range n {
				k.read(w.kernels, rows[i*step:][:step], a.KVHead, j+i)
			}
			clear(rows[n*step : strides*a.stride*step]) // keys that there are not are zero
		}
		for s := range a.stride {
			w.kernels.Gemm(strides, a.width, a.Dim, rows[s*step:], a.stride*step, 1, a.rows[s*a.depth*a.width:], a.width, products, a.width, s > 0)
		}
		return n
	}
	height := padded(strides, w.kernels.PairRows())
	rows, step := u16, k.rowStep
	if lie < n || n < height*a.stride || a.Dim < 2*a.depth {
		step = 2 * a.depth
		rows = grow(&w.kPairs, max(height*a.stride, w.BlockKeys)*step)
		for i := range n {
			_, x, _ := k.run(a.KVHead, j+i)
			copy(rows[i*step:][:step], x[:a.Dim])
			clear(rows[i*step+a.Dim : (i+1)*step])
		}
		clear(rows[n*step : height*a.stride*step])
	}
	out := products
	if height > strides { // the kernels write whole tiles
		out = grow(&w.scores, height*a.width)
	}
	w.kernels.BeginPairs()
	for s := range a.stride {
		w.kernels.GemmPairs(height, a.width, a.depth, rows[s*step:], a.stride*step, a.pairs[s*a.depth*a.width:], a.width, out, a.width, s > 0)
	}
	w.kernels.EndPairs()
	if height > strides {
		copy(products, out[:strides*a.width])
	}
	return n
}
