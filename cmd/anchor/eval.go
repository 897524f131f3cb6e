package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/chat"
	"github.com/anchorattention/anchor/eval"
	"github.com/anchorattention/anchor/eval/needle"
	"github.com/anchorattention/anchor/eval/queue"
	"github.com/anchorattention/anchor/eval/ruler"
	"github.com/anchorattention/anchor/model/retrieval"
	"github.com/anchorattention/anchor/tokenizer"
	"github.com/spf13/cobra"
	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

func newEval() *cobra.Command {
	c := &cobra.Command{
		Use:   "eval ruler|niah|lookup|longbench|drift [flags]",
		Short: "Ask a model the questions of a benchmark under several methods of attention",
		Long: `Eval asks a model questions over long texts under several methods of attention, and says
how well it answers under each, with confidence intervals:

  ruler      the thirteen tasks of RULER (arXiv 2404.06654)
  niah       a needle in a haystack, at eleven depths
  lookup     code words and their answers, which the constructed model of "anchor demo" can do
  longbench  the tasks of LongBench (arXiv 2308.14508), from its published files
  drift      no questions: perplexity of a text, and how far predictions are from dense attention's

Results are appended to DIR/results.jsonl as they come, a line for each sample under each
method: prompt tokens, method and parameters, output, score, time to first token, density,
audited recall. Killed at any moment and started again with the same command, it repeats no
finished sample and loses none. A sample that fails is a line with its error; the others are
asked all the same, the exit status is 1, and the same command tries it again. The same seed
gives the same samples, under every method and on every machine.

With --report, DIR gets a page, index.html, that needs no network, its figures as SVG and PNG,
and evaluation.json. With --json, that object is printed: {command, machine, model, suite, isa,
versions, notes, seed, methods, lengths, scores: [{task, length, method, samples, score {mean,
low, high}, change, prompt_tokens, density, ttft_seconds, recall, depths}], overall}.

With --nats, "anchor worker" does the samples, on any number of machines: see its help.

Interrupted, it reports what is finished. Where stderr is no terminal, it says once a minute
how far it is.`,
		Example: `  anchor eval lookup -o out
  anchor eval ruler --model ./Llama-3.1-8B --lengths 4096,16384,65536 --samples 100 -o out --report
  anchor eval niah --model ./Llama-3.1-8B --methods dense,anchor=8,anchor=12 --lengths 8192,32768 -o out`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("suite is %q; want one of ruler, niah, lookup, longbench, drift", args[0])}
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	c.AddCommand(newRuler(), newNIAH(), newLookup(), newLongBench(), newDrift())
	for _, sub := range c.Commands() {
		sub.DisableFlagsInUseLine = true
	}
	return c
}

