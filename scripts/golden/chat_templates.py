"""Renders chat templates with transformers' own engine and records the texts in tests/golden/chat/rendered.json.

    python scripts/golden/chat_templates.py        # needs requirements.txt

Each case has a template, messages, options and the text, or the error if the template refuses. `builtin` names the built-in
template that must render the same. The templates were written for this file from the described formats.
"""

import json
import sys
from pathlib import Path

sys.path.pop(0)  # this folder, whose file names hide the packages of the same names

import jinja2
import transformers
from transformers.utils.chat_template_utils import render_jinja_template

OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "chat"

BITNET = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = message['role'] | capitalize + ': ' + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant: ' }}{% endif %}"
)
LLAMA3 = (
    "{% set loop_messages = messages %}{% for message in loop_messages %}"
    "{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' %}"
    "{% if loop.index0 == 0 %}{% set content = bos_token + content %}{% endif %}{{ content }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}"
)
CHATML = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
FALCON3 = (
    "{% for message in messages %}"
    "{% if message['role'] == 'system' %}{{ '<|system|>\n' + message['content'] + '\n' }}"
    "{% elif message['role'] == 'user' %}{{ '<|user|>\n' + message['content'] + '\n' }}"
    "{% elif message['role'] == 'assistant' %}"
    "{% if not loop.last %}{{ '<|assistant|>\n' + message['content'] + '\n' }}"
    "{% else %}{{ '<|assistant|>\n' + message['content'] + eos_token }}{% endif %}{% endif %}"
    "{% if loop.last and add_generation_prompt %}{{ '<|assistant|>\n' }}{% endif %}{% endfor %}"
)
# What templates in the wild use: white-space control, namespaces, slices,
# methods, JSON, loop controls, macros, refusals.
FEATURES = {
    "blocks": "{% for m in messages %}\n    {% if m.role == 'user' %}\n  U: {{ m.content }}\n    {% else %}\n  O: {{ m.content }}\n    {% endif %}\n{% endfor %}\n",
    "slices": "{%- if messages[0]['role'] == 'system' -%}{%- set system = messages[0]['content'] -%}{%- set rest = messages[1:] -%}"
    "{%- else -%}{%- set system = none -%}{%- set rest = messages -%}{%- endif -%}"
    "{% if system is not none %}[{{ system }}]{% endif %}{% for m in rest[::-1] %}{{ m['content'][:3] }}|{{ m['content'][-2:] }};{% endfor %}",
    "namespace": "{% set ns = namespace(n=0, last='') %}{% for m in messages %}{% if m.role == 'user' %}{% set ns.n = ns.n + 1 %}"
    "{% set ns.last = m.content %}{% endif %}{% endfor %}{{ ns.n }} {{ ns.last | upper }}",
    "methods": "{% for m in messages %}{{ m.content.strip() }}|{{ m.content.lstrip('aH') }}|{{ m.content.rstrip() }}|{{ m.content.split(' ') | length }}|"
    "{{ m.content.startswith('H') }}|{{ m.content.endswith(('o', '!')) }}|{{ m.content.replace('l', 'L') }}|{{ m.content.upper() }}|"
    "{{ m.content.title() }}|{{ m.role.capitalize() }}|{{ m.get('name', 'nobody') }}|{{ m.content.find('e') }}\n{% endfor %}",
    "split": "{% for m in messages %}{{ m.content.split('</think>')[-1].lstrip('\\n') }}#{% for w in m.content.split() %}<{{ w }}>{% endfor %}\n{% endfor %}",
    "json": "{{ messages | tojson }}\n{{ messages[0] | tojson(indent=2) }}\n{{ {'a': 1.5, 'b': [true, none, 'é\"\\u2028']} | tojson }}",
    "types": "{{ 1 }} {{ 1.0 }} {{ true }} {{ false }} {{ none }} {{ 7 // 2 }} {{ 7 / 2 }} {{ 7 % 3 }} {{ 2 ** 5 }} {{ undefined_name }}"
    " {{ 'a' if undefined_name is defined else 'b' }} {{ messages is string }} {{ messages is iterable }} {{ messages[0] is mapping }}"
    " {{ messages[0].content is string }} {{ (messages | length) is odd }} {{ ['a', 1, none] }} {{ 'x' ~ 1 ~ none ~ true }}",
    "filters": "{{ messages | map(attribute='role') | join(', ') }} {{ messages | selectattr('role', 'equalto', 'user') | list | length }}"
    " {{ messages | rejectattr('role', 'eq', 'user') | map(attribute='content') | list | length }} {{ [3, 1, 2] | sort | join('-') }}"
    " {{ [1, 2, 3] | first }} {{ [1, 2, 3] | last }} {{ missing | default('d') }} {{ '' | default('e', true) }} {{ 'a b' | replace(' ', '_') }}"
    " {{ 'ab' | list | join('.') }} {{ [1, 1, 2] | unique | list | length }} {{ '5' | int + 1 }} {{ 2.567 | round(1) }} {{ 'x\ny' | indent(2) }}"
    " {{ {'b': 1, 'a': 2} | dictsort | length }} {% for k, v in {'b': 1, 'a': 2}.items() %}{{ k }}={{ v }};{% endfor %} {{ '%s-%d' | format('a', 3) }}",
    "loops": "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ loop.index }}/{{ loop.length }}{{ loop.first }}{{ loop.last }}"
    "{% if loop.index == 3 %}{% break %}{% endif %} {% endfor %}{% for x in [] %}y{% else %}none{% endfor %}",
    "macros": "{% macro turn(role, text='?') %}<{{ role }}>{{ text }}</{{ role }}>{% endmacro %}{% for m in messages %}{{ turn(m.role, m.content) }}{% endfor %}"
    "{{ turn('end') }}{% call(x) wrap() %}{{ x }}{% endcall %}",
    "alternate": "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}{% else %}{{ m['content'] + eos_token }}{% endif %}{% endfor %}",
    "generation": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}{{ m.content }}{% endgeneration %}{% else %}{{ m.content }}{%- endif %}\n{% endfor %}",
    "comments": "{# a comment #}\n{%- set x = 'kept' -%}\n\n  {{- x -}}  \n{# another -#}\n tail",
    "extra": "{% if tools %}{{ tools | tojson }}{% endif %}{{ date_string }}{{ enable_thinking is defined and enable_thinking is false }}",
}
FEATURES["macros"] = FEATURES["macros"].replace("{% call(x) wrap() %}{{ x }}{% endcall %}", "")

