package report

import (
	"bytes"
	"fmt"
	"image"
	"image/color"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/font"
	"gonum.org/v1/plot/plotter"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
	"gonum.org/v1/plot/vg/vgimg"
	"gonum.org/v1/plot/vg/vgsvg"
)

// A figure is a picture with what is to be said about it.
type figure struct {
	file    string // without extension
	title   string // for those who cannot see it
	caption string
	height  vg.Length
	draw    func(c draw.Canvas)
}

// figureWidth is that of all figures; on a page a point is a pixel and a third.
const figureWidth = 780

// dots is the resolution of pictures, to the inch.
var dots = 144

// svg draws the figure as an element of a page.
func (f *figure) svg() ([]byte, error) {
	canvas := vgsvg.New(figureWidth, f.height)
	f.draw(draw.New(canvas))
	var out bytes.Buffer
	if _, err := canvas.WriteTo(&out); err != nil {
		return nil, fmt.Errorf("cannot draw %s: %w", f.file, err)
	}
	// The prelude has no place within a page, and the font may be missing where the figure is looked at.
	_, drawing, _ := strings.Cut(out.String(), "<svg ")
	tag, rest, _ := strings.Cut(drawing, ">")
	return []byte(`<svg role="img" aria-label="` + escape(f.title) + `" ` + tag + `>
<style>text { font-family: "Liberation Sans", Arial, Helvetica, sans-serif !important }</style>` + rest), nil
}

// png draws the figure as a picture of dots.
func (f *figure) png() ([]byte, error) {
	canvas := vgimg.PngCanvas{Canvas: vgimg.NewWith(vgimg.UseWH(figureWidth, f.height), vgimg.UseDPI(dots))}
	f.draw(draw.New(canvas))
	var out bytes.Buffer
	if _, err := canvas.WriteTo(&out); err != nil {
		return nil, fmt.Errorf("cannot draw %s: %w", f.file, err)
	}
	return out.Bytes(), nil
}

// Colours of Okabe and Ito that are told apart by all and seen on white. Black is left to dense attention and bounds.
var palette = []color.RGBA{
	{0x00, 0x72, 0xb2, 0xff}, // blue
	{0xd5, 0x5e, 0x00, 0xff}, // vermilion
	{0x00, 0x9e, 0x73, 0xff}, // bluish green
	{0xcc, 0x79, 0xa7, 0xff}, // reddish purple
	{0xe6, 0x9f, 0x00, 0xff}, // orange
	{0x56, 0xb4, 0xe9, 0xff}, // sky blue
	{0x80, 0x80, 0x80, 0xff}, // grey
}

var dashes = [][]vg.Length{nil, {5, 2}, {1.5, 1.5}, {6, 2, 1.5, 2}}

// A marker is a regular polygon or star.
type marker struct {
	corners int     // none is a circle
	inner   float64 // radius between the points of a star; 0 for a polygon
	turn    float64 // in turns
	hollow  bool
}

// markers are 13, a number that shares nothing with that of the colours: no two methods have both alike.
var markers = []marker{
	{}, {corners: 4, turn: 1. / 8}, {corners: 3}, {corners: 4}, {corners: 5, inner: 0.45}, {corners: 3, turn: 1. / 2},
	{corners: 4, inner: 0.4}, {corners: 6}, {corners: 4, inner: 0.4, turn: 1. / 8}, {corners: 3, turn: 1. / 4},
	{corners: 5}, {corners: 3, turn: -1. / 4}, {corners: 6, inner: 0.5},
}

// DrawGlyph implements draw.GlyphDrawer.
func (m marker) DrawGlyph(c *draw.Canvas, style draw.GlyphStyle, at vg.Point) {
	var path vg.Path
	r := float64(style.Radius)
	if m.corners == 0 {
		path.Move(vg.Point{X: at.X + style.Radius, Y: at.Y})
		path.Arc(at, style.Radius, 0, 2*math.Pi)
	}
	if m.corners > 0 {
		r *= 1.25 // of about the area of a circle
	}
	steps := m.corners
	if m.inner > 0 {
		steps *= 2
		r *= 1.2
	}
	for i := range steps {
		sin, cos := math.Sincos(2 * math.Pi * (m.turn + 0.25 + float64(i)/float64(steps)))
		at := vg.Point{X: at.X + vg.Length(r*cos), Y: at.Y + vg.Length(r*sin)}
		if m.inner > 0 && i%2 == 1 {
			at = vg.Point{X: at.X - vg.Length((1-m.inner)*r*cos), Y: at.Y - vg.Length((1-m.inner)*r*sin)}
		}
		if i == 0 {
			path.Move(at)
		} else {
			path.Line(at)
		}
	}
	path.Close()
	edge := draw.LineStyle{Color: color.White, Width: 0.4}
	if m.hollow {
		edge = draw.LineStyle{Color: style.Color, Width: 1}
		c.SetColor(color.White)
	}
	c.Fill(path)
	c.SetLineStyle(edge)
	c.Stroke(path)
}

