package book

import (
	"strings"
	"testing"
	"unicode/utf8"
)

// The text is the novel alone.
func TestText(t *testing.T) {
	text := Text()
	if !strings.HasPrefix(text, start+"\n") {
		t.Errorf("starts with %q", text[:50])
	}
	if !strings.HasSuffix(strings.TrimSpace(text), "renounce the consciousness of an") {
		t.Errorf("ends with %q", text[len(text)-50:])
	}
	if n := len(strings.Fields(text)); n < 560_000 || n > 565_000 {
		t.Errorf("has %d words", n)
	}
	if !utf8.ValidString(text) {
		t.Error("is not UTF-8")
	}
	for _, word := range []string{"Gutenberg", "CONTENTS", "Widger"} {
		if strings.Contains(text, word) {
			t.Errorf("holds %q", word)
		}
	}
}
