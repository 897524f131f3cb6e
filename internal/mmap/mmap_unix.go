//go:build linux || darwin

package mmap

import (
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

func open(path string) (_ *File, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if !info.Mode().IsRegular() {
		return nil, errors.New("it is not a regular file")
	}
	size := info.Size()
	if size == 0 { // which cannot be mapped
		return &File{file: file, close: file.Close}, nil
	}
	if size > math.MaxInt {
		return nil, fmt.Errorf("%d bytes are more than this machine can map", size)
	}
	data, err := unix.Mmap(int(file.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mmap: %w", err)
	}
	return &File{data: data, file: file, close: func() error { return errors.Join(unix.Munmap(data), file.Close()) }}, nil
}
