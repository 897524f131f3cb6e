//go:build (linux || darwin) && (amd64 || arm64)

package cuda

import "github.com/ebitengine/purego"

const libraryName = "libcuda.so.1"

func load(name string) (uintptr, error) {
	return purego.Dlopen(name, purego.RTLD_NOW|purego.RTLD_LOCAL)
}

func find(library uintptr, name string) (uintptr, error) { return purego.Dlsym(library, name) }

func unload(library uintptr) error { return purego.Dlclose(library) }

// invoke calls a C function.
//
//go:uintptrescapes
func invoke(address uintptr, args ...uintptr) uintptr {
	r, _, _ := purego.SyscallN(address, args...)
	return r
}
