#!/usr/bin/env python3
"""Makes tests/vectors/chat_templates.json: what Jinja in Python prints for chat templates of our own, set up as transformers
sets it up. Needs jinja2 (made with 3.1.6). Run from the repository root: scripts/chat-vectors.py"""

import datetime
import json
import pathlib

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.sandbox import ImmutableSandboxedEnvironment

DAY = datetime.datetime(2024, 7, 26)


class Generation(Extension):
    """`{% generation %}` prints what it encloses."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return nodes.CallBlock(self.call_method("_inside"), [], [], body).set_lineno(line)

    def _inside(self, caller):
        return caller()


def raise_exception(message):
    raise jinja2.exceptions.TemplateError(message)


def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def environment():
    env = ImmutableSandboxedEnvironment(
        trim_blocks=True, lstrip_blocks=True, extensions=[Generation, "jinja2.ext.loopcontrols"]
    )
    env.filters["tojson"] = tojson
    env.globals["raise_exception"] = raise_exception
    env.globals["strftime_now"] = DAY.strftime
    return env


CHATML = """\
{%- for message in messages %}
    {%- if loop.first and message.role != 'system' %}
<|im_start|>system
You answer in one sentence.<|im_end|>
    {% endif %}
<|im_start|>{{ message['role'] }}
{{ message['content'].strip() }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""

HEADERS = """\
{{- bos_token }}
{%- if not day is defined %}
    {%- set day = strftime_now("%d %b %Y") %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set said = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set said = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if tools is not none %}
    {{- "Tools: " ~ tools|length ~ "\\n" }}
{%- endif %}
{{- "Today is " + day + "\\n\\n" + said + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

INST = """\
{%- set ns = namespace(turn=0) -%}
{{ bos_token }}
{%- for message in messages -%}
{%- if message.role == 'system' -%}
{%- continue -%}
{%- endif -%}
{%- if (message.role == 'user') != (ns.turn % 2 == 0) -%}
{{ raise_exception('roles must take turns: user, assistant, user, ...') }}
{%- endif -%}
{%- if message.role == 'user' -%}
[INST] {% if loop.last and messages[0].role == 'system' %}{{ messages[0].content + '\\n\\n' }}{% endif %}{{ message.content }} [/INST]
{%- else -%}
{% generation %}{{ ' ' + message.content.rstrip() + eos_token }}{% endgeneration %}
{%- endif -%}
{%- set ns.turn = ns.turn + 1 -%}
{%- endfor -%}
"""

PYTHON = """\
{%- for message in messages %}
{%- if loop.index0 > 1 %}{% break %}{% endif %}
{{ message | tojson }}
{{ message | tojson(indent=2) }}
{{ message.content | tojson(ensure_ascii=True) }}
{{ message.content.split(' ')[-1].upper() }}|{{ message.content.startswith('a') }}|{{ none }}|{{ 1.5 }}|{{ 7 // 2 }}|{{ [1, 'it is', "it's", true] }}
{% for key, value in message.items() %}{{ key.title() }}={{ value | length }}{{ "," if not loop.last }}{% endfor %}

{{ message.get('name', 'nobody') }} {{ 'x' in message.content }} {{ message.content.replace('a', 'o') | replace('b', 'c') }}
{{ message.missing }}{{ message.role is string }}{{ message is mapping }}
{% endfor %}
{{ ['a', 'b'] | join('-') }} {{ messages | map(attribute='role') | list | tojson }} {{ {'b': 1, 'a': none} | tojson(sort_keys=True) }}
{%- macro twice(text) %}{{ text }}{{ text }}{% endmacro %}
{{ twice('ho') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }} {{ {'k': 'v'} }} {{ 1e16 }} {{ 0.1 }} {{ 3 / 2 }}
"""

ONE = [{"role": "user", "content": " What is a KV cache? "}]
TALK = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is a KV cache?"},
    {"role": "assistant", "content": "A memory of attention.  "},
    {"role": "user", "content": "Why <compress> it & how?"},
]
ODD = [
    {"role": "user", "content": "a \"b\" \\ <tag> & 'q' \u00fc\u65e5\U0001f600\n\tx", "name": "Ann"},
    {"role": "assistant", "content": "no"},
    {"role": "user", "content": "left out"},
]
TURNS = [{"role": "user", "content": "one"}, {"role": "user", "content": "two"}]

CASES = [
    ("chatml", CHATML, ONE, True),
    ("chatml-talk", CHATML, TALK, False),
    ("headers", HEADERS, ONE, True),
    ("headers-talk", HEADERS, TALK, True),
    ("headers-no-prompt", HEADERS, TALK, False),
    ("inst", INST, ONE, True),
    ("inst-talk", INST, TALK, True),
    ("inst-refuses", INST, TURNS, True),
    ("python", PYTHON, ODD, False),
]


def main():
    rows = []
    for name, template, messages, prompt in CASES:
        row = {"name": name, "template": template, "messages": messages, "add_generation_prompt": prompt}
        given = {"messages": messages, "tools": None, "documents": None, "add_generation_prompt": prompt}
        try:
            text = environment().from_string(template).render(**given, bos_token="<s>", eos_token="</s>")
            rows.append({**row, "text": text})
        except jinja2.exceptions.TemplateError as error:
            rows.append({**row, "refused": str(error)})
    out = pathlib.Path("tests/vectors/chat_templates.json")
    out.write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
