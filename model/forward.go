package model

import (
	"context"
	"fmt"
	"math"
	"slices"
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
	Prompt    int           // length of the whole prompt, as in anchor.Sequence; parts of a batch have their own

	// LayerPlanner, when set, returns the planner of each layer in Planner's stead, or nil for that one.
	LayerPlanner func(layer int) anchor.Planner

	// Capture, when set, is called for each layer with the queries [Heads, len(ids), HeadDim], and the keys and values
	// [KVHeads, len(ids), HeadDim] of the call's tokens, as attention sees them: turned by their positions. It must not keep
	// the slices. Its error ends the call. A batch of several parts cannot be captured.
	Capture func(layer int, q, k, v []float32) error

	// Rows are tokens of ids, numbered from 0 and ascending, after each of which Logits is called with the logits of the next
	// token, one for each of the Vocab ids: in any order, from several goroutines at once. It must not keep the slice. Its
	// error ends the call. Few rows are computed at a time, so all of a text's may be wanted. Not for a batch of several parts.
	Rows   []int
	Logits func(row int, logits []float32) error

	// Progress, when set, is called now and then with the share of the work that is done, ascending in [0, 1], by
	// one goroutine at a time.
	Progress func(share float64)
}

// Stats say what a call of Forward did and how long it took.
type Stats struct {
	Attention        *anchor.Result // merged over layers
	AttentionSeconds float64        // in attention, the audit left out
	OtherSeconds     float64        // in all else but attention and its audit
	ProductSeconds   float64        // of those, in products with the model's matrices
}

