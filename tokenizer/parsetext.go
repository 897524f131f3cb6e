package tokenizer

import (
	"fmt"
	"slices"
)

// maxLonger bounds how much longer Prepend, Replace and Metaspace make a text:
// a few such steps after another would otherwise fill the memory.
const maxLonger = 64

func (t *Tokenizer) parseNormalizer(f *file) error {
	list, err := parseComponents("normalizer", f.Normalizer)
	if err != nil {
		return err
	}
	longer := 1
	for _, c := range list {
		var n normalizer
		switch c.Type {
		case "Lowercase":
			n = lower
		case "NFC":
			n = compose
		case "Prepend":
			prefix, err := field(&c, "prepend", c.Prepend)
			if err != nil {
				return err
			}
			longer *= 1 + len(prefix)
			n = prepending(prefix)
		case "Replace":
			old, new, err := c.replacement()
			if err != nil {
				return err
			}
			longer *= max(1, (len(new)+len(old)-1)/len(old))
			n = replacing(old, new)
		default:
			return c.unsupported("Lowercase", "NFC", "Prepend", "Replace")
		}
		if longer > maxLonger {
			return fmt.Errorf("%s: makes text up to %d times as long, want %d at most", c.path, longer, maxLonger)
		}
		t.normalizers = append(t.normalizers, n)
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
			prefix, err := field(&c, "add_prefix_space", c.AddPrefixSpace)
			if err != nil {
				return err
			}
			if prefix {
				p.prefix = " "
			}
			if c.UseRegex == nil || *c.UseRegex {
				p.scan = scanGPT2
			}
		case "Digits":
			individual, err := field(&c, "individual_digits", c.IndividualDigits)
			if err != nil {
				return err
			}
			p.scan = scanDigits
			if individual {
				p.scan = scanDigit
			}
		case "Metaspace":
			mark, scheme, err := c.metaspace()
			if err != nil {
				return err
			}
			if slices.ContainsFunc(t.pre, func(p preTokenizer) bool { return p.space != "" }) {
				// Each could make the text longer for every word of the one before.
				return fmt.Errorf("%s: a second Metaspace is not supported", c.path)
			}
			p.space = mark
			if scheme != "never" {
				p.prefix, p.first = mark, scheme == "first"
			}
			if c.Split == nil || *c.Split {
				p.scan = scanBefore(mark)
			}
		case "Split":
			if p.scan, err = c.scanner(); err != nil {
				return err
			}
		case "Whitespace":
			p.scan = scanWhitespace
		case "WhitespaceSplit":
			p.scan = scanWhitespaceSplit
		default:
			return c.unsupported("ByteLevel", "Digits", "Metaspace", "Split", "Whitespace", "WhitespaceSplit")
		}
		t.pre = append(t.pre, p)
	}
	return nil
}

// scanner returns the scanner of a component Split.
func (c *component) scanner() (scanner, error) {
	p, err := field(c, "pattern", c.Pattern)
	if err != nil {
		return nil, err
	}
	if p.String != nil {
		return nil, fmt.Errorf("%s.pattern.String: %q is not supported, want a Regex", c.path, excerpt(*p.String))
	}
	regex, err := field(c, "pattern.Regex", p.Regex)
	if err != nil {
		return nil, err
	}
	scan, ok := patterns[regex]
	if !ok {
		return nil, fmt.Errorf("%s.pattern.Regex: %q is not supported, want that of GPT-2, Llama 3, Qwen2 or Tekken", c.path, excerpt(regex))
	}
	// The patterns match any text whole, so that nothing is between matches: it
	// does not matter what is done with that.
	behavior, err := field(c, "behavior", c.Behavior)
	if err != nil {
		return nil, err
	}
	invert, err := field(c, "invert", c.Invert)
	if err != nil {
		return nil, err
	}
	if behavior != "Isolated" && !(behavior == "Removed" && invert) {
		return nil, fmt.Errorf("%s.behavior: %q is not supported with invert %v, want Isolated, or Removed with invert true", c.path, excerpt(behavior), invert)
	}
	return scan, nil
}
