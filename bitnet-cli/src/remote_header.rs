//! The header of a GGUF file on a hub, read before gigabytes are downloaded: whether this program reads the model, and
//! the memory that it needs.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use bitnet_formats::Error as FormatError;
use bitnet_hub::{Event, Hub, Listing};
use bitnet_inference::{InferenceError, Inspection, LoadOptions, ModelSource};

use crate::planned::Planned;

/// Bytes that hold the header with a vocabulary of 250,000 tokens.
const HEADER: usize = 16 << 20;
/// Files of fewer bytes are downloaded without a look at their headers.
const LEAST: u64 = 8 * HEADER as u64;

/// Reads the header of the file at `path` and completes `planned`. Does nothing for a small or cached file, or if the
/// header can't be had: the download will tell why.
///
/// # Errors
/// If this program does not read the model; [`bitnet_hub::Error::Stopped`].
pub(crate) fn check(
    hub: &Hub,
    listing: &Listing,
    path: &str,
    planned: &mut Planned,
    context: Option<usize>,
    watch: &mut dyn FnMut(Event<'_>) -> std::ops::ControlFlow<()>,
) -> Result<()> {
    let bytes = listing.file(path).and_then(|file| file.bytes);
    let Some(bytes) = bytes.filter(|&bytes| bytes >= LEAST) else { return Ok(()) };
    if hub.settings().offline || hub.cache(listing).shown(&listing.commit, Some(path)).exists() {
        return Ok(());
    }
    let header = match hub.beginning(listing, path, HEADER, watch) {
        Err(bitnet_hub::Error::Stopped) => return Err(bitnet_hub::Error::Stopped.into()),
        Err(_) => return Ok(()),
        Ok(header) => header,
    };
    let Ok(file) = Hollow::new(path, &header, bytes) else { return Ok(()) };
    match Inspection::of(ModelSource::Path(&file.path), &LoadOptions::default()) {
        Ok(found) => {
            let context = context.unwrap_or_else(|| found.config.default_context());
            planned.with_header(&found.memory, context);
            Ok(())
        }
        Err(error) if is_final(&error) => Err(error).with_context(|| {
            format!("{}:{path} was not downloaded: it can't be run", listing.repository)
        }),
        // The header is longer than what was read.
        Err(_) => Ok(()),
    }
}

/// Whether an error is about what the header says and not about where it was cut.
fn is_final(error: &InferenceError) -> bool {
    match error {
        InferenceError::Format(error) => matches!(
            error,
            FormatError::UnsupportedType { .. }
                | FormatError::UnsupportedVersion { .. }
                | FormatError::WrongFormat { .. }
                | FormatError::BigEndian { .. }
        ),
        InferenceError::Core(_) | InferenceError::Io { .. } => false,
        _ => true,
    }
}

/// A file with a header and nothing behind it, as long as the whole one. It is removed with its folder.
struct Hollow {
    folder: PathBuf,
    path: PathBuf,
}

impl Hollow {
    fn new(path: &str, header: &[u8], bytes: u64) -> std::io::Result<Self> {
        let folder = std::env::temp_dir().join(format!("bitnet-header-{}", std::process::id()));
        fs::create_dir_all(&folder)?;
        let name = Path::new(path).file_name().unwrap_or_default();
        let hollow = Self { path: folder.join(name), folder };
        let mut file = File::options().write(true).create_new(true).open(&hollow.path)?;
        file.write_all(header)?;
        file.set_len(bytes)?;
        Ok(hollow)
    }
}

impl Drop for Hollow {
    fn drop(&mut self) {
        // What can't be removed is a small file among temporary ones.
        let _ = fs::remove_file(&self.path);
        let _ = fs::remove_dir(&self.folder);
    }
}
