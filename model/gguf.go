package model

import (
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/anchorattention/anchor/internal/gguf"
	"github.com/anchorattention/anchor/internal/matrix"
	"github.com/anchorattention/anchor/internal/mmap"
)

// Metadata is what a GGUF file holds beside the model.
type Metadata struct {
	Name         string // of the model, "" if it has none
	ChatTemplate string // in Jinja, "" if there is none
	Vocabulary   Vocabulary
}

// A Vocabulary is the tokenizer of a GGUF file: each field is the value of the key named beside it, all of which begin
// with "tokenizer.ggml.". A nil field is a key that the file does not have.
type Vocabulary struct {
	Model      string    // model: "gpt2" or "llama"
	Pre        string    // pre
	Tokens     []string  // tokens, by id
	Scores     []float32 // scores
	TokenTypes []int32   // token_type
	Merges     []string  // merges

	BOS            *uint32 // bos_token_id
	EOS            *uint32 // eos_token_id
	Unknown        *uint32 // unknown_token_id
	AddBOS         *bool   // add_bos_token
	AddEOS         *bool   // add_eos_token
	AddSpacePrefix *bool   // add_space_prefix
}

// openGGUF opens a GGUF file.
func openGGUF(path string) (m *Model, err error) {
	f, err := gguf.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			f.Close()
		}
	}()
	defer mmap.Guard(&err)()
	cfg, meta, err := ggufConfig(f)
	if err != nil {
		return nil, err
	}
	from := &ggufSource{file: f, used: map[string]bool{ropeFactors: true}}
	if m, err = build(cfg, from); err != nil {
		return nil, err
	}
	// What is left over would have changed the computation.
	for _, t := range f.Tensors() {
		if !from.used[t.Name] {
			return nil, fmt.Errorf("%s: tensor %q is not one of architecture %q", path, t.Name, cfg.Architecture)
		}
	}
	m.metadata, m.files, m.paths = meta, []io.Closer{f}, []string{path}
	return m, nil
}

const (
	ropeFactors = "rope_freqs.weight"
	vocabulary  = "tokenizer.ggml."
)

// ggufNames turns the names of Hugging Face's checkpoints into those of GGUF files.
var ggufNames = strings.NewReplacer(
	"model.embed_tokens.", "token_embd.", "model.norm.", "output_norm.", "lm_head.", "output.", "model.layers.", "blk.",
	"input_layernorm.", "attn_norm.", "self_attn.q_proj.", "attn_q.", "self_attn.k_proj.", "attn_k.", "self_attn.v_proj.", "attn_v.",
	"self_attn.o_proj.", "attn_output.", "self_attn.q_norm.", "attn_q_norm.", "self_attn.k_norm.", "attn_k_norm.",
	"post_attention_layernorm.", "ffn_norm.", "mlp.gate_proj.", "ffn_gate.", "mlp.up_proj.", "ffn_up.", "mlp.down_proj.", "ffn_down.",
)

// ggufFields turns the names of fields in config.json, which errors have, into those of a GGUF file's metadata.
var ggufFields = strings.NewReplacer(
	"original_max_position_embeddings", "rope.scaling.original_context_length", "vocab_size", "the rows of token_embd.weight",
	"hidden_size", "embedding_length", "intermediate_size", "feed_forward_length", "num_hidden_layers", "block_count",
	"num_attention_heads", "attention.head_count", "num_key_value_heads", "attention.head_count_kv", "max_position_embeddings", "context_length",
	"head_dim", "attention.key_length", "rms_norm_eps", "attention.layer_norm_rms_epsilon", "rope_theta", "rope.freq_base",
	"sliding_window", "attention.sliding_window", "bos_token_id", "tokenizer.ggml.bos_token_id", "eos_token_id", "tokenizer.ggml.eos_token_id",
	"attention_factor", "rope.scaling.yarn_attn_factor", "beta_slow", "rope.scaling.yarn_beta_slow", "beta_fast", "yarn_beta_fast",
)

// ggufSource is the weights of a GGUF file.
type ggufSource struct {
	file *gguf.File
	used map[string]bool // tensors that were asked for
}

