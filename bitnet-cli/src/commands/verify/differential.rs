//! A differential back end: one member computes, all others run the same operations, and their results are compared.

mod integers;

use std::any::Any;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bitnet_core::backend::top_logits::{HeadWeight, LogitQuery, TopLogits};
use bitnet_core::backend::{
    Activation, ActivationPrecision, AttentionShape, Backend, BitLinearIntegers, Counters,
    DeltaInputs, Direction, Operations, Preparation, RopeOrder, RopeTable, Rotation, Tensors,
    TernaryWeight,
};
use bitnet_core::dense::DenseRows;
use bitnet_core::kv::{KvCache, KvSpan, StateSpan};
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::memory::{HybridMemoryPool, MemoryPoolConfig};
use bitnet_core::reference::ReferenceBackend;
use bitnet_core::simd::IsaLevel;
use bitnet_core::ternary::TernaryMatrix;
use bitnet_core::{Error, Result};
use bitnet_cpu::{CpuBackend, CpuOptions};

use integers::{first_difference, fixed_input, place};

/// The tolerance of one operation on the same input: the largest difference in a row, relative to the largest magnitude
/// in that row of the reference.
pub(crate) const OPERATION_BOUND: f64 = 1e-5;

/// Results of the comparisons.
#[derive(Debug, Clone, Default)]
pub(crate) struct Findings {
    /// Ternary matrices compared.
    pub(crate) matrices: usize,
    /// Integers compared over all members.
    pub(crate) integers: u64,
    /// Descriptions of the places where integers differ.
    pub(crate) mismatches: Vec<String>,
    /// Largest relative difference of each operation.
    pub(crate) operations: BTreeMap<&'static str, f64>,
}

/// The reference and the back ends that are compared with it.
#[derive(Debug)]
pub(crate) struct DifferentialBackend {
    /// The names of the members, the reference first.
    pub(crate) names: Vec<String>,
    members: Vec<Arc<dyn Backend>>,
    driver: AtomicUsize,
    comparing: AtomicBool,
    findings: Mutex<Findings>,
    pool: HybridMemoryPool,
}

/// A ternary matrix, prepared by every member.
#[derive(Debug)]
struct DifferentialWeight {
    number: usize,
    weights: Vec<Box<dyn TernaryWeight>>,
}

impl TernaryWeight for DifferentialWeight {
    fn rows(&self) -> usize {
        self.weights[0].rows()
    }

    fn cols(&self) -> usize {
        self.weights[0].cols()
    }

    fn bytes(&self) -> usize {
        self.weights.iter().map(|w| w.bytes()).sum()
    }

    fn as_any(&self) -> &dyn Any {
        self
    }
}

fn own(weight: &dyn TernaryWeight) -> Result<&DifferentialWeight> {
    weight
        .as_any()
        .downcast_ref()
        .ok_or(Error::ForeignWeight { op: "bit_linear", backend: "differential" })
}

impl DifferentialBackend {
    /// The reference, and the CPU back end at each of these levels.
    pub(crate) fn new(levels: &[IsaLevel], threads: Option<usize>) -> Result<Self> {
        let mut names = vec!["reference".to_owned()];
        let mut members: Vec<Arc<dyn Backend>> = vec![Arc::new(ReferenceBackend)];
        for &level in levels {
            members.push(Arc::new(CpuBackend::new(CpuOptions { threads, isa: Some(level) })?));
            names.push(format!("cpu {level}"));
        }
        Ok(Self {
            names,
            members,
            driver: AtomicUsize::new(0),
            comparing: AtomicBool::new(false),
            findings: Mutex::default(),
            pool: HybridMemoryPool::with_config(MemoryPoolConfig::unbounded())?,
        })
    }

    /// Selects the member that computes, and whether all others are compared with it.
    pub(crate) fn drive(&self, member: usize, comparing: bool) {
        self.driver.store(member, Ordering::SeqCst);
        self.comparing.store(comparing, Ordering::SeqCst);
    }

    /// Returns the results so far.
    pub(crate) fn findings(&self) -> Findings {
        self.lock().clone()
    }

