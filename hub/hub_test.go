package hub

import (
	"bytes"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/http"
	"net/http/httptest"
	"os"
	"path"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"go.uber.org/goleak"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	repo  = "org/some.model-1B"
	first = "0123456789abcdef0123456789abcdef01234567"
)

// A fakeHub serves one model as the hub does. Large files are those with "safetensors" or "gguf" in their name: they are
// redirected to another host.
type fakeHub struct {
	t     testing.TB
	files map[string]string
	sha   string
	token string // that is wanted, if any

	// hostile replaces an answer and returns whether it has. It is called with the number of the request for that path, from 1,
	// in turn.
	hostile func(w http.ResponseWriter, r *http.Request, n int) bool
	list    func(l map[string]any) // changes the list

	hub, cdn *httptest.Server

	mu     sync.Mutex
	counts map[string]int
	log    []string // "METHOD path range"
}

func newHub(t testing.TB, files map[string]string) *fakeHub {
	h := &fakeHub{t: t, files: files, sha: first, counts: map[string]int{}}
	h.hub = httptest.NewServer(http.HandlerFunc(h.serve))
	h.cdn = httptest.NewServer(http.HandlerFunc(h.serveLarge))
	t.Cleanup(h.hub.Close)
	t.Cleanup(h.cdn.Close)
	return h
}

// client returns one with a cache of its own, that does not wait.
func (h *fakeHub) client() *Client {
	transport := &http.Transport{}
	h.t.Cleanup(transport.CloseIdleConnections)
	return &Client{
		Endpoint: h.hub.URL, Cache: filepath.Join(h.t.TempDir(), "cache"), Token: h.token, transport: transport,
		wait: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
	}
}

func large(name string) bool {
	return strings.Contains(name, "safetensors") && !strings.HasSuffix(name, ".json") || strings.Contains(name, "gguf")
}

func sum256(s string) string { h := sha256.Sum256([]byte(s)); return hex.EncodeToString(h[:]) }

func sumGit(s string) string {
	h := sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(s), s))
	return hex.EncodeToString(h[:])
}

func sum(name, s string) string {
	if large(name) {
		return sum256(s)
	}
	return sumGit(s)
}

func (h *fakeHub) count(r *http.Request) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.counts[r.URL.Path]++
	h.log = append(h.log, strings.TrimSpace(r.Method+" "+r.URL.Path+" "+r.Header.Get("Range")))
	return h.counts[r.URL.Path]
}

func (h *fakeHub) requests() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.log)
}

func (h *fakeHub) serve(w http.ResponseWriter, r *http.Request) {
	n := h.count(r)
	if h.hostile != nil && h.hostile(w, r, n) {
		return
	}
	if h.token != "" && r.Header.Get("Authorization") != "Bearer "+h.token {
		w.Header().Set("X-Error-Message", "Invalid username or password.")
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	if rev, ok := strings.CutPrefix(r.URL.Path, "/api/models/"+repo+"/revision/"); ok {
		if !slices.Contains([]string{"main", "refs/pr/1", h.sha}, rev) {
			w.Header().Set("X-Error-Code", "RevisionNotFound")
			w.WriteHeader(http.StatusNotFound)
			return
		}
		if r.URL.Query().Get("blobs") != "true" {
			h.t.Errorf("list asked for as %s", r.URL)
		}
		var siblings []map[string]any
		for name, s := range h.files {
			f := map[string]any{"rfilename": name, "size": len(s), "blobId": sumGit(s)}
			if large(name) {
				f["lfs"] = map[string]any{"sha256": sum256(s), "size": len(s), "pointerSize": 134}
			}
			siblings = append(siblings, f)
		}
		l := map[string]any{"id": repo, "sha": h.sha, "siblings": siblings}
		if h.list != nil {
			h.list(l)
		}
		json.NewEncoder(w).Encode(l)
		return
	}
	name, ok := strings.CutPrefix(r.URL.Path, "/"+repo+"/resolve/"+h.sha+"/")
	s, there := h.files[name]
	if !ok || !there {
		w.Header().Set("X-Error-Code", "RepoNotFound")
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	w.Header().Set("X-Repo-Commit", h.sha)
	if large(name) {
		w.Header().Set("X-Linked-Etag", `"`+sum256(s)+`"`)
		w.Header().Set("X-Linked-Size", strconv.Itoa(len(s)))
		http.Redirect(w, r, h.cdn.URL+"/"+name, http.StatusFound)
		return
	}
	w.Header().Set("ETag", `"`+sumGit(s)+`"`)
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(s))
}

func (h *fakeHub) serveLarge(w http.ResponseWriter, r *http.Request) {
	if r.Header.Get("Authorization") != "" {
		h.t.Errorf("the token went to another host: %s %s", r.Method, r.URL)
	}
	n := h.count(r)
	if h.hostile != nil && h.hostile(w, r, n) {
		return
	}
	http.ServeContent(w, r, "", time.Time{}, strings.NewReader(h.files[strings.TrimPrefix(r.URL.Path, "/")]))
}

// drop sends some bytes of an answer that is to have more, and ends the connection.
func drop(w http.ResponseWriter, status, length int, s string) {
	w.Header().Set("Content-Length", strconv.Itoa(length))
	w.WriteHeader(status)
	w.Write([]byte(s))
	w.(http.Flusher).Flush()
	panic(http.ErrAbortHandler)
}

var weights = strings.Repeat("some weights, ", 100_000)

func modelOf(more ...string) map[string]string {
	m := map[string]string{
		"config.json": `{"a": 1}`, "tokenizer.json": "{}", "README.md": "read me", "model.safetensors": weights,
		"onnx/model.safetensors": "not wanted", "consolidated.safetensors": "not wanted either", ".gitattributes": "", "generation_config.json": "",
	}
	for i := 0; i+1 < len(more); i += 2 {
		m[more[i]] = more[i+1]
	}
	return m
}

// tree returns what is in a directory: files as their text, links as "-> …".
func tree(t testing.TB, dir string) map[string]string {
	t.Helper()
	got := map[string]string{}
	err := filepath.WalkDir(dir, func(p string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		name, _ := filepath.Rel(dir, p)
		name = filepath.ToSlash(name)
		if to, err := os.Readlink(p); err == nil {
			got[name] = "-> " + filepath.ToSlash(to)
			return nil
		}
		data, err := os.ReadFile(p)
		got[name] = string(data)
		return err
	})
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		t.Fatal(err)
	}
	return got
}

