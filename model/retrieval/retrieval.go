// Package retrieval constructs a small Llama model that can do one thing: asked with a code word at the end of a
// prompt, it answers with the word that followed that code word earlier. Nothing in it was trained. It exists to put
// every part of a model runner to work, on prompts of any length and with an answer that is known, without a
// download.
//
// # Tokens
//
// Text is put in lower case and split at white space and between words and punctuation (`\w+|[^\w\s]+`); every
// piece is one token. The vocabulary is <s>, which begins a text and ends the model's answer, <unk>, the 4096
// commonest pieces of the book in package internal/book, and 1000 invented code words. Every token has a code of 64
// numbers ±1/8, no two of which have a product above 1/2.
//
// # Embedding
//
// The 320 numbers of the residual stream are four codes and some flags: the token's code, to be copied as a value; a
// second copy for code words alone, to ask with; room for the second copy of the previous token, and for the answer; a
// one; whether the token is <s>, or is not; and whether it is a code word, or is not. The flags for what a token is
// not are there to give all tokens one norm, so that RMSNorm is a plain factor, which its weights undo.
//
// # Layers
//
// There are two, each with one head of size 128 and an MLP of zeros. The first layer's head looks at the previous
// token: query and key are constant, in the 10 fastest pairs of the rotary embedding, the query turned back by one
// position, with 30 nats a pair. 24 nats separate the previous token from every other one of a million. It
// copies the previous token's second copy and its flag.
//
// The second layer's head looks things up, in the 34 slowest pairs, which a million positions hardly turn at a
// rope_theta of 10¹²: a key weighs 60 nats × (the token's second copy · what the first layer copied to the key), 35
// more when its previous token is a code word, and 40 when it is <s>. The value is the key's own code, which goes to the
// answer, and the untied head compares that with all codes.
//
// So attention has what long prompts of real models have: a sink, <s>, where rows go that look for nothing; stripes,
// the tokens after code words, that all rows share; a local head; and nothing else within 30 nats.
package retrieval

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"math"
	"math/bits"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/anchorattention/anchor/internal/atomicfile"
	"github.com/anchorattention/anchor/internal/book"
	"github.com/anchorattention/anchor/internal/safetensors"
	"github.com/anchorattention/anchor/model"
	"github.com/anchorattention/anchor/tokenizer"
)

const (
	bookWords = 4096
	codeWords = 1000
	vocab     = 2 + bookWords + codeWords

	bos, unk  = 0, 1
	firstWord = 2                     // id of the commonest word of the book
	firstCode = firstWord + bookWords // id of the first code word

	headDim      = 128
	half         = headDim / 2
	codeSize     = 64
	intermediate = 128
	eps          = 1e-6
	theta        = 1e12
)

// Where things lie in the residual stream.
const (
	code         = 0            // the token's code
	ask          = codeSize     // the same, for code words alone
	previousAsk  = 2 * codeSize // ask of the previous token
	answer       = 3 * codeSize // the code that was looked up
	one          = 4*codeSize + iota - 4
	isBOS        // 1 for <s>
	notBOS       // 1 for all others
	isCode       // 1 for code words
	notCode      // √2 for all others, which have no ask either
	previousCode // isCode of the previous token
	previousNot  // notCode of the previous token
	hidden       = 5 * codeSize
)

// Build returns the model and its tokenizer.json, made in memory.
func Build() (*model.Model, []byte, error) {
	cfg, err := model.ParseConfig("config.json", config())
	if err != nil {
		return nil, nil, err
	}
	weights := make(map[string][]float32)
	for _, t := range tensors() {
		weights[t.Name] = t.Data.([]float32)
	}
	m, err := model.New(cfg, func(name string, _ ...int) ([]float32, error) {
		w, ok := weights[name]
		if !ok {
			return nil, fmt.Errorf("retrieval: no tensor %q", name)
		}
		return w, nil
	})
	return m, tokenizerJSON(), err
}

// Write writes the model to a directory as Hugging Face lays it out: config.json, tokenizer.json and
// model.safetensors. The directory is made if there is none; each file appears whole or not at
// all. The end of the context is an error.
func Write(ctx context.Context, dir string) error {
	if err := os.MkdirAll(dir, 0o777); err != nil {
		return fmt.Errorf("cannot write model: %w", err)
	}
	for name, data := range map[string][]byte{"config.json": config(), "tokenizer.json": tokenizerJSON()} {
		err := atomicfile.Write(ctx, filepath.Join(dir, name), func(w io.Writer) error {
			_, err := w.Write(data)
			return err
		})
		if err != nil {
			return err
		}
	}
	return safetensors.WriteFile(ctx, filepath.Join(dir, "model.safetensors"), map[string]string{"format": "pt"}, tensors()...)
}

