package generate

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
	"unicode/utf8"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/parallel"
	"github.com/anchorattention/anchor/model"
	"github.com/anchorattention/anchor/tokenizer"
)

// Options say how an engine works.
type Options struct {
	Attention  Attention
	CacheType  anchor.DType  // of keys and values: F32, BF16, F16 or I8; 0 means F32
	CacheBytes int64         // memory for the keys and values of all sequences; 0 means what the longest one takes
	Chunk      int           // tokens of prompts that pass through the model at once, more or less; 0 means 2048 a thread, 4096 at least
	Sequences  int           // that are worked on side by side at most; 0 means 16
	Costs      *anchor.Costs // see anchor.Options
	Threads    int           // goroutines to compute on; 0 means GOMAXPROCS
}

// A Request says what to continue and how.
type Request struct {
	Prompt    []int32 // token ids, at least one
	MaxTokens int     // tokens to generate at most, ≥ 1
	Sampling  Sampling

	Tokenizer   *tokenizer.Tokenizer // for text; nil is none
	Stop        []string             // strings that end the text, before which it ends
	LogProbs    bool                 // the log-probability of each token is wanted
	TopLogProbs int                  // and those of so many of the likeliest, with LogProbs

	// AuditRows is of how many rows of the prompt, of each head and layer, the exact recall is measured; 0 means no audit. A
	// prompt that is audited is read while others wait.
	AuditRows int

	// Progress, when set, is called now and then with the share of the prompt's work that is done, ascending in
	// [0, 1], by one goroutine at a time. All requests wait for it.
	Progress func(share float64)
	// Token, when set, is called with each token as it comes, by the goroutine that called Generate. Its error ends the
	// generation.
	Token func(t Token) error
}

// A Token is one that was generated.
type Token struct {
	ID   int32  // −1 for what is left of the text when the model has ended it
	Text string // that can be said now: whole characters, and nothing that may be the beginning of a string of Stop

	LogProb float64      // by the model, if wanted
	Top     []Likelihood // the likeliest ones, likewise
}

// An End says why a generation ended.
type End string

const (
	EndOfText    End = "end"    // the model ended the text
	EndStop      End = "stop"   // one of Request.Stop came
	EndMaxTokens End = "length" // Request.MaxTokens came
)

// A Result is what was generated and how long it took.
type Result struct {
	Tokens   []int32 // without the one that ended the text
	Text     string  // if there is a tokenizer
	LogProbs []Token // of each token, if wanted
	End      End
	Stats
}

// An Engine continues prompts with a model, several at a time: see the package documentation. It is safe for concurrent use.
// It needs no closing: when there is nothing to do it does nothing.
type Engine struct {
	model   *model.Model
	opt     Options
	pool    *model.Pool
	planner anchor.Planner
	every   int  // prompts are cut at multiples of it; 0: not at all
	decodes bool // the planner sees to it that generated tokens see all keys

	mu              sync.Mutex
	waiting, active []*sequence // in the order in which they came
	running         bool        // a goroutine works on them
}

// A sequence is a request on its way.
type sequence struct {
	Request
	ctx    context.Context
	cancel context.CancelCauseFunc
	start  time.Time

	dense   bool          // the prompt is attended to densely
	keys    [][]model.Key // of the pages of the prompt that can be shared, by unit
	cache   *model.Cache
	next    int32 // the last token, which is not in the cache yet
	sampler *sampler
	writer  *writer
	count   int // of generated tokens
	stats   Stats
	first   time.Time // when the first token came
	end     End

	mu     sync.Mutex
	tokens []Token       // that came and have not been handed out
	more   chan struct{} // there are some
	done   chan struct{} // closed when everything is over
	err    error
}

// New makes an engine. Memory for keys and values is taken as it is needed.
func New(m *model.Model, opt Options) (*Engine, error) {
	c := m.Config()
	planner, err := opt.Attention.Planner()
	if err == nil {
		err = opt.Attention.validate(c.Layers, c.Heads)
	}
	if err == nil && opt.Costs != nil {
		err = opt.Costs.Validate()
	}
	if err != nil {
		return nil, fmt.Errorf("generate: %w", err)
	}
	for _, f := range []struct {
		name  string
		value int64
	}{{"CacheBytes", opt.CacheBytes}, {"Chunk", int64(opt.Chunk)}, {"Sequences", int64(opt.Sequences)}, {"Threads", int64(opt.Threads)}} {
		if f.value < 0 {
			return nil, fmt.Errorf("generate: Options.%s is %d; want ≥ 0", f.name, f.value)
		}
	}
	if opt.CacheType == 0 {
		opt.CacheType = anchor.Float32
	}
	if opt.Chunk == 0 {
		opt.Chunk = max(4096, 2048*parallel.Threads(opt.Threads))
	}
	if opt.Sequences == 0 {
		opt.Sequences = 16
	}
	e := &Engine{model: m, opt: opt, planner: planner}
	borders, ok := anchor.BordersOf(planner)
	e.every, e.decodes = borders.Every, ok
	bytes := opt.CacheBytes
	if bytes == 0 {
		bytes = math.MaxInt64
	}
	if e.pool, err = m.NewPool(opt.CacheType, bytes); err != nil {
		return nil, err
	}
	if opt.CacheBytes > 0 {
		return e, nil
	}
	pages := int64((c.MaxPositions + model.PageTokens - 1) / model.PageTokens)
	e.pool, err = m.NewPool(opt.CacheType, pages*e.pool.PageBytes())
	return e, err
}