// A model is laid out as Hugging Face's libraries do it; what was pulled is found without network, and not pulled again.
func TestPull(t *testing.T) {
	h := newHub(t, modelOf())
	h.token = "hf_secret"
	c := h.client()
	var steps []int64
	got, err := c.Pull(t.Context(), Request{Name: repo, Progress: func(done, total int64) {
		steps = append(steps, done)
		if want := int64(len(weights) + len(`{"a": 1}`) + len("{}")); total != want || done > total {
			t.Errorf("progress is %d of %d; want of %d", done, total, want)
		}
	}})
	if err != nil {
		t.Fatal(err)
	}
	if !slices.IsSorted(steps) || steps[len(steps)-1] != int64(len(weights)+10) {
		t.Errorf("progress is %v", steps)
	}
	dir := "models--org--some.model-1B/"
	want := map[string]string{dir + "refs/main": first}
	for _, name := range []string{"config.json", "tokenizer.json", "model.safetensors", "generation_config.json"} {
		s := h.files[name]
		want[dir+"blobs/"+sum(name, s)] = s
		want[dir+"snapshots/"+first+"/"+name] = "-> ../../blobs/" + sum(name, s)
		want[".locks/"+dir+sum(name, s)+".lock"] = ""
	}
	if d := cmp.Diff(want, tree(t, c.Cache)); d != "" {
		t.Errorf("cache (-want +got)\n%s", d)
	}
	if got.Dir != filepath.Join(c.Cache, "models--org--some.model-1B", "snapshots", first) || got.Commit != first || got.Revision != "main" || len(got.Files) != 4 {
		t.Errorf("snapshot is %+v", got)
	}
	for _, name := range []string{repo, repo + ":model.safetensors"} {
		at, err := c.Resolve(name, "")
		if err != nil {
			t.Fatal(err)
		}
		if _, file, ok := strings.Cut(name, ":"); ok && at != filepath.Join(got.Dir, file) || !ok && at != got.Dir {
			t.Errorf("%s is at %s", name, at)
		}
	}

	before := len(h.requests())
	again, err := c.Pull(t.Context(), Request{Name: repo})
	if err != nil {
		t.Fatal(err)
	}
	if n := len(h.requests()) - before; n != 1 {
		t.Errorf("the second time took %d requests; want one, for the list", n)
	}
	for _, f := range again.Files {
		if f.Downloaded != 0 {
			t.Errorf("%s was downloaded again: %d bytes", f.Path, f.Downloaded)
		}
	}
}

// A new commit takes over what has not changed; a file in a folder is linked from there; a revision with slashes is a reference
// in folders.
func TestRevisions(t *testing.T) {
	h := newHub(t, modelOf("a/b/deep.gguf", "gguf!"))
	c := h.client()
	if _, err := c.Pull(t.Context(), Request{Name: repo}); err != nil {
		t.Fatal(err)
	}
	h.sha = strings.Repeat("9", 40)
	h.files["config.json"] = `{"a": 2}`
	s, err := c.Pull(t.Context(), Request{Name: repo, Revision: "refs/pr/1", Include: []string{"*.json", "*deep.gguf", "model.safetensors"}})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range s.Files {
		if f.Downloaded != 0 && f.Path != "config.json" && f.Path != "a/b/deep.gguf" {
			t.Errorf("%s was downloaded again", f.Path)
		}
		data, err := os.ReadFile(filepath.Join(s.Dir, filepath.FromSlash(f.Path)))
		if err != nil || string(data) != h.files[f.Path] {
			t.Errorf("%s holds %.20q (%v)", f.Path, data, err)
		}
	}
	for rev, want := range map[string]string{"": first, "main": first, "refs/pr/1": h.sha, h.sha: h.sha} {
		if at, err := c.Resolve(repo, rev); err != nil || filepath.Base(at) != want {
			t.Errorf("revision %q is at %s (%v); want %s", rev, at, err, want)
		}
	}
}

