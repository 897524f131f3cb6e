package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"unicode/utf8"
)

// maxTokens bounds ids, and so the memory that a small file with a large id
// takes. The largest vocabularies of today have a fourth of it.
const maxTokens = 1 << 20

// file is the content of a tokenizer.json. The fields truncation and padding
// are ignored.
type file struct {
	Version       string            `json:"version"`
	AddedTokens   []json.RawMessage `json:"added_tokens"`
	Normalizer    json.RawMessage   `json:"normalizer"`
	PreTokenizer  json.RawMessage   `json:"pre_tokenizer"`
	Model         json.RawMessage   `json:"model"`
	PostProcessor json.RawMessage   `json:"post_processor"`
	Decoder       json.RawMessage   `json:"decoder"`
}

func parse(data []byte) (*Tokenizer, error) {
	if !utf8.Valid(data) {
		return nil, errors.New("the file is not UTF-8")
	}
	var f file
	if err := json.Unmarshal(data, &f); err != nil {
		return nil, err
	}
	if f.Version != "1.0" {
		return nil, fmt.Errorf(`version: %q is not supported, want "1.0"`, f.Version)
	}
	t := &Tokenizer{ids: make(map[string]int32)}
	for _, step := range []func(*file) error{
		t.parseNormalizer,
		t.parsePreTokenizer,
		t.parseModel,
		t.parseAddedTokens,
		t.parsePostProcessor,
		t.parseDecoder,
	} {
		if err := step(&f); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// unmarshal decodes the JSON at path into v.
func unmarshal(path string, raw json.RawMessage, v any) error {
	if err := json.Unmarshal(raw, v); err != nil {
		return fmt.Errorf("%s: %w", path, err)
	}
	return nil
}

func isNull(raw json.RawMessage) bool { return len(raw) == 0 || string(raw) == "null" }

func (t *Tokenizer) parseAddedTokens(f *file) error {
	for i, raw := range f.AddedTokens {
		path := fmt.Sprintf("added_tokens[%d]", i)
		var fields map[string]json.RawMessage
		if err := unmarshal(path, raw, &fields); err != nil {
			return err
		}
		for _, name := range []string{"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"} {
			if isNull(fields[name]) {
				return fmt.Errorf("%s.%s: missing", path, name)
			}
		}
		a := new(addedToken)
		if err := unmarshal(path, raw, a); err != nil {
			return err
		}
		if a.Content == "" {
			continue
		}
		id, ok := t.ids[a.Content]
		switch {
		case !ok:
			if err := t.setToken(a.ID, tokenInfo{token: a.Content}); err != nil {
				return fmt.Errorf("%s: %w", path, err)
			}
		case int64(id) != a.ID:
			return fmt.Errorf("%s: token %q has id %d here and %d elsewhere", path, a.Content, a.ID, id)
		case t.tokens[id].added:
			return fmt.Errorf("%s: token %q is listed twice", path, a.Content)
		}
		t.add(a)
	}
	return nil
}
