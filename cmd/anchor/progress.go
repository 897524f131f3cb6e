package main

import (
	"io"

	"github.com/vbauerster/mpb/v8"
	"github.com/vbauerster/mpb/v8/decor"
)

// A progress is a bar that says how far some work is, on a terminal; elsewhere it shows nothing.
type progress struct {
	screen *mpb.Progress
	bar    *mpb.Bar
}

const progressSteps = 1000

// startProgress shows a bar until end is called.
func startProgress(w io.Writer, label string) *progress {
	screen := mpb.New(mpb.WithOutput(w), mpb.WithWidth(50))
	bar := screen.AddBar(progressSteps, mpb.BarRemoveOnComplete(),
		mpb.PrependDecorators(decor.Name(label, decor.WCSyncSpaceR)),
		mpb.AppendDecorators(decor.Percentage(decor.WC{W: 5}), decor.Elapsed(decor.ET_STYLE_GO, decor.WC{W: 6}),
			decor.Name(", left "), decor.AverageETA(decor.ET_STYLE_GO)))
	return &progress{screen, bar}
}

// report moves the bar to a share of its length.
func (p *progress) report(share float64) { p.bar.SetCurrent(int64(share * progressSteps)) }

// end removes the bar. It may be called more than once.
func (p *progress) end() {
	p.bar.Abort(true)
	p.screen.Wait()
}
