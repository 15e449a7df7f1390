//! Looks at every stored number of a model: NaN, infinities, magnitudes
//! that no weight has, and data that can't be decoded.

use std::collections::BTreeSet;
use std::fmt;
use std::ops::Range;
use std::sync::OnceLock;

use bitnet_core::dense::DenseRows;
use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};
use bitnet_core::simd::{self, Kernel, largest_magnitude};
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};

use super::mapped_rows::MappedRows;
use super::{Checkpoint, RawNumbers, RawTensor, tensor_use, ternary_rows};
use crate::Result;
use crate::in_parallel::in_parallel;

/// Magnitudes beyond this are out of range whatever the others are: half precision, in which models are trained and
/// run, holds none.
pub const LARGEST_WEIGHT: f32 = 65504.0;

/// Magnitudes beyond so many times the median magnitude of their tensor (zeros left out) are out of range. The largest
/// weights of trained models are some hundred times the median; a flipped bit of an exponent gives far more.
pub const LARGEST_TO_MEDIAN: f32 = 1e4;

/// Numbers that are checked in one piece of work.
const PIECE: usize = 1 << 22;

/// Rows from which a tensor's median is taken, evenly spread.
const SAMPLED_ROWS: usize = 64;

/// What is wrong with numbers of one tensor.
#[derive(Debug, Clone, PartialEq)]
pub struct WeightFault {
    /// The tensor's name in the file.
    pub tensor: String,
    /// The kind of fault.
    pub problem: WeightProblem,
}

/// The kinds of [`WeightFault`].
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum WeightProblem {
    /// Numbers that are NaN or infinite.
    NonFinite(FaultPlace),
    /// Numbers larger than [`LARGEST_WEIGHT`] or [`LARGEST_TO_MEDIAN`] allow.
    OutOfRange {
        /// Where they are.
        place: FaultPlace,
        /// The largest magnitude that the tensor may have.
        limit: f32,
    },
    /// The data can't be decoded: the codec's message.
    Undecodable(String),
}

/// The first faulty number of a tensor, and how many there are.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct FaultPlace {
    /// Row, counted over all dimensions but the contiguous one.
    pub row: usize,
    /// Column: the index along the contiguous dimension.
    pub column: usize,
    /// The number.
    pub value: f32,
    /// How many numbers of the tensor have the same fault.
    pub count: u64,
}

/// The result of [`crate::ModelFiles::scan_weights`].
#[derive(Debug, Clone, PartialEq, Default)]
pub struct WeightScan {
    /// Tensors of the file.
    pub tensors: usize,
    /// Numbers checked; a trit counts as one.
    pub numbers: u64,
    /// Faults, in file order.
    pub faults: Vec<WeightFault>,
    /// Names of tensors with weights of +2 (code 3 of two bits), and how many these are, in file order.
    pub doubled: Vec<(String, u64)>,
}

impl fmt::Display for WeightFault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.tensor)?;
        let place = match &self.problem {
            WeightProblem::Undecodable(problem) => return f.write_str(problem),
            WeightProblem::NonFinite(place) | WeightProblem::OutOfRange { place, .. } => place,
        };
        write!(f, "row {}, column {} is {:?}", place.row, place.column, place.value)?;
        if let WeightProblem::OutOfRange { limit, .. } = self.problem {
            write!(f, ", beyond {limit:.3e}")?;
        }
        match place.count {
            0 | 1 => Ok(()),
            count => write!(f, ", and {} more", count - 1),
        }
    }
}

/// Looks at every tensor of the checkpoint on `threads` threads; `on_done` receives (pieces done, pieces in all).
pub(super) fn scan(
    checkpoint: &dyn Checkpoint,
    threads: usize,
    on_done: &mut dyn FnMut(usize, usize),
) -> Result<WeightScan> {
    let pool = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded())?;
    let tensors = checkpoint.raw_tensors()?;
    let limits: Vec<OnceLock<f32>> = tensors.iter().map(|_| OnceLock::new()).collect();
    let pieces: Vec<(usize, Range<usize>)> = tensors
        .iter()
        .enumerate()
        .flat_map(|(index, tensor)| pieces(tensor).map(move |rows| (index, rows)))
        .collect();
    let work = |piece: usize| {
        let (index, rows) = &pieces[piece];
        look_at(checkpoint, &tensors[*index], rows.clone(), &limits[*index], &pool)
    };
    let found = in_parallel(pieces.len(), threads, work, on_done)?;
    // What a file lost while it was read were zeros.
    checkpoint.check()?;
    let mut scan = WeightScan { tensors: tensors.len(), ..WeightScan::default() };
    for ((index, _), found) in pieces.iter().zip(found) {
        scan.numbers += found.numbers;
        if found.doubled > 0 {
            scan.doubled.push((tensors[*index].name.clone(), found.doubled));
        }
        for problem in found.problems {
            add(&mut scan.faults, &tensors[*index].name, problem);
        }
    }
    Ok(scan)
}

