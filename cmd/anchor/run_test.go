package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/anchorattention/anchor/chat"
	"github.com/anchorattention/anchor/internal/gguf"
	"github.com/anchorattention/anchor/model/retrieval"
	"github.com/google/go-cmp/cmp"
)

// plainTemplate puts every message on a line.
const plainTemplate = "<s> {% for m in messages %}{{ m.content }}\n{% endfor %}"

// retrievalModel writes the demo's model, with a chat template, to a directory. It looks up what followed a code word: facts has
// two.
func retrievalModel(t testing.TB, template string) string {
	t.Helper()
	dir := t.TempDir()
	if err := retrieval.Write(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	writeFile(t, filepath.Join(dir, "chat_template.jinja"), template)
	return dir
}

const facts = "He wrote babobax house on one door and babodun river on the other."

func writeFile(t testing.TB, path, text string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
		t.Fatal(err)
	}
}

// runWith runs a command line on standard input that succeeds, and returns its output.
func runWith(t testing.TB, stdin string, args ...string) (stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	if status := run(t.Context(), args, strings.NewReader(stdin), &out, &errs); status != 0 {
		t.Fatalf("anchor %q: status %d, %s", args, status, errs.String())
	}
	return out.String(), errs.String()
}

// A prompt is files in order and the argument after them, or standard input, and the model continues it.
func TestRunPrompt(t *testing.T) {
	first, second := filepath.Join(t.TempDir(), "first"), filepath.Join(t.TempDir(), "second")
	writeFile(t, first, "one\n")
	writeFile(t, second, facts)
	for _, k := range []struct {
		files, args []string
		want        string
	}{
		{nil, nil, "babobax"},
		{nil, []string{"babodun"}, "babodun"},
		{[]string{second, "-", first}, nil, facts + "\n\nbabobax\n\none\n"},
		{[]string{first, second}, []string{"babodun"}, "one\n\n\n" + facts + "\n\nbabodun"},
		{[]string{first}, []string{""}, "one\n"},
	} {
		got, err := (&generation{files: k.files}).prompt(t.Context(), strings.NewReader("babobax"), k.args)
		if err != nil || got != k.want {
			t.Errorf("%q, %q: %q, %v; want %q", k.files, k.args, got, err, k.want)
		}
	}
	dir := retrievalModel(t, plainTemplate)
	if got, _ := runWith(t, "babobax", "run", "--model", dir, "--file", second, "--file", "-"); got != "house\n" {
		t.Errorf("got %q; want house", got)
	}
	if got, _ := runWith(t, facts+" babobax", "run", "--model", dir); got != "house\n" {
		t.Errorf("got %q; want house", got)
	}
}

// A message to a model is put as its template says, after instructions and what was said before, and the conversation is kept.
func TestRunChat(t *testing.T) {
	dir := retrievalModel(t, plainTemplate)
	history := filepath.Join(t.TempDir(), "history.json")
	args := []string{"run", "--model", dir, "--history", history, "--save", "--system", facts}
	if got, _ := runWith(t, "babobax", args...); got != "house\n" {
		t.Errorf("got %q; want house", got)
	}
	// What was said is still known without the instructions.
	if got, _ := runWith(t, "", "run", "--model", dir, "--history", history, "Tell me again: babodun"); got != "river\n" {
		t.Errorf("got %q; want river", got)
	}
	runWith(t, "", append(args, "and babodun")...)
	data, err := os.ReadFile(history)
	if err != nil {
		t.Fatal(err)
	}
	var got []chat.Message
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	want := []chat.Message{
		{Role: "system", Content: facts}, {Role: "user", Content: "babobax"}, {Role: "assistant", Content: "house"},
		{Role: "user", Content: "and babodun"}, {Role: "assistant", Content: "river"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}

	bad := filepath.Join(t.TempDir(), "bad.json")
	writeFile(t, bad, `[{"content": "x"}]`)
	hostile, none := retrievalModel(t, "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}"), retrievalModel(t, "")
	if err := os.Remove(filepath.Join(none, "chat_template.jinja")); err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"--model", hostile, "--chat", "x"}, 1, "chat_template.jinja: recurses without end"},
		{[]string{"--model", none, "--chat", "x"}, 1, "no chat template"},
		{[]string{"--model", dir, "--history", bad, "x"}, 1, "bad.json: role of a message is"},
		{[]string{"--model", dir, "--history", bad + "x", "x"}, 1, "no such file"},
		{[]string{"--model", dir, "--history", history, "--system", "Be brief.", "x"}, 2, "begins with other instructions"},
	} {
		status, stdout, stderr := anchorCommand(t, append([]string{"run"}, k.args...)...)
		if status != k.status || stdout != "" || !strings.Contains(stderr, k.want) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: status %d, stdout %q, stderr %q; want %d, %q", k.args, status, stdout, stderr, k.status, k.want)
		}
	}
}

