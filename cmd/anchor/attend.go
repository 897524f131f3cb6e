package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/parallel"
	"github.com/anchorattention/anchor/internal/safetensors"
	"github.com/anchorattention/anchor/report"
	"github.com/spf13/cobra"
)

func newAttend() *cobra.Command {
	c := &cobra.Command{
		Use:   "attend IN -o OUT [flags]",
		Short: "Attend to tensors in a safetensors file",
		Long: `Attend reads the tensors q, k and v from the safetensors file IN and writes the
attention's output o and log-sum-exp lse (natural logarithm) to OUT.

  q      [heads, queries, dim]      F32, BF16 or F16
  k, v   [KV heads, keys, dim]      F32, BF16 or F16
  o      [heads, queries, dim]      F32
  lse    [heads, queries]           F32

With a leading batch dimension on q, k and v, o and lse have one too. Other tensors
in IN are ignored. Heads are a multiple of KV heads, and query head h reads KV head
⌊h·KV heads/heads⌋. Attention is causal, the queries being the last of the keys'
positions: of 100 queries and 1000 keys the first query sees 901 keys.

With --stripes FILE, FILE gets the stripes that anchor found in compressed rows:
stripe_offsets (I64) and stripe_indices (I32), the keys of group g of head h being
indices[offsets[i]] … indices[offsets[i+1]−1] with i = h·groups + g. Groups count
from the first that holds a query. Of a batch, the rows of one sequence follow those
of the one before: i = (sequence·heads + h)·groups + g.

OUT and FILE are written beside and then renamed, FILE first: upon an error OUT is as it was.

With --json, one object is printed: method, isa, dtype, batch, heads, kv_heads, dim,
queries, keys, prompt, scale, threads, params (of anchor and auto; else null), knob
and value (the number that says how much the method keeps), choices (of heads for which
the method, or the target of recall, chose), seconds, stage_seconds, density, dense_share (of the groups of rows planned by head, those that
the method auto attended to densely), stripes, non_finite_rows, and recall {mean, p5,
min} if audited.`,
		Example: `  anchor attend qkv.safetensors -o out.safetensors
  anchor attend qkv.safetensors -o out.safetensors --theta 8 --audit 256
  anchor attend qkv.safetensors -o out.safetensors --audit 64 --target-recall 0.98
  anchor attend qkv.safetensors -o out.safetensors --method flexprefill=0.9 --json`,
		Args:    takes("IN"),
		PreRunE: checkKernels,
	}
	a := attend{}
	f := c.Flags()
	f.StringVarP(&a.out, "output", "o", "", "`file` to write, required")
	f.StringVar(&a.stripes, "stripes", "", "`file` to write the stripes to")
	f.StringVar(&a.method, "method", "anchor", "`method`, or method=value to set its knob: "+methodNames(true))
	f.Float32Var(&a.scale, "scale", 0, "`factor` on q·k (default 1/√dim)")
	f.IntVar(&a.prompt, "prompt", 0, "`positions` in the whole prompt, of which the tail is the end; 0 means as many as keys")
	f.IntVar(&a.audit, "audit", 0, "`rows` of each head whose exact recall is measured")
	f.Float64Var(&a.target, "target-recall", 0, "mean `recall` that the audit should find for each head: one below is done again at larger theta, at last densely")
	a.patterns = patternFlags(c)
	a.params = paramFlags(c)
	a.costs = costsFlag(c)
	a.threads = threadsFlag(c)
	a.device = deviceFlag(c)
	a.json = jsonFlag(c, "the measurements as one JSON object")
	c.RunE = func(c *cobra.Command, args []string) error {
		a.scaled = f.Changed("scale")
		return a.run(c, args[0])
	}
	return c
}

// attend is one run of the subcommand.
type attend struct {
	out, stripes, method string
	device               *string
	scale                float32
	scaled               bool // scale was given
	prompt, audit        int
	target               float64
	params               *anchor.Params
	patterns             *patterns
	chosen               chosen
	costs                *string
	threads              *int
	json                 *bool
}

