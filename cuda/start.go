package cuda

import (
	"fmt"
	"math"
	"unsafe"

	"github.com/anchorattention/anchor"
)

// start starts the kernels, and calls mark, if there is one, after those of each stage.
func (c *Call) start(mark func(anchor.Stage) error) error {
	a, p, s := &c.args, c.plan, starter{Call: c, mark: mark}
	s.clear(a.tally, 4*c.counters())
	if len(p.sparse) > 0 {
		s.identify()
	}
	s.attend(a, s.hand(attend, c.tilesAt, len(p.tiles), tallyAttend))
	if p.params == nil {
		s.done(anchor.StageDense)
	} else {
		s.done(anchor.StageSparse)
	}
	return s.err
}

// identify starts what finds stripes.
func (s *starter) identify() {
	a, p := &s.args, s.plan
	lists := int(a.heads) * len(p.groups)
	least, most := p.surveys()
	a.blocks, a.surveyed = most, 0
	if p.auto { // some blocks of each group tell whether the others are wanted
		s.anchors(a, s.hand(anchors, s.windowAt, len(p.survey), tallySurvey))
		s.done(anchor.StageWindow)
		s.pool(a, lists*int(a.blocks))
		s.sample(a, lists)
		s.done(anchor.StageSearch)
		a.blocks, a.surveyed = a.step-least, 1
	}
	s.anchors(a, s.hand(anchors, s.windowAt+uint64(len(p.survey))*uint64(unsafe.Sizeof(tile{})), len(p.window), tallyAnchors))
	s.done(anchor.StageWindow)
	s.pool(a, lists*int(a.blocks))
	if 16%a.step != 0 { // words are put together from several warps'
		s.clear(a.bits, s.bitBytes())
	}
	s.search(a, int(a.heads/a.shared)*s.pooledTiles()*int(a.chunks)*len(p.groups))
	s.done(anchor.StageSearch)
}

// A starter has the device begin one thing after another, until one cannot.
type starter struct {
	*Call
	mark    func(anchor.Stage) error // nil: nobody wants to know
	follows bool                     // what comes next follows a kernel
	err     error
}

// done marks the end of a stage.
func (s *starter) done(stage anchor.Stage) {
	if s.mark != nil && s.err == nil {
		s.err, s.follows = s.mark(stage), false
	}
}

// clear sets memory to zero.
func (s *starter) clear(p uint64, bytes int) {
	if s.err == nil {
		d := s.device.driver
		s.err, s.follows = d.call("MemsetD8Async", d.f.MemsetD8Async, uintptr(p), 0, uintptr(bytes), s.device.stream), false
	}
}

// hand prepares the handing out of the tiles of all heads from a list, by the given counter, and returns the blocks that a kernel
// takes for that.
func (s *starter) hand(kernel int, at uint64, n, counter int) (blocks int) {
	a := &s.args
	a.tiles, a.tileCount, a.handed = at, int32(n), a.tally+4*uint64(counter)
	return min(n*int(a.heads), s.device.processors*s.module.launch[kernel].blocks)
}

// kernel starts a kernel on the given number of blocks, if there are any.
func (s *starter) kernel(kernel int, argument unsafe.Pointer, blocks int) {
	switch {
	case s.err != nil || blocks == 0:
		return
	case blocks > math.MaxInt32:
		s.err = fmt.Errorf("kernel %s: %d blocks; the device can count to %d", kernelNames[kernel], blocks, math.MaxInt32)
		return
	}
	l := s.module.launch[kernel]
	config := launchConfig{grid: [3]uint32{uint32(blocks), 1, 1}, block: [3]uint32{uint32(l.threads), 1, 1}, shared: uint32(l.shared), stream: s.device.stream}
	if err := s.device.driver.launch(s.module.kernel[kernel], config, argument, l.waits && s.follows); err != nil {
		s.err = fmt.Errorf("kernel %s: %w", kernelNames[kernel], err)
	}
	s.follows = true
}
