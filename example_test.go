package anchor_test

import (
	"context"
	"fmt"
	"log"

	"github.com/anchorattention/anchor"
)

// The keys of one token in fifty are what the queries look for: AnchorAttention finds them and attends to little
// else.
func Example() {
	const heads, kvHeads, n, dim = 4, 2, 4096, 64
	q := make([]float32, heads*n*dim)
	k, v, o := make([]float32, kvHeads*n*dim), make([]float32, kvHeads*n*dim), make([]float32, heads*n*dim)
	for i := range heads * n {
		q[i*dim] = 10
	}
	for i := range kvHeads * n {
		if i%50 == 0 {
			k[i*dim] = 20
		}
		v[i*dim] = float32(i % 50)
	}

	res, err := anchor.Attend(context.Background(),
		anchor.Options{Planner: anchor.AnchorAttention(anchor.DefaultParams()), AuditRows: 16},
		anchor.Sequence{
			Q: anchor.FromFloat32(q, heads, n, dim),
			K: anchor.FromFloat32(k, kvHeads, n, dim),
			V: anchor.FromFloat32(v, kvHeads, n, dim),
			O: anchor.FromFloat32(o, heads, n, dim),
		})
	if err != nil {
		log.Fatal(err)
	}
	fmt.Printf("density %.2f, recall %.3f\n", res.Density(), res.Recall.Mean)
	// Output: density 0.60, recall 1.000
}

// A chunk of a prompt: 1024 queries after 3072 cached keys, which lie as [rows, heads, dim].
func ExampleTensor_Strided() {
	const heads, kvHeads, nq, nk, dim = 4, 2, 1024, 4096, 64
	q, o := make([]float32, nq*heads*dim), make([]float32, nq*heads*dim)
	k, v := make([]float32, nk*kvHeads*dim), make([]float32, nk*kvHeads*dim)
	seq := anchor.Sequence{
		Q:      anchor.FromFloat32(q, heads, nq, dim).Strided(dim, heads*dim),
		K:      anchor.FromFloat32(k, kvHeads, nk, dim).Strided(dim, kvHeads*dim),
		V:      anchor.FromFloat32(v, kvHeads, nk, dim).Strided(dim, kvHeads*dim),
		O:      anchor.FromFloat32(o, heads, nq, dim).Strided(dim, heads*dim),
		Prompt: 6000, // more is to come, so the prompt's tail is not in this chunk
	}
	res, err := anchor.Attend(context.Background(), anchor.Options{Planner: anchor.Dense()}, seq)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(res.Pairs == res.CausalPairs, res.Pairs)
	// Output: true 14682112
}

// Every method keeps more when its knob is turned up. What each loses is seen against dense attention: here the keys that
// queries look for lie too far back for a sliding window.
func ExampleMethods() {
	const n, dim = 4096, 64
	q, k, v, o := make([]float32, n*dim), make([]float32, n*dim), make([]float32, n*dim), make([]float32, n*dim)
	for i := range n {
		q[i*dim] = 10
		if i%50 == 0 && i < 1000 {
			k[i*dim] = 20
		}
	}
	seq := anchor.Sequence{
		Q: anchor.FromFloat32(q, 1, n, dim), K: anchor.FromFloat32(k, 1, n, dim), V: anchor.FromFloat32(v, 1, n, dim),
		O: anchor.FromFloat32(o, 1, n, dim),
	}
	for _, m := range anchor.Methods() {
		value := m.Value
		switch m.Name {
		case "streaming":
			value = 512 // a sink of 64
		case "vecattention":
		default:
			continue
		}
		opt := anchor.Options{AuditRows: 64}
		if err := m.Set(context.Background(), &opt, anchor.DefaultParams(), value, seq); err != nil {
			log.Fatal(err)
		}
		res, err := anchor.Attend(context.Background(), opt, seq)
		if err != nil {
			log.Fatal(err)
		}
		fmt.Printf("%s, %s %g: density %.2f, recall %.2f\n", m.Name, m.Knob, value, res.Density(), res.Recall.Mean)
	}
	// Output:
	// streaming, window 512: density 0.31, recall 0.35
	// vecattention, gap 7: density 0.21, recall 1.00
}