// A style is how a method looks in all figures.
type style struct {
	line   draw.LineStyle
	marker marker
}

// bound is the style of what no method can be above.
var bound = draw.LineStyle{Color: color.Black, Width: 1.2, Dashes: []vg.Length{4, 3}}

// styles returns that of each method, and of "dense".
func (c *Comparison) styles() map[string]style {
	styles := map[string]style{"dense": {draw.LineStyle{Color: color.Black, Width: 1.3}, marker{corners: 4}}}
	i := 0
	for _, in := range c.Inputs {
		for _, p := range in.Points {
			if _, ok := styles[p.Method]; ok {
				continue
			}
			styles[p.Method] = style{
				draw.LineStyle{Color: palette[i%len(palette)], Width: 1.3, Dashes: dashes[i/len(palette)%len(dashes)]},
				markers[i%len(markers)],
			}
			i++
		}
	}
	return styles
}

// methods returns those of the input's points.
func (in *Input) methods() []string { return (&group{inputs: []*Input{in}}).methods() }

// An xy is a point of a line; one that did not meet a goal is drawn hollow.
type xy struct {
	x, y   float64
	hollow bool
}

// newPlot returns a plot with the fonts of the report.
func newPlot(title, x, y string) *plot.Plot {
	p := plot.New()
	sans := func(size vg.Length) font.Font { return font.Font{Typeface: "Liberation", Variant: "Sans", Size: size} }
	p.Title.Text, p.X.Label.Text, p.Y.Label.Text = title, x, y
	p.Title.TextStyle.Font = sans(11)
	p.Title.Padding = 6
	for _, axis := range []*plot.Axis{&p.X, &p.Y} {
		axis.Label.TextStyle.Font = sans(10)
		axis.Label.Padding = 3
		axis.Tick.Label.Font = sans(9)
		axis.Tick.Length = 4
		axis.Padding = 0
	}
	p.Legend.TextStyle.Font = sans(10)
	p.Legend.Top, p.Legend.Left = true, true
	p.Legend.Padding = 4
	p.Legend.ThumbnailWidth = 30
	grid := plotter.NewGrid()
	grid.Vertical.Color, grid.Horizontal.Color = color.Gray{0xe4}, color.Gray{0xe4}
	p.Add(grid)
	return p
}

// addLine adds a line with markers and returns what stands for it in a legend.
func addLine(p *plot.Plot, s style, points []xy) plot.Thumbnailer {
	var full, hollow, all plotter.XYs
	for _, point := range points {
		at := plotter.XY{X: point.x, Y: point.y}
		all = append(all, at)
		if point.hollow {
			hollow = append(hollow, at)
		} else {
			full = append(full, at)
		}
	}
	p.Add(&plotter.Line{XYs: all, LineStyle: s.line})
	m := s.marker
	p.Add(&plotter.Scatter{XYs: full, GlyphStyle: draw.GlyphStyle{Color: s.line.Color, Radius: 3.2, Shape: m}})
	m.hollow = true
	p.Add(&plotter.Scatter{XYs: hollow, GlyphStyle: draw.GlyphStyle{Color: s.line.Color, Radius: 3.2, Shape: m}})
	return thumbnail(s)
}

// A thumbnail shows a style in a legend.
type thumbnail style

// Thumbnail implements plot.Thumbnailer.
func (t thumbnail) Thumbnail(c *draw.Canvas) {
	y := c.Center().Y
	c.StrokeLine2(t.line, c.Min.X, y, c.Max.X, y)
	c.DrawGlyph(draw.GlyphStyle{Color: t.line.Color, Radius: 3.2, Shape: t.marker}, c.Center())
}

// A dashed line is the thumbnail of a bound.
type dashed draw.LineStyle

// Thumbnail implements plot.Thumbnailer.
func (d dashed) Thumbnail(c *draw.Canvas) {
	c.StrokeLine2(draw.LineStyle(d), c.Min.X, c.Center().Y, c.Max.X, c.Center().Y)
}

// layout draws plots side by side and a legend to their right.
func layout(c draw.Canvas, legend plot.Legend, plots ...*plot.Plot) {
	fill(c, color.White)
	c = draw.Crop(c, 8, -8, 8, -8)
	width := legend.Rectangle(c).Size().X
	tiles := draw.Tiles{Cols: len(plots), Rows: 1, PadX: 12}
	left := draw.Crop(c, 0, -width-14, 0, 0)
	for i, p := range plots {
		drawPlot(tiles.At(left, i, 0), p)
	}
	legend.Draw(draw.Crop(c, c.Max.X-c.Min.X-width, 0, 0, -14))
}

