"""Embeddings with the `openai` and `ollama` packages."""

import ollama
import openai
import pytest

TEXTS = ["A dog ran home.", "The sun"]


def test_openai(embedder):
    client = openai.OpenAI(base_url=f"{embedder}/v1", api_key="none", max_retries=0)
    # The package asks for base64 where nothing else is said.
    packed = client.embeddings.create(model="embedder", input=TEXTS)
    plain = client.embeddings.create(model="embedder", input=TEXTS, encoding_format="float")
    assert packed.usage.prompt_tokens > 0
    for one, other in zip(packed.data, plain.data, strict=True):
        assert one.embedding == pytest.approx(other.embedding, abs=1e-7)
    with pytest.raises(openai.BadRequestError) as refused:
        client.embeddings.create(model="embedder", input=TEXTS, dimensions=3)
    assert refused.value.param == "dimensions"


def test_ollama(embedder):
    client = ollama.Client(host=embedder)
    found = client.embed("embedder", TEXTS)
    assert len(found.embeddings) == 2 and found.prompt_eval_count > 0
    assert len(client.embeddings("embedder", TEXTS[0]).embedding) == len(found.embeddings[0])
    assert client.show("embedder").capabilities == ["embedding"]


def test_a_model_that_writes_has_none(stories):
    with pytest.raises(ollama.ResponseError) as refused:
        ollama.Client(host=stories).embed("stories", TEXTS)
    assert refused.value.status_code == 400
