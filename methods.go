package anchor

import (
	"context"
	"fmt"
	"math"
	"slices"
)

// A Method is a planner by name, with the one number, its knob, that says how much it keeps.
type Method struct {
	Name   string
	Knob   string  // what is turned, such as "theta"; empty if there is nothing to turn
	Value  float64 // as published, or as we would set it
	Source string  // where the method is described

	always      func(p Params) string
	least, most float64
	scale       scale
	planner     func(p Params, value float64) Planner
	more        func(ctx context.Context, opt *Options, p Params, value float64, seqs []Sequence) error
}

// A scale says between which values of a knob steps are alike.
type scale int

const (
	linear scale = iota
	byFactors
	byNines // of what is missing to one: 0.9, 0.99, 0.999
)

// Planner returns the method's planner with its knob at value. Of p it takes what it has in common with AnchorAttention:
// the tail, and for a method of that family everything but what the knob turns.
func (m Method) Planner(p Params, value float64) Planner { return m.planner(p, value) }

// Always says which keys the method attends to whatever it finds, beside the tail.
func (m Method) Always(p Params) string { return m.always(p) }

// Check reports a value that the knob cannot have.
func (m Method) Check(value float64) error {
	switch {
	case m.Knob == "":
		return fmt.Errorf("%s has no knob; want none", m.Name)
	case m.scale == byFactors && !(value >= 0 && value <= maxPosition && value == math.Trunc(value)):
		return fmt.Errorf("%s of %s is %v; want a whole number 0 … %d", m.Knob, m.Name, value, maxPosition)
	case m.scale == byNines && !(value >= 0 && value <= 1):
		return fmt.Errorf("%s of %s is %v; want 0 … 1", m.Knob, m.Name, value)
	case math.IsNaN(value):
		return fmt.Errorf("%s of %s is NaN; want a number or ±Inf", m.Knob, m.Name)
	}
	return nil
}

// Plain reports whether the planner is all there is to the method.
func (m Method) Plain() bool { return m.more == nil }

// Set sets what of opt makes the method, with its knob at value: the planner and, for some, the target of recall. A method
// that is calibrated on the sequences runs attention on them first.
func (m Method) Set(ctx context.Context, opt *Options, p Params, value float64, seqs ...Sequence) error {
	opt.Planner = m.planner(p, value)
	if m.more != nil {
		return m.more(ctx, opt, p, value, seqs)
	}
	return nil
}

// Turn returns the knob's value at a position from 0, where next to nothing is kept, to 1, where next to nothing is left out,
// for sequences of so many keys. Density grows with it.
func (m Method) Turn(position float64, keys int) float64 {
	most := m.most
	if most == 0 {
		most = float64(keys)
	}
	switch m.scale {
	case byFactors:
		return math.Round(m.least * math.Pow(most/m.least, position))
	case byNines:
		return 1 - math.Pow(1e-5, position)
	default:
		return m.least + (most-m.least)*position
	}
}

// Position is where Turn gives value, in [0, 1].
func (m Method) Position(value float64, keys int) float64 {
	most := m.most
	if most == 0 {
		most = float64(keys)
	}
	x := (value - m.least) / (most - m.least)
	switch m.scale {
	case byFactors:
		x = math.Log(value/m.least) / math.Log(most/m.least)
	case byNines:
		x = math.Log(1-value) / math.Log(1e-5)
	}
	return min(max(x, 0), 1)
}

const anchorPaper = "arXiv 2505.23520"

func anchorWindow(p Params) string {
	return fmt.Sprintf("first %d, group of %d and %d before", p.Init, p.group(), p.Local)
}

func tileWindow(rows int) func(p Params) string {
	return func(p Params) string { return fmt.Sprintf("first %d, tile of %d and %d before", p.Init, rows, p.Local) }
}

func fixed(text string) func(Params) string { return func(Params) string { return text } }

