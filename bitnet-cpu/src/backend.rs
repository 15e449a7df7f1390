//! The back end named `cpu`: each operation on the chosen instruction set and the back end's own threads.

use std::sync::Arc;

use crate::exec::ExecContext;
use crate::isa::{IntegerPeak, PEAK_ROUNDS, measure_integer_peak};
use crate::ops::{self, CpuWeight};
use crate::self_test::{Chosen, choose, proven_levels};
use crate::threads::{Threads, default_threads};
use crate::traffic::TrafficCounters;
use bitnet_core::Result;
use bitnet_core::backend::prepared_parts::PreparedParts;
use bitnet_core::backend::top_logits::{Guarantee, HeadWeight, LogitQuery, TopLogits};
use bitnet_core::backend::{
    Activation, ActivationPrecision, AttentionShape, Backend, BitLinearIntegers, Counters,
    DeltaInputs, Direction, Operations, Preparation, RopeOrder, RopeTable, Rotation, Tensors,
    TernaryWeight, Traffic,
};
use bitnet_core::dense::DenseRows;
use bitnet_core::kv::{KvCache, KvSpan, StateSpan};
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig, Purpose};
use bitnet_core::simd::IsaLevel;
use bitnet_core::ternary::TernaryMatrix;

/// Options of a [`CpuBackend`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CpuOptions {
    /// Threads, the caller's included; `None` for one on each physical core that this process may use.
    pub threads: Option<usize>,
    /// Instruction set level; `None` for the one that `BITNET_ISA` names, or the best one that proves itself.
    pub isa: Option<IsaLevel>,
}

/// The back end named `cpu`.
///
/// Several threads may call it at once; each call runs on the caller's thread and the back end's workers.
#[derive(Debug)]
pub struct CpuBackend {
    chosen: Chosen,
    threads: Threads,
    traffic: TrafficCounters,
    /// For weights.
    weights: HybridMemoryPool,
    /// For buffers that a call needs and drops.
    scratch_pool: HybridMemoryPool,
}

impl CpuBackend {
    /// Makes a back end on this machine's processor.
    ///
    /// # Errors
    /// [`bitnet_core::Error::IsaUnavailable`] if the level that the options or `BITNET_ISA` name is not there,
    /// [`bitnet_core::Error::IsaBroken`] if it fails its self-test, [`bitnet_core::Error::OutOfMemory`] if the
    /// system refuses threads.
    pub fn new(options: CpuOptions) -> Result<Self> {
        Self::in_pool(options, &HybridMemoryPool::with_config(MemoryPoolConfig::unbounded())?)
    }

    /// As [`CpuBackend::new`], with all that it holds in `pool`: prepared weights under [`Purpose::Weights`],
    /// scratch buffers under [`Purpose::Activations`]. If the pool is tracked at level Standard or Detailed,
    /// its tracker's [operations](bitnet_core::memory::Tracker::operations) are those of this back end, with their
    /// times and the bytes of weights, heads and caches that they read, estimated from
    /// [some of the calls](bitnet_core::memory::Tracker::watch_operation).
    ///
    /// # Errors
    /// As [`CpuBackend::new`].
    pub fn in_pool(options: CpuOptions, pool: &HybridMemoryPool) -> Result<Self> {
        let named = std::env::var_os("BITNET_ISA").is_some_and(|name| !name.is_empty());
        let forced = options.isa.is_some() || named;
        let level = options.isa.map_or_else(IsaLevel::selected, Ok)?;
        let chosen = choose(level, forced, &proven_levels())?;
        let threads = Threads::new(options.threads.unwrap_or_else(default_threads))?;
        let traffic = TrafficCounters::default();
        let weights = pool.for_purpose(Purpose::Weights);
        let scratch_pool = pool.for_purpose(Purpose::Activations);
        Ok(Self { chosen, threads, traffic, weights, scratch_pool })
    }

    /// Returns the instruction set level that runs.
    pub fn level(&self) -> IsaLevel {
        self.chosen.level
    }

    /// Returns the number of threads, the caller's included.
    pub fn threads(&self) -> usize {
        self.threads.count()
    }

