package anchor

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
)

// MInferenceParams are the parameters of MInference (Jiang et al., "MInference 1.0: Accelerating Pre-filling for
// Long-Context LLMs via Dynamic Sparse Attention", NeurIPS 2024, arXiv 2407.02490): a pattern for each head, found once for a
// model, that is filled in for each prompt.
type MInferenceParams struct {
	Pattern Pattern   // of every head, unless there is one
	Heads   []Pattern // for each query head
	Tail    int       // last rows of the prompt, which see every key, ≥ 0
}

// A Pattern says how the keys of one head are found.
type Pattern struct {
	Kind PatternKind

	// Of VerticalSlash: how many single keys and how many diagonals are kept. Of AShape: the first keys and the last ones.
	Vertical, Slash int
	Blocks          int // of BlockSparse: how many blocks of 64 keys each block of 64 rows attends to
}

// A PatternKind is the shape of a pattern, by the name that MInference's files give it.
type PatternKind string

const (
	// VerticalSlash keeps whole columns and diagonals. With P the softmax of the last 64 queries of the call over all keys,
	// the columns are the first 30 keys and then those of largest Σ_i P[i][j], Vertical in all, and the diagonals the 100
	// nearest distances and then those of largest Σ_i P[i][pos(i) − d], Slash in all, but at least the 30 and the 100. As in the
	// published kernel, the rows of a block of 64 are done together, and a diagonal becomes a square: of a block the rows
	// [a, b) that are in the call and not of the tail attend to the columns, and for each kept distance d to the keys
	// [a − d, b − d).
	VerticalSlash PatternKind = "vertical_and_slash"
	// BlockSparse keeps, for each block of rows, its own and then those of largest mean query · mean key, Blocks in all.
	BlockSparse PatternKind = "block_sparse"
	// AShape keeps the first keys and a sliding window, as StreamingLLM does.
	AShape PatternKind = "stream_llm"
)

const (
	minferenceBlock  = 64  // rows that are done together
	minferenceLast   = 64  // queries that are looked at
	minferenceFirst  = 30  // columns always kept
	minferenceNear   = 100 // diagonals always kept
	minferenceBlocks = 100 // that BlockSparse keeps
)

// DefaultMInferenceParams returns the vertical-slash pattern for all heads.
func DefaultMInferenceParams() MInferenceParams {
	return MInferenceParams{Pattern: Pattern{Kind: VerticalSlash, Vertical: 1024, Slash: 8192, Blocks: minferenceBlocks}, Tail: 128}
}

// MInference returns its planner.
func MInference(p MInferenceParams) Planner { return minference{p} }

// ReadPatterns reads MInference's files of patterns and returns them by layer and head: an array of an object for each
// layer, of which "7": ["vertical_and_slash", 1000, 6096, 0.98] gives a head's pattern, its two sizes and how well it did.
func ReadPatterns(r io.Reader) ([][]Pattern, error) {
	var layers []map[string][]json.RawMessage
	d := json.NewDecoder(r)
	if err := d.Decode(&layers); err != nil {
		return nil, fmt.Errorf("patterns: %w", err)
	}
	if _, err := d.Token(); err != io.EOF {
		return nil, errors.New("patterns: there is more after the array of layers; want nothing")
	}
	all := make([][]Pattern, len(layers))
	for l, heads := range layers {
		all[l] = make([]Pattern, len(heads))
		for name, fields := range heads {
			head, err := strconv.Atoi(name)
			if err != nil || head < 0 || head >= len(heads) || strconv.Itoa(head) != name {
				return nil, fmt.Errorf("patterns: layer %d has head %q; want 0 … %d, as it has %d", l, name, len(heads)-1, len(heads))
			}
			p := &all[l][head]
			if *p, err = readPattern(fields); err != nil {
				return nil, fmt.Errorf("patterns: layer %d, head %d: %w", l, head, err)
			}
		}
	}
	return all, nil
}

