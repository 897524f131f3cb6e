package anchor

import (
	"context"
	"fmt"
	"math"
)

// Calibrate returns p with the least Theta for each query head at which the head's mean recall over opt.AuditRows rows
// reaches the target, to a third of a nat: +Inf, which keeps all, for a head that does not reach it at 30. It runs
// attention eight times, with opt but for its planner and target, and writes the sequences' outputs.
func Calibrate(ctx context.Context, opt Options, p Params, target float64, seqs ...Sequence) (Params, error) {
	const least, most, steps = -10.0, 30.0, 7
	switch {
	case !(target > 0 && target <= 1):
		return p, fmt.Errorf("anchor: target of recall is %v; want more than 0, at most 1", target)
	case opt.AuditRows < 1:
		return p, fmt.Errorf("anchor: Options.AuditRows is %d; want ≥ 1", opt.AuditRows)
	case len(seqs) == 0:
		return p, fmt.Errorf("anchor: no sequences; want at least one")
	}
	heads := seqs[0].Q.Heads()
	low, high := make([]float64, heads), make([]float64, heads)
	for h := range heads {
		low[h], high[h] = least, math.Inf(1)
	}
	progress := opt.Progress
	opt.TargetRecall = 0
	for step := range steps + 1 {
		p.HeadTheta = make(Thetas, heads)
		for h := range heads {
			if p.HeadTheta[h] = (low[h] + high[h]) / 2; math.IsInf(high[h], 1) {
				p.HeadTheta[h] = most // first of all: can it be reached?
			}
		}
		opt.Planner = AnchorAttention(p)
		if progress != nil {
			opt.Progress = func(share float64) { progress((float64(step) + share) / (steps + 1)) }
		}
		res, err := Attend(ctx, opt, seqs...)
		if err != nil {
			return p, err
		}
		if res.NonFiniteRows > 0 {
			return p, fmt.Errorf("anchor: %d rows of the outputs are not finite, and have no recall; want finite inputs", res.NonFiniteRows)
		}
		for h := range heads {
			if res.Heads[h].Recall.Mean >= target {
				high[h] = p.HeadTheta[h]
			} else {
				low[h] = p.HeadTheta[h]
			}
		}
	}
	p.HeadTheta = high
	return p, nil
}
