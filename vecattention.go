package anchor

import (
	"fmt"
	"math"
)

// VecAttentionParams are the parameters of VecAttention ("VecAttention: Vector-wise Sparse Attention for Accelerating Long
// Context Inference", CVPR 2026, arXiv 2603.29494): the mean query of a tile of rows scores every key that the tile's last
// row sees, and those are kept whose score is within Gap of the largest, beside the first keys and the local band.
type VecAttentionParams struct {
	Rows  int     // of a tile, ≥ 1
	Gap   float64 // nats below the largest score, −ln of the method's threshold; +Inf allowed
	Init  int     // first keys, always attended, ≥ 0
	Local int     // keys just before a tile, always attended, ≥ 0
	Tail  int     // last rows of the prompt, which see every key, ≥ 0
}

// DefaultVecAttentionParams returns tiles of 128 rows and a threshold of 0.001, with the spans that AnchorAttention keeps.
func DefaultVecAttentionParams() VecAttentionParams {
	return VecAttentionParams{Rows: 128, Gap: -math.Log(0.001), Init: 128, Local: 128, Tail: 128}
}

// VecAttention returns its planner.
func VecAttention(p VecAttentionParams) Planner { return vecAttention{p} }

type vecAttention struct{ VecAttentionParams }

func (vecAttention) Name() string { return "vecattention" }

func (v vecAttention) Validate() error {
	if math.IsNaN(v.Gap) {
		return fmt.Errorf("VecAttentionParams.Gap is NaN; want a number or ±Inf")
	}
	return inRange("VecAttentionParams", bound{"Rows", v.Rows, 1}, bound{"Init", v.Init, 0}, bound{"Local", v.Local, 0}, bound{"Tail", v.Tail, 0})
}

func (v vecAttention) Cut(s Shape) []Rows { return cutBlocks(s, v.Rows, v.Tail) }

func (v vecAttention) Plan(g *Group) {
	if g.attendTail(v.Tail) {
		return
	}
	local := max(g.From-g.From%v.Rows-v.Local, 0)
	init := min(v.Init, local)
	g.Attend(StageWindow, KeySet{Spans: []Span{{0, init}, {local, g.To}}})
	if init == local {
		return
	}
	s := g.probe(func(int) []Span { return []Span{{g.From, g.To}} }, false)
	scores := g.worker.perKey(g.NumHeads, g.To)
	s.each(Span{0, g.To}, func(first, n int, products []float32) {
		for h := range scores {
			for i := range n {
				scores[h][first+i] = products[i*s.width+h]
			}
		}
	})
	for h, x := range scores {
		top := -inf
		for _, y := range x {
			top = max(top, y)
		}
		least := top - float32(v.Gap*math.Log2E)
		var kept []int32
		for j := init; j < local; j++ {
			if !(x[j] < least) {
				kept = append(kept, int32(j))
			}
		}
		g.AttendHead(StageSparse, h, KeySet{Stripes: kept})
	}
}
