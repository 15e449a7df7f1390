//! Weights of `MatMulNBits` and `GatherBlockQuantized` nodes: initializers of codes, scales and zero points. The attribute
//! `accuracy_level` says how precisely a node computes, not what.

use std::ops::Range;

use bitnet_core::dense::PlainType;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::TernaryMatrix;
use bitnet_formats::onnx::{DataType, Initializer, Node, OnnxModel};
use bitnet_quant::codec::matmul_nbits::{self, FORMAT, NbitsForm, NbitsTensors, ZeroPoints};

use crate::{InferenceError, Result};

/// Nodes between a weight and the node that reads it, at most.
const STEPS: usize = 16;

/// The matrix of a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Codes {
    /// The initializer of the codes.
    pub(super) weight: String,
    /// The initializer of the scales.
    pub(super) scales: String,
    /// The initializer of the zero points, if there is one.
    pub(super) zero_points: Option<String>,
    /// A table that spreads the codes for the node, if there is one.
    pub(super) table: Option<String>,
    /// The form of the whole matrix.
    pub(super) form: NbitsForm,
}

/// The initializer that a node's input holds, in another shape perhaps.
pub(super) fn initializer<'m>(model: &'m OnnxModel, name: &str) -> Option<&'m Initializer> {
    let mut name = name;
    for _ in 0..STEPS {
        if let Some(found) = model.find(name) {
            return Some(found);
        }
        let producer = model.producer(name)?;
        let keeps = ["Reshape", "Identity", "Squeeze", "Unsqueeze", "Flatten"];
        name = producer.input(0).filter(|_| keeps.contains(&producer.op_type.as_str()))?;
    }
    None
}

/// The initializer whose rows a node's input holds, selected, reshaped, and spread by a table of 256 entries.
fn table_rows<'m>(
    model: &'m OnnxModel,
    name: &'m str,
) -> Option<(&'m Initializer, Option<&'m Initializer>)> {
    let (mut name, mut spread) = (name, None);
    for _ in 0..STEPS {
        if let Some(found) = model.find(name) {
            return Some((found, spread));
        }
        let producer = model.producer(name)?;
        name = match producer.op_type.as_str() {
            "Reshape" | "Identity" | "Squeeze" | "Unsqueeze" | "Flatten" | "Cast" => {
                producer.input(0)?
            }
            "Gather" => {
                let data = producer.input(0)?;
                let table = model.find(data).filter(|data| data.shape.first() == Some(&256));
                match table.filter(|table| table.data_type == DataType::UINT8) {
                    Some(table) if spread.is_none() => {
                        spread = Some(table);
                        producer.input(1)?
                    }
                    _ => data,
                }
            }
            _ => return None,
        };
    }
    None
}

/// What is read of a node's attributes and inputs.
struct Reader<'m> {
    model: &'m OnnxModel,
    node: &'m Node,
}

impl<'m> Reader<'m> {
    /// The error for a node that can't be read.
    fn unsupported(&self, problem: &str) -> InferenceError {
        let (file, node) = (self.model.name(), shown(self.node));
        let what = format!("{file}: {} {node} {problem}", self.node.op_type);
        InferenceError::unsupported(
            what,
            "its weights are read where they are initializers of 2 bits, with scales and zero points for blocks of a row",
        )
    }

    fn count(&self, attribute: &str, default: Option<i64>) -> Result<usize> {
        let found = self.node.int(attribute).or(default);
        let count = found.and_then(|found| usize::try_from(found).ok()).filter(|found| *found > 0);
        count.ok_or_else(|| match found {
            Some(found) => self.unsupported(&format!("with {attribute} {found}")),
            None => self.unsupported(&format!("without {attribute}")),
        })
    }

