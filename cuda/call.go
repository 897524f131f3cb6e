package cuda

import (
	"errors"
	"fmt"
	"math"
	"math/bits"
	"unsafe"

	"github.com/anchorattention/anchor"
)

// A Sequence is one sequence of a batch whose tensors lie on the device: see [anchor.Sequence]. Dim is 64, 96, 128 or 256. Rows of
// Q, K and V begin at multiples of 16 bytes, those of O at multiples of 8, or 4 if it has 16 bits, and those of LSE of 4.
type Sequence struct {
	Q    Tensor // BF16 or F16 [heads, Nq, dim]
	K, V Tensor // as Q, [KV heads, Nk, dim], with the same steps between rows and between pages
	O    Tensor // F32, or as Q, [heads, Nq, dim], written; overlaps no other tensor
	LSE  Tensor // F32 [heads, Nq, 1], written; optional

	// Prompt is the length of the whole prompt, in positions; 0 means that the call ends it.
	Prompt int

	// Pages are the numbers of the pages that keys and values lie in, if they are paged: row r of a head is row r mod
	// PageRows of page Pages[r/PageRows], and pages lie K.PageStep, or V.PageStep, apart. PageRows is a power of two, and
	// the same for all sequences of a call.
	Pages    []int32
	PageRows int
}

// shape validates a sequence.
func (s *Sequence) shape(d *Device) (anchor.Shape, error) {
	sh := anchor.Shape{Heads: s.Q.Heads, KVHeads: s.K.Heads, Dim: s.Q.Dim, Queries: s.Q.Rows, Keys: s.K.Rows, Prompt: s.Prompt}
	if sh.Prompt == 0 {
		sh.Prompt = sh.Keys
	}
	if s.Pages != nil {
		if s.PageRows < 1 || bits.OnesCount(uint(s.PageRows)) != 1 {
			return sh, fmt.Errorf("pages have %d rows; want a power of two", s.PageRows)
		}
		if want := (s.K.Rows + s.PageRows - 1) / s.PageRows; len(s.Pages) < want {
			return sh, fmt.Errorf("%d pages of %d rows; %d rows need %d", len(s.Pages), s.PageRows, s.K.Rows, want)
		}
	}
	for _, t := range []struct {
		name   string
		tensor *Tensor
		pages  []int32
		align  int
	}{{"Q", &s.Q, nil, 16}, {"K", &s.K, s.Pages, 16}, {"V", &s.V, s.Pages, 16}, {"O", &s.O, nil, 2 * s.O.size()}, {"LSE", &s.LSE, nil, 4}} {
		if t.name == "LSE" && *t.tensor == (Tensor{}) {
			continue
		}
		if err := t.tensor.check(d, t.pages, s.PageRows, t.align); err != nil {
			return sh, fmt.Errorf("%s %w", t.name, err)
		}
	}
	q, k, v, o, l := &s.Q, &s.K, &s.V, &s.O, &s.LSE
	const maxPosition = 1 << 29 // as anchor.Params
	switch {
	case k.DType != q.DType || v.DType != q.DType:
		return sh, fmt.Errorf("Q, K and V have element types %v, %v and %v; want one for all", q.DType, k.DType, v.DType)
	case k.Dim != q.Dim:
		return sh, fmt.Errorf("K has dim %d; Q has %d; want the same", k.Dim, q.Dim)
	case v.Heads != k.Heads || v.Rows != k.Rows || v.Dim != k.Dim:
		return sh, fmt.Errorf("V has shape %s; want %s, as K", v.shape(), k.shape())
	case v.RowStep != k.RowStep:
		return sh, fmt.Errorf("V has a step of %d between rows and K of %d; want the same", v.RowStep, k.RowStep)
	case q.Heads%k.Heads != 0:
		return sh, fmt.Errorf("Q has %d heads and K %d; want a multiple", q.Heads, k.Heads)
	case q.Rows > k.Rows:
		return sh, fmt.Errorf("Q has %d rows and K %d; want no more queries than keys", q.Rows, k.Rows)
	case k.Rows > maxPosition:
		return sh, fmt.Errorf("K has %d rows; want at most %d", k.Rows, maxPosition)
	case o.DType != anchor.Float32 && o.DType != q.DType || o.Heads != q.Heads || o.Rows != q.Rows || o.Dim != q.Dim:
		return sh, fmt.Errorf("O is %v of shape %s; want F32 or %v, %s", o.DType, o.shape(), q.DType, q.shape())
	case l.Memory != nil && (l.DType != anchor.Float32 || l.Heads != q.Heads || l.Rows != q.Rows || l.Dim != 1):
		return sh, fmt.Errorf("LSE is %v of shape %s; want F32 [%d, %d, 1]", l.DType, l.shape(), q.Heads, q.Rows)
	case s.Prompt < 0 || s.Prompt > maxPosition:
		return sh, fmt.Errorf("Prompt is %d; want 0 (the call ends the prompt) … %d", s.Prompt, maxPosition)
	case o.overlaps() || l.Memory != nil && l.overlaps():
		return sh, fmt.Errorf("O has steps %d (heads) and %d (rows), and LSE %d and %d: rows overlap", o.HeadStep, o.RowStep, l.HeadStep, l.RowStep)
	case s.Pages != nil && k.PageStep != v.PageStep:
		return sh, fmt.Errorf("V has a step of %d between pages and K of %d; want the same", v.PageStep, k.PageStep)
	}
	return sh, nil
}

