package cuda

import (
	"context"
	"errors"
	"fmt"

	"github.com/anchorattention/anchor"
)

// Attend does a call of anchor.Attend, all sequences in one launch of each kernel. Stages in its result are times on the
// device, by its own clock, and leave out copying from and to it: the window is the anchors' alone, since attention to the
// window is done together with that to the stripes, and to all keys in the tail. The end of ctx is heeded between copies and before
// kernels are started, which nothing stops then.
func (d *Device) Attend(ctx context.Context, call anchor.Call) (*anchor.Result, error) {
	res, err := d.attend(ctx, &call)
	switch {
	case err == nil && call.Progress != nil:
		call.Progress(1)
	case err != nil && ctx.Err() == nil:
		err = fmt.Errorf("cuda: %w", err)
	}
	return res, err
}

func (d *Device) attend(ctx context.Context, call *anchor.Call) (*anchor.Result, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.driver == nil {
		return nil, errClosed
	}
	if _, _, err := paramsOf(call.Planner); err != nil {
		return nil, err
	}
	kind, err := kindOf(call.Sequences[0].Q.DType(), call.Shapes[0].Dim)
	if err != nil {
		return nil, err
	}
	var res *anchor.Result
	err = d.inContext(func() (err error) {
		w := work{Device: d, kind: kind, call: call}
		defer func() { err = errors.Join(err, w.free()) }()
		res, err = w.run(ctx)
		return err
	})
	if err != nil {
		return nil, err
	}
	return res, nil
}

// A work is a call with tensors in the program's memory on its way over the device. Its methods want the device's context
// to be current.
type work struct {
	*Device
	kind
	call   *anchor.Call
	memory []uint64 // that tensors are copied to
}

func (w *work) run(ctx context.Context) (*anchor.Result, error) {
	if _, err := w.load(w.kind); err != nil { // before tensors are copied
		return nil, err
	}
	opt := anchor.Options{Planner: w.call.Planner, Scale: w.call.Scale}
	// A logit's sign goes to the queries.
	negative := opt.Scale != nil && *opt.Scale < 0
	if negative {
		scale := -*opt.Scale
		opt.Scale = &scale
	}
	if opt.Scale == nil && w.call.Shapes[0].Dim != w.dim {
		scale := naturalScale(w.call.Shapes[0].Dim)
		opt.Scale = &scale
	}
	sequences := make([]Sequence, len(w.call.Sequences))
	for i, s := range w.call.Sequences {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		shape := w.call.Shapes[i]
		for _, t := range []struct {
			from     *anchor.Tensor
			to       *Tensor
			negative bool
		}{{&s.Q, &sequences[i].Q, negative}, {&s.K, &sequences[i].K, false}, {&s.V, &sequences[i].V, false}} {
			var err error
			if *t.to, err = w.upload(t.from, t.negative); err != nil {
				return nil, fmt.Errorf("sequence %d: %w", i, err)
			}
		}
		o, err := w.tensor(anchor.Float32, shape.Heads, shape.Queries, w.dim)
		if err != nil {
			return nil, fmt.Errorf("sequence %d: %w", i, err)
		}
		l, err := w.tensor(anchor.Float32, shape.Heads, shape.Queries, 1)
		if err != nil {
			return nil, fmt.Errorf("sequence %d: %w", i, err)
		}
		sequences[i].O, sequences[i].LSE, sequences[i].Prompt = o, l, shape.Prompt
	}
	c, err := w.plan(&opt, sequences)
	if err != nil {
		return nil, err
	}
	res, err := w.compute(ctx, c, sequences)
	if err := errors.Join(err, c.free()); err != nil {
		return nil, err
	}
	return res, nil
}

// compute runs the kernels and stores what comes of them.
func (w *work) compute(ctx context.Context, c *Call, sequences []Sequence) (*anchor.Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	stages, err := c.timed()
	if err != nil {
		return nil, err
	}
	res, err := c.result()
	if err != nil {
		return nil, err
	}
	res.Stages = stages
	dim := float64(w.call.Shapes[0].Dim) // without what was filled up
	res.FLOPs = dim * (4*float64(res.Pairs) + 2*float64(res.SearchPairs))
	if w.call.Stripes && c.plan.params != nil {
		if res.StripeSets, err = c.stripes(); err != nil {
			return nil, err
		}
	}
	for i, s := range w.call.Sequences {
		if err := w.download(&s.O, &sequences[i].O); err != nil {
			return nil, err
		}
		if s.LSE.DType() != 0 {
			if err := w.download(&s.LSE, &sequences[i].LSE); err != nil {
				return nil, err
			}
		}
	}
	return res, ctx.Err()
}

