//! A model's prepared output head, kept.

use std::sync::Arc;
use std::time::Duration;

use bitnet_core::backend::Backend;
use bitnet_core::backend::prepared_parts::PreparedParts;
use bitnet_core::backend::top_logits::{Guarantee, HeadWeight};
use bitnet_core::dense::DenseRows;
use bitnet_core::memory::Shared;
use bitnet_formats::sections::SectionFile;
use bitnet_formats::{MappedFile, Region};

use super::super::in_parallel::in_parallel;
use super::file::{Keeping, KeptFile, Origin};
use super::folder::PreparedCache;
use crate::models::HeadMode;
use crate::{InferenceError, Result};

/// Where a model's prepared head is kept: looked for when it is first wanted.
#[derive(Debug)]
pub(crate) struct KeptHead {
    cache: PreparedCache,
    origin: Arc<Origin>,
    mode: HeadMode,
    /// Once it was looked for.
    file: Option<KeptFile>,
}

impl KeptHead {
    /// That of the model, in the way that `mode` reads it.
    pub(crate) fn new(cache: &PreparedCache, origin: &Arc<Origin>, mode: HeadMode) -> Self {
        Self { cache: cache.clone(), origin: Arc::clone(origin), mode, file: None }
    }

    /// The head over `rows` with the file that it is mapped from, after everything about it has been checked. Nothing is
    /// found the second time.
    pub(crate) fn find(
        &mut self,
        rows: &Arc<dyn DenseRows>,
        guarantee: Guarantee,
        backend: &dyn Backend,
    ) -> Option<(Box<dyn HeadWeight>, Arc<MappedFile>)> {
        if self.file.is_some() {
            return None;
        }
        let file = self.file.insert(self.open());
        let sections = file.sections()?;
        match read(sections, rows, guarantee, backend) {
            Ok(head) => Some((head, Arc::clone(sections.file()))),
            Err(error) => {
                file.refuse(&error);
                None
            }
        }
    }

    /// What is to be written after none was found and `head` was made in `took`, if anything is.
    pub(crate) fn keep(self, head: &dyn HeadWeight, took: Duration) -> Option<Keeping> {
        let parts = head.parts();
        let sections = parts.iter().map(|(name, bytes)| (name.to_owned(), bytes.clone()));
        self.file?.keep(took, sections.collect())
    }

    fn open(&self) -> KeptFile {
        let origin = Arc::clone(&self.origin);
        KeptFile::open(&self.cache, origin, "planes of the head", self.mode.name())
    }
}

fn read(
    file: &SectionFile,
    rows: &Arc<dyn DenseRows>,
    guarantee: Guarantee,
    backend: &dyn Backend,
) -> Result<Box<dyn HeadWeight>> {
    let names: Vec<&str> = file.names("").collect();
    let checked = |index: usize| Ok::<_, InferenceError>(file.section(names[index])?);
    let regions = in_parallel(names.len(), backend.threads(), checked, &mut |_, _| {})?;
    let found: Vec<(&str, Region)> =
        names.into_iter().zip(regions).filter_map(|(name, region)| Some((name, region?))).collect();
    let mut parts = PreparedParts::default();
    for (name, region) in &found {
        parts.put(*name, Shared::new(region.clone()));
    }
    let head = backend.prepare_head_from_parts(Arc::clone(rows), guarantee, &parts)?;
    file.check()?;
    for (_, region) in found.iter().filter(|(name, _)| head.rarely_read().contains(name)) {
        region.release();
    }
    Ok(head)
}
