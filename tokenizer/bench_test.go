package tokenizer

import (
	"strings"
	"testing"

	"github.com/anchorattention/anchor/internal/book"
)

// Of all kinds: a book; its first time, when no word was seen before; and a word
// without end.
func BenchmarkEncode(b *testing.B) {
	for _, name := range []string{"smollm2", "gpt2", "llama3", "qwen2", "llama2", "mistral3", "metaspace"} {
		tok := readGoldens(b)[name].made
		encode := func(kind, text string, before func()) {
			b.Run(name+"/"+kind, func(b *testing.B) {
				b.SetBytes(int64(len(text)))
				b.ReportAllocs()
				for b.Loop() {
					b.StopTimer()
					before()
					b.StartTimer()
					tok.Encode(text, false)
				}
			})
		}
		encode("book", book.Text(), func() {})
		encode("uncached", book.Text(), func() {
			cache := &tok.model.(*bpe).cache
			for i := range cache {
				cache[i].Store(nil)
			}
		})
		encode("long-word", strings.Repeat("a", 1<<20), func() {})
	}
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
