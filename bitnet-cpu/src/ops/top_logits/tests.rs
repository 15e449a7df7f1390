//! The head against the full scan: random and adversarial rows, every level, one to three threads.

use super::*;
use crate::{CpuBackend, CpuOptions};
use bitnet_core::backend::{Backend, Operations, Preparation};
use bitnet_core::dense::PlainType;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::simd::IsaLevel;
use proptest::prelude::*;

/// How a test matrix is stored.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Storage {
    F32,
    F16,
    Bf16,
    /// Decoded row by row, and said to take this many bytes.
    Decoded(usize),
}

#[derive(Debug)]
struct Table {
    rows: usize,
    cols: usize,
    storage: Storage,
    bytes: Vec<u8>,
}

impl Table {
    fn shared(rows: usize, cols: usize, values: &[f32], storage: Storage) -> Arc<dyn DenseRows> {
        assert_eq!(values.len(), rows * cols);
        let bytes = match storage {
            Storage::F32 | Storage::Decoded(_) => {
                values.iter().flat_map(|v| v.to_le_bytes()).collect()
            }
            Storage::F16 => {
                values.iter().flat_map(|&v| half::f16::from_f32(v).to_le_bytes()).collect()
            }
            Storage::Bf16 => {
                values.iter().flat_map(|&v| half::bf16::from_f32(v).to_le_bytes()).collect()
            }
        };
        Arc::new(Self { rows, cols, storage, bytes })
    }

    fn type_of(&self) -> PlainType {
        match self.storage {
            Storage::F32 | Storage::Decoded(_) => PlainType::F32,
            Storage::F16 => PlainType::F16,
            Storage::Bf16 => PlainType::BF16,
        }
    }
}

impl DenseRows for Table {
    fn rows(&self) -> usize {
        self.rows
    }

    fn cols(&self) -> usize {
        self.cols
    }

    fn type_name(&self) -> &'static str {
        "test"
    }

    fn bytes(&self) -> usize {
        match self.storage {
            Storage::Decoded(bytes) => bytes,
            _ => self.bytes.len(),
        }
    }

    fn decode_row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        let width = self.bytes.len() / self.rows;
        let bytes = &self.bytes[row * width..(row + 1) * width];
        bitnet_core::reference::to_f32(self.type_of(), bytes, out);
        Ok(())
    }

    fn plain(&self) -> Option<(PlainType, &[u8])> {
        match self.storage {
            Storage::Decoded(_) => None,
            _ => Some((self.type_of(), &self.bytes)),
        }
    }
}

/// Numbers with a bell-shaped distribution.
struct Numbers(u64);

impl Numbers {
    fn uniform(&mut self) -> f32 {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (self.0 >> 40) as f32 / (1u64 << 24) as f32
    }

    fn bell(&mut self) -> f32 {
        (0..12).map(|_| self.uniform()).sum::<f32>() - 6.0
    }

    fn bells(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.bell()).collect()
    }
}

fn backends() -> Vec<CpuBackend> {
    let levels = IsaLevel::available().into_iter();
    levels
        .zip((1..=3).cycle())
        .map(|(isa, threads)| {
            CpuBackend::new(CpuOptions { threads: Some(threads), isa: Some(isa) }).unwrap()
        })
        .collect()
}

fn query(count: usize, extra_tokens: &[u32]) -> LogitQuery {
    LogitQuery { count, extra_tokens: extra_tokens.to_vec() }
}

fn one(
    backend: &dyn Backend,
    x: &BitNetTensor,
    head: &dyn HeadWeight,
    query: LogitQuery,
) -> TopLogits {
    let mut found = backend.top_logits(x, head, &[query]).unwrap();
    assert_eq!(found.len(), 1);
    found.remove(0)
}

fn bits(found: &[TokenLogit]) -> Vec<(u32, u32)> {
    found.iter().map(|t| (t.token, t.logit.to_bits())).collect()
}

/// Checks that both guarantees give exactly the result of the full scan; returns the reads of the last back end.
fn agree(table: &Arc<dyn DenseRows>, x: &[f32], counts: &[usize], also: &[u32]) -> [HeadStats; 2] {
    let pool = HybridMemoryPool::new().unwrap();
    let x = BitNetTensor::from_f32(&[1, table.cols()], x, &pool).unwrap();
    let mut logits = BitNetTensor::zeros(&[1, table.rows()], &pool).unwrap();
    let mut read = [HeadStats::default(); 2];
    for backend in backends() {
        backend.linear(&x, &**table, &mut logits).unwrap();
        for (guarantee, read) in
            [Guarantee::Probabilistic, Guarantee::Exact].into_iter().zip(&mut read)
        {
            let Some(head) = backend.prepare_head(Arc::clone(table), guarantee).unwrap() else {
                continue;
            };
            for &count in counts {
                let query = query(count, also);
                let expected = TopLogits::of_all(logits.f32().unwrap(), &query);
                let found = one(&backend, &x, &*head, query);
                let case = format!("{}, {guarantee:?}, {count}", backend.describe());
                assert_eq!(bits(&found.top), bits(&expected.top), "{case}");
                assert_eq!(bits(&found.extra_tokens), bits(&expected.extra_tokens), "{case}");
                *read = found.read;
            }
        }
    }
    read
}

