package bench

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Write writes the report as tables for people.
func (r *Report) Write(w io.Writer) error {
	var out strings.Builder
	if len(r.Results) > 0 {
		c := r.Results[0]
		fmt.Fprintf(&out, "%s heads: %d over %d KV heads, dim %d; %s; median of %d\n\n", c.Workload, c.Heads, c.KVHeads, c.Dim, c.ISA, c.Runs)
	}
	t := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "tokens\tmethod\ttype\tthreads\tseconds\tmin\tmax\tGFLOP/s\texecuted\tof peak\toverhead\tdensity\trecall\tmin\tMiB\tspeedup\t")
	for _, c := range r.Results {
		speedup, mark := "–", ""
		if c.SpeedupVsDense > 0 {
			speedup = fmt.Sprintf("%.2f×", c.SpeedupVsDense)
		}
		if c.Noisy {
			mark = " !"
		}
		peak, scratch := "–", "–" // of an engine
		if c.OfPeak > 0 {
			peak, scratch = fmt.Sprintf("%.1f %%", 100*c.OfPeak), fmt.Sprintf("%.1f", c.ScratchMiB)
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%d\t%.4g\t%.4g\t%.4g\t%.1f\t%.1f\t%s\t%.1f %%\t%.1f %%\t%.4f\t%.4f\t%s\t%s%s\t\n",
			c.N, c.Method, c.DType, c.Threads, c.Seconds, c.SecondsMin, c.SecondsMax, c.GFLOPS, c.ExecutedGFLOPS,
			peak, 100*c.overhead(), 100*c.Density, c.RecallMean, c.RecallMin, scratch, speedup, mark)
	}
	t.Flush()
	r.writeRatios(&out)
	out.WriteString(`
GFLOP/s counts the work of dense attention, executed what the method did of it, of peak
the rate of that over what the machine could do beside it. Overhead is the time spent
searching and gathering keys; MiB is memory beyond inputs and outputs, by thread. Rounds
in which the machine was doing other things are left out, unless most were, marked by !.

`)
	for _, p := range []struct {
		what, unit string
		peak       Peak
	}{{"multiply-adds", "GFLOP/s", r.FMA}, {"products of pairs", "GFLOP/s", r.Dot}, {"memory read", "GB/s", r.Read}} {
		if len(p.peak) == 0 {
			continue
		}
		fmt.Fprintf(&out, "Most seen of %s:", p.what)
		for _, n := range slices.Sorted(maps.Keys(p.peak)) {
			fmt.Fprintf(&out, " %.4g %s on %d,", p.peak[n], p.unit, n)
		}
		text := strings.TrimSuffix(out.String(), ",")
		out.Reset()
		out.WriteString(text + ".\n")
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// overhead is the share of time spent searching and gathering.
func (r *Result) overhead() float64 {
	return (r.StageSeconds["search"] + r.StageSeconds["gather"]) / r.Seconds
}

// writeRatios writes what only some reports have: ratios within rounds, and how time grew with length.
func (r *Report) writeRatios(out *strings.Builder) {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	for _, c := range r.Results {
		who := fmt.Sprintf("%d\t%s\t%s\t%d threads\t", c.N, c.Method, c.DType, c.Threads)
		if c.TimeVsDense != nil && c.Method != "dense" {
			fmt.Fprintf(t, "%stime over dense's %s; rate over dense's %s", who, c.TimeVsDense, c.RateVsDense)
			if c.DenseShare > 0 {
				fmt.Fprintf(t, "; %.0f %% of groups went dense", 100*c.DenseShare)
			}
			fmt.Fprintln(t)
		}
		if c.Scaling != nil {
			fmt.Fprintf(t, "%s%s times as fast as on fewer threads\n", who, c.Scaling)
		}
		if c.OfRead > 0 {
			fmt.Fprintf(t, "%skeys and values read at %.1f GB/s, %.0f %% of what memory gives\n", who, c.ReadGBs, 100*c.OfRead)
		}
	}
	for _, g := range r.Growth {
		fmt.Fprintf(t, "%d → %d\t%s\t%s\t%d threads\ttime grows with length^%.2f", g.From, g.To, g.Method, g.DType, g.Threads, g.Exponent)
		for _, stage := range slices.Sorted(maps.Keys(g.Stages)) {
			fmt.Fprintf(t, ", %s^%.2f", stage, g.Stages[stage])
		}
		fmt.Fprintln(t)
	}
	before := out.Len()
	t.Flush()
	if out.Len() > before {
		text := out.String()
		out.Reset()
		out.WriteString(text[:before] + "\n" + text[before:])
	}
}

// String formats the ratio with its confidence interval.
func (r *Ratio) String() string { return fmt.Sprintf("%.3f [%.3f, %.3f]", r.Median, r.Low, r.High) }
