package anchor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
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

// lengths returns prompt lengths around the borders of blocks and groups.
func lengths() []int {
	if testing.Short() {
		return []int{1, 127, 128, 129}
	}
	return []int{1, 127, 128, 129, 2047, 2048, 2049, 4097}
}

// The operator equals the definition over odd shapes and parameters: output, log-sum-exp, stripes, pairs, recall.
func TestDefinition(t *testing.T) {
	r := rand.New(rand.NewPCG(1, 1))
	type c struct {
		heads, kvHeads, nq, nk, dim, prompt int
		p                                   *Params
	}
	var cases []c
	for _, dim := range []int{1, 64, 72, 80, 96, 112, 128, 192, 256} {
		p := small(3 + r.Float64()*2)
		p.Init = []int{0, 3}[dim/8%2]
		cases = append(cases, c{2, 1, 129, 129, dim, 0, &p}, c{2, 1, 65, 130, dim, 0, nil})
	}
	for _, n := range []int{1, 7, 8, 39, 40, 41, 127, 128, 129, 200} {
		p, q := small(4), small(2)
		p.Init, q.Init, q.Tail, q.Local = 0, 0, 0, 0
		cases = append(cases, c{4, 2, n, n, 16, 0, &p}, c{3, 3, n, n + 33, 16, 0, &q}, c{6, 1, n, n + 80, 16, 0, nil})
	}
	for _, theta := range []float64{math.Inf(1), math.Inf(-1)} {
		p, q := small(theta), small(theta)
		q.Init, q.Local, q.Tail = 0, 0, 0
		cases = append(cases, c{4, 2, 129, 150, 24, 0, &p}, c{2, 2, 127, 127, 24, 0, &q})
	}
	for _, prompt := range []int{100, 131, 140, 170, 300} { // tails before, across and beyond the call
		p := small(3)
		p.Tail = 23
		cases = append(cases, c{4, 2, 57, 140, 16, prompt, &p})
	}
	for _, p := range []Params{
		{Block: 1, Step: 1, Init: 0, Local: 0, Theta: 2, Tail: 0}, {Block: 1, Step: 40, Init: 5, Local: 1, Theta: 2, Tail: 1},
		{Block: 33, Step: 1, Init: 3, Local: 100, Theta: 3, Tail: 0}, {Block: 16, Step: 17, Init: 1000, Local: 0, Theta: 1, Tail: 0},
		{Block: 8, Step: 5, Init: 0, Local: 1 << 29, Theta: 1, Tail: 0}, {Block: 8, Step: 5, Init: 0, Local: 0, Theta: -1, Tail: 1 << 29},
		{Block: 64, Step: 1, Init: 0, Local: 0, Theta: 2, Tail: 3},
	} {
		cases = append(cases, c{2, 1, 150, 163, 16, 0, &p})
	}
	for _, c := range cases {
		if testing.Short() && c.nk*c.dim > 1<<14 {
			continue
		}
		name := fmt.Sprintf("%d-%d heads, %d of %d, dim %d, %v", c.heads, c.kvHeads, c.nq, c.nk, c.dim, c.p)
		p := newProblem(r, c.heads, c.kvHeads, c.nq, c.nk, c.dim)
		p.prompt = c.prompt
		want := p.solve(c.p, nil)
		planner := Dense()
		if c.p != nil {
			planner = AnchorAttention(*c.p)
		}
		for _, set := range kernel.Levels() {
			o, lse, res := mustAttend(t, set, Options{Planner: planner, Stripes: true, AuditRows: c.nq, Threads: 2}, p.sequence())
			want := want
			if c.p != nil {
				lists := res.StripeSets[0].split()
				if len(lists) != len(want.stripes) {
					t.Fatalf("%s, %s: %d lists of stripes; want %d", name, set.Name(), len(lists), len(want.stripes))
				}
				same := true
				for i := range lists {
					same = same && slices.Equal(lists[i], want.stripes[i])
					if g, w := without(lists[i], want.near[i]), without(want.stripes[i], want.near[i]); !slices.Equal(g, w) {
						t.Fatalf("%s, %s: stripes %d are %v; want %v", name, set.Name(), i, g, w)
					}
				}
				if !same { // a key too close to the threshold to insist on
					want = p.solve(c.p, lists)
				}
			}
			tolerance := 2e-5
			if c.dim > 128 {
				tolerance = 5e-5
			}
			if d := differ(o[0], want.o); d > tolerance {
				t.Errorf("%s, %s: o differs by %g", name, set.Name(), d)
			}
			if d := differ(lse[0], want.lse); d > tolerance {
				t.Errorf("%s, %s: lse differs by %g", name, set.Name(), d)
			}
			if res.Pairs != want.pairs {
				t.Errorf("%s, %s: %d pairs; want %d", name, set.Name(), res.Pairs, want.pairs)
			}
			for _, a := range res.Audit {
				if w := want.recall[a.Head*c.nq+a.Position-(c.nk-c.nq)]; math.Abs(a.Recall-w) > 1e-5 {
					t.Errorf("%s, %s: recall of head %d, position %d is %v; want %v", name, set.Name(), a.Head, a.Position, a.Recall, w)
				}
			}
			if len(res.Audit) != c.heads*c.nq {
				t.Errorf("%s, %s: %d rows audited; want all %d", name, set.Name(), len(res.Audit), c.heads*c.nq)
			}
		}
	}
}

