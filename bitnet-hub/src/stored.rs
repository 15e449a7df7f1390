//! Listing of cached models and their removal. Links are removed,
//! not followed, except to contents of the same repository.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File, Metadata, TryLockError};
use std::io;
use std::path::{Component, Path, PathBuf};

use crate::cache::{HubCache, RepositoryCache, make_parent};
use crate::choose::{Wanted, choose};
use crate::error::{Error, Result};
use crate::name::{ModelName, Repository};

/// Maximum folder depth.
const DEEPEST: usize = 16;

/// The prefix of a model's folder in the cache.
const PREFIX: &str = "models--";

/// A model in the cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredModel {
    /// Its repository name.
    pub repository: Repository,
    /// The size of its contents in bytes, without duplicates.
    pub bytes: u64,
    /// The size of partial downloads in bytes.
    pub unfinished_bytes: u64,
    /// The file or folder to run.
    pub path: PathBuf,
    /// The commits with cached files.
    pub revisions: Vec<String>,
    /// The files of the revision at `path`, with their sizes.
    pub files: Vec<(String, u64)>,
}

/// A file of a snapshot: a link to contents, or the contents.
#[derive(Debug, Clone)]
struct Entry {
    commit: String,
    /// Its path in the repository.
    path: String,
    /// Its path in the cache.
    place: PathBuf,
    /// The name of the linked contents.
    blob: Option<String>,
    /// Its own size in bytes, if it is not a link.
    own_bytes: u64,
}

/// A planned removal.
#[derive(Debug)]
pub struct Removal {
    name: ModelName,
    hub_cache: HubCache,
    cache: RepositoryCache,
    entries: Vec<Entry>,
    blobs: BTreeSet<String>,
    /// Commits without remaining files.
    commits: BTreeSet<String>,
    whole: bool,
    freed: u64,
    shared: u64,
}

impl HubCache {
    /// Returns the models in the cache, by name.
    ///
    /// # Errors
    /// [`Error::Io`] if the cache can't be read.
    pub fn models(&self) -> Result<Vec<StoredModel>> {
        let mut models = Vec::new();
        // The cache folder may be a link.
        let Ok(folder) = fs::canonicalize(self.folder()) else { return Ok(models) };
        for (name, data) in list(&folder)? {
            let name = name.strip_prefix(PREFIX).map(|name| name.replacen("--", "/", 1));
            let Some(repository) = name.and_then(|name| Repository::new(&name).ok()) else {
                continue;
            };
            if data.is_dir() {
                models.push(self.repository(&repository).describe(repository)?);
            }
        }
        models.sort_by(|a, b| a.repository.as_str().cmp(b.repository.as_str()));
        Ok(models)
    }

    /// Plans the removal of `name`: a whole model, a revision or a file. Contents used by another revision stay. Does
    /// not remove anything.
    ///
    /// # Errors
    /// [`Error::NotCached`], [`Error::NotRemoved`], [`Error::Io`].
    pub fn plan_removal(&self, name: &ModelName) -> Result<Removal> {
        // Links must lead to contents by a path without `..` and links.
        let hub_cache = self.canonical().ok_or_else(|| self.not_cached(name))?;
        let cache = hub_cache.repository(&name.repository);
        match fs::symlink_metadata(&cache.folder) {
            Ok(data) if data.is_dir() => {}
            Ok(_) => {
                let problem = "it is a link or a file, not the folder of a model";
                return Err(Error::NotRemoved { path: cache.folder, problem });
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(self.not_cached(name));
            }
            Err(error) => return Err(Error::io(&cache.folder, "look at")(error)),
        }
        let all = cache.entries()?;
        let commit = match &name.revision {
            None => None,
            Some(revision) => Some(cache.commit(revision)?.ok_or_else(|| self.not_cached(name))?),
        };
        let mut chosen = BTreeSet::new();
        for revision in all.iter().map(|entry| &entry.commit).collect::<BTreeSet<_>>() {
            if commit.as_ref().is_none_or(|commit| commit == revision) {
                let paths = match &name.file {
                    None => None,
                    Some(file) => {
                        let files = cache.files(revision)?;
                        choose(&name.repository, &files, &Wanted::File(file)).ok()
                    }
                };
                chosen.extend(all.iter().enumerate().filter_map(|(index, entry)| {
                    let wanted = match (&name.file, &paths) {
                        (None, _) => true,
                        (Some(_), Some(selection)) => selection.paths.contains(&entry.path),
                        (Some(_), None) => false,
                    };
                    (entry.commit == *revision && wanted).then_some(index)
                }));
            }
        }
        let everything = name.file.is_none() && name.revision.is_none();
        if chosen.is_empty() && !everything {
            return Err(self.not_cached(name));
        }
        Removal::new(name, hub_cache, all, &chosen)
    }
}

