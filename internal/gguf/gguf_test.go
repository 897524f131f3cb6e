package gguf

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/anchorattention/anchor/internal/matrix"
)

// source makes a tensor to be written of random numbers.
func source(r *rand.Rand, name string, t matrix.Type, shape ...int) (Source, []float32) {
	n := 1
	for _, s := range shape {
		n *= s
	}
	x := make([]float32, n)
	for i := range x {
		x[i] = float32(r.NormFloat64())
	}
	bytes, _ := size(t, shape)
	b := make([]byte, bytes)
	matrix.Pack(t, x, b)
	matrix.Unpack(t, b, x)
	return Source{name, shape, t, func(w io.Writer) error {
		for ; len(b) > 1; b = b[1:] { // as slowly as may be
			if _, err := w.Write(b[:1]); err != nil {
				return err
			}
		}
		_, err := w.Write(b)
		return err
	}}, x
}

var metadata = []KeyValue{
	{"general.architecture", "llama"},
	{"u8", uint8(200)}, {"i8", int8(-3)}, {"u16", uint16(60000)}, {"i16", int16(-300)}, {"u32", uint32(4e9)}, {"i32", int32(-7)},
	{"f32", float32(0.25)}, {"yes", true}, {"no", false}, {"text", "größer"}, {"empty", ""},
	{"u64", uint64(math.MaxUint64)}, {"i64", int64(math.MinInt64)}, {"f64", 1e300},
	{"u8s", []uint8{1, 255}}, {"i8s", []int8{-1, 1}}, {"u16s", []uint16{1}}, {"i16s", []int16{-1}}, {"u32s", []uint32{}}, {"i32s", []int32{-5, 6, 7}},
	{"f32s", []float32{0.5, -2}}, {"bools", []bool{true, false}}, {"strings", []string{"a", "", "Ġthe"}}, {"none", []string{}},
	{"u64s", []uint64{1, 1 << 63}}, {"i64s", []int64{-1 << 62}}, {"f64s", []float64{1e-300}},
	{"nested", [][]uint32{{1, 2}, {}}},
}

// What is written is read back, through a mapped file and through memory, of every type and at every alignment.
func TestRoundTrip(t *testing.T) {
	for _, alignment := range []uint32{0, 8, 32, 4096} {
		r := rand.New(rand.NewPCG(1, 1))
		var sources []Source
		var elements [][]float32
		add := func(name string, t matrix.Type, shape ...int) {
			s, x := source(r, name, t, shape...)
			sources, elements = append(sources, s), append(elements, x)
		}
		for typ := matrix.F32; typ <= matrix.Q6_K; typ++ {
			add(typ.String()+".matrix", typ, 3, 256)
			add(typ.String()+".vector", typ, 512)
		}
		add("odd", matrix.F16, 5, 1)
		add("scalar", matrix.F32)
		add("cube", matrix.BF16, 2, 3, 4)
		all := metadata
		if alignment > 0 {
			all = append(all[:len(all):len(all)], KeyValue{alignmentKey, alignment})
		}
		path := filepath.Join(t.TempDir(), "x.gguf")
		if err := WriteFile(t.Context(), path, all, sources...); err != nil {
			t.Fatal(err)
		}
		mapped, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		parsed, err := Parse("memory", data)
		if err != nil {
			t.Fatal(err)
		}
		data2 := bytes.Clone(data)
		data2[4] = 2
		version2, err := Parse("version 2", data2)
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range []*File{mapped, parsed, version2} {
			if got, want := len(f.Tensors()), len(sources); got != want {
				t.Errorf("%s: %d tensors; want %d", f.Name(), got, want)
			}
			for i, s := range sources {
				tensor, ok := f.Tensor(s.Name)
				if !ok || tensor.Name != s.Name || tensor.Type != s.Type || fmt.Sprint(tensor.Shape) != fmt.Sprint(s.Shape) {
					t.Fatalf("%s: %q is %q %v %v, %v; want %v %v", f.Name(), s.Name, tensor.Name, tensor.Type, tensor.Shape, ok, s.Type, s.Shape)
				}
				got := make([]float32, len(elements[i]))
				matrix.Unpack(tensor.Type, tensor.Bytes(), got)
				if diff := cmp.Diff(elements[i], got); diff != "" {
					t.Errorf("%s: %q: %s", f.Name(), s.Name, diff)
				}
				m, err := tensor.Matrix()
				switch len(s.Shape) {
				case 1:
					if err != nil || m.Rows() != 1 || m.Cols() != s.Shape[0] {
						t.Errorf("%s: %q: matrix %v, error %v", f.Name(), s.Name, m, err)
					}
				case 2:
					if err != nil || m.Rows() != s.Shape[0] || m.Cols() != s.Shape[1] || m.Type() != s.Type || &m.Bytes()[0] != &tensor.Bytes()[0] {
						t.Errorf("%s: %q: matrix %v, error %v", f.Name(), s.Name, m, err)
					}
				default:
					mentions(t, err, f.Name(), s.Name, fmt.Sprint(s.Shape))
				}
				if a := max(alignment, 8); uintptr(unsafe.Pointer(&tensor.Bytes()[0]))%uintptr(a) != 0 && f == mapped {
					t.Errorf("%q does not lie at a multiple of %d", s.Name, a)
				}
			}
			checkMetadata(t, f)
		}
		if _, ok := mapped.Tensor("absent"); ok {
			t.Error("there is an absent tensor")
		}
		if err := errors.Join(mapped.Close(), mapped.Close(), parsed.Close()); err != nil {
			t.Error(err)
		}
	}
}

