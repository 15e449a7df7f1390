"""Renders many small templates with transformers' own engine and records the texts in tests/golden/chat/expressions.json.

    python scripts/golden/chat_expressions.py        # needs requirements.txt

Each case is [template, text], or [template, null] where Jinja2 refuses. Every template gets one conversation:
[{"role": "user", "content": "hi"}], with bos_token "<s>" and eos_token "</s>". Expressions stand between `{{` and `}}`;
`BLOCKS` are whole templates; the rest are made of random pieces of white space, line ends and tags.
"""

import json
import random
import sys
from pathlib import Path

sys.path.pop(0)  # this folder, whose file names hide the packages of the same names

import jinja2
import transformers
from transformers.utils.chat_template_utils import render_jinja_template

OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "chat"

# Separated by `;;`.
EXPRESSIONS = r"""
messages[0].content < 1 ;; 1 in messages[0].content ;; 7 // (messages | length - 3) ;; -7 % (messages | length + 2) ;; 7 % (messages | length - 4)
7.5 // (messages | length - 3) ;; -7.5 % (messages | length + 1) ;; 1 // (messages | length - 1) ;; 1 % (messages | length - 1) ;; (1, messages | length)
(1, messages | length) + (2,) ;; [messages | length] + (1,) ;; (messages | length,) * 2 ;; '%s=%s' % (messages[0].role, messages | length) ;; (messages | length, 2) == (1, 2)
0 < (messages | length == 1) ;; (messages | length == 1) < 2 < 3 ;; 0 < (0 < messages | length) < 2 ;; (messages | length < 0) >= 0
'' | indent ;; 'a\n' | indent(2) ;; 'a\n' | indent(2, blank=true) ;; '' | indent(2, true) ;; 'a\n\n' | indent(2) ;; 'a\r\nb' | indent(1) ;; ' 12 ' | int ;; '-0x1F' | int(base=16) ;; '1_0' | int
undefined_name | int ;; [] | int ;; 'inf' | float ;; '1e3' | int ;; -1234.5 | round(-2) ;; 1250.0 | round(-2) ;; 'a' in messages[0] ;; 'role' in messages[0] ;; messages[0].role in ('user', 'x')
'a-b'.rsplit('-', 1) ;; 'a-b-c'.rsplit('-', 1) ;; 'a-b-c'.split('-', 1) ;; 'a b  c '.split(none, 1) ;; ' a b  c '.rsplit(none, 1)
'a-b-c'.split('-', maxsplit=1) ;; 'a-b-c'.rsplit(sep='-', maxsplit=1) ;; 'abc'.split('') ;; ''.split() ;; ''.split(',')
'a,b,'.split(',') ;; ' a\tb\n'.split() ;; 'a\r\nb\x0bc\n'.splitlines() ;; 'a\nb\n'.splitlines(true) ;; 'abc'.removeprefix('a')
'abc'.removeprefix('x') ;; 'abc'.removesuffix('c') ;; 'abc'.removesuffix('') ;; 'abc'.partition('b') ;; 'abc'.partition('x')
'abcbd'.rpartition('b') ;; 'abc'.rpartition('x') ;; 'a'.zfill(3) ;; '-5'.zfill(4) ;; '+'.zfill(3) ;; 'abc'.zfill(2)
'ab'.ljust(4) ~ '|' ;; 'ab'.rjust(5, '*') ;; 'ab'.center(5) ~ '|' ;; 'abc'.center(6, '-') ;; 'abc'.center(4, '-')
'ab'.center(2) ;; 'é'.ljust(3, '.') ;; 'ab'.ljust(4, 'xy') ;; 'abc'.index('b') ;; 'abc'.index('x') ;; 'abcabc'.rindex('b')
'abcabc'.find('b', 2) ;; 'abcabc'.find('b', 2, 4) ;; 'abcabc'.rfind('b', 0, -3) ;; 'abc'.find('') ;; 'abc'.find('', 4)
'aaa'.count('a', 1) ;; 'aaa'.count('') ;; 'abc'.startswith('b', 1) ;; 'abc'.endswith('b', 0, 2) ;; 'abc'.startswith(('x', 'a'))
'abc'.startswith('') ;; 'Abc dEf'.swapcase() ;; 'abc'.isalpha() ;; 'ab1'.isalpha() ;; 'ab1'.isalnum() ;; '१२'.isdecimal()
'²'.isdigit() ;; '½'.isnumeric() ;; '½'.isdigit() ;; 'हिन्दी'.isalpha() ;; ''.isalpha() ;; 'a\n'.isalpha() ;; ' \x1f'.isspace()
''.isspace() ;; 'AB'.isupper() ;; 'aB'.islower() ;; "they're x-rays".title() ;; '中a b'.title() ;; "they're x-rays" | title
'hello WORLD'.capitalize() ;; 'straße'.upper() ;; 'ΑΣ'.lower() ;; 'abc'.replace('b', 'x', 1) ;; 'aaa'.replace('a', 'b', count=2)
'abc'.replace('', '-') ;; '%s' % 'x' ;; '%s' % 1.0 ;; '%d of %d' % (1, 2) ;; '%5d|%-5d|%05d' % (1, 2, 3) ;; '%.2f' % 3.14159
'%x %X %o' % (255, 255, 8) ;; '%r' % "it's" ;; '%s' % [1, 'a'] ;; '%(a)s-%(b)d' % {'a': 'x', 'b': 2} ;; '%%' % () ;; '100%%' % ()
'%c%c' % ('a', 98) ;; '%s' % (1,) ;; '%s %s' % (1,) ;; '%s' % (1, 2) ;; '%d' % 3.9 ;; '%d' % 'a' ;; '%5.1f|' % 2.25
'%e' % 12345.678 ;; '%g' % 0.0001 ;; '%g' % 1234567.0 ;; '%+d' % 5 ;; '% d' % 5 ;; '%10s|' % 'abc' ;; '%-10s|' % 'abc'
'%.2s' % 'abc' ;; '%s' % none ;; '%s' % true ;; '%q' % 1 ;; '%s-%d' | format('a', 3) ;; '%(x)s' | format(x=1)
'{}-{}'.format(1, 'a') ;; '{0}{1}{0}'.format('a', 'b') ;; '{x}'.format(x=1) ;; '{:>5}|'.format('a') ;; '{:.2f}'.format(1.5)
messages[0].role == messages[0].role == 'user' ;; 1 < 2 < 3 ;; 1 < 3 < 2 ;; 3 > 2 >= 2 != 1 ;; 1 == 1.0 == true
'a' in 'abc' in ['abc'] ;; 1 not in [2] == true ;; 1 < 2 > 0 == false ;; (1 < 2 < 3) and not (3 < 2 < 1)
0 < messages | length < 5 ;; 1 < 2 < undefined_name ;; 2 < 1 < undefined_name.x ;; [1, 2] | sum ;; [1.5, 2] | sum ;; [] | sum
[1, 2] | sum(start=10) ;; [[1], [2]] | sum(start=[]) ;; messages | sum(attribute='x') ;; ['a'] | sum ;; [true, true] | sum
[1, 2, 3] | batch(2) | list ;; [1, 2, 3] | batch(2, 0) | list ;; [1, 2, 3, 4, 5] | slice(2) | list
[1, 2, 3] | slice(2, 'x') | list ;; range(5) | batch(3) | list | length ;; 'a b' | wordcount ;; "it's a-b c_d 中文 é" | wordcount
'' | wordcount ;; 'abcdefghijkl' | truncate(6, true, '') ;; 'foo bar baz qux' | truncate(9)
'foo bar baz qux' | truncate(9, true) ;; 'foo bar baz qux' | truncate(11) ;; 'foo bar baz qux' | truncate(11, leeway=0)
'foo bar' | truncate(2) ;; 'abc' | truncate ;; messages | groupby('role') | list | length
messages | groupby('role') | map(attribute='grouper') | list ;; (messages | groupby('role') ;; first).list ;; 'x' is callable
raise_exception is callable ;; undefined_name is callable ;; messages[0].copy() ;; [1].copy() ;; {'a': 1}.copy() == {'a': 1}
[1, 2].index(2) ;; [1, 2].index(3) ;; [1, 1].count(1) ;; (1, 2).index(2) ;; {'a': 1}.get('b', 2) ;; {'items': 1}.items() | list
messages.append(1) ;; {'a': 1}.update(b=2) ;; {'a': 1}.pop('a') ;; [1].pop() ;; {'b': 1, 'a': 2}.keys() | list
{'b': 1}.values() | list ;; {'b': 1} | items | list ;; 1e-5 ;; 1e16 ;; 1.0 ;; 0.1 ;; 1e15 ;; 123456789012345678.0 ;; 0.0001
1.5e300 ;; -1e-7 ;; 1e22 ;; [1e-5, 1e16] ;; {'a': 1e-5} ;; [1e-5][0] ~ '' ;; (1e16) | string ;; [1e16] | join(',') ;; 3.0 * 2 ;; 1 / 3
10 / 5 ;; +1 ;; -1 ;; - 1 + 2 ;; 7 // 2 ;; -7 // 2 ;; 7 // -2 ;; 7.5 // 2 ;; -7 % 3 ;; 7 % -3 ;; 7.5 % 2 ;; -7.5 % 2 ;; 2 ** 10
2 ** -1 ;; 2 ** 0.5 ;; 1 // 0 ;; 1 % 0 ;; 1 / 0 ;; true + true ;; 5 - true ;; 3 * 'ab' ;; [1] * 2 ;; 'a' + 1 ;; 1 + '1' ;; 'a' < 1
none < 1 ;; [1] < [2] ;; (1, 2) < (1, 3) ;; 'a' < 'b' ;; true < 2 ;; undefined_name < 1 ;; undefined_name == none ;; none == none
1 == '1' ;; [1, 2] == [1, 2] ;; (1, 2) == [1, 2] ;; 2.5 | round ;; 3.5 | round ;; 2.567 | round(1) ;; 2.675 | round(2)
2.5 | round(0, 'ceil') ;; 2.5 | round(method='floor') ;; 5 | round ;; 1234.5 | round(-2) ;; -2.5 | round ;; 2.1 | round(1, 'ceil')
'5' | int ;; '5.7' | int ;; 'abc' | int ;; 'abc' | int(7) ;; 3.9 | int ;; '0x1f' | int(0, 16) ;; none | int ;; '1.5' | float
'x' | float ;; 'x' | float(2.5) ;; 5 | float ;; -5 | abs ;; -5.5 | abs ;; true | int ;; ['a', 1, none, true, 1.5]
("it's", 'q"q', "b\\s", 'n\nl') ;; ['é', '\u2028', '\x7f', '\u200b', '中'] ;; (1,) ;; () ;; [] ;; {} ;; {'a': [1, {'b': none}]}
{1: 2, none: 3} ;; [undefined_name] ;; [[1, (2, 3)]] ;; ['a"b', "a'b", 'a\'b"c'] ;; {'a': 'x'} ~ '' ;; [1, 2] | string
'x' ~ [1] ~ (2,) ;; [1, [2]] | join('-') ;; none ~ true ;; undefined_name ~ 'x' ;; [none, true] | join(',') ;; 'abc'[0]
'abc'[-1] ;; 'abc'[5] ;; 'abc'[1:] ;; 'abc'[:-1] ;; 'abc'[::-1] ;; ''[::-1] ;; 'abcdef'[4:1:-1] ;; 'abcdef'[1:4:-1]
'abcdef'[::2] ;; 'abcdef'[-3:-1] ;; 'abcdef'[10:] ;; 'abcdef'[-10:2] ;; 'abc'[::0] ;; [1, 2, 3][::-1] ;; [][::-1]
[1, 2, 3][0:2:-1] ;; [1, 2, 3, 4][1:3] ;; (1, 2, 3)[1:] ;; [1, 2, 3][-2:] ;; [1, 2][5:] ;; none[1:] ;; 5[1:] ;; undefined_name[1:]
[1, 2, 3][:-5:-1] ;; 'héllo'[1:3] ;; 'a' if true ;; 'a' if false ;; 'a' if false else 'b' ;; ('a' if false) is defined ;; not 1
not undefined_name ;; 1 and 2 ;; 0 or 'x' ;; '' or none ;; [] and 1 ;; 1 in [1] ;; 'a' in {'a': 1} ;; 'x' not in 'abc'
'a' in undefined_name ;; 1 in 'abc' ;; 'a' in none ;; undefined_name.x ;; undefined_name['x'] ;; undefined_name + 'x'
undefined_name() ;; messages[0].nothing ;; messages[0].nothing.more ;; messages[5] ;; messages[0]['nothing'] is defined
bos_token ;; bos_token + 'x' ;; eos_token ;; pad_token ;; pad_token is defined ;; pad_token + 'x' ;; tools ;; tools is none
documents is defined ;; add_generation_prompt ;; messages | length ;; messages[-1].content ;; messages is iterable
messages is sequence ;; messages is mapping ;; messages[0] is mapping ;; 'a' is string ;; 1 is number ;; 1.0 is float
1 is integer ;; true is boolean ;; true is number ;; true is integer ;; none is none ;; 1 is odd ;; 4 is even
9 is divisibleby 3 ;; 'a' is in ['a'] ;; 1 is eq 1 ;; 1 is sameas 1 ;; 'A' is upper ;; 'a' is lower ;; undefined_name is undefined
undefined_name is iterable ;; 5 is iterable ;; {} is sequence ;; () is sequence ;; true is true ;; 1 is true ;; false is false
'upper' is filter ;; 'nothing' is filter ;; 'odd' is test ;; [3, 1, 2] | sort ;; ['b', 'A', 'c'] | sort
['b', 'A'] | sort(case_sensitive=true) ;; [3, 1] | sort(reverse=true) ;; messages | map(attribute='role') | list
['a', 'b'] | map('upper') | list ;; [1, 2, 3] | select('odd') | list ;; [0, 1] | select | list
[1, 2] | reject('equalto', 1) | list ;; messages | selectattr('role') | list | length
messages | rejectattr('role', 'equalto', 'user') | list ;; [1, 1, 2] | unique | list ;; ['a', 'A'] | unique | list
[1, 2, 3] | first ;; [] | first ;; 'abc' | last ;; [1, 2, 3] | last ;; [1, 5, 3] | max ;; [1, 5, 3] | min ;; ['b', 'A'] | max
[] | max ;; [1, 2] | reverse | list ;; 'abc' | reverse ;; 'abc' | list ;; 'abc' | length ;; {'a': 1} | length
{'b': 1, 'a': 2} | dictsort ;; {'b': 1, 'a': 2} | dictsort(by='value') ;; {'b': 1, 'A': 2} | dictsort(true) ;; [1, 2] | join
['a', 'b'] | join(', ') ;; messages | join(',', attribute='role') ;; ' a ' | trim ;; 'xxaxx' | trim('x') ;; 'a\nb' | indent(2)
'a\nb' | indent(2, true) ;; 'a\n\nb' | indent ;; 'a\n\nb' | indent(2, blank=true) ;; 'a\nb' | indent('>>') ;; 'ab' | upper
'AB' | lower ;; 'aB' | capitalize ;; 'a<b' | e ;; 'a<b' | escape ;; 'a' | default('x') ;; undefined_name | default('x')
'' | default('x', true) ;; none | default('x') ;; undefined_name | d('y') ;; 'ab' | center(6) ~ '|' ;; {'a': 1} | tojson
[1.0, 1e-7, 'é', none, true] | tojson ;; {'a': [1, {'b': 2}]} | tojson(indent=2) ;; 'a"\n' | tojson
{'b': 1, 'a': 2} | tojson(sort_keys=true) ;; 'é' | tojson(ensure_ascii=true) ;; [1, 2] | tojson(separators=(',', ':'))
undefined_name | tojson ;; '<' | tojson ;; range(3) | list ;; range(1, 7, 2) | list ;; range(3, 0, -1) | list ;; dict(a=1, b=2)
dict([('a', 1)]) ;; namespace(a=1).a ;; joiner(',')() ;; cycler('a', 'b').next() ;; "a" "b" ;; 'a' 'b' ~ 'c'
'\u00e9\x41\t|' ;; '\101' ;; 'a\qb' ;; "\N{DEGREE SIGN}" ;; 1_000 ;; 0x1f ;; 0b11 ;; 0o17 ;; 1.5e3 ;; 1. ;; .5 ;; 'a' ~ 1 ~ 2.0
true ;; True ;; TRUE ;; none ;; None ;; null ;; [1, 2,] ;; {'a': 1,} ;; (1, 2) ;; 1, 2 ;; {'a': 1}.a ;; {'a': 1}['a']
[[1, 2], [3]][0][1] ;; [1, 2].0 ;; messages.0.role ;; strftime_now('%%')
'x' is sameas 'x' ;; messages | string | length > 5 ;; 'abc' | replace('b', 'x') ;; 'aaa' | replace('a', 'b', 2) ;; 'a b' | split
'a,b' | split(',') ;; 'wordwrap me' | wordwrap(4) ;; '<b>x</b>' | striptags ;; 'x' | pprint ;; 'a b' | urlencode
1234 | filesizeformat ;; 'a' | nothing ;; 'a' is nothing ;; nothing()
"""

