package report

import (
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"
	"unicode/utf8"
)

// WriteTable writes the comparison as tables for a terminal: for each input the curves of the methods, then what they
// did at each goal.
func (c *Comparison) WriteTable(w io.Writer) error {
	var out strings.Builder
	if facts := c.machine(); facts != "" {
		fmt.Fprintf(&out, "%s\n\n", facts)
	}
	for i := range c.Inputs {
		in := &c.Inputs[i]
		fmt.Fprintf(&out, "%s; dense %s\n\n", in.heading(), seconds(in.DenseSeconds))
		curve := slices.DeleteFunc(slices.Clone(in.Points), func(p Point) bool { return p.Goal.Kind != "" })
		in.writePoints(&out, curve, true)
		for _, goal := range in.goals() {
			fmt.Fprintf(&out, "\nat %s\n\n", goal)
			in.writePoints(&out, in.at(goal), false)
		}
		if len(in.RowOracle) > 0 {
			var bounds []string
			for _, b := range in.RowOracle {
				bounds = append(bounds, fmt.Sprintf("%s at %s", share(b.Mass), percent(b.Density)))
			}
			fmt.Fprintf(&out, "\nRow oracle, the least density at which every row holds so much of its mass:\n%s.\n", strings.Join(bounds, ", "))
		}
		out.WriteByte('\n')
	}
	if len(c.Inputs) == 0 {
		out.WriteString("Nothing was measured.\n")
	} else {
		out.WriteString(`Recall is the share of the true softmax mass on the keys attended, over rows: mean, 5th percentile, minimum. Density is
the share of causal pairs attended, with the keys always kept. Output error is relative, lse error in nats, both means.
`)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// widest is the most characters shown of what a method always keeps.
const widest = 32

// writePoints writes a table of points of the input.
func (in *Input) writePoints(out *strings.Builder, points []Point, curve bool) {
	if len(points) == 0 {
		out.WriteString("no points\n")
		return
	}
	// Numbers are aligned to the right; text is padded to be aligned to the left.
	rows := [][]string{{"method", "setting"}}
	if curve {
		rows[0] = append(rows[0], "always kept")
	}
	var cut []string // what is too long for the table
	for _, p := range points {
		row := []string{clean(p.Method), p.setting()}
		if curve {
			always := dash(clean(p.Always))
			short := shorten(always, widest)
			if short != always && !slices.Contains(cut, always) {
				cut = append(cut, always)
			}
			row = append(row, short)
		}
		rows = append(rows, row)
	}
	for i := range rows[0] {
		width := 0
		for _, row := range rows {
			width = max(width, utf8.RuneCountInString(row[i]))
		}
		for _, row := range rows {
			row[i] += strings.Repeat(" ", width-utf8.RuneCountInString(row[i]))
		}
	}
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	goal := ""
	if !curve {
		goal = "goal\t"
	}
	fmt.Fprintf(t, "%s\tdensity\trecall\tp5\tmin\toutput err\tlse err\tseconds\tspeedup\t%s\n", strings.Join(rows[0], "\t"), goal)
	for i, p := range points {
		if !curve {
			goal = "met\t"
			if !p.Goal.Met {
				goal = "NOT MET\t"
			}
		}
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", strings.Join(rows[i+1], "\t"), percent(p.Density),
			fixed(p.Recall.Mean), fixed(p.Recall.P5), fixed(p.Recall.Min), small(p.OutputError.Mean), small(p.LSEError.Mean),
			number(p.Seconds, "%.4g"), times(in.Speedup(p)), goal)
	}
	t.Flush()
	if who := notFinite(points); who != "" {
		fmt.Fprintf(out, "  rows of outputs that are not finite: %s\n", who)
	}
	for _, always := range cut {
		var who []string
		for _, p := range points {
			if method := clean(p.Method); clean(p.Always) == always && !slices.Contains(who, method) {
				who = append(who, method)
			}
		}
		fmt.Fprintf(out, "  always kept by %s: %s\n", strings.Join(who, ", "), always)
	}
}

// notFinite names the methods whose outputs have rows that are not finite, and how many at most.
func notFinite(points []Point) string {
	most := map[string]int64{}
	for _, p := range points {
		if p.NonFiniteRows > 0 {
			most[clean(p.Method)] = max(most[clean(p.Method)], p.NonFiniteRows)
		}
	}
	var who []string
	for _, method := range slices.Sorted(maps.Keys(most)) {
		who = append(who, fmt.Sprintf("%s %d", method, most[method]))
	}
	return strings.Join(who, ", ")
}

// WriteMarkdown writes what the methods did at each goal as tables in Markdown, a column for each length, and what each
// keeps always.
func (c *Comparison) WriteMarkdown(w io.Writer) error {
	var out strings.Builder
	for _, group := range c.groups() {
		for _, kind := range []string{"recall", "density"} {
			group.writeMarkdown(&out, kind)
		}
		group.writeAlways(&out)
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// A group is inputs that differ in length alone, in ascending order.
type group struct {
	name   string
	inputs []*Input
}

func (c *Comparison) groups() []group {
	var groups []group
	for i := range c.Inputs {
		in := &c.Inputs[i]
		name := fmt.Sprintf("%s (%s)", clean(in.Name), in.shape())
		g := slices.IndexFunc(groups, func(g group) bool { return g.name == name })
		if g < 0 {
			g = len(groups)
			groups = append(groups, group{name: name})
		}
		groups[g].inputs = append(groups[g].inputs, in)
	}
	for _, g := range groups {
		slices.SortStableFunc(g.inputs, func(a, b *Input) int { return a.Tokens - b.Tokens })
	}
	return groups
}

func (g *group) methods() []string {
	var methods []string
	for _, in := range g.inputs {
		for _, p := range in.Points {
			if !slices.Contains(methods, p.Method) {
				methods = append(methods, p.Method)
			}
		}
	}
	return methods
}

// writeMarkdown writes one table, whose columns are the inputs at each goal of the kind.
func (g *group) writeMarkdown(out *strings.Builder, kind string) {
	type column struct {
		in     *Input
		goal   Goal
		points []Point
	}
	var columns []column
	same := true // all inputs have the same goal
	for _, in := range g.inputs {
		for _, goal := range in.goals() {
			if goal.Kind == kind {
				columns = append(columns, column{in, goal, in.at(goal)})
				same = same && goal.Target == columns[0].goal.Target
			}
		}
	}
	if len(columns) == 0 {
		return
	}
	title, what := "matched density", "recall mean / 5th percentile / minimum, output error, speedup over dense"
	if kind == "recall" {
		title, what = "matched recall", "density, minimum of recall, output error, speedup over dense"
	}
	if same {
		title = columns[0].goal.String()
	}
	fmt.Fprintf(out, "%s, at %s: %s.\n\n| method |", markdown(g.name), title, what)
	for _, col := range columns {
		fmt.Fprintf(out, " %s", thousands(col.in.Tokens))
		if !same {
			fmt.Fprintf(out, ", %s", col.goal)
		}
		out.WriteString(" |")
	}
	fmt.Fprintf(out, "\n|---|%s\n", strings.Repeat("---|", len(columns)))
	for _, method := range g.methods() {
		var cells []string
		any := false
		for _, col := range columns {
			i := slices.IndexFunc(col.points, func(p Point) bool { return p.Method == method })
			if i < 0 {
				cells = append(cells, "–")
				continue
			}
			any = true
			cells = append(cells, col.in.cell(col.points[i]))
		}
		if any {
			fmt.Fprintf(out, "| %s | %s |\n", markdown(clean(method)), strings.Join(cells, " | "))
		}
	}
	var bounds []string
	any := false
	for _, col := range columns {
		text := col.in.bound(col.goal)
		any = any || text != "–"
		bounds = append(bounds, text)
	}
	if any {
		fmt.Fprintf(out, "| *row oracle* | %s |\n", strings.Join(bounds, " | "))
	}
	out.WriteByte('\n')
}

// writeAlways writes which keys the methods that had a goal attend to whatever they find.
func (g *group) writeAlways(out *strings.Builder) {
	var kept []string
	methods := map[string][]string{}
	for _, in := range g.inputs {
		for _, p := range in.Points {
			always, method := clean(p.Always), clean(p.Method)
			if p.Goal.Kind == "" || always == "" || slices.Contains(methods[always], method) {
				continue
			}
			if methods[always] == nil {
				kept = append(kept, always)
			}
			methods[always] = append(methods[always], method)
		}
	}
	for i, always := range kept {
		kept[i] = fmt.Sprintf("%s (%s)", markdown(always), markdown(strings.Join(methods[always], ", ")))
	}
	var all []Point
	for _, in := range g.inputs {
		all = append(all, in.Points...)
	}
	if who := notFinite(all); who != "" {
		fmt.Fprintf(out, "Rows of outputs that are not finite: %s.\n\n", markdown(who))
	}
	if len(kept) > 0 {
		fmt.Fprintf(out, "Always kept, beside the tail: %s.\n\n", strings.Join(kept, "; "))
	}
}

// cell says what a point that should meet a goal did.
func (in *Input) cell(p Point) string {
	text := fmt.Sprintf("%s, %s, %s, %s", percent(p.Density), fixed(p.Recall.Min), small(p.OutputError.Mean), times(in.Speedup(p)))
	missed := "recall " + fixed(p.Recall.Mean)
	if p.Goal.Kind == "density" {
		text = fmt.Sprintf("%s / %s / %s, %s, %s", fixed(p.Recall.Mean), fixed(p.Recall.P5), fixed(p.Recall.Min),
			small(p.OutputError.Mean), times(in.Speedup(p)))
		missed = "density " + percent(p.Density)
	}
	if !p.Goal.Met {
		text += " (**not met**: " + missed + ")"
	}
	return text
}

// bound says what the row oracle does at a goal.
func (in *Input) bound(goal Goal) string {
	best := Bound{Mass: math.NaN()}
	for _, b := range in.RowOracle {
		if goal.Kind == "recall" && b.Mass == goal.Target {
			return percent(b.Density)
		}
		if goal.Kind == "density" && b.Density <= goal.Target && !(b.Mass <= best.Mass) {
			best = b
		}
	}
	if math.IsNaN(best.Mass) {
		return "–"
	}
	return fmt.Sprintf("%s of every row at %s", share(best.Mass), percent(best.Density))
}

// goals returns the goals of the input, each once and without whether it was met: those of recall, then those of density.
func (in *Input) goals() []Goal {
	var goals []Goal
	for _, kind := range []string{"recall", "density"} {
		for _, p := range in.Points {
			goal := Goal{Kind: kind, Target: p.Goal.Target}
			if p.Goal.Kind == kind && !slices.Contains(goals, goal) && !math.IsNaN(goal.Target) {
				goals = append(goals, goal)
			}
		}
	}
	return goals
}

// at returns the points that should meet the goal.
func (in *Input) at(goal Goal) []Point {
	var points []Point
	for _, p := range in.Points {
		if p.Goal.Kind == goal.Kind && p.Goal.Target == goal.Target {
			points = append(points, p)
		}
	}
	return points
}

// String returns the goal as text, such as "recall ≥ 0.95".
func (g Goal) String() string {
	switch g.Kind {
	case "recall":
		return "recall ≥ " + number(g.Target, "%.4g")
	case "density":
		return "density ≤ " + share(g.Target)
	}
	return "no goal"
}

func (p *Point) setting() string {
	if p.Knob == "" {
		return "–"
	}
	format := "%.4g"
	if x := float64(p.Value); x == math.Trunc(x) && math.Abs(x) < 1e9 {
		format = "%.0f"
	}
	return clean(p.Knob) + "=" + number(float64(p.Value), format)
}

func (c *Comparison) machine() string {
	var facts []string
	for _, fact := range []string{clean(c.Machine), clean(c.ISA)} {
		if fact != "" {
			facts = append(facts, fact)
		}
	}
	if c.Threads > 0 {
		facts = append(facts, fmt.Sprintf("threads: %d", c.Threads))
	}
	return strings.Join(facts, ", ")
}

func (in *Input) heading() string {
	text := fmt.Sprintf("%s, %s tokens", clean(in.Name), thousands(in.Tokens))
	if in.Queries != in.Tokens {
		text += fmt.Sprintf(", the last %s as queries", thousands(in.Queries))
	}
	return text + ": " + in.shape()
}

func (in *Input) shape() string {
	return fmt.Sprintf("%d heads over %d KV heads, dim %d, %s", in.Heads, in.KVHeads, in.Dim, dash(clean(in.DType)))
}

// clean returns text without what would do something to a terminal or be nothing in a file of XML.
func clean(text string) string {
	return strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return unicode.ReplacementChar
		}
		return r
	}, text)
}

