package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/generate"
	"github.com/anchorattention/anchor/internal/atomicfile"
	"github.com/anchorattention/anchor/internal/kernel"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// paramFlags defines the flags of AnchorAttention's parameters, with their published defaults.
func paramFlags(c *cobra.Command) *anchor.Params {
	p := anchor.DefaultParams()
	f := c.Flags()
	f.IntVar(&p.Block, "block", p.Block, "anchor: `rows` that one mean query stands for in the search")
	f.IntVar(&p.Step, "step", p.Step, "anchor: `blocks` that share one set of stripes")
	f.IntVar(&p.Init, "init", p.Init, "anchor: first `keys`, always attended")
	f.IntVar(&p.Local, "local", p.Local, "anchor: `keys` just before a group of block·step rows, always attended")
	f.Float64Var(&p.Theta, "theta", p.Theta, "anchor: `nats` below the anchor at which a key is still kept; inf keeps all, -inf none")
	f.IntVar(&p.Tail, "tail", p.Tail, "last `rows` of the prompt, which see every key, whatever the method")
	f.IntVar(&p.Pool, "pool", 0, "anchor: `rows` that one mean query stands for in blocks out of which rows stand, a divisor of block; 0 means block")
	f.IntVar(&p.Spikes, "spikes", 0, "anchor: `rows` that stand for themselves too, of those that stand out of each block")
	f.Float64Var(&p.MaxDensity, "max-density", 0, "anchor: bound on each head's `density`; 0 means none")
	f.String("params", "", "`file` of anchor's parameters as JSON, such as \"anchor calibrate\" writes; flags go before it")
	return &p
}

