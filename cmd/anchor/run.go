package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/anchorattention/anchor/generate"
	"github.com/anchorattention/anchor/tokenizer"
	"github.com/spf13/cobra"
)

func newRun() *cobra.Command {
	c := &cobra.Command{
		Use:   "run --model MODEL [flags] [PROMPT]",
		Short: "Continue a prompt with a model, or talk with it",
		Long: `Run continues a prompt with a model and prints the text to stdout as it comes, then
timings to stderr; --stats says more of these.

MODEL is ` + modelNames + `

The prompt is the texts of all --file, in order, and PROMPT, with an empty line between
each two, as they stand; without any of these it is stdin. With --chat it is a message
to a model that was trained on conversations, put as the model's own chat template
says. A conversation begins with the messages of --history and the instructions of
--system. With --interactive it goes on: each line of stdin is a message, of which the
first comes after the texts. Whole groups of block·step tokens at the beginning, 2048 of
them, are not read again. Ctrl-C ends an answer, and at the prompt the program. Text that
spells a model's special tokens is read as these.

At every step the likeliest token is taken, or with a --temperature one drawn, until
the model ends the text, a --stop comes or --max-tokens are there. A text longer than
the model's context, or than --cache-memory holds, is an error at once.

--attention is the prompt's; generated tokens see every key.

With --json, one object is printed instead, with --interactive one for each answer: text,
tokens (of the prompt), cached_tokens (of these, read before), generated, ended (by the
model), end (end, stop or length), logprobs (with --logprobs: of each token id, token,
logprob in nats, and the likeliest as top), attention, isa, params, dense_layers,
dense_below, ttft_seconds (time to first token, the audit left out), attention_seconds,
other_seconds, product_seconds (of these, in products with the model's matrices),
stage_seconds, density, dense_share (of groups), stripes, recall {mean, p5, min} if audited,
prompt_tokens_per_second, decode_tokens_per_second, peak_memory_bytes.`,
		Example: `  anchor run --model ./SmolLM2-135M "The capital of France is"
  anchor run --model HuggingFaceTB/SmolLM2-135M-Instruct --chat --file report.txt "Sum this up."
  anchor run --model qwen2.5-7b-instruct-q4_k_m.gguf --interactive --cache-type bf16
  anchor run --model ./SmolLM2-135M --file report.txt --attention dense --stats "In short,"`,
		Args:    takes("[PROMPT]"),
		PreRunE: checkKernels,
	}
	g := generation{}
	f := c.Flags()
	f.StringVar(&g.model, "model", "", "`model`, required")
	f.StringArrayVar(&g.files, "file", nil, "`file` of text that comes before PROMPT; - means stdin; may be given more than once")
	f.BoolVar(&g.chat, "chat", false, "take the prompt for a message to the model")
	f.BoolVar(&g.interactive, "interactive", false, "take each line of stdin for a message to the model; implies --chat")
	f.StringVar(&g.system, "system", "", "`instructions` that a conversation begins with; implies --chat")
	f.StringVar(&g.history, "history", "", "`file` of messages that came before, [{\"role\": …, \"content\": …}, …]; implies --chat")
	f.BoolVar(&g.save, "save", false, "write the conversation to the file of --history, which need not be there yet")
	f.IntVar(&g.maxTokens, "max-tokens", 128, "`tokens` to generate at most; without, 1024 in a conversation")
	f.StringArrayVar(&g.stop, "stop", nil, "`text` that ends what is generated, and is left out; may be given more than once")
	f.IntVar(&g.logProbs, "logprobs", 0, "so many of the likeliest `tokens` at each step, with log-probabilities, into --json")
	f.IntVar(&g.audit, "audit", 0, "`rows` of the prompt, of each head and layer, whose exact recall is measured")
	f.BoolVar(&g.stats, "stats", false, "print where time and memory went")
	g.attention = attentionFlags(c)
	g.sampling = samplingFlags(c)
	g.cache = newCacheFlags(c)
	g.costs = costsFlag(c)
	g.threads = threadsFlag(c)
	g.json = jsonFlag(c, "text and measurements as one JSON object")
	c.RunE = g.run
	return c
}

