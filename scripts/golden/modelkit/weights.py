"""Random checkpoints with the statistics of trained ones, and their Hugging Face storage.

A checkpoint is a dict of Hugging Face tensor names. A linear layer's value is a `Ternary`, a dense tensor's a float32
array. Norm weights vary around 1 (a forgotten norm shows), scales differ per tensor (a swapped scale shows), and
embeddings are exactly representable in both bfloat16 and float16.
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

from .codecs import hf_pack, to_bf16

PROJ = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.o_proj",
        "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")

OFFLINE = {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"}


@dataclass
class Dims:
    """Shape and constants of one tiny model; `family` is the transformers class used as the truth."""

    family: str  # "bitnet" | "llama" | "qwen2" | "qwen3"
    hidden: int = 128
    ffn: int = 256
    layers: int = 2
    heads: int = 4
    kv_heads: int = 2
    head_dim: int = 32
    vocab: int = 192
    act: str = "silu"
    rope_theta: float = 10000.0
    eps: float = 1e-5
    tied: bool = True
    context: int = 512
    fine_norms: bool = False  # norm weights with all float32 bits
    llama3: tuple | None = None  # RoPE of Llama 3.1: factor, low_freq_factor, high_freq_factor, first context

    def stretch(self):
        """What the frequencies of RoPE are multiplied by, `[head_dim / 2]`."""
        if self.llama3 is None:
            return np.ones(self.head_dim // 2)
        factor, low, high, first = self.llama3
        wavelengths = 2 * np.pi * self.rope_theta ** (np.arange(0, self.head_dim, 2) / self.head_dim)
        smooth = np.clip((first / wavelengths - low) / (high - low), 0, 1)
        return (1 - smooth) / factor + smooth

    def linear_shape(self, proj):
        """`[N, K]` of a projection."""
        q, kv = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return {"q_proj": (q, self.hidden), "k_proj": (kv, self.hidden), "v_proj": (kv, self.hidden),
                "o_proj": (self.hidden, q), "gate_proj": (self.ffn, self.hidden),
                "up_proj": (self.ffn, self.hidden), "down_proj": (self.hidden, self.ffn)}[proj.split(".")[-1]]


@dataclass
class Ternary:
    """Trits `[N, K]` int8 and multiplicative scales, shape `[1, 1]`, `[N, 1]` or `[N, K/group]` f32.

    `latent` holds the float values that quantise to it, `stored_scale` the `weight_scale` of a packed checkpoint.
    """

    trits: np.ndarray
    scale: np.ndarray
    latent: np.ndarray | None = None
    stored_scale: np.ndarray | None = None
    norm: np.ndarray | None = None  # weight of the optional RMSNorm on the input
    scale_is_inverse: bool = False  # `stored_scale` is divided by

    def dense(self):
        """The float32 matrix `scale * trits`."""
        n, k = self.trits.shape
        s = np.broadcast_to(np.repeat(self.scale, k // self.scale.shape[1], 1), (n, k))
        return (s * self.trits).astype(np.float32)


@dataclass
class Checkpoint:
    """The tensors of a random model by Hugging Face name: arrays, and `Ternary` for linears."""

    dims: Dims
    tensors: dict = field(default_factory=dict)

    def linears(self):
        """The ternary layers by name."""
        return {k: v for k, v in self.tensors.items() if isinstance(v, Ternary)}


def both_halves(x):
    """Values exactly representable in bfloat16 and float16: bfloat16, with magnitudes under 2^-14 flushed to 0."""
    x = to_bf16(x)
    return np.where(np.abs(x) < 2.0**-14, 0, x).astype(np.float32)


def norm_weight(rng, n, fine, centre=1.0):
    """Around `centre`. `fine` keeps every float32 bit: products of coarse embeddings (Q4_0, Q8_0, Q6_K) and coarse norm
    weights fall exactly on rounding ties of the int8 quantiser so often that no two programs could agree."""
    w = np.abs(centre * (1 + 0.25 * rng.standard_normal(n))) + 0.05
    return w.astype(np.float32) if fine else both_halves(w)


def clear_ties(rng, embedding, norm):
    """Redraw embedding rows which the first norm takes onto an int8 rounding tie.

    With 8-bit mantissas on both sides exact ties are common (a few rows in a hundred), and how they round depends on the
    last bit of every operation before: no two programs could agree on them.
    """
    for row in range(len(embedding)):
        while True:
            x = embedding[row].astype(np.float64) * norm
            y = x / np.abs(x).max() * 127
            if np.abs(y - np.floor(y) - 0.5).min() > 1e-4:
                break
            embedding[row] = both_halves(0.25 * rng.standard_normal(embedding.shape[1]))


def random_checkpoint(dims, seed, linear, input_norms=False):
    """A checkpoint whose linears are made by `linear(rng, n, k, projection) -> Ternary`."""
    rng = np.random.default_rng(seed)
    t = {"model.embed_tokens.weight": both_halves(0.25 * rng.standard_normal((dims.vocab, dims.hidden)))}
    for i in range(dims.layers):
        p = f"model.layers.{i}."
        t[p + "input_layernorm.weight"] = norm_weight(rng, dims.hidden, dims.fine_norms)
        for proj in PROJ:
            n, k = dims.linear_shape(proj)
            t[p + proj] = linear(rng, n, k, proj)
            if input_norms:
                t[p + proj].norm = norm_weight(rng, k, dims.fine_norms)
        if dims.family == "qwen2":
            for proj in PROJ[:3]:
                n = dims.linear_shape(proj)[0]
                t[p + proj + ".bias"] = both_halves(0.3 * rng.standard_normal(n))
        if dims.family == "bitnet":
            t[p + "self_attn.attn_sub_norm.weight"] = norm_weight(rng, dims.hidden, dims.fine_norms, 0.8)
            t[p + "mlp.ffn_sub_norm.weight"] = norm_weight(rng, dims.ffn, dims.fine_norms, 1.2)
        if dims.family == "qwen3":
            t[p + "self_attn.q_norm.weight"] = norm_weight(rng, dims.head_dim, dims.fine_norms, 1.2)
            t[p + "self_attn.k_norm.weight"] = norm_weight(rng, dims.head_dim, dims.fine_norms, 1.2)
        t[p + "post_attention_layernorm.weight"] = norm_weight(rng, dims.hidden, dims.fine_norms)
    clear_ties(rng, t["model.embed_tokens.weight"], t["model.layers.0.input_layernorm.weight"])
    t["model.norm.weight"] = norm_weight(rng, dims.hidden, dims.fine_norms, 1.5)
    if not dims.tied:
        t["lm_head.weight"] = both_halves(0.25 * rng.standard_normal((dims.vocab, dims.hidden)))
    return Checkpoint(dims, t)


# ------------------------------------------------------------------------------------------------ makers of linears


def _trits(rng, n, k):
    """About 62 % non-zero, the share that absmean quantisation of Gaussian weights leaves."""
    return rng.choice(np.array([-1, 0, 1], np.int8), size=(n, k), p=[0.32, 0.38, 0.30])


def _scale(rng, k, shape=(1, 1)):
    """A random scale for inputs of width `k`, of the given shape."""
    return (rng.uniform(0.7, 1.8, shape) / np.sqrt(k)).astype(np.float32)


def packed(direction):
    """Per-tensor ternaries with a bfloat16 `weight_scale` that is multiplied or divided by."""

    def make(rng, n, k, _proj):
        """A linear of shape `[n, k]`."""
        trits, s = _trits(rng, n, k), _scale(rng, k)
        if direction == "multiply":
            stored = both_halves(s)
            return Ternary(trits, stored, stored_scale=stored.reshape(1))
        stored = both_halves(1 / s)
        return Ternary(trits, (1 / stored).astype(np.float32), stored_scale=stored.reshape(1), scale_is_inverse=True)

    return make


def with_scales(groups=None, round_to=np.float16):
    """Already-ternary values `±s/0`. groups: None = one scale, "row", "shards" (two row halves) or a group size."""

    def make(rng, n, k, _proj):
        """A linear of shape `[n, k]`."""
        trits = _trits(rng, n, k)
        if groups is None:
            s = _scale(rng, k)
        elif groups == "row":
            s = _scale(rng, k, (n, 1))
        elif groups == "shards":
            s = np.repeat(_scale(rng, k, (2, 1)), n // 2, axis=0)
        else:
            s = _scale(rng, k, (n, k // groups))
        s = to_bf16(s) if round_to == "bf16" else s.astype(round_to).astype(np.float32)
        return Ternary(trits, s)

    return make


def latents(store):
    """Float latents, stored as "bf16", "f16" or "f32", none of which lies near a rounding threshold."""

    def make(rng, n, k, _proj):
        """A linear of shape `[n, k]`."""
        w = (rng.uniform(0.9, 2.2) / np.sqrt(k) * rng.standard_normal((n, k))).astype(np.float32)
        cast = {"bf16": to_bf16, "f16": lambda x: x.astype(np.float16).astype(np.float32), "f32": lambda x: x}[store]
        w = cast(w)
        for _ in range(20):
            mean = np.abs(w.astype(np.float64)).mean()
            near = np.abs(np.abs(w / mean) - 0.5) < 2e-5
            if not near.any():
                break
            w = cast(np.where(near, w * np.float32(1.02), w))
        assert not near.any()
        trits = np.clip(np.rint(w / mean), -1, 1).astype(np.int8)
        return Ternary(trits, np.full((1, 1), mean, np.float32), latent=w)

    return make


# ------------------------------------------------------------------------------------------------ storage


def config(dims, architecture=None, model_type=None, dtype="bfloat16", quantization=None, **extra):
    """A `config.json` in the style of published models (flat `rope_theta`)."""
    names = {"bitnet": "BitNetForCausalLM", "llama": "LlamaForCausalLM", "qwen2": "Qwen2ForCausalLM",
             "qwen3": "Qwen3ForCausalLM"}
    out = {
        "architectures": [architecture or names[dims.family]],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": dims.vocab - 4,
        "eos_token_id": dims.vocab - 3,
        "hidden_act": dims.act,
        "hidden_size": dims.hidden,
        "initializer_range": 0.02,
        "intermediate_size": dims.ffn,
        "max_position_embeddings": dims.context,
        "model_type": model_type or dims.family,
        "num_attention_heads": dims.heads,
        "num_hidden_layers": dims.layers,
        "num_key_value_heads": dims.kv_heads,
        "rms_norm_eps": dims.eps,
        "rope_theta": dims.rope_theta,
        "tie_word_embeddings": dims.tied,
        "torch_dtype": dtype,
        "use_cache": True,
        "vocab_size": dims.vocab,
    }
    if dims.family == "qwen2":
        del out["attention_bias"]  # the class has biases on q, k and v, and no field for them
    if dims.family == "qwen3" or dims.head_dim * dims.heads != dims.hidden:
        out["head_dim"] = dims.head_dim
    if quantization:
        out["quantization_config"] = quantization
    return {k: v for k, v in (out | extra).items() if v is not None or k == "rope_scaling"}


TORCH = {"bf16": torch.bfloat16, "f16": torch.float16, "f32": torch.float32}


def stored_tensors(ckpt, dtype, mode, rename=lambda s: s):
    """Torch tensors of a checkpoint. mode: "packed", "latent" or "dense" (scale times trits)."""
    out = {}
    for name, v in ckpt.tensors.items():
        if not isinstance(v, Ternary):
            out[rename(name)] = torch.from_numpy(v.copy()).to(TORCH[dtype])
            continue
        if mode == "packed":
            out[rename(name + ".weight")] = torch.from_numpy(hf_pack(v.trits))
            out[rename(name + ".weight_scale")] = torch.from_numpy(v.stored_scale.copy()).to(TORCH[dtype])
        else:
            w = v.latent if mode == "latent" else v.dense()
            stored = torch.from_numpy(w.copy()).to(TORCH[dtype])
            assert torch.equal(stored.float(), torch.from_numpy(w)), f"{name} is not exact in {dtype}"
            out[rename(name + ".weight")] = stored
        if v.norm is not None:
            out[rename(name + ".rms_norm.weight")] = torch.from_numpy(v.norm.copy()).to(TORCH[dtype])
    return out


def write_folder(folder, conf, tensors, shards=1):
    """config.json, generation_config.json and model.safetensors (or shards with their index)."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(conf, indent=2) + "\n")
    v = conf["vocab_size"]
    gen = {"bos_token_id": v - 4, "do_sample": True, "eos_token_id": [v - 3, v - 1], "max_length": 512,
           "pad_token_id": v - 2, "temperature": 0.6, "top_p": 0.9}
    (folder / "generation_config.json").write_text(json.dumps(gen, indent=2) + "\n")
    if shards == 1:
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        (folder / "model.safetensors").chmod(0o644)
        return
    names = list(tensors)
    cut = -(-len(names) // shards)
    weight_map = {}
    for s in range(shards):
        part = names[s * cut:(s + 1) * cut]
        file = f"model-{s + 1:05}-of-{shards:05}.safetensors"
        save_file({k: tensors[k] for k in part}, folder / file, metadata={"format": "pt"})
        (folder / file).chmod(0o644)
        weight_map |= dict.fromkeys(part, file)
    total = sum(t.numel() * t.element_size() for t in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def dims_json(dims):
    """The dimensions that are set, for JSON."""
    return {key: value for key, value in asdict(dims).items() if value is not None}
