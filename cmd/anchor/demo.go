package main

import (
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/generate"
	"github.com/anchorattention/anchor/internal/kernel"
	"github.com/anchorattention/anchor/internal/parallel"
	"github.com/anchorattention/anchor/model/retrieval"
	"github.com/anchorattention/anchor/tokenizer"
	"github.com/spf13/cobra"
)

func newDemo() *cobra.Command {
	c := &cobra.Command{
		Use:   "demo [flags]",
		Short: "Find a fact in a book, with dense attention and with AnchorAttention",
		Long: `Demo hides a fact, a code word and its answer, in a long prompt made of "War and
Peace", with decoys around it, and asks a model for it twice: with dense attention
and with AnchorAttention. It prints how long each took until the first token, which
share of the keys it attended to (density), how much of the true softmax mass those
held (recall, audited on sampled rows outside the measured time), and the answer.

The model is constructed, not trained. It can only look up, and exists to exercise
every part without a download: tokenizer, decoder, attention, audit.

It takes some seconds on two cores with AVX2 or AVX-512, and minutes without.

A wrong answer is reported and is not an error: the exit status is 0. Parameters that
leave out too much, --theta -inf --tail 0 for one, give a wrong answer.

With --json, one object is printed: tokens, depth, code_word, expected, threads, and
runs, for each: attention, isa, params, tokens, ttft_seconds, attention_seconds,
other_seconds, stage_seconds, density, stripes, recall {mean, p5, min}, answer, right,
generated, ended, decode_tokens_per_second.`,
		Example: `  anchor demo
  anchor demo --tokens 131072 --depth 0.1
  anchor demo --tail 0 --json`,
		Args:    takes(),
		PreRunE: checkKernels,
	}
	d := demo{}
	c.Flags().IntVar(&d.Tokens, "tokens", 32768, fmt.Sprintf("`length` of the prompt in tokens, %d to %d", retrieval.MinPromptTokens, 1<<20))
	c.Flags().Float64Var(&d.Depth, "depth", 0.5, "where the fact lies, as a `share` of the prompt, 0 to 1")
	params := paramFlags(c)
	threads := threadsFlag(c)
	asJSON := jsonFlag(c, "everything as one JSON object")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *threads < 0 {
			return usageError{fmt.Errorf("--threads is %d; want ≥ 0", *threads)}
		}
		d.Threads = parallel.Threads(*threads)
		if err := readParams(c, params); err != nil {
			return err
		}
		if err := d.run(c, *params); err != nil {
			return err
		}
		if *asJSON {
			return printJSON(c.OutOrStdout(), d)
		}
		return d.write(c.OutOrStdout())
	}
	return c
}

// demo is one run of the subcommand, and what it reports.
type demo struct {
	Tokens   int       `json:"tokens"`
	Depth    float64   `json:"depth"`
	CodeWord string    `json:"code_word"`
	Expected string    `json:"expected"`
	Threads  int       `json:"threads"`
	Runs     []demoRun `json:"runs"`
}

type demoRun struct {
	generated
	Answer string `json:"answer"`
	Right  bool   `json:"right"`
}

func (d *demo) run(c *cobra.Command, params anchor.Params) error {
	const (
		seed      = 1
		auditRows = 256
		maxTokens = 4 // more than a right answer needs
	)
	var methods []chosen
	for _, name := range []string{"dense", "anchor"} {
		m, err := method("attention", name, params, true)
		if err != nil {
			return err
		}
		methods = append(methods, m)
	}
	prompt, err := retrieval.NewPrompt(d.Tokens, d.Depth, seed)
	if err != nil {
		return usageError{err}
	}
	d.CodeWord, d.Expected = prompt.CodeWord, prompt.Answer
	set, err := kernel.Default()
	if err != nil {
		return err
	}
	if set.Name() == "generic" {
		fmt.Fprintln(c.ErrOrStderr(), "no vector kernels in this build or on this machine (level generic): this will take a while")
	}
	m, file, err := retrieval.Build()
	if err != nil {
		return err
	}
	tok, err := tokenizer.Parse(file)
	if err != nil {
		return err
	}
	ids := tok.Encode(prompt.Text, true).IDs
	for _, method := range methods {
		bar := startProgress(c.ErrOrStderr(), method.Name)
		e, err := generate.New(m, generate.Options{Attention: method.attention(), Threads: d.Threads})
		if err != nil {
			bar.end()
			return err
		}
		res, err := e.Generate(c.Context(), generate.Request{Prompt: ids, MaxTokens: maxTokens, AuditRows: auditRows, Progress: bar.report})
		bar.end()
		if err != nil {
			return err
		}
		answer := tok.Decode(res.Tokens, true)
		d.Runs = append(d.Runs, demoRun{newGenerated(method, res), answer, answer == prompt.Answer})
	}
	return nil
}

// write writes the runs side by side.
func (d *demo) write(w io.Writer) error {
	fmt.Fprintf(w, "The model is constructed, not trained: it can only look up, and exists to exercise\nevery part without a download.\n\n")
	fmt.Fprintf(w, "%q is hidden at depth %g in \"War and Peace\", and %q asked for.\n\n", d.CodeWord+" "+d.Expected, d.Depth, d.CodeWord)
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	row := func(name string, value func(r demoRun) string) {
		fmt.Fprint(t, name)
		for _, r := range d.Runs {
			fmt.Fprint(t, "\t", value(r))
		}
		fmt.Fprintln(t)
	}
	seconds := func(s float64) string { return fmt.Sprintf("%.3f s", s) }
	row("attention", func(r demoRun) string { return r.Attention })
	row("prompt tokens", func(r demoRun) string { return fmt.Sprint(r.Tokens) })
	row("time to first token", func(r demoRun) string { return seconds(r.TTFT) })
	row("  in attention", func(r demoRun) string { return seconds(r.AttentionSeconds) })
	for _, s := range stages() {
		row("    "+s, func(r demoRun) string {
			if r.StageSeconds[s] == 0 {
				return "–"
			}
			return seconds(r.StageSeconds[s])
		})
	}
	row("  in all else", func(r demoRun) string { return seconds(r.OtherSeconds) })
	row("density", func(r demoRun) string { return fmt.Sprintf("%.2f %%", 100*r.Density) })
	row("recall, mean", func(r demoRun) string { return fmt.Sprintf("%.5f", r.Recall.Mean) })
	row("recall, 5th percentile", func(r demoRun) string { return fmt.Sprintf("%.5f", r.Recall.P5) })
	row("recall, minimum", func(r demoRun) string { return fmt.Sprintf("%.5f", r.Recall.Min) })
	row("answer", func(r demoRun) string { return fmt.Sprintf("%q", r.Answer) })
	row("right", func(r demoRun) string {
		if r.Right {
			return "yes"
		}
		return "no"
	})
	if err := t.Flush(); err != nil {
		return err
	}
	dense, anchor := d.Runs[0], d.Runs[1]
	_, err := fmt.Fprintf(w, "\nAnchorAttention: first token %.1f× sooner, attention %.1f× faster (%s, threads: %d).\n",
		dense.TTFT/anchor.TTFT, dense.AttentionSeconds/anchor.AttentionSeconds, anchor.ISA, d.Threads)
	return err
}