// generation is one run of the subcommand.
type generation struct {
	model             string
	files, stop       []string
	chat, interactive bool
	system, history   string
	save, stats       bool
	maxTokens, audit  int
	logProbs          int
	likely            bool // logProbs is given
	attention         *attention
	sampling          *generate.Sampling
	cache             *cacheFlags
	costs             *string
	threads           *int
	json              *bool
}

// check reports what is wrong with the command line.
func (g *generation) check(c *cobra.Command, args []string) error {
	stdin := 0
	for _, f := range g.files {
		if f == "-" {
			stdin++
		}
	}
	g.chat = g.chat || g.interactive || g.system != "" || g.history != ""
	if g.chat && !c.Flags().Changed("max-tokens") {
		g.maxTokens = 1024
	}
	g.likely = c.Flags().Changed("logprobs")
	switch {
	case g.model == "":
		return usageError{errors.New("--model is missing; want a directory, a GGUF file or ORG/NAME")}
	case stdin > 1:
		return usageError{fmt.Errorf("--file is - %d times; stdin can be read once", stdin)}
	case stdin > 0 && g.interactive:
		return usageError{errors.New("--file is - with --interactive, which takes messages from stdin; want one of the two")}
	case g.save && g.history == "":
		return usageError{errors.New("--save is given without --history; want a file to write the conversation to")}
	case g.maxTokens < 1:
		return usageError{fmt.Errorf("--max-tokens is %d; want ≥ 1", g.maxTokens)}
	case *g.threads < 0:
		return usageError{fmt.Errorf("--threads is %d; want ≥ 0", *g.threads)}
	case g.audit < 0:
		return usageError{fmt.Errorf("--audit is %d; want ≥ 0", g.audit)}
	case g.logProbs < 0:
		return usageError{fmt.Errorf("--logprobs is %d; want ≥ 0", g.logProbs)}
	case g.likely && !*g.json:
		return usageError{errors.New("--logprobs is given without --json; want the two together")}
	case len(args) == 0 && len(g.files) == 0 && !g.interactive && isTerminal(c.InOrStdin()):
		return usageError{errNoPrompt}
	}
	return checkSampling(c, g.sampling)
}

var errNoPrompt = errors.New("no PROMPT, no --file and nothing on stdin; want one at least")

func (g *generation) run(c *cobra.Command, args []string) (err error) {
	method, err := g.attention.read(c)
	if err != nil {
		return err
	}
	if err := g.check(c, args); err != nil {
		return err
	}
	opt := generate.Options{Threads: *g.threads}
	if opt.CacheType, opt.CacheBytes, err = g.cache.read(); err != nil {
		return err
	}
	if opt.Costs, err = readCosts(*g.costs); err != nil {
		return err
	}
	text, err := g.prompt(c.Context(), c.InOrStdin(), args)
	if err != nil {
		return err
	}
	m, err := openCheckpoint(g.model)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	tok, err := m.tokenizer()
	if err != nil {
		return err
	}
	if opt.Attention, err = g.attention.section(method, m.Config().Layers); err != nil {
		return err
	}
	engine, err := generate.New(m.Model, opt)
	if err != nil {
		return err
	}
	s := &speaker{generation: g, engine: engine, tokenizer: tok, method: method, section: opt.Attention, context: m.Config().MaxPositions,
		clip: !c.Flags().Changed("max-tokens"), out: c.OutOrStdout(), err: c.ErrOrStderr()}
	if !g.chat {
		_, err := s.say(c.Context(), tok.Encode(text, true).IDs)
		return err
	}
	t, err := m.template(tok)
	if err != nil {
		return err
	}
	talk, err := g.conversation(t)
	if err != nil {
		return err
	}
	if g.interactive {
		return talk.converse(c.Context(), s, c.InOrStdin(), text, len(args) > 0 && args[0] != "")
	}
	return talk.turn(c.Context(), s, text)
}

