package eval

import (
	"errors"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"sync"
)

// ErrTooLong says that no sample is as short as asked for.
var ErrTooLong = errors.New("does not fit")

// Fit returns the largest size in [lo, hi] that fits, as bisection finds it; the last one that fits is told of is the one
// returned. If none fits, the error is [ErrTooLong].
func Fit(lo, hi int, fits func(size int) (bool, error)) (int, error) {
	least, told, best := lo, -1, -1
	for lo <= hi {
		size := lo + (hi-lo)/2
		ok, err := fits(size)
		told = size
		switch {
		case err != nil:
			return 0, err
		case ok:
			best, lo = size, size+1
		default:
			hi = size - 1
		}
	}
	if best < 0 {
		return 0, fmt.Errorf("a prompt of size %d %w", least, ErrTooLong)
	}
	if told != best {
		if _, err := fits(best); err != nil {
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

// A Sizing makes the samples of a task whose prompts have a size: words of a text, sentences, documents. As RULER does it, the size is
// found once for a length, the largest at which a prompt and the tokens to generate fit; a sample that is longer than
// that one, since it has other needles, is made smaller.
type Sizing struct {
	MaxTokens int // see [Sample]
	// Bounds returns for a length the least size there is, by how much a sample is made smaller as long as it is too long, and a size
	// that is too large.
	Bounds func(length int) (least, step, most int)
	// Search finds the size for a length; nil is [Fit].
	Search func(lo, hi int, fits func(size int) (bool, error)) (int, error)
	// Make makes the sample of an index and a size: Prompt, Prefix, Answers and Values. All that it draws comes from rng.
	Make func(d Draw) (*Sample, error)
}

// A Draw is what a [Sizing] makes a sample of.
type Draw struct {
	*rand.Rand
	Format              *Format
	Length, Index, Size int
}

// Samples returns the function of that name of a [Task] of a suite and a name.
func (z Sizing) Samples(suite, name string) func(f *Format, length, index int, seed uint64) (*Sample, error) {
	type key struct {
		format *Format
		length int
		seed   uint64
	}
	var mu sync.Mutex
	sizes := make(map[key]int)
	return func(f *Format, length, index int, seed uint64) (*Sample, error) {
		limit := length - z.MaxTokens
		var s *Sample
		// try makes the sample of an index, or the one by which the size is found.
		try := func(of any, index, size int) (fits bool, err error) {
			s, err = z.Make(Draw{Random(seed, suite, name, length, of), f, length, index, size})
			return err == nil && len(f.Encode(s.Prompt, s.Prefix)) <= limit, err
		}
		fail := func(err error) (*Sample, error) {
			return nil, fmt.Errorf("%s/%s of %d tokens, %d of them to generate: %w", suite, name, length, z.MaxTokens, err)
		}
		least, step, most := z.Bounds(length)
		mu.Lock()
		size, ok := sizes[key{f, length, seed}]
		mu.Unlock()
		if !ok {
			search := z.Search
			if search == nil {
				search = Fit
			}
			var err error
			size, err = search(least, max(most, least), func(size int) (bool, error) { return try("size", 0, size) })
			if err != nil {
				return fail(err)
			}
			mu.Lock()
			sizes[key{f, length, seed}] = size
			mu.Unlock()
		}
		for {
			fits, err := try(index, index, size)
			switch {
			case err != nil:
				return fail(err)
			case fits:
				s.Suite, s.Task, s.Length, s.Index, s.Seed, s.MaxTokens = suite, name, length, index, seed, z.MaxTokens
				return s, nil
			case size == least:
				return fail(fmt.Errorf("sample %d, of size %d, %w", index, size, ErrTooLong))
			case size-step >= least && step > 0:
				size -= step
			default:
				size--
			}
		}
	}
}
