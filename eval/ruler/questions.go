package ruler

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/anchorattention/anchor/eval"
)

//go:embed qa/squad.json
var squadFile []byte

//go:embed qa/hotpotqa.json
var hotpotFile []byte

// Questions are questions with their answers, and documents in which these are found.
type Questions struct {
	documents []string // in order, without equal ones
	all       []question
	hash      string // of the file, empty for the package's own
}

type question struct {
	text    string
	answers []string
	needed  []int // documents: those that the answer is in, for SQuAD, and those that come with the question
	related []int // and others of the same article
}

var ownSquad = sync.OnceValue(func() *Questions { return own(ParseSquad(squadFile)) })

var ownHotpotQA = sync.OnceValue(func() *Questions { return own(ParseHotpotQA(hotpotFile)) })

func own(q *Questions, err error) *Questions {
	if err != nil {
		panic("ruler: " + err.Error()) // the file is part of the program
	}
	q.hash = ""
	return q
}

func (q *Questions) data(name string) map[string]string {
	if q.hash == "" {
		return nil
	}
	return map[string]string{name: q.hash}
}

// LoadSquad reads questions in the format of SQuAD 2.0, dev-v2.0.json for one. Those that have no answer are left out.
func LoadSquad(path string) (*Questions, error) { return load(path, ParseSquad) }

// LoadHotpotQA reads questions in the format of HotpotQA, hotpot_dev_distractor_v1.json for one.
func LoadHotpotQA(path string) (*Questions, error) { return load(path, ParseHotpotQA) }

func load(path string, parse func([]byte) (*Questions, error)) (*Questions, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	q, err := parse(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return q, nil
}

// ParseSquad is like [LoadSquad] for the content of a file.
func ParseSquad(data []byte) (*Questions, error) {
	var file struct {
		Data []struct {
			Paragraphs []struct {
				Context string
				QAs     []struct {
					ID         string
					Question   string
					Answers    []struct{ Text string }
					Impossible bool `json:"is_impossible"`
				}
			}
		}
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("not in the format of SQuAD 2.0: %w", err)
	}
	q := &Questions{hash: eval.Hash(data)}
	for _, article := range file.Data {
		for _, p := range article.Paragraphs {
			q.documents = append(q.documents, p.Context)
		}
	}
	number := q.sort()
	for _, article := range file.Data {
		var related []int
		for _, p := range article.Paragraphs {
			related = append(related, number[p.Context])
		}
		for _, p := range article.Paragraphs {
			needed := number[p.Context]
			for _, qa := range p.QAs {
				if qa.Impossible {
					continue
				}
				x := question{text: qa.Question, needed: []int{needed}}
				for _, a := range qa.Answers {
					x.answers = append(x.answers, a.Text)
				}
				x.related = slices.DeleteFunc(slices.Clone(related), func(d int) bool { return d == needed })
				if err := q.add(qa.ID, x); err != nil {
					return nil, err
				}
			}
		}
	}
	return q, q.check()
}

// ParseHotpotQA is like [LoadHotpotQA] for the content of a file.
func ParseHotpotQA(data []byte) (*Questions, error) {
	var file []struct {
		ID       string `json:"_id"`
		Question string
		Answer   string
		Context  []paragraph
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("not in the format of HotpotQA: %w", err)
	}
	q := &Questions{hash: eval.Hash(data)}
	for _, x := range file {
		for _, p := range x.Context {
			q.documents = append(q.documents, string(p))
		}
	}
	number := q.sort()
	for _, x := range file {
		var needed []int
		for _, p := range x.Context {
			needed = append(needed, number[string(p)])
		}
		if err := q.add(x.ID, question{text: x.Question, answers: []string{x.Answer}, needed: needed}); err != nil {
			return nil, err
		}
	}
	return q, q.check()
}

// A paragraph is a title and sentences, an array of a string and an array of strings.
type paragraph string

func (p *paragraph) UnmarshalJSON(data []byte) error {
	var parts []json.RawMessage
	if err := json.Unmarshal(data, &parts); err != nil {
		return err
	}
	if len(parts) != 2 {
		return fmt.Errorf("a paragraph of the context has %d parts; want a title and its sentences", len(parts))
	}
	var title string
	var sentences []string
	if err := json.Unmarshal(parts[0], &title); err != nil {
		return err
	}
	if err := json.Unmarshal(parts[1], &sentences); err != nil {
		return err
	}
	*p = paragraph(title + "\n" + strings.Join(sentences, ""))
	return nil
}

// sort orders the documents, removes equal ones and returns their numbers.
func (q *Questions) sort() map[string]int {
	slices.Sort(q.documents)
	q.documents = slices.Compact(q.documents)
	number := make(map[string]int)
	for i, d := range q.documents {
		number[d] = i
	}
	return number
}

func (q *Questions) add(id string, x question) error {
	switch {
	case x.text == "":
		return fmt.Errorf("question %q has no text", id)
	case len(x.answers) == 0 || slices.Contains(x.answers, ""):
		return fmt.Errorf("question %q has answers %q; want one at least, none empty", id, x.answers)
	case len(x.needed) == 0:
		return fmt.Errorf("question %q has no documents; want one at least", id)
	}
	q.all = append(q.all, x)
	return nil
}

func (q *Questions) check() error {
	if len(q.all) == 0 {
		return fmt.Errorf("no questions that have an answer; want some")
	}
	return nil
}

// sizing is the task of a question among documents. Sample i has question i, from the first again where they end.
func (q *Questions) sizing() eval.Sizing {
	const asked = "Answer the question based on the given documents. Only give me the answer and do not output any other words."
	least := 0
	for _, x := range q.all {
		least = max(least, len(x.needed))
	}
	return eval.Sizing{
		MaxTokens: 32,
		// In documents.
		Bounds: func(length int) (int, int, int) { return 1, 10, max(length/20, least) },
		Make: func(d eval.Draw) (*eval.Sample, error) {
			x := q.all[d.Index%len(q.all)]
			chosen := q.choose(x, d)
			d.Shuffle(len(chosen), func(i, k int) { chosen[i], chosen[k] = chosen[k], chosen[i] })
			var context strings.Builder
			for i, document := range chosen {
				if i > 0 {
					context.WriteString("\n\n")
				}
				fmt.Fprintf(&context, "Document %d:\n%s", i+1, q.documents[document])
			}
			return &eval.Sample{
				Prompt:  asked + "\n\nThe following are given documents.\n\n" + context.String() + "\n\n" + asked + "\n\nQuestion: " + x.text,
				Prefix:  " Answer:",
				Answers: x.answers,
			}, nil
		},
	}
}

// choose returns documents: those that the question needs, then those related, then any. Where there are too few, all are
// there, and more than once.
func (q *Questions) choose(x question, d eval.Draw) []int {
	size := max(d.Size, len(x.needed))
	if size >= len(q.documents) {
		chosen := make([]int, size)
		for i := range chosen {
			chosen[i] = i % len(q.documents)
		}
		return chosen
	}
	chosen := slices.Clone(x.needed)
	if left := size - len(chosen); left <= len(x.related) {
		for _, i := range d.Perm(len(x.related))[:left] {
			chosen = append(chosen, x.related[i])
		}
		return chosen
	}
	chosen = append(chosen, x.related...)
	taken := make(map[int]bool)
	for _, i := range chosen {
		taken[i] = true
	}
	for _, i := range d.Perm(len(q.documents)) {
		if len(chosen) >= size {
			break
		}
		if !taken[i] {
			chosen = append(chosen, i)
		}
	}
	return chosen
}
