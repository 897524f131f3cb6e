package anchor

import (
	"math"
	"math/rand/v2"
)

// A problem is one sequence in plain slices, for the tests' own transcription of the definition.
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

// logit is scale·q·k in nats, in double precision.
func (p *problem) logit(h, row, key int) float64 {
	q := p.q[(h*p.nq+row)*p.dim:][:p.dim]
	k := p.k[(h*p.kvHeads/p.heads*p.nk+key)*p.dim:][:p.dim]
	var s float64
	for d := range q {
		s += float64(q[d]) * float64(k[d])
	}
	return s * p.factor()
}

// factor is what q·k is multiplied by.
func (p *problem) factor() float64 {
	if p.scale != nil {
		return float64(*p.scale)
	}
	return 1 / math.Sqrt(float64(p.dim))
}

// An answer is what the definition gives.
type answer struct {
	o, lse  []float64
	stripes [][]int32 // by head · groups + group
	near    [][]int32 // keys within 1e-4 nats of the threshold, likewise
	groups  int
	pairs   int64
	recall  []float64 // by head · nq + row
}

// solve computes the operator as the definition states it: nothing shared, nothing blocked, nothing online. When
// given, stripes replace those found, so that keys near the threshold do not matter.
func (p *problem) solve(params *Params, given [][]int32) *answer {
	a := &answer{o: make([]float64, p.heads*p.nq*p.dim), lse: make([]float64, p.heads*p.nq)}
	a.recall = make([]float64, p.heads*p.nq)
	first := p.nk - p.nq
	prompt := p.prompt
	if prompt == 0 {
		prompt = p.nk
	}
	size, denseFrom := math.MaxInt32, 0
	if params != nil {
		size, denseFrom = params.Block*params.Step, prompt-params.Tail
	}
	a.groups = (p.nk-1)/size - first/size + 1
	for h := range p.heads {
		for g := first / size; g <= (p.nk-1)/size; g++ {
			start := g * size
			inWindow := func(j, pos int) bool {
				return j <= pos && (params == nil || pos >= denseFrom || j < params.Init || j >= start-params.Local)
			}
			isStripe := map[int]bool{}
			var stripes, near []int32
			if params != nil {
				var queries [][]float64
				var anchors []float64
				for b := start; b < start+size; b += params.Block {
					mean, anchor, n := make([]float64, p.dim), 0.0, 0
					for pos := max(b, first); pos < min(b+params.Block, p.nk) && pos < denseFrom; pos++ {
						top := math.Inf(-1)
						for j := 0; j <= pos; j++ {
							if inWindow(j, pos) {
								top = math.Max(top, p.logit(h, pos-first, j))
							}
						}
						for d := range mean {
							mean[d] += float64(p.q[(h*p.nq+pos-first)*p.dim+d])
						}
						anchor += top
						n++
					}
					if n > 0 {
						for d := range mean {
							mean[d] /= float64(n)
						}
						queries, anchors = append(queries, mean), append(anchors, anchor/float64(n))
					}
				}
				for j := params.Init; j < start-params.Local && len(queries) > 0; j++ {
					keep, close := false, false
					k := p.k[(h*p.kvHeads/p.heads*p.nk+j)*p.dim:][:p.dim]
					for b, q := range queries {
						var s float64
						for d := range q {
							s += q[d] * float64(k[d])
						}
						diff := anchors[b] - s*p.factor()
						keep = keep || !(diff > params.Theta)
						close = close || math.Abs(diff-params.Theta) < 1e-4
					}
					if keep {
						stripes = append(stripes, int32(j))
					}
					if close {
						near = append(near, int32(j))
					}
				}
			}
			a.stripes, a.near = append(a.stripes, stripes), append(a.near, near)
			if given != nil {
				stripes = given[len(a.stripes)-1]
			}
			for _, j := range stripes {
				isStripe[int(j)] = true
			}
			for pos := max(start, first); pos < min(start+size, p.nk); pos++ {
				row := pos - first
				logits := make([]float64, pos+1)
				top, topAll := math.Inf(-1), math.Inf(-1)
				for j := range logits {
					logits[j] = p.logit(h, row, j)
					topAll = math.Max(topAll, logits[j])
					if inWindow(j, pos) || isStripe[j] {
						top = math.Max(top, logits[j])
					}
				}
				var sum, all float64
				o := a.o[(h*p.nq+row)*p.dim:][:p.dim]
				for j, s := range logits {
					all += math.Exp(s - topAll)
					if inWindow(j, pos) || isStripe[j] {
						a.pairs++
						w := math.Exp(s - top)
						sum += w
						v := p.v[(h*p.kvHeads/p.heads*p.nk+j)*p.dim:][:p.dim]
						for d := range o {
							o[d] += w * float64(v[d])
						}
					}
				}
				for d := range o {
					o[d] /= sum
				}
				a.lse[h*p.nq+row] = top + math.Log(sum)
				a.recall[h*p.nq+row] = math.Exp(a.lse[h*p.nq+row] - topAll - math.Log(all))
			}
		}
	}
	return a
}
