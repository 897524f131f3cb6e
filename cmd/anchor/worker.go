package main

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/anchorattention/anchor/eval"
	"github.com/anchorattention/anchor/eval/drift"
	"github.com/anchorattention/anchor/eval/longbench"
	"github.com/anchorattention/anchor/eval/needle"
	"github.com/anchorattention/anchor/eval/queue"
	"github.com/anchorattention/anchor/eval/ruler"
	"github.com/anchorattention/anchor/internal/atomicfile"
	"github.com/spf13/cobra"
)

func newWorker() *cobra.Command {
	c := &cobra.Command{
		Use:   "worker --nats URL [--model PATH] [flags]",
		Short: "Do the samples of evaluations that run elsewhere",
		Long: `Worker waits at a NATS server with JetStream for "anchor eval --nats" and asks the model the
questions of its samples, one at a time. Start as many as you like, on as many machines,
before or after the evaluation. One that dies loses nothing: what it was at goes to another
after half a minute, and at once if it ends by Ctrl-C or SIGTERM.

A worker serves evaluations of its own version of anchor, its own model and data: --model,
--chat and the files that samples are made of are to be the same as there. Others it refuses,
says why in both logs, and leaves them to other workers. --costs is how this machine walks
keys; where method auto goes dense the evaluation's --costs decide, on every machine.

TLS is used where the address begins with tls:// or the server wants it. You are known by user
and password in the address, --nats-creds, --nats-nkey or --nats-cert, as the server wants.

The log goes to stderr. With --json it goes to stdout instead, an object on each line: time,
level, msg and what there is to it, such as job, score, ttft and took (in seconds).`,
		Example: `  anchor worker --nats nats://queue:4222 --model ./Llama-3.1-8B
  anchor worker --nats tls://queue:4222 --nats-ca ca.pem --nats-creds worker.creds \
      --model ./Llama-3.1-8B --idle 10m`,
		Args:    takes(),
		PreRunE: checkKernels,
	}
	x := &evaluation{constructed: true}
	var data taskData
	var idle time.Duration
	o := natsFlags(c, "`address` of a NATS server, such as nats://host:4222, or of several with commas between them; required")
	f := c.Flags()
	f.StringVar(&x.model, "model", "", "`model`: a directory, a GGUF file or ORG/NAME; without, the constructed one")
	f.BoolVar(&x.chat, "chat", false, "put prompts into the model's chat template, as for \"anchor eval\"")
	data.flags(c)
	f.DurationVar(&idle, "idle", 0, "end after so much `time` (10m, 1h) without an evaluation to work for; 0 means never")
	x.costs = costsFlag(c)
	x.threads = threadsFlag(c)
	x.json = jsonFlag(c, "the log as JSON objects, one on each line,")
	c.RunE = func(c *cobra.Command, _ []string) (err error) {
		switch {
		case o.URL == "":
			return usageError{errors.New("--nats is missing; want the address of a NATS server, such as nats://host:4222")}
		case idle < 0:
			return usageError{fmt.Errorf("--idle is %v; want ≥ 0", idle)}
		case *x.threads < 0:
			return usageError{fmt.Errorf("--threads is %d; want ≥ 0", *x.threads)}
		}
		if err := checkNATS(o); err != nil {
			return err
		}
		costs, err := readCosts(*x.costs)
		if err != nil {
			return err
		}
		tasks, err := data.tasks()
		if err != nil {
			return err
		}
		log := newLog(c.ErrOrStderr(), slog.LevelInfo)
		if *x.json {
			log = newJSONLog(c.OutOrStdout(), slog.LevelInfo)
		}
		o.Log = log
		m, name, err := x.open(c.Context())
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, m.Close()) }()
		conn, err := queue.Dial(c.Context(), *o)
		if err != nil {
			return err
		}
		defer conn.Close()
		w := &eval.Worker{Model: m, Tasks: tasks, Costs: costs, Threads: *x.threads}
		me := workerName()
		log.Info("worker ready", "worker", me, "model", name, "fingerprint", m.ID, "version", eval.Version(), "server", conn.Server())
		start := time.Now()
		done, err := conn.Work(c.Context(), queue.Worker{Name: me, Accepts: w.Accepts, Do: w.Do, Idle: idle})
		log.Info("worker ended", "samples", done, "after", time.Since(start).Round(time.Second))
		return err
	}
	return c
}

