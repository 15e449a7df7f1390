"""Writes a tiny folder in the form of Ternary Bonsai 2 for MLX (`prism_hadamard_qwen35`) and what transformers computes.

    python scripts/golden/mlx_rotated.py [--out tests/golden/models]

mlx-qwen35-rotated: 2-bit affine codes of MLX, weights of 512 inputs rotated in one block with signs, those of 128 not.
The truth is transformers on the weights rotated back. mlx-lm itself loads the folder, and its logits in half precision
must be near them.

Layout: `mlx_lm/models/prism_hadamard_qwen35.py` of mlx-lm 0.32.2.
"""

import argparse
import json
import os
import sys
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
HERE = Path(__file__).resolve().parent
sys.path = [p for p in sys.path if Path(p or ".").resolve() != HERE] + [str(HERE)]

import mlx.core as mx  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
from mlx_lm.utils import load_model  # noqa: E402
from safetensors.numpy import load_file, save_file  # noqa: E402

import hybrid  # noqa: E402

BLOCK = 512
GROUP = 128
DIMS = hybrid.Hybrid("qwen3_5", hidden=BLOCK, ffn=128, layers=2, heads=4, kv_heads=1, head_dim=32, vocab=128, eps=1e-6,
                     rope_theta=10000000.0, tied=False, value_heads=16)
SEED = 310
LENGTHS = (5, 21)


def packed(value):
    """Codes, scales and biases of a `Ternary`: 16 codes in a word, the first in the lowest bits; code 0 is -scale."""
    codes = (value.trits + 1).astype(np.uint32).reshape(len(value.trits), -1, 16)
    words = (codes << (2 * np.arange(16, dtype=np.uint32))).sum(2, dtype=np.uint32)
    scales = value.scale.astype(np.float16)
    got = mx.dequantize(mx.array(words), mx.array(scales), mx.array(-scales), GROUP, 2)
    assert np.array_equal(np.array(got.astype(mx.float32)), value.dense()), "MLX reads the weights as they are meant"
    return {"weight": words, "scales": scales, "biases": -scales}


def folder_tensors(tensors, signs):
    """Arrays by their names, and the modules that `config.json` lists."""
    out, modules = {}, []
    for name, value in tensors.items():
        if isinstance(value, np.ndarray):
            if name.endswith("conv1d"):
                value = value[:, :, None]
            whole = name.endswith(("A_log", "dt_bias"))
            stored = value.astype(np.float32 if whole else np.float16)
            assert np.array_equal(stored.astype(np.float32), value.astype(np.float32)), name
            out[name if whole else name + ".weight"] = stored
            continue
        is_rotated = value.trits.shape[1] == BLOCK
        parts = packed(value) | ({"signs": signs.astype(np.float32)} if is_rotated else {})
        out |= {f"{name}.{part}": array for part, array in parts.items()}
        modules.append({"path": name, "block": BLOCK if is_rotated else 0, "embedding": name == "model.embed_tokens",
                        "dtype": "float16"})
    return out, modules


def write_folder(folder, tensors, signs):
    """`config.json` and `model.safetensors`."""
    arrays, modules = folder_tensors(tensors, signs)
    text = hybrid.config(DIMS, "float16")
    del text["architectures"]
    config = {
        "model_type": "prism_hadamard_qwen35", "base_model_type": "qwen3_5", "schema_version": 1,
        "tensor_namespace": "mlx-lm-text", "gdn_activation_layout": "grouped",
        "quantization": {"bits": 2, "group_size": GROUP, "mode": "affine"}, "modules": modules, "text_config": text,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config) + "\n")
    save_file({name: np.ascontiguousarray(a) for name, a in sorted(arrays.items())}, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)


def near_mlx(folder):
    """The largest distance of mlx-lm's logits, which computes in half precision, from the recorded ones."""
    model, _ = load_model(folder)
    truth, worst = load_file(folder / "expected.safetensors"), 0.0
    for p in range(len(LENGTHS)):
        meant = truth[f"prompt.{p}.logits"]
        got = np.array(model(mx.array(truth[f"prompt.{p}.tokens"])[None]).astype(mx.float32))[0]
        worst = max(worst, float(np.abs(got - meant).max() / np.abs(meant).max()))
    assert worst < 0.02, worst
    return worst


def main():
    """Writes the case."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", type=Path, default=HERE.parents[1] / "tests/golden/models")
    folder = ap.parse_args().out / "mlx-qwen35-rotated"
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    stored = hybrid.random_tensors(DIMS, SEED, True)
    signs = np.random.default_rng(SEED + 7).choice([-1.0, 1.0], BLOCK)
    write_folder(folder, stored, signs)
    plain = {}
    for name, value in stored.items():
        is_rotated = not isinstance(value, np.ndarray) and value.trits.shape[1] == BLOCK
        plain[name] = hybrid.rotated_back(value.dense(), signs, BLOCK) if is_rotated else value
    meta = hybrid.meta_of(folder.name, DIMS, SEED, "Qwen3_5ForCausalLM", "MLX 2 bits in a rotated basis, embedding and head too",
                          format="hf", tokenizer=False)
    rotated = hybrid.in_rotated_basis(stored, DIMS, signs, BLOCK)
    hybrid.expected(folder, plain, DIMS, SEED, meta, rotated=rotated, lengths=LENGTHS)
    print(folder.name, sum(f.stat().st_size for f in folder.iterdir()), "bytes; mlx-lm within", near_mlx(folder))


if __name__ == "__main__":
    main()