    fn input(&self, index: usize, what: &str) -> Result<&'m str> {
        let found = self.node.input(index);
        found.ok_or_else(|| self.unsupported(&format!("without {what}")))
    }

    fn wrong(&self, tensor: &Initializer, problem: &str) -> InferenceError {
        let (name, data_type) = (&tensor.name, tensor.data_type);
        self.unsupported(&format!("with {name} of type {data_type}{problem}"))
    }

    fn scale_type(&self, scales: &Initializer) -> Result<PlainType> {
        let found = scales.data_type.plain();
        found.ok_or_else(|| self.wrong(scales, " for scales"))
    }

    fn point_type(&self, points: Option<&Initializer>, bits: usize) -> Result<ZeroPoints> {
        match points {
            None => Ok(ZeroPoints::Absent),
            Some(points) => match points.data_type.plain() {
                Some(plain) => Ok(ZeroPoints::Plain(plain)),
                None if points.data_type != DataType::UINT8 => {
                    Err(self.wrong(points, " for zero points"))
                }
                None if bits == 4 => Ok(ZeroPoints::Bits4),
                None => Ok(ZeroPoints::Bits2),
            },
        }
    }

    /// Checks the type of the codes and the lengths of all tensors.
    fn checked(
        &self,
        [weight, scales]: [&Initializer; 2],
        points: Option<&Initializer>,
        table: Option<&Initializer>,
        form: NbitsForm,
    ) -> Result<Codes> {
        if weight.data_type != DataType::UINT8 {
            return Err(self.wrong(weight, " for codes"));
        }
        let file = self.model.name();
        let of = |tensor: &Initializer| {
            let name = tensor.name.clone();
            move |error: bitnet_quant::Error| InferenceError::weights(file, &name, error)
        };
        let [code_bytes, scale_bytes, point_bytes] = form.row_bytes().map_err(of(weight))?;
        let lengths =
            [(Some(weight), code_bytes), (Some(scales), scale_bytes), (points, point_bytes)];
        for (tensor, per_row) in lengths {
            let Some(tensor) = tensor else { continue };
            let (got, expected) = (self.model.data(tensor)?.len(), per_row * form.rows);
            if got != expected {
                let (format, rows, cols) = (FORMAT, form.rows, form.cols);
                let error = bitnet_quant::Error::Length { format, rows, cols, got, expected };
                return Err(of(tensor)(error));
            }
        }
        Ok(Codes {
            weight: weight.name.clone(),
            scales: scales.name.clone(),
            zero_points: points.map(|points| points.name.clone()),
            table: table.map(|table| table.name.clone()),
            form,
        })
    }
}

/// A node's name in messages.
pub(super) fn shown(node: &Node) -> String {
    let name = if node.name.is_empty() { node.outputs.first() } else { Some(&node.name) };
    bitnet_formats::error::shown(name.map_or("", String::as_str))
}

impl Codes {
    /// The matrix of a `MatMulNBits` node, `[N, K]`.
    ///
    /// # Errors
    /// [`InferenceError::UnsupportedOperation`] naming the node and what is not read of it, [`InferenceError::Weights`]
    /// naming an initializer of another length.
    pub(super) fn of_product(model: &OnnxModel, node: &Node) -> Result<Self> {
        let read = Reader { model, node };
        let bits = read.count("bits", Some(4))?;
        if bits != 2 {
            return Err(read.unsupported(&format!("with {bits} bits")));
        }
        if node.input(4).is_some() {
            return Err(read.unsupported("with g_idx"));
        }
        let tensor = |index, what| {
            let name = read.input(index, what)?;
            let problem = || format!("with {what} ({name}) that other nodes compute");
            initializer(model, name).ok_or_else(|| read.unsupported(&problem()))
        };
        let (weight, scales) = (tensor(1, "codes")?, tensor(2, "scales")?);
        let points = node.input(3).map(|_| tensor(3, "zero points")).transpose()?;
        let form = NbitsForm {
            rows: read.count("N", None)?,
            cols: read.count("K", None)?,
            block: read.count("block_size", None)?,
            scale_type: read.scale_type(scales)?,
            zero_points: read.point_type(points, 2)?,
        };
        read.checked([weight, scales], points, None, form)
    }

