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
	Engine  anchor.Engine // what computes; nil means this processor. Times are then by the engine's own clock

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
	// Load makes the sequence, whose outputs are not used, and tells the kinds of its heads, if they have such.
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
			return sequence(dtype, data, s, tokens, nil), w.Kind, nil
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
			if x.input.DenseSeconds == 0 {
				out.Inputs = out.Inputs[:len(out.Inputs)-1]
			}
			return out, err
		}
	}
	return out, nil
}

// searchSteps is how many settings are tried at most between two that lie on either side of a goal.
const searchSteps = 12

// steps is about how many runs an input takes, dense attention's being one.
func (c *CompareConfig) steps() float64 {
	return 1 + float64(c.Runs) + float64(len(c.Methods))*float64(c.Points+8+2*c.Runs)/3
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
	position float64 // of the knob
	opt      anchor.Options
	point    report.Point
	index    int // among the input's points, of one that should reach a goal
}

func (x *comparer) compare(ctx context.Context) (isa string, err error) {
	x.dense, x.out = x.outputs(), x.outputs()
	opt := anchor.Options{Planner: anchor.Dense(), Threads: x.Threads, Costs: x.Costs, Engine: x.Engine}
	opt.Progress = x.progress.part(x.step)
	res, err := anchor.Attend(ctx, opt, x.dense.seq)
	if err != nil {
		return "", err
	}
	isa, x.input.DenseSeconds = res.ISA, x.seconds(res)
	masses := []float64{0.5, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999}
	opt.AuditRows, opt.Progress, opt.Engine = x.Rows, nil, nil
	bounds, err := anchor.RowOracle(ctx, opt, masses, x.out.seq)
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

// seconds returns the time of a call.
func (x *comparer) seconds(res *anchor.Result) float64 {
	if x.Engine != nil {
		return stageSum(res)
	}
	return res.Seconds
}

// rounds times the settings that reach a goal, and dense attention, in turns.
func (x *comparer) rounds(ctx context.Context) error {
	dense := setting{opt: anchor.Options{Planner: anchor.Dense(), Threads: x.Threads, Costs: x.Costs, Engine: x.Engine}, index: -1}
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
			times[i] = append(times[i], x.seconds(res))
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
	sort := func() {
		slices.SortStableFunc(x.input.Points[first:], func(a, b report.Point) int { return cmp.Compare(a.Density, b.Density) })
	}
	defer func() { // what is there when ctx ends
		if ctx.Err() != nil {
			sort()
		}
	}()
	if err := x.try(ctx, m, m.Position(m.Value, x.input.Tokens), m.Value, true); err != nil {
		return err
	}
	for i := range x.Points {
		if m.Knob == "" {
			break
		}
		position := (float64(i) + 0.5) / float64(x.Points)
		if err := x.try(ctx, m, position, m.Turn(position, x.input.Tokens), true); err != nil {
			return err
		}
	}
	var reached []setting
	for _, g := range []report.Goal{{Kind: "recall", Target: x.Recall}, {Kind: "density", Target: x.density}} {
		if g.Target == 0 || m.Knob == "" && g.Kind == "density" {
			continue
		}
		at, met, err := x.reach(ctx, m, g)
		if err != nil {
			return err
		}
		at.point.Goal, at.point.Default = g, false
		at.point.Goal.Met = met
		reached = append(reached, at)
	}
	sort()
	for _, at := range reached {
		at.index = len(x.input.Points)
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

// try runs the method with its knob at a value, which is at a position, and puts what comes of it among the settings done, in
// order, and among the points if it is one of the method's curve.
func (x *comparer) try(ctx context.Context, m anchor.Method, position, value float64, curve bool) error {
	point, opt, err := x.run(ctx, m, value)
	if err != nil {
		return err
	}
	point.Default = len(x.done) == 0
	x.done = append(x.done, setting{position: position, opt: opt, point: *point})
	if curve {
		x.input.Points = append(x.input.Points, *point)
	}
	slices.SortStableFunc(x.done, func(a, b setting) int { return cmp.Compare(a.position, b.position) })
	return x.tell(point)
}

// reach turns the knob to just where the goal is met: the least kept that has the recall, the most within the density. If it
// is met nowhere, that is told with what comes nearest.
func (x *comparer) reach(ctx context.Context, m anchor.Method, g report.Goal) (at setting, met bool, err error) {
	// How far a setting is beyond the goal, as the logarithm of a ratio: of densities, or of what is lost.
	const least = 1e-4
	beyond := func(s setting) float64 {
		return math.Log(max(1-g.Target, least) / max(1-s.point.Recall.Mean, least))
	}
	enough := func(s setting) bool { return s.point.Recall.Mean >= g.Target }
	if g.Kind == "density" {
		beyond = func(s setting) float64 { return math.Log(s.point.Density / g.Target) }
		enough = func(s setting) bool { return s.point.Density > g.Target }
	}
	if m.Knob == "" {
		return x.done[0], enough(x.done[0]), nil
	}
	var low, high, lowTwice, highTwice float64
	for range searchSteps {
		position, ok := x.next(m, g, enough, beyond, lowTwice > 1 || highTwice > 1)
		if !ok {
			break
		}
		if err := x.try(ctx, m, position, m.Turn(position, x.input.Tokens), false); err != nil {
			return at, false, err
		}
		// An end that does not move shows that the line between the two misleads.
		if i := slices.IndexFunc(x.done, enough); i > 0 {
			lowTwice, highTwice = lowTwice+1, highTwice+1
			if p := x.done[i-1].position; p != low {
				low, lowTwice = p, 0
			}
			if p := x.done[i].position; p != high {
				high, highTwice = p, 0
			}
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
// counts is near: where a straight line crosses, or in the middle.
func (x *comparer) next(m anchor.Method, g report.Goal, enough func(setting) bool, beyond func(setting) float64, middle bool) (position float64, ok bool) {
	above := slices.IndexFunc(x.done, enough)
	switch {
	case above == 0: // everywhere so far
		return 0, x.done[0].position > 0
	case above < 0: // nowhere
		return 1, x.done[len(x.done)-1].position < 1
	}
	low, high := x.done[above-1], x.done[above]
	const nearRecall, nearDensity = 0.002, 0.0002
	if g.Kind == "recall" && high.point.Recall.Mean-g.Target < nearRecall || g.Kind == "density" && low.point.Density > (1-nearDensity)*g.Target {
		return 0, false
	}
	under, over := beyond(low), beyond(high)
	share := min(max(under/(under-over), 0.1), 0.9)
	if middle || math.IsNaN(share) {
		share = 0.5
	}
	position = low.position + share*(high.position-low.position)
	value := m.Turn(position, x.input.Tokens)
	return position, value != m.Turn(low.position, x.input.Tokens) && value != m.Turn(high.position, x.input.Tokens)
}

// run runs the method once.
func (x *comparer) run(ctx context.Context, m anchor.Method, value float64) (*report.Point, anchor.Options, error) {
	opt := anchor.Options{Threads: x.Threads, Costs: x.Costs, Engine: x.Engine, Progress: x.progress.part(x.step / 3)}
	if err := m.Set(ctx, &opt, x.Params, value, x.out.seq); err != nil {
		return nil, opt, err
	}
	res, err := anchor.Attend(ctx, opt, x.out.seq)
	opt.Progress = nil
	if err != nil {
		return nil, opt, err
	}
	p := &report.Point{
		Method: m.Name, Knob: m.Knob, Value: report.Number(value), Always: m.Always(x.Params),
		Density: res.Density(), Stripes: res.Stripes, Seconds: x.seconds(res), Stages: res.StageSeconds(), FLOPs: res.FLOPs,
		NonFiniteRows: res.NonFiniteRows,
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
			// Rows that dense attention leaves without finite values have no recall or error; others should have one.
			if known := !math.IsNaN(size) && !math.IsInf(size, 0) && !math.IsInf(float64(x.dense.lse[i]), 0); !known {
				recall[i], output[i], lse[i] = math.NaN(), math.NaN(), math.NaN()
			} else if math.IsNaN(d) || math.IsNaN(off) {
				recall[i], output[i], lse[i] = 0, math.Inf(1), math.Inf(1)
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

// known returns the numbers of x but for NaNs, in ascending order.
func known(x []float64) []float64 {
	x = slices.DeleteFunc(x, math.IsNaN)
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
	if x = known(x); len(x) == 0 {
		return report.Recall{Mean: math.NaN(), P5: math.NaN(), Min: math.NaN()}
	}
	return report.Recall{Mean: mean(x), P5: x[(len(x)-1)*5/100], Min: x[0]}
}

func spreadOf(x []float64) report.Spread {
	if x = known(x); len(x) == 0 {
		return report.Spread{Mean: math.NaN(), P95: math.NaN(), Max: math.NaN()}
	}
	return report.Spread{Mean: mean(x), P95: x[(len(x)-1)*95/100], Max: x[len(x)-1]}
}
