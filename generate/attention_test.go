package generate

import (
	"encoding/json"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/model"
	"github.com/google/go-cmp/cmp"
)

// The section survives JSON; what is missing keeps its value, what is unknown is an error, and what was there before an error
// stays.
func TestAttentionJSON(t *testing.T) {
	value := 0.5
	for _, a := range []Attention{
		DefaultAttention(),
		{Method: "streaming", Value: &value, Params: anchor.DefaultParams(), DenseLayers: []int{0, 3}, DenseBelow: 4096},
		{Method: "auto", Params: anchor.Params{Block: 1, Step: 1, Theta: math.Inf(1), Refinements: anchor.Refinements{HeadTheta: anchor.Thetas{1, math.Inf(-1)}}}},
	} {
		data, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		got := DefaultAttention()
		if err := json.Unmarshal(data, &got); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(a, got); d != "" {
			t.Errorf("%s: %s", data, d)
		}
	}
	want := DefaultAttention()
	want.Params.Theta, want.DenseLayers = 9, []int{1}
	got := DefaultAttention()
	if err := json.Unmarshal([]byte(`{"params": {"theta": 9}, "dense_layers": [1]}`), &got); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("error %v, %+v; want %+v", err, got, want)
	}
	for text, want := range map[string]string{
		`{"metod": "anchor"}`:                 "metod",
		`{"method": 3}`:                       "method is a number",
		`{"params": {"beta": 3}}`:             "beta",
		`{"dense_layers": [0, "first"]}`:      "dense_layers",
		`{"dense_layers": [0], "value": "x"}`: "value",
	} {
		if err := json.Unmarshal([]byte(text), &got); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %v; want one that mentions %q", text, err, want)
		}
	}
	if d := cmp.Diff([]int{1}, got.DenseLayers); d != "" || got.Method != "anchor" {
		t.Errorf("errors leave %+v", got)
	}
}

// The section says which planner it is.
func TestAttentionPlanner(t *testing.T) {
	params := anchor.DefaultParams()
	params.HeadTheta = anchor.Thetas{1, 2}
	theta := 3.
	inf := math.Inf(1)
	with := func(theta float64) anchor.Params {
		p := params
		p.Theta, p.HeadTheta = theta, nil
		return p
	}
	for _, c := range []struct {
		a    Attention
		want anchor.Planner
	}{
		{Attention{Method: "dense"}, anchor.Dense()},
		{Attention{Method: "anchor", Params: params}, anchor.AnchorAttention(params)},
		{Attention{Method: "auto", Params: params}, anchor.Auto(params)},
		{Attention{Method: "anchor", Params: params, Value: &theta}, anchor.AnchorAttention(with(3))},
		{Attention{Method: "streaming", Params: params}, anchor.StreamingLLM(anchor.StreamingParams{Sink: 1024, Window: 8192, Tail: 128})},
	} {
		got, err := c.a.Planner()
		if err != nil || !reflect.DeepEqual(got, c.want) {
			t.Errorf("%+v: planner %+v, error %v; want %+v", c.a, got, err, c.want)
		}
	}
	for want, a := range map[string]Attention{
		`Method is "sparse"`: {Method: "sparse"},
		"finite":             {Method: "anchor", Params: params, Value: &inf},
		"no knob":            {Method: "dense", Value: &theta},
		"Params.Block is 0":  {Method: "anchor"},
	} {
		if _, err := a.Planner(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v; want one that mentions %q", err, want)
		}
	}
	layer := Attention{DenseLayers: []int{0, 2}}.layer(anchor.Auto(params))
	for l, dense := range []bool{true, false, true, false} {
		if got := layer(l).Name() == "dense"; got != dense {
			t.Errorf("layer %d: dense %v", l, got)
		}
	}
}

