package tokenizer

import (
	"fmt"
	"strings"
)

// parseDecoder sets the texts of the tokens and how they are joined.
func (t *Tokenizer) parseDecoder(f *file) error {
	list, err := parseComponents("decoder", f.Decoder)
	if err != nil {
		return err
	}
	if isNull(f.Decoder) {
		t.decoder.separator = " "
	}
	// The steps before the tokens are joined are done here, on each token. After
	// some, what a token gives is known only once it is joined with others.
	joined, open := false, false
	longer := 1
	for i, c := range list {
		if i > 0 && (joined && c.Type != "Fuse" && c.Type != "Strip" || open && c.Type != "Fuse" ||
			c.Type == "ByteLevel" || c.Type == "Metaspace") {
			return fmt.Errorf("%s: %s after %s is not supported", c.path, c.Type, list[i-1].Type)
		}
		switch c.Type {
		case "ByteFallback":
			open = true
			t.decodeEach(func(token string) string {
				if b, ok := fallbackByte(token); ok {
					return string([]byte{b})
				}
				return token
			})
		case "ByteLevel":
			joined = true
			t.decodeEach(func(token string) string {
				if b, ok := tokenBytes(token); ok {
					return b
				}
				return token
			})
		case "Fuse":
			joined, open = true, false
		case "Metaspace":
			mark, scheme, err := c.metaspace()
			if err != nil {
				return err
			}
			if scheme != "never" {
				t.decoder.drop = mark
			}
			open = true // to drop from the first
			t.decodeEach(func(token string) string { return strings.ReplaceAll(token, mark, " ") })
		case "Replace":
			old, new, err := c.replacement()
			if err != nil {
				return err
			}
			if longer *= max(1, (len(new)+len(old)-1)/len(old)); longer > maxLonger {
				return fmt.Errorf("%s: makes text up to %d times as long, want %d at most", c.path, longer, maxLonger)
			}
			t.decodeEach(func(token string) string { return strings.ReplaceAll(token, old, new) })
		case "Strip":
			if err := t.parseStrip(&c, joined); err != nil {
				return err
			}
		default:
			return c.unsupported("ByteFallback", "ByteLevel", "Fuse", "Metaspace", "Replace", "Strip")
		}
	}
	return nil
}

// decodeEach does a step of decoding on the text of each token.
func (t *Tokenizer) decodeEach(step func(string) string) {
	for i := range t.tokens {
		t.tokens[i].text = step(t.tokens[i].text)
	}
}

// parseStrip reads the decoder Strip, of the joined text or of each token.
func (t *Tokenizer) parseStrip(c *component, joined bool) error {
	content, err := field(c, "content", c.Content)
	if err != nil {
		return err
	}
	start, err := field(c, "start", c.Start)
	if err != nil {
		return err
	}
	stop, err := field(c, "stop", c.Stop)
	if err != nil {
		return err
	}
	if len([]rune(content)) != 1 {
		return fmt.Errorf("%s.content: %q is not one character", c.path, excerpt(content))
	}
	if start < 0 || start > maxTokens {
		return fmt.Errorf("%s.start: %d, want 0 to %d", c.path, start, maxTokens)
	}
	if stop != 0 { // a Stream would have to hold back text
		return fmt.Errorf("%s.stop: %d is not supported, want 0", c.path, stop)
	}
	if joined {
		if t.decoder.stripMax > 0 {
			return fmt.Errorf("%s: Strip after Strip is not supported", c.path)
		}
		t.decoder.strip, t.decoder.stripMax = content, int(start)
		return nil
	}
	t.decodeEach(func(token string) string {
		for range start {
			rest, ok := strings.CutPrefix(token, content)
			if !ok {
				break
			}
			token = rest
		}
		return token
	})
	return nil
}
