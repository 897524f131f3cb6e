// Package model runs decoder models: RMSNorm, rotary embedding, grouped-query attention, a SwiGLU MLP, and a head of its own
// or tied to the embedding. One block, which a [Config] describes, is that of the families
// Llama, Mistral, Qwen2 and Qwen3: biases, norms of queries and keys, sliding windows and scaled rotary embeddings are
// parts of it that a model has or has not.
//
// Activations are in single precision. A product rounds them to what goes with its matrix: to bfloat16 for BF16, and to 8 bits with
// a scale for each 32 numbers for quantised types.
//
// [Open] reads a Hugging Face directory or a GGUF file. [Model.Forward] passes tokens through the model after those in a [Cache];
// attention is that of package anchor, with a planner of the caller's choice.
package model

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/anchorattention/anchor/internal/kernel"
	"github.com/anchorattention/anchor/internal/matrix"
	"github.com/anchorattention/anchor/internal/mmap"
	"github.com/anchorattention/anchor/internal/safetensors"
)

// A Model is the weights of a model. It is safe for concurrent use.
type Model struct {
	cfg             Config
	kernels         *kernel.Set
	embedding, head *matrix.Matrix // [Vocab, Hidden]
	norm            []float32      // [Hidden]
	layers          []layer
	weights         []Weight
	metadata        *Metadata   // nil unless the model is a GGUF file
	files           []io.Closer // that the weights lie in
	paths           []string    // see Files
}

// A layer is the weights of one decoder block; matrices are [out, in]. Biases and norms that the model has not are nil.
type layer struct {
	attentionNorm       []float32
	q, k, v, o          *matrix.Matrix
	qBias, kBias, vBias []float32
	oBias               []float32
	qNorm, kNorm        []float32 // [HeadDim]
	mlpNorm             []float32
	gate, up            *matrix.Matrix
	down                *matrix.Matrix
}

// A Weight describes a tensor of a model, as its file stores it.
type Weight struct {
	Name  string // in Hugging Face's checkpoints
	Type  string // of its elements: F32, BF16, Q8_0, and so on
	Shape []int
	Bytes int
}

// A source is where weights come from, by the names of Hugging Face's checkpoints.
type source interface {
	matrix(name string, rows, cols int) (*matrix.Matrix, error)
	vector(name string, n int) (*matrix.Matrix, error) // of one row
}

// New makes a model of weights that it asks for by the names of Hugging Face's checkpoints, in single precision
// and row-major. It keeps the slices; they must not change afterwards.
func New(cfg Config, weight func(name string, shape ...int) ([]float32, error)) (*Model, error) {
	return build(cfg, plain(weight))
}

// plain is a source of weights in single precision.
type plain func(name string, shape ...int) ([]float32, error)

func (weight plain) load(name string, rows, cols int, shape ...int) (*matrix.Matrix, error) {
	data, err := weight(name, shape...)
	if err == nil && len(data) != rows*cols {
		err = fmt.Errorf("model: tensor %q has %d elements; want %d, for shape %v", name, len(data), rows*cols, shape)
	}
	if err != nil {
		return nil, err
	}
	return matrix.FromFloat32(data, rows, cols), nil
}

func (weight plain) matrix(name string, rows, cols int) (*matrix.Matrix, error) {
	return weight.load(name, rows, cols, rows, cols)
}

func (weight plain) vector(name string, n int) (*matrix.Matrix, error) {
	return weight.load(name, 1, n, n)
}

