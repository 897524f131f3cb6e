package generate_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/generate"
	"github.com/anchorattention/anchor/model"
	"github.com/anchorattention/anchor/model/retrieval"
	"github.com/anchorattention/anchor/tokenizer"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newEngine(t testing.TB, m *model.Model, opt generate.Options) *generate.Engine {
	t.Helper()
	if opt.Attention.Method == "" {
		opt.Attention = dense
	}
	e, err := generate.New(m, opt)
	if err != nil {
		t.Fatal(err)
	}
	return e
}

var dense = generate.Attention{Method: "dense"}

func retrieve(t testing.TB) (*model.Model, *tokenizer.Tokenizer) {
	t.Helper()
	m, data, err := retrieval.Build()
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return m, tok
}

// The answer comes as tokens and as text, to the callback too, and the model ends it; times and the account of attention
// are those of the prompt, over all its chunks.
func TestGenerate(t *testing.T) {
	m, tok := retrieve(t)
	p, err := retrieval.NewPrompt(800, 0.4, 3)
	if err != nil {
		t.Fatal(err)
	}
	params := anchor.DefaultParams()
	params.Step, params.Tail = 1, 0
	e := newEngine(t, m, generate.Options{Attention: generate.Attention{Method: "anchor", Params: params}, Chunk: 300})
	ids := tok.Encode(p.Text, true).IDs
	var came []int32
	last := 0.
	text := ""
	r, err := e.Generate(t.Context(), generate.Request{
		Prompt: ids, MaxTokens: 5, AuditRows: 10, Tokenizer: tok,
		Token: func(t generate.Token) error { came = append(came, t.ID); text += t.Text; return nil },
		Progress: func(share float64) {
			if share < last {
				t.Errorf("progress from %v to %v", last, share)
			}
			last = share
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if answer := tok.Decode(r.Tokens, true); answer != p.Answer || r.Text != answer || text != answer || r.End != generate.EndOfText {
		t.Errorf("answer %q, text %q, ended by %q; want %q", answer, r.Text, r.End, p.Answer)
	}
	if !slices.Equal(came, r.Tokens) {
		t.Errorf("callbacks with %v; tokens %v", came, r.Tokens)
	}
	if last != 1 {
		t.Errorf("progress ended at %v", last)
	}
	if want := int64(2 * len(ids) * (len(ids) + 1) / 2); r.Attention.CausalPairs != want || len(r.Attention.Audit) != 20 {
		t.Errorf("%d causal pairs, want %d; %d audited rows, want 20", r.Attention.CausalPairs, want, len(r.Attention.Audit))
	}
	if r.FirstToken < r.AttentionSeconds+r.OtherSeconds || r.AttentionSeconds <= 0 || r.OtherSeconds <= r.ProductSeconds || r.ProductSeconds <= 0 {
		t.Errorf("seconds: first token %v, attention %v, other %v, products %v", r.FirstToken, r.AttentionSeconds, r.OtherSeconds, r.ProductSeconds)
	}
	if r.DecodeTokens != 1 || r.TokensPerSecond() <= 0 || r.PromptTokens != len(ids) || r.PromptTokensPerSecond() <= 0 {
		t.Errorf("%d tokens decoded at %v a second, %d of the prompt", r.DecodeTokens, r.TokensPerSecond(), r.PromptTokens)
	}
}

// tiny returns a model of 4 tokens whose logits after any of them are the given ones.
func tiny(t *testing.T, logits [4]float32, eos ...int32) *model.Model {
	c := model.Config{
		Vocab: 4, Hidden: 2, Intermediate: 1, Layers: 1, Heads: 1, KVHeads: 1, HeadDim: 2, MaxPositions: 10,
		RMSNormEps: 1e-6, RopeTheta: 100, BOS: -1, EOS: eos,
	}
	m, err := model.New(c, func(name string, shape ...int) ([]float32, error) {
		switch {
		case name == "model.embed_tokens.weight":
			return []float32{1, 0, 1, 0, 1, 0, 1, 0}, nil
		case name == "lm_head.weight":
			return []float32{logits[0], 0, logits[1], 0, logits[2], 0, logits[3], 0}, nil
		case len(shape) == 1:
			return slices.Repeat([]float32{1}, shape[0]), nil
		}
		return make([]float32, shape[0]*shape[1]), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// noise returns a model of random weights.
func noise(t testing.TB, positions int, windows ...int) *model.Model {
	c := model.Config{
		Vocab: 50, Hidden: 32, Intermediate: 24, Layers: 3, Heads: 4, KVHeads: 2, HeadDim: 8, MaxPositions: positions,
		RMSNormEps: 1e-6, RopeTheta: 1000, BOS: -1, Windows: windows,
	}
	rng := rand.New(rand.NewPCG(5, 5))
	m, err := model.New(c, func(_ string, shape ...int) ([]float32, error) {
		n := 1
		for _, s := range shape {
			n *= s
		}
		w := make([]float32, n)
		for i := range w {
			w[i] = float32(rng.NormFloat64()) / 2
		}
		return w, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func randomPrompt(n int, seed uint64) []int32 {
	rng := rand.New(rand.NewPCG(seed, 9))
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = rng.Int32N(50)
	}
	return ids
}

// Ties go to the lowest id; generation stops at MaxTokens or at a token that ends the text, which is not returned.
func TestStops(t *testing.T) {
	for _, c := range []struct {
		logits [4]float32
		eos    []int32
		max    int
		want   string
	}{
		{[4]float32{0, 3, 3, 1}, nil, 4, "[1 1 1 1] length"},
		{[4]float32{0, 3, 3, 1}, []int32{2}, 1, "[1] length"},
		{[4]float32{0, 3, 3, 1}, []int32{0, 1}, 4, "[] end"},
		{[4]float32{-5, -4, -3, -2}, nil, 9, "[3 3 3 3 3 3 3 3 3] length"}, // as many as the model has positions for
	} {
		r, err := newEngine(t, tiny(t, c.logits, c.eos...), generate.Options{}).Generate(t.Context(), generate.Request{
			Prompt: []int32{0, 2}, MaxTokens: c.max,
		})
		if err != nil {
			t.Error(err)
			continue
		}
		if got := fmt.Sprint(r.Tokens, " ", r.End); got != c.want {
			t.Errorf("logits %v, ends %v: got %s, want %s", c.logits, c.eos, got, c.want)
		}
	}
}

func TestErrors(t *testing.T) {
	m, tok := retrieve(t)
	e := newEngine(t, tiny(t, [4]float32{1, 2, 3, 4}), generate.Options{})
	bad := newEngine(t, tiny(t, [4]float32{1, float32(math.NaN()), 3, 4}), generate.Options{})
	narrow := newEngine(t, m, generate.Options{CacheBytes: 3 << 20})
	sorry := errors.New("sorry")
	one := []int32{1}
	for _, c := range []struct {
		e    *generate.Engine
		r    generate.Request
		want string
	}{
		{e, generate.Request{MaxTokens: 1}, "no tokens"},
		{e, generate.Request{Prompt: one}, "MaxTokens is 0"},
		{e, generate.Request{Prompt: one, MaxTokens: 11}, "MaxTokens is 11"},
		{e, generate.Request{Prompt: []int32{1, 1}, MaxTokens: 10}, "10 positions"},
		{e, generate.Request{Prompt: []int32{4}, MaxTokens: 1}, "token 0 is 4"},
		{e, generate.Request{Prompt: one, MaxTokens: 1, AuditRows: -1}, "AuditRows is -1"},
		{e, generate.Request{Prompt: one, MaxTokens: 1, LogProbs: true, TopLogProbs: 5}, "TopLogProbs is 5; want 0 … 4"},
		{e, generate.Request{Prompt: one, MaxTokens: 1, TopLogProbs: 1}, "without LogProbs"},
		{e, generate.Request{Prompt: one, MaxTokens: 1, Stop: []string{"x"}}, "without a Tokenizer"},
		{e, generate.Request{Prompt: one, MaxTokens: 1, Stop: []string{"x", ""}, Tokenizer: tok}, "Stop[1]"},
		{e, generate.Request{Prompt: one, MaxTokens: 1, Stop: []string{"\xff"}, Tokenizer: tok}, "Stop[0]"},
		{e, generate.Request{Prompt: one, MaxTokens: 1, Sampling: generate.Sampling{TopP: 1.5}}, "TopP is 1.5"},
		{bad, generate.Request{Prompt: one, MaxTokens: 1}, "token 1 is NaN"},
		{narrow, generate.Request{Prompt: make([]int32, 100000), MaxTokens: 1}, "782 pages"},
	} {
		r, err := c.e.Generate(t.Context(), c.r)
		if err == nil || !strings.Contains(err.Error(), c.want) || r != nil {
			t.Errorf("error %v, want one that mentions %q", err, c.want)
		}
		if s := c.e.Cache(); s.Used != 0 {
			t.Errorf("%s: %d pages are used", c.want, s.Used)
		}
	}
	for _, c := range []struct {
		opt  generate.Options
		want string
	}{
		{generate.Options{}, `Method is ""; want one of dense, anchor`},
		{generate.Options{Attention: generate.Attention{Method: "anchor-guard"}}, `"anchor-guard"`},
		{generate.Options{Attention: generate.Attention{Method: "anchor"}}, "Params.Block is 0"},
		{generate.Options{Attention: generate.Attention{Method: "dense", DenseLayers: []int{1}}}, "DenseLayers has 1; want 0 … 0"},
		{generate.Options{Attention: generate.Attention{Method: "dense", DenseBelow: -1}}, "DenseBelow is -1"},
		{generate.Options{Attention: generate.Attention{Method: "dense", Params: anchor.Params{Refinements: anchor.Refinements{HeadTheta: anchor.Thetas{1, 2}}}}}, "HeadTheta has 2 numbers"},
		{generate.Options{Attention: dense, Chunk: -1}, "Chunk is -1"},
		{generate.Options{Attention: dense, Sequences: -1}, "Sequences is -1"},
		{generate.Options{Attention: dense, Threads: -1}, "Threads is -1"},
		{generate.Options{Attention: dense, CacheBytes: 100}, "100 bytes"},
		{generate.Options{Attention: dense, CacheType: 9}, "DType(9)"},
		{generate.Options{Attention: dense, Costs: &anchor.Costs{GatherRows: -1}}, "GatherRows is -1"},
	} {
		if _, err := generate.New(tiny(t, [4]float32{}), c.opt); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want one that mentions %q", err, c.want)
		}
	}

	// What came before an error is there, and nothing comes after it.
	n := 0
	r, err := e.Generate(t.Context(), generate.Request{
		Prompt: one, MaxTokens: 5,
		Token: func(generate.Token) error {
			if n++; n == 3 {
				return sorry
			}
			return nil
		},
	})
	if !errors.Is(err, sorry) || len(r.Tokens) != 3 || n != 3 {
		t.Errorf("error %v with %v; want %v with 3 tokens", err, r, sorry)
	}
	ctx, cancel := context.WithCancel(t.Context())
	r, err = e.Generate(ctx, generate.Request{
		Prompt: one, MaxTokens: 5, Token: func(generate.Token) error { cancel(); return nil },
	})
	if !errors.Is(err, context.Canceled) || len(r.Tokens) != 1 {
		t.Errorf("error %v with %v; want %v with one token", err, r, context.Canceled)
	}
	if _, err := e.Generate(ctx, generate.Request{Prompt: one, MaxTokens: 5}); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v of a context that has ended", err)
	}
	if s := e.Cache(); s.Used != 0 {
		t.Errorf("%d pages are used", s.Used)
	}
}

// logProbs returns the numbers of all tokens, bit by bit.
func logProbs(r *generate.Result) []float64 {
	var all []float64
	for _, t := range r.LogProbs {
		all = append(all, t.LogProb)
		for _, x := range t.Top {
			all = append(all, float64(x.ID), x.LogProb)
		}
	}
	return all
}

// small are parameters under which half the candidates of random heads are kept.
var small = anchor.Params{Block: 16, Step: 4, Init: 8, Local: 8, Theta: 2.5, Tail: 20}

// Whatever the chunks, whatever other requests there are, and whatever prefix another prompt has left behind: a request gets,
// bit by bit, what it gets alone and in one call.
func TestSameAsAlone(t *testing.T) {
	m := noise(t, 2000)
	common := randomPrompt(600, 1)
	var requests []generate.Request
	for i, n := range []int{1, 40, 128, 300, 400, 555, 600} {
		prompt := append(slices.Clone(common[:n]), randomPrompt(5+37*i, uint64(2+i))...)
		requests = append(requests, generate.Request{
			Prompt: prompt, MaxTokens: 2 + i, LogProbs: true, TopLogProbs: 3,
			Sampling: generate.Sampling{Temperature: 1, Seed: uint64(i)},
		})
	}
	for i, n := range []int{130, 390, 400, 600} { // tails where others share
		requests = append(requests, generate.Request{
			Prompt: common[:n], MaxTokens: 2, LogProbs: true, Sampling: generate.Sampling{Temperature: 1, Seed: uint64(i)},
		})
	}
	every, few := requests, requests[3:6]
	theta := anchor.Thetas{1, 2, 3, 30}
	heads := small
	heads.HeadTheta = theta
	for _, a := range []generate.Attention{
		dense,
		{Method: "anchor", Params: small},
		{Method: "anchor", Params: anchor.Params{Block: 16, Step: 12, Init: 8, Local: 8, Theta: 2.5, Tail: 20}, DenseLayers: []int{1}}, // groups that pages cut
		{Method: "auto", Params: heads, DenseLayers: []int{0, 2}},
		{Method: "anchor", Params: small, DenseBelow: 300},
		{Method: "vecattention", Params: small},
		{Method: "minference", Params: small},
		{Method: "flexprefill", Params: small},
	} {
		requests, types := every, []anchor.DType{anchor.Float32}
		if a.Method != "dense" && a.Method != "anchor" && a.Method != "auto" {
			requests = few
		}
		if a.Method == "anchor" && a.DenseBelow == 0 && a.DenseLayers == nil {
			types = []anchor.DType{anchor.Float32, anchor.BFloat16, anchor.Float16, anchor.Int8}
		}
		for _, dtype := range types {
			var want [][]float64
			for _, r := range requests {
				res, err := newEngine(t, m, generate.Options{Attention: a, CacheType: dtype, Chunk: 1 << 20}).Generate(t.Context(), r)
				if err != nil {
					t.Fatal(err)
				}
				want = append(want, logProbs(res))
			}
			e := newEngine(t, m, generate.Options{Attention: a, CacheType: dtype, Chunk: 100, Sequences: 3})
			for round := range 2 {
				cached := make([]int, len(requests))
				var wg sync.WaitGroup
				for i, r := range requests {
					wg.Go(func() {
						res, err := e.Generate(t.Context(), r)
						if err != nil {
							t.Error(err)
							return
						}
						if !slices.Equal(logProbs(res), want[i]) {
							t.Errorf("%s in %v, round %d: request %d has other logits among others; %d tokens were cached", a.Method, dtype, round, i, res.CachedTokens)
						}
						cached[i] = res.CachedTokens
					})
				}
				wg.Wait()
				_, sharing := anchor.BordersOf(mustPlanner(t, a))
				if got := slices.Max(cached); round == 1 && (got == 0) == sharing {
					t.Errorf("%s: %d tokens at most were cached", a.Method, got)
				}
			}
			if s := e.Cache(); s.Used != 0 {
				t.Errorf("%d pages are used after all", s.Used)
			}
		}
	}
}

// With sliding windows chunks and prefixes change nothing but rounding.
func TestWindows(t *testing.T) {
	m := noise(t, 2000, 0, 150, 700)
	a := generate.Attention{Method: "anchor", Params: small}
	e := newEngine(t, m, generate.Options{Attention: a, Chunk: 100})
	common := randomPrompt(900, 1)
	for i, n := range []int{900, 640, 140, 700, 701, 890} { // shorter than windows and longer
		r := generate.Request{Prompt: common[:n], MaxTokens: 4, LogProbs: true}
		want, err := newEngine(t, m, generate.Options{Attention: a, Chunk: 1 << 20}).Generate(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		got, err := e.Generate(t.Context(), r)
		if err != nil {
			t.Fatal(err)
		}
		for j, x := range logProbs(got) {
			if y := logProbs(want)[j]; !(math.Abs(x-y) < 1e-3) {
				t.Errorf("%d tokens: token %d has log-probability %v; want %v", n, j, x, y)
			}
		}
		if shared := n < 701 && i > 0 && got.CachedTokens > 0; shared && i < 3 {
			t.Errorf("%d tokens took over %d of a prompt with other windows", n, got.CachedTokens)
		}
	}
}

func mustPlanner(t *testing.T, a generate.Attention) anchor.Planner {
	t.Helper()
	p, err := a.Planner()
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A prompt takes over what whole groups before both tails have in common with earlier ones, and nothing else.
func TestPrefix(t *testing.T) {
	m := noise(t, 4000)
	a := generate.Attention{Method: "anchor", Params: anchor.Params{Block: 32, Step: 6, Init: 8, Local: 8, Theta: 1, Tail: 20}} // groups of 192: units end at 128, 384 and 768
	common := randomPrompt(1000, 1)
	with := func(n, rest int, seed uint64) []int32 {
		return append(slices.Clone(common[:n]), randomPrompt(rest, seed)...)
	}
	e := newEngine(t, m, generate.Options{Attention: a})
	for i, c := range []struct {
		prompt []int32
		want   int
	}{
		{common[:800], 0},
		{common[:800], 768},
		{common[:788], 768},      // 768 and a tail of 20
		{common[:787], 384},      // the tail reaches into the second unit
		{common, 768},            // more of the same
		{with(767, 100, 2), 384}, // differs in the last token of the second unit
		{with(383, 500, 3), 128}, // and of the one before
		{with(383, 500, 3), 768}, // which is another's now
		{common, 768},
		{with(384, 500, 4), 384},
		{common[:384], 128}, // a tail of its own
		{common[:128], 0},   // a token must be left
		{common[:129], 128}, // the first group has no tail
	} {
		r, err := e.Generate(t.Context(), generate.Request{Prompt: c.prompt, MaxTokens: 1})
		if err != nil {
			t.Fatal(err)
		}
		if r.CachedTokens != c.want {
			t.Errorf("prompt %d: %d tokens were cached; want %d", i, r.CachedTokens, c.want)
		}
	}

	// Memory for less is memory for what is used.
	page := e.Cache().PageBytes
	e = newEngine(t, m, generate.Options{Attention: dense, CacheBytes: 5 * page})
	for i, c := range []struct {
		prompt []int32
		want   int
	}{{common[:640], 0}, {common[:640], 512}, {randomPrompt(300, 9), 0}, {common[:640], 256}} {
		r, err := e.Generate(t.Context(), generate.Request{Prompt: c.prompt, MaxTokens: 1})
		if err != nil {
			t.Fatal(err)
		}
		if r.CachedTokens != c.want {
			t.Errorf("little memory, prompt %d: %d tokens were cached; want %d", i, r.CachedTokens, c.want)
		}
	}
}

// Requests that do not fit beside one another wait for one another; cancelled ones give their memory back, whether they wait,
// read or write, and the others do not notice.
func TestCancel(t *testing.T) {
	m := noise(t, 2000)
	pages := func(n int64) generate.Options {
		one := newEngine(t, m, generate.Options{}).Cache().PageBytes
		return generate.Options{CacheBytes: n * one, Chunk: 128}
	}
	e := newEngine(t, m, pages(10))
	request := generate.Request{Prompt: randomPrompt(600, 1), MaxTokens: 40, LogProbs: true}
	want, err := newEngine(t, m, generate.Options{}).Generate(t.Context(), request)
	if err != nil {
		t.Fatal(err)
	}
	for _, when := range []string{"waiting", "reading", "writing"} {
		ctx, cancel := context.WithCancel(t.Context())
		doomed := request
		doomed.Prompt = randomPrompt(600, 2)
		var wg sync.WaitGroup
		running := make(chan struct{})
		switch when {
		case "reading":
			doomed.Progress = func(share float64) {
				if share > 0.5 {
					cancel()
				}
			}
			close(running)
		case "writing":
			n := 0
			doomed.Token = func(generate.Token) error {
				if n++; n == 5 {
					cancel()
				}
				return nil
			}
			close(running)
		}
		for range 2 {
			wg.Go(func() {
				r := request
				if when == "waiting" {
					first := true
					r.Token = func(generate.Token) error { // when it has all the memory
						if first {
							first = false
							select {
							case <-running:
							default:
								close(running)
							}
						}
						return nil
					}
				}
				got, err := e.Generate(t.Context(), r)
				if err != nil || !slices.Equal(got.Tokens, want.Tokens) || !slices.Equal(logProbs(got), logProbs(want)) {
					t.Errorf("%s: error %v; want what there is without others", when, err)
				}
			})
			if when == "waiting" {
				break
			}
		}
		<-running
		if when == "waiting" {
			doomed.MaxTokens = 600 // all pages
			cancel()
		}
		if _, err := e.Generate(ctx, doomed); !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error %v; want %v", when, err, context.Canceled)
		}
		wg.Wait()
		if s := e.Cache(); s.Used != 0 {
			t.Errorf("%s: %d pages are used after all", when, s.Used)
		}
		if active, waiting := e.Load(); active != 0 || waiting != 0 {
			t.Errorf("%s: %d requests active, %d waiting", when, active, waiting)
		}
		cancel()
	}

	// One that waits for its turn leaves the queue at once.
	e = newEngine(t, m, generate.Options{Sequences: 1})
	ctx, cancel := context.WithCancel(t.Context())
	other := make(chan error)
	_, err = e.Generate(t.Context(), generate.Request{Prompt: randomPrompt(10, 1), MaxTokens: 3, Token: func(generate.Token) error {
		if cancel == nil {
			return nil
		}
		go func() {
			_, err := e.Generate(ctx, request)
			other <- err
		}()
		cancel()
		cancel = nil
		if err := <-other; !errors.Is(err, context.Canceled) {
			t.Errorf("error %v; want %v", err, context.Canceled)
		}
		return nil
	}})
	if err != nil {
		t.Error(err)
	}
}

// A batch of chance requests, some of them cancelled, leaves nothing behind.
func TestManyRequests(t *testing.T) {
	m := noise(t, 1000)
	e := newEngine(t, m, generate.Options{Attention: generate.Attention{Method: "anchor", Params: small}, Chunk: 64, Sequences: 4, CacheBytes: 9 * newEngine(t, m, generate.Options{}).Cache().PageBytes})
	var wg sync.WaitGroup
	for i := range 24 {
		wg.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 3))
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			n, stop := 0, rng.IntN(20)
			r, err := e.Generate(ctx, generate.Request{
				Prompt: randomPrompt(1+rng.IntN(500), uint64(i%3)), MaxTokens: 1 + rng.IntN(12),
				Token: func(generate.Token) error {
					if n++; n == stop {
						cancel()
					}
					return nil
				},
			})
			if err != nil && !errors.Is(err, context.Canceled) || err == nil && len(r.Tokens) == 0 {
				t.Errorf("error %v, result %v", err, r)
			}
		})
	}
	wg.Wait()
	s := e.Cache()
	active, waiting := e.Load()
	if s.Used != 0 || active != 0 || waiting != 0 || s.Kept > s.Pages {
		t.Errorf("after all: %+v, %d active, %d waiting", s, active, waiting)
	}
}

// Chunks bound the memory for activations.
func TestChunkMemory(t *testing.T) {
	c := model.Config{
		Vocab: 4, Hidden: 128, Intermediate: 16, Layers: 1, Heads: 2, KVHeads: 1, HeadDim: 64, MaxPositions: 8192,
		RMSNormEps: 1e-6, RopeTheta: 1000, BOS: -1,
	}
	m, err := model.New(c, func(_ string, shape ...int) ([]float32, error) {
		n := 1
		for _, s := range shape {
			n *= s
		}
		return slices.Repeat([]float32{0.01}, n), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	const tokens = 6000
	live := func(chunk int) int64 {
		streaming := 100.
		e := newEngine(t, m, generate.Options{Attention: generate.Attention{Method: "streaming", Value: &streaming, Params: small}, Chunk: chunk})
		var bytes uint64
		_, err := e.Generate(t.Context(), generate.Request{Prompt: make([]int32, tokens), MaxTokens: 1, Progress: func(share float64) {
			if bytes == 0 && share > 0.5 {
				var s runtime.MemStats
				runtime.GC()
				runtime.GC() // and what pools hold
				runtime.ReadMemStats(&s)
				bytes = s.HeapAlloc
			}
		}})
		if err != nil {
			t.Fatal(err)
		}
		return int64(bytes)
	}
	whole, chunked := live(tokens), live(256)
	// The residual stream, queries and outputs of attention, and the embedding's angles.
	all := int64(tokens * (3*128 + 64) * 4)
	if saved := whole - chunked; saved < all*3/4 {
		t.Errorf("chunks of 256 of %d tokens hold %d bytes less; want nearly %d", tokens, saved, all)
	}
}