func newRuler() *cobra.Command {
	x := &evaluation{}
	var essay, squad, hotpot string
	var only []string
	var samples int
	c := &cobra.Command{
		Use:   "ruler --model MODEL -o DIR [flags]",
		Short: "The thirteen tasks of RULER",
		Long: `Ruler asks the thirteen tasks of RULER (Hsieh et al. 2024, arXiv 2404.06654), with the published
templates, parameters and scoring; lengths are measured with the model's own tokenizer, and include
the tokens to generate.

The essay that hides needles, and the questions of qa_1 and qa_2, come from files in their
published formats: PaulGrahamEssays.json of RULER, dev-v2.0.json of SQuAD 2.0 and
hotpot_dev_distractor_v1.json of HotpotQA. Without them, "War and Peace" is the essay, and the
questions are a few of the project's own, which show the format and say little about a model.

"anchor eval --help" says what comes of it.`,
		Example: `  anchor eval ruler --model ./Llama-3.1-8B --essay PaulGrahamEssays.json --squad dev-v2.0.json \
      --hotpotqa hotpot_dev_distractor_v1.json --lengths 4096,16384,65536 --samples 100 -o out --report
  anchor eval ruler --model Qwen/Qwen3-8B --chat --tasks niah_single_2,vt --samples 20 -o out`,
	}
	x.flags(c)
	c.Flags().StringVar(&essay, "essay", "", "`file` of the essay, in the format of PaulGrahamEssays.json")
	c.Flags().StringVar(&squad, "squad", "", "`file` of questions for qa_1, in the format of SQuAD 2.0")
	c.Flags().StringVar(&hotpot, "hotpotqa", "", "`file` of questions for qa_2, in the format of HotpotQA")
	c.Flags().StringSliceVar(&only, "tasks", nil, "`tasks` to ask; none means all")
	c.Flags().IntVar(&samples, "samples", 100, "`samples` of each task and length; RULER's paper has 500")
	c.RunE = func(c *cobra.Command, _ []string) error {
		var data ruler.Data
		var err error
		if data.Essay, err = x.essay(essay); err != nil {
			return err
		}
		if squad != "" {
			if data.Squad, err = ruler.LoadSquad(squad); err != nil {
				return err
			}
		}
		if hotpot != "" {
			if data.HotpotQA, err = ruler.LoadHotpotQA(hotpot); err != nil {
				return err
			}
		}
		all := ruler.Tasks(data)
		for _, name := range only {
			if !slices.ContainsFunc(all, func(t *eval.Task) bool { return t.Name == name }) {
				var names []string
				for _, t := range all {
					names = append(names, t.Name)
				}
				return usageError{fmt.Errorf("--tasks has %q; want some of %s", name, strings.Join(names, ", "))}
			}
		}
		var tasks []*eval.Task
		for _, t := range all {
			if len(only) == 0 || slices.Contains(only, t.Name) {
				tasks = append(tasks, t)
			}
		}
		if slices.ContainsFunc(tasks, func(t *eval.Task) bool {
			return t.Name == "qa_1" && squad == "" || t.Name == "qa_2" && hotpot == ""
		}) {
			x.notes = append(x.notes, "Questions of qa tasks without --squad and --hotpotqa are a few of the project's own.")
		}
		return x.run(c, tasks, "--samples", samples, 1)
	}
	return c
}

func newNIAH() *cobra.Command {
	x := &evaluation{}
	var essay string
	var rounds int
	c := &cobra.Command{
		Use:   "niah --model MODEL -o DIR [flags]",
		Short: "A needle in a haystack: lengths against depths",
		Long: `Niah hides a number in an essay, between two sentences, and asks for it: at every length, at
eleven depths from the beginning to the end, in rounds with other numbers. The page of --report
has a map of lengths against depths.

"anchor eval --help" says what comes of it.`,
		Example: `  anchor eval niah --model ./Llama-3.1-8B --lengths 4096,16384,65536 --rounds 3 -o out --report`,
	}
	x.flags(c)
	c.Flags().StringVar(&essay, "essay", "", "`file` of the essay, in the format of RULER's PaulGrahamEssays.json; without, \"War and Peace\"")
	c.Flags().IntVar(&rounds, "rounds", 1, "`rounds` of eleven samples, one at each depth")
	c.RunE = func(c *cobra.Command, _ []string) error {
		e, err := x.essay(essay)
		if err != nil {
			return err
		}
		return x.run(c, []*eval.Task{needle.Haystack(e)}, "--rounds", rounds, needle.Depths)
	}
	return c
}

func newLookup() *cobra.Command {
	x := &evaluation{constructed: true}
	var rounds int
	c := &cobra.Command{
		Use:   "lookup -o DIR [flags]",
		Short: "Code words and their answers, the one task of the constructed model",
		Long: `Lookup hides a code word and its answer in "War and Peace", with other pairs around it, and ends
with the code word: at every length, at eleven depths, in rounds with other words. The constructed
model of "anchor demo" must answer all of them, and it is asked if --model names no other; models that were
trained are not made for it.

"anchor eval --help" says what comes of it.`,
		Example: `  anchor eval lookup --lengths 4096,8192,16384,32768,65536 -o out`,
	}
	x.flags(c)
	c.Flags().IntVar(&rounds, "rounds", 1, "`rounds` of eleven samples, one at each depth")
	c.RunE = func(c *cobra.Command, _ []string) error {
		return x.run(c, []*eval.Task{needle.Lookup()}, "--rounds", rounds, needle.Depths)
	}
	return c
}

