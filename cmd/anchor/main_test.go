package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/bench"
	"github.com/anchorattention/anchor/chat"
	"github.com/anchorattention/anchor/model/retrieval"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// The test's program is anchor itself where it is started as such: as the renderer of chat templates, or by a test.
func TestMain(m *testing.M) {
	chat.Main()
	if os.Getenv("ANCHOR_TEST_COMMAND") != "" {
		main()
	}
	os.Exit(m.Run())
}

// anchorCommand runs a command line and returns the exit status and what it printed.
func anchorCommand(t testing.TB, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = run(t.Context(), args, strings.NewReader(""), &out, &errs)
	return status, out.String(), errs.String()
}

// mustRun runs a command line that is to succeed, without a word on stderr, and returns its stdout.
func mustRun(t testing.TB, args ...string) string {
	t.Helper()
	status, stdout, stderr := anchorCommand(t, args...)
	if status != 0 || stderr != "" {
		t.Fatalf("anchor %q: status %d, stderr %q", args, status, stderr)
	}
	return stdout
}

// object decodes stdout, which is one JSON object, and checks that it has the given fields.
func object(t testing.TB, stdout string, fields string) map[string]any {
	t.Helper()
	d := json.NewDecoder(strings.NewReader(stdout))
	var m map[string]any
	if err := d.Decode(&m); err != nil {
		t.Fatalf("%v in %q", err, stdout)
	}
	if d.More() {
		t.Errorf("more than one value in %q", stdout)
	}
	for _, f := range strings.Fields(fields) {
		if _, ok := m[f]; !ok {
			t.Errorf("no field %s in %s", f, stdout)
		}
	}
	return m
}

// Every subcommand says what it does, shows an example, and describes all its flags.
func TestHelp(t *testing.T) {
	for _, c := range newRoot().Commands() {
		if c.Long == "" || c.Example == "" || c.Short == "" {
			t.Errorf("%s lacks a description or an example", c.Name())
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" {
				t.Errorf("%s --%s has no description", c.Name(), f.Name)
			}
		})
		for line := range strings.Lines(mustRun(t, c.Name(), "--help")) {
			if strings.ContainsRune(line, '\t') {
				t.Errorf("%s --help has a tab in %q", c.Name(), line)
			}
		}
	}
	if out := mustRun(t); !strings.Contains(out, "anchor demo") {
		t.Errorf("anchor alone prints %q; want the help", out)
	}
	if out := mustRun(t, "--version"); !strings.HasPrefix(out, "anchor version ") {
		t.Errorf("--version prints %q", out)
	}
	if out := mustRun(t, "completion", "bash"); !strings.Contains(out, "complete") {
		t.Error("no completion for bash")
	}
}

