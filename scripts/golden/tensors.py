"""Writes tests/golden/tensors: what NumPy and PyTorch compute, for bitnet-core's tensors to equal.

    python scripts/golden/tensors.py [--out tests/golden/tensors]

Needs numpy and torch. Each file is a list of arrays, little-endian:

    u8 length of the name, the name, u8 element type (0 f32, 1 u8, 2 u16, 3 u32, 4 i8, 5 f64), u8 rank, u16 extent for
    each dimension, the elements in row-major order

Outputs are NumPy's and PyTorch's, never computed here.
"""

import argparse
import itertools
import pathlib
import struct
import zlib

import numpy as np
import torch

TYPES = ["float32", "uint8", "uint16", "uint32", "int8", "float64"]
F32 = np.float32


class Arrays:
    """The arrays of one file, by name."""

    def __init__(self, path):
        """Starts an empty file at `path`."""
        self.path, self.data, self.names = path, bytearray(), set()

    def put(self, name, array):
        """Appends an array with its name, type and shape."""
        if isinstance(array, torch.Tensor):
            array = array.detach().numpy()
        array = np.asarray(array)
        assert name not in self.names, name
        self.names.add(name)
        self.data += struct.pack("<B", len(name)) + name.encode()
        self.data += struct.pack("<BB", TYPES.index(array.dtype.name), array.ndim)
        self.data += struct.pack(f"<{array.ndim}H", *array.shape)
        self.data += array.astype(array.dtype.newbyteorder("<")).tobytes()

    def write(self):
        """Writes the file."""
        self.path.write_bytes(self.data)


def checksum(array):
    """CRC-32 of the f32 elements, every NaN written as 0x7fc00000."""
    array = np.array(array, F32)
    array[np.isnan(array)] = np.nan
    return zlib.crc32(array.tobytes())


def special_numbers():
    """Numbers at which conversions turn, and some thousand others of every size."""
    rng = np.random.default_rng(158)
    turns = [0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.5, 3.5, 7.5, 8.0, 127.0, 127.5, 128.0, 128.5]
    turns += [65504.0, 65519.9, 65520.0, 65536.0, 1e38, 3.4028235e38, np.inf]
    turns += [2.0**-24, 2.0**-25, 2.0**-25 * 1.0001, 2.0**-14, 6.1e-5, 1e-45, 1e-40, 2.0**-126]
    bits = rng.integers(0, 1 << 32, 2000, dtype=np.uint64).astype(np.uint32).view(F32)
    # Halfway between neighbours of f16 and of bf16, where rounding is to even.
    halves = np.concatenate([1 + (2 * np.arange(16) + 1) * 2.0**-11, 1 + (2 * np.arange(16) + 1) * 2.0**-8])
    finite = bits[~np.isnan(bits)]
    both = np.concatenate([np.array(turns, F32), halves.astype(F32), rng.normal(0, 3, 500).astype(F32)])
    return np.concatenate([both, -both, finite])


def packed(codes, bits):
    """Integers of a few bits, the first in the lowest bits of a byte."""
    per = 8 // bits
    codes = np.concatenate([codes, np.zeros(-len(codes) % per, np.int64)]).reshape(-1, per)
    return ((codes & ((1 << bits) - 1)) << (bits * np.arange(per))).sum(1).astype(np.uint8)


def dtypes(out):
    """Every element type: what numbers become, and the bytes that they are stored as."""
    x = special_numbers()
    out.put("numbers", x)
    with np.errstate(over="ignore"):
        out.put("f16", x.astype(np.float16).view(np.uint16))
    out.put("bf16", torch.from_numpy(x).bfloat16().view(torch.uint16))
    every = np.arange(1 << 16, dtype=np.uint16)
    out.put("every.f16", np.uint32(checksum(every.view(np.float16))))
    out.put("every.bf16", np.uint32(checksum(torch.from_numpy(every).view(torch.bfloat16).float().numpy())))
    for name, low, high, bits in [("i8", -128, 127, 8), ("i4", -8, 7, 4), ("i2", -2, 1, 2), ("b158", -1, 1, 0)]:
        clipped = np.clip(np.rint(x), low, high).astype(np.int64)
        inside = x[np.isfinite(x) & (np.abs(x) < 1e9)]
        inside = inside[(np.trunc(inside) >= low) & (np.trunc(inside) <= high)]
        cut = inside.astype(np.int8).astype(np.int64)
        out.put(f"{name}.inside", inside)
        for rule, codes in [("saturated", clipped), ("cut", cut)]:
            if bits:
                stored = packed(codes, bits)
            else:
                digits = np.concatenate([codes, np.zeros(-len(codes) % 5, np.int64)]).reshape(-1, 5)
                stored = ((digits + 1) @ 3 ** np.arange(5)).astype(np.uint8)
            out.put(f"{name}.{rule}", stored)
    out.put("i1.saturated", np.packbits(x < 0, bitorder="little"))


