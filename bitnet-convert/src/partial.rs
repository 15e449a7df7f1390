//! The unfinished result: files that grow beside the final name, and a journal by which an interrupted conversion goes on.
//!
//! ```text
//! .NAME.partial/files/...   the files of the result, at their full length from the beginning
//! .NAME.partial/journal     a line for the plan, then one for each step that is done, as JSON
//! ```
//!
//! A step counts as done if its line is whole and the bytes in the files still have the digest in the line: what was lost
//! on the way to the disk is made again.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use bitnet_formats::sync_folder;
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::encode::{Encoded, Proof};
use crate::options::Destination;
use crate::plan::{Plan, PlannedFile};
use crate::{Error, Result};

/// Longest line of a journal that is read.
const MAX_LINE: u64 = 1 << 16;

/// A step that is done.
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
}

/// The journal's format.
const FORMAT: u32 = 1;

/// The unfinished result of one plan.
#[derive(Debug)]
pub(crate) struct Partial {
    destination: Destination,
    files: Vec<Mutex<File>>,
    journal: Mutex<File>,
    records: Mutex<HashMap<usize, Record>>,
}

impl Destination {
    /// For a result that is to stand at `path`.
    pub(crate) fn new(path: &Path) -> Result<Self> {
        let name = path.file_name().ok_or_else(|| {
            Error::refused(path.display().to_string(), "it does not end in a name")
        })?;
        let mut hidden = std::ffi::OsString::from(".");
        hidden.push(name);
        hidden.push(".partial");
        Ok(Self { path: path.to_owned(), partial: path.with_file_name(hidden) })
    }

    /// The folder that the result's files grow in.
    pub(crate) fn files(&self) -> PathBuf {
        self.partial.join("files")
    }
}

