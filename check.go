package anchor

import (
	"cmp"
	"fmt"
	"math"
	"slices"

	"github.com/anchorattention/anchor/internal/kernel"
)

// check validates options and sequences and returns the sequences' shapes.
func check(opt Options, seqs []Sequence) ([]Shape, error) {
	if opt.Planner == nil {
		return nil, fmt.Errorf("anchor: Options.Planner is nil; want Dense() or AnchorAttention(params), for example")
	}
	if err := opt.Planner.Validate(); err != nil {
		return nil, fmt.Errorf("anchor: %w", err)
	}
	if opt.Scale != nil && (math.IsNaN(float64(*opt.Scale)) || math.IsInf(float64(*opt.Scale), 0)) {
		return nil, fmt.Errorf("anchor: Options.Scale is %v; want a finite number", *opt.Scale)
	}
	if opt.Threads < 0 {
		return nil, fmt.Errorf("anchor: Options.Threads is %d; want ≥ 0", opt.Threads)
	}
	if opt.AuditRows < 0 {
		return nil, fmt.Errorf("anchor: Options.AuditRows is %d; want ≥ 0", opt.AuditRows)
	}
	if t := opt.TargetRecall; !(t >= 0 && t <= 1) {
		return nil, fmt.Errorf("anchor: Options.TargetRecall is %v; want 0 (none) … 1", t)
	}
	if opt.TargetRecall > 0 && opt.AuditRows == 0 {
		return nil, fmt.Errorf("anchor: Options.TargetRecall is %v and AuditRows 0; want rows whose recall tells", opt.TargetRecall)
	}
	if opt.Costs != nil {
		if err := opt.Costs.Validate(); err != nil {
			return nil, fmt.Errorf("anchor: Options.%w", err)
		}
	}
	if len(seqs) == 0 {
		return nil, fmt.Errorf("anchor: no sequences; want at least one")
	}
	shapes := make([]Shape, len(seqs))
	for i := range seqs {
		var err error
		if shapes[i], err = seqs[i].shape(); err != nil {
			return nil, fmt.Errorf("anchor: sequence %d: %w", i, err)
		}
		a, b := shapes[0], shapes[i]
		if a.Heads != b.Heads || a.KVHeads != b.KVHeads || a.Dim != b.Dim {
			return nil, fmt.Errorf("anchor: sequence %d has %d heads, %d KV heads and dim %d; sequence 0 has %d, %d and %d; want the same",
				i, b.Heads, b.KVHeads, b.Dim, a.Heads, a.KVHeads, a.Dim)
		}
	}
	if p, ok := opt.Planner.(fitted); ok {
		if err := p.validateFor(shapes[0]); err != nil {
			return nil, fmt.Errorf("anchor: %w", err)
		}
	}
	return shapes, checkOverlap(seqs)
}

// shape validates one sequence.
func (s *Sequence) shape() (Shape, error) {
	for _, t := range []struct {
		name   string
		tensor *Tensor
	}{{"Q", &s.Q}, {"K", &s.K}, {"V", &s.V}, {"O", &s.O}, {"LSE", &s.LSE}} {
		if t.name == "LSE" && t.tensor.dtype == 0 {
			continue
		}
		if err := t.tensor.check(); err != nil {
			return Shape{}, fmt.Errorf("%s %w", t.name, err)
		}
	}
	q, k := &s.Q, &s.K
	sh := Shape{Heads: q.heads, KVHeads: k.heads, Dim: q.dim, Queries: q.rows, Keys: k.rows, Prompt: s.Prompt}
	if sh.Prompt == 0 {
		sh.Prompt = sh.Keys
	}
	switch {
	case q.dtype == Int8:
		return sh, fmt.Errorf("Q has element type %v; want F32, BF16 or F16", q.dtype)
	case q.dim > 256:
		return sh, fmt.Errorf("Q has dim %d; want 1 … 256", q.dim)
	case k.dim != q.dim:
		return sh, fmt.Errorf("K has dim %d; Q has %d; want the same", k.dim, q.dim)
	case s.V.heads != k.heads || s.V.rows != k.rows || s.V.dim != k.dim:
		return sh, fmt.Errorf("V has shape %s; want %s, as K", s.V.shape(), k.shape())
	case q.heads%k.heads != 0:
		return sh, fmt.Errorf("Q has %d heads and K %d; want a multiple", q.heads, k.heads)
	case q.rows > k.rows:
		return sh, fmt.Errorf("Q has %d rows and K %d; want no more queries than keys", q.rows, k.rows)
	case k.rows > maxPosition:
		return sh, fmt.Errorf("K has %d rows; want at most %d", k.rows, maxPosition)
	case s.O.dtype != Float32 || len(s.O.f32) != 1:
		return sh, fmt.Errorf("O has element type %v in %d pages; want F32 in one", s.O.dtype, s.O.pages())
	case s.O.heads != q.heads || s.O.rows != q.rows || s.O.dim != q.dim:
		return sh, fmt.Errorf("O has shape %s; want %s, as Q", s.O.shape(), q.shape())
	case s.Prompt < 0 || s.Prompt > maxPosition:
		return sh, fmt.Errorf("Prompt is %d; want 0 (the call ends the prompt) … %d", s.Prompt, maxPosition)
	}
	if l := &s.LSE; l.dtype != 0 {
		switch {
		case l.dtype != Float32 || len(l.f32) != 1:
			return sh, fmt.Errorf("LSE has element type %v in %d pages; want F32 in one", l.dtype, l.pages())
		case l.heads != q.heads || l.rows != q.rows || l.dim != 1:
			return sh, fmt.Errorf("LSE has shape %s; want [%d, %d, 1]", l.shape(), q.heads, q.rows)
		}
	}
	return sh, nil
}

