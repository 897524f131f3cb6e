// Package compliance states, once for all engines, what must hold of the operator, and tests it through the public API:
// the golden cases, the definition on fresh random inputs, and the laws that follow from it.
//
// Every run draws other inputs. A failure names the seed; with that in the environment variable ANCHOR_SEED, and the same
// tests selected, it comes back.
package compliance

import (
	"context"
	"hash/fnv"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/anchorattention/anchor"
)

// An Engine is what is tested.
type Engine struct {
	// Attend is anchor.Attend by this engine.
	Attend func(ctx context.Context, opt anchor.Options, sequences ...anchor.Sequence) (*anchor.Result, error)
	ISA    string // as its results name it
	Types  []Type // which it takes, of queries, keys and values alike
	Dims   []int  // sizes of heads with which all cases are done; others take turns
	Golden string // directory of the golden cases

	// Bitwise says that attention which the definition makes the same is so bit by bit: of grouped and of repeated heads,
	// of a prompt and of its chunks, of a batch and of its sequences, of a short prompt and dense attention. Otherwise it may
	// differ by rounding.
	Bitwise bool
	// Auto says that there is the planner anchor.Auto.
	Auto bool
	// Spoils is how many rows before those that see a value which is not finite it may spoil too.
	Spoils int
	// Slow leaves out the longest prompts, as go test -short leaves out all long ones.
	Slow bool
}

// A Type is a type of elements, and how exact the engine is with it.
type Type struct {
	anchor.DType
	Rounding float64 // of a weight, relative to it; 0: weights are in single precision
	LSE      float64 // how far log-sum-exps may be off
	Near     float64 // how near to θ, in nats, rounding may decide whether a key is a stripe
}

// Single is a type of which weights and sums are in single precision.
func Single(t anchor.DType) Type { return Type{DType: t, LSE: 2e-5, Near: 1e-4} }

// Rounded is a 16-bit type to which weights are rounded.
func Rounded(t anchor.DType, lse, near float64) Type {
	rounding := 0x1p-8
	if t == anchor.Float16 {
		rounding = 0x1p-11
	}
	return Type{DType: t, Rounding: rounding, LSE: lse, Near: near}
}

// Test tests an engine: all laws for each type, by names such as BF16/Chunks.
func Test(t *testing.T, e Engine) {
	seed := rand.Uint64()
	if text := os.Getenv("ANCHOR_SEED"); text != "" {
		var err error
		if seed, err = strconv.ParseUint(text, 10, 64); err != nil {
			t.Fatalf("ANCHOR_SEED is %q; want a number", text)
		}
	}
	t.Logf("ANCHOR_SEED=%d", seed)
	for _, typ := range e.Types {
		for _, law := range []struct {
			name  string
			holds func(s *suite, t *testing.T)
		}{
			{"Golden", (*suite).golden},
			{"Definition", (*suite).definition},
			{"LargeLogits", (*suite).largeLogits},
			{"Partition", (*suite).partition},
			{"Theta", (*suite).theta},
			{"Runs", (*suite).runs},
			{"Heads", (*suite).heads},
			{"Chunks", (*suite).chunks},
			{"Batch", (*suite).batch},
			{"Scale", (*suite).scale},
			{"Short", (*suite).short},
			{"Views", (*suite).views},
			{"NotFinite", (*suite).notFinite},
			{"Auto", (*suite).auto},
		} {
			t.Run(typ.String()+"/"+law.name, func(t *testing.T) {
				name := fnv.New64()
				name.Write([]byte(t.Name()))
				law.holds(&suite{e, typ, rand.New(rand.NewPCG(seed, name.Sum64()))}, t)
			})
		}
	}
}

// A suite is the laws for one type.
type suite struct {
	Engine
	typ Type
	r   *rand.Rand
}
