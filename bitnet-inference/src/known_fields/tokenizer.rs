//! Fields of `tokenizer_config.json` and `special_tokens_map.json`.

use serde_json::{Map, Value};

use super::{EMPTY, FALSE, Fields, Findings, NEVER, Refusal, assumed, read_by, shown, unused};

/// Tokens of one file that are listed one by one; the rest are counted.
const MAX_TOKENS: usize = 4;

const CUTTING: &str = "tokenizer.json defines how text is cut";
const POSITIONS: &str = "no pair of texts, no padding, no truncation: one text is read whole";
const METADATA: &str = "metadata";
const REMOTE: &str = "remote code is never run";
const SPELLING: &str = "a text is written as its tokens spell it";
const ANSWERS: &str = "answers are shown as the model writes them";
const ELSEWHERE: &str = "an argument of transformers' constructor; files are found by their names";

const CONFIG: &[Fields] = &[
    read_by(&["chat_template", "bos_token", "eos_token", "unk_token"], "`chat`, `convert`"),
    read_by(&["pad_token"], "`chat`, `convert`"),
    read_by(&["sep_token", "cls_token", "mask_token"], "`chat`"),
    read_by(&["add_bos_token", "add_eos_token"], "compared with tokenizer.json, which is followed"),
    read_by(&["added_tokens_decoder"], "compared with tokenizer.json, which is followed"),
    read_by(&["additional_special_tokens"], "compared with tokenizer.json, which is followed"),
    read_by(&["extra_special_tokens"], "compared with tokenizer.json, which is followed"),
    assumed(&["split_special_tokens"], FALSE, "special tokens in a prompt are read as tokens"),
    assumed(&["chat_control_tokens"], EMPTY, "special tokens in messages are read as tokens"),
    assumed(&["fix_mistral_regex"], FALSE, "text is cut as tokenizer.json defines"),
    read_by(&["model_specific_special_tokens"], "`chat`"),
    read_by(&["tokenizer_class"], "`chat`: its default special tokens"),
    assumed(&["response_template"], NEVER, ANSWERS),
    unused(&["response_schema"], ANSWERS),
    unused(&["add_prefix_space", "legacy", "do_lower_case", "sp_model_kwargs", "backend"], CUTTING),
    unused(&["unk_id", "vocab", "merges"], CUTTING),
    unused(
        &["model_max_length"],
        "a length at which transformers warns; the context is `max_position_embeddings`",
    ),
    unused(
        &["max_len"],
        "a length at which transformers warns; the context is `max_position_embeddings`",
    ),
    unused(&["max_length", "stride", "truncation_side", "truncation_strategy"], POSITIONS),
    unused(&["tokenizer_truncation", "padding_side", "pad_to_multiple_of"], POSITIONS),
    unused(&["pad_token_type_id", "tokenizer_padding", "model_input_names"], POSITIONS),
    unused(&["clean_up_tokenization_spaces"], SPELLING),
    unused(&["clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"], SPELLING),
    unused(&["spaces_between_special_tokens"], SPELLING),
    unused(&["errors"], "bytes that are not UTF-8 become U+FFFD"),
    unused(&["use_default_system_prompt"], "the chat template defines it"),
    unused(&["init_inputs", "vocab_file", "merges_file", "tokenizer_file", "gguf_file"], ELSEWHERE),
    unused(&["files_loaded", "is_local", "local_files_only"], ELSEWHERE),
    unused(&["auto_map"], REMOTE),
    unused(&["verbose", "name_or_path", "processor_class", "transformers_version"], METADATA),
];

const SPECIAL_TOKENS: &[Fields] = &[
    read_by(&["bos_token"], "`chat`, where tokenizer_config.json has no `added_tokens_decoder`"),
    read_by(&["eos_token"], "`chat`, where tokenizer_config.json has no `added_tokens_decoder`"),
    read_by(&["unk_token"], "`chat`, where tokenizer_config.json has no `added_tokens_decoder`"),
    read_by(&["pad_token"], "`chat`, where tokenizer_config.json has no `added_tokens_decoder`"),
    read_by(&["sep_token"], "`chat`, where tokenizer_config.json has no `added_tokens_decoder`"),
    read_by(&["cls_token"], "`chat`, where tokenizer_config.json has no `added_tokens_decoder`"),
    read_by(&["mask_token"], "`chat`, where tokenizer_config.json has no `added_tokens_decoder`"),
    read_by(&["additional_special_tokens"], "compared with tokenizer.json, which is followed"),
    read_by(&["extra_special_tokens"], "compared with tokenizer.json, which is followed"),
];

#[cfg(test)]
pub(super) const TABLES: &[(&str, &str, &[Fields])] =
    &[("tokenizer_config.json", "", CONFIG), ("special_tokens_map.json", "", SPECIAL_TOKENS)];

/// What a tokenizer does, as far as the files beside it speak of it.
pub(crate) struct TokenizerView<'a> {
    /// The id of a token that the tokenizer finds in a text.
    pub(crate) id_of: &'a dyn Fn(&str) -> Option<u32>,
    /// Whether it puts tokens before a text, and after it, if that is known.
    pub(crate) puts: Option<(bool, bool)>,
}

