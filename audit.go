package anchor

import (
	"cmp"
	"fmt"
	"math"
	"slices"
)

// sampleRows picks n of the rows [0, of), ascending: one from each of n equal strata, by a fixed pseudo-random
// choice that is the same for all heads, so that heads which share keys are scored together.
func sampleRows(n, of int) []int {
	n = min(n, of)
	rows := make([]int, n)
	for i := range rows {
		from, to := i*of/n, (i+1)*of/n
		x := uint64(i+1) * 0x9e3779b97f4a7c15 // the splitmix64 generator
		x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
		x = (x ^ x>>27) * 0x94d049bb133111eb
		rows[i] = from + int((x^x>>31)%uint64(to-from))
	}
	return rows
}

// A truth is the log-sum-exp of a sampled row over all keys.
type truth struct {
	seq, head, row int
	lse            float64
}

// audit measures the exact recall of sampled rows: the softmax mass on the keys a row attended to is
// e^(their log-sum-exp − that of all keys). Rows whose true log-sum-exp is not finite have no mass to speak of and
// are left out.
func (r *run) audit(res *Result) {
	const together = 16 // samples of each head whose scores are computed at once
	var pieces []sampled
	for i, s := range r.shapes {
		samples := sampleRows(r.opt.AuditRows, s.Queries)
		for rows := range slices.Chunk(samples, together) {
			for h := range s.KVHeads {
				pieces = append(pieces, sampled{i, h, rows})
			}
		}
	}
	slices.Reverse(pieces) // the longest first
	found := make([][]truth, len(pieces))
	r.each(len(pieces), StageAudit, func(w *worker, n int) {
		p := pieces[n]
		g := r.sample(w, p)
		w.attendRange(g, 0, g.To, everywhere, false, 0, len(w.pos))
		for h := range g.NumHeads {
			for i, row := range p.rows {
				all := float64(w.lse(h*g.stride + i))
				if !math.IsNaN(all) && !math.IsInf(all, 0) {
					found[n] = append(found[n], truth{p.seq, g.FirstHead + h, row, all})
				}
			}
		}
		r.advance(r.auditCost / float64(len(pieces)))
	})
	r.truth = slices.Concat(found...)
	slices.SortFunc(r.truth, func(a, b truth) int {
		return cmp.Or(cmp.Compare(a.seq, b.seq), cmp.Compare(a.head, b.head), cmp.Compare(a.row, b.row))
	})
	r.compare(res)
}

// A sampled piece of work is some rows of the heads that share a KV head.
type sampled struct {
	seq, kvHead int
	rows        []int
}

// sample loads the rows into the worker as a group.
func (r *run) sample(w *worker, p sampled) *Group {
	s := r.shapes[p.seq]
	heads, last := s.Heads/s.KVHeads, p.rows[len(p.rows)-1]+s.First()
	g := r.group(unit{seq: p.seq, rows: Rows{From: p.rows[0] + s.First(), To: last + 1}, firstHead: p.kvHead * heads, heads: heads})
	w.load(g, len(p.rows), func(i int) int { return p.rows[i] + s.First() })
	return g
}

// compare computes recalls from what the sampled rows attended to.
func (r *run) compare(res *Result) {
	res.Audit = res.Audit[:0]
	for _, t := range r.truth {
		seen, _, _ := r.seqs[t.seq].LSE.run(t.head, t.row)
		res.Audit = append(res.Audit, AuditedRow{
			Sequence: t.seq, Head: t.head, Position: r.shapes[t.seq].First() + t.row,
			Recall: min(math.Exp(float64(seen[0])-t.lse), 1),
		})
	}
	res.summarise()
}

// guard does heads again whose audited recall is below the target: at Theta larger by 3, 9 and 21 nats, and at last densely.
func (r *run) guard(res *Result) error {
	method := r.opt.Planner
	defer func(p Planner) { r.opt.Planner = p }(method)
	const rounds = 4
	r.searched = 0 // by surveys, which have been counted
	work, auditCost := r.work, r.auditCost
	for round := 1; round <= rounds; round++ {
		below := make([]bool, len(res.Heads))
		for _, a := range res.Audit { // heads without a row that could be audited are left as they are
			below[a.Head] = res.Heads[a.Head].Recall.Mean < r.opt.TargetRecall
		}
		if !slices.Contains(below, true) || r.stop.Load() {
			return nil
		}
		choice := func(head int) string { return "dense" }
		if a, ok := method.(*anchorAttention); ok && round < rounds {
			a = a.wider(below, float64(3*(int(1)<<(round-1))))
			choice = func(head int) string { return fmt.Sprintf("theta %g", a.theta(head)) }
			method = a
		} else {
			method, round = Dense(), rounds
		}
		r.opt.Planner, r.only = method, below
		r.past, r.units = append(r.past, r.units...), nil
		if err := r.cut(); err != nil {
			return err
		}
		r.work, r.auditCost = work, auditCost
		for _, u := range r.past {
			for h := range u.stripes {
				if below[u.firstHead+h] {
					u.stripes[h] = nil
				}
			}
		}
		again := r.attend()
		for h, done := range below {
			if !done {
				continue
			}
			res.Heads[h] = again.Heads[h]
			res.Heads[h].Choice = choice(h)
		}
		res.SearchPairs += again.SearchPairs
		res.add(r.shapes[0].Dim)
		r.compare(res)
	}
	return nil
}

// wider returns the planner with Theta larger by so many nats for some heads.
func (a *anchorAttention) wider(heads []bool, by float64) *anchorAttention {
	thetas := make(Thetas, len(heads))
	for h, wanted := range heads {
		if thetas[h] = a.theta(h); !wanted {
			continue
		}
		if thetas[h] += by; math.IsInf(thetas[h], -1) {
			thetas[h] = 0
		}
	}
	wide := *a
	wide.HeadTheta = thetas
	return &wide
}

// summarise computes recalls from the audited rows.
func (r *Result) summarise() {
	all := make([]float64, len(r.Audit))
	byHead := make([][]float64, len(r.Heads))
	for i, a := range r.Audit {
		all[i] = a.Recall
		byHead[a.Head] = append(byHead[a.Head], a.Recall)
	}
	r.Recall = recallOf(all)
	for h := range r.Heads {
		r.Heads[h].Recall = recallOf(byHead[h])
	}
}

// recallOf sorts the recalls of some rows and sums them up; of none it is zero.
func recallOf(rows []float64) Recall {
	if len(rows) == 0 {
		return Recall{}
	}
	slices.Sort(rows)
	var sum float64
	for _, x := range rows {
		sum += x
	}
	return Recall{Mean: sum / float64(len(rows)), P5: rows[(len(rows)-1)*5/100], Min: rows[0]}
}
