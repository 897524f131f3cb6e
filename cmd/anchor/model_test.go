package main

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/anchorattention/anchor/model/retrieval"
)

// The demo's model gives the right answer with either method, with a tail and without, wherever the fact lies; the
// report has what it promises, and nothing is on stderr when that is no terminal.
func TestDemo(t *testing.T) {
	small := []string{"demo", "--tokens", "700", "--block", "16", "--step", "4", "--init", "16", "--local", "16"}
	for _, k := range [][]string{{"--depth", "0"}, {"--depth", "0.5"}, {"--depth", "0.9", "--tail", "0"}} {
		status, stdout, _ := anchorCommand(t, slices.Concat(small, k, []string{"--json"})...)
		if status != 0 {
			t.Fatalf("%q: status %d", k, status)
		}
		m := object(t, stdout, "tokens depth code_word expected threads runs")
		runs := m["runs"].([]any)
		if m["tokens"] != 700.0 || len(runs) != 2 {
			t.Fatalf("%q: %s", k, stdout)
		}
		for i, method := range []string{"dense", "anchor"} {
			r := runs[i].(map[string]any)
			for _, f := range strings.Fields("attention isa tokens ttft_seconds attention_seconds stage_seconds density recall answer right") {
				if _, ok := r[f]; !ok {
					t.Errorf("%q: %s has no %s", k, method, f)
				}
			}
			if r["attention"] != method || r["right"] != true || r["answer"] != m["expected"] || r["tokens"] != 700.0 {
				t.Errorf("%q: %v; want the answer %v", k, r, m["expected"])
			}
			recall := r["recall"].(map[string]any)
			for _, f := range []string{"mean", "p5", "min"} {
				if x, _ := recall[f].(float64); x < 0.99 {
					t.Errorf("%q: recall of %s is %v; want ≥ 0.99", k, method, recall)
				}
			}
			if dense := r["density"] == 1.0; dense != (method == "dense") {
				t.Errorf("%q: %s has density %v", k, method, r["density"])
			}
			if _, ok := r["stage_seconds"].(map[string]any)["audit"]; ok {
				t.Errorf("%q: the audit is among the stages", k)
			}
		}
	}
}

