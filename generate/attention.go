package generate

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/anchorattention/anchor"
)

// Attention says how prompts are attended to; every generated token sees all keys. It is the same section wherever parameters
// are read, in JSON under the names of the tags.
type Attention struct {
	// Method is the name of one of [anchor.Methods] whose planner is all there is to it.
	Method string `json:"method"`
	// Value is what the method's knob is set to, a finite number: nil for what Params say if the method is anchor or auto, and
	// otherwise for the method's own.
	Value *float64 `json:"value,omitempty"`
	// Params are the parameters of AnchorAttention, θ for each head among them, and what other methods have in common with it.
	Params anchor.Params `json:"params"`
	// DenseLayers are layers, from 0, in which every row sees every key.
	DenseLayers []int `json:"dense_layers,omitempty"`
	// DenseBelow is the length of a prompt, in tokens, below which it is attended to densely.
	DenseBelow int `json:"dense_below,omitempty"`
}

// DefaultAttention returns AnchorAttention with the published parameters.
func DefaultAttention() Attention {
	return Attention{Method: "anchor", Params: anchor.DefaultParams()}
}

// Planner returns the method's planner.
func (a Attention) Planner() (anchor.Planner, error) {
	m, ok := anchor.LookupMethod(a.Method)
	if !ok || !m.Plain() {
		var names []string
		for _, m := range anchor.Methods() {
			if m.Plain() {
				names = append(names, m.Name)
			}
		}
		return nil, fmt.Errorf("Attention.Method is %q; want one of %s", a.Method, strings.Join(names, ", "))
	}
	var p anchor.Planner
	switch {
	case a.Value != nil && math.IsInf(*a.Value, 0):
		return nil, fmt.Errorf("Attention.Value is %v; want a finite number", *a.Value)
	case a.Value != nil:
		if err := m.Check(*a.Value); err != nil {
			return nil, fmt.Errorf("Attention.Value: %w", err)
		}
		p = m.Planner(a.Params, *a.Value)
	case a.Method == "anchor":
		p = anchor.AnchorAttention(a.Params)
	case a.Method == "auto":
		p = anchor.Auto(a.Params)
	default:
		p = m.Planner(a.Params, m.Value)
	}
	if err := p.Validate(); err != nil {
		return nil, fmt.Errorf("Attention.%w", err)
	}
	return p, nil
}

// validate reports what is out of range for a model of so many layers and query heads.
func (a Attention) validate(layers, heads int) error {
	for _, l := range a.DenseLayers {
		if l < 0 || l >= layers {
			return fmt.Errorf("Attention.DenseLayers has %d; want 0 … %d", l, layers-1)
		}
	}
	if a.DenseBelow < 0 {
		return fmt.Errorf("Attention.DenseBelow is %d; want ≥ 0", a.DenseBelow)
	}
	if n := len(a.Params.HeadTheta); n != 0 && n != heads {
		return fmt.Errorf("Attention.Params.HeadTheta has %d numbers; want one for each of the model's %d heads, or none", n, heads)
	}
	_, err := a.Planner()
	return err
}

// layer returns the planner of each layer, as package model wants it.
func (a Attention) layer(planner anchor.Planner) func(layer int) anchor.Planner {
	return func(layer int) anchor.Planner {
		if slices.Contains(a.DenseLayers, layer) {
			return anchor.Dense()
		}
		return planner
	}
}

// UnmarshalJSON reads the fields by their names. Those that are missing keep their values; others are an error.
func (a *Attention) UnmarshalJSON(data []byte) error {
	type fields Attention
	read := fields(*a)
	// Decoders write into what slices and pointers point to.
	read.DenseLayers = slices.Clone(a.DenseLayers)
	read.Params.HeadTheta = slices.Clone(a.Params.HeadTheta)
	if a.Value != nil {
		value := *a.Value
		read.Value = &value
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(&read); err != nil {
		if e := (*json.UnmarshalTypeError)(nil); errors.As(err, &e) {
			return fmt.Errorf("attention: %s is a %s; want something like %v", e.Field, e.Value, e.Type)
		}
		return fmt.Errorf("attention: %w", err)
	}
	*a = Attention(read)
	return nil
}
