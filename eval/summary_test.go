package eval_test

import (
	"math"
	"math/rand/v2"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/eval"
	"github.com/anchorattention/anchor/generate"
	"github.com/anchorattention/anchor/report"
)

// The interval of a mean has the width that the normal distribution gives it, holds the true mean about 95 times in
// 100, and follows from the seed.
func TestBootstrap(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	held := 0
	const trials = 400
	for range trials {
		group := make([]float64, 60)
		for i := range group {
			group[i] = rng.NormFloat64()
		}
		i := eval.Bootstrap([][]float64{group}, rng)
		if i.Low <= 0 && i.High >= 0 {
			held++
		}
		if want := 2 * 1.96 / math.Sqrt(60); math.Abs(i.High-i.Low-want) > 0.5*want {
			t.Fatalf("%+v; want a width of about %v", i, want)
		}
		if !(i.Low <= i.Mean && i.Mean <= i.High) {
			t.Fatalf("%+v does not hold its mean", i)
		}
	}
	if held < trials*90/100 || held > trials*98/100 {
		t.Errorf("%d of %d intervals hold the true mean; want about 95 %%", held, trials)
	}

	groups := [][]float64{{0, 1, 1}, {0.25}}
	a := eval.Bootstrap(groups, rand.New(rand.NewPCG(2, 0)))
	b := eval.Bootstrap(groups, rand.New(rand.NewPCG(2, 0)))
	if a != b || a.Mean != (2./3+0.25)/2 {
		t.Errorf("%+v, %+v; want equal ones with a mean of %v", a, b, (2./3+0.25)/2)
	}
	if i := eval.Bootstrap([][]float64{{1, 1, 1}}, rng); i.Low != 1 || i.High != 1 {
		t.Errorf("of equal values: %+v", i)
	}
}

// Scores are by task, length and method; changes are those against dense attention on the same samples; the worst task comes
// first; the order of the records does not matter.
func TestSummarise(t *testing.T) {
	var records []eval.Record
	add := func(task, method string, index int, score, depth float64) {
		j := eval.Job{Suite: "s", Task: task, Length: 100, Index: index, Method: method, Attention: generate.Attention{Method: method}}
		records = append(records, eval.Record{ID: j.ID(), Job: j, Done: eval.Done{
			Score: score, Density: 0.5, FirstToken: float64(1 + index*index), PromptTokens: 90, Values: map[string]float64{"depth": depth}, Version: "v", ISA: "avx2",
			Recall: &anchor.Recall{Mean: 0.9, P5: 0.8, Min: score},
		}})
	}
	for i := range 4 {
		add("easy", "dense", i, 0.5, 0)
		add("easy", "anchor", i, 0.75, 0)
		add("hard", "dense", i, 1, float64(i%2))
		add("hard", "anchor", i, float64(i%2), float64(i%2))
	}
	e := eval.Summarise(records, 1)
	if diff := cmp.Diff([]string{"hard dense", "hard anchor", "easy dense", "easy anchor"}, func() (names []string) {
		for _, s := range e.Scores {
			names = append(names, s.Task+" "+s.Method)
		}
		return names
	}()); diff != "" {
		t.Error(diff)
	}
	hard := e.Scores[1]
	if hard.Samples != 4 || hard.Score.Mean != 0.5 || hard.Change == nil || hard.Change.Mean != -0.5 || hard.Recall.Min != 0 || hard.FirstToken != 3.5 {
		t.Errorf("%+v, change %+v, recall %+v", hard, hard.Change, hard.Recall)
	}
	if len(hard.Depths) != 2 || hard.Depths[0].Score != 0 || hard.Depths[1].Score != 1 || hard.Depths[1].Samples != 2 {
		t.Errorf("depths: %+v", hard.Depths)
	}
	if e.Scores[0].Change != nil {
		t.Errorf("dense attention changed: %+v", e.Scores[0].Change)
	}
	if len(e.Overall) != 2 || e.Overall[1].Score.Mean != 0.625 || e.Overall[1].Change.Mean != -0.125 || e.Overall[1].Tasks != 2 {
		t.Errorf("overall: %+v", e.Overall)
	}
	if e.ISA != "avx2" {
		t.Errorf("kernels are %q; want avx2", e.ISA)
	}
	records[0].ISA = "amx"
	if two := eval.Summarise(records, 1); two.ISA != "amx, avx2" {
		t.Errorf("kernels are %q; want both levels", two.ISA)
	}
	records[0].ISA = "avx2"
	rand.New(rand.NewPCG(3, 0)).Shuffle(len(records), func(i, k int) { records[i], records[k] = records[k], records[i] })
	other := eval.Summarise(records, 1)
	if diff := cmp.Diff(e.Scores[1], other.Scores[index(other.Scores, "hard", "anchor")]); diff != "" {
		t.Error(diff)
	}
}

func index(scores []report.Score, task, method string) int {
	return slices.IndexFunc(scores, func(s report.Score) bool { return s.Task == task && s.Method == method })
}
