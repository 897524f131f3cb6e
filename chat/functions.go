package chat

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/ardanlabs/jinja"
)

// Names of ours within the engine.
const (
	prefix      = "anchor__"
	filterPrint = prefix + "print"
)

// A function is one that templates call. The first argument of a filter or method is what it is applied to.
type function func(args []jinja.Value, kwargs map[string]jinja.Value) (jinja.Value, error)

// ownFilters stand in for filters of the engine that do not do what Jinja2's do, or are not there.
var ownFilters = map[string]function{
	"tojson":     filterJSON,
	"first":      filterFirst,
	"last":       filterLast,
	"list":       filterList,
	"select":     filterSelect(false, true),
	"reject":     filterSelect(false, false),
	"selectattr": filterSelect(true, true),
	"rejectattr": filterSelect(true, false),
	"sort":       filterSort,
	"string":     func(args []jinja.Value, _ map[string]jinja.Value) (jinja.Value, error) { return printed(args[0]) },
}

// ownMethods stand in for methods of texts and dictionaries.
var ownMethods = map[string]function{
	"startswith":   onText(func(s string, args []jinja.Value) (jinja.Value, error) { return affix(s, args, strings.HasPrefix) }),
	"endswith":     onText(func(s string, args []jinja.Value) (jinja.Value, error) { return affix(s, args, strings.HasSuffix) }),
	"removeprefix": onText(func(s string, args []jinja.Value) (jinja.Value, error) { return cut(s, args, strings.TrimPrefix) }),
	"removesuffix": onText(func(s string, args []jinja.Value) (jinja.Value, error) { return cut(s, args, strings.TrimSuffix) }),
	"split":        onText(func(s string, args []jinja.Value) (jinja.Value, error) { return split(s, args, false) }),
	"rsplit":       onText(func(s string, args []jinja.Value) (jinja.Value, error) { return split(s, args, true) }),
	"splitlines":   onText(splitLines),
	"find":         onText(func(s string, args []jinja.Value) (jinja.Value, error) { return find(s, args, strings.Index) }),
	"rfind":        onText(func(s string, args []jinja.Value) (jinja.Value, error) { return find(s, args, strings.LastIndex) }),
	"join":         onText(join),
	"isdigit":      onText(func(s string, _ []jinja.Value) (jinja.Value, error) { return every(s, unicode.IsDigit), nil }),
	"isspace":      onText(func(s string, _ []jinja.Value) (jinja.Value, error) { return every(s, unicode.IsSpace), nil }),
	"isalpha":      onText(func(s string, _ []jinja.Value) (jinja.Value, error) { return every(s, unicode.IsLetter), nil }),
	"items": onDict(func(d *jinja.Dict, _ []jinja.Value) (jinja.Value, error) {
		var items []jinja.Value
		for _, k := range d.Keys {
			items = append(items, jinja.NewList([]jinja.Value{jinja.NewString(k), d.Data[k]}))
		}
		return jinja.NewList(items), nil
	}),
	"keys": onDict(func(d *jinja.Dict, _ []jinja.Value) (jinja.Value, error) { return keys(d), nil }),
	"values": onDict(func(d *jinja.Dict, _ []jinja.Value) (jinja.Value, error) {
		var values []jinja.Value
		for _, k := range d.Keys {
			values = append(values, d.Data[k])
		}
		return jinja.NewList(values), nil
	}),
	"get": onDict(func(d *jinja.Dict, args []jinja.Value) (jinja.Value, error) {
		if len(args) == 0 {
			return jinja.None(), errors.New("get has no key")
		}
		if args[0].IsString() {
			if v, ok := d.Get(args[0].AsString()); ok {
				return v, nil
			}
		}
		if len(args) > 1 {
			return args[1], nil
		}
		return jinja.None(), nil
	}),
}

// A refusal is what a template raises by raise_exception.
type refusal struct{ message string }

func (r refusal) Error() string { return "the template refuses: " + r.message }

