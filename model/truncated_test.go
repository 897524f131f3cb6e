//go:build linux || darwin

package model_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/anchorattention/anchor/internal/gguf"
	"github.com/anchorattention/anchor/internal/matrix"
	"github.com/anchorattention/anchor/internal/safetensors"
	"github.com/anchorattention/anchor/model"
)

// A file that is cut short while its model is in use is an error that names it, wherever the fault comes: in the
// embedding's rows or in the kernels, in the calling goroutine or in others. The model can still be closed.
func TestTruncated(t *testing.T) {
	c := model.Config{
		Vocab: 100, Hidden: 256, Intermediate: 512, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 64, MaxPositions: 4096,
		RMSNormEps: 1e-5, RopeTheta: 10000, BOS: -1,
	}
	source, all := remembered(random)
	if _, err := model.New(c, source); err != nil {
		t.Fatal(err)
	}
	const config = `{"architectures": ["LlamaForCausalLM"], "vocab_size": 100, "hidden_size": 256, "intermediate_size": 512,
		"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 4096}`
	ids := tokens(70, c.Vocab)
	for _, test := range []struct {
		name   string
		file   string // that is cut short
		tensor string // in it
	}{
		{"embedding", "model-1.safetensors", "model.embed_tokens.weight"},
		{"projection", "model-2.safetensors", "model.layers.1.self_attn.q_proj.weight"},
		{"MLP", "model-3.safetensors", "model.layers.0.mlp.down_proj.weight"},
		{"head", "model-4.safetensors", "lm_head.weight"},
	} {
		for _, threads := range []int{1, 4} {
			dir := t.TempDir()
			write(t, dir, "config.json", config)
			var rest []safetensors.Tensor
			where := "{"
			for name, tensor := range all {
				file := "model-0.safetensors"
				if name == test.tensor {
					file = test.file
					writeTensors(t, dir, file, tensor)
				} else {
					rest = append(rest, tensor)
				}
				where += `"` + name + `": "` + file + `",`
			}
			writeTensors(t, dir, "model-0.safetensors", rest...)
			write(t, dir, "model.safetensors.index.json", `{"weight_map": `+strings.TrimSuffix(where, ",")+`}}`)
			m, err := model.Open(dir)
			if err != nil {
				t.Fatal(err)
			}
			cache := newCache(t, m, 100)
			opt := dense
			opt.Threads = threads
			forward(t, m, cache, ids[:5], opt)
			if err := os.Truncate(filepath.Join(dir, test.file), 4096); err != nil {
				t.Fatal(err)
			}
			_, _, err = m.Forward(t.Context(), cache, ids, opt)
			if err == nil || !strings.Contains(err.Error(), test.file+": cannot be read any more") {
				t.Errorf("%s, %d threads: error %v, want one that names %s", test.name, threads, err, test.file)
			}
			if cache.Len() != 5 {
				t.Errorf("%s: the cache holds %d tokens, want 5", test.name, cache.Len())
			}
			if err := m.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// So is a GGUF file, whatever the type of its weights and the number of tokens.
func TestTruncatedGGUF(t *testing.T) {
	c := model.Config{
		Architecture: "qwen2", Vocab: 100, Hidden: 256, Intermediate: 512, Layers: 1, Heads: 4, KVHeads: 2, HeadDim: 64, MaxPositions: 4096,
		RMSNormEps: 1e-5, RopeTheta: 10000, BOS: -1,
	}
	source, all := remembered(random)
	if _, err := model.New(c, source); err != nil {
		t.Fatal(err)
	}
	for _, typ := range []matrix.Type{matrix.F32, matrix.BF16, matrix.Q8_0, matrix.Q4_K} {
		for _, n := range []int{1, 50} {
			change, _ := inType(t, typ)
			path := writeGGUF(t, c, all, func(meta []gguf.KeyValue, tensors []gguf.Source) ([]gguf.KeyValue, []gguf.Source) {
				// The embedding comes first, and is not what is missing.
				slices.SortFunc(tensors, func(a, b gguf.Source) int { return -strings.Compare(a.Name, b.Name) })
				return change(meta, tensors)
			})
			m := open(t, path)
			cache := newCache(t, m, 50)
			forward(t, m, cache, tokens(n, c.Vocab), dense)
			if err := cache.Truncate(0); err != nil {
				t.Fatal(err)
			}
			elements, size := typ.Block()
			if err := os.Truncate(path, int64(8192+100*256/elements*size)); err != nil {
				t.Fatal(err)
			}
			if _, _, err := m.Forward(t.Context(), cache, tokens(n, c.Vocab), dense); err == nil || !strings.Contains(err.Error(), path+": cannot be read any more") {
				t.Errorf("%v, %d tokens: error %v, want one that names %s", typ, n, err, path)
			}
		}
	}
}

// So is one that is cut short while it is opened, or that was to begin with.
func TestTruncatedWeights(t *testing.T) {
	dir := t.TempDir()
	write(t, dir, "config.json", configJSON)
	path := filepath.Join(dir, "model.safetensors")
	writeTensors(t, dir, "model.safetensors", checkpoint(t)...)
	if err := os.Truncate(path, 20000); err != nil {
		t.Fatal(err)
	}
	if _, err := model.Open(dir); err == nil || !strings.Contains(err.Error(), "model.safetensors") {
		t.Errorf("error %v, want one that names the file", err)
	}
}
