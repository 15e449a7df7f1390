"""`llm-comply`: answers against the published schemas of the APIs."""

import json
import pathlib
import subprocess
import sys

import pytest

# Pictures, and calls that are forced, are refused; a conversation by OpenAI's older route needs no `model`.
BEYOND = {
    "openai-chat": {"chat-tool-calling", "chat-image-input", "chat-error-handling"},
    "open-responses": {"tool-calling", "image-input"},
    "anthropic": {"anth-tool-calling", "anth-image-input"},
}


@pytest.mark.parametrize("form", BEYOND)
def test_answers_comply(chat, form):
    program = str(pathlib.Path(sys.executable).parent / "llm-comply")
    arguments = ["-u", f"{chat}/v1", "-k", "none", "-m", "stories", "--format", form, "--json"]
    found = subprocess.run([program, *arguments], capture_output=True, text=True, check=False)
    results = json.loads(found.stdout)["results"]
    failed = {result["id"]: result["errors"] for result in results if result["status"] == "failed"}
    assert set(failed) <= BEYOND[form], failed