// Patterns and a named file say what comes.
func TestSelection(t *testing.T) {
	h := newHub(t, map[string]string{"config.json": "{}", "a-Q4.gguf": "4", "a-Q8.gguf": "8", "sub/b-Q8.gguf": "b", "x[1].txt": "x"})
	for _, k := range []struct {
		name    string
		include []string
		want    string
		err     string
	}{
		{repo, nil, "", "has no model*.safetensors, but GGUF files"},
		{repo + ":a-Q4.gguf", nil, "a-Q4.gguf", ""},
		{repo + ":sub/b-Q8.gguf", nil, "sub/b-Q8.gguf", ""},
		{repo + ":nope.gguf", nil, "", "has no such file among its 5"},
		{repo, []string{"*.gguf"}, "a-Q4.gguf a-Q8.gguf sub/b-Q8.gguf", ""},
		{repo, []string{"a-Q[0-4].gguf", "config.json"}, "a-Q4.gguf config.json", ""},
		{repo, []string{"a-Q[!4].????"}, "a-Q8.gguf", ""},
		{repo, []string{"x[[]1].txt"}, "x[1].txt", ""},
		{repo, []string{"*.bin"}, "", "has no such file"},
		{repo, []string{"[a"}, "", "want ] after ["},
		{repo, []string{"[z-a]"}, "", "pattern is"},
		{repo, []string{""}, "", "pattern is empty"},
		{repo + ":a", []string{"b"}, "", "want one of the two"},
	} {
		s, err := h.client().Pull(t.Context(), Request{Name: k.name, Include: k.include})
		if k.err != "" {
			if err == nil || !strings.Contains(err.Error(), k.err) {
				t.Errorf("%s %q: error is %v; want %q", k.name, k.include, err, k.err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s %q: %v", k.name, k.include, err)
			continue
		}
		var names []string
		for _, f := range s.Files {
			names = append(names, f.Path)
		}
		slices.Sort(names)
		if got := strings.Join(names, " "); got != k.want {
			t.Errorf("%s %q: got %s; want %s", k.name, k.include, got, k.want)
		}
	}
}

// Whatever a server does on the way, the file is whole at the end; what there was is not asked for again.
func TestTroubles(t *testing.T) {
	third := len(weights) / 3
	file := "/model.safetensors"
	for _, k := range []struct {
		name    string
		hostile func(w http.ResponseWriter, r *http.Request, n int) bool
		want    []string // requests for the file
	}{
		{"drops", func(w http.ResponseWriter, r *http.Request, n int) bool {
			switch {
			case r.URL.Path != file || n > 2:
				return false
			case n == 2:
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", third, len(weights)-1, len(weights)))
				drop(w, 206, len(weights)-third, weights[third:2*third])
			}
			drop(w, 200, len(weights), weights[:third])
			return true
		}, []string{"", fmt.Sprintf("bytes=%d-", third), fmt.Sprintf("bytes=%d-", 2*third)}},
		{"drops before a word", func(w http.ResponseWriter, r *http.Request, n int) bool {
			if n < tries && r.URL.Path != file {
				panic(http.ErrAbortHandler)
			}
			return false
		}, nil},
		{"ignores ranges", func(w http.ResponseWriter, r *http.Request, n int) bool {
			if r.URL.Path == file {
				if n == 1 {
					drop(w, 200, len(weights), weights[:third])
				}
				w.Write([]byte(weights))
				return true
			}
			return false
		}, []string{"", fmt.Sprintf("bytes=%d-", third)}},
		{"gives another range", func(w http.ResponseWriter, r *http.Request, n int) bool {
			if r.URL.Path == file && n == 1 {
				drop(w, 200, len(weights), weights[:third])
			}
			if r.URL.Path == file && n == 2 {
				w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", 5, len(weights)-1, len(weights)))
				w.WriteHeader(206)
				w.Write([]byte(weights[5:]))
				return true
			}
			return false
		}, []string{"", fmt.Sprintf("bytes=%d-", third), ""}},
		{"refuses ranges", func(w http.ResponseWriter, r *http.Request, n int) bool {
			if r.URL.Path == file && n == 1 {
				drop(w, 200, len(weights), weights[:third])
			}
			if r.URL.Path == file && n == 2 {
				w.WriteHeader(416)
				return true
			}
			return false
		}, []string{"", fmt.Sprintf("bytes=%d-", third), ""}},
		{"is busy", func(w http.ResponseWriter, r *http.Request, n int) bool {
			if n < tries && r.URL.Path != file {
				w.Header().Set("Retry-After", "7")
				w.WriteHeader([]int{500, 502, 503, 504, 429}[n-1])
				return true
			}
			return false
		}, nil},
	} {
		t.Run(k.name, func(t *testing.T) {
			h := newHub(t, modelOf())
			h.hostile = k.hostile
			c := h.client()
			s, err := c.Pull(t.Context(), Request{Name: repo})
			if err != nil {
				t.Fatal(err)
			}
			data, err := os.ReadFile(filepath.Join(s.Dir, "model.safetensors"))
			if err != nil || string(data) != weights {
				t.Errorf("the file has %d bytes (%v)", len(data), err)
			}
			if k.want != nil {
				var got []string
				for _, r := range h.requests() {
					if r, ok := strings.CutPrefix(r, "GET "+file); ok {
						got = append(got, strings.TrimSpace(r))
					}
				}
				if d := cmp.Diff(k.want, got); d != "" {
					t.Errorf("ranges (-want +got)\n%s", d)
				}
			}
		})
	}
}

// After so many tries the error says what is wrong; the pause grows and follows Retry-After.
func TestGivingUp(t *testing.T) {
	h := newHub(t, modelOf())
	c := h.client()
	var pauses []time.Duration
	c.wait = func(_ context.Context, d time.Duration) error { pauses = append(pauses, d); return nil }
	h.hostile = func(w http.ResponseWriter, r *http.Request, n int) bool {
		if n == 3 {
			w.Header().Set("Retry-After", "77")
		}
		w.WriteHeader(http.StatusBadGateway)
		return true
	}
	_, err := c.Pull(t.Context(), Request{Name: repo})
	if err == nil || !strings.Contains(err.Error(), "502 Bad Gateway") {
		t.Errorf("error is %v", err)
	}
	if len(pauses) != tries-1 || pauses[2] != 77*time.Second || pauses[1] < time.Second || pauses[1] > 1250*time.Millisecond {
		t.Errorf("pauses are %v", pauses)
	}

	// A server that never lets it come to an end, though it always sends something.
	h = newHub(t, modelOf())
	h.hostile = func(w http.ResponseWriter, r *http.Request, n int) bool {
		if r.URL.Path != "/model.safetensors" {
			return false
		}
		if r.Header.Get("Range") != "" {
			w.WriteHeader(416)
			return true
		}
		drop(w, 200, len(weights), weights[:1000])
		return true
	}
	if _, err := h.client().Pull(t.Context(), Request{Name: repo}); err == nil || !strings.Contains(err.Error(), "model.safetensors") {
		t.Errorf("error is %v", err)
	}
}

// A server that falls silent is left.
func TestSilence(t *testing.T) {
	h := newHub(t, modelOf())
	release := make(chan struct{})
	h.hostile = func(w http.ResponseWriter, r *http.Request, n int) bool {
		if r.URL.Path == "/model.safetensors" && n == 1 {
			w.Header().Set("Content-Length", strconv.Itoa(len(weights)))
			w.Write([]byte(weights[:10_000]))
			w.(http.Flusher).Flush()
			select {
			case <-release:
			case <-r.Context().Done():
			}
			panic(http.ErrAbortHandler)
		}
		return false
	}
	defer close(release)
	c := h.client()
	c.idle = 200 * time.Millisecond
	if _, err := c.Pull(t.Context(), Request{Name: repo}); err != nil {
		t.Fatal(err)
	}
}

// The end of the context ends a pull; nothing but whole blobs and .incomplete files is left, and the next pull goes on from there.
func TestInterrupted(t *testing.T) {
	h := newHub(t, modelOf())
	c := h.client()
	ctx, cancel := context.WithCancel(t.Context())
	half := len(weights) / 2
	h.hostile = func(w http.ResponseWriter, r *http.Request, n int) bool {
		if r.URL.Path != "/model.safetensors" || n > 1 {
			return false
		}
		w.Header().Set("Content-Length", strconv.Itoa(len(weights)))
		w.Write([]byte(weights[:half]))
		w.(http.Flusher).Flush()
		<-r.Context().Done()
		panic(http.ErrAbortHandler)
	}
	_, err := c.Pull(ctx, Request{Name: repo, Progress: func(done, _ int64) {
		if done >= int64(half) {
			cancel()
		}
	}})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("error is %v", err)
	}
	name := "models--org--some.model-1B/blobs/" + sum256(weights)
	got := tree(t, c.Cache)
	if len(got[name+".incomplete"]) < half/2 || got[name] != "" {
		t.Errorf("%d bytes are there, of %d", len(got[name+".incomplete"]), half)
	}
	for p := range got {
		if strings.Contains(p, "/refs/") || strings.Contains(p, "/snapshots/") {
			t.Errorf("there is %s", p)
		}
	}
	if _, err := c.Resolve(repo, ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("Resolve gives %v", err)
	}
	s, err := c.Pull(t.Context(), Request{Name: repo})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range s.Files {
		if f.Path == "model.safetensors" && (f.Downloaded == 0 || f.Downloaded > int64(len(weights)-half/2)) {
			t.Errorf("%d bytes came the second time", f.Downloaded)
		}
	}
	for p := range tree(t, c.Cache) {
		if strings.Contains(p, ".incomplete") {
			t.Errorf("there is %s", p)
		}
	}
}

// What is not what the hub said is deleted and reported.
func TestChecksums(t *testing.T) {
	for _, k := range []struct {
		name, file string
		send       string
		before     string // .incomplete
		want       string
	}{
		{"large", "model.safetensors", strings.Repeat("x", len(weights)), "", "model.safetensors: checksum is "},
		{"small", "config.json", `{"a": 9}`, "", "config.json: checksum is "},
		{"too much", "model.safetensors", weights + "!", "", "sends more than the 1400000 bytes"},
		{"a beginning of something else", "model.safetensors", weights, "other", "model.safetensors: checksum is "},
		{"a beginning that is too long", "model.safetensors", weights, weights + "!", ""},
		{"a whole one", "model.safetensors", "", weights, ""},
	} {
		t.Run(k.name, func(t *testing.T) {
			h := newHub(t, modelOf())
			h.hostile = func(w http.ResponseWriter, r *http.Request, n int) bool {
				if path.Base(r.URL.Path) != k.file || large(k.file) && strings.Contains(r.URL.Path, "resolve") {
					return false
				}
				if r.Header.Get("Range") != "" {
					http.ServeContent(w, r, "", time.Time{}, strings.NewReader(k.send))
				} else {
					w.Write([]byte(k.send))
				}
				return true
			}
			c := h.client()
			blob := filepath.Join(c.Cache, "models--org--some.model-1B", "blobs", sum(k.file, h.files[k.file]))
			if k.before != "" {
				os.MkdirAll(filepath.Dir(blob), 0o777)
				if err := os.WriteFile(blob+".incomplete", []byte(k.before), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			_, err := c.Pull(t.Context(), Request{Name: repo})
			if k.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if err == nil || !strings.Contains(err.Error(), k.want) {
				t.Errorf("error is %v; want %q", err, k.want)
			}
			for _, name := range []string{blob, blob + ".incomplete"} {
				if info, err := os.Stat(name); err == nil && info.Size() > 0 {
					t.Errorf("%s has %d bytes", name, info.Size())
				}
			}
			if _, err := c.Resolve(repo, ""); err == nil {
				t.Error("the model is there")
			}
		})
	}
}

// Refusals say what is to be done.
func TestRefusals(t *testing.T) {
	for _, k := range []struct {
		status              int
		code, message, want string
	}{
		{401, "", "Invalid username or password.", "is not on the hub, or is private: there is no token (HF_TOKEN)"},
		{401, "GatedRepo", "Access to model x is restricted.", "access is restricted: its page on the hub says how to ask for it"},
		{403, "GatedRepo", "You are not in the authorized list.", "not in the authorized list"},
		{404, "RevisionNotFound", "Invalid rev id", "has no such revision"},
		{404, "", "", "is not on the hub"},
		{400, "", "", "400 Bad Request"},
	} {
		h := newHub(t, modelOf())
		h.hostile = func(w http.ResponseWriter, r *http.Request, n int) bool {
			if n > 1 {
				t.Error("asked again")
			}
			w.Header().Set("X-Error-Code", k.code)
			w.Header().Set("X-Error-Message", k.message)
			w.WriteHeader(k.status)
			return true
		}
		_, err := h.client().Pull(t.Context(), Request{Name: repo})
		if err == nil || !strings.HasPrefix(err.Error(), repo+": ") || !strings.Contains(err.Error(), k.want) {
			t.Errorf("%d %s: error is %v; want %q", k.status, k.code, err, k.want)
		}
	}
	h := newHub(t, modelOf())
	if _, err := h.client().Pull(t.Context(), Request{Name: repo, Revision: "v2"}); err == nil || !strings.Contains(err.Error(), "has no such revision") {
		t.Errorf("error is %v", err)
	}
}

// Lists that lie are refused, and nothing is written outside of the cache.
func TestHostileLists(t *testing.T) {
	name := func(s string) func(map[string]any) {
		return func(l map[string]any) {
			l["siblings"] = []map[string]any{{"rfilename": s, "size": 1, "blobId": sumGit("x")}}
		}
	}
	field := func(k string, v any) func(map[string]any) {
		return func(l map[string]any) {
			l["siblings"] = []map[string]any{{"rfilename": "config.json", "size": 1, "blobId": sumGit("x"), k: v}}
		}
	}
	for what, list := range map[string]func(map[string]any){
		"parent": name("../config.json"), "deep parent": name("a/../../../config.json"), "absolute": name("/etc/config.json"),
		"backslash": name(`..\config.json`), "drive": name("c:config.json"), "NUL": name("a\x00.json"), "line": name("a\n.json"),
		"empty": name(""), "dot": name("."), "slash": name("a//b.json"), "end": name("a/"), "trailing dot": name("a./b.json"),
		"long": name(strings.Repeat("x", 300)), "very long": name(strings.Repeat("x/", 600) + "x"), "not UTF-8": name("\xff"),
		"hash": field("blobId", "../../../x"), "short hash": field("blobId", "abc"), "capitals": field("blobId", strings.ToUpper(sumGit("x"))),
		"negative": field("lfs", map[string]any{"sha256": sum256("x"), "size": -5}), "text": field("size", "many"),
		"large hash": field("lfs", map[string]any{"sha256": "/etc/passwd", "size": 1}),
		"twice": func(l map[string]any) {
			f := map[string]any{"rfilename": "config.json", "size": 1, "blobId": sumGit("x")}
			l["siblings"] = []any{f, f}
		},
		"commit":    func(l map[string]any) { l["sha"] = "../../../../x" },
		"no commit": func(l map[string]any) { delete(l, "sha") },
		"no files":  func(l map[string]any) { delete(l, "siblings") },
	} {
		t.Run(what, func(t *testing.T) {
			h := newHub(t, map[string]string{})
			h.list = list
			c := h.client()
			if what == "not UTF-8" {
				h.hostile = func(w http.ResponseWriter, r *http.Request, _ int) bool {
					fmt.Fprintf(w, `{"sha": %q, "siblings": [{"rfilename": "a`+"\xff"+`/../b", "size": 1, "blobId": %q}]}`, first, sumGit("x"))
					return true
				}
			}
			_, err := c.Pull(t.Context(), Request{Name: repo, Include: []string{"*"}})
			if err == nil {
				t.Error("no error")
			}
			if got := tree(t, filepath.Dir(c.Cache)); len(got) > 0 {
				t.Errorf("written: %v (%v)", got, err)
			}
		})
	}
	h := newHub(t, map[string]string{})
	h.hostile = func(w http.ResponseWriter, r *http.Request, n int) bool {
		w.Write(bytes.Repeat([]byte(" "), 65<<20))
		return true
	}
	if _, err := h.client().Pull(t.Context(), Request{Name: repo}); err == nil || !strings.Contains(err.Error(), "more than 67108864 bytes") {
		t.Errorf("error is %v", err)
	}
}

// Links that somebody has put into the cache lead nowhere.
func TestPlantedLinks(t *testing.T) {
	model := "models--org--some.model-1B"
	blob := model + "/blobs/" + sum256(weights)
	for _, at := range []string{
		model, model + "/blobs", model + "/refs", model + "/snapshots", model + "/snapshots/" + first, ".locks", ".locks/" + model,
		blob, blob + ".incomplete", ".locks/" + model + "/" + sum256(weights) + ".lock", model + "/refs/main",
	} {
		for _, inside := range []bool{false, true} {
			h := newHub(t, modelOf())
			c := h.client()
			target := filepath.Join(filepath.Dir(c.Cache), "target")
			if inside {
				target = filepath.Join(c.Cache, "target")
			}
			file := strings.HasSuffix(at, "main") || strings.Contains(at, sum256(weights))
			if err := os.MkdirAll(filepath.Join(c.Cache, filepath.Dir(at)), 0o777); err != nil {
				t.Fatal(err)
			}
			if file {
				if err := os.WriteFile(target, []byte("precious"), 0o666); err != nil {
					t.Fatal(err)
				}
			} else if err := os.Mkdir(target, 0o777); err != nil {
				t.Fatal(err)
			}
			to, _ := filepath.Rel(filepath.Dir(filepath.Join(c.Cache, at)), target)
			if err := os.Symlink(to, filepath.Join(c.Cache, at)); err != nil {
				t.Skip(err)
			}
			_, err := c.Pull(t.Context(), Request{Name: repo})
			if err == nil {
				t.Errorf("%s is a link, and there is no error", at)
			}
			if file {
				if data, err := os.ReadFile(target); err != nil || string(data) != "precious" {
					t.Errorf("%s: the target holds %.20q (%v)", at, data, err)
				}
			} else if got := tree(t, target); len(got) > 0 {
				t.Errorf("%s: written: %v", at, got)
			}
		}
	}
}

// The token goes to the hub alone: not to a host that it redirects to, and not by HTTP when the hub speaks HTTPS.
func TestTokenStays(t *testing.T) {
	h := newHub(t, modelOf())
	h.token = "hf_secret"
	h.hostile = func(w http.ResponseWriter, r *http.Request, n int) bool {
		if strings.HasPrefix(r.URL.Path, "/api/") && r.Host != strings.TrimPrefix(h.cdn.URL, "http://") {
			http.Redirect(w, r, h.cdn.URL+r.URL.String(), http.StatusTemporaryRedirect)
			return true
		}
		return false
	}
	if _, err := h.client().Pull(t.Context(), Request{Name: repo}); err == nil { // serveLarge has no list
		t.Error("no error")
	}

	secure := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.Redirect(w, r, h.hub.URL+r.URL.String(), http.StatusFound)
	}))
	defer secure.Close()
	c := h.client()
	c.Endpoint, c.transport = secure.URL, secure.Client().Transport
	before := len(h.requests())
	if _, err := c.Pull(t.Context(), Request{Name: repo}); err == nil || !strings.Contains(err.Error(), "redirect from https to http") {
		t.Errorf("error is %v", err)
	}
	if len(h.requests()) != before {
		t.Error("the redirect was followed")
	}

	c = h.client()
	c.Token = "a\r\nX: b"
	if _, err := c.Pull(t.Context(), Request{Name: repo}); err == nil || strings.Contains(err.Error(), "X: b") {
		t.Errorf("error is %v", err)
	}
}

