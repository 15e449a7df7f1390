"""Trains small vocabularies and records how HF tokenizers and llama.cpp encode with them.

Writes to tests/golden/tokenizers, for each of llama3, qwen2, falcon (byte-level BPE) and spm (SentencePiece BPE with byte
fallback): NAME.tokenizer.json, NAME.gguf (vocabulary only) and NAME.ids.json; and strings.json for all of them.
Nothing is downloaded: the training text is made here from Unicode's own data.

    python scripts/golden/tokenizers.py            # needs requirements.txt

NAME.ids.json: `hf` and `llama` hold the ids of every string with special tokens read as such and none added; where
llama.cpp agrees with HF its entry is null. `hf_literal` and `llama_literal` hold, by string number, what differs when special
tokens in the text are not read as such. `hf_added` and `llama_added` hold the ids of the first strings with the tokens that
the tokenizer puts around a text. `hf_decoded` holds the text of the first strings' ids, special tokens left out.
"""

import io
import json
import random
import sys
import unicodedata
from pathlib import Path

sys.path.pop(0)  # this folder, whose file names hide the packages of the same names

import gguf
import llama_cpp
import sentencepiece
import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers.convert_slow_tokenizer import generate_merges

OUT = Path(__file__).resolve().parents[2] / "tests" / "golden" / "tokenizers"
CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
LLAMA3 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
QWEN2 = CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIALS = {
    "llama3": ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
    "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "falcon": ["<|endoftext|>", "<|im_start|>", "<|im_end|>"],
    "spm": ["<s>", "</s>", "<|im_end|>"],
}
BLOCKS = [
    (0x00C0, 0x017F), (0x0370, 0x03FF), (0x0400, 0x045F), (0x0531, 0x0587), (0x05D0, 0x05EA), (0x0621, 0x064A),
    (0x0904, 0x0939), (0x0985, 0x09B9), (0x0B85, 0x0BB9), (0x0E01, 0x0E30), (0x10D0, 0x10F0), (0x1200, 0x1240),
    (0x13A0, 0x13F4), (0x1780, 0x17B3), (0x1E00, 0x1EFF), (0x3041, 0x3096), (0x30A1, 0x30FA), (0x4E00, 0x9FA5),
    (0xAC00, 0xD7A3), (0x10330, 0x1034A), (0x1D400, 0x1D454), (0x20000, 0x20100),
]
EMOJI = ["😀", "👍🏽", "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪", "❤️", "1️⃣", "🧑🏿‍🚀", "☺", "™", "👩🏻‍❤️‍💋‍👨🏼"]
SPACES = [" ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", " \n", "\n ", "\t\t", "\u00a0", "\u3000", "\u2003", "\u200b",
          "\u2028", "\u000b", "\u000c", "\u0085", "\u1680", "\u202f", "\ufeff", "       "]
CONTROL = ["\x00", "\x01", "\x1b[31m", "\x1c", "\x1f", "\x7f", "\u0080", "\u009f", "\u200d", "\u202e", "\ufffd", "\uffff", "\U0010ffff",
           "\ue000", "\u00ad"]
MARKS = ["\u0301", "\u0308", "\u0323", "\u0327", "\u093f", "\u0e31", "\u20dd", "\ufe0f", "\u0f71", "\u1100", "\u1161", "\u11a8"]
CONTRACTED = ["I'm", "don't", "WE'LL", "they've", "he'd", "It's", "YOU'RE", "'Tis", "rock'n'roll", "’s", "l'été", "x'ſ", "'S'T", "o'clock"]
CODE = ["def f(x):\n    return x + 1\n", "for (int i = 0; i < n; ++i) { a[i] *= 2; }", "let s = &v[..3];", "SELECT * FROM t WHERE a<>b;",
        "<div class=\"x\">\n\t<p>&nbsp;</p>\n</div>", "if (a && b || !c) {}", "#include <stdio.h>", "x = {'a': [1, 2, 3]}", "\\frac{1}{2}",
        "$ git commit -m \"fix\"", "http://example.org/a?b=c&d=%20#e", "a_b-c.d@e", "/* ... */", "=>", "!=", "===", "`code`", "^~|$+<=>"]
