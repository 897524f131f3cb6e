package anchor_test

import (
	"context"
	"testing"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/compliance"
	"github.com/anchorattention/anchor/internal/kernel"
)

// This processor is an engine at every level of kernels that it has; with the race detector, which levels have no part in, at the
// fastest.
func TestCompliance(t *testing.T) {
	levels := kernel.Levels()
	if anchor.RaceEnabled {
		levels = levels[len(levels)-1:]
	}
	for _, set := range levels {
		e := compliance.Engine{
			Attend: func(ctx context.Context, opt anchor.Options, sequences ...anchor.Sequence) (*anchor.Result, error) {
				return anchor.AttendAt(ctx, set, opt, sequences...)
			},
			ISA:    set.Name(),
			Golden: "testdata/golden",
			Types:  []compliance.Type{compliance.Single(anchor.Float32), compliance.Single(anchor.BFloat16)},

			Bitwise: true,
			Auto:    true,
			Slow:    set == kernel.Levels()[0], // plain Go takes twenty times as long
		}
		if set.Pairs() {
			e.Types[1] = compliance.Rounded(anchor.BFloat16, 5e-5, 1e-4)
		}
		if set == levels[len(levels)-1] { // at others half precision is single precision once read: TestMixedTypes
			e.Types = append(e.Types, compliance.Single(anchor.Float16))
		}
		t.Run(set.Name(), func(t *testing.T) { compliance.Test(t, e) })
	}
}