// A hub that lists no lengths and checksums is asked for those of each file.
func TestPlainList(t *testing.T) {
	h := newHub(t, modelOf())
	h.list = func(l map[string]any) {
		for _, f := range l["siblings"].([]map[string]any) {
			delete(f, "size")
			delete(f, "blobId")
			delete(f, "lfs")
		}
	}
	s, err := h.client().Pull(t.Context(), Request{Name: repo})
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range s.Files {
		if f.Hash != sum(f.Path, h.files[f.Path]) {
			t.Errorf("%s has the hash %s", f.Path, f.Hash)
		}
	}
}

// Where links cannot be made, there are copies.
func TestCopies(t *testing.T) {
	h := newHub(t, modelOf())
	c := h.client()
	c.link = func(*os.Root, string, string) error { return errors.ErrUnsupported }
	for range 2 {
		s, err := c.Pull(t.Context(), Request{Name: repo})
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range s.Files {
			name := filepath.Join(s.Dir, f.Path)
			info, err := os.Lstat(name)
			if err != nil || !info.Mode().IsRegular() {
				t.Fatalf("%s is %v (%v)", name, info, err)
			}
			if data, _ := os.ReadFile(name); string(data) != h.files[f.Path] {
				t.Errorf("%s holds %.20q", name, data)
			}
		}
	}
}

