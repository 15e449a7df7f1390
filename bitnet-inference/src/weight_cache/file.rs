//! One file of the cache: found by its name and key, checked, and written anew where it does not fit.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use bitnet_core::backend::Backend;
use bitnet_core::memory::Shared;
use bitnet_formats::sections::{self, SectionFile, checksum};
use bitnet_formats::{Error, MappedFile};

use super::folder::{EXTENSION, PreparedCache, remove_abandoned};
use crate::InferenceError;

/// How the files of this version differ from those of others.
const VERSION: u32 = 1;

/// A section to be written.
pub(crate) type Section = (String, Shared<u8>);

/// What a model's prepared arrays are made from, and for whom.
#[derive(Debug)]
pub(crate) struct Origin {
    model: PathBuf,
    files: Vec<Arc<MappedFile>>,
    decoding: String,
    layout: String,
    /// As it was when the model was opened.
    key: Key,
}

impl Origin {
    /// The model at `path`, whose weights depend on its files and on `decoding`; `None` if what this back end prepares
    /// can't be stored.
    pub(crate) fn of(
        path: &Path,
        files: Vec<Arc<MappedFile>>,
        decoding: String,
        backend: &dyn Backend,
    ) -> Option<Arc<Self>> {
        let layout = backend.parts_layout()?;
        let key = Key::of(&files, &decoding, &layout);
        Some(Arc::new(Self { model: path.to_owned(), files, decoding, layout, key }))
    }

    /// Whether the files are unchanged, and a change would be seen.
    fn is_sure(&self) -> bool {
        self.key.settled && Key::of(&self.files, &self.decoding, &self.layout) == self.key
    }
}

/// What arrays were made from, and how.
#[derive(Debug, PartialEq)]
struct Key {
    text: String,
    /// Whether the model's files will show it when they change.
    settled: bool,
}

impl Key {
    fn of(files: &[Arc<MappedFile>], decoding: &str, layout: &str) -> Self {
        let version = env!("CARGO_PKG_VERSION");
        let mut text = format!("bitnet {version} {VERSION}\n{layout}\n{decoding}\n");
        let mut settled = true;
        for file in files {
            let sum = match file.stamp() {
                Some(stamp) => {
                    settled &= stamp.settled;
                    text.push_str(&stamp.identity);
                    sampled(file)
                }
                None => checksum(file.bytes()),
            };
            text.push_str(&format!(" sum {sum:016x}\n"));
        }
        Self { text, settled }
    }
}

/// A checksum over the beginning of a file and over pieces of the rest.
fn sampled(file: &MappedFile) -> u64 {
    const BEGINNING: usize = 1 << 16;
    const PIECE: usize = 1 << 12;
    const PIECES: usize = 64;
    let (beginning, rest) = file.bytes().split_at(file.bytes().len().min(BEGINNING));
    let step = (rest.len() / PIECES).max(PIECE);
    let pieces = rest.chunks(step).map(|piece| checksum(&piece[..piece.len().min(PIECE)]));
    let sums = pieces.chain([checksum(beginning)]).flat_map(u64::to_le_bytes).collect::<Vec<_>>();
    checksum(&sums)
}

/// The file for one kind of a model's arrays: what it holds, and where it is written.
#[derive(Debug)]
pub(super) struct CacheFile {
    cache: PreparedCache,
    origin: Arc<Origin>,
    /// The arrays, as messages name them.
    what: &'static str,
    path: PathBuf,
    key: String,
    file: Option<SectionFile>,
    /// Whether a file is there that must be replaced.
    replace: AtomicBool,
}