// functions returns what a template may call, as variables.
func functions(now time.Time) map[string]jinja.Value {
	all := map[string]jinja.Value{}
	add := func(name string, f function) {
		all[name] = jinja.NewCallable(name, func(args []jinja.Value, kwargs map[string]jinja.Value) (jinja.Value, error) {
			v, err := f(args, kwargs)
			if err != nil && !errors.As(err, new(refusal)) {
				err = fmt.Errorf("%s: %w", name[strings.LastIndexByte(name, '_')+1:], err)
			}
			return v, err
		})
	}
	for name, f := range ownFilters {
		add(prefix+"filter_"+name, applied(f))
	}
	for name, f := range ownMethods {
		add(prefix+"method_"+name, applied(f))
	}
	add(filterPrint, applied(func(args []jinja.Value, _ map[string]jinja.Value) (jinja.Value, error) { return printed(args[0]) }))
	add("raise_exception", func(args []jinja.Value, _ map[string]jinja.Value) (jinja.Value, error) {
		if len(args) != 1 {
			return jinja.None(), errors.New("want a message")
		}
		s, err := spelling(args[0], false)
		if err != nil {
			return jinja.None(), err
		}
		return jinja.None(), refusal{s}
	})
	add("strftime_now", func(args []jinja.Value, _ map[string]jinja.Value) (jinja.Value, error) {
		if len(args) != 1 || !args[0].IsString() {
			return jinja.None(), errors.New("want a format")
		}
		s, err := strftime(now, args[0].AsString())
		return jinja.NewString(s), err
	})
	add("range", rangeOf)
	add("dict", func(args []jinja.Value, kwargs map[string]jinja.Value) (jinja.Value, error) {
		d := jinja.NewDict()
		if len(args) > 0 {
			if !args[0].IsDict() {
				return jinja.None(), errors.New("want a dictionary")
			}
			from := args[0].AsDict()
			for _, k := range from.Keys {
				d.AsDict().Set(k, from.Data[k])
			}
		}
		for _, k := range slices.Sorted(maps.Keys(kwargs)) { // the engine has lost their order
			d.AsDict().Set(k, kwargs[k])
		}
		return d, nil
	})
	return all
}

// applied is a filter or method, which always has an argument.
func applied(f function) function {
	return func(args []jinja.Value, kwargs map[string]jinja.Value) (jinja.Value, error) {
		if len(args) == 0 {
			return jinja.None(), errors.New("is applied to nothing")
		}
		return f(args, kwargs)
	}
}

// maxRange is as many numbers as range gives in Jinja2's sandbox.
const maxRange = 100_000

func rangeOf(args []jinja.Value, _ map[string]jinja.Value) (jinja.Value, error) {
	var n [3]int64
	for i, a := range args {
		if i >= len(n) || !a.IsInt() {
			return jinja.None(), errors.New("want one to three integers")
		}
		n[i] = a.AsInt()
	}
	start, stop, step := n[0], n[1], int64(1)
	switch len(args) {
	case 0:
		return jinja.None(), errors.New("want one to three integers")
	case 1:
		start, stop = 0, n[0]
	case 3:
		step = n[2]
	}
	if step == 0 {
		return jinja.None(), errors.New("step is 0")
	}
	var items []jinja.Value
	for i := start; step > 0 && i < stop || step < 0 && i > stop; i += step {
		if len(items) == maxRange {
			return jinja.None(), fmt.Errorf("has more than %d numbers", maxRange)
		}
		items = append(items, jinja.NewInt(i))
		if step > 0 && i > math.MaxInt64-step || step < 0 && i < math.MinInt64-step {
			break
		}
	}
	return jinja.NewList(items), nil
}

// strftime formats a time as C's function of that name does in the C locale.
func strftime(t time.Time, format string) (string, error) {
	layouts := map[byte]string{
		'Y': "2006", 'y': "06", 'm': "01", 'd': "02", 'e': "_2", 'H': "15", 'I': "03", 'M': "04", 'S': "05", 'p': "PM",
		'B': "January", 'b': "Jan", 'h': "Jan", 'A': "Monday", 'a': "Mon", 'j': "002", 'Z': "MST", 'z': "-0700",
		'F': "2006-01-02", 'T': "15:04:05", 'R': "15:04", 'D': "01/02/06", 'c': "Mon Jan _2 15:04:05 2006", 'x': "01/02/06", 'X': "15:04:05",
	}
	short := map[byte]string{'m': "1", 'd': "2", 'I': "3", 'M': "4", 'S': "5"} // %-d
	var b strings.Builder
	for i := 0; i < len(format); i++ {
		if format[i] != '%' {
			b.WriteByte(format[i])
			continue
		}
		i++
		table := layouts
		if i+1 < len(format) && format[i] == '-' {
			table = short
			i++
			if format[i] == 'H' {
				b.WriteString(strconv.Itoa(t.Hour()))
				continue
			}
		}
		switch {
		case i == len(format):
			return "", fmt.Errorf("format is %q; want a directive after %%", format)
		case format[i] == '%':
			b.WriteByte('%')
		case format[i] == 'f':
			fmt.Fprintf(&b, "%06d", t.Nanosecond()/1000)
		case table[format[i]] != "":
			b.WriteString(t.Format(table[format[i]]))
		default:
			return "", fmt.Errorf("format is %q; its directive %%%c is not supported", format, format[i])
		}
	}
	return b.String(), nil
}