// A Call is attention to sequences on a device, planned, and with the memory it takes beside theirs. It can be started any
// number of times, and looks anew at what the tensors hold each time.
type Call struct {
	device *Device
	module *module
	plan   *plan
	method string
	args   args

	uses              []*Memory // of the tensors
	memory            []uint64  // on the device
	scratch           int       // bytes of it
	tilesAt, windowAt uint64    // where the plan's tiles are there
	started           bool
}

// Prepare plans a call and allocates its memory. Of opt, Planner and Scale count: Threads, Costs and Engine are not looked at, and
// nothing else may be asked for. The tensors' memory must last as long as the call, and all sequences have the same heads, dim and types,
// and the same steps between rows. Close the call. Its methods may be called concurrently.
func (d *Device) Prepare(opt anchor.Options, sequences ...Sequence) (*Call, error) {
	var c *Call
	err := d.do(func() (err error) {
		c, err = d.plan(&opt, sequences)
		return err
	})
	return c, err
}

// paramsOf returns the parameters of a planner that the kernels can do, nil for dense attention, and whether it goes dense where
// that is better.
func paramsOf(planner anchor.Planner) (params *anchor.Params, auto bool, err error) {
	if planner == nil {
		return nil, false, errors.New("Options.Planner is nil; want Dense(), AnchorAttention(params) or Auto(params)")
	}
	call := anchor.Call{Options: anchor.Options{Planner: planner}}
	if p, auto, ok := call.Params(); ok {
		return &p, auto, planner.Validate()
	}
	if !call.Dense() {
		return nil, false, fmt.Errorf("planner %s is not for GPUs; want dense, or anchor or auto without refinements", planner.Name())
	}
	return nil, false, nil
}

