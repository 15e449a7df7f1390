//! Absmean quantisation of full-precision weights, and detection of weights that are already ternary.

pub use crate::dequantize::dequantize_row;
pub use crate::detect::detect_ternary;

use crate::Result;
use crate::loss::{LossMeter, Threshold};
use crate::quantizer::Absmean;
use crate::stored::Stored;
use crate::ternarize::{Rule, Wanted, ternarize};
use bitnet_core::dense::DenseRows;
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::simd;
use bitnet_core::ternary::{ScaleGranularity, TernaryMatrix};

/// Absmean quantisation (BitNet b1.58) with one scale per matrix,
/// row or group of a row. The weights are in `pool`, if any.
///
/// `s = 1 / max(1e-5, mean|W|)`, `trit = clamp(round_half_even(W * s), -1, 1)`, weight `= trit * (1 / s)`, all in f32;
/// the mean is accumulated in f64, so that its rounding does not depend on the shape. The rows are read twice; plain
/// floats are read in place, other types are decoded one row at a time.
///
/// Weights that are already ternary would change their scale: call [`detect_ternary`] first.
///
/// # Errors
/// [`crate::Error::EmptyShape`], [`crate::Error::BadNumber`] for a weight that is NaN or infinite,
/// [`crate::Error::Core`] if the group size does not divide the columns, and errors of reading `weights`.
pub fn absmean(
    weights: &dyn DenseRows,
    granularity: ScaleGranularity,
    pool: Option<&HybridMemoryPool>,
) -> Result<TernaryMatrix> {
    Ok(ternarize(weights, &Absmean, wanted(granularity, pool, false)?)?.0)
}

/// Like [`absmean`], with the quantisation error. `stored` maps a scale to its value in a storage type that rounds
/// scales: the trits use the exact scale, matrix and error the stored one.
///
/// ```
/// use bitnet_core::ternary::ScaleGranularity;
/// use bitnet_quant::codec::dense::{DenseMatrix, DenseType};
/// use bitnet_quant::weights::absmean_measured;
///
/// let bytes: Vec<u8> = [0.5f32, -1.5, 0.1, 1.0].iter().flat_map(|w| w.to_le_bytes()).collect();
/// let weights = DenseMatrix::new(DenseType::F32, 2, 2, bytes)?;
/// let exact = |scale| scale;
/// let (trits, meter) = absmean_measured(&weights, ScaleGranularity::Tensor, &exact, None)?;
/// let loss = meter.loss();
/// assert_eq!(trits.to_trits(), [1, -1, 0, 1]);
/// assert!(loss.sqnr_db > 7.0 && loss.sparsity == 0.25);
/// # Ok::<(), bitnet_quant::Error>(())
/// ```
///
/// # Errors
/// Same as [`absmean`].
pub fn absmean_measured(
    weights: &dyn DenseRows,
    granularity: ScaleGranularity,
    stored: &(dyn Fn(f32) -> f32 + Sync),
    pool: Option<&HybridMemoryPool>,
) -> Result<(TernaryMatrix, LossMeter)> {
    ternarize(weights, &ForStorage(stored), wanted(granularity, pool, true)?)
}

/// [`Absmean`] with the rounded scales of a storage type.
struct ForStorage<'a>(&'a (dyn Fn(f32) -> f32 + Sync));

impl Rule for ForStorage<'_> {
    type Tally = <Absmean as Rule>::Tally;
    type Cut = Threshold;

    const NAME: &'static str = Absmean::NAME;

    #[inline(always)]
    fn add<S: Stored>(&self, tally: &mut Self::Tally, weights: &[S::Raw]) -> bool {
        Absmean.add::<S>(tally, weights)
    }

    #[inline(always)]
    fn cut(&self, tally: Self::Tally, count: usize) -> Threshold {
        let exact = Absmean.cut(tally, count);
        Threshold { scale: (self.0)(exact.scale), ..exact }
    }
}

