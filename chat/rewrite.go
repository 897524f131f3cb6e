package chat

import (
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"
)

// rewrite returns a template that the engine renders as Jinja2 would render source, with blocks trimmed as Hugging Face
// does (trim_blocks, lstrip_blocks). The engine trims more than the text beside a tag, skips characters it does not know, and
// does some filters and methods in another way. So the result
//   - has no text outside of tags: text, trimmed by Jinja2's rules, becomes the output of a literal;
//   - prints what it prints by the filter filterPrint;
//   - names our own filters and methods where there are such ones (ownFilters, ownMethods);
//   - sets variables back at the end of what they are set in;
//   - has every line where it was, for messages.
//
// Of 153 renderings of 17 published templates, the engine alone (v1.8.0) gives 46 that differ from Jinja2's, and none with this.
//
// What would be rendered wrongly without a word is an error.
func rewrite(source string) (string, error) {
	segments, err := scan(source)
	if err != nil {
		return "", err
	}
	if err := scopes(segments); err != nil {
		return "", err
	}
	var b strings.Builder
	for i := range segments {
		if err := segments[i].write(&b); err != nil {
			return "", fmt.Errorf("line %d: %w", segments[i].line, err)
		}
	}
	return b.String(), nil
}

// A segment is text, or a tag: an output {{ … }} or a statement {% … %}.
type segment struct {
	kind   byte    // 0, '{' or '%'
	text   string  // of kind 0, trimmed
	tokens []token // of a tag
	line   int
	lines  int // line ends in the source

	before, after string // statements written before and after it
}

// A token is a piece of what stands in a tag.
type token struct {
	kind byte   // 'n' name, 's' string, '0' number, 'o' operator
	text string // of a string, what it means
}

func (t token) is(kind byte, text string) bool { return t.kind == kind && t.text == text }

const space = " \t\n\r\v\f\x1c\x1d\x1e\x1f\u0085\u00a0" // what Python strips, and its regular expressions call space, without the rarer ones

// scan cuts source into segments, by the rules of Jinja2's lexer.
func scan(source string) ([]segment, error) {
	source = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(source)
	source = strings.TrimSuffix(source, "\n")
	var segments []segment
	line := 1
	starting := true // the last tag ended a line, or there was none
	text := func(s, original string) {
		segments = append(segments, segment{text: s, line: line, lines: strings.Count(original, "\n")})
		line += strings.Count(original, "\n")
	}
	// strip trims the end of text before a tag that has sign after its opener.
	strip := func(s string, sign byte, output bool) string {
		if sign == '-' {
			return strings.TrimRight(s, space)
		}
		if sign != '+' && !output {
			at := strings.LastIndexByte(s, '\n') + 1
			if (at > 0 || starting) && strings.Trim(s[at:], space) == "" {
				return s[:at]
			}
		}
		return s
	}
	// skip returns what is left of rest after the end of a tag of kind, whose sign is before it, and the source that the
	// end took.
	skip := func(rest string, sign byte, output bool) string {
		switch {
		case sign == '-':
			return strings.TrimLeft(rest, space)
		case sign == 0 && !output:
			return strings.TrimPrefix(rest, "\n")
		}
		return rest
	}
	for rest := source; rest != ""; {
		at := 0
		for {
			k := strings.IndexByte(rest[at:], '{')
			if k < 0 {
				at = len(rest)
				break
			}
			at += k
			if at+1 < len(rest) && strings.IndexByte("{%#", rest[at+1]) >= 0 {
				break
			}
			at++
		}
		if at == len(rest) {
			text(rest, rest)
			break
		}
		kind := rest[at+1]
		before, tag := rest[:at], rest[at+2:]
		var sign byte
		if tag != "" && (tag[0] == '-' || tag[0] == '+') {
			sign, tag = tag[0], tag[1:]
		}
		text(strip(before, sign, kind == '{'), before)

		if kind == '#' {
			end := strings.Index(tag, "#}")
			if end < 0 {
				return nil, fmt.Errorf("line %d: a comment has no end", line)
			}
			var sign byte
			if end > 0 && (tag[end-1] == '-' || tag[end-1] == '+') {
				sign = tag[end-1]
			}
			rest = skip(tag[end+2:], sign, false)
			whole := tag[:len(tag)-len(rest)]
			starting = strings.HasSuffix(whole, "\n")
			text("", whole)
			continue
		}
		if minus, after, ok := raw(tag); kind == '%' && ok {
			end, sign, tail, tailSign := endRaw(after)
			if end < 0 {
				return nil, fmt.Errorf("line %d: {%% raw %%} has no end", line)
			}
			body := after[:end]
			if minus {
				body = strings.TrimLeft(body, space)
			}
			starting = false
			rest = skip(tail, tailSign, false)
			whole := tag[:len(tag)-len(rest)]
			text(strip(body, sign, false), whole)
			starting = strings.HasSuffix(whole, "\n")
			continue
		}
		tokens, n, endSign, err := tokenize(tag, kind)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", line, err)
		}
		rest = skip(tag[n:], endSign, kind == '{')
		whole := tag[:len(tag)-len(rest)]
		starting = strings.HasSuffix(whole, "\n")
		segments = append(segments, segment{kind: kind, tokens: tokens, line: line, lines: strings.Count(whole, "\n")})
		line += strings.Count(whole, "\n")
	}
	return segments, nil
}