// drawPlot draws a plot with the labels of its axes, for which the plot itself would leave too much room where a scale
// is not linear.
func drawPlot(c draw.Canvas, p *plot.Plot) {
	x, y := p.X.Label, p.Y.Label
	p.X.Label.Text, p.Y.Label.Text = "", ""
	var left, bottom vg.Length
	if y.Text != "" {
		left = y.TextStyle.Height(y.Text) + y.Padding + 2
	}
	if x.Text != "" {
		bottom = x.TextStyle.Height(x.Text) + x.Padding + 2
	}
	inner := draw.Crop(c, left, 0, bottom, 0)
	p.Draw(inner)
	data := p.DataCanvas(inner)
	c.FillText(x.TextStyle, vg.Point{X: data.Center().X, Y: c.Min.Y + x.TextStyle.FontExtents().Descent}, x.Text)
	y.TextStyle.Rotation = math.Pi / 2
	y.TextStyle.YAlign = draw.YTop
	c.FillText(y.TextStyle, vg.Point{X: c.Min.X, Y: data.Center().Y}, y.Text)
}

func fill(c draw.Canvas, with color.Color) {
	c.SetColor(with)
	c.Fill(c.Rectangle.Path())
}

// logScale makes the axis logarithmic from lo to hi, with some room.
func logScale(axis *plot.Axis, lo, hi float64, label func(float64) string) {
	if !(lo > 0 && hi >= lo) { // nothing to show
		lo, hi = 0.1, 1
	}
	lo, hi = max(lo, 1e-200), max(hi, 1e-200)
	room := math.Pow(hi/lo, 0.04)
	if room < 1.05 {
		room = 1.05
	}
	lo, hi = lo/room, hi*room
	if hi/lo < 1.5 { // a single value
		lo, hi = lo/1.5, hi*1.5
	}
	axis.Min, axis.Max = lo, hi
	axis.Scale = plot.LogScale{}
	axis.Tick.Marker = plot.ConstantTicks(logTicks(lo, hi, label))
}

// logTicks returns ticks at decades, and between them if those are few.
func logTicks(lo, hi float64, label func(float64) string) []plot.Tick {
	decades := math.Log10(hi / lo)
	every := int(math.Ceil(decades / 8))
	var ticks []plot.Tick
	for e := int(math.Floor(math.Log10(lo))); e <= int(math.Ceil(math.Log10(hi))); e++ {
		for m := 1; m < 10; m++ {
			at, _ := strconv.ParseFloat(fmt.Sprintf("%de%d", m, e), 64) // exactly what is written
			if at < lo || at > hi {
				continue
			}
			tick := plot.Tick{Value: at}
			switch {
			case m == 1 && e%every == 0, decades < 3.5 && (m == 2 || m == 5), decades < 0.7:
				tick.Label = label(at)
			}
			ticks = append(ticks, tick)
		}
	}
	return ticks
}

func plain(x float64) string { return fmt.Sprintf("%.4g", x) }

// nines is a scale for shares near 1: each step is a tenth of what is lost.
type nines struct{}

// most is where the scale ends.
const most = 1 - 1e-5

func (nines) at(x float64) float64 { return -math.Log10(1 - min(max(x, 0), most)) }

// Normalize implements plot.Normalizer.
func (n nines) Normalize(lo, hi, x float64) float64 {
	return (n.at(x) - n.at(lo)) / (n.at(hi) - n.at(lo))
}

func ninesScale(axis *plot.Axis) {
	axis.Min, axis.Max = 0, most
	axis.Scale = nines{}
	ticks := plot.ConstantTicks{{Value: most, Label: "≥ 0.99999"}}
	for _, x := range []float64{0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999, 0.9999} {
		ticks = append(ticks, plot.Tick{Value: x, Label: fmt.Sprintf("%g", x)})
	}
	axis.Tick.Marker = ticks
}

// finite says that all of xs can be drawn.
func finite(xs ...float64) bool {
	return !slices.ContainsFunc(xs, func(x float64) bool { return !(math.Abs(x) < 1e200) })
}

// curve returns the points of a method, by density.
func (in *Input) curve(method string, y func(*Point) float64, log bool) []xy {
	var points []xy
	for i := range in.Points {
		p := &in.Points[i]
		at := xy{x: 100 * p.Density, y: y(p)}
		if p.Method == method && finite(at.x, at.y) && at.x > 0 && (!log || at.y > 0) {
			points = append(points, at)
		}
	}
	slices.SortStableFunc(points, func(a, b xy) int {
		switch {
		case a.x < b.x:
			return -1
		case a.x > b.x:
			return 1
		}
		return 0
	})
	return points
}

// span returns the least and the most density that was measured, in percent.
func (in *Input) span() (lo, hi float64) {
	lo, hi = math.Inf(1), 0
	for _, p := range in.Points {
		if finite(p.Density) && p.Density > 0 {
			lo, hi = min(lo, 100*p.Density), max(hi, 100*p.Density)
		}
	}
	return lo, hi
}

const densityLabel = "density (% of causal pairs attended, log scale)"

