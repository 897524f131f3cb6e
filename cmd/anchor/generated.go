package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/generate"
)

// generated are the measurements of one generation.
type generated struct {
	Attention        string             `json:"attention"` // method of the prompt's attention
	ISA              string             `json:"isa"`
	Params           *anchor.Params     `json:"params"`
	DenseLayers      []int              `json:"dense_layers,omitempty"`
	DenseBelow       int                `json:"dense_below,omitempty"`
	Tokens           int                `json:"tokens"` // of the prompt
	CachedTokens     int                `json:"cached_tokens"`
	TTFT             float64            `json:"ttft_seconds"`
	AttentionSeconds float64            `json:"attention_seconds"`
	OtherSeconds     float64            `json:"other_seconds"`
	ProductSeconds   float64            `json:"product_seconds"` // of the other ones
	StageSeconds     map[string]float64 `json:"stage_seconds"`
	Density          float64            `json:"density"`
	DenseShare       float64            `json:"dense_share"` // of the groups planned by head
	Stripes          int64              `json:"stripes"`
	Recall           *anchor.Recall     `json:"recall,omitempty"`
	Generated        int                `json:"generated"` // tokens
	Ended            bool               `json:"ended"`     // by the model
	End              generate.End       `json:"end"`
	PromptSpeed      float64            `json:"prompt_tokens_per_second"`
	TokensPerSecond  float64            `json:"decode_tokens_per_second"`
	PeakMemory       int64              `json:"peak_memory_bytes"` // of the process so far; 0 where that is not known
}

func newGenerated(method chosen, res *generate.Result) generated {
	a := res.Attention
	g := generated{
		Attention: method.Name, ISA: a.ISA, Params: method.report(), Tokens: res.PromptTokens, CachedTokens: res.CachedTokens,
		TTFT: res.FirstToken, AttentionSeconds: res.AttentionSeconds, OtherSeconds: res.OtherSeconds, ProductSeconds: res.ProductSeconds,
		StageSeconds: a.StageSeconds(), Density: a.Density(), DenseShare: a.DenseShare(), Stripes: a.Stripes,
		Generated: len(res.Tokens), Ended: res.End == generate.EndOfText, End: res.End,
		PromptSpeed: res.PromptTokensPerSecond(), TokensPerSecond: res.TokensPerSecond(), PeakMemory: generate.PeakMemory(),
	}
	if len(a.Audit) > 0 {
		g.Recall = &a.Recall
	}
	delete(g.StageSeconds, anchor.StageAudit.String())
	return g
}

// sum writes a line for the prompt, one for the recall if it is known, and one for what was generated.
func (g *generated) sum(w io.Writer) error {
	_, err := fmt.Fprintf(w, "prompt: %d tokens, first token after %.3f s, %.3f s of it in attention (%s, density %.1f %%)\n%sgenerated: %d tokens, %.1f tokens/s\n",
		g.Tokens, g.TTFT, g.AttentionSeconds, g.Attention, 100*g.Density, g.recall(), g.Generated, g.TokensPerSecond)
	return err
}

// recall returns a line, or nothing if the recall is not known.
func (g *generated) recall() string {
	if g.Recall == nil {
		return ""
	}
	return fmt.Sprintf("recall: mean %.5f, 5th percentile %.5f, minimum %.5f\n", g.Recall.Mean, g.Recall.P5, g.Recall.Min)
}

// write writes a table of all that is known.
func (g *generated) write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	row := func(name, format string, values ...any) { fmt.Fprintf(t, name+"\t"+format+"\n", values...) }
	row("prompt", "%d tokens, %d of them in the cache before", g.Tokens, g.CachedTokens)
	row("time to first token", "%.3f s, %.1f tokens/s", g.TTFT, g.PromptSpeed)
	row("  attention", "%.3f s, %s, density %.2f %%", g.AttentionSeconds, g.Attention, 100*g.Density)
	for _, s := range stages() {
		if seconds, ok := g.StageSeconds[s]; ok {
			row("    "+s, "%.3f s", seconds)
		}
	}
	row("  matrix products", "%.3f s", g.ProductSeconds)
	row("  all else", "%.3f s", g.OtherSeconds-g.ProductSeconds)
	if g.Recall != nil {
		row("recall", "mean %.5f, 5th percentile %.5f, minimum %.5f", g.Recall.Mean, g.Recall.P5, g.Recall.Min)
	}
	row("generated", "%d tokens, %.1f tokens/s, ended by %s", g.Generated, g.TokensPerSecond, ends[g.End])
	if g.PeakMemory > 0 {
		row("peak memory", "%s", bytesText(g.PeakMemory))
	}
	return t.Flush()
}

// ends say what ended a text.
var ends = map[generate.End]string{
	generate.EndOfText: "the model", generate.EndStop: "--stop", generate.EndMaxTokens: "--max-tokens",
}
