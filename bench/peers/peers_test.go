package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"encoding/json"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
)

var small = size{length: 40, heads: 4, kvHeads: 2, dim: 32}

// fields decodes a protocol buffer: the numbers and the bytes of each field, in order.
func fields(t *testing.T, b []byte) (numbers map[int][]int, texts map[int][][]byte) {
	t.Helper()
	numbers, texts = make(map[int][]int), make(map[int][][]byte)
	next := func() int {
		x, n := binary.Uvarint(b)
		if n <= 0 {
			t.Fatalf("%x begins with no number", b)
		}
		b = b[n:]
		return int(x)
	}
	for len(b) > 0 {
		tag := next()
		x := next()
		switch tag & 7 {
		case 0:
			numbers[tag>>3] = append(numbers[tag>>3], x)
		case 2:
			if x > len(b) {
				t.Fatalf("field %d has %d bytes of %d", tag>>3, x, len(b))
			}
			texts[tag>>3] = append(texts[tag>>3], b[:x])
			b = b[x:]
		default:
			t.Fatalf("field %d has wire type %d", tag>>3, tag&7)
		}
	}
	return numbers, texts
}

func join(b [][]byte) string { return string(bytes.Join(b, []byte("|"))) }

// The model is one node with the operator's inputs, outputs and attributes, and states the shapes of all tensors.
func TestModel(t *testing.T) {
	m := model(small)
	if !bytes.Equal(m, model(small)) {
		t.Error("two models of one size differ")
	}
	numbers, texts := fields(t, m)
	if len(numbers[1]) != 1 || len(texts[7]) != 1 || len(texts[8]) != 2 {
		t.Fatalf("model has %d versions, %d graphs and %d operator sets; want 1, 1 and 2", len(numbers[1]), len(texts[7]), len(texts[8]))
	}
	_, graph := fields(t, texts[7][0])
	if len(graph[1]) != 1 {
		t.Fatalf("graph has %d nodes; want 1", len(graph[1]))
	}
	_, node := fields(t, graph[1][0])
	for field, want := range map[int]string{
		1: "query|key|value|||seqlens_k|total_sequence_length", 2: "output|present_key|present_value",
		4: "GroupQueryAttention", 7: "com.microsoft",
	} {
		if got := join(node[field]); got != want {
			t.Errorf("field %d of the node is %q; want %q", field, got, want)
		}
	}
	attributes := make(map[string]int)
	for _, a := range node[5] {
		numbers, texts := fields(t, a)
		attributes[join(texts[1])] = numbers[3][0]
	}
	if want := map[string]int{"num_heads": 4, "kv_num_heads": 2}; !reflect.DeepEqual(attributes, want) {
		t.Errorf("attributes are %v; want %v", attributes, want)
	}
	shapes := make(map[string][]int)
	for _, info := range append(graph[11], graph[12]...) {
		_, texts := fields(t, info)
		_, kind := fields(t, texts[2][0])
		elements, tensor := fields(t, kind[1][0])
		shape := elements[1] // the type of the elements, then the sizes
		_, dims := fields(t, tensor[2][0])
		for _, d := range dims[1] {
			n, _ := fields(t, d)
			shape = append(shape, n[1]...)
		}
		shapes[join(texts[1])] = shape
	}
	want := map[string][]int{
		"query": {1, 1, 40, 128}, "key": {1, 1, 40, 64}, "value": {1, 1, 40, 64},
		"seqlens_k": {6, 1}, "total_sequence_length": {6, 1},
		"output": {1, 1, 40, 128}, "present_key": {1, 1, 2, 40, 32}, "present_value": {1, 1, 2, 40, 32},
	}
	if !reflect.DeepEqual(shapes, want) {
		t.Errorf("tensors are %v; want %v", shapes, want)
	}
}

