package model

import "fmt"

// A Cache holds the keys and values of the tokens that a model has seen, for as many positions as it was made for.
// It must not be used by two goroutines at once.
type Cache struct {
	model    *Model
	capacity int
	length   int
	k, v     [][]float32 // by layer, [KVHeads, capacity, HeadDim]
}

// NewCache makes an empty cache for up to capacity tokens, at most the model's MaxPositions. It takes
// 8·Layers·KVHeads·HeadDim bytes a token.
func (m *Model) NewCache(capacity int) (*Cache, error) {
	c := m.cfg
	if capacity < 1 || capacity > c.MaxPositions {
		return nil, fmt.Errorf("model: cache capacity is %d; want 1 … %d, the model's max_position_embeddings", capacity, c.MaxPositions)
	}
	const most = 1 << 44 // bytes; no machine has more, and an int holds it
	if bytes := 8 * float64(c.Layers) * float64(c.KVHeads*c.HeadDim) * float64(capacity); bytes > most {
		return nil, fmt.Errorf("model: a cache for %d tokens takes %.0f bytes; want at most %d", capacity, bytes, most)
	}
	cache := &Cache{model: m, capacity: capacity}
	for range c.Layers {
		cache.k = append(cache.k, make([]float32, c.KVHeads*capacity*c.HeadDim))
		cache.v = append(cache.v, make([]float32, c.KVHeads*capacity*c.HeadDim))
	}
	return cache, nil
}

// Len returns the number of tokens in the cache.
func (c *Cache) Len() int { return c.length }

// Capacity returns the number of tokens the cache was made for.
func (c *Cache) Capacity() int { return c.capacity }

// Truncate forgets all tokens but the first n.
func (c *Cache) Truncate(n int) error {
	if n < 0 || n > c.length {
		return fmt.Errorf("model: cannot truncate a cache of %d tokens to %d", c.length, n)
	}
	c.length = n
	return nil
}