// A wrong answer is reported, not an error.
func TestDemoWrong(t *testing.T) {
	status, out, _ := anchorCommand(t, "demo", "--tokens", "700", "--block", "16", "--step", "4", "--init", "16", "--local", "16", "--theta", "-inf", "--tail", "0")
	if status != 0 {
		t.Fatalf("status %d", status)
	}
	for _, want := range []string{"can only look up", "prompt tokens", "time to first token", "window", "density", "recall, mean", "recall, 5th percentile", "recall, minimum"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	for line := range strings.Lines(out) {
		if f := strings.Fields(line); len(f) == 3 && f[0] == "right" && (f[1] != "yes" || f[2] != "no") {
			t.Errorf("%q; want yes for dense and no for anchor", line)
		}
	}
}

// The model that make-model writes answers in run: from arguments, from a file and from standard input.
func TestMakeModelAndRun(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "model")
	mustRun(t, "make-model", "retrieval", dir)
	if got := names(t, dir); !slices.Equal(got, []string{"config.json", "model.safetensors", "tokenizer.json"}) {
		t.Fatalf("make-model wrote %q", got)
	}
	p, err := retrieval.NewPrompt(300, 0.3, 5)
	if err != nil {
		t.Fatal(err)
	}
	question := p.Text[strings.LastIndexByte(p.Text, ' ')+1:]
	document := strings.TrimSuffix(p.Text, question)
	file := filepath.Join(t.TempDir(), "text")
	if err := os.WriteFile(file, []byte(document), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{p.Text}, {p.Text, "--attention", "dense"}, {"--file", file, question}, {"--file", "-", question},
	} {
		var stdout, stderr bytes.Buffer
		args = append([]string{"run", "--model", dir}, args...)
		if status := run(t.Context(), args, strings.NewReader(document), &stdout, &stderr); status != 0 {
			t.Fatalf("status %d, %s", status, stderr.String())
		}
		if stdout.String() != p.Answer+"\n" {
			t.Errorf("answer is %q; want %q", stdout.String(), p.Answer)
		}
		if !strings.Contains(stderr.String(), "prompt: 300 tokens") {
			t.Errorf("stderr is %q; want timings of 300 tokens", stderr.String())
		}
	}
	m := object(t, mustRun(t, "run", "--model", dir, "--audit", "16", "--json", p.Text),
		"text tokens cached_tokens generated ended end attention isa params ttft_seconds attention_seconds other_seconds product_seconds stage_seconds density recall decode_tokens_per_second peak_memory_bytes")
	if m["text"] != p.Answer || m["tokens"] != 300.0 || m["generated"] != 1.0 || m["ended"] != true {
		t.Errorf("report is %v", m)
	}

	// Other types of cache, dense layers and drawing among one token give the answer too; --stats says where time went.
	args := []string{"run", "--model", dir, p.Text, "--stats", "--block", "16", "--step", "2", "--theta", "-inf", "--tail", "0"}
	for _, more := range [][]string{
		{"--dense-layers", "0,1"}, {"--dense-below", "301"}, {"--dense-below", "301", "--cache-type", "bf16"}, {"--dense-below", "301", "--cache-type", "8bit"},
		{"--dense-below", "301", "--temperature", "1", "--top-k", "1", "--seed", "7"},
	} {
		var stdout, stderr bytes.Buffer
		if status := run(t.Context(), slices.Concat(args, more), nil, &stdout, &stderr); status != 0 || stdout.String() != p.Answer+"\n" {
			t.Errorf("%q: status %d, answer %q, %s; want %q", more, status, stdout.String(), stderr.String(), p.Answer)
		}
		for _, want := range []string{"300 tokens, 0 of them", "time to first token", "attention", "dense", "matrix products", "all else", "tokens/s", "ended by the model"} {
			if !strings.Contains(stderr.String(), want) {
				t.Errorf("%q: stats do not say %q:\n%s", more, want, stderr.String())
			}
		}
	}
	if _, out, _ := anchorCommand(t, "run", "--model", dir, p.Text, "--stop", p.Answer[1:]); out != p.Answer[:1]+"\n" {
		t.Errorf("before %q came %q; want %q", p.Answer[1:], out, p.Answer[:1])
	}
}

// bench prints a line a result and the peak, or a table.
func TestBench(t *testing.T) {
	args := strings.Fields("bench --lengths 256,300 --heads 2 --kv-heads 1 --dim 32 --runs 1 --threads 2 --block 16 --step 2")
	lines := strings.Split(strings.TrimSpace(mustRun(t, append(args, "--json")...)), "\n")
	if len(lines) != 5 {
		t.Fatalf("%d lines; want 5:\n%s", len(lines), lines)
	}
	for i, line := range lines[:4] {
		m := object(t, line, "method dtype n heads kv_heads dim seconds_median gflops executed_gflops density recall_mean recall_min speedup_vs_dense stage_seconds")
		if m["method"] != []string{"dense", "anchor"}[i%2] || m["n"] != []float64{256, 300}[i/2] {
			t.Errorf("line %d is %s", i, line)
		}
	}
	var last struct{ Peak map[string]float64 }
	if err := json.Unmarshal([]byte(lines[4]), &last); err != nil || len(last.Peak) != 2 || last.Peak["1"] <= 0 || last.Peak["2"] <= 0 {
		t.Errorf("last line is %s; want the peaks of 1 and 2 threads", lines[4])
	}
	if out := mustRun(t, args...); !strings.Contains(out, "of peak") || !strings.Contains(out, "speedup") {
		t.Errorf("no table:\n%s", out)
	}
}
