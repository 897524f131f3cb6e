package cuda

import (
	"cmp"
	"slices"

	"github.com/anchorattention/anchor"
)

// A plan is what is known of a call before it is computed.
type plan struct {
	shapes []anchor.Shape
	params *anchor.Params // nil: dense
	auto   bool           // dense where that is better
	costs  costs          // by which that is decided

	tiles  []tile  // the last ones first: they are the longest, or may be
	sparse []tile  // those of them that have stripes, in any order
	window []tile  // the rows of sparse ones in tiles of windowRows, but for those that are surveyed
	survey []tile  // the rows by which it is found out whether a group had better be dense, under auto
	groups []group // of all sequences in turn
	starts []int   // where each sequence's groups begin among them, and how many there are
	before []int64 // rows of the sequences before each, and of all
	words  int64   // of bits of a head
	keys   int     // of all sequences
}

func newPlan(params *anchor.Params, auto bool, costs costs, shapes ...anchor.Shape) *plan {
	p := &plan{shapes: shapes, params: params, auto: auto, costs: costs, starts: []int{0}, before: []int64{0}}
	var dense []tile
	for i, s := range shapes {
		dense = append(dense, p.cut(i, s)...)
		p.starts = append(p.starts, len(p.groups))
		p.before = append(p.before, p.before[i]+int64(s.Queries))
		p.keys += s.Keys
	}
	for _, tiles := range [][]tile{p.window, p.survey} {
		slices.SortStableFunc(tiles, func(a, b tile) int { return cmp.Compare(b.to-b.start, a.to-a.start) })
	}
	p.tiles = append(dense, p.sparse...)
	slices.SortStableFunc(p.tiles, func(a, b tile) int { return cmp.Compare(b.to, a.to) })
	return p
}

// cut adds a sequence's groups and sparse tiles, and returns the dense ones.
func (p *plan) cut(sequence int, s anchor.Shape) (dense []tile) {
	tiles := func(to *[]tile, rows, from, end, start, group int) {
		for ; from < end; from += rows {
			*to = append(*to, tile{int32(sequence), int32(from), int32(min(from+rows, end)), int32(start), int32(group)})
		}
	}
	first := s.First()
	if p.params == nil {
		tiles(&dense, tileRows, first, s.Keys, 0, -1)
		return dense
	}
	denseFrom := min(max(s.Prompt-p.params.Tail, first), s.Keys)
	tiles(&dense, tileRows, denseFrom, s.Keys, 0, -1)
	size, blocks := p.params.Block*p.params.Step, p.params.Step
	var groups []group
	saved := 0.0 // at most, by the stripes of all heads
	for start := first - first%size; start < s.Keys; start += size {
		local := max(start-p.params.Local, 0)
		g := group{sequence: int32(sequence), start: int32(start), init: int32(min(p.params.Init, local)), local: int32(local)}
		g.from, g.to = int32(max(start, first)), int32(min(start+size, denseFrom))
		g.most = int32(p.costs.most(g, size))
		saved += float64(s.Heads) * float64(g.most) * float64(max(g.to-g.from, 0))
		groups = append(groups, g)
	}
	if p.auto {
		blocks = surveyed(p.params, s)
	}
	for _, g := range groups {
		from, to, start := int(g.from), int(g.to), int(g.start)
		switch {
		case from >= to:
			g.from, g.to = 0, 0
		case g.init == g.local || p.auto && (g.most == 0 || saved < p.costs.worth(s.Dim)):
			tiles(&dense, tileRows, from, to, 0, -1)
			g.from, g.to = 0, 0
		default:
			g.bits, g.words, g.survey = p.words, int32((start+31)/32), int32(blocks)
			tiles(&p.sparse, tileRows, from, to, start, len(p.groups))
			rest := from
			if p.auto {
				rest = min((from/p.params.Block+blocks)*p.params.Block, to)
				tiles(&p.survey, windowRows, from, rest, start, len(p.groups))
			}
			tiles(&p.window, windowRows, rest, to, start, len(p.groups))
		}
		p.groups = append(p.groups, g)
		p.words += int64(g.words)
	}
	return dense
}

