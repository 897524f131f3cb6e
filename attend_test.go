package anchor

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"math/rand/v2"
	"reflect"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/anchorattention/anchor/internal/kernel"
)

// small are parameters whose groups fit short test prompts: 40 positions each.
func small(theta float64) Params {
	return Params{Block: 8, Step: 5, Init: 3, Local: 8, Theta: theta, Tail: 4}
}

// inputs returns the types of inputs whose path is a level's own: levels with kernels on pairs of bfloat16s share
// those on float32s with another.
func inputs(set *kernel.Set) []DType {
	if set.Pairs() {
		return []DType{BFloat16}
	}
	return []DType{Float32}
}

func maxDiff(a, b []float32) float64 {
	worst := 0.0
	for i := range a {
		worst = max(worst, math.Abs(float64(a[i])-float64(b[i])))
	}
	return worst
}

// bitsOf makes slices comparable bit by bit, NaN included.
func bitsOf(lists ...[]float32) []uint32 {
	var all []uint32
	for _, x := range lists {
		for _, v := range x {
			all = append(all, math.Float32bits(v))
		}
	}
	return all
}

// A prompt no longer than one group is cut as dense attention is, which costs no more then.
func TestShortPromptCut(t *testing.T) {
	for _, n := range []int{1, 128, 129, 2047, 2048} {
		par := DefaultParams()
		par.Theta, par.Tail = -1000, 0
		s := Shape{Heads: 4, KVHeads: 2, Dim: 16, Queries: n, Keys: n, Prompt: n}
		if a, d := AnchorAttention(par).Cut(s), Dense().Cut(s); !slices.Equal(a, d) {
			t.Errorf("n %d: cut as %v; dense as %v", n, a, d)
		}
	}
}

// Before [Borders].Dense rows are bitwise those of dense attention, however long the prompt is and wherever its tail begins:
// prompts share what they have in common there.
func TestDenseBorders(t *testing.T) {
	r := rand.New(rand.NewPCG(6, 6))
	forLevels(t, func(t *testing.T, set *kernel.Set) {
		for _, dtype := range inputs(set) {
			for _, par := range []Params{{Block: 32, Step: 2, Init: 115, Local: 118, Theta: -1000}, {Block: 5, Step: 3, Init: 64, Theta: -1000}, {Block: 16, Step: 4, Local: 200, Theta: -1000, Tail: 31}} {
				planner := AnchorAttention(par)
				b, ok := BordersOf(planner)
				if !ok || b.Dense == 0 {
					t.Fatalf("%+v has borders %+v", par, b)
				}
				const heads, dim = 4, 24
				n := b.Dense + 40
				p := newProblem(r, heads, 2, n, n, dim)
				do, dl, _ := mustAttend(t, set, Options{Planner: Dense()}, p.as(dtype))
				ao, al, _ := mustAttend(t, set, Options{Planner: planner}, p.as(dtype))
				for h := range heads {
					if !slices.Equal(bitsOf(ao[0][h*n*dim:][:b.Dense*dim], al[0][h*n:][:b.Dense]), bitsOf(do[0][h*n*dim:][:b.Dense*dim], dl[0][h*n:][:b.Dense])) {
						t.Errorf("%s, %+v: head %d differs from dense before %d", dtype, par, h, b.Dense)
					}
				}
			}
		}
	})
}

// Memory beyond inputs and outputs does not grow with Nq·Nk: doubling a long prompt leaves it as it is, but for the
// list of stripes.
func TestMemory(t *testing.T) {
	set := kernel.Levels()[len(kernel.Levels())-1]
	r := rand.New(rand.NewPCG(6, 6))
	par := small(2)
	par.Step = 64
	for _, planner := range []Planner{Dense(), AnchorAttention(par)} {
		var bytes []uint64
		for _, n := range []int{8192, 16384} {
			p := newProblem(r, 2, 1, n, n, 4)
			s := p.sequence()
			runtime.GC() // twice: what the last call kept for the next goes too
			runtime.GC()
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			mustAttend(t, set, Options{Planner: planner, Threads: 1}, s)
			runtime.ReadMemStats(&after)
			bytes = append(bytes, after.TotalAlloc-before.TotalAlloc)
		}
		if grown := int64(bytes[1]) - int64(bytes[0]); grown > 40*8192+1<<17 { // one bit a pair would be 24 MiB
			t.Errorf("%s: %d bytes allocated for 8192 tokens, %d for 16384", planner.Name(), bytes[0], bytes[1])
		}
	}
}

