// Package matrix holds the weight matrices of models as their files store them, in full or half precision or
// quantised in blocks.
package matrix

import (
	"encoding/binary"
	"fmt"
	"math"
	"unsafe"

	"github.com/anchorattention/anchor/internal/kernel"
)

// A Type is how a matrix's elements are stored. The quantised ones are GGUF's: blocks of elements that share scales.
type Type uint8

const (
	F32  Type = iota + 1 // IEEE 754 single precision
	F16                  // IEEE 754 half precision
	BF16                 // the upper half of a single
	Q8_0                 // 32 elements: a half-precision scale, 8 bits each
	Q4_0                 // 32 elements: a half-precision scale, 4 bits each
	Q4_K                 // 256 elements: two scales, 8 scales and minima of 6 bits, 4 bits each
	Q5_K                 // 256 elements: as Q4_K, 5 bits each
	Q6_K                 // 256 elements: a scale, 16 scales of 8 bits, 6 bits each
)

var types = [...]struct {
	name            string
	elements, bytes int // of a block
}{
	F32: {"F32", 1, 4}, F16: {"F16", 1, 2}, BF16: {"BF16", 1, 2}, Q8_0: {"Q8_0", 32, 34}, Q4_0: {"Q4_0", 32, 18},
	Q4_K: {"Q4_K", 256, 144}, Q5_K: {"Q5_K", 256, 176}, Q6_K: {"Q6_K", 256, 210},
}

func (t Type) known() bool { return t >= F32 && int(t) < len(types) }

// String returns the name that GGUF uses: F32, Q4_K, and so on.
func (t Type) String() string {
	if !t.known() {
		return fmt.Sprintf("Type(%d)", uint8(t))
	}
	return types[t].name
}

// Block returns how many elements of a row are stored together, and in how many bytes.
func (t Type) Block() (elements, bytes int) { return types[t].elements, types[t].bytes }

// A Matrix is weights [rows, cols], row by row: a row is what one output is made of.
type Matrix struct {
	typ        Type
	rows, cols int
	data       []byte // blocks as files have them, single numbers as the machine does
}

// New views data of a file, little-endian, as a matrix. Blocks do not go over the end of a row: cols must be a multiple of theirs.
// Data in single precision must lie at a multiple of 4, other data of more than a byte at a multiple of 2. A big-endian machine
// copies data that are not in blocks.
func New(t Type, rows, cols int, data []byte) (*Matrix, error) {
	if !t.known() {
		return nil, fmt.Errorf("matrix: element type is %v; want F32, F16, BF16, Q8_0, Q4_0, Q4_K, Q5_K or Q6_K", t)
	}
	elements, bytes := t.Block()
	const most = min(1<<40, math.MaxInt/4) // elements; an int holds the bytes of so many
	switch {
	case rows < 1 || cols < 1 || rows > most/cols:
		return nil, fmt.Errorf("matrix: shape is [%d, %d]; want sizes ≥ 1 and at most %d elements", rows, cols, most)
	case cols%elements != 0:
		return nil, fmt.Errorf("matrix: rows of %v have %d elements; want a multiple of %d", t, cols, elements)
	case len(data) != rows*(cols/elements)*bytes:
		return nil, fmt.Errorf("matrix: [%d, %d] of %v has %d bytes; want %d", rows, cols, t, len(data), rows*(cols/elements)*bytes)
	}
	align := uintptr(2)
	if t == F32 {
		align = 4
	}
	if at := uintptr(unsafe.Pointer(&data[0])); at%align != 0 {
		return nil, fmt.Errorf("matrix: %v lies at an address that is no multiple of %d", t, align)
	}
	if elements == 1 && !littleEndian {
		swapped := make([]byte, len(data))
		for i := range data {
			swapped[i] = data[i^(bytes-1)]
		}
		data = swapped
	}
	return &Matrix{t, rows, cols, data}, nil
}

var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// FromFloat32 views data as a matrix [rows, cols]; its length must be theirs.
func FromFloat32(data []float32, rows, cols int) *Matrix {
	if len(data) != rows*cols || len(data) == 0 {
		panic(fmt.Sprintf("matrix: %d numbers for shape [%d, %d]", len(data), rows, cols))
	}
	return &Matrix{F32, rows, cols, unsafe.Slice((*byte)(unsafe.Pointer(&data[0])), 4*len(data))}
}

// FromHalves views numbers of type F16 or BF16 as a matrix [rows, cols]; there must be as many.
func FromHalves(t Type, data []uint16, rows, cols int) *Matrix {
	if t != F16 && t != BF16 || len(data) != rows*cols || len(data) == 0 {
		panic(fmt.Sprintf("matrix: %d halves of type %v for shape [%d, %d]", len(data), t, rows, cols))
	}
	return &Matrix{t, rows, cols, unsafe.Slice((*byte)(unsafe.Pointer(&data[0])), 2*len(data))}
}

// Type returns how elements are stored.
func (m *Matrix) Type() Type { return m.typ }

