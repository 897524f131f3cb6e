package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// Patterns that published files split text by. They are regular expressions
// with lookahead, which package regexp does not have; each has a scanner of its
// own here.
const (
	patternGPT2   = `'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`
	patternLlama3 = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	patternQwen2  = `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+`
	patternTekken = `[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+`
)

// patterns has the scanner of each pattern. All of them match any text whole.
var patterns = map[string]scanner{
	patternGPT2:   scanGPT2,
	patternLlama3: scanLlama3,
	patternQwen2:  scanQwen2,
	patternTekken: scanTekken,
}

// scanGPT2 splits by patternGPT2, that of the ByteLevel pre-tokenizer.
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
	if c == space {
		return spaces(s), true
	}
	return n + run(s[n:], c), true
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

// scanLlama3 splits by patternLlama3.
func scanLlama3(s string) (int, bool) { return scanCased(s, 3), true }

// scanQwen2 splits by patternQwen2.
func scanQwen2(s string) (int, bool) { return scanCased(s, 1), true }

// scanCased splits by patternLlama3 or patternQwen2, which differ in how many
// digits are a word.
func scanCased(s string, digits int) int {
	if n := contractionAnyCase(s); n > 0 {
		return n
	}
	c, n := classify(s)
	switch c {
	case letter:
		return n + run(s[n:], letter)
	case number:
		for range digits - 1 {
			if n == len(s) {
				break
			}
			next, m := classify(s[n:])
			if next != number {
				break
			}
			n += m
		}
		return n
	}
	if n < len(s) && s[0] != '\r' && s[0] != '\n' {
		if next, m := classify(s[n:]); next == letter {
			return n + m + run(s[n+m:], letter)
		}
	}
	return symbolsOrSpaces(s, "\r\n")
}

// symbolsOrSpaces returns the length of the first word of s, which begins with
// neither letter nor number, of a pattern that ends with
//
//	?[^\s\p{L}\p{N}]+[after]*|\s*[\r\n]+|\s+(?!\S)|\s+
func symbolsOrSpaces(s, after string) int {
	c, n := classify(s)
	if s[0] == ' ' && n < len(s) {
		if next, m := classify(s[n:]); next == other {
			c, n = other, n+m
		}
	}
	if c == other {
		n += run(s[n:], other)
		for n < len(s) && strings.IndexByte(after, s[n]) >= 0 {
			n++
		}
		return n
	}
	// Of white space, take all up to the last end of line.
	all := n + run(s[n:], space)
	if i := strings.LastIndexAny(s[:all], "\r\n"); i >= 0 {
		return i + 1
	}
	return spaces(s)
}

// contractionAnyCase is like contraction for contractions in any case.
func contractionAnyCase(s string) int {
	if s[0] != '\'' || len(s) < 2 {
		return 0
	}
	const long = "ſ" // which is an s to one who ignores case
	if len(s) > len(long) && s[1:1+len(long)] == long {
		return 1 + len(long)
	}
	switch s[1] | 0x20 {
	case 's', 't', 'm', 'd':
		return 2
	}
	if len(s) >= 3 {
		switch string([]byte{s[1] | 0x20, s[2] | 0x20}) {
		case "re", "ve", "ll":
			return 3
		}
	}
	return 0
}

// scanTekken splits by patternTekken, that of Mistral's later models.
func scanTekken(s string) (int, bool) {
	c, n := classify(s)
	// One character may be before the letters; but marks are letters, too, should
	// there be no other.
	before := 0
	if c != letter && c != number && s[0] != '\r' && s[0] != '\n' {
		before = n
	}
	for _, match := range []func(string) int{upperLower, upper} {
		if m := match(s[before:]); m > 0 {
			return before + m, true
		}
		if m := match(s); m > 0 {
			return m, true
		}
	}
	if c == number {
		return n, true
	}
	return symbolsOrSpaces(s, "\r\n/"), true
}

// upperLower returns the length of the match of upper* lower+ that s begins
// with, where letters without case and marks are of both.
func upperLower(s string) int {
	n, both := 0, 0 // both is the end of the last character that is of both
	for n < len(s) {
		u, l, m := cases(s[n:])
		if !u {
			break
		}
		n += m
		if l {
			both = n
		}
	}
	last := n
	for n < len(s) {
		_, l, m := cases(s[n:])
		if !l {
			break
		}
		n += m
	}
	if n > last {
		return n
	}
	return both
}

// upper returns the length of the run of upper that s begins with.
func upper(s string) int {
	n := 0
	for n < len(s) {
		u, _, m := cases(s[n:])
		if !u {
			break
		}
		n += m
	}
	return n
}

// cases reports whether the first character of s is of [\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]
// and of [\p{Ll}\p{Lm}\p{Lo}\p{M}], and its length.
func cases(s string) (upper, lower bool, n int) {
	if c := s[0]; c < utf8.RuneSelf {
		return 'A' <= c && c <= 'Z', 'a' <= c && c <= 'z', 1
	}
	r, n := utf8.DecodeRuneInString(s)
	switch {
	case unicode.In(r, unicode.Lu, unicode.Lt):
		return true, false, n
	case unicode.Is(unicode.Ll, r):
		return false, true, n
	}
	both := unicode.In(r, unicode.Lm, unicode.Lo, unicode.M)
	return both, both, n
}

// run returns the length of the run of characters of class c that s begins
// with.
func run(s string, c class) int {
	n := 0
	for n < len(s) {
		next, m := classify(s[n:])
		if next != c {
			break
		}
		n += m
	}
	return n
}

// spaces returns the length of the first word of s, which begins with white
// space: all of it, but for the last of several characters if a word follows,
// to which it is left: \s+(?!\S)|\s+.
func spaces(s string) int {
	n := run(s, space)
	if n == len(s) {
		return n
	}
	if _, last := utf8.DecodeLastRuneInString(s[:n]); last < n {
		return n - last
	}
	return n
}
