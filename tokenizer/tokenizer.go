// Package tokenizer turns text into the token ids a language model reads, and
// ids back into text, as a Hugging Face tokenizer.json file or the metadata of a
// GGUF file describe it.
//
// A tokenizer.json names the steps of a pipeline; Parse reads it and Encode runs
// it:
//
//   - added tokens, such as <|im_end|>, are cut out of the text first;
//   - the normalizers rewrite what is left (Lowercase, NFC, Prepend, Replace);
//   - the pre-tokenizers split it into words (ByteLevel, Digits, Metaspace, Split
//     by the patterns of GPT-2, Llama 3, Qwen2 and Tekken, Whitespace,
//     WhitespaceSplit);
//   - the model turns each word into ids (BPE of bytes or, as SentencePiece does
//     it, of characters with byte fallback; WordLevel);
//   - the post-processor adds tokens such as the beginning of sequence
//     (TemplateProcessing, ByteLevel, BertProcessing, RobertaProcessing);
//   - for the way back, the decoders turn tokens into text and join them
//     (ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Strip; tokens joined by
//     spaces if there is none).
//
// Each of these steps but the model may also be a Sequence. The results are
// those of the Hugging Face tokenizers library, version 0.23. A file that asks
// for anything else is an error, never an approximation, with these exceptions:
// the fields truncation and padding are ignored, since the length of a prompt
// is the business of whoever runs the model; an added token keeps the id that
// the file gives it; of byte tokens that are not UTF-8, only those at fault
// decode to U+FFFD, not the whole run of byte tokens; special tokens that the
// normalizer changes are left out of decoded text like others; and if only some
// bytes have a token, the unknown token keeps its place among them.
//
// FromGGUF makes the same out of the vocabularies "gpt2" and "llama" of GGUF,
// whose pre-tokenizers have names instead of patterns.
package tokenizer

import (
	"fmt"
	"os"
)

// A Tokenizer converts between text and token ids. It does not change once
// made and is safe for concurrent use.
type Tokenizer struct {
	tokens []tokenInfo      // by id
	ids    map[string]int32 // token, as the file spells it, to id

	added           addedTokens // matched in the text as given
	addedNormalized addedTokens // matched in the normalized text
	normalizers     []normalizer
	pre             []preTokenizer
	model           model
	post            []postProcessor
	decoder         decoder

	byteLevel bool // the model sees bytes: tokens are spelled in the byte alphabet
}

// tokenInfo is what is known of one id.
type tokenInfo struct {
	token   string // as the file spells it
	text    string // what it adds to decoded text; may be part of a character
	exists  bool
	added   bool
	special bool
}

// A model turns one word into tokens.
type model interface {
	// appendTokens appends the tokens of word, in order, to dst.
	appendTokens(dst []wordToken, word string) []wordToken
}

// wordToken is a token and the bytes of the word it stands for.
type wordToken struct {
	id, start, end int32
}

// An Encoding is a text as tokens.
type Encoding struct {
	IDs     []int32
	Offsets []Offset // of the same length as IDs
}

// An Offset is the part text[Start:End] of the encoded text, in bytes, that a
// token stands for. A token added by the post-processor, such as the beginning
// of sequence, stands for no text and has the zero Offset.
//
// In byte-level tokenizers a token may hold only some bytes of a character. Its
// offset is then those bytes, so that the offsets of a text's tokens tile it,
// where the Hugging Face library would widen each to the whole character. Where
// the normalizer replaced characters, all tokens of the replacement have
// everything that it replaced as their offset.
type Offset struct {
	Start, End int
}

// Load reads a tokenizer.json file.
func Load(path string) (*Tokenizer, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	t, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %s: %w", path, err)
	}
	return t, nil
}

// Parse is like Load for the content of a tokenizer.json file. An error names
// the field at fault.
func Parse(data []byte) (*Tokenizer, error) {
	t, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("tokenizer: %w", err)
	}
	return t, nil
}