// byDensity draws a measure of the methods against density, and the row oracle if asked for, and adds to the legend.
func (c *Comparison) byDensity(p *plot.Plot, legend *plot.Legend, in *Input, y func(*Point) float64, log, oracle bool) {
	styles := c.styles()
	lo, hi := in.span()
	low, high := math.Inf(1), 0.0
	if oracle && len(in.RowOracle) > 0 {
		var line plotter.XYs
		for _, b := range in.RowOracle {
			if x := 100 * b.Density; finite(x, b.Mass) && x > 0 {
				line = append(line, plotter.XY{X: x, Y: b.Mass})
				if x < lo && x > lo/10 {
					lo = x
				}
			}
		}
		p.Add(&plotter.Line{XYs: line, LineStyle: bound})
		if legend != nil && len(line) > 0 {
			legend.Add("row oracle", dashed(bound))
		}
	}
	for _, method := range in.methods() {
		points := in.curve(method, y, log)
		thumb := addLine(p, styles[method], points)
		if legend != nil {
			legend.Add(shorten(clean(method), 28), thumb)
		}
		for _, point := range points {
			low, high = min(low, point.y), max(high, point.y)
		}
	}
	logScale(&p.X, lo, hi, plain)
	if log {
		logScale(&p.Y, low, high, plain)
	}
}

// recallFigures draw recall against density.
func (c *Comparison) recallFigures(in *Input, file string) []figure {
	about := fmt.Sprintf("%s, %s tokens", shorten(clean(in.Name), 40), thousands(in.Tokens))
	return []figure{{
		file: file + "-recall", title: "Mean recall against density, " + about, height: 400,
		caption: `Recall is the share of the true softmax mass on the keys that were attended; density is the share of causal
(row, key) pairs attended, with the keys that a method always keeps. Each marker is one setting of the method's knob; up
and to the left is better. The vertical axis stretches towards 1: each step of the same height from 0.9 to 0.99 to 0.999
is a tenth of the mass lost. The row oracle keeps in every row the fewest keys that hold so much of that row; a method
whose rows hold different shares can have a mean a little above it.`,
		draw: func(canvas draw.Canvas) {
			p := newPlot(about, densityLabel, "recall, mean over rows")
			c.byDensity(p, &p.Legend, in, func(p *Point) float64 { return p.Recall.Mean }, false, true)
			ninesScale(&p.Y)
			legend := p.Legend
			p.Legend = plot.NewLegend()
			layout(canvas, legend, p)
		},
	}, {
		file: file + "-recall-worst", title: "Worst recall against density, " + about, height: 340,
		caption: `The same for the rows that fare worst: the 5th percentile of recall (one row in twenty is below it) and the
minimum. No minimum over all rows can be above the row oracle, which is estimated from some rows of each head.`,
		draw: func(canvas draw.Canvas) {
			p5 := newPlot(about, "density (%, log scale)", "recall, 5th percentile of rows")
			least := newPlot(about, "density (%, log scale)", "recall, minimum of rows")
			legend := p5.Legend
			c.byDensity(p5, &legend, in, func(p *Point) float64 { return p.Recall.P5 }, false, true)
			c.byDensity(least, nil, in, func(p *Point) float64 { return p.Recall.Min }, false, true)
			for _, p := range []*plot.Plot{p5, least} {
				p.Y.Min, p.Y.Max = -0.02, 1.02
				p.Y.Tick.Marker = plot.ConstantTicks{{Value: 0, Label: "0"}, {Value: 0.2, Label: "0.2"},
					{Value: 0.4, Label: "0.4"}, {Value: 0.6, Label: "0.6"}, {Value: 0.8, Label: "0.8"}, {Value: 1, Label: "1"}}
			}
			layout(canvas, legend, p5, least)
		},
	}}
}

// errorFigure draws output error against density.
func (c *Comparison) errorFigure(in *Input, file string) figure {
	about := fmt.Sprintf("%s, %s tokens", shorten(clean(in.Name), 40), thousands(in.Tokens))
	return figure{
		file: file + "-error", title: "Output error against density, " + about, height: 400,
		caption: `How far outputs are from those of dense attention, as a share of their norm, mean over rows. Down and to the
left is better. What has no error at all, such as dense attention, has no place on a logarithmic axis.`,
		draw: func(canvas draw.Canvas) {
			p := newPlot(about, densityLabel, "relative output error, mean (log scale)")
			c.byDensity(p, &p.Legend, in, func(p *Point) float64 { return p.OutputError.Mean }, true, false)
			legend := p.Legend
			p.Legend = plot.NewLegend()
			layout(canvas, legend, p)
		},
	}
}

// typical returns the point that stands for a method where there is room for one: that which met the least goal of
// recall (where the input has none, of density); failing that the method's own setting, or that of the highest recall.
// It says whether a goal was met.
func (in *Input) typical(method string) (*Point, bool) {
	kind := "density"
	if slices.ContainsFunc(in.Points, func(p Point) bool { return p.Goal.Kind == "recall" }) {
		kind = "recall"
	}
	var met, own, best *Point
	for i := range in.Points {
		p := &in.Points[i]
		if p.Method != method {
			continue
		}
		if p.Goal.Kind == kind && p.Goal.Met && (met == nil || p.Goal.Target < met.Goal.Target) {
			met = p
		}
		if p.Default && own == nil {
			own = p
		}
		if best == nil || p.Recall.Mean > best.Recall.Mean || math.IsNaN(best.Recall.Mean) {
			best = p
		}
	}
	switch {
	case met != nil:
		return met, true
	case own != nil:
		return own, false
	}
	return best, false
}

