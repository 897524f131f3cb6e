package generate

import (
	"cmp"
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
)

// Sampling says how the next token is chosen from the logits. The zero value takes the likeliest, the lowest id among equals.
//
// What is set is applied in this order, which is Hugging Face's: repetition penalty, temperature, top-k, top-p, min-p. Each filter
// sees the probabilities, of sum one, of the tokens that those before it left. Then a token is drawn from what is left, by its
// probability. Equally likely tokens come in the order of their ids. The same logits and seed give the same tokens on
// every processor; the logits themselves differ in rounding between kernel levels.
type Sampling struct {
	// Temperature divides the logits; at 0 the likeliest token is taken, whatever the filters. At most 100.
	Temperature float64 `json:"temperature"`
	// TopK keeps so many of the likeliest tokens; 0 keeps all.
	TopK int `json:"top_k,omitempty"`
	// TopP keeps the fewest of the likeliest tokens whose probabilities sum to so much; 0 and 1 keep all.
	TopP float64 `json:"top_p,omitempty"`
	// MinP keeps the tokens that are at least so many times as likely as the likeliest; 0 keeps all. At most 1.
	MinP float64 `json:"min_p,omitempty"`
	// RepetitionPenalty makes tokens less likely that are in the prompt or have been generated: positive logits are divided
	// by it, negative ones multiplied (Keskar et al., arXiv 1909.05858). 0 and 1 are none; below 1 they become likelier.
	RepetitionPenalty float64 `json:"repetition_penalty,omitempty"`
	// Seed is where the draws begin.
	Seed uint64 `json:"seed,omitempty"`
}

// Validate reports the first field that is out of range.
func (s Sampling) Validate() error {
	for _, f := range []struct {
		name        string
		value, most float64
	}{{"Temperature", s.Temperature, 100}, {"TopP", s.TopP, 1}, {"MinP", s.MinP, 1}, {"RepetitionPenalty", s.RepetitionPenalty, 100}} {
		if !(f.value >= 0 && f.value <= f.most) {
			return fmt.Errorf("Sampling.%s is %v; want 0 … %v", f.name, f.value, f.most)
		}
	}
	if s.TopK < 0 {
		return fmt.Errorf("Sampling.TopK is %d; want ≥ 0", s.TopK)
	}
	return nil
}

// A sampler chooses the tokens of one sequence, one after the other.
type sampler struct {
	Sampling
	random *rand.PCG
	seen   map[int32]bool // tokens that the penalty is for
	all    []candidate    // scratch
}

// A candidate is a token with what its probability is proportional to.
type candidate struct {
	id     int32
	logit  float64
	weight float64
}

// newSampler makes a sampler that chooses what comes after a prompt.
func newSampler(s Sampling, prompt []int32) *sampler {
	c := &sampler{Sampling: s, random: rand.NewPCG(s.Seed, 0)}
	if c.penalised() {
		c.seen = make(map[int32]bool)
		for _, id := range prompt {
			c.seen[id] = true
		}
	}
	return c
}

func (c *sampler) penalised() bool { return c.RepetitionPenalty != 0 && c.RepetitionPenalty != 1 }

// next chooses a token. Logits that are NaN or infinitely large are an error.
func (c *sampler) next(logits []float32) (int32, error) {
	c.all = c.all[:0]
	for id, x := range logits {
		if x != x || x > math.MaxFloat32 {
			return 0, fmt.Errorf("generate: the logit of token %d is %v: the model's weights or activations are not finite", id, x)
		}
		c.all = append(c.all, candidate{id: int32(id), logit: float64(x)})
	}
	if c.penalised() {
		for id := range c.seen {
			if x := &c.all[id].logit; *x > 0 {
				*x /= c.RepetitionPenalty
			} else {
				*x = float64(*x * c.RepetitionPenalty)
			}
		}
	}
	id := c.choose()
	if c.seen != nil {
		c.seen[id] = true
	}
	return id, nil
}

func (c *sampler) choose() int32 {
	best := c.all[0]
	for _, x := range c.all {
		if x.logit > best.logit {
			best = x
		}
	}
	if c.Temperature == 0 || math.IsInf(best.logit, -1) {
		return best.id
	}
	left := c.filter(c.all, best.logit)
	sum := total(left)
	// One draw a token, in [0, sum).
	at := float64(float64(c.random.Uint64()>>11) * 0x1p-53 * sum)
	for _, x := range left {
		if at -= x.weight; at < 0 {
			return x.id
		}
	}
	return best.id // rounding took it past the last one
}

