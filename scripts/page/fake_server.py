#!/usr/bin/env python3
"""Serves the chat page with answers from a script, to look at the page and to test it without a model.

    scripts/page/fake_server.py [--port 8099] [--chat]

Without `--chat` the server has no chat template, like the story model. A word in the last message (or in the text to
be continued) selects what is played:

    #slow      20 pieces a second           #fast      a table, code and lists at once
    #long      10,000 tokens                #progress  a prompt that is read for two seconds
    #reason    reasoning, then an answer    #cut       finish_reason "length"
    #error     an error in mid-stream       #drop      the connection closes in mid-stream
    #busy      HTTP 429 with Retry-After    #hostile   the texts that the test puts into `State.hostile`

It listens on 127.0.0.1 only.
"""

import argparse
import base64
import hashlib
import http.server
import json
import pathlib
import re
import socket
import threading
import time

PAGE = pathlib.Path(__file__).resolve().parents[2] / "bitnet-server" / "page" / "index.html"

STORY = (
    ", a girl named Rosie found a small boat by the pond. It was red, and it had no oars. \"Whose boat is this?\" asked Rosie."
    " A frog looked up from the reeds. \"It belongs to the wind,\" said the frog. \"Sit down, and it will take you home.\""
    "\n\nSo Rosie sat down. The wind came over the hill, and the little boat went across the water, past the ducks and the"
    " tall grass, until it touched the stones below her house. Her mother stood at the door with a lamp. \"You are late,\" she"
    " said, and smiled."
)

TABLES = """Both are stable, and both are easy to write. They differ in the work they do.

## In short

| Method | Comparisons | Extra memory |
|---|---:|---:|
| Insertion sort | n² / 4 on average | none |
| Merge sort | n log₂ n at most | n elements |

- **Insertion sort** is quick for short or nearly sorted lists:
  - it moves each element to its place,
  - it stops as soon as the place is found.
- **Merge sort** splits the list, sorts both halves and merges them.

```rust
fn insertion_sort(list: &mut [u32]) {
    for i in 1..list.len() {
        let mut j = i;
        while j > 0 && list[j - 1] > list[j] {
            list.swap(j - 1, j);
            j -= 1;
        }
    }
}
```

1. Below about 32 elements, take the first.
2. Above, take the second.

> Libraries do both: they merge long runs and insert in short ones.

See [the book](https://doc.rust-lang.org/std/primitive.slice.html#method.sort) of the standard library.
"""

REASONING = "The question is about colour.\n\n1. Light is scattered by air.\n2. Blue is scattered **more** than red.\n"
SKY = "Air scatters *blue* light more than red light, so blue reaches the eye from every direction of the sky."


def pieces(text):
    """Splits a text into pieces of about the size of tokens."""
    return re.findall(r"\s*\S{1,6}|\s+", text)


class State:
    """What the server answers and what it saw; tests read and write it."""

    def __init__(self, template=None, context=256):
        self.template = template
        self.context = context
        self.key = None
        self.hostile = []
        self.requests = []
        self.cancelled = 0
        self.paths = []
        self.strict = False

    def script(self, text):
        """Returns (pieces, seconds between pieces, options) for the words in a text."""
        if "#long" in text:
            word = "A river runs by the old mill, and **nobody** knows its `source`.\n\n"
            return (pieces(word * 10_000)[:10_000], 0.0001, {})
        if "#hostile" in text:
            return (["\n\n".join(self.hostile)], 0, {})
        if "#fast" in text or "Compare two ways" in text:
            return (pieces(TABLES), 0.0005, {})
        if "#reason" in text:
            return (pieces(SKY), 0.005, {"reasoning": pieces(REASONING)})
        if "#slow" in text:
            return (pieces(STORY), 0.05, {})
        if "#progress" in text:
            return (pieces(STORY), 0.001, {"progress": True})
        if "#cut" in text:
            return (pieces(STORY)[:30], 0.002, {"finish": "length"})
        if "#error" in text:
            return (pieces(STORY)[:20], 0.002, {"error": True})
        if "#drop" in text:
            return (pieces(STORY)[:20], 0.002, {"drop": True})
        return (pieces(STORY), 0.004, {})


