package anchor

import (
	"context"
	"fmt"
	"math"
	"slices"
)

// OracleParams are the parameters of the oracle: with the true softmax of its rows at hand, a group attends to the fewest
// keys before it that, with the group's own keys up to each row, hold so much of the mass, mean over the group's rows. No
// method that keeps a group's own keys and one set of keys before it can hold as much in every group with fewer. One with
// smaller groups can, and one that holds more in some groups than in others can in the mean. It costs more than dense
// attention.
type OracleParams struct {
	Rows int     // of a group, ≥ 1; 1 gives each row keys of its own
	Mass float64 // 0 … 1
	Tail int     // last rows of the prompt, which see every key, ≥ 0
}

// DefaultOracleParams returns groups as AnchorAttention has them.
func DefaultOracleParams() OracleParams { return OracleParams{Rows: 2048, Mass: 0.95, Tail: 128} }

// Oracle returns its planner.
func Oracle(p OracleParams) Planner { return oracle{p} }

type oracle struct{ OracleParams }

func (oracle) Name() string { return "oracle" }

func (o oracle) Validate() error {
	if !(o.Mass >= 0 && o.Mass <= 1) {
		return fmt.Errorf("OracleParams.Mass is %v; want 0 … 1", o.Mass)
	}
	return inRange("OracleParams", bound{"Rows", o.Rows, 1}, bound{"Tail", o.Tail, 0})
}

func (o oracle) Cut(s Shape) []Rows { return cutBlocks(s, o.Rows, o.Tail) }

func (o oracle) Plan(g *Group) {
	if g.attendTail(o.Tail) {
		return
	}
	var kept [][]int32
	for _, mass := range g.masses() {
		rows := float64(g.To - g.From)
		own := rows // what the rows have on the group's keys
		for _, x := range mass {
			own -= float64(x)
		}
		kept = append(kept, heaviest(mass, len(mass), o.Mass*rows-own, &g.worker.ranked))
	}
	for h, keys := range kept {
		g.AttendHead(StageSparse, h, KeySet{Spans: []Span{{g.From, g.To}}, Stripes: keys})
	}
}

// masses returns for each head, for every key before the group, the sum over the group's rows of their true softmax.
func (g *Group) masses() [][]float32 {
	w := g.worker
	w.enter(StageSearch)
	w.attendRange(g, 0, g.To, everywhere, false, 0, len(w.pos))
	lse := grow(&w.softmaxes, len(w.pos))
	for i := range lse {
		lse[i] = w.base[i] + float32(math.Log2(float64(w.sum[i])))
	}
	all := w.perKey(g.NumHeads, g.From)
	for _, x := range all {
		clear(x)
	}
	ignored := grow(&w.row, w.TileRows)
	if w.inPairs {
		w.kernels.BeginPairs()
		defer w.kernels.EndPairs()
	}
	for j := 0; j < g.From && !w.stopped(); {
		b := w.span(g, j, g.From, everywhere, false)
		for r := 0; r < len(w.pos); r += w.TileRows {
			held := g.held(r)
			columns := padded(held, lanes)
			w.score(g, &b, r, 0, b.n, columns, false)
			w.kernels.ExpSum(b.n, columns, w.tile, w.TileRows, w.scoreUnit, lse[r:], ignored)
			out := all[min(r/g.stride, g.NumHeads-1)][j:]
			for i := range b.n {
				sum := float32(0)
				for _, x := range w.tile[i*w.TileRows:][:held] {
					sum += x
				}
				out[i] += sum
			}
		}
		j += b.n
	}
	g.searched += 2 * int64(g.NumHeads) * int64(g.To-g.From) * int64(g.From)
	// The softmax begins anew.
	w.load(g, g.To-g.From, func(i int) int { return g.From + i })
	return all
}

// RowOracle returns, for each of the masses, the least density at which every row could hold so much of its own softmax
// mass: the bound of all methods, whatever keys they find and however fine. It looks at opt.AuditRows rows of each head, and
// at no planner.
func RowOracle(ctx context.Context, opt Options, masses []float64, seqs ...Sequence) ([]float64, error) {
	set, err := kernels()
	if err != nil {
		return nil, err
	}
	if opt.AuditRows < 1 {
		return nil, fmt.Errorf("anchor: Options.AuditRows is %d; want ≥ 1", opt.AuditRows)
	}
	for i, m := range masses {
		if !(m >= 0 && m <= 1) || i > 0 && m < masses[i-1] {
			return nil, fmt.Errorf("anchor: masses are %v; want 0 … 1, ascending", masses)
		}
	}
	opt.Planner, opt.TargetRecall = Dense(), 0
	r, err := newRun(set, opt, seqs)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { r.stop.Store(true) })()
	var pieces []sampled
	for i, s := range r.shapes {
		for _, row := range sampleRows(opt.AuditRows, s.Queries) {
			for h := range s.KVHeads {
				pieces = append(pieces, sampled{i, h, []int{row}})
			}
		}
	}
	needed, causal := make([]int64, len(masses)), int64(0)
	r.each(len(pieces), StageAudit, func(w *worker, n int) {
		g := r.sample(w, pieces[n])
		s := g.probe(func(int) []Span { return []Span{{g.From, g.To}} }, false)
		shares := w.perKey(g.NumHeads, g.To)
		s.softmax(func(first, n int, x []float32) {
			for h := range shares {
				for i := range n {
					shares[h][first+i] = x[i*s.width+h]
				}
			}
		})
		for _, x := range shares {
			slices.Sort(x)
			total := 0.0
			for _, y := range x {
				total += float64(y)
			}
			if !(total > 0.5) { // not finite: such rows have no mass to speak of
				continue
			}
			r.mu.Lock()
			causal += int64(len(x))
			sum, n := 0.0, 0
			for i, mass := range masses {
				for n < len(x) && sum < mass {
					n++
					sum += float64(x[len(x)-n])
				}
				needed[i] += int64(n)
			}
			r.mu.Unlock()
		}
	})
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	density := make([]float64, len(masses))
	for i, n := range needed {
		density[i] = float64(n) / float64(causal) // NaN if no row could be looked at
	}
	return density, nil
}