// filter returns the candidates that are left with their weights, that of the likeliest being one. They come by ascending id, so
// that a filter which takes none away changes nothing.
func (c *sampler) filter(all []candidate, best float64) []candidate {
	if c.TopK > 0 && c.TopK < len(all) {
		for i := range all { // which order weights as well, and save computing those
			all[i].weight = all[i].logit
		}
		all = first(all, func(n int, _ float64) bool { return n < c.TopK })
	}
	for i := range all {
		all[i].weight = exp(float64(all[i].logit-best) / c.Temperature)
	}
	if c.TopP > 0 && c.TopP < 1 {
		enough := c.TopP * total(all)
		all = first(all, func(n int, sum float64) bool { return n == 0 || sum < enough })
	}
	if c.MinP > 0 {
		most := 0.
		for _, x := range all {
			most = max(most, x.weight)
		}
		all = slices.DeleteFunc(all, func(x candidate) bool { return x.weight < c.MinP*most })
	}
	return all
}

func total(all []candidate) float64 {
	sum := 0.
	for _, x := range all {
		sum += x.weight
	}
	return sum
}

// first keeps the likeliest of the candidates as long as more tells, of the number and the weight of those before, that there
// should be another. It takes time by what it keeps, not by what there is to sort.
func first(all []candidate, more func(n int, sum float64) bool) []candidate {
	// A heap at the end of all, with the likeliest on top; those kept move to its beginning.
	before := func(a, b candidate) bool { return a.weight > b.weight || a.weight == b.weight && a.id < b.id }
	n := len(all)
	down := func(heap []candidate, i int) {
		for {
			child := 2*i + 1
			if child >= len(heap) {
				return
			}
			if child+1 < len(heap) && before(heap[child+1], heap[child]) {
				child++
			}
			if !before(heap[child], heap[i]) {
				return
			}
			heap[i], heap[child] = heap[child], heap[i]
			i = child
		}
	}
	for i := n/2 - 1; i >= 0; i-- {
		down(all, i)
	}
	kept, sum := 0, 0.
	for kept < n && more(kept, sum) {
		// The top changes places with the last of the heap, and the heap loses it.
		last := n - 1 - kept
		all[0], all[last] = all[last], all[0]
		sum += all[last].weight
		down(all[:last], 0)
		kept++
	}
	left := all[n-kept:]
	slices.SortFunc(left, func(a, b candidate) int { return cmp.Compare(a.id, b.id) })
	return left
}

// exp returns e^x for x ≤ 0, the same on every processor: the standard library's has an assembly of its own on some, and
// compilers may fuse a product and a sum unless a conversion stands between them.
func exp(x float64) float64 {
	if x < -700 {
		return 0
	}
	// x = k·ln 2 + r with |r| ≤ ln(2)/2, in two steps so that r is exact.
	const high, low = 6.93147180369123816490e-01, 1.90821492927058770002e-10
	k := math.RoundToEven(float64(x * math.Log2E))
	r := float64(float64(x-float64(k*high)) - float64(k*low))
	// The series, even and odd powers side by side.
	square := float64(r * r)
	even, odd := series[12], series[13]
	for i := 10; i >= 0; i -= 2 {
		even = series[i] + float64(even*square)
		odd = series[i+1] + float64(odd*square)
	}
	sum := even + float64(odd*r)
	return sum * math.Float64frombits(uint64(int(k)+1023)<<52)
}

// series are the inverses of factorials.
var series = func() (inverse [14]float64) {
	factorial := 1.
	for i := range inverse {
		inverse[i] = 1 / factorial
		factorial *= float64(i + 1)
	}
	return inverse
}()

// A Likelihood is the log-probability of a token, in nats, by the model: before temperature, penalty and filters.
type Likelihood struct {
	ID      int32
	LogProb float64
}

// likelihoods returns the log-probability of a token and the n likeliest ones, in order.
func likelihoods(logits []float32, id int32, n int) (chosen Likelihood, top []Likelihood) {
	best := slices.Max(logits)
	sum := 0.
	for _, x := range logits {
		sum += math.Exp(float64(x) - float64(best))
	}
	all := float64(best) + math.Log(sum)
	of := func(id int32) Likelihood { return Likelihood{id, float64(logits[id]) - all} }
	if n > 0 {
		candidates := make([]candidate, len(logits))
		for i, x := range logits {
			candidates[i] = candidate{id: int32(i), weight: float64(x)}
		}
		for _, x := range first(candidates, func(have int, _ float64) bool { return have < n }) {
			top = append(top, of(x.id))
		}
		slices.SortStableFunc(top, func(a, b Likelihood) int { return cmp.Compare(b.LogProb, a.LogProb) })
	}
	return of(id), top
}
