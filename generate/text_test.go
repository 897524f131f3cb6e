package generate

import (
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"pgregory.net/rapid"
)

// However the text is cut into tokens: what is said is valid UTF-8 at every moment, is the text up to the stop string that
// is complete first, and is said as soon as it cannot be the beginning of one.
func TestWriter(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Few letters, so that strings begin again and again.
		text := rapid.StringOfN(rapid.SampledFrom([]rune("aab\né☃")), 0, 30, -1).Draw(t, "text")
		stop := rapid.SliceOfN(rapid.StringOfN(rapid.SampledFrom([]rune("ab\né☃")), 1, 4, -1), 0, 3).Draw(t, "stop")
		want := text
	ends:
		for end := range text + "." {
			for from := range text[:end] {
				if slices.Contains(stop, text[from:end]) {
					want = text[:from]
					break ends
				}
			}
		}
		w := &writer{stop: stop}
		said, put, stopped := "", "", false
		// Tokens of whole characters, as the tokenizer's stream gives them.
		runes := []rune(text)
		for len(runes) > 0 {
			n := min(rapid.IntRange(0, 4).Draw(t, "token"), len(runes))
			token := string(runes[:n])
			runes = runes[n:]
			var more string
			put += token
			if more, stopped = w.add(token); !utf8.ValidString(more) {
				t.Fatalf("said %q", more)
			}
			said += more
			if stopped {
				break
			}
			// What is held back is no more than may be a beginning.
			held := put[len(said):]
			if held != w.held {
				t.Fatalf("holds %q back of %q after %q", w.held, put, said)
			}
			if held == "" {
				continue
			}
			begins := false
			for _, s := range stop {
				begins = begins || len(held) < len(s) && strings.HasPrefix(s, held)
			}
			if !begins {
				t.Fatalf("holds %q back, with which none of %q begins", held, stop)
			}
		}
		if !stopped {
			said += w.held
		}
		if said != want {
			t.Fatalf("said %q of %q up to %q; want %q", said, text, stop, want)
		}
	})
}
