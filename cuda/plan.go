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

func newPlan(params *anchor.Params, auto bool, shapes ...anchor.Shape) *plan {
	p := &plan{shapes: shapes, params: params, auto: auto, starts: []int{0}, before: []int64{0}}
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
	size := p.params.Block * p.params.Step
	for start := first - first%size; start < s.Keys; start += size {
		from, to := max(start, first), min(start+size, denseFrom)
		local := max(start-p.params.Local, 0)
		init := min(p.params.Init, local)
		g := group{bits: p.words, sequence: int32(sequence), start: int32(start), init: int32(init), local: int32(local)}
		g.most = int32(most(init, local, start, size))
		if from < to && init < local && !(p.auto && g.most == 0) {
			g.from, g.to, g.words = int32(from), int32(to), int32((start+31)/32)
			tiles(&p.sparse, tileRows, from, to, start, len(p.groups))
			surveyed := from
			if p.auto {
				surveyed = min((from/p.params.Block+p.surveyed())*p.params.Block, to)
				tiles(&p.survey, windowRows, from, surveyed, start, len(p.groups))
			}
			tiles(&p.window, windowRows, surveyed, to, start, len(p.groups))
		} else {
			tiles(&dense, tileRows, from, to, 0, -1)
		}
		p.groups = append(p.groups, g)
		p.words += int64(g.words)
	}
	return dense
}

// surveyed returns how many blocks of a group are surveyed, under auto: those of its first rows with stripes, where anchors
// cost least since windows are shortest; they keep most, too, since anchors grow with windows. A row for every 32 keys costs 3 % of
// dense attention at 8192 keys and less beyond; more rows tell more of the others.
func (p *plan) surveyed() int {
	longest := 0
	for _, s := range p.shapes {
		longest = max(longest, s.Keys)
	}
	rows := min(max(longest/32, 256), 1024)
	return min(max(rows/p.params.Block, 1), 16, p.params.Step)
}

// most returns how many candidates a group may keep before its rows had better see all keys. Times are those of a key that all rows
// see: a gathered one takes 1.1, anchors 0.6 of the window once more, the search 1/64 of the candidates, and what groups
// with stripes take whatever they keep is that of 600 keys (NOTES.md has the measurements that this was fitted to).
func most(init, local, start, size int) int {
	candidates, window := float64(local-init), float64(init+start-local)+float64(size)/2
	return max(int((candidates-candidates/64-0.6*window-600)/1.1), 0)
}

// worth returns what stripes must save, in 65536 pairs of a row and a key, before any are looked for: the launches and the
// few tiles at the end that keep most of the device waiting take some 35 µs, in which 43 million pairs of dim 128 are done.
func worth(dim int) int32 { return int32(43e6 * 128 / 65536 / float64(dim)) }

// causal counts the keys that the rows at positions [from, to) see, up to their own position, of those from start on.
func causal(from, to, start int) int64 {
	return int64(to-from) * int64(from+to+1-2*start) / 2
}

// account fills in what was attended to, given how many keys before it each head's group saw.
func (p *plan) account(res *anchor.Result, counts []int32) {
	for h := range res.Heads {
		head := &res.Heads[h]
		for _, s := range p.shapes {
			head.CausalPairs += causal(s.First(), s.Keys, 0)
		}
		head.Pairs = head.CausalPairs
		for i, g := range p.groups {
			if g.from == g.to {
				continue
			}
			head.Groups++
			seen := counts[h*len(p.groups)+i]
			if seen < 0 {
				head.DenseGroups++
				continue
			}
			head.Pairs -= int64(g.to-g.from) * int64(g.start-seen)
			head.Stripes += int64(seen - (g.init + g.start - g.local))
			block := int32(p.params.Block)
			res.SearchPairs += int64((g.to-1)/block-g.from/block+1) * int64(g.local-g.init)
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
