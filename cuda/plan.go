package cuda

import (
	"cmp"
	"slices"

	"github.com/anchorattention/anchor"
)

// Args are the arguments of all kernels, laid out as in kernels/anchor.cu.
type args struct {
	q, k, v, o, lse                                                     uint64
	qHead, qRow, kHead, kRow, vHead, vRow, oHead, oRow, lseHead, lseRow int64
	tiles, anchors, pool, means, bits, words, counts, next              uint64
	heads, shared, queries, keys, first                                 int32
	tileCount, section                                                  int32
	block, step, init, local, denseFrom                                 int32
	groups, firstGroup                                                  int32
	scale, theta                                                        float32
}

// A tile is at most 128 query rows, as in kernels/anchor.cu.
type tile struct{ from, to, start, group int32 }

// A plan is what is known of a sequence's attention before it is computed.
type plan struct {
	anchor.Shape
	params *anchor.Params // nil: dense

	tiles  []tile // the longest first
	sparse []tile // those of them that have stripes
	groups []group
	words  []int64 // of bits: where each group's are, and how many in all
}

// A group is the rows of a group that have a window and perhaps stripes.
type group struct {
	start       int // first position, of the group
	from, to    int // rows that are neither before the call nor of the tail
	init, local int // candidates are the keys [init, local)
}

// sparse reports whether the group has rows and candidates.
func (g *group) sparse() bool { return g.from < g.to && g.init < g.local }

const tileRows = 128

func newPlan(s anchor.Shape, params *anchor.Params) *plan {
	p := &plan{Shape: s, params: params}
	first, denseFrom := s.First(), s.First()
	if params != nil {
		denseFrom = min(max(s.Prompt-params.Tail, s.First()), s.Keys)
	}
	cut := func(from, to, start, group int) []tile {
		var tiles []tile
		for ; from < to; from += tileRows {
			tiles = append(tiles, tile{int32(from), int32(min(from+tileRows, to)), int32(start), int32(group)})
		}
		return tiles
	}
	dense := cut(denseFrom, s.Keys, 0, -1)
	if params != nil {
		size := params.Block * params.Step
		p.words = append(p.words, 0)
		for start := first - first%size; start < s.Keys; start += size {
			g := group{start: start, from: max(start, first), to: min(start+size, denseFrom)}
			g.local = max(start-params.Local, 0)
			g.init = min(params.Init, g.local)
			n := len(p.groups)
			words := 0
			if g.sparse() {
				words = (start + 31) / 32
				p.sparse = append(p.sparse, cut(g.from, g.to, start, n)...)
			} else {
				dense = append(dense, cut(g.from, g.to, 0, -1)...)
			}
			p.groups = append(p.groups, g)
			p.words = append(p.words, p.words[n]+int64(words))
		}
	}
	longest := func(a, b tile) int { return cmp.Compare(b.to, a.to) }
	slices.SortStableFunc(dense, longest)
	slices.SortStableFunc(p.sparse, longest)
	p.tiles = append(dense, p.sparse...)
	return p
}

// causal counts the keys that the rows at positions [from, to) see, up to their own position, of those from start on.
func causal(from, to, start int) int64 {
	return int64(to-from) * int64(from+to+1-2*start) / 2
}

// account fills in what the plan attended to, given how many keys before it each head's group saw.
func (p *plan) account(res *anchor.Result, counts []int32) {
	for h := range p.Heads {
		head := &res.Heads[h]
		head.CausalPairs += causal(p.First(), p.Keys, 0)
		head.Pairs += causal(p.First(), p.Keys, 0)
		for i := range p.groups {
			g := &p.groups[i]
			if !g.sparse() {
				continue
			}
			seen := int64(counts[h*len(p.groups)+i])
			head.Pairs -= int64(g.to-g.from) * (int64(g.start) - seen)
			head.Stripes += seen - int64(g.init+g.start-g.local)
			head.Groups++
			res.SearchPairs += int64((g.to-1)/p.params.Block-g.from/p.params.Block+1) * int64(g.local-g.init)
		}
	}
}

// stripes lists the stripes that bits name.
func (p *plan) stripes(bits []uint32) anchor.StripeSet {
	set := anchor.StripeSet{Groups: len(p.groups), Offsets: make([]int64, 1, p.Heads*len(p.groups)+1)}
	all := p.words[len(p.groups)]
	for h := range p.Heads {
		for i, g := range p.groups {
			if g.sparse() {
				words := bits[int64(h)*all+p.words[i]:]
				for j := g.init; j < g.local; j++ {
					if words[j/32]>>(j%32)&1 != 0 {
						set.Indices = append(set.Indices, int32(j))
					}
				}
			}
			set.Offsets = append(set.Offsets, int64(len(set.Indices)))
		}
	}
	return set
}
