"""Writes tiny Qwen3.5 checkpoints (gated delta networks beside attention) and what transformers computes with them.

    python scripts/golden/hybrid.py [--out tests/golden/models]

- qwen35-ternary-dense: a Hugging Face folder, ternary values in bfloat16 with one magnitude per 128.
- gguf-qwen35-pq2_0: the same values in a GGUF file, value heads in the tiled order of llama.cpp.
- gguf-qwen35-code3: ternary weights, embedding and head, of which some codes are 3: weights of twice their scale.
- gguf-qwen35-rotated: weights stored in a basis rotated by signs and Walsh-Hadamard transforms (`prism.hadamard.*`),
  embedding and head included. The truth is transformers on the weights rotated back.

Layouts and conventions: conversion/qwen.py of llama.cpp; the keys of PrismML's files as published with their converters.
"""

import argparse
import copy
import os
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
HERE = Path(__file__).resolve().parent
sys.path = [p for p in sys.path if Path(p or ".").resolve() != HERE] + [str(HERE)]

import numpy as np  # noqa: E402
import torch  # noqa: E402

from modelkit import codecs, gguf_file, record, truth  # noqa: E402
from modelkit.weights import TORCH, Dims, both_halves, norm_weight, with_scales, write_folder  # noqa: E402

LENGTHS = (5, 21, 70)
BLOCK = 64


@dataclass
class Hybrid(Dims):
    """Dimensions of a hybrid model."""

    key_heads: int = 2
    value_heads: int = 4
    delta_dim: int = 32
    taps: int = 4

    @property
    def values(self):
        """Components of all value heads."""
        return self.value_heads * self.delta_dim

    @property
    def channels(self):
        """Channels of the convolution."""
        return 2 * self.key_heads * self.delta_dim + self.values


DIMS = Hybrid("qwen3_5", hidden=128, ffn=128, layers=3, heads=4, kv_heads=2, head_dim=32, vocab=264, eps=1e-6,
              rope_theta=10000000.0, tied=False)
SEED = 300
KINDS = ["linear_attention", "full_attention", "linear_attention"]


def random_tensors(dims, seed, ternary_ends):
    """Tensors by the names of Qwen3_5ForCausalLM: arrays, and `Ternary` for linears. Norms hold what they multiply by."""
    rng = np.random.default_rng(seed)
    linear = with_scales(128)
    dense = lambda *shape: both_halves(0.25 * rng.standard_normal(shape))  # noqa: E731
    ends = (lambda: linear(rng, dims.vocab, dims.hidden, "")) if ternary_ends else (lambda: dense(dims.vocab, dims.hidden))
    norm = lambda n, centre=1.0: norm_weight(rng, n, False, centre)  # noqa: E731
    t = {"model.embed_tokens": ends()}
    for i, kind in enumerate(KINDS[:dims.layers]):
        p = f"model.layers.{i}."
        t[p + "input_layernorm"] = norm(dims.hidden)
        if kind == "linear_attention":
            a = p + "linear_attn."
            t[a + "in_proj_qkv"] = linear(rng, dims.channels, dims.hidden, "")
            t[a + "in_proj_z"] = linear(rng, dims.values, dims.hidden, "")
            t[a + "in_proj_a"] = dense(dims.value_heads, dims.hidden)
            t[a + "in_proj_b"] = dense(dims.value_heads, dims.hidden)
            t[a + "conv1d"] = dense(dims.channels, dims.taps) * 2
            t[a + "A_log"] = both_halves(np.log(rng.uniform(0.05, 8, dims.value_heads)))
            t[a + "dt_bias"] = both_halves(rng.uniform(-3, 0.5, dims.value_heads))
            t[a + "norm"] = norm(dims.delta_dim)
            t[a + "out_proj"] = linear(rng, dims.hidden, dims.values, "")
        else:
            a = p + "self_attn."
            queries, keys = dims.heads * dims.head_dim, dims.kv_heads * dims.head_dim
            t[a + "q_proj"] = linear(rng, 2 * queries, dims.hidden, "")
            t[a + "k_proj"] = linear(rng, keys, dims.hidden, "")
            t[a + "v_proj"] = linear(rng, keys, dims.hidden, "")
            t[a + "q_norm"], t[a + "k_norm"] = norm(dims.head_dim, 1.2), norm(dims.head_dim, 1.2)
            t[a + "o_proj"] = linear(rng, dims.hidden, queries, "")
        t[p + "post_attention_layernorm"] = norm(dims.hidden)
        t[p + "mlp.gate_proj"] = linear(rng, dims.ffn, dims.hidden, "")
        t[p + "mlp.up_proj"] = linear(rng, dims.ffn, dims.hidden, "")
        t[p + "mlp.down_proj"] = linear(rng, dims.hidden, dims.ffn, "")
    t["model.norm"] = norm(dims.hidden, 1.5)
    t["lm_head"] = ends()
    return t


