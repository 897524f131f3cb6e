package anchor

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"slices"
	"sync"

	"github.com/anchorattention/anchor/internal/kernel"
)

// Calibrate returns p with a Theta for each query head such that the mean recall over all heads, of opt.AuditRows rows
// of each, is the target, with as few pairs of row and key as that takes: to what an eighth of a nat makes of it, within
// −10 and 30, beyond which stands +Inf, which keeps all.
//
// Heads differ where that pays: each gets more keys as long as it gains more recall by them than another would. Whether it
// pays is asked of rows that the choice was not made by: thetas found from one half of the audited rows must hold more
// mass of the others than one Theta that keeps as many pairs, by 0.0001 of recall and three standard errors. Otherwise all
// heads have the same, so that heads that are alike are not told apart by chance.
//
// It searches each sequence once, with opt but for its planner and target, and leaves outputs of no meaning.
func Calibrate(ctx context.Context, opt Options, p Params, target float64, seqs ...Sequence) (Params, error) {
	switch {
	case !(target > 0 && target <= 1):
		return p, fmt.Errorf("anchor: target of recall is %v; want more than 0, at most 1", target)
	case opt.AuditRows < 1:
		return p, fmt.Errorf("anchor: Options.AuditRows is %d; want ≥ 1", opt.AuditRows)
	case len(seqs) == 0:
		return p, fmt.Errorf("anchor: no sequences; want at least one")
	}
	set, err := kernels()
	if err != nil {
		return p, err
	}
	heads, err := headCurves(ctx, set, opt, p, seqs...)
	if err != nil {
		return p, err
	}
	p.HeadTheta = make(Thetas, len(heads))
	for h, at := range choose(heads, target) {
		p.HeadTheta[h] = thetaAt(at)
	}
	return p, nil
}

// Thetas that are tried are −10, the least, and each an eighth of a nat more than the one before, but for the last one, which
// is +Inf. Keys that MaxDensity does not allow are kept by none.
const (
	leastTheta   = -10
	thetasPerNat = 8
	lastTheta    = 40*thetasPerNat + 1
	numThetas    = lastTheta + 1
)

// thetaAt returns the Theta at a position among those that are tried, which may lie between two.
func thetaAt(at float64) float64 {
	if at > lastTheta-1 {
		return math.Inf(1)
	}
	return leastTheta + at/thetasPerNat
}

// A headCurve is what a head makes of each Theta that is tried.
type headCurve struct {
	pairs  []float64   // attended
	recall [][]float32 // of each audited row, of the same rows for every head
}

// headCurves finds the curves of all heads.
func headCurves(ctx context.Context, set *kernel.Set, opt Options, p Params, seqs ...Sequence) ([]headCurve, error) {
	var heads []headCurve
	rows := opt.AuditRows
	progress := opt.Progress
	opt.AuditRows, opt.TargetRecall, opt.Stripes, opt.Trace = 0, 0, false, nil
	for i, seq := range seqs {
		s := &curvePlanner{anchorAttention: anchorAttention{Params: p, name: "calibration"}}
		s.rows = sampleRows(rows, seq.Q.Rows())
		s.heads = make([]headCurve, seq.Q.Heads())
		for h := range s.heads {
			s.heads[h] = headCurve{make([]float64, numThetas), make([][]float32, len(s.rows))}
		}
		opt.Planner = s
		if progress != nil {
			opt.Progress = func(share float64) { progress((float64(i) + share) / float64(len(seqs))) }
		}
		res, err := attend(ctx, set, opt, []Sequence{seq})
		if err != nil {
			return nil, err
		}
		if bad := max(int(res.NonFiniteRows), s.bad); bad > 0 {
			return nil, fmt.Errorf("anchor: %d rows of sequence %d are not finite, and have no recall; want finite inputs", bad, i)
		}
		if heads == nil {
			heads = make([]headCurve, len(s.heads))
			for h := range heads {
				heads[h].pairs = make([]float64, numThetas)
			}
		}
		for h := range heads {
			for k, n := range s.heads[h].pairs {
				heads[h].pairs[k] += n + float64(res.Heads[h].Pairs)
			}
			heads[h].recall = append(heads[h].recall, s.heads[h].recall...)
		}
	}
	return heads, nil
}

