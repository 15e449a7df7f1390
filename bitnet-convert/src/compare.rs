//! Comparison of two models apart from weights: constants, special tokens, end tokens, chat template, and token ids and
//! decoded text of samples. A difference is a message for the user.

use std::collections::BTreeSet;

use bitnet_formats::names::Part;
use bitnet_inference::loader::{Container, ModelText};
use bitnet_inference::models::{LimitReason, ModelConfig, RopeScaling, WeightRotations};
use bitnet_inference::tokenizer::{EncodeOptions, Tokenizer};
use bitnet_inference::{InferenceError, LoadOptions, ModelFiles};

use crate::options::Target;
use crate::plan::Plan;
use crate::special_ids::{Lookup, Settings, SpecialIds};
use crate::tensors::Kind;
use crate::{Error, Result};

/// Sample texts on which tokenizers differ: contractions, digits, accents, other scripts, spaces, line breaks, code.
const SAMPLES: [&str; 6] = [
    "It's 12345 degrees — naïve  Straße, 日本語, привет\n\n\tx = foo_bar(1);  \u{1f600} WE'LL",
    "Once upon a time, there was a little girl named Lily.",
    "   three spaces before, and after   ",
    "def f(x):\n    return x**2  # 1,000.50\r\n\r\n",
    "ﬁ e\u{301} 가힣 ١٢٣ 😀👍🏽 \u{200b}\u{a0}end",
    "a",
];

/// Special tokens with equal ids; `eot` and `eom` are compared as end tokens, `unk` belongs to the tokenizer.
const COMPARED: [&str; 6] = ["bos", "eos", "pad", "sep", "cls", "mask"];

impl Lookup for Tokenizer {
    fn id(&self, token: &str) -> Option<u32> {
        self.id_of(token)
    }

    fn special(&self, id: u32) -> Option<&str> {
        self.token_text(id).filter(|_| self.is_special(id))
    }
}

/// A folder without a tokenizer.
struct NoTokens;

impl Lookup for NoTokens {
    fn id(&self, _token: &str) -> Option<u32> {
        None
    }

    fn special(&self, _id: u32) -> Option<&str> {
        None
    }
}

/// Rejects a result that would be read differently from the source. Differences only in text with special tokens are
/// returned as remarks.
pub(crate) fn same_model(
    source: &ModelFiles,
    written: &ModelFiles,
    plan: &Plan,
    load: &LoadOptions,
) -> Result<std::result::Result<Vec<String>, String>> {
    let found = constants(source, written, plan).or_else(|| heads(written, plan));
    if let Some(problem) = found {
        return Ok(Err(problem));
    }
    // A template from the command line is in no file.
    let load = LoadOptions { chat_template: None, ..load.clone() };
    let (before, after) = (source.text(&load)?, written.text(&load)?);
    let rows = source.config().vocab_size;
    let ids = (ids_of(source, &before, rows)?, ids_of(written, &after, rows)?);
    let found = special_tokens(&ids.0, &ids.1)
        .or_else(|| end_tokens((&before, &ids.0), (&after, &ids.1), rows));
    if let Some(problem) = found {
        return Ok(Err(problem));
    }
    if before.template.is_some() && before.template != after.template {
        return Ok(Err("its chat template differs from the source's".into()));
    }
    for (name, template) in &before.named_templates {
        if after.named_templates.get(name) != Some(template) {
            return Ok(Err(format!("its chat template {name} differs from the source's")));
        }
    }
    samples(&before, &after)
}

