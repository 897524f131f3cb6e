package bench

import (
	"context"
	"math"
	"slices"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/parallel"
	"github.com/anchorattention/anchor/report"
)

// mapSize is how many cells a map has in a row.
const mapSize = 64

// maps shows where the mass of some heads lies and what methods kept of it, at the settings that reach the recall or, where
// none is wanted, the density.
func (x *comparer) maps(ctx context.Context) error {
	cell := (x.input.Tokens + mapSize - 1) / mapSize
	size := (x.input.Tokens + cell - 1) / cell
	var kinds []string
	for h := range x.input.Heads {
		kind := ""
		if x.kind != nil {
			kind = x.kind(h)
		}
		if len(x.input.Maps) == x.Maps || kind != "" && slices.Contains(kinds, kind) {
			continue
		}
		kinds = append(kinds, kind)
		m := report.Map{Head: h, Kind: kind, Cell: cell, Size: size}
		var err error
		if m.Mass, err = x.mass(ctx, h, cell, size); err != nil {
			return err
		}
		x.input.Maps = append(x.input.Maps, m)
	}
	var shown []string
	for _, at := range x.goals {
		if slices.Contains(shown, at.point.Method) {
			continue
		}
		shown = append(shown, at.point.Method)
		kept, err := x.kept(ctx, at.opt, cell, size)
		if err != nil {
			return err
		}
		for n := range x.input.Maps {
			x.input.Maps[n].Kept = append(x.input.Maps[n].Kept, report.Kept{Method: at.point.Method, Point: at.index, Share: kept[n]})
		}
	}
	return nil
}

// kept runs a method and returns, for each map, the share of each cell's pairs that it attended to.
func (x *comparer) kept(ctx context.Context, opt anchor.Options, cell, size int) ([][]float64, error) {
	shares := make([][]float64, len(x.input.Maps))
	byHead := map[int][]float64{}
	for i, m := range x.input.Maps {
		shares[i] = make([]float64, size*size)
		byHead[m.Head] = shares[i]
	}
	opt.TargetRecall = 0 // as first planned: heads that are done again would count twice
	opt.Trace = func(t anchor.Trace) {
		if pairs := byHead[t.Head]; pairs != nil {
			countPairs(pairs, t, cell, size)
		}
	}
	opt.Engine = nil // engines have no traces
	if _, err := anchor.Attend(ctx, opt, x.out.seq); err != nil {
		return nil, err
	}
	all := make([]float64, size*size)
	first := x.input.Tokens - x.input.Queries
	countPairs(all, anchor.Trace{Rows: anchor.Span{From: first, To: x.input.Tokens}, Keys: anchor.KeySet{Spans: []anchor.Span{{From: 0, To: x.input.Tokens}}}}, cell, size)
	for _, pairs := range shares {
		for i := range pairs {
			if all[i] > 0 {
				pairs[i] /= all[i]
			}
		}
	}
	return shares, nil
}

// countPairs adds the pairs of a trace to the cells that they lie in.
func countPairs(pairs []float64, t anchor.Trace, cell, size int) {
	add := func(row, from, to int) { // of the row, keys [from, to)
		for from < to {
			end := min((from/cell+1)*cell, to)
			pairs[row/cell*size+from/cell] += float64(end - from)
			from = end
		}
	}
	for row := t.Rows.From; row < t.Rows.To; row++ {
		for _, s := range t.Keys.Spans {
			add(row, s.From, min(s.To, row+1))
		}
		for _, b := range t.Keys.Bands {
			add(row, max(row-b.Far, b.From), row-b.Near+1)
		}
	}
	for from := t.Rows.From; from < t.Rows.To; {
		to := min((from/cell+1)*cell, t.Rows.To)
		for _, j := range t.Keys.Stripes {
			pairs[from/cell*size+int(j)/cell] += float64(to - from)
		}
		from = to
	}
}

// mass returns the true softmax mass of a head's cells, mean over some rows of each.
func (x *comparer) mass(ctx context.Context, head, cell, size int) ([]float64, error) {
	const perCell = 4
	first := x.input.Tokens - x.input.Queries
	mass := make([]float64, size*size)
	parallel.For(parallel.Threads(x.Threads), size, func(_, r int) {
		from, to := max(r*cell, first), min((r+1)*cell, x.input.Tokens)
		n := min(perCell, to-from)
		for i := range n {
			if ctx.Err() != nil {
				return
			}
			row := from + (2*i+1)*(to-from)/(2*n)
			for j, share := range x.shares(head, row) {
				mass[r*size+j/cell] += share / float64(n)
			}
		}
	})
	return mass, ctx.Err()
}

// shares returns the softmax of a row over all keys that it sees.
func (x *comparer) shares(head, row int) []float64 {
	q, k := make([]float32, x.input.Dim), make([]float32, x.input.Dim)
	x.seq.Q.Read(q, head, row-(x.input.Tokens-x.input.Queries))
	logits := make([]float64, row+1)
	top := math.Inf(-1)
	for j := range logits {
		x.seq.K.Read(k, head*x.input.KVHeads/x.input.Heads, j)
		sum := float32(0)
		for d, y := range q {
			sum += y * k[d]
		}
		logits[j] = float64(sum) / math.Sqrt(float64(x.input.Dim))
		top = max(top, logits[j])
	}
	sum := 0.0
	for j, l := range logits {
		logits[j] = math.Exp(l - top)
		sum += logits[j]
	}
	for j := range logits {
		logits[j] /= sum
	}
	return logits
}
