//! A model's prepared output head on disk.

use std::sync::Arc;
use std::time::Duration;

use bitnet_core::backend::Backend;
use bitnet_core::backend::prepared_parts::PreparedParts;
use bitnet_core::backend::top_logits::{Guarantee, HeadWeight};
use bitnet_core::dense::DenseRows;
use bitnet_core::memory::Shared;
use bitnet_formats::sections::SectionFile;
use bitnet_formats::{MappedFile, Region};

use super::file::{CacheFile, CacheWriter, Origin};
use super::folder::PreparedCache;
use crate::in_parallel::in_parallel;
use crate::{InferenceError, Result};

/// A model's prepared head on disk, searched on first use.
#[derive(Debug)]
pub(crate) struct CachedHead {
    cache: PreparedCache,
    origin: Arc<Origin>,
    /// The name of the way in which the head is read.
    mode: &'static str,
    /// The result of the search.
    file: Option<CacheFile>,
}

impl CachedHead {
    pub(crate) fn new(cache: &PreparedCache, origin: &Arc<Origin>, mode: &'static str) -> Self {
        Self { cache: cache.clone(), origin: Arc::clone(origin), mode, file: None }
    }

    /// Returns the head over `rows` with the file that it is mapped from, after checking all of it. Nothing is found
    /// the second time.
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
                file.reject(&error);
                None
            }
        }
    }

    /// Returns what writes `head`, which was made in `took` after none was found.
    pub(crate) fn writer(self, head: &dyn HeadWeight, took: Duration) -> Option<CacheWriter> {
        let parts = head.parts();
        let sections = parts.iter().map(|(name, bytes)| (name.to_owned(), bytes.clone()));
        self.file?.writer(took, sections.collect())
    }

    fn open(&self) -> CacheFile {
        let origin = Arc::clone(&self.origin);
        CacheFile::open(&self.cache, origin, "planes of the head", self.mode)
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
