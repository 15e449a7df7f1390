//! The cache on disk, in the layout of the Python library `huggingface_hub`, which can share it.
//!
//! ```text
//! CACHE/models--OWNER--NAME/blobs/ETAG                     the contents, once
//! CACHE/models--OWNER--NAME/blobs/ETAG.incomplete          a partial download
//! CACHE/models--OWNER--NAME/snapshots/COMMIT/PATH          a link to the blob
//! CACHE/models--OWNER--NAME/refs/REVISION                  the commit of a branch or a tag
//! CACHE/.locks/models--OWNER--NAME/ETAG.lock               held while a blob is written
//! CACHE/.locks/models--OWNER--NAME.bitnet.lock             shared by our downloads, exclusive for a removal
//! ```

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use crate::choose::{self, Found, Wanted};
use crate::complete::complete;
use crate::error::{Error, Result};
use crate::link;
use crate::name::{ModelName, Repository, is_commit, path_problem};
use crate::recommend::{Recommended, recommend};

/// Maximum folder depth.
const DEEPEST: usize = 16;

/// A cache of one or more repositories.
#[derive(Debug, Clone)]
pub struct HubCache {
    folder: PathBuf,
    symlinks: bool,
}

impl HubCache {
    /// Returns the cache in `folder`, which need not exist.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into(), symlinks: true }
    }

    /// Uses copies (or hard links) instead of symbolic links.
    #[must_use]
    pub fn without_symlinks(mut self) -> Self {
        self.symlinks = false;
        self
    }

    /// Resolves links and `..` in the folder's path; `None` if it does not exist.
    pub(crate) fn canonical(&self) -> Option<Self> {
        let folder = fs::canonicalize(&self.folder).ok()?;
        Some(Self { folder, symlinks: self.symlinks })
    }

    /// Returns the folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Returns the part of the cache that belongs to `repository`.
    pub fn repository(&self, repository: &Repository) -> RepositoryCache {
        let name = repository.folder();
        RepositoryCache {
            folder: self.folder.join(&name),
            removal_lock: self.folder.join(".locks").join(format!("{name}.bitnet.lock")),
            locks: self.folder.join(".locks").join(name),
            symlinks: self.symlinks,
        }
    }

    /// Returns the cached file or folder to run for `name`: the named file, the only GGUF model, or the folder of a
    /// safetensors model. Incomplete models are ignored. Does not download.
    ///
    /// # Errors
    /// [`Error::NotCached`] if it is missing or incomplete,
    /// [`Error::Choose`] if there are several models, [`Error::Io`].
    pub fn find(&self, name: &ModelName) -> Result<PathBuf> {
        let Stored { cache, commit, files, missing } = self.stored(name)?;
        let missing = || self.lacking(name, missing.clone());
        let wanted = name.file.as_deref().map_or(Wanted::Model, Wanted::File);
        let selection =
            choose::choose(&name.repository, &files, &wanted).map_err(|error| match error {
                Error::NoFile { .. } | Error::NoModel { .. } => missing(),
                other => other,
            })?;
        Ok(cache.shown(&commit, selection.run.as_deref()))
    }

    /// Like [`HubCache::find`], but selects the best of several models for a machine with `memory` free bytes.
    ///
    /// # Errors
    /// [`Error::NotCached`] if there is none, [`Error::NotRunnable`], [`Error::Choose`] if they are different models,
    /// [`Error::Io`].
    pub fn find_best(
        &self,
        name: &ModelName,
        memory: Option<u64>,
    ) -> Result<(PathBuf, Recommended)> {
        let Stored { cache, commit, files, missing } = self.stored(name)?;
        let best = recommend(&name.repository, &files, memory);
        let best = best.map_err(|error| match error {
            Error::NotRunnable { .. } | Error::Choose { .. } => error,
            _ => self.lacking(name, missing),
        })?;
        Ok((cache.shown(&commit, best.selection.run.as_deref()), best))
    }

    /// Returns the files of the revision of `name`, without incomplete models.
    fn stored(&self, name: &ModelName) -> Result<Stored> {
        let cache = self.repository(&name.repository);
        let commit = cache.commit(name.revision())?.ok_or_else(|| self.not_cached(name))?;
        let files = cache.files(&commit)?;
        let found = complete(&cache.snapshot(&commit), &files, name.file.is_none())?;
        let missing = match &name.file {
            None if found.missing_gguf.is_empty() => found.missing_safetensors,
            None => found.missing_gguf,
            Some(file) => {
                // The parts of the requested split model, if any.
                let meant = choose::choose(&name.repository, &files, &Wanted::File(file)).ok();
                let meant = meant.and_then(|selection| selection.run);
                let stem = meant.as_deref().and_then(|run| choose::split_name(run, ".gguf"));
                let of_it = |part: &String| {
                    choose::split_name(part, ".gguf").map(|(name, ..)| name)
                        == stem.map(|(name, ..)| name)
                };
                found.missing_gguf.into_iter().filter(of_it).collect()
            }
        };
        Ok(Stored { cache, commit, files: found.files, missing })
    }

    pub(crate) fn not_cached(&self, name: &ModelName) -> Error {
        self.lacking(name, Vec::new())
    }

    fn lacking(&self, name: &ModelName, missing: Vec<String>) -> Error {
        Error::NotCached { what: name.to_string(), folder: self.folder.clone(), missing }
    }
}

