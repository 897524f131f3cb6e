package retrieval

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"

	"github.com/anchorattention/anchor/internal/book"
)

// A Prompt is a question to the model.
type Prompt struct {
	Text     string // ends with CodeWord
	CodeWord string // occurs once before, Answer after it
	Answer   string // the right answer, a token of its own
}

const (
	decoys = 24 // other code words, followed by other words
	// MinPromptTokens is the length of the shortest prompt.
	MinPromptTokens = 128
)

// NewPrompt makes a prompt of the given number of tokens, <s> included, out of the book from its beginning (and
// again from its beginning, should the book end). The code word and its answer lie at depth, from 0, the beginning of
// the text, to 1, its end; 24 other code words, with other answers, lie anywhere. All choices follow from the seed.
func NewPrompt(tokens int, depth float64, seed uint64) (Prompt, error) {
	if tokens < MinPromptTokens || tokens > 1<<20 {
		return Prompt{}, fmt.Errorf("retrieval: prompt of %d tokens; want %d … %d", tokens, MinPromptTokens, 1<<20)
	}
	if !(depth >= 0 && depth <= 1) {
		return Prompt{}, fmt.Errorf("retrieval: depth is %v; want 0 … 1", depth)
	}

	// What is left after <s>, the pairs and the question is the book's.
	words := tokens - 1 - 2*(1+decoys) - 1
	text := book.Text()
	var ends []int // of the first words of text
	for {
		// A word takes 5 bytes or so. The last piece may be cut short, and is not used.
		part := text[:min(len(text), 8*words)]
		if offsets := splitter().Encode(part, false).Offsets; len(offsets) > words {
			for _, o := range offsets[:words] {
				ends = append(ends, o.End)
			}
			break
		}
		text += "\n\n" + text
	}

	rng := rand.New(rand.NewPCG(seed, 0))
	all := vocabulary()
	questions := rng.Perm(codeWords)[:1+decoys]
	var candidates []string
	for _, w := range all[firstWord:firstCode] {
		if len(w) >= 4 && strings.Trim(w, "abcdefghijklmnopqrstuvwxyz") == "" {
			candidates = append(candidates, w)
		}
	}
	answers := rng.Perm(len(candidates))[:1+decoys]
	// Pairs are inserted after so many words of the book: the fact, and then the decoys.
	type pair struct{ after, number int }
	pairs := []pair{{int(depth * float64(words)), 0}}
	for i := range decoys {
		pairs = append(pairs, pair{rng.IntN(words + 1), i + 1})
	}
	slices.SortStableFunc(pairs, func(a, b pair) int { return a.after - b.after })

	var out strings.Builder
	at := 0
	copyTo := func(word int) { // the book up to and with so many words
		if word == 0 || ends[word-1] == at {
			return
		}
		if out.Len() > 0 && !strings.ContainsRune(" \n", rune(text[at])) {
			out.WriteByte(' ') // punctuation that follows a word
		}
		out.WriteString(text[at:ends[word-1]])
		at = ends[word-1]
	}
	for _, p := range pairs {
		copyTo(p.after)
		out.WriteString(" " + all[firstCode+questions[p.number]] + " " + candidates[answers[p.number]])
	}
	copyTo(words)
	p := Prompt{CodeWord: all[firstCode+questions[0]], Answer: candidates[answers[0]]}
	out.WriteString(" " + p.CodeWord)
	p.Text = out.String()
	return p, nil
}
