// Command peers times Anchor beside other libraries on the same inputs, taking turns in one run: ONNX Runtime's
// GroupQueryAttention, and OpenBLAS's matrix product as a yardstick. See peers -help and README.md.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/anchorattention/anchor/internal/workload"
)

const usage = `Peers times Anchor beside other libraries on the same inputs: synthetic heads in
single precision (and rounded copies in bfloat16), causal, nothing cached before.
Contestants take turns, so that a slow minute of the machine falls on all of them:

  anchor/dense, /anchor, /auto Anchor's methods, on F32 and on BF16 inputs
  ort/gqa                      ONNX Runtime's operator GroupQueryAttention, F32
  openblas/sgemm-N             OpenBLAS's product of two N×N matrices, a yardstick

The rate at which the machine multiplies and adds is measured before, between and
after the runs of each round. Rounds in which it fell under 90 % of the best do not
count, unless they are more than half: then all count, and the output says so.

Usage: peers [flags]

  export ORT_LIBRARY="$(./setup.sh)"
  unset OPENBLAS_CORETYPE OPENBLAS_L2_SIZE
  go run . -lengths 1024,4096 -rounds 5

Flags:
`

const columns = `ms, min and max are the median and the range over the rounds that count. GFLOP/s
counts dense causal attention, 2·heads·dim·n², whatever a method leaves out. × dense
is GFLOP/s over those of anchor/dense in F32 in the same round: median and range.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the program at once
	os.Exit(run(ctx, os.Args[1:], os.Stdout, os.Stderr))
}

// run runs the command line args and returns the exit status: 0, 1 upon an error, 2 when the command line is wrong.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	c, err := parse(args, stdout)
	status := 2
	if err == nil {
		err = c.run(ctx, stdout, stderr)
		status = 1
	}
	switch {
	case err == nil || errors.Is(err, flag.ErrHelp):
		return 0
	case ctx.Err() != nil && errors.Is(err, ctx.Err()):
		err = errors.New("interrupted")
	}
	fmt.Fprintf(stderr, "peers: %s\n", err)
	return status
}

// config is what the command line asks for.
type config struct {
	lengths             []int
	heads, kvHeads, dim int
	rounds, threads     int
	product             int
	workload            *workload.Workload
	ort                 string
	json                bool
}

// parse reads the command line. Help goes to stdout.
func parse(args []string, stdout io.Writer) (*config, error) {
	c := &config{lengths: []int{1024, 4096, 16384}}
	f := flag.NewFlagSet("peers", flag.ContinueOnError)
	f.SetOutput(io.Discard) // errors are printed once, by run
	f.Func("lengths", "`tokens` to measure at, separated by commas (default 1024,4096,16384)", func(s string) (err error) {
		c.lengths = nil
		for field := range strings.SplitSeq(s, ",") {
			n, err := strconv.Atoi(field)
			if err != nil || n < 1 {
				return fmt.Errorf("length is %q; want a number ≥ 1", field)
			}
			c.lengths = append(c.lengths, n)
		}
		return nil
	})
	f.IntVar(&c.heads, "heads", 8, "query `heads`")
	f.IntVar(&c.kvHeads, "kv-heads", 2, "key and value `heads`, which divide the query heads")
	f.IntVar(&c.dim, "dim", 128, "`numbers` in a row of a head, 16 to 256")
	f.IntVar(&c.rounds, "rounds", 7, "`rounds` at each length")
	f.IntVar(&c.threads, "threads", 0, "`threads` of every contestant; 0 means one for each core")
	f.IntVar(&c.product, "product", 2048, "`size` of OpenBLAS's matrices; 0 leaves it out")
	name := f.String("workload", workload.Names()[0], "`kind` of heads: "+strings.Join(workload.Names(), ", "))
	f.StringVar(&c.ort, "ort", os.Getenv("ORT_LIBRARY"), "`path` of libonnxruntime.so; by default ORT_LIBRARY of the environment")
	f.BoolVar(&c.json, "json", false, "print lines of JSON: the setup, each result as soon as it is there, the peak")
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			io.WriteString(stdout, usage)
			f.SetOutput(stdout)
			f.PrintDefaults()
			io.WriteString(stdout, "\nColumns:\n\n"+columns)
		}
		return nil, err
	}
	const most = 1 << 14 // a product of that size takes minutes
	switch {
	case f.NArg() > 0:
		return nil, fmt.Errorf("argument is %q; want flags alone", f.Arg(0))
	case c.rounds < 1:
		return nil, fmt.Errorf("-rounds is %d; want ≥ 1", c.rounds)
	case c.threads < 0:
		return nil, fmt.Errorf("-threads is %d; want ≥ 0", c.threads)
	case c.product < 0 || c.product > most:
		return nil, fmt.Errorf("-product is %d; want 0 … %d", c.product, most)
	}
	for _, n := range c.lengths {
		if err := c.size(n).workload().Validate(); err != nil {
			return nil, err
		}
	}
	var err error
	if c.workload, err = workload.Lookup(*name); err != nil {
		return nil, fmt.Errorf("-workload: %w", err)
	}
	if c.threads == 0 {
		c.threads = runtime.GOMAXPROCS(0)
	}
	return c, nil
}

func (c *config) size(n int) size {
	return size{length: n, heads: c.heads, kvHeads: c.kvHeads, dim: c.dim}
}

// A setup is what was compared, and how.
type setup struct {
	Workload     string  `json:"workload"`
	Heads        int     `json:"heads"`
	KVHeads      int     `json:"kv_heads"`
	Dim          int     `json:"dim"`
	Threads      int     `json:"threads"`
	ISA          string  `json:"isa"`           // level of Anchor's kernels
	Peak         float64 `json:"peak_gflops"`   // multiply-add rate in single precision, at the start
	ORT          string  `json:"ort"`           // version; empty if skipped
	OpenBLAS     string  `json:"openblas"`      // version and options of the build; empty if skipped
	OpenBLASCore string  `json:"openblas_core"` // core type whose kernels it runs
}

// run measures and prints.
func (c *config) run(ctx context.Context, stdout, stderr io.Writer) error {
	p, err := newPeak(c.threads)
	if err != nil {
		return err
	}
	s := setup{
		Workload: c.workload.Name, Heads: c.heads, KVHeads: c.kvHeads, Dim: c.dim, Threads: c.threads,
		ISA: p.set.Name(), Peak: p.best,
	}
	if c.ort == "" {
		fmt.Fprintln(stderr, "peers: ONNX Runtime is skipped: neither -ort nor ORT_LIBRARY names its library (see setup.sh)")
	} else {
		if s.ORT, err = openORT(c.ort); err != nil {
			return err
		}
		defer closeORT()
	}
	if c.product > 0 {
		s.OpenBLAS, s.OpenBLASCore = openBLAS()
		if err := setBLASThreads(c.threads); err != nil {
			return err
		}
	}
	out := json.NewEncoder(stdout)
	if c.json {
		err = out.Encode(map[string]setup{"setup": s})
	} else {
		err = s.write(stdout)
	}
	if err != nil {
		return err
	}
	for _, n := range c.lengths {
		results, err := c.length(ctx, n, p)
		if err != nil {
			return err
		}
		if !c.json {
			if err := writeTable(stdout, results); err != nil {
				return err
			}
			continue
		}
		for _, r := range results {
			if err := out.Encode(r); err != nil {
				return err
			}
		}
	}
	if c.json {
		return out.Encode(map[string]float64{"peak_gflops": p.best})
	}
	_, err = fmt.Fprintf(stdout, "\n%sThe peak is the most that the multiply-add units were seen to do: %.0f GFLOP/s.\n", columns, p.best)
	return err
}

// length measures all contestants at one length.
func (c *config) length(ctx context.Context, n int, p *peak) ([]result, error) {
	s := c.size(n)
	d, err := generate(c.workload, s, c.threads)
	if err != nil {
		return nil, err
	}
	cs := anchors(s, d, c.threads)
	if c.ort != "" {
		peer, closePeer, err := ortAttention(s, d, make([]float32, len(d.q)), c.threads)
		if err != nil {
			return nil, err
		}
		defer closePeer()
		cs = append(cs, peer)
	}
	if c.product > 0 {
		cs = append(cs, product(c.product))
	}
	runtime.GC() // data of another length are no business of the runs to come
	rounds, diffs, err := measure(ctx, cs, c.rounds, p)
	if err != nil {
		return nil, err
	}
	return summarize(n, cs, rounds, diffs, p.best), nil
}

// write writes the setup for people.
func (s *setup) write(w io.Writer) error {
	var out strings.Builder
	fmt.Fprintf(&out, "%s heads: %d over %d KV heads, dim %d; threads: %d; anchor: %s\n",
		s.Workload, s.Heads, s.KVHeads, s.Dim, s.Threads, s.ISA)
	if s.ORT != "" {
		fmt.Fprintf(&out, "ONNX Runtime: %s\n", s.ORT)
	}
	if s.OpenBLAS != "" {
		fmt.Fprintf(&out, "OpenBLAS: core type %s (%s)\n", s.OpenBLASCore, strings.TrimSpace(s.OpenBLAS))
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// writeTable writes the results of one length for people.
func writeTable(w io.Writer, results []result) error {
	var out strings.Builder
	r := results[0]
	fmt.Fprintf(&out, "\n%d tokens, %d of %d rounds", r.N, r.Kept, r.Rounds)
	if r.Noisy {
		out.WriteString(" (the machine was slow in more than half of them: all count)")
	}
	out.WriteString("\n")
	t := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "contestant\tinputs\tms\tmin\tmax\tGFLOP/s\tof peak\t× dense\tmin\tmax\tmax diff\t")
	for _, r := range results {
		diff := "–"
		if r.MaxDiff != nil {
			diff = fmt.Sprintf("%.1e", *r.MaxDiff)
		}
		fmt.Fprintf(t, "%s\t%s\t%.4g\t%.4g\t%.4g\t%.1f\t%.0f %%\t%.2f\t%.2f\t%.2f\t%s\t\n",
			r.Contestant, r.DType, 1e3*r.Seconds.Median, 1e3*r.Seconds.Min, 1e3*r.Seconds.Max, r.GFLOPS, 100*r.PeakShare,
			r.VsDense.Median, r.VsDense.Min, r.VsDense.Max, diff)
	}
	t.Flush()
	_, err := io.WriteString(w, out.String())
	return err
}