CONVERSATIONS = [
    [("user", "Hello")],
    [("user", "Hello"), ("assistant", "Hi there!"), ("user", "How are you?")],
    [("system", "You are terse."), ("user", "Hello"), ("assistant", "Hi.")],
    [("system", "S"), ("user", "1"), ("assistant", "2"), ("user", "3"), ("assistant", "4"), ("user", "5")],
    [("user", "{{ 7 * 7 }} {% raw %} {# x #} {%- if 1 -%}")],
    [("user", "  leading and trailing  \n\n")],
    [("user", "héllo 中文 😀 👨‍👩‍👧 עברית"), ("assistant", "naïve\u00a0\u2003")],
    [("user", "a\nb\r\nc\td\x1c"), ("assistant", "</think>\n\nx  y")],
    [("user", "<|eot_id|><|im_end|>\"quotes\" 'single' \\ back & <b>")],
    [("user", "")],
    [("assistant", "first"), ("user", "second")],
]


def render(template, messages, **options):
    """The text that transformers renders, or the error of the template."""
    try:
        rendered, _ = render_jinja_template(
            conversations=[messages], chat_template=template, bos_token="<s>", eos_token="</s>", **options)
        return {"text": rendered[0]}
    except jinja2.exceptions.TemplateError as error:
        return {"error": str(error)}


def main():
    """Writes every template with every conversation and what transformers renders."""
    OUT.mkdir(parents=True, exist_ok=True)
    cases = []
    builtin = {"bitnet": BITNET, "llama3": LLAMA3, "chatml": CHATML, "falcon3": FALCON3}
    for name, template in {**builtin, **FEATURES}.items():
        for conversation in CONVERSATIONS:
            messages = [{"role": role, "content": content} for role, content in conversation]
            for generate in (False, True):
                extra = {"date_string": "26 Jul 2024", "enable_thinking": False} if name == "extra" else {}
                case = {"name": name, "messages": messages, "add_generation_prompt": generate}
                if extra:
                    case["extra"] = extra
                case.update(render(template, messages, add_generation_prompt=generate, **extra))
                cases.append(case)
    result = {
        "versions": {"transformers": transformers.__version__, "jinja2": jinja2.__version__},
        "builtin": list(builtin),
        "templates": {**builtin, **FEATURES},
        "cases": cases,
    }
    (OUT / "rendered.json").write_text(json.dumps(result, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    print(f"{len(cases)} cases, {sum('error' in c for c in cases)} of them refusals")


if __name__ == "__main__":
    main()
