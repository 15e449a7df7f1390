//! Tensors made from a rule: one number everywhere, a ladder of numbers, random ones.

use super::BitNetTensor;
use crate::memory::HybridMemoryPool;
use crate::rng::SplitMix64;
use crate::{Error, Result};

impl BitNetTensor {
    /// An f32 tensor of ones, in the pool.
    ///
    /// # Errors
    /// As [`BitNetTensor::new`].
    #[track_caller]
    pub fn ones(shape: &[usize], pool: &HybridMemoryPool) -> Result<Self> {
        Self::full(shape, 1.0, pool)
    }

    /// An f32 tensor that holds `value` everywhere, in the pool. With the shape `[]` it is a single number.
    ///
    /// # Errors
    /// As [`BitNetTensor::new`].
    #[track_caller]
    pub fn full(shape: &[usize], value: f32, pool: &HybridMemoryPool) -> Result<Self> {
        let mut out = Self::scratch(shape, pool)?;
        out.f32_mut()?.fill(value);
        Ok(out)
    }

    /// The f32 numbers `start + i * step` below `end` (above it for a negative step), computed in f64 and rounded
    /// once: `[ceil((end - start) / step)]`, in the pool.
    ///
    /// # Errors
    /// [`Error::BadArgument`] if the step is 0 or a bound is not finite; as [`BitNetTensor::new`].
    #[track_caller]
    pub fn arange(start: f32, end: f32, step: f32, pool: &HybridMemoryPool) -> Result<Self> {
        let (start, end, step) = (f64::from(start), f64::from(end), f64::from(step));
        let count = ((end - start) / step).ceil();
        if !count.is_finite() {
            return Err(Error::BadArgument {
                op: "arange",
                what: "the range",
                value: format!("{start}..{end} by {step}"),
                expected: "the bounds must be finite and the step must not be 0",
            });
        }
        let mut out = Self::scratch(&[count.max(0.0) as usize], pool)?;
        for (i, out) in out.f32_mut()?.iter_mut().enumerate() {
            *out = (start + i as f64 * step) as f32;
        }
        Ok(out)
    }

    /// f32 numbers drawn evenly from `low..high`, in the pool. The same seed gives the same numbers everywhere.
    ///
    /// # Errors
    /// [`Error::BadArgument`] unless `low < high` and both are finite; as [`BitNetTensor::new`].
    pub fn uniform(
        shape: &[usize],
        low: f32,
        high: f32,
        seed: u64,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        if !(low.is_finite() && high.is_finite() && low < high) {
            return Err(Error::BadArgument {
                op: "uniform",
                what: "the range",
                value: format!("{low}..{high}"),
                expected: "both bounds must be finite, the first below the second",
            });
        }
        let mut random = SplitMix64::new(seed);
        let (from, width) = (f64::from(low), f64::from(high) - f64::from(low));
        let mut out = Self::scratch(shape, pool)?;
        for out in out.f32_mut()? {
            // Rounding to f32 may reach the upper bound, which does not belong to the range.
            *out = ((from + width * random.unit()) as f32).min(high.next_down());
        }
        Ok(out)
    }

