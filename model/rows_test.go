package model_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/model"
)

// The logits of a row are those of a text that ends there, in however many calls, and bitwise the same whatever other rows are
// wanted.
func TestRows(t *testing.T) {
	for _, name := range []string{"grouped, untied", "one KV head, tied", "Qwen2"} {
		t.Run(name, func(t *testing.T) {
			m := newModel(t, configs[name])
			ids := tokens(300, configs[name].Vocab)
			some := []int{0, 1, 5, 31, 32, 150, 299}
			var every []int
			for i := range ids {
				every = append(every, i)
			}
			collect := func(cache *model.Cache, ids []int32, rows []int, threads int) map[int][]float32 {
				got := make(map[int][]float32)
				var mu sync.Mutex
				last := forward(t, m, cache, ids, model.ForwardOptions{Planner: anchor.Dense(), Threads: threads, Rows: rows,
					Logits: func(row int, logits []float32) error {
						mu.Lock()
						defer mu.Unlock()
						if got[row] != nil {
							t.Errorf("row %d twice", row)
						}
						got[row] = slices.Clone(logits)
						return nil
					}})
				if len(got) != len(rows) {
					t.Errorf("%d rows; want %d", len(got), len(rows))
				}
				if r := rows[len(rows)-1]; r == len(ids)-1 && !slices.Equal(got[r], last) {
					t.Errorf("the last row's logits are not those that are returned")
				}
				return got
			}
			all := collect(newCache(t, m, len(ids)), ids, every, 0)
			for _, r := range some {
				want := forward(t, m, newCache(t, m, len(ids)), ids[:r+1], model.ForwardOptions{Planner: anchor.Dense()})
				near(t, fmt.Sprintf("row %d", r), all[r], want, 1e-4)
			}
			for r, logits := range collect(newCache(t, m, len(ids)), ids, some, 1) {
				if !slices.Equal(all[r], logits) {
					t.Errorf("row %d of a few is another", r)
				}
			}
			cache := newCache(t, m, len(ids))
			collect(cache, ids[:293], []int{292}, 0)
			for r, logits := range collect(cache, ids[293:], []int{0, 2, 6}, 0) {
				near(t, fmt.Sprintf("row %d of a second call", r), logits, all[293+r], 1e-4)
			}
		})
	}
}

func TestRowsErrors(t *testing.T) {
	m := newModel(t, configs["grouped, untied"])
	ids := tokens(40, 61)
	fine := func(int, []float32) error { return nil }
	failed := errors.New("no room")
	for want, opt := range map[string]model.ForwardOptions{
		"want both or none":              {Rows: []int{1}},
		"Rows are 0":                     {Logits: fine},
		"Rows[1] is 3 after 3":           {Rows: []int{3, 3}, Logits: fine},
		"Rows[0] is 40 after -1; want":   {Rows: []int{40}, Logits: fine},
		"row 7: " + failed.Error():       {Rows: []int{2, 7}, Logits: func(r int, _ []float32) error { return map[int]error{7: failed}[r] }},
		"Rows[0] is -1 after -1; want t": {Rows: []int{-1}, Logits: fine},
	} {
		opt.Planner = anchor.Dense()
		cache := newCache(t, m, len(ids))
		if _, _, err := m.Forward(context.Background(), cache, ids, opt); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
		if cache.Len() != 0 {
			t.Errorf("the cache holds %d tokens", cache.Len())
		}
	}
	parts := []model.Part{{Cache: newCache(t, m, 9), IDs: ids[:3]}, {Cache: newCache(t, m, 9), IDs: ids[:3]}}
	if _, _, err := m.ForwardBatch(context.Background(), parts, model.ForwardOptions{Planner: anchor.Dense(), Rows: []int{0}, Logits: fine}); err == nil {
		t.Error("rows of a batch")
	}
}

// What the logits of a row cost beside the product with the head, for a small model of a large vocabulary.
func BenchmarkRows(b *testing.B) {
	c := model.Config{
		Vocab: 49152, Hidden: 576, Intermediate: 32, Layers: 1, Heads: 1, KVHeads: 1, HeadDim: 16, MaxPositions: 4096,
		RMSNormEps: 1e-5, RopeTheta: 10000, Tied: true, BOS: -1,
	}
	m := newModel(b, c)
	ids := tokens(512, c.Vocab)
	for _, n := range []int{1, len(ids)} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			opt := model.ForwardOptions{Planner: anchor.Dense(), Logits: func(int, []float32) error { return nil }}
			for i := range n {
				opt.Rows = append(opt.Rows, i)
			}
			for b.Loop() {
				forward(b, m, newCache(b, m, len(ids)), ids, opt)
			}
			b.ReportMetric(b.Elapsed().Seconds()/float64(b.N)/float64(n)*1e6, "µs/row")
			b.ReportMetric(2*float64(n)*float64(c.Vocab*c.Hidden)*float64(b.N)/b.Elapsed().Seconds()/1e9, "GFLOP/s")
		})
	}
}
