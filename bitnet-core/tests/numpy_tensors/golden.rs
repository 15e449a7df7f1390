//! Reads the arrays of a golden file; the format is described in `scripts/golden/tensors.py`.

use std::collections::HashMap;
use std::path::Path;

use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::BitNetTensor;

/// One array: its shape and its bytes.
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    kind: u8,
    bytes: Vec<u8>,
}

impl Array {
    fn numbers<const N: usize, T>(&self, number: fn([u8; N]) -> T) -> Vec<T> {
        self.bytes.as_chunks::<N>().0.iter().map(|&bytes| number(bytes)).collect()
    }

    /// The numbers of an array of f32 or i8.
    pub(crate) fn f32(&self) -> Vec<f32> {
        if self.kind == 4 {
            return self.numbers(|[byte]| f32::from(i8::from_le_bytes([byte])));
        }
        self.numbers(f32::from_le_bytes)
    }

    pub(crate) fn f64(&self) -> Vec<f64> {
        self.numbers(f64::from_le_bytes)
    }

    pub(crate) fn u16(&self) -> Vec<u16> {
        self.numbers(u16::from_le_bytes)
    }

    pub(crate) fn u32(&self) -> Vec<u32> {
        self.numbers(u32::from_le_bytes)
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn tensor(&self, pool: &HybridMemoryPool) -> BitNetTensor {
        BitNetTensor::from_f32(&self.shape, &self.f32(), pool).unwrap()
    }
}

/// The arrays of `tests/golden/tensors/<name>.bin`.
pub(crate) struct Arrays(HashMap<String, Array>);

impl Arrays {
    pub(crate) fn open(name: &str) -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tensors");
        let data = std::fs::read(folder.join(name).with_extension("bin")).unwrap();
        let mut rest = &data[..];
        let mut arrays = HashMap::new();
        while !rest.is_empty() {
            let [len] = take(&mut rest, 1) else { unreachable!() };
            let name = String::from_utf8(take(&mut rest, usize::from(*len)).to_vec()).unwrap();
            let &[kind, rank] = take(&mut rest, 2) else { unreachable!() };
            let extents = take(&mut rest, 2 * usize::from(rank)).as_chunks::<2>().0;
            let shape: Vec<usize> =
                extents.iter().map(|&b| usize::from(u16::from_le_bytes(b))).collect();
            let size = [4, 1, 2, 4, 1, 8][usize::from(kind)];
            let bytes = take(&mut rest, shape.iter().product::<usize>() * size).to_vec();
            arrays.insert(name, Array { shape, kind, bytes });
        }
        Self(arrays)
    }

    pub(crate) fn get(&self, name: &str) -> &Array {
        self.0.get(name).unwrap_or_else(|| panic!("no array {name}"))
    }

    pub(crate) fn f32(&self, name: &str) -> Vec<f32> {
        self.get(name).f32()
    }

    pub(crate) fn tensor(&self, name: &str, pool: &HybridMemoryPool) -> BitNetTensor {
        self.get(name).tensor(pool)
    }
}

fn take<'a>(rest: &mut &'a [u8], len: usize) -> &'a [u8] {
    let (taken, after) = rest.split_at(len);
    *rest = after;
    taken
}

/// CRC-32 (the one of zlib) of f32 elements, every NaN written as 0x7fc00000.
pub(crate) fn checksum(values: &[f32]) -> u32 {
    let mut crc = u32::MAX;
    for x in values {
        let bits = if x.is_nan() { 0x7fc0_0000 } else { x.to_bits() };
        for byte in bits.to_le_bytes() {
            crc ^= u32::from(byte);
            for _ in 0..8 {
                crc = if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 };
            }
        }
    }
    !crc
}

/// Asserts that numbers are equal bit for bit; all NaNs are equal.
#[track_caller]
pub(crate) fn assert_bits(got: &[f32], expected: &[f32], what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}: count");
    for (i, (got, expected)) in got.iter().zip(expected).enumerate() {
        let same = got.to_bits() == expected.to_bits() || (got.is_nan() && expected.is_nan());
        assert!(same, "{what}: element {i} is {got}, not {expected}");
    }
}

/// Asserts that numbers are within `bound` units in the last place of f32 of 64-bit references.
#[track_caller]
pub(crate) fn assert_ulps(got: &[f32], expected: &[f64], bound: f64, what: &str) {
    assert_eq!(got.len(), expected.len(), "{what}: count");
    for (i, (&got, &expected)) in got.iter().zip(expected).enumerate() {
        let rounded = expected as f32;
        if rounded.is_nan() || rounded.is_infinite() {
            assert_bits(&[got], &[rounded], what);
            continue;
        }
        let unit = f64::from(rounded.abs().next_up()) - f64::from(rounded.abs());
        let off = (f64::from(got) - expected).abs() / unit;
        assert!(off <= bound, "{what}: element {i} is {got:e}, not {expected:e}: {off} ulp");
    }
}
