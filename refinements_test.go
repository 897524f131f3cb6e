package anchor

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
)

// A rule says which of the candidates are stripes, given each vector's anchor and its scores with them. rows is how many rows
// there are, seen how many pairs they would attend to if they saw every key, and first the first candidate.
type rule func(h, first, rows, seen int, anchors []float64, scores [][]float64) []verdict

// anchorSets transcribes AnchorAttention with any rule of choice.
func anchorSets(p Params, choose rule) func(x *exact) sets {
	return func(x *exact) sets {
		size := p.Block * p.Step
		return x.byBlocks(size, p.Tail, func(h, from, to int) []verdict {
			start := from / size * size
			window := func(j int) bool { return j < p.Init || j >= start-p.Local }
			mean := func(from, to int) (q []float64, anchor float64) {
				for pos := from; pos < to; pos++ {
					top := math.Inf(-1)
					for j, l := range x.row(h, pos) {
						if window(j) {
							top = max(top, l)
						}
					}
					anchor += top / float64(to-from)
				}
				return x.meanQuery(h, from, to), anchor
			}
			var queries [][]float64
			var anchors []float64
			add := func(from, to int) {
				q, a := mean(from, to)
				queries, anchors = append(queries, q), append(anchors, a)
			}
			pool := p.Block
			if p.Pool > 0 {
				pool = p.Pool
			}
			for a := from; a < to; {
				b := min(a/pool*pool+pool, to)
				add(a, b)
				for _, pos := range x.furthest(h, a, b, p.Spikes) {
					add(pos, pos+1)
				}
				a = b
			}
			keys := make([]verdict, to)
			for j := range keys {
				if window(j) {
					keys[j] = isKept
				}
			}
			first, last := p.Init, start-p.Local
			if first >= last {
				return keys
			}
			scores := make([][]float64, len(queries))
			for c, q := range queries {
				for j := first; j < last; j++ {
					scores[c] = append(scores[c], x.score(q, x.meanKey(h, j, j+1)))
				}
			}
			seen := 0
			for pos := from; pos < to; pos++ {
				seen += pos + 1
			}
			copy(keys[first:last], choose(h, first, to-from, seen, anchors, scores))
			return keys
		})
	}
}

// furthest returns the n of a head's rows [from, to) whose queries lie furthest from their mean, of all but one.
func (x *exact) furthest(h, from, to, n int) []int {
	if n = min(n, to-from-1); n == 0 {
		return nil
	}
	mean := x.meanQuery(h, from, to)
	distance := func(pos int) (sum float64) {
		for d, y := range x.meanQuery(h, pos, pos+1) {
			sum += (y - mean[d]) * (y - mean[d])
		}
		return sum
	}
	var all []int
	for pos := from; pos < to; pos++ {
		all = append(all, pos)
	}
	slices.SortFunc(all, func(a, b int) int {
		if distance(a) > distance(b) {
			return -1
		}
		return 1
	})
	if near := distance(all[n-1]) / distance(all[n]); near < 1+1e-5 {
		panic(fmt.Sprintf("spikes within %g of one another: choose another seed", near))
	}
	return all[:n]
}

// above returns for each candidate the largest of score − anchor over the vectors.
func above(anchors []float64, scores [][]float64) []float64 {
	best := slices.Repeat([]float64{math.Inf(-1)}, len(scores[0]))
	for c, row := range scores {
		for j, s := range row {
			best[j] = max(best[j], s-anchors[c])
		}
	}
	return best
}

// atLeast says which values reach a threshold, in nats.
func atLeast(values []float64, least float64) []verdict {
	out := make([]verdict, len(values))
	for j, v := range values {
		switch {
		case v >= least+1e-4:
			out[j] = isKept
		case v > least-1e-4:
			out[j] = isNear
		}
	}
	return out
}

// top says which are the n largest values, in nats.
func top(values []float64, n int) []verdict {
	weights := make([]float64, len(values))
	for j, v := range values {
		weights[j] = math.Exp(v)
	}
	return largest(weights, n, n)
}

