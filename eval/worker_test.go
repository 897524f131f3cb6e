package eval_test

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/eval"
	"github.com/anchorattention/anchor/eval/needle"
	"github.com/anchorattention/anchor/generate"
	"github.com/anchorattention/anchor/model/retrieval"
	"github.com/anchorattention/anchor/tokenizer"
)

// worker returns one with the constructed model.
func worker(t testing.TB) *eval.Worker {
	m, file, err := retrieval.Build()
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	return &eval.Worker{Model: &eval.Model{ID: "retrieval", Model: m, Format: eval.Format{Tokenizer: tok}}, Tasks: []*eval.Task{needle.Lookup()}}
}

var methods = []eval.Method{
	{Name: "dense", Attention: generate.Attention{Method: "dense", Params: anchor.DefaultParams()}},
	{Name: "anchor", Attention: generate.DefaultAttention()},
}

// The constructed model answers every lookup, at every depth, under dense attention and AnchorAttention; records have
// what was measured.
func TestLookup(t *testing.T) {
	w := worker(t)
	const length = 4096
	p := eval.Plan{Tasks: w.Tasks, Lengths: []int{length}, Samples: 11, Seed: 3, Methods: methods, Audit: 64, Model: w.Model.ID, Format: &w.Model.Format}
	store, err := eval.OpenStore(filepath.Join(t.TempDir(), "results.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if err := eval.Run(context.Background(), p.Jobs(), store, w.Do, nil); err != nil {
		t.Fatal(err)
	}
	depths := make(map[float64]int)
	for _, r := range store.Records() {
		if r.Score != 1 || len(r.Answers) != 1 || r.Output != r.Answers[0] || r.End != generate.EndOfText {
			t.Errorf("%s: %q, score %v; want %q", &r.Job, r.Output, r.Score, r.Answers)
		}
		depths[r.Values["depth"]]++
		if r.PromptTokens != length-4 || r.FirstToken <= 0 || r.Seconds < r.FirstToken || r.ISA == "" || r.Version != eval.Version() {
			t.Errorf("%+v", r.Done)
		}
		if (r.Density == 1) != (r.Method == "dense") || r.Recall == nil || r.Recall.Min < 0.99 {
			t.Errorf("%s: density %v, recall %+v", &r.Job, r.Density, r.Recall)
		}
	}
	if len(depths) != 11 || depths[0] != 2 || depths[1] != 2 || depths[0.5] != 2 {
		t.Errorf("depths: %v", depths)
	}
	e := eval.Summarise(store.Records(), 1)
	if len(e.Scores) != 2 || e.Scores[0].Score.Mean != 1 || len(e.Scores[0].Depths) != 11 || e.Scores[1].Change.Mean != 0 {
		t.Errorf("%+v", e.Scores)
	}
}

// A job is itself again after a journey as JSON, and then gives the same; its ID is its own.
func TestJob(t *testing.T) {
	w := worker(t)
	value := 8.0
	p := eval.Plan{
		Tasks: w.Tasks, Lengths: []int{300, 200, 300}, Samples: 2, Seed: 1 << 63, Model: w.Model.ID,
		Methods: append(methods[:2:2], eval.Method{Name: "anchor=8", Attention: generate.Attention{Method: "anchor", Value: &value, Params: anchor.DefaultParams()}}),
	}
	jobs := p.Jobs()
	if len(jobs) != 2*2*3 || jobs[0].Length != 200 || jobs[2].Method != "anchor=8" || jobs[3].Index != 1 {
		t.Fatalf("%+v", jobs)
	}
	ids := make(map[string]bool)
	for _, j := range jobs {
		data, err := json.Marshal(j)
		if err != nil {
			t.Fatal(err)
		}
		if len(data) > 1000 {
			t.Errorf("a job has %d bytes; want less than 1000", len(data))
		}
		var back eval.Job
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(j, back, cmpopts.EquateEmpty()); diff != "" || back.ID() != j.ID() {
			t.Errorf("%s: %s", data, diff)
		}
		ids[j.ID()] = true
	}
	if len(ids) != len(jobs) {
		t.Errorf("%d IDs of %d jobs", len(ids), len(jobs))
	}
	a, err := w.Do(context.Background(), jobs[1], nil)
	if err != nil {
		t.Fatal(err)
	}
	b, err := worker(t).Do(context.Background(), jobs[1], nil)
	if err != nil {
		t.Fatal(err)
	}
	timings := cmpopts.IgnoreFields(eval.Done{}, "FirstToken", "AttentionSeconds", "Seconds")
	if diff := cmp.Diff(a, b, timings, cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

// A worker refuses what it cannot do, and says why.
func TestAccepts(t *testing.T) {
	w := worker(t)
	good := eval.Plan{Tasks: w.Tasks, Lengths: []int{200}, Samples: 1, Methods: methods, Model: w.Model.ID}.Jobs()[0]
	if err := w.Accepts(&good); err != nil {
		t.Fatal(err)
	}
	for want, change := range map[string]func(j *eval.Job){
		"task is other/lookup; want one of lookup/lookup": func(j *eval.Job) { j.Suite = "other" },
		"for model b; this is retrieval":                  func(j *eval.Job) { j.Model = "b" },
		`for chat template "x"; that of the model is ""`:  func(j *eval.Job) { j.Chat = "x" },
		"for data map[essay:y]; those here are map[]":     func(j *eval.Job) { j.Data = map[string]string{"essay": "y"} },
		"length is 1048577; want 1 … 1048576":             func(j *eval.Job) { j.Length = 1<<20 + 1 },
		"index is -1":                                     func(j *eval.Job) { j.Index = -1 },
		"audit is -1":                                     func(j *eval.Job) { j.Audit = -1 },
		"does not fit":                                    func(j *eval.Job) { j.Length = 100 },
		"Attention.Method is \"no\"; want one of":         func(j *eval.Job) { j.Attention.Method = "no" },
	} {
		j := good
		change(&j)
		if _, err := w.Do(context.Background(), j, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
		if err := w.Check(&j); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v from Check; want %q", err, want)
		}
	}
}

// Where method auto goes dense follows from the job, on whichever machine, and jobs that differ in that are others; costs are
// no part of jobs under other methods.
func TestCosts(t *testing.T) {
	gather, walk := &anchor.Costs{}, &anchor.Costs{GatherRows: 1e9, GatherRowsPairs: 1e9} // dense nowhere, and wherever anything is kept
	auto := eval.Method{Name: "auto", Attention: generate.Attention{
		Method: "auto", Params: anchor.Params{Block: 16, Step: 4, Init: 16, Local: 16, Tail: 16, Theta: 12},
	}}
	w := worker(t)
	jobs := func(costs *anchor.Costs) []eval.Job {
		return eval.Plan{Tasks: w.Tasks, Lengths: []int{300}, Samples: 1, Methods: append(methods[:2:2], auto), Costs: costs, Model: w.Model.ID}.Jobs()
	}
	all := [][]eval.Job{jobs(nil), jobs(gather), jobs(walk)}
	ids := make(map[string]bool)
	for _, jobs := range all {
		for _, j := range jobs {
			ids[j.ID()] = true
		}
	}
	if len(ids) != 2+3 {
		t.Errorf("%d jobs; want 2 and auto under three costs", len(ids))
	}
	density := make(map[*anchor.Costs]float64)
	for i, costs := range []*anchor.Costs{gather, walk} {
		for _, own := range []*anchor.Costs{nil, gather, walk} {
			w.Costs = own
			r, err := w.Do(t.Context(), all[1+i][2], nil)
			if err != nil {
				t.Fatal(err)
			}
			if density[costs] == 0 {
				density[costs] = r.Density
			}
			if r.Density != density[costs] {
				t.Errorf("density is %v on one machine and %v on another", density[costs], r.Density)
			}
		}
	}
	if !(density[gather] < density[walk]) {
		t.Errorf("density is %v where keys cost nothing to gather, %v where they cost everything", density[gather], density[walk])
	}
}
