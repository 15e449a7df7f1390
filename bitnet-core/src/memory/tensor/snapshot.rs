//! Serialisation of named tensors: checked, little-endian, independent of the machine.
//!
//! The format is described in `docs/formats/snapshot.md`.

use std::collections::HashSet;
use std::io::{ErrorKind, Read, Write};

use crc32fast::Hasher;

use super::{BitNetDType, BitNetTensor, TensorHandle, TensorMetadata, TensorRegistry};
use crate::device::Device;
use crate::memory::{HybridMemoryPool, Purpose};
use crate::{Error, Result};

const MAGIC: &[u8; 8] = b"BITNETSN";
const VERSION: u32 = 1;
/// Bytes of a tensor begin at multiples of this many bytes, so that they can be used in place where the file is mapped.
pub const ALIGNMENT: u64 = 64;
/// Bytes of a tensor's record before its extents and its name.
const FIXED: usize = 16;
const END: u64 = 20;
const LONGEST_NAME: usize = 1 << 16;
const MOST_DIMS: usize = 32;
/// Bytes that are checked, byte-swapped and copied at a time; a multiple of every element's size.
const PIECE: usize = 64 << 10;

const KIND_END: u8 = 0;
const KIND_TENSOR: u8 = 1;

/// The number of each element type in the format. They never change.
const DTYPES: [(u8, BitNetDType); 8] = [
    (1, BitNetDType::F32),
    (2, BitNetDType::F16),
    (3, BitNetDType::BF16),
    (4, BitNetDType::I8),
    (5, BitNetDType::I4),
    (6, BitNetDType::I2),
    (7, BitNetDType::I1),
    (8, BitNetDType::BitNet158),
];

/// The number of each purpose in the format. They never change.
const PURPOSES: [(u8, Purpose); 7] = [
    (0, Purpose::General),
    (1, Purpose::Weights),
    (2, Purpose::KvCache),
    (3, Purpose::Activations),
    (4, Purpose::Gradients),
    (5, Purpose::OptimizerState),
    (6, Purpose::Data),
];

/// A tensor that was read from a snapshot.
#[derive(Debug, Clone)]
pub struct Restored {
    /// Its name, unique in the snapshot.
    pub name: String,
    /// The tensor, in the pool, accounted under the purpose that it had.
    pub tensor: BitNetTensor,
    /// The offset of its bytes in the snapshot: a multiple of [`ALIGNMENT`].
    pub offset: u64,
}

/// Writes tensors to a stream, one after the other.
///
/// ```
/// use bitnet_core::memory::tensor::BitNetTensor;
/// use bitnet_core::memory::{HybridMemoryPool, snapshot};
///
/// let pool = HybridMemoryPool::new()?;
/// let weights = BitNetTensor::from_f32(&[2], &[1.0, -1.0], &pool)?;
/// let mut bytes = Vec::new();
/// let mut writer = snapshot::Writer::new(&mut bytes)?;
/// writer.add("weights", &weights)?;
/// writer.finish()?;
///
/// let restored = snapshot::read(&bytes[..], bytes.len() as u64, &pool)?;
/// assert_eq!(restored[0].name, "weights");
/// assert_eq!(restored[0].tensor.f32()?, [1.0, -1.0]);
/// # Ok::<(), bitnet_core::Error>(())
/// ```
pub struct Writer<W: Write> {
    to: W,
    at: u64,
    names: HashSet<String>,
}

impl<W: Write> Writer<W> {
    /// Writes the beginning of a snapshot.
    ///
    /// # Errors
    /// [`Error::File`] where writing fails.
    pub fn new(to: W) -> Result<Self> {
        let mut writer = Self { to, at: 0, names: HashSet::new() };
        let mut header = MAGIC.to_vec();
        header.extend(VERSION.to_le_bytes());
        header.extend(crc32fast::hash(&header).to_le_bytes());
        writer.write_all(&header)?;
        Ok(writer)
    }

