package report

import (
	"cmp"
	"fmt"
	"image/color"
	"math"
	"slices"
	"strings"

	"gonum.org/v1/plot"
	"gonum.org/v1/plot/vg"
	"gonum.org/v1/plot/vg/draw"
)

// family returns the method without the value of its knob, and that value.
func family(method string) (name, value string) {
	name, value, _ = strings.Cut(method, "=")
	return name, value
}

// families returns those of the methods, in order.
func (e *Evaluation) families() []string {
	var names []string
	for _, m := range e.Methods {
		if name, _ := family(m); !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	return names
}

// evaluationStyles returns a style for each name, that of "dense" being black.
func evaluationStyles(names []string) map[string]style {
	styles := make(map[string]style)
	i := 0
	for _, name := range names {
		if name == "dense" {
			styles[name] = style{draw.LineStyle{Color: color.Black, Width: 1.3}, marker{corners: 4}}
			continue
		}
		styles[name] = style{
			draw.LineStyle{Color: palette[i%len(palette)], Width: 1.3, Dashes: dashes[i/len(palette)%len(dashes)]}, markers[i%len(markers)],
		}
		i++
	}
	return styles
}

// figures returns the figures of the evaluation.
func (e *Evaluation) figures() []figure {
	if len(e.Scores) == 0 {
		return nil
	}
	var figures []figure
	figures = append(figures, e.depthFigures()...)
	if len(e.Lengths) > 1 {
		figures = append(figures, e.lengthFigure())
	}
	figures = append(figures,
		e.costFigure("score-density", "Score against density", "density (% of causal pairs attended, log scale)",
			`Up and to the left is better. `, func(s *Score) float64 { return 100 * s.Density }),
		e.costFigure("score-latency", "Score against time to the first token", "time to the first token (seconds, log scale)",
			`Up and to the left is better: the time is that of the whole prompt, in attention and all else, the median over samples. `, func(s *Score) float64 { return s.FirstToken }))
	if len(e.tasks()) > 1 {
		for _, length := range e.Lengths {
			figures = append(figures, e.taskFigure(length))
		}
	}
	return figures
}

// An errorBars draws intervals, upright or lying.
type errorBars struct {
	style draw.LineStyle
	at    []float64
	from  []float64
	to    []float64
	lying bool
}

// Plot implements plot.Plotter.
func (b *errorBars) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	line := b.style
	line.Dashes = nil
	line.Width = 1
	const cap = 2.5
	for i, at := range b.at {
		if b.lying {
			y := y(at)
			c.StrokeLine2(line, x(b.from[i]), y, x(b.to[i]), y)
			for _, end := range []vg.Length{x(b.from[i]), x(b.to[i])} {
				c.StrokeLine2(line, end, y-cap, end, y+cap)
			}
			continue
		}
		x := x(at)
		c.StrokeLine2(line, x, y(b.from[i]), x, y(b.to[i]))
		for _, end := range []vg.Length{y(b.from[i]), y(b.to[i])} {
			c.StrokeLine2(line, x-cap, end, x+cap, end)
		}
	}
}

// labels write text beside points.
type labels struct {
	at   []xy
	text []string
}

// Plot implements plot.Plotter.
func (l *labels) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	style := p.X.Tick.Label
	style.Font.Size = 8
	style.XAlign, style.YAlign = draw.XLeft, draw.YBottom
	for i, at := range l.at {
		c.FillText(style, vg.Point{X: x(at.x) + 4, Y: y(at.y) + 3}, l.text[i])
	}
}

// scoreScale makes the axis hold scores in percent.
func scoreScale(axis *plot.Axis, scores []Score) {
	lo, hi := reach(scores)
	lo, hi = math.Floor(lo/10)*10, math.Ceil(hi/10)*10
	if hi-lo < 20 {
		lo, hi = max(min(lo, 80), hi-20), max(hi, min(lo+20, 100))
	}
	lo, hi = max(lo, 0), min(hi, 100)
	room := (hi - lo) / 25
	axis.Min, axis.Max = lo-room, hi+room
	step := 20.0
	switch {
	case hi-lo <= 20:
		step = 5
	case hi-lo <= 50:
		step = 10
	}
	var ticks plot.ConstantTicks
	for at := math.Ceil(lo/step) * step; at <= hi; at += step {
		ticks = append(ticks, plot.Tick{Value: at, Label: fmt.Sprintf("%g", at)})
	}
	axis.Tick.Marker = ticks
}

