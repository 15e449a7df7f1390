"""The cases, by name. Each function writes one folder."""

import json

import numpy as np

from . import record, truth
from .gguf_cases import write_gguf
from .weights import Dims, config, packed, random_checkpoint, stored_tensors, write_folder

OFFLINE = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}
BITNET = Dims("bitnet", vocab=288, act="relu2", rope_theta=500000.0)


def bitnet_2b():
    """The checkpoint that `bitnet-2b-packed` and the GGUF files made from it share: (checkpoint, seed)."""
    return random_checkpoint(BITNET, 100, packed("multiply")), 100


def bitnet_2b_packed(folder):
    ckpt, seed = bitnet_2b()
    write_folder(folder, config(BITNET, quantization=OFFLINE), stored_tensors(ckpt, "bf16", "packed"))
    meta = record.base_meta(folder.name, BITNET, seed, format="hf", tokenizer=False, arch="BitNetForCausalLM",
                            storage="U8 packed, weight_scale bf16 multiplied", activation="relu2")
    record.expected(folder, truth.load(folder), ckpt, "int8", seed, meta)


def same_truth(folder, meta, other):
    """meta.json of a file whose tensors have exactly the values of case `other`: its expected.safetensors holds here too."""
    theirs = json.loads((folder.parent / other / "meta.json").read_text())
    keep = ("activation_quantisation", "noise", "numpy_f32_distance", "numpy_f64_distance", "prompt0_tie_margin", "linears")
    record.write_meta(folder, meta | {"expected": f"../{other}/expected.safetensors"} | {k: theirs[k] for k in keep})


def gguf_of_bitnet_2b(arch, layout, **options):
    def make(folder):
        ckpt, seed = bitnet_2b()
        kind = f"I2_S/{layout}".removesuffix("/canonical")
        read = write_gguf(folder / "model.gguf", ckpt, arch, kind, "F16", 40, **options)
        embedding = ckpt.tensors["model.embed_tokens.weight"]
        assert np.array_equal(read["model.embed_tokens.weight"], embedding)
        meta = record.base_meta(folder.name, BITNET, seed, format="gguf", file="model.gguf", tokenizer=True, arch=arch,
                                storage="I2_S, token_embd F16", i2s_layout=layout, activation="relu2")
        same_truth(folder, meta, "bitnet-2b-packed")

    return make


ALL = {
    "bitnet-2b-packed": bitnet_2b_packed,
    "gguf-bitnet-b158-i2s": gguf_of_bitnet_2b("bitnet-b1.58", "canonical"),
    "gguf-bitnet-b158-i2s-arm64": gguf_of_bitnet_2b("bitnet-b1.58", "arm64"),
    "gguf-bitnet-b158-i2s-x4": gguf_of_bitnet_2b("bitnet-b1.58", "x4"),
    "gguf-bitnet-25-i2s": gguf_of_bitnet_2b("bitnet-25", "canonical", output="F16"),
}
