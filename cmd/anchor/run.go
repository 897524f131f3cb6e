package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/generate"
	"github.com/anchorattention/anchor/model"
	"github.com/anchorattention/anchor/tokenizer"
	"github.com/spf13/cobra"
)

func newRun() *cobra.Command {
	c := &cobra.Command{
		Use:   "run --model DIR [--file TEXT] [flags] [PROMPT]",
		Short: "Continue a prompt with a model",
		Long: `Run continues a prompt with a Llama model and prints the text to stdout as it
comes, then timings to stderr, or with --stats where the time went. At every step
the likeliest token is taken, or one is drawn with --temperature, until the model
ends the text, a text given with --stop comes or --max-tokens are there.

The model is a directory as Hugging Face lays it out: config.json, tokenizer.json
and model.safetensors, or shards with model.safetensors.index.json. The prompt is
PROMPT as it stands, without a chat template; with --file, the text in that file,
an empty line, and PROMPT.

--attention is the prompt's; generated tokens see every key. A prompt shorter than
--dense-below is attended to densely, and so is every prompt in --dense-layers.

With --json, one object is printed instead: text, tokens (of the prompt), generated,
ended (by the model), attention, isa, params, ttft_seconds (time to first token,
the audit left out), attention_seconds, other_seconds, product_seconds (of those, in
products with matrices), cached (tokens of the prompt), stage_seconds, density,
dense_share (of groups), stripes, recall {mean, p5, min} if audited,
decode_tokens_per_second, and peak_memory_bytes (of the process).`,
		Example: `  anchor run --model ./SmolLM2-135M "The capital of France is"
  anchor run --model ./SmolLM2-135M --file report.txt "In short,"
  anchor run --model ./SmolLM2-135M --file report.txt --attention dense "In short,"`,
		Args:    takes("[PROMPT]"),
		PreRunE: checkKernels,
	}
	g := generation{}
	f := c.Flags()
	f.StringVar(&g.model, "model", "", "`directory` of the model, required")
	f.StringVar(&g.file, "file", "", "`file` of text that comes before the prompt; - means stdin")
	f.StringVar(&g.attention, "attention", "anchor", "`method` of attention, or method=value to set its knob: "+methodNames(true))
	f.IntVar(&g.maxTokens, "max-tokens", 128, "`tokens` to generate at most")
	f.IntVar(&g.audit, "audit", 0, "`rows` of the prompt, of each head and layer, whose exact recall is measured")
	f.IntSliceVar(&g.denseLayers, "dense-layers", nil, "`layers`, from 0, in which every row sees every key")
	f.IntVar(&g.denseBelow, "dense-below", 0, "`tokens` of a prompt below which it is attended to densely")
	f.BoolVar(&g.stats, "stats", false, "say where the time went, and how much memory")
	g.sampling, g.stop = samplingFlags(c)
	g.cache = cacheFlag(c)
	g.params = paramFlags(c)
	g.costs = costsFlag(c)
	g.threads = threadsFlag(c)
	g.json = jsonFlag(c, "text and measurements as one JSON object")
	c.RunE = g.run
	return c
}

// generation is one run of the subcommand.
type generation struct {
	model, file, attention string
	maxTokens, audit       int
	denseLayers            []int
	denseBelow             int
	stats                  bool
	sampling               *generate.Sampling
	stop                   *[]string
	cache                  *string
	params                 *anchor.Params
	costs                  *string
	threads                *int
	json                   *bool
}

