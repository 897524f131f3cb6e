package ruler_test

import (
	"compress/gzip"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/anchorattention/anchor/eval"
	"github.com/anchorattention/anchor/eval/needle"
	"github.com/anchorattention/anchor/eval/ruler"
	"github.com/anchorattention/anchor/tokenizer"
)

var update = flag.Bool("update", false, "write the golden files anew")

// smollm2 is a real tokenizer, of bytes.
var smollm2 = sync.OnceValue(func() *eval.Format {
	f, err := os.Open(filepath.Join("..", "..", "tokenizer", "testdata", "smollm2.json.gz"))
	if err != nil {
		panic(err)
	}
	defer f.Close()
	r, err := gzip.NewReader(f)
	if err != nil {
		panic(err)
	}
	data, err := io.ReadAll(r)
	if err != nil {
		panic(err)
	}
	t, err := tokenizer.Parse(data)
	if err != nil {
		panic(err)
	}
	return &eval.Format{Tokenizer: t}
})

var tasks = func() map[string]*eval.Task {
	all := make(map[string]*eval.Task)
	for _, t := range ruler.Tasks(ruler.Data{}) {
		all[t.Name] = t
	}
	return all
}()

// names are the thirteen tasks in the published order.
var names = []string{"niah_single_1", "niah_single_2", "niah_single_3", "niah_multikey_1", "niah_multikey_2", "niah_multikey_3",
	"niah_multivalue", "niah_multiquery", "vt", "cwe", "fwe", "qa_1", "qa_2"}

// each calls check with samples of a task.
func each(t *testing.T, task string, check func(t *testing.T, s *eval.Sample)) {
	f := smollm2()
	for _, length := range []int{1500, 5000} {
		for index := range 3 {
			s, err := tasks[task].Sample(f, length, index, 42)
			if err != nil {
				t.Fatal(err)
			}
			check(t, s)
			if t.Failed() {
				t.Fatalf("%s, %d tokens, sample %d:\n%s|%s\n%q", task, length, index, s.Prompt, s.Prefix, s.Answers)
			}
		}
	}
}

// The thirteen tasks are there, in order, with the published numbers of tokens to generate. Every sample fits its
// length and fills it, but for the steps in which haystacks shrink; it is the same each time, and no two are alike; its own
// answers are a full score, and those of another none.
func TestSamples(t *testing.T) {
	generated := map[string]int{"vt": 30, "cwe": 120, "fwe": 50, "qa_1": 32, "qa_2": 32}
	var got []string
	f := smollm2()
	for _, task := range ruler.Tasks(ruler.Data{}) {
		got = append(got, task.Name)
		for _, length := range []int{1500, 5000} {
			seen := make(map[string]bool)
			for index := range 4 {
				s, err := task.Sample(f, length, index, 42)
				if err != nil {
					t.Fatal(err)
				}
				want := generated[task.Name]
				if strings.HasPrefix(task.Name, "niah") {
					want = 128
				}
				if s.MaxTokens != want || s.Suite != "ruler" || s.Task != task.Name || s.Length != length || s.Index != index || s.Seed != 42 {
					t.Errorf("%s: %+v", task.Name, s)
				}
				tokens := len(f.Encode(s.Prompt, s.Prefix)) + s.MaxTokens
				if tokens > length {
					t.Errorf("%s, sample %d: %d tokens; want %d at most", task.Name, index, tokens, length)
				}
				least := length * 85 / 100
				switch { // what they lose at a time: ten documents, 500 words, 25 needles, a word in 32
				case s.Task == "qa_2" || essay(s.Task):
					least = length - 900
				case s.Task == "niah_multikey_3":
					least = length - 2000
				case s.Task == "fwe":
					least = length * 75 / 100
				}
				if tokens < least {
					t.Errorf("%s, sample %d: %d tokens; want %d at least", task.Name, index, tokens, least)
				}
				if seen[s.Prompt] {
					t.Errorf("%s, sample %d: as an earlier one", task.Name, index)
				}
				seen[s.Prompt] = true
				again, err := tasks[task.Name].Sample(f, length, index, 42)
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(s, again); diff != "" {
					t.Errorf("%s, sample %d: %s", task.Name, index, diff)
				}
				other, err := task.Sample(f, length, index, 43)
				if err != nil {
					t.Fatal(err)
				}
				if other.Prompt == s.Prompt {
					t.Errorf("%s, sample %d: the same with another seed", task.Name, index)
				}
				if score := task.Score(s, " x "+strings.ToUpper(strings.Join(s.Answers, ", "))+"."); score != 1 {
					t.Errorf("%s: the answers score %v", task.Name, score)
				}
				if score := task.Score(s, "I do not know."); score != 0 {
					t.Errorf("%s: no answer scores %v", task.Name, score)
				}
			}
		}
	}
	if diff := cmp.Diff(names, got); diff != "" {
		t.Error(diff)
	}
}

