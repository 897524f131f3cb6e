package gguf

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"reflect"

	"github.com/anchorattention/anchor/internal/atomicfile"
	"github.com/anchorattention/anchor/internal/matrix"
)

// A KeyValue is metadata to be written. The value is a bool, a string, a number of a sized type (such as uint32 or
// float32) or a slice of one of these or of slices.
type KeyValue struct {
	Key   string
	Value any
}

// A Source is a tensor to be written.
type Source struct {
	Name  string
	Shape []int // the outermost first
	Type  matrix.Type
	Write func(w io.Writer) error // writes the elements, row by row
}

// WriteFile writes metadata and tensors, in the order given, to a file of version 3 that replaces path once it is
// complete. Tensors are asked for their elements one after the other. Upon an error nothing is left behind and a file
// at path stays as it was; the end of the context is one.
func WriteFile(ctx context.Context, path string, metadata []KeyValue, tensors ...Source) error {
	header, alignment, err := header(metadata, tensors)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return atomicfile.Write(ctx, path, func(w io.Writer) error {
		if err := write(w, header, alignment, tensors); err != nil {
			return fmt.Errorf("cannot write %s: %w", path, err)
		}
		return nil
	})
}

// A counter counts what is written to w.
type counter struct {
	w io.Writer
	n uint64
}

func (c *counter) Write(p []byte) (int, error) {
	n, err := c.w.Write(p)
	c.n += uint64(n)
	return n, err
}

func write(w io.Writer, header []byte, alignment uint64, tensors []Source) error {
	if _, err := w.Write(header); err != nil {
		return err
	}
	for _, t := range tensors {
		c := counter{w: w}
		if err := t.Write(&c); err != nil {
			return fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		if want, _ := size(t.Type, t.Shape); c.n != uint64(want) {
			return fmt.Errorf("tensor %q: %d bytes were written for shape %v of %v; want %d", t.Name, c.n, t.Shape, t.Type, want)
		}
		if _, err := w.Write(make([]byte, padded(c.n, alignment)-c.n)); err != nil {
			return err
		}
	}
	return nil
}

// header checks what is to be written and returns all that comes before the first tensor's elements, and the alignment.
func header(metadata []KeyValue, tensors []Source) ([]byte, uint64, error) {
	b := append([]byte(magic), 3, 0, 0, 0)
	b = binary.LittleEndian.AppendUint64(b, uint64(len(tensors)))
	b = binary.LittleEndian.AppendUint64(b, uint64(len(metadata)))
	alignment := uint64(defaultAlignment)
	seen := make(map[string]bool)
	for _, m := range metadata {
		if err := checkName(seen, m.Key); err != nil {
			return nil, 0, fmt.Errorf("metadata %q: %w", m.Key, err)
		}
		var err error
		if b, err = appendValue(appendString(b, m.Key), reflect.ValueOf(m.Value), true); err != nil {
			return nil, 0, fmt.Errorf("metadata %q: its value is a %T, of which %w", m.Key, m.Value, err)
		}
		if m.Key == alignmentKey {
			n, ok := m.Value.(uint32)
			if alignment = uint64(n); !ok || n < 8 || n > maxAlignment || n&(n-1) != 0 {
				return nil, 0, fmt.Errorf("metadata %q is %v; want a uint32 that is a power of two, 8 … %d", m.Key, m.Value, maxAlignment)
			}
		}
	}
	clear(seen)
	at := uint64(0)
	for _, t := range tensors {
		n, err := t.check(seen)
		if err != nil {
			return nil, 0, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		b = appendString(b, t.Name)
		b = binary.LittleEndian.AppendUint32(b, uint32(len(t.Shape)))
		for i := range t.Shape {
			b = binary.LittleEndian.AppendUint64(b, uint64(t.Shape[len(t.Shape)-1-i]))
		}
		b = binary.LittleEndian.AppendUint32(b, typeIDs[t.Type])
		b = binary.LittleEndian.AppendUint64(b, at)
		at += padded(n, alignment)
	}
	return append(b, make([]byte, padded(uint64(len(b)), alignment)-uint64(len(b)))...), alignment, nil
}

func checkName(seen map[string]bool, name string) error {
	if len(name) == 0 || len(name) > maxName {
		return fmt.Errorf("the name has %d bytes; want 1 … %d", len(name), maxName)
	}
	if seen[name] {
		return fmt.Errorf("the name is taken")
	}
	seen[name] = true
	return nil
}

// check returns the size of the tensor's elements after checking its description.
func (t *Source) check(seen map[string]bool) (uint64, error) {
	if err := checkName(seen, t.Name); err != nil {
		return 0, err
	}
	if _, ok := typeIDs[t.Type]; !ok {
		return 0, fmt.Errorf("its type is %v; want %s", t.Type, supported())
	}
	if len(t.Shape) > maxDims {
		return 0, fmt.Errorf("its shape is %v; want at most %d dimensions", t.Shape, maxDims)
	}
	for _, n := range t.Shape {
		if n < 1 {
			return 0, fmt.Errorf("its shape is %v; want sizes ≥ 1", t.Shape)
		}
	}
	n, err := size(t.Type, t.Shape)
	return uint64(n), err
}

func appendString(b []byte, s string) []byte {
	return append(binary.LittleEndian.AppendUint64(b, uint64(len(s))), s...)
}

var kindOf = map[reflect.Kind]kind{
	reflect.Uint8: uint8Kind, reflect.Int8: int8Kind, reflect.Uint16: uint16Kind, reflect.Int16: int16Kind, reflect.Uint32: uint32Kind,
	reflect.Int32: int32Kind, reflect.Float32: float32Kind, reflect.Bool: boolKind, reflect.String: stringKind, reflect.Slice: arrayKind,
	reflect.Uint64: uint64Kind, reflect.Int64: int64Kind, reflect.Float64: float64Kind,
}

// appendValue appends a value, with its type if tagged.
func appendValue(b []byte, v reflect.Value, tagged bool) ([]byte, error) {
	if tagged {
		k, ok := kindOf[v.Kind()]
		if !ok {
			return nil, fmt.Errorf("there is no type in the format")
		}
		b = binary.LittleEndian.AppendUint32(b, uint32(k))
	}
	switch v.Kind() {
	case reflect.String:
		return appendString(b, v.String()), nil
	case reflect.Slice:
		of, ok := kindOf[v.Type().Elem().Kind()]
		if !ok {
			return nil, fmt.Errorf("there is no type in the format")
		}
		b = binary.LittleEndian.AppendUint32(b, uint32(of))
		b = binary.LittleEndian.AppendUint64(b, uint64(v.Len()))
		if kinds[of].size > 0 {
			return binary.Append(b, binary.LittleEndian, v.Interface())
		}
		for i := range v.Len() {
			var err error
			if b, err = appendValue(b, v.Index(i), false); err != nil {
				return nil, err
			}
		}
		return b, nil
	}
	return binary.Append(b, binary.LittleEndian, v.Interface())
}
