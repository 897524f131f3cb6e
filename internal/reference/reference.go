// Package reference computes the operator as its definition states it, in double precision: nothing shared, nothing blocked,
// nothing online. Tests hold everything else against it.
package reference

import (
	"math"
	"slices"

	"github.com/anchorattention/anchor/internal/parallel"
)

// A Problem is one sequence in plain slices: Q [Heads, Queries, Dim], K and V [KVHeads, Keys, Dim].
type Problem struct {
	Heads, KVHeads, Dim int
	Queries, Keys       int
	Q, K, V             []float32
	Prompt              int      // 0: Keys
	Scale               *float32 // nil: 1/√Dim
}

// Params are those of AnchorAttention as published.
type Params struct {
	Block, Step, Init, Local, Tail int
	Theta                          float64
}

// First returns the position of the first query.
func (p *Problem) First() int { return p.Keys - p.Queries }

// Factor is what q·k is multiplied by.
func (p *Problem) Factor() float64 {
	if p.Scale != nil {
		return float64(*p.Scale)
	}
	return 1 / math.Sqrt(float64(p.Dim))
}

// Query, Key and Value return one row of the head of a query head.
func (p *Problem) Query(head, row int) []float32 { return p.Q[(head*p.Queries+row)*p.Dim:][:p.Dim] }
func (p *Problem) Key(head, key int) []float32   { return p.K[p.at(head, key):][:p.Dim] }
func (p *Problem) Value(head, key int) []float32 { return p.V[p.at(head, key):][:p.Dim] }

func (p *Problem) at(head, key int) int { return (head*p.KVHeads/p.Heads*p.Keys + key) * p.Dim }

// Logit is scale·q·k in nats.
func (p *Problem) Logit(head, row, key int) float64 {
	k := p.Key(head, key)
	var s float64
	for d, x := range p.Query(head, row) {
		s += float64(x) * float64(k[d])
	}
	return s * p.Factor()
}

// denseFrom is the position from which rows see every key.
func (p *Problem) denseFrom(params *Params) int {
	prompt := p.Prompt
	if prompt == 0 {
		prompt = p.Keys
	}
	if params == nil {
		return 0
	}
	return prompt - params.Tail
}

// groups returns the first group that holds a query, how many there are, and their size. Dense attention has one.
func (p *Problem) groups(params *Params) (first, n, size int) {
	size = math.MaxInt32
	if params != nil {
		size = params.Block * params.Step
	}
	first = p.First() / size
	return first, (p.Keys-1)/size - first + 1, size
}

// sees reports whether a row at position pos of the group that starts at start has a key in its window, or sees all.
func (p *Problem) sees(params *Params, start, pos, key int) bool {
	return key <= pos && (params == nil || pos >= p.denseFrom(params) || key < params.Init || key >= start-params.Local)
}

// A Search is the stripes of every group, by head · groups + group, ascending.
type Search struct {
	Stripes [][]int32
	Near    [][]int32 // keys that one of the group's blocks puts so near θ that rounding may decide
	Groups  int       // of one head, those with candidates and a row that looks for stripes among them

	Candidates, Pairs int64 // of all heads and groups; of them with each mean query
}

// Search finds the stripes. Near θ is what differs from it by less than near.
func (p *Problem) Search(params Params, near float64) *Search {
	first, groups, size := p.groups(&params)
	s := &Search{Stripes: make([][]int32, p.Heads*groups), Near: make([][]int32, p.Heads*groups)}
	blocks, candidates := make([]int64, p.Heads*groups), make([]int64, p.Heads*groups)
	parallel.For(parallel.Threads(0), p.Heads*groups, func(_, i int) {
		head, start := i/groups, (first+i%groups)*size
		queries, anchors := p.means(params, head, start)
		for j := params.Init; j < start-params.Local && len(queries) > 0; j++ {
			keep, close := false, false
			k := p.Key(head, j)
			for b, q := range queries {
				var score float64
				for d := range q {
					score += q[d] * float64(k[d])
				}
				difference := anchors[b] - score*p.Factor()
				keep = keep || !(difference > params.Theta)
				close = close || math.Abs(difference-params.Theta) < near
			}
			if keep {
				s.Stripes[i] = append(s.Stripes[i], int32(j))
			}
			if close {
				s.Near[i] = append(s.Near[i], int32(j))
			}
			blocks[i], candidates[i] = int64(len(queries)), candidates[i]+1
		}
	})
	for i, n := range candidates {
		s.Candidates += n
		s.Pairs += n * blocks[i]
		if n > 0 && i < groups {
			s.Groups++
		}
	}
	return s
}

// means returns the mean query and the mean anchor of each block of a group in which a row looks for stripes.
func (p *Problem) means(params Params, head, start int) (queries [][]float64, anchors []float64) {
	for b := start; b < min(start+params.Block*params.Step, p.Keys); b += params.Block {
		mean, anchor, n := make([]float64, p.Dim), 0.0, 0
		for pos := max(b, p.First()); pos < min(b+params.Block, p.Keys, p.denseFrom(&params)); pos++ {
			row, top := pos-p.First(), math.Inf(-1)
			for j := range pos + 1 {
				if p.sees(&params, start, pos, j) {
					top = math.Max(top, p.Logit(head, row, j))
				}
			}
			for d, x := range p.Query(head, row) {
				mean[d] += float64(x)
			}
			anchor += top
			n++
		}
		if n > 0 {
			for d := range mean {
				mean[d] /= float64(n)
			}
			queries, anchors = append(queries, mean), append(anchors, anchor/float64(n))
		}
	}
	return queries, anchors
}

// An Answer is attention to a set of keys.
type Answer struct {
	O, LSE []float64
	Pairs  int64     // attended
	Recall []float64 // by head · Queries + row
}

// Attend attends to each row's window and to the stripes of its group, ascending; to every key without params.
func (p *Problem) Attend(params *Params, stripes [][]int32) *Answer {
	rows := p.Heads * p.Queries
	a := &Answer{O: make([]float64, rows*p.Dim), LSE: make([]float64, rows), Recall: make([]float64, rows)}
	first, groups, size := p.groups(params)
	pairs := make([]int64, rows)
	parallel.For(parallel.Threads(0), rows, func(_, i int) {
		head, pos := i/p.Queries, p.First()+i%p.Queries
		group := pos / size
		var mine []int32
		if params != nil {
			mine = stripes[head*groups+group-first]
		}
		logits, seen := make([]float64, pos+1), make([]bool, pos+1)
		top, topAll := math.Inf(-1), math.Inf(-1)
		for j := range logits {
			_, stripe := slices.BinarySearch(mine, int32(j))
			logits[j], seen[j] = p.Logit(head, i%p.Queries, j), stripe || p.sees(params, group*size, pos, j)
			topAll = math.Max(topAll, logits[j])
			if seen[j] {
				top = math.Max(top, logits[j])
			}
		}
		var sum, all float64
		o := a.O[i*p.Dim:][:p.Dim]
		for j, s := range logits {
			all += math.Exp(s - topAll)
			if !seen[j] {
				continue
			}
			pairs[i]++
			w := math.Exp(s - top)
			sum += w
			for d, v := range p.Value(head, j) {
				o[d] += w * float64(v)
			}
		}
		for d := range o {
			o[d] /= sum
		}
		a.LSE[i] = top + math.Log(sum)
		a.Recall[i] = math.Exp(a.LSE[i] - topAll - math.Log(all))
	})
	for _, n := range pairs {
		a.Pairs += n
	}
	return a
}
