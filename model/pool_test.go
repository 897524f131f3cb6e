package model

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/kernel"
	"github.com/anchorattention/anchor/internal/matrix"
	"pgregory.net/rapid"
)

// tinyModel returns a model of random weights.
func tinyModel(t testing.TB, positions int, windows ...int) *Model {
	t.Helper()
	c := Config{
		Vocab: 30, Hidden: 32, Intermediate: 20, Layers: 2, Heads: 4, KVHeads: 2, HeadDim: 8, MaxPositions: positions,
		RMSNormEps: 1e-6, RopeTheta: 1000, BOS: -1, Windows: windows,
	}
	m, err := New(c, normal(rand.New(rand.NewPCG(1, 1))))
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// normal returns a source of normally distributed weights.
func normal(rng *rand.Rand) func(name string, shape ...int) ([]float32, error) {
	return func(_ string, shape ...int) ([]float32, error) {
		n := 1
		for _, s := range shape {
			n *= s
		}
		w := make([]float32, n)
		for i := range w {
			w[i] = float32(rng.NormFloat64())
		}
		return w, nil
	}
}

func randomIDs(n int, seed uint64) []int32 {
	rng := rand.New(rand.NewPCG(seed, 7))
	ids := make([]int32, n)
	for i := range ids {
		ids[i] = rng.Int32N(30)
	}
	return ids
}

// Whatever is made, shared and closed in whatever order: a page is used, kept or free and never two of them, references are
// the caches that have it, the limit is never exceeded, and a page that is found by a name has what was shared under it.
func TestPoolModel(t *testing.T) {
	m := tinyModel(t, 20*PageTokens)
	rapid.Check(t, func(t *rapid.T) {
		const limit = 12
		p, err := m.NewPool(anchor.Int8, limit*m.newPool(anchor.Int8, PageTokens, 0).PageBytes())
		if err != nil {
			t.Fatal(err)
		}
		name := func(text, page int) Key { return Key{byte(text), byte(page)} }
		// A text's pages from the first on have names that all caches of that text would give them.
		type user struct {
			*Cache
			text int
		}
		var users []user
		content := make(map[Key]*page) // of what was shared last under a name
		check := func() {
			references := make(map[*page]int)
			for _, u := range users {
				for _, page := range u.pages {
					references[page]++
				}
			}
			free := make(map[*page]bool)
			for _, page := range p.free {
				if free[page] || page.references != 0 || page.named || references[page] != 0 {
					t.Fatalf("free page %+v, seen before: %v, used by %d", page, free[page], references[page])
				}
				free[page] = true
			}
			kept := 0
			for e := p.idle.Front(); e != nil; e = e.Next() {
				page := e.Value.(*page)
				if page.references != 0 || !page.named || p.named[page.key] != page || references[page] != 0 || free[page] {
					t.Fatalf("kept page %+v, used by %d, free: %v", page, references[page], free[page])
				}
				kept++
			}
			for page, n := range references {
				if page.references != n || page.idle != nil || free[page] {
					t.Fatalf("page of %d caches has %d references, kept: %v, free: %v", n, page.references, page.idle != nil, free[page])
				}
			}
			for key, page := range p.named {
				if !page.named || page.key != key || content[key] != page {
					t.Fatalf("a page is found under %v that is not the one shared", key)
				}
			}
			s := p.Stats()
			if s.Used != len(references) || s.Kept != kept || s.Used+s.Kept+len(p.free) != p.made || p.made > limit || s.Pages != limit {
				t.Fatalf("stats %+v, %d made, %d free; want %d used and %d kept of %d", s, p.made, len(p.free), len(references), kept, limit)
			}
		}
		t.Repeat(map[string]func(*rapid.T){
			"open": func(t *rapid.T) {
				text, pages := rapid.IntRange(0, 2).Draw(t, "text"), rapid.IntRange(1, limit+2).Draw(t, "pages")
				step := rapid.IntRange(1, 3).Draw(t, "step")
				var prefix []Key
				for i := range rapid.IntRange(0, pages-1).Draw(t, "prefix") {
					prefix = append(prefix, name(text, i))
				}
				together := slices.Collect(slices.Chunk(prefix, step))
				before := p.Stats()
				found, idle := 0, 0
				for found < len(prefix) && p.named[prefix[found]] != nil {
					found++
				}
				if found < len(prefix) {
					found -= found % step
				}
				for _, key := range prefix[:found] {
					if p.named[key].references == 0 {
						idle++
					}
				}
				c, err := p.NewCache(pages*PageTokens-rapid.IntRange(0, PageTokens-1).Draw(t, "less"), together)
				if fits := before.Used+idle+pages-found <= limit; fits != (err == nil) {
					t.Fatalf("%d pages, %d found, of %+v: error %v", pages, found, before, err)
				}
				if err != nil {
					if pages > limit == errors.Is(err, ErrFull) {
						t.Fatalf("%d pages of %d: error %v", pages, limit, err)
					}
					if after := p.Stats(); after != before {
						t.Fatalf("an error leaves %+v of %+v", after, before)
					}
					return
				}
				if c.Len() != found*PageTokens || len(c.pages) != pages {
					t.Fatalf("a cache of %d tokens in %d pages; want %d pages of %d", c.Len(), len(c.pages), found, pages)
				}
				for i, page := range c.pages[:found] {
					if content[name(text, i)] != page {
						t.Fatalf("page %d is not the one shared", i)
					}
				}
				users = append(users, user{c, text})
			},
			"fill and share": func(t *rapid.T) {
				if len(users) == 0 {
					t.Skip()
				}
				u := users[rapid.IntRange(0, len(users)-1).Draw(t, "user")]
				u.length = rapid.IntRange(u.length, u.capacity).Draw(t, "length")
				var names []Key
				for i := range u.length / PageTokens {
					names = append(names, name(u.text, i))
					if p.named[names[i]] == nil {
						content[names[i]] = u.pages[i]
					}
				}
				if err := u.Share(names); err != nil {
					t.Fatal(err)
				}
				if err := u.Share(make([]Key, u.length/PageTokens+1)); err == nil {
					t.Fatal("a page that is not full was shared")
				}
				if n := len(names) * PageTokens; n > 0 && u.Truncate(n-1) == nil {
					t.Fatal("a shared page was truncated")
				}
			},
			"close": func(t *rapid.T) {
				if len(users) == 0 {
					t.Skip()
				}
				i := rapid.IntRange(0, len(users)-1).Draw(t, "user")
				users[i].Close()
				users[i].Close()
				users = slices.Delete(users, i, i+1)
			},
			"": func(*rapid.T) { check() },
		})
	})
}

// Of pages that nobody uses those used least recently go first, and of one text the last.
func TestEviction(t *testing.T) {
	m := tinyModel(t, 20*PageTokens)
	p, err := m.NewPool(anchor.BFloat16, 6*m.newPool(anchor.BFloat16, PageTokens, 0).PageBytes())
	if err != nil {
		t.Fatal(err)
	}
	names := func(text, n int) (keys []Key) {
		for i := range n {
			keys = append(keys, Key{byte(text), byte(i)})
		}
		return keys
	}
	open := func(text, pages int) *Cache {
		c, err := p.NewCache((pages+1)*PageTokens, slices.Collect(slices.Chunk(names(text, pages), 1)))
		if err != nil {
			t.Fatal(err)
		}
		c.length = pages * PageTokens
		if err := c.Share(names(text, pages)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	a, b := open(1, 2), open(2, 2)
	a.Close()
	b.Close()
	open(1, 2).Close() // a again
	c := open(3, 2)    // takes three: two that are free, and one of b
	found := func(text int) int {
		n := 0
		for n < 2 && p.named[Key{byte(text), byte(n)}] != nil {
			n++
		}
		return n
	}
	if found(1) != 2 || found(2) != 1 || found(3) != 2 {
		t.Errorf("found %d pages of a, %d of b, %d of c; want 2, 1, 2", found(1), found(2), found(3))
	}
	c.Close()
}

// typed makes random matrices of a type.
type typed struct {
	matrix.Type
	*rand.Rand
}

func (s typed) matrix(_ string, rows, cols int) (*matrix.Matrix, error) {
	elements, bytes := s.Block()
	data := make([]byte, rows*cols/elements*bytes)
	for at := 0; at < len(data); at += bytes {
		for i := range data[at : at+bytes] {
			data[at+i] = byte(s.Uint32())
		}
		if s.Type == matrix.BF16 {
			binary.LittleEndian.PutUint16(data[at:], kernel.RoundToBFloat16(float32(s.NormFloat64())))
		} else {
			binary.LittleEndian.PutUint16(data[at:], kernel.RoundToFloat16(float32(map[matrix.Type]float64{matrix.Q8_0: 1. / 64, matrix.Q4_0: 0.25}[s.Type])))
		}
	}
	return matrix.New(s.Type, rows, cols, data)
}

func (s typed) vector(_ string, n int) (*matrix.Matrix, error) {
	return matrix.FromFloat32(slices.Repeat([]float32{1}, n), 1, n), nil
}

// A batch gives each of its sequences, of mixed lengths and with some text before or none, bit by bit what it would have alone,
// in every type of cache and of weights, with windows and without, and for any number of threads.
func TestBatch(t *testing.T) {
	t.Run("all keys", func(t *testing.T) { testBatch(t, tinyModel(t, 1000)) })
	for _, typ := range []matrix.Type{matrix.BF16, matrix.Q8_0, matrix.Q4_0} {
		t.Run(typ.String(), func(t *testing.T) {
			c := tinyModel(t, 1000).cfg
			c.Intermediate = 32
			m, err := build(c, typed{typ, rand.New(rand.NewPCG(6, 6))})
			if err != nil {
				t.Fatal(err)
			}
			testBatch(t, m)
		})
	}
	t.Run("windows", func(t *testing.T) { testBatch(t, tinyModel(t, 1000, 0, 180)) }) // some parts are longer, some shorter
}

func testBatch(t *testing.T, m *Model) {
	sparse := anchor.AnchorAttention(anchor.Params{Block: 8, Step: 4, Init: 4, Local: 4, Theta: 1, Tail: 10})
	for _, dtype := range []anchor.DType{anchor.Float32, anchor.BFloat16, anchor.Float16, anchor.Int8} {
		p, err := m.NewPool(dtype, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		lengths := [][]int{{150, 1, 1}, {33, 64}, {1}, {300}, {40, 7}, {32, 1}} // what comes before, and then the batch's
		prepare := func() []Part {
			var parts []Part
			for i, cuts := range lengths {
				c, err := p.NewCache(400, nil)
				if err != nil {
					t.Fatal(err)
				}
				ids := randomIDs(400, uint64(i))
				from := 0
				for _, n := range cuts[:len(cuts)-1] {
					if _, _, err := m.Forward(t.Context(), c, ids[from:from+n], ForwardOptions{Planner: sparse, Prompt: 170}); err != nil {
						t.Fatal(err)
					}
					from += n
				}
				parts = append(parts, Part{Cache: c, IDs: ids[from : from+cuts[len(cuts)-1]], Prompt: 170, Dense: i == 4, Silent: i == 3})
			}
			return parts
		}
		layers := func(layer int) anchor.Planner {
			if layer == 1 {
				return sparse
			}
			return nil
		}
		opt := ForwardOptions{Planner: anchor.Dense(), LayerPlanner: layers}
		alone := prepare()
		var want [][]float32
		for _, part := range alone {
			logits, _, err := m.ForwardBatch(t.Context(), []Part{part}, opt)
			if err != nil {
				t.Fatal(err)
			}
			want = append(want, logits[0])
		}
		for _, threads := range []int{1, 3} {
			opt.Threads = threads
			batch := prepare()
			got, stats, err := m.ForwardBatch(t.Context(), batch, opt)
			if err != nil {
				t.Fatal(err)
			}
			for i := range batch {
				if !slices.Equal(got[i], want[i]) || (got[i] == nil) != batch[i].Silent {
					t.Errorf("%v, %d threads: part %d has other logits in a batch", dtype, threads, i)
				}
				for layer := range 2 {
					for _, values := range []bool{false, true} {
						a, b := batch[i].Cache, alone[i].Cache
						if a.Len() != b.Len() {
							t.Fatalf("%d tokens in the cache of part %d; want %d", a.Len(), i, b.Len())
						}
						x, y := make([]float32, 8), make([]float32, 8)
						for h := range 2 {
							for row := range a.Len() {
								a.tensor(layer, values, a.Len()).Read(x, h, row)
								b.tensor(layer, values, a.Len()).Read(y, h, row)
								if !slices.Equal(x, y) {
									t.Fatalf("%v: layer %d, row %d of part %d is another in a batch", dtype, layer, row, i)
								}
							}
						}
					}
				}
			}
			if stats.ProductSeconds <= 0 || stats.ProductSeconds > stats.OtherSeconds {
				t.Errorf("%v s of products in %v s of all but attention", stats.ProductSeconds, stats.OtherSeconds)
			}
			for _, part := range batch {
				part.Cache.Close()
			}
		}
		for _, part := range alone {
			part.Cache.Close()
		}
		if s := p.Stats(); s.Used != 0 {
			t.Errorf("%v: %d pages are used after all", dtype, s.Used)
		}
	}
}

// What a cache holds in fewer bits is near what was put in, and logits stay near those of single precision.
func TestCacheTypes(t *testing.T) {
	m := tinyModel(t, 1000)
	ids := randomIDs(300, 3)
	var want []float32
	for _, c := range []struct {
		dtype     anchor.DType
		tolerance float64 // of rows, as a share of their largest
	}{{anchor.Float32, 0}, {anchor.Float16, 1. / 2048}, {anchor.BFloat16, 1. / 256}, {anchor.Int8, 0.5 / 127 * 1.0001}} {
		p, err := m.NewPool(c.dtype, 1<<30)
		if err != nil {
			t.Fatal(err)
		}
		cache, err := p.NewCache(300, nil)
		if err != nil {
			t.Fatal(err)
		}
		rng := rand.New(rand.NewPCG(4, 4))
		for range 200 {
			row, got := make([]float32, 8), make([]float32, 8)
			most := 0.
			scale := math.Exp(rng.NormFloat64())
			for d := range row {
				row[d] = float32(rng.NormFloat64() * scale)
				most = max(most, math.Abs(float64(row[d])))
			}
			head, at := rng.IntN(2), rng.IntN(300)
			cache.put(1, true, head, at, row)
			cache.tensor(1, true, 300).Read(got, head, at)
			for d := range row {
				if !(math.Abs(float64(got[d]-row[d])) <= c.tolerance*most) {
					t.Fatalf("%v: %v reads as %v", c.dtype, row, got)
				}
			}
		}
		logits, _, err := m.Forward(t.Context(), cache, ids, ForwardOptions{Planner: anchor.Dense()})
		if err != nil {
			t.Fatal(err)
		}
		if want == nil {
			want = logits
			continue
		}
		var off, size float64
		for i, x := range logits {
			off += math.Pow(float64(x-want[i]), 2)
			size += math.Pow(float64(want[i]), 2)
		}
		if off = math.Sqrt(off / size); !(off < 0.1) || off == 0 {
			t.Errorf("%v: logits are off by %v of their norm", c.dtype, off)
		}
	}
}

// Rows that are not numbers stay that; zeros and numbers too small to scale are zero.
func TestInt8Rows(t *testing.T) {
	inf := float32(math.Inf(1))
	for _, c := range []struct {
		row  []float32
		want string
	}{
		{[]float32{0, 0}, "[0 0]"}, {[]float32{127, -63.6}, "[127 -64]"}, {[]float32{inf, 1}, "[NaN NaN]"},
		{[]float32{float32(math.NaN()), 1}, "[NaN NaN]"}, {[]float32{1e-45, -1e-45}, "[0 0]"}, {[]float32{3e38, -3e38}, "[3e+38 -3e+38]"},
	} {
		data := make([]int8, 2)
		scale := toInt8(data, c.row)
		if got := fmt.Sprint([]float32{scale * float32(data[0]), scale * float32(data[1])}); got != c.want {
			t.Errorf("%v reads as %s; want %s", c.row, got, c.want)
		}
	}
}

// A pool says what is wrong with numbers.
func TestPoolErrors(t *testing.T) {
	m := tinyModel(t, 1000)
	size := int64(2 * 2 * 2 * PageTokens * 8 * 4)
	p, err := m.NewPool(anchor.Float32, 3*size+5)
	if err != nil {
		t.Fatal(err)
	}
	mustFail := func(err error, want ...string) {
		t.Helper()
		for _, w := range want {
			if err == nil || !strings.Contains(err.Error(), w) {
				t.Errorf("error %v; want one that mentions %q", err, w)
			}
		}
	}
	_, err = m.NewPool(anchor.Float32, size-1)
	mustFail(err, fmt.Sprint(size-1), fmt.Sprint(size), "128 tokens")
	_, err = m.NewPool(0, size)
	mustFail(err, "DType(0)", "I8")
	mustFail(p.Fits(0), "capacity is 0")
	mustFail(p.Fits(1001), "1001", "1000")
	mustFail(p.Fits(3*128+1), "385 tokens", "4 pages", fmt.Sprint(4*size), "limit is 3 pages", fmt.Sprint(3*size))
	a, err := p.NewCache(2*128, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, err = p.NewCache(2*128, nil)
	mustFail(err, ErrFull.Error(), "2 more pages", "1 of 3")
	b, err := p.NewCache(1, nil)
	if err != nil {
		t.Fatal(err)
	}

	other, err := m.NewCache(5)
	if err != nil {
		t.Fatal(err)
	}
	half, err := m.NewPool(anchor.Float16, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	c, err := half.NewCache(5, nil)
	if err != nil {
		t.Fatal(err)
	}
	opt := ForwardOptions{Planner: anchor.Dense()}
	for _, test := range []struct {
		parts []Part
		want  string
	}{
		{nil, "no parts"},
		{[]Part{{Cache: a, IDs: []int32{1}}, {Cache: a, IDs: []int32{1}}}, "part 1: the cache is that of another part"},
		{[]Part{{Cache: a, IDs: []int32{1}}, {Cache: c, IDs: []int32{1}}}, "part 1: the cache is in F16"},
		{[]Part{{Cache: a, IDs: []int32{1}}, {Cache: b, IDs: []int32{1, 2}}}, "part 1: 2 tokens after 0"},
		{[]Part{{Cache: a, IDs: []int32{1}}, {Cache: other, IDs: []int32{30}}}, "part 1: token 0 is 30"},
		{[]Part{{Cache: other}, {Cache: a, IDs: []int32{1}}}, "part 0: no tokens"},
	} {
		_, _, err := m.ForwardBatch(context.Background(), test.parts, opt)
		mustFail(err, test.want)
	}
	opt.Capture = func(int, []float32, []float32, []float32) error { return nil }
	_, _, err = m.ForwardBatch(context.Background(), []Part{{Cache: a, IDs: []int32{1}}, {Cache: b, IDs: []int32{1}}}, opt)
	mustFail(err, "Capture with a batch of 2 parts")
	opt.Capture = nil
	a.Close()
	_, _, err = m.Forward(context.Background(), a, []int32{1}, opt)
	mustFail(err, "overfill")
}
