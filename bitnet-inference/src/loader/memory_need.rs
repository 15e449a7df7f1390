//! The memory that a model needs, from its header alone.

use bitnet_core::backend::Activation;
use bitnet_core::kv::{KV_BLOCK, KV_PAGE, KvType};
use bitnet_core::ternary::{CODES_PER_WORD, ROW_BLOCK};
use bitnet_formats::architecture::Role;
use bitnet_formats::gguf::GgmlType;

use super::{Checkpoint, Container, LoadOptions, StoredType};
use crate::Result;
use crate::model::{ModelSource, open};
use crate::models::{LayerKind, ModelConfig, tensors};

/// Recurrent states of a sequence in use at a time: the last two and those that a pass fills.
const STATES: u64 = 4;
/// The program with its libraries, its stacks and the scratch of a prompt, in bytes.
const PROGRAM: u64 = 32 << 20;
/// The tokenizer, in bytes for each token of the vocabulary.
const OF_TOKEN: u64 = 160;
/// Weights that share a scale where the settings of a folder say it.
const FOLDER_GROUP: usize = 64;

/// The memory that a model needs on the CPU back end, in bytes.
///
/// Weights are counted in the canonical layout, with 2 bits for a trit: with AVX-512 and VBMI, large layers with one
/// scale take a fifth less. Ordinary numbers that turn out to be trits when they are loaded take less as well.
///
/// ```
/// use bitnet_inference::{KvType, LoadOptions, MemoryNeed, ModelSource};
///
/// let need = MemoryNeed::of(ModelSource::Embedded, &LoadOptions::default())?;
/// assert!(need.with_context(4096) > need.with_context(1));
/// # Ok::<(), bitnet_inference::InferenceError>(())
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MemoryNeed {
    /// Prepared weights and norms.
    pub weights: u64,
    /// Matrices that are read where they lie in the file for every token.
    pub in_place: u64,
    /// Keys and values of one position.
    pub position: u64,
    /// Recurrent states of a sequence.
    pub states: u64,
    /// The program and the tokenizer.
    pub program: u64,
}

impl MemoryNeed {
    /// Reads the header of a model.
    ///
    /// # Errors
    /// As loading the model, except for what is wrong with the weights.
    pub fn of(source: ModelSource<'_>, options: &LoadOptions) -> Result<Self> {
        Self::of_checkpoint(&*open(source, options)?, options.kv)
    }

    pub(crate) fn of_checkpoint(checkpoint: &dyn Checkpoint, kv: KvType) -> Result<Self> {
        let config = checkpoint.config();
        let (mut weights, mut in_place) = (0_u64, 0_u64);
        let own_head =
            checkpoint.tied() != Some(true) && checkpoint.stored_bytes("output")?.is_some();
        for spec in tensors(config) {
            let [rows, cols] = spec.shape;
            let Some(stored) = checkpoint.stored_bytes(&spec.name.stem())? else { continue };
            let role = spec.name.role;
            // A table of embeddings is read a row at a time, where it lies.
            let is_idle = match role {
                Role::TokenEmbedding => own_head || !config.has_head,
                Role::Output => !own_head,
                _ => false,
            };
            let is_matrix =
                role.is_projection() || matches!(role, Role::TokenEmbedding | Role::Output);
            let is_masters = role.is_projection() && are_masters(checkpoint);
            match group(stored.storage, is_masters) {
                _ if is_idle => {}
                _ if rows == 1 || !is_matrix => weights += (rows * cols * size_of::<f32>()) as u64,
                Some(group) => {
                    weights += prepared(rows, cols, group);
                    // Layers behind ReLU² are held by columns too, where inputs of zero skip them.
                    if role == Role::Down
                        && config.activation == Activation::Relu2
                        && !is_fine(group)
                    {
                        weights += prepared(cols, rows, Group::Matrix);
                    }
                }
                None => in_place += stored.region.len() as u64,
            }
        }
        let width = config.head_dim.next_multiple_of(KV_BLOCK);
        let heads = config.layers_of(LayerKind::Attention) * config.kv_heads;
        let state = config.recurrent.as_ref().and_then(|found| found.shape.chunk_bytes());
        Ok(Self {
            weights,
            in_place,
            position: (heads * kv.bytes_per_position(width)) as u64,
            states: STATES * state.unwrap_or(0) as u64,
            program: PROGRAM + OF_TOKEN * config.vocab_size as u64,
        })
    }

    /// Returns the bytes for one sequence of `tokens`.
    pub fn with_context(&self, tokens: usize) -> u64 {
        let positions = (tokens as u64).next_multiple_of(KV_PAGE as u64);
        let cache = self.position.saturating_mul(positions);
        [self.in_place, cache, self.states, self.program]
            .into_iter()
            .fold(self.weights, u64::saturating_add)
    }
}

/// How many weights share a scale.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Group {
    /// All of a matrix.
    Matrix,
    /// All of a row.
    Row,
    /// So many of a row.
    Of(usize),
}

/// Whether scales stay apart in any file: wider groups become one where their scales are equal.
fn is_fine(group: Group) -> bool {
    matches!(group, Group::Of(group) if group <= 128)
}

/// Whether ordinary numbers of layers are quantised when they are loaded.
fn are_masters(checkpoint: &dyn Checkpoint) -> bool {
    let packing = match checkpoint.container() {
        Container::HuggingFace { packing, .. } => packing,
        Container::Gguf(_) | Container::Onnx { .. } => None,
    };
    packing.is_some()
}

/// Returns the scales of a matrix stored as `storage`; `None` if it holds ordinary numbers that stay what they are.
fn group(storage: StoredType, are_masters: bool) -> Option<Group> {
    match storage {
        StoredType::Ggml(GgmlType::I2S) => Some(Group::Matrix),
        StoredType::Ggml(GgmlType::Iq1Bn | GgmlType::Iq2Bn | GgmlType::Iq2BnR4) => Some(Group::Row),
        StoredType::Ggml(found) if found.is_ternary() => Some(Group::Of(found.block().0 as usize)),
        StoredType::Safetensors(_) if are_masters => Some(Group::Matrix),
        StoredType::Safetensors(_) if !storage.is_plain() => Some(Group::Of(FOLDER_GROUP)),
        StoredType::Onnx(_, Some(block)) => Some(Group::Of(block)),
        StoredType::Ggml(_) | StoredType::Safetensors(_) | StoredType::Onnx(_, None) => None,
    }
}

/// Bytes of a `[rows, cols]` matrix in the canonical layout.
fn prepared(rows: usize, cols: usize, group: Group) -> u64 {
    let codes = rows * cols.next_multiple_of(ROW_BLOCK) / CODES_PER_WORD * size_of::<u32>();
    let scales = match group {
        Group::Matrix => 1,
        Group::Row => rows,
        Group::Of(group) => rows * cols.div_ceil(group),
    };
    (codes + scales * size_of::<f32>()) as u64
}

impl ModelConfig {
    /// Returns the tokens of context of a session by default: the model's own, at most 4096.
    pub fn default_context(&self) -> usize {
        /// Beyond it, the context is for the user to ask for.
        const DEFAULT: usize = 4096;
        let limit = self.context_limit.map_or(usize::MAX, |limit| limit.positions);
        self.context.min(DEFAULT).min(limit)
    }

    /// Returns the tokens of the longest session that the model was made for.
    pub fn full_context(&self) -> usize {
        self.context_limit.map_or(self.context, |limit| limit.positions.min(self.context))
    }
}
