// Package hub downloads models from the Hugging Face hub into the cache that Hugging Face's own libraries use, and finds those
// that are there.
//
// The cache is the directory HF_HUB_CACHE, else HF_HOME/hub, else ~/.cache/huggingface/hub. Within it a model is
//
//	models--ORG--NAME/
//	├── blobs/HASH              files, by SHA-256 (large ones) or git's SHA-1
//	├── refs/main               the commit that a branch or tag stood for when it was last pulled
//	└── snapshots/COMMIT/PATH   links to blobs; copies, where links cannot be made
//
// so what one program has downloaded serves the others. A file is written as blobs/HASH.incomplete, goes on from there if it
// is interrupted, and gets its name only once its length and checksum are right; .locks/ keeps two programs from writing
// one file at once. A reference is written last: what it leads to is whole.
//
// All that a server says is mistrusted. Nothing is written outside of the cache, whatever files are called and wherever links in
// it may lead ([os.Root]); the token goes to no other host than the hub's, and neither do redirects lead from HTTPS to HTTP.
package hub

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// A Client knows a hub and a cache. Its fields must not change while it is used; it is safe for concurrent use.
type Client struct {
	// Endpoint is the hub's address, such as https://huggingface.co.
	Endpoint string
	// Token identifies the user to the hub; it may be empty.
	Token string
	// Cache is the directory of the cache. It is made if there is none.
	Cache string

	transport http.RoundTripper
	wait      func(ctx context.Context, d time.Duration) error // between tries
	idle      time.Duration                                    // how long a server may send nothing
	link      func(root *os.Root, to, name string) error       // makes a symbolic link
	free      func(dir string) (int64, error)                  // bytes there are on the disk
}

// FromEnv returns a client as the environment says: HF_ENDPOINT, the token in HF_TOKEN or in the file HF_TOKEN_PATH (else
// HF_HOME/token), and the cache, see [CacheDir].
func FromEnv() (*Client, error) {
	cache, err := CacheDir()
	if err != nil {
		return nil, err
	}
	c := &Client{Endpoint: os.Getenv("HF_ENDPOINT"), Token: os.Getenv("HF_TOKEN"), Cache: cache}
	if c.Endpoint == "" {
		c.Endpoint = "https://huggingface.co"
	}
	if c.Token == "" {
		file := os.Getenv("HF_TOKEN_PATH")
		if file == "" {
			home, err := home()
			if err != nil {
				return nil, err
			}
			file = filepath.Join(home, "token")
		}
		token, err := os.ReadFile(file)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		c.Token = string(token)
	}
	c.Token = strings.TrimSpace(c.Token)
	return c, nil
}

// CacheDir returns the directory of the cache: HF_HUB_CACHE, else HF_HOME/hub, else huggingface/hub in XDG_CACHE_HOME or
// ~/.cache.
func CacheDir() (string, error) {
	for _, name := range []string{"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"} {
		if dir := os.Getenv(name); dir != "" {
			return expand(dir)
		}
	}
	home, err := home()
	return filepath.Join(home, "hub"), err
}

// home returns the directory of Hugging Face's files.
func home() (string, error) {
	if dir := os.Getenv("HF_HOME"); dir != "" {
		return expand(dir)
	}
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "huggingface"), nil
	}
	return expand("~/.cache/huggingface")
}

// expand replaces ~ at the beginning of a directory's name.
func expand(dir string) (string, error) {
	rest, ok := strings.CutPrefix(dir, "~")
	if !ok || rest != "" && rest[0] != '/' && rest[0] != filepath.Separator {
		return filepath.Abs(dir)
	}
	user, err := os.UserHomeDir()
	return filepath.Join(user, rest), err
}

// A Name says which model, and perhaps which file of it: ORG/NAME or ORG/NAME:FILE.
type Name struct {
	Repo string // ORG/NAME
	File string // path of a file in it, or empty
}

// ParseName reads a name.
func ParseName(s string) (Name, error) {
	repo, file, has := strings.Cut(s, ":")
	org, name, ok := strings.Cut(repo, "/")
	if !ok || !word(org) || !word(name) {
		return Name{}, fmt.Errorf("model is %q; want ORG/NAME, of letters, digits, and - _ . within", s)
	}
	if has {
		if err := checkPath(file); err != nil {
			return Name{}, fmt.Errorf("model is %q: %w", s, err)
		}
	}
	return Name{Repo: repo, File: file}, nil
}

func (n Name) String() string {
	if n.File == "" {
		return n.Repo
	}
	return n.Repo + ":" + n.File
}

