package model

import (
	"math"
	"testing"
)

// Frequencies of real models are those that Hugging Face's _compute_llama3_parameters and _compute_yarn_parameters give,
// carried out in double precision in another language.
func TestFrequencies(t *testing.T) {
	for _, test := range []struct {
		name      string
		theta     float64
		dim       int
		scaling   RopeScaling
		want      map[int]float64
		attention float64
	}{
		{"Llama 3.1 8B", 500000, 128, RopeScaling{Type: "llama3", Factor: 8, Original: 8192, LowFreq: 1, HighFreq: 4}, map[int]float64{
			0: 1, 1: 0.8146172338565447, 20: 0.016560440080994446, 28: 0.0032114459947525913, 29: 0.002166570763503359,
			30: 0.0013718935677611381, 31: 0.0008567514129196321, 32: 0.0005248461609929547, 33: 0.00031269375038406517,
			34: 0.00017850781276799638, 35: 9.556212353964683e-05, 36: 7.78465527393245e-05, 45: 1.2297638677963614e-05,
			63: 3.068925988914511e-07,
		}, 1},
		{"Llama 3.2 1B", 500000, 64, RopeScaling{Type: "llama3", Factor: 32, Original: 8192, LowFreq: 1, HighFreq: 4}, map[int]float64{
			0: 1, 1: 0.6636012376960885, 14: 0.0032114459947525913, 15: 0.001290547928209264, 16: 0.00042955679655936815,
			17: 9.70828780262767e-05, 18: 1.9461638184831125e-05, 31: 9.418306725434909e-08,
		}, 1},
		{"Qwen2.5 7B", 1e6, 128, RopeScaling{Type: "yarn", Factor: 4, Original: 32768, BetaFast: 32, BetaSlow: 1, Attention: yarnAttention(4, 1)}, map[int]float64{
			0: 1, 1: 0.8058421877614819, 22: 0.008659643233600653, 23: 0.006978305848598663, 24: 0.005375321490790102,
			30: 0.0010643609812470017, 31: 0.0008029597275452302, 38: 9.262301704129459e-05, 39: 6.490394320837028e-05,
			40: 4.445698525097307e-05, 41: 3.582531425592407e-05, 63: 3.102344401879299e-07,
		}, 1.138629436111989},
		{"plain", 10000, 8, RopeScaling{}, map[int]float64{0: 1, 1: 0.1, 2: 0.01, 3: 0.001}, 1},
		{"linear", 10000, 8, RopeScaling{Type: "linear", Factor: 4}, map[int]float64{0: 0.25, 1: 0.025, 2: 0.0025, 3: 0.00025}, 1},
		{"factors", 10000, 4, RopeScaling{Type: "factors", Factors: []float32{2, 8}}, map[int]float64{0: 0.5, 1: 0.00125}, 1},
	} {
		c := Config{HeadDim: test.dim, RopeTheta: test.theta, RopeScaling: test.scaling}
		if err := c.checkRope(); err != nil {
			t.Errorf("%s: %v", test.name, err)
		}
		got, attention := c.frequencies()
		for i, want := range test.want {
			if !(math.Abs(got[i]-want) <= 1e-13*want) {
				t.Errorf("%s: frequency %d is %v, want %v", test.name, i, got[i], want)
			}
		}
		if !(math.Abs(attention-test.attention) < 1e-15) {
			t.Errorf("%s: factor %v, want %v", test.name, attention, test.attention)
		}
	}
}
