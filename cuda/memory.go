package cuda

import (
	"errors"
	"fmt"
	"runtime"
	"unsafe"

	"github.com/anchorattention/anchor"
)

// A Memory is a piece of a device's memory, uninitialised when it is new. Free it before the device is closed. It may be used
// concurrently.
type Memory struct {
	device  *Device
	address uint64 // 0 once freed
	size    int    // bytes
}

// An Element is what memory can be written and read as.
type Element interface {
	uint16 | uint32 | int32 | int64 | float32
}

// Alloc allocates memory of the given number of bytes.
func (d *Device) Alloc(bytes int) (*Memory, error) {
	if bytes < 1 {
		return nil, fmt.Errorf("cuda: memory of %d bytes; want ≥ 1", bytes)
	}
	m := &Memory{device: d, size: bytes}
	err := d.do(func() (err error) {
		m.address, err = d.driver.alloc(bytes)
		return err
	})
	if err != nil {
		return nil, err
	}
	return m, nil
}

// Size returns the number of bytes.
func (m *Memory) Size() int { return m.size }

// Free gives the memory back, after the device has done what was started.
func (m *Memory) Free() error {
	return m.device.do(func() error {
		if m.address == 0 {
			return nil
		}
		err := m.device.wait()
		address := m.address
		m.address = 0
		return errors.Join(err, m.device.driver.call("MemFree", m.device.driver.f.MemFree, uintptr(address)))
	})
}

// Write copies data to the memory, from the at-th element of data's type on, after what was started before.
func Write[E Element](m *Memory, at int, data []E) error {
	return m.transfer(at, len(data), unsafe.Sizeof(E(0)), func(address uint64) error { return send(m.device.driver, address, data) })
}

// Read copies the memory, from the at-th element of data's type on, to data, after what was started before.
func Read[E Element](m *Memory, at int, data []E) error {
	return m.transfer(at, len(data), unsafe.Sizeof(E(0)), func(address uint64) error { return fetch(m.device.driver, data, address) })
}

// transfer calls f with the address of an element, if it and those after it are in the memory.
func (m *Memory) transfer(at, n int, size uintptr, f func(address uint64) error) error {
	if have := m.size / int(size); at < 0 || n > have || at > have-n {
		return fmt.Errorf("cuda: elements [%d, %d+%d) of memory that has %d", at, at, n, have)
	}
	if n == 0 {
		return nil
	}
	return m.device.do(func() error {
		if m.address == 0 {
			return errors.New("the memory was freed")
		}
		return f(m.address + uint64(at)*uint64(size))
	})
}

// send copies data to the device; there is at least one element.
func send[E any](d *driver, to uint64, data []E) error {
	err := d.call("MemcpyHtoD", d.f.MemcpyHtoD, uintptr(to), uintptr(unsafe.Pointer(&data[0])), uintptr(len(data))*unsafe.Sizeof(data[0]))
	runtime.KeepAlive(data)
	return err
}

// fetch copies data from the device.
func fetch[E any](d *driver, data []E, from uint64) error {
	err := d.call("MemcpyDtoH", d.f.MemcpyDtoH, uintptr(unsafe.Pointer(&data[0])), uintptr(from), uintptr(len(data))*unsafe.Sizeof(data[0]))
	runtime.KeepAlive(data)
	return err
}

// A Tensor is a view [Heads, Rows, Dim] of a device's memory, as an [anchor.Tensor] is one of the program's: the elements
// of a row are adjacent, heads and rows lie any distance apart. The zero Tensor means "none" where a tensor is optional.
type Tensor struct {
	Memory            *Memory
	Offset            int // of the first element, in elements
	DType             anchor.DType
	Heads, Rows, Dim  int
	HeadStep, RowStep int // in elements
	PageStep          int // of keys and values in pages: see Sequence
}

// Tensor views the memory from its start on as a contiguous tensor.
func (m *Memory) Tensor(dtype anchor.DType, heads, rows, dim int) Tensor {
	return Tensor{Memory: m, DType: dtype, Heads: heads, Rows: rows, Dim: dim, HeadStep: rows * dim, RowStep: dim}
}

