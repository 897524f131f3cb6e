package tokenizer

import (
	"fmt"
	"math"
)

func (t *Tokenizer) parsePostProcessor(f *file) error {
	list, err := parseComponents("post_processor", f.PostProcessor)
	if err != nil {
		return err
	}
	for _, c := range list {
		var p postProcessor
		switch c.Type {
		case "ByteLevel", "RobertaProcessing":
			if p.trim, err = field(&c, "trim_offsets", c.TrimOffsets); err != nil {
				return err
			}
			if p.prefixSpace, err = field(&c, "add_prefix_space", c.AddPrefixSpace); err != nil {
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