// timeFigure draws time against length.
func (c *Comparison) timeFigure(g group, file string) figure {
	return figure{
		file: file, title: "Time against length, " + g.name, height: 420,
		caption: `Seconds of attention against the length of the input, both on logarithmic axes, where a power of the length is
a straight line; its exponent, fitted by least squares, is in the legend (dense attention: n²). Each method is shown
where it met the recall asked for (where none was asked for, the density); a hollow marker is one that did not, at its own
setting or that of its highest recall.`,
		draw: func(canvas draw.Canvas) {
			p := newPlot(shorten(g.name, 90), "length (tokens, log scale)", "time (seconds, log scale)")
			styles := c.styles()
			lo, hi, least, longest := math.Inf(1), 0.0, math.Inf(1), 0.0
			add := func(method string, points []xy) {
				if len(points) == 0 {
					return
				}
				for _, at := range points {
					lo, hi = min(lo, at.y), max(hi, at.y)
					least, longest = min(least, at.x), max(longest, at.x)
				}
				p.Legend.Add(shorten(clean(method), 24)+slope(points), addLine(p, styles[method], points))
			}
			positive := func(points []xy, in *Input, seconds float64, met bool) []xy {
				if in.Tokens <= 0 || !finite(seconds) || seconds <= 0 {
					return points
				}
				return append(points, xy{float64(in.Tokens), seconds, !met})
			}
			var points []xy
			for _, in := range g.inputs {
				points = positive(points, in, in.DenseSeconds, true)
			}
			add("dense", points)
			for _, method := range g.methods() {
				if method == "dense" {
					continue
				}
				var points []xy
				for _, in := range g.inputs {
					if point, met := in.typical(method); point != nil {
						points = positive(points, in, point.Seconds, met)
					}
				}
				add(method, points)
			}
			logScale(&p.X, least, longest, plain)
			var ticks plot.ConstantTicks
			for _, in := range g.inputs {
				ticks = append(ticks, plot.Tick{Value: float64(in.Tokens), Label: short(in.Tokens)})
			}
			p.X.Tick.Marker = spread(ticks, &p.X)
			logScale(&p.Y, lo, hi, plain)
			legend := p.Legend
			p.Legend = plot.NewLegend()
			layout(canvas, legend, p)
		},
	}
}

// spread removes labels of ticks that are too near each other to be read.
func spread(ticks plot.ConstantTicks, axis *plot.Axis) plot.ConstantTicks {
	last := math.Inf(-1)
	var kept plot.ConstantTicks
	for _, tick := range ticks {
		if tick.Value < axis.Min {
			continue // no length at all
		}
		at := axis.Norm(tick.Value)
		if at-last < 0.06 {
			tick.Label = ""
		} else {
			last = at
		}
		kept = append(kept, tick)
	}
	return kept
}

// slope returns ", n^x" for the power x of the length that fits the times best.
func slope(points []xy) string {
	var n, sx, sy, sxx, sxy float64
	for _, p := range points {
		x, y := math.Log(p.x), math.Log(p.y)
		n, sx, sy, sxx, sxy = n+1, sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	d := n*sxx - sx*sx
	if n < 2 || d < 1e-9 {
		return ""
	}
	return fmt.Sprintf(", n^%.2f", (n*sxy-sx*sy)/d)
}

// short formats a length for an axis: 32k is 32768.
func short(n int) string {
	switch {
	case n > 0 && n%(1<<20) == 0:
		return fmt.Sprintf("%dM", n>>20)
	case n > 0 && n%(1<<10) == 0:
		return fmt.Sprintf("%dk", n>>10)
	}
	return thousands(n)
}

// stageOrder is that of the stages in bars, with their colours; others follow.
var stageOrder = []struct {
	name  string
	color color.RGBA
}{
	{"search", palette[4]}, {"gather", palette[1]}, {"window", palette[5]}, {"sparse", palette[0]}, {"dense", palette[2]},
	{"audit", palette[3]},
}

// stages returns those of the points, in the order in which they are drawn, with their colours.
func stages(points []*Point) (names []string, colors map[string]color.RGBA) {
	seen := make(map[string]bool)
	for _, p := range points {
		for name := range p.Stages {
			seen[name] = true
		}
	}
	colors = make(map[string]color.RGBA)
	for _, s := range stageOrder {
		if seen[s.name] {
			names = append(names, s.name)
			colors[s.name] = s.color
			delete(seen, s.name)
		}
	}
	more := []color.RGBA{{0xf0, 0xe4, 0x42, 0xff}, {0, 0, 0, 0xff}}
	for i, name := range slices.Sorted(maps.Keys(seen)) {
		names = append(names, name)
		colors[name] = more[i%len(more)]
	}
	return names, colors
}

// bars are times split by stage, from the top.
type bars struct {
	points []*Point
	labels []string // to the right of the bars
	names  []string
	colors map[string]color.RGBA
}

// elsewhere is the time of no stage.
var elsewhere = color.RGBA{0xc8, 0xc8, 0xc8, 0xff}

// Plot implements plot.Plotter.
func (b *bars) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	box := func(row int, from, to float64, fill color.Color) {
		at := float64(len(b.points) - 1 - row)
		left, right, bottom, top := x(min(from, p.X.Max)), x(min(to, p.X.Max)), y(at-0.36), y(at+0.36)
		c.FillPolygon(fill, []vg.Point{{X: left, Y: bottom}, {X: right, Y: bottom}, {X: right, Y: top}, {X: left, Y: top}})
	}
	for i, point := range b.points {
		done := 0.0
		for _, name := range b.names {
			if s := point.Stages[name]; finite(s) && s > 0 {
				box(i, done, done+s, b.colors[name])
				done += s
			}
		}
		if rest := point.Seconds - done; rest > 0 {
			box(i, done, point.Seconds, elsewhere)
			done = point.Seconds
		}
		label := p.Y.Tick.Label
		label.XAlign, label.YAlign = draw.XLeft, draw.YCenter
		c.FillText(label, vg.Point{X: x(min(done, p.X.Max)) + 4, Y: y(float64(len(b.points)-1-i)) + label.FontExtents().Descent}, b.labels[i])
	}
}

