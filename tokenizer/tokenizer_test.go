package tokenizer

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// texts generates text of g and tricky parts, without the characters that the
// tokenizer lacks a byte of.
func texts(tok *Tokenizer, g *rapid.Generator[string]) *rapid.Generator[string] {
	return rapid.Custom(func(t *rapid.T) string {
		parts := rapid.SliceOf(rapid.OneOf(g, rapid.SampledFrom([]string{
			" ", "  ", "\n", "\r\n", "the ", "'ll", "12", "<|im_end|>", "<|im_", "<repo_name>", "é", "😀", "e\u0301",
		}))).Draw(t, "parts")
		var b strings.Builder
		for _, r := range strings.Join(parts, "") {
			known := true
			for _, c := range []byte(string(r)) {
				known = known && tok.model.(*bpe).bytes[c] >= 0
			}
			if known {
				b.WriteRune(r)
			}
		}
		return b.String()
	})
}

// Law: in a byte-level tokenizer, decoding gives the text back, and the offsets
// tile it: each token is the text at its offset.
func TestRoundTrip(t *testing.T) {
	tok := smolLM2(t)
	rapid.Check(t, func(t *rapid.T) {
		text := texts(tok, rapid.String()).Draw(t, "text")
		enc := tok.Encode(text, true)
		if got := tok.Decode(enc.IDs, false); got != text {
			t.Fatalf("decoded %q, want %q", got, text)
		}
		if len(enc.Offsets) != len(enc.IDs) {
			t.Fatalf("%d offsets of %d tokens", len(enc.Offsets), len(enc.IDs))
		}
		at := 0
		for i, o := range enc.Offsets {
			if o.Start != at || o.End <= o.Start || text[o.Start:o.End] != tok.tokens[enc.IDs[i]].text {
				t.Fatalf("offset %v, after %d, of token %q", o, at, tok.tokens[enc.IDs[i]].text)
			}
			at = o.End
		}
		if at != len(text) {
			t.Fatalf("the tokens end at %d of %d", at, len(text))
		}
	})
}

// Law: an added token cuts the text: what is around it is encoded as if alone.
func TestAddedTokenCuts(t *testing.T) {
	tok := smolLM2(t)
	id, ok := tok.ID("<|im_end|>")
	if !ok {
		t.Fatal("no <|im_end|>")
	}
	noAngle := func(s string) bool { return !strings.Contains(s, "<") }
	rapid.Check(t, func(t *rapid.T) {
		before := rapid.String().Filter(noAngle).Draw(t, "before")
		after := rapid.String().Filter(noAngle).Draw(t, "after")
		got := tok.Encode(before+"<|im_end|>"+after, false).IDs
		want := append(tok.Encode(before, false).IDs, id)
		want = append(want, tok.Encode(after, false).IDs...)
		if !slices.Equal(got, want) {
			t.Fatalf("got %v, want %v", got, want)
		}
	})
}

// Law: what a Stream gives, put together, is what Decode gives; no part ends
// inside a character.
func TestStream(t *testing.T) {
	for _, name := range []string{"smollm2", "llama2", "llama2_added", "mistral3", "metaspace", "wordlevel"} {
		tok := readGoldens(t)[name].made
		t.Run(name, rapid.MakeCheck(func(t *rapid.T) {
			ids := rapid.SliceOf(rapid.OneOf(
				rapid.Int32Range(-2, 600), rapid.Int32Range(0, int32(tok.VocabSize())+10), rapid.Int32(),
			)).Draw(t, "ids")
			skip := rapid.Bool().Draw(t, "skip")
			want := tok.Decode(ids, skip)
			s := tok.NewStream(skip)
			for range 2 { // after Flush, it can be used again
				var got strings.Builder
				for _, id := range ids {
					part := s.Put(id)
					if !utf8.ValidString(part) {
						t.Fatalf("Put(%d) = %q", id, part)
					}
					got.WriteString(part)
				}
				got.WriteString(s.Flush())
				if got.String() != want {
					t.Fatalf("got %q, want %q", got.String(), want)
				}
			}
		}))
	}
}

