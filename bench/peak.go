package bench

import (
	"context"
	"sync"
	"time"

	"github.com/anchorattention/anchor/internal/kernel"
)

// Peak is the most that the machine's multiply-add units were seen to do, in GFLOP/s of single precision, by number
// of threads.
type Peak map[int]float64

// measure raises p to what the machine does now on 1, 2, 4, … and threads threads: the best of several short repetitions,
// because whatever else runs can only slow one down.
func (p Peak) measure(ctx context.Context, threads int) error {
	set, err := kernel.Default()
	if err != nil {
		return err
	}
	const repetition = 10 * time.Millisecond
	rounds := 1 << 10
	for { // until that many take about as long as a repetition
		start := time.Now()
		set.FMA(rounds)
		if time.Since(start) >= repetition/2 {
			break
		}
		rounds *= 2
	}
	for n := 1; ; n = min(2*n, threads) {
		for range 5 {
			if err := ctx.Err(); err != nil {
				return err
			}
			p[n] = max(p[n], fma(set, n, rounds))
		}
		if n == threads {
			return nil
		}
	}
}

// fma returns the GFLOP/s of some threads that multiply and add at the same time.
func fma(set *kernel.Set, threads, rounds int) float64 {
	flops := make([]float64, threads)
	var wg sync.WaitGroup
	start := time.Now()
	for i := range flops {
		wg.Go(func() { flops[i] = set.FMA(rounds) })
	}
	wg.Wait()
	return flops[0] * float64(threads) / time.Since(start).Seconds() / 1e9
}
