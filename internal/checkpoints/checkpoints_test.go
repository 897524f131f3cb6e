package checkpoints

import (
	"bytes"
	"math"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/anchorattention/anchor/internal/gguf"
	"github.com/anchorattention/anchor/internal/matrix"
	"github.com/anchorattention/anchor/internal/safetensors"
)

func elements(t *testing.T, x gguf.Tensor) []float32 {
	t.Helper()
	m, err := x.Matrix()
	if err != nil {
		t.Fatal(err)
	}
	out := make([]float32, m.Rows()*m.Cols())
	for i := range m.Rows() {
		m.Row(i, out[i*m.Cols():])
	}
	return out
}

// A directory and a GGUF file hold the same numbers; only the rows of queries and keys of llama are in another order.
func TestSameNumbers(t *testing.T) {
	for name, s := range Small() {
		s.Layers, s.Vocab, s.Intermediate = 1, 64, 256
		dir, path := t.TempDir(), filepath.Join(t.TempDir(), "x.gguf")
		if err := s.WriteDir(t.Context(), dir, matrix.F32); err != nil {
			t.Fatal(err)
		}
		if err := s.WriteGGUF(t.Context(), path, matrix.F32); err != nil {
			t.Fatal(err)
		}
		hf, err := safetensors.Open(filepath.Join(dir, "model.safetensors"))
		if err != nil {
			t.Fatal(err)
		}
		f, err := gguf.Open(path)
		if err != nil {
			t.Fatal(err)
		}
		for _, x := range s.tensors() {
			want, err := hf.Float32s(x.name)
			if err != nil {
				t.Fatal(err)
			}
			tensor, ok := f.Tensor(x.gguf)
			if !ok {
				t.Fatalf("%s: no tensor %q", name, x.gguf)
			}
			got := elements(t, tensor)
			if x.heads > 0 {
				// Row 2i of a head is the first of what position i rotates, row 2i + 1 the second.
				dim, cols := x.rows/x.heads, x.cols
				sorted := make([]float32, len(got))
				for r := range x.rows {
					head, i := r/dim, r%dim
					copy(sorted[(head*dim+i/2+i%2*dim/2)*cols:][:cols], got[r*cols:][:cols])
				}
				got = sorted
			}
			if !slices.Equal(want, got) {
				t.Errorf("%s: %s and %s differ", name, x.name, x.gguf)
			}
			sum := 0.0
			for _, v := range got {
				sum += (float64(v) - x.mean) * (float64(v) - x.mean)
			}
			if dev := math.Sqrt(sum / float64(len(got))); math.Abs(dev/x.dev-1) > 0.3 {
				t.Errorf("%s: %s deviates by %.3g; want %.3g", name, x.name, dev, x.dev)
			}
		}
		if want := len(s.tensors()); s.Llama3 == nil && len(f.Tensors()) != want || s.Llama3 != nil && len(f.Tensors()) != want+1 {
			t.Errorf("%s: %d tensors; want %d and those for rotary factors", name, len(f.Tensors()), want)
		}
		hf.Close()
		f.Close()
	}
}

// WriteUnpacked writes what the type leaves of the numbers, and files of a seed are the same bytes.
func TestWriteUnpacked(t *testing.T) {
	s, dir := Small()["llama"], t.TempDir()
	s.Layers, s.Vocab, s.Intermediate = 1, 64, 256
	for typ := matrix.F32; typ <= matrix.Q6_K; typ++ {
		var files [2]*gguf.File
		for i, write := range []func(string) error{
			func(path string) error { return s.WriteGGUF(t.Context(), path, typ) },
			func(path string) error { return s.WriteUnpacked(t.Context(), path, typ) },
		} {
			path := filepath.Join(dir, typ.String()+[]string{"", ".unpacked"}[i])
			if err := write(path); err != nil {
				t.Fatal(err)
			}
			f, err := gguf.Open(path)
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			files[i] = f
		}
		for _, x := range files[0].Tensors() {
			y, _ := files[1].Tensor(x.Name)
			if y.Type != matrix.F32 || !slices.Equal(elements(t, x), elements(t, y)) {
				t.Errorf("%v: %s is not unpacked, in %v", typ, x.Name, y.Type)
			}
		}
	}
	again := filepath.Join(dir, "again")
	if err := s.WriteGGUF(t.Context(), again, matrix.Q4_K); err != nil {
		t.Fatal(err)
	}
	a, _ := os.ReadFile(filepath.Join(dir, "Q4_K"))
	b, _ := os.ReadFile(again)
	if len(a) == 0 || !bytes.Equal(a, b) {
		t.Error("two files of the same seed differ")
	}
}

func TestErrors(t *testing.T) {
	dir, s := t.TempDir(), Small()["llama"]
	if err := s.WriteDir(t.Context(), dir, matrix.Q8_0); err == nil {
		t.Error("a directory in Q8_0 is no error")
	}
	s.Family = "other"
	if err := s.WriteDir(t.Context(), dir, matrix.F32); err == nil {
		t.Error("a directory of an unknown family is no error")
	}
	if err := s.WriteGGUF(t.Context(), filepath.Join(dir, "x"), matrix.F32); err == nil {
		t.Error("a file of an unknown family is no error")
	}
	if left, _ := os.ReadDir(dir); len(left) > 0 {
		t.Errorf("left behind: %v", left)
	}
}
