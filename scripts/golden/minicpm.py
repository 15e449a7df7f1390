"""Writes tiny MiniCPM checkpoints (scaled embeddings, residual branches and logits; LongRoPE), and what transformers
computes with them.

    python scripts/golden/minicpm.py [--out tests/golden/models]

- minicpm-ternary-dense: a Hugging Face folder, ternary values in bfloat16 with one magnitude per 128, tied.
- gguf-minicpm-pq2_0: the same values in a GGUF file, rows of queries and keys in the order of llama.cpp.

transformers has no plain MiniCPM. The truth is its LlamaForCausalLM with LongRoPE, with the three factors of OpenBMB's
`modeling_minicpm.py` put on by hooks: `scale_emb` on embeddings, `scale_depth / sqrt(layers)` on what attention and
feed-forward parts add, and `dim_model_base / hidden_size` in front of the head. Inputs and outputs of layers are recorded
divided by the factor on branches, as the engine holds them.
"""

import argparse
import copy
import math
import os
import sys
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
HERE = Path(__file__).resolve().parent
sys.path = [p for p in sys.path if Path(p or ".").resolve() != HERE] + [str(HERE)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from modelkit import codecs, gguf_file, record, truth  # noqa: E402
from modelkit.gguf_cases import gguf_name, permuted  # noqa: E402
from modelkit.weights import TORCH, Dims, both_halves, norm_weight, with_scales, write_folder  # noqa: E402

LENGTHS = (5, 21, 70)
SEED = 320
DIMS = Dims("llama", hidden=128, ffn=128, layers=2, heads=4, kv_heads=2, head_dim=32, vocab=264, rope_theta=10000.0)
SCALES = {"scale_emb": 12, "scale_depth": 1.4, "dim_model_base": 48}
RESIDUAL = 1.4 / math.sqrt(DIMS.layers)
LOGITS = 48 / DIMS.hidden
ORIGINAL = 256


def factors(seed):
    """Growing factors of LongRoPE."""
    rng = np.random.default_rng(seed)
    return [round(float(x), 6) for x in 1 + np.cumsum(rng.uniform(0, 0.4, DIMS.head_dim // 2))]


ROPE = {"rope_type": "longrope", "short_factor": factors(1), "long_factor": factors(2),
        "original_max_position_embeddings": ORIGINAL}


def config(class_name, model_type, dtype, **more):
    """A `config.json`."""
    return {
        "architectures": [class_name], "model_type": model_type, "vocab_size": DIMS.vocab, "hidden_size": DIMS.hidden,
        "intermediate_size": DIMS.ffn, "num_hidden_layers": DIMS.layers, "num_attention_heads": DIMS.heads,
        "num_key_value_heads": DIMS.kv_heads, "hidden_act": "silu", "max_position_embeddings": DIMS.context,
        "rms_norm_eps": DIMS.eps, "rope_theta": DIMS.rope_theta, "rope_scaling": ROPE, "tie_word_embeddings": True,
        "bos_token_id": DIMS.vocab - 4, "eos_token_id": DIMS.vocab - 3, "torch_dtype": dtype} | more


def random_tensors():
    """Tensors by the names of LlamaForCausalLM, exact in bfloat16."""
    rng, linear = np.random.default_rng(SEED), with_scales(128, "bf16")
    queries, keys = DIMS.heads * DIMS.head_dim, DIMS.kv_heads * DIMS.head_dim
    norm = lambda centre=1.0: codecs.to_bf16(norm_weight(rng, DIMS.hidden, False, centre))  # noqa: E731
    t = {"model.embed_tokens": both_halves(0.05 * rng.standard_normal((DIMS.vocab, DIMS.hidden)))}
    for i in range(DIMS.layers):
        p = f"model.layers.{i}."
        t[p + "input_layernorm"] = norm()
        for name, shape in {"q_proj": (queries, DIMS.hidden), "k_proj": (keys, DIMS.hidden),
                            "v_proj": (keys, DIMS.hidden), "o_proj": (DIMS.hidden, queries)}.items():
            t[p + "self_attn." + name] = linear(rng, *shape, "")
        t[p + "post_attention_layernorm"] = norm()
        for name, shape in {"gate_proj": (DIMS.ffn, DIMS.hidden), "up_proj": (DIMS.ffn, DIMS.hidden),
                            "down_proj": (DIMS.hidden, DIMS.ffn)}.items():
            t[p + "mlp." + name] = linear(rng, *shape, "")
    return t | {"model.norm": norm(1.5)}


def folder_tensors(tensors, dtype):
    """Torch tensors as transformers stores them."""
    out = {}
    for name, value in tensors.items():
        numbers = np.ascontiguousarray(value if isinstance(value, np.ndarray) else value.dense())
        stored = torch.from_numpy(numbers).to(TORCH[dtype])
        assert torch.equal(stored.float(), torch.from_numpy(numbers)), name
        out[name + ".weight"] = stored
    return out


def load(tensors):
    """transformers' Llama with the three factors, in float32."""
    with tempfile.TemporaryDirectory() as tmp:
        write_folder(tmp, config("LlamaForCausalLM", "llama", "float32"), folder_tensors(tensors, "f32"))
        model = truth.load(tmp)
    model.model.embed_tokens.register_forward_hook(lambda _, args, out: out * SCALES["scale_emb"])
    for layer in model.model.layers:
        layer.self_attn.register_forward_hook(lambda _, args, out: (out[0] * RESIDUAL, *out[1:]))
        layer.mlp.register_forward_hook(lambda _, args, out: out * RESIDUAL)
    model.lm_head.register_forward_pre_hook(lambda _, args: (args[0] * LOGITS,))
    return model


def in_double(model):
    """A copy in float64, with exact inverse frequencies."""
    m = torch.nn.Module.double(copy.deepcopy(model))
    exponents = torch.arange(0, DIMS.head_dim, 2, dtype=torch.float64) / DIMS.head_dim
    short = torch.tensor(ROPE["short_factor"], dtype=torch.float32).double()
    m.model.rotary_emb.inv_freq = 1.0 / (short * DIMS.rope_theta**exponents)
    m.model.rotary_emb.original_inv_freq = m.model.rotary_emb.inv_freq
    return m


def expected(folder, tensors, meta):
    """Writes what transformers computes, and meta.json."""
    model = load(tensors)
    wide, rng, rec, noise, largest = in_double(model), np.random.default_rng(SEED + 1), {}, [], 0.0
    for p, length in enumerate(LENGTHS):
        tokens = rng.integers(0, DIMS.vocab - 4, length)
        logits, exact = truth.logits32(model, tokens), truth.logits64(wide, tokens)
        rec[f"prompt.{p}.tokens"] = torch.from_numpy(tokens.astype(np.int32))
        rec[f"prompt.{p}.logits"] = torch.from_numpy(logits.copy())
        noise.append(float(np.abs(logits - exact).max()))
        largest = max(largest, float(np.abs(exact).max()))
        ids, margins = truth.greedy(model, tokens)
        rec[f"greedy.{p}.tokens"], rec[f"greedy.{p}.margin"] = torch.from_numpy(ids), torch.from_numpy(margins)
    traced = truth.trace(model, rec["prompt.0.tokens"].numpy(), {})
    rec |= {name: value / RESIDUAL if name.startswith("layer.") else value for name, value in traced.items()}
    record.save(folder / "expected.safetensors", rec)
    print("noise", noise, "largest", largest, "magnitude", model.model.rotary_emb.attention_scaling)
    record.write_meta(folder, meta | {
        "expected": "expected.safetensors", "activation_quantisation": "none",
        "noise": {"max_abs": max(noise), "per_prompt": noise, "logit_max_abs": largest}, "linears": {}})


def write_gguf(path, tensors):
    """One GGUF file, PQ2_0."""
    stored = []
    for name, value in tensors.items():
        value = permuted(name, value, DIMS, "llama")
        named = gguf_name(name if name.endswith("proj") else name + ".weight")
        if isinstance(value, np.ndarray):
            code, raw, _ = codecs.dense_encode("BF16" if "embed" in name else "F32", value.astype(np.float32))
            stored.append((named, value.shape, code, raw))
        else:
            stored.append((named, value.trits.shape, codecs.PQ2_0, codecs.q2_0_encode(value.trits, value.scale, 128)))
    for name in ("short", "long"):
        code, raw, _ = codecs.dense_encode("F32", np.array([ROPE[f"{name}_factor"]], np.float32))
        stored.append((f"rope_factors_{name}.weight", (DIMS.head_dim // 2,), code, raw))
    tokens, kinds, merges = gguf_file.tiny_bpe(DIMS.vocab)
    a, v = "minicpm.", DIMS.vocab
    magnitude = math.sqrt(1 + math.log(DIMS.context / ORIGINAL) / math.log(ORIGINAL))
    kv = [
        ("general.architecture", "str", "minicpm"), ("general.name", "str", "golden"),
        (a + "context_length", "u32", DIMS.context), (a + "embedding_length", "u32", DIMS.hidden),
        (a + "block_count", "u32", DIMS.layers), (a + "feed_forward_length", "u32", DIMS.ffn),
        (a + "attention.head_count", "u32", DIMS.heads), (a + "attention.head_count_kv", "u32", DIMS.kv_heads),
        (a + "attention.layer_norm_rms_epsilon", "f32", DIMS.eps), (a + "rope.freq_base", "f32", DIMS.rope_theta),
        (a + "rope.dimension_count", "u32", DIMS.head_dim), (a + "embedding_scale", "f32", float(SCALES["scale_emb"])),
        (a + "residual_scale", "f32", RESIDUAL), (a + "logit_scale", "f32", 1 / LOGITS),
        (a + "rope.scaling.type", "str", "longrope"), (a + "rope.scaling.attn_factor", "f32", magnitude),
        (a + "rope.scaling.original_context_length", "u32", ORIGINAL),
        ("tokenizer.ggml.model", "str", "gpt2"), ("tokenizer.ggml.pre", "str", "qwen2"),
        ("tokenizer.ggml.tokens", "[str]", tokens), ("tokenizer.ggml.token_type", "[i32]", kinds),
        ("tokenizer.ggml.merges", "[str]", merges), ("tokenizer.ggml.eos_token_id", "u32", v - 3),
        ("tokenizer.ggml.padding_token_id", "u32", v - 2), ("tokenizer.ggml.add_bos_token", "bool", False),
    ]
    path.parent.mkdir(parents=True, exist_ok=True)
    gguf_file.write(path, kv, stored)


def main():
    """Writes the cases."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", type=Path, default=HERE.parents[1] / "tests/golden/models")
    out = ap.parse_args().out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    tensors = random_tensors()
    meta = lambda name, arch, storage, **more: record.base_meta(  # noqa: E731
        name, DIMS, SEED, arch=arch, storage=storage, activation="silu", **more)
    folder = out / "minicpm-ternary-dense"
    own = config("MiniCPMForCausalLM", "minicpm", "bfloat16", **SCALES)
    write_folder(folder, own, folder_tensors(tensors, "bf16"))
    expected(folder, tensors, meta(folder.name, "MiniCPMForCausalLM", "bf16, one magnitude per 128 in a row",
                                   format="hf", tokenizer=False))
    twin = out / "gguf-minicpm-pq2_0"
    write_gguf(twin / "model.gguf", tensors)
    record.same_truth(twin, meta(twin.name, "minicpm", "PQ2_0, Q and K permuted", format="gguf", file="model.gguf",
                                 tokenizer=True), folder.name)
    for case in (folder, twin):
        print(case.name, sum(f.stat().st_size for f in case.iterdir()), "bytes")


if __name__ == "__main__":
    main()