// byTheta is AnchorAttention's own rule, under MaxDensity if that is set.
func byTheta(p Params) rule {
	return func(h, first, rows, seen int, anchors []float64, scores [][]float64) []verdict {
		theta := p.Theta
		if len(p.HeadTheta) > 0 {
			theta = p.HeadTheta[h]
		}
		best := above(anchors, scores)
		keep := atLeast(best, -theta)
		if p.MaxDensity > 0 {
			window := seen - rows*len(best)
			limit := max(int(math.Floor((p.MaxDensity*float64(seen)-float64(window))/float64(rows))), 0)
			for j, v := range top(best, limit) {
				if v == isDropped || v == isNear && keep[j] == isKept {
					keep[j] = v
				}
			}
		}
		return keep
	}
}

func ablationRule(p AblationParams) rule {
	return func(h, first, rows, seen int, anchors []float64, scores [][]float64) []verdict {
		theta := p.Theta
		if len(p.HeadTheta) > 0 {
			theta = p.HeadTheta[h]
		}
		n := len(scores[0])
		switch p.Choice {
		case ByScore:
			return atLeast(above(make([]float64, len(anchors)), scores), -theta)
		case ByBlock:
			means := make([][]float64, len(scores))
			for c, row := range scores {
				for j := 0; j < n; {
					to := min((first+j)/p.Block*p.Block+p.Block-first, n)
					sum := 0.0
					for _, s := range row[j:to] {
						sum += s
					}
					means[c] = append(means[c], slices.Repeat([]float64{sum / float64(to-j)}, to-j)...)
					j = to
				}
			}
			return atLeast(above(anchors, means), -theta)
		case ByCount:
			return top(above(anchors, scores), p.Keys)
		default:
			mass, all := make([]float64, n), 0.0
			for c, row := range scores {
				for j, s := range row {
					mass[j] += math.Exp(s - anchors[c])
					all += math.Exp(s - anchors[c])
				}
			}
			lo, hi := fewest(mass, p.Mass*all)
			return largest(mass, lo, hi)
		}
	}
}

// refined are AnchorAttention with what Anchor adds to it, and its ablations.
func refined() []method {
	var all []method
	base := Params{Block: 32, Step: 4, Init: 20, Local: 40, Theta: 2.5, Tail: 70}
	add := func(name string, f func(p *Params)) {
		p := base
		f(&p)
		open := p
		open.Theta, open.HeadTheta, open.MaxDensity = math.Inf(1), nil, 0
		m := method{name, AnchorAttention(p), anchorSets(p, byTheta(p)), AnchorAttention(open)}
		if p.HeadTheta != nil {
			m.dense = nil
		}
		all = append(all, m)
	}
	add("anchor", func(p *Params) {})
	add("anchor of sharp heads", func(p *Params) { p.Init, p.Local, p.Theta = 0, 0, 1.5 })
	add("pool", func(p *Params) { p.Pool = 8 })
	add("pool of one", func(p *Params) { p.Block, p.Step, p.Pool, p.Theta = 12, 9, 1, 1 })
	add("spikes", func(p *Params) { p.Spikes = 3 })
	add("all spikes", func(p *Params) { p.Block, p.Step, p.Spikes, p.Tail = 8, 16, 8, 71 }) // no pool of two, which are equally far
	add("pool and spikes", func(p *Params) { p.Pool, p.Spikes, p.Theta = 16, 1, 2 })
	add("max density", func(p *Params) { p.MaxDensity, p.Theta = 0.35, 4 })
	add("max density of all", func(p *Params) { p.MaxDensity = 1 })
	add("head theta", func(p *Params) { p.HeadTheta, p.Theta = Thetas{1.5, 2.5, math.Inf(-1), 5}, 99 })
	add("all of them", func(p *Params) {
		p.Pool, p.Spikes, p.MaxDensity, p.HeadTheta = 16, 2, 0.4, Thetas{2, 2, math.Inf(1), 4}
	})
	for name, f := range map[string]func(p *AblationParams){
		"by score": func(p *AblationParams) { p.Theta = -0.8 },
		"by score of heads": func(p *AblationParams) {
			p.HeadTheta, p.Pool = Thetas{-0.5, -0.8, -1.5, -3}, 16
		},
		"by block":          func(p *AblationParams) { p.Choice, p.Theta = ByBlock, 3.2 },
		"by blocks of five": func(p *AblationParams) { p.Choice, p.Block, p.Step, p.Theta = ByBlock, 5, 20, 2.5 },
		"by count":          func(p *AblationParams) { p.Choice, p.Keys = ByCount, 77 },
		"by count, spikes":  func(p *AblationParams) { p.Choice, p.Keys, p.Spikes = ByCount, 40, 2 },
		"by mass":           func(p *AblationParams) { p.Choice, p.Mass = ByMass, 0.7 },
		"by mass, pool":     func(p *AblationParams) { p.Choice, p.Mass, p.Pool = ByMass, 0.4, 8 },
	} {
		p := AblationParams{Params: base}
		f(&p)
		open := p
		open.Theta, open.HeadTheta, open.Keys, open.Mass = math.Inf(1), nil, 1<<29, 1
		m := method{name, Ablation(p), anchorSets(p.Params, ablationRule(p)), Ablation(open)}
		if p.HeadTheta != nil {
			m.dense = nil
		}
		all = append(all, m)
	}
	return all
}

