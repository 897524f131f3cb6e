package safetensors

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"unsafe"

	"github.com/anchorattention/anchor/internal/atomicfile"
)

// A Tensor is a tensor to be written.
type Tensor struct {
	Name  string
	DType string // F32, BF16, F16, I32 or I64
	Shape []int
	Data  any // []float32, []uint16 (the bits of BF16 and F16), []int32 or []int64
}

// WriteFile writes tensors, in the order given, to a file that replaces path once it is complete. Upon an error
// nothing is left behind and a file at path stays as it was; the end of the context is one.
func WriteFile(ctx context.Context, path string, metadata map[string]string, tensors ...Tensor) error {
	header, err := header(metadata, tensors)
	if err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return atomicfile.Write(ctx, path, func(w io.Writer) error {
		if err := write(w, header, tensors); err != nil {
			return fmt.Errorf("cannot write %s: %w", path, err)
		}
		return nil
	})
}

func write(w io.Writer, header []byte, tensors []Tensor) error {
	if _, err := w.Write(header); err != nil {
		return err
	}
	for _, t := range tensors {
		var err error
		if !littleEndian {
			err = binary.Write(w, binary.LittleEndian, t.Data)
		} else {
			switch data := t.Data.(type) {
			case []float32:
				_, err = w.Write(bytesOf(data))
			case []uint16:
				_, err = w.Write(bytesOf(data))
			case []int32:
				_, err = w.Write(bytesOf(data))
			case []int64:
				_, err = w.Write(bytesOf(data))
			}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// bytesOf views numbers as bytes.
func bytesOf[T any](data []T) []byte {
	if len(data) == 0 {
		return nil
	}
	return unsafe.Slice((*byte)(unsafe.Pointer(&data[0])), len(data)*int(unsafe.Sizeof(data[0])))
}

// header checks the tensors and returns the first part of a file, its length included.
func header(metadata map[string]string, tensors []Tensor) ([]byte, error) {
	// The object is put together by hand to keep tensors in the order given.
	buf := append(make([]byte, 8, 256), '{')
	field := func(key string, value any) error {
		if len(buf) > 9 {
			buf = append(buf, ',')
		}
		k, err := json.Marshal(key)
		if err != nil {
			return err
		}
		v, err := json.Marshal(value)
		if err != nil {
			return err
		}
		buf = append(append(append(buf, k...), ':'), v...)
		return nil
	}
	if len(metadata) > 0 {
		if err := field("__metadata__", metadata); err != nil {
			return nil, err
		}
	}
	seen := map[string]bool{"__metadata__": true}
	at := 0
	for _, t := range tensors {
		if seen[t.Name] {
			return nil, fmt.Errorf("tensor %q: the name is taken", t.Name)
		}
		seen[t.Name] = true
		bytes, err := t.bytes()
		if err != nil {
			return nil, fmt.Errorf("tensor %q: %w", t.Name, err)
		}
		shape := t.Shape
		if shape == nil {
			shape = []int{}
		}
		err = field(t.Name, struct {
			DType   string `json:"dtype"`
			Shape   []int  `json:"shape"`
			Offsets [2]int `json:"data_offsets"`
		}{t.DType, shape, [2]int{at, at + bytes}})
		if err != nil {
			return nil, err
		}
		at += bytes
	}
	buf = append(buf, '}')
	for len(buf)%8 != 0 {
		buf = append(buf, ' ')
	}
	if len(buf)-8 > maxHeader {
		return nil, fmt.Errorf("the header takes %d bytes; want at most %d", len(buf)-8, maxHeader)
	}
	binary.LittleEndian.PutUint64(buf, uint64(len(buf)-8))
	return buf, nil
}

// bytes returns the size of the tensor's data after checking it.
func (t Tensor) bytes() (int, error) {
	var n int
	var fits bool
	switch data := t.Data.(type) {
	case []float32:
		n, fits = len(data), t.DType == "F32"
	case []uint16:
		n, fits = len(data), t.DType == "BF16" || t.DType == "F16"
	case []int32:
		n, fits = len(data), t.DType == "I32"
	case []int64:
		n, fits = len(data), t.DType == "I64"
	}
	if !fits {
		return 0, fmt.Errorf("element type %s of %T; want F32 of []float32, BF16 or F16 of []uint16, I32 of []int32, I64 of []int64", t.DType, t.Data)
	}
	size := elementBytes[t.DType]
	want, ok := product(t.Shape, size)
	if !ok || want != n*size {
		return 0, fmt.Errorf("shape %v; want a shape of %d elements, as many as there are", t.Shape, n)
	}
	return want, nil
}
