//! A back end whose memory the host cannot read, as that of a GPU:
//! the reference's arithmetic on tensors and pages of its own.

use std::any::Any;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bitnet_core::backend::dense::DenseRows;
use bitnet_core::backend::top_logits::{Guarantee, HeadWeight, LogitQuery, TopLogits};
use bitnet_core::backend::{
    Activation, ActivationPrecision, AttentionShape, Backend, BitLinearIntegers, Counters,
    DeltaInputs, Direction, Operations, Preparation, RopeOrder, RopeTable, Rotation, Tensors,
    TernaryWeight,
};
use bitnet_core::device::Device;
use bitnet_core::kv::{KV_PAGE, KvCache, KvPages, KvShape, KvSpan, StateSpan};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::{BitNetDType, BitNetTensor, DeviceBytes, TensorMetadata};
use bitnet_core::reference::ReferenceBackend;
use bitnet_core::ternary::TernaryMatrix;
use bitnet_core::{Error, Result};

/// The reference with memory of a device. What works with it reads results through
/// [`to_host`](Tensors::to_host) alone.
#[derive(Debug)]
pub struct DeviceBackend {
    reference: ReferenceBackend,
    pool: HybridMemoryPool,
    to_host: AtomicUsize,
    unprepared: AtomicUsize,
}

/// A dense matrix that was taken to the device.
#[derive(Debug)]
struct DenseWeight(Arc<dyn DenseRows>);

impl DenseRows for DenseWeight {
    fn rows(&self) -> usize {
        self.0.rows()
    }

    fn cols(&self) -> usize {
        self.0.cols()
    }

    fn type_name(&self) -> &'static str {
        self.0.type_name()
    }

    fn bytes(&self) -> usize {
        self.0.bytes()
    }

    fn decode_row(&self, row: usize, out: &mut [f32]) -> Result<()> {
        self.0.decode_row(row, out)
    }

    fn prepared(&self) -> Option<&dyn Any> {
        Some(self)
    }
}

/// Numbers on the device.
#[derive(Debug)]
struct Numbers(Vec<f32>);

impl DeviceBytes for Numbers {
    fn size(&self) -> usize {
        size_of_val(&*self.0)
    }
}

/// A page of a cache on the device: a cache of 64 positions.
#[derive(Debug)]
struct Page(KvCache);

impl DeviceBytes for Page {
    fn size(&self) -> usize {
        self.0.page_bytes()
    }
}

/// The memory for pages.
#[derive(Debug)]
struct Pages(HybridMemoryPool);

fn page(memory: &dyn DeviceBytes) -> &KvCache {
    let memory: &dyn Any = memory;
    &memory.downcast_ref::<Page>().expect("a page of this device").0
}

fn copy_heads(from: &KvCache, page: usize, to: &mut KvCache, to_page: usize) -> Result<()> {
    for layer in 0..from.layers() {
        for head in 0..from.kv_heads() {
            let from = from.head(layer, head, page).expect("a head of the page");
            let to = to.head_mut(layer, head, to_page)?;
            to.k.copy_from_slice(from.k);
            to.v.copy_from_slice(from.v);
            to.k_scales.copy_from_slice(from.k_scales);
            to.v_scales.copy_from_slice(from.v_scales);
        }
    }
    Ok(())
}

impl KvPages for Pages {
    fn page(&self, shape: &KvShape) -> Result<Box<dyn DeviceBytes>> {
        let mut cache = KvCache::new(*shape, KV_PAGE, &self.0)?;
        cache.reserve(KV_PAGE)?;
        Ok(Box::new(Page(cache)))
    }

    fn copy(&self, memory: &dyn DeviceBytes) -> Result<Box<dyn DeviceBytes>> {
        let from = page(memory);
        let mut cache = KvCache::new(from.shape(), KV_PAGE, &self.0)?;
        cache.reserve(KV_PAGE)?;
        copy_heads(from, 0, &mut cache, 0)?;
        Ok(Box::new(Page(cache)))
    }
}

