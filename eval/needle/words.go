package needle

import (
	_ "embed"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/anchorattention/anchor/internal/book"
)

//go:embed words/adjectives.txt
var adjectivesText string

//go:embed words/nouns.txt
var nounsText string

//go:embed words/verbs.txt
var verbsText string

var adjectives, nouns = strings.Fields(adjectivesText), strings.Fields(nounsText)

// Compounds is how many compounds there are.
var Compounds = len(adjectives) * len(nouns)

// Compound returns the i-th compound of an adjective and a noun, such as brave-otter.
func Compound(i int) string { return adjectives[i/len(nouns)] + "-" + nouns[i%len(nouns)] }

// Key returns a compound drawn at random.
func Key(rng *rand.Rand) string { return Compound(rng.IntN(Compounds)) }

// Number returns seven digits drawn at random, of which the first is not 0.
func Number(rng *rand.Rand) string {
	digits := []byte("0000000")
	for i, n := len(digits)-1, 1_000_000+rng.IntN(9_000_000); i >= 0; i, n = i-1, n/10 {
		digits[i] += byte(n % 10)
	}
	return string(digits)
}

// Vocabulary returns some 16,000 different words in order: the nouns, adjectives and verbs, and the words of three letters
// and more that the book has in lower case.
var Vocabulary = sync.OnceValue(func() []string {
	words := slices.Concat(adjectives, nouns, strings.Fields(verbsText))
	for word := range strings.FieldsFuncSeq(book.Text(), func(r rune) bool {
		return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r > 0x7f)
	}) {
		if len(word) >= 3 && strings.Trim(word, "abcdefghijklmnopqrstuvwxyz") == "" {
			words = append(words, word)
		}
	}
	slices.Sort(words)
	return slices.Compact(words)
})
