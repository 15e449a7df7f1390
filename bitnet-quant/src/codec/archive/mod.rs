//! An entropy-coded archive of a ternary matrix, for storage and transport, not for kernels.
//!
//! ```text
//! 0   8 bytes  "BITNETTA"
//! 8   u32      version, 1
//! 12  u32      scales: 0 one, 1 one for each row, 2 one for each group
//! 16  u64      rows
//! 24  u64      columns
//! 32  u64      weights in a group, 0 without groups
//! 40  u64      n: bytes of coded trits
//! 48  u32      CRC-32 of the 48 bytes before
//! 52  f32 ...  scales, in the order of the matrix
//!     n bytes  trits
//!     u32      CRC-32 of scales and coded trits
//!     u32      CRC-32 of the decoded trits: of each row the terms of sixteen codes, the last filled up with code 1
//! ```
//!
//! All numbers are little-endian; CRC-32 is that of zlib. Each trit, row by row, is one or two binary decisions: "not
//! zero", then "positive". Each decision has an adaptive probability whose context is the two previous trits of the row
//! and the trit above (zero outside the matrix); see `coder.rs`.

mod coder;

use super::shape;
use crate::{Error, Result};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::ternary::{CODES_PER_WORD, ScaleGranularity, TernaryBuilder, TernaryMatrix};
use coder::{Decoder, Encoder, Learned};

/// The format's name.
pub const FORMAT: &str = "trit archive";
const MAGIC: &[u8; 8] = b"BITNETTA";
const VERSION: u32 = 1;
/// Bytes before the scales.
const HEADER: usize = 52;
/// Bytes behind the coded trits.
const TRAILER: usize = 8;

/// Returns the error for an invalid archive.
fn damaged(problem: &'static str) -> Error {
    Error::Archive { problem }
}

/// The header of an archive.
#[derive(Debug, Clone, Copy)]
struct Header {
    granularity: ScaleGranularity,
    rows: u64,
    cols: u64,
    coded: u64,
}