func (s *ggufSource) load(name string, shape ...int) (*matrix.Matrix, error) {
	name = ggufNames.Replace(name)
	t, ok := s.file.Tensor(name)
	if !ok {
		return nil, fmt.Errorf("%s: no tensor %q", s.file.Name(), name)
	}
	if !slices.Equal(t.Shape, shape) {
		return nil, fmt.Errorf("%s: tensor %q has shape %v; want %v, by the metadata", s.file.Name(), name, t.Shape, shape)
	}
	s.used[name] = true
	return t.Matrix()
}

func (s *ggufSource) matrix(name string, rows, cols int) (*matrix.Matrix, error) {
	return s.load(name, rows, cols)
}

func (s *ggufSource) vector(name string, n int) (*matrix.Matrix, error) { return s.load(name, n) }

// A keys reads metadata, those of the architecture by their names without it. Its err is the first failure.
type keys struct {
	file   *gguf.File
	prefix string
	err    error
}

// read reads what there is of a key with one of the file's methods.
func read[T any](k *keys, key string, method func(string) (T, error)) (value T, ok bool) {
	if k.err != nil || !k.file.Has(k.prefix+key) {
		return value, false
	}
	value, k.err = method(k.prefix + key)
	return value, k.err == nil
}

func (k *keys) bad(key string, value any, want string) {
	if k.err == nil {
		k.err = fmt.Errorf("%s: metadata %q is %v; want %s", k.file.Name(), k.prefix+key, value, want)
	}
}

// size reads a size that must be there if it is required.
func (k *keys) size(key string, required bool) (n int, ok bool) {
	value, ok := read(k, key, k.file.Uint)
	if !ok && required && k.err == nil {
		k.err = fmt.Errorf("%s: no metadata %q", k.file.Name(), k.prefix+key)
	}
	if value > math.MaxInt32 {
		k.bad(key, value, fmt.Sprintf("at most %d", math.MaxInt32))
		return 0, false
	}
	return int(value), ok
}

// float reads a number. One in single precision is taken for the shortest decimal that stands for it: that is what it was
// before a converter rounded it.
func (k *keys) float(key string, missing float64) float64 {
	value, ok := read(k, key, k.file.Float)
	if !ok {
		return missing
	}
	if single := float32(value); float64(single) == value {
		value, _ = strconv.ParseFloat(strconv.FormatFloat(value, 'g', -1, 32), 64)
	}
	return value
}

func (k *keys) string(key string) string {
	value, _ := read(k, key, k.file.String)
	return value
}