/// Assumptions about the fields of a `tokenizer_config.json`.
///
/// # Errors
/// The first field whose value is not obeyed and would change the prompt.
pub(crate) fn tokenizer_config(
    value: &Value,
    file: &str,
    tokenizer: Option<&TokenizerView<'_>>,
) -> Result<Vec<String>, Refusal> {
    let mut found = Findings::new(file);
    let Some(fields) = value.as_object() else { return Ok(Vec::new()) };
    for (name, value) in fields {
        // Any further `NAME_token` is a name that templates have.
        let named = name.ends_with("_token") && text_of(value).is_some();
        if !named || super::decision(&[CONFIG], name).is_some() {
            found.field(&[CONFIG], name, &shown(name), value)?;
        }
    }
    if let Some(tokenizer) = tokenizer {
        around(fields, tokenizer, &mut found);
        added_tokens(fields, tokenizer, &mut found);
        special_tokens(fields, tokenizer, &mut found);
    }
    Ok(found.finish())
}

/// Assumptions about a `special_tokens_map.json` beside the `tokenizer_config.json` of the same folder.
///
/// # Errors
/// The first field whose value is not obeyed and would change the prompt.
pub(crate) fn special_tokens_map(
    value: &Value,
    file: &str,
    beside: Option<&Value>,
    tokenizer: Option<&TokenizerView<'_>>,
) -> Result<Vec<String>, Refusal> {
    let mut found = Findings::new(file);
    let Some(fields) = value.as_object() else { return Ok(Vec::new()) };
    for (name, value) in fields {
        found.field(&[SPECIAL_TOKENS], name, &shown(name), value)?;
        let other = beside.and_then(|beside| text_of(beside.get(name)?));
        if let (Some(here), Some(there)) = (text_of(value), other)
            && here != there
        {
            let decoder = beside.and_then(|beside| beside.get("added_tokens_decoder"));
            let taken = if decoder.is_some() { "latter" } else { "former" };
            found.lines.push(format!(
                "{file}: {name} is {:?}, in tokenizer_config.json {:?}: the {taken} is taken",
                shown(here),
                shown(there)
            ));
        }
    }
    if let Some(tokenizer) = tokenizer {
        special_tokens(fields, tokenizer, &mut found);
    }
    Ok(found.finish())
}

/// The text of a token, which is a string or an object with `content`.
fn text_of(token: &Value) -> Option<&str> {
    token.as_str().or_else(|| token.get("content")?.as_str())
}

/// Compares what is put around a text with what tokenizer.json does.
fn around(fields: &Map<String, Value>, tokenizer: &TokenizerView<'_>, found: &mut Findings<'_>) {
    let Some((before, after)) = tokenizer.puts else { return };
    let sides = [("add_bos_token", before, "before"), ("add_eos_token", after, "after")];
    for (name, puts, side) in sides {
        let Some(wanted) = fields.get(name).and_then(Value::as_bool) else { continue };
        if wanted != puts {
            let does = if puts { "puts a token" } else { "puts no token" };
            found.lines.push(format!(
                "{}: {name} is {wanted}, but tokenizer.json {does} {side} a text: tokenizer.json is followed",
                found.file
            ));
        }
    }
}

/// Compares the tokens that the settings add with those of tokenizer.json.
fn added_tokens(
    fields: &Map<String, Value>,
    tokenizer: &TokenizerView<'_>,
    found: &mut Findings<'_>,
) {
    let Some(added) = fields.get("added_tokens_decoder").and_then(Value::as_object) else { return };
    let wrong = added.iter().filter_map(|(id, token)| {
        let text = text_of(token)?;
        let here = (tokenizer.id_of)(text);
        (here.map(|id| id.to_string()).as_ref() != Some(id)).then(|| match here {
            None => format!("{:?} (id {}) is not in tokenizer.json", shown(text), shown(id)),
            Some(other) => {
                format!("{:?} has id {}, in tokenizer.json {other}", shown(text), shown(id))
            }
        })
    });
    list(found, "added_tokens_decoder", wrong, "tokenizer.json is followed");
}

/// Finds special tokens that tokenizer.json does not have.
fn special_tokens(
    fields: &Map<String, Value>,
    tokenizer: &TokenizerView<'_>,
    found: &mut Findings<'_>,
) {
    for name in ["additional_special_tokens", "extra_special_tokens"] {
        let Some(value) = fields.get(name) else { continue };
        let named = value.as_object().into_iter().flat_map(Map::values);
        let tokens = value.as_array().into_iter().flatten().chain(named).filter_map(text_of);
        let missing = tokens
            .filter(|token| (tokenizer.id_of)(token).is_none())
            .map(|token| format!("{:?} is not in tokenizer.json", shown(token)));
        list(found, name, missing, "it is read as text");
    }
}

/// Writes a line for each of the first few differences, and one for the rest.
fn list(
    found: &mut Findings<'_>,
    field: &str,
    differences: impl Iterator<Item = String>,
    instead: &str,
) {
    let mut count = 0usize;
    for difference in differences {
        count += 1;
        if count <= MAX_TOKENS {
            found.lines.push(format!("{}: {field}: {difference}: {instead}", found.file));
        }
    }
    if count > MAX_TOKENS {
        found.lines.push(format!("{}: {field}: {} more of these", found.file, count - MAX_TOKENS));
    }
}
