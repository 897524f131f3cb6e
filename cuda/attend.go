package cuda

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"math"
	"runtime"
	"slices"
	"unsafe"

	"github.com/anchorattention/anchor"
)

// Attend does a call of anchor.Attend. Stages in its result are times on the device, by its own clock, and leave out
// copying from and to it: the window is the anchors' alone, since attention to the window is done together with that to
// the stripes, and to all keys in the tail.
func (d *Device) Attend(ctx context.Context, call anchor.Call) (*anchor.Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	res, err := d.attend(ctx, &call)
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("cuda: %w", err)
	}
	return res, err
}

func (d *Device) attend(ctx context.Context, call *anchor.Call) (*anchor.Result, error) {
	if d.driver == nil {
		return nil, errors.New("the device is closed")
	}
	params, sparse := call.Params()
	if !sparse && !call.Dense() {
		return nil, fmt.Errorf("planner %s is not for GPUs; want dense, or anchor without refinements", call.Planner.Name())
	}
	s := &call.Sequences[0]
	kind, err := kindOf(s.Q.DType(), s.Q.Dim())
	if err != nil {
		return nil, err
	}
	for i := range call.Sequences {
		s := &call.Sequences[i]
		if a, b, c := s.Q.DType(), s.K.DType(), s.V.DType(); a != kind.dtype || b != kind.dtype || c != kind.dtype {
			return nil, fmt.Errorf("sequence %d: Q, K and V have element types %v, %v and %v; want %v for all", i, a, b, c, kind.dtype)
		}
	}
	res := &anchor.Result{Method: call.Planner.Name(), ISA: d.isa(), Heads: make([]anchor.HeadResult, s.Q.Heads())}
	err = d.inContext(func() error {
		m, err := d.load(kind)
		if err != nil {
			return err
		}
		for i := range call.Sequences {
			if err := ctx.Err(); err != nil {
				return err
			}
			var p *anchor.Params
			if sparse {
				p = &params
			}
			w := &work{Device: d, module: m, plan: newPlan(call.Shapes[i], p), seq: &call.Sequences[i]}
			w.scale = 1 / math.Sqrt(float64(w.Dim))
			if call.Scale != nil {
				w.scale = float64(*call.Scale)
			}
			if err := w.run(res, call.Stripes); err != nil {
				return fmt.Errorf("sequence %d: %w", i, err)
			}
			if call.Progress != nil {
				call.Progress(float64(i+1) / float64(len(call.Sequences)))
			}
		}
		return ctx.Err()
	})
	if err != nil {
		return nil, err
	}
	for _, h := range res.Heads {
		res.Pairs += h.Pairs
		res.CausalPairs += h.CausalPairs
		res.Stripes += h.Stripes
	}
	res.FLOPs = float64(s.Q.Dim()) * (4*float64(res.Pairs) + 2*float64(res.SearchPairs))
	return res, nil
}

// A work is one sequence on its way over the device. Its methods want the device's context to be current.
type work struct {
	*Device
	*module
	*plan
	seq   *anchor.Sequence
	scale float64

	memory []uint64 // on the device
	events []uintptr
	marks  []anchor.Stage // of the time between an event and the next
	args   args

	tilesAt, sparseAt uint64 // where the plan's tiles are on the device
}

// run computes the sequence and adds to the result.
func (w *work) run(res *anchor.Result, stripes bool) (err error) {
	defer func() { err = errors.Join(err, w.free()) }()
	outputs, err := w.prepare()
	if err != nil {
		return err
	}
	if err := w.upload(); err != nil {
		return err
	}
	var times [][anchor.NumStages]float64
	for range repeat {
		t, err := w.launch()
		if err != nil {
			return err
		}
		times = append(times, t)
	}
	for stage, t := range median(times) {
		res.Stages[stage] += t
	}
	counts := make([]int32, w.Heads*len(w.groups))
	if len(w.plan.sparse) > 0 {
		if err := fetch(w, counts, w.args.counts); err != nil {
			return err
		}
	}
	w.account(res, counts)
	if stripes && w.params != nil {
		bits := make([]uint32, int64(w.Heads)*w.words[len(w.groups)])
		if len(bits) > 0 {
			if err := fetch(w, bits, w.args.bits); err != nil {
				return err
			}
		}
		res.StripeSets = append(res.StripeSets, w.stripes(bits))
	}
	return w.store(outputs, res)
}

