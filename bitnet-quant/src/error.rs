//! What can go wrong between numbers and trits.

use bitnet_core::ternary::ScaleGranularity;

/// The result of everything in this crate that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What can go wrong between numbers and trits.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Memory, or a matrix that can't be built.
    #[error(transparent)]
    Core(#[from] bitnet_core::Error),
    /// A matrix without rows or without columns.
    #[error("{format}: a [{rows}, {cols}] matrix has no weights; check the tensor's dimensions")]
    EmptyShape {
        /// The storage format.
        format: &'static str,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
    },
    /// The size of the stored form does not fit the address space.
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
    /// A dimension that the format can't hold.
    #[error(
        "{format}: {got} {dimension} are not a multiple of {multiple}; store the tensor in another format"
    )]
    NotAMultiple {
        /// The storage format.
        format: &'static str,
        /// `rows`, `columns` or `bytes`.
        dimension: &'static str,
        /// The dimension met.
        got: usize,
        /// What it must be a multiple of.
        multiple: usize,
    },
    /// The bytes are too many or too few for the shape.
    #[error(
        "{format}: {got} bytes for a [{rows}, {cols}] matrix, which takes {expected}; the file is damaged or the format is another"
    )]
    Length {
        /// The storage format.
        format: &'static str,
        /// Rows of the matrix.
        rows: usize,
        /// Columns of the matrix.
        cols: usize,
        /// The bytes given.
        got: usize,
        /// The bytes needed.
        expected: usize,
    },
    /// A code that stands for a number outside -1, 0, 1.
    #[error(
        "{format}: the code at row {row}, column {col} stands for twice the scale, so the tensor is not ternary; load it as an ordinary quantised tensor or check the layout"
    )]
    NotTernary {
        /// The storage format.
        format: &'static str,
        /// Row of the matrix.
        row: usize,
        /// Column of the matrix.
        col: usize,
    },
    /// A scale that is NaN or infinite.
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
        /// The scale met.
        value: f32,
    },
    /// A scale that the format's number type can't hold.
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
        /// The scale that does not fit.
        value: f32,
    },
    /// Scales that differ where the format has room for one.
    #[error(
        "{format}: row {row}, columns {start}..{end} need more than one scale ({granularity:?}) and the format has one per {room}; choose a format with finer scales"
    )]
    ScaleGranularity {
        /// The storage format.
        format: &'static str,
        /// First row in which a second scale was met.
        row: usize,
        /// First column of the run that shares a stored scale.
        start: usize,
        /// Column after the run.
        end: usize,
        /// The matrix's granularity.
        granularity: ScaleGranularity,
        /// What shares a scale in the format.
        room: &'static str,
    },
    /// A number that is NaN, infinite or beyond the range of the type that should hold it.
    #[error(
        "{format}: row {row}, column {col} is {value}, which can't be held; repair the weights"
    )]
    BadNumber {
        /// The quantiser or the storage format.
        format: &'static str,
        /// Row of the matrix.
        row: usize,
        /// Column of the matrix.
        col: usize,
        /// The number met.
        value: f32,
    },
    /// A name that no layout has.
    #[error("unknown I2_S layout {name:?}; choose canonical, arm64 or x4")]
    UnknownLayout {
        /// The name given.
        name: String,
    },
    /// A block length that the format does not have.
    #[error("{format}: blocks of {block} weights do not exist; choose 64 or 128")]
    UnknownBlock {
        /// The storage format.
        format: &'static str,
        /// The block length given.
        block: usize,
    },
    /// A setting that is outside its range.
    #[error("{what}: {parameter} is {value}; choose {expected}")]
    BadParameter {
        /// What has the setting.
        what: &'static str,
        /// The setting's name.
        parameter: &'static str,
        /// The value given.
        value: f64,
        /// The values that can be chosen.
        expected: &'static str,
    },
    /// A layer of which calibration saw no finite number.
    #[error(
        "layer {layer:?} has no finite activations; run the model on more text or leave it out"
    )]
    NotCalibrated {
        /// The layer's name.
        layer: String,
    },
    /// A stored calibration that can't be used.
    #[error("this is no calibration: {reason}; calibrate again")]
    BadCalibration {
        /// What is wrong with it.
        reason: String,
    },
    /// A tensor whose storages can't be compared.
    #[error(
        "tensor {tensor:?} has no candidates, or one whose error is not a finite number of 0 or more; measure it again"
    )]
    BadCandidate {
        /// The tensor's name.
        tensor: String,
    },
    /// A budget that nothing fits.
    #[error(
        "the smallest plan takes {least} and the budget is {budget}; raise it or add smaller storages"
    )]
    NoPlan {
        /// The budget, in bytes or error.
        budget: f64,
        /// What the cheapest choices take together.
        least: f64,
    },
    /// A code that stands for nothing.
    #[error(
        "{format}: the code {code} at row {row}, column {col} stands for nothing; the file is damaged or has other tiles"
    )]
    UnknownCode {
        /// The storage format.
        format: &'static str,
        /// Row of the matrix.
        row: usize,
        /// First column of the weights that the code stands for.
        col: usize,
        /// The code met.
        code: u8,
    },
    /// A bias that is not the negative scale.
    #[error(
        "{format}: row {row}, group {block} has the scale {scale} and the bias {bias}, where ternary weights have opposite numbers; load the tensor as an ordinary quantised one"
    )]
    NotSymmetric {
        /// The storage format.
        format: &'static str,
        /// Row of the matrix.
        row: usize,
        /// Group within the row.
        block: usize,
        /// The scale met.
        scale: f32,
        /// The bias met.
        bias: f32,
    },
    /// Four weights that do not hold exactly one zero.
    #[error(
        "{format}: the four weights from row {row}, column {col} on hold {zeros} zeros, and the format needs exactly one; store the tensor in another format"
    )]
    NotSparse {
        /// The storage format.
        format: &'static str,
        /// Row of the matrix.
        row: usize,
        /// First of the four columns.
        col: usize,
        /// How many of the weights are zero.
        zeros: usize,
    },
    /// Tile sizes that make no tiles.
    #[error("{format}: {problem}; take the sizes from the build's kernel_config.ini")]
    BadTiles {
        /// The storage format.
        format: &'static str,
        /// What is wrong with them.
        problem: &'static str,
    },
    /// An archive of trits that can't be read.
    #[error("trit archive: {problem}; fetch or make the archive again")]
    Archive {
        /// What is wrong with it.
        problem: &'static str,
    },
}
