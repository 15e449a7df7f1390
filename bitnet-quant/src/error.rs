//! The error type of this crate.

use bitnet_core::ternary::ScaleGranularity;

/// The result type of this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// An error of a quantiser or a codec.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// An error of memory or of building a matrix.
    #[error(transparent)]
    Core(#[from] bitnet_core::Error),
    /// An unknown storage type.
    #[error("unknown type {name}; known are {known}")]
    UnknownStorage {
        /// The name.
        name: String,
        /// The known names.
        known: String,
    },
    /// The matrix has no rows or no columns.
    #[error("{format}: a [{rows}, {cols}] matrix has no weights; check the tensor's dimensions")]
    EmptyShape {
        /// The storage format.
        format: &'static str,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
    },
    /// The stored size exceeds the address space.
    #[error(
        "{format}: a [{rows}, {cols}] matrix exceeds the address space; check the tensor's dimensions"
    )]
    SizeOverflow {
        /// The storage format.
        format: &'static str,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
    },
    /// The format does not support a dimension.
    #[error(
        "{format}: {got} {dimension} are not a multiple of {multiple}; store the tensor in another format"
    )]
    NotAMultiple {
        /// The storage format.
        format: &'static str,
        /// `rows`, `columns` or `bytes`.
        dimension: &'static str,
        /// The actual value.
        got: usize,
        /// The required divisor.
        multiple: usize,
    },
    /// The number of bytes does not match the shape.
    #[error(
        "{format}: {got} bytes for a [{rows}, {cols}] matrix, which takes {expected}; the file is damaged or has another format"
    )]
    Length {
        /// The storage format.
        format: &'static str,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
        /// The actual number of bytes.
        got: usize,
        /// The expected number of bytes.
        expected: usize,
    },
    /// A code stands for a value outside -1, 0, 1.
    #[error(
        "{format}: the code at row {row}, column {col} is twice the scale, so the tensor is not ternary; load it as a dense quantised tensor or check the layout"
    )]
    NotTernary {
        /// The storage format.
        format: &'static str,
        /// Row of the matrix.
        row: usize,
        /// Column of the matrix.
        col: usize,
    },
    /// A zero point is no code, or makes weights of its block three times the scale.
    #[error(
        "{format}: the zero point of row {row}, block {block} is {value}, with which its weights are not ternary; use a file of the model with ternary weights"
    )]
    BadZeroPoint {
        /// The storage format.
        format: &'static str,
        /// Row of the matrix.
        row: usize,
        /// Block within the row.
        block: usize,
        /// The zero point.
        value: f32,
    },
    /// Weights that need one scale have several.
    #[error(
        "{format}: row {row}, columns {start}..{end} have several scales, and a scale of fewer than 64 weights is not read; quantise the model again in blocks of 64 or more"
    )]
    BlockScales {
        /// The storage format.
        format: &'static str,
        /// Row of the matrix.
        row: usize,
        /// First column of the weights that need one scale.
        start: usize,
        /// Column after them.
        end: usize,
    },
    /// A scale is NaN or infinite.
    #[error(
        "{format}: the scale of row {row}, block {block} is {value}; the file is damaged or has another layout"
    )]
    BadScale {
        /// The storage format.
        format: &'static str,
        /// Row of the matrix.
        row: usize,
        /// Block within the row.
        block: usize,
        /// The scale.
        value: f32,
    },
    /// A scale is out of the range of the format's scale type.
    #[error(
        "{format}: the scale {value} of row {row}, block {block} is outside the range of the format's scales; store the tensor in a format with f32 scales"
    )]
    ScaleRange {
        /// The storage format.
        format: &'static str,
        /// Row of the matrix.
        row: usize,
        /// Block within the row.
        block: usize,
        /// The scale.
        value: f32,
    },
    /// Weights that share a scale in the format have different scales.
    #[error(
        "{format}: row {row}, columns {start}..{end} need more than one scale ({granularity:?}) and the format has one per {room}; choose a format with finer scales"
    )]
    ScaleGranularity {
        /// The storage format.
        format: &'static str,
        /// First row with a second scale.
        row: usize,
        /// First column of the weights that share a scale.
        start: usize,
        /// Column after them.
        end: usize,
        /// The matrix's granularity.
        granularity: ScaleGranularity,
        /// The weights that share a scale in the format.
        room: &'static str,
    },
    /// A number is NaN, infinite or out of the range of the target type.
    #[error(
        "{format}: row {row}, column {col} is {value}, which the type can't represent; repair the weights"
    )]
    BadNumber {
        /// The quantiser or the storage format.
        format: &'static str,
        /// Row of the matrix.
        row: usize,
        /// Column of the matrix.
        col: usize,
        /// The number.
        value: f32,
    },
    /// An unknown layout name.
    #[error("unknown I2_S layout {name:?}; choose canonical, arm64 or x4")]
    UnknownLayout {
        /// The name.
        name: String,
    },
    /// The format has no such block length.
    #[error("{format}: blocks of {block} weights do not exist; choose 64 or 128")]
    UnknownBlock {
        /// The storage format.
        format: &'static str,
        /// The block length.
        block: usize,
    },
    /// A parameter is out of range.
    #[error("{what}: {parameter} is {value}; choose {expected}")]
    BadParameter {
        /// The owner of the parameter.
        what: &'static str,
        /// The parameter's name.
        parameter: &'static str,
        /// The value.
        value: f64,
        /// The valid values.
        expected: &'static str,
    },
    /// Calibration saw no finite number of a layer.
    #[error(
        "layer {layer:?} has no finite activations; run the model on more text or leave it out"
    )]
    NotCalibrated {
        /// The layer's name.
        layer: String,
    },
    /// A stored calibration is invalid.
    #[error("this is no calibration: {reason}; calibrate again")]
    BadCalibration {
        /// The problem.
        reason: String,
    },
    /// The candidates of a tensor can't be compared.
    #[error(
        "tensor {tensor:?} has no candidates, or one whose error is not a finite number of 0 or more; measure it again"
    )]
    BadCandidate {
        /// The tensor's name.
        tensor: String,
    },
    /// No plan fits the budget.
    #[error(
        "the smallest plan takes {least} and the budget is {budget}; raise it or add smaller storages"
    )]
    NoPlan {
        /// The budget, in bytes or error.
        budget: f64,
        /// The cost of the smallest plan.
        least: f64,
    },
    /// A code is not defined.
    #[error(
        "{format}: the code {code} at row {row}, column {col} is undefined; the file is damaged or has other tile sizes"
    )]
    UnknownCode {
        /// The storage format.
        format: &'static str,
        /// Row of the matrix.
        row: usize,
        /// First column of the weights of the code.
        col: usize,
        /// The code.
        code: u8,
    },
    /// A bias is not the negative scale.
    #[error(
        "{format}: row {row}, group {block} has the scale {scale} and the bias {bias}; ternary weights need bias = -scale; load the tensor as a dense quantised one"
    )]
    NotSymmetric {
        /// The storage format.
        format: &'static str,
        /// Row of the matrix.
        row: usize,
        /// Group within the row.
        block: usize,
        /// The scale.
        scale: f32,
        /// The bias.
        bias: f32,
    },
    /// A weight is zero, which a format of two values has no code for.
    #[error(
        "{format}: the weight at row {row}, column {col} is 0, and the format has only -scale and +scale; store the tensor in another format"
    )]
    NotBinary {
        /// The storage format.
        format: &'static str,
        /// Row of the matrix.
        row: usize,
        /// Column of the matrix.
        col: usize,
    },
    /// Four weights do not contain exactly one zero.
    #[error(
        "{format}: the four weights at row {row}, column {col} contain {zeros} zeros instead of one; store the tensor in another format"
    )]
    NotSparse {
        /// The storage format.
        format: &'static str,
        /// Row of the matrix.
        row: usize,
        /// First of the four columns.
        col: usize,
        /// The number of zeros.
        zeros: usize,
    },
    /// The tile sizes are invalid.
    #[error("{format}: {problem}; take the sizes from the build's kernel_config.ini")]
    BadTiles {
        /// The storage format.
        format: &'static str,
        /// The problem.
        problem: &'static str,
    },
    /// A trit archive can't be read.
    #[error("trit archive: {problem}; download or create the archive again")]
    Archive {
        /// The problem.
        problem: &'static str,
    },
}
