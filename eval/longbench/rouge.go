package longbench

import "strings"

// RougeL returns the F measure of ROUGE-L (Lin 2004) as the Python package rouge 1.0.1 computes it for summaries, which is
// not what the paper says: sentences end at full stops, words are what is between spaces as they stand, and what is counted is
// distinct words, those of each text and those in a longest common subsequence of any two sentences. Precision and recall weigh
// the same, with 1e-8 in the denominator. Empty text has a score of 0.
//
// Where sentences have so many words that its recursion goes deeper than Python allows, about a thousand, that package
// fails and the benchmark counts 0; here they are compared.
func RougeL(prediction, answer string) float64 {
	hypothesis, reference := sentences(prediction), sentences(answer)
	if len(hypothesis) == 0 || len(reference) == 0 {
		return 0
	}
	common := make(map[string]bool)
	for _, r := range reference {
		for _, h := range hypothesis {
			commonWords(r, h, common)
		}
	}
	precision := float64(len(common)) / float64(distinct(hypothesis))
	recall := float64(len(common)) / float64(distinct(reference))
	return 2 * (precision * recall / (precision + recall + 1e-8))
}

// sentences returns the words of each sentence. One of space alone has a word, which is empty.
func sentences(text string) [][]string {
	var all [][]string
	for s := range strings.SplitSeq(text, ".") {
		if s == "" {
			continue
		}
		words := fields(s)
		if len(words) == 0 {
			words = []string{""}
		}
		all = append(all, words)
	}
	return all
}

func distinct(sentences [][]string) int {
	words := make(map[string]bool)
	for _, s := range sentences {
		for _, w := range s {
			words[w] = true
		}
	}
	return len(words)
}

// commonWords adds the words of a longest common subsequence of x and y. Where there are several it is that which ends earliest
// in y.
func commonWords(x, y []string, to map[string]bool) {
	width := len(y) + 1
	length := make([]int32, (len(x)+1)*width) // of those of the first i and j words
	for i, a := range x {
		row, next := length[i*width:(i+1)*width], length[(i+1)*width:]
		for j, b := range y {
			if a == b {
				next[j+1] = row[j] + 1
			} else {
				next[j+1] = max(row[j+1], next[j])
			}
		}
	}
	for i, j := len(x), len(y); i > 0 && j > 0; {
		switch {
		case x[i-1] == y[j-1]:
			to[x[i-1]] = true
			i, j = i-1, j-1
		case length[(i-1)*width+j] > length[i*width+j-1]:
			i--
		default:
			j--
		}
	}
}
