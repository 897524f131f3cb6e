package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/anchorattention/anchor/model"
	"github.com/spf13/cobra"
)

func newInspect() *cobra.Command {
	c := &cobra.Command{
		Use:   "inspect MODEL [flags]",
		Short: "Say what a model is, and what it takes",
		Long: `Inspect opens a model and prints its architecture and sizes, what is particular to its
decoder block, the types and the memory of its weights, and the memory of the keys and
values of a text of --length tokens for each --cache-type of "anchor run".

MODEL is ` + modelNames + `

With --json, one object is printed: model, architecture, parameters, vocab, hidden,
intermediate, layers, heads, kv_heads, head_dim, context, rope {theta, scaling, factor,
original_context, attention_factor}, windows (keys that a row of each layer sees, 0 for
all; none if all layers see all), qkv_bias, qk_norm, tied, weights [{type, tensors,
parameters, bytes}], weight_bytes, length, cache_bytes (by cache type), tokenizer, bos and eos.`,
		Example: `  anchor inspect ./SmolLM2-135M
  anchor inspect qwen2.5-7b-instruct-q4_k_m.gguf --length 131072`,
		Args:    takes("MODEL"),
		PreRunE: checkKernels,
	}
	length := c.Flags().Int("length", 0, "`tokens` of the text whose keys and values are counted; 0 means the model's context")
	asJSON := jsonFlag(c, "what there is as one JSON object")
	c.RunE = func(c *cobra.Command, args []string) (err error) {
		if *length < 0 {
			return usageError{fmt.Errorf("--length is %d; want ≥ 0", *length)}
		}
		m, err := openCheckpoint(args[0])
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, m.Close()) }()
		i, err := inspect(args[0], m, *length)
		if err != nil {
			return err
		}
		if *asJSON {
			return printJSON(c.OutOrStdout(), i)
		}
		return i.write(c.OutOrStdout())
	}
	return c
}

// An inspection is what inspect reports of a model.
type inspection struct {
	Model        string        `json:"model"`
	Architecture string        `json:"architecture"`
	Parameters   int64         `json:"parameters"`
	Vocab        int           `json:"vocab"`
	Hidden       int           `json:"hidden"`
	Intermediate int           `json:"intermediate"`
	Layers       int           `json:"layers"`
	Heads        int           `json:"heads"`
	KVHeads      int           `json:"kv_heads"`
	HeadDim      int           `json:"head_dim"`
	Context      int           `json:"context"`
	Rope         inspectedRope `json:"rope"`
	Windows      []int         `json:"windows"`
	QKVBias      bool          `json:"qkv_bias"`
	QKNorm       bool          `json:"qk_norm"`
	Tied         bool          `json:"tied"`
	Weights      []typeWeights `json:"weights"` // by type, the largest first
	WeightBytes  int64         `json:"weight_bytes"`
	Length       int           `json:"length"`
	Tokenizer    string        `json:"tokenizer"` // "" if there is none at hand
	BOS          int32         `json:"bos"`       // −1 for none
	EOS          []int32       `json:"eos"`

	CacheBytes map[string]int64 `json:"cache_bytes"` // of as many tokens, in whole pages, by cache type
}

type inspectedRope struct {
	Theta     float64 `json:"theta"`
	Scaling   string  `json:"scaling"`
	Factor    float64 `json:"factor,omitempty"`
	Original  int     `json:"original_context,omitempty"`
	Attention float64 `json:"attention_factor,omitempty"`
}

type typeWeights struct {
	Type       string `json:"type"`
	Tensors    int    `json:"tensors"`
	Parameters int64  `json:"parameters"`
	Bytes      int64  `json:"bytes"`
}

func inspect(name string, m *checkpoint, length int) (*inspection, error) {
	c := m.Config()
	if length == 0 {
		length = c.MaxPositions
	}
	s := c.RopeScaling
	i := &inspection{
		Model: name, Architecture: c.Architecture, Vocab: c.Vocab, Hidden: c.Hidden, Intermediate: c.Intermediate,
		Layers: c.Layers, Heads: c.Heads, KVHeads: c.KVHeads, HeadDim: c.HeadDim, Context: c.MaxPositions,
		Rope:    inspectedRope{c.RopeTheta, s.Type, s.Factor, s.Original, s.Attention},
		Windows: c.Windows, QKVBias: c.QKVBias, QKNorm: c.QKNorm, Tied: c.Tied,
		Length: length, BOS: c.BOS, EOS: c.EOS, CacheBytes: map[string]int64{},
	}
	pages := int64(length+model.PageTokens-1) / model.PageTokens
	for _, t := range cacheTypes {
		pool, err := m.NewPool(t.dtype, math.MaxInt64)
		if err != nil {
			return nil, err
		}
		i.CacheBytes[t.name] = pages * pool.PageBytes()
	}
	for _, w := range m.Weights() {
		elements := int64(1)
		for _, n := range w.Shape {
			elements *= int64(n)
		}
		at := slices.IndexFunc(i.Weights, func(t typeWeights) bool { return t.Type == w.Type })
		if at < 0 {
			at = len(i.Weights)
			i.Weights = append(i.Weights, typeWeights{Type: w.Type})
		}
		t := &i.Weights[at]
		t.Tensors++
		t.Parameters += elements
		t.Bytes += int64(w.Bytes)
		i.Parameters += elements
		i.WeightBytes += int64(w.Bytes)
	}
	slices.SortStableFunc(i.Weights, func(a, b typeWeights) int { return int(b.Bytes - a.Bytes) })
	var err error
	i.Tokenizer, err = m.tokenizerKind()
	return i, err
}

