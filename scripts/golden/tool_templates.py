"""Renders chat templates with tools, calls and reasoning by transformers' own engine into tests/golden/chat/tools.json.

    python scripts/golden/tool_templates.py              # needs requirements.txt
    python scripts/golden/tool_templates.py FOLDER OUT   # the *.jinja files of a folder instead, into the file OUT

The templates were written for this file in the forms of published ones: how tools are listed, how calls and their results are
written, where reasoning stays and where it is dropped. Each case has a template, the number of a
conversation, options, and the text or the error.
"""

import datetime
import json
import sys
from pathlib import Path

sys.path.pop(0)  # this folder, whose file names hide the packages of the same names

import jinja2
import transformers
from transformers.utils import chat_template_utils

OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "chat" / "tools.json"
NOW = 1_721_952_000  # 26 July 2024, UTC

# What Qwen2.5, Qwen3 and Hermes say of tools.
LISTED = r"""
{%- macro listed(tools) %}
    {{- "# Tools\n\nThe functions are:\n<tools>" }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\n</tools>\n\nWrite a call as\n<tool_call>\n{\"name\": <name>, \"arguments\": <object>}\n</tool_call>" }}
{%- endmacro %}
"""
# Hermes calls; an assistant that is made up where there is no system message.
HERMES = LISTED + r"""
{%- set first = messages[0]['content'] if messages[0]['role'] == 'system' else 'You are a helpful assistant.' %}
{{- '<|im_start|>system\n' + first }}
{%- if tools %}{{ '\n\n' + listed(tools) }}{% endif %}
{{- '<|im_end|>\n' }}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'assistant' and not message.tool_calls) or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {{- '<|im_start|>assistant' }}
        {%- if message.content %}{{ '\n' + message.content }}{% endif %}
        {%- for call in message.tool_calls %}
            {%- if call.function is defined %}{% set call = call.function %}{% endif %}
            {{- '\n<tool_call>\n{"name": "' + call.name + '", "arguments": ' }}
            {{- call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.index0 == 0 or messages[loop.index0 - 1].role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
        {{- '\n<tool_response>\n' + message.content + '\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""
# Hermes calls with reasoning that stays from the last question on, and a switch for it.
HERMES_THINK = LISTED + r"""
{%- if tools or messages[0].role == 'system' %}
    {{- '<|im_start|>system\n' }}
    {%- if messages[0].role == 'system' %}{{ messages[0].content + ('\n\n' if tools else '') }}{% endif %}
    {%- if tools %}{{ listed(tools) }}{% endif %}
    {{- '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(seeking=true, asked=messages | length - 1) %}
{%- for message in messages[::-1] %}
    {%- if ns.seeking and message.role == 'user' and not (message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.seeking = false %}
        {%- set ns.asked = (messages | length - 1) - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set content, thought = message.content, '' %}
        {%- if message.reasoning_content is defined and message.reasoning_content is not none %}
            {%- set thought = message.reasoning_content %}
        {%- elif '</think>' in message.content %}
            {%- set content = message.content.split('</think>')[-1].lstrip('\n') %}
            {%- set thought = message.content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.index0 > ns.asked and (loop.last or thought) %}
            {{- '<think>\n' + thought.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
        {%- else %}
            {{- content }}
        {%- endif %}
        {%- for call in message.tool_calls or [] %}
            {%- if not loop.first or content %}{{ '\n' }}{% endif %}
            {%- set call = call.function or call %}
            {{- '<tool_call>\n{"name": "' ~ call.name ~ '", "arguments": ' }}
            {{- call.arguments if call.arguments is string else call.arguments | tojson }}
            {{- '}\n</tool_call>' }}
        {%- endfor %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {{- '<|im_start|>user' if loop.first or messages[loop.index0 - 1].role != 'tool' else '' }}
        {{- '\n<tool_response>\n' }}{{ message.content }}{{ '\n</tool_response>' }}
        {{- '<|im_end|>\n' if loop.last or messages[loop.index0 + 1].role != 'tool' else '' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}{{ '<think>\n\n</think>\n\n' }}{% endif %}
{%- endif %}
"""
# Functions and parameters as tags; the prompt itself begins the reasoning.
XML = r"""
{%- macro text_of(content) %}
    {%- if content is string %}
        {{- content }}
    {%- elif content is iterable and content is not mapping %}
        {%- for part in content %}{{ part.text if 'text' in part else raise_exception('Only texts are supported.') }}{% endfor %}
    {%- elif content is none or content is undefined %}
    {%- else %}
        {{- raise_exception('Unexpected content.') }}
    {%- endif %}
{%- endmacro %}
{%- if not messages %}{{ raise_exception('No messages.') }}{% endif %}
{%- set first = text_of(messages[0].content) | trim if messages[0].role == 'system' else '' %}
{%- if tools is iterable and tools | length > 0 and tools is not mapping %}
    {{- '<|im_start|>system\n# Tools\n\n<tools>' }}
    {%- for tool in tools %}{{ '\n' }}{{ tool | tojson }}{% endfor %}
    {{- '\n</tools>\n\n<tool_call>\n<function=name>\n<parameter=key>\nvalue\n</parameter>\n</function>\n</tool_call>' }}
    {{- '\n\n' + first if first else '' }}
    {{- '<|im_end|>\n' }}
{%- elif first %}
    {{- '<|im_start|>system\n' + first + '<|im_end|>\n' }}
{%- endif %}
{%- set ns = namespace(seeking=true, asked=0) %}
{%- for message in messages | reverse %}
    {%- if ns.seeking and message.role == 'user' %}
        {%- set ns.seeking = false %}
        {%- set ns.asked = loop.revindex0 %}
    {%- endif %}
{%- endfor %}
{%- if ns.seeking %}{{ raise_exception('No question in the messages.') }}{% endif %}
{%- for message in messages %}
    {%- set content = text_of(message.content) | trim %}
    {%- if message.role == 'system' %}
        {%- if not loop.first %}{{ raise_exception('The system message must come first.') }}{% endif %}
    {%- elif message.role == 'user' %}
        {{- '<|im_start|>user\n' + content + '<|im_end|>\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set thought = message.reasoning_content | trim if message.reasoning_content is string else '' %}
        {{- '<|im_start|>assistant\n' }}
        {%- if loop.index0 > ns.asked %}{{ '<think>\n' + thought + '\n</think>\n\n' }}{% endif %}
        {{- content }}
        {%- if message.tool_calls and message.tool_calls is iterable and message.tool_calls is not mapping %}
            {%- for call in message.tool_calls %}
                {%- if call.function is defined %}{% set call = call.function %}{% endif %}
                {{- ('\n\n' if content else '') if loop.first else '\n' }}
                {{- '<tool_call>\n<function=' + call.name + '>\n' }}
                {%- for key, value in call.arguments | items %}
                    {{- '<parameter=' + key + '>\n' }}
                    {{- value | tojson | safe if value is mapping or (value is sequence and value is not string) else value | string }}
                    {{- '\n</parameter>\n' }}
                {%- endfor %}
                {{- '</function>\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.previtem and loop.previtem.role != 'tool' %}{{ '<|im_start|>user' }}{% endif %}
        {{- '\n<tool_response>\n' + content + '\n</tool_response>' }}
        {%- if loop.last or loop.nextitem.role != 'tool' %}{{ '<|im_end|>\n' }}{% endif %}
    {%- else %}
        {{- raise_exception('Unexpected role ' ~ message.role ~ '.') }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {{- '<think>\n\n</think>\n\n' if enable_thinking is defined and enable_thinking is false else '<think>\n' }}
{%- endif %}
"""
# JSON objects as whole answers, one call at a time, with a date and indented schemas in the first question.
LLAMA = r"""
{{- bos_token }}
{%- if custom_tools is defined %}{% set tools = custom_tools %}{% endif %}
{%- if not date_string is defined %}
    {%- set date_string = strftime_now('%d %b %Y') if strftime_now is defined else '26 Jul 2024' %}
{%- endif %}
{%- if not tools is defined %}{% set tools = none %}{% endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system, messages = messages[0]['content'] | trim, messages[1:] %}
{%- else %}
    {%- set system = '' %}
{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\n\n' }}
{%- if tools is not none %}{{ 'Environment: ipython\n' }}{% endif %}
{{- 'Today Date: ' + date_string + '\n\n' + system + '<|eot_id|>' }}
{%- if tools is not none %}
    {%- if messages | length == 0 %}{{ raise_exception('Tools need a first question.') }}{% endif %}
    {%- set question, messages = messages[0]['content'] | trim, messages[1:] %}
    {{- '<|start_header_id|>user<|end_header_id|>\n\n' -}}
    {{- 'Answer with {"name": function name, "parameters": its arguments}.\n\n' }}
    {%- for t in tools %}{{ t | tojson(indent=4) }}{{ '\n\n' }}{% endfor %}
    {{- question + '<|eot_id|>' }}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls | length == 1 %}{{ raise_exception('One call at a time.') }}{% endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' -}}
        {{- '{"name": "' + call.name + '", "parameters": ' }}{{ call.arguments | tojson }}{{ '}<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\n\n' }}
        {{- message.content | tojson if message.content is mapping or message.content is iterable else message.content }}
        {{- '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}
"""
# Calls as Python writes them, between tags, with the plan before them.
PYTHON = r"""
{%- for message in messages %}
    {{- '<|im_start|>' + message.role + '\n' }}
    {%- if loop.first and tools %}{{ '# Functions\n' }}{% for tool in tools %}{{ tool.function | tojson }}{{ '\n' }}{% endfor %}{% endif %}
    {%- if message.reasoning_content %}{{ '<|thought_start|>\n' + message.reasoning_content + '\n<|thought_end|>\n' }}{% endif %}
    {{- message.content }}
    {%- if message.tool_calls %}
        {{- '<|tool_call_start|>\n```python\n' }}
        {%- for call in message.tool_calls %}
            {{- call.function.name + '(' }}
            {%- for key, value in call.function.arguments | items %}
                {{- ', ' if not loop.first }}{{ key ~ '=' ~ ([value] | string)[1:-1] }}
            {%- endfor %}
            {{- ')\n' }}
        {%- endfor %}
        {{- '```\n<|tool_call_end|>' }}
    {%- endif %}
    {{- '<|im_end|>\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}
"""
TEMPLATES = {"python": PYTHON, "hermes": HERMES, "hermes-think": HERMES_THINK, "xml": XML, "llama": LLAMA}
TEMPLATES = {name: source.lstrip("\n").rstrip("\n") for name, source in TEMPLATES.items()}

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "get_weather",
            "description": "Tells the weather: <sunny> & 20 °C, \"fine\".",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "description": "A town, e.g. Zürich or 東京"},
                    "days": {"type": "integer", "minimum": 1, "default": 3},
                    "units": {"type": "string", "enum": ["C", "F"]},
                    "exact": {"type": "boolean"},
                    "share": {"type": "number", "maximum": 1.0, "examples": [0.5, 1e-7, 1e22]},
                    "where": {"type": "object", "properties": {"lat": {"type": "number"}}},
                    "hours": {"type": "array", "items": {"type": ["integer", "null"]}},
                },
                "required": ["city"],
            },
        },
    },
    {"type": "function", "function": {"name": "now", "description": "The time", "parameters": {"type": "object", "properties": {}}}},
]


def call(name, arguments, number=0):
    """A call in the form of OpenAI's API, with its arguments as an object."""
    return {"id": f"call_{number}", "type": "function", "function": {"name": name, "arguments": arguments}}


def say(role, content="", **more):
    """A message."""
    return {"role": role, "content": content, **more}


FULL = {"city": "Zürich \"X\"\n", "days": 2, "exact": True, "share": 0.25, "where": {"lat": 47.4, "lon": None}, "hours": [1, 2]}
ASKED = [say("user", "Weather in Zürich?")]
CALLED = [*ASKED, say("assistant", reasoning_content="It asks for weather.\nSo: call.", tool_calls=[call("get_weather", FULL)])]
RESULT = [*CALLED, say("tool", "{\"t\": 20}", tool_call_id="call_0", name="get_weather")]
ANSWERED = [*RESULT, say("assistant", "20 °C.", reasoning_content="Got it.")]
TWO = [
    say("system", " Be brief. "), say("user", "Time and weather?"),
    say("assistant", "I look it up.", tool_calls=[call("now", {}), call("get_weather", {"city": "Paris"}, 1)]),
    say("tool", "12:00", tool_call_id="call_0"), say("tool", "rain", tool_call_id="call_1"),
]
CONVERSATIONS = [
    ASKED, CALLED, RESULT, ANSWERED, [*ANSWERED, say("user", "Thanks!")],
    TWO[:3], TWO, [*TWO, say("assistant", "Noon, rain.")],
    [*ASKED, say("assistant", "No tool is needed.", reasoning_content="\nEasy. \n")],
    [*ASKED, say("assistant", "<think>\nold\n</think>\n\nform"), say("user", "Go on"), say("assistant", "<think>\nx\n</think>\n\ny")],
    [*ASKED, say("assistant", "plain")],
    [say("system", "S"), say("user", "q"), say("assistant", tool_calls=[call("now", {})]), say("tool", "é < \"1\""), say("user", "r")],
    [say("user", "<tool_response>\nold form\n</tool_response>"), say("assistant", "ok")],
    [say("assistant", "first"), say("user", "second")],
    [say("system", "only")],
]
# The conversations after which an answer is begun: a question, a result, two results, no question.
GENERATED = {0, 2, 6, 14}


class Clock(datetime.datetime):
    """A clock that stands still."""

    @classmethod
    def now(cls, tz=None):
        """The moment of all goldens."""
        return cls.fromtimestamp(NOW, datetime.timezone.utc)


def render(template, messages, **options):
    """The text that transformers renders, or the error of the template; `None` for an error of the engine."""
    try:
        rendered, _ = chat_template_utils.render_jinja_template(
            conversations=[messages], chat_template=template, bos_token="<s>", eos_token="</s>", **options)
        return {"text": rendered[0]}
    except jinja2.exceptions.TemplateError as error:
        return {"error": str(error)}
    except TypeError:
        return None


def main():
    """Writes every template with every conversation and what transformers renders."""
    chat_template_utils.datetime = Clock
    templates, out = TEMPLATES, OUT
    has_folder = len(sys.argv) == 3
    if has_folder:
        templates = {path.stem: path.read_text() for path in sorted(Path(sys.argv[1]).glob("*.jinja"))}
        out = Path(sys.argv[2])
    cases = []
    for name, template in templates.items():
        for number, messages in enumerate(CONVERSATIONS):
            for has_tools in (False, True):
                for generate, thinking in ((False, None), (True, None), (True, False)):
                    if thinking is not None and "enable_thinking" not in template:
                        continue
                    if generate and number not in GENERATED and not has_folder:
                        continue
                    options = {} if thinking is None else {"enable_thinking": thinking}
                    case = {"name": name, "conversation": number, "tools": has_tools, "add_generation_prompt": generate, **options}
                    tools = TOOLS if has_tools else None
                    result = render(template, messages, tools=tools, add_generation_prompt=generate, **options)
                    if result:
                        cases.append({**case, **result})
    result = {
        "versions": {"transformers": transformers.__version__, "jinja2": jinja2.__version__},
        "now": NOW, "tools": TOOLS, "conversations": CONVERSATIONS, "templates": templates, "cases": cases,
    }
    out.write_text(json.dumps(result, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    print(f"{len(cases)} cases, {sum('error' in c for c in cases)} of them refusals")


if __name__ == "__main__":
    main()