// dir is the model's directory in the cache.
func (n Name) dir() string { return "models--" + strings.Replace(n.Repo, "/", "--", 1) }

// word reports whether s can be a user's or a model's name on the hub.
func word(s string) bool {
	if s == "" || len(s) > 96 || strings.Contains(s, "--") || strings.Contains(s, "..") || strings.HasSuffix(s, ".git") {
		return false
	}
	for i := range len(s) {
		c := s[i]
		if !(c|0x20 >= 'a' && c|0x20 <= 'z' || c >= '0' && c <= '9' || c == '_' || (c == '-' || c == '.') && i > 0 && i < len(s)-1) {
			return false
		}
	}
	return true
}

// checkPath refuses a path that would not stay below where it is put, on any system.
func checkPath(p string) error {
	bad := func(why string) error { return fmt.Errorf("file name is %q, which %s", p, why) }
	switch {
	case p == "" || len(p) > 1024:
		return bad("has no length from 1 to 1024")
	case !fs.ValidPath(p) || path.Clean(p) != p || p == ".":
		return bad("is not a relative path of plain names")
	case !filepath.IsLocal(filepath.FromSlash(p)):
		return bad("is no file's name here")
	}
	for part := range strings.SplitSeq(p, "/") {
		switch {
		case len(part) > 255:
			return bad("has a part of more than 255 bytes")
		case strings.TrimRight(part, ". ") != part:
			return bad("has a part that ends in a dot or a space")
		}
	}
	for _, r := range p {
		if r < ' ' || r == 0x7f || strings.ContainsRune(`\:*?"<>|`, r) {
			return bad(fmt.Sprintf("has the character %q", r))
		}
	}
	return nil
}

// commit reports whether s is a commit's hash.
func commit(s string) bool { return isHash(s, 40) }

// isHash reports whether s has n hexadecimal digits.
func isHash(s string, n int) bool { return len(s) == n && strings.Trim(s, "0123456789abcdef") == "" }

// revision checks the name of a branch, tag or commit; empty stands for main.
func revision(s string) (string, error) {
	if s == "" {
		return "main", nil
	}
	if err := checkPath(s); err != nil {
		return "", fmt.Errorf("revision: %w", err)
	}
	return s, nil
}

// Resolve returns where a model that was pulled lies in the cache: its directory, or the file that name names. An empty revision
// is main. It uses no network. If the model is not there, the error is an [fs.ErrNotExist].
func Resolve(name, rev string) (string, error) {
	cache, err := CacheDir()
	if err != nil {
		return "", err
	}
	return (&Client{Cache: cache}).Resolve(name, rev)
}

// Resolve is the function [Resolve] on the client's cache.
func (c *Client) Resolve(name, rev string) (string, error) {
	n, err := ParseName(name)
	if err != nil {
		return "", err
	}
	if rev, err = revision(rev); err != nil {
		return "", err
	}
	missing := func(what string) error {
		return fmt.Errorf("%s at revision %s: %s in %s (%w); anchor pull %s downloads it", n, rev, what, c.Cache, fs.ErrNotExist, n)
	}
	root, err := os.OpenRoot(c.Cache)
	if errors.Is(err, fs.ErrNotExist) {
		return "", missing("is not")
	}
	if err != nil {
		return "", err
	}
	defer root.Close()
	at := rev
	if !commit(rev) {
		text, err := root.ReadFile(path.Join(n.dir(), "refs", rev))
		if errors.Is(err, fs.ErrNotExist) {
			return "", missing("is not")
		}
		if err != nil {
			return "", err
		}
		if at = strings.TrimSpace(string(text)); !commit(at) {
			return "", fmt.Errorf("%s: refs/%s holds %.60q; want a commit", filepath.Join(c.Cache, n.dir()), rev, at)
		}
	}
	dir := path.Join(n.dir(), "snapshots", at)
	if info, err := root.Stat(dir); err != nil || !info.IsDir() {
		return "", missing("is not")
	}
	if n.File != "" {
		dir = path.Join(dir, n.File)
		if info, err := root.Stat(dir); err != nil || !info.Mode().IsRegular() {
			return "", missing("is not")
		}
	}
	return filepath.Join(c.Cache, filepath.FromSlash(dir)), nil
}

// address returns the address of a path at the hub.
func (c *Client) address(parts ...string) string {
	for i, p := range parts {
		parts[i] = (&url.URL{Path: p}).EscapedPath()
	}
	return strings.TrimRight(c.Endpoint, "/") + "/" + strings.Join(parts, "/")
}
