package ruler

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/anchorattention/anchor/eval"
	"github.com/anchorattention/anchor/tokenizer"
)

// hops is how many assignments follow the first of a chain.
const hops = 4

// variableTracking is the task of one chain of assignments in noise, after an example with its answer.
func variableTracking() eval.Sizing {
	const exampleLimit = 500 // tokens
	var mu sync.Mutex
	sizes := make(map[*tokenizer.Tokenizer]int) // of the example, in sentences
	exampleSize := func(t *tokenizer.Tokenizer) (int, error) {
		mu.Lock()
		defer mu.Unlock()
		if n, ok := sizes[t]; ok {
			return n, nil
		}
		n, err := eval.Fit(hops+1, 50, func(size int) (bool, error) {
			prompt, prefix, _ := chain(eval.Random(0, "vt", "example"), 3, "12345", size)
			return len(t.Encode(prompt+prefix, false).IDs) <= exampleLimit, nil
		})
		if err != nil {
			return 0, fmt.Errorf("the example, of at most %d tokens: %w", exampleLimit, err)
		}
		sizes[t] = n
		return n, nil
	}
	return eval.Sizing{
		MaxTokens: 30,
		// In sentences of noise.
		Bounds: func(length int) (least, step, most int) {
			if length < 4096 {
				return hops + 1, 5, length
			}
			return hops + 1, 10, length / 4
		},
		Make: func(d eval.Draw) (*eval.Sample, error) {
			size, err := exampleSize(d.Format.Tokenizer)
			if err != nil {
				return nil, err
			}
			prompt, prefix, variables := chain(d.Rand, 3, fmt.Sprint(10000+d.IntN(89999)), size)
			example := prompt + prefix + " " + strings.Join(variables, " ") + "\n\n"
			s := &eval.Sample{}
			s.Prompt, s.Prefix, s.Answers = chain(d.Rand, 5, fmt.Sprint(10000+d.IntN(89999)), d.Size)
			s.Prompt = example + s.Prompt
			return s, nil
		},
	}
}

// chain returns a prompt with a chain of assignments to variables of so many letters that begins with a value, in so many
// sentences of noise.
func chain(rng *rand.Rand, letters int, value string, size int) (prompt, prefix string, variables []string) {
	for len(variables) < hops+1 {
		if v := letterWord(rng, letters, 'A'); !slices.Contains(variables, v) {
			variables = append(variables, v)
		}
	}
	lines := slices.Repeat([]string{noise}, size)
	places := rng.Perm(size)[:hops+1]
	slices.Sort(places)
	for i, at := range places {
		line := "VAR " + variables[0] + " = " + value
		if i > 0 {
			line = "VAR " + variables[i] + " = VAR " + variables[i-1] + " "
		}
		lines = slices.Insert(lines, at+i, line)
	}
	prompt = "Memorize and track the chain(s) of variable assignment hidden in the following text.\n\n" + strings.Join(lines, "\n") +
		"\nQuestion: Find all variables that are assigned the value " + value + " in the text above."
	prefix = fmt.Sprintf(" Answer: According to the chain(s) of variable assignment in the text above, %d variables are assigned the value %s, they are: ",
		hops+1, value)
	return prompt, prefix, variables
}

// letterWord draws so many letters, from one on.
func letterWord(rng *rand.Rand, n int, first byte) string {
	word := make([]byte, n)
	for i := range word {
		word[i] = first + byte(rng.IntN(26))
	}
	return string(word)
}
