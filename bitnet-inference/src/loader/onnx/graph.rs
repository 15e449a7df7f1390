//! Which tensors of a model a graph holds, and whether it computes what the settings say.

use std::collections::{BTreeMap, HashSet};
use std::ops::Range;

use bitnet_formats::architecture::Role;
use bitnet_formats::names::{Part, TensorName};
use bitnet_formats::onnx::{DataType, Initializer, Node, OnnxModel};

use super::agreement;
use super::codes::{Codes, initializer, shown};
use super::names;
use crate::models::ModelConfig;
use crate::{InferenceError, Result};

/// Elements from which on a tensor that nothing reads may be a weight.
const LEAST: usize = 16;

/// Where the numbers of a tensor are.
#[derive(Debug, Clone)]
pub(super) enum Source {
    /// An initializer of ordinary numbers, or a part of its elements.
    Numbers(String, Range<usize>),
    /// Rows of a matrix of codes.
    Codes(Codes, Range<usize>),
}

impl Source {
    /// The initializer of the numbers or codes.
    pub(super) fn tensor(&self) -> &str {
        match self {
            Self::Numbers(name, _) => name,
            Self::Codes(codes, _) => &codes.weight,
        }
    }

    /// Every initializer that is read.
    pub(super) fn tensors(&self) -> Vec<&str> {
        match self {
            Self::Numbers(name, _) => vec![name],
            Self::Codes(codes, _) => {
                let beside = codes.zero_points.iter().chain(&codes.table);
                let beside = beside.map(String::as_str);
                [&*codes.weight, &*codes.scales].into_iter().chain(beside).collect()
            }
        }
    }
}

/// The sources of a model's tensors, by their names in GGUF files without `.weight`.
pub(super) type Sources = BTreeMap<String, Source>;

/// What a graph holds.
#[derive(Debug)]
pub(super) struct Found {
    /// The sources of the model's tensors.
    pub(super) sources: Sources,
    /// The node of a table of embeddings that is not read, for the settings say that it is the head's.
    pub(super) unread_table: Option<String>,
}

/// Whether an initializer may be a weight of the model: no constant of its graph, no table of rotary angles.
pub(super) fn may_be_weight(tensor: &Initializer) -> bool {
    let holds = tensor.data_type.plain().is_some() || tensor.data_type == DataType::UINT8;
    let is_rotary = ["cos_cache", "sin_cache", "inv_freq", "rotary"]
        .iter()
        .any(|part| tensor.name.contains(part));
    holds && tensor.elements() >= LEAST && !is_rotary
}

/// Collects sources.
struct Graph<'a> {
    model: &'a OnnxModel,
    config: &'a ModelConfig,
    sources: Sources,
    /// Whether the settings say that the table of embeddings is the head.
    tied: bool,
    unread_table: Option<String>,
    /// The initializers of the sources.
    used: HashSet<String>,
}

/// Finds the tensors of a graph.
///
/// # Errors
/// [`InferenceError::UnsupportedOperation`] naming a node that is not read, [`InferenceError::TensorShape`] for one of
/// another shape than the settings ask for, [`InferenceError::Config`] where a node computes something else,
/// [`InferenceError::UnknownTensor`] for an initializer that may be a weight and is none of the model's.
pub(super) fn read(model: &OnnxModel, config: &ModelConfig, tied: bool) -> Result<Found> {
    let (sources, used) = (Sources::new(), HashSet::new());
    let mut graph = Graph { model, config, sources, tied, unread_table: None, used };
    for node in model.nodes() {
        graph.add_codes_of(node)?;
    }
    for tensor in model.initializers() {
        // Scales and zero points are ordinary numbers too.
        if !graph.is_used(&tensor.name) {
            graph.add_numbers(tensor, &tensor.name)?;
        }
    }
    for node in model.nodes() {
        agreement::check(model, config, node)?;
        graph.add_node(node)?;
    }
    if !graph.sources.values().any(|source| matches!(source, Source::Codes(..))) {
        let what = format!("{}: a graph without MatMulNBits nodes", model.name());
        let instead = "ternary weights are read where these have 2 bits; repositories call such files q2 or q2f16";
        return Err(InferenceError::unsupported(what, instead));
    }
    graph.refuse_unknown()?;
    let Graph { sources, unread_table, .. } = graph;
    Ok(Found { sources, unread_table })
}

