package tokenizer

import (
	"testing"
	"unicode/utf8"
)

// checkEncode checks what holds for any text and tokenizer.
func checkEncode(t *testing.T, tok *Tokenizer, text string) {
	t.Helper()
	for _, special := range []bool{false, true} {
		enc := tok.Encode(text, special)
		if len(enc.IDs) != len(enc.Offsets) {
			t.Fatalf("%q: %d ids, %d offsets", text, len(enc.IDs), len(enc.Offsets))
		}
		for i, o := range enc.Offsets {
			if o.Start < 0 || o.End < o.Start || o.End > len(text) {
				t.Fatalf("%q: offset %v", text, o)
			}
			if _, ok := tok.Token(enc.IDs[i]); !ok {
				t.Fatalf("%q: id %d without a token", text, enc.IDs[i])
			}
		}
		for _, skip := range []bool{false, true} {
			got := ""
			s := tok.NewStream(skip)
			for _, id := range enc.IDs {
				got += s.Put(id)
			}
			got += s.Flush()
			if want := tok.Decode(enc.IDs, skip); got != want || !utf8.ValidString(got) {
				t.Fatalf("%q: streamed %q, decoded %q", text, got, want)
			}
		}
	}
}

// Law: Parse does not panic, nor does a Tokenizer it returns.
func FuzzParse(f *testing.F) {
	f.Add([]byte(smallBPE), "ab<s> c\xff")
	f.Add([]byte(smallWordLevel), "a b")
	f.Fuzz(func(t *testing.T, data []byte, text string) {
		tok, err := Parse(data)
		if (tok == nil) != (err != nil) {
			t.Fatal(tok, err)
		}
		if err == nil {
			checkEncode(t, tok, text)
			checkEncode(t, tok, "Hello <s>  ab\n\n12 é\u0301İ")
		}
	})
}

func FuzzEncode(f *testing.F) {
	f.Add("Hello, world!\n \n")
	f.Add("<|im_end|> \xf0\x9f\x98")
	f.Fuzz(func(t *testing.T, text string) {
		checkEncode(t, smolLM2(t), text)
	})
}
