//! A dry run of the result without weights, opened with the engine's loader, which finds differences in metadata before
//! any tensor is converted.

use std::fs::File;
use std::io::{Seek, SeekFrom, Write};
use std::path::Path;

use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};
use bitnet_inference::{LoadOptions, ModelFiles, ModelSource};

use crate::encode::Encoder;
use crate::options::ConvertOptions;
use crate::plan::Recipe;
use crate::tensors::is_rope_factors;
use crate::{Decided, Error, Result, compare, verify};

/// Rejects a plan whose result would be read differently from the source. Returns remarks.
///
/// The files are sparse, in the system's temporary folder or else next to the result, and are removed afterwards. If
/// neither file system supports sparse files, this check is skipped and the comparison happens only after the
/// conversion.
pub(crate) fn rehearse(decided: &Decided, options: &ConvertOptions) -> Result<Vec<String>> {
    let parent = decided.destination.path.parent().filter(|path| !path.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".bitnet-");
    let sparse = |folder: &tempfile::TempDir| has_sparse_files(folder.path());
    let folder = match builder.tempdir().ok().filter(sparse) {
        Some(folder) => folder,
        None => {
            builder.tempdir_in(parent).map_err(Error::io(parent, "create a temporary folder in"))?
        }
    };
    if !sparse(&folder) {
        let remark = "no file system here has sparse files, so the plan was not opened as a model; the result is \
                      compared with the source when it is complete";
        return Ok(vec![remark.to_owned()]);
    }
    options.check_stop()?;
    write_headers(decided, options, folder.path())?;
    let load = LoadOptions {
        i2s_layout: verify::written_layout(&decided.plan).unwrap_or(options.load.i2s_layout),
        ..options.load.clone()
    };
    options.check_stop()?;
    let at = decided.opened_by(folder.path());
    let refused = |problem: String| {
        let what = decided.destination.path.display().to_string();
        Err(Error::refused(what, format!("{problem}; it would not be the same model")))
    };
    let written = match ModelFiles::open(ModelSource::Path(&at), &load) {
        Ok(written) => written,
        Err(error) => return refused(format!("the result could not be read: {error}")),
    };
    options.check_stop()?;
    match compare::same_model(&decided.files, &written, &decided.plan, &load)? {
        Ok(remarks) => Ok(remarks),
        Err(problem) => refused(problem),
    }
}

/// Returns whether the file system supports sparse files.
#[cfg(unix)]
fn has_sparse_files(folder: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    const LEN: u64 = 1 << 20;
    let probe = || -> std::io::Result<u64> {
        let file = tempfile::tempfile_in(folder)?;
        file.set_len(LEN)?;
        Ok(file.metadata()?.blocks() * 512)
    };
    // If this is unknown, writing the file fails later.
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
        // Opening a file reads no tensors but the factors of RoPE and signs.
        for work in &plan.works {
            options.check_stop()?;
            let pieces = match work.recipe {
                _ if is_rope_factors(work.tensor.name.role) => encoder.encode(work)?.pieces,
                Recipe::Affine { signs: Some(part), .. } => {
                    encoder.signs(&work.tensor, part).into_iter().collect()
                }
                _ => continue,
            };
            for piece in pieces {
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
