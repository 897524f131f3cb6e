package model_test

import (
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/anchorattention/anchor/internal/kernel"
	"github.com/anchorattention/anchor/internal/safetensors"
	"github.com/anchorattention/anchor/model"
)

const configJSON = `{"architectures": ["LlamaForCausalLM"], "vocab_size": 61, "hidden_size": 40, "intermediate_size": 52,
"num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16, "max_position_embeddings": 4096,
"rms_norm_eps": 1e-5, "eos_token_id": 5}`

// checkpoint returns the tensors of the model that configJSON describes, in no particular order.
func checkpoint(t testing.TB) []safetensors.Tensor {
	source, all := remembered(random)
	if _, err := model.New(configs["grouped, untied"], source); err != nil {
		t.Fatal(err)
	}
	var tensors []safetensors.Tensor
	for _, tensor := range all {
		tensors = append(tensors, tensor)
	}
	return tensors
}

func write(t testing.TB, dir, name, content string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o666); err != nil {
		t.Fatal(err)
	}
}

func writeTensors(t testing.TB, dir, name string, tensors ...safetensors.Tensor) {
	t.Helper()
	if err := safetensors.WriteFile(t.Context(), filepath.Join(dir, name), nil, tensors...); err != nil {
		t.Fatal(err)
	}
}

// shard writes tensors to two files and an index.
func shard(t testing.TB, dir string, tensors []safetensors.Tensor) {
	files := []string{"model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"}
	half := len(tensors) / 2
	writeTensors(t, dir, files[0], tensors[:half]...)
	writeTensors(t, dir, files[1], tensors[half:]...)
	var entries []string
	for i, tensor := range tensors {
		file := files[0]
		if i >= half {
			file = files[1]
		}
		entries = append(entries, fmt.Sprintf("%q: %q", tensor.Name, file))
	}
	write(t, dir, "model.safetensors.index.json", `{"metadata": {}, "weight_map": {`+strings.Join(entries, ",")+`}}`)
}

