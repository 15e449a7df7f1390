//! The unfinished result: its files next to the final name, and a journal for resuming.
//!
//! ```text
//! .NAME.partial/.bitnet-convert   empty; marks the folder as created by a conversion
//! .NAME.partial/files/...         the files of the result, preallocated to their full length
//! .NAME.partial/journal           JSON lines: the plan, then each finished step
//! .NAME.partial/replaced/         the replaced folder, while the result is renamed
//! ```
//!
//! Symbolic links in it are not followed. A folder with a foreign file is rejected: foreign files are neither removed
//! nor moved to the final name.
//!
//! A step is finished if its line is complete and the digest in the line matches the bytes in the files; data lost in a
//! crash is converted again.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{File, Metadata, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bitnet_formats::sync_folder;
use serde::{Deserialize, Serialize};

use crate::claim::{MARK, claim_and_lock, not_ours, same_file};
use crate::destination::{Destination, Standing, check_file, foreign};
use crate::digest::Digest;
use crate::encode::{Encoded, Proof};
use crate::entry::{Entry, names_in};
use crate::manifest::{MANIFEST, Manifest, remove_file};
use crate::options::ConvertOptions;
use crate::plan::{Plan, PlannedFile};
use crate::{Error, Result};

/// Maximum length of a journal line; the first one names every file.
const MAX_LINE: u64 = 1 << 22;

/// A finished step.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) step: usize,
    /// Digests of the step's pieces, in order.
    pieces: Vec<PieceRecord>,
    pub(crate) proof: Proof,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct PieceRecord {
    pub(crate) part: usize,
    pub(crate) at: u64,
    pub(crate) len: u64,
    pub(crate) digest: Digest,
}

impl Record {
    pub(crate) fn pieces(&self) -> &[PieceRecord] {
        &self.pieces
    }
}

#[derive(Debug, Serialize, Deserialize)]
struct Heading {
    format: u32,
    plan: Digest,
    /// Names of the unfinished files.
    files: Vec<String>,
}

/// The format version of the journal.
const FORMAT: u32 = 2;

/// The unfinished result of one plan.
#[derive(Debug)]
pub(crate) struct Partial {
    destination: Destination,
    files: Vec<Mutex<File>>,
    journal: Mutex<File>,
    records: Mutex<HashMap<usize, Record>>,
}

impl Partial {
    /// Resumes an earlier run of the same plan if requested, else starts over. `names` are the possible files of the
    /// result.
    ///
    /// The lock on the journal makes a second conversion to the same name fail.
    pub(crate) fn open(
        destination: Destination,
        plan: &Plan,
        files: &[PlannedFile],
        names: &[String],
        fingerprint: Digest,
        options: &ConvertOptions,
    ) -> Result<Self> {
        let folder = destination.files();
        let mut journal = claim_and_lock(&destination)?;
        restore_replaced(&destination, options)?;
        let (known, records) = read_journal(&journal, fingerprint).unwrap_or_default();
        let records = records.filter(|_| options.resume);
        make_folder(&folder)?;
        let known: HashSet<&str> =
            names.iter().chain(&known).map(String::as_str).chain([MANIFEST]).collect();
        drop_second_names(&destination, names)?;
        clear(&folder, &known, records.is_none())?;
        let opened = files
            .iter()
            .map(|file| open_file(&folder.join(&file.name), file))
            .collect::<Result<Vec<_>>>()?;
        let partial = Self {
            destination,
            files: opened,
            journal: Mutex::new(journal.try_clone().map_err(Error::io(&folder, "open"))?),
            records: Mutex::default(),
        };
        let mut finished = Vec::new();
        for record in records.unwrap_or_default() {
            options.check_stop()?;
            if partial.still_holds(plan, &record) {
                finished.push(record);
            }
        }
        // Rewrites the journal without invalid steps.
        let heading = Heading { format: FORMAT, plan: fingerprint, files: names.to_vec() };
        let mut text = line(&heading);
        finished.iter().for_each(|record| text.push_str(&line(record)));
        journal
            .set_len(0)
            .and_then(|()| journal.seek(SeekFrom::Start(0)))
            .and_then(|_| journal.write_all(text.as_bytes()))
            .map_err(Error::io(partial.destination.partial.join("journal"), "write"))?;
        let records = finished.into_iter().map(|record| (record.step, record)).collect();
        Ok(Self { journal: Mutex::new(journal), records: Mutex::new(records), ..partial })
    }