// wholeRow is the recall of a row that sees every key.
var wholeRow = slices.Repeat([]float32{1}, numThetas)

// A curvePlanner attends to windows alone and finds, instead of choosing stripes, which Theta would keep
// which key, and what share of the mass of sampled rows that would hold.
type curvePlanner struct {
	anchorAttention
	rows []int // sampled, ascending

	heads []headCurve
	mu    sync.Mutex // guards bad and the pairs of heads
	bad   int        // sampled rows, of all heads, without a finite softmax
}

func (s *curvePlanner) Plan(g *Group) {
	from, _ := slices.BinarySearch(s.rows, g.From-g.First())
	to, _ := slices.BinarySearch(s.rows, g.To-g.First())
	candidates, any := s.attendWindow(g)
	if !any {
		for h := range g.NumHeads {
			for i := from; i < to; i++ {
				s.heads[g.FirstHead+h].recall[i] = wholeRow
			}
		}
		return
	}
	// Of each candidate, the first Theta that keeps it.
	first := make([][]uint16, g.NumHeads)
	limit := s.limit(g, candidates)
	for h, near := range s.probe(g).nearest(candidates) {
		first[h] = make([]uint16, len(near))
		for j, x := range near {
			at := (-float64(x)*math.Ln2 - leastTheta) * thetasPerNat
			first[h][j] = uint16(min(max(math.Ceil(at), 0), lastTheta))
		}
		if limit < len(near) {
			allowed := heaviest(near, limit, math.Inf(1), &g.worker.ranked)
			for j := range first[h] {
				if len(allowed) > 0 && int(allowed[0]) == j {
					allowed = allowed[1:]
				} else {
					first[h][j] = numThetas
				}
			}
		}
	}
	s.count(g, first)
	const together = 16 // rows of each head whose shares are computed at once
	for from < to {
		n := min(to-from, together)
		s.measure(g, candidates, first, from, n)
		from += n
	}
}

// count adds the pairs that each Theta keeps.
func (s *curvePlanner) count(g *Group, first [][]uint16) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for h, keys := range first {
		var kept [numThetas + 1]int
		for _, k := range keys {
			kept[k]++
		}
		sum := 0
		for k := range numThetas {
			sum += kept[k]
			s.heads[g.FirstHead+h].pairs[k] += float64(sum * (g.To - g.From))
		}
	}
}

// measure finds what each Theta holds of the softmax of n sampled rows, from the given one on.
func (s *curvePlanner) measure(g *Group, candidates Span, first [][]uint16, from, n int) {
	spans := make([]Span, n)
	for i := range spans {
		p := s.rows[from+i] + g.First()
		spans[i] = Span{p, p + 1}
	}
	probe := g.probe(func(int) []Span { return spans }, false)
	// By head, the shares of each row on the keys that each Theta is the first to keep; after those, on what nothing keeps.
	const steps = numThetas + 1
	held := make([]float32, g.NumHeads*steps*n)
	probe.softmax(func(j, keys int, shares []float32) {
		for h := range g.NumHeads {
			held := held[h*steps*n:]
			for i := range keys {
				k := 0 // the window's keys are always kept
				if at := j + i - candidates.From; at >= 0 && at < len(first[h]) {
					k = int(first[h][at])
				}
				g.worker.kernels.Add(held[k*n:][:n], shares[i*probe.width+h*probe.columns:][:n])
			}
		}
	})
	bad := 0
	for h := range g.NumHeads {
		for i := range n {
			recall := make([]float32, numThetas)
			sum := float32(0)
			for k := range recall {
				sum += held[(h*steps+k)*n+i]
				recall[k] = sum
			}
			sum += held[(h*steps+numThetas)*n+i]
			for k := range recall {
				recall[k] /= sum
			}
			if sum-sum != 0 {
				bad++
			}
			s.heads[g.FirstHead+h].recall[from+i] = recall
		}
	}
	s.mu.Lock()
	s.bad += bad
	s.mu.Unlock()
}

// mean returns the mean recall of every step'th audited row from the given one on, by Theta.
func (c *headCurve) mean(from, step int) []float64 {
	sum := make([]float64, numThetas)
	n := 0
	for i := from; i < len(c.recall); i += step {
		for k, x := range c.recall[i] {
			sum[k] += float64(x)
		}
		n++
	}
	for k := range sum {
		sum[k] /= float64(n)
	}
	return sum
}