impl Header {
    fn bytes(self) -> [u8; HEADER] {
        let (kind, group) = match self.granularity {
            ScaleGranularity::Tensor => (0u32, 0),
            ScaleGranularity::Row => (1, 0),
            ScaleGranularity::Group(n) => (2, n as u64),
        };
        let mut bytes = [0; HEADER];
        bytes[..8].copy_from_slice(MAGIC);
        bytes[8..12].copy_from_slice(&VERSION.to_le_bytes());
        bytes[12..16].copy_from_slice(&kind.to_le_bytes());
        for (place, number) in bytes[16..48]
            .as_chunks_mut::<8>()
            .0
            .iter_mut()
            .zip([self.rows, self.cols, group, self.coded])
        {
            *place = number.to_le_bytes();
        }
        let checksum = crc32fast::hash(&bytes[..48]);
        bytes[48..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    fn read(bytes: &[u8]) -> Result<Self> {
        let Some(bytes) = bytes.first_chunk::<HEADER>() else {
            return Err(damaged("it ends within its header"));
        };
        if bytes[..8] != *MAGIC {
            return Err(damaged("it does not begin with BITNETTA"));
        }
        let word = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let long = |at: usize| u64::from(word(at)) | (u64::from(word(at + 4)) << 32);
        if word(8) != VERSION {
            return Err(damaged("its version is not 1; a newer program may read it"));
        }
        if word(48) != crc32fast::hash(&bytes[..48]) {
            return Err(damaged("the checksum of its header differs"));
        }
        let granularity = match (word(12), long(32)) {
            (0, 0) => ScaleGranularity::Tensor,
            (1, 0) => ScaleGranularity::Row,
            (2, group) => match usize::try_from(group) {
                Ok(group) => ScaleGranularity::Group(group),
                Err(_) => return Err(damaged("its group size exceeds the row length")),
            },
            _ => return Err(damaged("its kind of scales is unknown")),
        };
        Ok(Self { granularity, rows: long(16), cols: long(24), coded: long(40) })
    }
}

/// Returns the rows and columns of an archived matrix from its header; the rest is not checked.
///
/// # Errors
/// [`Error::Archive`] if the header is invalid.
pub fn stored_shape(bytes: &[u8]) -> Result<(u64, u64)> {
    let header = Header::read(bytes)?;
    Ok((header.rows, header.cols))
}

/// Decodes a `[rows, cols]` matrix. The caller states the shape, because the length of an archive does not bound it:
/// constant trits take almost no bytes.
/// The weights are in `pool`, if any.
///
/// # Errors
/// [`Error::EmptyShape`] or [`Error::SizeOverflow`] for the shape, [`Error::Archive`] for another shape, a wrong length
/// or a wrong checksum, and errors of [`TernaryBuilder::finish`].
pub fn decode(
    bytes: &[u8],
    rows: usize,
    cols: usize,
    pool: Option<&HybridMemoryPool>,
) -> Result<TernaryMatrix> {
    shape::blocked_size(FORMAT, rows, cols, 1, 1)?;
    let header = Header::read(bytes)?;
    if (header.rows, header.cols) != (rows as u64, cols as u64) {
        return Err(damaged("its matrix has another shape"));
    }
    let count = header.granularity.scale_count(rows, cols)?;
    let body = bytes[HEADER..].split_last_chunk::<TRAILER>();
    let Some((body, [a, b, c, d, trailer @ ..])) = body else {
        return Err(damaged("it ends before its checksums"));
    };
    let expected =
        count.checked_mul(4).map(|scales| scales as u64).and_then(|s| s.checked_add(header.coded));
    if expected != Some(body.len() as u64) {
        return Err(damaged("its length differs from its header"));
    }
    if crc32fast::hash(body) != u32::from_le_bytes([*a, *b, *c, *d]) {
        return Err(damaged("the checksum of its coded trits differs"));
    }
    let (scales, coded) = body.split_at(4 * count);
    let scales = scales.as_chunks::<4>().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect();
    let mut builder = TernaryBuilder::in_pool(rows, cols, pool)?;
    let mut model = Model::new(cols);
    let mut decoder = Decoder::new(coded);
    let mut checksum = crc32fast::Hasher::new();
    let mut words = vec![0u32; cols.div_ceil(CODES_PER_WORD)];
    for _ in 0..rows {
        model.row(|learned, _, _| decoder.take(learned));
        pack(&model.above, &mut words);
        words.iter().for_each(|word| checksum.update(&word.to_le_bytes()));
        builder.push_words(&words)?;
    }
    if checksum.finalize() != u32::from_le_bytes(*trailer) {
        return Err(damaged("the checksum of its decoded trits differs"));
    }
    Ok(builder.finish(header.granularity, scales)?)
}

/// Archives a matrix with its scales.
///
/// # Errors
/// [`Error::EmptyShape`] or [`Error::SizeOverflow`] for a matrix without
/// weights, [`Error::Core`] if memory is exhausted.
pub fn encode(matrix: &TernaryMatrix) -> Result<Vec<u8>> {
    let (rows, cols) = (matrix.rows(), matrix.cols());
    shape::blocked_size(FORMAT, rows, cols, 1, 1)?;
    shape::only_trits(FORMAT, matrix)?;
    let mut encoder = Encoder::new();
    let mut model = Model::new(cols);
    let mut trits = vec![0i8; cols];
    let mut checksum = crc32fast::Hasher::new();
    for row in 0..rows {
        matrix.unpack_row(row, &mut trits);
        model.row(|learned, col, question| {
            let decision = match question {
                Question::NotZero => trits[col] != 0,
                Question::Positive => trits[col] > 0,
            };
            encoder.put(learned, decision);
            decision
        });
        let words = &matrix.row_words(row)[..cols.div_ceil(CODES_PER_WORD)];
        words.iter().for_each(|word| checksum.update(&word.to_le_bytes()));
    }
    let coded = encoder.finish();
    let header = Header {
        granularity: matrix.granularity(),
        rows: rows as u64,
        cols: cols as u64,
        coded: coded.len() as u64,
    };
    let mut out = shape::buffer(HEADER + 4 * matrix.scales().len() + coded.len() + TRAILER)?;
    out.extend_from_slice(&header.bytes());
    out.extend(matrix.scales().iter().flat_map(|scale| scale.to_le_bytes()));
    out.extend_from_slice(&coded);
    let body = crc32fast::hash(&out[HEADER..]);
    out.extend_from_slice(&body.to_le_bytes());
    out.extend_from_slice(&checksum.finalize().to_le_bytes());
    Ok(out)
}

/// The meaning of a decision.
#[derive(Debug, Clone, Copy)]
enum Question {
    NotZero,
    Positive,
}

/// The adaptive probabilities by context, and the previous row.
struct Model {
    not_zero: [Learned; 27],
    positive: [Learned; 27],
    /// Codes of the previous row, overwritten by those of the current one.
    above: Vec<u8>,
}

impl Model {
    fn new(cols: usize) -> Self {
        Self { not_zero: [Learned::NEW; 27], positive: [Learned::NEW; 27], above: vec![1; cols] }
    }

    /// Processes the next row; `decide` encodes or decodes each decision.
    fn row(&mut self, mut decide: impl FnMut(&mut Learned, usize, Question) -> bool) {
        let (mut left, mut before) = (1u8, 1u8);
        for (col, place) in self.above.iter_mut().enumerate() {
            let context = usize::from(9 * *place + 3 * left + before);
            let code = if !decide(&mut self.not_zero[context], col, Question::NotZero) {
                1
            } else if decide(&mut self.positive[context], col, Question::Positive) {
                2
            } else {
                0
            };
            (before, left) = (left, code);
            *place = code;
        }
    }
}

/// Packs codes into words, padding the last one with code 1.
fn pack(codes: &[u8], words: &mut [u32]) {
    for (word, codes) in words.iter_mut().zip(codes.chunks(CODES_PER_WORD)) {
        let filled = codes.iter().copied().chain(std::iter::repeat(1)).take(CODES_PER_WORD);
        *word = filled.enumerate().fold(0, |word, (j, code)| word | (u32::from(code) << (2 * j)));
    }
}
