//! The largest magnitude of some numbers.

/// `max|x|`; NaN if any element is NaN, 0 for an empty slice. Inlined, so that it is compiled for the instruction set
/// of the kernel that calls it.
#[inline(always)]
pub fn largest_magnitude(x: &[f32]) -> f32 {
    // Without their sign bit, floats order as their bits do, and every NaN is above infinity.
    let magnitude = |x: &f32| (x.to_bits() & 0x7fff_ffff).cast_signed();
    // Enough lanes that no vector waits for the one before it. (Loops over 32 lanes are unrolled before they become
    // vectors, and then read by gathers.)
    let mut lanes = [0i32; 64];
    let (chunks, rest) = x.as_chunks::<64>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            *lane = magnitude(x).max(*lane);
        }
    }
    let largest = rest.iter().map(magnitude).chain(lanes).fold(0, i32::max);
    f32::from_bits(largest.cast_unsigned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn largest_is_found_at_every_position_and_nan_propagates() {
        assert_eq!(largest_magnitude(&[]), 0.0);
        for len in [1, 31, 32, 33, 63, 64, 65, 200] {
            for at in 0..len {
                let mut x = vec![-0.5; len];
                x[at] = -3.0;
                assert_eq!(largest_magnitude(&x), 3.0, "{at} of {len}");
                x[at] = f32::NEG_INFINITY;
                assert_eq!(largest_magnitude(&x), f32::INFINITY);
                for nan in [f32::NAN, -f32::NAN, f32::from_bits(0x7f80_0001)] {
                    x[at] = nan;
                    x[(at + 7) % len] = if len > 7 { f32::INFINITY } else { x[(at + 7) % len] };
                    assert!(largest_magnitude(&x).is_nan(), "{at} of {len}");
                }
            }
        }
    }
}