//go:uintptrescapes
func (w *work) call(name string, address uintptr, args ...uintptr) error {
	return w.driver.call(name, address, args...)
}

// alloc allocates device memory until free.
func (w *work) alloc(bytes int) (uint64, error) {
	p, err := w.driver.alloc(bytes)
	if err == nil {
		w.memory = append(w.memory, p)
	}
	return p, err
}

// free gives back memory and events, after the device has done with them.
func (w *work) free() error {
	errs := []error{w.wait()}
	for _, p := range w.memory {
		errs = append(errs, w.call("MemFree", w.driver.f.MemFree, uintptr(p)))
	}
	for _, e := range w.events {
		errs = append(errs, w.call("EventDestroy", w.driver.f.EventDestroy, e))
	}
	w.memory, w.events = nil, nil
	return errors.Join(errs...)
}

func (w *work) wait() error {
	return w.call("StreamSynchronize", w.driver.f.StreamSynchronize, w.stream)
}

// store writes the outputs, which lie on the device with all heads' rows adjacent, to the sequence's.
func (w *work) store(o uint64, res *anchor.Result) error {
	data := make([]float32, w.Heads*w.Queries*w.kind.dim)
	if err := fetch(w, data, o); err != nil {
		return err
	}
	for h := range w.Heads {
		to, _, _ := w.seq.O.Elements(h, 0)
		_, step := w.seq.O.Strides()
		for i := range w.Queries {
			row := data[(h*w.Queries+i)*w.kind.dim:][:w.Dim]
			copy(to[i*step:], row)
			for _, x := range row {
				if x-x != 0 {
					res.NonFiniteRows++
					break
				}
			}
		}
	}
	if w.seq.LSE.DType() == 0 {
		return nil
	}
	lse := make([]float32, w.Heads*w.Queries)
	if err := fetch(w, lse, w.args.lse); err != nil {
		return err
	}
	for h := range w.Heads {
		to, _, _ := w.seq.LSE.Elements(h, 0)
		_, step := w.seq.LSE.Strides()
		for i := range w.Queries {
			to[i*step] = lse[h*w.Queries+i]
		}
	}
	return nil
}

// element is what tensors and lists on the device are made of.
type element interface {
	uint16 | uint32 | int32 | int64 | float32 | tile
}

// send copies data to the device; there is at least one element.
func send[E element](w *work, to uint64, data []E) error {
	err := w.call("MemcpyHtoD", w.driver.f.MemcpyHtoD, uintptr(to), uintptr(unsafe.Pointer(&data[0])), uintptr(len(data))*unsafe.Sizeof(data[0]))
	runtime.KeepAlive(data)
	return err
}

// fetch copies data from the device.
func fetch[E element](w *work, data []E, from uint64) error {
	err := w.call("MemcpyDtoH", w.driver.f.MemcpyDtoH, uintptr(unsafe.Pointer(&data[0])), uintptr(from), uintptr(len(data))*unsafe.Sizeof(data[0]))
	runtime.KeepAlive(data)
	return err
}

// place copies data to new memory; without data there is some memory too.
func place[E element](w *work, data []E) (uint64, error) {
	var e E
	p, err := w.alloc(len(data) * int(unsafe.Sizeof(e)))
	if err != nil || len(data) == 0 {
		return p, err
	}
	return p, send(w, p, data)
}

// placeTensor copies a tensor to new memory, all heads' rows adjacent and filled up with zeroes to the kernels' dim. Signs
// are changed if negative.
func (w *work) placeTensor(t *anchor.Tensor, negative bool) (uint64, error) {
	dim := w.kind.dim
	p, err := w.alloc(2 * t.Heads() * t.Rows() * dim)
	if err != nil {
		return 0, err
	}
	_, step := t.Strides()
	const some = 1 << 21 // elements that are rearranged at a time
	var buffer []uint16
	for h := range t.Heads() {
		for row := 0; row < t.Rows(); {
			_, data, n := t.Elements(h, row)
			to := p + 2*uint64(h*t.Rows()+row)*uint64(dim)
			if step == dim && t.Dim() == dim && !negative {
				data = data[:n*dim]
			} else {
				n = min(n, max(some/dim, 1))
				if buffer == nil {
					buffer = make([]uint16, n*dim)
				}
				n = min(n, len(buffer)/dim)
				for i := range n {
					r := buffer[i*dim:][:dim]
					copy(r, data[i*step:][:t.Dim()])
					if negative {
						for j := range r {
							r[j] ^= 0x8000
						}
					}
				}
				data = buffer[:n*dim]
			}
			if err := send(w, to, data); err != nil {
				return 0, err
			}
			row += n
		}
	}
	return p, nil
}

