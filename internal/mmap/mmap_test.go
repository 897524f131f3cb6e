package mmap

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// The bytes are the file's, mapped and read past the mapping.
func TestOpen(t *testing.T) {
	for _, want := range []string{"", "some bytes", strings.Repeat("long", 1<<16)} {
		path := filepath.Join(t.TempDir(), "file")
		if err := os.WriteFile(path, []byte(want), 0o666); err != nil {
			t.Fatal(err)
		}
		f, err := Open(path)
		if err != nil {
			t.Fatal(err)
		}
		if string(f.Bytes()) != want {
			t.Errorf("a file of %d bytes has others", len(want))
		}
		if got, err := io.ReadAll(io.NewSectionReader(f, 1, 1<<20)); err != nil || string(got) != want[min(1, len(want)):] {
			t.Errorf("a file of %d bytes reads %d after the first, error %v", len(want), len(got), err)
		}
		if err := errors.Join(f.Close(), f.Close()); err != nil {
			t.Error(err)
		}
	}
}

// What cannot be mapped is an error that names it once.
func TestOpenErrors(t *testing.T) {
	dir := t.TempDir()
	absent := filepath.Join(dir, "absent")
	if _, err := Open(absent); !errors.Is(err, fs.ErrNotExist) || strings.Count(err.Error(), absent) != 1 {
		t.Errorf("error %v", err)
	}
	if _, err := Open(dir); err == nil || strings.Count(err.Error(), dir) != 1 {
		t.Errorf("error %v", err)
	}
}