impl Partial {
    /// Opens what an earlier run of the same plan left, if `resume` says so, else begins anew.
    ///
    /// The journal is locked, so that a second conversion to the same name is refused.
    pub(crate) fn open(
        destination: Destination,
        plan: &Plan,
        files: &[PlannedFile],
        fingerprint: Digest,
        resume: bool,
    ) -> Result<Self> {
        let folder = destination.files();
        // Folders above the result's are not made: a name that was typed wrong is told, not obeyed.
        match std::fs::create_dir(&destination.partial) {
            Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => {
                return Err(Error::io(&destination.partial, "create")(error));
            }
            _ => {}
        }
        let path = destination.partial.join("journal");
        let mut journal = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&path)
            .map_err(Error::io(&path, "open"))?;
        if journal.try_lock().is_err() {
            let problem = "another conversion to the same name is running; wait for it, or choose another name";
            return Err(Error::refused(destination.path.display().to_string(), problem));
        }
        let records = if resume { read_journal(&journal, fingerprint) } else { None };
        if records.is_none() && folder.exists() {
            std::fs::remove_dir_all(&folder).map_err(Error::io(&folder, "remove"))?;
        }
        std::fs::create_dir_all(&folder).map_err(Error::io(&folder, "create"))?;
        let opened = files
            .iter()
            .map(|file| open_file(&folder.join(&file.name), file, records.is_some()))
            .collect::<Result<Vec<_>>>()?;
        let partial = Self {
            destination,
            files: opened,
            journal: Mutex::new(File::open(&path).map_err(Error::io(&path, "open"))?),
            records: Mutex::default(),
        };
        let mut kept = records.unwrap_or_default();
        kept.retain(|record| partial.still_holds(plan, record));
        // The journal is written anew, without what no longer holds.
        let heading = Heading { format: FORMAT, plan: fingerprint };
        let mut text = line(&heading);
        kept.iter().for_each(|record| text.push_str(&line(record)));
        journal.set_len(0).map_err(Error::io(&path, "write"))?;
        journal.seek(SeekFrom::Start(0)).map_err(Error::io(&path, "write"))?;
        journal.write_all(text.as_bytes()).map_err(Error::io(&path, "write"))?;
        let records = kept.into_iter().map(|record| (record.step, record)).collect();
        Ok(Self { journal: Mutex::new(journal), records: Mutex::new(records), ..partial })
    }

    /// Whether a step is done already.
    pub(crate) fn is_done(&self, step: usize) -> bool {
        lock(&self.records).contains_key(&step)
    }

    /// Takes a step's bytes, and notes that it is done.
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

    /// The records of all steps, in order.
    pub(crate) fn records(&self) -> Vec<Record> {
        let mut records: Vec<Record> = lock(&self.records).values().cloned().collect();
        records.sort_by_key(|record| record.step);
        records
    }

    /// Brings the files to the disk.
    pub(crate) fn sync(&self) -> Result<()> {
        let failed = Error::io(self.destination.files(), "bring to the disk");
        self.files.iter().try_for_each(|file| lock(file).sync_all()).map_err(failed)
    }

    /// Puts files beside the final name under their own names, and removes what is left. The first one, by which a split model
    /// is opened, comes last.
    pub(crate) fn finish_files(self, names: &[PathBuf]) -> Result<()> {
        for to in names.iter().rev() {
            let from = self.destination.files().join(to.file_name().unwrap_or_default());
            std::fs::rename(&from, to).map_err(Error::io(to, "put the result at"))?;
        }
        self.finish()
    }

    /// Puts the folder under the final name; with `overwrite`, in the place of one that is there.
    pub(crate) fn finish_folder(self, overwrite: bool) -> Result<()> {
        let (from, to) = (self.destination.files(), self.destination.path.clone());
        let failed = Error::io(&to, "put the result at");
        let old = self.destination.partial.join("replaced");
        let replaced = overwrite && to.exists();
        if replaced {
            std::fs::rename(&to, &old).map_err(&failed)?;
        }
        if let Err(error) = std::fs::rename(&from, &to) {
            if replaced {
                // The one that was there goes back; should that fail as well, it is still in the partial folder.
                let _ = std::fs::rename(&old, &to);
            }
            return Err(failed(error));
        }
        self.finish()
    }

    fn finish(self) -> Result<()> {
        let Self { destination, files, journal, .. } = self;
        drop((files, journal));
        let parent = destination.path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let parent = parent.unwrap_or(Path::new("."));
        sync_folder(parent).map_err(Error::io(parent, "bring to the disk"))?;
        std::fs::remove_dir_all(&destination.partial)
            .map_err(Error::io(&destination.partial, "remove"))
    }

    /// Whether the bytes of a step are still in the files.
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

/// A file at its full length, with its header.
fn open_file(path: &Path, planned: &PlannedFile, keep: bool) -> Result<Mutex<File>> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(!keep)
        .open(path)
        .map_err(Error::io(path, "create"))?;
    file.set_len(planned.len)
        .and_then(|()| file.seek(SeekFrom::Start(0)))
        .and_then(|_| file.write_all(&planned.header))
        .map_err(Error::io(path, "write"))?;
    Ok(Mutex::new(file))
}

/// The records of a journal of this plan; `None` if it is another's.
fn read_journal(journal: &File, plan: Digest) -> Option<Vec<Record>> {
    let mut reader = BufReader::new(journal);
    let mut next = || {
        let mut text = String::new();
        let read = (&mut reader).take(MAX_LINE).read_line(&mut text).ok()?;
        (read > 0 && text.ends_with('\n')).then_some(text)
    };
    let heading: Heading = serde_json::from_str(&next()?).ok()?;
    if heading.format != FORMAT || heading.plan != plan {
        return None;
    }
    let mut records = Vec::new();
    // The line that was being written when the program ended is cut short.
    while let Some(record) = next().and_then(|text| serde_json::from_str(&text).ok()) {
        records.push(record);
    }
    Some(records)
}

fn line(value: &impl Serialize) -> String {
    // Numbers, texts and lists only: this can't fail.
    serde_json::to_string(value).unwrap_or_default() + "\n"
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
