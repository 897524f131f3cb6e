// Planner is a method of attention of one's own, a sliding window and the first keys, and what an audit says of it beside
// AnchorAttention, on heads that look at near keys, at the first one, and now and then at one far away.
//
//	go run ./examples/planner
package main

import (
	"context"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"os"

	"github.com/anchorattention/anchor"
)

// A window is a planner under which each row sees the first keys and the last ones, and the last rows of the prompt see all.
type window struct {
	Sinks, Size, Tail int
}

func (window) Name() string { return "window" }

func (w window) Validate() error {
	if w.Sinks < 0 || w.Size < 1 || w.Tail < 0 {
		return fmt.Errorf("window is %+v; want no negative number, and a Size from 1", w)
	}
	return nil
}

// Cut makes groups of 1024 rows. They end at multiples of that, wherever a call begins, and where the tail does.
func (w window) Cut(s anchor.Shape) []anchor.Rows {
	var rows []anchor.Rows
	tail := s.Prompt - w.Tail
	for from := s.First(); from < s.Keys; {
		to := min((from/1024+1)*1024, s.Keys)
		if from < tail && tail < to {
			to = tail
		}
		rows = append(rows, anchor.Rows{From: from, To: to})
		from = to
	}
	return rows
}

// Plan attends to the keys of a group. Bands begin after the sinks, since no row may see a key twice.
func (w window) Plan(g *anchor.Group) {
	if g.From >= g.Prompt-w.Tail {
		g.Attend(anchor.StageDense, anchor.KeySet{Spans: []anchor.Span{{From: 0, To: g.To}}})
		return
	}
	g.Attend(anchor.StageWindow, anchor.KeySet{
		Spans: []anchor.Span{{From: 0, To: min(w.Sinks, g.To)}},
		Bands: []anchor.Band{{Near: 0, Far: w.Size - 1, From: w.Sinks}},
	})
}

func main() {
	if err := run(context.Background(), os.Stdout, 16384); err != nil {
		log.Fatal(err)
	}
}

// run measures the methods over n positions.
func run(ctx context.Context, w io.Writer, n int) error {
	const heads, dim, auditRows = 4, 64, 128
	q, k, v := inputs(heads, n, dim)
	for _, planner := range []anchor.Planner{window{Sinks: 16, Size: 2048, Tail: 128}, anchor.AnchorAttention(anchor.DefaultParams())} {
		res, err := anchor.Attend(ctx, anchor.Options{Planner: planner, AuditRows: auditRows}, anchor.Sequence{
			Q: anchor.FromFloat32(q, heads, n, dim),
			K: anchor.FromFloat32(k, heads, n, dim),
			V: anchor.FromFloat32(v, heads, n, dim),
			O: anchor.FromFloat32(make([]float32, heads*n*dim), heads, n, dim),
		})
		if err != nil {
			return err
		}
		r := res.Recall
		fmt.Fprintf(w, "%-6s  density %.3f, recall %.4f in the mean, %.4f at the 5th percentile, %.4f at least\n",
			res.Method, res.Density(), r.Mean, r.P5, r.Min)
	}
	return nil
}

// inputs makes heads whose queries find the first key, every 300th one, and keys at random.
func inputs(heads, n, dim int) (q, k, v []float32) {
	rng := rand.New(rand.NewPCG(3, 4))
	normal := func() []float32 {
		x := make([]float32, heads*n*dim)
		for i := range x {
			x[i] = float32(rng.NormFloat64())
		}
		return x
	}
	q, k, v = normal(), normal(), normal()
	for i := range heads * n {
		q[i*dim] = 10
		switch at := i % n; {
		case at == 0:
			k[i*dim] = 16
		case at%300 == 0:
			k[i*dim] = 13
		}
	}
	return q, k, v
}
