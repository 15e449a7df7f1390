"""The `openai` package: models, completions, conversations, Responses, errors."""

import openai
import pytest

MESSAGES = [{"role": "user", "content": "Tell me a story"}]
TOOL = {"type": "object", "properties": {"place": {"type": "string"}}, "required": ["place"]}


@pytest.fixture
def writer(stories):
    return openai.OpenAI(base_url=f"{stories}/v1", api_key="none", max_retries=0)


@pytest.fixture
def client(chat):
    return openai.OpenAI(base_url=f"{chat}/v1", api_key="none", max_retries=0)


def test_models(writer):
    assert [model.id for model in writer.models.list()] == ["stories"]
    assert writer.models.retrieve("stories").object == "model"
    with pytest.raises(openai.NotFoundError):
        writer.models.retrieve("other")


def test_completion_whole_and_as_a_stream(writer):
    ask = {"model": "stories", "prompt": "Once upon a time", "max_tokens": 20, "temperature": 0}
    whole = writer.completions.create(**ask)
    assert whole.usage.completion_tokens == 20 and whole.choices[0].finish_reason == "length"
    chunks = list(writer.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].text for c in chunks if c.choices) == whole.choices[0].text
    assert chunks[-1].usage.completion_tokens == 20


def test_completion_of_several_prompts_with_logprobs(writer):
    found = writer.completions.create(
        model="stories", prompt=["Once upon", "The sun"], max_tokens=4, n=2, logprobs=2, seed=7, stop=["zebra"],
        echo=True, logit_bias={"5": -100}, presence_penalty=0.1, frequency_penalty=0.1, top_p=0.9,
    )
    assert [choice.index for choice in found.choices] == [0, 1, 2, 3]
    scores = found.choices[0].logprobs
    assert len(scores.tokens) == len(scores.token_logprobs) == len(scores.text_offset)


def test_conversation_whole_and_as_a_stream(client):
    ask = {"model": "stories", "messages": MESSAGES, "max_completion_tokens": 20, "temperature": 0}
    whole = client.chat.completions.create(**ask, logprobs=True, top_logprobs=3)
    assert whole.choices[0].message.role == "assistant"
    assert len(whole.choices[0].logprobs.content) == 20
    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    text = "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert text == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert chunks[-1].usage.completion_tokens == 20
    with client.chat.completions.stream(**ask, tools=[]) as stream:
        final = [event for event in stream if event.type == "content.done"]
    assert final[0].content == text


def test_conversation_with_tools_and_parts(client):
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"place": "Rome"}'}}
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "Weather?"}]},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "tool_call_id": "c1", "content": "sun"},
    ]
    tools = [{"type": "function", "function": {"name": "weather", "parameters": TOOL}}]
    found = client.chat.completions.create(model="stories", messages=messages, tools=tools, max_tokens=8, n=2)
    assert len(found.choices) == 2


def test_continued_answer(client):
    messages = [*MESSAGES, {"role": "assistant", "content": "Once upon a"}]
    extra = {"continue_final_message": True, "add_generation_prompt": False}
    found = client.chat.completions.create(model="stories", messages=messages, max_tokens=8, extra_body=extra)
    assert found.usage.completion_tokens == 8


def test_reasoning(client):
    extra = {"chat_template_kwargs": {"enable_thinking": True}}
    found = client.chat.completions.create(model="stories", messages=MESSAGES, max_tokens=8, extra_body=extra)
    assert found.choices[0].message.reasoning_content


def test_response_whole_and_as_a_stream(client):
    ask = {"model": "stories", "input": "Tell me a story", "instructions": "Be kind.", "max_output_tokens": 20,
           "temperature": 0, "store": False}
    whole = client.responses.create(**ask)
    assert whole.status in ["incomplete", "completed"] and whole.store is False and whole.output_text
    assert 0 < whole.usage.output_tokens <= 20
    events = list(client.responses.create(**ask, stream=True))
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == whole.output_text
    assert [e.sequence_number for e in events] == list(range(len(events)))
    with client.responses.stream(**ask) as stream:
        assert [event.type for event in stream] == [event.type for event in events]
    assert events[-1].type == f"response.{whole.status}"
    assert events[-1].response.output_text == whole.output_text


def test_response_with_items_and_tools(client):
    items = [
        {"role": "user", "content": "Weather?"},
        {"type": "function_call", "call_id": "c1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "c1", "output": "sun"},
    ]
    tools = [{"type": "function", "name": "weather", "parameters": TOOL, "strict": True}, {"type": "web_search"}]
    found = client.responses.create(model="stories", input=items, tools=tools, max_output_tokens=8)
    assert found.output[0].type == "message"
    with pytest.raises(openai.BadRequestError) as refused:
        client.responses.create(model="stories", input="Hi", previous_response_id="resp_1")
    assert refused.value.param == "previous_response_id"


def test_errors(client, writer):
    for ask, param in [({"temperature": -1}, "temperature"), ({"n": 0}, "n"), ({"messages": []}, "messages")]:
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(**{"model": "stories", "messages": MESSAGES, **ask})
        assert refused.value.param == param
    with pytest.raises(openai.BadRequestError) as refused:
        writer.completions.create(model="stories", prompt="word " * 9000)
    assert refused.value.code == "context_length_exceeded"
