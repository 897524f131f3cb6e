package model

import (
	"encoding/json"
	"math"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// A real model's configuration is read as it is meant.
func TestParseConfig(t *testing.T) {
	data, err := os.ReadFile("testdata/smollm2.json")
	if err != nil {
		t.Fatal(err)
	}
	got, err := ParseConfig("config.json", data)
	if err != nil {
		t.Fatal(err)
	}
	want := Config{
		Architecture: "llama",
		Vocab:        49152, Hidden: 576, Intermediate: 1536, Layers: 30, Heads: 9, KVHeads: 3, HeadDim: 64, MaxPositions: 8192,
		RMSNormEps: 1e-5, RopeTheta: 100000, Tied: true, BOS: 1, EOS: []int32{2},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// Configurations of real models of every family, with all that decides something in them.
func TestParseFamilies(t *testing.T) {
	windows := slices.Repeat([]int{4096}, 32)
	for _, c := range []struct {
		name, text string
		want       Config
	}{
		{"Llama 2 7B", `{"architectures": ["LlamaForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096,
			"initializer_range": 0.02, "intermediate_size": 11008, "max_position_embeddings": 4096, "model_type": "llama",
			"num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "pretraining_tp": 1, "rms_norm_eps": 1e-05,
			"rope_scaling": null, "tie_word_embeddings": false, "torch_dtype": "float16", "use_cache": true, "vocab_size": 32000}`, Config{
			Architecture: "llama", Vocab: 32000, Hidden: 4096, Intermediate: 11008, Layers: 32, Heads: 32, KVHeads: 32, HeadDim: 128,
			MaxPositions: 4096, RMSNormEps: 1e-5, BOS: 1, EOS: []int32{2}, RopeTheta: 10000,
		}},
		{"Llama 3.2 1B", `{"architectures": ["LlamaForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 128000,
			"eos_token_id": [128001, 128008, 128009], "head_dim": 64, "hidden_act": "silu", "hidden_size": 2048, "intermediate_size": 8192,
			"max_position_embeddings": 131072, "mlp_bias": false, "model_type": "llama", "num_attention_heads": 32, "num_hidden_layers": 16,
			"num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_scaling": {"factor": 32.0, "high_freq_factor": 4.0, "low_freq_factor": 1.0,
			"original_max_position_embeddings": 8192, "rope_type": "llama3"}, "rope_theta": 500000.0, "tie_word_embeddings": true, "vocab_size": 128256}`, Config{
			Architecture: "llama", Vocab: 128256, Hidden: 2048, Intermediate: 8192, Layers: 16, Heads: 32, KVHeads: 8, HeadDim: 64,
			MaxPositions: 131072, RMSNormEps: 1e-5, Tied: true, BOS: 128000, EOS: []int32{128001, 128008, 128009}, RopeTheta: 500000,
			RopeScaling: RopeScaling{Type: "llama3", Factor: 32, Original: 8192, LowFreq: 1, HighFreq: 4},
		}},
		{"Mistral 7B v0.1", `{"architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "silu", "hidden_size": 4096,
			"intermediate_size": 14336, "max_position_embeddings": 32768, "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 32,
			"num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 10000.0, "sliding_window": 4096, "tie_word_embeddings": false, "vocab_size": 32000}`, Config{
			Architecture: "mistral", Vocab: 32000, Hidden: 4096, Intermediate: 14336, Layers: 32, Heads: 32, KVHeads: 8, HeadDim: 128,
			MaxPositions: 32768, RMSNormEps: 1e-5, BOS: 1, EOS: []int32{2}, RopeTheta: 10000, Windows: windows,
		}},
		{"Mistral Nemo", `{"architectures": ["MistralForCausalLM"], "bos_token_id": 1, "eos_token_id": 2, "head_dim": 128, "hidden_act": "silu", "hidden_size": 5120,
			"intermediate_size": 14336, "max_position_embeddings": 131072, "model_type": "mistral", "num_attention_heads": 32, "num_hidden_layers": 40,
			"num_key_value_heads": 8, "rms_norm_eps": 1e-05, "rope_theta": 1000000.0, "sliding_window": null, "tie_word_embeddings": false, "vocab_size": 131072}`, Config{
			Architecture: "mistral", Vocab: 131072, Hidden: 5120, Intermediate: 14336, Layers: 40, Heads: 32, KVHeads: 8, HeadDim: 128,
			MaxPositions: 131072, RMSNormEps: 1e-5, BOS: 1, EOS: []int32{2}, RopeTheta: 1e6,
		}},
		{"Qwen2.5 7B with YaRN", `{"architectures": ["Qwen2ForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645, "hidden_act": "silu",
			"hidden_size": 3584, "intermediate_size": 18944, "max_position_embeddings": 32768, "max_window_layers": 28, "model_type": "qwen2",
			"num_attention_heads": 28, "num_hidden_layers": 28, "num_key_value_heads": 4, "rms_norm_eps": 1e-06, "rope_theta": 1000000.0,
			"rope_scaling": {"factor": 4.0, "original_max_position_embeddings": 32768, "type": "yarn"},
			"sliding_window": 131072, "tie_word_embeddings": false, "use_sliding_window": false, "vocab_size": 152064}`, Config{
			Architecture: "qwen2", Vocab: 152064, Hidden: 3584, Intermediate: 18944, Layers: 28, Heads: 28, KVHeads: 4, HeadDim: 128,
			MaxPositions: 131072, RMSNormEps: 1e-6, BOS: 151643, EOS: []int32{151645}, QKVBias: true, RopeTheta: 1e6,
			RopeScaling: RopeScaling{Type: "yarn", Factor: 4, Original: 32768, BetaFast: 32, BetaSlow: 1, Attention: 1.138629436111989},
		}},
		{"Qwen3 0.6B", `{"architectures": ["Qwen3ForCausalLM"], "attention_bias": false, "attention_dropout": 0.0, "bos_token_id": 151643, "eos_token_id": 151645,
			"head_dim": 128, "hidden_act": "silu", "hidden_size": 1024, "intermediate_size": 3072, "max_position_embeddings": 40960, "max_window_layers": 28,
			"model_type": "qwen3", "num_attention_heads": 16, "num_hidden_layers": 28, "num_key_value_heads": 8, "rms_norm_eps": 1e-06, "rope_scaling": null,
			"rope_theta": 1000000, "sliding_window": null, "tie_word_embeddings": true, "use_sliding_window": false, "vocab_size": 151936}`, Config{
			Architecture: "qwen3", Vocab: 151936, Hidden: 1024, Intermediate: 3072, Layers: 28, Heads: 16, KVHeads: 8, HeadDim: 128,
			MaxPositions: 40960, RMSNormEps: 1e-6, Tied: true, BOS: 151643, EOS: []int32{151645}, QKNorm: true, RopeTheta: 1e6,
		}},
	} {
		got, err := ParseConfig(c.name, []byte(c.text))
		if err != nil {
			t.Error(err)
			continue
		}
		if diff := cmp.Diff(c.want, got, cmpopts.EquateApprox(1e-15, 0)); diff != "" {
			t.Errorf("%s: %s", c.name, diff)
		}
	}
}

// null is a field's value, where nil would take it out.
var null = json.RawMessage("null")

// small returns a valid config.json with some fields changed; nil takes one out.
func small(changes map[string]any) []byte {
	fields := map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "vocab_size": 50, "hidden_size": 24, "intermediate_size": 40,
		"num_hidden_layers": 2, "num_attention_heads": 3, "max_position_embeddings": 4096,
	}
	for k, v := range changes {
		if fields[k] = v; v == nil {
			delete(fields, k)
		}
	}
	data, err := json.Marshal(fields)
	if err != nil {
		panic(err)
	}
	return data
}

// scaled returns an object that describes rotary embeddings, with the fields in pairs.
func scaled(kind string, fields ...any) map[string]any {
	all := map[string]any{"rope_type": kind}
	for i := 0; i < len(fields); i += 2 {
		all[fields[i].(string)] = fields[i+1]
	}
	return all
}

// What is left out has the value that Hugging Face's own code gives it, and recent spellings are understood.
func TestConfigDefaults(t *testing.T) {
	plain := Config{
		Architecture: "llama",
		Vocab:        50, Hidden: 24, Intermediate: 40, Layers: 2, Heads: 3, KVHeads: 3, HeadDim: 8, MaxPositions: 4096,
		RMSNormEps: 1e-6, RopeTheta: 10000, BOS: -1,
	}
	llama3 := []any{"factor", 8, "low_freq_factor", 1, "high_freq_factor", 4, "original_max_position_embeddings", 8192}
	yarn := RopeScaling{Type: "yarn", Factor: 4, Original: 2048, BetaFast: 32, BetaSlow: 1, Attention: 0.1*math.Log(4) + 1}
	mistral := func(c *Config) { c.Architecture, c.KVHeads, c.Windows = "mistral", 3, []int{4096, 4096} }
	qwen2 := func(c *Config) { c.Architecture, c.QKVBias = "qwen2", true }
	qwen3 := func(c *Config) { c.Architecture, c.QKNorm, c.HeadDim = "qwen3", true, 128 }
	type fields = map[string]any
	for _, c := range []struct {
		name, family string
		changes      fields
		want         func(c *Config)
	}{
		{"plain", "", nil, func(c *Config) {}},
		{"head_dim", "", fields{"head_dim": 64}, func(c *Config) { c.HeadDim = 64 }},
		{"several ends", "", fields{"eos_token_id": []int{3, 4}, "bos_token_id": 2}, func(c *Config) { c.EOS, c.BOS = []int32{3, 4}, 2 }},
		{"biases", "", fields{"attention_bias": true}, func(c *Config) { c.QKVBias, c.OBias = true, true }},
		{"no scaling", "", fields{"rope_scaling": scaled("default")}, func(c *Config) {}},
		{"recent", "", fields{"rope_parameters": scaled("default", "rope_theta", 5e5)}, func(c *Config) { c.RopeTheta = 5e5 }},
		{"without a type", "", fields{"rope_parameters": fields{"rope_theta": 5e5}}, func(c *Config) { c.RopeTheta = 5e5 }},
		{"the object's theta", "", fields{"rope_theta": 2, "rope_parameters": scaled("default", "rope_theta", 5e5)}, func(c *Config) { c.RopeTheta = 5e5 }},
		{"linear", "", fields{"rope_scaling": fields{"type": "linear", "factor": 2.5}}, func(c *Config) {
			c.RopeScaling = RopeScaling{Type: "linear", Factor: 2.5}
		}},
		{"llama3", "", fields{"rope_theta": 5e5, "rope_scaling": scaled("llama3", llama3...)}, func(c *Config) {
			c.RopeTheta, c.RopeScaling = 5e5, RopeScaling{Type: "llama3", Factor: 8, Original: 8192, LowFreq: 1, HighFreq: 4}
		}},
		{"the original elsewhere", "", fields{"original_max_position_embeddings": 77, "rope_scaling": scaled("llama3", llama3...)}, func(c *Config) {
			c.RopeScaling = RopeScaling{Type: "llama3", Factor: 8, Original: 77, LowFreq: 1, HighFreq: 4}
		}},
		{"yarn", "", fields{"rope_scaling": fields{"type": "yarn", "factor": 4, "original_max_position_embeddings": 2048}}, func(c *Config) {
			c.RopeScaling, c.MaxPositions = yarn, 8192
		}},
		{"yarn without the original", "", fields{"max_position_embeddings": 2048, "rope_scaling": scaled("yarn", "factor", 4)}, func(c *Config) {
			c.RopeScaling, c.MaxPositions = yarn, 8192
		}},
		{"yarn without a factor", "", fields{"rope_scaling": scaled("yarn", "factor", nil, "original_max_position_embeddings", 1024)}, func(c *Config) {
			c.RopeScaling = yarn
			c.RopeScaling.Original = 1024
		}},
		{"yarn's attention", "", fields{"rope_scaling": scaled("yarn", "factor", 4, "original_max_position_embeddings", 2048, "attention_factor", 1.5,
			"beta_fast", 16, "beta_slow", 2, "mscale", 2, "mscale_all_dim", 3)}, func(c *Config) {
			c.RopeScaling, c.MaxPositions = yarn, 8192
			c.RopeScaling.BetaFast, c.RopeScaling.BetaSlow, c.RopeScaling.Attention = 16, 2, 1.5
		}},
		{"yarn's scales", "", fields{"rope_scaling": scaled("yarn", "factor", 4, "original_max_position_embeddings", 2048, "mscale", 2, "mscale_all_dim", 3)}, func(c *Config) {
			c.RopeScaling, c.MaxPositions = yarn, 8192
			c.RopeScaling.Attention = (0.2*math.Log(4) + 1) / (0.3*math.Log(4) + 1)
		}},
		{"yarn with one scale", "", fields{"rope_scaling": scaled("yarn", "factor", 4, "original_max_position_embeddings", 2048, "mscale", 2)}, func(c *Config) {
			c.RopeScaling, c.MaxPositions = yarn, 8192
		}},

		{"mistral", "Mistral", fields{"num_key_value_heads": 3}, mistral},
		{"mistral, null", "Mistral", fields{"num_key_value_heads": null, "sliding_window": null}, func(c *Config) { c.Architecture = "mistral" }},
		{"mistral, window", "Mistral", fields{"num_key_value_heads": 1, "sliding_window": 100, "layer_types": []string{"sliding_attention", "sliding_attention"}}, func(c *Config) {
			c.Architecture, c.KVHeads, c.Windows = "mistral", 1, []int{100, 100}
		}},
		{"mistral, all left out", "Mistral", fields{"num_attention_heads": 8, "hidden_size": 32}, func(c *Config) {
			mistral(c)
			c.Hidden, c.Heads, c.KVHeads, c.HeadDim = 32, 8, 8, 4
		}},
		{"qwen2", "Qwen2", fields{"num_key_value_heads": 3, "sliding_window": 10}, qwen2},
		{"qwen2, windows", "Qwen2", fields{"num_key_value_heads": 3, "sliding_window": 10, "use_sliding_window": true, "max_window_layers": 1}, func(c *Config) {
			qwen2(c)
			c.Windows = []int{0, 10}
		}},
		{"qwen2, windows from layer 28 on", "Qwen2", fields{"num_key_value_heads": 3, "use_sliding_window": true}, qwen2},
		{"qwen2, kinds of layers", "Qwen2", fields{"num_key_value_heads": 3, "use_sliding_window": true, "layer_types": []string{"sliding_attention", "full_attention"}}, func(c *Config) {
			qwen2(c)
			c.Windows = []int{4096, 0}
		}},
		{"qwen3", "Qwen3", fields{"num_key_value_heads": 3, "model_type": "qwen3"}, qwen3},
		{"qwen3, biases", "Qwen3", fields{"num_key_value_heads": 3, "attention_bias": true, "head_dim": 16}, func(c *Config) {
			qwen3(c)
			c.QKVBias, c.OBias, c.HeadDim = true, true, 16
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := plain
			c.want(&want)
			if c.family != "" {
				c.changes["architectures"] = []string{c.family + "ForCausalLM"}
			}
			got, err := ParseConfig("config.json", small(c.changes))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got, cmpopts.EquateApprox(1e-15, 0)); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func mentions(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error; want one that mentions %q", words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not mention %q", err, w)
		}
	}
}

// What cannot be computed as it is meant is refused, by field, value and what is allowed.
func TestConfigErrors(t *testing.T) {
	for _, c := range []struct {
		field string
		value any
		want  []string
	}{
		{"architectures", []string{"GemmaForCausalLM"}, []string{"GemmaForCausalLM", "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"}},
		{"architectures", nil, []string{"null", "LlamaForCausalLM"}},
		{"model_type", "gemma", []string{"gemma", "llama"}},
		{"model_type", "mistral", []string{"mistral", "llama"}},
		{"hidden_act", "gelu", []string{"gelu", "silu"}},
		{"rope_scaling", scaled("dynamic", "factor", 4), []string{"dynamic", "yarn"}},
		{"rope_scaling", map[string]any{"factor": 4}, []string{"rope_type", "missing", "factor"}},
		{"rope_scaling", scaled("linear"), []string{"factor", "missing"}},
		{"rope_scaling", scaled("linear", "factor", 0.5), []string{"factor is 0.5", "≥ 1"}},
		{"rope_scaling", scaled("linear", "factor", 0), []string{"factor is 0", "≥ 1"}},
		{"rope_scaling", scaled("linear", "factor", 1e300), []string{"1e+300"}},
		{"rope_scaling", scaled("linear", "factor", "4"), []string{"string"}},
		{"rope_scaling", scaled("mrope", "mrope_section", []int{1}), []string{"mrope_section", "not known"}},
		{"rope_scaling", scaled("default", "partial_rotary_factor", 0.5), []string{"partial_rotary_factor", "0.5"}},
		{"rope_scaling", "yarn", []string{"string"}},
		{"rope_parameters", scaled("llama3", "factor", 2), []string{"low_freq_factor", "missing"}},
		{"rope_parameters", scaled("llama3", "factor", 2, "low_freq_factor", 1), []string{"high_freq_factor", "missing"}},
		{"rope_parameters", scaled("llama3", "factor", 2, "low_freq_factor", 1, "high_freq_factor", 1), []string{"1 and 1", "low < high"}},
		{"rope_parameters", scaled("llama3", "factor", 2, "low_freq_factor", 1, "high_freq_factor", 4, "original_max_position_embeddings", 0),
			[]string{"original_max_position_embeddings is 0"}},
		{"rope_parameters", scaled("yarn", "factor", 2, "truncate", false), []string{"truncate"}},
		{"rope_parameters", scaled("yarn", "factor", 2, "beta_fast", 1, "beta_slow", 2), []string{"2 and 1"}},
		{"rope_parameters", scaled("yarn", "factor", 2, "attention_factor", 0), []string{"attention_factor is 0"}},
		{"rope_parameters", scaled("yarn", "factor", 2, "rope_theta", 1), []string{"rope_theta is 1"}},
		{"rope_parameters", scaled("yarn", "factor", nil, "original_max_position_embeddings", 8192), []string{"factor is 0.5"}},
		{"rope_parameters", map[string]any{"full_attention": scaled("default")}, []string{"full_attention", "not known"}},
		{"rope_interleaved", true, []string{"true", "false"}},
		{"use_mrope", true, []string{"true", "false"}},
		{"partial_rotary_factor", 0.5, []string{"0.5", "1"}},
		{"mlp_bias", true, []string{"true", "false"}},
		{"sliding_window", 4096, []string{"4096", "null"}},
		{"sliding_window", 0, []string{"0", "null"}},
		{"layer_types", []string{"full_attention"}, []string{"list of 1", "2 layers"}},
		{"layer_types", []string{"full_attention", "chunked_attention"}, []string{"layer_types[1]", "chunked_attention"}},
		{"layer_types", []string{"full_attention", "sliding_attention"}, []string{"layer_types[1]", "no window"}},
		{"quantization_config", map[string]any{"bits": 4}, []string{"bits", "null"}},
		{"vocab_size", 0, []string{"0", "1 … "}},
		{"hidden_size", -1, []string{"-1"}},
		{"hidden_size", 1 << 40, []string{"1099511627776"}},
		{"hidden_size", "big", []string{"string", "int"}},
		{"hidden_size", 1.5, []string{"number 1.5", "int"}},
		{"intermediate_size", nil, []string{"0"}},
		{"num_hidden_layers", 1 << 13, []string{"8192"}},
		{"num_attention_heads", 0, []string{"0"}},
		{"num_attention_heads", 5, []string{"5", "24"}},
		{"num_key_value_heads", 2, []string{"2", "divisor", "3"}},
		{"num_key_value_heads", 0, []string{"0"}},
		{"head_dim", 7, []string{"7", "even"}},
		{"head_dim", 512, []string{"512", "256"}},
		{"max_position_embeddings", nil, []string{"0"}},
		{"rms_norm_eps", 0, []string{"0"}},
		{"rope_theta", 0.5, []string{"0.5"}},
		{"bos_token_id", 50, []string{"50"}},
		{"bos_token_id", []int{1, 2}, []string{"[1 2]"}},
		{"eos_token_id", -1, []string{"-1"}},
		{"eos_token_id", []int{3, 50}, []string{"50"}},
		{"eos_token_id", "x", []string{"x", "integer"}},
	} {
		_, err := ParseConfig("the file", small(map[string]any{c.field: c.value}))
		want := append(c.want, "the file")
		if c.value != "x" {
			want = append(want, c.field)
		}
		mentions(t, err, want...)
	}
	for _, c := range []struct {
		family string
		fields map[string]any
		want   []string
	}{
		{"Mistral", map[string]any{"attention_bias": true}, []string{"attention_bias", "true", "false"}},
		{"Mistral", map[string]any{"sliding_window": 0}, []string{"sliding_window", "0", "≥ 1"}},
		{"Mistral", map[string]any{"sliding_window": 1 << 29}, []string{"sliding_window", "536870912"}},
		{"Mistral", map[string]any{"layer_types": []string{"sliding_attention", "full_attention"}}, []string{"layer_types[1]", "mistral has a window"}},
		{"Mistral", nil, []string{"num_key_value_heads is 8"}},
		{"Qwen2", map[string]any{"num_key_value_heads": 3, "use_sliding_window": true, "sliding_window": -1}, []string{"sliding_window", "-1"}},
		{"Qwen2", map[string]any{"num_key_value_heads": 3, "layer_types": []string{"sliding_attention", "full_attention"}}, []string{"layer_types[0]", "no window"}},
		{"Qwen2", map[string]any{"attention_bias": true, "model_type": "qwen3"}, []string{"model_type", "qwen3", "qwen2"}},
	} {
		if c.fields == nil {
			c.fields = make(map[string]any)
		}
		c.fields["architectures"] = []string{c.family + "ForCausalLM"}
		if c.fields["num_key_value_heads"] == nil && len(c.want) > 1 {
			c.fields["num_key_value_heads"] = 3
		}
		_, err := ParseConfig("the file", small(c.fields))
		mentions(t, err, append(c.want, "the file")...)
	}
	for _, text := range []string{"", "[]", "{", "null"} {
		_, err := ParseConfig("the file", []byte(text))
		mentions(t, err, "the file")
	}
}

// Whatever the bytes, a configuration that is accepted is one whose sizes can be computed with.
func FuzzParseConfig(f *testing.F) {
	f.Add(small(nil))
	for _, family := range []string{"Mistral", "Qwen2", "Qwen3"} {
		f.Add(small(map[string]any{"architectures": []string{family + "ForCausalLM"}, "num_key_value_heads": 1, "use_sliding_window": true,
			"sliding_window": 16, "max_window_layers": 1, "attention_bias": family == "Qwen3"}))
	}
	f.Add(small(map[string]any{"rope_parameters": scaled("yarn", "factor", 4, "beta_fast", 3, "original_max_position_embeddings", 99)}))
	f.Add(small(map[string]any{"rope_scaling": scaled("llama3", "factor", 8, "low_freq_factor", 1, "high_freq_factor", 4)}))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseConfig("fuzz", data)
		if err != nil {
			return
		}
		sound(t, &c)
	})
}

// sound checks that a model's sizes can be computed with.
func sound(t *testing.T, c *Config) {
	t.Helper()
	if err := c.check(); err != nil {
		t.Error(err)
	}
	if c.Heads%c.KVHeads != 0 || c.HeadDim%2 != 0 || c.Windows != nil && len(c.Windows) != c.Layers {
		t.Errorf("%+v", c)
	}
	freq, factor := c.frequencies()
	for _, w := range append(freq, factor) {
		if !(w >= 0 && w <= math.MaxFloat64) {
			t.Errorf("frequencies %v, factor %v of %+v", freq, factor, c)
			break
		}
	}
}

// Whatever the bytes, an index names files beside it only.
func FuzzParseIndex(f *testing.F) {
	f.Add([]byte(`{"metadata":{},"weight_map":{"a":"model-00001-of-00002.safetensors"}}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		where, err := parseIndex("fuzz", data)
		if err != nil {
			return
		}
		for _, file := range where {
			if strings.Contains(file, "/") || file == ".." || file == "." || file == "" {
				t.Errorf("accepted %q", file)
			}
		}
	})
}
