package workload

import "math"

const (
	sinks       = 4       // keys with a share of the sink
	runLength   = 1024    // positions in which a row's topic turns into the next
	stripeOdds  = 16      // one key in so many belongs to a topic
	jitter      = 0.5     // standard deviation, in each dimension of the body, of what is a query row's alone
	turnedNoise = 0.5     // standard deviation of keys in dimensions that the rotary embedding turns
	burstEvery  = 128     // rows with one burst
	burstLeast  = 8       // rows of a burst, the fewest
	burstMost   = 32      // and the most
	spikeEvery  = 32      // rows of which one is a spike
	spikeFrom   = 4096    // first row that may be a spike
	needleFrom  = 128     // first key that may be a needle
	needleFar   = 2304    // least distance of a needle
	slashFrom   = 2048    // least distance of a slash
	base        = 500_000 // of the rotary embedding
)

// A layout says in which dimensions the features lie: the sink in the first, then one a topic, two a rotary pair, and the
// body in the rest.
type layout struct {
	dim, topics, pairs int
	rotary             bool // pairs are turned by the standard rotary embedding
}

func (l layout) local() int { return 1 + l.topics }
func (l layout) body() int  { return 1 + l.topics + 2*l.pairs }

// amplitude is a feature's size in keys. A query's is gain·√dim/amplitude, so that their scaled product is the
// gain; at gains of about 16 the two are alike.
func (l layout) amplitude() float64 { return 4 * math.Sqrt(math.Sqrt(float64(l.dim))) }

// frequency returns the angle in radians by which rotary pair i turns a position.
func (l layout) frequency(i int) float64 {
	if l.rotary {
		return math.Pow(base, -float64(i)/float64(l.pairs))
	}
	const fast, slow = 1.0 / 2, 1.0 / 2000
	return fast * math.Pow(slow/fast, float64(i)/float64(max(l.pairs-1, 1)))
}

// turn sets turns to cosine and sine of every pair's angle at position p.
func (l layout) turn(turns []float32, p int) {
	for f := range l.pairs {
		sin, cos := math.Sincos(float64(p) * l.frequency(f))
		turns[2*f], turns[2*f+1] = float32(cos), float32(sin)
	}
}

// embed turns a vector of pairs.
func embed(x, turns []float32) {
	for i := 0; i < len(turns); i += 2 {
		cos, sin, a, b := turns[i], turns[i+1], x[i], x[i+1]
		x[i], x[i+1] = a*cos-b*sin, a*sin+b*cos
	}
}

// A generator makes the rows of one sequence, each alone.
type generator struct {
	layout
	seed   uint64
	shared int // query heads that share a KV head
	heads  []queryHead
}

// slashes are the distances a slash head looks at, from that of its own on.
var slashes = []int{0, 32, 96}

// A queryHead is one query head of a sequence.
type queryHead struct {
	head
	direction []float64 // a unit vector of signs in the body
	slashes   []slash
}

// A slash is a distance that a head looks at.
type slash struct {
	distance int
	turns    []float32 // by it
}

func (w *Workload) generator(s Size, seed uint64) *generator {
	g := &generator{
		layout: layout{dim: s.Dim, topics: min(16, s.Dim/8), pairs: s.Dim / 8, rotary: w.rotary},
		seed:   seed, shared: s.Heads / s.KVHeads, heads: make([]queryHead, s.Heads),
	}
	for h := range g.heads {
		q := &g.heads[h]
		q.head = w.heads[h%len(w.heads)]
		r := g.stream(streamDirection, h, 0)
		q.direction = make([]float64, s.Dim-g.body())
		for i := range q.direction {
			q.direction[i] = math.Copysign(1/math.Sqrt(float64(len(q.direction))), float64(int64(r.next())))
		}
		if q.slash == 0 {
			continue
		}
		first := slashFrom + int(g.stream(streamSlash, h, 0).next()%slashFrom)
		for _, further := range slashes {
			x := slash{first + further, make([]float32, 2*g.pairs)}
			g.turn(x.turns, x.distance)
			q.slashes = append(q.slashes, x)
		}
	}
	return g
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
		topic := int(r.next() % uint64(g.topics))
		k[1+topic] = float32(a * (0.7 + 0.4*r.uniform()))
	}
	pairs := k[g.local():][:2*g.pairs]
	if g.rotary {
		noise(pairs, turnedNoise, g.stream(streamTurned, head, p))
	}
	size := float32(a / math.Sqrt(float64(g.pairs)))
	for i := 0; i < len(pairs); i += 2 {
		pairs[i] += size
	}
	embed(pairs, turns)
	if p >= sinks {
		g.bodyOf(k[g.body():], head, p)
	}
}

