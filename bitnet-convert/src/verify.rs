//! Verification: opens the result with the engine's loader and compares every tensor with the plan.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use bitnet_core::memory::HybridMemoryPool;
use bitnet_formats::Region;
use bitnet_inference::loader::{Container, StoredWeight, in_parallel};
use bitnet_inference::{ModelFiles, ModelSource};

use crate::digest::Digest;
use crate::options::ConvertOptions;
use crate::partial::{PieceRecord, Record};
use crate::plan::{Part, PartType, Plan, Recipe};
use crate::tensors::{Kind, ModelTensor};
use crate::{Error, Result, compare};

/// Returns the bytes of a stored tensor after checking its type and shape.
fn stored(written: &ModelFiles, part: &Part) -> std::result::Result<Region, String> {
    match written.container() {
        Container::Gguf(file) => {
            let found = file.find(&part.name).ok_or("it is not in the file")?;
            let dims: Vec<u64> = part.shape.iter().rev().map(|&dim| dim as u64).collect();
            if PartType::Ggml(found.ggml_type) != part.part_type || found.dims != dims {
                return Err(format!("it is {:?} of type {}", found.dims, found.ggml_type));
            }
            file.data(found).map_err(|error| error.to_string())
        }
        Container::HuggingFace { tensors, .. } => {
            let found = tensors.find(&part.name).ok_or("it is not in the file")?;
            if PartType::Safetensors(found.dtype) != part.part_type || found.shape != part.shape {
                return Err(format!("it is {:?} of type {}", found.shape, found.dtype.name()));
            }
            Ok(found.data)
        }
        Container::Onnx { .. } => Err("it is in an ONNX file, which is not written".into()),
    }
}

/// The expected result.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Meant<'a> {
    pub(crate) source: &'a ModelFiles,
    pub(crate) options: &'a ConvertOptions,
    pub(crate) plan: &'a Plan,
    pub(crate) records: &'a [Record],
}

/// Reads the whole result back. `path` is the unrenamed file or folder; `check_stop` is called before each tensor,
/// `on_bytes` receives the number of bytes read.
pub(crate) fn prove(
    meant: Meant<'_>,
    path: &Path,
    pool: &HybridMemoryPool,
    threads: usize,
    check_stop: &(dyn Fn() -> Result<()> + Sync),
    on_bytes: &mut dyn FnMut(u64),
) -> Result<()> {
    let Meant { source, options, plan, records } = meant;
    let unproven = |tensor: &str, problem: String| Error::Unproven {
        path: path.to_owned(),
        tensor: tensor.to_owned(),
        problem,
    };
    let load = bitnet_inference::LoadOptions {
        i2s_layout: written_layout(plan).unwrap_or(options.load.i2s_layout),
        ..options.load.clone()
    };
    let files = ModelFiles::open(ModelSource::Path(path), &load)?;
    compare::same_model(source, &files, plan, &load)?
        .map_err(|problem| unproven("(settings)", problem))?;
    let read = AtomicU64::new(0);
    let work = |index: usize| {
        let record: &Record = &records[index];
        check_stop()?;
        for piece in record.pieces() {
            let part = &plan.parts[piece.part];
            let checked = stored(&files, part).and_then(|region| same_bytes(&region, piece));
            checked.map_err(|problem| unproven(&part.name, problem))?;
            read.fetch_add(piece.len, Ordering::Relaxed);
        }
        let Some(weights) = record.proof.weights else { return Ok(()) };
        let work = &plan.works[record.step];
        let checked = same_weights(&files, plan, &work.tensor, weights, pool);
        let name = &plan.parts[work.recipe.part()].name;
        checked?.map_err(|problem| unproven(name, problem))
    };
    in_parallel(records.len(), threads, work, &mut |_, _| on_bytes(read.load(Ordering::Relaxed)))?;
    Ok(files.check()?)
}

/// Returns the written layout of I2_S, which files do not state.
pub(crate) fn written_layout(plan: &Plan) -> Option<bitnet_quant::codec::i2_s::I2sLayout> {
    plan.works.iter().find_map(|work| match work.recipe {
        Recipe::Ternary { storage: bitnet_quant::codec::TernaryStorage::I2S(layout), .. } => {
            Some(layout)
        }
        _ => None,
    })
}

fn same_bytes(region: &Region, piece: &PieceRecord) -> std::result::Result<(), String> {
    let end = (piece.at + piece.len) as usize;
    let region = region.slice(piece.at as usize..end).map_err(|error| error.to_string())?;
    let digest = Digest::of(&region);
    region.release();
    if digest != piece.digest {
        return Err("its bytes differ from those written".into());
    }
    Ok(())
}

/// Checks that the engine's loader decodes the same trits and scales, with the same activation precision.
fn same_weights(
    files: &ModelFiles,
    plan: &Plan,
    tensor: &ModelTensor,
    weights: Digest,
    pool: &HybridMemoryPool,
) -> Result<std::result::Result<(), String>> {
    let stem = tensor.stem();
    let Some(stored) = files.linear(&stem, tensor.rows, tensor.cols, pool)? else {
        return Ok(Err("the engine does not find it".into()));
    };
    let found = match &stored.weight {
        StoredWeight::Ternary(matrix) => Digest::of_weights(matrix),
        StoredWeight::Dense { .. } => return Ok(Err("the engine reads it as dense".into())),
    };
    if plan.precision.is_some_and(|meant| tensor.kind == Kind::Linear && meant != stored.precision)
    {
        return Ok(Err(
            "the engine would use another activation precision than for the source".into()
        ));
    }
    if found != weights {
        return Ok(Err("its trits or scales differ from the source's".into()));
    }
    Ok(Ok(()))
}