// essay reports whether a task's needles lie in an essay.
func essay(task string) bool {
	return strings.HasPrefix(task, "niah") && task != "niah_single_1" && task != "niah_multikey_2" && task != "niah_multikey_3"
}

// Scores of several answers are the share that is there; of questions, one is enough.
func TestScore(t *testing.T) {
	for _, c := range []struct {
		task    string
		answers []string
		output  string
		want    float64
	}{
		{"niah_multivalue", []string{"1234567", "7654321", "1111111", "2222222"}, " 1234567, 2222222 and 3333333", 0.5},
		{"niah_single_1", []string{"1234567"}, "12345678", 1}, // as published: a part of a word counts
		{"niah_single_1", []string{"1234567"}, "123 4567", 0},
		{"vt", []string{"ABCDE", "BCDEF", "CDEFG", "DEFGH", "EFGHI"}, "abcde bcdef\ncdefg", 0.6},
		{"cwe", []string{"oak", "elm"}, "1. Oak 2. ash", 0.5},
		{"qa_1", []string{"whale oil", "oil of whales"}, "It was WHALE OIL.", 1},
		{"qa_2", []string{"yes"}, "No.", 0},
	} {
		if got := tasks[c.task].Score(&eval.Sample{Answers: c.answers}, c.output); got != c.want {
			t.Errorf("%s: %q scores %v; want %v", c.task, c.output, got, c.want)
		}
	}
}

const (
	word   = `[a-z]+-[a-z]+`
	number = `[1-9][0-9]{6}`
	uuid   = `[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}`
	noise  = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
)

