// Package checkpoints writes checkpoints of random weights, as Hugging Face directories and as GGUF files that hold the
// same numbers: tests and measurements need no download. The weights are a function of the seed, the tensor and the
// row alone.
package checkpoints

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/anchorattention/anchor/internal/gguf"
	"github.com/anchorattention/anchor/internal/matrix"
	"github.com/anchorattention/anchor/internal/safetensors"
)

// A Spec is the shape of a checkpoint. Its weights keep activations of order 1 and make attention and logits peaked
// enough to tell one computation from another.
type Spec struct {
	Family                              string // llama, mistral, qwen2 or qwen3
	Vocab, Hidden, Intermediate, Layers int
	Heads, KVHeads, HeadDim             int
	MaxPositions                        int
	RopeTheta                           float64
	Window                              int     // of attention, by the mistral family; 0 for none
	Llama3                              *Llama3 // how positions are scaled, nil for not so
	YaRN                                *YaRN
	Tied                                bool // the head is the embedding
	Seed                                uint64

	// Marked makes the tokens whose id is a multiple of it marked, 0 none. All queries look for the keys of marked tokens:
	// their logits lie tens of nats above the others', at all distances up to 32768 positions where RopeTheta is 100000. So
	// attention has a sink where a prompt starts with token 0, and stripes that all heads share.
	Marked int
}

// Llama3 is rotary scaling as Llama 3.1 has it.
type Llama3 struct {
	Factor, LowFreqFactor, HighFreqFactor float64
	OriginalPositions                     int
}

// YaRN is rotary scaling by frequency, with the usual constants.
type YaRN struct {
	Factor            float64
	OriginalPositions int
}

// SmolLM2 is the shape of SmolLM2-135M.
var SmolLM2 = Spec{
	Family: "llama", Vocab: 49152, Hidden: 576, Intermediate: 1536, Layers: 30, Heads: 9, KVHeads: 3, HeadDim: 64,
	MaxPositions: 1 << 17, RopeTheta: 100000, Tied: true, Seed: 1,
}

const eps = 1e-5 // of RMSNorm

// Small returns checkpoints of each family that take milliseconds, by name. Their sizes suit blocks of every type.
func Small() map[string]Spec {
	base := Spec{
		Vocab: 512, Hidden: 256, Intermediate: 512, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 64, MaxPositions: 2048, RopeTheta: 10000, Seed: 7,
	}
	of := func(change func(*Spec)) Spec {
		s := base
		change(&s)
		return s
	}
	return map[string]Spec{
		"llama":      of(func(s *Spec) { s.Family = "llama" }),
		"llama-tied": of(func(s *Spec) { s.Family, s.Tied, s.KVHeads, s.Heads, s.HeadDim = "llama", true, 1, 8, 32 }),
		"llama3": of(func(s *Spec) {
			s.Family, s.RopeTheta, s.Llama3 = "llama", 500000, &Llama3{Factor: 8, LowFreqFactor: 1, HighFreqFactor: 4, OriginalPositions: 64}
		}),
		"mistral": of(func(s *Spec) { s.Family, s.Window, s.KVHeads, s.Seed = "mistral", 512, 4, 8 }),
		"qwen2":   of(func(s *Spec) { s.Family, s.RopeTheta, s.Tied = "qwen2", 1e6, true }),
		"qwen2-yarn": of(func(s *Spec) {
			s.Family, s.RopeTheta, s.YaRN = "qwen2", 1e6, &YaRN{Factor: 4, OriginalPositions: 64}
		}),
		"qwen3": of(func(s *Spec) { s.Family, s.RopeTheta, s.HeadDim = "qwen3", 1e6, 128 }), // wider than Hidden
	}
}

// A tensor is one of a checkpoint's.
type tensor struct {
	name, gguf string // by Hugging Face and in GGUF files
	rows, cols int    // rows is 0 for a vector
	mean, dev  float64
	heads      int // of a matrix or vector whose rows GGUF's llama architecture has in another order, or 0
}

