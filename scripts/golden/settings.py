"""Settings of config.json that change numbers: what HF transformers computes for each of them with the same small weights.

    python -P scripts/golden/settings.py tests/golden/settings

Writes `weights.safetensors` and `packed.safetensors` (two layers, BF16; the second with packed layers), and `cases.json`: for each
case its config.json, the file with its weights, the changes to their tensors, and the logits of the last of `tokens`.
"""

import json
import shutil
import sys
import tempfile
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

HIDDEN, INTERMEDIATE, LAYERS, HEADS, KV_HEADS, VOCABULARY = 16, 32, 2, 2, 1, 24
TOKENS = [3, 17, 5, 5, 22, 9, 1, 14, 20, 2, 11, 7]


def weights():
    """Weights that fit every class: sub-norms for BitNet, head norms for Qwen3."""
    generator = torch.Generator().manual_seed(14)
    draw = lambda *shape: torch.randn(shape, generator=generator)
    head_dim = HIDDEN // HEADS
    out = {"model.embed_tokens.weight": draw(VOCABULARY, HIDDEN) * 0.02, "lm_head.weight": draw(VOCABULARY, HIDDEN) * 0.5}
    out["model.norm.weight"] = 1 + 0.1 * draw(HIDDEN)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        for name, rows, cols in [
            ("self_attn.q_proj", HIDDEN, HIDDEN),
            ("self_attn.k_proj", KV_HEADS * head_dim, HIDDEN),
            ("self_attn.v_proj", KV_HEADS * head_dim, HIDDEN),
            ("self_attn.o_proj", HIDDEN, HIDDEN),
            ("mlp.gate_proj", INTERMEDIATE, HIDDEN),
            ("mlp.up_proj", INTERMEDIATE, HIDDEN),
            ("mlp.down_proj", HIDDEN, INTERMEDIATE),
        ]:
            out[f"{prefix}{name}.weight"] = draw(rows, cols) * 0.3
        for name, width in [
            ("input_layernorm", HIDDEN),
            ("post_attention_layernorm", HIDDEN),
            ("self_attn.q_norm", head_dim),
            ("self_attn.k_norm", head_dim),
            ("self_attn.attn_sub_norm", HIDDEN),
            ("mlp.ffn_sub_norm", INTERMEDIATE),
        ]:
            out[f"{prefix}{name}.weight"] = 1 + 0.1 * draw(width)
    return {name: tensor.to(torch.bfloat16).contiguous() for name, tensor in out.items()}


def trits(weight):
    """The trits of a weight and its scale, under absmean."""
    scale = 1.0 / weight.float().abs().mean().clamp(min=1e-5)
    return (weight.float() * scale).round().clamp(-1, 1), 1.0 / scale


def pack(values):
    """Trits packed four rows to a byte."""
    rows = (values.shape[0] + 3) // 4
    out = torch.zeros(rows, values.shape[1], dtype=torch.uint8)
    for part in range(4):
        piece = values[part * rows : (part + 1) * rows]
        out[: piece.shape[0]] |= (piece + 1).to(torch.uint8) << (2 * part)
    return out


def packed(plain, keep):
    """Packed layers with a scale that multiplies, except those that `keep` names."""
    out = dict(plain)
    for name, tensor in plain.items():
        if name.endswith("proj.weight") and not any(part in name for part in keep):
            values, scale = trits(tensor)
            out[name] = pack(values)
            out[name + "_scale"] = scale.reshape(1)
    return out


def unpacked(plain):
    """Trits as ordinary numbers, with their scale beside them."""
    out = dict(plain)
    for name, tensor in plain.items():
        if name.endswith("proj.weight"):
            values, scale = trits(tensor)
            out[name] = values.to(torch.bfloat16)
            out[name + "_scale"] = scale.reshape(1)
    return out


def config(class_name, **changes):
    """The config.json of a class with `changes`; ABSENT removes a field."""
    model_type = {"LlamaForCausalLM": "llama", "Qwen3ForCausalLM": "qwen3", "BitNetForCausalLM": "bitnet"}[class_name]
    out = {
        "architectures": [class_name],
        "model_type": model_type,
        "vocab_size": VOCABULARY,
        "hidden_size": HIDDEN,
        "intermediate_size": INTERMEDIATE,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "num_key_value_heads": KV_HEADS,
        "head_dim": HIDDEN // HEADS,
        "hidden_act": "relu2" if class_name.startswith("BitNet") else "silu",
        "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "bos_token_id": 0,
        "eos_token_id": 1,
    }
    for name, value in changes.items():
        if value is ABSENT:
            out.pop(name, None)
        else:
            out[name] = value
    return out


ABSENT = object()
LLAMA, QWEN3, BITNET = "LlamaForCausalLM", "Qwen3ForCausalLM", "BitNetForCausalLM"


def online(**changes):
    """A quantization_config that quantises when the model is loaded, with `changes`."""
    return {"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online", **changes}


