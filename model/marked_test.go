package model_test

import (
	"context"
	"path/filepath"
	"testing"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/checkpoints"
	"github.com/anchorattention/anchor/internal/matrix"
	"github.com/anchorattention/anchor/model"
)

// On a checkpoint whose heads all look for marked tokens AnchorAttention keeps these and next to nothing else outside
// its window, and loses nothing by it.
func TestMarkedTokens(t *testing.T) {
	if testing.Short() {
		t.Skip("takes seconds")
	}
	const n = 4096
	spec := checkpoints.Small()["llama"]
	spec.Marked, spec.RopeTheta, spec.MaxPositions = 256, 100000, n
	path := filepath.Join(t.TempDir(), "model.gguf")
	if err := spec.WriteGGUF(t.Context(), path, matrix.Q8_0); err != nil {
		t.Fatal(err)
	}
	m, err := model.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ids := tokens(n, spec.Vocab)
	ids[0] = 0 // marked: the sink
	marked := 0
	for _, id := range ids[128 : 2048-128] {
		if id%256 == 0 {
			marked++
		}
	}
	p := anchor.DefaultParams()
	logits, stats, err := m.Forward(context.Background(), newCache(t, m, n), ids,
		model.ForwardOptions{Planner: anchor.AnchorAttention(p), AuditRows: 32, Prompt: n})
	if err != nil {
		t.Fatal(err)
	}
	// Two groups of rows that see what lies before them in the group, and of the second also the first keys, the last of
	// the first group, its marked tokens, and for the tail all of it.
	pairs := 2*(2048*2049/2) + 2048*(128+128) + (2048-128)*marked + 128*(2048-128-128)
	if got, want := stats.Attention.Density(), float64(pairs)/(n*(n+1)/2); got < want-1e-6 || got > want+1e-3 {
		t.Errorf("density %.5f; want %.5f, for %d marked tokens, or hardly more", got, want, marked)
	}
	if recall := stats.Attention.Recall; recall.Min < 0.999 {
		t.Errorf("recall is %+v; want 0.999 at least", recall)
	}
	near(t, "logits", logits, forward(t, m, newCache(t, m, n), ids, dense), 0.05)
}