// An error is one line on stderr that begins with the command's name; its status is 2 when the command line is wrong
// and else 1.
func TestErrors(t *testing.T) {
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	copyFile(t, in, golden)
	link := filepath.Join(dir, "link")
	if err := os.Link(in, link); err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"nope"}, 2, `subcommand is "nope"`},
		{[]string{"--nope"}, 2, "unknown flag: --nope"},
		{[]string{"attend"}, 2, "want IN"},
		{[]string{"attend", in}, 2, "-o OUT is missing"},
		{[]string{"attend", in, "-o", in}, 2, "is the input file"},
		{[]string{"attend", in, "-o", link}, 2, "is the input file"},
		{[]string{"attend", in, "-o", out, "--stripes", in}, 2, "is the input file"},
		{[]string{"attend", in, "-o", out, "--stripes", dir + "/./out"}, 2, "want two files"},
		{[]string{"attend", in, "-o", out, "--stripes", dir + "/s", "--method", "dense"}, 2, "which has none"},
		{[]string{"attend", in, "-o", dir}, 1, "not a regular file"},
		{[]string{"attend", in, "-o", dir + "/no/out"}, 1, "no such file"},
		{[]string{"attend", dir + "/no", "-o", out}, 1, "no such file"},
		{[]string{"attend", in, "-o", out, "--method", "x"}, 2, `--method is "x"; want one of dense, anchor, auto, `},
		{[]string{"attend", in, "-o", out, "--theta", "x"}, 2, `--theta is "x"; want a number in double precision, inf or -inf`},
		{[]string{"attend", in, "-o", out, "--theta", "nan"}, 2, "--theta is NaN"},
		{[]string{"attend", in, "-o", out, "--block", "0"}, 2, "--block is 0; want 1 … "},
		{[]string{"attend", in, "-o", out, "--tail", "-1"}, 2, "--tail is -1"},
		{[]string{"attend", in, "-o", out, "--scale", "inf"}, 2, "--scale is +Inf"},
		{[]string{"attend", in, "-o", out, "--threads", "-1"}, 2, "--threads is -1"},
		{[]string{"attend", in, "-o", out, "--audit", "-1"}, 2, "--audit is -1"},
		{[]string{"attend", in, "-o", out, "--prompt", "-1"}, 2, "--prompt is -1"},
		{[]string{"attend", in, "-o", out, "--prompt", "999999999"}, 1, "Prompt is 999999999"},
		{[]string{"attend", in, "-o", out, "--block", "99999999999999999999"}, 2, `--block is "99999999999999999999"; want a whole number`},
		{[]string{"attend", in, "-o", out, "--block", "536870912", "--step", "2"}, 2, "--block·--step is "},
		{[]string{"attend", in, "-o", out, "--scale", "x"}, 2, `--scale is "x"; want a number`},
		{[]string{"attend", dir + "/a\nb\x1b[2J", "-o", out}, 1, `a; b\x1b[2J: no such file`},
		{[]string{"run", "x"}, 2, "--model is missing"},
		{[]string{"run", "--model", dir}, 2, "no PROMPT"},
		{[]string{"run", "--model", dir, "x"}, 1, "config.json"},
		{[]string{"run", "--model", dir + "/no", "x"}, 1, "no such file"},
		{[]string{"run", "--model", dir, "--file", dir + "/no"}, 1, "no such file"},
		{[]string{"run", "--model", dir, "--file", "-", "--file", "-"}, 2, "--file is - 2 times"},
		{[]string{"run", "--model", dir, "--file", "-", "--interactive"}, 2, "takes messages from stdin"},
		{[]string{"run", "--model", dir, "x", "--save"}, 2, "--save is given without --history"},
		{[]string{"run", "--model", dir, "x", "--max-tokens", "0"}, 2, "--max-tokens is 0"},
		{[]string{"run", "--model", dir, "x", "--attention", "y"}, 2, `--attention is "y"`},
		{[]string{"run", "--model", dir, "x", "--dense-below", "-1"}, 2, "--dense-below is -1"},
		{[]string{"run", "--model", dir, "x", "--temperature", "-1"}, 2, "--temperature is -1"},
		{[]string{"run", "--model", dir, "x", "--temperature", "1", "--top-p", "2"}, 2, "--top-p is 2; want 0 … 1"},
		{[]string{"run", "--model", dir, "x", "--top-k", "5"}, 2, "--top-k is given without a --temperature"},
		{[]string{"run", "--model", dir, "x", "--logprobs", "5"}, 2, "--logprobs is given without --json"},
		{[]string{"run", "--model", dir, "x", "--logprobs", "-1", "--json"}, 2, "--logprobs is -1"},
		{[]string{"run", "--model", dir, "x", "--cache-type", "F64"}, 2, `--cache-type is "F64"; want one of f32, bf16, f16, 8bit`},
		{[]string{"run", "--model", dir, "x", "--cache-memory", "2x"}, 2, `--cache-memory is "2x"; want a number of bytes`},
		{[]string{"bench", "x"}, 2, "want none"},
		{[]string{"bench", "--lengths", "1,abc"}, 2, `--lengths is "1,abc"; want whole numbers`},
		{[]string{"bench", "--lengths", "268435456"}, 2, "need 1536.0 GiB"},
		{[]string{"bench", "--json=x"}, 2, `--json is "x"; want true or false`},
		{[]string{"bench", "--lengths", "0"}, 2, "length is 0"},
		{[]string{"bench", "--methods", "x"}, 2, `--methods is "x"`},
		{[]string{"bench", "--workload", "x"}, 2, `workload is "x"`},
		{[]string{"bench", "--runs", "0"}, 2, "runs are 0"},
		{[]string{"bench", "--dtypes", "F64"}, 2, `--dtypes is "F64"; want one of F32, BF16, F16`},
		{[]string{"bench", "--threads", "-1"}, 2, "threads are -1"},
		{[]string{"bench", "--queries", "2000"}, 2, "queries are 2000; want at most the length, 1024"},
		{[]string{"bench", "--costs", dir + "/no"}, 1, "no such file"},
		{[]string{"attend", in, "-o", out, "--costs", in}, 1, "in: invalid character"},
		{[]string{"tune", "--threads", "-1"}, 2, "--threads is -1"},
		{[]string{"tune", "-o", dir}, 1, "not a regular file"},
		{[]string{"demo", "--tokens", "1"}, 2, "prompt of 1 tokens"},
		{[]string{"demo", "--depth", "2"}, 2, "depth is 2"},
		{[]string{"demo", "--step", "0"}, 2, "--step is 0"},
		{[]string{"make-model", "x", dir}, 2, `kind of model is "x"`},
		{[]string{"make-model", "retrieval", in}, 1, "in"},
	} {
		status, stdout, stderr := anchorCommand(t, k.args...)
		if status != k.status || stdout != "" {
			t.Errorf("anchor %q: status %d, stdout %q; want status %d and none", k.args, status, stdout, k.status)
		}
		if !strings.HasPrefix(stderr, "anchor: ") || strings.HasPrefix(stderr, "anchor: anchor: ") ||
			strings.Index(stderr, "\n") != len(stderr)-1 || !strings.Contains(stderr, k.want) {
			t.Errorf("anchor %q: stderr %q; want one line with %q", k.args, stderr, k.want)
		}
	}
	if left := names(t, dir); !slices.Equal(left, []string{"in", "link"}) {
		t.Errorf("errors left %q behind", left)
	}
}

