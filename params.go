package anchor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
	"strconv"
)

// Params are the parameters of AnchorAttention. Zero is a value, never "the default": start from [DefaultParams].
//
// Blocks and groups are aligned to absolute positions: group g is the Block·Step positions from g·Block·Step on. For
// a row at position p of group g that starts at position s:
//
//  1. Anchor. The window is the keys [0, Init) and [s − Local, p]. The row's anchor is its largest logit there.
//  2. Stripe identification. The candidates are the keys [Init, s − Local). Each block of the group's rows stands
//     for them by the mean of their queries and the mean of their anchors. A key is dropped only when, for every
//     block, mean anchor − logit of the mean query > Theta. What is left are the group's stripes.
//  3. Sparse computation. Every row attends exactly to its window and the group's stripes.
//
// Rows at the end of the prompt, Tail of them, see every key instead and take no part in identification.
type Params struct {
	Block int     `json:"block"` // rows that one mean query stands for, ≥ 1
	Step  int     `json:"step"`  // blocks that share one set of stripes, ≥ 1
	Init  int     `json:"init"`  // first keys, always attended, ≥ 0
	Local int     `json:"local"` // keys just before a group, always attended, ≥ 0
	Theta float64 `json:"theta"` // nats below the anchor at which a key is still kept; ±Inf allowed, NaN not
	Tail  int     `json:"tail"`  // last rows of the prompt, which see every key, ≥ 0

	Refinements
}

// Refinements are what Anchor adds to the method where it is weak. The zero value adds nothing: then Params are
// AnchorAttention as published.
//
// A row stands out of its block where its query lies further from the block's mean than the median row's, by more than ten times
// the median deviation from that median. With Pool or Spikes such a block has parts i: w_i of its rows, mean anchor a_i, and logit
// s_i of their mean query with a key. In place of a_1 − s_1, which the whole block has as its one part, −ln Σ w_i·e^(s_i − a_i) is
// held against Theta: what rows would give the key is added up as mass is, and a part that nothing but chance sets apart
// changes next to nothing. Single rows are parts beside those that the block is divided into, at 1/Block of its rows. Blocks out of
// which no row stands are searched as published.
type Refinements struct {
	// Pool is how many rows one mean query stands for in blocks in which rows stand out, where that is fewer than Block: a
	// divisor of it, or 0. A key that matters to some rows is diluted less. Identification costs up to Block/Pool as much.
	Pool int `json:"pool,omitempty"`
	// Spikes is how many of the rows that stand out of each block, those furthest out, also stand for themselves, so that a key which
	// matters to one row is found. It costs up to as much as a block for each.
	Spikes int `json:"spikes,omitempty"`
	// MaxDensity bounds the density of each head in each group of rows: of more stripes than the window leaves room for, those
	// that score nearest to the anchor, or above it, are kept. A window that is denser by itself, as in the first
	// groups, is kept whole, and the tail is dense. It bounds what a flat head costs; it does not help recall. 0 is no bound; at most 1.
	MaxDensity float64 `json:"max_density,omitempty"`
	// HeadTheta is Theta for each query head, when not empty.
	HeadTheta Thetas `json:"head_theta,omitempty"`
}

// Thetas are values of Theta. In JSON an infinite one is the string "inf" or "-inf".
type Thetas []float64

// theta returns that of a query head.
func (p Params) theta(head int) float64 {
	if len(p.HeadTheta) > 0 {
		return p.HeadTheta[head]
	}
	return p.Theta
}

// DefaultParams returns the published parameters, with a tail of 128 rows.
func DefaultParams() Params {
	return Params{Block: 128, Step: 16, Init: 128, Local: 128, Theta: 12, Tail: 128}
}

// maxPosition bounds positions and sizes so that sums of a few of them fit in an int32.
const maxPosition = 1 << 29

