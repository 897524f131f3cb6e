package cuda

import (
	"embed"
	"errors"
	"fmt"
	"slices"
	"sync"
	"unsafe"

	"github.com/anchorattention/anchor"
)

//go:generate go run kernels/generate.go

//go:embed ptx/*.ptx
var ptx embed.FS

// A Device is a GPU, ready for calls of anchor.Attend, which names it in Options.Engine. Its methods may be called
// concurrently; calls take turns.
type Device struct {
	mu      sync.Mutex // held during a call
	driver  *driver
	ordinal uintptr
	context uintptr // 0 once closed
	stream  uintptr
	modules map[kind]*module
	costs   costs

	name          string
	major, minor  int
	arch          string // whose kernels it runs
	processors    int    // streaming multiprocessors
	memory, cache uint64 // bytes, of memory and of second-level cache
}

// A kind is what kernels are compiled for.
type kind struct {
	dtype anchor.DType
	dim   int
}

// dims are the sizes of heads that there are kernels for.
var dims = []int{64, 96, 128, 256}

// A module is the kernels of one kind, loaded.
type module struct {
	kind
	handle uintptr
	kernel [len(kernelNames)]uintptr
	launch [len(kernelNames)]launch
}

// A launch is how a kernel is started.
type launch struct {
	threads int  // of a block
	blocks  int  // that a multiprocessor holds
	shared  int  // bytes of a block
	waits   bool // itself for the kernel before it
}

// Open loads the driver and prepares the device of the given number, from 0 on. Close it.
func Open(ordinal int) (*Device, error) { return open(libraryName, ordinal, "") }

// open loads the driver of the given name. The device runs the kernels for the given architecture, "" for those that suit it best.
func open(library string, ordinal int, arch string) (d *Device, err error) {
	driver, err := openDriver(library)
	if err != nil {
		return nil, fmt.Errorf("cuda: %w", err)
	}
	d = &Device{driver: driver, modules: make(map[kind]*module), costs: measured}
	if err := d.prepare(ordinal, arch); err != nil {
		return nil, errors.Join(fmt.Errorf("cuda: %w", err), d.Close())
	}
	return d, nil
}

// architectures are those that there are kernels for, with the compute capabilities that run them. The last that a device runs is
// the best for it.
var architectures = []struct {
	name string
	want string // the capabilities in words
	runs func(major, minor int) bool
}{
	{"sm_80", "8.0 or more", func(major, minor int) bool { return major >= 8 }},
	{"sm_90a", "9.0", func(major, minor int) bool { return major == 9 && minor == 0 }},
}

// Attributes of a device, by CUdevice_attribute.
const (
	attributeProcessors = 16
	attributeCache      = 38
	attributeMajor      = 75
	attributeMinor      = 76
)

func (d *Device) prepare(ordinal int, arch string) error {
	c, f := d.driver, &d.driver.f
	if err := c.call("Init", f.Init, 0); err != nil {
		if s := (*Status)(nil); errors.As(err, &s) && s.Code == noDevice {
			return fmt.Errorf("there is no NVIDIA GPU: %w", err)
		}
		return err
	}
	devices := new(int32)
	if err := c.call("DeviceGetCount", f.DeviceGetCount, uintptr(unsafe.Pointer(devices))); err != nil {
		return err
	}
	if ordinal < 0 || ordinal >= int(*devices) {
		return fmt.Errorf("there is no device %d: there are %d, from 0 on", ordinal, *devices)
	}
	handle := new(int32)
	if err := c.call("DeviceGet", f.DeviceGet, uintptr(unsafe.Pointer(handle)), uintptr(ordinal)); err != nil {
		return err
	}
	d.ordinal = uintptr(*handle)
	name := make([]byte, 128)
	if err := c.call("DeviceGetName", f.DeviceGetName, uintptr(unsafe.Pointer(&name[0])), uintptr(len(name)-1), d.ordinal); err != nil {
		return err
	}
	d.name = goString(&name[0])
	var cache int
	for _, a := range []struct {
		attribute uintptr
		value     *int
	}{{attributeProcessors, &d.processors}, {attributeCache, &cache}, {attributeMajor, &d.major}, {attributeMinor, &d.minor}} {
		value := new(int32)
		if err := c.call("DeviceGetAttribute", f.DeviceGetAttribute, uintptr(unsafe.Pointer(value)), a.attribute, d.ordinal); err != nil {
			return err
		}
		*a.value = int(*value)
	}
	d.cache = uint64(cache)
	var want []string
	for _, a := range architectures {
		if arch != "" && arch != a.name {
			continue
		}
		want = append(want, a.want)
		if a.runs(d.major, d.minor) {
			d.arch = a.name
		}
	}
	if d.arch == "" {
		return fmt.Errorf("device %d, %s, has compute capability %d.%d; want %s", ordinal, d.name, d.major, d.minor, want[0])
	}
	context := new(uintptr)
	if err := c.call("DevicePrimaryCtxRetain", f.DevicePrimaryCtxRetain, uintptr(unsafe.Pointer(context)), d.ordinal); err != nil {
		return err
	}
	d.context = *context
	return d.inContext(func() error {
		stream, sizes := new(uintptr), new([2]uintptr)
		// Of the kind that waits for copies, which go to the default stream.
		if err := c.call("StreamCreate", f.StreamCreate, uintptr(unsafe.Pointer(stream)), 0); err != nil {
			return err
		}
		d.stream = *stream
		err := c.call("MemGetInfo", f.MemGetInfo, uintptr(unsafe.Pointer(&sizes[0])), uintptr(unsafe.Pointer(&sizes[1])))
		d.memory = uint64(sizes[1])
		return err
	})
}

