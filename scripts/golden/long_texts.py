"""Records how HF tokenizers encodes a text of a megabyte with the vocabularies of tests/golden/tokenizers: long.json there.

    python scripts/golden/long_texts.py            # needs requirements.txt and the files that tokenizers.py writes

The text of `spm` has no string with "<", so that no added token is in it. The text is all strings of strings.json that are UTF-8 and that HF and llama.cpp encode alike with every vocabulary, with
" and then " between, repeated. Each entry holds the number of ids and their hash: h = (h * 1000003 + id) mod 2^64 from 0.

`pieces` are texts in other scripts, with few or no spaces; `texts` holds for each vocabulary the ids of each of them, repeated,
and of a mixture: piece number (x >> 33) mod their count, where x = x * 6364136223846793005 + 1442695040888963407 mod 2^64 from 1.
"""

import json
import sys
from pathlib import Path

sys.path.pop(0)  # this folder, whose file names hide the packages of the same names

from tokenizers import Tokenizer

OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "tokenizers"
NAMES = ("llama3", "qwen2", "falcon", "spm")
REPEATS = 12
PIECE_REPEATS = 4000
PIECES = (
    "Это предложение, в котором нет латинских букв! ",
    "这是一个没有空格的句子，后面还有一个。",
    "この文には空白がありません、でも長いです。",
    '{"key":[1,2.5,"välue"],"n":null},',
    "مرحبا بالعالم، هذا نص. ",
    "สวัสดีชาวโลก ภาษาไทย ",
    "Cafe\u0301, e\u0301! ﬁn½ ²³ ①㍿Å. ",
    "한국어 문장입니다.\r\n\r\n  \tx",
    "don't we'll I'M 12345678 ???!!! ",
)


def mixture():
    """A text of random pieces, by a linear congruential generator that the test repeats."""
    x, pieces = 1, []
    for _ in range(len(PIECES) * PIECE_REPEATS):
        x = (x * 6364136223846793005 + 1442695040888963407) % 2**64
        pieces.append(PIECES[(x >> 33) % len(PIECES)])
    return "".join(pieces)


def hashed(tokenizer, text):
    """The number of tokens of a text, and a hash of them."""
    ids = tokenizer.encode(text, add_special_tokens=False).ids
    value = 0
    for token in ids:
        value = (value * 1000003 + token) % 2**64
    return [len(ids), str(value)]


def main():
    """Writes long.json: counts and hashes of the tokens of long texts."""
    strings = json.loads((OUT / "strings.json").read_text(encoding="utf-8"))
    differ = set()
    for name in NAMES:
        ids = json.loads((OUT / f"{name}.ids.json").read_text(encoding="utf-8"))["llama"]
        differ |= {i for i, other in enumerate(ids) if other is not None}
    chosen = [s for i, s in enumerate(strings) if isinstance(s, str) and i not in differ]
    result = {"repeats": REPEATS, "pieces": PIECES, "piece_repeats": PIECE_REPEATS, "texts": {}}
    for name in NAMES:
        text = " and then ".join([s for s in chosen if name != "spm" or "<" not in s] * REPEATS)
        tokenizer = Tokenizer.from_file(str(OUT / f"{name}.tokenizer.json"))
        result[name] = hashed(tokenizer, text)
        texts = [piece * PIECE_REPEATS for piece in PIECES]
        result["texts"][name] = [hashed(tokenizer, text) for text in [*texts, mixture()]]
    (OUT / "long.json").write_text(json.dumps(result) + "\n", encoding="utf-8")
    print(result)


if __name__ == "__main__":
    main()
