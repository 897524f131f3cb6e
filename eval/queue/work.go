package queue

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/anchorattention/anchor/eval"
	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"
)

// A Worker does jobs, one at a time.
type Worker struct {
	Name    string // which no other worker has
	Version string // of the code; empty means [eval.Version]

	Accepts func(j *eval.Job) error // why it cannot do a job, nil if it can: [eval.Worker.Accepts]
	Do      eval.Do                 // [eval.Worker.Do]

	// Idle ends the work once there has been no run on the server for so long of which the worker could do jobs. 0 means never.
	Idle time.Duration
}

// Work does jobs of the runs on the server until ctx ends, in turn if there are several. It returns how many it did. The end of
// ctx is no error; the job that the worker is at goes to another one.
func (c *Conn) Work(ctx context.Context, w Worker) (done int, err error) {
	if w.Name == "" || w.Idle < 0 {
		return 0, fmt.Errorf("queue: worker's name is %q and Idle is %v; want a name, and ≥ 0", w.Name, w.Idle)
	}
	w.Version = or(w.Version, eval.Version())
	outer := ctx
	ctx, cancel := c.bind(ctx)
	defer cancel(nil)
	news, err := c.nc.SubscribeSync(runsTopic)
	if err != nil {
		return 0, err
	}
	defer news.Unsubscribe()

	known := make(map[string]error) // why a run is refused, nil if it is not, by ID
	last, failed := time.Now(), 0
	for turn := 0; ; turn++ {
		var runs []*run
		err := c.persist(ctx, "the runs on the server", func(ctx context.Context) (err error) {
			runs, err = c.runs(ctx)
			return err
		})
		switch {
		case outer.Err() != nil:
			return done, nil
		case err != nil:
			return done, fmt.Errorf("cannot list the runs: %w", err)
		}
		runs = c.choose(ctx, runs, &w, known)
		if len(runs) == 0 {
			if idle := time.Since(last); w.Idle > 0 && idle >= w.Idle {
				c.log.Info("no evaluation to work for", "since", idle.Round(time.Second))
				return done, nil
			}
			c.await(ctx, news, time.Second)
			continue
		}
		last = time.Now()
		for i := range runs {
			r := runs[(turn+i)%len(runs)]
			m := c.next(ctx, r, time.Second/time.Duration(len(runs)))
			if m == nil {
				if ctx.Err() != nil {
					break
				}
				c.tell(r, status{Worker: w.Name})
				continue
			}
			ok, err := c.do(ctx, &w, r, m)
			if err != nil {
				if outer.Err() != nil {
					c.tell(r, status{Worker: w.Name, Leaves: true})
					return done, nil
				}
				return done, err
			}
			switch {
			case ok:
				done++
				failed = 0
			case c.embedded == nil:
				// A worker that fails at everything is to leave jobs to others.
				failed++
				pause(ctx, min(time.Second<<min(failed, 6), time.Minute)/2)
			}
			break
		}
	}
}

// choose returns the runs that a worker does jobs of.
func (c *Conn) choose(ctx context.Context, runs []*run, w *Worker, known map[string]error) []*run {
	var chosen []*run
	now := make(map[string]bool)
	for _, r := range runs {
		now[r.ID] = true
		if r.alone {
			if err := c.remove(ctx, r); err != nil {
				c.log.Warn("cannot delete a run that nobody reads", "run", r.ID, "error", err)
			} else {
				c.log.Info("a run that nobody reads was deleted", "run", r.ID)
			}
			continue
		}
		refusal, ok := known[r.ID]
		if !ok {
			refusal = r.refusal(w)
			known[r.ID] = refusal
			if refusal == nil {
				c.log.Info("working for", "evaluation", r.Title, "run", r.ID)
				c.tell(r, status{Worker: w.Name})
			} else {
				c.log.Error("refused", "evaluation", r.Title, "run", r.ID, "error", refusal)
				c.tell(r, status{Worker: w.Name, Refusal: refusal.Error()})
			}
		}
		if refusal == nil {
			chosen = append(chosen, r)
		}
	}
	for id := range known {
		if !now[id] {
			delete(known, id)
		}
	}
	return chosen
}

// await returns when there is a new run, after a time, or when ctx ends.
func (c *Conn) await(ctx context.Context, news *nats.Subscription, d time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	if _, err := news.NextMsgWithContext(ctx); err != nil {
		<-ctx.Done()
	}
}

// next returns a job of a run, nil if there is none within a time.
func (c *Conn) next(ctx context.Context, r *run, wait time.Duration) jetstream.Msg {
	try, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	consumer, err := c.js.Consumer(try, r.stream(), workers)
	if err != nil {
		pause(ctx, wait) // the run has ended, or is about to begin
		return nil
	}
	// A job that comes must be handled, so ctx does not end this.
	m, err := consumer.Next(jetstream.FetchMaxWait(wait))
	if err != nil && !errors.Is(err, nats.ErrTimeout) {
		pause(ctx, wait)
	}
	return m
}

