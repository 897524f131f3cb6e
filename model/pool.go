package model

import (
	"container/list"
	"errors"
	"fmt"
	"slices"
	"sync"

	"github.com/anchorattention/anchor"
)

// PageTokens is the number of tokens in a page of a pool.
const PageTokens = 128

// ErrFull is what [Pool.NewCache] returns, wrapped, when there are not enough pages at the moment.
var ErrFull = errors.New("cache pages are all in use")

// A Pool is memory for caches, in pages of PageTokens tokens, all layers of them. Pages that are shared stay after their
// cache is closed, to be found by the next that begins with the same tokens, until their memory is needed: those that nobody
// has used for longest go first. A Pool is safe for concurrent use; it belongs to one model.
type Pool struct {
	model      *Model
	dtype      anchor.DType
	pageTokens int
	most       int // pages

	mu    sync.Mutex
	made  int     // pages that there are
	free  []*page // of these, those without a reference or a name
	named map[Key]*page
	idle  list.List // pages with a name but without a reference, the least recently used first
}

// A Key names the content of a page: a hash of all that it depends on.
type Key [32]byte

// A page holds the keys and values of some tokens, [Layers, 2, KVHeads, tokens, HeadDim], in one of the slices.
type page struct {
	f32    []float32
	u16    []uint16
	i8     []int8
	scales []float32 // of i8, [Layers, 2, KVHeads, tokens]

	references int
	named      bool
	key        Key
	idle       *list.Element // in Pool.idle
}

// NewPool makes a pool that takes up to so many bytes, and no more than it needs at a time. Elements are F32, BF16, F16 or I8;
// those in 8 bits have a factor for each token and head.
func (m *Model) NewPool(dtype anchor.DType, bytes int64) (*Pool, error) {
	if dtype < anchor.Float32 || dtype > anchor.Int8 {
		return nil, fmt.Errorf("model: element type of the cache is %v; want F32, BF16, F16 or I8", dtype)
	}
	p := m.newPool(dtype, PageTokens, 0)
	size := p.PageBytes()
	if bytes < size {
		return nil, fmt.Errorf("model: cache memory is %d bytes; want at least %d, for a page of %d tokens", bytes, size, PageTokens)
	}
	const most = 1 << 24 // pages: more than there are positions
	p.most = int(min(bytes/size, most))
	return p, nil
}

func (m *Model) newPool(dtype anchor.DType, pageTokens, pages int) *Pool {
	return &Pool{model: m, dtype: dtype, pageTokens: pageTokens, most: pages, named: make(map[Key]*page)}
}

// rows returns how many rows of HeadDim elements a page has.
func (p *Pool) rows() int { return 2 * p.model.cfg.Layers * p.model.cfg.KVHeads * p.pageTokens }

// PageBytes returns the memory of a page.
func (p *Pool) PageBytes() int64 {
	row := int64(p.model.cfg.HeadDim)
	switch p.dtype {
	case anchor.Float32:
		row *= 4
	case anchor.Int8:
		row += 4
	default:
		row *= 2
	}
	return int64(p.rows()) * row
}

// pagesOf returns the number of pages that hold so many tokens.
func (p *Pool) pagesOf(tokens int) int { return (tokens + p.pageTokens - 1) / p.pageTokens }

// Fits reports a number of tokens that no cache of this pool can be for, even if there were no other.
func (p *Pool) Fits(tokens int) error {
	if c := p.model.cfg; tokens < 1 || tokens > c.MaxPositions {
		return fmt.Errorf("model: cache capacity is %d; want 1 … %d, the model's max_position_embeddings", tokens, c.MaxPositions)
	}
	if n := p.pagesOf(tokens); n > p.most {
		return fmt.Errorf("model: a cache for %d tokens takes %d pages of %d tokens, %d bytes; the limit is %d pages, %d bytes",
			tokens, n, p.pageTokens, int64(n)*p.PageBytes(), p.most, int64(p.most)*p.PageBytes())
	}
	return nil
}