impl Graph<'_> {
    /// Rows or elements of a tensor.
    fn rows(&self, name: TensorName) -> usize {
        let [rows, cols] = self.config.shape(name.role);
        if rows == 1 && name.part == Part::Weight { cols } else { rows }
    }

    /// Adds the source of tensors that lie one below the other; `whole` are all their rows.
    fn add(
        &mut self,
        names: &[TensorName],
        whole: usize,
        shown_shape: &[usize],
        source: impl Fn(Range<usize>) -> Source,
    ) -> Result<()> {
        let rows: usize = names.iter().map(|name| self.rows(*name)).sum();
        let first = source(0..whole);
        if rows != whole {
            let cols = names.first().map_or(0, |name| self.config.shape(name.role)[1]);
            let expected = if shown_shape.len() > 1 { vec![rows, cols] } else { vec![rows] };
            let (file, tensor) = (self.model.name(), first.tensor());
            return Err(InferenceError::shape(file, tensor, shown_shape, &expected));
        }
        let mut start = 0;
        for name in names {
            let end = start + self.rows(*name);
            let found = source(start..end);
            start = end;
            self.used.extend(found.tensors().into_iter().map(str::to_owned));
            let layers = self.config.layers as u32;
            if name.layer.is_some_and(|layer| layer >= layers) {
                let problem = format!("{layers}, but the file has {}", first.tensor());
                let file = self.model.name();
                return Err(InferenceError::config(file, "num_hidden_layers", problem));
            }
            if let Some(other) = self.sources.insert(name.stem(), found) {
                let file = self.model.name();
                let what = format!("{file}: {} beside {}", first.tensor(), other.tensor());
                let instead = "a tensor of a layer is read where it is there once";
                return Err(InferenceError::unsupported(what, instead));
            }
        }
        Ok(())
    }

    /// Adds an initializer of ordinary numbers, if `name` is that of a vector or of the table.
    fn add_numbers(&mut self, tensor: &Initializer, name: &str) -> Result<()> {
        if tensor.data_type.plain().is_none() || tensor.elements() == 0 {
            return Ok(());
        }
        let names = names::tensors(name, self.config.layers);
        let Some(first) = names.first() else { return Ok(()) };
        let is_table = first.role == Role::TokenEmbedding && tensor.shape.len() == 2;
        let is_bias = first.part == Part::Bias && first.role.is_projection();
        let is_norm = first.part == Part::Weight
            && self.config.shape(first.role)[0] == 1
            && self.config.architecture.has(first.role);
        if is_bias && !self.config.architecture.table().biased.contains(&first.role) {
            let family = self.config.architecture;
            return Err(InferenceError::unsupported(
                format!("{}: the bias {}", self.model.name(), tensor.name),
                format!("layers of {family} models have no bias there"),
            ));
        }
        let is_vector = tensor.shape.len() == 1 && (is_bias || is_norm);
        if !(is_vector || is_table) {
            return Ok(());
        }
        let source = |rows| Source::Numbers(tensor.name.clone(), rows);
        self.add(&names, tensor.shape[0], &tensor.shape, source)
    }

    /// Adds the matrix of a node that has codes.
    fn add_codes_of(&mut self, node: &Node) -> Result<()> {
        let layers = self.config.layers;
        match node.op_type.as_str() {
            "MatMulNBits" => {
                let codes = Codes::of_product(self.model, node)?;
                let by_node = names::tensors(&node.name, layers);
                let inputs =
                    [&codes.scales, &codes.weight].map(|name| names::tensors(name, layers));
                let of_input = inputs.into_iter().find(|names| !names.is_empty());
                let names = if by_node.is_empty() { of_input } else { Some(by_node) };
                let names = names.ok_or_else(|| self.unknown(&codes.weight))?;
                if node.input(5).is_some() {
                    let what = format!("{}: the bias of {}", self.model.name(), shown(node));
                    return Err(InferenceError::unsupported(what, "biases are read in Add nodes"));
                }
                self.add_codes(&names, codes)
            }
            "GatherBlockQuantized" => {
                let shape = self.config.shape(Role::TokenEmbedding);
                match Codes::of_gather(self.model, node, shape) {
                    Ok(codes) => {
                        self.add_codes(&[TensorName::outside(Role::TokenEmbedding)], codes)
                    }
                    // Whatever its form, its numbers are those of the head.
                    Err(InferenceError::UnsupportedOperation { .. }) if self.tied => {
                        self.unread_table = Some(shown(node));
                        self.use_all_behind(node);
                        Ok(())
                    }
                    Err(error) => Err(error),
                }
            }
            _ => Ok(()),
        }
    }

    /// Adds a vector or a table whose initializer does not say what it is, by the name of its node.
    fn add_node(&mut self, node: &Node) -> Result<()> {
        match node.op_type.as_str() {
            "SimplifiedLayerNormalization"
            | "SkipSimplifiedLayerNormalization"
            | "RMSNormalization" => {
                let mut weights = node.inputs.iter().filter_map(|name| self.model.find(name));
                let weight = weights.find(|found| found.shape.len() == 1);
                match weight.filter(|found| !self.is_used(&found.name)) {
                    Some(weight) => self.add_numbers(weight, &node.name),
                    None => Ok(()),
                }
            }
            "Gather" => match node.input(0).and_then(|data| self.model.find(data)) {
                Some(table) if !self.is_used(&table.name) && table.shape.len() == 2 => {
                    self.add_numbers(table, &node.name)
                }
                _ => Ok(()),
            },
            "MatMul" | "Gemm" => self.refuse_product(node),
            _ => Ok(()),
        }
    }

    fn add_codes(&mut self, names: &[TensorName], codes: Codes) -> Result<()> {
        let (rows, cols) = (codes.form.rows, codes.form.cols);
        let expected = names.first().map_or(0, |name| self.config.shape(name.role)[1]);
        if cols != expected {
            let needed: usize = names.iter().map(|name| self.rows(*name)).sum();
            let (file, shapes) = (self.model.name(), ([rows, cols], [needed, expected]));
            return Err(InferenceError::shape(file, &codes.weight, &shapes.0, &shapes.1));
        }
        self.add(names, rows, &[rows, cols], |rows| Source::Codes(codes.clone(), rows))
    }

    /// Refuses a product with a matrix of ordinary numbers, which a ternary file has nowhere; that with the table of
    /// embeddings is the head of a tied model.
    fn refuse_product(&self, node: &Node) -> Result<()> {
        let Some(name) = node.input(1) else { return Ok(()) };
        let Some(weight) = initializer(self.model, name) else { return Ok(()) };
        if weight.shape.len() != 2 || self.is_used(&weight.name) {
            return Ok(());
        }
        let (file, weight_type) = (self.model.name(), weight.data_type);
        let what = format!(
            "{file}: {} {}, whose weight {} is {weight_type}",
            node.op_type,
            shown(node),
            weight.name
        );
        let instead = "layers and heads are read in MatMulNBits nodes of 2 bits; repositories call such files q2 or q2f16";
        Err(InferenceError::unsupported(what, instead))
    }

    /// Marks the initializers that a node's inputs are computed from.
    fn use_all_behind(&mut self, node: &Node) {
        /// Names that are looked at, at most.
        const NAMES: usize = 256;
        let mut names: Vec<&str> = node.inputs.iter().map(String::as_str).collect();
        let mut next = 0;
        while let Some(name) = names.get(next).copied().filter(|_| next < NAMES) {
            next += 1;
            match (self.model.find(name), self.model.producer(name)) {
                (Some(found), _) => {
                    self.used.insert(found.name.clone());
                }
                (None, Some(producer)) => names.extend(producer.inputs.iter().map(String::as_str)),
                (None, None) => {}
            }
        }
    }

    fn is_used(&self, tensor: &str) -> bool {
        self.used.contains(tensor)
    }

    fn unknown(&self, tensor: &str) -> InferenceError {
        InferenceError::UnknownTensor {
            file: self.model.name().into(),
            tensor: tensor.into(),
            architecture: self.config.architecture.to_string(),
        }
    }

    /// Refuses an initializer that may be a weight and that nothing reads. Tables of rotary angles follow from the settings.
    fn refuse_unknown(&self) -> Result<()> {
        let mut used: HashSet<&str> = self.used.iter().map(String::as_str).collect();
        for node in self.model.nodes() {
            if ["GroupQueryAttention", "RotaryEmbedding"].contains(&node.op_type.as_str()) {
                used.extend(node.inputs.iter().map(String::as_str));
            }
        }
        let mut left = self.model.initializers().iter().filter(|tensor| may_be_weight(tensor));
        match left.find(|tensor| !used.contains(&*tensor.name)) {
            Some(tensor) => Err(self.unknown(&tensor.name)),
            None => Ok(()),
        }
    }
}