    /// Measures the peak of the integer multiply-add of this back end's instruction set, on as many threads as it
    /// has, for a quarter of a second. The additions that sum the products up are part of it, because no kernel can do
    /// without them. `None` where the level has no such instruction (scalar).
    pub fn measure_integer_peak(&self) -> Option<IntegerPeak> {
        measure_integer_peak(self.level(), self.threads(), PEAK_ROUNDS)
    }

    pub(crate) fn exec(&self) -> ExecContext<'_> {
        let Self { chosen, threads, traffic, scratch_pool, .. } = self;
        ExecContext { isa: chosen.isa, threads, traffic, scratch_pool }
    }

    /// Runs an operation and reports its time and the bytes that it read to the tracker, if that watches it. The bytes
    /// are counted apart, so that those of concurrent calls do not mix.
    #[inline]
    fn run<T>(
        &self,
        name: &'static str,
        operation: impl FnOnce(ExecContext<'_>) -> Result<T>,
    ) -> Result<T> {
        let tracker = self.weights.tracker();
        let Some(watch) = tracker.and_then(|tracker| tracker.watch_operation(name)) else {
            return operation(self.exec());
        };
        let counters = TrafficCounters::default();
        let result = operation(ExecContext { traffic: &counters, ..self.exec() });
        let read = counters.read();
        self.traffic.add(read);
        if result.is_ok() {
            watch.end(read.bytes());
        }
        result
    }
}

impl Backend for CpuBackend {
    fn name(&self) -> &'static str {
        "cpu"
    }

    fn describe(&self) -> String {
        let plural = if self.threads() == 1 { "" } else { "s" };
        format!("cpu ({}, {} thread{plural})", self.level(), self.threads())
    }

    fn threads(&self) -> usize {
        self.threads.count()
    }
}

impl Preparation for CpuBackend {
    fn pool(&self) -> Option<&HybridMemoryPool> {
        Some(&self.weights)
    }

    fn prepare(&self, matrix: TernaryMatrix) -> Result<Box<dyn TernaryWeight>> {
        let vbmi = self.chosen.isa.vbmi();
        Ok(Box::new(CpuWeight::new(matrix, vbmi, &self.weights)?))
    }

    fn prepare_for_sparse_input(&self, matrix: TernaryMatrix) -> Result<Box<dyn TernaryWeight>> {
        let vbmi = self.chosen.isa.vbmi();
        Ok(Box::new(CpuWeight::for_sparse_input(matrix, vbmi, &self.weights)?))
    }

    fn parts_layout(&self) -> Option<String> {
        Some(ops::parts_layout(self.chosen.isa.vbmi()))
    }

    fn prepare_from_parts(&self, parts: &PreparedParts) -> Result<Box<dyn TernaryWeight>> {
        Ok(Box::new(CpuWeight::from_parts(parts, self.chosen.isa.vbmi())?))
    }

    fn prepare_head(
        &self,
        rows: Arc<dyn DenseRows>,
        guarantee: Guarantee,
    ) -> Result<Option<Box<dyn HeadWeight>>> {
        ops::prepare_head(rows, guarantee, self.exec(), &self.weights)
    }

    fn prepare_head_from_parts(
        &self,
        rows: Arc<dyn DenseRows>,
        guarantee: Guarantee,
        parts: &PreparedParts,
    ) -> Result<Box<dyn HeadWeight>> {
        ops::head_from_parts(rows, guarantee, parts)
    }
}

impl Tensors for CpuBackend {}

impl Counters for CpuBackend {
    fn traffic(&self) -> Option<Traffic> {
        Some(self.traffic.read())
    }
}

impl Operations for CpuBackend {
    fn embed(&self, table: &dyn DenseRows, tokens: &[u32], out: &mut BitNetTensor) -> Result<()> {
        self.run("embed", |exec| ops::embed(table, tokens, out, exec))
    }

    fn bit_linear(
        &self,
        x: &BitNetTensor,
        precision: ActivationPrecision,
        weights: &[&dyn TernaryWeight],
        out: &mut [&mut BitNetTensor],
    ) -> Result<()> {
        self.run("bit_linear", |exec| ops::bit_linear(x, precision, weights, out, exec))
    }

