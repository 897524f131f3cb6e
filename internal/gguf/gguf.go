// Package gguf reads and writes files of a model in the GGUF format, versions 2 and 3, little-endian: metadata, which are
// typed values by key; descriptions of tensors; and, aligned, the tensors' elements, in full precision or quantised.
//
// Files are mapped into memory and nothing in them is trusted: counts, lengths, types, shapes and offsets are checked
// before a value or a tensor can be asked for, so the rest of a program may rely on what it gets. What is read from a
// file takes memory in proportion to its header at most, whatever numbers stand there.
package gguf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/anchorattention/anchor/internal/matrix"
	"github.com/anchorattention/anchor/internal/mmap"
)

const (
	magic            = "GGUF"
	defaultAlignment = 32
	alignmentKey     = "general.alignment"

	maxAlignment = 1 << 20
	maxName      = 1<<16 - 1 // bytes of a key, by the format, or of a tensor's name
	maxKeys      = 1 << 16   // far more than there are in any model
	maxTensors   = 1 << 18
	maxDims      = 4 // by the format
	maxDepth     = 4 // of arrays in arrays
)

// typeIDs is the number of each element type in a file.
var typeIDs = map[matrix.Type]uint32{
	matrix.F32: 0, matrix.F16: 1, matrix.Q4_0: 2, matrix.Q8_0: 8, matrix.Q4_K: 12, matrix.Q5_K: 13, matrix.Q6_K: 14, matrix.BF16: 30,
}

// otherTypes are the names of element types that are not supported.
var otherTypes = map[uint32]string{
	3: "Q4_1", 4: "Q4_2", 5: "Q4_3", 6: "Q5_0", 7: "Q5_1", 9: "Q8_1", 10: "Q2_K", 11: "Q3_K", 15: "Q8_K", 16: "IQ2_XXS", 17: "IQ2_XS",
	18: "IQ3_XXS", 19: "IQ1_S", 20: "IQ4_NL", 21: "IQ3_S", 22: "IQ2_S", 23: "IQ4_XS", 24: "I8", 25: "I16", 26: "I32", 27: "I64", 28: "F64",
	29: "IQ1_M", 31: "Q4_0_4_4", 32: "Q4_0_4_8", 33: "Q4_0_8_8", 34: "TQ1_0", 35: "TQ2_0", 36: "IQ4_NL_4_4", 37: "IQ4_NL_4_8",
	38: "IQ4_NL_8_8", 39: "MXFP4", 40: "NVFP4", 41: "Q1_0",
}

// A File is an open GGUF file. Its methods are safe for concurrent use, but for Close.
type File struct {
	name     string
	metadata map[string]value
	tensors  []Tensor // in the order of their descriptions
	byName   map[string]int
	file     *mmap.File // nil if it was parsed from memory
}

// A Tensor is a tensor of a file.
type Tensor struct {
	Name  string
	Shape []int // the outermost first, [rows, cols] of a matrix: the reverse of the order in the file; none for a scalar
	Type  matrix.Type

	file string // its name
	data []byte
}

// Open maps a file into memory. The file must not be cut short while it is open: to touch what is gone ends the
// program, but where [mmap.Guard] holds. A model that is split over several files is an error.
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
	f := &File{name: name, metadata: make(map[string]value), byName: make(map[string]int)}
	if err := f.parse(&reader{data: data}); err != nil {
		return nil, fmt.Errorf("%s: %w", name, err)
	}
	return f, nil
}

// Close unmaps and closes the file. Tensors that came from it must not be used afterwards; values of metadata may be.
func (f *File) Close() error {
	file := f.file
	*f = File{name: f.name}
	if file == nil {
		return nil
	}
	return file.Close()
}

// Name returns the path that the file was opened with.
func (f *File) Name() string { return f.name }

// Tensors returns all tensors. The caller must not change them.
func (f *File) Tensors() []Tensor { return f.tensors }

// Tensor returns the named tensor and whether there is one.
func (f *File) Tensor(name string) (Tensor, bool) {
	i, ok := f.byName[name]
	if !ok {
		return Tensor{}, false
	}
	return f.tensors[i], true
}

// Bytes returns the elements as they lie in the file, row by row. They must not be written to.
func (t Tensor) Bytes() []byte { return t.data }

