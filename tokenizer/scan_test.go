package tokenizer

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

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

// Law: scanGPT2 splits as its pattern does.
func TestScanGPT2(t *testing.T) {
	re := regexp2.MustCompile(`'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+`, 0)
	check := func(s string) {
		t.Helper()
		var want []string
		for m, err := re.FindStringMatch(s); m != nil; m, err = re.FindNextMatch(m) {
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, m.String())
		}
		if got := scanAll(scanGPT2, s); !slices.Equal(got, want) {
			t.Fatalf("%q\n got %q\nwant %q", s, got, want)
		}
	}
	for _, s := range []string{
		"", " ", "\n \n", "a\n \nb", "  a", " \u00a0a", "\u00a0 a", "\u3000!", "'", "''s", "'sis", "'S", " 's", "!'s", "1's",
		"'re're", "'r", "'v ", "'lll", "we're", "don't'", "a1!", " 1a", "½²٣", "e\u0301x", "\u200d\u200da", "\x00\x7f",
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
	chars := append(strings.Split("'''srvetlmd   \n\t\r\v\fAZz019!-_Ġé中あ한ßİǅ½²٣Ⅷ😀", ""),
		"\u0085", "\u00a0", "\u1680", "\u2003", "\u2028", "\u202f", "\u205f", "\u3000", "\u200b", "\u200d", "\ufeff",
		"\u180e", "\u0301", "\ufffd", "\U0010ffff", "\x00", "\x1c", "\x1f")
	for range 10_000 {
		var b strings.Builder
		for range rng.IntN(16) {
			b.WriteString(chars[rng.IntN(len(chars))])
		}
		check(b.String())
	}
}

// Law: a byte that is not UTF-8 is split as U+FFFD is.
func TestScanInvalid(t *testing.T) {
	chars := strings.Split("a1! '\n\xff\xc3\xf0é", "")
	chars = append(chars, "\x80", "\xe2\x82", "\xed\xa0\x80")
	rng := rand.New(rand.NewPCG(3, 4))
	for name, scan := range map[string]scanner{
		"GPT2": scanGPT2, "Digit": scanDigit, "Digits": scanDigits,
		"Whitespace": scanWhitespace, "WhitespaceSplit": scanWhitespaceSplit,
	} {
		for range 2000 {
			var b strings.Builder
			for range rng.IntN(8) {
				b.WriteString(chars[rng.IntN(len(chars))])
			}
			s := b.String()
			got := scanAll(scan, s)
			for i, w := range got {
				got[i] = string([]rune(w))
			}
			if want := scanAll(scan, string([]rune(s))); !slices.Equal(got, want) {
				t.Fatalf("%s: %q\n got %q\nwant %q", name, s, got, want)
			}
		}
	}
}

func TestScanners(t *testing.T) {
	tests := []struct {
		name string
		scan scanner
		in   string
		want []string
	}{
		{"Digit", scanDigit, "ab12 ½x", []string{"ab", "1", "2", " ", "½", "x"}},
		{"Digits", scanDigits, "12ab34", []string{"12", "ab", "34"}},
		{"Whitespace", scanWhitespace, " Hi there_1! ?\u00a0a-b e\u0301", []string{"Hi", "there_1", "!", "?", "a", "-", "b", "e\u0301"}},
		{"WhitespaceSplit", scanWhitespaceSplit, "\t a-b!\u3000c ", []string{"a-b!", "c"}},
	}
	for _, c := range tests {
		if got := scanAll(c.scan, c.in); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q\n got %q\nwant %q", c.name, c.in, got, c.want)
		}
	}
}
