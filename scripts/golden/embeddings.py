"""Writes tiny Gemma 3 and Qwen3 checkpoints, most of them makers of text embeddings, and what transformers computes with them.

    python scripts/golden/embeddings.py [--out tests/golden/models]

- gemma3-ternary-dense: `Gemma3ForCausalLM`, ternary values in bfloat16, a layer with a window and one without.
- qwen3-embedding, gemma3-embedding: base models without a head, as microsoft/bitnet-embedding has them: bfloat16 masters of
  ternary layers, each with a norm on its input (`q_proj.norm`), names without `model.`, no `quantization_config`, and the
  modules of sentence-transformers.
- gguf-gemma3-embedding-i2s: the same values in a GGUF file of microsoft's kind: I2_S, `*_norm_in`, norms in F16 with their
  offset of 1, `pooling_type`.

The truth is transformers' own model class with `quantization_config` online and `use_rms_norm`, which is the arithmetic of
those models' BitLinear. Poolings follow sentence-transformers.
"""

import argparse
import copy
import json
import os
import sys
import tempfile
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"  # the quantisers run as written, not as a compiler fuses them
os.environ["HF_HUB_OFFLINE"] = "1"
HERE = Path(__file__).resolve().parent
sys.path = [p for p in sys.path if Path(p or ".").resolve() != HERE] + [str(HERE)]

import numpy as np  # noqa: E402
import torch  # noqa: E402
from modelkit import codecs, gguf_file, record, truth  # noqa: E402
from modelkit.cases import ONLINE  # noqa: E402
from modelkit.gguf_cases import NAMES, metadata  # noqa: E402
from modelkit.weights import (PROJ, Checkpoint, Dims, Ternary, both_halves, config, latents,  # noqa: E402
                              norm_weight, random_checkpoint, stored_tensors, with_scales, write_folder)

CAUSAL = Dims("gemma3", hidden=64, ffn=96, layers=2, heads=4, kv_heads=1, head_dim=16, vocab=96, eps=1e-6,
              act="gelu_pytorch_tanh", rope_theta=1000000.0)
QWEN3 = Dims("qwen3", hidden=64, ffn=96, layers=2, heads=4, kv_heads=2, head_dim=32, vocab=64, eps=1e-6,
             rope_theta=1000000.0)
GEMMA3 = Dims("gemma3", hidden=128, ffn=128, layers=1, heads=4, kv_heads=1, head_dim=32, vocab=264, eps=1e-6,
              act="gelu_pytorch_tanh", rope_theta=1000000.0)
WINDOW, STRETCH, LOCAL_THETA = 6, 8.0, 10000.0
POOLINGS = {"mean": "pooling_mode_mean_tokens", "last": "pooling_mode_lasttoken", "cls": "pooling_mode_cls_token"}


def offset_norm(rng, n):
    """A norm's distance from 1: exact in bfloat16, and 1 + it in float16."""
    return np.clip(np.rint(32 * rng.standard_normal(n)) / 128, -0.75, 0.75).astype(np.float32)


def gemma3(dims, seed, linear, input_norms):
    """A random checkpoint of Gemma3ForCausalLM."""
    rng = np.random.default_rng(seed)
    t = {"model.embed_tokens.weight": both_halves(0.25 * rng.standard_normal((dims.vocab, dims.hidden)))}
    for i in range(dims.layers):
        p = f"model.layers.{i}."
        for norm in ("input_layernorm", "post_attention_layernorm", "pre_feedforward_layernorm",
                     "post_feedforward_layernorm"):
            t[p + norm + ".weight"] = offset_norm(rng, dims.hidden)
        for norm in ("q_norm", "k_norm"):
            t[f"{p}self_attn.{norm}.weight"] = offset_norm(rng, dims.head_dim)
        for proj in PROJ:
            n, k = dims.linear_shape(proj)
            t[p + proj] = linear(rng, n, k, proj)
            if input_norms:
                t[p + proj].norm = norm_weight(rng, k, False)
    return Checkpoint(dims, t | {"model.norm.weight": offset_norm(rng, dims.hidden)})


def settings(dims, dtype, quantization=None, **more):
    """A `config.json` of a causal model. more: fields beside the usual ones."""
    if dims.family == "qwen3":
        return config(dims, dtype=dtype, quantization=quantization, **more)
    conf = config(dims, "Gemma3ForCausalLM", "gemma3_text", dtype, quantization, hidden_act=None,
                  hidden_activation=dims.act, head_dim=dims.head_dim, sliding_window=WINDOW, pad_token_id=dims.vocab - 2,
                  query_pre_attn_scalar=dims.head_dim + 8)
    return conf | more


# Both spellings: nested objects of transformers 5, flat fields of older files.
NESTED = {"layer_types": ["sliding_attention", "full_attention"], "rope_parameters": {
    "full_attention": {"rope_type": "linear", "factor": STRETCH, "rope_theta": CAUSAL.rope_theta},
    "sliding_attention": {"rope_type": "default", "rope_theta": LOCAL_THETA}}}


