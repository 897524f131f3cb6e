package drift_test

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/fnv"
	"math"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/eval"
	"github.com/anchorattention/anchor/eval/drift"
	"github.com/anchorattention/anchor/generate"
	"github.com/anchorattention/anchor/model"
	"github.com/anchorattention/anchor/tokenizer"
)

const letters = "abcdefghijklmnopqrstuvwxyz"

// newModel returns a model of random weights and so many layers, which reads letters, each a token.
func newModel(t testing.TB, layers int) *eval.Model {
	vocab := map[string]int{"<s>": 0}
	for i, l := range letters {
		vocab[string(l)] = i + 1
	}
	numbers, err := json.Marshal(vocab)
	if err != nil {
		t.Fatal(err)
	}
	file := []byte(`{"version": "1.0",
		"added_tokens": [{"id": 0, "content": "<s>", "single_word": false, "lstrip": false, "rstrip": false, "normalized": false, "special": true}],
		"normalizer": null, "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
		"post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
			"pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
			"special_tokens": {"<s>": {"id": "<s>", "ids": [0], "tokens": ["<s>"]}}},
		"decoder": {"type": "ByteLevel", "add_prefix_space": true, "trim_offsets": true, "use_regex": true},
		"model": {"type": "BPE", "vocab": ` + string(numbers) + `, "merges": []}}`)
	tok, err := tokenizer.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	m, err := model.New(model.Config{
		Vocab: len(vocab), Hidden: 32, Intermediate: 48, Layers: layers, Heads: 4, KVHeads: 2, HeadDim: 16, MaxPositions: 4096,
		RMSNormEps: 1e-5, RopeTheta: 10000, BOS: -1,
	}, func(name string, shape ...int) ([]float32, error) {
		h := fnv.New64()
		h.Write([]byte(name))
		rng := rand.New(rand.NewPCG(h.Sum64(), 1))
		n := 1
		for _, s := range shape {
			n *= s
		}
		w := make([]float32, n)
		for i := range w {
			w[i] = float32(rng.NormFloat64() * 2 / math.Sqrt(float64(shape[len(shape)-1])))
		}
		return w, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return &eval.Model{ID: fmt.Sprint(layers), Model: m, Format: eval.Format{Tokenizer: tok}}
}

// textOf returns random letters, always the same.
func textOf(length int) string {
	rng := rand.New(rand.NewPCG(1, 2))
	text := make([]byte, length)
	for i := range text {
		text[i] = letters[rng.IntN(len(letters))]
	}
	return string(text)
}

func newText(t testing.TB, length, positions int) *drift.Text {
	d, err := drift.NewText("letters", []byte(textOf(length)), positions)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

func method(name string, p anchor.Params) eval.Method {
	return eval.Method{Name: name, Attention: generate.Attention{Method: strings.TrimRight(name, "012"), Params: p}}
}

// measure measures methods on a model and returns the records by method, of window after window.
func measure(t testing.TB, m *eval.Model, text *drift.Text, windows, length int, methods ...eval.Method) map[string][]eval.Record {
	w := &eval.Worker{Model: m, Tasks: []*eval.Task{text.Task()}}
	p := eval.Plan{Tasks: w.Tasks, Lengths: []int{length}, Samples: windows, Methods: methods, Model: m.ID, Format: &m.Format}
	store, err := eval.OpenStore(filepath.Join(t.TempDir(), "results.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	last := 0.0
	if err := eval.Run(context.Background(), p.Jobs(), store, w.Do, func(p eval.Progress) { last = p.Share }); err != nil {
		t.Fatal(err)
	}
	if last != 1 {
		t.Errorf("progress ends at %v", last)
	}
	all := make(map[string][]eval.Record)
	for _, r := range store.Records() {
		all[r.Method] = append(all[r.Method], r)
	}
	return all
}

var sparse = anchor.Params{Block: 16, Step: 2, Init: 4, Local: 4, Theta: math.Inf(-1), Tail: 20}

// Dense attention drifts nowhere, and its figures are those of the logits after each beginning of the window.
func TestDense(t *testing.T) {
	const length = 100
	m, text := newModel(t, 2), newText(t, 1000, 64)
	r := measure(t, m, text, 2, length, method("dense", sparse))["dense"][1]
	if r.Values["kl"] != 0 || r.Values["kl_tail"] != 0 || r.Values["top1"] != 1 || r.Values["nll_change"] != 0 || r.Score != 1 || r.Density != 1 {
		t.Errorf("%+v", r)
	}
	if n := text.Windows(m.Tokenizer, length); n != 1000/99 {
		t.Errorf("%d windows", n)
	}
	ids := m.Tokenizer.Encode(textOf(1000)[99:198], true).IDs
	if len(ids) != length || r.PromptTokens != length {
		t.Fatalf("%d tokens, %d", len(ids), r.PromptTokens)
	}
	var nll []float64
	for i := range length - 1 {
		cache, err := m.NewCache(length)
		if err != nil {
			t.Fatal(err)
		}
		logits, _, err := m.Forward(context.Background(), cache, ids[:i+1], model.ForwardOptions{Planner: anchor.Dense()})
		if err != nil {
			t.Fatal(err)
		}
		sum := 0.0
		for _, l := range logits {
			sum += math.Exp(float64(l))
		}
		nll = append(nll, math.Log(sum)-float64(logits[ids[i+1]]))
	}
	mean := func(x []float64) float64 {
		sum := 0.0
		for _, v := range x {
			sum += v
		}
		return sum / float64(len(x))
	}
	for name, want := range map[string]float64{"nll_all": mean(nll), "nll": mean(nll[:80]), "nll_tail": mean(nll[80:])} {
		if got := r.Values[name]; !(math.Abs(got-want) < 1e-4) {
			t.Errorf("%s is %v; want %v", name, got, want)
		}
	}
	if c := r.Curves["nll"]; len(c) != drift.Parts || !(math.Abs(c[1]-mean(nll[2:5])) < 1e-4) || len(r.Curves["kl"]) != drift.Parts {
		t.Errorf("%v", r.Curves)
	}
}

// A method that keeps every key does not drift; one that keeps none but its window does. Rows of the tail see every key: with one
// layer they do not drift at all, with two by what their keys were computed from.
func TestTail(t *testing.T) {
	whole := sparse
	whole.Theta = math.Inf(1)
	methods := []eval.Method{method("anchor1", whole), method("dense", sparse), method("anchor2", sparse)}
	for layers, drifts := range map[int]bool{1: false, 2: true} {
		all := measure(t, newModel(t, layers), newText(t, 700, 32), 2, 300, methods...)
		for i := range 2 {
			if r := all["anchor1"][i]; r.Values["kl"] > 1e-6 || r.Values["kl_tail"] > 1e-6 || r.Score != 1 || math.Abs(r.Values["nll_change"]) > 1e-5 {
				t.Errorf("every key: %v", r.Values)
			}
			r, d := all["anchor2"][i], all["dense"][i]
			if !(r.Values["kl"] > 1e-3) || !(r.Values["top1"] < 1) || !(r.Density < 0.5) {
				t.Errorf("the window alone: %v, density %v", r.Values, r.Density)
			}
			if (r.Values["kl_tail"] > 1e-6) != drifts || (math.Abs(r.Values["nll_change_tail"]) > 1e-5) != drifts {
				t.Errorf("%d layers: tail %v", layers, r.Values)
			}
			if got, want := r.Values["nll_change"], r.Values["nll"]-d.Values["nll"]; !(math.Abs(got-want) < 1e-12) {
				t.Errorf("change %v; want %v", got, want)
			}
			// The first group of rows sees every key there is.
			if kl := r.Curves["kl"]; kl[0] > 1e-6 || !(slices.Max(kl) > 1e-3) {
				t.Errorf("curve %v", kl)
			}
		}
	}
}

// Summaries have the figures of records, and the same intervals where methods have the same figures.
func TestSummarise(t *testing.T) {
	all := measure(t, newModel(t, 2), newText(t, 2000, 32), 5, 200, method("dense", sparse), method("anchor2", sparse))
	records := slices.Concat(all["dense"], all["anchor2"])
	twin := slices.Clone(all["anchor2"])
	for i := range twin {
		twin[i].Method = "twin"
	}
	d := drift.Summarise(append(records, twin...), 1)
	if len(d.Drifts) != 3 || !slices.Equal(d.Methods, []string{"dense", "anchor2", "twin"}) || !slices.Equal(d.Lengths, []int{200}) || d.ISA == "" {
		t.Fatalf("%+v", d)
	}
	x := d.Drifts[1]
	nll, kl := 0.0, 0.0
	for _, r := range all["anchor2"] {
		nll += r.Values["nll_all"] / 5
		kl += r.Curves["kl"][7] / 5
	}
	if x.Windows != 5 || !(math.Abs(x.Perplexity.Mean/math.Exp(nll)-1) < 1e-12) || !(math.Abs(x.Curves["kl"][7].Mean-kl) < 1e-12) {
		t.Errorf("%+v", x)
	}
	if p := x.Perplexity; !(p.Low < p.Mean && p.Mean < p.High) || x.Tail["kl"] == nil || x.Body["kl"].Low <= 0 {
		t.Errorf("%+v", x)
	}
	x.Method = "twin"
	if diff := cmp.Diff(x, d.Drifts[2]); diff != "" {
		t.Error(diff)
	}
}

// Figures do not depend on what was measured before, nor on the order of methods.
func TestOrder(t *testing.T) {
	m := newModel(t, 2)
	a := measure(t, m, newText(t, 700, 40), 2, 200, method("dense", sparse), method("anchor2", sparse))
	b := measure(t, m, newText(t, 700, 40), 2, 200, method("anchor2", sparse), method("dense", sparse))
	timings := cmpopts.IgnoreFields(eval.Done{}, "AttentionSeconds", "Seconds")
	if diff := cmp.Diff(a, b, timings); diff != "" {
		t.Error(diff)
	}
}

// Short windows have no body, or a short one.
func TestShort(t *testing.T) {
	m := newModel(t, 1)
	for _, length := range []int{3, 20, 21, 22, 40, 53, 54} {
		r := measure(t, m, newText(t, 200, 33), 1, length, method("anchor2", sparse))["anchor2"][0]
		if n := len(r.Curves["kl"]); n != max(0, min(length-20, drift.Parts)) {
			t.Errorf("%d tokens: %d parts", length, n)
		}
		if _, ok := r.Values["kl_tail"]; !ok {
			t.Errorf("%d tokens: %v", length, r.Values)
		}
	}
	none := sparse
	none.Tail = 0
	if r := measure(t, m, newText(t, 200, 33), 1, 40, method("anchor2", none))["anchor2"][0]; len(r.Curves["nll"]) != drift.Parts {
		t.Errorf("%v", r.Curves)
	}
}

func TestErrors(t *testing.T) {
	if _, err := drift.NewText("x", nil, 31); err == nil || !strings.Contains(err.Error(), "want ≥ 32") {
		t.Error(err)
	}
	m, text := newModel(t, 1), newText(t, 100, 32)
	w := &eval.Worker{Model: m, Tasks: []*eval.Task{text.Task()}}
	for want, length := range map[string]int{"has 100 tokens, 1 windows of 60; there is none of index 1": 60, "0 windows of 1;": 1} {
		j := eval.Plan{Tasks: w.Tasks, Lengths: []int{length}, Samples: 2, Methods: []eval.Method{method("dense", sparse)}, Model: m.ID}.Jobs()[1]
		if _, err := w.Do(context.Background(), j, nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	j := eval.Plan{Tasks: w.Tasks, Lengths: []int{50}, Samples: 1, Methods: []eval.Method{method("dense", sparse)}, Model: m.ID}.Jobs()[0]
	if _, err := w.Do(ctx, j, nil); err == nil {
		t.Error("no error after the end of the context")
	}
}

// The divergence is that of its definition: by hand, never below zero, zero of a distribution and itself, blind to what is added to
// all logits.
func TestDivergence(t *testing.T) {
	log := func(p ...float64) []float32 {
		var l []float32
		for _, p := range p {
			l = append(l, float32(math.Log(p)))
		}
		return l
	}
	// 1/2·ln(1/2 / 1/4) + 1/4·ln(1/4 / 1/4) + 1/4·ln(1/4 / 1/2)
	if got, want := drift.Divergence(log(0.5, 0.25, 0.25), log(0.25, 0.25, 0.5)), 0.25*math.Ln2; !(math.Abs(got-want) < 1e-6) {
		t.Errorf("%v; want %v", got, want)
	}
	if got := drift.Divergence(log(0, 1), log(0.5, 0.5)); !(math.Abs(got-math.Ln2) < 1e-6) {
		t.Errorf("%v; want ln 2", got)
	}
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 20).Draw(t, "n")
		logits := rapid.SliceOfN(rapid.Float32Range(-30, 30), n, n)
		p, q := logits.Draw(t, "p"), logits.Draw(t, "q")
		kl := drift.Divergence(p, q)
		if !(kl >= 0) || drift.Divergence(p, p) != 0 {
			t.Fatalf("%v, %v", kl, drift.Divergence(p, p))
		}
		moved := slices.Clone(q)
		for i := range moved {
			moved[i] += 8
		}
		if got := drift.Divergence(p, moved); !(math.Abs(got-kl) < 1e-4) {
			t.Fatalf("%v; want %v", got, kl)
		}
	})
}
