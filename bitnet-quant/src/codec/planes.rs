//! Bit pairs that lie in planes, gathered into words of sixteen codes in order.

/// Word `k` holds bits `2k`, `2k + 1` of the sixteen bytes, in the order of the bytes.
#[inline]
pub(super) fn gather(bytes: &[u8; 16]) -> [u32; 4] {
    let both = u128::from_le_bytes(*bytes);
    let mut first = turn_bytes(turn_pairs(both as u64));
    let mut second = turn_bytes(turn_pairs((both >> 64) as u64));
    let swapped = ((first >> 16) ^ second) & 0x0000_ffff_0000_ffff;
    second ^= swapped;
    first ^= swapped << 16;
    [first as u32, (first >> 32) as u32, second as u32, (second >> 32) as u32]
}

/// The bit pairs of four bytes with places changed: pair `k` of byte `i` becomes pair `i` of byte `k`.
#[inline]
pub(super) fn turn_four(bytes: u32) -> u32 {
    turn_pairs(u64::from(bytes)) as u32
}

/// [`turn_four`] of each half.
#[inline]
fn turn_pairs(x: u64) -> u64 {
    let swapped = (x ^ (x >> 6)) & 0x00cc_00cc_00cc_00cc;
    let x = x ^ swapped ^ (swapped << 6);
    let swapped = (x ^ (x >> 12)) & 0x0000_f0f0_0000_f0f0;
    x ^ swapped ^ (swapped << 12)
}

/// Bytes 1 and 3 of the lower half change places with bytes 0 and 2 of the upper one.
#[inline]
fn turn_bytes(x: u64) -> u64 {
    let swapped = (x ^ (x >> 24)) & 0xff00_ff00;
    x ^ swapped ^ (swapped << 24)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_pair_finds_its_place() {
        for byte in 0..16 {
            for pair in 0..4 {
                for value in 1..4u8 {
                    let mut bytes = [0u8; 16];
                    bytes[byte] = value << (2 * pair);
                    let mut expected = [0u32; 4];
                    expected[pair] = u32::from(value) << (2 * byte);
                    assert_eq!(gather(&bytes), expected, "byte {byte}, pair {pair}");
                    if byte < 4 {
                        let four = u32::from(value) << (8 * byte + 2 * pair);
                        assert_eq!(turn_four(four), u32::from(value) << (8 * pair + 2 * byte));
                    }
                }
            }
        }
    }
}
