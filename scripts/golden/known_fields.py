"""Writes bitnet-inference/tests/data/known_fields.json: the names, and the defaults where there are any, of the fields that other programs define.

    venv/bin/python scripts/golden/known_fields.py        # needs the packages of requirements.txt

The lists come from the installed packages: transformers' configuration classes, its generation settings, its quantisation
settings and its tokenizers; the parts of a tokenizer.json that the tokenizers library has; PEFT's LoRA settings; the
keys of the gguf package. `bitnet-inference/src/known_fields` decides about each field, and its tests fail on a field without a
decision, so a new version of a package shows what it added.
"""

import dataclasses
import inspect
import json
import re
import sys
from importlib.metadata import version
from pathlib import Path

# `tokenizers.py` beside this file is not the package of that name.
sys.path = [place for place in sys.path if Path(place).resolve() != Path(__file__).resolve().parent]

import tokenizers
from gguf.constants import Keys
from peft import LoraConfig
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
from transformers import (BitNetConfig, Gemma3TextConfig, GenerationConfig, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config,
                          Qwen3Config)
from transformers.modeling_rope_utils import RopeParameters
from transformers.utils.quantization_config import BitNetQuantConfig

OUT = Path(__file__).resolve().parents[2] / "bitnet-inference" / "tests" / "data" / "known_fields.json"

# The class of the first ternary checkpoints is remote code: LLaMA's configuration with two fields more.
LEGACY_BITNET = {"weight_bits": 1, "input_bits": 8}


def plain(value):
    """A default as JSON; what has no plain form becomes its name."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if dataclasses.is_dataclass(value):
        return {}
    return str(value)


def defaults(cls):
    """Fields of a dataclass with their defaults."""
    out = {}
    for field in dataclasses.fields(cls):
        if field.default is not dataclasses.MISSING:
            out[field.name] = plain(field.default)
        elif field.default_factory is not dataclasses.MISSING:
            out[field.name] = plain(field.default_factory())
        else:
            out[field.name] = None
    return out


def config(cls):
    """Fields of a configuration class, those that only `to_dict` writes, and the effective values of what the class computes."""
    fields, made = defaults(cls), cls().to_dict()
    for name, value in made.items():
        fields.setdefault(name, plain(value))
    fields["transformers_version"] = None
    # Two older spellings of RoPE settings that every class still takes, and what a class does without any.
    rope = made["rope_parameters"]
    fields["rope_theta"] = rope.get("full_attention", rope)["rope_theta"]
    if "sliding_attention" in rope:
        fields["rope_local_base_freq"] = rope["sliding_attention"]["rope_theta"]
    fields["rope_scaling"] = None
    fields["partial_rotary_factor"] = None
    fields["torch_dtype"] = None
    # `PreTrainedConfig.__post_init__` takes these from the file although they are no fields.
    for name in ["num_labels", "attn_implementation", "experts_implementation", "per_layer_config", "tie_last_hidden_states"]:
        fields.setdefault(name, None)
    return fields


def init_defaults(cls):
    """Arguments of a constructor with their defaults."""
    parameters = inspect.signature(cls.__init__).parameters.values()
    named = [p for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD and p.name != "self"]
    return {p.name: None if p.default is p.empty else plain(p.default) for p in named}


def popped(cls):
    """Names of the settings that a tokenizer class takes out of tokenizer_config.json."""
    names = set()
    for base in cls.__mro__:
        if base.__module__.startswith("transformers"):
            source = inspect.getsource(base)
            for method in ["__init__", "_from_pretrained", "convert_to_native_format"]:
                if method in vars(base):
                    source = inspect.getsource(getattr(base, method))
                    names |= set(re.findall(r'(?:init_|local_)?kwargs\.(?:pop|get|setdefault)\(\s*"(\w+)"', source))
                    names |= set(re.findall(r'"(\w+)" in (?:init_|local_)?kwargs', source))
    return names


def tokenizer_settings():
    """Settings of tokenizer_config.json."""
    fixed = {
        "tokenizer_class", "chat_template", "added_tokens_decoder", "extra_special_tokens", "additional_special_tokens",
        "init_inputs", "auto_map", "add_prefix_space", "add_bos_token", "add_eos_token", "legacy", "use_default_system_prompt",
        "spaces_between_special_tokens", "sp_model_kwargs", "errors", "do_lower_case", "is_local", "local_files_only",
    }
    arguments = {"vocab_file", "merges_file", "tokenizer_file", "gguf_file", "tokenizer_object", "name_or_path"}
    not_in_files = {"_commit_hash", "_from_auto", "_from_pipeline", "cache_dir", "token", "revision", "proxies", "subfolder"}
    not_in_files |= {"_json_padding", "_json_truncation", "_spm_precompiled_charsmap", "post_processor", "tokenizer", "tokenizer_object"}
    return sorted((popped(PreTrainedTokenizerFast) | fixed | arguments | set(PreTrainedTokenizerFast.SPECIAL_TOKENS_ATTRIBUTES)) - not_in_files)


def parts(module, base, made):
    """Types of one kind of part of a tokenizer.json, each with its fields and their defaults."""
    out = {}
    for name, cls in sorted(vars(module).items()):
        if not (inspect.isclass(cls) and issubclass(cls, base) and cls is not base):
            continue
        part = made[name]() if name in made else cls()
        state = json.loads(part.__getstate__())
        state.pop("type", None)
        out[name] = {key: None if key in ("vocab", "merges", "special_tokens", "precompiled_charsmap") else value for key, value in state.items()}
    return out


def tokenizer_parts():
    """Everything that a tokenizer.json may hold."""
    whole = json.loads(tokenizers.Tokenizer(models.BPE()).to_str())
    charsmap = b"\x04\x00\x00\x00\x00\x00\x00\x00"
    return {
        "": {key: None if key == "model" else value for key, value in whole.items()},
        "added_tokens": {"id": None, "content": None, "single_word": False, "lstrip": False, "rstrip": False, "normalized": True, "special": False},
        "truncation": {"direction": "Right", "max_length": 512, "strategy": "LongestFirst", "stride": 0},
        "padding": {"strategy": "BatchLongest", "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"},
        "model": parts(models, models.Model, {}),
        "normalizer": parts(
            normalizers,
            normalizers.Normalizer,
            {
                "Precompiled": lambda: Precompiled(charsmap),
                "Replace": lambda: normalizers.Replace(" ", "_"),
                "Sequence": lambda: normalizers.Sequence([]),
            },
        ),
        "pre_tokenizer": parts(
            pre_tokenizers,
            pre_tokenizers.PreTokenizer,
            {
                "CharDelimiterSplit": lambda: pre_tokenizers.CharDelimiterSplit(" "),
                "Sequence": lambda: pre_tokenizers.Sequence([]),
                "Split": lambda: pre_tokenizers.Split(Regex("a"), "isolated"),
            },
        ),
        "post_processor": parts(
            processors,
            processors.PostProcessor,
            {
                "BertProcessing": lambda: processors.BertProcessing(("a", 0), ("b", 1)),
                "RobertaProcessing": lambda: processors.RobertaProcessing(("a", 0), ("b", 1)),
                "Sequence": lambda: processors.Sequence([]),
            },
        ),
        "decoder": parts(
            decoders,
            decoders.Decoder,
            {
                "Replace": lambda: decoders.Replace(" ", "_"),
                "Sequence": lambda: decoders.Sequence([]),
            },
        ),
    }


class Precompiled:
    """Stands for the normaliser whose table can't be made by hand."""

    def __init__(self, table):
        """Takes the table, which is not used."""
        self.table = table

    def __getstate__(self):
        """The state that the tokenizers library would give, without the table."""
        return json.dumps({"type": "Precompiled", "precompiled_charsmap": None})


