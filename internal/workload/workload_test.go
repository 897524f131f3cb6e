package workload

import (
	"math"
	"slices"
	"strings"
	"testing"
)

var size = Size{Heads: 8, KVHeads: 2, Length: 1500, Dim: 128}

func generate(t testing.TB, name string, s Size, seed uint64, threads int) *Data {
	t.Helper()
	w, err := Lookup(name)
	if err != nil {
		t.Fatal(err)
	}
	d, err := w.Generate(s, seed, threads)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// logits returns those of the row at position p over keys 0 … p.
func (d *Data) logits(s Size, head, p int) []float64 {
	q := d.Q[(head*s.Length+p)*s.Dim:][:s.Dim]
	kv := head * s.KVHeads / s.Heads
	x := make([]float64, p+1)
	for j := range x {
		for i, y := range d.K[(kv*s.Length+j)*s.Dim:][:s.Dim] {
			x[j] += float64(y) * float64(q[i])
		}
		x[j] /= math.Sqrt(float64(s.Dim))
	}
	return x
}

// weights turns logits into softmax weights.
func weights(x []float64) []float64 {
	top, sum := slices.Max(x), 0.0
	for j, y := range x {
		x[j] = math.Exp(y - top)
		sum += x[j]
	}
	for j := range x {
		x[j] /= sum
	}
	return x
}

// Each kind of head has most of its softmax mass, over rows with a long past, where its name says.
func TestMass(t *testing.T) {
	d := generate(t, "mixture", size, 1, 0)
	const topics = 16
	isStripe := func(head, j int) bool {
		kv := head * size.KVHeads / size.Heads
		topics := d.K[(kv*size.Length+j)*size.Dim+1:][:topics]
		return slices.ContainsFunc(topics, func(x float32) bool { return x != 0 })
	}
	for _, kind := range []struct {
		name  string
		head  int
		holds func(head, p, j int) bool
		least float64
	}{
		{"sink", 0, func(_, _, j int) bool { return j < sinks }, 0.7},
		{"local", 1, func(_, p, j int) bool { return p-j < 128 }, 0.8},
		{"stripes", 2, func(head, _, j int) bool { return isStripe(head, j) }, 0.7},
	} {
		for _, head := range []int{kind.head, kind.head + 4} {
			var mass float64
			rows := 0
			for p := 1000; p < size.Length; p += 37 {
				for j, w := range weights(d.logits(size, head, p)) {
					if kind.holds(head, p, j) {
						mass += w
					}
				}
				rows++
			}
			if mass /= float64(rows); mass < kind.least {
				t.Errorf("%s head %d has %.3f of its mass there; want ≥ %g", kind.name, head, mass, kind.least)
			}
		}
	}
}

// Outside the sink, a diffuse head spreads its mass over many keys, and prefers the same ones from row to row.
func TestDiffuseHead(t *testing.T) {
	d := generate(t, "mixture", size, 1, 0)
	body := func(p int) []float64 { return weights(d.logits(size, 3, p)[sinks:900]) }
	for p := 1000; p < size.Length; p += 100 {
		w, before := body(p), body(p-64)
		var squares, both, squaresBefore float64
		for j := range w {
			squares += w[j] * w[j]
			squaresBefore += before[j] * before[j]
			both += w[j] * before[j]
		}
		if keys := 1 / squares; keys < 10 {
			t.Errorf("row %d: mass lies on %.1f keys in effect; want ≥ 10", p, keys)
		}
		if similar := both / math.Sqrt(squares*squaresBefore); similar < 0.5 {
			t.Errorf("rows %d and %d: weights have cosine %.2f; want ≥ 0.5", p-64, p, similar)
		}
	}
}

// Rows of a run share their stripes, and rows two runs apart do not.
func TestStripesDrift(t *testing.T) {
	s := size
	s.Length = 4096
	d := generate(t, "mixture", s, 1, 0)
	stripes := func(p int) map[int]bool {
		kept := make(map[int]bool)
		for j, x := range d.logits(s, 2, p)[sinks:1000] {
			if x > 9 {
				kept[j+sinks] = true
			}
		}
		return kept
	}
	share := func(a, b map[int]bool) float64 {
		both := 0
		for j := range a {
			if b[j] {
				both++
			}
		}
		return float64(both) / float64(max(len(a), len(b)))
	}
	for p := 1200; p+2*runLength < s.Length; p += 200 {
		here := stripes(p)
		if len(here) < 2 {
			t.Fatalf("row %d has %d stripes; want a few", p, len(here))
		}
		if near := share(here, stripes(p+32)); near < 0.5 {
			t.Errorf("rows %d and %d share %.2f of their stripes; want ≥ 0.5", p, p+32, near)
		}
		if far := share(here, stripes(p+2*runLength)); far > 0.2 {
			t.Errorf("rows %d and %d share %.2f of their stripes; want ≤ 0.2", p, p+2*runLength, far)
		}
	}
}

// In the workload diffuse no logit of a row is 12 nats below another.
func TestDiffuseIsFlat(t *testing.T) {
	d := generate(t, "diffuse", size, 1, 0)
	for h := range size.Heads {
		for p := 0; p < size.Length; p += 31 {
			x := d.logits(size, h, p)
			if spread := slices.Max(x) - slices.Min(x); spread > 8 {
				t.Fatalf("head %d, row %d: logits spread over %.1f nats; want ≤ 8", h, p, spread)
			}
		}
	}
}

// The data depend on workload, size and seed alone; rows do not depend on the length; KV heads differ; all is finite.
func TestDeterminism(t *testing.T) {
	for _, name := range Names() {
		s := Size{Heads: 4, KVHeads: 2, Length: 700, Dim: 16}
		d := generate(t, name, s, 7, 1)
		same := func(a, b *Data) bool {
			return slices.Equal(a.Q, b.Q) && slices.Equal(a.K, b.K) && slices.Equal(a.V, b.V)
		}
		if !same(d, generate(t, name, s, 7, 3)) {
			t.Errorf("%s: three threads give other data than one", name)
		}
		if same(d, generate(t, name, s, 8, 1)) {
			t.Errorf("%s: two seeds give the same data", name)
		}
		short := s
		short.Length = 300
		if !slices.Equal(generate(t, name, short, 7, 1).Q[:300*16], d.Q[:300*16]) {
			t.Errorf("%s: rows depend on the length", name)
		}
		if slices.Equal(d.K[:700*16], d.K[700*16:]) {
			t.Errorf("%s: KV heads have the same keys", name)
		}
		for _, x := range slices.Concat(d.Q, d.K, d.V) {
			if x-x != 0 {
				t.Fatalf("%s: has %v", name, x)
			}
		}
	}
}

// Noise has mean 0 and the deviation asked for.
func TestNoise(t *testing.T) {
	x := make([]float32, 1<<16)
	var s stream = 1
	noise(x, 2, &s)
	var sum, squares float64
	for _, y := range x {
		sum += float64(y)
		squares += float64(y) * float64(y)
	}
	if mean := sum / float64(len(x)); math.Abs(mean) > 0.05 {
		t.Errorf("mean is %.3f; want about 0", mean)
	}
	if deviation := math.Sqrt(squares / float64(len(x))); math.Abs(deviation-2) > 0.05 {
		t.Errorf("standard deviation is %.3f; want about 2", deviation)
	}
}

func TestErrors(t *testing.T) {
	if _, err := Lookup("nope"); err == nil || err.Error() != `workload is "nope"; want one of mixture, diffuse, mixed, rotary, sink, local, stripe, slash, spike, burst` {
		t.Errorf("Lookup: %v", err)
	}
	for _, c := range []struct {
		size Size
		want string
	}{
		{Size{4, 0, 10, 64}, "KV heads are 0"},
		{Size{5, 2, 10, 64}, "heads are 5"},
		{Size{0, 2, 10, 64}, "heads are 0"},
		{Size{4, 2, 0, 64}, "length is 0"},
		{Size{4, 2, 10, 15}, "dim is 15"},
		{Size{4, 2, 10, 257}, "dim is 257"},
		{Size{1 << 40, 2, 1 << 28, 256}, "heads are"},
		{Size{8, 2, 1 << 28, 128}, "need 1536.0 GiB for queries, keys and values; want at most 64 GiB"},
		{Size{1 << 20, 1 << 20, 1 << 28, 256}, "want at most 64 GiB"},
		{Size{2, 1, 1<<26 + 1, 64}, "want at most 64 GiB"},
	} {
		if err := c.size.Validate(); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%+v: %v; want %q", c.size, err, c.want)
		}
	}
}

// The largest size is one of 2³⁴ numbers.
func TestLargest(t *testing.T) {
	if err := (Size{2, 1, 1 << 26, 64}).Validate(); err != nil {
		t.Error(err)
	}
}

func BenchmarkGenerate(b *testing.B) {
	for _, name := range Names() {
		b.Run(name, func(b *testing.B) {
			for b.Loop() {
				generate(b, name, Size{Heads: 8, KVHeads: 2, Length: 4096, Dim: 128}, 1, 0)
			}
		})
	}
}