// Law: the space that SentencePiece puts before a text is not part of what is
// decoded, wherever the first characters come from; the bytes that a character
// falls back to are held back until it is complete.
func TestStreamPieces(t *testing.T) {
	tok := readGoldens(t)["llama2"].made
	id := func(token string) int32 {
		id, ok := tok.ID(token)
		if !ok {
			t.Fatalf("no token %q", token)
		}
		return id
	}
	tests := []struct {
		tokens []string
		want   []string // by token
		flush  string
	}{
		{[]string{"▁", "a", "▁", "a"}, []string{"", "a", " ", "a"}, ""},
		{[]string{"▁", "▁", "a"}, []string{"", " ", "a"}, ""},
		{[]string{"<s>", "▁", "a"}, []string{"", "", "a"}, ""},
		{[]string{"<0x20>", "▁"}, []string{"", " "}, ""},
		{[]string{"<0xE6>", "<0x97>", "<0xA5>", "a"}, []string{"", "", "日", "a"}, ""},
		{[]string{"▁", "<0xE6>", "<0x97>"}, []string{"", "", ""}, "\uFFFD"},
		{[]string{"<0xE6>", "a"}, []string{"", "\uFFFDa"}, ""},
		{[]string{"<0xE6>", "<0xE6>", "<0x97>", "<0xA5>"}, []string{"", "\uFFFD", "", "日"}, ""},
		{[]string{"<0xA5>", "a"}, []string{"\uFFFD", "a"}, ""},
	}
	for _, c := range tests {
		s := tok.NewStream(true)
		for range 2 {
			for i, token := range c.tokens {
				if got := s.Put(id(token)); got != c.want[i] {
					t.Errorf("%q: Put %d gave %q, want %q", c.tokens, i, got, c.want[i])
				}
			}
			if got := s.Flush(); got != c.flush {
				t.Errorf("%q: Flush gave %q, want %q", c.tokens, got, c.flush)
			}
		}
	}
}

// Law: a special token is left out also where it is found in, and decodes to,
// normalized text.
func TestNormalizedSpecial(t *testing.T) {
	file := strings.Replace(smallBPE, `"normalizer": null`, `"normalizer": {"type":"Prepend","prepend":"b"}`, 1)
	tok, err := Parse([]byte(strings.Replace(file, `"normalized":false`, `"normalized":true`, 1)))
	if err != nil {
		t.Fatal(err)
	}
	ids := tok.Encode("<s>a", false).IDs
	if want := []int32{3, 0}; !slices.Equal(ids, want) {
		t.Errorf("Encode = %v, want %v", ids, want)
	}
	if got, skipped := tok.Decode(ids, false), tok.Decode(ids, true); got != "b<s>a" || skipped != "a" {
		t.Errorf("Decode = %q and, without special tokens, %q", got, skipped)
	}
}

func TestStreamHoldsBack(t *testing.T) {
	tok := smolLM2(t)
	ids := tok.Encode("a😀b", false).IDs
	var got []string
	s := tok.NewStream(true)
	for _, id := range ids {
		got = append(got, s.Put(id))
	}
	if want := []string{"a", "", "", "😀", "b"}; !slices.Equal(got, want) || s.Flush() != "" {
		t.Errorf("got %q, want %q", got, want)
	}
	s.Put(ids[1])
	if got := s.Flush(); got != "\uFFFD" {
		t.Errorf("Flush in a character = %q, want U+FFFD", got)
	}
}

