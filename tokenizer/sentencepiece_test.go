package tokenizer

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// mergePiecesNaively is what SentencePiece does: of the neighbors that together
// are a piece, it merges those of the greatest score, the leftmost first.
func mergePiecesNaively(word string, scores map[string]float32) []string {
	parts := strings.Split(word, "")
	for {
		at := -1
		var best float32
		for i := range max(0, len(parts)-1) {
			score, ok := scores[parts[i]+parts[i+1]]
			if ok && (at < 0 || score > best) {
				at, best = i, score
			}
		}
		if at < 0 {
			return parts
		}
		parts = slices.Replace(parts, at, at+2, parts[at]+parts[at+1])
	}
}

// Law: a vocabulary with scores is merged as SentencePiece does it, also where
// the text is cut into words for speed; what is left that is no piece becomes
// bytes, or else the unknown token.
func TestPieces(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// The last one is no piece of its own.
		alphabet := rapid.SampledFrom([]string{"ab▁cé", "a▁é", "▁ab", "abé"}).Draw(t, "alphabet")
		scores := map[string]float32{}
		b := newBPE(true)
		b.unk, b.partial = 0, 400
		texts := make(map[int32]string)
		if rapid.Bool().Draw(t, "bytes") {
			for i := range b.bytes {
				b.bytes[i] = int32(100 + i)
				texts[b.bytes[i]] = string([]byte{byte(i)})
			}
		}
		_, last := utf8.DecodeLastRuneInString(alphabet)
		chars := []rune(alphabet)
		var pieces []piece
		add := func(p string) {
			if _, ok := scores[p]; !ok {
				scores[p] = float32(rapid.IntRange(-6, 0).Draw(t, "score"))
				pieces = append(pieces, piece{p, int32(1 + len(pieces)), scores[p]})
				texts[int32(len(pieces))] = p
			}
		}
		for _, c := range alphabet[:len(alphabet)-last] {
			add(string(c))
		}
		for range rapid.IntRange(0, 12).Draw(t, "pieces") {
			add(rapid.StringOfN(rapid.RuneFrom(chars), 2, 4, -1).Draw(t, "piece"))
		}
		scan := b.setPieces(pieces)
		if scan == nil {
			scan = func(s string) (int, bool) { return len(s), true }
		}
		word := rapid.StringOfN(rapid.RuneFrom(append(chars, 'x')), 1, 40, -1).Draw(t, "word")
		var want []string
		for _, p := range mergePiecesNaively(word, scores) {
			switch _, ok := scores[p]; {
			case ok:
				want = append(want, p)
			case b.bytes[0] >= 0:
				for i := range len(p) {
					want = append(want, p[i:i+1])
				}
			default:
				want = append(want, "?"+p)
			}
		}
		for range 2 { // the second time out of the cache
			var got []string
			for _, part := range scanAll(scan, word) {
				at := int32(0)
				for _, w := range b.appendTokens(nil, part) {
					if w.start != at {
						t.Fatalf("%q: token %d at %d, want %d", part, w.id, w.start, at)
					}
					at = w.end
					text := part[w.start:w.end]
					if w.id == 0 {
						text = "?" + text
					} else if texts[w.id] != text {
						t.Fatalf("%q: token %d at %q", part, w.id, text)
					}
					got = append(got, text)
				}
				if int(at) != len(part) {
					t.Fatalf("%q: the tokens end at %d", part, at)
				}
			}
			if !slices.Equal(got, want) {
				t.Fatalf("%q of %v:\n got %q\nwant %q", word, scores, got, want)
			}
		}
	})
}

// Law: a long text takes time O(n log n) also where all of it is one word.
func TestPiecesLong(t *testing.T) {
	for _, name := range []string{"llama2", "mistral3", "metaspace", "gpt2", "llama3", "qwen2"} {
		tok := readGoldens(t)[name].made
		for _, s := range []string{"a", " ", "ab", "1", "é", "\n", "\u0301", "😀"} {
			text := "x" + strings.Repeat(s, 1<<16/len(s))
			if got := tok.Decode(tok.Encode(text, false).IDs, false); got != text && name != "metaspace" && (name != "qwen2" || s != "\u0301") {
				t.Errorf("%s: %q, repeated: decoded text differs", name, s)
			}
		}
	}
}
