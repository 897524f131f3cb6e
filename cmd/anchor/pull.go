package main

import (
	"fmt"

	"github.com/anchorattention/anchor/hub"
	"github.com/spf13/cobra"
)

func newPull() *cobra.Command {
	c := &cobra.Command{
		Use:   "pull [flags] ORG/NAME[:FILE]",
		Short: "Download a model from the Hugging Face hub",
		Long: `Pull downloads a model from the Hugging Face hub and prints the directory where it
lies, or with :FILE the file. What is there already is not downloaded again, and
what was interrupted goes on from where it was. Checksums are verified.

The model's configuration, tokenizer, chat template and weights as safetensors
are taken; with :FILE, that file alone, such as a GGUF file; with --include, the
files whose path matches.

Models are kept as Hugging Face's own libraries keep them, and shared with those:
in $HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub. HF_TOKEN, or
the file $HF_HOME/token, identifies you where a model asks for it; HF_ENDPOINT is
the address of another hub.

With --json, one object is printed instead: name, revision, commit, dir and files,
each with path, size, hash and downloaded (bytes that came now).`,
		Example: `  anchor pull HuggingFaceTB/SmolLM2-135M-Instruct
  anchor pull Qwen/Qwen2.5-0.5B-Instruct-GGUF:qwen2.5-0.5b-instruct-q8_0.gguf
  anchor pull ORG/NAME --revision v1.0 --include "*.json" --include "*Q4_K_M*.gguf"`,
		Args: takes("ORG/NAME[:FILE]"),
	}
	var q hub.Request
	f := c.Flags()
	f.StringVar(&q.Revision, "revision", "", "`branch`, tag or commit; without, main")
	f.StringArrayVar(&q.Include, "include", nil, "`pattern` of files to take, where * stands for any text; may be given more than once")
	json := jsonFlag(c, "what was pulled as one JSON object")
	c.RunE = func(c *cobra.Command, args []string) error {
		name, err := hub.ParseName(args[0])
		if err != nil {
			return usageError{err}
		}
		if name.File != "" && len(q.Include) > 0 {
			return usageError{fmt.Errorf("%s names a file, and --include is given; want one of the two", name)}
		}
		client, err := hub.FromEnv()
		if err != nil {
			return err
		}
		bar := startProgress(c.ErrOrStderr(), name.String())
		defer bar.end()
		q.Name = args[0]
		q.Progress = func(done, total int64) { bar.report(float64(done) / float64(max(total, 1))) }
		s, err := client.Pull(c.Context(), q)
		bar.end()
		if err != nil {
			return err
		}
		if *json {
			return printJSON(c.OutOrStdout(), s)
		}
		at, err := client.Resolve(args[0], s.Commit)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), at)
		return err
	}
	return c
}