// Tensors of 16-bit numbers, of one type or several, give what the same numbers give in single precision.
func TestMixedTypes(t *testing.T) {
	r := rand.New(rand.NewPCG(7, 7))
	const heads, kvHeads, nq, nk = 4, 2, 150, 333
	forLevels(t, func(t *testing.T, set *kernel.Set) {
		for _, dim := range []int{5, 32} {
			for _, planner := range []Planner{Dense(), AnchorAttention(small(4))} {
				p := newProblem(r, heads, kvHeads, nq, nk, dim)
				for _, x := range [][]float32{p.q, p.k, p.v} { // numbers that 16 bits of either kind can hold
					for i := range x {
						x[i] = float32(math.Round(float64(x[i])*16) / 16)
					}
				}
				o, lse, _ := mustAttend(t, set, Options{Planner: planner}, p.sequence())
				want := bitsOf(o[0], lse[0])
				narrow := func(x []float32, f func(float32) uint16) []uint16 {
					y := make([]uint16, len(x))
					for i := range x {
						y[i] = f(x[i])
					}
					return y
				}
				for _, types := range []string{"BF16 F16 BF16", "F16 F16 F16", "F16 BF16 F32"} {
					s := p.sequence()
					names := strings.Fields(types)
					for i, x := range []struct {
						to          *Tensor
						data        []float32
						heads, rows int
					}{{&s.Q, p.q, heads, nq}, {&s.K, p.k, kvHeads, nk}, {&s.V, p.v, kvHeads, nk}} {
						switch names[i] {
						case "BF16":
							*x.to = FromBFloat16(narrow(x.data, kernel.RoundToBFloat16), x.heads, x.rows, dim)
						case "F16":
							*x.to = FromFloat16(narrow(x.data, toHalf), x.heads, x.rows, dim)
						}
					}
					o, lse, _ := mustAttend(t, set, Options{Planner: planner}, s)
					if !slices.Equal(bitsOf(o[0], lse[0]), want) {
						t.Errorf("%s, dim %d, %s: another result than in single precision", planner.Name(), dim, types)
					}
				}
			}
		}
	})
}

// toHalf converts numbers that a normal half holds exactly, and zero.
func toHalf(x float32) uint16 {
	b := math.Float32bits(x)
	if x == 0 {
		return uint16(b >> 16)
	}
	return uint16(b>>16&0x8000) | uint16((b>>23&0xff-112)<<10) | uint16(b>>13&0x3ff)
}

func TestHalfToSingle(t *testing.T) {
	for _, c := range []struct {
		h    uint16
		want float64
	}{
		{0, 0}, {0x8000, math.Copysign(0, -1)}, {0x3c00, 1}, {0xc000, -2}, {1, 0x1p-24}, {0x03ff, 1023 * 0x1p-24}, {0x83ff, -1023 * 0x1p-24},
		{0x0400, 0x1p-14}, {0x7bff, 65504}, {0x7c00, math.Inf(1)}, {0xfc00, math.Inf(-1)}, {0x3555, 0.333251953125},
	} {
		if got := float64(kernel.HalfToSingle(c.h)); got != c.want || math.Signbit(got) != math.Signbit(c.want) {
			t.Errorf("%#04x is %v; want %v", c.h, got, c.want)
		}
	}
	if x := kernel.HalfToSingle(0x7e00); x == x {
		t.Errorf("0x7e00 is %v; want NaN", x)
	}
}

