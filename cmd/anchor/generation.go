package main

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/generate"
	"github.com/spf13/cobra"
)

// samplingFlags defines the flags that say how tokens are chosen, and where the text ends.
func samplingFlags(c *cobra.Command) (*generate.Sampling, *[]string) {
	var s generate.Sampling
	f := c.Flags()
	f.Float64Var(&s.Temperature, "temperature", 0, "what logits are divided by before a token is drawn; `0` takes the likeliest")
	f.IntVar(&s.TopK, "top-k", 0, "draw among so many of the likeliest `tokens`; 0 means all")
	f.Float64Var(&s.TopP, "top-p", 1, "draw among the fewest tokens that have so much `probability`")
	f.Float64Var(&s.MinP, "min-p", 0, "draw among tokens at least so many `times` as likely as the likeliest")
	f.Float64Var(&s.RepetitionPenalty, "repetition-penalty", 1, "`factor` by which tokens that were there become less likely")
	f.Uint64Var(&s.Seed, "seed", 0, "`number` where the draws begin; the same one gives the same tokens")
	return &s, f.StringArray("stop", nil, "`text` before which the text ends; may be given several times")
}

// cacheFlag defines the flag for the type of keys and values.
func cacheFlag(c *cobra.Command) *string {
	return c.Flags().String("cache", "F32", "`type` of the keys and values that are kept: F32, BF16, F16, I8")
}

// cacheType returns the type of a name that was given to --cache.
func cacheType(name string) (anchor.DType, error) {
	if name == anchor.Int8.String() {
		return anchor.Int8, nil
	}
	d, err := dtype("cache", name)
	if err != nil {
		err = usageError{fmt.Errorf("--cache is %q; want one of F32, BF16, F16, I8", name)}
	}
	return d, err
}

// samplingNames turns the names of fields into those of their flags.
var samplingNames = strings.NewReplacer("Sampling.Temperature", "--temperature", "Sampling.TopK", "--top-k", "Sampling.TopP", "--top-p",
	"Sampling.MinP", "--min-p", "Sampling.RepetitionPenalty", "--repetition-penalty")

// writeStats prints where the time of a generation went.
func writeStats(w io.Writer, g *generated) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	row := func(name, format string, values ...any) { fmt.Fprintf(t, name+"\t"+format+"\n", values...) }
	row("prompt", "%d tokens", g.Tokens)
	row("  of them cached", "%d", g.Cached)
	row("time to first token", "%.3f s", g.TTFT)
	if g.TTFT > 0 {
		row("  speed", "%.1f tokens/s", float64(g.Tokens-g.Cached)/g.TTFT)
	}
	row("  in attention", "%.3f s", g.AttentionSeconds)
	for _, s := range stages() {
		if g.StageSeconds[s] > 0 {
			row("    "+s, "%.3f s", g.StageSeconds[s])
		}
	}
	row("  in matrix products", "%.3f s", g.ProductSeconds)
	row("  in all else", "%.3f s", g.OtherSeconds-g.ProductSeconds)
	row("generated", "%d tokens", g.Generated)
	row("  speed", "%.1f tokens/s", g.TokensPerSecond)
	if g.PeakMemory > 0 {
		row("peak memory", "%.1f MiB", float64(g.PeakMemory)/(1<<20))
	}
	return t.Flush()
}