// raw reports whether what follows {% begins a raw block: what follows its opener, and whether that ended in -%}.
func raw(tag string) (minus bool, after string, ok bool) {
	s := strings.TrimLeft(tag, space)
	if !strings.HasPrefix(s, "raw") {
		return false, "", false
	}
	s = strings.TrimLeft(s[len("raw"):], space)
	if after, ok := strings.CutPrefix(s, "-%}"); ok {
		return true, after, true
	}
	after, ok = strings.CutPrefix(s, "%}")
	return false, after, ok
}

// endRaw finds {% endraw %}: where it begins, −1 if nowhere, the sign of its opener, what comes after it and the sign before that.
func endRaw(s string) (at int, sign byte, after string, afterSign byte) {
	for from := 0; ; {
		k := strings.Index(s[from:], "{%")
		if k < 0 {
			return -1, 0, "", 0
		}
		at, from = from+k, from+k+2
		t := s[from:]
		sign = 0
		if t != "" && (t[0] == '-' || t[0] == '+') {
			sign, t = t[0], t[1:]
		}
		t, ok := strings.CutPrefix(strings.TrimLeft(t, space), "endraw")
		if !ok {
			continue
		}
		t = strings.TrimLeft(t, space)
		afterSign = 0
		if t != "" && (t[0] == '-' || t[0] == '+') {
			afterSign, t = t[0], t[1:]
		}
		if t, ok := strings.CutPrefix(t, "%}"); ok {
			return at, sign, t, afterSign
		}
	}
}

// tokenize returns the tokens of a tag up to its end, how long they and the end are, and the sign before the end.
func tokenize(s string, kind byte) (tokens []token, n int, sign byte, err error) {
	closer := "}}"
	if kind == '%' {
		closer = "%}"
	}
	var open []byte // brackets, as what closes them
	for i := 0; i < len(s); {
		c := s[i]
		if len(open) == 0 {
			if strings.HasPrefix(s[i:], closer) {
				return tokens, i + 2, 0, nil
			}
			if c == '-' || c == '+' && kind == '%' {
				if strings.HasPrefix(s[i+1:], closer) {
					return tokens, i + 3, c, nil
				}
			}
		}
		switch {
		case c < utf8.RuneSelf && strings.IndexByte(space, c) >= 0:
			i++
		case c == '\'' || c == '"':
			text, size, err := literal(s[i:])
			if err != nil {
				return nil, 0, 0, err
			}
			if k := len(tokens); k > 0 && tokens[k-1].kind == 's' { // literals side by side are one
				tokens[k-1].text += text
			} else {
				tokens = append(tokens, token{'s', text})
			}
			i += size
		case c >= '0' && c <= '9':
			size := number(s[i:])
			text := strings.ReplaceAll(s[i:i+size], "_", "")
			if strings.ContainsAny(text, "eE") && !strings.Contains(text, ".") { // which the engine would not take whole
				text = strings.NewReplacer("e", ".0e", "E", ".0e").Replace(text)
			}
			tokens = append(tokens, token{'0', text})
			i += size
			if i < len(s) && letter(s[i]) {
				return nil, 0, 0, fmt.Errorf("number is %q; want decimal digits", s[i-size:i+1])
			}
		case letter(c):
			size := 1
			for i+size < len(s) && (letter(s[i+size]) || s[i+size] >= '0' && s[i+size] <= '9') {
				size++
			}
			name := s[i : i+size]
			if strings.HasPrefix(name, prefix) {
				return nil, 0, 0, fmt.Errorf("name is %q; names with %s are ours", name, prefix)
			}
			tokens = append(tokens, token{'n', name})
			i += size
		default:
			size := 1
			if len(s) > i+1 {
				switch s[i : i+2] {
				case "**", "//", "==", "!=", "<=", ">=":
					size = 2
				}
			}
			op := s[i : i+size]
			switch c {
			case '(':
				open = append(open, ')')
			case '[':
				open = append(open, ']')
			case '{':
				open = append(open, '}')
			case ')', ']', '}':
				if len(open) == 0 || open[len(open)-1] != c {
					return nil, 0, 0, fmt.Errorf("%q closes nothing", op)
				}
				open = open[:len(open)-1]
			}
			if size == 1 && strings.IndexByte("+-*/%~()[]{}<>=.:|,", c) < 0 {
				r, _ := utf8.DecodeRuneInString(s[i:])
				return nil, 0, 0, fmt.Errorf("character is %q; want an expression", r)
			}
			tokens = append(tokens, token{'o', op})
			i += size
		}
	}
	return nil, 0, 0, fmt.Errorf("a tag has no end; want %s", closer)
}