func (d *Device) plan(opt *anchor.Options, sequences []Sequence) (_ *Call, err error) {
	params, auto, err := paramsOf(opt.Planner)
	if err != nil {
		return nil, err
	}
	switch {
	case opt.AuditRows != 0 || opt.TargetRecall != 0 || opt.Trace != nil || opt.Progress != nil || opt.Stripes:
		return nil, errors.New("Options of a call on the device ask for an audit, a target of recall, stripes, a trace or progress; want a Planner and a Scale alone")
	case opt.Scale != nil && *opt.Scale-*opt.Scale != 0:
		return nil, fmt.Errorf("Options.Scale is %v; want a finite number", *opt.Scale)
	case opt.Scale != nil && *opt.Scale < 0:
		return nil, fmt.Errorf("Options.Scale is %v; want ≥ 0 for queries on the device", *opt.Scale)
	case len(sequences) == 0:
		return nil, errors.New("no sequences; want at least one")
	}
	first := &sequences[0]
	shapes := make([]anchor.Shape, len(sequences))
	var uses []*Memory
	var lse *Tensor // the first there is
	for i := range sequences {
		s := &sequences[i]
		if shapes[i], err = s.shape(d); err != nil {
			return nil, fmt.Errorf("sequence %d: %w", i, err)
		}
		if a, b := shapes[0], shapes[i]; a.Heads != b.Heads || a.KVHeads != b.KVHeads || a.Dim != b.Dim ||
			first.Q.DType != s.Q.DType || first.O.DType != s.O.DType {
			return nil, fmt.Errorf("sequence %d has %d heads, %d KV heads, dim %d, type %v and outputs in %v; sequence 0 has %d, %d, %d, %v and %v; want the same",
				i, b.Heads, b.KVHeads, b.Dim, s.Q.DType, s.O.DType, a.Heads, a.KVHeads, a.Dim, first.Q.DType, first.O.DType)
		}
		if s.LSE.Memory != nil && lse == nil {
			lse = &s.LSE
		}
		for _, t := range [][2]*Tensor{{&first.Q, &s.Q}, {&first.K, &s.K}, {&first.V, &s.V}, {&first.O, &s.O}, {lse, &s.LSE}} {
			a, b := t[0], t[1]
			if b.Memory == nil { // no log-sum-exps
				continue
			}
			if a.RowStep != b.RowStep {
				return nil, fmt.Errorf("sequence %d has a step of %d between rows where one before it has %d; want the same", i, b.RowStep, a.RowStep)
			}
			uses = append(uses, b.Memory)
		}
		if s.PageRows != first.PageRows {
			return nil, fmt.Errorf("sequence %d has pages of %d rows and sequence 0 of %d; want the same", i, s.PageRows, first.PageRows)
		}
	}
	kind, err := kindOf(first.Q.DType, first.Q.Dim)
	if err != nil {
		return nil, err
	}
	if kind.dim != first.Q.Dim {
		return nil, fmt.Errorf("dim is %d; want one of %v for tensors on the device", first.Q.Dim, dims)
	}
	c := &Call{device: d, uses: uses, plan: newPlan(params, auto, d.costs, shapes...), method: opt.Planner.Name()}
	if c.module, err = d.load(kind); err != nil {
		return nil, err
	}
	scale := naturalScale(kind.dim)
	if opt.Scale != nil {
		scale = *opt.Scale
	}
	// A scale of zero becomes one that makes every logit next to nothing, so that −∞ times it still hides a key.
	c.args.scale = max(scale, 1e-30)
	if err := c.allocate(sequences); err != nil {
		return nil, errors.Join(err, c.free())
	}
	return c, nil
}

// naturalScale is the scale of a dim if none is given.
func naturalScale(dim int) float32 { return float32(1 / math.Sqrt(float64(dim))) }

// allocate copies to the device what kernels must know, and allocates what they write beside outputs.
func (c *Call) allocate(sequences []Sequence) (err error) {
	a, p := &c.args, c.plan
	s, shape := &sequences[0], p.shapes[0]
	a.rows, a.words = p.before[len(sequences)], p.words
	a.qStep, a.kvStep, a.oStep = uint32(s.Q.RowStep/8), uint32(s.K.RowStep/8), uint32(s.O.RowStep)
	a.heads, a.shared, a.section = int32(shape.Heads), int32(shape.Heads/shape.KVHeads), int32(c.section())
	a.groupCount = int32(len(p.groups))
	if s.O.DType != anchor.Float32 {
		a.narrow = 1
	}
	places := make([]place, len(sequences))
	for i := range sequences {
		s := &sequences[i]
		at := place{
			q: s.Q.address(), k: s.K.address(), v: s.V.address(), o: s.O.address(),
			qHead: int64(s.Q.HeadStep), kHead: int64(s.K.HeadStep), vHead: int64(s.V.HeadStep), oHead: int64(s.O.HeadStep),
			before: p.before[i], first: int32(p.shapes[i].First()),
		}
		if s.LSE.Memory != nil {
			at.lse, at.lseHead, a.lseStep = s.LSE.address(), int64(s.LSE.HeadStep), uint32(s.LSE.RowStep)
		}
		if s.Pages != nil {
			a.pageShift = int32(bits.TrailingZeros(uint(s.PageRows)))
			rows := make([]uint32, len(s.Pages))
			for j, page := range s.Pages {
				rows[j] = uint32(int(page) * (s.K.PageStep / s.K.RowStep))
			}
			if at.pages, err = store(c, rows); err != nil {
				return err
			}
		}
		places[i] = at
	}
	if a.sequences, err = store(c, places); err != nil {
		return err
	}
	if c.tilesAt, err = store(c, p.tiles); err != nil {
		return err
	}
	if a.tally, err = c.alloc(4 * c.counters()); err != nil {
		return err
	}
	a.saved = a.tally + 4*tallies
	a.odd = a.saved + 4*uint64(len(sequences))
	a.counts = a.odd + 4*uint64(shape.Heads)
	if len(p.sparse) == 0 {
		return nil
	}
	if len(sequences) == 1 {
		a.alone = 1
	}
	a.worth = int32(p.costs.worth(shape.Dim) / savedPairs)
	a.block, a.step, a.theta = int32(p.params.Block), int32(p.params.Step), float32(p.params.Theta)
	a.chunk, a.chunks = c.chunks()
	if c.windowAt, err = store(c, append(p.survey[:len(p.survey):len(p.survey)], p.window...)); err != nil {
		return err
	}
	if a.groups, err = store(c, p.groups); err != nil {
		return err
	}
	pooled := shape.Heads * len(p.groups) * p.params.Step
	for _, m := range []struct {
		to    *uint64
		bytes int
	}{
		{&a.anchors, 4 * shape.Heads * int(a.rows)}, {&a.pool, 2 * 2 * pooled * shape.Dim}, {&a.bits, c.bitBytes()},
	} {
		if *m.to, err = c.alloc(m.bytes); err != nil {
			return err
		}
	}
	return nil
}