/// The cached part of a revision.
struct Stored {
    cache: RepositoryCache,
    commit: String,
    /// The cached files, without those of incomplete models.
    files: Vec<Found>,
    /// The missing files of incomplete models.
    missing: Vec<String>,
}

/// The part of a cache that belongs to one repository.
#[derive(Debug, Clone)]
pub struct RepositoryCache {
    pub(crate) folder: PathBuf,
    pub(crate) locks: PathBuf,
    /// Returns the lock file that downloads share and a removal holds exclusively.
    pub(crate) removal_lock: PathBuf,
    symlinks: bool,
}

impl RepositoryCache {
    /// Returns the path of the contents with `etag`.
    pub fn blob(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(etag)
    }

    /// Returns the path of a partial download.
    pub fn partial(&self, etag: &str) -> PathBuf {
        self.folder.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// Returns the lock file for writing contents.
    pub fn lock(&self, etag: &str) -> PathBuf {
        self.locks.join(format!("{etag}.lock"))
    }

    /// Returns the folder of a commit's files.
    pub fn snapshot(&self, commit: &str) -> PathBuf {
        self.folder.join("snapshots").join(commit)
    }

    /// Returns a file of a commit, or the folder of all of them.
    pub fn shown(&self, commit: &str, path: Option<&str>) -> PathBuf {
        let snapshot = self.snapshot(commit);
        path.map_or(snapshot.clone(), |path| snapshot.join(path))
    }

    /// Returns the commit of `revision` at the last download; a full commit hash is returned unchanged.
    ///
    /// # Errors
    /// [`Error::Io`] if the ref file exists and can't be read.
    pub fn commit(&self, revision: &str) -> Result<Option<String>> {
        if is_commit(revision) {
            return Ok(Some(revision.to_owned()));
        }
        let path = self.reference(revision);
        let mut text = String::new();
        match File::open(&path).and_then(|file| file.take(64).read_to_string(&mut text)) {
            Ok(_) => {}
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::IsADirectory
                ) =>
            {
                return Ok(None);
            }
            Err(error) => return Err(Error::io(&path, "read")(error)),
        }
        Ok(Some(text.trim().to_owned()).filter(|commit| is_commit(commit)))
    }