    /// Returns whether a step is finished.
    pub(crate) fn is_done(&self, step: usize) -> bool {
        lock(&self.records).contains_key(&step)
    }

    /// Writes a step's bytes and records it as finished.
    pub(crate) fn take(&self, plan: &Plan, step: usize, encoded: Encoded) -> Result<()> {
        let mut pieces = Vec::with_capacity(encoded.pieces.len());
        for piece in &encoded.pieces {
            let part = &plan.parts[piece.part];
            let digest = Digest::of(&piece.bytes);
            let mut file = lock(&self.files[part.file]);
            file.seek(SeekFrom::Start(part.offset + piece.at))
                .and_then(|_| file.write_all(&piece.bytes))
                .map_err(Error::io(self.destination.files(), "write into"))?;
            let len = piece.bytes.len() as u64;
            pieces.push(PieceRecord { part: piece.part, at: piece.at, len, digest });
        }
        let record = Record { step, pieces, proof: encoded.proof };
        lock(&self.journal)
            .write_all(line(&record).as_bytes())
            .map_err(Error::io(self.destination.partial.join("journal"), "write"))?;
        lock(&self.records).insert(step, record);
        Ok(())
    }

    /// Returns the records of all steps, in order.
    pub(crate) fn records(&self) -> Vec<Record> {
        let mut records: Vec<Record> = lock(&self.records).values().cloned().collect();
        records.sort_by_key(|record| record.step);
        records
    }

    /// Flushes the files to disk.
    pub(crate) fn sync(&self) -> Result<()> {
        let failed = Error::io(self.destination.files(), "flush to disk");
        self.files.iter().try_for_each(|file| lock(file).sync_all()).map_err(failed)
    }

    /// Renames the files to their final names and removes the partial folder. The first file of a split model is
    /// renamed last. Without `overwrite`, a file that has appeared meanwhile is an error.
    pub(crate) fn finish_files(self, names: &[PathBuf], overwrite: bool) -> Result<()> {
        for to in names.iter().rev() {
            let from = self.destination.files().join(to.file_name().unwrap_or_default());
            check_file(to, overwrite)?;
            let failed = Error::io(to, "rename the result to");
            // A hard link never replaces a file, but not every file system supports links.
            if overwrite || std::fs::hard_link(&from, to).is_err() {
                check_file(to, overwrite)?;
                take_permissions(&from, to)?;
                std::fs::rename(&from, to).map_err(failed)?;
            } else {
                remove_file(&from)?;
            }
        }
        self.finish()
    }

    /// Renames the folder to its final name, replacing an empty folder or, with `overwrite`, one written by a
    /// conversion.
    pub(crate) fn finish_folder(self, options: &ConvertOptions) -> Result<()> {
        let (from, to) = (self.destination.files(), self.destination.path.clone());
        let failed = Error::io(&to, "rename the result to");
        let check_stop = || options.check_stop();
        Manifest::write(&from, &check_stop)?;
        let old = self.destination.replaced();
        match self.destination.standing(options.overwrite)? {
            Standing::Free => {
                // Fails if the folder is no longer empty.
                if let Entry::Folder = Entry::at(&to)? {
                    std::fs::remove_dir(&to).map_err(&failed)?;
                }
                std::fs::rename(&from, &to).map_err(failed)?;
            }
            Standing::Written(manifest) => {
                take_permissions(&from, &to)?;
                std::fs::rename(&to, &old).map_err(&failed)?;
                let put = || -> Result<()> {
                    // Checked again in the private folder, where no other program adds files.
                    if let Some(name) = manifest.foreign(&old, &check_stop)? {
                        return Err(foreign(&to, &name));
                    }
                    std::fs::rename(&from, &to).map_err(&failed)
                };
                if let Err(error) = put() {
                    // Restores the old folder; if that fails as well, the next run does it.
                    let _ = std::fs::rename(&old, &to);
                    return Err(error);
                }
                manifest.remove(&old)?;
            }
        }
        self.finish()
    }

