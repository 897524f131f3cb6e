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

// An Evaluation is what is to be done: jobs, and the store that their records go into.
type Evaluation struct {
	Jobs  []eval.Job
	Store *eval.Store

	// ID is the same whenever the evaluation is started again, and another one's is not. What an earlier run left on the
	// server is told by it. If it is empty, that is left alone.
	ID    string
	Title string // for people

	Version string        // of the code, which workers must have; empty means [eval.Version]
	Window  int           // jobs that are published and not in the store, at most; 0 means 1024
	AckWait time.Duration // silence of a worker after which its job goes to another; 0 means 30 s
	Tries   int           // how often a job is begun before it has failed; 0 means 5

	Progress func(Progress) // called now and then, unless nil; never twice at once
}

// Progress says how far an evaluation is. Left counts on as many workers as there are.
type Progress struct {
	eval.Progress
	Workers int // heard of lately
}

// Evaluate has workers do the jobs that the store lacks, and puts their records into it as they come. That of a job that fails as
// often as [Evaluation].Tries has the error, and the others are done all the same; the error at the end says how many failed. The
// end of ctx ends it. What is finished is in the store, and the next call goes on from there and tries again what failed.
func (c *Conn) Evaluate(ctx context.Context, e Evaluation) (err error) {
	switch {
	case e.Window < 0:
		return fmt.Errorf("queue: Window is %d; want ≥ 0", e.Window)
	case e.AckWait < 0:
		return fmt.Errorf("queue: AckWait is %v; want ≥ 0", e.AckWait)
	case e.Tries < 0:
		return fmt.Errorf("queue: Tries is %d; want ≥ 0", e.Tries)
	}
	e.Version = or(e.Version, eval.Version())
	e.Window = or(e.Window, 1024)
	e.AckWait = or(e.AckWait, 30*time.Second)
	e.Tries = or(e.Tries, 5)
	ctx, cancel := c.bind(ctx)
	defer cancel(nil)

	p := &publisher{
		conn: c, evaluation: &e, run: newRun(&e), slots: make(chan struct{}, e.Window),
		open: make(map[string]*work), busy: make(map[string]presence), refusals: make(map[string]string),
	}
	for i := range e.Jobs {
		if id := e.Jobs[i].ID(); !e.Store.Has(id) && p.open[id] == nil {
			w := &work{id: id, job: &e.Jobs[i]}
			p.open[id] = w
			p.todo = append(p.todo, w)
		}
	}
	p.meter = eval.NewMeter(e.Jobs, e.Store.Records())
	if err := p.takeOver(ctx); err != nil {
		return err
	}
	p.report()
	if len(p.open) == 0 {
		return nil
	}

	heard := make(chan *nats.Msg, 1024)
	sub, err := c.nc.ChanSubscribe(p.run.status(), heard)
	if err != nil {
		return err
	}
	defer func() {
		// The end is not to hang on ctx, which may have ended.
		last, done := context.WithTimeout(context.WithoutCancel(ctx), 15*time.Second)
		defer done()
		if context.Cause(c.closed) != nil {
			return
		}
		if err != nil && !errors.Is(err, errEnded) {
			if lost := c.left(last, p.run, p.late); lost != nil && !errors.Is(lost, jetstream.ErrStreamNotFound) {
				c.log.Warn("the last results of the run could not be read", "error", lost)
			}
		}
		if left := c.remove(last, p.run); left != nil {
			c.log.Warn("the run stays on the server", "stream", p.run.stream(), "error", left)
		}
	}()
	if err := c.create(ctx, p.run, e.Window); err != nil {
		return err
	}
	c.nc.Publish(runsTopic, nil)
	c.log.Info("evaluation started", "run", p.run.ID, "jobs", len(p.todo), "finished", len(e.Jobs)-len(p.todo), "version", e.Version)

	var both sync.WaitGroup
	both.Go(func() {
		if err := p.publish(ctx); err != nil {
			cancel(err)
		}
	})
	both.Go(func() { p.listen(ctx, heard) })
	err = p.collect(ctx)
	cancel(err)
	both.Wait()
	if err == nil {
		err = p.meter.Err()
	}
	return errors.Join(err, sub.Unsubscribe())
}

func or[T comparable](x, otherwise T) T {
	if x == *new(T) {
		return otherwise
	}
	return x
}

