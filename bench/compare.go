package bench

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/parallel"
	"github.com/anchorattention/anchor/internal/workload"
	"github.com/anchorattention/anchor/report"
)

// A CompareConfig says what to compare.
type CompareConfig struct {
	Inputs  []CompareInput
	Methods []anchor.Method
	Params  anchor.Params // what the methods have in common: see anchor.Method
	Threads int           // goroutines to compute on; 0 means GOMAXPROCS
	Costs   *anchor.Costs // see anchor.Options

	Points int     // settings of each method's knob, ≥ 1, beside its default
	Recall float64 // mean recall that each method is turned to reach; 0 means none
	Runs   int     // rounds in which dense attention and all settings that reach a goal are timed, ≥ 1
	Rows   int     // rows of each head from which the row oracle's density is estimated, ≥ 1
	Maps   int     // heads of each input, of different kinds if it has such, whose mass and kept keys are mapped

	// Point, when set, is called with each point as soon as it is there. Its error ends Compare.
	Point func(in *report.Input, p *report.Point) error
	// Progress, when set, is called now and then with the share of the work that is done, ascending in [0, 1], by
	// one goroutine at a time.
	Progress func(share float64)
}

// A CompareInput is queries, keys and values to compare methods on.
type CompareInput struct {
	Name    string
	Seed    uint64
	Tokens  int     // for progress
	Density float64 // that each method is turned to stay within; 0 means none
	// Load makes the sequence, whose outputs are overwritten, and tells the kinds of its heads, if they have such.
	Load func() (seq anchor.Sequence, kind func(head int) string, err error)
}

// WorkloadInput returns synthetic heads as an input.
func WorkloadInput(name string, seed uint64, heads, kvHeads, tokens, dim int, dtype anchor.DType, density float64) (CompareInput, error) {
	w, err := workload.Lookup(name)
	if err != nil {
		return CompareInput{}, fmt.Errorf("bench: %w", err)
	}
	s := workload.Size{Heads: heads, KVHeads: kvHeads, Length: tokens, Dim: dim}
	if err := s.Validate(); err != nil {
		return CompareInput{}, fmt.Errorf("bench: %w", err)
	}
	return CompareInput{
		Name: name, Seed: seed, Tokens: tokens, Density: density,
		Load: func() (anchor.Sequence, func(int) string, error) {
			data, err := w.Generate(s, seed, 0)
			if err != nil {
				return anchor.Sequence{}, nil, fmt.Errorf("bench: %w", err)
			}
			return sequence(dtype, data, s, tokens, make([]float32, heads*tokens*dim)), w.Kind, nil
		},
	}, nil
}

// Validate reports what in the configuration is missing or out of range.
func (c *CompareConfig) Validate() error {
	switch {
	case len(c.Inputs) == 0:
		return errors.New("bench: no inputs; want at least one")
	case len(c.Methods) == 0:
		return errors.New("bench: no methods; want at least one")
	case c.Threads < 0:
		return fmt.Errorf("bench: threads are %d; want ≥ 0", c.Threads)
	case c.Points < 1:
		return fmt.Errorf("bench: points are %d; want ≥ 1", c.Points)
	case c.Runs < 1:
		return fmt.Errorf("bench: runs are %d; want ≥ 1", c.Runs)
	case c.Rows < 1:
		return fmt.Errorf("bench: rows are %d; want ≥ 1", c.Rows)
	case c.Maps < 0:
		return fmt.Errorf("bench: maps are %d; want ≥ 0", c.Maps)
	case !(c.Recall >= 0 && c.Recall <= 1):
		return fmt.Errorf("bench: recall to reach is %v; want 0 (none) … 1", c.Recall)
	}
	for _, in := range c.Inputs {
		if !(in.Density >= 0 && in.Density <= 1) {
			return fmt.Errorf("bench: density to stay within is %v; want 0 (none) … 1", in.Density)
		}
	}
	return c.Params.Validate()
}