// ggufConfig reads the shape of a model and what else there is from a GGUF file's metadata. What this package cannot
// compute as it is meant is an error.
//
// Windows are not among what converters write for the architectures llama (Mistral's, too), qwen2 and qwen3; where a
// file has one it is honoured.
func ggufConfig(f *gguf.File) (Config, *Metadata, error) {
	general := &keys{file: f}
	arch := general.string("general.architecture")
	if general.err == nil && arch != "llama" && arch != "qwen2" && arch != "qwen3" {
		general.bad("general.architecture", quote(arch), `"llama", "qwen2" or "qwen3"`)
	}
	if general.err != nil {
		return Config{}, nil, general.err
	}
	meta := &Metadata{Name: general.string("general.name"), ChatTemplate: general.string("tokenizer.chat_template")}
	if general.err != nil {
		return Config{}, nil, general.err
	}
	c := Config{Architecture: arch, QKNorm: arch == "qwen3", Interleaved: arch == "llama"}
	k := &keys{file: f, prefix: arch + "."}
	c.Hidden, _ = k.size("embedding_length", true)
	c.Intermediate, _ = k.size("feed_forward_length", true)
	c.Layers, _ = k.size("block_count", true)
	c.MaxPositions, _ = k.size("context_length", true)
	c.Heads, _ = k.size("attention.head_count", true)
	c.RMSNormEps = k.float("attention.layer_norm_rms_epsilon", 0)
	c.KVHeads = c.Heads
	if n, ok := k.size("attention.head_count_kv", false); ok {
		c.KVHeads = n
	}
	if n, ok := k.size("attention.key_length", false); ok {
		c.HeadDim = n
	} else if c.Heads > 0 && c.Hidden%c.Heads == 0 {
		c.HeadDim = c.Hidden / c.Heads
	} else {
		k.bad("attention.head_count", c.Heads, fmt.Sprintf("a divisor of the embedding_length, %d, or a key_length", c.Hidden))
	}
	for _, key := range []string{"attention.value_length", "rope.dimension_count"} {
		if n, ok := k.size(key, false); ok && n != c.HeadDim {
			k.bad(key, n, fmt.Sprintf("that of a key, %d", c.HeadDim))
		}
	}
	for _, key := range []string{"expert_count", "pooling_type"} {
		if n, _ := k.size(key, false); n != 0 {
			k.bad(key, n, "0")
		}
	}
	for _, key := range []string{"attention.scale", "logit_scale", "residual_scale", "embedding_scale", "attention.temperature_scale",
		"attention.clamp_kqv", "attention.max_alibi_bias", "attn_logit_softcapping", "final_logit_softcapping"} {
		if x := k.float(key, 0); x != 0 {
			k.bad(key, x, "none")
		}
	}
	for _, key := range []string{"rope.dimension_sections", "rope.freq_base_swa"} {
		if k.err == nil && f.Has(k.prefix+key) {
			k.bad(key, "there", "none")
		}
	}
	if causal, ok := read(k, "attention.causal", f.Bool); ok && !causal {
		k.bad("attention.causal", causal, "true")
	}
	if k.err != nil {
		return Config{}, nil, k.err
	}

	tensor := func(name string) bool { _, ok := f.Tensor(name); return ok }
	c.Tied = !tensor("output.weight")
	c.QKVBias, c.OBias = tensor("blk.0.attn_q.bias"), tensor("blk.0.attn_output.bias")
	if t, ok := f.Tensor("token_embd.weight"); ok && len(t.Shape) == 2 {
		c.Vocab = t.Shape[0]
	} else {
		return Config{}, nil, fmt.Errorf("%s: no tensor %q of two dimensions", f.Name(), "token_embd.weight")
	}
	if err := ggufVocabulary(f, &meta.Vocabulary); err != nil {
		return Config{}, nil, err
	}
	c.BOS, c.EOS = meta.Vocabulary.ends(f)
	inFile := func(err error) error {
		return fmt.Errorf("%s: metadata: %s", f.Name(), ggufFields.Replace(err.Error()))
	}
	if err := c.checkSizes(); err != nil { // before there is memory for every layer
		return Config{}, nil, inFile(err)
	}
	k.windows(&c)
	k.rope(&c)
	if k.err != nil {
		return Config{}, nil, k.err
	}
	if err := c.check(); err != nil {
		return Config{}, nil, inFile(err)
	}
	return c, meta, nil
}

// windows reads which layers have one.
func (k *keys) windows(c *Config) {
	const key, pattern = "attention.sliding_window", "attention.sliding_window_pattern"
	window, _ := k.size(key, false)
	if window == 0 || k.err != nil {
		return
	}
	c.Windows = slices.Repeat([]int{window}, c.Layers)
	if of, ok := read(k, pattern, k.file.Bools); ok {
		if len(of) != c.Layers {
			k.bad(pattern, fmt.Sprintf("a list of %d", len(of)), fmt.Sprintf("one for each of the %d layers", c.Layers))
			return
		}
		for i, windowed := range of {
			if !windowed {
				c.Windows[i] = 0
			}
		}
	}
}