// pooledTiles is how many tiles the mean queries of a group are, of heads that share a KV head.
func (c *Call) pooledTiles() int { return (int(c.args.shared*c.args.step) + 63) / 64 }

// chunks returns how many keys the search does at a time, and how many times that is for the last group: as many keys as leave
// eight pieces of work for every multiprocessor, in whole blocks of 128, but 512 at least.
func (c *Call) chunks() (keys, n int32) {
	var all, most int
	for _, g := range c.plan.groups {
		all += int(g.start)
		most = max(most, int(g.start))
	}
	all *= int(c.args.heads/c.args.shared) * c.pooledTiles()
	keys = int32(max(min(all/(8*c.device.processors)/128*128, most), 512))
	return keys, (int32(most) + keys - 1) / keys
}

// bitBytes is the size of a bit for every head, group and key before it.
func (c *Call) bitBytes() int { return 4 * c.plan.shapes[0].Heads * int(c.plan.words) }

// counters is how many numbers kernels count in, which lie together: a tally, what each sequence's stripes save, each head's rows that are
// not finite, and the bits of each head and group, if there are any.
func (c *Call) counters() int {
	p, heads := c.plan, c.plan.shapes[0].Heads
	n := tallies + len(p.shapes) + heads
	if len(p.sparse) > 0 {
		n += heads * len(p.groups)
	}
	return n
}

// section returns how many query heads are done together: those whose keys and values take two thirds of the second-level
// cache, and at least those of one KV head.
func (c *Call) section() int {
	shape := c.plan.shapes[0]
	size := 4 * uint64(c.plan.keys) * uint64(shape.Dim)
	return shape.Heads / shape.KVHeads * int(min(max(c.device.cache*2/3/size, 1), uint64(shape.KVHeads)))
}

// alloc allocates device memory until free.
func (c *Call) alloc(bytes int) (uint64, error) {
	p, err := c.device.driver.alloc(bytes)
	if err == nil {
		c.memory = append(c.memory, p)
		c.scratch += bytes
	}
	return p, err
}

// store copies data, at least one element, to new memory.
func store[E any](c *Call, data []E) (uint64, error) {
	p, err := c.alloc(len(data) * int(unsafe.Sizeof(data[0])))
	if err != nil {
		return p, err
	}
	return p, send(c.device.driver, p, data)
}

// free gives back memory, after the device has done with it.
func (c *Call) free() error {
	d := c.device.driver
	errs := []error{c.device.wait()}
	for _, p := range c.memory {
		errs = append(errs, d.call("MemFree", d.f.MemFree, uintptr(p)))
	}
	c.memory = nil
	return errors.Join(errs...)
}