func onText(f func(s string, args []jinja.Value) (jinja.Value, error)) function {
	return func(args []jinja.Value, kwargs map[string]jinja.Value) (jinja.Value, error) {
		if !args[0].IsString() {
			return jinja.None(), fmt.Errorf("is a method of texts, not of %s", kindName(args[0]))
		}
		if len(kwargs) > 0 {
			return jinja.None(), errors.New("named arguments are not supported")
		}
		return f(args[0].AsString(), args[1:])
	}
}

func onDict(f func(d *jinja.Dict, args []jinja.Value) (jinja.Value, error)) function {
	return func(args []jinja.Value, _ map[string]jinja.Value) (jinja.Value, error) {
		if !args[0].IsDict() {
			return jinja.None(), fmt.Errorf("is a method of dictionaries, not of %s", kindName(args[0]))
		}
		return f(args[0].AsDict(), args[1:])
	}
}

// text returns argument i.
func text(args []jinja.Value, i int) (string, error) {
	if i >= len(args) || !args[i].IsString() {
		return "", fmt.Errorf("argument %d is not a text", i+1)
	}
	return args[i].AsString(), nil
}

func affix(s string, args []jinja.Value, has func(s, affix string) bool) (jinja.Value, error) {
	if len(args) != 1 {
		return jinja.None(), errors.New("want one argument")
	}
	if args[0].IsList() {
		args = args[0].AsList().Items
	}
	for i := range args {
		a, err := text(args, i)
		if err != nil {
			return jinja.None(), err
		}
		if has(s, a) {
			return jinja.NewBool(true), nil
		}
	}
	return jinja.NewBool(false), nil
}

func cut(s string, args []jinja.Value, trim func(s, affix string) string) (jinja.Value, error) {
	a, err := text(args, 0)
	return jinja.NewString(trim(s, a)), err
}

func texts(parts []string) jinja.Value {
	items := make([]jinja.Value, len(parts))
	for i, p := range parts {
		items[i] = jinja.NewString(p)
	}
	return jinja.NewList(items)
}

// split is str.split(sep=None, maxsplit=-1), or str.rsplit.
func split(s string, args []jinja.Value, right bool) (jinja.Value, error) {
	most := int64(-1)
	if len(args) > 1 {
		if !args[1].IsInt() {
			return jinja.None(), errors.New("maxsplit is not an integer")
		}
		most = args[1].AsInt()
	}
	if len(args) == 0 || args[0].IsNone() {
		if most >= 0 {
			return jinja.None(), errors.New("maxsplit without a separator is not supported")
		}
		return texts(strings.Fields(s)), nil
	}
	sep, err := text(args, 0)
	if err != nil {
		return jinja.None(), err
	}
	if sep == "" {
		return jinja.None(), errors.New("separator is empty")
	}
	parts := strings.Split(s, sep)
	if most >= 0 && most < int64(len(parts)-1) {
		k := int(most)
		if right {
			n := len(parts) - k
			parts = append([]string{strings.Join(parts[:n], sep)}, parts[n:]...)
		} else {
			parts = append(parts[:k:k], strings.Join(parts[k:], sep))
		}
	}
	return texts(parts), nil
}

func splitLines(s string, args []jinja.Value) (jinja.Value, error) {
	if len(args) > 0 {
		return jinja.None(), errors.New("keepends is not supported")
	}
	s = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(s)
	if s == "" {
		return jinja.NewList(nil), nil
	}
	return texts(strings.Split(strings.TrimSuffix(s, "\n"), "\n")), nil
}

