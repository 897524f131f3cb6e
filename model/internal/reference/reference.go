// Package reference computes Llama models plainly, in double precision and with none of package model's code: what
// the tests of that package and of those above it compare with.
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
		w := func(name string) []float32 { return weight(fmt.Sprintf("model.layers.%d.%s.weight", layer, name)) }
		q, k, v := make([][]float64, len(ids)), make([][]float64, len(ids)), make([][]float64, len(ids))
		for t := range x {
			h := rmsNorm(x[t], w("input_layernorm"), c.RMSNormEps)
			q[t] = rope(product(w("self_attn.q_proj"), h), t, c)
			k[t] = rope(product(w("self_attn.k_proj"), h), t, c)
			v[t] = product(w("self_attn.v_proj"), h)
		}
		for t := range x {
			add(x[t], product(w("self_attn.o_proj"), attention(q[t], k[:t+1], v[:t+1], c)))
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

// rope turns each head of x by its position.
func rope(x []float64, position int, c model.Config) []float64 {
	half := c.HeadDim / 2
	for h := 0; h < len(x); h += c.HeadDim {
		for i := range half {
			angle := float64(position) / math.Pow(c.RopeTheta, float64(2*i)/float64(c.HeadDim))
			a, b := x[h+i], x[h+i+half]
			x[h+i] = a*math.Cos(angle) - b*math.Sin(angle)
			x[h+i+half] = b*math.Cos(angle) + a*math.Sin(angle)
		}
	}
	return x
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
