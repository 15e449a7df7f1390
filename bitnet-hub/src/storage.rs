//! What the name of a GGUF file says: what the file is for, and how its weights are stored.
//!
//! Names are read as words between `-`, `.`, `_` and `/`: `Ternary-Bonsai-8B-Q2_0_g64.gguf` is a model in blocks of 64,
//! `Ternary-Bonsai-2-27B-mmproj-Q8_0.gguf` an image projector.

/// What a GGUF file is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// A model, maybe with a layer that drafts tokens.
    Model,
    /// A layer that drafts tokens for a model, alone.
    DraftLayer,
    /// A model that drafts tokens for another.
    DraftModel,
    /// The part of a model that reads images or sound.
    Projector,
    /// Statistics for quantisation.
    Importance,
    /// Corrections of keys and values.
    KvBias,
    /// An adapter.
    Adapter,
}

impl Role {
    /// Returns the role of the file at `path`.
    pub fn of(path: &str) -> Self {
        let name = stem_of(path).rsplit('/').next().unwrap_or_default().to_lowercase();
        let words: Vec<&str> = name.split(['-', '_', '.']).collect();
        let has = |wanted: &[&str]| words.iter().any(|word| wanted.contains(word));
        if has(&["mmproj"]) || name.starts_with("mmproj") {
            Self::Projector
        } else if name.contains("imatrix") {
            Self::Importance
        } else if words.windows(2).any(|pair| pair == ["kv", "bias"]) {
            Self::KvBias
        } else if has(&["lora", "adapter"]) {
            Self::Adapter
        } else if words.first() == Some(&"mtp") {
            Self::DraftLayer
        } else if has(&["dspark", "dflash", "eagle", "eagle3", "draft", "drafter"]) {
            Self::DraftModel
        } else {
            Self::Model
        }
    }

    /// Returns a noun with its article.
    pub fn name(self) -> &'static str {
        match self {
            Self::Model => "a model",
            Self::DraftLayer => "a layer that drafts tokens",
            Self::DraftModel => "a model that drafts tokens for another",
            Self::Projector => "an image or audio projector",
            Self::Importance => "statistics for quantisation",
            Self::KvBias => "corrections of keys and values",
            Self::Adapter => "an adapter",
        }
    }
}

/// Returns whether a name says that the file holds a layer that drafts tokens, with or without its model.
pub(crate) fn mentions_draft_layer(path: &str) -> bool {
    words_of(path).iter().any(|word| word == "mtp")
}

/// How the weights of a model are stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Storage {
    /// A ternary type that the engine reads.
    Ternary(Ternary),
    /// A safetensors folder. Its settings say how the weights are stored.
    Safetensors,
    /// Ordinary numbers that the engine reads: the name of the type.
    Dense(&'static str),
    /// The name does not say it.
    Unknown,
    /// A type that the engine does not read.
    Unreadable,
}

/// A ternary type in file names.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Ternary {
    /// The type's name.
    pub name: &'static str,
    /// How many weights share a scale; `None` for all of a row or a tensor.
    pub group: Option<u32>,
    /// Place in the order of preference.
    place: u32,
    /// Prepared weights in hundredths of the file.
    prepared_percent: u64,
}

const fn ternary(
    name: &'static str,
    group: Option<u32>,
    place: u32,
    prepared_percent: u64,
) -> Ternary {
    Ternary { name, group, place, prepared_percent }
}

/// The ternary types. Types of one place are prepared to layouts of one size, so they run equally fast: 2 bits for
/// a weight and 4 bytes for a scale, whatever the file has. I2_S is behind the types that state their layout, Q1_0, of two
/// values, behind all.
const TERNARY: [Ternary; 12] = [
    ternary("TQ1_0", Some(256), 0, 126),
    ternary("TQ2_0", Some(256), 0, 105),
    ternary("IQ1_BN", None, 0, 130),
    ternary("IQ2_BN", None, 0, 110),
    ternary("IQ2_BN_R4", None, 0, 110),
    ternary("PTQ1_0", Some(128), 1, 129),
    ternary("PQ2_0", Some(128), 1, 106),
    ternary("Q2_0_g128", Some(128), 1, 106),
    ternary("Q2_0_g64", Some(64), 2, 111),
    ternary("Q2_0", Some(64), 2, 111),
    ternary("I2_S", None, 3, 110),
    ternary("Q1_0", Some(128), 4, 200),
];

