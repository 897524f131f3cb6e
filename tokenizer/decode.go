package tokenizer

import "strings"

// A decoder says how the texts of tokens become one text.
type decoder struct {
	separator string // written between tokens
	drop      string // left out of the first token, as Metaspace does
	strip     string // a character, taken from the beginning of the text,
	stripMax  int    // at most so many times
}

// Decode turns ids into text. With skipSpecial, special tokens are left out.
// Ids without a token are ignored. Bytes that do not make up a character, as
// when ids end in the middle of one, become U+FFFD.
func (t *Tokenizer) Decode(ids []int32, skipSpecial bool) string {
	s := t.NewStream(skipSpecial)
	return s.Put(ids...) + s.Flush()
}

// A Stream decodes ids as they come, for printing the text of a model while it
// writes. It holds back the bytes of a character until it is complete.
type Stream struct {
	t           *Tokenizer
	skipSpecial bool
	started     bool   // a token was put: the next one needs a separator
	stripped    int    // characters taken from the beginning; stripMax once it is over
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
	d := &s.t.decoder
	for _, id := range ids {
		if !s.t.exists(int64(id)) {
			continue
		}
		info := &s.t.tokens[id]
		if s.skipSpecial && info.special {
			continue
		}
		text := info.text
		switch {
		case s.started:
			s.pending = append(s.pending, d.separator...)
		case d.drop != "":
			text = strings.ReplaceAll(info.token, d.drop, "")
		}
		s.started = true
		s.pending = append(s.pending, text...)
		s.pending = writeValid(&out, s.pending)
	}
	text := out.String()
	for s.stripped < d.stripMax && text != "" {
		rest, ok := strings.CutPrefix(text, d.strip)
		if !ok {
			s.stripped = d.stripMax
			break
		}
		text = rest
		s.stripped++
	}
	return text
}

// Flush ends the text: it returns U+FFFD if a character is incomplete, else
// the empty string. The Stream is then at the beginning of a new text.
func (s *Stream) Flush() string {
	rest := len(s.pending) > 0
	s.started, s.stripped, s.pending = false, 0, s.pending[:0]
	if rest {
		return "\uFFFD"
	}
	return ""
}