func (a *attend) run(c *cobra.Command, in string) (err error) {
	if err := readParams(c, a.params); err != nil {
		return err
	}
	table, err := a.patterns.method()
	if err != nil {
		return err
	}
	if table != nil {
		if c.Flags().Changed("method") {
			return usageError{errors.New("--patterns with --method; want one of the two")}
		}
		a.chosen = chosen{Method: *table, params: *a.params}
	} else if a.chosen, err = method("method", a.method, *a.params, true); err != nil {
		return err
	}
	switch {
	case a.out == "":
		return usageError{errors.New("-o OUT is missing; want a file to write")}
	case a.stripes != "" && (!strings.HasPrefix(a.chosen.Name, "anchor") && a.chosen.Name != "auto" || a.chosen.Name == "anchor-block"):
		return usageError{fmt.Errorf("--stripes with --method %s, which has none; want --method anchor or auto", a.chosen.Name)}
	case *a.threads < 0:
		return usageError{fmt.Errorf("--threads is %d; want ≥ 0", *a.threads)}
	case !(a.target >= 0 && a.target <= 1):
		return usageError{fmt.Errorf("--target-recall is %v; want 0 (none) … 1", a.target)}
	case a.target > 0 && a.audit == 0:
		return usageError{fmt.Errorf("--target-recall is %v and --audit 0; want rows whose recall tells", a.target)}
	case a.audit < 0:
		return usageError{fmt.Errorf("--audit is %d; want ≥ 0", a.audit)}
	case a.prompt < 0:
		return usageError{fmt.Errorf("--prompt is %d; want ≥ 0", a.prompt)}
	case a.scaled && a.scale-a.scale != 0:
		return usageError{fmt.Errorf("--scale is %v; want a finite number", a.scale)}
	}
	costs, err := readCosts(*a.costs)
	if err != nil {
		return err
	}
	file, err := safetensors.Open(in)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := a.checkOutputs(in); err != nil {
		return err
	}
	b, err := readBatch(file)
	if err != nil {
		return err
	}
	engine, closeEngine, err := openDevice(*a.device)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, closeEngine()) }()

	bar := startProgress(c.ErrOrStderr(), "attending")
	defer bar.end()
	opt := anchor.Options{Planner: a.chosen.planner(), TargetRecall: a.target, Threads: *a.threads, AuditRows: a.audit, Stripes: a.stripes != "", Costs: costs, Engine: engine, Progress: bar.report}
	if a.scaled {
		opt.Scale = &a.scale
	}
	for i := range b.seqs {
		b.seqs[i].Prompt = a.prompt
	}
	res, err := anchor.Attend(c.Context(), opt, b.seqs...)
	if err != nil {
		if c.Context().Err() != nil {
			return err
		}
		return fmt.Errorf("%s: %s", in, strings.TrimPrefix(err.Error(), "anchor: "))
	}
	bar.end()

	// OUT comes last: when it is there, all went well.
	if a.stripes != "" {
		if err := writeStripes(c.Context(), a.stripes, res.StripeSets); err != nil {
			return err
		}
	}
	lead := b.q.Shape[:len(b.q.Shape)-1]
	err = safetensors.WriteFile(c.Context(), a.out, nil,
		safetensors.Tensor{Name: "o", DType: "F32", Shape: b.q.Shape, Data: b.o},
		safetensors.Tensor{Name: "lse", DType: "F32", Shape: lead, Data: b.lse})
	if err != nil {
		return err
	}
	if *a.json {
		return printJSON(c.OutOrStdout(), a.report(b, res))
	}
	return a.report(b, res).write(c.OutOrStdout())
}

// checkOutputs refuses, before any work is done, to write where one cannot or should not.
func (a *attend) checkOutputs(in string) error {
	input, err := os.Stat(in)
	if err != nil {
		return err
	}
	var outputs []os.FileInfo
	for _, o := range []struct{ name, path string }{{"-o", a.out}, {"--stripes", a.stripes}} {
		if o.path == "" {
			continue
		}
		if info, err := os.Stat(filepath.Dir(o.path)); err != nil {
			return fmt.Errorf("%s %s: %w", o.name, o.path, err)
		} else if !info.IsDir() {
			return fmt.Errorf("%s %s: %s is not a directory", o.name, o.path, filepath.Dir(o.path))
		}
		info, err := os.Stat(o.path)
		if err != nil {
			continue // not there yet
		}
		switch {
		case os.SameFile(info, input):
			return usageError{fmt.Errorf("%s %s is the input file; want another", o.name, o.path)}
		case !info.Mode().IsRegular():
			return fmt.Errorf("%s %s is not a regular file; want one, or a new name", o.name, o.path)
		}
		outputs = append(outputs, info)
	}
	if len(outputs) == 2 && os.SameFile(outputs[0], outputs[1]) || a.stripes != "" && filepath.Clean(a.stripes) == filepath.Clean(a.out) {
		return usageError{fmt.Errorf("-o and --stripes are both %s; want two files", a.out)}
	}
	return nil
}

// A batch is the tensors of a file as sequences, with outputs for them.
type batch struct {
	q, k, v safetensors.Info
	seqs    []anchor.Sequence
	o, lse  []float32
}

