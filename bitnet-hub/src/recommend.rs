//! Selection of the best model of a repository for a machine.
//!
//! Ternary storage types come first, unambiguous ones before I2_S, whose layout the file does not state; then
//! safetensors; then 16-bit and 32-bit numbers. The first model that fits into memory is selected. Unsupported types
//! are never selected, because loading would fail only after gigabytes of download.

use crate::choose::{Choice, Found, Selection, Wanted, choose, draft_layers, gguf_models};
use crate::error::{Error, Result};
use crate::name::Repository;

/// Estimated memory per 100 bytes of a file: weights, context and program. A model of 5.9 GB in blocks of 128 took 135.
const MEMORY_PERCENT: u64 = 135;

/// A selected model and the reason.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recommended {
    /// The files to download and the path to run.
    pub selection: Selection,
    /// The file name or `safetensors`, and the total size.
    pub choice: Choice,
    /// Estimated bytes of memory to run it, if its size is known.
    pub needs: Option<u64>,
    /// Whether it fits into memory, as far as known.
    pub fits: bool,
    /// A file with a layer that drafts tokens for it, beside it in the repository.
    pub draft: Option<Choice>,
    /// The reason for the selection.
    pub why: String,
}

/// The preference of a storage type: smaller is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    /// Ternary, with its index in [`TERNARY`].
    Ternary(usize),
    Safetensors,
    Plain,
    /// Unknown type.
    Unknown,
    /// A type without ternary support in the engine.
    Unreadable,
}

/// Ternary types in file names, best first.
const TERNARY: &[&str] =
    &["tq2_0", "tq1_0", "q2_0", "pq2_0", "ptq1_0", "iq2_bn", "iq2_bn_r4", "iq1_bn", "i2_s", "q1_0"];

/// Types of plain numbers.
const PLAIN: &[&str] = &["bf16", "f16", "fp16", "f32", "fp32"];

/// Returns the best model for a machine with `memory` free bytes (`None` if unknown). `files` are sorted by path.
///
/// # Errors
/// [`Error::NoModel`] if there is none, [`Error::NotRunnable`] if all types are unsupported.
pub fn recommend(
    repository: &Repository,
    files: &[Found],
    memory: Option<u64>,
) -> Result<Recommended> {
    let mut candidates = Vec::new();
    for model in gguf_models(files) {
        let selection = choose(repository, files, &Wanted::File(&model.file))?;
        candidates.push((form(&model.file), model, selection));
    }
    let without_gguf: Vec<Found> =
        files.iter().filter(|file| !file.path.ends_with(".gguf")).cloned().collect();
    if let Ok(selection) = choose(repository, &without_gguf, &Wanted::Model) {
        let sizes = without_gguf.iter().filter(|file| selection.paths.contains(&file.path));
        let bytes =
            sizes.map(|file| file.bytes).try_fold(0_u64, |sum, size| sum.checked_add(size?));
        let file = "safetensors".to_owned();
        candidates.push((Form::Safetensors, Choice { file, bytes }, selection));
    }
    let needs = |choice: &Choice| choice.bytes.map(|bytes| bytes / 100 * MEMORY_PERCENT);
    let fits = |choice: &Choice| match (needs(choice), memory) {
        (Some(needs), Some(memory)) => needs <= memory,
        _ => true,
    };
    let draft = draft_layers(files).into_iter().next();
    // If none fits, the smallest is selected.
    let order = |(form, choice, _): &(Form, Choice, Selection)| {
        let unreadable = *form == Form::Unreadable;
        let size = choice.bytes.unwrap_or(u64::MAX);
        let fits = fits(choice);
        (unreadable, !fits, if fits { 0 } else { size }, *form, size, choice.file.clone())
    };
    let number = candidates.len();
    if number > 0 && candidates.iter().all(|(form, ..)| *form == Form::Unreadable) {
        return Err(Error::NotRunnable {
            repository: repository.to_string(),
            choices: candidates.into_iter().map(|(_, choice, _)| choice).collect(),
        });
    }
    let Some((form, choice, selection)) = candidates.into_iter().min_by_key(order) else {
        // Lists the missing files.
        let selection = choose(repository, files, &Wanted::Model)?;
        let choice = Choice { file: selection.run.clone().unwrap_or_default(), bytes: None };
        let why = "the only model".to_owned();
        return Ok(Recommended { selection, choice, needs: None, fits: true, draft, why });
    };
    let fits = fits(&choice);
    let why = if number == 1 {
        "the only model of the repository".to_owned()
    } else {
        let reason = if fits { reason(form) } else { "the smallest; none fits into free memory" };
        format!("{reason}; selected from {number}, :FILE selects another")
    };
    let needs = needs(&choice);
    Ok(Recommended { selection, choice, needs, fits, draft, why })
}

fn reason(form: Form) -> &'static str {
    match form {
        Form::Ternary(_) => "a ternary storage type",
        Form::Safetensors => "safetensors with the model's own settings",
        Form::Plain => "dense weights, there is no ternary file",
        Form::Unknown => "the smallest",
        Form::Unreadable => "an unsupported type",
    }
}

