package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func TestDevice(t *testing.T) {
	out := filepath.Join(t.TempDir(), "out")
	args := append([]string{"attend", golden, "-o", out, "--device"}, "gpu")
	if status, _, stderr := anchorCommand(t, args...); status != 2 || !strings.Contains(stderr, `--device is "gpu"; want cpu`) {
		t.Errorf("status %d, %q", status, stderr)
	}
	for _, other := range [][]string{{"bench", "--lengths", "64"}, {"compare", "--lengths", "64"}} {
		if status, _, stderr := anchorCommand(t, append(other, "--device", "gpu")...); status != 2 || !strings.Contains(stderr, `--device is "gpu"; want cpu`) {
			t.Errorf("%s: status %d, %q", other[0], status, stderr)
		}
	}
	// Golden files are in single precision, which no GPU does here, and most machines have none.
	args[len(args)-1] = "cuda"
	if status, stdout, stderr := anchorCommand(t, args...); status == 0 || stdout != "" || strings.Count(stderr, "\n") != 1 {
		t.Errorf("status %d, %q, %q", status, stdout, stderr)
	}
	if _, err := os.Stat(out); err == nil {
		t.Error("the output was written")
	}
}
