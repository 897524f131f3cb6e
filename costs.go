package anchor

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math"
)

// Costs are what the executor knows of the machine when it decides how to walk a set of keys: single keys can be
// gathered one by one, or be attended to where they lie, together with the keys between them, which are then masked. They
// also say where [Auto] goes dense. They never change which keys AnchorAttention attends to.
//
// "anchor tune" measures them; [DefaultCosts] will do where nobody did.
type Costs struct {
	// Bringing in a key and its value from anywhere takes as long as attending to them with so many query rows: in
	// single precision, and in pairs of bfloat16 numbers.
	GatherRows      float64 `json:"gather_rows"`
	GatherRowsPairs float64 `json:"gather_rows_pairs"`
}

// DefaultCosts returns what was measured on an x86 server with AVX-512 and AMX (bench/NOTES.md).
func DefaultCosts() Costs { return Costs{GatherRows: 84, GatherRowsPairs: 210} }

// Validate reports the first field that is out of range.
func (c Costs) Validate() error {
	for _, f := range []struct {
		name  string
		value float64
	}{{"GatherRows", c.GatherRows}, {"GatherRowsPairs", c.GatherRowsPairs}} {
		if !(f.value >= 0) || math.IsInf(f.value, 1) {
			return fmt.Errorf("Costs.%s is %v; want a finite number ≥ 0", f.name, f.value)
		}
	}
	return nil
}

// UnmarshalJSON reads what "anchor tune" writes. Fields that are missing keep their values; others are an error.
func (c *Costs) UnmarshalJSON(data []byte) error {
	type fields Costs
	read := fields(*c)
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&read); err != nil {
		return fmt.Errorf("Costs: %w", err)
	}
	if err := Costs(read).Validate(); err != nil {
		return err
	}
	*c = Costs(read)
	return nil
}

// contiguous reports whether a stretch of keys, of which some are wanted by so many rows, is better attended to as it
// lies.
func (c *Costs) contiguous(pairs bool, rows, wanted, keys int) bool {
	gather := c.GatherRows
	if pairs {
		gather = c.GatherRowsPairs
	}
	columns := float64(padded(rows, lanes)) // what a tile computes
	return columns*float64(keys) <= (columns+gather)*float64(wanted)
}
