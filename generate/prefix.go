package generate

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"fmt"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/model"
)

// Keys and values of a prompt's beginning can serve another prompt that begins alike, but with a sparse method not all of
// them. What a row attends to depends on the other rows of its group, and from the second layer on keys and values depend on
// what rows attended to. The rows of the tail see every key, and a group that the tail cuts short is searched with fewer
// rows. So what is shared are units: whole groups, and whole pages, that lie before the tail of the prompt that computed
// them and before that of the one that reads them. The name of a page is a hash of all tokens up to the end of its unit, not of
// its page: a page in the middle of a group depends on the tokens after it too. Only where every row sees every key, as in
// the first group of AnchorAttention, each page is a unit, and rows of the tail are like all others.
type prefix struct {
	root  [sha256.Size]byte // of all that keys and values depend on beside tokens
	dense int               // tokens, in whole pages, before which each page is a unit
	unit  int               // units after that end at multiples of so many tokens, whole pages; 0 shares nothing
	tail  int               // last tokens of a prompt that are in none of those
}

// newPrefix returns what prompts share that are attended to by a planner, under parameters that the given values are
// all of.
func newPrefix(planner anchor.Planner, params ...any) (prefix, error) {
	b, ok := anchor.BordersOf(planner)
	if !ok {
		return prefix{}, nil
	}
	data, err := json.Marshal(params)
	if err != nil {
		return prefix{}, fmt.Errorf("generate: parameters of a prefix: %w", err)
	}
	return prefix{
		root:  sha256.Sum256(data),
		dense: b.Dense / model.PageTokens * model.PageTokens,
		unit:  b.Every / gcd(b.Every, model.PageTokens) * model.PageTokens,
		tail:  b.Tail,
	}, nil
}

func gcd(a, b int) int {
	for b != 0 {
		a, b = b, a%b
	}
	return a
}

// keys returns the names of the pages of a prompt that can be shared, by unit. At least one token is left over, whose logits
// are what the prompt is read for.
func (p *prefix) keys(prompt []int32) [][]model.Key {
	if p.unit == 0 {
		return nil
	}
	var units [][]model.Key
	name := p.root
	for from := 0; ; {
		to, left := from+model.PageTokens, 1
		if from >= p.dense {
			to, left = (from/p.unit+1)*p.unit, max(p.tail, 1)
		}
		if to > len(prompt)-left {
			return units
		}
		data := append(make([]byte, 0, sha256.Size+4*(to-from)), name[:]...)
		for _, id := range prompt[from:to] {
			data = binary.LittleEndian.AppendUint32(data, uint32(id))
		}
		name = sha256.Sum256(data)
		var keys []model.Key
		for i := range (to - from) / model.PageTokens {
			keys = append(keys, sha256.Sum256(binary.LittleEndian.AppendUint64(name[:], uint64(i))))
		}
		units = append(units, keys)
		from = to
	}
}