    /// The table of a `GatherBlockQuantized` node, `[rows, cols]`. Where the node reads 4 bits, a table in the file must
    /// spread codes of 2 bits for it, since ONNX Runtime has no kernel for these.
    ///
    /// # Errors
    /// As [`Codes::of_product`].
    pub(super) fn of_gather(
        model: &OnnxModel,
        node: &Node,
        [rows, cols]: [usize; 2],
    ) -> Result<Self> {
        let read = Reader { model, node };
        let bits = read.count("bits", Some(4))?;
        let axes = [("gather_axis", 0, 0), ("quantize_axis", 1, -1)];
        for (name, first, second) in axes {
            let axis = node.int(name).unwrap_or(first);
            if axis != first && axis != second {
                return Err(read.unsupported(&format!("with {name} {axis}")));
            }
        }
        let tensor = |index, what| {
            let name = read.input(index, what)?;
            let problem = || format!("with {what} ({name}) that other nodes compute");
            table_rows(model, name).ok_or_else(|| read.unsupported(&problem()))
        };
        let ((weight, table), (scales, _)) = (tensor(0, "codes")?, tensor(2, "scales")?);
        let points = node.input(3).map(|_| tensor(3, "zero points")).transpose()?;
        let points = points.map(|(points, _)| points);
        match (bits, table) {
            (2, None) => {}
            (4, Some(table)) if *model.data(table)? == spread()[..] && points.is_some() => {}
            (_, Some(table)) => {
                return Err(read.wrong(table, ", which does not spread codes of 2 bits to 4,"));
            }
            (bits, None) => return Err(read.unsupported(&format!("with {bits} bits"))),
        }
        let form = NbitsForm {
            rows,
            cols,
            block: read.count("block_size", Some(128))?,
            scale_type: read.scale_type(scales)?,
            zero_points: read.point_type(points, bits)?,
        };
        read.checked([weight, scales], points, table, form)
    }

    /// Whether another node reads the same codes and scales, with equal zero points.
    ///
    /// # Errors
    /// [`InferenceError::Weights`] naming the codes of a matrix with zero points that are none.
    pub(super) fn equals(&self, other: &Self, model: &OnnxModel) -> Result<bool> {
        let shape = |codes: &Self| [codes.form.rows, codes.form.cols, codes.form.block];
        let same = (&self.weight, &self.scales, shape(self))
            == (&other.weight, &other.scales, shape(other));
        Ok(same && self.all_zero_points(model)? == other.all_zero_points(model)?)
    }

    /// The zero points of all rows.
    fn all_zero_points(&self, model: &OnnxModel) -> Result<Vec<f32>> {
        let wrong = |error| InferenceError::weights(model.name(), &self.weight, error);
        let [.., per_row] = self.form.row_bytes().map_err(wrong)?;
        let stored = self.zero_points.as_ref().and_then(|name| model.find(name));
        let stored = stored.map(|tensor| model.data(tensor)).transpose()?;
        let blocks = self.form.cols / self.form.block;
        let mut out = vec![0.0; self.form.rows * blocks];
        for (row, out) in out.chunks_exact_mut(blocks).enumerate() {
            let range = row * per_row..(row + 1) * per_row;
            let stored = stored.as_ref().and_then(|stored| stored.get(range)).unwrap_or(&[]);
            self.form.zero_points(row, stored, out).map_err(wrong)?;
        }
        Ok(out)
    }

    /// Decodes some of the rows.
    ///
    /// # Errors
    /// [`InferenceError::Weights`] naming the initializer of the codes.
    pub(super) fn decode(
        &self,
        model: &OnnxModel,
        rows: &Range<usize>,
        pool: &HybridMemoryPool,
    ) -> Result<TernaryMatrix> {
        let wrong = |error| InferenceError::weights(model.name(), &self.weight, error);
        let bytes = self.form.row_bytes().map_err(wrong)?;
        let part = |name: &str, per_row: usize| {
            let tensor = model.find(name).ok_or_else(|| InferenceError::MissingTensor {
                file: model.name().into(),
                tensor: name.into(),
            })?;
            let range = rows.start * per_row..rows.end * per_row;
            Ok::<_, InferenceError>(model.data(tensor)?.slice(range)?)
        };
        let points = self.zero_points.as_ref().map(|name| part(name, bytes[2])).transpose()?;
        let tensors = NbitsTensors {
            weight: part(&self.weight, bytes[0])?,
            scales: part(&self.scales, bytes[1])?,
            zero_points: points,
        };
        let form = NbitsForm { rows: rows.len(), ..self.form };
        let matrix = matmul_nbits::decode(&tensors, form, Some(pool)).map_err(wrong)?;
        tensors.weight.release();
        Ok(matrix)
    }
}

/// The table whose entry of a byte has its four codes of 2 bits in 4 bits each: `[256, 2]`.
fn spread() -> Vec<u8> {
    let low = |byte: u8| (byte & 3) | (byte >> 2 & 3) << 4;
    (0..=255).flat_map(|byte: u8| [low(byte), low(byte >> 4)]).collect()
}
