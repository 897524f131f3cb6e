package tokenizer

import (
	"strings"
	"unicode/utf8"
)

// A segment is a part of the text on its way through the pipeline, together
// with where it came from.
type segment struct {
	text string
	// Byte i of text is byte at+i of the encoded text or, if align is not nil,
	// stands for its part align[i].
	at    int
	align []span
}

// A span is an Offset in half the memory: there is one for each byte of a text
// that a normalizer changed.
type span struct{ start, end int32 }

// offset returns the part of the encoded text that s.text[start:end] stands
// for.
func (s segment) offset(start, end int) Offset {
	if s.align == nil {
		return Offset{s.at + start, s.at + end}
	}
	if start == end {
		return Offset{}
	}
	return Offset{int(s.align[start].start), int(s.align[end-1].end)}
}

// slice returns the part [start:end] of s.
func (s segment) slice(start, end int) segment {
	r := segment{text: s.text[start:end], at: s.at + start}
	if s.align != nil {
		r.align = s.align[start:end]
	}
	return r
}

// prepend returns s, which is not empty, with prefix in front, which stands for
// the first character.
func (s segment) prepend(prefix string) segment {
	_, n := utf8.DecodeRuneInString(s.text)
	r := rewrite(s, len(prefix))
	r.put(prefix, 0, n)
	r.keep(0, len(s.text))
	return r.segment()
}

// replace returns s with new for each old.
func (s segment) replace(old, new string) segment {
	count := strings.Count(s.text, old)
	if count == 0 {
		return s
	}
	r := rewrite(s, count*max(0, len(new)-len(old)))
	for i := 0; i < len(s.text); {
		n := strings.Index(s.text[i:], old)
		if n < 0 {
			r.keep(i, len(s.text))
			break
		}
		r.keep(i, i+n)
		i += n + len(old)
		r.put(new, i-len(old), i)
	}
	return r.segment()
}

// A rewriting makes a segment out of another, from left to right.
type rewriting struct {
	from  segment
	text  strings.Builder
	align []span
}

// rewrite begins a rewriting of s, which may become longer by the given number
// of bytes.
func rewrite(s segment, longer int) *rewriting {
	n := len(s.text) + longer
	r := &rewriting{from: s, align: make([]span, 0, n)}
	r.text.Grow(n)
	return r
}

// keep takes over the part [start:end] as it is.
func (r *rewriting) keep(start, end int) {
	r.text.WriteString(r.from.text[start:end])
	if r.from.align != nil {
		r.align = append(r.align, r.from.align[start:end]...)
		return
	}
	for i := int32(r.from.at + start); i < int32(r.from.at+end); i++ {
		r.align = append(r.align, span{i, i + 1})
	}
}

// put adds text that stands for the part [start:end], which is not empty.
func (r *rewriting) put(text string, start, end int) {
	r.text.WriteString(text)
	o := r.from.offset(start, end)
	for range len(text) {
		r.align = append(r.align, span{int32(o.Start), int32(o.End)})
	}
}

func (r *rewriting) segment() segment {
	return segment{text: r.text.String(), align: r.align}
}
