package tokenizer

// wordLevel is a model with a token for each word it knows.
type wordLevel struct {
	words map[string]int32
	unk   int32 // for all other words
}

func (w *wordLevel) appendTokens(dst []wordToken, word string) []wordToken {
	id, ok := w.words[word]
	if !ok {
		id = w.unk
	}
	return append(dst, wordToken{id, 0, int32(len(word))})
}