func checkMetadata(t *testing.T, f *File) {
	t.Helper()
	is := func(key string, got any, err error, want any) {
		t.Helper()
		if err != nil || !cmp.Equal(got, want) {
			t.Errorf("%s: %q is %v, error %v; want %v", f.Name(), key, got, err, want)
		}
	}
	for key, want := range map[string]uint64{"u8": 200, "u16": 60000, "u32": 4e9, "u64": math.MaxUint64} {
		got, err := f.Uint(key)
		is(key, got, err, want)
	}
	for key, want := range map[string]float64{"f32": 0.25, "f64": 1e300} {
		got, err := f.Float(key)
		is(key, got, err, want)
	}
	for key, want := range map[string]string{"text": "größer", "empty": "", "general.architecture": "llama"} {
		got, err := f.String(key)
		is(key, got, err, want)
	}
	for key, want := range map[string]bool{"yes": true, "no": false} {
		got, err := f.Bool(key)
		is(key, got, err, want)
	}
	for key, want := range map[string][]int64{
		"u8s": {1, 255}, "i8s": {-1, 1}, "u16s": {1}, "i16s": {-1}, "u32s": {}, "i32s": {-5, 6, 7}, "i64s": {-1 << 62},
	} {
		got, err := f.Ints(key)
		is(key, got, err, want)
	}
	for key, want := range map[string][]float64{"f32s": {0.5, -2}, "f64s": {1e-300}} {
		got, err := f.Floats(key)
		is(key, got, err, want)
	}
	bools, err := f.Bools("bools")
	is("bools", bools, err, []bool{true, false})
	for key, want := range map[string][]string{"strings": {"a", "", "Ġthe"}, "none": {}} {
		got, err := f.Strings(key)
		is(key, got, err, want)
	}
	if !f.Has("nested") || f.Has("absent") {
		t.Errorf("%s: has nested %v, absent %v", f.Name(), f.Has("nested"), f.Has("absent"))
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
	if strings.ContainsAny(err.Error(), "\n\x1b") {
		t.Errorf("error %q has control characters", err)
	}
}

// Asking for what is not there, or as what it is not, is an error that names file, key, value and what it should be.
func TestWrongAsk(t *testing.T) {
	head, _, err := header(metadata, nil)
	if err != nil {
		t.Fatal(err)
	}
	f, err := Parse("the file", head)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		key  string
		want []string
	}{
		{"absent", []string{"no metadata"}},
		{"i8", []string{"-3", "integer ≥ 0"}}, {"f32", []string{"0.25", "integer"}}, {"yes", []string{"true", "integer"}}, {"i64", []string{"-9223372036854775808"}},
		{"text", []string{`"größer"`, "integer"}}, {"strings", []string{"array of 3 × string", "integer"}},
	} {
		_, err := f.Uint(c.key)
		mentions(t, err, append(c.want, "the file", fmt.Sprintf("%q", c.key))...)
	}
	for key, want := range map[string][]string{"u32": {"4000000000", "floating"}, "f32s": {"array of 2 × float32"}, "absent": {"no metadata"}} {
		_, err := f.Float(key)
		mentions(t, err, append(want, "the file", key)...)
	}
	for key, want := range map[string][]string{"u8": {"200", "true or false"}, "u64": {"18446744073709551615"}, "absent": {"no metadata"}} {
		_, err := f.Bool(key)
		mentions(t, err, append(want, "the file", key)...)
	}
	for key, want := range map[string][]string{"no": {"false", "a string"}, "strings": {"array"}, "absent": {"no metadata"}} {
		_, err := f.String(key)
		mentions(t, err, append(want, "the file", key)...)
	}
	for key, want := range map[string][]string{
		"u8": {"200", "array of integers"}, "u64s": {"uint64", "< 2⁶³"}, "f64s": {"float64"}, "nested": {"× array"}, "bools": {"bool"}, "absent": {"no metadata"},
	} {
		_, err := f.Ints(key)
		mentions(t, err, append(want, "the file", key)...)
	}
	for key, want := range map[string][]string{"i32s": {"int32", "floating"}, "f32": {"0.25", "array"}, "absent": {"no metadata"}} {
		_, err := f.Floats(key)
		mentions(t, err, append(want, "the file", key)...)
	}
	for key, want := range map[string][]string{"text": {"größer", "array of strings"}, "u8s": {"uint8"}, "absent": {"no metadata"}} {
		_, err := f.Strings(key)
		mentions(t, err, append(want, "the file", key)...)
	}
}

