package main

import (
	"encoding/json"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/anchorattention/anchor/internal/gguf"
	"github.com/anchorattention/anchor/internal/matrix"
	"github.com/anchorattention/anchor/internal/safetensors"
	"github.com/anchorattention/anchor/model"
	"github.com/anchorattention/anchor/model/retrieval"
	"github.com/anchorattention/anchor/tokenizer"
)

// smallModel writes a random model with windows and biases, with the demo's tokenizer, to a directory.
func smallModel(t testing.TB) string {
	t.Helper()
	dir := t.TempDir()
	if err := retrieval.Write(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Load(filepath.Join(dir, "tokenizer.json"))
	if err != nil {
		t.Fatal(err)
	}
	config, err := json.Marshal(map[string]any{
		"architectures": []string{"Qwen2ForCausalLM"}, "vocab_size": tok.VocabSize(), "hidden_size": 16, "intermediate_size": 24,
		"num_hidden_layers": 3, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 256,
		"use_sliding_window": true, "sliding_window": 10, "max_window_layers": 1, "tie_word_embeddings": true, "eos_token_id": []int{0, 1},
		"rope_scaling": map[string]any{"type": "yarn", "factor": 4, "original_max_position_embeddings": 256},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "config.json"), config, 0o666); err != nil {
		t.Fatal(err)
	}
	cfg, err := model.ParseConfig("config.json", config)
	if err != nil {
		t.Fatal(err)
	}
	rng := rand.New(rand.NewPCG(3, 3))
	var tensors []safetensors.Tensor
	_, err = model.New(cfg, func(name string, shape ...int) ([]float32, error) {
		n := 1
		for _, s := range shape {
			n *= s
		}
		data := make([]float32, n)
		for i := range data {
			data[i] = float32(rng.NormFloat64())
		}
		tensors = append(tensors, safetensors.Tensor{Name: name, DType: "F32", Shape: shape, Data: data})
		return data, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := safetensors.WriteFile(t.Context(), filepath.Join(dir, "model.safetensors"), nil, tensors...); err != nil {
		t.Fatal(err)
	}
	return dir
}

// smallGGUF writes a model of zeros with a tokenizer of letters, and more metadata, or other, to a GGUF file.
func smallGGUF(t testing.TB, more ...gguf.KeyValue) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "small.gguf")
	words, types := strings.Split("a b c d e f g h i j k l m n o p q r s t u v w x y z Ġ </s>", " "), slices.Repeat([]int32{1}, 28)
	types[27] = 3
	write := func(elements int) func(io.Writer) error {
		return func(w io.Writer) error { _, err := w.Write(make([]byte, elements)); return err }
	}
	tensors := []gguf.Source{
		{Name: "token_embd.weight", Shape: []int{28, 32}, Type: matrix.Q8_0, Write: write(28 * 34)},
		{Name: "output_norm.weight", Shape: []int{32}, Type: matrix.F32, Write: write(4 * 32)},
		{Name: "blk.0.attn_norm.weight", Shape: []int{32}, Type: matrix.F32, Write: write(4 * 32)},
		{Name: "blk.0.ffn_norm.weight", Shape: []int{32}, Type: matrix.F32, Write: write(4 * 32)},
	}
	for _, name := range []string{"attn_q", "attn_k", "attn_v", "attn_output", "ffn_gate", "ffn_up", "ffn_down"} {
		tensors = append(tensors, gguf.Source{Name: "blk.0." + name + ".weight", Shape: []int{32, 32}, Type: matrix.Q8_0, Write: write(32 * 34)})
	}
	metadata := slices.DeleteFunc([]gguf.KeyValue{
		{Key: "general.architecture", Value: "llama"}, {Key: "llama.block_count", Value: uint32(1)}, {Key: "llama.context_length", Value: uint32(64)},
		{Key: "llama.embedding_length", Value: uint32(32)}, {Key: "llama.feed_forward_length", Value: uint32(32)},
		{Key: "llama.attention.head_count", Value: uint32(4)}, {Key: "llama.attention.layer_norm_rms_epsilon", Value: float32(1e-5)},
		{Key: "tokenizer.ggml.model", Value: "gpt2"}, {Key: "tokenizer.ggml.pre", Value: "smollm"},
		{Key: "tokenizer.ggml.tokens", Value: words}, {Key: "tokenizer.ggml.token_type", Value: types}, {Key: "tokenizer.ggml.merges", Value: []string{}},
	}, func(a gguf.KeyValue) bool {
		return slices.ContainsFunc(more, func(b gguf.KeyValue) bool { return a.Key == b.Key })
	})
	err := gguf.WriteFile(t.Context(), path, append(metadata, more...), tensors...)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// What inspect reports is so, of a directory and of a GGUF file, as an object and for people.
func TestInspect(t *testing.T) {
	dir := smallModel(t)
	var got inspection
	if err := json.Unmarshal([]byte(mustRun(t, "inspect", dir, "--length", "100", "--json")), &got); err != nil {
		t.Fatal(err)
	}
	vocab := got.Vocab
	layer := 2*48*16 + 2*16*16 + 3*24*16 + 48 + 2*16 + 2*16
	want := inspection{
		Model: dir, Architecture: "qwen2", Parameters: int64(vocab*16 + 3*layer + 16), Vocab: vocab, Hidden: 16, Intermediate: 24,
		Layers: 3, Heads: 6, KVHeads: 2, HeadDim: 8, Context: 1024,
		Rope:    inspectedRope{10000, "yarn", 4, 256, got.Rope.Attention},
		Windows: []int{0, 10, 10}, QKVBias: true, Tied: true, Length: 100,
		Tokenizer: "WordLevel", BOS: -1, EOS: []int32{0, 1},
	}
	const rows = 128 * 3 * 2 * 2 // of a page, in which 100 tokens lie
	want.CacheBytes = map[string]int64{"f32": rows * 8 * 4, "bf16": rows * 8 * 2, "f16": rows * 8 * 2, "8bit": rows * (8 + 4)}
	want.Weights = []typeWeights{{"F32", 1 + 3*12 + 1, want.Parameters, 4 * want.Parameters}}
	want.WeightBytes = 4 * want.Parameters
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
	out := mustRun(t, "inspect", dir)
	for _, line := range []string{
		"architecture       qwen2", "layers             3, 16 wide, MLP 24 wide", "heads              6 over 2 of keys and values, 8 wide",
		"with               biases of queries, keys and values, the embedding for a head", "windows            10 keys in layers 1 to 2",
		"rotary embedding   theta 10000, scaling yarn by 4 from 256 tokens", "context            1024 tokens", "tokenizer          WordLevel",
		"ends with          token 0, 1", "keys and values    of 1024 tokens", "  f32              384.0 KiB", "  bf16             192.0 KiB", "  8bit             144.0 KiB",
	} {
		if !strings.Contains(out, line+"\n") {
			t.Errorf("no line %q in\n%s", line, out)
		}
	}

	path := smallGGUF(t)
	m := object(t, mustRun(t, "inspect", path, "--json"), "weights tokenizer windows")
	if m["tokenizer"] != "gpt2, smollm" || m["weight_bytes"] != 28.*34+7*32*34+3*4*32 || m["windows"] != nil {
		t.Errorf("%v", m)
	}
	if kinds := m["weights"].([]any); len(kinds) != 2 || kinds[0].(map[string]any)["type"] != "Q8_0" || kinds[0].(map[string]any)["tensors"] != 8. {
		t.Errorf("weights are %v", m["weights"])
	}
	if out := mustRun(t, "inspect", path); !strings.Contains(out, "  Q8_0             8.4 KiB, 8 tensors\n") || !strings.Contains(out, "windows            none\n") {
		t.Errorf("%s", out)
	}
}

// Windows of layers are told by runs.
func TestWindowRanges(t *testing.T) {
	for want, windows := range map[string][]int{
		"none": nil, "8 keys in layers 0 to 1": {8, 8}, "8 keys in layer 1, 9 keys in layers 2 to 3, 8 keys in layer 5": {0, 8, 9, 9, 0, 8},
	} {
		if got := windowRanges(windows); got != want {
			t.Errorf("%v is %q, want %q", windows, got, want)
		}
	}
}
