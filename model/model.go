// Package model runs decoder models of the Llama family in single precision: RMSNorm, rotary embedding in Hugging
// Face's half-split form, grouped-query attention, a SwiGLU MLP, and a head of its own or tied to the embedding.
//
// [Open] reads a Hugging Face directory. [Model.Forward] passes tokens through the model after those in a [Cache];
// attention is that of package anchor, with a planner of the caller's choice.
package model

import (
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"

	"github.com/anchorattention/anchor/internal/kernel"
	"github.com/anchorattention/anchor/internal/matrix"
	"github.com/anchorattention/anchor/internal/safetensors"
)

// A Model is the weights of a model. It is safe for concurrent use.
type Model struct {
	cfg             Config
	kernels         *kernel.Set
	embedding, head *matrix.Matrix // [Vocab, Hidden]
	norm            []float32      // [Hidden]
	layers          []layer
	files           []*safetensors.File // that the weights lie in
}

// A layer is the weights of one decoder block; matrices are [out, in].
type layer struct {
	attentionNorm []float32
	q, k, v, o    *matrix.Matrix
	mlpNorm       []float32
	gate, up      *matrix.Matrix
	down          *matrix.Matrix
}

// New makes a model of weights that it asks for by the names of Hugging Face's Llama checkpoints, in single precision
// and row-major. It keeps the slices; they must not change afterwards.
func New(cfg Config, weight func(name string, shape ...int) ([]float32, error)) (*Model, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	kernels, err := kernel.Default()
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	cfg.EOS = slices.Clone(cfg.EOS)
	m := &Model{cfg: cfg, kernels: kernels, layers: make([]layer, cfg.Layers)}
	get := func(to *[]float32, name string, shape ...int) {
		if err != nil {
			return
		}
		elements := 1
		for _, n := range shape {
			elements *= n
		}
		if *to, err = weight(name, shape...); err == nil && len(*to) != elements {
			err = fmt.Errorf("model: tensor %q has %d elements; want %d, for shape %v", name, len(*to), elements, shape)
		}
	}
	getMatrix := func(to **matrix.Matrix, name string, rows, cols int) {
		var data []float32
		if get(&data, name, rows, cols); err == nil {
			*to = matrix.FromFloat32(data, rows, cols)
		}
	}
	heads, kvHeads := cfg.Heads*cfg.HeadDim, cfg.KVHeads*cfg.HeadDim
	getMatrix(&m.embedding, "model.embed_tokens.weight", cfg.Vocab, cfg.Hidden)
	for i := range m.layers {
		l, prefix := &m.layers[i], fmt.Sprintf("model.layers.%d.", i)
		get(&l.attentionNorm, prefix+"input_layernorm.weight", cfg.Hidden)
		getMatrix(&l.q, prefix+"self_attn.q_proj.weight", heads, cfg.Hidden)
		getMatrix(&l.k, prefix+"self_attn.k_proj.weight", kvHeads, cfg.Hidden)
		getMatrix(&l.v, prefix+"self_attn.v_proj.weight", kvHeads, cfg.Hidden)
		getMatrix(&l.o, prefix+"self_attn.o_proj.weight", cfg.Hidden, heads)
		get(&l.mlpNorm, prefix+"post_attention_layernorm.weight", cfg.Hidden)
		getMatrix(&l.gate, prefix+"mlp.gate_proj.weight", cfg.Intermediate, cfg.Hidden)
		getMatrix(&l.up, prefix+"mlp.up_proj.weight", cfg.Intermediate, cfg.Hidden)
		getMatrix(&l.down, prefix+"mlp.down_proj.weight", cfg.Hidden, cfg.Intermediate)
	}
	get(&m.norm, "model.norm.weight", cfg.Hidden)
	if m.head = m.embedding; !cfg.Tied {
		getMatrix(&m.head, "lm_head.weight", cfg.Vocab, cfg.Hidden)
	}
	if err != nil {
		return nil, err
	}
	return m, nil
}

