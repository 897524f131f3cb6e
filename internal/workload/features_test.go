package workload

import (
	"encoding/binary"
	"hash/crc64"
	"math"
	"runtime"
	"slices"
	"testing"

	"github.com/anchorattention/anchor/internal/parallel"
)

// A probe is one row whose mass is measured: where its head's kind says.
type probe struct {
	head, row int
	q         []float32
	holds     func(k []float32, j int) bool
}

// row returns the query at position p of a head.
func (g *generator) row(h, p int) []float32 {
	q, turns := make([]float32, g.dim), make([]float32, 2*g.pairs)
	g.turn(turns, p)
	g.query(q, h, p, turns)
	return q
}

// probe returns a row of a head at position p, or the last before it where the head does what its kind says.
func (g *generator) probe(h, p int) probe {
	isStripe := func(k []float32) bool {
		return slices.ContainsFunc(k[1:][:g.topics], func(x float32) bool { return x != 0 })
	}
	x := probe{head: h}
	switch g.heads[h].kind {
	case "sink":
		x.holds = func(_ []float32, j int) bool { return j < sinks }
	case "local":
		near := 128
		if g.rotary {
			near = 1024
		}
		x.holds = func(_ []float32, j int) bool { return p-j < near }
	case "stripe":
		x.holds = func(k []float32, j int) bool { return isStripe(k) }
	case "slash":
		x.holds = func(_ []float32, j int) bool {
			return slices.ContainsFunc(g.heads[h].slashes, func(s slash) bool { return p-j == s.distance })
		}
	case "spike":
		needle, is := g.spike(h, p)
		for ; !is; needle, is = g.spike(h, p) {
			p--
		}
		x.holds = func(_ []float32, j int) bool { return j == needle }
	case "burst":
		topic, in := g.burst(h, p)
		for ; !in; topic, in = g.burst(h, p) {
			p--
		}
		x.holds = func(k []float32, j int) bool { return k[1+topic] != 0 }
	case "diffuse":
		x.holds = func(_ []float32, j int) bool { return j >= sinks && p-j >= 128 }
	case "blend":
		x.holds = func(k []float32, j int) bool { return p-j < 128 || isStripe(k) }
	default:
		panic("a kind without a property")
	}
	x.row, x.q = p, g.row(h, p)
	return x
}

// shares returns how much of the softmax mass of each row is where it should be. Keys are made on the way.
func (g *generator) shares(rows []probe) []float64 {
	last, kvHeads := 0, 0
	for _, x := range rows {
		last, kvHeads = max(last, x.row), max(kvHeads, x.head/g.shared+1)
	}
	const chunk = 4096
	type mass struct{ all, held float64 }
	chunks := make([][]mass, last/chunk+1)
	parallel.For(parallel.Threads(0), len(chunks), func(_, c int) {
		m := make([]mass, len(rows))
		k, turns := make([]float32, g.dim), make([]float32, 2*g.pairs)
		for j := c * chunk; j < (c+1)*chunk; j++ {
			g.turn(turns, j)
			for kv := range kvHeads {
				clear(k)
				g.key(k, kv, j, turns)
				for i := range rows {
					if x := &rows[i]; x.head/g.shared == kv && j <= x.row {
						w := math.Exp(float64(dot(x.q, k)) / math.Sqrt(float64(g.dim)))
						m[i].all += w
						if x.holds(k, j) {
							m[i].held += w
						}
					}
				}
			}
		}
		chunks[c] = m
	})
	shares := make([]float64, len(rows))
	for i := range rows {
		var all, held float64
		for _, m := range chunks {
			all, held = all+m[i].all, held+m[i].held
		}
		shares[i] = held / all
	}
	return shares
}

func dot(a, b []float32) float32 {
	var s, t, u, v float32
	b = b[:len(a)]
	i := 0
	for ; i+4 <= len(a); i += 4 {
		s += a[i] * b[i]
		t += a[i+1] * b[i+1]
		u += a[i+2] * b[i+2]
		v += a[i+3] * b[i+3]
	}
	for ; i < len(a); i++ {
		s += a[i] * b[i]
	}
	return s + t + u + v
}

