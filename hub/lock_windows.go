package hub

import (
	"context"
	"os"
	"time"

	"golang.org/x/sys/windows"
)

// lock waits until no other process has the file locked, and locks it.
func lock(ctx context.Context, f *os.File) error {
	for {
		err := windows.LockFileEx(windows.Handle(f.Fd()), windows.LOCKFILE_EXCLUSIVE_LOCK|windows.LOCKFILE_FAIL_IMMEDIATELY, 0, 1, 0, &windows.Overlapped{})
		if err != windows.ERROR_LOCK_VIOLATION {
			return err
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}

// freeSpace returns how many bytes may still be written where a directory is.
func freeSpace(dir string) (int64, error) {
	name, err := windows.UTF16PtrFromString(dir)
	if err != nil {
		return 0, err
	}
	var free uint64
	err = windows.GetDiskFreeSpaceEx(name, &free, nil, nil)
	return int64(min(free, 1<<62)), err
}