    /// Prepares one weight on every member and compares their integers on a fixed input.
    fn prepare_by(
        &self,
        prepare: impl Fn(&dyn Backend) -> Result<Box<dyn TernaryWeight>>,
    ) -> Result<Box<dyn TernaryWeight>> {
        let number = self.lock().matrices;
        let weights = self.members.iter().map(|m| prepare(&**m)).collect::<Result<_>>()?;
        let weight = DifferentialWeight { number, weights };
        let x = fixed_input(weight.cols(), &self.pool)?;
        self.compare_integers(&x, &weight, "fixed input")?;
        self.lock().matrices += 1;
        Ok(Box::new(weight))
    }

    fn lock(&self) -> MutexGuard<'_, Findings> {
        self.findings.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn computing(&self) -> &dyn Backend {
        &*self.members[self.driver.load(Ordering::SeqCst)]
    }

    fn comparing(&self) -> bool {
        self.comparing.load(Ordering::SeqCst)
    }

    /// Runs `operation` on the computing member and, when comparing, on all others, each with its own copy of the
    /// original `out`.
    fn compare_all(
        &self,
        name: &'static str,
        out: &mut BitNetTensor,
        operation: impl Fn(usize, &dyn Backend, &mut BitNetTensor) -> Result<()>,
    ) -> Result<()> {
        let driver = self.driver.load(Ordering::SeqCst);
        if !self.comparing() {
            return operation(driver, self.computing(), out);
        }
        let before = out.f32()?.to_vec();
        operation(driver, self.computing(), out)?;
        for (index, member) in self.members.iter().enumerate().filter(|&(index, _)| index != driver)
        {
            let mut theirs = BitNetTensor::from_f32(out.shape(), &before, &self.pool)?;
            operation(index, &**member, &mut theirs)?;
            self.note_difference(name, out, &theirs)?;
        }
        Ok(())
    }

    fn note_difference(
        &self,
        name: &'static str,
        expected: &BitNetTensor,
        got: &BitNetTensor,
    ) -> Result<()> {
        let width = expected.shape().last().copied().unwrap_or(1).max(1);
        let mut largest = 0f64;
        for (a, b) in expected.f32()?.chunks(width).zip(got.f32()?.chunks(width)) {
            let scale = a.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
            for (x, y) in a.iter().zip(b) {
                let difference = f64::from((x - y).abs()) / f64::from(scale);
                largest = largest.max(if difference.is_nan() { f64::INFINITY } else { difference });
            }
        }
        let mut findings = self.lock();
        let known = findings.operations.entry(name).or_default();
        *known = known.max(largest);
        Ok(())
    }

    /// Compares the integers of every member on one input.
    fn compare_integers(
        &self,
        x: &BitNetTensor,
        weight: &DifferentialWeight,
        input: &str,
    ) -> Result<()> {
        let expected = self.members[0].bit_linear_integers(x, &*weight.weights[0])?;
        for ((member, name), theirs) in
            self.members.iter().zip(&self.names).zip(&weight.weights).skip(1)
        {
            let got = member.bit_linear_integers(x, &**theirs)?;
            let compared =
                expected.activations.len() + expected.activation_scales.len() + expected.dots.len();
            let mut findings = self.lock();
            findings.integers += compared as u64;
            if let Some(what) = first_difference(&expected, &got) {
                let place = place(weight.number, weight.rows(), weight.cols());
                findings.mismatches.push(format!("{name}: {place}, {input}: {what}"));
            }
        }
        Ok(())
    }
}

impl Backend for DifferentialBackend {
    fn name(&self) -> &'static str {
        "differential"
    }

    fn describe(&self) -> String {
        format!("differential of {}", self.names.join(", "))
    }
}

impl Tensors for DifferentialBackend {}

impl Counters for DifferentialBackend {}

impl Preparation for DifferentialBackend {
    fn prepare(&self, matrix: TernaryMatrix) -> Result<Box<dyn TernaryWeight>> {
        self.prepare_by(|member| member.prepare(matrix.clone()))
    }

    fn prepare_for_sparse_input(&self, matrix: TernaryMatrix) -> Result<Box<dyn TernaryWeight>> {
        self.prepare_by(|member| member.prepare_for_sparse_input(matrix.clone()))
    }
}

