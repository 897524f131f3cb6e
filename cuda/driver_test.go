//go:build (linux || darwin) && (amd64 || arm64)

package cuda

import (
	"errors"
	"math"
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
	f.call("fake_shared", 227<<10)
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
	for i, kind := range []string{"contexts", "streams", "events", "modules", "pieces of memory", "graphs", "graphs ready to start"} {
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

var fakeParams = anchor.Params{Block: 8, Step: 4, Init: 4, Local: 4, Theta: 3, Tail: 5}

// attendAll opens the device, attends with all planners, and closes it.
func (f *fake) attendAll(t *testing.T) error {
	d, err := open(f.path, 0, "")
	if err != nil {
		return err
	}
	d.costs = eager
	for _, planner := range []anchor.Planner{anchor.Dense(), anchor.AnchorAttention(fakeParams), anchor.Auto(fakeParams)} {
		s := newProblem(1, 4, 2, 100, 800, 48, anchor.BFloat16).sequence()
		if _, err = anchor.Attend(t.Context(), anchor.Options{Planner: planner, Engine: d, Stripes: true}, s); err != nil {
			break
		}
	}
	if err == nil {
		err = f.startAll(t, d)
	}
	return errors.Join(err, d.Close(), d.Close())
}

// startAll starts a call and a graph of it, and gives everything back.
func (f *fake) startAll(t *testing.T, d *Device) (err error) {
	p := newProblem(1, 4, 2, 100, 300, 64, anchor.BFloat16)
	s, free, err := p.resident(d, 16)
	defer func() { err = errors.Join(err, free()) }()
	if err != nil {
		return err
	}
	c, err := d.Prepare(anchor.Options{Planner: anchor.AnchorAttention(fakeParams)}, s, s)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.Close(), c.Close()) }()
	g, err := d.Graph(c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, g.Close(), g.Close()) }()
	if _, err := d.Time(func() error { return errors.Join(c.Start(), g.Start()) }); err != nil {
		return err
	}
	if _, err := c.Stripes(); err != nil {
		return err
	}
	_, err = c.Result()
	return errors.Join(err, d.Wait())
}