#[test]
fn random_head_reads_few_bytes() {
    let mut numbers = Numbers(1);
    let (rows, cols) = (6000, 640);
    let table = Table::shared(rows, cols, &numbers.bells(rows * cols), Storage::F16);
    let x = numbers.bells(cols);
    let [probable, certain] = agree(&table, &x, &[1, 40, 100, 1], &[7, 5999]);
    for read in [probable, certain] {
        assert_eq!((read.queries, read.full_scans), (1, 0), "{read:?}");
        assert_eq!(read.first_plane_bytes, (rows * (cols / 2 + 4)) as u64);
        assert!(read.rows < 40, "{read:?}");
    }
    assert!(probable.second_plane_rows < rows as u64 / 3, "{probable:?}");
    assert!(certain.second_plane_rows > probable.second_plane_rows, "{certain:?}");
}

#[test]
fn low_bit_head_uses_one_plane() {
    let mut numbers = Numbers(2);
    let (rows, cols) = (3000, 512);
    let values = numbers.bells(rows * cols);
    let table = Table::shared(rows, cols, &values, Storage::Decoded(rows * cols * 6 / 8));
    let [probable, certain] = agree(&table, &numbers.bells(cols), &[1, 5], &[]);
    assert!(probable.second_plane_bytes == 0 && probable.rows > 0, "{probable:?}");
    assert_eq!(certain, HeadStats::default(), "one plane alone is of no use to guarantee");
    let ternary = Table::shared(rows, cols, &values, Storage::Decoded(rows * cols / 4));
    assert_eq!(agree(&ternary, &numbers.bells(cols), &[1], &[]), [HeadStats::default(); 2]);
}

#[test]
fn ties_are_all_found() {
    let mut numbers = Numbers(3);
    let (rows, cols) = (700, 130);
    let row = numbers.bells(cols);
    let mut values: Vec<f32> = (0..rows).flat_map(|_| row.clone()).collect();
    let x = row.clone();
    agree(&Table::shared(rows, cols, &values, Storage::F32), &x, &[1, 3, 650], &[]);
    // Two groups of ties, the better one of twenty rows.
    for row in values.chunks_exact_mut(cols).step_by(35) {
        row.iter_mut().for_each(|w| *w *= 1.5);
    }
    for storage in [Storage::F32, Storage::F16, Storage::Bf16] {
        agree(&Table::shared(rows, cols, &values, storage), &x, &[1, 3, 20, 21, 100], &[0, 699]);
    }
}

#[test]
fn outliers_zeros_and_subnormals_match_the_full_scan() {
    let mut numbers = Numbers(4);
    let (rows, cols) = (900, 200);
    let mut values = numbers.bells(rows * cols);
    for (index, row) in values.chunks_exact_mut(cols).enumerate() {
        row[17] *= 3000.0;
        row[31] = 0.0;
        row[40] *= 1e-30;
        match index % 9 {
            0 => row.fill(0.0),
            1 => row.iter_mut().for_each(|w| *w *= 1e-42),
            2 => row[index % cols] *= 1e6,
            3 => row.iter_mut().for_each(|w| *w *= -0.0),
            _ => {}
        }
    }
    let table = Table::shared(rows, cols, &values, Storage::F32);
    for scale in [1.0f32, 1e-20, 1e-38, 1e-44, 1e20] {
        let mut x: Vec<f32> = numbers.bells(cols).iter().map(|x| x * scale).collect();
        agree(&table, &x, &[1, 10, 100], &[9]);
        x[17] *= 1000.0;
        agree(&table, &x, &[1, 10], &[]);
        x.iter_mut().skip(1).for_each(|x| *x = 0.0);
        agree(&table, &x, &[1, 10], &[]);
    }
    agree(&table, &vec![0.0; cols], &[1, 3], &[]);
    let tiny: Vec<f32> = values.iter().map(|w| w * 1e-36).collect();
    agree(&Table::shared(rows, cols, &tiny, Storage::F32), &[1e-6; 200], &[1, 30], &[]);
}