// readParams completes p by the file that --params names, but for the parameters that have flags of their own on this command
// line.
func readParams(c *cobra.Command, p *anchor.Params) error {
	name, err := c.Flags().GetString("params")
	if err != nil || name == "" {
		return err
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return err
	}
	read := anchor.DefaultParams()
	if err := json.Unmarshal(data, &read); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	changed := c.Flags().Changed
	for flag, take := range map[string]func(){
		"block": func() { read.Block = p.Block }, "step": func() { read.Step = p.Step }, "init": func() { read.Init = p.Init },
		"local": func() { read.Local = p.Local }, "theta": func() { read.Theta, read.HeadTheta = p.Theta, nil },
		"tail": func() { read.Tail = p.Tail }, "pool": func() { read.Pool = p.Pool },
		"spikes": func() { read.Spikes = p.Spikes }, "max-density": func() { read.MaxDensity = p.MaxDensity },
	} {
		if changed(flag) {
			take()
		}
	}
	if err := read.Validate(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	*p = read
	return nil
}

// attention are the flags that say how a model attends to a prompt.
type attention struct {
	method      string
	params      *anchor.Params
	denseLayers string
	denseBelow  int
}

func attentionFlags(c *cobra.Command) *attention {
	a := &attention{params: paramFlags(c)}
	f := c.Flags()
	f.StringVar(&a.method, "attention", "anchor", "`method` of attention, or method=value to set its knob: "+methodNames(true))
	f.StringVar(&a.denseLayers, "dense-layers", "", "`layers` in which every token sees all before it, such as 0,1 or 0-3")
	f.IntVar(&a.denseBelow, "dense-below", 0, "`tokens` below which a prompt is attended to densely")
	return a
}

// read returns the method that the flags name, with its parameters.
func (a *attention) read(c *cobra.Command) (chosen, error) {
	if err := readParams(c, a.params); err != nil {
		return chosen{}, err
	}
	if a.denseBelow < 0 {
		return chosen{}, usageError{fmt.Errorf("--dense-below is %d; want ≥ 0", a.denseBelow)}
	}
	return method("attention", a.method, *a.params, true)
}

// section returns what the flags say of a method, for a model of so many layers.
func (a *attention) section(m chosen, layers int) (s generate.Attention, err error) {
	s = m.attention()
	s.DenseBelow = a.denseBelow
	if a.denseLayers != "" {
		s.DenseLayers, err = numbers("dense-layers", a.denseLayers, layers)
	}
	return s, err
}

// cacheTypes are the types of keys and values in a cache, by the names that --cache-type takes.
var cacheTypes = []struct {
	name  string
	dtype anchor.DType
}{{"f32", anchor.Float32}, {"bf16", anchor.BFloat16}, {"f16", anchor.Float16}, {"8bit", anchor.Int8}}

// cacheFlags are the flags of the memory for keys and values.
type cacheFlags struct{ dtype, memory string }

func newCacheFlags(c *cobra.Command) *cacheFlags {
	var k cacheFlags
	c.Flags().StringVar(&k.dtype, "cache-type", "f32", "`type` of the keys and values that are kept: f32, bf16, f16 or 8bit")
	c.Flags().StringVar(&k.memory, "cache-memory", "", "`bytes` for keys and values, such as 512MiB or 4GiB; without, what the model's context takes")
	return &k
}

// read returns the type of elements and the number of bytes, 0 for no limit.
func (k *cacheFlags) read() (anchor.DType, int64, error) {
	var names []string
	for _, t := range cacheTypes {
		if t.name == k.dtype {
			bytes, err := parseBytes("cache-memory", k.memory)
			return t.dtype, bytes, err
		}
		names = append(names, t.name)
	}
	return 0, 0, usageError{fmt.Errorf("--cache-type is %q; want one of %s", k.dtype, strings.Join(names, ", "))}
}

// parseBytes reads a number of bytes with or without a unit; no text means 0.
func parseBytes(flag, text string) (int64, error) {
	if text == "" {
		return 0, nil
	}
	number, unit := text, int64(1)
	for i, suffix := range []string{"KiB", "MiB", "GiB", "TiB"} {
		if before, ok := strings.CutSuffix(text, suffix); ok {
			number, unit = strings.TrimSpace(before), 1<<(10*(i+1))
		}
	}
	x, err := strconv.ParseFloat(number, 64)
	if x *= float64(unit); err != nil || !(x >= 1 && x < 1<<62) {
		return 0, usageError{fmt.Errorf("--%s is %q; want a number of bytes from 1, or one of KiB, MiB, GiB or TiB", flag, text)}
	}
	return int64(x), nil
}

// samplingFlags defines the flags that say how tokens are chosen.
func samplingFlags(c *cobra.Command) *generate.Sampling {
	var s generate.Sampling
	f := c.Flags()
	f.Float64Var(&s.Temperature, "temperature", 0, "`number` by which logits are divided before a token is drawn; 0 takes the likeliest")
	f.IntVar(&s.TopK, "top-k", 0, "`tokens` to draw from, the likeliest ones; 0 means all")
	f.Float64Var(&s.TopP, "top-p", 1, "`share` of the probability that the likeliest tokens, which are drawn from, have together")
	f.Float64Var(&s.MinP, "min-p", 0, "`share` of the likeliest token's probability that all have which are drawn from")
	f.Float64Var(&s.RepetitionPenalty, "repetition-penalty", 1, "`factor` by which tokens become less likely that are there already")
	f.Uint64Var(&s.Seed, "seed", 0, "`number` that draws begin with: the same one gives the same text")
	return &s
}

// checkSampling reports what is wrong with the flags of sampling.
func checkSampling(c *cobra.Command, s *generate.Sampling) error {
	if err := s.Validate(); err != nil {
		return usageError{errors.New(flagNames.Replace(err.Error()))}
	}
	if s.Temperature > 0 {
		return nil
	}
	for _, name := range []string{"top-k", "top-p", "min-p", "seed"} {
		if c.Flags().Changed(name) {
			return usageError{fmt.Errorf("--%s is given without a --temperature; want one above 0, or the likeliest token is taken", name)}
		}
	}
	return nil
}

// modelNames says what a command line may call a model.
const modelNames = `a directory as Hugging Face lays it out, a GGUF file, or ORG/NAME or
ORG/NAME:FILE of the Hugging Face hub, which "anchor pull" has downloaded.`

func threadsFlag(c *cobra.Command) *int {
	return c.Flags().Int("threads", 0, "`goroutines` to compute on; 0 means one per core")
}

func deviceFlag(c *cobra.Command) *string {
	return c.Flags().String("device", "cpu", "where to compute: "+devices+"; cuda wants BF16 or F16, and anchor, auto or dense")
}

func jsonFlag(c *cobra.Command, what string) *bool {
	return c.Flags().Bool("json", false, "print "+what+" to stdout, and nothing else")
}

// dtype returns the type of elements of a name that was given to a flag.
func dtype(flag, name string) (anchor.DType, error) {
	var names []string
	for _, d := range []anchor.DType{anchor.Float32, anchor.BFloat16, anchor.Float16} {
		if d.String() == name {
			return d, nil
		}
		names = append(names, d.String())
	}
	return 0, usageError{fmt.Errorf("--%s is %q; want one of %s", flag, name, strings.Join(names, ", "))}
}

func costsFlag(c *cobra.Command) *string {
	return c.Flags().String("costs", "", "`file` that \"anchor tune\" wrote; without, costs of a typical server")
}

// readCosts reads a file of costs, nil if there is no name.
func readCosts(name string) (*anchor.Costs, error) {
	if name == "" {
		return nil, nil
	}
	data, err := os.ReadFile(name)
	if err != nil {
		return nil, err
	}
	costs := anchor.DefaultCosts()
	if err := json.Unmarshal(data, &costs); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return &costs, nil
}

// methodNames are the names of the methods of attention, of plain ones or of all.
func methodNames(plain bool) string {
	var names []string
	for _, m := range anchor.Methods() {
		if m.Plain() || !plain {
			names = append(names, m.Name)
		}
	}
	return strings.Join(names, ", ")
}

// A chosen method has its knob and parameters set.
type chosen struct {
	anchor.Method
	value  float64
	params anchor.Params
}

// method returns the method that was given to a flag as NAME or NAME=VALUE, where VALUE is what its knob is set to.
func method(flag, text string, p anchor.Params, plain bool) (chosen, error) {
	name, value, given := strings.Cut(text, "=")
	m, ok := anchor.LookupMethod(name)
	if !ok || plain && !m.Plain() {
		return chosen{}, usageError{fmt.Errorf("--%s is %q; want one of %s", flag, name, methodNames(plain))}
	}
	c := chosen{m, m.Value, p}
	if c.exact() {
		c.value = p.Theta
	}
	if given {
		var err error
		if c.value, err = strconv.ParseFloat(value, 64); err != nil {
			return chosen{}, usageError{fmt.Errorf("--%s is %q; want a number after =", flag, text)}
		}
		if err := m.Check(c.value); err != nil {
			return chosen{}, usageError{fmt.Errorf("--%s is %q: %w", flag, text, err)}
		}
		if c.exact() {
			c.params.Theta, c.params.HeadTheta = c.value, nil
		}
	}
	if err := c.planner().Validate(); err != nil {
		return chosen{}, usageError{errors.New(flagNames.Replace(err.Error()))}
	}
	return c, nil
}

// exact reports whether the method is what the flags of anchor's parameters say.
func (c chosen) exact() bool { return c.Name == "anchor" || c.Name == "auto" }

// patterns are the flags that name a table of MInference's patterns.
type patterns struct {
	file  string
	layer int
}

func patternFlags(c *cobra.Command) *patterns {
	var p patterns
	c.Flags().StringVar(&p.file, "patterns", "", "`file` of patterns in MInference's format: the method minference-table, a pattern for each head")
	c.Flags().IntVar(&p.layer, "layer", 0, "`layer` of the file of patterns, from 0")
	return &p
}

// method reads the file and returns its method, nil if there is no file.
func (p *patterns) method() (*anchor.Method, error) {
	switch {
	case p.file == "" && p.layer != 0:
		return nil, usageError{fmt.Errorf("--layer is %d without --patterns; want the two together", p.layer)}
	case p.file == "":
		return nil, nil
	}
	file, err := os.Open(p.file)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	layers, err := anchor.ReadPatterns(file)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", p.file, err)
	}
	if p.layer < 0 || p.layer >= len(layers) {
		return nil, usageError{fmt.Errorf("--layer is %d; %s has %d, from 0", p.layer, p.file, len(layers))}
	}
	m := anchor.PatternTable(layers[p.layer])
	return &m, nil
}

