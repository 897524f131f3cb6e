package model_test

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/safetensors"
	"github.com/anchorattention/anchor/model"
	"github.com/anchorattention/anchor/model/internal/reference"
)

// configs are small models of different shapes, of every family.
var configs = map[string]model.Config{
	"grouped, untied": {
		Architecture: "llama",
		Vocab:        61, Hidden: 40, Intermediate: 52, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 16, MaxPositions: 4096,
		RMSNormEps: 1e-5, RopeTheta: 10000, BOS: -1,
	},
	"one KV head, tied": {
		Vocab: 33, Hidden: 24, Intermediate: 17, Layers: 3, Heads: 3, KVHeads: 1, HeadDim: 10, MaxPositions: 4096,
		RMSNormEps: 1e-6, RopeTheta: 500, Tied: true, BOS: -1,
	},
	"Llama 3.1": {
		Vocab: 35, Hidden: 32, Intermediate: 48, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 8, MaxPositions: 4096,
		RMSNormEps: 1e-5, RopeTheta: 500, BOS: -1,
		RopeScaling: model.RopeScaling{Type: "llama3", Factor: 8, Original: 64, LowFreq: 1, HighFreq: 4},
	},
	"Llama with biases, pairs and factors": {
		Vocab: 35, Hidden: 32, Intermediate: 48, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 8, MaxPositions: 4096,
		RMSNormEps: 1e-5, RopeTheta: 500, BOS: -1, QKVBias: true, OBias: true, Interleaved: true,
		RopeScaling: model.RopeScaling{Type: "factors", Factors: []float32{1, 1.5, 2, 4}},
	},
	"Llama, linear": {
		Vocab: 35, Hidden: 32, Intermediate: 48, Layers: 2, Heads: 4, KVHeads: 4, HeadDim: 8, MaxPositions: 4096,
		RMSNormEps: 1e-5, RopeTheta: 10000, BOS: -1, RopeScaling: model.RopeScaling{Type: "linear", Factor: 2.5},
	},
	"Mistral": {
		Architecture: "mistral",
		Vocab:        35, Hidden: 32, Intermediate: 48, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 12, MaxPositions: 4096,
		RMSNormEps: 1e-5, RopeTheta: 10000, BOS: -1, Windows: []int{11, 11},
	},
	"Qwen2": {
		Architecture: "qwen2",
		Vocab:        35, Hidden: 32, Intermediate: 48, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 8, MaxPositions: 4096,
		RMSNormEps: 1e-6, RopeTheta: 1000, Tied: true, BOS: -1, QKVBias: true, Windows: []int{0, 20},
		RopeScaling: model.RopeScaling{Type: "yarn", Factor: 4, Original: 100, BetaFast: 8, BetaSlow: 1, Attention: 1.1386},
	},
	"Qwen3": {
		Architecture: "qwen3",
		Vocab:        35, Hidden: 32, Intermediate: 48, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 16, MaxPositions: 4096,
		RMSNormEps: 1e-6, RopeTheta: 1e6, Tied: true, BOS: -1, QKNorm: true,
	},
}

// random returns weights that follow from their names.
func random(name string, shape ...int) ([]float32, error) {
	h := fnv.New64()
	h.Write([]byte(name))
	rng := rand.New(rand.NewPCG(h.Sum64(), 1))
	n := 1
	for _, s := range shape {
		n *= s
	}
	w := make([]float32, n)
	for i := range w {
		if w[i] = float32(rng.NormFloat64()); len(shape) > 1 {
			w[i] *= float32(1 / math.Sqrt(float64(shape[1])))
		} else if strings.HasSuffix(name, ".bias") {
			w[i] /= 2
		} else {
			w[i] = 1 + w[i]/4
		}
	}
	return w, nil
}

// remembered keeps what a source of weights returned, by name.
func remembered(source func(name string, shape ...int) ([]float32, error)) (func(string, ...int) ([]float32, error), map[string]safetensors.Tensor) {
	all := make(map[string]safetensors.Tensor)
	return func(name string, shape ...int) ([]float32, error) {
		w, err := source(name, shape...)
		all[name] = safetensors.Tensor{Name: name, DType: "F32", Shape: slices.Clone(shape), Data: w}
		return w, err
	}, all
}

func newModel(t testing.TB, c model.Config) *model.Model {
	t.Helper()
	m, err := model.New(c, random)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func newCache(t testing.TB, m *model.Model, capacity int) *model.Cache {
	t.Helper()
	cache, err := m.NewCache(capacity)
	if err != nil {
		t.Fatal(err)
	}
	return cache
}

func tokens(n, vocab int) []int32 {
	rng := rand.New(rand.NewPCG(2, uint64(vocab)))
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = rng.Int32N(int32(vocab))
	}
	return ids
}

