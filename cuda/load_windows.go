//go:build amd64 || arm64

package cuda

import (
	"github.com/ebitengine/purego"
	"golang.org/x/sys/windows"
)

const libraryName = "nvcuda.dll"

func load(name string) (uintptr, error) {
	h, err := windows.LoadLibraryEx(name, 0, windows.LOAD_LIBRARY_SEARCH_SYSTEM32)
	return uintptr(h), err
}

func find(library uintptr, name string) (uintptr, error) {
	return windows.GetProcAddress(windows.Handle(library), name)
}

func unload(library uintptr) error { return windows.FreeLibrary(windows.Handle(library)) }

// invoke calls a C function.
//
//go:uintptrescapes
func invoke(address uintptr, args ...uintptr) uintptr {
	r, _, _ := purego.SyscallN(address, args...)
	return r
}
