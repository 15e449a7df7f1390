"""Writes tests/golden/quantizers.json: what formulas of papers give in NumPy and PyTorch, for the quantisers to equal.

    python scripts/golden/quantizers.py [--out tests/golden/quantizers.json]

Needs numpy and torch. Weights are the bits of f32 in hexadecimal, trits are the characters `-`, `0` and `+`, scales are the
shortest decimals that give back their f32.

    absmean        BitNet b1.58, arXiv 2402.17764: round(W / mean|W|) clipped to -1..1
    absmedian      the same with torch.median
    sign           BitNet, arXiv 2310.11453: sign(W - mean W), sign(0) = -1, scale mean|W|
    half scale     W > s / 2, W < -s / 2, s = mean|W|
    least squares  every number of kept magnitudes tried, in f64
    3 of 4         the smallest magnitude of each four becomes 0, scale = mean of the others
"""

import argparse
import json
import pathlib

import numpy as np
import torch

RNG = np.random.default_rng(1581)
ROWS, COLS = 2, 128


def mean(values):
    """The mean in f64, as f32."""
    return np.float32(values.astype(np.float64).mean())


def rounded(run, unit):
    """Trits and scale: round(run / unit) clipped to -1..1, in torch."""
    s = 1 / torch.tensor(max(unit, np.float32(1e-5)))
    trits = (torch.from_numpy(run) * s).round().clamp(-1, 1)
    return trits.numpy(), (1 / s).numpy()


def absmean(run):
    """Trits and scale under mean|W|."""
    return rounded(run, mean(np.abs(run)))


def absmedian(run):
    """Trits and scale under median|W|."""
    return rounded(run, torch.from_numpy(run).abs().median().numpy())


def sign(run):
    """Signs around the mean, and mean|W|."""
    return np.where(run > mean(run), 1, -1), mean(np.abs(run))


def half_scale(run):
    """Trits by the threshold mean|W| / 2, and mean|W|."""
    s = mean(np.abs(run))
    half = s / np.float32(2)
    return (run > half).astype(int) - (run < -half).astype(int), s


def least_squares(run):
    """Trits and scale with the smallest squared error."""
    magnitudes = np.sort(np.abs(run).astype(np.float64))[::-1]
    saved = np.cumsum(magnitudes) ** 2 / np.arange(1, run.size + 1)
    k = int(np.argmax(saved)) + 1
    kept = (np.abs(run).astype(np.float64) >= magnitudes[k - 1]) & (run != 0)
    scale = np.float32(magnitudes[:k].mean())
    return np.sign(run) * kept, scale


def three_of_four(run):
    """Signs of the three largest of each four, and the mean of their magnitudes."""
    groups = run.reshape(-1, 4)
    keep = np.ones(groups.shape, bool)
    np.put_along_axis(keep, np.abs(groups).argmin(axis=1, keepdims=True), False, axis=1)
    trits = np.where(groups < 0, -1, 1) * keep
    return trits.reshape(-1), mean(np.abs(groups[keep]))


RULES = {
    "absmean": absmean,
    "absmedian": absmedian,
    "sign": sign,
    "half scale": half_scale,
    "least squares": least_squares,
    "3 of 4": three_of_four,
}


def cases():
    """The weights `[ROWS, COLS]` of each case."""
    normal = RNG.normal(0.002, 0.02, (ROWS, COLS)).astype(np.float32)
    sparse = (RNG.integers(-1, 2, (ROWS, COLS)) * np.float32(0.037)).astype(np.float32)
    heavy = (RNG.standard_t(2, (ROWS, COLS)) * 0.05).astype(np.float32)
    return {
        "random": normal,
        "heavy tails": heavy,
        "ternary": sparse,
        "constant": np.full((ROWS, COLS), -0.25, np.float32),
        "denormal": (RNG.normal(0, 1, (ROWS, COLS)) * 1e-40).astype(np.float32),
        "huge": (RNG.uniform(-1, 1, (ROWS, COLS)) * 3e38).astype(np.float32),
        "zeros": np.zeros((ROWS, COLS), np.float32),
    }


def runs(granularity):
    """The shape in which each row shares a scale."""
    return {"tensor": (1, ROWS * COLS), "row": (ROWS, COLS), "group 64": (ROWS * COLS // 64, 64)}[granularity]


def quantised(weights, rule):
    """Trits and scales of a rule at each granularity."""
    out = {}
    for granularity in ["tensor", "row", "group 64"]:
        results = [rule(run) for run in weights.reshape(runs(granularity))]
        trits = "".join("-0+"[int(t) + 1] for run, _ in results for t in run)
        out[granularity] = {"trits": trits, "scales": [float(str(np.float32(s))) for _, s in results]}
    return out


def main():
    """Writes quantizers.json."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", default="tests/golden/quantizers.json")
    out = {"rows": ROWS, "cols": COLS, "cases": {}}
    for name, weights in cases().items():
        out["cases"][name] = {
            "weights": "".join(f"{bits:08x}" for bits in weights.reshape(-1).view(np.uint32)),
            "rules": {rule: quantised(weights, function) for rule, function in RULES.items()},
        }
    pathlib.Path(parser.parse_args().out).write_text(json.dumps(out, indent=0) + "\n")


if __name__ == "__main__":
    main()
