"""Records how HF tokenizers encodes a text of a megabyte with the vocabularies of tests/golden/tokenizers: long.json there.

    python scripts/golden/long_texts.py            # needs requirements.txt and the files that tokenizers.py writes

The text of `spm` has no string with "<", so that no added token is in it. The text is all strings of strings.json that are UTF-8 and that HF and llama.cpp encode alike with every vocabulary, with
" and then " between, repeated. Each entry holds the number of ids and their hash: h = (h * 1000003 + id) mod 2^64 from 0.
"""

import json
import sys
from pathlib import Path

sys.path.pop(0)  # this folder, whose file names hide the packages of the same names

from tokenizers import Tokenizer

OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "tokenizers"
NAMES = ("llama3", "qwen2", "falcon", "spm")
REPEATS = 12


def main():
    strings = json.loads((OUT / "strings.json").read_text(encoding="utf-8"))
    differ = set()
    for name in NAMES:
        ids = json.loads((OUT / f"{name}.ids.json").read_text(encoding="utf-8"))["llama"]
        differ |= {i for i, other in enumerate(ids) if other is not None}
    chosen = [s for i, s in enumerate(strings) if isinstance(s, str) and i not in differ]
    result = {"repeats": REPEATS}
    for name in NAMES:
        text = " and then ".join([s for s in chosen if name != "spm" or "<" not in s] * REPEATS)
        ids = Tokenizer.from_file(str(OUT / f"{name}.tokenizer.json")).encode(text, add_special_tokens=False).ids
        value = 0
        for token in ids:
            value = (value * 1000003 + token) % 2**64
        result[name] = [len(ids), str(value)]
    (OUT / "long.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
    print(result)


if __name__ == "__main__":
    main()