// Cache says where the memory for keys and values is.
func (e *Engine) Cache() model.PoolStats { return e.pool.Stats() }

// Load returns how many requests are being worked on, and how many wait for memory or their turn.
func (e *Engine) Load() (active, waiting int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return len(e.active), len(e.waiting)
}

// Generate continues a prompt until the model ends the text, a stop string comes or MaxTokens are there. What cannot be is an
// error before any work, a prompt that the memory cannot hold among it. When ctx ends or Token fails, it returns the error
// and what had been handed out. When it returns, the request's memory is free for others.
func (e *Engine) Generate(ctx context.Context, r Request) (*Result, error) {
	if err := e.check(&r); err != nil {
		return nil, fmt.Errorf("generate: %w", err)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s, err := e.sequence(ctx, r)
	if err != nil {
		return nil, err
	}
	defer s.cancel(nil)
	e.mu.Lock()
	e.waiting = append(e.waiting, s)
	if !e.running {
		e.running = true
		go e.run()
	}
	e.mu.Unlock()

	res := &Result{}
	cancelled := s.ctx.Done()
	for over := false; !over; {
		select {
		case <-s.more:
		case <-s.done:
			over = true
		case <-cancelled:
			cancelled = nil // once
			over = e.leave(s)
		}
		s.handOut(res)
	}
	res.Stats = s.stats
	err = s.err
	if cause := context.Cause(s.ctx); cause != nil {
		err = cause
	}
	switch {
	case err == nil:
		res.End = s.end
	case s.first.IsZero():
		return nil, err
	}
	return res, err
}

// check reports what is wrong with a request.
func (e *Engine) check(r *Request) error {
	c := e.model.Config()
	switch {
	case len(r.Prompt) == 0:
		return fmt.Errorf("the prompt has no tokens; want at least one")
	case r.MaxTokens < 1 || r.MaxTokens > c.MaxPositions:
		return fmt.Errorf("Request.MaxTokens is %d; want 1 … %d", r.MaxTokens, c.MaxPositions)
	case len(r.Prompt) > c.MaxPositions-r.MaxTokens+1: // the last token is not put back into the model
		return fmt.Errorf("a prompt of %d tokens and %d to generate exceed the model's %d positions",
			len(r.Prompt), r.MaxTokens, c.MaxPositions)
	case r.AuditRows < 0:
		return fmt.Errorf("Request.AuditRows is %d; want ≥ 0", r.AuditRows)
	case r.TopLogProbs < 0 || r.TopLogProbs > c.Vocab:
		return fmt.Errorf("Request.TopLogProbs is %d; want 0 … %d", r.TopLogProbs, c.Vocab)
	case r.TopLogProbs > 0 && !r.LogProbs:
		return fmt.Errorf("Request.TopLogProbs is %d without LogProbs; want the two together", r.TopLogProbs)
	case len(r.Stop) > 0 && r.Tokenizer == nil:
		return fmt.Errorf("Request.Stop has %d strings without a Tokenizer; want one for text", len(r.Stop))
	}
	for i, id := range r.Prompt {
		if id < 0 || int(id) >= c.Vocab {
			return fmt.Errorf("token %d is %d; want ids below vocab_size, %d", i, id, c.Vocab)
		}
	}
	for i, text := range r.Stop {
		if text == "" || !utf8.ValidString(text) {
			return fmt.Errorf("Request.Stop[%d] is %q; want some text in UTF-8", i, text)
		}
	}
	if err := r.Sampling.Validate(); err != nil {
		return err
	}
	return e.pool.Fits(e.tokens(r))
}

// tokens returns how many tokens the cache of a request is for.
func (e *Engine) tokens(r *Request) int { return len(r.Prompt) + r.MaxTokens - 1 }

func (e *Engine) sequence(ctx context.Context, r Request) (*sequence, error) {
	s := &sequence{Request: r, start: time.Now(), more: make(chan struct{}, 1), done: make(chan struct{})}
	s.Prompt = slices.Clone(r.Prompt)
	s.dense = len(r.Prompt) < e.opt.Attention.DenseBelow
	planner, a := e.planner, e.opt.Attention
	if s.dense {
		planner, a = anchor.Dense(), Attention{Method: "dense"}
	}
	// A window as long as the prompt is none, and then the planner counts.
	var windows []bool
	for _, w := range e.model.Config().Windows {
		windows = append(windows, w < len(r.Prompt))
	}
	prefix, err := newPrefix(planner, a, e.opt.CacheType, e.opt.Costs, windows)
	if err != nil {
		return nil, err
	}
	s.keys = prefix.keys(s.Prompt)
	s.sampler = newSampler(r.Sampling, s.Prompt)
	if r.Tokenizer != nil {
		s.writer = &writer{stream: r.Tokenizer.NewStream(true), stop: r.Stop}
	}
	s.stats.PromptTokens = len(r.Prompt)
	s.ctx, s.cancel = context.WithCancelCause(ctx)
	return s, nil
}

// leave takes a request that has not been begun out of the queue.
func (e *Engine) leave(s *sequence) bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	i := slices.Index(e.waiting, s)
	if i < 0 {
		return false
	}
	e.waiting = slices.Delete(e.waiting, i, i+1)
	return true
}

