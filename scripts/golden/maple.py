"""Writes a tiny Maple checkpoint (mixtures of experts; windows of attention, the only layers with RoPE), and its logits.

    python scripts/golden/maple.py [--out tests/golden/models]

- gguf-maple-q2_0: a GGUF file, ternary weights in Q2_0 with one magnitude per 64.

transformers has no Maple. The truth is put together here from modules of its Qwen3-MoE (linear layers, RMS norms of
hidden states and heads, eager attention, the router) and from the rotation of a part of a head of its GPT-NeoX, after the
published description and `config.json` of deepgrove/maple-preview:

- layers of `sliding_attention` see a token and the `sliding_window` positions before it (FlashAttention's window
  `(sliding_window, 0)`), and rotate a part of each head; layers of `full_attention` see all and rotate nothing;
- the norms of query and key heads come before the rotation;
- the router is a softmax over all experts in float32; the shares of the chosen ones are divided by their sum;
- an expert is `down(silu(min(gate(x), 7)) * clamp(up(x), -7, 7))`.

Keys and tensors of the file: conversion/maple.py of llama.cpp.
"""

import argparse
import copy
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

os.environ["HF_HUB_OFFLINE"] = "1"
HERE = Path(__file__).resolve().parent
sys.path = [p for p in sys.path if Path(p or ".").resolve() != HERE] + [str(HERE)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from modelkit import codecs, gguf_file, record, truth  # noqa: E402
from modelkit.weights import Dims, norm_weight, with_scales  # noqa: E402
from torch import nn  # noqa: E402
from transformers import Qwen3MoeConfig  # noqa: E402
from transformers.models.gpt_neox import modeling_gpt_neox as neox  # noqa: E402
from transformers.models.qwen3_moe import modeling_qwen3_moe as moe  # noqa: E402


@dataclass
class Maple(Dims):
    """Dimensions of a mixture."""

    experts: int = 5
    used: int = 2
    window: int = 6
    limit: float = 7.0
    rotated: int = 8


DIMS = Maple("qwen3_moe", hidden=64, ffn=64, layers=3, heads=4, kv_heads=2, head_dim=16, vocab=264, eps=1e-6, tied=False)
LOCAL = [True, False, True]
LENGTHS = (5, 40)
SEED = 330


# ------------------------------------------------------------------------------------------------ truth


class Expert(nn.Module):
    """A gated unit with bounds."""

    def __init__(self):
        super().__init__()
        self.gate_proj = nn.Linear(DIMS.hidden, DIMS.ffn, bias=False)
        self.up_proj = nn.Linear(DIMS.hidden, DIMS.ffn, bias=False)
        self.down_proj = nn.Linear(DIMS.ffn, DIMS.hidden, bias=False)

    def forward(self, x):
        """What the expert gives for `[tokens, hidden]`."""
        gate, up = self.gate_proj(x).clamp(max=DIMS.limit), self.up_proj(x).clamp(-DIMS.limit, DIMS.limit)
        return self.down_proj(nn.functional.silu(gate) * up)


class Mixture(nn.Module):
    """transformers' router, and experts token by token."""

    def __init__(self, config):
        super().__init__()
        self.gate = moe.Qwen3MoeTopKRouter(config)
        self.experts = nn.ModuleList(Expert() for _ in range(DIMS.experts))

    def forward(self, x):
        """The weighted sum of what the chosen experts give."""
        _, shares, chosen = self.gate(x)
        rows = []
        for token, own, experts in zip(x[0], shares, chosen, strict=True):
            given = [share * self.experts[int(e)](token[None])[0] for share, e in zip(own, experts, strict=True)]
            rows.append(sum(given[1:], given[0]))
        return torch.stack(rows)[None]


class Layer(nn.Module):
    """A layer with attention to a window or to all."""

    def __init__(self, config, index):
        super().__init__()
        self.self_attn = moe.Qwen3MoeAttention(config, index)
        self.mlp = Mixture(config)
        self.input_layernorm = moe.Qwen3MoeRMSNorm(DIMS.hidden, eps=DIMS.eps)
        self.post_attention_layernorm = moe.Qwen3MoeRMSNorm(DIMS.hidden, eps=DIMS.eps)
        self.is_local = LOCAL[index]

    def attend(self, x, inv_freq):
        """The output of attention."""
        a, shape = self.self_attn, (*x.shape[:-1], -1, DIMS.head_dim)
        q = a.q_norm(a.q_proj(x).view(shape)).transpose(1, 2)
        k = a.k_norm(a.k_proj(x).view(shape)).transpose(1, 2)
        v = a.v_proj(x).view(shape).transpose(1, 2)
        position = torch.arange(x.shape[1])
        seen = position[None] <= position[:, None]
        if self.is_local:
            angles = position[:, None].to(x.dtype) * inv_freq
            angles = torch.cat([angles, angles], -1)[None]
            q, k = neox.apply_rotary_pos_emb(q, k, angles.cos(), angles.sin())
            seen &= position[None] >= position[:, None] - DIMS.window
        mask = torch.zeros(seen.shape, dtype=x.dtype).masked_fill(~seen, -torch.inf)
        out, _ = moe.eager_attention_forward(a, q, k, v, mask[None, None], a.scaling)
        return a.o_proj(out.reshape(x.shape[0], x.shape[1], -1))

    def forward(self, hidden_states, inv_freq):
        """The layer's output."""
        h = hidden_states + self.attend(self.input_layernorm(hidden_states), inv_freq)
        return h + self.mlp(self.post_attention_layernorm(h))


class Model(nn.Module):
    """The whole model."""

    def __init__(self):
        super().__init__()
        config = Qwen3MoeConfig(
            vocab_size=DIMS.vocab, hidden_size=DIMS.hidden, num_hidden_layers=DIMS.layers, head_dim=DIMS.head_dim,
            num_attention_heads=DIMS.heads, num_key_value_heads=DIMS.kv_heads, rms_norm_eps=DIMS.eps,
            num_experts=DIMS.experts, num_experts_per_tok=DIMS.used, norm_topk_prob=True)
        self.model = nn.Module()
        self.model.embed_tokens = nn.Embedding(DIMS.vocab, DIMS.hidden)
        self.model.layers = nn.ModuleList(Layer(config, i) for i in range(DIMS.layers))
        self.model.norm = moe.Qwen3MoeRMSNorm(DIMS.hidden, eps=DIMS.eps)
        self.lm_head = nn.Linear(DIMS.hidden, DIMS.vocab, bias=False)
        self.dtype = torch.float32

    def forward(self, input_ids, use_cache=False):
        """Logits, as transformers' models return them."""
        exponents = torch.arange(0, DIMS.rotated, 2, dtype=self.dtype) / DIMS.rotated
        h = self.model.embed_tokens(input_ids)
        for layer in self.model.layers:
            h = layer(h, 1.0 / DIMS.rope_theta**exponents)
        return SimpleNamespace(logits=self.lm_head(self.model.norm(h)))


def load(tensors):
    """The model in float32, and its twin in float64."""
    model = Model()
    state = {name + ".weight": torch.from_numpy(np.ascontiguousarray(dense(value))) for name, value in tensors.items()}
    model.load_state_dict(state)
    model = model.eval().requires_grad_(False)
    wide = nn.Module.double(copy.deepcopy(model))
    wide.dtype = torch.float64
    return model, wide


# ------------------------------------------------------------------------------------------------ weights


def dense(value):
    """The float32 numbers of an entry."""
    return value if isinstance(value, np.ndarray) else value.dense()


def random_tensors():
    """Tensors by the names of Maple's checkpoints, but for the embedding."""
    rng, linear = np.random.default_rng(SEED), with_scales(64)
    queries, keys = DIMS.heads * DIMS.head_dim, DIMS.kv_heads * DIMS.head_dim
    norm = lambda n, centre=1.0: norm_weight(rng, n, False, centre)  # noqa: E731
    table = lambda: codecs.dense_encode(  # noqa: E731
        "Q8_0", (0.25 * rng.standard_normal((DIMS.vocab, DIMS.hidden))).astype(np.float32))[2]
    t = {"model.embed_tokens": table()}
    for i in range(DIMS.layers):
        p = f"model.layers.{i}."
        t[p + "input_layernorm"] = norm(DIMS.hidden)
        for name, shape in {"q_proj": (queries, DIMS.hidden), "k_proj": (keys, DIMS.hidden),
                            "v_proj": (keys, DIMS.hidden), "o_proj": (DIMS.hidden, queries)}.items():
            t[p + "self_attn." + name] = linear(rng, *shape, "")
        t[p + "self_attn.q_norm"], t[p + "self_attn.k_norm"] = norm(DIMS.head_dim, 1.2), norm(DIMS.head_dim, 1.2)
        t[p + "post_attention_layernorm"] = norm(DIMS.hidden)
        t[p + "mlp.gate"] = (0.2 * rng.standard_normal((DIMS.experts, DIMS.hidden))).astype(np.float32)
        for e in range(DIMS.experts):
            for name, shape in {"gate_proj": (DIMS.ffn, DIMS.hidden), "up_proj": (DIMS.ffn, DIMS.hidden),
                                "down_proj": (DIMS.hidden, DIMS.ffn)}.items():
                value = linear(rng, *shape, "")
                if name != "down_proj":
                    # So large that some gates and factors pass their bounds.
                    value.scale *= np.float32(4)
                t[p + f"mlp.experts.{e}.{name}"] = value
    return t | {"model.norm": norm(DIMS.hidden, 1.5), "lm_head": table()}


NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output",
         "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.q_proj": "attn_q",
         "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output",
         "self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm", "mlp.gate": "ffn_gate_inp"}