func lookup(t testing.TB, name string, s Size) *generator {
	t.Helper()
	w, err := Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	return w.generator(s, 1)
}

// Rows of every kind have the shares of their mass where they should, from 8192 to a million keys.
func TestShares(t *testing.T) {
	type least map[string]float64
	for _, c := range []struct {
		workload string
		at       int
		least    least
	}{
		{"mixed", 1<<13 - 1, least{"sink": 0.95, "local": 0.95, "stripe": 0.95, "slash": 0.95, "spike": 0.9, "burst": 0.95, "diffuse": 0.1, "blend": 0.95}},
		{"mixed", 1<<17 - 1, least{"sink": 0.95, "local": 0.95, "stripe": 0.95, "slash": 0.95, "spike": 0.9, "burst": 0.95, "diffuse": 0.7, "blend": 0.95}},
		{"mixed", 1<<20 - 1, least{"sink": 0.9, "local": 0.7, "stripe": 0.95, "slash": 0.6, "spike": 0.9, "burst": 0.95, "diffuse": 0.9, "blend": 0.95}},
		{"rotary", 1<<13 - 1, least{"sink": 0.95, "local": 0.7, "stripe": 0.95, "slash": 0.8, "spike": 0.9, "burst": 0.95, "diffuse": 0.1, "blend": 0.95}},
		{"rotary", 1<<17 - 1, least{"sink": 0.6, "local": 0.8, "stripe": 0.95, "slash": 0.9, "spike": 0.9, "burst": 0.95, "diffuse": 0.7, "blend": 0.95}},
	} {
		if testing.Short() && c.at > 1<<17 {
			continue
		}
		s := Size{Heads: 8, KVHeads: 2, Length: c.at + 1, Dim: 128}
		if c.at > 1<<17 {
			s.KVHeads = 1 // which takes half the time
		}
		g := lookup(t, c.workload, s)
		var rows []probe
		for h := range g.heads {
			rows = append(rows, g.probe(h, c.at))
		}
		for i, share := range g.shares(rows) {
			if kind := g.heads[i].kind; share < c.least[kind] {
				t.Errorf("%s, row %d of a %s head: %.3f of its mass is there; want ≥ %g", c.workload, rows[i].row, kind, share, c.least[kind])
			}
		}
	}
}

// A slash head looks at the same three distances from every row, a good part of its mass at each; another head at others.
func TestSlashes(t *testing.T) {
	g := lookup(t, "slash", Size{Heads: 2, KVHeads: 1, Length: 8192, Dim: 128})
	if a, b := g.heads[0].slashes[0].distance, g.heads[1].slashes[0].distance; a == b {
		t.Errorf("two heads have the distance %d", a)
	}
	var rows []probe
	for p := 4500; p < 8192; p += 200 {
		for i, s := range g.heads[0].slashes {
			if s.distance != g.heads[0].slashes[0].distance+slashes[i] || s.distance < 2048 || s.distance >= 4096+96 {
				t.Fatalf("distance %d is %d", i, s.distance)
			}
			rows = append(rows, probe{row: p, q: g.row(0, p), holds: func(_ []float32, j int) bool { return p-j == s.distance }})
		}
	}
	var mean [3]float64
	for i, share := range g.shares(rows) {
		if mean[i%3] += share / float64(len(rows)/3); share < 0.002 {
			t.Errorf("row %d has %.4f of its mass at distance %d; want ≥ 0.002", rows[i].row, share, g.heads[0].slashes[i%3].distance)
		}
	}
	for i, share := range mean {
		if share < 0.1 {
			t.Errorf("rows have %.3f of their mass at distance %d; want ≥ 0.1", share, g.heads[0].slashes[i].distance)
		}
	}
}

