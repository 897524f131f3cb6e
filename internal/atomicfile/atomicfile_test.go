package atomicfile

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"
)

// A file is replaced as a whole.
func TestWrite(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, want := range []string{"first", "second, and longer"} {
		err := Write(path, func(w io.Writer) error {
			_, err := io.WriteString(w, want)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if got, _ := os.ReadFile(path); string(got) != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	only(t, path)
}

// A link stays a link; what it leads to is replaced.
func TestWriteThroughLink(t *testing.T) {
	dir := t.TempDir()
	path, link := filepath.Join(dir, "file"), filepath.Join(t.TempDir(), "link")
	os.WriteFile(path, []byte("old"), 0o666)
	if err := os.Symlink(path, link); err != nil {
		t.Skip(err)
	}
	err := Write(link, func(w io.Writer) error {
		_, err := io.WriteString(w, "new")
		return err
	})
	got, _ := os.ReadFile(path)
	if err != nil || string(got) != "new" {
		t.Errorf("got %q and error %v", got, err)
	}
	only(t, path)
	only(t, link)
}

// Upon an error the old file stays and nothing else does.
func TestWriteFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	os.WriteFile(path, []byte("old"), 0o666)
	sorry := errors.New("sorry")
	err := Write(path, func(w io.Writer) error {
		w.Write(make([]byte, 3<<20))
		return sorry
	})
	if !errors.Is(err, sorry) {
		t.Errorf("got error %v, want %v", err, sorry)
	}
	if got, _ := os.ReadFile(path); string(got) != "old" {
		t.Errorf("the file holds %q", got)
	}
	only(t, path)

	never := func(io.Writer) error { t.Error("called"); return nil }
	if err := Write(filepath.Dir(path), never); err == nil {
		t.Error("wrote over a directory")
	}
	if err := Write(filepath.Join(path, "below"), never); err == nil {
		t.Error("wrote below a file")
	}
}

// only checks that a directory holds one file.
func only(t *testing.T, path string) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 || entries[0].Name() != filepath.Base(path) {
		t.Errorf("the directory holds %v (%v)", entries, err)
	}
}