func TestSpread(t *testing.T) {
	for _, k := range []struct {
		x    []float64
		want spread
	}{
		{[]float64{3}, spread{3, 3, 3}},
		{[]float64{4, 1}, spread{2.5, 1, 4}},
		{[]float64{9, 1, 5}, spread{5, 1, 9}},
	} {
		if got := spreadOf(k.x); got != k.want {
			t.Errorf("%v: %v; want %v", k.x, got, k.want)
		}
	}
}

// Slow rounds do not count unless they are more than half; ratios are taken within rounds.
func TestSummarize(t *testing.T) {
	cs := []contestant{{name: "a", flops: 1e9}, {name: "b", flops: 4e9, exact: true}}
	rounds := []round{
		{seconds: []float64{1, 2}, peak: 95},
		{seconds: []float64{100, 100}, peak: 89},
		{seconds: []float64{3, 3}, peak: 90},
	}
	r := summarize(7, cs, rounds, []float64{0, 0.5}, 100)[1]
	want := result{
		N: 7, Contestant: "b", Seconds: spread{2.5, 2, 3}, GFLOPS: 1.6, PeakShare: 0.016, VsDense: spread{3, 2, 4},
		Rounds: 3, Kept: 2,
	}
	if r.MaxDiff == nil || *r.MaxDiff != 0.5 {
		t.Errorf("difference is %v; want 0.5", r.MaxDiff)
	}
	if r.MaxDiff = nil; r != want {
		t.Errorf("%+v; want %+v", r, want)
	}
	if r := summarize(7, cs, rounds, []float64{0, 0}, 101)[0]; !r.Noisy || r.Kept != 3 || r.Seconds.Max != 100 {
		t.Errorf("with two slow rounds: %+v; want all three to count", r)
	}
}

func TestAgree(t *testing.T) {
	a := contestant{name: "a", out: []float32{1, 2}}
	if d, err := agree(contestant{out: []float32{1, 2 + 1.0/4096}}, a); d != 1.0/4096 || err != nil {
		t.Errorf("%g, %v; want %g", d, err, 1.0/4096)
	}
	for _, x := range []float32{2.01, float32(math.NaN())} {
		if _, err := agree(contestant{name: "b", out: []float32{1, x}}, a); err == nil || !strings.Contains(err.Error(), "b: output 1 is ") {
			t.Errorf("%g beside 2: %v; want an error", x, err)
		}
	}
}

func TestData(t *testing.T) {
	got := byRows([]float32{1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12}, 2, 3, 2)
	if want := []float32{1, 2, 7, 8, 3, 4, 9, 10, 5, 6, 11, 12}; !reflect.DeepEqual(got, want) {
		t.Errorf("by rows: %v; want %v", got, want)
	}
	const ulp = 1.0 / 128 // of a bfloat16 from 1 to 2
	for x, want := range map[float32]uint16{
		0: 0, 1: 0x3f80, -2: 0xc000, 1 + ulp/2: 0x3f80, 1 + 3*ulp/2: 0x3f82, 1 + 0.51*ulp: 0x3f81,
	} {
		if got := bfloat16([]float32{x})[0]; got != want {
			t.Errorf("%g becomes %#x; want %#x", x, got, want)
		}
	}
}

func TestUsage(t *testing.T) {
	for args, want := range map[string]string{
		"x":                    `argument is "x"`,
		"-lengths 1,b":         `length is "b"; want a number ≥ 1`,
		"-lengths 0":           `length is "0"`,
		"-heads 5":             "heads are 5; want a multiple of the 2 KV heads",
		"-dim 8":               "dim is 8; want 16 … 256",
		"-rounds 0":            "-rounds is 0; want ≥ 1",
		"-threads -1":          "-threads is -1; want ≥ 0",
		"-product -1":          "-product is -1; want 0 … 16384",
		"-workload x":          `workload is "x"; want one of`,
		"-ort /no/such/ort.so": `ONNX Runtime's library is "/no/such/ort.so": no such file`,
	} {
		var stdout, stderr strings.Builder
		if status := run(t.Context(), strings.Fields(args), &stdout, &stderr); status == 0 || !strings.Contains(stderr.String(), want) || stdout.Len() > 0 {
			t.Errorf("%s: status %d, %q, %q; want %q", args, status, stderr.String(), stdout.String(), want)
		}
	}
	var stdout, stderr strings.Builder
	if status := run(t.Context(), []string{"-help"}, &stdout, &stderr); status != 0 || !strings.Contains(stdout.String(), "-kv-heads heads") || stderr.Len() > 0 {
		t.Errorf("-help: status %d, %q, %q", status, stdout.String(), stderr.String())
	}
}