// choose returns for each head the position of its Theta: see Calibrate.
func choose(heads []headCurve, target float64) []float64 {
	if len(heads) > 1 && pays(heads, target) {
		return allot(heads, 0, 1, target)
	}
	all := make([]float64, numThetas)
	for h := range heads {
		for k, x := range heads[h].mean(0, 1) {
			all[k] += x / float64(len(heads))
		}
	}
	return slices.Repeat([]float64{crossing(all, target)}, len(heads))
}

// pays reports whether thetas of their own gain the heads more than chance would.
func pays(heads []headCurve, target float64) bool {
	rows := len(heads[0].recall)
	if rows < 4 {
		return false
	}
	own := allot(heads, 0, 2, target) // by rows 0, 2, 4, …
	// One for all that keeps as many pairs.
	all, pairs := make([]float64, numThetas), 0.0
	for h := range heads {
		pairs += between(heads[h].pairs, own[h])
		for k, n := range heads[h].pairs {
			all[k] += n
		}
	}
	common := crossing(all, pairs)
	var n, sum, squares float64
	for i := 1; i < rows; i += 2 {
		gain := 0.0
		for h := range heads {
			gain += (between(heads[h].recall[i], own[h]) - between(heads[h].recall[i], common)) / float64(len(heads))
		}
		n, sum, squares = n+1, sum+gain, squares+gain*gain
	}
	const least, errors = 1e-4, 3
	variance := max(squares-sum*sum/n, 0) / (n - 1)
	return sum/n > least+errors*math.Sqrt(variance/n)
}

// allot returns the positions of thetas, one for each head, at which the heads' mean recall of every step'th audited row from the
// given one on is the target, with the fewest pairs. Each head goes up the concave hull of its recall over its pairs; the
// steepest piece of all is always the next.
func allot(heads []headCurve, from, step int, target float64) []float64 {
	type piece struct {
		head, from, to int
		slope          float64
	}
	var pieces []piece
	means := make([][]float64, len(heads))
	missing := target * float64(len(heads))
	for h := range heads {
		recall, pairs := heads[h].mean(from, step), heads[h].pairs
		means[h] = recall
		missing -= recall[0]
		var hull []piece
		for to := 1; to < numThetas; to++ {
			if pairs[to] == pairs[to-1] {
				continue
			}
			last := piece{head: h, to: to}
			for {
				last.from = 0
				if n := len(hull); n > 0 {
					last.from = hull[n-1].to
				}
				last.slope = (recall[to] - recall[last.from]) / (pairs[to] - pairs[last.from])
				if n := len(hull); n == 0 || hull[n-1].slope > last.slope {
					break
				}
				hull = hull[:len(hull)-1]
			}
			hull = append(hull, last)
		}
		pieces = append(pieces, hull...)
	}
	slices.SortStableFunc(pieces, func(a, b piece) int { return cmp.Compare(b.slope, a.slope) })
	at := make([]float64, len(heads))
	for _, p := range pieces {
		recall := means[p.head]
		if gain := recall[p.to] - recall[p.from]; gain < missing {
			missing -= gain
			at[p.head] = float64(p.to)
			continue
		}
		at[p.head] = float64(p.from) + crossing(recall[p.from:p.to+1], recall[p.from]+missing)
		return at
	}
	return slices.Repeat([]float64{lastTheta}, len(heads)) // it takes all
}

// crossing returns where an ascending curve reaches a value, its end if it does not.
func crossing(curve []float64, value float64) float64 {
	i := slices.IndexFunc(curve, func(x float64) bool { return x >= value })
	switch {
	case i < 0:
		return float64(len(curve) - 1)
	case i == 0:
		return 0
	}
	return float64(i) - (curve[i]-value)/(curve[i]-curve[i-1])
}

// between returns what a curve has at a position.
func between[T float32 | float64](curve []T, at float64) float64 {
	i := int(at)
	if i >= len(curve)-1 {
		return float64(curve[len(curve)-1])
	}
	share := at - float64(i)
	return (1-share)*float64(curve[i]) + share*float64(curve[i+1])
}