// Open reads a directory as Hugging Face lays it out: config.json, generation_config.json if there is one, and the
// weights, F32 or BF16, in model.safetensors or in the shards that model.safetensors.index.json lists. F32 weights
// stay in the mapped files: the directory must not change while the model is open.
func Open(dir string) (*Model, error) {
	path := filepath.Join(dir, "config.json")
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read model: %w", err)
	}
	cfg, err := ParseConfig(path, data)
	if err != nil {
		return nil, err
	}
	path = filepath.Join(dir, "generation_config.json")
	if data, err := os.ReadFile(path); err == nil {
		if err := cfg.addGeneration(path, data); err != nil {
			return nil, err
		}
	} else if !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("cannot read model: %w", err)
	}
	s, err := openShards(dir)
	if err != nil {
		return nil, err
	}
	m, err := New(cfg, s.weight)
	if err != nil {
		s.close()
		return nil, err
	}
	for _, f := range s.files {
		m.files = append(m.files, f)
	}
	return m, nil
}

// Close unmaps the files of a model that was opened. The model must not be used afterwards.
func (m *Model) Close() error {
	var all error
	for _, f := range m.files {
		all = errors.Join(all, f.Close())
	}
	m.files = nil
	return all
}

// Config returns the model's shape. The caller must not change its slices.
func (m *Model) Config() Config { return m.cfg }

// shards are the files of a checkpoint, opened when a tensor in them is asked for.
type shards struct {
	dir   string
	index string            // path of the index, "" when there is but one file
	where map[string]string // file of each tensor, by the index
	files map[string]*safetensors.File
}

const (
	singleFile = "model.safetensors"
	indexFile  = "model.safetensors.index.json"
)

func openShards(dir string) (*shards, error) {
	s := &shards{dir: dir, files: make(map[string]*safetensors.File)}
	path := filepath.Join(dir, indexFile)
	data, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		_, err = s.open(singleFile)
		if errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("%s has neither %s nor %s", dir, singleFile, indexFile)
		}
		return s, err
	}
	if err != nil {
		return nil, fmt.Errorf("cannot read model: %w", err)
	}
	s.index = path
	s.where, err = parseIndex(path, data)
	return s, err
}

// parseIndex reads the file name of each tensor from an index.
func parseIndex(name string, data []byte) (map[string]string, error) {
	var index struct {
		Where map[string]string `json:"weight_map"`
	}
	if err := unmarshal(name, data, &index); err != nil {
		return nil, err
	}
	if len(index.Where) == 0 {
		return nil, fmt.Errorf("%s: weight_map is missing or empty; want the file of each tensor", name)
	}
	for tensor, file := range index.Where {
		if !filepath.IsLocal(file) || file != filepath.Base(file) || file == "." {
			return nil, fmt.Errorf("%s: weight_map: tensor %q lies in %q; want the name of a file beside the index", name, tensor, file)
		}
	}
	return index.Where, nil
}

func (s *shards) open(name string) (*safetensors.File, error) {
	if f := s.files[name]; f != nil {
		return f, nil
	}
	f, err := safetensors.Open(filepath.Join(s.dir, name))
	if err == nil {
		s.files[name] = f
	}
	return f, err
}

func (s *shards) close() {
	for _, f := range s.files {
		f.Close()
	}
}

// weight returns a tensor in single precision, after checking its shape.
func (s *shards) weight(name string, shape ...int) ([]float32, error) {
	file := singleFile
	if s.where != nil {
		var ok bool
		if file, ok = s.where[name]; !ok {
			return nil, fmt.Errorf("%s: weight_map has no tensor %q", s.index, name)
		}
	}
	f, err := s.open(file)
	if err != nil {
		return nil, err
	}
	info, ok := f.Info(name)
	if !ok {
		return nil, fmt.Errorf("%s: no tensor %q", f.Name(), name)
	}
	if !slices.Equal(info.Shape, shape) {
		return nil, fmt.Errorf("%s: tensor %q has shape %v; want %v, by config.json", f.Name(), name, info.Shape, shape)
	}
	switch info.DType {
	case "F32":
		return f.Float32s(name)
	case "BF16":
		bits, err := f.Uint16s(name)
		if err != nil {
			return nil, err
		}
		out := make([]float32, len(bits))
		for i, b := range bits {
			out[i] = math.Float32frombits(uint32(b) << 16)
		}
		return out, nil
	}
	return nil, fmt.Errorf("%s: tensor %q has element type %q; want F32 or BF16", f.Name(), name, info.DType)
}