// tensors lists all, in the order of the decoder.
func (s Spec) tensors() []tensor {
	h, q, kv := s.Hidden, s.Heads*s.HeadDim, s.KVHeads*s.HeadDim
	matrix := func(name, gguf string, rows, cols int, gain float64) tensor {
		return tensor{name: name, gguf: gguf, rows: rows, cols: cols, dev: gain / math.Sqrt(float64(cols))}
	}
	vector := func(name, gguf string, n int, mean, dev float64) tensor {
		return tensor{name: name, gguf: gguf, cols: n, mean: mean, dev: dev}
	}
	all := []tensor{matrix("model.embed_tokens.weight", "token_embd.weight", s.Vocab, h, 3)}
	for i := range s.Layers {
		p, g := fmt.Sprintf("model.layers.%d.", i), fmt.Sprintf("blk.%d.", i)
		wq, wk := matrix(p+"self_attn.q_proj.weight", g+"attn_q.weight", q, h, 1.4), matrix(p+"self_attn.k_proj.weight", g+"attn_k.weight", kv, h, 1.4)
		if s.architecture() == "llama" {
			wq.heads, wk.heads = s.Heads, s.KVHeads
		}
		all = append(all, vector(p+"input_layernorm.weight", g+"attn_norm.weight", h, 1, 0.1), wq, wk,
			matrix(p+"self_attn.v_proj.weight", g+"attn_v.weight", kv, h, 1))
		switch s.Family {
		case "qwen2":
			all = append(all, vector(p+"self_attn.q_proj.bias", g+"attn_q.bias", q, 0, 0.5), vector(p+"self_attn.k_proj.bias", g+"attn_k.bias", kv, 0, 0.5),
				vector(p+"self_attn.v_proj.bias", g+"attn_v.bias", kv, 0, 0.5))
		case "qwen3":
			all = append(all, vector(p+"self_attn.q_norm.weight", g+"attn_q_norm.weight", s.HeadDim, 1.4, 0.3),
				vector(p+"self_attn.k_norm.weight", g+"attn_k_norm.weight", s.HeadDim, 1.4, 0.3))
		}
		all = append(all, matrix(p+"self_attn.o_proj.weight", g+"attn_output.weight", h, q, 1),
			vector(p+"post_attention_layernorm.weight", g+"ffn_norm.weight", h, 1, 0.1),
			matrix(p+"mlp.gate_proj.weight", g+"ffn_gate.weight", s.Intermediate, h, 1), matrix(p+"mlp.up_proj.weight", g+"ffn_up.weight", s.Intermediate, h, 1),
			matrix(p+"mlp.down_proj.weight", g+"ffn_down.weight", h, s.Intermediate, 2))
	}
	all = append(all, vector("model.norm.weight", "output_norm.weight", h, 1, 0.1))
	if !s.Tied {
		all = append(all, matrix("lm_head.weight", "output.weight", s.Vocab, h, 3))
	}
	return all
}

// row computes a row of a matrix, or a vector.
func (s Spec) row(t tensor, i int, dst []float32) {
	h := fnv.New64a()
	io.WriteString(h, t.name)
	r := rand.New(rand.NewPCG(s.Seed, h.Sum64()+uint64(i)*0x9e3779b97f4a7c15))
	for j := range dst {
		dst[j] = float32(t.mean + t.dev*r.NormFloat64())
	}
	if s.Marked > 0 {
		s.mark(t, i, dst)
	}
}

