"""NumPy encoders and decoders of the block formats, written from their layouts and checked against gguf-py where it has them.

Trits are int8 arrays `[N, K]` in {-1, 0, +1}; codes are trits + 1. Dense values are float32 arrays.
"""

import numpy as np

F32, F16, Q4_0, Q8_0, Q6_K, BF16, TQ1_0, TQ2_0, I2_S, Q2_0 = 0, 1, 2, 8, 14, 30, 34, 35, 36, 42
Q1_0, PQ2_0, PTQ1_0 = 41, 142, 143


def round_half_away(x):
    """C `roundf`: halves go away from zero."""
    return np.sign(x) * np.floor(np.abs(x) + np.float32(0.5))


def f16_bytes(x):
    """Numbers as little-endian f16."""
    return np.asarray(x, np.float32).astype("<f2").tobytes()


def bf16_bits(x):
    """The upper halves of float32 words, rounded to nearest, ties to even; `[...]` u16."""
    u = np.ascontiguousarray(x, np.float32).view(np.uint32).astype(np.uint64)
    return ((u + 0x7FFF + ((u >> 16) & 1)) >> 16).astype(np.uint16)


def to_bf16(x):
    """float32 values rounded to bfloat16."""
    return (bf16_bits(x).astype(np.uint32) << 16).view(np.float32)


# ---------------------------------------------------------------------------------------------- Hugging Face packing


