"""Writes GGUF files in the shapes of published models, with random ternary weights, to measure speed and memory.

    python scripts/golden/shapes.py SHAPE TYPE OUT.gguf

SHAPE is bitnet-2b-4t, qwen3-8b, bonsai-2-2b or bonsai-2-27b. TYPE is the type of the ternary matrices: I2_S, TQ2_0, Q2_0,
PQ2_0 or PTQ1_0. A model of the Bonsai 2 line is stored rotated (`prism.hadamard.*`), embedding and head included. With I2_S
the shape of BitNet has the architecture name of Microsoft's files, else that of llama.cpp. Tensors are written one by one:
memory stays below 1 GiB.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
# This folder also holds a tokenizers.py: it must not shadow the package of that name, so it goes last on the path.
sys.path = [p for p in sys.path if Path(p or ".").resolve() != HERE] + [str(HERE)]

import numpy as np  # noqa: E402

from modelkit import gguf_file  # noqa: E402

F32, Q6_K = 0, 14
# Type number, weights and bytes of a block, place of its f16 scale, trits in a byte (4: two bits each).
TYPES = {"TQ2_0": (35, 256, 66, 64, 4), "Q2_0": (42, 64, 18, 0, 4), "PQ2_0": (142, 128, 34, 0, 4),
         "PTQ1_0": (143, 128, 28, 26, 5),
         # One scale for a tensor, after its codes.
         "I2_S": (36, 128, 32, None, 4)}
I2_S_TAIL = 32


@dataclass
class Shape:
    """Dimensions of a model; those of delta layers are 0 where it has none."""

    layers: int
    hidden: int
    ffn: int
    heads: int
    kv_heads: int
    head_dim: int
    vocab: int
    tied: bool
    rotation: int = 0
    key_heads: int = 0
    value_heads: int = 0
    delta_dim: int = 128
    is_bitnet: bool = False


SHAPES = {
    "bitnet-2b-4t": Shape(30, 2560, 6912, 20, 5, 128, 128256, True, is_bitnet=True),
    "qwen3-8b": Shape(36, 4096, 12288, 32, 8, 128, 151936, False),
    "bonsai-2-2b": Shape(24, 2048, 6144, 8, 2, 256, 248320, True, 1024, 16, 16),
    "bonsai-2-27b": Shape(64, 5120, 17408, 24, 4, 256, 248320, False, 1024, 16, 48),
}


def tensors(s):
    """(name, shape, kind) of every tensor; kind "ternary", "head", "norm", "small" or "decay"."""
    yield "token_embd.weight", (s.vocab, s.hidden), "head" if s.is_bitnet else "ternary"
    hybrid = s.key_heads > 0
    second = "post_attention_norm" if hybrid else "ffn_norm"
    queries, keys, values = s.heads * s.head_dim, s.kv_heads * s.head_dim, s.value_heads * s.delta_dim
    channels = 2 * s.key_heads * s.delta_dim + values
    for i in range(s.layers):
        p = f"blk.{i}."
        yield p + "attn_norm.weight", (s.hidden,), "norm"
        if hybrid and i % 4 != 3:
            yield p + "attn_qkv.weight", (channels, s.hidden), "ternary"
            yield p + "attn_gate.weight", (values, s.hidden), "ternary"
            yield p + "ssm_alpha.weight", (s.value_heads, s.hidden), "small"
            yield p + "ssm_beta.weight", (s.value_heads, s.hidden), "small"
            yield p + "ssm_conv1d.weight", (channels, 4), "small"
            yield p + "ssm_a", (s.value_heads,), "decay"
            yield p + "ssm_dt.bias", (s.value_heads,), "small"
            yield p + "ssm_norm.weight", (s.delta_dim,), "norm"
            yield p + "ssm_out.weight", (s.hidden, values), "ternary"
        else:
            yield p + "attn_q.weight", (queries * (1 + hybrid), s.hidden), "ternary"
            yield p + "attn_k.weight", (keys, s.hidden), "ternary"
            yield p + "attn_v.weight", (keys, s.hidden), "ternary"
            if s.is_bitnet:
                yield p + "attn_sub_norm.weight", (queries,), "norm"
                yield p + "ffn_sub_norm.weight", (s.ffn,), "norm"
            else:
                yield p + "attn_q_norm.weight", (s.head_dim,), "norm"
                yield p + "attn_k_norm.weight", (s.head_dim,), "norm"
            yield p + "attn_output.weight", (s.hidden, queries), "ternary"
        yield p + second + ".weight", (s.hidden,), "norm"
        yield p + "ffn_gate.weight", (s.ffn, s.hidden), "ternary"
        yield p + "ffn_up.weight", (s.ffn, s.hidden), "ternary"
        yield p + "ffn_down.weight", (s.hidden, s.ffn), "ternary"
    yield "output_norm.weight", (s.hidden,), "norm"
    if not s.tied:
        yield "output.weight", (s.vocab, s.hidden), "ternary" if hybrid else "head"


def code(kind, ternary):
    """The number of the type that stores a tensor."""
    return {"ternary": TYPES[ternary][0], "head": Q6_K}.get(kind, F32)


def size(shape, kind, ternary):
    """Bytes of a tensor."""
    count = int(np.prod(shape))
    if kind == "ternary":
        _, block, size, _, _ = TYPES[ternary]
        return count // block * size + (I2_S_TAIL if ternary == "I2_S" else 0)
    return count // 256 * 210 if kind == "head" else 4 * count


def blocks(rng, count, ternary, scale):
    """`count` blocks of random trits, with scales around `scale`."""
    _, _, size, place, trits = TYPES[ternary]
    digits = rng.integers(0, 3, (count, size, trits), np.uint8)
    if trits == 4:
        raw = (digits << np.array([0, 2, 4, 6], np.uint8)).sum(2, dtype=np.uint8)
    else:
        number = (digits * np.array([81, 27, 9, 3, 1], np.uint8)).sum(2, dtype=np.uint16)
        raw = ((number * 256 + 242) // 243).astype(np.uint8)
    if place is None:
        return raw
    scales = (scale * rng.uniform(0.5, 1.5, count)).astype("<f2")
    raw[:, place:place + 2] = scales.view(np.uint8).reshape(count, 2)
    return raw


def pieces(rng, shape, kind, ternary):
    """Bytes of a tensor, a piece at a time."""
    scale = 1.2 / np.sqrt(shape[-1])
    count = int(np.prod(shape))
    if kind == "ternary":
        left = count // TYPES[ternary][1]
        while left:
            n = min(left, 1 << 19)
            yield blocks(rng, n, ternary, scale).tobytes()
            left -= n
        if ternary == "I2_S":
            yield np.float32(scale).tobytes() + bytes(I2_S_TAIL - 4)
    elif kind == "head":
        for row in range(0, shape[0], 4096):
            raw = rng.integers(0, 256, (min(4096, shape[0] - row) * shape[1] // 256, 210), np.uint8)
            raw[:, 192:208] = rng.integers(1, 127, (len(raw), 16), np.uint8)
            raw[:, 208:] = np.frombuffer(np.float16(scale / 2500).tobytes(), np.uint8)
            yield raw.tobytes()
    else:
        numbers = {"norm": lambda: rng.normal(1, 0.1, shape), "decay": lambda: -rng.uniform(0.05, 8, shape),
                   "small": lambda: rng.normal(0, scale, shape)}[kind]()
        yield numbers.astype("<f4").tobytes()


def rotation(s, names):
    """The keys `prism.hadamard.*`, version 1."""
    widths = sorted({shape[-1] for _, shape, kind in names if kind == "ternary"})
    signs = np.random.default_rng(1).choice([-1, 1], sum(widths))
    p = "prism.hadamard."
    ternary = [name for name, _, kind in names if kind == "ternary"]
    return [
        (p + "version", "u32", 1), (p + "transform", "str", "normalized-sylvester-walsh-hadamard"),
        (p + "block_size", "u32", s.rotation), (p + "axis", "str", "input-last-dimension"),
        (p + "sign_mode", "str", "explicit"), (p + "sign_widths", "[i32]", widths),
        (p + "sign_values", "[i8]", signs.tolist()), (p + "weight_names", "[str]", ternary[1:]),
        (p + "inverse_weight_names", "[str]", ternary[:1]), (p + "gdn_v_grouped", "bool", True),
    ]


def architecture(s, ternary):
    """(name, eps of the norms, base of RoPE, `tokenizer.ggml.pre`)."""
    if s.is_bitnet:
        return "bitnet-b1.58" if ternary == "I2_S" else "bitnet", 1e-5, 5e5, "llama-bpe"
    return ("qwen35", 1e-6, 1e7, "qwen35") if s.key_heads else ("qwen3", 1e-6, 1e6, "qwen2")


def metadata(name, s, names, ternary):
    """(key, kind, value) of every entry."""
    hybrid = s.key_heads > 0
    arch, eps, base, pre = architecture(s, ternary)
    a = arch + "."
    kv = [("general.architecture", "str", arch), ("general.name", "str", name + " shape, random weights"),
          (a + "context_length", "u32", 4096 if s.is_bitnet else 40960), (a + "embedding_length", "u32", s.hidden),
          (a + "block_count", "u32", s.layers), (a + "feed_forward_length", "u32", s.ffn),
          (a + "attention.head_count", "u32", s.heads), (a + "attention.head_count_kv", "u32", s.kv_heads),
          (a + "attention.key_length", "u32", s.head_dim), (a + "attention.value_length", "u32", s.head_dim),
          (a + "attention.layer_norm_rms_epsilon", "f32", eps), (a + "rope.freq_base", "f32", base)]
    if s.is_bitnet:
        kv += [(a + "rope.dimension_count", "u32", s.head_dim), (a + "vocab_size", "u32", s.vocab)]
    if hybrid:
        kv += [(a + "rope.dimension_count", "u32", 64), (a + "rope.dimension_sections", "[i32]", [11, 11, 10, 0]),
               (a + "ssm.conv_kernel", "u32", 4), (a + "ssm.state_size", "u32", s.delta_dim),
               (a + "ssm.group_count", "u32", s.key_heads), (a + "ssm.time_step_rank", "u32", s.value_heads),
               (a + "ssm.inner_size", "u32", s.value_heads * s.delta_dim), (a + "full_attention_interval", "u32", 4)]
    if s.rotation:
        kv += rotation(s, names)
    tokens, kinds, merges = gguf_file.tiny_bpe(s.vocab)
    return kv + [
        ("tokenizer.ggml.model", "str", "gpt2"), ("tokenizer.ggml.pre", "str", pre),
        ("tokenizer.ggml.tokens", "[str]", tokens), ("tokenizer.ggml.token_type", "[i32]", kinds),
        ("tokenizer.ggml.merges", "[str]", merges), ("tokenizer.ggml.eos_token_id", "u32", s.vocab - 3),
        ("tokenizer.ggml.padding_token_id", "u32", s.vocab - 2), ("tokenizer.ggml.add_bos_token", "bool", False)]


def main():
    """Writes the file."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("shape", choices=SHAPES)
    ap.add_argument("type", choices=TYPES)
    ap.add_argument("out", type=Path)
    args = ap.parse_args()
    shape = SHAPES[args.shape]
    names = list(tensors(shape))
    infos = [(name, dims[::-1], code(kind, args.type), size(dims, kind, args.type)) for name, dims, kind in names]
    rng = np.random.default_rng(2026)
    with args.out.open("wb") as f:
        f.write(gguf_file.header(metadata(args.shape, shape, names, args.type), infos))
        for (name, dims, kind), (_, _, _, expected) in zip(names, infos):
            written = sum(f.write(piece) for piece in pieces(rng, dims, kind, args.type))
            assert written == expected, name
            f.write(bytes(-written % 32))
    print(args.out, args.out.stat().st_size, "bytes")


if __name__ == "__main__":
    main()
