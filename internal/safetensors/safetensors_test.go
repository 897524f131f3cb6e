package safetensors

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// file puts a file together from a header and a number of data bytes.
func file(header string, data int) []byte {
	out := binary.LittleEndian.AppendUint64(nil, uint64(len(header)))
	out = append(out, header...)
	for i := range data {
		out = append(out, byte(i))
	}
	return out
}

// What is written is read back, through a mapped file and through memory.
func TestRoundTrip(t *testing.T) {
	tensors := []Tensor{
		{"weights", "F32", []int{2, 3}, []float32{1, -2, 3.5, float32(math.Inf(1)), 0, 1e-40}},
		{"half", "F16", []int{3}, []uint16{1, 2, 65535}}, // leaves what follows misaligned
		{"brain", "BF16", []int{1, 1, 2}, []uint16{0x3f80, 7}},
		{"offsets", "I64", []int{2}, []int64{-1, 1 << 40}},
		{"indices", "I32", []int{2}, []int32{-5, 5}},
		{"none", "F32", []int{0, 7}, []float32{}},
		{"scalar", "F32", nil, []float32{42}},
	}
	metadata := map[string]string{"format": "pt", "\"quoted\"": "ü"}
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := WriteFile(t.Context(), path, metadata, tensors...); err != nil {
		t.Fatal(err)
	}
	mapped, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer mapped.Close()
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	inMemory, err := Parse("memory", data)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range []*File{mapped, inMemory} {
		if diff := cmp.Diff(metadata, f.Metadata()); diff != "" {
			t.Errorf("%s: metadata: %s", f.Name(), diff)
		}
		var names []string
		for _, i := range f.infos {
			names = append(names, i.Name)
		}
		if got, want := strings.Join(names, " "), "weights half brain offsets indices none scalar"; got != want {
			t.Errorf("%s: tensors %s, want %s", f.Name(), got, want)
		}
		for _, want := range tensors {
			info, ok := f.Info(want.Name)
			if !ok || info.DType != want.DType || fmt.Sprint(info.Shape) != fmt.Sprint(want.Shape) {
				t.Errorf("%s: %s is %+v, %v", f.Name(), want.Name, info, ok)
			}
			var got any
			switch want.Data.(type) {
			case []float32:
				got, err = f.Float32s(want.Name)
			case []uint16:
				got, err = f.Uint16s(want.Name)
			case []int32:
				got, err = f.Int32s(want.Name)
			case []int64:
				got, err = f.Int64s(want.Name)
			}
			if err != nil {
				t.Errorf("%s: %v", f.Name(), err)
			}
			if diff := cmp.Diff(want.Data, got); diff != "" {
				t.Errorf("%s: %s: %s", f.Name(), want.Name, diff)
			}
		}
	}
}

// Aligned elements are views of the file, not copies, where the machine's order is the file's.
func TestNoCopy(t *testing.T) {
	if !littleEndian {
		t.Skip("this machine is big-endian")
	}
	f, err := Parse("memory", file(`{"a":{"dtype":"F32","shape":[65536],"data_offsets":[0,262144]}} `, 1<<18))
	if err != nil {
		t.Fatal(err)
	}
	allocated := testing.AllocsPerRun(10, func() {
		if _, err := f.Float32s("a"); err != nil {
			t.Error(err)
		}
	})
	if allocated > 1 {
		t.Errorf("%v allocations", allocated)
	}
	a, _ := f.Float32s("a")
	a[0] = 1
	if again, _ := f.Float32s("a"); again[0] != 1 {
		t.Error("two calls returned different memory")
	}
}

// Asking for what is not there, or as what it is not, is an error that names it.
func TestWrongAsk(t *testing.T) {
	f, err := Parse("the file", file(`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"b":{"dtype":"F4","shape":[9],"data_offsets":[4,6]}}`, 6))
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		name string
		want []string
	}{
		{"c", []string{"the file", `"c"`}},
		{"a", []string{"the file", `"a"`, "F32", "BF16 or F16"}},
		{"b", []string{"the file", `"b"`, `"F4"`, "BF16 or F16"}},
	} {
		_, err := f.Uint16s(c.name)
		mentions(t, err, c.want...)
	}
}

func mentions(t *testing.T, err error, words ...string) {
	t.Helper()
	if err == nil {
		t.Errorf("no error; want one that mentions %q", words)
		return
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("error %q does not mention %q", err, w)
		}
	}
}