// MaxDensity is kept by every head in every group unless the window alone is beyond it, and costs no key that it allows.
func TestMaxDensity(t *testing.T) {
	p := drifting(20, 4, 2, 700, 700, 16)
	for _, bound := range []float64{1e-300, 0.1, 0.3, 0.5, 0.9, 1} {
		par := Params{Block: 16, Step: 6, Init: 10, Local: 20, Theta: math.Inf(1), Tail: 50, Refinements: Refinements{MaxDensity: bound}}
		met, _, _, _ := follow(t, ends()[0], Options{Planner: AnchorAttention(par)}, p, p.sequence())
		for h := range 4 {
			for from := 0; from < 650; from += 96 {
				rows, pairs, causal, window := min(from+96, 650)-from, 0, 0, 0
				for pos := from; pos < from+rows; pos++ {
					for j, n := range met[h*700+pos] {
						pairs += int(n)
						causal++
						if j < 10 || j >= from-20 {
							window++
						}
					}
				}
				most := bound * float64(causal)
				if pairs > window && float64(pairs) > most+1e-6 || float64(pairs+rows) <= most && pairs < causal {
					t.Errorf("bound %g: group at %d of head %d has %d pairs, %d of the window; at most %g", bound, from, h, pairs, window, most)
				}
			}
		}
	}
}

// A key that matters to one row alone is found by Spikes, and by a Pool of few rows, where the mean of a block hides it.
func TestSpikeIsFound(t *testing.T) {
	const n, dim, row, key = 512, 16, 400, 100
	p := newProblem(rand.New(rand.NewPCG(21, 1)), 1, 1, n, n, dim)
	for i := range p.q {
		p.q[i] *= 0.1
	}
	for d := range dim {
		p.q[row*dim+d], p.k[key*dim+d] = 2, 2
	}
	par := Params{Block: 128, Step: 1, Init: 8, Local: 8, Theta: -2}
	for _, c := range []struct {
		Refinements
		found byte
	}{{Refinements{}, 0}, {Refinements{Spikes: 1}, 1}, {Refinements{Pool: 4}, 1}, {Refinements{Pool: 32, Spikes: 1}, 1}} {
		par.Refinements = c.Refinements
		met, _, _, _ := follow(t, ends()[0], Options{Planner: AnchorAttention(par)}, p, p.sequence())
		if met[row][key] != c.found {
			t.Errorf("%+v: the row meets its key %d times; want %d", c.Refinements, met[row][key], c.found)
		}
	}
}

