package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// A postProcessor is one step on the tokens of a text: it adds tokens by a
// template, or trims offsets, or both.
type postProcessor struct {
	template []templatePiece // nil: leave the tokens as they are

	trim        bool // take spaces at either end out of the offsets
	prefixSpace bool // but not the one space that the pre-tokenizer may have added
}

// A templatePiece is either the tokens of the text or special tokens.
type templatePiece struct {
	text bool
	ids  []int32 // if not text
}

func (p *postProcessor) process(t *Tokenizer, text string, enc Encoding, addSpecial bool) Encoding {
	if p.trim {
		for i, id := range enc.IDs {
			enc.Offsets[i] = p.trimmed(t, text, i, id, enc.Offsets[i])
		}
	}
	if p.template == nil {
		return enc
	}
	var r Encoding
	for _, piece := range p.template {
		switch {
		case piece.text:
			r.IDs = append(r.IDs, enc.IDs...)
			r.Offsets = append(r.Offsets, enc.Offsets...)
		case addSpecial:
			r.IDs = append(r.IDs, piece.ids...)
			r.Offsets = append(r.Offsets, make([]Offset, len(piece.ids))...)
		}
	}
	return r
}

// trimmed returns the offset o of the i-th token without the spaces at either
// end of the token.
func (p *postProcessor) trimmed(t *Tokenizer, text string, i int, id int32, o Offset) Offset {
	info := &t.tokens[id]
	value, isSpace := info.token, unicode.IsSpace
	switch {
	case info.added:
		value = text[o.Start:o.End] // with the white space the token took
	case t.byteLevel:
		isSpace = func(r rune) bool { return r == 'Ġ' || unicode.IsSpace(r) }
	}
	lead := utf8.RuneCountInString(value[:len(value)-len(strings.TrimLeftFunc(value, isSpace))])
	trail := utf8.RuneCountInString(value[len(strings.TrimRightFunc(value, isSpace)):])
	if p.prefixSpace && (i == 0 || o.Start == 0) && lead == 1 {
		lead = 0
	}
	for range lead {
		_, n := utf8.DecodeRuneInString(text[o.Start:])
		o.Start = min(o.Start+n, o.End)
	}
	for range trail {
		_, n := utf8.DecodeLastRuneInString(text[:o.End])
		o.End = max(o.End-n, o.Start)
	}
	return o
}
