//! A model's ternary weights, kept.

use std::sync::Arc;
use std::time::Duration;

use bitnet_core::backend::prepared_parts::PreparedParts;
use bitnet_core::backend::{ActivationPrecision, Backend, TernaryWeight};
use bitnet_core::memory::Shared;
use bitnet_formats::MappedFile;
use bitnet_formats::sections::SectionFile;

use super::file::{Keeping, KeptFile, KeptSection, Origin};
use super::folder::PreparedCache;
use crate::Result;
use crate::models::Linear;

/// The section of a weight that holds what is no array: how its input is treated, and what was assumed about it.
const NOTE: &str = "note";

/// The kept weights of one model, if there are any, and where they are to be.
#[derive(Debug)]
pub(crate) struct Kept(KeptFile);

/// A weight from a file.
pub(crate) struct KeptWeight {
    pub(crate) linear: Linear,
    pub(crate) assumption: Option<String>,
}

impl Kept {
    /// Looks for the weights of the model.
    pub(crate) fn open(cache: &PreparedCache, origin: &Arc<Origin>) -> Self {
        Self(KeptFile::open(cache, Arc::clone(origin), "weights", "ternary"))
    }

    /// The weight of that name, `[rows, cols]`, after everything about it has been checked.
    pub(crate) fn find(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        backend: &dyn Backend,
    ) -> Option<KeptWeight> {
        match read(self.0.sections()?, name, rows, cols, backend) {
            Ok(weight) => weight,
            Err(error) => {
                self.0.refuse(&error);
                None
            }
        }
    }

    /// The file that found weights are mapped from.
    pub(crate) fn file(&self) -> Option<&Arc<MappedFile>> {
        self.0.sections().map(SectionFile::file)
    }

    /// What is to be written after loading that took `took`, if anything is.
    pub(crate) fn keep(self, took: Duration, sections: Vec<KeptSection>) -> Option<Keeping> {
        self.0.keep(took, sections)
    }
}

/// The sections of a weight that was prepared.
pub(crate) fn sections_of(
    name: &str,
    weight: &dyn TernaryWeight,
    precision: ActivationPrecision,
    assumption: Option<&str>,
) -> Vec<KeptSection> {
    let parts = weight.parts();
    if parts.is_empty() {
        return Vec::new();
    }
    let mut note = vec![match precision {
        ActivationPrecision::Int8 => b'8',
        ActivationPrecision::Float => b'f',
        // A range is the caller's, not the model's.
        ActivationPrecision::Int8Within(_) => return Vec::new(),
    }];
    note.extend(assumption.unwrap_or_default().bytes());
    let note = (format!("{name}/{NOTE}"), Shared::from(note));
    let arrays = parts.iter().map(|(part, bytes)| (format!("{name}/{part}"), bytes.clone()));
    std::iter::once(note).chain(arrays).collect()
}

fn read(
    file: &SectionFile,
    name: &str,
    rows: usize,
    cols: usize,
    backend: &dyn Backend,
) -> Result<Option<KeptWeight>> {
    let prefix = format!("{name}/");
    let Some(note) = file.section(&format!("{prefix}{NOTE}"))? else { return Ok(None) };
    let bad =
        |problem: &str| bitnet_core::Error::BadPart { part: name.into(), problem: problem.into() };
    let (precision, assumption) = match note.split_first() {
        Some((b'8', rest)) => (ActivationPrecision::Int8, rest),
        Some((b'f', rest)) => (ActivationPrecision::Float, rest),
        _ => return Err(bad("has an unknown note").into()),
    };
    let assumption = std::str::from_utf8(assumption).map_err(|_| bad("has an unknown note"))?;
    let assumption = (!assumption.is_empty()).then(|| assumption.to_owned());
    let mut parts = PreparedParts::default();
    for section in file.names(&prefix) {
        let part = &section[prefix.len()..];
        if part != NOTE
            && let Some(bytes) = file.section(section)?
        {
            parts.put(part, Shared::new(bytes));
        }
    }
    let weight = backend.prepare_from_parts(&parts)?;
    if (weight.rows(), weight.cols()) != (rows, cols) {
        return Err(bad("has another shape").into());
    }
    file.check()?;
    Ok(Some(KeptWeight { linear: Linear::Ternary(weight, precision), assumption }))
}
