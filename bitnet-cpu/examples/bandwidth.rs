//! Measures how fast one token and many tokens pass through layers of the 2B model's shapes.
//!
//! `cargo run --release -p bitnet-cpu --example bandwidth [threads [what ...]]`, with `BITNET_ISA` to force a level.

use std::sync::Arc;
use std::time::Instant;

use bitnet_core::Result;
use bitnet_core::backend::top_logits::{Guarantee, LogitQuery};
use bitnet_core::backend::{
    ActivationPrecision, AttentionShape, Backend, Direction, Operations, Preparation, Rotation,
};
use bitnet_core::dense::{DenseRows, PlainType};
use bitnet_core::kv::{KvCache, KvShape, KvSpan, KvType};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use bitnet_cpu::{CpuBackend, CpuOptions};

/// Calls that are measured at least.
const ROUNDS: usize = 9;

/// Seconds that this thread has been on a processor, where the system tells.
fn on_processor() -> Option<f64> {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
    let nanoseconds: u64 = text.split_whitespace().next()?.parse().ok()?;
    Some(nanoseconds as f64 / 1e9)
}

/// Seconds that a call takes. With one thread it is the mean of the time on the processor, which other programs
/// leave alone; otherwise the median of the time that passes.
fn measure(backend: &CpuBackend, mut call: impl FnMut() -> Result<()>) -> Result<f64> {
    let before = on_processor();
    let mut times = Vec::with_capacity(ROUNDS);
    let mut total = 0.0;
    while times.len() < ROUNDS || total < 0.1 {
        let start = Instant::now();
        call()?;
        let time = start.elapsed().as_secs_f64();
        total += time;
        times.push(time);
    }
    if let (1, Some(before), Some(after)) = (backend.threads(), before, on_processor()) {
        return Ok((after - before) / times.len() as f64);
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// A dense matrix of a plain type.
#[derive(Debug)]
struct Table(usize, usize, PlainType, Vec<u8>);

impl DenseRows for Table {
    fn rows(&self) -> usize {
        self.0
    }

    fn cols(&self) -> usize {
        self.1
    }

    fn type_name(&self) -> &'static str {
        "plain"
    }

    fn bytes(&self) -> usize {
        self.3.len()
    }

    fn decode_row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        let size = self.3.len() / self.0;
        bitnet_core::reference::to_f32(self.2, &self.3[row * size..(row + 1) * size], out);
        Ok(())
    }

    fn plain(&self) -> Option<(PlainType, &[u8])> {
        Some((self.2, &self.3))
    }
}

fn ternary(
    backend: &CpuBackend,
    tokens: usize,
    layers: usize,
    granularity: ScaleGranularity,
    precision: ActivationPrecision,
) -> Result<()> {
    let (rows, cols) = (6912, 2560);
    let pool = HybridMemoryPool::new()?;
    let values: Vec<f32> = (0..tokens * cols).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
    let x = BitNetTensor::from_f32(&[tokens, cols], &values, &pool)?;
    let mut out = BitNetTensor::zeros(&[tokens, rows], &pool)?;
    let mut weights = Vec::new();
    for layer in 0..layers {
        let trits: Vec<i8> = (0..rows * cols).map(|i| ((i * 7 + layer) % 3) as i8 - 1).collect();
        let scales = vec![1.0; granularity.scale_count(rows, cols)?];
        let matrix = TernaryMatrix::from_trits(rows, cols, &trits, granularity, scales)?;
        weights.push(backend.prepare(matrix)?);
    }
    let mut next = (0..layers).cycle();
    let seconds = measure(backend, || {
        let weight = &weights[next.next().unwrap_or(0)];
        backend.bit_linear(&x, precision, &[&**weight], &mut [&mut out])
    })?;
    println!(
        "bit_linear {precision:?} {granularity:?} [{tokens}, {cols}] x [{rows}, {cols}], {layers} weights in turn: {:.0} us, {:.1} GB/s packed, {:.1} GMAC/s",
        seconds * 1e6,
        (rows * cols / 4) as f64 / seconds / 1e9,
        (tokens * rows * cols) as f64 / seconds / 1e9,
    );
    Ok(())
}