// Compare runs every method on every input, at several settings of its knob and at those that reach the goals. Recall and
// errors are those of all rows against dense attention of the same inputs. The settings that reach a goal are then timed in
// rounds, in an order by chance, with dense attention among them: medians count, of times and of ratios within rounds. When ctx
// ends, what has been found is returned with its error.
func Compare(ctx context.Context, c CompareConfig) (*report.Comparison, error) {
	if err := c.Validate(); err != nil {
		return nil, err
	}
	out := &report.Comparison{Threads: parallel.Threads(c.Threads)}
	p := progress{report: c.Progress}
	for _, in := range c.Inputs {
		p.all += float64(in.Tokens) * float64(in.Tokens) * c.steps()
	}
	for _, in := range c.Inputs {
		seq, kind, err := in.Load()
		if err != nil {
			return out, err
		}
		out.Inputs = append(out.Inputs, report.Input{
			Name: in.Name, Seed: in.Seed, DType: seq.Q.DType().String(), Tokens: seq.K.Rows(), Queries: seq.Q.Rows(),
			Heads: seq.Q.Heads(), KVHeads: seq.K.Heads(), Dim: seq.Q.Dim(),
		})
		x := comparer{CompareConfig: &c, input: &out.Inputs[len(out.Inputs)-1], seq: seq, kind: kind, density: in.Density, progress: &p}
		x.step = float64(in.Tokens) * float64(in.Tokens)
		if out.ISA, err = x.compare(ctx); err != nil {
			return out, err
		}
	}
	return out, nil
}

// searchSteps is how many settings are tried at most between two that lie on either side of a goal.
const searchSteps = 6

// steps is about how many runs an input takes, dense attention's being one.
func (c *CompareConfig) steps() float64 {
	return 1 + float64(c.Runs) + float64(len(c.Methods))*float64(c.Points+1+searchSteps+2*c.Runs)/3
}

// A comparer compares methods on one input.
type comparer struct {
	*CompareConfig
	input    *report.Input
	seq      anchor.Sequence
	kind     func(head int) string
	density  float64
	progress *progress
	step     float64

	dense outputs
	out   outputs   // of the method that runs
	done  []setting // of the current method
	goals []setting // those that are timed in rounds
}

// A setting of a knob, and what came of it.
type setting struct {
	position float64
	opt      anchor.Options
	point    report.Point
	index    int // among the input's points, of one that should reach a goal
}

func (x *comparer) compare(ctx context.Context) (isa string, err error) {
	x.dense, x.out = x.outputs(), x.outputs()
	opt := anchor.Options{Planner: anchor.Dense(), Threads: x.Threads, Costs: x.Costs}
	opt.Progress = x.progress.part(x.step)
	res, err := anchor.Attend(ctx, opt, x.dense.seq)
	if err != nil {
		return "", err
	}
	isa, x.input.DenseSeconds = res.ISA, res.Seconds
	masses := []float64{0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999}
	opt.AuditRows, opt.Progress = x.Rows, nil
	bounds, err := anchor.RowOracle(ctx, opt, masses, x.seq)
	if err != nil {
		return isa, err
	}
	for i, m := range masses {
		x.input.RowOracle = append(x.input.RowOracle, report.Bound{Mass: m, Density: bounds[i]})
	}
	for _, m := range x.Methods {
		if err := x.method(ctx, m); err != nil {
			return isa, err
		}
	}
	if err := x.rounds(ctx); err != nil {
		return isa, err
	}
	if x.Maps > 0 {
		return isa, x.maps(ctx)
	}
	return isa, nil
}

// rounds times the settings that reach a goal, and dense attention, in turns.
func (x *comparer) rounds(ctx context.Context) error {
	dense := setting{opt: anchor.Options{Planner: anchor.Dense(), Threads: x.Threads, Costs: x.Costs}, index: -1}
	all := append([]setting{dense}, x.goals...)
	times := make([][]float64, len(all)) // by round
	order := rand.New(rand.NewPCG(x.input.Seed, uint64(x.input.Tokens)))
	for range x.Runs {
		for _, i := range order.Perm(len(all)) {
			opt := all[i].opt
			part := x.step
			if i > 0 {
				part /= 3
			}
			opt.Progress = x.progress.part(part)
			res, err := anchor.Attend(ctx, opt, x.out.seq)
			if err != nil {
				return err
			}
			times[i] = append(times[i], res.Seconds)
		}
	}
	x.input.DenseSeconds = middle(slices.Clone(times[0]))
	for i, s := range all[1:] {
		var ratios []float64
		for round, seconds := range times[i+1] {
			ratios = append(ratios, times[0][round]/seconds)
		}
		p := &x.input.Points[s.index]
		p.Seconds, p.Speedup = middle(times[i+1]), middle(ratios)
		if err := x.tell(p); err != nil {
			return err
		}
	}
	return nil
}