// Pooled rows are some rows of one head with what AnchorAttention makes of them: the largest logit of each in its window,
// which is the first 128 keys and those from 128 before its group of 2048 positions on.
type pooled struct {
	*generator
	first   int // position
	queries [][]float32
	anchors []float64
}

// keys returns the first n of KV head 0.
func (g *generator) keys(n int) [][]float32 {
	k, turns := make([][]float32, n), make([]float32, 2*g.pairs)
	for j := range k {
		k[j] = make([]float32, g.dim)
		g.turn(turns, j)
		g.key(k[j], 0, j, turns)
	}
	return k
}

// pooled returns the rows [from, to) of a head.
func (g *generator) pooled(h, from, to int, keys [][]float32) pooled {
	x := pooled{generator: g, first: from}
	for p := from; p < to; p++ {
		q, anchor := g.row(h, p), math.Inf(-1)
		for j := 0; j <= p; j++ {
			if j < 128 || j >= p/2048*2048-128 {
				anchor = max(anchor, float64(dot(q, keys[j])))
			}
		}
		x.queries, x.anchors = append(x.queries, q), append(x.anchors, anchor/math.Sqrt(float64(g.dim)))
	}
	return x
}

// mean returns the means of queries and anchors over the rows [from, to).
func (x pooled) mean(from, to int) (query []float32, anchor float64) {
	query = make([]float32, x.dim)
	for i := from - x.first; i < to-x.first; i++ {
		anchor += x.anchors[i] / float64(to-from)
		for d, y := range x.queries[i] {
			query[d] += y / float32(to-from)
		}
	}
	return query, anchor
}

// below returns how far the nearest of some keys scores below the anchor in the mean over the rows [from, to).
func (x pooled) below(keys [][]float32, from, to int) float64 {
	query, anchor := x.mean(from, to)
	nearest := math.Inf(1)
	for _, k := range keys {
		nearest = min(nearest, anchor-float64(dot(query, k))/math.Sqrt(float64(x.dim)))
	}
	return nearest
}

// A spike is one row in 32 which has most of its mass on one key far back, where no other row of its block of 128 has
// any. In the mean over the block, and even over 32 rows, that key is more than 12 nats below the anchor.
func TestSpikes(t *testing.T) {
	g := lookup(t, "spike", Size{Heads: 1, KVHeads: 1, Length: 8192, Dim: 128})
	keys := g.keys(8192)
	for from := 4096; from < 8192; from += 128 {
		spikes := 0
		for p := from; p < from+128; p++ {
			if needle, is := g.spike(0, p); is {
				if spikes++; needle < 128 || needle >= p/2048*2048-128 {
					t.Errorf("row %d: the needle %d lies in the window", p, needle)
				}
			}
		}
		if spikes != 4 {
			t.Errorf("%d spikes in the block at %d; want 4", spikes, from)
		}
	}
	for from := 4096; from < 8192; from += 1024 {
		x := g.pooled(0, from, from+128, keys)
		for p := from; p < from+128; p++ {
			needle, is := g.spike(0, p)
			if !is {
				continue
			}
			var rows []probe
			for i, q := range x.queries {
				if from+i == p || from+i == p-1 || from+i == p+1 || i%16 == 0 {
					rows = append(rows, probe{row: from + i, q: q, holds: func(_ []float32, j int) bool { return j == needle }})
				}
			}
			for i, share := range g.shares(rows) {
				if r := rows[i].row; r == p && share < 0.8 {
					t.Errorf("spike %d has %.3f of its mass on its needle; want ≥ 0.8", p, share)
				} else if r != p && share > 0.001 {
					t.Errorf("row %d has %.5f of its mass on the needle of %d; want ≤ 0.001", r, share, p)
				}
			}
			pool := p / 32 * 32
			whole, part := x.below(keys[needle:needle+1], from, from+128), x.below(keys[needle:needle+1], pool, pool+32)
			if whole <= 12 || part <= 12 {
				t.Errorf("the needle of %d is %.1f nats below the anchor in 128 rows and %.1f in 32; want > 12", p, whole, part)
			}
			if alone := x.below(keys[needle:needle+1], p, p+1); alone > 0 {
				t.Errorf("the needle of %d is %.1f nats below that row's anchor; want above", p, alone)
			}
		}
	}
}