// reach returns the least and the most that the intervals of scores reach, in percent.
func reach(scores []Score) (lo, hi float64) {
	lo, hi = 100, 0
	for _, s := range scores {
		lo, hi = min(lo, 100*s.Score.Low, 100*s.Score.Mean), max(hi, 100*s.Score.High, 100*s.Score.Mean)
	}
	return lo, hi
}

// grid draws plots in rows of columns, and a legend to their right.
func grid(c draw.Canvas, legend plot.Legend, columns int, plots []*plot.Plot) {
	fill(c, color.White)
	c = draw.Crop(c, 8, -8, 8, -8)
	width := legend.Rectangle(c).Size().X
	tiles := draw.Tiles{Cols: columns, Rows: (len(plots) + columns - 1) / columns, PadX: 12, PadY: 10}
	left := draw.Crop(c, 0, -width-14, 0, 0)
	for i, p := range plots {
		drawPlot(tiles.At(left, i%columns, i/columns), p)
	}
	legend.Draw(draw.Crop(c, c.Max.X-c.Min.X-width, 0, 0, -14))
}

// costFigure draws the mean score against what it costs, a plot for each length.
func (e *Evaluation) costFigure(file, title, label, better string, cost func(*Score) float64) figure {
	columns := min(len(e.Lengths), 3)
	rows := (len(e.Lengths) + columns - 1) / columns
	height := vg.Length(rows*230 + 20)
	if columns == 1 {
		height = 340
	}
	return figure{
		file: file, title: title, height: height,
		caption: better + `Each marker is the mean over all tasks at one setting of a method, beside it the value of its knob if one was
given; lines join the settings of a method. Bars are intervals of 95 % (bootstrap over samples).`,
		draw: func(canvas draw.Canvas) {
			styles := evaluationStyles(e.families())
			var plots []*plot.Plot
			legend := newPlot("", "", "").Legend
			for i, length := range e.Lengths {
				p := newPlot(thousands(length)+" tokens", label, "score (%), mean of tasks")
				if columns > 1 {
					p.X.Label.Text = strings.Split(label, " (")[0] + " (" + unit(label) + ")"
				}
				lo, hi := math.Inf(1), 0.0
				for _, name := range e.families() {
					var points []xy
					bars := &errorBars{style: styles[name].line}
					text := &labels{}
					for _, m := range e.Methods {
						of, value := family(m)
						s := at(e.Overall, "", length, m)
						if of != name || s == nil || !finite(cost(s)) || cost(s) <= 0 {
							continue
						}
						point := xy{x: cost(s), y: 100 * s.Score.Mean}
						points = append(points, point)
						bars.at, bars.from, bars.to = append(bars.at, point.x), append(bars.from, 100*s.Score.Low), append(bars.to, 100*s.Score.High)
						if value != "" {
							text.at, text.text = append(text.at, point), append(text.text, clean(value))
						}
						lo, hi = min(lo, point.x), max(hi, point.x)
					}
					slices.SortStableFunc(points, func(a, b xy) int { return cmp.Compare(a.x, b.x) })
					p.Add(bars)
					thumb := addLine(p, styles[name], points)
					p.Add(text)
					if i == 0 {
						legend.Add(shorten(clean(name), 24), thumb)
					}
				}
				logScale(&p.X, lo, hi, plain)
				thin(&p.X, 0.045*float64(columns))
				scoreScale(&p.Y, e.Overall)
				p.Legend = plot.NewLegend()
				plots = append(plots, p)
			}
			grid(canvas, legend, columns, plots)
		},
	}
}

// thin removes labels of an axis that are nearer to the one on their right than a share of the axis.
func thin(axis *plot.Axis, gap float64) {
	ticks := axis.Tick.Marker.Ticks(axis.Min, axis.Max)
	last := math.Inf(1)
	for i, tick := range slices.Backward(ticks) {
		if tick.Label == "" {
			continue
		}
		if at := axis.Norm(tick.Value); last-at < gap {
			ticks[i].Label = ""
		} else {
			last = at
		}
	}
	axis.Tick.Marker = plot.ConstantTicks(ticks)
}

// unit returns what the label of an axis says is its unit, for where there is little room.
func unit(label string) string {
	if strings.HasPrefix(label, "density") {
		return "%"
	}
	return "s"
}

