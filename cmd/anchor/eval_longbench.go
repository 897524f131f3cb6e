package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/anchorattention/anchor/eval"
	"github.com/anchorattention/anchor/eval/longbench"
	"github.com/spf13/cobra"
)

func newLongBench() *cobra.Command {
	x := &evaluation{}
	var data, jieba string
	var only []string
	var even bool
	var samples int
	c := &cobra.Command{
		Use:   "longbench --model MODEL --data DIR -o DIR [flags]",
		Short: "The 21 tasks of LongBench, or the 13 of LongBench-E",
		Long: `Longbench asks the tasks of LongBench (Bai et al. 2023, arXiv 2308.14508), version 1, with the
published prompts, limits of generation and metrics, from its published files: TASK.jsonl in the
directory --data, or with --even, for LongBench-E, TASK_e.jsonl. LongBench-E's scores are told apart by
the published lengths, 0-4k, 4-8k and 8k+.

--lengths are windows. A prompt is cut in the middle to 1000 tokens for each 1024 of the window, less
500, which are the published 3500, 7500, 15500 and 31500 of 4096 … 32768. As published, prompts of the few-shot and
code tasks (trec, triviaqa, samsum, lsht, lcc, repobench-p) stand as they are even with --chat.

Chinese tasks are scored by the words of the Python package jieba, if --jieba names the directory where it is
installed (python -c "import jieba; print(jieba.__path__[0])"), or a copy of its dict.txt and finalseg/*.py.
Without it they are scored by characters: such scores are mostly higher than published ones.

"anchor eval --help" says what comes of it.`,
		Example: `  anchor eval longbench --model ./Llama-3.1-8B --data ./LongBench/data --lengths 32768 -o out --report
  anchor eval longbench --model ./model.gguf --data ./data --tasks hotpotqa,trec --samples 20 --lengths 8192 -o out
  anchor eval longbench --model ./Qwen2.5-7B --data ./data --even --methods dense,anchor=8,anchor=12 -o out`,
	}
	x.flags(c)
	x.lengths = []int{32768}
	f := c.Flags()
	lengths := f.Lookup("lengths")
	lengths.Usage, lengths.DefValue = "windows in `tokens`, for prompts, templates and what is generated", "[32768]"
	f.StringVar(&data, "data", "", "`directory` of the benchmark's files, required")
	f.StringSliceVar(&only, "tasks", nil, "`tasks` to ask; none means all")
	f.BoolVar(&even, "even", false, "ask LongBench-E")
	f.StringVar(&jieba, "jieba", "", "`directory` of jieba's data, for the words of Chinese tasks")
	f.IntVar(&samples, "samples", 500, "first `samples` of each task to ask; no task has more than 500")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if data == "" {
			return usageError{errors.New("--data is missing; want the directory of LongBench's files")}
		}
		names, suffix := longbench.Names(), ""
		if even {
			names, suffix = longbench.EvenNames(), "_e"
		}
		if len(only) > 0 {
			for i, name := range only {
				if !slices.Contains(names, name+suffix) {
					return usageError{fmt.Errorf("--tasks has %q; want some of %s", name, strings.ReplaceAll(strings.Join(names, ", "), suffix+",", ","))}
				}
				if slices.Contains(only[:i], name) {
					return usageError{fmt.Errorf("--tasks has %q twice", name)}
				}
			}
			names = nil
			for _, name := range only {
				names = append(names, name+suffix)
			}
		}
		var words *longbench.Segmenter
		if jieba != "" {
			var err error
			if words, err = longbench.LoadSegmenter(jieba); err != nil {
				return err
			}
		}
		var tasks []*eval.Task
		count := make(map[string]int)
		for _, name := range names {
			t, err := longbench.Load(data, name, words)
			if err != nil {
				return err
			}
			tasks, count[name] = append(tasks, t.Task), t.Samples
			if words == nil && longbench.Chinese(name) && !slices.Contains(x.notes, byCharacters) {
				x.notes = append(x.notes, byCharacters)
			}
		}
		x.keep = func(_ *eval.Model, j *eval.Job) bool { return j.Index < count[j.Task] }
		if even {
			x.label = func(r *eval.Record) { r.Task += ", " + longbench.Bucket(r) }
		}
		return x.run(c, tasks, "--samples", samples, 1)
	}
	return c
}

const byCharacters = "Chinese tasks are scored by characters, without --jieba: such scores are not comparable with published ones."
