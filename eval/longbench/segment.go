package longbench

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/anchorattention/anchor/eval"
)

// A Segmenter cuts Chinese text into words as the Python package jieba does, from that package's data: the likeliest path through
// the words of a dictionary, and a hidden Markov model for what is not in it. nil is a Segmenter without data: every
// Chinese character is a word. See [LoadSegmenter].
type Segmenter struct {
	count    map[string]int64 // of each word; 0 for what only begins words
	logTotal float64
	model    *markov // nil is none
	hash     string
}

// LoadSegmenter reads the data of the Python package jieba from the directory where it is installed, or from a copy of its dict.txt
// and finalseg/prob_start.py, prob_trans.py and prob_emit.py. Without the directory finalseg, words that are not in the dictionary
// are cut into characters, as jieba does with HMM=False.
func LoadSegmenter(dir string) (*Segmenter, error) {
	path := filepath.Join(dir, "dict.txt")
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	s := &Segmenter{}
	if s.count, s.logTotal, err = parseDictionary(data); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	all := data
	if _, err := os.Stat(filepath.Join(dir, "finalseg")); errors.Is(err, fs.ErrNotExist) {
		s.hash = eval.Hash(all)
		return s, nil
	}
	var tables [3]*table
	for i, name := range []string{"prob_start.py", "prob_trans.py", "prob_emit.py"} {
		path := filepath.Join(dir, "finalseg", name)
		data, err := os.ReadFile(path)
		if err != nil {
			return nil, err
		}
		if tables[i], err = parseTable(data); err != nil {
			return nil, fmt.Errorf("%s: %w", path, err)
		}
		all = append(all, data...)
	}
	s.model = newMarkov(tables[0], tables[1], tables[2])
	s.hash = eval.Hash(all)
	return s, nil
}

// Hash returns a hash of the data, "characters" without.
func (s *Segmenter) Hash() string {
	if s == nil {
		return "characters"
	}
	return s.hash
}

// parseDictionary reads lines of a word, how often it occurs, and perhaps more.
func parseDictionary(data []byte) (count map[string]int64, logTotal float64, err error) {
	count = make(map[string]int64)
	total := int64(0)
	line := 0
	for text := range bytes.Lines(data) {
		line++
		parts := strings.Split(strings.TrimSpace(string(text)), " ")
		if len(parts) < 2 {
			return nil, 0, fmt.Errorf("line %d is %q; want a word, a space and how often it occurs", line, text)
		}
		n, err := strconv.ParseInt(parts[1], 10, 64)
		if err != nil || n < 0 || n > 1<<40 {
			return nil, 0, fmt.Errorf("line %d: %q occurs %q times; want 0 … 2⁴⁰", line, parts[0], parts[1])
		}
		count[parts[0]] = n
		total += n
		for i := range parts[0] {
			if _, ok := count[parts[0][:i]]; !ok && i > 0 {
				count[parts[0][:i]] = 0
			}
		}
	}
	if total == 0 {
		return nil, 0, errors.New("no words that occur")
	}
	return count, math.Log(float64(total)), nil
}

// isHan reports whether jieba takes a character for Chinese.
func isHan(r rune) bool { return r >= 0x4e00 && r <= 0x9fd5 }

func isASCIIAlnum(r rune) bool {
	return r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9'
}

// Cut returns the words of text, which together are the text.
func (s *Segmenter) Cut(text string) []string {
	var words []string
	inBlock := func(r rune) bool { return isHan(r) || isASCIIAlnum(r) || strings.ContainsRune("+#&._%-", r) }
	for len(text) > 0 {
		r, n := utf8.DecodeRuneInString(text)
		switch {
		case inBlock(r):
			if n = strings.IndexFunc(text, func(r rune) bool { return !inBlock(r) }); n < 0 {
				n = len(text)
			}
			words = s.block(words, text[:n])
		case strings.HasPrefix(text, "\r\n"):
			n = 2
			fallthrough
		default:
			words = append(words, text[:n])
		}
		text = text[n:]
	}
	return words
}