// evaluation is one run of a suite.
type evaluation struct {
	constructed bool // without --model, the constructed model is evaluated
	model, dir  string
	chat        bool
	methods     []string
	lengths     []int
	seed        uint64
	audit       int
	report      bool
	params      *anchor.Params
	costs       *string
	threads     *int
	json        *bool
	nats        *queue.Options
	notes       []string

	keep   func(m *eval.Model, j *eval.Job) bool                                             // which jobs there are; nil keeps all
	label  func(r *eval.Record)                                                              // names what a record is reported under
	finish func(c *cobra.Command, model string, records []eval.Record, notes []string) error // reports in another way
}

// flags defines the flags that all suites have.
func (x *evaluation) flags(c *cobra.Command) {
	c.Args = takes()
	c.PreRunE = checkKernels
	f := c.Flags()
	what := "`model`: a directory, a GGUF file or ORG/NAME, required"
	if x.constructed {
		what = "`model`: a directory, a GGUF file or ORG/NAME; without, the constructed one"
	}
	f.StringVar(&x.model, "model", "", what)
	f.BoolVar(&x.chat, "chat", false, "put prompts into the model's chat template, as what a user says; without, they stand as they are")
	f.StringVarP(&x.dir, "output", "o", "", "`directory` of the results, required; it is made if there is none")
	f.StringSliceVar(&x.methods, "methods", []string{"dense", "anchor"}, "`methods` of attention, each alone or as method=value to set its knob: "+methodNames(true))
	f.IntSliceVar(&x.lengths, "lengths", []int{4096}, "lengths in `tokens`, those to generate included")
	f.Uint64Var(&x.seed, "seed", 42, "`seed` of the samples")
	f.IntVar(&x.audit, "audit", 64, "`rows` of each prompt, of each head and layer, whose exact recall is measured; 0 means none")
	f.BoolVar(&x.report, "report", false, "write a page with tables and figures to DIR")
	x.params = paramFlags(c)
	x.costs = costsFlag(c)
	x.threads = threadsFlag(c)
	x.json = jsonFlag(c, "the scores as one JSON object")
	x.nats = natsFlags(c, "`address` of a NATS server where \"anchor worker\" waits on any number of machines; without, this process does all samples")
}

// essay returns the essay in a file, or the book, which it notes.
func (x *evaluation) essay(path string) (*needle.Essay, error) {
	if path != "" {
		return needle.LoadEssay(path)
	}
	x.notes = append(x.notes, `The essay is "War and Peace".`)
	return needle.Book(), nil
}

