package anchor

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"testing"

	"github.com/anchorattention/anchor/internal/kernel"
)

// Whatever the parameters and lengths, Attend gives an error or attends to exactly the pairs of the definition, with
// finite outputs.
func FuzzParams(f *testing.F) {
	f.Add(8, 5, 3, 8, 4, 2.0, 50, 100, 0)
	f.Add(1, 1, 0, 0, 0, math.Inf(1), 1, 1, 5)
	f.Add(128, 16, 128, 128, 128, 12.0, 90, 90, 200)
	f.Add(0, -1, 1<<40, -5, 7, math.NaN(), 10, 5, -1)
	f.Add(7, 3, 1<<29, 1<<29, 1<<29, math.Inf(-1), 40, 120, 1<<29)
	f.Fuzz(func(t *testing.T, block, step, init, local, tail int, theta float64, nq, nk, prompt int) {
		if nk < 1 || nk > 130 || nq < 1 || nq > 130 {
			t.Skip()
		}
		p := Params{Block: block, Step: step, Init: init, Local: local, Theta: theta, Tail: tail}
		prob := newProblem(rand.New(rand.NewPCG(uint64(nq), uint64(nk))), 2, 1, nq, nk, 4)
		prob.prompt = prompt
		res, err := attend(t.Context(), kernel.Levels()[0], Options{Planner: AnchorAttention(p), Stripes: true}, []Sequence{prob.sequence()})
		valid := p.Validate() == nil && nq <= nk && prompt >= 0 && prompt <= maxPosition
		if (err == nil) != valid {
			t.Fatalf("%+v, %d of %d, prompt %d: error %v", p, nq, nk, prompt, err)
		}
		if err != nil || p.Block > 1<<20 || p.Step > 1<<20 { // the reference walks over whole blocks
			return
		}
		if want := prob.solve(&p, res.StripeSets[0].split()); res.Pairs != want.Pairs || res.NonFiniteRows != 0 {
			t.Fatalf("%+v, %d of %d, prompt %d: %d pairs, %d rows not finite; want %d and 0", p, nq, nk, prompt, res.Pairs, res.NonFiniteRows, want.Pairs)
		}
	})
}

// Params read from JSON validate or not, and never panic.
func FuzzParamsJSON(f *testing.F) {
	f.Add([]byte(`{"block":128,"step":16,"init":128,"local":128,"theta":12,"tail":128}`))
	f.Add([]byte(`{"block":9223372036854775807,"step":2,"theta":1e999}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p := DefaultParams()
		if json.Unmarshal(data, &p) == nil && p.Validate() == nil && p.group() < 1 {
			t.Fatalf("%+v is valid", p)
		}
	})
}

// Costs read from JSON are valid or stay as they were, and never panic.
func FuzzCostsJSON(f *testing.F) {
	f.Add([]byte(`{"gather_rows":84,"gather_rows_pairs":210}`))
	f.Add([]byte(`{"gather_rows":-0.0}`))
	f.Add([]byte(`{"gather_rows":1e308,"gather_rows_pairs":1e-999}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		c := DefaultCosts()
		if err := json.Unmarshal(data, &c); c.Validate() != nil || err != nil && c != DefaultCosts() {
			t.Fatalf("%s: %+v, %v", data, c, err)
		}
	})
}
