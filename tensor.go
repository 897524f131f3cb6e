package anchor

import (
	"fmt"
	"math"
	"unsafe"

	"github.com/anchorattention/anchor/internal/kernel"
)

// A DType is the type of a tensor's elements.
type DType uint8

const (
	Float32  DType = iota + 1 // IEEE 754 single precision
	BFloat16                  // the upper half of a single
	Float16                   // IEEE 754 half precision
	Int8                      // whole numbers, each row with a factor of its own: keys and values only
)

// String returns the name that safetensors files use: F32, BF16, F16 or I8.
func (d DType) String() string {
	switch d {
	case Float32:
		return "F32"
	case BFloat16:
		return "BF16"
	case Float16:
		return "F16"
	case Int8:
		return "I8"
	}
	return fmt.Sprintf("DType(%d)", uint8(d))
}

func (d DType) size() uintptr {
	switch d {
	case Float32:
		return 4
	case Int8:
		return 1
	}
	return 2
}

// A Tensor is a view [heads, rows, dim] of memory that the caller owns. The elements of a row are adjacent; heads
// and rows may lie any distance apart. The rows of all heads may be cut into pages of equally many rows, as key
// and value caches are. The zero Tensor means "none" where a tensor is optional.
//
// Constructors and methods check nothing: [Attend] does, and reports the tensor by name.
type Tensor struct {
	dtype             DType
	heads, rows, dim  int
	headStep, rowStep int // in elements, within a page
	pageRows          int
	f32               [][]float32 // one slice a page; those of the other types are nil
	u16               [][]uint16
	i8                [][]int8
	scales            [][]float32 // of i8, [heads, pageRows] a page, whatever the strides
}

// FromFloat32 views data as a contiguous tensor of single-precision numbers.
func FromFloat32(data []float32, heads, rows, dim int) Tensor {
	return FromPages([][]float32{data}, rows, heads, rows, dim)
}

// FromBFloat16 views data, the bit patterns of bfloat16 numbers, as a contiguous tensor.
func FromBFloat16(data []uint16, heads, rows, dim int) Tensor {
	return FromBFloat16Pages([][]uint16{data}, rows, heads, rows, dim)
}

// FromFloat16 views data, the bit patterns of half-precision numbers, as a contiguous tensor.
func FromFloat16(data []uint16, heads, rows, dim int) Tensor {
	return FromFloat16Pages([][]uint16{data}, rows, heads, rows, dim)
}

// FromInt8 views data as a contiguous tensor whose elements are those of data times the factor of their row; scales are
// [heads, rows]. Keys and values can be such, queries and outputs cannot.
func FromInt8(data []int8, scales []float32, heads, rows, dim int) Tensor {
	return FromInt8Pages([][]int8{data}, [][]float32{scales}, rows, heads, rows, dim)
}

// FromPages views pages, each a contiguous [heads, pageRows, dim], as one tensor: row r of a head is row
// r mod pageRows of page r / pageRows. Outputs cannot be paged.
func FromPages(pages [][]float32, pageRows, heads, rows, dim int) Tensor {
	t := contiguous(Float32, heads, pageRows, dim)
	t.rows, t.f32 = rows, pages
	return t
}

// FromBFloat16Pages is FromPages for the bit patterns of bfloat16 numbers.
func FromBFloat16Pages(pages [][]uint16, pageRows, heads, rows, dim int) Tensor {
	t := contiguous(BFloat16, heads, pageRows, dim)
	t.rows, t.u16 = rows, pages
	return t
}

// FromFloat16Pages is FromPages for the bit patterns of half-precision numbers.
func FromFloat16Pages(pages [][]uint16, pageRows, heads, rows, dim int) Tensor {
	t := contiguous(Float16, heads, pageRows, dim)
	t.rows, t.u16 = rows, pages
	return t
}

// FromInt8Pages is FromPages for what FromInt8 views: the scales of each page are [heads, pageRows].
func FromInt8Pages(pages [][]int8, scales [][]float32, pageRows, heads, rows, dim int) Tensor {
	t := contiguous(Int8, heads, pageRows, dim)
	t.rows, t.i8, t.scales = rows, pages, scales
	return t
}

func contiguous(d DType, heads, rows, dim int) Tensor {
	return Tensor{dtype: d, heads: heads, rows: rows, dim: dim, headStep: rows * dim, rowStep: dim, pageRows: rows}
}

