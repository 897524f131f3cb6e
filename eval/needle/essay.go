package needle

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"sync"
	"unicode"
	"unicode/utf8"

	"github.com/anchorattention/anchor/eval"
	"github.com/anchorattention/anchor/internal/book"
)

// An Essay is a text to hide needles in.
type Essay struct {
	words []string
	hash  string
}

// Book returns the novel that is part of the program, War and Peace.
var Book = sync.OnceValue(func() *Essay { return &Essay{words: strings.Fields(book.Text())} })

// LoadEssay reads an essay from a file in the format of RULER's PaulGrahamEssays.json: an object with the field "text".
func LoadEssay(path string) (*Essay, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	e, err := ParseEssay(data)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return e, nil
}

// ParseEssay is like LoadEssay for the content of a file.
func ParseEssay(data []byte) (*Essay, error) {
	var file struct {
		Text *string `json:"text"`
	}
	if err := json.Unmarshal(data, &file); err != nil {
		return nil, fmt.Errorf("not an object with a text: %w", err)
	}
	if file.Text == nil {
		return nil, fmt.Errorf(`no field "text"; want the essay in it`)
	}
	e := &Essay{words: strings.Fields(*file.Text), hash: eval.Hash(data)}
	if len(e.words) == 0 {
		return nil, fmt.Errorf(`the field "text" has no words; want some`)
	}
	return e, nil
}

// Data is what tasks say of the essay among their data: nothing of that which is part of the program.
func (e *Essay) Data() map[string]string {
	if e.hash == "" {
		return nil
	}
	return map[string]string{"essay": e.hash}
}

// First returns the first n words with a space between them, from the beginning again where the essay ends.
func (e *Essay) First(n int) string {
	var out strings.Builder
	for i := range n {
		if i > 0 {
			out.WriteByte(' ')
		}
		out.WriteString(e.words[i%len(e.words)])
	}
	return out.String()
}

// Sentences splits a text, whose words have a space between them, after the marks that end a sentence. Putting them together with
// spaces gives the text again.
func Sentences(text string) []string {
	var sentences []string
	from := 0
	for at := 0; at < len(text); at++ {
		if text[at] != ' ' || !ends(text[from:at]) || !begins(text[at+1:]) {
			continue
		}
		sentences = append(sentences, text[from:at])
		from = at + 1
	}
	if from < len(text) {
		sentences = append(sentences, text[from:])
	}
	return sentences
}

// ends reports whether a sentence may end so.
func ends(text string) bool {
	text = strings.TrimRight(text, `"')]”’»`)
	if strings.HasSuffix(text, "!") || strings.HasSuffix(text, "?") {
		return true
	}
	text, ok := strings.CutSuffix(text, ".")
	if !ok {
		return false
	}
	word := strings.TrimLeft(text[strings.LastIndexByte(text, ' ')+1:], `"'([“‘«`)
	if r, size := utf8.DecodeRuneInString(word); size == len(word) && unicode.IsUpper(r) {
		return false // an initial
	}
	switch word {
	case "Mr", "Mrs", "Ms", "Dr", "St", "Prof", "Jr", "Sr", "vs", "cf", "e.g", "i.e", "etc", "No", "Fig", "pp":
		return false
	}
	return true
}

// begins reports whether a sentence may begin so.
func begins(text string) bool {
	r, _ := utf8.DecodeRuneInString(strings.TrimLeft(text, `"'([“‘«—- `))
	return unicode.IsUpper(r) || unicode.IsDigit(r)
}
