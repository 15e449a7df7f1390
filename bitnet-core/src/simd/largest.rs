//! The largest magnitude of some numbers.

/// `max|x|`, NaN left out; 0 of nothing. Inlined: it is compiled for the instruction set of the kernel that calls it.
#[inline(always)]
pub fn largest_magnitude(x: &[f32]) -> f32 {
    // Enough lanes that no vector waits for the one before it.
    let mut lanes = [0f32; 32];
    let (chunks, rest) = x.as_chunks::<32>();
    for chunk in chunks {
        for (lane, x) in lanes.iter_mut().zip(chunk) {
            // Not `f32::max`: this form is one instruction, and keeps the lane where x is NaN.
            *lane = if x.abs() > *lane { x.abs() } else { *lane };
        }
    }
    rest.iter().chain(&lanes).fold(0f32, |largest, x| largest.max(x.abs()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_found_wherever_it_stands() {
        assert_eq!(largest_magnitude(&[]), 0.0);
        assert_eq!(largest_magnitude(&[f32::NAN; 70]), 0.0);
        for len in [1, 31, 32, 33, 100] {
            for at in 0..len {
                let mut x = vec![-0.5; len];
                x[(at + 7) % len] = f32::NAN;
                x[at] = -3.0;
                assert_eq!(largest_magnitude(&x), 3.0, "{at} of {len}");
                x[at] = f32::NEG_INFINITY;
                assert_eq!(largest_magnitude(&x), f32::INFINITY);
            }
        }
    }
}
