package queue

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/anchorattention/anchor/eval"
	"github.com/nats-io/nats.go/jetstream"
)

// errEnded says that a run's stream is gone.
var errEnded = errors.New("the run has ended")

const (
	prefix     = "anchor"         // of subjects and streams
	runsTopic  = prefix + ".runs" // says that there is a new run
	workers    = "workers"        // the consumer of jobs
	evaluation = "evaluation"     // the consumer of results

)

// abandoned is the time without a reader after which a run is deleted.
var abandoned = 5 * time.Minute

// A run is a stream: what its metadata says. Workers of other versions read it, too.
type run struct {
	ID         string        `json:"id"`
	Evaluation string        `json:"evaluation"` // hash of Evaluation.ID
	Title      string        `json:"title"`
	Version    string        `json:"version"`
	Tries      int           `json:"tries"`
	AckWait    time.Duration `json:"ack_wait"`
	Needs      []eval.Job    `json:"needs"` // a job of every kind that workers must accept

	alone bool // nobody has read the results for long
}

func (r *run) stream() string  { return prefix + "-" + r.ID }
func (r *run) jobs() string    { return prefix + "." + r.ID + ".jobs" }
func (r *run) results() string { return prefix + "." + r.ID + ".results" }
func (r *run) status() string  { return prefix + "." + r.ID + ".status" }

// newRun returns the run of an evaluation whose fields are set.
func newRun(e *Evaluation) *run {
	r := &run{
		Evaluation: eval.Hash([]byte(e.ID))[:12], Title: e.Title, Version: e.Version, Tries: e.Tries, AckWait: e.AckWait,
	}
	r.ID = r.Evaluation + "-" + rand.Text()[:8]
	kinds := make(map[[2]string]int)
	for _, j := range e.Jobs {
		kind := [2]string{j.Suite, j.Task}
		at, ok := kinds[kind]
		if !ok {
			at = len(r.Needs)
			kinds[kind] = at
			// Whether a method of attention is known does not depend on the machine.
			r.Needs = append(r.Needs, eval.Job{Suite: j.Suite, Task: j.Task, Model: j.Model, Chat: j.Chat, Data: j.Data})
		}
		r.Needs[at].Length = max(r.Needs[at].Length, j.Length)
	}
	return r
}

// refusal says why a worker does no jobs of the run, nil if it does.
func (r *run) refusal(w *Worker) error {
	if r.Version != w.Version {
		return fmt.Errorf("the evaluation's version is %s; this worker's is %s", r.Version, w.Version)
	}
	for i := range r.Needs {
		if err := w.Accepts(&r.Needs[i]); err != nil {
			return err
		}
	}
	return nil
}

// A result is what came of a job.
type result struct {
	Record  *eval.Record `json:"record,omitempty"`
	Failure *failure     `json:"failure,omitempty"`
}

type failure struct {
	Job    string `json:"job"` // its ID
	Worker string `json:"worker"`
	Error  string `json:"error"`
	Final  bool   `json:"final"` // the job is not tried again
}

// A status is a worker's word on what it is at. Nobody stores it.
type status struct {
	Worker  string  `json:"worker"`
	Job     string  `json:"job,omitempty"` // its ID
	Share   float64 `json:"share,omitempty"`
	Refusal string  `json:"refusal,omitempty"`
	Leaves  bool    `json:"leaves,omitempty"`
}

