package tokenizer

import (
	"strings"
	"testing"
	"unicode/utf8"

	"golang.org/x/text/unicode/norm"
	"pgregory.net/rapid"
)

// combiningText generates text in which much is composed or decomposed.
var combiningText = rapid.Custom(func(t *rapid.T) string {
	parts := rapid.SliceOf(rapid.OneOf(
		rapid.SampledFrom([]string{
			"a", "e", "o", "u", "A", "é", "ậ", "Å", "\u212b", "\u2126", "\u0301", "\u0302", "\u0323", "\u0327", "\u0308", "\u0344",
			"\u1100", "\u1161", "\u11a8", "각", "가", "\u0b92", "\u0bd7", "\u09c7", "\u09be", "\u0958", "\u0f71\u0f72", "\u1e9b\u0323",
			"\U0001d15e", "\ufb1d", "\u0340", "\u3099", "か", "が", "\u0338", "=", "<", "\xff", "\xc3", " ",
		}),
		rapid.StringN(1, 3, -1),
	)).Draw(t, "parts")
	return strings.Join(parts, "")
})

// Law: what is composed is NFC, and each part of the result stands for the part
// of the text that composes to it.
func TestCompose(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		text := combiningText.Draw(t, "text")
		got := compose(segment{text: text, at: 3})
		if want := norm.NFC.String(text); got.text != want && !strings.Contains(want, "\u034f") {
			t.Fatalf("%+q: got %+q, want %+q", text, got.text, want)
		}
		for i := 0; i < len(got.text); {
			end := i + 1
			for o := got.offset(i, i+1); end < len(got.text) && got.offset(end, end+1) == o; {
				end++
			}
			o := got.offset(i, end)
			if part := text[o.Start-3 : o.End-3]; compose(segment{text: part}).text != got.text[i:end] {
				t.Fatalf("%+q: %+q stands for %+q", text, got.text[i:end], part)
			}
			i = end
		}
	})
}

// Law: more combining characters than Unicode's stream-safe text may have stay as
// they are, in their order.
func TestComposeLong(t *testing.T) {
	for _, c := range []struct{ text, want string }{
		{"a" + strings.Repeat("\u0301", 100), "á" + strings.Repeat("\u0301", 99)},
		{"a" + strings.Repeat("\u0301\u0323", 50), "ạ" + strings.Repeat("\u0323", 49) + strings.Repeat("\u0301", 50)},
		{"á" + strings.Repeat("\u0301", 99), "á" + strings.Repeat("\u0301", 99)},
	} {
		if got := compose(segment{text: c.text}).text; got != c.want {
			t.Errorf("%+q: got %+q, want %+q", c.text, got, c.want)
		}
	}
	long := "a" + strings.Repeat("\u0323\u0301", 1<<17) // would not end in time O(n²)
	if got := compose(segment{text: long}).text; utf8.RuneCountInString(got) != 1<<18 {
		t.Errorf("%d characters of %d", utf8.RuneCountInString(got), 1<<18+1)
	}
}

// Law: each byte of a rewritten segment stands for the text it came from,
// through any number of rewritings.
func TestRewrite(t *testing.T) {
	s := segment{text: "a b É", at: 10}
	s = lower(s)
	s = prepending("▁")(s)
	s = replacing(" ", "▁")(s)
	want := []struct {
		text string
		o    Offset
	}{{"▁", Offset{10, 11}}, {"a", Offset{10, 11}}, {"▁", Offset{11, 12}}, {"b", Offset{12, 13}}, {"▁", Offset{13, 14}}, {"é", Offset{14, 16}}}
	at := 0
	for _, w := range want {
		end := at + len(w.text)
		if end > len(s.text) || s.text[at:end] != w.text || s.offset(at, end) != w.o {
			t.Fatalf("%q at %d: got %v, want %q at %v", s.text, at, s.offset(at, end), w.text, w.o)
		}
		at = end
	}
	if at != len(s.text) {
		t.Errorf("%q is too long", s.text)
	}
	for _, c := range []struct{ text, old, new, want string }{
		{"", "a", "b", ""}, {"aaa", "aa", "b", "ba"}, {"aaaa", "aa", "", ""}, {"x", "aa", "b", "x"}, {"a", "a", "aa", "aa"},
	} {
		if got := (segment{text: c.text}).replace(c.old, c.new).text; got != c.want {
			t.Errorf("%q with %q for %q: got %q, want %q", c.text, c.new, c.old, got, c.want)
		}
	}
}
