package generate

import (
	"slices"
	"testing"

	"github.com/anchorattention/anchor/model"
	"pgregory.net/rapid"
)

// A step holds a token of every sequence that writes and chunks of prompts, the oldest first: no more than there is room for, but
// something of one at least, and each ends at a border or with its prompt.
func TestPieces(t *testing.T) {
	c := model.Config{Vocab: 2, Hidden: 2, Intermediate: 1, Layers: 1, Heads: 1, KVHeads: 1, HeadDim: 2, MaxPositions: 3000, RMSNormEps: 1e-6, RopeTheta: 100, BOS: -1}
	m, err := model.New(c, func(_ string, shape ...int) ([]float32, error) {
		n := 1
		for _, s := range shape {
			n *= s
		}
		return make([]float32, n), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	fresh, err := m.NewCache(3000)
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		e := &Engine{every: rapid.SampledFrom([]int{0, 1, 64, 192, 2048}).Draw(t, "every")}
		e.opt.Chunk = rapid.IntRange(1, 3000).Draw(t, "chunk")
		var all []*sequence
		reading := 0
		for range rapid.IntRange(1, 6).Draw(t, "sequences") {
			s := &sequence{cache: fresh, dense: rapid.Bool().Draw(t, "dense")}
			if rapid.Bool().Draw(t, "reads") {
				s.Prompt = make([]int32, rapid.IntRange(1, 3000).Draw(t, "prompt"))
				if rapid.IntRange(0, 5).Draw(t, "audited") == 0 {
					s.AuditRows = 1
				}
				reading++
			}
			all = append(all, s)
		}
		pieces := e.pieces(all)
		tokens, last := 0, -1
		for i, p := range pieces {
			at := slices.Index(all, p.sequence)
			if at <= last {
				t.Fatal("pieces are not in the order of sequences")
			}
			last = at
			if p.AuditRows > 0 && len(pieces) > 1 {
				t.Fatal("an audited prompt has company")
			}
			if p.to == 0 {
				if p.reading() {
					t.Fatal("a prompt is passed over")
				}
				continue
			}
			every := e.every
			if p.dense {
				every = 1
			}
			if p.from != 0 || p.to > len(p.Prompt) || p.to < len(p.Prompt) && (every == 0 || p.to%every != 0) {
				t.Fatalf("piece %d is [%d, %d) of %d with borders at multiples of %d", i, p.from, p.to, len(p.Prompt), every)
			}
			if tokens >= e.opt.Chunk || tokens+p.to-p.from > e.opt.Chunk && every > 0 && p.to-p.from > every {
				t.Fatalf("%d tokens after %d of %d", p.to-p.from, tokens, e.opt.Chunk)
			}
			tokens += p.to - p.from
		}
		if reading > 0 && tokens == 0 {
			t.Fatal("no prompt is read")
		}
		alone := len(pieces) == 1 && pieces[0].AuditRows > 0
		if writing := len(all) - reading; !alone && len(pieces) < writing {
			t.Fatalf("%d pieces; %d sequences write", len(pieces), writing)
		}
	})
}