// find counts in characters.
func find(s string, args []jinja.Value, index func(s, part string) int) (jinja.Value, error) {
	part, err := text(args, 0)
	if err != nil || len(args) > 1 {
		return jinja.None(), cmp.Or(err, errors.New("want one argument"))
	}
	at := index(s, part)
	if at > 0 {
		at = utf8.RuneCountInString(s[:at])
	}
	return jinja.NewInt(int64(at)), nil
}

func join(s string, args []jinja.Value) (jinja.Value, error) {
	if len(args) != 1 {
		return jinja.None(), errors.New("want one argument")
	}
	items, err := items(args[0])
	if err != nil {
		return jinja.None(), err
	}
	parts := make([]string, len(items))
	for i := range items {
		if parts[i], err = text(items, i); err != nil {
			return jinja.None(), err
		}
	}
	return jinja.NewString(strings.Join(parts, s)), nil
}

func every(s string, is func(rune) bool) jinja.Value {
	return jinja.NewBool(s != "" && strings.IndexFunc(s, func(r rune) bool { return !is(r) }) < 0)
}

func keys(d *jinja.Dict) jinja.Value { return texts(d.Keys) }

// items returns what iterating over v gives.
func items(v jinja.Value) ([]jinja.Value, error) {
	switch {
	case v.IsList():
		return v.AsList().Items, nil
	case v.IsDict():
		return keys(v.AsDict()).AsList().Items, nil
	case v.IsString():
		var items []jinja.Value
		for _, r := range v.AsString() {
			items = append(items, jinja.NewString(string(r)))
		}
		return items, nil
	case v.IsUndefined():
		return nil, nil
	}
	return nil, fmt.Errorf("is applied to %s, which has no items", kindName(v))
}

func filterFirst(args []jinja.Value, _ map[string]jinja.Value) (jinja.Value, error) {
	all, err := items(args[0])
	if err != nil || len(all) == 0 {
		return jinja.Undefined(), err
	}
	return all[0], nil
}

func filterLast(args []jinja.Value, _ map[string]jinja.Value) (jinja.Value, error) {
	all, err := items(args[0])
	if err != nil || len(all) == 0 {
		return jinja.Undefined(), err
	}
	return all[len(all)-1], nil
}

func filterList(args []jinja.Value, _ map[string]jinja.Value) (jinja.Value, error) {
	all, err := items(args[0])
	return jinja.NewList(slices.Clone(all)), err
}

// attribute returns what a dotted name leads to.
func attribute(v jinja.Value, name string) jinja.Value {
	for part := range strings.SplitSeq(name, ".") {
		next := jinja.Undefined()
		if v.IsDict() {
			next, _ = v.AsDict().Get(part)
		} else if i, err := strconv.Atoi(part); err == nil && v.IsList() && i >= 0 && i < v.AsList().Len() {
			next = v.AsList().Get(i)
		}
		v = next
	}
	return v
}

// filterMap is map(attribute=…) or map(name of a filter without arguments).
func filterMap(args []jinja.Value, kwargs map[string]jinja.Value) (jinja.Value, error) {
	all, err := items(args[0])
	if err != nil {
		return jinja.None(), err
	}
	var f func(jinja.Value) (jinja.Value, error)
	if name, ok := kwargs["attribute"]; ok && len(args) == 1 {
		if !name.IsString() {
			return jinja.None(), errors.New("attribute is not a text")
		}
		f = func(v jinja.Value) (jinja.Value, error) {
			v = attribute(v, name.AsString())
			if d, ok := kwargs["default"]; ok && v.IsUndefined() {
				v = d
			}
			return v, nil
		}
	} else {
		name, err := text(args, 1)
		if err != nil || len(args) > 2 || len(kwargs) > 0 {
			return jinja.None(), errors.New("want attribute=…, or the name of a filter alone")
		}
		change := map[string]func(string) string{"upper": strings.ToUpper, "lower": strings.ToLower, "trim": strings.TrimSpace}[name]
		own := ownFilters[name]
		switch {
		case change != nil:
			f = func(v jinja.Value) (jinja.Value, error) {
				s, err := spelling(v, false)
				return jinja.NewString(change(s)), err
			}
		case own != nil:
			f = func(v jinja.Value) (jinja.Value, error) { return own([]jinja.Value{v}, nil) }
		case name == "length":
			f = func(v jinja.Value) (jinja.Value, error) {
				all, err := items(v)
				return jinja.NewInt(int64(len(all))), err
			}
		default:
			return jinja.None(), fmt.Errorf("with the filter %s is not supported", name)
		}
	}
	out := make([]jinja.Value, len(all))
	for i, v := range all {
		if out[i], err = f(v); err != nil {
			return jinja.None(), err
		}
	}
	return jinja.NewList(out), nil
}