// block cuts text of Chinese characters, letters, digits and a few signs.
func (s *Segmenter) block(words []string, text string) []string {
	if s == nil {
		return unknown(words, text, func(words []string, han string) []string { return append(words, strings.Split(han, "")...) })
	}
	runes := []rune(text)
	ends := s.route(runes)
	if s.model == nil {
		for at := 0; at < len(runes); {
			end := ends[at]
			if end-at == 1 && isASCIIAlnum(runes[at]) { // letters and digits stay together
				for end < len(runes) && ends[end] == end+1 && isASCIIAlnum(runes[end]) {
					end++
				}
			}
			words = append(words, string(runes[at:end]))
			at = end
		}
		return words
	}
	for at := 0; at < len(runes); {
		if end := ends[at]; end-at > 1 {
			words = append(words, string(runes[at:end]))
			at = end
			continue
		}
		end := at
		for end < len(runes) && ends[end] == end+1 {
			end++
		}
		run := string(runes[at:end])
		if end-at == 1 || s.count[run] > 0 {
			words = append(words, strings.Split(run, "")...)
		} else {
			words = unknown(words, run, s.model.cut)
		}
		at = end
	}
	return words
}

// route returns where the word ends that begins at each character, on the likeliest path from there to the end.
func (s *Segmenter) route(runes []rune) []int {
	ends, best := make([]int, len(runes)), make([]float64, len(runes)+1)
	var word []byte
	for at := len(runes) - 1; at >= 0; at-- {
		found := false
		consider := func(end int, n int64) {
			p := math.Log(float64(max(n, 1))) - s.logTotal + best[end]
			if !found || p >= best[at] {
				found, best[at], ends[at] = true, p, end
			}
		}
		word = word[:0]
		for i := at; i < len(runes); i++ {
			word = utf8.AppendRune(word, runes[i])
			n, ok := s.count[string(word)]
			if !ok {
				break
			}
			if n > 0 {
				consider(i+1, n)
			}
		}
		if !found {
			consider(at+1, s.count[string(runes[at])])
		}
	}
	return ends
}

// latin is what jieba keeps together in text without Chinese characters.
var latin = regexp.MustCompile(`[a-zA-Z0-9]+(?:\.[0-9]+)?%?`)

// unknown cuts text that is not of the dictionary: runs of Chinese characters by cut, others into words and numbers and what
// is between.
func unknown(words []string, text string, cut func(words []string, han string) []string) []string {
	for len(text) > 0 {
		first, _ := utf8.DecodeRuneInString(text)
		n := strings.IndexFunc(text, func(r rune) bool { return isHan(r) != isHan(first) })
		if n < 0 {
			n = len(text)
		}
		if isHan(first) {
			words = cut(words, text[:n])
		} else {
			from := 0
			for _, m := range latin.FindAllStringIndex(text[:n], -1) {
				if m[0] > from {
					words = append(words, text[from:m[0]])
				}
				words = append(words, text[m[0]:m[1]])
				from = m[1]
			}
			if from < n {
				words = append(words, text[from:n])
			}
		}
		text = text[n:]
	}
	return words
}

// A markov is a hidden Markov model of where words begin and end: characters are the beginning, the middle or the end of a
// word, or a word of its own. Probabilities are logarithms.
type markov struct {
	start [4]float64
	trans [4][4]float64
	emit  [4]map[rune]float64
}

// States in the order of their letters, by which jieba decides between equals.
const (
	beginning = iota
	ending
	middle
	single
)

const states = "BEMS"

// before are the states that each may follow.
var before = [4][2]int{beginning: {ending, single}, ending: {beginning, middle}, middle: {beginning, middle}, single: {ending, single}}

// impossible is jieba's logarithm of no probability.
const impossible = -3.14e100

func newMarkov(start, trans, emit *table) *markov {
	m := &markov{}
	for i, letter := range strings.Split(states, "") {
		m.start[i] = start.number(letter)
		for j, next := range strings.Split(states, "") {
			m.trans[i][j] = trans.row(letter).number(next)
		}
		m.emit[i] = make(map[rune]float64)
		for text, p := range emit.row(letter).numbers {
			r, _ := utf8.DecodeRuneInString(text)
			m.emit[i][r] = p
		}
	}
	return m
}

