package model_test

import (
	"bytes"
	"encoding/binary"
	"io"
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
	"github.com/anchorattention/anchor/model/internal/reference"
)

// ggufNames are GGUF's names of what Hugging Face's checkpoints call otherwise.
var ggufNames = map[string]string{
	"embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output", "input_layernorm": "attn_norm", "q_proj": "attn_q",
	"k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output", "q_norm": "attn_q_norm", "k_norm": "attn_k_norm",
	"post_attention_layernorm": "ffn_norm", "gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down",
}

func ggufName(t testing.TB, name string) string {
	parts := strings.Split(name, ".")
	kind := parts[len(parts)-1]
	base, ok := ggufNames[parts[len(parts)-2]]
	if !ok {
		base, ok = ggufNames[strings.Join(parts[len(parts)-3:len(parts)-1], ".")]
	}
	if parts[0] == "model" && parts[1] == "norm" {
		base, ok = "output_norm", true
	}
	if !ok {
		t.Fatalf("no name for %q", name)
	}
	if parts[1] == "layers" {
		base = "blk." + parts[2] + "." + base
	}
	return base + "." + kind
}

// pairs brings the rows of each head of a projection, or a bias, into the order in which elements 2i and 2i + 1 turn together:
// a head's [2, dim/2] rows become [dim/2, 2].
func pairs(data []float32, heads, cols int) []float32 {
	half := len(data) / heads / cols / 2
	var out []float32
	for h := range heads {
		head := data[h*2*half*cols:]
		for i := range half {
			out = append(out, head[i*cols:(i+1)*cols]...)
			out = append(out, head[(i+half)*cols:(i+half+1)*cols]...)
		}
	}
	return out
}

func f32(data []float32) func(w io.Writer) error {
	return func(w io.Writer) error { return binary.Write(w, binary.LittleEndian, data) }
}

// ggufOf returns the metadata and tensors of a model of the given shape and weights, as converters write them.
func ggufOf(t testing.TB, c model.Config, all map[string]safetensors.Tensor) ([]gguf.KeyValue, []gguf.Source) {
	arch := c.Architecture
	if arch == "mistral" || arch == "" {
		arch = "llama"
	}
	meta := []gguf.KeyValue{
		{Key: "general.architecture", Value: arch}, {Key: "general.name", Value: "a test"},
		{Key: arch + ".block_count", Value: uint32(c.Layers)}, {Key: arch + ".context_length", Value: uint32(c.MaxPositions)},
		{Key: arch + ".embedding_length", Value: uint32(c.Hidden)}, {Key: arch + ".feed_forward_length", Value: uint32(c.Intermediate)},
		{Key: arch + ".attention.head_count", Value: uint32(c.Heads)}, {Key: arch + ".attention.head_count_kv", Value: uint32(c.KVHeads)},
		{Key: arch + ".attention.key_length", Value: uint32(c.HeadDim)}, {Key: arch + ".attention.value_length", Value: uint32(c.HeadDim)},
		{Key: arch + ".attention.layer_norm_rms_epsilon", Value: float32(c.RMSNormEps)}, {Key: arch + ".rope.freq_base", Value: float32(c.RopeTheta)},
		{Key: arch + ".rope.dimension_count", Value: uint32(c.HeadDim)},
	}
	if c.Windows != nil {
		window := slices.Max(c.Windows)
		var of []bool
		for _, w := range c.Windows {
			of = append(of, w != 0)
		}
		meta = append(meta, gguf.KeyValue{Key: arch + ".attention.sliding_window", Value: uint32(window)})
		if slices.Contains(of, false) {
			meta = append(meta, gguf.KeyValue{Key: arch + ".attention.sliding_window_pattern", Value: of})
		}
	}
	scaling := arch + ".rope.scaling."
	switch s := c.RopeScaling; s.Type {
	case "linear":
		meta = append(meta, gguf.KeyValue{Key: scaling + "type", Value: s.Type}, gguf.KeyValue{Key: scaling + "factor", Value: float32(s.Factor)})
	case "yarn":
		meta = append(meta, gguf.KeyValue{Key: scaling + "type", Value: s.Type}, gguf.KeyValue{Key: scaling + "factor", Value: float32(s.Factor)},
			gguf.KeyValue{Key: scaling + "original_context_length", Value: uint32(s.Original)}, gguf.KeyValue{Key: scaling + "yarn_beta_fast", Value: float32(s.BetaFast)},
			gguf.KeyValue{Key: scaling + "yarn_attn_factor", Value: float32(s.Attention)})
	}
	var tensors []gguf.Source
	for name, tensor := range all {
		data, shape := tensor.Data.([]float32), tensor.Shape
		cols := 1
		if len(shape) == 2 {
			cols = shape[1]
		}
		if arch == "llama" && strings.Contains(name, "q_proj") {
			data = pairs(data, c.Heads, cols)
		} else if arch == "llama" && strings.Contains(name, "k_proj") {
			data = pairs(data, c.KVHeads, cols)
		}
		tensors = append(tensors, gguf.Source{Name: ggufName(t, name), Shape: shape, Type: matrix.F32, Write: f32(data)})
	}
	if s := c.RopeScaling; s.Type == "factors" {
		tensors = append(tensors, gguf.Source{Name: "rope_freqs.weight", Shape: []int{len(s.Factors)}, Type: matrix.F32, Write: f32(s.Factors)})
	}
	return meta, tensors
}