    /// Writes a contiguous tensor under a name.
    ///
    /// # Errors
    /// [`Error::BadArgument`] for a name that is used twice or longer than 65536 bytes, and for more than 32
    /// dimensions; [`Error::NotContiguous`] for a strided view; [`Error::File`] where writing
    /// fails, after which the snapshot is of no use.
    pub fn add(&mut self, name: &str, tensor: &BitNetTensor) -> Result<()> {
        let bytes = tensor.bytes()?;
        let shape = tensor.shape();
        if shape.len() > MOST_DIMS {
            return Err(refused("shape", format!("{shape:?}"), "it has at most 32 dimensions"));
        }
        // Last, because the tensor is counted from here on.
        self.add_name(name)?;
        let (dtype, purpose) =
            (number(&DTYPES, tensor.dtype()), number(&PURPOSES, tensor.purpose()));
        let mut record = vec![KIND_TENSOR, dtype, purpose, shape.len() as u8];
        record.extend((name.len() as u32).to_le_bytes());
        record.extend((bytes.len() as u64).to_le_bytes());
        record.extend(shape.iter().flat_map(|&extent| (extent as u64).to_le_bytes()));
        record.extend(name.as_bytes());
        record.resize(record.len() + padding(self.at, record.len()), 0);
        record.extend(crc32fast::hash(&record).to_le_bytes());
        self.write_all(&record)?;
        let mut sum = Hasher::new();
        let width = width(tensor.dtype());
        for piece in bytes.chunks(PIECE) {
            if cfg!(target_endian = "big") && width > 1 {
                let mut swapped = [0; PIECE];
                swapped[..piece.len()].copy_from_slice(piece);
                swap_bytes(&mut swapped[..piece.len()], width);
                sum.update(&swapped[..piece.len()]);
                self.write_all(&swapped[..piece.len()])?;
            } else {
                sum.update(piece);
                self.write_all(piece)?;
            }
        }
        self.write_all(&sum.finalize().to_le_bytes())
    }

    /// Writes the end of the snapshot, without which it can't be read. Returns the stream, flushed.
    ///
    /// # Errors
    /// [`Error::File`] where writing fails.
    pub fn finish(mut self) -> Result<W> {
        let mut record = vec![KIND_END, 0, 0, 0];
        record.extend((self.names.len() as u32).to_le_bytes());
        record.extend((self.at + END).to_le_bytes());
        record.extend(crc32fast::hash(&record).to_le_bytes());
        self.write_all(&record)?;
        self.to.flush().map_err(|error| Error::file("the snapshot", "write", &error))?;
        Ok(self.to)
    }

    fn add_name(&mut self, name: &str) -> Result<()> {
        if name.len() > LONGEST_NAME {
            let short: String = name.chars().take(64).collect();
            return Err(refused("name", format!("{short:?}..."), "it has at most 65536 bytes"));
        }
        if !self.names.insert(name.to_owned()) {
            return Err(refused("name", format!("{name:?}"), "each tensor needs a unique name"));
        }
        Ok(())
    }

    fn write_all(&mut self, bytes: &[u8]) -> Result<()> {
        self.at += bytes.len() as u64;
        self.to.write_all(bytes).map_err(|error| Error::file("the snapshot", "write", &error))
    }
}

/// Writes every named tensor of a registry, one guard at a time; returns their number. Compressed tensors are restored.
///
/// # Errors
/// Those of [`Writer::add`] and [`TensorHandle::read`].
pub fn write(to: impl Write, registry: &TensorRegistry) -> Result<usize> {
    let mut writer = Writer::new(to)?;
    let handles = registry.handles();
    for handle in &handles {
        if let Some(name) = handle.name() {
            writer.add(name, &*handle.read()?)?;
        }
    }
    let written = writer.names.len();
    writer.finish()?;
    Ok(written)
}

/// Reads a snapshot of at most `available` bytes (the length of the file, for instance); no tensor is made that would
/// not fit in them. Bytes after the snapshot are not read.
///
/// # Errors
/// [`Error::BadSnapshot`] for a stream that ends early, is damaged or of another version; [`Error::OutOfMemory`] where
/// the pool has no memory; [`Error::File`] where reading fails.
pub fn read(from: impl Read, available: u64, pool: &HybridMemoryPool) -> Result<Vec<Restored>> {
    let mut source = Source { from, at: 0, available };
    let header: [u8; 16] = source.array()?;
    if header[..8] != *MAGIC {
        return Err(bad(0, "does not begin with the magic of a snapshot"));
    }
    if header[8..12] != VERSION.to_le_bytes() {
        let version = u32::from_le_bytes([header[8], header[9], header[10], header[11]]);
        return Err(bad(8, format!("has version {version}, and only {VERSION} is supported")));
    }
    require_sum(&header, 0)?;
    let mut restored = Vec::new();
    let mut names = HashSet::new();
    let mut start = source.at;
    while let Some(fixed) = source.record(restored.len())? {
        let one = source.tensor(&fixed, start, pool)?;
        if !names.insert(one.name.clone()) {
            return Err(bad(start, format!("the name {:?} occurs twice", one.name)));
        }
        restored.push(one);
        start = source.at;
    }
    Ok(restored)
}

