package model

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
)

// A Config is the shape of a Llama model, from the config.json of its checkpoint.
type Config struct {
	Vocab        int     // number of token ids
	Hidden       int     // width of the residual stream
	Intermediate int     // width of the MLP
	Layers       int     // decoder blocks
	Heads        int     // query heads
	KVHeads      int     // key and value heads, which divide Heads
	HeadDim      int     // width of a head, even
	MaxPositions int     // the longest sequence the model is meant for
	RMSNormEps   float64 // added to the mean square in RMSNorm
	RopeTheta    float64 // base of the rotary embedding's frequencies
	Tied         bool    // the head is the embedding
	BOS          int32   // first token of a text, −1 for none
	EOS          []int32 // tokens that end a text
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
		Scaling       rope     `json:"rope_scaling"`
		Rope          rope     `json:"rope_parameters"` // holds both in recent checkpoints
		Interleaved   bool     `json:"rope_interleaved"`
		Act           *string  `json:"hidden_act"`
		AttentionBias bool     `json:"attention_bias"`
		MLPBias       bool     `json:"mlp_bias"`
		Window        *int     `json:"sliding_window"`
		Quantization  any      `json:"quantization_config"`
		Tied          bool     `json:"tie_word_embeddings"`
		BOS           tokens   `json:"bos_token_id"`
		EOS           tokens   `json:"eos_token_id"`
	}
	if err := unmarshal(name, data, &j); err != nil {
		return Config{}, err
	}
	c := Config{
		Vocab: j.Vocab, Hidden: j.Hidden, Intermediate: j.Intermediate, Layers: j.Layers, Heads: j.Heads,
		KVHeads: j.Heads, MaxPositions: j.MaxPositions, RMSNormEps: 1e-6, RopeTheta: 10000, Tied: j.Tied,
		BOS: -1, EOS: j.EOS,
	}
	if j.KVHeads != nil {
		c.KVHeads = *j.KVHeads
	}
	if j.HeadDim != nil {
		c.HeadDim = *j.HeadDim
	} else if j.Heads > 0 {
		c.HeadDim = j.Hidden / j.Heads
	}
	if j.Eps != nil {
		c.RMSNormEps = *j.Eps
	}
	if j.Theta != nil {
		c.RopeTheta = *j.Theta
	} else if j.Rope.Theta != nil {
		c.RopeTheta = *j.Rope.Theta
	}
	if len(j.BOS) > 0 {
		c.BOS = j.BOS[0]
	}

	// What changes the computation must be what is computed here.
	bad := func(field string, value any, want string) (Config, error) {
		return Config{}, fmt.Errorf("%s: %s is %v; want %s", name, field, value, want)
	}
	switch {
	case !slices.Contains(j.Architectures, "LlamaForCausalLM"):
		return bad("architectures", quote(j.Architectures), `["LlamaForCausalLM"]`)
	case j.ModelType != "" && j.ModelType != "llama":
		return bad("model_type", quote(j.ModelType), `"llama"`)
	case j.Act != nil && *j.Act != "silu":
		return bad("hidden_act", quote(*j.Act), `"silu"`)
	case j.Scaling.raw != "" && j.Scaling.kind() != "default":
		return bad("rope_scaling", j.Scaling.raw, "null: scaled rotary embeddings are not supported")
	case j.Rope.kind() != "" && j.Rope.kind() != "default":
		return bad("rope_parameters", j.Rope.raw, `rope_type "default": scaled rotary embeddings are not supported`)
	case j.Interleaved:
		return bad("rope_interleaved", true, "false")
	case j.AttentionBias:
		return bad("attention_bias", true, "false")
	case j.MLPBias:
		return bad("mlp_bias", true, "false")
	case j.Window != nil:
		return bad("sliding_window", *j.Window, "null")
	case j.Quantization != nil:
		return bad("quantization_config", quote(j.Quantization), "null: quantized checkpoints are not supported")
	case len(j.BOS) > 1 || len(j.BOS) == 1 && j.BOS[0] < 0:
		return bad("bos_token_id", j.BOS, "one id or null")
	}
	if j.HeadDim == nil && c.Heads > 0 && c.Hidden%c.Heads != 0 {
		return bad("num_attention_heads", c.Heads, fmt.Sprintf("a divisor of hidden_size, %d, or a head_dim", c.Hidden))
	}
	if err := c.check(); err != nil {
		return Config{}, fmt.Errorf("%s: %w", name, err)
	}
	return c, nil
}

// check reports the first size that is out of range, by its name in config.json.
func (c *Config) check() error {
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
	case !(c.RopeTheta >= 1 && c.RopeTheta <= math.MaxFloat64):
		return fmt.Errorf("rope_theta is %v; want a number ≥ 1", c.RopeTheta)
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

// rope is an object that describes rotary embeddings.
type rope struct {
	raw   string   // none for null
	Kind  string   `json:"rope_type"`
	Old   string   `json:"type"` // what rope_type was called before
	Theta *float64 `json:"rope_theta"`
}

func (r *rope) UnmarshalJSON(data []byte) error {
	type plain rope
	if err := json.Unmarshal(data, (*plain)(r)); err != nil {
		return err
	}
	if string(data) != "null" {
		r.raw = string(data)
	}
	return nil
}

// kind returns how positions are scaled: "default" is not at all, and so is "" where it is optional.
func (r rope) kind() string {
	if r.Kind != "" {
		return r.Kind
	}
	return r.Old
}