// A key that scores far above every anchor is kept by every rule, however far: e^600 is no number in single precision.
func TestFarAboveAnchor(t *testing.T) {
	for _, far := range []float32{20, 80, 100, 600} {
		p := newProblem(rand.New(rand.NewPCG(23, 1)), 2, 1, 200, 400, 16)
		one := float32(1)
		p.scale = &one
		for i := range p.q {
			if p.q[i] *= 0.1; i%16 == 0 {
				p.q[i] = 1
			}
		}
		for j := range 400 {
			p.k[j*16] = 0
		}
		const key = 50
		p.k[key*16] = far
		par := Params{Block: 32, Step: 4, Init: 8, Local: 8}
		for _, planner := range []Planner{
			AnchorAttention(par), Auto(par), Ablation(AblationParams{Params: par, Choice: ByScore}), Ablation(AblationParams{Params: par, Choice: ByCount, Keys: 1}),
			Ablation(AblationParams{Params: par, Choice: ByMass, Mass: 0.5}),
		} {
			for _, set := range ends() {
				for _, dtype := range inputs(set) {
					met, _, _, _ := follow(t, set, Options{Planner: planner}, p.truncate(), p.as(dtype))
					for i, keys := range met {
						if keys[key] != 1 {
							t.Errorf("%g nats, %s, %s: row %d does not see the key", far, planner.Name(), set.Name(), i)
							break
						}
					}
				}
			}
		}
	}
}

// A key that cannot be ranked is kept by the rules that rank: before all others.
func TestNaNKeyIsKept(t *testing.T) {
	const key = 50
	p := newProblem(rand.New(rand.NewPCG(24, 1)), 2, 1, 300, 300, 16)
	p.k[key*16+3] = float32(math.NaN())
	par := Params{Block: 32, Step: 2, Init: 8, Local: 8, Theta: 100, Refinements: Refinements{MaxDensity: 0.5}}
	for _, planner := range []Planner{
		AnchorAttention(par), Ablation(AblationParams{Params: par, Choice: ByScore}), Ablation(AblationParams{Params: par, Choice: ByBlock}),
		Ablation(AblationParams{Params: par, Choice: ByCount, Keys: 1}), VecAttention(VecAttentionParams{Rows: 64, Gap: -100}),
	} {
		for _, set := range ends() {
			met, _, _, res := follow(t, set, Options{Planner: planner}, p, p.sequence())
			for i, keys := range met {
				if i%300 >= 128 && keys[key] != 1 { // before, MaxDensity allows the window alone
					t.Fatalf("%s, %s: row %d does not see the key", planner.Name(), set.Name(), i)
				}
			}
			if planner.Name() == "anchor" && res.Density() > 0.7 {
				t.Errorf("density %v", res.Density())
			}
		}
	}
}

var plant = [4][2]float64{{-14, -14}, {13, 13}, {4, 4}, {-3, -5.2}}

// planted is a problem of four heads with one logit for each key: the first is an anchor, and keys [4, 48), candidates of all
// groups of 64 rows but the first, lie some nats above or below it, even ones and odd ones.
//
// Those of head 0 hold no mass. From Theta −20 on, those of head 1 are found 9 nats further and those of head 2 21, and none of
// head 3.
func planted(above [4][2]float64) *problem {
	const n, dim = 600, 16
	r := rand.New(rand.NewPCG(22, 1))
	p := newProblem(r, 4, 2, n, n, dim)
	one := float32(1)
	p.scale = &one
	clear(p.q)
	for h := range 4 {
		for row := range n {
			p.q[(h*n+row)*dim+h] = 1
		}
		for j := range n {
			logit := r.Float64()
			switch {
			case j == 0:
				logit = 16
			case j >= 4 && j < 48:
				logit += 15.5 + above[h][j%2]
			}
			p.k[(h/2*n+j)*dim+h] = float32(logit)
		}
	}
	return p
}