// NewCache makes a cache for up to capacity tokens, which takes all its pages at once. It begins with the tokens of the pages
// that prefix names, as far as there are such: [Cache.Len] says how far. Pages that are named together are taken together or not
// at all. When there are not enough pages, the error is ErrFull.
func (p *Pool) NewCache(capacity int, prefix [][]Key) (*Cache, error) {
	if err := p.Fits(capacity); err != nil {
		return nil, err
	}
	c := &Cache{pool: p, capacity: capacity}
	p.mu.Lock()
	defer p.mu.Unlock()
	var found []*page
	idle := 0 // of these
	for _, keys := range prefix {
		if slices.ContainsFunc(keys, func(key Key) bool { return p.named[key] == nil }) {
			break
		}
		for _, key := range keys {
			found = append(found, p.named[key])
		}
	}
	for _, page := range found {
		if page.references == 0 {
			idle++
		}
	}
	wanted := p.pagesOf(capacity)
	if len(found) > wanted {
		return nil, fmt.Errorf("model: %d pages before a cache for %d tokens; want at most %d", len(found), capacity, wanted)
	}
	missing, left := wanted-len(found), len(p.free)+p.most-p.made+p.idle.Len()-idle
	if missing > left {
		return nil, fmt.Errorf("model: %w: a cache for %d tokens takes %d more pages, %d of %d are left", ErrFull, capacity, missing, left, p.most)
	}
	for _, page := range found {
		page.references++
		if page.idle != nil {
			p.idle.Remove(page.idle)
			page.idle = nil
		}
	}
	c.pages, c.shared, c.length = found, len(found), len(found)*p.pageTokens
	for range missing {
		c.pages = append(c.pages, p.take())
	}
	c.view()
	return c, nil
}

// take returns a page with one reference. There is one.
func (p *Pool) take() *page {
	var got *page
	if n := len(p.free); n > 0 {
		got, p.free = p.free[n-1], p.free[:n-1]
	} else if p.made < p.most {
		got = p.make()
		p.made++
	} else {
		got = p.idle.Remove(p.idle.Front()).(*page)
		delete(p.named, got.key)
		got.idle, got.named = nil, false
	}
	got.references = 1
	return got
}

func (p *Pool) make() *page {
	elements := p.rows() * p.model.cfg.HeadDim
	switch p.dtype {
	case anchor.Float32:
		return &page{f32: make([]float32, elements)}
	case anchor.Int8:
		return &page{i8: make([]int8, elements), scales: make([]float32, p.rows())}
	}
	return &page{u16: make([]uint16, elements)}
}

// view makes the cache's lists of pages by layer.
func (c *Cache) view() {
	layers := 2 * c.pool.model.cfg.Layers
	switch c.pool.dtype {
	case anchor.Float32:
		c.f32 = byLayer(c.pages, layers, func(p *page) []float32 { return p.f32 })
	case anchor.Int8:
		c.i8 = byLayer(c.pages, layers, func(p *page) []int8 { return p.i8 })
		c.scales = byLayer(c.pages, layers, func(p *page) []float32 { return p.scales })
	default:
		c.u16 = byLayer(c.pages, layers, func(p *page) []uint16 { return p.u16 })
	}
}

func byLayer[T any](pages []*page, layers int, of func(*page) []T) [][][]T {
	all := make([][][]T, layers)
	for l := range all {
		for _, p := range pages {
			x := of(p)
			n := len(x) / layers
			all[l] = append(all[l], x[l*n:(l+1)*n:(l+1)*n])
		}
	}
	return all
}

// Share gives the first pages of the cache their names, for other caches to begin with. The tokens in them must be there, and
// can no longer be truncated. Names that other pages have already are passed over.
func (c *Cache) Share(names []Key) error {
	p := c.pool
	if len(names)*p.pageTokens > c.length {
		return fmt.Errorf("model: %d names for pages of a cache of %d tokens; want whole pages of %d", len(names), c.length, p.pageTokens)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for ; c.shared < len(names); c.shared++ {
		page, key := c.pages[c.shared], names[c.shared]
		if p.named[key] == nil {
			page.named, page.key, p.named[key] = true, key, page
		}
	}
	return nil
}

// Close gives the pages back. The cache must not be used afterwards, but may be closed again.
func (c *Cache) Close() {
	p := c.pool
	p.mu.Lock()
	defer p.mu.Unlock()
	// The last first: of a text that is half forgotten the beginning is of use.
	for i := len(c.pages) - 1; i >= 0; i-- {
		page := c.pages[i]
		if page.references--; page.references > 0 {
			continue
		}
		if page.named {
			page.idle = p.idle.PushBack(page)
		} else {
			p.free = append(p.free, page)
		}
	}
	*c = Cache{pool: p}
}

// PoolStats say where the pages of a pool are.
type PoolStats struct {
	Pages     int   // that there can be
	PageBytes int64 // of each
	Used      int   // by caches; a page that several share counts once
	Kept      int   // by none, but for others to begin with
}

// Stats returns the state of the pool.
func (p *Pool) Stats() PoolStats {
	p.mu.Lock()
	defer p.mu.Unlock()
	return PoolStats{Pages: p.most, PageBytes: p.PageBytes(), Used: p.made - len(p.free) - p.idle.Len(), Kept: p.idle.Len()}
}
