package longbench

import (
	"math"
	"regexp"
	"slices"
	"strings"
	"unicode"
)

// A metric compares what a model said with an expected answer: the functions of the benchmark's metrics.py.
type metric int

const (
	f1 metric = iota
	f1Chinese
	rouge
	rougeChinese
	classification
	retrieval
	retrievalChinese
	count
	editSimilarity
)

// score returns the best score of a prediction against the answers, in [0, 1].
func (m metric) score(words *Segmenter, prediction string, answers, classes []string) float64 {
	best := 0.0
	for _, answer := range answers {
		best = max(best, m.one(words, prediction, answer, classes))
	}
	return best
}

func (m metric) one(words *Segmenter, prediction, answer string, classes []string) float64 {
	switch m {
	case f1:
		return F1(strings.Fields(normalise(prediction)), strings.Fields(normalise(answer)))
	case f1Chinese:
		return F1(chineseWords(words, prediction), chineseWords(words, answer))
	case rouge:
		return RougeL(prediction, answer)
	case rougeChinese:
		return RougeL(strings.Join(words.Cut(prediction), " "), strings.Join(words.Cut(answer), " "))
	case classification:
		return Classification(prediction, answer, classes)
	case retrieval:
		return numbersRight(prediction, firstGroup(paragraph, answer))
	case retrievalChinese:
		return numbersRight(prediction, firstGroup(paragraphChinese, answer))
	case count:
		return numbersRight(prediction, answer)
	case editSimilarity:
		return EditSimilarity(codeLine(prediction), answer)
	}
	panic("longbench: no such metric")
}

// F1 returns the harmonic mean of precision and recall of a prediction's tokens, each as often as it occurs (Rajpurkar et al.
// 2016, SQuAD).
func F1(prediction, answer []string) float64 {
	left := make(map[string]int)
	for _, t := range answer {
		left[t]++
	}
	same := 0
	for _, t := range prediction {
		if left[t] > 0 {
			left[t]--
			same++
		}
	}
	if same == 0 {
		return 0
	}
	precision, recall := float64(same)/float64(len(prediction)), float64(same)/float64(len(answer))
	return 2 * precision * recall / (precision + recall)
}

// asciiPunctuation is Python's string.punctuation.
const asciiPunctuation = "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"

// chinesePunctuation is what the benchmark removes from Chinese words beside that. 》 is among it and 《 is not.
const chinesePunctuation = "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿–—‘’‛“”„‟…‧﹏."

// normalise makes text lower case, and removes punctuation, then English articles, then needless space.
func normalise(text string) string {
	text = without(lower(text), asciiPunctuation)
	var out strings.Builder
	for len(text) > 0 {
		n := strings.IndexFunc(text, func(r rune) bool { return !inWord(r) })
		if n < 0 {
			n = len(text)
		}
		switch word := text[:n]; word {
		case "a", "an", "the":
			out.WriteByte(' ')
		default:
			out.WriteString(word)
		}
		text = text[n:]
		n = strings.IndexFunc(text, inWord)
		if n < 0 {
			n = len(text)
		}
		out.WriteString(text[:n])
		text = text[n:]
	}
	return strings.Join(fields(out.String()), " ")
}

// chineseWords returns the words of Chinese text in lower case, without punctuation and space.
func chineseWords(words *Segmenter, text string) []string {
	var all []string
	for _, w := range words.Cut(text) {
		w = strings.Join(fields(without(lower(w), asciiPunctuation+chinesePunctuation)), "")
		if w != "" {
			all = append(all, w)
		}
	}
	return all
}

func without(text, characters string) string {
	return strings.Map(func(r rune) rune {
		if strings.ContainsRune(characters, r) {
			return -1
		}
		return r
	}, text)
}

// lower is Python's str.lower, but for the Σ that ends a word.
func lower(text string) string { return strings.ToLower(strings.ReplaceAll(text, "İ", "i̇")) }

// space reports whether Python has a character for white space.
func space(r rune) bool { return unicode.IsSpace(r) || r >= 0x1c && r <= 0x1f }

// fields is Python's str.split.
func fields(text string) []string { return strings.FieldsFunc(text, space) }

// inWord reports whether a character is one of Python's \w.
func inWord(r rune) bool { return r == '_' || unicode.IsLetter(r) || unicode.IsNumber(r) }

