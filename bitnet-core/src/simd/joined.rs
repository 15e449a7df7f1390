//! Accumulators joined in an order that no instruction set changes.

/// Joins `N` accumulators, a power of two, by halves: each of the first half with its counterpart in the second.
#[inline(always)]
pub(crate) fn joined<T: Copy, const N: usize>(mut lanes: [T; N], join: impl Fn(T, T) -> T) -> T {
    let mut width = N / 2;
    while width > 0 {
        for i in 0..width {
            lanes[i] = join(lanes[i], lanes[i + width]);
        }
        width /= 2;
    }
    lanes[0]
}
