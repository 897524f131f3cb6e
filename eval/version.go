package eval

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"sync"
)

// Version returns the version of the code: that of the module, or the commit it was built from. Where there is neither, or files
// had been changed, it has a hash of the program, so that versions are equal where programs are.
var Version = sync.OnceValue(func() string {
	version, dirty := "", true
	if info, ok := debug.ReadBuildInfo(); ok {
		version = strings.TrimPrefix(info.Main.Version, "(devel)")
		dirty = version == "" || strings.Contains(version, "+dirty")
		for _, s := range info.Settings {
			switch {
			case s.Key == "vcs.revision" && version == "":
				version, dirty = s.Value, false
			case s.Key == "vcs.modified" && s.Value == "true":
				dirty = true
			}
		}
	}
	if !dirty {
		return version
	}
	program, err := os.Executable()
	if err != nil {
		return version + "-unknown"
	}
	file, err := os.Open(program)
	if err != nil {
		return version + "-unknown"
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return version + "-unknown"
	}
	return strings.TrimPrefix(version+"-"+hex.EncodeToString(hash.Sum(nil))[:16], "-")
})

// pieces of a file go into a fingerprint, of so many bytes each.
const pieces, pieceSize = 64, 4096

// Fingerprint returns an identity of a model that is read from files: a hash of their names, but for that of a single file,
// their lengths, and of each 64 pieces spread over it, so that it takes no longer for large models; small files are taken whole.
func Fingerprint(files ...string) (string, error) {
	if len(files) == 0 {
		return "", errors.New("eval: there are no files to take a fingerprint of; want those of a model")
	}
	hash := sha256.New()
	for _, path := range files {
		base := filepath.Base(path)
		if len(files) == 1 {
			base = strings.ToLower(filepath.Ext(path)) // a file may be renamed
		}
		if err := fingerprint(hash, base, path); err != nil {
			return "", err
		}
	}
	return hex.EncodeToString(hash.Sum(nil))[:32], nil
}

func fingerprint(w io.Writer, base, path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return err
	}
	size := info.Size()
	fmt.Fprintf(w, "%q %d\n", base, size)
	if size <= pieces*pieceSize {
		_, err = io.Copy(w, f)
		return err
	}
	for i := range int64(pieces) {
		at := (size - pieceSize) / (pieces - 1) * i
		if _, err := io.Copy(w, io.NewSectionReader(f, at, pieceSize)); err != nil {
			return err
		}
	}
	return nil
}
