//! Keys and values of a cache, scalar: rounding to what is stored, and back.

use crate::kv::{KV_PAGE, KvCache, KvHead, KvType};
use crate::simd::largest_magnitude;
use crate::{Error, Result};

/// Writes `k` and `v` (`[tokens, kv_heads * head_dim]`) to positions `first..` of a layer, as [`KvType`] says.
///
/// # Errors
/// [`Error::OutOfRange`] if the cache has no such position.
pub(super) fn store(
    k: &[f32],
    v: &[f32],
    cache: &mut KvCache,
    layer: usize,
    first: usize,
) -> Result<()> {
    let dim = cache.head_dim().max(1);
    for (index, (k, v)) in k.chunks_exact(dim).zip(v.chunks_exact(dim)).enumerate() {
        let (position, head) = (first + index / cache.kv_heads(), index % cache.kv_heads());
        let k_places: Vec<_> = (0..dim).map(|j| cache.k_index(position, j)).collect();
        let v_places: Vec<_> = (0..dim).map(|j| cache.v_index(position, j)).collect();
        let kind = cache.kind();
        let place = cache.head_mut(layer, head, position / KV_PAGE)?;
        let slot = position % KV_PAGE;
        write(kind, k, place.k, &k_places, place.k_scales.get_mut(slot))?;
        write(kind, v, place.v, &v_places, place.v_scales.get_mut(slot))?;
    }
    Ok(())
}

/// One head of one position.
fn write(
    kind: KvType,
    x: &[f32],
    bytes: &mut [u8],
    places: &[usize],
    scale: Option<&mut f32>,
) -> Result<()> {
    let largest = largest_magnitude(x);
    let inverse = if largest > 0.0 { 127.0 / largest } else { 0.0 };
    if let Some(scale) = scale {
        *scale = if largest.is_finite() { largest / 127.0 } else { f32::NAN };
    }
    for (x, &place) in x.iter().zip(places) {
        match kind {
            KvType::F32 => put(bytes, place, x.to_le_bytes())?,
            KvType::F16 => {
                let bounded = if x.is_finite() { x.clamp(-65504.0, 65504.0) } else { *x };
                put(bytes, place, half::f16::from_f32(bounded).to_le_bytes())?;
            }
            KvType::Int8 => {
                put(bytes, place, ((x * inverse).round_ties_even() as i8).to_le_bytes())?
            }
        }
    }
    Ok(())
}

fn put<const N: usize>(bytes: &mut [u8], place: usize, value: [u8; N]) -> Result<()> {
    let (elements, _) = bytes.as_chunks_mut::<N>();
    let len = elements.len();
    *elements.get_mut(place).ok_or(Error::OutOfRange { op: "store", index: place, len })? = value;
    Ok(())
}

/// Keys of positions `0..seen` of a layer, `[seen, kv_heads * head_dim]`.
///
/// # Errors
/// [`Error::OutOfRange`] if the cache has no such position.
pub(super) fn keys(cache: &KvCache, layer: usize, seen: usize) -> Result<Vec<f32>> {
    read(cache, layer, seen, |head| (head.k, head.k_scales), KvCache::k_index)
}

/// Values of positions `0..seen` of a layer, `[seen, kv_heads * head_dim]`.
///
/// # Errors
/// [`Error::OutOfRange`] if the cache has no such position.
pub(super) fn values(cache: &KvCache, layer: usize, seen: usize) -> Result<Vec<f32>> {
    read(cache, layer, seen, |head| (head.v, head.v_scales), KvCache::v_index)
}

fn read<'a>(
    cache: &'a KvCache,
    layer: usize,
    seen: usize,
    part: impl Fn(KvHead<'a>) -> (&'a [u8], &'a [f32]),
    index: impl Fn(&KvCache, usize, usize) -> usize,
) -> Result<Vec<f32>> {
    let mut out = Vec::with_capacity(seen * cache.kv_heads() * cache.head_dim());
    for position in 0..seen {
        for head in 0..cache.kv_heads() {
            let place = cache.head(layer, head, position / KV_PAGE);
            let missing =
                Error::OutOfRange { op: "attention", index: position, len: cache.reserved() };
            let (bytes, scales) = part(place.ok_or(missing)?);
            for component in 0..cache.head_dim() {
                let place = index(cache, position, component);
                out.push(match cache.kind() {
                    KvType::F32 => f32::from_le_bytes(get(bytes, place)?),
                    KvType::F16 => half::f16::from_le_bytes(get(bytes, place)?).to_f32(),
                    KvType::Int8 => {
                        let [integer] = get(bytes, place)?;
                        f32::from(integer.cast_signed()) * scales[position % KV_PAGE]
                    }
                });
            }
        }
    }
    Ok(out)
}

fn get<const N: usize>(bytes: &[u8], place: usize) -> Result<[u8; N]> {
    let (elements, _) = bytes.as_chunks::<N>();
    let len = elements.len();
    elements.get(place).copied().ok_or(Error::OutOfRange { op: "attention", index: place, len })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kv::KvShape;
    use crate::memory::HybridMemoryPool;

    #[test]
    fn what_is_stored_comes_back_within_its_rounding() {
        let pool = HybridMemoryPool::new().unwrap();
        let x: Vec<f32> = (0..3 * 40).map(|i| (i * 37 % 101) as f32 / 50.0 - 1.0).collect();
        let y: Vec<f32> = x.iter().map(|x| x * 1e5).collect();
        for (kind, bound) in [(KvType::F32, 0.0), (KvType::F16, 5e-4), (KvType::Int8, 4e-3)] {
            let mut cache =
                KvCache::new(KvShape { kind, layers: 2, kv_heads: 2, head_dim: 20 }, 70, &pool)
                    .unwrap();
            cache.reserve(70).unwrap();
            store(&x, &x, &mut cache, 1, 5).unwrap();
            store(&y, &y, &mut cache, 0, 5).unwrap();
            for back in [keys(&cache, 1, 8).unwrap(), values(&cache, 1, 8).unwrap()] {
                for (x, back) in x.iter().zip(&back[5 * 40..]) {
                    assert!((x - back).abs() <= bound, "{kind}: {x} {back}");
                }
            }
            store(&y, &y, &mut cache, 1, 0).unwrap();
            assert!(keys(&cache, 1, 3).unwrap().iter().all(|x| x.is_finite()), "{kind}");
            for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut z = x.clone();
                z[7] = wrong;
                store(&z, &z, &mut cache, 1, 0).unwrap();
                let back = [keys(&cache, 1, 3).unwrap(), values(&cache, 1, 3).unwrap()];
                assert!(back.iter().all(|back| !back[7].is_finite()), "{kind}: {wrong}");
                assert!(back.iter().all(|back| back[20..].iter().all(|x| x.is_finite())), "{kind}");
            }
        }
    }
}
