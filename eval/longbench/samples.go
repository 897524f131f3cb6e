package longbench

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/anchorattention/anchor/eval"
)

// A row is a line of a published file.
type row struct {
	Input   string   `json:"input"`
	Context string   `json:"context"`
	Answers []string `json:"answers"`
	Length  int      `json:"length"` // in words of English, characters of Chinese
	Dataset string   `json:"dataset"`
	Classes []string `json:"all_classes"` // of classification
}

// A Task is one of the benchmark's, and how many samples it has.
type Task struct {
	*eval.Task
	Samples int
}

// Suite is what records call the benchmark.
const Suite = "longbench"

// Load reads the samples of a task, of [Names] or [EvenNames], from NAME.jsonl in a directory. Words may be nil; see the package
// documentation.
func Load(dir, name string, words *Segmenter) (*Task, error) {
	base, even := strings.CutSuffix(name, evenSuffix)
	i := slices.IndexFunc(specs, func(s spec) bool { return s.name == base && (s.even || !even) })
	if i < 0 {
		return nil, fmt.Errorf("longbench: task is %q; want one of %s, or one of %s", name, strings.Join(Names(), ", "), strings.Join(EvenNames(), ", "))
	}
	path := filepath.Join(dir, name+".jsonl")
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &specs[i]
	rows, err := parseRows(data, s)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	hashes := map[string]string{"samples": eval.Hash(data)}
	if Chinese(base) {
		hashes["words"] = words.Hash()
	}
	t := &Task{&eval.Task{Suite: Suite, Name: name, Data: hashes}, len(rows)}
	t.Sample = func(f *eval.Format, length, index int, seed uint64) (*eval.Sample, error) {
		if index >= len(rows) {
			return nil, fmt.Errorf("longbench: %s has %d samples; there is none of index %d", path, len(rows), index)
		}
		sample, err := s.sample(f, &rows[index], length)
		if err != nil {
			return nil, err
		}
		sample.Task, sample.Index, sample.Seed = name, index, seed
		return sample, nil
	}
	t.Score = func(sample *eval.Sample, output string) float64 {
		return s.score(words, output, &rows[sample.Index])
	}
	return t, nil
}

// parseRows reads the lines of a file of a task.
func parseRows(data []byte, s *spec) ([]row, error) {
	var rows []row
	line := 0
	for text := range bytes.Lines(data) {
		line++
		if len(bytes.TrimSpace(text)) == 0 {
			continue
		}
		var r row
		err := json.Unmarshal(text, &r)
		if err == nil {
			err = r.check(s)
		}
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		rows = append(rows, r)
	}
	if len(rows) == 0 {
		return nil, errors.New("no samples")
	}
	return rows, nil
}

// check reports what a task cannot do with a row.
func (r *row) check(s *spec) error {
	switch {
	case r.Dataset != s.name && r.Dataset != s.name+evenSuffix:
		return fmt.Errorf("dataset is %q; want %q", r.Dataset, s.name)
	case len(r.Answers) == 0:
		return errors.New("no answers; want at least one")
	case r.Length < 0:
		return fmt.Errorf("length is %d; want ≥ 0", r.Length)
	case s.metric == classification && len(r.Classes) == 0:
		return errors.New("no all_classes; want the names of the classes")
	}
	for _, a := range r.Answers {
		if s.metric == retrieval && !paragraph.MatchString(a) || s.metric == retrievalChinese && !paragraphChinese.MatchString(a) {
			return fmt.Errorf("an answer is %.40q; want it to name a paragraph by its number", a)
		}
	}
	return nil
}

// MaxPrompt returns how many tokens a prompt may have, before the chat template, in a window of so many: the benchmark's 3500 of 4096,
// 7500 of 8192, 15500 of 16384, 31500 of 32768.
func MaxPrompt(window int) int { return max(window/1024*1000-500, 0) }

// sample makes the sample of a row in a window.
func (s *spec) sample(f *eval.Format, r *row, window int) (*eval.Sample, error) {
	limit := MaxPrompt(window)
	if limit == 0 {
		return nil, fmt.Errorf("longbench: length is %d; want ≥ 1024", window)
	}
	sample := &eval.Sample{
		Suite: Suite, Length: window, MaxTokens: s.limit, Answers: r.Answers, Plain: s.plain,
		Prompt: strings.NewReplacer("{context}", r.Context, "{input}", r.Input).Replace(s.prompt),
		Values: map[string]float64{"length": float64(r.Length), "cut": 0},
	}
	if ids := f.Tokenizer.Encode(sample.Prompt, true).IDs; len(ids) > limit {
		half := limit / 2
		sample.Prompt = f.Tokenizer.Decode(ids[:half], true) + f.Tokenizer.Decode(ids[len(ids)-half:], true)
		sample.Values["cut"] = float64(len(ids) - 2*half)
	}
	if n := len(f.EncodeSample(sample)); n+s.limit > window {
		return nil, fmt.Errorf("longbench: %s: a prompt of %d tokens and %d to generate %w into %d", s.name, n, s.limit, eval.ErrTooLong, window)
	}
	return sample, nil
}

// score returns how good an answer to a row is.
func (s *spec) score(words *Segmenter, output string, r *row) float64 {
	if s.firstLine {
		output = firstLine(output)
	}
	return s.metric.score(words, output, r.Answers, r.Classes)
}

// Buckets are the lengths, in the published unit, between which LongBench-E tells scores apart.
var Buckets = []string{"0-4k", "4-8k", "8k+"}

// Bucket returns which of [Buckets] a record belongs to.
func Bucket(r *eval.Record) string {
	switch length := r.Values["length"]; {
	case length < 4000:
		return Buckets[0]
	case length < 8000:
		return Buckets[1]
	}
	return Buckets[2]
}
