// Package reference computes decoder models plainly, in double precision and with none of package model's code: what
// the tests of that package and of those above it compare with. It follows Hugging Face's modeling_llama, modeling_mistral,
// modeling_qwen2, modeling_qwen3 and modeling_rope_utils, token by token.
package reference

import (
	"fmt"
	"math"

	"github.com/anchorattention/anchor/model"
)

// Logits returns the logits that follow the tokens ids, for a model whose weights come by name.
func Logits(c model.Config, weight func(name string) []float32, ids []int32) []float64 {
	x := make([][]float64, len(ids))
	for t, id := range ids {
		x[t] = wide(weight("model.embed_tokens.weight")[int(id)*c.Hidden:][:c.Hidden])
	}
	for layer := range c.Layers {
		tensor := func(name string) []float32 { return weight(fmt.Sprintf("model.layers.%d.%s", layer, name)) }
		w := func(name string) []float32 { return tensor(name + ".weight") }
		project := func(name string, h []float64, bias bool) []float64 {
			y := product(w(name), h)
			if bias {
				add(y, wide(tensor(name+".bias")))
			}
			return y
		}
		q, k, v := make([][]float64, len(ids)), make([][]float64, len(ids)), make([][]float64, len(ids))
		for t := range x {
			h := rmsNorm(x[t], w("input_layernorm"), c.RMSNormEps)
			q[t] = project("self_attn.q_proj", h, c.QKVBias)
			k[t] = project("self_attn.k_proj", h, c.QKVBias)
			v[t] = project("self_attn.v_proj", h, c.QKVBias)
			if c.QKNorm {
				normHeads(q[t], w("self_attn.q_norm"), c)
				normHeads(k[t], w("self_attn.k_norm"), c)
			}
			rope(q[t], t, c)
			rope(k[t], t, c)
		}
		for t := range x {
			first := 0
			if c.Windows != nil && c.Windows[layer] > 0 { // key j is seen if j > t − window
				first = max(t-c.Windows[layer]+1, 0)
			}
			add(x[t], project("self_attn.o_proj", attention(q[t], k[first:t+1], v[first:t+1], c), c.OBias))
			h := rmsNorm(x[t], w("post_attention_layernorm"), c.RMSNormEps)
			gate, up := product(w("mlp.gate_proj"), h), product(w("mlp.up_proj"), h)
			for i, g := range gate {
				gate[i] = g / (1 + math.Exp(-g)) * up[i]
			}
			add(x[t], product(w("mlp.down_proj"), gate))
		}
	}
	head := "lm_head.weight"
	if c.Tied {
		head = "model.embed_tokens.weight"
	}
	return product(weight(head), rmsNorm(x[len(x)-1], weight("model.norm.weight"), c.RMSNormEps))
}

func wide(x []float32) []float64 {
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = float64(v)
	}
	return out
}

func add(x, y []float64) {
	for i := range x {
		x[i] += y[i]
	}
}

// product multiplies a matrix [out, len(x)] by x.
func product(matrix []float32, x []float64) []float64 {
	out := make([]float64, len(matrix)/len(x))
	for i := range out {
		for j, w := range matrix[i*len(x) : (i+1)*len(x)] {
			out[i] += float64(w) * x[j]
		}
	}
	return out
}

func rmsNorm(x []float64, weight []float32, eps float64) []float64 {
	var sum float64
	for _, v := range x {
		sum += v * v
	}
	out := make([]float64, len(x))
	for i, v := range x {
		out[i] = v / math.Sqrt(sum/float64(len(x))+eps) * float64(weight[i])
	}
	return out
}

func normHeads(x []float64, weight []float32, c model.Config) {
	for h := 0; h < len(x); h += c.HeadDim {
		copy(x[h:], rmsNorm(x[h:h+c.HeadDim], weight, c.RMSNormEps))
	}
}

// rope turns each head of x by its position.
func rope(x []float64, position int, c model.Config) {
	half := c.HeadDim / 2
	frequencies, factor := Frequencies(c)
	for h := 0; h < len(x); h += c.HeadDim {
		for i := range half {
			cos, sin := math.Cos(float64(position)*frequencies[i])*factor, math.Sin(float64(position)*frequencies[i])*factor
			at, with := h+i, h+i+half
			if c.Interleaved {
				at, with = h+2*i, h+2*i+1
			}
			x[at], x[with] = x[at]*cos-x[with]*sin, x[with]*cos+x[at]*sin
		}
	}
}

// Frequencies returns the angles that rotary embeddings turn by from one position to the next, and the factor of cosines
// and sines.
func Frequencies(c model.Config) (inverse []float64, attention float64) {
	attention = 1
	s := c.RopeScaling
	for i := 0; i < c.HeadDim; i += 2 {
		inverse = append(inverse, 1/math.Pow(c.RopeTheta, float64(i)/float64(c.HeadDim)))
	}
	switch s.Type {
	case "linear":
		for i := range inverse {
			inverse[i] /= s.Factor
		}
	case "llama3":
		longest, shortest := float64(s.Original)/s.LowFreq, float64(s.Original)/s.HighFreq
		for i, f := range inverse {
			switch wavelength := 2 * math.Pi / f; {
			case wavelength < shortest:
			case wavelength > longest:
				inverse[i] = f / s.Factor
			default:
				smooth := (float64(s.Original)/wavelength - s.LowFreq) / (s.HighFreq - s.LowFreq)
				inverse[i] = (1-smooth)*f/s.Factor + smooth*f
			}
		}
	case "yarn":
		dim := float64(c.HeadDim)
		correction := func(rotations float64) float64 {
			return dim * math.Log(float64(s.Original)/(rotations*2*math.Pi)) / (2 * math.Log(c.RopeTheta))
		}
		low := max(math.Floor(correction(s.BetaFast)), 0)
		high := min(math.Ceil(correction(s.BetaSlow)), dim-1)
		if low == high {
			high += 0.001
		}
		for i := range inverse {
			positional := math.Pow(c.RopeTheta, float64(2*i)/dim)
			extrapolated, interpolated := 1/positional, 1/(s.Factor*positional)
			ramp := (float64(i) - low) / (high - low)
			if ramp < 0 {
				ramp = 0
			}
			if ramp > 1 {
				ramp = 1
			}
			inverse[i] = interpolated*(1-(1-ramp)) + extrapolated*(1-ramp)
		}
		attention = s.Attention
	case "factors":
		for i := range inverse {
			inverse[i] /= float64(s.Factors[i])
		}
	}
	return inverse, attention
}

// attention returns the heads' outputs for one token.
func attention(q []float64, k, v [][]float64, c model.Config) []float64 {
	out := make([]float64, len(q))
	weights := make([]float64, len(k))
	for h := range c.Heads {
		head := h * c.HeadDim
		kv := h / (c.Heads / c.KVHeads) * c.HeadDim
		top := math.Inf(-1)
		for t := range k {
			weights[t] = 0
			for i := range c.HeadDim {
				weights[t] += q[head+i] * k[t][kv+i]
			}
			weights[t] /= math.Sqrt(float64(c.HeadDim))
			top = max(top, weights[t])
		}
		var sum float64
		for t, w := range weights {
			weights[t] = math.Exp(w - top)
			sum += weights[t]
		}
		for t, w := range weights {
			for i := range c.HeadDim {
				out[head+i] += w / sum * v[t][kv+i]
			}
		}
	}
	return out
}
