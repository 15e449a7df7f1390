"""Measures a server of OpenAI's completions under load, bitnet's or llama-server's.

    python scripts/serving/load.py URL throughput --streams 1,4,16,32 --prompt 256 --answer 256
    python scripts/serving/load.py URL latency --streams 8 --prompt 64 --long 2000
    python scripts/serving/load.py URL first --prompt 512

throughput: so many clients at a time, each with a prompt of its own; tokens written per second, from the first request to
the last answer. latency: time between tokens of streams that write, without and with a long prompt that arrives. first: time
to the first token of a new prompt on an idle server, and of the same prompt again. Prompts are random token numbers below
--vocab, the same ones for the same --seed. Prints a line of JSON for each test. Only Python's own library is needed.
"""

import argparse
import http.client
import json
import random
import statistics
import threading
import time
from urllib.parse import urlsplit


class Stream:
    """One request: when it began, when each piece of its text came, and its tokens."""

    def __init__(self, url, prompt, answer):
        self.url, self.prompt, self.answer = urlsplit(url), prompt, answer
        self.pieces, self.tokens, self.error = [], 0, None
        self.thread = threading.Thread(target=self.run)

    def begin(self):
        self.start = time.perf_counter()
        self.thread.start()
        return self

    def run(self):
        try:
            self.read()
        except Exception as error:  # told with the figures
            self.error = repr(error)
        self.end = time.perf_counter()

    def read(self):
        body = {"prompt": self.prompt, "max_tokens": self.answer, "temperature": 0, "ignore_eos": True, "stream": True,
                "stream_options": {"include_usage": True}, "model": "any"}
        connection = http.client.HTTPConnection(self.url.hostname, self.url.port, timeout=3600)
        connection.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{response.status} {response.read()[:300]}")
        while line := response.readline():
            if not line.startswith(b"data: ") or line.startswith(b"data: [DONE]"):
                continue
            event = json.loads(line[6:])
            if "error" in event:
                raise RuntimeError(event["error"])
            if any(choice.get("text") for choice in event.get("choices", [])):
                self.pieces.append(time.perf_counter())
            if event.get("usage"):
                self.tokens = event["usage"]["completion_tokens"]
        connection.close()

    def gaps(self, since=0.0, until=float("inf")):
        """Seconds between pieces, of those that end within the time."""
        return [b - a for a, b in zip(self.pieces, self.pieces[1:]) if since <= b and a <= until]


def check(streams):
    errors = [stream.error for stream in streams if stream.error]
    if errors:
        raise SystemExit(f"{len(errors)} of {len(streams)} requests failed: {errors[0]}")


def percentile(values, share):
    return sorted(values)[min(len(values) - 1, int(len(values) * share))]


def throughput(args, tokens):
    for count in args.streams:
        start = time.perf_counter()
        streams = [Stream(args.url, tokens(args.prompt), args.answer).begin() for _ in range(count)]
        for stream in streams:
            stream.thread.join()
        check(streams)
        seconds = max(stream.end for stream in streams) - start
        written = sum(stream.tokens for stream in streams)
        # From when all write to when the first has ended.
        since, until = max(s.pieces[0] for s in streams), min(s.end for s in streams)
        together = sum(sum(since < t <= until for t in s.pieces) for s in streams)
        yield {"test": "throughput", "streams": count, "prompt": args.prompt, "answer": args.answer,
               "seconds": round(seconds, 2), "tokens_per_second": round(written / seconds, 2),
               "written_together_per_second": round(together / max(until - since, 1e-9), 2) if until > since else None,
               "first_token_median": round(statistics.median(s.pieces[0] - s.start for s in streams), 3)}


def latency(args, tokens):
    for count in args.streams:
        streams = [Stream(args.url, tokens(args.prompt), args.answer).begin() for _ in range(count)]
        while not all(stream.pieces or stream.error for stream in streams):
            time.sleep(0.05)
        time.sleep(args.steady)
        arrival = time.perf_counter()
        late = Stream(args.url, tokens(args.long), 2).begin()
        late.thread.join()
        done = time.perf_counter()
        for stream in streams:
            stream.thread.join()
        check([*streams, late])
        first = max(stream.pieces[0] for stream in streams)
        steady = [gap for stream in streams for gap in stream.gaps(first, arrival)]
        beside = [gap for stream in streams for gap in stream.gaps(arrival, done)]
        median = statistics.median(steady)
        yield {"test": "latency", "streams": count, "long": args.long, "steady_median": round(median, 4),
               "steady_p99_over_median": round(percentile(steady, 0.99) / median, 2),
               "beside_max": round(max(beside), 3), "beside_max_over_median": round(max(beside) / median, 2),
               "beside_p99_over_median": round(percentile(beside, 0.99) / median, 2),
               "long_first_token": round(late.pieces[0] - late.start, 2), "gaps": [len(steady), len(beside)]}


def first(args, tokens):
    prompt = tokens(args.prompt)
    for name in ("new", "again"):
        stream = Stream(args.url, prompt, 2).begin()
        stream.thread.join()
        check([stream])
        yield {"test": "first", "prompt": args.prompt, "which": name,
               "seconds": round(stream.pieces[0] - stream.start, 4)}


def main():
    """Runs a test."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("url")
    ap.add_argument("test", choices=["throughput", "latency", "first"])
    ap.add_argument("--streams", default="1,4,16", type=lambda text: [int(n) for n in text.split(",")])
    ap.add_argument("--prompt", type=int, default=256)
    ap.add_argument("--answer", type=int, default=256)
    ap.add_argument("--long", type=int, default=2000)
    ap.add_argument("--steady", type=float, default=10.0, help="seconds of writing before the long prompt arrives")
    ap.add_argument("--vocab", type=int, default=100000)
    ap.add_argument("--seed", type=int, default=1)
    args = ap.parse_args()
    rng = random.Random(args.seed)
    tests = {"throughput": throughput, "latency": latency, "first": first}
    for result in tests[args.test](args, lambda count: [rng.randrange(args.vocab) for _ in range(count)]):
        print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
