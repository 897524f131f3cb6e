package tokenizer

import (
	"encoding/json"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

// convert returns what the conversion to GGUF makes of a golden file.
func convert(t testing.TB, name, pre string) *GGUF {
	var f struct {
		AddedTokens []addedToken `json:"added_tokens"`
		Model       struct {
			Vocab  map[string]int
			Merges json.RawMessage
		}
	}
	golden := readGoldens(t)[name]
	if err := json.Unmarshal(golden.Tokenizer, &f); err != nil {
		t.Fatal(err)
	}
	merges, err := parseMerges(f.Model.Merges)
	if err != nil {
		t.Fatal(err)
	}
	n := golden.made.VocabSize()
	g := &GGUF{Model: "gpt2", Pre: pre, Tokens: make([]string, n), TokenTypes: slices.Repeat([]int32{ggufNormal}, n)}
	for token, id := range f.Model.Vocab {
		g.Tokens[id] = token
	}
	for _, a := range f.AddedTokens {
		g.Tokens[a.ID] = a.Content
		g.TokenTypes[a.ID] = ggufUserDefined
		if a.Special {
			g.TokenTypes[a.ID] = ggufControl
		}
	}
	if pre != "" {
		g.Merges = joinMerges(merges)
		return g
	}
	g.Model, g.Scores = "llama", make([]float32, n)
	for id, token := range g.Tokens {
		g.Scores[id] = -float32(id)
		if _, ok := fallbackByte(token); ok {
			g.TokenTypes[id], g.Scores[id] = ggufByte, 0
		}
		if token == "<unk>" {
			g.TokenTypes[id] = ggufUnknown
		}
	}
	return g
}

// Law: a vocabulary in GGUF makes the tokenizer that its tokenizer.json makes.
func TestGGUF(t *testing.T) {
	for _, c := range []struct{ golden, pre string }{
		{"smollm2", "smollm"}, {"gpt2", "gpt-2"}, {"llama3", "llama-bpe"}, {"qwen2", "qwen2"}, {"tekken", "tekken"}, {"llama2", ""},
	} {
		t.Run(c.golden, func(t *testing.T) {
			t.Parallel()
			g := convert(t, c.golden, c.pre)
			if i := slices.IndexFunc(g.Tokens, func(s string) bool { return s == "<|begin_of_text|>" || s == "<s>" }); i >= 0 {
				g.BOS = new(uint32(i))
			}
			tok, err := FromGGUF(g)
			if err != nil {
				t.Fatal(err)
			}
			for _, c := range readGoldens(t)[c.golden].Cases {
				if got := tok.Encode(c.Text, c.Special).IDs; !slices.Equal(got, c.IDs) {
					t.Errorf("Encode(%.200q, %v)\n got %v\nwant %v", c.Text, c.Special, got, c.IDs)
				}
				if got := tok.Decode(c.IDs, false); got != c.Decoded {
					t.Errorf("Decode of %.200q\n got %q\nwant %q", c.Text, got, c.Decoded)
				}
				if got := tok.Decode(c.IDs, true); got != c.Skipped {
					t.Errorf("Decode of %.200q without special tokens\n got %q\nwant %q", c.Text, got, c.Skipped)
				}
			}
		})
	}
}

// smallGGUF returns a small vocabulary of each model.
func smallGGUF(model string) *GGUF {
	if model == "gpt2" {
		return &GGUF{Model: model, Pre: "gpt-2", Tokens: []string{"a", "b", "ab", "<s>", "", "Ġ", "<x>"},
			TokenTypes: []int32{1, 1, 1, 3, 1, 1, 4}, Merges: []string{"a b"}}
	}
	return &GGUF{Model: model, Tokens: []string{"<unk>", "<s>", "</s>", "▁", "a", "b", "ab", "▁a", "<0x63>", "▁日", "x y"},
		Scores: []float32{0, 0, 0, -5, -6, -7, -2, -1, 0, -3, 0}, TokenTypes: []int32{2, 3, 3, 1, 1, 1, 1, 1, 6, 1, 4}}
}

// Law: what the flags of a file say, or llama.cpp assumes if they are absent, is
// what is done.
func TestGGUFFlags(t *testing.T) {
	tests := []struct {
		name, model string
		change      func(*GGUF)
		text        string
		ids         []int32
		decoded     string // without special tokens
	}{
		{"gpt2", "gpt2", func(g *GGUF) {}, "ab<x> ab", []int32{2, 6, 5, 2}, "ab<x> ab"},
		{"gpt2 with both", "gpt2", func(g *GGUF) { g.BOS, g.EOS, g.AddBOS, g.AddEOS = new(uint32(3)), new(uint32(0)), new(true), new(true) }, "b", []int32{3, 1, 0}, "ba"},
		{"llama-bpe begins", "gpt2", func(g *GGUF) { g.Pre, g.BOS = "llama-bpe", new(uint32(3)) }, "b", []int32{3, 1}, "b"},
		{"llama-bpe does not", "gpt2", func(g *GGUF) { g.Pre, g.AddBOS = "llama-bpe", new(false) }, "b", []int32{1}, "b"},
		{"llama-bpe takes words whole", "gpt2", func(g *GGUF) { g.Pre, g.AddBOS, g.Merges = "llama3", new(false), []string{} }, "ab", []int32{2}, "ab"},
		{"gpt-2 does not", "gpt2", func(g *GGUF) { g.Merges = []string{} }, "ab", []int32{0, 1}, "ab"},
		{"no types", "gpt2", func(g *GGUF) { g.TokenTypes = nil }, "a<x>", []int32{0}, "a"},
		{"default", "gpt2", func(g *GGUF) { g.Pre = "default" }, "ab ab", []int32{2, 5, 2}, "ab ab"},

		{"llama", "llama", func(g *GGUF) {}, "ab a", []int32{1, 7, 5, 7}, "ab a"},
		{"llama without space", "llama", func(g *GGUF) { g.AddSpacePrefix = new(false) }, "ab a", []int32{1, 6, 7}, "ab a"},
		{"llama after special", "llama", func(g *GGUF) { g.AddBOS = new(false) }, "a<s>a", []int32{7, 1, 7}, "a a"},
		{"llama with end", "llama", func(g *GGUF) { g.AddEOS = new(true) }, "a", []int32{1, 7, 2}, "a"},
		{"llama begins otherwise", "llama", func(g *GGUF) { g.BOS = new(uint32(2)) }, "a", []int32{2, 7}, "a"},
		{"llama bytes", "llama", func(g *GGUF) {}, "cd", []int32{1, 3, 8, 0}, "c"},
		{"llama without types", "llama", func(g *GGUF) { g.TokenTypes = nil }, "c", []int32{1, 3, 8}, "<s> c"},
		{"llama part of a piece", "llama", func(g *GGUF) {}, "日 日", []int32{1, 9, 9}, "日 日"},
		{"llama part alone", "llama", func(g *GGUF) { g.AddSpacePrefix = new(false) }, "日a", []int32{1, 0, 4}, "a"},
		{"llama user-defined", "llama", func(g *GGUF) {}, "x y", []int32{1, 10}, "x y"},
		{"llama unknown", "llama", func(g *GGUF) { g.Unknown = new(uint32(5)) }, "d", []int32{1, 3, 5}, "b"},
	}
	for _, c := range tests {
		t.Run(c.name, func(t *testing.T) {
			g := smallGGUF(c.model)
			c.change(g)
			tok, err := FromGGUF(g)
			if err != nil {
				t.Fatal(err)
			}
			got := tok.Encode(c.text, true).IDs
			if !slices.Equal(got, c.ids) {
				t.Errorf("Encode(%q) = %v, want %v", c.text, got, c.ids)
			}
			if decoded := tok.Decode(got, true); decoded != c.decoded {
				t.Errorf("Decode(%v) = %q, want %q", got, decoded, c.decoded)
			}
		})
	}
}

// Law: a vocabulary that is malformed or asks for what is not supported is an
// error that names the key and the value.
func TestGGUFErrors(t *testing.T) {
	tests := []struct {
		model  string
		change func(*GGUF)
		want   string
	}{
		{"gpt2", func(g *GGUF) { *g = GGUF{} }, `tokenizer.ggml.tokens: 0 of them, want 1 to`},
		{"gpt2", func(g *GGUF) { g.Model = "bert" }, `tokenizer.ggml.model: "bert" is not supported, want one of gpt2, llama`},
		{"gpt2", func(g *GGUF) { g.Pre = "bloom" }, `tokenizer.ggml.pre: "bloom" is not supported, want one of deepseek-r1-qwen, default, gpt-2, llama-bpe`},
		{"gpt2", func(g *GGUF) { g.Pre = "" }, `tokenizer.ggml.pre: missing`},
		{"gpt2", func(g *GGUF) { g.Merges = nil }, `tokenizer.ggml.merges: missing`},
		{"gpt2", func(g *GGUF) { g.Merges = []string{"ab"} }, `tokenizer.ggml.merges[0]: "ab" is not two tokens`},
		{"gpt2", func(g *GGUF) { g.Merges = []string{"a b", "b a"} }, `tokenizer.ggml.merges[1]: ["b" "a"]: there is no token "ba"`},
		{"gpt2", func(g *GGUF) { g.Tokens[1] = "a" }, `tokenizer.ggml.tokens[1]: "a" is also tokens[0]`},
		{"gpt2", func(g *GGUF) { g.Tokens[1] = "\xff" }, `tokenizer.ggml.tokens[1]: "\xff" is not UTF-8`},
		{"gpt2", func(g *GGUF) { g.TokenTypes = g.TokenTypes[1:] }, `tokenizer.ggml.token_type: 6 values, want one for each of 7 tokens`},
		{"gpt2", func(g *GGUF) { g.TokenTypes[2] = 7 }, `tokenizer.ggml.token_type[2]: 7, want 0 to 6`},
		{"gpt2", func(g *GGUF) { g.AddSpacePrefix = new(true) }, `tokenizer.ggml.add_space_prefix: true is not supported`},
		{"gpt2", func(g *GGUF) { g.AddBOS = new(true) }, `tokenizer.ggml.bos_token_id: missing`},
		{"gpt2", func(g *GGUF) { g.AddEOS = new(true) }, `tokenizer.ggml.eos_token_id: missing`},
		{"gpt2", func(g *GGUF) { g.AddBOS, g.BOS = new(true), new(uint32(7)) }, `tokenizer.ggml.bos_token_id: no token has id 7`},
		{"gpt2", func(g *GGUF) { g.AddBOS, g.BOS = new(true), new(uint32(4)) }, `tokenizer.ggml.bos_token_id: no token has id 4`},
		{"llama", func(g *GGUF) { g.Scores = nil }, `tokenizer.ggml.scores: missing`},
		{"llama", func(g *GGUF) { g.Scores = g.Scores[1:] }, `tokenizer.ggml.scores: 10 values, want one for each of 11 tokens`},
		{"llama", func(g *GGUF) { g.Scores[4] = float32(math.NaN()) }, `tokenizer.ggml.scores[4]: is not a number`},
		{"llama", func(g *GGUF) { g.TokenTypes[4] = 6 }, `tokenizer.ggml.tokens[4]: "a" is of type byte, want <0x00> to <0xFF>`},
		{"llama", func(g *GGUF) { g.Tokens[4] = strings.Repeat("a", 1025) }, `tokenizer.ggml.tokens[4]: has 1025 bytes, want 1024 at most`},
		{"llama", func(g *GGUF) { g.Unknown = new(uint32(math.MaxUint32)) }, `tokenizer.ggml.unknown_token_id: no token has id 4294967295`},
		{"llama", func(g *GGUF) { g.Tokens[0] = "" }, `tokenizer.ggml.unknown_token_id: missing, and no token has id 0, its default`},
	}
	for i, c := range tests {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			g := smallGGUF(c.model)
			c.change(g)
			tok, err := FromGGUF(g)
			if err == nil || tok != nil || !strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v\nwant %s", err, c.want)
			}
		})
	}
}
