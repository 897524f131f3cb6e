package tokenizer

import (
	"strings"
	"testing"
)

func BenchmarkEncode(b *testing.B) {
	texts := []struct{ name, text string }{
		{"prose", prose(b)},
		{"long-word", strings.Repeat("a", 1<<20)},
	}
	for _, c := range texts {
		b.Run(c.name, func(b *testing.B) {
			tok := smolLM2(b)
			b.SetBytes(int64(len(c.text)))
			b.ReportAllocs()
			for b.Loop() {
				tok.Encode(c.text, false)
			}
		})
	}
	// No word was seen before.
	b.Run("prose-uncached", func(b *testing.B) {
		tok := smolLM2(b)
		model := tok.model.(*bpe)
		text := prose(b)
		b.SetBytes(int64(len(text)))
		b.ReportAllocs()
		for b.Loop() {
			b.StopTimer()
			for i := range model.cache {
				model.cache[i].Store(nil)
			}
			b.StartTimer()
			tok.Encode(text, false)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	tok := smolLM2(b)
	text := prose(b)
	ids := tok.Encode(text, false).IDs
	b.SetBytes(int64(len(text)))
	b.ReportAllocs()
	for b.Loop() {
		tok.Decode(ids, true)
	}
}

func BenchmarkParse(b *testing.B) {
	data, err := readSmolLM2()
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Parse(data); err != nil {
			b.Fatal(err)
		}
	}
}