/// Returns the first difference in constants.
fn constants(source: &ModelFiles, written: &ModelFiles, plan: &Plan) -> Option<String> {
    let mut meant = source.config().clone();
    meant.rope_order = plan.orders.rope;
    if let Some(recurrent) = &mut meant.recurrent {
        recurrent.order = plan.orders.heads;
    }
    if plan.target == Target::Gguf
        && let Some(factors) = meant.frequency_factors()
    {
        meant.rope_scaling = RopeScaling::Factors(factors);
    }
    if plan.target == Target::Gguf {
        // GGUF has no key for dynamic RoPE; a remark reports it.
        meant.context_limit =
            meant.context_limit.filter(|limit| limit.reason != LimitReason::DynamicRope);
    }
    let read = written.config();
    let named = facts(&meant).into_iter().zip(facts(read)).find(|(meant, read)| meant.1 != read.1);
    if let Some(((name, meant), (_, read))) = named {
        return Some(format!("its {name} would be {read} instead of {meant}"));
    }
    // A target that holds heads grouped needs no word for inputs that are.
    let is_same = |meant: &WeightRotations, read: &WeightRotations| {
        meant.by_weight == read.by_weight
            && (plan.target != Target::Gguf || meant.grouped_values == read.grouped_values)
    };
    match (&meant.rotations, &read.rotations) {
        (Some(before), Some(after)) if is_same(before, after) => {
            meant.rotations = read.rotations.clone();
        }
        (None, None) => {}
        _ => return Some("its rotated weights differ from the source's".into()),
    }
    if *read != meant {
        return Some("its RoPE frequencies differ from the source's".into());
    }
    let norms = plan.works.iter().any(|work| work.tensor.name.part == Part::InputNorm);
    let (read, meant) = (written.input_norm_eps(), source.input_norm_eps());
    (norms && read != meant)
        .then(|| format!("the epsilon of input norms would be {read} instead of {meant}"))
}

