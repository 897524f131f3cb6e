package main

import (
	"encoding/json"
	"math"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/anchorattention/anchor"
	"github.com/anchorattention/anchor/internal/safetensors"
	"github.com/anchorattention/anchor/report"
)

// compare prints tables or one object, and writes a page; a file of tensors is an input like any other.
func TestCompare(t *testing.T) {
	in := filepath.Join(t.TempDir(), "qkv <1>.safetensors")
	writeInput(t, in, 4, 2, 300, 300, 16)
	dir := filepath.Join(t.TempDir(), "out")
	args := []string{"compare", in, "--methods", "anchor=5,xattention", "--points", "1", "--runs", "1", "--block", "16", "--step", "4", "--init", "8", "--local", "8", "--tail", "8"}
	code, stdout, stderr := anchorCommand(t, append(args, "--json", "--report", dir)...)
	if code != 0 {
		t.Fatalf("exit status %d: %s", code, stderr)
	}
	var got report.Comparison
	if err := json.Unmarshal([]byte(stdout), &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Inputs) != 1 || got.Inputs[0].Name != in || got.Inputs[0].Tokens != 300 || len(got.Inputs[0].Points) < 6 || got.Machine == "" || got.ISA == "" {
		t.Errorf("got %+v", got)
	}
	five := false
	for _, p := range got.Inputs[0].Points {
		five = five || p.Method == "anchor" && p.Value > 4.9 && p.Value < 5.1
	}
	if !five {
		t.Error("no point at the value that was given, 5")
	}
	page, err := os.ReadFile(filepath.Join(dir, "index.html"))
	if err != nil || strings.Contains(string(page), "qkv <1>") || !strings.Contains(string(page), "qkv &lt;1&gt;") {
		t.Errorf("page names its input unescaped, or not at all (%v)", err)
	}
	for _, format := range []string{"", "--markdown"} {
		code, stdout, stderr := anchorCommand(t, append(args, strings.Fields(format)...)...)
		if code != 0 || !strings.Contains(stdout, "xattention") {
			t.Errorf("%s: exit status %d, %s%s", format, code, stdout, stderr)
		}
	}
}

// What calibrate writes is what --params reads, flags go before it, and the heads' mean recall is the target.
func TestCalibrate(t *testing.T) {
	dir := t.TempDir()
	in, params := filepath.Join(dir, "in"), filepath.Join(dir, "params.json")
	writeInput(t, in, 4, 2, 300, 300, 16)
	shape := []string{"--block", "16", "--step", "4", "--init", "8", "--local", "8", "--tail", "8"}
	code, _, stderr := anchorCommand(t, append([]string{"calibrate", in, "--target", "0.9", "--audit", "300", "-o", params}, shape...)...)
	if code != 0 {
		t.Fatalf("exit status %d: %s", code, stderr)
	}
	data, err := os.ReadFile(params)
	if err != nil {
		t.Fatal(err)
	}
	var p anchor.Params
	if err := json.Unmarshal(data, &p); err != nil || len(p.HeadTheta) != 4 || p.Block != 16 {
		t.Fatalf("%s: %v; want thetas for 4 heads, and blocks of 16", data, err)
	}
	out := filepath.Join(dir, "out")
	code, stdout, stderr := anchorCommand(t, "attend", in, "-o", out, "--params", params, "--audit", "300", "--json")
	var got struct {
		Params anchor.Params
		Recall anchor.Recall
	}
	if err := json.Unmarshal([]byte(stdout), &got); code != 0 || err != nil || math.Abs(got.Recall.Mean-0.9) > 0.01 || len(got.Params.HeadTheta) != 4 || got.Params.Tail != 8 {
		t.Errorf("exit status %d: %s%s", code, stdout, stderr)
	}
	code, stdout, stderr = anchorCommand(t, append([]string{"calibrate", "--length", "200", "--audit", "20"}, shape...)...)
	if err := json.Unmarshal([]byte(stdout), &p); code != 0 || err != nil || len(p.HeadTheta) != 8 {
		t.Errorf("synthetic heads: exit status %d: %s%s", code, stdout, stderr)
	}
	code, stdout, stderr = anchorCommand(t, "attend", in, "-o", out, "--params", params, "--theta", "3", "--tail", "9", "--json")
	if err := json.Unmarshal([]byte(stdout), &got); code != 0 || err != nil || got.Params.Theta != 3 || got.Params.Tail != 9 {
		t.Errorf("exit status %d: %s%s", code, stdout, stderr)
	}
}

// attend takes every plain method and a value for its knob, and a target of recall.
func TestAttendMethods(t *testing.T) {
	dir := t.TempDir()
	in, out := filepath.Join(dir, "in"), filepath.Join(dir, "out")
	writeInput(t, in, 4, 2, 300, 300, 16)
	for _, m := range anchor.Methods() {
		name := m.Name
		if !m.Plain() {
			continue
		}
		if m.Knob != "" {
			name += "=0.5"
			if m.Knob == "keys" || m.Knob == "slash" || m.Knob == "window" || m.Knob == "blocks" {
				name = m.Name + "=16"
			}
		}
		code, stdout, stderr := anchorCommand(t, "attend", in, "-o", out, "--method", name, "--json")
		var got struct {
			Method, Knob string
			Value        float64
			Density      float64
			Params       *anchor.Params
		}
		if err := json.Unmarshal([]byte(stdout), &got); code != 0 || err != nil {
			t.Errorf("%s: exit status %d: %s%s", name, code, stdout, stderr)
			continue
		}
		if got.Knob != m.Knob || m.Knob != "" && got.Value != 0.5 && got.Value != 16 || (got.Params != nil) != (m.Name == "anchor" || m.Name == "auto") {
			t.Errorf("%s: %s", name, stdout)
		}
	}
	code, stdout, stderr := anchorCommand(t, "attend", in, "-o", out, "--theta", "-inf", "--block", "16", "--step", "2", "--init", "0", "--local", "0", "--audit", "64", "--target-recall", "0.99", "--json")
	var got struct {
		Recall  anchor.Recall
		Choices []choice
	}
	if err := json.Unmarshal([]byte(stdout), &got); code != 0 || err != nil || got.Recall.Mean < 0.99 || len(got.Choices) == 0 {
		t.Errorf("exit status %d: %s%s", code, stdout, stderr)
	}
}

// writeInput writes normal queries, keys and values.
func writeInput(t *testing.T, path string, heads, kvHeads, queries, keys, dim int) {
	t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	normal := func(name string, shape ...int) safetensors.Tensor {
		data := make([]float32, shape[0]*shape[1]*shape[2])
		for i := range data {
			data[i] = 2 * float32(r.NormFloat64())
		}
		return safetensors.Tensor{Name: name, DType: "F32", Shape: shape, Data: data}
	}
	err := safetensors.WriteFile(t.Context(), path, nil,
		normal("q", heads, queries, dim), normal("k", kvHeads, keys, dim), normal("v", kvHeads, keys, dim))
	if err != nil {
		t.Fatal(err)
	}
}
