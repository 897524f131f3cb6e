package chat

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"
)

func TestMain(m *testing.M) {
	Main()
	m.Run()
}

// patient are limits for a busy machine.
var patient = Limits{Time: 30 * time.Second}

// goldenCase is one that testdata/golden.py rendered with Jinja2.
type goldenCase struct {
	Name, Template, Source string
	Messages               []Message
	Tools                  json.RawMessage
	AddGenerationPrompt    bool `json:"add_generation_prompt"`
	Variables              map[string]json.RawMessage
	Want, Error            string
}

func readGolden(t testing.TB) (now time.Time, tokens map[string]string, cases []goldenCase) {
	t.Helper()
	data, err := os.ReadFile("testdata/golden.json")
	if err != nil {
		t.Fatal(err)
	}
	var golden struct {
		Now    time.Time
		Tokens map[string]string
		Cases  []goldenCase
	}
	if err := json.Unmarshal(data, &golden); err != nil {
		t.Fatal(err)
	}
	return golden.Now, golden.Tokens, golden.Cases
}

// Templates in the shape of those that model families publish, and small ones that show one property of the language each,
// render as with Jinja2; where that raises, Render is an error with the same message.
func TestGolden(t *testing.T) {
	now, tokens, cases := readGolden(t)
	for _, k := range cases {
		t.Run(k.Name, func(t *testing.T) {
			t.Parallel()
			if k.Template != "" {
				data, err := os.ReadFile(filepath.Join("testdata", k.Template))
				if err != nil {
					t.Fatal(err)
				}
				k.Source = string(data)
			}
			in := Input{Messages: k.Messages, Tools: k.Tools, AddGenerationPrompt: k.AddGenerationPrompt, Now: now, Variables: map[string]any{}}
			for name, v := range k.Variables {
				in.Variables[name] = v
			}
			got, err := (&Template{Source: k.Source, Tokens: tokens, Limits: patient}).Render(t.Context(), in)
			if k.Error != "" {
				if err == nil || !strings.HasSuffix(err.Error(), k.Error) {
					t.Fatalf("got %q, %v; want the error %q", got, err, k.Error)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if d := cmp.Diff(k.Want, got); d != "" {
				t.Errorf("%s\nof %s\n(-Jinja2 +ours)\n%s", k.Name, k.Source, d)
			}
		})
	}
}

// Whatever a template does, Render returns an error, soon, and the process lives.
func TestHostile(t *testing.T) {
	long := strings.Repeat
	limits := Limits{Time: 10 * time.Second, Memory: 192 << 20, Output: 1 << 20}
	if raceEnabled {
		limits.Time = time.Second
	}
	quick := limits
	quick.Time = 300 * time.Millisecond
	small := limits
	small.Memory = 48 << 20
	for _, k := range []struct {
		name   string
		source string
		limits Limits
		want   string
	}{
		{"recursive macro", `{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}`, limits, "recurses without end"},
		{"macros that call each other", `{% macro f() %}{{ g() }}{% endmacro %}{% macro g() %}{{ f() }}{% endmacro %}{{ g() }}`, limits, "recurses without end"},
		{"a list that holds itself", `{% set l = [1] %}{% set _ = l.append(l) %}{{ l }}`, limits, "recurses without end"},
		{"a list that holds itself, as JSON", `{% set l = [1] %}{% set _ = l.append(l) %}{{ l | tojson }}`, limits, "recurses without end"},
		{"range", `{% for i in range(30000000) %}{% endfor %}`, limits, "range: has more than 100000 numbers"},
		{"ranges in ranges", `{% for i in range(99999) %}{% for j in range(99999) %}{% for k in range(99999) %}{% endfor %}{% endfor %}{% endfor %}`, quick, "takes longer than 300ms"},
		{"a list that grows as it is walked", `{% set l = [1] %}{% for i in range(99999) %}{% for x in l %}{% set _ = l.append(x) %}{% endfor %}{% endfor %}`, quick, ""},
		{"much output", `{% for i in range(99999) %}{{ 'some more than twenty bytes' }}{% endfor %}`, limits, "want at most 1048576"},
		{"endless output", `{% for i in range(99999) %}{% for j in range(99999) %}{{ 'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx' }}{% endfor %}{% endfor %}`, small, "memory"},
		{"doubling", `{% set ns = namespace(s='x') %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}`, limits, "memory"},
		{"doubling a list", `{% set ns = namespace(s=[1]) %}{% for i in range(64) %}{% set ns.s = ns.s + ns.s %}{% endfor %}`, limits, "memory"},
		{"a long text", `{{ 'x' * 100000000000 }}`, limits, "memory"},
		{"too long a text", `{{ ('xxxx' * 4611686018427387904) }}`, limits, ""},
		{"a negative count", `{{ 'x' * -1 }}`, limits, ""},
		{"a wide indent", `{{ 'a\nb' | indent(100000000000) }}`, limits, "memory"},
		{"a wide indent of JSON", `{{ [1] | tojson(indent=100000000000) }}`, limits, "not supported"},
		{"replace", `{{ ('x' * 1000000) | replace('x', 'y' * 1000000) }}`, limits, "memory"},
		{"deep brackets", `{{ ` + long("(", 400_000) + long(")", 400_000) + ` }}`, limits, "recurses without end"},
		{"deep nots", `{{ ` + long("not ", 250_000) + `1 }}`, limits, "recurses without end"},
		{"deep blocks", long(`{% if 1 %}`, 40_000) + long(`{% endif %}`, 40_000), quick, ""},
		{"deep sets", long(`{% set x %}`, 40_000) + long(`{% endset %}`, 40_000), quick, ""},
		{"include", `{% include "a" %}`, limits, "line 1: statement is {% include %}"},
		{"import", "\n\n{%- import 'a' as a %}", limits, "line 3: statement is {% import %}"},
		{"extends", `{% extends "a" %}`, limits, "statement is {% extends %}"},
		{"unclosed if", "\n{% if x %}a", limits, "line 2: {% if %} has no end"},
		{"unclosed output", "\n{{ x", limits, "line 2: a tag has no end; want }}"},
		{"unclosed string", `{{ 'x }}`, limits, "a string has no end"},
		{"unclosed comment", `{# x`, limits, "a comment has no end"},
		{"unclosed raw", `{% raw %} {{ x }}`, limits, "{% raw %} has no end"},
		{"unclosed bracket", `{{ (1 }}`, limits, "closes nothing"},
		{"crossed blocks", `{% if x %}{% for y in z %}{% endif %}{% endfor %}`, limits, "{% endif %} ends nothing"},
		{"stray end", `{% endfor %}`, limits, "{% endfor %} ends nothing"},
		{"stray else", `{% else %}`, limits, "{% else %} stands in no block"},
		{"stray break", `{% break %}`, limits, "{% break %} stands in no loop"},
		{"no keyword", `a{% %}b`, limits, "a statement has no keyword"},
		{"no expression", `{{ }}`, limits, "{{ }} is empty"},
		{"a character of another language", `{{ a ? b }}`, limits, `character is '?'`},
		{"two expressions", "\n\n{{ a b }}", limits, "line 3: "},
		{"unknown filter", `{{ 'x' | nope }}`, limits, `unknown filter "nope"`},
		{"unknown test", `{{ 'x' is nope }}`, limits, `unknown test "nope"`},
		{"unknown method", `{{ 'x'.nope() }}`, limits, "is not callable"},
		{"method of nothing", `{{ nope.split(',') }}`, limits, "split: is a method of texts, not of something undefined"},
		{"unknown of a loop", `{% for x in [1] %}{{ loop.depth }}{% endfor %}`, limits, "loop.depth is not supported"},
		{"recursive loop", `{% for x in [1] recursive %}{{ loop(x) }}{% endfor %}`, limits, "recursive %} is not supported"},
		{"unpacking", `{% set a, b = 1, 2 %}`, limits, "{% set %} has more than a name before ="},
		{"set by a filter", `{% set a | upper %}x{% endset %}`, limits, "{% set %} has more than a name before ="},
		{"a chain of filters as a block", `{% filter upper | trim %}x{% endfilter %}`, limits, "{% filter %} is not followed by one name"},
		{"a comma in a parameter", `{% macro f(a="x,y") %}{% endmacro %}`, limits, "comma in its default"},
		{"a name of ours", `{{ anchor__print() }}`, limits, "names with anchor__ are ours"},
		{"engine failure", `{{ 'a' | batch(-1) }}{{ 1 | round('x') }}{% call range() %}{% endcall %}`, limits, "range: want one to three integers"},
		{"ten megabytes", long("x", 10<<20), limits, "has 10485760 bytes; want at most 1048576"},
		{"not UTF-8", "\xff", limits, "is not UTF-8"},
		{"empty", "", limits, "no chat template"},
		{"refusal", `{{ raise_exception('because') }}`, limits, "chat template: the template refuses: because"},
		{"no date", `{{ strftime_now('%Q') }}`, limits, "its directive %Q is not supported"},
	} {
		t.Run(k.name, func(t *testing.T) {
			t.Parallel()
			_, err := (&Template{Source: k.source, Limits: k.limits}).Render(t.Context(), Input{})
			if raceEnabled && err != nil {
				return // the detector has limits of its own, and is slow
			}
			if (k.name == "deep blocks" || k.name == "deep sets") && err == nil {
				return // so many may be all right
			}
			if err == nil || !strings.Contains(err.Error(), k.want) || strings.ContainsRune(err.Error(), '\n') {
				t.Errorf("got the error %v; want one line with %q", err, k.want)
			}
		})
	}
}

// The end of the context ends the rendering.
func TestCancel(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := (&Template{Source: "x"}).Render(ctx, Input{})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
}

// What the child gets is the template and its input; it sees no environment.
func TestNothingLeaks(t *testing.T) {
	t.Setenv("SECRET", "told")
	got, err := (&Template{Source: "{{ SECRET }}{{ environ }}{{ self }}{{ __import__ }}.", Limits: patient}).Render(t.Context(), Input{})
	if err != nil || got != "." {
		t.Errorf("got %q, %v", got, err)
	}
}

// A program that does not call Main is told so.
func TestWithoutMain(t *testing.T) {
	mainCalled.Store(false)
	defer mainCalled.Store(true)
	_, err := (&Template{Source: "x"}).Render(t.Context(), Input{})
	if err == nil || !strings.Contains(err.Error(), "does not call chat.Main") {
		t.Errorf("got %v", err)
	}
}

// The template and special tokens of a directory are found where model publishers put them.
func TestLoad(t *testing.T) {
	for _, k := range []struct {
		name  string
		files map[string]string
		want  *Template
		err   string
	}{
		{"text", map[string]string{"tokenizer_config.json": `{"chat_template": "a", "bos_token": "<s>", "eos_token": {"content": "</s>", "lstrip": false}, "pad_token": null, "add_bos_token": true}`},
			&Template{Name: "tokenizer_config.json", Source: "a", Tokens: map[string]string{"bos_token": "<s>", "eos_token": "</s>"}}, ""},
		{"list", map[string]string{"tokenizer_config.json": `{"chat_template": [{"name": "tool_use", "template": "b"}, {"name": "rag", "template": "c"}, {"name": "default", "template": "a"}]}`},
			&Template{Name: "tokenizer_config.json", Source: "a", ToolSource: "b", Tokens: map[string]string{}}, ""},
		{"file", map[string]string{"chat_template.jinja": "f\n", "tokenizer_config.json": `{"chat_template": "a", "bos_token": "<s>"}`},
			&Template{Name: "chat_template.jinja", Source: "f\n", Tokens: map[string]string{"bos_token": "<s>"}}, ""},
		{"file alone", map[string]string{"chat_template.jinja": "f", "additional_chat_templates/tool_use.jinja": "u"},
			&Template{Name: "chat_template.jinja", Source: "f", ToolSource: "u"}, ""},
		{"none", map[string]string{"tokenizer_config.json": `{"bos_token": "<s>"}`}, nil, "no chat template"},
		{"null", map[string]string{"tokenizer_config.json": `{"chat_template": null}`}, nil, "no chat template"},
		{"nothing", nil, nil, "no chat template"},
		{"no default", map[string]string{"tokenizer_config.json": `{"chat_template": [{"name": "rag", "template": "c"}]}`}, nil, "none named default"},
		{"number", map[string]string{"tokenizer_config.json": `{"chat_template": 7}`}, nil, `chat_template is "7"; want a text`},
		{"no JSON", map[string]string{"tokenizer_config.json": `{`}, nil, "tokenizer_config.json: unexpected end"},
		{"too long", map[string]string{"chat_template.jinja": strings.Repeat("x", MaxSource+1)}, nil, "has more than 1048576 bytes"},
	} {
		t.Run(k.name, func(t *testing.T) {
			dir := t.TempDir()
			for name, text := range k.files {
				path := filepath.Join(dir, name)
				if err := os.MkdirAll(filepath.Dir(path), 0o777); err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(path, []byte(text), 0o666); err != nil {
					t.Fatal(err)
				}
			}
			got, err := Load(dir)
			if k.err != "" {
				if err == nil || !strings.Contains(err.Error(), k.err) {
					t.Fatalf("got %+v, %v; want the error %q", got, err, k.err)
				}
				if k.err == ErrNoTemplate.Error() && !errors.Is(err, ErrNoTemplate) {
					t.Errorf("%v is no ErrNoTemplate", err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			got.Name = filepath.Base(got.Name)
			if d := cmp.Diff(k.want, got); d != "" {
				t.Errorf("(-want +got)\n%s", d)
			}
		})
	}
}

// A conversation with tools takes the template for those, if there is one.
func TestToolSource(t *testing.T) {
	tmpl := &Template{Source: "plain", ToolSource: "{{ tools | length }} tools", Limits: patient}
	for tools, want := range map[string]string{"": "plain", "[{}, {}]": "2 tools"} {
		got, err := tmpl.Render(t.Context(), Input{Tools: json.RawMessage(tools)})
		if err != nil || got != want {
			t.Errorf("tools %q: got %q, %v; want %q", tools, got, err, want)
		}
	}
}

// Text without a tag is rendered as it is, but for its line ends and the last of them.
func TestPlainText(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringMatching(`[ -z\n\t"\\\x{e9}\x{65e5}]*`).Draw(t, "text")
		got, err := renderHere(request{Source: s, Variables: json.RawMessage("{}")})
		if err != nil || got != strings.TrimSuffix(s, "\n") {
			t.Fatalf("%q gives %q, %v", s, got, err)
		}
	})
}

// What a literal in a template means does not depend on what is in it.
func TestLiterals(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := strings.ToValidUTF8(rapid.String().Draw(t, "text"), "")
		var b strings.Builder
		quote(&b, s)
		for _, source := range []string{"{{" + textRepr(s) + "}}", "{{ v }}"} {
			data, err := json.Marshal(map[string]string{"v": s})
			if err != nil {
				t.Fatal(err)
			}
			got, err := renderHere(request{Source: source, Variables: data})
			if err != nil || got != s {
				t.Fatalf("%q in %q gives %q, %v", s, source, got, err)
			}
		}
	})
}

// Any text as a template gives a template or an error, and never a panic; and no tag loses its line.
func FuzzRewrite(f *testing.F) {
	_, _, cases := readGolden(f)
	for _, k := range cases {
		if k.Source != "" {
			f.Add(k.Source)
		}
	}
	f.Add("{%- raw -%}{{{#-#}{%+endraw+%}{{-'\\u12'-}}")
	f.Fuzz(func(t *testing.T, source string) {
		out, err := rewrite(source)
		if err != nil {
			return
		}
		want := strings.Count(strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(source), "\n")
		got := strings.Count(out, "\n")
		if strings.HasSuffix(source, "\n") || strings.HasSuffix(source, "\r") {
			want--
		}
		if got != want {
			t.Errorf("%q has %d line ends, %q has %d", source, want, out, got)
		}
	})
}

// Any text as tokenizer_config.json gives a template or an error, and never a panic.
func FuzzParseConfig(f *testing.F) {
	f.Add([]byte(`{"chat_template": [{"name": "default", "template": "a"}], "eos_token": {"content": "b"}}`))
	f.Add([]byte(`{"chat_template": "a", "bos_token": "<s>"}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		tmpl, err := ParseConfig(data)
		if err == nil && tmpl.Source == "" {
			t.Error("a template without a source")
		}
	})
}

// Any template, confined, gives a prompt or an error.
func FuzzRender(f *testing.F) {
	_, _, cases := readGolden(f)
	for _, k := range cases[len(cases)-3:] {
		f.Add(k.Source)
	}
	f.Fuzz(func(t *testing.T, source string) {
		(&Template{Source: source, Limits: Limits{Time: time.Second, Memory: 64 << 20}}).Render(t.Context(), Input{
			Messages: []Message{{Role: "user", Content: "x"}},
		})
	})
}

func BenchmarkRender(b *testing.B) {
	data, err := os.ReadFile("testdata/templates/qwen3.jinja")
	if err != nil {
		b.Fatal(err)
	}
	for _, size := range []int{1, 1 << 20} {
		b.Run(fmt.Sprint(size), func(b *testing.B) {
			in := Input{Messages: []Message{{Role: "user", Content: strings.Repeat("x", size)}}, AddGenerationPrompt: true}
			for b.Loop() {
				if _, err := (&Template{Source: string(data), Limits: patient}).Render(b.Context(), in); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