// A command that is interrupted says so, and leaves no files.
func TestInterrupt(t *testing.T) {
	dir := t.TempDir()
	for _, args := range [][]string{
		{"attend", golden, "-o", dir + "/out"},
		{"bench", "--lengths", "256"},
		{"demo", "--tokens", "500"},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		var stdout, stderr bytes.Buffer
		status := run(ctx, args, strings.NewReader(""), &stdout, &stderr)
		if status != 1 || stdout.Len() > 0 || !strings.HasSuffix(stderr.String(), "anchor: interrupted\n") {
			t.Errorf("anchor %q: status %d, %q, %q; want 1 and that it was interrupted", args, status, stdout.String(), stderr.String())
		}
	}
	if left := names(t, dir); len(left) > 0 {
		t.Errorf("%q left behind", left)
	}
}

// A countdown is a context that is cancelled when it has been asked for its error so many times.
type countdown struct {
	context.Context
	cancel context.CancelFunc
	left   atomic.Int64
}

func newCountdown(t *testing.T, n int64) *countdown {
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(cancel)
	c := &countdown{Context: ctx, cancel: cancel}
	c.left.Store(n)
	return c
}

func (c *countdown) Err() error {
	if c.left.Add(-1) < 0 {
		c.cancel()
	}
	return c.Context.Err()
}

// Wherever a command that writes a file is interrupted, it says so, once, and the file is not there.
func TestInterruptWriting(t *testing.T) {
	for _, args := range [][]string{{"attend", golden, "-o", "out"}, {"make-model", "retrieval", "."}} {
		dir := t.TempDir()
		last := "out"
		if args[0] == "attend" {
			args[3] = filepath.Join(dir, last)
		} else {
			args[2], last = dir, "model.safetensors"
		}
		interrupted := 0
		for n := int64(0); ; n += 1 + n/8 {
			var stdout, stderr bytes.Buffer
			status := run(newCountdown(t, n), args, strings.NewReader(""), &stdout, &stderr)
			left := names(t, dir)
			if status == 0 {
				break
			}
			interrupted++
			if status != 1 || stdout.Len() > 0 || stderr.String() != "anchor: interrupted\n" {
				t.Fatalf("anchor %q: status %d, %q, %q; want 1 and that it was interrupted", args, status, stdout.String(), stderr.String())
			}
			if slices.Contains(left, last) || slices.ContainsFunc(left, func(name string) bool { return strings.HasSuffix(name, ".tmp") }) {
				t.Fatalf("anchor %q, interrupted at check %d, left %q", args, n, left)
			}
		}
		if interrupted < 3 {
			t.Errorf("anchor %q was interrupted %d times; want more", args, interrupted)
		}
	}
}

// A pretender calls a function at each read or write, and fails writes with an error if it has one.
type pretender struct {
	do     func()
	writes int
	err    error
}

func (p *pretender) Write(b []byte) (int, error) {
	p.writes++
	p.do()
	if p.err != nil {
		return 0, p.err
	}
	return len(b), nil
}

// Read never returns.
func (p *pretender) Read([]byte) (int, error) {
	p.do()
	select {}
}

// Waiting for standard input ends with the context.
func TestInterruptStdin(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	var stdout, stderr bytes.Buffer
	status := run(ctx, []string{"run", "--model", t.TempDir(), "--file", "-"}, &pretender{do: cancel}, &stdout, &stderr)
	if status != 1 || stderr.String() != "anchor: interrupted\n" {
		t.Errorf("status %d, %q; want 1 and that it was interrupted", status, stderr.String())
	}
}