// args are those of a short run.
func args(more ...string) []string {
	return append([]string{"-lengths", "40,50", "-heads", "4", "-dim", "32", "-rounds", "2", "-threads", "2", "-product", "64"}, more...)
}

// With -json every line is an object: the setup, all contestants at each length, the peak. ONNX Runtime takes part, and
// agrees, where ORT_LIBRARY is set.
func TestJSON(t *testing.T) {
	var stdout, stderr strings.Builder
	if status := run(t.Context(), args("-json"), &stdout, &stderr); status != 0 {
		t.Fatalf("status %d: %s", status, stderr.String())
	}
	want := 2*len(planners()) + 1
	if os.Getenv("ORT_LIBRARY") != "" {
		want++
	} else if !strings.Contains(stderr.String(), "ONNX Runtime is skipped") {
		t.Errorf("stderr is %q; want to hear that ONNX Runtime is skipped", stderr.String())
	}
	lines := strings.Split(strings.TrimSpace(stdout.String()), "\n")
	if len(lines) != 2+2*want {
		t.Fatalf("%d lines; want %d:\n%s", len(lines), 2+2*want, stdout.String())
	}
	var first struct{ Setup setup }
	if err := json.Unmarshal([]byte(lines[0]), &first); err != nil || first.Setup.Threads != 2 || first.Setup.OpenBLASCore == "" {
		t.Errorf("%s, %v; want the setup", lines[0], err)
	}
	for i, line := range lines[1 : len(lines)-1] {
		var r result
		if err := json.Unmarshal([]byte(line), &r); err != nil || r.N != []int{40, 50}[i/want] || r.Rounds != 2 || !(r.Seconds.Median > 0) || !(r.GFLOPS > 0) {
			t.Errorf("%s, %v", line, err)
		}
		if r.VsDense.Min > r.VsDense.Median || r.VsDense.Median > r.VsDense.Max || i%want == 0 && r.VsDense != (spread{1, 1, 1}) {
			t.Errorf("%s at %d is %v times as fast as dense", r.Contestant, r.N, r.VsDense)
		}
		if (r.MaxDiff != nil) != (r.Contestant == "ort/gqa") {
			t.Errorf("%s has difference %v", r.Contestant, r.MaxDiff)
		}
	}
	var last struct {
		Peak float64 `json:"peak_gflops"`
	}
	if err := json.Unmarshal([]byte(lines[len(lines)-1]), &last); err != nil || !(last.Peak > 0) {
		t.Errorf("%s, %v; want the peak", lines[len(lines)-1], err)
	}
}

func TestTable(t *testing.T) {
	var stdout, stderr strings.Builder
	if status := run(t.Context(), args(), &stdout, &stderr); status != 0 {
		t.Fatalf("status %d: %s", status, stderr.String())
	}
	for _, want := range []string{"mixture heads: 4 over 2 KV heads, dim 32", "OpenBLAS: core type ", "\n40 tokens, ", "\n50 tokens, ", "anchor/dense  ", "openblas/sgemm-64  ", "The peak is "} {
		if !strings.Contains(stdout.String(), want) {
			t.Errorf("no %q in\n%s", want, stdout.String())
		}
	}
}

func TestInterrupt(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stdout, stderr strings.Builder
	if status := run(ctx, args("-json"), &stdout, &stderr); status != 1 || !strings.HasSuffix(stderr.String(), "peers: interrupted\n") {
		t.Errorf("status %d, %q; want 1 and to hear of the interruption", status, stderr.String())
	}
}
