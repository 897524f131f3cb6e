package main

import (
	"crypto/sha1"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A pulled model lies where the command says, and the second time nothing is downloaded.
func TestPull(t *testing.T) {
	const commit = "0123456789abcdef0123456789abcdef01234567"
	files := map[string]string{"config.json": "{}", "model.safetensors": "weights", "a.gguf": "gguf"}
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/api/models/org/name/revision/main" {
			var siblings []map[string]any
			for name, s := range files {
				siblings = append(siblings, map[string]any{
					"rfilename": name, "size": len(s), "blobId": fmt.Sprintf("%x", sha1.Sum(fmt.Appendf(nil, "blob %d\x00%s", len(s), s))),
				})
			}
			json.NewEncoder(w).Encode(map[string]any{"sha": commit, "siblings": siblings})
			return
		}
		s, ok := files[strings.TrimPrefix(r.URL.Path, "/org/name/resolve/"+commit+"/")]
		if !ok || r.Header.Get("Authorization") != "Bearer hf_test" {
			http.NotFound(w, r)
			return
		}
		fmt.Fprint(w, s)
	}))
	defer server.Close()
	cache := filepath.Join(t.TempDir(), "hub")
	t.Setenv("HF_ENDPOINT", server.URL)
	t.Setenv("HF_HUB_CACHE", cache)
	t.Setenv("HF_TOKEN", "hf_test")
	dir := filepath.Join(cache, "models--org--name", "snapshots", commit)
	for _, downloaded := range []float64{2, 0} {
		m := object(t, mustRun(t, "pull", "org/name", "--json", "--include", "config.json"), "name revision commit dir files")
		if m["dir"] != dir || m["commit"] != commit || m["files"].([]any)[0].(map[string]any)["downloaded"] != downloaded {
			t.Errorf("got %v; want %v bytes downloaded", m, downloaded)
		}
	}
	if got := mustRun(t, "pull", "org/name"); got != dir+"\n" {
		t.Errorf("got %q; want %s", got, dir)
	}
	got := mustRun(t, "pull", "org/name:a.gguf")
	if data, err := os.ReadFile(strings.TrimSuffix(got, "\n")); err != nil || string(data) != "gguf" {
		t.Errorf("%q holds %q (%v)", got, data, err)
	}
	for _, k := range []struct {
		args   []string
		status int
		want   string
	}{
		{[]string{"pull"}, 2, "want ORG/NAME[:FILE]"},
		{[]string{"pull", "name"}, 2, `model is "name"; want ORG/NAME`},
		{[]string{"pull", "org/name:../x"}, 2, "not a relative path"},
		{[]string{"pull", "org/name:a.gguf", "--include", "*"}, 2, "want one of the two"},
		{[]string{"pull", "org/name", "--include", "x"}, 1, "has no such file"},
		{[]string{"pull", "org/other"}, 1, "org/other: is not on the hub"},
	} {
		status, stdout, stderr := anchorCommand(t, k.args...)
		if status != k.status || stdout != "" || !strings.Contains(stderr, k.want) {
			t.Errorf("anchor %q: status %d, stderr %q; want %d, %q", k.args, status, stderr, k.status, k.want)
		}
	}
}