// malformed maps headers over 8 bytes of data to words of the error they cause.
var malformed = map[string][]string{
	``:                                   {"'{'"},
	`[]`:                                 {"'{'"},
	` {}`:                                {"'{'"},
	`{`:                                  {"unexpected EOF"},
	`{}`:                                 {"ends at byte 0 of 8"},
	`{}{}`:                               {"after its object"},
	`{"a":1}`:                            {`"a"`, "object"},
	`{"__metadata__":[]}`:                {"__metadata__"},
	`{"__metadata__":{"k":1}}`:           {"__metadata__", `"k"`, "string"},
	`{"__metadata__":{"k":"1","k":"2"}}`: {`"k"`, "twice"},
	`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"a":{}}`:                                                {`"a"`, "twice"},
	`{"a":{"dtype":"F32","shape":[2],"shape":[2],"data_offsets":[0,8]}}`:                                           {`"a"`, `"shape"`, "twice"},
	`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8],"x":0}}`:                                                 {`"a"`, `"x"`, "unknown"},
	`{"a":{"dtype":1,"shape":[2],"data_offsets":[0,8]}}`:                                                           {`"a"`, "dtype", "number; want a string"},
	`{"a\nb":{"dtype":"F\u001b","shape":[1],"data_offsets":[4,8]}}`:                                                {`"a\nb"`, "gap"},
	`{"a\nb":{"dtype":"U8","shape":[4],"data_offsets":[0,4]},"b":{"dtype":"U8","shape":[1],"data_offsets":[5,6]}}`: {`"a\nb" ends`, "gap"},
	`{"a":{"shape":[2],"data_offsets":[0,8]}}`:                                                                     {`"a"`, "dtype"},
	`{"a":{"dtype":"F32","data_offsets":[0,8]}}`:                                                                   {`"a"`, "shape"},
	`{"a":{"dtype":"F32","shape":[2]}}`:                                                                            {`"a"`, "data_offsets"},
	`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8,8]}}`:                                                     {`"a"`, "data_offsets", "3"},
	`{"a":{"dtype":"F32","shape":[2],"data_offsets":[8,0]}}`:                                                       {`"a"`, "[8, 0]"},
	`{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]}}`:                                                      {`"a"`, "[0, 12]", "at most 8"},
	`{"a":{"dtype":"F32","shape":[2],"data_offsets":[-8,0]}}`:                                                      {`"a"`, "data_offsets"},
	`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,18446744073709551616]}}`:                                    {`"a"`, "data_offsets"},
	`{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,8]}}`:                                                       {`"a"`, "[3]", "12", "8"},
	`{"a":{"dtype":"F32","shape":[-2],"data_offsets":[0,8]}}`:                                                      {`"a"`, "shape", "number -2; want an array of whole numbers ≥ 0"},
	`{"a":{"dtype":"F32","shape":[1.5],"data_offsets":[0,8]}}`:                                                     {`"a"`, "shape"},
	`{"a":{"dtype":"F32","shape":[4611686018427387905,4],"data_offsets":[0,8]}}`:                                   {`"a"`, "int"},
	`{"a":{"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,8]}}`:                                    {`"a"`, "int"},
	`{"a":{"dtype":"F32","shape":[4611686018427387904,4,0],"data_offsets":[0,8]}}`:                                 {`"a"`, "0 bytes"},
	`{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}`:                                                       {"byte 4 of 8"},
	`{"a":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}}`:                                                       {`"a"`, "gap"},
	`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}}`:   {`"a"`, `"b"`, "overlaps"},
}

// A file whose parts contradict one another is refused with an error that names file, tensor and field.
func TestMalformed(t *testing.T) {
	for header, want := range malformed {
		t.Run(header, func(t *testing.T) {
			_, err := Parse("the file", file(header, 8))
			mentions(t, err, append(want, "the file")...)
			if err != nil && strings.ContainsAny(err.Error(), "\n\x1b") {
				t.Errorf("error %q has control characters", err)
			}
			if err != nil && strings.Contains(err.Error(), "Go ") {
				t.Errorf("error %q speaks of Go's types", err)
			}
		})
	}
	good := file(`{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}  `, 8)
	if _, err := Parse("good", good); err != nil {
		t.Error(err)
	}
	for n := range good {
		if _, err := Parse("cut", good[:n]); err == nil {
			t.Errorf("no error for the first %d of %d bytes", n, len(good))
		}
	}
	if _, err := Parse("long", append(good, 0)); err == nil {
		t.Error("no error for a byte too many")
	}
	huge := file("{}", 0)
	binary.LittleEndian.PutUint64(huge, math.MaxUint64)
	_, err := Parse("huge", huge)
	mentions(t, err, "huge", "18446744073709551615")
}

