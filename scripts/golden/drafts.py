"""Writes a layer that drafts tokens (multi-token prediction) for `gguf-qwen35-pq2_0`, and the logits that it gives.

    python scripts/golden/drafts.py [--out tests/golden/drafts]

The layer is in a file of its own, `gguf-qwen35-mtp.gguf`, as community files have it: block 3 of `block_count` 4, of which
`nextn_predict_layers` 1. transformers has no such layer; the truth is its Qwen3_5ForCausalLM with one layer of
attention on what the projection gives, after DeepSeek-V3's description (2.2): norms of the embedding of a token and of
the state before it, side by side, the embedding first. The state is that after the output norm, as in llama.cpp.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import hybrid
import numpy as np
import torch
from hybrid import DIMS, both_halves, codecs, config, folder_tensors, gguf_file, norm_weight, truth, values_of
from modelkit import record
from modelkit.weights import with_scales, write_folder

NAME = "gguf-qwen35-mtp"
LENGTHS = (5, 70)
NAMES = {"eh_proj": "nextn.eh_proj", "enorm": "nextn.enorm", "hnorm": "nextn.hnorm",
         "shared_head_norm": "nextn.shared_head_norm"}


def layer_tensors(seed):
    """The tensors of the layer: those of a layer with attention, by their names in it, and four of its own."""
    rng, linear = np.random.default_rng(seed), with_scales(128)
    queries, keys = DIMS.heads * DIMS.head_dim, DIMS.kv_heads * DIMS.head_dim
    norm = lambda n, centre=1.0: norm_weight(rng, n, False, centre)  # noqa: E731
    shapes = {"self_attn.q_proj": (2 * queries, DIMS.hidden), "self_attn.k_proj": (keys, DIMS.hidden),
              "self_attn.v_proj": (keys, DIMS.hidden), "self_attn.o_proj": (DIMS.hidden, queries),
              "mlp.gate_proj": (DIMS.ffn, DIMS.hidden), "mlp.up_proj": (DIMS.ffn, DIMS.hidden),
              "mlp.down_proj": (DIMS.hidden, DIMS.ffn)}
    t = {name: linear(rng, *shape, "") for name, shape in shapes.items()}
    t |= {"input_layernorm": norm(DIMS.hidden), "post_attention_layernorm": norm(DIMS.hidden),
          "self_attn.q_norm": norm(DIMS.head_dim, 1.2), "self_attn.k_norm": norm(DIMS.head_dim, 1.2)}
    t["eh_proj"] = both_halves(0.1 * rng.standard_normal((DIMS.hidden, 2 * DIMS.hidden)))
    return t | {"enorm": norm(DIMS.hidden), "hnorm": norm(DIMS.hidden), "shared_head_norm": norm(DIMS.hidden, 1.5)}


def draft_model(own, model):
    """transformers' model of one layer with attention, whose inputs are what the projection gives."""
    dims = replace(DIMS, layers=1)
    tensors = {"model.embed_tokens": model["model.embed_tokens"], "lm_head": model["lm_head"],
               "model.norm": own["shared_head_norm"]}
    tensors |= {f"model.layers.0.{name}": value for name, value in own.items() if name not in NAMES}
    settings = config(dims, "float32") | {"layer_types": ["full_attention"]}
    with tempfile.TemporaryDirectory() as tmp:
        write_folder(tmp, settings, folder_tensors(tensors, dims, "f32"))
        return truth.load(tmp)


def draft_logits(model, draft, own, tokens):
    """The logits after each pair of a token and the state before it, in the precision of the models."""
    dtype = next(model.parameters()).dtype
    tensor = lambda name: torch.from_numpy(own[name]).to(dtype)  # noqa: E731

    def norm(x, weight):
        return x * torch.rsqrt((x * x).mean(-1, keepdim=True) + DIMS.eps) * weight

    with torch.no_grad():
        ids = torch.from_numpy(tokens.astype(np.int64))[None]
        states = model.model(input_ids=ids, use_cache=False).last_hidden_state[:, :-1]
        embeddings = model.model.embed_tokens(ids[:, 1:])
        pairs = torch.cat([norm(embeddings, tensor("enorm")), norm(states, tensor("hnorm"))], -1)
        x = pairs @ tensor("eh_proj").T
        return draft(inputs_embeds=x, use_cache=False).logits[0].double().numpy()