// Encode turns text into tokens. With addSpecial, the post-processor adds the
// tokens the file asks for around every text, such as the beginning of
// sequence; added tokens written in the text itself are always recognized.
//
// Bytes of text that are not UTF-8 are split off as symbols would be, and become
// the tokens of those bytes where the vocabulary has them. What has no token is
// left out if the file names no token for the unknown. The text must be shorter
// than 2 GiB, also after the normalizers.
func (t *Tokenizer) Encode(text string, addSpecial bool) Encoding {
	e := encoder{t: t}
	e.ids = make([]int32, 0, len(text)/4+8)
	e.offsets = make([]Offset, 0, len(text)/4+8)
	t.added.split(text, func(id int32, start, end int) {
		if id >= 0 {
			e.add(id, Offset{start, end})
			return
		}
		s := t.normalize(segment{text: text[start:end], at: start})
		t.addedNormalized.split(s.text, func(id int32, start, end int) {
			if id >= 0 {
				e.add(id, s.offset(start, end))
				return
			}
			e.split(s.slice(start, end), t.pre)
		})
	})
	enc := Encoding{e.ids, e.offsets}
	for i := range t.post {
		enc = t.post[i].process(t, text, enc, addSpecial)
	}
	return enc
}

// normalize returns s after all normalizers.
func (t *Tokenizer) normalize(s segment) segment {
	for _, n := range t.normalizers {
		s = n(s)
	}
	return s
}

// encoder collects the tokens of one text.
type encoder struct {
	t       *Tokenizer
	ids     []int32
	offsets []Offset
	word    []wordToken // scratch
}

func (e *encoder) add(id int32, o Offset) {
	e.ids = append(e.ids, id)
	e.offsets = append(e.offsets, o)
}

// split runs the pre-tokenizers on s, each on every word of the one before,
// and the model on the words of the last.
func (e *encoder) split(s segment, pre []preTokenizer) {
	if len(s.text) == 0 {
		return
	}
	if len(pre) == 0 {
		e.word = e.t.model.appendTokens(e.word[:0], s.text)
		for _, w := range e.word {
			e.add(w.id, s.offset(int(w.start), int(w.end)))
		}
		return
	}
	s = pre[0].rewrite(s)
	if pre[0].scan == nil {
		e.split(s, pre[1:])
		return
	}
	for i := 0; i < len(s.text); {
		n, keep := pre[0].scan(s.text[i:])
		if keep {
			e.split(s.slice(i, i+n), pre[1:])
		}
		i += n
	}
}

// VocabSize returns one more than the largest id, added tokens included.
func (t *Tokenizer) VocabSize() int { return len(t.tokens) }

// ID returns the id of token, spelled as in the file: a byte-level tokenizer
// has "Ġthe" for " the", one of SentencePiece's kind "▁the".
func (t *Tokenizer) ID(token string) (id int32, ok bool) {
	id, ok = t.ids[token]
	return id, ok
}

// Token returns the token with the given id, spelled as in the file.
func (t *Tokenizer) Token(id int32) (token string, ok bool) {
	if !t.exists(int64(id)) {
		return "", false
	}
	return t.tokens[id].token, true
}

// exists reports whether there is a token with the given id.
func (t *Tokenizer) exists(id int64) bool {
	return 0 <= id && id < int64(len(t.tokens)) && t.tokens[id].exists
}

// setToken makes info the token with the given id, which must be free.
func (t *Tokenizer) setToken(id int64, info tokenInfo) error {
	if id < 0 || id >= maxTokens {
		return fmt.Errorf("token %q has id %d, want 0 to %d", info.token, id, maxTokens-1)
	}
	if n := int(id) + 1; n > len(t.tokens) {
		t.tokens = append(t.tokens, make([]tokenInfo, n-len(t.tokens))...)
	}
	if old := &t.tokens[id]; old.exists {
		return fmt.Errorf("tokens %q and %q have the same id %d",
			min(old.token, info.token), max(old.token, info.token), id)
	}
	info.text, info.exists = info.token, true
	t.tokens[id] = info
	t.ids[info.token] = int32(id)
	return nil
}

// add makes the token a.ID, which exists, one that is found in the text.
func (t *Tokenizer) add(a *addedToken) {
	info := &t.tokens[a.ID]
	info.added, info.special = true, a.Special
	if !a.Normalized {
		t.added.insert(a.Content, a)
		return
	}
	// What it is matched with is also what it decodes to.
	info.text = t.normalize(segment{text: a.Content}).text
	t.addedNormalized.insert(info.text, a)
}