#[test]
fn non_finite_input_takes_the_full_scan() {
    let mut numbers = Numbers(5);
    let (rows, cols) = (400, 96);
    let values = numbers.bells(rows * cols);
    let table = Table::shared(rows, cols, &values, Storage::F32);
    for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let mut x = numbers.bells(cols);
        x[50] = bad;
        let read = agree(&table, &x, &[1, 5], &[3]);
        assert!(read.iter().all(|read| read.full_scans == 1), "{read:?}");
        let mut spoiled = values.clone();
        spoiled[cols * 7 + 3] = bad;
        let spoiled = Table::shared(rows, cols, &spoiled, Storage::F32);
        let backend = CpuBackend::new(CpuOptions::default()).unwrap();
        assert!(backend.prepare_head(spoiled, Guarantee::Probabilistic).unwrap().is_none());
    }
    // Logits beyond f32: some are infinite, some are not.
    let huge: Vec<f32> = values.iter().map(|w| w * 1e38).collect();
    agree(&Table::shared(rows, cols, &huge, Storage::F32), &numbers.bells(cols), &[1, 5], &[3]);
}

#[test]
fn small_shapes_work_and_foreign_heads_are_refused() {
    let mut numbers = Numbers(6);
    for (rows, cols) in [(1, 1), (2, 3), (17, 65), (40, 64), (41, 129)] {
        let table = Table::shared(rows, cols, &numbers.bells(rows * cols), Storage::F32);
        agree(&table, &numbers.bells(cols), &[0, 1, 2, 100], &[0]);
    }
    let backend = CpuBackend::new(CpuOptions::default()).unwrap();
    let reference = bitnet_core::reference::ReferenceBackend;
    let table = Table::shared(40, 8, &numbers.bells(320), Storage::F32);
    let pool = HybridMemoryPool::new().unwrap();
    let x = BitNetTensor::from_f32(&[1, 8], &numbers.bells(8), &pool).unwrap();
    let own = backend.prepare_head(Arc::clone(&table), Guarantee::Exact).unwrap().unwrap();
    let foreign = reference.prepare_head(table, Guarantee::Exact).unwrap().unwrap();
    let answer = backend.top_logits(&x, &*foreign, &[query(1, &[])]);
    assert!(matches!(answer, Err(Error::ForeignWeight { .. })));
    let answer = backend.top_logits(&x, &*own, &[query(1, &[40])]);
    assert!(matches!(answer, Err(Error::OutOfRange { .. })));
    let answer = backend.top_logits(&x, &*own, &[query(1, &[]), query(1, &[])]);
    assert!(matches!(answer, Err(Error::ShapeMismatch { .. })));
    assert_eq!(one(&reference, &x, &*foreign, query(3, &[1])).top.len(), 3);
    assert!(reference.top_logits(&x, &*own, &[query(1, &[])]).is_err());
}

#[test]
fn restored_head_gives_the_same_result() {
    let mut numbers = Numbers(8);
    let (rows, cols) = (300, 100);
    let mut values = numbers.bells(rows * cols);
    values.chunks_exact_mut(cols).for_each(|row| row[5] *= 100.0);
    let backend = CpuBackend::new(CpuOptions::default()).unwrap();
    let pool = HybridMemoryPool::new().unwrap();
    let x = BitNetTensor::from_f32(&[1, cols], &numbers.bells(cols), &pool).unwrap();
    for storage in [Storage::F32, Storage::Decoded(rows * cols * 6 / 8)] {
        let table = Table::shared(rows, cols, &values, storage);
        let probable = Guarantee::Probabilistic;
        let made = backend.prepare_head(Arc::clone(&table), probable).unwrap().unwrap();
        let parts = made.parts();
        let again = backend.prepare_head_from_parts(Arc::clone(&table), probable, &parts).unwrap();
        assert_eq!(
            one(&backend, &x, &*made, query(3, &[])),
            one(&backend, &x, &*again, query(3, &[]))
        );
        let other = Table::shared(rows / 2, cols * 2, &values, storage);
        for (table, parts) in [(other, parts), (table, PreparedParts::default())] {
            let refused = backend.prepare_head_from_parts(table, probable, &parts);
            assert!(matches!(refused, Err(Error::BadPart { .. })), "{refused:?}");
        }
    }
}

