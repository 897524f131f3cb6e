package anchor

// A Planner is a method of attention: it cuts the query rows into groups and chooses the keys that each group sees.
// The executor behind [Attend] does the rest. Its methods must be safe for concurrent use.
type Planner interface {
	// Name is what results call the method.
	Name() string
	// Validate reports the first parameter that is out of range.
	Validate() error
	// Cut cuts the rows of a sequence, positions [s.First(), s.Keys), into consecutive groups. It must not depend
	// on anything but s, and on absolute positions rather than on where the call begins, so that a prompt cut
	// into chunks gives the same result as in one call.
	Cut(s Shape) []Rows
	// Plan attends to the keys that the group's rows shall see, by calling g.Attend and g.AttendHead, so that no row
	// meets a key twice.
	Plan(g *Group)
}

// A surveyor is a planner that looks at each head as a whole before its groups are planned.
type surveyor interface {
	Planner
	// surveyed returns the rows that survey wants to have as a group.
	surveyed(s Shape) Rows
	// survey is called once for all heads that share a KV head and returns for each what Plan finds in Group.surveyed.
	survey(g *Group) []any
}

// A fitted planner has parameters that suit some sequences only.
type fitted interface {
	validateFor(s Shape) error
}

// A Shape is what a planner may know of a sequence before it sees the data.
type Shape struct {
	Heads, KVHeads, Dim int
	Queries, Keys       int // Nq, Nk
	Prompt              int // length of the whole prompt: tails are counted from here
}

// First returns the absolute position of the first query row.
func (s Shape) First() int { return s.Keys - s.Queries }

// Borders say where prompts can be cut under a planner. What a row at a position before a multiple of Every attends to depends on no
// token from there on, nor on the length of the prompt as long as it is not among its last Tail rows. So a prompt that is
// cut there is done as in one call, and two prompts that are the same up to there, with Tail rows or more to come, are done
// alike so far. Rows at positions before Dense see every key, whatever comes after them.
type Borders struct{ Every, Tail, Dense int }

// BordersOf returns the borders of a planner of this package, but for those that look at the end of each call, as MInference
// and FlexPrefill do: these have none.
func BordersOf(p Planner) (b Borders, ok bool) {
	switch p := p.(type) {
	case dense:
		return Borders{Every: 1, Dense: maxPosition}, true
	case streaming:
		return Borders{Every: 1, Tail: p.Tail}, true
	case anchorAttention:
		return p.borders(), true
	case ablation:
		return p.borders(), true
	case xAttention:
		return Borders{Every: xBlock, Tail: p.Tail}, true
	case vecAttention:
		return Borders{Every: p.Rows, Tail: p.Tail}, true
	case oracle:
		return Borders{Every: p.Rows, Tail: p.Tail}, true
	}
	return Borders{}, false
}

// borders counts the groups before which there is nothing but the window.
func (p *Params) borders() Borders {
	size := p.group()
	windowed := (p.Init+p.Local)/size + 1
	return Borders{Every: size, Tail: p.Tail, Dense: windowed * size}
}

// Rows is a run of consecutive query rows that are planned together, for query heads that share a KV head.
type Rows struct {
	From, To int  // absolute positions [From, To)
	PerHead  bool // heads may see different keys: allows Group.AttendHead
}

// A KeySet is a set of keys, the union of its parts. No row ever sees a key beyond its own position.
type KeySet struct {
	Spans   []Span  // whole intervals
	Bands   []Band  // keys at given distances from each row
	Stripes []int32 // single keys, ascending and before the group's first row
}

// A Span is the keys [From, To), of which each row sees those up to its own position.
type Span struct{ From, To int }

// A Band is, for the row at position p, the keys p − Far … p − Near from key From on: Band{0, w − 1, 0} is a sliding window
// of w keys, and Band{d, d, 0} a diagonal. 0 ≤ Near ≤ Far and 0 ≤ From.
type Band struct{ Near, Far, From int }

// Dense returns the planner under which every row sees every key up to its own.
func Dense() Planner { return dense{} }

type dense struct{}

func (dense) Name() string       { return "dense" }
func (dense) Validate() error    { return nil }
func (dense) Cut(s Shape) []Rows { return cutDense(nil, s, s.First(), s.Keys) }
func (dense) Plan(g *Group)      { g.Attend(StageDense, KeySet{Spans: []Span{{0, g.To}}}) }

// cutDense appends the rows [from, to), cut for attention to spans that all heads share. A group of about 1024
// rows over all its heads is large enough to make a block of keys that has been brought into cache pay, and small
// enough to leave work for every thread.
func cutDense(rows []Rows, s Shape, from, to int) []Rows {
	const rowsInAll = 1024
	size := max(rowsInAll*s.KVHeads/s.Heads/inSingle.TileRows, 1) * inSingle.TileRows
	for from < to {
		end := min((from/size+1)*size, to)
		rows = append(rows, Rows{From: from, To: end})
		from = end
	}
	return rows
}

// cutBlocks cuts the rows into blocks of the given size, aligned to absolute positions, and the dense tail of so many rows.
func cutBlocks(s Shape, size, tail int) []Rows {
	var rows []Rows
	sparse := min(max(s.tail(tail), s.First()), s.Keys)
	for from := s.First(); from < sparse; {
		to := min((from/size+1)*size, sparse)
		rows = append(rows, Rows{From: from, To: to, PerHead: true})
		from = to
	}
	return cutDense(rows, s, sparse, s.Keys)
}

// attendTail attends to all keys if the group is one of the tail, the last rows of the prompt.
func (g *Group) attendTail(rows int) (done bool) {
	if g.From < g.tail(rows) {
		return false
	}
	g.Attend(StageDense, KeySet{Spans: []Span{{0, g.To}}})
	return true
}

// marked returns the spans of the marked blocks of the given size, up to the group's end.
func (g *Group) marked(blocks []bool, size int) []Span {
	var spans []Span
	for i, wanted := range blocks {
		from, to := i*size, min((i+1)*size, g.To)
		switch n := len(spans); {
		case !wanted || from >= to:
		case n > 0 && spans[n-1].To == from:
			spans[n-1].To = to
		default:
			spans = append(spans, Span{from, to})
		}
	}
	return spans
}
