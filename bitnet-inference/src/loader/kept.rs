//! Prepared weights kept on disk: what loading a model made, mapped again at the next start.
//!
//! One file for each model, way of loading and back end, with the weights' arrays as sections. Its key holds what the
//! system says about the identity of the model's files and their last change (the time of *change*, which no program can
//! set back), a checksum over their beginning and samples of the rest, and everything else that decoding depends on.
//! Where the system knows no time of change, the checksum is over all bytes. Another key: the file is of no use, and the
//! next one takes its place. Nothing in a file is trusted: every array is checked before it is used, and what does not
//! agree is decoded from the model.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use bitnet_core::backend::{ActivationPrecision, Backend, TernaryWeight};
use bitnet_core::memory::Shared;
use bitnet_core::parts::Parts;
use bitnet_formats::sections::{self, SectionFile, checksum};
use bitnet_formats::{Error, MappedFile};

use super::Checkpoint;
use crate::models::Linear;
use crate::{InferenceError, Result};

/// What a file of this module ends in.
const EXTENSION: &str = "prepared";
/// How the files of this version differ from those of others.
const VERSION: u32 = 1;
/// The section of a weight that holds what is no array: how its input is treated, and what was assumed about it.
const NOTE: &str = "note";
/// Temporary files that are older were left behind by a program that was killed.
const ABANDONED: Duration = Duration::from_secs(3600);

/// A section to be written.
pub(super) type KeptSection = (String, Shared<u8>);

/// Where prepared weights are kept from one start to the next.
#[derive(Debug, Clone)]
pub struct PreparedCache {
    /// The folder; it is made when the first file is written.
    pub folder: PathBuf,
    /// A model whose weights were made in less time is not kept: making them again is as good.
    pub worth: Duration,
    /// Who is told when a file is written, could not be written or was damaged.
    pub notice: Notice,
}

/// Takes a line of text for the user; from any thread.
#[derive(Clone)]
pub struct Notice(Arc<dyn Fn(&str) + Send + Sync>);

impl Notice {
    /// Gives each line to `tell`.
    pub fn new(tell: impl Fn(&str) + Send + Sync + 'static) -> Self {
        Self(Arc::new(tell))
    }
}

impl Default for Notice {
    fn default() -> Self {
        Self::new(|_| {})
    }
}

impl std::fmt::Debug for Notice {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Notice")
    }
}

impl PreparedCache {
    /// The time that is worth a file of hundreds of megabytes.
    pub const WORTH: Duration = Duration::from_millis(250);

    /// A cache in `folder` that tells nobody anything.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), worth: Self::WORTH, notice: Notice::default() }
    }

    /// `$BITNET_CACHE`, or `bitnet` in the system's folder for caches; `None` if the user has no such folder.
    pub fn default_folder() -> Option<PathBuf> {
        let variable = |name| {
            let value = std::env::var_os(name).filter(|value| !value.is_empty());
            value.map(PathBuf::from)
        };
        let of_system = if cfg!(windows) {
            variable("LOCALAPPDATA").map(|folder| folder.join("cache"))
        } else if cfg!(target_os = "macos") {
            variable("HOME").map(|home| home.join("Library").join("Caches"))
        } else {
            let absolute = variable("XDG_CACHE_HOME").filter(|folder| folder.is_absolute());
            absolute.or_else(|| variable("HOME").map(|home| home.join(".cache")))
        };
        variable("BITNET_CACHE").or_else(|| of_system.map(|folder| folder.join("bitnet")))
    }

    /// The files that are kept, with their sizes in bytes, by name. No folder is no files.
    ///
    /// # Errors
    /// [`InferenceError::Io`] if the folder can't be read.
    pub fn files(&self) -> Result<Vec<(PathBuf, u64)>> {
        let fail = |source| InferenceError::Io { path: self.folder.clone(), source };
        let entries = match std::fs::read_dir(&self.folder) {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(fail(error)),
        };
        let mut files = Vec::new();
        for entry in entries {
            let entry = entry.map_err(fail)?;
            let path = entry.path();
            if path.extension().is_some_and(|extension| extension == EXTENSION) {
                files.push((path, entry.metadata().map_err(fail)?.len()));
            }
        }
        files.sort();
        Ok(files)
    }

    /// Removes all files that are kept; what they were.
    ///
    /// # Errors
    /// [`InferenceError::Io`] if the folder can't be read or a file can't be removed.
    pub fn clear(&self) -> Result<Vec<(PathBuf, u64)>> {
        let files = self.files()?;
        for (path, _) in &files {
            std::fs::remove_file(path)
                .map_err(|source| InferenceError::Io { path: path.clone(), source })?;
        }
        Ok(files)
    }

    fn tell(&self, text: &str) {
        (self.notice.0)(text);
    }
}

