//go:build (linux || darwin) && (amd64 || arm64)

package cuda

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/anchorattention/anchor"
)

// A fake is the driver library of testdata/driver.c. All tests share one, since a library is loaded once.
type fake struct {
	path   string
	handle uintptr
}

var buildFake = sync.OnceValues(func() (string, error) {
	cc, err := exec.LookPath("cc")
	if err != nil {
		return "", err
	}
	dir, err := os.MkdirTemp("", "anchor-cuda")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "driver.so")
	out, err := exec.Command(cc, "-shared", "-fPIC", "-o", path, "testdata/driver.c").CombinedOutput()
	if err != nil {
		return "", errors.New(err.Error() + ": " + string(out))
	}
	return path, nil
})

func newFake(t *testing.T) *fake {
	t.Helper()
	path, err := buildFake()
	if err != nil {
		t.Skipf("the fake driver cannot be built, for which a C compiler is needed: %v", err)
	}
	library, err := load(path)
	if err != nil {
		t.Fatal(err)
	}
	f := &fake{path, library}
	f.call("fake_fail", 0, 0)
	f.call("fake_compute", 90)
	t.Cleanup(func() {
		f.leaks(t)
		if err := unload(library); err != nil {
			t.Error(err)
		}
	})
	return f
}

func (f *fake) call(name string, args ...uintptr) int {
	address, err := find(f.handle, name)
	if err != nil {
		panic(err)
	}
	return int(int32(invoke(address, args...)))
}

// leaks reports what was not given back.
func (f *fake) leaks(t *testing.T) {
	t.Helper()
	for i, kind := range []string{"contexts", "streams", "events", "modules", "pieces of memory"} {
		if n := f.call("fake_live", uintptr(i)); n != 0 {
			t.Errorf("%s held: %d", kind, n)
		}
	}
	if n := f.call("fake_pushed"); n != 0 {
		t.Errorf("contexts still current: %d", n)
	}
	if n := f.call("fake_wrong"); n != 0 {
		t.Errorf("wrong handles or addresses: %d", n)
	}
}

// attendAll opens the device, attends with both planners, and closes it.
func (f *fake) attendAll(t *testing.T) error {
	d, err := open(f.path, 0)
	if err != nil {
		return err
	}
	for _, planner := range []anchor.Planner{anchor.Dense(), anchor.AnchorAttention(anchor.Params{Block: 8, Step: 4, Init: 4, Local: 4, Theta: 3, Tail: 5})} {
		s := newProblem(1, 4, 2, 100, 300, 48, anchor.BFloat16).sequence()
		if _, err = anchor.Attend(t.Context(), anchor.Options{Planner: planner, Engine: d, Stripes: true}, s); err != nil {
			break
		}
	}
	return errors.Join(err, d.Close(), d.Close())
}

func TestFakeDriver(t *testing.T) {
	f := newFake(t)
	if err := f.attendAll(t); err != nil {
		t.Fatal(err)
	}
	if n := f.call("fake_launches"); n != 6 {
		t.Errorf("kernels started: %d; want 6", n)
	}
}

// Whichever call of the driver fails, the error says so and nothing leaks.
func TestEveryFailure(t *testing.T) {
	f := newFake(t)
	f.call("fake_fail", 0, 0)
	if err := f.attendAll(t); err != nil {
		t.Fatal(err)
	}
	calls := f.call("fake_calls")
	for i := 1; i <= calls; i++ {
		f.call("fake_fail", uintptr(i), 719)
		err := f.attendAll(t)
		if s := (*Status)(nil); !errors.As(err, &s) || s.Code != 719 || !strings.Contains(err.Error(), "as the test wants it") {
			t.Errorf("call %d of %d: got error %v", i, calls, err)
		}
		f.leaks(t)
	}
}

