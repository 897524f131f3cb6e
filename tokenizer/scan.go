package tokenizer

import (
	"unicode"
	"unicode/utf8"
)

// A preTokenizer is one step of splitting text into words.
type preTokenizer struct {
	prefixSpace bool    // put a space before text that does not begin with one
	scan        scanner // nil: do not split
}

// A scanner returns the length n > 0 of the first word of s, which is not
// empty, and whether to keep it. It must not depend on what came before s.
type scanner func(s string) (n int, keep bool)

// scanGPT2 splits by the pattern of the ByteLevel pre-tokenizer:
//
//	's|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+
func scanGPT2(s string) (int, bool) {
	if n := contraction(s); n > 0 {
		return n, true
	}
	c, n := classify(s)
	if s[0] == ' ' && len(s) > 1 {
		if after, m := classify(s[1:]); after != space {
			c, n = after, 1+m
		}
	}
	last := 0 // length of the last character
	for n < len(s) {
		next, m := classify(s[n:])
		if next != c {
			// Leave the last of several spaces to the word that follows.
			if c == space && last > 0 {
				n -= last
			}
			break
		}
		n, last = n+m, m
	}
	return n, true
}

// contraction returns the length of the English contraction at the beginning
// of s, or 0.
func contraction(s string) int {
	if s[0] != '\'' || len(s) < 2 {
		return 0
	}
	switch s[1] {
	case 's', 't', 'm', 'd':
		return 2
	}
	if len(s) >= 3 {
		switch s[1:3] {
		case "re", "ve", "ll":
			return 3
		}
	}
	return 0
}

// A class is one of the kinds of characters that patterns tell apart. They are
// those of Unicode 15, the version of package unicode: characters added to
// Unicode since then are symbols here.
type class uint8

const (
	other  class = iota // [^\s\p{L}\p{N}], and bytes that are not UTF-8
	letter              // \p{L}
	number              // \p{N}
	space               // \s
)

// asciiClass has the classes of ASCII.
var asciiClass = func() (table [utf8.RuneSelf]class) {
	for r := range table {
		table[r] = classOf(rune(r))
	}
	return table
}()

func classOf(r rune) class {
	switch {
	case unicode.IsLetter(r):
		return letter
	case unicode.IsNumber(r):
		return number
	case unicode.IsSpace(r):
		return space
	}
	return other
}

// classify returns the class and length of the first character of s.
func classify(s string) (class, int) {
	if s[0] < utf8.RuneSelf {
		return asciiClass[s[0]], 1
	}
	r, n := utf8.DecodeRuneInString(s)
	return classOf(r), n
}

// scanDigit makes each digit, of any script, a word.
func scanDigit(s string) (int, bool) {
	c, n := classify(s)
	if c == number {
		return n, true
	}
	return scanDigits(s)
}

// scanDigits makes each run of digits, of any script, a word.
func scanDigits(s string) (int, bool) {
	c, n := classify(s)
	for n < len(s) {
		next, m := classify(s[n:])
		if (next == number) != (c == number) {
			break
		}
		n += m
	}
	return n, true
}

// scanWhitespace splits by the pattern \w+|[^\w\s]+ and drops white space.
func scanWhitespace(s string) (int, bool) {
	const word = space + 1 // \w, which is of several classes
	kind := func(s string) (class, int) {
		r, n := utf8.DecodeRuneInString(s)
		switch {
		case isWord(r):
			return word, n
		case unicode.IsSpace(r):
			return space, n
		}
		return other, n
	}
	c, n := kind(s)
	for n < len(s) {
		next, m := kind(s[n:])
		if next != c {
			break
		}
		n += m
	}
	return n, c != space
}

// isWord reports whether r matches \w.
func isWord(r rune) bool {
	if r < utf8.RuneSelf {
		return r == '_' || '0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z'
	}
	const zwnj, zwj = 0x200C, 0x200D
	return r == zwnj || r == zwj || unicode.In(r, unicode.L, unicode.M, unicode.Nd, unicode.Nl,
		unicode.Pc, unicode.Other_Alphabetic)
}

// scanWhitespaceSplit splits at white space, which it drops.
func scanWhitespaceSplit(s string) (int, bool) {
	c, n := classify(s)
	for n < len(s) {
		next, m := classify(s[n:])
		if (next == space) != (c == space) {
			break
		}
		n += m
	}
	return n, c != space
}
