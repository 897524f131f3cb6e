// Package report turns measurements into what people look at: tables for a terminal, and a page with plots.
package report

import (
	"encoding/json"
	"fmt"
	"math"
	"strconv"
)

// A Comparison is what methods of attention did with the same inputs.
type Comparison struct {
	Command string  `json:"command"` // that repeats it
	Machine string  `json:"machine"`
	ISA     string  `json:"isa"` // level of the kernels
	Threads int     `json:"threads"`
	Inputs  []Input `json:"inputs"`
}

// An Input is queries, keys and values, and what the methods did with them.
type Input struct {
	Name    string `json:"name"` // of the workload, or the file
	DType   string `json:"dtype"`
	Tokens  int    `json:"tokens"`  // keys
	Queries int    `json:"queries"` // the last so many positions
	Heads   int    `json:"heads"`
	KVHeads int    `json:"kv_heads"`
	Dim     int    `json:"dim"`
	Seed    uint64 `json:"seed"`

	DenseSeconds float64 `json:"dense_seconds"` // of dense attention to the same inputs

	// Points are by method, those of a method's curve in ascending order of density, then those that met a goal.
	Points []Point `json:"points"`
	// RowOracle is the least density at which every row holds so much of its mass: no minimum of recall can be above
	// this curve. A mean can, by a little, where a method spends more on rows that need less.
	RowOracle []Bound `json:"row_oracle"`
	// Maps show where the mass of a head lies and what methods kept of it.
	Maps []Map `json:"maps,omitempty"`
}

// A Point is what a method did at one setting of its knob.
type Point struct {
	Method string `json:"method"`
	Knob   string `json:"knob"` // what is turned, such as theta; empty for a method with nothing to turn
	Value  Number `json:"value"`
	Always string `json:"always"` // keys that the method attends to whatever it finds
	Goal   Goal   `json:"goal"`
	// Default says that this is the setting the method has when nobody turns its knob.
	Default bool `json:"default,omitempty"`

	Density     float64            `json:"density"` // attended over causal pairs
	Stripes     int64              `json:"stripes"`
	Recall      Recall             `json:"recall"`       // over all rows of all heads
	OutputError Spread             `json:"output_error"` // ‖o − dense o‖ over ‖dense o‖, of rows
	LSEError    Spread             `json:"lse_error"`    // |lse − dense lse| in nats, of rows
	Seconds     float64            `json:"seconds"`
	Speedup     float64            `json:"speedup,omitempty"` // over dense attention beside it; 0 where that was not timed
	Stages      map[string]float64 `json:"stage_seconds"`
	// NonFiniteRows of the output hold a NaN or an infinity. Where dense attention's do too, they are left out of recall and
	// errors; where they do not, their recall is 0.
	NonFiniteRows int64   `json:"non_finite_rows,omitempty"`
	FLOPs         float64 `json:"flops"` // executed: 4·dim a pair attended and 2·dim a pair searched
	HeadPoints    []Head  `json:"heads"`
}

// A Goal is what the knob was turned to meet: nothing (a point of the method's curve), or a recall or a density.
type Goal struct {
	Kind   string  `json:"kind,omitempty"` // "", "recall" (mean, at least) or "density" (at most)
	Target float64 `json:"target,omitempty"`
	Met    bool    `json:"met,omitempty"`
}

// A Head is the part of a point that belongs to one query head.
type Head struct {
	Head        int     `json:"head"`
	Kind        string  `json:"kind,omitempty"` // of the synthetic head
	Choice      string  `json:"choice,omitempty"`
	Density     float64 `json:"density"`
	Stripes     int64   `json:"stripes"`
	Recall      Recall  `json:"recall"`
	OutputError Spread  `json:"output_error"`
	LSEError    Spread  `json:"lse_error"`
}

// Recall is the share of true softmax mass on the keys attended: mean over rows, 5th percentile, minimum.
type Recall struct {
	Mean float64 `json:"mean"`
	P5   float64 `json:"p5"`
	Min  float64 `json:"min"`
}

// A Spread is an error over rows: mean, 95th percentile, maximum.
type Spread struct {
	Mean float64 `json:"mean"`
	P95  float64 `json:"p95"`
	Max  float64 `json:"max"`
}

// A Bound is the least density that holds a mass.
type Bound struct {
	Mass    float64 `json:"mass"`
	Density float64 `json:"density"`
}

// A Map is a square grid over rows (from the top) and keys (from the left) of one head, of which each cell stands for
// Cell rows and as many keys. Cells beyond the causal diagonal are zero.
type Map struct {
	Head int       `json:"head"`
	Kind string    `json:"kind,omitempty"`
	Cell int       `json:"cell"`
	Size int       `json:"size"` // cells in a row
	Mass []float64 `json:"mass"` // [Size·Size] true softmax mass on the cell's keys, mean over its sampled rows
	Kept []Kept    `json:"kept"`
}

// Kept is what a method attended to.
type Kept struct {
	Method string    `json:"method"`
	Point  int       `json:"point"` // index of the input's Points
	Share  []float64 `json:"share"` // [Size·Size] attended over causal pairs of the cell
}

// A Number is a float64 whose JSON need not be finite: "inf", "-inf" or "nan".
type Number float64

// MarshalJSON writes the number, one that is not finite as a string.
func (n Number) MarshalJSON() ([]byte, error) {
	switch x := float64(n); {
	case math.IsNaN(x):
		return []byte(`"nan"`), nil
	case math.IsInf(x, 1):
		return []byte(`"inf"`), nil
	case math.IsInf(x, -1):
		return []byte(`"-inf"`), nil
	default:
		return json.Marshal(x)
	}
}

// UnmarshalJSON reads what MarshalJSON writes.
func (n *Number) UnmarshalJSON(data []byte) error {
	x, err := parseNumber(string(data))
	*n = Number(x)
	return err
}

// parseNumber reads what a Number's MarshalJSON writes.
func parseNumber(text string) (float64, error) {
	switch text {
	case `"nan"`:
		return math.NaN(), nil
	case `"inf"`:
		return math.Inf(1), nil
	case `"-inf"`:
		return math.Inf(-1), nil
	}
	x, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return 0, fmt.Errorf("%s is not a number, \"inf\", \"-inf\" or \"nan\"", text)
	}
	return x, nil
}

// Speedup returns how many times as fast as dense attention the point was.
func (in *Input) Speedup(p Point) float64 {
	if p.Speedup != 0 {
		return p.Speedup
	}
	if p.Seconds == 0 {
		return math.NaN()
	}
	return in.DenseSeconds / p.Seconds
}