var dense = model.ForwardOptions{Planner: anchor.Dense()}

func forward(t testing.TB, m *model.Model, cache *model.Cache, ids []int32, opt model.ForwardOptions) []float32 {
	t.Helper()
	logits, _, err := m.Forward(context.Background(), cache, ids, opt)
	if err != nil {
		t.Fatal(err)
	}
	return logits
}

// near reports the first of two lists' numbers that are not nearly equal.
func near[A, B float32 | float64](t testing.TB, what string, got []A, want []B, tolerance float64) {
	t.Helper()
	if len(got) != len(want) {
		t.Fatalf("%s: %d numbers, want %d", what, len(got), len(want))
	}
	for i := range got {
		if d := math.Abs(float64(got[i]) - float64(want[i])); !(d <= tolerance) {
			t.Errorf("%s: number %d is %v, want %v", what, i, got[i], want[i])
			return
		}
	}
}

// The model computes what the published block of every family does in double precision, to within 2e-4 of logits about 1.
func TestForward(t *testing.T) {
	for name, c := range configs {
		source, all := remembered(random)
		m, err := model.New(c, source)
		if err != nil {
			t.Fatal(err)
		}
		weight := func(name string) []float32 { return all[name].Data.([]float32) }
		lengths := []int{1, 2, 16, 17, 33}
		if name == "grouped, untied" || name == "Qwen2" {
			lengths = append(lengths, 530) // more than what is computed at once
		}
		for _, n := range lengths {
			ids := tokens(n, c.Vocab)
			cache := newCache(t, m, n)
			got := forward(t, m, cache, ids, dense)
			near(t, fmt.Sprintf("%s, %d tokens", name, n), got, reference.Logits(c, weight, ids), 2e-4)
			if cache.Len() != n {
				t.Errorf("the cache holds %d tokens, want %d", cache.Len(), n)
			}
		}
	}
}

// A text cut into calls gives what one call gives, with AnchorAttention when it is cut at the borders of groups; and
// so it does after a wrong continuation has been cut off again.
func TestChunks(t *testing.T) {
	c := configs["grouped, untied"]
	m := newModel(t, c)
	ids := tokens(700, c.Vocab)
	sparse := model.ForwardOptions{
		Planner: anchor.AnchorAttention(anchor.Params{Block: 16, Step: 4, Init: 8, Local: 8, Theta: 1, Tail: 20}), Prompt: len(ids),
	}
	for _, test := range []struct {
		name string
		opt  model.ForwardOptions
		cuts []int
	}{
		{"dense", dense, []int{1, 2, 3, 17, 18, 250, 699}},
		{"anchor", sparse, []int{64, 128, 640}},
	} {
		want := forward(t, m, newCache(t, m, 700), ids, test.opt)
		cache := newCache(t, m, 800)
		from := 0
		var got []float32
		for _, to := range append(test.cuts, len(ids)) {
			got = forward(t, m, cache, ids[from:to], test.opt)
			from = to
		}
		near(t, test.name+" in chunks", got, want, 1e-4)

		forward(t, m, cache, tokens(90, c.Vocab), dense)
		if err := cache.Truncate(640); err != nil {
			t.Fatal(err)
		}
		near(t, test.name+" after truncation", forward(t, m, cache, ids[640:], test.opt), want, 1e-4)
	}
	cache := newCache(t, m, 10)
	forward(t, m, cache, ids[:5], dense)
	for _, n := range []int{-1, 6} {
		if err := cache.Truncate(n); err == nil {
			t.Errorf("no error for truncation of 5 tokens to %d", n)
		}
	}
}