// A burst is 8 to 32 rows, one in each block of 128. In the mean over the block every key of its topic is more than 12 nats
// below the anchor; over one of the four parts of 32 rows some keys are not, in most bursts. Rows before and after
// have next to no mass there.
func TestBursts(t *testing.T) {
	g := lookup(t, "burst", Size{Heads: 1, KVHeads: 1, Length: 8192, Dim: 128})
	keys := g.keys(8192)
	bursts, kept := 0, 0
	for from := 4096; from < 8192; from += 256 {
		var in []int
		topic := 0
		for p := from; p < from+128; p++ {
			if at, is := g.burst(0, p); is {
				in, topic = append(in, p), at
			}
		}
		if rows := len(in); rows < 8 || rows > 32 || in[rows-1]-in[0] != rows-1 {
			t.Fatalf("the burst of block %d is rows %v; want 8 to 32 in a row", from, in)
		}
		x := g.pooled(0, from, from+128, keys)
		var stripes [][]float32
		for _, k := range keys[128 : from/2048*2048-128] {
			if k[1+topic] != 0 {
				stripes = append(stripes, k)
			}
		}
		whole, part := x.below(stripes, from, from+128), math.Inf(1)
		for pool := from; pool < from+128; pool += 32 {
			part = min(part, x.below(stripes, pool, pool+32))
		}
		if whole <= 12 {
			t.Errorf("block %d, a burst of %d rows: a key is %.1f nats below the anchor; want > 12", from, len(in), whole)
		}
		if bursts++; part <= 12 {
			kept++
		}
		var rows []probe
		for _, p := range []int{in[0] - 1, in[len(in)/2], in[len(in)-1] + 1} {
			rows = append(rows, probe{row: p, q: g.row(0, p), holds: func(k []float32, j int) bool { return k[1+topic] != 0 }})
		}
		share := g.shares(rows)
		if before, here, after := share[0], share[1], share[2]; here < 0.9 || min(before, after) > 0.05 {
			t.Errorf("block %d: rows before, in and after the burst have %.3f, %.3f and %.3f of their mass on its topic", from, before, here, after)
		}
	}
	if 2*kept <= bursts {
		t.Errorf("%d of %d bursts have keys within 12 nats over 32 rows; want most", kept, bursts)
	}
}

// Rotary dimensions, turned back, are the same for all positions: exactly in queries without a slash, in the mean in keys.
func TestRotary(t *testing.T) {
	g := lookup(t, "rotary", Size{Heads: 8, KVHeads: 1, Length: 1 << 20, Dim: 64})
	if g.frequency(0) != 1 || math.Abs(g.frequency(4)*math.Sqrt(500_000)-1) > 1e-12 {
		t.Errorf("frequencies are %v and %v; want 1 and 1/√500000", g.frequency(0), g.frequency(4))
	}
	turns, k := make([]float32, 2*g.pairs), make([]float32, g.dim)
	back := func(x []float32, p int) []float32 {
		g.turn(turns, p)
		for i := range turns {
			if i%2 == 1 {
				turns[i] = -turns[i]
			}
		}
		embed(x, turns)
		return x
	}
	mean := make([]float64, 2*g.pairs)
	const n, step = 1 << 12, 255
	for i := range n {
		clear(k)
		g.turn(turns, i*step)
		g.key(k, 0, i*step, turns)
		for d, x := range back(k[g.local():][:2*g.pairs], i*step) {
			mean[d] += float64(x) / n
		}
	}
	size := g.amplitude() / math.Sqrt(float64(g.pairs))
	for d, x := range mean {
		if want := size * float64(1-d%2); math.Abs(x-want) > 0.05 {
			t.Errorf("dimension %d of keys is %.3f in the mean; want %.3f", d, x, want)
		}
	}
	first := back(g.row(1, 0)[g.local():][:2*g.pairs], 0)
	for _, p := range []int{1, 1000, 1<<20 - 1} {
		for d, x := range back(g.row(1, p)[g.local():][:2*g.pairs], p) {
			if math.Abs(float64(x-first[d])) > 1e-4 {
				t.Errorf("row %d, dimension %d: %v; want %v", p, d, x, first[d])
			}
		}
	}
}

