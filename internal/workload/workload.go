// Package workload makes synthetic queries, keys and values with the structure of real attention heads: seeded,
// the same from run to run and for any number of threads, and without a model or a download.
//
// # The mixture
//
// Keys are the sum of four features that lie in separate dimensions, so that the logit of a (query, key) pair is
// the sum of four terms, each scaled by a gain of the query's head, in nats:
//
//   - Sink. The first keys of the sequence, of strengths 1, 0.7, 0.7 and 0.7, attract every row;
//     they have no other feature but their position.
//   - Local. Rotary pairs of D/8 frequencies, geometric from 1/2 to 1/2000 radians a position, turned alike for
//     query and key: 1 at distance 0, about 1/2 at 45 positions, and decaying logarithmically to nothing at 2000.
//   - Stripes. One key in 16 belongs to one of 16 topics, with a strength of 0.7 to 1.1. Rows attend to one topic
//     and drift to another in the course of 1024 positions: the rows of a run share stripes, and which those are
//     changes slowly.
//   - Body. Every other key has normal noise. A head looks at it along a direction of its own, so that it prefers the
//     same keys for all rows, with a standard deviation in nats; each row adds a little jitter. Where that
//     deviation is large the head is diffuse: its mass lies on many keys, none of which stands out.
//
// Query heads come in four kinds, in turn, each with most of its mass on one of the features. Every KV head has its
// own keys and values, and the query heads that share it differ by their gains. With features in dimensions of
// their own, rather than mixed by a rotation, attention costs the same and the properties are plain.
package workload

import (
	"fmt"
	"math"
	"strings"

	"github.com/anchorattention/anchor/internal/parallel"
)

// A Workload is a kind of synthetic heads.
type Workload struct {
	Name string

	heads []gains // of query heads, in turn
}

// gains are the logits in nats that a query head gives to each feature at strength 1.
type gains struct {
	sink, local, stripes float64
	body                 float64 // standard deviation
}

// jitter is the standard deviation, in each dimension of the body, of what is a query row's alone.
const jitter = 0.5

var workloads = []*Workload{
	{
		Name: "mixture", // sink, local, stripe and diffuse heads in turn, like those of trained models
		heads: []gains{
			{sink: 20, local: 10, stripes: 10, body: 0.5},
			{sink: 14, local: 20, stripes: 8, body: 0.5},
			{sink: 16, local: 12, stripes: 20, body: 0.5},
			{sink: 16, local: 4, stripes: 0, body: 3},
		},
	},
	{
		Name:  "diffuse", // flat heads: every key scores within a few nats of every other, so that none can be dropped
		heads: []gains{{sink: 1, local: 0, stripes: 0, body: 0.5}},
	},
}

// Names returns the names of all workloads, the default first.
func Names() []string {
	var names []string
	for _, w := range workloads {
		names = append(names, w.Name)
	}
	return names
}

// Lookup returns the workload of the given name. The error lists the names there are.
func Lookup(name string) (*Workload, error) {
	for _, w := range workloads {
		if w.Name == name {
			return w, nil
		}
	}
	return nil, fmt.Errorf("workload is %q; want one of %s", name, strings.Join(Names(), ", "))
}

// Size says how much to make.
type Size struct {
	Heads, KVHeads int // Heads is a multiple of KVHeads
	Length         int // rows of queries, and keys
	Dim            int // 16 … 256
}

// Validate reports the first field that is out of range.
func (s Size) Validate() error {
	switch {
	case s.KVHeads < 1:
		return fmt.Errorf("KV heads are %d; want ≥ 1", s.KVHeads)
	case s.Heads < 1 || s.Heads%s.KVHeads != 0:
		return fmt.Errorf("heads are %d; want a multiple of the %d KV heads", s.Heads, s.KVHeads)
	case s.Length < 1 || s.Length > maxLength:
		return fmt.Errorf("length is %d; want 1 … %d", s.Length, maxLength)
	case s.Dim < 16 || s.Dim > 256:
		return fmt.Errorf("dim is %d; want 16 … 256", s.Dim)
	case s.Heads > maxLength/s.Dim:
		return fmt.Errorf("heads are %d; want at most %d at dim %d", s.Heads, maxLength/s.Dim, s.Dim)
	}
	if n := (s.Heads + 2*s.KVHeads) * s.Length * s.Dim; n > maxNumbers {
		return fmt.Errorf("heads %d, KV heads %d, length %d and dim %d need %.1f GiB for queries, keys and values; want at most %d GiB",
			s.Heads, s.KVHeads, s.Length, s.Dim, float64(n)/(1<<28), maxNumbers>>28)
	}
	return nil
}

const (
	maxLength  = 1 << 28
	maxNumbers = 1 << 34 // in queries, keys and values together
)

// Data are the tensors of one sequence, each contiguous: Q [heads, length, dim], K and V [KV heads, length, dim].
type Data struct {
	Q, K, V []float32
}

// The features' dimensions: one for the sink, one a topic, two a rotary pair, and the body in the rest.
type layout struct {
	dim, topics, pairs int
}