// run asks the tasks; the flag says how many samples there are of each, in units of so many.
func (x *evaluation) run(c *cobra.Command, tasks []*eval.Task, flag string, samples, unit int) (err error) {
	if err := readParams(c, x.params); err != nil {
		return err
	}
	var methods []eval.Method
	for _, name := range x.methods {
		m, err := method("methods", name, *x.params, true)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(methods, func(m eval.Method) bool { return m.Name == name }) {
			return usageError{fmt.Errorf("--methods has %q twice", name)}
		}
		if m.Name == "dense" {
			// What is finished stays so when other parameters are tried. Only drift asks for the tail, which it tells apart.
			tail := m.params.Tail
			m.params = anchor.DefaultParams()
			m.params.Tail = tail
		}
		methods = append(methods, eval.Method{Name: name, Attention: m.attention()})
	}
	switch {
	case x.model == "" && !x.constructed:
		return usageError{errors.New("--model is missing; want a directory, a GGUF file or ORG/NAME")}
	case x.dir == "":
		return usageError{errors.New("-o DIR is missing; want a directory for the results")}
	case samples < 1 || samples > 1<<20:
		return usageError{fmt.Errorf("%s is %d; want 1 … %d", flag, samples, 1<<20)}
	case x.audit < 0:
		return usageError{fmt.Errorf("--audit is %d; want ≥ 0", x.audit)}
	case *x.threads < 0:
		return usageError{fmt.Errorf("--threads is %d; want ≥ 0", *x.threads)}
	}
	if err := checkNATS(x.nats); err != nil {
		return err
	}
	costs, err := readCosts(*x.costs)
	if err != nil {
		return err
	}
	m, name, err := x.open(c.Context())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	for _, n := range x.lengths {
		if most := m.Config().MaxPositions; n < 1 || n > most {
			return usageError{fmt.Errorf("--lengths has %d; want 1 … %d, the positions of the model", n, most)}
		}
	}
	plan := eval.Plan{
		Tasks: tasks, Lengths: x.lengths, Samples: samples * unit, Seed: x.seed, Methods: methods, Costs: costs, Audit: x.audit,
		Model: m.ID, Format: &m.Format,
	}
	if err := os.MkdirAll(x.dir, 0o777); err != nil {
		return err
	}
	store, err := eval.OpenStore(filepath.Join(x.dir, "results.jsonl"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, store.Close()) }()
	jobs := plan.Jobs()
	if x.keep != nil {
		jobs = slices.DeleteFunc(jobs, func(j eval.Job) bool { return !x.keep(m, &j) })
	}
	worker := &eval.Worker{Model: m, Tasks: tasks, Costs: costs, Threads: *x.threads}
	failed := x.ask(c, worker, jobs, store, tasks[0].Suite+", "+name)
	records := eval.Select(store.Records(), jobs)
	if len(records) == 0 {
		return failed
	}
	if len(records) < len(jobs) {
		note := fmt.Sprintf("%d of %d results are there: each sample under each method is one.", len(records), len(jobs))
		if n := len(eval.Select(store.Failed(), jobs)); n > 0 {
			note += fmt.Sprintf(" %d failed.", n)
		}
		x.notes = append(x.notes, note)
	}
	if x.finish != nil {
		return errors.Join(x.finish(c, name, records, x.notes), failed)
	}
	if x.label != nil {
		for i := range records {
			x.label(&records[i])
		}
	}
	e := eval.Summarise(records, x.seed)
	e.Command, e.Machine, e.Model, e.Suite, e.Seed, e.Notes = x.command(), machine(), name, tasks[0].Suite, x.seed, x.notes
	e.Methods = slices.Clone(x.methods)
	return errors.Join(x.write(c, e), failed)
}

// open opens the model and says what reports call it.
func (x *evaluation) open(ctx context.Context) (*eval.Model, string, error) {
	if x.model == "" {
		m, file, err := retrieval.Build()
		if err != nil {
			return nil, "", err
		}
		tok, err := tokenizer.Parse(file)
		if err != nil {
			return nil, "", err
		}
		return &eval.Model{ID: "retrieval", Model: m, Format: eval.Format{Tokenizer: tok}}, "the constructed model", nil
	}
	m, err := openCheckpoint(x.model)
	if err != nil {
		return nil, "", err
	}
	out := &eval.Model{Model: m.Model}
	if out.ID, err = eval.Fingerprint(m.files()...); err == nil {
		out.Tokenizer, err = m.tokenizer()
	}
	if err == nil && x.chat {
		err = putInChat(ctx, m, &out.Format)
	}
	if err != nil {
		return nil, "", errors.Join(err, m.Close())
	}
	return out, filepath.Base(filepath.Clean(x.model)), nil
}

