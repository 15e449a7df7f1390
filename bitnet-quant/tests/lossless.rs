//! All lossless formats of three values: conversions through any other format round-trip byte for byte, and sizes equal the
//! documentation.

#![allow(clippy::unwrap_used, reason = "a test may stop at any surprise")]

use std::fmt::Write;

use bitnet_core::dense::PlainType;
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use bitnet_quant::Result;
use bitnet_quant::codec::i2_s::I2sLayout;
use bitnet_quant::codec::mlx::{self, MlxTensors};
use bitnet_quant::codec::{TernaryStorage, archive, hf_packed, sparse34, tl1, tl2};
use half::f16;
use proptest::prelude::*;

/// Tile sizes that fit all tested shapes.
const TL1: tl1::Tiles = tl1::Tiles { bm: 64, bk: 64, bmm: 32 };
const TL2: tl2::Tiles = tl2::Tiles { bm: 32, bk: 96 };

/// The stored form of a matrix: its bytes and, for formats with separate scales, the scales.
#[derive(Debug, Clone, PartialEq)]
struct Stored {
    bytes: Vec<u8>,
    scales: Option<(ScaleGranularity, Vec<f32>)>,
}

/// The finest scale granularity of a format.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Scales {
    Tensor,
    Row,
    Group,
}

#[derive(Debug, Clone, Copy)]
enum Form {
    Ternary(TernaryStorage),
    Packed,
    Tl1,
    Tl2,
    Mlx(PlainType, usize),
    Sparse,
    Archive,
}

/// The formats with their names and finest scales.
const FORMS: [(Form, &str, Scales); 22] = [
    (Form::Ternary(TernaryStorage::I2S(I2sLayout::X86)), "I2_S", Scales::Tensor),
    (Form::Ternary(TernaryStorage::I2S(I2sLayout::Arm64)), "I2_S, layout arm64", Scales::Tensor),
    (Form::Ternary(TernaryStorage::I2S(I2sLayout::X4)), "I2_S, layout x4", Scales::Tensor),
    (Form::Packed, "packed U8 (Hugging Face)", Scales::Tensor),
    (Form::Tl1, "TL1", Scales::Tensor),
    (Form::Tl2, "TL2, bk 96", Scales::Tensor),
    (Form::Ternary(TernaryStorage::IQ1_BN), "IQ1_BN", Scales::Row),
    (Form::Ternary(TernaryStorage::IQ2_BN), "IQ2_BN", Scales::Row),
    (Form::Ternary(TernaryStorage::IQ2_BN_R4), "IQ2_BN_R4", Scales::Row),
    (Form::Ternary(TernaryStorage::TQ1_0), "TQ1_0", Scales::Group),
    (Form::Ternary(TernaryStorage::TQ2_0), "TQ2_0", Scales::Group),
    (Form::Ternary(TernaryStorage::Q2_0 { block: 64 }), "Q2_0, blocks of 64", Scales::Group),
    (Form::Ternary(TernaryStorage::Q2_0 { block: 128 }), "Q2_0, blocks of 128", Scales::Group),
    (Form::Ternary(TernaryStorage::PQ2_0), "PQ2_0", Scales::Group),
    (Form::Ternary(TernaryStorage::PTQ1_0), "PTQ1_0", Scales::Group),
    (Form::Mlx(PlainType::F16, 64), "MLX 2-bit, f16, groups of 64", Scales::Group),
    (Form::Mlx(PlainType::F16, 128), "MLX 2-bit, f16, groups of 128", Scales::Group),
    (Form::Mlx(PlainType::F32, 64), "MLX 2-bit, f32, groups of 64", Scales::Group),
    (Form::Mlx(PlainType::F32, 128), "MLX 2-bit, f32, groups of 128", Scales::Group),
    (Form::Mlx(PlainType::BF16, 128), "MLX 2-bit, bf16, groups of 128", Scales::Group),
    (Form::Archive, "trit archive", Scales::Group),
    (Form::Sparse, "3:4 sparse", Scales::Group),
];

