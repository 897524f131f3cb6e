// Package ruler generates the thirteen tasks of RULER (Hsieh et al. 2024, arXiv 2404.06654), with the parameters, the sentences
// and the scoring of the benchmark's published code (NVIDIA/RULER).
//
//	niah_single_1–3, niah_multikey_1–3,   needles: values that belong to keys, in noise, in an essay or
//	niah_multivalue, niah_multiquery      among other needles
//	vt                                    variables: which have a value, through assignments
//	cwe, fwe                              words: the commonest ones of a list, and of a coded text
//	qa_1, qa_2                            questions about one of many documents, and about two (SQuAD 2.0, HotpotQA)
//
// # As published
//
// Lengths are measured with the model's own tokenizer: the largest haystack is looked for at which the prompt, with the chat
// template around it, and the tokens to generate fit; a sample that is longer than the one it was measured by loses steps of
// its haystack. Answers begin with the published prefix. Scores are string_match_all, the share of the expected strings
// that the output contains, and for questions string_match_part, whether it contains any.
//
// # Not as published
//
//   - Draws are from generators of this package's own, one for each sample, where the published code has one for all: sample 7 is
//     the same whether there are ten or a thousand, and on whatever machine.
//   - Keys are compounds of the adjectives and nouns of package needle, not those of wonderwords. The words of cwe are these and the
//     words of War and Peace, and compounds where there are too few, not wonderwords and a dictionary.
//   - The end of a sentence is found by rules, not by NLTK's punkt; needles stand between sentences all the same.
//   - The essay is War and Peace unless a file of Paul Graham's essays is given, and the questions are a few of this
//     package's own unless files of SQuAD and HotpotQA are: they show the format, and say little about a model.
//   - fwe leaves room for the tokens to generate, and tokens that begin a text count.
//   - A length at which not even the smallest haystack fits is an error.
package ruler

import (
	"strings"

	"github.com/anchorattention/anchor/eval"
	"github.com/anchorattention/anchor/eval/needle"
)

// Data is what samples are made of.
type Data struct {
	Essay           *needle.Essay // nil is War and Peace
	Squad, HotpotQA *Questions    // nil are the package's own
}

// Tasks returns the thirteen tasks in the published order.
func Tasks(d Data) []*eval.Task {
	if d.Essay == nil {
		d.Essay = needle.Book()
	}
	if d.Squad == nil {
		d.Squad = ownSquad()
	}
	if d.HotpotQA == nil {
		d.HotpotQA = ownHotpotQA()
	}
	task := func(name string, sizing eval.Sizing, score func(s *eval.Sample, output string) float64, data map[string]string) *eval.Task {
		return &eval.Task{Suite: "ruler", Name: name, Sample: sizing.Samples("ruler", name), Score: score, Data: data}
	}
	var tasks []*eval.Task
	for _, n := range niahTasks {
		var data map[string]string
		if n.haystack == inEssay {
			data = d.Essay.Data()
		}
		tasks = append(tasks, task(n.name, n.sizing(d.Essay), matchAll, data))
	}
	return append(tasks,
		task("vt", variableTracking(), matchAll, nil),
		task("cwe", commonWords(), matchAll, nil),
		task("fwe", frequentWords(), matchAll, nil),
		task("qa_1", d.Squad.sizing(), matchPart, d.Squad.data("squad")),
		task("qa_2", d.HotpotQA.sizing(), matchPart, d.HotpotQA.data("hotpotqa")),
	)
}

// matchAll is string_match_all: the share of the answers that the output contains, in whatever case.
func matchAll(s *eval.Sample, output string) float64 {
	n := 0
	for _, a := range s.Answers {
		if contains(output, a) {
			n++
		}
	}
	return float64(n) / float64(len(s.Answers))
}

// matchPart is string_match_part: whether the output contains one of the answers.
func matchPart(s *eval.Sample, output string) float64 {
	for _, a := range s.Answers {
		if contains(output, a) {
			return 1
		}
	}
	return 0
}

func contains(output, answer string) bool {
	return strings.Contains(strings.ToLower(output), strings.ToLower(answer))
}