// A layer with a window attends to that many keys, whatever the planner, how the text is cut into calls and how long the
// prompt was; a window as long as the text leaves the planner as it is.
func TestWindows(t *testing.T) {
	c := configs["Mistral"]
	c.Windows = []int{0, 70}
	m := newModel(t, c)
	const n = 150
	ids := tokens(n, c.Vocab)
	pairs := func(opt model.ForwardOptions, cuts ...int) (logits []float32, pairs int64) {
		cache := newCache(t, m, n)
		from := 0
		for _, to := range append(cuts, n) {
			l, s, err := m.Forward(t.Context(), cache, ids[from:to], opt)
			if err != nil {
				t.Fatal(err)
			}
			if s.Attention.Method != opt.Planner.Name() {
				t.Errorf("method is %q, want %q", s.Attention.Method, opt.Planner.Name())
			}
			logits, pairs, from = l, pairs+s.Attention.Pairs, to
		}
		return logits, pairs
	}
	const all, windowed = n * (n + 1) / 2, 70*71/2 + (n-70)*70
	want, got := pairs(dense)
	if got != int64(c.Heads)*(all+windowed) {
		t.Errorf("%d pairs, want %d", got, int64(c.Heads)*(all+windowed))
	}
	logits, _ := pairs(model.ForwardOptions{Planner: anchor.Dense(), Prompt: n}, 1, 64, 65, 140)
	near(t, "in chunks", logits, want, 1e-5)
	logits, _ = pairs(model.ForwardOptions{Planner: anchor.Dense(), Prompt: 60}, 60, 61, 149) // the rest is decoded
	near(t, "decoded", logits, want, 1e-5)

	sparse := model.ForwardOptions{
		Planner: anchor.AnchorAttention(anchor.Params{Block: 16, Step: 2, Init: 4, Local: 4, Theta: math.Inf(-1), Tail: 1}), Prompt: n,
	}
	_, few := pairs(sparse)
	c.Windows = []int{0, n}
	m = newModel(t, c)
	if _, both := pairs(sparse); both != 2*(few-int64(c.Heads)*windowed) {
		t.Errorf("with a window as long as the text %d pairs, want %d", both, 2*(few-int64(c.Heads)*windowed))
	}
}

// Queries, keys and values are captured of the call's tokens alone, turned by their positions in the whole text: they do
// not depend on how it is cut into calls. An error of Capture ends the call.
func TestCapture(t *testing.T) {
	c := configs["Qwen3"]
	m := newModel(t, c)
	ids := tokens(40, c.Vocab)
	captured := func(cuts ...int) (q, k, v [][]float32) {
		q, k, v = make([][]float32, c.Layers), make([][]float32, c.Layers), make([][]float32, c.Layers)
		cache := newCache(t, m, 50)
		from := 0
		for _, to := range append(cuts, len(ids)) {
			opt := dense
			opt.Capture = func(layer int, cq, ck, cv []float32) error {
				n := to - from
				if len(cq) != c.Heads*n*c.HeadDim || len(ck) != c.KVHeads*n*c.HeadDim || len(cv) != len(ck) {
					t.Errorf("%d, %d and %d numbers of %d tokens", len(cq), len(ck), len(cv), n)
				}
				// The last token's first head is enough to compare.
				last := (n - 1) * c.HeadDim
				q[layer], k[layer], v[layer] = slices.Clone(cq[last:][:c.HeadDim]), slices.Clone(ck[last:][:c.HeadDim]), slices.Clone(cv[last:][:c.HeadDim])
				return nil
			}
			forward(t, m, cache, ids[from:to], opt)
			from = to
		}
		return q, k, v
	}
	q, k, v := captured()
	q2, k2, v2 := captured(17, 39)
	for layer := range c.Layers {
		near(t, "queries", q2[layer], q[layer], 1e-5)
		near(t, "keys", k2[layer], k[layer], 1e-5)
		near(t, "values", v2[layer], v[layer], 1e-5)
	}

	opt := dense
	opt.Capture = func(int, []float32, []float32, []float32) error { return errors.New("enough") }
	cache := newCache(t, m, 50)
	if _, _, err := m.Forward(t.Context(), cache, ids, opt); err == nil || err.Error() != "enough" || cache.Len() != 0 {
		t.Errorf("error %v, %d tokens in the cache; want enough, 0", err, cache.Len())
	}
}

// The number of threads changes nothing, bit by bit.
func TestThreads(t *testing.T) {
	c := configs["one KV head, tied"]
	m := newModel(t, c)
	ids := tokens(600, c.Vocab)
	opt := dense
	opt.Threads = 1
	want := forward(t, m, newCache(t, m, 600), ids, opt)
	for _, threads := range []int{0, 2, 3, 7} {
		opt.Threads = threads
		near(t, fmt.Sprintf("%d threads", threads), forward(t, m, newCache(t, m, 600), ids, opt), want, 0)
	}
}

