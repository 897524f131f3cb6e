package parallel

import (
	"runtime/debug"
	"sync/atomic"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Every piece is done once, and no two at a time by the same worker.
func TestFor(t *testing.T) {
	for _, threads := range []int{1, 2, 7} {
		for _, n := range []int{0, 1, 5, 1000} {
			done := make([]atomic.Int32, n)
			busy := make([]atomic.Bool, threads)
			For(threads, n, func(worker, i int) {
				if busy[worker].Swap(true) {
					t.Errorf("worker %d does two pieces at a time", worker)
				}
				done[i].Add(1)
				busy[worker].Store(false)
			})
			for i := range done {
				if got := done[i].Load(); got != 1 {
					t.Errorf("%d threads: piece %d of %d was done %d times", threads, i, n, got)
				}
			}
		}
	}
}

// A panic reaches the caller, from whichever goroutine it came, and leaves none behind.
func TestForPanic(t *testing.T) {
	for _, threads := range []int{1, 4} {
		func() {
			defer func() {
				if p := recover(); p != "no" {
					t.Errorf("%d threads: recovered %v", threads, p)
				}
			}()
			For(threads, 100, func(_, i int) {
				if i == 50 {
					panic("no")
				}
			})
		}()
	}
}

// Goroutines have the caller's debug.SetPanicOnFault, and leave the caller's as it is.
func TestForFault(t *testing.T) {
	before := debug.SetPanicOnFault(false)
	defer debug.SetPanicOnFault(before)
	for _, want := range []bool{true, false} {
		debug.SetPanicOnFault(want)
		For(4, 100, func(_, _ int) {
			if got := debug.SetPanicOnFault(want); got != want {
				t.Errorf("a goroutine has %v, want %v", got, want)
			}
		})
		if got := debug.SetPanicOnFault(want); got != want {
			t.Errorf("the caller has %v, want %v", got, want)
		}
	}
}

func TestThreads(t *testing.T) {
	if Threads(3) != 3 || Threads(0) < 1 {
		t.Errorf("Threads(3) = %d, Threads(0) = %d", Threads(3), Threads(0))
	}
}