def edges():
    """Numbers at which arithmetic turns, of both signs, and some ordinary ones."""
    turns = [0.0, 1.0, 0.5, 2.0, 3.0, 1e-45, 1.17549435e-38, 3.4028235e38, np.inf, 1.0000001, 16777216.0, 7.3, 1e-7, 88.8, 104.0]
    return np.array(turns + [-t for t in turns] + [np.nan], F32)


def shapes(rank, extents):
    """Every shape up to a rank, in order."""
    for r in range(rank + 1):
        yield from itertools.product(extents, repeat=r)


def ramp(shape, scale):
    """Distinct numbers that are exact in f32."""
    return (np.arange(int(np.prod(shape)), dtype=F32) * F32(scale)).reshape(shape)


def broadcast(out):
    """a - b for every pair of shapes up to rank 4 of extents 1 to 3, and up to rank 3 with 0: a checksum, 0 where refused."""
    for name, rank, extents in [("to_4", 4, (1, 2, 3)), ("to_3", 3, (0, 1, 2, 3))]:
        every = list(shapes(rank, extents))
        sums = []
        for a, b in itertools.product(every, every):
            try:
                result = ramp(a, 1) - ramp(b, 1000)
                extents_and_numbers = np.concatenate([np.array(result.shape, F32), result.reshape(-1)])
                sums.append(checksum(extents_and_numbers))
            except ValueError:
                sums.append(0)
        out.put(name, np.array(sums, np.uint32).reshape(len(every), len(every)))


def elementwise(out):
    """Arithmetic in f32, bit for bit; elementary functions in f64 of f32 numbers."""
    x = edges()
    out.put("edges", x)
    with np.errstate(all="ignore"):
        a, b = x[:, None], x[None, :]
        for f in [np.add, np.subtract, np.multiply, np.divide, np.minimum, np.maximum]:
            result = f(a, b)
            assert result.dtype == F32
            out.put(f.__name__, result)
        for f in [np.equal, np.not_equal, np.less, np.less_equal, np.greater, np.greater_equal]:
            out.put(f.__name__, f(a, b).view(np.uint8))
        out.put("power", np.power(a.astype(np.float64), b.astype(np.float64)))
        out.put("clip", np.clip(x, F32(-0.75), F32(2.5)))
        out.put("clip_crossed", np.clip(x, F32(2.5), F32(-0.75)))
        for f in [np.negative, np.abs, np.sqrt, np.square, np.reciprocal]:
            out.put(f.__name__, f(x))
        rng = np.random.default_rng(158)
        y = np.concatenate([x, rng.normal(0, 1, 200), rng.normal(0, 20, 200), 2.0 ** rng.uniform(-40, 40, 200)])
        y = y.astype(F32)
        out.put("numbers", y)
        wide = y.astype(np.float64)
        for f in [np.exp, np.log, np.tanh]:
            out.put(f.__name__, f(wide))
        out.put("erf", torch.special.erf(torch.from_numpy(wide)))
        out.put("sigmoid", torch.sigmoid(torch.from_numpy(wide)))
        # 16-bit floats: computed in f32, rounded once.
        for name, kind in [("f16", torch.float16), ("bf16", torch.bfloat16)]:
            p, q = (torch.from_numpy(rng.normal(0, 3, 100).astype(F32)).to(kind) for _ in range(2))
            for which, value in [("p", p), ("q", q), ("sum", p + q), ("quotient", p / q)]:
                out.put(f"{name}.{which}", value.view(torch.uint16))
            out.put(f"{name}.mixed", p + torch.from_numpy(y[100:200]))


def reductions(out):
    """Every set of axes of a [3, 4, 5] tensor, with NaN, and shapes without elements."""
    rng = np.random.default_rng(158)
    x = rng.normal(0, 3, (3, 4, 5)).astype(F32)
    x[1, 2, 3] = x[1, 0, 3] = 9.0
    holed = x.copy()
    holed[0, 1, 2] = holed[0, 3, 2] = np.nan
    holed[2, 0, 0], holed[2, 1, 0], holed[2, 2, 1] = np.inf, -np.inf, np.inf
    out.put("x", x)
    out.put("holed", holed)
    with np.errstate(all="ignore"):
        for name, value in [("x", x), ("holed", holed)]:
            wide = value.astype(np.float64)
            for r in range(4):
                for axes in itertools.combinations(range(3), r):
                    key = f"{name}.{''.join(map(str, axes))}"
                    for f in [np.sum, np.mean, np.prod]:
                        out.put(f"{key}.{f.__name__}", f(wide, axis=axes))
                    for correction in [0, 1]:
                        out.put(f"{key}.var{correction}", np.var(wide, axis=axes, ddof=correction))
                        out.put(f"{key}.std{correction}", np.std(wide, axis=axes, ddof=correction))
                    for f in [np.max, np.min]:
                        out.put(f"{key}.{f.__name__}", f(value, axis=axes))
                    for f in [np.any, np.all]:
                        out.put(f"{key}.{f.__name__}", np.asarray(f(value > 0, axis=axes)).view(np.uint8))
            for axis in [0, 1, 2, None]:
                for f in [np.argmax, np.argmin]:
                    key = f"{name}.{'flat' if axis is None else axis}.{f.__name__}"
                    out.put(key, np.asarray(f(value, axis=axis)).astype(np.uint32))