// A Part of a batch is what is done with one sequence.
type Part struct {
	Cache  *Cache
	IDs    []int32 // tokens that follow those in the cache, at least one
	Prompt int     // length of the whole prompt, as in anchor.Sequence
	Dense  bool    // every row sees every key, whatever the planner
	Silent bool    // its logits are not wanted
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
func (m *Model) Forward(ctx context.Context, cache *Cache, ids []int32, opt ForwardOptions) ([]float32, Stats, error) {
	logits, s, err := m.ForwardBatch(ctx, []Part{{Cache: cache, IDs: ids, Prompt: opt.Prompt}}, opt)
	if err != nil {
		return nil, Stats{}, err
	}
	return logits[0], s, nil
}

// ForwardBatch is Forward for several sequences at once, each with a cache of its own: products run over the tokens of all. It
// returns the logits of each part, nil for those that are not wanted. They are bitwise those that the part would have alone.
func (m *Model) ForwardBatch(ctx context.Context, parts []Part, opt ForwardOptions) (logits [][]float32, s Stats, err error) {
	start := time.Now()
	defer guard(func() []mapped { return m.files }, &err)()
	f, err := m.newForward(parts, opt)
	if err != nil {
		return nil, Stats{}, err
	}
	f.embed()
	var results []*anchor.Result
	for i := range m.layers {
		if err := f.project(ctx, i); err != nil {
			return nil, Stats{}, err
		}
		done, err := f.attend(ctx, i)
		if err != nil {
			return nil, Stats{}, err
		}
		results = append(results, done...)
		if err := f.mix(ctx, i); err != nil {
			return nil, Stats{}, err
		}
	}
	if err := f.rowLogits(ctx); err != nil {
		return nil, Stats{}, err
	}
	logits = f.logits()
	if err := ctx.Err(); err != nil {
		return nil, Stats{}, err
	}
	for _, p := range parts {
		p.Cache.length += len(p.IDs)
	}

	s.Attention = anchor.Merge(results...)
	s.Attention.Method = opt.Planner.Name() // not that of windows, some layers or some parts
	if !slices.ContainsFunc(parts, func(p Part) bool { return !p.Dense }) {
		s.Attention.Method = anchor.Dense().Name()
	}
	s.ProductSeconds = f.inProducts.Seconds()
	s.AttentionSeconds = s.Attention.Seconds - s.Attention.Stages[anchor.StageAudit]
	s.OtherSeconds = time.Since(start).Seconds() - s.Attention.Seconds
	return logits, s, nil
}

// forward is one call of Forward. Activations lie in tiles of width tokens, [features, width] each; the last tile's
// columns without a token are zero.
type forward struct {
	*Model
	parts   []part
	opt     ForwardOptions
	threads int

	n            int     // tokens of all parts
	of           []int32 // the part of each
	width, tiles int
	x            []float32 // residual stream, [tiles, Hidden, width]
	q, o         []float32 // of one part after the other, [Heads, n, HeadDim]
	q16          []uint16  // likewise, instead of q, where caches are in bfloat16
	cos, sin     []float32 // of the angles at each position, [n, HeadDim/2]

	// Of the tiles of a chunk:
	normed   []float32 // [Hidden, width]
	qkv      []float32 // [Heads·HeadDim, width]; twice [KVHeads·HeadDim, width]
	gate, up []float32 // [Intermediate, width]

	inputs  []*matrix.Inputs // of products
	scratch []matrix.Scratch // of threads

	done, all  float64 // work, in multiply-adds; attention counts as if dense
	inProducts time.Duration
}

// A part is a part of the batch and where it stands in it.
type part struct {
	Part
	n, first int // tokens, and the position of the first
	start    int // tokens of the parts before
}

// check reports what makes a part unusable.
func (p *part) check(m *Model) error {
	c := p.Cache
	switch {
	case c == nil || c.pool.model != m:
		return fmt.Errorf("the cache is not one of this model's; want one from NewCache")
	case p.n == 0:
		return fmt.Errorf("no tokens; want at least one")
	case p.n > c.capacity-c.length:
		return fmt.Errorf("%d tokens after %d overfill a cache for %d", p.n, c.length, c.capacity)
	case p.Prompt < 0 || p.Prompt > 1<<29:
		return fmt.Errorf("Prompt is %d; want 0 … %d", p.Prompt, 1<<29)
	}
	for i, id := range p.IDs {
		if id < 0 || int(id) >= m.cfg.Vocab {
			return fmt.Errorf("token %d is %d; want ids below vocab_size, %d", i, id, m.cfg.Vocab)
		}
	}
	return nil
}

func (m *Model) newForward(parts []Part, opt ForwardOptions) (*forward, error) {
	c := m.cfg
	switch {
	case len(parts) == 0:
		return nil, fmt.Errorf("model: no parts; want at least one")
	case opt.Planner == nil:
		return nil, fmt.Errorf("model: ForwardOptions.Planner is nil; want anchor.Dense(), for example")
	case opt.Threads < 0:
		return nil, fmt.Errorf("model: ForwardOptions.Threads is %d; want ≥ 0", opt.Threads)
	case opt.AuditRows < 0:
		return nil, fmt.Errorf("model: ForwardOptions.AuditRows is %d; want ≥ 0", opt.AuditRows)
	case opt.Capture != nil && len(parts) > 1:
		return nil, fmt.Errorf("model: ForwardOptions.Capture with a batch of %d parts; want one part", len(parts))
	}
	if err := opt.checkRows(parts); err != nil {
		return nil, fmt.Errorf("model: %w", err)
	}
	f := &forward{Model: m, opt: opt, threads: min(parallel.Threads(opt.Threads), maxThreads)}
	for layer := range c.Layers {
		if err := f.planner(layer).Validate(); err != nil {
			return nil, fmt.Errorf("model: layer %d: %w", layer, err)
		}
	}
	for i, p := range parts {
		p := part{Part: p, n: len(p.IDs), start: f.n}
		err := p.check(m)
		for _, other := range f.parts {
			if other.Cache == p.Cache && err == nil {
				err = fmt.Errorf("the cache is that of another part; want one for each")
			}
			if err == nil && other.Cache.pool.dtype != p.Cache.pool.dtype {
				err = fmt.Errorf("the cache is in %v and another part's in %v; want the same", p.Cache.pool.dtype, other.Cache.pool.dtype)
			}
		}
		if err != nil && len(parts) > 1 {
			return nil, fmt.Errorf("model: part %d: %w", i, err)
		}
		if err != nil {
			return nil, fmt.Errorf("model: %w", err)
		}
		p.first = p.Cache.length
		f.n += p.n
		f.of = append(f.of, slices.Repeat([]int32{int32(i)}, p.n)...)
		f.parts = append(f.parts, p)
	}

	f.width = tileTokens
	if f.n <= kernel.Lanes {
		f.width = kernel.Lanes
	}
	f.tiles = (f.n + f.width - 1) / f.width
	heads, kvHeads := c.Heads*c.HeadDim, c.KVHeads*c.HeadDim
	chunk := min(f.tiles, chunkTiles) * f.width
	f.x = make([]float32, f.tiles*c.Hidden*f.width)
	if parts[0].Cache.pool.dtype == anchor.BFloat16 {
		f.q16 = make([]uint16, heads*f.n)
	} else {
		f.q = make([]float32, heads*f.n)
	}
	f.o = make([]float32, heads*f.n)
	f.normed = make([]float32, c.Hidden*chunk)
	f.qkv = make([]float32, (heads+2*kvHeads)*chunk)
	f.gate = make([]float32, c.Intermediate*chunk)
	f.up = make([]float32, c.Intermediate*chunk)
	f.turn()

	n := float64(f.n)
	linear := n * float64(c.Hidden) * float64(2*heads+2*kvHeads+3*c.Intermediate)
	f.all = float64(c.Layers)*linear + float64(len(f.speaking()))*float64(c.Vocab)*float64(c.Hidden)
	f.all += f.rowWork(len(opt.Rows))
	for layer := range c.Layers {
		for i := range f.parts {
			f.all += f.attention(&f.parts[i], layer)
		}
	}
	return f, nil
}

// planner returns the planner of a layer.
func (f *forward) planner(layer int) anchor.Planner {
	if f.opt.LayerPlanner != nil {
		if p := f.opt.LayerPlanner(layer); p != nil {
			return p
		}
	}
	return f.opt.Planner
}

// window returns how many keys a row of the part sees in a layer, 0 for all. A window as long as the text is none.
func (f *forward) window(p *part, layer int) int {
	if w := f.cfg.Windows; w != nil && w[layer] < max(p.Prompt, p.first+p.n) {
		return w[layer]
	}
	return 0
}

// attention returns the work of a part's attention in a layer, as if dense.
func (f *forward) attention(p *part, layer int) float64 {
	keys := float64(p.first) + float64(p.n+1)/2 // of a row, in the mean
	if w := f.window(p, layer); w != 0 {
		keys = min(keys, float64(w))
	}
	return 2 * float64(f.cfg.Heads*f.cfg.HeadDim) * float64(p.n) * keys
}

// speaking returns the parts whose logits are wanted.
func (f *forward) speaking() []int {
	var all []int
	for i, p := range f.parts {
		if !p.Silent {
			all = append(all, i)
		}
	}
	return all
}

// at returns the part of token t and its number there.
func (f *forward) at(t int) (p *part, i int) {
	p = &f.parts[f.of[t]]
	return p, t - p.start
}

// runs calls do for the runs of columns of a tile that are of one part: n tokens from its i-th on, from column col on.
func (f *forward) runs(tile int, do func(p *part, i, col, n int)) {
	for col := 0; col < f.columns(tile); {
		p, i := f.at(tile*f.width + col)
		n := min(f.columns(tile)-col, p.n-i)
		do(p, i, col, n)
		col += n
	}
}

// products is multiply, and counts the time it takes.
func (f *forward) products(tiles int, all ...product) {
	start := time.Now()
	f.multiply(tiles, all...)
	f.inProducts += time.Since(start)
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
				p, n := f.at(t)
				sin, cos := math.Sincos(float64(p.first+n) * w)
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

func (f *forward) embed() {
	hidden := f.cfg.Hidden
	f.each(0, f.tiles, func(tile int) {
		x, row := f.x[tile*hidden*f.width:], make([]float32, hidden)
		for c := range f.columns(tile) {
			p, n := f.at(tile*f.width + c)
			f.embedding.Row(int(p.IDs[n]), row)
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
	return f.chunks(ctx, func(from, to int) {
		f.each(from, to, func(tile int) { f.rmsNorm(tile, from, l.attentionNorm) })
		f.products(to-from,
			product{l.q, f.normed, q, false},
			product{l.k, f.normed, k, false},
			product{l.v, f.normed, v, false})
		f.each(from, to, func(tile int) {
			at := tile*f.width - from*f.width
			f.rows(tile, q[at*heads:], projection{c.Heads, l.qBias, l.qNorm, true, f.query})
			f.rows(tile, k[at*kvHeads:], projection{c.KVHeads, l.kBias, l.kNorm, true, func(p *part, head, i int, row []float32) {
				p.Cache.put(layer, false, head, p.first+i, row)
			}})
			f.rows(tile, v[at*kvHeads:], projection{c.KVHeads, l.vBias, nil, false, func(p *part, head, i int, row []float32) {
				p.Cache.put(layer, true, head, p.first+i, row)
			}})
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

// query puts the query of a head for token i of a part where attention finds it.
func (f *forward) query(p *part, head, i int, row []float32) {
	at := (p.start*f.cfg.Heads + head*p.n + i) * len(row)
	if f.q16 != nil {
		roundRow(f.q16[at:at+len(row)], row)
		return
	}
	copy(f.q[at:], row)
}

// A projection says what becomes of a projection's output and where it goes.
type projection struct {
	heads  int
	bias   []float32 // added, if there is one
	norm   []float32 // weights of an RMSNorm of every row, if there is one
	turned bool      // rows carry their position
	put    func(p *part, head, i int, row []float32)
}

// rows takes the rows of the tokens of a tile [heads·HeadDim, width] to where they go.
func (f *forward) rows(tile int, src []float32, to projection) {
	dim, half := f.cfg.HeadDim, f.cfg.HeadDim/2
	turned := make([]float32, f.width*dim) // a head's part of src, by tokens
	row := make([]float32, dim)
	for h := range to.heads {
		f.transpose(dim, f.columns(tile), src[h*dim*f.width:], f.width, turned, dim)
		for c := range f.columns(tile) {
			t := tile*f.width + c
			p, at := f.at(t)
			cos, sin := f.cos[t*half:(t+1)*half], f.sin[t*half:(t+1)*half]
			from := turned[c*dim:][:dim]
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
				to.put(p, h, at, row)
				continue
			}
			// Elements i and i + half are a point of the plane.
			upper := row[half:][:half]
			for i, x := range row[:half] {
				y := upper[i]
				row[i] = x*cos[i] - y*sin[i]
				upper[i] = y*cos[i] + x*sin[i]
			}
			to.put(p, h, at, row)
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

// attend does the attention of a layer, in a call for each of the ways in which parts see keys: under the layer's planner, all
// keys, and a window.
func (f *forward) attend(ctx context.Context, layer int) (results []*anchor.Result, err error) {
	c := f.cfg
	f.progress(float64(f.n)*float64(c.Hidden*(c.Heads+2*c.KVHeads)*c.HeadDim), 0, 0)
	if f.opt.Capture != nil {
		if err := f.capture(layer); err != nil {
			return nil, err
		}
	}
	const planned, dense, window = 0, 1, 2
	var seqs [3][]anchor.Sequence
	var work [3]float64
	opt := anchor.Options{Costs: f.opt.Costs, Threads: f.opt.Threads}
	planners := [3]anchor.Planner{f.planner(layer), anchor.Dense(), nil}
	for i := range f.parts {
		p, way := &f.parts[i], planned
		s := f.sequence(p, layer)
		switch w := f.window(p, layer); {
		case w != 0:
			// StreamingLLM without first keys and a tail is the window, and nothing else.
			way, planners[window], s.Prompt = window, anchor.StreamingLLM(anchor.StreamingParams{Window: w}), 0
		case p.Dense:
			way = dense
		}
		seqs[way] = append(seqs[way], s)
		work[way] += f.attention(p, layer)
	}
	for way, seqs := range seqs {
		if len(seqs) == 0 {
			continue
		}
		if opt.Planner, opt.AuditRows = planners[way], f.opt.AuditRows; way == window {
			opt.AuditRows = 0
		}
		if f.opt.Progress != nil {
			opt.Progress = func(share float64) { f.progress(0, work[way], share) }
		}
		res, err := anchor.Attend(ctx, opt, seqs...)
		if err != nil {
			return nil, fmt.Errorf("model: layer %d: %w", layer, err)
		}
		f.progress(work[way], 0, 0)
		results = append(results, res)
	}
	return results, nil
}

// sequence views the tensors of a part in a layer.
func (f *forward) sequence(p *part, layer int) anchor.Sequence {
	c, total := f.cfg, p.first+p.n
	from, to := p.start*c.Heads*c.HeadDim, (p.start+p.n)*c.Heads*c.HeadDim
	s := anchor.Sequence{
		K:      p.Cache.tensor(layer, false, total),
		V:      p.Cache.tensor(layer, true, total),
		O:      anchor.FromFloat32(f.o[from:to], c.Heads, p.n, c.HeadDim),
		Prompt: p.Prompt,
	}
	if f.q16 != nil {
		s.Q = anchor.FromBFloat16(f.q16[from:to], c.Heads, p.n, c.HeadDim)
	} else {
		s.Q = anchor.FromFloat32(f.q[from:to], c.Heads, p.n, c.HeadDim)
	}
	return s
}

// capture hands a layer's queries, keys and values to the caller.
func (f *forward) capture(layer int) error {
	p := &f.parts[0]
	s := f.sequence(p, layer)
	contiguous := func(t anchor.Tensor, first int) []float32 {
		all := make([]float32, t.Heads()*p.n*t.Dim())
		for i := range t.Heads() * p.n {
			t.Read(all[i*t.Dim():(i+1)*t.Dim()], i/p.n, first+i%p.n)
		}
		return all
	}
	return f.opt.Capture(layer, contiguous(s.Q, 0), contiguous(s.K, p.first), contiguous(s.V, p.first))
}

// mix adds a layer's attention and then its MLP to the residual stream.
func (f *forward) mix(ctx context.Context, layer int) error {
	l, c := &f.layers[layer], f.cfg
	heads := c.Heads * c.HeadDim
	return f.chunks(ctx, func(from, to int) {
		f.each(from, to, func(tile int) {
			dst := f.qkv[(tile-from)*heads*f.width:]
			f.runs(tile, func(p *part, i, col, n int) {
				for h := range c.Heads {
					f.transpose(n, c.HeadDim, f.o[(p.start*c.Heads+h*p.n+i)*c.HeadDim:], c.HeadDim, dst[h*c.HeadDim*f.width+col:], f.width)
				}
			})
			for col := f.columns(tile); col < f.width; col++ {
				for i := range heads {
					dst[i*f.width+col] = 0
				}
			}
		})
		x := f.x[from*c.Hidden*f.width:]
		f.products(to-from, product{l.o, f.qkv, x, true})
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
		f.products(to-from,
			product{l.gate, f.normed, f.gate, false},
			product{l.up, f.normed, f.up, false})
		size := c.Intermediate * f.width
		f.each(0, to-from, func(i int) {
			f.kernels.SwiGLU(f.gate[i*size:(i+1)*size], f.up[i*size:(i+1)*size])
		})
		f.products(to-from, product{l.down, f.gate, x, true})
		tokens := min(to*f.width, f.n) - from*f.width
		f.progress(float64(tokens)*float64(c.Hidden)*float64(heads+3*c.Intermediate), 0, 0)
	})
}

// logits computes the head's output for the last token of each part that wants it.
func (f *forward) logits() [][]float32 {
	c := f.cfg
	all, speaking := make([][]float32, len(f.parts)), f.speaking()
	const width = kernel.Lanes
	tiles := (len(speaking) + width - 1) / width
	x := make([]float32, tiles*c.Hidden*width)
	for i, part := range speaking {
		p := &f.parts[part]
		last := p.start + p.n - 1
		from, to := f.x[last/f.width*c.Hidden*f.width+last%f.width:], x[i/width*c.Hidden*width+i%width:]
		for d := range c.Hidden {
			to[d*width] = from[d*f.width]
		}
	}
	for tile := range tiles {
		x := x[tile*c.Hidden*width : (tile+1)*c.Hidden*width]
		f.kernels.Normalise(width, x, x, f.norm, c.RMSNormEps)
	}
	f.n, f.width, f.tiles = len(speaking), width, tiles
	y := make([]float32, tiles*c.Vocab*width)
	if tiles > 0 {
		f.products(tiles, product{f.head, x, y, false})
	}
	for i, part := range speaking {
		all[part] = make([]float32, c.Vocab)
		for id := range all[part] {
			all[part][id] = y[(i/width*c.Vocab+id)*width+i%width]
		}
	}
	f.progress(float64(len(speaking))*float64(c.Vocab)*float64(c.Hidden), 0, 0)
	return all
}