/// The types of ordinary numbers that the engine reads, with other names of them.
const DENSE: [(&str, &str); 8] = [
    ("bf16", "BF16"),
    ("f16", "F16"),
    ("fp16", "F16"),
    ("f32", "F32"),
    ("fp32", "F32"),
    ("q8_0", "Q8_0"),
    ("q6_k", "Q6_K"),
    ("q4_0", "Q4_0"),
];

/// Types without a number in their names that the engine does not read.
const UNREADABLE: [&str; 7] = ["tl1", "tl2", "mxfp4", "nvfp4", "i8_s", "fp8", "ud"];

impl Storage {
    /// Returns the storage that a file's name states.
    pub fn of(path: &str) -> Self {
        // The files of one model leave out the zero: `Q2_g64`.
        let stem = stem_of(path).to_lowercase().replace("q2_g", "q2_0_g");
        let words: Vec<&str> = stem.split(['-', '.', '/']).collect();
        // In `ggml_model_f16` and `model_tq2_0` the type follows an underscore.
        let is = |word: &str, kind: &str| {
            word == kind || word.strip_suffix(kind).is_some_and(|rest| rest.ends_with('_'))
        };
        let says = |kind: &str| words.iter().any(|word| is(word, kind));
        let ternary = TERNARY.iter().find(|kind| says(&kind.name.to_lowercase()));
        let dense = DENSE.iter().find(|(kind, _)| says(kind));
        let is_known = |word: &str| {
            TERNARY.iter().any(|kind| is(word, &kind.name.to_lowercase()))
                || DENSE.iter().any(|(kind, _)| is(word, kind))
        };
        let is_foreign = words.iter().any(|word| is_quantized(word) && !is_known(word))
            || UNREADABLE.iter().any(|kind| says(kind));
        match (ternary, dense) {
            _ if is_foreign => Self::Unreadable,
            (Some(kind), _) => Self::Ternary(*kind),
            (None, Some((_, name))) => Self::Dense(name),
            (None, None) => Self::Unknown,
        }
    }

    /// Returns the name of the type, as published files spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Ternary(kind) => kind.name,
            Self::Safetensors => "safetensors",
            Self::Dense(name) => name,
            Self::Unknown => "unknown type",
            Self::Unreadable => "unsupported type",
        }
    }

    /// Returns the place in the order of preference: lower is better. `fine` says that other files of the repository have
    /// scales for 128 weights or fewer, which types with coarser scales lose.
    pub(crate) fn place(self, fine: bool) -> u32 {
        match self {
            Self::Ternary(kind) if fine && kind.group.is_none_or(|group| group > 128) => {
                kind.place + 5
            }
            Self::Ternary(kind) => kind.place,
            Self::Safetensors => 10,
            Self::Dense("BF16" | "F16" | "F32") => 11,
            Self::Dense("Q8_0") => 12,
            Self::Dense("Q6_K") => 13,
            Self::Dense(_) => 14,
            Self::Unknown => 15,
            Self::Unreadable => 16,
        }
    }

    /// Returns whether the type shows that the weights have scales for 128 of them or fewer.
    pub(crate) fn is_fine(self) -> bool {
        match self {
            Self::Ternary(kind) => {
                matches!(kind.name, "PTQ1_0" | "PQ2_0" | "Q2_0_g128" | "Q2_0_g64")
            }
            _ => false,
        }
    }

    /// Returns the memory in bytes that a model with `bytes` of files needs: prepared weights, an eighth of that for keys,
    /// values and states of a conversation, and the program with a vocabulary and scratch.
    pub fn memory(self, bytes: u64) -> u64 {
        let percent = match self {
            Self::Ternary(kind) => kind.prepared_percent,
            Self::Safetensors | Self::Unknown => 115,
            Self::Dense(_) | Self::Unreadable => 100,
        };
        let prepared = bytes / 100 * percent + bytes % 100 * percent / 100;
        prepared.saturating_add(prepared / 8).saturating_add(PROGRAM)
    }

    /// Returns whether [`Storage::memory`] is a bound from above: 16-bit numbers that are all ternary take a seventh.
    pub fn is_bound(self) -> bool {
        matches!(self, Self::Safetensors | Self::Dense("BF16" | "F16" | "F32") | Self::Unknown)
    }
}