// Close gives back the call's memory, after the device has done with it.
func (c *Call) Close() error {
	return c.device.do(func() error {
		if c.module == nil {
			return nil
		}
		c.module = nil
		return c.free()
	})
}

// Scratch returns the bytes of the device's memory that the call takes beside the tensors, until it is closed.
func (c *Call) Scratch() int { return c.scratch }

// Start has the device begin, after what was started before, and does not wait.
func (c *Call) Start() error {
	return c.device.do(func() error {
		if err := c.usable(); err != nil {
			return err
		}
		if err := c.start(nil); err != nil {
			return err
		}
		c.started = true
		return nil
	})
}

// usable reports whether the call can be started.
func (c *Call) usable() error {
	if c.module == nil {
		return errors.New("the call is closed")
	}
	for _, m := range c.uses {
		if m.address == 0 {
			return errors.New("memory of a tensor was freed")
		}
	}
	return nil
}

// Result waits until the device has done what was started, and tells what the call did when it was started last. Seconds and
// Stages are zero: see [Device.Time].
func (c *Call) Result() (res *anchor.Result, err error) {
	err = c.done(func() error {
		res, err = c.result()
		return err
	})
	return res, err
}

// Stripes waits likewise, and returns the stripes of each sequence, nil if the planner is dense.
func (c *Call) Stripes() (sets []anchor.StripeSet, err error) {
	err = c.done(func() error {
		sets, err = c.stripes()
		return err
	})
	return sets, err
}

// done calls f, which waits, after the call was started.
func (c *Call) done(f func() error) error {
	return c.device.do(func() error {
		switch {
		case c.module == nil:
			return errors.New("the call is closed")
		case !c.started:
			return errors.New("the call was not started")
		}
		return f()
	})
}

func (c *Call) result() (*anchor.Result, error) {
	d := c.device
	// What the kernels did wrong is reported here.
	if err := d.wait(); err != nil {
		return nil, err
	}
	odd, counts, err := c.counted()
	if err != nil {
		return nil, err
	}
	res := &anchor.Result{Method: c.method, ISA: d.isa(), Heads: make([]anchor.HeadResult, len(odd))}
	c.plan.account(res, counts, odd)
	return res, nil
}

func (c *Call) stripes() ([]anchor.StripeSet, error) {
	if err := c.device.wait(); err != nil || c.plan.params == nil {
		return nil, err
	}
	_, counts, err := c.counted()
	if err != nil {
		return nil, err
	}
	p := c.plan
	bits := make([]uint32, c.bitBytes()/4)
	for i, n := range counts { // where rows see all keys, nobody has written bits
		if g := p.groups[i%len(p.groups)]; g.words > 0 && n >= 0 {
			at := int64(i/len(p.groups))*p.words + g.bits
			if err := fetch(c.device.driver, bits[at:][:g.words], c.args.bits+4*uint64(at)); err != nil {
				return nil, err
			}
		}
	}
	return p.stripes(counts, bits), nil
}

// counted fetches the counts of each head's rows that are not finite, and of the bits of each head and group: −1 where rows saw all keys.
func (c *Call) counted() (odd, counts []int32, err error) {
	all := make([]int32, c.counters())
	if err := fetch(c.device.driver, all, c.args.tally); err != nil {
		return nil, nil, err
	}
	p := c.plan
	saved, rest := all[tallies:][:len(p.shapes)], all[tallies+len(p.shapes):]
	odd, counts = rest[:p.shapes[0].Heads], rest[p.shapes[0].Heads:]
	for i := range counts {
		if p.auto && saved[p.groups[i%len(p.groups)].sequence] < c.args.worth {
			counts[i] = -1
		}
	}
	return odd, counts, nil
}

// A Graph is calls that the device begins as one, in turn, with next to no work for the program: see CUDA's graphs.
type Graph struct {
	device *Device
	calls  []*Call
	exec   uintptr // 0 once closed
}

