//! Files that commands write where the user says: one that is there already is replaced only if the same command wrote it.

use std::fs::Metadata;
use std::io::{ErrorKind, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Largest file that is read to find out what it is, in bytes.
const MAX_BYTES: u64 = 64 << 20;

/// A kind of file that a command writes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutputFile<'a> {
    /// Where it is to be.
    pub(crate) path: &'a Path,
    /// What it is, with its article: `a saved conversation`.
    pub(crate) what: &'static str,
    /// Whether bytes are those of such a file.
    pub(crate) is_one: fn(&[u8]) -> bool,
}

impl OutputFile<'_> {
    /// Refuses a name at which anything else stands; to be called before long work, too.
    ///
    /// # Errors
    /// If a file of another kind, a folder, a link or a special file is there.
    pub(crate) fn check(&self) -> Result<()> {
        self.is_there().map(drop)
    }

    /// Whether a file is there that is replaced.
    fn is_there(&self) -> Result<bool> {
        let shown = self.path.display();
        let found = match std::fs::symlink_metadata(self.path) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error).with_context(|| format!("can't look at {shown}")),
        };
        if !found.is_file() {
            bail!("{shown} is not a regular file and is not replaced; choose another name");
        }
        // An empty file has nothing to lose.
        if found.len() > 0 && !self.holds_one(&found)? {
            bail!("{shown} is there already and is not {}; choose another name", self.what);
        }
        Ok(true)
    }

    fn holds_one(&self, found: &Metadata) -> Result<bool> {
        if found.len() > MAX_BYTES {
            return Ok(false);
        }
        let mut bytes = Vec::new();
        std::fs::File::open(self.path)
            .and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes))
            .with_context(|| format!("can't read {}", self.path.display()))?;
        Ok((self.is_one)(&bytes))
    }

    /// Writes the file so that it is there whole or not at all.
    ///
    /// # Errors
    /// As [`OutputFile::check`], and if it can't be written.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<()> {
        // A file that appears after the look is not replaced.
        let written = match self.is_there()? {
            true => bitnet_formats::write_whole_file(self.path, bytes),
            false => bitnet_formats::write_new_file(self.path, bytes),
        };
        Ok(written?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn only_files_of_the_same_kind_are_replaced() {
        let work = tempfile::tempdir().unwrap();
        let path = work.path().join("out.json");
        let file =
            OutputFile { path: &path, what: "a list", is_one: |bytes| bytes.starts_with(b"[") };
        file.write(b"[1]").unwrap();
        file.write(b"[2]").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"[2]");
        fs::write(&path, b"").unwrap();
        file.write(b"[3]").unwrap();
        fs::write(&path, b"mine").unwrap();
        assert!(file.write(b"[4]").unwrap_err().to_string().contains("not a list"));
        assert_eq!(fs::read(&path).unwrap(), b"mine");
        assert!(OutputFile { path: work.path(), ..file }.write(b"[5]").is_err());
        assert_eq!(fs::read_dir(work.path()).unwrap().count(), 1, "no temporary file is left");
    }
}
