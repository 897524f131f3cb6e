package bench

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/kernel"
	"github.com/anchorattention/anchor/internal/parallel"
)

// Tune measures what anchor.Costs hold, on as many threads up to four, 0 meaning GOMAXPROCS: the time to gather a key and its value
// over that of attending to them with one more query row. Both are fitted to the times of a few rows and many over the same
// stripes. Progress is that of Config. Without kernels on pairs their cost stays the default's.
func Tune(ctx context.Context, threads int, progress func(share float64)) (anchor.Costs, error) {
	costs := anchor.DefaultCosts()
	set, err := kernel.Default()
	if err != nil {
		return costs, err
	}
	dtypes := []anchor.DType{anchor.Float32}
	if set.Pairs() {
		dtypes = append(dtypes, anchor.BFloat16)
	}
	for i, dtype := range dtypes {
		rows, err := gatherRows(ctx, dtype, threads, func(share float64) {
			if progress != nil {
				progress((float64(i) + share) / float64(len(dtypes)))
			}
		})
		if err != nil {
			return costs, err
		}
		if dtype == anchor.BFloat16 {
			costs.GatherRowsPairs = rows
		} else {
			costs.GatherRows = rows
		}
	}
	return costs, nil
}

// gatherRows measures one of the costs.
func gatherRows(ctx context.Context, dtype anchor.DType, threads int, progress func(share float64)) (float64, error) {
	const (
		keys   = 1 << 16
		every  = 16 // one key in so many is a stripe: 4096 in all
		dim    = 128
		rounds = 9
	)
	sizes := []int{48, 96, 192, 384, 768, 1536} // rows: whole tiles
	heads := min(parallel.Threads(threads), 4)  // one for each thread; 64 MiB of keys and values each
	r := rand.New(rand.NewPCG(1, 2))
	random := func(n int) []float32 {
		x := make([]float32, n)
		for i := range x {
			x[i] = float32(r.NormFloat64())
		}
		return x
	}
	tensor := func(x []float32, rows int) anchor.Tensor {
		if dtype == anchor.BFloat16 {
			return anchor.FromBFloat16(round(x, kernel.RoundToBFloat16), heads, rows, dim)
		}
		return anchor.FromFloat32(x, heads, rows, dim)
	}
	k, v := tensor(random(heads*keys*dim), keys), tensor(random(heads*keys*dim), keys)
	times := make([][]float64, len(sizes))
	for round := range rounds {
		for i, rows := range sizes {
			seq := anchor.Sequence{
				Q: tensor(random(heads*rows*dim), rows), K: k, V: v, O: anchor.FromFloat32(make([]float32, heads*rows*dim), heads, rows, dim),
			}
			opt := anchor.Options{Planner: everyKey{keys - sizes[len(sizes)-1], every}, Threads: heads, Costs: &anchor.Costs{}}
			res, err := anchor.Attend(ctx, opt, seq)
			if err != nil {
				return 0, err
			}
			if round > 0 { // the first one warms up
				times[i] = append(times[i], res.Stages[anchor.StageGather]+res.Stages[anchor.StageSparse])
			}
			progress(float64(round*len(sizes)+i+1) / float64(rounds*len(sizes)))
		}
	}
	// The line through the medians, time = a + b·rows, meets the rows' axis at −a/b.
	var n, sx, sy, sxx, sxy float64
	for i, rows := range sizes {
		x, y := float64(rows), middle(times[i])
		n, sx, sy, sxx, sxy = n+1, sx+x, sy+y, sxx+x*x, sxy+x*y
	}
	b := (n*sxy - sx*sy) / (n*sxx - sx*sx)
	a := (sy - b*sx) / n
	if b <= 0 {
		return 0, fmt.Errorf("bench: more rows took no more time: the machine is too busy to measure; want it idle")
	}
	return max(a/b, 0), nil
}

// everyKey is a planner of stripes at equal distances: those of the keys before a position.
type everyKey struct{ before, every int }

func (everyKey) Name() string    { return "every key" }
func (everyKey) Validate() error { return nil }

func (everyKey) Cut(s anchor.Shape) []anchor.Rows {
	return []anchor.Rows{{From: s.First(), To: s.Keys, PerHead: true}}
}

func (p everyKey) Plan(g *anchor.Group) {
	stripes := make([]int32, 0, p.before/p.every)
	for j := 0; j < p.before; j += p.every {
		stripes = append(stripes, int32(j))
	}
	for h := range g.NumHeads {
		g.AttendHead(anchor.StageSparse, h, anchor.KeySet{Stripes: stripes})
	}
}