// counting is a problem whose logits are all zero and whose values name their keys, so that the outputs count how
// often each residue class of keys was attended.
func counting(heads, kvHeads, nq, nk int) *problem {
	const dim = 64
	p := &problem{heads: heads, kvHeads: kvHeads, dim: dim, nq: nq, nk: nk}
	p.q, p.k, p.v = make([]float32, heads*nq*dim), make([]float32, kvHeads*nk*dim), make([]float32, kvHeads*nk*dim)
	for h := range kvHeads {
		for j := range nk {
			p.v[(h*nk+j)*dim+j%dim] = 1
		}
	}
	return p
}

// Every (row, key ≤ p) pair is in exactly one of window, stripes and dropped: with equal logits, θ ≥ 0 attends to
// every key once and θ < 0 to the window, each key once.
func TestPartition(t *testing.T) {
	for _, n := range lengths() {
		for _, p := range []Params{DefaultParams(), {Block: 8, Step: 5, Init: 0, Local: 8, Tail: 16}, {Block: 128, Step: 2, Init: 3, Local: 0, Tail: 0}} {
			for _, nq := range []int{n, (n + 1) / 2, 1} {
				for _, theta := range []float64{0, -1} {
					p.Theta = theta
					prob := counting(1, 1, nq, n)
					set := kernel.Levels()[len(kernel.Levels())-1]
					o, _, _ := mustAttend(t, set, Options{Planner: AnchorAttention(p)}, prob.sequence())
					for _, row := range sampleRows(40, nq) {
						pos := n - nq + row
						start := pos - pos%p.group()
						var times [64]int
						total := 0
						for j := 0; j <= pos; j++ {
							if theta == 0 || pos >= n-p.Tail || j < p.Init || j >= start-p.Local {
								times[j%64]++
								total++
							}
						}
						for d, want := range times {
							got := float64(o[0][row*64+d]) * float64(total)
							if math.Abs(got-float64(want)) > 1e-2 {
								t.Fatalf("n %d, %d queries, %+v: position %d attends to %.3f keys ≡ %d mod 64; want %d", n, nq, p, pos, got, d, want)
							}
						}
					}
				}
			}
		}
	}
}