// niah says what a task with needles must look like.
func TestNIAH(t *testing.T) {
	for name, c := range map[string]struct {
		kind, key, value        string
		haystack                string
		keys, values, questions int
	}{
		"niah_single_1":   {"number", word, number, "noise", 1, 1, 1},
		"niah_single_2":   {"number", word, number, "essay", 1, 1, 1},
		"niah_single_3":   {"uuid", word, uuid, "essay", 1, 1, 1},
		"niah_multikey_1": {"number", word, number, "essay", 4, 1, 1},
		"niah_multikey_2": {"number", word, number, "needles", 1, 1, 1},
		"niah_multikey_3": {"uuid", uuid, uuid, "needles", 1, 1, 1},
		"niah_multivalue": {"number", word, number, "essay", 1, 4, 1},
		"niah_multiquery": {"number", word, number, "essay", 4, 1, 4},
	} {
		depths := make(map[int]bool)
		each(t, name, func(t *testing.T, s *eval.Sample) {
			first := fmt.Sprintf("A special magic %[1]s is hidden within the following text. Make sure to memorize it. I will quiz you about the %[1]s afterwards.\n", c.kind)
			last := `What is the special magic ` + c.kind + ` for (.*) mentioned in the provided text\?`
			prefix := " The special magic " + c.kind + " for %s mentioned in the provided text is"
			if c.values*c.questions > 1 {
				first = fmt.Sprintf("Some special magic %[1]ss are hidden within the following text. Make sure to memorize it. I will quiz you about the %[1]ss afterwards.\n", c.kind)
				last = `What are all the special magic ` + c.kind + `s for (.*) mentioned in the provided text\?`
				prefix = " The special magic " + c.kind + "s for %s mentioned in the provided text are"
			}
			m := regexp.MustCompile(`(?s)^` + regexp.QuoteMeta(first) + `(.*)\n` + last + `$`).FindStringSubmatch(s.Prompt)
			if m == nil {
				t.Error("not as the template")
				return
			}
			context, query := m[1], m[2]
			if want := fmt.Sprintf(prefix, query); s.Prefix != want {
				t.Errorf("prefix is %q; want %q", s.Prefix, want)
			}
			asked := strings.Split(strings.Replace(query, ", and ", ", ", 1), ", ")
			if len(asked) != c.questions || (len(asked) > 1) != strings.Contains(query, ", and ") {
				t.Errorf("query is %q; want %d keys", query, c.questions)
			}
			// The needles and what is left without them.
			pattern := regexp.MustCompile(`One of the special magic ` + c.kind + `s for (` + c.key + `) is: (` + c.value + `)\.`)
			values := make(map[string][]string)
			for _, n := range pattern.FindAllStringSubmatch(context, -1) {
				values[n[1]] = append(values[n[1]], n[2])
			}
			places := pattern.FindAllStringIndex(context, -1)
			var answers []string
			for _, key := range asked {
				if len(values[key]) != c.values {
					t.Errorf("%q has values %q; want %d", key, values[key], c.values)
				}
				answers = append(answers, values[key]...)
			}
			slices.Sort(answers)
			if diff := cmp.Diff(slices.Sorted(slices.Values(s.Answers)), answers); diff != "" {
				t.Error(diff)
			}
			if c.haystack != "needles" && (len(values) != c.keys || len(places) != c.keys*c.values) {
				t.Errorf("%d keys in %d needles; want %d in %d", len(values), len(places), c.keys, c.keys*c.values)
			}
			switch c.haystack {
			case "noise":
				lines := strings.Split(context, "\n")
				rest := slices.DeleteFunc(lines, func(l string) bool { return l == noise })
				if len(rest) != len(places) {
					t.Errorf("%d lines are no noise; want %d", len(rest), len(places))
				}
			case "needles":
				lines := strings.Split(context, "\n")
				if len(lines) != len(places) || len(values) < len(lines)*9/10 {
					t.Errorf("%d lines, %d needles, %d keys", len(lines), len(places), len(values))
				}
			case "essay":
				text := context
				for i, p := range slices.Backward(places) {
					before, after := context[:p[0]], context[p[1]:]
					sentence := regexp.MustCompile(`[.!?]["')\]”’]* $`)
					atEnd := strings.TrimSpace(pattern.ReplaceAllString(after, "")) == "" // of a text that ends anywhere
					if before != "" && !atEnd && !sentence.MatchString(before) && !(i > 0 && places[i-1][1] == p[0]-1) {
						t.Errorf("needle %d stands within a sentence: …%s", i, before[max(len(before)-40, 0):])
					}
					if after != "" && after[0] != ' ' {
						t.Errorf("needle %d: %s…", i, after[:min(40, len(after))])
					}
					text = strings.TrimSpace(text[:p[0]]) + " " + strings.TrimSpace(text[p[1]:])
					depths[100*p[0]/len(context)] = true
				}
				text = strings.TrimSpace(text)
				if want := needle.Book().First(len(strings.Fields(text))); text != want {
					t.Errorf("without needles the text is not the book's beginning")
				}
			}
		})
		if c.haystack == "essay" && len(depths) < 5 {
			t.Errorf("%s: needles at %d depths", name, len(depths))
		}
	}
}

var tracking = regexp.MustCompile(`(?s)^Memorize and track the chain\(s\) of variable assignment hidden in the following text\.\n\n(.*)\nQuestion: Find all variables that are assigned the value (\d{5}) in the text above\.$`)

// checkChain checks the context of a chain of variables.
func checkChain(t *testing.T, context, value string, letters int, variables []string) (lines int) {
	var chain []string
	for line := range strings.SplitSeq(context, "\n") {
		lines++
		if line != noise {
			chain = append(chain, line)
		}
	}
	if len(chain) != 5 || len(variables) != 5 {
		t.Errorf("%d assignments and %d variables; want 5 of each", len(chain), len(variables))
		return lines
	}
	for i, v := range variables {
		want := "VAR " + v + " = " + value
		if i > 0 {
			want = "VAR " + v + " = VAR " + variables[i-1] + " "
		}
		if chain[i] != want || len(v) != letters || strings.Trim(v, "ABCDEFGHIJKLMNOPQRSTUVWXYZ") != "" || slices.Contains(variables[:i], v) {
			t.Errorf("assignment %d is %q; want %q", i, chain[i], want)
		}
	}
	return lines
}

