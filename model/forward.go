package model

import (
	"context"
	"fmt"
	"math"
	"time"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/kernel"
	"github.com/anchorattention/anchor/internal/matrix"
	"github.com/anchorattention/anchor/internal/parallel"
)

// ForwardOptions say how to run a model.
type ForwardOptions struct {
	// Planner says which keys each row of queries sees. In a layer whose window is shorter than the text a row sees exactly
	// the window's keys instead, and rows are not audited.
	Planner   anchor.Planner
	Costs     *anchor.Costs // see anchor.Options
	Threads   int           // goroutines to use; 0 means GOMAXPROCS
	AuditRows int           // rows of each head and layer whose exact recall is measured; 0 means no audit
	Prompt    int           // length of the whole prompt, as in anchor.Sequence

	// Capture, when set, is called for each layer with the queries [Heads, len(ids), HeadDim], and the keys and values
	// [KVHeads, len(ids), HeadDim] of the call's tokens, as attention sees them: turned by their positions. It must not keep
	// the slices. Its error ends the call.
	Capture func(layer int, q, k, v []float32) error

	// Progress, when set, is called now and then with the share of the work that is done, ascending in [0, 1], by
	// one goroutine at a time.
	Progress func(share float64)
}

// Stats say what a call of Forward did and how long it took.
type Stats struct {
	Attention        *anchor.Result // merged over layers
	AttentionSeconds float64        // in attention, the audit left out
	OtherSeconds     float64        // in all else but attention and its audit
}

const (
	tileTokens = 32      // tokens side by side in a matrix product
	chunkTiles = 16      // tiles between attention layers at once: what bounds memory for the MLP's activations
	maxThreads = 1 << 12 // more would find no work
)

// Forward runs the tokens ids, which follow those in the cache, adds them to the cache and returns the logits, one
// for each of the Vocab ids, of the token after the last.
//
// Sums run in the same order however a text is cut into calls and whatever the number of threads: outside
// attention results are bitwise the same. Upon an error, ctx's included, the cache is as it was.
func (m *Model) Forward(ctx context.Context, cache *Cache, ids []int32, opt ForwardOptions) (logits []float32, s Stats, err error) {
	start := time.Now()
	defer guard(func() []mapped { return m.files }, &err)()
	f, err := m.newForward(cache, ids, opt)
	if err != nil {
		return nil, Stats{}, err
	}
	f.embed(ids)
	results := make([]*anchor.Result, m.cfg.Layers)
	for i := range m.layers {
		if err := f.project(ctx, i); err != nil {
			return nil, Stats{}, err
		}
		if results[i], err = f.attend(ctx, i); err != nil {
			return nil, Stats{}, err
		}
		if err := f.mix(ctx, i); err != nil {
			return nil, Stats{}, err
		}
	}
	logits = f.logits()
	if err := ctx.Err(); err != nil {
		return nil, Stats{}, err
	}
	cache.length += len(ids)

	s.Attention = anchor.Merge(results...)
	s.Attention.Method = opt.Planner.Name() // not that of windows
	s.AttentionSeconds = s.Attention.Seconds - s.Attention.Stages[anchor.StageAudit]
	s.OtherSeconds = time.Since(start).Seconds() - s.Attention.Seconds
	return logits, s, nil
}

// forward is one call of Forward. Activations lie in tiles of width tokens, [features, width] each; the last tile's
// columns without a token are zero.
type forward struct {
	*Model
	cache   *Cache
	opt     ForwardOptions
	threads int

	n, first     int // tokens, and the position of the first
	width, tiles int
	x            []float32 // residual stream, [tiles, Hidden, width]
	q, o         []float32 // [Heads, n, HeadDim]
	cos, sin     []float32 // of the angles at each position, [n, HeadDim/2]

	// Of the tiles of a chunk:
	normed   []float32 // [Hidden, width]
	qkv      []float32 // [Heads·HeadDim, width]; twice [KVHeads·HeadDim, width]
	gate, up []float32 // [Intermediate, width]

	inputs  []*matrix.Inputs // of products
	scratch []matrix.Scratch // of threads

	done, all float64 // work, in multiply-adds; attention counts as if dense
}

