package longbench

import (
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

// golden are scores computed in Python, with the made-up dictionary and model in testdata/jieba: see testdata/README.md.
type golden struct {
	Segments []struct {
		Text    string   `json:"text"`
		Words   []string `json:"words"`
		NoModel []string `json:"no_model"`
	} `json:"segments"`
	English []struct {
		scored
		Normalised string  `json:"normalised"`
		F1         float64 `json:"f1"`
		Rouge      float64 `json:"rouge"`
	} `json:"english"`
	Chinese []struct {
		scored
		F1    float64 `json:"f1"`
		Rouge float64 `json:"rouge"`
	} `json:"chinese"`
	Code           []scored `json:"code"`
	Classes        []string `json:"classes"`
	Classification []scored `json:"classification"`
	Numbers        []scored `json:"numbers"`
}

type scored struct {
	Prediction string  `json:"prediction"`
	Answer     string  `json:"answer"`
	Score      float64 `json:"score"`
}

func readGolden(t testing.TB) *golden {
	data, err := os.ReadFile("testdata/golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var g golden
	if err := json.Unmarshal(data, &g); err != nil {
		t.Fatal(err)
	}
	return &g
}

func segmenter(t testing.TB) *Segmenter {
	s, err := LoadSegmenter("testdata/jieba")
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// Every metric gives what Python gives.
func TestGolden(t *testing.T) {
	g, words := readGolden(t), segmenter(t)
	same := func(m metric, s scored, want float64) {
		t.Helper()
		if got := m.one(words, s.Prediction, s.Answer, g.Classes); !(math.Abs(got-want) < 1e-12) {
			t.Errorf("metric %d of %q and %q is %v; want %v", m, s.Prediction, s.Answer, got, want)
		}
	}
	plain := *words
	plain.model = nil
	for _, s := range g.Segments {
		if diff := cmp.Diff(s.Words, words.Cut(s.Text)); diff != "" && s.Text != "" {
			t.Errorf("words of %q: %s", s.Text, diff)
		}
		if diff := cmp.Diff(s.NoModel, plain.Cut(s.Text)); diff != "" && s.Text != "" {
			t.Errorf("words of %q by the dictionary alone: %s", s.Text, diff)
		}
	}
	for _, s := range g.English {
		if got := normalise(s.Prediction); got != s.Normalised {
			t.Errorf("%q becomes %q; want %q", s.Prediction, got, s.Normalised)
		}
		same(f1, s.scored, s.F1)
		same(rouge, s.scored, s.Rouge)
	}
	for _, s := range g.Chinese {
		same(f1Chinese, s.scored, s.F1)
		same(rougeChinese, s.scored, s.Rouge)
	}
	for _, s := range g.Code {
		same(editSimilarity, s, s.Score)
	}
	for _, s := range g.Classification {
		same(classification, s, s.Score)
	}
	for _, s := range g.Numbers {
		same(count, s, s.Score)
		same(retrieval, scored{Prediction: s.Prediction, Answer: "Paragraph " + s.Answer}, s.Score)
		same(retrievalChinese, scored{Prediction: s.Prediction, Answer: "段落" + s.Answer + "，段落9"}, s.Score)
	}
}

// Prompts and limits are byte for byte the published ones; the hash was made when they were compared.
func TestPublished(t *testing.T) {
	h := sha256.New()
	for _, s := range specs {
		fmt.Fprintf(h, "%s %d %q\n", s.name, s.limit, s.prompt)
	}
	if got, want := fmt.Sprintf("%x", h.Sum(nil)), "ed7f71a182d42dba861b44232bcfc3f48666ef8e5a6783d98cab4922eb2b77a8"; got != want {
		t.Errorf("prompts and limits have the hash %s; want %s", got, want)
	}
}

// Cases by hand.
func TestScore(t *testing.T) {
	classes := []string{"Date", "Number", "Number of something"}
	for _, c := range []struct {
		task, output string
		answers      []string
		want         float64
	}{
		// One of two words of the prediction is the one of the answer: P = 1/2, R = 1. The best answer counts.
		{"hotpotqa", "The Paris, France", []string{"Rome", "paris"}, 2. / 3},
		{"qasper", "unanswerable", []string{"no"}, 0},
		// Of five distinct words three are common, and of four: 2·(3/5·3/4)/(3/5+3/4), but for 1e-8.
		{"gov_report", "a b c x y", []string{"a b c z"}, 2. / 3},
		// The first line that is not empty.
		{"samsum", "\n\na b\nDialogue", []string{"a b"}, 1},
		{"triviaqa", "Paris\nPassage: Rome", []string{"Paris"}, 1},
		{"trec", "Number of something", []string{"Number of something"}, 1},
		{"trec", "Number or Date", []string{"Date"}, 1. / 2},
		{"trec", "Location", []string{"Date"}, 0},
		{"passage_count", "There are 7, or 8", []string{"7"}, 1. / 2},
		{"passage_retrieval_en", "Paragraph 12", []string{"Paragraph 12"}, 1},
		{"passage_retrieval_en", "Paragraph 1", []string{"Paragraph 12"}, 0},
		{"passage_retrieval_zh", "段落3", []string{"段落3"}, 1},
		// Comments and fences are left out; 2·3 characters of 4 + 4 are the same.
		{"lcc", "```go\n// here\nabcX\nabcd", []string{"abcd"}, 0.75},
		{"repobench-p", "x := 1", []string{"x := 1"}, 1},
		// 我们 is a word, and 学习 another: one of two.
		{"multifieldqa_zh", "我们。", []string{"我们学习"}, 2. / 3},
		{"dureader", "我们 学习", []string{"我们学习"}, 1},
	} {
		s := specs[slices.IndexFunc(specs, func(s spec) bool { return s.name == c.task })]
		if got := s.score(segmenter(t), c.output, &row{Answers: c.answers, Classes: classes}); !(math.Abs(got-c.want) < 1e-7) {
			t.Errorf("%s: %q scores %v; want %v", c.task, c.output, got, c.want)
		}
	}
}

// Without data each Chinese character is a word, and words and numbers stay whole.
func TestNoSegmenter(t *testing.T) {
	var s *Segmenter
	want := []string{"我", "们", "GPT", "-", "4", "，", " ", "3.5%"}
	if diff := cmp.Diff(want, s.Cut("我们GPT-4， 3.5%")); diff != "" {
		t.Error(diff)
	}
	if s.Hash() != "characters" || segmenter(t).Hash() == s.Hash() {
		t.Errorf("hashes are %q, %q", s.Hash(), segmenter(t).Hash())
	}
}

// Words are the text, whatever it is; scores are shares, and that of a text and itself is 1, if anything is left of it.
func TestLaws(t *testing.T) {
	words := segmenter(t)
	for _, s := range []*Segmenter{words, nil, {count: words.count, logTotal: words.logTotal}} {
		rapid.Check(t, func(t *rapid.T) {
			text := rapid.OneOf(rapid.String(), rapid.StringMatching(`[我们今天北京大学aZ19.%+ \n，。—]{0,30}`)).Draw(t, "text")
			if got := strings.Join(s.Cut(text), ""); got != text {
				t.Fatalf("%q becomes %q", text, got)
			}
			other := rapid.StringMatching(`[我们今天北京大学aZ19.%+ \n，。—]{0,30}`).Draw(t, "other")
			for m := f1; m <= editSimilarity; m++ {
				got := m.one(s, text, other, []string{text, other})
				if !(got >= 0 && got <= 1) {
					t.Fatalf("metric %d of %q and %q is %v", m, text, other, got)
				}
			}
			for _, m := range []metric{f1, f1Chinese, rouge} {
				if got := m.one(s, text, text, nil); got != 0 && !(got > 1-1e-7) {
					t.Fatalf("metric %d of %q and itself is %v", m, text, got)
				}
			}
		})
	}
}

func TestLoadSegmenterErrors(t *testing.T) {
	const dict, start, trans, emit = "我们 3 r\n", "P={'B': -1.0, 'S': -2}", "P={'B': {'E': -1}}", `P = {"B": {'\u6211': -1, "们": -2.5e1,},}`
	for want, files := range map[string][4]string{
		"":             {dict, start, trans, emit},
		"line 1 is":    {"我们", start, trans, emit},
		`occurs "x"`:   {"我们 x", start, trans, emit},
		"no words":     {"", start, trans, emit},
		"no key":       {dict, "P={1: 2}", trans, emit},
		"no {":         {dict, "P=3", trans, emit},
		"begin with P": {dict, "{}", trans, emit},
		"no finite":    {dict, start, trans, "P={'B': {'x': nan}}"},
		"want two":     {dict, start, trans, "P={'B': {'x': {'y': {}}}}"},
		"hexadecimal":  {dict, start, trans, `P={'B': {'\u62': 1}}`},
		"more after":   {dict, start, trans + "}", emit},
		"neither":      {dict, start, trans, "P={'B': 1 'E': 2}"},
		"closing":      {dict, start, trans, "P={'B"},
	} {
		dir := t.TempDir()
		os.Mkdir(filepath.Join(dir, "finalseg"), 0o777)
		for i, name := range []string{"dict.txt", "finalseg/prob_start.py", "finalseg/prob_trans.py", "finalseg/prob_emit.py"} {
			if err := os.WriteFile(filepath.Join(dir, name), []byte(files[i]), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		s, err := LoadSegmenter(dir)
		if want == "" {
			if err != nil || s.model.emit[beginning]['们'] != -25 || s.model.start[ending] != impossible {
				t.Errorf("%+v, %v", s, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}