impl CacheFile {
    /// Looks for the file of `what`; `made` is all that it depends on beside its origin.
    pub(super) fn open(
        cache: &PreparedCache,
        origin: Arc<Origin>,
        what: &'static str,
        made: &str,
    ) -> Self {
        let path = cache.folder.join(file_name(&origin, what, made));
        let key = format!("{}{what} {made}\n", origin.key.text);
        let (file, problem) = match SectionFile::open(&path) {
            Ok(file) if file.key() == key.as_bytes() => (Some(file), None),
            Ok(_) => (None, Some("it was made from another model".into())),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                (None, None)
            }
            Err(error) => (None, Some(error.to_string())),
        };
        let replace = AtomicBool::new(false);
        let found = Self { cache: cache.clone(), origin, what, path, key, file, replace };
        if let Some(problem) = problem {
            found.reject(&problem);
        }
        found
    }

    /// The file as it was found; every section is still to be checked.
    pub(super) fn sections(&self) -> Option<&SectionFile> {
        self.file.as_ref()
    }

    /// Notifies, once, that the file does not fit and will be replaced.
    pub(super) fn reject(&self, problem: &dyn std::fmt::Display) {
        if !self.replace.swap(true, Ordering::Relaxed) {
            let (what, path) = (self.what, self.path.display());
            self.cache.notify(&format!("cached {what} in {path} are not used: {problem}"));
        }
    }

    /// Returns what writes `sections`, which were made in `took`: nothing if all is there already, or it is not worth
    /// it, or the model's files may have changed.
    pub(super) fn writer(self, took: Duration, sections: Vec<Section>) -> Option<CacheWriter> {
        let replace = self.replace.into_inner();
        let complete = self.file.is_some() && !replace;
        let worth = replace || took >= self.cache.worth;
        if complete || !worth || sections.is_empty() || !self.origin.is_sure() {
            return None;
        }
        let Self { cache, what, path, key, .. } = self;
        let job = Job { cache, what, path, key, sections };
        Some(CacheWriter { job: Mutex::new(Some(job)), writer: Mutex::new(None) })
    }
}

/// The name of a file: a readable part, and a number.
fn file_name(origin: &Origin, what: &str, made: &str) -> String {
    let Origin { model, layout, decoding, .. } = origin;
    let whole = std::fs::canonicalize(model).unwrap_or_else(|_| model.clone());
    let text = format!("{}\n{layout}\n{decoding}\n{what} {made}", whole.display());
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let parent = whole.parent().and_then(name);
    let shown = [parent, name(&whole)].into_iter().flatten().collect::<Vec<_>>().join("-");
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '_' };
    let shown: String = shown.chars().map(plain).take(80).collect();
    let what = what.replace(' ', "-");
    format!("{shown}-{what}-{:016x}.{EXTENSION}", checksum(text.as_bytes()))
}

/// Arrays that are to be written, are being written or have been.
#[derive(Debug)]
pub(crate) struct CacheWriter {
    job: Mutex<Option<Job>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Job {
    cache: PreparedCache,
    what: &'static str,
    path: PathBuf,
    key: String,
    sections: Vec<Section>,
}

impl CacheWriter {
    /// Begins to write on a thread of its own, unless it has begun.
    pub(crate) fn start(&self) {
        let Some(job) = self.job.lock().ok().and_then(|mut job| job.take()) else { return };
        let (cache, what) = (job.cache.clone(), job.what);
        let thread = std::thread::Builder::new().name("weight-cache".into());
        match (thread.spawn(move || job.run()), self.writer.lock()) {
            (Ok(handle), Ok(mut writer)) => *writer = Some(handle),
            (Ok(_), Err(_)) => {}
            (Err(error), _) => cache.notify(&format!("prepared {what} are not cached: {error}")),
        }
    }
}

impl Drop for CacheWriter {
    /// Waits until the file is complete: a program that ended now would leave a part of it behind.
    fn drop(&mut self) {
        self.start();
        if let Some(writer) = self.writer.get_mut().ok().and_then(Option::take) {
            drop(writer.join());
        }
    }
}

impl Job {
    fn run(self) {
        let Self { cache, what, path, key, sections } = self;
        let bytes: usize = sections.iter().map(|(_, bytes)| bytes.len()).sum();
        let shown = path.display();
        cache.notify(&format!(
            "caching the prepared {what} for the next start: {} MiB in {shown} (--no-cache does not)",
            bytes >> 20
        ));
        let made = std::fs::create_dir_all(&cache.folder)
            .map_err(|source| InferenceError::Io { path: cache.folder.clone(), source });
        let result = made.and_then(|()| {
            remove_abandoned(&cache.folder);
            let sections: Vec<_> =
                sections.iter().map(|(name, bytes)| (name.clone(), &**bytes)).collect();
            Ok(sections::write(&path, key.as_bytes(), &sections)?)
        });
        if let Err(error) = result {
            cache.notify(&format!("prepared {what} are not cached: {error}"));
        }
    }
}