func config() []byte {
	return marshal(map[string]any{
		"architectures": []string{"LlamaForCausalLM"}, "model_type": "llama", "torch_dtype": "float32",
		"vocab_size": vocab, "hidden_size": hidden, "intermediate_size": intermediate, "num_hidden_layers": 2,
		"num_attention_heads": 1, "num_key_value_heads": 1, "head_dim": headDim, "max_position_embeddings": 1 << 20,
		"rms_norm_eps": eps, "rope_theta": theta, "rope_scaling": nil, "hidden_act": "silu",
		"attention_bias": false, "mlp_bias": false, "tie_word_embeddings": false,
		"bos_token_id": bos, "eos_token_id": bos,
	})
}

func tokenizerJSON() []byte {
	words := vocabulary()
	ids := make(map[string]int)
	for id, w := range words {
		ids[w] = id
	}
	return tokenizerOf(ids)
}

// tokenizerOf describes a tokenizer with the given vocabulary, which holds <s> and <unk>.
func tokenizerOf(ids map[string]int) []byte {
	type object = map[string]any
	special := func(id int, token string) object {
		return object{"id": id, "content": token, "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}
	}
	begin := object{"SpecialToken": object{"id": "<s>", "type_id": 0}}
	text := func(id string, kind int) object { return object{"Sequence": object{"id": id, "type_id": kind}} }
	return marshal(object{
		"version": "1.0", "truncation": nil, "padding": nil,
		"added_tokens":  []object{special(bos, "<s>"), special(unk, "<unk>")},
		"normalizer":    object{"type": "Lowercase"},
		"pre_tokenizer": object{"type": "Whitespace"},
		"post_processor": object{
			"type": "TemplateProcessing", "single": []object{begin, text("A", 0)}, "pair": []object{begin, text("A", 0), text("B", 1)},
			"special_tokens": object{"<s>": object{"id": "<s>", "ids": []int{bos}, "tokens": []string{"<s>"}}},
		},
		"decoder": nil,
		"model":   object{"type": "WordLevel", "vocab": ids, "unk_token": "<unk>"},
	})
}

func marshal(v any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	enc.SetIndent("", "  ")
	if err := enc.Encode(v); err != nil {
		panic(err) // of strings, numbers and the like: it does not fail
	}
	return buf.Bytes()
}

// splitter is the tokenizer without its words: it splits text, and knows none of the pieces.
var splitter = sync.OnceValue(func() *tokenizer.Tokenizer {
	t, err := tokenizer.Parse(tokenizerOf(map[string]int{"<s>": bos, "<unk>": unk}))
	if err != nil {
		panic(err) // the file is a constant
	}
	return t
})

// vocabulary returns the tokens by id.
var vocabulary = sync.OnceValue(func() []string {
	text := strings.ToLower(book.Text())
	counts := make(map[string]int)
	for _, o := range splitter().Encode(text, false).Offsets {
		counts[text[o.Start:o.End]]++
	}
	commonest := slices.SortedFunc(maps.Keys(counts), func(a, b string) int {
		return cmp.Or(cmp.Compare(counts[b], counts[a]), cmp.Compare(a, b))
	})
	words := append([]string{"<s>", "<unk>"}, commonest[:bookWords]...)
	for _, a := range strings.Fields("ba dri fo gle ku lu me pra sno ti zu") {
		for _, b := range strings.Fields("bo da fe ka lo mi nu ro su ve") {
			for _, c := range strings.Fields("bax dun fel kor lim mot nar pex ris tov") {
				if word := a + b + c; counts[word] == 0 && len(words) < vocab {
					words = append(words, word)
				}
			}
		}
	}
	return words
})

// codes returns each token's code, as the signs of its numbers.
func codes() []uint64 {
	rng := rand.NewPCG(64, 8)
	all := make([]uint64, 0, vocab)
	for len(all) < vocab {
		c := rng.Uint64()
		// A product of 1/2 is 48 equal signs.
		if !slices.ContainsFunc(all, func(other uint64) bool { return bits.OnesCount64(c^other) < codeSize-48 }) {
			all = append(all, c)
		}
	}
	return all
}

// A matrix is a weight [out, in].
type matrix struct {
	in   int
	data []float32
}

func newMatrix(out, in int) matrix { return matrix{in, make([]float32, out*in)} }

func (m matrix) set(out, in int, v float64) { m.data[out*m.in+in] = float32(v) }

func tensors() []safetensors.Tensor {
	var all []safetensors.Tensor
	add := func(name string, m matrix) {
		all = append(all, safetensors.Tensor{Name: name + ".weight", DType: "F32", Shape: []int{len(m.data) / m.in, m.in}, Data: m.data})
	}
	addNorm := func(name string, v float64) {
		data := slices.Repeat([]float32{float32(v)}, hidden)
		all = append(all, safetensors.Tensor{Name: name + ".weight", DType: "F32", Shape: []int{hidden}, Data: data})
	}

	embedding, head := newMatrix(vocab, hidden), newMatrix(vocab, hidden)
	for id, signs := range codes() {
		for i := range codeSize {
			v := 1. / 8
			if signs>>i&1 == 0 {
				v = -v
			}
			embedding.set(id, code+i, v)
			head.set(id, answer+i, 8*v) // any factor would do
			if id >= firstCode {
				embedding.set(id, ask+i, v)
			}
		}
		embedding.set(id, one, 1)
		if id == bos {
			embedding.set(id, isBOS, 1)
		} else {
			embedding.set(id, notBOS, 1)
		}
		if id >= firstCode {
			embedding.set(id, isCode, 1)
		} else {
			embedding.set(id, notCode, math.Sqrt2)
		}
	}
	add("model.embed_tokens", embedding)

	// The square of a token's norm: code; one; isBOS or notBOS; ask and isCode, or notCode. The first layer adds
	// the last of these once more, the previous token's.
	const square = 1 + 1 + 1 + 2
	undo := func(square float64) float64 { return math.Sqrt(square/hidden + eps) }
	layer := func(prefix string, norm float64, q, k, v, o matrix) {
		addNorm(prefix+"input_layernorm", norm)
		add(prefix+"self_attn.q_proj", q)
		add(prefix+"self_attn.k_proj", k)
		add(prefix+"self_attn.v_proj", v)
		add(prefix+"self_attn.o_proj", o)
		addNorm(prefix+"post_attention_layernorm", 1)
		add(prefix+"mlp.gate_proj", newMatrix(intermediate, hidden))
		add(prefix+"mlp.up_proj", newMatrix(intermediate, hidden))
		add(prefix+"mlp.down_proj", newMatrix(hidden, intermediate))
	}
	newHead := func() (q, k, v, o matrix) {
		return newMatrix(headDim, hidden), newMatrix(headDim, hidden), newMatrix(headDim, hidden), newMatrix(hidden, headDim)
	}
	// factor is what query and key each take for their product to weigh so many nats.
	factor := func(nats float64) float64 { return math.Sqrt(nats * math.Sqrt(headDim)) }

	// Look at the previous token, and copy what it asks.
	q, k, v, o := newHead()
	for i := range 10 {
		sin, cos := math.Sincos(math.Pow(theta, -float64(i)/half))
		q.set(i, one, factor(30)*cos)
		q.set(i+half, one, factor(30)*-sin)
		k.set(i, one, factor(30))
	}
	for i := range codeSize {
		v.set(i, ask+i, 1)
		o.set(previousAsk+i, i, 1)
	}
	v.set(codeSize, isCode, 1)
	o.set(previousCode, codeSize, 1)
	v.set(codeSize+1, notCode, 1)
	o.set(previousNot, codeSize+1, 1)
	layer("model.layers.0.", undo(square), q, k, v, o)

	// Look for what is asked at the tokens after code words, and copy their codes.
	q, k, v, o = newHead()
	const firstPair = 30
	for i := range codeSize {
		at := firstPair + i
		if i >= codeSize/2 {
			at = half + firstPair + i - codeSize/2
		}
		q.set(at, ask+i, factor(60))
		k.set(at, previousAsk+i, factor(60))
		v.set(i, code+i, 1)
		o.set(answer+i, i, 1)
	}
	q.set(half-2, one, factor(35))
	k.set(half-2, previousCode, factor(35))
	q.set(half-1, one, factor(40))
	k.set(half-1, isBOS, factor(40))
	layer("model.layers.1.", undo(square+2), q, k, v, o)

	addNorm("model.norm", 1)
	add("lm_head", head)
	return all
}
