package anchor

import (
	"context"
)

// A Sequence is one sequence of a batch: its inputs and where its outputs go.
type Sequence struct {
	Q    Tensor // [heads, Nq, dim]
	K, V Tensor // [KV heads, Nk, dim], Nk ≥ Nq
	O    Tensor // F32 [heads, Nq, dim], written; overlaps no other tensor
	LSE  Tensor // F32 [heads, Nq, 1], written: natural log of the sum of exponentials over the keys attended; optional

	// Prompt is the length of the whole prompt, in positions, when this call holds only a part of it or goes
	// beyond it; 0 means that the call ends the prompt (Nk). The tail that sees every key is counted from here.
	Prompt int
}

// Options say how to attend.
type Options struct {
	Planner   Planner  // which keys each row sees: Dense() or AnchorAttention(params)
	Scale     *float32 // factor on q·k; nil means 1/√dim
	Threads   int      // goroutines to use; 0 means GOMAXPROCS
	AuditRows int      // rows of each head whose exact recall is measured; 0 means no audit
	Stripes   bool     // return the stripes found

	// Progress, when set, is called now and then with the share of the work that is done, ascending in [0, 1], by
	// one goroutine at a time.
	Progress func(share float64)
}

// Attend computes attention for every sequence, which may differ in length but not in heads and dim, writes O and
// LSE, and reports what it did. It changes no input.
//
// Inputs are checked first: an error names what is wrong and nothing has been written. When ctx ends, Attend
// returns its error soon after, with outputs partly written.
//
// NaN and infinite inputs follow IEEE arithmetic through the softmax of the rows that see them;
// [Result].NonFiniteRows counts the output rows they spoil. Results are bitwise equal from run to run and for any
// number of threads.
func Attend(ctx context.Context, opt Options, seqs ...Sequence) (*Result, error) {
	return nil, nil
}