// put appends numbers and strings as they stand in a file.
func put(parts ...any) []byte {
	var b []byte
	for _, p := range parts {
		switch p := p.(type) {
		case string:
			b = appendString(b, p)
		case []byte:
			b = append(b, p...)
		default:
			var err error
			if b, err = binary.Append(b, binary.LittleEndian, p); err != nil {
				panic(err)
			}
		}
	}
	return b
}

// file puts a file together from numbers of tensors and metadata and what follows them.
func file(tensors, keys uint64, parts ...any) []byte {
	return put([]byte(magic), uint32(3), tensors, keys, put(parts...))
}

// described is a file with one tensor of 8 bytes of data, of this description.
func described(parts ...any) []byte {
	head := file(1, 0, parts...)
	return append(head, make([]byte, padded(uint64(len(head)), 32)-uint64(len(head))+8)...)
}

type (
	u32 = uint32
	u64 = uint64
)

// malformed are files and words of the errors that they cause.
var malformed = map[string]struct {
	data []byte
	want []string
}{
	"nothing":       {nil, []string{`""`, "GGUF"}},
	"other magic":   {[]byte("GGML\x03\x00\x00\x00"), []string{"GGML"}},
	"version 1":     {put([]byte(magic), u32(1), u64(0), u64(0)), []string{"version is 1"}},
	"version 4":     {put([]byte(magic), u32(4), u64(0), u64(0)), []string{"version is 4"}},
	"version 0":     {put([]byte(magic), u32(0), u64(0), u64(0)), []string{"version is 0"}},
	"big-endian":    {put([]byte(magic), u32(3<<24), u64(0), u64(0)), []string{"big-endian"}},
	"keys":          {file(0, 1<<60), []string{"1152921504606846976", "at most 65536"}},
	"few keys":      {file(0, 1<<15), []string{"32768", "0 bytes left"}},
	"tensors":       {file(1<<60, 0), []string{"tensors", "1152921504606846976"}},
	"few tensors":   {file(1<<17, 0), []string{"tensors", "131072", "0 bytes left"}},
	"key length":    {file(0, 1, u64(1<<60), u64(0)), []string{"metadata 1 of 1", "1152921504606846976 bytes"}},
	"no key":        {file(0, 1, "", u32(0), uint8(0), u64(0)), []string{"metadata 1 of 1", "0 bytes"}},
	"long key":      {file(0, 1, strings.Repeat("k", 1<<16), u32(0), uint8(0)), []string{"65536 bytes"}},
	"key twice":     {file(0, 2, "k", u32(0), uint8(0), "k", u32(0), uint8(0)), []string{`"k"`, "twice"}},
	"value type":    {file(0, 1, "k\n", u32(13), u64(0)), []string{`"k\n"`, "13"}},
	"bool":          {file(0, 1, "k", u32(7), uint8(2)), []string{`"k"`, "bool is 2"}},
	"bools":         {file(0, 1, "k", u32(9), u32(7), u64(2), uint8(1), uint8(255)), []string{`"k"`, "bool is 255"}},
	"string":        {file(0, 1, "k", u32(8), u64(1<<60)), []string{`"k"`, "1152921504606846976 bytes"}},
	"string end":    {file(0, 1, "k", u32(8), u64(2), uint8(0)), []string{`"k"`, "2 bytes", "of 46"}},
	"array":         {file(0, 1, "k", u32(9), u32(4), u64(1<<60)), []string{`"k"`, "elements is 1152921504606846976"}},
	"array wraps":   {file(0, 1, "k", u32(9), u32(4), u64(1<<62+1), u32(0)), []string{`"k"`, "elements"}},
	"array type":    {file(0, 1, "k", u32(9), u32(99), u64(0)), []string{`"k"`, "99"}},
	"array strings": {file(0, 1, "k", u32(9), u32(8), u64(2), "a", u64(9)), []string{`"k"`, "element 1", "9 bytes"}},
	"nested":        {file(0, 1, "k", u32(9), bytes.Repeat(put(u32(9), u64(1)), 5), u32(0), u64(0)), []string{`"k"`, "more than 4 deep"}},
	"very nested":   {file(0, 1, "k", u32(9), bytes.Repeat(put(u32(9), u64(1)), 1<<16)), []string{`"k"`, "more than 4 deep"}},
	"nested end":    {file(0, 1, "k", u32(9), u32(9), u64(2), u32(0), u64(0), u32(0), u64(7)), []string{`"k"`, "element 1", "7"}},
	"alignment":     {file(0, 1, alignmentKey, u32(4), u32(48)), []string{alignmentKey, "48", "power of two"}},
	"alignment 0":   {file(0, 1, alignmentKey, u32(4), u32(0)), []string{alignmentKey, "is 0"}},
	"alignment big": {file(0, 1, alignmentKey, u32(10), u64(1<<63)), []string{alignmentKey, "9223372036854775808"}},
	"alignment str": {file(0, 1, alignmentKey, u32(8), "32"), []string{alignmentKey, `"32"`}},
	"split":         {file(0, 1, "split.count", u32(2), uint16(3)), []string{"split.count", "is 3", "several files"}},
	"split type":    {file(0, 1, "split.count", u32(8), "one"), []string{"split.count", `"one"`}},
	"dimensions":    {described("t", u32(5), make([]byte, 64)), []string{`"t"`, "5", "at most 4"}},
	"shape 0":       {described("t", u32(2), u64(2), u64(0), u32(0), u64(0)), []string{`"t"`, "dimension 1", "is 0"}},
	"shape":         {described("t", u32(1), u64(1<<63), u32(0), u64(0)), []string{`"t"`, "dimension 0", "9223372036854775808"}},
	"size":          {described("t", u32(2), u64(1<<32), u64(1<<31), u32(0), u64(0)), []string{`"t"`, "[2147483648 4294967296]", "more bytes"}},
	"size of 4":     {described("t", u32(4), u64(1<<62), u64(1<<62), u64(1<<62), u64(1<<62), u32(8), u64(0)), []string{`"t"`, "more bytes"}},
	"blocks":        {described("t", u32(2), u64(48), u64(32), u32(8), u64(0)), []string{`"t"`, "[32 48]", "multiple of 32", "Q8_0"}},
	"scalar block":  {described("t", u32(0), u32(12), u64(0)), []string{`"t"`, "256", "Q4_K"}},
	"Q2_K":          {described("t", u32(1), u64(256), u32(10), u64(0)), []string{`"t"`, "Q2_K", "Q5_K or Q6_K"}},
	"IQ4_XS":        {described("t", u32(1), u64(256), u32(23), u64(0)), []string{`"t"`, "IQ4_XS"}},
	"I32":           {described("t", u32(1), u64(2), u32(26), u64(0)), []string{`"t"`, "I32"}},
	"unknown type":  {described("t", u32(1), u64(2), u32(1<<31), u64(0)), []string{`"t"`, "2147483648, which is unknown"}},
	"unaligned":     {described("t", u32(1), u64(1), u32(0), u64(4)), []string{`"t"`, "offset is 4", "multiple of 32"}},
	"offset":        {described("t", u32(1), u64(1), u32(0), u64(1<<63)), []string{`"t"`, "9223372036854775808", "8 bytes"}},
	"beyond":        {described("t", u32(1), u64(3), u32(0), u64(0)), []string{`"t"`, "12 bytes", "8 bytes"}},
	"tensor name":   {described(u64(1<<60), make([]byte, 32)), []string{"tensor 1 of 1", "1152921504606846976"}},
	"tensor twice":  {file(2, 0, "t", u32(1), u64(1), u32(0), u64(0), "t", u32(1), u64(1), u32(0), u64(32), make([]byte, 128)), []string{`"t"`, "twice"}},
	"overlap": {file(3, 0, "a", u32(1), u64(9), u32(0), u64(32), "b", u32(1), u64(1), u32(0), u64(0), "c", u32(1), u64(1), u32(0), u64(64), make([]byte, 128)),
		[]string{`"c"`, "64", `overlaps tensor "a"`, "68"}},
	"same place": {file(2, 0, "a", u32(1), u64(1), u32(0), u64(0), "b", u32(1), u64(1), u32(0), u64(0), make([]byte, 128)), []string{`"b"`, `"a"`, "overlaps"}},
}