// mark changes a row for marked tokens to be found. Of the residual stream, element 0 is a constant and element 1 tells
// whether a token is marked; no layer changes them, nor much of the rest, so that they keep their size when all is
// normalised. In each head the plane that turns slowest has the one for queries and the other for keys.
func (s Spec) mark(t tensor, i int, dst []float32) {
	const size = 4 // of both elements, over the embedding's deviation
	kind := t.name[strings.LastIndex(strings.TrimSuffix(t.name, ".weight"), ".")+1:]
	switch kind {
	case "embed_tokens.weight":
		dst[0], dst[1] = float32(size*t.dev), 0
		if i%s.Marked == 0 {
			dst[1] = dst[0]
		}
	case "q_proj.weight", "k_proj.weight":
		half := s.HeadDim / 2
		if i%half != half-1 {
			break
		}
		clear(dst)
		if i%s.HeadDim != half-1 { // the second of the plane's two
			break
		}
		// Logits of 48 where nothing is added to the embedding, whose normalised elements then are up to size large.
		gain := float32(math.Sqrt(48*math.Sqrt(float64(s.HeadDim))) / size)
		if kind[0] == 'q' {
			dst[0] = gain
		} else {
			dst[1] = gain
		}
	case "o_proj.weight", "down_proj.weight":
		for j := range dst {
			dst[j] *= 0.01
		}
		if i < 2 {
			clear(dst)
		}
	}
}

// architecture returns what GGUF calls the family.
func (s Spec) architecture() string {
	if s.Family == "mistral" {
		return "llama"
	}
	return s.Family
}

// WriteDir writes config.json and model.safetensors into a directory that exists, with matrices in F32, F16 or BF16 and
// vectors in F32. Matrices of a type are what WriteGGUF writes of it.
func (s Spec) WriteDir(ctx context.Context, dir string, t matrix.Type) error {
	config, err := s.config(t)
	if err != nil {
		return err
	}
	var tensors []safetensors.Tensor
	for _, x := range s.tensors() {
		values, shape := make([]float32, max(x.rows, 1)*x.cols), []int{x.rows, x.cols}
		for i := range max(x.rows, 1) {
			s.row(x, i, values[i*x.cols:][:x.cols])
		}
		out := safetensors.Tensor{Name: x.name, DType: "F32", Data: values}
		if x.rows == 0 {
			shape = shape[1:]
		} else if t != matrix.F32 {
			bits := make([]byte, 2*len(values))
			matrix.Pack(t, values, bits)
			halves := make([]uint16, len(values))
			for i := range halves {
				halves[i] = binary.LittleEndian.Uint16(bits[2*i:])
			}
			out.DType, out.Data = t.String(), halves
		}
		out.Shape = shape
		tensors = append(tensors, out)
	}
	if err := safetensors.WriteFile(ctx, filepath.Join(dir, "model.safetensors"), nil, tensors...); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, "config.json"), config, 0o666)
}

// classes are the families and what Transformers calls them.
var classes = map[string]string{
	"llama": "LlamaForCausalLM", "mistral": "MistralForCausalLM", "qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM",
}

// config makes a config.json.
func (s Spec) config(t matrix.Type) ([]byte, error) {
	names := map[matrix.Type]string{matrix.F32: "float32", matrix.F16: "float16", matrix.BF16: "bfloat16"}
	if names[t] == "" || classes[s.Family] == "" {
		return nil, fmt.Errorf("checkpoints: no directory of family %q in %v", s.Family, t)
	}
	c := map[string]any{
		"architectures": []string{classes[s.Family]}, "model_type": s.Family, "torch_dtype": names[t],
		"vocab_size": s.Vocab, "hidden_size": s.Hidden, "intermediate_size": s.Intermediate, "num_hidden_layers": s.Layers,
		"num_attention_heads": s.Heads, "num_key_value_heads": s.KVHeads, "head_dim": s.HeadDim, "max_position_embeddings": s.MaxPositions,
		"rms_norm_eps": eps, "rope_theta": s.RopeTheta, "hidden_act": "silu", "tie_word_embeddings": s.Tied, "bos_token_id": 0, "eos_token_id": 1,
	}
	switch s.Family {
	case "llama", "qwen3":
		c["attention_bias"] = false
	case "mistral":
		c["sliding_window"] = nil
		if s.Window > 0 {
			c["sliding_window"] = s.Window
		}
	case "qwen2":
		c["use_sliding_window"] = false
	}
	if l := s.Llama3; l != nil {
		c["rope_scaling"] = map[string]any{
			"rope_type": "llama3", "factor": l.Factor, "low_freq_factor": l.LowFreqFactor, "high_freq_factor": l.HighFreqFactor,
			"original_max_position_embeddings": l.OriginalPositions,
		}
	}
	if y := s.YaRN; y != nil {
		c["rope_scaling"] = map[string]any{"rope_type": "yarn", "factor": y.Factor, "original_max_position_embeddings": y.OriginalPositions}
	}
	return json.MarshalIndent(c, "", "  ")
}

