"""Writes expected.safetensors and meta.json of a case."""

import json
from importlib.metadata import version
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from . import reference, truth
from .weights import dims_json

PACKAGES = ("torch", "transformers", "safetensors", "numpy", "gguf", "llama_cpp_python")
LINEARS = {"q_proj": "model.layers.0.self_attn.q_proj", "down_proj": "model.layers.0.mlp.down_proj"}
GGUF_NAMES = {"q_proj": "blk.0.attn_q.weight", "down_proj": "blk.0.ffn_down.weight"}


def write_meta(folder, meta):
    text = json.dumps(meta, indent=2, ensure_ascii=False)
    Path(folder, "meta.json").write_text(text + "\n")


def base_meta(name, dims, seed, **facts):
    return {"case": name, "seed": seed, "dims": dims_json(dims)} | facts | {
        "versions": {p: version(p) for p in PACKAGES}}


def measure_noise(model, wide, prompts, sequences):
    """max|float32 - float64| of the logits, per prompt and over all sequences, and the scale of the logits."""
    per_prompt, worst, largest = [], 0.0, 0.0
    for i, seq in enumerate([*prompts, *sequences]):
        a, b = truth.logits32(model, seq), truth.logits64(wide, seq)
        d = float(np.abs(a - b).max())
        worst, largest = max(worst, d), max(largest, float(np.abs(b).max()))
        if i < len(prompts):
            per_prompt.append(d)
    return {"max_abs": worst, "per_prompt": per_prompt, "logit_max_abs": largest,
            "over": f"{len(prompts)} prompts, their greedy continuations, 8 random sequences of 64 tokens"}


def expected(folder, model, ckpt, activation, seed, meta):
    """Run everything, check it against the NumPy forward pass, write both files; returns the prompts."""
    dims = ckpt.dims
    wide = truth.double_copy(model, dims)
    prompts, tie_margin = truth.choose_prompts(model, dims, seed)
    rec = {}
    for p, tokens in enumerate(prompts):
        rec[f"prompt.{p}.tokens"] = torch.from_numpy(tokens.astype(np.int32))
        rec[f"prompt.{p}.logits"] = torch.from_numpy(truth.logits32(model, tokens).copy())
        ids, margins = truth.greedy(model, tokens)
        rec[f"greedy.{p}.tokens"], rec[f"greedy.{p}.margin"] = torch.from_numpy(ids), torch.from_numpy(margins)
    rng = np.random.default_rng(seed + 2)
    more = [np.concatenate([t, rec[f"greedy.{p}.tokens"].numpy()]) for p, t in enumerate(prompts)]
    more += list(rng.integers(0, dims.vocab, (8, 64)))
    noise = measure_noise(model, wide, prompts, more)
    check = max(float(np.abs(reference.forward(ckpt, t, activation) - truth.logits64(wide, t)).max()) for t in prompts)
    assert check < 1e-9 * noise["logit_max_abs"], f"NumPy and transformers differ in float64 by {check}"
    single = max(float(np.abs(reference.forward(ckpt, t, activation, np.float32)
                              - rec[f"prompt.{p}.logits"].numpy()).max()) for p, t in enumerate(prompts))
    rec |= truth.trace(model, prompts[0], LINEARS)
    save_file({k: v.contiguous() for k, v in sorted(rec.items())}, Path(folder, "expected.safetensors"))
    write_meta(folder, meta | {
        "expected": "expected.safetensors",
        "activation_quantisation": activation,
        "noise": noise,
        "numpy_f32_distance": single,
        "numpy_f64_distance": check,
        "prompt0_tie_margin": tie_margin,
        "linears": {k: {"hf": v, "gguf": GGUF_NAMES[k]} for k, v in LINEARS.items()},
    })
    return prompts
