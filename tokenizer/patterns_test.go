package tokenizer

import (
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"unicode"

	"github.com/dlclark/regexp2"
)

func scanAll(scan scanner, s string) []string {
	var words []string
	for len(s) > 0 {
		n, keep := scan(s)
		if keep {
			words = append(words, s[:n])
		}
		s = s[n:]
	}
	return words
}

// matchAll returns the matches of re in s.
func matchAll(t *testing.T, re *regexp2.Regexp, s string) []string {
	t.Helper()
	var words []string
	m, err := re.FindStringMatch(s)
	for ; m != nil && err == nil; m, err = re.FindNextMatch(m) {
		words = append(words, m.String())
	}
	if err != nil {
		t.Fatal(err)
	}
	return words
}

// compilePattern returns a pattern as regexp2 has it. To it, unlike to
// Oniguruma, which the Hugging Face library uses, ſ is not an s in any case.
func compilePattern(pattern string) *regexp2.Regexp {
	return regexp2.MustCompile(strings.Replace(pattern, `(?i:'s|`, `(?i:'s|'ſ|`, 1), regexp2.None)
}

// strange has characters of every kind that a pattern tells apart, and some that
// look like them.
var strange = append(strings.Split("'''srvetlmdSRVETLMDſK   \n\n\r\r\t\v\fAZaz019!-_/Ġ中あ한ßİǅ½²٣Ⅷ😀", ""),
	"\r\n", " \n", "\n ", "'s", "'LL", "'Re", "n't", "   ", "123456", "\u0085", "\u00a0", "\u1680", "\u2003", "\u2028",
	"\u202f", "\u205f", "\u3000", "\u200b", "\u200d", "\ufeff", "\u180e", "\u0301", "\ufffd", "\U0010ffff", "\x00", "\x1c",
	"\x1f", "\xff", "\xc3", "\xf0\x9f", "\x80", "\xed\xa0\x80", "\xe2\x82")

// everyCategory has characters of every category of Unicode.
var everyCategory = func() []string {
	var chars []string
	rng := rand.New(rand.NewPCG(5, 6))
	for _, name := range slices.Sorted(func(yield func(string) bool) {
		for name := range unicode.Categories {
			if len(name) == 2 && !yield(name) {
				return
			}
		}
	}) {
		var all []rune
		for _, r := range unicode.Categories[name].R16 {
			for c := rune(r.Lo); c <= rune(r.Hi); c += rune(r.Stride) {
				all = append(all, c)
			}
		}
		for _, r := range unicode.Categories[name].R32 {
			for c := rune(r.Lo); c <= rune(r.Hi); c += rune(r.Stride) {
				all = append(all, c)
			}
		}
		for range 12 {
			chars = append(chars, string(all[rng.IntN(len(all))]))
		}
	}
	return chars
}()

// Law: a scanner splits as its pattern does; a byte that is not UTF-8 is split
// as U+FFFD is. ANCHOR_LONG=1 tries a million strings.
func TestPatterns(t *testing.T) {
	count := 10_000
	switch {
	case os.Getenv("ANCHOR_LONG") != "":
		count = 1_000_000
	case testing.Short():
		count = 2_000
	}
	for pattern, scan := range patterns {
		t.Run(pattern, func(t *testing.T) {
			t.Parallel()
			re := compilePattern(pattern)
			check := func(s string) {
				t.Helper()
				got := scanAll(scan, s)
				for i, w := range got {
					got[i] = string([]rune(w))
				}
				if want := matchAll(t, re, string([]rune(s))); !slices.Equal(got, want) {
					t.Fatalf("%q\n got %q\nwant %q", s, got, want)
				}
			}
			for _, s := range []string{
				"", " ", "\n \n", "a\n \nb", "  a", " \u00a0a", "\u00a0 a", "\u3000!", "'", "''s", "'sis", "'S", " 's", "!'s", "1's",
				"'re're", "'r", "'v ", "'lll", "we're", "don't'", "a1!", " 1a", "½²٣", "e\u0301x", "\u200d\u200da", "\x00\x7f",
				"'ſ", "'ſt", "'", "'L", "'lL", "!a", "\ra", "\n1", "!\r\n\r\na", " !\n!", "\r\n  \r\n  a", " \n\t", "12345", "1234 5",
				"\t\ta", "\u0301a", "-\u0301a", "a\u00a0b", "\u2028\n ", "' s", "'\u212a",
				"aB", "AB", "ABc", "AあB", "AあBc", "\u0301", "\u0301A", " \u0301", "\u0301\u0301!", "ǅa", "!/\n/a", " A", " AB\u0301C",
			} {
				check(s)
			}
			// All short strings of one character of each kind.
			kinds := []string{"a", "s", "1", "!", "'", " ", "\n", "\u00a0", "\u0301"}
			var all func(prefix string, n int)
			all = func(prefix string, n int) {
				check(prefix)
				for _, k := range kinds {
					if n > 0 {
						all(prefix+k, n-1)
					}
				}
			}
			all("", 4)
			// Longer ones at random.
			rng := rand.New(rand.NewPCG(1, 2))
			for range count {
				var b strings.Builder
				for range rng.IntN(16) {
					switch n := rng.IntN(64); {
					case n == 0:
						b.WriteRune(rng.Int32N(unicode.MaxRune + 1))
					case n < 16:
						b.WriteString(everyCategory[rng.IntN(len(everyCategory))])
					default:
						b.WriteString(strange[rng.IntN(len(strange))])
					}
				}
				check(b.String())
			}
		})
	}
}

// Law: scanners of runs split as their patterns do, the text in between being
// words, too.
func TestRuns(t *testing.T) {
	tests := []struct {
		name    string
		scan    scanner
		pattern string
	}{
		{"digit", scanDigit, `\p{N}|\P{N}+`},
		{"digits", scanDigits, `\p{N}+|\P{N}+`},
		{"punctuation", scanPunctuation, `[\p{P}\$\+<=>\^~\|]+|[^\p{P}\$\+<=>\^~\|]+`},
		{"threeDigits", scanThreeDigits, `[0-9][0-9][0-9]|(?:(?![0-9][0-9][0-9])[\s\S])+`},
		{"before", scanBefore("▁"), `[\s\S][^▁]*`},
	}
	rng := rand.New(rand.NewPCG(7, 8))
	chars := append(slices.Concat(strange, everyCategory), "1", "2", "12", "1", "▁", "▁", "$", "~")
	for _, c := range tests {
		re := regexp2.MustCompile(c.pattern, regexp2.None)
		for range 3000 {
			var b strings.Builder
			for range rng.IntN(12) {
				b.WriteString(chars[rng.IntN(len(chars))])
			}
			s := string([]rune(b.String()))
			if got, want := scanAll(c.scan, s), matchAll(t, re, s); !slices.Equal(got, want) {
				t.Fatalf("%s: %q\n got %q\nwant %q", c.name, s, got, want)
			}
		}
	}
}
