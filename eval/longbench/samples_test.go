package longbench_test

import (
	"compress/gzip"
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/eval"
	"github.com/anchorattention/anchor/eval/longbench"
	"github.com/anchorattention/anchor/generate"
	"github.com/anchorattention/anchor/model/retrieval"
	"github.com/anchorattention/anchor/tokenizer"
)

// load reads all the files of testdata/samples.
func load(t testing.TB) map[string]*longbench.Task {
	words, err := longbench.LoadSegmenter("testdata/jieba")
	if err != nil {
		t.Fatal(err)
	}
	tasks := make(map[string]*longbench.Task)
	for _, name := range append(longbench.Names(), longbench.EvenNames()...) {
		task, err := longbench.Load("testdata/samples", name, words)
		if os.IsNotExist(err) {
			continue
		}
		if err != nil {
			t.Fatal(err)
		}
		tasks[name] = task
	}
	if len(tasks) != 11 {
		t.Fatalf("%d tasks", len(tasks))
	}
	return tasks
}

func format(t testing.TB) *eval.Format {
	file, err := os.Open("../../tokenizer/testdata/smollm2.json.gz")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	unpacked, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	data, err := io.ReadAll(unpacked)
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Parse(data)
	if err != nil {
		t.Fatal(err)
	}
	return &eval.Format{Tokenizer: tok, Before: "<|im_start|>user\n", After: "<|im_end|>\n<|im_start|>assistant\n"}
}