impl Operations for DifferentialBackend {
    fn gate_up(
        &self,
        x: &BitNetTensor,
        precision: ActivationPrecision,
        activation: Activation,
        [gate, up]: [&dyn TernaryWeight; 2],
        out: &mut BitNetTensor,
        scratch: &mut BitNetTensor,
    ) -> Result<()> {
        let (gate, up) = (own(gate)?, own(up)?);
        if self.comparing() {
            self.compare_integers(x, gate, "the model's own input")?;
            self.compare_integers(x, up, "the model's own input")?;
        }
        let scratch = Mutex::new(scratch);
        self.compare_all("gate_up", out, |index, member, out| {
            let weights = [&*gate.weights[index], &*up.weights[index]];
            let mut scratch = scratch.lock().unwrap_or_else(PoisonError::into_inner);
            member.gate_up(x, precision, activation, weights, out, &mut scratch)
        })
    }

    fn embed(&self, table: &dyn DenseRows, tokens: &[u32], out: &mut BitNetTensor) -> Result<()> {
        self.compare_all("embed", out, |_, member, out| member.embed(table, tokens, out))
    }

    fn bit_linear(
        &self,
        x: &BitNetTensor,
        precision: ActivationPrecision,
        weights: &[&dyn TernaryWeight],
        out: &mut [&mut BitNetTensor],
    ) -> Result<()> {
        for (weight, out) in weights.iter().zip(out) {
            let weight = own(*weight)?;
            if self.comparing() {
                self.compare_integers(x, weight, "the model's own input")?;
            }
            self.compare_all("bit_linear", out, |index, member, out| {
                member.bit_linear(x, precision, &[&*weight.weights[index]], &mut [out])
            })?;
        }
        Ok(())
    }

    fn bit_linear_integers(
        &self,
        x: &BitNetTensor,
        weight: &dyn TernaryWeight,
    ) -> Result<BitLinearIntegers> {
        let driver = self.driver.load(Ordering::SeqCst);
        self.computing().bit_linear_integers(x, &*own(weight)?.weights[driver])
    }

    fn linear(
        &self,
        x: &BitNetTensor,
        weight: &dyn DenseRows,
        out: &mut BitNetTensor,
    ) -> Result<()> {
        self.compare_all("linear", out, |_, member, out| member.linear(x, weight, out))
    }

    fn top_logits(
        &self,
        _: &BitNetTensor,
        _: &dyn HeadWeight,
        _: &[LogitQuery],
    ) -> Result<Vec<TopLogits>> {
        // No head is prepared: every member computes all logits.
        Err(Error::ForeignWeight { op: "top_logits", backend: self.name() })
    }

    fn rms_norm(
        &self,
        x: &BitNetTensor,
        weight: &BitNetTensor,
        eps: f32,
        out: &mut BitNetTensor,
    ) -> Result<()> {
        self.compare_all("rms_norm", out, |_, member, out| member.rms_norm(x, weight, eps, out))
    }

    fn rope(
        &self,
        x: &mut BitNetTensor,
        head_dim: usize,
        positions: &[usize],
        table: &RopeTable,
        order: RopeOrder,
    ) -> Result<()> {
        self.compare_all("rope", x, |_, member, x| {
            member.rope(x, head_dim, positions, table, order)
        })
    }

    fn store(
        &self,
        k: &BitNetTensor,
        v: &BitNetTensor,
        cache: &mut KvCache,
        layer: usize,
        first: usize,
    ) -> Result<()> {
        // Stored keys and values are compared through attention.
        self.computing().store(k, v, cache, layer, first)
    }