func (c chosen) planner() anchor.Planner {
	switch { // thetas by head stand as long as no other is given
	case c.exact() && len(c.params.HeadTheta) > 0 && c.Name == "auto":
		return anchor.Auto(c.params)
	case c.exact() && len(c.params.HeadTheta) > 0:
		return anchor.AnchorAttention(c.params)
	}
	return c.Planner(c.params, c.value)
}

// attention returns the method as package generate wants it.
func (c chosen) attention() generate.Attention {
	a := generate.Attention{Method: c.Name, Params: c.params}
	if !c.exact() && c.Knob != "" {
		a.Value = &c.value
	}
	return a
}

// report returns the parameters to report, nil for a method that takes but a few of them.
func (c chosen) report() *anchor.Params {
	if !c.exact() {
		return nil
	}
	return &c.params
}

// flagNames turns the names of parameters into those of their flags.
var flagNames = strings.NewReplacer("Params.Block·Step", "--block·--step", "Params.Block", "--block", "Params.Step", "--step",
	"Params.Init", "--init", "Params.Local", "--local", "Params.Theta", "--theta", "Params.Tail", "--tail",
	"Params.Pool", "--pool", "Params.Spikes", "--spikes", "Params.MaxDensity", "--max-density", "Params.HeadTheta", "head_theta",
	"Sampling.Temperature", "--temperature", "Sampling.TopK", "--top-k", "Sampling.TopP", "--top-p", "Sampling.MinP", "--min-p",
	"Sampling.RepetitionPenalty", "--repetition-penalty")