// bodyOf writes the body of the key at position p of a KV head.
func (g *generator) bodyOf(body []float32, head, p int) {
	noise(body, 1, g.stream(streamKey, head, p))
}

// query writes the query at position p of a head.
func (g *generator) query(q []float32, h, p int, turns []float32) {
	head := &g.heads[h]
	unit := math.Sqrt(float64(g.dim)) / g.amplitude()
	q[0] = float32(head.sink * unit)
	// Runs begin at different places in different heads.
	offset := int(g.stream(streamRun, h, 0).next() % runLength)
	run, at := (p+offset)/runLength, (p+offset)%runLength
	sin, cos := math.Sincos(float64(at) / runLength * math.Pi / 2)
	q[1+g.topicOf(h, run)] += float32(head.stripes * unit * cos)
	q[1+g.topicOf(h, run+1)] += float32(head.stripes * unit * sin)
	if topic, in := g.burst(h, p); in {
		q[1+topic] += float32(head.burst * unit)
	}
	body := q[g.body():]
	noise(body, jitter, g.stream(streamQuery, h, p))
	size64 := head.body * math.Sqrt(float64(g.dim))
	for i, x := range head.direction {
		body[i] += float32(size64 * x)
	}
	if needle, is := g.spike(h, p); is {
		g.seek(body, head.spike, h, needle)
	}
	pairs := q[g.local():][:2*g.pairs]
	unit /= math.Sqrt(float64(g.pairs))
	size := float32(head.local * unit)
	for i := 0; i < len(pairs); i += 2 {
		pairs[i] = size
	}
	for _, s := range head.slashes {
		if p < s.distance+sinks {
			continue
		}
		size := float32(head.slash / float64(len(slashes)) * unit)
		for i := 0; i < len(pairs); i += 2 {
			pairs[i] += size * s.turns[i]
			pairs[i+1] -= size * s.turns[i+1]
		}
		g.seek(body, head.exact, h, p-s.distance)
	}
	embed(pairs, turns)
}

// seek adds to a query's body what gives the key at position p that many nats.
func (g *generator) seek(body []float32, gain float64, h, p int) {
	var key [256]float32
	k := key[:len(body)]
	g.bodyOf(k, h/g.shared, p)
	var squares float64
	for _, x := range k {
		squares += float64(x) * float64(x)
	}
	size := float32(gain * math.Sqrt(float64(g.dim)) / squares)
	for i, x := range k {
		body[i] += size * x
	}
}

// topicOf returns what a head looks for at the beginning of a run: each head goes through the topics in turn.
func (g *generator) topicOf(h, run int) int {
	first := int(g.stream(streamTopics, h, 0).next() % uint64(g.topics))
	return (first + run) % g.topics
}

// burst returns the topic of the burst of a head, if it has any, that the row at position p is part of.
func (g *generator) burst(h, p int) (topic int, in bool) {
	if g.heads[h].burst == 0 {
		return 0, false
	}
	r := g.stream(streamBurst, h, p/burstEvery)
	length := burstLeast + int(r.next()%(burstMost-burstLeast+1))
	first := int(r.next() % uint64(burstEvery-length+1))
	at := p % burstEvery
	return int(r.next() % uint64(g.topics)), first <= at && at < first+length
}

// spike returns the key that the row at position p of a head looks for, if it is a spike.
func (g *generator) spike(h, p int) (needle int, is bool) {
	if g.heads[h].spike == 0 || p < spikeFrom {
		return 0, false
	}
	r := g.stream(streamSpike, h, p/spikeEvery)
	is = int(r.next()%spikeEvery) == p%spikeEvery
	return needleFrom + int(r.next()%uint64(p-needleFar-needleFrom)), is
}
