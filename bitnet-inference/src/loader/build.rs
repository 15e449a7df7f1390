//! Builds a decoder from a checkpoint, one layer on each thread:
//! a tensor that is decoded leaves the resident set at once.

use std::collections::BTreeSet;
use std::sync::Arc;

use bitnet_core::backend::{Activation, ActivationPrecision, Backend, HeadOrder};
use bitnet_core::dense::DenseRows;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::memory::{HybridMemoryPool, Purpose};

use bitnet_formats::names::{Part, Role, TensorName};

use super::{Checkpoint, DecodedLinear, StoredLinear, StoredWeight, ternary_rows};
use crate::in_parallel::in_parallel;
use crate::models::{
    Attention, Compute, Decoder, DeltaNet, DraftHead, FeedForward, GatedUnit, Head, Layer,
    LayerKind, LazyTopLogits, Linear, Mixer, Mixture, MixtureConfig, Projection, ScaledRows,
    SharedRope, SourceFiles,
};
use crate::weight_cache::{CachedWeights, Section, sections_of};
use crate::{InferenceError, Result};

/// A decoder, with what had to be assumed about its tensors.
pub(crate) struct BuiltDecoder {
    pub(crate) decoder: Decoder,
    pub(crate) assumptions: Vec<String>,
    /// The ternary weights for the cache, if there is one.
    pub(crate) sections: Vec<Section>,
}

/// Decodes every tensor for `backend`, except those that are `cached`. The layer that drafts tokens comes from `drafts`,
/// if that is another checkpoint.
/// `on_layer` receives (layers done, layers in all).
pub(crate) fn build(
    checkpoint: &dyn Checkpoint,
    drafts: Option<&dyn Checkpoint>,
    backend: Arc<dyn Backend>,
    pool: HybridMemoryPool,
    cached: Option<&CachedWeights>,
    top_logits: LazyTopLogits,
    on_layer: &mut dyn FnMut(usize, usize),
) -> Result<BuiltDecoder> {
    let config = checkpoint.config().clone();
    config.validate(checkpoint.file())?;
    let weights = pool.for_purpose(Purpose::Weights);
    let pool = pool.for_purpose(Purpose::Activations);
    let mut builder = Builder {
        checkpoint,
        backend: &*backend,
        weights: &weights,
        cached,
        assumptions: BTreeSet::new(),
        sections: Vec::new(),
    };
    let embedding = checkpoint
        .dense("token_embd", config.vocab_size, config.hidden, &weights)?
        .ok_or_else(|| builder.missing("token_embd"))?;
    let embedding: Arc<dyn DenseRows> = match &config.scales {
        Some(scales) => Arc::new(ScaledRows::new(embedding, scales.of_embeddings())),
        None => embedding,
    };
    let embedding = backend.prepare_dense(embedding)?;
    // The largest matrix comes first: its pages of the file have left memory when the layers fill it.
    let (head, head_role) = builder.head()?;
    let parts = in_parallel(
        config.layers,
        backend.threads(),
        |index| {
            let (assumptions, sections) = (BTreeSet::new(), Vec::new());
            let mut builder = Builder { assumptions, sections, ..builder };
            let layer = builder.layer(index)?;
            Ok::<_, InferenceError>((layer, builder.assumptions, builder.sections))
        },
        on_layer,
    )?;
    let mut layers = Vec::with_capacity(config.layers);
    for (layer, assumptions, sections) in parts {
        layers.push(layer);
        builder.assumptions.extend(assumptions);
        builder.sections.extend(sections);
    }
    let output_norm = builder.output_norm()?;
    let draft = match drafts {
        Some(other) => {
            let (assumptions, sections) = (BTreeSet::new(), Vec::new());
            let cached = None;
            Builder { checkpoint: other, cached, assumptions, sections, ..builder }.draft_head()?
        }
        None => builder.draft_head()?,
    };
    let rotation_of = |role| {
        let rotations = config.rotations.as_ref()?;
        rotations.of(TensorName::outside(role)).cloned()
    };
    let embedding_rotation = rotation_of(Role::TokenEmbedding);
    let head_rotation = rotation_of(head_role);
    checkpoint.check()?;
    let assumptions = builder.assumptions.into_iter().collect();
    let sections = builder.sections;
    let mut files = checkpoint.files();
    files.extend(drafts.into_iter().flat_map(Checkpoint::files));
    files.extend(cached.and_then(CachedWeights::file).cloned());
    let files = SourceFiles::new(checkpoint.file(), &files);
    let rope = SharedRope::new(config.inverse_frequencies(), config.rope_magnitude());
    let local_rope = config.local_frequencies().map(|own| SharedRope::new(own, 1.0));
    let compute = Compute { backend, pool };
    let decoder = Decoder {
        config,
        embedding,
        layers,
        draft: draft.map(Box::new),
        output_norm,
        embedding_rotation,
        head,
        head_rotation,
        top_logits,
        files,
        rope,
        local_rope,
        compute,
        cache_writer: None,
    };
    Ok(BuiltDecoder { decoder, assumptions, sections })
}