// Strided returns the same view with other distances, in elements, between heads and between rows: of a buffer
// [rows, heads, dim], for one, Strided(dim, heads*dim). The scales of 8-bit rows stay where they are.
func (t Tensor) Strided(headStep, rowStep int) Tensor {
	t.headStep, t.rowStep = headStep, rowStep
	return t
}

// DType returns the type of the elements, 0 for the zero Tensor.
func (t Tensor) DType() DType { return t.dtype }

// Heads, Rows and Dim return the shape.
func (t Tensor) Heads() int { return t.heads }
func (t Tensor) Rows() int  { return t.rows }
func (t Tensor) Dim() int   { return t.dim }

// shape formats a shape for errors.
func (t Tensor) shape() string { return fmt.Sprintf("[%d, %d, %d]", t.heads, t.rows, t.dim) }

// check reports what makes the view unusable.
func (t Tensor) check() error {
	if t.dtype < Float32 || t.dtype > Int8 {
		return fmt.Errorf("has element type %v; want F32, BF16, F16 or I8", t.dtype)
	}
	if t.heads < 1 || t.rows < 1 || t.dim < 1 {
		return fmt.Errorf("has shape %s; want every size ≥ 1", t.shape())
	}
	if t.headStep < 0 || t.rowStep < 0 {
		return fmt.Errorf("has strides %d (heads) and %d (rows); want ≥ 0", t.headStep, t.rowStep)
	}
	if t.pageRows < 1 {
		return fmt.Errorf("has pages of %d rows; want ≥ 1", t.pageRows)
	}
	pages := t.pages()
	if want := (t.rows-1)/t.pageRows + 1; pages < want {
		return fmt.Errorf("has %d pages of %d rows; %d rows need %d", pages, t.pageRows, t.rows, want)
	}
	for left, p := t.rows, 0; left > 0; left, p = left-t.pageRows, p+1 {
		var have int
		switch t.dtype {
		case Float32:
			have = len(t.f32[p])
		case Int8:
			have = len(t.i8[p])
			// Not heads·pageRows, which an int need not hold.
			if scales := len(t.scales[p]); (scales-min(left, t.pageRows))/t.pageRows < t.heads-1 || scales < min(left, t.pageRows) {
				return fmt.Errorf("of shape %s in pages of %d rows has %d scales; want one for each row of each head",
					t.shape(), t.pageRows, scales)
			}
		default:
			have = len(t.u16[p])
		}
		need, ok := span(t.heads, t.headStep, min(left, t.pageRows), t.rowStep, t.dim)
		if !ok || need > have {
			needed := fmt.Sprint(need)
			if !ok {
				needed = "more than an int can count"
			}
			return fmt.Errorf("of shape %s with strides %d and %d needs %s elements; the slice has %d",
				t.shape(), t.headStep, t.rowStep, needed, have)
		}
	}
	return nil
}

// pages returns how many there are.
func (t *Tensor) pages() int {
	if t.dtype == Int8 {
		return min(len(t.i8), len(t.scales))
	}
	return len(t.f32) + len(t.u16)
}

// span is the number of elements from the first to the last, and whether an int can hold it.
func span(heads, headStep, rows, rowStep, dim int) (int, bool) {
	const limit = math.MaxInt / 4
	if headStep > 0 && heads-1 > limit/headStep || rowStep > 0 && rows-1 > limit/rowStep || dim > limit {
		return 0, false
	}
	return (heads-1)*headStep + (rows-1)*rowStep + dim, true
}

// run returns the elements of one head from the given row to the end of its page, and how many rows those are. Of 8-bit
// ones, which are of no use as they lie, it returns none.
func (t *Tensor) run(head, row int) (f32 []float32, u16 []uint16, rows int) {
	page, from, to, rows := t.find(head, row)
	switch t.dtype {
	case Float32:
		return t.f32[page][from:to], nil, rows
	case Int8:
		return nil, nil, rows
	}
	return nil, t.u16[page][from:to], rows
}

// find returns where the elements of one head lie, from the given row to the end of its page, and how many rows those are.
func (t *Tensor) find(head, row int) (page, from, to, rows int) {
	page, at := row/t.pageRows, row%t.pageRows
	rows = min(t.pageRows-at, t.rows-row)
	from = head*t.headStep + at*t.rowStep
	return page, from, from + (rows-1)*t.rowStep + t.dim, rows
}

