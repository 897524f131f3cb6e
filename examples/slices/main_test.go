package main

import (
	"regexp"
	"strings"
	"testing"
)

// AnchorAttention attends to a part of the keys and loses next to nothing.
func TestRun(t *testing.T) {
	var out strings.Builder
	if err := run(t.Context(), &out, 4500); err != nil {
		t.Fatal(err)
	}
	want := regexp.MustCompile(`^dense .*density 1\.000, recall 1\.0000, off by 0\.0e\+00 of the output\nanchor .*density 0\.[0-9]+, recall (1\.0000|0\.99..), off by [0-9.]+e-0[3-9] of the output\n$`)
	if !want.MatchString(out.String()) {
		t.Errorf("got %q; want what matches %s", out.String(), want)
	}
}
