package anchor

// A Planner is a method of sparse attention.
type Planner interface {
	// Name is what results call the method.
	Name() string
	// Validate reports the first parameter that is out of range.
	Validate() error
}

// Dense returns the planner under which every row sees every key up to its own.
func Dense() Planner { return dense{} }

// AnchorAttention returns the planner of AnchorAttention with parameters p.
func AnchorAttention(p Params) Planner { return anchorAttention{p} }

type dense struct{}

func (dense) Name() string    { return "dense" }
func (dense) Validate() error { return nil }

type anchorAttention struct{ Params }

func (anchorAttention) Name() string { return "anchor" }
