// Package drift measures what methods of attention do to a model's predictions of a text: the perplexity under each, and how far
// the distribution of the next token is from that under dense attention on the same tokens.
//
// # What is done
//
// A text is cut into windows of tokens, each after the tokens that begin a text. A sample is a window; under a method it is
// read in one call, as a prompt is, and the logits of its rows are looked at as they come.
//
//   - nll, of every row but the last: minus the logarithm of the probability that the model gives the token that
//     follows. Perplexity is the exponential of its mean.
//   - kl, at some rows: the Kullback-Leibler divergence Σ p·ln(p/q) of the method's distribution q from dense attention's p, in
//     nats.
//   - top1, at the same rows: whether both hold the same token for the likeliest.
//
// # The tail
//
// The last rows of a prompt, 128 as published, see every key under any method, because the answer is decoded from them. So figures are of
// two kinds. Those of the body, the rows before, say what the method's own attention does: the cache that it leaves behind. Those
// of the tail, whose names end in _tail, say what reaches the answer: these rows see every key, but keys and values of
// layers above the first were computed from sparse rows. Rows of the body are not predictions that anybody would use; a
// method may be poor there and good in the tail.
//
// Records have these figures, and curves over the body in parts of equal length. Their score is the share of the rows compared,
// of body and tail, whose likeliest token is that of dense attention. The time to the first token is not measured; recall of dense
// attention is not audited.
package drift

import (
	"context"
	"fmt"
	"math"
	"slices"
	"strconv"
	"sync"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/eval"
	"github.com/anchorattention/anchor/model"
	"github.com/anchorattention/anchor/tokenizer"
)

// Suite is what records call these measurements.
const Suite = "drift"

// Parts is how many parts of the body curves have, at most.
const Parts = 32

// TailRows is at how many rows of the tail distributions are compared, at most.
const TailRows = 32

// A Text is a text that predictions are measured on. It is safe for concurrent use.
type Text struct {
	name      string
	text      string
	positions int

	mu  sync.Mutex
	tok *tokenizer.Tokenizer // that made:
	bos []int32
	ids []int32
	ref *reference // which the next job often is about
}

// NewText returns a text whose distributions are compared at so many rows of the body, evenly spread. They are held for one
// window: positions times the vocabulary, in single precision.
func NewText(name string, text []byte, positions int) (*Text, error) {
	if positions < Parts {
		return nil, fmt.Errorf("drift: positions are %d; want ≥ %d, one for each part of a curve", positions, Parts)
	}
	return &Text{name: name, text: string(text), positions: positions}, nil
}

// Task returns the task of the text.
func (t *Text) Task() *eval.Task {
	return &eval.Task{
		Suite: Suite, Name: t.name,
		Data: map[string]string{"text": eval.Hash([]byte(t.text)), "positions": strconv.Itoa(t.positions)},
		Sample: func(f *eval.Format, length, index int, seed uint64) (*eval.Sample, error) {
			_, err := t.window(f.Tokenizer, length, index)
			return &eval.Sample{Suite: Suite, Task: t.name, Length: length, Index: index, Seed: seed, Plain: true}, err
		},
		Measure: t.measure,
	}
}

// Windows returns how many windows of so many tokens the text has.
func (t *Text) Windows(tok *tokenizer.Tokenizer, length int) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.tokenize(tok)
	own := length - len(t.bos)
	if own < 2 {
		return 0
	}
	return len(t.ids) / own
}

// tokenize fills in the tokens. t.mu is held.
func (t *Text) tokenize(tok *tokenizer.Tokenizer) {
	if t.tok != tok {
		t.tok, t.bos, t.ids = tok, tok.Encode("", true).IDs, tok.Encode(t.text, false).IDs
	}
}

