package tokenizer

import (
	"encoding/json"
	"errors"
	"fmt"
	"hash/maphash"
	"math"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	// maxTokens bounds ids, and so the memory that a small file with a large id
	// takes. The largest vocabularies of today have a fourth of it.
	maxTokens = 1 << 20
	// maxNesting bounds how deep a Sequence may be in others.
	maxNesting = 8
)

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

// component is a normalizer, pre-tokenizer, post-processor or decoder. It has
// the fields of all types; which ones are set depends on its own.
type component struct {
	path string // such as pre_tokenizer.pretokenizers[1]
	raw  json.RawMessage

	Type string `json:"type"`

	// Sequence has one of these, by its kind.
	Normalizers   []json.RawMessage `json:"normalizers"`
	PreTokenizers []json.RawMessage `json:"pretokenizers"`
	Processors    []json.RawMessage `json:"processors"`
	Decoders      []json.RawMessage `json:"decoders"`

	IndividualDigits *bool                   `json:"individual_digits"` // Digits
	AddPrefixSpace   *bool                   `json:"add_prefix_space"`  // ByteLevel, RobertaProcessing
	TrimOffsets      *bool                   `json:"trim_offsets"`      // ByteLevel, RobertaProcessing
	UseRegex         *bool                   `json:"use_regex"`         // ByteLevel; absent in old files
	Cls              []any                   `json:"cls"`               // BertProcessing, RobertaProcessing: token, id
	Sep              []any                   `json:"sep"`               // the same
	Single           []piece                 `json:"single"`            // TemplateProcessing
	SpecialTokens    map[string]specialToken `json:"special_tokens"`    // TemplateProcessing
}

// piece is a piece of a template: one of the two is set.
type piece struct {
	Sequence     *struct{ ID string }
	SpecialToken *struct{ ID string }
}

type specialToken struct {
	IDs []int64 `json:"ids"`
}

// parseComponents returns the components of the field at path, which is null or
// a component, those of a Sequence in its place.
func parseComponents(path string, raw json.RawMessage) ([]component, error) {
	if isNull(raw) {
		return nil, nil
	}
	return appendComponents(nil, path, raw, 0)
}

func appendComponents(dst []component, path string, raw json.RawMessage, depth int) ([]component, error) {
	if depth > maxNesting {
		return nil, fmt.Errorf("%s: a Sequence is nested more than %d deep", path, maxNesting)
	}
	c := component{path: path, raw: raw}
	if isNull(raw) {
		return nil, fmt.Errorf("%s: is null", path)
	}
	if err := unmarshal(path, raw, &c); err != nil {
		return nil, err
	}
	if c.Type != "Sequence" {
		return append(dst, c), nil
	}
	var name string
	var list []json.RawMessage
	switch kind, _, _ := strings.Cut(path, "."); kind {
	case "normalizer":
		name, list = "normalizers", c.Normalizers
	case "pre_tokenizer":
		name, list = "pretokenizers", c.PreTokenizers
	case "post_processor":
		name, list = "processors", c.Processors
	case "decoder":
		name, list = "decoders", c.Decoders
	}
	if list == nil {
		return nil, fmt.Errorf("%s.%s: missing", path, name)
	}
	for i, raw := range list {
		var err error
		dst, err = appendComponents(dst, fmt.Sprintf("%s.%s[%d]", path, name, i), raw, depth+1)
		if err != nil {
			return nil, err
		}
	}
	return dst, nil
}

// unsupported returns the error for a component of a type not in want.
func (c *component) unsupported(want ...string) error {
	text := string(c.raw)
	if len(text) > 200 {
		text = strings.ToValidUTF8(text[:200], "") + "…"
	}
	return fmt.Errorf("%s.type: %q is not supported, want one of %s, Sequence: %s",
		c.path, c.Type, strings.Join(want, ", "), text)
}

// flag returns the value of the field name of c, which must be there.
func (c *component) flag(name string, v *bool) (bool, error) {
	if v == nil {
		return false, fmt.Errorf("%s.%s: missing", c.path, name)
	}
	return *v, nil
}

func (t *Tokenizer) parseNormalizer(f *file) error {
	list, err := parseComponents("normalizer", f.Normalizer)
	if err != nil {
		return err
	}
	for _, c := range list {
		if c.Type != "Lowercase" {
			return c.unsupported("Lowercase")
		}
		t.lowercase = true
	}
	return nil
}

func (t *Tokenizer) parsePreTokenizer(f *file) error {
	list, err := parseComponents("pre_tokenizer", f.PreTokenizer)
	if err != nil {
		return err
	}
	for _, c := range list {
		if t.byteLevel {
			return fmt.Errorf("%s: %s after ByteLevel is not supported", c.path, c.Type)
		}
		var p preTokenizer
		switch c.Type {
		case "ByteLevel":
			t.byteLevel = true
			if p.prefixSpace, err = c.flag("add_prefix_space", c.AddPrefixSpace); err != nil {
				return err
			}
			if c.UseRegex == nil || *c.UseRegex {
				p.scan = scanGPT2
			}
		case "Digits":
			individual, err := c.flag("individual_digits", c.IndividualDigits)
			if err != nil {
				return err
			}
			p.scan = scanDigits
			if individual {
				p.scan = scanDigit
			}
		case "Whitespace":
			p.scan = scanWhitespace
		case "WhitespaceSplit":
			p.scan = scanWhitespaceSplit
		default:
			return c.unsupported("ByteLevel", "Digits", "Whitespace", "WhitespaceSplit")
		}
		t.pre = append(t.pre, p)
	}
	return nil
}

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
		t.model, err = t.newBPE(&m)
	} else {
		t.model, err = t.newWordLevel(&m)
	}
	return err
}