// timed starts the kernels, waits for them and returns the time of each stage.
func (c *Call) timed() (times [anchor.NumStages]float64, err error) {
	watch := stopwatch{device: c.device}
	defer func() { err = errors.Join(err, watch.free()) }()
	var stages []anchor.Stage
	if err := watch.mark(); err != nil {
		return times, err
	}
	err = c.start(func(s anchor.Stage) error {
		stages = append(stages, s)
		return watch.mark()
	})
	if err != nil {
		return times, errors.Join(err, c.device.wait())
	}
	all, err := watch.read()
	for i, t := range all {
		times[stages[i]] += t
	}
	return times, err
}

// free gives back the tensors' memory, after the device has done with it.
func (w *work) free() error {
	errs := []error{w.wait()}
	for _, p := range w.memory {
		errs = append(errs, w.driver.call("MemFree", w.driver.f.MemFree, uintptr(p)))
	}
	w.memory = nil
	return errors.Join(errs...)
}

// tensor returns a contiguous tensor in new memory.
func (w *work) tensor(dtype anchor.DType, heads, rows, dim int) (Tensor, error) {
	m := &Memory{device: w.Device}
	t := m.Tensor(dtype, heads, rows, dim)
	m.size = heads * rows * dim * t.size()
	var err error
	if m.address, err = w.driver.alloc(m.size); err == nil {
		w.memory = append(w.memory, m.address)
	}
	return t, err
}

// upload copies a tensor to new memory, all heads' rows adjacent and filled up with zeroes to the kernels' dim. Signs are
// changed if negative.
func (w *work) upload(t *anchor.Tensor, negative bool) (Tensor, error) {
	dim := w.dim
	to, err := w.tensor(t.DType(), t.Heads(), t.Rows(), dim)
	if err != nil {
		return to, err
	}
	if t.DType() != w.dtype {
		return to, nil // prepare says what is wrong
	}
	_, step := t.Strides()
	const some = 1 << 21 // elements that are rearranged at a time
	var buffer []uint16  // rows that are not on the device yet
	at := to.address()
	flush := func() error {
		if len(buffer) == 0 {
			return nil
		}
		err := send(w.driver, at, buffer)
		at += 2 * uint64(len(buffer))
		buffer = buffer[:0]
		return err
	}
	for h := range t.Heads() {
		for row := 0; row < t.Rows(); {
			_, data, n := t.Elements(h, row)
			if step == dim && t.Dim() == dim && !negative && n*dim >= some {
				if err := flush(); err != nil {
					return to, err
				}
				if err := send(w.driver, at, data[:n*dim]); err != nil {
					return to, err
				}
				at += 2 * uint64(n) * uint64(dim)
				row += n
				continue
			}
			if buffer == nil {
				buffer = make([]uint16, 0, min(max(some/dim, 1), t.Heads()*t.Rows())*dim)
			}
			n = min(n, (cap(buffer)-len(buffer))/dim)
			for i := range n {
				r := buffer[len(buffer):][:dim]
				buffer = buffer[:len(buffer)+dim]
				clear(r[copy(r, data[i*step:][:t.Dim()]):])
				if negative {
					for j := range r {
						r[j] ^= 0x8000
					}
				}
			}
			row += n
			if len(buffer) == cap(buffer) {
				if err := flush(); err != nil {
					return to, err
				}
			}
		}
	}
	return to, flush()
}

// download writes an output, whose rows may be filled up, to the program's.
func (w *work) download(to *anchor.Tensor, from *Tensor) error {
	data := make([]float32, from.Heads*from.Rows*from.Dim)
	if err := fetch(w.driver, data, from.address()); err != nil {
		return err
	}
	for h := range to.Heads() {
		rows, _, _ := to.Elements(h, 0)
		_, step := to.Strides()
		for i := range to.Rows() {
			copy(rows[i*step:][:to.Dim()], data[(h*from.Rows+i)*from.Dim:])
		}
	}
	return nil
}