#[test]
fn queries_together_equal_each_alone_and_read_the_codes_once() {
    let mut numbers = Numbers(9);
    let (rows, cols, count) = (900, 130, 2 * QUERIES_AT_ONCE + 5);
    let table = Table::shared(rows, cols, &numbers.bells(rows * cols), Storage::F16);
    let mut states = numbers.bells(count * cols);
    // These take every row: one in the middle, and the first of a pass.
    states[3 * cols] = f32::NAN;
    states[QUERIES_AT_ONCE * cols + 7] = f32::INFINITY;
    let queries: Vec<_> = (0..count)
        .map(|index| match index % 7 {
            0 => query(0, &[index as u32]),
            1 => query(rows, &[]),
            k => query(10 * k, &[5, 899]),
        })
        .collect();
    let pool = HybridMemoryPool::new().unwrap();
    let x = BitNetTensor::from_f32(&[count, cols], &states, &pool).unwrap();
    for backend in backends() {
        let head = backend.prepare_head(Arc::clone(&table), Guarantee::Probabilistic);
        let head = head.unwrap().unwrap();
        let found = backend.top_logits(&x, &*head, &queries).unwrap();
        assert_eq!(found.len(), count);
        for (index, (found, query)) in found.iter().zip(&queries).enumerate() {
            let x = x.narrow(0, index..index + 1).unwrap();
            let alone = one(&backend, &x, &*head, query.clone());
            assert_eq!(bits(&found.top), bits(&alone.top), "{} {index}", backend.describe());
            assert_eq!(bits(&found.extra_tokens), bits(&alone.extra_tokens), "{index}");
            let place = |top: &TopLogits| top.non_finite.map(|t| t.token);
            assert_eq!(place(found), place(&alone), "{index}");
        }
        let read: u64 = found.iter().map(|found| found.read.first_plane_bytes).sum();
        assert_eq!(read, 3 * (rows * (cols.div_ceil(64) * 32 + 4)) as u64);
        for few in 2..9 {
            let (x, queries) = (x.narrow(0, 4..4 + few).unwrap(), &queries[4..4 + few]);
            let some = backend.top_logits(&x, &*head, queries).unwrap();
            for (some, found) in some.iter().zip(&found[4..]) {
                assert_eq!(bits(&some.top), bits(&found.top), "{} {few}", backend.describe());
            }
        }
        assert!(backend.top_logits(&x.narrow(0, 0..0).unwrap(), &*head, &[]).unwrap().is_empty());
    }
}

/// Every exact logit lies within the margin of its approximations, with room to spare but not too much of it.
#[test]
fn margins_bound_every_error() {
    let mut numbers = Numbers(7);
    let (rows, cols) = (5000, 320);
    let mut values = numbers.bells(rows * cols);
    values.chunks_exact_mut(cols).for_each(|row| row[5] *= 100.0);
    let table = Table::shared(rows, cols, &values, Storage::F32);
    let backend = CpuBackend::new(CpuOptions { threads: Some(2), isa: None }).unwrap();
    let x = numbers.bells(cols);
    let all: Vec<u32> = (0..rows as u32).collect();
    for guarantee in [Guarantee::Probabilistic, Guarantee::Exact] {
        let head = backend.prepare_head(Arc::clone(&table), guarantee).unwrap().unwrap();
        let head: &CpuHead = head.as_any().downcast_ref().unwrap();
        let exec = backend.exec();
        let query = QuantizedState::new(&x, &head.planes, guarantee, exec.scratch_pool);
        let query = query.unwrap().unwrap();
        let (mut first, mut exact) = (vec![0f32; rows], vec![0f32; rows]);
        scan::first(&head.planes, vec![(&query, &mut first[..])], exec).unwrap();
        let both = scan::second(&head.planes, &query, &first, &all, exec).unwrap();
        stored::dots_of_rows(&*table, &x, &all, &mut exact, exec).unwrap();
        for (level, found) in [(Level::First, &first), (Level::Both, &both)] {
            let margin = query.margin(&head.planes, level);
            let share =
                |row: usize| (exact[row] - found[row]).abs() / (margin * head.planes.scales()[row]);
            let worst = (0..rows).map(share).fold(0f32, f32::max);
            assert!(worst < 1.0, "{guarantee:?} {level:?}: {worst}");
            if guarantee == Guarantee::Probabilistic {
                assert!(worst > 0.2, "{level:?}: the margin is {} times too wide", 1.0 / worst);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(48) })]

    #[test]
    fn top_logits_equal_the_full_scan(
        rows in 1usize..600,
        cols in 1usize..300,
        storage in prop_oneof![Just(Storage::F32), Just(Storage::F16), Just(Storage::Bf16)],
        count in 1usize..=100,
        spread in 0i32..30,
        alike in 1usize..50,
        seed in any::<u64>(),
    ) {
        let mut numbers = Numbers(seed);
        let mut values = numbers.bells(rows * cols);
        let power = |numbers: &mut Numbers| {
            (f64::from(numbers.bell()) * f64::from(spread) / 10.0).exp2() as f32
        };
        let columns: Vec<f32> = (0..cols).map(|_| power(&mut numbers)).collect();
        for index in 0..rows {
            let factor = power(&mut numbers);
            for (w, column) in values[index * cols..(index + 1) * cols].iter_mut().zip(&columns) {
                *w *= factor * column;
            }
            if index % alike == alike - 1 {
                values.copy_within(0..cols, index * cols);
            }
        }
        let x: Vec<f32> = (0..cols).map(|_| numbers.bell() * power(&mut numbers)).collect();
        let table = Table::shared(rows, cols, &values, storage);
        agree(&table, &x, &[count], &[(rows / 2) as u32]);
    }
}