// readBatch views the tensors of a file, which stay where they are.
func readBatch(file *safetensors.File) (*batch, error) {
	var b batch
	var rank int
	for _, t := range []struct {
		name string
		info *safetensors.Info
	}{{"q", &b.q}, {"k", &b.k}, {"v", &b.v}} {
		info, ok := file.Info(t.name)
		if !ok {
			return nil, fmt.Errorf("%s: no tensor %q; want q, k and v", file.Name(), t.name)
		}
		*t.info = info
		if rank == 0 {
			rank = len(info.Shape)
		}
		switch {
		case len(info.Shape) != 3 && len(info.Shape) != 4:
			return nil, fmt.Errorf("%s: tensor %q has shape %v; want [heads, rows, dim], or a batch dimension before that", file.Name(), t.name, info.Shape)
		case len(info.Shape) != rank || rank == 4 && info.Shape[0] != b.q.Shape[0]:
			return nil, fmt.Errorf("%s: tensor %q has shape %v and q %v; want the same batch dimension, or none", file.Name(), t.name, info.Shape, b.q.Shape)
		case slices.Contains(info.Shape, 0):
			return nil, fmt.Errorf("%s: tensor %q has shape %v; want every size ≥ 1", file.Name(), t.name, info.Shape)
		}
	}
	size := 1
	if rank == 4 {
		size = b.q.Shape[0]
	}
	b.seqs = make([]anchor.Sequence, size)
	for _, t := range []struct {
		info safetensors.Info
		in   func(*anchor.Sequence) *anchor.Tensor
	}{
		{b.q, func(s *anchor.Sequence) *anchor.Tensor { return &s.Q }},
		{b.k, func(s *anchor.Sequence) *anchor.Tensor { return &s.K }},
		{b.v, func(s *anchor.Sequence) *anchor.Tensor { return &s.V }},
	} {
		if err := view(file, t.info, b.seqs, t.in); err != nil {
			return nil, err
		}
	}
	heads, rows, dim := sizes(b.q)
	b.o = make([]float32, size*heads*rows*dim)
	b.lse = make([]float32, size*heads*rows)
	for i := range b.seqs {
		b.seqs[i].O = anchor.FromFloat32(part(b.o, i, size), heads, rows, dim)
		b.seqs[i].LSE = anchor.FromFloat32(part(b.lse, i, size), heads, rows, 1)
	}
	return &b, nil
}

// sizes returns the sizes of a tensor's last three dimensions.
func sizes(t safetensors.Info) (heads, rows, dim int) {
	s := t.Shape[len(t.Shape)-3:]
	return s[0], s[1], s[2]
}

// part returns the i-th of n equal parts of data.
func part[T any](data []T, i, n int) []T {
	size := len(data) / n
	return data[i*size : (i+1)*size : (i+1)*size]
}

// view views a tensor of the file as one input of every sequence.
func view(file *safetensors.File, t safetensors.Info, seqs []anchor.Sequence, in func(*anchor.Sequence) *anchor.Tensor) error {
	heads, rows, dim := sizes(t)
	if t.DType == anchor.Float32.String() {
		data, err := file.Float32s(t.Name)
		if err != nil {
			return err
		}
		for i := range seqs {
			*in(&seqs[i]) = anchor.FromFloat32(part(data, i, len(seqs)), heads, rows, dim)
		}
		return nil
	}
	var from func(data []uint16, heads, rows, dim int) anchor.Tensor
	switch t.DType {
	case anchor.BFloat16.String():
		from = anchor.FromBFloat16
	case anchor.Float16.String():
		from = anchor.FromFloat16
	default:
		return fmt.Errorf("%s: tensor %q has element type %q; want F32, BF16 or F16", file.Name(), t.Name, t.DType)
	}
	data, err := file.Uint16s(t.Name)
	if err != nil {
		return err
	}
	for i := range seqs {
		*in(&seqs[i]) = from(part(data, i, len(seqs)), heads, rows, dim)
	}
	return nil
}

// writeStripes writes the stripes of all sequences as one list of rows.
func writeStripes(ctx context.Context, path string, sets []anchor.StripeSet) error {
	offsets, indices := []int64{0}, []int32{}
	for _, s := range sets {
		for _, to := range s.Offsets[1:] {
			offsets = append(offsets, int64(len(indices))+to)
		}
		indices = append(indices, s.Indices...)
	}
	return safetensors.WriteFile(ctx, path, nil,
		safetensors.Tensor{Name: "stripe_offsets", DType: "I64", Shape: []int{len(offsets)}, Data: offsets},
		safetensors.Tensor{Name: "stripe_indices", DType: "I32", Shape: []int{len(indices)}, Data: indices})
}