    fn attention(
        &self,
        q: &BitNetTensor,
        spans: &[KvSpan<'_>],
        shape: AttentionShape,
        out: &mut BitNetTensor,
    ) -> Result<()> {
        self.compare_all("attention", out, |_, member, out| member.attention(q, spans, shape, out))
    }

    fn hadamard(
        &self,
        x: &BitNetTensor,
        rotation: &Rotation,
        direction: Direction,
        out: &mut BitNetTensor,
    ) -> Result<()> {
        self.compare_all("hadamard", out, |_, member, out| {
            member.hadamard(x, rotation, direction, out)
        })
    }

    fn causal_conv(
        &self,
        x: &BitNetTensor,
        weight: &BitNetTensor,
        spans: &mut [StateSpan<'_>],
        out: &mut BitNetTensor,
    ) -> Result<()> {
        // Each member stores the same inputs.
        let spans = Mutex::new(spans);
        self.compare_all("causal_conv", out, |_, member, out| {
            let mut spans = spans.lock().unwrap_or_else(PoisonError::into_inner);
            member.causal_conv(x, weight, &mut spans, out)
        })
    }

    fn delta_rule(
        &self,
        inputs: DeltaInputs<'_>,
        spans: &mut [StateSpan<'_>],
        out: &mut BitNetTensor,
    ) -> Result<()> {
        // Each member overwrites what another wrote for the same positions; the driver's state is to stay.
        let shared = Mutex::new(&mut *spans);
        self.compare_all("delta_rule", out, |_, member, out| {
            let mut spans = shared.lock().unwrap_or_else(PoisonError::into_inner);
            member.delta_rule(inputs, &mut spans, out)
        })?;
        if self.comparing() {
            self.computing().delta_rule(inputs, spans, out)?;
        }
        Ok(())
    }

    fn gate(
        &self,
        activation: Activation,
        gate: &mut BitNetTensor,
        up: &BitNetTensor,
    ) -> Result<()> {
        self.compare_all("gate", gate, |_, member, gate| member.gate(activation, gate, up))
    }

    fn clamped_gate(&self, limit: f32, gate: &mut BitNetTensor, up: &BitNetTensor) -> Result<()> {
        self.compare_all("clamped_gate", gate, |_, member, gate| {
            member.clamped_gate(limit, gate, up)
        })
    }

    fn weighted_sum(
        &self,
        x: &BitNetTensor,
        weights: &[f32],
        out: &mut BitNetTensor,
    ) -> Result<()> {
        self.compare_all("weighted_sum", out, |_, member, out| member.weighted_sum(x, weights, out))
    }

    fn add(&self, x: &mut BitNetTensor, y: &BitNetTensor) -> Result<()> {
        self.compare_all("add", x, |_, member, x| member.add(x, y))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bitnet_core::ternary::ScaleGranularity;

    /// Returns a matrix with `trit` at row 1, column 3.
    fn matrix(trit: i8) -> TernaryMatrix {
        let mut trits: Vec<i8> = (0..4 * 64).map(|i| (i * 7 % 3) as i8 - 1).collect();
        trits[64 + 3] = trit;
        TernaryMatrix::from_trits(4, 64, &trits, ScaleGranularity::Tensor, vec![0.5]).unwrap()
    }

    #[test]
    fn all_levels_agree() {
        let backend = DifferentialBackend::new(&IsaLevel::available(), Some(2)).unwrap();
        backend.prepare(matrix(1)).unwrap();
        let findings = backend.findings();
        assert_eq!(findings.mismatches, Vec::<String>::new());
        assert_eq!(findings.matrices, 1);
        let each = 2 * 64 + 2 + 2 * 4;
        assert_eq!(findings.integers, (each * IsaLevel::available().len()) as u64);
    }

    #[test]
    fn differing_trit_is_reported() {
        let backend = DifferentialBackend::new(&[IsaLevel::Scalar], Some(1)).unwrap();
        let mut weights = vec![backend.members[0].prepare(matrix(1)).unwrap()];
        weights.push(backend.members[1].prepare(matrix(-1)).unwrap());
        let weight = DifferentialWeight { number: 8, weights };
        let x = fixed_input(64, &backend.pool).unwrap();
        let mut out = BitNetTensor::zeros(&[2, 4], &backend.pool).unwrap();
        backend.drive(0, true);
        backend.bit_linear(&x, ActivationPrecision::Int8, &[&weight], &mut [&mut out]).unwrap();
        let findings = backend.findings();
        assert!(findings.operations["bit_linear"] > OPERATION_BOUND, "{findings:?}");
        let message = findings.mismatches.concat();
        for word in ["cpu scalar", "blk.1.attn_k", "dot product 1 "] {
            assert!(message.contains(word), "{message}");
        }
    }

    #[test]
    fn nan_outputs_exceed_every_bound() {
        let backend = DifferentialBackend::new(&[], None).unwrap();
        let good = BitNetTensor::from_f32(&[1, 2], &[1.0, 2.0], &backend.pool).unwrap();
        let bad = BitNetTensor::from_f32(&[1, 2], &[1.0, f32::NAN], &backend.pool).unwrap();
        backend.note_difference("linear", &good, &bad).unwrap();
        assert_eq!(backend.findings().operations["linear"], f64::INFINITY);
    }
}
