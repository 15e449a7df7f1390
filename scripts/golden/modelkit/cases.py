"""The cases, by name. Each function writes one folder."""

import tempfile

import numpy as np

from . import record, truth
from .gguf_cases import write_gguf
from .weights import (OFFLINE, Checkpoint, Dims, config, latents, packed, random_checkpoint, stored_tensors,
                      with_scales, write_folder)

ONLINE = OFFLINE | {"quantization_mode": "online"}
PLAIN = {"modules_to_not_convert": None, "quant_method": "bitnet"}  # no linear_class: the class that divides
TEMPLATE = "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] | trim }}<|eot_id|>{% endfor %}"

# Vocabularies: 264 = 256 bytes, 4 merges, 4 control tokens where a GGUF
# file is made; less where none is, to save bytes.
BITNET = Dims("bitnet", vocab=264, act="relu2", rope_theta=500000.0)
BITNET_SMALL = Dims("bitnet", ffn=128, layers=1, kv_heads=1, vocab=64, act="relu2", rope_theta=500000.0)
BITNET_SILU = Dims("bitnet", ffn=128, layers=1, kv_heads=4, vocab=64)
LLAMA = Dims("llama", vocab=96, tied=False, rope_theta=500000.0)
LLAMA_STRETCHED = Dims("llama", ffn=128, layers=1, kv_heads=1, vocab=64, llama3=(8.0, 1.0, 4.0, 16))
LLAMA_SMALL = Dims("llama", ffn=128, layers=1, kv_heads=1, vocab=64)
QWEN2 = Dims("qwen2", ffn=128, layers=1, kv_heads=1, vocab=64, eps=1e-6, rope_theta=1000000.0)
QWEN3 = Dims("qwen3", ffn=128, layers=1, kv_heads=1, head_dim=64, vocab=264, eps=1e-6, rope_theta=1000000.0)
BITNET_GGUF = Dims("bitnet", hidden=256, ffn=256, layers=1, kv_heads=1, head_dim=64, vocab=264, fine_norms=True)
LLAMA_GGUF = Dims("llama", hidden=256, ffn=256, layers=1, kv_heads=1, head_dim=64, vocab=264, tied=False, fine_norms=True)
LLAMA_I2S = Dims("llama", layers=1, vocab=264, rope_theta=1000042.0, fine_norms=True)


# ------------------------------------------------------------------------------------------------ Hugging Face folders


def folder_case(dims, seed, linear, dtype, mode, quantization, activation, storage, **options):
    """A folder that transformers itself loads. options: shards, input_norms, extra (config keys)."""

    def make(folder):
        """Writes the case to `folder`."""
        ckpt = random_checkpoint(dims, seed, linear, options.get("input_norms", False))
        names = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}
        conf = config(dims, dtype=names[dtype], quantization=quantization, **options.get("extra", {}))
        write_folder(folder, conf, stored_tensors(ckpt, dtype, mode), options.get("shards", 1))
        meta = record.base_meta(folder.name, dims, seed, format="hf", tokenizer=False, arch=conf["architectures"][0],
                                storage=storage, activation=dims.act)
        record.expected(folder, truth.load(folder), ckpt, activation, seed, meta)

    return make


def bitnet_1bitllm(folder):
    """transformers has no `BitnetForCausalLM`: the truth is its BitNetForCausalLM with SiLU, online, tensors renamed."""
    dims, seed = BITNET_SILU, 104
    ckpt = random_checkpoint(dims, seed, latents("f16"))
    with tempfile.TemporaryDirectory() as tmp:
        write_folder(tmp, config(dims, dtype="float16", quantization=ONLINE), stored_tensors(ckpt, "f16", "latent"))
        model = truth.load(tmp)
    published = {"input_bits": 8, "weight_bits": 1, "pretraining_tp": 1, "rope_scaling": None}
    conf = config(dims, "BitnetForCausalLM", "llama", "float16", **published)
    rename = lambda s: s.replace("attn_sub_norm", "inner_attn_ln").replace("ffn_sub_norm", "ffn_layernorm")  # noqa: E731
    write_folder(folder, conf, stored_tensors(ckpt, "f16", "latent", rename))
    meta = record.base_meta(folder.name, dims, seed, format="hf", tokenizer=False, arch="BitnetForCausalLM",
                            storage="f16 latents, quantised at load", activation="silu")
    record.expected(folder, model, ckpt, "int8", seed, meta)