func init() { ownFilters["map"] = filterMap } // which looks filters up

// filterSelect returns select, reject, selectattr or rejectattr.
func filterSelect(attr, keep bool) function {
	return func(args []jinja.Value, _ map[string]jinja.Value) (jinja.Value, error) {
		all, err := items(args[0])
		if err != nil {
			return jinja.None(), err
		}
		args = args[1:]
		var name string
		if attr {
			if name, err = text(args, 0); err != nil {
				return jinja.None(), err
			}
			args = args[1:]
		}
		test := "truth"
		if len(args) > 0 {
			if test, err = text(args, 0); err != nil {
				return jinja.None(), err
			}
			args = args[1:]
		}
		var out []jinja.Value
		for _, v := range all {
			tested := v
			if attr {
				tested = attribute(v, name)
			}
			ok, err := holds(test, tested, args)
			if err != nil {
				return jinja.None(), err
			}
			if ok == keep {
				out = append(out, v)
			}
		}
		return jinja.NewList(out), nil
	}
}

// holds reports whether a test of Jinja2's holds for v.
func holds(test string, v jinja.Value, args []jinja.Value) (bool, error) {
	var arg jinja.Value
	switch test {
	case "==", "eq", "equalto", "!=", "ne", "in":
		if len(args) != 1 {
			return false, fmt.Errorf("test %s has %d arguments; want one", test, len(args))
		}
		arg = args[0]
	default:
		if len(args) != 0 {
			return false, fmt.Errorf("test %s with arguments is not supported", test)
		}
	}
	switch test {
	case "truth":
		return v.IsTruthy(), nil
	case "defined":
		return !v.IsUndefined(), nil
	case "undefined":
		return v.IsUndefined(), nil
	case "none":
		return v.IsNone(), nil
	case "string":
		return v.IsString(), nil
	case "mapping":
		return v.IsDict(), nil
	case "iterable", "sequence":
		return v.IsString() || v.IsDict() || v.IsList(), nil
	case "number":
		return v.IsNumber() || v.IsBool(), nil
	case "boolean":
		return v.IsBool(), nil
	case "true":
		return v.IsBool() && v.AsBool(), nil
	case "false":
		return v.IsBool() && !v.AsBool(), nil
	case "==", "eq", "equalto":
		return v.Equals(arg), nil
	case "!=", "ne":
		return !v.Equals(arg), nil
	case "in":
		if arg.IsString() {
			return v.IsString() && strings.Contains(arg.AsString(), v.AsString()), nil
		}
		all, err := items(arg)
		return slices.ContainsFunc(all, v.Equals), err
	}
	return false, fmt.Errorf("test %s is not supported", test)
}

// filterSort is sort(reverse=False, case_sensitive=False, attribute=None) of texts or of numbers.
func filterSort(args []jinja.Value, kwargs map[string]jinja.Value) (jinja.Value, error) {
	all, err := items(args[0])
	if err != nil {
		return jinja.None(), err
	}
	var reverse, exact bool
	var name string
	for k, v := range kwargs {
		switch {
		case k == "reverse":
			reverse = v.IsTruthy()
		case k == "case_sensitive":
			exact = v.IsTruthy()
		case k == "attribute" && v.IsString():
			name = v.AsString()
		default:
			return jinja.None(), fmt.Errorf("%s is not supported", k)
		}
	}
	if len(args) > 1 {
		reverse = args[1].IsTruthy()
	}
	key := func(v jinja.Value) jinja.Value {
		if name != "" {
			v = attribute(v, name)
		}
		if v.IsString() && !exact {
			v = jinja.NewString(strings.ToLower(v.AsString()))
		}
		return v
	}
	all = slices.Clone(all)
	slices.SortStableFunc(all, func(a, b jinja.Value) int {
		a, b = key(a), key(b)
		order := 0
		switch {
		case a.IsString() && b.IsString():
			order = strings.Compare(a.AsString(), b.AsString())
		case a.IsNumber() && b.IsNumber():
			order = cmp.Compare(float(a), float(b))
		default:
			err = fmt.Errorf("cannot compare %s with %s", kindName(a), kindName(b))
		}
		if reverse {
			return -order
		}
		return order
	})
	return jinja.NewList(all), err
}

