// Package generate continues prompts with a model: prefill, then decoding, token by token.
package generate

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/model"
)

// A Request says what to continue and how.
type Request struct {
	Prompt    []int32        // token ids, at least one
	MaxTokens int            // tokens to generate at most, ≥ 1
	Planner   anchor.Planner // attention of the prompt; every generated token sees all keys
	Costs     *anchor.Costs  // see anchor.Options
	Threads   int            // goroutines to use; 0 means GOMAXPROCS
	AuditRows int            // rows of the prompt, of each head and layer, whose exact recall is measured; 0 means no audit

	// Progress, when set, is called now and then with the share of the prompt's work that is done, ascending in
	// [0, 1], by one goroutine at a time.
	Progress func(share float64)
	// Token, when set, is called with each token as it comes. Its error ends the generation.
	Token func(id int32) error
}

// A Result is what was generated and how long it took.
type Result struct {
	Tokens []int32 // without the one that ended the text
	Ended  bool    // the model ended the text, rather than MaxTokens

	FirstToken       float64        // seconds from the beginning to the first token, the audit left out
	AttentionSeconds float64        // of the prompt, the audit left out
	OtherSeconds     float64        // of the prompt, in all else but attention and its audit
	Attention        *anchor.Result // of the prompt, merged over layers

	DecodeTokens  int     // tokens after the first, the one that ended the text included
	DecodeSeconds float64 // spent on those
}

// TokensPerSecond returns the speed of decoding, 0 if there was none.
func (r *Result) TokensPerSecond() float64 {
	if r.DecodeTokens == 0 {
		return 0
	}
	return float64(r.DecodeTokens) / r.DecodeSeconds
}

// Greedy continues a prompt, each time with the likeliest token, the lowest id among equals, until the model ends
// the text or MaxTokens are there. When ctx ends or Token fails, it returns the error and, if there was time for a
// first token, what there is of the result.
func Greedy(ctx context.Context, m *model.Model, r Request) (*Result, error) {
	start := time.Now()
	limit := m.Config().MaxPositions
	switch {
	case len(r.Prompt) == 0:
		return nil, fmt.Errorf("generate: the prompt has no tokens; want at least one")
	case r.MaxTokens < 1 || r.MaxTokens > limit:
		return nil, fmt.Errorf("generate: Request.MaxTokens is %d; want 1 … %d", r.MaxTokens, limit)
	case len(r.Prompt) > limit-r.MaxTokens+1: // the last token is not put back into the model
		return nil, fmt.Errorf("generate: a prompt of %d tokens and %d to generate exceed the model's %d positions",
			len(r.Prompt), r.MaxTokens, limit)
	}
	cache, err := m.NewCache(len(r.Prompt) + r.MaxTokens - 1)
	if err != nil {
		return nil, err
	}
	opt := model.ForwardOptions{Planner: r.Planner, Costs: r.Costs, Threads: r.Threads, AuditRows: r.AuditRows, Prompt: len(r.Prompt), Progress: r.Progress}
	logits, stats, err := m.Forward(ctx, cache, r.Prompt, opt)
	if err != nil {
		return nil, err
	}
	next, err := likeliest(logits)
	if err != nil {
		return nil, err
	}
	first := time.Now()
	res := &Result{
		FirstToken:       first.Sub(start).Seconds() - stats.Attention.Stages[anchor.StageAudit],
		AttentionSeconds: stats.AttentionSeconds,
		OtherSeconds:     stats.OtherSeconds,
		Attention:        stats.Attention,
	}
	opt.AuditRows, opt.Progress = 0, nil
	for {
		if slices.Contains(m.Config().EOS, next) {
			res.Ended = true
			return res, nil
		}
		res.Tokens = append(res.Tokens, next)
		if r.Token != nil {
			if err := r.Token(next); err != nil {
				return res, err
			}
		}
		if len(res.Tokens) == r.MaxTokens {
			return res, nil
		}
		logits, _, err := m.Forward(ctx, cache, []int32{next}, opt)
		if err != nil {
			return res, err
		}
		if next, err = likeliest(logits); err != nil {
			return res, err
		}
		res.DecodeTokens++
		res.DecodeSeconds = time.Since(first).Seconds()
	}
}

// likeliest returns the first of the largest logits.
func likeliest(logits []float32) (int32, error) {
	best := 0
	for i, v := range logits {
		if v != v {
			return 0, fmt.Errorf("generate: the logit of token %d is NaN: the model's weights or activations are not finite", i)
		}
		if v > logits[best] {
			best = i
		}
	}
	return int32(best), nil
}