// do does a job and reports whether that went well. An error ends the worker.
func (c *Conn) do(ctx context.Context, w *Worker, r *run, m jetstream.Msg) (ok bool, err error) {
	meta, err := m.Metadata()
	if err != nil {
		return false, err
	}
	var j eval.Job
	if err := json.Unmarshal(m.Data(), &j); err != nil {
		c.log.Error("a job cannot be read", "run", r.ID, "error", err)
		return false, m.Term()
	}
	id := j.ID()
	jobCtx, end := context.WithCancelCause(ctx)
	defer end(nil)
	b := &beat{conn: c, run: r, msg: m, job: j.String(), status: status{Worker: w.Name, Job: id}}
	stop := b.start(jobCtx, end)
	defer stop()

	var rec eval.Record
	tried := int(meta.NumDelivered)
	begun := time.Now()
	if tried > r.Tries {
		err = fmt.Errorf("it was begun %d times and never finished: the workers died, or were stopped", r.Tries)
	} else {
		c.log.Debug("begun", "job", j.String(), "try", tried)
		rec, err = w.Do(jobCtx, j, b.share)
	}
	res, message := result{Record: &rec}, fmt.Sprintf("record/%s/%d", id, meta.Sequence.Stream)
	switch {
	case errors.Is(context.Cause(jobCtx), errEnded):
		c.log.Info("the run has ended, and the job with it", "job", j.String())
		return true, nil
	case err != nil && ctx.Err() != nil:
		c.log.Info("given back", "job", j.String())
		m.Nak()
		return false, context.Cause(ctx)
	case err != nil:
		final := tried >= r.Tries
		c.log.Error("failed", "job", j.String(), "try", fmt.Sprintf("%d of %d", min(tried, r.Tries), r.Tries), "error", err)
		res = result{Failure: &failure{Job: id, Worker: w.Name, Error: err.Error(), Final: final}}
		message = fmt.Sprintf("failure/%s/%d/%d", id, meta.Sequence.Stream, tried)
	}
	// The record is worth more than a quick end: ctx may have ended.
	last, done := c.grace(ctx)
	defer done()
	err = c.publish(last, r, r.results(), message, res)
	if errors.Is(err, nats.ErrMaxPayload) {
		err = fmt.Errorf("%s: the server takes records of %d bytes at most, see its max_payload: %w", &j, c.nc.MaxPayload(), err)
		c.log.Error("failed", "job", j.String(), "error", err)
		res = result{Failure: &failure{Job: id, Worker: w.Name, Error: err.Error(), Final: true}}
		err = c.publish(last, r, r.results(), message, res)
	}
	switch {
	case errors.Is(err, errEnded):
		c.log.Info("the run ended before the result came", "job", j.String())
		return true, nil
	case err != nil:
		return false, fmt.Errorf("cannot publish the result of %s: %w", &j, err)
	}
	if res.Failure != nil && !res.Failure.Final {
		return false, m.NakWithDelay(time.Second)
	}
	// If this gets lost the job is done twice, for nothing.
	err = c.persist(last, "an acknowledgement", func(ctx context.Context) error {
		err := m.DoubleAck(ctx)
		if err != nil {
			err = errors.Join(c.exists(ctx, r), err)
		}
		return err
	})
	if err != nil && !errors.Is(err, errEnded) {
		c.log.Warn("a job was not acknowledged", "job", j.String(), "error", err)
	}
	if res.Failure == nil {
		c.log.Info("done", "job", j.String(), "score", rec.Score, "ttft", seconds(rec.FirstToken), "took", time.Since(begun).Round(time.Millisecond))
	}
	return res.Failure == nil, nil
}

// seconds returns a time in seconds as one for people.
func seconds(s float64) time.Duration {
	return time.Duration(s * float64(time.Second)).Round(time.Millisecond)
}

// grace returns a context that ends 15 s after ctx does, or with the connection.
func (c *Conn) grace(ctx context.Context) (context.Context, func()) {
	last, cancel := c.bind(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		pause(last, 15*time.Second)
		cancel(context.Cause(ctx))
	})
	return last, func() {
		stop()
		cancel(nil)
	}
}

// A beat tells others that a job is in good hands.
type beat struct {
	conn *Conn
	run  *run
	msg  jetstream.Msg
	job  string

	mu     sync.Mutex
	status status
	told   time.Time
}

// start begins to tell, and ends the job by end once its run is gone. The function that it returns ends the telling.
func (b *beat) start(ctx context.Context, end context.CancelCauseFunc) (stop func()) {
	done := make(chan struct{})
	var running sync.WaitGroup
	running.Go(func() {
		t := time.NewTicker(b.run.AckWait / 3)
		defer t.Stop()
		logged := time.Now()
		for {
			b.share(0)
			select {
			case <-done:
				return
			case <-t.C:
			}
			if now := time.Now(); now.Sub(logged) >= time.Minute {
				logged = now
				b.mu.Lock()
				done := b.status.Share
				b.mu.Unlock()
				b.conn.log.Info("in progress", "job", b.job, "prompt", fmt.Sprintf("%.0f %%", 100*done))
			}
			if err := b.msg.InProgress(); err != nil && !errors.Is(err, jetstream.ErrMsgAlreadyAckd) {
				b.conn.log.Warn("cannot say that a job is in progress", "error", err)
			}
			try, cancel := context.WithTimeout(ctx, 5*time.Second)
			if err := b.conn.exists(try, b.run); err != nil {
				end(err)
			}
			cancel()
		}
	})
	return func() {
		close(done)
		running.Wait()
	}
}

// share tells the share of the job that is done, if it grew, a few times a second at most.
func (b *beat) share(done float64) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.status.Share = max(b.status.Share, done)
	if done > 0 && time.Since(b.told) < 250*time.Millisecond {
		return
	}
	b.told = time.Now()
	b.conn.tell(b.run, b.status)
}
