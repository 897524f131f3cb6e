package model

import (
	"fmt"
	"math"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/kernel"
)

// A Cache holds the keys and values of the tokens that a model has seen, for as many positions as it was made for, in
// pages of a [Pool]. It must not be used by two goroutines at once.
type Cache struct {
	pool     *Pool
	capacity int
	length   int
	shared   int     // the first pages, which others may read
	pages    []*page // none when closed

	// The same pages by layer, keys at 2·layer and values after them, as tensors want them.
	f32, scales [][][]float32
	u16         [][][]uint16
	i8          [][][]int8
}

// NewCache makes an empty cache for up to capacity tokens, at most the model's MaxPositions, in single precision and in one
// piece. It takes 8·Layers·KVHeads·HeadDim bytes a token.
func (m *Model) NewCache(capacity int) (*Cache, error) {
	c := m.cfg
	if capacity < 1 || capacity > c.MaxPositions {
		return nil, fmt.Errorf("model: cache capacity is %d; want 1 … %d, the model's max_position_embeddings", capacity, c.MaxPositions)
	}
	const most = 1 << 44 // bytes; no machine has more, and an int holds it
	if bytes := 8 * float64(c.Layers) * float64(c.KVHeads*c.HeadDim) * float64(capacity); bytes > most {
		return nil, fmt.Errorf("model: a cache for %d tokens takes %.0f bytes; want at most %d", capacity, bytes, most)
	}
	return m.newPool(anchor.Float32, capacity, 1).NewCache(capacity, nil)
}

// Len returns the number of tokens in the cache.
func (c *Cache) Len() int { return c.length }

// Truncate forgets all tokens but the first n. Tokens in shared pages cannot be forgotten.
func (c *Cache) Truncate(n int) error {
	if least := c.shared * c.pool.pageTokens; n < least || n > c.length {
		return fmt.Errorf("model: cannot truncate a cache of %d tokens, %d of them shared, to %d", c.length, least, n)
	}
	c.length = n
	return nil
}

// tensor views the keys of a layer, or its values, of the first rows positions.
func (c *Cache) tensor(layer int, values bool, rows int) anchor.Tensor {
	cfg, n, i := &c.pool.model.cfg, c.pool.pageTokens, 2*layer
	if values {
		i++
	}
	switch c.pool.dtype {
	case anchor.Float32:
		return anchor.FromPages(c.f32[i], n, cfg.KVHeads, rows, cfg.HeadDim)
	case anchor.BFloat16:
		return anchor.FromBFloat16Pages(c.u16[i], n, cfg.KVHeads, rows, cfg.HeadDim)
	case anchor.Float16:
		return anchor.FromFloat16Pages(c.u16[i], n, cfg.KVHeads, rows, cfg.HeadDim)
	}
	return anchor.FromInt8Pages(c.i8[i], c.scales[i], n, cfg.KVHeads, rows, cfg.HeadDim)
}

// put writes the key or the value of a head at a position.
func (c *Cache) put(layer int, values bool, head, position int, row []float32) {
	i, n := 2*layer, c.pool.pageTokens
	if values {
		i++
	}
	page, at := position/n, head*n+position%n
	from, to := at*len(row), (at+1)*len(row)
	switch c.pool.dtype {
	case anchor.Float32:
		copy(c.f32[i][page][from:to], row)
	case anchor.BFloat16:
		roundRow(c.u16[i][page][from:to], row)
	case anchor.Float16:
		for d, x := range row {
			c.u16[i][page][from+d] = kernel.RoundToFloat16(x)
		}
	case anchor.Int8:
		c.scales[i][page][at] = toInt8(c.i8[i][page][from:to], row)
	}
}

// roundRow rounds a row to bfloat16 numbers.
func roundRow(dst []uint16, row []float32) {
	for d, x := range row {
		dst[d] = kernel.RoundToBFloat16(x)
	}
}

// toInt8 rounds a row to whole numbers from −127 to 127 and returns what they are to be multiplied by: NaN for a row that is
// not finite.
func toInt8(dst []int8, row []float32) (scale float32) {
	most := float32(0)
	for _, x := range row {
		if x-x != 0 {
			for d := range dst {
				dst[d] = 1
			}
			return float32(math.NaN())
		}
		most = max(most, float32(math.Abs(float64(x))))
	}
	scale = most / 127
	if scale == 0 {
		clear(dst)
		return 0
	}
	for d, x := range row {
		dst[d] = int8(math.RoundToEven(min(max(float64(x)/float64(scale), -127), 127)))
	}
	return scale
}