// All logits −∞: no softmax, and no crash.
func TestInfiniteLogits(t *testing.T) {
	inf := float32(math.Inf(1))
	forLevels(t, func(t *testing.T, set *kernel.Set) {
		for _, dtype := range inputs(set) {
			p := newProblem(rand.New(rand.NewPCG(8, 8)), 1, 1, 50, 50, 1)
			for i := range p.k {
				p.q[i], p.k[i] = 1, -inf
			}
			o, lse, _ := mustAttend(t, set, Options{Planner: AnchorAttention(small(1)), AuditRows: 5}, p.as(dtype))
			for i := range o[0] {
				if o[0][i] == o[0][i] || lse[0][i] != -inf {
					t.Fatalf("row of −∞ logits gives %v, log-sum-exp %v; want NaN and −∞", o[0][i], lse[0][i])
				}
			}
		}
	})
}

// Bad input is an error that names the thing, its value and what is allowed, and leaves the outputs alone.
func TestErrors(t *testing.T) {
	base := func() (Options, Sequence) {
		p := newProblem(rand.New(rand.NewPCG(1, 1)), 4, 2, 3, 5, 8)
		return Options{Planner: AnchorAttention(DefaultParams())}, p.sequence()
	}
	with := func(f func(p *Params)) Planner {
		p := DefaultParams()
		f(&p)
		return AnchorAttention(p)
	}
	x := func(n int) []float32 { return make([]float32, n) }
	nan := float32(math.NaN())
	for _, c := range []struct {
		name string
		f    func(o *Options, s *Sequence)
		want []string
	}{
		{"planner", func(o *Options, s *Sequence) { o.Planner = nil }, []string{"Planner", "nil"}},
		{"theta", func(o *Options, s *Sequence) { o.Planner = with(func(p *Params) { p.Theta = math.NaN() }) }, []string{"Theta", "NaN"}},
		{"block", func(o *Options, s *Sequence) { o.Planner = with(func(p *Params) { p.Block = 0 }) }, []string{"Block", "0", "1 …"}},
		{"step", func(o *Options, s *Sequence) { o.Planner = with(func(p *Params) { p.Step = -3 }) }, []string{"Step", "-3"}},
		{"init", func(o *Options, s *Sequence) { o.Planner = with(func(p *Params) { p.Init = -1 }) }, []string{"Init", "-1", "0 …"}},
		{"local", func(o *Options, s *Sequence) { o.Planner = with(func(p *Params) { p.Local = math.MinInt }) }, []string{"Local"}},
		{"tail", func(o *Options, s *Sequence) { o.Planner = with(func(p *Params) { p.Tail = math.MaxInt }) }, []string{"Tail"}},
		{"group", func(o *Options, s *Sequence) {
			o.Planner = with(func(p *Params) { p.Block, p.Step = 1<<20, 1<<20 })
		}, []string{"Block·Step"}},
		{"threads", func(o *Options, s *Sequence) { o.Threads = -1 }, []string{"Threads", "-1"}},
		{"audit", func(o *Options, s *Sequence) { o.AuditRows = -1 }, []string{"AuditRows", "-1"}},
		{"scale", func(o *Options, s *Sequence) { o.Scale = &nan }, []string{"Scale", "NaN"}},
		{"no q", func(o *Options, s *Sequence) { s.Q = Tensor{} }, []string{"Q", "element type"}},
		{"short", func(o *Options, s *Sequence) { s.K = FromFloat32(x(79), 2, 5, 8) }, []string{"K", "80", "79"}},
		{"strides", func(o *Options, s *Sequence) { s.K = FromFloat32(x(80), 2, 5, 8).Strided(-40, 8) }, []string{"K", "-40"}},
		{"huge", func(o *Options, s *Sequence) { s.K = FromFloat32(x(80), 2, 5, 8).Strided(math.MaxInt, math.MaxInt) }, []string{"K", "more than"}},
		{"pages", func(o *Options, s *Sequence) { s.V = FromPages([][]float32{x(32), x(32)}, 2, 2, 5, 8) }, []string{"V", "2 pages", "need 3"}},
		{"8-bit queries", func(o *Options, s *Sequence) { s.Q = FromInt8(make([]int8, 96), x(12), 4, 3, 8) }, []string{"Q", "I8", "F16"}},
		{"scales", func(o *Options, s *Sequence) { s.K = FromInt8(make([]int8, 80), x(9), 2, 5, 8) }, []string{"K", "9 scales"}},
		{"scales of pages", func(o *Options, s *Sequence) {
			s.K = FromInt8Pages([][]int8{make([]int8, 64), make([]int8, 64)}, [][]float32{x(8), x(4)}, 4, 2, 5, 8)
		}, []string{"K", "4 scales"}},
		{"pages of scales", func(o *Options, s *Sequence) {
			s.K = FromInt8Pages([][]int8{make([]int8, 64), make([]int8, 64)}, [][]float32{x(8)}, 4, 2, 5, 8)
		}, []string{"K", "1 pages", "need 2"}},
		{"alias scales", func(o *Options, s *Sequence) { s.K = FromInt8(make([]int8, 80), s.O.f32[0], 2, 5, 8) }, []string{"O overlaps K"}},
		{"heads", func(o *Options, s *Sequence) { s.K = FromFloat32(x(120), 3, 5, 8); s.V = s.K }, []string{"4 heads", "3", "multiple"}},
		{"queries", func(o *Options, s *Sequence) { s.K = FromFloat32(x(32), 2, 2, 8); s.V = s.K }, []string{"3 rows", "2", "keys"}},
		{"empty", func(o *Options, s *Sequence) { s.Q = FromFloat32(nil, 4, 0, 8) }, []string{"Q", "[4, 0, 8]", "≥ 1"}},
		{"dim", func(o *Options, s *Sequence) { s.K = FromFloat32(x(70), 2, 5, 7) }, []string{"K", "7", "8"}},
		{"big dim", func(o *Options, s *Sequence) { s.Q = FromFloat32(x(4*3*257), 4, 3, 257) }, []string{"257", "256"}},
		{"v", func(o *Options, s *Sequence) { s.V = FromFloat32(x(64), 2, 4, 8) }, []string{"V", "[2, 4, 8]", "[2, 5, 8]"}},
		{"o", func(o *Options, s *Sequence) { s.O = FromFloat32(x(64), 2, 4, 8) }, []string{"O", "[2, 4, 8]", "[4, 3, 8]"}},
		{"o type", func(o *Options, s *Sequence) { s.O = FromFloat16(make([]uint16, 96), 4, 3, 8) }, []string{"O", "F16", "F32"}},
		{"lse", func(o *Options, s *Sequence) { s.LSE = FromFloat32(x(12), 4, 1, 3) }, []string{"LSE", "[4, 1, 3]", "[4, 3, 1]"}},
		{"prompt", func(o *Options, s *Sequence) { s.Prompt = -1 }, []string{"Prompt", "-1"}},
		{"alias", func(o *Options, s *Sequence) { s.O = s.Q }, []string{"O overlaps Q"}},
		{"alias k", func(o *Options, s *Sequence) {
			y := x(160)
			s.O, s.K = FromFloat32(y[:96], 4, 3, 8), FromFloat32(y[80:], 2, 5, 8)
		}, []string{"O overlaps K"}},
		{"alias lse", func(o *Options, s *Sequence) {
			y := x(96)
			s.O, s.LSE = FromFloat32(y, 4, 3, 8), FromFloat32(y[84:], 4, 3, 1)
		}, []string{"O overlaps LSE"}},
		{"self", func(o *Options, s *Sequence) { s.O = FromFloat32(x(96), 4, 3, 8).Strided(0, 8) }, []string{"O overlap one another"}},
	} {
		opt, seq := base()
		out := seq.O.f32[0]
		c.f(&opt, &seq)
		_, err := Attend(t.Context(), opt, seq)
		if err == nil {
			t.Errorf("%s: no error", c.name)
			continue
		}
		for _, w := range c.want {
			if !strings.Contains(err.Error(), w) {
				t.Errorf("%s: error %q does not say %q", c.name, err, w)
			}
		}
		if slices.ContainsFunc(out, func(x float32) bool { return x == x }) {
			t.Errorf("%s: output was written", c.name)
		}
	}
	if _, err := Attend(t.Context(), Options{Planner: Dense()}); err == nil {
		t.Error("no sequences: no error")
	}
	_, a := base()
	other := newProblem(rand.New(rand.NewPCG(1, 1)), 2, 2, 3, 5, 8).sequence()
	if _, err := Attend(t.Context(), Options{Planner: Dense()}, a, other); err == nil || !strings.Contains(err.Error(), "sequence 1") {
		t.Errorf("sequences of different heads: error %v", err)
	}
}