// Matrix views a tensor of one or two dimensions as a matrix; a vector is one of a single row. It is an error where the
// file holds the elements at an address that a machine cannot read them from, which no file that Open returned does.
func (t Tensor) Matrix() (*matrix.Matrix, error) {
	rows, cols := 1, 1
	switch len(t.Shape) {
	case 1:
		cols = t.Shape[0]
	case 2:
		rows, cols = t.Shape[0], t.Shape[1]
	default:
		return nil, fmt.Errorf("%s: tensor %q has shape %v; want one or two dimensions", t.file, t.Name, t.Shape)
	}
	m, err := matrix.New(t.Type, rows, cols, t.data)
	if err != nil {
		return nil, fmt.Errorf("%s: tensor %q: %w", t.file, t.Name, err)
	}
	return m, nil
}

// A reader goes through the bytes of a file.
type reader struct {
	data []byte
	at   int
}

func (r *reader) left() uint64 { return uint64(len(r.data) - r.at) }

// take returns the next n bytes.
func (r *reader) take(n uint64) ([]byte, error) {
	if n > r.left() {
		return nil, fmt.Errorf("the file ends: %d bytes are wanted at byte %d of %d", n, r.at, len(r.data))
	}
	b := r.data[r.at : r.at+int(n)]
	r.at += int(n)
	return b, nil
}

func (r *reader) uint32() (uint32, error) {
	b, err := r.take(4)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint32(b), nil
}

func (r *reader) uint64() (uint64, error) {
	b, err := r.take(8)
	if err != nil {
		return 0, err
	}
	return binary.LittleEndian.Uint64(b), nil
}

// string returns the bytes of a string.
func (r *reader) string() ([]byte, error) {
	n, err := r.uint64()
	if err != nil {
		return nil, err
	}
	return r.take(n)
}

// name reads a key or the name of a tensor.
func (r *reader) name() (string, error) {
	b, err := r.string()
	switch {
	case err != nil:
		return "", err
	case len(b) == 0 || len(b) > maxName:
		return "", fmt.Errorf("the name has %d bytes; want 1 … %d", len(b), maxName)
	}
	return string(b), nil
}

// count reads how many things of at least size bytes follow.
func (r *reader) count(what string, size, most uint64) (int, error) {
	n, err := r.uint64()
	if err != nil {
		return 0, err
	}
	if n > most {
		return 0, fmt.Errorf("the number of %s is %d; want at most %d", what, n, most)
	}
	if n > r.left()/size {
		return 0, fmt.Errorf("the number of %s is %d; the file has %d bytes left", what, n, r.left())
	}
	return int(n), nil
}

