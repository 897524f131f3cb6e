package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/anchorattention/anchor"
)

// The audit sees what a window loses, and AnchorAttention does not.
func TestRun(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), &out, 6000); err != nil {
		t.Fatal(err)
	}
	var recall [2]float64
	for i, line := range strings.Split(strings.TrimSpace(out.String()), "\n") {
		var name string
		var density float64
		if _, err := fmt.Sscanf(line, "%s density %f, recall %f", &name, &density, &recall[i]); err != nil || density <= 0 || density >= 1 {
			t.Fatalf("%q, %v", line, err)
		}
	}
	if recall[0] > 0.95 || recall[1] < 0.95 {
		t.Errorf("the window has recall %v and AnchorAttention %v; want the window's below 0.95", recall[0], recall[1])
	}
}

// A prompt in chunks is cut as in one call, wherever the chunks end.
func TestCut(t *testing.T) {
	w := window{Sinks: 4, Size: 100, Tail: 300}
	ends := func(first, keys int) map[int]bool {
		all := map[int]bool{}
		next := first
		for _, r := range w.Cut(anchor.Shape{Queries: keys - first, Keys: keys, Prompt: 3000}) {
			if r.From != next || r.To <= r.From {
				t.Fatalf("rows %d … %d after %d", r.From, r.To, next)
			}
			next = r.To
			all[r.To] = true
		}
		if next != keys {
			t.Fatalf("rows end at %d; want %d", next, keys)
		}
		return all
	}
	whole := ends(0, 3000)
	for _, cut := range []int{1, 1000, 1024, 2700, 2999} {
		for end := range ends(0, cut) {
			if end != cut && !whole[end] {
				t.Errorf("up to %d, a group ends at %d", cut, end)
			}
		}
		for end := range ends(cut, 3000) {
			if !whole[end] {
				t.Errorf("from %d, a group ends at %d", cut, end)
			}
		}
	}
}
