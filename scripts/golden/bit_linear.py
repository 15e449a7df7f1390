"""Writes the golden values of BitLinear (forward, straight-through gradients) computed by PyTorch.

    python scripts/golden/bit_linear.py > bitnet-quant/tests/golden/bit_linear.json

Four layers: b1.58 and 1-bit weights, each with and without a norm of the input. Operands follow an integer formula that the test
repeats. Sources: arXiv 2402.17764 (b1.58), arXiv 2310.11453 (1 bit).
"""

import json
import sys

import torch

BATCH, TOKENS, INPUT, OUT, EPS = 2, 3, 36, 10, 1e-5


def formula(start, *shape):
    """Values in [-0.5, 0.5) that are exact in f32 arithmetic on both sides."""
    count = torch.Size(shape).numel()
    index = torch.arange(start, start + count, dtype=torch.int64)
    return (((index * 2654435761) % 2**32) >> 8).double().div(2**24).sub(0.5).float().reshape(shape)


def absmean(w):
    """Weights as ternary values under one scale, with the gradient of the identity."""
    scale = w.abs().double().mean().float().clamp(min=1e-5)
    return w + ((w / scale).round().clamp(-1, 1) * scale - w).detach()


def sign(w):
    """Weights as signs around their mean under one scale, with the gradient of the identity."""
    mean, scale = w.double().mean().float(), w.abs().double().mean().float()
    return w + (torch.where(w > mean, scale, -scale) - w).detach()


def activation(x):
    """Rows rounded to int8 under the absmax of each, with the gradient of the identity."""
    scale = 127 / x.abs().max(dim=-1, keepdim=True).values.clamp(min=1e-5)
    return x + ((x * scale).round().clamp(-128, 127) / scale - x).detach()


def rms(x, gain):
    """RMS norm over the last dimension, times `gain`."""
    return gain * x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + EPS)


def case(rule, with_norm):
    """Output and gradients of one layer, for a rule and with or without the norm."""
    x = (4 * formula(0, BATCH, TOKENS, INPUT)).requires_grad_()
    w = (formula(1000, OUT, INPUT) / 4 + 0.015625).requires_grad_()
    bias = formula(3000, OUT).requires_grad_()
    gain = (1 + formula(4000, INPUT) / 4).requires_grad_()
    n = rms(x, gain) if with_norm else x
    y = activation(n) @ rule(w).T + bias
    y.backward(formula(5000, BATCH, TOKENS, OUT))
    golden = dict(rule=rule.__name__, norm=with_norm, y=y, x=x.grad, latent=w.grad, bias=bias.grad)
    if with_norm:
        golden["gain"] = gain.grad
    return {key: numbers(value) for key, value in golden.items()}


def numbers(value):
    """Eight significant digits: more than the bound of the test needs."""
    if torch.is_tensor(value):
        return [float(f"{v:.8g}") for v in value.detach().flatten().tolist()]
    return value


if __name__ == "__main__":
    cases = [case(rule, norm) for rule in (absmean, sign) for norm in (False, True)]
    json.dump(dict(torch=torch.__version__.split("+")[0], cases=cases), sys.stdout)
    print()
