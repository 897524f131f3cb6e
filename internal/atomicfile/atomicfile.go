// Package atomicfile writes files that appear whole or not at all.
package atomicfile

import (
	"bufio"
	"crypto/rand"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// Write calls write with a buffered writer to a new file beside path, flushes it to disk and renames it to path.
// Upon an error, write's included, nothing is left behind and whatever was at path stays as it was. A path that
// exists must be a regular file or a link.
func Write(path string, write func(w io.Writer) error) (err error) {
	if to, err := filepath.EvalSymlinks(path); err == nil {
		if info, err := os.Stat(to); err == nil && !info.Mode().IsRegular() {
			return fmt.Errorf("%s is not a regular file (%v)", path, info.Mode().Type())
		}
		path = to // replace the file, not the link to it
	}
	// Not os.CreateTemp, whose files nobody else may read.
	beside := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+rand.Text()[:10]+".tmp")
	f, err := os.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
	if err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	defer func() {
		if err != nil {
			f.Close() // a second Close does no harm
			os.Remove(beside)
		}
	}()
	w := bufio.NewWriterSize(f, 1<<20)
	if err := write(w); err != nil {
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
	if err := os.Rename(beside, path); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return nil
}
