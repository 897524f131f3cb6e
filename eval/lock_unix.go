//go:build unix && !aix && !solaris && !illumos

package eval

import (
	"os"

	"golang.org/x/sys/unix"
)

// lock keeps other processes out until the file is closed, or this one ends.
func lock(f *os.File) error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) }