// WriteGGUF writes a GGUF file with matrices of a type and vectors in F32, as llama.cpp's converter lays it out.
func (s Spec) WriteGGUF(ctx context.Context, path string, t matrix.Type) error {
	return s.writeGGUF(ctx, path, t, t)
}

// WriteUnpacked writes a GGUF file that is all in F32, with the numbers that WriteGGUF leaves of a type.
func (s Spec) WriteUnpacked(ctx context.Context, path string, t matrix.Type) error {
	return s.writeGGUF(ctx, path, t, matrix.F32)
}

// writeGGUF writes a GGUF file with matrices that are first rounded to a type and then stored in one.
func (s Spec) writeGGUF(ctx context.Context, path string, rounded, stored matrix.Type) error {
	if classes[s.Family] == "" {
		return fmt.Errorf("checkpoints: no family %q", s.Family)
	}
	var sources []gguf.Source
	for _, x := range s.tensors() {
		source, round := gguf.Source{Name: x.gguf, Shape: []int{x.cols}, Type: matrix.F32}, matrix.F32
		if x.rows > 0 {
			source.Shape, source.Type, round = []int{x.rows, x.cols}, stored, rounded
		}
		bytes := func(t matrix.Type) []byte {
			elements, size := t.Block()
			return make([]byte, x.cols/elements*size)
		}
		source.Write = func(w io.Writer) error {
			values, packed, scratch := make([]float32, x.cols), bytes(source.Type), bytes(round)
			for i := range max(x.rows, 1) {
				s.row(x, x.ofGGUF(i), values)
				if round != source.Type {
					matrix.Pack(round, values, scratch)
					matrix.Unpack(round, scratch, values)
				}
				matrix.Pack(source.Type, values, packed)
				if _, err := w.Write(packed); err != nil {
					return err
				}
			}
			return nil
		}
		sources = append(sources, source)
	}
	if s.Llama3 != nil {
		factors := s.Llama3.factors(s.RopeTheta, s.HeadDim)
		sources = append(sources, gguf.Source{Name: "rope_freqs.weight", Shape: []int{len(factors)}, Type: matrix.F32, Write: func(w io.Writer) error {
			return binary.Write(w, binary.LittleEndian, factors)
		}})
	}
	return gguf.WriteFile(ctx, path, s.metadata(stored), sources...)
}

// ofGGUF returns which row lies at row i of the GGUF file. There, the two rows of a head that are rotated together are
// neighbours; in Hugging Face's order they are half a head apart.
func (t tensor) ofGGUF(i int) int {
	if t.heads == 0 {
		return i
	}
	dim := t.rows / t.heads
	head, at := i/dim, i%dim
	return head*dim + at%2*(dim/2) + at/2
}

// factors returns what the frequencies of a head are divided by.
func (l *Llama3) factors(theta float64, dim int) []float32 {
	out := make([]float32, dim/2)
	for i := range out {
		turns := float64(l.OriginalPositions) * math.Pow(theta, -2*float64(i)/float64(dim)) / (2 * math.Pi) // within the original length
		smooth := min(1, max(0, (turns-l.LowFreqFactor)/(l.HighFreqFactor-l.LowFreqFactor)))
		out[i] = float32(1 / ((1-smooth)/l.Factor + smooth))
	}
	return out
}

// fileTypes are the numbers of general.file_type.
var fileTypes = map[matrix.Type]uint32{
	matrix.F32: 0, matrix.F16: 1, matrix.Q4_0: 2, matrix.Q8_0: 7, matrix.Q4_K: 14, matrix.Q5_K: 16, matrix.Q6_K: 18, matrix.BF16: 32,
}

