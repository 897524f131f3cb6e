//go:build unix && !solaris && !illumos && !aix

package hub

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// lock waits until no other process has the file locked, and locks it, as Hugging Face's libraries do.
func lock(ctx context.Context, f *os.File) error {
	for {
		err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if err != unix.EWOULDBLOCK && err != unix.EINTR {
			return err
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// freeSpace returns how many bytes may still be written where a directory is.
func freeSpace(dir string) (int64, error) {
	var s unix.Statfs_t
	if err := unix.Statfs(dir, &s); err != nil {
		return 0, err
	}
	return int64(s.Bavail) * int64(s.Bsize), nil
}
