package main

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/anchorattention/anchor/eval"
	"github.com/anchorattention/anchor/eval/queue"
	"github.com/nats-io/nats-server/v2/server"
)

// natsServer starts a server with JetStream on the loopback interface and returns its address.
func natsServer(t *testing.T) string {
	t.Helper()
	s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true})
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(30 * time.Second) {
		t.Fatal("the server is not ready")
	}
	return s.ClientURL()
}

// Two workers do what an evaluation asks for; one with another model does nothing and says why, and so does the evaluation; all
// end by themselves once there is no evaluation.
func TestWorker(t *testing.T) {
	address := natsServer(t)
	dir := t.TempDir()
	model, out := filepath.Join(dir, "model"), filepath.Join(dir, "out")
	mustRun(t, "make-model", "retrieval", model)

	type ended struct {
		status      int
		out, errors string
	}
	worker := func(args ...string) <-chan ended {
		end := make(chan ended, 1)
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		go func() {
			defer cancel()
			var out, errs bytes.Buffer
			status := run(ctx, append([]string{"worker", "--nats", address, "--idle", "2s", "--threads", "1"}, args...), strings.NewReader(""), &out, &errs)
			end <- ended{status, out.String(), errs.String()}
		}()
		return end
	}
	plain, asJSON, other := worker(), worker("--json"), worker("--model", model)
	args := []string{"eval", "lookup", "-o", out, "--lengths", "300", "--rounds", "3", "--audit", "0", "--nats", address}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	var table, said bytes.Buffer
	if status := run(ctx, args, strings.NewReader(""), &table, &said); status != 0 {
		t.Fatalf("status %d: %s", status, &said)
	}
	log := said.String()
	if n := len(results(t, out)); n != 66 {
		t.Errorf("%d records; want 66", n)
	}
	for _, want := range []string{"evaluation started: ", "a worker has come: worker ", "a worker refuses: worker ", "samples: done 66 of 66"} {
		if !strings.Contains(log, want) {
			t.Errorf("the evaluation's log has no %q: %s", want, log)
		}
	}

	samples := 0
	end := <-asJSON
	for line := range strings.Lines(end.out) {
		m := object(t, line, "time level msg")
		if m["msg"] == "done" {
			samples++
			object(t, line, "job score ttft took")
		}
	}
	if end.status != 0 || end.errors != "" {
		t.Errorf("status %d, %s", end.status, end.errors)
	}
	end = <-plain
	samples += strings.Count(end.errors, " done: lookup/lookup, 300 tokens, sample ")
	if end.status != 0 || end.out != "" || !strings.Contains(end.errors, " worker ready: worker ") {
		t.Errorf("status %d, %s", end.status, end.errors)
	}
	if samples != 66 {
		t.Errorf("workers did %d samples; want 66", samples)
	}
	end = <-other
	if end.status != 0 || strings.Contains(end.errors, "done:") || !strings.Contains(end.errors, "error: refused: evaluation lookup, the constructed model, ") ||
		!strings.Contains(end.errors, "eval: job is for model retrieval; this is ") {
		t.Errorf("status %d, %s", end.status, end.errors)
	}

	// All is done: no worker is needed.
	if status, _, log := anchorCommand(t, args...); status != 0 {
		t.Errorf("status %d: %s", status, log)
	}
}

// Where there is no bar, a line a minute says how far an evaluation is: on a queue from the beginning to the end; of samples that
// this process does, whose run may be short, none in the first minute.
func TestTeller(t *testing.T) {
	start := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	for _, test := range []struct {
		teller
		want []string
	}{
		{teller{toEnd: true}, []string{"0 of 8, workers 1, left 8m0s", "2 of 8, failed 1, workers 1, left 6m0s", "4 of 8, failed 2, workers 1, left 4m0s", "8 of 8, failed 4, workers 1"}},
		{teller{last: start}, []string{"2 of 8, failed 1, workers 1, left 6m0s", "4 of 8, failed 2, workers 1, left 4m0s"}},
	} {
		var out bytes.Buffer
		tell := test.teller
		tell.log = newLog(&out, slog.LevelInfo)
		for _, at := range []struct{ seconds, done int }{{0, 0}, {30, 1}, {60, 2}, {90, 3}, {119, 3}, {120, 4}, {130, 8}} {
			tell.report(queue.Progress{
				Progress: eval.Progress{Done: at.done, All: 8, Failed: at.done / 2, Left: time.Duration(8-at.done) * time.Minute}, Workers: 1,
			}, start.Add(time.Duration(at.seconds)*time.Second))
		}
		var got []string
		for line := range strings.Lines(out.String()) {
			_, line, _ = strings.Cut(line, " samples: done ")
			got = append(got, strings.TrimSpace(line))
		}
		if !slices.Equal(got, test.want) {
			t.Errorf("%+v: %q; want %q", test.teller, got, test.want)
		}
	}
}

func TestWorkerErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("x"), 0o666); err != nil {
		t.Fatal(err)
	}
	for _, k := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"worker"}, 2, "--nats is missing"},
		{[]string{"worker", "x"}, 2, `arguments are ["x"]; want none`},
		{[]string{"worker", "--nats", "a", "--idle", "-1s"}, 2, "--idle is -1s"},
		{[]string{"worker", "--nats", "a", "--threads", "-1"}, 2, "--threads is -1"},
		{[]string{"worker", "--nats", "a", "--nats-key", file}, 2, "go together"},
		{[]string{"worker", "--nats", "a", "--nats-creds", file, "--nats-nkey", file}, 2, "want one of the two"},
		{[]string{"worker", "--nats", "a", "--squad", file}, 1, file},
		{[]string{"worker", "--nats", "127.0.0.1:1"}, 1, "cannot connect to nats://127.0.0.1:1: "},
		{[]string{"worker", "--nats", "http://me:secret@127.0.0.1:1"}, 1, "want nats, tls, ws or wss"},
		{[]string{"eval", "lookup", "-o", t.TempDir(), "--nats-creds", file}, 2, "without --nats"},
		{[]string{"eval", "lookup", "-o", t.TempDir(), "--nats", "127.0.0.1:1", "--lengths", "300"}, 1, "cannot connect to nats://127.0.0.1:1: "},
	} {
		status, stdout, stderr := anchorCommand(t, k.args...)
		if status != k.status || !strings.Contains(stderr, k.want) || stdout != "" || strings.Contains(stderr, "secret") {
			t.Errorf("anchor %q: status %d, %q, %q; want %d, %q", k.args, status, stdout, stderr, k.status, k.want)
		}
	}
}

// An event is a line, whatever is in it, and for programs an object.
func TestLog(t *testing.T) {
	var people, programs bytes.Buffer
	for _, log := range []*slog.Logger{newLog(&people, slog.LevelInfo), newJSONLog(&programs, slog.LevelInfo)} {
		log = log.With("worker", "a")
		log.Debug("unheard")
		log.Info("done", "job", "x, y", "score", 0.123456, "took", 1500*time.Millisecond, "none", "")
		log.Warn("lost\nline", "error", os.ErrNotExist)
	}
	got := people.String()
	for i, want := range []string{
		" done: worker a, x, y, score 0.1235, took 1.5s\n", " warning: lost; line: worker a, file does not exist\n",
	} {
		line := strings.SplitAfter(got, "\n")[i]
		if _, rest, _ := strings.Cut(line, " "); " "+rest != want {
			t.Errorf("%q; want %q", line, want)
		}
	}
	var m map[string]any
	if err := json.NewDecoder(&programs).Decode(&m); err != nil || m["took"] != 1.5 || m["worker"] != "a" {
		t.Errorf("%v, %v", m, err)
	}
	var all sync.WaitGroup
	var shared bytes.Buffer
	log := newLog(&shared, slog.LevelInfo)
	for range 10 {
		all.Go(func() { log.Info("at once") })
	}
	all.Wait()
	if n := strings.Count(shared.String(), " at once\n"); n != 10 {
		t.Errorf("%d lines; want 10", n)
	}
}

// A worker does the tasks that it has files for.
func TestWorkerData(t *testing.T) {
	address := natsServer(t)
	dir := t.TempDir()
	model, text := filepath.Join(dir, "model"), filepath.Join(dir, "text.txt")
	mustRun(t, "make-model", "retrieval", model)
	if err := os.WriteFile(text, bytes.Repeat([]byte("The ship came in at noon and left at night. "), 100), 0o666); err != nil {
		t.Fatal(err)
	}
	const samples = "../../eval/longbench/testdata/samples"
	ended := make(chan string, 1)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	go func() {
		defer cancel() // without it nobody does what is asked
		var errs bytes.Buffer
		run(ctx, []string{"worker", "--nats", address, "--model", model, "--longbench", samples, "--text", text, "--positions", "32"}, strings.NewReader(""), &errs, &errs)
		ended <- errs.String()
	}()
	for _, args := range [][]string{
		{"eval", "drift", "--file", text, "--positions", "32", "--windows", "2", "--lengths", "300"},
		{"eval", "longbench", "--data", samples, "--tasks", "passage_count", "--samples", "1", "--lengths", "8192", "--methods", "dense"},
	} {
		var out, log bytes.Buffer
		args = append(args, "--model", model, "--nats", address, "--audit", "0", "-o", filepath.Join(dir, args[1]))
		if status := run(ctx, args, strings.NewReader(""), &out, &log); status != 0 {
			t.Errorf("anchor %q: status %d: %s", args, status, &log)
		}
	}
	cancel()
	if log := <-ended; strings.Count(log, " done: ") != 5 || !strings.Contains(log, " worker ended: samples 5, ") {
		t.Errorf("the worker's log is %s", log)
	}

	for want, d := range map[string]taskData{
		"has no files of LongBench; want ": {longbench: dir, positions: 32},
		"--positions is 0; want ":          {},
		"no such file":                     {text: dir + "/none", positions: 32},
	} {
		if _, err := d.tasks(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}