func float(v jinja.Value) float64 {
	if v.IsInt() {
		return float64(v.AsInt())
	}
	return v.AsFloat()
}

func kindName(v jinja.Value) string {
	switch {
	case v.IsUndefined():
		return "something undefined"
	case v.IsNone():
		return "none"
	case v.IsBool():
		return "a truth value"
	case v.IsNumber():
		return "a number"
	case v.IsString():
		return "a text"
	case v.IsList():
		return "a list"
	case v.IsDict():
		return "a dictionary"
	}
	return "a function"
}

// printed is what {{ v }} prints.
func printed(v jinja.Value) (jinja.Value, error) {
	if v.IsString() {
		return v, nil
	}
	s, err := spelling(v, false)
	return jinja.NewString(s), err
}

// spelling returns str(v), or repr(v), as Python has them.
func spelling(v jinja.Value, repr bool) (string, error) {
	switch {
	case v.IsUndefined() && !repr:
		return "", nil
	case v.IsUndefined():
		return "Undefined", nil
	case v.IsNone():
		return "None", nil
	case v.IsBool():
		if v.AsBool() {
			return "True", nil
		}
		return "False", nil
	case v.IsInt():
		return strconv.FormatInt(v.AsInt(), 10), nil
	case v.IsFloat():
		return floatText(v.AsFloat()), nil
	case v.IsString() && !repr:
		return v.AsString(), nil
	case v.IsString():
		return textRepr(v.AsString()), nil
	case v.IsList(), v.IsDict():
		var b strings.Builder
		list := v.IsList()
		var all []jinja.Value
		var names []string
		if list {
			all = v.AsList().Items
			b.WriteByte('[')
		} else {
			names = v.AsDict().Keys
			b.WriteByte('{')
			for _, k := range names {
				all = append(all, v.AsDict().Data[k])
			}
		}
		for i, item := range all {
			if i > 0 {
				b.WriteString(", ")
			}
			if !list {
				b.WriteString(textRepr(names[i]) + ": ")
			}
			s, err := spelling(item, true)
			if err != nil {
				return "", err
			}
			b.WriteString(s)
		}
		if list {
			b.WriteByte(']')
		} else {
			b.WriteByte('}')
		}
		return b.String(), nil
	}
	return "", fmt.Errorf("%s cannot be printed", kindName(v))
}

// textRepr is Python's repr of a text.
func textRepr(s string) string {
	q := byte('\'')
	if strings.Contains(s, "'") && !strings.Contains(s, `"`) {
		q = '"'
	}
	var b strings.Builder
	b.WriteByte(q)
	for _, r := range s {
		switch {
		case r == rune(q) || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r == '\n':
			b.WriteString(`\n`)
		case r == '\r':
			b.WriteString(`\r`)
		case r == '\t':
			b.WriteString(`\t`)
		case r == ' ' || unicode.IsPrint(r):
			b.WriteRune(r)
		case r < 0x100:
			fmt.Fprintf(&b, `\x%02x`, r)
		case r < 0x10000:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			fmt.Fprintf(&b, `\U%08x`, r)
		}
	}
	b.WriteByte(q)
	return b.String()
}

// floatText is Python's repr of a number in double precision.
func floatText(f float64) string {
	switch {
	case math.IsNaN(f):
		return "nan"
	case math.IsInf(f, 1):
		return "inf"
	case math.IsInf(f, -1):
		return "-inf"
	}
	e := strconv.FormatFloat(f, 'e', -1, 64)
	if exponent, _ := strconv.Atoi(e[strings.IndexByte(e, 'e')+1:]); exponent < -4 || exponent >= 16 {
		return e
	}
	s := strconv.FormatFloat(f, 'f', -1, 64)
	if !strings.Contains(s, ".") {
		s += ".0"
	}
	return s
}