// The guard plans heads again whose audited recall is below the target, with larger Theta and densely at last, says so, and
// touches no others.
func TestGuard(t *testing.T) {
	p := planted(plant)
	choices := [4]string{"", "theta -11", "theta 1", "dense"}
	par := Params{Block: 16, Step: 4, Init: 4, Local: 16, Theta: -20, Tail: 20}
	const target = 0.98
	for _, set := range ends() {
		for _, spread := range []bool{false, true} { // over two sequences
			seqs := func() []Sequence {
				if !spread {
					return []Sequence{p.sequence()}
				}
				return []Sequence{p.rows(0, 333).sequence(), p.rows(333, 600).sequence()}
			}
			var log []Trace
			opt := Options{Planner: AnchorAttention(par), Scale: p.scale, AuditRows: 600, Stripes: true}
			plainO, plainLSE, plain := mustAttend(t, set, opt, seqs()...)
			opt.TargetRecall = target
			opt.Trace = func(tr Trace) {
				tr.Keys.Stripes, tr.Keys.Spans = slices.Clone(tr.Keys.Stripes), slices.Clone(tr.Keys.Spans)
				log = append(log, tr)
			}
			o, lse, res := mustAttend(t, set, opt, seqs()...)

			// What each head should be, done directly.
			opt.TargetRecall, opt.Trace = 0, nil
			par := par
			par.HeadTheta = Thetas{-20, -11, 1, 0}
			opt.Planner = AnchorAttention(par)
			directO, directLSE, direct := mustAttend(t, set, opt, seqs()...)
			opt.Planner = Dense()
			denseO, denseLSE, dense := mustAttend(t, set, opt, seqs()...)
			pairs, kept := int64(0), int64(0)
			for h, choice := range choices {
				got := res.Heads[h]
				if got.Choice != choice || got.Recall.Mean < target {
					t.Errorf("head %d: choice %q, recall %.4f; want %q, %g", h, got.Choice, got.Recall.Mean, choice, target)
				}
				if before := plain.Heads[h].Recall.Mean; (before >= target) != (choice == "") {
					t.Errorf("head %d had recall %g before", h, before)
				}
				wantO, wantLSE, want := directO, directLSE, direct
				switch choice {
				case "":
					wantO, wantLSE, want = plainO, plainLSE, plain
				case "dense":
					wantO, wantLSE, want = denseO, denseLSE, dense
				}
				for i := range o {
					rows := len(lse[i]) / 4
					part := func(o, lse [][]float32) []uint32 {
						return bitsOf(o[i][h*rows*p.dim:(h+1)*rows*p.dim], lse[i][h*rows:(h+1)*rows])
					}
					if !slices.Equal(part(o, lse), part(wantO, wantLSE)) {
						t.Errorf("head %d, %q, is not as done directly", h, choice)
					}
				}
				if w := want.Heads[h]; got.Pairs != w.Pairs || got.CausalPairs != w.CausalPairs || got.Stripes != w.Stripes {
					t.Errorf("head %d: %+v; done directly %+v", h, got, w)
				}
				pairs, kept = pairs+got.Pairs, kept+got.Stripes
				if a, d := got.Recall, recallOf(recalls(res, h)); a != d {
					t.Errorf("head %d: recall %v; its audited rows have %v", h, a, d)
				}
				// The last traces of a head are what it came to.
				traced := int64(0)
				for _, tr := range slices.Backward(log) {
					if tr.Head == h && traced < got.Pairs {
						expand(tr, func(pos, j int) { traced++ })
					}
				}
				if traced != got.Pairs {
					t.Errorf("head %d has %d pairs; its last traces %d", h, got.Pairs, traced)
				}
				listed := int64(0)
				for _, set := range res.StripeSets {
					listed += set.Offsets[(h+1)*set.Groups] - set.Offsets[h*set.Groups]
				}
				if listed != got.Stripes {
					t.Errorf("head %d, %q, has %d stripes; StripeSets list %d", h, choice, got.Stripes, listed)
				}
			}
			if res.Pairs != pairs || res.Stripes != kept || res.CausalPairs != plain.CausalPairs || res.Density() != float64(pairs)/float64(plain.CausalPairs) {
				t.Errorf("result %+v is not the sum of its heads", res)
			}
			if want := float64(p.dim) * (4*float64(pairs) + 2*float64(res.SearchPairs)); res.FLOPs != want || res.SearchPairs <= plain.SearchPairs {
				t.Errorf("%g FLOPs, %d pairs searched; want %g, more than %d", res.FLOPs, res.SearchPairs, want, plain.SearchPairs)
			}
			if res.Method != "anchor" || len(res.Audit) != len(plain.Audit) {
				t.Errorf("method %q, %d rows audited; want anchor, %d", res.Method, len(res.Audit), len(plain.Audit))
			}
		}
	}
}

