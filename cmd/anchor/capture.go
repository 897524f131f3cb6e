package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/safetensors"
	"github.com/anchorattention/anchor/model"
	"github.com/spf13/cobra"
)

func newCapture() *cobra.Command {
	c := &cobra.Command{
		Use:   "capture MODEL --file TEXT -o DIR [flags]",
		Short: "Write the queries, keys and values that a model makes of a text",
		Long: `Capture runs a model over a text with dense attention and writes what attention sees in
each layer: the tensors q, k and v, [heads, tokens, width], in single precision and turned
by their positions, to DIR/layer-NN.safetensors. That is what "anchor compare", "anchor
calibrate" and "anchor attend" read.

MODEL is ` + modelNames + `

--layers and --heads choose some of them, by numbers from 0 and ranges: 0,4-7. Keys and values
are those that the chosen heads read; where these do not share them evenly, each gets its own
copy. Each file is written as soon as the layer is reached, and appears whole or not at
all; nothing is computed beyond the last layer that is chosen.`,
		Example: `  anchor capture ./SmolLM2-135M --file book.txt --length 32768 --layers 0,15,29 -o captured
  anchor compare captured/*.safetensors`,
		Args:    takes("MODEL"),
		PreRunE: checkKernels,
	}
	x := capture{}
	f := c.Flags()
	f.StringVar(&x.file, "file", "", "`file` of text, required; - means stdin")
	f.StringVarP(&x.dir, "output", "o", "", "`directory` to write to, required; it is made if there is none")
	f.StringVar(&x.layers, "layers", "", "`layers` to write, such as 0,4-7; without, all")
	f.StringVar(&x.heads, "heads", "", "query `heads` to write, such as 0,4-7; without, all")
	f.IntVar(&x.length, "length", 0, "`tokens` of the text to run over; 0 means all")
	x.threads = threadsFlag(c)
	c.RunE = x.run
	return c
}

// capture is one run of the subcommand.
type capture struct {
	file, dir, layers, heads string
	length                   int
	threads                  *int
}

// errCaptured ends a run whose last layer has been written.
var errCaptured = errors.New("captured")

func (x *capture) run(c *cobra.Command, args []string) (err error) {
	switch {
	case x.file == "":
		return usageError{errors.New("--file is missing; want a text")}
	case x.dir == "":
		return usageError{errors.New("-o DIR is missing; want a directory to write to")}
	case x.length < 0:
		return usageError{fmt.Errorf("--length is %d; want ≥ 0", x.length)}
	case *x.threads < 0:
		return usageError{fmt.Errorf("--threads is %d; want ≥ 0", *x.threads)}
	}
	m, err := openCheckpoint(args[0])
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Close()) }()
	cfg := m.Config()
	layers, err := numbers("layers", x.layers, cfg.Layers)
	if err != nil {
		return err
	}
	heads, err := numbers("heads", x.heads, cfg.Heads)
	if err != nil {
		return err
	}
	text, err := readText(c.Context(), c.InOrStdin(), x.file)
	if err != nil {
		return err
	}
	tok, err := m.tokenizer()
	if err != nil {
		return err
	}
	ids := tok.Encode(text, true).IDs
	if x.length > 0 && x.length < len(ids) {
		ids = ids[:x.length]
	}
	switch {
	case len(ids) == 0:
		return fmt.Errorf("%s has no tokens; want at least one", x.file)
	case len(ids) > cfg.MaxPositions:
		return usageError{fmt.Errorf("the text has %d tokens; want a --length of at most %d, the model's context", len(ids), cfg.MaxPositions)}
	}
	if err := os.MkdirAll(x.dir, 0o777); err != nil {
		return err
	}
	cache, err := m.NewCache(len(ids))
	if err != nil {
		return err
	}

	kvHeads := readBy(heads, cfg.Heads/cfg.KVHeads)
	last, width := slices.Max(layers), len(strconv.Itoa(cfg.Layers-1))
	bar := startProgress(c.ErrOrStderr(), "capturing")
	defer bar.end()
	_, _, err = m.Forward(c.Context(), cache, ids, model.ForwardOptions{
		Planner: anchor.Dense(), Threads: *x.threads, Progress: bar.report,
		Capture: func(layer int, q, k, v []float32) error {
			if !slices.Contains(layers, layer) {
				return nil
			}
			tensor := func(name string, data []float32, of []int) safetensors.Tensor {
				return safetensors.Tensor{Name: name, DType: "F32", Shape: []int{len(of), len(ids), cfg.HeadDim}, Data: choose(data, of, len(ids)*cfg.HeadDim)}
			}
			path := filepath.Join(x.dir, fmt.Sprintf("layer-%0*d.safetensors", width, layer))
			metadata := map[string]string{"layer": strconv.Itoa(layer), "heads": list(heads), "kv_heads": list(kvHeads)}
			if cfg.Windows != nil {
				metadata["window"] = strconv.Itoa(cfg.Windows[layer])
			}
			if err := safetensors.WriteFile(c.Context(), path, metadata, tensor("q", q, heads), tensor("k", k, kvHeads), tensor("v", v, kvHeads)); err != nil {
				return err
			}
			if layer == last {
				return errCaptured
			}
			return nil
		},
	})
	bar.end()
	if !errors.Is(err, errCaptured) {
		return err
	}
	_, err = fmt.Fprintf(c.OutOrStdout(), "wrote %d layers of %d tokens to %s: %d heads, %d of keys and values\n", len(layers), len(ids), x.dir, len(heads), len(kvHeads))
	return err
}

// numbers reads numbers below n and ranges of them, ascending; no text means all.
func numbers(flag, text string, n int) ([]int, error) {
	var all []int
	if text == "" {
		for i := range n {
			all = append(all, i)
		}
		return all, nil
	}
	for part := range strings.SplitSeq(text, ",") {
		first, last, ranged := strings.Cut(part, "-")
		from, err := strconv.Atoi(first)
		to := from
		if ranged && err == nil {
			to, err = strconv.Atoi(last)
		}
		if err != nil || from > to || len(all) > 0 && from <= all[len(all)-1] {
			return nil, usageError{fmt.Errorf("--%s is %q; want ascending numbers and ranges, such as 0,4-7", flag, text)}
		}
		if from < 0 || to >= n {
			return nil, usageError{fmt.Errorf("--%s is %q; the model has %d, from 0", flag, text, n)}
		}
		for i := from; i <= to; i++ {
			all = append(all, i)
		}
	}
	return all, nil
}

// readBy returns the heads of keys and values that query heads read, group of which share one: each once if equally many of
// those chosen read it, and else one for each.
func readBy(heads []int, group int) []int {
	each := make([]int, len(heads))
	readers := make(map[int]int)
	for i, h := range heads {
		each[i] = h / group
		readers[each[i]]++
	}
	for _, n := range readers {
		if n != readers[each[0]] {
			return each
		}
	}
	return slices.Compact(each)
}

// choose returns some of the heads of data, which are of equal size.
func choose(data []float32, heads []int, size int) []float32 {
	if len(heads)*size == len(data) && len(slices.Compact(slices.Clone(heads))) == len(heads) {
		return data
	}
	out := make([]float32, 0, len(heads)*size)
	for _, h := range heads {
		out = append(out, data[h*size:(h+1)*size]...)
	}
	return out
}

// list writes numbers with commas between them.
func list(numbers []int) string {
	var all []string
	for _, n := range numbers {
		all = append(all, strconv.Itoa(n))
	}
	return strings.Join(all, ",")
}