func readPattern(fields []json.RawMessage) (Pattern, error) {
	p := Pattern{Blocks: minferenceBlocks}
	if len(fields) < 3 {
		return p, fmt.Errorf("%d fields; want a kind and two sizes", len(fields))
	}
	for i, into := range []any{&p.Kind, &p.Vertical, &p.Slash} {
		if err := json.Unmarshal(fields[i], into); err != nil {
			return p, fmt.Errorf("field %d is %.40s: %w", i, fields[i], err)
		}
		if string(fields[i]) == "null" {
			return p, fmt.Errorf("field %d is null; want a kind and two sizes", i)
		}
	}
	return p, p.validate("pattern")
}

func (p Pattern) validate(name string) error {
	switch p.Kind {
	case VerticalSlash:
		return inRange(name, bound{"Vertical", p.Vertical, 0}, bound{"Slash", p.Slash, 0})
	case AShape:
		return inRange(name, bound{"Vertical", p.Vertical, 0}, bound{"Slash", p.Slash, 1})
	case BlockSparse:
		return inRange(name, bound{"Blocks", p.Blocks, 0})
	}
	return fmt.Errorf("%s.Kind is %q; want %q, %q or %q", name, string(p.Kind), VerticalSlash, BlockSparse, AShape)
}

type minference struct{ MInferenceParams }

func (minference) Name() string { return "minference" }

func (m minference) Validate() error {
	if len(m.Heads) == 0 {
		if err := m.Pattern.validate("MInferenceParams.Pattern"); err != nil {
			return err
		}
	}
	for h, p := range m.Heads {
		if err := p.validate(fmt.Sprintf("MInferenceParams.Heads[%d]", h)); err != nil {
			return err
		}
	}
	return inRange("MInferenceParams", bound{"Tail", m.Tail, 0})
}

func (m minference) validateFor(s Shape) error {
	if n := len(m.Heads); n != 0 && n != s.Heads {
		return fmt.Errorf("MInferenceParams.Heads has %d patterns; want one for each of the %d heads, or none", n, s.Heads)
	}
	return nil
}

func (m minference) pattern(head int) Pattern {
	if len(m.Heads) > 0 {
		return m.Heads[head]
	}
	return m.Pattern
}

func (m minference) Cut(s Shape) []Rows { return cutBlocks(s, minferenceBlock, m.Tail) }

func (minference) surveyed(s Shape) Rows {
	return Rows{From: max(s.Keys-minferenceLast, s.First()), To: s.Keys, PerHead: true}
}

// A verticalSlash is what VerticalSlash keeps, ascending.
type verticalSlash struct{ columns, distances []int32 }

func (m minference) survey(g *Group) []any {
	found := make([]any, g.NumHeads)
	var means *blockMeans
	slashed := false
	for h := range found {
		switch m.pattern(g.FirstHead + h).Kind {
		case BlockSparse:
			if means == nil {
				means = g.meanKeys(minferenceBlock)
			}
			found[h] = means
		case VerticalSlash:
			slashed = true
		}
	}
	if !slashed {
		return found
	}
	columns, distances := g.sumLast()
	for h := range found {
		p := m.pattern(g.FirstHead + h)
		if p.Kind != VerticalSlash {
			continue
		}
		found[h] = &verticalSlash{
			heaviestAfter(minferenceFirst, columns[h], p.Vertical, &g.worker.ranked),
			heaviestAfter(minferenceNear, distances[h], p.Slash, &g.worker.ranked),
		}
	}
	return found
}

// sumLast returns, for each head, the softmax of the group's rows over all keys, summed by key and by distance.
func (g *Group) sumLast() (columns, distances [][]float32) {
	s := g.probe(func(int) []Span { return singles(g.From, g.To) }, false)
	both := g.worker.perKey(2*g.NumHeads, g.Keys)
	for _, x := range both {
		clear(x)
	}
	columns, distances = both[:g.NumHeads], both[g.NumHeads:]
	s.softmax(func(first, n int, shares []float32) {
		for h := range g.NumHeads {
			for i := range n {
				j := first + i
				row := shares[i*s.width+h*s.columns:][:s.used]
				for c := max(j-g.From, 0); c < len(row); c++ {
					columns[h][j] += row[c]
					distances[h][g.From+c-j] += row[c]
				}
			}
		}
	})
	return columns, distances
}

