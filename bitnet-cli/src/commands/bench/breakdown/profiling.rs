//! A profiling back end: the time and the bytes read of each operation of another back end.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bitnet_core::Result;
use bitnet_core::backend::prepared_parts::PreparedParts;
use bitnet_core::backend::top_logits::{Guarantee, HeadWeight, LogitQuery, TopLogits};
use bitnet_core::backend::{
    Activation, ActivationPrecision, AttentionShape, Backend, BitLinearIntegers, Counters,
    DeltaInputs, Direction, Operations, Preparation, RopeOrder, RopeTable, Rotation, Tensors,
    TernaryWeight, Traffic,
};
use bitnet_core::dense::DenseRows;
use bitnet_core::kv::{KvCache, KvShape, KvSpan, StateSpan};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::ternary::TernaryMatrix;

/// Calls, time and bytes read of an operation on operands of one shape.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) calls: u64,
    pub(crate) time: Duration,
    /// Bytes of weights, head and cache counted by the back end, without activations.
    pub(crate) bytes: u64,
    /// Multiply-adds of ternary weights with activations, including skipped ones.
    pub(crate) macs: u64,
}

/// Measures the operations of the back end within.
#[derive(Debug)]
pub(crate) struct ProfilingBackend {
    inner: Arc<dyn Backend>,
    /// Entries in the order of first calls.
    entries: Mutex<Vec<Entry>>,
}

impl ProfilingBackend {
    /// Wraps a back end.
    pub(crate) fn new(inner: Arc<dyn Backend>) -> Self {
        Self { inner, entries: Mutex::default() }
    }

    /// Returns the entries since the last call, and clears them.
    pub(crate) fn take(&self) -> Vec<Entry> {
        std::mem::take(&mut *self.entries.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn read_so_far(&self) -> u64 {
        self.inner.traffic().unwrap_or_default().bytes()
    }

    /// Runs one operation and records it.
    fn record<T>(
        &self,
        name: impl FnOnce() -> String,
        macs: usize,
        operation: impl FnOnce(&dyn Backend) -> Result<T>,
    ) -> Result<T> {
        let before = self.read_so_far();
        let start = Instant::now();
        let result = operation(&*self.inner);
        let time = start.elapsed();
        let (bytes, macs) = (self.read_so_far() - before, macs as u64);
        let name = name();
        let mut entries = self.entries.lock().unwrap_or_else(PoisonError::into_inner);
        match entries.iter_mut().find(|entry| entry.name == name) {
            Some(entry) => {
                entry.calls += 1;
                entry.time += time;
                entry.bytes += bytes;
                entry.macs += macs;
            }
            None => entries.push(Entry { name, calls: 1, time, bytes, macs }),
        }
        result
    }
}

/// Returns `a, b from cols` for the rows of some weights.
fn shapes(weights: &[&dyn TernaryWeight]) -> String {
    let rows: Vec<String> = weights.iter().map(|weight| weight.rows().to_string()).collect();
    let cols = weights.first().map_or(0, |weight| weight.cols());
    format!("{} from {cols}", rows.join(", "))
}

/// Returns the number of weights times tokens.
fn products(x: &BitNetTensor, weights: &[&dyn TernaryWeight]) -> usize {
    let weights: usize = weights.iter().map(|weight| weight.rows() * weight.cols()).sum();
    x.shape()[0] * weights
}

impl Backend for ProfilingBackend {
    fn name(&self) -> &'static str {
        self.inner.name()
    }

    fn describe(&self) -> String {
        self.inner.describe()
    }

    fn threads(&self) -> usize {
        self.inner.threads()
    }
}

impl Preparation for ProfilingBackend {
    fn prepare(&self, matrix: TernaryMatrix) -> Result<Box<dyn TernaryWeight>> {
        self.inner.prepare(matrix)
    }

    fn prepare_for_sparse_input(&self, matrix: TernaryMatrix) -> Result<Box<dyn TernaryWeight>> {
        self.inner.prepare_for_sparse_input(matrix)
    }

    fn parts_layout(&self) -> Option<String> {
        self.inner.parts_layout()
    }

    fn prepare_from_parts(&self, parts: &PreparedParts) -> Result<Box<dyn TernaryWeight>> {
        self.inner.prepare_from_parts(parts)
    }

    fn prepare_dense(&self, rows: Arc<dyn DenseRows>) -> Result<Arc<dyn DenseRows>> {
        self.inner.prepare_dense(rows)
    }

    fn prepare_head(
        &self,
        rows: Arc<dyn DenseRows>,
        guarantee: Guarantee,
    ) -> Result<Option<Box<dyn HeadWeight>>> {
        self.inner.prepare_head(rows, guarantee)
    }

    fn prepare_head_from_parts(
        &self,
        rows: Arc<dyn DenseRows>,
        guarantee: Guarantee,
        parts: &PreparedParts,
    ) -> Result<Box<dyn HeadWeight>> {
        self.inner.prepare_head_from_parts(rows, guarantee, parts)
    }
}

impl Tensors for ProfilingBackend {
    fn tensor(&self, shape: &[usize], pool: &HybridMemoryPool) -> Result<BitNetTensor> {
        self.inner.tensor(shape, pool)
    }

    fn to_device(&self, x: BitNetTensor) -> Result<BitNetTensor> {
        self.inner.to_device(x)
    }

    fn to_host(&self, x: BitNetTensor, pool: &HybridMemoryPool) -> Result<BitNetTensor> {
        self.inner.to_host(x, pool)
    }

    fn rows(
        &self,
        rows: &[(&BitNetTensor, usize)],
        pool: &HybridMemoryPool,
    ) -> Result<BitNetTensor> {
        self.inner.rows(rows, pool)
    }

