package needle

import (
	"fmt"
	"strings"

	"github.com/anchorattention/anchor/eval"
	"github.com/anchorattention/anchor/model/retrieval"
)

// Lookup returns the task that the constructed model of package retrieval can do, and no other model is made for: a code word
// and its answer lie in a book, among other pairs; the prompt ends with the code word. Sample i has the pair at depth
// i mod 11 tenths.
func Lookup() *eval.Task {
	const maxTokens = 4 // more than a right answer needs
	return &eval.Task{
		Suite: "lookup", Name: "lookup",
		Sample: func(f *eval.Format, length, index int, seed uint64) (*eval.Sample, error) {
			d := depth(index)
			number := eval.Random(seed, "lookup", length, index).Uint64()
			limit := length - maxTokens
			var p retrieval.Prompt
			fits := func(tokens int) (bool, error) {
				var err error
				p, err = retrieval.NewPrompt(tokens, d, number)
				return err == nil && len(f.Encode(p.Text, "")) <= limit, err
			}
			// The model's own tokenizer takes as many tokens as are asked for, others more.
			largest := max(limit, retrieval.MinPromptTokens)
			ok, err := fits(largest)
			if err == nil && !ok {
				_, err = eval.Fit(retrieval.MinPromptTokens, largest, fits)
			}
			if err != nil {
				return nil, fmt.Errorf("lookup: %w", err)
			}
			return &eval.Sample{
				Suite: "lookup", Task: "lookup", Length: length, Index: index, Seed: seed, Prompt: p.Text, MaxTokens: maxTokens,
				Answers: []string{p.Answer}, Values: map[string]float64{"depth": d},
			}, nil
		},
		Score: func(s *eval.Sample, output string) float64 {
			if words := strings.Fields(output); len(words) > 0 && strings.EqualFold(words[0], s.Answers[0]) {
				return 1
			}
			return 0
		},
	}
}
