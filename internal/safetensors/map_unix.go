//go:build linux || darwin

package safetensors

import (
	"errors"
	"fmt"
	"math"
	"os"

	"golang.org/x/sys/unix"
)

// mapFile maps a file into memory, read-only. The file stays open until unmap is called.
func mapFile(path string) (data []byte, file *os.File, unmap func() error, err error) {
	file, err = os.Open(path)
	if err != nil {
		return nil, nil, nil, unwrap(err)
	}
	defer func() {
		if err != nil {
			file.Close()
		}
	}()
	info, err := file.Stat()
	if err != nil {
		return nil, nil, nil, unwrap(err)
	}
	if !info.Mode().IsRegular() {
		return nil, nil, nil, fmt.Errorf("it is not a regular file")
	}
	size := info.Size()
	if size == 0 { // which cannot be mapped
		return nil, file, file.Close, nil
	}
	if size > math.MaxInt {
		return nil, nil, nil, fmt.Errorf("%d bytes are more than this machine can map", size)
	}
	data, err = unix.Mmap(int(file.Fd()), 0, int(size), unix.PROT_READ, unix.MAP_SHARED)
	if err != nil {
		return nil, nil, nil, fmt.Errorf("mmap: %w", err)
	}
	return data, file, func() error { return errors.Join(unix.Munmap(data), file.Close()) }, nil
}
