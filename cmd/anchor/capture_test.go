package main

import (
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/safetensors"
	"github.com/anchorattention/anchor/model"
	"github.com/anchorattention/anchor/tokenizer"
)

// What is captured is what the model's attention sees, for the heads that were chosen, and other subcommands read it.
func TestCapture(t *testing.T) {
	dir, out := smallModel(t), filepath.Join(t.TempDir(), "captured")
	text := "it was the best of times , it was the worst of times , and so on and on and on"
	file := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(file, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Load(filepath.Join(dir, "tokenizer.json"))
	if err != nil {
		t.Fatal(err)
	}
	ids := tok.Encode(text, true).IDs[:12]
	m, err := model.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	cache, err := m.NewCache(len(ids))
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string][]float32) // by layer and name
	_, _, err = m.Forward(t.Context(), cache, ids, model.ForwardOptions{Planner: anchor.Dense(), Capture: func(layer int, q, k, v []float32) error {
		for name, data := range map[string][]float32{"q": q, "k": k, "v": v} {
			want[fmt.Sprint(layer, name)] = slices.Clone(data)
		}
		return nil
	}})
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		args           []string
		layers         []int
		heads, kvHeads []int
	}{
		{nil, []int{0, 1, 2}, []int{0, 1, 2, 3, 4, 5}, []int{0, 1}},
		{[]string{"--layers", "1", "--heads", "1,4"}, []int{1}, []int{1, 4}, []int{0, 1}},
		{[]string{"--layers", "0-1", "--heads", "3-5"}, []int{0, 1}, []int{3, 4, 5}, []int{1}},
		{[]string{"--heads", "0,2,5", "--layers", "2"}, []int{2}, []int{0, 2, 5}, []int{0, 0, 1}},
	} {
		os.RemoveAll(out)
		said := mustRun(t, slices.Concat([]string{"capture", dir, "--file", file, "--length", "12", "-o", out}, test.args)...)
		if want := fmt.Sprintf("wrote %d layers of 12 tokens to %s: %d heads, %d of keys and values\n", len(test.layers), out, len(test.heads), len(test.kvHeads)); said != want {
			t.Errorf("%q: %q, want %q", test.args, said, want)
		}
		var files []string
		for _, layer := range test.layers {
			name := fmt.Sprintf("layer-%d.safetensors", layer)
			files = append(files, name)
			f, err := safetensors.Open(filepath.Join(out, name))
			if err != nil {
				t.Fatal(err)
			}
			if got := f.Metadata(); got["layer"] != fmt.Sprint(layer) || got["heads"] != list(test.heads) || got["kv_heads"] != list(test.kvHeads) || got["window"] != fmt.Sprint([]int{0, 10, 10}[layer]) {
				t.Errorf("%q: metadata %v", test.args, got)
			}
			for name, heads := range map[string][]int{"q": test.heads, "k": test.kvHeads, "v": test.kvHeads} {
				data, err := f.Float32s(name)
				if err != nil {
					t.Fatal(err)
				}
				info, _ := f.Info(name)
				all := want[fmt.Sprint(layer, name)]
				var chosen []float32
				for _, h := range heads {
					chosen = append(chosen, all[h*12*8:(h+1)*12*8]...)
				}
				if !slices.Equal(data, chosen) || !reflect.DeepEqual(info.Shape, []int{len(heads), 12, 8}) {
					t.Errorf("%q, layer %d: %s of shape %v is not what the model has", test.args, layer, name, info.Shape)
				}
			}
			if err := f.Close(); err != nil {
				t.Error(err)
			}
		}
		if got := names(t, out); !slices.Equal(got, files) {
			t.Errorf("%q: files %q, want %q", test.args, got, files)
		}
	}
	in := filepath.Join(out, "layer-2.safetensors")
	mustRun(t, "attend", in, "-o", filepath.Join(t.TempDir(), "out"))
	mustRun(t, "calibrate", in, "--audit", "4")

	// A GGUF file brings its tokenizer along.
	out = filepath.Join(t.TempDir(), "captured")
	if said := mustRun(t, "capture", smallGGUF(t), "--file", file, "--length", "7", "-o", out); !strings.HasPrefix(said, "wrote 1 layers of 7 tokens") {
		t.Errorf("of a GGUF file: %q", said)
	}
}

// What cannot be captured or inspected is refused before anything is written.
func TestCaptureErrors(t *testing.T) {
	dir, file, out := smallModel(t), filepath.Join(t.TempDir(), "text"), filepath.Join(t.TempDir(), "out")
	if err := os.WriteFile(file, []byte("one two three"), 0o666); err != nil {
		t.Fatal(err)
	}
	long := filepath.Join(t.TempDir(), "long")
	if err := os.WriteFile(long, []byte(strings.Repeat("and ", 1100)), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"capture", dir, "-o", out}, 2, "--file is missing"},
		{[]string{"capture", dir, "--file", file}, 2, "-o DIR is missing"},
		{[]string{"capture", dir, "--file", file, "-o", out, "--length", "-1"}, 2, "--length is -1"},
		{[]string{"capture", dir, "--file", file, "-o", out, "--threads", "-1"}, 2, "--threads is -1"},
		{[]string{"capture", dir, "--file", file, "-o", out, "--layers", "3"}, 2, `--layers is "3"; the model has 3, from 0`},
		{[]string{"capture", dir, "--file", file, "-o", out, "--heads", "0-6"}, 2, `--heads is "0-6"; the model has 6`},
		{[]string{"capture", dir, "--file", file, "-o", out, "--heads", "2,1"}, 2, "want ascending"},
		{[]string{"capture", dir, "--file", file, "-o", out, "--heads", "2-1"}, 2, "want ascending"},
		{[]string{"capture", dir, "--file", file, "-o", out, "--heads", "x"}, 2, "want ascending"},
		{[]string{"capture", dir, "--file", file, "-o", out, "--heads", "-1"}, 2, "want ascending"},
		{[]string{"capture", dir, "--file", file + "x", "-o", out}, 1, "no such file"},
		{[]string{"capture", dir, "--file", long, "-o", out}, 2, "the text has 1101 tokens; want a --length of at most 1024"},
		{[]string{"capture", dir + "/x", "--file", file, "-o", out}, 1, "no such file"},
		{[]string{"inspect", dir + "/x"}, 1, "no such file"},
		{[]string{"inspect", dir, "--length", "-1"}, 2, "--length is -1"},
		{[]string{"inspect"}, 2, "want MODEL"},
	} {
		status, stdout, stderr := anchorCommand(t, k.args...)
		if status != k.status || stdout != "" || !strings.Contains(stderr, k.want) {
			t.Errorf("anchor %q: status %d, %q, %q; want status %d and %q", k.args, status, stdout, stderr, k.status, k.want)
		}
	}
	if _, err := os.Stat(out); err == nil {
		t.Errorf("%s is there", out)
	}
}
