package tokenizer

import (
	"unicode"
	"unicode/utf8"
)

// A scanner returns the length n > 0 of the first word of s, which is not
// empty, and whether to keep it. It must not depend on what came before s.
type scanner func(s string) (n int, keep bool)

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

// runs returns the scanner that makes each run of characters which are in a
// set a word, and each run of those which are not.
func runs(in func(rune) bool) scanner {
	return func(s string) (int, bool) {
		r, n := utf8.DecodeRuneInString(s)
		first := in(r)
		for n < len(s) {
			r, m := utf8.DecodeRuneInString(s[n:])
			if in(r) != first {
				break
			}
			n += m
		}
		return n, true
	}
}

// scanDigits makes each run of digits, of any script, a word.
var scanDigits = runs(unicode.IsNumber)

// scanDigit makes each digit, of any script, a word.
func scanDigit(s string) (int, bool) {
	c, n := classify(s)
	if c == number {
		return n, true
	}
	for n < len(s) {
		next, m := classify(s[n:])
		if next == number {
			break
		}
		n += m
	}
	return n, true
}

// scanPunctuation makes each run of [\p{P}$+<=>^~|] a word.
var scanPunctuation = runs(func(r rune) bool {
	switch r {
	case '$', '+', '<', '=', '>', '^', '~', '|':
		return true
	}
	return unicode.IsPunct(r)
})

// scanThreeDigits makes each three digits of ASCII a word.
func scanThreeDigits(s string) (int, bool) {
	digits := 0
	for n := range len(s) {
		if s[n] < '0' || '9' < s[n] {
			digits = 0
			continue
		}
		if digits++; digits == 3 {
			if n == 2 {
				return 3, true
			}
			return n - 2, true
		}
	}
	return len(s), true
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

// scanBefore returns the scanner that begins a word at each mark, as Metaspace
// does.
func scanBefore(mark string) scanner {
	return func(s string) (int, bool) {
		n := 0
		for n < len(s) {
			_, m := utf8.DecodeRuneInString(s[n:])
			if n > 0 && s[n:n+m] == mark {
				break
			}
			n += m
		}
		return n, true
	}
}
