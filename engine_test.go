package anchor

import (
	"context"
	"errors"
	"math/rand/v2"
	"strings"
	"testing"
)

// elsewhere is an engine that computes here.
type elsewhere struct{ calls []Call }

func (e *elsewhere) Attend(ctx context.Context, c Call) (*Result, error) {
	e.calls = append(e.calls, c)
	if _, auto, ok := c.Params(); auto || !ok && !c.Dense() {
		return nil, errors.New("not for me")
	}
	c.Engine = nil
	return Attend(ctx, c.Options, c.Sequences...)
}

func TestEngine(t *testing.T) {
	p := newProblem(rand.New(rand.NewPCG(1, 2)), 2, 1, 50, 90, 16)
	params := Params{Block: 8, Step: 2, Init: 3, Local: 3, Theta: 2, Tail: 4}
	e := new(elsewhere)
	opt := Options{Planner: AnchorAttention(params), Engine: e, AuditRows: 9, Stripes: true}
	got, err := Attend(t.Context(), opt, p.sequence())
	if err != nil {
		t.Fatal(err)
	}
	opt.Engine = nil
	want, err := Attend(t.Context(), opt, p.sequence())
	if err != nil {
		t.Fatal(err)
	}
	if got.Pairs != want.Pairs || got.Recall != want.Recall || len(got.StripeSets) != 1 || len(e.calls) != 1 {
		t.Errorf("got %d pairs, recall %v, %d stripe sets, %d calls; want %d, %v, 1, 1", got.Pairs, got.Recall, len(got.StripeSets), len(e.calls), want.Pairs, want.Recall)
	}
	refined := params
	refined.Pool = 4
	for name, c := range map[string]struct {
		opt  Options
		want string
	}{
		"input":   {Options{Planner: Dense(), Threads: -1}, "Threads"},
		"auto":    {Options{Planner: Auto(params)}, "not for me"},
		"refined": {Options{Planner: AnchorAttention(refined)}, "not for me"},
		"guard":   {Options{Planner: Dense(), AuditRows: 1, TargetRecall: 0.5}, "TargetRecall with an Engine"},
		"trace":   {Options{Planner: Dense(), Trace: func(Trace) {}}, "Trace with an Engine"},
	} {
		c.opt.Engine = e
		if _, err := Attend(t.Context(), c.opt, p.sequence()); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", name, err, c.want)
		}
	}
}
