package model_test

import (
	"errors"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"testing"

	"github.com/anchorattention/anchor/internal/checkpoints"
	"github.com/anchorattention/anchor/internal/llamacpp"
	"github.com/anchorattention/anchor/internal/matrix"
	"github.com/anchorattention/anchor/model"
)

// llamaCpp starts llama.cpp, or skips the test where it is absent.
func llamaCpp(t *testing.T) *llamacpp.Process {
	t.Helper()
	if testing.Short() {
		t.Skip("takes half a minute")
	}
	p, err := llamacpp.Start(t.Context())
	if errors.Is(err, llamacpp.ErrAbsent) {
		t.Skip(err)
	}
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil && t.Context().Err() == nil {
			t.Error(err)
		}
	})
	return p
}

// load opens a file in llama.cpp, whose cache is in single precision and whose flash attention is off.
func load(t *testing.T, p *llamacpp.Process, path string) {
	t.Helper()
	// One thread: these models are too small for more.
	if err := p.Open(llamacpp.Options{Path: path, ContextSize: 512, BatchSize: 512, Threads: 1, CacheType: "F32"}); err != nil {
		t.Fatal(err)
	}
}

// logProbs turns logits into logarithms of probabilities.
func logProbs(logits []float32) []float64 {
	top, sum := float64(slices.Max(logits)), 0.0
	for _, x := range logits {
		sum += math.Exp(float64(x) - top)
	}
	out := make([]float64, len(logits))
	for i, x := range logits {
		out[i] = float64(x) - top - math.Log(sum)
	}
	return out
}

// distance returns the largest of the differences between two lists of rows, and their root mean square.
func distance(t *testing.T, a, b [][]float64) (worst, mean float64) {
	t.Helper()
	n := 0
	for i := range a {
		if len(a[i]) != len(b[i]) {
			t.Fatalf("%d logits and %d", len(a[i]), len(b[i]))
		}
		for j := range a[i] {
			d := math.Abs(a[i][j] - b[i][j])
			worst, mean, n = max(worst, d), mean+d*d, n+1
		}
	}
	return worst, math.Sqrt(mean / float64(n))
}

// Logits are llama.cpp's, for every family and type, after a prompt in chunks.
//
// In F32 only rounding differs. For other types llama.cpp rounds what it multiplies weights with, to half precision, to BF16 or,
// for quantised ones, to 8 bits with a scale for 32 or 256 numbers, and Anchor may round too. These models make much of that: the
// logits, whose deviation is about 3, change by tenths. So the numbers of a type are given to llama.cpp in F32 as well, and
// Anchor must not be further from what it makes of them than llama.cpp is with the type itself. The prompt is
// shorter than any sliding window.
func TestLogitsOfLlamaCpp(t *testing.T) {
	p := llamaCpp(t)
	bounds := map[matrix.Type]float64{ // of the largest difference, about twice what was seen
		matrix.F32: 3e-4, matrix.F16: 0.035, matrix.BF16: 0.3, matrix.Q8_0: 0.9, matrix.Q4_0: 0.9, matrix.Q4_K: 1.6, matrix.Q5_K: 1.6, matrix.Q6_K: 1.6,
	}
	at := []int{0, 1, 2, 15, 31, 47, 63, 64, 65, 80, 100, 127, 128, 130, 150, 170, 190, 200, 210, 220, 230, 250, 255, 256, 280, 299}
	all := checkpoints.Small()
	for _, name := range slices.Sorted(maps.Keys(all)) {
		spec := all[name]
		ids := tokens(at[len(at)-1]+1, spec.Vocab)
		for typ := matrix.F32; typ <= matrix.Q6_K; typ++ {
			t.Run(name+"/"+typ.String(), func(t *testing.T) {
				path, unpacked := filepath.Join(t.TempDir(), "model.gguf"), filepath.Join(t.TempDir(), "unpacked.gguf")
				if err := errors.Join(spec.WriteGGUF(t.Context(), path, typ), spec.WriteUnpacked(t.Context(), unpacked, typ)); err != nil {
					t.Fatal(err)
				}
				load(t, p, path)
				theirs, err := p.LogProbs(ids, at)
				if err != nil {
					t.Fatal(err)
				}
				m, err := model.Open(path)
				if err != nil {
					t.Fatal(err)
				}
				defer m.Close()
				cache, done := newCache(t, m, len(ids)), 0
				var ours [][]float64
				for _, last := range at {
					ours = append(ours, logProbs(forward(t, m, cache, ids[done:last+1], dense)))
					done = last + 1
				}
				worst, mean := distance(t, ours, theirs)
				if !(worst <= bounds[typ]) {
					t.Errorf("logits differ by up to %.3g; want at most %.3g", worst, bounds[typ])
				}
				if typ == matrix.F32 {
					t.Logf("largest difference %.2g, mean %.2g", worst, mean)
					return
				}
				load(t, p, unpacked)
				exact, err := p.LogProbs(ids, at)
				if err != nil {
					t.Fatal(err)
				}
				ourWorst, our := distance(t, ours, exact)
				theirWorst, their := distance(t, theirs, exact)
				t.Logf("largest difference %.2g, mean %.2g; from F32 %.2g, %.2g, llama.cpp %.2g, %.2g", worst, mean, ourWorst, our, theirWorst, their)
				if !(our <= 1.25*their) {
					t.Errorf("the mean distance from what F32 gives is %.3g; want at most 1.25 times llama.cpp's, %.3g", our, their)
				}
			})
		}
	}
}

