//! Output files: an existing file is replaced only if the same command wrote it.

use std::fs::Metadata;
use std::io::{ErrorKind, Read};
use std::path::Path;

use anyhow::{Context, Result, bail};

/// Maximum size of an existing file that is identified, in bytes.
const MAX_BYTES: u64 = 64 << 20;

/// An output file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct OutputFile<'a> {
    /// Its path.
    pub(crate) path: &'a Path,
    /// Its kind, with the article: `a saved conversation`.
    pub(crate) what: &'static str,
    /// Returns whether bytes have the format of this kind.
    pub(crate) is_one: fn(&[u8]) -> bool,
}

impl OutputFile<'_> {
    /// Rejects a path with anything else; call it before long work as well.
    ///
    /// # Errors
    /// If the path is a file of another kind, a folder, a link or a special file.
    pub(crate) fn check(&self) -> Result<()> {
        self.is_there().map(drop)
    }

    /// Returns whether an existing file will be replaced.
    fn is_there(&self) -> Result<bool> {
        let shown = self.path.display();
        let found = match std::fs::symlink_metadata(self.path) {
            Ok(found) => found,
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
            Err(error) => return Err(error).with_context(|| format!("can't inspect {shown}")),
        };
        if !found.is_file() {
            bail!("{shown} is not a regular file and is not replaced; choose another name");
        }
        // An empty file has no contents to lose.
        if found.len() > 0 && !self.holds_one(&found)? {
            bail!("{shown} already exists and is not {}; choose another name", self.what);
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

    /// Writes the file atomically.
    ///
    /// # Errors
    /// Same as [`OutputFile::check`], and if it can't be written.
    pub(crate) fn write(&self, bytes: &[u8]) -> Result<()> {
        // A file that appears after the check is not replaced.
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