func recalls(r *Result, head int) (all []float64) {
	for _, a := range r.Audit {
		if a.Head == head {
			all = append(all, a.Recall)
		}
	}
	return all
}

// Under a target any method goes dense where it must, and what it searched is counted once.
func TestGuardOfAnyMethod(t *testing.T) {
	p := planted(plant)
	set := ends()[len(ends())-1]
	for _, m := range slices.Concat(rivals(), starved()) {
		opt := Options{Planner: m.planner, Scale: p.scale, AuditRows: 100}
		_, _, plain := mustAttend(t, set, opt, p.sequence())
		opt.TargetRecall = 0.999
		_, _, res := mustAttend(t, set, opt, p.sequence())
		anchored := strings.HasPrefix(m.planner.Name(), "auto") || m.planner.Name() == "anchor"
		for h, head := range res.Heads {
			was := plain.Heads[h]
			switch {
			case head.Recall.Mean < opt.TargetRecall:
				t.Errorf("%s: head %d has recall %g", m.name, h, head.Recall.Mean)
			case was.Recall.Mean >= opt.TargetRecall && head.Choice != was.Choice:
				t.Errorf("%s: head %d, recall %g, is %q", m.name, h, was.Recall.Mean, head.Choice)
			case was.Recall.Mean < opt.TargetRecall && !anchored && (head.Choice != "dense" || head.Pairs != head.CausalPairs):
				t.Errorf("%s: head %d, recall %g, is %q, %d of %d pairs", m.name, h, was.Recall.Mean, head.Choice, head.Pairs, head.CausalPairs)
			}
		}
		if !anchored && res.SearchPairs != plain.SearchPairs {
			t.Errorf("%s: %d pairs searched with a target; %d without", m.name, res.SearchPairs, plain.SearchPairs)
		}
	}
}

// Progress ascends to 1 under a target of recall, too.
func TestGuardProgress(t *testing.T) {
	p := planted(plant)
	var shares []float64
	opt := Options{
		Planner: AnchorAttention(Params{Block: 16, Step: 4, Init: 4, Local: 16, Theta: -20, Tail: 20}), Scale: p.scale,
		AuditRows: 100, TargetRecall: 0.98, Progress: func(x float64) { shares = append(shares, x) },
	}
	if _, err := Attend(t.Context(), opt, p.sequence()); err != nil {
		t.Fatal(err)
	}
	for i, x := range shares[1:] {
		if x < shares[i] {
			t.Errorf("progress goes from %g back to %g", shares[i], x)
		}
	}
	if last := shares[len(shares)-1]; math.Abs(last-1) > 1e-9 {
		t.Errorf("progress ends at %g", last)
	}
}

// The guard wants a target that makes sense and rows that tell.
func TestGuardErrors(t *testing.T) {
	p := newProblem(rand.New(rand.NewPCG(1, 1)), 2, 1, 3, 5, 8)
	for _, c := range []struct {
		target float64
		rows   int
		want   string
	}{{-0.1, 5, "TargetRecall is -0.1"}, {1.1, 5, "TargetRecall is 1.1"}, {math.NaN(), 5, "TargetRecall is NaN"}, {0.9, 0, "AuditRows 0"}} {
		_, err := Attend(t.Context(), Options{Planner: Dense(), TargetRecall: c.target, AuditRows: c.rows}, p.sequence())
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("target %v, %d rows: error %v; want %s", c.target, c.rows, err, c.want)
		}
	}
}