// θ = +∞ equals dense attention, and θ = −∞ the window alone, whatever the lengths.
func TestThetaLimits(t *testing.T) {
	r := rand.New(rand.NewPCG(2, 2))
	forLevels(t, func(t *testing.T, set *kernel.Set) {
		for _, n := range lengths() {
			for _, nq := range []int{n, n/2 + 1, 1} {
				p := newProblem(r, 2, 1, nq, n, 8)
				par := Params{Block: 16, Step: 8, Init: 4, Local: 16, Tail: 8}
				par.Theta = math.Inf(1)
				do, dl, dense := mustAttend(t, set, Options{Planner: Dense()}, p.sequence())
				ao, al, all := mustAttend(t, set, Options{Planner: AnchorAttention(par), AuditRows: 16}, p.sequence())
				if d := max(maxDiff(do[0], ao[0]), maxDiff(dl[0], al[0])); d > 5e-6 {
					t.Errorf("n %d, %d queries: θ = +∞ differs from dense by %g", n, nq, d)
				}
				if all.Pairs != dense.Pairs || all.Density() != 1 || all.Recall.Min < 1-1e-5 {
					t.Errorf("n %d, %d queries: θ = +∞ attends to %d pairs with least recall %v; dense to %d", n, nq, all.Pairs, all.Recall.Min, dense.Pairs)
				}
				par.Theta = math.Inf(-1)
				_, _, window := mustAttend(t, set, Options{Planner: AnchorAttention(par)}, p.sequence())
				if window.Stripes != 0 {
					t.Errorf("n %d, %d queries: θ = −∞ keeps %d stripes", n, nq, window.Stripes)
				}
			}
		}
	})
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

// Results are bitwise equal from run to run and for any number of threads.
func TestDeterministic(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 3))
	problems := []*problem{
		newProblem(r, 4, 2, 700, 900, 40), newProblem(r, 3, 1, 129, 129, 1), newProblem(r, 2, 2, 1, 2049, 80), newProblem(r, 8, 1, 127, 300, 192),
	}
	forLevels(t, func(t *testing.T, set *kernel.Set) {
		for _, dtype := range inputs(set) {
			for i, p := range problems {
				for _, planner := range []Planner{Dense(), AnchorAttention(small(5))} {
					var first []uint32
					for _, threads := range []int{1, 2, 3, 8, 1} {
						o, lse, _ := mustAttend(t, set, Options{Planner: planner, Threads: threads}, p.as(dtype))
						got := bitsOf(o[0], lse[0])
						if first == nil {
							first = got
						}
						if !slices.Equal(got, first) {
							t.Errorf("problem %d, %s: %d threads give another result", i, planner.Name(), threads)
						}
					}
				}
			}
		}
	})
}

// Grouped heads equal repeated heads; a prompt cut at group borders equals one call; a batch equals its sequences.
// All bitwise.
func TestInvariance(t *testing.T) {
	r := rand.New(rand.NewPCG(4, 4))
	forLevels(t, func(t *testing.T, set *kernel.Set) {
		for _, dtype := range inputs(set) {
			for _, planner := range []Planner{Dense(), AnchorAttention(small(4.5))} {
				for _, n := range append(lengths(), 39, 333) {
					for _, dim := range []int{1, 16, 72} {
						if n > 1000 && dim > 16 {
							continue
						}
						kvHeads := []int{1, 2, 4}[(n+dim)%3]
						p := newProblem(r, 4, kvHeads, n, n, dim)
						o, lse, _ := mustAttend(t, set, Options{Planner: planner}, p.as(dtype))

						repeated := *p
						repeated.kvHeads, repeated.k, repeated.v = 4, nil, nil
						for h := range 4 {
							from := h * kvHeads / 4 * n * dim
							repeated.k = append(repeated.k, p.k[from:from+n*dim]...)
							repeated.v = append(repeated.v, p.v[from:from+n*dim]...)
						}
						ro, rl, _ := mustAttend(t, set, Options{Planner: planner}, repeated.as(dtype))
						if !slices.Equal(bitsOf(ro[0], rl[0]), bitsOf(o[0], lse[0])) {
							t.Errorf("%s, %s, n %d, dim %d: repeated heads give another result", planner.Name(), dtype, n, dim)
						}

						var batch []Sequence
						var lengths []int
						for from := 0; from < n; {
							to := min(from+40*(1+r.IntN(3)), n)
							batch = append(batch, p.rows(from, to).as(dtype))
							lengths = append(lengths, to-from)
							from = to
						}
						bo, bl, _ := mustAttend(t, set, Options{Planner: planner}, batch...)
						from := 0
						for i, m := range lengths {
							so, sl, _ := mustAttend(t, set, Options{Planner: planner}, batch[i])
							if !slices.Equal(bitsOf(so[0], sl[0]), bitsOf(bo[i], bl[i])) {
								t.Errorf("%s, %s, n %d, dim %d: a batch gives another result than its sequences", planner.Name(), dtype, n, dim)
							}
							for h := range 4 {
								if !slices.Equal(bitsOf(bo[i][h*m*dim:(h+1)*m*dim]), bitsOf(o[0][(h*n+from)*dim:(h*n+from+m)*dim])) {
									t.Errorf("%s, %s, n %d, dim %d: rows %d…%d of head %d differ from one call", planner.Name(), dtype, n, dim, from, from+m, h)
								}
							}
							from += m
						}
					}
				}
			}
		}
	})
}

