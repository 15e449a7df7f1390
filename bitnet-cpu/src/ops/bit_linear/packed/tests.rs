//! Packed weights beside the same weights in the canonical layout.

use super::super::weight::{CpuMatrix, CpuWeight};
use super::*;
use crate::exec::ExecContext;
use crate::isa::AnyIsa;
use crate::isa::unpack_group;
use crate::ops;
use crate::threads::Threads;
use crate::traffic::TrafficCounters;
use bitnet_core::backend::{ActivationPrecision, TernaryWeight};
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::rng::SplitMix64;
use bitnet_core::simd::IsaLevel;

/// Levels whose weights are packed here.
fn levels() -> Vec<AnyIsa> {
    let levels = [IsaLevel::Avx512Vnni, IsaLevel::Amx];
    levels.into_iter().filter_map(AnyIsa::detect).filter(|isa| isa.vbmi().is_some()).collect()
}

fn random_matrix(rows: usize, cols: usize, seed: u64, all: Option<i8>) -> TernaryMatrix {
    let mut random = SplitMix64::new(seed);
    let trits: Vec<i8> =
        (0..rows * cols).map(|_| all.unwrap_or((random.next_u64() >> 40) as i8 % 3 % 2)).collect();
    let (granularity, scales) = if seed.is_multiple_of(2) {
        (ScaleGranularity::Tensor, vec![0.75])
    } else {
        (ScaleGranularity::Row, (0..rows).map(|row| 0.5 + row as f32 / 64.0).collect())
    };
    TernaryMatrix::from_trits(rows, cols, &trits, granularity, scales).unwrap()
}

/// The same matrix in both layouts, for sparse inputs if `sparse`.
fn both(
    matrix: TernaryMatrix,
    vbmi: Vbmi,
    sparse: bool,
    pool: &HybridMemoryPool,
) -> [CpuWeight; 2] {
    let packed = CpuMatrix::Packed(PackedMatrix::new(&matrix, vbmi, pool).unwrap());
    let canonical = if sparse {
        CpuWeight::for_sparse_input(matrix, None, pool).unwrap()
    } else {
        CpuWeight::new(matrix, None, pool).unwrap()
    };
    let transposed = canonical.transposed.clone();
    [canonical, CpuWeight { matrix: packed, transposed }]
}

