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

func threadsFlag(c *cobra.Command) *int {
	return c.Flags().Int("threads", 0, "`goroutines` to compute on; 0 means one per core")
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
	"Params.Pool", "--pool", "Params.Spikes", "--spikes", "Params.MaxDensity", "--max-density", "Params.HeadTheta", "head_theta")

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