func (s Spec) metadata(t matrix.Type) []gguf.KeyValue {
	a := s.architecture()
	u := func(n int) uint32 { return uint32(n) }
	all := []gguf.KeyValue{
		{Key: "general.architecture", Value: a},
		{Key: "general.name", Value: "random " + s.Family},
		{Key: "general.file_type", Value: fileTypes[t]},
		{Key: "general.quantization_version", Value: uint32(2)},
		{Key: a + ".vocab_size", Value: u(s.Vocab)},
		{Key: a + ".context_length", Value: u(s.MaxPositions)},
		{Key: a + ".embedding_length", Value: u(s.Hidden)},
		{Key: a + ".block_count", Value: u(s.Layers)},
		{Key: a + ".feed_forward_length", Value: u(s.Intermediate)},
		{Key: a + ".attention.head_count", Value: u(s.Heads)},
		{Key: a + ".attention.head_count_kv", Value: u(s.KVHeads)},
		{Key: a + ".attention.key_length", Value: u(s.HeadDim)},
		{Key: a + ".attention.value_length", Value: u(s.HeadDim)},
		{Key: a + ".attention.layer_norm_rms_epsilon", Value: float32(eps)},
		{Key: a + ".rope.dimension_count", Value: u(s.HeadDim)},
		{Key: a + ".rope.freq_base", Value: float32(s.RopeTheta)},
	}
	if s.Window > 0 {
		all = append(all, gguf.KeyValue{Key: a + ".attention.sliding_window", Value: u(s.Window)})
	}
	if y := s.YaRN; y != nil {
		all = append(all, gguf.KeyValue{Key: a + ".rope.scaling.type", Value: "yarn"}, gguf.KeyValue{Key: a + ".rope.scaling.factor", Value: float32(y.Factor)},
			gguf.KeyValue{Key: a + ".rope.scaling.original_context_length", Value: u(y.OriginalPositions)})
	}
	return append(all, tokenizer(s.Vocab)...)
}

// tokenizer makes a byte-level BPE tokenizer of two control tokens, the 256 bytes, a few merges and names for the rest.
func tokenizer(vocab int) []gguf.KeyValue {
	const normal, control = 1, 3
	tokens, types := []string{"<s>", "</s>"}, []int32{control, control}
	// GPT-2 writes a byte as the character of its number if that can be seen, and as one from 256 on otherwise.
	other := rune(256)
	for b := range rune(256) {
		c := b
		if b <= ' ' || b >= 0x7f && b <= 0xa0 || b == 0xad {
			c = other
			other++
		}
		tokens = append(tokens, string(c))
	}
	var merges []string
	for _, m := range [][2]string{{"t", "h"}, {"th", "e"}, {"Ġ", "the"}, {"i", "n"}, {"Ġ", "a"}, {"e", "r"}} {
		merges = append(merges, m[0]+" "+m[1])
		tokens = append(tokens, m[0]+m[1])
	}
	tokens = tokens[:min(len(tokens), vocab)]
	for len(tokens) < vocab {
		tokens = append(tokens, fmt.Sprintf("[%d]", len(tokens)))
	}
	types = append(types, slices.Repeat([]int32{normal}, vocab-len(types))...)
	return []gguf.KeyValue{
		{Key: "tokenizer.ggml.model", Value: "gpt2"},
		{Key: "tokenizer.ggml.pre", Value: "gpt-2"},
		{Key: "tokenizer.ggml.tokens", Value: tokens},
		{Key: "tokenizer.ggml.token_type", Value: types},
		{Key: "tokenizer.ggml.merges", Value: merges},
		{Key: "tokenizer.ggml.bos_token_id", Value: uint32(0)},
		{Key: "tokenizer.ggml.eos_token_id", Value: uint32(1)},
		{Key: "tokenizer.ggml.add_bos_token", Value: false},
	}
}