// prepare copies inputs to the device and allocates the rest. It returns where the outputs will be.
func (w *work) prepare() (outputs uint64, err error) {
	a := &w.args
	dim := int64(w.kind.dim)
	// A logit's sign goes to the queries; a scale of zero becomes one that makes every logit next to nothing, so that −∞ times
	// the scale still hides a key.
	negative := w.scale < 0
	a.scale = float32(max(math.Abs(w.scale), 1e-30))
	for _, t := range []struct {
		tensor   *anchor.Tensor
		to       *uint64
		negative bool
	}{{&w.seq.Q, &a.q, negative}, {&w.seq.K, &a.k, false}, {&w.seq.V, &a.v, false}} {
		if *t.to, err = w.placeTensor(t.tensor, t.negative); err != nil {
			return 0, err
		}
	}
	a.qHead, a.qRow = int64(w.Queries)*dim, dim
	a.kHead, a.kRow = int64(w.Keys)*dim, dim
	a.vHead, a.vRow = a.kHead, a.kRow
	a.oHead, a.oRow = a.qHead, a.qRow
	a.lseHead, a.lseRow = int64(w.Queries), 1
	a.heads, a.shared = int32(w.Heads), int32(w.Heads/w.KVHeads)
	a.queries, a.keys, a.first = int32(w.Queries), int32(w.Keys), int32(w.First())
	a.section = int32(w.section())
	rows := w.Heads * w.Queries
	allocate := []struct {
		to    *uint64
		bytes int
	}{{&a.o, 4 * rows * w.kind.dim}, {&a.lse, 4 * rows}, {&a.next, 4}}
	if w.params != nil {
		a.block, a.step, a.init, a.local = int32(w.params.Block), int32(w.params.Step), int32(w.params.Init), int32(w.params.Local)
		a.denseFrom = int32(max(w.Prompt-w.params.Tail, 0))
		a.theta = float32(w.params.Theta)
		a.groups, a.firstGroup = int32(len(w.groups)), int32(w.groups[0].start/(w.params.Block*w.params.Step))
	}
	if len(w.plan.sparse) > 0 {
		pooled := w.Heads * len(w.groups) * w.params.Step
		allocate = append(allocate, []struct {
			to    *uint64
			bytes int
		}{
			{&a.anchors, 4 * rows}, {&a.pool, 2 * 2 * pooled * w.kind.dim}, {&a.means, 4 * pooled},
			{&a.bits, w.bitBytes()}, {&a.counts, 4 * w.Heads * len(w.groups)},
		}...)
		if a.words, err = place(w, w.words); err != nil {
			return 0, err
		}
	}
	for _, m := range allocate {
		if *m.to, err = w.alloc(m.bytes); err != nil {
			return 0, err
		}
	}
	return a.o, nil
}

// bitBytes is the size of a bit for every head, group and key before it.
func (w *work) bitBytes() int { return 4 * w.Heads * int(w.words[len(w.groups)]) }

// section returns how many query heads are done together: those whose keys and values take two thirds of the second-level
// cache, and at least those of one KV head.
func (w *work) section() int {
	size := 4 * uint64(w.Keys) * uint64(w.kind.dim)
	return w.Heads / w.KVHeads * int(min(max(w.cache*2/3/size, 1), uint64(w.KVHeads)))
}

// upload copies what the plan says to the device.
func (w *work) upload() (err error) {
	if w.tilesAt, err = place(w, w.tiles); err != nil || len(w.plan.sparse) == 0 {
		return err
	}
	w.sparseAt, err = place(w, w.plan.sparse)
	return err
}

// repeat is how often the kernels are run; only benchmarks do so more than once, for medians.
var repeat = 1

