//! The result without its weights, opened as the engine opens models: what a reader would take otherwise than the source is
//! found before anything is converted.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};
use bitnet_formats::names::Role;
use bitnet_inference::{LoadOptions, ModelFiles, ModelSource};

use crate::encode::Encoder;
use crate::options::ConvertOptions;
use crate::{Decided, Error, Result, compare, verify};

/// Refuses a plan whose result would not be read as the source is. Returns what is worth saying.
///
/// The files have holes in place of the weights; they stand in the system's folder for temporary files, else beside the
/// result, and are removed again. Where neither file system has sparse files they would take the room of the weights: then the
/// result is compared only once it is complete.
pub(crate) fn rehearse(decided: &Decided, options: &ConvertOptions) -> Result<Vec<String>> {
    let beside = decided.destination.path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let beside = beside.unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".bitnet-");
    let sparse = |folder: &tempfile::TempDir| has_sparse_files(folder.path());
    let folder = match builder.tempdir().ok().filter(sparse) {
        Some(folder) => folder,
        None => {
            builder.tempdir_in(beside).map_err(Error::io(beside, "make a temporary folder in"))?
        }
    };
    if !sparse(&folder) {
        let remark = "no file system here has sparse files, so the plan was not opened as a model; the result is \
                      compared with the source when it is complete";
        return Ok(vec![remark.to_owned()]);
    }
    options.go_on()?;
    write_headers(decided, options, folder.path())?;
    let load = LoadOptions {
        i2s_layout: verify::written_layout(&decided.plan).unwrap_or(options.load.i2s_layout),
        ..options.load.clone()
    };
    options.go_on()?;
    let at = decided.opened_by(folder.path());
    let refused = |problem: String| {
        let what = decided.destination.path.display().to_string();
        Err(Error::refused(what, format!("{problem}; it would not be the same model")))
    };
    let written = match ModelFiles::open(ModelSource::Path(&at), &load) {
        Ok(written) => written,
        Err(error) => return refused(format!("the result could not be read: {error}")),
    };
    options.go_on()?;
    match compare::same_model(&decided.files, &written, &decided.plan, &load)? {
        Ok(remarks) => Ok(remarks),
        Err(problem) => refused(problem),
    }
}

/// Whether a file's length takes no room on the disk by itself.
#[cfg(unix)]
fn has_sparse_files(folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    const LEN: u64 = 1 << 20;
    let probe = || -> std::io::Result<u64> {
        let file = tempfile::tempfile_in(folder)?;
        file.set_len(LEN)?;
        Ok(file.metadata()?.blocks() * 512)
    };
    // A system that can't say fails where the file is written.
    probe().map_or(true, |used| used < LEN)
}

#[cfg(not(unix))]
fn has_sparse_files(_folder: &Path) -> bool {
    true
}

fn write_headers(decided: &Decided, options: &ConvertOptions, folder: &Path) -> Result<()> {
    let Decided { files, plan, planned, side, .. } = decided;
    let pool = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded())?;
    let encoder = Encoder { files, options, plan, pool: &pool };
    for (number, planned) in planned.iter().enumerate() {
        let path = folder.join(&planned.name);
        let failed = Error::io(&path, "write");
        let mut file = File::create_new(&path).map_err(&failed)?;
        file.write_all(&planned.header)
            .and_then(|()| file.set_len(planned.len))
            .map_err(&failed)?;
        // Opening a file reads one tensor: the factors on the frequencies of RoPE.
        let frequencies = |role: Role| role == Role::RopeFrequencies;
        for work in plan.works.iter().filter(|work| frequencies(work.tensor.name.role)) {
            options.go_on()?;
            for piece in encoder.encode(work)?.pieces {
                let part = &plan.parts[piece.part];
                if part.file == number {
                    file.seek(SeekFrom::Start(part.offset + piece.at))
                        .and_then(|_| file.write_all(&piece.bytes))
                        .map_err(&failed)?;
                }
            }
        }
    }
    side.iter().try_for_each(|side| side.write(folder))
}
