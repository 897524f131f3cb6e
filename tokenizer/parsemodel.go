package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"strings"
)

// parsedModel has the fields of all types of model.
type parsedModel struct {
	Type     string           `json:"type"`
	Vocab    map[string]int64 `json:"vocab"`
	UnkToken *string          `json:"unk_token"`

	// The rest is of BPE.
	Merges                  json.RawMessage `json:"merges"`
	Dropout                 float64         `json:"dropout"`
	ContinuingSubwordPrefix string          `json:"continuing_subword_prefix"`
	EndOfWordSuffix         string          `json:"end_of_word_suffix"`
	FuseUnk                 bool            `json:"fuse_unk"`
	ByteFallback            bool            `json:"byte_fallback"`
	IgnoreMerges            bool            `json:"ignore_merges"`
}

func (t *Tokenizer) parseModel(f *file) error {
	if isNull(f.Model) {
		return errors.New("model: missing")
	}
	// The vocabulary is of the same shape in the models supported, but not in
	// all: look at the type first.
	var kind struct {
		Type   string
		Merges json.RawMessage
	}
	if err := unmarshal("model", f.Model, &kind); err != nil {
		return err
	}
	if kind.Type == "" && !isNull(kind.Merges) {
		kind.Type = "BPE" // old files do not say
	}
	if kind.Type != "BPE" && kind.Type != "WordLevel" {
		return fmt.Errorf("model.type: %q is not supported, want one of BPE, WordLevel", kind.Type)
	}
	var m parsedModel
	if err := unmarshal("model", f.Model, &m); err != nil {
		return err
	}
	if m.Vocab == nil {
		return errors.New("model.vocab: missing")
	}
	for token, id := range m.Vocab {
		if err := t.setToken(id, tokenInfo{token: token}); err != nil {
			return fmt.Errorf("model.vocab: %w", err)
		}
	}
	var err error
	if kind.Type == "BPE" {
		t.model, err = t.parseBPE(&m)
	} else {
		t.model, err = t.parseWordLevel(&m)
	}
	return err
}

// words returns the tokens there are by the text that the model sees of each.
func (t *Tokenizer) words() map[string]int32 {
	words := make(map[string]int32, len(t.ids))
	for token, id := range t.ids {
		if t.byteLevel {
			b, ok := tokenBytes(token)
			if !ok {
				continue // matches no word
			}
			token = b
		}
		words[token] = id
	}
	return words
}

func (t *Tokenizer) parseWordLevel(m *parsedModel) (*wordLevel, error) {
	if m.UnkToken == nil {
		return nil, errors.New("model.unk_token: missing")
	}
	unk, ok := t.ids[*m.UnkToken]
	if !ok {
		return nil, fmt.Errorf("model.unk_token: %q is not in model.vocab", *m.UnkToken)
	}
	return &wordLevel{words: t.words(), unk: unk}, nil
}

func (t *Tokenizer) parseBPE(m *parsedModel) (*bpe, error) {
	switch {
	case m.Dropout != 0:
		return nil, fmt.Errorf("model.dropout: %v is not supported, want null", m.Dropout)
	case m.ContinuingSubwordPrefix != "":
		return nil, fmt.Errorf("model.continuing_subword_prefix: %q is not supported, want null", excerpt(m.ContinuingSubwordPrefix))
	case m.EndOfWordSuffix != "":
		return nil, fmt.Errorf("model.end_of_word_suffix: %q is not supported, want null", excerpt(m.EndOfWordSuffix))
	case m.ByteFallback && t.byteLevel:
		return nil, errors.New("model.byte_fallback: true is not supported with the pre-tokenizer ByteLevel, want false")
	}
	b := newBPE(!t.byteLevel)
	b.fuseUnk = m.FuseUnk
	complete := false
	if t.byteLevel {
		complete = t.setBytes(b)
	} else {
		for token, id := range t.ids {
			if r := []rune(token); len(r) == 1 {
				b.setChar(r[0], id)
			}
			if c, ok := fallbackByte(token); ok && m.ByteFallback {
				b.bytes[c] = id
			}
		}
	}
	if !complete && m.UnkToken != nil {
		id, ok := t.ids[*m.UnkToken]
		if !ok {
			return nil, fmt.Errorf("model.unk_token: %q is not in model.vocab", excerpt(*m.UnkToken))
		}
		b.unk = id
	}
	merges, err := parseMerges(m.Merges)
	if err != nil {
		return nil, fmt.Errorf("model.merges: %w", err)
	}
	if err := t.setMerges(b, merges); err != nil {
		return nil, fmt.Errorf("model.merges%w", err)
	}
	switch {
	case m.IgnoreMerges:
		b.whole = t.words()
	case !t.byteLevel:
		if scan := b.wordScanner(func(id int32) string { return t.tokens[id].token }); scan != nil {
			t.pre = append(t.pre, preTokenizer{scan: scan})
		}
	}
	return b, nil
}

// setBytes makes the tokens of the byte alphabet the first tokens of b and
// reports whether there is one for each byte.
func (t *Tokenizer) setBytes(b *bpe) bool {
	complete := true
	for r, v := range byteOf {
		if v < 0 {
			continue
		}
		if id, ok := t.ids[string(rune(r))]; ok {
			b.bytes[v] = id
		} else {
			complete = false
		}
	}
	return complete
}

// setMerges makes b merge the given pairs, the first ones first. An error
// begins with the index of the pair at fault, in brackets.
func (t *Tokenizer) setMerges(b *bpe, merges [][]string) error {
	for i, pair := range merges {
		var ids [3]int32
		for j, token := range []string{pair[0], pair[1], pair[0] + pair[1]} {
			id, ok := t.ids[token]
			if !ok {
				return fmt.Errorf("[%d]: %q: there is no token %q", i, pair, token)
			}
			ids[j] = id
		}
		b.merges[idPair{ids[0], ids[1]}] = merge{rank: uint32(i), id: ids[2]}
	}
	return nil
}

// parseMerges reads a list of pairs of tokens, given as lists of two or, in
// older files, as strings with a space between them.
func parseMerges(raw json.RawMessage) ([][]string, error) {
	if isNull(raw) {
		return nil, errors.New("missing")
	}
	var lines []string
	if json.Unmarshal(raw, &lines) == nil {
		return splitMerges(lines)
	}
	var pairs [][]string
	if err := json.Unmarshal(raw, &pairs); err != nil {
		return nil, err
	}
	for i, p := range pairs {
		if len(p) != 2 {
			return nil, fmt.Errorf("[%d]: %q has %d tokens, want 2", i, p, len(p))
		}
	}
	return pairs, nil
}

// splitMerges returns pairs of tokens that have a space between them.
func splitMerges(lines []string) ([][]string, error) {
	pairs := make([][]string, 0, len(lines))
	for i, line := range lines {
		if strings.HasPrefix(line, "#version") {
			continue
		}
		p := strings.Split(line, " ")
		if len(p) != 2 {
			return nil, fmt.Errorf("[%d]: %q is not two tokens with a space between them", i, excerpt(line))
		}
		pairs = append(pairs, p)
	}
	return pairs, nil
}