// refinedMethod returns a method that is AnchorAttention with something added.
func refinedMethod(name, source string, add func(p *Params)) Method {
	return Method{
		Name: name, Knob: "theta", Value: 12, least: -10, most: 30, always: anchorWindow, Source: "Anchor: " + source,
		planner: func(p Params, theta float64) Planner {
			p.Theta, p.HeadTheta = theta, nil
			add(&p)
			return anchorAttention{Params: p, name: name}
		},
	}
}

func xMethod(name string, stride int) Method {
	return Method{
		Name: name, Knob: "threshold", Value: 0.9, scale: byNines, always: fixed("first block and own of 128"),
		Source: fmt.Sprintf("arXiv 2503.16428, stride %d", stride),
		planner: func(p Params, threshold float64) Planner {
			return XAttention(XAttentionParams{Stride: stride, Threshold: threshold, Tail: p.Tail})
		},
	}
}

func vecMethod(name string, rows int) Method {
	return Method{
		Name: name, Knob: "gap", Value: 7, least: -1, most: 30, always: tileWindow(rows),
		Source: fmt.Sprintf("arXiv 2603.29494, tiles of %d", rows),
		planner: func(p Params, gap float64) Planner {
			return VecAttention(VecAttentionParams{Rows: rows, Gap: gap, Init: p.Init, Local: p.Local, Tail: p.Tail})
		},
	}
}

// PatternTable returns MInference with a pattern for each head, such as ReadPatterns gives, as a method with nothing to turn.
func PatternTable(heads []Pattern) Method {
	return Method{
		Name: "minference-table", always: fixed("as each head's pattern says"), Source: "arXiv 2407.02490",
		planner: func(p Params, _ float64) Planner {
			m := DefaultMInferenceParams()
			m.Heads, m.Tail = heads, p.Tail
			return MInference(m)
		},
	}
}

