package report

import (
	"context"
	_ "embed"
	"fmt"
	"html/template"
	"io"
	"math"
	"slices"
	"strings"
	"text/tabwriter"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// A Drift is how far a model's predictions of a text are from those under dense attention.
type Drift struct {
	Command  string   `json:"command"` // that repeats it
	Machine  string   `json:"machine"`
	Model    string   `json:"model"`
	Text     string   `json:"text"`
	ISA      string   `json:"isa"`      // level of the kernels
	Versions []string `json:"versions"` // of the code that did it
	Notes    []string `json:"notes,omitempty"`

	Methods []string  `json:"methods"` // in their order
	Lengths []int     `json:"lengths"` // of windows, ascending
	Drifts  []Drifted `json:"drifts"`  // by length, then method
}

// A Drifted is how a method did on windows of a length: means over windows. The body are the rows before those that see every key
// under any method, the tail.
type Drifted struct {
	Length  int    `json:"length"`
	Method  string `json:"method"`
	Windows int    `json:"windows"`

	Perplexity Interval             `json:"perplexity"` // of all rows
	Body       map[string]*Interval `json:"body"`       // by the names of records: nll, nll_change, kl, top1
	Tail       map[string]*Interval `json:"tail"`       // likewise
	// Curves are the same over the body, in parts of equal length.
	Curves map[string][]Interval `json:"curves"`

	AttentionSeconds float64 `json:"attention_seconds"`
	Density          float64 `json:"density"`
	Recall           *Recall `json:"recall,omitempty"` // audited: mean, mean of 5th percentiles, least minimum
}

// driftFigures are what is drawn and listed, by the names of records.
var driftFigures = []struct {
	name, title, label, caption string
	scale                       float64 // that it is shown in
	format                      string
}{
	{"nll", "Loss by position", "nats for a token", "The mean of minus the logarithm of the next token's probability; perplexity is its exponential.", 1, "%.4f"},
	{"nll_change", "Loss against dense attention by position", "nats for a token, against dense", "Below zero the method predicts the text better than dense attention.", 1, "%+.4f"},
	{"kl", "Divergence by position", "divergence (nats)", "The Kullback-Leibler divergence from the next token's distribution under dense attention.", 1, "%.5f"},
	{"top1", "Agreement by position", "same likeliest token (%)", "The share of rows whose likeliest next token is that of dense attention.", 100, "%.2f"},
}

// WriteTable writes the figures as a table for a terminal.
func (d *Drift) WriteTable(w io.Writer) error {
	var out strings.Builder
	if facts := d.facts(); facts != "" {
		fmt.Fprintf(&out, "%s\n\n", facts)
	}
	if len(d.Drifts) == 0 {
		out.WriteString("Nothing was measured.\n")
		_, err := io.WriteString(w, out.String())
		return err
	}
	t := tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "tokens\tmethod\twindows\tdensity\tperplexity\tchange of loss\tdivergence\tsame token\tattention\t")
	for i := range d.Drifts {
		x := &d.Drifts[i]
		fmt.Fprintf(t, "%s\t%s\t%d\t%s\t%s\t%s\t%s\t\n", thousands(x.Length), clean(x.Method), x.Windows, percent(x.Density),
			x.Perplexity.text(1, "%.4g"), strings.Join(x.cells(x.Body), "\t"), seconds(x.AttentionSeconds))
	}
	t.Flush()
	out.WriteString("\nThe tail\n\n")
	t = tabwriter.NewWriter(&out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(t, "tokens\tmethod\tchange of loss\tdivergence\tsame token\trecall\tp5\tmin\t")
	for i := range d.Drifts {
		x := &d.Drifts[i]
		fmt.Fprintf(t, "%s\t%s\t%s\t%s\t\n", thousands(x.Length), clean(x.Method), strings.Join(x.cells(x.Tail), "\t"), strings.Join(x.Recall.texts(), "\t"))
	}
	t.Flush()
	out.WriteString(`
Perplexity is of all rows. The change of the loss of a token, in nats, is that against dense attention on the same windows;
divergence that from the next token's distribution under dense attention, in nats; same token the share of rows, in percent, whose
likeliest next token is that of dense attention. The last rows of a window, the tail, see every key under any method, as the rows that
answers are decoded from do: theirs is the drift that reaches an answer. The first table's is that of the rows before. Recall is that of
the true softmax mass, on audited rows of the whole window: mean, 5th percentile, minimum. Intervals are of 95 % confidence for the
mean (bootstrap over windows); one window gives none, and so one of no width.
`)
	for _, note := range d.Notes {
		fmt.Fprintf(&out, "%s\n", clean(note))
	}
	_, err := io.WriteString(w, out.String())
	return err
}

// cells are the figures of body or tail but the loss itself.
func (x *Drifted) cells(of map[string]*Interval) []string {
	var cells []string
	for _, f := range driftFigures[1:] {
		if i := of[f.name]; i != nil {
			cells = append(cells, i.text(f.scale, f.format))
		} else {
			cells = append(cells, "–")
		}
	}
	return cells
}

// facts are what was measured and where.
func (d *Drift) facts() string { return facts(d.Versions, d.Model, d.Text, d.Machine, d.ISA) }

//go:embed drift.html
var driftText string

var driftTemplate = template.Must(template.Must(template.New("drift").Parse(driftText)).Parse(sharedText))

// driftPage is what the template shows.
type driftPage struct {
	Title, Facts, Command string
	Notes                 []string
	Figures               []pageFigure
	Rows                  []driftRow
}

type driftRow struct {
	Length, Method string
	Windows        int
	Cells          []string
}

// WriteDir writes the figures into a directory, which it makes when there is none: drift.json, each figure as SVG and PNG, and
// index.html, which needs nothing else, last. Files appear whole or not at all; the end of the context is an error, after which
// no more of them appear. progress, unless nil, is called after each figure with the share of them that are there.
func (d *Drift) WriteDir(ctx context.Context, dir string, progress func(share float64)) error {
	return writeDir(ctx, dir, "drift.json", d, d.figures(), progress, driftTemplate, func(drawn []pageFigure) any {
		p := driftPage{
			Title: "Drift from dense attention", Facts: d.facts(), Command: clean(d.Command), Notes: cleanAll(d.Notes), Figures: drawn,
		}
		for i := range d.Drifts {
			x := &d.Drifts[i]
			row := driftRow{Length: thousands(x.Length), Method: clean(x.Method), Windows: x.Windows}
			row.Cells = slices.Concat([]string{percent(x.Density), x.Perplexity.text(1, "%.4g")}, x.cells(x.Body), x.cells(x.Tail),
				x.Recall.texts(), []string{seconds(x.AttentionSeconds)})
			p.Rows = append(p.Rows, row)
		}
		return p
	})
}

// figures returns a figure for each measurement, with a plot for each length.
func (d *Drift) figures() []figure {
	var figures []figure
	for _, of := range driftFigures {
		lengths := slices.DeleteFunc(slices.Clone(d.Lengths), func(length int) bool {
			return !slices.ContainsFunc(d.Drifts, func(x Drifted) bool { return x.Length == length && len(x.Curves[of.name]) > 0 })
		})
		if len(lengths) == 0 {
			continue
		}
		columns := min(len(lengths), 2)
		height := vg.Length((len(lengths)+columns-1)/columns*230 + 20)
		if columns == 1 {
			height = 340
		}
		figures = append(figures, figure{
			file: strings.ReplaceAll(of.name, "_", "-"), title: of.title, height: height,
			caption: of.caption + ` Each marker is the mean over a part of the body, the rows before the tail, and over windows. Bars are
intervals of 95 % (bootstrap over windows).`,
			draw: func(canvas draw.Canvas) {
				styles := evaluationStyles(d.Methods)
				var plots []*plot.Plot
				legend := newPlot("", "", "").Legend
				for i, length := range lengths {
					p := newPlot(thousands(length)+" tokens", "position (tokens)", of.label)
					for k, m := range d.Methods {
						var points []xy
						bars := &errorBars{style: styles[m].line}
						at := slices.IndexFunc(d.Drifts, func(x Drifted) bool { return x.Length == length && x.Method == m })
						if at >= 0 {
							curve := d.Drifts[at].Curves[of.name]
							for part, y := range curve {
								if !finite(y.Mean) || !finite(y.Low) || !finite(y.High) {
									continue
								}
								// Methods stand a little beside each other.
								x := (float64(part) + (float64(k)+1)/float64(len(d.Methods)+1)) / float64(len(curve)) * float64(length)
								points = append(points, xy{x: x, y: of.scale * y.Mean})
								bars.at, bars.from, bars.to = append(bars.at, x), append(bars.from, of.scale*y.Low), append(bars.to, of.scale*y.High)
								p.Y.Min, p.Y.Max = math.Min(p.Y.Min, of.scale*y.Low), math.Max(p.Y.Max, of.scale*y.High)
							}
						}
						p.Add(bars)
						thumb := addLine(p, styles[m], points)
						if i == 0 {
							legend.Add(shorten(clean(m), 24), thumb)
						}
					}
					p.X.Min, p.X.Max = 0, float64(length)
					if room := (p.Y.Max - p.Y.Min) / 25; room > 0 && finite(room) {
						p.Y.Min, p.Y.Max = p.Y.Min-room, p.Y.Max+room
					} else { // all the same, or nothing
						p.Y.Min, p.Y.Max = of.scale*-0.05, of.scale*1.05
					}
					p.Legend = plot.NewLegend()
					plots = append(plots, p)
				}
				grid(canvas, legend, columns, plots)
			},
		})
	}
	return figures
}
