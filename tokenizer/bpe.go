package tokenizer

import (
	"hash/maphash"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"unicode/utf8"
)

// bpe is a byte pair encoding model: the bytes or characters of a word are its
// first tokens; then, as long as there are any, the neighbors with the merge of
// least rank are merged, the leftmost first.
type bpe struct {
	// The first tokens are those of the bytes or, if chars is not nil, those of
	// the characters; the bytes of a character without a token are then what it
	// falls back to.
	bytes   [256]int32           // -1: not in the vocabulary
	chars   map[rune]int32       // by character
	ascii   [utf8.RuneSelf]int32 // the same, faster
	merges  map[idPair]merge     // by the ids merged
	whole   map[string]int32     // words that are a token without any merging; may be nil
	unk     int32                // for what is not in the vocabulary; -1: leave it out
	fuseUnk bool                 // one unk for a run of it
	// Ids from here on stand for characters that are part of tokens but not a
	// token themselves: they can be merged, and fall back to bytes if they are not.
	partial int32

	scratch sync.Pool          // of *bpeScratch
	seed    maphash.Seed       // of cache
	cache   [1 << 15]cacheSlot // by hash; a word replaces the one there
}

type idPair struct{ left, right int32 }

type merge struct {
	rank uint32
	id   int32
}

// newBPE returns a model without merges whose first tokens are bytes or, with
// chars, characters.
func newBPE(chars bool) *bpe {
	b := &bpe{unk: -1, partial: maxTokens, seed: maphash.MakeSeed(), merges: make(map[idPair]merge)}
	for i := range b.bytes {
		b.bytes[i] = -1
	}
	if chars {
		b.chars = make(map[rune]int32)
		for i := range b.ascii {
			b.ascii[i] = -1
		}
	}
	return b
}

// setChar makes id the token of a character.
func (b *bpe) setChar(r rune, id int32) {
	b.chars[r] = id
	if r < utf8.RuneSelf {
		b.ascii[r] = id
	}
}

type cacheSlot = atomic.Pointer[cachedWord]

type cachedWord struct {
	word   string
	tokens []wordToken
}

// maxCachedWord is the length of the longest word kept. It bounds the cache to
// about 30 MB; with ordinary text, it takes 4 MB.
const maxCachedWord = 64

func (b *bpe) appendTokens(dst []wordToken, word string) []wordToken {
	if id, ok := b.whole[word]; ok {
		return append(dst, wordToken{id, 0, int32(len(word))})
	}
	if len(word) > maxCachedWord {
		return b.merge(dst, word)
	}
	slot := &b.cache[maphash.String(b.seed, word)%uint64(len(b.cache))]
	if c := slot.Load(); c != nil && c.word == word {
		return append(dst, c.tokens...)
	}
	n := len(dst)
	dst = b.merge(dst, word)
	slot.Store(&cachedWord{strings.Clone(word), append([]wordToken(nil), dst[n:]...)})
	return dst
}

// merge appends the tokens of word to dst, in time O(n log n).
func (b *bpe) merge(dst []wordToken, word string) []wordToken {
	s, _ := b.scratch.Get().(*bpeScratch)
	if s == nil {
		s = new(bpeScratch)
	}
	s.symbols = s.symbols[:0]
	if b.chars == nil {
		b.firstBytes(s, word)
	} else {
		b.firstChars(s, word)
	}
	n := len(dst)
	dst = s.merge(dst, b.merges)
	if len(s.symbols) < 1<<16 { // do not keep the memory of a giant
		b.scratch.Put(s)
	}
	return b.complete(dst, n, word)
}

// firstBytes makes the bytes of word the symbols of s.
func (b *bpe) firstBytes(s *bpeScratch, word string) {
	unkBefore := false
	for i := range len(word) {
		id := b.bytes[word[i]]
		if id < 0 {
			unkBefore = b.unknown(s, unkBefore, i, 1)
			continue
		}
		unkBefore = false
		s.add(id, i, 1)
	}
}

// firstChars makes the characters of word the symbols of s.
func (b *bpe) firstChars(s *bpeScratch, word string) {
	unkBefore := false
	for i, n := 0, 0; i < len(word); i += n {
		var id int32
		if c := word[i]; c < utf8.RuneSelf {
			id, n = b.ascii[c], 1
		} else {
			var r rune
			var ok bool
			r, n = utf8.DecodeRuneInString(word[i:])
			if id, ok = b.chars[r]; !ok || r == utf8.RuneError && n == 1 {
				id = -1
			}
		}
		switch {
		case id >= 0:
			unkBefore = false
			s.add(id, i, n)
		case b.hasBytes(word[i : i+n]):
			unkBefore = false
			for j := i; j < i+n; j++ {
				s.add(b.bytes[word[j]], j, 1)
			}
		default:
			unkBefore = b.unknown(s, unkBefore, i, n)
		}
	}
}

// hasBytes reports whether all bytes of char have a token.
func (b *bpe) hasBytes(char string) bool {
	for i := range len(char) {
		if b.bytes[char[i]] < 0 {
			return false
		}
	}
	return true
}

// unknown adds the token for n unknown bytes at i, where unkBefore says whether
// the bytes before them are unknown, too. It reports whether there is one.
func (b *bpe) unknown(s *bpeScratch, unkBefore bool, i, n int) bool {
	switch {
	case b.unk < 0:
		return false
	case unkBefore && b.fuseUnk:
		s.symbols[len(s.symbols)-1].end = int32(i + n)
	default:
		s.add(b.unk, i, n)
	}
	return true
}

// complete puts bytes in the place of those tokens from dst[n] on that are only
// part of one.
func (b *bpe) complete(dst []wordToken, n int, word string) []wordToken {
	i := slices.IndexFunc(dst[n:], func(w wordToken) bool { return w.id >= b.partial })
	if i < 0 {
		return dst
	}
	rest := slices.Clone(dst[n+i:])
	dst = dst[:n+i]
	for _, w := range rest {
		char := word[w.start:w.end]
		switch {
		case w.id < b.partial:
			dst = append(dst, w)
		case b.hasBytes(char):
			for j := range int32(len(char)) {
				dst = append(dst, wordToken{b.bytes[char[j]], w.start + j, w.start + j + 1})
			}
		case b.unk >= 0:
			dst = append(dst, wordToken{b.unk, w.start, w.end})
		}
	}
	return dst
}