// Names of pages tell apart whatever keys and values depend on, and nothing else.
func TestPrefixNames(t *testing.T) {
	params := anchor.Params{Block: 32, Step: 6, Tail: 20} // groups of 192: units of 128, 256 and then 384 tokens
	names := func(a Attention, costs *anchor.Costs, prompt []int32) []model.Key {
		p, err := a.Planner()
		if err != nil {
			t.Fatal(err)
		}
		prefix, err := newPrefix(p, a, anchor.Float32, costs)
		if err != nil {
			t.Fatal(err)
		}
		return slices.Concat(prefix.keys(prompt)...)
	}
	a := Attention{Method: "anchor", Params: params}
	prompt := make([]int32, 1000)
	base := names(a, nil, prompt)
	if len(base) != 6 {
		t.Fatalf("%d names; want those of 768 tokens", len(base))
	}
	seen := map[model.Key]bool{}
	for _, key := range base {
		if seen[key] {
			t.Error("two pages have one name")
		}
		seen[key] = true
	}
	same := func(what string, other []model.Key, want int) {
		t.Helper()
		n := 0
		for n < min(len(base), len(other)) && base[n] == other[n] {
			n++
		}
		if n != want {
			t.Errorf("%s: %d names are the same; want %d", what, n, want)
		}
		for _, key := range other[n:] {
			if seen[key] {
				t.Errorf("%s: a later page has a name of the first prompt's", what)
			}
		}
	}
	change := func(at int) []int32 {
		other := append([]int32(nil), prompt...)
		other[at] = 1 << 20
		return other
	}
	same("again", names(a, nil, prompt), 6)
	same("after what can be shared", names(a, nil, change(768)), 6)
	same("last token of a group", names(a, nil, change(767)), 3)
	same("second unit's end", names(a, nil, change(383)), 1) // though its first page has the same tokens
	same("first page's end", names(a, nil, change(127)), 0)
	same("first token", names(a, nil, change(0)), 0)
	same("shorter", names(a, nil, prompt[:788]), 6)
	same("tail in the third unit", names(a, nil, prompt[:787]), 3)
	same("tail in the second unit", names(a, nil, prompt[:400]), 1)
	same("tail in the first", names(a, nil, prompt[:129]), 1)
	other := a
	other.Params.Theta = 1
	same("theta", names(other, nil, prompt), 0)
	other = a
	other.DenseLayers = []int{0}
	same("dense layer", names(other, nil, prompt), 0)
	other = a
	other.Method = "auto"
	same("method", names(other, nil, prompt), 0)
	costs := anchor.DefaultCosts()
	same("costs", names(a, &costs, prompt), 0)
	if got := names(Attention{Method: "minference", Params: params}, nil, prompt); got != nil {
		t.Error("MInference shares pages")
	}
	if got := names(Attention{Method: "dense"}, nil, prompt[:256]); len(got) != 1 { // a token must be left
		t.Errorf("dense attention shares %d pages of 256 tokens; want 1", len(got))
	}
}

// Whatever a section holds, it is read or refused; what is read can be written and read again, and has a planner or an error.
func FuzzAttention(f *testing.F) {
	f.Add([]byte(`{"method": "auto", "params": {"theta": "inf", "head_theta": [1, "-inf"]}, "dense_layers": [0, 1], "dense_below": 4096}`))
	f.Add([]byte(`{"method": "xattention", "value": 0.9}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		a := DefaultAttention()
		if err := json.Unmarshal(data, &a); err != nil {
			if d := cmp.Diff(DefaultAttention(), a); d != "" {
				t.Fatalf("an error leaves %s", d)
			}
			return
		}
		if p, err := a.Planner(); (p == nil) == (err == nil) {
			t.Fatalf("planner %v, error %v", p, err)
		}
		again, err := json.Marshal(a)
		if err != nil {
			t.Fatal(err)
		}
		var b Attention
		if err := json.Unmarshal(again, &b); err != nil || !reflect.DeepEqual(normal(a), normal(b)) {
			t.Fatalf("%s reads as %+v, error %v; want %+v", again, b, err, a)
		}
	})
}

// normal makes no difference between none and an empty list.
func normal(a Attention) Attention {
	if len(a.DenseLayers) == 0 {
		a.DenseLayers = nil
	}
	if len(a.Params.HeadTheta) == 0 {
		a.Params.HeadTheta = nil
	}
	return a
}
