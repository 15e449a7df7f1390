//! LoRA adapters of the PEFT library, merged into the weights: `W + factor B A`.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use bitnet_core::dense::DenseRows;
use bitnet_formats::SafeTensors;
use bitnet_formats::names::{Part, TensorName};
use bitnet_formats::safetensors::{Dtype, TensorView};
use bitnet_inference::models::ModelConfig;
use bitnet_quant::codec::dense::{DenseMatrix, DenseType};

use crate::adapter_config::AdapterConfig;
use crate::digest::Digest;
use crate::order::{Order, Orders};
use crate::side_files::read_json;
use crate::tensors::ModelTensor;
use crate::{Error, Result};

/// PEFT's prefix of the base model's names.
const PREFIX: &str = "base_model.model.";

/// One adapted layer: `down` is `[rank, cols]`, `up` is `[rows, rank]`.
struct Pair {
    rank: usize,
    down: Vec<f32>,
    up: Vec<f32>,
}

/// The digest of the matrices, which is part of the identity of a conversion.
impl std::fmt::Debug for Pair {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let bytes: Vec<u8> =
            self.down.iter().chain(&self.up).flat_map(|number| number.to_le_bytes()).collect();
        f.debug_struct("Pair")
            .field("rank", &self.rank)
            .field("digest", &Digest::of(&bytes))
            .finish()
    }
}

/// A loaded adapter.
#[derive(Debug)]
pub(crate) struct Adapter {
    name: String,
    factor: f32,
    pairs: BTreeMap<String, Arc<Pair>>,
}

impl Adapter {
    /// Loads an adapter folder for a model; `weight` scales its contribution.
    pub(crate) fn open(folder: &Path, weight: f32, tensors: &[ModelTensor]) -> Result<Self> {
        let name = folder.display().to_string();
        let path = folder.join("adapter_config.json");
        let config = read_json(&path)?.ok_or_else(|| {
            Error::refused(
                &name,
                "there is no adapter_config.json; use the folder of a PEFT adapter",
            )
        })?;
        let AdapterConfig { rank, factor } =
            AdapterConfig::parse(&config, &path.display().to_string(), weight)?;
        let files = SafeTensors::open(&folder.join("adapter_model.safetensors"))?;
        let mut pairs = BTreeMap::new();
        for view in files.tensors() {
            let Some(module) = view.name.strip_suffix(".lora_A.weight") else {
                if view.name.ends_with(".lora_B.weight") {
                    continue;
                }
                let problem = "it is neither lora_A nor lora_B; other adapters can't be merged";
                return Err(Error::refused(format!("{name}: tensor {}", view.name), problem));
            };
            let what = || format!("{name}: {module}");
            let up = files.tensor(&format!("{module}.lora_B.weight"))?;
            let base = format!("{}.weight", module.strip_prefix(PREFIX).unwrap_or(module));
            let tensor = TensorName::from_hf(&base)
                .filter(|found| found.part == Part::Weight)
                .and_then(|found| tensors.iter().find(|tensor| tensor.name == found))
                .ok_or_else(|| Error::refused(what(), "the model has no such layer"))?;
            let pair = Pair::new(&view, &up, tensor, rank).map_err(|error| match error {
                Ok(problem) => Error::refused(what(), problem),
                Err(source) => Error::tensor(&view.name, "numbers", source),
            })?;
            pairs.insert(tensor.stem(), Arc::new(pair));
        }
        if pairs.is_empty() {
            return Err(Error::refused(&name, "it adapts no layer"));
        }
        Ok(Self { name, factor, pairs })
    }

    /// Returns its name for messages.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns whether it changes a tensor.
    pub(crate) fn adapts(&self, tensor: &ModelTensor) -> bool {
        self.pairs.contains_key(&tensor.stem())
    }

