//go:build linux || darwin

package mmap

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anchorattention/anchor/internal/parallel"
)

// To read what has been cut off a file is an error that names it, in the goroutine that guards and in those of a loop; other
// panics are what they were.
func TestGuard(t *testing.T) {
	const size = 1 << 20
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, make([]byte, size), 0o666); err != nil {
		t.Fatal(err)
	}
	f, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	read := func(threads int) (sum int, err error) {
		defer Guard(&err)()
		sums := make([]int, threads)
		parallel.For(threads, size>>12, func(worker, i int) { sums[worker] += 1 + int(f.Bytes()[i<<12]) })
		for _, s := range sums {
			sum += s
		}
		return sum, nil
	}
	for _, threads := range []int{1, 3} {
		if sum, err := read(threads); sum != size>>12 || err != nil {
			t.Errorf("%d threads: %d pages, error %v", threads, sum, err)
		}
	}
	if err := os.Truncate(path, size/2); err != nil {
		t.Fatal(err)
	}
	for _, threads := range []int{1, 3} {
		if _, err := read(threads); err == nil || !strings.HasPrefix(err.Error(), path+": cannot be read any more") {
			t.Errorf("%d threads: error %v", threads, err)
		}
	}
	defer func() {
		if p := recover(); p != "another" {
			t.Errorf("a panic became %v", p)
		}
	}()
	defer Guard(&err)()
	panic("another")
}
