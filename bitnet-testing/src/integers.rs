//! Random ternary layers: integers and results equal the reference's, bit for bit.

use crate::{Numbers, bits};
use bitnet_core::backend::{ActivationPrecision, Backend, BitLinearIntegers};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::reference::ReferenceBackend;
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};
use proptest::prelude::*;

/// A ternary layer with its input and what the reference computes.
#[derive(Debug, Clone)]
pub struct IntegerCase {
    matrix: TernaryMatrix,
    tokens: usize,
    values: Vec<f32>,
}

impl IntegerCase {
    /// Generates layers of up to 40 rows and 3000 columns with up to 59 tokens; half of them have every product at its
    /// extreme.
    pub fn strategy() -> impl Strategy<Value = Self> {
        (granularity(), 1usize..40, 0usize..60, any::<bool>(), any::<u64>())
            .prop_map(|((granularity, cols), rows, tokens, extreme, seed)| {
                Self::new((rows, cols, tokens), granularity, extreme, seed)
            })
            .no_shrink()
    }

    fn new(
        (rows, cols, tokens): (usize, usize, usize),
        granularity: ScaleGranularity,
        extreme: bool,
        seed: u64,
    ) -> Self {
        let mut numbers = Numbers::new(seed);
        let mut values = numbers.floats(tokens * cols);
        let mut matrix = numbers.matrix(rows, cols, granularity);
        if extreme {
            values.fill(if seed.is_multiple_of(2) { 1.0 } else { -1.0 });
            let (trits, scales) = (vec![1; rows * cols], matrix.scales().to_vec());
            matrix = TernaryMatrix::from_trits(rows, cols, &trits, granularity, scales).unwrap();
        }
        Self { matrix, tokens, values }
    }

    /// Computes the layer on one back end: its integers, and the bits of its results.
    ///
    /// # Panics
    /// If an operation fails.
    pub fn run(&self, backend: &dyn Backend) -> (BitLinearIntegers, Vec<u32>) {
        let pool = HybridMemoryPool::new().unwrap();
        let shape = [self.tokens, self.matrix.cols()];
        let x = BitNetTensor::from_f32(&shape, &self.values, &pool).unwrap();
        let weight = backend.prepare(self.matrix.clone()).unwrap();
        let integers = backend.bit_linear_integers(&x, &*weight).unwrap();
        let mut out = BitNetTensor::zeros(&[self.tokens, self.matrix.rows()], &pool).unwrap();
        let precision = ActivationPrecision::Int8;
        backend.bit_linear(&x, precision, &[&*weight], &mut [&mut out]).unwrap();
        (integers, bits(&out))
    }

    /// As [`IntegerCase::run`], on the reference.
    ///
    /// # Panics
    /// If an operation fails.
    pub fn expected(&self) -> (BitLinearIntegers, Vec<u32>) {
        self.run(&ReferenceBackend)
    }
}

fn granularity() -> impl Strategy<Value = (ScaleGranularity, usize)> {
    let any_width = prop_oneof![Just(ScaleGranularity::Tensor), Just(ScaleGranularity::Row)];
    let group = prop_oneof![Just(64usize), Just(128), Just(192), Just(256), Just(320)];
    prop_oneof![
        (any_width, 1usize..3000),
        (group, 1usize..9).prop_map(|(n, times)| (ScaleGranularity::Group(n), n * times)),
    ]
}
