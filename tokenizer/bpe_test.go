package tokenizer

import (
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// mergeNaively is the definition of byte pair encoding: merge the leftmost of
// the pairs of least rank until there is none.
func mergeNaively(word []int32, merges map[idPair]merge) []int32 {
	for {
		at := -1
		var best merge
		for i := range max(0, len(word)-1) {
			m, ok := merges[idPair{word[i], word[i+1]}]
			if ok && (at < 0 || m.rank < best.rank) {
				at, best = i, m
			}
		}
		if at < 0 {
			return word
		}
		word = slices.Replace(word, at, at+2, best.id)
	}
}

// Law: the merges made are those of the definition, cached or not, and the
// tokens tile the word.
func TestBPEMerge(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Tokens are strings over a small alphabet, each made of two before.
		b := newBPE(false)
		tokens := []string{"a", "b", "c"}
		for i := range b.bytes {
			b.bytes[i] = int32(i) - 'a'
		}
		for rank := range rapid.IntRange(0, 12).Draw(t, "merges") {
			l := rapid.IntRange(0, len(tokens)-1).Draw(t, "left")
			r := rapid.IntRange(0, len(tokens)-1).Draw(t, "right")
			id := slices.Index(tokens, tokens[l]+tokens[r])
			if id < 0 {
				id = len(tokens)
				tokens = append(tokens, tokens[l]+tokens[r])
			}
			b.merges[idPair{int32(l), int32(r)}] = merge{uint32(rank), int32(id)}
		}
		word := rapid.StringOfN(rapid.RuneFrom([]rune("abc")), 1, 80, -1).Draw(t, "word")
		var ids []int32
		for _, c := range word {
			ids = append(ids, c-'a')
		}
		want := mergeNaively(ids, b.merges)
		for range 2 {
			at := int32(0)
			var got []int32
			for _, w := range b.appendTokens(nil, word) {
				if w.start != at || word[w.start:w.end] != tokens[w.id] {
					t.Fatalf("token %q at %d:%d of %q", tokens[w.id], w.start, w.end, word)
				}
				at = w.end
				got = append(got, w.id)
			}
			if !slices.Equal(got, want) || int(at) != len(word) {
				t.Fatalf("%q: got %v, want %v", word, got, want)
			}
		}
	})
}

// Law: a long word takes time O(n log n); with O(n²) this test would not end.
func TestBPELongWord(t *testing.T) {
	tok := smolLM2(t)
	for _, s := range []string{"a", " ", "ab", "1", "!?", "\n", "é", "the"} {
		text := strings.Repeat(s, 1<<16/len(s))
		if got := tok.Decode(tok.Encode(text, false).IDs, false); got != text {
			t.Errorf("%q, repeated: decoded text differs", s)
		}
	}
}
