package atomicfile

import (
	"context"
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
		err := Write(t.Context(), path, func(w io.Writer) error {
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
	err := Write(t.Context(), link, func(w io.Writer) error {
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

// Links that lead to nothing, one after the other, stay links, and what they lead to is made.
func TestWriteThroughDanglingLink(t *testing.T) {
	dir, links := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "file")
	err := errors.Join(
		os.Symlink(dir, filepath.Join(links, "elsewhere")),
		os.Symlink("elsewhere/../"+filepath.Base(dir)+"/file", filepath.Join(links, "second")),
		os.Symlink("second", filepath.Join(links, "first")),
		os.Symlink("loop", filepath.Join(links, "loop")))
	if err != nil {
		t.Skip(err)
	}
	hello := func(w io.Writer) error {
		_, err := io.WriteString(w, "hello")
		return err
	}
	if err := Write(t.Context(), filepath.Join(links, "first"), hello); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "hello" {
		t.Errorf("got %q", got)
	}
	only(t, path)
	if err := Write(t.Context(), filepath.Join(links, "loop"), hello); err == nil {
		t.Error("wrote to a link to itself")
	}
	entries, _ := os.ReadDir(links)
	for _, e := range entries {
		if e.Type() != os.ModeSymlink {
			t.Errorf("%s is no link any more", e.Name())
		}
	}
	if len(entries) != 4 {
		t.Errorf("left behind: %v", entries)
	}
}

// A file that is replaced keeps its permissions, whatever the umask.
func TestWriteKeepsMode(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	for _, want := range []os.FileMode{0o600, 0o640, 0o666, 0o755} {
		if err := errors.Join(os.WriteFile(path, nil, 0o666), os.Chmod(path, want)); err != nil {
			t.Fatal(err)
		}
		if err := Write(t.Context(), path, func(io.Writer) error { return nil }); err != nil {
			t.Fatal(err)
		}
		if info, err := os.Stat(path); err != nil || info.Mode() != want {
			t.Errorf("mode is %v (%v), want %v", info.Mode(), err, want)
		}
	}
}

// When the context ends, so does writing, at once, and even when all is written; nothing is left behind.
func TestWriteCanceled(t *testing.T) {
	for name, write := range map[string]func(w io.Writer, cancel func()) error{
		"before a write": func(w io.Writer, cancel func()) error {
			w.Write(make([]byte, 9<<20))
			cancel()
			n, err := w.Write([]byte{1})
			if n != 0 || !errors.Is(err, context.Canceled) {
				t.Errorf("wrote %d bytes, error %v; want none and that the context ended", n, err)
			}
			return err
		},
		"after the last": func(w io.Writer, cancel func()) error {
			_, err := w.Write([]byte{1})
			cancel()
			return err
		},
	} {
		path := filepath.Join(t.TempDir(), "file")
		os.WriteFile(path, []byte("old"), 0o666)
		ctx, cancel := context.WithCancel(t.Context())
		err := Write(ctx, path, func(w io.Writer) error { return write(w, cancel) })
		cancel()
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s: error %v", name, err)
		}
		if got, _ := os.ReadFile(path); string(got) != "old" {
			t.Errorf("%s: the file holds %q", name, got)
		}
		only(t, path)
	}
}

// Upon an error the old file stays and nothing else does.
func TestWriteFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	os.WriteFile(path, []byte("old"), 0o666)
	sorry := errors.New("sorry")
	err := Write(t.Context(), path, func(w io.Writer) error {
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
	if err := Write(t.Context(), filepath.Dir(path), never); err == nil {
		t.Error("wrote over a directory")
	}
	if err := Write(t.Context(), filepath.Join(path, "below"), never); err == nil {
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
