// Package parallel runs independent pieces of work on a fixed number of goroutines.
package parallel

import (
	"runtime"
	"runtime/debug"
	"sync"
	"sync/atomic"
)

// Threads returns n, or GOMAXPROCS when n is 0.
func Threads(n int) int {
	if n == 0 {
		return runtime.GOMAXPROCS(0)
	}
	return n
}

// For calls f(worker, i) once for every i in [0, n), on at most threads goroutines. A worker takes the next i as
// soon as it is free, in ascending order, so put the longest pieces first. No two calls with the same worker
// number in [0, threads) overlap: it can index scratch memory. A panic in f reaches the caller of For, after the
// other workers have stopped. Goroutines have debug.SetPanicOnFault as the caller has it, so that what becomes a panic
// in the caller does in f.
func For(threads, n int, f func(worker, i int)) {
	threads = min(threads, n)
	if threads <= 1 {
		for i := range n {
			f(0, i)
		}
		return
	}
	var (
		next     atomic.Int64
		wg       sync.WaitGroup
		once     sync.Once
		panicked any
	)
	work := func(worker int) {
		defer func() {
			if p := recover(); p != nil {
				next.Store(int64(n))
				once.Do(func() { panicked = p })
			}
		}()
		for {
			i := int(next.Add(1)) - 1
			if i >= n {
				return
			}
			f(worker, i)
		}
	}
	fault := debug.SetPanicOnFault(false)
	debug.SetPanicOnFault(fault)
	for w := 1; w < threads; w++ {
		wg.Go(func() {
			debug.SetPanicOnFault(fault)
			work(w)
		})
	}
	work(0)
	wg.Wait()
	if panicked != nil {
		panic(panicked)
	}
}
