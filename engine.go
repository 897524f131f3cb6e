package anchor

import (
	"context"
	"errors"
)

// An Engine computes attention elsewhere than on this processor: package cuda has one for NVIDIA GPUs. The library
// knows none; a program imports those it wants and names one in [Options].
type Engine interface {
	// Attend does a call of [Attend], whose inputs have been checked: it writes O and, where there is one, LSE of
	// every sequence, and returns what it did. Audits are none of its business. What it cannot do is an error.
	Attend(ctx context.Context, call Call) (*Result, error)
}

// A Call is a call of [Attend] as an [Engine] sees it.
type Call struct {
	Options
	Sequences []Sequence
	Shapes    []Shape // of the sequences
}

// Params returns the parameters of the call's planner if that is [AnchorAttention], or [Auto], without [Refinements]. Under Auto
// it is the engine's to say where dense attention is better, by what things cost there.
func (c *Call) Params() (p Params, auto, ok bool) {
	a, ok := c.Planner.(*anchorAttention)
	if !ok {
		return Params{}, false, false
	}
	return a.Params, a.auto, a.Pool == 0 && a.Spikes == 0 && a.MaxDensity == 0 && len(a.HeadTheta) == 0
}

// Dense reports whether the call's planner is [Dense].
func (c *Call) Dense() bool {
	_, ok := c.Planner.(dense)
	return ok
}

// Elements returns the elements of one head from the given row to the end of its page, in the slice of the tensor's type,
// and how many rows those are. The elements of row i of them begin at i times the distance between rows. 8-bit ones are left out.
func (t Tensor) Elements(head, row int) (f32 []float32, u16 []uint16, rows int) {
	return t.run(head, row)
}

// Strides returns the distances, in elements, between heads and between rows.
func (t Tensor) Strides() (heads, rows int) { return t.headStep, t.rowStep }

// do does all units, here or elsewhere.
func (r *run) do(ctx context.Context) (*Result, error) {
	switch {
	case r.opt.Engine == nil:
		r.survey()
		return r.attend(), nil
	case r.opt.TargetRecall > 0:
		return nil, errors.New("anchor: Options.TargetRecall with an Engine, which does no head again; want one of the two")
	case r.opt.Trace != nil:
		return nil, errors.New("anchor: Options.Trace with an Engine, which has none; want one of the two")
	}
	return r.opt.Engine.Attend(ctx, Call{Options: r.opt, Sequences: r.seqs, Shapes: r.shapes})
}