// A conversation goes on line by line; what was read is not read again; a document comes before the first line, and a prompt is
// answered before it.
func TestRunInteractive(t *testing.T) {
	dir := retrievalModel(t, plainTemplate)
	document := filepath.Join(t.TempDir(), "document")
	writeFile(t, document, facts+strings.Repeat(" And so on.", 100))
	base := []string{"run", "--model", dir, "--interactive", "--block", "16", "--step", "8", "--tail", "16"}
	got, stderr := runWith(t, "babobax\n\n and babodun \nbabobax", append(base, "--file", document)...)
	if got != "house\nriver\nhouse\n" || stderr != "" {
		t.Errorf("got %q, stderr %q; want house, river and house", got, stderr)
	}
	if got, _ := runWith(t, "babodun\n", append(base, "--file", document, "babobax")...); got != "house\nriver\n" {
		t.Errorf("got %q; want house and river", got)
	}
	got, _ = runWith(t, "babobax\nbabodun\n", append(base, "--file", document, "--json")...)
	lines := strings.SplitAfter(got, "\n")
	if len(lines) != 3 {
		t.Fatalf("%q; want two objects", got)
	}
	for i, k := range []struct {
		text   string
		cached float64
	}{{"house", 0}, {"river", 384}} { // the prompts have some 420 tokens, and groups 128
		if m := object(t, lines[i], "tokens"); m["text"] != k.text || m["cached_tokens"] != k.cached || m["tokens"].(float64) < 400 {
			t.Errorf("answer %d is %v; want %s and %v tokens from the cache", i, m, k.text, k.cached)
		}
	}
}

// Ctrl-C ends an answer, of which what was said is kept, and at the prompt the program.
func TestRunInterrupted(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("signals cannot be sent to a process here")
	}
	dir := smallModel(t)
	writeFile(t, filepath.Join(dir, "chat_template.jinja"), plainTemplate)
	config := filepath.Join(dir, "config.json")
	data, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	// A long context, and an answer that takes long.
	writeFile(t, config, strings.Replace(string(data), `"max_position_embeddings":256`, `"max_position_embeddings":262144`, 1))
	writeFile(t, filepath.Join(dir, "generation_config.json"), `{"eos_token_id": []}`)
	program, err := os.Executable()
	if err != nil {
		t.Skip(err)
	}
	history := filepath.Join(t.TempDir(), "history.json")
	c := exec.CommandContext(t.Context(), program, "run", "--model", dir, "--interactive", "--max-tokens", "200000", "--history", history, "--save")
	c.Env = append(os.Environ(), "ANCHOR_TEST_COMMAND=1")
	var stderr bytes.Buffer
	c.Stderr = &stderr
	in, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	stuck := time.AfterFunc(time.Minute, func() { c.Process.Kill() })
	defer stuck.Stop()
	answers := bufio.NewReader(out)
	for range 2 {
		fmt.Fprintln(in, "on")
		if _, err := answers.ReadByte(); err != nil {
			t.Fatalf("no answer: %v, %s", err, stderr.String())
		}
		if err := c.Process.Signal(os.Interrupt); err != nil {
			t.Fatal(err)
		}
		if _, err := answers.ReadString('\n'); err != nil {
			t.Fatalf("the answer does not end: %v, %s", err, stderr.String())
		}
	}
	if err := c.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	if rest, err := io.ReadAll(answers); err != nil || len(rest) > 0 {
		t.Errorf("%q came after the end, %v", rest, err)
	}
	if err := c.Wait(); err != nil || strings.Contains(stderr.String(), "anchor:") {
		t.Errorf("%v, %s; want no error", err, stderr.String())
	}
	data, err = os.ReadFile(history)
	if err != nil {
		t.Fatal(err)
	}
	var said []chat.Message
	if err := json.Unmarshal(data, &said); err != nil || len(said) != 4 || said[1].Content == "" || said[3].Role != "assistant" {
		t.Errorf("%d messages are kept, %v; want four with what was said", len(said), err)
	}
}

