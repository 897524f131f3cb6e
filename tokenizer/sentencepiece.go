package tokenizer

import (
	"cmp"
	"slices"
	"strings"
	"unicode/utf8"
)

// spaceMark is what tokenizers of SentencePiece's kind spell a space with.
const spaceMark = "▁"

// wordScanner returns the scanner that cuts text where b, whose tokens have the given
// spellings, merges nothing across. It is nil if there is no such place.
//
// Models of SentencePiece's kind take the whole text for one word; but their
// tokens have a space only at the beginning, so that nothing is ever merged
// across the end of a word. To cut there saves the queue of merges from growing
// as long as the text, and lets the words be cached.
func (b *bpe) wordScanner(spelling func(id int32) string) scanner {
	const mark = '▁'
	if _, ok := b.chars[mark]; !ok {
		return nil // it may be part of a run of the unknown
	}
	// The spelling of these does not tell what they stand for.
	opaque := map[int32]bool{b.unk: true}
	for _, id := range b.bytes {
		opaque[id] = true
	}
	joined := make(map[rune]bool) // characters that some merge joins with a mark after them
	for pair := range b.merges {
		if opaque[pair.left] || opaque[pair.right] {
			return nil
		}
		if strings.HasPrefix(spelling(pair.right), spaceMark) {
			r, _ := utf8.DecodeLastRuneInString(spelling(pair.left))
			joined[r] = true
		}
	}
	return func(s string) (int, bool) {
		for n := 1; ; n += len(spaceMark) {
			i := strings.Index(s[n:], spaceMark)
			if i < 0 {
				return len(s), true
			}
			n += i
			if r, _ := utf8.DecodeLastRuneInString(s[:n]); !joined[r] {
				return n, true
			}
		}
	}
}

// A piece is a token of a SentencePiece vocabulary.
type piece struct {
	text  string
	id    int32
	score float32
}

// setPieces makes b merge as SentencePiece does: neighbors that together are a
// piece, the one of greatest score first. The merges are known beforehand, since
// what is merged is a piece or a character. It returns the scanner of words.
func (b *bpe) setPieces(pieces []piece) scanner {
	pieces = slices.Clone(pieces)
	slices.SortStableFunc(pieces, func(x, y piece) int { return cmp.Compare(y.score, x.score) })
	ids := make(map[string]int32, len(pieces))
	for _, p := range pieces {
		ids[p.text] = p.id
		if r, n := utf8.DecodeRuneInString(p.text); n == len(p.text) {
			b.setChar(r, p.id)
		}
	}
	partial := b.partial
	id := func(part string) (int32, bool) {
		if id, ok := ids[part]; ok {
			return id, true
		}
		r, n := utf8.DecodeRuneInString(part)
		if n < len(part) {
			return 0, false
		}
		ids[part] = partial
		b.setChar(r, partial)
		partial++
		return partial - 1, true
	}
	rank := uint32(0)
	spellings := make(map[int32]string)
	for i, p := range pieces {
		if i > 0 && p.score != pieces[i-1].score {
			rank++
		}
		spellings[p.id] = p.text
		for at := range p.text {
			if at == 0 {
				continue
			}
			left, ok := id(p.text[:at])
			if !ok {
				continue
			}
			if right, ok := id(p.text[at:]); ok {
				b.merges[idPair{left, right}] = merge{rank, p.id}
			}
		}
	}
	for part, id := range ids {
		spellings[id] = part
	}
	return b.wordScanner(func(id int32) string { return spellings[id] })
}