/// What loading makes of linear layers that are stored as plain numbers, in the words of the model's assumptions, on
/// `threads` threads. Layers that loading refuses are left out.
pub(super) fn assumptions(checkpoint: &dyn Checkpoint, threads: usize) -> Result<Vec<String>> {
    let pool = HybridMemoryPool::with_config(MemoryPoolConfig::unbounded())?;
    let linears: Vec<_> = tensor_use::linears(checkpoint.config()).collect();
    let work = |index: usize| {
        let (name, [rows, cols]) = (&linears[index].name.stem(), linears[index].shape);
        // Ternary layers stay what they are, and to decode them takes long.
        if !checkpoint.stored_bytes(name)?.is_some_and(|stored| stored.storage.is_plain()) {
            return Ok(None);
        }
        let stored = checkpoint.stored(name, rows, cols, &pool).ok().flatten();
        Ok::<_, crate::InferenceError>(
            stored.and_then(|stored| ternary_rows::becomes(&stored, &pool)),
        )
    };
    let found = in_parallel(linears.len(), threads, work, &mut |_, _| {})?;
    checkpoint.check()?;
    let found: BTreeSet<String> = found.into_iter().flatten().collect();
    Ok(found.into_iter().collect())
}

/// Adds a fault, joining it with one of the same kind that an earlier piece of the tensor has.
fn add(faults: &mut Vec<WeightFault>, tensor: &str, problem: WeightProblem) {
    use WeightProblem::{NonFinite, OutOfRange};
    for known in faults.iter_mut().rev().take_while(|fault| fault.tensor == tensor) {
        match (&mut known.problem, &problem) {
            (NonFinite(known), NonFinite(more))
            | (OutOfRange { place: known, .. }, OutOfRange { place: more, .. }) => {
                known.count += more.count;
                return;
            }
            _ => {}
        }
    }
    faults.push(WeightFault { tensor: tensor.to_owned(), problem });
}

/// The rows of each piece of work on a tensor.
fn pieces(tensor: &RawTensor) -> impl Iterator<Item = Range<usize>> + use<> {
    let (rows, step) = match tensor.numbers {
        RawNumbers::Dense { rows, cols, .. } => (rows, (PIECE / cols.max(1)).max(1)),
        // As one piece, in the checkpoint's own way.
        RawNumbers::Ternary => (1, 1),
        RawNumbers::Other => (0, 1),
    };
    (0..rows).step_by(step).map(move |first| first..rows.min(first + step))
}

/// What one piece of work found.
#[derive(Default)]
struct Found {
    numbers: u64,
    /// Weights of +2.
    doubled: u64,
    problems: Vec<WeightProblem>,
}

fn look_at(
    checkpoint: &dyn Checkpoint,
    tensor: &RawTensor,
    rows: Range<usize>,
    limit: &OnceLock<f32>,
    pool: &HybridMemoryPool,
) -> Result<Found> {
    match &tensor.numbers {
        RawNumbers::Dense { dtype, rows: all, cols, region } => {
            let whole = match MappedRows::new(*dtype, *all, *cols, region.clone()) {
                Ok(whole) => whole,
                Err(error) => return Ok(undecodable(&error)),
            };
            let limit = match limit.get() {
                Some(limit) => *limit,
                None => *limit.get_or_init(|| limit_of(&whole)),
            };
            let bytes = region.len() / (*all).max(1);
            let found = look_at_rows(&whole, rows.clone(), limit)?;
            region.slice(rows.start * bytes..rows.end * bytes)?.release();
            Ok(found)
        }
        RawNumbers::Ternary => match checkpoint.decode_raw(&tensor.name, pool) {
            Ok(matrix) => Ok(Found { doubled: matrix.doubled() as u64, ..look_at_scales(&matrix) }),
            Err(crate::InferenceError::Weights { source, .. }) => Ok(undecodable(&source)),
            Err(error) => Err(error),
        },
        RawNumbers::Other => Ok(Found::default()),
    }
}