// Read copies a row of a head to dst, which is as long, as single-precision numbers.
func (t Tensor) Read(dst []float32, head, row int) { t.read(kernel.Levels()[0], dst, head, row) }

// read copies one row into dst, which is dim long, as single-precision numbers.
func (t *Tensor) read(kernels *kernel.Set, dst []float32, head, row int) {
	f32, u16, _ := t.run(head, row)
	switch t.dtype {
	case Float32:
		copy(dst, f32[:t.dim])
	case BFloat16:
		kernels.FromBFloat16(dst, u16[:t.dim])
	case Float16:
		kernels.FromFloat16(dst, u16[:t.dim])
	case Int8:
		page, from, _, _ := t.find(head, row)
		scale := t.scales[page][head*t.pageRows+row%t.pageRows]
		widen(dst, t.i8[page][from:][:t.dim])
		kernels.Scale(dst[:t.dim], dst[:t.dim], scale)
	}
}

// byteValues are the single-precision numbers of all bytes: looking one up is a third of the work of converting it.
var byteValues = func() (all [256]float32) {
	for i := range all {
		all[i] = float32(int8(i))
	}
	return all
}()

// widen writes whole numbers to dst, which is as long or longer.
func widen(dst []float32, src []int8) {
	for len(src) >= 8 && len(dst) >= 8 {
		dst[0], dst[1] = byteValues[uint8(src[0])], byteValues[uint8(src[1])]
		dst[2], dst[3] = byteValues[uint8(src[2])], byteValues[uint8(src[3])]
		dst[4], dst[5] = byteValues[uint8(src[4])], byteValues[uint8(src[5])]
		dst[6], dst[7] = byteValues[uint8(src[6])], byteValues[uint8(src[7])]
		dst, src = dst[8:], src[8:]
	}
	for i, x := range src {
		dst[i] = byteValues[uint8(x)]
	}
}

// rowsAt returns the single-precision numbers of up to n rows from row on that lie one after the other, if any do.
func (t *Tensor) rowsAt(head, row, n int) []float32 {
	f32, _, rows := t.run(head, row)
	if f32 == nil || t.rowStep != t.dim {
		return nil
	}
	return f32[:min(rows, n)*t.dim]
}

// An extent is a run of bytes that belongs to a tensor.
type extent struct{ from, to uintptr }

// extents returns the memory that the view covers, in as few runs as its layout allows.
func (t *Tensor) extents() []extent {
	var all []extent
	size := t.dtype.size()
	add := func(first unsafe.Pointer, elements int) {
		from := uintptr(first)
		if n := len(all); n > 0 && all[n-1].to == from {
			all[n-1].to += uintptr(elements) * size
			return
		}
		all = append(all, extent{from, from + uintptr(elements)*size})
	}
	for h := range t.heads {
		for row := 0; row < t.rows; {
			page, from, to, rows := t.find(h, row)
			var first unsafe.Pointer
			switch t.dtype {
			case Float32:
				first = unsafe.Pointer(unsafe.SliceData(t.f32[page][from:to]))
			case Int8:
				first = unsafe.Pointer(unsafe.SliceData(t.i8[page][from:to]))
			default:
				first = unsafe.Pointer(unsafe.SliceData(t.u16[page][from:to]))
			}
			if t.rowStep == t.dim {
				add(first, rows*t.dim)
			} else {
				for i := range rows {
					add(unsafe.Add(first, uintptr(i*t.rowStep)*size), t.dim)
				}
			}
			row += rows
		}
	}
	return append(all, t.scaleExtents(0, t.rows)...)
}

// scaleExtents returns the memory of the scales of the pages that hold the rows [from, to), if there are any.
func (t *Tensor) scaleExtents(from, to int) []extent {
	var all []extent
	if t.scales == nil {
		return nil
	}
	for row := from; row < to; row += t.pageRows {
		scales := t.scales[row/t.pageRows]
		first := uintptr(unsafe.Pointer(unsafe.SliceData(scales)))
		all = append(all, extent{first, first + uintptr(len(scales))*Float32.size()})
	}
	return all
}