    /// Records the commit of a branch or a tag.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn note_commit(&self, revision: &str, commit: &str) -> Result<()> {
        if revision == commit || self.commit(revision)?.as_deref() == Some(commit) {
            return Ok(());
        }
        let path = self.reference(revision);
        make_parent(&path)?;
        let temporary = temporary_name(&path);
        fs::write(&temporary, commit).map_err(Error::io(&temporary, "write"))?;
        fs::rename(&temporary, &path).map_err(Error::io(&path, "write"))
    }

    /// Links `path` of `commit` to the contents with `etag` and returns the link's path.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn show(&self, commit: &str, path: &str, etag: &str) -> Result<PathBuf> {
        let shown = self.snapshot(commit).join(path);
        make_parent(&shown)?;
        let up = "../".repeat(path.split('/').count() + 1);
        let relative = PathBuf::from(format!("{up}blobs/{etag}"));
        let temporary = temporary_name(&shown);
        link::show(&self.blob(etag), &relative, &temporary, self.symlinks)
            .map_err(Error::io(&shown, "link or copy the contents to"))?;
        fs::rename(&temporary, &shown).map_err(Error::io(&shown, "put into place"))?;
        Ok(shown)
    }

    /// Returns the cached files of a commit with their sizes, by name.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn files(&self, commit: &str) -> Result<Vec<Found>> {
        let mut files = Vec::new();
        let snapshot = self.snapshot(commit);
        if snapshot.is_dir() {
            walk(&snapshot, "", DEEPEST, &mut files).map_err(Error::io(&snapshot, "list"))?;
        }
        files.sort_by(|a, b| a.path.cmp(&b.path));
        Ok(files)
    }

    fn reference(&self, revision: &str) -> PathBuf {
        self.folder.join("refs").join(revision)
    }
}

fn walk(folder: &Path, prefix: &str, depth: usize, files: &mut Vec<Found>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Names from a hub are UTF-8.
        let Some(name) = entry.file_name().to_str().map(|name| format!("{prefix}{name}")) else {
            continue;
        };
        // Links are followed, because a snapshot consists of them. A dangling link counts as missing.
        let Ok(data) = fs::metadata(entry.path()) else { continue };
        if data.is_dir() && depth > 0 && !entry.file_type()?.is_symlink() {
            walk(&entry.path(), &format!("{name}/"), depth - 1, files)?;
        } else if data.is_file() && path_problem(&name).is_none() {
            files.push(Found { path: name, bytes: Some(data.len()) });
        }
    }
    Ok(())
}

/// Creates the parent folder of `path`.
pub(crate) fn make_parent(path: &Path) -> Result<()> {
    path.parent().map_or(Ok(()), |parent| {
        fs::create_dir_all(parent).map_err(Error::io(parent, "create the folder"))
    })
}

