//! A model's prepared ternary weights on disk.

use std::sync::Arc;
use std::time::Duration;

use bitnet_core::backend::prepared_parts::PreparedParts;
use bitnet_core::backend::{ActivationPrecision, Backend, TernaryWeight};
use bitnet_core::memory::Shared;
use bitnet_formats::MappedFile;
use bitnet_formats::sections::SectionFile;

use super::file::{CacheFile, CacheWriter, Origin, Section};
use super::folder::PreparedCache;
use crate::Result;

/// The section of a weight that holds what is no array: how its input is treated, and what was assumed about it.
const NOTE: &str = "note";

/// The cached weights of one model, as far as there are any.
#[derive(Debug)]
pub(crate) struct CachedWeights(CacheFile);

/// A weight from the cache.
pub(crate) struct CachedWeight {
    pub(crate) weight: Box<dyn TernaryWeight>,
    pub(crate) precision: ActivationPrecision,
    pub(crate) assumption: Option<String>,
}

impl CachedWeights {
    /// Looks for the weights of the model.
    pub(crate) fn open(cache: &PreparedCache, origin: &Arc<Origin>) -> Self {
        Self(CacheFile::open(cache, Arc::clone(origin), "weights", "ternary"))
    }

    /// Returns the weight of that name, `[rows, cols]`, after checking all of it.
    pub(crate) fn find(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        backend: &dyn Backend,
    ) -> Option<CachedWeight> {
        match read(self.0.sections()?, name, rows, cols, backend) {
            Ok(weight) => weight,
            Err(error) => {
                self.0.reject(&error);
                None
            }
        }
    }

    /// The file that found weights are mapped from.
    pub(crate) fn file(&self) -> Option<&Arc<MappedFile>> {
        self.0.sections().map(SectionFile::file)
    }

    /// Returns what writes `sections`, which were made in `took`.
    pub(crate) fn writer(self, took: Duration, sections: Vec<Section>) -> Option<CacheWriter> {
        self.0.writer(took, sections)
    }
}

/// Returns the sections in which a prepared weight is stored; none if it can't be.
pub(crate) fn sections_of(
    name: &str,
    weight: &dyn TernaryWeight,
    precision: ActivationPrecision,
    assumption: Option<&str>,
) -> Vec<Section> {
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
) -> Result<Option<CachedWeight>> {
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
    Ok(Some(CachedWeight { weight, precision, assumption }))
}