// What does not fit on the disk is not begun.
func TestDiskFull(t *testing.T) {
	h := newHub(t, modelOf())
	c := h.client()
	c.free = func(string) (int64, error) { return 1_000_000, nil }
	_, err := c.Pull(t.Context(), Request{Name: repo})
	if err == nil || !strings.Contains(err.Error(), "1 MB are to be downloaded, and") {
		t.Errorf("error is %v", err)
	}
	if n := len(h.requests()); n != 1 {
		t.Errorf("%d requests; want one, for the list", n)
	}
}

// Pulls at the same time download each file once, and all succeed.
func TestConcurrent(t *testing.T) {
	h := newHub(t, modelOf())
	c := h.client()
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() {
			s, err := c.Pull(t.Context(), Request{Name: repo})
			if err != nil {
				t.Error(err)
				return
			}
			if data, err := os.ReadFile(filepath.Join(s.Dir, "model.safetensors")); err != nil || string(data) != weights {
				t.Errorf("the file has %d bytes (%v)", len(data), err)
			}
		})
	}
	wg.Wait()
	if n := h.counts["/model.safetensors"]; n != 1 {
		t.Errorf("the file was asked for %d times", n)
	}
}

// The environment says where the cache, the token and the hub are.
func TestFromEnv(t *testing.T) {
	dir := t.TempDir()
	os.WriteFile(filepath.Join(dir, "token"), []byte("hf_file\n"), 0o600)
	os.WriteFile(filepath.Join(dir, "other"), []byte("hf_other\n"), 0o600)
	user, err := os.UserHomeDir()
	if err != nil {
		t.Skip(err)
	}
	for _, k := range []struct {
		env                    map[string]string
		endpoint, token, cache string
	}{
		{map[string]string{"HF_HOME": dir}, "https://huggingface.co", "hf_file", dir + "/hub"},
		{map[string]string{"HF_HOME": dir, "HF_TOKEN": "hf_env", "HF_ENDPOINT": "http://mirror", "HF_HUB_CACHE": dir + "/c"}, "http://mirror", "hf_env", dir + "/c"},
		{map[string]string{"HF_HOME": dir, "HF_TOKEN_PATH": dir + "/other"}, "https://huggingface.co", "hf_other", dir + "/hub"},
		{map[string]string{"HF_HOME": "~/no/such"}, "https://huggingface.co", "", user + "/no/such/hub"},
		{map[string]string{"XDG_CACHE_HOME": dir, "HF_TOKEN": "t"}, "https://huggingface.co", "t", dir + "/huggingface/hub"},
	} {
		for _, name := range []string{"HF_HOME", "HF_TOKEN", "HF_TOKEN_PATH", "HF_ENDPOINT", "HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "XDG_CACHE_HOME"} {
			t.Setenv(name, k.env[name])
		}
		c, err := FromEnv()
		if err != nil {
			t.Fatal(err)
		}
		if c.Endpoint != k.endpoint || c.Token != k.token || c.Cache != filepath.FromSlash(k.cache) {
			t.Errorf("%v: got %s, %s, %s", k.env, c.Endpoint, c.Token, c.Cache)
		}
	}
	t.Setenv("HF_HUB_OFFLINE", "1")
	if _, err := (&Client{}).Pull(t.Context(), Request{Name: repo}); err == nil || !strings.Contains(err.Error(), "HF_HUB_OFFLINE is 1") {
		t.Errorf("error is %v", err)
	}
}

