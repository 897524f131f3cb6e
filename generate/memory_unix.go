//go:build unix

package generate

import (
	"runtime"
	"syscall"
)

// PeakMemory returns the most memory, in bytes, that the process has had at a time, 0 where that is not known.
func PeakMemory() int64 {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	if runtime.GOOS == "darwin" || runtime.GOOS == "ios" {
		return int64(u.Maxrss)
	}
	return int64(u.Maxrss) << 10
}
