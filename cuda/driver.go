package cuda

import (
	"errors"
	"fmt"
	"runtime"
	"strings"
	"unsafe"
)

// A driver is NVIDIA's driver library: the addresses of the functions used, by name.
type driver struct {
	handle uintptr
	f      functions
}

// functions are addresses, each of the function of the same name with "cu" before it, in the version that its tag says.
type functions struct {
	Init, GetErrorName, GetErrorString uintptr

	DeviceGetCount, DeviceGet, DeviceGetName, DeviceGetAttribute uintptr
	DevicePrimaryCtxRetain                                       uintptr
	DevicePrimaryCtxRelease                                      uintptr `version:"_v2"`
	CtxPushCurrent, CtxPopCurrent                                uintptr `version:"_v2"`

	ModuleLoadDataEx, ModuleUnload, ModuleGetFunction, FuncSetAttribute uintptr
	LaunchKernelEx                                                      uintptr

	MemGetInfo, MemAlloc, MemFree, MemcpyHtoD, MemcpyDtoH uintptr `version:"_v2"`
	MemsetD8Async                                         uintptr

	StreamCreate, StreamSynchronize uintptr
	StreamDestroy                   uintptr `version:"_v2"`
	EventCreate, EventRecord        uintptr
	EventElapsedTime                uintptr
	EventDestroy                    uintptr `version:"_v2"`

	StreamBeginCapture                     uintptr `version:"_v2"`
	StreamEndCapture                       uintptr
	GraphInstantiateWithFlags, GraphLaunch uintptr
	GraphDestroy, GraphExecDestroy         uintptr
}

// openDriver loads the library of the given name and finds its functions.
func openDriver(name string) (*driver, error) {
	library, err := load(name)
	if err != nil {
		return nil, fmt.Errorf("the NVIDIA driver cannot be loaded: %w", err)
	}
	d := &driver{handle: library}
	for _, f := range d.f.all() {
		if *f.address, err = find(library, f.name); err != nil {
			return nil, errors.Join(fmt.Errorf("the NVIDIA driver %s is too old: %w", name, err), unload(library))
		}
	}
	return d, nil
}

func (d *driver) close() error { return unload(d.handle) }

// A Status is the error that a function of the driver returns.
type Status struct {
	Call string // the function
	Code int    // CUresult
	Text string // its name and what it means, in the driver's words
}

// Error returns the function, the code and the text.
func (s *Status) Error() string { return fmt.Sprintf("%s: error %d: %s", s.Call, s.Code, s.Text) }

// Codes of the driver that are told apart.
const (
	outOfMemory = 2
	noDevice    = 100
)

// call calls a function of the driver by its address.
//
//go:uintptrescapes
func (d *driver) call(name string, address uintptr, args ...uintptr) error {
	if code := int(int32(invoke(address, args...))); code != 0 {
		return &Status{Call: "cu" + name, Code: code, Text: d.text(code)}
	}
	return nil
}

// text returns the driver's name of a code and its description.
func (d *driver) text(code int) string {
	var words []string
	for _, f := range []uintptr{d.f.GetErrorName, d.f.GetErrorString} {
		text := new(*byte)
		if int32(invoke(f, uintptr(code), uintptr(unsafe.Pointer(text)))) == 0 && *text != nil {
			words = append(words, goString(*text))
		}
	}
	if len(words) == 0 {
		return "unknown to the driver"
	}
	return strings.Join(words, ", ")
}

// goString copies a string that ends with a zero.
func goString(p *byte) string {
	n := 0
	for *(*byte)(unsafe.Add(unsafe.Pointer(p), n)) != 0 {
		n++
	}
	return string(unsafe.Slice(p, n))
}

// inContext calls f with the context current, on a thread of its own for as long.
func (d *driver) inContext(context uintptr, f func() error) (err error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := d.call("CtxPushCurrent", d.f.CtxPushCurrent, context); err != nil {
		return err
	}
	defer func() {
		err = errors.Join(err, d.call("CtxPopCurrent", d.f.CtxPopCurrent, uintptr(unsafe.Pointer(new(uintptr)))))
	}()
	return f()
}

// A launchConfig is CUlaunchConfig.
type launchConfig struct {
	grid, block [3]uint32
	shared      uint32
	stream      uintptr
	attributes  *launchAttribute
	count       uint32 // of attributes
}

// A launchAttribute is CUlaunchAttribute, of those that are a number.
type launchAttribute struct {
	id    uint32
	_     uint32
	value uint32
	_     [60]byte
}

// launch starts a kernel with the one argument, which is read before it returns. If the kernel waits itself for the one before it,
// which is the last that was started, it can be brought to the multiprocessors meanwhile.
func (d *driver) launch(kernel uintptr, c launchConfig, argument unsafe.Pointer, waits bool) error {
	const programmaticSerialization = 6 // CU_LAUNCH_ATTRIBUTE_PROGRAMMATIC_STREAM_SERIALIZATION
	if waits {
		c.attributes, c.count = &launchAttribute{id: programmaticSerialization, value: 1}, 1
	}
	config, args := &c, []unsafe.Pointer{argument}
	err := d.call("LaunchKernelEx", d.f.LaunchKernelEx, uintptr(unsafe.Pointer(config)), kernel, uintptr(unsafe.Pointer(&args[0])), 0)
	runtime.KeepAlive(config)
	runtime.KeepAlive(args)
	return err
}

// module compiles PTX for the device. The error holds what the driver's compiler says.
func (d *driver) module(ptx []byte) (uintptr, error) {
	const (
		errorBuffer = 5 // CU_JIT_ERROR_LOG_BUFFER
		errorSize   = 6 // CU_JIT_ERROR_LOG_BUFFER_SIZE_BYTES
	)
	text := append(ptx[:len(ptx):len(ptx)], 0)
	log := make([]byte, 16<<10)
	options := []uint32{errorBuffer, errorSize}
	var pin runtime.Pinner // the driver writes to log by way of values, which hide the pointer
	pin.Pin(&log[0])
	defer pin.Unpin()
	values := []uintptr{uintptr(unsafe.Pointer(&log[0])), uintptr(len(log))}
	module := new(uintptr)
	err := d.call("ModuleLoadDataEx", d.f.ModuleLoadDataEx, uintptr(unsafe.Pointer(module)), uintptr(unsafe.Pointer(&text[0])),
		uintptr(len(options)), uintptr(unsafe.Pointer(&options[0])), uintptr(unsafe.Pointer(&values[0])))
	if err != nil {
		if said := strings.TrimSpace(goString(&log[0])); said != "" {
			err = fmt.Errorf("%w: %s", err, said)
		}
		return 0, err
	}
	return *module, nil
}

// alloc returns device memory of the given size, at least 16 bytes.
func (d *driver) alloc(bytes int) (uint64, error) {
	p := new(uint64)
	err := d.call("MemAlloc", d.f.MemAlloc, uintptr(unsafe.Pointer(p)), uintptr(max(bytes, 16)))
	if s := (*Status)(nil); errors.As(err, &s) && s.Code == outOfMemory {
		sizes := new([2]uintptr)
		if d.call("MemGetInfo", d.f.MemGetInfo, uintptr(unsafe.Pointer(&sizes[0])), uintptr(unsafe.Pointer(&sizes[1]))) == nil {
			return 0, fmt.Errorf("the device is out of memory: %.1f MiB wanted, %.1f of %.1f free: %w", mib(uintptr(bytes)), mib(sizes[0]), mib(sizes[1]), err)
		}
	}
	return *p, err
}

func mib(bytes uintptr) float64 { return float64(bytes) / (1 << 20) }
