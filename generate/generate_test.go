package generate_test

import (
	"context"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/generate"
	"github.com/anchorattention/anchor/model"
	"github.com/anchorattention/anchor/model/retrieval"
	"github.com/anchorattention/anchor/tokenizer"
)

// The answer comes as tokens, to the callback too, and the model ends it; times and the account of attention are
// those of the prompt.
func TestGreedy(t *testing.T) {
	m, data, err := retrieval.Build()
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	p, err := retrieval.NewPrompt(800, 0.4, 3)
	if err != nil {
		t.Fatal(err)
	}
	params := anchor.DefaultParams()
	params.Step, params.Tail = 1, 0
	ids := tok.Encode(p.Text, true).IDs
	var came []int32
	last := 0.
	r, err := generate.Greedy(context.Background(), m, generate.Request{
		Prompt: ids, MaxTokens: 5, Planner: anchor.AnchorAttention(params), AuditRows: 10,
		Token:    func(id int32) error { came = append(came, id); return nil },
		Progress: func(share float64) { last = share },
	})
	if err != nil {
		t.Fatal(err)
	}
	if answer := tok.Decode(r.Tokens, true); answer != p.Answer || !r.Ended {
		t.Errorf("answer %q, ended %v; want %q, ended", answer, r.Ended, p.Answer)
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
	if r.FirstToken < r.AttentionSeconds+r.OtherSeconds || r.AttentionSeconds <= 0 || r.OtherSeconds <= 0 {
		t.Errorf("seconds: first token %v, attention %v, other %v", r.FirstToken, r.AttentionSeconds, r.OtherSeconds)
	}
	if r.DecodeTokens != 1 || r.TokensPerSecond() <= 0 {
		t.Errorf("%d tokens decoded at %v a second", r.DecodeTokens, r.TokensPerSecond())
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

// Ties go to the lowest id; generation stops at MaxTokens or at a token that ends the text, which is not returned.
func TestStops(t *testing.T) {
	for _, c := range []struct {
		logits [4]float32
		eos    []int32
		max    int
		want   string
	}{
		{[4]float32{0, 3, 3, 1}, nil, 4, "[1 1 1 1] false"},
		{[4]float32{0, 3, 3, 1}, []int32{2}, 1, "[1] false"},
		{[4]float32{0, 3, 3, 1}, []int32{0, 1}, 4, "[] true"},
		{[4]float32{-5, -4, -3, -2}, nil, 9, "[3 3 3 3 3 3 3 3 3] false"}, // as many as the model has positions for
	} {
		r, err := generate.Greedy(context.Background(), tiny(t, c.logits, c.eos...), generate.Request{
			Prompt: []int32{0, 2}, MaxTokens: c.max, Planner: anchor.Dense(),
		})
		if err != nil {
			t.Error(err)
			continue
		}
		if got := fmt.Sprint(r.Tokens, r.Ended); got != c.want {
			t.Errorf("logits %v, ends %v: got %s, want %s", c.logits, c.eos, got, c.want)
		}
	}
}

func TestErrors(t *testing.T) {
	m := tiny(t, [4]float32{1, 2, 3, 4})
	sorry := errors.New("sorry")
	for _, c := range []struct {
		m    *model.Model
		r    generate.Request
		want string
	}{
		{m, generate.Request{MaxTokens: 1, Planner: anchor.Dense()}, "no tokens"},
		{m, generate.Request{Prompt: []int32{1}, Planner: anchor.Dense()}, "MaxTokens is 0"},
		{m, generate.Request{Prompt: []int32{1}, MaxTokens: 11, Planner: anchor.Dense()}, "MaxTokens is 11"},
		{m, generate.Request{Prompt: []int32{1, 1}, MaxTokens: 10, Planner: anchor.Dense()}, "10 positions"},
		{m, generate.Request{Prompt: []int32{4}, MaxTokens: 1, Planner: anchor.Dense()}, "token 0 is 4"},
		{m, generate.Request{Prompt: []int32{1}, MaxTokens: 1}, "Planner"},
		{tiny(t, [4]float32{1, float32(math.NaN()), 3, 4}), generate.Request{Prompt: []int32{1}, MaxTokens: 1, Planner: anchor.Dense()}, "token 1 is NaN"},
	} {
		if _, err := generate.Greedy(context.Background(), c.m, c.r); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("error %v, want one that mentions %q", err, c.want)
		}
	}

	// What came before an error is there.
	n := 0
	r, err := generate.Greedy(context.Background(), m, generate.Request{
		Prompt: []int32{1}, MaxTokens: 5, Planner: anchor.Dense(),
		Token: func(int32) error {
			if n++; n == 3 {
				return sorry
			}
			return nil
		},
	})
	if !errors.Is(err, sorry) || len(r.Tokens) != 3 {
		t.Errorf("error %v with %v; want %v with 3 tokens", err, r, sorry)
	}
	ctx, cancel := context.WithCancel(context.Background())
	r, err = generate.Greedy(ctx, m, generate.Request{
		Prompt: []int32{1}, MaxTokens: 5, Planner: anchor.Dense(), Token: func(int32) error { cancel(); return nil },
	})
	if !errors.Is(err, context.Canceled) || len(r.Tokens) != 1 {
		t.Errorf("error %v with %v; want %v with one token", err, r, context.Canceled)
	}
}
