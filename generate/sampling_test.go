package generate

import (
	"fmt"
	"math"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// draw returns n tokens drawn from the same logits.
func draw(t testing.TB, s Sampling, logits []float32, n int) []int32 {
	t.Helper()
	c := newSampler(s, nil)
	ids := make([]int32, n)
	for i := range ids {
		var err error
		if ids[i], err = c.next(logits); err != nil {
			t.Fatal(err)
		}
	}
	return ids
}

// left returns the probability of each token under the definition: filters one after the other, each on the probabilities of
// what is left, by sorting.
func left(s Sampling, logits []float32) []float64 {
	type token struct {
		id int
		p  float64
	}
	var all []token
	best := float64(slices.Max(logits))
	for id, x := range logits {
		all = append(all, token{id, math.Exp((float64(x) - best) / s.Temperature)})
	}
	slices.SortStableFunc(all, func(a, b token) int {
		if a.p != b.p {
			return map[bool]int{true: -1, false: 1}[a.p > b.p]
		}
		return a.id - b.id
	})
	normalise := func() {
		sum := 0.
		for _, x := range all {
			sum += x.p
		}
		for i := range all {
			all[i].p /= sum
		}
	}
	normalise()
	if s.TopK > 0 {
		all = all[:min(s.TopK, len(all))]
		normalise()
	}
	if s.TopP > 0 && s.TopP < 1 {
		n, sum := 0, 0.
		for n < len(all) && sum < s.TopP {
			sum += all[n].p
			n++
		}
		all = all[:max(n, 1)]
		normalise()
	}
	for i, x := range all {
		if x.p < s.MinP*all[0].p {
			all = all[:i]
			break
		}
	}
	normalise()
	p := make([]float64, len(logits))
	for _, x := range all {
		p[x.id] = x.p
	}
	return p
}

// Tokens come as often as the definition has it, and those that filters take away never: chi-squared, with seeds that stay.
func TestDistribution(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 1))
	logits := make([]float32, 60)
	for i := range logits {
		logits[i] = float32(2 * rng.NormFloat64())
	}
	logits[7] = logits[8] // equals
	for i, s := range []Sampling{
		{Temperature: 1},
		{Temperature: 0.5},
		{Temperature: 3},
		{Temperature: 1, TopK: 10},
		{Temperature: 1, TopP: 0.8},
		{Temperature: 1, MinP: 0.05},
		{Temperature: 2, TopK: 40, TopP: 0.9, MinP: 0.1},
		{Temperature: 0.7, TopK: 20, TopP: 0.9, MinP: 0.1},
	} {
		s.Seed = uint64(i)
		want := left(s, logits)
		const n = 20000
		count := make([]int, len(logits))
		for _, id := range draw(t, s, logits, n) {
			count[id]++
		}
		chi, cells := 0., -1
		rest, restCount := 0., 0
		for id, p := range want {
			if p == 0 && count[id] > 0 {
				t.Errorf("%+v: token %d came, which is filtered out", s, id)
			}
			if p*n < 10 { // too few to tell: taken together
				rest, restCount = rest+p*n, restCount+count[id]
				continue
			}
			chi += math.Pow(float64(count[id])-p*n, 2) / (p * n)
			cells++
		}
		if rest >= 10 {
			chi += math.Pow(float64(restCount)-rest, 2) / rest
			cells++
		}
		// Wilson and Hilferty: the cube root of chi²/k is nearly normal. 3.1 deviations are one chance in a thousand.
		k := float64(cells)
		if z := (math.Cbrt(chi/k) - (1 - 2/(9*k))) / math.Sqrt(2/(9*k)); z > 3.1 || cells < 2 {
			t.Errorf("%+v: chi-squared is %.1f for %d degrees of freedom", s, chi, cells)
		}
	}
}