/// The second half of a ReLU² layer: one token of which two thirds are zero.
fn sparse(backend: &CpuBackend, layers: usize) -> Result<()> {
    let (rows, cols) = (2560, 6912);
    let pool = HybridMemoryPool::new()?;
    let value = |i: usize| if i * 7919 % 100 < 67 { 0.0 } else { (i * 37 % 101) as f32 - 50.0 };
    let values: Vec<f32> = (0..cols).map(value).collect();
    let occupied = values.iter().filter(|x| **x != 0.0).count();
    let x = BitNetTensor::from_f32(&[1, cols], &values, &pool)?;
    let mut out = BitNetTensor::zeros(&[1, rows], &pool)?;
    let mut weights = Vec::new();
    for layer in 0..layers {
        let trits: Vec<i8> = (0..rows * cols).map(|i| ((i * 7 + layer) % 3) as i8 - 1).collect();
        let granularity = ScaleGranularity::Tensor;
        let matrix = TernaryMatrix::from_trits(rows, cols, &trits, granularity, vec![1.0])?;
        weights.push(backend.prepare_for_sparse_input(matrix)?);
    }
    let mut next = (0..layers).cycle();
    let seconds = measure(backend, || {
        let weight = &weights[next.next().unwrap_or(0)];
        backend.bit_linear(&x, ActivationPrecision::Int8, &[&**weight], &mut [&mut out])
    })?;
    println!(
        "bit_linear of {occupied} columns of [{rows}, {cols}], {layers} weights in turn: {:.0} us, {:.1} GB/s packed",
        seconds * 1e6,
        (rows * occupied / 4) as f64 / seconds / 1e9,
    );
    Ok(())
}

fn linear(backend: &CpuBackend, tokens: usize, plain: PlainType) -> Result<()> {
    let (rows, cols) = (32000, 2560);
    let pool = HybridMemoryPool::new()?;
    let x = BitNetTensor::from_f32(&[tokens, cols], &vec![0.5; tokens * cols], &pool)?;
    let mut out = BitNetTensor::zeros(&[tokens, rows], &pool)?;
    let size = if plain == PlainType::F32 { 4 } else { 2 };
    let table = Table(rows, cols, plain, vec![0x3c; rows * cols * size]);
    let seconds = measure(backend, || backend.linear(&x, &table, &mut out))?;
    println!(
        "linear {plain:?} [{tokens}, {cols}] x [{rows}, {cols}]: {:.0} us, {:.1} GB/s, {:.1} GMAC/s",
        seconds * 1e6,
        table.bytes() as f64 / seconds / 1e9,
        (tokens * rows * cols) as f64 / seconds / 1e9,
    );
    Ok(())
}

