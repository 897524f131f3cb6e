package anchor

import (
	"context"

	"github.com/anchorattention/anchor/internal/kernel"
)

// AttendAt is Attend with the kernels of a level.
func AttendAt(ctx context.Context, set *kernel.Set, opt Options, seqs ...Sequence) (*Result, error) {
	return attend(ctx, set, opt, seqs)
}

// RaceEnabled is raceEnabled.
const RaceEnabled = raceEnabled