// Whatever the length of the header, and so the alignment, a mapped file has the values that are in it.
func TestMisaligned(t *testing.T) {
	for spaces := range 8 {
		data := file(`{"a":{"dtype":"F32","shape":[3],"data_offsets":[0,12]},"b":{"dtype":"BF16","shape":[2],"data_offsets":[12,16]},`+
			`"c":{"dtype":"I64","shape":[1],"data_offsets":[16,24]},"d":{"dtype":"I32","shape":[1],"data_offsets":[24,28]}}`+
			strings.Repeat(" ", spaces), 28)
		path := filepath.Join(t.TempDir(), "x.safetensors")
		if err := os.WriteFile(path, data, 0o666); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		a, err := f.Float32s("a")
		b, err2 := f.Uint16s("b")
		c, err3 := f.Int64s("c")
		d, err4 := f.Int32s("d")
		if err := errors.Join(err, err2, err3, err4); err != nil {
			t.Errorf("%d spaces: %v", spaces, err)
		}
		got := fmt.Sprint(math.Float32bits(a[0]), math.Float32bits(a[2]), b, c, d)
		if want := fmt.Sprint(0x03020100, 0x0b0a0908, []int{0x0d0c, 0x0f0e}, []int{0x1716151413121110}, []int{0x1b1a1918}); got != want {
			t.Errorf("%d spaces: got %s, want %s", spaces, got, want)
		}
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	}
}

// A countdown is a context that is cancelled when it has been asked for its error so many times.
type countdown struct {
	context.Context
	left int
}

func (c *countdown) Err() error {
	if c.left--; c.left < 0 {
		return context.Canceled
	}
	return nil
}

// Whenever the context ends, be it in the middle of a tensor, nothing is left behind and the old file stays.
func TestWriteCanceled(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	if err := os.WriteFile(path, []byte("old"), 0o666); err != nil {
		t.Fatal(err)
	}
	const n = 5 << 19 // 10 MiB, more than are written at once
	times := 0
	for ; ; times++ {
		ctx := &countdown{t.Context(), times}
		err := WriteFile(ctx, path, nil, Tensor{"a", "F32", []int{n}, make([]float32, n)})
		if err == nil {
			break
		}
		if !errors.Is(err, context.Canceled) {
			t.Fatal(err)
		}
		if old, _ := os.ReadFile(path); string(old) != "old" {
			t.Fatalf("cancelled at check %d, the file holds %d bytes", times, len(old))
		}
		if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) != 1 {
			t.Fatalf("left behind: %v", entries)
		}
	}
	if times < 4 {
		t.Errorf("the context was asked %d times; want it asked for every 4 MiB", times)
	}
}

func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	empty := filepath.Join(dir, "empty")
	os.WriteFile(empty, nil, 0o666)
	for _, path := range []string{dir, filepath.Join(dir, "absent"), empty} {
		_, err := Open(path)
		mentions(t, err, path)
	}
}

// A tensor that contradicts itself is refused before anything is written.
func TestWriteErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.safetensors")
	good := Tensor{"a", "F32", []int{1}, []float32{1}}
	for _, c := range []struct {
		tensors []Tensor
		want    []string
	}{
		{[]Tensor{good, good}, []string{`"a"`, "taken"}},
		{[]Tensor{{"__metadata__", "F32", []int{1}, []float32{1}}}, []string{"taken"}},
		{[]Tensor{{"b", "F32", []int{2}, []float32{1}}}, []string{`"b"`, "[2]"}},
		{[]Tensor{{"b", "F32", []int{-1}, []float32{1}}}, []string{`"b"`, "[-1]"}},
		{[]Tensor{{"b", "I32", []int{1}, []float32{1}}}, []string{`"b"`, "I32", "float32"}},
		{[]Tensor{{"b", "F32", []int{1}, nil}}, []string{`"b"`, "nil"}},
		{[]Tensor{{"b", "F32", []int{math.MaxInt, 4}, []float32{1}}}, []string{`"b"`}},
	} {
		mentions(t, WriteFile(t.Context(), path, nil, c.tensors...), append(c.want, path)...)
	}
	if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) > 0 {
		t.Errorf("left behind: %v", entries)
	}
}

// Whatever the bytes, Parse returns a file whose every tensor can be read, or an error.
func FuzzParse(f *testing.F) {
	for header := range malformed {
		f.Add(file(header, 8))
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("fuzz", data)
		if err != nil {
			return
		}
		total := 0
		for _, info := range file.infos {
			total += info.to - info.from
			n := 0
			switch info.DType {
			case "F32":
				x, err := file.Float32s(info.Name)
				if err != nil {
					t.Error(err)
				}
				n = len(x)
			case "BF16", "F16":
				x, err := file.Uint16s(info.Name)
				if err != nil {
					t.Error(err)
				}
				n = len(x)
			case "I64":
				x, err := file.Int64s(info.Name)
				if err != nil {
					t.Error(err)
				}
				n = len(x)
			default:
				continue
			}
			if want, ok := product(info.Shape, 1); !ok || n != want {
				t.Errorf("%s has %d elements; its shape %v has %d", info.Name, n, info.Shape, want)
			}
		}
		if total != len(file.data) {
			t.Errorf("tensors have %d bytes, the file %d", total, len(file.data))
		}
	})
}
