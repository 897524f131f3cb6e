package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// A segment is a part of the text on its way through the pipeline, together
// with where it came from.
type segment struct {
	text string
	// Byte i of text is byte at+i of the encoded text or, if align is not nil,
	// stands for its part align[i].
	at    int
	align []Offset
}

// offset returns the part of the encoded text that s.text[start:end] stands
// for.
func (s segment) offset(start, end int) Offset {
	if s.align == nil {
		return Offset{s.at + start, s.at + end}
	}
	if start == end {
		return Offset{}
	}
	return Offset{s.align[start].Start, s.align[end-1].End}
}

// slice returns the part [start:end] of s.
func (s segment) slice(start, end int) segment {
	r := segment{text: s.text[start:end], at: s.at + start}
	if s.align != nil {
		r.align = s.align[start:end]
	}
	return r
}

// prefixSpace returns s with a space in front that stands for the first
// character.
func (s segment) prefixSpace() segment {
	_, n := utf8.DecodeRuneInString(s.text)
	align := make([]Offset, 1, 1+len(s.text))
	align[0] = s.offset(0, n)
	for i := range len(s.text) {
		align = append(align, s.offset(i, i+1))
	}
	return segment{text: " " + s.text, align: align}
}

// lower returns s in lower case.
func (s segment) lower() segment {
	if !strings.ContainsFunc(s.text, func(r rune) bool { return unicode.ToLower(r) != r }) {
		return s
	}
	text := make([]byte, 0, len(s.text))
	align := make([]Offset, 0, len(s.text))
	for i := 0; i < len(s.text); {
		r, n := utf8.DecodeRuneInString(s.text[i:])
		l := unicode.ToLower(r)
		switch {
		case l == r: // also a byte that is not UTF-8
			text = append(text, s.text[i:i+n]...)
		case r == 'İ': // the one character with a longer lower case
			text = append(text, "i\u0307"...)
		default:
			text = utf8.AppendRune(text, l)
		}
		if added := len(text) - len(align); added == n {
			for j := range n {
				align = append(align, s.offset(i+j, i+j+1))
			}
		} else {
			for range added {
				align = append(align, s.offset(i, i+n))
			}
		}
		i += n
	}
	return segment{text: string(text), align: align}
}