// method finds the points of one method.
func (x *comparer) method(ctx context.Context, m anchor.Method) error {
	first := len(x.input.Points)
	x.done = nil
	positions := []float64{0}
	if m.Knob != "" {
		positions = []float64{m.Position(m.Value, x.input.Tokens)}
		for i := range x.Points {
			positions = append(positions, (float64(i)+0.5)/float64(x.Points))
		}
	}
	slices.Sort(positions)
	for i, p := range positions {
		if i > 0 && p == positions[i-1] {
			continue
		}
		if err := x.try(ctx, m, p); err != nil {
			return err
		}
	}
	for _, s := range x.done {
		x.input.Points = append(x.input.Points, s.point)
	}
	slices.SortStableFunc(x.input.Points[first:], func(a, b report.Point) int { return cmp.Compare(a.Density, b.Density) })

	goals := []report.Goal{{Kind: "recall", Target: x.Recall}, {Kind: "density", Target: x.density}}
	for _, g := range goals {
		if g.Target == 0 || m.Knob == "" && g.Kind == "density" {
			continue
		}
		at, met, err := x.reach(ctx, m, g)
		if err != nil {
			return err
		}
		at.point.Goal, at.index = g, len(x.input.Points)
		at.point.Goal.Met = met
		x.input.Points = append(x.input.Points, at.point)
		x.goals = append(x.goals, at)
	}
	return nil
}

func (x *comparer) tell(p *report.Point) error {
	if x.Point == nil {
		return nil
	}
	return x.Point(x.input, p)
}

// try runs the method at a position of its knob, and puts what comes of it among the settings done, in order.
func (x *comparer) try(ctx context.Context, m anchor.Method, position float64) error {
	point, opt, err := x.run(ctx, m, m.Turn(position, x.input.Tokens))
	if err != nil {
		return err
	}
	point.Default = position == m.Position(m.Value, x.input.Tokens) || m.Knob == ""
	x.done = append(x.done, setting{position: position, opt: opt, point: *point})
	slices.SortStableFunc(x.done, func(a, b setting) int { return cmp.Compare(a.position, b.position) })
	return x.tell(point)
}

// reach turns the knob to just where the goal is met: the least kept that has the recall, the most within the density. If it
// is met nowhere, that is told with what comes nearest.
func (x *comparer) reach(ctx context.Context, m anchor.Method, g report.Goal) (at setting, met bool, err error) {
	// How far a setting is beyond the goal, as the logarithm of a ratio: of densities, or of what is lost.
	beyond := func(s setting) float64 { return math.Log(max(1-g.Target, 1e-9) / max(1-s.point.Recall.Mean, 1e-9)) }
	enough := func(s setting) bool { return s.point.Recall.Mean >= g.Target }
	if g.Kind == "density" {
		beyond = func(s setting) float64 { return math.Log(s.point.Density / g.Target) }
		enough = func(s setting) bool { return s.point.Density > g.Target }
	}
	if m.Knob == "" {
		return x.done[0], enough(x.done[0]), nil
	}
	for range searchSteps + 2 {
		position, ok := x.next(m, enough, beyond, g.Kind)
		if !ok {
			break
		}
		if err := x.try(ctx, m, position); err != nil {
			return at, false, err
		}
	}
	above := slices.IndexFunc(x.done, enough)
	if g.Kind == "recall" {
		if above < 0 {
			return x.done[len(x.done)-1], false, nil
		}
		return x.done[above], true, nil
	}
	switch {
	case above == 0:
		return x.done[0], false, nil
	case above < 0:
		return x.done[len(x.done)-1], true, nil
	}
	return x.done[above-1], true, nil
}

// next returns the position to try next, between the settings on either side of where enough begins, unless the one that
// counts is near.
func (x *comparer) next(m anchor.Method, enough func(setting) bool, beyond func(setting) float64, kind string) (position float64, ok bool) {
	above := slices.IndexFunc(x.done, enough)
	switch {
	case above == 0: // everywhere so far
		return 0, x.done[0].position > 0
	case above < 0: // nowhere
		return 1, x.done[len(x.done)-1].position < 1
	}
	low, high := x.done[above-1], x.done[above]
	const near = 0.02
	under, over := beyond(low), beyond(high)
	if kind == "recall" && over < near || kind == "density" && under > -near {
		return 0, false
	}
	// Where a straight line crosses, but well inside.
	share := min(max(under/(under-over), 0.1), 0.9)
	if math.IsNaN(share) {
		share = 0.5
	}
	position = low.position + share*(high.position-low.position)
	value := m.Turn(position, x.input.Tokens)
	between := value != m.Turn(low.position, x.input.Tokens) && value != m.Turn(high.position, x.input.Tokens)
	return position, between
}

