"""Renders the cases of golden.json with Jinja2, as Hugging Face's apply_chat_template sets it up, and writes the outputs to it.

Run: python3 golden.py (with Jinja2 3.1). Small templates that show one property of the language stand in cases below.
"""

import datetime
import json
import pathlib

import jinja2
import jinja2.ext
import jinja2.nodes
from jinja2.sandbox import ImmutableSandboxedEnvironment

HERE = pathlib.Path(__file__).parent
NOW = datetime.datetime(2026, 3, 7, 9, 5, 6)


class Generation(jinja2.ext.Extension):
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("body"), [], [], body).set_lineno(line)

    def body(self, caller):
        return caller()


def refuse(message):
    raise jinja2.TemplateError(message)


env = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, Generation])
env.filters["tojson"] = lambda x, ensure_ascii=False, indent=None, separators=None, sort_keys=False: json.dumps(
    x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys
)
env.globals["raise_exception"] = refuse
env.globals["strftime_now"] = NOW.strftime

WEATHER = {
    "type": "function",
    "function": {
        "name": "get_weather",
        "description": "Weather at a place: <now> & \"later\", in °C",
        "parameters": {
            "type": "object",
            "properties": {
                "place": {"type": "string", "enum": ["Wien", "Zürich"]},
                "days": {"type": "integer", "minimum": 1, "default": 1.0},
                "items": {"type": "array", "items": {"type": "number"}, "examples": []},
            },
            "required": ["place"],
        },
    },
}
ALERT = {"type": "function", "function": {"name": "alert", "description": "Ring", "parameters": {}}}
HELLO = [{"role": "user", "content": "Hello\n  there  "}]
TALK = [
    {"role": "system", "content": "  Be brief.\n"},
    {"role": "user", "content": "Who wrote \"War and Peace\"?"},
    {"role": "assistant", "content": "<think>\nTolstoy, \\n surely.\n</think>\n\nTolstoy. "},
    {"role": "user", "content": "{{ 7 * 7 }} {% raw %} <|im_end|> … 日本語 'x'"},
]
CALL = {"type": "function", "id": "abcdefghi", "function": {"name": "get_weather", "arguments": {"place": "Wien", "days": 2}}}
TOOLS = [
    {"role": "user", "content": "Weather in Wien?"},
    {"role": "assistant", "content": "", "tool_calls": [CALL]},
    {"role": "tool", "content": "{\"t\": 21.5}", "tool_call_id": "abcdefghi", "name": "get_weather"},
    {"role": "assistant", "content": "21.5 °C"},
    {"role": "user", "content": "And now?"},
]
TWICE = TOOLS[:1] + [{"role": "assistant", "content": "Let me look", "reasoning_content": "\nhm\n", "tool_calls": [CALL, CALL]}, TOOLS[2], TOOLS[2]]
TOKENS = {"bos_token": "<s>", "eos_token": "</s>"}

conversations = {
    "hello": {"messages": HELLO},
    "hello, go on": {"messages": HELLO, "add_generation_prompt": True},
    "talk": {"messages": TALK, "add_generation_prompt": True},
    "talk without a system": {"messages": TALK[1:], "add_generation_prompt": True},
    "two users": {"messages": HELLO + HELLO, "add_generation_prompt": True},
    "tools": {"messages": TOOLS, "tools": [WEATHER, ALERT], "add_generation_prompt": True},
    "calls": {"messages": TWICE, "tools": [WEATHER], "add_generation_prompt": True},
    "tools at the top": {"messages": TOOLS[:1], "tools": [WEATHER], "variables": {"tools_in_user_message": False}},
    "no thinking": {"messages": HELLO, "variables": {"enable_thinking": False}, "add_generation_prompt": True},
}