// tokenizerKind says what tokenizer a model has, "" if there is none beside it.
func (c *checkpoint) tokenizerKind() (string, error) {
	if meta := c.Metadata(); meta != nil {
		v := meta.Vocabulary
		if v.Pre != "" {
			return v.Model + ", " + v.Pre, nil
		}
		return v.Model, nil
	}
	path := filepath.Join(c.path, tokenizerFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	var file struct {
		Model struct {
			Type string `json:"type"`
		} `json:"model"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return "", fmt.Errorf("%s: %w", path, err)
	}
	return file.Model.Type, nil
}

func (i *inspection) write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 3, ' ', 0)
	row := func(name, format string, values ...any) { fmt.Fprintf(t, name+"\t"+format+"\n", values...) }
	row("architecture", "%s", i.Architecture)
	row("parameters", "%.4g million", float64(i.Parameters)/1e6)
	row("layers", "%d, %d wide, MLP %d wide", i.Layers, i.Hidden, i.Intermediate)
	row("heads", "%d over %d of keys and values, %d wide", i.Heads, i.KVHeads, i.HeadDim)
	if extras := i.extras(); extras != "" {
		row("with", "%s", extras)
	}
	row("windows", "%s", windowRanges(i.Windows))
	row("rotary embedding", "%s", i.Rope.describe())
	row("context", "%d tokens", i.Context)
	row("vocabulary", "%d tokens", i.Vocab)
	if i.Tokenizer != "" {
		row("tokenizer", "%s", oneLine(i.Tokenizer))
	}
	if i.BOS >= 0 {
		row("begins with", "token %d", i.BOS)
	}
	if len(i.EOS) > 0 {
		row("ends with", "token %s", strings.ReplaceAll(strings.Trim(fmt.Sprint(i.EOS), "[]"), " ", ", "))
	}
	row("weights", "%s", bytesText(i.WeightBytes))
	for _, k := range i.Weights {
		row("  "+k.Type, "%s, %d tensors", bytesText(k.Bytes), k.Tensors)
	}
	row("keys and values", "of %d tokens", i.Length)
	for _, t := range cacheTypes {
		row("  "+t.name, "%s", bytesText(i.CacheBytes[t.name]))
	}
	return t.Flush()
}

// extras lists what not every decoder block has.
func (i *inspection) extras() string {
	var all []string
	for _, e := range []struct {
		there bool
		name  string
	}{{i.QKVBias, "biases of queries, keys and values"}, {i.QKNorm, "norms of queries and keys"}, {i.Tied, "the embedding for a head"}} {
		if e.there {
			all = append(all, e.name)
		}
	}
	return strings.Join(all, ", ")
}

func (r inspectedRope) describe() string {
	text := fmt.Sprintf("theta %g", r.Theta)
	if r.Scaling != "" {
		text += ", scaling " + r.Scaling
	}
	if r.Factor != 0 {
		text += fmt.Sprintf(" by %g", r.Factor)
	}
	if r.Original != 0 {
		text += fmt.Sprintf(" from %d tokens", r.Original)
	}
	return text
}

// windowRanges describes windows by runs of layers.
func windowRanges(windows []int) string {
	var runs []string
	for from := 0; from < len(windows); {
		to := from + 1
		for to < len(windows) && windows[to] == windows[from] {
			to++
		}
		if w := windows[from]; w != 0 {
			layers := fmt.Sprintf("layers %d to %d", from, to-1)
			if to == from+1 {
				layers = fmt.Sprintf("layer %d", from)
			}
			runs = append(runs, fmt.Sprintf("%d keys in %s", w, layers))
		}
		from = to
	}
	if runs == nil {
		return "none"
	}
	return strings.Join(runs, ", ")
}

// bytesText writes a number of bytes for people.
func bytesText(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.2f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%.1f KiB", float64(n)/(1<<10))
}
