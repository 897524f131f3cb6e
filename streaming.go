package anchor

import "fmt"

// StreamingParams are the parameters of StreamingLLM (Xiao et al., "Efficient Streaming Language Models with Attention
// Sinks", ICLR 2024, arXiv 2309.17453), as papers on sparse prefill use it: a row at position p attends to the keys j < Sink and to
// p − Window < j ≤ p. The method itself is one of decoding: it has 4 sinks, and counts positions inside the cache.
type StreamingParams struct {
	Sink   int // first keys, ≥ 0
	Window int // last keys, the row's own among them, ≥ 1
	Tail   int // last rows of the prompt, which see every key, ≥ 0
}

// DefaultStreamingParams returns the sizes that papers on sparse prefill give it for long prompts.
func DefaultStreamingParams() StreamingParams {
	return StreamingParams{Sink: 1024, Window: 8192, Tail: 128}
}

// StreamingLLM returns the planner of a fixed pattern, the first keys and a sliding window.
func StreamingLLM(p StreamingParams) Planner { return streaming{p} }

type streaming struct{ StreamingParams }

func (streaming) Name() string { return "streaming" }

func (s streaming) Validate() error {
	return inRange("StreamingParams", bound{"Sink", s.Sink, 0}, bound{"Window", s.Window, 1}, bound{"Tail", s.Tail, 0})
}

func (s streaming) Cut(shape Shape) []Rows {
	tail := min(max(shape.tail(s.Tail), shape.First()), shape.Keys)
	return cutDense(cutDense(nil, shape, shape.First(), tail), shape, tail, shape.Keys)
}

func (s streaming) Plan(g *Group) {
	if !g.attendTail(s.Tail) {
		g.Attend(StageWindow, aShape(g, s.Sink, s.Window))
	}
}

// aShape returns the first keys and a sliding window of the last ones.
func aShape(g *Group, first, last int) KeySet {
	return KeySet{Spans: []Span{{0, min(first, g.To)}}, Bands: []Band{{Near: 0, Far: last - 1, From: first}}}
}

// A bound is a field with the least value that it may have.
type bound struct {
	name         string
	value, least int
}

// inRange reports the first field that is out of range.
func inRange(of string, fields ...bound) error {
	for _, f := range fields {
		if f.value < f.least || f.value > maxPosition {
			return fmt.Errorf("%s.%s is %d; want %d … %d", of, f.name, f.value, f.least, maxPosition)
		}
	}
	return nil
}