func (m *Model) newForward(cache *Cache, ids []int32, opt ForwardOptions) (*forward, error) {
	c := m.cfg
	switch {
	case cache == nil || cache.model != m:
		return nil, fmt.Errorf("model: the cache is not one of this model's; want one from NewCache")
	case len(ids) == 0:
		return nil, fmt.Errorf("model: no tokens; want at least one")
	case len(ids) > cache.capacity-cache.length:
		return nil, fmt.Errorf("model: %d tokens after %d overfill a cache for %d", len(ids), cache.length, cache.capacity)
	case opt.Planner == nil:
		return nil, fmt.Errorf("model: ForwardOptions.Planner is nil; want anchor.Dense(), for example")
	case opt.Threads < 0:
		return nil, fmt.Errorf("model: ForwardOptions.Threads is %d; want ≥ 0", opt.Threads)
	case opt.AuditRows < 0:
		return nil, fmt.Errorf("model: ForwardOptions.AuditRows is %d; want ≥ 0", opt.AuditRows)
	case opt.Prompt < 0 || opt.Prompt > 1<<29:
		return nil, fmt.Errorf("model: ForwardOptions.Prompt is %d; want 0 … %d", opt.Prompt, 1<<29)
	}
	if err := opt.Planner.Validate(); err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	for i, id := range ids {
		if id < 0 || int(id) >= c.Vocab {
			return nil, fmt.Errorf("model: token %d is %d; want ids below vocab_size, %d", i, id, c.Vocab)
		}
	}

	f := &forward{Model: m, cache: cache, opt: opt, threads: min(parallel.Threads(opt.Threads), maxThreads), n: len(ids), first: cache.length}
	f.width = tileTokens
	if f.n <= kernel.Lanes {
		f.width = kernel.Lanes
	}
	f.tiles = (f.n + f.width - 1) / f.width
	heads, kvHeads := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	chunk := min(f.tiles, chunkTiles) * f.width
	f.x = make([]float32, f.tiles*c.Hidden*f.width)
	f.q = make([]float32, heads*f.n)
	f.o = make([]float32, heads*f.n)
	f.normed = make([]float32, c.Hidden*chunk)
	f.qkv = make([]float32, (heads+2*kvHeads)*chunk)
	f.gate = make([]float32, c.Intermediate*chunk)
	f.up = make([]float32, c.Intermediate*chunk)
	f.turn()

	n := float64(f.n)
	linear := n * float64(c.Hidden) * float64(2*heads+2*kvHeads+3*c.Intermediate)
	f.all = float64(c.Layers)*linear + float64(c.Vocab)*float64(c.Hidden)
	for layer := range c.Layers {
		f.all += f.attention(layer)
	}
	return f, nil
}

// window returns how many keys a row of the layer sees, 0 for all. A window as long as the text is none.
func (f *forward) window(layer int) int {
	if w := f.cfg.Windows; w != nil && w[layer] < max(f.opt.Prompt, f.first+f.n) {
		return w[layer]
	}
	return 0
}

// attention returns the work of attention in a layer, as if dense.
func (f *forward) attention(layer int) float64 {
	keys := float64(f.first) + float64(f.n+1)/2 // of a row, in the mean
	if w := f.window(layer); w != 0 {
		keys = min(keys, float64(w))
	}
	return 2 * float64(f.cfg.Heads*f.cfg.HeadDim) * float64(f.n) * keys
}

// progress accounts for work that is done, and reports it with share of more under way.
func (f *forward) progress(work, under, share float64) {
	f.done += work
	if f.opt.Progress != nil {
		f.opt.Progress(min((f.done+under*share)/f.all, 1))
	}
}

// turn computes the rotary embedding's angles, in double precision since positions can be large.
func (f *forward) turn() {
	half := f.cfg.HeadDim / 2
	f.cos, f.sin = make([]float32, f.n*half), make([]float32, f.n*half)
	freq, factor := f.cfg.frequencies()
	const rows = 256
	parallel.For(f.threads, (f.n+rows-1)/rows, func(_, piece int) {
		for t := piece * rows; t < min((piece+1)*rows, f.n); t++ {
			for i, w := range freq {
				sin, cos := math.Sincos(float64(f.first+t) * w)
				f.sin[t*half+i], f.cos[t*half+i] = float32(factor*sin), float32(factor*cos)
			}
		}
	})
}

// each calls do for the tiles [from, to) in parallel.
func (f *forward) each(from, to int, do func(tile int)) {
	parallel.For(f.threads, to-from, func(_, i int) { do(from + i) })
}

// columns returns the number of tokens in a tile.
func (f *forward) columns(tile int) int { return min(f.width, f.n-tile*f.width) }

func (f *forward) embed(ids []int32) {
	hidden := f.cfg.Hidden
	f.each(0, f.tiles, func(tile int) {
		x, row := f.x[tile*hidden*f.width:], make([]float32, hidden)
		for c := range f.columns(tile) {
			id := int(ids[tile*f.width+c])
			f.embedding.Row(id, row)
			for d, e := range row {
				x[d*f.width+c] = e
			}
		}
	})
}

// chunks calls do for chunks of tiles until ctx ends.
func (f *forward) chunks(ctx context.Context, do func(from, to int)) error {
	for from := 0; from < f.tiles; from += chunkTiles {
		if err := ctx.Err(); err != nil {
			return err
		}
		do(from, min(from+chunkTiles, f.tiles))
	}
	return nil
}