fn wanted(
    granularity: ScaleGranularity,
    pool: Option<&HybridMemoryPool>,
    measured: bool,
) -> Result<Wanted<'_>> {
    Ok(Wanted { granularity, pool, threads: 1, level: simd::active()?, measured })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::dense::{DenseMatrix, DenseType};
    use crate::loss::loss_of_trits;
    use bitnet_core::rng::SplitMix64;
    use bitnet_core::simd::IsaLevel;
    use half::{bf16, f16};

    #[test]
    fn all_f16_and_bf16_values_match_the_formula() {
        for dtype in [DenseType::F16, DenseType::BF16] {
            let value = |bits: u16| match dtype {
                DenseType::F16 => f16::from_bits(bits).to_f32(),
                _ => bf16::from_bits(bits).to_f32(),
            };
            let finite: Vec<u16> = (0..=u16::MAX).filter(|&b| value(b).is_finite()).collect();
            let bytes: Vec<u8> = finite.iter().flat_map(|b| b.to_le_bytes()).collect();
            let matrix = DenseMatrix::new(dtype, finite.len() / 256, 256, bytes).unwrap();
            let trits = absmean(&matrix, ScaleGranularity::Row, None).unwrap();
            let all = trits.to_trits();
            for (row, bits) in finite.chunks(256).enumerate() {
                let sum: f64 = bits.iter().map(|&b| f64::from(value(b).abs())).sum();
                let s = 1.0 / ((sum / 256.0) as f32).max(1e-5);
                for (&bits, &trit) in bits.iter().zip(&all[row * 256..]) {
                    let expected = (value(bits) * s).round_ties_even().clamp(-1.0, 1.0);
                    assert_eq!(f32::from(trit), expected, "{dtype:?} {bits:#x}");
                }
            }
        }
    }

    fn stored(dtype: DenseType, rows: usize, cols: usize) -> DenseMatrix<Vec<u8>> {
        let mut random = SplitMix64::new(7);
        let mut bytes = Vec::new();
        for row in 0..rows {
            let values: Vec<f32> =
                (0..cols).map(|_| random.normal_pair()[0] as f32 * 0.02).collect();
            crate::codec::dense::encode_row(dtype, row, &values, &mut bytes).unwrap();
        }
        DenseMatrix::new(dtype, rows, cols, bytes).unwrap()
    }

    #[test]
    fn all_levels_and_access_paths_give_equal_bits() {
        for dtype in [DenseType::F32, DenseType::F16, DenseType::BF16] {
            for (rows, cols, granularity) in [
                (130, 75, ScaleGranularity::Tensor),
                (3, 200, ScaleGranularity::Row),
                (5, 192, ScaleGranularity::Group(64)),
            ] {
                let plain = stored(dtype, rows, cols);
                let mut bytes = Vec::new();
                let mut values = vec![0f32; cols];
                for row in 0..rows {
                    plain.decode_row(row, &mut values).unwrap();
                    bytes.extend(values.iter().flat_map(|v| v.to_le_bytes()));
                }
                let wide = DenseMatrix::new(DenseType::F32, rows, cols, bytes).unwrap();
                let with = |weights: &dyn DenseRows, level| {
                    let wanted =
                        Wanted { granularity, pool: None, threads: 3, level, measured: true };
                    ternarize(weights, &Absmean, wanted).unwrap()
                };
                let (matrix, meter) = with(&plain, IsaLevel::Scalar);
                for level in IsaLevel::available() {
                    assert_eq!(with(&plain, level), (matrix.clone(), meter), "{level} {dtype:?}");
                    assert_eq!(with(&wide, level), (matrix.clone(), meter), "{level} {dtype:?}");
                    let decoded = Decoded(&plain);
                    assert_eq!(with(&decoded, level), (matrix.clone(), meter), "{level} {dtype:?}");
                }
            }
        }
    }

    /// A matrix without a known storage type.
    #[derive(Debug)]
    struct Decoded<'a>(&'a dyn DenseRows);

    impl DenseRows for Decoded<'_> {
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

        fn decode_row(&self, row: usize, out: &mut [f32]) -> bitnet_core::Result<()> {
            self.0.decode_row(row, out)
        }
    }

    #[test]
    fn the_loss_is_that_of_the_trits() {
        for granularity in
            [ScaleGranularity::Tensor, ScaleGranularity::Row, ScaleGranularity::Group(64)]
        {
            let weights = stored(DenseType::BF16, 70, 192);
            let (matrix, meter) =
                absmean_measured(&weights, granularity, &|scale| scale, None).unwrap();
            let fused = meter.loss();
            assert_eq!(matrix, absmean(&weights, granularity, None).unwrap());
            let apart = loss_of_trits(&weights, &matrix).unwrap();
            assert_eq!((fused.count, fused.sparsity), (apart.count, apart.sparsity));
            let close = |a: f64, b: f64| (a - b).abs() <= 1e-6 * b.abs();
            assert!(close(fused.mse, apart.mse), "{fused:?} {apart:?}");
            assert!(close(fused.cosine, apart.cosine), "{fused:?} {apart:?}");
            assert!(close(fused.max_error, apart.max_error), "{fused:?} {apart:?}");
            // Absmean of normal weights: 1 - 2cE|x|[..] + c²P, about 0.27 of the power.
            assert!((5.0..6.5).contains(&fused.sqnr_db), "{fused:?}");
        }
    }

    #[test]
    fn loss_uses_stored_scales() {
        let weights = stored(DenseType::BF16, 70, 192);
        let half = |scale: f32| f16::from_f32(scale).to_f32();
        for granularity in [ScaleGranularity::Tensor, ScaleGranularity::Group(64)] {
            let exact = absmean(&weights, granularity, None).unwrap();
            let (matrix, meter) = absmean_measured(&weights, granularity, &half, None).unwrap();
            assert_eq!(matrix.to_trits(), exact.to_trits());
            let scales: Vec<f32> = exact.scales().iter().map(|&scale| half(scale)).collect();
            assert_eq!(matrix.scales(), scales);
            assert_ne!(matrix.scales(), exact.scales());
            let (fused, apart) = (meter.loss(), loss_of_trits(&weights, &matrix).unwrap());
            assert_eq!(fused.count, apart.count);
            assert!((fused.mse - apart.mse).abs() <= 1e-6 * apart.mse, "{fused:?} {apart:?}");
        }
    }

    #[test]
    fn extreme_weights_keep_their_meaning() {
        let matrix = |values: &[f32]| {
            let bytes = values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
            DenseMatrix::new(DenseType::F32, 1, values.len(), bytes).unwrap()
        };
        let largest = [f32::MAX, -f32::MAX, f32::MAX];
        let (trits, meter) =
            absmean_measured(&matrix(&largest), ScaleGranularity::Tensor, &|scale| scale, None)
                .unwrap();
        assert_eq!((trits.to_trits(), trits.scales()), (vec![1, -1, 1], &[f32::MAX][..]));
        let loss = meter.loss();
        assert_eq!((loss.mse, loss.cosine), (0.0, 1.0));
        let tiny = [f32::from_bits(1), -f32::MIN_POSITIVE, 0.0, -0.0];
        let (trits, meter) =
            absmean_measured(&matrix(&tiny), ScaleGranularity::Tensor, &|scale| scale, None)
                .unwrap();
        assert_eq!((trits.to_trits(), meter.loss().sparsity), (vec![0; 4], 1.0));
        for (bad, col) in [(f32::NAN, 0), (f32::INFINITY, 2), (f32::NEG_INFINITY, 16)] {
            let mut values = [0.5f32; 17];
            values[col] = bad;
            let error = absmean(&matrix(&values), ScaleGranularity::Tensor, None).unwrap_err();
            assert!(
                matches!(error, crate::Error::BadNumber { row: 0, col: at, .. } if at == col),
                "{error}"
            );
        }
        assert_eq!(LossMeter::new().loss().mse, 0.0);
    }
}
