package eval_test

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/eval"
	"github.com/anchorattention/anchor/generate"
)

// childStore is the environment variable that makes the test binary a process which works on a store until it is killed.
const childStore = "ANCHOR_TEST_STORE"

func TestMain(m *testing.M) {
	if path := os.Getenv(childStore); path != "" {
		if err := work(path); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// plan is jobs that take no time.
func plan() []eval.Job {
	var jobs []eval.Job
	for i := range 100 {
		jobs = append(jobs, eval.Job{
			Suite: "s", Task: "t", Length: 100, Index: i, Method: "dense", Attention: generate.Attention{Method: "dense"}, Model: "m",
		})
	}
	return jobs
}

// work does the jobs of plan, and says which it begins and which are in the store.
func work(path string) error {
	store, err := eval.OpenStore(path)
	if err != nil {
		return err
	}
	for _, j := range plan() {
		if store.Has(j.ID()) {
			continue
		}
		r := eval.Record{ID: j.ID(), Job: j, Done: eval.Done{Output: strings.Repeat("long ", 1000*(1+j.Index%30))}}
		fmt.Println("begin", r.ID)
		if _, err := store.Append(r); err != nil {
			return err
		}
		fmt.Println("end", r.ID)
	}
	return store.Close()
}

// A process that is killed at any moment and started again repeats no finished job and loses none.
func TestKilled(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("processes cannot be killed there and then")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "results.jsonl")
	rng := rand.New(rand.NewPCG(1, 0))
	ended := make(map[string]bool)
	kills := 0
	for finished := false; !finished; {
		c := exec.Command(self)
		c.Env = append(os.Environ(), childStore+"="+path)
		var stderr bytes.Buffer
		c.Stderr = &stderr
		out, err := c.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Start(); err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(out)
		killed := false
		for n, limit := 0, 1+rng.IntN(25); lines.Scan(); n++ {
			what, id, _ := strings.Cut(lines.Text(), " ")
			switch {
			case what == "begin" && ended[id]:
				t.Fatalf("job %s was done twice", id)
			case what == "end":
				ended[id] = true
			}
			if n >= limit && !killed { // what is printed meanwhile still counts
				killed = true
				kills++
				for range rng.IntN(20000) { // somewhere within a job
					runtime.KeepAlive(n)
				}
				if err := c.Process.Kill(); err != nil {
					t.Fatal(err)
				}
			}
		}
		err = c.Wait()
		finished = err == nil
		if !finished && !killed {
			t.Fatalf("%v: %s", err, stderr.String())
		}
		// A job may be in the store without having said so.
		records, err := eval.ReadRecords(path)
		if err != nil {
			t.Fatal(err)
		}
		in := make(map[string]int)
		for _, r := range records {
			in[r.ID]++
			if in[r.ID] > 1 {
				t.Fatalf("job %s is there twice", r.ID)
			}
		}
		for id := range ended {
			if in[id] != 1 {
				t.Fatalf("job %s is lost", id)
			}
		}
		for id := range in {
			ended[id] = true
		}
	}
	if kills == 0 || len(ended) != len(plan()) {
		t.Errorf("%d kills, %d jobs done; want some, and %d", kills, len(ended), len(plan()))
	}
	// What is left are whole lines alone.
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := bytes.Count(data, []byte("\n")); n != len(plan()) || data[len(data)-1] != '\n' {
		t.Errorf("%d lines; want %d whole ones", n, len(plan()))
	}
}

func records(n int) []eval.Record {
	var all []eval.Record
	for _, j := range plan()[:n] {
		all = append(all, eval.Record{ID: j.ID(), Job: j, Done: eval.Done{
			Answers: []string{"a\nb"}, Output: "\"ü\x00\n", Score: 0.5, Values: map[string]float64{"depth": 0.5}, Version: "v",
			Recall: &anchor.Recall{Mean: 0.9, P5: 0.8, Min: 0.1},
		}})
	}
	return all
}

// Wherever a file is cut, its whole lines are read and the rest is dropped from it, and a store goes on behind them.
func TestTorn(t *testing.T) {
	all := records(3)
	var file []byte
	var ends []int
	for _, r := range all {
		line, err := json.Marshal(r)
		if err != nil {
			t.Fatal(err)
		}
		file = append(append(file, line...), '\n')
		ends = append(ends, len(file))
	}
	dir := t.TempDir()
	for cut := 0; cut <= len(file); cut++ {
		if cut%61 > 0 && cut > 3 && len(file)-cut > 3 && !slices.ContainsFunc(ends, func(end int) bool { return max(end-cut, cut-end) <= 1 }) {
			continue // places of every kind are enough
		}
		for _, zeros := range []bool{false, true} { // a disk may keep a length and not what is in it
			torn := bytes.Clone(file[:cut])
			if zeros {
				torn = append(torn, 0, 0, '\n')
			}
			path := filepath.Join(dir, "results.jsonl")
			if err := os.WriteFile(path, torn, 0o666); err != nil {
				t.Fatal(err)
			}
			whole := 0
			for whole < len(ends) && ends[whole] <= cut {
				whole++
			}
			s, err := eval.OpenStore(path)
			if err != nil {
				t.Fatalf("cut at %d: %v", cut, err)
			}
			if diff := cmp.Diff(all[:whole], s.Records(), cmp.Transformer("empty", func(r []eval.Record) []eval.Record { return append([]eval.Record{}, r...) })); diff != "" {
				t.Fatalf("cut at %d: %s", cut, diff)
			}
			for i, r := range all {
				if added, err := s.Append(r); err != nil || added != (i >= whole) {
					t.Fatalf("cut at %d: record %d: added %t, %v", cut, i, added, err)
				}
			}
			if err := s.Close(); err != nil {
				t.Fatal(err)
			}
			if got, err := os.ReadFile(path); err != nil || !bytes.Equal(got, file) {
				t.Fatalf("cut at %d: the file is not as it was: %v", cut, err)
			}
		}
	}
}

// Lines within a file that are no records are an error that names them; nothing is dropped.
func TestNoRecord(t *testing.T) {
	line, _ := json.Marshal(records(1)[0])
	for name, bad := range map[string]string{"text": "{", "other": "{}", "number": "1"} {
		path := filepath.Join(t.TempDir(), "results.jsonl")
		content := string(line) + "\n" + bad + "\n" + string(line) + "\n"
		if err := os.WriteFile(path, []byte(content), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := eval.OpenStore(path); err == nil || !strings.Contains(err.Error(), "line 2 is no record") {
			t.Errorf("%s: %v", name, err)
		}
		if got, _ := os.ReadFile(path); string(got) != content {
			t.Errorf("%s: the file was changed", name)
		}
	}
}

// Two processes do not write one file.
func TestLocked(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("there are no locks")
	}
	path := filepath.Join(t.TempDir(), "results.jsonl")
	s, err := eval.OpenStore(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := eval.OpenStore(path); err == nil || !strings.Contains(err.Error(), "in use") {
		t.Errorf("a second store: %v", err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = eval.OpenStore(path); err != nil {
		t.Fatal(err)
	}
	s.Close()
}

// Run does what the store lacks, in order. A job that fails is in the file with its error, and is no result: the others are done
// all the same, and the next run tries it again.
func TestRun(t *testing.T) {
	jobs := plan()[:10]
	path := filepath.Join(t.TempDir(), "results.jsonl")
	run := func(fail, cancelled int) (did []int, last eval.Progress, err error) {
		s, e := eval.OpenStore(path)
		if e != nil {
			t.Fatal(e)
		}
		defer s.Close()
		share := 0.0
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		err = eval.Run(ctx, jobs, s, func(_ context.Context, j eval.Job, progress func(float64)) (eval.Record, error) {
			if j.Index == fail {
				return eval.Record{}, fmt.Errorf("job %d", fail)
			}
			did = append(did, j.Index)
			progress(0.5)
			if j.Index == cancelled {
				cancel()
				return eval.Record{}, ctx.Err()
			}
			return eval.Record{ID: j.ID(), Job: j, Done: eval.Done{Seconds: 2}}, nil
		}, func(p eval.Progress) {
			if p.Share < share || p.All != 10 {
				t.Errorf("%+v after a share of %v", p, share)
			}
			share, last = p.Share, p
		})
		return did, last, err
	}
	did, last, err := run(-1, 4)
	if diff := cmp.Diff([]int{0, 1, 2, 3, 4}, did); diff != "" || !errors.Is(err, context.Canceled) || last.Done != 4 || last.Share != 0.45 || last.Left.Seconds() != 11 {
		t.Errorf("%v, %+v, %v", did, last, err)
	}
	did, last, err = run(6, -1)
	if diff := cmp.Diff([]int{4, 5, 7, 8, 9}, did); diff != "" || last.Done != 10 || last.Failed != 1 || last.Share != 1 || last.Left != 0 {
		t.Errorf("%v, %+v, %v", did, last, err)
	}
	if err == nil || !strings.Contains(err.Error(), "1 of 10 samples failed, the first with: job 6") {
		t.Errorf("%v", err)
	}
	for range 2 { // the same from the file
		s, err := eval.OpenStore(path)
		if err != nil {
			t.Fatal(err)
		}
		failed := s.Failed()
		if len(s.Records()) != 9 || len(failed) != 1 || failed[0].ID != jobs[6].ID() || failed[0].Error != "job 6" || s.Has(jobs[6].ID()) {
			t.Errorf("%d records; failed: %+v", len(s.Records()), failed)
		}
		s.Close()
		run(6, -1)
	}
	did, last, err = run(-1, -1)
	if diff := cmp.Diff([]int{6}, did); diff != "" || err != nil || last.Done != 10 || last.Failed != 0 || last.Share != 1 || last.Left != 0 {
		t.Errorf("%v, %+v, %v", did, last, err)
	}
	s, err := eval.OpenStore(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Records()) != 10 || len(s.Failed()) != 0 {
		t.Errorf("%d records; failed: %+v", len(s.Records()), s.Failed())
	}
	s.Close()
	if did, _, err = run(-1, -1); len(did) != 0 || err != nil {
		t.Errorf("a run when all is done did %v, %v", did, err)
	}
}

// Whatever is in a file, reading it gives records or an error, and opening it twice gives the same.
func FuzzStore(f *testing.F) {
	line, _ := json.Marshal(records(1)[0])
	f.Add(append(line, '\n'))
	f.Add(line)
	f.Add([]byte("{\"id\":\"a\"}\n\x00\n"))
	f.Add([]byte("{\"id\":\"a\",\"attention\":{\"params\":{\"theta\":\"inf\"}}}\n{\"id\":\"b\"}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		path := filepath.Join(t.TempDir(), "results.jsonl")
		if err := os.WriteFile(path, data, 0o666); err != nil {
			t.Fatal(err)
		}
		s, err := eval.OpenStore(path)
		if err != nil {
			return
		}
		first := s.Records()
		s.Close()
		s, err = eval.OpenStore(path)
		if err != nil {
			t.Fatal(err)
		}
		defer s.Close()
		if len(first) != len(s.Records()) {
			t.Errorf("%d records, and then %d", len(first), len(s.Records()))
		}
	})
}