def is_offset_norm(name):
    """Whether a norm is stored as its distance from 1."""
    return name.endswith("norm") and not name.endswith("linear_attn.norm")


def values_of(value):
    """The float32 numbers of an entry."""
    return value if isinstance(value, np.ndarray) else value.dense()


def folder_tensors(tensors, dims, dtype):
    """Torch tensors as transformers stores them."""
    out = {}
    for name, value in tensors.items():
        numbers = values_of(value)
        if is_offset_norm(name):
            numbers = numbers - np.float32(1)
        if name.endswith("conv1d"):
            numbers = numbers.reshape(dims.channels, 1, dims.taps)
        whole = name.endswith(("A_log", "dt_bias"))
        stored = torch.from_numpy(np.ascontiguousarray(numbers)).to(TORCH[dtype])
        assert dtype != "bf16" or name.endswith("norm") or torch.equal(stored.float(), torch.from_numpy(numbers)), name
        out[name if whole else name + ".weight"] = stored
    return out


def config(dims, dtype):
    """A `config.json` of Qwen3_5ForCausalLM."""
    return {
        "architectures": ["Qwen3_5ForCausalLM"], "model_type": "qwen3_5_text", "vocab_size": dims.vocab,
        "hidden_size": dims.hidden, "intermediate_size": dims.ffn, "num_hidden_layers": dims.layers,
        "num_attention_heads": dims.heads, "num_key_value_heads": dims.kv_heads, "head_dim": dims.head_dim,
        "hidden_act": "silu", "max_position_embeddings": dims.context, "rms_norm_eps": dims.eps,
        "tie_word_embeddings": False, "attention_bias": False, "attention_dropout": 0.0,
        "bos_token_id": dims.vocab - 4, "eos_token_id": dims.vocab - 3, "initializer_range": 0.02, "use_cache": True,
        "linear_conv_kernel_dim": dims.taps, "linear_key_head_dim": dims.delta_dim,
        "linear_value_head_dim": dims.delta_dim, "linear_num_key_heads": dims.key_heads,
        "linear_num_value_heads": dims.value_heads, "layer_types": KINDS[:dims.layers], "full_attention_interval": 2,
        "rope_parameters": {"rope_type": "default", "rope_theta": dims.rope_theta, "partial_rotary_factor": 0.25,
                            "mrope_section": [2, 1, 1], "mrope_interleaved": True},
        "torch_dtype": dtype,
    }


# ------------------------------------------------------------------------------------------------ truth


def load(tensors, dims):
    """transformers on the values of `tensors`, in float32."""
    with tempfile.TemporaryDirectory() as tmp:
        write_folder(tmp, config(dims, "float32"), folder_tensors(tensors, dims, "f32"))
        return truth.load(tmp)


def in_double(model, dims):
    """A copy in float64, with exact inverse frequencies."""
    m = torch.nn.Module.double(copy.deepcopy(model))
    rotated = dims.head_dim // 4
    m.model.rotary_emb.inv_freq = 1.0 / dims.rope_theta ** (torch.arange(0, rotated, 2, dtype=torch.float64) / rotated)
    return m


