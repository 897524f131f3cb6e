package tokenizer

import (
	"math"
	"strings"
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
	f.Add([]byte(smallPieces), " ab  c<s>é\xff")
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

// Law: FromGGUF does not panic, nor does a Tokenizer it returns.
func FuzzGGUF(f *testing.F) {
	add := func(g *GGUF, flags uint8, text string) {
		var types, scores []byte
		for _, typ := range g.TokenTypes {
			types = append(types, byte(typ))
		}
		for _, score := range g.Scores {
			scores = append(scores, byte(-score))
		}
		f.Add(g.Model, g.Pre, strings.Join(g.Tokens, "\n"), types, scores, strings.Join(g.Merges, "\n"), uint32(1), flags, text)
	}
	add(smallGGUF("gpt2"), 0b110, "ab<s> c\xff")
	add(smallGGUF("llama"), 0b1111, " ab  c<s>日\xff")
	f.Fuzz(func(t *testing.T, model, pre, tokens string, types, scores []byte, merges string, id uint32, flags uint8, text string) {
		g := &GGUF{Model: model, Pre: pre, Tokens: strings.Split(tokens, "\n"), Merges: strings.Split(merges, "\n")}
		for _, typ := range types {
			g.TokenTypes = append(g.TokenTypes, int32(int8(typ)))
		}
		for _, score := range scores {
			g.Scores = append(g.Scores, math.Float32frombits(^uint32(score)<<21)) // all kinds, NaN among them
		}
		flag := func(i int) *bool {
			if flags>>(i+4)&1 == 1 {
				return nil
			}
			return new(flags>>i&1 == 1)
		}
		g.AddBOS, g.AddEOS, g.AddSpacePrefix = flag(0), flag(1), flag(2)
		if flags>>3&1 == 1 {
			g.BOS, g.EOS, g.Unknown = &id, &id, &id
		}
		tok, err := FromGGUF(g)
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
	f.Add(" ▁a\u0301\u0323 \r\n<s>日本 12345's'LL")
	f.Fuzz(func(t *testing.T, text string) {
		for _, g := range readGoldens(t) {
			checkEncode(t, g.made, text)
		}
	})
}