/// The program with a vocabulary and the scratch of a prompt, in bytes.
const PROGRAM: u64 = 160 << 20;

/// Returns the path without ending and number of the part.
pub(crate) fn stem_of(path: &str) -> &str {
    let stem = path.strip_suffix(".gguf").unwrap_or(path);
    crate::choose::split_name(stem, "").map_or(stem, |(name, ..)| name)
}

fn words_of(path: &str) -> Vec<String> {
    let stem = stem_of(path).to_lowercase();
    stem.split(['-', '.', '/', '_']).map(str::to_owned).collect()
}

/// Returns what a name says apart from storage types, to tell different models from one in several types.
pub(crate) fn model_of(path: &str) -> String {
    let name = stem_of(path).rsplit('/').next().unwrap_or_default().to_lowercase();
    let is_type = |word: &&str| {
        let said = Storage::of(word) != Storage::Unknown;
        said || ["mtp", "gguf", "ggml", "g64", "g128"].contains(word)
    };
    // `model_tq2_0` and `model_f16` are one model.
    let without_type = |word: &str| {
        let places = word.match_indices('_').map(|(place, _)| place);
        let place =
            places.clone().find(|&place| Storage::of(&word[place + 1..]) != Storage::Unknown);
        place.map_or_else(|| word.to_owned(), |place| word[..place].to_owned())
    };
    let words = name.split(['-', '.']).filter(|word| !is_type(word) || word.starts_with("ggml_"));
    words.map(without_type).collect::<Vec<_>>().join("-")
}

