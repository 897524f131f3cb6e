package main

import (
	"encoding/json"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/anchorattention/anchor/internal/safetensors"
)

const golden = "../../testdata/golden/tail_rows.safetensors"

// goldenFlags are those that the golden file was made with.
var goldenFlags = strings.Fields("--block 16 --step 8 --init 16 --local 16 --theta 13.456965446472168 --tail 40")

func open(t testing.TB, path string) *safetensors.File {
	t.Helper()
	f, err := safetensors.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func floats(t testing.TB, f *safetensors.File, name string) []float32 {
	t.Helper()
	x, err := f.Float32s(name)
	if err != nil {
		t.Fatal(err)
	}
	return x
}

// stripesOf returns the contents of a file of stripes.
func stripesOf(t testing.TB, path string) (offsets []int64, indices []int32) {
	t.Helper()
	f := open(t, path)
	offsets, err := f.Int64s("stripe_offsets")
	if err != nil {
		t.Fatal(err)
	}
	indices, err = f.Int32s("stripe_indices")
	if err != nil {
		t.Fatal(err)
	}
	return offsets, indices
}

func furthest(a, b []float32) (most float64) {
	if len(a) != len(b) {
		return math.Inf(1)
	}
	for i := range a {
		if d := math.Abs(float64(a[i]) - float64(b[i])); !(d <= most) {
			most = d
		}
	}
	return most
}

// What comes out is what an independent float64 implementation computed, and the JSON says what was done.
func TestAttendGolden(t *testing.T) {
	dir := t.TempDir()
	out, stripes := filepath.Join(dir, "out"), filepath.Join(dir, "stripes")
	args := append([]string{"attend", golden, "-o", out, "--stripes", stripes, "--audit", "300", "--json"}, goldenFlags...)
	stdout := mustRun(t, args...)
	want, got := open(t, golden), open(t, out)
	for _, name := range []string{"o", "lse"} {
		if d := furthest(floats(t, got, name), floats(t, want, name)); !(d <= 2e-5) {
			t.Errorf("%s is up to %g off; want ≤ 2e-5", name, d)
		}
		a, _ := got.Info(name)
		b, _ := want.Info(name)
		if !slices.Equal(a.Shape, b.Shape) {
			t.Errorf("%s has shape %v; want %v", name, a.Shape, b.Shape)
		}
	}
	offsets, indices := stripesOf(t, stripes)
	wantOffsets, wantIndices := stripesOf(t, golden)
	if !slices.Equal(offsets, wantOffsets) || !slices.Equal(indices, wantIndices) {
		t.Errorf("stripes are %v of %v; want %v of %v", offsets, indices, wantOffsets, wantIndices)
	}

	m := object(t, stdout, "method isa dtype heads kv_heads dim queries keys params seconds stage_seconds density stripes recall")
	for field, want := range map[string]any{
		"method": "anchor", "dtype": "F32", "batch": 1.0, "heads": 2.0, "kv_heads": 1.0, "dim": 80.0,
		"queries": 300.0, "keys": 300.0, "prompt": 300.0, "stripes": float64(len(wantIndices)), "non_finite_rows": 0.0,
	} {
		if m[field] != want {
			t.Errorf("%s is %v; want %v", field, m[field], want)
		}
	}
	near := func(name string, got any, want string) {
		var x float64
		if err := json.Unmarshal([]byte(want), &x); err != nil {
			t.Fatal(err)
		}
		if y, _ := got.(float64); math.Abs(y-x) > 1e-6 {
			t.Errorf("%s is %v; want %v", name, got, want)
		}
	}
	meta := want.Metadata()
	near("density", m["density"], meta["density"])
	near("mean recall", m["recall"].(map[string]any)["mean"], meta["recall_mean"])
	near("least recall", m["recall"].(map[string]any)["min"], meta["recall_min"])
	params := m["params"].(map[string]any)
	if params["block"] != 16.0 || params["step"] != 8.0 || params["theta"] != 13.456965446472168 || params["tail"] != 40.0 {
		t.Errorf("params are %v", params)
	}
}

// An infinite theta is a string in JSON; +∞ gives what dense attention does.
func TestAttendInfiniteTheta(t *testing.T) {
	dir := t.TempDir()
	for _, theta := range []string{"inf", "-inf"} {
		m := object(t, mustRun(t, "attend", golden, "-o", dir+"/"+theta, "--block", "16", "--step", "2", "--init", "4", "--local", "4", "--theta", theta, "--json"), "params")
		if got := m["params"].(map[string]any)["theta"]; got != theta {
			t.Errorf("theta is %v in JSON; want the string %q", got, theta)
		}
		if full := m["density"] == 1.0; full != (theta == "inf") {
			t.Errorf("density is %v with theta %s", m["density"], theta)
		}
		if _, ok := m["recall"]; ok {
			t.Error("recall is there without --audit")
		}
	}
	m := object(t, mustRun(t, "attend", golden, "-o", dir+"/dense", "--method", "dense", "--json"), "params")
	if m["params"] != nil || m["method"] != "dense" || m["density"] != 1.0 {
		t.Errorf("dense reports %v", m)
	}
	if d := furthest(floats(t, open(t, dir+"/inf"), "o"), floats(t, open(t, dir+"/dense"), "o")); d > 2e-5 {
		t.Errorf("theta inf is %g from dense; want ≤ 2e-5", d)
	}
}

// A scale of 1/√dim is what there is without one, and another gives something else.
func TestAttendScale(t *testing.T) {
	dir := t.TempDir()
	mustRun(t, "attend", golden, "-o", dir+"/none", "--method", "dense")
	mustRun(t, "attend", golden, "-o", dir+"/same", "--method", "dense", "--scale", "0.11180339887")
	mustRun(t, "attend", golden, "-o", dir+"/zero", "--method", "dense", "--scale", "0")
	none := floats(t, open(t, dir+"/none"), "o")
	if d := furthest(none, floats(t, open(t, dir+"/same"), "o")); d > 2e-5 {
		t.Errorf("scale 1/√dim changes o by %g", d)
	}
	if d := furthest(none, floats(t, open(t, dir+"/zero"), "o")); d < 1e-3 {
		t.Errorf("scale 0 changes o by no more than %g", d)
	}
}

// A batch gives what its sequences do, with a leading dimension and one list of stripes after the other, in each type
// of elements.
func TestAttendBatch(t *testing.T) {
	const heads, kvHeads, rows, dim = 2, 1, 200, 16
	dir := t.TempDir()
	tensors := func(dtype string, seqs ...int) []safetensors.Tensor {
		var all []safetensors.Tensor
		for i, name := range []string{"q", "k", "v"} {
			h := []int{heads, kvHeads, kvHeads}[i]
			shape := []int{h, rows, dim}
			if len(seqs) > 1 {
				shape = append([]int{len(seqs)}, shape...)
			}
			var single []float32
			var bits []uint16
			for _, seq := range seqs {
				for j := range h * rows * dim {
					x := float32((j*(7919+seq*31)+i*101)%257)/64 - 2 // exact in every type
					single = append(single, x)
					if dtype == "BF16" {
						bits = append(bits, uint16(math.Float32bits(x)>>16))
					} else {
						bits = append(bits, half(x))
					}
				}
			}
			data := any(bits)
			if dtype == "F32" {
				data = single
			}
			all = append(all, safetensors.Tensor{Name: name, DType: dtype, Shape: shape, Data: data})
		}
		return append(all, safetensors.Tensor{Name: "ignored", DType: "I32", Shape: []int{1}, Data: []int32{1}})
	}
	attend := func(name, dtype string, seqs ...int) (o, lse []float32, offsets []int64, indices []int32, report map[string]any) {
		in := filepath.Join(dir, name)
		if err := safetensors.WriteFile(t.Context(), in, nil, tensors(dtype, seqs...)...); err != nil {
			t.Fatal(err)
		}
		stdout := mustRun(t, "attend", in, "-o", in+".out", "--stripes", in+".stripes", "--json",
			"--block", "16", "--step", "2", "--init", "4", "--local", "4", "--theta", "3", "--tail", "10")
		f := open(t, in+".out")
		offsets, indices = stripesOf(t, in+".stripes")
		info, _ := f.Info("o")
		lseInfo, _ := f.Info("lse")
		want := []int{heads, rows, dim}
		if len(seqs) > 1 {
			want = append([]int{len(seqs)}, want...)
		}
		if !slices.Equal(info.Shape, want) || !slices.Equal(lseInfo.Shape, want[:len(want)-1]) {
			t.Errorf("%s: o has shape %v and lse %v; want %v and %v", name, info.Shape, lseInfo.Shape, want, want[:len(want)-1])
		}
		return floats(t, f, "o"), floats(t, f, "lse"), offsets, indices, object(t, stdout, "")
	}
	for _, dtype := range []string{"F32", "BF16", "F16"} {
		o0, lse0, off0, idx0, _ := attend(dtype+"0", dtype, 0)
		o1, lse1, off1, idx1, _ := attend(dtype+"1", dtype, 1)
		o, lse, off, idx, report := attend(dtype, dtype, 0, 1)
		if !slices.Equal(o, slices.Concat(o0, o1)) || !slices.Equal(lse, slices.Concat(lse0, lse1)) {
			t.Errorf("%s: a batch of two gives other outputs than the two alone", dtype)
		}
		offsets := slices.Clone(off0)
		for _, to := range off1[1:] {
			offsets = append(offsets, int64(len(idx0))+to)
		}
		if len(idx0) == 0 || !slices.Equal(off, offsets) || !slices.Equal(idx, slices.Concat(idx0, idx1)) {
			t.Errorf("%s: stripes of the batch are not those of its sequences", dtype)
		}
		if report["dtype"] != dtype || report["batch"] != 2.0 {
			t.Errorf("%s: report says %v, batch %v", dtype, report["dtype"], report["batch"])
		}
	}
}

// half converts a number that a half-precision number can hold exactly.
func half(x float32) uint16 {
	b := math.Float32bits(x)
	if x == 0 {
		return 0
	}
	return uint16(b>>16&0x8000) | uint16(b>>23-112)<<10&0x7c00 | uint16(b>>13&0x3ff)
}

// Files whose tensors do not fit are errors that name file and tensor, and OUT stays as it was.
func TestAttendBadFile(t *testing.T) {
	tensor := func(name string, shape ...int) safetensors.Tensor {
		n := 1
		for _, s := range shape {
			n *= s
		}
		return safetensors.Tensor{Name: name, DType: "F32", Shape: shape, Data: make([]float32, n)}
	}
	ints := safetensors.Tensor{Name: "k", DType: "I32", Shape: []int{1, 4, 8}, Data: make([]int32, 32)}
	for _, k := range []struct {
		name    string
		tensors []safetensors.Tensor
		want    string
	}{
		{"missing", []safetensors.Tensor{tensor("q", 1, 4, 8), tensor("k", 1, 4, 8)}, `no tensor "v"`},
		{"rank", []safetensors.Tensor{tensor("q", 4, 8), tensor("k", 1, 4, 8), tensor("v", 1, 4, 8)}, `tensor "q" has shape [4 8]`},
		{"ranks", []safetensors.Tensor{tensor("q", 1, 1, 4, 8), tensor("k", 1, 4, 8), tensor("v", 1, 4, 8)}, `tensor "k" has shape [1 4 8]`},
		{"batches", []safetensors.Tensor{tensor("q", 2, 1, 4, 8), tensor("k", 2, 1, 4, 8), tensor("v", 1, 1, 4, 8)}, `tensor "v" has shape [1 1 4 8]`},
		{"empty", []safetensors.Tensor{tensor("q", 1, 0, 8), tensor("k", 1, 4, 8), tensor("v", 1, 4, 8)}, "every size ≥ 1"},
		{"type", []safetensors.Tensor{tensor("q", 1, 4, 8), ints, tensor("v", 1, 4, 8)}, `tensor "k" has element type "I32"`},
		{"queries", []safetensors.Tensor{tensor("q", 1, 5, 8), tensor("k", 1, 4, 8), tensor("v", 1, 4, 8)}, "no more queries than keys"},
		{"heads", []safetensors.Tensor{tensor("q", 3, 4, 8), tensor("k", 2, 4, 8), tensor("v", 2, 4, 8)}, "want a multiple"},
		{"values", []safetensors.Tensor{tensor("q", 1, 4, 8), tensor("k", 1, 4, 8), tensor("v", 1, 3, 8)}, "V has shape"},
		{"dim", []safetensors.Tensor{tensor("q", 1, 4, 257), tensor("k", 1, 4, 257), tensor("v", 1, 4, 257)}, "dim 257"},
	} {
		t.Run(k.name, func(t *testing.T) {
			dir := t.TempDir()
			in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
			if err := safetensors.WriteFile(t.Context(), in, nil, k.tensors...); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(out, []byte("precious"), 0o666); err != nil {
				t.Fatal(err)
			}
			status, stdout, stderr := anchorCommand(t, "attend", in, "-o", out, "--stripes", dir+"/stripes", "--json")
			if status != 1 || stdout != "" || !strings.HasPrefix(stderr, "anchor: "+in) || !strings.Contains(stderr, k.want) {
				t.Errorf("status %d, stdout %q, stderr %q; want 1 and %q", status, stdout, stderr, k.want)
			}
			if kept, err := os.ReadFile(out); err != nil || string(kept) != "precious" {
				t.Errorf("OUT is %q, %v; want it as it was", kept, err)
			}
			if left := names(t, dir); !slices.Equal(left, []string{"in", "out"}) {
				t.Errorf("%q are there; want in and out", left)
			}
		})
	}
}

// The report has the scale that was used.
func TestAttendReportsScale(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	for scale, args := range map[float64][]string{1 / math.Sqrt(80): nil, 0.5: {"--scale", "0.5"}, 0: {"--scale", "0"}} {
		m := object(t, mustRun(t, append([]string{"attend", golden, "-o", out, "--json"}, args...)...), "scale")
		if got, _ := m["scale"].(float64); math.Abs(got-scale) > 1e-7 {
			t.Errorf("scale is %v; want %v", m["scale"], scale)
		}
	}
}

// Without --json there is a summary for people.
func TestAttendSummary(t *testing.T) {
	out := mustRun(t, "attend", golden, "-o", filepath.Join(t.TempDir(), "out"), "--audit", "8")
	for _, want := range []string{"method", "queries 300", "seconds", "density", "recall"} {
		if !strings.Contains(out, want) {
			t.Errorf("%q is not in\n%s", want, out)
		}
	}
}
