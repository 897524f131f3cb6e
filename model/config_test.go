package model

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
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
		Vocab: 49152, Hidden: 576, Intermediate: 1536, Layers: 30, Heads: 9, KVHeads: 3, HeadDim: 64, MaxPositions: 8192,
		RMSNormEps: 1e-5, RopeTheta: 100000, Tied: true, BOS: 1, EOS: []int32{2},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

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

// What is left out has the value that Hugging Face's own code gives it, and recent spellings are understood.
func TestConfigDefaults(t *testing.T) {
	plain := Config{
		Vocab: 50, Hidden: 24, Intermediate: 40, Layers: 2, Heads: 3, KVHeads: 3, HeadDim: 8, MaxPositions: 4096,
		RMSNormEps: 1e-6, RopeTheta: 10000, BOS: -1,
	}
	for _, c := range []struct {
		name    string
		changes map[string]any
		want    func(c *Config)
	}{
		{"plain", nil, func(c *Config) {}},
		{"head_dim", map[string]any{"head_dim": 64}, func(c *Config) { c.HeadDim = 64 }},
		{"several ends", map[string]any{"eos_token_id": []int{3, 4}, "bos_token_id": 2}, func(c *Config) { c.EOS, c.BOS = []int32{3, 4}, 2 }},
		{"no scaling", map[string]any{"rope_scaling": map[string]any{"rope_type": "default"}}, func(c *Config) {}},
		{"recent", map[string]any{"rope_parameters": map[string]any{"rope_type": "default", "rope_theta": 5e5}},
			func(c *Config) { c.RopeTheta = 5e5 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			want := plain
			c.want(&want)
			got, err := ParseConfig("config.json", small(c.changes))
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, got); diff != "" {
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
		{"architectures", []string{"MistralForCausalLM"}, []string{"MistralForCausalLM", "LlamaForCausalLM"}},
		{"architectures", nil, []string{"null", "LlamaForCausalLM"}},
		{"model_type", "gemma", []string{"gemma", "llama"}},
		{"hidden_act", "gelu", []string{"gelu", "silu"}},
		{"rope_scaling", map[string]any{"type": "yarn", "factor": 4}, []string{"yarn", "null"}},
		{"rope_scaling", map[string]any{"factor": 4}, []string{"factor", "null"}},
		{"rope_parameters", map[string]any{"rope_type": "llama3"}, []string{"llama3", "default"}},
		{"rope_interleaved", true, []string{"true", "false"}},
		{"attention_bias", true, []string{"true", "false"}},
		{"mlp_bias", true, []string{"true", "false"}},
		{"sliding_window", 4096, []string{"4096", "null"}},
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
	for _, text := range []string{"", "[]", "{", "null"} {
		_, err := ParseConfig("the file", []byte(text))
		mentions(t, err, "the file")
	}
}

// Whatever the bytes, a configuration that is accepted is one whose sizes can be computed with.
func FuzzParseConfig(f *testing.F) {
	f.Add(small(nil))
	f.Fuzz(func(t *testing.T, data []byte) {
		c, err := ParseConfig("fuzz", data)
		if err != nil {
			return
		}
		if err := c.check(); err != nil {
			t.Error(err)
		}
		if c.Heads%c.KVHeads != 0 || c.HeadDim%2 != 0 {
			t.Errorf("%+v", c)
		}
	})
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