// flagError says what a flag's value may be, where package pflag says how it failed to read one.
func flagError(_ *cobra.Command, err error) error {
	if e := (*pflag.InvalidValueError)(nil); errors.As(err, &e) {
		want, ok := map[string]string{
			"int":      "a whole number of at most 18 digits",
			"intSlice": "whole numbers of at most 18 digits, with commas between them",
			"float32":  "a number in single precision",
			"float64":  "a number in double precision, inf or -inf",
			"bool":     "true or false",
		}[e.GetFlag().Value.Type()]
		if ok {
			err = fmt.Errorf("--%s is %q; want %s", e.GetFlag().Name, e.GetValue(), want)
		}
	}
	return usageError{err}
}

// checkKernels reports an ANCHOR_CPU that names no kernels, before any work is done.
func checkKernels(*cobra.Command, []string) error {
	_, err := kernel.Default()
	return err
}

// printJSON writes one value on one line.
func printJSON(w io.Writer, v any) error { return json.NewEncoder(w).Encode(v) }

// writeJSON writes one value to a file, whole or not at all, or prints it if there is no name.
func writeJSON(c *cobra.Command, path string, v any) error {
	if path == "" {
		return printJSON(c.OutOrStdout(), v)
	}
	return atomicfile.Write(c.Context(), path, func(w io.Writer) error { return printJSON(w, v) })
}

// stages are the names of the stages of attention, in the order in which they are done.
func stages() []string {
	var names []string
	for _, s := range []anchor.Stage{anchor.StageDense, anchor.StageWindow, anchor.StageSearch, anchor.StageGather, anchor.StageSparse} {
		names = append(names, s.String())
	}
	return names
}

// takes checks the number of arguments, which have the given names; those in brackets may be left out.
func takes(names ...string) cobra.PositionalArgs {
	least := 0
	for _, n := range names {
		if n[0] != '[' {
			least++
		}
	}
	return func(_ *cobra.Command, args []string) error {
		if len(args) >= least && len(args) <= len(names) {
			return nil
		}
		want := strings.Join(names, " ")
		if want == "" {
			want = "none"
		}
		return usageError{fmt.Errorf("arguments are %q; want %s", args, want)}
	}
}