// Sequences whose outputs lie interleaved in one buffer do not overlap.
func TestInterleavedBatch(t *testing.T) {
	r := rand.New(rand.NewPCG(10, 10))
	set := kernel.Levels()[len(kernel.Levels())-1]
	const heads, dim = 2, 8
	a, b := newProblem(r, heads, 1, 30, 30, dim), newProblem(r, heads, 1, 20, 20, dim)
	want, _, _ := mustAttend(t, set, Options{Planner: Dense()}, a.sequence(), b.sequence())
	out := make([]float32, heads*50*dim) // [heads, rows of both, dim]
	sa, sb := a.sequence(), b.sequence()
	sa.O = FromFloat32(out, heads, 30, dim).Strided(50*dim, dim)
	sb.O = FromFloat32(out[30*dim:], heads, 20, dim).Strided(50*dim, dim)
	mustAttend(t, set, Options{Planner: Dense()}, sa, sb)
	for h := range heads {
		if !slices.Equal(out[h*50*dim:][:30*dim], want[0][h*30*dim:][:30*dim]) || !slices.Equal(out[(h*50+30)*dim:][:20*dim], want[1][h*20*dim:][:20*dim]) {
			t.Errorf("head %d differs", h)
		}
	}
}

// A cancelled context ends the call with its error.
func TestCancel(t *testing.T) {
	p := newProblem(rand.New(rand.NewPCG(11, 11)), 2, 1, 3000, 3000, 16)
	for _, planner := range []Planner{Dense(), AnchorAttention(small(5))} {
		ctx, cancel := context.WithCancel(t.Context())
		calls := 0
		_, err := Attend(ctx, Options{Planner: planner, Threads: 1, Progress: func(float64) { calls++; cancel() }}, p.sequence())
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error %v; want context.Canceled", planner.Name(), err)
		}
		if _, err := Attend(ctx, Options{Planner: planner}, p.sequence()); !errors.Is(err, context.Canceled) {
			t.Errorf("%s, cancelled before: error %v; want context.Canceled", planner.Name(), err)
		}
	}
}

