package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/anchorattention/anchor/eval"
	"github.com/anchorattention/anchor/eval/ruler"
	"github.com/anchorattention/anchor/internal/gguf"
	"github.com/anchorattention/anchor/internal/safetensors"
	"github.com/anchorattention/anchor/model"
	"github.com/anchorattention/anchor/model/retrieval"
	"github.com/anchorattention/anchor/report"
	"github.com/anchorattention/anchor/tokenizer"
)

// small are parameters with which AnchorAttention leaves something out of short prompts.
var small = []string{"--block", "16", "--step", "4", "--init", "16", "--local", "16", "--tail", "16"}

// results returns the records in a directory.
func results(t *testing.T, dir string) []eval.Record {
	t.Helper()
	records, err := eval.ReadRecords(filepath.Join(dir, "results.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	return records
}

// The constructed model answers all lookups, at every length and depth, densely and sparsely, and the report says so; a
// second run does nothing anew, and one that is asked for more does that alone.
func TestEvalLookup(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "out")
	args := slices.Concat([]string{"eval", "lookup", "-o", dir, "--lengths", "400,300", "--json", "--report", "--audit", "16"}, small)
	m := object(t, mustRun(t, args...), "command machine model suite isa versions seed methods lengths scores overall")
	if m["model"] != "the constructed model" || m["suite"] != "lookup" || m["seed"] != 42.0 {
		t.Errorf("%v", m)
	}
	first := results(t, dir)
	if len(first) != 2*2*11 {
		t.Errorf("%d records; want 44", len(first))
	}
	var e report.Evaluation
	data, err := os.ReadFile(filepath.Join(dir, "evaluation.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &e); err != nil {
		t.Fatal(err)
	}
	if len(e.Scores) != 4 || len(e.Overall) != 4 || !slices.Equal(e.Lengths, []int{300, 400}) || !slices.Equal(e.Methods, []string{"dense", "anchor"}) {
		t.Errorf("%+v", e)
	}
	for _, s := range e.Scores {
		if s.Score != (report.Interval{Mean: 1, Low: 1, High: 1}) || s.Samples != 11 || len(s.Depths) != 11 || s.Recall == nil || s.FirstToken <= 0 {
			t.Errorf("%+v", s)
		}
		if (s.Density == 1) != (s.Method == "dense") {
			t.Errorf("%s: density %v", s.Method, s.Density)
		}
	}
	page, err := os.ReadFile(filepath.Join(dir, "index.html"))
	if err != nil || !bytes.Contains(page, []byte("Lookups: the constructed model")) || !bytes.Contains(page, []byte("Scores by length and depth")) {
		t.Errorf("the page: %v", err)
	}
	before, _ := os.ReadFile(filepath.Join(dir, "results.jsonl"))
	out := mustRun(t, slices.Concat([]string{"eval", "lookup", "-o", dir, "--lengths", "400,300", "--audit", "16"}, small)...)
	after, _ := os.ReadFile(filepath.Join(dir, "results.jsonl"))
	if !bytes.Equal(before, after) {
		t.Error("a second run did something anew")
	}
	for _, want := range []string{"lookup, the constructed model", "100.0 [100.0, 100.0]", "All tasks", "first token"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
	mustRun(t, slices.Concat([]string{"eval", "lookup", "-o", dir, "--lengths", "300", "--rounds", "2", "--audit", "16"}, small)...)
	if n := len(results(t, dir)); n != 44+22 {
		t.Errorf("%d records after another round; want 66", n)
	}
	// Another θ is another sparse attention; dense attention is what it was.
	out = mustRun(t, slices.Concat([]string{"eval", "lookup", "-o", dir, "--lengths", "300", "--audit", "16", "--theta", "5", "--pool", "8"}, small)...)
	for _, r := range results(t, dir)[66:] {
		if r.Method != "anchor" || r.Attention.Params.Theta != 5 {
			t.Errorf("%s was done anew", &r.Job)
		}
	}
	if n := len(results(t, dir)); n != 66+11 || !strings.Contains(out, "300   dense       11") {
		t.Errorf("%d records after another θ; want 77, and in the table dense attention too:\n%s", n, out)
	}
}

// randomModel writes a model of small random weights, that config describes, with the constructed model's tokenizer. What change
// does to a tensor's numbers is written, too.
func randomModel(t *testing.T, config string, change ...func(name string, data []float32)) string {
	dir := t.TempDir()
	cfg, err := model.ParseConfig("config.json", []byte(config))
	if err != nil {
		t.Fatal(err)
	}
	var tensors []safetensors.Tensor
	rng := rand.New(rand.NewPCG(1, 2))
	_, err = model.New(cfg, func(name string, shape ...int) ([]float32, error) {
		n := 1
		for _, s := range shape {
			n *= s
		}
		data := make([]float32, n)
		for i := range data {
			data[i] = float32(rng.NormFloat64() / math.Sqrt(float64(shape[len(shape)-1])))
		}
		for _, c := range change {
			c(name, data)
		}
		tensors = append(tensors, safetensors.Tensor{Name: name, DType: "F32", Shape: shape, Data: data})
		return data, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := safetensors.WriteFile(t.Context(), filepath.Join(dir, "model.safetensors"), nil, tensors...); err != nil {
		t.Fatal(err)
	}
	_, tokenizer, err := retrieval.Build()
	if err != nil {
		t.Fatal(err)
	}
	for name, data := range map[string][]byte{"config.json": []byte(config), "tokenizer.json": tokenizer} {
		if err := os.WriteFile(filepath.Join(dir, name), data, 0o666); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// A full run of RULER with a random model of every family finishes, goes on where it was ended, and reports.
func TestEvalRuler(t *testing.T) {
	const common = `"vocab_size": 5098, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
		"num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 4096, "eos_token_id": 0`
	for family, more := range map[string]string{
		"LlamaForCausalLM": ``, "MistralForCausalLM": `, "sliding_window": 300`, "Qwen2ForCausalLM": ``, "Qwen3ForCausalLM": ``,
	} {
		t.Run(family, func(t *testing.T) {
			dir := randomModel(t, fmt.Sprintf(`{"architectures": [%q], %s%s}`, family, common, more))
			out := filepath.Join(t.TempDir(), "out")
			args := slices.Concat([]string{"eval", "ruler", "--model", dir, "-o", out, "--lengths", "1100", "--samples", "1", "--audit", "4", "--theta", "-1"}, small)
			mustRun(t, append(args, "--tasks", "vt,qa_1")...)
			begun := results(t, out)
			if len(begun) != 4 {
				t.Fatalf("%d records; want 4", len(begun))
			}
			m := object(t, mustRun(t, append(args, "--json", "--report")...), "scores overall notes")
			all := results(t, out)
			if len(all) != 13*2 || len(m["scores"].([]any)) != 13*2 || len(m["overall"].([]any)) != 2 {
				t.Errorf("%d records, %d scores; want 26 of each", len(all), len(m["scores"].([]any)))
			}
			if diff := cmp.Diff(begun, all[:4]); diff != "" {
				t.Errorf("what was finished is not as it was: %s", diff)
			}
			for _, r := range all {
				windowed := more != "" && r.Recall == nil // rows that do not see all keys are not audited
				if r.PromptTokens == 0 || r.PromptTokens > 1100 || r.Recall == nil && !windowed || r.Score < 0 || r.Score > 1 || len(r.Answers) == 0 || r.FirstToken <= 0 {
					t.Errorf("%s: %+v", &r.Job, r.Done)
				}
				if r.Method == "anchor" && r.Density >= 1 {
					t.Errorf("%s: density %v", &r.Job, r.Density)
				}
			}
			page, err := os.ReadFile(filepath.Join(out, "index.html"))
			if err != nil || !bytes.Contains(page, []byte("niah_multikey_3")) || !bytes.Contains(page, []byte("War and Peace")) {
				t.Errorf("the page: %v", err)
			}
		})
	}
}

// Niah asks at every depth, of a file's text. Results may lie beside the model, and do not make it another one.
func TestEvalNIAH(t *testing.T) {
	dir := t.TempDir()
	model, essay := filepath.Join(dir, "model"), filepath.Join(dir, "essay.json")
	out := model
	mustRun(t, "make-model", "retrieval", model)
	if err := os.WriteFile(essay, []byte(`{"text": "One sentence is here. Another one is there."}`), 0o666); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		mustRun(t, "eval", "niah", "--model", model, "-o", out, "--lengths", "300", "--essay", essay, "--methods", "dense,anchor=4", "--report")
	}
	records := results(t, out)
	depths := make(map[float64]bool)
	for _, r := range records {
		depths[r.Values["depth"]] = true
		if r.Data["essay"] == "" || r.Method == "anchor=4" && r.Attention.Params.Theta != 4 {
			t.Errorf("%+v", r.Job)
		}
	}
	if len(records) != 22 || len(depths) != 11 {
		t.Errorf("%d records at %d depths; want 22 at 11", len(records), len(depths))
	}
	// A chat template makes prompts others, which still fit.
	args := []string{"eval", "niah", "--model", model, "-o", out, "--lengths", "300", "--essay", essay, "--methods", "dense", "--chat"}
	if status, _, stderr := anchorCommand(t, args...); status != 1 || !strings.Contains(stderr, "chat template") {
		t.Errorf("without a chat template: status %d, %s", status, stderr)
	}
	template := "{{ bos_token }}{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}{% if add_generation_prompt %}you:{% endif %}"
	if err := os.WriteFile(filepath.Join(model, "chat_template.jinja"), []byte(template), 0o666); err != nil {
		t.Fatal(err)
	}
	mustRun(t, args...)
	records = results(t, out)[22:]
	for _, r := range records {
		if r.Chat == "" || r.PromptTokens > 300-32 {
			t.Errorf("%+v, %d tokens", r.Job, r.PromptTokens)
		}
	}
	if len(records) != 11 {
		t.Errorf("%d records in a chat; want 11", len(records))
	}
}

// A model in a GGUF file is asked as others are. One whose tokens are letters has no room for the example of vt.
func TestEvalGGUF(t *testing.T) {
	path, out := smallGGUF(t, gguf.KeyValue{Key: "llama.context_length", Value: uint32(1 << 13)}), filepath.Join(t.TempDir(), "out")
	args := []string{"eval", "ruler", "--model", path, "-o", out, "--lengths", "8000", "--samples", "1", "--audit", "0", "--methods", "dense"}
	var without []string
	for _, task := range ruler.Tasks(ruler.Data{}) {
		if task.Name != "vt" {
			without = append(without, task.Name)
		}
	}
	mustRun(t, append(args, "--tasks", strings.Join(without, ","))...)
	if n := len(results(t, out)); n != 12 {
		t.Errorf("%d records; want 12", n)
	}
	status, _, stderr := anchorCommand(t, args...)
	if status != 1 || !strings.Contains(stderr, "ruler/vt of 8000 tokens, 30 of them to generate: the example, of at most 500 tokens: ") {
		t.Errorf("status %d, %s", status, stderr)
	}
}

// A sample that fails is a line with its error: all others are asked, the report says how many failed, and so does the error at
// the end. The same command tries those that failed again, and nothing else.
func TestEvalFailed(t *testing.T) {
	dir := t.TempDir()
	text, out := filepath.Join(dir, "text.txt"), filepath.Join(dir, "out")
	plain := strings.Repeat("the war and the peace of a man ", 20)
	if err := os.WriteFile(text, []byte(plain+"who "+plain+plain), 0o666); err != nil {
		t.Fatal(err)
	}
	_, file, err := retrieval.Build()
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	ids := tok.Encode("who", false).IDs
	if len(ids) != 1 {
		t.Fatalf("who is %v", ids)
	}
	model := randomModel(t, llama, func(name string, data []float32) {
		if name == "model.embed_tokens.weight" { // the model cannot read that word
			width := len(data) / 5098
			for i := range width {
				data[int(ids[0])*width+i] = float32(math.NaN())
			}
		}
	})
	args := slices.Concat([]string{"eval", "drift", "--model", model, "--file", text, "-o", out, "--lengths", "100", "--windows", "4", "--json", "--theta", "-1"}, small)
	lines := 0
	for range 2 {
		status, stdout, stderr := anchorCommand(t, args...)
		if status != 1 || !strings.Contains(stderr, "anchor: 2 of 8 samples failed, the first with: drift/text.txt, 100 tokens, sample 1, dense: ") {
			t.Fatalf("status %d, %s", status, stderr)
		}
		if n := strings.Count(stderr, "error: failed: drift/text.txt, 100 tokens, sample 1, "); n != 2 {
			t.Errorf("the log tells of %d failures; want 2: %s", n, stderr)
		}
		m := object(t, stdout, "drifts notes")
		if notes := fmt.Sprint(m["notes"]); !strings.Contains(notes, "6 of 8 results are there") || !strings.Contains(notes, "2 failed") {
			t.Errorf("notes: %s", notes)
		}
		records := results(t, out)
		failed := 0
		for _, r := range records {
			if r.Error != "" && (r.Index != 1 || !strings.Contains(r.Error, "finite")) {
				t.Errorf("%s: %s", &r.Job, r.Error)
			}
			if r.Error != "" {
				failed++
			}
		}
		if lines += 2; failed != lines || len(records) != 6+lines {
			t.Errorf("%d records, %d of them failed; want %d and %d", len(records), failed, 6+lines, lines)
		}
	}
}

// What is wrong is said before anything is asked, and nothing is written.
func TestEvalErrors(t *testing.T) {
	dir := t.TempDir()
	model, out := filepath.Join(dir, "model"), filepath.Join(dir, "out")
	mustRun(t, "make-model", "retrieval", model)
	bad := filepath.Join(dir, "bad.json")
	if err := os.WriteFile(bad, []byte("{}"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"nope"}, 2, `suite is "nope"; want one of ruler, niah, lookup`},
		{[]string{"lookup"}, 2, "-o DIR is missing"},
		{[]string{"lookup", "x"}, 2, "want none"},
		{[]string{"ruler", "-o", out}, 2, "--model is missing"},
		{[]string{"ruler", "--model", dir + "/no", "-o", out}, 1, "no such file"},
		{[]string{"ruler", "--model", model, "-o", out, "--samples", "0"}, 2, "--samples is 0; want 1 … "},
		{[]string{"niah", "--model", model, "-o", out, "--rounds", "-1"}, 2, "--rounds is -1; want 1 … "},
		{[]string{"ruler", "--model", model, "-o", out, "--tasks", "vt,x"}, 2, `--tasks has "x"; want some of niah_single_1, `},
		{[]string{"ruler", "--model", model, "-o", out, "--lengths", "2000000"}, 2, "--lengths has 2000000; want 1 … 1048576"},
		{[]string{"ruler", "--model", model, "-o", out, "--lengths", "200"}, 1, "does not fit"},
		{[]string{"ruler", "--model", model, "-o", out, "--essay", bad}, 1, `bad.json: no field "text"`},
		{[]string{"ruler", "--model", model, "-o", out, "--squad", bad}, 1, "bad.json: no questions"},
		{[]string{"ruler", "--model", model, "-o", out, "--hotpotqa", bad}, 1, "bad.json: not in the format of HotpotQA"},
		{[]string{"lookup", "-o", out, "--methods", "x"}, 2, `--methods is "x"; want one of`},
		{[]string{"lookup", "-o", out, "--methods", "dense,dense"}, 2, `--methods has "dense" twice`},
		{[]string{"lookup", "-o", out, "--audit", "-1"}, 2, "--audit is -1"},
		{[]string{"lookup", "-o", out, "--threads", "-1"}, 2, "--threads is -1"},
	} {
		status, stdout, stderr := anchorCommand(t, append([]string{"eval"}, k.args...)...)
		if status != k.status || stdout != "" || !strings.Contains(stderr, k.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("eval %q: status %d, stdout %q, stderr %q; want %d and %q", k.args, status, stdout, stderr, k.status, k.want)
		}
		if data, _ := os.ReadFile(filepath.Join(out, "results.jsonl")); len(data) != 0 {
			t.Errorf("eval %q wrote results", k.args)
		}
	}
}

// The command is killed at random moments and started again until it ends; then every sample is there once.
func TestEvalKilled(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("processes cannot be killed there and then")
	}
	program, err := os.Executable()
	if err != nil {
		t.Skip(err)
	}
	dir := t.TempDir()
	rng := rand.New(rand.NewPCG(5, 0))
	look := time.NewTicker(time.Millisecond)
	defer look.Stop()
	seen := make(map[string]eval.Record)
	kills := 0
	for finished := false; !finished; {
		again := exec.Command(program, slices.Concat([]string{"eval", "lookup", "-o", dir, "--lengths", "300", "--rounds", "2", "--audit", "0"}, small)...)
		again.Env = append(os.Environ(), "ANCHOR_TEST_COMMAND=1")
		if err := again.Start(); err != nil {
			t.Fatal(err)
		}
		done := make(chan error, 1)
		go func() { done <- again.Wait() }()
		enough := len(seen) + 1 + rng.IntN(20)
		for killed := false; ; {
			select {
			case err := <-done:
				finished = err == nil
				if !finished && !killed {
					t.Fatal(err)
				}
			case <-look.C:
				if data, _ := os.ReadFile(filepath.Join(dir, "results.jsonl")); !killed && bytes.Count(data, []byte("\n")) >= enough {
					if err := again.Process.Kill(); err == nil {
						killed = true
						kills++
					}
				}
				continue
			}
			break
		}
		now := make(map[string]eval.Record)
		for _, r := range results(t, dir) {
			if _, ok := now[r.ID]; ok {
				t.Fatalf("%s is there twice", &r.Job)
			}
			now[r.ID] = r
		}
		for id, r := range seen {
			if diff := cmp.Diff(r, now[id]); diff != "" {
				t.Fatalf("%s is not as it was: %s", &r.Job, diff)
			}
		}
		seen = now
	}
	if len(seen) != 44 || kills == 0 {
		t.Errorf("%d samples, %d kills; want 44, and some", len(seen), kills)
	}
}
