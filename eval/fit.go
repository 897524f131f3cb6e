package eval

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
)

// ErrTooLong says that no sample is as short as asked for.
var ErrTooLong = errors.New("does not fit")

// Fit returns the most that a prompt can hold of something: the largest n in [lo, hi], as bisection finds it, for which the prompt
// of size n and the beginning of its answer have no more tokens than limit. The last prompt that is made is that of the size returned. If
// the smallest is too long, the error is [ErrTooLong].
func Fit(f *Format, lo, hi, limit int, prompt func(n int) (prompt, prefix string, err error)) (int, error) {
	made, best := -1, -1
	fits := func(n int) (bool, error) {
		text, prefix, err := prompt(n)
		made = n
		return err == nil && len(f.Encode(text, prefix)) <= limit, err
	}
	least := lo
	// Where sizes are tokens the largest fits.
	for n := hi; lo <= hi; n = lo + (hi-lo)/2 {
		ok, err := fits(n)
		switch {
		case err != nil:
			return 0, err
		case ok:
			best, lo = n, n+1
		default:
			hi = n - 1
		}
	}
	if best < 0 {
		return 0, fmt.Errorf("a prompt of size %d %w into %d tokens", least, ErrTooLong, limit)
	}
	if made != best {
		if _, _, err := prompt(best); err != nil {
			return 0, err
		}
	}
	return best, nil
}

// Random returns the random numbers that belong to a seed and to what is named beside it: the name of a task, a length, an
// index.
func Random(seed uint64, of ...any) *rand.Rand {
	h := fnv.New64a()
	for _, x := range of {
		fmt.Fprintf(h, "%v\x00", x)
	}
	return rand.New(rand.NewPCG(seed, h.Sum64()))
}