// lengthFigure draws the mean score of each method against the length.
func (e *Evaluation) lengthFigure() figure {
	return figure{
		file: "score-length", title: "Score against length", height: 360,
		caption: `The mean score over all tasks at each length. Bars are intervals of 95 % (bootstrap over samples); methods are
drawn a little beside each other where they would hide one another.`,
		draw: func(canvas draw.Canvas) {
			styles := evaluationStyles(e.Methods)
			p := newPlot("", "length (tokens, log scale)", "score (%), mean of tasks")
			for i, m := range e.Methods {
				var points []xy
				bars := &errorBars{style: styles[m].line}
				for _, length := range e.Lengths {
					s := at(e.Overall, "", length, m)
					if s == nil {
						continue
					}
					x := float64(length) * math.Pow(1.02, float64(i)-float64(len(e.Methods)-1)/2)
					points = append(points, xy{x: x, y: 100 * s.Score.Mean})
					bars.at, bars.from, bars.to = append(bars.at, x), append(bars.from, 100*s.Score.Low), append(bars.to, 100*s.Score.High)
				}
				p.Add(bars)
				p.Legend.Add(shorten(clean(m), 24), addLine(p, styles[m], points))
			}
			logScale(&p.X, float64(e.Lengths[0]), float64(e.Lengths[len(e.Lengths)-1]), plain)
			var ticks plot.ConstantTicks
			for _, n := range e.Lengths {
				ticks = append(ticks, plot.Tick{Value: float64(n), Label: short(n)})
			}
			p.X.Tick.Marker = spread(ticks, &p.X)
			scoreScale(&p.Y, e.Overall)
			legend := p.Legend
			p.Legend = plot.NewLegend()
			layout(canvas, legend, p)
		},
	}
}

// taskFigure draws the scores of all tasks at a length, the worst at the top.
func (e *Evaluation) taskFigure(length int) figure {
	tasks := slices.DeleteFunc(e.tasks(), func(task string) bool { return e.samples(task, length) == "" })
	return figure{
		file: fmt.Sprintf("tasks-%d", length), title: fmt.Sprintf("Scores by task, %s tokens", thousands(length)),
		height: vg.Length(80 + len(tasks)*max(18, 8*len(e.Methods)+4)),
		caption: fmt.Sprintf(`Scores of each task at %s tokens with intervals of 95 %%, those that lose most against dense attention at the top.`,
			thousands(length)),
		draw: func(canvas draw.Canvas) {
			styles := evaluationStyles(e.Methods)
			p := newPlot(thousands(length)+" tokens", "score (%)", "")
			for i, m := range e.Methods {
				var points []xy
				bars := &errorBars{style: styles[m].line, lying: true}
				for k, task := range tasks {
					s := at(e.Scores, task, length, m)
					if s == nil {
						continue
					}
					y := float64(len(tasks)-1-k) + (float64(len(e.Methods)-1)/2-float64(i))*0.7/float64(len(e.Methods))
					points = append(points, xy{x: 100 * s.Score.Mean, y: y})
					bars.at, bars.from, bars.to = append(bars.at, y), append(bars.from, 100*s.Score.Low), append(bars.to, 100*s.Score.High)
				}
				p.Add(bars)
				apart := styles[m]
				apart.line.Width = 0
				p.Legend.Add(shorten(clean(m), 24), addLine(p, apart, points))
			}
			var ticks plot.ConstantTicks
			for k, task := range tasks {
				ticks = append(ticks, plot.Tick{Value: float64(len(tasks) - 1 - k), Label: shorten(clean(task), 24)})
			}
			p.Y.Tick.Marker = ticks
			p.Y.Min, p.Y.Max = -0.6, float64(len(tasks))-0.4
			p.Y.Tick.Length = 0
			var shown []Score
			for _, s := range e.Scores {
				if s.Length == length {
					shown = append(shown, s)
				}
			}
			scoreScale(&p.X, shown)
			legend := p.Legend
			p.Legend = plot.NewLegend()
			layout(canvas, legend, p)
		},
	}
}

