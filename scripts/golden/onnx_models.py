"""Writes tiny ONNX models with `MatMulNBits` nodes of 2 bits, and what transformers and onnxruntime compute with them.

    python scripts/golden/onnx_models.py [--out tests/golden]

onnx/onnx-qwen3-q2f16: as onnx-community publishes Ternary Bonsai: `onnx/model_q2f16.onnx` with external data, scales of 16
bits, zero points for each block (some 1, some 2), the table of embeddings in 2 bits, read by `GatherBlockQuantized` through a
table that spreads its codes, and by the head.
onnx/onnx-llama-q2: one file, no zero points, q, k and v in one node and gate and up in another, a table of ordinary numbers
and a ternary head of its own.
codecs/matmul_nbits: matrices with all four codes and all kinds of zero points, and the values that onnxruntime's node
multiplies by, which are its outputs for the unit vectors.

The graphs are whole: onnxruntime runs them, and its logits must be near those of transformers. Nodes, names and shapes are
those of onnxruntime-genai's model builder.
"""

import argparse
import os
import sys
from pathlib import Path

os.environ["TORCHDYNAMO_DISABLE"] = "1"
os.environ["HF_HUB_OFFLINE"] = "1"
HERE = Path(__file__).resolve().parent
sys.path = [p for p in sys.path if Path(p or ".").resolve() != HERE] + [str(HERE)]

import numpy as np  # noqa: E402
import onnx  # noqa: E402
import onnxruntime as ort  # noqa: E402
import torch  # noqa: E402
from onnx import TensorProto, helper, numpy_helper  # noqa: E402
from onnxruntime.capi._pybind_state import quantize_matmul_2bits  # noqa: E402
from safetensors.numpy import load_file  # noqa: E402

from modelkit import record, truth  # noqa: E402
from modelkit.weights import Checkpoint, Dims, Ternary, config, random_checkpoint, with_scales, write_folder  # noqa: E402

GROUP = 128
QWEN3 = Dims("qwen3", hidden=256, ffn=256, layers=2, heads=4, kv_heads=1, head_dim=32, vocab=48, eps=1e-6,
             rope_theta=1000000.0, context=96)
LLAMA = Dims("llama", hidden=128, ffn=256, layers=1, heads=4, kv_heads=2, head_dim=32, vocab=48, tied=False, context=96)
OPSETS = [helper.make_opsetid("", 21), helper.make_opsetid("com.microsoft", 1)]


def packed(codes, bits=2):
    """Codes `[N, K]` in bytes, the first in the lowest bits; rows begin at whole bytes."""
    per = 8 // bits
    rows = np.pad(codes.astype(np.uint8), ((0, 0), (0, -codes.shape[1] % per))).reshape(len(codes), -1, per)
    return (rows << (bits * np.arange(per, dtype=np.uint8))).sum(2, dtype=np.uint8)


