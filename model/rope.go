package model

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strings"
)

// A RopeScaling says how the frequencies of rotary embeddings are changed for sequences longer than those the model
// was first trained on. The zero value changes nothing.
type RopeScaling struct {
	Type     string  // "linear", "llama3", "yarn" or "factors"; "" for no scaling
	Factor   float64 // frequencies that are scaled are divided by it, ≥ 1
	Original int     // positions that the model was first trained on: llama3 and yarn

	// Of llama3: a frequency is divided if it turns fewer than LowFreq times within Original positions, left alone if
	// more than HighFreq times, and in between is a mixture of both.
	LowFreq, HighFreq float64

	// Of yarn (Peng et al., "YaRN: Efficient Context Window Extension of Large Language Models", ICLR 2024, arXiv
	// 2309.00071): a frequency is left alone if it turns more than BetaFast times within Original positions and divided if
	// fewer than BetaSlow times; in between, a ramp over the frequencies' numbers leads from one to the other. Cosines
	// and sines are multiplied by Attention.
	BetaFast, BetaSlow, Attention float64

	// Of factors: what each of the HeadDim/2 frequencies is divided by. So GGUF files store llama3.
	Factors []float32
}

// frequencies returns the angles by which the HeadDim/2 planes of a head turn from one position to the next, and what
// cosines and sines are multiplied by.
func (c *Config) frequencies() (freq []float64, factor float64) {
	half := c.HeadDim / 2
	s := &c.RopeScaling
	freq = make([]float64, half)
	for i := range freq {
		freq[i] = math.Pow(c.RopeTheta, -float64(i)/float64(half))
	}
	switch s.Type {
	case "linear":
		for i := range freq {
			freq[i] /= s.Factor
		}
	case "llama3":
		for i, w := range freq {
			turns := float64(s.Original) * w / (2 * math.Pi)
			kept := min(max((turns-s.LowFreq)/(s.HighFreq-s.LowFreq), 0), 1)
			freq[i] = w*kept + w/s.Factor*(1-kept)
		}
	case "yarn":
		// at is the number, not a whole one, of the frequency that turns so often.
		at := func(turns float64) float64 {
			return float64(half) * math.Log(float64(s.Original)/(turns*2*math.Pi)) / math.Log(c.RopeTheta)
		}
		low, high := max(math.Floor(at(s.BetaFast)), 0), min(math.Ceil(at(s.BetaSlow)), float64(c.HeadDim-1))
		if low == high {
			high += 0.001
		}
		for i, w := range freq {
			divided := min(max((float64(i)-low)/(high-low), 0), 1)
			freq[i] = w*(1-divided) + w/s.Factor*divided
		}
		return freq, s.Attention
	case "factors":
		for i := range freq {
			freq[i] /= float64(s.Factors[i])
		}
	}
	return freq, 1
}

// checkRope reports the first field about rotary embeddings that is out of range.
func (c *Config) checkRope() error {
	s := &c.RopeScaling
	if !(c.RopeTheta >= 1 && c.RopeTheta <= math.MaxFloat64) {
		return fmt.Errorf("rope_theta is %v; want a number ≥ 1", c.RopeTheta)
	}
	finite := func(x float64) bool { return x > 0 && x <= math.MaxFloat32 }
	switch s.Type {
	case "":
		return nil
	case "linear", "llama3", "yarn":
		if !(s.Factor >= 1 && finite(s.Factor)) {
			return fmt.Errorf("the rotary scaling's factor is %v; want a number ≥ 1", s.Factor)
		}
		if s.Type != "linear" && (s.Original < 1 || s.Original > 1<<28) {
			return fmt.Errorf("original_max_position_embeddings is %d; want 1 … %d", s.Original, 1<<28)
		}
	case "factors":
		if len(s.Factors) != c.HeadDim/2 {
			return fmt.Errorf("there are %d rotary factors; want %d, half of head_dim", len(s.Factors), c.HeadDim/2)
		}
		for i, f := range s.Factors {
			if !finite(float64(f)) {
				return fmt.Errorf("rotary factor %d is %v; want a number > 0", i, f)
			}
		}
	default:
		return fmt.Errorf("rope_type is %q; want default, linear, llama3 or yarn", s.Type)
	}
	switch {
	case s.Type == "llama3" && !(s.LowFreq > 0 && s.HighFreq > s.LowFreq && finite(s.HighFreq)):
		return fmt.Errorf("low_freq_factor and high_freq_factor are %v and %v; want 0 < low < high", s.LowFreq, s.HighFreq)
	case s.Type == "yarn" && !(s.BetaSlow > 0 && s.BetaFast >= s.BetaSlow && finite(s.BetaFast)):
		return fmt.Errorf("beta_slow and beta_fast are %v and %v; want 0 < slow ≤ fast", s.BetaSlow, s.BetaFast)
	case s.Type == "yarn" && !finite(s.Attention):
		return fmt.Errorf("attention_factor is %v; want a number > 0", s.Attention)
	case s.Type == "yarn" && c.RopeTheta <= 1:
		return fmt.Errorf("rope_theta is %v; want more than 1 for yarn", c.RopeTheta)
	}
	return nil
}