// A swatch is the thumbnail of a colour.
type swatch struct{ color color.Color }

// Thumbnail implements plot.Thumbnailer.
func (s swatch) Thumbnail(c *draw.Canvas) {
	fill(draw.Crop(*c, 12, -2, 0, 0), s.color)
}

// stageFigure draws the time of each method by stage.
func (c *Comparison) stageFigure(in *Input, file string) figure {
	about := fmt.Sprintf("%s, %s tokens; dense attention: %s", shorten(clean(in.Name), 40), thousands(in.Tokens), seconds(in.DenseSeconds))
	b := new(bars)
	var names []string
	for _, method := range in.methods() {
		point, met := in.typical(method)
		if method == "dense" || !finite(point.Seconds) || point.Seconds < 0 {
			continue
		}
		label := fmt.Sprintf("%.3g s, %s", point.Seconds, number(in.Speedup(*point), "%.3g×"))
		if !met {
			label += ", recall " + number(point.Recall.Mean, "%.3f")
		}
		b.points, b.labels = append(b.points, point), append(b.labels, label)
		names = append(names, shorten(clean(method), 28))
	}
	b.names, b.colors = stages(b.points)
	return figure{
		file: file + "-stages", title: "Time by stage, " + about, height: vg.Length(90 + 22*max(len(names), 3)),
		caption: `Where the time goes: search is finding the keys, gather copying them together, and window, sparse and dense
are attention itself; grey is what belongs to no stage. Each method is shown where it met the recall asked for (where
none was asked for, the density); of one that did not, the recall it has is given. To the right stand the seconds and how
many times as fast as dense attention that is.`,
		draw: func(canvas draw.Canvas) {
			p := newPlot(about, "time (seconds)", "")
			p.Add(b)
			longest := 0.0
			for _, point := range b.points {
				total := 0.0
				for _, s := range point.Stages {
					if finite(s) && s > 0 {
						total += s
					}
				}
				longest = max(longest, total, point.Seconds)
			}
			if longest == 0 || !finite(longest) {
				longest = 1
			}
			p.X.Min, p.X.Max = 0, 1.36*longest // room for the labels
			var ticks plot.ConstantTicks
			for i, name := range names {
				ticks = append(ticks, plot.Tick{Value: float64(len(names) - 1 - i), Label: name})
			}
			p.Y.Min, p.Y.Max = -0.6, float64(max(len(names), 1))-0.4
			p.Y.Tick.Marker = ticks
			p.Y.Tick.Length = 0
			legend := p.Legend
			for _, name := range b.names {
				legend.Add(shorten(clean(name), 28), swatch{b.colors[name]})
			}
			legend.Add("other", swatch{elsewhere})
			layout(canvas, legend, p)
		},
	}
}

// viridis are points of the colour map of that name, evenly spaced.
var viridis = []color.RGBA{
	{0x44, 0x01, 0x54, 0xff}, {0x48, 0x24, 0x75, 0xff}, {0x41, 0x44, 0x87, 0xff}, {0x35, 0x5f, 0x8d, 0xff},
	{0x2a, 0x78, 0x8e, 0xff}, {0x21, 0x91, 0x8c, 0xff}, {0x22, 0xa8, 0x84, 0xff}, {0x44, 0xbf, 0x70, 0xff},
	{0x7a, 0xd1, 0x51, 0xff}, {0xbd, 0xdf, 0x26, 0xff}, {0xfd, 0xe7, 0x25, 0xff},
}

func mix(a, b color.RGBA, t float64) color.RGBA {
	part := func(a, b uint8) uint8 { return uint8(math.Round(float64(a) + t*(float64(b)-float64(a)))) }
	return color.RGBA{part(a.R, b.R), part(a.G, b.G), part(a.B, b.B), 0xff}
}

