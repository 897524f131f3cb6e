package report

import (
	"context"
	_ "embed"
	"fmt"
	"html/template"
)

//go:embed evaluation.html
var evaluationText string

var evaluationTemplate = template.Must(template.Must(template.New("evaluation").Parse(evaluationText)).Parse(sharedText))

// evaluationPage is what the template shows.
type evaluationPage struct {
	Title, Facts, Command string
	Notes, Tasks          []string
	Figures               []pageFigure
	Overall, Scores       []pageScore
}

type pageScore struct {
	Task, LengthText, Method string
	Length, Samples          int
	Cells                    []scoreCell
}

type scoreCell struct {
	cell
	Worse bool // than dense attention, beyond doubt
}

// WriteDir writes the evaluation into a directory, which it makes when there is none: evaluation.json, each figure as SVG and
// PNG, and index.html, which needs nothing else, last. Files appear whole or not at all; the end of the context is an error, after
// which no more of them appear. progress, unless nil, is called after each figure with the share of them that are there.
func (e *Evaluation) WriteDir(ctx context.Context, dir string, progress func(share float64)) error {
	return writeDir(ctx, dir, "evaluation.json", e, e.figures(), progress, evaluationTemplate, func(drawn []pageFigure) any {
		return evaluationPage{
			Title: e.title(), Facts: e.facts(), Command: clean(e.Command), Notes: cleanAll(e.Notes), Tasks: cleanAll(e.tasks()),
			Figures: drawn, Overall: e.rows(e.Overall), Scores: e.rows(e.Scores),
		}
	})
}

func (e *Evaluation) title() string {
	title := "Evaluation"
	switch e.Suite {
	case "ruler":
		title = "RULER"
	case "niah":
		title = "Needle in a haystack"
	case "longbench":
		title = "LongBench"
	case "lookup":
		title = "Lookups"
	default:
		if e.Suite != "" {
			title = clean(e.Suite)
		}
	}
	if e.Model != "" {
		title += ": " + clean(e.Model)
	}
	return title
}

func (e *Evaluation) rows(scores []Score) []pageScore {
	var rows []pageScore
	for i := range scores {
		s := &scores[i]
		task := clean(s.Task)
		if s.Task == "" {
			task = fmt.Sprintf("mean of %d", s.Tasks)
		}
		row := pageScore{Task: task, LengthText: thousands(s.Length), Method: clean(s.Method), Length: s.Length, Samples: s.Samples}
		add := func(x float64, text string, worse bool) {
			row.Cells = append(row.Cells, scoreCell{sorted(x, text), worse})
		}
		none := scoreCell{cell: cell{Text: "–"}}
		between := func(i Interval, format string) string {
			return fmt.Sprintf("["+format+", "+format+"]", 100*i.Low, 100*i.High)
		}
		add(s.Score.Mean, number(100*s.Score.Mean, "%.1f"), false)
		add(s.Score.Low, between(s.Score, "%.1f"), false)
		if c := s.Change; c != nil {
			worse := c.High < 0
			add(c.Mean, number(100*c.Mean, "%+.1f"), worse)
			add(c.Low, between(*c, "%+.1f"), worse)
		} else {
			row.Cells = append(row.Cells, none, none)
		}
		add(s.Density, percent(s.Density), false)
		if r := s.Recall; r != nil {
			add(r.Mean, fixed(r.Mean), false)
			add(r.P5, fixed(r.P5), false)
			add(r.Min, fixed(r.Min), false)
		} else {
			row.Cells = append(row.Cells, none, none, none)
		}
		add(s.FirstToken, seconds(s.FirstToken), false)
		rows = append(rows, row)
	}
	return rows
}
