"""What `bitnet convert` writes, read by other programs: gguf, llama.cpp, safetensors, transformers and MLX.

    python scripts/convert/interchange.py target/release/bitnet

Needs the packages of scripts/golden/requirements.txt, and mlx. Prints a line for each comparison and ends with code 1 if one fails.
"""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch._dynamo
from gguf import GGUFReader
from gguf.quants import dequantize
from safetensors import safe_open
from transformers import AutoModelForCausalLM

GOLDEN = Path(__file__).resolve().parents[2] / "tests" / "golden" / "models"
TOKENS = [1, 8, 15, 22, 29, 36, 43, 50]
failures = 0
# The quantisers run as they are written, operation by operation.
torch._dynamo.config.disable = True
torch.set_num_threads(1)


def check(name: str, distance: float, limit: float) -> None:
    """Prints whether a distance is within its limit, and counts a failure if not."""
    global failures
    verdict = "ok" if distance <= limit else "FAILED"
    failures += verdict != "ok"
    print(f"{verdict:6} {name}: {distance:.3g} (at most {limit:.3g})")


def convert(bitnet: str, source: Path, output: Path, *options: str) -> Path:
    """Runs `bitnet convert` and returns the output path."""
    subprocess.run([bitnet, "convert", str(source), str(output), *options], check=True, capture_output=True)
    return output


def tensors(path: Path) -> dict[str, np.ndarray]:
    """Every tensor of a GGUF file as numbers, by the gguf package."""
    return {t.name: dequantize(t.data, t.tensor_type).astype(np.float64) for t in GGUFReader(path).tensors}


def farthest(a: dict[str, np.ndarray], b: dict[str, np.ndarray]) -> float:
    """The largest difference of a number, over the largest number of its tensor."""
    assert a.keys() == b.keys(), a.keys() ^ b.keys()
    return max(np.abs(a[name] - b[name]).max() / max(np.abs(a[name]).max(), 1e-30) for name in a)


def llama_logits(path: Path) -> np.ndarray:
    """Logits `[tokens, vocabulary]` of TOKENS, by llama.cpp."""

    import llama_cpp

    model = llama_cpp.Llama(str(path), n_ctx=64, n_batch=64, n_threads=1, logits_all=True, verbose=False)
    model.eval(TOKENS)
    return np.array(model.scores[: len(TOKENS)], dtype=np.float64)


def torch_logits(folder: Path) -> np.ndarray:
    """Logits `[8, tokens, vocabulary]` of eight shifts of TOKENS, by transformers in float32."""
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], (folder, kind, info[kind])
    # The loader honours the type in the quantised layers only.
    model = torch.nn.Module.float(model).eval()
    with torch.no_grad():
        return model(torch.tensor([[token + shift for token in TOKENS] for shift in range(8)])).logits.double().numpy()


def relative(a: np.ndarray, b: np.ndarray) -> float:
    """The largest difference, over the largest magnitude of `a`."""
    return float(np.abs(a - b).max() / np.abs(a).max())


def same(name: str, a: np.ndarray, b: np.ndarray) -> None:
    """Equal but for the last bits; where one of those flips the rounding of an 8-bit input, a position may be a step off."""
    distances = np.abs(a - b).max(-1).ravel() / np.abs(a).max()
    check(name, float(np.median(distances)), 1e-6)
    check(f"{name}, farthest position", float(distances.max()), 0.02)


def gguf_files(bitnet: str, work: Path) -> None:
    """GGUF files of each storage type, read by the gguf package and computed with by llama.cpp."""
    source = GOLDEN / "gguf-llama-tq1_0" / "model.gguf"
    numbers, logits = tensors(source), llama_logits(source)
    # Trits keep their values; half precision holds the scale of the source, 8 and 6 bits do not.
    for storage, limit, logit_limit in [("tq2_0", 0, 1e-6), ("tq1_0", 0, 0), ("f16", 0, 0.05), ("f32", 0, 0.05), ("q8_0", 0.005, 0.05)]:
        output = convert(bitnet, source, work / f"{storage}.gguf", "--type", storage, "--activations", "int8")
        check(f"gguf reads {storage}", farthest(numbers, tensors(output)), limit)
        check(f"llama.cpp computes with {storage}", relative(logits, llama_logits(output)), logit_limit)
    for storage, limit in [("q8_0", 0.005), ("q6_k", 0.04), ("q4_0", 0.2), ("bf16", 0.02)]:
        output = convert(bitnet, source, work / f"e-{storage}.gguf", "--embedding-type", storage)
        check(f"gguf reads an embedding of {storage}", farthest(numbers, tensors(output)), limit)
        check(f"llama.cpp computes with an embedding of {storage}", relative(logits, llama_logits(output)), 2 * limit + 0.02)
    beside = convert(bitnet, GOLDEN / "gguf-bitnet-tq2_0" / "model.gguf", work / "beside.gguf", "--type", "tq1_0")
    theirs = relative(llama_logits(GOLDEN / "gguf-bitnet-tq2_0" / "model.gguf"), llama_logits(beside))
    check("llama.cpp computes with a scale beside the trits", theirs, 1e-5)
    split = convert(bitnet, source, work / "split.gguf", "--split-max-size", "30k")
    first = next(work.glob("split-00001-of-*.gguf"))
    check("llama.cpp reads a split model", relative(logits, llama_logits(first)), 0)
    assert not split.exists()


