package anchor

import (
	"cmp"
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

// audit measures the exact recall of sampled rows: the softmax mass on the keys a row attended to is
// e^(their log-sum-exp − that of all keys). Rows whose true log-sum-exp is not finite have no mass to speak of and
// are left out.
func (r *run) audit(res *Result) {
	const together = 16 // samples of each head whose scores are computed at once
	type piece struct {
		seq, kvHead int
		rows        []int
	}
	var pieces []piece
	for i, s := range r.shapes {
		samples := sampleRows(r.opt.AuditRows, s.Queries)
		for rows := range slices.Chunk(samples, together) {
			for h := range s.KVHeads {
				pieces = append(pieces, piece{i, h, rows})
			}
		}
	}
	slices.Reverse(pieces) // the longest first
	found := make([][]AuditedRow, len(pieces))
	r.each(len(pieces), StageAudit, func(w *worker, n int) {
		p := pieces[n]
		s := r.shapes[p.seq]
		last := p.rows[len(p.rows)-1] + s.First()
		heads := s.Heads / s.KVHeads
		g := r.group(unit{seq: p.seq, rows: Rows{From: p.rows[0] + s.First(), To: last + 1}, firstHead: p.kvHead * heads, heads: heads})
		w.load(g, len(p.rows), func(i int) int { return p.rows[i] + s.First() })
		w.attendRange(g, 0, last+1, Band{0, maxPosition}, false, 0, len(w.pos))
		for h := range g.NumHeads {
			for i, row := range p.rows {
				head := g.FirstHead + h
				all := float64(w.lse(h*g.stride + i))
				seen, _, _ := g.seq.LSE.run(head, row)
				if math.IsNaN(all) || math.IsInf(all, 0) {
					continue
				}
				recall := min(math.Exp(float64(seen[0])-all), 1)
				found[n] = append(found[n], AuditedRow{Sequence: p.seq, Head: head, Position: s.First() + row, Recall: recall})
			}
		}
		r.advance(r.auditCost / float64(len(pieces)))
	})
	res.Audit = slices.Concat(found...)
	slices.SortFunc(res.Audit, func(a, b AuditedRow) int {
		return cmp.Or(cmp.Compare(a.Sequence, b.Sequence), cmp.Compare(a.Head, b.Head), cmp.Compare(a.Position, b.Position))
	})
	res.summarise()
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
