//! BitLinear on every instruction set that the processor has: the same bits on each, and the integers of the oracle.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

use std::sync::Arc;

use bitnet_core::backend::Backend;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::reference::ReferenceBackend;
use bitnet_core::simd::IsaLevel;
use bitnet_cpu::{CpuBackend, CpuOptions};
use bitnet_quant::bit_linear::BitLinear;
use bitnet_quant::quantizer::{Absmean, Quantizer, Sign};

#[test]
fn every_level_gives_the_bits_of_the_reference() {
    let pool = HybridMemoryPool::new().unwrap();
    // Sizes that are no multiple of a vector, and one that is.
    for (tokens, input, out) in [(1, 37, 5), (3, 256, 64), (17, 1000, 33)] {
        let x = BitNetTensor::normal(&[tokens, input], 0.0, 2.0, 1, &pool).unwrap();
        let latent = BitNetTensor::normal(&[out, input], 0.01, 0.5, 2, &pool).unwrap();
        let bias = BitNetTensor::normal(&[out], 0.0, 1.0, 3, &pool).unwrap();
        let layer = |rule: &Arc<dyn Quantizer>, backend: Arc<dyn Backend>| {
            let layer = BitLinear::new(latent.clone(), Arc::clone(rule), backend).unwrap();
            layer.with_bias(bias.clone()).unwrap()
        };
        let rules: [Arc<dyn Quantizer>; 2] = [Arc::new(Absmean), Arc::new(Sign)];
        for rule in &rules {
            let oracle: Arc<dyn Backend> = Arc::new(ReferenceBackend);
            let expected = layer(rule, Arc::clone(&oracle));
            let bits = |y: &BitNetTensor| -> Vec<u32> {
                y.f32().unwrap().iter().map(|v| v.to_bits()).collect()
            };
            let y = bits(&expected.forward(&x, &pool).unwrap());
            let weight = oracle.prepare(expected.quantized().clone()).unwrap();
            let integers = oracle.bit_linear_integers(&x, &*weight).unwrap();
            for isa in IsaLevel::available() {
                let backend =
                    CpuBackend::new(CpuOptions { threads: Some(2), isa: Some(isa) }).unwrap();
                let backend: Arc<dyn Backend> = Arc::new(backend);
                let layer = layer(rule, Arc::clone(&backend));
                assert_eq!(layer.quantized(), expected.quantized());
                assert_eq!(bits(&layer.forward(&x, &pool).unwrap()), y, "{isa:?} {rule:?} {input}");
                let weight = backend.prepare(layer.quantized().clone()).unwrap();
                assert_eq!(
                    backend.bit_linear_integers(&x, &*weight).unwrap(),
                    integers,
                    "{isa:?} {rule:?}"
                );
            }
        }
    }
}