// Law: each ill-formed sequence becomes one U+FFFD, as Unicode recommends
// (section 3.9, "U+FFFD Substitution of Maximal Subparts").
func TestWriteValid(t *testing.T) {
	tests := []struct{ in, want, rest string }{
		{"aé😀", "aé😀", ""},
		{"\xff\xff", "\uFFFD\uFFFD", ""},
		{"\xc0\x80", "\uFFFD\uFFFD", ""},
		{"\xe2\x82x", "\uFFFDx", ""},
		{"\xf0\x9f\x98x", "\uFFFDx", ""},
		{"\xf0\x9f\xf0\x9f\x98\x80", "\uFFFD😀", ""},
		{"\xed\xa0\x80", "\uFFFD\uFFFD\uFFFD", ""},
		{"\xf4\x90\x80\x80", "\uFFFD\uFFFD\uFFFD\uFFFD", ""},
		{"\xe2\x82", "", "\xe2\x82"},
		{"a\xf0\x9f\x98", "a", "\xf0\x9f\x98"},
		{"\xef\xbf\xbd", "\uFFFD", ""},
	}
	for _, c := range tests {
		var out strings.Builder
		rest := writeValid(&out, []byte(c.in))
		if out.String() != c.want || string(rest) != c.rest {
			t.Errorf("%q: got %q and %q, want %q and %q", c.in, out.String(), rest, c.want, c.rest)
		}
	}
}

// Law: bytes that are not UTF-8 become the tokens of those bytes.
func TestEncodeInvalid(t *testing.T) {
	tok := smolLM2(t)
	for _, text := range []string{"\x80", "a\xe2\x82 b", "\xf0\x9f\x98", "é\xc3", "\xed\xa0\x80"} {
		got := ""
		for i, o := range tok.Encode(text, false).Offsets {
			id := tok.Encode(text, false).IDs[i]
			if text[o.Start:o.End] != tok.tokens[id].text {
				t.Errorf("%q: token %q at %v", text, tok.tokens[id].text, o)
			}
			got += tok.tokens[id].text
		}
		if got != text {
			t.Errorf("got %q, want %q", got, text)
		}
	}
}

func TestLookup(t *testing.T) {
	tok := smolLM2(t)
	if got := tok.VocabSize(); got != 49152 {
		t.Errorf("VocabSize = %d, want 49152", got)
	}
	for id := range int32(tok.VocabSize()) {
		token, ok := tok.Token(id)
		if back, ok2 := tok.ID(token); !ok || !ok2 || back != id {
			t.Fatalf("Token(%d) = %q, %v; ID of it = %d, %v", id, token, ok, back, ok2)
		}
	}
	for _, id := range []int32{-1, 49152, 1<<31 - 1, -1 << 31} {
		if token, ok := tok.Token(id); ok || token != "" {
			t.Errorf("Token(%d) = %q, %v", id, token, ok)
		}
		if got := tok.Decode([]int32{id}, false); got != "" {
			t.Errorf("Decode(%d) = %q", id, got)
		}
	}
	if _, ok := tok.ID("no such token"); ok {
		t.Error("ID of an unknown token")
	}
}

// Law: a Tokenizer is safe for concurrent use.
func TestConcurrent(t *testing.T) {
	tok := smolLM2(t)
	text := prose(t)
	want := tok.Encode(text, false).IDs
	var wg sync.WaitGroup
	for i := range 4 {
		wg.Go(func() {
			for j := range 10 {
				tok.Encode(fmt.Sprintf("%d-%d", i, j), false)
				if !slices.Equal(tok.Encode(text, false).IDs, want) {
					t.Error("the ids differ")
				}
			}
		})
	}
	wg.Wait()
}

func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "tokenizer.json")
	if _, err := Load(path); !os.IsNotExist(err) {
		t.Errorf("Load of no file: %v", err)
	}
	if err := os.WriteFile(path, []byte(`{"version":"1.0"}`), 0o666); err != nil {
		t.Fatal(err)
	}
	if _, err := Load(path); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("Load of a bad file: %v, want the path in it", err)
	}
	if err := os.WriteFile(path, []byte(smallBPE), 0o666); err != nil {
		t.Fatal(err)
	}
	tok, err := Load(path)
	if err != nil {
		t.Fatal(err)
	}
	if got, want := tok.Encode("abb", false).IDs, []int32{2, 1}; !slices.Equal(got, want) {
		t.Errorf("Encode = %v, want %v", got, want)
	}
}