/// As [`read`], into handles of `registry` with the names of the tensors. Either all are made or none.
///
/// # Errors
/// Those of [`read`].
pub fn restore(
    from: impl Read,
    available: u64,
    pool: &HybridMemoryPool,
    registry: &TensorRegistry,
) -> Result<Vec<TensorHandle>> {
    let restored = read(from, available, pool)?;
    let handle = |one: Restored| TensorHandle::named(one.name, one.tensor, registry);
    Ok(restored.into_iter().map(handle).collect())
}

struct Source<R> {
    from: R,
    at: u64,
    available: u64,
}

impl<R: Read> Source<R> {
    fn fill(&mut self, out: &mut [u8]) -> Result<()> {
        self.from.read_exact(out).map_err(|error| match error.kind() {
            ErrorKind::UnexpectedEof => bad(self.at, "ends early"),
            _ => Error::file("the snapshot", "read", &error),
        })?;
        self.at += out.len() as u64;
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut out = [0; N];
        self.fill(&mut out)?;
        Ok(out)
    }

    /// The first bytes of a tensor's record; `None` after the last record, `count` tensors having been read before it.
    fn record(&mut self, count: usize) -> Result<Option<[u8; FIXED]>> {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        let start = self.at;
        let fixed: [u8; FIXED] = self.array()?;
        match fixed[0] {
            KIND_TENSOR => Ok(Some(fixed)),
            KIND_END => {
                let mut end = [0; END as usize];
                end[..FIXED].copy_from_slice(&fixed);
                self.fill(&mut end[FIXED..])?;
                require_sum(&end, start)?;
                if end[1..4] != [0; 3] || end[4..8] != count.to_le_bytes() {
                    return Err(bad(
                        start + 4,
                        format!("does not count the {count} tensors before it"),
                    ));
                }
                if end[8..16] != self.at.to_le_bytes() {
                    return Err(bad(start + 8, "has another length than the snapshot"));
                }
                Ok(None)
            }
            kind => Err(bad(start, format!("is a record of the unknown kind {kind}"))),
        }
    }

    /// The rest of a tensor's record that began at `start` with `fixed`, and the tensor's bytes.
    fn tensor(
        &mut self,
        fixed: &[u8; FIXED],
        start: u64,
        pool: &HybridMemoryPool,
    ) -> Result<Restored> {
        let n_dims = usize::from(fixed[3]);
        let name_len = u32::from_le_bytes([fixed[4], fixed[5], fixed[6], fixed[7]]) as usize;
        if n_dims > MOST_DIMS {
            return Err(bad(
                start + 3,
                format!("has {n_dims} dimensions, and {MOST_DIMS} is the most"),
            ));
        }
        if name_len > LONGEST_NAME {
            return Err(bad(
                start + 4,
                format!("has a name of {name_len} bytes, and {LONGEST_NAME} is the most"),
            ));
        }
        let len = FIXED + 8 * n_dims + name_len;
        let mut record = fixed.to_vec();
        record.resize(len + padding(start, len) + 4, 0);
        self.fill(&mut record[FIXED..])?;
        require_sum(&record, start)?;
        let [name_from, name_to] = [FIXED + 8 * n_dims, len];
        if record[name_to..record.len() - 4].iter().any(|&byte| byte != 0) {
            return Err(bad(start + name_to as u64, "has padding that is not zero"));
        }
        let name = std::str::from_utf8(&record[name_from..name_to]);
        let name =
            name.map_err(|_| bad(start + name_from as u64, "has a name that is not UTF-8"))?;
        let data = u64_at(&record, 8);
        let shape = record[FIXED..name_from].chunks_exact(8).map(|extent| u64_at(extent, 0));
        let metadata = described(fixed, shape, data, start)?;
        // The tensor, its checksum and the last record follow.
        let most = self.available.saturating_sub(self.at).saturating_sub(4 + END);
        if data > most {
            return Err(bad(
                start + 8,
                format!("has {data} bytes of data, and at most {most} fit"),
            ));
        }
        let purpose = value_of(&PURPOSES, fixed[2])
            .ok_or_else(|| bad(start + 2, format!("has the unknown purpose {}", fixed[2])))?;
        let offset = self.at;
        let tensor = self.data(metadata, &pool.for_purpose(purpose))?;
        Ok(Restored { name: name.to_owned(), tensor, offset })
    }

    /// The bytes of a tensor and their checksum.
    fn data(&mut self, metadata: TensorMetadata, pool: &HybridMemoryPool) -> Result<BitNetTensor> {
        let width = width(metadata.dtype());
        let mut tensor = BitNetTensor::new(metadata, pool)?;
        let start = self.at;
        let mut sum = Hasher::new();
        for piece in tensor.bytes_mut()?.chunks_mut(PIECE) {
            self.fill(piece)?;
            sum.update(piece);
            if cfg!(target_endian = "big") {
                swap_bytes(piece, width);
            }
        }
        if self.array()? != sum.finalize().to_le_bytes() {
            return Err(bad(start, "has bytes of a tensor whose checksum does not match"));
        }
        Ok(tensor)
    }
}