// Graph captures the start of calls, which must not be closed before the graph. Close it.
func (d *Device) Graph(calls ...*Call) (*Graph, error) {
	g := &Graph{device: d, calls: calls}
	err := d.do(func() error {
		if len(calls) == 0 {
			return errors.New("no calls; want at least one")
		}
		for i, c := range calls {
			if c.device != d {
				return fmt.Errorf("call %d is of another device", i)
			}
			if err := c.usable(); err != nil {
				return fmt.Errorf("call %d: %w", i, err)
			}
		}
		const threadLocal = 1 // CU_STREAM_CAPTURE_MODE_THREAD_LOCAL
		c, f := d.driver, &d.driver.f
		if err := c.call("StreamBeginCapture", f.StreamBeginCapture, d.stream, threadLocal); err != nil {
			return err
		}
		var err error
		for _, c := range calls {
			err = errors.Join(err, c.start(nil))
		}
		graph, exec := new(uintptr), new(uintptr)
		if end := c.call("StreamEndCapture", f.StreamEndCapture, d.stream, uintptr(unsafe.Pointer(graph))); end != nil {
			return errors.Join(err, end)
		}
		if err == nil {
			err = c.call("GraphInstantiate", f.GraphInstantiateWithFlags, uintptr(unsafe.Pointer(exec)), *graph, 0)
		}
		g.exec = *exec
		return errors.Join(err, c.call("GraphDestroy", f.GraphDestroy, *graph))
	})
	if err != nil {
		return nil, errors.Join(err, g.Close())
	}
	return g, nil
}

// Start has the device begin all calls, after what was started before, and does not wait.
func (g *Graph) Start() error {
	return g.device.do(func() error {
		if g.exec == 0 {
			return errors.New("the graph is closed")
		}
		for i, c := range g.calls {
			if err := c.usable(); err != nil {
				return fmt.Errorf("call %d: %w", i, err)
			}
		}
		if err := g.device.driver.call("GraphLaunch", g.device.driver.f.GraphLaunch, g.exec, g.device.stream); err != nil {
			return err
		}
		for _, c := range g.calls {
			c.started = true
		}
		return nil
	})
}

// Close gives back what the graph holds, after the device has done with it.
func (g *Graph) Close() error {
	return g.device.do(func() error {
		if g.exec == 0 {
			return nil
		}
		exec := g.exec
		g.exec = 0
		return errors.Join(g.device.wait(), g.device.driver.call("GraphExecDestroy", g.device.driver.f.GraphExecDestroy, exec))
	})
}

// Wait waits until the device has done what was started.
func (d *Device) Wait() error { return d.do(d.wait) }

func (d *Device) wait() error {
	return d.driver.call("StreamSynchronize", d.driver.f.StreamSynchronize, d.stream)
}

// Time returns how long the device takes for what f starts on it, in seconds by its own clock. It waits for that.
func (d *Device) Time(f func() error) (seconds float64, err error) {
	watch := stopwatch{device: d}
	defer func() { err = errors.Join(err, d.do(watch.free)) }()
	for _, step := range []func() error{func() error { return d.do(watch.mark) }, f, func() error { return d.do(watch.mark) }} {
		if err := step(); err != nil {
			return 0, err
		}
	}
	return seconds, d.do(func() error {
		times, err := watch.read()
		if err == nil {
			seconds = times[0]
		}
		return err
	})
}

// A stopwatch marks moments on the device. Its methods want the device's context to be current.
type stopwatch struct {
	device *Device
	events []uintptr
}

func (w *stopwatch) mark() error {
	d, e := w.device.driver, new(uintptr)
	if err := d.call("EventCreate", d.f.EventCreate, uintptr(unsafe.Pointer(e)), 0); err != nil {
		return err
	}
	w.events = append(w.events, *e)
	return d.call("EventRecord", d.f.EventRecord, *e, w.device.stream)
}

// read waits and returns the seconds between marks.
func (w *stopwatch) read() ([]float64, error) {
	if err := w.device.wait(); err != nil {
		return nil, err
	}
	var times []float64
	for i := range w.events[1:] {
		d, ms := w.device.driver, new(float32)
		if err := d.call("EventElapsedTime", d.f.EventElapsedTime, uintptr(unsafe.Pointer(ms)), w.events[i], w.events[i+1]); err != nil {
			return nil, err
		}
		times = append(times, float64(*ms)/1000)
	}
	return times, nil
}

func (w *stopwatch) free() error {
	d := w.device.driver
	var errs []error
	for _, e := range w.events {
		errs = append(errs, d.call("EventDestroy", d.f.EventDestroy, e))
	}
	w.events = nil
	return errors.Join(errs...)
}