func layoutOf(dim int) layout {
	return layout{dim: dim, topics: min(16, dim/8), pairs: dim / 8}
}

func (l layout) local() int { return 1 + l.topics }
func (l layout) body() int  { return 1 + l.topics + 2*l.pairs }

const (
	sinks      = 4    // keys with a share of the sink
	runLength  = 1024 // positions in which a row's topic turns into the next
	stripeOdds = 16   // one key in so many belongs to a topic
)

// amplitude is a feature's size in keys. A query's is gain·√dim/amplitude, so that their scaled product is the
// gain; at gains of about 16 the two are alike.
func (l layout) amplitude() float64 { return 4 * math.Sqrt(math.Sqrt(float64(l.dim))) }

// frequency returns the angle in radians by which rotary pair i turns a position.
func (l layout) frequency(i int) float64 {
	const fast, slow = 1.0 / 2, 1.0 / 2000
	return fast * math.Pow(slow/fast, float64(i)/float64(max(l.pairs-1, 1)))
}

// Generate makes one sequence, on the given number of threads, 0 meaning GOMAXPROCS. The data depend on nothing but
// the workload, the size and the seed; rows do not depend on the length.
func (w *Workload) Generate(s Size, seed uint64, threads int) (*Data, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	rows := s.Length * s.Dim
	d := &Data{
		Q: make([]float32, s.Heads*rows),
		K: make([]float32, s.KVHeads*rows),
		V: make([]float32, s.KVHeads*rows),
	}
	g := generator{layout: layoutOf(s.Dim), seed: seed}
	directions := make([][]float64, s.Heads) // unit vectors of signs in the body
	for h := range directions {
		r := g.stream(streamDirection, h, 0)
		directions[h] = make([]float64, s.Dim-g.body())
		for i := range directions[h] {
			directions[h][i] = math.Copysign(1/math.Sqrt(float64(len(directions[h]))), float64(int64(r.next())))
		}
	}
	const chunk = 256
	parallel.For(parallel.Threads(threads), (s.Length+chunk-1)/chunk, func(_, i int) {
		turns := make([]float32, 2*g.pairs)
		for p := i * chunk; p < min((i+1)*chunk, s.Length); p++ {
			for f := range g.pairs {
				sin, cos := math.Sincos(float64(p) * g.frequency(f))
				turns[2*f], turns[2*f+1] = float32(cos), float32(sin)
			}
			row := func(data []float32, head int) []float32 {
				at := head*rows + p*s.Dim
				return data[at : at+s.Dim]
			}
			for h := range s.KVHeads {
				g.key(row(d.K, h), h, p, turns)
				noise(row(d.V, h), 1, g.stream(streamValue, h, p))
			}
			for h := range s.Heads {
				g.query(row(d.Q, h), w.heads[h%len(w.heads)], directions[h], h, p, turns)
			}
		}
	})
	return d, nil
}

type generator struct {
	layout
	seed uint64
}

// key writes the key at position p of a KV head.
func (g *generator) key(k []float32, head, p int, turns []float32) {
	a := g.amplitude()
	switch {
	case p == 0:
		k[0] = float32(a)
	case p < sinks:
		k[0] = float32(0.7 * a)
	}
	if r := g.stream(streamTopic, head, p); p >= sinks && r.next()%stripeOdds == 0 {
		topic := r.next() % uint64(g.topics)
		k[1+topic] = float32(a * (0.7 + 0.4*r.uniform()))
	}
	size := float32(a / math.Sqrt(float64(g.pairs)))
	for i, t := range turns {
		k[g.local()+i] = size * t
	}
	if p >= sinks {
		noise(k[g.body():], 1, g.stream(streamKey, head, p))
	}
}

// query writes the query at position p of a head.
func (g *generator) query(q []float32, gain gains, direction []float64, head, p int, turns []float32) {
	unit := math.Sqrt(float64(g.dim)) / g.amplitude()
	q[0] = float32(gain.sink * unit)
	// Runs begin at different places in different heads.
	offset := int(g.stream(streamRun, head, 0).next() % runLength)
	run, at := (p+offset)/runLength, (p+offset)%runLength
	sin, cos := math.Sincos(float64(at) / runLength * math.Pi / 2)
	q[1+g.topic(head, run)] += float32(gain.stripes * unit * cos)
	q[1+g.topic(head, run+1)] += float32(gain.stripes * unit * sin)
	size := float32(gain.local * unit / math.Sqrt(float64(g.pairs)))
	for i, t := range turns {
		q[g.local()+i] = size * t
	}
	body := q[g.body():]
	noise(body, jitter, g.stream(streamQuery, head, p))
	size64 := gain.body * math.Sqrt(float64(g.dim))
	for i, x := range direction {
		body[i] += float32(size64 * x)
	}
}

// topic returns what a head looks for at the beginning of a run: each head goes through the topics in turn.
func (g *generator) topic(head, run int) int {
	first := int(g.stream(streamTopics, head, 0).next() % uint64(g.topics))
	return (first + run) % g.topics
}
