//! The messages of an ONNX file that matter here.

use std::ops::Range;

use super::data_type::DataType;
use super::wire::{Message, Value};
use super::{Attribute, Node};
use crate::error::{Error, Result, check_limit};
use crate::sniff::refuse_pickle;

/// Fields that are kept in memory at most: nodes, tensors, inputs, dimensions. Exports of the largest models have some
/// hundred thousand.
const ITEMS: u64 = 1 << 22;
/// Dimensions of a tensor at most.
const DIMS: usize = 16;

/// What a graph holds.
#[derive(Debug, Default)]
pub(super) struct Graph {
    pub(super) nodes: Vec<Node>,
    pub(super) tensors: Vec<Tensor>,
}

/// A `TensorProto`.
#[derive(Debug)]
pub(super) struct Tensor {
    pub(super) name: String,
    pub(super) data_type: DataType,
    pub(super) shape: Vec<usize>,
    pub(super) offset: u64,
    /// `raw_data`, or packed `float_data`, which are the same bytes.
    pub(super) raw: Option<Range<usize>>,
    /// Keys and values of `external_data`.
    pub(super) external: Vec<(String, String)>,
    pub(super) is_external: bool,
}

/// Counts what is kept.
struct Budget(u64);

impl Budget {
    fn take(&mut self, message: &Message<'_>) -> Result<()> {
        self.0 += 1;
        check_limit(message.file(), "number of fields", message.offset(), self.0, ITEMS)
    }
}

/// Reads the graph of a model.
///
/// # Errors
/// [`Error::WrongFormat`] for a file that is no model, [`Error::Header`] and [`Error::UnexpectedEnd`] for a damaged one,
/// [`Error::Limit`], and [`Error::Tensor`] for a bad description of a tensor.
pub(super) fn graph(bytes: &[u8], file: &str) -> Result<Graph> {
    refuse_pickle(bytes, file)?;
    let mut model = Message::whole(file, bytes, "ModelProto");
    let mut budget = Budget(0);
    let mut found = None;
    while let Some((field, value)) = model.next()? {
        let (7, Value::Bytes(range)) = (field, value) else { continue };
        if found.is_some() {
            let problem = "the model has a second graph";
            return Err(Error::header(file, "graph", range.start as u64, problem));
        }
        let mut graph = Graph::default();
        read_graph(model.inner(&range, "GraphProto"), &mut graph, &mut budget)?;
        found = Some(graph);
    }
    found.ok_or_else(|| Error::WrongFormat {
        file: file.to_owned(),
        expected: "an ONNX model with a graph",
        found: crate::error::shown_bytes(bytes.get(..bytes.len().min(4)).unwrap_or(&[])),
        advice: "use the .onnx file of the model, not the file of its external data",
    })
}

fn read_graph(mut message: Message<'_>, graph: &mut Graph, budget: &mut Budget) -> Result<()> {
    let mut constants = Vec::new();
    while let Some((field, value)) = message.next()? {
        match (field, value) {
            (1, Value::Bytes(range)) => {
                budget.take(&message)?;
                let inner = message.inner(&range, "NodeProto");
                let node = read_node(inner, &mut constants, budget)?;
                graph.nodes.push(node);
            }
            (5, Value::Bytes(range)) => {
                budget.take(&message)?;
                let tensor = read_tensor(message.inner(&range, "TensorProto"), budget)?;
                graph.tensors.push(tensor);
            }
            _ => {}
        }
    }
    graph.tensors.append(&mut constants);
    Ok(())
}

/// Reads a node; the value of a `Constant` becomes a tensor with the name of the node's output.
fn read_node(
    mut message: Message<'_>,
    constants: &mut Vec<Tensor>,
    budget: &mut Budget,
) -> Result<Node> {
    let mut node = Node::default();
    let mut values = Vec::new();
    while let Some((field, value)) = message.next()? {
        let Value::Bytes(range) = value else { continue };
        let text = |field: &str| message.text(&range, field).map(str::to_owned);
        match field {
            1 | 2 => {
                budget.take(&message)?;
                let names = if field == 1 { &mut node.inputs } else { &mut node.outputs };
                names.push(text("the name of an input or output")?);
            }
            3 => node.name = text("the name of a node")?,
            4 => node.op_type = text("op_type")?,
            5 => {
                budget.take(&message)?;
                let (name, attribute, tensor) =
                    read_attribute(message.inner(&range, "AttributeProto"), budget)?;
                values.extend(tensor.filter(|_| name == "value"));
                node.attributes.push((name, attribute));
            }
            7 => node.domain = text("domain")?,
            _ => {}
        }
    }
    if let (true, [range], [output]) = (node.op_type == "Constant", &values[..], &node.outputs[..])
    {
        let mut tensor = read_tensor(message.inner(range, "TensorProto"), budget)?;
        output.clone_into(&mut tensor.name);
        constants.push(tensor);
    }
    Ok(node)
}

