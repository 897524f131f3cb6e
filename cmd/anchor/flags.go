package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/anchorattention/anchor"
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
	f.IntVar(&p.Tail, "tail", p.Tail, "anchor: last `rows` of the prompt, which see every key")
	return &p
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

// methods are the names of the methods of attention.
var methods = []string{"anchor", "auto", "dense"}

// planner returns the method of a name that was given to a flag.
func planner(flag, name string, p anchor.Params) (anchor.Planner, error) {
	var method anchor.Planner
	switch name {
	case "anchor":
		method = anchor.AnchorAttention(p)
	case "auto":
		method = anchor.Auto(p)
	case "dense":
		method = anchor.Dense()
	default:
		return nil, usageError{fmt.Errorf("--%s is %q; want one of %s", flag, name, strings.Join(methods, ", "))}
	}
	if err := method.Validate(); err != nil {
		return nil, usageError{errors.New(flagNames.Replace(err.Error()))}
	}
	return method, nil
}

// flagNames turns the names of parameters into those of their flags.
var flagNames = strings.NewReplacer("Params.Block·Step", "--block·--step", "Params.Block", "--block", "Params.Step", "--step",
	"Params.Init", "--init", "Params.Local", "--local", "Params.Theta", "--theta", "Params.Tail", "--tail")

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

// reportParams returns the parameters to report, nil for a method that has none.
func reportParams(method string, p anchor.Params) *anchor.Params {
	if method == "dense" {
		return nil
	}
	return &p
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