// taskData are the files that samples of a worker's tasks are made of.
type taskData struct {
	essay, squad, hotpotqa string
	longbench, jieba       string
	text                   string
	positions              int
}

func (d *taskData) flags(c *cobra.Command) {
	f := c.Flags()
	f.StringVar(&d.essay, "essay", "", "`file` of the essay, as for \"anchor eval\"")
	f.StringVar(&d.squad, "squad", "", "`file` of questions for qa_1, as for \"anchor eval ruler\"")
	f.StringVar(&d.hotpotqa, "hotpotqa", "", "`file` of questions for qa_2, as for \"anchor eval ruler\"")
	f.StringVar(&d.longbench, "longbench", "", "`directory` of LongBench's files, which is --data of \"anchor eval longbench\"")
	f.StringVar(&d.jieba, "jieba", "", "`directory` of jieba's data, as for \"anchor eval longbench\"")
	f.StringVar(&d.text, "text", "", "`file` of the text, which is --file of \"anchor eval drift\"")
	f.IntVar(&d.positions, "positions", 256, "`rows` at which distributions are compared, as for \"anchor eval drift\"")
}

// tasks returns the tasks that there are files for.
func (d *taskData) tasks() ([]*eval.Task, error) {
	if d.positions < drift.Parts || d.positions > 1<<20 {
		return nil, usageError{fmt.Errorf("--positions is %d; want %d … %d", d.positions, drift.Parts, 1<<20)}
	}
	data := ruler.Data{Essay: needle.Book()}
	var err error
	if d.essay != "" {
		if data.Essay, err = needle.LoadEssay(d.essay); err != nil {
			return nil, err
		}
	}
	if d.squad != "" {
		if data.Squad, err = ruler.LoadSquad(d.squad); err != nil {
			return nil, err
		}
	}
	if d.hotpotqa != "" {
		if data.HotpotQA, err = ruler.LoadHotpotQA(d.hotpotqa); err != nil {
			return nil, err
		}
	}
	tasks := append(ruler.Tasks(data), needle.Haystack(data.Essay), needle.Lookup())
	if d.longbench != "" {
		more, err := d.longBench()
		if err != nil {
			return nil, err
		}
		tasks = append(tasks, more...)
	}
	if d.text != "" {
		data, err := os.ReadFile(d.text)
		if err != nil {
			return nil, err
		}
		text, err := drift.NewText(filepath.Base(d.text), data, d.positions)
		if err != nil {
			return nil, err
		}
		tasks = append(tasks, text.Task())
	}
	return tasks, nil
}

// longBench returns the tasks of LongBench and LongBench-E whose files are in the directory.
func (d *taskData) longBench() ([]*eval.Task, error) {
	var words *longbench.Segmenter
	if d.jieba != "" {
		var err error
		if words, err = longbench.LoadSegmenter(d.jieba); err != nil {
			return nil, err
		}
	}
	var tasks []*eval.Task
	for _, name := range slices.Concat(longbench.Names(), longbench.EvenNames()) {
		if _, err := os.Stat(filepath.Join(d.longbench, name+".jsonl")); errors.Is(err, os.ErrNotExist) {
			continue
		}
		t, err := longbench.Load(d.longbench, name, words)
		if err != nil {
			return nil, err
		}
		tasks = append(tasks, t.Task)
	}
	if tasks == nil {
		return nil, fmt.Errorf("%s has no files of LongBench; want %s.jsonl and others", d.longbench, longbench.Names()[0])
	}
	return tasks, nil
}

// natsFlags defines the flags that say where NATS servers are and who connects.
func natsFlags(c *cobra.Command, address string) *queue.Options {
	o := new(queue.Options)
	f := c.Flags()
	f.StringVar(&o.URL, "nats", "", address)
	f.StringVar(&o.Creds, "nats-creds", "", "`file` of credentials for NATS")
	f.StringVar(&o.NKey, "nats-nkey", "", "`file` of an NKey's seed for NATS")
	f.StringVar(&o.CA, "nats-ca", "", "`file` of the certificates of NATS's authorities; without, those of the system")
	f.StringVar(&o.Cert, "nats-cert", "", "`file` of the certificate to show to NATS, with --nats-key")
	f.StringVar(&o.Key, "nats-key", "", "`file` of that certificate's key")
	return o
}

