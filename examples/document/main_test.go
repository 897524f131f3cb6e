package main

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/anchorattention/anchor/chat"
	"github.com/anchorattention/anchor/model/retrieval"
)

func TestMain(m *testing.M) {
	chat.Main()
	os.Exit(m.Run())
}

// A model that can look up finds what stands in a document of some thousands of tokens.
func TestAsk(t *testing.T) {
	dir := t.TempDir()
	if err := retrieval.Write(t.Context(), dir); err != nil {
		t.Fatal(err)
	}
	template := `<s> {% for m in messages %}{{ m.content }}{% endfor %}`
	if err := os.WriteFile(filepath.Join(dir, "chat_template.jinja"), []byte(template), 0o666); err != nil {
		t.Fatal(err)
	}
	filler := strings.Repeat("And so on and on they went. ", 700)
	var out strings.Builder
	if err := ask(t.Context(), &out, dir, filler+"He wrote babobax house on the door. "+filler, "babobax"); err != nil {
		t.Fatal(err)
	}
	want := regexp.MustCompile(`^house\n\n\d+ tokens, .* density 0\.\d+, recall (1\.0000|0\.99\d\d); `)
	if !want.MatchString(out.String()) {
		t.Errorf("got %q; want what matches %s", out.String(), want)
	}
}