BLOCKS = [
    "{% set x = 1 %}{% for i in [1, 2] %}{% set x = i %}{% endfor %}{{ x }}",
    "{% for i in [1, 2, 3] %}{{ loop.index }}{{ loop.revindex0 }}{{ loop.previtem }}{{ loop.nextitem }}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for i in [1, 1, 2] %}{{ loop.changed(i) }}{% endfor %}",
    "{% for k, v in {'a': 1}.items() %}{{ k }}{{ v }}{% else %}none{% endfor %}",
    "{% for i in [1, 2, 3] if i != 2 %}{{ i }}{{ loop.length }}{% endfor %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}",
    "{% set x %} captured {{ 1 }} {% endset %}[{{ x }}]",
    "{% set x | upper %}abc{% endset %}{{ x }}",
    "{% filter upper %}abc{% endfilter %}",
    "{% macro m(a, b=2, *args, **kw) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, b=3) }}",
    "{% macro m(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(a=1, b=3) }}{{ m() }}",
    "{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}x{% endcall %}",
    "{% macro m() %}[{{ caller(1) }}]{% endmacro %}{% call(x) m() %}{{ x + 1 }}{% endcall %}",
    "{% with a = 1 %}{{ a }}{% endwith %}{{ a }}",
    "{% raw %}{{ x }}{% endraw %}",
    "{% raw -%}  {{ x }}  {%- endraw %}|",
    "{% if 1 < 2 < 3 and 'a' == 'a' == 'a' %}y{% else %}n{% endif %}{% if 1 < 2 > 5 %}y{% elif 2 > 1 > 0 %}z{% endif %}",
    "{% macro m(x) %}{{ 0 < x < 3 }}{% endmacro %}{% for i in [0, 1, 3] %}{{ m(i) }}{% if 0 <= i <= 1 %}y{% endif %}{% endfor %}",
    "{% for i in range(3) %}{% if i == 1 %}{% continue %}{% endif %}{{ i }}{% if i == 2 %}{% break %}{% endif %}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for i in range(3) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}",
    "{% for x in [1, [2, [3]]] recursive %}{% if x is iterable %}<{{ loop(x) }}>{% else %}{{ x }}{% endif %}{% endfor %}",
    "{% for m in messages %}{{ '%s: %s' % (m.role, m['content']) }}{% endfor %}",
    "{% if messages[0]['role'] == 'system' %}s{% elif messages[0].role == 'user' %}u{% endif %}",
    "{# c #}a{#- c -#} b {#+ c +#}\n{# c #}\nd",
    "{{ 'a' -}}  b {{- 'c' }}  {{ 'd' +}} e",
    "{%- if true -%} a {%- endif -%} b",
    "  {%+ if true %}a{% endif +%}\nb",
    "{% if true %}\n\na\n{% endif %}\n\nb\n\n",
    "a\n  {% if true %}\n  b\n  {% endif %}\n  c\n",
    "\n\n{% set x = 1 %}\n\n{{ x }}\n\n",
    "{% include 'x' %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{% do 1 %}", "{% trans %}x{% endtrans %}", "{% nothing %}",
    "{% autoescape true %}{{ '<' }}{% endautoescape %}",
    "{% block a %}x{% endblock %}{{ self.a() }}",
    "{{ messages[0].content }}{% generation %}g{% endgeneration %}\n",
    "{% for m in messages %}{% generation %}\n  x\n  {% endgeneration %}\n{% endfor %}",
    "{{ '\r\n' }}a\r\nb\rc\n\rd\r\n", "{% if true %}\r\nx\r\n{% endif %}\r\ny\r\n\r\n", "x\r", "x\n\n", "x\r\n\r\n", "\r\n", "{{ 1 }}\n", "{{ 1 }}\r",
    "{% if true %}\r x{% endif %}", "{# a #}\r\nb", "{{ 'a\\r\\nb' }}", "{%- raw %}\r\nx{% endraw %}\r\n", "{% set x = 'a\r\nb' %}{{ x | length }}",
    "{{ {'a': 1,\n 'b': 2}\n.items() | list }}", "{{ messages\n  | length }}", "{{ 'a' if\n true }}",
    "{{ x", "{% if %}", "{% endif %}", "{{ 1 + }}", "{{ }}", "{% for %}{% endfor %}", "{{ 'a }}", "{% if true %}", "}}", "{{ ) }}", "{%", "a {% b",
    "{% if undefined_name %}a{% else %}b{% endif %}{% for x in undefined_name %}{% endfor %}", "{{ undefined_name.x.y }}",
    "{{ raise_exception('no') }}", "{% if false %}{{ 1 | nothing }}{% endif %}ok", "{{ loop }}", "{{ super() }}",
]
PIECES = [" ", "  ", "\t", "\n", "\n\n", "\r\n", "\r", "a", "b ", " c", "{% if true %}", "{%- if true %}", "{% if true -%}", "{%- if true -%}",
          "{%+ if true %}", "{% endif %}", "{%- endif %}", "{% endif -%}", "{%- endif -%}", "{% endif +%}", "{{ 1 }}", "{{- 1 }}", "{{ 1 -}}",
          "{{- 1 -}}", "{# c #}", "{#- c #}", "{# c -#}", "{% set x = 1 %}", "{%- set x = 1 -%}", "{% raw %}", "{% endraw %}", "{%- raw -%}",
          "{%- endraw -%}", "{% for i in [1, 2] %}", "{%- for i in [1, 2] -%}", "{% endfor %}", "{%- endfor -%}", "{{ '\\n' }}", "{{ ' ' }}"]


