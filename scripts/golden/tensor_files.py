"""Writes and checks tests/golden/safetensors with the public Python package `safetensors`.

    python tensor_files.py    needs: safetensors 0.8, torch, and tests/golden/safetensors/written.safetensors
                              (a test of bitnet-formats writes it with UPDATE_GOLDEN=1)

python.safetensors + python.json   a file of that package in every element type, and its numbers as f32
written.json                       what that package reads in written.safetensors
"""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file

HERE = Path(__file__).resolve().parents[2] / "tests" / "golden" / "safetensors"


def packed_trits(trits):
    """Trits packed five to a byte, in base 3."""
    bytes_ = [0] * -(-len(trits) // 5)
    for at, trit in enumerate(trits):
        bytes_[at // 5] += (trit + 1) * 3 ** (at % 5)
    return torch.tensor(bytes_, dtype=torch.uint8)


def tensors():
    """A tensor of each element type by name."""
    numbers = torch.tensor([[0.0, -1.5, 2.0], [448.0, 0.015625, -0.001953125]])
    small = torch.tensor([0, 1, 2, 7, 100, 127])
    return {
        "f64": numbers.double(),
        "f32": numbers,
        "f16": numbers.half(),
        "bf16": numbers.bfloat16(),
        "f8_e4m3": numbers.to(torch.float8_e4m3fn),
        "f8_e5m2": torch.tensor([1.0, -0.5, 57344.0, 1.52587890625e-05]).to(torch.float8_e5m2),
        "i64": small.long() * -(2**40),
        "i32": small.int() - 64,
        "i16": small.short() * -258,
        "i8": (small - 100).to(torch.int8),
        "u64": small.to(torch.uint64),
        "u32": small.to(torch.uint32),
        "u16": (small * 516).to(torch.uint16),
        "u8": (small * 2).to(torch.uint8),
        "bool": small > 5,
        "scalar": torch.tensor(42.0),
        "empty": torch.zeros(0, 3),
        "inexact": torch.tensor([0.5, 0.1], dtype=torch.float64),
        "trits": packed_trits([-1, 0, 1, 1, 0, -1, 1]),
    }


def main():
    """Writes the package's own file, and what the package reads in ours."""
    HERE.mkdir(parents=True, exist_ok=True)
    trits = {"trits": {"dtype": "BITNET158", "shape": [7, 1]}}
    notes = {"bitnet.packed": json.dumps(trits), "origin": "python"}
    save_file(tensors(), HERE / "python.safetensors", metadata=notes)
    as_f32 = {}
    for name, tensor in tensors().items():
        values = tensor.double().flatten().tolist()
        as_f32[name] = {"shape": list(tensor.shape), "numbers": values}
    (HERE / "python.json").write_text(json.dumps(as_f32, indent=1) + "\n")

    read = {}
    with safe_open(HERE / "written.safetensors", framework="pt") as file:
        for name in sorted(file.keys()):
            tensor = file.get_tensor(name)
            raw = bytes(tensor.contiguous().flatten().view(torch.uint8).tolist())
            read[name] = {"dtype": str(tensor.dtype), "shape": list(tensor.shape), "hex": raw.hex()}
        found = {"metadata": file.metadata(), "tensors": read}
    (HERE / "written.json").write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