// surveyed returns how many blocks of a group are surveyed, under auto: those of its first rows with stripes, where anchors
// cost least since windows are shortest; they keep most, too, since anchors grow with windows. A row for every 32 keys costs 3 % of
// dense attention at 8192 keys and less beyond; more rows tell more of the others.
func surveyed(p *anchor.Params, s anchor.Shape) int {
	rows := min(max(s.Prompt/32, 256), 1024)
	return min(max(rows/p.Block, 1), 16, p.Step)
}

// surveys returns how many blocks of a group are surveyed, at least and at most: all, if that is no matter of auto.
func (p *plan) surveys() (least, most int32) {
	least = int32(p.params.Step)
	for _, g := range p.groups {
		if g.from < g.to {
			least, most = min(least, g.survey), max(most, g.survey)
		}
	}
	return least, most
}

// costs are what auto reckons with: what things take in the time of a key that all rows of a group see.
type costs struct {
	gather float64 // a key that is gathered
	window float64 // anchors, for each key of the window
	search float64 // for each candidate
	group  float64 // a group with stripes, whatever it keeps
	pairs  float64 // of a row and a key, of dim 128, whose time it takes to look for stripes at all
}

// measured on an H200; NOTES.md has what they were fitted to. pairs are some 35 µs, for launches and for the few tiles at the end that
// keep most of the device waiting.
var measured = costs{gather: 1.1, window: 0.6, search: 1.0 / 64, group: 600, pairs: 43e6}

// most returns how many candidates a group may keep before its rows had better see all keys.
func (c costs) most(g group, size int) int {
	candidates, window := float64(g.local-g.init), float64(g.init+g.start-g.local)+float64(size)/2
	return max(int((candidates*(1-c.search)-c.window*window-c.group)/c.gather), 0)
}

// worth returns how many pairs stripes must save before any are looked for.
func (c costs) worth(dim int) float64 { return c.pairs * 128 / float64(dim) }

// causal counts the keys that the rows at positions [from, to) see, up to their own position, of those from start on.
func causal(from, to, start int) int64 {
	return int64(to-from) * int64(from+to+1-2*start) / 2
}

// account fills in what was attended to, given how many keys before it each head's group saw, and how many of each head's rows are not
// finite.
func (p *plan) account(res *anchor.Result, counts, odd []int32) {
	for h := range res.Heads {
		head := &res.Heads[h]
		head.NonFiniteRows = int64(odd[h])
		res.NonFiniteRows += head.NonFiniteRows
		for _, s := range p.shapes {
			head.CausalPairs += causal(s.First(), s.Keys, 0)
		}
		head.Pairs = head.CausalPairs
		for i, g := range p.groups {
			if g.from == g.to {
				continue
			}
			head.Groups++
			block := int32(p.params.Block)
			blocks := (g.to-1)/block - g.from/block + 1
			if p.auto {
				res.SearchPairs += int64(min(blocks, g.survey)) * int64(min(g.local-g.init, surveyKeys))
			}
			seen := counts[h*len(p.groups)+i]
			if seen < 0 {
				head.DenseGroups++
				continue
			}
			head.Pairs -= int64(g.to-g.from) * int64(g.start-seen)
			head.Stripes += int64(seen - (g.init + g.start - g.local))
			res.SearchPairs += int64(blocks) * int64(g.local-g.init)
		}
		res.Pairs += head.Pairs
		res.CausalPairs += head.CausalPairs
		res.Stripes += head.Stripes
	}
	res.FLOPs = float64(p.shapes[0].Dim) * (4*float64(res.Pairs) + 2*float64(res.SearchPairs))
}

// stripes lists the stripes that bits name, by sequence: none where a group's rows see all keys.
func (p *plan) stripes(counts []int32, bits []uint32) []anchor.StripeSet {
	var sets []anchor.StripeSet
	for i, s := range p.shapes {
		groups := p.groups[p.starts[i]:p.starts[i+1]]
		set := anchor.StripeSet{Groups: len(groups), Offsets: make([]int64, 1, s.Heads*len(groups)+1)}
		for h := range s.Heads {
			for j, g := range groups {
				if g.from < g.to && counts[h*len(p.groups)+p.starts[i]+j] >= 0 {
					words := bits[int64(h)*p.words+g.bits:]
					for j := g.init; j < g.local; j++ {
						if words[j/32]>>(j%32)&1 != 0 {
							set.Indices = append(set.Indices, j)
						}
					}
				}
				set.Offsets = append(set.Offsets, int64(len(set.Indices)))
			}
		}
		sets = append(sets, set)
	}
	return sets
}