NUMBERS = ["0", "7", "12", "123", "1234", "12345", "123456789", "3.14159", "1,000,000", "-5e-10", "0xFF", "½", "²", "٣٤٥", "१२३", "Ⅷ", "①",
           "2024-07-26", "12:34:56", "1st", "v1.2.3", "１２３"]


def words(rng):
    """Words of names that Unicode gives its characters, and words of letters of one script."""
    names = [unicodedata.name(chr(c), "").lower() for c in range(0x21, 0x3000)]
    english = sorted({w for n in names for w in n.replace("-", " ").split() if w.isalpha()})
    foreign = []
    for low, high in BLOCKS:
        letters = [chr(c) for c in range(low, high + 1) if unicodedata.category(chr(c)).startswith("L")][:200]
        foreign.append(["".join(rng.choice(letters) for _ in range(rng.randint(1, 7))) for _ in range(60)])
    return english, foreign


def corpus(rng, english, foreign):
    """Lines of made-up text to train the tokenizers on."""
    lines = []
    common = rng.sample(english, 400)
    for _ in range(6000):
        line = [rng.choice(common if rng.random() < 0.8 else english) for _ in range(rng.randint(3, 12))]
        line = [w.capitalize() if rng.random() < 0.1 else w for w in line]
        if rng.random() < 0.3:
            line.insert(rng.randrange(len(line)), rng.choice(rng.choice(foreign)))
        if rng.random() < 0.2:
            line.insert(rng.randrange(len(line)), rng.choice(NUMBERS + CONTRACTED))
        lines.append(" ".join(line) + rng.choice([".", "!", "?", ",", "\n", ""]))
    return lines + CODE * 20 + EMOJI * 5


def strings(rng, english, foreign):
    """The texts to encode, as bytes."""
    texts = ["", " ", "a", " a", "a ", "Hello, world!", "\n", "  ", "é", "e\u0301", "▁", "▁▁a", "a▁b", "<0x41>", "Ġ", "Ċ"]
    specials = sorted({s for group in SPECIALS.values() for s in group} | {"<unk>", "<tool>", "<|eot_id", "|>", "<|"})
    every = SPACES + CONTROL + MARKS + EMOJI + CONTRACTED + CODE + NUMBERS + specials
    texts += every
    texts += [a + b for a in SPACES for b in ("x", "1", "!", "\n", "é", " x ")]
    texts += [b + a for a in SPACES for b in ("x", "1", "!", "'s")]
    texts += [a + s + b for s in specials for a in ("", "x", " ", "\n") for b in ("", "y", " y", "  ")]
    texts += [s + t for s in specials for t in specials]
    texts += [rng.choice("aeiouxyz") + "".join(rng.choice(MARKS) for _ in range(rng.randint(1, 4))) for _ in range(40)]
    texts += [chr(c) for c in range(0x20, 0x180)]
    alphabet = "ab1 2.,'\n\t!?-é中😀"
    texts += ["".join(rng.choice(alphabet) for _ in range(rng.randint(1, 12))) for _ in range(350)]
    for script in foreign:
        texts += [" ".join(rng.choices(script, k=rng.randint(1, 3))) for _ in range(6)]
    while len(texts) < 2150:
        parts = []
        for _ in range(rng.randint(1, 4)):
            kind = rng.random()
            if kind < 0.55:
                parts.append(rng.choice(english))
            elif kind < 0.7:
                parts.append(rng.choice(rng.choice(foreign)))
            else:
                parts.append(rng.choice(every))
        texts.append(rng.choice(["", " "]).join(parts))
    texts.append("".join(rng.choice(" \n\tab") for _ in range(400)))
    texts += [s * 60 for s in (" ", "\n", "a", "1", "!", "\r\n", "é")]
    raw = [t.encode("utf-8") for t in dict.fromkeys(texts)]
    raw += [b"\xff", b"\xc3", b"a\x80b", b"\xe2\x82", b"\xf0\x9f\x98", b"\xf0\x9f\x98\x80\x80", b"\xed\xa0\x80", b"\xc0\xaf", b"\xfe\xfe",
            b"\xf4\x90\x80\x80", b"caf\xe9 au lait", b"\xe4\xb8 x", b"\xf0\x80\x80\x80", b"ab\xf1\x80\x80xy"]
    return raw