// Validate reports the first field that is out of range.
func (p Params) Validate() error {
	for _, f := range []struct {
		name  string
		value int
		least int
	}{{"Block", p.Block, 1}, {"Step", p.Step, 1}, {"Init", p.Init, 0}, {"Local", p.Local, 0}, {"Tail", p.Tail, 0}} {
		if f.value < f.least || f.value > maxPosition {
			return fmt.Errorf("Params.%s is %d; want %d … %d", f.name, f.value, f.least, maxPosition)
		}
	}
	if p.Block > maxPosition/p.Step {
		return fmt.Errorf("Params.Block·Step is %d·%d; want ≤ %d", p.Block, p.Step, maxPosition)
	}
	if math.IsNaN(p.Theta) {
		return fmt.Errorf("Params.Theta is NaN; want a number or ±Inf")
	}
	for h, theta := range p.HeadTheta {
		if math.IsNaN(theta) {
			return fmt.Errorf("Params.HeadTheta[%d] is NaN; want a number or ±Inf", h)
		}
	}
	switch {
	case p.Pool < 0 || p.Pool > p.Block || p.Pool > 0 && p.Block%p.Pool != 0:
		return fmt.Errorf("Params.Pool is %d; want a divisor of Block, %d, or 0", p.Pool, p.Block)
	case p.Spikes < 0 || p.Spikes > p.Block:
		return fmt.Errorf("Params.Spikes is %d; want 0 … Block, %d", p.Spikes, p.Block)
	case !(p.MaxDensity >= 0 && p.MaxDensity <= 1):
		return fmt.Errorf("Params.MaxDensity is %v; want 0 (no bound) … 1", p.MaxDensity)
	}
	return nil
}

// group returns the number of positions that share one set of stripes.
func (p Params) group() int { return p.Block * p.Step }

// MarshalJSON writes the fields by their lower-case names, an infinite Theta as the string "inf" or "-inf".
func (p Params) MarshalJSON() ([]byte, error) {
	type fields Params
	return json.Marshal(struct {
		fields
		Theta number `json:"theta"`
	}{fields(p), number(p.Theta)})
}

// UnmarshalJSON reads what MarshalJSON writes. Fields that are missing keep their values; others than those above
// are an error.
func (p *Params) UnmarshalJSON(data []byte) error {
	type fields Params
	read := *p
	in := struct {
		*fields
		Theta *number `json:"theta"`
	}{fields: (*fields)(&read), Theta: (*number)(&read.Theta)}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return fmt.Errorf("Params: %w", err)
	}
	if in.Theta == nil {
		return fmt.Errorf("Params: theta is null; want a number, \"inf\" or \"-inf\"")
	}
	*p = read
	return nil
}

// MarshalJSON writes the numbers, infinite ones as strings.
func (t Thetas) MarshalJSON() ([]byte, error) {
	out := make([]number, len(t))
	for i, x := range t {
		out[i] = number(x)
	}
	return json.Marshal(out)
}

// UnmarshalJSON reads what MarshalJSON writes.
func (t *Thetas) UnmarshalJSON(data []byte) error {
	var in []number
	if err := json.Unmarshal(data, &in); err != nil {
		return fmt.Errorf("head_theta: %w", err)
	}
	*t = make(Thetas, len(in))
	for i, x := range in {
		(*t)[i] = float64(x)
	}
	return nil
}

// A number is a float64 that may be infinite in JSON.
type number float64

func (n number) MarshalJSON() ([]byte, error) {
	switch x := float64(n); {
	case math.IsInf(x, 1):
		return []byte(`"inf"`), nil
	case math.IsInf(x, -1):
		return []byte(`"-inf"`), nil
	default:
		return json.Marshal(x)
	}
}

func (n *number) UnmarshalJSON(data []byte) error {
	text := string(data)
	if unquoted, err := strconv.Unquote(text); err == nil {
		text = unquoted
	}
	x, err := strconv.ParseFloat(text, 64)
	if err != nil {
		return fmt.Errorf("theta is %s; want a number, \"inf\" or \"-inf\"", data)
	}
	*n = number(x)
	return nil
}
