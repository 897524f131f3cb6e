package anchor

import (
	"fmt"
	"math"
)

// FlexPrefillParams are the parameters of FlexPrefill (Lai et al., "FlexPrefill: A Context-Aware Sparse Attention
// Mechanism for Efficient Long-Sequence Inference", ICLR 2025, arXiv 2502.20766), block by block of 128 rows and keys.
//
// What follows is what the published code does, block by block, where the paper speaks of single lines; its blocks are kept
// up to the one that crosses Gamma, that one included. Query-aware heads take memory that grows with the square of the
// number of blocks: some 6 MiB each at 131,072 tokens.
//
// P being the softmax of the last block's queries over all keys, summed by blocks and averaged over the rows, and E the
// softmax of these queries' mean over the means of the blocks' keys, a head with √JSD(E, P) < Tau is query-aware,
// any other vertical-slash.
//
//   - Vertical-slash: the first column of blocks and then those of largest sums of P, and the main diagonal of blocks and
//     then those of largest sums. Where n single keys, or n single distances, are the fewest that hold Gamma of P, ⌊n/128⌋ + 1
//     blocks are kept, but not fewer than MinBudget keys.
//   - Query-aware: MinBudget keys of columns and of diagonals, and the fewest blocks that hold Gamma of the softmax of all
//     blocks' mean queries over the means of the blocks' keys, all rows taken together.
type FlexPrefillParams struct {
	Gamma     float64 // share of the mass that is to be held, 0 … 1
	Tau       float64 // divergence below which a head is query-aware, ≥ 0
	MinBudget int     // keys, ≥ 0
	Tail      int     // last rows of the prompt, which see every key, ≥ 0
}

// DefaultFlexPrefillParams returns the published parameters, with a tail of 128 rows.
func DefaultFlexPrefillParams() FlexPrefillParams {
	return FlexPrefillParams{Gamma: 0.95, Tau: 0.1, MinBudget: 1024, Tail: 128}
}

// FlexPrefill returns its planner.
func FlexPrefill(p FlexPrefillParams) Planner { return flexPrefill{p} }

type flexPrefill struct{ FlexPrefillParams }

const flexBlock = 128

func (flexPrefill) Name() string { return "flexprefill" }

func (f flexPrefill) Validate() error {
	switch {
	case !(f.Gamma >= 0 && f.Gamma <= 1):
		return fmt.Errorf("FlexPrefillParams.Gamma is %v; want 0 … 1", f.Gamma)
	case !(f.Tau >= 0):
		return fmt.Errorf("FlexPrefillParams.Tau is %v; want ≥ 0", f.Tau)
	}
	return inRange("FlexPrefillParams", bound{"MinBudget", f.MinBudget, 0}, bound{"Tail", f.Tail, 0})
}

func (f flexPrefill) Cut(s Shape) []Rows { return cutBlocks(s, flexBlock, f.Tail) }

func (flexPrefill) surveyed(s Shape) Rows {
	return Rows{From: max(s.Keys-flexBlock, s.First()), To: s.Keys, PerHead: true}
}

// A flexHead is what FlexPrefill keeps of one head.
type flexHead struct {
	queryAware bool
	columns    []bool   // blocks of keys
	distances  []bool   // from a block of rows to one of keys, in blocks
	first      int      // the first block that holds a row of the call
	blocks     [][]bool // of each block of rows from there, the blocks that are kept beside
}

func (f flexPrefill) survey(g *Group) []any {
	means := g.meanKeys(flexBlock)
	columns, distances := g.sumLast()
	rows := float32(g.To - g.From)
	budget := (f.MinBudget + flexBlock - 1) / flexBlock
	found := make([]any, g.NumHeads)
	for h := range found {
		estimate := means.scores(g, h, means.blocks)
		softmax(estimate)
		truth := inBlocks(columns[h], 1/rows)
		head := &flexHead{queryAware: rootJSD(estimate, truth) < f.Tau, first: g.First() / flexBlock}
		keep := func(single, blocks []float32) []bool {
			n := budget
			if !head.queryAware {
				n = max(n, len(heaviest(single, len(single), f.Gamma*float64(rows), &g.worker.ranked))/flexBlock+1)
			}
			kept := make([]bool, len(blocks))
			for _, b := range heaviestAfter(1, blocks, n, &g.worker.ranked) {
				kept[b] = true
			}
			return kept
		}
		head.columns = keep(columns[h], truth)
		head.distances = keep(distances[h], inBlocks(distances[h], 1))
		if head.queryAware {
			head.blocks = f.cover(g, h, means)
		}
		found[h] = head
	}
	return found
}

// cover returns the fewest blocks that hold Gamma of the softmax of mean queries over mean keys, by block of rows.
func (f flexPrefill) cover(g *Group, head int, means *blockMeans) [][]bool {
	var flat []float32
	var ends []int
	for from := g.First(); from < g.Keys; {
		row := *g
		row.From, row.To = from, min((from/flexBlock+1)*flexBlock, g.Keys)
		scores := means.scores(&row, head, from/flexBlock+1)
		g.searched = row.searched
		softmax(scores)
		flat = append(flat, scores...)
		ends = append(ends, len(flat))
		from = row.To
	}
	all := make([]bool, len(flat))
	for _, i := range heaviest(flat, len(flat), f.Gamma*float64(len(ends)), &g.worker.ranked) {
		all[i] = true
	}
	kept := make([][]bool, len(ends))
	from := 0
	for r, to := range ends {
		kept[r] = all[from:to]
		from = to
	}
	return kept
}

func (f flexPrefill) Plan(g *Group) {
	if g.attendTail(f.Tail) {
		return
	}
	own := g.From / flexBlock
	for h := range g.NumHeads {
		head := g.surveyed[h].(*flexHead)
		kept := make([]bool, own+1)
		for c := range kept {
			kept[c] = head.columns[c] || head.distances[own-c] || head.queryAware && head.blocks[own-head.first][c]
		}
		if g.choice[h] = "vertical-slash"; head.queryAware {
			g.choice[h] = "query-aware"
		}
		g.AttendHead(StageSparse, h, KeySet{Spans: g.marked(kept, flexBlock)})
	}
}

// inBlocks returns the sums of x by blocks, times a factor.
func inBlocks(x []float32, factor float32) []float32 {
	sums := make([]float32, (len(x)+flexBlock-1)/flexBlock)
	for i, y := range x {
		sums[i/flexBlock] += y * factor
	}
	return sums
}

// softmax turns logits in powers of two into shares.
func softmax(x []float32) {
	top, sum := -inf, 0.0
	for _, y := range x {
		top = max(top, y)
	}
	for i, y := range x {
		e := math.Exp2(float64(y - top))
		x[i] = float32(e)
		sum += e
	}
	for i := range x {
		x[i] = float32(float64(x[i]) / sum)
	}
}

// rootJSD returns the square root of the Jensen–Shannon divergence of two distributions, in nats.
func rootJSD(p, q []float32) float64 {
	sum := 0.0
	part := func(x, mean float64) {
		if x > 0 {
			sum += x * math.Log(x/mean) / 2
		}
	}
	for i := range p {
		a, b := float64(p[i]), float64(q[i])
		part(a, (a+b)/2)
		part(b, (a+b)/2)
	}
	return math.Sqrt(max(sum, 0))
}
