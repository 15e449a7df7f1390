"""Trains a tiny tokenizer in the form of GPT-NeoX's (TriLM) and records how transformers encodes with it.

    python scripts/golden/neox_tokenizer.py        # needs requirements.txt

Writes tests/golden/tokenizers/neox: a folder with tokenizer.json and tokenizer_config.json, the same vocabulary as vocab.gguf, and
ids.json with the ids of every string of strings.json that is UTF-8: `plain` without and `added` with the tokens around a text,
`decoded` the text of the first ones. As published: NFC, byte-level BPE with GPT-2's pattern and no space before the first word,
runs of spaces as added tokens that are no special tokens, one token for the beginning and the end that is put around no text.
"""

import json
import sys
from pathlib import Path

sys.path.pop(0)  # this folder, whose file names hide the packages of the same names

import gguf
import tokenizers
import transformers
from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

ROOT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "tokenizers"
OUT = ROOT / "neox"
END = "<|endoftext|>"
PAD = "<|padding|>"


def trained(lines):
    """The tokenizer."""
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, trim_offsets=True)
    tok.decoder = decoders.ByteLevel(add_prefix_space=False, trim_offsets=True)
    tok.post_processor = processors.ByteLevel(add_prefix_space=False, trim_offsets=True)
    trainer = trainers.BpeTrainer(vocab_size=640, show_progress=False, special_tokens=[END, PAD],
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(lines, trainer)
    tok.add_tokens([AddedToken(" " * n, normalized=True, special=False) for n in range(24, 1, -1)])
    return tok


def write_gguf(path, tok):
    """The vocabulary without tensors, as llama.cpp's converter writes it."""
    writer = gguf.GGUFWriter(path, "llama")
    tokens = [tok.id_to_token(i) for i in range(tok.get_vocab_size())]
    spaces = {" " * n for n in range(2, 25)}
    kinds = [3 if t in (END, PAD) else 4 if t in spaces else 1 for t in tokens]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("olmo")
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    writer.add_token_merges([" ".join(m) for m in json.loads(tok.to_str())["model"]["merges"]])
    writer.add_bos_token_id(tokens.index(END))
    writer.add_eos_token_id(tokens.index(END))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def main():
    """Writes the files."""
    OUT.mkdir(parents=True, exist_ok=True)
    entries = json.loads((ROOT / "strings.json").read_text(encoding="utf-8"))
    texts = [t for t in entries if isinstance(t, str)]
    tok = trained([t for t in texts if t.isascii()])
    compact = json.dumps(json.loads(tok.to_str()), ensure_ascii=False, separators=(",", ":"))
    (OUT / "tokenizer.json").write_text(compact, encoding="utf-8")
    config = {"add_prefix_space": False, "bos_token": END, "eos_token": END, "unk_token": END, "pad_token": PAD,
              "clean_up_tokenization_spaces": True, "model_max_length": 2048, "tokenizer_class": "GPTNeoXTokenizer"}
    (OUT / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    write_gguf(OUT / "vocab.gguf", tok)
    hf = transformers.AutoTokenizer.from_pretrained(OUT)
    result = {
        "versions": {"tokenizers": tokenizers.__version__, "transformers": transformers.__version__},
        "class": type(hf).__name__,
        "plain": [hf(t, add_special_tokens=False).input_ids for t in texts],
        "added": [hf(t).input_ids for t in texts[:24]],
        "decoded": [hf.decode(hf(t).input_ids, skip_special_tokens=True, clean_up_tokenization_spaces=False) for t in texts[:200]],
    }
    (OUT / "ids.json").write_text(json.dumps(result, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    print(f"{len(texts)} strings, {len(hf)} tokens, class {result['class']}")


if __name__ == "__main__":
    main()
