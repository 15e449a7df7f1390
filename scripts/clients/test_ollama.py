"""The `ollama` package: the model, conversations, texts, errors."""

import ollama
import pytest

MESSAGES = [{"role": "user", "content": "Tell me a story"}]
OPTIONS = {"num_predict": 20, "temperature": 0, "num_ctx": 256, "repeat_penalty": 1.1, "top_k": 40, "min_p": 0.05}


@pytest.fixture
def client(chat):
    return ollama.Client(host=chat)


def test_model(client):
    assert client.list().models[0].model == "stories"
    assert client.ps().models[0].context_length > 0
    shown = client.show("stories")
    assert shown.capabilities == ["completion", "tools", "thinking"]
    assert shown.modelinfo["general.architecture"]
    with pytest.raises(ollama.ResponseError) as unknown:
        client.show("other")
    assert unknown.value.status_code == 404


def test_conversation_whole_and_as_a_stream(client):
    whole = client.chat("stories", MESSAGES, options=OPTIONS, keep_alive="5m")
    assert whole.done_reason == "length" and whole.eval_count == 20 and whole.total_duration > 0
    parts = list(client.chat("stories", MESSAGES, options=OPTIONS, stream=True))
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert parts[-1].done and not parts[0].done


def test_thinking_and_logprobs(client):
    assert client.chat("stories", MESSAGES, options=OPTIONS, think=True).message.thinking
    found = client.chat("stories", MESSAGES, options=OPTIONS, logprobs=True, top_logprobs=2)
    assert len(found.logprobs) == 20 and len(found.logprobs[0].top_logprobs) == 2


def test_tools(client):
    def now() -> str:
        """Tells the time."""

    call = {"function": {"name": "now", "arguments": {}}}
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
        {"role": "tool", "content": "noon", "tool_name": "now"},
    ]
    assert client.chat("stories", messages, tools=[now], options=OPTIONS).done


def test_text_whole_and_as_a_stream(client, stories):
    for client in [client, ollama.Client(host=stories)]:
        whole = client.generate("stories", "Once upon a time", options=OPTIONS)
        parts = list(client.generate("stories", "Once upon a time", options=OPTIONS, stream=True))
        assert "".join(part.response for part in parts) == whole.response
        raw = client.generate("stories", "Once upon a time", options=OPTIONS, raw=True)
        assert raw.eval_count == 20
    assert client.generate("stories").done_reason == "load"


def test_what_is_refused(client):
    for change in [
        lambda: client.pull("stories"),
        lambda: client.push("stories"),
        lambda: client.create("new", from_="stories"),
        lambda: client.copy("stories", "new"),
        lambda: client.delete("stories"),
    ]:
        with pytest.raises(ollama.ResponseError) as refused:
            change()
        assert refused.value.status_code == 403
    with pytest.raises(ollama.ResponseError) as refused:
        client.chat("stories", MESSAGES, format={"not": {}})
    assert refused.value.status_code == 400 and refused.value.error.startswith("format")
