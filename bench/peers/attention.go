package main

import (
	"context"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/kernel"
	"github.com/anchorattention/anchor/internal/workload"
)

// planners returns the methods of Anchor that are measured, on inputs of every kind. The first is the baseline.
func planners() []anchor.Planner {
	return []anchor.Planner{anchor.Dense(), anchor.AnchorAttention(anchor.DefaultParams()), anchor.Auto(anchor.DefaultParams())}
}

// flops is the work of dense causal attention.
func (s size) flops() float64 {
	return 2 * float64(s.heads) * float64(s.dim) * float64(s.length) * float64(s.length)
}

// workload returns the size as the makers of synthetic heads know it.
func (s size) workload() workload.Size {
	return workload.Size{Heads: s.heads, KVHeads: s.kvHeads, Length: s.length, Dim: s.dim}
}

// data are queries, keys and values as [rows, heads, dim], which every contestant reads as they lie.
type data struct {
	q, k, v []float32
}

// generate makes the synthetic heads of one length.
func generate(w *workload.Workload, s size, threads int) (*data, error) {
	const seed = 1
	d, err := w.Generate(s.workload(), seed, threads)
	if err != nil {
		return nil, err
	}
	return &data{
		q: byRows(d.Q, s.heads, s.length, s.dim),
		k: byRows(d.K, s.kvHeads, s.length, s.dim),
		v: byRows(d.V, s.kvHeads, s.length, s.dim),
	}, nil
}

// byRows turns [heads, rows, dim] into [rows, heads, dim].
func byRows(x []float32, heads, rows, dim int) []float32 {
	y := make([]float32, len(x))
	for h := range heads {
		for r := range rows {
			copy(y[(r*heads+h)*dim:][:dim], x[(h*rows+r)*dim:][:dim])
		}
	}
	return y
}

// bfloat16 rounds numbers to the nearest bfloat16, ties to even.
func bfloat16(x []float32) []uint16 {
	y := make([]uint16, len(x))
	for i, v := range x {
		y[i] = kernel.RoundToBFloat16(v)
	}
	return y
}

// anchors are the contestants of Anchor itself, the baseline first.
func anchors(s size, d *data, threads int) []contestant {
	view := func(t anchor.Tensor) anchor.Tensor { return t.Strided(s.dim, t.Heads()*s.dim) }
	kinds := []anchor.Sequence{
		{
			Q: view(anchor.FromFloat32(d.q, s.heads, s.length, s.dim)),
			K: view(anchor.FromFloat32(d.k, s.kvHeads, s.length, s.dim)),
			V: view(anchor.FromFloat32(d.v, s.kvHeads, s.length, s.dim)),
		},
		{
			Q: view(anchor.FromBFloat16(bfloat16(d.q), s.heads, s.length, s.dim)),
			K: view(anchor.FromBFloat16(bfloat16(d.k), s.kvHeads, s.length, s.dim)),
			V: view(anchor.FromBFloat16(bfloat16(d.v), s.kvHeads, s.length, s.dim)),
		},
	}
	var cs []contestant
	shared := make([]float32, len(d.q)) // outputs that nobody reads
	for _, inputs := range kinds {
		for _, p := range planners() {
			seq, out := inputs, shared
			if len(cs) == 0 {
				out = make([]float32, len(d.q))
			}
			seq.O = view(anchor.FromFloat32(out, s.heads, s.length, s.dim))
			opt := anchor.Options{Planner: p, Threads: threads}
			cs = append(cs, contestant{
				name: "anchor/" + p.Name(), dtype: seq.Q.DType().String(), flops: s.flops(), out: out,
				run: func(ctx context.Context) error {
					_, err := anchor.Attend(ctx, opt, seq)
					return err
				},
			})
		}
	}
	return cs
}