# One property of the language each; v is a variable.
V = {
    "n": None, "t": True, "i": 7, "f": 1.0, "g": 1e16, "h": 0.00001, "s": "Äb c\tb", "e": "", "l": [3, "x", None, 2.5],
    "d": {"z": 1, "a": {"items": [1], "k": "it's"}, "items": "own"}, "u": ["b", "A", "c"],
    "p": [{"k": 2, "on": True}, {"k": 1, "on": False}, {"q": 0}],
}
small = [
    "a {{- 'x' }} b {{ 'y' -}} c",
    "User: {{ v.s }}{%- if v.t %} yes {%- endif %} end",
    "{% if v.t %}{{ v.i }}\nnext\n{% endif %}\n\nlast\n\n",
    "{% if v.t %}{% if v.t %}\n\ntext{% endif %}{% endif %}\n\nlast",
    "  {% if v.t %}\n    in\n  {% endif %}\n  {{ v.i }}\n  {# note #}\n  end",
    "a\n  {%+ if v.t %}\n b{% endif +%}\nc",
    "x {%- raw -%}  {{ not }} {% if %} {# c #} {%- endraw %}\ny",
    "{% raw %}\n a {% endraw %}\n b",
    "{#- a -#}  b  {#+ c +#}\n d {# e -#}\n f",
    "one\r\ntwo\rthree\n{{ 'a\r\nb' }}",
    "{{ v.n }}|{{ v.t }}|{{ v.f }}|{{ v.g }}|{{ v.h }}|{{ v.missing }}|{{ v.l }}|{{ v.d }}|{{ v.u }}",
    "{{ \"q\\\"\\\\n\\u00e9\\x41\\r\" }}{{ 'it''s' }}{{ 'two ' 'parts' }}",
    "{{ v.d | tojson }}{{ v.l | tojson(indent=2) }}{{ v.d | tojson(indent=4, sort_keys=true) }}{{ v.s | tojson(ensure_ascii=true) }}",
    "{{ v.d | tojson(separators=(',', ':')) }}{{ [] | tojson(indent=4) }}{{ {} | tojson(indent=4) }}{{ '<&>\\u2028\\x7f\\x01' | tojson }}",
    "{{ [1.5, 100.0, 1e22, 123456789.125, true, none] | tojson }}",
    "{{ {'a': {'b': {'c': 1}}} }}{{ {'x': [{}]}['x'][0] }}",
    "{% for i in range(3) %}{% if loop.first %}{% set x = 'set' %}{% endif %}[{{ x }}]{% endfor %}[{{ x }}]",
    "{% set x = 0 %}{% for i in range(3) %}{% set x = x + i %}{{ x }},{% else %}none{% endfor %}{{ x }}",
    "{% for i in [] %}{% set x = 1 %}{{ i }}{% else %}none{% endfor %}",
    "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{% endfor %}",
    "{% for i in range(6) %}{% if i == 3 %}{% continue %}{% endif %}{{ x }}{% set x = i %}{{ x }}{% if i > 3 %}{% break %}{% endif %}{% endfor %}",
    "{% set x = 1 %}{% for x in v.u %}{{ x }}{% set x = 2 %}{{ x }}{% endfor %}{{ x }}{% for i in [] %}{% else %}{% set x = 3 %}{{ x }}{% endfor %}{{ x }}",
    "{% set x = 1 %}{% filter upper %}{{ x }}{% set x = 2 %}{{ x }}{% endfilter %}{{ x }}{% set y %}{{ x }}{% set x = 3 %}{{ x }}{% endset %}{{ x }}{{ y }}",
    "{% set x = 1 %}{% generation %}{% set x = 2 %}{{ x }}{% endgeneration %}{{ x }}{% if true %}{% set x = 4 %}{% endif %}{{ x }}",
    "{% set x = [1, 2] %}{% for i in x %}{% set x = [i] %}{{ x }}{% for j in x %}{{ j }}{% set z = j %}{% endfor %}{{ z }}{% endfor %}{{ x }}",
    "{% set x = [1, 2] %}{% for i in x %}{{ x }}{% set x = i %}{{ x }}{% endfor %}{{ x }}{% for a, b in v.d.items() %}{{ a }}{% set a = 1 %}{{ a }}{% endfor %}{{ a }}",
    "{% for a in 'xy' %}{% for b in [1, 2] %}{% set c = a ~ b %}{{ c }}{{ loop.index }}/{{ loop.length }}{{ loop.last }} {% endfor %}{{ loop.revindex0 }}{% endfor %}",
    "{% for k, w in v.d.items() %}{{ k }}={{ w }};{% endfor %}{% for k in v.d %}{{ k }}{% endfor %}{{ v.d['items'] }}",
    "{% for x in v.l if x is not none %}{{ loop.index }}{{ x }}{% endfor %}{{ loop is defined }}",
    "{% set ns = namespace(found=false, n=0) %}{% for x in v.u %}{% if x == 'A' %}{% set ns.found = true %}{% endif %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.found }}{{ ns.n }}",
    "{% macro m(a, b='B', c=none) %}({{ a }}{{ b }}{{ c }}){% endmacro %}{{ m(1) }}{{ m(1, c=2) }}{{ m('x', 'y') }}",
    "{% macro m(x) %}<{{ caller() }}{{ x }}>{% endmacro %}{% call m(1) %}in{% endcall %}",
    "{% set b %}a{{ v.i }}\nb{% endset %}[{{ b }}]{% filter upper %}up{{ v.i }}{% endfilter %}",
    "{% generation %}{{ v.s }}{% endgeneration %}!",
    "{{ v.s[::-1] }}{{ v.s[1:3] }}{{ v.s[-2:] }}{{ v.l[1:] }}{{ v.l[::-1] }}{{ v.l[-1] }}{{ v.l[:-2] }}",
    "{{ v.s.split() }}{{ v.s.split('b') }}{{ v.s.split('b', 1) }}{{ v.s.rsplit('b', 1) }}{{ 'a\\nb\\n'.splitlines() }}",
    "{{ ' x '.strip() }}|{{ 'xyx'.strip('x') }}|{{ ' x '.lstrip() }}|{{ 'xyx'.rstrip('x') }}|{{ v.s.startswith('Ä') }}{{ v.s.endswith(('q', 'b')) }}",
    "{{ v.s.find('b') }}{{ v.s.find('q') }}{{ v.s.replace('b', 'B') }}{{ v.s.upper() }}{{ v.s.lower() }}{{ 'a-b'.removeprefix('a-') }}{{ ', '.join(v.u) }}{{ '12'.isdigit() }}",
    "{{ v.d.get('z') }}{{ v.d.get('q') }}{{ v.d.get('q', 5) }}{{ v.d.keys() | list }}{{ v.d.values() | list | length }}{{ v.d.a.items() | list | length }}",
    "{{ v.l | first }}{{ v.s | first }}{{ v.s | last }}{{ v.d | list }}{{ v.s | length }}{{ v.u | join('+') }}{{ v.u | sort }}{{ v.u | sort(reverse=true, case_sensitive=true) }}",
    "{{ v.p | map(attribute='k') | list }}{{ v.u | map('upper') | list }}{{ v.p | selectattr('on') | list }}{{ v.p | selectattr('k', 'defined') | list | length }}",
    "{{ v.p | rejectattr('k', 'equalto', 2) | list }}{{ v.l | select('string') | list }}{{ v.l | select | list }}{{ v.l | reject('none') | list }}{{ v.p | sort(attribute='k') if false else 1 }}",
    "{{ v.missing | default('d') }}{{ v.e | default('d') }}{{ v.e | default('d', true) }}{{ v.n | default('d') }}{{ v.s | trim | upper | replace('B', 'x') }}",
    "{{ v.s is string }}{{ v.s is sequence }}{{ v.d is mapping }}{{ v.d is sequence }}{{ v.l is iterable }}{{ v.n is none }}{{ v.q is not defined }}{{ v.i is number }}{{ v.t is true }}{{ v.i is odd }}",
    "{{ 'a' in v.d }}{{ 'b' in v.s }}{{ 3 in v.l }}{{ 'q' not in v.u }}{{ not v.e }}{{ v.e or 'or' }}{{ v.s and 1 }}{{ 1 if v.e else 2 }}{{ 1 if v.e }}",
    "{{ v.i is in [7] }}{{ v.i is not in [7] }}{{ 'q' is in 'abc' }}{{ v.i is eq 7 }}{{ v.i is not equalto(7) and true }}{{ v.i is ne 7 or v.e }}|",
    "{{ 1 + 2 * 3 }}{{ 7 // 2 }}{{ 7 % 4 }}{{ -v.i }}{{ 7 / 2 }}{{ 2.5 + 1 }}{{ 'a' ~ 1 ~ v.i }}{{ 'ab' * 2 }}{{ 'a' + 'b' }}{{ [1] + [2] }}{{ 1 < 2 }}{{ 'a' != 'b' }}",
    "{{ strftime_now('%d %b %Y') }}|{{ strftime_now('%A, %B %-d, %Y %H:%M:%S %p %j %y %%') }}",
    "{% if false %}a{% elif v.i == 7 %}b{% else %}c{% endif %}{% if v.missing is defined and v.missing.x %}d{% endif %}",
    "{{ dict(a=1) }}{{ range(2, 9, 3) | list }}{{ range(3)[-1] }}{{ joiner is defined }}{% for x in 'ab' %}{{ loop.cycle('o', 'e') }}{% endfor %}",
    "{{ v.s|e }}{{ '<a>' | escape }}{{ 'x\ny' | indent }}{{ 'x\ny' | indent(2, true) }}{{ 'ab cd' | title }}{{ 'ab CD' | capitalize }}{{ 3.7 | int }}{{ '5' | int + 1 }}",
    "{{ raise_exception('No: ' ~ v.i) }}",
    "{% for m in messages %}{{ m.role }}: {{ m['content'] | trim }}\n{% endfor %}{{ tools }}{{ documents }}{{ add_generation_prompt }}{{ pad_token }}",
]

cases = []
for path in sorted((HERE / "templates").glob("*.jinja")):
    for name, c in conversations.items():
        cases.append({"name": f"{path.stem}: {name}", "template": f"templates/{path.name}", **c})
for i, source in enumerate(small):
    cases.append({"name": f"small {i}", "source": source, "messages": HELLO, "variables": {"v": V}})

for c in cases:
    source = c.get("source")
    if source is None:
        with open(HERE / c["template"], encoding="utf-8", newline="") as f:
            source = f.read()
    try:
        c["want"] = env.from_string(source).render(
            messages=c["messages"], tools=c.get("tools"), documents=None,
            add_generation_prompt=c.get("add_generation_prompt", False), **TOKENS, **c.get("variables", {}))
    except Exception as e:
        c["error"] = str(e)

with open(HERE / "golden.json", "w", encoding="utf-8") as f:
    json.dump({"now": NOW.isoformat() + "Z", "tokens": TOKENS, "cases": cases}, f, indent=1, ensure_ascii=False)
    f.write("\n")