    /// Removes the partial folder except foreign files.
    fn finish(self) -> Result<()> {
        let Self { destination, files, journal, .. } = self;
        drop(files);
        let parent = destination.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        sync_folder(parent).map_err(Error::io(parent, "flush to disk"))?;
        // Already gone if it became the result; foreign files stay.
        let _ = std::fs::remove_dir(destination.files());
        // The journal stays locked until all names are removed. It is emptied first: a folder with an empty journal and
        // no marker is an interrupted removal.
        let path = destination.partial.join("journal");
        lock(&journal).set_len(0).map_err(Error::io(&path, "write"))?;
        remove_file(&destination.partial.join(MARK))?;
        remove_file(&path)?;
        drop(journal);
        let _ = std::fs::remove_dir(&destination.partial);
        Ok(())
    }

    /// Returns whether the bytes of a step are intact.
    fn still_holds(&self, plan: &Plan, record: &Record) -> bool {
        if record.step >= plan.works.len() {
            return false;
        }
        record.pieces.iter().all(|piece| {
            let Some(part) = plan.parts.get(piece.part) else { return false };
            let inside = piece.at.checked_add(piece.len).is_some_and(|end| end <= part.nbytes);
            inside
                && self.digest(part.file, part.offset + piece.at, piece.len) == Some(piece.digest)
        })
    }

    fn digest(&self, file: usize, at: u64, len: u64) -> Option<Digest> {
        let mut file = lock(&self.files[file]);
        file.seek(SeekFrom::Start(at)).ok()?;
        let mut bytes = Vec::new();
        (&mut *file).take(len).read_to_end(&mut bytes).ok()?;
        (bytes.len() as u64 == len).then(|| Digest::of(&bytes))
    }
}

/// Restores a folder whose replacement was interrupted, or removes it if the result has its final name.
fn restore_replaced(destination: &Destination, options: &ConvertOptions) -> Result<()> {
    let (old, to) = (destination.replaced(), &destination.path);
    match Entry::at(&old)? {
        Entry::Absent => return Ok(()),
        Entry::Folder => {}
        _ => return Err(not_ours(&old)),
    }
    let result_is_there = match Entry::at(to)? {
        Entry::Absent => false,
        // Created meanwhile by another program: the replaced folder is the only result.
        Entry::Folder if names_in(to)?.is_empty() => {
            std::fs::remove_dir(to).map_err(Error::io(to, "put back"))?;
            false
        }
        _ => true,
    };
    if !result_is_there {
        return std::fs::rename(&old, to).map_err(Error::io(to, "put back"));
    }
    match Manifest::read(&old)? {
        Some(manifest) => match manifest.foreign(&old, &|| options.check_stop())? {
            None => manifest.remove(&old),
            Some(name) => Err(foreign(&old, &name)),
        },
        None => Err(not_ours(&old)),
    }
}

/// Copies the permissions of the replaced file to the result, so that a private model stays private.
#[cfg(unix)]
fn take_permissions(from: &Path, to: &Path) -> Result<()> {
    let failed = Error::io(to, "copy the permissions of");
    let Ok(replaced) = std::fs::symlink_metadata(to) else { return Ok(()) };
    let own = std::fs::metadata(from).map_err(&failed)?;
    if own.permissions() == replaced.permissions() {
        return Ok(());
    }
    std::fs::set_permissions(from, replaced.permissions()).map_err(failed)
}