// prompt returns the texts of the command line, or stdin where it has none.
func (g *generation) prompt(ctx context.Context, stdin io.Reader, args []string) (string, error) {
	files := g.files
	if len(files) == 0 && len(args) == 0 && !g.interactive {
		files = []string{"-"}
	}
	var texts []string
	for _, f := range files {
		text, err := readText(ctx, stdin, f)
		if err != nil {
			return "", err
		}
		texts = append(texts, text)
	}
	if len(g.files) == 0 && len(files) == 1 && texts[0] == "" {
		return "", usageError{errNoPrompt}
	}
	for _, a := range args {
		if a != "" {
			texts = append(texts, a)
		}
	}
	return strings.Join(texts, "\n\n"), nil
}

// readText reads a file, or stdin if its name is -. It does not wait for text beyond the end of the context.
func readText(ctx context.Context, stdin io.Reader, file string) (string, error) {
	var text []byte
	var err error
	read := make(chan struct{})
	go func() { // which goes on if the context ends: nothing else ends a read from a terminal
		defer close(read)
		if file == "-" {
			text, err = io.ReadAll(stdin)
		} else {
			text, err = os.ReadFile(file)
		}
	}()
	select {
	case <-ctx.Done():
		return "", ctx.Err()
	case <-read:
		return string(text), err
	}
}

// isTerminal reports whether somebody may be typing there.
func isTerminal(r io.Reader) bool {
	f, ok := r.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// A speaker generates texts and prints them.
type speaker struct {
	*generation
	engine    *generate.Engine
	tokenizer *tokenizer.Tokenizer
	method    chosen
	section   generate.Attention
	context   int  // of the model, in tokens
	clip      bool // maxTokens may be fewer, to fit in
	out, err  io.Writer
}

// say continues a prompt and prints the text as it comes, and what it took. The result is what there is of it upon an error.
func (s *speaker) say(ctx context.Context, prompt []int32) (*generate.Result, error) {
	r := generate.Request{
		Prompt: prompt, MaxTokens: s.maxTokens, Sampling: *s.sampling, Tokenizer: s.tokenizer, Stop: s.stop,
		LogProbs: s.likely, TopLogProbs: s.logProbs, AuditRows: s.audit,
	}
	if s.clip {
		r.MaxTokens = max(1, min(r.MaxTokens, s.context-len(prompt)+1))
	}
	bar := startProgress(s.err, "reading the prompt")
	defer bar.end()
	r.Progress = bar.report
	started := false
	var broken error // stdout's
	put := func(text string) error {
		if !*s.json && broken == nil {
			_, broken = io.WriteString(s.out, text)
		}
		return broken
	}
	r.Token = func(t generate.Token) error {
		bar.end()
		started = true
		return put(t.Text)
	}
	res, err := s.engine.Generate(ctx, r)
	bar.end()
	if started {
		if e := put("\n"); err == nil {
			err = e
		}
	}
	if err != nil {
		return res, err
	}
	g := newGenerated(s.method, res)
	g.DenseLayers, g.DenseBelow = s.section.DenseLayers, s.section.DenseBelow
	switch {
	case *s.json:
		return res, printJSON(s.out, struct {
			Text     string       `json:"text"`
			LogProbs []likelihood `json:"logprobs,omitempty"`
			generated
		}{res.Text, s.likelihoods(res), g})
	case s.stats:
		return res, g.write(s.err)
	case !s.interactive:
		return res, g.sum(s.err)
	}
	return res, nil
}

// A likelihood is a token with its log-probability.
type likelihood struct {
	ID      int32        `json:"id"`
	Token   string       `json:"token"`
	LogProb float64      `json:"logprob"`
	Top     []likelihood `json:"top,omitempty"`
}

// likelihoods returns those of the generated tokens.
func (s *speaker) likelihoods(res *generate.Result) []likelihood {
	spell := func(id int32, logProb float64) likelihood {
		return likelihood{ID: id, Token: s.tokenizer.Decode([]int32{id}, false), LogProb: logProb}
	}
	var all []likelihood
	for _, t := range res.LogProbs {
		l := spell(t.ID, t.LogProb)
		for _, other := range t.Top {
			l.Top = append(l.Top, spell(other.ID, other.LogProb))
		}
		all = append(all, l)
	}
	return all
}
