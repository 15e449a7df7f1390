"""Writes expected.safetensors and meta.json of a case."""

import json
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from . import llama_run, reference, truth
from .weights import dims_json

# From meta.json of a case to that of another whose tensors have the same values.
SHARED = ("activation_quantisation", "noise", "numpy_f32_distance", "numpy_f64_distance", "tie_margins", "linears")
PACKAGES = ("torch", "transformers", "safetensors", "numpy", "gguf", "llama_cpp_python")
LINEARS = {
    "q_proj": ("model.layers.0.self_attn.q_proj", "blk.0.attn_q.weight"),
    "k_proj": ("model.layers.0.self_attn.k_proj", "blk.0.attn_k.weight"),
    "down_proj": ("model.layers.0.mlp.down_proj", "blk.0.ffn_down.weight"),
}

WITH_DOWN_TRITS = ("bitnet-2b-packed", "llama-ternary-dense")  # the others leave them out to save bytes


def write_meta(folder, meta):
    """Writes meta.json."""
    text = json.dumps(meta, indent=2, ensure_ascii=False)
    Path(folder, "meta.json").write_text(text + "\n")


def base_meta(name, dims, seed, **facts):
    """The entries of meta.json that every case has, and `facts`."""
    return {"case": name, "seed": seed, "dims": dims_json(dims)} | facts | {
        "versions": installed_versions()}


def installed_versions():
    """Versions of the packages that made a case; llama_cpp_python is needed for GGUF files alone."""
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            if package != "llama_cpp_python":
                raise
    return found


def measure_noise(model, wide, prompts, sequences):
    """max|float32 - float64| of the logits; see tests/golden/README.md for the keys.

    With int8 activations the sequences go on (to 200) until one has an activation that rounds to the neighbouring int8
    in the two runs: that, not the rounding of sums, is the noise of this arithmetic.
    """
    per_prompt, worst, rounding, largest, flips, total, used = [], 0.0, 0.0, 0.0, 0, 0, 0
    quantised = bool(truth.bit_linears(model))
    for i, seq in enumerate([*prompts, *sequences]):
        if i >= len(prompts) + 11 and (flips or not quantised):
            break
        with truth.int8_activations(model) as qa:
            a = truth.logits32(model, seq)
        with truth.int8_activations(wide) as qb:
            b = truth.logits64(wide, seq)
        here = sum(int((x != y).sum()) for x, y in zip(qa, qb, strict=True))
        flips, total, used = flips + here, total + sum(x.numel() for x in qa), used + 1
        d = float(np.abs(a - b).max())
        worst, largest = max(worst, d), max(largest, float(np.abs(b).max()))
        rounding = rounding if here else max(rounding, d)
        if i < len(prompts):
            assert here == 0, "a prompt has an activation on a tie"
            per_prompt.append(d)
    return {"max_abs": worst, "rounding_max_abs": rounding, "per_prompt": per_prompt, "logit_max_abs": largest,
            "int8_differences": flips, "int8_activations": total, "sequences": used}


def save(path, tensors):
    """Tensors in the order of their names."""
    save_file({k: v.contiguous() for k, v in sorted(tensors.items())}, path)
    Path(path).chmod(0o644)


def compare_llama(folder, file, tokens, logits):
    """What meta.json says of llama.cpp: its distance from transformers, or why it did not load; and its logits or None."""
    theirs = llama_run.logits(Path(folder, file), tokens)
    if isinstance(theirs, str):
        return {"loads": False, "reason": theirs}, None
    d = np.abs(theirs - logits)
    return {"loads": True, "max_abs_from_transformers": float(d.max()), "mean_abs_from_transformers": float(d.mean()),
            "argmax_equal": int((theirs.argmax(1) == logits.argmax(1)).sum()), "positions": len(tokens)}, theirs