def stored_tensors(tensors):
    """The tensors of the file; those of experts in stacks."""
    encode = lambda value: codecs.q2_0_encode(value.trits, value.scale, 64)  # noqa: E731
    stored = []
    for name, value in tensors.items():
        if ".experts." in name:
            before, after = name.split(".experts.")
            number, projection = after.split(".")
            if number == "0":
                all_of = [tensors[f"{before}.experts.{e}.{projection}"] for e in range(DIMS.experts)]
                layer, kind = before.split(".")[2], projection.split("_")[0]
                shape = (DIMS.experts, *all_of[0].trits.shape)
                stored.append((f"blk.{layer}.ffn_{kind}_exps.weight", shape, codecs.Q2_0, b"".join(map(encode, all_of))))
            continue
        parts = name.split(".", 3)
        in_layer = name.startswith("model.layers.")
        stem = (f"blk.{parts[2]}." + NAMES[parts[3]] if in_layer else NAMES[name]) + ".weight"
        if isinstance(value, np.ndarray):
            code, raw, _ = codecs.dense_encode("Q8_0" if len(value) == DIMS.vocab else "F32", value)
            stored.append((stem, value.shape, code, raw))
        else:
            stored.append((stem, value.trits.shape, codecs.Q2_0, encode(value)))
    return stored