func (d *Device) inContext(f func() error) error { return d.driver.inContext(d.context, f) }

var errClosed = errors.New("the device is closed")

// do calls f in its turn, with the device's context current. Errors get the package's name.
func (d *Device) do(f func() error) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	err := errClosed
	if d.driver != nil {
		err = d.inContext(f)
	}
	if err != nil {
		return fmt.Errorf("cuda: %w", err)
	}
	return nil
}

// String returns the device's name, compute capability, multiprocessors and memory.
func (d *Device) String() string {
	return fmt.Sprintf("%s (compute capability %d.%d, multiprocessors: %d, %.0f GiB)", d.name, d.major, d.minor, d.processors, float64(d.memory)/(1<<30))
}

// isa is what results call the kernels.
func (d *Device) isa() string { return "cuda " + d.arch }

// Close gives back the device, after it has done what was started. Graphs, calls and memory must be closed and freed before:
// what is left of them nobody can give back, and it stays as long as the process uses the device. Further calls of
// methods are errors.
func (d *Device) Close() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.driver == nil {
		return nil
	}
	c, f := d.driver, &d.driver.f
	var errs []error
	if d.context != 0 {
		errs = append(errs, d.inContext(func() error {
			var errs []error
			if d.stream != 0 {
				errs = append(errs, d.wait())
			}
			for _, m := range d.modules {
				errs = append(errs, c.call("ModuleUnload", f.ModuleUnload, m.handle))
			}
			if d.stream != 0 {
				errs = append(errs, c.call("StreamDestroy", f.StreamDestroy, d.stream))
			}
			return errors.Join(errs...)
		}), c.call("DevicePrimaryCtxRelease", f.DevicePrimaryCtxRelease, d.ordinal))
	}
	errs = append(errs, c.close())
	d.driver, d.context = nil, 0
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("cuda: %w", err)
	}
	return nil
}

// load returns the kernels of a kind, which it compiles when first asked. The device's context must be current.
func (d *Device) load(k kind) (*module, error) {
	if m := d.modules[k]; m != nil {
		return m, nil
	}
	c, f := d.driver, &d.driver.f
	name := map[anchor.DType]string{anchor.BFloat16: "bf16", anchor.Float16: "f16"}[k.dtype]
	text, err := ptx.ReadFile(fmt.Sprintf("ptx/%s_%d.%s.ptx", name, k.dim, d.arch))
	if err != nil {
		return nil, err
	}
	m := &module{kind: k, launch: launches[d.arch][k.dim]}
	if m.handle, err = c.module(text); err != nil {
		return nil, err
	}
	for i, name := range kernelNames {
		const maxDynamicShared = 8 // CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES
		address, text := new(uintptr), append([]byte(name), 0)
		err := c.call("ModuleGetFunction", f.ModuleGetFunction, uintptr(unsafe.Pointer(address)), m.handle, uintptr(unsafe.Pointer(&text[0])))
		if err == nil {
			err = c.call("FuncSetAttribute", f.FuncSetAttribute, *address, maxDynamicShared, uintptr(m.launch[i].shared))
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("kernel %s: %w", name, err), c.call("ModuleUnload", f.ModuleUnload, m.handle))
		}
		m.kernel[i] = *address
	}
	d.modules[k] = m
	return m, nil
}

// kindOf returns the kind of kernels for a call's tensors.
func kindOf(dtype anchor.DType, dim int) (kind, error) {
	if dtype != anchor.BFloat16 && dtype != anchor.Float16 {
		return kind{}, fmt.Errorf("element type is %v; want BF16 or F16", dtype)
	}
	i, _ := slices.BinarySearch(dims, dim)
	if i == len(dims) {
		return kind{}, fmt.Errorf("dim is %d; want 1 … %d", dim, dims[len(dims)-1])
	}
	return kind{dtype, dims[i]}, nil
}