// cut cuts Chinese characters into words by the likeliest sequence of states (Viterbi 1967).
func (m *markov) cut(words []string, text string) []string {
	runes := []rune(text)
	emit := func(state, at int) float64 {
		if p, ok := m.emit[state][runes[at]]; ok {
			return p
		}
		return impossible
	}
	var p [4]float64
	for s := range p {
		p[s] = m.start[s] + emit(s, 0)
	}
	from := make([][4]int8, len(runes))
	for at := 1; at < len(runes); at++ {
		var next [4]float64
		for s := range next {
			e := emit(s, at)
			for i, b := range before[s] { // ascending
				if q := p[b] + m.trans[b][s] + e; i == 0 || q >= next[s] {
					next[s], from[at][s] = q, int8(b)
				}
			}
		}
		p = next
	}
	state := ending
	if p[single] >= p[ending] {
		state = single
	}
	path := make([]int, len(runes))
	for at := len(runes) - 1; at >= 0; at-- {
		path[at] = state
		state = int(from[at][state])
	}
	begin, next := 0, 0
	for at, s := range path {
		switch s {
		case beginning:
			begin = at
		case ending:
			words = append(words, string(runes[begin:at+1]))
			next = at + 1
		case single:
			words = append(words, string(runes[at]))
			next = at + 1
		}
	}
	if next < len(runes) {
		words = append(words, string(runes[next:]))
	}
	return words
}

// A table is a dictionary of Python that holds numbers, or dictionaries of numbers.
type table struct {
	numbers map[string]float64
	rows    map[string]*table
}

func (t *table) number(key string) float64 {
	if p, ok := t.numbers[key]; ok {
		return p
	}
	return impossible
}

func (t *table) row(key string) *table {
	if r, ok := t.rows[key]; ok {
		return r
	}
	return &table{}
}

// parseTable reads P={…} as Python writes it.
func parseTable(data []byte) (*table, error) {
	text, ok := strings.CutPrefix(strings.TrimSpace(string(data)), "P")
	text = strings.TrimSpace(text)
	if !ok || !strings.HasPrefix(text, "=") {
		return nil, errors.New("it does not begin with P=")
	}
	p := &tableParser{text: strings.TrimSpace(text[1:])}
	t, err := p.table(0)
	if err == nil && p.rest() != "" {
		err = errors.New("there is more after the dictionary")
	}
	if err != nil {
		return nil, fmt.Errorf("byte %d: %w", len(data)-len(p.text), err)
	}
	return t, nil
}

type tableParser struct{ text string } // that is left

func (p *tableParser) rest() string {
	p.text = strings.TrimLeft(p.text, " \t\r\n")
	return p.text
}

// take takes a sign, if it comes next.
func (p *tableParser) take(sign string) bool {
	rest, ok := strings.CutPrefix(p.rest(), sign)
	p.text = rest
	return ok
}

func (p *tableParser) table(depth int) (*table, error) {
	if depth > 1 {
		return nil, errors.New("dictionaries in dictionaries in dictionaries; want two levels at most")
	}
	if !p.take("{") {
		return nil, errors.New("no {")
	}
	t := &table{make(map[string]float64), make(map[string]*table)}
	for !p.take("}") {
		key, err := p.key()
		if err != nil {
			return nil, err
		}
		if !p.take(":") {
			return nil, errors.New("no : after a key")
		}
		if strings.HasPrefix(p.rest(), "{") {
			if t.rows[key], err = p.table(depth + 1); err != nil {
				return nil, err
			}
		} else {
			n := strings.IndexAny(p.text, ",} \t\r\n")
			if n < 0 {
				n = len(p.text)
			}
			x, err := strconv.ParseFloat(p.text[:n], 64)
			if err != nil || math.IsNaN(x) || math.IsInf(x, 0) {
				return nil, fmt.Errorf("%.40q is no finite number", p.text[:n])
			}
			t.numbers[key] = x
			p.text = p.text[n:]
		}
		if !p.take(",") && !strings.HasPrefix(p.rest(), "}") {
			return nil, errors.New("neither , nor } after a value")
		}
	}
	return t, nil
}

// key reads a string of one character.
func (p *tableParser) key() (string, error) {
	rest := p.rest()
	rest = strings.TrimPrefix(rest, "u") // as Python 2 wrote it
	if rest == "" || rest[0] != '\'' && rest[0] != '"' {
		return "", errors.New("no key in quotes")
	}
	end := strings.IndexByte(rest[1:], rest[0])
	if end < 0 {
		return "", errors.New("a key without its closing quote")
	}
	key := rest[1 : end+1]
	p.text = rest[end+2:]
	if hex, ok := strings.CutPrefix(key, `\u`); ok {
		n, err := strconv.ParseUint(hex, 16, 16)
		if err != nil || len(hex) != 4 {
			return "", fmt.Errorf("a key is %.40q; want a character or \\u and four hexadecimal digits", key)
		}
		key = string(rune(n))
	}
	if utf8.RuneCountInString(key) != 1 || !utf8.ValidString(key) {
		return "", fmt.Errorf("a key is %.40q; want a character", key)
	}
	return key, nil
}
