"""Writes the golden files of this folder with the public Python packages, and what those packages read back from them.

    python make.py            needs: gguf 0.19, safetensors 0.8, numpy, torch

tiny.gguf + tiny.gguf.json                 every metadata type, and tensors in every type that gguf can quantise to and we read
tiny.safetensors + tiny.safetensors.json   dtypes, a scalar, an empty tensor, a name with escapes, __metadata__
"""

import json
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import save_file

HERE = Path(__file__).parent
T = gguf.GGMLQuantizationType


def write_gguf(path):
    """Writes a GGUF file with every metadata type and a tensor of each supported type."""
    random = np.random.default_rng(158)
    writer = gguf.GGUFWriter(path, "bitnet")
    writer.add_uint8("tiny.u8", 255)
    writer.add_int8("tiny.i8", -128)
    writer.add_uint16("tiny.u16", 65535)
    writer.add_int16("tiny.i16", -32768)
    writer.add_uint32("tiny.u32", 2**32 - 1)
    writer.add_int32("tiny.i32", -(2**31))
    writer.add_float32("tiny.f32", 1e-5)
    writer.add_uint64("tiny.u64", 2**64 - 1)
    writer.add_int64("tiny.i64", -(2**63))
    writer.add_float64("tiny.f64", 0.1)
    writer.add_bool("tiny.bool", True)
    writer.add_string("tiny.string", "Ġtern → ary\n")
    writer.add_array("tiny.strings", ["<unk>", "", "▁a", "\U0001f600"])
    writer.add_array("tiny.ints", [-1, 0, 1])
    writer.add_array("tiny.floats", [0.0, -1.5, 2.25])
    writer.add_array("tiny.bools", [True, False])
    writer.add_tensor("norm.weight", np.arange(7, dtype=np.float32) / 8)
    writer.add_tensor("half.weight", (np.arange(12, dtype=np.float16) - 6).reshape(3, 4))
    trits = random.integers(-1, 2, (2, 256)).astype(np.float32) * np.float32(0.5)
    for kind in [T.TQ1_0, T.TQ2_0, T.BF16, T.Q8_0, T.Q4_0]:
        columns = 256 if kind in (T.TQ1_0, T.TQ2_0) else 32
        data = gguf.quants.quantize(np.ascontiguousarray(trits[:, :columns]), kind)
        writer.add_tensor(f"{kind.name.lower()}.weight", data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_gguf(path):
    """Keys and tensors of a GGUF file as the gguf package reads them, for JSON."""
    reader = gguf.GGUFReader(path)
    keys = {}
    for name, field in reader.fields.items():
        if name.startswith("GGUF."):
            continue
        value = field.contents()
        # JSON has no 64-bit floats beyond what repr gives; repr is exact.
        keys[name] = {"types": [t.name for t in field.types], "value": value}
    tensors = [
        {
            "name": t.name,
            "dims": [int(d) for d in t.shape],
            "type": int(t.tensor_type),
            "offset": int(t.data_offset),
            "hex": t.data.tobytes().hex(),
        }
        for t in reader.tensors
    ]
    return {"keys": keys, "tensors": tensors}


def write_safetensors(path):
    """Writes a safetensors file with several dtypes, a scalar, an empty tensor and a name with escapes."""
    tensors = {
        "norm": torch.arange(6, dtype=torch.float32).reshape(2, 3) / 4,
        "scale": torch.tensor([1.25], dtype=torch.bfloat16),
        "packed": torch.arange(8, dtype=torch.uint8).reshape(2, 4),
        "scalar": torch.tensor(-3, dtype=torch.int64),
        "empty": torch.zeros(0, 5, dtype=torch.float16),
        "mask": torch.tensor([True, False]),
        'odd "name"\t\u00e9': torch.tensor([1, -1], dtype=torch.int32),
    }
    save_file(tensors, path, metadata={"format": "pt", "note": "tiny"})


def read_safetensors(path):
    """Metadata and tensors of a safetensors file as the safetensors package reads them, for JSON."""
    with safe_open(path, "pt") as opened:
        tensors = [
            {
                "name": name,
                "dtype": opened.get_slice(name).get_dtype(),
                "shape": list(opened.get_tensor(name).shape),
                "hex": bytes(opened.get_tensor(name).contiguous().flatten().view(torch.uint8).tolist()).hex(),
            }
            for name in sorted(opened.keys())
        ]
        return {"metadata": opened.metadata(), "tensors": tensors}


def main():
    """Writes both files and what the packages read from them."""
    for name, write, read in [("tiny.gguf", write_gguf, read_gguf), ("tiny.safetensors", write_safetensors, read_safetensors)]:
        path = HERE / name
        write(path)
        (HERE / f"{name}.json").write_text(json.dumps(read(path), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