def byte_level(name, lines):
    """A byte-level BPE tokenizer with the pre-tokenizer of the named family."""
    if name == "falcon":
        pre = [pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False),
               pre_tokenizers.Digits(individual_digits=False), pre_tokenizers.Split(Regex("[0-9][0-9][0-9]"), "isolated")]
    else:
        pre = [pre_tokenizers.Split(Regex({"llama3": LLAMA3, "qwen2": QWEN2}[name]), "isolated"),
               pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    tok = Tokenizer(models.BPE(ignore_merges=name == "llama3"))
    tok.pre_tokenizer = pre_tokenizers.Sequence(pre)
    tok.decoder = decoders.ByteLevel()
    if name == "qwen2":
        tok.normalizer = normalizers.NFC()
    trainer = trainers.BpeTrainer(vocab_size={"llama3": 1200, "qwen2": 1000, "falcon": 900}[name], show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(lines, trainer)
    tok.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in SPECIALS[name]])
    tok.add_tokens([AddedToken("<tool>", normalized=False, special=False)])
    if name == "llama3":
        bos = "<|begin_of_text|>"
        tok.post_processor = processors.Sequence([
            processors.ByteLevel(trim_offsets=False),
            processors.TemplateProcessing(single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tok.token_to_id(bos))]),
        ])
    return tok


