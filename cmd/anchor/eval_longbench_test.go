package main

import (
	"bytes"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// A window that holds all the tasks' prompts, and what they generate.
const windowOfTasks = 2048

// llama is the configuration of a small random model.
const llama = `{"architectures": ["LlamaForCausalLM"], "vocab_size": 5098, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
	"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 4096, "eos_token_id": 0}`

// Tasks are asked as often as they have samples, of each method; a second run does nothing anew, and one that is asked for more does
// that alone. Without words, the report says so.
func TestEvalLongBench(t *testing.T) {
	model := randomModel(t, llama)
	out := filepath.Join(t.TempDir(), "out")
	args := slices.Concat([]string{"eval", "longbench", "--model", model, "--data", "../../eval/longbench/testdata/samples", "-o", out,
		"--lengths", "2048", "--audit", "4", "--theta", "-1"}, small)
	m := object(t, mustRun(t, slices.Concat(args, []string{"--tasks", "hotpotqa,multifieldqa_zh", "--json", "--report"})...), "scores overall notes suite")
	first := results(t, out)
	if m["suite"] != "longbench" || len(first) != 2*(3+2) || len(m["scores"].([]any)) != 4 {
		t.Errorf("%d records, %v", len(first), m)
	}
	if notes := m["notes"].([]any); len(notes) != 1 || !strings.Contains(notes[0].(string), "by characters") {
		t.Errorf("%v", notes)
	}
	for _, r := range first {
		if r.Length != windowOfTasks || r.Data["samples"] == "" || (r.Data["words"] == "characters") != (r.Task == "multifieldqa_zh") || r.Values["length"] <= 0 {
			t.Errorf("%+v", r.Job)
		}
	}
	page, err := os.ReadFile(filepath.Join(out, "index.html"))
	if err != nil || !bytes.Contains(page, []byte("LongBench: ")) {
		t.Errorf("the page: %v", err)
	}
	mustRun(t, slices.Concat(args, []string{"--tasks", "multifieldqa_zh,hotpotqa"})...)
	if n := len(results(t, out)); n != len(first) {
		t.Errorf("%d records after a second run; want %d", n, len(first))
	}
	// Words are another measurement, so these are asked anew.
	table := mustRun(t, slices.Concat(args, []string{"--tasks", "multifieldqa_zh,passage_count", "--samples", "1", "--methods", "dense", "--jieba", "../../eval/longbench/testdata/jieba"})...)
	if n := len(results(t, out)); n != len(first)+2 {
		t.Errorf("%d records with words; want %d", n, len(first)+2)
	}
	if strings.Contains(table, "by characters") || !strings.Contains(table, "passage_count") {
		t.Error(table)
	}
}

// LongBench-E's scores are told apart by length.
func TestEvalLongBenchEven(t *testing.T) {
	model := randomModel(t, llama)
	out := filepath.Join(t.TempDir(), "out")
	table := mustRun(t, slices.Concat([]string{"eval", "longbench", "--model", model, "--data", "../../eval/longbench/testdata/samples", "-o", out,
		"--lengths", "2048", "--audit", "0", "--even", "--tasks", "qasper", "--methods", "anchor"}, small)...)
	for _, want := range []string{"qasper_e, 0-4k", "qasper_e, 4-8k", "qasper_e, 8k+"} {
		if !strings.Contains(table, want) {
			t.Errorf("%q is not in\n%s", want, table)
		}
	}
	for _, r := range results(t, out) {
		if r.Task != "qasper_e" || (r.Index == 0) != (r.Values["cut"] == 0) {
			t.Errorf("%+v", r)
		}
	}
}

func TestEvalLongBenchErrors(t *testing.T) {
	model := randomModel(t, llama)
	const data = "../../eval/longbench/testdata/samples"
	for want, args := range map[string][]string{
		"--data is missing": {"--model", model, "-o", "out"},
		`--tasks has "no"; want some of narrativeqa, qasper`:   {"--data", data, "--tasks", "no"},
		`--tasks has "dureader"; want some of qasper, multif`:  {"--data", data, "--tasks", "dureader", "--even"},
		`--tasks has "trec" twice`:                             {"--data", data, "--tasks", "trec,trec"},
		"narrativeqa.jsonl: no such file":                      {"--data", data, "--model", model, "-o", "out"},
		"dict.txt: no such file":                               {"--data", data, "--tasks", "trec", "--jieba", "."},
		"--lengths has 32768; want 1 … 4096":                   {"--data", data, "--tasks", "trec", "--model", model, "-o", "out"},
		"length is 1000; want ≥ 1024":                          {"--data", data, "--tasks", "trec", "--model", model, "-o", filepath.Join(t.TempDir(), "out"), "--lengths", "1000"},
		"--samples is 0; want 1":                               {"--data", data, "--tasks", "trec", "--model", model, "-o", "out", "--samples", "0"},
		`suite is "longbank"; want one of ruler, niah, lookup`: nil,
	} {
		args := append([]string{"eval", "longbench"}, args...)
		if len(args) == 2 {
			args[1] = "longbank"
		}
		if status, stdout, stderr := anchorCommand(t, args...); status == 0 || stdout != "" || !strings.Contains(stderr, want) {
			t.Errorf("%q: status %d, %q, %q; want %q", args, status, stdout, stderr, want)
		}
	}
}
