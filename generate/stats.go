package generate

import (
	"time"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/model"
)

// Stats say what a generation did and how long it took. Seconds of a prompt that was read beside others are those of all that
// were.
type Stats struct {
	PromptTokens int `json:"prompt_tokens"`
	CachedTokens int `json:"cached_tokens"` // of the prompt, whose keys and values were there already

	FirstToken       float64        `json:"ttft_seconds"`      // from the beginning to the first token, the audit left out
	AttentionSeconds float64        `json:"attention_seconds"` // of the prompt, the audit left out
	ProductSeconds   float64        `json:"product_seconds"`   // of the prompt, in products with the model's matrices
	OtherSeconds     float64        `json:"other_seconds"`     // of the prompt, in all else but attention and its audit, products included
	Attention        *anchor.Result `json:"-"`                 // of the prompt, merged over layers

	DecodeTokens  int     `json:"decode_tokens"`  // after the first, the one that ended the text included
	DecodeSeconds float64 `json:"decode_seconds"` // spent on those
}

// TokensPerSecond returns the speed of decoding, 0 if there was none.
func (s *Stats) TokensPerSecond() float64 {
	if s.DecodeTokens == 0 {
		return 0
	}
	return float64(s.DecodeTokens) / s.DecodeSeconds
}

// PromptTokensPerSecond returns the speed at which the prompt was read, what was there already left out; 0 before it was.
func (s *Stats) PromptTokensPerSecond() float64 {
	if s.FirstToken == 0 {
		return 0
	}
	return float64(s.PromptTokens-s.CachedTokens) / s.FirstToken
}

// read adds a step in which a chunk of the prompt was read.
func (s *Stats) read(step model.Stats) {
	s.AttentionSeconds += step.AttentionSeconds
	s.ProductSeconds += step.ProductSeconds
	s.OtherSeconds += step.OtherSeconds
	if s.Attention != nil {
		step.Attention = anchor.Merge(s.Attention, step.Attention)
	}
	s.Attention = step.Attention
}

// decoded adds a token that came so long after the first.
func (s *Stats) decoded(since time.Duration) {
	s.DecodeTokens++
	s.DecodeSeconds = since.Seconds()
}

// audited returns the seconds that went to audits.
func (s *Stats) audited() float64 { return s.Attention.Stages[anchor.StageAudit] }