// rope reads what is about rotary embeddings.
func (k *keys) rope(c *Config) {
	c.RopeTheta = k.float("rope.freq_base", 10000)
	s := RopeScaling{Type: k.string("rope.scaling.type")}
	if s.Factor = k.float("rope.scaling.factor", 0); s.Factor == 0 {
		s.Factor = k.float("rope.scale_linear", 1)
	}
	if x := k.float("rope.scaling.attn_factor", 1); x != 1 && s.Type != "yarn" {
		k.bad("rope.scaling.attn_factor", x, "1")
	}
	switch s.Type {
	case "", "none", "linear":
		s.Type = "linear"
		if s.Factor == 1 {
			s = RopeScaling{}
		}
	case "yarn":
		s.Original = c.MaxPositions
		if n, ok := k.size("rope.scaling.original_context_length", false); ok {
			s.Original = n
		}
		s.BetaFast, s.BetaSlow = k.float("rope.scaling.yarn_beta_fast", 32), k.float("rope.scaling.yarn_beta_slow", 1)
		if x := k.float("rope.scaling.yarn_ext_factor", 1); x != 1 {
			k.bad("rope.scaling.yarn_ext_factor", x, "1")
		}
		s.Attention = yarnAttention(s.Factor, 1)
		if weight := k.float("rope.scaling.yarn_log_multiplier", 0); weight != 0 {
			s.Attention /= yarnAttention(s.Factor, weight)
		}
		s.Attention = k.float("rope.scaling.yarn_attn_factor", s.Attention) * k.float("rope.scaling.attn_factor", 1)
	default:
		k.bad("rope.scaling.type", quote(s.Type), `"none", "linear" or "yarn"`)
	}
	if t, ok := k.file.Tensor(ropeFactors); ok && k.err == nil {
		if s.Type != "" {
			k.err = fmt.Errorf("%s: there is a tensor %q, and metadata %q is %s; want one of the two", k.file.Name(), ropeFactors, k.prefix+"rope.scaling.type", quote(s.Type))
			return
		}
		if !slices.Equal(t.Shape, []int{c.HeadDim / 2}) {
			k.err = fmt.Errorf("%s: tensor %q has shape %v; want [%d]", k.file.Name(), ropeFactors, t.Shape, c.HeadDim/2)
			return
		}
		m, err := t.Matrix()
		if err != nil {
			k.err = err
			return
		}
		s = RopeScaling{Type: "factors", Factors: make([]float32, c.HeadDim/2)}
		m.Row(0, s.Factors)
	}
	c.RopeScaling = s
	c.stretch()
}

// ggufVocabulary reads a tokenizer, or what there is of one.
func ggufVocabulary(f *gguf.File, v *Vocabulary) error {
	k := &keys{file: f, prefix: vocabulary}
	v.Model, v.Pre = k.string("model"), k.string("pre")
	v.Tokens, _ = read(k, "tokens", f.Strings)
	v.Merges, _ = read(k, "merges", f.Strings)
	if scores, ok := read(k, "scores", f.Floats); ok {
		v.Scores = make([]float32, len(scores))
		for i, s := range scores {
			v.Scores[i] = float32(s)
		}
	}
	if types, ok := read(k, "token_type", f.Ints); ok {
		v.TokenTypes = make([]int32, len(types))
		for i, t := range types {
			if v.TokenTypes[i] = int32(t); int64(v.TokenTypes[i]) != t {
				k.bad("token_type", t, "values of 32 bits")
			}
		}
	}
	for key, to := range map[string]**uint32{"bos_token_id": &v.BOS, "eos_token_id": &v.EOS, "unknown_token_id": &v.Unknown} {
		if id, ok := k.size(key, false); ok {
			*to = new(uint32(id))
		}
	}
	for key, to := range map[string]**bool{"add_bos_token": &v.AddBOS, "add_eos_token": &v.AddEOS, "add_space_prefix": &v.AddSpacePrefix} {
		if yes, ok := read(k, key, f.Bool); ok {
			*to = new(yes)
		}
	}
	return k.err
}

// endings are what control tokens that end a text or a turn are called in the families' vocabularies.
var endings = []string{"</s>", "<|endoftext|>", "<|end_of_text|>", "<|im_end|>", "<|eot_id|>", "<|eom_id|>"}

// ends returns the first token of a text, −1 for none, and those that end one: the file's own, and control tokens known to,
// of which it names but one.
func (v *Vocabulary) ends(f *gguf.File) (bos int32, eos []int32) {
	bos = -1
	if v.BOS != nil {
		bos = int32(*v.BOS)
	}
	if v.EOS != nil {
		eos = append(eos, int32(*v.EOS))
	}
	k := &keys{file: f, prefix: vocabulary}
	for _, key := range []string{"eot_token_id", "eom_token_id"} {
		if id, ok := k.size(key, false); ok && !slices.Contains(eos, int32(id)) {
			eos = append(eos, int32(id))
		}
	}
	const control = 3
	for id, token := range v.Tokens {
		if id < len(v.TokenTypes) && v.TokenTypes[id] == control && slices.Contains(endings, token) && !slices.Contains(eos, int32(id)) {
			eos = append(eos, int32(id))
		}
	}
	return bos, eos
}
