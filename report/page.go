package report

import (
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"encoding/json"
	"fmt"
	"html/template"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/anchorattention/anchor/internal/atomicfile"
)

//go:embed page.html
var pageText string

//go:embed shared.html
var sharedText string // of all pages

var pageTemplate = template.Must(template.Must(template.New("page").Parse(pageText)).Parse(sharedText))

func escape(text string) string { return template.HTMLEscapeString(clean(text)) }

// WriteDir writes the comparison into a directory, which it makes when there is none: comparison.json, each figure as
// SVG and PNG, and index.html, which needs nothing else. Files appear whole or not at all, index.html last; the end of
// the context is an error, after which no more of them appear. progress, unless nil, is called after each figure with the
// share of them that are there.
func (c *Comparison) WriteDir(ctx context.Context, dir string, progress func(share float64)) error {
	if err := c.check(); err != nil {
		return err
	}
	figures, each := c.figures()
	shared := len(figures)
	for _, f := range each {
		figures = append(figures, f...)
	}
	return writeDir(ctx, dir, "comparison.json", c, figures, progress, pageTemplate, func(drawn []pageFigure) any {
		p := page{Command: clean(c.Command), Machine: c.machine(), Shared: drawn[:shared]}
		drawn = drawn[shared:]
		for i := range c.Inputs {
			in := c.Inputs[i].page(i)
			in.Figures, drawn = drawn[:len(each[i])], drawn[len(each[i]):]
			p.Inputs = append(p.Inputs, in)
		}
		return p
	})
}

// writeDir is what all WriteDir do: it writes what the page is about into a JSON file of that name, the figures, and the page, which
// the template makes of what page returns.
func writeDir(ctx context.Context, dir, name string, about any, figures []figure, progress func(share float64),
	t *template.Template, page func(drawn []pageFigure) any) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("cannot write %s: %w", dir, err)
	}
	data, err := json.Marshal(about)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", dir, err)
	}
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return err
	}
	if err := writeFile(ctx, dir, name, append(data, '\n')); err != nil {
		return err
	}
	var drawn []pageFigure
	for i, f := range figures {
		figure, err := f.write(ctx, dir)
		if err != nil {
			return err
		}
		drawn = append(drawn, figure)
		if progress != nil {
			progress(float64(i+1) / float64(len(figures)))
		}
	}
	var out bytes.Buffer
	if err := t.Execute(&out, page(drawn)); err != nil {
		return fmt.Errorf("cannot write %s: %w", dir, err)
	}
	return writeFile(ctx, dir, "index.html", out.Bytes())
}

// writeFile writes a file of a directory, whole or not at all.
func writeFile(ctx context.Context, dir, name string, data []byte) error {
	return atomicfile.Write(ctx, filepath.Join(dir, name), func(w io.Writer) error {
		_, err := w.Write(data)
		return err
	})
}

// write draws the figure into a directory, as SVG and PNG, and returns it for a page.
func (f *figure) write(ctx context.Context, dir string) (pageFigure, error) {
	if err := ctx.Err(); err != nil {
		return pageFigure{}, fmt.Errorf("cannot write %s: %w", dir, err)
	}
	svg, err := f.svg()
	if err != nil {
		return pageFigure{}, err
	}
	png, err := f.png()
	if err != nil {
		return pageFigure{}, err
	}
	if err := writeFile(ctx, dir, f.file+".svg", append([]byte("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n"), svg...)); err != nil {
		return pageFigure{}, err
	}
	if err := writeFile(ctx, dir, f.file+".png", png); err != nil {
		return pageFigure{}, err
	}
	return pageFigure{File: f.file, Title: f.title, Caption: f.caption, SVG: template.HTML(svg)}, nil
}

// A page is what the template shows.
type page struct {
	Command, Machine string
	Shared           []pageFigure
	Inputs           []pageInput
}

type pageFigure struct {
	File, Title, Caption string
	SVG                  template.HTML
}

type pageInput struct {
	ID             string
	Heading, Dense string
	Figures        []pageFigure
	Goals          []pageTable
	Curve          pageTable
	Always         []pageAlways
	Bounds         []string
	Methods        []string
	Heads          []pageHead
}

type pageAlways struct{ Method, Keys string }

type pageTable struct {
	Title string
	Rows  []pagePoint
}

// A cell is text, and the number by which it is sorted.
type cell struct {
	Text string
	Sort string // empty when there is none
}

