//go:build amd64 && !linux && !purego

package kernel

// allowAMX reports that AMX tiles cannot be used: how to ask for them is known for Linux alone.
func allowAMX() bool { return false }
