package needle_test

import (
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/anchorattention/anchor/eval"
	"github.com/anchorattention/anchor/eval/needle"
	"github.com/anchorattention/anchor/model/retrieval"
	"github.com/anchorattention/anchor/tokenizer"
)

func format(t *testing.T) *eval.Format {
	_, file, err := retrieval.Build()
	if err != nil {
		t.Fatal(err)
	}
	tok, err := tokenizer.Parse(file)
	if err != nil {
		t.Fatal(err)
	}
	return &eval.Format{Tokenizer: tok}
}

// Sentences are the text, and end where they should.
func TestSentences(t *testing.T) {
	for _, c := range []struct {
		text string
		want []string
	}{
		{"", nil},
		{"One", []string{"One"}},
		{"It rained. We left! Why? “Who knows.” (Nobody.) 7 did.", []string{"It rained.", "We left!", "Why?", "“Who knows.”", "(Nobody.)", "7 did."}},
		{"Mr. Smith met J. R. Jones, e.g. Bob. it went on... and on. The end", []string{"Mr. Smith met J. R. Jones, e.g. Bob. it went on... and on.", "The end"}},
	} {
		if diff := cmp.Diff(c.want, needle.Sentences(c.text)); diff != "" {
			t.Error(diff)
		}
	}
	text := needle.Book().First(30000)
	sentences := needle.Sentences(text)
	if got := strings.Join(sentences, " "); got != text {
		t.Error("the sentences of the book are not the book")
	}
	if mean := 30000 / len(sentences); mean < 8 || mean > 30 {
		t.Errorf("sentences of the book have %d words", mean)
	}
}

// An essay begins again where it ends; its file is told by a hash, and what is wrong with it is said.
func TestEssay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "essay.json")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"text": " one\n\ntwo\tthree "}`)
	e, err := needle.LoadEssay(path)
	if err != nil {
		t.Fatal(err)
	}
	if got := e.First(7); got != "one two three one two three one" {
		t.Errorf("%q", got)
	}
	if e.Data()["essay"] == "" || needle.Book().Data() != nil {
		t.Errorf("hashes %v, %v", e.Data(), needle.Book().Data())
	}
	for want, text := range map[string]string{`no field "text"`: "{}", "has no words": `{"text": " "}`, "not an object": "[]"} {
		write(text)
		if _, err := needle.LoadEssay(path); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%v; want %q", err, want)
		}
	}
}

func FuzzParseEssay(f *testing.F) {
	f.Add([]byte(`{"text": "one two"}`))
	f.Add([]byte(`{"text": null}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		e, err := needle.ParseEssay(data)
		if err != nil {
			return
		}
		text := e.First(5)
		if got := strings.Join(needle.Sentences(text), " "); got != text {
			t.Errorf("sentences of %q are %q", text, got)
		}
	})
}

// The needle lies between sentences at its depth, is the only one, fits its length, and is found by its number.
func TestHaystack(t *testing.T) {
	f := format(t)
	task := needle.Haystack(needle.Book())
	for _, length := range []int{300, 2000} {
		for index := range 13 {
			s, err := task.Sample(f, length, index, 5)
			if err != nil {
				t.Fatal(err)
			}
			tokens := len(f.Encode(s.Prompt, s.Prefix)) + s.MaxTokens
			if tokens > length || tokens < length-30 {
				t.Errorf("%d tokens; want %d or somewhat less", tokens, length)
			}
			lines := strings.Split(s.Prompt, "\n")
			want := float64(index%11) / 10
			before, after, ok := strings.Cut(lines[1], "One of the special magic numbers for ")
			if len(lines) != 3 || !ok || strings.Count(s.Prompt, s.Answers[0]) != 1 || s.Values["depth"] != want {
				t.Fatalf("%+v", s)
			}
			_, after, _ = strings.Cut(after, s.Answers[0]+".")
			n, left := len(needle.Sentences(strings.TrimSpace(before))), len(needle.Sentences(strings.TrimSpace(after)))
			if got := float64(n) / float64(n+left); math.Abs(got-want) > 0.5/float64(n+left)+1e-9 {
				t.Errorf("needle after %d of %d sentences; want %v", n, n+left, want)
			}
			if task.Score(s, "It is "+s.Answers[0]) != 1 || task.Score(s, "It is 1.") != 0 {
				t.Error("scores")
			}
		}
	}
	if _, err := task.Sample(f, 40, 0, 5); err == nil {
		t.Error("no error where nothing fits")
	}
}

// Words are different ones, and enough.
func TestWords(t *testing.T) {
	if n := len(needle.Vocabulary()); n < 15000 {
		t.Errorf("%d words", n)
	}
	if !slices.IsSorted(needle.Vocabulary()) || len(slices.Compact(slices.Clone(needle.Vocabulary()))) != len(needle.Vocabulary()) {
		t.Error("words are not in order, or some are equal")
	}
	seen := make(map[string]bool)
	for i := range needle.Compounds {
		seen[needle.Compound(i)] = true
	}
	if len(seen) != needle.Compounds || needle.Compounds < 300_000 {
		t.Errorf("%d compounds of %d are different", len(seen), needle.Compounds)
	}
}
