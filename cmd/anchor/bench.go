package main

import (
	"errors"
	"strings"

	"github.com/anchorattention/anchor/bench"
	"github.com/spf13/cobra"
)

func newBench() *cobra.Command {
	c := &cobra.Command{
		Use:   "bench [flags]",
		Short: "Measure attention on synthetic heads",
		Long: `Bench measures methods of attention on synthetic heads: time, the share of what
the machine can do, density (attended over causal pairs of row and key) and recall
(share of the true softmax mass on the keys attended).

At each length every contestant (a method, a type of inputs and a number of
threads) runs once with an audit of its recall, untimed, and then takes turns with
the others on the clock, for so many rounds. Ratios are taken within rounds. What
the machine can do is measured beside each run; rounds in which it was doing other
things are left out.

With --device cuda times are the device's own, without copying from and to it, and
nothing is said of peaks.

GFLOP/s counts the operations of dense attention, whatever a method leaves out;
executed GFLOP/s counts what it does.

Workloads: mixture has sink, local, stripe and diffuse heads in turn; mixed has all
kinds, with slashes, spikes and bursts; rotary is mixed under a rotary embedding; in
diffuse every head is flat, so that there is nothing to leave out; others have heads of
one kind.

With --json, each result is an object on a line of its own, as soon as all of its
length are there:

  method             of those that --methods names
  isa                level of the kernels: generic, avx2, avx512, avx512bf16, amx
                     or neon
  dtype              type of the elements of queries, keys and values
  workload           kind of heads
  n, queries         tokens, and how many of them ask
  heads, kv_heads    query heads; key and value heads
  dim                numbers in a row of a head
  threads            goroutines computed on
  runs, runs_kept    timed rounds, and those quiet enough to count
  noisy              less than half were, so that all count
  seconds_median, seconds_min, seconds_max
                     of one call
  gflops             GFLOP/s, counting the operations of dense attention
  executed_gflops    GFLOP/s, counting those that the method did
  of_peak            that over the peak measured beside: of multiply-adds in single
                     precision or, with pairs, of products of bfloat16 pairs
  of_read, read_gbs  of up to 64 queries: keys and values read in GB/s, and that
                     over the rate at which memory can be read
  density            attended over causal pairs of row and key
  dense_share        of the groups planned by head, those that went dense
  recall_mean, recall_min
                     share of the true softmax mass, over the audited rows
  scratch_mib_per_thread
                     memory beyond inputs and outputs
  speedup_vs_dense   dense attention's median over this one; absent without dense
  time_vs_dense, rate_vs_dense
                     time and executed rate over dense's in the same round:
                     {median, low, high}, the last two a 95 % confidence interval
  speedup_vs_threads over the first number of threads, likewise
  stage_seconds      seconds in each stage of the run nearest to the median time

The last line is {"peak": {"1": GFLOP/s, "2": …}, "dot_peak": …, "read_peak": …,
"growth": […]}: the most that the machine was seen to do on 1, 2, 4, … threads and on
all that were asked for, and how times grew from each length to the next.`,
		Example: `  anchor bench
  anchor bench --lengths 32768,131072 --runs 3 --dtypes F32,BF16
  anchor bench --lengths 4096 --methods dense,auto --workload diffuse --runs 200
  anchor bench --lengths 8192 --threads 1,2 --methods dense
  anchor bench --lengths 32768 --queries 1 --methods dense --json
  anchor bench --lengths 131072 --heads 32 --kv-heads 8 --dtypes BF16 --device cuda`,
		Args:    takes(),
		PreRunE: checkKernels,
	}
	f := c.Flags()
	var cfg bench.Config
	f.IntSliceVar(&cfg.Lengths, "lengths", []int{1024, 4096, 16384}, "lengths to measure at, in `tokens`")
	f.IntVar(&cfg.Heads, "heads", 8, "query `heads`")
	f.IntVar(&cfg.KVHeads, "kv-heads", 2, "key and value `heads`, which divide the query heads")
	f.IntVar(&cfg.Dim, "dim", 128, "`numbers` in a row of a head, 16 to 256")
	f.IntVar(&cfg.Queries, "queries", 0, "how many of the `tokens`, the last ones, ask; 0 means all")
	names := f.StringSlice("methods", []string{"dense", "anchor"}, "`methods` to measure, or method=value to set its knob: "+methodNames(true))
	dtypes := f.StringSlice("dtypes", []string{"F32"}, "`types` of queries, keys and values: F32, BF16, F16")
	f.StringVar(&cfg.Workload, "workload", bench.Workloads()[0], "`kind` of heads: "+strings.Join(bench.Workloads(), ", "))
	f.IntVar(&cfg.Runs, "runs", 5, "timed `rounds` at each length")
	f.IntSliceVar(&cfg.Threads, "threads", []int{0}, "`goroutines` to compute on; 0 means one per core")
	costs := costsFlag(c)
	device := deviceFlag(c)
	asJSON := jsonFlag(c, "results as lines of JSON")
	params := paramFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) (err error) {
		if err := readParams(c, params); err != nil {
			return err
		}
		for _, name := range *names {
			m, err := method("methods", name, *params, true)
			if err != nil {
				return err
			}
			cfg.Methods = append(cfg.Methods, m.planner())
		}
		for _, name := range *dtypes {
			d, err := dtype("dtypes", name)
			if err != nil {
				return err
			}
			cfg.DTypes = append(cfg.DTypes, d)
		}
		cfg.Seed, cfg.AuditRows = 1, 64
		if err := cfg.Validate(); err != nil {
			return usageError{err}
		}
		if *asJSON {
			cfg.Result = func(r bench.Result) error { return printJSON(c.OutOrStdout(), r) }
		}
		if cfg.Costs, err = readCosts(*costs); err != nil {
			return err
		}
		engine, closeEngine, err := openDevice(*device)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, closeEngine()) }()
		cfg.Engine = engine
		bar := startProgress(c.ErrOrStderr(), "measuring")
		defer bar.end()
		cfg.Progress = bar.report
		report, err := bench.Run(c.Context(), cfg)
		if err != nil {
			return err
		}
		bar.end()
		if *asJSON {
			return printJSON(c.OutOrStdout(), report)
		}
		return report.Write(c.OutOrStdout())
	}
	return c
}