def attention_tensor_mlp_shards(rng, n, k, proj):
    """Linears with one scale in attention and one per half of the rows in the MLP."""
    return with_scales("shards" if proj.startswith("mlp") else None)(rng, n, k, proj)


# ------------------------------------------------------------------------------------------------ GGUF files


def gguf_case(dims, seed, linear, arch, kind, embedding, file_type, activation, storage, **options):
    """A GGUF with its own truth; the seed alone (not the encoding) decides the weights."""

    def make(folder):
        """Writes the case to `folder`."""
        ckpt = random_checkpoint(dims, seed, linear)
        read = write_gguf(folder / "model.gguf", ckpt, arch, kind, embedding, file_type, **options)
        ckpt = Checkpoint(dims, ckpt.tensors | read)
        meta = record.base_meta(folder.name, dims, seed, format="gguf", file="model.gguf", tokenizer=True, arch=arch,
                                storage=storage, activation=dims.act)
        record.expected(folder, truth.load_values(ckpt, activation), ckpt, activation, seed, meta, "model.gguf")

    return make


def gguf_twin(other, dims, seed, linear, arch, kind, embedding, file_type, storage, llama=True, **options):
    """A GGUF whose tensors have exactly the values of case `other` (made before it). facts: more keys of meta.json."""
    facts = options.pop("facts", {})

    def make(folder):
        """Writes the case to `folder`."""
        ckpt = random_checkpoint(dims, seed, linear)
        read = write_gguf(folder / "model.gguf", ckpt, arch, kind, embedding, file_type, **options)
        if embedding in ("F16", "BF16"):
            assert all(np.array_equal(v, ckpt.tensors[k]) for k, v in read.items())
        meta = record.base_meta(folder.name, dims, seed, format="gguf", file="model.gguf", tokenizer=True, arch=arch,
                                storage=storage, activation=dims.act, **facts)
        record.same_truth(folder, meta, other, "model.gguf" if llama else None)

    return make


def gguf_of_bitnet_2b(arch, layout, **options):
    """A GGUF twin of bitnet-2b-packed with the given architecture and layout of I2_S."""
    kind = f"I2_S/{layout}".removesuffix("/canonical")
    return gguf_twin("bitnet-2b-packed", BITNET, 100, packed("multiply"), arch, kind, "F16", 40,
                     "I2_S, token_embd F16", False, facts={"i2s_layout": layout}, **options)


LINEAR_ROPE = [("bitnet.rope.scaling.type", "str", "linear"), ("bitnet.rope.scaling.factor", "f32", 1.0)]