// The likeliest tokens are llama.cpp's for 200 steps in F32.
func TestGreedyOfLlamaCpp(t *testing.T) {
	p := llamaCpp(t)
	for name, spec := range checkpoints.Small() {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "model.gguf")
			if err := spec.WriteGGUF(t.Context(), path, matrix.F32); err != nil {
				t.Fatal(err)
			}
			load(t, p, path)
			ids := tokens(100, spec.Vocab)
			want, err := p.Greedy(ids, 200)
			if err != nil {
				t.Fatal(err)
			}
			m, err := model.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer m.Close()
			cache, next := newCache(t, m, len(ids)+len(want)), ids
			for i, id := range want {
				logits := forward(t, m, cache, next, dense)
				best := slices.Index(logits, slices.Max(logits))
				if best != int(id) {
					t.Fatalf("token %d is %d, with a logit of %v; llama.cpp's %d has %v", i, best, logits[best], id, logits[id])
				}
				next = []int32{id}
			}
		})
	}
}

// With a sliding window a model of one layer sees what llama.cpp, which ignores windows of this architecture, sees of the
// window's tokens alone: rotary embeddings know only how far two positions are apart.
func TestWindowOfLlamaCpp(t *testing.T) {
	p := llamaCpp(t)
	spec := checkpoints.Small()["mistral"]
	spec.Layers, spec.Window = 1, 64
	path := filepath.Join(t.TempDir(), "model.gguf")
	if err := spec.WriteGGUF(t.Context(), path, matrix.F32); err != nil {
		t.Fatal(err)
	}
	load(t, p, path)
	m, err := model.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	ids := tokens(300, spec.Vocab)
	cache, done := newCache(t, m, len(ids)), 0
	for _, last := range []int{50, 63, 64, 65, 200, 299} {
		seen := ids[max(0, last+1-spec.Window) : last+1]
		want, err := p.LogProbs(seen, []int{len(seen) - 1})
		if err != nil {
			t.Fatal(err)
		}
		got := logProbs(forward(t, m, cache, ids[done:last+1], dense))
		done = last + 1
		if worst, _ := distance(t, [][]float64{got}, want); !(worst <= 3e-4) {
			t.Errorf("after token %d logits differ by up to %.3g; want at most 3e-4", last, worst)
		}
	}
}

// A checkpoint is the same model as a directory and as a GGUF file.
func TestDirectoryAndGGUF(t *testing.T) {
	for name, spec := range checkpoints.Small() {
		for _, typ := range []matrix.Type{matrix.F32, matrix.F16, matrix.BF16} {
			dir := t.TempDir()
			path := filepath.Join(t.TempDir(), "model.gguf")
			if err := errors.Join(spec.WriteDir(t.Context(), dir, typ), spec.WriteGGUF(t.Context(), path, typ)); err != nil {
				t.Fatal(err)
			}
			ids := tokens(150, spec.Vocab)
			var logits [2][]float32
			for i, p := range []string{dir, path} {
				m, err := model.Open(p)
				if err != nil {
					t.Fatal(err)
				}
				logits[i] = forward(t, m, newCache(t, m, len(ids)), ids, dense)
				m.Close()
			}
			tolerance := 1e-4
			if spec.Llama3 != nil && typ == matrix.BF16 {
				// GGUF files have the factors of frequencies in single precision. What is rounded to BF16 after that may go the other
				// way, which changes logits as much as the rounding itself does.
				tolerance = 0.1
			}
			near(t, name+" in "+typ.String(), logits[1], logits[0], tolerance)
		}
	}
}