// run runs the method once.
func (x *comparer) run(ctx context.Context, m anchor.Method, value float64) (*report.Point, anchor.Options, error) {
	opt := anchor.Options{Threads: x.Threads, Costs: x.Costs}
	if err := m.Set(ctx, &opt, x.Params, value, x.out.seq); err != nil {
		return nil, opt, err
	}
	run := opt
	run.Progress = x.progress.part(x.step / 3)
	res, err := anchor.Attend(ctx, run, x.out.seq)
	if err != nil {
		return nil, opt, err
	}
	p := &report.Point{
		Method: m.Name, Knob: m.Knob, Value: report.Number(value), Always: m.Always,
		Density: res.Density(), Stripes: res.Stripes, Seconds: res.Seconds, Stages: res.StageSeconds(), FLOPs: res.FLOPs,
	}
	x.measure(p, res)
	return p, opt, nil
}

// outputs are a sequence and the memory of its outputs.
type outputs struct {
	seq    anchor.Sequence
	o, lse []float32
}

func (x *comparer) outputs() outputs {
	rows := x.input.Heads * x.input.Queries
	out := outputs{seq: x.seq, o: make([]float32, rows*x.input.Dim), lse: make([]float32, rows)}
	out.seq.O = anchor.FromFloat32(out.o, x.input.Heads, x.input.Queries, x.input.Dim)
	out.seq.LSE = anchor.FromFloat32(out.lse, x.input.Heads, x.input.Queries, 1)
	return out
}

// measure compares all rows with those of dense attention.
func (x *comparer) measure(p *report.Point, res *anchor.Result) {
	heads, rows, dim := x.input.Heads, x.input.Queries, x.input.Dim
	recall, output, lse := make([]float64, heads*rows), make([]float64, heads*rows), make([]float64, heads*rows)
	p.HeadPoints = make([]report.Head, heads)
	parallel.For(parallel.Threads(x.Threads), heads, func(_, h int) {
		for i := h * rows; i < (h+1)*rows; i++ {
			d := float64(x.out.lse[i]) - float64(x.dense.lse[i])
			recall[i], lse[i] = min(math.Exp(d), 1), math.Abs(d)
			var off, size float64
			for j := i * dim; j < (i+1)*dim; j++ {
				truth := float64(x.dense.o[j])
				e := float64(x.out.o[j]) - truth
				off += e * e
				size += truth * truth
			}
			if output[i] = math.Sqrt(off / size); off == 0 {
				output[i] = 0
			}
		}
		of := func(x []float64) []float64 { return slices.Clone(x[h*rows : (h+1)*rows]) }
		p.HeadPoints[h] = report.Head{
			Head: h, Choice: res.Heads[h].Choice, Stripes: res.Heads[h].Stripes,
			Density: float64(res.Heads[h].Pairs) / float64(res.Heads[h].CausalPairs),
			Recall:  recallOf(of(recall)), OutputError: spreadOf(of(output)), LSEError: spreadOf(of(lse)),
		}
		if x.kind != nil {
			p.HeadPoints[h].Kind = x.kind(h)
		}
	})
	p.Recall, p.OutputError, p.LSEError = recallOf(recall), spreadOf(output), spreadOf(lse)
}

// finite returns the numbers of x that are ones, in ascending order: rows with non-finite inputs have no recall or error.
func finite(x []float64) []float64 {
	x = slices.DeleteFunc(x, func(y float64) bool { return math.IsNaN(y) || math.IsInf(y, 0) })
	slices.Sort(x)
	return x
}

func mean(x []float64) float64 {
	sum := 0.0
	for _, y := range x {
		sum += y
	}
	return sum / float64(len(x))
}

func recallOf(x []float64) report.Recall {
	if x = finite(x); len(x) == 0 {
		return report.Recall{}
	}
	return report.Recall{Mean: mean(x), P5: x[(len(x)-1)*5/100], Min: x[0]}
}

func spreadOf(x []float64) report.Spread {
	if x = finite(x); len(x) == 0 {
		return report.Spread{}
	}
	return report.Spread{Mean: mean(x), P95: x[(len(x)-1)*95/100], Max: x[len(x)-1]}
}
