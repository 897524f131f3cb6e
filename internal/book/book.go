// Package book holds a long text to make prompts of: Leo Tolstoy's novel War and Peace (1869) in English, as prepared
// by "An Anonymous Volunteer, and David Widger" (Project Gutenberg's eBook 2600). The text does not name its
// translators; the translation is that of Louise and Aylmer Maude (1922–23). Novel and translation are in the public
// domain. The text ends in the middle of the last sentence.
package book

import (
	"bytes"
	"compress/gzip"
	_ "embed"
	"io"
	"strings"
	"sync"
)

//go:embed war-and-peace.txt.gz
var compressed []byte

// start is the heading at which the novel begins. It also stands in the table of contents before it.
const start = "BOOK ONE: 1805"

// Text returns the novel from the heading of its first book on, about 563,000 words: credits, title and table of
// contents are left out. It is decompressed once.
var Text = sync.OnceValue(func() string {
	r, err := gzip.NewReader(bytes.NewReader(compressed))
	if err != nil {
		panic("book: " + err.Error()) // the text is part of the program
	}
	text, err := io.ReadAll(r)
	if err != nil {
		panic("book: " + err.Error())
	}
	return string(text[strings.LastIndex(string(text), start):])
})
