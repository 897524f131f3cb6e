package llamacpp

import (
	"errors"
	"math"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anchorattention/anchor/internal/checkpoints"
	"github.com/anchorattention/anchor/internal/matrix"
)

// Without a folder, and with one that holds nothing, the error says so.
func TestAbsent(t *testing.T) {
	for _, dir := range []string{"", t.TempDir()} {
		t.Setenv(Variable, dir)
		if _, err := Start(t.Context()); !errors.Is(err, ErrAbsent) || !strings.Contains(err.Error(), Variable) {
			t.Errorf("%s=%s: error %v", Variable, dir, err)
		}
	}
}

// A file is loaded and gives distributions over all tokens, from which the likeliest is taken; what cannot be loaded is
// an error, and what comes after it works.
func TestProcess(t *testing.T) {
	p, err := Start(t.Context())
	if errors.Is(err, ErrAbsent) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	}()
	options := Options{Path: "absent.gguf", ContextSize: 512, BatchSize: 64, Threads: 2, CacheType: "F32"}
	if err := p.Open(options); err == nil {
		t.Error("an absent file is no error")
	}
	spec := checkpoints.Small()["llama"]
	options.Path = filepath.Join(t.TempDir(), "model.gguf")
	if err := spec.WriteGGUF(t.Context(), options.Path, matrix.Q8_0); err != nil {
		t.Fatal(err)
	}
	if err := p.Open(options); err != nil {
		t.Fatal(err)
	}
	rows, err := p.LogProbs([]int32{10, 20, 30}, []int{0, 2})
	if err != nil || len(rows) != 2 {
		t.Fatalf("%d rows, error %v", len(rows), err)
	}
	likeliest, sum := 0, 0.0
	for id, v := range rows[1] {
		sum += math.Exp(v)
		if v > rows[1][likeliest] {
			likeliest = id
		}
	}
	if len(rows[1]) != spec.Vocab || math.Abs(sum-1) > 1e-5 {
		t.Errorf("the probabilities of %d tokens sum to %v", len(rows[1]), sum)
	}
	if ids, err := p.Greedy([]int32{10, 20, 30}, 3); err != nil || len(ids) != 3 || int(ids[0]) != likeliest {
		t.Errorf("greedy tokens %v, error %v; the likeliest is %d", ids, err, likeliest)
	}
	if s, err := p.Prefill(make([]int32, 200)); err != nil || !(s > 0) {
		t.Errorf("prefill took %v s, error %v", s, err)
	}
}