func (f *File) parse(r *reader) error {
	if n := min(len(magic), len(r.data)); n < len(magic) || string(r.data[:n]) != magic {
		return fmt.Errorf("the file starts with %q; want %q", r.data[:n], magic)
	}
	r.at = len(magic)
	version, err := r.uint32()
	switch {
	case err != nil:
		return fmt.Errorf("version: %w", err)
	case version>>16 != 0 && version&0xffff == 0:
		return errors.New("the file is big-endian; want little-endian")
	case version != 2 && version != 3:
		return fmt.Errorf("version is %d; want 2 or 3", version)
	}
	// The least description of a tensor is a name of a byte, no sizes, a type and an offset.
	tensors, err := r.uint64()
	if err != nil {
		return fmt.Errorf("number of tensors: %w", err)
	}
	keys, err := r.count("metadata", 8+1+4+1, maxKeys)
	if err != nil {
		return err
	}
	if least := uint64(8 + 1 + 4 + 4 + 8); tensors > maxTensors || tensors > r.left()/least {
		return fmt.Errorf("the number of tensors is %d; want at most %d, and the file has %d bytes left", tensors, maxTensors, r.left())
	}

	for i := range keys {
		key, err := r.name()
		if err != nil {
			return fmt.Errorf("metadata %d of %d: %w", i+1, keys, err)
		}
		if _, ok := f.metadata[key]; ok {
			return fmt.Errorf("metadata %q appears twice", key)
		}
		v, err := r.value()
		if err != nil {
			return fmt.Errorf("metadata %q: %w", key, err)
		}
		f.metadata[key] = v
	}
	alignment := uint64(defaultAlignment)
	if f.Has(alignmentKey) {
		if alignment, err = f.Uint(alignmentKey); err != nil || alignment < 8 || alignment > maxAlignment || alignment&(alignment-1) != 0 {
			return fmt.Errorf("metadata %q is %v; want a power of two, 8 … %d", alignmentKey, f.metadata[alignmentKey], maxAlignment)
		}
	}
	if v, ok := f.metadata["split.count"]; ok {
		if n, isCount := unsigned(v.kind, v.data); !isCount || n > 1 {
			return fmt.Errorf("metadata %q is %v: the model is split over several files; want it merged into one", "split.count", v)
		}
	}

	offsets := make([]uint64, tensors)
	for i := range offsets {
		t, offset, err := r.tensor(alignment)
		if err != nil {
			if t.Name == "" {
				return fmt.Errorf("tensor %d of %d: %w", i+1, tensors, err)
			}
			return fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		if _, ok := f.byName[t.Name]; ok {
			return fmt.Errorf("tensor %q appears twice", t.Name)
		}
		t.file = f.name
		f.byName[t.Name] = i
		f.tensors = append(f.tensors, t)
		offsets[i] = offset
	}
	start := min(len(r.data), int(padded(uint64(r.at), alignment)))
	return f.place(r.data[start:], offsets)
}

// padded returns the least multiple of alignment that is no less than n.
func padded(n, alignment uint64) uint64 { return (n + alignment - 1) &^ (alignment - 1) }

// tensor reads the description of a tensor, and its offset. Upon an error the name is returned if it was read.
func (r *reader) tensor(alignment uint64) (t Tensor, offset uint64, err error) {
	if t.Name, err = r.name(); err != nil {
		return t, 0, err
	}
	dims, err := r.uint32()
	if err != nil {
		return t, 0, fmt.Errorf("number of dimensions: %w", err)
	}
	if dims > maxDims {
		return t, 0, fmt.Errorf("the number of dimensions is %d; want at most %d", dims, maxDims)
	}
	t.Shape = make([]int, dims)
	for i := range t.Shape {
		n, err := r.uint64()
		if err != nil {
			return t, 0, fmt.Errorf("shape: %w", err)
		}
		if n < 1 || n > math.MaxInt {
			return t, 0, fmt.Errorf("dimension %d of its shape is %d; want 1 … %d", i, n, math.MaxInt)
		}
		t.Shape[int(dims)-1-i] = int(n)
	}
	id, err := r.uint32()
	if err != nil {
		return t, 0, fmt.Errorf("type: %w", err)
	}
	for typ, known := range typeIDs {
		if id == known {
			t.Type = typ
		}
	}
	if t.Type == 0 {
		name, ok := otherTypes[id]
		if !ok {
			name = fmt.Sprintf("number %d, which is unknown", id)
		}
		return t, 0, fmt.Errorf("its type is %s; want %s", name, supported())
	}
	if offset, err = r.uint64(); err != nil {
		return t, 0, fmt.Errorf("offset: %w", err)
	}
	if offset%alignment != 0 {
		return t, 0, fmt.Errorf("its offset is %d; want a multiple of %d, the alignment", offset, alignment)
	}
	_, err = size(t.Type, t.Shape)
	return t, offset, err
}

// supported lists the types that are.
func supported() string {
	var names []string
	for t := matrix.F32; t <= matrix.Q6_K; t++ {
		names = append(names, t.String())
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}

// size returns how many bytes a tensor takes.
func size(t matrix.Type, shape []int) (int, error) {
	elements, bytes := t.Block()
	cols := 1
	if len(shape) > 0 {
		cols = shape[len(shape)-1]
	}
	if cols%elements != 0 {
		return 0, fmt.Errorf("its shape is %v; want rows of a multiple of %d elements, a block of %v", shape, elements, t)
	}
	n := bytes
	for i, s := range shape {
		if i == len(shape)-1 {
			s /= elements
		}
		if n > math.MaxInt/s {
			return 0, fmt.Errorf("its shape %v of %v takes more bytes than an int can count", shape, t)
		}
		n *= s
	}
	return n, nil
}

// place finds the tensors' elements in the data that they have their offsets in, and refuses overlaps.
func (f *File) place(data []byte, offsets []uint64) error {
	order := make([]int, len(offsets))
	for i := range order {
		t := &f.tensors[i]
		n, _ := size(t.Type, t.Shape)
		if at := offsets[i]; at > uint64(len(data)) || uint64(n) > uint64(len(data))-at {
			return fmt.Errorf("tensor %q: its %d bytes lie at offset %d; the file has %d bytes for tensors", t.Name, n, at, len(data))
		}
		t.data = data[offsets[i]:][:n:n]
		order[i] = i
	}
	slices.SortStableFunc(order, func(a, b int) int { return int(offsets[a]) - int(offsets[b]) })
	for i := 1; i < len(order); i++ {
		before, t := &f.tensors[order[i-1]], &f.tensors[order[i]]
		if end := offsets[order[i-1]] + uint64(len(before.data)); offsets[order[i]] < end {
			return fmt.Errorf("tensor %q: its offset is %d; it overlaps tensor %q, which ends at %d", t.Name, offsets[order[i]], before.Name, end)
		}
	}
	return nil
}

// A kind is the type of a metadata value, as files number them.
type kind uint32

const (
	uint8Kind kind = iota
	int8Kind
	uint16Kind
	int16Kind
	uint32Kind
	int32Kind
	float32Kind
	boolKind
	stringKind
	arrayKind
	uint64Kind
	int64Kind
	float64Kind
)

var kinds = [...]struct {
	name string
	size uint64 // 0 if values differ in it
}{
	{"uint8", 1}, {"int8", 1}, {"uint16", 2}, {"int16", 2}, {"uint32", 4}, {"int32", 4}, {"float32", 4}, {"bool", 1}, {"string", 0},
	{"array", 0}, {"uint64", 8}, {"int64", 8}, {"float64", 8},
}

// A value is a metadata value, as it lies in the file.
type value struct {
	kind  kind
	of    kind   // of an array's elements
	count int    // of an array's elements
	data  []byte // of a string, without its length, and of an array, all elements
}

// String describes a value in a few words.
func (v value) String() string {
	switch v.kind {
	case boolKind:
		return strconv.FormatBool(v.data[0] == 1)
	case stringKind:
		return fmt.Sprintf("%.60q", v.data)
	case arrayKind:
		return fmt.Sprintf("an array of %d × %s", v.count, kinds[v.of].name)
	}
	if x, ok := floating(v.kind, v.data); ok {
		return strconv.FormatFloat(x, 'g', -1, 64)
	}
	if x, ok := signed(v.kind, v.data); ok {
		return strconv.FormatInt(x, 10)
	}
	x, _ := unsigned(v.kind, v.data)
	return strconv.FormatUint(x, 10)
}

func (r *reader) kind() (kind, error) {
	k, err := r.uint32()
	if err != nil {
		return 0, fmt.Errorf("type: %w", err)
	}
	if int(k) >= len(kinds) {
		return 0, fmt.Errorf("its type is number %d; want 0 … %d", k, len(kinds)-1)
	}
	return kind(k), nil
}

// value reads a metadata value with its type.
func (r *reader) value() (v value, err error) {
	if v.kind, err = r.kind(); err != nil {
		return v, err
	}
	switch v.kind {
	case stringKind:
		v.data, err = r.string()
	case arrayKind:
		v.of, v.count, v.data, err = r.array(1)
	default:
		if v.data, err = r.take(kinds[v.kind].size); err == nil && v.kind == boolKind {
			err = checkBools(v.data)
		}
	}
	return v, err
}

// array goes over an array and returns its elements' kind, number and bytes.
func (r *reader) array(depth int) (of kind, count int, data []byte, err error) {
	if depth > maxDepth {
		return 0, 0, nil, fmt.Errorf("arrays lie in arrays more than %d deep", maxDepth)
	}
	if of, err = r.kind(); err != nil {
		return 0, 0, nil, err
	}
	least := kinds[of].size
	switch of {
	case stringKind:
		least = 8
	case arrayKind:
		least = 4 + 8
	}
	if count, err = r.count("elements", least, math.MaxInt); err != nil {
		return 0, 0, nil, err
	}
	start := r.at
	switch of {
	case stringKind:
		for i := range count {
			if _, err := r.string(); err != nil {
				return 0, 0, nil, fmt.Errorf("element %d: %w", i, err)
			}
		}
	case arrayKind:
		for i := range count {
			if _, _, _, err := r.array(depth + 1); err != nil {
				return 0, 0, nil, fmt.Errorf("element %d: %w", i, err)
			}
		}
	default:
		r.at += count * int(least)
	}
	data = r.data[start:r.at]
	if of == boolKind {
		err = checkBools(data)
	}
	return of, count, data, err
}

func checkBools(data []byte) error {
	for _, b := range data {
		if b > 1 {
			return fmt.Errorf("a bool is %d; want 0 or 1", b)
		}
	}
	return nil
}

// signed returns an integer and whether it is one that an int64 holds.
func signed(k kind, b []byte) (int64, bool) {
	switch k {
	case uint8Kind:
		return int64(b[0]), true
	case int8Kind:
		return int64(int8(b[0])), true
	case uint16Kind:
		return int64(binary.LittleEndian.Uint16(b)), true
	case int16Kind:
		return int64(int16(binary.LittleEndian.Uint16(b))), true
	case uint32Kind:
		return int64(binary.LittleEndian.Uint32(b)), true
	case int32Kind:
		return int64(int32(binary.LittleEndian.Uint32(b))), true
	case uint64Kind:
		x := binary.LittleEndian.Uint64(b)
		return int64(x), x <= math.MaxInt64
	case int64Kind:
		return int64(binary.LittleEndian.Uint64(b)), true
	}
	return 0, false
}

// unsigned returns an integer and whether it is one that is not negative.
func unsigned(k kind, b []byte) (uint64, bool) {
	if k == uint64Kind {
		return binary.LittleEndian.Uint64(b), true
	}
	x, ok := signed(k, b)
	return uint64(x), ok && x >= 0
}

// floating returns a floating-point number and whether it is one.
func floating(k kind, b []byte) (float64, bool) {
	switch k {
	case float32Kind:
		return float64(math.Float32frombits(binary.LittleEndian.Uint32(b))), true
	case float64Kind:
		return math.Float64frombits(binary.LittleEndian.Uint64(b)), true
	}
	return 0, false
}

// Has tells whether there are metadata of this key.
func (f *File) Has(key string) bool {
	_, ok := f.metadata[key]
	return ok
}

func (f *File) value(key string) (value, error) {
	v, ok := f.metadata[key]
	if !ok {
		return v, fmt.Errorf("%s: no metadata %q", f.name, key)
	}
	return v, nil
}

func (f *File) wrong(key string, v value, want string) error {
	return fmt.Errorf("%s: metadata %q is %v; want %s", f.name, key, v, want)
}

// scalar returns a value that one converts.
func scalar[T any](f *File, key, want string, one func(kind, []byte) (T, bool)) (T, error) {
	v, err := f.value(key)
	if err != nil {
		return *new(T), err
	}
	x, ok := one(v.kind, v.data)
	if !ok {
		return x, f.wrong(key, v, want)
	}
	return x, nil
}

// list returns the elements of an array, each of which one converts.
func list[T any](f *File, key, want string, one func(kind, []byte) (T, bool)) ([]T, error) {
	v, err := f.value(key)
	if err != nil {
		return nil, err
	}
	if v.kind != arrayKind || kinds[v.of].size == 0 {
		return nil, f.wrong(key, v, "an array of "+want)
	}
	out, size := make([]T, v.count), int(kinds[v.of].size)
	for i := range out {
		var ok bool
		if out[i], ok = one(v.of, v.data[i*size:][:size]); !ok {
			return nil, f.wrong(key, v, "an array of "+want)
		}
	}
	return out, nil
}

// Uint returns an integer of any type that is not negative.
func (f *File) Uint(key string) (uint64, error) {
	return scalar(f, key, "an integer ≥ 0", unsigned)
}

// Float returns a floating-point number of either type.
func (f *File) Float(key string) (float64, error) {
	return scalar(f, key, "a floating-point number", floating)
}

// Bool returns a truth value.
func (f *File) Bool(key string) (bool, error) {
	return scalar(f, key, "true or false", func(k kind, b []byte) (bool, bool) {
		return k == boolKind && b[0] == 1, k == boolKind
	})
}

// String returns a string. Whether it is UTF-8 was not checked.
func (f *File) String(key string) (string, error) {
	return scalar(f, key, "a string", func(k kind, b []byte) (string, bool) {
		if k != stringKind {
			return "", false
		}
		return string(b), true
	})
}

// Ints returns an array of integers of any type.
func (f *File) Ints(key string) ([]int64, error) {
	return list(f, key, "integers < 2⁶³", signed)
}

// Floats returns an array of floating-point numbers of either type.
func (f *File) Floats(key string) ([]float64, error) {
	return list(f, key, "floating-point numbers", floating)
}

// Bools returns an array of truth values.
func (f *File) Bools(key string) ([]bool, error) {
	return list(f, key, "truth values", func(k kind, b []byte) (bool, bool) { return k == boolKind && b[0] == 1, k == boolKind })
}

// Strings returns an array of strings. Whether they are UTF-8 was not checked.
func (f *File) Strings(key string) ([]string, error) {
	v, err := f.value(key)
	if err != nil {
		return nil, err
	}
	if v.kind != arrayKind || v.of != stringKind {
		return nil, f.wrong(key, v, "an array of strings")
	}
	out, all := make([]string, v.count), string(v.data) // one copy, which the strings share
	for i := range out {
		n := binary.LittleEndian.Uint64(v.data[len(v.data)-len(all):])
		out[i], all = all[8:8+n], all[8+n:]
	}
	return out, nil
}
