package anchor

import "fmt"

// A Stage is a part of the work whose time is told apart.
type Stage int

const (
	StageDense  Stage  = iota // attention to all keys: dense groups and the tail, queries and outputs included
	StageWindow               // the first keys and the local window, queries and outputs included
	StageSearch               // scores of pooled queries, and the choice of stripes
	StageGather               // copying stripes together
	StageSparse               // attention to stripes
	StageAudit                // recall of sampled rows
	NumStages   = iota        // how many there are
)

// String returns the name used in reports: dense, window, search, gather, sparse or audit.
func (s Stage) String() string {
	if s < 0 || s >= NumStages {
		return fmt.Sprintf("Stage(%d)", int(s))
	}
	return [NumStages]string{"dense", "window", "search", "gather", "sparse", "audit"}[s]
}

// A Result says what Attend did.
type Result struct {
	Method string // the planner's name
	ISA    string // the level of the kernels used: generic, avx2, avx512, avx512bf16, amx or neon; or an engine's name of its own

	Seconds float64            // wall-clock time of the call, the audit included
	Stages  [NumStages]float64 // the same time split by Stage: thread-seconds over threads

	Pairs       int64   // (row, key) pairs attended, all heads and sequences
	CausalPairs int64   // pairs that dense attention attends
	SearchPairs int64   // (pooled query, candidate key) pairs scored
	FLOPs       float64 // 4·dim per attended pair and 2·dim per scored pair

	Stripes       int64 // stripes kept, over all heads and groups
	NonFiniteRows int64 // output rows that hold a NaN or an infinity

	Audit  []AuditedRow // when asked for
	Recall Recall       // over all audited rows
	Heads  []HeadResult // by query head

	// StripeSets holds the stripes of each sequence when Options.Stripes is set and the planner keeps stripes.
	StripeSets []StripeSet
}

// A HeadResult is the part of a Result that belongs to one query head, over all sequences.
type HeadResult struct {
	Pairs, CausalPairs, Stripes int64
	NonFiniteRows               int64
	Recall                      Recall // when audited

	// Choice is what was chosen for this head, where the method chooses between patterns or the target of recall made it
	// do more: "theta 16" or "dense", for example.
	Choice string

	// Groups of rows that were planned for this head alone, and how many of them a planner such as [Auto] attended to
	// densely.
	Groups, DenseGroups int64
}

// An AuditedRow is one row whose recall was measured.
type AuditedRow struct {
	Sequence, Head, Position int
	Recall                   float64
}

// Recall is the share of true softmax mass on the keys attended, over audited rows: mean, 5th percentile, minimum.
type Recall struct {
	Mean float64 `json:"mean"`
	P5   float64 `json:"p5"`
	Min  float64 `json:"min"`
}

// A StripeSet is the stripes of one sequence in compressed rows: those of (head h, i-th group) are
// Indices[Offsets[h·groups+i]:Offsets[h·groups+i+1]], ascending. Groups count from the first that holds a query.
type StripeSet struct {
	Groups  int
	Offsets []int64
	Indices []int32
}

// add sums up the heads.
func (r *Result) add(dim int) {
	r.Pairs, r.CausalPairs, r.Stripes, r.NonFiniteRows = 0, 0, 0, 0
	for _, h := range r.Heads {
		r.Pairs += h.Pairs
		r.CausalPairs += h.CausalPairs
		r.Stripes += h.Stripes
		r.NonFiniteRows += h.NonFiniteRows
	}
	r.FLOPs = float64(dim) * (4*float64(r.Pairs) + 2*float64(r.SearchPairs))
}

// DenseShare returns the share of groups, of those planned for a head alone, that went dense; 0 when there were none.
func (r *Result) DenseShare() float64 {
	var groups, dense int64
	for _, h := range r.Heads {
		groups += h.Groups
		dense += h.DenseGroups
	}
	return float64(dense) / float64(max(groups, 1))
}

// Density returns attended pairs over causal pairs.
func (r *Result) Density() float64 { return float64(r.Pairs) / float64(r.CausalPairs) }

// StageSeconds returns the time of every stage that took any, by name.
func (r *Result) StageSeconds() map[string]float64 {
	m := make(map[string]float64)
	for s, t := range r.Stages {
		if t > 0 {
			m[Stage(s).String()] = t
		}
	}
	return m
}

// Merge adds up results of the same method, such as those of a model's layers: times, pairs and audits. Heads are
// added by number; stripe sets are left out.
func Merge(results ...*Result) *Result {
	sum := &Result{}
	for _, r := range results {
		sum.Method, sum.ISA = r.Method, r.ISA
		sum.Seconds += r.Seconds
		for s, t := range r.Stages {
			sum.Stages[s] += t
		}
		sum.Pairs += r.Pairs
		sum.CausalPairs += r.CausalPairs
		sum.SearchPairs += r.SearchPairs
		sum.FLOPs += r.FLOPs
		sum.Stripes += r.Stripes
		sum.NonFiniteRows += r.NonFiniteRows
		sum.Audit = append(sum.Audit, r.Audit...)
		for len(sum.Heads) < len(r.Heads) {
			sum.Heads = append(sum.Heads, HeadResult{})
		}
		for h, head := range r.Heads {
			sum.Heads[h].Pairs += head.Pairs
			sum.Heads[h].CausalPairs += head.CausalPairs
			sum.Heads[h].Stripes += head.Stripes
			sum.Heads[h].NonFiniteRows += head.NonFiniteRows
			sum.Heads[h].Groups += head.Groups
			sum.Heads[h].DenseGroups += head.DenseGroups
			sum.Heads[h].Choice = head.Choice
		}
	}
	sum.summarise()
	return sum
}