func TestParseName(t *testing.T) {
	for s, want := range map[string]Name{
		"a/b": {"a/b", ""}, "HuggingFaceTB/SmolLM2-135M-Instruct": {"HuggingFaceTB/SmolLM2-135M-Instruct", ""},
		"a/b.c_d-e:x/y-Q4_K_M.gguf": {"a/b.c_d-e", "x/y-Q4_K_M.gguf"},
	} {
		got, err := ParseName(s)
		if err != nil || got != want || got.String() != s {
			t.Errorf("%q is %+v, %v", s, got, err)
		}
	}
	for _, s := range []string{"", "a", "a/", "/b", "a/b/c", "../b", "a/..", "a/b--c", "a/b..c", "-a/b", "a/b.", "a/b.git", "a b/c", "a/b:", "a/b:../x", "a/b:/x", "a\\b/c", strings.Repeat("a", 97) + "/b"} {
		if got, err := ParseName(s); err == nil {
			t.Errorf("%q is %+v; want an error", s, got)
		}
	}
	for _, rev := range []string{"../x", "/x", "a\\b", "a\x00", "."} {
		if _, err := (&Client{Cache: t.TempDir()}).Resolve("a/b", rev); err == nil || errors.Is(err, fs.ErrNotExist) {
			t.Errorf("revision %q gives %v", rev, err)
		}
	}
}

