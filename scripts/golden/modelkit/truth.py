"""Runs a checkpoint through transformers in float32 and float64 and records what a test may compare with.

float32: `from_pretrained(dtype=float32, attn_implementation="eager")`, one thread, torch.compile off, then
`.float()`. The `@torch.compile`d
quantisers then run as written, op by op.

float64: a deep copy under `.double()`. transformers hard-codes float32 in RMSNorm (`.to(torch.float32)`), RoPE
(`.float()`, `dtype=torch.float`), the softmax (`dtype=torch.float32`) and both quantisers (`.float()`), so
`double_arithmetic` sends every such request to float64 while that copy runs; RoPE's frequencies are recomputed in
float64. That nothing was missed is proven by `reference.forward`, which agrees with it to 1e-9.
"""

import contextlib
import copy
import tempfile
from dataclasses import replace

import numpy as np
import torch
from torch import nn
from transformers import AutoModelForCausalLM
from transformers.integrations.bitnet import AutoBitLinear, BitLinear, WeightQuant, unpack_weights

from .weights import OFFLINE, Checkpoint, config, stored_tensors, write_folder

GREEDY = 64
LENGTHS = (5, 9, 16)


def load(folder):
    """The model of a folder by transformers, every parameter in float32."""
    model, info = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"):
        assert not info[kind], (folder, kind, info[kind])
    # For a pre-quantised checkpoint the loader honours `dtype` only in the quantised linears and leaves every other
    # tensor as stored (its norms would then round to bfloat16), so the rest is widened here. U8 buffers stay.
    nn.Module.float(model)
    for name, p in model.named_parameters():
        assert p.dtype == torch.float32, name
    for name, b in model.named_buffers():
        assert b.dtype == (torch.uint8 if isinstance(model.get_submodule(name.rpartition(".")[0]), BitLinear)
                           and name.endswith(".weight") else torch.float32), (name, b.dtype)
    return model.eval().requires_grad_(False)


def load_values(ckpt, activation):
    """The model whose weights have exactly the values of `ckpt`, whatever file they came from.

    activation "int8": AutoBitLinear in offline mode (a scale per row is set as a vector, which broadcasts); "none": plain
    linears on `scale * trits`.
    """
    with tempfile.TemporaryDirectory() as tmp:
        quantised = activation == "int8"
        one = {k: replace(v, stored_scale=np.resize(v.scale, 1)) for k, v in ckpt.linears().items()}
        flat = Checkpoint(ckpt.dims, ckpt.tensors | one)
        tensors = stored_tensors(flat, "f32", "packed" if quantised else "dense")
        write_folder(tmp, config(ckpt.dims, dtype="float32", quantization=OFFLINE if quantised else None), tensors)
        model = load(tmp)
    if quantised:
        for name, v in ckpt.linears().items():
            model.get_submodule(name).weight_scale = torch.from_numpy(v.scale[:, 0].copy())
    return model


@contextlib.contextmanager
def double_arithmetic():
    """While inside, every request for float32 yields float64."""
    saved = torch.Tensor.float, torch.Tensor.to, nn.functional.softmax

    def to64(v):
        """float64 for float32, anything else as it is."""
        return torch.float64 if v is torch.float32 else v

    def to(self, *args, **kwargs):
        """`Tensor.to` with float64 in place of float32."""
        return saved[1](self, *map(to64, args), **{k: to64(v) for k, v in kwargs.items()})

    def softmax(x, *args, **kwargs):
        """`softmax` with float64 in place of float32."""
        return saved[2](x, *args, **{k: to64(v) for k, v in kwargs.items()})

    torch.Tensor.float = lambda self, *a, **k: self.double()
    torch.Tensor.to = to
    nn.functional.softmax = softmax
    try:
        yield
    finally:
        torch.Tensor.float, torch.Tensor.to, nn.functional.softmax = saved


def double_copy(model, dims):
    """A copy of the model in float64, with exact inverse frequencies."""
    m = nn.Module.double(copy.deepcopy(model))
    inv = 1.0 / dims.rope_theta ** (torch.arange(0, dims.head_dim, 2, dtype=torch.float64) / dims.head_dim)
    m.model.rotary_emb.inv_freq = inv * torch.from_numpy(dims.stretch())
    for mod in m.modules():
        if isinstance(mod, BitLinear):
            mod.dtype = torch.float64
    return m


def logits32(model, tokens):
    """Logits `[tokens, vocabulary]` of the float32 model."""
    out = model(input_ids=torch.as_tensor(tokens)[None], use_cache=False).logits[0]
    assert out.dtype == torch.float32
    return out.numpy()


def logits64(model, tokens):
    """Logits `[tokens, vocabulary]` of the float64 model."""
    with double_arithmetic():
        out = model(input_ids=torch.as_tensor(tokens)[None], use_cache=False).logits[0]
    assert out.dtype == torch.float64
    return out.numpy()