// window returns the tokens of a window.
func (t *Text) window(tok *tokenizer.Tokenizer, length, index int) ([]int32, error) {
	n := t.Windows(tok, length)
	if index >= n {
		return nil, fmt.Errorf("drift: %s has %d tokens, %d windows of %d; there is none of index %d", t.name, len(t.ids), n, length, index)
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	own := length - len(t.bos)
	return slices.Concat(t.bos, t.ids[index*own:(index+1)*own]), nil
}

// compared returns the rows at which distributions are compared, ascending: some of the body, then some of the tail, which are the
// last rows.
func (t *Text) compared(length, tail int) (rows []int, body int) {
	tail = max(min(tail, length), 1)
	body = length - tail
	parts := min(Parts, body)
	for p := range parts {
		from, to := part(body, parts, p)
		n := min(t.positions/Parts, to-from)
		for i := range n {
			rows = append(rows, from+(2*i+1)*(to-from)/(2*n))
		}
	}
	n := min(TailRows, tail)
	for i := range n {
		rows = append(rows, body+(i+1)*tail/n-1) // the last one is the last row
	}
	return rows, body
}

// part returns the rows [from, to) of a part of the body.
func part(body, parts, p int) (from, to int) { return p * body / parts, (p + 1) * body / parts }

// A reference is what dense attention makes of a window.
type reference struct {
	model         string
	length, index int
	rows          []int
	*reading
}

// A reading is what came of a window under a method.
type reading struct {
	stats  model.Stats
	nll    []float64         // of each row but the last
	logits map[int][]float32 // at the rows compared, of dense attention
	kl     map[int]float64   // at these rows
	same   map[int]bool      // the likeliest token is that of dense attention
}

// logSumExp returns the logarithm of the sum of exponentials.
func logSumExp(logits []float32) float64 {
	top := float64(slices.Max(logits))
	sum := 0.0
	for _, l := range logits {
		sum += math.Exp(float64(l) - top)
	}
	return top + math.Log(sum)
}

// Divergence returns the Kullback-Leibler divergence of the distribution that logits q stand for from that of logits p, in nats.
func Divergence(p, q []float32) float64 {
	all, other := logSumExp(p), logSumExp(q)
	sum := 0.0
	for i := range p {
		if log := float64(p[i]) - all; !math.IsInf(log, -1) {
			sum += math.Exp(log) * (log - (float64(q[i]) - other))
		}
	}
	return max(sum, 0)
}

// likeliest returns the first of the largest numbers.
func likeliest(logits []float32) int {
	best := 0
	for i, l := range logits {
		if l > logits[best] {
			best = i
		}
	}
	return best
}

// read reads a window, and compares it with dense logits at their rows unless there are none; else it keeps those at rows.
func read(ctx context.Context, w *eval.Worker, j *eval.Job, ids []int32, planner anchor.Planner, rows []int, dense map[int][]float32,
	progress func(float64)) (*reading, error) {
	cache, err := w.Model.NewCache(len(ids))
	if err != nil {
		return nil, err
	}
	r := &reading{nll: make([]float64, len(ids)-1), logits: make(map[int][]float32), kl: make(map[int]float64), same: make(map[int]bool)}
	var mu sync.Mutex // of the maps
	opt := model.ForwardOptions{
		Planner: planner, Costs: w.CostsOf(j), Threads: w.Threads, Prompt: len(ids), Progress: progress,
		LayerPlanner: func(layer int) anchor.Planner {
			if slices.Contains(j.Attention.DenseLayers, layer) {
				return anchor.Dense()
			}
			return nil
		},
		Logits: func(row int, logits []float32) error {
			if row < len(r.nll) {
				r.nll[row] = logSumExp(logits) - float64(logits[ids[row+1]])
				if math.IsNaN(r.nll[row]) || math.IsInf(r.nll[row], 0) {
					return fmt.Errorf("the next token's logarithm is %v; want finite logits", -r.nll[row])
				}
			}
			if _, compared := slices.BinarySearch(rows, row); !compared {
				return nil
			}
			if dense == nil {
				kept := slices.Clone(logits)
				mu.Lock()
				defer mu.Unlock()
				r.logits[row] = kept
				return nil
			}
			kl, same := Divergence(dense[row], logits), likeliest(dense[row]) == likeliest(logits)
			if math.IsNaN(kl) || math.IsInf(kl, 0) {
				return fmt.Errorf("the divergence from dense attention is %v; want finite logits", kl)
			}
			mu.Lock()
			defer mu.Unlock()
			r.kl[row], r.same[row] = kl, same
			return nil
		},
	}
	if dense != nil {
		opt.AuditRows = j.Audit
	}
	for row := range ids {
		opt.Rows = append(opt.Rows, row)
	}
	_, r.stats, err = w.Model.Forward(ctx, cache, ids, opt)
	return r, err
}

// measure does a job: what is done with a window under a method, and before that under dense attention unless that is known.
func (t *Text) measure(ctx context.Context, w *eval.Worker, j *eval.Job, progress func(float64)) (eval.Done, error) {
	var d eval.Done
	ids, err := t.window(w.Model.Tokenizer, j.Length, j.Index)
	if err != nil {
		return d, err
	}
	planner, err := j.Attention.Planner()
	if err != nil {
		return d, err
	}
	if len(ids) < j.Attention.DenseBelow {
		planner = anchor.Dense()
	}
	rows, body := t.compared(len(ids), j.Attention.Params.Tail)
	t.mu.Lock()
	ref := t.ref
	t.mu.Unlock()
	isDense := planner.Name() == anchor.Dense().Name()
	known := ref != nil && ref.model == j.Model && ref.length == j.Length && ref.index == j.Index && slices.Equal(ref.rows, rows)
	begin := 0.0
	if !known {
		share := progress
		if !isDense {
			begin = 0.5
			share = func(s float64) { progress(begin * s) }
		}
		r, err := read(ctx, w, j, ids, anchor.Dense(), rows, nil, share)
		if err != nil {
			return d, err
		}
		ref = &reference{j.Model, j.Length, j.Index, rows, r}
		t.mu.Lock()
		t.ref = ref
		t.mu.Unlock()
	}
	r := &reading{stats: ref.stats, nll: ref.nll, kl: map[int]float64{}, same: map[int]bool{}}
	for _, row := range rows {
		r.kl[row], r.same[row] = 0, true
	}
	if !isDense {
		if r, err = read(ctx, w, j, ids, planner, rows, ref.logits, func(s float64) { progress(begin + (1-begin)*s) }); err != nil {
			return d, err
		}
	}
	d = eval.Done{
		PromptTokens: len(ids), Values: make(map[string]float64), Curves: make(map[string][]float64),
		AttentionSeconds: r.stats.AttentionSeconds, Density: r.stats.Attention.Density(), ISA: r.stats.Attention.ISA,
	}
	if len(r.stats.Attention.Audit) > 0 {
		recall := r.stats.Attention.Recall // and not all that it is part of
		d.Recall = &recall
	}
	nll := func(row int) float64 { return r.nll[row] }
	change := func(row int) float64 { return r.nll[row] - ref.nll[row] }
	kl := func(row int) float64 { return r.kl[row] }
	top1 := func(row int) float64 {
		if r.same[row] {
			return 1
		}
		return 0
	}
	every := make([]int, len(r.nll))
	for i := range every {
		every[i] = i
	}
	parts := min(Parts, body)
	for name, of := range map[string]struct {
		rows []int
		at   func(row int) float64
	}{"nll": {every, nll}, "nll_change": {every, change}, "kl": {rows, kl}, "top1": {rows, top1}} {
		end, _ := slices.BinarySearch(of.rows, body)
		if end > 0 {
			d.Values[name] = mean(of.rows[:end], of.at)
		}
		if end < len(of.rows) {
			d.Values[name+tailSuffix] = mean(of.rows[end:], of.at)
		}
		for p := range parts {
			first, after := part(body, parts, p)
			from, _ := slices.BinarySearch(of.rows, first)
			to, _ := slices.BinarySearch(of.rows, after)
			d.Curves[name] = append(d.Curves[name], mean(of.rows[from:to], of.at))
		}
	}
	d.Values["nll_all"] = mean(every, nll)
	d.Score = mean(rows, top1)
	return d, nil
}

// tailSuffix ends the names of the tail's figures.
const tailSuffix = "_tail"

func mean(rows []int, at func(row int) float64) float64 {
	sum := 0.0
	for _, r := range rows {
		sum += at(r)
	}
	return sum / float64(len(rows))
}