// build makes a model of a source's weights.
func build(cfg Config, from source) (*Model, error) {
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	kernels, err := kernel.Default()
	if err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	cfg.EOS, cfg.Windows, cfg.RopeScaling.Factors = slices.Clone(cfg.EOS), slices.Clone(cfg.Windows), slices.Clone(cfg.RopeScaling.Factors)
	m := &Model{cfg: cfg, kernels: kernels, layers: make([]layer, cfg.Layers)}
	note := func(name string, w *matrix.Matrix, shape ...int) {
		m.weights = append(m.weights, Weight{name, w.Type().String(), shape, len(w.Bytes())})
	}
	get := func(to *[]float32, name string, n int) {
		if err != nil {
			return
		}
		var w *matrix.Matrix
		if w, err = from.vector(name, n); err == nil {
			note(name, w, n)
			*to = make([]float32, n) // a copy: vectors are small, and much used
			w.Row(0, *to)
		}
	}
	getMatrix := func(to **matrix.Matrix, name string, rows, cols int) {
		if err != nil {
			return
		}
		var w *matrix.Matrix
		if w, err = from.matrix(name, rows, cols); err == nil {
			note(name, w, rows, cols)
			*to = w
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
		if cfg.QKVBias {
			get(&l.qBias, prefix+"self_attn.q_proj.bias", heads)
			get(&l.kBias, prefix+"self_attn.k_proj.bias", kvHeads)
			get(&l.vBias, prefix+"self_attn.v_proj.bias", kvHeads)
		}
		if cfg.OBias {
			get(&l.oBias, prefix+"self_attn.o_proj.bias", cfg.Hidden)
		}
		if cfg.QKNorm {
			get(&l.qNorm, prefix+"self_attn.q_norm.weight", cfg.HeadDim)
			get(&l.kNorm, prefix+"self_attn.k_norm.weight", cfg.HeadDim)
		}
		get(&l.mlpNorm, prefix+"post_attention_layernorm.weight", cfg.Hidden)
		getMatrix(&l.gate, prefix+"mlp.gate_proj.weight", cfg.Intermediate, cfg.Hidden)
		getMatrix(&l.up, prefix+"mlp.up_proj.weight", cfg.Intermediate, cfg.Hidden)
		getMatrix(&l.down, prefix+"mlp.down_proj.weight", cfg.Hidden, cfg.Intermediate)
	}
	if cfg.Interleaved {
		for i := range m.layers {
			l := &m.layers[i]
			for _, v := range [][]float32{l.qBias, l.kBias, l.qNorm, l.kNorm} {
				unpair(v, cfg.HeadDim)
			}
		}
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

// unpair brings vectors of heads whose elements 2i and 2i + 1 belong together into the order where i and i + dim/2 do, as
// the projections that they are added to or multiplied with are brought.
func unpair(v []float32, dim int) {
	head := make([]float32, dim)
	for ; len(v) > 0; v = v[dim:] {
		copy(head, v)
		for i := range dim / 2 {
			v[i], v[i+dim/2] = head[2*i], head[2*i+1]
		}
	}
}

// Open reads a model from a GGUF file, or from a directory as Hugging Face lays it out: config.json, generation_config.json if
// there is one, and the weights, F32, BF16 or F16, in model.safetensors or in the shards that
// model.safetensors.index.json lists. Weights stay in the mapped files, which must not change while the model is open;
// one that is cut short is an error of [Model.Forward].
func Open(path string) (*Model, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read model: %w", err)
	}
	if info.IsDir() {
		return openDirectory(path)
	}
	return openGGUF(path)
}

func openDirectory(dir string) (m *Model, err error) {
	path := filepath.Join(dir, "config.json")
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("cannot read model: %w", err)
	}
	cfg, err := ParseConfig(path, data)
	if err != nil {
		return nil, err
	}
	paths := []string{path}
	path = filepath.Join(dir, "generation_config.json")
	if data, err := os.ReadFile(path); err == nil {
		paths = append(paths, path)
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
	defer func() {
		if err != nil {
			s.close()
		}
	}()
	defer mmap.Guard(&err)()
	if m, err = build(cfg, s); err == nil {
		m.files = s.all()
		m.paths = append(paths, s.paths()...)
	}
	return m, err
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

// Files returns the paths of the files that Open read the model from, none if the model comes from elsewhere. The caller must not
// change them.
func (m *Model) Files() []string { return m.paths }

// Metadata returns what a GGUF file holds beside the model, nil if the model comes from elsewhere. The caller must not
// change it.
func (m *Model) Metadata() *Metadata { return m.metadata }

// Weights returns the model's tensors. The caller must not change them.
func (m *Model) Weights() []Weight { return m.weights }

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

// all returns the files that are open.
func (s *shards) all() []io.Closer {
	var files []io.Closer
	for _, f := range s.files {
		files = append(files, f)
	}
	return files
}

// paths returns the index, if there is one, and the files that are open.
func (s *shards) paths() []string {
	var paths []string
	if s.index != "" {
		paths = append(paths, s.index)
	}
	for _, name := range slices.Sorted(maps.Keys(s.files)) {
		paths = append(paths, filepath.Join(s.dir, name))
	}
	return paths
}

// tensor returns the file that holds a tensor, and its element type, after checking its shape.
func (s *shards) tensor(name string, shape ...int) (*safetensors.File, string, error) {
	file := singleFile
	if s.where != nil {
		var ok bool
		if file, ok = s.where[name]; !ok {
			return nil, "", fmt.Errorf("%s: weight_map has no tensor %q", s.index, name)
		}
	}
	f, err := s.open(file)
	if err != nil {
		return nil, "", err
	}
	info, ok := f.Info(name)
	if !ok {
		return nil, "", fmt.Errorf("%s: no tensor %q", f.Name(), name)
	}
	if !slices.Equal(info.Shape, shape) {
		return nil, "", fmt.Errorf("%s: tensor %q has shape %v; want %v, by config.json", f.Name(), name, info.Shape, shape)
	}
	if info.DType != "F32" && info.DType != "BF16" && info.DType != "F16" {
		return nil, "", fmt.Errorf("%s: tensor %q has element type %q; want F32, BF16 or F16", f.Name(), name, info.DType)
	}
	return f, info.DType, nil
}

// load returns a tensor as a matrix [rows, cols].
func (s *shards) load(name string, rows, cols int, shape ...int) (*matrix.Matrix, error) {
	f, kind, err := s.tensor(name, shape...)
	if err != nil {
		return nil, err
	}
	if kind == "F32" {
		data, err := f.Float32s(name)
		if err != nil {
			return nil, err
		}
		return matrix.FromFloat32(data, rows, cols), nil
	}
	bits, err := f.Uint16s(name)
	if err != nil {
		return nil, err
	}
	typ := matrix.BF16
	if kind == "F16" {
		typ = matrix.F16
	}
	return matrix.FromHalves(typ, bits, rows, cols), nil
}

func (s *shards) matrix(name string, rows, cols int) (*matrix.Matrix, error) {
	return s.load(name, rows, cols, rows, cols)
}

func (s *shards) vector(name string, n int) (*matrix.Matrix, error) { return s.load(name, 1, n, n) }
