package tokenizer

import (
	"encoding/json"
	"fmt"
	"strings"
)

const (
	// maxNesting bounds how deep a Sequence may be in others.
	maxNesting = 8
	// maxComponents bounds how many steps of a kind there may be, each of which
	// costs time for every word.
	maxComponents = 64
)

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

	Prepend          *string                 `json:"prepend"`           // Prepend
	Pattern          *pattern                `json:"pattern"`           // Replace, Split
	Content          *string                 `json:"content"`           // Replace, Strip
	Start            *int64                  `json:"start"`             // Strip
	Stop             *int64                  `json:"stop"`              // Strip
	Behavior         *string                 `json:"behavior"`          // Split
	Invert           *bool                   `json:"invert"`            // Split
	IndividualDigits *bool                   `json:"individual_digits"` // Digits
	AddPrefixSpace   *bool                   `json:"add_prefix_space"`  // ByteLevel, RobertaProcessing; Metaspace in old files
	TrimOffsets      *bool                   `json:"trim_offsets"`      // ByteLevel, RobertaProcessing
	UseRegex         *bool                   `json:"use_regex"`         // ByteLevel; absent in old files
	Replacement      *string                 `json:"replacement"`       // Metaspace
	PrependScheme    *string                 `json:"prepend_scheme"`    // Metaspace; absent in old files
	Split            *bool                   `json:"split"`             // Metaspace; absent in old files
	Cls              []any                   `json:"cls"`               // BertProcessing, RobertaProcessing: token, id
	Sep              []any                   `json:"sep"`               // the same
	Single           []templateItem          `json:"single"`            // TemplateProcessing
	SpecialTokens    map[string]specialToken `json:"special_tokens"`    // TemplateProcessing
}

// pattern is what Replace and Split look for: one of the two is set.
type pattern struct{ String, Regex *string }

// templateItem is a piece of a template: one of the two is set.
type templateItem struct {
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
		if len(dst) == maxComponents {
			return nil, fmt.Errorf("%s: more than %d steps", path, maxComponents)
		}
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
	return fmt.Errorf("%s.type: %q is not supported, want one of %s, Sequence: %s",
		c.path, c.Type, strings.Join(want, ", "), excerpt(string(c.raw)))
}

// excerpt returns the beginning of a text, for an error.
func excerpt(text string) string {
	if len(text) > 200 {
		text = strings.ToValidUTF8(text[:200], "") + "…"
	}
	return text
}

// field returns the value of the field name of c, which must be there.
func field[T any](c *component, name string, v *T) (T, error) {
	if v == nil {
		return *new(T), fmt.Errorf("%s.%s: missing", c.path, name)
	}
	return *v, nil
}

// replacement returns what a component Replace replaces and by what.
func (c *component) replacement() (old, new string, err error) {
	p, err := field(c, "pattern", c.Pattern)
	if err != nil {
		return "", "", err
	}
	if p.Regex != nil {
		return "", "", fmt.Errorf("%s.pattern.Regex: %q is not supported, want a String", c.path, excerpt(*p.Regex))
	}
	if old, err = field(c, "pattern.String", p.String); err != nil {
		return "", "", err
	}
	if old == "" {
		return "", "", fmt.Errorf("%s.pattern.String: is empty", c.path)
	}
	new, err = field(c, "content", c.Content)
	return old, new, err
}

// metaspace returns the character that a component Metaspace spells a space
// with, and where it puts one before the text: always, first or never.
func (c *component) metaspace() (mark, scheme string, err error) {
	if mark, err = field(c, "replacement", c.Replacement); err != nil {
		return "", "", err
	}
	if len([]rune(mark)) != 1 {
		return "", "", fmt.Errorf("%s.replacement: %q is not one character", c.path, excerpt(mark))
	}
	scheme = "always"
	switch {
	case c.PrependScheme != nil:
		scheme = *c.PrependScheme
	case c.AddPrefixSpace != nil && !*c.AddPrefixSpace:
		scheme = "never"
	}
	switch scheme {
	case "always", "first", "never":
		return mark, scheme, nil
	}
	return "", "", fmt.Errorf("%s.prepend_scheme: %q, want one of always, first, never", c.path, excerpt(scheme))
}