def write_gguf(path, tensors):
    """The file, with the keys that llama.cpp's converter writes."""
    tokens, kinds, merges = gguf_file.tiny_bpe(DIMS.vocab)
    a, v = "maple.", DIMS.vocab
    kv = [
        ("general.architecture", "str", "maple"), ("general.name", "str", "golden"),
        (a + "context_length", "u32", DIMS.context), (a + "embedding_length", "u32", DIMS.hidden),
        (a + "block_count", "u32", DIMS.layers), (a + "feed_forward_length", "u32", 4 * DIMS.ffn),
        (a + "attention.head_count", "u32", DIMS.heads), (a + "attention.head_count_kv", "u32", DIMS.kv_heads),
        (a + "attention.key_length", "u32", DIMS.head_dim), (a + "attention.value_length", "u32", DIMS.head_dim),
        (a + "attention.layer_norm_rms_epsilon", "f32", DIMS.eps), (a + "rope.freq_base", "f32", DIMS.rope_theta),
        (a + "rope.dimension_count", "u32", DIMS.rotated), (a + "attention.sliding_window", "u32", DIMS.window),
        (a + "attention.sliding_window_pattern", "[bool]", LOCAL), (a + "expert_count", "u32", DIMS.experts),
        (a + "expert_used_count", "u32", DIMS.used), (a + "expert_feed_forward_length", "u32", DIMS.ffn),
        (a + "swiglu_clamp_exp", "[f32]", [DIMS.limit] * DIMS.layers), (a + "vocab_size", "u32", v),
        ("tokenizer.ggml.model", "str", "gpt2"), ("tokenizer.ggml.pre", "str", "qwen2"),
        ("tokenizer.ggml.tokens", "[str]", tokens), ("tokenizer.ggml.token_type", "[i32]", kinds),
        ("tokenizer.ggml.merges", "[str]", merges), ("tokenizer.ggml.eos_token_id", "u32", v - 3),
        ("tokenizer.ggml.padding_token_id", "u32", v - 2), ("tokenizer.ggml.add_bos_token", "bool", False),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    gguf_file.write(path, kv, stored_tensors(tensors))


def counted(model, tokens):
    """The share of gates and factors that are beyond their bounds, and how close the choices of experts are."""
    beyond, gaps = [], []
    handles = []
    for layer in model.model.layers:
        for expert in layer.mlp.experts:
            for part, bound in ((expert.gate_proj, lambda x: x), (expert.up_proj, torch.abs)):
                handles.append(part.register_forward_hook(
                    lambda _, args, out, bound=bound: beyond.append(float((bound(out) > DIMS.limit).float().mean()))))
        handles.append(layer.mlp.gate.register_forward_hook(
            lambda _, args, out: gaps.append(float((-torch.diff(out[0].sort(descending=True).values)[:, DIMS.used - 1]).min()))))
    truth.logits32(model, tokens)
    for handle in handles:
        handle.remove()
    return sum(beyond) / len(beyond), min(gaps)


def main():
    """Writes the case."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", type=Path, default=HERE.parents[1] / "tests/golden/models")
    folder = ap.parse_args().out / "gguf-maple-q2_0"
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    tensors = random_tensors()
    model, wide = load(tensors)
    write_gguf(folder / "model.gguf", tensors)
    rng, rec, noise, largest = np.random.default_rng(SEED + 1), {}, [], 0.0
    for p, length in enumerate(LENGTHS):
        tokens = rng.integers(0, DIMS.vocab - 4, length)
        logits, exact = truth.logits32(model, tokens), truth.logits64(wide, tokens)
        print("beyond the bounds, nearest choice:", counted(model, tokens))
        rec[f"prompt.{p}.tokens"] = torch.from_numpy(tokens.astype(np.int32))
        rec[f"prompt.{p}.logits"] = torch.from_numpy(logits.copy())
        noise.append(float(np.abs(logits - exact).max()))
        largest = max(largest, float(np.abs(exact).max()))
        ids, margins = truth.greedy(model, tokens)
        rec[f"greedy.{p}.tokens"], rec[f"greedy.{p}.margin"] = torch.from_numpy(ids), torch.from_numpy(margins)
    rec |= truth.trace(model, rec["prompt.0.tokens"].numpy(), {})
    record.save(folder / "expected.safetensors", rec)
    print("noise", noise, "largest", largest)
    record.write_meta(folder, record.base_meta(
        folder.name, DIMS, SEED, arch="maple", storage="Q2_0, one magnitude per 64", activation="silu", format="gguf",
        file="model.gguf", tokenizer=True) | {
        "expected": "expected.safetensors", "activation_quantisation": "none",
        "noise": {"max_abs": max(noise), "per_prompt": noise, "logit_max_abs": largest}, "linears": {}})
    print(folder.name, sum(f.stat().st_size for f in folder.iterdir()), "bytes")


if __name__ == "__main__":
    main()
