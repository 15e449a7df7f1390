"""The `anthropic` package: messages, streams, tokens, errors."""

import anthropic
import pytest

# The package has no argument for it any more.
GREEDY = {"temperature": 0}
ASK = {"model": "stories", "max_tokens": 20, "messages": [{"role": "user", "content": "A story"}], "extra_body": GREEDY}
TOOL = {"name": "weather", "description": "Tells the weather", "input_schema": {"type": "object", "properties": {}}}


@pytest.fixture
def client(chat):
    return anthropic.Anthropic(base_url=chat, api_key="none", max_retries=0)


def test_message_whole_and_as_a_stream(client):
    whole = client.messages.create(**ASK, system="Be kind.", metadata={"user_id": "u"})
    assert whole._request_id.startswith("req_")
    assert whole.stop_reason in ["max_tokens", "end_turn"] and 0 < whole.usage.output_tokens <= 20
    with client.messages.stream(**ASK, system="Be kind.") as stream:
        text = "".join(stream.text_stream)
        final = stream.get_final_message()
    assert text == whole.content[0].text == final.content[0].text
    assert (final.stop_reason, final.usage.output_tokens) == (whole.stop_reason, whole.usage.output_tokens)
    events = [event.type for event in client.messages.create(**ASK, stream=True)]
    assert events[0] == "message_start" and events[-1] == "message_stop"


def test_stop_sequence(client):
    text = client.messages.create(**ASK).content[0].text
    word = text.split()[2]
    found = client.messages.create(**ASK, stop_sequences=["no such", word])
    assert (found.stop_reason, found.stop_sequence) == ("stop_sequence", word)


def test_thinking(client):
    thinking = {"type": "enabled", "budget_tokens": 1024}
    found = client.messages.create(**ASK, thinking=thinking)
    assert found.content[0].type == "thinking" and found.content[0].thinking
    with client.messages.stream(**ASK, thinking=thinking) as stream:
        events = [event.type for event in stream]
    assert "thinking" in events


def test_tools_and_prefill(client):
    messages = [
        {"role": "user", "content": [{"type": "text", "text": "Weather?", "cache_control": {"type": "ephemeral"}}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "t1", "name": "weather", "input": {}}]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t1", "content": "sun"}]},
        {"role": "assistant", "content": "It is"},
    ]
    found = client.messages.create(**{**ASK, "messages": messages}, tools=[TOOL], tool_choice={"type": "auto"})
    assert found.content[0].type == "text"


def test_tokens_are_counted(client):
    counted = client.messages.count_tokens(model="stories", messages=ASK["messages"], tools=[TOOL])
    whole = client.messages.create(**ASK, tools=[TOOL]).usage
    assert counted.input_tokens == whole.input_tokens + whole.cache_read_input_tokens


def test_errors(client):
    for wrong in [{"max_tokens": 0}, {"extra_body": {"temperature": -1}}, {"messages": []}, {"tool_choice": {"type": "any"}}]:
        with pytest.raises(anthropic.BadRequestError) as refused:
            client.messages.create(**{**ASK, **wrong})
        assert refused.value.body["error"]["type"] == "invalid_request_error"
        assert refused.value.request_id.startswith("req_")
