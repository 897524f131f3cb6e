package generate

import (
	"strings"

	"github.com/anchorattention/anchor/tokenizer"
)

// A writer turns the tokens of one sequence into text as they come: whole characters, and nothing that may be the beginning of
// a string that ends the text.
type writer struct {
	stream *tokenizer.Stream
	stop   []string
	held   string // what may be the beginning of one of stop
}

// put adds a token and returns the text that can be said. When a string that ends the text is complete, stopped, that is the
// last of it: what comes before that string.
func (w *writer) put(id int32) (text string, stopped bool) {
	return w.add(w.stream.Put(id))
}

// flush ends the text and returns what is left of it.
func (w *writer) flush() (text string, stopped bool) {
	text, stopped = w.add(w.stream.Flush())
	if !stopped {
		text, w.held = text+w.held, ""
	}
	return text, stopped
}

func (w *writer) add(text string) (said string, stopped bool) {
	text = w.held + text
	// The one that is complete first, however the text comes in tokens, and of several the longest.
	from, to := 0, 0
	for _, s := range w.stop {
		if i := strings.Index(text, s); i >= 0 && (to == 0 || i+len(s) < to || i+len(s) == to && i < from) {
			from, to = i, i+len(s)
		}
	}
	if to > 0 {
		w.held = ""
		return text[:from], true
	}
	// The longest end of the text that one of stop begins with. Both are whole characters, and so is what is before it.
	keep := 0
	for _, s := range w.stop {
		for n := min(len(s)-1, len(text)); n > keep; n-- {
			if strings.HasPrefix(s, text[len(text)-n:]) {
				keep = n
			}
		}
	}
	w.held = text[len(text)-keep:]
	return text[:len(text)-keep], false
}