// shade returns the colour of t in [0, 1] in viridis, and the grey that is as bright.
func shade(t float64) (colour, grey color.RGBA) {
	at := t * float64(len(viridis)-1)
	i := min(int(at), len(viridis)-2)
	colour = mix(viridis[i], viridis[i+1], at-float64(i))
	y := color.GrayModel.Convert(colour).(color.Gray).Y
	return colour, color.RGBA{y, y, y, 0xff}
}

// A heat is the mass of a map, and what is kept of it.
type heat struct {
	m      *Map
	share  []float64 // nil for the mass alone
	lo, hi float64   // of the colours
}

// outline is the colour around what is kept.
var outline = color.RGBA{0xd5, 0x5e, 0x00, 0xff}

// image paints the map, each cell as a square of pixels.
func (h *heat) image() image.Image {
	n := h.m.Size
	k := max(1, 384/n)
	img := image.NewRGBA(image.Rect(0, 0, n*k, n*k))
	kept := func(row, col int) bool {
		return h.share != nil && row >= 0 && row < n && col >= 0 && col <= row && h.share[row*n+col] > 0
	}
	edge := max(1, k/6)
	for row := range n {
		for col := range n {
			fill := color.RGBA{0xff, 0xff, 0xff, 0xff}
			if col <= row {
				t := (math.Log(h.m.Mass[row*n+col]) - math.Log(h.lo)) / (math.Log(h.hi) - math.Log(h.lo))
				if math.IsNaN(t) { // no mass at all
					t = 0
				}
				colour, grey := shade(min(max(0, t), 1))
				switch {
				case h.share == nil:
					fill = colour
				case kept(row, col):
					fill = mix(grey, colour, 0.4+0.6*min(h.share[row*n+col], 1))
				default:
					fill = grey
				}
			}
			for y := range k {
				for x := range k {
					pixel := fill
					if kept(row, col) && (y < edge && !kept(row-1, col) || y >= k-edge && !kept(row+1, col) && row < n-1 ||
						x < edge && !kept(row, col-1) || x >= k-edge && !kept(row, col+1)) && k > 2 {
						pixel = outline
					}
					img.SetRGBA(col*k+x, row*k+y, pixel)
				}
			}
		}
	}
	return img
}

// Plot implements plot.Plotter.
func (h *heat) Plot(c draw.Canvas, _ *plot.Plot) {
	c.DrawImage(c.Rectangle, h.image())
	c.StrokeLines(draw.LineStyle{Color: color.Gray{0x80}, Width: 0.5}, []vg.Point{
		{X: c.Min.X, Y: c.Min.Y}, {X: c.Max.X, Y: c.Min.Y}, {X: c.Max.X, Y: c.Max.Y}, {X: c.Min.X, Y: c.Max.Y}, c.Min,
	})
}

// mapFigure draws where the mass of a head lies and what each method kept of it.
func (c *Comparison) mapFigure(in *Input, m *Map, file string) figure {
	const columns, barWidth, tile, top = 4, 96, 168, 24
	rows := (len(m.Kept) + columns) / columns // with the mass alone
	name := fmt.Sprintf("head %d", m.Head)
	if m.Kind != "" {
		name += " (" + shorten(clean(m.Kind), 30) + ")"
	}
	about := fmt.Sprintf("%s, %s tokens, %s", shorten(clean(in.Name), 40), thousands(in.Tokens), name)
	return figure{
		file: file, title: "Attention mass and what was kept, " + about, height: vg.Length(rows*tile + top + 30),
		caption: fmt.Sprintf(`Where the softmax mass of this head lies: the query's position goes down, the key's to the right, and
each cell is %s rows and as many keys. Bright cells hold more of their rows' mass (logarithmic scale). The first picture
is the mass alone, the others have the density of this head. In them what a method attended is in colour within an orange line, the paler the fewer of the
cell's keys were kept, and what it dropped is grey: bright grey is mass lost. A cell is within the line when any of its
keys was kept.`, thousands(m.Cell)),
		draw: func(canvas draw.Canvas) {
			fill(canvas, color.White)
			hi := 0.0
			for _, x := range m.Mass {
				if finite(x) {
					hi = max(hi, x)
				}
			}
			if hi == 0 {
				hi = 1
			}
			lo := math.Inf(1)
			for _, x := range m.Mass {
				if finite(x) && x > 0 {
					lo = min(lo, x)
				}
			}
			lo = math.Pow(10, math.Floor(math.Log10(max(min(lo, hi/10), hi*1e-5, 1e-200))))
			hi = max(hi, 10*lo)

			extent := float64(m.Size) * float64(m.Cell)
			var ticks plot.ConstantTicks
			for i := range 3 {
				at := extent * float64(i) / 2
				ticks = append(ticks, plot.Tick{Value: at, Label: short(int(at))})
			}
			title := newPlot(about, "", "")
			style := title.Title.TextStyle
			style.XAlign, style.YAlign = draw.XCenter, draw.YTop
			canvas.FillText(style, vg.Point{X: canvas.Center().X, Y: canvas.Max.Y - 8}, about)
			area := draw.Crop(canvas, 8, -barWidth-8, 8, -top)
			tiles := draw.Tiles{Cols: columns, Rows: rows, PadX: 6, PadY: 6}
			for i := range len(m.Kept) + 1 {
				h := &heat{m: m, lo: lo, hi: hi}
				label := "mass alone"
				if i > 0 {
					kept := m.Kept[i-1]
					h.share = kept.Share
					label = shorten(clean(kept.Method), 24)
					for _, head := range in.Points[kept.Point].HeadPoints {
						if head.Head == m.Head {
							label = shorten(clean(kept.Method), 16) + ", " + percent(head.Density)
						}
					}
				}
				p := newPlot(label, "", "")
				p.Title.TextStyle.Font.Size = 9.5
				p.Title.Padding = 3
				p.X.Min, p.X.Max, p.Y.Min, p.Y.Max = 0, max(extent, 1), 0, max(extent, 1)
				p.Y.Scale = plot.InvertedScale{Normalizer: plot.LinearScale{}}
				p.X.Tick.Marker, p.Y.Tick.Marker = ticks, ticks
				p.X.Tick.Label.Font.Size, p.Y.Tick.Label.Font.Size = 8, 8
				p.X.Label.TextStyle.Font.Size, p.Y.Label.TextStyle.Font.Size = 8.5, 8.5
				p.X.Label.Text, p.Y.Label.Text = "key position", "query position"
				if m.Size > 0 {
					p.Add(h)
				}
				drawPlot(tiles.At(area, i%columns, i/columns), p)
			}
			colourBar(draw.Crop(canvas, canvas.Max.X-canvas.Min.X-barWidth, -8, 8, -top), lo, hi)
		},
	}
}