    /// f32 numbers drawn from the normal distribution, in the pool. The same seed gives the same numbers on every
    /// machine whose `ln`, `sin` and `cos` of f64 agree.
    ///
    /// ```
    /// use bitnet_core::memory::HybridMemoryPool;
    /// use bitnet_core::memory::tensor::BitNetTensor;
    ///
    /// let pool = HybridMemoryPool::new()?;
    /// let weights = BitNetTensor::normal(&[64, 32], 0.0, 0.02, 7, &pool)?;
    /// assert!(weights.f32()?.iter().all(|w| w.abs() < 0.2));
    /// # Ok::<(), bitnet_core::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::BadArgument`] if the mean is not finite or the deviation is negative or not finite; as
    /// [`BitNetTensor::new`].
    pub fn normal(
        shape: &[usize],
        mean: f32,
        deviation: f32,
        seed: u64,
        pool: &HybridMemoryPool,
    ) -> Result<Self> {
        if !(mean.is_finite() && deviation.is_finite() && deviation >= 0.0) {
            return Err(Error::BadArgument {
                op: "normal",
                what: "the mean and the deviation",
                value: format!("{mean}, {deviation}"),
                expected: "both must be finite and the deviation at least 0",
            });
        }
        let mut random = SplitMix64::new(seed);
        let mut out = Self::scratch(shape, pool)?;
        for pair in out.f32_mut()?.chunks_mut(2) {
            let both = random.normal_pair();
            for (out, z) in pair.iter_mut().zip(both) {
                *out = (f64::from(mean) + f64::from(deviation) * z) as f32;
            }
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::memory::tensor::{BitNetDType, CastRule};

    fn pool() -> HybridMemoryPool {
        HybridMemoryPool::new().unwrap()
    }

    #[test]
    fn ranges_have_their_ends_and_bad_ones_are_refused() {
        let pool = pool();
        let ladder = |a, b, step| BitNetTensor::arange(a, b, step, &pool);
        assert_eq!(ladder(1.0, 2.0, 0.25).unwrap().f32().unwrap(), [1.0, 1.25, 1.5, 1.75]);
        assert_eq!(ladder(3.0, 0.0, -2.0).unwrap().f32().unwrap(), [3.0, 1.0]);
        assert_eq!(ladder(3.0, 0.0, 2.0).unwrap().shape(), [0]);
        for (a, b, step) in [(0.0, 1.0, 0.0), (0.0, f32::INFINITY, 1.0), (f32::NAN, 1.0, 1.0)] {
            assert!(matches!(ladder(a, b, step), Err(Error::BadArgument { .. })));
        }
        assert!(ladder(0.0, 1e38, 1e-38).is_err(), "too many to allocate");
    }

    #[test]
    fn random_numbers_have_their_moments_and_repeat_with_their_seed() {
        let pool = pool();
        let n = 1 << 16;
        let moments = |t: &BitNetTensor| {
            let x = t.f32().unwrap();
            let mean = x.iter().map(|&x| f64::from(x)).sum::<f64>() / n as f64;
            let var = x.iter().map(|&x| (f64::from(x) - mean).powi(2)).sum::<f64>() / n as f64;
            (mean, var)
        };
        let u = BitNetTensor::uniform(&[n], -1.0, 3.0, 1, &pool).unwrap();
        assert!(u.f32().unwrap().iter().all(|x| (-1.0..3.0).contains(x)));
        let (mean, var) = moments(&u);
        // Five standard errors of 65536 draws.
        assert!((mean - 1.0).abs() < 0.023 && (var - 16.0 / 12.0).abs() < 0.024, "{mean} {var}");
        let z = BitNetTensor::normal(&[n], 2.0, 3.0, 1, &pool).unwrap();
        let (mean, var) = moments(&z);
        assert!((mean - 2.0).abs() < 0.06 && (var - 9.0).abs() < 0.25, "{mean} {var}");
        let same = BitNetTensor::normal(&[n], 2.0, 3.0, 1, &pool).unwrap();
        let other = BitNetTensor::normal(&[n], 2.0, 3.0, 2, &pool).unwrap();
        assert_eq!(z.f32(), same.f32());
        assert_ne!(z.f32(), other.f32());
        assert!(BitNetTensor::uniform(&[1], 1.0, 1.0, 1, &pool).is_err());
        assert!(BitNetTensor::normal(&[1], 1.0, -1.0, 1, &pool).is_err());
    }

    #[test]
    fn full_tensors_hold_one_number_in_every_type() {
        let pool = pool();
        for dtype in [BitNetDType::F16, BitNetDType::I4, BitNetDType::I1, BitNetDType::BitNet158] {
            let ones = BitNetTensor::ones(&[3, 3], &pool).unwrap();
            let ones = ones.cast(dtype, CastRule::Checked, &pool).unwrap();
            assert_eq!(ones.to_f32(&pool).unwrap().f32().unwrap(), [1.0; 9], "{dtype}");
        }
        let nine = BitNetTensor::full(&[1], 9.0, &pool).unwrap();
        let refused = nine.cast(BitNetDType::I4, CastRule::Checked, &pool);
        assert!(matches!(refused, Err(Error::NotRepresentable { .. })));
    }
}