func cleanAll(texts []string) []string {
	cleaned := make([]string, len(texts))
	for i, text := range texts {
		cleaned[i] = clean(text)
	}
	return cleaned
}

// markdown escapes text for a cell of a table.
func markdown(text string) string {
	var out strings.Builder
	for _, r := range text {
		if strings.ContainsRune("\\`*_[]<>|&#", r) {
			out.WriteByte('\\')
		}
		out.WriteRune(r)
	}
	return out.String()
}

// shorten cuts text to so many characters.
func shorten(text string, most int) string {
	runes := []rune(text)
	if len(runes) <= most {
		return text
	}
	return string(runes[:most-1]) + "…"
}

func dash(text string) string {
	if text == "" {
		return "–"
	}
	return text
}

// number formats x; one that is not a number is a dash.
func number(x float64, format string) string {
	switch {
	case math.IsNaN(x):
		return "–"
	case math.IsInf(x, 1):
		return "∞"
	case math.IsInf(x, -1):
		return "−∞"
	}
	return fmt.Sprintf(format, x)
}

func fixed(x float64) string { return number(x, "%.4f") }
func times(x float64) string { return suffixed(x, "%.2f", "×") }

func percent(x float64) string {
	if x != 0 && math.Abs(x) < 0.001 { // less than 0.1 %
		return suffixed(100*x, "%.2g", " %")
	}
	return suffixed(100*x, "%.2f", " %")
}

// share is percent for round numbers.
func share(x float64) string { return suffixed(100*x, "%.4g", " %") }

func seconds(x float64) string { return suffixed(x, "%.4g", " s") }

func small(x float64) string {
	if x == 0 {
		return "0"
	}
	return number(x, "%.1e")
}

func suffixed(x float64, format, suffix string) string {
	text := number(x, format)
	if text == "–" {
		return text
	}
	return text + suffix
}

// thousands formats n with commas.
func thousands(n int) string {
	text := strconv.Itoa(n)
	sign := ""
	if n < 0 {
		sign, text = "-", text[1:]
	}
	for i := len(text) - 3; i > 0; i -= 3 {
		text = text[:i] + "," + text[i:]
	}
	return sign + text
}