// Progress ascends to 1.
func TestProgress(t *testing.T) {
	p := newProblem(rand.New(rand.NewPCG(12, 12)), 2, 1, 1000, 1000, 16)
	var shares []float64
	opt := Options{Planner: AnchorAttention(small(5)), AuditRows: 40, Progress: func(x float64) { shares = append(shares, x) }}
	if _, err := Attend(t.Context(), opt, p.sequence()); err != nil {
		t.Fatal(err)
	}
	if n := len(shares); n < 5 || !slices.IsSorted(shares) || math.Abs(shares[n-1]-1) > 1e-9 {
		t.Errorf("progress %v", shares)
	}
}

// Merge adds results up and sums up recall over all audited rows.
func TestMerge(t *testing.T) {
	p := newProblem(rand.New(rand.NewPCG(13, 13)), 2, 1, 500, 500, 16)
	var parts []*Result
	for _, theta := range []float64{1, 5} {
		_, _, res := mustAttend(t, kernel.Levels()[0], Options{Planner: AnchorAttention(small(theta)), AuditRows: 20}, p.sequence())
		parts = append(parts, res)
	}
	m := Merge(parts...)
	if m.Pairs != parts[0].Pairs+parts[1].Pairs || m.Stripes != parts[0].Stripes+parts[1].Stripes || len(m.Audit) != 80 {
		t.Errorf("merged %+v", m)
	}
	if want := (parts[0].Recall.Mean + parts[1].Recall.Mean) / 2; math.Abs(m.Recall.Mean-want) > 1e-12 {
		t.Errorf("mean recall %v; want %v", m.Recall.Mean, want)
	}
	if want := min(parts[0].Recall.Min, parts[1].Recall.Min); m.Recall.Min != want {
		t.Errorf("least recall %v; want %v", m.Recall.Min, want)
	}
}