func TestErrors(t *testing.T) {
	f := newFake(t)
	if _, err := open(f.path, 1); err == nil || !strings.Contains(err.Error(), "no device 1: there are 1") {
		t.Errorf("device 1: %v", err)
	}
	f.call("fake_compute", 86)
	if _, err := open(f.path, 0); err == nil || !strings.Contains(err.Error(), "Fake GPU, has compute capability 8.6; want 9.0") {
		t.Errorf("old device: %v", err)
	}
	f.call("fake_compute", 90)
	f.call("fake_fail", 1, noDevice)
	if _, err := open(f.path, 0); err == nil || !strings.Contains(err.Error(), "there is no NVIDIA GPU") {
		t.Errorf("no device: %v", err)
	}
	f.call("fake_fail", 0, 0)
	if _, err := open("/nonexistent/libcuda.so", 0); err == nil || !strings.Contains(err.Error(), "cannot be loaded") {
		t.Errorf("no driver: %v", err)
	}
	if _, err := open(libc(t), 0); err == nil || !strings.Contains(err.Error(), "too old") {
		t.Errorf("not a driver: %v", err)
	}
	d, err := open(f.path, 0)
	if err != nil {
		t.Fatal(err)
	}
	if got := d.String(); got != "Fake GPU (compute capability 9.0, multiprocessors: 4, 2 GiB)" {
		t.Errorf("got %q", got)
	}
	for _, c := range []struct {
		name, want string
		planner    anchor.Planner
		change     func(*anchor.Sequence)
	}{
		{"auto", "planner auto", anchor.Auto(anchor.DefaultParams()), nil},
		{"F32", "element type is F32; want BF16 or F16", anchor.Dense(), func(s *anchor.Sequence) {
			s.Q = anchor.FromFloat32(make([]float32, 10*64), 1, 10, 64)
		}},
		{"mixed", "BF16, F16 and BF16", anchor.Dense(), func(s *anchor.Sequence) {
			s.K = anchor.FromFloat16(make([]uint16, 10*64), 1, 10, 64)
		}},
		{"memory", "out of memory: 1464.8 MiB wanted, 1024.0 of 2048.0 free", anchor.Dense(), func(s *anchor.Sequence) {
			s.K = anchor.FromBFloat16(make([]uint16, 64), 1, 12e6, 64).Strided(0, 0)
			s.V = s.K
		}},
	} {
		s := newProblem(1, 1, 1, 10, 10, 64, anchor.BFloat16).sequence()
		if c.change != nil {
			c.change(&s)
		}
		_, err := anchor.Attend(t.Context(), anchor.Options{Planner: c.planner, Engine: d}, s)
		if err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: got %v, want %q", c.name, err, c.want)
		}
	}
	// The first call makes the context current, the second compiles.
	f.call("fake_fail", 2, 218)
	_, err = anchor.Attend(t.Context(), anchor.Options{Planner: anchor.Dense(), Engine: d}, newProblem(1, 1, 1, 10, 10, 128, anchor.BFloat16).sequence())
	if err == nil || !strings.Contains(err.Error(), "ptxas says: no") {
		t.Errorf("the compiler's log is missing: %v", err)
	}
	f.call("fake_fail", 0, 0)
	if err := d.Close(); err != nil {
		t.Error(err)
	}
	if _, err := anchor.Attend(t.Context(), anchor.Options{Planner: anchor.Dense(), Engine: d}, newProblem(1, 1, 1, 10, 10, 64, anchor.BFloat16).sequence()); err == nil || !strings.Contains(err.Error(), "closed") {
		t.Errorf("closed: %v", err)
	}
}

// libc returns the name of a library that is no driver.
func libc(t *testing.T) string {
	for _, name := range []string{"libc.so.6", "libc.so.7", "/usr/lib/libSystem.B.dylib"} {
		if l, err := load(name); err == nil {
			if err := unload(l); err != nil {
				t.Error(err)
			}
			return name
		}
	}
	t.Skip("no library to try")
	return ""
}
