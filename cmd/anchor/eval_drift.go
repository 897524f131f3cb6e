package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/anchorattention/anchor/eval"
	"github.com/anchorattention/anchor/eval/drift"
	"github.com/spf13/cobra"
)

func newDrift() *cobra.Command {
	x := &evaluation{}
	var file string
	var windows, positions int
	c := &cobra.Command{
		Use:   "drift --model MODEL --file TEXT -o DIR [flags]",
		Short: "Perplexity of a text, and how far predictions are from dense attention's",
		Long: `Drift reads windows of a text under each method, in one go as a prompt is read, and looks at the model's
predictions of every next token: the perplexity, and, against dense attention on the same
windows, the change of the loss, the Kullback-Leibler divergence of the next token's distribution and how
often the likeliest token is the same. Dense attention is measured for that even where --methods does not have it.

The last rows of a window, as many as --tail says, see every key under any method, as the rows that answers are decoded
from do. Theirs is the drift that reaches an answer; that of the rows before is told apart.

With --json the object printed is {command, machine, model, text, isa, versions, notes, methods, lengths, drifts:
[{length, method, windows, perplexity {mean, low, high}, body {nll, nll_change, kl, top1}, tail (likewise),
curves (by position), attention_seconds, density, recall}]}; with --report, DIR gets a page with the
curves. "anchor eval --help" says how a run goes on where it was interrupted.`,
		Example: `  anchor eval drift --model ./Llama-3.1-8B --file book.txt --lengths 4096,32768 --windows 8 -o out --report
  anchor eval drift --model ./model.gguf --file book.txt --methods anchor=8,anchor=12,streaming -o out`,
	}
	x.flags(c)
	f := c.Flags()
	f.Lookup("lengths").Usage = "lengths of windows, in `tokens`"
	f.Lookup("chat").Hidden = true // a text is no prompt
	f.StringVar(&file, "file", "", "`file` of the text, required")
	f.IntVar(&windows, "windows", 4, "first `windows` of the text, of each length; fewer if it has no more")
	f.IntVar(&positions, "positions", 256, "`rows` before the tail, evenly spread, at which distributions are compared")
	c.RunE = func(c *cobra.Command, _ []string) error {
		x.chat = false
		switch {
		case file == "":
			return usageError{errors.New("--file is missing; want a file of text")}
		case positions < drift.Parts || positions > 1<<20:
			return usageError{fmt.Errorf("--positions is %d; want %d … %d", positions, drift.Parts, 1<<20)}
		}
		data, err := os.ReadFile(file)
		if err != nil {
			return err
		}
		text, err := drift.NewText(filepath.Base(file), data, positions)
		if err != nil {
			return err
		}
		x.keep = func(m *eval.Model, j *eval.Job) bool {
			// The first one is kept, so that there is an error where the text is too short.
			return j.Index == 0 || j.Index < text.Windows(m.Tokenizer, j.Length)
		}
		x.finish = func(c *cobra.Command, model string, records []eval.Record, notes []string) error {
			d := drift.Summarise(records, x.seed)
			d.Command, d.Machine, d.Model, d.Text, d.Notes = x.command(), machine(), model, filepath.Base(file), notes
			return x.write(c, d)
		}
		return x.run(c, []*eval.Task{text.Task()}, "--windows", windows, 1)
	}
	return c
}
