package queue

import (
	"crypto/sha256"
	"encoding/hex"
	"io"
	"os"
	"strings"
	"sync"

	"github.com/anchorattention/anchor/eval"
)

// Version returns [eval.Version], and where that does not say exactly which code it is, with the hash of the program.
var Version = sync.OnceValue(func() string {
	v := eval.Version()
	if v != "unknown" && v != "(devel)" && !strings.HasSuffix(v, "+dirty") {
		return v
	}
	path, err := os.Executable()
	if err != nil {
		return v
	}
	f, err := os.Open(path)
	if err != nil {
		return v
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		return v
	}
	return v + " " + hex.EncodeToString(h.Sum(nil))[:16]
})
