package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// A Config says what a decoder block computes, and how many there are. One description serves every family: the
// architecture of a file is only a name.
type Config struct {
	Architecture string // "llama", "mistral", "qwen2" or "qwen3", by the file; it decides nothing

	Vocab        int     // number of token ids
	Hidden       int     // width of the residual stream
	Intermediate int     // width of the MLP
	Layers       int     // decoder blocks
	Heads        int     // query heads
	KVHeads      int     // key and value heads, which divide Heads
	HeadDim      int     // width of a head, even
	MaxPositions int     // the longest sequence the model is meant for
	RMSNormEps   float64 // added to the mean square in RMSNorm
	Tied         bool    // the head is the embedding
	BOS          int32   // first token of a text, −1 for none
	EOS          []int32 // tokens that end a text

	QKVBias bool // queries, keys and values have biases (Qwen2)
	OBias   bool // the attention's output has one
	QKNorm  bool // queries and keys pass an RMSNorm of each head, before they are turned (Qwen3)

	// Windows holds for each layer how many keys a row sees, the last ones up to its own; 0 means all. Nil means all in
	// every layer.
	Windows []int

	RopeTheta   float64     // base of the rotary embedding's frequencies
	RopeScaling RopeScaling // what is done to them
	// Interleaved says that elements 2i and 2i + 1 of a head's queries and keys turn together, as GGUF files order them
	// for the architecture llama; otherwise i and i + HeadDim/2 do.
	Interleaved bool
}

// A family is what the architectures of config.json differ in, and what their fields mean when they are left out.
type family struct {
	name       string // model_type
	kvHeads    int    // 0 for as many as query heads
	headDim    int    // 0 for hidden_size over the number of heads
	window     int    // sliding_window, when the field is missing
	qwen       bool   // windows are for the layers from max_window_layers on, and only if use_sliding_window
	qkvBias    bool
	qkNorm     bool
	optionBias bool // attention_bias decides on biases
}

var families = map[string]family{
	"LlamaForCausalLM":   {name: "llama", optionBias: true},
	"MistralForCausalLM": {name: "mistral", kvHeads: 8, window: 4096},
	"Qwen2ForCausalLM":   {name: "qwen2", kvHeads: 32, window: 4096, qwen: true, qkvBias: true},
	"Qwen3ForCausalLM":   {name: "qwen3", kvHeads: 32, headDim: 128, window: 4096, qwen: true, qkNorm: true, optionBias: true},
}