    fn kv_cache(
        &self,
        shape: KvShape,
        capacity: usize,
        pool: &HybridMemoryPool,
    ) -> Result<KvCache> {
        self.inner.kv_cache(shape, capacity, pool)
    }
}

impl Counters for ProfilingBackend {
    fn traffic(&self) -> Option<Traffic> {
        self.inner.traffic()
    }
}

impl Operations for ProfilingBackend {
    fn embed(&self, table: &dyn DenseRows, tokens: &[u32], out: &mut BitNetTensor) -> Result<()> {
        self.record(|| "embedding".into(), 0, |inner| inner.embed(table, tokens, out))
    }

    fn bit_linear(
        &self,
        x: &BitNetTensor,
        precision: ActivationPrecision,
        weights: &[&dyn TernaryWeight],
        out: &mut [&mut BitNetTensor],
    ) -> Result<()> {
        let name = || format!("ternary layer {}", shapes(weights));
        let run = |inner: &dyn Backend| inner.bit_linear(x, precision, weights, out);
        self.record(name, products(x, weights), run)
    }

    fn bit_linear_integers(
        &self,
        x: &BitNetTensor,
        weight: &dyn TernaryWeight,
    ) -> Result<BitLinearIntegers> {
        self.inner.bit_linear_integers(x, weight)
    }

    fn gate_up(
        &self,
        x: &BitNetTensor,
        precision: ActivationPrecision,
        activation: Activation,
        weights: [&dyn TernaryWeight; 2],
        out: &mut BitNetTensor,
        scratch: &mut BitNetTensor,
    ) -> Result<()> {
        let name = || format!("gate and up {}", shapes(&weights));
        let macs = products(x, &weights);
        let run =
            |inner: &dyn Backend| inner.gate_up(x, precision, activation, weights, out, scratch);
        self.record(name, macs, run)
    }

    fn linear(
        &self,
        x: &BitNetTensor,
        weight: &dyn DenseRows,
        out: &mut BitNetTensor,
    ) -> Result<()> {
        let name = || format!("dense layer {} from {}", weight.rows(), weight.cols());
        self.record(name, 0, |inner| inner.linear(x, weight, out))
    }

    fn top_logits(
        &self,
        x: &BitNetTensor,
        head: &dyn HeadWeight,
        queries: &[LogitQuery],
    ) -> Result<Vec<TopLogits>> {
        let name = || format!("largest logits of {}", head.stored().rows());
        self.record(name, 0, |inner| inner.top_logits(x, head, queries))
    }

    fn rms_norm(
        &self,
        x: &BitNetTensor,
        weight: &BitNetTensor,
        eps: f32,
        out: &mut BitNetTensor,
    ) -> Result<()> {
        let name = || format!("norm of {}", weight.shape()[0]);
        self.record(name, 0, |inner| inner.rms_norm(x, weight, eps, out))
    }

    fn rope(
        &self,
        x: &mut BitNetTensor,
        head_dim: usize,
        positions: &[usize],
        table: &RopeTable,
        order: RopeOrder,
    ) -> Result<()> {
        let rotate = |inner: &dyn Backend| inner.rope(x, head_dim, positions, table, order);
        self.record(|| "rotary positions".into(), 0, rotate)
    }

    fn store(
        &self,
        k: &BitNetTensor,
        v: &BitNetTensor,
        cache: &mut KvCache,
        layer: usize,
        first: usize,
    ) -> Result<()> {
        self.record(|| "into the cache".into(), 0, |inner| inner.store(k, v, cache, layer, first))
    }

    fn attention(
        &self,
        q: &BitNetTensor,
        spans: &[KvSpan<'_>],
        shape: AttentionShape,
        out: &mut BitNetTensor,
    ) -> Result<()> {
        self.record(|| "attention".into(), 0, |inner| inner.attention(q, spans, shape, out))
    }

    fn hadamard(
        &self,
        x: &BitNetTensor,
        rotation: &Rotation,
        direction: Direction,
        out: &mut BitNetTensor,
    ) -> Result<()> {
        let name = || format!("rotation of {}", rotation.block());
        self.record(name, 0, |inner| inner.hadamard(x, rotation, direction, out))
    }

    fn causal_conv(
        &self,
        x: &BitNetTensor,
        weight: &BitNetTensor,
        spans: &mut [StateSpan<'_>],
        out: &mut BitNetTensor,
    ) -> Result<()> {
        self.record(|| "convolution".into(), 0, |inner| inner.causal_conv(x, weight, spans, out))
    }

    fn delta_rule(
        &self,
        inputs: DeltaInputs<'_>,
        spans: &mut [StateSpan<'_>],
        out: &mut BitNetTensor,
    ) -> Result<()> {
        self.record(|| "delta rule".into(), 0, |inner| inner.delta_rule(inputs, spans, out))
    }

    fn gate(
        &self,
        activation: Activation,
        gate: &mut BitNetTensor,
        up: &BitNetTensor,
    ) -> Result<()> {
        self.record(|| "gate".into(), 0, |inner| inner.gate(activation, gate, up))
    }

    fn clamped_gate(&self, limit: f32, gate: &mut BitNetTensor, up: &BitNetTensor) -> Result<()> {
        self.record(|| "gate".into(), 0, |inner| inner.clamped_gate(limit, gate, up))
    }

    fn weighted_sum(
        &self,
        x: &BitNetTensor,
        weights: &[f32],
        out: &mut BitNetTensor,
    ) -> Result<()> {
        self.record(|| "sum of experts".into(), 0, |inner| inner.weighted_sum(x, weights, out))
    }

    fn add(&self, x: &mut BitNetTensor, y: &BitNetTensor) -> Result<()> {
        self.record(|| "addition".into(), 0, |inner| inner.add(x, y))
    }
}
