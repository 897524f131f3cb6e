package tokenizer

import (
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
)

// A normalizer is one step of rewriting the text between the added tokens.
type normalizer func(segment) segment

// prepending returns the normalizer that puts prefix before any text.
func prepending(prefix string) normalizer {
	return func(s segment) segment {
		if s.text == "" {
			return s
		}
		return s.prepend(prefix)
	}
}

// replacing returns the normalizer that puts new in the place of each old.
func replacing(old, new string) normalizer {
	return func(s segment) segment { return s.replace(old, new) }
}

// lower is the normalizer Lowercase.
func lower(s segment) segment {
	if !strings.ContainsFunc(s.text, func(r rune) bool { return unicode.ToLower(r) != r }) {
		return s
	}
	w := rewrite(s, 0)
	for i := 0; i < len(s.text); {
		r, n := utf8.DecodeRuneInString(s.text[i:])
		switch l := unicode.ToLower(r); {
		case l == r: // also a byte that is not UTF-8
			w.keep(i, i+n)
		case r == 'İ': // the one character with a longer lower case
			w.put("i\u0307", i, i+n)
		default:
			w.put(string(l), i, i+n)
		}
		i += n
	}
	return w.segment()
}

// compose is the normalizer NFC: Unicode's canonical composition. A character
// that is composed of several stands for all of them.
//
// Package norm is asked only for single characters and pairs, because it puts
// U+034F into longer sequences of combining characters than Unicode's
// stream-safe text may have.
func compose(s segment) segment {
	if norm.NFC.IsNormalString(s.text) {
		return s
	}
	w := rewrite(s, 0)
	var c composer
	for i := 0; i < len(s.text); {
		end := i + composable(s.text[i:])
		part := s.text[i:end]
		if composed := c.compose(part); composed != part {
			w.put(composed, i, end)
		} else {
			w.keep(i, end)
		}
		i = end
	}
	return w.segment()
}

// composable returns the length of the first part of s that is composed by
// itself: one character and all that may combine with what is before them.
func composable(s string) int {
	r, n := utf8.DecodeRuneInString(s)
	if r == utf8.RuneError && n == 1 {
		return 1
	}
	for n < len(s) && s[n] >= utf8.RuneSelf && !norm.NFC.PropertiesString(s[n:]).BoundaryBefore() {
		_, m := utf8.DecodeRuneInString(s[n:])
		n += m
	}
	return n
}

// A composer does canonical composition (Unicode, section 3.11). It keeps its
// memory from one part to the next.
type composer struct {
	chars []combining
	out   []rune
}

// combining is a character and its canonical combining class, which is 0 for
// one that begins a new sequence.
type combining struct {
	r     rune
	class uint8
}

func (c *composer) compose(part string) string {
	if len(part) == 1 {
		return part
	}
	c.decompose(part)
	c.out = c.out[:0]
	starter := -1 // index of the last one in out
	last := 0     // class of the last character put after it
	for _, ch := range c.chars {
		class := int(ch.class)
		// What is between a character and the starter blocks it unless it is of a
		// lower class.
		if starter >= 0 && (starter == len(c.out)-1 || last < class) {
			if r, ok := composePair(c.out[starter], ch.r); ok {
				c.out[starter] = r
				continue
			}
		}
		if class == 0 {
			starter = len(c.out)
		}
		last = class
		c.out = append(c.out, ch.r)
	}
	return string(c.out)
}

// decompose sets c.chars to the canonical decomposition of part, in canonical
// order. Hangul syllables stay whole, as package norm has them: they are
// composed again anyway.
func (c *composer) decompose(part string) {
	c.chars = c.chars[:0]
	for i := 0; i < len(part); {
		_, n := utf8.DecodeRuneInString(part[i:])
		d := norm.NFD.PropertiesString(part[i:]).Decomposition()
		if d == nil {
			d = []byte(part[i : i+n])
		}
		for _, r := range string(d) {
			c.chars = append(c.chars, combining{r, norm.NFD.PropertiesString(string(r)).CCC()})
		}
		i += n
	}
	for i := 0; i < len(c.chars); {
		end := i + 1
		if c.chars[i].class != 0 {
			for end < len(c.chars) && c.chars[end].class != 0 {
				end++
			}
			slices.SortStableFunc(c.chars[i:end], func(a, b combining) int { return int(a.class) - int(b.class) })
		}
		i = end
	}
}

// composePair returns the character that is canonically composed of a and b.
func composePair(a, b rune) (rune, bool) {
	s := norm.NFC.String(string(a) + string(b))
	r, n := utf8.DecodeRuneInString(s)
	return r, n == len(s)
}