/// Returns whether a word names a quantised type: letters that end in `q`, a digit, and an underscore.
fn is_quantized(word: &str) -> bool {
    let of = |word: &str| {
        let letters = word.chars().take_while(char::is_ascii_alphabetic).count();
        let (letters, rest) = word.split_at(letters);
        letters.ends_with('q')
            && letters.len() <= 4
            && rest.starts_with(|c: char| c.is_ascii_digit())
            && rest.contains('_')
    };
    let places = word.match_indices('_').map(|(place, _)| place + 1);
    std::iter::once(0).chain(places).any(|place| of(&word[place..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn storages_are_read_from_published_names() {
        for (path, name) in [
            ("ggml-model-i2_s.gguf", "I2_S"),
            ("ggml-model-TQ1_0.gguf", "TQ1_0"),
            ("x.TQ2_0.gguf", "TQ2_0"),
            ("bitcpm4-1b-bf16.gguf", "BF16"),
            ("ggml_model_f32.gguf", "F32"),
            ("Ternary-Bonsai-8B-PQ2_0.gguf", "PQ2_0"),
            ("Ternary-Bonsai-8B-Q2_0.gguf", "Q2_0"),
            ("Ternary-Bonsai-8B-Q2_0_g64.gguf", "Q2_0_g64"),
            ("Ternary-Bonsai-8B-Q2_0_g128.gguf", "Q2_0_g128"),
            ("Ternary-Bonsai-27B-Q2_g64.gguf", "Q2_0_g64"),
            ("Ternary-Bonsai-2-27B-PTQ1_0.gguf", "PTQ1_0"),
            ("Ternary-Bonsai-2-27B-PQ2_0-MTP-Q8_0.gguf", "PQ2_0"),
            ("Ternary-Bonsai-2-27B-Abliterated-PQ2_0-MTP.gguf", "PQ2_0"),
            ("Ternary-Bonsai-2-27B-PQ2_0-mtp.gguf", "PQ2_0"),
            ("Bonsai-27B-Q1_0.gguf", "Q1_0"),
            ("model-iq2_bn_r4.gguf", "IQ2_BN_R4"),
            ("model-iq2_bn.gguf", "IQ2_BN"),
            ("TQ1_0/x-00001-of-00002.gguf", "TQ1_0"),
            ("maple-preview-tq2_0.gguf", "TQ2_0"),
            ("maple-preview-TQ2_0-head-Q4_K.gguf", "unsupported type"),
            ("DeepSeek-R1-UD-TQ1_0.gguf", "unsupported type"),
            ("m-IQ4_XS.gguf", "unsupported type"),
            ("m-Q4_K_M.gguf", "unsupported type"),
            ("Qwen3.8-27B-UD-Q2_K_XL.gguf", "unsupported type"),
            ("Hy-MT1.5-1.8B-STQ1_0.gguf", "unsupported type"),
            ("model-SPTQ1_0.gguf", "unsupported type"),
            ("ggml-model-tl2.gguf", "unsupported type"),
            ("m.Q8_0.gguf", "Q8_0"),
            ("m-Q4_0.gguf", "Q4_0"),
            ("model.gguf", "unknown type"),
        ] {
            assert_eq!(Storage::of(path).name(), name, "{path}");
        }
    }

    #[test]
    fn files_beside_a_model_are_told_from_it() {
        for (path, role) in [
            ("Ternary-Bonsai-2-27B-mmproj-Q8_0.gguf", Role::Projector),
            ("mmproj-F16.gguf", Role::Projector),
            ("mmproj_f16.gguf", Role::Projector),
            ("Ternary-Bonsai-27B-dspark-bf16.gguf", Role::DraftModel),
            ("Ternary-Bonsai-27B-dspark-dflash-Q4_0.gguf", Role::DraftModel),
            ("mtp-Qwen3.8-27B-Q8_0.gguf", Role::DraftLayer),
            ("Ternary-Bonsai-2-27B-PQ2_0-MTP.gguf", Role::Model),
            ("bonsai-kv-bias.gguf", Role::KvBias),
            ("imatrix.gguf", Role::Importance),
            ("my-lora-f16.gguf", Role::Adapter),
            ("dsparkling-8B-TQ2_0.gguf", Role::Model),
        ] {
            assert_eq!(Role::of(path), role, "{path}");
        }
    }

    #[test]
    fn a_model_in_several_types_is_one_model() {
        let same = [
            "Ternary-Bonsai-8B-Q2_0.gguf",
            "Ternary-Bonsai-8B-Q2_0_g64.gguf",
            "Ternary-Bonsai-8B-PQ2_0.gguf",
            "Ternary-Bonsai-8B-PQ2_0-MTP-Q8_0.gguf",
            "f16/Ternary-Bonsai-8B-F16-00001-of-00002.gguf",
        ];
        for path in same {
            assert_eq!(model_of(path), "ternary-bonsai-8b", "{path}");
        }
        assert_eq!(model_of("ggml_model_f16.gguf"), model_of("ggml_model_tq2_0.gguf"));
        assert_ne!(model_of("Ternary-Bonsai-4B-PQ2_0.gguf"), model_of(same[2]));
        assert_ne!(model_of("x-Abliterated-PQ2_0.gguf"), model_of("x-PQ2_0.gguf"));
    }

    #[test]
    fn estimates_hold_for_measured_runs() {
        // Peaks of resident memory with 64 to 80 tokens, and the sizes of the files in MiB.
        for (path, file, peak) in [
            ("2b-PQ2_0.gguf", 486, 713),
            ("27b-PTQ1_0.gguf", 5666, 7265),
            ("2b-tq2_0.gguf", 775, 844),
            ("2b-i2_s.gguf", 1128, 1215),
            ("8b-tq2_0.gguf", 2534, 2190),
        ] {
            let estimate = Storage::of(path).memory(file << 20) >> 20;
            let bounds = peak * 95 / 100..peak * 150 / 100;
            assert!(bounds.contains(&estimate), "{path}: {estimate} MiB, measured {peak}");
        }
    }
}