// A command that is interrupted while it prints stops, and one that cannot print says so once and does not go on.
func TestInterruptOutput(t *testing.T) {
	dir := t.TempDir()
	mustRun(t, "make-model", "retrieval", dir)
	p, err := retrieval.NewPrompt(300, 0.3, 5)
	if err != nil {
		t.Fatal(err)
	}
	full := errors.New("disk full")
	for _, args := range [][]string{
		{"run", "--model", dir, p.Text},
		{"bench", "--lengths", "64,100", "--runs", "1", "--heads", "2", "--kv-heads", "1", "--dim", "16", "--json"},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		var stderr bytes.Buffer
		if status := run(ctx, args, nil, &pretender{do: cancel}, &stderr); status != 1 || stderr.String() != "anchor: interrupted\n" {
			t.Errorf("anchor %q: status %d, %q; want 1 and that it was interrupted", args[0], status, stderr.String())
		}
		stderr.Reset()
		out := &pretender{do: func() {}, err: full}
		if status := run(t.Context(), args, nil, out, &stderr); status != 1 || strings.Count(stderr.String(), full.Error()) != 1 || out.writes != 1 {
			t.Errorf("anchor %q: status %d, %q after %d writes; want 1, the error and one write", args[0], status, stderr.String(), out.writes)
		}
	}
}

// An error of several lines or with control characters is one line without them.
func TestOneLine(t *testing.T) {
	for in, want := range map[string]string{
		"plain – ü":            "plain – ü",
		"two\nlines\n":         "two; lines",
		"a\r\nb\tc\x1b[2J\x00": `a\r; b\tc\x1b[2J\x00`,
		"bad \xff, \u009b":     `bad \xff, \u009b`,
	} {
		if got := oneLine(in); got != want {
			t.Errorf("%q becomes %q; want %q", in, got, want)
		}
	}
}

// An ANCHOR_CPU that names no kernels is reported as such. The kernels are chosen once in a process: this test is one
// for each value.
func TestBadCPU(t *testing.T) {
	const bad = "nope"
	if os.Getenv("ANCHOR_CPU") != bad {
		program, err := os.Executable()
		if err != nil {
			t.Skip(err)
		}
		again := exec.CommandContext(t.Context(), program, "-test.run=^TestBadCPU$")
		again.Env = append(os.Environ(), "ANCHOR_CPU="+bad)
		if out, err := again.CombinedOutput(); err != nil {
			t.Errorf("%v:\n%s", err, out)
		}
		return
	}
	for _, args := range [][]string{
		{"attend", golden, "-o", filepath.Join(t.TempDir(), "out")}, {"run", "--model", "x", "y"}, {"bench"}, {"demo"},
	} {
		status, stdout, stderr := anchorCommand(t, args...)
		if status != 1 || stdout != "" || !strings.HasPrefix(stderr, `anchor: ANCHOR_CPU is "nope"; `) {
			t.Errorf("anchor %q: status %d, %q, %q; want 1 and ANCHOR_CPU", args, status, stdout, stderr)
		}
	}
}

// The help of a subcommand lists the fields of its JSON.
func TestHelpListsFields(t *testing.T) {
	for name, report := range map[string]any{
		"attend": attendReport{Recall: &anchor.Recall{}}, "run": generated{Recall: &anchor.Recall{}}, "inspect": inspection{}, "bench": bench.Result{SpeedupVsDense: 1, ReadGBs: 1, OfRead: 1, TimeVsDense: &bench.Ratio{}, RateVsDense: &bench.Ratio{}, Scaling: &bench.Ratio{}},
	} {
		data, err := json.Marshal(report)
		if err != nil {
			t.Fatal(err)
		}
		var fields map[string]any
		if err := json.Unmarshal(data, &fields); err != nil {
			t.Fatal(err)
		}
		_, help, _ := strings.Cut(mustRun(t, name, "--help"), "With --json")
		for field := range fields {
			if !regexp.MustCompile(`\b` + field + `\b`).MatchString(help) {
				t.Errorf("%s --help does not list %s", name, field)
			}
		}
	}
}

// The flags of AnchorAttention's parameters are the same wherever there are any.
func TestParamFlags(t *testing.T) {
	var c cobra.Command
	paramFlags(&c)
	var subs []*cobra.Command
	for _, sub := range newRoot().Commands() {
		if sub.HasSubCommands() {
			subs = append(subs, sub.Commands()...)
		} else {
			subs = append(subs, sub)
		}
	}
	for _, sub := range subs {
		switch sub.Name() {
		case "make-model", "tune", "pull", "inspect", "capture", "worker":
			continue
		}
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if g := sub.Flags().Lookup(f.Name); g == nil || g.DefValue != f.DefValue || g.Usage != f.Usage {
				t.Errorf("%s --%s is not the shared flag", sub.Name(), f.Name)
			}
		})
	}
}

func copyFile(t testing.TB, to, from string) {
	t.Helper()
	data, err := os.ReadFile(from)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(to, data, 0o666); err != nil {
		t.Fatal(err)
	}
}

// names returns the files in a directory.
func names(t testing.TB, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, e := range entries {
		all = append(all, e.Name())
	}
	return all
}
