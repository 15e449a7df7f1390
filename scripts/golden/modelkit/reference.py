"""The forward pass in NumPy, written from the equations alone, to check that transformers ran the arithmetic we name.

Run in float64 it must agree with transformers in float64 to rounding: that proves both which arithmetic ran and that no
float32 step is left in the float64 run.
"""

import numpy as np

from .weights import Ternary


def rms_norm(x, weight, eps):
    """RMS norm over the last dimension, in the type of `x`."""
    return weight.astype(x.dtype) * (x / np.sqrt((x * x).mean(-1, keepdims=True) + x.dtype.type(eps)))


def quantise(x):
    """Per-token int8: `(q [T, K] int8, s [T, 1])`."""
    s = x.dtype.type(127) / np.maximum(np.abs(x).max(-1, keepdims=True), x.dtype.type(1e-5))
    return np.clip(np.rint(x * s), -128, 127).astype(np.int8), s


def linear(x, w, activation, input_eps=1e-6):
    """`x [T, K]` by a `Ternary`; activation "int8" or "none"."""
    if w.norm is not None:
        x = rms_norm(x, w.norm, input_eps)
    if activation == "none":
        return x @ w.dense().astype(x.dtype).T
    assert w.scale.shape[1] == 1, "int8 activations go with one scale per tensor or per row"
    q, s = quantise(x)
    scale = w.scale.astype(x.dtype)
    if w.stored_scale is not None and w.scale_is_inverse:
        scale = 1 / w.stored_scale.astype(x.dtype).reshape(1, 1)
    if w.latent is not None:
        scale = np.abs(w.latent.astype(np.float64)).mean().astype(x.dtype).reshape(1, 1)
    return (q.astype(np.int32) @ w.trits.astype(np.int32).T).astype(x.dtype) / s * scale.T


def rope(x, dims):
    """Rotate-half RoPE of `x [T, heads, d]`."""
    t, _, d = x.shape
    inv = (x.dtype.type(dims.rope_theta) ** (-np.arange(0, d, 2) / d) * dims.stretch()).astype(x.dtype)
    angle = np.arange(t, dtype=x.dtype)[:, None] * inv
    c, s = np.cos(angle)[:, None], np.sin(angle)[:, None]
    a, b = x[..., : d // 2], x[..., d // 2:]
    return np.concatenate([a * c - b * s, b * c + a * s], axis=-1)


def forward(ckpt, tokens, activation, dtype=np.float64):
    """Logits `[T, vocab]` of one sequence."""
    d, t = ckpt.dims, ckpt.tensors
    h = t["model.embed_tokens.weight"][tokens].astype(dtype)
    n = len(tokens)
    mask = np.where(np.tril(np.ones((n, n), bool)), 0, -np.inf).astype(dtype)
    for i in range(d.layers):
        p = f"model.layers.{i}."
        bias = lambda name: t.get(p + name + ".bias", np.zeros(1)).astype(dtype)  # noqa: E731
        lin = lambda x, name: linear(x, t[p + name], activation) + bias(name)  # noqa: E731
        norm = lambda x, name: rms_norm(x, t[p + name + ".weight"], d.eps)  # noqa: E731
        a = norm(h, "input_layernorm")
        q = lin(a, "self_attn.q_proj").reshape(n, d.heads, d.head_dim)
        k = lin(a, "self_attn.k_proj").reshape(n, d.kv_heads, d.head_dim)
        v = lin(a, "self_attn.v_proj").reshape(n, d.kv_heads, d.head_dim)
        if d.family == "qwen3":
            q, k = norm(q, "self_attn.q_norm"), norm(k, "self_attn.k_norm")
        q, k = rope(q, d), rope(k, d)
        rep = d.heads // d.kv_heads
        k, v = np.repeat(k, rep, 1), np.repeat(v, rep, 1)
        att = np.einsum("thd,shd->hts", q, k) / np.sqrt(dtype(d.head_dim)) + mask
        att = np.exp(att - att.max(-1, keepdims=True))
        att /= att.sum(-1, keepdims=True)
        o = np.einsum("hts,shd->thd", att, v).reshape(n, -1)
        if d.family == "bitnet":
            o = norm(o, "self_attn.attn_sub_norm")
        h = h + lin(o, "self_attn.o_proj")
        b = norm(h, "post_attention_layernorm")
        g, u = lin(b, "mlp.gate_proj"), lin(b, "mlp.up_proj")
        g = np.maximum(g, 0) ** 2 if d.act == "relu2" else g / (1 + np.exp(-g))
        u = g * u
        if d.family == "bitnet":
            u = norm(u, "mlp.ffn_sub_norm")
        h = h + lin(u, "mlp.down_proj")
    h = rms_norm(h, t["model.norm.weight"], d.eps)
    head = t["model.embed_tokens.weight"] if d.tied else t["lm_head.weight"]
    assert not isinstance(head, Ternary)
    return h @ head.astype(dtype).T
