//go:build amd64 && !purego

package kernel

import "golang.org/x/sys/unix"

// allowAMX asks the kernel to let this process use AMX tiles, which it saves for every thread only on demand.
func allowAMX() bool {
	const requestPermission, tileData = 0x1023, 18
	_, _, err := unix.RawSyscall(unix.SYS_ARCH_PRCTL, requestPermission, tileData, 0)
	return err == 0
}