// setToken makes info the token with the given id, which must be free.
func (t *Tokenizer) setToken(id int64, info tokenInfo) error {
	if id < 0 || id >= maxTokens {
		return fmt.Errorf("token %q has id %d, want 0 to %d", info.token, id, maxTokens-1)
	}
	if n := int(id) + 1; n > len(t.tokens) {
		t.tokens = slices.Grow(t.tokens, n-len(t.tokens))[:n]
	}
	if old := &t.tokens[id]; old.exists {
		return fmt.Errorf("tokens %q and %q have the same id %d",
			min(old.token, info.token), max(old.token, info.token), id)
	}
	info.text, info.exists = info.token, true
	t.tokens[id] = info
	t.ids[info.token] = int32(id)
	return nil
}

// words returns the vocabulary of the model by the text of each token.
func (t *Tokenizer) words(m *parsedModel) map[string]int32 {
	words := make(map[string]int32, len(m.Vocab))
	for token, id := range m.Vocab {
		if t.byteLevel {
			b, ok := tokenBytes(token)
			if !ok {
				continue // matches no word
			}
			token = b
		}
		words[token] = int32(id)
	}
	return words
}

func (t *Tokenizer) newWordLevel(m *parsedModel) (*wordLevel, error) {
	if m.UnkToken == nil {
		return nil, errors.New("model.unk_token: missing")
	}
	unk, ok := t.ids[*m.UnkToken]
	if !ok {
		return nil, fmt.Errorf("model.unk_token: %q is not in model.vocab", *m.UnkToken)
	}
	return &wordLevel{words: t.words(m), unk: unk}, nil
}

func (t *Tokenizer) newBPE(m *parsedModel) (*bpe, error) {
	switch {
	case !t.byteLevel:
		return nil, errors.New("model.type: BPE is supported only with the pre-tokenizer ByteLevel")
	case m.Dropout != 0:
		return nil, fmt.Errorf("model.dropout: %v is not supported, want null", m.Dropout)
	case m.ContinuingSubwordPrefix != "":
		return nil, fmt.Errorf("model.continuing_subword_prefix: %q is not supported, want null", m.ContinuingSubwordPrefix)
	case m.EndOfWordSuffix != "":
		return nil, fmt.Errorf("model.end_of_word_suffix: %q is not supported, want null", m.EndOfWordSuffix)
	case m.ByteFallback:
		return nil, errors.New("model.byte_fallback: true is not supported, want false")
	}
	b := &bpe{unk: -1, fuseUnk: m.FuseUnk, seed: maphash.MakeSeed()}
	if m.IgnoreMerges {
		b.whole = t.words(m)
	}
	for i := range b.byteID {
		b.byteID[i] = -1
	}
	complete := true
	for r, v := range byteOf {
		if v < 0 {
			continue
		}
		if id, ok := t.ids[string(rune(r))]; ok {
			b.byteID[v] = id
		} else {
			complete = false
		}
	}
	if !complete && m.UnkToken != nil {
		id, ok := t.ids[*m.UnkToken]
		if !ok {
			return nil, fmt.Errorf("model.unk_token: %q is not in model.vocab", *m.UnkToken)
		}
		b.unk = id
	}
	merges, err := parseMerges(m.Merges)
	if err != nil {
		return nil, fmt.Errorf("model.merges: %w", err)
	}
	b.merges = make(map[idPair]merge, len(merges))
	for i, pair := range merges {
		var ids [3]int32
		for j, token := range []string{pair[0], pair[1], pair[0] + pair[1]} {
			id, ok := t.ids[token]
			if !ok {
				return nil, fmt.Errorf("model.merges[%d]: %q: token %q is not in model.vocab", i, pair, token)
			}
			ids[j] = id
		}
		b.merges[idPair{ids[0], ids[1]}] = merge{rank: uint32(i), id: ids[2]}
	}
	return b, nil
}

// parseMerges reads a list of pairs of tokens, given as lists of two or, in
// older files, as strings with a space between them.
func parseMerges(raw json.RawMessage) ([][]string, error) {
	if isNull(raw) {
		return nil, errors.New("missing")
	}
	var lines []string
	if json.Unmarshal(raw, &lines) != nil {
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
	pairs := make([][]string, 0, len(lines))
	for i, line := range lines {
		if strings.HasPrefix(line, "#version") {
			continue
		}
		p := strings.Split(line, " ")
		if len(p) != 2 {
			return nil, fmt.Errorf("[%d]: %q is not two tokens with a space between them", i, line)
		}
		pairs = append(pairs, p)
	}
	return pairs, nil
}

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
		info := &t.tokens[a.ID]
		info.added, info.special = true, a.Special
		if !a.Normalized {
			t.added.insert(a.Content, a)
			continue
		}
		if t.lowercase { // both to match and to decode to
			info.text = segment{text: a.Content}.lower().text
		}
		t.addedNormalized.insert(info.text, a)
	}
	return nil
}

