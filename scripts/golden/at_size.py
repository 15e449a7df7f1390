"""Writes a random checkpoint of the exact shape of BitNet b1.58 2B-4T and what transformers computes with it.

    python scripts/golden/at_size.py OUT_DIR

    OUT_DIR/hf/            config.json, generation_config.json, model.safetensors (packed, tied, bfloat16 embedding)
    OUT_DIR/gguf/model.gguf   the same values: I2_S, F16 embedding, tied
    OUT_DIR/expected.safetensors, OUT_DIR/meta.json   logits of a 16-token prompt, layer outputs, noise

Both files are written tensor by tensor. The truth is computed with transformers' own BitNetDecoderLayer and
AutoBitLinear, holding one layer's weights at a time in float32 and in float64, read back from model.safetensors.
About 2.4 GB of files; peak memory about 3 GiB; ten minutes on a busy core.
"""

import argparse
import json
import os
import resource
import struct
import sys
import time
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # the quantisers run as written, not as a compiler fuses them
os.environ["HF_HUB_OFFLINE"] = "1"
HERE = Path(__file__).resolve().parent
# This folder also holds a tokenizers.py: it must not shadow the package of that name, so it goes last on the path.
sys.path = [p for p in sys.path if Path(p or ".").resolve() != HERE] + [str(HERE)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from safetensors import safe_open  # noqa: E402
from torch import nn  # noqa: E402
from transformers import BitNetConfig  # noqa: E402
from transformers.integrations.bitnet import AutoBitLinear, unpack_weights  # noqa: E402
from transformers.models.bitnet.modeling_bitnet import (  # noqa: E402
    BitNetDecoderLayer, BitNetRMSNorm, BitNetRotaryEmbedding)

from modelkit import codecs, gguf_cases, gguf_file, record, truth, weights  # noqa: E402

SEED, TOKENS, ROWS = 2025, 16, 8016  # ROWS of the embedding at a time: 16 pieces
DIMS = weights.Dims("bitnet", hidden=2560, ffn=6912, layers=30, heads=20, kv_heads=5, head_dim=128, vocab=128256,
                    act="relu2", rope_theta=500000.0, context=4096)


def names(dims):
    """(Hugging Face name, shape, kind) of every tensor, in file order; kind "embedding", "norm" or "linear"."""
    yield "model.embed_tokens.weight", (dims.vocab, dims.hidden), "embedding"
    for i in range(dims.layers):
        p = f"model.layers.{i}."
        yield p + "input_layernorm.weight", (dims.hidden,), "norm"
        for proj in weights.PROJ:
            yield p + proj, dims.linear_shape(proj), "linear"
        yield p + "self_attn.attn_sub_norm.weight", (dims.hidden,), "norm"
        yield p + "mlp.ffn_sub_norm.weight", (dims.ffn,), "norm"
        yield p + "post_attention_layernorm.weight", (dims.hidden,), "norm"
    yield "model.norm.weight", (dims.hidden,), "norm"


def safetensors_header(dims):
    """The header of model.safetensors: its length and JSON, padded to eight bytes."""
    entries, at = {"__metadata__": {"format": "pt"}}, 0

    def add(name, dtype, shape, nbytes):
        """Appends an entry behind the last one."""
        nonlocal at
        entries[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [at, at + nbytes]}
        at += nbytes

    for name, shape, kind in names(dims):
        if kind == "linear":
            n, k = shape
            add(name + ".weight", "U8", (n // 4, k), n * k // 4)
            add(name + ".weight_scale", "BF16", (1,), 2)
        else:
            add(name, "BF16", shape, 2 * int(np.prod(shape)))
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return struct.pack("<Q", len(text)) + text


def gguf_header(dims):
    """The header of model.gguf, up to the first tensor."""
    infos = []
    for name, shape, kind in names(dims):
        size = int(np.prod(shape))
        code, nbytes = {"embedding": (codecs.F16, 2 * size), "norm": (codecs.F32, 4 * size),
                        "linear": (codecs.I2_S, size // 4 + 32)}[kind]
        infos.append((gguf_cases.gguf_name(name), shape[::-1], code, nbytes))
    return gguf_file.header(gguf_cases.metadata(dims, "bitnet-b1.58", 40), infos)


def random_trits(rng, n, k):
    """About 62 % non-zero, drawn a byte each."""
    table = np.zeros(256, np.int8)
    table[:82], table[-77:] = -1, 1
    return table[np.frombuffer(rng.bytes(n * k), np.uint8)].reshape(n, k)


def write_checkpoints(out):
    """Both files in one pass over the tensors."""
    weights.write_folder(out / "hf", weights.config(DIMS, quantization=weights.OFFLINE),
                         {"placeholder": torch.zeros(1)})
    (out / "gguf").mkdir(exist_ok=True)
    with (out / "hf/model.safetensors").open("wb") as hf, (out / "gguf/model.gguf").open("wb") as gg:
        hf.write(safetensors_header(DIMS))
        gg.write(gguf_header(DIMS))
        for index, (_, shape, kind) in enumerate(names(DIMS)):
            rng = np.random.default_rng([SEED, index])
            if kind == "linear":
                trits = random_trits(rng, *shape)
                scale = weights.both_halves(rng.uniform(0.7, 1.8) / np.sqrt(shape[1]))
                hf.write(codecs.hf_pack(trits).tobytes() + codecs.bf16_bits(scale).astype("<u2").tobytes())
                gg.write(codecs.i2s_encode(trits, scale))
            elif kind == "norm":
                w = weights.norm_weight(rng, shape[0], False)
                hf.write(codecs.bf16_bits(w).astype("<u2").tobytes())
                gg.write(w.astype("<f4").tobytes())
            else:
                for _ in range(0, shape[0], ROWS):
                    e = weights.both_halves(np.float32(0.25) * rng.standard_normal((ROWS, shape[1]), np.float32))
                    hf.write(codecs.bf16_bits(e).astype("<u2").tobytes())
                    gg.write(codecs.f16_bytes(e))
            gg.write(bytes(-gg.tell() % 32))


class Runner:
    """One decoder layer in one precision, refilled with each layer's weights in turn."""

    def __init__(self, config, dtype):
        """Builds one layer without weights, the rotary embedding and the mask, in `dtype`."""
        self.dtype = dtype
        with torch.device("meta"):
            layer = BitNetDecoderLayer(config, 0)
            for proj in weights.PROJ:
                old = layer.get_submodule(proj)
                layer.set_submodule(proj, AutoBitLinear(old.in_features, old.out_features, bias=False, dtype=dtype))
        self.layer = layer.eval().requires_grad_(False)
        self.rotary = BitNetRotaryEmbedding(config)
        if dtype == torch.float64:
            d = DIMS.head_dim
            self.rotary.inv_freq = 1.0 / DIMS.rope_theta ** (torch.arange(0, d, 2, dtype=dtype) / d)
        mask = torch.full((TOKENS, TOKENS), torch.finfo(dtype).min, dtype=dtype).triu(1)
        self.mask = mask[None, None]

    def context(self):
        """The context in which operations keep float64, where that is the type."""
        return truth.double_arithmetic() if self.dtype == torch.float64 else truth.contextlib.nullcontext()

    def run(self, file, i, hidden):
        """Output of layer `i` and the int8 activations of its linears."""
        prefix = f"model.layers.{i}."
        state = {}
        for key in self.layer.state_dict():
            t = file.get_tensor(prefix + key)
            state[key] = unpack_weights(t, dtype=self.dtype) if t.dtype == torch.uint8 else t.to(self.dtype)
        self.layer.load_state_dict(state, strict=True, assign=True)
        with self.context(), truth.int8_activations(self.layer) as q:
            positions = self.rotary(hidden, torch.arange(TOKENS)[None])
            out = self.layer(hidden, attention_mask=self.mask, position_embeddings=positions)
        assert out.dtype == self.dtype
        return out, q

    def head(self, file, hidden):
        """Logits `[tokens, vocabulary]` of the last hidden state, ROWS rows of the embedding at a time."""
        norm = BitNetRMSNorm(DIMS.hidden, DIMS.eps).requires_grad_(False)
        norm.weight = nn.Parameter(file.get_tensor("model.norm.weight").to(self.dtype), requires_grad=False)
        with self.context():
            x = norm(hidden)[0]
        embedding = file.get_slice("model.embed_tokens.weight")
        parts = [nn.functional.linear(x, embedding[r:r + ROWS].to(self.dtype)) for r in range(0, DIMS.vocab, ROWS)]
        return torch.cat(parts, 1)


def choose_prompt(file):
    """Tokens that the first norm takes onto no int8 tie (exact ties are common where both sides have 8-bit mantissas)."""
    rng = np.random.default_rng([SEED, 1 << 20])
    norm = file.get_tensor("model.layers.0.input_layernorm.weight").double().numpy()
    embedding, tokens = file.get_slice("model.embed_tokens.weight"), []
    while len(tokens) < TOKENS:
        t = int(rng.integers(0, DIMS.vocab - 256))
        x = embedding[t:t + 1].double().numpy()[0] * norm
        y = x / np.abs(x).max() * 127
        if np.abs(y - np.floor(y) - 0.5).min() > 2e-5:
            tokens.append(t)
    return tokens


def compute(out):
    """Computes logits and layer outputs in float32 and float64, writes both files, and returns the noise."""
    conf = json.loads((out / "hf/config.json").read_text())
    conf.pop("quantization_config")
    config = BitNetConfig(**conf)
    config._attn_implementation = "eager"
    rec, distances, differences, total = {}, [], 0, 0
    with safe_open(out / "hf/model.safetensors", framework="pt") as file:
        tokens = choose_prompt(file)
        embedding = file.get_slice("model.embed_tokens.weight")
        rows = torch.cat([embedding[t:t + 1] for t in tokens])
        single, double = Runner(config, torch.float32), Runner(config, torch.float64)
        h32, h64 = rows.float()[None], rows.double()[None]
        rec["prompt.0.tokens"], rec["layer.0.in"] = torch.tensor(tokens, dtype=torch.int32), h32[0]
        for i in range(DIMS.layers):
            h32, q32 = single.run(file, i, h32)
            h64, q64 = double.run(file, i, h64)
            rec[f"layer.{i}.out"] = h32[0]
            distances.append(float((h32 - h64).abs().max()))
            differences += sum(int((a != b).sum()) for a, b in zip(q32, q64, strict=True))
            total += sum(a.numel() for a in q32)
            print(f"layer {i}: |f32 - f64| {distances[-1]:.2e} of {float(h64.abs().max()):.1f}", flush=True)
        logits, exact = single.head(file, h32), double.head(file, h64)
    rec["prompt.0.logits"] = logits
    record.save(out / "expected.safetensors", rec)
    noise = float((logits - exact).abs().max())
    top = logits.topk(2, 1).values
    meta = record.base_meta("at-size", DIMS, SEED, tokenizer=False, arch="BitNetForCausalLM", activation="relu2",
                            activation_quantisation="int8", files=["hf", "gguf/model.gguf"])
    meta |= {
        "expected": "expected.safetensors",
        "noise": {"max_abs": noise, "per_prompt": [noise], "logit_max_abs": float(exact.abs().max()),
                  "rms": float((logits - exact).square().mean().sqrt()), "int8_differences": differences,
                  "int8_activations": total, "per_layer": distances},
        "top_margin": (top[:, 0] - top[:, 1]).tolist(),
        "argmax": logits.argmax(1).tolist(),
    }
    record.write_meta(out, meta)
    return noise


def main():
    """Writes the checkpoints, computes the truth and prints times and memory."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("out", type=Path)
    out = ap.parse_args().out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    start = time.monotonic()
    write_checkpoints(out)
    print(f"written after {time.monotonic() - start:.0f} s", flush=True)
    noise = compute(out)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"noise {noise:.2e}, {time.monotonic() - start:.0f} s, peak memory {peak:.2f} GiB")


if __name__ == "__main__":
    main()
