// Package workload makes synthetic queries, keys and values with the structure of real attention heads: seeded,
// the same from run to run and for any number of threads, and without a model or a download.
//
// # Features
//
// Keys are the sum of features that lie in separate dimensions, so that the logit of a (query, key) pair is a sum of
// terms, each scaled by a gain of the query's head, in nats:
//
//   - Sink. The first keys of the sequence, of strengths 1, 0.7, 0.7 and 0.7, attract every row;
//     they have no other feature but their position.
//   - Local. Rotary pairs of D/8 frequencies, geometric from 1/2 to 1/2000 radians a position, turned alike for
//     query and key: 1 at distance 0, about 1/2 at 45 positions, and decaying logarithmically to nothing at 2000.
//   - Stripes. One key in 16 belongs to one of 16 topics (D/8 where that is fewer), with a strength of 0.7 to 1.1. Rows
//     attend to one topic and drift to another in the course of 1024 positions: the rows of a run share stripes, and which
//     those are changes slowly.
//   - Bursts. One run of 8 to 32 rows in every 128 attends to a topic that its neighbours do not care for.
//   - Body. Every other key has normal noise. A head looks at it along a direction of its own, so that it prefers the
//     same keys for all rows, with a standard deviation in nats; each row adds a little jitter. Where that
//     deviation is large the head is diffuse: its mass lies on many keys, none of which stands out.
//   - Needles. No two keys have the same body, so that a query which holds that of one key finds it among all others. One
//     row in 32 is a spike: it looks for one key far back, which no other row looks for.
//   - Slashes. Rows look for the keys at a distance of 2048 to 4095 positions, the same for all rows of a head, and at 32
//     and 96 more: the rotary pairs, turned back by the distances, draw the keys about them, and the body finds
//     the keys exactly there.
//
// With features in dimensions of their own, rather than mixed by a rotation, attention costs the same and the properties
// are plain. Every KV head has its own keys and values, which carry all features, and the query heads that share it differ
// by their gains alone: the kinds of heads are a table, in heads.go. Values are normal noise.
//
// # Rotary
//
// In the workload rotary the D/4 dimensions of the pairs are turned by the standard rotary embedding of base 500000, in
// interleaved pairs, after noise has been added to the keys'; the others are not turned (partial rotary, a quarter,
// as in GPT-NeoX). Local and slashes are what the embedding makes of vectors that are the same for all positions. Logits
// fall with the logarithm of the distance and weights with a power of it, so that local heads have most of their mass,
// about 0.8 at dim 128, within 1024 positions rather than 128. What must be found at any distance (sink, topics, the
// body) lies in the dimensions that are not turned. Beyond half a million positions slow pairs come round, and local heads
// lose their property.
//
// # Length
//
// Keys outside a head's features weigh about the same each, so that those features lose a nat to them whenever the
// length grows e-fold: from 8192 keys to a million, ln 128 = 4.9 nats. Topics are a constant share of all keys, so that
// stripes and bursts lose nothing to the rest, and gain on the sink. A needle sought with gain g outweighs the others by
// g − g²/2m − ln N nats, where m is the number of body dimensions, 79 of 128 and 39 of 64. A local head at gain g does so
// by about g − n·ln I₀(g/n) − ln N, with n = D/8 pairs (I₀ the modified Bessel function). At dim 128 the kinds of mixed keep
// most of their mass where they should up to a million keys, those of rotary up to 131072; at dim 64 all do up to
// 32768 but rotary's local heads, and of mixed all but local heads up to a million. A diffuse head has a sixth of its mass
// off the sinks and the window at 8192 keys, four fifths at 131072 and nearly all at a million.
package workload

import (
	"fmt"
	"strings"

	"github.com/anchorattention/anchor/internal/parallel"
)

// A Workload is a kind of synthetic heads.
type Workload struct {
	Name string

	heads  []head // of query heads, in turn
	rotary bool   // the pairs are turned by the standard rotary embedding
}

// Kind returns what kind a query head is of: sink, local, stripe, slash, spike, burst, diffuse or blend.
func (w *Workload) Kind(head int) string { return w.heads[head%len(w.heads)].kind }

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
	g := w.generator(s, seed)
	const chunk = 256
	parallel.For(parallel.Threads(threads), (s.Length+chunk-1)/chunk, func(_, i int) {
		turns := make([]float32, 2*g.pairs)
		for p := i * chunk; p < min((i+1)*chunk, s.Length); p++ {
			g.turn(turns, p)
			row := func(data []float32, head int) []float32 {
				at := head*rows + p*s.Dim
				return data[at : at+s.Dim]
			}
			for h := range s.KVHeads {
				g.key(row(d.K, h), h, p, turns)
				noise(row(d.V, h), 1, g.stream(streamValue, h, p))
			}
			for h := range s.Heads {
				g.query(row(d.Q, h), h, p, turns)
			}
		}
	})
	return d, nil
}