func TestFakeDriver(t *testing.T) {
	f := newFake(t)
	if err := f.attendAll(t); err != nil {
		t.Fatal(err)
	}
	if n := f.call("fake_launches"); n != 1+4+5+2*4 {
		t.Errorf("kernels started: %d; want 18", n)
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

// A device runs the best kernels that it can, and no kernel takes more shared memory than it has.
func TestArchitectures(t *testing.T) {
	f := newFake(t)
	for _, c := range []struct {
		compute, shared uintptr // shared memory of a block at most
		arch            string
	}{{80, 163 << 10, "sm_80"}, {86, 99 << 10, "sm_80"}, {89, 99 << 10, "sm_80"}, {90, 227 << 10, "sm_90a"}, {100, 227 << 10, "sm_80"}, {120, 99 << 10, "sm_80"}} {
		f.call("fake_compute", c.compute)
		f.call("fake_shared", c.shared)
		if err := f.attendAll(t); err != nil {
			t.Errorf("compute capability %d: %v", c.compute, err)
		}
		d, err := open(f.path, 0, "")
		if err != nil {
			t.Fatal(err)
		}
		s := newProblem(1, 4, 2, 100, 300, 48, anchor.BFloat16).sequence()
		res, err := anchor.Attend(t.Context(), anchor.Options{Planner: anchor.Dense(), Engine: d}, s)
		if err != nil || res.ISA != "cuda "+c.arch {
			t.Errorf("compute capability %d: kernels %q, error %v; want cuda %s", c.compute, res.ISA, err, c.arch)
		}
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}
	f.call("fake_compute", 86)
	if _, err := open(f.path, 0, "sm_90a"); err == nil || !strings.Contains(err.Error(), "has compute capability 8.6; want 9.0") {
		t.Errorf("sm_90a on 8.6: %v", err)
	}
}

func TestErrors(t *testing.T) {
	f := newFake(t)
	if _, err := open(f.path, 1, ""); err == nil || !strings.Contains(err.Error(), "no device 1: there are 1") {
		t.Errorf("device 1: %v", err)
	}
	f.call("fake_compute", 75)
	if _, err := open(f.path, 0, ""); err == nil || !strings.Contains(err.Error(), "Fake GPU, has compute capability 7.5; want 8.0 or more") {
		t.Errorf("old device: %v", err)
	}
	f.call("fake_compute", 90)
	f.call("fake_fail", 1, noDevice)
	if _, err := open(f.path, 0, ""); err == nil || !strings.Contains(err.Error(), "there is no NVIDIA GPU") {
		t.Errorf("no device: %v", err)
	}
	f.call("fake_fail", 0, 0)
	if _, err := open("/nonexistent/libcuda.so", 0, ""); err == nil || !strings.Contains(err.Error(), "cannot be loaded") {
		t.Errorf("no driver: %v", err)
	}
	if _, err := open(libc(t), 0, ""); err == nil || !strings.Contains(err.Error(), "too old") {
		t.Errorf("not a driver: %v", err)
	}
	d, err := open(f.path, 0, "")
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
		{"planner", "planner streaming", anchor.StreamingLLM(anchor.DefaultStreamingParams()), nil},
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

// What Prepare refuses, it names.
func TestPrepareErrors(t *testing.T) {
	f := newFake(t)
	d, err := open(f.path, 0, "")
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := d.Close(); err != nil {
			t.Error(err)
		}
	}()
	good := newProblem(1, 4, 2, 10, 40, 64, anchor.BFloat16)
	s, free, err := good.resident(d, 16)
	defer func() {
		if err := free(); err != nil {
			t.Error(err)
		}
	}()
	if err != nil {
		t.Fatal(err)
	}
	minus := float32(-1)
	for _, c := range []struct {
		want   string
		change func(opt *anchor.Options, s *Sequence)
	}{
		{"Planner is nil", func(opt *anchor.Options, s *Sequence) { opt.Planner = nil }},
		{"planner streaming is not for GPUs", func(opt *anchor.Options, s *Sequence) {
			opt.Planner = anchor.StreamingLLM(anchor.DefaultStreamingParams())
		}},
		{"Params.Block is 0", func(opt *anchor.Options, s *Sequence) { opt.Planner = anchor.AnchorAttention(anchor.Params{}) }},
		{"an audit", func(opt *anchor.Options, s *Sequence) { opt.AuditRows = 1 }},
		{"Scale is -1; want ≥ 0", func(opt *anchor.Options, s *Sequence) { opt.Scale = &minus }},
		{"Q is not in memory of this device", func(opt *anchor.Options, s *Sequence) { s.Q.Memory = nil }},
		{"K has shape [0, 40, 64]", func(opt *anchor.Options, s *Sequence) { s.K.Heads = 0 }},
		{"Q of shape [4, 10, 64] with offset 8, steps 640, 64 and 0 and last page 0 goes beyond its memory, 2560 elements", func(opt *anchor.Options, s *Sequence) { s.Q.Offset = 8 }},
		{"Q has offset 1 and", func(opt *anchor.Options, s *Sequence) { s.Q.Offset = 1 }},
		{"Q of shape [4, 10, 64] with offset 0, steps 4611686018427387904", func(opt *anchor.Options, s *Sequence) { s.Q.HeadStep = 1 << 62 }},
		{"want less than", func(opt *anchor.Options, s *Sequence) { s.Q.RowStep = 1 << 40 }},
		{"pages have 24 rows; want a power of two", func(opt *anchor.Options, s *Sequence) { s.PageRows = 24 }},
		{"2 pages of 16 rows; 40 rows need 3", func(opt *anchor.Options, s *Sequence) { s.Pages = s.Pages[:2] }},
		{"page -1 at 1", func(opt *anchor.Options, s *Sequence) { s.Pages = []int32{0, -1, 2} }},
		{"last page 6 goes beyond", func(opt *anchor.Options, s *Sequence) { s.Pages = []int32{0, 6, 2} }},
		{"want a multiple", func(opt *anchor.Options, s *Sequence) { s.K.PageStep = 8 }},
		{"V has a step of 8 between rows and K of 128", func(opt *anchor.Options, s *Sequence) { s.V.RowStep = 8 }},
		{"V has a step of 1024 between pages and K of 2048", func(opt *anchor.Options, s *Sequence) { s.V.PageStep /= 2 }},
		{"types BF16, F16 and BF16", func(opt *anchor.Options, s *Sequence) { s.K.DType = anchor.Float16 }},
		{"K has dim 56; Q has 64", func(opt *anchor.Options, s *Sequence) { s.K.Dim = 56 }},
		{"want [2, 40, 64], as K", func(opt *anchor.Options, s *Sequence) { s.V.Rows = 39 }},
		{"Q has 3 heads and K 2", func(opt *anchor.Options, s *Sequence) { s.Q.Heads = 3 }},
		{"Q has 10 rows and K 9", func(opt *anchor.Options, s *Sequence) { s.K.Rows, s.V.Rows = 9, 9 }},
		{"O is F16 of shape [4, 10, 64]; want F32 or BF16", func(opt *anchor.Options, s *Sequence) { s.O.DType = anchor.Float16 }},
		{"O has steps 320 (heads) and 64 (rows), and LSE 10 and 1: rows overlap", func(opt *anchor.Options, s *Sequence) { s.O.HeadStep /= 2 }},
		{"and LSE 0 and 0: rows overlap", func(opt *anchor.Options, s *Sequence) { s.LSE.HeadStep, s.LSE.RowStep = 0, 0 }},
		{"LSE is F32 of shape [4, 9, 1]", func(opt *anchor.Options, s *Sequence) { s.LSE.Rows = 9 }},
		{"Prompt is -1", func(opt *anchor.Options, s *Sequence) { s.Prompt = -1 }},
		{"dim is 56; want one of", func(opt *anchor.Options, s *Sequence) { s.Q.Dim, s.K.Dim, s.V.Dim, s.O.Dim = 56, 56, 56, 56 }},
	} {
		opt, changed := anchor.Options{Planner: anchor.Dense()}, s
		c.change(&opt, &changed)
		if call, err := d.Prepare(opt, changed); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("got %v, want %q", err, c.want)
			if call != nil {
				call.Close()
			}
		}
	}
	second := s
	second.Q.RowStep = 0
	if _, err := d.Prepare(anchor.Options{Planner: anchor.Dense()}, s, second); err == nil || !strings.Contains(err.Error(), "sequence 1 has a step of 0") {
		t.Errorf("steps: %v", err)
	}
	first, third := s, s
	first.LSE = Tensor{}
	third.LSE.HeadStep, third.LSE.RowStep = 1, 4
	if _, err := d.Prepare(anchor.Options{Planner: anchor.Dense()}, first, s, third); err == nil || !strings.Contains(err.Error(), "sequence 2 has a step of 4 between rows where one before it has 1") {
		t.Errorf("steps of LSE: %v", err)
	}
	if _, err := d.Prepare(anchor.Options{Planner: anchor.Dense()}); err == nil || !strings.Contains(err.Error(), "no sequences") {
		t.Errorf("nothing: %v", err)
	}
	if _, err := d.Graph(); err == nil || !strings.Contains(err.Error(), "no calls") {
		t.Errorf("graph of nothing: %v", err)
	}
	if _, err := d.Alloc(0); err == nil || !strings.Contains(err.Error(), "0 bytes") {
		t.Errorf("no memory: %v", err)
	}
	m := s.Q.Memory
	for _, at := range []int{-1, 2551, math.MaxInt} {
		if err := Write(m, at, make([]uint16, 10)); err == nil || !strings.Contains(err.Error(), "of memory that has 2560") {
			t.Errorf("write at %d: %v", at, err)
		}
	}
	c, err := d.Prepare(anchor.Options{Planner: anchor.Dense()}, s)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.Result(); err == nil || !strings.Contains(err.Error(), "not started") {
		t.Errorf("result before a start: %v", err)
	}
	g, err := d.Graph(c)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	if err := g.Start(); err == nil || !strings.Contains(err.Error(), "call 0: the call is closed") {
		t.Errorf("start of a graph of a closed call: %v", err)
	}
	if err := g.Close(); err != nil {
		t.Error(err)
	}
	if err := c.Start(); err == nil || !strings.Contains(err.Error(), "the call is closed") {
		t.Errorf("start of a closed call: %v", err)
	}
	if _, err := d.Graph(c); err == nil || !strings.Contains(err.Error(), "call 0: the call is closed") {
		t.Errorf("graph of a closed call: %v", err)
	}
	if c, err = d.Prepare(anchor.Options{Planner: anchor.Dense()}, s); err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if err := m.Free(); err != nil {
		t.Error(err)
	}
	if err := c.Start(); err == nil || !strings.Contains(err.Error(), "memory of a tensor was freed") {
		t.Errorf("start without memory: %v", err)
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