impl Default for DeviceBackend {
    fn default() -> Self {
        let (to_host, unprepared) = (AtomicUsize::new(0), AtomicUsize::new(0));
        Self { reference: ReferenceBackend, pool: crate::pool(), to_host, unprepared }
    }
}

impl DeviceBackend {
    /// Returns the number of numbers that were copied to the host, and sets it to 0.
    pub fn take_copied(&self) -> usize {
        self.to_host.swap(0, Ordering::Relaxed)
    }

    /// Returns the number of operations that read a dense matrix on the host.
    pub fn unprepared(&self) -> usize {
        self.unprepared.load(Ordering::Relaxed)
    }

    fn count_unprepared(&self, rows: &dyn DenseRows) {
        let is_ours = rows.prepared().is_some_and(|rows| rows.is::<DenseWeight>());
        self.unprepared.fetch_add(usize::from(!is_ours), Ordering::Relaxed);
    }

    fn on_device(&self, shape: &[usize], numbers: Vec<f32>) -> Result<BitNetTensor> {
        let metadata = TensorMetadata::new(shape.to_vec(), BitNetDType::F32, Device::Cpu);
        BitNetTensor::from_device(metadata, Arc::new(Numbers(numbers)))
    }

    /// Returns an operand where the reference can read it.
    fn read(&self, x: &BitNetTensor) -> Result<BitNetTensor> {
        let Some((memory, bytes)) = x.device_bytes()? else { return Ok(x.clone()) };
        let memory: &dyn Any = memory;
        let numbers = &memory.downcast_ref::<Numbers>().expect("a tensor of this device").0;
        BitNetTensor::from_f32(x.shape(), &numbers[bytes.start / 4..bytes.end / 4], &self.pool)
    }

    /// Runs an operation on a copy of `out`, and writes the result there.
    fn update(
        &self,
        out: &mut BitNetTensor,
        operation: impl FnOnce(&mut BitNetTensor) -> Result<()>,
    ) -> Result<()> {
        let before = self.read(out)?;
        let mut host = BitNetTensor::from_f32(out.shape(), before.f32()?, &self.pool)?;
        drop(before);
        operation(&mut host)?;
        write(out, &host)
    }
}

fn write(out: &mut BitNetTensor, host: &BitNetTensor) -> Result<()> {
    match out.device_bytes_mut()? {
        Some((memory, bytes)) => {
            let memory: &mut dyn Any = memory;
            let numbers = memory.downcast_mut::<Numbers>().expect("a tensor of this device");
            numbers.0[bytes.start / 4..bytes.end / 4].copy_from_slice(host.f32()?);
        }
        None => out.f32_mut()?.copy_from_slice(host.f32()?),
    }
    Ok(())
}

impl Backend for DeviceBackend {
    fn name(&self) -> &'static str {
        "device"
    }

    fn describe(&self) -> String {
        "device memory, computed by the reference".into()
    }
}

impl Counters for DeviceBackend {}

impl Tensors for DeviceBackend {
    fn tensor(&self, shape: &[usize], _: &HybridMemoryPool) -> Result<BitNetTensor> {
        self.on_device(shape, vec![f32::NAN; shape.iter().product()])
    }

    fn to_device(&self, x: BitNetTensor) -> Result<BitNetTensor> {
        self.on_device(x.shape(), x.f32()?.to_vec())
    }

    fn to_host(&self, x: BitNetTensor, pool: &HybridMemoryPool) -> Result<BitNetTensor> {
        self.to_host.fetch_add(x.shape().iter().product(), Ordering::Relaxed);
        BitNetTensor::from_f32(x.shape(), self.read(&x)?.f32()?, pool)
    }

    fn rows(
        &self,
        rows: &[(&BitNetTensor, usize)],
        pool: &HybridMemoryPool,
    ) -> Result<BitNetTensor> {
        let host = rows.iter().map(|(x, _)| self.read(x)).collect::<Result<Vec<_>>>()?;
        let rows: Vec<_> = host.iter().zip(rows).map(|(host, (_, row))| (host, *row)).collect();
        let copied = self.reference.rows(&rows, pool)?;
        self.on_device(copied.shape(), copied.f32()?.to_vec())
    }