def keys(cls):
    """Constants of a class of keys, nested classes included."""
    out = []
    for value in vars(cls).values():
        if isinstance(value, str) and "." in value:
            out.append(value)
        elif inspect.isclass(value):
            out += keys(value)
    return out


def gguf_keys():
    """Keys of the gguf package but those of vision and audio encoders."""
    wanted = sorted({key for key in keys(Keys) if not key.startswith(("clip.", "diffusion.", "xielu."))})
    # llama.cpp reads these; the package has no constants for them.
    wanted += ["{arch}.hidden_activation", "{arch}.rope.scale_linear", "tokenizer.ggml.cls_token_id"]
    wanted += ["tokenizer.ggml.normalizer.lowercase", "tokenizer.ggml.normalizer.strip_accents"]
    return sorted(set(wanted) - {"gguf.constants", "Keys.LLM"})


def main():
    """Writes known_fields.json."""
    config_classes = {
        "LlamaForCausalLM": config(LlamaConfig),
        "Qwen2ForCausalLM": config(Qwen2Config),
        "Qwen3ForCausalLM": config(Qwen3Config),
        "BitNetForCausalLM": config(BitNetConfig),
        "Gemma3ForCausalLM": config(Gemma3TextConfig),
        "BitnetForCausalLM": config(LlamaConfig) | LEGACY_BITNET,
    }
    generation = {name: plain(value) for name, value in GenerationConfig().to_dict().items()}
    generation |= {name: plain(value) for name, value in GenerationConfig._get_default_generation_params().items()}
    generation["transformers_version"] = None
    packages = ["transformers", "tokenizers", "peft", "gguf"]
    out = {
        "versions": {name: version(name) for name in packages},
        "config.json": config_classes,
        "rope_parameters": sorted(RopeParameters.__annotations__) + ["type"],
        "quantization_config": init_defaults(BitNetQuantConfig) | {"quant_method": "bitnet"},
        "generation_config.json": generation,
        "tokenizer_config.json": tokenizer_settings(),
        "special_tokens_map.json": sorted({*PreTrainedTokenizerFast.SPECIAL_TOKENS_ATTRIBUTES, "additional_special_tokens", "extra_special_tokens"}),
        "tokenizer.json": tokenizer_parts(),
        "adapter_config.json": defaults(LoraConfig),
        "gguf": gguf_keys(),
    }
    OUT.write_text(json.dumps(out, indent=1, ensure_ascii=False, sort_keys=True) + "\n")


if __name__ == "__main__":
    main()