// handOut gives the tokens that came to the caller, as long as the request is not cancelled.
func (s *sequence) handOut(res *Result) {
	s.mu.Lock()
	tokens := s.tokens
	s.tokens = nil
	s.mu.Unlock()
	var text strings.Builder
	defer func() { res.Text += text.String() }()
	for _, t := range tokens {
		if s.ctx.Err() != nil {
			return
		}
		if t.ID >= 0 {
			res.Tokens = append(res.Tokens, t.ID)
			if s.LogProbs {
				res.LogProbs = append(res.LogProbs, t)
			}
		}
		text.WriteString(t.Text)
		if s.Token != nil {
			if err := s.Token(t); err != nil {
				s.cancel(err)
				return
			}
		}
	}
}

// run works on requests until there are none.
func (e *Engine) run() {
	for {
		batch := e.admit()
		if len(batch) == 0 {
			return
		}
		e.step(batch)
	}
}

// admit ends the requests that are over, begins those that there is memory for, and returns those to work on. If there
// are none, running has ended.
func (e *Engine) admit() []*sequence {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.active = slices.DeleteFunc(e.active, func(s *sequence) bool {
		if s.err == nil && s.end == "" {
			s.err = context.Cause(s.ctx)
		}
		if s.err == nil && s.end == "" {
			return false
		}
		s.cache.Close()
		close(s.done)
		return true
	})
	for len(e.waiting) > 0 && len(e.active) < e.opt.Sequences {
		s := e.waiting[0]
		cache, err := e.pool.NewCache(e.tokens(&s.Request), s.keys)
		if errors.Is(err, model.ErrFull) {
			break // until one of the active ones is done
		}
		e.waiting = slices.Delete(e.waiting, 0, 1)
		if err != nil {
			s.err = err
			close(s.done)
			continue
		}
		s.cache, s.stats.CachedTokens = cache, cache.Len()
		e.active = append(e.active, s)
	}
	e.running = len(e.active) > 0
	return slices.Clone(e.active)
}

// reading reports whether the prompt is not in the cache yet.
func (s *sequence) reading() bool { return s.cache.Len() < len(s.Prompt) }

// A piece is a sequence's part in a step.
type piece struct {
	*sequence
	from, to int // tokens of the prompt; to is 0 for one that was generated
}

// pieces chooses what a step does: a token of each sequence that is past its prompt, and of those that are not a chunk each,
// those that came first first, until there are enough tokens. Chunks end at the borders of the planner's groups. A prompt
// that is audited is read alone.
func (e *Engine) pieces(all []*sequence) []piece {
	var pieces []piece
	left := e.opt.Chunk
	for _, s := range all {
		if !s.reading() {
			pieces = append(pieces, piece{sequence: s})
			continue
		}
		if left <= 0 {
			continue
		}
		every, from, to := e.every, s.cache.Len(), len(s.Prompt)
		if s.dense {
			every = 1
		}
		if every > 0 {
			// As many as are left for, but one border further than none.
			end := (from + left) / every * every
			to = min(max(end, (from/every+1)*every), to)
		}
		p := piece{s, from, to}
		if s.AuditRows > 0 {
			return []piece{p}
		}
		left -= to - from
		pieces = append(pieces, p)
	}
	return pieces
}