// Tasks, their number, and what is published of them.
func TestTasks(t *testing.T) {
	if n, e := len(longbench.Names()), len(longbench.EvenNames()); n != 21 || e != 13 {
		t.Errorf("%d tasks and %d of LongBench-E", n, e)
	}
	for window, want := range map[int]int{4096: 3500, 8192: 7500, 16384: 15500, 32768: 31500, 131072: 127500, 1024: 500, 1023: 0} {
		if got := longbench.MaxPrompt(window); got != want {
			t.Errorf("in %d a prompt has %d; want %d", window, got, want)
		}
	}
	limits := map[string]int{"hotpotqa": 32, "qasper_e": 128, "multifieldqa_zh": 64, "dureader": 128, "gov_report": 512, "trec": 64,
		"samsum": 128, "passage_count": 32, "passage_retrieval_en": 32, "passage_retrieval_zh": 32, "lcc": 64}
	f := format(t)
	for name, task := range load(t) {
		s, err := task.Sample(f, 4096, 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		if s.MaxTokens != limits[name] {
			t.Errorf("%s generates %d tokens; want %d", name, s.MaxTokens, limits[name])
		}
		if strings.ContainsAny(s.Prompt, "{}") && name != "lcc" {
			t.Errorf("%s: %q", name, s.Prompt)
		}
		if want := slices.Contains([]string{"trec", "samsum", "lcc"}, name); s.Plain != want {
			t.Errorf("%s without a template: %v; want %v", name, s.Plain, want)
		}
		text := f.Tokenizer.Decode(f.EncodeSample(s), false)
		if strings.Contains(text, "<|im_start|>") == s.Plain || !strings.Contains(text, s.Prompt) {
			t.Errorf("%s: %q", name, text)
		}
		if got := task.Score(s, s.Answers[0]); !(got > 1-1e-7) {
			t.Errorf("%s: its answer scores %v", name, got)
		}
	}
}

// A prompt is put together as published.
func TestPrompt(t *testing.T) {
	tasks, f := load(t), format(t)
	for name, want := range map[string]string{
		"trec": "Please determine the type of the question below. Here are some examples of questions.\n\n" +
			"Question: What city is on the Lun ?\nType: City\nQuestion: When was the bridge built ?\nType: Date\n\n" +
			"Question: Who wrote the letter ?\nType:",
		"lcc": "Please complete the code given below. \ndef area(width, height):\n    \"\"\"Return the area of a rectangle.\"\"\"\nNext line of code:\n",
		"multifieldqa_zh": "阅读以下文字并用中文简短回答：\n\n我们今天在南京市学习。图书馆在长江大桥旁边。\n\n" +
			"现在请基于上面的文章回答下面的问题，只告诉我答案，不要输出任何其他字词。\n\n问题：图书馆在哪里？\n回答：",
	} {
		s, err := tasks[name].Sample(f, 4096, 0, 1)
		if err != nil {
			t.Fatal(err)
		}
		if s.Prompt != want {
			t.Errorf("%s: %q; want %q", name, s.Prompt, want)
		}
	}
}

// What is too long keeps half of the limit from the head and half from the tail, by tokens, and then the template; what fits
// is whole.
func TestCut(t *testing.T) {
	task, f := load(t)["qasper_e"], format(t)
	whole, err := task.Sample(f, 32768, 2, 1)
	if err != nil {
		t.Fatal(err)
	}
	s, err := task.Sample(f, 4096, 2, 1)
	if err != nil {
		t.Fatal(err)
	}
	ids := f.Tokenizer.Encode(whole.Prompt, true).IDs
	want := f.Tokenizer.Decode(ids[:1750], true) + f.Tokenizer.Decode(ids[len(ids)-1750:], true)
	if whole.Values["cut"] != 0 || s.Values["cut"] != float64(len(ids)-3500) || s.Prompt != want {
		t.Errorf("cut %v of %d, %v", s.Values["cut"], len(ids), s.Prompt == want)
	}
	if !strings.HasPrefix(s.Prompt, "You are given a scientific article") || !strings.HasSuffix(s.Prompt, "Question: What do the readers write?\n\nAnswer:") {
		t.Errorf("%.60q … %q", s.Prompt, s.Prompt[len(s.Prompt)-60:])
	}
	if n := len(f.EncodeSample(s)); n+s.MaxTokens > 4096 {
		t.Errorf("%d tokens and %d", n, s.MaxTokens)
	}
	var buckets []string
	for i := range task.Samples {
		s, err := task.Sample(f, 32768, i, 1)
		if err != nil {
			t.Fatal(err)
		}
		buckets = append(buckets, longbench.Bucket(&eval.Record{Done: eval.Done{Values: s.Values}}))
	}
	if !slices.Equal(buckets, longbench.Buckets) {
		t.Errorf("buckets %v", buckets)
	}
}

func TestLoadErrors(t *testing.T) {
	good := `{"input":"a","context":"b","answers":["Paragraph 1"],"length":3,"dataset":"trec","language":"en","all_classes":["x"],"_id":"1"}` + "\n"
	for want, c := range map[string]struct{ name, data string }{
		"task is \"other\"":     {"other", good},
		"task is \"musique_e\"": {"musique_e", good},
		"no samples":            {"trec", "\n"},
		"line 2: unexpected":    {"trec", good + "{"},
		"dataset is":            {"trec", strings.Replace(good, "trec", "lsht", 1)},
		"no answers":            {"trec", strings.Replace(good, `"Paragraph 1"`, "", 1)},
		"length is":             {"trec", strings.Replace(good, `:3,`, ":-3,", 1)},
		"no all_classes":        {"trec", strings.Replace(good, `["x"]`, "null", 1)},
		"by its number":         {"passage_retrieval_en", strings.NewReplacer("trec", "passage_retrieval_en", "Paragraph 1", "1").Replace(good)},
		"no such file":          {"lcc", ""},
	} {
		dir := t.TempDir()
		if c.data != "" {
			if err := os.WriteFile(filepath.Join(dir, c.name+".jsonl"), []byte(c.data), 0o666); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := longbench.Load(dir, c.name, nil); err == nil || !strings.Contains(err.Error(), want) && !(want == "no such file" && os.IsNotExist(err)) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	f, task := format(t), load(t)["gov_report"]
	for want, length := range map[string]int{"want ≥ 1024": 1000, "there is none of index 5": 4096} {
		index := 0
		if length > 1024 {
			index = 5
		}
		if _, err := task.Sample(f, length, index, 1); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

// A run over tasks goes through model, store and summary.
func TestRun(t *testing.T) {
	m, file, err := retrieval.Build()
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	w := &eval.Worker{Model: &eval.Model{ID: "retrieval", Model: m, Format: eval.Format{Tokenizer: tok}}}
	tasks := load(t)
	for _, name := range []string{"hotpotqa", "trec", "passage_count"} {
		w.Tasks = append(w.Tasks, tasks[name].Task)
	}
	p := eval.Plan{Tasks: w.Tasks, Lengths: []int{2048}, Samples: 1, Model: w.Model.ID, Format: &w.Model.Format,
		Methods: []eval.Method{{Name: "anchor", Attention: generate.Attention{Method: "anchor", Params: anchor.DefaultParams()}}}}
	store, err := eval.OpenStore(filepath.Join(t.TempDir(), "results.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := eval.Run(context.Background(), p.Jobs(), store, w.Do, nil); err != nil {
		t.Fatal(err)
	}
	for _, r := range store.Records() {
		if r.Suite != longbench.Suite || r.PromptTokens < 20 || r.Score < 0 || r.Score > 1 || r.Values["length"] < 1 {
			t.Errorf("%+v", r)
		}
	}
	if e := eval.Summarise(store.Records(), 1); len(e.Scores) != 3 {
		t.Errorf("%+v", e)
	}
}

func ExampleRougeL() {
	fmt.Printf("%.4f\n", longbench.RougeL("the cat sat. it slept", "the cat slept"))
	fmt.Println(longbench.EditSimilarity("return a+b", "return a + b"))
	// Output:
	// 0.7500
	// 0.91
}