MATMULS = [
    ((7,), (7,)), ((3, 7), (7,)), ((7,), (7, 5)), ((3, 7), (7, 5)), ((1, 9), (9, 4)), ((4, 9), (9, 1)),
    ((2, 3, 7), (7, 5)), ((3, 7), (2, 7, 5)), ((2, 3, 7), (2, 7, 5)), ((2, 1, 3, 4), (5, 4, 2)),
    ((2, 3, 4), (4,)), ((4,), (2, 4, 3)), ((2, 0), (0, 3)), ((0, 2), (2, 3)), ((2, 0, 3), (3, 2)),
    ((33, 70), (70, 41)), ((1, 1), (1, 1)), ((1, 70), (70, 129)),
]


def matmuls(out):
    """Products of whole numbers, exact in any order of additions; and of others, with what bounds their error."""
    rng = np.random.default_rng(158)
    for i, shapes in enumerate(MATMULS):
        a, b = (rng.integers(-8, 9, shape).astype(F32) for shape in shapes)
        out.put(f"{i}.a", a.astype(np.int8))
        out.put(f"{i}.b", b.astype(np.int8))
        out.put(f"{i}.product", np.matmul(a, b))
    a, b = (rng.normal(0, 1, shape).astype(F32).astype(np.float64) for shape in [(20, 200), (200, 15)])
    out.put("a", a.astype(F32))
    out.put("b", b.astype(F32))
    out.put("product", a @ b)
    out.put("sizes", np.abs(a) @ np.abs(b))


def activations(out):
    """Activations, softmax and norms of f32 numbers in f64, and the gradients that PyTorch derives."""
    rng = np.random.default_rng(158)
    ladder = np.concatenate([np.linspace(-12, 12, 97), rng.normal(0, 3, 100), [-90.0, 90.0, -1e4, 1e4, -1e-6, 1e-6, -1e-30]])
    x = torch.from_numpy(ladder.astype(F32))
    g = torch.from_numpy(rng.normal(0, 1, len(ladder)).astype(F32))
    out.put("x", x)
    out.put("g", g)
    fn = torch.nn.functional
    functions = {
        "relu": fn.relu,
        "relu2": lambda x: fn.relu(x) ** 2,
        "leaky_relu": lambda x: fn.leaky_relu(x, 0.125),
        "gelu": fn.gelu,
        "gelu_tanh": lambda x: fn.gelu(x, approximate="tanh"),
        "silu": fn.silu,
        "sigmoid": torch.sigmoid,
        "tanh": torch.tanh,
    }

    def both(name, f, operands, gradient):
        """Puts the result of `f` on float64 operands, and the gradient of each."""
        operands = [operand.double().requires_grad_() for operand in operands]
        y = f(*operands)
        y.backward(gradient.double())
        out.put(name, y)
        for i, operand in enumerate(operands):
            out.put(f"{name}.back{i}", operand.grad)

    for name, f in functions.items():
        both(name, f, [x], g)
    # The tail of the exact GELU, of which 1 + erf leaves nothing: x times the share of the normal distribution.
    out.put("gelu.tail", x.double() * torch.special.log_ndtr(x.double()).exp())
    rows, grads, weight, bias = (torch.from_numpy(rng.normal(0, 2, s).astype(F32)) for s in [(3, 4, 37), (3, 4, 37), 37, 37])
    for name, value in [("rows", rows), ("rows.g", grads), ("weight", weight), ("bias", bias)]:
        out.put(name, value)
    for axis in range(3):
        both(f"softmax{axis}", lambda x: torch.softmax(x, axis), [rows], grads)
        both(f"log_softmax{axis}", lambda x: torch.log_softmax(x, axis), [rows], grads)
    both("layer_norm", lambda x, w, b: fn.layer_norm(x, (37,), w, b, 1e-5), [rows, weight, bias], grads)
    both("rms_norm", lambda x, w: fn.rms_norm(x, (37,), w, 1e-5), [rows, weight], grads)


def main():
    """Writes a file of arrays for each group of operations."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("tests/golden/tensors"))
    folder = parser.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(158)
    for write in [dtypes, broadcast, elementwise, reductions, matmuls, activations]:
        arrays = Arrays(folder / f"{write.__name__}.bin")
        write(arrays)
        arrays.write()


if __name__ == "__main__":
    main()