// singles returns a span for each position.
func singles(from, to int) []Span {
	spans := make([]Span, 0, to-from)
	for p := from; p < to; p++ {
		spans = append(spans, Span{p, p + 1})
	}
	return spans
}

func (m minference) Plan(g *Group) {
	if g.attendTail(m.Tail) {
		return
	}
	for h := range g.NumHeads {
		p := m.pattern(g.FirstHead + h)
		if len(m.Heads) > 0 {
			g.choice[h] = string(p.Kind)
		}
		switch p.Kind {
		case AShape:
			g.AttendHead(StageSparse, h, aShape(g, p.Vertical, p.Slash))
		case BlockSparse:
			own := g.From / minferenceBlock
			scores := g.surveyed[h].(*blockMeans).scores(g, h, own)
			kept := make([]bool, own+1)
			kept[own] = true
			for _, c := range heaviest(scores, p.Blocks-1, math.Inf(1), &g.worker.ranked) {
				kept[c] = true
			}
			g.AttendHead(StageSparse, h, KeySet{Spans: g.marked(kept, minferenceBlock)})
		case VerticalSlash:
			g.AttendHead(StageSparse, h, g.surveyed[h].(*verticalSlash).keys(g))
		}
	}
}

// keys returns what the group's rows attend to.
func (v *verticalSlash) keys(g *Group) KeySet {
	var spans []Span
	for _, d := range slices.Backward(v.distances) {
		from, to := max(g.From-int(d), 0), g.To-int(d)
		if n := len(spans); n > 0 && from <= spans[n-1].To {
			spans[n-1].To = max(to, spans[n-1].To)
		} else if to > 0 {
			spans = append(spans, Span{from, to})
		}
	}
	return KeySet{Spans: spans, Stripes: outside(v.columns, spans, g.From)}
}

// outside returns the keys before a position that lie in none of the spans. All are ascending.
func outside(keys []int32, spans []Span, before int) []int32 {
	var left []int32
	for _, j := range keys {
		for len(spans) > 0 && spans[0].To <= int(j) {
			spans = spans[1:]
		}
		if int(j) < before && (len(spans) == 0 || int(j) < spans[0].From) {
			left = append(left, j)
		}
	}
	return left
}

// blockMeans are the mean keys of blocks of a KV head.
type blockMeans struct {
	size, blocks int
	keys         []float32 // [blocks][dim]
}

// meanKeys computes the means of the group's keys in blocks of the given size.
func (g *Group) meanKeys(size int) *blockMeans {
	w := g.worker
	w.enter(StageSearch)
	m := &blockMeans{size: size, blocks: (g.Keys + size - 1) / size}
	m.keys = make([]float32, m.blocks*g.Dim)
	one := grow(&w.row, g.Dim)
	for j := range g.Keys {
		g.seq.K.read(w.kernels, one, g.KVHead, j)
		w.kernels.Add(m.keys[j/size*g.Dim:][:g.Dim], one)
	}
	for b := range m.blocks {
		mean := m.keys[b*g.Dim:][:g.Dim]
		w.kernels.Scale(mean, mean, 1/float32(min(size, g.Keys-b*size)))
	}
	return m
}

// scores returns the logits, in powers of two, of the mean query of the group's rows of a head with the means of the
// first n blocks.
func (m *blockMeans) scores(g *Group, head, n int) []float32 {
	w := g.worker
	w.enter(StageSearch)
	mean := grow(&w.mean, g.Dim)
	g.sumQueries(mean, head, Span{g.From, g.To})
	vector := grow(&w.pool, g.Dim*lanes)
	clear(vector)
	for d, x := range mean {
		vector[d*lanes] = float32(float64(x) / float64(g.To-g.From) * w.scale)
	}
	products := grow(&w.scores, n*lanes)
	w.kernels.Gemm(n, lanes, g.Dim, m.keys, g.Dim, 1, vector, lanes, products, lanes, false)
	g.searched += int64(n)
	scores := make([]float32, n)
	for i := range scores {
		scores[i] = products[i*lanes]
	}
	return scores
}