// A model opened from one file, or from shards with an index, is the one that was written; BF16 and F16 weights are read
// as the numbers they are.
func TestOpen(t *testing.T) {
	c := configs["grouped, untied"]
	ids := tokens(50, c.Vocab)
	tensors := checkpoint(t)
	rounded := make([]safetensors.Tensor, len(tensors)) // to BF16
	exact := make(map[string][]float32)
	for i, tensor := range tensors {
		var bits []uint16
		for _, v := range tensor.Data.([]float32) {
			b := uint16(math.Float32bits(v) >> 16)
			bits = append(bits, b)
			exact[tensor.Name] = append(exact[tensor.Name], math.Float32frombits(uint32(b)<<16))
		}
		rounded[i] = safetensors.Tensor{Name: tensor.Name, DType: "BF16", Shape: tensor.Shape, Data: bits}
	}
	halves := make([]safetensors.Tensor, len(tensors)) // in F16
	exactHalf := make(map[string][]float32)
	for i, tensor := range tensors {
		var bits []uint16
		for _, v := range tensor.Data.([]float32) {
			var b uint16 // zero for what is too small
			if w := math.Float32bits(v); w>>23&255 > 112 {
				b = uint16(w>>16&0x8000 | (w>>23&255-112)<<10 | w>>13&0x3ff)
			}
			bits = append(bits, b)
			exactHalf[tensor.Name] = append(exactHalf[tensor.Name], kernel.HalfToSingle(b))
		}
		halves[i] = safetensors.Tensor{Name: tensor.Name, DType: "F16", Shape: tensor.Shape, Data: bits}
	}
	for _, test := range []struct {
		name   string
		write  func(dir string)
		source func(name string, shape ...int) ([]float32, error)
		eos    []int32
	}{
		{"one file", func(dir string) { writeTensors(t, dir, "model.safetensors", tensors...) }, random, []int32{5}},
		{"shards", func(dir string) { shard(t, dir, tensors) }, random, []int32{5}},
		{"BF16", func(dir string) {
			writeTensors(t, dir, "model.safetensors", rounded...)
			write(t, dir, "generation_config.json", `{"eos_token_id": [7, 8]}`)
		}, func(name string, _ ...int) ([]float32, error) { return exact[name], nil }, []int32{7, 8}},
		{"F16", func(dir string) { writeTensors(t, dir, "model.safetensors", halves...) },
			func(name string, _ ...int) ([]float32, error) { return exactHalf[name], nil }, []int32{5}},
	} {
		dir := t.TempDir()
		write(t, dir, "config.json", configJSON)
		test.write(dir)
		files, err := filepath.Glob(filepath.Join(dir, "*"))
		if err != nil {
			t.Fatal(err)
		}
		write(t, dir, "evaluation.json", "{}") // not of the model
		writeTensors(t, dir, "layer-0.safetensors", tensors...)
		m, err := model.Open(dir)
		if err != nil {
			t.Errorf("%s: %v", test.name, err)
			continue
		}
		read := slices.Sorted(slices.Values(m.Files()))
		if diff := cmp.Diff(files, read); diff != "" {
			t.Errorf("%s was read from: %s", test.name, diff)
		}
		wantConfig := c
		wantConfig.EOS = test.eos
		if diff := cmp.Diff(wantConfig, m.Config()); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
		original, err := model.New(c, test.source)
		if err != nil {
			t.Fatal(err)
		}
		want := forward(t, original, newCache(t, original, 50), ids, dense)
		tolerance := 0.
		if test.name == "BF16" { // what its matrices are multiplied by is rounded to bfloat16, too
			tolerance = 2e-2
		}
		near(t, test.name, forward(t, m, newCache(t, m, 50), ids, dense), want, tolerance)
		kind := test.name
		if kind != "BF16" && kind != "F16" {
			kind = "F32"
		}
		for _, w := range m.Weights() {
			elements := 1
			for _, n := range w.Shape {
				elements *= n
			}
			bytes := 4 * elements
			if kind != "F32" {
				bytes = 2 * elements
			}
			if w.Type != kind || w.Bytes != bytes {
				t.Errorf("%s: %+v, want type %s and %d bytes", test.name, w, kind, bytes)
			}
		}
		if len(m.Weights()) != len(tensors) {
			t.Errorf("%s: %d weights, want %d", test.name, len(m.Weights()), len(tensors))
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A directory that is not a model is refused with an error that names the file at fault, and what in it.
func TestOpenErrors(t *testing.T) {
	tensors := checkpoint(t)
	without := func(name string, instead ...safetensors.Tensor) []safetensors.Tensor {
		for _, t := range tensors {
			if t.Name != name {
				instead = append(instead, t)
			}
		}
		return instead
	}
	const norm = "model.norm.weight"
	for _, test := range []struct {
		name  string
		write func(dir string)
		want  []string
	}{
		{"empty", func(dir string) {}, []string{"config.json"}},
		{"bad config", func(dir string) { write(t, dir, "config.json", "{}") }, []string{"config.json", "architectures"}},
		{"no weights", func(dir string) { write(t, dir, "config.json", configJSON) },
			[]string{"model.safetensors", "index.json"}},
		{"bad generation config", func(dir string) {
			write(t, dir, "config.json", configJSON)
			write(t, dir, "generation_config.json", `{"eos_token_id": 61}`)
		}, []string{"generation_config.json", "eos_token_id", "61"}},
		{"not safetensors", func(dir string) {
			write(t, dir, "config.json", configJSON)
			write(t, dir, "model.safetensors", "garbage, and then some")
		}, []string{"model.safetensors", "header"}},
		{"missing tensor", func(dir string) {
			write(t, dir, "config.json", configJSON)
			writeTensors(t, dir, "model.safetensors", without(norm)...)
		}, []string{"model.safetensors", norm}},
		{"wrong shape", func(dir string) {
			write(t, dir, "config.json", configJSON)
			writeTensors(t, dir, "model.safetensors",
				without(norm, safetensors.Tensor{Name: norm, DType: "F32", Shape: []int{1, 40}, Data: make([]float32, 40)})...)
		}, []string{"model.safetensors", norm, "[1 40]", "[40]"}},
		{"wrong type", func(dir string) {
			write(t, dir, "config.json", configJSON)
			writeTensors(t, dir, "model.safetensors",
				without(norm, safetensors.Tensor{Name: norm, DType: "I32", Shape: []int{40}, Data: make([]int32, 40)})...)
		}, []string{"model.safetensors", norm, "I32", "F32, BF16 or F16"}},
		{"not in the index", func(dir string) {
			write(t, dir, "config.json", configJSON)
			shard(t, dir, without(norm))
		}, []string{"index.json", norm}},
		{"shard missing", func(dir string) {
			write(t, dir, "config.json", configJSON)
			shard(t, dir, tensors)
			os.Remove(filepath.Join(dir, "model-00002-of-00002.safetensors"))
		}, []string{"model-00002-of-00002.safetensors"}},
		{"index errs", func(dir string) {
			write(t, dir, "config.json", configJSON)
			shard(t, dir, tensors)
			entries := []string{}
			for _, t := range tensors {
				entries = append(entries, fmt.Sprintf("%q: %q", t.Name, "model-00001-of-00002.safetensors"))
			}
			write(t, dir, "model.safetensors.index.json", `{"weight_map": {`+strings.Join(entries, ",")+`}}`)
		}, []string{"model-00001-of-00002.safetensors", "no tensor"}},
		{"empty index", func(dir string) {
			write(t, dir, "config.json", configJSON)
			write(t, dir, "model.safetensors.index.json", "{}")
		}, []string{"index.json", "weight_map"}},
		{"index of numbers", func(dir string) {
			write(t, dir, "config.json", configJSON)
			write(t, dir, "model.safetensors.index.json", `{"weight_map": {"a": 1}}`)
		}, []string{"index.json", "weight_map", "number"}},
		{"index elsewhere", func(dir string) {
			write(t, dir, "config.json", configJSON)
			write(t, dir, "model.safetensors.index.json", `{"weight_map": {"a": "../model.safetensors"}}`)
		}, []string{"index.json", `"a"`, "../model.safetensors"}},
	} {
		dir := t.TempDir()
		test.write(dir)
		_, err := model.Open(dir)
		if err == nil {
			t.Errorf("%s: no error", test.name)
			continue
		}
		for _, w := range test.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: error %q does not mention %q", test.name, err, w)
			}
		}
	}
}

// A source of weights that errs or returns too few is passed on.
func TestNewErrors(t *testing.T) {
	c := configs["grouped, untied"]
	for want, source := range map[string]func(name string, shape ...int) ([]float32, error){
		"sorry": func(string, ...int) ([]float32, error) { return nil, fmt.Errorf("sorry") },
		`"model.embed_tokens.weight" has 1 elements; want 2440`: func(string, ...int) ([]float32, error) { return []float32{1}, nil },
	} {
		if _, err := model.New(c, source); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want one that mentions %q", err, want)
		}
	}
	c.HeadDim = 3
	if _, err := model.New(c, random); err == nil || !strings.Contains(err.Error(), "head_dim is 3") {
		t.Errorf("error %v, want one that mentions head_dim", err)
	}
}
