#!/usr/bin/env python3
"""Runs the bitnet program over damaged copies of the repository's small models.

    scripts/mutants.py target/release/bitnet [COUNT]

Each of COUNT (2000) mutants is a golden model, or the tokenizer beside it, with 1 to 4 bytes changed: in the header of the
weights, in a JSON file, or anywhere. The program has to answer with exit code 0, 1 or 2 within 20 seconds, without a panic, a
signal, or more than 64 MiB of memory above what the undamaged model takes. Prints each failure and a summary; exits with 1 if
there was a failure. Needs Python 3.9 and nothing else; Unix only.
"""
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
MODELS = ROOT / "tests/golden/models"
SMALL_TOKENIZER = ROOT / "fuzz/seeds/tokenizer/bytes.json"
MARGIN = 64 << 20
SECONDS = 20


def run(command, folder):
    """Exit code (negative: a signal), peak resident bytes, seconds, and standard error of a command."""
    with open(folder / "stderr", "wb") as errors:
        began = time.monotonic()
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=errors)
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            if time.monotonic() - began > SECONDS:
                process.kill()
                _, status, usage = os.wait4(process.pid, 0)
                return "timeout", usage.ru_maxrss * 1024, SECONDS, ""
            time.sleep(0.002)
    process.returncode = os.waitstatus_to_exitcode(status)
    text = (folder / "stderr").read_text("utf-8", "replace")
    return process.returncode, usage.ru_maxrss * 1024, time.monotonic() - began, text


def commands(program, model, text):
    """The commands that read a model, its text or its tokenizer."""
    return [
        [program, "inspect", "--tensors", str(model)],
        [program, "perplexity", "--all", "--file", str(text), "-m", str(model), "--json"],
        [program, "tokenize", "-m", str(model), "hi there"],
    ]


def copy_of(folder, scratch):
    """A fresh copy of a golden model, with a small tokenizer where it has none."""
    target = scratch / "model"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir()
    for file in folder.iterdir():
        if file.name not in ("expected.safetensors", "meta.json"):
            shutil.copy(file, target / file.name)
    if not list(target.glob("*.gguf")) and not (target / "tokenizer.json").exists():
        shutil.copy(SMALL_TOKENIZER, target / "tokenizer.json")
    return target


def mutate(file, rng):
    """Changes 1 to 4 bytes of a file and says which."""
    data = bytearray(file.read_bytes())
    changed = []
    for _ in range(rng.randint(1, 4)):
        # Headers decide more than weights: half of the changes fall into the first 4 KiB.
        end = min(len(data), 4096) if rng.random() < 0.5 else len(data)
        at = rng.randrange(end)
        value = rng.choice([data[at] ^ (1 << rng.randrange(8)), 0, 0xFF, rng.randrange(256)])
        data[at] = value
        changed.append(f"{at}={value:#x}")
    file.write_bytes(data)
    return f"{file.name}: {', '.join(changed)}"


def main():
    """Runs the mutants; returns 1 if one failed."""
    program = str(Path(sys.argv[1]).resolve())
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 2000
    rng = random.Random(20260101)
    folders = sorted(folder for folder in MODELS.iterdir() if folder.is_dir())
    scratch = Path(tempfile.mkdtemp(prefix="bitnet-mutants-"))
    text = scratch / "text.txt"
    text.write_text("the quick brown fox jumps over the lazy dog\n")
    normal, codes, failures = {}, {}, 0
    for number in range(count):
        folder = rng.choice(folders)
        target = copy_of(folder, scratch)
        ggufs = list(target.glob("*.gguf"))
        model = ggufs[0] if ggufs else target
        if folder not in normal:
            normal[folder] = [run(command, scratch)[1] for command in commands(program, model, text)]
        what = mutate(rng.choice(sorted(target.iterdir())), rng)
        which = rng.randrange(3)
        code, memory, seconds, errors = run(commands(program, model, text)[which], scratch)
        codes[code] = codes.get(code, 0) + 1
        excess = memory - normal[folder][which]
        if code not in (0, 1, 2) or "panicked" in errors or excess > MARGIN:
            failures += 1
            command = " ".join(commands("bitnet", model, text)[which])
            print(f"FAILED {number}: {folder.name}/{what}: {command}: code {code}, {excess >> 20} MiB more, {seconds:.1f} s")
            print("   " + errors.strip()[-300:])
        if sys.stderr.isatty():
            print(f"\r{number + 1}/{count}", end="", file=sys.stderr)
    shutil.rmtree(scratch)
    print(f"{count} mutants: {failures} failures; exit codes {dict(sorted(codes.items(), key=str))}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
