//! The header of a GGUF file on a hub, or the settings of a folder, read before gigabytes are downloaded: whether this
//! program runs the model, and the memory that it needs.

use std::fs::{self, File};
use std::io::Write;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use bitnet_formats::Error as FormatError;
use bitnet_hub::{Event, Hub, Listing};
use bitnet_inference::loader::check_config;
use bitnet_inference::{InferenceError, Inspection, LoadOptions, ModelSource};

use crate::planned::Planned;

/// Bytes that hold the header with a vocabulary of 250,000 tokens.
const HEADER: usize = 16 << 20;
/// The settings of a folder.
const CONFIG: &str = "config.json";
/// GGUF files of fewer bytes are downloaded without a look at their headers.
const LEAST: u64 = 8 * HEADER as u64;

/// Reads the header of a GGUF model of one file, or the settings of a folder, and completes `planned`. Returns what is
/// wrong with them, if this program can't run the model. Does nothing for a small or cached file, or if the header can't
/// be had: the download will tell why.
///
/// # Errors
/// [`bitnet_hub::Error::Stopped`].
pub(crate) fn problem(
    hub: &Hub,
    listing: &Listing,
    paths: &[String],
    planned: &mut Planned,
    context: Option<usize>,
    watch: &mut dyn FnMut(Event<'_>) -> ControlFlow<()>,
) -> Result<Option<InferenceError>, bitnet_hub::Error> {
    let (path, least) = match paths {
        [only] if only.ends_with(".gguf") => (only.as_str(), LEAST),
        _ if paths.iter().any(|path| path == CONFIG) => (CONFIG, 0),
        _ => return Ok(None),
    };
    let bytes = listing.file(path).and_then(|file| file.bytes).filter(|&bytes| bytes >= least);
    let is_here = hub.cache(listing).shown(&listing.commit, Some(path)).exists();
    let Some(bytes) = bytes.filter(|_| !hub.settings().offline && !is_here) else {
        return Ok(None);
    };
    let header = match hub.beginning(listing, path, HEADER, watch) {
        Err(bitnet_hub::Error::Stopped) => return Err(bitnet_hub::Error::Stopped),
        Err(_) => return Ok(None),
        Ok(header) => header,
    };
    let Ok(file) = Hollow::new(path, &header, bytes) else { return Ok(None) };
    let found = if path == CONFIG {
        check_config(&file.path).map(|()| None)
    } else {
        Inspection::of(ModelSource::Path(&file.path), &LoadOptions::default()).map(Some)
    };
    match found {
        Ok(found) => {
            if let Some(found) = found {
                let context = context.unwrap_or_else(|| found.config.default_context());
                planned.with_header(&found.memory, context);
            }
            Ok(None)
        }
        // Other errors come from where the header was cut.
        Err(error) => Ok(is_final(&error).then_some(error)),
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
