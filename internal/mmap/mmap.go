// Package mmap gives the bytes of files without reading them: a file is mapped into memory where that is done, and read
// elsewhere.
package mmap

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"sync"
	"unsafe"
)

// A File is the bytes of an open file. Its methods are safe for concurrent use, but for Close.
type File struct {
	path  string
	data  []byte
	file  *os.File // that data is mapped from, nil if it was read
	close func() error
}

// open files, by whose addresses a fault is told
var (
	mu    sync.Mutex
	files = map[*File]bool{}
)

// Open maps a file. It must be a regular one, and must not be cut short while it is open: to touch what is gone ends the
// program, but where [Guard] holds.
func Open(path string) (*File, error) {
	f, err := open(path)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", path, unwrap(err))
	}
	f.path = path
	mu.Lock()
	defer mu.Unlock()
	files[f] = true
	return f, nil
}

// Guard turns a fault upon reading an open file, because it has been cut short since it was mapped or the disk fails, into
// an error that names it. It holds until the function that it returns is called, by defer and before the file is closed;
// goroutines of package parallel are guarded, too.
func Guard(err *error) (end func()) {
	before := debug.SetPanicOnFault(true)
	return func() {
		debug.SetPanicOnFault(before)
		p := recover()
		if p == nil {
			return
		}
		if fault, ok := p.(interface{ Addr() uintptr }); ok {
			if path, ok := at(fault.Addr()); ok {
				*err = fmt.Errorf("%s: cannot be read any more; it must not be cut short while it is in use", path)
				return
			}
		}
		panic(p)
	}
}

// at returns the path of the file that lies at an address.
func at(address uintptr) (path string, ok bool) {
	mu.Lock()
	defer mu.Unlock()
	for f := range files {
		first := uintptr(unsafe.Pointer(unsafe.SliceData(f.data)))
		if address >= first && address-first < uintptr(len(f.data)) {
			return f.path, true
		}
	}
	return "", false
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
	mu.Lock()
	delete(files, f)
	mu.Unlock()
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
