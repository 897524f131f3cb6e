package anchor

import (
	"fmt"
	"math"
)

// An AblationParams is AnchorAttention with its rule of choice replaced. The window, the groups, the blocks of rows and
// their scores are those of [Params]; with s_ij the logit of block i's mean query with candidate key j and a_i its anchor, or what
// stands for their difference where blocks have parts:
type AblationParams struct {
	Params
	Choice Choice
	Keys   int     // of ByCount, ≥ 0
	Mass   float64 // of ByMass, 0 … 1
}

// A Choice is the rule by which a group's stripes are chosen.
type Choice int

const (
	ByScore Choice = iota // without anchor: the keys with s_ij ≥ −Theta for a block i
	ByBlock               // blocks of keys: those of Block keys whose mean of s_ij is within Theta of a_i for a block i
	ByCount               // top-k: the Keys keys of largest max_i s_ij − a_i
	ByMass                // the fewest keys that hold Mass of the candidates' Σ_i e^(s_ij − a_i)
)

// Ablation returns its planner.
func Ablation(p AblationParams) Planner { return ablation{p} }

type ablation struct{ AblationParams }

var choices = []string{"anchor-score", "anchor-block", "anchor-topk", "anchor-mass"}

func (a ablation) Name() string {
	if a.Choice < 0 || int(a.Choice) >= len(choices) {
		return fmt.Sprintf("anchor-choice-%d", int(a.Choice))
	}
	return choices[a.Choice]
}

func (a ablation) Validate() error {
	switch {
	case a.Choice < ByScore || a.Choice > ByMass:
		return fmt.Errorf("AblationParams.Choice is %d; want %d … %d", a.Choice, ByScore, ByMass)
	case a.Choice == ByMass && !(a.Mass >= 0 && a.Mass <= 1):
		return fmt.Errorf("AblationParams.Mass is %v; want 0 … 1", a.Mass)
	}
	if err := inRange("AblationParams", bound{"Keys", a.Keys, 0}); err != nil {
		return err
	}
	return a.Params.Validate()
}

func (a ablation) validateFor(s Shape) error {
	return (&anchorAttention{Params: a.Params}).validateFor(s)
}

func (a ablation) Cut(s Shape) []Rows { return a.cut(s) }

func (a ablation) Plan(g *Group) {
	candidates, any := a.attendWindow(g)
	if !any {
		return
	}
	s := a.probe(g)
	w := g.worker
	theta := func(head int) float64 { return a.theta(g.FirstHead + head) }
	var kept [][]int32
	var found [][]float32
	switch a.Choice {
	case ByScore:
		clear(s.anchors)
		kept = s.search(candidates, theta)
	case ByBlock:
		a.attendBlocks(s, candidates, theta)
		return
	case ByCount:
		found = s.nearest(candidates)
	case ByMass:
		found = s.masses(candidates)
	}
	for h, x := range found {
		limit, mass := a.Keys, math.Inf(1)
		if a.Choice == ByMass {
			limit, mass = len(x), 0
			for _, y := range x {
				mass += float64(y)
			}
			mass *= a.Mass
		}
		kept = append(kept, heaviest(x, limit, mass, &w.ranked))
		shift(kept[h], candidates.From)
	}
	for h, keys := range kept {
		g.AttendHead(StageSparse, h, KeySet{Stripes: keys})
	}
}

// masses returns for each head, for every key, the sum over the head's vectors of 2^(logit − anchor), each at most 2^100.
func (s *probe) masses(keys Span) [][]float32 {
	all := s.worker.perKey(s.NumHeads, keys.To-keys.From)
	ignored := make([]float32, s.width)
	most := make([]float32, s.width)
	for c, anchor := range s.anchors {
		most[c] = anchor + 100 // far from what single precision cannot hold, and sums of it too
	}
	share := func(h, c int) float32 {
		if s.ends == nil {
			return 1
		}
		return float32(s.shares[h][c])
	}
	s.each(keys, func(first, n int, scores []float32) {
		for i := range n {
			row := scores[i*s.width:][:s.width]
			for c, x := range row {
				if x > most[c] {
					row[c] = most[c]
				}
			}
		}
		s.worker.kernels.ExpSum(n, s.width, scores, s.width, 1, s.anchors, ignored)
		for h, out := range all {
			for i := range n {
				sum := float32(0)
				for c, x := range scores[i*s.width+h*s.columns:][:len(s.spans[h])] {
					sum += share(h, c) * x
				}
				out[first-keys.From+i] = sum
			}
		}
	})
	return all
}

// attendBlocks attends to the blocks of candidates whose mean score is near enough to an anchor.
func (a ablation) attendBlocks(s *probe, candidates Span, theta func(head int) float64) {
	first := candidates.From / a.Block
	blocks := (candidates.To-1)/a.Block - first + 1
	means := s.worker.perKey(1, blocks*s.width)[0]
	clear(means)
	s.each(candidates, func(from, n int, scores []float32) {
		for i := range n {
			s.worker.kernels.Add(means[((from+i)/a.Block-first)*s.width:][:s.width], scores[i*s.width:][:s.width])
		}
	})
	for h := range s.NumHeads {
		var spans []Span
		for b := range blocks {
			from := max((first+b)*a.Block, candidates.From)
			to := min((first+b+1)*a.Block, candidates.To)
			scores := means[b*s.width+h*s.columns:][:s.columns]
			for c := range scores {
				scores[c] /= float32(to - from)
			}
			if !(-s.above(h, scores) > float32(theta(h)*math.Log2E)) {
				spans = append(spans, Span{from, to})
			}
		}
		s.AttendHead(StageSparse, h, KeySet{Spans: spans})
	}
}