/// The metadata of a tensor of `data` bytes.
fn described(
    fixed: &[u8; FIXED],
    shape: impl Iterator<Item = u64>,
    data: u64,
    start: u64,
) -> Result<TensorMetadata> {
    let dtype = value_of(&DTYPES, fixed[1])
        .ok_or_else(|| bad(start + 1, format!("has the unknown element type {}", fixed[1])))?;
    let too_large = || bad(start + FIXED as u64, "has a shape that is too large for this machine");
    let shape: Vec<usize> =
        shape.map(usize::try_from).collect::<Result<_, _>>().map_err(|_| too_large())?;
    let metadata = TensorMetadata::new(shape, dtype, Device::Cpu);
    let bytes = metadata.elements().and_then(|n| dtype.bytes_for(n)).map_err(|_| too_large())?;
    if bytes as u64 != data {
        let shape = metadata.shape();
        return Err(bad(
            start + 8,
            format!("has {data} bytes for shape {shape:?} of {dtype}, which needs {bytes}"),
        ));
    }
    Ok(metadata)
}

/// Zeros after a record of `len` bytes that begins at `start`, so that the data after its checksum are aligned.
fn padding(start: u64, len: usize) -> usize {
    let end = start + len as u64 + 4;
    (end.next_multiple_of(ALIGNMENT) - end) as usize
}

/// Checks that a record ends with the checksum of the bytes before it.
fn require_sum(record: &[u8], start: u64) -> Result<()> {
    match record.split_last_chunk::<4>() {
        Some((rest, sum)) if crc32fast::hash(rest).to_le_bytes() == *sum => Ok(()),
        _ => Err(bad(start, "has a record whose checksum does not match")),
    }
}

/// Exchanges the byte order of each element of `width` bytes.
fn swap_bytes(bytes: &mut [u8], width: usize) {
    for element in bytes.chunks_exact_mut(width) {
        element.reverse();
    }
}

/// Bytes of an element whose order depends on the machine; 1 for all others.
fn width(dtype: BitNetDType) -> usize {
    let (elements, bytes) = dtype.packing();
    if elements == 1 { bytes } else { 1 }
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes[at..at + 8].iter().rev().fold(0, |number, &byte| number << 8 | u64::from(byte))
}

fn number<T: PartialEq>(numbers: &[(u8, T)], of: T) -> u8 {
    // 255 is none: the tests below check that every type and purpose is in the tables.
    numbers.iter().find(|(_, one)| *one == of).map_or(u8::MAX, |&(number, _)| number)
}

fn value_of<T: Copy>(numbers: &[(u8, T)], number: u8) -> Option<T> {
    numbers.iter().find(|&&(one, _)| one == number).map(|&(_, of)| of)
}

fn bad(at: u64, problem: impl Into<String>) -> Error {
    Error::BadSnapshot { at, problem: problem.into() }
}

fn refused(what: &'static str, value: String, expected: &'static str) -> Error {
    Error::BadArgument { op: "snapshot", what, value, expected }
}

impl<W: Write> std::fmt::Debug for Writer<W> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Writer({} tensors, {} bytes)", self.names.len(), self.at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_type_and_purpose_has_a_number() {
        for purpose in Purpose::ALL {
            assert_eq!(value_of(&PURPOSES, number(&PURPOSES, purpose)), Some(purpose));
        }
        for (number, dtype) in DTYPES {
            assert_eq!(value_of(&DTYPES, number), Some(dtype));
            assert_eq!(PIECE % width(dtype), 0);
            // A new type needs a number: this match stops compiling for it.
            match dtype {
                BitNetDType::F32 | BitNetDType::F16 | BitNetDType::BF16 | BitNetDType::I8 => {}
                BitNetDType::I4 | BitNetDType::I2 | BitNetDType::I1 | BitNetDType::BitNet158 => {}
            }
        }
    }

    #[test]
    fn byte_order_conversion_is_its_own_inverse() {
        let mut bytes = [1, 2, 3, 4, 5, 6, 7, 8];
        swap_bytes(&mut bytes, 4);
        assert_eq!(bytes, [4, 3, 2, 1, 8, 7, 6, 5]);
        swap_bytes(&mut bytes, 2);
        assert_eq!(bytes, [3, 4, 1, 2, 7, 8, 5, 6]);
        swap_bytes(&mut bytes, 1);
        assert_eq!(bytes, [3, 4, 1, 2, 7, 8, 5, 6]);
    }
}
