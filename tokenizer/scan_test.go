package tokenizer

import (
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// Law: a byte that is not UTF-8 is split as U+FFFD is.
func TestScanInvalid(t *testing.T) {
	chars := strings.Split("a1! '\n\xff\xc3\xf0é", "")
	chars = append(chars, "\x80", "\xe2\x82", "\xed\xa0\x80")
	rng := rand.New(rand.NewPCG(3, 4))
	for name, scan := range map[string]scanner{
		"Digit": scanDigit, "Digits": scanDigits, "Punctuation": scanPunctuation, "ThreeDigits": scanThreeDigits,
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
