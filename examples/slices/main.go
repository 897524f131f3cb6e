// Slices attends to queries, keys and values in plain slices, densely and with AnchorAttention, and compares the two.
//
//	go run ./examples/slices
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"math"
	"math/rand/v2"
	"os"

	"github.com/anchorattention/anchor"
)

func main() {
	if err := run(context.Background(), os.Stdout, 16384); err != nil {
		log.Fatal(err)
	}
}

const heads, kvHeads, dim = 8, 2, 128

// run compares the methods over n positions.
func run(ctx context.Context, w io.Writer, n int) error {
	q, k, v := inputs(n)
	var exact []float32
	for _, planner := range []anchor.Planner{anchor.Dense(), anchor.AnchorAttention(anchor.DefaultParams())} {
		o := make([]float32, heads*n*dim)
		res, err := anchor.Attend(ctx, anchor.Options{Planner: planner, AuditRows: 64}, anchor.Sequence{
			Q: anchor.FromFloat32(q, heads, n, dim),
			K: anchor.FromFloat32(k, kvHeads, n, dim),
			V: anchor.FromFloat32(v, kvHeads, n, dim),
			O: anchor.FromFloat32(o, heads, n, dim),
		})
		if err != nil {
			return err
		}
		if exact == nil {
			exact = o
		}
		seconds := res.Seconds - res.Stages[anchor.StageAudit]
		fmt.Fprintf(w, "%-6s  %.3f s, density %.3f, recall %.4f, off by %.1e of the output\n",
			res.Method, seconds, res.Density(), res.Recall.Mean, difference(o, exact))
	}
	return nil
}

// inputs makes heads that look at the first key and at one key in fifty, and hardly at others.
func inputs(n int) (q, k, v []float32) {
	rng := rand.New(rand.NewPCG(1, 2))
	normal := func(rows int) []float32 {
		x := make([]float32, rows*dim)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		return x
	}
	q, k, v = normal(heads*n), normal(kvHeads*n), normal(kvHeads*n)
	for i := range heads * n {
		q[i*dim] = 14 // what the head looks for is the first element of a key
	}
	for i := range kvHeads * n {
		if i%n%50 == 0 {
			k[i*dim] = 14
		}
	}
	return q, k, v
}

// difference returns the norm of x − y over that of y.
func difference(x, y []float32) float64 {
	var above, below float64
	for i := range x {
		d := float64(x[i] - y[i])
		above += d * d
		below += float64(y[i]) * float64(y[i])
	}
	return math.Sqrt(above / below)
}
