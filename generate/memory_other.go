//go:build !unix

package generate

// PeakMemory returns the most memory, in bytes, that the process has had at a time, 0 where that is not known.
func PeakMemory() int64 { return 0 }