fn undecodable(error: &bitnet_quant::Error) -> Found {
    Found { problems: vec![WeightProblem::Undecodable(error.to_string())], ..Found::default() }
}

/// The largest magnitude of one row.
struct Largest<'a>(&'a [f32]);

impl Kernel for Largest<'_> {
    type Output = f32;

    #[inline(always)]
    fn run(self) -> f32 {
        largest_magnitude(self.0)
    }
}

fn look_at_rows(matrix: &MappedRows, rows: Range<usize>, limit: f32) -> Result<Found> {
    let level = simd::active()?;
    let mut numbers = vec![0f32; matrix.cols()];
    let mut faults = Faults::new(limit);
    for row in rows.clone() {
        matrix.decode_row(row, &mut numbers)?;
        let largest = simd::run(level, Largest(&numbers));
        if largest.is_nan() || largest > limit {
            for (column, &value) in numbers.iter().enumerate() {
                faults.look(row, column, value);
            }
        }
    }
    let numbers = (rows.len() * numbers.len()) as u64;
    Ok(Found { numbers, problems: faults.problems(), ..Found::default() })
}

fn look_at_scales(matrix: &TernaryMatrix) -> Found {
    let cols = matrix.cols();
    let (groups, len) = match matrix.granularity() {
        ScaleGranularity::Group(len) => (cols / len, len),
        ScaleGranularity::Tensor | ScaleGranularity::Row => (1, cols),
    };
    let mut magnitudes: Vec<f32> = matrix.scales().iter().map(|scale| scale.abs()).collect();
    let mut faults = Faults::new(limit_for(&mut magnitudes));
    for (index, &scale) in matrix.scales().iter().enumerate() {
        faults.look(index / groups, index % groups * len, scale);
    }
    let numbers = (matrix.rows() * cols) as u64;
    Found { numbers, problems: faults.problems(), ..Found::default() }
}

/// Faulty numbers while they are counted.
struct Faults {
    limit: f32,
    non_finite: Option<FaultPlace>,
    out_of_range: Option<FaultPlace>,
}

impl Faults {
    fn new(limit: f32) -> Self {
        Self { limit, non_finite: None, out_of_range: None }
    }

    fn look(&mut self, row: usize, column: usize, value: f32) {
        let place = if !value.is_finite() {
            &mut self.non_finite
        } else if value.abs() > self.limit {
            &mut self.out_of_range
        } else {
            return;
        };
        place.get_or_insert(FaultPlace { row, column, value, count: 0 }).count += 1;
    }

    fn problems(self) -> Vec<WeightProblem> {
        let limit = self.limit;
        let out_of_range =
            self.out_of_range.map(|place| WeightProblem::OutOfRange { place, limit });
        self.non_finite.map(WeightProblem::NonFinite).into_iter().chain(out_of_range).collect()
    }
}

/// The largest magnitude that a matrix may have, by a sample of its rows.
fn limit_of(matrix: &MappedRows) -> f32 {
    let step = matrix.rows().div_ceil(SAMPLED_ROWS).max(1);
    let mut row = vec![0f32; matrix.cols()];
    let mut magnitudes = Vec::new();
    for index in (0..matrix.rows()).step_by(step) {
        if matrix.decode_row(index, &mut row).is_ok() {
            magnitudes.extend(row.iter().map(|x| x.abs()));
        }
    }
    limit_for(&mut magnitudes)
}

/// The largest magnitude beside these.
fn limit_for(magnitudes: &mut Vec<f32>) -> f32 {
    magnitudes.retain(|x| x.is_finite() && *x > 0.0);
    if magnitudes.is_empty() {
        return LARGEST_WEIGHT;
    }
    let middle = magnitudes.len() / 2;
    let (_, median, _) = magnitudes.select_nth_unstable_by(middle, f32::total_cmp);
    (*median * LARGEST_TO_MEDIAN).min(LARGEST_WEIGHT)
}