// step passes a piece of each sequence through the model.
func (e *Engine) step(all []*sequence) {
	pieces := e.pieces(all)
	// Requests that are cancelled end the step when they are all there are in it.
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	var left atomic.Int64
	left.Store(int64(len(pieces)))
	opt := model.ForwardOptions{Planner: e.planner, LayerPlanner: e.opt.Attention.layer(e.planner), Costs: e.opt.Costs, Threads: e.opt.Threads}
	parts := make([]model.Part, len(pieces))
	watched := false
	for i, p := range pieces {
		stop := context.AfterFunc(p.ctx, func() {
			if left.Add(-1) == 0 {
				cancel()
			}
		})
		defer stop()
		parts[i] = model.Part{Cache: p.cache, Prompt: len(p.Prompt), Dense: p.dense}
		if p.to == 0 {
			parts[i].IDs = []int32{p.next}
			parts[i].Dense = p.dense || !e.decodes
			continue
		}
		parts[i].IDs, parts[i].Silent = p.Prompt[p.from:p.to], p.to < len(p.Prompt)
		watched = watched || p.Progress != nil
		// Rows of each chunk, so that they are as many in all.
		opt.AuditRows += p.to*p.AuditRows/len(p.Prompt) - p.from*p.AuditRows/len(p.Prompt)
	}
	if watched {
		opt.Progress = func(share float64) {
			for _, p := range pieces {
				if p.to > 0 && p.Progress != nil && p.ctx.Err() == nil {
					p.Progress(e.share(p, share))
				}
			}
		}
	}
	logits, stats, err := e.model.ForwardBatch(ctx, parts, opt)
	if err != nil {
		for _, p := range pieces {
			p.err = err
		}
		return
	}
	for i, p := range pieces {
		if p.to == 0 {
			p.stats.decoded(time.Since(p.first))
			p.take(e.model.Config().EOS, logits[i])
			continue
		}
		p.stats.read(stats)
		var whole []model.Key // of the units that are there
		for _, keys := range p.keys {
			if (len(whole)+len(keys))*model.PageTokens > p.cache.Len() {
				break
			}
			whole = append(whole, keys...)
		}
		if err := p.cache.Share(whole); err != nil {
			p.err = err
			continue
		}
		if p.to == len(p.Prompt) {
			first := time.Now()
			if p.take(e.model.Config().EOS, logits[i]); p.err == nil {
				p.first = first
				p.stats.FirstToken = first.Sub(p.start).Seconds() - p.stats.audited()
			}
		}
	}
}

// share returns the share of a prompt's work that is done when a share of a piece of it is.
func (e *Engine) share(p piece, done float64) float64 {
	c := e.model.Config()
	if done == 1 && p.to == len(p.Prompt) {
		return 1
	}
	// In multiply-adds of a layer, attention as if dense.
	linear := float64(c.Hidden) * float64(2*(c.Heads+c.KVHeads)*c.HeadDim+3*c.Intermediate)
	work := func(tokens int) float64 {
		n := float64(tokens)
		return n * (linear + n*float64(c.Heads*c.HeadDim))
	}
	before, from, to := work(p.stats.CachedTokens), work(p.from), work(p.to)
	return min((from+(to-from)*done-before)/(work(len(p.Prompt))-before), 1)
}

// take chooses the next token from the logits and says what can be said.
func (s *sequence) take(ends []int32, logits []float32) {
	id, err := s.sampler.next(logits)
	if err != nil {
		s.err = err
		return
	}
	t := Token{ID: id}
	if slices.Contains(ends, id) {
		s.end, t.ID = EndOfText, -1
	} else {
		s.next, s.count = id, s.count+1
		if s.LogProbs {
			chosen, top := likelihoods(logits, id, s.TopLogProbs)
			t.LogProb, t.Top = chosen.LogProb, top
		}
		if s.writer != nil {
			var stopped bool
			if t.Text, stopped = s.writer.put(id); stopped {
				s.end = EndStop
			}
		}
		if s.end == "" && s.count == s.MaxTokens {
			s.end = EndMaxTokens
		}
	}
	if s.writer != nil && (s.end == EndOfText || s.end == EndMaxTokens) {
		text, stopped := s.writer.flush()
		if t.Text += text; stopped {
			s.end = EndStop
		}
	}
	if t.ID < 0 && t.Text == "" {
		return
	}
	s.mu.Lock()
	s.tokens = append(s.tokens, t)
	s.mu.Unlock()
	select {
	case s.more <- struct{}{}:
	default:
	}
}