// filterJSON is tojson(ensure_ascii=False, indent=None, separators=None, sort_keys=False).
func filterJSON(args []jinja.Value, kwargs map[string]jinja.Value) (jinja.Value, error) {
	for i, name := range []string{"ensure_ascii", "indent", "separators", "sort_keys"} {
		if i+1 < len(args) {
			if kwargs == nil {
				kwargs = map[string]jinja.Value{}
			}
			kwargs[name] = args[i+1]
		}
	}
	w := jsonWriter{item: ", ", key: ": "}
	for name, v := range kwargs {
		switch {
		case name == "ensure_ascii":
			w.ascii = v.IsTruthy()
		case name == "sort_keys":
			w.sorted = v.IsTruthy()
		case name == "indent" && v.IsInt() && v.AsInt() <= 100:
			w.lines, w.indent = true, strings.Repeat(" ", int(max(0, v.AsInt())))
		case name == "indent" && v.IsString():
			w.lines, w.indent = true, v.AsString()
		case name == "separators" && v.IsList() && v.AsList().Len() == 2 && v.AsList().Get(0).IsString() && v.AsList().Get(1).IsString():
		case (name == "indent" || name == "separators") && v.IsNone():
		default:
			return jinja.None(), fmt.Errorf("%s is not supported", name)
		}
	}
	if w.lines {
		w.item = ","
	}
	if v := kwargs["separators"]; v.IsList() {
		w.item, w.key = v.AsList().Get(0).AsString(), v.AsList().Get(1).AsString()
	}
	if err := w.value(args[0], "\n"); err != nil {
		return jinja.None(), err
	}
	return jinja.NewString(w.String()), nil
}

// A jsonWriter writes as Python's json.dumps does.
type jsonWriter struct {
	strings.Builder
	item, key     string // separators
	lines         bool   // each item on its own
	indent        string
	ascii, sorted bool
}

func (w *jsonWriter) value(v jinja.Value, line string) error {
	switch {
	case v.IsNone():
		w.WriteString("null")
	case v.IsBool():
		w.WriteString(strconv.FormatBool(v.AsBool()))
	case v.IsFloat():
		w.WriteString(strings.NewReplacer("nan", "NaN", "inf", "Infinity").Replace(floatText(v.AsFloat())))
	case v.IsInt():
		w.WriteString(strconv.FormatInt(v.AsInt(), 10))
	case v.IsString():
		w.text(v.AsString())
	case v.IsList():
		return w.items('[', ']', line, v.AsList().Len(), func(i int, line string) error { return w.value(v.AsList().Get(i), line) })
	case v.IsDict():
		d := v.AsDict()
		names := d.Keys
		if w.sorted {
			names = slices.Sorted(slices.Values(names))
		}
		return w.items('{', '}', line, len(names), func(i int, line string) error {
			w.text(names[i])
			w.WriteString(w.key)
			return w.value(d.Data[names[i]], line)
		})
	default:
		return fmt.Errorf("%s has no JSON", kindName(v))
	}
	return nil
}

// items writes n items in brackets; line is what begins a line at this depth.
func (w *jsonWriter) items(open, end byte, line string, n int, item func(i int, line string) error) error {
	w.WriteByte(open)
	for i := range n {
		if i > 0 {
			w.WriteString(w.item)
		}
		if w.lines {
			w.WriteString(line + w.indent)
		}
		if err := item(i, line+w.indent); err != nil {
			return err
		}
	}
	if w.lines && n > 0 {
		w.WriteString(line)
	}
	w.WriteByte(end)
	return nil
}

func (w *jsonWriter) text(s string) {
	w.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			w.WriteByte('\\')
			w.WriteRune(r)
		case r == '\n':
			w.WriteString(`\n`)
		case r == '\r':
			w.WriteString(`\r`)
		case r == '\t':
			w.WriteString(`\t`)
		case r == '\b':
			w.WriteString(`\b`)
		case r == '\f':
			w.WriteString(`\f`)
		case r >= 0x10000 && w.ascii:
			fmt.Fprintf(w, `\u%04x\u%04x`, 0xd800+(r-0x10000)>>10, 0xdc00+(r-0x10000)&0x3ff)
		case r < ' ' || r > '~' && w.ascii:
			fmt.Fprintf(w, `\u%04x`, r)
		default:
			w.WriteRune(r)
		}
	}
	w.WriteByte('"')
}