def random_templates(count):
    """`count` random templates that transformers renders."""
    rng = random.Random(20260102)
    while count:
        pieces = [rng.choice(PIECES) for _ in range(rng.randint(2, 14))]
        for opened, closed in (("if", "endif"), ("for", "endfor"), ("raw", "endraw")):
            pieces += [f"{{% {closed} %}}"] * max(0, sum(p.strip("{%}-+ ").startswith(opened) for p in pieces) - sum(closed in p for p in pieces))
        template = "".join(pieces)
        if "text" in render(template):
            count -= 1
            yield template


def render(template):
    """The text that transformers renders, or the error."""
    try:
        rendered, _ = render_jinja_template(
            conversations=[[{"role": "user", "content": "hi"}]], chat_template=template, bos_token="<s>", eos_token="</s>")
        return {"text": rendered[0]}
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}


def main():
    """Writes expressions.json: every template with its text, or null where transformers refuses it."""
    expressions = [part.strip() for part in EXPRESSIONS.replace("\n", ";;").split(";;") if part.strip()]
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 300
    templates = ["{{ " + part + " }}" for part in expressions] + BLOCKS + list(random_templates(count))
    cases = [[template, render(template).get("text")] for template in templates]
    result = {"versions": {"transformers": transformers.__version__, "jinja2": jinja2.__version__}, "cases": cases}
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "expressions.json").write_text(json.dumps(result, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    print(f"{len(cases)} cases, {sum(text is None for _, text in cases)} of them refusals")


if __name__ == "__main__":
    main()
