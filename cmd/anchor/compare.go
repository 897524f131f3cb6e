package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unicode"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/bench"
	"github.com/anchorattention/anchor/internal/safetensors"
	"github.com/spf13/cobra"
)

func newCompare() *cobra.Command {
	c := &cobra.Command{
		Use:   "compare [IN...] [flags]",
		Short: "Compare methods: what each costs and what it loses",
		Long: `Compare runs methods of sparse attention on the same inputs and the same executor: on
synthetic heads, or on the tensors q, k and v of safetensors files as "anchor attend"
takes them, those that a model was seen to make for example.

Each method has one knob, which is set to its default, to several values over its
range, and to where it just reaches a mean recall and just stays within a density.
Everything is measured against dense attention of the same inputs, over all rows:

  density   attended over causal pairs of row and key, whatever is always kept included
  recall    share of the true softmax mass on the keys attended
  errors    of outputs, ‖o − dense o‖/‖dense o‖, and of log-sum-exps, in nats
  time      of one call, search included; at the settings that reach a goal the median
            of --runs rounds, in which dense attention and all of them take turns, and
            the speedup that of ratios within rounds

The row oracle is the least density at which every row could hold such a share of its
mass, estimated from 32 rows of each head: no method can have that as its minimum with
fewer keys.

With --report DIR, DIR gets a page, index.html, that needs no network, its figures as SVG
and PNG, and comparison.json. With --json, that object is printed: {command, machine, isa,
threads, inputs: [{name, tokens, dense_seconds, points, row_oracle, maps}]}.

With --device cuda times are the device's own, without copying from and to it.

Interrupted, it reports what is finished.

` + describeMethods(),
		Example: `  anchor compare
  anchor compare --workload mixed --lengths 8192,32768 --density 0.4,0.15 --report out
  anchor compare qkv.safetensors --methods anchor,flexprefill,xattention --recall 0.98
  anchor compare qkv.safetensors --methods anchor,minference --patterns best_pattern.json --layer 7
  anchor compare --lengths 4096 --methods anchor,vecattention --points 9 --json
  anchor compare --lengths 32768 --heads 32 --kv-heads 8 --dtype BF16 --device cuda`,
		Args:    cobra.ArbitraryArgs,
		PreRunE: checkKernels,
	}
	f := c.Flags()
	x := comparison{config: bench.CompareConfig{Rows: 32}}
	f.StringSliceVar(&x.methods, "methods", allMethods(), "`methods` to compare; theirs is the order")
	f.StringVar(&x.workload, "workload", "mixed", "`kind` of synthetic heads: "+strings.Join(bench.Workloads(), ", "))
	f.IntSliceVar(&x.lengths, "lengths", []int{8192}, "lengths of synthetic heads, in `tokens`")
	f.Float64SliceVar(&x.density, "density", []float64{0.4}, "`density` to stay within, one for each input or one for all; 0 means none")
	f.Float64Var(&x.config.Recall, "recall", 0.95, "mean `recall` to reach; 0 means none")
	f.IntVar(&x.heads, "heads", 8, "query `heads` of synthetic heads")
	f.IntVar(&x.kvHeads, "kv-heads", 2, "key and value `heads`, which divide the query heads")
	f.IntVar(&x.dim, "dim", 128, "`numbers` in a row of a head, 16 to 256")
	f.StringVar(&x.dtype, "dtype", "F32", "`type` of synthetic queries, keys and values: F32, BF16, F16")
	f.Uint64Var(&x.seed, "seed", 1, "`seed` of synthetic heads")
	f.IntVar(&x.config.Points, "points", 5, "`settings` of each method's knob beside its default")
	f.IntVar(&x.config.Runs, "runs", 3, "timed `rounds` of the settings that reach a goal")
	f.IntVar(&x.config.Maps, "maps", 4, "`heads` of each input whose attention is mapped, with --report or --json")
	f.StringVar(&x.report, "report", "", "`directory` to write a page, figures and comparison.json to")
	f.BoolVar(&x.markdown, "markdown", false, "print tables of the settings that reach the goals in Markdown")
	x.patterns = patternFlags(c)
	x.params = paramFlags(c)
	x.costs = costsFlag(c)
	x.device = deviceFlag(c)
	x.threads = threadsFlag(c)
	x.json = jsonFlag(c, "the comparison as one JSON object")
	c.RunE = x.run
	return c
}

// allMethods are the names of all methods but dense attention, which everything is compared with.
func allMethods() []string {
	var names []string
	for _, m := range anchor.Methods() {
		if m.Name != anchor.Dense().Name() {
			names = append(names, m.Name)
		}
	}
	return names
}

// describeMethods lists the methods for people.
func describeMethods() string {
	var out strings.Builder
	out.WriteString("Methods, their knobs, and what they attend to whatever they find, beside the tail:\n\n")
	for _, m := range anchor.Methods() {
		if m.Knob != "" {
			fmt.Fprintf(&out, "  %-13s %-9s %s (%s)\n", m.Name, m.Knob, m.Always(anchor.DefaultParams()), m.Source)
		}
	}
	return strings.TrimRight(out.String(), "\n")
}

