package queue_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/url"
	"os"
	"os/exec"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
	_ "unsafe" // for linkname

	"github.com/anchorattention/anchor/eval"
	"github.com/anchorattention/anchor/eval/needle"
	"github.com/anchorattention/anchor/eval/queue"
	"github.com/anchorattention/anchor/generate"
	"github.com/anchorattention/anchor/model/retrieval"
	"github.com/anchorattention/anchor/tokenizer"
	"github.com/nats-io/nats-server/v2/server"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// newWorker returns a worker with the constructed model.
func newWorker() (*eval.Worker, error) {
	m, file, err := retrieval.Build()
	if err != nil {
		return nil, err
	}
	tok, err := tokenizer.Parse(file)
	if err != nil {
		return nil, err
	}
	return &eval.Worker{
		Model: &eval.Model{ID: "retrieval", Model: m, Format: eval.Format{Tokenizer: tok}},
		Tasks: []*eval.Task{needle.Lookup()}, Threads: 1,
	}, nil
}

// A server takes 4 to 9 s to notice that a leader is gone, and there are several in a row. The server's own tests shorten that, and so
// do these, which have no other way to it.
//
//go:linkname minElectionTimeout github.com/nats-io/nats-server/v2/server.minElectionTimeout
//go:linkname maxElectionTimeout github.com/nats-io/nats-server/v2/server.maxElectionTimeout
//go:linkname hbInterval github.com/nats-io/nats-server/v2/server.hbInterval
var minElectionTimeout, maxElectionTimeout, hbInterval time.Duration

// childServer is a node of a cluster, in a process of its own, which lives until its stdin ends.
func childServer() int {
	minElectionTimeout, maxElectionTimeout, hbInterval = time.Second, 2*time.Second, 200*time.Millisecond
	var routes []*url.URL
	for _, port := range strings.Split(os.Getenv("ROUTES"), ",") {
		routes = append(routes, &url.URL{Scheme: "nats", Host: "127.0.0.1:" + port})
	}
	port, err := strconv.Atoi(os.Getenv("CLUSTER_PORT"))
	if err != nil {
		return fail(err)
	}
	s, err := server.NewServer(&server.Options{
		ServerName: os.Getenv("NAME"), Host: "127.0.0.1", Port: -1, JetStream: true, StoreDir: os.Getenv("STORE"), NoSigs: true, NoLog: true,
		Cluster: server.ClusterOpts{Name: "test", Host: "127.0.0.1", Port: port}, Routes: routes,
	})
	if err != nil {
		return fail(err)
	}
	s.Start()
	if !s.ReadyForConnections(patience) {
		return fail(fmt.Errorf("not ready"))
	}
	fmt.Println(s.ClientURL())
	io.Copy(io.Discard, os.Stdin)
	return 0
}

// childWorker is a worker in a process of its own. With STALL it begins a job, says so and never ends it.
func childWorker() int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	w, err := newWorker()
	if err != nil {
		return fail(err)
	}
	c, err := queue.Dial(ctx, queue.Options{URL: os.Getenv("URL"), Log: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))})
	if err != nil {
		return fail(err)
	}
	defer c.Close()
	_, err = c.Work(ctx, queue.Worker{Name: os.Getenv("NAME"), Accepts: w.Accepts, Do: func(ctx context.Context, j eval.Job, progress func(float64)) (eval.Record, error) {
		fmt.Println("begun", j.ID())
		if os.Getenv("STALL") != "" {
			<-ctx.Done()
			return eval.Record{}, ctx.Err()
		}
		r, err := w.Do(ctx, j, progress)
		fmt.Println("done", j.ID())
		return r, err
	}})
	if err != nil {
		return fail(err)
	}
	return 0
}

func fail(err error) int {
	fmt.Fprintln(os.Stderr, err)
	return 1
}

// A child is a process of the test's own program.
type child struct {
	*exec.Cmd
	lines chan string // of stdout
}

func startChild(t testing.TB, role string, env ...string) *child {
	t.Helper()
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	c := &child{exec.Command(program), make(chan string, 10_000)}
	c.Env = append(os.Environ(), append(env, "ANCHOR_QUEUE_TEST="+role)...)
	c.Stderr = t.Output()
	stdin, err := c.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	stdout, err := c.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Start(); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for lines := bufio.NewScanner(stdout); lines.Scan(); {
			c.lines <- lines.Text()
		}
	}()
	t.Cleanup(func() {
		stdin.Close()
		c.Process.Kill()
		<-read
		c.Wait()
	})
	return c
}