func letter(c byte) bool { return c == '_' || c|0x20 >= 'a' && c|0x20 <= 'z' }

// number returns the length of the number that s begins with.
func number(s string) int {
	digits := func(i int) int {
		for i < len(s) && (s[i] >= '0' && s[i] <= '9' || s[i] == '_') {
			i++
		}
		return i
	}
	i := digits(0)
	if i+1 < len(s) && s[i] == '.' && s[i+1] >= '0' && s[i+1] <= '9' {
		i = digits(i + 1)
	}
	if i+1 < len(s) && s[i]|0x20 == 'e' {
		j := i + 1
		if s[j] == '-' || s[j] == '+' {
			j++
		}
		if k := digits(j); k > j {
			i = k
		}
	}
	return i
}

// literal returns what the string literal means that s begins with, and its length.
func literal(s string) (text string, size int, err error) {
	var b strings.Builder
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == s[0]:
			return b.String(), i + 1, nil
		case c != '\\':
			b.WriteByte(c)
		case i+1 == len(s):
			// no end, either
		default:
			i++
			digits := 0
			switch s[i] {
			case '\n': // the literal goes on
			case 'n':
				b.WriteByte('\n')
			case 't':
				b.WriteByte('\t')
			case 'r':
				b.WriteByte('\r')
			case 'b':
				b.WriteByte('\b')
			case 'f':
				b.WriteByte('\f')
			case 'v':
				b.WriteByte('\v')
			case 'a':
				b.WriteByte('\a')
			case '0':
				b.WriteByte(0)
			case '\\', '\'', '"':
				b.WriteByte(s[i])
			case 'x':
				digits = 2
			case 'u':
				digits = 4
			case 'U':
				digits = 8
			default:
				b.WriteByte('\\')
				b.WriteByte(s[i])
			}
			if digits > 0 {
				var r rune
				if len(s) < i+1+digits {
					return "", 0, fmt.Errorf("escape is \\%s; want %d hexadecimal digits", s[i:], digits)
				}
				for _, c := range []byte(s[i+1 : i+1+digits]) {
					v := strings.IndexByte("0123456789abcdef", c|0x20)
					if v < 0 || c < '0' {
						return "", 0, fmt.Errorf("escape is \\%s; want %d hexadecimal digits", s[i:i+1+digits], digits)
					}
					r = r<<4 | rune(v)
				}
				if !utf8.ValidRune(r) {
					return "", 0, fmt.Errorf("escape is \\%s; want a character", s[i:i+1+digits])
				}
				b.WriteRune(r)
				i += digits
			}
		}
	}
	return "", 0, fmt.Errorf("a string has no end")
}

