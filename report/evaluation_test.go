package report

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// madeUpEvaluation returns scores that look like those of a model of 7 billion weights.
func madeUpEvaluation(suite string, tasks []string, lengths []int, methods []string, depths bool) *Evaluation {
	rng := rand.New(rand.NewPCG(1, 0))
	e := &Evaluation{
		Command: "anchor eval " + suite + " -o out --report", Machine: "a machine, 2 threads, linux", Model: "Model-7B", Suite: suite, ISA: "avx512",
		Versions: []string{"v1"}, Seed: 42, Methods: methods, Lengths: lengths, Notes: []string{"Made up."},
	}
	score := func(task string, i int, length int, m int) Score {
		mean := 0.98 - 0.04*float64(i%7)*float64(length)/131072 - 0.03*float64(m)*float64(length)/131072 - 0.02*rng.Float64()
		s := Score{
			Task: task, Length: length, Method: methods[m], Samples: 100, Tasks: 1, PromptTokens: float64(length - 128),
			Score:   Interval{mean, max(mean-0.05, 0), min(mean+0.04, 1)},
			Density: 1 / (1 + float64(m)*float64(length)/16384), FirstToken: float64(length) / 1000 / (1 + 0.5*float64(m)),
			Recall: &Recall{0.99, 0.97, 0.5},
		}
		if m > 0 {
			s.Change = &Interval{-0.02 * float64(m), -0.03 * float64(m), -0.01*float64(m) + 0.01}
		}
		if depths {
			for d := range 11 {
				s.Depths = append(s.Depths, Depth{float64(d) / 10, 3, max(0, min(1, 1-float64(m)*float64(length)/400000*float64(10-d)/5))})
			}
		}
		return s
	}
	for i, task := range tasks {
		for _, length := range lengths {
			for m := range methods {
				e.Scores = append(e.Scores, score(task, i, length, m))
			}
		}
	}
	for _, length := range lengths {
		for m := range methods {
			s := score("", 3, length, m)
			s.Tasks, s.Samples, s.Depths = len(tasks), 100*len(tasks), nil
			e.Overall = append(e.Overall, s)
		}
	}
	return e
}

var rulerTasks = []string{"niah_multikey_3", "cwe", "fwe", "vt", "qa_2", "qa_1", "niah_multikey_2", "niah_multikey_1", "niah_multiquery",
	"niah_multivalue", "niah_single_3", "niah_single_2", "niah_single_1"}

// evaluations are of every kind: of many tasks, of depths, of one length, of methods alone, of names that are hostile.
func evaluations() map[string]*Evaluation {
	many := []string{"dense", "anchor=8", "anchor=12", "anchor=16", "flexprefill", "xattention", "minference"}
	hostile := madeUpEvaluation("</script><script>alert(1)</script>", []string{"<b>\x1b[31m"}, []int{4096}, []string{"dense", "a<b&c"}, false)
	hostile.Model, hostile.Notes, hostile.Command = "<i>\n", []string{"<u>"}, "anchor eval '</pre>'"
	incomplete := madeUpEvaluation("ruler", rulerTasks, []int{4096, 8192}, []string{"dense", "anchor"}, false)
	incomplete.Scores = incomplete.Scores[:5]
	incomplete.Overall = incomplete.Overall[:3]
	return map[string]*Evaluation{
		"ruler":      madeUpEvaluation("ruler", rulerTasks, []int{4096, 8192, 16384, 32768, 65536, 131072}, many, false),
		"niah":       madeUpEvaluation("niah", []string{"niah"}, []int{4096, 8192, 16384, 32768, 65536, 131072}, []string{"dense", "anchor", "streaming"}, true),
		"one":        madeUpEvaluation("lookup", []string{"lookup"}, []int{4096}, []string{"dense"}, true),
		"hostile":    hostile,
		"incomplete": incomplete,
		"nothing":    {},
	}
}

// A page is written whole, needs no network and no other file, and says what was evaluated; what is in names does nothing.
func TestEvaluationPage(t *testing.T) {
	if *show != "" {
		defer func(fewer int) { dots = fewer }(dots)
		dots = 144
	}
	for name, e := range evaluations() {
		dir := t.TempDir()
		if *show != "" {
			dir = filepath.Join(*show, "evaluation-"+name)
		}
		last := 0.0
		if err := e.WriteDir(t.Context(), dir, func(share float64) {
			if share <= last {
				t.Errorf("%s: a share of %v after %v", name, share, last)
			}
			last = share
		}); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		page := checkDir(t, dir)
		for _, bad := range []string{"alert(1)</script>", "<b>\uFFFD", "\x1b", "<u>", "<i>", "a<b", "%!"} {
			if strings.Contains(page, bad) {
				t.Errorf("%s: the page has %q", name, bad)
			}
		}
		if name == "ruler" {
			for _, want := range []string{"RULER: Model-7B", "Made up.", "niah_multikey_3", "131,072", "anchor=12", "Score against density",
				"Score against time to the first token", "Scores by task, 65,536 tokens", "missed"} {
				if !strings.Contains(page, want) {
					t.Errorf("the page lacks %q", want)
				}
			}
		}
		if name == "niah" && !strings.Contains(page, "Scores by length and depth") {
			t.Error("no map of depths")
		}
		for _, f := range e.figures() {
			for _, end := range []string{".svg", ".png"} {
				if !strings.Contains(page, f.file+end) {
					t.Errorf("%s: no link to %s", name, f.file+end)
				}
				if _, err := os.Stat(filepath.Join(dir, f.file+end)); err != nil {
					t.Error(err)
				}
			}
		}
		var back Evaluation
		data, err := os.ReadFile(filepath.Join(dir, "evaluation.json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(e, &back); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
	// A run that was ended leaves no page.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	if err := evaluations()["one"].WriteDir(ctx, dir, nil); err == nil {
		t.Error("no error after the end of the context")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("%d files after the end of the context", len(entries))
	}
}

// The table has a line for each task and length, worst first, and one for each method.
func TestEvaluationTable(t *testing.T) {
	var out strings.Builder
	e := madeUpEvaluation("ruler", []string{"bad", "good"}, []int{4096, 8192}, []string{"dense", "anchor"}, false)
	e.Scores[1].Samples = 50
	if err := e.WriteTable(&out); err != nil {
		t.Fatal(err)
	}
	var got []string
	for line := range strings.Lines(out.String()) {
		if f := strings.Fields(line); len(f) > 3 && (f[1] == "4,096" || f[1] == "8,192" || f[0] == "4,096" || f[0] == "8,192") {
			got = append(got, strings.Join(f[:3], " "))
		}
	}
	want := []string{"bad 4,096 50–100", "bad 8,192 100", "good 4,096 100", "good 8,192 100",
		"4,096 dense 200", "4,096 anchor 200", "8,192 dense 200", "8,192 anchor 200"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff, out.String())
	}
	s := e.Overall[1]
	for _, want := range []string{"Made up.", fmt.Sprintf("%.1f [%.1f, %.1f]", 100*s.Score.Mean, 100*s.Score.Low, 100*s.Score.High), "-2.0 [-3.0, +0.0]"} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("%q is not in\n%s", want, out.String())
		}
	}
	for name, e := range evaluations() {
		out.Reset()
		if err := e.WriteTable(&out); err != nil {
			t.Error(err)
		}
		if strings.Contains(out.String(), "\x1b") || strings.Contains(out.String(), "%!") {
			t.Errorf("%s: %q", name, out.String())
		}
	}
}
