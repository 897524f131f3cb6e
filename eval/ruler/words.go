package ruler

import (
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/anchorattention/anchor/eval"
	"github.com/anchorattention/anchor/eval/needle"
)

// common is how many words are commoner than others.
const common = 10

// commonWords is the task of a numbered list of words, ten of which are there 30 times and the others 3 times, after an example with
// its answer.
func commonWords() eval.Sizing {
	const prefix = " Answer: The top 10 words that appear most often in the list are:"
	question := func(list string) string {
		return "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that appear most often.\n" +
			list + "\nQuestion: What are the 10 most common words in the above list?"
	}
	return eval.Sizing{
		MaxTokens: 120,
		// In different words.
		Bounds: func(length int) (least, step, most int) {
			if length < 4096 {
				return common, 10, max(length/2, common)
			}
			return common, 10, length / 6 // a word takes two tokens three times
		},
		Make: func(d eval.Draw) (*eval.Sample, error) {
			exampleSize, exampleOften, exampleRarely, often, rarely := 40, 10, 3, 30, 3
			if d.Length < 4096 {
				exampleSize, exampleOften, exampleRarely, often, rarely = 20, 3, 1, 6, 1
			}
			list, answers := wordList(d, exampleSize, exampleOften, exampleRarely)
			// The example is a whole exchange, in the chat template if there is one.
			example := question(list) + d.Format.After + prefix + " " + numbered(answers) + "\n" + d.Format.Before
			list, answers = wordList(d, d.Size, often, rarely)
			return &eval.Sample{Prompt: example + question(list), Prefix: prefix, Answers: answers}, nil
		},
	}
}

// wordList returns a list of different words, of which the first ten occur often and the others rarely, and those ten.
func wordList(d eval.Draw, size, often, rarely int) (list string, answers []string) {
	words := make([]string, size)
	if all := needle.Vocabulary(); size <= len(all) {
		for i, k := range d.Perm(len(all))[:size] {
			words[i] = all[k]
		}
	} else {
		for i, k := range d.Perm(needle.Compounds)[:min(size, needle.Compounds)] {
			words[i] = needle.Compound(k)
		}
	}
	repeated := slices.Concat(slices.Repeat(words[:common], often), slices.Repeat(words[common:], rarely))
	d.Shuffle(len(repeated), func(i, k int) { repeated[i], repeated[k] = repeated[k], repeated[i] })
	return numbered(repeated), words[:common]
}

// numbered writes words as 1. one 2. two.
func numbered(words []string) string {
	var out strings.Builder
	for i, w := range words {
		if i > 0 {
			out.WriteByte(' ')
		}
		out.WriteString(strconv.Itoa(i + 1))
		out.WriteString(". ")
		out.WriteString(w)
	}
	return out.String()
}

// frequentWords is the task of a text of coded words, whose frequencies follow a zeta distribution with exponent 2; the commonest
// is written as dots, and the next three are asked for.
func frequentWords() eval.Sizing {
	const (
		maxTokens = 50
		letters   = 6
		zeta2     = math.Pi * math.Pi / 6
	)
	step := func(length int) int { return max(length/32, 1) }
	return eval.Sizing{
		MaxTokens: maxTokens,
		// In words of the text, of which those that would occur less than once are left out.
		Bounds: func(length int) (least, by, most int) { return letters, step(length), length },
		// From few words on until they are too many, in large steps.
		Search: func(lo, hi int, fits func(int) (bool, error)) (int, error) {
			by := step(hi)
			last := max((hi-maxTokens)/letters, lo)
			for size := last; ; size += by {
				ok, err := fits(size)
				if err != nil || !ok {
					return last, err
				}
				last = size
			}
		},
		Make: func(d eval.Draw) (*eval.Sample, error) {
			vocabulary := make([]string, max(d.Length/50, 4))
			seen := make(map[string]bool)
			for i := range vocabulary {
				for vocabulary[i] == "" || seen[vocabulary[i]] {
					vocabulary[i] = letterWord(d.Rand, letters, 'a')
				}
				seen[vocabulary[i]] = true
			}
			vocabulary[0] = "..."
			var words []string
			for i, w := range vocabulary {
				rank := float64(i + 1)
				words = append(words, slices.Repeat([]string{w}, int(float64(d.Size)/(rank*rank)/zeta2))...)
			}
			d.Shuffle(len(words), func(i, k int) { words[i], words[k] = words[k], words[i] })
			return &eval.Sample{
				Prompt: fmt.Sprintf("Read the following coded text and track the frequency of each coded word. Find the three most frequently appeared coded words. %s\n"+
					"Question: Do not provide any explanation. Please ignore the dots '....'. What are the three most frequently appeared words in the above coded text?",
					strings.Join(words, " ")),
				Prefix:  " Answer: According to the coded text above, the three most frequently appeared words are:",
				Answers: slices.Clone(vocabulary[1:4]),
			}, nil
		},
	}
}
