#!/usr/bin/env python3
"""Pulls in both directions between `bitnet` and huggingface_hub, from a small hub on loopback.

    cargo build --release --features hub
    scripts/hub/interchange.py target/release/bitnet        (needs: pip install huggingface_hub)

Ends with 0 if each finds, without a network, what the other has downloaded.
"""

import hashlib
import http.server
import json
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import threading

COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "own/model"
FILES = {
    "README.md": b"# A model\n",
    "config.json": b"{}\n",
    "model.safetensors": random.Random(1).randbytes(3_000_000),
    "chat_templates/tool.jinja": b"{{ messages }}",
}


def is_large(path):
    """Whether the hub keeps a file in its large storage."""
    return path.endswith(".safetensors")


def etag(path):
    """The ETag of a file: SHA-256 if it is large, else the SHA-1 of its git blob."""
    data = FILES[path]
    if is_large(path):
        return hashlib.sha256(data).hexdigest()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


class Hub(http.server.BaseHTTPRequestHandler):
    """Answers as the hub's documentation says."""

    protocol_version = "HTTP/1.1"
    contents_sent = []

    def log_message(self, *_):
        """Prints nothing."""
        pass

    def send(self, status, headers, body=b""):
        """Answers with a status, headers and, except to HEAD, a body."""
        self.send_response(status)
        headers.setdefault("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_json(self, value):
        """Answers with a value as JSON."""
        self.send(200, {"Content-Type": "application/json"}, json.dumps(value).encode())

    def describe(self):
        """The description of the repository at a revision."""

        def sibling(path):
            """The entry of a file in the description."""
            entry = {"rfilename": path, "size": len(FILES[path]), "blobId": etag(path)}
            if is_large(path):
                entry["lfs"] = {"sha256": etag(path), "size": len(FILES[path]), "pointerSize": 134}
            return entry

        return {"id": REPOSITORY, "sha": COMMIT, "siblings": [sibling(path) for path in FILES]}

    def tree(self):
        """The list of the repository's files."""

        def entry(path):
            """The entry of a file in the list."""
            item = {"type": "file", "path": path, "size": len(FILES[path]), "oid": etag(path)}
            if is_large(path):
                item["lfs"] = {"oid": etag(path), "size": len(FILES[path]), "pointerSize": 134}
            return item

        return [entry(path) for path in FILES]

    def do_HEAD(self):
        """Answers as to GET, without the body."""
        self.do_GET()

    def do_GET(self):
        """Answers the two API calls, redirects large files to their storage, and serves ranges."""
        path = self.path.split("?")[0]
        if path.startswith(f"/api/models/{REPOSITORY}/revision/"):
            return self.send_json(self.describe())
        if path.startswith(f"/api/models/{REPOSITORY}/tree/"):
            return self.send_json(self.tree())
        prefix = f"/{REPOSITORY}/resolve/"
        name = path[len(prefix):].split("/", 1)[-1] if path.startswith(prefix) else None
        if path.startswith("/storage/"):
            name = path[len("/storage/"):]
        if name not in FILES:
            return self.send(404, {"X-Error-Code": "EntryNotFound"})
        data = FILES[name]
        if is_large(name) and not path.startswith("/storage/"):
            return self.send(302, {
                "Location": f"http://127.0.0.1:{self.server.server_port}/storage/{name}",
                "X-Repo-Commit": COMMIT,
                "X-Linked-Etag": f'"{etag(name)}"',
                "X-Linked-Size": str(len(data)),
            })
        headers = {"ETag": f'"{etag(name)}"', "X-Repo-Commit": COMMIT}
        if self.command == "GET":
            self.contents_sent.append(name)
        start = self.headers.get("Range")
        if start:
            start = int(start.removeprefix("bytes=").split("-")[0])
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            return self.send(206, headers, data[start:])
        return self.send(200, headers, data)


def main():
    """Runs the pulls in both directions with the program that the first argument names."""
    bitnet = os.path.abspath(sys.argv[1])
    hub = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=hub.serve_forever, daemon=True).start()
    folder = pathlib.Path(tempfile.mkdtemp())
    os.environ["HF_ENDPOINT"] = endpoint = f"http://127.0.0.1:{hub.server_port}"
    os.environ["HF_HOME"] = str(folder / "home")
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "HF_TOKEN"):
        os.environ.pop(name, None)
    import huggingface_hub  # reads its settings when it is imported

    def pull(cache, *arguments, **variables):
        """Runs `bitnet pull` on a cache and returns what it prints."""
        environment = os.environ | {"HF_HUB_CACHE": str(cache)} | variables
        command = [bitnet, "pull", REPOSITORY, *arguments]
        return subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout.strip()

    # What bitnet has pulled, the library finds.
    ours = folder / "ours"
    shown = pull(ours, "--include", "*")
    for path, data in FILES.items():
        found = huggingface_hub.hf_hub_download(REPOSITORY, path, cache_dir=ours, local_files_only=True)
        assert pathlib.Path(found).read_bytes() == data, path
    assert huggingface_hub.snapshot_download(REPOSITORY, cache_dir=ours, local_files_only=True) == shown, shown
    Hub.contents_sent.clear()
    huggingface_hub.snapshot_download(REPOSITORY, cache_dir=ours, endpoint=endpoint)
    assert not Hub.contents_sent, Hub.contents_sent
    print("huggingface_hub", huggingface_hub.__version__, "finds what bitnet has pulled")

    # What the library has downloaded, bitnet finds.
    theirs = folder / "theirs"
    downloaded = huggingface_hub.snapshot_download(REPOSITORY, cache_dir=theirs, endpoint=endpoint)
    Hub.contents_sent.clear()
    assert pull(theirs, HF_HUB_OFFLINE="1", HF_ENDPOINT="http://127.0.0.1:9") == downloaded
    assert pull(theirs, "--include", "*") == downloaded
    assert not Hub.contents_sent, Hub.contents_sent
    print("bitnet finds what huggingface_hub has downloaded")

    # An interrupted download resumes.
    third = folder / "third"
    blobs = third / "models--own--model" / "blobs"
    blobs.mkdir(parents=True)
    (blobs / f"{etag('model.safetensors')}.incomplete").write_bytes(FILES["model.safetensors"][:1_000_000])
    report = json.loads(pull(third, "--json"))
    states = {file["file"]: (file["state"], file["resumed_at"]) for file in report["files"]}
    assert states["model.safetensors"] == ("resumed", 1_000_000), states
    found = huggingface_hub.hf_hub_download(REPOSITORY, "model.safetensors", cache_dir=third, local_files_only=True)
    assert pathlib.Path(found).read_bytes() == FILES["model.safetensors"]
    print("interrupted downloads resume, and the library finds the complete file")


if __name__ == "__main__":
    main()
