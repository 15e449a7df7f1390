#!/usr/bin/env python3
"""Keeps a server under load and compares the end with the beginning.

    scripts/soak/soak.py [MINUTES] [PROGRAM] [-- OPTIONS OF bitnet serve]

Starts PROGRAM (target/release/bitnet by default) with little memory for keys and values, lets clients ask, stream, go
away, read slowly and send nonsense for MINUTES (10), and measures step time, resident memory and open files in a window
after a minute of warming up and in one at the end. Between, every answer to a known prompt must be the first one's, and in the
end no page and no request may be left. Ends with code 1 if step time or memory grew by more than 3 %.
"""

import http.client
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CLIENTS = 16
LIMIT = 0.03
WORDS = "once upon a time the little dog sat on a big red mat and the sun was warm".split()

counts, wrong, lock = Counter(), [], threading.Lock()
expected = {}


def connect(port, timeout=60):
    return http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)


def post(connection, body, headers=None):
    connection.request("POST", "/v1/completions", json.dumps(body), headers or {})
    return connection.getresponse()


def note(what):
    with lock:
        counts[what] += 1


def known(port, dice):
    """An answer that must be the same each time."""
    prompt = " ".join(WORDS[: dice.randint(1, len(WORDS))])
    body = {"prompt": prompt, "max_tokens": 32, "temperature": 0, "ignore_eos": True}
    connection = connect(port)
    answer = post(connection, body)
    text = answer.read()
    connection.close()
    if answer.status in (429, 503):
        return note(f"status {answer.status}")
    text = json.loads(text)["choices"][0]["text"]
    with lock:
        if expected.setdefault(prompt, text) != text:
            wrong.append((prompt, expected[prompt], text))
    note("answers")


def stream(port, dice):
    """A stream that is read to some point, at times slowly."""
    body = {"prompt": " ".join(dice.choices(WORDS, k=dice.randint(1, 60))), "max_tokens": dice.randint(1, 120), "stream": True, "n": dice.randint(1, 3)}
    connection = connect(port)
    answer = post(connection, body)
    for _ in range(dice.choice([0, 1, 5, 1000])):
        if not answer.readline():
            note("streams")
            break
        if dice.random() < 0.01:
            time.sleep(0.05)
    else:
        note("streams left")
    connection.close()


def nonsense(port, dice):
    """Requests that must be refused."""
    body = dice.choice([b"{", b"[]", b'{"prompt": "a", "n": -1}', b"[" * 100000, b'{"prompt": [4000000000]}'])
    connection = connect(port)
    connection.request("POST", "/v1/completions", body)
    status = connection.getresponse().status
    connection.close()
    if status not in (400, 429, 503):
        wrong.append((body[:40], 400, status))
    note("refused")


def client(port, seed, end):
    dice = random.Random(seed)
    while time.time() < end:
        try:
            dice.choice([known, known, stream, stream, nonsense])(port, dice)
        except (OSError, http.client.HTTPException) as error:
            note(type(error).__name__)


def metrics(port):
    connection = connect(port)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    connection.close()
    return {name: float(value) for name, value in re.findall(r"^(bitnet_\w+) (\S+)$", text, re.M)}


def measure(port, process, seconds):
    """Returns the mean step time, the mean resident memory and the most open files of a window."""
    first = metrics(port)
    memory, files, end = [], 0, time.time() + seconds
    while time.time() < end:
        status = Path(f"/proc/{process.pid}/status").read_text()
        memory.append(int(re.search(r"VmRSS:\s+(\d+)", status)[1]) * 1024)
        files = max(files, len(os.listdir(f"/proc/{process.pid}/fd")))
        time.sleep(1)
    last = metrics(port)
    steps = last["bitnet_step_seconds_count"] - first["bitnet_step_seconds_count"]
    tokens = sum(last[name] - first[name] for name in ["bitnet_tokens_written_total", "bitnet_prompt_tokens_total"])
    step = (last["bitnet_step_seconds_sum"] - first["bitnet_step_seconds_sum"]) / steps
    return {"step_ms": 1000 * step, "tokens_a_step": tokens / steps, "rss": sum(memory) / len(memory), "files": files}


def main():
    options = sys.argv[1:]
    more = options[options.index("--") + 1 :] if "--" in options else ["--kv-memory", "2", "--parallel", "4"]
    options = options[: options.index("--")] if "--" in options else options
    minutes = float(options[0]) if options else 10
    program = options[1] if len(options) > 1 else str(ROOT / "target/release/bitnet")
    process = subprocess.Popen([program, "serve", "--port", "0", "--json", *more], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    port = int(json.loads(process.stdout.readline())["url"].rsplit(":", 1)[1])
    total = 60 * minutes
    end = time.time() + total
    threads = [threading.Thread(target=client, args=(port, seed, end)) for seed in range(CLIENTS)]
    for thread in threads:
        thread.start()
    window = min(60, total / 4)
    time.sleep(min(60, total / 4))
    first = measure(port, process, window)
    time.sleep(max(0, end - time.time() - window - 1))
    last = measure(port, process, window)
    for thread in threads:
        thread.join()
    for _ in range(600):
        left = metrics(port)
        if left["bitnet_requests_unfinished"] == 0:
            break
        time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    code = process.wait(timeout=60)

    print(json.dumps({"minutes": minutes, "clients": dict(counts), "first": first, "last": last, "end": left}, indent=1))
    problems = []
    # A step takes as long as the tokens in it: the time of a token is compared.
    for name, a, b in [
        ("time of a token in a step", first["step_ms"] / first["tokens_a_step"], last["step_ms"] / last["tokens_a_step"]),
        ("resident memory", first["rss"], last["rss"]),
    ]:
        print(f"{name}: {100 * (b / a - 1):+.2f} %")
        if b > a * (1 + LIMIT):
            problems.append(f"{name} grew by more than {100 * LIMIT:.0f} %")
    for name in ["bitnet_requests_unfinished", "bitnet_texts_active", "bitnet_kv_pages_active", "bitnet_requests_waiting"]:
        if left[name] != 0:
            problems.append(f"{name} is {left[name]} in the end")
    if wrong:
        problems.append(f"{len(wrong)} answers were wrong, the first: {wrong[0]}")
    if code != 0:
        problems.append(f"the server ended with code {code}")
    print("\n".join(problems) or "no problem")
    sys.exit(bool(problems))


if __name__ == "__main__":
    main()