struct Builder<'a> {
    checkpoint: &'a dyn Checkpoint,
    backend: &'a dyn Backend,
    weights: &'a HybridMemoryPool,
    cached: Option<&'a CachedWeights>,
    assumptions: BTreeSet<String>,
    sections: Vec<Section>,
}

impl Builder<'_> {
    fn missing(&self, tensor: &str) -> InferenceError {
        self.checkpoint.missing(tensor)
    }

    /// Returns numbers in the memory of the back end.
    fn tensor(&self, shape: &[usize], numbers: &[f32]) -> Result<BitNetTensor> {
        let host = BitNetTensor::from_f32(shape, numbers, self.weights)?;
        Ok(self.backend.to_device(host)?)
    }

    fn norm(&self, name: TensorName) -> Result<BitNetTensor> {
        let [_, len] = self.checkpoint.config().shape(name.role);
        let numbers = self.checkpoint.vector(&name.stem(), len)?;
        self.tensor(&[len], &numbers.ok_or_else(|| self.missing(&name.stem()))?)
    }

    /// The norm before the head, which takes the factor on logits if there is one.
    fn output_norm(&self) -> Result<BitNetTensor> {
        let name = TensorName::outside(Role::OutputNorm);
        let Some(scales) = self.checkpoint.config().scales else { return self.norm(name) };
        let [_, len] = self.checkpoint.config().shape(name.role);
        let numbers = self.checkpoint.vector(&name.stem(), len)?;
        let mut numbers = numbers.ok_or_else(|| self.missing(&name.stem()))?;
        numbers.iter_mut().for_each(|number| *number *= scales.logits);
        self.tensor(&[len], &numbers)
    }

    /// A norm that some architectures have.
    fn extra_norm(&self, name: TensorName) -> Result<Option<BitNetTensor>> {
        let is_there = self.checkpoint.config().architecture.has(name.role);
        is_there.then(|| self.norm(name)).transpose()
    }

    fn attention(&mut self, index: usize, name: impl Fn(Role) -> TensorName) -> Result<Attention> {
        let config = self.checkpoint.config();
        let norms =
            [self.extra_norm(name(Role::QueryNorm))?, self.extra_norm(name(Role::KeyNorm))?];
        Ok(Attention {
            qkv: [
                self.projection(name(Role::Query))?,
                self.projection(name(Role::Key))?,
                self.projection(name(Role::Value))?,
            ],
            head_norms: match norms {
                [Some(query), Some(key)] => Some([query, key]),
                _ => None,
            },
            sub_norm: self.extra_norm(name(Role::AttentionSubNorm))?,
            is_gated: config.architecture.table().gated_attention,
            output: self.projection(name(Role::AttentionOutput))?,
            has_rope: config.has_rope(index),
            window: config.window_of(index),
        })
    }

    fn delta_net(&mut self, name: impl Fn(Role) -> TensorName) -> Result<DeltaNet> {
        let config = self.checkpoint.config();
        let order = config.recurrent.as_ref().map_or(HeadOrder::Grouped, |found| found.order);
        let grouped = config.rotations.as_ref().is_some_and(|found| found.grouped_values);
        Ok(DeltaNet {
            qkv_gate: [
                self.projection(name(Role::DeltaQkv))?,
                self.projection(name(Role::DeltaGate))?,
            ],
            step_write: [
                self.projection(name(Role::DeltaStep))?,
                self.projection(name(Role::DeltaWrite))?,
            ],
            conv: self.transposed(name(Role::DeltaConv))?,
            rate: self.norm(name(Role::DeltaRate))?,
            step_bias: self.norm(name(Role::DeltaStepBias))?,
            norm: self.norm(name(Role::DeltaNorm))?,
            output: self.projection(name(Role::DeltaOutput))?,
            order,
            regroups: grouped && order == HeadOrder::Tiled,
        })
    }

    /// A small matrix `[rows, cols]` as `[cols, rows]`.
    fn transposed(&self, tensor: TensorName) -> Result<BitNetTensor> {
        let ([rows, cols], name) = (self.checkpoint.config().shape(tensor.role), &tensor.stem());
        let found = self.checkpoint.dense(name, rows, cols, self.weights)?;
        let found = found.ok_or_else(|| self.missing(name))?;
        let (mut row, mut numbers) = (vec![0.0; cols], vec![0.0; rows * cols]);
        for index in 0..rows {
            found.decode_row(index, &mut row)?;
            for (col, number) in row.iter().enumerate() {
                numbers[col * rows + index] = *number;
            }
        }
        self.tensor(&[cols, rows], &numbers)
    }

    fn layer(&mut self, index: usize) -> Result<Layer> {
        let name = |role| TensorName::in_layer(index as u32, role);
        let config = self.checkpoint.config();
        let mixer = match config.layer_kind(index) {
            LayerKind::Attention | LayerKind::Draft => {
                Mixer::Attention(Box::new(self.attention(index, name)?))
            }
            LayerKind::Recurrent => Mixer::Delta(Box::new(self.delta_net(name)?)),
        };
        let place_in_cache = config.place_in_cache(index);
        let feed_forward = match &config.mixture {
            Some(mixture) => {
                FeedForward::Mixture(Box::new(self.mixture(mixture, mixture.limit(index), name)?))
            }
            None => FeedForward::Dense(Box::new(GatedUnit {
                gate_up: [self.projection(name(Role::Gate))?, self.projection(name(Role::Up))?],
                sub_norm: self.extra_norm(name(Role::FeedForwardSubNorm))?,
                down: self.projection(name(Role::Down))?,
                limit: None,
            })),
        };
        Ok(Layer {
            attention_norm: self.norm(name(Role::AttentionNorm))?,
            mixer,
            place_in_cache,
            feed_forward_norm: self.norm(name(Role::FeedForwardNorm))?,
            feed_forward,
            post_norms: match [
                self.extra_norm(name(Role::AttentionPostNorm))?,
                self.extra_norm(name(Role::FeedForwardPostNorm))?,
            ] {
                [Some(attention), Some(feed_forward)] => Some([attention, feed_forward]),
                _ => None,
            },
        })
    }

    /// The layer that drafts tokens, if the settings say that it is read.
    fn draft_head(&mut self) -> Result<Option<DraftHead>> {
        /// Tables that such a layer may have in place of the model's own.
        const OWN_TABLES: [&str; 2] = ["nextn.embed_tokens", "nextn.shared_head_head"];
        let config = self.checkpoint.config();
        if config.drafts_read == 0 {
            return Ok(None);
        }
        let layer = config.layers;
        for table in OWN_TABLES {
            let tensor = format!("blk.{layer}.{table}.weight");
            if self.checkpoint.tensor_names().contains(&tensor) {
                let what = format!("{tensor}: a table of its own for drafts");
                return Err(InferenceError::unsupported(what, "--draft ngram is"));
            }
        }
        let name = |role| TensorName::in_layer(layer as u32, role);
        let norm = name(Role::DraftOutputNorm);
        let [_, len] = config.shape(norm.role);
        let output_norm = self.checkpoint.vector(&norm.stem(), len)?;
        Ok(Some(DraftHead {
            embedding_norm: self.norm(name(Role::DraftEmbeddingNorm))?,
            state_norm: self.norm(name(Role::DraftStateNorm))?,
            join: self.projection(name(Role::DraftJoin))?,
            layer: self.layer(layer)?,
            output_norm: output_norm.map(|numbers| self.tensor(&[len], &numbers)).transpose()?,
        }))
    }

    /// The router and the experts of a layer.
    fn mixture(
        &mut self,
        config: &MixtureConfig,
        limit: Option<f32>,
        name: impl Fn(Role) -> TensorName,
    ) -> Result<Mixture> {
        let ([rows, cols], router) =
            (self.checkpoint.config().shape(Role::Router), &name(Role::Router).stem());
        let found = self.checkpoint.dense(router, rows, cols, self.weights)?;
        let router = self.backend.prepare_dense(found.ok_or_else(|| self.missing(router))?)?;
        let mut experts = Vec::with_capacity(config.experts);
        for expert in 0..config.experts {
            let mut part = |role| self.expert(name(role), expert, config.experts);
            experts.push(GatedUnit {
                gate_up: [part(Role::ExpertGate)?, part(Role::ExpertUp)?],
                sub_norm: None,
                down: part(Role::ExpertDown)?,
                limit,
            });
        }
        Ok(Mixture { router, experts, used: config.used })
    }

    /// The projection of one of `experts` experts.
    fn expert(&mut self, tensor: TensorName, expert: usize, experts: usize) -> Result<Projection> {
        let ([rows, cols], name) = (self.checkpoint.config().shape(tensor.role), &tensor.stem());
        let shape = [rows / experts, cols];
        let weight = self.linear(&format!("{name}.{expert}"), shape, false, |builder| {
            let stored = builder.checkpoint.stored_expert(name, expert, shape, builder.weights)?;
            stored.ok_or_else(|| builder.missing(name))
        })?;
        Ok(Projection { weight, bias: None, input_norm: None, rotation: None })
    }

    /// A weight `[rows, cols]`, from the cache if it has one of that name, else prepared from what `read` returns.
    fn linear(
        &mut self,
        name: &str,
        [rows, cols]: [usize; 2],
        sparse_input: bool,
        read: impl FnOnce(&Self) -> Result<StoredLinear>,
    ) -> Result<Linear> {
        let found = self.cached.and_then(|cached| cached.find(name, rows, cols, self.backend));
        let (weight, assumption) = match found {
            Some(found) => (Linear::Ternary(found.weight, found.precision), found.assumption),
            None => {
                let (file, stored) = (self.checkpoint.file(), read(self)?);
                let decoded = ternary_rows::decoded(file, stored, self.weights)?;
                (self.prepare(decoded.linear, sparse_input)?, decoded.assumption)
            }
        };
        if let (Some(_), Linear::Ternary(weight, precision)) = (self.cached, &weight) {
            let sections = sections_of(name, &**weight, *precision, assumption.as_deref());
            self.sections.extend(sections);
        }
        self.assumptions.extend(assumption);
        Ok(weight)
    }

    fn projection(&mut self, tensor: TensorName) -> Result<Projection> {
        let c = self.checkpoint.config();
        let ([rows, cols], name) = (c.shape(tensor.role), &tensor.stem());
        // ReLU² leaves many exact zeros behind the gate.
        let sparse_input = tensor.role == Role::Down && c.activation == Activation::Relu2;
        let weight = self.linear(name, [rows, cols], sparse_input, |builder| {
            let stored = builder.checkpoint.stored(name, rows, cols, builder.weights)?;
            stored.ok_or_else(|| builder.missing(name))
        })?;
        let eps = self.checkpoint.input_norm_eps();
        let norm = self.checkpoint.vector(&tensor.with(Part::InputNorm).stem(), cols)?;
        let input_norm = match norm {
            Some(weight) => Some((self.tensor(&[cols], &weight)?, eps)),
            None => None,
        };
        let biased = c.architecture.table().biased.contains(&tensor.role);
        let bias = biased.then(|| self.bias(tensor.with(Part::Bias), rows)).transpose()?;
        let rotations = c.rotations.as_ref();
        let rotation = rotations.and_then(|rotations| rotations.of(tensor)).cloned();
        Ok(Projection { weight, bias, input_norm, rotation })
    }

    fn bias(&self, name: TensorName, len: usize) -> Result<BitNetTensor> {
        let numbers = self.checkpoint.vector(&name.stem(), len)?;
        self.tensor(&[1, len], &numbers.ok_or_else(|| self.missing(&name.stem()))?)
    }

    fn prepare(&self, linear: DecodedLinear, sparse_input: bool) -> Result<Linear> {
        Ok(match linear {
            DecodedLinear::Ternary(matrix, precision) if sparse_input => {
                Linear::Ternary(self.backend.prepare_for_sparse_input(matrix)?, precision)
            }
            DecodedLinear::Ternary(matrix, precision) => {
                Linear::Ternary(self.backend.prepare(matrix)?, precision)
            }
            DecodedLinear::Dense(rows) => Linear::Dense(self.backend.prepare_dense(rows)?),
        })
    }

    /// The head, and the role of the tensor that it is.
    fn head(&mut self) -> Result<(Head, Role)> {
        if !self.checkpoint.config().has_head {
            return Ok((Head::Absent, Role::Output));
        }
        if self.checkpoint.tied() != Some(true) {
            if let Some(head) = self.own_head()? {
                return Ok((head, Role::Output));
            }
            if self.checkpoint.tied() == Some(false) {
                return Err(self.missing("output"));
            }
            self.assumptions
                .insert("no head in the file: the embedding table is used (tied)".into());
        }
        // A ternary table is read as one, in a copy for the kernels.
        let ternary = self.ternary_head("token_embd")?;
        // The table that embeddings are taken from is scaled.
        let is_scaled = self.checkpoint.config().scales.is_some();
        let own = match (&ternary, is_scaled) {
            (None, true) => self.dense_head("token_embd")?,
            _ => ternary,
        };
        Ok((own.unwrap_or(Head::Tied), Role::TokenEmbedding))
    }

    /// A head of its own, `[vocabulary, hidden]`: trits where it is stored as trits.
    fn own_head(&self) -> Result<Option<Head>> {
        const NAME: &str = "output";
        if let Some(head) = self.ternary_head(NAME)? {
            return Ok(Some(head));
        }
        self.dense_head(NAME)
    }

    /// The tensor of that name as a head of ordinary numbers, `[vocabulary, hidden]`.
    fn dense_head(&self, name: &str) -> Result<Option<Head>> {
        let c = self.checkpoint.config();
        let rows = self.checkpoint.dense(name, c.vocab_size, c.hidden, self.weights)?;
        let rows = rows.map(|rows| self.backend.prepare_dense(rows)).transpose()?;
        Ok(rows.map(|rows| Head::Own(Linear::Dense(rows))))
    }

    /// The tensor of that name as a head, `[vocabulary, hidden]`; `None` unless it is stored as trits.
    fn ternary_head(&self, name: &str) -> Result<Option<Head>> {
        let stored = self.checkpoint.stored_bytes(name)?;
        if stored.is_none_or(|stored| stored.storage.is_plain()) {
            return Ok(None);
        }
        let c = self.checkpoint.config();
        let stored = self.checkpoint.stored(name, c.vocab_size, c.hidden, self.weights)?;
        Ok(match stored.map(|stored| stored.weight) {
            Some(StoredWeight::Ternary(matrix)) => {
                let weight = self.backend.prepare(matrix)?;
                Some(Head::Own(Linear::Ternary(weight, ActivationPrecision::Float)))
            }
            Some(StoredWeight::Dense { .. }) | None => None,
        })
    }
}

/// Where the head comes from, in words.
pub(super) fn head_fact(checkpoint: &dyn Checkpoint) -> Result<String> {
    if !checkpoint.config().has_head {
        return Ok("none: the model makes embeddings of texts (`bitnet embed`)".into());
    }
    let own = checkpoint.stored_bytes("output")?;
    Ok(match (checkpoint.tied(), own) {
        (Some(true), Some(head)) if head.tensor != checkpoint.name_in_file("token_embd") => {
            format!("the embedding table (tied; {} holds the same numbers)", head.tensor)
        }
        (Some(true), _) => "the embedding table (tied)".into(),
        (_, Some(head)) => format!("a matrix of its own ({})", head.storage.name()),
        (_, None) => "the embedding table (the file has no head)".into(),
    })
}
