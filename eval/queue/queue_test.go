package queue_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
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
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	switch os.Getenv("ANCHOR_QUEUE_TEST") {
	case "worker":
		os.Exit(childWorker())
	case "server":
		os.Exit(childServer())
	}
	goleak.VerifyTestMain(m)
}

// patience is how long a condition may take to come true.
const patience = 30 * time.Second

// eventually waits for a condition.
func eventually(t testing.TB, what string, is func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !is() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			t.Fatalf("%s: not so after %v", what, patience)
		}
	}
}

// receive waits for a value.
func receive[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	select {
	case x := <-from:
		return x
	case <-time.After(patience):
		t.Fatalf("%s: nothing after %v", what, patience)
		panic("unreachable")
	}
}

// A journal is a log that tests read.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(p []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(p)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

func (j *journal) has(words ...string) bool {
	for line := range strings.Lines(j.String()) {
		if !slices.ContainsFunc(words, func(w string) bool { return !strings.Contains(line, w) }) {
			return true
		}
	}
	return false
}

func (j *journal) log() *slog.Logger {
	return slog.New(slog.NewTextHandler(j, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// startServer starts a server with JetStream on the loopback interface.
func startServer(t testing.TB, change func(o *server.Options)) *server.Server {
	t.Helper()
	o := &server.Options{Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: t.TempDir(), NoSigs: true, NoLog: true}
	if change != nil {
		change(o)
	}
	s, err := server.NewServer(o)
	if err != nil {
		t.Fatal(err)
	}
	s.Start()
	t.Cleanup(func() {
		s.Shutdown()
		s.WaitForShutdown()
	})
	if !s.ReadyForConnections(patience) {
		t.Fatal("the server is not ready")
	}
	return s
}

func dial(t testing.TB, o queue.Options) *queue.Conn {
	t.Helper()
	c, err := queue.Dial(t.Context(), o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

// look returns JetStream for a look from outside.
func look(t testing.TB, s *server.Server) (*nats.Conn, jetstream.JetStream) {
	t.Helper()
	nc, err := nats.Connect(s.ClientURL())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(nc.Close)
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	return nc, js
}

// streams returns the streams on a server.
func streams(t testing.TB, js jetstream.JetStream) []*jetstream.StreamInfo {
	t.Helper()
	var all []*jetstream.StreamInfo
	list := js.ListStreams(t.Context())
	for s := range list.Info() {
		all = append(all, s)
	}
	if err := list.Err(); err != nil {
		t.Fatal(err)
	}
	return all
}

// A results is a store and its file.
type results struct {
	*eval.Store
	path string
}

func openStore(t testing.TB) results {
	t.Helper()
	path := filepath.Join(t.TempDir(), "results.jsonl")
	s, err := eval.OpenStore(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { s.Close() })
	return results{s, path}
}

func someJobs(n int) []eval.Job {
	jobs := make([]eval.Job, n)
	for i := range jobs {
		jobs[i] = eval.Job{Suite: "test", Task: "none", Length: 1000, Index: i, Method: "dense", Model: "m"}
	}
	return jobs
}

func record(j eval.Job) eval.Record {
	return eval.Record{ID: j.ID(), Job: j, Done: eval.Done{Score: 1, Seconds: 0.001, Version: "v"}}
}

func anything(*eval.Job) error { return nil }

// A crew counts what its workers do.
type crew struct {
	mu   sync.Mutex
	done map[string]int // jobs begun, by ID
}

func (c *crew) begun(j eval.Job) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(map[string]int)
	}
	c.done[j.ID()]++
	return c.done[j.ID()]
}

func (c *crew) total() (n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, k := range c.done {
		n += k
	}
	return n
}

func (c *crew) do(_ context.Context, j eval.Job, _ func(float64)) (eval.Record, error) {
	c.begun(j)
	return record(j), nil
}

// work has a worker work until the test ends or stop is called, which returns how many jobs it did.
func work(t testing.TB, c *queue.Conn, w queue.Worker) (stop func() int) {
	t.Helper()
	if w.Accepts == nil {
		w.Accepts = anything
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan int, 1)
	go func() {
		n, err := c.Work(ctx, w)
		if err != nil && !errors.Is(err, nats.ErrConnectionClosed) {
			t.Errorf("%s: %v", w.Name, err)
		}
		ended <- n
	}()
	stop = sync.OnceValue(func() int {
		cancel()
		return receive(t, w.Name+"'s end", ended)
	})
	t.Cleanup(func() { stop() })
	return stop
}

// finished checks that a store's file has each job once.
func finished(t testing.TB, s results, jobs []eval.Job) {
	t.Helper()
	records, err := eval.ReadRecords(s.path)
	if err != nil {
		t.Fatal(err)
	}
	seen := make(map[string]int)
	for _, r := range records {
		seen[r.ID]++
	}
	for i := range jobs {
		if n := seen[jobs[i].ID()]; n != 1 {
			t.Errorf("%s is in the store %d times; want once", &jobs[i], n)
		}
	}
	if len(seen) != len(jobs) {
		t.Errorf("the store has %d jobs; want %d", len(seen), len(jobs))
	}
}

// Every job is done once and is in the store once, whether the server is embedded or not; in the end nothing is left on
// the server.
func TestEvaluate(t *testing.T) {
	for _, embedded := range []bool{true, false} {
		t.Run(fmt.Sprintf("embedded=%v", embedded), func(t *testing.T) {
			var c *queue.Conn
			var js jetstream.JetStream
			if embedded {
				var err error
				if c, err = queue.Embedded(nil); err != nil {
					t.Fatal(err)
				}
				t.Cleanup(c.Close)
			} else {
				s := startServer(t, nil)
				c = dial(t, queue.Options{URL: s.ClientURL()})
				_, js = look(t, s)
			}
			var all crew
			for i := range 3 {
				work(t, c, queue.Worker{Name: fmt.Sprint("worker", i), Do: all.do})
			}
			store, jobs := openStore(t), someJobs(100)
			before := record(jobs[7])
			if _, err := store.Append(before); err != nil {
				t.Fatal(err)
			}
			var last queue.Progress
			err := c.Evaluate(t.Context(), queue.Evaluation{Jobs: jobs, Store: store.Store, Window: 10, ID: "a", Progress: func(p queue.Progress) {
				if p.Done < last.Done {
					t.Errorf("%d jobs are done after %d", p.Done, last.Done)
				}
				last = p
			}})
			if err != nil {
				t.Fatal(err)
			}
			finished(t, store, jobs)
			if all.total() != 99 {
				t.Errorf("%d jobs were done; want 99, since one was in the store", all.total())
			}
			if last.Done != 100 || last.All != 100 || last.Share != 1 {
				t.Errorf("%+v at the end", last)
			}
			if js != nil && len(streams(t, js)) != 0 {
				t.Errorf("%d streams are left", len(streams(t, js)))
			}
		})
	}
}

// A job whose worker dies goes to another one; one that takes many times AckWait does not, as long as its worker lives.
func TestRedelivery(t *testing.T) {
	s := startServer(t, nil)
	nc, _ := look(t, s)
	store, jobs := openStore(t), someJobs(1)
	const ackWait = 600 * time.Millisecond
	result := make(chan error, 1)
	c := dial(t, queue.Options{URL: s.ClientURL()})
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() { result <- c.Evaluate(ctx, queue.Evaluation{Jobs: jobs, Store: store.Store, AckWait: ackWait}) }()

	// The first one dies.
	begun := make(chan string, 10)
	dying := dial(t, queue.Options{URL: s.ClientURL()})
	work(t, dying, queue.Worker{Name: "dying", Do: func(ctx context.Context, j eval.Job, _ func(float64)) (eval.Record, error) {
		begun <- "dying"
		<-ctx.Done()
		return eval.Record{}, ctx.Err()
	}})
	receive(t, "the first worker", begun)
	dying.Close()

	// The others are slow: they wait for as many beats as there are in three times AckWait.
	beats, err := nc.SubscribeSync("anchor.*.status")
	if err != nil {
		t.Fatal(err)
	}
	var all crew
	for i := range 2 {
		work(t, dial(t, queue.Options{URL: s.ClientURL()}), queue.Worker{Name: fmt.Sprint("slow", i), Do: func(ctx context.Context, j eval.Job, _ func(float64)) (eval.Record, error) {
			all.begun(j)
			for heard := 0; heard < 9; {
				m, err := beats.NextMsgWithContext(ctx)
				if err != nil {
					return eval.Record{}, err
				}
				if bytes.Contains(m.Data, []byte(j.ID())) {
					heard++
				}
			}
			return record(j), nil
		}})
	}
	if err := receive(t, "the evaluation's end", result); err != nil {
		t.Fatal(err)
	}
	finished(t, store, jobs)
	if all.total() != 1 {
		t.Errorf("the job was begun %d times after the first; want once", all.total())
	}
}

// A job that fails is tried again. One that always fails, or whose workers always die, is in the store with its error, and all
// others are done: the evaluation's error says how many failed. The next evaluation tries it again.
func TestFailures(t *testing.T) {
	s := startServer(t, nil)
	_, js := look(t, s)
	var j journal
	store, jobs := openStore(t), someJobs(6)
	c := dial(t, queue.Options{URL: s.ClientURL(), Log: j.log()})
	failed := func(why string) {
		t.Helper()
		f := store.Failed()
		if len(store.Records()) != 5 || len(f) != 1 || f[0].ID != jobs[2].ID() || f[0].Index != 2 || !strings.Contains(f[0].Error, why) {
			t.Errorf("%d records; failed: %+v; want %q", len(store.Records()), f, why)
		}
		if n := len(streams(t, js)); n != 0 {
			t.Errorf("%d streams", n)
		}
	}
	var all crew
	do := func(always bool) eval.Do {
		return func(_ context.Context, j eval.Job, _ func(float64)) (eval.Record, error) {
			if n := all.begun(j); j.Index == 2 && (always || n == 1) {
				return eval.Record{}, errors.New("no luck")
			}
			return record(j), nil
		}
	}
	stop := work(t, c, queue.Worker{Name: "bad", Do: do(true)})
	err := c.Evaluate(t.Context(), queue.Evaluation{Jobs: jobs, Store: store.Store, Tries: 2, Window: 1, Title: "title"})
	if err == nil || err.Error() != "1 of 6 samples failed, the first with: no luck" {
		t.Fatalf("%v", err)
	}
	if !j.has("tried again", "sample 2", "no luck") || !j.has("failed", `"2 of 2"`) || !j.has("a job failed", "sample 2", "worker=bad") {
		t.Errorf("the log is %s", &j)
	}
	failed("no luck")
	stop()

	// Its worker dies.
	dying := dial(t, queue.Options{URL: s.ClientURL()})
	begun := make(chan string, 10)
	work(t, dying, queue.Worker{Name: "dying", Do: func(ctx context.Context, j eval.Job, _ func(float64)) (eval.Record, error) {
		begun <- "dying"
		<-ctx.Done()
		return eval.Record{}, ctx.Err()
	}})
	result := make(chan error, 1)
	go func() {
		result <- c.Evaluate(t.Context(), queue.Evaluation{Jobs: jobs, Store: store.Store, Tries: 1, AckWait: 300 * time.Millisecond})
	}()
	receive(t, "the first worker", begun)
	dying.Close()
	work(t, c, queue.Worker{Name: "good", Do: do(false)})
	if err := receive(t, "the evaluation's end", result); err == nil || !strings.Contains(err.Error(), "begun 1 times and never finished") {
		t.Errorf("%v", err)
	}
	failed("begun 1 times and never finished")

	// Failing once is no harm.
	all.done = nil
	if err := c.Evaluate(t.Context(), queue.Evaluation{Jobs: jobs, Store: store.Store}); err != nil {
		t.Fatal(err)
	}
	if all.total() != 2 || len(store.Records()) != 6 || len(store.Failed()) != 0 {
		t.Errorf("the job was begun %d times, want twice; %d records, %d failed", all.total(), len(store.Records()), len(store.Failed()))
	}
}

// A worker of another version, or one that cannot do the jobs, takes none and says why, here and there.
func TestRefusal(t *testing.T) {
	s := startServer(t, nil)
	var here, there journal
	c := dial(t, queue.Options{URL: s.ClientURL(), Log: here.log()})
	far := dial(t, queue.Options{URL: s.ClientURL(), Log: there.log()})
	var bad, good crew
	asked := make(chan eval.Job, 100)
	work(t, far, queue.Worker{Name: "old", Version: "v0", Do: bad.do})
	work(t, far, queue.Worker{Name: "other", Version: "v1", Do: bad.do, Accepts: func(j *eval.Job) error {
		asked <- *j
		return errors.New("the job is for model m; this is n")
	}})
	store, jobs := openStore(t), someJobs(10)
	jobs[3].Length = 2000
	result := make(chan error, 1)
	go func() {
		result <- c.Evaluate(t.Context(), queue.Evaluation{Jobs: jobs, Store: store.Store, Version: "v1", Title: "title"})
	}()
	for _, j := range []*journal{&here, &there} {
		eventually(t, "both refuse", func() bool {
			return j.has("the evaluation's version is v1; this worker's is v0") && j.has("the job is for model m; this is n")
		})
	}
	if j := receive(t, "a job to judge by", asked); j.Length != 2000 || j.Task != "none" || j.Model != "m" {
		t.Errorf("workers are asked for %+v; want the longest of the task", j)
	}
	work(t, far, queue.Worker{Name: "good", Version: "v1", Do: good.do})
	if err := receive(t, "the evaluation's end", result); err != nil {
		t.Fatal(err)
	}
	finished(t, store, jobs)
	if bad.total() != 0 || good.total() != 10 {
		t.Errorf("%d and %d jobs were done; want 0 and 10", bad.total(), good.total())
	}
}

// No more jobs than Window are published beyond those in the store.
func TestWindow(t *testing.T) {
	s := startServer(t, nil)
	_, js := look(t, s)
	store, jobs := openStore(t), someJobs(40)
	const window = 4
	result := make(chan error, 1)
	c := dial(t, queue.Options{URL: s.ClientURL()})
	go func() {
		result <- c.Evaluate(t.Context(), queue.Evaluation{Jobs: jobs, Store: store.Store, Window: window})
	}()
	eventually(t, "the window is full", func() bool {
		all := streams(t, js)
		return len(all) == 1 && all[0].State.Msgs == window
	})
	name := streams(t, js)[0].Config.Name
	// The server knows the bound as well.
	_, err := js.Publish(t.Context(), "anchor."+strings.TrimPrefix(name, "anchor-")+".jobs", nil)
	if err == nil || !strings.Contains(err.Error(), "maximum messages per subject exceeded") {
		t.Errorf("one more: %v", err)
	}
	work(t, dial(t, queue.Options{URL: s.ClientURL()}), queue.Worker{Name: "worker", Do: func(ctx context.Context, j eval.Job, _ func(float64)) (eval.Record, error) {
		stream, err := js.Stream(ctx, name)
		if err != nil {
			return eval.Record{}, err
		}
		if info := stream.CachedInfo(); info.State.LastSeq > uint64(2*len(store.Records())+2*window) {
			t.Errorf("%d messages were published, jobs and results, and %d records are in the store", info.State.LastSeq, len(store.Records()))
		}
		return record(j), nil
	}})
	if err := receive(t, "the evaluation's end", result); err != nil {
		t.Fatal(err)
	}
	finished(t, store, jobs)
}

// An evaluation that is interrupted, or whose process dies, goes on from where it was: what workers had finished is not done again,
// although nobody had read it, and its run is gone from the server.
func TestRestart(t *testing.T) {
	for _, killed := range []bool{false, true} {
		t.Run(fmt.Sprintf("killed=%v", killed), func(t *testing.T) {
			s := startServer(t, nil)
			_, js := look(t, s)
			store, jobs := openStore(t), someJobs(30)
			c := dial(t, queue.Options{URL: s.ClientURL()})
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			result := make(chan error, 1)
			e := queue.Evaluation{Jobs: jobs, Store: store.Store, ID: "mine", AckWait: time.Second}
			go func() { result <- c.Evaluate(ctx, e) }()
			eventually(t, "all jobs are published", func() bool {
				left := streams(t, js)
				return len(left) == 1 && left[0].State.Msgs == 30
			})
			var j journal
			var all crew
			// Workers stop at the 20th job, so that some are open.
			enough, open := make(chan bool), make(chan bool)
			worker := dial(t, queue.Options{URL: s.ClientURL(), Log: j.log()})
			for i := range 2 {
				work(t, worker, queue.Worker{Name: fmt.Sprint("worker", i), Do: func(ctx context.Context, j eval.Job, _ func(float64)) (eval.Record, error) {
					all.begun(j)
					if all.total() == 20 {
						close(enough)
					}
					if all.total() >= 20 {
						select {
						case <-open:
						case <-ctx.Done():
							return eval.Record{}, ctx.Err()
						}
					}
					return record(j), nil
				}})
			}
			receive(t, "20 jobs", enough)
			if killed {
				c.Close() // whatever comes now is not read
			} else {
				cancel()
			}
			err := receive(t, "the end", result)
			if err == nil || !killed && !errors.Is(err, context.Canceled) {
				t.Errorf("%v", err)
			}
			if n := len(streams(t, js)); n != 1 && killed || n != 0 && !killed {
				t.Errorf("%d streams are left", n)
			}
			if !killed {
				eventually(t, "the workers drop their jobs", func() bool { return j.has("the run has ended, and the job with it") })
			}
			close(open)
			if killed {
				eventually(t, "all is done", func() bool {
					stream, err := js.Stream(t.Context(), streams(t, js)[0].Config.Name)
					if err != nil {
						t.Fatal(err)
					}
					info, err := stream.Info(t.Context(), jetstream.WithSubjectFilter("anchor.*.jobs"))
					if err != nil {
						t.Fatal(err)
					}
					return len(info.State.Subjects) == 0 && all.total() >= 30
				})
			}
			if err := dial(t, queue.Options{URL: s.ClientURL()}).Evaluate(t.Context(), e); err != nil {
				t.Fatal(err)
			}
			finished(t, store, jobs)
			if n := all.total(); killed && n != 30 || n > 32 {
				t.Errorf("%d jobs were begun; want 30, and no more than the two that were open twice", n)
			}
			if len(streams(t, js)) != 0 {
				t.Errorf("%d streams are left", len(streams(t, js)))
			}
		})
	}
}

// Of two that run the same evaluation the later one wins.
func TestTakenOver(t *testing.T) {
	s := startServer(t, nil)
	_, js := look(t, s)
	store, jobs := openStore(t), someJobs(3)
	result := make(chan error, 1)
	c := dial(t, queue.Options{URL: s.ClientURL()})
	go func() {
		result <- c.Evaluate(t.Context(), queue.Evaluation{Jobs: jobs, Store: store.Store, ID: "same"})
	}()
	eventually(t, "the first is there", func() bool {
		all := streams(t, js)
		return len(all) == 1 && all[0].State.Msgs == 3 && all[0].State.Consumers == 2
	})
	later := make(chan error, 1)
	go func() { later <- c.Evaluate(t.Context(), queue.Evaluation{Jobs: jobs, Store: store.Store, ID: "same"}) }()
	if err := receive(t, "the first's end", result); err == nil || !strings.Contains(err.Error(), "started elsewhere") {
		t.Errorf("%v", err)
	}
	var all crew
	work(t, c, queue.Worker{Name: "worker", Do: all.do})
	if err := receive(t, "the second's end", later); err != nil {
		t.Fatal(err)
	}
	finished(t, store, jobs)
}

// Workers delete a run whose evaluation has been gone for long, and do none of its jobs; one with nothing to do ends after Idle.
func TestAbandoned(t *testing.T) {
	back := queue.SetAbandoned(200 * time.Millisecond)
	defer back()
	s := startServer(t, nil)
	_, js := look(t, s)
	c := dial(t, queue.Options{URL: s.ClientURL()})
	result := make(chan error, 1)
	go func() {
		result <- c.Evaluate(t.Context(), queue.Evaluation{Jobs: someJobs(1), Store: openStore(t).Store})
	}()
	eventually(t, "the run is there", func() bool {
		all := streams(t, js)
		return len(all) == 1 && all[0].State.Msgs == 1 && all[0].State.Consumers == 2
	})
	c.Close()
	receive(t, "the end", result)
	eventually(t, "nobody reads", func() bool { return streams(t, js)[0].State.Consumers == 1 })
	var all crew
	n, err := dial(t, queue.Options{URL: s.ClientURL()}).Work(t.Context(), queue.Worker{Name: "worker", Accepts: anything, Do: all.do, Idle: time.Millisecond})
	if n != 0 || all.total() != 0 || err != nil {
		t.Errorf("%d jobs, %v", n, err)
	}
	if len(streams(t, js)) != 0 {
		t.Error("the run is left")
	}
}

// Jobs that the server loses are published again.
func TestLostJobs(t *testing.T) {
	if testing.Short() {
		t.Skip("waits some seconds until nothing comes")
	}
	s := startServer(t, nil)
	_, js := look(t, s)
	store, jobs := openStore(t), someJobs(3)
	result := make(chan error, 1)
	c := dial(t, queue.Options{URL: s.ClientURL()})
	go func() { result <- c.Evaluate(t.Context(), queue.Evaluation{Jobs: jobs, Store: store.Store}) }()
	eventually(t, "all jobs are there", func() bool {
		all := streams(t, js)
		return len(all) == 1 && all[0].State.Msgs == 3
	})
	stream, err := js.Stream(t.Context(), streams(t, js)[0].Config.Name)
	if err != nil {
		t.Fatal(err)
	}
	if err := stream.Purge(t.Context()); err != nil {
		t.Fatal(err)
	}
	var all crew
	work(t, c, queue.Worker{Name: "worker", Do: all.do})
	if err := receive(t, "the end", result); err != nil {
		t.Fatal(err)
	}
	finished(t, store, jobs)
}

// A worker shares itself between evaluations.
func TestTwoEvaluations(t *testing.T) {
	s := startServer(t, nil)
	c := dial(t, queue.Options{URL: s.ClientURL()})
	both := make(chan error, 2)
	stores := []results{openStore(t), openStore(t)}
	jobs := [][]eval.Job{someJobs(8), someJobs(8)}
	for i := range jobs[1] {
		jobs[1][i].Seed = 1
	}
	for i, store := range stores {
		go func() {
			both <- c.Evaluate(t.Context(), queue.Evaluation{Jobs: jobs[i], Store: store.Store, ID: fmt.Sprint(i)})
		}()
	}
	_, js := look(t, s)
	eventually(t, "both are there", func() bool {
		all := streams(t, js)
		return len(all) == 2 && all[0].State.Msgs == 8 && all[1].State.Msgs == 8
	})
	var mu sync.Mutex
	var seeds []uint64
	work(t, c, queue.Worker{Name: "worker", Do: func(_ context.Context, j eval.Job, _ func(float64)) (eval.Record, error) {
		mu.Lock()
		seeds = append(seeds, j.Seed)
		mu.Unlock()
		return record(j), nil
	}})
	for range 2 {
		if err := receive(t, "an end", both); err != nil {
			t.Fatal(err)
		}
	}
	finished(t, stores[0], jobs[0])
	finished(t, stores[1], jobs[1])
	if !slices.Contains(seeds[:3], 0) || !slices.Contains(seeds[:3], 1) {
		t.Errorf("evaluations in the order of jobs: %v", seeds)
	}
}

// A record that is larger than the server takes ends the evaluation, with an error that says so; the embedded server takes large
// ones.
func TestLargeRecords(t *testing.T) {
	s := startServer(t, nil)
	embedded, err := queue.Embedded(nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(embedded.Close)
	for _, k := range []struct {
		conn *queue.Conn
		want string
	}{
		{dial(t, queue.Options{URL: s.ClientURL()}), "the server takes records of 1048576 bytes at most, see its max_payload"},
		{embedded, ""},
	} {
		stop := work(t, k.conn, queue.Worker{Name: "worker", Do: func(_ context.Context, j eval.Job, _ func(float64)) (eval.Record, error) {
			r := record(j)
			r.Output = strings.Repeat("x", 2<<20)
			return r, nil
		}})
		err := k.conn.Evaluate(t.Context(), queue.Evaluation{Jobs: someJobs(1), Store: openStore(t).Store})
		if got := fmt.Sprint(err); !strings.Contains(got, k.want) || k.want == "" && err != nil {
			t.Errorf("%v; want %q", err, k.want)
		}
		stop()
	}
}