// writeGGUF writes a model to a file, with some changes if there are any, and returns its path.
func writeGGUF(t testing.TB, c model.Config, all map[string]safetensors.Tensor,
	change func([]gguf.KeyValue, []gguf.Source) ([]gguf.KeyValue, []gguf.Source)) string {
	t.Helper()
	meta, tensors := ggufOf(t, c, all)
	if change != nil {
		meta, tensors = change(meta, tensors)
	}
	path := filepath.Join(t.TempDir(), "model.gguf")
	if err := gguf.WriteFile(t.Context(), path, meta, tensors...); err != nil {
		t.Fatal(err)
	}
	return path
}

func open(t testing.TB, path string) *model.Model {
	t.Helper()
	m, err := model.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	if files := m.Files(); len(files) != 1 || files[0] != path {
		t.Errorf("%s was read from %v", path, files)
	}
	t.Cleanup(func() {
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return m
}

// A GGUF file gives bit by bit the logits that the same weights give when they come from elsewhere, in Hugging Face's
// order and by its names.
func TestGGUF(t *testing.T) {
	for name, c := range configs {
		c.Interleaved = false
		source, all := remembered(random)
		want, err := model.New(c, source)
		if err != nil {
			t.Fatal(err)
		}
		if c.Architecture == "" || c.Architecture == "mistral" {
			c.Architecture = "llama"
		}
		tolerance := 0.
		if c.RopeScaling.Type == "llama3" { // for which the format has factors, which are rounded
			tolerance = 1e-5
			scaled, _ := reference.Frequencies(c)
			c.RopeScaling = model.RopeScaling{}
			freq, _ := reference.Frequencies(c)
			c.RopeScaling.Type = "factors"
			for i := range freq {
				c.RopeScaling.Factors = append(c.RopeScaling.Factors, float32(freq[i]/scaled[i]))
			}
		}
		got := open(t, writeGGUF(t, c, all, nil))
		c.Interleaved = c.Architecture == "llama"
		if diff := cmp.Diff(c, got.Config()); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		ids := tokens(60, c.Vocab)
		near(t, name, forward(t, got, newCache(t, got, 60), ids, dense), forward(t, want, newCache(t, want, 60), ids, dense), tolerance)
	}
}

// inType returns what changes a file's matrices to a type, and where it puts the numbers that they then stand for.
func inType(t testing.TB, typ matrix.Type) (change func([]gguf.KeyValue, []gguf.Source) ([]gguf.KeyValue, []gguf.Source), exact map[string][]float32) {
	exact = make(map[string][]float32)
	return func(meta []gguf.KeyValue, tensors []gguf.Source) ([]gguf.KeyValue, []gguf.Source) {
		for i := range tensors {
			s := &tensors[i]
			if len(s.Shape) == 1 {
				continue
			}
			var b bytes.Buffer
			if err := s.Write(&b); err != nil {
				t.Fatal(err)
			}
			data := make([]float32, b.Len()/4)
			if _, err := binary.Decode(b.Bytes(), binary.LittleEndian, data); err != nil {
				t.Fatal(err)
			}
			elements, size := typ.Block()
			packed := make([]byte, len(data)/elements*size)
			matrix.Pack(typ, data, packed)
			matrix.Unpack(typ, packed, data)
			exact[s.Name] = data
			s.Type, s.Write = typ, func(w io.Writer) error { _, err := w.Write(packed); return err }
		}
		return meta, tensors
	}, exact
}

// Weights of every type are the numbers that they stand for, and are listed as they are stored.
func TestGGUFTypes(t *testing.T) {
	c := model.Config{
		Architecture: "llama", Vocab: 30, Hidden: 256, Intermediate: 512, Layers: 1, Heads: 4, KVHeads: 2, HeadDim: 64, MaxPositions: 128,
		RMSNormEps: 1e-5, RopeTheta: 10000, BOS: -1,
	}
	source, all := remembered(random)
	if _, err := model.New(c, source); err != nil {
		t.Fatal(err)
	}
	ids := tokens(9, c.Vocab)
	for typ := matrix.F32; typ <= matrix.Q6_K; typ++ {
		change, exact := inType(t, typ)
		m := open(t, writeGGUF(t, c, all, change))
		for _, w := range m.Weights() {
			if elements, bytes := typ.Block(); len(w.Shape) == 2 && (w.Type != typ.String() || w.Bytes != w.Shape[0]*w.Shape[1]/elements*bytes) {
				t.Errorf("%v: %+v", typ, w)
			}
		}
		interleaved := c
		interleaved.Interleaved = true
		want, err := model.New(interleaved, func(name string, shape ...int) ([]float32, error) {
			if len(shape) == 1 {
				return random(name, shape...)
			}
			return exact[ggufName(t, name)], nil
		})
		if err != nil {
			t.Fatal(err)
		}
		// What matrices of some types are multiplied by is rounded to bfloat16 or to bytes.
		tolerance := 1e-4
		switch typ {
		case matrix.F32, matrix.F16:
		case matrix.BF16:
			tolerance = 0.01
		default:
			tolerance = 0.08
		}
		near(t, typ.String(), forward(t, m, newCache(t, m, 9), ids, dense), forward(t, want, newCache(t, want, 9), ids, dense), tolerance)
	}
}

// What else a file holds is at hand; a text ends with the tokens that the file names, and with control tokens of known names.
func TestGGUFMetadata(t *testing.T) {
	c := configs["Qwen3"]
	source, all := remembered(random)
	if _, err := model.New(c, source); err != nil {
		t.Fatal(err)
	}
	words := make([]string, c.Vocab)
	types := slices.Repeat([]int32{1}, c.Vocab)
	words[3], types[3] = "<|im_end|>", 3
	words[4] = "<|endoftext|>" // which is not a control token here
	words[5], types[5] = "<|im_start|>", 3
	m := open(t, writeGGUF(t, c, all, func(meta []gguf.KeyValue, tensors []gguf.Source) ([]gguf.KeyValue, []gguf.Source) {
		return append(meta, []gguf.KeyValue{
			{Key: "tokenizer.chat_template", Value: "{{ messages }}"}, {Key: "tokenizer.ggml.model", Value: "gpt2"}, {Key: "tokenizer.ggml.pre", Value: "qwen2"},
			{Key: "tokenizer.ggml.tokens", Value: words}, {Key: "tokenizer.ggml.token_type", Value: types}, {Key: "tokenizer.ggml.merges", Value: []string{"a b"}},
			{Key: "tokenizer.ggml.scores", Value: make([]float32, c.Vocab)}, {Key: "tokenizer.ggml.bos_token_id", Value: uint32(1)},
			{Key: "tokenizer.ggml.eos_token_id", Value: uint32(7)}, {Key: "tokenizer.ggml.eot_token_id", Value: uint32(7)}, {Key: "tokenizer.ggml.eom_token_id", Value: uint32(8)},
			{Key: "tokenizer.ggml.unknown_token_id", Value: uint32(0)}, {Key: "tokenizer.ggml.add_bos_token", Value: false},
		}...), tensors
	}))
	want := &model.Metadata{Name: "a test", ChatTemplate: "{{ messages }}", Vocabulary: model.Vocabulary{
		Model: "gpt2", Pre: "qwen2", Tokens: words, TokenTypes: types, Merges: []string{"a b"}, Scores: make([]float32, c.Vocab),
		BOS: new(uint32(1)), EOS: new(uint32(7)), Unknown: new(uint32(0)), AddBOS: new(false),
	}}
	if diff := cmp.Diff(want, m.Metadata()); diff != "" {
		t.Error(diff)
	}
	if cfg := m.Config(); cfg.BOS != 1 || !slices.Equal(cfg.EOS, []int32{7, 8, 3}) {
		t.Errorf("begins with %d, ends with %d; want 1, [7 8 3]", cfg.BOS, cfg.EOS)
	}
	if newModel(t, c).Metadata() != nil {
		t.Error("a model that is no GGUF file has metadata of one")
	}
}

// A file that is not of a model that can be computed as it is meant is refused with an error that names the file and
// the key or the tensor.
func TestGGUFErrors(t *testing.T) {
	c := configs["grouped, untied"]
	source, all := remembered(random)
	if _, err := model.New(c, source); err != nil {
		t.Fatal(err)
	}
	set := func(key string, value any) func(*[]gguf.KeyValue, *[]gguf.Source) {
		return func(meta *[]gguf.KeyValue, _ *[]gguf.Source) {
			*meta = slices.DeleteFunc(*meta, func(kv gguf.KeyValue) bool { return kv.Key == key })
			if value != nil {
				*meta = append(*meta, gguf.KeyValue{Key: key, Value: value})
			}
		}
	}
	both := func(a, b func(*[]gguf.KeyValue, *[]gguf.Source)) func(*[]gguf.KeyValue, *[]gguf.Source) {
		return func(meta *[]gguf.KeyValue, tensors *[]gguf.Source) { a(meta, tensors); b(meta, tensors) }
	}
	tensor := func(name string, shape ...int) func(*[]gguf.KeyValue, *[]gguf.Source) {
		return func(_ *[]gguf.KeyValue, tensors *[]gguf.Source) {
			*tensors = slices.DeleteFunc(*tensors, func(s gguf.Source) bool { return s.Name == name })
			if n := 1; shape != nil {
				for _, s := range shape {
					n *= s
				}
				*tensors = append(*tensors, gguf.Source{Name: name, Shape: shape, Type: matrix.F32, Write: f32(make([]float32, n))})
			}
		}
	}
	for _, test := range []struct {
		change func(*[]gguf.KeyValue, *[]gguf.Source)
		want   []string
	}{
		{set("general.architecture", nil), []string{"general.architecture", `""`}},
		{set("general.architecture", "gemma"), []string{"general.architecture", "gemma", "qwen3"}},
		{set("general.architecture", uint32(1)), []string{"general.architecture", "string"}},
		{set("general.name", uint32(1)), []string{"general.name", "string"}},
		{set("llama.block_count", nil), []string{"llama.block_count"}},
		{set("llama.block_count", "two"), []string{"llama.block_count", "two"}},
		{set("llama.block_count", uint64(1<<40)), []string{"llama.block_count", "1099511627776"}},
		{set("llama.block_count", uint32(1<<20)), []string{"block_count is 1048576"}},
		{set("llama.block_count", uint32(3)), []string{"blk.2.attn_norm.weight"}},
		{set("llama.block_count", uint32(1)), []string{"blk.1.", "not one of"}},
		{set("llama.context_length", nil), []string{"llama.context_length"}},
		{set("llama.embedding_length", uint32(41)), []string{"token_embd.weight", "[61 40]", "[61 41]"}},
		{set("llama.feed_forward_length", uint32(0)), []string{"feed_forward_length is 0"}},
		{set("llama.attention.head_count", []uint32{4, 4}), []string{"head_count", "array"}},
		{set("llama.attention.head_count_kv", uint32(3)), []string{"attention.head_count_kv is 3"}},
		{set("llama.attention.key_length", uint32(8)), []string{"value_length", "16", "8"}},
		{both(set("llama.attention.key_length", nil), set("llama.attention.head_count", uint32(3))), []string{"head_count", "3", "40"}},
		{set("llama.rope.dimension_count", uint32(8)), []string{"rope.dimension_count", "8", "16"}},
		{set("llama.attention.layer_norm_rms_epsilon", nil), []string{"attention.layer_norm_rms_epsilon is 0"}},
		{set("llama.attention.layer_norm_rms_epsilon", "x"), []string{"layer_norm_rms_epsilon", "x"}},
		{set("llama.expert_count", uint32(8)), []string{"expert_count", "8", "0"}},
		{set("llama.attention.scale", float32(0.5)), []string{"attention.scale", "0.5"}},
		{set("llama.logit_scale", float32(0.5)), []string{"logit_scale", "0.5"}},
		{set("llama.final_logit_softcapping", float32(30)), []string{"final_logit_softcapping", "30"}},
		{set("llama.attention.causal", false), []string{"attention.causal", "false"}},
		{set("llama.rope.dimension_sections", []int32{1}), []string{"dimension_sections"}},
		{set("llama.rope.freq_base", float32(0)), []string{"rope.freq_base is 0"}},
		{set("llama.rope.scaling.type", "longrope"), []string{"rope.scaling.type", "longrope", "yarn"}},
		{set("llama.rope.scaling.factor", float32(0.5)), []string{"factor", "0.5"}},
		{set("llama.rope.scaling.attn_factor", float32(0.5)), []string{"attn_factor", "0.5"}},
		{both(set("llama.rope.scaling.type", "yarn"), set("llama.rope.scaling.yarn_ext_factor", float32(0.5))), []string{"yarn_ext_factor", "0.5"}},
		{both(set("llama.rope.scaling.type", "yarn"), tensor("rope_freqs.weight", 8)), []string{"rope_freqs.weight", "yarn"}},
		{tensor("rope_freqs.weight", 7), []string{"rope_freqs.weight", "[7]", "[8]"}},
		{tensor("rope_freqs.weight", 8), []string{"rotary factor 0 is 0"}},
		{both(set("llama.attention.sliding_window", uint32(5)), set("llama.attention.sliding_window_pattern", []bool{true})), []string{"sliding_window_pattern", "list of 1", "2"}},
		{both(set("llama.attention.sliding_window", uint32(5)), set("llama.attention.sliding_window_pattern", uint32(2))), []string{"sliding_window_pattern", "2"}},
		{set("llama.attention.sliding_window", uint32(1<<30)), []string{"attention.sliding_window is 1073741824"}},
		{set("tokenizer.ggml.tokens", "a"), []string{"tokenizer.ggml.tokens", "array of strings"}},
		{set("tokenizer.ggml.token_type", []int64{1 << 40}), []string{"token_type", "1099511627776"}},
		{set("tokenizer.ggml.bos_token_id", uint32(61)), []string{"tokenizer.ggml.bos_token_id is 61"}},
		{set("tokenizer.ggml.eos_token_id", uint32(61)), []string{"tokenizer.ggml.eos_token_id is 61"}},
		{set("tokenizer.chat_template", true), []string{"chat_template", "string"}},
		{tensor("token_embd.weight"), []string{"token_embd.weight"}},
		{tensor("token_embd.weight", 61), []string{"token_embd.weight", "two dimensions"}},
		{tensor("blk.1.ffn_up.weight"), []string{"blk.1.ffn_up.weight"}},
		{tensor("blk.1.ffn_up.weight", 40, 52), []string{"blk.1.ffn_up.weight", "[40 52]", "[52 40]"}},
		{tensor("blk.1.ffn_up.bias", 52), []string{"blk.1.ffn_up.bias", "not one of", "llama"}},
		{tensor("blk.0.attn_q.bias", 64), []string{"blk.0.attn_k.bias"}},
		{tensor("blk.0.attn_q_norm.weight", 16), []string{"blk.0.attn_q_norm.weight", "not one of"}},
	} {
		path := writeGGUF(t, c, all, func(meta []gguf.KeyValue, tensors []gguf.Source) ([]gguf.KeyValue, []gguf.Source) {
			test.change(&meta, &tensors)
			return meta, tensors
		})
		m, err := model.Open(path)
		if err == nil {
			t.Errorf("no error; want one that mentions %q", test.want)
			m.Close()
			continue
		}
		for _, w := range append(test.want, path) {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("error %q does not mention %q", err, w)
			}
		}
	}
	path := filepath.Join(t.TempDir(), "model.bin")
	if err := os.WriteFile(path, []byte("something else"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{path, path + "x"} {
		if _, err := model.Open(path); err == nil || !strings.Contains(err.Error(), path) {
			t.Errorf("error %v, want one that names %s", err, path)
		}
	}
}
