package drift

import (
	"cmp"
	"maps"
	"math"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/anchorattention/anchor/eval"
	"github.com/anchorattention/anchor/report"
)

// Summarise returns the figures by length and method, with confidence intervals over windows. What is drawn for these follows from
// the seed. Command, machine, model and text are left to the caller.
func Summarise(records []eval.Record, seed uint64) *report.Drift {
	d := &report.Drift{}
	type cell struct {
		length int
		method string
	}
	cells := make(map[cell][]*eval.Record)
	versions, levels := make(map[string]bool), make(map[string]bool)
	for i := range records {
		r := &records[i]
		c := cell{r.Length, r.Method}
		cells[c] = append(cells[c], r)
		versions[r.Version], levels[r.ISA] = true, true
		if !slices.Contains(d.Methods, r.Method) {
			d.Methods = append(d.Methods, r.Method)
		}
		if !slices.Contains(d.Lengths, r.Length) {
			d.Lengths = append(d.Lengths, r.Length)
		}
	}
	slices.Sort(d.Lengths)
	d.Versions = slices.Sorted(maps.Keys(versions))
	d.ISA = strings.Join(slices.Sorted(maps.Keys(levels)), ", ")
	for _, length := range d.Lengths {
		for _, method := range d.Methods {
			if of := cells[cell{length, method}]; len(of) > 0 {
				slices.SortStableFunc(of, func(a, b *eval.Record) int { return cmp.Compare(a.Index, b.Index) })
				d.Drifts = append(d.Drifts, summarise(of, seed))
			}
		}
	}
	return d
}

func summarise(records []*eval.Record, seed uint64) report.Drifted {
	first := records[0]
	x := report.Drifted{
		Length: first.Length, Method: first.Method, Windows: len(records),
		Body: make(map[string]*report.Interval), Tail: make(map[string]*report.Interval), Curves: make(map[string][]report.Interval),
	}
	rng := rand.New(rand.NewPCG(seed, uint64(first.Length))) // methods have the same draws: equal figures, equal intervals
	over := func(value func(r *eval.Record) (float64, bool)) *report.Interval {
		var all []float64
		for _, r := range records {
			if v, ok := value(r); ok {
				all = append(all, v)
			}
		}
		if len(all) == 0 {
			return nil
		}
		i := eval.Bootstrap([][]float64{all}, rng)
		return &i
	}
	value := func(name string) *report.Interval {
		return over(func(r *eval.Record) (float64, bool) { v, ok := r.Values[name]; return v, ok })
	}
	if i := value("nll_all"); i != nil {
		exp := func(x float64) float64 { return min(math.Exp(x), math.MaxFloat64) }
		x.Perplexity = report.Interval{Mean: exp(i.Mean), Low: exp(i.Low), High: exp(i.High)}
	}
	for _, name := range []string{"nll", "nll_change", "kl", "top1"} {
		if i := value(name); i != nil {
			x.Body[name] = i
		}
		if i := value(name + tailSuffix); i != nil {
			x.Tail[name] = i
		}
		for part := range first.Curves[name] {
			i := over(func(r *eval.Record) (float64, bool) {
				if part >= len(r.Curves[name]) {
					return 0, false
				}
				return r.Curves[name][part], true
			})
			x.Curves[name] = append(x.Curves[name], *i)
		}
	}
	n := float64(len(records))
	for _, r := range records {
		x.AttentionSeconds += r.AttentionSeconds / n
		x.Density += r.Density / n
	}
	x.Recall = eval.MeanRecall(records)
	return x
}
