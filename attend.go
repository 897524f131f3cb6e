package anchor

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/anchorattention/anchor/internal/kernel"
	"github.com/anchorattention/anchor/internal/parallel"
)

// A Sequence is one sequence of a batch: its inputs and where its outputs go.
type Sequence struct {
	Q    Tensor // [heads, Nq, dim]
	K, V Tensor // [KV heads, Nk, dim], Nk ≥ Nq
	O    Tensor // F32 [heads, Nq, dim], written; overlaps no other tensor
	LSE  Tensor // F32 [heads, Nq, 1], written: natural log of the sum of exponentials over the keys attended; optional

	// Prompt is the length of the whole prompt, in positions, when this call holds only a part of it or goes
	// beyond it; 0 means that the call ends the prompt (Nk). The tail that sees every key is counted from here.
	Prompt int
}

// Options say how to attend.
type Options struct {
	Planner   Planner  // which keys each row sees: AnchorAttention(params), for example; [Methods] lists all
	Scale     *float32 // factor on q·k; nil means 1/√dim
	Threads   int      // goroutines to use; 0 means GOMAXPROCS
	AuditRows int      // rows of each head whose exact recall is measured; 0 means no audit
	Stripes   bool     // return the stripes found
	Costs     *Costs   // how keys are walked; nil means DefaultCosts()
	Engine    Engine   // what computes; nil means this processor

	// TargetRecall is what the audit should find as the mean recall of each head; AuditRows says of how many rows. A head
	// below it is done again: AnchorAttention and Auto first try larger values of Theta, and dense attention comes last.
	// [HeadResult].Choice tells. 0 means no target.
	TargetRecall float64

	// Trace, when set, is called with every set of keys that a head attends to, by one goroutine at a time and in no
	// particular order.
	Trace func(Trace)

	// Progress, when set, is called now and then with the share of the work that is done, ascending in [0, 1], by
	// one goroutine at a time.
	Progress func(share float64)
}

// A Trace is a set of keys that rows of one head attend to, beside any other traces of theirs; under a target of recall also
// those of heads that are done again. Keys is valid during the call.
type Trace struct {
	Sequence, Head int
	Rows           Span
	Keys           KeySet
}

// Attend computes attention for every sequence, which may differ in length but not in heads and dim, writes O and
// LSE, and reports what it did. It changes no input.
//
// Inputs are checked first: an error names what is wrong and nothing has been written. When ctx ends, Attend
// returns its error soon after, with outputs partly written.
//
// NaN and infinite inputs follow IEEE arithmetic through the softmax of the rows that see them;
// [Result].NonFiniteRows counts the output rows they spoil. Arithmetic is in single precision, and weights below 2^−64
// of a row's largest are zero. Where the processor has products of bfloat16 numbers and queries, keys and values are such,
// those are used: weights are rounded to bfloat16 too, sums stay in single precision, and outputs lie within 1 % of double
// precision by norm. Results are bitwise equal from run to run and for any number of threads.
func Attend(ctx context.Context, opt Options, seqs ...Sequence) (*Result, error) {
	set, err := kernels()
	if err != nil {
		return nil, err
	}
	return attend(ctx, set, opt, seqs)
}

