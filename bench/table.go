package bench

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
)

// Write writes the report as a table for people. A method's share of peak is what it executed over what the machine
// can do on as many threads.
func (r *Report) Write(w io.Writer) error {
	var out strings.Builder
	if len(r.Results) > 0 {
		c := r.Results[0]
		fmt.Fprintf(&out, "%s heads: %d over %d KV heads, dim %d, %s; %s, threads: %d; median of %d\n\n",
			c.Workload, c.Heads, c.KVHeads, c.Dim, c.DType, c.ISA, c.Threads, c.Runs)
	}
	t := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "tokens\tmethod\tseconds\tmin\tmax\tGFLOP/s\texecuted\tof peak\tdensity\trecall\tmin\tspeedup\t")
	for _, c := range r.Results {
		speedup := "–"
		if c.SpeedupVsDense > 0 {
			speedup = fmt.Sprintf("%.2f×", c.SpeedupVsDense)
		}
		fmt.Fprintf(t, "%d\t%s\t%.4g\t%.4g\t%.4g\t%.1f\t%.1f\t%.0f %%\t%.1f %%\t%.4f\t%.4f\t%s\t\n",
			c.N, c.Method, c.Seconds, c.SecondsMin, c.SecondsMax, c.GFLOPS, c.ExecutedGFLOPS,
			100*c.ExecutedGFLOPS/r.Peak[c.Threads], 100*c.Density, c.RecallMean, c.RecallMin, speedup)
	}
	t.Flush()
	out.WriteString("\nGFLOP/s counts the work of dense attention, executed what the method did of it. Peak, measured:")
	for _, n := range slices.Sorted(maps.Keys(r.Peak)) {
		fmt.Fprintf(&out, " %.0f GFLOP/s on %d,", r.Peak[n], n)
	}
	_, err := io.WriteString(w, strings.TrimSuffix(out.String(), ",")+".\n")
	return err
}
