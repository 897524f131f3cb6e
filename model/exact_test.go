package model

import (
	"context"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/anchorattention/anchor"
)

// Outside attention results are bitwise the same however a text is cut into calls: the keys and values of the first
// layer, which come before all attention, show it.
func TestExactInChunks(t *testing.T) {
	c := Config{
		Vocab: 30, Hidden: 200, Intermediate: 8, Layers: 1, Heads: 2, KVHeads: 2, HeadDim: 12, MaxPositions: 100,
		RMSNormEps: 1e-5, RopeTheta: 10000, Tied: true, BOS: -1,
	}
	rng := rand.New(rand.NewPCG(1, 1))
	m, err := New(c, normal(rng))
	if err != nil {
		t.Fatal(err)
	}
	ids := make([]int32, 70)
	for i := range ids {
		ids[i] = rng.Int32N(30)
	}
	cached := func(cuts ...int) *Cache {
		cache, err := m.NewCache(70)
		if err != nil {
			t.Fatal(err)
		}
		from := 0
		for _, to := range append(cuts, 70) {
			if _, _, err := m.Forward(context.Background(), cache, ids[from:to], ForwardOptions{Planner: anchor.Dense()}); err != nil {
				t.Fatal(err)
			}
			from = to
		}
		return cache
	}
	want := cached()
	for _, cuts := range [][]int{{1}, {1, 2, 3, 20, 21}, {33}, {69}} {
		got := cached(cuts...)
		if !slices.Equal(got.f32[0][0], want.f32[0][0]) || !slices.Equal(got.f32[1][0], want.f32[1][0]) {
			t.Errorf("keys and values differ when the text is cut at %v", cuts)
		}
	}
}