func attend(ctx context.Context, set *kernel.Set, opt Options, seqs []Sequence) (*Result, error) {
	start := time.Now()
	r, err := newRun(set, opt, seqs)
	if err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if opt.AuditRows > 0 {
		for i, s := range r.shapes {
			if r.seqs[i].LSE.dtype == 0 {
				r.seqs[i].LSE = FromFloat32(make([]float32, s.Heads*s.Queries), s.Heads, s.Queries, 1)
			}
		}
	}
	defer context.AfterFunc(ctx, func() { r.stop.Store(true) })()
	res, err := r.do(ctx)
	if err != nil {
		return nil, err
	}
	if opt.AuditRows > 0 {
		r.audit(res)
	}
	if opt.TargetRecall > 0 {
		if err := r.guard(res); err != nil {
			return nil, err
		}
		r.advance(r.work)
	}
	if a, ok := opt.Planner.(interface{ group() int }); ok && opt.Stripes && opt.Engine == nil {
		res.StripeSets = r.stripeSets(a.group())
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	for s, t := range r.spent {
		res.Stages[s] += t.Seconds() / float64(r.threads)
	}
	res.Seconds = time.Since(start).Seconds()
	return res, nil
}

// newRun checks what is asked for and cuts it into units.
func newRun(set *kernel.Set, opt Options, seqs []Sequence) (*run, error) {
	shapes, err := check(opt, seqs)
	if err != nil {
		return nil, err
	}
	r := &run{set: set, opt: opt, seqs: slices.Clone(seqs), shapes: shapes, costs: DefaultCosts()}
	if opt.Costs != nil {
		r.costs = *opt.Costs
	}
	r.scale = math.Log2E / math.Sqrt(float64(shapes[0].Dim))
	if opt.Scale != nil {
		r.scale = math.Log2E * float64(*opt.Scale)
	}
	if err := r.cut(); err != nil {
		return nil, err
	}
	if opt.TargetRecall > 0 {
		r.work *= 2 // doing heads again may take as long as doing them
	}
	return r, nil
}

// A run is one call of Attend.
type run struct {
	set    *kernel.Set
	opt    Options
	seqs   []Sequence
	shapes []Shape
	scale  float64
	costs  Costs
	stop   atomic.Bool

	only    []bool    // heads that are done, nil for all
	surveys [][][]any // what the planner's survey found, by sequence and head
	units   []unit
	past    []unit // those of earlier rounds of the guard
	threads int
	spent   [NumStages]time.Duration

	searched int64 // by surveys

	mu         sync.Mutex // guards searched, done and the call of opt.Progress
	done, work float64
	auditCost  float64 // its part in work

	tracing sync.Mutex // guards the call of opt.Trace
	truth   []truth    // what the audit measures against
}

// A unit is the piece of work that one goroutine does at a time: a group of rows, of heads that share a KV head.
type unit struct {
	rows             Rows
	seq              int
	firstHead, heads int
	cost             float64 // expected, in (row, key) pairs
	stripes          [][]int32
}

// together returns how many of the heads that share keys are done in one unit: not more than four of 2048 rows, which
// bounds a worker's memory unless a single head has more. Those planned by head share the search over the keys before
// them; where these are few, what that saves is less than it costs that several heads' queries and sums do not fit the
// second-level cache. Measured: bench/NOTES.md.
func together(rows Rows, shared int) int {
	const maxRows, farKeys = 8192, 8
	if n := rows.To - rows.From; rows.PerHead && rows.From <= farKeys*n {
		return 1
	}
	return min(max(maxRows/(rows.To-rows.From), 1), shared)
}

// cut cuts the work into units, the longest first so that no thread is left alone with one.
func (r *run) cut() error {
	for i, s := range r.shapes {
		next := s.First()
		for _, rows := range r.opt.Planner.Cut(s) {
			if rows.From != next || rows.To <= rows.From {
				return fmt.Errorf("anchor: planner %s cut rows [%d, %d) where position %d comes next", r.opt.Planner.Name(), rows.From, rows.To, next)
			}
			next = rows.To
			n := float64(rows.To - rows.From)
			cost := n * (float64(rows.From) + n/2)
			if rows.PerHead {
				cost = n * (float64(rows.From)/8 + n/2)
			}
			shared := s.Heads / s.KVHeads
			heads := together(rows, shared)
			if r.only != nil {
				heads = 1
			}
			for first := 0; first < s.Heads; first += shared {
				for h := 0; h < shared; h += heads {
					if r.only != nil && !r.only[first+h] {
						continue
					}
					u := unit{rows: rows, seq: i, firstHead: first + h, heads: min(heads, shared-h)}
					u.cost = cost * float64(u.heads)
					r.units = append(r.units, u)
				}
			}
			r.work += cost * float64(s.Heads)
		}
		if next != s.Keys {
			return fmt.Errorf("anchor: planner %s cut rows up to position %d of %d", r.opt.Planner.Name(), next, s.Keys)
		}
		r.auditCost += float64(min(r.opt.AuditRows, s.Queries) * s.Heads * s.Keys / 2)
	}
	r.work += r.auditCost
	slices.SortStableFunc(r.units, func(a, b unit) int { return cmp.Compare(b.cost, a.cost) })
	r.threads = min(parallel.Threads(r.opt.Threads), len(r.units))
	return nil
}

// survey lets the planner look at each head as a whole, if it wants to.
func (r *run) survey() {
	p, ok := r.opt.Planner.(surveyor)
	if !ok {
		return
	}
	type piece struct{ seq, firstHead int }
	var pieces []piece
	r.surveys = make([][][]any, len(r.shapes))
	for i, s := range r.shapes {
		r.surveys[i] = make([][]any, s.KVHeads)
		for h := range s.KVHeads {
			pieces = append(pieces, piece{i, h * s.Heads / s.KVHeads})
		}
	}
	r.each(len(pieces), StageSearch, func(w *worker, n int) {
		i := pieces[n].seq
		s := r.shapes[i]
		rows := p.surveyed(s)
		g := r.group(unit{rows: rows, seq: i, firstHead: pieces[n].firstHead, heads: s.Heads / s.KVHeads})
		w.load(g, rows.To-rows.From, func(i int) int { return rows.From + i })
		r.surveys[i][g.KVHead] = p.survey(g)
		r.mu.Lock()
		r.searched += g.searched
		r.mu.Unlock()
	})
}

// advance reports progress.
func (r *run) advance(cost float64) {
	if r.opt.Progress == nil || r.stop.Load() {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done += cost
	r.opt.Progress(min(r.done/r.work, 1))
}

var workers sync.Pool

// each calls f for every i in [0, n) with a worker's scratch, and collects the time spent.
func (r *run) each(n int, stage Stage, f func(w *worker, i int)) {
	active := make([]*worker, r.threads)
	parallel.For(r.threads, n, func(t, i int) {
		w := active[t]
		if w == nil {
			if w, _ = workers.Get().(*worker); w == nil {
				w = new(worker)
			}
			w.kernels, w.stop, w.scale, w.costs = r.set, &r.stop, r.scale, &r.costs
			w.stage, w.since, w.spent = stage, time.Now(), [NumStages]time.Duration{}
			active[t] = w
		}
		if r.stop.Load() {
			return
		}
		f(w, i)
		w.enter(stage)
	})
	for _, w := range active {
		if w != nil {
			for s, t := range w.spent {
				r.spent[s] += t
			}
			w.stop, w.costs, w.ahead = nil, nil, [3][]float32{} // which would keep the call, and its tensors, alive
			clear(w.kPieces[:cap(w.kPieces)])
			clear(w.vPieces[:cap(w.vPieces)])
			workers.Put(w)
		}
	}
}

// attend does all units.
func (r *run) attend() *Result {
	s := r.shapes[0]
	res := &Result{Method: r.opt.Planner.Name(), ISA: r.set.Name(), Heads: make([]HeadResult, s.Heads), SearchPairs: r.searched}
	for _, s := range r.shapes {
		for h := range res.Heads {
			res.Heads[h].CausalPairs += causalPairs(s.First(), s.Keys, Span{0, s.Keys})
		}
	}
	var mu sync.Mutex
	r.each(len(r.units), StageDense, func(w *worker, i int) {
		u := &r.units[i]
		g := r.group(*u)
		if r.opt.Stripes && u.rows.PerHead {
			u.stripes = make([][]int32, u.heads)
			g.stripes = u.stripes
		}
		frame := StageDense // what reading queries and writing outputs counts as
		if u.rows.PerHead {
			frame = StageWindow
		}
		w.enter(frame)
		w.load(g, u.rows.To-u.rows.From, func(i int) int { return u.rows.From + i })
		r.opt.Planner.Plan(g)
		if r.stop.Load() {
			return
		}
		w.enter(frame)
		g.finish()
		mu.Lock()
		for h := range g.NumHeads {
			head := &res.Heads[g.FirstHead+h]
			head.Pairs += g.pairs[h]
			head.Stripes += g.kept[h]
			head.NonFiniteRows += g.bad[h]
			head.Choice = cmp.Or(g.choice[h], head.Choice)
			if u.rows.PerHead {
				head.Groups++
				head.DenseGroups += g.dense[h]
			}
		}
		res.SearchPairs += g.searched
		mu.Unlock()
		r.advance(u.cost)
	})
	res.add(s.Dim)
	return res
}

func (r *run) group(u unit) *Group {
	s := r.shapes[u.seq]
	g := &Group{
		Shape: s, Rows: u.rows, KVHead: u.firstHead * s.KVHeads / s.Heads, FirstHead: u.firstHead, NumHeads: u.heads,
		seq: &r.seqs[u.seq], pairs: make([]int64, u.heads), kept: make([]int64, u.heads), dense: make([]int64, u.heads),
		bad: make([]int64, u.heads), choice: make([]string, u.heads),
	}
	if r.surveys != nil && r.surveys[u.seq][g.KVHead] != nil {
		g.surveyed = r.surveys[u.seq][g.KVHead][u.firstHead-g.KVHead*s.Heads/s.KVHeads:]
	}
	if r.opt.Trace != nil {
		g.trace = func(head int, keys KeySet) {
			r.tracing.Lock()
			defer r.tracing.Unlock()
			r.opt.Trace(Trace{Sequence: u.seq, Head: head, Rows: Span{u.rows.From, u.rows.To}, Keys: keys})
		}
	}
	return g
}

// stripeSets collects the stripes of all units, whose groups have the given size.
func (r *run) stripeSets(size int) []StripeSet {
	sets := make([]StripeSet, len(r.shapes))
	lists := make([][][]int32, len(r.shapes)) // by sequence, then head · groups + group
	for i, s := range r.shapes {
		sets[i].Groups = (s.Keys-1)/size - s.First()/size + 1
		lists[i] = make([][]int32, s.Heads*sets[i].Groups)
	}
	for _, u := range append(r.past, r.units...) { // later ones replace earlier ones
		s := r.shapes[u.seq]
		for h, keys := range u.stripes {
			lists[u.seq][(u.firstHead+h)*sets[u.seq].Groups+u.rows.From/size-s.First()/size] = keys
		}
	}
	for i := range sets {
		set := &sets[i]
		set.Offsets = make([]int64, 1, len(lists[i])+1)
		for _, keys := range lists[i] {
			set.Indices = append(set.Indices, keys...)
			set.Offsets = append(set.Offsets, int64(len(set.Indices)))
		}
	}
	return sets
}