// What cannot fit is refused with the numbers before anything is printed; without --max-tokens, as many are generated as do fit.
func TestRunTooLong(t *testing.T) {
	dir := smallModel(t)
	prompt := strings.Repeat("on ", 1019) // with what a text begins with 1020 tokens
	for _, k := range []struct {
		args []string
		want string
	}{
		{[]string{prompt + prompt}, "a prompt of 2039 tokens and 1 to generate exceed the model's 1024 positions"},
		{[]string{prompt, "--max-tokens", "50"}, "a prompt of 1020 tokens and 50 to generate exceed the model's 1024 positions"},
		{[]string{prompt, "--cache-memory", "100KiB"}, "takes 8 pages of 128 tokens, 393216 bytes; the limit is 2 pages, 98304 bytes"},
		{[]string{prompt, "--cache-memory", "12"}, "want at least 49152"},
		{[]string{prompt, "--dense-layers", "3"}, `--dense-layers is "3"; the model has 3, from 0`},
		{[]string{prompt, "--logprobs", "99999", "--json"}, "TopLogProbs is 99999"},
	} {
		status, stdout, stderr := anchorCommand(t, append([]string{"run", "--model", dir}, k.args...)...)
		if status == 0 || stdout != "" || !strings.Contains(stderr, k.want) {
			t.Errorf("%q: status %d, stdout %q, stderr %q; want %q", k.args[1:], status, stdout, stderr, k.want)
		}
	}
	if m := object(t, mustRun(t, "run", "--model", dir, "--json", prompt), "end"); m["end"] == "length" && m["generated"] != 5.0 {
		t.Errorf("%v; want the 5 tokens that fit", m)
	}
}

// Tokens are drawn as the flags say, by a seed, end at a text, and come with their log-probabilities.
func TestRunSampling(t *testing.T) {
	dir := smallModel(t)
	base := []string{"run", "--model", dir, "--json", "--max-tokens", "30", "--temperature", "3", "--top-p", "0.99", "--min-p", "0.0001", "--repetition-penalty", "1.1", "so it was"}
	texts := map[string]bool{}
	for _, seed := range []string{"1", "2", "1"} {
		texts[object(t, mustRun(t, append(base, "--seed", seed)...), "text")["text"].(string)] = true
	}
	if len(texts) != 2 {
		t.Errorf("seeds 1, 2 and 1 give %d texts; want two", len(texts))
	}
	m := object(t, mustRun(t, "run", "--model", dir, "--json", "--max-tokens", "4", "--logprobs", "3", "so it was"), "logprobs")
	for _, l := range m["logprobs"].([]any) {
		l := l.(map[string]any)
		if top := l["top"].([]any); len(top) != 3 || top[0].(map[string]any)["id"] != l["id"] || l["logprob"].(float64) > 0 {
			t.Errorf("log-probabilities are %v; want the likeliest of three", l)
		}
	}
}