// A reference that leads out of the cache, or nowhere, is an error.
func TestResolveHostile(t *testing.T) {
	for ref, want := range map[string]string{"../../..": "want a commit", "": "want a commit", first: "is not"} {
		c := &Client{Cache: t.TempDir()}
		dir := filepath.Join(c.Cache, "models--a--b", "refs")
		os.MkdirAll(dir, 0o777)
		if err := os.WriteFile(filepath.Join(dir, "main"), []byte(ref), 0o666); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Resolve("a/b", ""); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%q gives %v; want %q", ref, err, want)
		}
	}
	if _, err := (&Client{Cache: filepath.Join(t.TempDir(), "no")}).Resolve("a/b", ""); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("got %v", err)
	}
}

// A path that passes stays below where it is put.
func TestCheckPath(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		p := rapid.StringMatching(`[a./\\: \x00-]{0,12}`).Draw(t, "path")
		if checkPath(p) != nil {
			return
		}
		rel, err := filepath.Rel("base", filepath.Join("base", filepath.FromSlash(p)))
		if err != nil || !filepath.IsLocal(rel) || filepath.ToSlash(rel) != p {
			t.Fatalf("%q is %q below base (%v)", p, rel, err)
		}
	})
}

// Whatever a hub lists, Pull gives a snapshot or an error and writes nothing outside of the cache.
func FuzzList(f *testing.F) {
	f.Add([]byte(`{"sha": "`+first+`", "siblings": [{"rfilename": "a/../../config.json", "size": 1, "blobId": "`+sumGit("x")+`"}]}`), "*")
	f.Add([]byte(`{"sha": "`+first+`", "siblings": [{"rfilename": "config.json", "lfs": {"sha256": "`+sum256("")+`", "size": 0}}]}`), "c*")
	f.Add([]byte(`{"sha": "`+first+`", "siblings": [{"rfilename": "a"}, {"rfilename": "a/b"}]}`), "a[/!b]*")
	f.Fuzz(func(t *testing.T, list []byte, pattern string) {
		outside := t.TempDir()
		c := &Client{
			Endpoint: "http://hub", Cache: filepath.Join(outside, "cache"),
			wait: func(ctx context.Context, _ time.Duration) error { return ctx.Err() },
			transport: roundTrip(func(r *http.Request) *httptest.ResponseRecorder {
				w := httptest.NewRecorder()
				if strings.HasPrefix(r.URL.Path, "/api/") {
					w.Write(list)
				}
				return w
			}),
		}
		c.Pull(t.Context(), Request{Name: repo, Include: []string{pattern}})
		entries, err := os.ReadDir(outside)
		if err != nil || len(entries) > 1 || len(entries) == 1 && entries[0].Name() != "cache" {
			t.Errorf("there is %v (%v)", entries, err)
		}
	})
}

type roundTrip func(r *http.Request) *httptest.ResponseRecorder

func (f roundTrip) RoundTrip(r *http.Request) (*http.Response, error) {
	a := f(r).Result()
	a.Request = r
	return a, nil
}

// Locks of one file exclude one another, and the end of the context ends the waiting.
func TestLock(t *testing.T) {
	if runtime.GOOS == "js" {
		t.Skip("no locks")
	}
	name := filepath.Join(t.TempDir(), "lock")
	a, err := os.Create(name)
	if err != nil {
		t.Fatal(err)
	}
	if err := lock(t.Context(), a); err != nil {
		t.Fatal(err)
	}
	b, err := os.Open(name)
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := lock(ctx, b); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the second lock gives %v", err)
	}
	a.Close()
	if err := lock(t.Context(), b); err != nil {
		t.Errorf("once the first is gone: %v", err)
	}
}