// Params survive JSON, infinities included; missing fields keep their values and unknown ones are errors.
func TestParamsJSON(t *testing.T) {
	for _, theta := range []float64{12, -0.5, math.Inf(1), math.Inf(-1)} {
		p := small(theta)
		data, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		var got Params
		if err := json.Unmarshal(data, &got); err != nil || !reflect.DeepEqual(got, p) {
			t.Errorf("%s gives %+v, %v; want %+v", data, got, err, p)
		}
	}
	got := DefaultParams()
	if err := json.Unmarshal([]byte(`{"theta":"inf","step":4}`), &got); err != nil || got.Step != 4 || got.Block != 128 || !math.IsInf(got.Theta, 1) {
		t.Errorf("got %+v, %v", got, err)
	}
	for _, bad := range []string{`{"theta":"many"}`, `{"theta":[1]}`, `{"Thta":1}`, `{"block":1.5}`, `[]`} {
		got := DefaultParams()
		if err := json.Unmarshal([]byte(bad), &got); err == nil || !reflect.DeepEqual(got, DefaultParams()) {
			t.Errorf("%s gives %+v, %v; want an error and no change", bad, got, err)
		}
	}
}

// Outputs that overlap a tensor of another sequence are found, whichever lies first in memory.
func TestOverlapBetweenSequences(t *testing.T) {
	sequences := func() (a, b Sequence) {
		return newProblem(rand.New(rand.NewPCG(1, 1)), 2, 1, 4, 4, 8).sequence(), newProblem(rand.New(rand.NewPCG(2, 2)), 2, 1, 4, 4, 8).sequence()
	}
	shared := make([]float32, 200)
	for name, f := range map[string]func(a, b *Sequence){
		"O of sequence 1 before K of 0": func(a, b *Sequence) {
			a.K, b.O = FromFloat32(shared[60:], 1, 4, 8), FromFloat32(shared, 2, 4, 8)
		},
		"O of sequence 1 after K of 0": func(a, b *Sequence) {
			a.K, b.O = FromFloat32(shared, 1, 4, 8), FromFloat32(shared[31:], 2, 4, 8)
		},
		"one O for both":       func(a, b *Sequence) { b.O = a.O },
		"LSE inside Q":         func(a, b *Sequence) { b.LSE = FromFloat32(a.Q.f32[0][50:], 2, 4, 1) },
		"in a page of a cache": func(a, b *Sequence) { a.V = FromPages([][]float32{shared[100:116], b.O.f32[0][:16]}, 2, 1, 4, 8) },
		"O inside a long, wide one": func(a, b *Sequence) {
			a.Q, b.O = FromFloat32(shared, 2, 4, 8).Strided(100, 8), FromFloat32(shared[110:], 2, 4, 8)
		},
	} {
		a, b := sequences()
		f(&a, &b)
		if _, err := Attend(t.Context(), Options{Planner: Dense()}, a, b); err == nil || !strings.Contains(err.Error(), "overlaps") {
			t.Errorf("%s: error %v", name, err)
		}
	}
	a, b := sequences()
	b.Q, b.K, b.V = a.Q, a.K, a.V // inputs may be shared
	a.O, b.O = FromFloat32(shared, 2, 4, 8), FromFloat32(shared[64:], 2, 4, 8)
	if _, err := Attend(t.Context(), Options{Planner: Dense()}, a, b); err != nil {
		t.Errorf("outputs side by side: %v", err)
	}
}