// ParseConfig reads a config.json. What this package cannot compute as it is meant is an error; the name appears
// in errors.
func ParseConfig(name string, data []byte) (Config, error) {
	var j struct {
		Architectures []string `json:"architectures"`
		ModelType     string   `json:"model_type"`
		Vocab         int      `json:"vocab_size"`
		Hidden        int      `json:"hidden_size"`
		Intermediate  int      `json:"intermediate_size"`
		Layers        int      `json:"num_hidden_layers"`
		Heads         int      `json:"num_attention_heads"`
		KVHeads       *int     `json:"num_key_value_heads"`
		HeadDim       *int     `json:"head_dim"`
		MaxPositions  int      `json:"max_position_embeddings"`
		Eps           *float64 `json:"rms_norm_eps"`
		Theta         *float64 `json:"rope_theta"`
		Scaling       *rope    `json:"rope_scaling"`
		Rope          *rope    `json:"rope_parameters"` // holds both in recent checkpoints
		Original      *int     `json:"original_max_position_embeddings"`
		Partial       *float64 `json:"partial_rotary_factor"`
		Interleaved   bool     `json:"rope_interleaved"`
		MRope         bool     `json:"use_mrope"`
		Act           *string  `json:"hidden_act"`
		AttentionBias bool     `json:"attention_bias"`
		MLPBias       bool     `json:"mlp_bias"`
		Window        *int     `json:"sliding_window"`
		UseWindow     bool     `json:"use_sliding_window"`
		FullLayers    *int     `json:"max_window_layers"`
		LayerTypes    []string `json:"layer_types"`
		Quantization  any      `json:"quantization_config"`
		Tied          bool     `json:"tie_word_embeddings"`
		BOS           tokens   `json:"bos_token_id"`
		EOS           tokens   `json:"eos_token_id"`
	}
	if err := unmarshal(name, data, &j); err != nil {
		return Config{}, err
	}
	var present map[string]json.RawMessage // a field that is null is
	if err := unmarshal(name, data, &present); err != nil {
		return Config{}, err
	}
	bad := func(field string, value any, want string) (Config, error) {
		return Config{}, fmt.Errorf("%s: %s is %v; want %s", name, field, value, want)
	}
	var fam family
	for _, a := range j.Architectures {
		if f, ok := families[a]; ok {
			fam = f
			break
		}
	}
	if fam.name == "" {
		return bad("architectures", quote(j.Architectures), "one of "+strings.Join(slices.Sorted(maps.Keys(families)), ", "))
	}

	c := Config{
		Architecture: fam.name,
		Vocab:        j.Vocab, Hidden: j.Hidden, Intermediate: j.Intermediate, Layers: j.Layers, Heads: j.Heads,
		KVHeads: j.Heads, MaxPositions: j.MaxPositions, RMSNormEps: 1e-6, RopeTheta: 10000, Tied: j.Tied,
		BOS: -1, EOS: j.EOS,
		QKVBias: fam.qkvBias || fam.optionBias && j.AttentionBias, OBias: fam.optionBias && j.AttentionBias, QKNorm: fam.qkNorm,
	}
	if j.KVHeads != nil {
		c.KVHeads = *j.KVHeads
	} else if _, null := present["num_key_value_heads"]; !null && fam.kvHeads != 0 {
		c.KVHeads = fam.kvHeads
	}
	switch {
	case j.HeadDim != nil:
		c.HeadDim = *j.HeadDim
	case fam.headDim != 0:
		c.HeadDim = fam.headDim
	case j.Heads > 0 && j.Hidden%j.Heads == 0:
		c.HeadDim = j.Hidden / j.Heads
	case j.Heads > 0:
		return bad("num_attention_heads", j.Heads, fmt.Sprintf("a divisor of hidden_size, %d, or a head_dim", j.Hidden))
	}
	if j.Eps != nil {
		c.RMSNormEps = *j.Eps
	}
	if len(j.BOS) > 0 {
		c.BOS = j.BOS[0]
	}

	// What changes the computation must be what is computed here.
	switch {
	case j.ModelType != "" && j.ModelType != fam.name:
		return bad("model_type", quote(j.ModelType), quote(fam.name)+", by architectures")
	case j.Act != nil && *j.Act != "silu":
		return bad("hidden_act", quote(*j.Act), `"silu"`)
	case j.Interleaved:
		return bad("rope_interleaved", true, "false")
	case j.MRope:
		return bad("use_mrope", true, "false")
	case j.Partial != nil && *j.Partial != 1:
		return bad("partial_rotary_factor", *j.Partial, "1: all of a head is turned")
	case j.AttentionBias && !fam.qkvBias && !fam.optionBias:
		return bad("attention_bias", true, "false")
	case j.MLPBias:
		return bad("mlp_bias", true, "false")
	case j.Quantization != nil:
		return bad("quantization_config", quote(j.Quantization), "null: quantized checkpoints are not supported, but as GGUF files")
	case len(j.BOS) > 1 || len(j.BOS) == 1 && j.BOS[0] < 0:
		return bad("bos_token_id", j.BOS, "one id or null")
	}
	if err := c.checkSizes(); err != nil { // before there is memory for every layer
		return Config{}, fmt.Errorf("%s: %w", name, err)
	}

	// Windows.
	window := 0
	if j.Window != nil {
		if window = *j.Window; window < 1 && (!fam.qwen || j.UseWindow) {
			return bad("sliding_window", window, "≥ 1 or null")
		}
	} else if _, null := present["sliding_window"]; !null {
		window = fam.window
	}
	full := 0
	if fam.qwen {
		if full = 28; j.FullLayers != nil {
			full = *j.FullLayers
		}
		if !j.UseWindow {
			window = 0
		}
	} else if fam.window == 0 && window != 0 {
		return bad("sliding_window", window, "null for "+fam.name)
	}
	if window > 0 {
		c.Windows = make([]int, c.Layers)
		for i := max(full, 0); i < c.Layers; i++ {
			c.Windows[i] = window
		}
	}
	if len(j.LayerTypes) != 0 {
		if len(j.LayerTypes) != c.Layers {
			return bad("layer_types", fmt.Sprintf("a list of %d", len(j.LayerTypes)), fmt.Sprintf("one for each of the %d layers", c.Layers))
		}
		for i, kind := range j.LayerTypes {
			field := fmt.Sprintf("layer_types[%d]", i)
			switch {
			case kind != "full_attention" && kind != "sliding_attention":
				return bad(field, quote(kind), `"full_attention" or "sliding_attention"`)
			case kind == "sliding_attention" && window == 0:
				return bad(field, quote(kind), `"full_attention", since there is no window`)
			case kind == "full_attention" && window != 0 && !fam.qwen:
				return bad(field, quote(kind), `"sliding_attention", since every layer of `+fam.name+" has a window")
			case window != 0:
				c.Windows[i] = 0
				if kind == "sliding_attention" {
					c.Windows[i] = window
				}
			}
		}
	}
	if !slices.ContainsFunc(c.Windows, func(w int) bool { return w != 0 }) {
		c.Windows = nil
	}

	// Rotary embeddings.
	if j.Theta != nil {
		c.RopeTheta = *j.Theta
	}
	field, r := "rope_scaling", j.Scaling
	if r == nil {
		field, r = "rope_parameters", j.Rope
	}
	if r != nil {
		if j.Original != nil { // which has the last word
			r.Original = j.Original
		}
		if err := r.apply(&c, field); err != nil {
			return Config{}, fmt.Errorf("%s: %w", name, err)
		}
	}
	if err := c.check(); err != nil {
		return Config{}, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

// check reports the first field that is out of range, by its name in config.json.
func (c *Config) check() error {
	if err := c.checkSizes(); err != nil {
		return err
	}
	if len(c.Windows) != 0 && len(c.Windows) != c.Layers {
		return fmt.Errorf("there are windows for %d layers; want one for each of %d, or none", len(c.Windows), c.Layers)
	}
	for _, w := range c.Windows {
		if w < 0 || w > 1<<28 {
			return fmt.Errorf("sliding_window is %d; want 1 … %d", w, 1<<28)
		}
	}
	return c.checkRope()
}

func (c *Config) checkSizes() error {
	for _, f := range []struct {
		field       string
		value, most int
	}{
		{"vocab_size", c.Vocab, 1 << 24},
		{"hidden_size", c.Hidden, 1 << 17},
		{"intermediate_size", c.Intermediate, 1 << 20},
		{"num_hidden_layers", c.Layers, 1 << 12},
		{"num_attention_heads", c.Heads, 1 << 12},
		{"num_key_value_heads", c.KVHeads, 1 << 12},
		{"max_position_embeddings", c.MaxPositions, 1 << 28},
	} {
		if f.value < 1 || f.value > f.most {
			return fmt.Errorf("%s is %d; want 1 … %d", f.field, f.value, f.most)
		}
	}
	switch {
	case c.Heads%c.KVHeads != 0:
		return fmt.Errorf("num_key_value_heads is %d; want a divisor of num_attention_heads, %d", c.KVHeads, c.Heads)
	case c.HeadDim < 2 || c.HeadDim > 256 || c.HeadDim%2 != 0:
		return fmt.Errorf("head_dim is %d; want an even number, 2 … 256", c.HeadDim)
	case !(c.RMSNormEps > 0 && c.RMSNormEps < 1):
		return fmt.Errorf("rms_norm_eps is %v; want a number between 0 and 1", c.RMSNormEps)
	case c.BOS < -1 || int(c.BOS) >= c.Vocab:
		return fmt.Errorf("bos_token_id is %d; want an id below vocab_size, %d, or null", c.BOS, c.Vocab)
	}
	return c.checkEOS()
}

func (c *Config) checkEOS() error {
	for _, id := range c.EOS {
		if id < 0 || int(id) >= c.Vocab {
			return fmt.Errorf("eos_token_id is %d; want ids below vocab_size, %d", id, c.Vocab)
		}
	}
	return nil
}

// addGeneration takes the ids that end a text from a generation_config.json, which has the last word on them.
func (c *Config) addGeneration(name string, data []byte) error {
	var j struct {
		EOS tokens `json:"eos_token_id"`
	}
	if err := unmarshal(name, data, &j); err != nil {
		return err
	}
	if j.EOS != nil {
		c.EOS = j.EOS
	}
	if err := c.checkEOS(); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// unmarshal is json.Unmarshal with errors that name file, field and value.
func unmarshal(name string, data []byte, to any) error {
	err := json.Unmarshal(data, to)
	var kind *json.UnmarshalTypeError
	if errors.As(err, &kind) {
		field := kind.Field
		if field == "" {
			field = "the file"
		}
		return fmt.Errorf("%s: %s is a %s; want something like %v", name, field, kind.Value, kind.Type)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

func quote(v any) string {
	s, _ := json.Marshal(v)
	return string(s)
}

// tokens is one token id, several, or none.
type tokens []int32

func (t *tokens) UnmarshalJSON(data []byte) error {
	var one int32
	if string(data) == "null" {
		return nil
	}
	if json.Unmarshal(data, &one) == nil {
		*t = tokens{one}
		return nil
	}
	var many []int32
	if json.Unmarshal(data, &many) != nil {
		return fmt.Errorf("a token id is %.60s; want an integer, a list of them or null", data)
	}
	*t = many
	return nil
}
