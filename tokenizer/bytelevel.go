package tokenizer

import (
	"strconv"
	"strings"
	"unicode/utf8"
)

// Byte-level tokenizers spell tokens in an alphabet of 256 printable
// characters, one for each byte: the printable bytes of Latin-1 stand for
// themselves, the others, in order, for the characters from U+0100 on. A space
// is thus 'Ġ' and a newline 'Ċ'.

// alphabetEnd is one more than the last character of the alphabet.
const alphabetEnd = 0x144

// byteOf maps the characters of the alphabet to bytes, others to -1.
var byteOf = func() (table [alphabetEnd]int16) {
	for r := range table {
		table[r] = -1
	}
	next := 0x100
	for b := range 0x100 {
		r := b
		if b < '!' || '~' < b && b < 0xA1 || b == 0xAD {
			r = next
			next++
		}
		table[r] = int16(b)
	}
	return table
}()

// tokenBytes returns the bytes that token spells in the alphabet, or false if
// it has other characters.
func tokenBytes(token string) (string, bool) {
	b := make([]byte, 0, len(token))
	for _, r := range token {
		if r >= alphabetEnd || byteOf[r] < 0 {
			return "", false
		}
		b = append(b, byte(byteOf[r]))
	}
	return string(b), true
}

// writeValid writes the characters of p to out, each ill-formed sequence as one
// U+FFFD, and moves the beginning of a last, incomplete character to the front
// of p. A sequence is taken as far as it could have been the beginning of a
// character, as Unicode recommends.
func writeValid(out *strings.Builder, p []byte) (rest []byte) {
	in := p
	for len(in) > 0 && utf8.FullRune(in) {
		r, n := utf8.DecodeRune(in)
		if r == utf8.RuneError && n == 1 {
			for n < len(in) && !utf8.FullRune(in[:n+1]) {
				n++
			}
		}
		out.WriteRune(r)
		in = in[n:]
	}
	return p[:copy(p, in)]
}

// fallbackByte returns the byte that a token such as <0x0A> stands for where
// characters fall back to bytes.
func fallbackByte(token string) (byte, bool) {
	if len(token) != len("<0x0A>") || token[:3] != "<0x" || token[5] != '>' {
		return 0, false
	}
	v, err := strconv.ParseUint(token[3:5], 16, 8)
	return byte(v), err == nil
}