class Graph:
    """A graph that grows node by node."""

    def __init__(self, dims, dtype):
        self.dims, self.dtype = dims, dtype
        self.nodes, self.tensors = [], []

    def tensor(self, name, array):
        """An initializer."""
        self.tensors.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, op, inputs, name, outputs=None, domain="", **attributes):
        """A node; returns its first output."""
        outputs = outputs or [f"{name}/output_0"]
        self.nodes.append(helper.make_node(op, inputs, outputs, name=name, domain=domain, **attributes))
        return outputs[0]

    def linear(self, x, value, name, stem, points=None, parts=("_quant", "_scales", "_zp")):
        """A product with a `Ternary` whose codes are its trits plus the zero points `[N, blocks]`, or 2."""
        n, k = value.trits.shape
        offsets = 2 if points is None else np.repeat(points, GROUP, 1)
        codes = packed(value.trits + offsets).reshape(n, k // GROUP, GROUP // 4)
        inputs = [x, self.tensor(stem + parts[0], codes), self.tensor(stem + parts[1], self.scales(value))]
        if points is not None:
            inputs.append(self.tensor(stem + parts[2], packed(points)))
        return self.product(inputs, name, n, k)

    def product(self, inputs, name, n, k):
        """A `MatMulNBits` node."""
        return self.node("MatMulNBits", inputs, name, domain="com.microsoft", N=n, K=k, bits=2, block_size=GROUP,
                         accuracy_level=0)

    def scales(self, value):
        """The scales of a `Ternary`, for each block."""
        n, k = value.trits.shape
        scales = np.broadcast_to(value.scale, (n, k // GROUP)).astype(self.dtype)
        assert np.array_equal(scales.astype(np.float32), np.broadcast_to(value.scale, scales.shape))
        return scales

    def norm(self, x, weight, name, stem, skip=None):
        """A norm, of a sum with `skip` perhaps; returns its output and the sum."""
        w = self.tensor(stem, weight.astype(self.dtype))
        if skip is None:
            return self.node("SimplifiedLayerNormalization", [x, w], name, axis=-1, epsilon=self.dims.eps), x
        outs = [f"{name}/output_0", "", "", f"{name}/output_3"]
        self.node("SkipSimplifiedLayerNormalization", [x, skip, w], name, outs, "com.microsoft", epsilon=self.dims.eps)
        return outs[0], outs[3]

    def rotary_tables(self):
        """The tables of cosines and sines of all positions."""
        inv = 1.0 / self.dims.rope_theta ** (np.arange(0, self.dims.head_dim, 2) / self.dims.head_dim)
        angles = np.outer(np.arange(self.dims.context), inv)
        return [self.tensor("cos_cache", np.cos(angles).astype(self.dtype)),
                self.tensor("sin_cache", np.sin(angles).astype(self.dtype))]

    def head_norm(self, x, heads, weight, name, stem):
        """The norm of each head."""
        d = self.dims.head_dim
        shape = self.tensor(f"{name}/shape", np.array([0, -1, heads, d]))
        split = self.node("Reshape", [x, shape], f"{name}/Reshape_1")
        normed, _ = self.norm(split, weight, f"{name}/SimplifiedLayerNormalization", stem)
        back = self.tensor(f"{name}/back", np.array([0, -1, heads * d]))
        return self.node("Reshape", [normed, back], f"{name}/Reshape_2")

    def attention(self, qkv, past, tables, layer):
        """Attention with rotated queries and keys."""
        inputs = [*qkv, *[""] * (3 - len(qkv)), *past, "seqlens_k", "total_sequence_length", *tables]
        name = f"/model/layers.{layer}/attn/GroupQueryAttention"
        outs = [f"{name}/output_0", f"present.{layer}.key", f"present.{layer}.value"]
        return self.node("GroupQueryAttention", inputs, name, outs, "com.microsoft", num_heads=self.dims.heads,
                         kv_num_heads=self.dims.kv_heads, do_rotary=1, rotary_interleaved=0)

    def model(self, logits):
        """The finished model."""
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(self.dtype))
        d = self.dims
        inputs = [helper.make_tensor_value_info("input_ids", TensorProto.INT64, ["batch", "tokens"]),
                  helper.make_tensor_value_info("seqlens_k", TensorProto.INT32, ["batch"]),
                  helper.make_tensor_value_info("total_sequence_length", TensorProto.INT32, [])]
        outputs = [helper.make_tensor_value_info(logits, kind, ["batch", "tokens", d.vocab])]
        for layer in range(d.layers):
            for part in ("key", "value"):
                shape = ["batch", d.kv_heads, "past", d.head_dim]
                inputs.append(helper.make_tensor_value_info(f"past_key_values.{layer}.{part}", kind, shape))
                outputs.append(helper.make_tensor_value_info(f"present.{layer}.{part}", kind, [*shape[:2], "all", shape[3]]))
        graph = helper.make_graph(self.nodes, "main_graph", inputs, outputs, self.tensors)
        return helper.make_model(graph, opset_imports=OPSETS, ir_version=10, producer_name="golden")


def run(path, dims, dtype, tokens):
    """The logits of a model file by onnxruntime, without optimisations."""
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    feeds = {"input_ids": tokens[None].astype(np.int64), "seqlens_k": np.array([len(tokens) - 1], np.int32),
             "total_sequence_length": np.array(len(tokens), np.int32)}
    empty = np.zeros((1, dims.kv_heads, 0, dims.head_dim), dtype)
    feeds |= {f"past_key_values.{i}.{part}": empty for i in range(dims.layers) for part in ("key", "value")}
    return session.run(["logits"], feeds)[0][0].astype(np.float32)


def layers(g, t, h, linear, fused):
    """All layers; `linear(x, tensor names, module)` multiplies. Returns the normed state."""
    dims, tables, skip = g.dims, g.rotary_tables(), None
    for i in range(dims.layers):
        p, node = f"model.layers.{i}.", f"/model/layers.{i}"
        past = [f"past_key_values.{i}.key", f"past_key_values.{i}.value"]
        x, h = g.norm(h, t[p + "input_layernorm.weight"], f"{node}/input_layernorm/LayerNorm",
                      p + "input_layernorm.weight", skip)
        if fused:
            qkv = [linear(x, [p + f"self_attn.{c}_proj" for c in "qkv"], (i, "attn", "qkv_proj"))]
        else:
            qkv = [linear(x, [p + f"self_attn.{c}_proj"], (i, "attn", f"{c}_proj")) for c in "qkv"]
        if dims.family == "qwen3":
            heads = {"q": dims.heads, "k": dims.kv_heads}
            for j, c in enumerate("qk"):
                qkv[j] = g.head_norm(qkv[j], heads[c], t[p + f"self_attn.{c}_norm.weight"], f"{node}/attn/{c}_norm",
                                     f"{p}attn.{c}_norm.layernorm.weight")
        a = linear(g.attention(qkv, past, tables, i), [p + "self_attn.o_proj"], (i, "attn", "o_proj"))
        x, h = g.norm(h, t[p + "post_attention_layernorm.weight"], f"{node}/post_attention_layernorm/SkipLayerNorm",
                      p + "post_attention_layernorm.weight", a)
        if fused:
            both = linear(x, [p + "mlp.gate_proj", p + "mlp.up_proj"], (i, "mlp", "gate_up_proj"))
            gate, up = f"{node}/mlp/gate", f"{node}/mlp/up"
            g.node("Split", [both], f"{node}/mlp/Split", [gate, up], axis=-1, num_outputs=2)
        else:
            gate, up = (linear(x, [p + f"mlp.{c}_proj"], (i, "mlp", f"{c}_proj")) for c in ("gate", "up"))
        sigmoid = g.node("Sigmoid", [gate], f"{node}/mlp/act_fn/Sigmoid")
        gated = g.node("Mul", [g.node("Mul", [gate, sigmoid], f"{node}/mlp/act_fn/Mul"), up], f"{node}/mlp/Mul")
        skip = linear(gated, [p + "mlp.down_proj"], (i, "mlp", "down_proj"))
    stem = f"model.layers.{dims.layers}.final_norm_layernorm"
    return g.norm(h, t["model.norm.weight"], f"/model/layers.{dims.layers}/final_norm_layernorm/SkipLayerNorm",
                  f"{stem}.weight", skip)[0]


def stacked(values):
    """Matrices one below the other, with scales for each block."""
    each = [np.broadcast_to(v.scale, (len(v.trits), v.trits.shape[1] // GROUP)) for v in values]
    return Ternary(np.concatenate([v.trits for v in values]), np.concatenate(each))


def qwen3(folder, seed=320):
    """As onnx-community's files."""
    ckpt = random_checkpoint(QWEN3, seed, with_scales(GROUP))
    rng = np.random.default_rng(seed + 9)
    table = with_scales(GROUP)(rng, QWEN3.vocab, QWEN3.hidden, "")
    g = Graph(QWEN3, np.float16)

    def points(value):
        """A zero point for each block: 1 or 2."""
        n, k = value.trits.shape
        return rng.integers(1, 3, (n, k // GROUP)).astype(np.uint8)

    def linear(x, names, place):
        """One product."""
        i, part, module = place
        value = stacked([ckpt.tensors[name] for name in names])
        return g.linear(x, value, f"/model/layers.{i}/{part}/{module}/MatMul_Quant",
                        f"model_layers_{i}_{part}_{module}_MatMul_weight", points(value))

    own = points(table)
    stem = "model_embed_tokens_weight"
    weight = g.tensor(f"{stem}_quant", packed(table.trits + np.repeat(own, GROUP, 1)))
    scales = g.tensor(f"{stem}_scales", g.scales(table))
    wide, narrow = g.tensor(f"{stem}_zp_4b", packed(own, 4)), g.tensor(f"{stem}_quant_tied_zp_2b", packed(own))
    byte = np.arange(256, dtype=np.uint8)
    spread = np.stack([byte & 3 | (byte >> 2 & 3) << 4, byte >> 4 & 3 | (byte >> 6) << 4], 1)
    index = g.node("Cast", [weight], "/model/embed_tokens/Cast", to=TensorProto.INT32)
    codes = g.node("Gather", [g.tensor("unpack_lut_src2_tgt4", spread), index], "/model/embed_tokens/Unpack", axis=0)
    flat = g.node("Reshape", [codes, g.tensor("table_shape", np.array([QWEN3.vocab, QWEN3.hidden // 2]))],
                  "/model/embed_tokens/Reshape")
    h = g.node("GatherBlockQuantized", [flat, "input_ids", scales, wide], "/model/embed_tokens/GatherBlockQuantized",
               domain="com.microsoft", bits=4, block_size=GROUP, gather_axis=0, quantize_axis=1)
    x = layers(g, ckpt.tensors, h, linear, False)
    shape = g.tensor("head_shape", np.array([QWEN3.vocab, QWEN3.hidden // GROUP, GROUP // 4]))
    head = g.node("Reshape", [weight, shape], "/lm_head/MatMul_ReshapeQuant", [f"{stem}_quant_matmul"])
    g.nodes.append(helper.make_node(
        "MatMulNBits", [x, head, scales, narrow], ["logits"], name="/lm_head/MatMul_Quant", domain="com.microsoft",
        N=QWEN3.vocab, K=QWEN3.hidden, bits=2, block_size=GROUP, accuracy_level=0))
    (folder / "onnx").mkdir(parents=True, exist_ok=True)
    path = folder / "onnx/model_q2f16.onnx"
    (folder / "onnx/model_q2f16.onnx_data").unlink(missing_ok=True)
    onnx.save(g.model("logits"), path, save_as_external_data=True, location="model_q2f16.onnx_data", size_threshold=1024)
    tensors = ckpt.tensors | {"model.embed_tokens.weight": table.dense()}
    finish(folder, path, Checkpoint(QWEN3, tensors), np.float16, seed, "MatMulNBits 2 bits, f16 scales, zero points, external data",
           0.02)


def llama(folder, seed=321):
    """One file with fused projections."""
    ckpt = random_checkpoint(LLAMA, seed, with_scales(GROUP))
    head = with_scales(GROUP)(np.random.default_rng(seed + 9), LLAMA.vocab, LLAMA.hidden, "")
    g = Graph(LLAMA, np.float32)

    def linear(x, names, place):
        """One product."""
        i, part, module = place
        value = stacked([ckpt.tensors[name] for name in names])
        return g.linear(x, value, f"/model/layers.{i}/{part}/{module}/MatMulNBits",
                        f"model.layers.{i}.{part}.{module}", parts=(".qweight", ".scales", ""))

    table = g.tensor("model.embed_tokens.weight", ckpt.tensors["model.embed_tokens.weight"])
    h = g.node("Gather", [table, "input_ids"], "/model/embed_tokens/Gather")
    x = layers(g, ckpt.tensors, h, linear, True)
    out = g.linear(x, head, "/lm_head/MatMulNBits", "lm_head", parts=(".qweight", ".scales", ""))
    g.node("Identity", [out], "/lm_head/Identity", ["logits"])
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "model_q2.onnx"
    onnx.save(g.model("logits"), path)
    tensors = ckpt.tensors | {"lm_head.weight": head.dense()}
    finish(folder, path, Checkpoint(LLAMA, tensors), np.float32, seed, "MatMulNBits 2 bits, fused, no zero points, inline data",
           1e-5)


def finish(folder, path, ckpt, dtype, seed, storage, bound):
    """Settings beside the model, the truth by transformers, and onnxruntime's distance from it."""
    dims = ckpt.dims
    write_folder(folder, config(dims, dtype="float16"), {"x": torch.zeros(1)})
    (folder / "model.safetensors").unlink()
    for file in path.parent.iterdir():
        file.chmod(0o755 if file.is_dir() else 0o644)
    meta = record.base_meta(folder.name, dims, seed, format="onnx", file=str(path.relative_to(folder)), tokenizer=False,
                            arch=config(dims)["architectures"][0], storage=storage, activation=dims.act)
    record.expected(folder, truth.load_values(ckpt, "none"), ckpt, "none", seed, meta)
    rec, worst = load_file(folder / "expected.safetensors"), 0.0
    for p in range(len(truth.LENGTHS)):
        meant = rec[f"prompt.{p}.logits"]
        got = run(path, dims, dtype, rec[f"prompt.{p}.tokens"])
        worst = max(worst, float(np.abs(got - meant).max() / np.abs(meant).max()))
    size = sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())
    print(f"{folder.name}: {size} bytes; onnxruntime within {worst:.2e}")
    assert worst < bound, worst


# ------------------------------------------------------------------------------------------------ single matrices


def values(weight, scales, points, block, n, k):
    """What onnxruntime's node multiplies by, `[N, K]` f32."""
    kind = helper.np_dtype_to_tensor_dtype(scales.dtype)
    tensors = [numpy_helper.from_array(weight, "b"), numpy_helper.from_array(scales, "s")]
    inputs = ["a", "b", "s"]
    if points is not None:
        tensors.append(numpy_helper.from_array(points, "z"))
        inputs.append("z")
    node = helper.make_node("MatMulNBits", inputs, ["y"], domain="com.microsoft", N=n, K=k, bits=2, block_size=block)
    graph = helper.make_graph([node], "g", [helper.make_tensor_value_info("a", kind, [k, k])],
                              [helper.make_tensor_value_info("y", kind, [k, n])], tensors)
    model = helper.make_model(graph, opset_imports=OPSETS, ir_version=10)
    session = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"a": np.eye(k, dtype=scales.dtype)})[0].T.astype(np.float32)


def codecs(out):
    """Matrices of all kinds; file names as in codecs.py."""
    rng = np.random.default_rng(1585)
    out.mkdir(parents=True, exist_ok=True)
    n, k = 3, 512

    def write(name, array, rows, cols):
        """One raw file."""
        kind = "f32" if name.endswith("values") else "u8"
        np.ascontiguousarray(array).tofile(out / f"{name}.{rows}x{cols}.{kind}")

    for name, block, dtype, kind in [
        ("absent", 64, np.float32, None), ("uniform", 128, np.float16, "one"), ("blocks", 128, np.float32, "any"),
        ("numbers", 64, np.float32, "float"), ("wide", 32, np.float32, "same"),
    ]:
        blocks = k // block
        codes = rng.integers(0, 4, (n, k)).astype(np.uint8)
        wide = np.repeat(rng.uniform(0.01, 2, (n, k // max(block, 64))), max(64 // block, 1), 1)
        # With zero points of floats, the node subtracts products: of short scales, they are exact.
        scales = (wide.astype(np.float16) if kind == "float" else wide).astype(dtype)
        points = {None: None, "one": np.ones((n, blocks), np.uint8), "any": rng.integers(1, 3, (n, blocks)).astype(np.uint8),
                  "float": rng.integers(1, 3, (n, blocks)).astype(np.float32), "same": np.ones((n, blocks), np.uint8)}[kind]
        stored = points if kind in (None, "float") else packed(points)
        weight = packed(codes).reshape(n, blocks, block // 4)
        got = values(weight, scales, stored, block, n, k)
        write(f"{name}.{block}.weight", weight, n, k)
        write(f"{name}.{block}.scales", scales, n, blocks)
        if stored is not None:
            write(f"{name}.{block}.points", stored, n, blocks)
        write(f"{name}.{block}.values", got, n, k)
    # Ordinary numbers as onnxruntime's own quantiser stores them: four levels, symmetric ones.
    weight, scales = np.zeros((n, k // 128, 32), np.uint8), np.zeros(n * (k // 128), np.float32)
    points = np.zeros((n, k // 128 // 4), np.uint8)
    quantize_matmul_2bits(weight, rng.normal(0, 1, (k, n)).astype(np.float32), scales, points, 128, n, k, True)
    write("ordinary.128.weight", weight, n, k)
    write("ordinary.128.scales", scales, n, k // 128)
    write("ordinary.128.values", values(weight, scales.reshape(n, -1), None, 128, n, k), n, k)


def main():
    """Writes all cases."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", type=Path, default=HERE.parents[1] / "tests/golden")
    out = ap.parse_args().out
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    codecs(out / "codecs/matmul_nbits")
    qwen3(out / "onnx/onnx-qwen3-q2f16")
    llama(out / "onnx/onnx-llama-q2")


if __name__ == "__main__":
    main()
