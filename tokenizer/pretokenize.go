package tokenizer

import "strings"

// A preTokenizer is one step of splitting text into words. It may rewrite the
// text before.
type preTokenizer struct {
	space  string  // put in the place of each space, if not empty
	prefix string  // put before text that does not begin with it, if not empty
	first  bool    // but only before the beginning of the encoded text
	scan   scanner // nil: do not split
}

func (p *preTokenizer) rewrite(s segment) segment {
	if p.space != "" {
		s = s.replace(" ", p.space)
	}
	if p.prefix != "" && !strings.HasPrefix(s.text, p.prefix) && (!p.first || s.offset(0, 1).Start == 0) {
		s = s.prepend(p.prefix)
	}
	return s
}
