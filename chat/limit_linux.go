package chat

import (
	"fmt"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// limitProcess has the kernel bound this process. The address space may grow by twice the memory and 256 MiB: Go reserves more
// than it uses.
func limitProcess(l Limits) error {
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return nil // the watchdog is left
	}
	var pages uint64
	if _, err := fmt.Sscan(string(data), &pages); err != nil {
		return err
	}
	seconds := uint64(l.Time/time.Second) + 2 // processor time of two threads may run ahead of the clock
	for resource, most := range map[int]uint64{
		unix.RLIMIT_AS:   pages*uint64(os.Getpagesize()) + 2*uint64(l.Memory) + 256<<20,
		unix.RLIMIT_CPU:  2 * seconds,
		unix.RLIMIT_CORE: 0,
	} {
		var now unix.Rlimit
		if err := unix.Getrlimit(resource, &now); err != nil {
			return err
		}
		most = min(most, now.Max)
		if err := unix.Setrlimit(resource, &unix.Rlimit{Cur: most, Max: most}); err != nil {
			return err
		}
	}
	return nil
}
