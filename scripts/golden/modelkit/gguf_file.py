"""A GGUF writer small enough to write what gguf-py refuses: type ids of forks, version 2, odd paddings."""

import struct
from pathlib import Path

KINDS = {"i8": (1, "<b"), "u32": (4, "<I"), "i32": (5, "<i"), "f32": (6, "<f"), "bool": (7, "<?"), "u64": (10, "<Q")}


def _string(s):
    """A string with its length, as GGUF stores it."""
    b = s.encode()
    return struct.pack("<Q", len(b)) + b


def _value(kind, v):
    """A metadata value with its type."""
    if kind == "str":
        return struct.pack("<I", 8) + _string(v)
    if kind.startswith("["):
        inner = kind[1:-1]
        code = 8 if inner == "str" else KINDS[inner][0]
        body = b"".join(_string(x) if inner == "str" else struct.pack(KINDS[inner][1], x) for x in v)
        return struct.pack("<IIQ", 9, code, len(v)) + body
    code, fmt = KINDS[kind]
    return struct.pack("<I", code) + struct.pack(fmt, v)


def header(kv, infos, version=3, alignment=32):
    """Bytes up to the tensor data. `kv`: (key, kind, value); `infos`: (name, dims in ggml order, type id, nbytes)."""
    out = [b"GGUF", struct.pack("<IQQ", version, len(infos), len(kv))]
    out += [_string(k) + _value(kind, v) for k, kind, v in kv]
    offset = 0
    for name, dims, code, nbytes in infos:
        out.append(_string(name) + struct.pack("<I", len(dims)) + struct.pack(f"<{len(dims)}Q", *dims))
        out.append(struct.pack("<IQ", code, offset))
        offset += nbytes + -nbytes % alignment
    head = b"".join(out)
    return head + bytes(-len(head) % alignment)


def write(path, kv, tensors, version=3, alignment=32):
    """Write a whole file. `tensors`: (name, shape in row-major order, type id, bytes)."""
    infos = [(name, shape[::-1], code, len(raw)) for name, shape, code, raw in tensors]
    with Path(path).open("wb") as f:
        f.write(header(kv, infos, version, alignment))
        for _, _, _, raw in tensors:
            f.write(raw + bytes(-len(raw) % alignment))


def byte_alphabet():
    """GPT-2's printable character of each byte 0..255."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table, extra = {}, 0
    for b in range(256):
        if b in plain:
            table[b] = chr(b)
        else:
            table[b] = chr(256 + extra)
            extra += 1
    return [table[b] for b in range(256)]


def tiny_bpe(vocab):
    """(tokens, token types, merges) of a byte-level BPE with `vocab` entries, the last four of them control tokens."""
    tokens = byte_alphabet()
    merges = []
    pairs = ["Ġ t", "Ġ a", "h e", "i n", "r e", "o n", "Ġt he", "e r", "Ġ s", "a t", "o r", "Ġ w", "e n", "Ġ o", "n d",
             "i t", "Ġ b", "e s", "i s", "o u", "Ġa nd", "in g", "Ġ c", "e d", "Ġ f", "Ġ m", "Ġ p", "a n"]
    for pair in pairs[: vocab - 256 - 4]:
        merges.append(pair)
        tokens.append(pair.replace(" ", ""))
    specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|pad|>", "<|eot_id|>"]
    tokens += [f"<|reserved_{i}|>" for i in range(vocab - len(tokens) - 4)] + specials
    kinds = [1] * (256 + len(merges))
    kinds += [3] * (vocab - len(kinds))
    assert len(tokens) == vocab == len(set(tokens))
    return tokens, kinds, merges