/// Runs `test` with a context of each level that packs, on one and on three threads.
fn with_each(test: impl Fn(ExecContext<'_>, Vbmi, &HybridMemoryPool)) {
    let pool = HybridMemoryPool::new().unwrap();
    for isa in levels() {
        for threads in [1, 3] {
            let (threads, traffic) = (Threads::new(threads).unwrap(), TrafficCounters::default());
            let exec =
                ExecContext { isa, threads: &threads, traffic: &traffic, scratch_pool: &pool };
            test(exec, isa.vbmi().unwrap(), &pool);
        }
    }
}

fn numbers(len: usize, seed: u64) -> Vec<f32> {
    let mut random = SplitMix64::new(seed);
    (0..len).map(|_| random.next_u64() as i8 as f32 / 16.0).collect()
}

#[test]
fn every_five_trits_come_back() {
    let mut blocks = [[0u32; 8]; GROUP_BLOCKS];
    let mut found = [[0u32; 8]; GROUP_BLOCKS];
    let mut bytes = std::collections::BTreeSet::new();
    for n in 0..243 {
        // Trit t of each byte is digit t of `n`: vector z = 5v + t is half of block z / 2.
        for (z, code) in (0..10).map(|z| (z, n / 3u32.pow(z as u32 % 5) % 3)) {
            let planes = code | code << 2;
            let byte = if z % 2 == 0 { planes } else { planes << 4 };
            let keep = if z % 2 == 0 { 0xf0f0_f0f0 } else { 0x0f0f_0f0f };
            for word in &mut blocks[z / 2] {
                *word = (*word & keep) | (byte * 0x0101_0101);
            }
        }
        let group = pack_group(&blocks);
        assert!(group.iter().all(|byte| *byte == group[0]), "{n}");
        bytes.insert(group[0]);
        unpack_group(&group, &mut found);
        assert_eq!(found, blocks, "{n}");
    }
    assert_eq!(bytes.len(), 243);
}

#[test]
fn rows_of_any_length_come_back() {
    with_each(|_, vbmi, pool| {
        for (seed, cols) in
            [1, 64, 127, 128, 129, 300, 640, 641, 1000, 1280, 3333].into_iter().enumerate()
        {
            let matrix = random_matrix(5, cols, seed as u64, None);
            let packed = PackedMatrix::new(&matrix, vbmi, pool).unwrap();
            let blocks = cols.div_ceil(ROW_BLOCK);
            let mut found = vec![[7; 8]; 3 * blocks];
            let width = packed.codes().len() / 5;
            for (row, blocks) in (1..4).zip(found.chunks_exact_mut(blocks)) {
                let groups = &packed.codes()[row * width..][..width];
                for (group, blocks) in groups.iter().zip(blocks.chunks_mut(GROUP_BLOCKS)) {
                    unpack_group(group, blocks);
                }
            }
            let rows = (1..4).flat_map(|row| matrix.row_words(row));
            assert!(found.as_flattened().iter().eq(rows), "{cols} columns");
        }
    });
}

#[test]
fn integers_are_those_of_the_canonical_layout() {
    with_each(|exec, vbmi, pool| {
        let cases = [(1, 1), (3, 129), (32, 640), (35, 700), (66, 1300), (131, 2560)];
        for (seed, (rows, cols)) in cases.into_iter().enumerate() {
            for (tokens, extreme) in [
                (1, None),
                (2, None),
                (3, None),
                (4, None),
                (5, None),
                (6, None),
                (7, None),
                (8, Some(-128.0)),
                (15, None),
                (50, None),
                (50, Some(127.0)),
            ] {
                let all = extreme.map(|_| 1);
                let matrix = random_matrix(rows, cols, seed as u64, all);
                let [canonical, packed] = both(matrix, vbmi, false, pool);
                let x = match extreme {
                    Some(x) => vec![x; tokens * cols],
                    None => numbers(tokens * cols, 3),
                };
                let x = BitNetTensor::from_f32(&[tokens, cols], &x, pool).unwrap();
                let expected = ops::bit_linear_integers(&x, &canonical, exec).unwrap();
                let found = ops::bit_linear_integers(&x, &packed, exec).unwrap();
                assert_eq!(found.dots, expected.dots, "{tokens} tokens, {rows} by {cols}");
            }
        }
    });
}

#[test]
fn results_are_those_of_the_canonical_layout() {
    with_each(|exec, vbmi, pool| {
        for (tokens, precision, sparse) in [
            (1, ActivationPrecision::Int8, false),
            (6, ActivationPrecision::Int8, false),
            (70, ActivationPrecision::Int8Within(3.0), false),
            (1, ActivationPrecision::Float, false),
            (9, ActivationPrecision::Float, false),
            (1, ActivationPrecision::Int8, true),
        ] {
            let (rows, cols) = (203, 1100);
            let weights = both(random_matrix(rows, cols, 1, None), vbmi, sparse, pool);
            let mut x = numbers(tokens * cols, 4);
            if sparse {
                x.iter_mut().step_by(2).for_each(|x| *x = 0.0);
            }
            let x = BitNetTensor::from_f32(&[tokens, cols], &x, pool).unwrap();
            let [expected, found] = weights.each_ref().map(|weight| {
                let mut out = BitNetTensor::zeros(&[tokens, rows], pool).unwrap();
                ops::bit_linear(&x, precision, &[weight], &mut [&mut out], exec).unwrap();
                out.f32().unwrap().iter().map(|x| x.to_bits()).collect::<Vec<_>>()
            });
            assert_eq!(found, expected, "{tokens} tokens, {precision:?}, sparse: {sparse}");
        }
    });
}

#[test]
fn gated_rows_are_those_of_the_canonical_layout() {
    with_each(|exec, vbmi, pool| {
        let (rows, cols) = (300, 900);
        let gate = both(random_matrix(rows, cols, 1, None), vbmi, false, pool);
        let up = both(random_matrix(rows, cols, 2, None), vbmi, false, pool);
        let x = BitNetTensor::from_f32(&[1, cols], &numbers(cols, 5), pool).unwrap();
        let [expected, found] = [0, 1].map(|layout| {
            let weights: [&dyn TernaryWeight; 2] = [&gate[layout], &up[layout]];
            let mut out = BitNetTensor::zeros(&[1, rows], pool).unwrap();
            let mut scratch = BitNetTensor::zeros(&[1, rows], pool).unwrap();
            let precision = ActivationPrecision::Int8;
            ops::relu2(&x, precision, weights, &mut out, &mut scratch, exec).unwrap();
            out.f32().unwrap().to_vec()
        });
        assert_eq!(found, expected);
        assert!(found.contains(&0.0) && found.iter().any(|x| *x != 0.0));
    });
}

#[test]
fn parts_restore_the_matrix_and_are_checked() {
    with_each(|_, vbmi, pool| {
        for seed in [0, 1] {
            let matrix = random_matrix(6, 700, seed, None);
            let packed = PackedMatrix::new(&matrix, vbmi, pool).unwrap();
            let mut parts = PreparedParts::default();
            packed.put_in(&mut parts);
            let again = PackedMatrix::from_parts(&parts, vbmi).unwrap();
            assert_eq!((again.rows, again.cols), (6, 700));
            assert_eq!((again.codes(), again.scales()), (packed.codes(), packed.scales()));
            assert_eq!(again.granularity, matrix.granularity());
            for left_out in ["packed.shape", "packed.scales", "packed.codes"] {
                for short in [false, true] {
                    let mut wrong = PreparedParts::default();
                    for (name, bytes) in parts.iter() {
                        if name != left_out {
                            wrong.put(name, bytes.clone());
                        } else if short {
                            wrong.put(name, bytes.slice(0..bytes.len() - 4).unwrap());
                        }
                    }
                    assert!(PackedMatrix::from_parts(&wrong, vbmi).is_err(), "{left_out}");
                }
            }
        }
    });
}

#[test]
fn only_large_matrices_without_groups_are_packed() {
    with_each(|exec, vbmi, pool| {
        let large = |cols, granularity| {
            let trits = vec![1; 4096 * cols];
            TernaryMatrix::from_trits(
                4096,
                cols,
                &trits,
                granularity,
                vec![
                    1.0;
                    match granularity {
                        ScaleGranularity::Group(n) => 4096 * cols / n,
                        _ => 1,
                    }
                ],
            )
            .unwrap()
        };
        assert!(!PackedMatrix::takes(&large(128, ScaleGranularity::Tensor)));
        assert!(PackedMatrix::takes(&large(256, ScaleGranularity::Tensor)));
        assert!(!PackedMatrix::takes(&large(1280, ScaleGranularity::Group(64))));
        let matrix = large(1280, ScaleGranularity::Tensor);
        assert!(PackedMatrix::takes(&matrix));
        assert_eq!(CpuWeight::new(matrix.clone(), None, pool).unwrap().bytes(), 4096 * 320 + 4);
        let weight = CpuWeight::new(matrix, Some(vbmi), pool).unwrap();
        assert_eq!(weight.bytes(), 4096 * 256 + 4);
        let before = exec.traffic.read().ternary_bytes;
        let x = BitNetTensor::from_f32(&[1, 1280], &[1.0; 1280], pool).unwrap();
        let mut out = BitNetTensor::zeros(&[1, 4096], pool).unwrap();
        ops::bit_linear(&x, ActivationPrecision::Int8, &[&weight], &mut [&mut out], exec).unwrap();
        assert_eq!(exec.traffic.read().ternary_bytes - before, 4096 * 256);
    });
}