def expected(folder, model, ckpt, activation, seed, meta, file=None):
    """Run everything, check it against the NumPy forward pass, write both files; `file`: a GGUF for llama.cpp to try."""
    dims = ckpt.dims
    wide = truth.double_copy(model, dims)
    prompts, tie_margins = truth.choose_prompts(model, dims, seed)
    rec = {}
    for p, tokens in enumerate(prompts):
        rec[f"prompt.{p}.tokens"] = torch.from_numpy(tokens.astype(np.int32))
        rec[f"prompt.{p}.logits"] = torch.from_numpy(truth.logits32(model, tokens).copy())
        ids, margins = truth.greedy(model, tokens)
        rec[f"greedy.{p}.tokens"], rec[f"greedy.{p}.margin"] = torch.from_numpy(ids), torch.from_numpy(margins)
    rng = np.random.default_rng(seed + 2)
    more = [np.concatenate([t, rec[f"greedy.{p}.tokens"].numpy()]) for p, t in enumerate(prompts)]
    more += list(rng.integers(0, dims.vocab, (200, 64)))
    noise = measure_noise(model, wide, prompts, more)
    check = max(float(np.abs(reference.forward(ckpt, t, activation) - truth.logits64(wide, t)).max()) for t in prompts)
    assert check < 1e-9 * noise["logit_max_abs"], f"NumPy and transformers differ in float64 by {check}"
    single = max(float(np.abs(reference.forward(ckpt, t, activation, np.float32)
                              - rec[f"prompt.{p}.logits"].numpy()).max()) for p, t in enumerate(prompts))
    linears = traced(dims)
    rec |= truth.trace(model, prompts[0], {k: v[0] for k, v in linears.items()})
    for short, (path, _) in linears.items():
        lin = ckpt.tensors[path]
        key = f"linear.{short}."
        if activation == "none":
            rec |= {key + "trits": torch.from_numpy(lin.trits.copy()), key + "scale": torch.from_numpy(lin.scale.copy())}
        assert np.array_equal(rec[key + "trits"].numpy(), lin.trits), path
        assert np.allclose(rec[key + "scale"].numpy().ravel(), lin.scale.ravel(), rtol=1e-6), path
        if short == "down_proj" and meta["case"] not in WITH_DOWN_TRITS:
            del rec[key + "trits"]
    if file:
        meta["llama_cpp"], theirs = compare_llama(folder, file, prompts[0], rec["prompt.0.logits"].numpy())
        if theirs is not None:
            rec["llama.logits"] = torch.from_numpy(theirs)
    save(Path(folder, "expected.safetensors"), rec)
    write_meta(folder, meta | {
        "expected": "expected.safetensors",
        "activation_quantisation": activation,
        "noise": noise,
        "numpy_f32_distance": single,
        "numpy_f64_distance": check,
        "tie_margins": tie_margins,
        "linears": {k: {"hf": hf, "gguf": gguf} for k, (hf, gguf) in linears.items()},
    })


def traced(dims):
    """The linears of layer 0 that are recorded; where q_proj is large, the smaller k_proj stands for it."""
    wide, large = dims.hidden >= 256, dims.heads * dims.head_dim >= 256
    names = ("k_proj",) if wide else ("k_proj", "down_proj") if large else ("q_proj", "down_proj")
    return {k: LINEARS[k] for k in names}


def same_truth(folder, meta, other, file=None):
    """meta.json of a file whose tensors have exactly the values of case `other`: its expected.safetensors holds here too."""
    folder = Path(folder)
    theirs = json.loads((folder.parent / other / "meta.json").read_text())
    if file:
        rec = load_file(folder.parent / other / "expected.safetensors")
        tokens, logits = rec["prompt.0.tokens"].numpy(), rec["prompt.0.logits"].numpy()
        meta["llama_cpp"], _ = compare_llama(folder, file, tokens, logits)
    write_meta(folder, meta | {"expected": f"../{other}/expected.safetensors"} | {k: theirs[k] for k in SHARED if k in theirs})
