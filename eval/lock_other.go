//go:build !unix || aix || solaris || illumos

package eval

import "os"

func lock(*os.File) error { return nil }