// A publisher is an evaluation's side of a run.
type publisher struct {
	conn       *Conn
	evaluation *Evaluation
	run        *run
	todo       []*work
	slots      chan struct{} // taken by the jobs that are published and have no record

	mu       sync.Mutex
	meter    *eval.Meter
	open     map[string]*work // without a record, by ID
	busy     map[string]presence
	refusals map[string]string
}

// work is a job to be done.
type work struct {
	id        string
	job       *eval.Job
	slot      bool // taken
	published bool
}

// A presence is what a worker said last.
type presence struct {
	status
	at time.Time
}

// takeOver takes what an earlier run of the evaluation left on the server.
func (p *publisher) takeOver(ctx context.Context) error {
	if p.evaluation.ID == "" {
		return nil
	}
	c := p.conn
	var runs []*run
	err := c.persist(ctx, "the runs on the server", func(ctx context.Context) (err error) {
		runs, err = c.runs(ctx)
		return err
	})
	if err != nil {
		return err
	}
	for _, r := range runs {
		if r.Evaluation != p.run.Evaluation {
			continue
		}
		all := len(p.open)
		if err := c.left(ctx, r, p.late); err != nil && !errors.Is(err, jetstream.ErrStreamNotFound) {
			return fmt.Errorf("cannot read the results of an earlier run: %w", err)
		}
		if err := c.remove(ctx, r); err != nil {
			return fmt.Errorf("cannot delete an earlier run: %w", err)
		}
		c.log.Info("an earlier run was taken over", "run", r.ID, "results", all-len(p.open))
	}
	todo := p.todo[:0]
	for _, w := range p.todo {
		if p.open[w.id] != nil {
			todo = append(todo, w)
		}
	}
	p.todo = todo
	return nil
}

// late takes a result of a run that is over.
func (p *publisher) late(r *result) error {
	if r.Record == nil {
		return nil
	}
	return p.add(r.Record)
}

// publish puts jobs on the queue, as long as there is room in the window.
func (p *publisher) publish(ctx context.Context) error {
	for _, w := range p.todo {
		select {
		case p.slots <- struct{}{}:
		case <-ctx.Done():
			return nil
		}
		p.mu.Lock()
		w.slot = true
		p.mu.Unlock()
		if err := p.put(ctx, w, 0); err != nil {
			return err
		}
	}
	return nil
}

// put puts a job on the queue, for the first time or once more.
func (p *publisher) put(ctx context.Context, w *work, round int) error {
	err := p.conn.publish(ctx, p.run, p.run.jobs(), fmt.Sprintf("job/%s/%d", w.id, round), w.job)
	if err != nil {
		return fmt.Errorf("cannot publish %s: %w", w.job, err)
	}
	p.mu.Lock()
	w.published = true
	p.mu.Unlock()
	return nil
}

// collect puts results into the store until all jobs have one.
func (p *publisher) collect(ctx context.Context) error {
	c := p.conn
	var consumer jetstream.Consumer
	started, round, empty := time.Now(), 0, 0
	for p.left() > 0 {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if consumer == nil {
			err := c.persist(ctx, "the results", func(ctx context.Context) (err error) {
				consumer, err = c.js.Consumer(ctx, p.run.stream(), evaluation)
				return err
			})
			if errors.Is(err, jetstream.ErrConsumerNotFound) || errors.Is(err, jetstream.ErrStreamNotFound) {
				return errors.New("the run was deleted on the server: the same evaluation was started elsewhere, or the server had not heard from this one for minutes")
			}
			if err != nil {
				return fmt.Errorf("cannot read results: %w", err)
			}
		}
		// What is fetched is handled in any case, so the fetch does not end with ctx.
		batch, err := consumer.Fetch(64, jetstream.FetchMaxWait(time.Second))
		if err != nil {
			c.log.Warn("cannot read results", "error", err)
			consumer = nil
			pause(ctx, time.Second)
			continue
		}
		none := true
		for m := range batch.Messages() {
			none = false
			if err := p.take(m); err != nil {
				return err
			}
			if p.left() == 0 {
				return nil
			}
		}
		if batch.Error() != nil {
			consumer = nil // a leader is gone, or the stream is
			pause(ctx, 100*time.Millisecond)
		}
		if !none {
			empty = 0
			continue
		}
		if empty++; empty%3 == 0 {
			round++
			if err := p.restore(ctx, round); err != nil {
				return err
			}
		}
		if p.idle() && empty == 10 {
			c.log.Info("no worker has come yet", "waiting", time.Since(started).Round(time.Second))
		}
	}
	return nil
}