func TestVariableTracking(t *testing.T) {
	each(t, "vt", func(t *testing.T, s *eval.Sample) {
		example, rest, ok := strings.Cut(s.Prompt, "\n\nMemorize")
		m := tracking.FindStringSubmatch("Memorize" + rest)
		if !ok || m == nil {
			t.Error("not as the template")
			return
		}
		prefix := " Answer: According to the chain(s) of variable assignment in the text above, 5 variables are assigned the value %s, they are: "
		if want := fmt.Sprintf(prefix, m[2]); s.Prefix != want {
			t.Errorf("prefix is %q; want %q", s.Prefix, want)
		}
		lines := checkChain(t, m[1], m[2], 5, s.Answers)
		question, answer, ok := strings.Cut(example, " Answer: ")
		x := tracking.FindStringSubmatch(question)
		if !ok || x == nil || !strings.HasPrefix(" Answer: "+answer, fmt.Sprintf(prefix, x[2])+" ") {
			t.Errorf("the example is not as the template: %q", example)
			return
		}
		fewer := checkChain(t, x[1], x[2], 3, strings.Fields(answer)[len(strings.Fields(answer))-5:])
		if tokens := len(smollm2().Tokenizer.Encode(example, false).IDs); tokens < 400 || tokens > 530 {
			t.Errorf("the example has %d tokens; want 500 or somewhat less before its answer", tokens)
		}
		if lines <= fewer && s.Length > 1500 {
			t.Errorf("%d lines, and %d in the example", lines, fewer)
		}
	})
}

// checkList checks a numbered list and returns the words that occur often.
func checkList(t *testing.T, list string, often, rarely int) (common []string) {
	fields := strings.Fields(list)
	counts := make(map[string]int)
	for i := 0; i+1 < len(fields); i += 2 {
		if fields[i] != strconv.Itoa(i/2+1)+"." {
			t.Errorf("number %q; want %d.", fields[i], i/2+1)
		}
		counts[fields[i+1]]++
	}
	for w, n := range counts {
		switch n {
		case often:
			common = append(common, w)
		case rarely:
		default:
			t.Errorf("%q is there %d times; want %d or %d", w, n, often, rarely)
		}
	}
	slices.Sort(common)
	return common
}

func TestCommonWords(t *testing.T) {
	const (
		first  = "Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that appear most often.\n"
		last   = "\nQuestion: What are the 10 most common words in the above list?"
		prefix = " Answer: The top 10 words that appear most often in the list are:"
	)
	each(t, "cwe", func(t *testing.T, s *eval.Sample) {
		m := regexp.MustCompile(`^` + first + `(.*)` + regexp.QuoteMeta(last+prefix) + ` (.*)\n` + first + `(.*)` + regexp.QuoteMeta(last) + `$`).FindStringSubmatch(s.Prompt)
		if m == nil || s.Prefix != prefix {
			t.Error("not as the template")
			return
		}
		exampleOften, exampleRarely, often, rarely := 10, 3, 30, 3
		if s.Length < 4096 {
			exampleOften, exampleRarely, often, rarely = 3, 1, 6, 1
		}
		var answered []string
		for i, f := range strings.Fields(m[2]) {
			if i%2 == 1 {
				answered = append(answered, f)
			}
		}
		slices.Sort(answered)
		if diff := cmp.Diff(checkList(t, m[1], exampleOften, exampleRarely), answered); diff != "" {
			t.Errorf("example: %s", diff)
		}
		if diff := cmp.Diff(checkList(t, m[3], often, rarely), slices.Sorted(slices.Values(s.Answers))); diff != "" || len(s.Answers) != 10 {
			t.Error(diff)
		}
	})
}