def folders(bitnet: str, work: Path) -> None:
    """Hugging Face folders, packed, from GGUF, in shards and dense, computed with by transformers."""
    for name in ["bitnet-2b-packed", "bitnet-2b-online", "bitnet-1bitllm", "llama-bitlinear-packed", "llama-online"]:
        source = GOLDEN / name
        if json.loads((source / "config.json").read_text())["architectures"] == ["BitnetForCausalLM"]:
            print(f"        {name}: transformers has no such class")
            continue
        logits = torch_logits(source)
        packed = convert(bitnet, source, work / name, "--to", "hf")
        same(f"transformers computes with {name}, packed", logits, torch_logits(packed))
        through = convert(bitnet, source, work / f"{name}.gguf")
        back = convert(bitnet, through, work / f"{name}-back", "--to", "hf")
        same(f"transformers computes with {name}, through GGUF and back", logits, torch_logits(back))
        with safe_open(packed / "model.safetensors", "pt") as file:
            names = set(file.keys())
        assert any(n.endswith(".weight_scale") for n in names), names
        shards = convert(bitnet, source, work / f"{name}-shards", "--to", "hf", "--split-max-size", "20k")
        assert (shards / "model.safetensors.index.json").exists()
        same(f"transformers computes with {name}, in shards", logits, torch_logits(shards))
    dense = GOLDEN / "qwen3-ternary-dense"
    output = convert(bitnet, dense, work / "dense", "--to", "hf-dense")
    check("transformers computes with a dense folder", relative(torch_logits(dense), torch_logits(output)), 0)


def hybrid_folders(bitnet: str, work: Path) -> None:
    """Qwen3.5: a folder from a GGUF file of its own script, and one through GGUF and back, computed with by transformers."""
    source = GOLDEN / "qwen35-ternary-dense"
    logits = torch_logits(source)
    twin = convert(bitnet, GOLDEN / "gguf-qwen35-pq2_0" / "model.gguf", work / "twin", "--to", "hf-dense")
    check("transformers computes with a hybrid folder from GGUF", relative(logits, torch_logits(twin)), 1e-5)
    through = convert(bitnet, source, work / "through.gguf", "--type", "pq2_0")
    back = convert(bitnet, through, work / "back", "--to", "hf-dense")
    check("transformers computes with a hybrid folder, through GGUF and back", relative(logits, torch_logits(back)), 0)


def stretched_rope(bitnet: str, work: Path) -> None:
    """Llama 3.1's frequencies: settings for transformers, factors for llama.cpp."""
    source = work / "stretched"
    shutil.copytree(GOLDEN / "llama-ternary-dense", source)
    config = json.loads((source / "config.json").read_text())
    config["rope_scaling"] = json.loads((GOLDEN / "llama-rmsnorm-packed" / "config.json").read_text())["rope_scaling"]
    (source / "config.json").write_text(json.dumps(config))
    # llama.cpp opens nothing without a vocabulary: as many letters as the model has tokens, too few for the proof.
    letters = [chr(33 + i) for i in range(config["vocab_size"] - 1)] + ["\u010a"]
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    model = {"type": "BPE", "vocab": {letter: i for i, letter in enumerate(letters)}, "merges": []}
    tokenizer = {"version": "1.0", "added_tokens": [], "pre_tokenizer": byte_level, "decoder": byte_level, "model": model}
    (source / "tokenizer.json").write_text(json.dumps(tokenizer))
    logits = torch_logits(source)[0]
    output = convert(bitnet, source, work / "stretched.gguf", "--type", "f32", "--no-verify")
    factors = tensors(output)["rope_freqs.weight"]
    assert 1 < factors[0] < factors[1] < factors[-1] == config["rope_scaling"]["factor"], factors
    check("llama.cpp computes with frequency factors", relative(logits, llama_logits(output)), 1e-3)
    del config["rope_scaling"]
    (source / "config.json").write_text(json.dumps(config))
    plain = relative(logits, torch_logits(source)[0])
    assert plain > 1e-2, f"the factors change too little to be tested: {plain}"


def mlx_folder(bitnet: str, work: Path) -> None:
    """An MLX folder, dequantised by mlx."""

    import mlx.core as mx

    dense = GOLDEN / "qwen3-ternary-dense"
    output = convert(bitnet, dense, work / "mlx", "--to", "mlx")
    group = json.loads((output / "config.json").read_text())["quantization"]["group_size"]
    stored = mx.load(str(output / "model.safetensors"))
    with safe_open(dense / "model.safetensors", "pt") as file:
        names = [n for n in file.keys() if n.removesuffix(".weight") + ".scales" in stored]
        farthest = 0.0
        for name in names:
            stem = name.removesuffix(".weight")
            restored = mx.dequantize(stored[name], stored[f"{stem}.scales"], stored[f"{stem}.biases"], group, 2)
            original = file.get_tensor(name).float().numpy()
            farthest = max(farthest, float(np.abs(np.array(restored.astype(mx.float32)) - original).max()))
    assert len(names) >= 7, names
    check(f"mlx reads {len(names)} layers", farthest, 0)


def main() -> None:
    """Runs every comparison with the program that the first argument names."""
    bitnet = sys.argv[1]
    with tempfile.TemporaryDirectory() as work:
        gguf_files(bitnet, Path(work))
    with tempfile.TemporaryDirectory() as work:
        folders(bitnet, Path(work))
    with tempfile.TemporaryDirectory() as work:
        hybrid_folders(bitnet, Path(work))
    with tempfile.TemporaryDirectory() as work:
        stretched_rope(bitnet, Path(work))
    with tempfile.TemporaryDirectory() as work:
        mlx_folder(bitnet, Path(work))
    sys.exit(failures > 0)


if __name__ == "__main__":
    main()