ALL = {
    "bitnet-2b-packed": folder_case(
        BITNET, 100, packed("multiply"), "bf16", "packed", OFFLINE, "int8", "U8 packed, weight_scale bf16 multiplied"),
    "bitnet-2b-online": folder_case(
        BITNET_SMALL, 102, latents("bf16"), "bf16", "latent", ONLINE, "int8", "bf16 latents, quantised at load"),
    "bitnet-2b-online-f32": folder_case(
        BITNET_SMALL, 103, latents("f32"), "f32", "latent", ONLINE, "int8", "f32 latents in two shards", shards=2),
    "bitnet-1bitllm": bitnet_1bitllm,
    "llama-bitlinear-packed": folder_case(
        LLAMA, 105, packed("divide"), "bf16", "packed", PLAIN, "int8", "U8 packed, weight_scale bf16 divided by"),
    "llama-rmsnorm-packed": folder_case(
        LLAMA_STRETCHED, 106, packed("divide"), "bf16", "packed", PLAIN | {"use_rms_norm": True, "rms_norm_eps": 1e-6},
        "int8", "U8 packed, weight_scale bf16 divided by, RMSNorm on the input of every linear; RoPE stretched as Llama 3.1's",
        input_norms=True,
        extra={"rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                                "original_max_position_embeddings": 16}}),
    "llama-ternary-dense": folder_case(
        LLAMA_SMALL, 107, attention_tensor_mlp_shards, "f16", "dense", None, "none",
        "f16; attention: one magnitude per tensor; MLP: one per half of the rows, as model-parallel training leaves"),
    "qwen2-ternary-dense": folder_case(
        QWEN2, 115, with_scales("row", "bf16"), "bf16", "dense", None, "none",
        "bf16, one magnitude per row; biases on q, k and v"),
    "qwen3-ternary-dense": folder_case(
        QWEN3, 109, with_scales(128, "bf16"), "bf16", "dense", None, "none", "bf16, one magnitude per 128 in a row"),
    "llama-online": folder_case(
        LLAMA_SMALL, 110, latents("bf16"), "bf16", "latent", ONLINE, "int8", "bf16 latents, quantised at load",
        extra={"rope_theta": None, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"}}),
    "gguf-bitnet-b158-i2s": gguf_of_bitnet_2b("bitnet-b1.58", "canonical", template=TEMPLATE),
    "gguf-bitnet-b158-i2s-arm64": gguf_of_bitnet_2b("bitnet-b1.58", "arm64"),
    "gguf-bitnet-b158-i2s-x4": gguf_of_bitnet_2b("bitnet-b1.58", "x4"),
    "gguf-bitnet-25-i2s": gguf_of_bitnet_2b("bitnet-25", "canonical", output="F16"),
    "gguf-bitnet-tq2_0": gguf_case(
        BITNET_GGUF, 111, with_scales(), "bitnet", "TQ2_0", "Q6_K", 37, "int8", "TQ2_0, token_embd Q6_K",
        extra=LINEAR_ROPE),
    "gguf-bitnet-tq2_0-scale": gguf_twin(
        "gguf-bitnet-tq2_0", BITNET_GGUF, 111, with_scales(), "bitnet", "TQ2_0", "Q6_K", 37,
        "TQ2_0 with block scale 1, scale in `.scale` tensors, token_embd Q6_K", scale_tensors=True, extra=LINEAR_ROPE),
    "gguf-llama-tq1_0": gguf_case(
        LLAMA_GGUF, 112, with_scales("row"), "llama", "TQ1_0", "Q8_0", 36, "int8",
        "TQ1_0 with one scale per row, Q and K permuted, token_embd Q8_0, output F16", output="F16", pre="llama-bpe"),
    "gguf-llama-i2s": gguf_case(
        LLAMA_I2S, 113, with_scales(None, np.float32), "llama", "I2_S", "Q4_0", 40, "int8",
        "I2_S, Q and K permuted, token_embd Q4_0 also the head", pre="llama-bpe"),
    "gguf-llama-i2s-v2": gguf_twin(
        "gguf-llama-i2s", LLAMA_I2S, 113, with_scales(None, np.float32), "llama", "I2_S", "Q4_0", 40,
        "as gguf-llama-i2s, container version 2", version=2, pre="llama-bpe", facts={"gguf_version": 2}),
    "gguf-qwen3-q2_0-g64": gguf_case(
        QWEN3, 114, with_scales(64), "qwen3", "Q2_0/64", "BF16", 41, "none", "Q2_0 in blocks of 64, token_embd BF16",
        pre="qwen2"),
    "gguf-qwen3-q2_0-g128": gguf_twin(
        "qwen3-ternary-dense", QWEN3, 109, with_scales(128, "bf16"), "qwen3", "Q2_0/128", "BF16", 41,
        "Q2_0 in blocks of 128, token_embd BF16", pre="qwen2"),
    "gguf-qwen3-pq2_0": gguf_twin(
        "qwen3-ternary-dense", QWEN3, 109, with_scales(128, "bf16"), "qwen3", "PQ2_0", "BF16", 41,
        "PQ2_0, token_embd BF16", False, pre="qwen2"),
    "gguf-qwen3-ptq1_0": gguf_twin(
        "qwen3-ternary-dense", QWEN3, 109, with_scales(128, "bf16"), "qwen3", "PTQ1_0", "BF16", 41,
        "PTQ1_0, token_embd BF16", False, pre="qwen2"),
}