impl RepositoryCache {
    fn describe(&self, repository: Repository) -> Result<StoredModel> {
        let entries = self.entries()?;
        let blobs = self.blobs()?;
        let revisions: BTreeSet<String> = entries.iter().map(|e| e.commit.clone()).collect();
        let main = self.commit("main")?.filter(|commit| revisions.contains(commit));
        let commit = main.or_else(|| revisions.first().cloned());
        let files = commit.as_ref().map_or(Ok(Vec::new()), |commit| self.files(commit))?;
        let path = commit.map_or(self.folder.clone(), |commit| {
            let run = choose(&repository, &files, &Wanted::Model).ok().and_then(|s| s.run);
            self.shown(&commit, run.as_deref())
        });
        let (unfinished, finished): (Vec<_>, Vec<_>) =
            blobs.into_iter().partition(|(name, _)| name.ends_with(".incomplete"));
        let own: u64 = entries.iter().map(|entry| entry.own_bytes).sum();
        Ok(StoredModel {
            repository,
            bytes: own + finished.iter().map(|(_, bytes)| bytes).sum::<u64>(),
            unfinished_bytes: unfinished.iter().map(|(_, bytes)| bytes).sum(),
            path,
            revisions: revisions.into_iter().collect(),
            files: files.into_iter().map(|f| (f.path, f.bytes.unwrap_or(0))).collect(),
        })
    }

    /// Contents by name, with their sizes.
    fn blobs(&self) -> Result<BTreeMap<String, u64>> {
        let all = list(&self.folder.join("blobs"))?.into_iter();
        Ok(all.filter(|(_, data)| data.is_file()).map(|(name, data)| (name, data.len())).collect())
    }

    /// Returns the files of all snapshots.
    fn entries(&self) -> Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for (commit, data) in list(&self.folder.join("snapshots"))? {
            if data.is_dir() {
                let folder = self.folder.join("snapshots").join(&commit);
                self.walk(&commit, &folder, "", DEEPEST, &mut entries)?;
            }
        }
        Ok(entries)
    }

    fn walk(
        &self,
        commit: &str,
        folder: &Path,
        prefix: &str,
        depth: usize,
        entries: &mut Vec<Entry>,
    ) -> Result<()> {
        for (name, data) in list(folder)? {
            let (place, path) = (folder.join(&name), format!("{prefix}{name}"));
            if data.is_dir() {
                if depth > 0 {
                    self.walk(commit, &place, &format!("{path}/"), depth - 1, entries)?;
                }
                continue;
            }
            let blob = if data.is_symlink() { self.blob_of(&place) } else { None };
            let own_bytes = if data.is_file() && !is_shared(&data) { data.len() } else { 0 };
            entries.push(Entry { commit: commit.to_owned(), path, place, blob, own_bytes });
        }
        Ok(())
    }

    /// Returns the name of the contents that a link leads to, if they belong to this repository.
    fn blob_of(&self, link: &Path) -> Option<String> {
        let target = link.parent()?.join(fs::read_link(link).ok()?);
        let mut plain = PathBuf::new();
        for part in target.components() {
            match part {
                Component::ParentDir => {
                    plain.pop();
                }
                Component::CurDir => {}
                part => plain.push(part),
            }
        }
        let name = plain.strip_prefix(self.folder.join("blobs")).ok()?.to_str()?;
        (!name.is_empty() && !name.contains('/')).then(|| name.to_owned())
    }
}