fn form(path: &str) -> Form {
    let stem = path.to_lowercase();
    let stem = stem.strip_suffix(".gguf").unwrap_or(&stem);
    let words: Vec<&str> = stem.split(['-', '.', '/']).collect();
    let is = |kind: &&str| {
        words.contains(kind) || words.iter().any(|word| word.ends_with(&format!("_{kind}")))
    };
    // Files of Q2_0 may say how many weights share a scale.
    let without_group = |word: &&str| {
        let word = *word;
        let of_group = ["_g64", "_g128"].iter().find_map(|group| word.strip_suffix(group));
        of_group.unwrap_or(word).to_owned()
    };
    let storages: Vec<String> = words.iter().map(without_group).collect();
    if let Some(index) = TERNARY.iter().position(|kind| storages.iter().any(|word| word == kind)) {
        return Form::Ternary(index);
    }
    if PLAIN.iter().any(is) {
        return Form::Plain;
    }
    let quantized = |word: &&str| {
        let rest = word.strip_prefix("iq").or_else(|| word.strip_prefix('q'));
        rest.is_some_and(|rest| {
            rest.starts_with(|c: char| c.is_ascii_digit()) && rest.contains('_')
        })
    };
    if words.iter().any(quantized) { Form::Unreadable } else { Form::Unknown }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn best(files: &[(&str, u64)], memory: u64) -> Recommended {
        let repository = Repository::new("a/b").unwrap();
        let mut found: Vec<Found> = files
            .iter()
            .map(|(path, bytes)| Found { path: (*path).to_owned(), bytes: Some(*bytes) })
            .collect();
        found.sort_by(|a, b| a.path.cmp(&b.path));
        recommend(&repository, &found, Some(memory)).unwrap()
    }

    #[test]
    fn ternary_forms_come_first() {
        let files = [
            ("m-Q4_K_M.gguf", 500),
            ("m-TQ1_0.gguf", 400),
            ("m-f16.gguf", 3000),
            ("m-i2_s.gguf", 420),
            ("config.json", 1),
            ("model.safetensors", 900),
        ];
        let all = best(&files, 1 << 30);
        assert_eq!((all.choice.file.as_str(), all.fits), ("m-TQ1_0.gguf", true));
        assert!(all.why.contains("from 5"), "{}", all.why);
        let rest = best(&[files[0], files[2], files[4], files[5]], 1 << 30);
        assert_eq!(rest.choice, Choice { file: "safetensors".into(), bytes: Some(901) });
        assert_eq!(rest.selection.run, None);
        assert_eq!(best(&[files[0], files[2]], 1 << 30).choice.file, "m-f16.gguf");
    }

    #[test]
    fn unsupported_types_are_rejected_with_a_list() {
        let repository = Repository::new("a/b").unwrap();
        let found: Vec<Found> = ["m-Q4_K_M.gguf", "m-Q5_K_S.gguf", "mmproj-f16.gguf"]
            .iter()
            .map(|path| Found { path: (*path).to_owned(), bytes: Some(1 << 20) })
            .collect();
        let error = recommend(&repository, &found, None).unwrap_err();
        assert!(matches!(error, Error::NotRunnable { .. }), "{error:?}");
        let text = error.to_string();
        assert!(text.contains("a/b:m-Q4_K_M.gguf (1.0 MiB)"), "{text}");
        assert!(text.contains("a/b:m-Q5_K_S.gguf") && !text.contains("mmproj"), "{text}");
        assert!(recommend(&repository, &found[2..], None).is_err(), "no model");
    }

    #[test]
    fn projectors_and_drafts_are_not_the_model() {
        let files = [
            ("Ternary-Bonsai-2-9B-PQ2_0.gguf", 2500),
            ("Ternary-Bonsai-2-9B-PTQ1_0.gguf", 2100),
            ("mmproj-Ternary-Bonsai-2-9B-F16.gguf", 900),
            ("mtp-Qwen3.8-9B-Q8_0.gguf", 300),
            ("Ternary-Bonsai-2-9B-dspark-Q2_0.gguf", 100),
        ];
        let found = best(&files, 1 << 30);
        assert_eq!(found.choice.file, files[0].0);
        assert!(found.why.contains("from 2"), "{}", found.why);
        assert_eq!(found.draft.unwrap().file, files[3].0);
        assert_eq!(best(&files, 3000).choice.file, files[1].0, "the smaller one fits");
        let together = [("Bonsai-2-9B-MTP-PQ2_0.gguf", 2600), files[2]];
        assert_eq!(best(&together, 1 << 30).choice.file, together[0].0);
    }

    #[test]
    fn models_larger_than_memory_are_skipped() {
        let files = [("m-tq2_0.gguf", 1000), ("m-tq1_0.gguf", 800), ("m-q4_0.gguf", 10)];
        assert_eq!(best(&files, 1350).choice.file, "m-tq2_0.gguf");
        assert_eq!(best(&files, 1349).choice.file, "m-tq1_0.gguf");
        assert_eq!(best(&files, 1350).needs, Some(1350));
        let none = best(&files, 100);
        assert_eq!((none.choice.file.as_str(), none.fits), ("m-tq1_0.gguf", false));
    }

    #[test]
    fn forms_are_read_from_names() {
        for (name, expected) in [
            ("ggml-model-i2_s.gguf", Form::Ternary(8)),
            ("x.TQ2_0.gguf", Form::Ternary(0)),
            ("x-PQ2_0.gguf", Form::Ternary(3)),
            ("x-PTQ1_0.gguf", Form::Ternary(4)),
            ("x-Q1_0.gguf", Form::Ternary(9)),
            ("Ternary-Bonsai-8B-Q2_0_g64.gguf", Form::Ternary(2)),
            ("Ternary-Bonsai-8B-Q2_0_g128.gguf", Form::Ternary(2)),
            ("Ternary-Bonsai-2-27B-PTQ1_0-MTP.gguf", Form::Ternary(4)),
            ("TQ1_0/x-00001-of-00002.gguf", Form::Ternary(1)),
            ("m-BF16.gguf", Form::Plain),
            ("ggml_model_f32.gguf", Form::Plain),
            ("m-IQ4_XS.gguf", Form::Unreadable),
            ("m.Q8_0.gguf", Form::Unreadable),
            ("model.gguf", Form::Unknown),
        ] {
            assert_eq!(form(name), expected, "{name}");
        }
    }
}
