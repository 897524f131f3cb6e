package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// Windows of a text are measured under each method, no more than there are; a second run does nothing anew, and one that is asked
// for more does that alone.
func TestEvalDrift(t *testing.T) {
	model := randomModel(t, llama)
	dir := t.TempDir()
	text, out := filepath.Join(dir, "text.txt"), filepath.Join(dir, "out")
	if err := os.WriteFile(text, []byte(strings.Repeat("the war and the peace of a man who said that it was so, ", 70)), 0o666); err != nil {
		t.Fatal(err)
	}
	args := slices.Concat([]string{"eval", "drift", "--model", model, "--file", text, "-o", out, "--audit", "4", "--theta", "-1"}, small)
	m := object(t, mustRun(t, slices.Concat(args, []string{"--lengths", "300,400", "--windows", "2", "--json", "--report"})...),
		"command machine model text isa versions methods lengths drifts")
	if m["text"] != "text.txt" || len(m["drifts"].([]any)) != 4 || len(results(t, out)) != 8 {
		t.Errorf("%v", m)
	}
	sparse := m["drifts"].([]any)[1].(map[string]any)
	if sparse["method"] != "anchor" || sparse["windows"] != 2.0 || len(sparse["curves"].(map[string]any)["kl"].([]any)) != 32 {
		t.Errorf("%v", sparse)
	}
	kl := func(of string) float64 { return sparse[of].(map[string]any)["kl"].(map[string]any)["mean"].(float64) }
	if !(kl("body") > 0) || !(kl("tail") >= 0) || sparse["perplexity"].(map[string]any)["mean"].(float64) < 1 {
		t.Errorf("%v", sparse)
	}
	page, err := os.ReadFile(filepath.Join(out, "index.html"))
	if err != nil || !bytes.Contains(page, []byte("Divergence by position")) {
		t.Errorf("the page: %v", err)
	}
	before := results(t, out)
	table := mustRun(t, slices.Concat(args, []string{"--lengths", "300", "--windows", "100"})...)
	after := results(t, out)
	added := len(after) - len(before)
	if windows := 70 * 15 / 299; added != 2*(windows-2) {
		t.Errorf("%d records were added; want %d", added, 2*(windows-2))
	}
	for _, want := range []string{"The tail", "text.txt", "change of loss", "anchor"} {
		if !strings.Contains(table, want) {
			t.Errorf("%q is not in\n%s", want, table)
		}
	}
	for want, more := range map[string][]string{
		"--file is missing":                   {"--file", ""},
		"no such file":                        {"--file", filepath.Join(dir, "no")},
		"--positions is 31; want 32":          {"--positions", "31"},
		"--windows is 0":                      {"--windows", "0"},
		"0 windows of 4000; there is none of": {"--lengths", "4000"},
		"--methods has \"anchor\" twice":      {"--methods", "anchor,anchor"},
	} {
		if status, stdout, stderr := anchorCommand(t, append(slices.Clone(args), more...)...); status == 0 || stdout != "" || !strings.Contains(stderr, want) {
			t.Errorf("%q: status %d, %q, %q; want %q", more, status, stdout, stderr, want)
		}
	}
}