// A file whose parts contradict one another is refused with an error that names file, tensor or key, and field.
func TestMalformed(t *testing.T) {
	for name, c := range malformed {
		t.Run(name, func(t *testing.T) {
			_, err := Parse("the file", c.data)
			mentions(t, err, append(c.want, "the file")...)
		})
	}
	if _, err := Parse("good", described("t", u32(1), u64(2), u32(0), u64(0))); err != nil {
		t.Error(err)
	}
}

// good returns a file with metadata and tensors, and where its last tensor ends.
func good(t testing.TB) (data []byte, end int) {
	r := rand.New(rand.NewPCG(1, 2))
	a, _ := source(r, "a", matrix.Q8_0, 2, 32)
	b, _ := source(r, "b", matrix.F32, 3)
	sources := []Source{a, b}
	head, alignment, err := header(metadata, sources)
	if err != nil {
		t.Fatal(err)
	}
	var w bytes.Buffer
	if err := write(&w, head, alignment, sources); err != nil {
		t.Fatal(err)
	}
	return w.Bytes(), len(head) + 96 + 12
}

// Cut short anywhere, a file is an error.
func TestTruncated(t *testing.T) {
	data, end := good(t)
	for n := range data {
		if _, err := Parse("cut", data[:n]); (err == nil) != (n >= end) {
			t.Errorf("the first %d of %d bytes: error %v", n, len(data), err)
		}
	}
}

