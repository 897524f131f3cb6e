package eval_test

import (
	"bytes"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/anchorattention/anchor/eval"
)

// A model has one fingerprint wherever its files lie, and another one once any of them is another: its name, its length, what is in
// it. A single file may have any name.
func TestFingerprint(t *testing.T) {
	weights := bytes.Repeat([]byte("0123456789abcdef"), 100_000)
	take := func(change func(files map[string][]byte)) string {
		all := map[string][]byte{"config.json": []byte("{}"), "tokenizer.json": []byte("{ }"), "model.safetensors": bytes.Clone(weights)}
		change(all)
		dir := t.TempDir()
		var paths []string
		for _, name := range slices.Sorted(maps.Keys(all)) {
			paths = append(paths, filepath.Join(dir, name))
			if err := os.WriteFile(paths[len(paths)-1], all[name], 0o666); err != nil {
				t.Fatal(err)
			}
		}
		id, err := eval.Fingerprint(paths...)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	first := take(func(map[string][]byte) {})
	if again := take(func(map[string][]byte) {}); again != first {
		t.Errorf("%s, and %s elsewhere", first, again)
	}
	for name, change := range map[string]func(f map[string][]byte){
		"config":         func(f map[string][]byte) { f["config.json"][1] = ' ' },
		"name":           func(f map[string][]byte) { f["a.json"] = f["config.json"]; delete(f, "config.json") },
		"length":         func(f map[string][]byte) { f["model.safetensors"] = append(f["model.safetensors"], 0) },
		"all weights":    func(f map[string][]byte) { copy(f["model.safetensors"], bytes.Repeat([]byte{1}, 1<<20)) },
		"the last ones":  func(f map[string][]byte) { f["model.safetensors"][len(weights)-100] = 0 },
		"the first ones": func(f map[string][]byte) { f["model.safetensors"][0] = 0 },
	} {
		if take(change) == first {
			t.Errorf("another %s, and the same fingerprint", name)
		}
	}
	var single []string
	for _, name := range []string{"model.gguf", "other.gguf"} {
		file := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(file, weights, 0o666); err != nil {
			t.Fatal(err)
		}
		id, err := eval.Fingerprint(file)
		if err != nil {
			t.Error(err)
		}
		single = append(single, id)
	}
	if single[0] != single[1] {
		t.Errorf("%s, and %s after a file was renamed", single[0], single[1])
	}
	if _, err := eval.Fingerprint(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("no error for a path of nothing")
	}
	if _, err := eval.Fingerprint(); err == nil {
		t.Error("no error for no files")
	}
}