/// The kept weights of one model, if there are any, and where they are to be.
#[derive(Debug)]
pub(crate) struct Kept {
    cache: PreparedCache,
    path: PathBuf,
    key: Key,
    file: Option<SectionFile>,
    /// Whether a file is there that must be replaced.
    replace: AtomicBool,
}

/// A weight from a file.
pub(super) struct KeptWeight {
    pub(super) linear: Linear,
    pub(super) assumption: Option<String>,
}

impl Kept {
    /// Looks for the weights of the model at `path`. `None` if this back end's are not to be kept.
    pub(crate) fn open(
        cache: &PreparedCache,
        path: &Path,
        checkpoint: &dyn Checkpoint,
        backend: &dyn Backend,
    ) -> Option<Self> {
        let layout = backend.parts_layout()?;
        let key = Key::of(checkpoint, &layout);
        let path = cache.folder.join(file_name(path, &layout, &checkpoint.decoding()));
        let kept = |file, replace| Self {
            cache: cache.clone(),
            path: path.clone(),
            key: key.clone(),
            file,
            replace: AtomicBool::new(replace),
        };
        Some(match SectionFile::open(&path) {
            Ok(file) if file.key() == key.text.as_bytes() => kept(Some(file), false),
            // The model has changed since.
            Ok(_) => kept(None, true),
            Err(Error::Io { source, .. }) if source.kind() == std::io::ErrorKind::NotFound => {
                kept(None, false)
            }
            Err(error) => {
                cache.tell(&format!("kept weights are not used: {error}"));
                kept(None, true)
            }
        })
    }

    /// The weight of that name, `[rows, cols]`, after everything about it has been checked.
    pub(super) fn find(
        &self,
        name: &str,
        rows: usize,
        cols: usize,
        backend: &dyn Backend,
    ) -> Option<KeptWeight> {
        let file = self.file.as_ref()?;
        match read(file, name, rows, cols, backend) {
            Ok(weight) => weight,
            Err(error) => {
                if !self.replace.swap(true, Ordering::Relaxed) {
                    let path = self.path.display();
                    self.cache.tell(&format!("kept weights in {path} are not used: {error}"));
                }
                None
            }
        }
    }

    /// What is to be written after loading that took `took`; nothing if all is there already or it is not worth it.
    pub(crate) fn keep(
        self,
        took: Duration,
        checkpoint: &dyn Checkpoint,
        backend: &dyn Backend,
        sections: Vec<KeptSection>,
    ) -> Option<Keeping> {
        let replace = self.replace.into_inner();
        let complete = self.file.is_some() && !replace;
        let worth = replace || took >= self.cache.worth;
        // A file that was changed a moment ago may be changed again without a trace.
        let sure = self.key.settled && Key::of(checkpoint, &backend.parts_layout()?) == self.key;
        if complete || !worth || !sure || sections.is_empty() {
            return None;
        }
        let Self { cache, path, key, .. } = self;
        let job = Job { cache, path, key: key.text, sections };
        Some(Keeping { job: Mutex::new(Some(job)), writer: Mutex::new(None) })
    }
}