def bit_linears(model):
    """The quantised layers of a model by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, (AutoBitLinear, BitLinear))}


def normed(module, x):
    """The input of a layer after its own norm, if it has one."""
    return x if getattr(module, "rms_norm", None) is None else module.rms_norm(x)


def act_scale(x):
    """`127 / max|x|` as transformers evaluates it: torch turns `127 / tensor` into `tensor.reciprocal() * 127`."""
    return 127 / x.abs().max(dim=-1, keepdim=True).values.clamp(min=1e-5)


def tie_margins(model, batch):
    """Per row of `batch [B, T]`: the least distance of any scaled activation from a rounding tie (in int8 steps)."""
    worst = torch.full((len(batch),), 0.5)

    def hook(module, args):
        """Keeps the smallest distance of an input from a rounding threshold."""
        x = normed(module, args[0])
        y = x * act_scale(x)
        d = ((y - y.floor()) - 0.5).abs().flatten(1).min(1).values
        torch.minimum(worst, d, out=worst)

    handles = [m.register_forward_pre_hook(hook) for m in bit_linears(model).values()]
    model(input_ids=batch, use_cache=False)
    for h in handles:
        h.remove()
    return worst


@contextlib.contextmanager
def int8_activations(model):
    """While inside, every quantised linear appends its int8 activations to the yielded list."""
    seen = []

    def hook(module, args):
        """Keeps the int8 input of a layer."""
        x = normed(module, args[0])
        seen.append((x * act_scale(x)).round().clamp(-128, 127).to(torch.int8))

    handles = [m.register_forward_pre_hook(hook) for m in bit_linears(model).values()]
    yield seen
    for h in handles:
        h.remove()


def choose_prompts(model, dims, seed):
    """Three prompts and their tie margins. Each is, of 512 random ones, that whose activations stay farthest from rounding
    ties, so that with these prompts layers and logits can be compared to float32 rounding alone."""
    rng = np.random.default_rng(seed + 1)
    prompts, margins = [], []
    for n in LENGTHS:
        batch = rng.integers(0, dims.vocab - 4, (512, n))
        best = 0
        if bit_linears(model):
            m = tie_margins(model, torch.from_numpy(batch))
            best = int(m.argmax())
            margins.append(float(m[best]))
        prompts.append(batch[best])
    return prompts, margins


def greedy(model, prompt):
    """64 tokens, stop tokens ignored, and at each step best minus second-best logit; no KV cache."""
    seq, margins = list(map(int, prompt)), []
    for _ in range(GREEDY):
        top = torch.topk(torch.from_numpy(logits32(model, seq)[-1]), 2)
        margins.append(float(top.values[0] - top.values[1]))
        seq.append(int(top.indices[0]))
    return np.array(seq[len(prompt):], np.int32), np.array(margins, np.float32)


def used_weights(module):
    """`(trits int8 [N, K], multiplicative scale f32)` as the module uses them in float32."""
    if isinstance(module, BitLinear):
        trits = unpack_weights(module.weight, dtype=torch.float32)
        return trits.to(torch.int8), 1 / module.weight_scale
    if module.online_quant:
        w = WeightQuant.apply(module.weight)
        s = w.abs().max().reshape(1)
        return torch.sign(w).to(torch.int8), s
    return module.weight.to(torch.int8), module.weight_scale


def trace(model, tokens, linears):
    """Layer inputs and outputs, and everything about the named linears, for one prompt."""
    got, rec = {}, {}

    def keep(name):
        """A hook that keeps input and output of a module under `name`."""

        def hook(module, args, kwargs, out):
            """Keeps input and output."""
            x = args[0] if args else kwargs["hidden_states"]
            y = out[0] if isinstance(out, tuple) else out
            got[name] = (x[0].clone(), y.reshape(x.shape[1], -1).clone())
        return hook

    handles = [layer.register_forward_hook(keep(f"layer.{i}"), with_kwargs=True)
               for i, layer in enumerate(model.model.layers)]
    handles += [model.get_submodule(m).register_forward_hook(keep(m), with_kwargs=True) for m in linears.values()]
    handles.append(model.model.norm.register_forward_hook(keep("final_norm"), with_kwargs=True))
    logits32(model, tokens)
    for h in handles:
        h.remove()
    for i in range(len(model.model.layers)):
        rec[f"layer.{i}.in"], rec[f"layer.{i}.out"] = got[f"layer.{i}"]
    rec["final_norm.out"] = got["final_norm"][1]
    for short, path in linears.items():
        rec |= trace_linear(model.get_submodule(path), f"linear.{short}.", *got[path])
    return rec


def trace_linear(module, key, x, y):
    """Input, int8 activations, scale, trits, weight scale, dot products and output of one linear."""
    rec = {key + "input": x, key + "output": y}
    if not isinstance(module, (AutoBitLinear, BitLinear)):
        return rec
    n = normed(module, x)
    if n is not x:
        rec[key + "normed"] = n
    s = act_scale(n)
    q = (n * s).round().clamp(-128, 127).to(torch.int8)
    trits, scale = used_weights(module)
    dots = q.to(torch.int32) @ trits.to(torch.int32).T
    mine = dots.double() / s.double() * scale.double()
    assert (mine - y.double()).abs().max() <= 3e-6 * y.abs().max(), (key, float((mine - y.double()).abs().max()))
    return rec | {key + "q": q, key + "s": s[:, 0], key + "trits": trits, key + "scale": scale, key + "dots": dots}
