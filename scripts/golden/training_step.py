"""Writes the golden values of one training step (forward, backward, AdamW) computed by PyTorch.

    python scripts/golden/training_step.py > bitnet-training/tests/golden/training_step.json

The model is that of `bitnet-training`: ReLU squared, sub-norms, grouped queries, tied head, fake-quantised weights (absmean)
and activations (int8 absmax) with straight-through gradients. Parameters and tokens follow integer formulas that the test repeats.
"""

import json
import sys

import torch
from torch import nn

VOCAB, HIDDEN, LAYERS, HEADS, KV_HEADS, FFN, EPS, BASE = 40, 32, 2, 4, 2, 48, 1e-5, 10000.0
HEAD_DIM = HIDDEN // HEADS
SEGMENTS = [7, 1, 12]
STRIDE = 13


def formula(start, count):
    """Values in [-0.5, 0.5) that are exact in f32 arithmetic on both sides."""
    index = torch.arange(start, start + count, dtype=torch.int64)
    return (((index * 2654435761) % 2**32) >> 8).double().div(2**24).sub(0.5).float()


class Flat:
    """Parameters in the order of `Layout`."""

    def __init__(self):
        """Starts without parameters."""
        self.named = []
        self.offset = 0

    def take(self, *shape, gain=False):
        """The next parameter of the given shape; a gain lies around 1."""
        count = torch.Size(shape).numel()
        values = formula(self.offset, count).reshape(shape)
        self.offset += count
        parameter = nn.Parameter(1 + 0.25 * values if gain else values / 4)
        self.named.append(parameter)
        return parameter


def weight(w):
    """Ternary weights under absmean, with the gradient of the identity."""
    scale = w.abs().double().mean().float().clamp(min=1e-5)
    return w + ((w / scale).round().clamp(-1, 1) * scale - w).detach()


def activation(x):
    """Rows rounded to int8 under the absmax of each, with the gradient of the identity."""
    scale = 127 / x.abs().max(dim=-1, keepdim=True).values.clamp(min=1e-5)
    return x + ((x * scale).round().clamp(-128, 127) / scale - x).detach()


def rms(x, gain):
    """RMS norm over the last dimension, times `gain`."""
    return gain * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)


def rope(x):
    """Rotates the halves of each head, `[heads, tokens, HEAD_DIM]`."""
    tokens = x.shape[-2]
    inverse = BASE ** (-torch.arange(0, HEAD_DIM, 2, dtype=torch.float64) / HEAD_DIM)
    angle = torch.outer(torch.arange(tokens, dtype=torch.float64), inverse)
    cos, sin = (torch.cat([f, f], -1).float() for f in (angle.cos(), angle.sin()))
    low, high = x.chunk(2, -1)
    return x * cos + torch.cat([-high, low], -1) * sin


def heads(x, count):
    """`[tokens, count * HEAD_DIM]` as `[count, tokens, HEAD_DIM]`."""
    return x.view(x.shape[0], count, HEAD_DIM).transpose(0, 1)


def main():
    """Prints loss, gradients and parameters of one step as JSON."""
    flat = Flat()
    embedding = flat.take(VOCAB, HIDDEN)
    layers = []
    for _ in range(LAYERS):
        layer = dict(attn_norm=flat.take(HIDDEN, gain=True))
        layer.update(q=flat.take(HIDDEN, HIDDEN), k=flat.take(KV_HEADS * HEAD_DIM, HIDDEN))
        layer.update(v=flat.take(KV_HEADS * HEAD_DIM, HIDDEN), attn_sub_norm=flat.take(HIDDEN, gain=True))
        layer.update(o=flat.take(HIDDEN, HIDDEN), ffn_norm=flat.take(HIDDEN, gain=True))
        layer.update(gate=flat.take(FFN, HIDDEN), up=flat.take(FFN, HIDDEN))
        layer.update(ffn_sub_norm=flat.take(FFN, gain=True), down=flat.take(HIDDEN, FFN))
        layers.append(layer)
    output_norm = flat.take(HIDDEN, gain=True)

    def forward(tokens):
        """Logits `[tokens, VOCAB]` of one segment."""
        h = embedding[tokens]
        n = len(tokens)
        for layer in layers:
            a = activation(rms(h, layer["attn_norm"]))
            q, k, v = (a @ weight(layer[name]).T for name in "qkv")
            q, k, v = rope(heads(q, HEADS)), rope(heads(k, KV_HEADS)), heads(v, KV_HEADS)
            k, v = (x.repeat_interleave(HEADS // KV_HEADS, 0) for x in (k, v))
            scores = q @ k.transpose(-1, -2) / HEAD_DIM**0.5
            mask = torch.full((n, n), float("-inf")).triu(1)
            o = ((scores + mask).softmax(-1) @ v).transpose(0, 1).reshape(n, HIDDEN)
            h = h + activation(rms(o, layer["attn_sub_norm"])) @ weight(layer["o"]).T
            b = activation(rms(h, layer["ffn_norm"]))
            u = (b @ weight(layer["gate"]).T).relu().pow(2) * (b @ weight(layer["up"]).T)
            h = h + activation(rms(u, layer["ffn_sub_norm"])) @ weight(layer["down"]).T
        return rms(h, output_norm) @ embedding.T

    matrices = [p for layer in layers for name, p in layer.items() if "norm" not in name]
    others = [p for p in flat.named if not any(p is m for m in matrices)]
    groups = [dict(params=matrices, weight_decay=0.1), dict(params=others, weight_decay=0.0)]
    optimizer = torch.optim.AdamW(groups, lr=3e-3, betas=(0.9, 0.95), eps=1e-8)

    loss, position = 0.0, 0
    for n in SEGMENTS:
        ids = (torch.arange(position, position + n + 1) * 7919 + 11) % VOCAB
        loss = loss + nn.functional.cross_entropy(forward(ids[:-1]), ids[1:], reduction="sum")
        position += n + 1
    loss = loss / sum(SEGMENTS)
    loss.backward()
    gradient = torch.cat([p.grad.flatten() for p in flat.named])
    norm = nn.utils.clip_grad_norm_(flat.named, 1.0)
    optimizer.step()
    after = torch.cat([p.detach().flatten() for p in flat.named])
    golden = dict(
        torch=torch.__version__.split("+")[0],
        parameters=after.numel(),
        stride=STRIDE,
        loss=loss.item(),
        gradient_norm=norm.item(),
        gradient=gradient[::STRIDE].tolist(),
        after=after[::STRIDE].tolist(),
    )
    json.dump({key: rounded(value) for key, value in golden.items()}, sys.stdout)
    print()


def rounded(value):
    """Eight significant digits: more than f32 holds apart."""
    if isinstance(value, list):
        return [rounded(x) for x in value]
    return float(f"{value:.8g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
