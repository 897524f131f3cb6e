package main

import (
	"fmt"
	"runtime/debug"

	"github.com/spf13/cobra"
)

// newRoot returns the command with all its subcommands. Errors come back unprinted, those of the command line as a
// usageError.
func newRoot() *cobra.Command {
	root := &cobra.Command{
		Use:   "anchor",
		Short: "Fast attention for long prompts",
		Long: `Anchor makes the prefill of long prompts fast with AnchorAttention: exact softmax
attention over a small set of keys per head, found on the fly.

Start with "anchor demo", which needs no download.

The exit status is 0 on success, 1 upon an error and 2 when the command line is
wrong. The environment variable ANCHOR_CPU (generic, avx2, avx512, avx512bf16, amx or
neon) forces a level of the kernels.`,
		Version:       version(),
		SilenceErrors: true,
		SilenceUsage:  true,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) > 0 {
				return usageError{fmt.Errorf("subcommand is %q; see anchor --help for those there are", args[0])}
			}
			return nil
		},
		RunE: func(c *cobra.Command, _ []string) error { return c.Help() },
	}
	root.AddCommand(newDemo(), newAttend(), newRun(), newPull(), newInspect(), newCapture(), newCompare(), newCalibrate(),
		newEval(), newWorker(), newBench(), newTune(), newMakeModel())
	root.SetFlagErrorFunc(flagError)
	for _, c := range root.Commands() {
		c.DisableFlagsInUseLine = true
	}
	return root
}

func version() string {
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(devel)"
}
