"""GGUF files of a `Checkpoint`: names, order of rows, metadata, tensor encodings."""

from pathlib import Path

import numpy as np

from . import codecs, gguf_file
from .weights import Ternary

NAMES = {
    "model.embed_tokens.weight": "token_embd.weight", "model.norm.weight": "output_norm.weight",
    "lm_head.weight": "output.weight",
    "input_layernorm.weight": "attn_norm.weight", "post_attention_layernorm.weight": "ffn_norm.weight",
    "self_attn.attn_sub_norm.weight": "attn_sub_norm.weight", "mlp.ffn_sub_norm.weight": "ffn_sub_norm.weight",
    "self_attn.q_norm.weight": "attn_q_norm.weight", "self_attn.k_norm.weight": "attn_k_norm.weight",
    "self_attn.q_proj": "attn_q.weight", "self_attn.k_proj": "attn_k.weight", "self_attn.v_proj": "attn_v.weight",
    "self_attn.o_proj": "attn_output.weight", "mlp.gate_proj": "ffn_gate.weight", "mlp.up_proj": "ffn_up.weight",
    "mlp.down_proj": "ffn_down.weight",
}


def gguf_name(name):
    """The name in GGUF of a tensor of a Hugging Face checkpoint."""
    if not name.startswith("model.layers."):
        return NAMES[name]
    _, _, i, rest = name.split(".", 3)
    return f"blk.{i}.{NAMES[rest]}"


def permute(rows, heads):
    """Row order of the `llama` architecture: within each head, row j of the two halves become rows 2j and 2j + 1."""
    n = rows.shape[0]
    return rows.reshape(heads, 2, n // heads // 2, -1).swapaxes(1, 2).reshape(n, -1)


def permuted(name, value, dims, arch):
    """The weight with the rows of Q and K in llama.cpp's order, which only `llama` has."""
    if arch != "llama" or not name.endswith(("q_proj", "k_proj")):
        return value
    heads = dims.heads if name.endswith("q_proj") else dims.kv_heads
    scale = permute(value.scale, heads) if value.scale.shape[0] > 1 else value.scale
    return Ternary(permute(value.trits, heads), scale)


def encode_linear(kind, v):
    """(type id, bytes) of one ternary matrix. kind: "I2_S", "I2_S/arm64", "I2_S/x4", "TQ1_0", "TQ2_0", "Q2_0/64", "Q2_0/128",
    "PQ2_0", "PTQ1_0"."""
    family, _, variant = kind.partition("/")
    if family == "I2_S":
        padding = {"": "zero", "arm64": "tiled", "x4": "garbage"}[variant]
        return codecs.I2_S, codecs.i2s_encode(v.trits, v.scale.item(), variant or "canonical", padding)
    if family == "Q2_0":
        return codecs.Q2_0, codecs.q2_0_encode(v.trits, v.scale, int(variant))
    if family == "PQ2_0":
        return codecs.PQ2_0, codecs.q2_0_encode(v.trits, v.scale, 128)
    encode, code = {
        "TQ1_0": (codecs.tq1_0_encode, codecs.TQ1_0),
        "TQ2_0": (codecs.tq2_0_encode, codecs.TQ2_0),
        "PTQ1_0": (codecs.ptq1_0_encode, codecs.PTQ1_0),
    }[family]
    return code, encode(v.trits, v.scale)


def metadata(dims, arch, file_type, pre=None, template=None, extra=()):
    """Keys in the order of the published files; the tokenizer is a tiny byte-level BPE, its last four ids are control."""
    v = dims.vocab
    tokens, kinds, merges = gguf_file.tiny_bpe(v)
    a = arch + "."
    kv = [
        ("general.architecture", "str", arch),
        ("general.name", "str", "golden"),
        (a + "vocab_size", "u32", v),
        (a + "context_length", "u32", dims.context),
        (a + "embedding_length", "u32", dims.hidden),
        (a + "block_count", "u32", dims.layers),
        (a + "feed_forward_length", "u32", dims.ffn),
        (a + "rope.dimension_count", "u32", dims.head_dim),
        (a + "attention.head_count", "u32", dims.heads),
        (a + "attention.head_count_kv", "u32", dims.kv_heads),
        (a + "attention.layer_norm_rms_epsilon", "f32", dims.eps),
        (a + "rope.freq_base", "f32", dims.rope_theta),
    ]
    if dims.head_dim * dims.heads != dims.hidden:
        kv += [(a + "attention.key_length", "u32", dims.head_dim), (a + "attention.value_length", "u32", dims.head_dim)]
    kv += [
        *extra,
        ("general.file_type", "u32", file_type),
        ("general.quantization_version", "u32", 2),
        ("tokenizer.ggml.model", "str", "gpt2"),
        ("tokenizer.ggml.tokens", "[str]", tokens),
        ("tokenizer.ggml.scores", "[f32]", [0.0] * v),
        ("tokenizer.ggml.token_type", "[i32]", kinds),
        ("tokenizer.ggml.merges", "[str]", merges),
        ("tokenizer.ggml.add_bos_token", "bool", True),
        ("tokenizer.ggml.bos_token_id", "u32", v - 4),
        ("tokenizer.ggml.eos_token_id", "u32", v - 3),
        ("tokenizer.ggml.padding_token_id", "u32", v - 2),
    ]
    if pre:
        kv.append(("tokenizer.ggml.pre", "str", pre))
    if template:
        kv.append(("tokenizer.chat_template", "str", template))
    return kv


def write_gguf(path, ckpt, arch, linear, embedding, file_type, *, output=None, scale_tensors=False, version=3, **meta):
    """Write `ckpt` as one GGUF file; returns the embedding and head as a reader dequantises them.

    linear: see `encode_linear`; embedding, output: dense kinds; an `output` given for a tied model duplicates the embedding.
    scale_tensors: store weights as trits with block scale 1 and the scale in `<weight>.scale` f32 [1].
    """
    dims, tensors, read = ckpt.dims, [], {}
    for name, v in ckpt.tensors.items():
        target = gguf_name(name)
        if isinstance(v, Ternary):
            v = permuted(name, v, dims, arch)
            stored = Ternary(v.trits, np.ones((1, 1), np.float32)) if scale_tensors else v
            tensors.append((target, v.trits.shape, *encode_linear(linear, stored)))
            if scale_tensors:
                raw = v.scale.astype("<f4").tobytes()
                tensors.append((target.replace(".weight", ".scale"), (1,), codecs.F32, raw))
            continue
        kind = {"token_embd.weight": embedding, "output.weight": output}.get(target, "F32")
        code, raw, values = codecs.dense_encode(kind, v)
        tensors.append((target, v.shape, code, raw))
        if target in ("token_embd.weight", "output.weight"):
            read[name] = values
    if output and dims.tied:
        code, raw, values = codecs.dense_encode(output, ckpt.tensors["model.embed_tokens.weight"])
        tensors.append(("output.weight", values.shape, code, raw))
        assert np.array_equal(values, read["model.embed_tokens.weight"])
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    gguf_file.write(path, metadata(dims, arch, file_type, **meta), tensors, version)
    return read
