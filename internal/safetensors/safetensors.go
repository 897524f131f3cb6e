// Package safetensors reads and writes files of named tensors in the safetensors format: the length of a header in
// eight bytes, little-endian; the header, a JSON object of names to element type, shape and place; and the elements,
// row-major and little-endian.
//
// Files are mapped into memory and nothing in them is trusted: lengths, offsets, shapes and names are checked before
// a tensor can be asked for, so the rest of a program may rely on what it gets.
package safetensors

import (
	"bytes"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strconv"
	"unsafe"

	"github.com/anchorattention/anchor/internal/mmap"
)

// maxHeader is the format's own bound on the length of a header.
const maxHeader = 100_000_000

// elementBytes is the size of an element of each type whose elements are whole bytes.
var elementBytes = map[string]int{
	"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1,
	"U16": 2, "I16": 2, "F16": 2, "BF16": 2,
	"U32": 4, "I32": 4, "F32": 4,
	"U64": 8, "I64": 8, "F64": 8,
}

// A File is an open safetensors file. Its methods are safe for concurrent use.
type File struct {
	name     string
	infos    []Info // in the order of their data
	byName   map[string]int
	metadata map[string]string
	data     []byte     // all elements
	start    int64      // where data begins in the file
	file     *mmap.File // that data lies in, nil if it was parsed from memory
}

// An Info describes a tensor of a file.
type Info struct {
	Name  string
	DType string // such as F32, BF16 or I64
	Shape []int  // none for a scalar

	from, to int // its elements are data[from:to]
}

// Open maps a file into memory. The file must not be cut short while it is open: to touch what is gone ends the
// program, but where [mmap.Guard] holds.
func Open(path string) (*File, error) {
	file, err := mmap.Open(path)
	if err != nil {
		return nil, err
	}
	f, err := Parse(path, file.Bytes())
	if err != nil {
		file.Close()
		return nil, err
	}
	f.file = file
	return f, nil
}

// Parse makes a File of the bytes of one, and keeps them. The name appears in errors.
func Parse(name string, data []byte) (*File, error) {
	f := &File{name: name, byName: make(map[string]int)}
	if err := f.parse(data); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}

// Close unmaps and closes the file. Slices that came from it must not be used afterwards.
func (f *File) Close() error {
	if f.file == nil {
		return nil
	}
	file := f.file
	f.file, f.data, f.infos, f.byName = nil, nil, nil, nil
	return file.Close()
}

// Name returns the path that the file was opened with.
func (f *File) Name() string { return f.name }

// Info returns the description of the named tensor and whether there is one.
func (f *File) Info(name string) (Info, bool) {
	i, ok := f.byName[name]
	if !ok {
		return Info{}, false
	}
	return f.infos[i], true
}

// Metadata returns the header's own key–value pairs, nil if there are none. The caller must not change them.
func (f *File) Metadata() map[string]string { return f.metadata }

// Float32s returns the elements of an F32 tensor. Like all slices that a file returns, they lie in the mapped file
// and must not be written to, unless the file holds them at an address that the machine cannot read them from: those
// are read anew by every call.
func (f *File) Float32s(name string) ([]float32, error) { return elements[float32](f, name, "F32") }

// Uint16s returns the bit patterns of the elements of a BF16 or F16 tensor.
func (f *File) Uint16s(name string) ([]uint16, error) {
	return elements[uint16](f, name, "BF16", "F16")
}

// Int32s returns the elements of an I32 tensor.
func (f *File) Int32s(name string) ([]int32, error) { return elements[int32](f, name, "I32") }

// Int64s returns the elements of an I64 tensor.
func (f *File) Int64s(name string) ([]int64, error) { return elements[int64](f, name, "I64") }

func elements[T float32 | uint16 | int32 | int64](f *File, name string, dtypes ...string) ([]T, error) {
	info, ok := f.Info(name)
	if !ok {
		return nil, fmt.Errorf("%s: no tensor %q", f.name, name)
	}
	if !slices.Contains(dtypes, info.DType) {
		return nil, fmt.Errorf("%s: tensor %q has element type %q; want %s", f.name, name, info.DType, either(dtypes))
	}
	raw := f.data[info.from:info.to]
	var one T
	size := int(unsafe.Sizeof(one))
	if len(raw) == 0 {
		return []T{}, nil
	}
	first := unsafe.Pointer(unsafe.SliceData(raw))
	if littleEndian && uintptr(first)%unsafe.Alignof(one) == 0 {
		return unsafe.Slice((*T)(first), len(raw)/size), nil
	}
	out := make([]T, len(raw)/size)
	if littleEndian && f.file != nil {
		// Not from the mapping, whose pages would take memory beside out.
		if _, err := f.file.ReadAt(bytesOf(out), f.start+int64(info.from)); err != nil {
			return nil, fmt.Errorf("%s: tensor %q: %w", f.name, name, err)
		}
		return out, nil
	}
	if _, err := binary.Decode(raw, binary.LittleEndian, out); err != nil {
		return nil, fmt.Errorf("%s: tensor %q: %w", f.name, name, err)
	}
	return out, nil
}

var littleEndian = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

func either(names []string) string {
	s := names[0]
	for _, n := range names[1:] {
		s += " or " + n
	}
	return s
}

