// Package mmap gives the bytes of files without reading them: a file is mapped into memory where that is done, and read
// elsewhere.
package mmap

import (
	"bytes"
	"errors"
	"fmt"
	"os"
)

// A File is the bytes of an open file. Its methods are safe for concurrent use, but for Close.
type File struct {
	data  []byte
	file  *os.File // that data is mapped from, nil if it was read
	close func() error
}

// Open maps a file. It must be a regular one, and must not be cut short while it is open: to touch what is gone ends the
// program.
func Open(path string) (*File, error) {
	f, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", path, unwrap(err))
	}
	return f, nil
}

// Bytes returns what is in the file. It must not be written to, nor used after Close.
func (f *File) Bytes() []byte { return f.data }

// ReadAt reads bytes into memory of the caller's, past the mapping, whose pages would take memory beside it. It is
// that of [io.ReaderAt].
func (f *File) ReadAt(p []byte, at int64) (int, error) {
	if f.file == nil {
		return bytes.NewReader(f.data).ReadAt(p, at)
	}
	n, err := f.file.ReadAt(p, at)
	return n, unwrap(err)
}

// Close unmaps and closes the file. A second Close does nothing.
func (f *File) Close() error {
	if f.close == nil {
		return nil
	}
	close := f.close
	*f = File{}
	return close()
}

// unwrap drops the path from an error of package os.
func unwrap(err error) error {
	var p *os.PathError
	if errors.As(err, &p) {
		return p.Err
	}
	return err
}