/// The largest logit of one hidden state, among those of 128,256 rows of random numbers.
fn head(backend: &CpuBackend) -> Result<()> {
    let (rows, cols) = (128_256, 2560);
    let mut state = 1u64;
    let mut random = || {
        state = state.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    let bytes = (0..rows * cols).flat_map(|_| half::f16::from_f32(random()).to_le_bytes());
    let table = Arc::new(Table(rows, cols, PlainType::F16, bytes.collect()));
    let pool = HybridMemoryPool::new()?;
    let Some(head) = backend.prepare_head(table, Guarantee::Probabilistic)? else { return Ok(()) };
    for count in [1, 4, 16] {
        let values: Vec<f32> = (0..count * cols).map(|_| random()).collect();
        let x = BitNetTensor::from_f32(&[count, cols], &values, &pool)?;
        let queries = vec![LogitQuery { count: 1, ..LogitQuery::default() }; count];
        let mut read = 0;
        let seconds = measure(backend, || {
            read =
                backend.top_logits(&x, &*head, &queries)?.iter().map(|top| top.read.bytes()).sum();
            Ok(())
        })?;
        println!(
            "head [{rows}, {cols}], the likeliest of {count}: {:.0} us, {:.1} GB/s of {:.1} MB",
            seconds * 1e6,
            read as f64 / seconds / 1e9,
            read as f64 / 1e6
        );
    }
    Ok(())
}

fn attention(backend: &CpuBackend, kind: KvType, tokens: usize, first: usize) -> Result<()> {
    let shape =
        AttentionShape { heads: 20, kv_heads: 5, head_dim: 128, scale: 0.088, window: None };
    let pool = HybridMemoryPool::new()?;
    let values: Vec<f32> = (0..4096 * 640).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
    let x = BitNetTensor::from_f32(&[4096, 640], &values, &pool)?;
    let layers = if tokens == 1 { 30 } else { 1 };
    let mut cache =
        KvCache::new(KvShape { kind, layers, kv_heads: 5, head_dim: 128 }, 4096, &pool)?;
    cache.reserve(4096)?;
    for layer in 0..layers {
        backend.store(&x, &x, &mut cache, layer, 0)?;
    }
    let q = BitNetTensor::from_f32(&[tokens, 2560], &values[..tokens * 2560], &pool)?;
    let mut out = BitNetTensor::zeros(&[tokens, 2560], &pool)?;
    let mut next = (0..layers).cycle();
    let seconds = measure(backend, || {
        let spans = next.next().map(|layer| KvSpan { cache: &cache, layer, first, tokens });
        backend.attention(&q, spans.as_slice(), shape, &mut out)
    })?;
    let seen: usize = (0..tokens).map(|i| first + i + 1).sum();
    println!(
        "attention {kind}, {tokens} tokens at {first}, {layers} layers in turn: {:.0} us, {:.1} GB/s, {:.1} GMAC/s",
        seconds * 1e6,
        ((first + tokens) * cache.layer_bytes_per_position()) as f64 / seconds / 1e9,
        (seen * 20 * 2 * 128) as f64 / seconds / 1e9,
    );
    Ok(())
}

fn hadamard(backend: &CpuBackend, tokens: usize, direction: Direction) -> Result<()> {
    let (cols, block) = (5120, 1024);
    let pool = HybridMemoryPool::new()?;
    let values: Vec<f32> = (0..tokens * cols).map(|i| (i * 37 % 101) as f32 - 50.0).collect();
    let signs = (0..cols).map(|i| if i * 31 % 7 < 3 { -1.0 } else { 1.0 }).collect::<Vec<f32>>();
    let rotation = Rotation::new(block, signs)?;
    let x = BitNetTensor::from_f32(&[tokens, cols], &values, &pool)?;
    let mut out = BitNetTensor::zeros(&[tokens, cols], &pool)?;
    let seconds = measure(backend, || backend.hadamard(&x, &rotation, direction, &mut out))?;
    println!(
        "hadamard {direction:?} [{tokens}, {cols}] in blocks of {block}: {:.1} us, {:.1} GB/s of x",
        seconds * 1e6,
        (4 * tokens * cols) as f64 / seconds / 1e9,
    );
    Ok(())
}

/// What is measured, by the word with which it is asked for.
type Measurement = (&'static str, fn(&CpuBackend) -> Result<()>);

const MEASUREMENTS: [Measurement; 9] = [
    ("one", |backend| {
        let (tensor, int8) = (ScaleGranularity::Tensor, ActivationPrecision::Int8);
        ternary(backend, 1, 1, tensor, int8)?;
        ternary(backend, 1, 24, tensor, int8)
    }),
    ("sparse", |backend| {
        sparse(backend, 1)?;
        sparse(backend, 24)
    }),
    ("groups", |backend| {
        for tokens in [1, 128] {
            ternary(backend, tokens, 24, ScaleGranularity::Group(64), ActivationPrecision::Int8)?;
            ternary(backend, tokens, 24, ScaleGranularity::Group(128), ActivationPrecision::Int8)?;
        }
        Ok(())
    }),
    ("many", |backend| {
        for tokens in [2, 4, 8, 16, 32, 128, 512] {
            ternary(backend, tokens, 1, ScaleGranularity::Tensor, ActivationPrecision::Int8)?;
        }
        Ok(())
    }),
    ("float", |backend| {
        ternary(backend, 1, 24, ScaleGranularity::Tensor, ActivationPrecision::Float)?;
        ternary(backend, 32, 1, ScaleGranularity::Tensor, ActivationPrecision::Float)
    }),
    ("dense", |backend| {
        for plain in [PlainType::F32, PlainType::F16, PlainType::BF16] {
            linear(backend, 1, plain)?;
            linear(backend, 16, plain)?;
        }
        Ok(())
    }),
    ("head", head),
    ("attention", |backend| {
        for kind in [KvType::F32, KvType::F16, KvType::Int8] {
            attention(backend, kind, 1, 100)?;
            attention(backend, kind, 1, 4000)?;
            attention(backend, kind, 64, 0)?;
            attention(backend, kind, 512, 0)?;
        }
        Ok(())
    }),
    ("hadamard", |backend| {
        for tokens in [1, 64] {
            hadamard(backend, tokens, Direction::Forward)?;
            hadamard(backend, tokens, Direction::Inverse)?;
        }
        Ok(())
    }),
];

fn main() -> Result<()> {
    let threads = std::env::args().nth(1).and_then(|n| n.parse().ok());
    let words: Vec<String> = std::env::args().skip(2).collect();
    let backend = CpuBackend::new(CpuOptions { threads, isa: None })?;
    println!("{}", backend.describe());
    for (word, measurement) in MEASUREMENTS {
        if words.is_empty() || words.iter().any(|asked| asked == word) {
            measurement(&backend)?;
        }
    }
    Ok(())
}
