"""Writes tests/golden/codecs: what other programs make of small matrices, for the codecs and quantisers to equal.

    python scripts/golden/codecs.py --bitnet-cpp <microsoft/BitNet> --ik <ik_llama.cpp>/build/ggml/src/libggml.so
        [--out tests/golden/codecs]

Needs numpy, gguf, torch, transformers, mlx[cpu], llama-cpp-python (for its ggml library) and a C++ compiler. Every file is raw
and little-endian; its name ends in the matrix's shape and the file's element type: `stored.3x512.u8`,
`values.3x512.f32`.
Outputs are the other program's, never computed here; pq2_0 and ptq1_0, whose program is not at hand, are those of the NumPy encoders
of modelkit/codecs.py, which are written from the layouts alone:

    tq1_0 tq2_0 q8_0 q4_0    gguf-py `quantize`, and ggml's C `dequantize_row_*`, which must agree with gguf-py's
    q6_k                     random blocks through both; one quantised by ggml's C `quantize_row_q6_K_ref`
    encoders                 ggml's C `quantize_row_*_ref` of numbers that are hard to round
    q2_0                     ggml's C functions (blocks of 64)
    q1_0                     ggml's C functions, which must agree with modelkit's encoder
    pq2_0 ptq1_0             modelkit's encoders; bytes of any value through its decoder
    iq1_bn iq2_bn iq2_bn_r4  ik_llama.cpp's C functions
    i2_s                     `quantize_i2_s` of bitnet.cpp, compiled three times for its three layouts
    tiles                    `preprocess_weights_tl1` and `..._tl2` of bitnet.cpp's converter, with tile sizes of our choice
    mlx                      `mlx.core.dequantize` of trits, and what `mlx.core.quantize` makes of ordinary numbers
    hf_packed absmean absmax transformers, integrations/bitnet.py
    f16 bf16                 torch
"""

import argparse
import ast
import ctypes
import os
import pathlib
import subprocess
import tempfile

os.environ["TORCHDYNAMO_DISABLE"] = "1"

import gguf
import gguf.quants
import llama_cpp
import mlx.core as mx
import numpy as np
import torch
from modelkit import codecs as layouts
from transformers.integrations import bitnet as hf

RNG = np.random.default_rng(158)
OUT = None
Q = gguf.GGMLQuantizationType


def write(folder, name, array, kind=None):
    """One raw file; its suffix is `kind` or else the array's element type."""
    array = np.ascontiguousarray(array)
    suffix = kind or {"float32": "f32", "uint8": "u8", "int8": "i8"}[array.dtype.name]
    (OUT / folder).mkdir(parents=True, exist_ok=True)
    array.tofile(OUT / folder / f"{name}.{suffix}")


def shaped(rows, cols, name):
    """The name of a file with its rows and columns."""
    return f"{name}.{rows}x{cols}"


def ggml():
    """The ggml library of llama-cpp-python."""
    return ctypes.CDLL(str(pathlib.Path(llama_cpp.__file__).parent / "lib" / "libggml-base.so"))


def ggml_dequantize(name, stored, shape):
    """What ggml decodes from `stored`, of the given shape."""
    out = np.empty(shape, np.float32)
    stored = np.ascontiguousarray(stored)
    getattr(ggml(), f"dequantize_row_{name}")(
        stored.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(out.size)
    )
    return out


def ggml_quantize(name, values, size):
    """The `size` bytes that ggml encodes `values` to."""
    out = np.zeros(size, np.uint8)
    values = np.ascontiguousarray(values)
    getattr(ggml(), f"quantize_row_{name}_ref")(
        values.ctypes.data_as(ctypes.c_void_p), out.ctypes.data_as(ctypes.c_void_p), ctypes.c_int64(values.size)
    )
    return out


def trits(rows, cols):
    """Random -1, 0 and 1 of shape `[rows, cols]`."""
    return RNG.integers(-1, 2, (rows, cols)).astype(np.float32)


