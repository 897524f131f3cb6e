package report

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
)

// WriteTable writes the evaluation as tables for a terminal: the scores of tasks at each length, a column for each method, and then
// the means over tasks with what they cost.
func (e *Evaluation) WriteTable(w io.Writer) error {
	var out strings.Builder
	if facts := e.facts(); facts != "" {
		fmt.Fprintf(&out, "%s\n\n", facts)
	}
	if len(e.Scores) == 0 {
		out.WriteString("Nothing was evaluated.\n")
		_, err := io.WriteString(w, out.String())
		return err
	}
	t := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	width := 0
	for _, task := range e.tasks() {
		width = max(width, len(clean(task)))
	}
	fmt.Fprintf(t, "%-*s\ttokens\tsamples", width, "task")
	for _, m := range e.Methods {
		fmt.Fprintf(t, "\t%s", clean(m))
	}
	fmt.Fprintln(t, "\t")
	for _, task := range e.tasks() {
		for _, length := range e.Lengths {
			samples := e.samples(task, length)
			if samples == "" {
				continue
			}
			fmt.Fprintf(t, "%-*s\t%s\t%s", width, clean(task), thousands(length), samples)
			for _, m := range e.Methods {
				fmt.Fprintf(t, "\t%s", at(e.Scores, task, length, m).text())
			}
			fmt.Fprintln(t, "\t")
		}
	}
	t.Flush()
	out.WriteString("\nAll tasks\n\n")
	t = tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "tokens\tmethod\tsamples\tscore\tagainst dense\tdensity\trecall\tp5\tmin\tfirst token\t")
	for _, s := range e.Overall {
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t%s\t\n", thousands(s.Length), clean(s.Method), s.Samples, s.text(),
			s.change(), percent(s.Density), strings.Join(s.Recall.texts(), "\t"), seconds(s.FirstToken))
	}
	t.Flush()
	out.WriteString(`
Scores are in percent, with intervals of 95 % confidence for the mean (bootstrap over samples). Where all samples have the
same score there is nothing to draw: an interval of no width does not mean certainty. Tasks that lose most against dense
attention on the same samples come first. Density is the share of causal pairs attended, recall that of the true softmax
mass, on audited rows: mean, 5th percentile, minimum.
`)
	for _, note := range e.Notes {
		fmt.Fprintf(&out, "%s\n", clean(note))
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// facts are what was evaluated and where.
func (e *Evaluation) facts() string { return facts(e.Versions, e.Suite, e.Model, e.Machine, e.ISA) }

// facts lists what there is of some, and that there are several versions.
func facts(versions []string, some ...string) string {
	list := slices.DeleteFunc(cleanAll(some), func(fact string) bool { return fact == "" })
	if len(versions) > 1 {
		list = append(list, fmt.Sprintf("by %d versions of the code", len(versions)))
	}
	return strings.Join(list, ", ")
}

// samples says how many there are of a task and length: the most and the least of the methods.
func (e *Evaluation) samples(task string, length int) string {
	most, least := 0, -1
	for _, m := range e.Methods {
		n := 0
		if s := at(e.Scores, task, length, m); s != nil {
			n = s.Samples
		}
		most = max(most, n)
		if least < 0 || n < least {
			least = n
		}
	}
	switch {
	case most == 0:
		return ""
	case most == least:
		return fmt.Sprint(most)
	}
	return fmt.Sprintf("%d–%d", least, most)
}

// text is the mean score in percent with its interval, a dash for none.
func (s *Score) text() string {
	if s == nil {
		return "–"
	}
	return s.Score.text(100, "%.1f")
}

// change is the difference to dense attention, likewise.
func (s *Score) change() string {
	if s.Change == nil {
		return "–"
	}
	return s.Change.text(100, "%+.1f")
}

// text is the mean with its interval, of numbers that are shown in a scale.
func (i *Interval) text(scale float64, format string) string {
	return fmt.Sprintf("%s [%s, %s]", number(scale*i.Mean, format), number(scale*i.Low, format), number(scale*i.High, format))
}

// texts are mean, 5th percentile and minimum, dashes if there are none.
func (r *Recall) texts() []string {
	if r == nil {
		return []string{"–", "–", "–"}
	}
	return []string{fixed(r.Mean), fixed(r.P5), fixed(r.Min)}
}