// Rows and Cols return the shape.
func (m *Matrix) Rows() int { return m.rows }
func (m *Matrix) Cols() int { return m.cols }

// Bytes returns the storage, row by row; single numbers are in the machine's order.
func (m *Matrix) Bytes() []byte { return m.data }

// Float32s returns the elements of a matrix of type F32, without a copy.
func (m *Matrix) Float32s() []float32 {
	if m.typ != F32 {
		panic(fmt.Sprintf("matrix: Float32s of %v", m.typ))
	}
	return floatsOf(m.data)
}

// Row unpacks row i into dst, which has Cols elements.
func (m *Matrix) Row(i int, dst []float32) {
	dst = dst[:m.cols]
	row := m.data[i*m.rowBytes():][:m.rowBytes()]
	switch m.typ {
	case F32:
		copy(dst, m.Float32s()[i*m.cols:])
	case F16:
		for j, bits := range halvesOf(row) {
			dst[j] = kernel.HalfToSingle(bits)
		}
	case BF16:
		for j, bits := range halvesOf(row) {
			dst[j] = math.Float32frombits(uint32(bits) << 16)
		}
	default:
		Unpack(m.typ, row, dst)
	}
}

// Unpack converts whole blocks of a file to single precision. The length of src must be that of as many elements as dst has.
func Unpack(t Type, src []byte, dst []float32) {
	elements, bytes := t.Block()
	if len(dst)%elements != 0 || len(src) != len(dst)/elements*bytes {
		panic(fmt.Sprintf("matrix: %d bytes of %v into %d elements", len(src), t, len(dst)))
	}
	for ; len(dst) > 0; src, dst = src[bytes:], dst[elements:] {
		switch t {
		case F32:
			dst[0] = math.Float32frombits(binary.LittleEndian.Uint32(src))
		case F16:
			dst[0] = half(src)
		case BF16:
			dst[0] = math.Float32frombits(uint32(binary.LittleEndian.Uint16(src)) << 16)
		case Q8_0:
			unpackQ8_0(src, dst)
		case Q4_0:
			unpackQ4_0(src, dst)
		case Q4_K:
			unpackQ4_K(src, dst)
		case Q5_K:
			unpackQ5_K(src, dst)
		case Q6_K:
			unpackQ6_K(src, dst)
		}
	}
}

func half(src []byte) float32 { return kernel.HalfToSingle(binary.LittleEndian.Uint16(src)) }

func unpackQ8_0(src []byte, dst []float32) {
	d := half(src)
	for i, q := range src[2:34] {
		dst[i] = d * float32(int8(q))
	}
}

func unpackQ4_0(src []byte, dst []float32) {
	d := half(src)
	for i, q := range src[2:18] {
		dst[i] = d * float32(int(q&15)-8)
		dst[i+16] = d * float32(int(q>>4)-8)
	}
}

// scaleAndMin returns the 6-bit scale and minimum of the sub-block i of 8, of Q4_K and Q5_K.
func scaleAndMin(packed []byte, i int) (scale, minimum float32) {
	if i < 4 {
		return float32(packed[i] & 63), float32(packed[i+4] & 63)
	}
	return float32(packed[i+4]&15 | packed[i-4]>>6<<4), float32(packed[i+4]>>4 | packed[i]>>6<<4)
}

func unpackQ4_K(src []byte, dst []float32) {
	d, dmin, scales, low := half(src), half(src[2:]), src[4:16], src[16:144]
	for sub := range 8 { // of 32 elements; two share bytes
		s, m := scaleAndMin(scales, sub)
		scale, minimum := d*s, dmin*m
		shift := sub % 2 * 4
		for i, q := range low[sub/2*32:][:32] {
			dst[sub*32+i] = scale*float32(q>>shift&15) - minimum
		}
	}
}

func unpackQ5_K(src []byte, dst []float32) {
	d, dmin, scales, high, low := half(src), half(src[2:]), src[4:16], src[16:48], src[48:176]
	for sub := range 8 {
		s, m := scaleAndMin(scales, sub)
		scale, minimum := d*s, dmin*m
		shift := sub % 2 * 4
		for i, q := range low[sub/2*32:][:32] {
			dst[sub*32+i] = scale*float32(q>>shift&15|high[i]>>sub&1<<4) - minimum
		}
	}
}

func unpackQ6_K(src []byte, dst []float32) {
	low, high, scales, d := src[:128], src[128:192], src[192:208], half(src[208:])
	for sub := range 8 { // of 32 elements: four of each half share the bytes of high, two those of low
		quarter := sub % 4
		l, h := low[sub/4*64+quarter%2*32:][:32], high[sub/4*32:][:32]
		for i := range 32 {
			q := int(l[i]>>(quarter/2*4)&15|h[i]>>(quarter*2)&3<<4) - 32
			dst[sub*32+i] = d * float32(int8(scales[sub*2+i/16])) * float32(q)
		}
	}
}