// Top-k of one, a temperature near zero and filters that leave one token are greedy; filters that take nothing away change
// nothing; the kept tokens are those of the definition.
func TestSamplingLaws(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 40).Draw(t, "n")
		logits := make([]float32, n)
		for i := range logits {
			logits[i] = float32(rapid.IntRange(-12, 12).Draw(t, "logit")) / 2 // with equals
		}
		greedy := int32(slices.Index(logits, slices.Max(logits)))
		s := Sampling{Temperature: rapid.Float64Range(0.1, 4).Draw(t, "temperature"), Seed: rapid.Uint64().Draw(t, "seed")}
		next := func(s Sampling, count int) []int32 {
			c := newSampler(s, nil)
			var ids []int32
			for range count {
				id, err := c.next(logits)
				if err != nil {
					t.Fatal(err)
				}
				ids = append(ids, id)
			}
			return ids
		}
		with := func(f func(s *Sampling)) Sampling {
			s := s
			f(&s)
			return s
		}
		for name, s := range map[string]Sampling{
			"temperature 0":     {},
			"top-k 1":           with(func(s *Sampling) { s.TopK = 1 }),
			"top-p 1e-9":        with(func(s *Sampling) { s.TopP = 1e-9 }),
			"temperature small": with(func(s *Sampling) { s.Temperature, s.TopK = 1e-6, 1 }),
		} {
			for _, id := range next(s, 5) {
				if id != greedy {
					t.Fatalf("%s: token %d; want %d", name, id, greedy)
				}
			}
		}
		if slices.Max(logits) > slices.Max(append(slices.DeleteFunc(slices.Clone(logits), func(x float32) bool { return x == slices.Max(logits) }), -100)) &&
			slices.Index(logits[greedy+1:], logits[greedy]) < 0 {
			for _, id := range next(with(func(s *Sampling) { s.Temperature = 1e-3 }), 5) {
				if id != greedy {
					t.Fatalf("temperature 1e-3: token %d; want %d", id, greedy)
				}
			}
		}
		want := next(s, 20)
		for name, s := range map[string]Sampling{
			"again":     s,
			"top-k":     with(func(s *Sampling) { s.TopK = n }),
			"top-p":     with(func(s *Sampling) { s.TopP = 1 }),
			"min-p":     with(func(s *Sampling) { s.MinP = 1e-300 }),
			"penalty 1": with(func(s *Sampling) { s.RepetitionPenalty = 1 }),
		} {
			if got := next(s, 20); !slices.Equal(got, want) {
				t.Fatalf("%s: %v; want %v, as without", name, got, want)
			}
		}

		s.TopK = rapid.IntRange(0, n+1).Draw(t, "top-k")
		s.TopP = rapid.Float64Range(0, 1).Draw(t, "top-p")
		s.MinP = rapid.SampledFrom([]float64{0, 0.01, 0.3, 0.9, 1}).Draw(t, "min-p")
		c := newSampler(s, nil)
		if _, err := c.next(logits); err != nil {
			t.Fatal(err)
		}
		all := make([]candidate, n)
		for i, x := range logits {
			all[i] = candidate{id: int32(i), logit: float64(x)}
		}
		var got []int
		for _, x := range c.filter(all, float64(slices.Max(logits))) {
			got = append(got, int(x.id))
		}
		var kept []int
		p := left(s, logits)
		for id, x := range p {
			if x > 0 {
				kept = append(kept, id)
			}
		}
		// Where a sum of probabilities or a ratio is the border itself, rounding decides.
		near := func(s Sampling) bool {
			a, b := s, s
			a.TopP, b.TopP = s.TopP*(1-1e-9), min(s.TopP*(1+1e-9), 1)
			a.MinP, b.MinP = s.MinP*(1-1e-9), s.MinP*(1+1e-9)
			return fmt.Sprint(positive(left(a, logits))) != fmt.Sprint(positive(left(b, logits)))
		}
		if !slices.Equal(got, kept) && !near(s) {
			t.Fatalf("%+v of %v keeps %v; want %v", s, logits, got, kept)
		}
	})
}

func positive(p []float64) (ids []int) {
	for id, x := range p {
		if x > 0 {
			ids = append(ids, id)
		}
	}
	return ids
}

// The penalty makes what was there before less likely, once however often it was.
func TestRepetitionPenalty(t *testing.T) {
	logits := []float32{2, 1.5, -1, -1.5}
	c := newSampler(Sampling{RepetitionPenalty: 2}, []int32{2, 2})
	var got []int32
	for range 4 {
		id, err := c.next(logits)
		if err != nil {
			t.Fatal(err)
		}
		got = append(got, id)
	}
	// 2, then 1.5, as 2 has become 1; then 1 and 0.75.
	if !slices.Equal(got, []int32{0, 1, 0, 0}) {
		t.Errorf("tokens %v", got)
	}
	if c = newSampler(Sampling{RepetitionPenalty: 4}, []int32{0, 1, 2}); c.choiceOf(t, []float32{-1, -1, -1, -3.5}) != 3 {
		t.Error("negative logits are not multiplied")
	}
}