// comparison is one run of the subcommand.
type comparison struct {
	config              bench.CompareConfig
	methods             []string
	workload, dtype     string
	lengths             []int
	density             []float64
	heads, kvHeads, dim int
	seed                uint64
	report              string
	markdown            bool
	patterns            *patterns
	params              *anchor.Params
	costs, device       *string
	threads             *int
	json                *bool
}

func (x *comparison) run(c *cobra.Command, files []string) (err error) {
	if err := readParams(c, x.params); err != nil {
		return err
	}
	x.config.Params, x.config.Threads = *x.params, *x.threads
	if *x.device != "cpu" && !c.Flags().Changed("methods") {
		x.methods = []string{"anchor"} // no other is for a device
	}
	for _, name := range x.methods {
		m, err := method("methods", name, *x.params, false)
		if err != nil {
			return err
		}
		m.Method.Value = m.value // a curve goes through the value that was given
		x.config.Methods = append(x.config.Methods, m.Method)
	}
	if table, err := x.patterns.method(); err != nil {
		return err
	} else if table != nil {
		x.config.Methods = append(x.config.Methods, *table)
	}
	if x.config.Costs, err = readCosts(*x.costs); err != nil {
		return err
	}
	if x.report != "" {
		if err := os.MkdirAll(x.report, 0o777); err != nil {
			return err
		}
	} else if !*x.json {
		x.config.Maps = 0
	}
	closeAll, err := x.inputs(files)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeAll()) }()
	if err := x.config.Validate(); err != nil {
		return usageError{err}
	}

	engine, closeEngine, err := openDevice(*x.device)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeEngine()) }()
	x.config.Engine = engine
	bar := startProgress(c.ErrOrStderr(), "comparing")
	defer bar.end()
	x.config.Progress = bar.report
	result, failed := bench.Compare(c.Context(), x.config)
	bar.end()
	if result == nil || len(result.Inputs) == 0 {
		return failed
	}
	result.Command = commandLine(os.Args)
	result.Machine = machine()
	if x.report != "" {
		// What is finished is kept, even of a run that was interrupted.
		bar := startProgress(c.ErrOrStderr(), "drawing")
		defer bar.end()
		if err := result.WriteDir(context.WithoutCancel(c.Context()), x.report, bar.report); err != nil {
			return errors.Join(failed, err)
		}
		bar.end()
	}
	write := result.WriteTable
	switch {
	case *x.json:
		return errors.Join(printJSON(c.OutOrStdout(), result), failed)
	case x.markdown:
		write = result.WriteMarkdown
	}
	return errors.Join(write(c.OutOrStdout()), failed)
}

// commandLine returns a command line as a shell takes it.
func commandLine(args []string) string {
	words := []string{"anchor"}
	for _, a := range args[min(1, len(args)):] {
		if strings.ContainsFunc(a, func(r rune) bool {
			return !strings.ContainsRune("+-_./,:=@%", r) && !unicode.IsLetter(r) && !unicode.IsDigit(r)
		}) || a == "" {
			a = "'" + strings.ReplaceAll(a, "'", `'\''`) + "'"
		}
		words = append(words, a)
	}
	return strings.Join(words, " ")
}

// inputs sets the configuration's inputs, and returns what closes their files.
func (x *comparison) inputs(files []string) (closeAll func() error, err error) {
	var opened []*safetensors.File
	closeAll = func() error {
		var all error
		for _, f := range opened {
			all = errors.Join(all, f.Close())
		}
		return all
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, closeAll())
		}
	}()
	dtype, err := dtype("dtype", x.dtype)
	if err != nil {
		return closeAll, err
	}
	in := &x.config.Inputs
	if len(files) == 0 {
		for _, n := range x.lengths {
			input, err := bench.WorkloadInput(x.workload, x.seed, x.heads, x.kvHeads, n, x.dim, dtype, 0)
			if err != nil {
				return closeAll, usageError{err}
			}
			*in = append(*in, input)
		}
	}
	for _, name := range files {
		file, err := safetensors.Open(name)
		if err != nil {
			return closeAll, err
		}
		opened = append(opened, file)
		b, err := readBatch(file)
		if err != nil {
			return closeAll, err
		}
		for i, seq := range b.seqs {
			label := name
			if len(b.seqs) > 1 {
				label = fmt.Sprintf("%s, sequence %d", name, i)
			}
			*in = append(*in, bench.CompareInput{
				Name: label, Tokens: seq.K.Rows(),
				Load: func() (anchor.Sequence, func(int) string, error) { return seq, nil, nil },
			})
		}
	}
	switch len(x.density) {
	case 1:
		x.density = slices.Repeat(x.density, len(*in))
	case len(*in):
	default:
		return closeAll, usageError{fmt.Errorf("--density has %d values; want one, or one for each of the %d inputs", len(x.density), len(*in))}
	}
	for i := range *in {
		(*in)[i].Density = x.density[i]
	}
	return closeAll, nil
}