def block_scaled(rows, cols, block):
    """Trits under f16 scales that differ by block; the last row shares one, and one block is all zero."""
    scales = RNG.uniform(0.01, 2, (rows, cols // block)).astype(np.float16).astype(np.float32)
    scales[-1] = scales[-1, 0]
    values = trits(rows, cols) * np.repeat(scales, block, axis=1)
    values[0, :block] = 0
    return values


def same(a, b):
    """Asserts that two references agree in every bit, or in every value."""
    assert np.array_equal(a.view(np.uint32), b.view(np.uint32)) or np.array_equal(a, b), "references disagree"


def ternary_blocks():
    """TQ1_0, TQ2_0 and Q2_0: encoded values, and any bytes with what they decode to."""
    for name, qtype, codes in [("tq1_0", Q.TQ1_0, 52), ("tq2_0", Q.TQ2_0, 64)]:
        values = block_scaled(3, 512, 256)
        stored = gguf.quants.quantize(values, qtype)
        same(gguf.quants.dequantize(stored, qtype), ggml_dequantize(name, stored, values.shape))
        same(values, ggml_dequantize(name, stored, values.shape))
        write(name, shaped(3, 512, "stored"), stored, "u8")
        write(name, shaped(3, 512, "values"), values)
        # Every byte value in the place of codes; TQ2_0 has no trit for the bit pair 3.
        legal = [b for b in range(256) if name == "tq1_0" or all((b >> s) & 3 != 3 for s in (0, 2, 4, 6))]
        raw = RNG.choice(np.array(legal, np.uint8), (2, 3, codes))
        raw.reshape(-1)[: len(legal)] = legal
        d = RNG.uniform(-1, 1, (2, 3, 1)).astype(np.float16).view(np.uint8).reshape(2, 3, 2)
        raw = np.concatenate([raw, d], axis=-1).reshape(2, -1)
        values = ggml_dequantize(name, raw, (2, 768))
        same(values, gguf.quants.dequantize(raw, qtype))
        write(name, shaped(2, 768, "raw"), raw, "u8")
        write(name, shaped(2, 768, "raw_values"), values)
    values = block_scaled(3, 256, 64)
    stored = ggml_quantize("q2_0", values, 3 * 4 * 18)
    same(values, ggml_dequantize("q2_0", stored, values.shape))
    write("q2_0", shaped(3, 256, "stored"), stored)
    write("q2_0", shaped(3, 256, "values"), values)


def blocks_of_128():
    """PQ2_0, PTQ1_0 and Q1_0: encoded values, and any bytes of PTQ1_0 with what they decode to."""
    rng = np.random.default_rng(1585)
    scales = rng.uniform(0.01, 2, (3, 2)).astype(np.float16).astype(np.float32)
    scales[-1] = scales[-1, 0]
    trits = rng.integers(-1, 2, (3, 256)).astype(np.int8)
    trits[0, :128] = 0
    spread = np.repeat(np.where(np.abs(trits).reshape(3, 2, 128).any(axis=2), scales, 0), 128, axis=1)
    for name, encode in [
        ("pq2_0", lambda *matrix: layouts.q2_0_encode(*matrix, 128)),
        ("ptq1_0", layouts.ptq1_0_encode),
    ]:
        stored = encode(trits, spread[:, ::128])
        write(name, shaped(3, 256, "stored"), np.frombuffer(stored, np.uint8))
        write(name, shaped(3, 256, "values"), trits * spread)
    same(trits * spread, layouts.ptq1_0_decode(stored, (3, 256)))
    # Every byte value in the place of codes.
    raw = rng.integers(0, 256, (2 * 5, 26)).astype(np.uint8)
    raw.reshape(-1)[:256] = np.arange(256)
    d = rng.uniform(-1, 1, (2 * 5, 1)).astype(np.float16).view(np.uint8)
    raw = np.concatenate([raw, d], axis=1)
    write("ptq1_0", shaped(2, 640, "raw"), raw)
    write("ptq1_0", shaped(2, 640, "raw_values"), layouts.ptq1_0_decode(raw.tobytes(), (2, 640)))
    signs = (2 * rng.integers(0, 2, (3, 256)) - 1).astype(np.int8)
    values = signs * np.repeat(scales, 128, axis=1)
    stored = ggml_quantize("q1_0", values, 3 * 2 * 18)
    assert stored.tobytes() == layouts.q1_0_encode(signs, scales), "references disagree"
    same(values, ggml_dequantize("q1_0", stored, values.shape))
    write("q1_0", shaped(3, 256, "stored"), stored)
    write("q1_0", shaped(3, 256, "values"), values)


def dense_blocks():
    """Q8_0, Q4_0 and Q6_K: encoded values, and any bytes with what they decode to."""
    values = RNG.normal(0, 0.03, (3, 256)).astype(np.float32)
    values[0, :32] = 0
    values[0, 32:64] = np.arange(-16, 16) + 0.5
    values[0, 32] = 127  # d = 1: the halves above are exact ties
    values[1, :32] *= 1e-4
    for name, qtype in [("q8_0", Q.Q8_0), ("q4_0", Q.Q4_0)]:
        stored = gguf.quants.quantize(values, qtype)
        decoded = gguf.quants.dequantize(stored, qtype)
        same(decoded, ggml_dequantize(name, stored, values.shape))
        write(name, shaped(3, 256, "source"), values)
        write(name, shaped(3, 256, "stored"), stored, "u8")
        write(name, shaped(3, 256, "values"), decoded)
    values = RNG.normal(0, 0.03, (2, 512)).astype(np.float32)
    write("q6_k", shaped(2, 512, "source"), values)
    stored = ggml_quantize("q6_K", values, 4 * 210).reshape(2, 420)
    raw = RNG.integers(0, 256, (2, 2, 208)).astype(np.uint8)
    d = RNG.normal(0, 0.01, (2, 2, 1)).astype(np.float16).view(np.uint8).reshape(2, 2, 2)
    raw = np.concatenate([raw, d], axis=-1).reshape(2, 420)
    for name, stored in [("stored", stored), ("raw", raw)]:
        decoded = gguf.quants.dequantize(stored, Q.Q6_K)
        same(decoded, ggml_dequantize("q6_K", stored, (2, 512)))
        write("q6_k", shaped(2, 512, name), stored, "u8")
        write("q6_k", shaped(2, 512, f"{name}_values"), decoded)


def encoders():
    """Zeros, ties, scales far apart, numbers near both ends of what f16 scales hold; a row each."""
    rng = np.random.default_rng(1581)
    normal = rng.normal(0, 1, (8, 512))
    spread = lambda low, high, run: np.repeat(10.0 ** rng.uniform(low, high, 512 // run), run)
    values = np.stack([
        normal[0] * 0.03,
        np.where(np.repeat(rng.random(32) < 0.6, 16), 0, normal[1]) * (np.arange(512) >= 256),
        rng.integers(-1, 2, 512) * 0.7,
        np.round(normal[3] * 24) / 8,
        normal[4] * spread(-12, 4, 16),
        normal[5] * spread(-18, -6, 32),
        normal[6] * 1e5,
        normal[7] * (rng.random(512) < 0.05),
    ]).astype(np.float32)
    write("encoders", shaped(8, 512, "source"), values)
    for name, kind, block, size in [("q6_k", "q6_K", 256, 210), ("q4_0", "q4_0", 32, 18), ("q8_0", "q8_0", 32, 34)]:
        write("encoders", shaped(8, 512, name), ggml_quantize(kind, values, values.size // block * size))


def halves():
    """F16 and BF16: a spread of bit patterns with their values, and rounding of f32."""
    bits = np.unique(np.concatenate([np.arange(0, 1 << 16, 37), [0, 1, 0x3FF, 0x400, 0x7BFF, 0x8001]]))
    bits = bits[: len(bits) // 2 * 2].astype(np.uint16)
    source = RNG.normal(0, 1, 192).astype(np.float32)
    # Halfway between neighbours: to even, up and down; subnormal in f16; below it.
    source[:8] = [1 + 2**-11, 1 + 3 * 2**-11, 1 + 2**-8, 1 + 3 * 2**-8, 3e-6, 1e-9, -65504, 2**-25]
    for name, dtype in [("f16", torch.float16), ("bf16", torch.bfloat16)]:
        stored = torch.from_numpy(bits.view(np.int16)).view(dtype)
        stored = stored[torch.isfinite(stored)]
        write(name, shaped(1, len(stored), "stored"), stored.view(torch.int16).numpy().view(np.uint16), "u8")
        write(name, shaped(1, len(stored), "values"), stored.float().numpy())
        write(name, shaped(1, 192, "source"), source)
        encoded = torch.from_numpy(source).to(dtype).view(torch.int16).numpy()
        write(name, shaped(1, 192, "encoded"), encoded, "u8")


def i2_s(source):
    """I2_S in its three layouts, by bitnet.cpp's own function, compiled from `source`."""
    text = source.read_text()
    start = text.index("size_t quantize_i2_s(")
    body = text[start : text.index("\n}\n", start) + 3]
    prelude = """
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <cassert>
using namespace std;
#define GGML_TYPE_I2_S 36
static size_t ggml_row_size(int, int64_t n) { return n; }
extern "C" """
    layouts = {
        "canonical": ["-D__AVX__", "-DACT_PARALLEL", "-DQK_I2_S=128"],
        "x4": ["-D__AVX__", "-DQK_I2_S=128"],
        "arm64": ["-U__AVX__", "-U__AVX2__", "-U__AVX512F__", "-U__SSSE3__", "-D__ARM_NEON", "-DQK_I2_S=64"],
    }
    values = np.float32(0.7265625) * trits(4, 256)
    write("i2_s", shaped(4, 256, "values"), values)
    with tempfile.TemporaryDirectory() as folder:
        code = pathlib.Path(folder) / "i2_s.cpp"
        code.write_text(prelude + body)
        for layout, flags in layouts.items():
            library = pathlib.Path(folder) / f"{layout}.so"
            subprocess.run(["g++", "-O1", "-shared", "-fPIC", *flags, str(code), "-o", str(library)], check=True)
            stored = np.zeros(values.size // 4 + 32, np.uint8)
            ctypes.CDLL(str(library)).quantize_i2_s(
                values.ctypes.data_as(ctypes.c_void_p), stored.ctypes.data_as(ctypes.c_void_p),
                ctypes.c_int64(4), ctypes.c_int64(256), None,
            )
            write("i2_s", shaped(4, 256, layout), stored)


def row_scaled(library):
    """Rows of their own scale, one of zeros; ik_llama.cpp decodes what it wrote."""
    rng = np.random.default_rng(1582)
    ik = ctypes.CDLL(library)
    rows, cols = 8, 192
    scales = rng.uniform(0.01, 2, (rows, 1)).astype(np.float16).astype(np.float32)
    values = rng.integers(-1, 2, (rows, cols)).astype(np.float32) * scales
    values[3] = 0
    write("row_scaled", shaped(rows, cols, "values"), values)
    for name, row_bytes in [("iq1_bn", 2 + 13 * 3), ("iq2_bn", 4 + 16 * 3), ("iq2_bn_r4", 4 + 16 * 3)]:
        stored = np.zeros(rows * row_bytes, np.uint8)
        pointer = lambda array: array.ctypes.data_as(ctypes.c_void_p)
        quantize = getattr(ik, f"quantize_{name}")
        quantize.restype = ctypes.c_size_t
        size = quantize(pointer(values), pointer(stored), ctypes.c_int64(rows), ctypes.c_int64(cols), None, None)
        assert size == stored.size
        write("row_scaled", shaped(rows, cols, name), stored)
    # Every byte value in the place of IQ1_BN's codes, decoded without scales.
    raw = np.concatenate([np.arange(256), rng.integers(0, 256, 13 * 20 - 256)]).astype(np.uint8)
    trits = np.zeros(64 * 20, np.float32)
    ik.dequantize_row_iq1_bn(pointer(raw), pointer(trits), ctypes.c_int64(trits.size))
    write("row_scaled", shaped(1, trits.size, "iq1_bn_raw"), raw)
    write("row_scaled", shaped(1, trits.size, "iq1_bn_raw_values"), trits)


def tiles(checkout):
    """The converter's functions on one matrix; it reads the tile sizes from include/kernel_config.ini."""
    source = (checkout / "utils/convert-hf-to-gguf-bitnet.py").read_text()
    functions = [n for n in ast.parse(source).body if isinstance(n, ast.FunctionDef)]
    wanted = [n for n in functions if "process_" in n.name and "tl" in n.name]
    names = {"np": np, "Tuple": tuple, "NotImplementedError": NotImplementedError}
    exec(compile(ast.Module(wanted, []), "tiles", "exec"), names)
    rows, cols = 64, 128
    matrix = np.random.default_rng(1583).integers(-1, 2, (rows, cols)).astype(np.float32)
    write("tiles", shaped(rows, cols, "trits"), matrix.astype(np.int8))
    here = os.getcwd()
    for name, bm, bk, bmm in [("tl1", 32, 64, 32), ("tl1", 64, 32, 64), ("tl2", 32, 48, 32), ("tl2", 64, 96, 32)]:
        with tempfile.TemporaryDirectory() as folder:
            os.chdir(folder)
            os.mkdir("include")
            config = f"[Kernels_0]\nm = {rows}\nk = {cols}\nbm = {bm}\nbk = {bk}\nbmm = {bmm}\n"
            pathlib.Path("include/kernel_config.ini").write_text(config)
            stored = names[f"preprocess_weights_{name}"](matrix)
            os.chdir(here)
        write("tiles", shaped(rows, cols, f"{name}.{bm}.{bk}.{bmm}"), stored.reshape(-1), "u8")


def mlx():
    """MLX's 2-bit affine groups: ternary ones, and ordinary ones that are not ternary."""
    rng = np.random.default_rng(1584)
    rows, cols = 3, 256
    for group, dtype in [(64, mx.float16), (128, mx.bfloat16), (64, mx.float32)]:
        kind = str(dtype).split(".")[-1]
        codes = rng.integers(0, 3, (rows, cols // 16, 16)).astype(np.uint32)
        words = (codes << (2 * np.arange(16, dtype=np.uint32))).sum(axis=-1, dtype=np.uint32)
        scales = mx.array(rng.uniform(0.01, 2, (rows, cols // group)).astype(np.float32)).astype(dtype)
        decoded = mx.dequantize(mx.array(words), scales, -scales, group_size=group, bits=2)
        name = f"{kind}.{group}"
        raw = lambda array: np.frombuffer(bytes(memoryview(array)), np.uint8)
        write("mlx", shaped(rows, cols, f"{name}.weight"), words.view(np.uint8), "u8")
        write("mlx", shaped(rows, cols // group, f"{name}.scales"), raw(scales), "u8")
        write("mlx", shaped(rows, cols // group, f"{name}.biases"), raw(-scales), "u8")
        write("mlx", shaped(rows, cols, f"{name}.values"), np.array(decoded.astype(mx.float32)))
    ordinary = mx.array(rng.normal(0, 1, (rows, cols)).astype(np.float32)).astype(mx.float16)
    for part, array in zip(["weight", "scales", "biases"], mx.quantize(ordinary, group_size=64, bits=2)):
        write("mlx", shaped(*array.shape, f"ordinary.{part}"), raw(array), "u8")


def packed():
    """Trits packed by transformers, four rows to a byte."""
    for rows, cols in [(8, 128), (12, 5), (6, 7), (5, 3), (9, 2)]:
        values = torch.from_numpy(trits(rows, cols)).to(torch.int8)
        stored = hf.pack_weights(values.clone())
        unpacked = hf.unpack_weights(stored, torch.float32)[:rows]
        assert torch.equal(unpacked, values.float())
        write("hf_packed", shaped(rows, cols, "stored"), stored.numpy())
        write("hf_packed", shaped(rows, cols, "trits"), values.numpy())


def absmean():
    """transformers' weight quantiser: trits and scales, with ties and tiny weights."""
    normal = torch.from_numpy(RNG.normal(0.001, 0.02, (16, 200)).astype(np.float32))
    # mean|W| = 1, so W * s = W: exact ties at 0.5, 1.5 and 2.5 in both signs.
    ties = torch.tensor([[0.5, -0.5, 1.5, -1.5, 2.5, -2.5, 0.0, -0.0, 0.5, 0.5, 0.5, 1.5]])
    assert ties.abs().mean() == 1
    cases = {
        "f32": normal,
        "bf16": normal.to(torch.bfloat16),
        "f16": normal.to(torch.float16),
        "ties": ties,
        "ties_bf16": (ties * 0.03125).to(torch.bfloat16),
        "tiny": normal * 1e-6,
        "zeros": torch.zeros(3, 4),
    }
    for name, weight in cases.items():
        quantised = hf.WeightQuant.apply(weight)
        # The scale is WeightQuant's own expression, which it does not return.
        scale = weight.float().abs().mean().clamp_(min=1e-5)
        rows, cols = weight.shape
        raw = weight if weight.dtype == torch.float32 else weight.view(torch.int16)
        dtype = {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}[weight.dtype]
        write("absmean", shaped(rows, cols, f"{name}.weight"), raw.numpy(), dtype)
        write("absmean", shaped(rows, cols, f"{name}.trits"), quantised.sign().to(torch.int8).numpy())
        write("absmean", shaped(1, 1, f"{name}.scale"), (1 / (1 / scale)).reshape(1, 1).numpy())


def absmax():
    """transformers' activation quantiser: codes and scales, with ties and tiny rows."""
    x = RNG.normal(0, 3, (16, 160)).astype(np.float32)
    x[0] = 0
    x[1] *= np.float32(1e-7)
    x[2] = np.float32(2) ** -3 * np.tile(np.arange(-40, 40) + 0.5, 2)
    x[2, 0] = np.float32(127 / 8)  # s = 8: the rest of the row is exact ties
    layer = hf.BitLinear(160, 4, bias=False, dtype=torch.float32)
    q, scale = layer.activation_quant(torch.from_numpy(x))
    same((q.float() / scale).numpy(), hf.ActQuant.apply(torch.from_numpy(x)).numpy())
    bf16 = torch.from_numpy(x).to(torch.bfloat16).float()
    q16, scale16 = layer.activation_quant(bf16)
    for name, x, q, scale in [("f32", torch.from_numpy(x), q, scale), ("bf16", bf16, q16, scale16)]:
        write("absmax", shaped(16, 160, f"{name}.x"), x.numpy())
        write("absmax", shaped(16, 160, f"{name}.q"), q.numpy())
        write("absmax", shaped(16, 1, f"{name}.scale"), scale.numpy())
        exact = (np.float32(127) / np.maximum(np.float32(1e-5), np.abs(x.numpy()).max(axis=1, keepdims=True)))
        inexact = int((scale.numpy() != exact).sum())
        print(f"absmax {name}: {inexact} of 16 scales are not 127 / max correctly rounded")


def main():
    """Writes the golden files of every codec."""
    global OUT
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--bitnet-cpp", required=True, help="checkout of microsoft/BitNet")
    parser.add_argument("--ik", required=True, help="libggml.so of ik_llama.cpp")
    parser.add_argument("--out", default="tests/golden/codecs")
    args = parser.parse_args()
    OUT = pathlib.Path(args.out)
    ternary_blocks()
    blocks_of_128()
    dense_blocks()
    encoders()
    halves()
    i2_s(pathlib.Path(args.bitnet_cpp) / "src/ggml-bitnet-mad.cpp")
    row_scaled(args.ik)
    tiles(pathlib.Path(args.bitnet_cpp))
    mlx()
    packed()
    absmean()
    absmax()


if __name__ == "__main__":
    main()