/// Reads an attribute: its name, its value, and where a tensor is.
fn read_attribute(
    mut message: Message<'_>,
    budget: &mut Budget,
) -> Result<(String, Attribute, Option<Range<usize>>)> {
    let (mut name, mut value, mut tensor) = (String::new(), Attribute::Other, None);
    let mut ints = Vec::new();
    let start = message.clone();
    while let Some((field, found)) = message.next()? {
        match (field, found) {
            (1, Value::Bytes(range)) => {
                message.text(&range, "the name of an attribute")?.clone_into(&mut name);
            }
            (2, Value::Fixed32(bits)) => value = Attribute::Float(f32::from_bits(bits)),
            (3, Value::Varint(number)) => value = Attribute::Int(number as i64),
            (5, Value::Bytes(range)) => tensor = Some(range),
            (8, found) => {
                let mut push = |number| {
                    ints.push(number);
                    Ok(())
                };
                read_ints(&start, found, &mut push, budget)?;
            }
            _ => {}
        }
    }
    if !ints.is_empty() {
        value = Attribute::Ints(ints);
    }
    Ok((name, value, tensor))
}

/// Passes the numbers of a repeated field, which may be packed.
fn read_ints(
    message: &Message<'_>,
    value: Value,
    push: &mut dyn FnMut(i64) -> Result<()>,
    budget: &mut Budget,
) -> Result<()> {
    match value {
        Value::Varint(number) => {
            budget.take(message)?;
            push(number as i64)
        }
        Value::Bytes(range) => {
            let mut packed = message.inner(&range, "a list of numbers");
            while !packed.is_done() {
                budget.take(&packed)?;
                push(packed.varint()? as i64)?;
            }
            Ok(())
        }
        Value::Fixed32(_) | Value::Fixed64 => Ok(()),
    }
}

fn read_tensor(mut message: Message<'_>, budget: &mut Budget) -> Result<Tensor> {
    let (start, offset) = (message.clone(), message.offset());
    let mut tensor = Tensor {
        name: String::new(),
        data_type: DataType::from_id(0),
        shape: Vec::new(),
        offset,
        raw: None,
        external: Vec::new(),
        is_external: false,
    };
    let mut dims = Vec::new();
    let mut pieces_of_floats = 0;
    while let Some((field, value)) = message.next()? {
        match (field, value) {
            (1, value) => read_ints(
                &start,
                value,
                &mut |dim| {
                    dims.push(dim);
                    check_limit(start.file(), "dimensions", offset, dims.len() as u64, DIMS as u64)
                },
                budget,
            )?,
            (2, Value::Varint(id)) => {
                tensor.data_type = DataType::from_id(i32::try_from(id).unwrap_or(0));
            }
            (4, Value::Bytes(range)) => {
                pieces_of_floats += 1;
                tensor.raw = Some(range).filter(|_| pieces_of_floats == 1);
            }
            (8, Value::Bytes(range)) => {
                message.text(&range, "the name of a tensor")?.clone_into(&mut tensor.name);
            }
            (9, Value::Bytes(range)) => tensor.raw = Some(range),
            (13, Value::Bytes(range)) => {
                budget.take(&message)?;
                tensor.external.push(read_entry(message.inner(&range, "external_data"))?);
            }
            (14, Value::Varint(location)) => tensor.is_external = location == 1,
            _ => {}
        }
    }
    let dim = |dim: i64| {
        usize::try_from(dim).map_err(|_| {
            let problem = format!("a dimension is {dim}");
            Error::tensor(start.file(), &tensor.name, "dims", offset, problem)
        })
    };
    tensor.shape = dims.into_iter().map(dim).collect::<Result<_>>()?;
    Ok(tensor)
}

/// Reads a key and its value.
fn read_entry(mut message: Message<'_>) -> Result<(String, String)> {
    let (mut key, mut text) = (String::new(), String::new());
    while let Some((field, value)) = message.next()? {
        let Value::Bytes(range) = value else { continue };
        match field {
            1 => message.text(&range, "a key of external_data")?.clone_into(&mut key),
            2 => message.text(&range, "a value of external_data")?.clone_into(&mut text),
            _ => {}
        }
    }
    Ok((key, text))
}