// Numbers in a header do not become memory: what is refused has taken little.
func TestHostileMemory(t *testing.T) {
	for name, c := range malformed {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		_, err := Parse("hostile", c.data)
		runtime.ReadMemStats(&after)
		if taken := after.TotalAlloc - before.TotalAlloc; err == nil || taken > 1<<16+2*uint64(len(c.data)) {
			t.Errorf("%s: %d bytes were allocated for a file of %d, error %v", name, taken, len(c.data), err)
		}
	}
}

// Tensors lie in the file's own memory.
func TestNoCopy(t *testing.T) {
	data, end := good(t)
	f, err := Parse("memory", data)
	if err != nil {
		t.Fatal(err)
	}
	b, _ := f.Tensor("b")
	if &b.Bytes()[0] != &data[end-12] {
		t.Error("the bytes of a tensor are copies")
	}
	if cap(b.Bytes()) != 12 {
		t.Error("the bytes of a tensor reach beyond it")
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

// What cannot be written is an error that names it, and nothing is left behind.
func TestWriteErrors(t *testing.T) {
	path := filepath.Join(t.TempDir(), "x.gguf")
	ok, _ := source(rand.New(rand.NewPCG(1, 3)), "ok", matrix.F32, 4)
	with := func(change func(*Source)) []Source {
		s := ok
		change(&s)
		return []Source{s}
	}
	sorry := errors.New("sorry")
	for name, c := range map[string]struct {
		metadata []KeyValue
		tensors  []Source
		want     []string
	}{
		"key twice":      {[]KeyValue{{"k", true}, {"k", true}}, nil, []string{`"k"`, "taken"}},
		"no key":         {[]KeyValue{{"", true}}, nil, []string{"0 bytes"}},
		"int":            {[]KeyValue{{"k", 1}}, nil, []string{`"k"`, "int"}},
		"nil":            {[]KeyValue{{"k", nil}}, nil, []string{`"k"`, "nil"}},
		"ints":           {[]KeyValue{{"k", [][]int{{1}}}}, nil, []string{`"k"`, "[][]int"}},
		"alignment":      {[]KeyValue{{alignmentKey, uint32(12)}}, nil, []string{alignmentKey, "12"}},
		"alignment type": {[]KeyValue{{alignmentKey, uint64(32)}}, nil, []string{alignmentKey, "uint32"}},
		"twice":          {nil, []Source{ok, ok}, []string{`"ok"`, "taken"}},
		"type":           {nil, with(func(s *Source) { s.Type = 0 }), []string{`"ok"`, "Type(0)"}},
		"dimensions":     {nil, with(func(s *Source) { s.Shape = []int{1, 1, 1, 1, 4} }), []string{`"ok"`, "at most 4"}},
		"shape":          {nil, with(func(s *Source) { s.Shape = []int{-4} }), []string{`"ok"`, "[-4]"}},
		"block":          {nil, with(func(s *Source) { s.Type = matrix.Q4_0 }), []string{`"ok"`, "32"}},
		"overflow":       {nil, with(func(s *Source) { s.Shape = []int{math.MaxInt, 2} }), []string{`"ok"`, "bytes"}},
		"few bytes":      {nil, with(func(s *Source) { s.Shape = []int{5} }), []string{`"ok"`, "16", "20"}},
		"its own":        {nil, with(func(s *Source) { s.Write = func(io.Writer) error { return sorry } }), []string{`"ok"`, "sorry"}},
	} {
		t.Run(name, func(t *testing.T) {
			err := WriteFile(t.Context(), path, c.metadata, c.tensors...)
			mentions(t, err, append(c.want, path)...)
			if entries, _ := os.ReadDir(filepath.Dir(path)); len(entries) > 0 {
				t.Errorf("left behind: %v", entries)
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := WriteFile(ctx, path, nil, ok); !errors.Is(err, context.Canceled) {
		t.Errorf("error %v; want that the context ended", err)
	}
}

// Whatever the bytes, Parse returns a file whose every tensor and value can be read, or an error.
func FuzzParse(f *testing.F) {
	for _, c := range malformed {
		f.Add(c.data)
	}
	data, _ := good(f)
	f.Add(data)
	f.Fuzz(func(t *testing.T, data []byte) {
		file, err := Parse("fuzz", data)
		if err != nil {
			return
		}
		for _, tensor := range file.Tensors() {
			elements, size := tensor.Type.Block()
			n := len(tensor.Bytes()) / size * elements
			x := make([]float32, n)
			matrix.Unpack(tensor.Type, tensor.Bytes(), x)
			if m, err := tensor.Matrix(); err == nil && m.Rows()*m.Cols() != n {
				t.Errorf("%q has %d × %d elements; want %d", tensor.Name, m.Rows(), m.Cols(), n)
			}
			for _, s := range tensor.Shape {
				if n%s != 0 {
					t.Errorf("%q has %d elements; its shape is %v", tensor.Name, n, tensor.Shape)
				}
				n /= s
			}
			if n != 1 {
				t.Errorf("%q has %d times as many elements as its shape", tensor.Name, n)
			}
		}
		for key, v := range file.metadata {
			_ = v.String()
			read := 0
			for _, err := range []error{
				second(file.Uint(key)), second(file.Float(key)), second(file.Bool(key)), second(file.String(key)),
				second(file.Ints(key)), second(file.Floats(key)), second(file.Bools(key)), second(file.Strings(key)),
			} {
				if err == nil {
					read++
				}
			}
			// What no getter returns: negative numbers, and arrays of arrays or of large numbers.
			if want := v.kind != arrayKind && v.kind != boolKind && kinds[v.kind].name[0] != 'i'; want && read != 1 {
				t.Errorf("%q, %v, can be read in %d ways", key, v, read)
			}
		}
	})
}

func second[T any](_ T, err error) error { return err }