/// The sections of a weight that was prepared.
pub(super) fn sections_of(
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
    let mut parts = Parts::default();
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

/// What the weights were made from, and how.
#[derive(Debug, Clone, PartialEq)]
struct Key {
    text: String,
    /// Whether the model's files will show it when they change.
    settled: bool,
}

impl Key {
    fn of(checkpoint: &dyn Checkpoint, layout: &str) -> Self {
        let mut text = format!(
            "bitnet {} {VERSION}\n{layout}\n{}\n",
            env!("CARGO_PKG_VERSION"),
            checkpoint.decoding()
        );
        let mut settled = true;
        for file in checkpoint.files() {
            let sum = match file.stamp() {
                Some(stamp) => {
                    settled &= stamp.settled;
                    text.push_str(&stamp.identity);
                    sampled(&file)
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

/// The name of the file for a model, a layout and a way of decoding: one that a person can tell, and a number.
fn file_name(model: &Path, layout: &str, decoding: &str) -> String {
    let whole = std::fs::canonicalize(model).unwrap_or_else(|_| model.to_owned());
    let text = format!("{}\n{layout}\n{decoding}", whole.display());
    let name = |path: &Path| path.file_name().map(|name| name.to_string_lossy().into_owned());
    let parent = whole.parent().and_then(name);
    let shown = [parent, name(&whole)].into_iter().flatten().collect::<Vec<_>>().join("-");
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".-_".contains(c) { c } else { '_' };
    let shown: String = shown.chars().map(plain).take(80).collect();
    format!("{shown}-{:016x}.{EXTENSION}", checksum(text.as_bytes()))
}

/// Weights that are to be written, are being written or have been.
#[derive(Debug)]
pub(crate) struct Keeping {
    job: Mutex<Option<Job>>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
struct Job {
    cache: PreparedCache,
    path: PathBuf,
    key: String,
    sections: Vec<KeptSection>,
}

impl Keeping {
    /// Begins to write on a thread of its own, if that has not been done.
    pub(crate) fn start(&self) {
        let Some(job) = self.job.lock().ok().and_then(|mut job| job.take()) else { return };
        let cache = job.cache.clone();
        let thread = std::thread::Builder::new().name("bitnet-keep".into());
        match (thread.spawn(move || job.run()), self.writer.lock()) {
            (Ok(handle), Ok(mut writer)) => *writer = Some(handle),
            (Ok(_), Err(_)) => {}
            (Err(error), _) => cache.tell(&format!("prepared weights are not kept: {error}")),
        }
    }
}

impl Drop for Keeping {
    /// Waits until the file is there: a program that ended now would leave a part of it behind.
    fn drop(&mut self) {
        self.start();
        if let Some(writer) = self.writer.get_mut().ok().and_then(Option::take) {
            drop(writer.join());
        }
    }
}

impl Job {
    fn run(self) {
        let Self { cache, path, key, sections } = self;
        let bytes: usize = sections.iter().map(|(_, bytes)| bytes.len()).sum();
        let shown = path.display();
        cache.tell(&format!(
            "keeping the prepared weights for the next start: {} MiB in {shown} (--no-cache does not)",
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
            cache.tell(&format!("prepared weights are not kept: {error}"));
        }
    }
}

/// Removes what programs that were killed while they wrote have left.
fn remove_abandoned(folder: &Path) {
    let Ok(entries) = std::fs::read_dir(folder) else { return };
    for entry in entries.flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let old = entry.metadata().and_then(|found| found.modified()).is_ok_and(|written| {
            SystemTime::now().duration_since(written).is_ok_and(|age| age > ABANDONED)
        });
        if old && name.starts_with(".bitnet-") && name.ends_with(".tmp") {
            // Another program may have done so; what can't be removed does no harm.
            drop(std::fs::remove_file(entry.path()));
        }
    }
}
