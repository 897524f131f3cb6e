package eval

import (
	"context"
	"fmt"
	"math"
	"time"
)

// Do does a job: [Worker.Do], or what asks another machine to.
type Do func(ctx context.Context, j Job, progress func(share float64)) (Record, error)

// Run does the jobs that the store lacks, one after the other, and puts their records into it as they come. That of a job that
// fails has the error, and the others are done all the same; the error at the end says how many failed. The end of ctx ends it.
// What is finished is in the store, and the next Run goes on from there and tries again what failed. progress, unless nil, is
// called now and then.
func Run(ctx context.Context, jobs []Job, store *Store, do Do, progress func(Progress)) error {
	m := NewMeter(jobs, store.Records())
	if progress == nil {
		progress = func(Progress) {}
	}
	progress(m.Progress(nil, 0))
	for _, j := range jobs {
		if store.Has(j.ID()) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		r, err := do(ctx, j, func(share float64) { progress(m.Progress(&j, share)) })
		if err != nil {
			if ctx.Err() != nil {
				return err
			}
			r = FailedRecord(j, err.Error())
		}
		if _, err := store.Append(r); err != nil {
			return err
		}
		m.Add(&r)
		progress(m.Progress(nil, 0))
	}
	return m.Err()
}

// FailedRecord returns the record of a job that failed.
func FailedRecord(j Job, why string) Record {
	return Record{ID: j.ID(), Job: j, Done: Done{Error: why, Version: Version()}}
}

// Progress says how far a run is.
type Progress struct {
	Done, All int           // jobs; those that failed are done, too
	Failed    int           // jobs
	Share     float64       // of the time that all take, in [0, 1]
	Left      time.Duration // that the others take, if one is done at a time; 0 while nobody knows
}

// A Meter tells how long jobs take from those that are done. It is not safe for concurrent use.
type Meter struct {
	left  map[string]class // jobs to do, by ID
	count map[class]int    // the same, by class
	seen  map[class]*took
	total took // of all classes
	jobs  int

	failed int
	why    string // the first failed
}

// Jobs of a class take about as long.
type class struct {
	task, method string
	length       int
}

type took struct{ seconds, jobs, weight float64 }

func classOf(j *Job) class { return class{j.Suite + "/" + j.Task, j.Method, j.Length} }

// weight says how long jobs take that nobody has seen yet, beside others: something between what products and what attention
// take.
func (c class) weight() float64 { return math.Pow(float64(c.length), 1.5) }

// NewMeter returns a meter for jobs, of which some may be among the records.
func NewMeter(jobs []Job, records []Record) *Meter {
	m := &Meter{left: make(map[string]class), count: make(map[class]int), seen: make(map[class]*took), jobs: len(jobs)}
	for i := range jobs {
		c := classOf(&jobs[i])
		m.left[jobs[i].ID()] = c
		m.count[c]++
	}
	for i := range records {
		m.Add(&records[i])
	}
	return m
}

// Add notes that a job is done or has failed, if it is one of the meter's.
func (m *Meter) Add(r *Record) {
	c, ok := m.left[r.ID]
	if !ok {
		return
	}
	delete(m.left, r.ID)
	m.count[c]--
	if r.Error != "" {
		if m.failed++; m.failed == 1 {
			m.why = r.Error
		}
		return // how long it took says nothing
	}
	if m.seen[c] == nil {
		m.seen[c] = &took{}
	}
	for _, t := range []*took{m.seen[c], &m.total} {
		t.seconds += r.Seconds
		t.jobs++
		t.weight += c.weight()
	}
}

// Err returns an error if jobs failed: how many, and why the first did.
func (m *Meter) Err() error {
	if m.failed == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d samples failed, the first with: %s", m.failed, m.jobs, m.why)
}

// seconds returns what a job of a class takes, if anybody knows.
func (m *Meter) seconds(c class) float64 {
	if t := m.seen[c]; t != nil {
		return t.seconds / t.jobs
	}
	if m.total.weight == 0 {
		return 0
	}
	return m.total.seconds / m.total.weight * c.weight()
}

// Progress says how far the jobs are, of which current, unless nil, is done by a share.
func (m *Meter) Progress(current *Job, share float64) Progress {
	p := Progress{Done: m.jobs - len(m.left), All: m.jobs, Failed: m.failed}
	if p.Done == p.All {
		p.Share = 1
		return p
	}
	left, begun := 0.0, 0.0
	for c, n := range m.count {
		left += float64(n) * m.seconds(c)
	}
	if current != nil {
		begun = m.seconds(classOf(current)) * share
	}
	if all := m.total.seconds + left; all > 0 {
		p.Share = min((m.total.seconds+begun)/all, 1)
	}
	p.Left = time.Duration(max(left-begun, 0) * float64(time.Second))
	return p
}
