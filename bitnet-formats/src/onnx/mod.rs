//! ONNX models: initializers and nodes of a graph, with zero-copy access to the numbers.
//!
//! ```text
//! ModelProto      7 graph
//! GraphProto      1 node*      5 initializer*
//! NodeProto       1 input*     2 output*    3 name   4 op_type   5 attribute*   7 domain
//! AttributeProto  1 name       2 f          3 i      5 t         8 ints*
//! TensorProto     1 dims*      2 data_type  8 name   9 raw_data  13 external_data*   14 data_location
//! external_data   "location" (a file beside the model), "offset", "length"
//! ```
//! Source: onnx.proto of the ONNX project. Every other field is skipped, so nothing nests deeper than the messages above.
//! Graphs inside attributes (`If`, `Loop`) and functions are not read.

mod data_type;
mod external;
mod parse;
mod wire;

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;

use crate::error::{Error, Result, shown};
use crate::mmap::{MappedFile, Region};

pub use data_type::DataType;

/// A constant tensor of a graph: an initializer, or the value of a `Constant` node, which has the name of its output.
#[derive(Debug, Clone)]
pub struct Initializer {
    /// Its name, unique in the graph.
    pub name: String,
    /// The type of its elements.
    pub data_type: DataType,
    /// Its shape, the last dimension contiguous; empty for a scalar.
    pub shape: Vec<usize>,
    /// The offset of its description in the file.
    offset: u64,
    /// Its bytes; `None` where they are not in one piece.
    data: Option<Region>,
}

impl Initializer {
    /// Returns the number of elements.
    #[must_use]
    pub fn elements(&self) -> usize {
        // Checked when the file was read.
        self.shape.iter().product()
    }
}

/// The value of an attribute.
#[derive(Debug, Clone, PartialEq)]
pub enum Attribute {
    /// A whole number.
    Int(i64),
    /// A float.
    Float(f32),
    /// Whole numbers.
    Ints(Vec<i64>),
    /// A value of another type, which is not read.
    Other,
}

/// A node of a graph.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Node {
    /// Its name; may be empty.
    pub name: String,
    /// Its operator.
    pub op_type: String,
    /// The operator's domain; empty for ONNX's own.
    pub domain: String,
    /// Names of its inputs; an optional one that is absent is empty.
    pub inputs: Vec<String>,
    /// Names of its outputs.
    pub outputs: Vec<String>,
    /// Its attributes.
    pub attributes: Vec<(String, Attribute)>,
}

impl Node {
    /// Returns an input, unless it is absent.
    #[must_use]
    pub fn input(&self, index: usize) -> Option<&str> {
        self.inputs.get(index).map(String::as_str).filter(|name| !name.is_empty())
    }

    /// Returns a whole number among the attributes.
    #[must_use]
    pub fn int(&self, name: &str) -> Option<i64> {
        self.attributes.iter().find_map(|(found, value)| match value {
            Attribute::Int(value) if found == name => Some(*value),
            _ => None,
        })
    }

    /// Returns a float among the attributes.
    #[must_use]
    pub fn float(&self, name: &str) -> Option<f32> {
        self.attributes.iter().find_map(|(found, value)| match value {
            Attribute::Float(value) if found == name => Some(*value),
            _ => None,
        })
    }
}

/// An open ONNX model.
#[derive(Debug)]
pub struct OnnxModel {
    file: Arc<MappedFile>,
    /// The files of external data, in the order of first mention.
    external: Vec<Arc<MappedFile>>,
    initializers: Vec<Initializer>,
    by_name: HashMap<String, usize>,
    nodes: Vec<Node>,
    /// The node of each output.
    producers: HashMap<String, usize>,
}

impl OnnxModel {
    /// Opens an `.onnx` file and the files of external data that it names, which lie in its folder.
    ///
    /// # Errors
    /// Returns an error if a file is unreadable, damaged or no ONNX model; it names file, tensor and offset.
    pub fn open(path: &Path) -> Result<Self> {
        let folder = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        Self::read(MappedFile::open(path)?, Some(folder))
    }

    /// Reads a file in memory, which has no external data; error messages call it `name`.
    ///
    /// # Errors
    /// Same as [`OnnxModel::open`].
    pub fn from_bytes(bytes: Vec<u8>, name: &str) -> Result<Self> {
        Self::read(MappedFile::from_bytes(bytes, name), None)
    }

    fn read(file: Arc<MappedFile>, folder: Option<&Path>) -> Result<Self> {
        let graph = parse::graph(file.bytes(), file.name())?;
        let mut external = external::Files::new(folder);
        let mut initializers = Vec::with_capacity(graph.tensors.len());
        let mut by_name = HashMap::with_capacity(graph.tensors.len());
        for tensor in graph.tensors {
            let initializer = external::locate(tensor, &file, &mut external)?;
            let (name, offset) = (initializer.name.clone(), initializer.offset);
            if by_name.insert(name, initializers.len()).is_some() {
                return Err(Error::duplicate_tensor(file.name(), &initializer.name, offset));
            }
            initializers.push(initializer);
        }
        let mut producers = HashMap::new();
        for (index, node) in graph.nodes.iter().enumerate() {
            for output in node.outputs.iter().filter(|output| !output.is_empty()) {
                producers.insert(output.clone(), index);
            }
        }
        let external = external.into_files();
        Ok(Self { file, external, initializers, by_name, nodes: graph.nodes, producers })
    }

    /// Returns the name of the file for error messages.
    #[must_use]
    pub fn name(&self) -> &str {
        self.file.name()
    }

    /// Returns the initializers, in the order of the file, and then the values of `Constant` nodes.
    #[must_use]
    pub fn initializers(&self) -> &[Initializer] {
        &self.initializers
    }

    /// Returns the initializer of that name, if there is one.
    #[must_use]
    pub fn find(&self, name: &str) -> Option<&Initializer> {
        self.initializers.get(*self.by_name.get(name)?)
    }

    /// Returns the nodes, in the order of the file.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// Returns the node that has an output of that name, if there is one.
    #[must_use]
    pub fn producer(&self, output: &str) -> Option<&Node> {
        self.nodes.get(*self.producers.get(output)?)
    }

    /// Returns the bytes of an initializer, little-endian, row-major.
    ///
    /// # Errors
    /// [`Error::UnsupportedType`] for numbers that are neither in `raw_data` nor in external data.
    pub fn data(&self, initializer: &Initializer) -> Result<Region> {
        initializer.data.clone().ok_or_else(|| Error::UnsupportedType {
            file: self.name().to_owned(),
            tensor: shown(&initializer.name),
            type_name: format!(
                "{} in another field than raw_data and external_data",
                initializer.data_type
            ),
            offset: initializer.offset,
            advice: "save the model again with onnx.save, from tensors of onnx.numpy_helper",
        })
    }

    /// Returns the files: the model, then those of external data.
    pub fn files(&self) -> impl Iterator<Item = &Arc<MappedFile>> {
        std::iter::once(&self.file).chain(&self.external)
    }

    /// Checks that no file has changed since it was mapped. Call this after decoding tensors.
    ///
    /// # Errors
    /// Same as [`MappedFile::check`].
    pub fn check(&self) -> Result<()> {
        self.files().try_for_each(|file| file.check())
    }
}
