package tokenizer

import (
	"hash/maphash"
	"strings"
	"sync"
	"sync/atomic"
)

// bpe is a byte-level byte pair encoding model: the bytes of a word are its
// first tokens; then, as long as there are any, the neighbors with the merge of
// least rank are merged, the leftmost first.
type bpe struct {
	byteID  [256]int32         // -1: not in the vocabulary
	merges  map[idPair]merge   // by the ids merged
	whole   map[string]int32   // words that are a token without any merging; may be nil
	unk     int32              // for bytes not in the vocabulary; -1: leave them out
	fuseUnk bool               // one unk for a run of such bytes
	scratch sync.Pool          // of *bpeScratch
	seed    maphash.Seed       // of cache
	cache   [1 << 15]cacheSlot // by hash; a word replaces the one there
}

type idPair struct{ left, right int32 }

type merge struct {
	rank uint32
	id   int32
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

// bpeScratch is the memory for merging a word.
type bpeScratch struct {
	symbols []symbol
	queue   mergeQueue
}

// A symbol is a token of a word that is being merged, in a list of them.
type symbol struct {
	wordToken        // id -1: merged into the one before
	prev, next int32 // -1: none
}

// merge appends the tokens of word to dst, in time O(n log n).
func (b *bpe) merge(dst []wordToken, word string) []wordToken {
	s, _ := b.scratch.Get().(*bpeScratch)
	if s == nil {
		s = new(bpeScratch)
	}
	s.symbols = b.bytes(s.symbols[:0], word)
	if len(s.symbols) > 0 {
		dst = s.merge(dst, b.merges)
	}
	if len(s.symbols) < 1<<16 { // do not keep the memory of a giant
		b.scratch.Put(s)
	}
	return dst
}

// bytes appends the symbols of the single bytes of word to dst.
func (b *bpe) bytes(dst []symbol, word string) []symbol {
	unkBefore := false
	for i := range len(word) {
		id := b.byteID[word[i]]
		unk := id < 0
		if unk {
			if unkBefore && b.fuseUnk {
				dst[len(dst)-1].end++
				continue
			}
			if b.unk < 0 {
				continue
			}
			id = b.unk
		}
		unkBefore = unk
		n := int32(len(dst))
		dst = append(dst, symbol{wordToken{id, int32(i), int32(i + 1)}, n - 1, n + 1})
	}
	if len(dst) > 0 {
		dst[len(dst)-1].next = -1
	}
	return dst
}

func (s *bpeScratch) merge(dst []wordToken, merges map[idPair]merge) []wordToken {
	symbols := s.symbols
	// at returns the merge of the symbols i and its next.
	at := func(i int32) (merge, bool) {
		l := &symbols[i]
		if l.id < 0 || l.next < 0 {
			return merge{}, false
		}
		m, ok := merges[idPair{l.id, symbols[l.next].id}]
		return m, ok
	}
	q := s.queue[:0]
	for i := range int32(len(symbols)) {
		if m, ok := at(i); ok {
			q = append(q, queued(m.rank, i))
		}
	}
	q.init()
	for len(q) > 0 {
		top := q.pop()
		i := top.symbol()
		// What was queued may have been merged otherwise since.
		m, ok := at(i)
		if !ok || m.rank != top.rank() {
			continue
		}
		l := &symbols[i]
		r := &symbols[l.next]
		l.id, l.end, l.next = m.id, r.end, r.next
		r.id = -1
		if l.next >= 0 {
			symbols[l.next].prev = i
			if m, ok := at(i); ok {
				q.push(queued(m.rank, i))
			}
		}
		if l.prev >= 0 {
			if m, ok := at(l.prev); ok {
				q.push(queued(m.rank, l.prev))
			}
		}
	}
	s.queue = q
	for i := int32(0); i >= 0; i = symbols[i].next {
		dst = append(dst, symbols[i].wordToken)
	}
	return dst
}

// A queuedMerge is a rank and the index of the left symbol. Their order is
// that in which merges are made: by rank, then from left to right.
type queuedMerge uint64

func queued(rank uint32, symbol int32) queuedMerge {
	return queuedMerge(rank)<<32 | queuedMerge(symbol)
}
func (m queuedMerge) rank() uint32  { return uint32(m >> 32) }
func (m queuedMerge) symbol() int32 { return int32(uint32(m)) }

// A mergeQueue is a binary heap with the least merge first. (container/heap
// would allocate for each element.)
type mergeQueue []queuedMerge

func (q mergeQueue) init() {
	for i := len(q)/2 - 1; i >= 0; i-- {
		q.down(i)
	}
}

func (q *mergeQueue) push(m queuedMerge) {
	h := append(*q, m)
	i := len(h) - 1
	for i > 0 && h[(i-1)/2] > m {
		h[i] = h[(i-1)/2]
		i = (i - 1) / 2
	}
	h[i] = m
	*q = h
}

func (q *mergeQueue) pop() queuedMerge {
	h := *q
	top := h[0]
	h[0] = h[len(h)-1]
	*q = h[:len(h)-1]
	if len(*q) > 0 {
		q.down(0)
	}
	return top
}

func (q mergeQueue) down(i int) {
	m := q[i]
	for {
		child := 2*i + 1
		if child >= len(q) {
			break
		}
		if child+1 < len(q) && q[child+1] < q[child] {
			child++
		}
		if m <= q[child] {
			break
		}
		q[i] = q[child]
		i = child
	}
	q[i] = m
}
