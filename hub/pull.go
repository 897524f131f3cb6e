package hub

import (
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// A Request says what to pull.
type Request struct {
	// Name is ORG/NAME, or ORG/NAME:FILE for one file.
	Name string
	// Revision is a branch, a tag or a commit; if empty, main.
	Revision string
	// Include are patterns of paths, where * stands for any text, ? for a character and [a-z] for one of some. If there are none, and
	// Name names no file, the files of a model that Anchor reads are taken: configuration, tokenizer, chat template and
	// weights as safetensors.
	Include []string
	// Progress is called now and then with how many bytes of all are there, if not nil; always by one goroutine.
	Progress func(done, total int64)
}

// A Snapshot is what was pulled.
type Snapshot struct {
	Name     string `json:"name"`
	Revision string `json:"revision"`
	Commit   string `json:"commit"`
	Dir      string `json:"dir"` // where the files are
	Files    []File `json:"files"`
}

// A File is one of a snapshot.
type File struct {
	Path string `json:"path"` // in the model, with slashes
	Size int64  `json:"size"`
	// Hash is the SHA-256 of a large file, and of others the SHA-1 that git knows them by.
	Hash string `json:"hash"`
	// Downloaded counts the bytes that came now: 0 if the file was in the cache.
	Downloaded int64 `json:"downloaded"`

	address string
}

// modelFiles are the files of a model that Anchor reads, all at the top.
var modelFiles = []string{
	"config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
	"vocab.json", "merges.txt", "tokenizer.model", "chat_template.jinja", "chat_template.json",
	"model*.safetensors", "model*.safetensors.index.json",
}

// Pull downloads what is not in the cache yet. When it fails or the context ends, whole files stay, as do the beginnings of others
// as .incomplete, from where the next Pull goes on.
func (c *Client) Pull(ctx context.Context, q Request) (*Snapshot, error) {
	n, err := ParseName(q.Name)
	if err != nil {
		return nil, err
	}
	rev, err := revision(q.Revision)
	if err != nil {
		return nil, err
	}
	matches, err := patterns(n, q.Include)
	if err != nil {
		return nil, err
	}
	if off := os.Getenv("HF_HUB_OFFLINE"); slices.Contains([]string{"1", "ON", "YES", "TRUE"}, strings.ToUpper(off)) {
		return nil, fmt.Errorf("%s: HF_HUB_OFFLINE is %s, so nothing is downloaded", n, off)
	}
	s, err := c.pull(ctx, n, rev, matches, n.File == "" && len(q.Include) == 0, q.Progress)
	if err != nil && ctx.Err() == nil {
		err = fmt.Errorf("%s: %w", n, err)
	}
	return s, err
}

func (c *Client) pull(ctx context.Context, n Name, rev string, matches func(string) bool, model bool, progress func(done, total int64)) (*Snapshot, error) {
	l, err := c.list(ctx, n, rev)
	if err != nil {
		return nil, err
	}
	files, err := c.files(ctx, n, l, matches, model)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(c.Cache, 0o777); err != nil {
		return nil, err
	}
	root, err := os.OpenRoot(c.Cache)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	k := &cache{c: c, root: root, dir: n.dir()}
	snapshot := path.Join(k.dir, "snapshots", l.SHA)
	for _, dir := range []string{path.Join(k.dir, "blobs"), path.Join(k.dir, "refs"), snapshot, path.Join(".locks", k.dir)} {
		if err := k.mkdir(dir); err != nil {
			return nil, err
		}
	}

	var done, total, missing int64
	for _, f := range files {
		have, err := k.have(f)
		if err != nil {
			return nil, err
		}
		total, missing = total+f.Size, missing+f.Size-have
	}
	free := c.free
	if free == nil {
		free = freeSpace
	}
	if there, err := free(c.Cache); err == nil && missing > there {
		return nil, fmt.Errorf("%d MB are to be downloaded, and %s has room for %d MB", missing/1e6, c.Cache, there/1e6)
	}
	report := func(d int64) {
		done += d
		if progress != nil {
			progress(done, total)
		}
	}
	client := c.client()
	for i := range files {
		before := done
		err := k.download(ctx, client, &files[i], report)
		if err != nil {
			if ctx.Err() != nil {
				return nil, ctx.Err()
			}
			return nil, fmt.Errorf("%s: %w", files[i].Path, err)
		}
		done = before
		report(files[i].Size)
	}
	for _, f := range files {
		if err := k.place(f, path.Join(snapshot, f.Path)); err != nil {
			return nil, fmt.Errorf("%s: %w", f.Path, err)
		}
	}
	if rev != l.SHA {
		if err := k.write(path.Join(k.dir, "refs", rev), l.SHA); err != nil {
			return nil, err
		}
	}
	return &Snapshot{
		Name: n.Repo, Revision: rev, Commit: l.SHA, Dir: filepath.Join(c.Cache, filepath.FromSlash(snapshot)), Files: files,
	}, nil
}

// patterns returns what tells the paths that are wanted.
func patterns(n Name, include []string) (func(string) bool, error) {
	if n.File != "" {
		if len(include) > 0 {
			return nil, fmt.Errorf("%s names a file, and patterns are given; want one of the two", n)
		}
		return func(p string) bool { return p == n.File }, nil
	}
	top := len(include) == 0
	if top {
		include = modelFiles
	}
	var all []*regexp.Regexp
	for _, pattern := range include {
		if pattern == "" {
			return nil, errors.New("pattern is empty")
		}
		var b strings.Builder
		b.WriteString(`\A(?s:`)
		for i := 0; i < len(pattern); i++ {
			switch c := pattern[i]; c {
			case '*':
				b.WriteString(".*")
			case '?':
				b.WriteByte('.')
			case '[':
				end := strings.IndexByte(pattern[i+1:], ']')
				if end < 1 {
					return nil, fmt.Errorf("pattern is %q; want ] after [", pattern)
				}
				set := pattern[i+1 : i+1+end]
				i += 1 + end
				b.WriteByte('[')
				if set[0] == '!' {
					b.WriteByte('^')
					set = set[1:]
				}
				b.WriteString(strings.NewReplacer(`\`, `\\`, `^`, `\^`, `[`, `\[`).Replace(set) + "]")
			default:
				b.WriteString(regexp.QuoteMeta(string(c)))
			}
		}
		r, err := regexp.Compile(b.String() + `)\z`)
		if err != nil {
			return nil, fmt.Errorf("pattern is %q: %w", pattern, err)
		}
		all = append(all, r)
	}
	return func(p string) bool {
		return !(top && strings.Contains(p, "/")) && slices.ContainsFunc(all, func(r *regexp.Regexp) bool { return r.MatchString(p) })
	}, nil
}

// files returns the files of a list that are wanted;
// model says that there must be weights.
func (c *Client) files(ctx context.Context, n Name, l *listing, matches func(string) bool, model bool) ([]File, error) {
	var files []File
	var names, others []string
	weights := false
	seen := map[string]bool{}
	for _, s := range l.Siblings {
		names = append(names, s.Path)
		if strings.HasSuffix(s.Path, ".gguf") {
			others = append(others, s.Path)
		}
		if !matches(s.Path) {
			continue
		}
		if err := checkPath(s.Path); err != nil {
			return nil, err
		}
		if seen[s.Path] {
			return nil, fmt.Errorf("the hub lists %s twice", s.Path)
		}
		seen[s.Path] = true
		f := File{Path: s.Path, Size: -1, Hash: s.Blob, address: c.address(n.Repo, "resolve", l.SHA, s.Path)}
		switch {
		case s.LFS != nil && s.LFS.SHA256 != "":
			f.Hash, f.Size = s.LFS.SHA256, s.LFS.Size
		case s.Size != nil:
			f.Size = *s.Size
		}
		if f.Hash == "" || f.Size < 0 {
			var err error
			if f.Size, f.Hash, err = c.head(ctx, f.address); err != nil {
				return nil, fmt.Errorf("%s: %w", f.Path, err)
			}
		}
		if !isHash(f.Hash, 40) && !isHash(f.Hash, 64) || f.Size < 0 {
			return nil, fmt.Errorf("%s: the hub says that its checksum is %.80q and its length %d; want SHA-1 or SHA-256", f.Path, f.Hash, f.Size)
		}
		weights = weights || strings.HasSuffix(s.Path, ".safetensors")
		files = append(files, f)
	}
	switch {
	case model && !weights && len(others) > 0:
		return nil, fmt.Errorf("has no model*.safetensors, but GGUF files: %.600q; one is named as %s:FILE", others, n.Repo)
	case model && !weights:
		return nil, fmt.Errorf("has no model*.safetensors among its %d files: %.600q", len(names), names)
	case len(files) == 0:
		return nil, fmt.Errorf("has no such file among its %d: %.600q", len(names), names)
	}
	return files, nil
}

func hash40or64(s string) bool {
	return commit(s) || len(s) == 64 && strings.Trim(s, "0123456789abcdef") == ""
}

// A cache is a model's part of the cache, all of it reached through root.
type cache struct {
	c    *Client
	root *os.Root
	dir  string
}

// mkdir makes a directory and those above it, none of which may be a link.
func (k *cache) mkdir(dir string) error {
	at := ""
	for part := range strings.SplitSeq(dir, "/") {
		at = path.Join(at, part)
		if err := k.root.Mkdir(at, 0o777); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		info, err := k.root.Lstat(at)
		if err != nil {
			return err
		}
		if !info.IsDir() {
			return fmt.Errorf("%s is no directory (%v)", filepath.Join(k.c.Cache, at), info.Mode().Type())
		}
	}
	return nil
}

// size returns the length of a regular file, −1 if there is none; anything else of that name is an error.
func (k *cache) size(name string) (int64, error) {
	info, err := k.root.Lstat(name)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return -1, nil
	case err != nil:
		return 0, err
	case !info.Mode().IsRegular():
		return 0, fmt.Errorf("%s is no regular file (%v)", filepath.Join(k.c.Cache, name), info.Mode().Type())
	}
	return info.Size(), nil
}

func (k *cache) blob(f File) string { return path.Join(k.dir, "blobs", f.Hash) }

// have returns how many bytes of a file need not be downloaded.
func (k *cache) have(f File) (int64, error) {
	for _, name := range []string{k.blob(f), k.blob(f) + ".incomplete"} {
		n, err := k.size(name)
		if err != nil {
			return 0, err
		}
		if n >= 0 && n <= f.Size {
			return n, nil
		}
	}
	return 0, nil
}

// write writes a small file as a whole.
func (k *cache) write(name, text string) error {
	if err := k.mkdir(path.Dir(name)); err != nil {
		return err
	}
	if _, err := k.size(name); err != nil {
		return err
	}
	return k.beside(name, func(beside string) error {
		return k.root.WriteFile(beside, []byte(text), 0o666)
	})
}

// beside makes a file of another name, by make, and gives it its own.
func (k *cache) beside(name string, make func(beside string) error) error {
	beside := name + fmt.Sprintf(".%d.incomplete", os.Getpid())
	k.root.Remove(beside)
	err := make(beside)
	if err == nil {
		err = k.root.Rename(beside, name)
	}
	if err != nil {
		k.root.Remove(beside)
	}
	return err
}

// place puts a file into the snapshot: a relative link to the blob, or else a copy.
func (k *cache) place(f File, name string) error {
	if err := k.mkdir(path.Dir(name)); err != nil {
		return err
	}
	to := strings.Repeat("../", 2+strings.Count(f.Path, "/")) + "blobs/" + f.Hash
	info, err := k.root.Lstat(name)
	if err == nil {
		old, _ := k.root.Readlink(name)
		switch {
		case filepath.ToSlash(old) == to, info.Mode().IsRegular() && info.Size() == f.Size: // there already
			return nil
		case info.IsDir():
			return fmt.Errorf("%s is a directory", filepath.Join(k.c.Cache, name))
		}
	}
	link := k.c.link
	if link == nil {
		link = (*os.Root).Symlink
	}
	if k.beside(name, func(beside string) error { return link(k.root, filepath.FromSlash(to), beside) }) == nil {
		return nil
	}
	return k.beside(name, func(beside string) error {
		in, err := k.root.Open(k.blob(f))
		if err != nil {
			return err
		}
		defer in.Close()
		out, err := k.root.OpenFile(beside, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o666)
		if err != nil {
			return err
		}
		_, err = io.Copy(out, in)
		return errors.Join(err, out.Close())
	})
}

// download makes the blob of a file. It reports the bytes that there are.
func (k *cache) download(ctx context.Context, client *http.Client, f *File, report func(int64)) error {
	blob := k.blob(*f)
	// whole reports whether the blob is there; one of another length is removed.
	whole := func() (bool, error) {
		n, err := k.size(blob)
		if err != nil || n == f.Size {
			return err == nil, err
		}
		if n >= 0 {
			return false, k.root.Remove(blob)
		}
		return false, nil
	}
	if n, err := k.size(blob); err != nil || n == f.Size {
		return err
	}
	lockName := path.Join(".locks", k.dir, f.Hash+".lock")
	if _, err := k.size(lockName); err != nil {
		return err
	}
	l, err := k.root.OpenFile(lockName, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	defer l.Close() // which unlocks it, too
	if err := lock(ctx, l); err != nil {
		return fmt.Errorf("%s: %w", l.Name(), err)
	}
	if ok, err := whole(); ok || err != nil {
		return err
	}

	incomplete := blob + ".incomplete"
	if _, err := k.size(incomplete); err != nil {
		return err
	}
	w, err := k.root.OpenFile(incomplete, os.O_RDWR|os.O_CREATE, 0o666)
	if err != nil {
		return err
	}
	p := &part{file: w, sum: newHash(*f), size: f.Size, report: report}
	err = p.read(ctx)
	p.most = p.at
	if err == nil {
		err = k.c.again(ctx, func() (bool, error) {
			err := p.fetch(ctx, k.c, client, f.address)
			progress := p.at > p.most // not when it only comes back to where it was
			p.most = max(p.most, p.at)
			return progress, err
		})
	}
	f.Downloaded = p.downloaded
	wrong := false
	if err == nil {
		if got := hex.EncodeToString(p.sum.Sum(nil)); got != f.Hash {
			wrong = true
			err = fmt.Errorf("checksum is %s, and the hub says %s; what came was deleted", got, f.Hash)
		}
	}
	if err == nil {
		err = w.Sync()
	}
	if e := w.Close(); err == nil {
		err = e
	}
	if wrong {
		return errors.Join(err, k.root.Remove(incomplete))
	}
	if err != nil {
		return err
	}
	return k.root.Rename(incomplete, blob)
}

// newHash returns what the hub's hash of a file is a sum of.
func newHash(f File) hash.Hash {
	if len(f.Hash) == 64 {
		return sha256.New()
	}
	h := sha1.New()
	fmt.Fprintf(h, "blob %d\x00", f.Size) // as git does
	return h
}

// A part is the beginning of a file that is being written.
type part struct {
	file       *os.File
	sum        hash.Hash // of what is there
	at, size   int64     // bytes there are, and are to be
	most       int64     // bytes there were at best
	downloaded int64
	report     func(int64)
}

// read sums what is there from an earlier time. More than is to be is dropped.
func (p *part) read(ctx context.Context) error {
	buf := make([]byte, 1<<20)
	for {
		n, err := p.file.Read(buf)
		if p.at+int64(n) > p.size {
			return p.restart()
		}
		p.sum.Write(buf[:n])
		p.at += int64(n)
		p.report(int64(n))
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
	}
}

// restart drops what is there.
func (p *part) restart() error {
	if err := p.file.Truncate(0); err != nil {
		return err
	}
	if _, err := p.file.Seek(0, io.SeekStart); err != nil {
		return err
	}
	p.sum.Reset()
	if p.sum.Size() == sha1.Size {
		fmt.Fprintf(p.sum, "blob %d\x00", p.size)
	}
	p.report(-p.at)
	p.at = 0
	return nil
}

// fetch asks for what is missing and writes what comes of it.
func (p *part) fetch(ctx context.Context, c *Client, client *http.Client, address string) error {
	if p.at == p.size {
		return nil
	}
	header := http.Header{}
	if p.at > 0 {
		header.Set("Range", fmt.Sprintf("bytes=%d-", p.at))
	}
	answer, err := c.do(ctx, client, http.MethodGet, address, header)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK: // from the beginning, whatever was asked for
		if p.at > 0 {
			if err := p.restart(); err != nil {
				return err
			}
		}
	case http.StatusPartialContent:
		var from, to, size int64
		text := answer.Header.Get("Content-Range")
		if _, err := fmt.Sscanf(text, "bytes %d-%d/%d", &from, &to, &size); err != nil || from != p.at || size != p.size {
			at := p.at
			if err := p.restart(); err != nil {
				return err
			}
			return temporary{error: fmt.Errorf("the server's range is %.80q; want %d-%d/%d", text, at, p.size-1, p.size)}
		}
	default: // 416: what is there is of another file
		if err := p.restart(); err != nil {
			return err
		}
		return temporary{error: errors.New("the server has no such range")}
	}
	buf := make([]byte, 256<<10)
	for {
		n, err := answer.Body.Read(buf)
		if p.at+int64(n) > p.size {
			if err := p.restart(); err != nil {
				return err
			}
			return fmt.Errorf("the server sends more than the %d bytes of the file", p.size)
		}
		if _, err := p.file.Write(buf[:n]); err != nil {
			return err
		}
		p.sum.Write(buf[:n])
		p.at += int64(n)
		p.downloaded += int64(n)
		p.report(int64(n))
		switch {
		case err == io.EOF && p.at < p.size:
			return temporary{error: fmt.Errorf("the server ends after %d of %d bytes", p.at, p.size)}
		case err == io.EOF:
			return nil
		case err != nil:
			return err
		}
	}
}