// create makes the stream of a run and its consumers.
func (c *Conn) create(ctx context.Context, r *run, window int) error {
	about, err := json.Marshal(r)
	if err != nil {
		return err
	}
	config := jetstream.StreamConfig{
		Name: r.stream(), Description: r.Title, Subjects: []string{r.jobs(), r.results()}, Metadata: map[string]string{prefix: string(about)},
		Retention: jetstream.WorkQueuePolicy, Discard: jetstream.DiscardNew, DiscardNewPerSubject: true, MaxMsgsPerSubject: int64(window),
		Duplicates: time.Hour, Storage: jetstream.FileStorage, Replicas: 3,
	}
	if c.embedded != nil {
		config.Storage, config.Replicas = jetstream.MemoryStorage, 1
	}
	err = c.persist(ctx, "the stream of the run", func(ctx context.Context) error {
		_, err := c.js.CreateStream(ctx, config)
		var api jetstream.JetStreamError
		if err != nil && config.Replicas > 1 && errors.As(err, &api) && api.APIError() != nil {
			switch api.APIError().ErrorCode {
			case 10074, 10005: // replicas without a cluster; no servers for as many
				c.log.Warn("the queue has one copy: there are no three servers for it", "error", err)
				config.Replicas = 1
				_, err = c.js.CreateStream(ctx, config)
			}
		}
		return err
	})
	if err != nil {
		return fmt.Errorf("cannot create the stream of the run: %w", err)
	}
	consumers := []jetstream.ConsumerConfig{
		{Durable: evaluation, FilterSubject: r.results(), MaxAckPending: window, AckWait: r.AckWait, InactiveThreshold: abandoned},
		{Durable: workers, FilterSubject: r.jobs(), MaxAckPending: window, AckWait: r.AckWait, MaxWaiting: 1 << 14},
	}
	for _, config := range consumers {
		config.AckPolicy, config.MaxDeliver = jetstream.AckExplicitPolicy, -1
		err := c.persist(ctx, "a consumer of the run", func(ctx context.Context) error {
			_, err := c.js.CreateOrUpdateConsumer(ctx, r.stream(), config)
			return err
		})
		if err != nil {
			return fmt.Errorf("cannot create a consumer of the run: %w", err)
		}
	}
	return nil
}

// runs returns the runs on the server, the oldest first.
func (c *Conn) runs(ctx context.Context) ([]*run, error) {
	type aged struct {
		*run
		created time.Time
	}
	var all []aged
	list := c.js.ListStreams(ctx, jetstream.WithStreamListSubject(prefix+".*.jobs"))
	for info := range list.Info() {
		r := new(run)
		about, ok := info.Config.Metadata[prefix]
		if !ok || json.Unmarshal([]byte(about), r) != nil || r.stream() != info.Config.Name {
			continue // not ours
		}
		// Both times are the server's.
		r.alone = info.State.Consumers < 2 && info.TimeStamp.Sub(info.Created) > abandoned
		all = append(all, aged{r, info.Created})
	}
	if err := list.Err(); err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(a, b aged) int {
		if n := a.created.Compare(b.created); n != 0 {
			return n
		}
		return strings.Compare(a.ID, b.ID)
	})
	var runs []*run
	for _, a := range all {
		runs = append(runs, a.run)
	}
	return runs, nil
}

// exists returns nil if a run's stream is there or nobody knows.
func (c *Conn) exists(ctx context.Context, r *run) error {
	if _, err := c.js.Stream(ctx, r.stream()); errors.Is(err, jetstream.ErrStreamNotFound) {
		return errEnded
	}
	return nil
}

// remove deletes the stream of a run.
func (c *Conn) remove(ctx context.Context, r *run) error {
	err := c.persist(ctx, "the end of the run", func(ctx context.Context) error { return c.js.DeleteStream(ctx, r.stream()) })
	if errors.Is(err, jetstream.ErrStreamNotFound) {
		return nil
	}
	return err
}

// publish puts a message into the stream of a run, once for an id.
func (c *Conn) publish(ctx context.Context, r *run, subject, id string, message any) error {
	data, err := json.Marshal(message)
	if err != nil {
		return err
	}
	return c.persist(ctx, "a message", func(ctx context.Context) error {
		_, err := c.js.Publish(ctx, subject, data, jetstream.WithMsgID(id), jetstream.WithExpectStream(r.stream()))
		if errors.Is(err, jetstream.ErrNoStreamResponse) {
			err = errors.Join(c.exists(ctx, r), err)
		}
		return err
	})
}

// tell publishes a status, which may get lost.
func (c *Conn) tell(r *run, s status) {
	if data, err := json.Marshal(s); err == nil {
		c.nc.Publish(r.status(), data)
	}
}

// left calls take with every result in the stream of a run, those included that somebody else was about to read.
func (c *Conn) left(ctx context.Context, r *run, take func(*result) error) error {
	stream, err := c.js.Stream(ctx, r.stream())
	if err != nil {
		return err
	}
	for seq := uint64(1); ; {
		var m *jetstream.RawStreamMsg
		err := c.persist(ctx, "results of an earlier run", func(ctx context.Context) (err error) {
			m, err = stream.GetMsg(ctx, seq, jetstream.WithGetMsgSubject(r.results()))
			return err
		})
		if errors.Is(err, jetstream.ErrMsgNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
		var res result
		if json.Unmarshal(m.Data, &res) == nil {
			if err := take(&res); err != nil {
				return err
			}
		}
		seq = m.Sequence + 1
	}
}