def hf_pack(trits):
    """`[N, K]` trits -> `[N/4, K]` u8: plane i (rows i*N/4 ...) sits in bits 2i, 2i+1."""
    n, k = trits.shape
    assert n % 4 == 0
    planes = (trits + 1).astype(np.uint8).reshape(4, n // 4, k)
    return planes[0] | planes[1] << 2 | planes[2] << 4 | planes[3] << 6


def hf_unpack(packed):
    """Inverse of `hf_pack`."""
    return np.concatenate([((packed >> (2 * i)) & 3).astype(np.int8) - 1 for i in range(4)], axis=0)


# ---------------------------------------------------------------------------------------------- I2_S, three layouts


def i2s_encode(trits, scale, layout="canonical", padding="zero"):
    """One I2_S tensor: N*K/4 code bytes, the f32 scale, 28 bytes of padding.

    layout: "canonical" (128 elements -> 32 bytes), "arm64" (64 -> 16) or "x4" (four rows per byte).
    padding: "zero", "tiled" (eight copies of the scale) or "garbage", all of which writers leave.
    """
    codes = (trits + 1).astype(np.uint8)
    n, k = codes.shape
    if layout == "x4":
        g = codes.reshape(n // 4, 4, k)
        body = g[:, 0] << 6 | g[:, 1] << 4 | g[:, 2] << 2 | g[:, 3]
    else:
        lane = {"canonical": 32, "arm64": 16}[layout]
        assert k % (4 * lane) == 0
        g = codes.reshape(-1, 4, lane)
        body = g[:, 0] << 6 | g[:, 1] << 4 | g[:, 2] << 2 | g[:, 3]
    s = np.float32(scale).astype("<f4").tobytes()
    tail = {"zero": s + bytes(28), "tiled": s * 8, "garbage": s + bytes(range(0xA0, 0xA0 + 28))}[padding]
    return body.tobytes() + tail


# ---------------------------------------------------------------------------------------------- block ternaries


def _blocks(trits, scales, size):
    """Codes `[blocks, size]` u8 and scales `[blocks]` f32 of a row-major matrix; scales broadcast from `[N, K/size]`."""
    n, k = trits.shape
    assert k % size == 0
    codes = (trits + 1).astype(np.uint8).reshape(-1, size)
    return codes, np.broadcast_to(np.asarray(scales, np.float32), (n, k // size)).reshape(-1)


def tq2_0_encode(trits, scales):
    """66 bytes per 256: 64 code bytes (element g*128 + l*32 + m in byte 32g+m, bits 2l), then the f16 scale."""
    codes, d = _blocks(trits, scales, 256)
    g = codes.reshape(-1, 2, 4, 32)
    qs = (g[:, :, 0] | g[:, :, 1] << 2 | g[:, :, 2] << 4 | g[:, :, 3] << 6).reshape(-1, 64)
    return np.concatenate([qs, d.astype("<f2").view(np.uint8).reshape(-1, 2)], axis=1).tobytes()


def _base3(part):
    """Codes `[blocks, 4 or 5, width]` to bytes `[blocks, width]`, the first code in the most significant digit."""
    q = np.zeros((part.shape[0], part.shape[2]), np.uint32)
    for n in range(5):
        q = q * 3 + (part[:, n] if n < part.shape[1] else 0)
    return ((q * 256 + 242) // 243).astype(np.uint8)


def _digits(packed, count):
    """The first `count` codes of bytes `[blocks, width]`, as `[blocks, count * width]`; the inverse of `_base3`."""
    digits = [(packed * np.uint8(3**n)).astype(np.uint16) * 3 >> 8 for n in range(count)]
    return np.concatenate(digits, axis=1).astype(np.int8)


def tq1_0_encode(trits, scales):
    """54 bytes per 256: base-3 bytes, 5 trits each (32 + 16 bytes), 4 bytes of 4 trits, then the f16 scale."""
    codes, d = _blocks(trits, scales, 256)
    a = _base3(codes[:, :160].reshape(-1, 5, 32))
    b = _base3(codes[:, 160:240].reshape(-1, 5, 16))
    h = _base3(codes[:, 240:].reshape(-1, 4, 4))
    return np.concatenate([a, b, h, d.astype("<f2").view(np.uint8).reshape(-1, 2)], axis=1).tobytes()


def q2_0_encode(trits, scales, group):
    """f16 scale, then `group`/4 bytes of sequential codes (element j in byte j/4, bits 2*(j%4)); group 64 or 128."""
    codes, d = _blocks(trits, scales, group)
    g = codes.reshape(-1, group // 4, 4)
    qs = g[:, :, 0] | g[:, :, 1] << 2 | g[:, :, 2] << 4 | g[:, :, 3] << 6
    return np.concatenate([d.astype("<f2").view(np.uint8).reshape(-1, 2), qs], axis=1).tobytes()


def ptq1_0_encode(trits, scales):
    """28 bytes per 128: base-3 bytes as in TQ1_0, 5 trits each (16 + 8 bytes), 2 bytes of 4 trits, then the f16 scale."""
    codes, d = _blocks(trits, scales, 128)
    a = _base3(codes[:, :80].reshape(-1, 5, 16))
    b = _base3(codes[:, 80:120].reshape(-1, 5, 8))
    h = _base3(codes[:, 120:].reshape(-1, 4, 2))
    return np.concatenate([a, b, h, d.astype("<f2").view(np.uint8).reshape(-1, 2)], axis=1).tobytes()


def ptq1_0_decode(raw, shape):
    """Values of PTQ1_0 blocks."""
    b = np.frombuffer(raw, np.uint8).reshape(-1, 28)
    codes = [_digits(b[:, :16], 5), _digits(b[:, 16:24], 5), _digits(b[:, 24:26], 4)]
    d = b[:, 26:].copy().view("<f2").astype(np.float32)
    return (d * (np.concatenate(codes, axis=1) - 1)).reshape(shape)


def q1_0_encode(signs, scales):
    """18 bytes per 128: f16 scale, then 16 bytes of signs (element j in byte j/8, bit j%8), set for +1."""
    codes, d = _blocks(signs, scales, 128)
    qs = np.packbits(codes == 2, axis=1, bitorder="little")
    return np.concatenate([d.astype("<f2").view(np.uint8).reshape(-1, 2), qs], axis=1).tobytes()


# ---------------------------------------------------------------------------------------------- dense block formats


def q8_0_encode(x):
    """34 bytes per 32: f16 scale, 32 int8."""
    b = np.asarray(x, np.float32).reshape(-1, 32)
    d = np.abs(b).max(1, keepdims=True) / np.float32(127)
    inv = np.where(d == 0, 0, 1 / np.where(d == 0, 1, d)).astype(np.float32)
    q = round_half_away(b * inv).astype(np.int8)
    return np.concatenate([d.astype("<f2").view(np.uint8), q.view(np.uint8)], axis=1).tobytes()


def q8_0_decode(raw, shape):
    """Values of Q8_0 blocks: an f16 scale and 32 int8 codes."""
    b = np.frombuffer(raw, np.uint8).reshape(-1, 34)
    d = b[:, :2].copy().view("<f2").astype(np.float32)
    return (d * b[:, 2:].copy().view(np.int8).astype(np.float32)).reshape(shape)


def q4_0_encode(x):
    """18 bytes per 32: f16 scale (the extreme value / -8), elements 0-15 in low nibbles, 16-31 in high nibbles."""
    b = np.asarray(x, np.float32).reshape(-1, 32)
    extreme = np.take_along_axis(b, np.abs(b).argmax(1)[:, None], 1)
    d = extreme / np.float32(-8)
    inv = np.where(d == 0, 0, 1 / np.where(d == 0, 1, d)).astype(np.float32)
    q = np.clip(np.trunc(b * inv + np.float32(8.5)), 0, 15).astype(np.uint8)
    qs = q[:, :16] | q[:, 16:] << 4
    return np.concatenate([d.astype("<f2").view(np.uint8), qs], axis=1).tobytes()


def q4_0_decode(raw, shape):
    """Values of Q4_0 blocks: an f16 scale and 32 codes of four bits."""
    b = np.frombuffer(raw, np.uint8).reshape(-1, 18)
    d = b[:, :2].copy().view("<f2").astype(np.float32)
    q = np.concatenate([b[:, 2:] & 15, b[:, 2:] >> 4], axis=1).astype(np.float32) - 8
    return (d * q).reshape(shape)


def q6_k_encode(x):
    """210 bytes per 256: ql[128], qh[64], int8 scales[16], f16 d; value = d * scale[e/16] * (q - 32).

    A plain encoder (scale per 16 = max/31); any reader must agree with `q6_k_decode`, however good the choice of scales.
    """
    b = np.asarray(x, np.float32).reshape(-1, 16, 16)
    sub = np.abs(b).max(2) / np.float32(31)
    d = (sub.max(1, keepdims=True) / np.float32(127)).astype("<f2")
    df = np.where(d == 0, 1, d).astype(np.float32)
    sc = np.clip(round_half_away(sub / df), 1, 127).astype(np.int8)
    step = df[:, :, None] * sc.astype(np.float32)[:, :, None]
    q = (np.clip(np.rint(b / step), -32, 31).astype(np.int16) + 32).astype(np.uint8).reshape(-1, 2, 4, 32)
    ql = np.concatenate([q[:, :, 0] & 15 | (q[:, :, 2] & 15) << 4, q[:, :, 1] & 15 | (q[:, :, 3] & 15) << 4], axis=2)
    qh = q[:, :, 0] >> 4 | q[:, :, 1] >> 4 << 2 | q[:, :, 2] >> 4 << 4 | q[:, :, 3] >> 4 << 6
    n = q.shape[0]
    parts = [ql.reshape(n, 128), qh.reshape(n, 64), sc.view(np.uint8), d.view(np.uint8)]
    return np.concatenate(parts, axis=1).tobytes()


def q6_k_decode(raw, shape):
    """Values of Q6_K blocks: 256 codes of six bits, 16 int8 scales and an f16 scale."""
    b = np.frombuffer(raw, np.uint8).reshape(-1, 210)
    ql, qh = b[:, :128].reshape(-1, 2, 64), b[:, 128:192].reshape(-1, 2, 32)
    sc = b[:, 192:208].copy().view(np.int8).astype(np.float32)
    d = b[:, 208:].copy().view("<f2").astype(np.float32)
    lo = [ql[:, :, :32] & 15, ql[:, :, 32:] & 15, ql[:, :, :32] >> 4, ql[:, :, 32:] >> 4]
    q = np.stack([lo[i] | ((qh >> (2 * i)) & 3) << 4 for i in range(4)], axis=2).astype(np.float32) - 32
    # d * scale first, then the code: gguf-py's order; every product here is exact or rounds once in float32
    return (((d * sc)[:, :, None]) * q.reshape(-1, 16, 16)).reshape(shape).astype(np.float32)


def dense_encode(kind, x):
    """(ggml type, bytes, the float32 values that a reader gets) of a dense tensor stored as `kind`."""
    x = np.ascontiguousarray(x, np.float32)
    if kind == "F32":
        return F32, x.astype("<f4").tobytes(), x
    if kind == "F16":
        return F16, f16_bytes(x), x.astype(np.float16).astype(np.float32)
    if kind == "BF16":
        return BF16, bf16_bits(x).astype("<u2").tobytes(), to_bf16(x)
    enc, dec, code = {
        "Q8_0": (q8_0_encode, q8_0_decode, Q8_0),
        "Q4_0": (q4_0_encode, q4_0_decode, Q4_0),
        "Q6_K": (q6_k_encode, q6_k_decode, Q6_K),
    }[kind]
    raw = enc(x)
    return code, raw, dec(raw, x.shape)


def check_against_gguf():
    """Every codec that gguf-py also has gives its values (and, where the encoder is its own too, its bytes)."""
    import gguf

    rng = np.random.default_rng(7)
    x = rng.standard_normal((8, 512)).astype(np.float32)
    q = gguf.GGMLQuantizationType
    for kind, qt in (("Q8_0", q.Q8_0), ("Q4_0", q.Q4_0), ("Q6_K", q.Q6_K), ("BF16", q.BF16)):
        _, raw, values = dense_encode(kind, x)
        theirs = gguf.dequantize(np.frombuffer(raw, np.uint8).reshape(8, -1), qt)
        assert np.array_equal(theirs, values), kind
        if kind != "Q6_K":
            assert gguf.quantize(x, qt).tobytes() == raw, kind
        assert np.abs(values - x).max() < {"Q8_0": 0.02, "Q4_0": 0.4, "Q6_K": 0.12, "BF16": 0.02}[kind], kind
    t = rng.integers(-1, 2, (8, 512)).astype(np.int8)
    d = (rng.random((8, 2)).astype(np.float32) + 0.1).astype(np.float16).astype(np.float32)
    w = (t.reshape(8, 2, 256) * d[:, :, None]).reshape(8, 512).astype(np.float32)
    for enc, qt in ((tq1_0_encode, q.TQ1_0), (tq2_0_encode, q.TQ2_0)):
        raw = enc(t, d)
        assert np.array_equal(gguf.dequantize(np.frombuffer(raw, np.uint8).reshape(8, -1), qt), w), qt
        assert gguf.quantize(w, qt).tobytes() == raw, qt
    assert np.array_equal(hf_unpack(hf_pack(t)), t)