// catalog is all there are. Knobs without a most go up to the number of keys.
var catalog = []Method{
	{Name: "dense", always: fixed("all"), planner: func(Params, float64) Planner { return Dense() }},
	{Name: "anchor", Knob: "theta", Value: 12, least: -10, most: 30, always: anchorWindow, Source: anchorPaper,
		planner: func(p Params, theta float64) Planner { p.Theta, p.HeadTheta = theta, nil; return AnchorAttention(p) }},
	{Name: "auto", Knob: "theta", Value: 12, least: -10, most: 30, always: anchorWindow, Source: "Anchor",
		planner: func(p Params, theta float64) Planner { p.Theta, p.HeadTheta = theta, nil; return Auto(p) }},
	refinedMethod("anchor-pool", "means of a quarter of the rows, where some stand out", func(p *Params) {
		if p.Block%4 == 0 {
			p.Pool = p.Block / 4
		}
	}),
	refinedMethod("anchor-spikes", "up to 4 rows that stand out of a block", func(p *Params) { p.Spikes = min(4, p.Block) }),
	{Name: "anchor-guard", Knob: "target", Value: 0.95, scale: byNines, always: anchorWindow, Source: "Anchor: heads below the target again, by 32 audited rows",
		planner: func(p Params, _ float64) Planner { return anchorAttention{Params: p, name: "anchor-guard"} },
		more: func(_ context.Context, opt *Options, _ Params, target float64, _ []Sequence) error {
			opt.TargetRecall, opt.AuditRows = target, max(opt.AuditRows, 32)
			return nil
		}},
	{Name: "anchor-heads", Knob: "target", Value: 0.95, scale: byNines, always: anchorWindow, Source: "Anchor: theta calibrated by head for a mean recall, on the same inputs and not timed",
		planner: func(p Params, _ float64) Planner { return anchorAttention{Params: p, name: "anchor-heads"} },
		more: func(ctx context.Context, opt *Options, p Params, target float64, seqs []Sequence) error {
			run := *opt
			run.AuditRows = max(run.AuditRows, 1024)
			p, err := Calibrate(ctx, run, p, max(target, 1e-3), seqs...)
			opt.Planner = anchorAttention{Params: p, name: "anchor-heads"}
			return err
		}},
	{Name: "anchor-score", Knob: "theta", Value: 0, least: -40, most: 40, always: anchorWindow, Source: anchorPaper + ", without anchor",
		planner: func(p Params, theta float64) Planner {
			p.Theta, p.HeadTheta = theta, nil
			return Ablation(AblationParams{Params: p, Choice: ByScore})
		}},
	{Name: "anchor-block", Knob: "theta", Value: 12, least: -10, most: 40, always: anchorWindow, Source: anchorPaper + ", blocks for stripes",
		planner: func(p Params, theta float64) Planner {
			p.Theta, p.HeadTheta = theta, nil
			return Ablation(AblationParams{Params: p, Choice: ByBlock})
		}},
	{Name: "anchor-topk", Knob: "keys", Value: 1024, least: 1, scale: byFactors, always: anchorWindow, Source: anchorPaper + ", top-k for difference",
		planner: func(p Params, keys float64) Planner {
			return Ablation(AblationParams{Params: p, Choice: ByCount, Keys: int(keys)})
		}},
	{Name: "anchor-mass", Knob: "mass", Value: 0.95, scale: byNines, always: anchorWindow, Source: anchorPaper + ", cumulative mass for difference",
		planner: func(p Params, mass float64) Planner {
			return Ablation(AblationParams{Params: p, Choice: ByMass, Mass: mass})
		}},
	{Name: "streaming", Knob: "window", Value: 8192, least: 8, scale: byFactors, always: fixed("first window/8, last window"), Source: "arXiv 2309.17453",
		planner: func(p Params, window float64) Planner {
			return StreamingLLM(StreamingParams{Sink: int(window / 8), Window: int(window), Tail: p.Tail})
		}},
	{Name: "minference", Knob: "slash", Value: 8192, least: 8, scale: byFactors, always: fixed("first 30, last 100"), Source: "arXiv 2407.02490, slash/8 columns",
		planner: func(p Params, slash float64) Planner {
			return MInference(MInferenceParams{Pattern: Pattern{Kind: VerticalSlash, Vertical: int(slash / 8), Slash: int(slash)}, Tail: p.Tail})
		}},
	{Name: "block-topk", Knob: "blocks", Value: minferenceBlocks, least: 1, scale: byFactors, always: fixed("own block of 64"), Source: "arXiv 2407.02490, block-sparse",
		planner: func(p Params, blocks float64) Planner {
			return MInference(MInferenceParams{Pattern: Pattern{Kind: BlockSparse, Blocks: int(blocks)}, Tail: p.Tail})
		}},
	{Name: "flexprefill", Knob: "gamma", Value: 0.95, scale: byNines, always: fixed("first block and own of 128"), Source: "arXiv 2502.20766",
		planner: func(p Params, gamma float64) Planner {
			f := DefaultFlexPrefillParams()
			f.Gamma, f.Tail = gamma, p.Tail
			return FlexPrefill(f)
		}},
	xMethod("xattention", 8),
	xMethod("xattention-16", 16),
	vecMethod("vecattention", 128),
	vecMethod("vecattention-64", 64),
	{Name: "oracle", Knob: "mass", Value: 0.95, scale: byNines, always: func(p Params) string { return fmt.Sprintf("own group of %d", p.group()) }, Source: "the bound where a group keeps its own keys",
		planner: func(p Params, mass float64) Planner {
			return Oracle(OracleParams{Rows: p.group(), Mass: mass, Tail: p.Tail})
		}},
}

// LookupMethod returns the method of a name.
func LookupMethod(name string) (Method, bool) {
	i := slices.IndexFunc(catalog, func(m Method) bool { return m.Name == name })
	if i < 0 {
		return Method{}, false
	}
	return catalog[i], true
}

// Methods returns all methods, dense attention first.
func Methods() []Method { return slices.Clone(catalog) }
