package main

import (
	"strings"

	"github.com/anchorattention/anchor/bench"
	"github.com/spf13/cobra"
)

func newBench() *cobra.Command {
	c := &cobra.Command{
		Use:   "bench [flags]",
		Short: "Measure attention on synthetic heads",
		Long: `Bench measures methods of attention on synthetic heads, in single precision:
time, the share of the machine's peak, density (attended over causal pairs of row
and key) and recall (share of the true softmax mass on the keys attended).

At each length every method runs once with an audit of its recall, untimed, and
then takes turns with the others on the clock. GFLOP/s counts 2·heads·dim·n²
operations, those of dense attention, whatever a method leaves out; executed
GFLOP/s counts what it does.

Workloads: mixture has sink, local, stripe and diffuse heads in turn; in diffuse
every head is flat, so that there is nothing to leave out.

With --json, each result is an object on a line of its own, as soon as it is there:

  method             dense or anchor
  isa                level of the kernels: generic, avx2 or avx512
  dtype              type of the elements of queries, keys and values
  workload           kind of heads
  n                  tokens
  heads, kv_heads    query heads; key and value heads
  dim                numbers in a row of a head
  threads            goroutines computed on
  runs               timed runs
  seconds_median, seconds_min, seconds_max
                     of the timed runs
  gflops             GFLOP/s, counting the operations of dense attention
  executed_gflops    GFLOP/s, counting those that the method did
  density            attended over causal pairs of row and key
  recall_mean, recall_min
                     share of the true softmax mass, over the audited rows
  speedup_vs_dense   dense attention's median over this one; absent without dense
  stage_seconds      seconds in each stage of the run with the median time

The last line is {"peak": {"1": GFLOP/s, "2": …}}, the most that the multiply-add
units were seen to do on 1, 2, 4, … threads and on all that were asked for.`,
		Example: `  anchor bench
  anchor bench --lengths 32768,131072 --runs 3
  anchor bench --workload diffuse --methods dense,anchor --theta 6 --json`,
		Args:    takes(),
		PreRunE: checkKernels,
	}
	f := c.Flags()
	var cfg bench.Config
	f.IntSliceVar(&cfg.Lengths, "lengths", []int{1024, 4096, 16384}, "lengths to measure at, in `tokens`")
	f.IntVar(&cfg.Heads, "heads", 8, "query `heads`")
	f.IntVar(&cfg.KVHeads, "kv-heads", 2, "key and value `heads`, which divide the query heads")
	f.IntVar(&cfg.Dim, "dim", 128, "`numbers` in a row of a head, 16 to 256")
	names := f.StringSlice("methods", []string{"dense", "anchor"}, "`methods` to measure: "+strings.Join(methods, ", "))
	f.StringVar(&cfg.Workload, "workload", bench.Workloads()[0], "`kind` of heads: "+strings.Join(bench.Workloads(), ", "))
	f.IntVar(&cfg.Runs, "runs", 5, "timed `runs` of each method at each length")
	threads := threadsFlag(c)
	asJSON := jsonFlag(c, "results as lines of JSON")
	params := paramFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		for _, name := range *names {
			p, err := planner("methods", name, *params)
			if err != nil {
				return err
			}
			cfg.Methods = append(cfg.Methods, p)
		}
		cfg.Threads, cfg.Seed, cfg.AuditRows = *threads, 1, 64
		if err := cfg.Validate(); err != nil {
			return usageError{err}
		}
		if *asJSON {
			cfg.Result = func(r bench.Result) error { return printJSON(c.OutOrStdout(), r) }
		}
		bar := startProgress(c.ErrOrStderr(), "measuring")
		defer bar.end()
		cfg.Progress = bar.report
		report, err := bench.Run(c.Context(), cfg)
		if err != nil {
			return err
		}
		bar.end()
		if *asJSON {
			return printJSON(c.OutOrStdout(), map[string]bench.Peak{"peak": report.Peak})
		}
		return report.Write(c.OutOrStdout())
	}
	return c
}