// checkNATS reports flags that do not go together.
func checkNATS(o *queue.Options) error {
	switch {
	case o.URL == "" && *o != (queue.Options{}):
		return usageError{errors.New("there are --nats-… flags without --nats; want the address of a NATS server, such as nats://host:4222")}
	case o.Creds != "" && o.NKey != "":
		return usageError{errors.New("--nats-creds and --nats-nkey are both given; want one of the two")}
	case (o.Cert == "") != (o.Key == ""):
		return usageError{errors.New("--nats-cert and --nats-key go together; want both")}
	}
	return nil
}

// workerName returns a name for this process.
func workerName() string {
	host, err := os.Hostname()
	if err != nil {
		host = "worker"
	}
	return fmt.Sprintf("%s-%d", host, os.Getpid())
}

// evaluationID returns what tells the evaluation in a directory from all others, from a file that the first call writes.
func evaluationID(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "queue-id")
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		data = []byte(rand.Text() + "\n")
		err = atomicfile.Write(ctx, path, func(w io.Writer) error {
			_, err := w.Write(data)
			return err
		})
	}
	return strings.TrimSpace(string(data)), err
}

// evaluate has the jobs done that the store lacks: by workers elsewhere if there is an address, and else by w in this process.
func (x *evaluation) evaluate(c *cobra.Command, w *eval.Worker, jobs []eval.Job, store *eval.Store, title string) error {
	bar := startEvaluation(c.ErrOrStderr())
	defer bar.end()
	log := newLog(bar, slog.LevelInfo)
	tell := teller{log: log}
	e := queue.Evaluation{Jobs: jobs, Store: store, Title: title, Progress: func(p queue.Progress) {
		bar.report(p)
		if !bar.terminal {
			tell.report(p, time.Now())
		}
	}}
	if x.nats.URL == "" {
		conn, err := queue.Embedded(newLog(bar, slog.LevelWarn))
		if err != nil {
			return err
		}
		defer conn.Close()
		ctx, cancel := context.WithCancelCause(c.Context())
		ended := make(chan error, 1)
		go func() {
			_, err := conn.Work(ctx, queue.Worker{Name: workerName(), Accepts: w.Accepts, Do: w.Do})
			cancel(err)
			ended <- err
		}()
		e.Tries = 1
		tell.last = time.Now() // a short run says nothing
		err = conn.Evaluate(ctx, e)
		cancel(nil)
		return errors.Join(err, <-ended)
	}
	o := *x.nats
	o.Log = log
	conn, err := queue.Dial(c.Context(), o)
	if err != nil {
		return err
	}
	defer conn.Close()
	if e.ID, err = evaluationID(c.Context(), x.dir); err != nil {
		return err
	}
	tell.toEnd = true
	return conn.Evaluate(c.Context(), e)
}

// A teller tells a log once a minute how far an evaluation is.
type teller struct {
	log   *slog.Logger
	last  time.Time // that it did so
	toEnd bool      // it tells of the end, too
}

func (t *teller) report(p queue.Progress, now time.Time) {
	if now.Sub(t.last) < time.Minute && !(t.toEnd && p.Done == p.All) {
		return
	}
	t.last = now
	failed := ""
	if p.Failed > 0 {
		failed = fmt.Sprint(p.Failed)
	}
	t.log.Info("samples", "done", fmt.Sprintf("%d of %d", p.Done, p.All), "failed", failed, "workers", p.Workers, "left", leftText(p))
}

// command returns the command line for reports, without what is secret in the address.
func (x *evaluation) command() string {
	args := slices.Clone(os.Args)
	if x.nats.URL != "" {
		for i := range args {
			args[i] = strings.ReplaceAll(args[i], x.nats.URL, queue.Redact(x.nats.URL))
		}
	}
	return commandLine(args)
}

// leftText says how long an evaluation will take, as far as that is known.
func leftText(p queue.Progress) string {
	if p.Left <= 0 || p.Workers == 0 {
		return ""
	}
	return p.Left.Round(time.Second).String()
}