// take handles a result and acknowledges it.
func (p *publisher) take(m jetstream.Msg) error {
	var r result
	if err := json.Unmarshal(m.Data(), &r); err != nil {
		p.conn.log.Error("a result cannot be read", "error", err)
		return m.Term()
	}
	switch {
	case r.Record != nil:
		if err := p.add(r.Record); err != nil {
			return err
		}
	case r.Failure != nil:
		p.mu.Lock()
		w := p.open[r.Failure.Job]
		p.mu.Unlock()
		switch {
		case w == nil:
		case !r.Failure.Final:
			p.conn.log.Warn("a job failed and is tried again", "job", w.job.String(), "worker", r.Failure.Worker, "error", r.Failure.Error)
		default:
			if p.conn.embedded == nil { // where the worker has the same log
				p.conn.log.Error("a job failed", "job", w.job.String(), "worker", r.Failure.Worker, "error", r.Failure.Error)
			}
			record := eval.FailedRecord(*w.job, r.Failure.Error)
			if err := p.add(&record); err != nil {
				return err
			}
		}
	}
	// If this gets lost the result comes again, and is none of those that are open.
	if err := m.Ack(); err != nil {
		p.conn.log.Warn("a result was not acknowledged", "error", err)
	}
	return nil
}

// add puts a record into the store if its job has none of this run yet.
func (p *publisher) add(r *eval.Record) error {
	p.mu.Lock()
	w := p.open[r.ID]
	p.mu.Unlock()
	if w == nil || r.Job.ID() != r.ID {
		return nil
	}
	if _, err := p.evaluation.Store.Append(*r); err != nil {
		return err
	}
	p.mu.Lock()
	delete(p.open, r.ID)
	p.meter.Add(r)
	if w.slot {
		<-p.slots
	}
	p.mu.Unlock()
	p.report()
	return nil
}

// restore publishes jobs again that are gone from the server without a result, as when its disk lost them.
func (p *publisher) restore(ctx context.Context, round int) error {
	p.mu.Lock()
	var gone []*work
	for _, w := range p.todo {
		if w.published && p.open[w.id] != nil {
			gone = append(gone, w)
		}
	}
	p.mu.Unlock()
	stream, err := p.conn.js.Stream(ctx, p.run.stream())
	if err != nil || stream.CachedInfo().State.Msgs > 0 || len(gone) == 0 {
		return nil // the next fetch says what is amiss
	}
	p.conn.log.Warn("the server has lost jobs, which are published again", "jobs", len(gone))
	for _, w := range gone {
		if err := p.put(ctx, w, round); err != nil {
			return err
		}
	}
	return nil
}

func (p *publisher) left() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.open)
}

// listen follows what workers say they are at.
func (p *publisher) listen(ctx context.Context, heard <-chan *nats.Msg) {
	for {
		select {
		case <-ctx.Done():
			return
		case m := <-heard:
			var s status
			if json.Unmarshal(m.Data, &s) != nil {
				continue
			}
			p.mu.Lock()
			_, known := p.busy[s.Worker]
			refused := s.Refusal != "" && p.refusals[s.Worker] != s.Refusal
			switch {
			case s.Refusal != "":
				p.refusals[s.Worker] = s.Refusal
			case s.Leaves:
				delete(p.busy, s.Worker)
			default:
				p.busy[s.Worker] = presence{s, time.Now()}
			}
			p.mu.Unlock()
			switch {
			case refused:
				p.conn.log.Warn("a worker refuses", "worker", s.Worker, "error", s.Refusal)
			case s.Refusal != "":
			case s.Leaves && known:
				p.conn.log.Info("a worker leaves", "worker", s.Worker)
			case !s.Leaves && !known:
				p.conn.log.Info("a worker has come", "worker", s.Worker)
			}
			p.report()
		}
	}
}

// idle reports that no worker has been heard of.
func (p *publisher) idle() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.busy) == 0
}

// report tells how far the jobs are.
func (p *publisher) report() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.evaluation.Progress == nil {
		return
	}
	now := p.meter.Progress(nil, 0)
	all := Progress{Progress: now}
	for name, b := range p.busy {
		if time.Since(b.at) > p.evaluation.AckWait {
			delete(p.busy, name)
			continue
		}
		all.Workers++
		if w := p.open[b.Job]; w != nil {
			with := p.meter.Progress(w.job, b.Share)
			all.Share += with.Share - now.Share
			all.Left -= now.Left - with.Left
		}
	}
	all.Share, all.Left = min(all.Share, 1), max(all.Left, 0)/time.Duration(max(all.Workers, 1))
	p.evaluation.Progress(all)
}