impl Form {
    fn encode(self, matrix: &TernaryMatrix) -> Result<Stored> {
        let one = |(bytes, scale)| Stored {
            bytes,
            scales: Some((ScaleGranularity::Tensor, vec![scale])),
        };
        let whole = |bytes| Stored { bytes, scales: None };
        match self {
            Self::Ternary(storage) => storage.encode(matrix).map(whole),
            Self::Packed => hf_packed::encode(matrix).map(one),
            Self::Tl1 => tl1::encode(matrix, TL1).map(one),
            Self::Tl2 => tl2::encode(matrix, TL2).map(one),
            Self::Mlx(kind, group) => mlx::encode(matrix, kind, group)
                .map(|tensors| whole([tensors.weight, tensors.scales, tensors.biases].concat())),
            Self::Sparse => sparse34::encode(matrix).map(|bytes| Stored {
                bytes,
                scales: Some((matrix.granularity(), matrix.scales().to_vec())),
            }),
            Self::Archive => archive::encode(matrix).map(whole),
        }
    }

    fn decode(self, stored: &Stored, rows: usize, cols: usize) -> Result<TernaryMatrix> {
        let bytes = &stored.bytes;
        let (granularity, scales) =
            stored.scales.clone().unwrap_or((ScaleGranularity::Tensor, vec![0.0]));
        match self {
            Self::Ternary(storage) => storage.decode(bytes, rows, cols, None),
            Self::Packed => hf_packed::decode(bytes, rows, cols, scales[0], None),
            Self::Tl1 => tl1::decode(bytes, rows, cols, TL1, scales[0], None),
            Self::Tl2 => tl2::decode(bytes, rows, cols, TL2, scales[0], None),
            Self::Mlx(kind, group) => {
                let (codes, numbers) = mlx::sizes(rows, cols, group, kind)?;
                let (weight, rest) = bytes.split_at(codes);
                let (scales, biases) = rest.split_at(numbers);
                mlx::decode(&MlxTensors { weight, scales, biases }, kind, rows, cols, group, None)
            }
            Self::Sparse => sparse34::decode(bytes, rows, cols, granularity, scales, None),
            Self::Archive => archive::decode(bytes, rows, cols, None),
        }
    }
}

struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        self.0 >> 33
    }

    /// Returns random trits, optionally 3:4-sparse.
    fn trits(&mut self, count: usize, sparse: bool) -> Vec<i8> {
        let mut trits: Vec<i8> = (0..count).map(|_| (self.next() % 3) as i8 - 1).collect();
        if sparse {
            for four in trits.as_chunks_mut::<4>().0 {
                *four = four.map(|_| (self.next() % 2) as i8 * 2 - 1);
                four[(self.next() % 4) as usize] = 0;
            }
        }
        trits
    }

    /// Returns positive scales representable in bf16 and f16, mostly different.
    fn scales(&mut self, count: usize) -> Vec<f32> {
        (0..count)
            .map(|_| f16::from_bits((0x2000 + (self.next() % 0x2000) as u16) & !7).to_f32())
            .collect()
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn conversions_between_all_formats_are_lossless(
        rows in 1usize..3, blocks in 1usize..4, fineness in 0usize..3, sparse: bool, seed: u64,
    ) {
        let (rows, cols) = (64 * rows, 256 * blocks);
        let (granularity, fineness) = [
            (ScaleGranularity::Tensor, Scales::Tensor),
            (ScaleGranularity::Row, Scales::Row),
            (ScaleGranularity::Group(256), Scales::Group),
        ][fineness];
        let mut random = Random(seed);
        let trits = random.trits(rows * cols, sparse);
        let scales = random.scales(granularity.scale_count(rows, cols).unwrap());
        let matrix = TernaryMatrix::from_trits(rows, cols, &trits, granularity, scales).unwrap();
        let fits = |form: &(Form, &str, Scales)| {
            form.2 >= fineness && (sparse || !matches!(form.0, Form::Sparse))
        };
        for (a, a_name, _) in FORMS.into_iter().filter(fits) {
            let first = a.encode(&matrix).unwrap();
            let from_a = a.decode(&first, rows, cols).unwrap();
            prop_assert_eq!(a.encode(&from_a).unwrap(), first.clone(), "{}", a_name);
            for (b, b_name, _) in FORMS.into_iter().filter(fits) {
                let between = b.encode(&from_a).unwrap();
                let from_b = b.decode(&between, rows, cols).unwrap();
                prop_assert_eq!(from_b.to_trits(), &trits[..], "{} to {}", a_name, b_name);
                // Formats that preserve any granularity accept a coarser one as well.
                let again = a.encode(&from_b).unwrap();
                if matches!(a, Form::Archive | Form::Sparse) && from_b.granularity() != matrix.granularity() {
                    continue;
                }
                prop_assert_eq!(&again, &first, "{} to {} and back", a_name, b_name);
            }
        }
    }
}