func (f *File) parse(data []byte) error {
	if len(data) < 8 {
		return fmt.Errorf("has %d bytes; want at least the 8 of the header's length", len(data))
	}
	n := binary.LittleEndian.Uint64(data)
	if n > maxHeader {
		return fmt.Errorf("header length is %d; want at most %d", n, maxHeader)
	}
	if n > uint64(len(data)-8) {
		return fmt.Errorf("header length is %d; the file has %d bytes after it", n, len(data)-8)
	}
	header := data[8 : 8+n]
	f.data, f.start = data[8+n:], int64(8+n)
	if len(header) == 0 || header[0] != '{' {
		return fmt.Errorf("header does not start with '{'")
	}

	dec := json.NewDecoder(bytes.NewReader(header))
	err := object(dec, func(name string) error {
		if name == "__metadata__" {
			f.metadata = make(map[string]string)
			return object(dec, func(key string) error {
				var value *string
				if err := dec.Decode(&value); err != nil || value == nil {
					return fmt.Errorf("the value of %q is not a string", key)
				}
				f.metadata[key] = *value
				return nil
			})
		}
		info, err := f.parseInfo(dec, name)
		f.infos = append(f.infos, info)
		return err
	})
	if err != nil {
		return fmt.Errorf("header: %w", err)
	}
	// The format allows spaces after the object, to align the data.
	if rest := header[dec.InputOffset():]; len(bytes.Trim(rest, " \t\r\n")) > 0 {
		return fmt.Errorf("header: %d bytes after its object", len(rest))
	}
	return f.order()
}

// object reads a JSON object, calls value at each of its keys to read the value there, and refuses a key that
// comes twice: readers differ on which one counts.
func object(dec *json.Decoder, value func(key string) error) error {
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return syntaxError(err, "want an object")
	}
	seen := make(map[string]bool)
	for dec.More() {
		t, err := dec.Token()
		key, ok := t.(string)
		if err != nil || !ok {
			return syntaxError(err, "want a name")
		}
		if seen[key] {
			return fmt.Errorf("%q appears twice", key)
		}
		seen[key] = true
		if err := value(key); err != nil {
			return fmt.Errorf("%q: %w", key, err)
		}
	}
	if _, err := dec.Token(); err != nil {
		return syntaxError(err, "")
	}
	return nil
}

// decode decodes a JSON value. The error does without the names of Go's types.
func decode(dec *json.Decoder, to any, want string) error {
	err := dec.Decode(to)
	if wrong := (*json.UnmarshalTypeError)(nil); errors.As(err, &wrong) {
		return fmt.Errorf("found %s; want %s", wrong.Value, want)
	}
	return err
}

func syntaxError(err error, want string) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	if err != nil {
		return err
	}
	return fmt.Errorf("%s", want)
}

func (f *File) parseInfo(dec *json.Decoder, name string) (Info, error) {
	info := Info{Name: name}
	var shape, offsets []uint64
	err := object(dec, func(key string) error {
		switch key {
		case "dtype":
			return decode(dec, &info.DType, "a string")
		case "shape":
			return decode(dec, &shape, "an array of whole numbers ≥ 0")
		case "data_offsets":
			return decode(dec, &offsets, "an array of two whole numbers ≥ 0")
		}
		return fmt.Errorf("unknown field; want dtype, shape and data_offsets")
	})
	if err != nil {
		return info, err
	}
	if info.DType == "" {
		return info, fmt.Errorf("dtype is missing")
	}
	if shape == nil {
		return info, fmt.Errorf("shape is missing")
	}
	if len(offsets) != 2 {
		return info, fmt.Errorf("data_offsets has %d numbers; want 2", len(offsets))
	}
	from, to := offsets[0], offsets[1]
	if from > to || to > uint64(len(f.data)) {
		return info, fmt.Errorf("data_offsets are [%d, %d]; want them ascending and at most %d, the bytes of data there are",
			from, to, len(f.data))
	}
	info.from, info.to = int(from), int(to)
	info.Shape = make([]int, len(shape))
	for i, n := range shape {
		if n > math.MaxInt {
			return info, fmt.Errorf("shape is %v; want sizes that an int can hold", shape)
		}
		info.Shape[i] = int(n)
	}
	size, known := elementBytes[info.DType]
	if !known {
		return info, nil // whoever asks for its elements will be told
	}
	want, ok := product(info.Shape, size)
	if !ok {
		return info, fmt.Errorf("shape %v of %q needs more bytes than an int can count", info.Shape, info.DType)
	}
	if want != info.to-info.from {
		return info, fmt.Errorf("shape %v of %q needs %d bytes; data_offsets span %d", info.Shape, info.DType, want, info.to-info.from)
	}
	return info, nil
}

// product returns size times the product of shape, and whether an int can hold it.
func product(shape []int, size int) (int, bool) {
	if slices.Contains(shape, 0) {
		return 0, true
	}
	n := size
	for _, s := range shape {
		if s < 0 || n > math.MaxInt/s {
			return 0, false
		}
		n *= s
	}
	return n, true
}

// order sorts tensors by their place, and refuses overlaps and gaps: what lies in a gap could be anything.
func (f *File) order() error {
	slices.SortStableFunc(f.infos, func(a, b Info) int {
		if a.from != b.from {
			return a.from - b.from
		}
		return a.to - b.to
	})
	end, before := 0, "the header"
	for i, t := range f.infos {
		f.byName[t.Name] = i
		if t.from < end {
			return fmt.Errorf("tensor %q starts at byte %d and overlaps %s, which ends at %d", t.Name, t.from, before, end)
		}
		if t.from > end {
			return fmt.Errorf("tensor %q starts at byte %d; %s ends at %d: want no gap", t.Name, t.from, before, end)
		}
		end, before = t.to, strconv.Quote(t.Name)
	}
	if end != len(f.data) {
		return fmt.Errorf("the last tensor ends at byte %d of %d; want all bytes to belong to one", end, len(f.data))
	}
	return nil
}