    fn kv_cache(
        &self,
        shape: KvShape,
        capacity: usize,
        pool: &HybridMemoryPool,
    ) -> Result<KvCache> {
        KvCache::on_device(shape, capacity, Arc::new(Pages(pool.clone())))
    }
}

impl Preparation for DeviceBackend {
    fn prepare(&self, matrix: TernaryMatrix) -> Result<Box<dyn TernaryWeight>> {
        self.reference.prepare(matrix)
    }

    fn prepare_dense(&self, rows: Arc<dyn DenseRows>) -> Result<Arc<dyn DenseRows>> {
        Ok(Arc::new(DenseWeight(rows)))
    }

    fn prepare_head(
        &self,
        rows: Arc<dyn DenseRows>,
        guarantee: Guarantee,
    ) -> Result<Option<Box<dyn HeadWeight>>> {
        self.reference.prepare_head(rows, guarantee)
    }
}

impl Operations for DeviceBackend {
    fn embed(&self, table: &dyn DenseRows, tokens: &[u32], out: &mut BitNetTensor) -> Result<()> {
        self.count_unprepared(table);
        self.update(out, |out| self.reference.embed(table, tokens, out))
    }

    fn bit_linear(
        &self,
        x: &BitNetTensor,
        precision: ActivationPrecision,
        weights: &[&dyn TernaryWeight],
        out: &mut [&mut BitNetTensor],
    ) -> Result<()> {
        let zeros = |out: &&mut BitNetTensor| BitNetTensor::zeros(out.shape(), &self.pool);
        let mut host = out.iter().map(zeros).collect::<Result<Vec<_>>>()?;
        let mut results: Vec<&mut BitNetTensor> = host.iter_mut().collect();
        self.reference.bit_linear(&self.read(x)?, precision, weights, &mut results)?;
        out.iter_mut().zip(&host).try_for_each(|(out, host)| write(out, host))
    }

    fn bit_linear_integers(
        &self,
        x: &BitNetTensor,
        weight: &dyn TernaryWeight,
    ) -> Result<BitLinearIntegers> {
        self.reference.bit_linear_integers(&self.read(x)?, weight)
    }

    fn linear(
        &self,
        x: &BitNetTensor,
        weight: &dyn DenseRows,
        out: &mut BitNetTensor,
    ) -> Result<()> {
        self.count_unprepared(weight);
        self.update(out, |out| self.reference.linear(&self.read(x)?, weight, out))
    }

    fn top_logits(
        &self,
        x: &BitNetTensor,
        head: &dyn HeadWeight,
        queries: &[LogitQuery],
    ) -> Result<Vec<TopLogits>> {
        self.reference.top_logits(&self.read(x)?, head, queries)
    }

    fn rms_norm(
        &self,
        x: &BitNetTensor,
        weight: &BitNetTensor,
        eps: f32,
        out: &mut BitNetTensor,
    ) -> Result<()> {
        let (x, weight) = (self.read(x)?, self.read(weight)?);
        self.update(out, |out| self.reference.rms_norm(&x, &weight, eps, out))
    }

    fn rope(
        &self,
        x: &mut BitNetTensor,
        head_dim: usize,
        positions: &[usize],
        table: &RopeTable,
        order: RopeOrder,
    ) -> Result<()> {
        self.update(x, |x| self.reference.rope(x, head_dim, positions, table, order))
    }

    fn store(
        &self,
        k: &BitNetTensor,
        v: &BitNetTensor,
        cache: &mut KvCache,
        layer: usize,
        first: usize,
    ) -> Result<()> {
        let (k, v) = (self.read(k)?, self.read(v)?);
        if cache.device_page(0).is_none() {
            return self.reference.store(&k, &v, cache, layer, first);
        }
        let end = first + k.shape()[0];
        let mut at = first;
        while at < end {
            let next = (at / KV_PAGE + 1).saturating_mul(KV_PAGE).min(end);
            let rows = at - first..next - first;
            let missing = Error::OutOfRange { op: "store", index: at, len: cache.reserved() };
            let memory: &mut dyn Any = cache.device_page_mut(at / KV_PAGE)?.ok_or(missing)?;
            let page = memory.downcast_mut::<Page>().expect("a page of this device");
            let (k, v) = (k.narrow(0, rows.clone())?, v.narrow(0, rows)?);
            self.reference.store(&k, &v, &mut page.0, layer, at % KV_PAGE)?;
            at = next;
        }
        Ok(())
    }

