package eval_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/anchorattention/anchor/eval"
)

// A model has one fingerprint wherever it lies, and another one once any of its files is another or its weights are.
func TestFingerprint(t *testing.T) {
	dir := t.TempDir()
	weights := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	files := func(change func(files map[string][]byte)) string {
		all := map[string][]byte{"config.json": []byte("{}"), "tokenizer.json": []byte("{ }"), "model.safetensors": bytes.Clone(weights), "README.md": []byte("text")}
		if change != nil {
			change(all)
		}
		d, err := os.MkdirTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		for name, data := range all {
			if err := os.WriteFile(filepath.Join(d, name), data, 0o666); err != nil {
				t.Fatal(err)
			}
		}
		id, err := eval.Fingerprint(d)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	first := files(nil)
	if again := files(func(f map[string][]byte) { f["README.md"] = nil }); again != first {
		t.Errorf("%s, and %s with another README", first, again)
	}
	for name, change := range map[string]func(f map[string][]byte){
		"config":         func(f map[string][]byte) { f["config.json"][1] = ' ' },
		"name":           func(f map[string][]byte) { f["other.json"] = f["config.json"]; delete(f, "config.json") },
		"length":         func(f map[string][]byte) { f["model.safetensors"] = append(f["model.safetensors"], 0) },
		"all weights":    func(f map[string][]byte) { copy(f["model.safetensors"], bytes.Repeat([]byte{1}, 1<<20)) },
		"the last ones":  func(f map[string][]byte) { f["model.safetensors"][len(weights)-100] = 0 },
		"the first ones": func(f map[string][]byte) { f["model.safetensors"][0] = 0 },
	} {
		if files(change) == first {
			t.Errorf("another %s, and the same fingerprint", name)
		}
	}
	file := filepath.Join(dir, "model.gguf")
	if err := os.WriteFile(file, weights, 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := eval.Fingerprint(file); err != nil {
		t.Error(err)
	}
	if _, err := eval.Fingerprint(filepath.Join(dir, "none")); err == nil {
		t.Error("no error for a path of nothing")
	}
	empty := t.TempDir()
	if _, err := eval.Fingerprint(empty); err == nil {
		t.Error("no error for an empty directory")
	}
}
