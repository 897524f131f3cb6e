package main

import (
	"fmt"

	"github.com/anchorattention/anchor/model/retrieval"
	"github.com/spf13/cobra"
)

func newMakeModel() *cobra.Command {
	return &cobra.Command{
		Use:   "make-model retrieval DIR",
		Short: "Write the constructed model to a directory",
		Long: `Make-model writes a model to DIR, as Hugging Face lays it out: config.json,
tokenizer.json and model.safetensors. DIR is made if there is none; files of
those names in it are replaced.

There is one kind, retrieval, the model of "anchor demo". It is constructed, not
trained: asked with a code word at the end of a prompt, it answers with the word
that followed that code word earlier. It can only look up, and exists to exercise
every part without a download. The files are the same every time.`,
		Example: `  anchor make-model retrieval ./retrieval`,
		Args:    takes("retrieval", "DIR"),
		RunE: func(c *cobra.Command, args []string) error {
			if args[0] != "retrieval" {
				return usageError{fmt.Errorf("kind of model is %q; want retrieval", args[0])}
			}
			if err := retrieval.Write(c.Context(), args[1]); err != nil {
				return err
			}
			_, err := fmt.Fprintf(c.OutOrStdout(), "wrote %s: config.json, tokenizer.json, model.safetensors\n", args[1])
			return err
		},
	}
}
