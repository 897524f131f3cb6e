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
	return nil
}

// group returns the number of positions that share one set of stripes.
func (p Params) group() int { return p.Block * p.Step }

// MarshalJSON writes the fields by their lower-case names, an infinite Theta as the string "inf" or "-inf".
func (p Params) MarshalJSON() ([]byte, error) {
	type fields Params
	if !math.IsInf(p.Theta, 0) {
		return json.Marshal(fields(p))
	}
	theta := "inf"
	if p.Theta < 0 {
		theta = "-inf"
	}
	return json.Marshal(struct {
		fields
		Theta string `json:"theta"`
	}{fields(p), theta})
}

// UnmarshalJSON reads what MarshalJSON writes. Fields that are missing keep their values; others than those above
// are an error.
func (p *Params) UnmarshalJSON(data []byte) error {
	type fields Params
	read := *p
	in := struct {
		*fields
		Theta json.RawMessage `json:"theta"`
	}{fields: (*fields)(&read)}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&in); err != nil {
		return fmt.Errorf("Params: %w", err)
	}
	if in.Theta != nil {
		text := string(in.Theta)
		if unquoted, err := strconv.Unquote(text); err == nil {
			text = unquoted
		}
		theta, err := strconv.ParseFloat(text, 64)
		if err != nil {
			return fmt.Errorf("Params.Theta is %s; want a number, \"inf\" or \"-inf\"", in.Theta)
		}
		read.Theta = theta
	}
	*p = read
	return nil
}
