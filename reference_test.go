package anchor

import (
	"math"
	"math/rand/v2"
	"testing"

	"github.com/anchorattention/anchor/internal/kernel"
	"github.com/anchorattention/anchor/internal/reference"
)

// forLevels runs f at every level of kernels that this machine has; with the race detector, which levels have no part in,
// at the fastest.
func forLevels(t *testing.T, f func(t *testing.T, set *kernel.Set)) {
	levels := kernel.Levels()
	if raceEnabled {
		levels = levels[len(levels)-1:]
	}
	for _, set := range levels {
		t.Run(set.Name(), func(t *testing.T) { f(t, set) })
	}
}

// mustAttend runs the operator and returns its outputs.
func mustAttend(t *testing.T, set *kernel.Set, opt Options, seqs ...Sequence) (o, lse [][]float32, res *Result) {
	t.Helper()
	res, err := attend(t.Context(), set, opt, seqs)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range seqs {
		o, lse = append(o, s.O.f32[0]), append(lse, s.LSE.f32[0])
	}
	return o, lse, res
}

// differ returns the largest absolute difference; NaN equals NaN alone.
func differ(got []float32, want []float64) float64 {
	worst := 0.0
	for i, w := range want {
		d := math.Abs(float64(got[i]) - w)
		if d != d && !(w != w && got[i] != got[i]) {
			return math.Inf(1)
		}
		worst = max(worst, d)
	}
	return worst
}

// split returns the lists of a set by head · groups + group.
func (s *StripeSet) split() [][]int32 {
	lists := make([][]int32, len(s.Offsets)-1)
	for i := range lists {
		lists[i] = s.Indices[s.Offsets[i]:s.Offsets[i+1]]
	}
	return lists
}

// relative returns ‖got − want‖ / ‖want‖.
func relative(got []float32, want []float64) float64 {
	var diff, size float64
	for i, w := range want {
		d := float64(got[i]) - w
		diff += d * d
		size += w * w
	}
	return math.Sqrt(diff / size)
}

// A problem is one sequence in plain slices.
type problem struct {
	heads, kvHeads, dim int
	nq, nk              int
	q, k, v             []float32
	prompt              int      // 0: nk
	scale               *float32 // nil: 1/√dim
}

func newProblem(r *rand.Rand, heads, kvHeads, nq, nk, dim int) *problem {
	p := &problem{heads: heads, kvHeads: kvHeads, dim: dim, nq: nq, nk: nk}
	p.q, p.k, p.v = normal(r, heads*nq*dim), normal(r, kvHeads*nk*dim), normal(r, kvHeads*nk*dim)
	return p
}

func normal(r *rand.Rand, n int) []float32 {
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	return x
}

// sequence returns the problem as the operator wants it, with fresh outputs full of NaN.
func (p *problem) sequence() Sequence {
	o, lse := make([]float32, p.heads*p.nq*p.dim), make([]float32, p.heads*p.nq)
	for i := range o {
		o[i] = float32(math.NaN())
	}
	for i := range lse {
		lse[i] = float32(math.NaN())
	}
	return Sequence{
		Q: FromFloat32(p.q, p.heads, p.nq, p.dim), K: FromFloat32(p.k, p.kvHeads, p.nk, p.dim),
		V: FromFloat32(p.v, p.kvHeads, p.nk, p.dim), O: FromFloat32(o, p.heads, p.nq, p.dim),
		LSE: FromFloat32(lse, p.heads, p.nq, 1), Prompt: p.prompt,
	}
}

// rows cuts the problem to the query rows [from, to): a chunk of the prompt whose keys end where it ends.
func (p *problem) rows(from, to int) *problem {
	c := *p
	c.prompt = p.prompt
	if c.prompt == 0 {
		c.prompt = p.nk
	}
	c.nq, c.nk = to-from, p.nk-p.nq+to
	c.q, c.k, c.v = nil, nil, nil
	for h := range p.heads {
		c.q = append(c.q, p.q[(h*p.nq+from)*p.dim:(h*p.nq+to)*p.dim]...)
	}
	for h := range p.kvHeads {
		c.k = append(c.k, p.k[h*p.nk*p.dim:(h*p.nk+c.nk)*p.dim]...)
		c.v = append(c.v, p.v[h*p.nk*p.dim:(h*p.nk+c.nk)*p.dim]...)
	}
	return &c
}

// plain returns the problem as package reference has it.
func (p *problem) plain() *reference.Problem {
	return &reference.Problem{
		Heads: p.heads, KVHeads: p.kvHeads, Dim: p.dim, Queries: p.nq, Keys: p.nk, Q: p.q, K: p.k, V: p.v, Prompt: p.prompt, Scale: p.scale,
	}
}

// logit is scale·q·k in nats, in double precision.
func (p *problem) logit(h, row, key int) float64 { return p.plain().Logit(h, row, key) }

// factor is what q·k is multiplied by.
func (p *problem) factor() float64 { return p.plain().Factor() }

// solve attends to each row's window and to the given stripes as the definition states it, to every key without params.
func (p *problem) solve(params *Params, stripes [][]int32) *reference.Answer {
	if params == nil {
		return p.plain().Attend(nil, nil)
	}
	return p.plain().Attend(&reference.Params{
		Block: params.Block, Step: params.Step, Init: params.Init, Local: params.Local, Tail: params.Tail, Theta: params.Theta,
	}, stripes)
}