// scopes checks that blocks nest, and has variables that are set in a block end with it, or with the round of a loop, where the
// engine lets them live on: it saves before the block what they were, and sets them to that again.
func scopes(segments []segment) error {
	type block struct {
		keyword string
		at      int
		scope   int      // in open: the block whose variables are set here, −1 if there is none; an if has none of its own
		sets    []string // variables set in it
		orElse  []string // and in a loop's {% else %}
		inElse  bool
	}
	var open []block
	top := func() *block { return &open[len(open)-1] }
	push := func(keyword string, at int) {
		scope := len(open)
		if keyword == "if" {
			scope = -1
			if len(open) > 0 {
				scope = top().scope
			}
		}
		open = append(open, block{keyword: keyword, at: at, scope: scope})
	}
	for i := range segments {
		s := &segments[i]
		if s.kind != '%' {
			continue
		}
		if len(s.tokens) == 0 || s.tokens[0].kind != 'n' {
			return fmt.Errorf("line %d: a statement has no keyword", s.line)
		}
		keyword := s.tokens[0].text
		switch keyword {
		case "if", "for", "macro", "call", "filter", "generation":
			push(keyword, i)
		case "set":
			if len(open) > 0 && top().scope >= 0 && len(s.tokens) > 1 && !(len(s.tokens) > 2 && s.tokens[2].is('o', ".")) {
				b := &open[top().scope]
				to := &b.sets
				if b.inElse {
					to = &b.orElse
				}
				if name := s.tokens[1].text; !slices.Contains(*to, name) {
					*to = append(*to, name)
				}
			}
			if !s.has("=") {
				push(keyword, i)
			}
		case "break", "continue":
			if len(open) == 0 || top().scope < 0 || open[top().scope].keyword != "for" || open[top().scope].inElse {
				return fmt.Errorf("line %d: {%% %s %%} stands in no loop", s.line, keyword)
			}
		case "elif", "else":
			switch {
			case len(open) == 0:
				return fmt.Errorf("line %d: {%% %s %%} stands in no block", s.line, keyword)
			case top().keyword == "for" && keyword == "else" && !top().inElse:
				top().inElse = true
			case top().keyword != "if":
				return fmt.Errorf("line %d: {%% %s %%} stands in a block of %s", s.line, keyword, top().keyword)
			}
		case "endif", "endfor", "endmacro", "endcall", "endfilter", "endset", "endgeneration":
			if len(open) == 0 || "end"+top().keyword != keyword {
				return fmt.Errorf("line %d: {%% %s %%} ends nothing", s.line, keyword)
			}
			b := *top()
			open = open[:len(open)-1]
			begin := &segments[b.at]
			var own []token // variables that the block itself sets
			switch in := slices.Index(begin.tokens, token{'n', "in"}); {
			case b.keyword == "for" && in > 0:
				own = begin.tokens[1:in]
			case b.keyword == "set":
				own = begin.tokens[1:]
			}
			restore := func(names []string) string {
				var out strings.Builder
				for _, name := range names {
					if slices.Contains(own, token{'n', name}) {
						continue
					}
					saved := fmt.Sprintf("%s%d_%s", prefix, b.at, name)
					begin.before += "{% set " + saved + " = " + name + " %}"
					out.WriteString("{% set " + name + " = " + saved + " %}")
				}
				return out.String()
			}
			switch b.keyword {
			case "for":
				begin.after += restore(b.sets)
				s.after += restore(b.orElse)
			case "filter", "set", "generation":
				s.after += restore(b.sets)
			}
		default:
			return fmt.Errorf("line %d: statement is {%% %s %%}; want if, for, set, macro, call, filter, raw, break, continue or generation", s.line, keyword)
		}
	}
	if len(open) > 0 {
		return fmt.Errorf("line %d: {%% %s %%} has no end", segments[top().at].line, top().keyword)
	}
	return nil
}

// has reports whether an operator stands in a tag outside of brackets.
func (s *segment) has(op string) bool {
	depth := 0
	for _, t := range s.tokens {
		if t.kind != 'o' {
			continue
		}
		switch t.text {
		case "(", "[", "{":
			depth++
		case ")", "]", "}":
			depth--
		case op:
			if depth == 0 {
				return true
			}
		}
	}
	return false
}

// write writes a segment as the engine is to see it.
func (s *segment) write(b *strings.Builder) error {
	b.WriteString(s.before)
	lines := strings.Repeat("\n", s.lines)
	switch s.kind {
	case 0:
		if s.text != "" || s.lines > 0 {
			b.WriteString("{{ ")
			quote(b, s.text)
			b.WriteString(lines + " }}")
		}
	case '{':
		if len(s.tokens) == 0 {
			return fmt.Errorf("{{ }} is empty; want an expression")
		}
		b.WriteString("{{ ( ")
		if err := expression(b, s.tokens); err != nil {
			return err
		}
		b.WriteString(") | " + filterPrint + lines + " }}")
	case '%':
		if err := s.check(); err != nil {
			return err
		}
		b.WriteString("{% ")
		if err := expression(b, s.tokens); err != nil {
			return err
		}
		b.WriteString(lines + "%}")
	}
	b.WriteString(s.after)
	return nil
}