def load(ckpt, dtype, mode, conf):
    """transformers' model, in float32."""
    with tempfile.TemporaryDirectory() as tmp:
        write_folder(tmp, conf, stored_tensors(ckpt, dtype, mode))
        return truth.load(tmp)


def in_double(model, dims, stretch=1.0):
    """A copy in float64, with exact inverse frequencies."""
    exponents = torch.arange(0, dims.head_dim, 2, dtype=torch.float64) / dims.head_dim
    if dims.family == "qwen3":
        return truth.double_copy(model, dims)
    m = torch.nn.Module.double(copy.deepcopy(model))
    rotary = m.model.rotary_emb
    for kind, theta, factor in (("full", dims.rope_theta, stretch), ("sliding", LOCAL_THETA, 1.0)):
        if hasattr(rotary, f"{kind}_attention_inv_freq"):
            setattr(rotary, f"{kind}_attention_inv_freq", 1.0 / (factor * theta**exponents))
    return m


def pooled(states):
    """The poolings of `[tokens, hidden]` by name, not normalised."""
    return {"mean": states.mean(0), "last": states[-1], "cls": states[0]}


def states_of(model, tokens, double=False):
    """The states after the last norm, `[tokens, hidden]`."""
    run = lambda: model.model(input_ids=torch.as_tensor(tokens)[None], use_cache=False)[0][0]  # noqa: E731
    if not double:
        return run()
    with truth.double_arithmetic():
        return run()


def unit(x):
    """The vector with length 1."""
    return torch.nn.functional.normalize(x, dim=0)


def expected(folder, model, wide, dims, seed, meta, linears, embeds):
    """Writes what transformers computes, and meta.json. embeds: record embeddings instead of logits."""
    prompts, ties = truth.choose_prompts(model, dims, seed)
    rec, noise, of_unit, largest = {}, [], [], 0.0
    for p, tokens in enumerate(prompts):
        rec[f"prompt.{p}.tokens"] = torch.from_numpy(tokens.astype(np.int32))
        with truth.int8_activations(model) as a:
            mine = states_of(model, tokens)
        with truth.int8_activations(wide) as b:
            exact = states_of(wide, tokens, double=True)
        assert all(bool((x == y).all()) for x, y in zip(a, b, strict=True)), "an activation on a tie"
        if embeds:
            here, true = pooled(mine), pooled(exact)
            for name in POOLINGS:
                rec[f"pooled.{p}.{name}"], rec[f"embedding.{p}.{name}"] = here[name].clone(), unit(here[name])
            noise.append(max(float((here[n] - true[n]).abs().max()) for n in POOLINGS))
            of_unit.append(max(float((unit(here[n]) - unit(true[n])).abs().max()) for n in POOLINGS))
            largest = max(largest, float(exact.abs().max()))
            continue
        logits, true = truth.logits32(model, tokens), truth.logits64(wide, tokens)
        rec[f"prompt.{p}.logits"] = torch.from_numpy(logits.copy())
        noise.append(float(np.abs(logits - true).max()))
        largest = max(largest, float(np.abs(true).max()))
        ids, margins = truth.greedy(model, tokens)
        rec[f"greedy.{p}.tokens"], rec[f"greedy.{p}.margin"] = torch.from_numpy(ids), torch.from_numpy(margins)
    rec |= truth.trace(model, prompts[0], {name: record.LINEARS[name][0] for name in linears})
    measured = {"max_abs": max(noise), "per_prompt": noise, "logit_max_abs": largest}
    record.save(folder / "expected.safetensors", rec)
    print(folder.name, "noise", noise, of_unit, "largest", largest, "ties", ties)
    record.write_meta(folder, meta | {
        "expected": "expected.safetensors", "activation_quantisation": "int8" if embeds else "none",
        "noise": measured | ({"embedding_per_prompt": of_unit} if embeds else {}), "tie_margins": ties,
        "linears": {name: {"hf": record.LINEARS[name][0]} for name in linears}})


def add_trits(folder, ckpt, linears):
    """Adds trits and scales of plain linears, which a trace does not have, to expected.safetensors."""
    rec = record.load_file(folder / "expected.safetensors")
    for name in linears:
        v = ckpt.tensors[record.LINEARS[name][0]]
        rec |= {f"linear.{name}.trits": torch.from_numpy(v.trits.copy()),
                f"linear.{name}.scale": torch.from_numpy(v.scale.copy())}
    record.save(folder / "expected.safetensors", rec)


def causal(folder, seed):
    """gemma3-ternary-dense."""
    ckpt = gemma3(CAUSAL, seed, with_scales(None, "bf16"), False)
    conf = settings(CAUSAL, "bfloat16", rope_theta=None, **NESTED)
    conf = {k: v for k, v in conf.items() if k != "rope_theta"}
    write_folder(folder, conf, stored_tensors(ckpt, "bf16", "dense"))
    model = load(ckpt, "f32", "dense", conf | {"torch_dtype": "float32"})
    meta = record.base_meta(folder.name, CAUSAL, seed, format="hf", tokenizer=False, arch="Gemma3ForCausalLM",
                            storage="bf16, one magnitude per tensor", activation=CAUSAL.act)
    expected(folder, model, in_double(model, CAUSAL, STRETCH), CAUSAL, seed, meta, ("q_proj",), False)
    add_trits(folder, ckpt, ("q_proj",))