// putInChat sets what the model's chat template puts around what a user says.
func putInChat(ctx context.Context, m *checkpoint, f *eval.Format) error {
	t, err := m.template(f.Tokenizer)
	if err != nil {
		return err
	}
	const says = "what the user says"
	text, err := t.Render(ctx, chat.Input{Messages: []chat.Message{{Role: "user", Content: says}}, AddGenerationPrompt: true})
	if err != nil {
		return err
	}
	before, after, ok := strings.Cut(text, says)
	if !ok || strings.Contains(after, says) {
		return fmt.Errorf("%s: the chat template has what the user says not once: %q", t.Name, text)
	}
	f.Before, f.After = before, after
	return nil
}

// ask does the jobs that are not finished. What can be known to be wrong with any of them is said before the first.
func (x *evaluation) ask(c *cobra.Command, worker *eval.Worker, jobs []eval.Job, store *eval.Store, title string) error {
	type kind struct {
		task, method string
		length       int
	}
	checked := make(map[kind]bool)
	preparing := startProgress(c.ErrOrStderr(), "preparing")
	defer preparing.end()
	for i := range jobs {
		j := &jobs[i]
		if store.Has(j.ID()) {
			continue
		}
		if err := c.Context().Err(); err != nil {
			return err
		}
		if k := (kind{j.Task, j.Method, j.Length}); !checked[k] {
			checked[k] = true
			if err := worker.Check(j); err != nil {
				return err
			}
			preparing.report(float64(len(checked)) / float64(len(worker.Tasks)*len(x.methods)*len(x.lengths)))
		}
	}
	preparing.end()
	return x.evaluate(c, worker, jobs, store, title)
}

// A summary is what comes of an evaluation.
type summary interface {
	WriteDir(ctx context.Context, dir string, progress func(share float64)) error
	WriteTable(w io.Writer) error
}

// write writes the report and prints the figures.
func (x *evaluation) write(c *cobra.Command, e summary) error {
	if x.report {
		// What is finished is kept, even of a run that was interrupted.
		bar := startProgress(c.ErrOrStderr(), "drawing")
		defer bar.end()
		if err := e.WriteDir(context.WithoutCancel(c.Context()), x.dir, bar.report); err != nil {
			return err
		}
		bar.end()
	}
	if *x.json {
		return printJSON(c.OutOrStdout(), e)
	}
	return e.WriteTable(c.OutOrStdout())
}

// An evaluationBar shows on a terminal how far a run is, and how long the rest will take.
type evaluationBar struct {
	screen   *mpb.Progress
	bar      *mpb.Bar
	text     atomic.Pointer[string]
	w        io.Writer
	terminal bool
}

func startEvaluation(w io.Writer) *evaluationBar {
	b := &evaluationBar{screen: mpb.New(mpb.WithOutput(w), mpb.WithWidth(50)), w: w, terminal: terminal(w)}
	none := ""
	b.text.Store(&none)
	b.bar = b.screen.AddBar(progressSteps, mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name("asking", decor.WCSyncSpaceR)),
		mpb.AppendDecorators(decor.Percentage(decor.WC{W: 5}), decor.Any(func(decor.Statistics) string { return *b.text.Load() })))
	return b
}

func (b *evaluationBar) report(p queue.Progress) {
	text := fmt.Sprintf("  %d of %d", p.Done, p.All)
	if p.Failed > 0 {
		text += fmt.Sprintf(", %d failed", p.Failed)
	}
	if p.Workers > 1 {
		text += fmt.Sprintf(", %d workers", p.Workers)
	}
	if left := leftText(p); left != "" {
		text += ", left " + left
	}
	b.text.Store(&text)
	b.bar.SetCurrent(int64(p.Share * progressSteps))
}

// Write writes whole lines above the bar.
func (b *evaluationBar) Write(p []byte) (int, error) {
	if b.terminal {
		if n, err := b.screen.Write(p); err == nil {
			return n, nil
		}
	}
	return b.w.Write(p)
}

// end removes the bar. It may be called more than once.
func (b *evaluationBar) end() {
	b.bar.Abort(true)
	b.screen.Wait()
}