// Classification returns one over the number of classes that a prediction names if the right one is among them, else 0. A class
// within the name of the right one is not counted, unless it follows one that is left out: the published loop removes from the
// list that it goes over, and so does this.
func Classification(prediction, answer string, classes []string) float64 {
	var named []string
	for _, class := range classes {
		if strings.Contains(prediction, class) {
			named = append(named, class)
		}
	}
	for i := 0; i < len(named); i++ {
		if term := named[i]; term != answer && strings.Contains(answer, term) {
			first := slices.Index(named, term)
			named = slices.Delete(named, first, first+1)
		}
	}
	if !slices.Contains(named, answer) {
		return 0
	}
	return 1 / float64(len(named))
}

var (
	number           = regexp.MustCompile(`\p{Nd}+`)
	paragraph        = regexp.MustCompile(`Paragraph (\p{Nd}+)`)
	paragraphChinese = regexp.MustCompile(`段落(\p{Nd}+)`)
)

// firstGroup returns what the first group of a pattern holds where it first matches.
func firstGroup(pattern *regexp.Regexp, text string) string {
	if m := pattern.FindStringSubmatch(text); m != nil {
		return m[1]
	}
	return ""
}

// numbersRight returns the share of a prediction's numbers that are the right one, as it is written.
func numbersRight(prediction, right string) float64 {
	numbers := number.FindAllString(prediction, -1)
	if len(numbers) == 0 {
		return 0
	}
	same := 0
	for _, n := range numbers {
		if n == right {
			same++
		}
	}
	return float64(same) / float64(len(numbers))
}

// codeLine returns the first line of an answer that is no comment and no fence, empty if there is none.
func codeLine(text string) string {
	for line := range strings.SplitSeq(strings.TrimLeft(text, "\n"), "\n") {
		if !strings.ContainsAny(line, "`#") && !strings.Contains(line, "//") {
			return line
		}
	}
	return ""
}

// firstLine returns the first line that is not empty.
func firstLine(text string) string {
	line, _, _ := strings.Cut(strings.TrimLeft(text, "\n"), "\n")
	return line
}

// EditSimilarity returns how alike two texts are, in whole hundredths: fuzz.ratio of the Python package fuzzywuzzy where, as in
// the benchmark's requirements, python-Levenshtein is not installed. That is twice the characters in matching blocks over the
// characters of both, by difflib's SequenceMatcher; with python-Levenshtein it would be by the longest common subsequence, which is
// never less.
func EditSimilarity(a, b string) float64 {
	switch {
	case a == b:
		return 1
	case a == "" || b == "":
		return 0
	}
	return math.RoundToEven(100*matcherRatio([]rune(a), []rune(b))) / 100
}

// matcherRatio is SequenceMatcher(None, a, b).ratio() of Python's difflib (Ratcliff and Metzener 1988): the longest block that
// is in both, and so on to its left and right. In a b of 200 characters or more blocks begin at none of those that are more
// than a hundredth of it.
func matcherRatio(a, b []rune) float64 {
	at := make(map[rune][]int)
	for j, r := range b {
		at[r] = append(at[r], j)
	}
	if n := len(b); n >= 200 {
		for r, all := range at {
			if len(all) > n/100+1 {
				delete(at, r)
			}
		}
	}
	type piece struct{ alo, ahi, blo, bhi int }
	matches := 0
	before, now := make([]int, len(b)+1), make([]int, len(b)+1) // at j+1, how long the block is that ends at j
	for left := []piece{{0, len(a), 0, len(b)}}; len(left) > 0; {
		p := left[len(left)-1]
		left = left[:len(left)-1]
		i, j, size := p.alo, p.blo, 0
		clear(before)
		for x := p.alo; x < p.ahi; x++ {
			clear(now)
			for _, y := range at[a[x]] {
				if y < p.blo || y >= p.bhi {
					continue
				}
				k := before[y] + 1
				now[y+1] = k
				if k > size {
					i, j, size = x-k+1, y-k+1, k
				}
			}
			before, now = now, before
		}
		for i > p.alo && j > p.blo && a[i-1] == b[j-1] {
			i, j, size = i-1, j-1, size+1
		}
		for i+size < p.ahi && j+size < p.bhi && a[i+size] == b[j+size] {
			size++
		}
		if size == 0 {
			continue
		}
		matches += size
		left = append(left, piece{p.alo, i, p.blo, j}, piece{i + size, p.ahi, j + size, p.bhi})
	}
	return 2 * float64(matches) / float64(len(a)+len(b))
}