#[cfg(not(unix))]
fn take_permissions(_from: &Path, _to: &Path) -> Result<()> {
    Ok(())
}

/// Creates a folder unless it exists.
fn make_folder(path: &Path) -> Result<()> {
    match Entry::at(path)? {
        Entry::Absent => std::fs::create_dir(path).map_err(Error::io(path, "create")),
        Entry::Folder => Ok(()),
        _ => Err(not_ours(path)),
    }
}

/// Removes the partial names of files that already have their final name, after an interruption of
/// [`Partial::finish_files`].
fn drop_second_names(destination: &Destination, names: &[String]) -> Result<()> {
    for name in names {
        let (grown, last) = (destination.files().join(name), destination.path.with_file_name(name));
        if let (Entry::File(grown_file), Entry::File(last)) =
            (Entry::at(&grown)?, Entry::at(&last)?)
            && !has_one_name(&grown_file)
            && same_file(&grown_file, &last)
        {
            remove_file(&grown)?;
        }
    }
    Ok(())
}

/// Rejects a folder with foreign entries; with `remove`, removes the known files.
fn clear(folder: &Path, known: &HashSet<&str>, remove: bool) -> Result<()> {
    let mut names = names_in(folder)?;
    for name in names.extract_if(.., |name| is_temporary(name)) {
        remove_file(&folder.join(name))?;
    }
    for name in &names {
        let path = folder.join(name);
        let ours = name.to_str().is_some_and(|name| known.contains(name));
        // A file with a second hard link is shared: writing to it would change both.
        match Entry::at(&path)? {
            Entry::File(found) if ours && has_one_name(&found) => {}
            _ => return Err(foreign(folder, &name.to_string_lossy())),
        }
    }
    if remove {
        names.iter().try_for_each(|name| remove_file(&folder.join(name)))?;
    }
    Ok(())
}

/// Returns whether a file is a temporary file of [`bitnet_formats::write_whole_file`].
fn is_temporary(name: &OsStr) -> bool {
    name.to_str().is_some_and(|name| name.starts_with(".bitnet-") && name.ends_with(".tmp"))
}

#[cfg(unix)]
fn has_one_name(found: &Metadata) -> bool {
    std::os::unix::fs::MetadataExt::nlink(found) == 1
}

#[cfg(not(unix))]
fn has_one_name(_found: &Metadata) -> bool {
    true
}

/// Creates a file with its full length and its header.
fn open_file(path: &Path, planned: &PlannedFile) -> Result<Mutex<File>> {
    let mut options = OpenOptions::new();
    options.read(true).write(true);
    if let Entry::Absent = Entry::at(path)? {
        options.create_new(true);
    }
    let mut file = options.open(path).map_err(Error::io(path, "create"))?;
    file.set_len(planned.len)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .and_then(|_| file.write_all(&planned.header))
        .map_err(Error::io(path, "write"))?;
    Ok(Mutex::new(file))
}

/// Reads the file names of a journal, and its records if they belong to this plan.
fn read_journal(journal: &File, plan: Digest) -> Option<(Vec<String>, Option<Vec<Record>>)> {
    let mut reader = BufReader::new(journal);
    let mut next = || {
        let mut text = String::new();
        let read = (&mut reader).take(MAX_LINE).read_line(&mut text).ok()?;
        (read > 0 && text.ends_with('\n')).then_some(text)
    };
    let heading: Heading = serde_json::from_str(&next()?).ok()?;
    if heading.format != FORMAT {
        return None;
    }
    if heading.plan != plan {
        return Some((heading.files, None));
    }
    let mut records = Vec::new();
    // The last line may be incomplete after a crash.
    while let Some(record) = next().and_then(|text| serde_json::from_str(&text).ok()) {
        records.push(record);
    }
    Some((heading.files, Some(records)))
}

fn line(value: &impl Serialize) -> String {
    // Serialisation of numbers, strings and lists cannot fail.
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