def policy(page, strict=False):
    """Returns the Content-Security-Policy for the page: one script and one style, by their hashes."""
    def source(tag):
        found = re.findall(rf"<{tag}>(.*?)</{tag}>".encode(), page, re.S)
        assert len(found) == 1, f"{len(found)} elements <{tag}>: the policy allows one"
        return "'sha256-" + base64.b64encode(hashlib.sha256(found[0]).digest()).decode() + "'"

    rules = (
        f"default-src 'none'; script-src {source('script')}; style-src {source('style')}; connect-src 'self'; "
        "base-uri 'none'; frame-ancestors 'none'; img-src data:"
    )
    return rules + ("; require-trusted-types-for 'script'; trusted-types 'none'; form-action 'none'" if strict else "")


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    state = None

    def log_message(self, *arguments):
        pass

    def send(self, status, body, kind="application/json", headers=()):
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(data)))
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def refuse(self, status, message, kind, headers=()):
        self.send(status, {"error": {"message": message, "type": kind, "param": None, "code": None}}, headers=headers)

    def allowed(self):
        if self.state.key and self.headers.get("Authorization") != f"Bearer {self.state.key}":
            self.refuse(401, "Incorrect API key provided.", "invalid_request_error")
            return False
        return True

    def do_GET(self):
        path = self.path.split("?")[0]
        self.state.paths.append(self.path)
        if path == "/":
            page = PAGE.read_bytes()
            return self.send(200, page, "text/html; charset=utf-8", [
                ("Content-Security-Policy", policy(page, self.state.strict)), ("X-Content-Type-Options", "nosniff"),
            ])
        if path == "/health":
            return self.send(200, {"status": "ok"})
        if not self.allowed():
            return None
        if path == "/props":
            return self.send(200, {
                "default_generation_settings": {
                    "n_ctx": self.state.context,
                    "params": {"temperature": 0.8, "top_k": 40, "top_p": 0.95, "min_p": 0.05},
                },
                "total_slots": 4, "model_path": "stories.gguf", "chat_template": self.state.template,
            })
        if path == "/v1/models":
            name = "stories" if self.state.template is None else "bitnet-b1.58-2B-4T"
            return self.send(200, {"object": "list", "data": [{"id": name, "object": "model"}]})
        return self.refuse(404, f"There is nothing at {path}.", "not_found_error")

    def do_POST(self):
        self.state.paths.append(self.path)
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.allowed():
            return
        chat = self.path == "/v1/chat/completions"
        if not chat and self.path != "/v1/completions":
            return self.refuse(404, f"There is nothing at {self.path}.", "not_found_error")
        self.state.requests.append(body)
        if chat:
            asked = [message["content"] for message in body["messages"] if message["role"] == "user"]
            text = asked[-1]
        else:
            text = body["prompt"]
        if "#busy" in text:
            return self.refuse(429, "All 4 slots are in use.", "rate_limit_error", [("Retry-After", "7")])
        try:
            self.play(chat, text, body)
        except (BrokenPipeError, ConnectionResetError):
            self.state.cancelled += 1
            self.close_connection = True

    def play(self, chat, text, body):
        parts, pause, options = self.state.script(text)
        parts = parts[: body.get("max_tokens") or len(parts)]
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

        def write(data):
            self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
            self.wfile.flush()

        def event(value):
            write(b"data: " + json.dumps(value).encode() + b"\n\n")

        def chunk(content=None, finish=None, **extra):
            delta = {"delta": content or {"content": ""}} if chat else {"text": (content or {}).get("content", "")}
            event({"id": "c", "object": "chunk", "choices": [{"index": 0, **delta, "finish_reason": finish}], **extra})

        total = 2048 if options.get("progress") else 48
        cached = min(32, total)
        if options.get("progress"):
            for processed in range(cached, total + 1, 96):
                chunk(prompt_progress={"total": total, "cache": cached, "processed": processed, "time_ms": (processed - cached) + 1})
                time.sleep(0.1)
        write(b": a comment\n\n")
        began = time.monotonic()
        for part in options.get("reasoning", []):
            chunk({"content": "", "reasoning_content": part})
            time.sleep(pause)
        for part in parts:
            chunk({"content": part})
            if pause:
                time.sleep(pause)
        if options.get("error"):
            event({"error": {"message": "The model produced a value that is not a number.", "type": "server_error"}})
            return write(b"")
        if options.get("drop"):
            self.close_connection = True
            return self.connection.shutdown(socket.SHUT_RDWR)
        spent = (time.monotonic() - began) * 1000
        made = len(parts) + len(options.get("reasoning", []))
        chunk(finish=options.get("finish", "stop"))
        event({
            "id": "c", "object": "chunk", "choices": [],
            "usage": {
                "prompt_tokens": total, "completion_tokens": made, "total_tokens": total + made,
                "prompt_tokens_details": {"cached_tokens": cached},
            },
            "timings": {
                "prompt_n": total - cached, "prompt_ms": 120.0, "prompt_per_second": 130.0, "predicted_n": made,
                "predicted_ms": spent, "predicted_per_second": made / max(spent, 1e-3) * 1000, "cache_n": cached,
            },
        })
        write(b"data: [DONE]\n\n")
        self.wfile.write(b"0\r\n\r\n")


class Server(http.server.ThreadingHTTPServer):
    """A server that closes its connections when it stops, idle ones too."""

    daemon_threads = True

    def __init__(self, *arguments):
        self.sockets = set()
        super().__init__(*arguments)

    def process_request(self, request, client_address):
        self.sockets.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request):
        self.sockets.discard(request)
        super().shutdown_request(request)

    def handle_error(self, request, client_address):
        pass

    def stop(self):
        self.shutdown()
        self.server_close()
        for sock in list(self.sockets):
            try:
                sock.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass


def start(port=0, **options):
    """Starts a server on a thread; returns (server, state, address)."""
    state = State(**options)
    handler = type("Page", (Handler,), {"state": state})
    server = Server(("127.0.0.1", port), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return server, state, f"http://127.0.0.1:{server.server_address[1]}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=8099)
    parser.add_argument("--chat", action="store_true", help="have a chat template")
    arguments = parser.parse_args()
    template, context = ("{{ messages }}", 4096) if arguments.chat else (None, 256)
    _, _, address = start(arguments.port, template=template, context=context)
    print(address, flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