func TestFrequentWords(t *testing.T) {
	each(t, "fwe", func(t *testing.T, s *eval.Sample) {
		m := regexp.MustCompile(`^Read the following coded text and track the frequency of each coded word\. Find the three most frequently appeared coded words\. (.*)\n` +
			`Question: Do not provide any explanation\. Please ignore the dots '\.\.\.\.'\. What are the three most frequently appeared words in the above coded text\?$`).FindStringSubmatch(s.Prompt)
		if m == nil || s.Prefix != " Answer: According to the coded text above, the three most frequently appeared words are:" {
			t.Error("not as the template")
			return
		}
		counts := make(map[string]int)
		all := strings.Fields(m[1])
		for _, w := range all {
			counts[w]++
			if !regexp.MustCompile(`^([a-z]{6}|\.\.\.)$`).MatchString(w) {
				t.Errorf("word %q", w)
			}
		}
		words := slices.Collect(func(yield func(string) bool) {
			for w := range counts {
				yield(w)
			}
		})
		slices.SortFunc(words, func(a, b string) int { return counts[b] - counts[a] })
		if diff := cmp.Diff(slices.Concat([]string{"..."}, s.Answers), words[:4]); diff != "" {
			t.Error(diff)
		}
		for i, w := range words { // n/ζ(2)/k² of the k-th
			k := float64(i + 1)
			if want := float64(counts["..."]) / (k * k); math.Abs(float64(counts[w])-want) > 1 {
				t.Errorf("word %d is there %d times; want about %.1f", i+1, counts[w], want)
			}
		}
		if len(words) > s.Length/50 {
			t.Errorf("%d different words; want %d at most", len(words), s.Length/50)
		}
	})
}

func TestQuestions(t *testing.T) {
	const asked = "Answer the question based on the given documents. Only give me the answer and do not output any other words."
	for _, name := range []string{"qa_1", "qa_2"} {
		each(t, name, func(t *testing.T, s *eval.Sample) {
			m := regexp.MustCompile(`(?s)^` + asked + `\n\nThe following are given documents\.\n\n(.*)\n\n` + asked + `\n\nQuestion: (.*)$`).FindStringSubmatch(s.Prompt)
			if m == nil || s.Prefix != " Answer:" {
				t.Error("not as the template")
				return
			}
			documents := regexp.MustCompile(`(?m)^Document (\d+):$`).FindAllStringSubmatch(m[1], -1)
			for i, d := range documents {
				if d[1] != strconv.Itoa(i+1) {
					t.Errorf("document %s; want %d", d[1], i+1)
				}
			}
			if len(documents) < 10 {
				t.Errorf("%d documents", len(documents))
			}
			for _, a := range s.Answers {
				if a != "yes" && !strings.Contains(m[1], a) {
					t.Errorf("the answer %q is in no document", a)
				}
			}
		})
	}
}

// A chat template stands around what the user says, and around the example of cwe; what is said still fits.
func TestChat(t *testing.T) {
	f := &eval.Format{Tokenizer: smollm2().Tokenizer, Before: "<|im_start|>user\n", After: "<|im_end|>\n<|im_start|>assistant\n"}
	for _, name := range names {
		s, err := tasks[name].Sample(f, 4096, 0, 42)
		if err != nil {
			t.Fatal(err)
		}
		ids := f.Encode(s.Prompt, s.Prefix)
		if len(ids)+s.MaxTokens > 4096 {
			t.Errorf("%s: %d tokens", name, len(ids))
		}
		turns := strings.Count(f.Tokenizer.Decode(ids, false), f.After)
		want := 1
		if name == "cwe" {
			want = 2
		}
		if turns != want {
			t.Errorf("%s: %d turns of the assistant; want %d", name, turns, want)
		}
	}
}

// A length that holds nothing is an error that says so.
func TestTooShort(t *testing.T) {
	for _, name := range names {
		for _, length := range []int{1, 60} {
			if _, err := tasks[name].Sample(smollm2(), length, 0, 42); err == nil || !strings.Contains(err.Error(), "ruler/"+name) {
				t.Errorf("%s of %d tokens: %v", name, length, err)
			}
		}
	}
}

// Samples are the same on every machine and in every version: who goes on with a run relies on it.
func TestGolden(t *testing.T) {
	path := filepath.Join("testdata", "golden.json")
	got := make(map[string]string)
	for _, name := range names {
		s, err := tasks[name].Sample(smollm2(), 2048, 1, 7)
		if err != nil {
			t.Fatal(err)
		}
		got[name] = eval.Hash([]byte(s.Prompt + "\x00" + s.Prefix + "\x00" + strings.Join(s.Answers, "\x00")))[:16]
	}
	if *update {
		data, err := json.MarshalIndent(got, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(data, '\n'), 0o666); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := make(map[string]string)
	if err := json.Unmarshal(data, &want); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