def cases():
    """Name, config.json and weights of each case."""
    kept = ["lm_head", "model.layers.0.mlp.down_proj"]
    yield "llama", config(LLAMA), "weights"
    yield "llama-no-rms-norm-eps", config(LLAMA, rms_norm_eps=ABSENT), "weights"
    yield "qwen3-no-rms-norm-eps", config(QWEN3, rms_norm_eps=ABSENT), "weights"
    yield "bitnet-no-rms-norm-eps", config(BITNET, rms_norm_eps=ABSENT, quantization_config=online()), "weights"
    yield "bitnet-no-rope-theta", config(BITNET, rope_theta=ABSENT, quantization_config=online()), "weights"
    yield "bitnet-no-hidden-act", config(BITNET, hidden_act=ABSENT, quantization_config=online()), "weights"
    yield "llama-no-hidden-act", config(LLAMA, hidden_act=ABSENT), "weights"
    yield "no-architectures", config(QWEN3, architectures=ABSENT), "weights"
    yield "no-max-position-embeddings", config(LLAMA, max_position_embeddings=ABSENT), "weights"
    yield "no-head-dim", config(LLAMA, head_dim=ABSENT), "weights"
    yield "eos-minus-1", config(LLAMA, eos_token_id=-1), "weights"
    yield "dynamic-rope", config(LLAMA, rope_scaling={"type": "dynamic", "factor": 2.0}), "weights"
    yield "rope-scaling-before-parameters", config(
        LLAMA, rope_scaling={"rope_type": "linear", "factor": 4.0}, rope_parameters={"rope_type": "default", "rope_theta": 500.0}
    ), "weights"
    llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
    yield "llama3-no-original-length", config(LLAMA, max_position_embeddings=16, rope_scaling=llama3), "weights"
    yarn = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 4}
    yield "yarn", config(QWEN3, rope_scaling=yarn), "weights"
    yield "yarn-in-parameters", config(
        LLAMA, rope_theta=ABSENT, rope_parameters=yarn | {"rope_theta": 700.0, "attention_factor": 1.3, "beta_fast": 0.9, "beta_slow": 0.02}
    ), "weights"
    yield "yarn-mscale", config(LLAMA, rope_scaling=yarn | {"mscale": 0.7, "mscale_all_dim": 0.4, "beta_fast": 2}), "weights"
    yield "yarn-not-truncated", config(LLAMA, rope_scaling=yarn | {"truncate": False, "beta_slow": 0.05}), "weights"
    yield "yarn-no-factor", config(LLAMA, rope_scaling=yarn | {"factor": None}), "weights"
    factors = [round(1 + 0.3 * i, 3) for i in range(HIDDEN // HEADS // 2)]
    long = {"rope_type": "longrope", "original_max_position_embeddings": 16, "short_factor": factors, "long_factor": factors[::-1]}
    yield "longrope", config(LLAMA, rope_scaling=long), "weights"
    yield "longrope-attention-factor", config(LLAMA, rope_scaling=long | {"attention_factor": 1.4}), "weights"
    yield "longrope-factor", config(QWEN3, rope_scaling=long | {"factor": 9.0}), "weights"
    yield "tied-with-other-head", config(LLAMA, tie_word_embeddings=True), "weights"
    yield "tied-with-head-alone", config(LLAMA, tie_word_embeddings=True), "head-alone"
    yield "no-tie-word-embeddings", config(LLAMA, tie_word_embeddings=ABSENT), "weights"
    yield "online", config(LLAMA, quantization_config=online()), "weights"
    yield "online-modules", config(LLAMA, quantization_config=online(modules_to_not_convert=kept)), "weights"
    offline = online(quantization_mode="offline", modules_to_not_convert=["lm_head", "down_proj"])
    yield "offline-modules", config(LLAMA, quantization_config=offline), "packed"
    yield "offline-unpacked", config(LLAMA, quantization_config=online(quantization_mode="offline")), "unpacked"
    yield "online-of-trits", config(LLAMA, quantization_config=online()), "unpacked"
    window = {"use_sliding_window": True, "sliding_window": len(TOKENS), "max_window_layers": 1}
    yield "sliding-window", config(QWEN3, **window), "weights"
    yield "sliding-window-passed", config(QWEN3, **window | {"sliding_window": 5}), "weights"
    types = {"layer_types": ["sliding_attention", "full_attention"]}
    yield "sliding-window-of-types", config(QWEN3, use_sliding_window=True, sliding_window=3, **types), "weights"
    yield "sliding-window-unused", config(QWEN3, use_sliding_window=False, sliding_window=4, max_window_layers=0), "weights"


def main(folder):
    """Writes the weights and cases.json to `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    plain = weights()
    files = {
        "weights": plain,
        "packed": packed(plain, ["down_proj"]),
        "unpacked": unpacked(plain),
        "head-alone": {name: tensor for name, tensor in plain.items() if "embed_tokens" not in name},
    }
    for name in ("weights", "packed", "unpacked"):
        save_file(files[name], folder / f"{name}.safetensors", metadata={"format": "pt"})
    out = []
    for name, settings, kind in cases():
        with tempfile.TemporaryDirectory() as work:
            work = Path(work)
            (work / "config.json").write_text(json.dumps(settings))
            single = {name: tensor if tensor.dtype == torch.uint8 else tensor.float() for name, tensor in files[kind].items()}
            save_file(single, work / "model.safetensors", metadata={"format": "pt"})
            model = AutoModelForCausalLM.from_pretrained(work, dtype=torch.float32, attn_implementation="eager").eval()
            with torch.no_grad():
                logits = model(torch.tensor([TOKENS])).logits[0, -1].double().tolist()
        print(name, [round(x, 5) for x in logits[:4]], flush=True)
        out.append({"name": name, "config": settings, "weights": kind, "logits": [round(x, 7) for x in logits]})
    text = ",\n".join(json.dumps(case) for case in out)
    (folder / "cases.json").write_text('{"tokens": ' + json.dumps(TOKENS) + ', "cases": [\n' + text + "\n]}\n")


main(Path(sys.argv[1]))
