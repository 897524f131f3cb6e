package main

import (
	"fmt"

	"github.com/anchorattention/anchor/bench"
	"github.com/spf13/cobra"
)

func newTune() *cobra.Command {
	c := &cobra.Command{
		Use:   "tune [flags]",
		Short: "Measure what the executor should know of this machine",
		Long: `Tune measures what it costs on this machine to gather single keys from a cache: as
many numbers of query rows whose attention takes as long, in single precision and in
pairs of bfloat16 numbers. With --costs FILE, other subcommands let that decide
whether a set of keys is gathered or walked where it lies with the keys between masked,
and where the method auto goes dense. Which keys the method anchor attends to does not
depend on it. Without, costs of a typical server are taken.

It prints, or writes to the file of -o,

  {"gather_rows": 84, "gather_rows_pairs": 210}

Nothing else should be running.`,
		Example: `  anchor tune
  anchor tune -o costs.json && anchor bench --methods dense,auto --costs costs.json`,
		Args:    takes(),
		PreRunE: checkKernels,
	}
	out := c.Flags().StringP("output", "o", "", "`file` to write; without, the costs are printed")
	threads := threadsFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *threads < 0 {
			return usageError{fmt.Errorf("--threads is %d; want ≥ 0", *threads)}
		}
		bar := startProgress(c.ErrOrStderr(), "measuring")
		defer bar.end()
		costs, err := bench.Tune(c.Context(), *threads, bar.report)
		if err != nil {
			return err
		}
		bar.end()
		return writeJSON(c, *out, costs)
	}
	return c
}
