package needle

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/anchorattention/anchor/eval"
)

// Haystack returns the needle in a haystack (Kamradt 2023), in the words of RULER's first tasks: a number that belongs to a key lies
// between two sentences of an essay, and is asked for. Sample i has it at depth i mod 11 tenths of the essay's sentences,
// and a key and a number of its own. Eleven samples are a round.
func Haystack(essay *Essay) *eval.Task {
	sizing := eval.Sizing{
		MaxTokens: 32,
		// In words.
		Bounds: func(length int) (least, step, most int) { return 1, 5, 2 * length },
		Make: func(d eval.Draw) (*eval.Sample, error) {
			key, number, depth := Key(d.Rand), Number(d.Rand), depth(d.Index)
			sentences := Sentences(essay.First(d.Size))
			at := int(math.Round(depth * float64(len(sentences))))
			sentences = slices.Insert(sentences, at, fmt.Sprintf("One of the special magic numbers for %s is: %s.", key, number))
			return &eval.Sample{
				Prompt: "A special magic number is hidden within the following text. Make sure to memorize it. I will quiz you about the number afterwards.\n" +
					strings.Join(sentences, " ") + "\nWhat is the special magic number for " + key + " mentioned in the provided text?",
				Prefix:  " The special magic number for " + key + " mentioned in the provided text is",
				Answers: []string{number}, Values: map[string]float64{"depth": depth},
			}, nil
		},
	}
	return &eval.Task{
		Suite: "niah", Name: "niah", Data: essay.Data(),
		Sample: sizing.Samples("niah", "niah"),
		Score: func(s *eval.Sample, output string) float64 {
			if strings.Contains(output, s.Answers[0]) {
				return 1
			}
			return 0
		},
	}
}
