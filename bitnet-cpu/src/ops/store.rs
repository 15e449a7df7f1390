//! Keys and values into a cache, rounded to its element type. Bit for bit what the reference stores.

use crate::exec::ExecContext;
use crate::isa::{Isa, LANES, Op};
use bitnet_core::Result;
use bitnet_core::backend::shape_check;
use bitnet_core::kv::{KV_PAGE, KvCache, KvType};
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::simd::largest_magnitude;
use smallvec::SmallVec;

/// See [`bitnet_core::backend::Operations::store`].
pub(crate) fn store(
    k: &BitNetTensor,
    v: &BitNetTensor,
    cache: &mut KvCache,
    layer: usize,
    first: usize,
    exec: ExecContext<'_>,
) -> Result<()> {
    let tokens = shape_check::store(k, v, cache, layer, first)?;
    if tokens == 0 || cache.head_dim() == 0 {
        return Ok(());
    }
    exec.isa.run_shared(Store { k: k.f32()?, v: v.f32()?, cache, layer, first })
}

struct Store<'a> {
    k: &'a [f32],
    v: &'a [f32],
    cache: &'a mut KvCache,
    layer: usize,
    first: usize,
}

impl Op for Store<'_> {
    type Output = Result<()>;

    #[inline(always)]
    fn eval<I: Isa>(self, _: I) -> Result<()> {
        match self.cache.kind() {
            KvType::F32 => self.write::<f32>(),
            KvType::F16 => self.write::<Half>(),
            KvType::Int8 => self.write::<i8>(),
        }
    }
}

impl Store<'_> {
    #[inline(always)]
    fn write<E: Element>(self) -> Result<()> {
        let (dim, heads) = (self.cache.head_dim(), self.cache.kv_heads());
        let mut numbers = SmallVec::<[E::Raw; 128]>::from_elem(E::Raw::default(), dim);
        for (index, (k, v)) in self.k.chunks_exact(dim).zip(self.v.chunks_exact(dim)).enumerate() {
            let (position, head) = (self.first + index / heads, index % heads);
            let (k_at, v_at) = (self.cache.k_index(position, 0), self.cache.v_index(position, 0));
            let place = self.cache.head_mut(self.layer, head, position / KV_PAGE)?;
            let slot = position % KV_PAGE;
            let scale = E::round(k, &mut numbers);
            if let Some(k_scale) = place.k_scales.get_mut(slot) {
                *k_scale = scale;
            }
            let components = E::view(place.k)[k_at..].iter_mut().step_by(LANES);
            for (component, &number) in components.zip(&numbers) {
                *component = number;
            }
            let scale = E::round(v, &mut numbers);
            if let Some(v_scale) = place.v_scales.get_mut(slot) {
                *v_scale = scale;
            }
            let lines = E::view(place.v)[v_at..].chunks_mut(LANES * LANES);
            for (line, numbers) in lines.zip(numbers.chunks(LANES)) {
                line[..numbers.len()].copy_from_slice(numbers);
            }
        }
        Ok(())
    }
}

/// A stored number.
trait Element {
    /// Its bytes.
    type Raw: Copy + Default;

    /// Bytes of the cache as numbers.
    fn view(bytes: &mut [u8]) -> &mut [Self::Raw];

    /// Rounds a head; its scale where there is one, else anything.
    fn round(x: &[f32], out: &mut [Self::Raw]) -> f32;
}

/// Half precision.
struct Half;

impl Element for f32 {
    type Raw = [u8; 4];

    #[inline(always)]
    fn view(bytes: &mut [u8]) -> &mut [Self::Raw] {
        bytes.as_chunks_mut().0
    }

    #[inline(always)]
    fn round(x: &[f32], out: &mut [Self::Raw]) -> f32 {
        for (out, x) in out.iter_mut().zip(x) {
            *out = x.to_le_bytes();
        }
        1.0
    }
}

impl Element for Half {
    type Raw = [u8; 2];

    #[inline(always)]
    fn view(bytes: &mut [u8]) -> &mut [Self::Raw] {
        bytes.as_chunks_mut().0
    }

    #[inline(always)]
    fn round(x: &[f32], out: &mut [Self::Raw]) -> f32 {
        for (out, &x) in out.iter_mut().zip(x) {
            *out = to_half(x).to_le_bytes();
        }
        1.0
    }
}

impl Element for i8 {
    type Raw = u8;

    #[inline(always)]
    fn view(bytes: &mut [u8]) -> &mut [u8] {
        bytes
    }

    #[inline(always)]
    fn round(x: &[f32], out: &mut [u8]) -> f32 {
        let largest = largest_magnitude(x);
        let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
        for (out, x) in out.iter_mut().zip(x) {
            *out = ((x * inverse).round_ties_even() as i8).cast_unsigned();
        }
        if largest.is_finite() { largest / 127.0 } else { f32::NAN }
    }
}

/// The nearest half, ties to even; of finite numbers beyond the largest the largest; infinity of infinity, NaN of NaN.
/// Without branches, so that it vectorises.
#[inline(always)]
fn to_half(x: f32) -> u16 {
    /// 65504 as f32.
    const LARGEST: u32 = 0x477f_e000;
    /// 2⁻¹⁴, the smallest normal half, as f32.
    const NORMAL: u32 = 0x3880_0000;
    const INFINITE: u32 = 0x7f80_0000;
    let bits = x.to_bits();
    let sign = (bits >> 16) & 0x8000;
    let size = bits & 0x7fff_ffff;
    let bounded = if size > LARGEST { LARGEST } else { size };
    // A number in 0.5..1 has its last bit at 2⁻²⁴, as a subnormal half has: the addition rounds to it.
    let subnormal = (f32::from_bits(bounded) + 0.5).to_bits().wrapping_sub(0.5f32.to_bits());
    let even = (bounded >> 13) & 1;
    let normal = bounded.wrapping_sub(NORMAL - (1 << 23)).wrapping_add(0xfff + even) >> 13;
    let magnitude = if bounded < NORMAL { subnormal } else { normal };
    let magnitude = if size == INFINITE { 0x7c00 } else { magnitude };
    let magnitude = if size > INFINITE { 0x7e00 } else { magnitude };
    (sign | magnitude) as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn expected(x: f32) -> u16 {
        let bounded = if x.is_finite() { x.clamp(-65504.0, 65504.0) } else { x };
        half::f16::from_f32(bounded).to_bits()
    }

    #[test]
    fn every_half_and_what_lies_between_rounds_as_it_should() {
        for bits in 0..=u16::MAX {
            let x = half::f16::from_bits(bits).to_f32();
            if x.is_nan() {
                assert!(half::f16::from_bits(to_half(x)).is_nan());
                continue;
            }
            let next = half::f16::from_bits(bits.wrapping_add(1)).to_f32();
            let middle = x / 2.0 + next / 2.0;
            for x in [x, middle] {
                for x in [x, f32::from_bits(x.to_bits().wrapping_sub(1)), x.next_up()] {
                    if !x.is_nan() {
                        assert_eq!(to_half(x), expected(x), "{x:e}");
                    }
                }
            }
        }
    }

    #[test]
    fn small_and_large_numbers_round_as_they_should() {
        for bits in (0..=u32::MAX).step_by(100_003) {
            let x = f32::from_bits(bits);
            if !x.is_nan() {
                assert_eq!(to_half(x), expected(x), "{x:e}");
            }
        }
    }
}
