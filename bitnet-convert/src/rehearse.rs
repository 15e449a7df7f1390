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
/// result, and are removed again.
pub(crate) fn rehearse(decided: &Decided, options: &ConvertOptions) -> Result<Vec<String>> {
    let beside = decided.destination.path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let beside = beside.unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(".bitnet-");
    let folder = builder
        .tempdir()
        .or_else(|_| builder.tempdir_in(beside))
        .map_err(Error::io(beside, "make a temporary folder in"))?;
    write_headers(decided, options, folder.path())?;
    let load = LoadOptions {
        i2s_layout: verify::written_layout(&decided.plan).unwrap_or(options.load.i2s_layout),
        ..options.load.clone()
    };
    let at = decided.opened_by(folder.path());
    let refused = |problem: String| {
        let what = decided.destination.path.display().to_string();
        Err(Error::refused(what, format!("{problem}; it would not be the same model")))
    };
    let written = match ModelFiles::open(ModelSource::Path(&at), &load) {
        Ok(written) => written,
        Err(error) => return refused(format!("the result could not be read: {error}")),
    };
    match compare::same_model(&decided.files, &written, &decided.plan, &load)? {
        Ok(remarks) => Ok(remarks),
        Err(problem) => refused(problem),
    }
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