// project computes the queries, keys and values of a layer.
func (f *forward) project(ctx context.Context, layer int) error {
	l, c := &f.layers[layer], f.cfg
	heads, kvHeads := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	chunk := min(f.tiles, chunkTiles) * f.width
	q, k, v := f.qkv[:heads*chunk], f.qkv[heads*chunk:(heads+kvHeads)*chunk], f.qkv[(heads+kvHeads)*chunk:]
	keys, values := f.cache.k[layer], f.cache.v[layer]
	return f.chunks(ctx, func(from, to int) {
		f.each(from, to, func(tile int) { f.rmsNorm(tile, from, l.attentionNorm) })
		f.multiply(to-from,
			product{l.q, f.normed, q, false},
			product{l.k, f.normed, k, false},
			product{l.v, f.normed, v, false})
		f.each(from, to, func(tile int) {
			at := tile*f.width - from*f.width
			f.rows(tile, q[at*heads:], destination{c.Heads, f.q, f.n, 0, l.qBias, l.qNorm, true})
			f.rows(tile, k[at*kvHeads:], destination{c.KVHeads, keys, f.cache.capacity, f.first, l.kBias, l.kNorm, true})
			f.rows(tile, v[at*kvHeads:], destination{c.KVHeads, values, f.cache.capacity, f.first, l.vBias, nil, false})
		})
	})
}

// rmsNorm scales the tokens of a tile to a mean square of one, and by the weights, into the chunk that starts at
// tile from.
func (f *forward) rmsNorm(tile, from int, weight []float32) {
	size := f.cfg.Hidden * f.width
	f.kernels.Normalise(f.width, f.normed[(tile-from)*size:], f.x[tile*size:(tile+1)*size], weight, f.cfg.RMSNormEps)
}

// normalise is kernel.Normalise of one row.
func normalise(x, weight []float32, eps float64) {
	var sum float64
	for _, v := range x {
		sum += float64(v) * float64(v)
	}
	factor := float32(1 / math.Sqrt(sum/float64(len(weight))+eps))
	for i, w := range weight {
		x[i] *= factor
		x[i] *= w
	}
}

// A destination is where a projection's output goes, and what becomes of it on the way.
type destination struct {
	heads       int
	data        []float32 // [heads, step, HeadDim], from row first on
	step, first int
	bias        []float32 // added, if there is one
	norm        []float32 // weights of an RMSNorm of every row, if there is one
	turned      bool      // rows carry their position
}

// rows copies the tokens of a tile [heads·HeadDim, width] to rows of heads.
func (f *forward) rows(tile int, src []float32, to destination) {
	dim, half := f.cfg.HeadDim, f.cfg.HeadDim/2
	turned := make([]float32, f.width*dim) // a head's part of src, by tokens
	for h := range to.heads {
		f.transpose(dim, f.columns(tile), src[h*dim*f.width:], f.width, turned, dim)
		for c := range f.columns(tile) {
			t := tile*f.width + c
			cos, sin := f.cos[t*half:(t+1)*half], f.sin[t*half:(t+1)*half]
			row, from := to.data[(h*to.step+to.first+t)*dim:][:dim], turned[c*dim:][:dim]
			if to.turned && f.cfg.Interleaved {
				for i := range half {
					row[i], row[i+half] = from[2*i], from[2*i+1]
				}
			} else {
				copy(row, from)
			}
			if to.bias != nil {
				for i, b := range to.bias[h*dim:][:dim] {
					row[i] += b
				}
			}
			if to.norm != nil {
				normalise(row, to.norm, f.cfg.RMSNormEps)
			}
			if !to.turned {
				continue
			}
			// Elements i and i + half are a point of the plane.
			upper := row[half:][:half]
			for i, x := range row[:half] {
				y := upper[i]
				row[i] = x*cos[i] - y*sin[i]
				upper[i] = y*cos[i] + x*sin[i]
			}
		}
	}
}

// transpose is kernel.Transpose of any number of rows.
func (f *forward) transpose(rows, cols int, src []float32, lds int, dst []float32, ldd int) {
	whole := rows / kernel.Lanes * kernel.Lanes
	kernel.Transpose(f.kernels, whole, cols, src, lds, dst, ldd)
	for i := whole; i < rows; i++ {
		for j, x := range src[i*lds:][:cols] {
			dst[j*ldd+i] = x
		}
	}
}