func (g *generation) run(c *cobra.Command, args []string) (err error) {
	if err := readParams(c, g.params); err != nil {
		return err
	}
	method, err := method("attention", g.attention, *g.params, true)
	if err != nil {
		return err
	}
	switch {
	case g.model == "":
		return usageError{errors.New("--model is missing; want the directory of a model")}
	case g.file == "" && len(args) == 0:
		return usageError{errors.New("no PROMPT and no --file; want one at least")}
	case g.maxTokens < 1:
		return usageError{fmt.Errorf("--max-tokens is %d; want ≥ 1", g.maxTokens)}
	case *g.threads < 0:
		return usageError{fmt.Errorf("--threads is %d; want ≥ 0", *g.threads)}
	case g.audit < 0:
		return usageError{fmt.Errorf("--audit is %d; want ≥ 0", g.audit)}
	}
	if err := g.sampling.Validate(); err != nil {
		return usageError{errors.New(samplingNames.Replace(err.Error()))}
	}
	cached, err := cacheType(*g.cache)
	if err != nil {
		return err
	}
	costs, err := readCosts(*g.costs)
	if err != nil {
		return err
	}
	text, err := g.prompt(c.Context(), c.InOrStdin(), args)
	if err != nil {
		return err
	}
	tok, err := tokenizer.Load(filepath.Join(g.model, "tokenizer.json"))
	if err != nil {
		return err
	}
	m, err := model.Open(g.model)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()

	attention := method.attention()
	attention.DenseLayers, attention.DenseBelow = g.denseLayers, g.denseBelow
	e, err := generate.New(m, generate.Options{Attention: attention, CacheType: cached, Costs: costs, Threads: *g.threads})
	if err != nil {
		return err
	}
	bar := startProgress(c.ErrOrStderr(), "reading the prompt")
	defer bar.end()
	prompt := tok.Encode(text, true).IDs
	started := false
	var broken error // stdout's
	put := func(s string) error {
		if !*g.json && broken == nil {
			_, broken = io.WriteString(c.OutOrStdout(), s)
		}
		return broken
	}
	res, err := e.Generate(c.Context(), generate.Request{
		Prompt: prompt, MaxTokens: g.maxTokens, Sampling: *g.sampling, Tokenizer: tok, Stop: *g.stop, AuditRows: g.audit,
		Progress: bar.report,
		Token: func(t generate.Token) error {
			bar.end()
			started = true
			return put(t.Text)
		},
	})
	bar.end()
	if started {
		if e := put("\n"); err == nil {
			err = e
		}
	}
	if err != nil {
		return err
	}
	r := newGenerated(method, len(prompt), res)
	if *g.json {
		return printJSON(c.OutOrStdout(), struct {
			Text string `json:"text"`
			generated
		}{res.Text, r})
	}
	if g.stats {
		return writeStats(c.ErrOrStderr(), &r)
	}
	fmt.Fprintf(c.ErrOrStderr(), "prompt: %d tokens, first token after %.3f s, %.3f s of it in attention (%s, density %.1f %%)\n",
		r.Tokens, r.TTFT, r.AttentionSeconds, g.attention, 100*r.Density)
	if r.Recall != nil {
		fmt.Fprintf(c.ErrOrStderr(), "recall: mean %.5f, 5th percentile %.5f, minimum %.5f\n", r.Recall.Mean, r.Recall.P5, r.Recall.Min)
	}
	fmt.Fprintf(c.ErrOrStderr(), "generated: %d tokens, %.1f tokens/s\n", r.Generated, r.TokensPerSecond)
	return nil
}

// prompt returns the text to continue. It does not wait for text beyond the end of the context.
func (g *generation) prompt(ctx context.Context, stdin io.Reader, args []string) (string, error) {
	question := strings.Join(args, "")
	if g.file == "" {
		return question, nil
	}
	var text []byte
	var err error
	read := make(chan struct{})
	go func() { // which goes on if the context ends: nothing else ends a read from a terminal
		defer close(read)
		if g.file == "-" {
			text, err = io.ReadAll(stdin)
		} else {
			text, err = os.ReadFile(g.file)
		}
	}()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case <-read:
	}
	if err != nil {
		return "", err
	}
	if question == "" {
		return string(text), nil
	}
	return string(text) + "\n\n" + question, nil
}

// generated are the measurements of one generation.
type generated struct {
	Attention        string             `json:"attention"` // method of the prompt's attention
	ISA              string             `json:"isa"`
	Params           *anchor.Params     `json:"params"`
	Tokens           int                `json:"tokens"` // of the prompt
	TTFT             float64            `json:"ttft_seconds"`
	AttentionSeconds float64            `json:"attention_seconds"`
	OtherSeconds     float64            `json:"other_seconds"`
	ProductSeconds   float64            `json:"product_seconds"` // of those
	Cached           int                `json:"cached"`          // tokens of the prompt
	StageSeconds     map[string]float64 `json:"stage_seconds"`
	Density          float64            `json:"density"`
	DenseShare       float64            `json:"dense_share"` // of the groups planned by head
	Stripes          int64              `json:"stripes"`
	Recall           *anchor.Recall     `json:"recall,omitempty"`
	Generated        int                `json:"generated"` // tokens
	Ended            bool               `json:"ended"`     // by the model
	TokensPerSecond  float64            `json:"decode_tokens_per_second"`
	PeakMemory       int64              `json:"peak_memory_bytes"`
}

func newGenerated(method chosen, tokens int, res *generate.Result) generated {
	a := res.Attention
	g := generated{
		Attention: method.Name, ISA: a.ISA, Params: method.report(), Tokens: tokens,
		TTFT:             res.FirstToken,
		AttentionSeconds: res.AttentionSeconds, OtherSeconds: res.OtherSeconds, ProductSeconds: res.ProductSeconds,
		Cached: res.CachedTokens, PeakMemory: generate.PeakMemory(),
		StageSeconds: a.StageSeconds(), Density: a.Density(), DenseShare: a.DenseShare(), Stripes: a.Stripes,
		Generated: len(res.Tokens), Ended: res.End == generate.EndOfText, TokensPerSecond: res.TokensPerSecond(),
	}
	if len(a.Audit) > 0 {
		g.Recall = &a.Recall
	}
	delete(g.StageSeconds, anchor.StageAudit.String())
	return g
}
