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

// llama.cpp loads every file that checkpoints writes, and sees a distribution in it.
func TestLoadsEveryType(t *testing.T) {
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
	for name, spec := range checkpoints.Small() {
		for typ := matrix.F32; typ <= matrix.Q6_K; typ++ {
			path := filepath.Join(t.TempDir(), "model.gguf")
			if err := spec.WriteGGUF(t.Context(), path, typ); err != nil {
				t.Fatal(err)
			}
			if err := p.Open(Options{Path: path, ContextSize: 512, BatchSize: 512, Threads: 2, CacheType: "F32"}); err != nil {
				t.Errorf("%s, %v: %v", name, typ, err)
				continue
			}
			rows, err := p.LogProbs([]int32{10, 20, 30}, 1)
			if err != nil || len(rows) != 2 {
				t.Errorf("%s, %v: %d rows, error %v", name, typ, len(rows), err)
				continue
			}
			sum := 0.0
			for _, v := range rows[1] {
				sum += math.Exp(v)
			}
			if len(rows[1]) != spec.Vocab || math.Abs(sum-1) > 1e-5 {
				t.Errorf("%s, %v: the probabilities of %d tokens sum to %v", name, typ, len(rows[1]), sum)
			}
		}
	}
	if err := p.Open(Options{Path: "absent.gguf", ContextSize: 512, BatchSize: 512, Threads: 1, CacheType: "F32"}); err == nil {
		t.Error("an absent file is no error")
	}
}