func (f *forward) attend(ctx context.Context, layer int) (*anchor.Result, error) {
	c, total := f.cfg, f.first+f.n
	f.progress(float64(f.n)*float64(c.Hidden*(c.Heads+2*c.KVHeads)*c.HeadDim), 0, 0)
	view := func(data []float32) anchor.Tensor {
		return anchor.FromFloat32(data, c.KVHeads, total, c.HeadDim).Strided(f.cache.capacity*c.HeadDim, c.HeadDim)
	}
	if f.opt.Capture != nil {
		if err := f.capture(layer); err != nil {
			return nil, err
		}
	}
	opt := anchor.Options{Planner: f.opt.Planner, Costs: f.opt.Costs, Threads: f.opt.Threads, AuditRows: f.opt.AuditRows}
	prompt := f.opt.Prompt
	if w := f.window(layer); w != 0 {
		// StreamingLLM without first keys and a tail is the window, and nothing else.
		opt.Planner, opt.AuditRows, prompt = anchor.StreamingLLM(anchor.StreamingParams{Window: w}), 0, 0
	}
	work := f.attention(layer)
	if f.opt.Progress != nil {
		opt.Progress = func(share float64) { f.progress(0, work, share) }
	}
	res, err := anchor.Attend(ctx, opt, anchor.Sequence{
		Q:      anchor.FromFloat32(f.q, c.Heads, f.n, c.HeadDim),
		K:      view(f.cache.k[layer]),
		V:      view(f.cache.v[layer]),
		O:      anchor.FromFloat32(f.o, c.Heads, f.n, c.HeadDim),
		Prompt: prompt,
	})
	if err != nil {
		return nil, fmt.Errorf("model: layer %d: %w", layer, err)
	}
	f.progress(work, 0, 0)
	return res, nil
}

// capture hands a layer's queries, keys and values to the caller.
func (f *forward) capture(layer int) error {
	c := f.cfg
	contiguous := func(cached []float32) []float32 {
		all := make([]float32, 0, c.KVHeads*f.n*c.HeadDim)
		for h := range c.KVHeads {
			all = append(all, cached[(h*f.cache.capacity+f.first)*c.HeadDim:][:f.n*c.HeadDim]...)
		}
		return all
	}
	return f.opt.Capture(layer, f.q, contiguous(f.cache.k[layer]), contiguous(f.cache.v[layer]))
}

// mix adds a layer's attention and then its MLP to the residual stream.
func (f *forward) mix(ctx context.Context, layer int) error {
	l, c := &f.layers[layer], f.cfg
	heads := c.Heads * c.HeadDim
	return f.chunks(ctx, func(from, to int) {
		f.each(from, to, func(tile int) {
			dst := f.qkv[(tile-from)*heads*f.width:]
			for h := range c.Heads {
				f.transpose(f.columns(tile), c.HeadDim, f.o[(h*f.n+tile*f.width)*c.HeadDim:], c.HeadDim, dst[h*c.HeadDim*f.width:], f.width)
			}
			for col := f.columns(tile); col < f.width; col++ {
				for i := range heads {
					dst[i*f.width+col] = 0
				}
			}
		})
		x := f.x[from*c.Hidden*f.width:]
		f.multiply(to-from, product{l.o, f.qkv, x, true})
		if l.oBias != nil {
			f.each(from, to, func(tile int) {
				for d, b := range l.oBias {
					row := f.x[(tile*c.Hidden+d)*f.width:][:f.columns(tile)]
					for col := range row {
						row[col] += b
					}
				}
			})
		}
		f.each(from, to, func(tile int) { f.rmsNorm(tile, from, l.mlpNorm) })
		f.multiply(to-from,
			product{l.gate, f.normed, f.gate, false},
			product{l.up, f.normed, f.up, false})
		size := c.Intermediate * f.width
		f.each(0, to-from, func(i int) {
			f.kernels.SwiGLU(f.gate[i*size:(i+1)*size], f.up[i*size:(i+1)*size])
		})
		f.multiply(to-from, product{l.down, f.gate, x, true})
		tokens := min(to*f.width, f.n) - from*f.width
		f.progress(float64(tokens)*float64(c.Hidden)*float64(heads+3*c.Intermediate), 0, 0)
	})
}

// logits computes the head's output for the last token.
func (f *forward) logits() []float32 {
	c := f.cfg
	tile, col := f.tiles-1, f.columns(f.tiles-1)-1
	x := make([]float32, c.Hidden*kernel.Lanes)
	for d := range c.Hidden {
		x[d*kernel.Lanes] = f.x[(tile*c.Hidden+d)*f.width+col]
	}
	f.kernels.Normalise(kernel.Lanes, x, x, f.norm, c.RMSNormEps)
	f.n, f.width, f.tiles = 1, kernel.Lanes, 1
	y := make([]float32, c.Vocab*kernel.Lanes)
	f.multiply(1, product{f.head, x, y, false})
	logits := make([]float32, c.Vocab)
	for i := range logits {
		logits[i] = y[i*kernel.Lanes]
	}
	f.progress(float64(c.Vocab)*float64(c.Hidden), 0, 0)
	return logits
}
