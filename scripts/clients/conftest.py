"""Official clients against `bitnet serve`: what the model writes is of no matter, the form of the answers is.

    python3 -m venv venv && venv/bin/pip install -r scripts/clients/requirements.txt
    venv/bin/pytest scripts/clients [--bitnet target/release/bitnet]

Three servers are started on the loopback interface: the embedded model as it is (`stories`), with a chat template
(`chat`), and a model for embeddings from tests/golden (`embedder`).
"""

import json
import pathlib
import subprocess

import pytest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent


def pytest_addoption(parser):
    parser.addoption("--bitnet", default=str(ROOT / "target/release/bitnet"), help="the program")


def serve(config, *arguments):
    program = [config.getoption("--bitnet"), "--json", "serve", "--port", "0", *arguments]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.terminate()


@pytest.fixture(scope="session")
def stories(pytestconfig):
    yield from serve(pytestconfig, "--name", "stories")


@pytest.fixture(scope="session")
def chat(pytestconfig):
    template = str(HERE / "template.jinja")
    yield from serve(pytestconfig, "--name", "stories", "--chat-template", template)


@pytest.fixture(scope="session")
def embedder(pytestconfig):
    model = ROOT / "tests/golden/models/gguf-gemma3-embedding-i2s/model.gguf"
    yield from serve(pytestconfig, "--name", "embedder", "--model", str(model))