// rope is an object of config.json that describes rotary embeddings.
type rope struct {
	Kind     string   `json:"rope_type"`
	Old      string   `json:"type"` // what rope_type was called before
	Theta    *float64 `json:"rope_theta"`
	Factor   *float64 `json:"factor"`
	Original *int     `json:"original_max_position_embeddings"`
	Low      *float64 `json:"low_freq_factor"`
	High     *float64 `json:"high_freq_factor"`
	Fast     *float64 `json:"beta_fast"`
	Slow     *float64 `json:"beta_slow"`
	// Of yarn: what cosines and sines are multiplied by, or the weights of the formula for it.
	Attention    *float64 `json:"attention_factor"`
	MScale       *float64 `json:"mscale"`
	MScaleAllDim *float64 `json:"mscale_all_dim"`
	Truncate     *bool    `json:"truncate"`
	Partial      *float64 `json:"partial_rotary_factor"`

	raw string
}

func (r *rope) UnmarshalJSON(data []byte) error {
	type plain rope
	if err := json.Unmarshal(data, (*plain)(r)); err != nil {
		return err
	}
	r.raw = string(data)
	return nil
}

// apply checks the object, which stands in the given field, and puts it into a Config whose sizes are known. What is left out is what
// Hugging Face's code takes.
func (r *rope) apply(c *Config, field string) error {
	var all map[string]json.RawMessage
	if err := json.Unmarshal([]byte(r.raw), &all); err != nil {
		return fmt.Errorf("%s: %w", field, err)
	}
	known := []string{"rope_type", "type", "rope_theta", "partial_rotary_factor", "factor", "original_max_position_embeddings",
		"low_freq_factor", "high_freq_factor", "beta_fast", "beta_slow", "attention_factor", "mscale", "mscale_all_dim", "truncate"}
	for _, key := range slices.Sorted(maps.Keys(all)) {
		if !slices.Contains(known, key) {
			return fmt.Errorf("%s: %q is not known; want %s", field, key, strings.Join(known, ", "))
		}
	}
	missing := func(key string) error { return fmt.Errorf("%s: %s is missing: %s", field, key, r.raw) }

	s := RopeScaling{Type: r.Kind}
	if s.Type == "" {
		s.Type = r.Old
	}
	if r.Theta != nil {
		c.RopeTheta = *r.Theta
	}
	number := func(to *float64, from *float64) { // zero is as good as none, in Hugging Face's code
		if from != nil && *from != 0 {
			*to = *from
		}
	}
	number(&s.Factor, r.Factor)
	switch {
	case r.Partial != nil && *r.Partial != 1:
		return fmt.Errorf("%s: partial_rotary_factor is %v; want 1: all of a head is turned", field, *r.Partial)
	case r.Truncate != nil && !*r.Truncate:
		return fmt.Errorf("%s: truncate is false; want true", field)
	case s.Type == "" && len(all) == 0, s.Type == "" && len(all) == 1 && r.Theta != nil, s.Type == "default":
		return nil
	case s.Type == "":
		return missing("rope_type")
	case s.Type != "linear" && s.Type != "llama3" && s.Type != "yarn":
		return fmt.Errorf("%s: rope_type is %s; want default, linear, llama3 or yarn: %s", field, quote(s.Type), r.raw)
	case r.Factor == nil && s.Type != "yarn":
		return missing("factor")
	}
	if s.Type != "linear" {
		if s.Original = c.MaxPositions; r.Original != nil {
			s.Original = *r.Original
		}
	}
	switch s.Type {
	case "llama3":
		if r.Low == nil {
			return missing("low_freq_factor")
		}
		if r.High == nil {
			return missing("high_freq_factor")
		}
		s.LowFreq, s.HighFreq = *r.Low, *r.High
	case "yarn":
		if r.Factor == nil {
			s.Factor = float64(c.MaxPositions) / float64(max(s.Original, 1))
		}
		s.BetaFast, s.BetaSlow = 32, 1
		number(&s.BetaFast, r.Fast)
		number(&s.BetaSlow, r.Slow)
		s.Attention = yarnAttention(s.Factor, 1)
		switch {
		case r.Attention != nil:
			s.Attention = *r.Attention
		case r.MScale != nil && *r.MScale != 0 && r.MScaleAllDim != nil && *r.MScaleAllDim != 0:
			s.Attention = yarnAttention(s.Factor, *r.MScale) / yarnAttention(s.Factor, *r.MScaleAllDim)
		}
	}
	c.RopeScaling = s
	if err := c.checkRope(); err != nil {
		return fmt.Errorf("%s: %w: %s", field, err, r.raw)
	}
	c.stretch()
	return nil
}

// yarnAttention returns what YaRN multiplies cosines and sines by, for a given factor and weight.
func yarnAttention(factor, weight float64) float64 {
	if factor <= 1 {
		return 1
	}
	return 0.1*weight*math.Log(factor) + 1
}

// stretch lengthens MaxPositions to what YaRN makes of it: files often hold the original.
func (c *Config) stretch() {
	if s := c.RopeScaling; s.Type == "yarn" {
		c.MaxPositions = max(c.MaxPositions, int(min(s.Factor*float64(s.Original), 1<<28)))
	}
}