def write_layer(path, own):
    """The file of the layer, with an embedding table of zeros: it tells the vocabulary."""
    block = DIMS.layers
    stored = []
    for name, value in own.items():
        stem = f"blk.{block}." + (NAMES.get(name) or hybrid.GGUF[name]) + ".weight"
        if isinstance(value, np.ndarray):
            code, raw, _ = codecs.dense_encode("BF16" if name == "eh_proj" else "F32", value.astype(np.float32))
            stored.append((stem, value.shape, code, raw))
        else:
            stored.append((stem, value.trits.shape, 142, codecs.q2_0_encode(value.trits, value.scale, 128)))
    code, raw, _ = codecs.dense_encode("Q4_0", np.zeros((DIMS.vocab, DIMS.hidden), np.float32))
    stored.append(("token_embd.weight", (DIMS.vocab, DIMS.hidden), code, raw))
    a = "qwen35."
    kv = [
        ("general.architecture", "str", "qwen35"), ("general.name", "str", "golden drafts"),
        (a + "context_length", "u32", DIMS.context), (a + "embedding_length", "u32", DIMS.hidden),
        (a + "block_count", "u32", block + 1), (a + "nextn_predict_layers", "u32", 1),
        (a + "feed_forward_length", "u32", DIMS.ffn), (a + "attention.head_count", "u32", DIMS.heads),
        (a + "attention.head_count_kv", "u32", DIMS.kv_heads), (a + "attention.key_length", "u32", DIMS.head_dim),
        (a + "attention.value_length", "u32", DIMS.head_dim),
        (a + "attention.layer_norm_rms_epsilon", "f32", DIMS.eps), (a + "rope.freq_base", "f32", DIMS.rope_theta),
        (a + "rope.dimension_count", "u32", DIMS.head_dim // 4),
        (a + "rope.dimension_sections", "[i32]", [2, 1, 1, 0]), (a + "ssm.conv_kernel", "u32", DIMS.taps),
        (a + "ssm.state_size", "u32", DIMS.delta_dim), (a + "ssm.group_count", "u32", DIMS.key_heads),
        (a + "ssm.time_step_rank", "u32", DIMS.value_heads), (a + "ssm.inner_size", "u32", DIMS.values),
        (a + "full_attention_interval", "u32", 2),
    ]
    gguf_file.write(path, kv, stored)


def main():
    """Writes the file and what it gives."""
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("--out", type=Path, default=hybrid.HERE.parents[1] / "tests/golden/drafts")
    folder = ap.parse_args().out
    folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    tensors, own = hybrid.plain_tensors(), layer_tensors(310)
    write_layer(folder / f"{NAME}.gguf", own)
    model, draft = hybrid.load(tensors, DIMS), draft_model(own, tensors)
    wide, wide_draft = hybrid.in_double(model, DIMS), hybrid.in_double(draft, DIMS)
    rng, rec, noise = np.random.default_rng(311), {}, []
    for p, length in enumerate(LENGTHS):
        tokens = rng.integers(0, DIMS.vocab - 4, length)
        logits = draft_logits(model, draft, own, tokens)
        with truth.double_arithmetic():
            exact = draft_logits(wide, wide_draft, own, tokens)
        noise.append(float(np.abs(logits - exact).max()))
        rec[f"prompt.{p}.tokens"] = torch.from_numpy(tokens.astype(np.int32))
        rec[f"prompt.{p}.logits"] = torch.from_numpy(logits.astype(np.float32))
    rec["noise"] = torch.tensor(noise, dtype=torch.float32)
    record.save(folder / f"{NAME}.safetensors", rec)
    print("noise", noise, "largest", float(np.abs(exact).max()))
    for name in (f"{NAME}.gguf", f"{NAME}.safetensors"):
        print(name, (folder / name).stat().st_size, "bytes")


if __name__ == "__main__":
    main()