def modules(folder, pooling, dims):
    """The modules of sentence-transformers: the model, a pooling, and lengths of 1."""
    kind = "sentence_transformers.models."
    listed = [{"idx": 0, "name": "0", "path": "", "type": kind + "Transformer"},
              {"idx": 1, "name": "1", "path": "1_Pooling", "type": kind + "Pooling"},
              {"idx": 2, "name": "2", "path": "2_Normalize", "type": kind + "Normalize"}]
    (folder / "modules.json").write_text(json.dumps(listed, indent=2) + "\n")
    (folder / "1_Pooling").mkdir(exist_ok=True)
    modes = {mode: name == pooling for name, mode in POOLINGS.items()} | {"pooling_mode_max_tokens": False}
    text = json.dumps({"word_embedding_dimension": dims.hidden} | modes | {"include_prompt": True}, indent=2)
    (folder / "1_Pooling" / "config.json").write_text(text + "\n")


def base_model(folder, dims, seed, ckpt, class_name, pooling, linears, **more):
    """A folder without a head and what transformers computes; returns its model."""
    online = ONLINE | {"use_rms_norm": True, "rms_norm_eps": dims.eps}
    model = load(ckpt, "bf16", "latent", settings(dims, "bfloat16", online, **more))
    bare = lambda name: name.removeprefix("model.").replace("rms_norm", "norm")  # noqa: E731
    conf = settings(dims, "bfloat16", **more) | {"architectures": [class_name]}
    write_folder(folder, conf, stored_tensors(ckpt, "bf16", "latent", bare))
    modules(folder, pooling, dims)
    meta = record.base_meta(folder.name, dims, seed, format="hf", tokenizer=False, arch=class_name, pooling=pooling,
                            storage="bf16 latents, a norm on the input of every linear", activation=dims.act)
    expected(folder, model, in_double(model, dims), dims, seed, meta, linears, True)
    return model


def write_gguf(path, ckpt, model):
    """One GGUF file of microsoft's kind: I2_S, norms in F16."""
    tensors = []
    own = {"post_attention_layernorm.weight": "post_attention_norm.weight",
           "pre_feedforward_layernorm.weight": "ffn_norm.weight",
           "post_feedforward_layernorm.weight": "post_ffw_norm.weight"}
    for name, v in ckpt.tensors.items():
        _, _, layer, rest = name.split(".", 3) if name.startswith("model.layers.") else ("", "", "", name)
        target = (f"blk.{layer}." if layer else "") + (NAMES | own)[rest]
        if isinstance(v, Ternary):
            trits, scale = truth.used_weights(model.get_submodule(name))
            raw = codecs.i2s_encode(trits.numpy(), scale.item())
            tensors.append((target, v.trits.shape, codecs.I2_S, raw))
            tensors.append((target.replace(".weight", "_norm_in.weight"), v.norm.shape, codecs.F16, codecs.f16_bytes(v.norm)))
            continue
        v = v if "embed" in name else v + np.float32(1)
        assert np.array_equal(v.astype(np.float16).astype(np.float32), v), name
        tensors.append((target, v.shape, codecs.F16, codecs.f16_bytes(v)))
    d = ckpt.dims
    kv = metadata(d, "gemma3", 40, "qwen2", extra=[
        ("gemma3.pooling_type", "u32", 3), ("gemma3.attention.sliding_window", "u32", WINDOW),
        ("gemma3.attention.scale", "f32", (d.head_dim + 8) ** -0.5)])
    path.parent.mkdir(parents=True, exist_ok=True)
    gguf_file.write(path, kv, tensors)


def main():
    """Writes the cases."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", type=Path, default=HERE.parents[1] / "tests/golden/models")
    out = ap.parse_args().out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    causal(out / "gemma3-ternary-dense", 400)
    qwen = random_checkpoint(QWEN3, 401, latents("bf16"), True)
    base_model(out / "qwen3-embedding", QWEN3, 401, qwen, "Qwen3Model", "last", ("k_proj", "down_proj"))
    gemma = gemma3(GEMMA3, 402, latents("bf16"), True)
    folder = out / "gemma3-embedding"
    model = base_model(folder, GEMMA3, 402, gemma, "Gemma3TextModel", "mean", ("k_proj",),
                       rope_local_base_freq=LOCAL_THETA)
    twin = out / "gguf-gemma3-embedding-i2s"
    write_gguf(twin / "model.gguf", gemma, model)
    meta = record.base_meta(twin.name, GEMMA3, 402, format="gguf", file="model.gguf", tokenizer=True, arch="gemma3",
                            pooling="last", storage="I2_S, the rest F16", activation=GEMMA3.act)
    record.same_truth(twin, meta, folder.name)
    for case in ("gemma3-ternary-dense", "qwen3-embedding", "gemma3-embedding", twin.name):
        print(case, sum(f.stat().st_size for f in (out / case).rglob("*") if f.is_file()), "bytes")


if __name__ == "__main__":
    main()
