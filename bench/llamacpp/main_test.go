package main

import (
	"encoding/json"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/anchorattention/anchor/internal/checkpoints"
	"github.com/anchorattention/anchor/internal/llamacpp"
	"github.com/anchorattention/anchor/internal/matrix"
)

// Every contestant runs once in every round, on a model that takes milliseconds.
func TestRun(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.gguf")
	if err := checkpoints.Small()["llama"].WriteGGUF(t.Context(), path, matrix.Q8_0); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	args := []string{"-model", path, "-tokens", "40,80", "-rounds", "3", "-threads", "1", "-settings", "32,64f", "-methods", "dense,auto"}
	err := run(t.Context(), append(args, "-json"), &out)
	if errors.Is(err, llamacpp.ErrAbsent) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(strings.NewReader(out.String()))
	for _, n := range []int{40, 80} {
		var r result
		if err := dec.Decode(&r); err != nil {
			t.Fatal(err)
		}
		if r.Tokens != n || r.Settings != "32" && r.Settings != "64f" || !slices.Equal(r.Names, []string{"anchor/dense", "anchor/auto", "llama.cpp"}) {
			t.Errorf("result is %+v", r)
		}
		for _, s := range append(r.Seconds, r.Peaks) {
			if len(s) != 3 || slices.Min(s) <= 0 {
				t.Errorf("%d tokens: a round took %v", n, s)
			}
		}
	}
	out.Reset()
	if err := run(t.Context(), args, &out); err != nil || strings.Count(out.String(), "\nllama.cpp  ") != 2 {
		t.Errorf("error %v, output %s", err, out.String())
	}
}

// Without llama.cpp Anchor's methods are held against the first of them.
func TestRunAlone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "model.gguf")
	if err := checkpoints.Small()["llama"].WriteGGUF(t.Context(), path, matrix.Q8_0); err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	err := run(t.Context(), []string{"-model", path, "-tokens", "60", "-rounds", "2", "-methods", "dense,anchor/bf16", "-settings", "none"}, &out)
	if err != nil || !strings.Contains(out.String(), "anchor/dense's time") || strings.Contains(out.String(), "\nllama.cpp ") {
		t.Errorf("error %v, output %s", err, out.String())
	}
}

// Flags that make no sense are errors that name them, before anything is started.
func TestFlags(t *testing.T) {
	for _, c := range [][2]string{
		{"-tokens=0", "-tokens"}, {"-tokens=a", "-tokens"}, {"-methods=flash", "-methods"}, {"-methods=dense/f16", "-methods"}, {"-settings=f", "-settings"}, {"-rounds=0", "-rounds 0"},
		{"-threads=-1", "-threads -1"}, {"-marked=-1", "-marked -1"}, {"more", "more"},
	} {
		if err := run(t.Context(), []string{c[0]}, nil); err == nil || !strings.Contains(err.Error(), c[1]) {
			t.Errorf("%s: error %v; want one that mentions %s", c[0], err, c[1])
		}
	}
}

func TestSpread(t *testing.T) {
	for _, c := range []struct {
		x    []float64
		want [3]float64
	}{
		{[]float64{3}, [3]float64{3, 3, 3}}, {[]float64{3, 1, 2}, [3]float64{2, 1, 3}}, {[]float64{4, 1, 2, 3}, [3]float64{2.5, 1, 4}},
	} {
		if m, low, high := spread(c.x); [3]float64{m, low, high} != c.want {
			t.Errorf("spread(%v) = %v, %v, %v; want %v", c.x, m, low, high, c.want)
		}
	}
}