    /// Returns the rows of a tensor plus the adapter's contribution,
    /// or the rows unchanged if it does not adapt the tensor.
    pub(crate) fn merged(
        &self,
        tensor: &ModelTensor,
        config: &ModelConfig,
        rows: Arc<dyn DenseRows>,
    ) -> Arc<dyn DenseRows> {
        let Some(pair) = self.pairs.get(&tensor.stem()) else { return rows };
        // Adapters have the order of Hugging Face.
        let order = Order::of(tensor, config, Orders::FOLDER, Orders::of_model(config));
        Arc::new(Merged { rows, pair: Arc::clone(pair), factor: self.factor, order })
    }
}

impl Pair {
    /// Builds the layer from its two stored matrices; the error is a wrong shape or a read error.
    fn new(
        down: &TensorView,
        up: &TensorView,
        tensor: &ModelTensor,
        declared: usize,
    ) -> std::result::Result<Self, std::result::Result<String, bitnet_quant::Error>> {
        let (&[rank, cols], &[rows, other]) = (down.shape.as_slice(), up.shape.as_slice()) else {
            return Err(Ok("its matrices do not have two dimensions".into()));
        };
        if (rank, rows, cols) != (other, tensor.rows, tensor.cols) || rank == 0 {
            return Err(Ok(format!(
                "its matrices are {:?} and {:?}; the layer is [{}, {}]",
                down.shape, up.shape, tensor.rows, tensor.cols
            )));
        }
        if rank != declared {
            return Err(Ok(format!(
                "its matrices {:?} and {:?} have rank {rank}, and adapter_config.json says r {declared}: the factor would be \
                 wrong",
                down.shape, up.shape
            )));
        }
        Ok(Self { rank, down: numbers(down, rank, cols)?, up: numbers(up, rows, rank)? })
    }
}

fn numbers(
    view: &TensorView,
    rows: usize,
    cols: usize,
) -> std::result::Result<Vec<f32>, std::result::Result<String, bitnet_quant::Error>> {
    let dense = match view.dtype {
        Dtype::F32 => DenseType::F32,
        Dtype::F16 => DenseType::F16,
        Dtype::Bf16 => DenseType::BF16,
        other => return Err(Ok(format!("{} is of type {}", view.name, other.name()))),
    };
    let matrix = DenseMatrix::new(dense, rows, cols, view.data.clone()).map_err(Err)?;
    let mut out = vec![0.0; rows * cols];
    for (row, out) in out.chunks_exact_mut(cols).enumerate() {
        matrix.decode_row(row, out).map_err(|error| Err(error.into()))?;
    }
    match out.iter().position(|number| !number.is_finite()) {
        None => Ok(out),
        Some(place) => Err(Ok(format!("element {place} of {} is {}", view.name, out[place]))),
    }
}

/// Rows plus an adapter's contribution, computed on access.
#[derive(Debug)]
struct Merged {
    rows: Arc<dyn DenseRows>,
    pair: Arc<Pair>,
    factor: f32,
    /// Where the components of the file are in the adapter.
    order: Option<Order>,
}

impl DenseRows for Merged {
    fn rows(&self) -> usize {
        self.rows.rows()
    }

    fn cols(&self) -> usize {
        self.rows.cols()
    }

    fn type_name(&self) -> &'static str {
        "merged"
    }

    fn bytes(&self) -> usize {
        self.rows.bytes()
    }

    fn decode_row(&self, row: usize, out: &mut [f32]) -> bitnet_core::Result<()> {
        self.rows.decode_row(row, out)?;
        let Pair { rank, down, up } = &*self.pair;
        let own = self.order.map_or(row, |order| order.source_row(row));
        let mut added = vec![0f32; out.len()];
        for (&factor, down) in up[own * rank..][..*rank].iter().zip(down.chunks_exact(out.len())) {
            added.iter_mut().zip(down).for_each(|(sum, &number)| *sum += factor * number);
        }
        if let Some(order) = self.order {
            order.move_cols(&mut added, &mut vec![0.0; out.len()]);
        }
        out.iter_mut().zip(&added).for_each(|(number, &sum)| *number += self.factor * sum);
        Ok(())
    }

    fn release(&self) {
        self.rows.release();
    }
}