// depthFigures draw lengths against depths, a plot for each method, for each task that has depths.
func (e *Evaluation) depthFigures() []figure {
	var figures []figure
	for _, task := range e.tasks() {
		depths := make(map[float64]bool)
		for _, s := range e.Scores {
			for _, d := range s.Depths {
				if s.Task == task {
					depths[d.Depth] = true
				}
			}
		}
		if len(depths) < 2 {
			continue
		}
		var all []float64
		for d := range depths {
			all = append(all, d)
		}
		slices.Sort(all)
		const barWidth = 70
		columns := min(len(e.Methods), 3)
		rows := (len(e.Methods) + columns - 1) / columns
		figures = append(figures, figure{
			file: "depths-" + slug(task), title: "Scores by length and depth, " + clean(task), height: vg.Length(rows*(50+20*len(all)) + 30),
			caption: `The mean score, in percent, by the length of the prompt and by where in it the needle lies: 0 % is its beginning, 100 %
its end. A cell without a number was not asked.`,
			draw: func(canvas draw.Canvas) {
				fill(canvas, color.White)
				canvas = draw.Crop(canvas, 8, -8, 8, -8)
				tiles := draw.Tiles{Cols: columns, Rows: rows, PadX: 10, PadY: 10}
				area := draw.Crop(canvas, 0, -barWidth, 0, 0)
				for i, m := range e.Methods {
					p := newPlot(shorten(clean(m), 30), "length (tokens)", "depth of the needle (%)")
					p.Add(&depthMap{e, task, m, all})
					p.X.Min, p.X.Max = -0.5, float64(len(e.Lengths))-0.5
					p.Y.Min, p.Y.Max = -0.5, float64(len(all))-0.5
					var x, y plot.ConstantTicks
					for i, n := range e.Lengths {
						x = append(x, plot.Tick{Value: float64(i), Label: short(n)})
					}
					for i, d := range all {
						y = append(y, plot.Tick{Value: float64(len(all) - 1 - i), Label: fmt.Sprintf("%.3g", 100*d)})
					}
					p.X.Tick.Marker, p.Y.Tick.Marker = x, y
					p.X.Tick.Length, p.Y.Tick.Length = 0, 0
					drawPlot(tiles.At(area, i%columns, i/columns), p)
				}
				scoreBar(draw.Crop(canvas, canvas.Max.X-canvas.Min.X-barWidth+10, 0, 0, -18))
			},
		})
	}
	return figures
}

// A depthMap is a cell for each length and depth.
type depthMap struct {
	e            *Evaluation
	task, method string
	depths       []float64
}

// Plot implements plot.Plotter.
func (m *depthMap) Plot(c draw.Canvas, p *plot.Plot) {
	x, y := p.Transforms(&c)
	text := p.X.Tick.Label
	text.XAlign, text.YAlign = draw.XCenter, draw.YCenter
	for i, length := range m.e.Lengths {
		s := at(m.e.Scores, m.task, length, m.method)
		for k, depth := range m.depths {
			row := float64(len(m.depths) - 1 - k)
			left, right, bottom, top := x(float64(i)-0.5), x(float64(i)+0.5), y(row-0.5), y(row+0.5)
			corners := []vg.Point{{X: left, Y: bottom}, {X: right, Y: bottom}, {X: right, Y: top}, {X: left, Y: top}}
			var found *Depth
			if s != nil {
				if n := slices.IndexFunc(s.Depths, func(d Depth) bool { return d.Depth == depth }); n >= 0 {
					found = &s.Depths[n]
				}
			}
			if found != nil {
				colour, _ := shade(min(max(found.Score, 0), 1))
				c.FillPolygon(colour, corners)
				text.Color = color.White
				if color.GrayModel.Convert(colour).(color.Gray).Y > 0x70 {
					text.Color = color.Black
				}
				c.FillText(text, vg.Point{X: (left + right) / 2, Y: (bottom + top) / 2}, fmt.Sprintf("%.0f", 100*found.Score))
			}
			c.StrokeLines(draw.LineStyle{Color: color.White, Width: 0.7}, append(corners, corners[0]))
		}
	}
}

// scoreBar draws the scale of a map of scores.
func scoreBar(c draw.Canvas) {
	p := newPlot("", "", "score (%)")
	p.X.Min, p.X.Max = 0, 1
	p.X.Tick.Marker = plot.ConstantTicks{}
	p.X.LineStyle.Width = 0
	p.Y.Min, p.Y.Max = 0, 100
	p.Y.Tick.Marker = plot.ConstantTicks{{Value: 0, Label: "0"}, {Value: 25, Label: "25"}, {Value: 50, Label: "50"}, {Value: 75, Label: "75"}, {Value: 100, Label: "100"}}
	p.Add(ramp{})
	height := min(c.Max.Y-c.Min.Y, 220)
	drawPlot(draw.Crop(c, 0, 0, c.Max.Y-c.Min.Y-height, 0), p)
}

// A ramp fills a plot with all colours of the scale.
type ramp struct{}

// Plot implements plot.Plotter.
func (ramp) Plot(c draw.Canvas, p *plot.Plot) {
	const n = 64
	height := (c.Max.Y - c.Min.Y) / n
	for i := range n {
		colour, _ := shade((float64(i) + 0.5) / n)
		y := c.Min.Y + vg.Length(i)*height
		top := min(y+height+0.5, c.Max.Y) // without a gap
		c.FillPolygon(colour, []vg.Point{{X: c.Min.X, Y: y}, {X: c.Max.X, Y: y}, {X: c.Max.X, Y: top}, {X: c.Min.X, Y: top}})
	}
}