// Rows made alone are those of the whole.
func TestAlone(t *testing.T) {
	s := Size{Heads: 16, KVHeads: 2, Length: 4500, Dim: 16}
	for _, name := range []string{"mixture", "mixed", "rotary"} {
		d, g := generate(t, name, s, 1, 0), lookup(t, name, s)
		for h := range s.Heads {
			for _, p := range []int{0, 3, 1000, 4400, 4499} {
				if !slices.Equal(g.row(h, p), d.Q[(h*s.Length+p)*s.Dim:][:s.Dim]) {
					t.Errorf("%s, head %d, row %d: the query differs", name, h, p)
				}
			}
		}
		for j, k := range g.keys(s.Length) {
			if !slices.Equal(k, d.K[j*s.Dim:][:s.Dim]) {
				t.Fatalf("%s: key %d differs", name, j)
			}
		}
	}
}

// Every workload says of each head what kind it is. Those named after a kind have no other, and it is that of mixed.
func TestKind(t *testing.T) {
	for name, want := range map[string][]string{
		"mixture": {"sink", "local", "stripe", "diffuse"},
		"mixed":   {"sink", "local", "stripe", "slash", "spike", "burst", "diffuse", "blend"},
		"rotary":  {"sink", "local", "stripe", "slash", "spike", "burst", "diffuse", "blend"},
		"diffuse": {"diffuse"}, "sink": {"sink"}, "local": {"local"}, "stripe": {"stripe"},
		"slash": {"slash"}, "spike": {"spike"}, "burst": {"burst"},
	} {
		w, err := Lookup(name)
		if err != nil {
			t.Fatal(err)
		}
		for h := range 20 {
			if kind := w.Kind(h); kind != want[h%len(want)] {
				t.Errorf("%s, head %d is %s; want %s", name, h, kind, want[h%len(want)])
			}
			if len(want) == 1 && name != "diffuse" && !slices.Contains(kinds, w.heads[0]) {
				t.Errorf("%s: not a kind of mixed", name)
			}
		}
	}
	if Names()[0] != "mixture" {
		t.Errorf("the first workload is %s; want mixture", Names()[0])
	}
}

// The numbers of workloads that measurements have been published of never change.
func TestUnchanged(t *testing.T) {
	if runtime.GOARCH != "amd64" {
		t.Skip("elsewhere multiplications and additions may be fused")
	}
	for _, c := range []struct {
		name string
		size Size
		want uint64
	}{
		{"mixture", Size{8, 2, 3000, 128}, 0xa5ef32ff99aafd65},
		{"mixture", Size{4, 2, 3000, 16}, 0x86369d0f7aedeba7},
		{"diffuse", Size{8, 2, 3000, 128}, 0x9e64a20dacce2769},
	} {
		d := generate(t, c.name, c.size, 1, 0)
		sum, table := uint64(0), crc64.MakeTable(crc64.ECMA)
		for _, x := range [][]float32{d.Q, d.K, d.V} {
			bytes := make([]byte, 4*len(x))
			for i, y := range x {
				binary.LittleEndian.PutUint32(bytes[4*i:], math.Float32bits(y+0)) // zeros are equal
			}
			sum = crc64.Update(sum, table, bytes)
		}
		if sum != c.want {
			t.Errorf("%s %+v: checksum %#x; want %#x", c.name, c.size, sum, c.want)
		}
	}
}
