package tokenizer

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"unicode/utf8"
)

// GGUF is a vocabulary as the metadata of a GGUF file holds it: each field is
// the value of the key named beside it, all of which begin with
// "tokenizer.ggml.". A nil field is a key that the file does not have.
type GGUF struct {
	Model      string    // model: "gpt2" (byte-level BPE) or "llama" (SentencePiece)
	Pre        string    // pre, for gpt2: what its words are; see FromGGUF
	Tokens     []string  // tokens, by id
	Scores     []float32 // scores, for llama: of what is merged first, as many as Tokens
	TokenTypes []int32   // token_type, as many as Tokens: 1 normal, 2 unknown, 3 control, 4 user-defined, 5 unused, 6 byte
	Merges     []string  // merges, for gpt2: "a b", first ones first

	BOS            *uint32 // bos_token_id: what texts begin with
	EOS            *uint32 // eos_token_id: what texts end with
	Unknown        *uint32 // unknown_token_id, for llama: what has no bytes either
	AddBOS         *bool   // add_bos_token
	AddEOS         *bool   // add_eos_token
	AddSpacePrefix *bool   // add_space_prefix: llama puts a space before text
}

// ggufPre is what the name of a pre-tokenizer stands for.
type ggufPre struct {
	scan         []scanner
	compose      bool // NFC before
	ignoreMerges bool
	addBOS       bool // unless the file says otherwise
}

// ggufPres are the pre-tokenizers that llama.cpp's conversion names for the
// models of the families supported, and what they stand for there. (The
// tokenizer.json of Qwen2 has NFC, which llama.cpp leaves out.)
var ggufPres = func() map[string]ggufPre {
	llama3 := ggufPre{scan: []scanner{scanLlama3}, ignoreMerges: true, addBOS: true}
	return map[string]ggufPre{
		"default":          {scan: []scanner{scanPunctuation, scanGPT2, scanDigits, scanThreeDigits}},
		"deepseek-r1-qwen": {scan: []scanner{scanQwen2}},
		"gpt-2":            {scan: []scanner{scanGPT2}},
		"llama-bpe":        llama3,
		"llama-v3":         llama3,
		"llama3":           llama3,
		"qwen2":            {scan: []scanner{scanQwen2}, compose: true},
		"smaug-bpe":        {scan: []scanner{scanLlama3}},
		"smollm":           {scan: []scanner{scanDigit, scanGPT2}},
		"tekken":           {scan: []scanner{scanTekken}, ignoreMerges: true, addBOS: true},
	}
}()

// Types of tokens in GGUF.
const (
	ggufUndefined = iota
	ggufNormal
	ggufUnknown
	ggufControl
	ggufUserDefined
	ggufUnused
	ggufByte
)

// maxPiece bounds the length of a SentencePiece token, and so the time that a
// long one takes: each way to put it together is tried. They have 16 characters
// at most by default.
const maxPiece = 1024

// FromGGUF makes the tokenizer that a GGUF file describes. An error names the
// key at fault.
//
// The names of pre-tokenizers known are llama-bpe, llama3, llama-v3 and
// smaug-bpe (the pattern of Llama 3), qwen2 and deepseek-r1-qwen (of Qwen2),
// smollm, tekken (of Mistral's later models), gpt-2, and default (llama.cpp's
// own). What a file does not say is as
// in llama.cpp: llama begins texts with id 1 and puts a space before them; gpt2
// does neither, but for those of Llama 3 and tekken, which have a beginning.
//
// Tokens of the types control and unknown are special. They and the user-defined
// ones are found in the text before anything else. Empty tokens do not exist.
func FromGGUF(g *GGUF) (*Tokenizer, error) {
	t := &Tokenizer{ids: make(map[string]int32)}
	err := t.fromGGUF(g)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: tokenizer.ggml.%w", err)
	}
	return t, nil
}

func (t *Tokenizer) fromGGUF(g *GGUF) error {
	if len(g.Tokens) == 0 || len(g.Tokens) > maxTokens {
		return fmt.Errorf("tokens: %d of them, want 1 to %d", len(g.Tokens), maxTokens)
	}
	if g.TokenTypes != nil && len(g.TokenTypes) != len(g.Tokens) {
		return fmt.Errorf("token_type: %d values, want one for each of %d tokens", len(g.TokenTypes), len(g.Tokens))
	}
	for i, token := range g.Tokens {
		switch {
		case token == "":
			continue
		case !utf8.ValidString(token):
			return fmt.Errorf("tokens[%d]: %q is not UTF-8", i, excerpt(token))
		}
		if typ := g.tokenType(i); typ < ggufUndefined || typ > ggufByte {
			return fmt.Errorf("token_type[%d]: %d, want %d to %d", i, typ, ggufUndefined, ggufByte)
		}
		if j, ok := t.ids[token]; ok {
			return fmt.Errorf("tokens[%d]: %q is also tokens[%d]", i, excerpt(token), j)
		}
		if err := t.setToken(int64(i), tokenInfo{token: token}); err != nil {
			return fmt.Errorf("tokens: %w", err)
		}
	}
	var err error
	var addBOS bool
	switch g.Model {
	case "gpt2":
		addBOS, err = t.ggufBytes(g)
	case "llama":
		addBOS, err = t.ggufPieces(g)
	default:
		err = fmt.Errorf("model: %q is not supported, want one of gpt2, llama", excerpt(g.Model))
	}
	if err != nil {
		return err
	}
	for i := range g.Tokens {
		typ := g.tokenType(i)
		if typ != ggufControl && typ != ggufUnknown && typ != ggufUserDefined || !t.exists(int64(i)) {
			continue
		}
		t.tokens[i].text = t.tokens[i].token
		t.add(&addedToken{ID: int64(i), Content: g.Tokens[i], Special: typ != ggufUserDefined})
	}
	return t.ggufTemplate(g, addBOS)
}