func (c *sampler) choiceOf(t *testing.T, logits []float32) int32 {
	id, err := c.next(logits)
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// The same seed gives these tokens on every machine.
func TestSeed(t *testing.T) {
	logits := make([]float32, 1000)
	for i := range logits {
		logits[i] = float32(i*i%997) / 100
	}
	got := fmt.Sprint(draw(t, Sampling{Temperature: 1.3, TopP: 0.95, Seed: 42}, logits, 8))
	if want := "[833 934 161 118 197 935 899 364]"; got != want {
		t.Errorf("tokens %s; want %s", got, want)
	}
}

// exp is e^x to the last bits.
func TestExp(t *testing.T) {
	rng := rand.New(rand.NewPCG(2, 2))
	for range 100000 {
		x := -rng.ExpFloat64() * 30
		if got, want := exp(x), math.Exp(x); !(math.Abs(got-want) <= 4e-16*want) {
			t.Fatalf("exp(%v) = %v; want %v", x, got, want)
		}
	}
	if exp(0) != 1 || exp(-1e300) != 0 || exp(math.Inf(-1)) != 0 {
		t.Errorf("exp(0) = %v, exp(−1e300) = %v, exp(−∞) = %v", exp(0), exp(-1e300), exp(math.Inf(-1)))
	}
}

func TestSamplingErrors(t *testing.T) {
	nan := math.NaN()
	for want, s := range map[string]Sampling{
		"Temperature is -1":         {Temperature: -1},
		"Temperature is NaN":        {Temperature: nan},
		"Temperature is +Inf":       {Temperature: math.Inf(1)},
		"TopK is -1":                {TopK: -1},
		"TopP is 1.1; want 0 … 1":   {TopP: 1.1},
		"MinP is NaN":               {MinP: nan},
		"RepetitionPenalty is -0.1": {RepetitionPenalty: -0.1},
	} {
		if err := s.Validate(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v; want one that says %q", err, want)
		}
	}
	for _, bad := range []float32{float32(nan), float32(math.Inf(1))} {
		for _, s := range []Sampling{{}, {Temperature: 1, TopK: 1}} {
			_, err := newSampler(s, nil).next([]float32{1, 2, bad, 3})
			if want := fmt.Sprintf("token 2 is %v", bad); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("error %v; want one that says %q", err, want)
			}
		}
	}
	inf := float32(math.Inf(-1))
	for range 100 {
		if id := newSampler(Sampling{Temperature: 1}, nil).choiceOf(t, []float32{inf, 0, inf}); id != 1 {
			t.Errorf("token %d, which is impossible", id)
		}
	}
}

// Log-probabilities are those of the model, and the likeliest come in order.
func TestLikelihoods(t *testing.T) {
	logits := []float32{float32(math.Log(1)), float32(math.Log(4)), float32(math.Log(3)), float32(math.Log(4))}
	chosen, top := likelihoods(logits, 2, 3)
	if chosen.ID != 2 || math.Abs(chosen.LogProb-math.Log(0.25)) > 1e-7 {
		t.Errorf("chosen %v; want 2 with log 1/4", chosen)
	}
	if len(top) != 3 || top[0].ID != 1 || top[1].ID != 3 || top[2].ID != 2 || math.Abs(top[0].LogProb-math.Log(1./3)) > 1e-7 {
		t.Errorf("likeliest %v; want 1, 3, 2", top)
	}
	sum := 0.
	_, top = likelihoods(logits, 0, 4)
	for _, x := range top {
		sum += math.Exp(x.LogProb)
	}
	if math.Abs(sum-1) > 1e-6 {
		t.Errorf("probabilities sum to %v", sum)
	}
}

func BenchmarkSampling(b *testing.B) {
	rng := rand.New(rand.NewPCG(1, 1))
	logits := make([]float32, 128256)
	for i := range logits {
		logits[i] = float32(3 * rng.NormFloat64())
	}
	for _, s := range []Sampling{{}, {Temperature: 1}, {Temperature: 0.8, TopP: 0.95}, {Temperature: 0.8, TopK: 40, TopP: 0.95, MinP: 0.05}} {
		b.Run(fmt.Sprintf("%+v", s), func(b *testing.B) {
			c := newSampler(s, nil)
			for b.Loop() {
				if _, err := c.next(logits); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