// median returns the middle time of each stage.
func median(times [][anchor.NumStages]float64) (m [anchor.NumStages]float64) {
	for stage := range m {
		slices.SortFunc(times, func(a, b [anchor.NumStages]float64) int { return cmp.Compare(a[stage], b[stage]) })
		m[stage] = times[len(times)/2][stage]
	}
	return m
}

// launch starts the kernels, waits for them and returns the time of each stage.
func (w *work) launch() (times [anchor.NumStages]float64, err error) {
	if err := w.start(); err != nil {
		return times, err
	}
	// What the kernels did wrong is reported here.
	if err := w.wait(); err != nil {
		return times, err
	}
	for i, stage := range w.marks {
		ms := new(float32)
		if err := w.call("EventElapsedTime", w.driver.f.EventElapsedTime, uintptr(unsafe.Pointer(ms)), w.events[i], w.events[i+1]); err != nil {
			return times, err
		}
		times[stage] += float64(*ms) / 1000
	}
	w.marks = w.marks[:0]
	return times, nil
}

// start starts the kernels, with events between stages.
func (w *work) start() error {
	a := &w.args
	stage := anchor.StageDense
	if w.params != nil {
		stage = anchor.StageSparse
	}
	if err := w.mark(); err != nil {
		return err
	}
	if n := len(w.plan.sparse); n > 0 {
		a.tiles, a.tileCount = w.sparseAt, int32(n)
		if err := w.kernel(anchors, min(n*w.Heads, w.processors)); err != nil {
			return err
		}
		if err := w.mark(anchor.StageWindow); err != nil {
			return err
		}
		parts := (int(a.shared)*w.params.Step + 63) / 64
		last := w.groups[len(w.groups)-1].start
		const chunk = 2048 // searchKeys of the kernel
		chunks := (last + chunk - 1) / chunk
		if err := w.kernel(pool, w.Heads*len(w.groups)*w.params.Step); err != nil {
			return err
		}
		if err := w.clear(a.bits, w.bitBytes()); err != nil {
			return err
		}
		if err := w.kernel(search, w.KVHeads*chunks*len(w.groups)*parts); err != nil {
			return err
		}
		if err := w.kernel(count, (w.Heads*len(w.groups)+3)/4); err != nil {
			return err
		}
		if err := w.mark(anchor.StageSearch); err != nil {
			return err
		}
	}
	a.tiles, a.tileCount = w.tilesAt, int32(len(w.tiles))
	if err := w.clear(a.next, 4); err != nil {
		return err
	}
	if err := w.kernel(attend, min(len(w.tiles)*w.Heads, w.processors)); err != nil {
		return err
	}
	return w.mark(stage)
}

func (w *work) clear(p uint64, bytes int) error {
	return w.call("MemsetD8Async", w.driver.f.MemsetD8Async, uintptr(p), 0, uintptr(bytes), w.stream)
}

// kernel starts a kernel on the given number of blocks.
func (w *work) kernel(kernel, blocks int) error {
	if blocks > math.MaxInt32 {
		return fmt.Errorf("kernel %s: %d blocks; the device can count to %d", kernelNames[kernel], blocks, math.MaxInt32)
	}
	args := []unsafe.Pointer{unsafe.Pointer(&w.args)} // read before the call returns
	err := w.call("LaunchKernel", w.driver.f.LaunchKernel, w.module.kernel[kernel], uintptr(blocks), 1, 1, uintptr(threads[kernel]), 1, 1,
		uintptr(w.module.shared(kernel)), w.stream, uintptr(unsafe.Pointer(&args[0])), 0)
	runtime.KeepAlive(args)
	if err != nil {
		return fmt.Errorf("kernel %s: %w", kernelNames[kernel], err)
	}
	return nil
}

// mark records an event; the time since the one before belongs to the stage, if given.
func (w *work) mark(stage ...anchor.Stage) error {
	w.marks = append(w.marks, stage...)
	i := len(w.marks)
	if i == len(w.events) {
		e := new(uintptr)
		if err := w.call("EventCreate", w.driver.f.EventCreate, uintptr(unsafe.Pointer(e)), 0); err != nil {
			return err
		}
		w.events = append(w.events, *e)
	}
	return w.call("EventRecord", w.driver.f.EventRecord, w.events[i], w.stream)
}