    fn attention(
        &self,
        q: &BitNetTensor,
        spans: &[KvSpan<'_>],
        shape: AttentionShape,
        out: &mut BitNetTensor,
    ) -> Result<()> {
        let mut caches = Vec::with_capacity(spans.len());
        for span in spans.iter().filter(|span| span.cache.device_page(0).is_some()) {
            let mut cache = KvCache::new(span.cache.shape(), span.cache.capacity(), &self.pool)?;
            cache.reserve(span.cache.reserved())?;
            for index in 0..span.cache.reserved().div_ceil(KV_PAGE) {
                let memory = span.cache.device_page(index).expect("all pages are on the device");
                copy_heads(page(memory), 0, &mut cache, index)?;
            }
            caches.push(cache);
        }
        let mut copies = caches.iter();
        let spans: Vec<KvSpan<'_>> = spans
            .iter()
            .map(|span| match span.cache.device_page(0) {
                Some(_) => KvSpan { cache: copies.next().expect("one for each"), ..*span },
                None => *span,
            })
            .collect();
        let q = self.read(q)?;
        self.update(out, |out| self.reference.attention(&q, &spans, shape, out))
    }

    fn hadamard(
        &self,
        x: &BitNetTensor,
        rotation: &Rotation,
        direction: Direction,
        out: &mut BitNetTensor,
    ) -> Result<()> {
        let x = self.read(x)?;
        self.update(out, |out| self.reference.hadamard(&x, rotation, direction, out))
    }

    fn causal_conv(
        &self,
        x: &BitNetTensor,
        weight: &BitNetTensor,
        spans: &mut [StateSpan<'_>],
        out: &mut BitNetTensor,
    ) -> Result<()> {
        let (x, weight) = (self.read(x)?, self.read(weight)?);
        self.update(out, |out| self.reference.causal_conv(&x, &weight, spans, out))
    }

    fn delta_rule(
        &self,
        inputs: DeltaInputs<'_>,
        spans: &mut [StateSpan<'_>],
        out: &mut BitNetTensor,
    ) -> Result<()> {
        let [qkv, step, write] = [inputs.qkv, inputs.step, inputs.write].map(|x| self.read(x));
        let [rate, step_bias] = [inputs.rate, inputs.step_bias].map(|x| self.read(x));
        let (qkv, step, write) = (&qkv?, &step?, &write?);
        let (rate, step_bias) = (&rate?, &step_bias?);
        let inputs = DeltaInputs { qkv, step, write, rate, step_bias, order: inputs.order };
        self.update(out, |out| self.reference.delta_rule(inputs, spans, out))
    }

    fn gate(
        &self,
        activation: Activation,
        gate: &mut BitNetTensor,
        up: &BitNetTensor,
    ) -> Result<()> {
        let up = self.read(up)?;
        self.update(gate, |gate| self.reference.gate(activation, gate, &up))
    }

    fn clamped_gate(&self, limit: f32, gate: &mut BitNetTensor, up: &BitNetTensor) -> Result<()> {
        let up = self.read(up)?;
        self.update(gate, |gate| self.reference.clamped_gate(limit, gate, &up))
    }

    fn weighted_sum(
        &self,
        x: &BitNetTensor,
        weights: &[f32],
        out: &mut BitNetTensor,
    ) -> Result<()> {
        let x = self.read(x)?;
        self.update(out, |out| self.reference.weighted_sum(&x, weights, out))
    }

    fn add(&self, x: &mut BitNetTensor, y: &BitNetTensor) -> Result<()> {
        let y = self.read(y)?;
        self.update(x, |x| self.reference.add(x, &y))
    }
}
