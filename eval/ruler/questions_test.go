package ruler

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The questions that come with the package are in the published formats, whole: answers stand where they say, supporting facts
// exist.
func TestOwnQuestions(t *testing.T) {
	var squad struct {
		Version string
		Data    []struct {
			Title      string
			Paragraphs []struct {
				Context string
				QAs     []struct {
					ID, Question string
					Impossible   bool `json:"is_impossible"`
					Answers      []struct {
						Text  string
						Start int `json:"answer_start"`
					}
				}
			}
		}
	}
	if err := json.Unmarshal(squadFile, &squad); err != nil {
		t.Fatal(err)
	}
	possible, impossible := 0, 0
	for _, a := range squad.Data {
		for _, p := range a.Paragraphs {
			for _, q := range p.QAs {
				if q.Impossible {
					impossible++
					continue
				}
				possible++
				for _, answer := range q.Answers {
					if answer.Start < 0 || answer.Start > len(p.Context) || !strings.HasPrefix(p.Context[answer.Start:], answer.Text) {
						t.Errorf("%s: %q does not stand at %d", q.ID, answer.Text, answer.Start)
					}
				}
			}
		}
	}
	if got := len(ownSquad().all); got != possible || impossible == 0 || possible < 20 || squad.Version != "v2.0" {
		t.Errorf("%d questions; want %d, and some that are impossible", got, possible)
	}
	for _, q := range ownSquad().all {
		if len(q.needed) != 1 || len(q.related) == 0 {
			t.Errorf("%s: needed %d, related %d", q.text, q.needed, q.related)
		}
		for _, a := range q.answers {
			if !strings.Contains(ownSquad().documents[q.needed[0]], a) {
				t.Errorf("%s: %q is not in the document needed", q.text, a)
			}
		}
	}

	var hotpot []struct {
		ID      string  `json:"_id"`
		Facts   [][]any `json:"supporting_facts"`
		Context [][]any
	}
	if err := json.Unmarshal(hotpotFile, &hotpot); err != nil {
		t.Fatal(err)
	}
	for _, q := range hotpot {
		if len(q.Context) != 10 || len(q.Facts) != 2 {
			t.Errorf("%s: %d paragraphs, %d facts; want 10 and 2", q.ID, len(q.Context), len(q.Facts))
		}
		for _, f := range q.Facts {
			found := false
			for _, p := range q.Context {
				found = found || p[0] == f[0] && int(f[1].(float64)) < len(p[1].([]any))
			}
			if !found {
				t.Errorf("%s: no sentence %v", q.ID, f)
			}
		}
	}
	if got := len(ownHotpotQA().all); got != len(hotpot) || got < 5 {
		t.Errorf("%d questions; want %d", got, len(hotpot))
	}
}

// A file of one's own is told by its hash; what is wrong with it is said.
func TestLoad(t *testing.T) {
	path := filepath.Join(t.TempDir(), "questions.json")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write(string(squadFile))
	q, err := LoadSquad(path)
	if err != nil || q.hash == "" || q.data("squad")["squad"] != q.hash {
		t.Errorf("%+v, %v", q, err)
	}
	if ownSquad().data("squad") != nil {
		t.Error("the package's own questions have a hash")
	}
	for want, text := range map[string]string{
		"not in the format of SQuAD":   "[]",
		"no questions":                 `{"data": []}`,
		`question "a" has no text`:     `{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "a", "answers": [{"text": "c"}]}]}]}]}`,
		`question "a" has answers []`:  `{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "a", "question": "q"}]}]}]}`,
		`question "a" has answers [""`: `{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "a", "question": "q", "answers": [{"text": ""}]}]}]}]}`,
	} {
		write(text)
		if _, err := LoadSquad(path); err == nil || !strings.Contains(err.Error(), want) || !strings.HasPrefix(err.Error(), path) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	for want, text := range map[string]string{
		"not in the format of HotpotQA":   "{}",
		"no questions":                    "[]",
		`question "a" has no documents`:   `[{"_id": "a", "question": "q", "answer": "b", "context": []}]`,
		"has 1 parts; want a title":       `[{"_id": "a", "question": "q", "answer": "b", "context": [["t"]]}]`,
		`question "a" has answers [""]`:   `[{"_id": "a", "question": "q", "context": [["t", ["s"]]]}]`,
		"cannot unmarshal number into Go": `[{"_id": "a", "question": "q", "answer": "b", "context": [["t", [1]]]}]`,
	} {
		write(text)
		if _, err := LoadHotpotQA(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

func FuzzParseSquad(f *testing.F) {
	f.Add([]byte(`{"data": [{"paragraphs": [{"context": "c", "qas": [{"id": "a", "question": "q", "answers": [{"text": "c"}]}]}]}]}`))
	f.Add([]byte(`{"data": [{"paragraphs": [{"context": "c"}, {"context": "c", "qas": [{"is_impossible": true}]}]}]}`))
	f.Fuzz(func(t *testing.T, data []byte) { usable(t)(ParseSquad(data)) })
}

func FuzzParseHotpotQA(f *testing.F) {
	f.Add([]byte(`[{"_id": "a", "question": "q", "answer": "b", "context": [["t", ["s", " u"]], ["v", []]]}]`))
	f.Add([]byte(`[{"context": [null]}]`))
	f.Fuzz(func(t *testing.T, data []byte) { usable(t)(ParseHotpotQA(data)) })
}

// usable checks that every question has answers, and documents that exist.
func usable(t *testing.T) func(q *Questions, err error) {
	return func(q *Questions, err error) {
		if err != nil {
			return
		}
		for _, x := range q.all {
			if x.text == "" || len(x.answers) == 0 || len(x.needed) == 0 {
				t.Errorf("%+v", x)
			}
			for _, d := range append(append([]int{}, x.needed...), x.related...) {
				if d < 0 || d >= len(q.documents) {
					t.Errorf("document %d of %d", d, len(q.documents))
				}
			}
		}
	}
}