def sentence_piece(lines):
    """A SentencePiece BPE tokenizer, with its pieces, scores and types."""
    blob = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(lines), model_writer=blob, model_type="bpe", vocab_size=1400, byte_fallback=True,
        character_coverage=0.98, normalization_rule_name="identity", remove_extra_whitespaces=False, add_dummy_prefix=True,
        allow_whitespace_only_pieces=True, split_digits=True, control_symbols=["<|im_end|>"], user_defined_symbols=["<tool>"],
        minloglevel=2, num_threads=1)
    sp = sentencepiece.SentencePieceProcessor(model_proto=blob.getvalue())
    pieces = [sp.id_to_piece(i) for i in range(len(sp))]
    scores = [sp.get_score(i) for i in range(len(sp))]

    def kind(i):
        """The piece's type in GGUF."""
        tests = [(sp.is_unknown, 2), (sp.is_control, 3), (sp.is_unused, 5), (sp.is_byte, 6)]
        return next((k for test, k in tests if test(i)), 4 if pieces[i] == "<tool>" else 1)

    types = [kind(i) for i in range(len(sp))]
    vocab = {p: i for i, p in enumerate(pieces)}
    merges = generate_merges(vocab, {p: s for p, s, t in zip(pieces, scores, types) if t == 1})
    merges = [m if isinstance(m, tuple) else tuple(m.split(" ")) for m in merges]
    tok = Tokenizer(models.BPE(vocab=vocab, merges=merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tok.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tok.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tok.post_processor = processors.TemplateProcessing(single="<s> $A", pair="<s> $A <s> $B", special_tokens=[("<s>", vocab["<s>"])])
    tok.add_special_tokens([AddedToken(s, normalized=False, special=True) for s in ["<unk>", *SPECIALS["spm"]]])
    tok.add_tokens([AddedToken("<tool>", normalized=False, special=False)])
    return tok, pieces, scores, types


def write_gguf(path, name, tok, spm=None):
    """Writes a GGUF file with the vocabulary and without tensors."""
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(512)
    writer.add_embedding_length(64)
    writer.add_block_count(1)
    writer.add_feed_forward_length(64)
    writer.add_head_count(1)
    writer.add_layer_norm_rms_eps(1e-5)
    if spm:
        _, pieces, scores, types = spm
        writer.add_tokenizer_model("llama")
        writer.add_token_list(pieces)
        writer.add_token_scores(scores)
        writer.add_token_types(types)
        writer.add_bos_token_id(pieces.index("<s>"))
        writer.add_eos_token_id(pieces.index("</s>"))
        writer.add_unk_token_id(pieces.index("<unk>"))
    else:
        model = json.loads(tok.to_str())["model"]
        count = tok.get_vocab_size()
        tokens = [tok.id_to_token(i) for i in range(count)]
        special = set(SPECIALS[name])
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre({"llama3": "llama-bpe"}.get(name, name))
        writer.add_token_list(tokens)
        writer.add_token_types([3 if t in special else 4 if t == "<tool>" else 1 for t in tokens])
        writer.add_token_merges([" ".join(m) for m in model["merges"]])
        writer.add_bos_token_id(tokens.index(SPECIALS[name][0]))
        writer.add_eos_token_id(tokens.index(SPECIALS[name][1 if name == "llama3" else 0]))
        if name == "llama3":
            writer.add_add_bos_token(True)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def record(name, tok, raw):
    """Writes the ids of every string by both libraries."""
    llama = llama_cpp.Llama(str(OUT / f"{name}.gguf"), vocab_only=True, verbose=False)
    texts = [r.decode("utf-8", errors="replace") for r in raw]

    def hf(text, literal=False, added=False):
        """Ids by the tokenizers library."""
        tok.encode_special_tokens = literal
        return tok.encode(text, add_special_tokens=added).ids

    def cpp(text, literal=False, added=False):
        """Ids by llama.cpp."""
        return llama.tokenize(text.encode("utf-8"), add_bos=added, special=not literal)

    ours = [hf(t) for t in texts]
    theirs = [cpp(t) for t in texts]
    result = {
        "versions": {"tokenizers": tokenizers.__version__, "llama-cpp-python": llama_cpp.__version__},
        "hf": ours,
        "llama": [None if a == b else b for a, b in zip(ours, theirs)],
        "hf_literal": {i: ids for i, t in enumerate(texts) if (ids := hf(t, literal=True)) != ours[i]},
        "llama_literal": {i: ids for i, t in enumerate(texts) if (ids := cpp(t, literal=True)) != theirs[i]},
        "hf_added": [hf(t, added=True) for t in texts[:24]],
        "llama_added": [cpp(t, added=True) for t in texts[:24]],
        "hf_decoded": [tok.decode(ids, skip_special_tokens=True) for ids in ours[:400]],
    }
    (OUT / f"{name}.ids.json").write_text(json.dumps(result, ensure_ascii=False, separators=(",", ":")), encoding="utf-8")
    disagree = sum(b is not None for b in result["llama"])
    print(f"{name}: {len(texts)} strings, {disagree} on which HF and llama.cpp disagree, {tok.get_vocab_size()} tokens")


def main():
    """Writes the strings, and for each tokenizer its files and ids."""
    OUT.mkdir(parents=True, exist_ok=True)
    rng = random.Random(20260101)
    english, foreign = words(rng)
    lines = corpus(rng, english, foreign)
    raw = strings(rng, english, foreign)

    def entry(r):
        """A string for JSON; bytes that are not UTF-8 in hexadecimal."""
        try:
            return r.decode("utf-8")
        except UnicodeDecodeError:
            return {"hex": r.hex()}

    (OUT / "strings.json").write_text(json.dumps([entry(r) for r in raw], separators=(",", ":")), encoding="utf-8")
    for name in ("llama3", "qwen2", "falcon", "spm"):
        spm = sentence_piece(lines) if name == "spm" else None
        tok = spm[0] if spm else byte_level(name, lines)
        compact = json.dumps(json.loads(tok.to_str()), ensure_ascii=False, separators=(",", ":"))
        (OUT / f"{name}.tokenizer.json").write_text(compact, encoding="utf-8")
        write_gguf(OUT / f"{name}.gguf", name, tok, spm)
        record(name, tok, raw)


if __name__ == "__main__":
    main()