impl Removal {
    fn new(
        name: &ModelName,
        hub_cache: HubCache,
        all: Vec<Entry>,
        chosen: &BTreeSet<usize>,
    ) -> Result<Self> {
        let cache = hub_cache.repository(&name.repository);
        let sizes = cache.blobs()?;
        // Removing a file or a revision never removes the model's folder or partial downloads of other files.
        let whole = name.file.is_none() && name.revision.is_none();
        let (mut entries, mut staying) = (Vec::new(), Vec::new());
        for (index, entry) in all.into_iter().enumerate() {
            if chosen.contains(&index) { entries.push(entry) } else { staying.push(entry) }
        }
        let blobs_of = |entries: &[Entry]| {
            entries.iter().filter_map(|entry| entry.blob.clone()).collect::<BTreeSet<_>>()
        };
        let (used, needed) = (blobs_of(&entries), blobs_of(&staying));
        let size = |name: &String| sizes.get(name).copied().unwrap_or(0);
        let shared = used.intersection(&needed).map(size).sum();
        let blobs: BTreeSet<String> = if whole {
            sizes.keys().cloned().collect()
        } else {
            used.difference(&needed).cloned().collect()
        };
        let freed = blobs.iter().map(size).sum::<u64>()
            + entries.iter().map(|entry| entry.own_bytes).sum::<u64>();
        let commits_of = |entries: &[Entry]| {
            entries.iter().map(|entry| entry.commit.clone()).collect::<BTreeSet<_>>()
        };
        let commits = &commits_of(&entries) - &commits_of(&staying);
        let name = name.clone();
        Ok(Self { name, hub_cache, cache, entries, blobs, commits, whole, freed, shared })
    }

    /// Returns the number of files to remove.
    pub fn files(&self) -> usize {
        self.entries.len()
    }

    /// Returns the bytes to free.
    pub fn freed_bytes(&self) -> u64 {
        self.freed
    }

    /// Returns the bytes of contents that stay because another revision uses them.
    pub fn shared_bytes(&self) -> u64 {
        self.shared
    }

    /// Plans again under locks, removes the files and returns the actual removal, which may be smaller than the plan.
    ///
    /// # Errors
    /// [`Error::NotRemoved`] if another process downloads this model, or more would be removed than planned;
    /// [`Error::NotCached`] if nothing is left to remove; [`Error::Io`].
    pub fn run(&self) -> Result<Self> {
        let _alone = self.lock_alone()?;
        let held = self.lock()?;
        let now = self.hub_cache.plan_removal(&self.name)?;
        if now.is_more_than(self) {
            let problem = "files were added since the removal was planned; run the command again";
            return Err(Error::NotRemoved { path: self.cache.folder.clone(), problem });
        }
        now.remove(&held)?;
        Ok(now)
    }

    /// Returns whether it removes more than `planned`.
    fn is_more_than(&self, planned: &Self) -> bool {
        let key = |entry: &Entry| (entry.place.clone(), entry.blob.clone());
        let known: BTreeSet<_> = planned.entries.iter().map(key).collect();
        self.freed > planned.freed
            || !self.blobs.is_subset(&planned.blobs)
            || !self.commits.is_subset(&planned.commits)
            || !self.entries.iter().all(|entry| known.contains(&key(entry)))
    }

    fn remove(&self, held: &[(PathBuf, File)]) -> Result<()> {
        let folder = &self.cache.folder;
        // Refs first, so that a partially removed model is not found.
        self.remove_references(&folder.join("refs"), DEEPEST)?;
        for entry in &self.entries {
            remove_file(&entry.place)?;
            let snapshot = folder.join("snapshots").join(&entry.commit);
            let mut parents = entry.place.ancestors().skip(1);
            // Non-empty folders stay.
            while let Some(parent) = parents.next().filter(|parent| parent.starts_with(&snapshot)) {
                if fs::remove_dir(parent).is_err() {
                    break;
                }
            }
        }
        for blob in &self.blobs {
            remove_file(&self.cache.blob(blob))?;
        }
        if self.whole { self.remove_rest(held) } else { Ok(()) }
    }

