//go:build !(linux || darwin)

package safetensors

import "os"

// mapFile reads a file where mapping is not done.
func mapFile(path string) (data []byte, unmap func() error, err error) {
	data, err = os.ReadFile(path)
	return data, func() error { return nil }, unwrap(err)
}