// A prompt no longer than one group is dense, at the cost of dense.
func TestShortPromptIsDense(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 5))
	set := kernel.Levels()[len(kernel.Levels())-1]
	for _, n := range []int{1, 128, 129, 2047, 2048} {
		p := newProblem(r, 4, 2, n, n, 16)
		do, dl, dense := mustAttend(t, set, Options{Planner: Dense()}, p.sequence())
		par := DefaultParams()
		par.Theta, par.Tail = -1000, 0
		ao, al, res := mustAttend(t, set, Options{Planner: AnchorAttention(par)}, p.sequence())
		if !slices.Equal(bitsOf(do[0], dl[0]), bitsOf(ao[0], al[0])) || res.FLOPs != dense.FLOPs {
			t.Errorf("n %d: AnchorAttention differs from dense (%g FLOPs, %g)", n, res.FLOPs, dense.FLOPs)
		}
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

// Views: strides, pages and 16-bit elements give what contiguous single precision gives.
func TestViews(t *testing.T) {
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

				// [rows, heads, dim], as a model has it.
				transpose := func(x []float32, heads, rows int) []float32 {
					y := make([]float32, len(x))
					for h := range heads {
						for i := range rows {
							copy(y[(i*heads+h)*dim:][:dim], x[(h*rows+i)*dim:])
						}
					}
					return y
				}
				s := p.sequence()
				s.Q = FromFloat32(transpose(p.q, heads, nq), heads, nq, dim).Strided(dim, heads*dim)
				s.K = FromFloat32(transpose(p.k, kvHeads, nk), kvHeads, nk, dim).Strided(dim, kvHeads*dim)
				s.V = FromFloat32(transpose(p.v, kvHeads, nk), kvHeads, nk, dim).Strided(dim, kvHeads*dim)
				out := make([]float32, heads*nq*dim)
				s.O = FromFloat32(out, heads, nq, dim).Strided(dim, heads*dim)
				_, lse, _ = mustAttend(t, set, Options{Planner: planner}, s)
				back := make([]float32, len(out))
				for h := range heads {
					for i := range nq {
						copy(back[(h*nq+i)*dim:][:dim], out[(i*heads+h)*dim:])
					}
				}
				if !slices.Equal(bitsOf(back, lse[0]), want) {
					t.Errorf("%s, dim %d: strided views give another result", planner.Name(), dim)
				}

				// Pages of 50 rows.
				pages := func(x []float32) [][]float32 {
					var all [][]float32
					for from := 0; from < nk; from += 50 {
						page := make([]float32, kvHeads*50*dim)
						for h := range kvHeads {
							copy(page[h*50*dim:(h+1)*50*dim], x[(h*nk+from)*dim:(h*nk+min(from+50, nk))*dim])
						}
						all = append(all, page)
					}
					return all
				}
				s = p.sequence()
				s.K, s.V = FromPages(pages(p.k), 50, kvHeads, nk, dim), FromPages(pages(p.v), 50, kvHeads, nk, dim)
				o, lse, _ = mustAttend(t, set, Options{Planner: planner}, s)
				if !slices.Equal(bitsOf(o[0], lse[0]), want) {
					t.Errorf("%s, dim %d: pages give another result", planner.Name(), dim)
				}

				// 16-bit elements.
				narrow := func(x []float32, f func(float32) uint16) []uint16 {
					y := make([]uint16, len(x))
					for i := range x {
						y[i] = f(x[i])
					}
					return y
				}
				bf := func(x float32) uint16 { return uint16(math.Float32bits(x) >> 16) }
				s = p.sequence()
				s.Q, s.K = FromBFloat16(narrow(p.q, bf), heads, nq, dim), FromFloat16(narrow(p.k, toHalf), kvHeads, nk, dim)
				s.V = FromBFloat16(narrow(p.v, bf), kvHeads, nk, dim)
				o, lse, _ = mustAttend(t, set, Options{Planner: planner}, s)
				if !slices.Equal(bitsOf(o[0], lse[0]), want) {
					t.Errorf("%s, dim %d: 16-bit elements give another result", planner.Name(), dim)
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

// NaN and infinities reach the rows that see them and no others; a NaN keeps a key.
func TestNotFinite(t *testing.T) {
	r := rand.New(rand.NewPCG(8, 8))
	const n, dim, at = 200, 16, 100
	nan, inf := float32(math.NaN()), float32(math.Inf(1))
	forLevels(t, func(t *testing.T, set *kernel.Set) {
		for _, dtype := range inputs(set) {
			for _, bad := range []float32{nan, inf, -inf} {
				for _, planner := range []Planner{Dense(), AnchorAttention(small(math.Inf(1)))} {
					clean := newProblem(r, 2, 1, n, n, dim)
					want, _, _ := mustAttend(t, set, Options{Planner: planner}, clean.as(dtype))

					p := *clean
					p.v = slices.Clone(p.v)
					p.v[at*dim+3] = bad
					o, _, res := mustAttend(t, set, Options{Planner: planner, AuditRows: n}, p.as(dtype))
					for i, got := range o[0] {
						row, d := i/dim%n, i%dim
						if row >= at && d == 3 {
							if got == got && got != bad {
								t.Fatalf("%s: value %v at key %d gives %v at row %d", planner.Name(), bad, at, got, row)
							}
						} else if math.Float32bits(got) != math.Float32bits(want[0][i]) {
							t.Fatalf("%s: value %v at key %d changes row %d, element %d", planner.Name(), bad, at, row, d)
						}
					}
					if res.NonFiniteRows != 2*(n-at) {
						t.Errorf("%s: value %v: %d rows not finite; want %d", planner.Name(), bad, res.NonFiniteRows, 2*(n-at))
					}

					p = *clean
					p.k = slices.Clone(p.k)
					p.k[at*dim+3] = bad
					o, _, res = mustAttend(t, set, Options{Planner: planner, AuditRows: n}, p.as(dtype))
					for i, got := range o[0] {
						row, h := i/dim%n, i/dim/n
						spoiled := row >= at
						if s := bad * p.q[(h*n+row)*dim+3]; spoiled && s == -inf {
							continue // a key with logit −∞ has no weight
						}
						if spoiled != (got != got) {
							t.Fatalf("%s: key %v at %d gives %v at row %d", planner.Name(), bad, at, got, row)
						}
					}
					if bad != bad && res.NonFiniteRows != 2*(n-at) {
						t.Errorf("%s: key %v: %d rows not finite; want %d", planner.Name(), bad, res.NonFiniteRows, 2*(n-at))
					}
				}
			}
			// One NaN in a query makes its block's mean NaN, which keeps every key for the group.
			p := newProblem(r, 1, 1, n, n, dim)
			p.q[150*dim] = nan
			_, _, res := mustAttend(t, set, Options{Planner: AnchorAttention(small(-1000)), Stripes: true}, p.as(dtype))
			for g, keys := range res.StripeSets[0].split() {
				want := 0
				if g == 150/40 {
					want = 3*40 - 8 - 3
				}
				if len(keys) != want {
					t.Errorf("NaN in a query of group 3: group %d has %d stripes; want %d", g, len(keys), want)
				}
			}
			// All logits −∞: no softmax, and no crash.
			p = newProblem(r, 1, 1, 50, 50, 1)
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

// Large logits, far beyond what exponentials can hold, are exact.
func TestLargeLogits(t *testing.T) {
	r := rand.New(rand.NewPCG(9, 9))
	forLevels(t, func(t *testing.T, set *kernel.Set) {
		p := newProblem(r, 1, 1, 150, 150, 16)
		for i := range p.q {
			p.q[i] *= 100
		}
		want := p.solve(nil, nil)
		o, lse, _ := mustAttend(t, set, Options{Planner: Dense()}, p.sequence())
		if d := differ(o[0], want.o); d > 1e-3 {
			t.Errorf("o differs by %g", d)
		}
		if d := differ(lse[0], want.lse); d > 1e-3 {
			t.Errorf("lse differs by %g", d)
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