// checkOverlap reports an output that shares memory with any other tensor, or with itself. Rows are looked at one by
// one only where whole ranges meet, as in an interleaved batch.
func checkOverlap(seqs []Sequence) error {
	type named struct {
		extent // the range of one page
		t      *Tensor
		seq    int
		name   string
		output bool
	}
	var all []named
	for i := range seqs {
		s := &seqs[i]
		for _, n := range []named{
			{t: &s.O, name: "O", output: true}, {t: &s.LSE, name: "LSE", output: true}, {t: &s.Q, name: "Q"}, {t: &s.K, name: "K"}, {t: &s.V, name: "V"},
		} {
			if n.t.dtype == 0 {
				continue
			}
			if n.output && !n.t.apart() && overlap(n.t.extents()) {
				return fmt.Errorf("anchor: sequence %d: rows of %s overlap one another", i, n.name)
			}
			n.seq = i
			for _, n.extent = range n.t.bounds() {
				all = append(all, n)
			}
		}
	}
	slices.SortStableFunc(all, func(a, b named) int { return cmp.Compare(a.from, b.from) })
	for i, a := range all {
		for _, b := range all[i+1:] {
			if b.from >= a.to {
				break
			}
			if a.t == b.t || !a.output && !b.output || !touch(a.t.extents(), b.t.extents()) {
				continue
			}
			out, other := a, b
			if !out.output {
				out, other = b, a
			}
			return fmt.Errorf("anchor: sequence %d: %s overlaps %s of sequence %d", out.seq, out.name, other.name, other.seq)
		}
	}
	return nil
}

// apart reports whether the strides alone show that no two rows overlap.
func (t *Tensor) apart() bool {
	rowsInHead := t.rowStep >= t.dim && t.headStep >= (t.rows-1)*t.rowStep+t.dim
	headsInRow := t.headStep >= t.dim && t.rowStep >= (t.heads-1)*t.headStep+t.dim
	return rowsInHead || headsInRow
}

// bounds returns for each page the memory from its first element in the view to its last.
func (t *Tensor) bounds() []extent {
	var all []extent
	for row := 0; row < t.rows; row += t.pageRows {
		rows := min(t.pageRows, t.rows-row)
		view := *t
		elements, _ := span(t.heads, t.headStep, rows, t.rowStep, t.dim)
		view.heads, view.rows, view.dim, view.rowStep, view.pageRows, view.scales = 1, 1, elements, elements, 1, nil
		page := row / t.pageRows
		switch t.dtype {
		case Float32:
			view.f32 = t.f32[page : page+1]
		case Int8:
			view.i8 = t.i8[page : page+1]
		default:
			view.u16 = t.u16[page : page+1]
		}
		all = append(all, view.extents()...)
		all = append(all, t.scaleExtents(row, row+rows)...)
	}
	return all
}

// overlap sorts extents and reports whether any two share a byte.
func overlap(all []extent) bool {
	slices.SortFunc(all, func(a, b extent) int { return cmp.Compare(a.from, b.from) })
	for i := 1; i < len(all); i++ {
		if all[i].from < all[i-1].to {
			return true
		}
		all[i].to = max(all[i].to, all[i-1].to)
	}
	return false
}

// touch reports whether any of a shares a byte with any of b.
func touch(a, b []extent) bool {
	// Each side's own overlaps, which inputs may have, are joined first.
	return overlap(append(join(a), join(b)...))
}

// join merges extents that overlap.
func join(all []extent) []extent {
	overlap(all) // sorts, and lets each end where the furthest before it ends
	var out []extent
	for _, e := range all {
		if n := len(out); n > 0 && e.from < out[n-1].to {
			out[n-1].to = max(out[n-1].to, e.to)
			continue
		}
		out = append(out, e)
	}
	return out
}

// kernels returns the kernel set to use.
func kernels() (*kernel.Set, error) {
	set, err := kernel.Default()
	if err != nil {
		return nil, fmt.Errorf("anchor: %w", err)
	}
	return set, nil
}