type pagePoint struct {
	Method, Setting string
	Missed          bool
	Cells           []string
}

type pageHead struct {
	Method, Setting, Goal string
	Missed                bool
	Head                  int
	Kind, Choice          string
	Cells                 []cell
}

func (in *Input) page(i int) pageInput {
	p := pageInput{ID: fmt.Sprintf("input-%d", i+1), Heading: in.heading(), Dense: seconds(in.DenseSeconds)}
	rows := func(points []Point) []pagePoint {
		var rows []pagePoint
		for _, p := range points {
			rows = append(rows, pagePoint{clean(p.Method), p.setting(), p.Goal.Kind != "" && !p.Goal.Met, []string{
				percent(p.Density), fixed(p.Recall.Mean), fixed(p.Recall.P5), fixed(p.Recall.Min), small(p.OutputError.Mean),
				small(p.OutputError.Max), small(p.LSEError.Mean), number(p.FLOPs, "%.3g"), seconds(p.Seconds), times(in.Speedup(p))}})
		}
		return rows
	}
	for _, goal := range in.goals() {
		p.Goals = append(p.Goals, pageTable{goal.String(), rows(in.at(goal))})
	}
	p.Curve.Rows = rows(slices.DeleteFunc(slices.Clone(in.Points), func(p Point) bool { return p.Goal.Kind != "" }))
	for _, b := range in.RowOracle {
		p.Bounds = append(p.Bounds, strings.ReplaceAll(share(b.Mass)+" at "+percent(b.Density), " %", "\u00a0%"))
	}
	for _, method := range in.methods() {
		first := in.Points[slices.IndexFunc(in.Points, func(p Point) bool { return p.Method == method })]
		p.Methods = append(p.Methods, clean(method))
		p.Always = append(p.Always, pageAlways{clean(method), dash(clean(first.Always))})
	}
	p.Heads = in.pageHeads()
	return p
}

// pageHeads returns the heads of the points that were to meet a goal, and of one point of other methods, worst recall
// first.
func (in *Input) pageHeads() []pageHead {
	type row struct {
		head *Head
		pageHead
	}
	var rows []row
	typical := make(map[string]*Point)
	goals := make(map[string]bool) // methods that have any
	for _, method := range in.methods() {
		typical[method], _ = in.typical(method)
	}
	for _, p := range in.Points {
		goals[p.Method] = goals[p.Method] || p.Goal.Kind != ""
	}
	for i := range in.Points {
		p := &in.Points[i]
		if p.Goal.Kind == "" && (goals[p.Method] || typical[p.Method] != p) {
			continue
		}
		goal := "–"
		if p.Goal.Kind != "" {
			goal = p.Goal.String()
		}
		for j := range p.HeadPoints {
			h := &p.HeadPoints[j]
			rows = append(rows, row{h, pageHead{
				clean(p.Method), p.setting(), goal, p.Goal.Kind != "" && !p.Goal.Met, h.Head, clean(h.Kind), clean(h.Choice), []cell{
					sorted(h.Density, percent(h.Density)), {thousands(int(h.Stripes)), fmt.Sprint(h.Stripes)},
					sorted(h.Recall.Mean, fixed(h.Recall.Mean)), sorted(h.Recall.P5, fixed(h.Recall.P5)),
					sorted(h.Recall.Min, fixed(h.Recall.Min)), sorted(h.OutputError.Mean, small(h.OutputError.Mean)),
					sorted(h.OutputError.Max, small(h.OutputError.Max)), sorted(h.LSEError.Mean, small(h.LSEError.Mean)),
				}}})
		}
	}
	slices.SortStableFunc(rows, func(a, b row) int {
		return cmp.Or(compareLast(a.head.Recall.Mean, b.head.Recall.Mean), compareLast(a.head.Recall.Min, b.head.Recall.Min))
	})
	heads := make([]pageHead, len(rows))
	for i, r := range rows {
		heads[i] = r.pageHead
	}
	return heads
}

// compareLast compares numbers, with those that are none at the end.
func compareLast(a, b float64) int {
	if math.IsNaN(a) || math.IsNaN(b) {
		return -cmp.Compare(a, b) // which has NaN first
	}
	return cmp.Compare(a, b)
}

func sorted(x float64, text string) cell {
	if math.IsNaN(x) {
		return cell{Text: text}
	}
	return cell{text, strings.Replace(fmt.Sprintf("%g", x), "Inf", "Infinity", 1)}
}
