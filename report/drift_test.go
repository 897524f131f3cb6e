package report

import (
	"context"
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// madeUpDrift is one of methods at lengths, with a body unless the windows are short.
func madeUpDrift(lengths []int, methods []string, body bool) *Drift {
	d := &Drift{Command: "anchor eval drift -o out", Machine: "machine", Model: "Model-7B", Text: "book.txt", ISA: "avx512", Versions: []string{"v1"},
		Notes: []string{"Made up."}, Methods: methods, Lengths: lengths}
	for _, length := range lengths {
		for k, m := range methods {
			x := Drifted{Length: length, Method: m, Windows: 8, Perplexity: Interval{12, 11, 13}, AttentionSeconds: 1.5, Density: 1 / float64(k+1),
				Body: map[string]*Interval{}, Tail: map[string]*Interval{}, Curves: map[string][]Interval{}}
			for _, f := range driftFigures {
				scale := map[string]float64{"nll": 2.5, "nll_change": 0.01 * float64(k), "kl": 0.02 * float64(k), "top1": 1 - 0.02*float64(k)}[f.name]
				x.Tail[f.name] = &Interval{scale / 2, scale / 3, scale}
				if !body {
					continue
				}
				x.Body[f.name] = &Interval{scale, scale * 0.9, scale * 1.1}
				for part := range 32 {
					y := scale * (1 + 0.2*math.Sin(float64(part)/3+float64(k)))
					x.Curves[f.name] = append(x.Curves[f.name], Interval{y, y * 0.9, y * 1.1})
				}
			}
			if k > 0 {
				x.Recall = &Recall{Mean: 0.99, P5: 0.95, Min: 0.6}
			}
			d.Drifts = append(d.Drifts, x)
		}
	}
	return d
}

// A page is written whole, needs no network and no other file, and says what was measured; what is in names does nothing.
func TestDriftPage(t *testing.T) {
	if *show != "" {
		defer func(fewer int) { dots = fewer }(dots)
		dots = 144
	}
	hostile := madeUpDrift([]int{4096}, []string{"dense", "a<b&c"}, true)
	hostile.Model, hostile.Notes, hostile.Command = "<i>\n", []string{"<u>"}, "anchor eval '</pre>'"
	for name, d := range map[string]*Drift{
		"many":    madeUpDrift([]int{4096, 32768, 131072}, []string{"dense", "anchor=8", "anchor=12", "streaming"}, true),
		"short":   madeUpDrift([]int{100}, []string{"anchor"}, false),
		"hostile": hostile,
		"nothing": {},
	} {
		dir := t.TempDir()
		if *show != "" {
			dir = filepath.Join(*show, "drift-"+name)
		}
		last := 0.0
		if err := d.WriteDir(t.Context(), dir, func(share float64) { last = share }); err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		if (last == 1) != (len(d.figures()) > 0) {
			t.Errorf("%s: progress ends at %v", name, last)
		}
		page := checkDir(t, dir)
		for _, bad := range []string{"<u>", "<i>", "a<b", "%!", "NaN"} {
			if strings.Contains(page, bad) {
				t.Errorf("%s: the page has %q", name, bad)
			}
		}
		wants := map[string][]string{
			"many":    {"Model-7B", "book.txt", "Made up.", "131,072", "anchor=12", "kl.svg", "top1.png", "nll-change.svg", "12 [11, 13]", "0.9900"},
			"nothing": {"Nothing was measured."},
		}[name]
		for _, want := range wants {
			if !strings.Contains(page, want) {
				t.Errorf("%s: the page lacks %q", name, want)
			}
		}
		var back Drift
		data, err := os.ReadFile(filepath.Join(dir, "drift.json"))
		if err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal(data, &back); err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(d, &back); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
		var table strings.Builder
		if err := d.WriteTable(&table); err != nil {
			t.Fatal(err)
		}
		if name == "many" {
			for _, want := range []string{"131,072", "0.06000 [0.05400, 0.06600]", "+0.0300 [+0.0270, +0.0330]", "94.00 [84.60, 103.40]", "The tail"} {
				if !strings.Contains(table.String(), want) {
					t.Errorf("%q is not in\n%s", want, table.String())
				}
			}
		}
		if strings.Contains(table.String(), "%!") {
			t.Errorf("%s: %s", name, table.String())
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	dir := t.TempDir()
	if err := madeUpDrift([]int{100}, []string{"anchor"}, true).WriteDir(ctx, dir, nil); err == nil {
		t.Error("no error after the end of the context")
	}
	if entries, _ := os.ReadDir(dir); len(entries) != 0 {
		t.Errorf("%d files after the end of the context", len(entries))
	}
}