/// Returns a name unique to this process, in the same folder.
fn temporary_name(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    path.with_file_name(format!(".bitnet-{}-{count}.tmp", std::process::id()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const COMMIT: &str = "0123456789abcdef0123456789abcdef01234567";

    fn filled(cache: &HubCache, files: &[&str]) -> RepositoryCache {
        let cache = cache.repository(&Repository::new("a/b").unwrap());
        for (index, file) in files.iter().enumerate() {
            let etag = format!("{index:040x}");
            make_parent(&cache.blob(&etag)).unwrap();
            fs::write(cache.blob(&etag), file).unwrap();
            cache.show(COMMIT, file, &etag).unwrap();
        }
        cache.note_commit("main", COMMIT).unwrap();
        cache
    }

    #[test]
    fn linked_files_have_the_contents_and_are_found() {
        for symlinks in [true, false] {
            let folder = tempfile::tempdir().unwrap();
            let mut cache = HubCache::new(folder.path());
            if !symlinks {
                cache = cache.without_symlinks();
            }
            let files = ["config.json", "deep/er/model.safetensors", "model.safetensors"];
            let repository = filled(&cache, &files);
            for file in files {
                let shown = repository.shown(COMMIT, Some(file));
                assert_eq!(fs::read_to_string(&shown).unwrap(), file);
                let is_link = fs::symlink_metadata(&shown).unwrap().is_symlink();
                assert_eq!(is_link, symlinks && cfg!(unix), "{file}");
            }
            let listed: Vec<_> =
                repository.files(COMMIT).unwrap().into_iter().map(|f| f.path).collect();
            assert_eq!(listed, files);
            // Linking again replaces the link and leaves no temporary file.
            repository.show(COMMIT, "config.json", &format!("{:040x}", 1)).unwrap();
            let shown = repository.shown(COMMIT, Some("config.json"));
            assert_eq!(fs::read_to_string(shown).unwrap(), files[1]);
            assert_eq!(repository.files(COMMIT).unwrap().len(), 3);
            let name = ModelName::parse("a/b").unwrap();
            assert_eq!(cache.find(&name).unwrap(), repository.snapshot(COMMIT));
            let name = ModelName::parse("a/b:config.json").unwrap();
            assert_eq!(cache.find(&name).unwrap(), repository.shown(COMMIT, Some("config.json")));
        }
    }

    #[test]
    fn missing_files_are_reported() {
        let folder = tempfile::tempdir().unwrap();
        let cache = HubCache::new(folder.path());
        let find = |text: &str| cache.find(&ModelName::parse(text).unwrap());
        assert!(matches!(find("a/b"), Err(Error::NotCached { .. })));
        let repository = filled(&cache, &["x-tq1_0.gguf", "x-tq2_0.gguf"]);
        assert!(matches!(find("a/b"), Err(Error::Choose { choices, .. }) if choices.len() == 2));
        assert!(find("a/b:TQ2_0").unwrap().ends_with("x-tq2_0.gguf"));
        assert!(matches!(find("a/b:y.gguf"), Err(Error::NotCached { .. })));
        assert!(matches!(find("a/b@other"), Err(Error::NotCached { .. })));
        // A dangling link is not a file.
        fs::remove_file(repository.blob(&format!("{:040x}", 0))).unwrap();
        #[cfg(unix)]
        assert!(find("a/b").unwrap().ends_with("x-tq2_0.gguf"));
    }

    #[test]
    fn incomplete_models_are_not_found() {
        for (files, missing) in [
            (&["config.json", "tokenizer.json"][..], "model.safetensors"),
            (&["model.safetensors"], "config.json"),
            (&["config.json", "model-00001-of-00002.safetensors"], "model-00002-of-00002"),
            (&["x-00001-of-00002.gguf"], "x-00002-of-00002.gguf"),
        ] {
            let folder = tempfile::tempdir().unwrap();
            let cache = HubCache::new(folder.path());
            filled(&cache, files);
            let name = ModelName::parse("a/b").unwrap();
            for error in [cache.find(&name).unwrap_err(), cache.find_best(&name, None).unwrap_err()]
            {
                assert!(matches!(error, Error::NotCached { .. }), "{error:?}");
                let text = error.to_string();
                assert!(text.contains("not complete") && text.contains(missing), "{text}");
            }
        }
        let folder = tempfile::tempdir().unwrap();
        let cache = HubCache::new(folder.path());
        let repository =
            filled(&cache, &["model.safetensors.index.json", "x-00001-of-00002.gguf", "y.gguf"]);
        let whole = cache.find(&ModelName::parse("a/b").unwrap()).unwrap();
        assert_eq!(whole, repository.shown(COMMIT, Some("y.gguf")));
        let part = cache.find(&ModelName::parse("a/b:x-00001-of-00002.gguf").unwrap());
        let text = part.unwrap_err().to_string();
        assert!(text.contains("x-00002-of-00002.gguf missing"), "{text}");
        let index = cache.find(&ModelName::parse("a/b:model.safetensors.index.json").unwrap());
        assert!(index.is_ok(), "a named file is found");
    }

    #[test]
    fn references_lead_to_commits_only() {
        let folder = tempfile::tempdir().unwrap();
        let cache = filled(&HubCache::new(folder.path()), &["x"]);
        assert_eq!(cache.commit("main").unwrap().as_deref(), Some(COMMIT));
        assert_eq!(cache.commit(COMMIT).unwrap().as_deref(), Some(COMMIT));
        cache.note_commit("refs/pr/1", COMMIT).unwrap();
        assert_eq!(cache.commit("refs/pr/1").unwrap().as_deref(), Some(COMMIT));
        for odd in ["../../etc", "", "main\nmain"] {
            fs::write(cache.reference("odd"), odd).unwrap();
            assert_eq!(cache.commit("odd").unwrap(), None, "{odd:?}");
        }
    }
}