// startCluster starts three servers and returns them by name, and the addresses for clients.
func startCluster(t testing.TB) (nodes map[string]*child, address string) {
	t.Helper()
	var ports []string
	for range 3 { // all must be known before any server starts
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		ports = append(ports, strconv.Itoa(l.Addr().(*net.TCPAddr).Port))
		l.Close()
	}
	nodes = make(map[string]*child)
	for i, port := range ports {
		name := fmt.Sprint("node", i)
		nodes[name] = startChild(t, "server", "NAME="+name, "CLUSTER_PORT="+port, "ROUTES="+strings.Join(ports, ","), "STORE="+t.TempDir())
	}
	var addresses []string
	for _, n := range nodes {
		addresses = append(addresses, receive(t, "a server's address", n.lines))
	}
	return nodes, strings.Join(addresses, ",")
}

// Three workers on a cluster of three servers: although a worker is killed over a sample, and then the server that leads the
// run's stream, every sample is scored once.
func TestCluster(t *testing.T) {
	if testing.Short() {
		t.Skip("servers take seconds to choose new leaders")
	}
	nodes, address := startCluster(t)
	var log journal
	// A cluster that starts has no JetStream until it has chosen a leader, which Dial waits for.
	c := dial(t, queue.Options{URL: address, Log: log.log()})
	nc, err := nats.Connect(address)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	js, err := jetstream.New(nc)
	if err != nil {
		t.Fatal(err)
	}
	eventually(t, "the cluster has three nodes", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		s, err := js.CreateStream(ctx, jetstream.StreamConfig{Name: "probe", Replicas: 3})
		return err == nil && len(s.CachedInfo().Cluster.Replicas) == 2
	})

	w, err := newWorker()
	if err != nil {
		t.Fatal(err)
	}
	method := eval.Method{Name: "dense", Attention: generate.Attention{Method: "dense", Params: generate.DefaultAttention().Params}}
	jobs := eval.Plan{Tasks: w.Tasks, Lengths: []int{256}, Samples: 120, Methods: []eval.Method{method}, Model: w.Model.ID, Format: &w.Model.Format}.Jobs()
	store := openStore(t)
	var mu sync.Mutex
	var at queue.Progress
	result := make(chan error, 1)
	go func() {
		result <- c.Evaluate(t.Context(), queue.Evaluation{
			Jobs: jobs, Store: store.Store, ID: "cluster", Window: 40, AckWait: 2 * time.Second,
			Progress: func(p queue.Progress) {
				mu.Lock()
				defer mu.Unlock()
				at = p
			},
		})
	}()
	progress := func() queue.Progress {
		mu.Lock()
		defer mu.Unlock()
		return at
	}

	stalled := startChild(t, "worker", "NAME=stalled", "STALL=1", "URL="+address)
	id := strings.TrimPrefix(receive(t, "the first sample", stalled.lines), "begun ")
	children := make([]*child, 2)
	for i := range children {
		children[i] = startChild(t, "worker", fmt.Sprint("NAME=worker", i), "URL="+address)
	}
	eventually(t, "some samples are scored, and all workers known", func() bool { return progress().Done >= 10 && progress().Workers == 3 })
	if err := stalled.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	run := streams(t, js)
	if len(run) != 2 {
		t.Fatalf("%d streams; want that of the run and the probe", len(run))
	}
	for _, r := range run {
		if r.Config.Name == "probe" {
			continue
		}
		if r.Config.Replicas != 3 || r.Cluster == nil || nodes[r.Cluster.Leader] == nil {
			t.Fatalf("%+v, %+v", r.Config, r.Cluster)
		}
		if err := nodes[r.Cluster.Leader].Process.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	before := progress().Done
	if before == len(jobs) {
		t.Fatal("all was done before the server was killed")
	}
	if err := receive(t, "the evaluation's end", result); err != nil {
		t.Fatalf("%v\n%s", err, &log)
	}
	finished(t, store, jobs)
	for _, r := range store.Records() {
		if r.Score != 1 {
			t.Errorf("%s: score %v; want 1", &r.Job, r.Score)
		}
		if r.ID == id {
			id = ""
		}
	}
	if id != "" {
		t.Error("the sample that the killed worker was at has no score")
	}
	t.Logf("%s", &log)
	t.Logf("%d of %d samples were scored when a server was killed", before, len(jobs))
	for _, child := range children {
		if err := child.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
	}
}
