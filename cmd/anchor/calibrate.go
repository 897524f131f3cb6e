package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/bench"
	"github.com/anchorattention/anchor/internal/mmap"
	"github.com/anchorattention/anchor/internal/safetensors"
	"github.com/spf13/cobra"
)

func newCalibrate() *cobra.Command {
	c := &cobra.Command{
		Use:   "calibrate [IN] [flags]",
		Short: "Find theta for each head, for a mean recall that is wanted",
		Long: `Calibrate finds a theta for each query head, so that the mean recall of all heads, over
audited rows, reaches a target with as few keys as that takes: on the tensors q, k and v
of a safetensors file, as "anchor attend" takes them, or on synthetic heads. Heads get
thetas of their own only if that gains recall on rows which they were not found from;
otherwise all have the same. They lie between -10 and 30, or are "inf", which keeps
every key. For a recall that each head reaches there is --target-recall of others.

It prints, or writes to the file of -o, anchor's parameters as JSON, which --params of
other subcommands and the library's Params read:

  {"block":128,"step":16,"init":128,"local":128,"tail":128,"head_theta":[9.4,…],"theta":12}

The parameters that flags set are taken over, and theta is for heads without one of
their own: none, as long as the number of heads is the same.`,
		Example: `  anchor calibrate qkv.safetensors --target 0.98 -o params.json
  anchor attend qkv.safetensors -o out.safetensors --params params.json --audit 64`,
		Args:    takes("[IN]"),
		PreRunE: checkKernels,
	}
	f := c.Flags()
	out := f.StringP("output", "o", "", "`file` to write; without, the parameters are printed")
	target := f.Float64("target", 0.98, "mean `recall` of all heads")
	rows := f.Int("audit", 256, "`rows` of each head whose recall is measured")
	name := f.String("workload", bench.Workloads()[0], "`kind` of synthetic heads, without IN")
	length := f.Int("length", 8192, "`tokens` of synthetic heads")
	params := paramFlags(c)
	threads := threadsFlag(c)
	c.RunE = func(c *cobra.Command, args []string) (err error) {
		if err := readParams(c, params); err != nil {
			return err
		}
		switch {
		case !(*target > 0 && *target <= 1):
			return usageError{fmt.Errorf("--target is %v; want more than 0, at most 1", *target)}
		case *rows < 1:
			return usageError{fmt.Errorf("--audit is %d; want ≥ 1", *rows)}
		case *threads < 0:
			return usageError{fmt.Errorf("--threads is %d; want ≥ 0", *threads)}
		}
		if _, err := method("theta", "anchor", *params, true); err != nil {
			return err
		}
		if *out != "" {
			if _, err := os.Stat(filepath.Dir(*out)); err != nil {
				return err
			}
		}
		var seqs []anchor.Sequence
		if len(args) == 1 {
			file, err := safetensors.Open(args[0])
			if err != nil {
				return err
			}
			defer func() { err = errors.Join(err, file.Close()) }()
			defer mmap.Guard(&err)()
			b, err := readBatch(file)
			if err != nil {
				return err
			}
			seqs = b.seqs
		} else {
			const heads, kvHeads, dim, seed = 8, 2, 128, 1
			input, err := bench.WorkloadInput(*name, seed, heads, kvHeads, *length, dim, anchor.Float32, 0)
			if err != nil {
				return usageError{err}
			}
			seq, _, err := input.Load()
			if err != nil {
				return err
			}
			seq.O = anchor.FromFloat32(make([]float32, heads*(*length)*dim), heads, *length, dim)
			seqs = append(seqs, seq)
		}
		bar := startProgress(c.ErrOrStderr(), "calibrating")
		defer bar.end()
		opt := anchor.Options{Threads: *threads, AuditRows: *rows, Progress: bar.report}
		found, err := anchor.Calibrate(c.Context(), opt, *params, *target, seqs...)
		if err != nil {
			return err
		}
		bar.end()
		return writeJSON(c, *out, found)
	}
	return c
}