// check refuses statements that the engine would take for others.
func (s *segment) check() error {
	t := s.tokens
	name := func(i int) bool { return i < len(t) && t[i].kind == 'n' }
	op := func(i int, text string) bool { return i < len(t) && t[i].is('o', text) }
	switch t[0].text {
	case "set":
		i := 2
		if name(1) && op(2, ".") && name(3) {
			i = 4
		}
		if !name(1) || len(t) > i && !op(i, "=") {
			return fmt.Errorf("{%% set %%} has more than a name before =; that is not supported")
		}
	case "for":
		i := 2
		if name(1) && op(2, ",") && name(3) {
			i = 4
		}
		if !name(1) || !(name(i) && t[i].text == "in") {
			return fmt.Errorf("{%% for %%} is not followed by one or two names and in; that is not supported")
		}
		for _, u := range t {
			if u.is('n', "recursive") {
				return fmt.Errorf("{%% for … recursive %%} is not supported")
			}
		}
	case "filter":
		if len(t) != 2 || !name(1) || ownFilters[t[1].text] != nil {
			return fmt.Errorf("{%% filter %%} is not followed by one name of a plain filter; that is not supported")
		}
	case "macro":
		if !name(1) || !op(2, "(") || !op(len(t)-1, ")") {
			return fmt.Errorf("{%% macro %%} is not followed by a name and parameters")
		}
		depth := 0
		for _, u := range t[2:] {
			switch {
			case u.kind == 's' && strings.ContainsAny(u.text, ",="), depth > 1 && u.is('o', ","):
				return fmt.Errorf("a parameter of {%% macro %%} has a comma in its default; that is not supported")
			case u.kind == 'o' && strings.Contains("([{", u.text):
				depth++
			case u.kind == 'o' && strings.Contains(")]}", u.text):
				depth--
			}
		}
	}
	return nil
}

// expression writes tokens, with our own filters and methods in place of the engine's.
func expression(b *strings.Builder, tokens []token) error {
	at := func(i int) token {
		if i < 0 || i >= len(tokens) {
			return token{}
		}
		return tokens[i]
	}
	for i := 0; i < len(tokens); i++ {
		t, next := tokens[i], at(i+1)
		switch {
		case t.kind == 's':
			quote(b, t.text)
		case t.is('o', ".") && next.kind == 'n' && ownMethods[next.text] != nil && at(i+2).is('o', "("):
			b.WriteString(" | " + prefix + "method_" + next.text) // a filter binds as closely as a method
			i++
		case t.is('o', "."):
			b.WriteString(".")
			continue
		case t.is('o', "|") && next.kind == 'n' && ownFilters[next.text] != nil:
			b.WriteString("| " + prefix + "filter_" + next.text)
			i++
		case t.is('n', "is") && !at(i-1).is('o', ".") && testOperator(tokens[i+1:]) != "":
			b.WriteString(testOperator(tokens[i+1:]))
			if i++; next.text == "not" {
				i++
			}
		case t.is('n', "sequence") && (at(i-1).is('n', "is") || at(i-1).is('n', "not") && at(i-2).is('n', "is")):
			b.WriteString("iterable") // anything that has items is a sequence, a text and a dictionary too
		case t.is('n', "loop") && next.is('o', ".") && !at(i-1).is('o', ".") && loopUnknown(at(i+2).text):
			return fmt.Errorf("loop.%s is not supported", at(i+2).text)
		default:
			b.WriteString(t.text)
		}
		if !at(i+1).is('o', ".") {
			b.WriteByte(' ')
		}
	}
	return nil
}

// testOperator returns the operator that is the same as the test that follows is, empty if there is none; the engine knows
// arguments of tests in parentheses alone.
func testOperator(tokens []token) string {
	operators := map[string][2]string{"in": {"in", "not in"}, "eq": {"==", "!="}, "equalto": {"==", "!="}, "ne": {"!=", "=="}}
	negated := 0
	if len(tokens) > 0 && tokens[0].is('n', "not") {
		tokens, negated = tokens[1:], 1
	}
	if len(tokens) == 0 || tokens[0].kind != 'n' {
		return ""
	}
	return operators[tokens[0].text][negated]
}

func loopUnknown(name string) bool { return name == "depth" || name == "depth0" || name == "changed" }

// quote writes a literal that the engine reads as s.
func quote(b *strings.Builder, s string) {
	b.WriteByte('"')
	for i := 0; i < len(s); i++ {
		switch c := s[i]; c {
		case '\n':
			b.WriteString(`\n`)
		case '\\', '"':
			b.WriteByte('\\')
			fallthrough
		default:
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
}