    /// Removes a model's records of absent files, empty folders and locks. Unplanned files stay, because a program with
    /// other locks may have begun a download.
    fn remove_rest(&self, held: &[(PathBuf, File)]) -> Result<()> {
        let folder = &self.cache.folder;
        remove_all(&folder.join(".no_exist"))?;
        remove_empty(folder, DEEPEST)?;
        for (path, _) in held {
            remove_file(path)?;
        }
        // Non-empty folders stay.
        let _ = fs::remove_dir(&self.cache.locks);
        if folder.exists() {
            let problem =
                "the remaining files are not part of the model, or were added during the removal";
            return Err(Error::NotRemoved { path: folder.clone(), problem });
        }
        Ok(())
    }

    /// Removes the refs of commits without remaining files.
    fn remove_references(&self, folder: &Path, depth: usize) -> Result<()> {
        for (name, data) in list(folder)? {
            let path = folder.join(name);
            if data.is_dir() && depth > 0 {
                self.remove_references(&path, depth - 1)?;
            } else if data.is_file() && data.len() <= 64 {
                let text = fs::read(&path).map_err(Error::io(&path, "read"))?;
                let text = String::from_utf8_lossy(&text);
                if self.whole || self.commits.contains(text.trim()) {
                    remove_file(&path)?;
                }
            }
        }
        Ok(())
    }

    /// Takes the lock shared by downloads of this program, if the file system has locks.
    fn lock_alone(&self) -> Result<File> {
        let path = &self.cache.removal_lock;
        make_parent(path)?;
        let lock = File::options().create(true).append(true).open(path);
        let lock = lock.map_err(Error::io(path, "open the lock"))?;
        match lock.try_lock() {
            Err(TryLockError::WouldBlock) => Err(busy(path)),
            _ => Ok(lock),
        }
    }

    /// Takes the locks of the repository, so that no program writes to it.
    fn lock(&self) -> Result<Vec<(PathBuf, File)>> {
        let mut held = Vec::new();
        for (name, data) in list(&self.cache.locks)? {
            if !data.is_file() {
                continue;
            }
            let path = self.cache.locks.join(name);
            let lock = File::options().append(true).open(&path);
            let lock = lock.map_err(Error::io(&path, "open the lock"))?;
            if matches!(lock.try_lock(), Err(TryLockError::WouldBlock)) {
                return Err(busy(&path));
            }
            held.push((path, lock));
        }
        Ok(held)
    }
}

fn busy(path: &Path) -> Error {
    let problem = "another program downloads or removes this model; stop it first";
    Error::NotRemoved { path: path.to_owned(), problem }
}

/// Lists a folder without following links; empty if it does not exist or is a link.
fn list(folder: &Path) -> Result<Vec<(String, Metadata)>> {
    if !fs::symlink_metadata(folder).is_ok_and(|data| data.is_dir()) {
        return Ok(Vec::new());
    }
    let failed = || Error::io(folder, "list");
    let mut names = Vec::new();
    for entry in fs::read_dir(folder).map_err(failed())? {
        let entry = entry.map_err(failed())?;
        if let Some(name) = entry.file_name().to_str() {
            names.push((name.to_owned(), entry.metadata().map_err(failed())?));
        }
    }
    names.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(names)
}

/// Returns whether a file is a hard link to contents counted elsewhere.
fn is_shared(data: &Metadata) -> bool {
    #[cfg(unix)]
    {
        std::os::unix::fs::MetadataExt::nlink(data) > 1
    }
    #[cfg(not(unix))]
    {
        let _ = data;
        false
    }
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::io(path, "remove")(error))
        }
        _ => Ok(()),
    }
}

/// Removes empty folders recursively, without following links.
fn remove_empty(folder: &Path, depth: usize) -> Result<()> {
    for (name, data) in list(folder)? {
        if data.is_dir() && depth > 0 {
            remove_empty(&folder.join(name), depth - 1)?;
        }
    }
    // Non-empty folders stay.
    let _ = fs::remove_dir(folder);
    Ok(())
}

/// Removes a folder recursively; removes a link itself.
fn remove_all(path: &Path) -> Result<()> {
    match fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(data) if data.is_dir() => fs::remove_dir_all(path).map_err(Error::io(path, "remove")),
        Ok(_) => remove_file(path),
    }
}

#[cfg(unix)]
#[cfg(test)]
mod tests;