def stepwise64(model, tokens):
    """Logits in float64, one token at a time through the recurrent form."""
    rows, cache = [], None
    with truth.double_arithmetic():
        for token in tokens:
            out = model(input_ids=torch.tensor([[int(token)]]), past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            rows.append(out.logits[0, 0].numpy())
    return np.stack(rows)


def expected(folder, tensors, dims, seed, meta, name="expected.safetensors", rotated=None, lengths=LENGTHS):
    """Writes what transformers computes, and meta.json. rotated: a model that computes the same in a rotated basis, whose
    rounding is noise too."""
    model = load(tensors, dims)
    wide = in_double(model, dims)
    rng = np.random.default_rng(seed + 1)
    rec, noise, largest = {}, [], 0.0
    for p, length in enumerate(lengths):
        tokens = rng.integers(0, dims.vocab - 4, length)
        logits, exact = truth.logits32(model, tokens), truth.logits64(wide, tokens)
        steps = stepwise64(wide, tokens)
        assert np.abs(steps - exact).max() < 1e-9 * np.abs(exact).max(), "the two forms differ in float64"
        rec[f"prompt.{p}.tokens"] = torch.from_numpy(tokens.astype(np.int32))
        rec[f"prompt.{p}.logits"] = torch.from_numpy(logits.copy())
        others = [logits] if rotated is None else [logits, truth.logits32(rotated, tokens)]
        noise.append(max(float(np.abs(other - exact).max()) for other in others))
        largest = max(largest, float(np.abs(exact).max()))
        ids, margins = truth.greedy(model, tokens)
        rec[f"greedy.{p}.tokens"], rec[f"greedy.{p}.margin"] = torch.from_numpy(ids), torch.from_numpy(margins)
    rec |= truth.trace(model, rec["prompt.0.tokens"].numpy(), {})
    record.save(folder / name, rec)
    record.write_meta(folder, meta | {
        "expected": name, "activation_quantisation": "none",
        "noise": {"max_abs": max(noise), "per_prompt": noise, "logit_max_abs": largest}, "linears": {}})


def long_prompt(folder, tensors, dims, seed, length=4096):
    """Writes the last logits after a long prompt, and the noise of float32 in them."""
    model = load(tensors, dims)
    tokens = np.random.default_rng(seed).integers(0, dims.vocab - 4, length)
    logits = truth.logits32(model, tokens)[-4:]
    exact = truth.logits64(in_double(model, dims), tokens)[-4:]
    noise = torch.tensor([np.abs(logits - exact).max()], dtype=torch.float32)
    record.save(folder / "long.safetensors", {"tokens": torch.from_numpy(tokens.astype(np.int32)),
                                              "logits": torch.from_numpy(logits.copy()), "noise": noise})


# ------------------------------------------------------------------------------------------------ GGUF files


def tiled(numbers, dims, axis, head=None):
    """Value heads grouped by key head, in llama.cpp's order: heads of different keys side by side."""
    head = dims.delta_dim if head is None else head
    each = dims.value_heads // dims.key_heads
    order = np.arange(dims.value_heads * head).reshape(dims.key_heads, each, head).swapaxes(0, 1).reshape(-1)
    return np.take(numbers, order, axis)


def tiled_rows(value, dims, head=None, keep=0):
    """`tiled` on the rows after the first `keep`."""
    apply = lambda x: np.concatenate([x[:keep], tiled(x[keep:], dims, 0, head)])  # noqa: E731
    return apply(value) if isinstance(value, np.ndarray) else type(value)(apply(value.trits), apply(value.scale))


GGUF = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
        "input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
        "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
        "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "self_attn.o_proj": "attn_output",
        "linear_attn.in_proj_qkv": "attn_qkv", "linear_attn.in_proj_z": "attn_gate",
        "linear_attn.in_proj_a": "ssm_alpha", "linear_attn.in_proj_b": "ssm_beta", "linear_attn.conv1d": "ssm_conv1d",
        "linear_attn.A_log": "ssm_a", "linear_attn.dt_bias": "ssm_dt.bias", "linear_attn.norm": "ssm_norm",
        "linear_attn.out_proj": "ssm_out", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down"}


def gguf_name(name):
    """The name of a tensor in GGUF files."""
    parts = name.split(".", 3)
    layer, key = (f"blk.{parts[2]}.", parts[3]) if name.startswith("model.layers.") else ("", name)
    stem = layer + GGUF[key]
    return stem if key.endswith(("A_log", "dt_bias")) else stem + ".weight"


def in_gguf_order(name, value, dims, grouped_output):
    """A tensor with value heads in the order of GGUF files."""
    if name.endswith("in_proj_qkv") or name.endswith("conv1d"):
        return tiled_rows(value, dims, keep=2 * dims.key_heads * dims.delta_dim)
    if name.endswith("in_proj_z"):
        return tiled_rows(value, dims)
    if name.endswith(("in_proj_a", "in_proj_b", "A_log", "dt_bias")):
        return tiled_rows(value, dims, head=1)
    if name.endswith("out_proj") and not grouped_output:
        scale = np.repeat(value.scale, value.trits.shape[1] // value.scale.shape[1], 1)
        scale, trits = tiled(scale, dims, 1), tiled(value.trits, dims, 1)
        assert (scale == np.repeat(value.scale, 128, 1)).all(), "heads of one group share its scale"
        return type(value)(trits, value.scale)
    return value


def write_gguf(path, tensors, dims, kind, extra=(), grouped_output=False):
    """One GGUF file. kind: "PQ2_0" or "PTQ1_0"."""
    encode = {"PQ2_0": lambda v: (142, codecs.q2_0_encode(v.trits, v.scale, 128)),
              "PTQ1_0": lambda v: (143, codecs.ptq1_0_encode(v.trits, v.scale))}[kind]
    stored = []
    for name, value in tensors.items():
        value = in_gguf_order(name, value, dims, grouped_output)
        if not isinstance(value, np.ndarray):
            stored.append((gguf_name(name), value.trits.shape, *encode(value)))
            continue
        if name.endswith("A_log"):
            value = -np.exp(value)
        dense = "BF16" if name in ("model.embed_tokens", "lm_head") or name.endswith(("proj_a", "proj_b")) else "F32"
        code, raw, _ = codecs.dense_encode(dense, value.astype(np.float32))
        stored.append((gguf_name(name), value.shape, code, raw))
    tokens, kinds, merges = gguf_file.tiny_bpe(dims.vocab)
    a, v = "qwen35.", dims.vocab
    kv = [
        ("general.architecture", "str", "qwen35"), ("general.name", "str", "golden"),
        (a + "context_length", "u32", dims.context), (a + "embedding_length", "u32", dims.hidden),
        (a + "block_count", "u32", dims.layers), (a + "feed_forward_length", "u32", dims.ffn),
        (a + "attention.head_count", "u32", dims.heads), (a + "attention.head_count_kv", "u32", dims.kv_heads),
        (a + "attention.key_length", "u32", dims.head_dim), (a + "attention.value_length", "u32", dims.head_dim),
        (a + "attention.layer_norm_rms_epsilon", "f32", dims.eps), (a + "rope.freq_base", "f32", dims.rope_theta),
        (a + "rope.dimension_count", "u32", dims.head_dim // 4), (a + "rope.dimension_sections", "[i32]", [2, 1, 1, 0]),
        (a + "ssm.conv_kernel", "u32", dims.taps), (a + "ssm.state_size", "u32", dims.delta_dim),
        (a + "ssm.group_count", "u32", dims.key_heads), (a + "ssm.time_step_rank", "u32", dims.value_heads),
        (a + "ssm.inner_size", "u32", dims.values),
        (a + "attention.recurrent_layers", "[bool]", [kind == "linear_attention" for kind in KINDS[:dims.layers]]),
        (a + "full_attention_interval", "u32", 2), *extra,
        ("tokenizer.ggml.model", "str", "gpt2"), ("tokenizer.ggml.pre", "str", "qwen35"),
        ("tokenizer.ggml.tokens", "[str]", tokens), ("tokenizer.ggml.token_type", "[i32]", kinds),
        ("tokenizer.ggml.merges", "[str]", merges), ("tokenizer.ggml.eos_token_id", "u32", v - 3),
        ("tokenizer.ggml.padding_token_id", "u32", v - 2), ("tokenizer.ggml.add_bos_token", "bool", False),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    gguf_file.write(path, kv, stored)


# ------------------------------------------------------------------------------------------------ rotation


def sylvester(n):
    """The normalised Walsh-Hadamard matrix of order `n`, natural order."""
    h = np.ones((1, 1))
    while len(h) < n:
        h = np.block([[h, h], [h, -h]])
    return h / np.sqrt(n)


def rotated_back(weight, signs, block=BLOCK):
    """`W` of `W x = W' H (s * x)` for every block of inputs."""
    rows, cols = weight.shape
    turned = weight.astype(np.float64).reshape(rows, cols // block, block) @ sylvester(block)
    return (turned.reshape(rows, cols) * signs).astype(np.float32)


def in_rotated_basis(stored, dims, signs, block=BLOCK):
    """transformers in float32 with the stored weights, inputs of as many components as there are signs rotated and
    embedding rows rotated back."""
    model, signs = load(stored, dims), torch.from_numpy(signs).float()
    h = torch.from_numpy(sylvester(block)).float()

    def turn(x):
        """`H` on each block."""
        return (x.reshape(*x.shape[:-1], -1, block) @ h).reshape(x.shape)

    for name, module in model.named_modules():
        if name.endswith(ROTATED) and module.in_features == len(signs):
            module.register_forward_pre_hook(lambda _, args: (turn(args[0] * signs),))
    model.model.embed_tokens.register_forward_hook(lambda _, args, out: signs * turn(out))
    return model


ROTATED = ("in_proj_qkv", "in_proj_z", "out_proj", "q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj",
           "down_proj", "lm_head")


def rotation_keys(tensors, signs):
    """The keys `prism.hadamard.*`, version 1."""
    p = "prism.hadamard."
    return [
        (p + "version", "u32", 1), (p + "transform", "str", "normalized-sylvester-walsh-hadamard"),
        (p + "block_size", "u32", BLOCK), (p + "axis", "str", "input-last-dimension"),
        (p + "sign_mode", "str", "explicit"), (p + "sign_widths", "[i32]", [len(signs)]),
        (p + "sign_values", "[i8]", [int(s) for s in signs]),
        (p + "weight_names", "[str]", [gguf_name(name) for name in tensors if name.endswith(ROTATED)]),
        (p + "inverse_weight_names", "[str]", ["token_embd.weight"]), (p + "gdn_v_grouped", "bool", True),
    ]


def meta_of(name, dims, seed, arch, storage, **facts):
    """The beginning of meta.json."""
    return record.base_meta(name, dims, seed, arch=arch, storage=storage, activation="silu", **facts)


def plain_tensors():
    """The tensors of the cases that are not rotated, exact in bfloat16."""
    tensors = random_tensors(DIMS, SEED, False)
    for name, value in tensors.items():
        if is_offset_norm(name):  # exact as a distance from 1
            tensors[name] = codecs.to_bf16(value - np.float32(1)) + np.float32(1)
        elif not isinstance(value, np.ndarray):
            value.scale = codecs.to_bf16(value.scale)
    return tensors


def main():
    """Writes the cases."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", type=Path, default=HERE.parents[1] / "tests/golden/models")
    out = ap.parse_args().out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    dims, seed = DIMS, SEED
    tensors = plain_tensors()
    folder = out / "qwen35-ternary-dense"
    write_folder(folder, config(dims, "bfloat16"), folder_tensors(tensors, dims, "bf16"))
    expected(folder, tensors, dims, seed, meta_of(folder.name, dims, seed, "Qwen3_5ForCausalLM",
                                                  "bf16, one magnitude per 128 in a row", format="hf", tokenizer=False))
    twin = out / "gguf-qwen35-pq2_0"
    write_gguf(twin / "model.gguf", tensors, dims, "PQ2_0")
    meta = meta_of(twin.name, dims, seed, "qwen35", "PQ2_0, value heads tiled", format="gguf", file="model.gguf",
                   tokenizer=True)
    record.same_truth(twin, meta, folder.name)
    long_prompt(twin, tensors, dims, seed + 2)
    seed = 301
    stored = random_tensors(dims, seed, True)
    signs = np.random.default_rng(seed + 7).choice([-1.0, 1.0], dims.hidden)
    assert dims.hidden == dims.ffn == dims.values == dims.heads * dims.head_dim, "one width for all"
    plain = {}
    for name, value in stored.items():
        is_rotated = name.endswith(ROTATED) or name == "model.embed_tokens"
        plain[name] = rotated_back(values_of(value), signs) if is_rotated else value
    folder = out / "gguf-qwen35-rotated"
    write_gguf(folder / "model.gguf", stored, dims, "PTQ1_0", rotation_keys(stored, signs), grouped_output=True)
    expected(folder, plain, dims, seed, meta_of(folder.name, dims, seed, "qwen35",
                                                "PTQ1_0 in a rotated basis, embedding and head too", format="gguf",
                                                file="model.gguf", tokenizer=True), rotated=in_rotated_basis(stored, dims, signs))
    seed = 302
    tensors = random_tensors(dims, seed, True)
    rng = np.random.default_rng(seed + 7)
    for value in tensors.values():
        if not isinstance(value, np.ndarray):
            value.trits[(value.trits == 1) & (rng.random(value.trits.shape) < 0.04)] = 2
    folder = out / "gguf-qwen35-code3"
    write_gguf(folder / "model.gguf", tensors, dims, "PQ2_0")
    expected(folder, tensors, dims, seed, meta_of(folder.name, dims, seed, "qwen35", "PQ2_0 with code 3, value heads tiled",
                                                  format="gguf", file="model.gguf", tokenizer=True))
    for case in ("qwen35-ternary-dense", "gguf-qwen35-pq2_0", "gguf-qwen35-rotated", "gguf-qwen35-code3"):
        print(case, sum(f.stat().st_size for f in (out / case).iterdir()), "bytes")


if __name__ == "__main__":
    main()