func (g *GGUF) tokenType(id int) int32 {
	if g.TokenTypes == nil {
		return ggufNormal
	}
	return g.TokenTypes[id]
}

// ggufBytes sets up the model gpt2.
func (t *Tokenizer) ggufBytes(g *GGUF) (addBOS bool, err error) {
	t.byteLevel = true
	pre, ok := ggufPres[g.Pre]
	switch {
	case g.Pre == "":
		return false, errors.New("pre: missing")
	case !ok:
		names := slices.Sorted(maps.Keys(ggufPres))
		return false, fmt.Errorf("pre: %q is not supported, want one of %s", excerpt(g.Pre), strings.Join(names, ", "))
	case g.AddSpacePrefix != nil && *g.AddSpacePrefix:
		return false, errors.New("add_space_prefix: true is not supported with the model gpt2")
	case g.Merges == nil:
		return false, errors.New("merges: missing")
	}
	if pre.compose {
		t.normalizers = append(t.normalizers, compose)
	}
	for _, scan := range pre.scan {
		t.pre = append(t.pre, preTokenizer{scan: scan})
	}
	b := newBPE(false)
	t.setBytes(b)
	merges, err := splitMerges(g.Merges)
	if err != nil {
		return false, fmt.Errorf("merges%w", err)
	}
	if err := t.setMerges(b, merges); err != nil {
		return false, fmt.Errorf("merges%w", err)
	}
	if pre.ignoreMerges {
		b.whole = t.words()
	}
	t.model = b
	t.decodeEach(func(token string) string {
		if b, ok := tokenBytes(token); ok {
			return b
		}
		return token
	})
	return pre.addBOS, nil
}

// ggufPieces sets up the model llama.
func (t *Tokenizer) ggufPieces(g *GGUF) (addBOS bool, err error) {
	if g.Scores == nil {
		return false, errors.New("scores: missing")
	}
	if len(g.Scores) != len(g.Tokens) {
		return false, fmt.Errorf("scores: %d values, want one for each of %d tokens", len(g.Scores), len(g.Tokens))
	}
	if g.AddSpacePrefix == nil || *g.AddSpacePrefix {
		t.normalizers = append(t.normalizers, prepending(spaceMark))
		t.decoder.strip, t.decoder.stripMax = " ", 1
	}
	t.normalizers = append(t.normalizers, replacing(" ", spaceMark))
	b := newBPE(true)
	b.partial = int32(len(t.tokens))
	unk, err := t.ggufID("unknown_token_id", g.Unknown, 0)
	if err != nil {
		return false, err
	}
	b.unk = unk
	var pieces []piece
	for i, token := range g.Tokens {
		typ := g.tokenType(i)
		c, isByte := fallbackByte(token)
		switch {
		case token == "":
		case typ == ggufByte && !isByte:
			return false, fmt.Errorf("tokens[%d]: %q is of type byte, want <0x00> to <0xFF>", i, excerpt(token))
		case isByte && (typ == ggufByte || g.TokenTypes == nil):
			b.bytes[c] = int32(i)
			t.tokens[i].text = string([]byte{c})
		case typ == ggufControl || typ == ggufUnknown:
		default:
			if len(token) > maxPiece {
				return false, fmt.Errorf("tokens[%d]: has %d bytes, want %d at most", i, len(token), maxPiece)
			}
			if g.Scores[i] != g.Scores[i] {
				return false, fmt.Errorf("scores[%d]: is not a number", i)
			}
			pieces = append(pieces, piece{token, int32(i), g.Scores[i]})
			t.tokens[i].text = strings.ReplaceAll(token, spaceMark, " ")
		}
	}
	if scan := b.setPieces(pieces); scan != nil {
		t.pre = append(t.pre, preTokenizer{scan: scan})
	}
	t.model = b
	return true, nil
}

// ggufTemplate sets what is added around a text.
func (t *Tokenizer) ggufTemplate(g *GGUF, addBOS bool) error {
	addEOS := false
	if g.AddBOS != nil {
		addBOS = *g.AddBOS
	}
	if g.AddEOS != nil {
		addEOS = *g.AddEOS
	}
	template := []templatePiece{{text: true}}
	if addBOS {
		id, err := t.ggufID("bos_token_id", g.BOS, 1)
		if err != nil {
			return err
		}
		template = append([]templatePiece{{ids: []int32{id}}}, template...)
	}
	if addEOS {
		id, err := t.ggufID("eos_token_id", g.EOS, 2)
		if err != nil {
			return err
		}
		template = append(template, templatePiece{ids: []int32{id}})
	}
	if len(template) > 1 {
		t.post = append(t.post, postProcessor{template: template})
	}
	return nil
}

// ggufID returns the id of a special token. Where the file does not have it, it
// is that of the first SentencePiece models.
func (t *Tokenizer) ggufID(key string, id *uint32, llama int32) (int32, error) {
	switch {
	case id == nil && t.byteLevel:
		return 0, fmt.Errorf("%s: missing", key)
	case id == nil && !t.exists(int64(llama)):
		return 0, fmt.Errorf("%s: missing, and no token has id %d, its default", key, llama)
	case id == nil:
		return llama, nil
	case !t.exists(int64(*id)):
		return 0, fmt.Errorf("%s: no token has id %d", key, *id)
	}
	return int32(*id), nil
}