// A model may be a name of the hub: a directory in its cache, or a file in one. GGUF files have tokenizer and template within.
func TestRunHubAndGGUF(t *testing.T) {
	const commit = "0123456789abcdef0123456789abcdef01234567"
	cache := t.TempDir()
	t.Setenv("HF_HUB_CACHE", cache)
	put := func(repo string) string {
		dir := filepath.Join(cache, "models--"+strings.ReplaceAll(repo, "/", "--"))
		writeFile(t, filepath.Join(dir, "refs", "main"), commit)
		return filepath.Join(dir, "snapshots", commit)
	}
	if err := retrieval.Write(t.Context(), put("org/directory")); err != nil {
		t.Fatal(err)
	}
	file := smallGGUF(t, gguf.KeyValue{Key: "tokenizer.chat_template", Value: "{% for m in messages %}{{ eos_token }}{{ m.content }}{% endfor %}"})
	for _, name := range []string{"small.gguf", "q8/small.gguf"} {
		to := filepath.Join(put("org/gguf"), name)
		writeFile(t, to, "")
		copyFile(t, to, file)
	}

	if got, _ := runWith(t, "", "run", "--model", "org/directory", facts+" babobax"); got != "house\n" {
		t.Errorf("got %q; want house", got)
	}
	for _, name := range []string{file, "org/gguf:small.gguf", "org/gguf:q8/small.gguf"} {
		// All logits are 0, and the first token is an a.
		if got, _ := runWith(t, "", "run", "--model", name, "--max-tokens", "3", "anchor"); got != "aaa\n" {
			t.Errorf("%s: got %q; want aaa", name, got)
		}
		if m := object(t, mustRun(t, "run", "--model", name, "--max-tokens", "3", "--json", "--chat", "anchor"), "text"); m["tokens"] != 7. || m["text"] != "aaa" {
			t.Errorf("%s: %v; want aaa after a token and six letters", name, m)
		}
	}
	if m := object(t, mustRun(t, "inspect", "org/gguf:small.gguf", "--json"), "model"); m["architecture"] != "llama" || m["model"] != "org/gguf:small.gguf" {
		t.Errorf("%v", m)
	}
	captured := filepath.Join(t.TempDir(), "captured")
	runWith(t, facts, "capture", "org/directory", "--file", "-", "-o", captured)
	if got := names(t, captured); len(got) != 2 {
		t.Errorf("capture wrote %q; want two layers", got)
	}
	for name, want := range map[string]string{
		"org/absent":       "no file or directory is called org/absent; org/absent at revision main: is not in " + cache + " (file does not exist); anchor pull org/absent downloads it",
		"org/gguf:no.gguf": "anchor pull org/gguf:no.gguf downloads it",
		"org/gguf":         "org/gguf has GGUF files and no config.json; want one of them, such as org/gguf:small.gguf",
		"./org/absent":     "no such file",
	} {
		for _, args := range [][]string{{"run", "--model", name, "x"}, {"inspect", name}, {"capture", name, "--file", "-", "-o", captured}} {
			if status, _, stderr := anchorCommand(t, args...); status != 1 || !strings.Contains(stderr, want) {
				t.Errorf("%q: status %d, %q; want %q", args, status, stderr, want)
			}
		}
	}
}

// A number of bytes may have a unit.
func TestParseBytes(t *testing.T) {
	for text, want := range map[string]int64{"": 0, "1": 1, "2048": 2048, "1.5KiB": 1536, "4 MiB": 4 << 20, "2GiB": 2 << 30, "1TiB": 1 << 40} {
		if got, err := parseBytes("x", text); err != nil || got != want {
			t.Errorf("%q is %d, %v; want %d", text, got, err, want)
		}
	}
	for _, text := range []string{"0", "-1", "NaN", "inf", "1e30", "KiB", "1 kb", "1KiBMiB", "x"} {
		if got, err := parseBytes("x", text); err == nil {
			t.Errorf("%q is %d; want an error", text, got)
		}
	}
}
