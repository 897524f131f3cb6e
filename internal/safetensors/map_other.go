//go:build !(linux || darwin)

package safetensors

import "os"

// mapFile reads a file where mapping is not done, and returns no file.
func mapFile(path string) (data []byte, file *os.File, unmap func() error, err error) {
	data, err = os.ReadFile(path)
	return data, nil, func() error { return nil }, unwrap(err)
}