func (t *Tensor) shape() string { return fmt.Sprintf("[%d, %d, %d]", t.Heads, t.Rows, t.Dim) }

// size returns the bytes of an element.
func (t *Tensor) size() int {
	if t.DType == anchor.Float32 {
		return 4
	}
	return 2
}

func (t *Tensor) address() uint64 { return t.Memory.address + uint64(t.Offset)*uint64(t.size()) }

// overlaps reports whether rows of the view share memory. The distances between heads and between rows may be either way round.
func (t *Tensor) overlaps() bool {
	inner, outer := [2]int{t.Rows, t.RowStep}, [2]int{t.Heads, t.HeadStep}
	if inner[1] > outer[1] && outer[0] > 1 || inner[0] == 1 {
		inner, outer = outer, inner
	}
	return inner[0] > 1 && inner[1] < t.Dim || outer[0] > 1 && outer[1] < (inner[0]-1)*inner[1]+t.Dim
}

// check reports what makes the view unusable on a device; pages are the numbers of its pages, nil if it has none. Where rows
// begin, kernels want a multiple of so many bytes.
func (t *Tensor) check(d *Device, pages []int32, pageRows, align int) error {
	// Kernels have 32 bits for where a row of a head lies, in pieces of 16 bytes.
	const limit, rowLimit int64 = 1 << 35, 1 << 28
	switch {
	case t.Memory == nil || t.Memory.device != d:
		return errors.New("is not in memory of this device")
	case t.Memory.address == 0:
		return errors.New("is in memory that was freed")
	case t.Heads < 1 || t.Rows < 1 || t.Dim < 1:
		return fmt.Errorf("has shape %s; want every size ≥ 1", t.shape())
	case t.Offset < 0 || t.HeadStep < 0 || t.RowStep < 0 || t.PageStep < 0:
		return fmt.Errorf("has offset %d and steps %d (heads), %d (rows) and %d (pages); want ≥ 0", t.Offset, t.HeadStep, t.RowStep, t.PageStep)
	case int64(t.RowStep) >= rowLimit:
		return fmt.Errorf("has a step of %d between rows; want less than %d", t.RowStep, rowLimit)
	}
	unit := align / t.size()
	for _, x := range []int{t.Offset, t.HeadStep, t.RowStep, t.PageStep} {
		if unit > 0 && x%unit != 0 {
			return fmt.Errorf("has offset %d and steps %d (heads), %d (rows) and %d (pages); want multiples of %d", t.Offset, t.HeadStep, t.RowStep, t.PageStep, unit)
		}
	}
	last, rows := 0, t.Rows
	if pages != nil {
		if last = -1; t.RowStep == 0 || t.PageStep%t.RowStep != 0 {
			return fmt.Errorf("has steps %d between pages and %d between rows; want a multiple", t.PageStep, t.RowStep)
		}
		for i, page := range pages {
			if page < 0 {
				return fmt.Errorf("has page %d at %d; want ≥ 0", page, i)
			}
			last = max(last, int(page))
		}
		rows = min(rows, pageRows)
	}
	have := t.Memory.size / t.size()
	for _, x := range [][2]int{{last, t.PageStep}, {t.Heads - 1, t.HeadStep}, {rows - 1, t.RowStep}, {1, t.Offset}, {1, t.Dim}} {
		if x[1] > 0 && x[0] > have/x[1] {
			have = -1
			break
		}
		have -= x[0] * x[1]
	}
	if have < 0 {
		return fmt.Errorf("of shape %s with offset %d, steps %d, %d and %d and last page %d goes beyond its memory, %d elements",
			t.shape(), t.Offset, t.HeadStep, t.RowStep, t.PageStep, last, t.Memory.size/t.size())
	}
	if span := last*t.PageStep + (rows-1)*t.RowStep; int64(span) >= limit {
		return fmt.Errorf("has rows of a head that lie %d elements apart; want less than %d", span, limit)
	}
	return nil
}
