// Package tokenizer turns text into the token ids a language model reads, and
// ids back into text, as a Hugging Face tokenizer.json file describes it.
//
// A file names the steps of a pipeline; Parse reads it and Encode runs it:
//
//   - added tokens, such as <|im_end|>, are cut out of the text first;
//   - the normalizer rewrites what is left (Lowercase);
//   - the pre-tokenizers split it into words (ByteLevel, Digits, Whitespace,
//     WhitespaceSplit);
//   - the model turns each word into ids (byte-level BPE, WordLevel);
//   - the post-processor adds tokens such as the beginning of sequence
//     (TemplateProcessing, ByteLevel, BertProcessing, RobertaProcessing);
//   - for the way back, the decoder joins the tokens (ByteLevel, Fuse; tokens
//     joined by spaces if there is none).
//
// Each of these steps but the model may also be a Sequence. The results are
// those of the Hugging Face tokenizers library, version 0.23. A file that asks
// for anything else is an error, never an approximation, with two exceptions:
// the fields truncation and padding are ignored, since the length of a prompt
// is the business of whoever runs the model, and an added token keeps the id
// that the file gives it.
package tokenizer

import (
	"fmt"
	"os"
	"strings"
)

// A Tokenizer converts between text and token ids. It does not change once
// made and is safe for concurrent use.
type Tokenizer struct {
	tokens []tokenInfo      // by id
	ids    map[string]int32 // token, as the file spells it, to id

	added           addedTokens // matched in the text as given
	addedNormalized addedTokens // matched in the normalized text
	lowercase       bool
	pre             []preTokenizer
	model           model
	post            []postProcessor

	byteLevel bool   // the model sees bytes: tokens are spelled in the byte alphabet
	separator string // written between tokens when decoding
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
// the normalizer replaced a character, all tokens of the replacement have the
// whole original character as their offset.
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
// Bytes of text that are not UTF-8 are split off as symbols would be, and in a
// byte-level tokenizer become the tokens of those bytes. Bytes that have no
// token are left out if the file names no token for the unknown. The text must
// be shorter than 2 GiB.
func (t *Tokenizer) Encode(text string, addSpecial bool) Encoding {
	e := encoder{t: t}
	e.ids = make([]int32, 0, len(text)/4+8)
	e.offsets = make([]Offset, 0, len(text)/4+8)
	t.added.split(text, func(id int32, start, end int) {
		if id >= 0 {
			e.add(id, Offset{start, end})
			return
		}
		s := segment{text: text[start:end], at: start}
		if t.lowercase {
			s = s.lower()
		}
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
	if pre[0].prefixSpace && s.text[0] != ' ' {
		s = s.prefixSpace()
	}
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

// Decode turns ids into text. With skipSpecial, special tokens are left out.
// Ids without a token are ignored. Bytes that do not make up a character, as
// when ids end in the middle of one, become U+FFFD.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) string {
	s := t.NewStream(skipSpecial)
	return s.Put(ids...) + s.Flush()
}

// VocabSize returns one more than the largest id, added tokens included.
func (t *Tokenizer) VocabSize() int { return len(t.tokens) }

// ID returns the id of token, spelled as in the file: a byte-level tokenizer
// has "Ġthe" for " the".
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

// A Stream decodes ids as they come, for printing the text of a model while it
// writes. It holds back the bytes of a character until it is complete.
type Stream struct {
	t           *Tokenizer
	skipSpecial bool
	started     bool   // a token was put: the next one needs a separator
	pending     []byte // start of a character
}

// NewStream returns a Stream at the beginning of a text. With skipSpecial,
// special tokens are left out.
func (t *Tokenizer) NewStream(skipSpecial bool) *Stream {
	return &Stream{t: t, skipSpecial: skipSpecial}
}

// Put adds ids and returns the text that is now complete, if any. The results
// of successive calls, and of Flush in the end, put together are what Decode
// returns for all ids.
func (s *Stream) Put(ids ...int32) string {
	var out strings.Builder
	for _, id := range ids {
		if !s.t.exists(int64(id)) {
			continue
		}
		info := &s.t.tokens[id]
		if s.skipSpecial && info.special {
			continue
		}
		if s.started {
			s.pending = append(s.pending, s.t.separator...)
		}
		s.started = true
		s.pending = append(s.pending, info.text...)
		s.pending = writeValid(&out, s.pending)
	}
	return out.String()
}

// Flush ends the text: it returns U+FFFD if a character is incomplete, else
// the empty string. The Stream is then at the beginning of a new text.
func (s *Stream) Flush() string {
	rest := len(s.pending) > 0
	s.started, s.pending = false, s.pending[:0]
	if rest {
		return "\uFFFD"
	}
	return ""
}