/// Measures the table of sizes in the documentation.
#[test]
fn sizes_are_those_of_the_documentation() {
    let (rows, cols) = (256, 6144);
    let mut random = Random(7);
    let trits = random.trits(rows * cols, true);
    let matrix =
        TernaryMatrix::from_trits(rows, cols, &trits, ScaleGranularity::Tensor, vec![0.5]).unwrap();
    let weights = (rows * cols) as f64;
    let mut table =
        String::from("| format | scales | bits per weight | bytes |\n|---|---|---:|---:|\n");
    for (form, name, scales) in FORMS {
        let bytes = form.encode(&matrix).unwrap().bytes.len();
        let scales = match (form, scales) {
            (Form::Packed | Form::Tl1 | Form::Tl2 | Form::Sparse, _) => "separate",
            (Form::Archive, _) => "original",
            (_, Scales::Tensor) => "one",
            (_, Scales::Row) => "per row",
            (_, Scales::Group) => "per block",
        };
        let bits = bytes as f64 * 8.0 / weights;
        writeln!(table, "| {name} | {scales} | {bits:.4} | {bytes} |").unwrap();
    }
    println!("{table}");
    let page = include_str!("../../docs/formats/ternary-sizes.md");
    assert!(
        page.contains(&table),
        "docs/formats/ternary-sizes.md must contain this table:\n{table}"
    );
}

/// Independent trits take their entropy, dependent trits less; checks the rows of the documentation.
#[test]
fn archive_sizes_equal_the_documentation() {
    let (rows, cols) = (1024, 2048);
    let page = include_str!("../../docs/formats/trit-archive.md");
    let mut random = Random(11);
    for (name, zeros) in [("a third zeros", 1.0 / 3.0), ("42 % zeros", 0.42), ("60 % zeros", 0.6)] {
        let limit = (zeros * f64::from(1u32 << 30)) as u64;
        let trits: Vec<i8> = (0..rows * cols)
            .map(|_| {
                if random.next() % (1 << 30) < limit {
                    0
                } else {
                    (random.next() >> 3 & 1) as i8 * 2 - 1
                }
            })
            .collect();
        check_archive(page, &format!("independent trits, {name}"), rows, cols, &trits, 1.001);
    }
    // A small matrix has the overhead of adaptation and header.
    let few = random.trits(128 * 256, false);
    check_archive(page, "independent trits, 128 rows of 256", 128, 256, &few, 1.03);
    let sparse = random.trits(rows * cols, true);
    check_archive(page, "3:4-sparse trits", rows, cols, &sparse, 0.95);
}

/// Asserts that the archive takes at most `ratio` of the entropy, and checks the documented row.
fn check_archive(page: &str, name: &str, rows: usize, cols: usize, trits: &[i8], ratio: f64) {
    let matrix =
        TernaryMatrix::from_trits(rows, cols, trits, ScaleGranularity::Tensor, vec![0.5]).unwrap();
    let weights = (rows * cols) as f64;
    let counts = matrix.counts();
    let entropy: f64 = [counts.minus, counts.zero, counts.plus]
        .map(|count| count as f64 / weights)
        .iter()
        .map(|p| -p * p.log2())
        .sum();
    let stored = archive::encode(&matrix).unwrap();
    assert_eq!(archive::decode(&stored, rows, cols, None).unwrap(), matrix);
    let bits = stored.len() as f64 * 8.0 / weights;
    assert!(bits <= entropy * ratio, "{name}: {bits} bits, entropy {entropy}");
    let row = format!("| {name} | {entropy:.4} | {bits:.4} |");
    println!("{row}");
    assert!(page.contains(&row), "docs/formats/trit-archive.md must contain this row:\n{row}");
}
