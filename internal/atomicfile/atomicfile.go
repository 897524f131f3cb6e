// Package atomicfile writes files that appear whole or not at all.
package atomicfile

import (
	"bufio"
	"context"
	"crypto/rand"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Write calls write with a buffered writer to a new file beside path, flushes it to disk and renames it to path.
// Upon an error, write's included, nothing is left behind and whatever was at path stays as it was; the end of the
// context is an error. A path that exists must be a regular file, whose permissions the new one gets. Where path is a
// link, what it leads to is written.
func Write(ctx context.Context, path string, write func(w io.Writer) error) (err error) {
	path, err = follow(path)
	if err != nil {
		return err
	}
	mode := fs.FileMode(0o666)
	info, err := os.Stat(path)
	exists := err == nil
	if exists {
		if mode = info.Mode(); !mode.IsRegular() {
			return fmt.Errorf("%s is not a regular file (%v)", path, mode.Type())
		}
	}
	// Not os.CreateTemp, whose files nobody else may read.
	dir, base := filepath.Split(path)
	beside := dir + "." + base + "." + rand.Text()[:10] + ".tmp"
	f, err := os.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode.Perm())
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			f.Close() // a second Close does no harm
			os.Remove(beside)
		}
	}()
	if exists {
		if err := f.Chmod(mode.Perm()); err != nil { // the umask may have taken some away
			return fmt.Errorf("cannot write %s: %w", path, err)
		}
	}
	w := bufio.NewWriterSize(f, 1<<20)
	if err := write(&writer{ctx, w}); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	if err := f.Sync(); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	if err := f.Close(); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	if err := os.Rename(beside, path); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}

// follow returns what a path leads to, whether that exists or not, if it is a link.
func follow(path string) (string, error) {
	at := path
	for range 40 { // as many as Linux follows
		to, err := os.Readlink(at)
		if err != nil {
			return at, nil // no link
		}
		if !filepath.IsAbs(to) {
			dir, _ := filepath.Split(at)
			to = dir + to // not Join: where dir is a link, dir/.. is not what lies before it
		}
		at = to
	}
	return "", fmt.Errorf("cannot write %s: too many links", path)
}

// A writer writes until its context ends.
type writer struct {
	ctx context.Context
	w   io.Writer
}

func (w *writer) Write(p []byte) (n int, err error) {
	const piece = 4 << 20
	for {
		if err := w.ctx.Err(); err != nil {
			return n, err
		}
		k, err := w.w.Write(p[:min(piece, len(p))])
		n, p = n+k, p[k:]
		if err != nil || len(p) == 0 {
			return n, err
		}
	}
}
