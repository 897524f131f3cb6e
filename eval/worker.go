package eval

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/generate"
	"github.com/anchorattention/anchor/model"
)

// A Model is what is evaluated.
type Model struct {
	ID string // its identity, [Fingerprint] for one
	*model.Model
	Format
}

// A Worker does jobs with a model.
type Worker struct {
	Model   *Model
	Tasks   []*Task       // that it can do
	Costs   *anchor.Costs // of the machine, nil meaning the default ones; see [Worker.CostsOf]
	Threads int

	mu   sync.Mutex
	last *Sample // which the next job often is about
}

// Accepts reports why the worker cannot do a job, before any work: it has another model, other data, no such task.
func (w *Worker) Accepts(j *Job) error {
	_, err := w.task(j)
	return err
}

func (w *Worker) task(j *Job) (*Task, error) {
	i := slices.IndexFunc(w.Tasks, func(t *Task) bool { return t.Suite == j.Suite && t.Name == j.Task })
	if i < 0 {
		var names []string
		for _, t := range w.Tasks {
			names = append(names, t.Suite+"/"+t.Name)
		}
		return nil, fmt.Errorf("eval: task is %s/%s; want one of %s", j.Suite, j.Task, strings.Join(names, ", "))
	}
	t := w.Tasks[i]
	switch {
	case j.Model != w.Model.ID:
		return nil, fmt.Errorf("eval: job is for model %s; this is %s", j.Model, w.Model.ID)
	case j.Chat != w.Model.Format.hash():
		return nil, fmt.Errorf("eval: job is for chat template %q; that of the model is %q", j.Chat, w.Model.Format.hash())
	case !maps.Equal(j.Data, t.Data):
		return nil, fmt.Errorf("eval: job of %s/%s is for data %v; those here are %v", j.Suite, j.Task, j.Data, t.Data)
	case j.Length < 1 || j.Length > w.Model.Config().MaxPositions:
		return nil, fmt.Errorf("eval: length is %d; want 1 … %d, the positions of the model", j.Length, w.Model.Config().MaxPositions)
	case j.Index < 0:
		return nil, fmt.Errorf("eval: index is %d; want ≥ 0", j.Index)
	case j.Audit < 0:
		return nil, fmt.Errorf("eval: audit is %d; want ≥ 0", j.Audit)
	}
	return t, nil
}

// Check is like Accepts, and reports too whether the sample cannot be made, of too short a length for example, or the model
// cannot be asked under the job's method.
func (w *Worker) Check(j *Job) error {
	t, err := w.task(j)
	if err != nil {
		return err
	}
	if _, err = w.sample(t, j); err == nil {
		_, err = w.engine(j)
	}
	if err != nil {
		return fmt.Errorf("%s: %w", j, err)
	}
	return nil
}

// CostsOf returns the costs that a job is done by: its own if results depend on them, and else those of the machine.
func (w *Worker) CostsOf(j *Job) *anchor.Costs {
	if byCosts(j.Attention) {
		return j.Costs
	}
	return w.Costs
}

// engine returns an engine of the job's own: another's cache may hold the beginning of the prompt.
func (w *Worker) engine(j *Job) (*generate.Engine, error) {
	return generate.New(w.Model.Model, generate.Options{Attention: j.Attention, Costs: w.CostsOf(j), Threads: w.Threads})
}

// sample makes the sample of a job.
func (w *Worker) sample(t *Task, j *Job) (*Sample, error) {
	w.mu.Lock()
	s := w.last
	w.mu.Unlock()
	if s != nil && s.Suite == j.Suite && s.Task == j.Task && s.Length == j.Length && s.Index == j.Index && s.Seed == j.Seed {
		return s, nil
	}
	s, err := t.Sample(&w.Model.Format, j.Length, j.Index, j.Seed)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.last = s
	w.mu.Unlock()
	return s, nil
}

// Do does a job. progress, unless nil, is called with the share of the prompt's work that is done, ascending in [0, 1].
func (w *Worker) Do(ctx context.Context, j Job, progress func(share float64)) (Record, error) {
	start := time.Now()
	r := Record{ID: j.ID(), Job: j}
	t, err := w.task(&j)
	if err != nil {
		return r, err
	}
	s, err := w.sample(t, &j)
	if err != nil {
		return r, fmt.Errorf("%s: %w", &j, err)
	}
	if t.Measure != nil {
		if progress == nil {
			progress = func(float64) {}
		}
		if r.Done, err = t.Measure(ctx, w, &j, progress); err != nil {
			return r, fmt.Errorf("%s: %w", &j, err)
		}
		r.Seconds, r.Version = time.Since(start).Seconds(), Version()
		return r, nil
	}
	e, err := w.engine(&j)
	if err != nil {
		return r, fmt.Errorf("%s: %w", &j, err)
	}
	ids := w.Model.EncodeSample(s)
	res, err := e.Generate(ctx, generate.Request{
		Prompt: ids, MaxTokens: s.MaxTokens, Tokenizer: w.Model.Tokenizer, Stop: s.Stop, AuditRows: j.Audit, Progress: progress,
	})
	if err != nil {
		return r, fmt.Errorf("%s: %w", &j, err)
	}
	r.Done = Done{
		PromptTokens: len(ids), Answers: s.Answers, Output: res.Text, Score: t.Score(s, res.Text), End: res.End,
		Generated: len(res.Tokens), Values: s.Values,
		FirstToken: res.FirstToken, AttentionSeconds: res.AttentionSeconds, Seconds: time.Since(start).Seconds(),
		Density: res.Attention.Density(), ISA: res.Attention.ISA, Version: Version(),
	}
	if len(res.Attention.Audit) > 0 {
		recall := res.Attention.Recall // and not all that it is part of
		r.Recall = &recall
	}
	return r, nil
}
