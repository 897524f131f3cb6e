package tokenizer

import (
	"strings"
	"unicode"
	"unicode/utf8"
)

// An addedToken is an entry of the field added_tokens: a token that is found in
// the text before anything else is done with it.
type addedToken struct {
	ID         int64  `json:"id"`
	Content    string `json:"content"`
	SingleWord bool   `json:"single_word"` // only where no word character is next to it
	LStrip     bool   `json:"lstrip"`      // takes the white space before it
	RStrip     bool   `json:"rstrip"`      // takes the white space after it
	Normalized bool   `json:"normalized"`  // matched in the normalized text
	Special    bool   `json:"special"`     // left out when decoding, if asked for
}

// addedTokens finds added tokens in text. The zero value finds none.
type addedTokens struct {
	first [256]bool // bytes a token begins with
	// A trie of the contents, with nodes numbered from the root, 0.
	edges map[trieEdge]int32
	token []*addedToken // by node; nil: no content ends there
}

type trieEdge struct {
	node int32
	b    byte
}

// insert makes content stand for t, unless it does for another token already.
func (a *addedTokens) insert(content string, t *addedToken) {
	if content == "" {
		return
	}
	if a.edges == nil {
		a.edges = make(map[trieEdge]int32)
		a.token = []*addedToken{nil}
	}
	a.first[content[0]] = true
	node := int32(0)
	for i := range len(content) {
		e := trieEdge{node, content[i]}
		next, ok := a.edges[e]
		if !ok {
			next = int32(len(a.token))
			a.edges[e] = next
			a.token = append(a.token, nil)
		}
		node = next
	}
	if a.token[node] == nil {
		a.token[node] = t
	}
}

// longest returns the longest token that s begins with, and its length, or nil.
func (a *addedTokens) longest(s string) (t *addedToken, n int) {
	node, ok := int32(0), false
	for i := range len(s) {
		if node, ok = a.edges[trieEdge{node, s[i]}]; !ok {
			break
		}
		if a.token[node] != nil {
			t, n = a.token[node], i+1
		}
	}
	return t, n
}

// split calls yield for each added token in s and, with id -1, for each part of
// s in between. Matches are leftmost first, longest first.
func (a *addedTokens) split(s string, yield func(id int32, start, end int)) {
	done := 0 // s[:done] was yielded
	for i := 0; i < len(s) && a.edges != nil; {
		if !a.first[s[i]] {
			i++
			continue
		}
		t, n := a.longest(s[i:])
		if t == nil {
			i++
			continue
		}
		start, end := i, i+n
		i = end
		// A match that is not a word of its own still hides others inside it.
		if t.SingleWord && (endsWithWord(s[:start]) || startsWithWord(s[end:])) {
			continue
		}
		if t.LStrip {
			start = max(done, len(strings.TrimRightFunc(s[:start], unicode.IsSpace)))
		}
		if t.RStrip {
			end = len(s) - len(strings.TrimLeftFunc(s[end:], unicode.IsSpace))
		}
		if done < start {
			yield(-1, done, start)
		}
		yield(int32(t.ID), start, end)
		done = end
	}
	if done < len(s) {
		yield(-1, done, len(s))
	}
}

func endsWithWord(s string) bool {
	r, _ := utf8.DecodeLastRuneInString(s)
	return s != "" && isWord(r)
}

func startsWithWord(s string) bool {
	r, _ := utf8.DecodeRuneInString(s)
	return s != "" && isWord(r)
}
