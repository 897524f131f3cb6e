//go:build !((linux || darwin || windows) && (amd64 || arm64))

package cuda

import (
	"fmt"
	"runtime"
)

const libraryName = "libcuda.so.1"

func load(string) (uintptr, error) {
	return 0, fmt.Errorf("not on %s/%s", runtime.GOOS, runtime.GOARCH)
}

func find(uintptr, string) (uintptr, error) { panic("cuda: no library") }

func unload(uintptr) error { return nil }

func invoke(uintptr, ...uintptr) uintptr { panic("cuda: no library") }