/// Returns the values of a configuration with their names.
fn facts(config: &ModelConfig) -> [(&'static str, String); 24] {
    let c = config;
    let scaling = match &c.rope_scaling {
        RopeScaling::None => "none".to_owned(),
        RopeScaling::Linear(factor) => format!("linear by {factor}"),
        RopeScaling::Llama3 { factor, .. } => format!("llama3 by {factor}"),
        RopeScaling::Yarn(yarn) => format!("{yarn:?}"),
        RopeScaling::LongRope(long) => format!("{long:?}"),
        RopeScaling::Factors(factors) => {
            format!("a factor for each of {} frequencies", factors.len())
        }
    };
    [
        ("architecture", c.architecture.to_string()),
        ("vocabulary size", c.vocab_size.to_string()),
        ("hidden size", c.hidden.to_string()),
        ("number of layers", c.layers.to_string()),
        ("number of attention heads", c.heads.to_string()),
        ("number of key-value heads", c.kv_heads.to_string()),
        ("head size", c.head_dim.to_string()),
        ("feed-forward size", c.intermediate.to_string()),
        ("windows of attention", format!("{:?}", c.local)),
        ("divisor of attention", format!("{:?}", c.query_scalar)),
        ("head", if c.has_head { "there" } else { "absent" }.into()),
        ("mixtures of experts", format!("{:?}", c.mixture)),
        ("recurrent layers", format!("{:?}", c.recurrent)),
        ("number of layers that draft tokens", c.draft_layers.to_string()),
        ("number of such layers that are read", c.drafts_read.to_string()),
        ("factors on embeddings, residuals and logits", format!("{:?}", c.scales)),
        ("number of rotated components", c.rope_dim.to_string()),
        ("context length", c.context.to_string()),
        (
            "longest sequence",
            c.context_limit.map_or("not limited".into(), |limit| limit.positions.to_string()),
        ),
        ("epsilon of norms", c.norm_eps.to_string()),
        ("activation", c.activation.to_string()),
        ("RoPE base", c.rope_theta.to_string()),
        ("RoPE scaling", scaling),
        ("order of RoPE components", format!("{:?}", c.rope_order)),
    ]
}

/// Checks that the result has a separate head if and only if one is written.
fn heads(written: &ModelFiles, plan: &Plan) -> Option<String> {
    let meant = plan.works.iter().any(|work| work.tensor.kind == Kind::Head);
    let has = written.tied() != Some(true) && matches!(written.stored_bytes("output"), Ok(Some(_)));
    let name = |own| if own { "a separate matrix" } else { "the embedding table" };
    (meant != has).then(|| format!("its head would be {} instead of {}", name(has), name(meant)))
}

/// Returns the first difference in special tokens.
fn special_tokens(meant: &SpecialIds, read: &SpecialIds) -> Option<String> {
    let kind = COMPARED.into_iter().find(|kind| {
        let meant = meant.get(kind);
        meant.is_some() && meant != read.get(kind)
    })?;
    let shown =
        |ids: &SpecialIds| ids.get(kind).map_or("no token".into(), |id| format!("token {id}"));
    Some(format!("its {kind} token would be {} instead of {}", shown(read), shown(meant)))
}

fn ids_of(files: &ModelFiles, text: &ModelText, rows: usize) -> Result<SpecialIds> {
    match files.container() {
        Container::Gguf(file) => Ok(SpecialIds::of_gguf(file.metadata(), rows)),
        Container::HuggingFace { folder, config, .. } | Container::Onnx { folder, config, .. } => {
            let settings = Settings::read(folder, config)?;
            let vocabulary: &dyn Lookup = match &text.tokenizer {
                Some(tokenizer) => tokenizer,
                None => &NoTokens,
            };
            Ok(SpecialIds::of_folder(&settings, vocabulary, rows))
        }
    }
}

/// Checks that the same tokens end a text, as far as the model can generate them.
fn end_tokens(
    meant: (&ModelText, &SpecialIds),
    read: (&ModelText, &SpecialIds),
    rows: usize,
) -> Option<String> {
    let ends = |(text, ids): (&ModelText, &SpecialIds)| -> BTreeSet<u32> {
        let all = text.end_tokens.iter().copied().chain(ids.ends());
        all.filter(|&id| (id as usize) < rows).collect()
    };
    let (meant, read) = (ends(meant), ends(read));
    (meant != read).then(|| {
        let list =
            |ids: &BTreeSet<u32>| ids.iter().map(u32::to_string).collect::<Vec<_>>().join(", ");
        format!(
            "its end tokens would be [{}] instead of [{}]; GGUF files name three (eos, eot, eom)",
            list(&read),
            list(&meant)
        )
    })
}

/// Checks that both tokenizers encode and decode the sample texts alike, if both models have one.
fn samples(
    before: &ModelText,
    after: &ModelText,
) -> Result<std::result::Result<Vec<String>, String>> {
    let (Some(before), Some(after)) = (&before.tokenizer, &after.tokenizer) else {
        return Ok(match (&before.tokenizer, &after.tokenizer) {
            (Some(_), None) => Err("it would have no tokenizer, and the source has one".into()),
            _ => Ok(Vec::new()),
        });
    };
    let ids = |tokenizer: &Tokenizer, text: &str, how: EncodeOptions| -> Result<Vec<u32>> {
        tokenizer.encode(text, how).map_err(|error| Error::from(InferenceError::from(error)))
    };
    let text_of = |tokenizer: &Tokenizer, ids: &[u32]| -> Result<String> {
        tokenizer.decode(ids, false).map_err(|error| Error::from(InferenceError::from(error)))
    };
    for text in SAMPLES {
        for add_special in [true, false] {
            let how = EncodeOptions { add_special, parse_special: false };
            let (meant, read) = (ids(before, text, how)?, ids(after, text, how)?);
            if meant != read {
                let at = meant.iter().zip(&read).take_while(|(meant, read)| meant == read).count();
                return Ok(Err(format!(
                    "its tokenizer encodes the sample text {text:?} differently from token {at}"
                )));
            }
            let (meant, read) = (text_of(before, &meant)?, text_of(after, &read)?);
            if meant != read {
                return Ok(Err(format!(
                    "the tokens of the sample text {text:?} would be decoded as {read:?} instead of {meant:?}"
                )));
            }
        }
    }
    let ends = before.end_of_generation_ids().iter().copied().chain(before.bos_id());
    let marks: Vec<&str> = ends.filter_map(|id| before.token_text(id)).collect();
    let mut remarks = Vec::new();
    for mark in marks {
        let text = format!("{mark}Hi there{mark}\n you");
        let how = EncodeOptions { add_special: false, parse_special: true };
        if ids(before, &text, how)? != ids(after, &text, how)? {
            remarks.push(format!("text next to the special token {mark} is encoded differently"));
        }
    }
    Ok(Ok(remarks))
}