    fn bit_linear_integers(
        &self,
        x: &BitNetTensor,
        weight: &dyn TernaryWeight,
    ) -> Result<BitLinearIntegers> {
        ops::bit_linear_integers(x, weight, self.exec())
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
        let sparse = activation == Activation::Relu2
            && precision != ActivationPrecision::Float
            && x.shape().first() == Some(&1);
        if sparse && ops::takes(weights) {
            return self
                .run("gate_up", |exec| ops::relu2(x, precision, weights, out, scratch, exec));
        }
        if ops::takes_gated(x, precision) {
            return self.run("gate_up", |exec| {
                ops::gated(x, precision, activation, weights, out, scratch, exec)
            });
        }
        self.bit_linear(x, precision, &weights, &mut [&mut *out, &mut *scratch])?;
        self.gate(activation, out, scratch)
    }

    fn linear(
        &self,
        x: &BitNetTensor,
        weight: &dyn DenseRows,
        out: &mut BitNetTensor,
    ) -> Result<()> {
        self.run("linear", |exec| ops::linear(x, weight, out, exec))
    }

    fn top_logits(
        &self,
        x: &BitNetTensor,
        head: &dyn HeadWeight,
        queries: &[LogitQuery],
    ) -> Result<Vec<TopLogits>> {
        self.run("top_logits", |exec| ops::top_logits(x, head, queries, exec))
    }

    fn rms_norm(
        &self,
        x: &BitNetTensor,
        weight: &BitNetTensor,
        eps: f32,
        out: &mut BitNetTensor,
    ) -> Result<()> {
        self.run("rms_norm", |exec| ops::rms_norm(x, weight, eps, out, exec))
    }

    fn rope(
        &self,
        x: &mut BitNetTensor,
        head_dim: usize,
        positions: &[usize],
        table: &RopeTable,
        order: RopeOrder,
    ) -> Result<()> {
        self.run("rope", |exec| ops::rope(x, head_dim, positions, table, order, exec))
    }

    fn store(
        &self,
        k: &BitNetTensor,
        v: &BitNetTensor,
        cache: &mut KvCache,
        layer: usize,
        first: usize,
    ) -> Result<()> {
        self.run("store", |exec| ops::store(k, v, cache, layer, first, exec))
    }

    fn attention(
        &self,
        q: &BitNetTensor,
        spans: &[KvSpan<'_>],
        shape: AttentionShape,
        out: &mut BitNetTensor,
    ) -> Result<()> {
        self.run("attention", |exec| ops::attention(q, spans, shape, out, exec))
    }

    fn hadamard(
        &self,
        x: &BitNetTensor,
        rotation: &Rotation,
        direction: Direction,
        out: &mut BitNetTensor,
    ) -> Result<()> {
        self.run("hadamard", |exec| ops::hadamard(x, rotation, direction, out, exec))
    }

    fn causal_conv(
        &self,
        x: &BitNetTensor,
        weight: &BitNetTensor,
        spans: &mut [StateSpan<'_>],
        out: &mut BitNetTensor,
    ) -> Result<()> {
        self.run("causal_conv", |exec| ops::causal_conv(x, weight, spans, out, exec))
    }

    fn delta_rule(
        &self,
        inputs: DeltaInputs<'_>,
        spans: &mut [StateSpan<'_>],
        out: &mut BitNetTensor,
    ) -> Result<()> {
        self.run("delta_rule", |exec| ops::delta_rule(inputs, spans, out, exec))
    }

    fn gate(
        &self,
        activation: Activation,
        gate: &mut BitNetTensor,
        up: &BitNetTensor,
    ) -> Result<()> {
        self.run("gate", |exec| ops::gate(activation, gate, up, exec))
    }

    fn clamped_gate(&self, limit: f32, gate: &mut BitNetTensor, up: &BitNetTensor) -> Result<()> {
        self.run("clamped_gate", |exec| ops::clamped_gate(limit, gate, up, exec))
    }

    fn weighted_sum(
        &self,
        x: &BitNetTensor,
        weights: &[f32],
        out: &mut BitNetTensor,
    ) -> Result<()> {
        self.run("weighted_sum", |exec| ops::weighted_sum(x, weights, out, exec))
    }

    fn add(&self, x: &mut BitNetTensor, y: &BitNetTensor) -> Result<()> {
        self.run("add", |exec| ops::add(x, y, exec))
    }
}