// An attendReport is what the subcommand prints.
type attendReport struct {
	Method        string             `json:"method"`
	ISA           string             `json:"isa"`
	DType         string             `json:"dtype"` // of q, k and v, or of each if they differ, as in F32/BF16/BF16
	Batch         int                `json:"batch"`
	Heads         int                `json:"heads"`
	KVHeads       int                `json:"kv_heads"`
	Dim           int                `json:"dim"`
	Queries       int                `json:"queries"`
	Keys          int                `json:"keys"`
	Prompt        int                `json:"prompt"`
	Scale         float32            `json:"scale"`
	Threads       int                `json:"threads"`
	Params        *anchor.Params     `json:"params"`
	Knob          string             `json:"knob,omitempty"`
	Value         *report.Number     `json:"value,omitempty"`
	Choices       []choice           `json:"choices,omitempty"`
	Seconds       float64            `json:"seconds"`
	StageSeconds  map[string]float64 `json:"stage_seconds"`
	Density       float64            `json:"density"`
	DenseShare    float64            `json:"dense_share"` // of the groups planned by head
	Stripes       int64              `json:"stripes"`
	NonFiniteRows int64              `json:"non_finite_rows"`
	Recall        *anchor.Recall     `json:"recall,omitempty"`
}

// A choice is what was chosen for a head.
type choice struct {
	Head   int    `json:"head"`
	Choice string `json:"choice"`
}

func (a *attend) report(b *batch, res *anchor.Result) attendReport {
	heads, queries, dim := sizes(b.q)
	kvHeads, keys, _ := sizes(b.k)
	r := attendReport{
		Method: res.Method, ISA: res.ISA, DType: b.q.DType, Batch: len(b.seqs),
		Heads: heads, KVHeads: kvHeads, Dim: dim, Queries: queries, Keys: keys, Prompt: a.prompt, Scale: a.scale,
		Threads: parallel.Threads(*a.threads), Params: a.chosen.report(), Knob: a.chosen.Knob,
		Seconds: res.Seconds, StageSeconds: res.StageSeconds(),
		Density: res.Density(), DenseShare: res.DenseShare(), Stripes: res.Stripes, NonFiniteRows: res.NonFiniteRows,
	}
	if b.k.DType != b.q.DType || b.v.DType != b.q.DType {
		r.DType = b.q.DType + "/" + b.k.DType + "/" + b.v.DType
	}
	if !a.scaled {
		r.Scale = float32(1 / math.Sqrt(float64(dim)))
	}
	if r.Prompt == 0 {
		r.Prompt = keys
	}
	r.Method = a.chosen.Name
	if a.chosen.exact() && len(a.chosen.params.HeadTheta) > 0 {
		r.Knob = "" // params say
	}
	if r.Knob != "" {
		value := report.Number(a.chosen.value)
		r.Value = &value
	}
	for h, head := range res.Heads {
		if head.Choice != "" && (a.target > 0 || !a.chosen.exact()) {
			r.Choices = append(r.Choices, choice{h, head.Choice})
		}
	}
	if len(res.Audit) > 0 {
		r.Recall = &res.Recall
	}
	return r
}

func (r attendReport) write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "method\t%s (%s, threads: %d)\n", r.Method, r.ISA, r.Threads)
	fmt.Fprintf(t, "tensors\t%s, batch %d, heads %d, KV heads %d, dim %d, queries %d, keys %d\n",
		r.DType, r.Batch, r.Heads, r.KVHeads, r.Dim, r.Queries, r.Keys)
	var parts []string
	for _, s := range append(stages(), anchor.StageAudit.String()) {
		if seconds := r.StageSeconds[s]; seconds > 0 {
			parts = append(parts, fmt.Sprintf("%s %.3f", s, seconds))
		}
	}
	fmt.Fprintf(t, "seconds\t%.3f (%s)\n", r.Seconds, strings.Join(parts, ", "))
	fmt.Fprintf(t, "density\t%.2f %%, stripes: %d", 100*r.Density, r.Stripes)
	if r.Method == "auto" {
		fmt.Fprintf(t, ", groups that went dense: %.0f %%", 100*r.DenseShare)
	}
	fmt.Fprintln(t)
	if r.Recall != nil {
		fmt.Fprintf(t, "recall\tmean %.5f, 5th percentile %.5f, minimum %.5f\n", r.Recall.Mean, r.Recall.P5, r.Recall.Min)
	}
	for _, c := range r.Choices {
		fmt.Fprintf(t, "head %d\t%s\n", c.Head, c.Choice)
	}
	if r.NonFiniteRows > 0 {
		fmt.Fprintf(t, "warning\trows of o with a NaN or an infinity: %d\n", r.NonFiniteRows)
	}
	return t.Flush()
}