// colourBar draws the scale of a map: in colour what is kept, in grey what is dropped.
func colourBar(c draw.Canvas, lo, hi float64) {
	const n = 128
	img := image.NewRGBA(image.Rect(0, 0, 2, n))
	for i := range n {
		colour, grey := shade(1 - (float64(i)+0.5)/n)
		img.SetRGBA(0, i, colour)
		img.SetRGBA(1, i, grey)
	}
	p := newPlot("", "", "")
	p.Y.Min, p.Y.Max = lo, hi
	p.Y.Scale = plot.LogScale{}
	p.Y.Tick.Marker = plot.ConstantTicks(logTicks(lo, hi, plain))
	p.Y.Label.Text = "softmax mass of the cell, mean over its rows (log scale)"
	p.X.Min, p.X.Max = 0, 2
	p.X.Tick.Marker = plot.ConstantTicks{{Value: 0.5, Label: "kept"}, {Value: 1.5, Label: "lost"}}
	p.X.Tick.Length = 0
	p.X.Tick.Label.Font.Size, p.Y.Tick.Label.Font.Size = 8, 8
	p.Add(stretched{img})
	height := min(c.Max.Y-c.Min.Y, 330)
	drawPlot(draw.Crop(c, 0, 0, c.Max.Y-c.Min.Y-height, 0), p)
}

// stretched fills a plot with an image.
type stretched struct{ image.Image }

// Plot implements plot.Plotter.
func (s stretched) Plot(c draw.Canvas, _ *plot.Plot) {
	const k = 4 // that edges stay sharp
	b := s.Bounds()
	img := image.NewRGBA(image.Rect(0, 0, 8*k*b.Dx(), k*b.Dy()))
	for y := range k * b.Dy() {
		for x := range 8 * k * b.Dx() {
			img.Set(x, y, s.At(x/(8*k), y/k))
		}
	}
	c.DrawImage(c.Rectangle, img)
}

// figures returns all figures of the comparison: those of several inputs, and those of each.
func (c *Comparison) figures() (shared []figure, each [][]figure) {
	for i, g := range c.groups() {
		shared = append(shared, c.timeFigure(g, fmt.Sprintf("time-%d", i+1)))
	}
	for i := range c.Inputs {
		in := &c.Inputs[i]
		file := fmt.Sprintf("%02d-%s-%d", i+1, slug(in.Name), in.Tokens)
		figures := append(c.recallFigures(in, file), c.errorFigure(in, file), c.stageFigure(in, file))
		for j := range in.Maps {
			figures = append(figures, c.mapFigure(in, &in.Maps[j], fmt.Sprintf("%s-map-%d", file, j+1)))
		}
		each = append(each, figures)
	}
	return shared, each
}

// slug returns what of the name can be part of a file's name anywhere.
func slug(name string) string {
	var out []byte
	for _, r := range strings.ToLower(name) {
		switch {
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			out = append(out, byte(r))
		case len(out) > 0 && out[len(out)-1] != '-':
			out = append(out, '-')
		}
		if len(out) == 40 {
			break
		}
	}
	return strings.Trim(string(out), "-")
}