func (t *Tokenizer) parsePostProcessor(f *file) error {
	list, err := parseComponents("post_processor", f.PostProcessor)
	if err != nil {
		return err
	}
	for _, c := range list {
		var p postProcessor
		switch c.Type {
		case "ByteLevel", "RobertaProcessing":
			if p.trim, err = c.flag("trim_offsets", c.TrimOffsets); err != nil {
				return err
			}
			if p.prefixSpace, err = c.flag("add_prefix_space", c.AddPrefixSpace); err != nil {
				return err
			}
		case "BertProcessing", "TemplateProcessing":
		default:
			return c.unsupported("TemplateProcessing", "ByteLevel", "BertProcessing", "RobertaProcessing")
		}
		switch c.Type {
		case "BertProcessing", "RobertaProcessing":
			cls, err := t.tokenAndID(c.path+".cls", c.Cls)
			if err != nil {
				return err
			}
			sep, err := t.tokenAndID(c.path+".sep", c.Sep)
			if err != nil {
				return err
			}
			p.template = []templatePiece{{ids: cls}, {text: true}, {ids: sep}}
		case "TemplateProcessing":
			if p.template, err = t.parseTemplate(&c); err != nil {
				return err
			}
		}
		t.post = append(t.post, p)
	}
	return nil
}

func (t *Tokenizer) parseTemplate(c *component) ([]templatePiece, error) {
	if c.Single == nil {
		return nil, fmt.Errorf("%s.single: missing", c.path)
	}
	var template []templatePiece
	texts := 0
	for i, p := range c.Single {
		path := fmt.Sprintf("%s.single[%d]", c.path, i)
		switch {
		case (p.Sequence == nil) == (p.SpecialToken == nil):
			return nil, fmt.Errorf("%s: want one of Sequence, SpecialToken", path)
		case p.Sequence != nil:
			if p.Sequence.ID != "A" {
				return nil, fmt.Errorf(`%s.Sequence.id: %q, want "A"`, path, p.Sequence.ID)
			}
			template = append(template, templatePiece{text: true})
			texts++
		default:
			special, ok := c.SpecialTokens[p.SpecialToken.ID]
			if !ok {
				return nil, fmt.Errorf("%s.SpecialToken.id: %q is not in special_tokens", path, p.SpecialToken.ID)
			}
			ids, err := t.checkIDs(fmt.Sprintf("%s.special_tokens[%q].ids", c.path, p.SpecialToken.ID), special.IDs)
			if err != nil {
				return nil, err
			}
			template = append(template, templatePiece{ids: ids})
		}
	}
	if texts != 1 { // many, in a Sequence of templates, would be a bomb
		return nil, fmt.Errorf("%s.single: the Sequence is there %d times, want once", c.path, texts)
	}
	return template, nil
}

// tokenAndID returns the id of a pair [token, id].
func (t *Tokenizer) tokenAndID(path string, pair []any) ([]int32, error) {
	if len(pair) == 2 {
		_, isString := pair[0].(string)
		id, isNumber := pair[1].(float64)
		if isString && isNumber && id == math.Trunc(id) && 0 <= id && id < maxTokens {
			return t.checkIDs(path, []int64{int64(id)})
		}
	}
	return nil, fmt.Errorf("%s: %v, want [token, id]", path, pair)
}

// checkIDs returns ids, all of which must be those of a token.
func (t *Tokenizer) checkIDs(path string, ids []int64) ([]int32, error) {
	var r []int32
	for _, id := range ids {
		if !t.exists(id) {
			return nil, fmt.Errorf("%s: no token has id %d", path, id)
		}
		r = append(r, int32(id))
	}
	return r, nil
}

// parseDecoder sets the texts of the tokens and what is between them.
func (t *Tokenizer) parseDecoder(f *file) error {
	list, err := parseComponents("decoder", f.Decoder)
	if err != nil {
		return err
	}
	if isNull(f.Decoder) {
		t.separator = " "
	}
	bytes := false
	for i, c := range list {
		switch {
		case c.Type == "ByteLevel" && i == 0:
			bytes = true
		case c.Type == "ByteLevel":
			return fmt.Errorf("%s: ByteLevel after %s is not supported", c.path, list[i-1].Type)
		case c.Type != "Fuse": // which joins tokens, as is done anyway
			return c.unsupported("ByteLevel", "Fuse")
		}
	}
	if bytes {
		for i := range t.tokens {
			if b, ok := tokenBytes(t.tokens[i].text); ok {
				t.tokens[i].text = b
			}
		}
	}
	return nil
}
