package model

import (
	"io"
	"os"
	"path/filepath"
	"testing"

	"github.com/anchorattention/anchor/internal/gguf"
	"github.com/anchorattention/anchor/internal/matrix"
)

// Whatever the bytes, a configuration that is accepted from a GGUF file is one that can be computed with.
func FuzzGGUFConfig(f *testing.F) {
	zeros := func(n int) func(io.Writer) error {
		return func(w io.Writer) error { _, err := w.Write(make([]byte, 4*n)); return err }
	}
	for i, more := range [][]gguf.KeyValue{
		nil,
		{{Key: "llama.rope.scaling.type", Value: "yarn"}, {Key: "llama.rope.scaling.factor", Value: float32(4)}},
		{{Key: "llama.attention.sliding_window", Value: uint32(3)}, {Key: "llama.attention.sliding_window_pattern", Value: []bool{true, false}}},
		{{Key: "tokenizer.ggml.tokens", Value: []string{"a", "</s>"}}, {Key: "tokenizer.ggml.token_type", Value: []int32{1, 3}},
			{Key: "tokenizer.ggml.bos_token_id", Value: uint32(1)}, {Key: "tokenizer.ggml.add_bos_token", Value: true}},
	} {
		path := filepath.Join(f.TempDir(), "seed.gguf")
		meta := append([]gguf.KeyValue{
			{Key: "general.architecture", Value: "llama"}, {Key: "llama.block_count", Value: uint32(2)},
			{Key: "llama.context_length", Value: uint32(64)}, {Key: "llama.embedding_length", Value: uint32(8)},
			{Key: "llama.feed_forward_length", Value: uint32(8)}, {Key: "llama.attention.head_count", Value: uint32(2)},
			{Key: "llama.attention.layer_norm_rms_epsilon", Value: float32(1e-5)},
		}, more...)
		tensors := []gguf.Source{{Name: "token_embd.weight", Shape: []int{2, 8}, Type: matrix.F32, Write: zeros(16)}}
		if i == 0 {
			tensors = append(tensors, gguf.Source{Name: "rope_freqs.weight", Shape: []int{2}, Type: matrix.F32, Write: func(w io.Writer) error {
				_, err := w.Write([]byte{0, 0, 128, 63, 0, 0, 0, 64})
				return err
			}})
		}
		if err := gguf.WriteFile(f.Context(), path, meta, tensors...); err != nil {
			f.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := gguf.Parse("fuzz", data)
		if err != nil {
			return
		}
		c, _, err := ggufConfig(file)
		if err != nil {
			return
		}
		sound(t, &c)
	})
}