// Stats account for the attention of all layers; progress rises to one.
func TestStats(t *testing.T) {
	c := configs["grouped, untied"]
	m := newModel(t, c)
	last := 0.
	_, s, err := m.Forward(context.Background(), newCache(t, m, 600), tokens(600, c.Vocab), model.ForwardOptions{
		Planner: anchor.Dense(), AuditRows: 5,
		Progress: func(share float64) {
			if share < last || share > 1 {
				t.Errorf("progress went from %v to %v", last, share)
			}
			last = share
		},
	})
	if err != nil {
		t.Fatal(err)
	}
	if last != 1 {
		t.Errorf("progress ended at %v", last)
	}
	if want := int64(c.Layers * c.Heads * 600 * 601 / 2); s.Attention.Pairs != want {
		t.Errorf("%d pairs, want %d", s.Attention.Pairs, want)
	}
	if want := c.Layers * c.Heads * 5; len(s.Attention.Audit) != want || s.Attention.Recall.Min < 0.9999 {
		t.Errorf("%d audited rows, want %d; recall %v", len(s.Attention.Audit), want, s.Attention.Recall)
	}
	if s.AttentionSeconds <= 0 || s.OtherSeconds <= 0 {
		t.Errorf("seconds: %v of attention, %v of all else", s.AttentionSeconds, s.OtherSeconds)
	}
}

// A call that fails says why and leaves the cache as it was.
func TestForwardErrors(t *testing.T) {
	c := configs["grouped, untied"]
	m := newModel(t, c)
	cache := newCache(t, m, 40)
	ids := tokens(20, c.Vocab)
	forward(t, m, cache, ids, dense)
	good := forward(t, m, cache, ids[:1], dense)
	if err := cache.Truncate(20); err != nil {
		t.Fatal(err)
	}

	ended, cancel := context.WithCancel(context.Background())
	cancel()
	half, stop := context.WithCancel(context.Background())
	bad := anchor.DefaultParams()
	bad.Block = 0
	for _, test := range []struct {
		name  string
		ctx   context.Context
		cache *model.Cache
		ids   []int32
		opt   model.ForwardOptions
		want  string
	}{
		{"no cache", nil, nil, ids, dense, "cache"},
		{"another's cache", nil, newCache(t, newModel(t, c), 40), ids, dense, "cache"},
		{"no tokens", nil, cache, nil, dense, "no tokens"},
		{"too many", nil, cache, tokens(21, c.Vocab), dense, "21 tokens after 20 overfill a cache for 40"},
		{"negative id", nil, cache, []int32{1, -1}, dense, "token 1 is -1"},
		{"id too large", nil, cache, []int32{61}, dense, "token 0 is 61; want ids below vocab_size, 61"},
		{"no planner", nil, cache, ids, model.ForwardOptions{}, "Planner is nil"},
		{"bad planner", nil, cache, ids, model.ForwardOptions{Planner: anchor.AnchorAttention(bad)}, "Params.Block is 0"},
		{"threads", nil, cache, ids, model.ForwardOptions{Planner: anchor.Dense(), Threads: -1}, "Threads is -1"},
		{"audit", nil, cache, ids, model.ForwardOptions{Planner: anchor.Dense(), AuditRows: -1}, "AuditRows is -1"},
		{"prompt", nil, cache, ids, model.ForwardOptions{Planner: anchor.Dense(), Prompt: -1}, "Prompt is -1"},
		{"long prompt", nil, cache, ids, model.ForwardOptions{Planner: anchor.Dense(), Prompt: 1<<29 + 1}, "want 0 … 536870912"},
		{"cancelled before", ended, cache, ids, dense, context.Canceled.Error()},
		{"cancelled midway", half, cache, ids, model.ForwardOptions{Planner: anchor.Dense(), Progress: func(share float64) {
			if share > 0.5 {
				stop()
			}
		}}, context.Canceled.Error()},
	} {
		if test.ctx == nil {
			test.ctx = context.Background()
		}
		_, _, err := m.Forward(test.ctx, test.cache, test.ids, test.opt)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: error %v, want one that mentions %q", test.name, err, test.want)
		}
		if cache.Len() != 20 {
			t.Fatalf("%s: the cache holds %d tokens", test.name, cache.Len())
		}
	}
	near(t, "after errors", forward(t, m, cache, ids[:1], dense), good, 0)

	for _, capacity := range []int{0, -1, 4097} {
		if _, err := m.NewCache(capacity); err == nil {
			t.Errorf("no error for a cache of %d", capacity)
		}
	}
	huge := c
	huge.MaxPositions, huge.KVHeads, huge.HeadDim, huge.Layers = 1<<28, 4, 256, 32
	zeros := make([]float32, 1<<16)
	m, err := model.New(huge, func(_ string, shape ...int) ([]float32, error) {
		shape = append(shape, 1)
		return zeros[:shape[0]*shape[1]], nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := m.NewCache(1 << 28); err == nil {
		t.Error("no error for a cache beyond all memory")
	}
}
