//! Conversion between bit planes and words of sixteen codes in order.

/// Returns four words; word `k` holds bits `2k`, `2k + 1` of the sixteen bytes, in byte order.
#[inline(always)]
pub(super) fn gather(bytes: &[u8; 16]) -> [u32; 4] {
    let both = u128::from_le_bytes(*bytes);
    let mut first = turn_bytes(turn_pairs(both as u64));
    let mut second = turn_bytes(turn_pairs((both >> 64) as u64));
    let swapped = ((first >> 16) ^ second) & 0x0000_ffff_0000_ffff;
    second ^= swapped;
    first ^= swapped << 16;
    [first as u32, (first >> 32) as u32, second as u32, (second >> 32) as u32]
}

/// Returns the sixteen bytes whose bits `2k`, `2k + 1` are the codes of word `k`, the inverse of [`gather`].
#[inline(always)]
pub(super) fn scatter(words: [u32; 4]) -> [u8; 16] {
    let mut first = u64::from(words[0]) | (u64::from(words[1]) << 32);
    let mut second = u64::from(words[2]) | (u64::from(words[3]) << 32);
    let swapped = ((first >> 16) ^ second) & 0x0000_ffff_0000_ffff;
    second ^= swapped;
    first ^= swapped << 16;
    let (first, second) = (turn_pairs(turn_bytes(first)), turn_pairs(turn_bytes(second)));
    (u128::from(first) | (u128::from(second) << 64)).to_le_bytes()
}

/// Converts four rows of words to one row of bytes, which may end within a word; row `k` goes to bits `2k`, `2k + 1`.
#[inline(always)]
pub(super) fn scatter_rows(rows: [&[u32]; 4], packed: &mut [u8]) {
    let words = |k: usize| rows.map(|row| row[k]);
    let (sixteens, rest) = packed.as_chunks_mut::<16>();
    for (k, bytes) in sixteens.iter_mut().enumerate() {
        *bytes = scatter(words(k));
    }
    if !rest.is_empty() {
        rest.copy_from_slice(&scatter(words(sixteens.len()))[..rest.len()]);
    }
}

/// Converts a row of bytes, which may end within a word, to four rows of words, the inverse of [`scatter_rows`]. `map`
/// is applied to each word.
#[inline(always)]
pub(super) fn gather_rows(packed: &[u8], rows: [&mut [u32]; 4], map: impl Fn(u32) -> u32) {
    let (sixteens, rest) = packed.as_chunks::<16>();
    let mut last = [0; 16];
    last[..rest.len()].copy_from_slice(rest);
    let all = sixteens.iter().chain((!rest.is_empty()).then_some(&last));
    let [first, second, third, fourth] = rows;
    let places = first.iter_mut().zip(second).zip(third).zip(fourth);
    for (bytes, (((a, b), c), d)) in all.zip(places) {
        [*a, *b, *c, *d] = gather(bytes).map(&map);
    }
}

/// Returns one of the four rows of [`gather_rows`].
#[inline(always)]
pub(super) fn gather_plane(packed: &[u8], plane: usize, words: &mut [u32]) {
    let (sixteens, rest) = packed.as_chunks::<16>();
    let mut last = [0; 16];
    last[..rest.len()].copy_from_slice(rest);
    let all = sixteens.iter().chain((!rest.is_empty()).then_some(&last));
    for (word, bytes) in words.iter_mut().zip(all) {
        let both = u128::from_le_bytes(*bytes) >> (2 * plane);
        *word = close_up(both as u64) | (close_up((both >> 64) as u64) << 16);
    }
}

/// Packs the lowest bit pairs of eight bytes.
#[inline(always)]
fn close_up(x: u64) -> u32 {
    let x = x & 0x0303_0303_0303_0303;
    let x = (x | (x >> 6)) & 0x000f_000f_000f_000f;
    let x = (x | (x >> 12)) & 0x0000_00ff_0000_00ff;
    ((x | (x >> 24)) & 0xffff) as u32
}

/// Transposes the bit pairs of four bytes: pair `k` of byte `i` becomes pair `i` of byte `k`.
#[inline(always)]
pub(super) fn transpose_four(bytes: u32) -> u32 {
    turn_pairs(u64::from(bytes)) as u32
}

/// Transposes each half with [`transpose_four`].
#[inline(always)]
fn turn_pairs(x: u64) -> u64 {
    let swapped = (x ^ (x >> 6)) & 0x00cc_00cc_00cc_00cc;
    let x = x ^ swapped ^ (swapped << 6);
    let swapped = (x ^ (x >> 12)) & 0x0000_f0f0_0000_f0f0;
    x ^ swapped ^ (swapped << 12)
}

/// Swaps bytes 1 and 3 of the lower half with bytes 0 and 2 of the upper one.
#[inline(always)]
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
                    assert_eq!(scatter(expected), bytes, "byte {byte}, pair {pair}");
                    let mut one = [0];
                    gather_plane(&bytes, pair, &mut one);
                    assert_eq!(one[0], expected[pair], "byte {byte}, pair {pair}");
                    if byte < 4 {
                        let four = u32::from(value) << (8 * byte + 2 * pair);
                        assert_eq!(transpose_four(four), u32::from(value) << (8 * pair + 2 * byte));
                    }
                }
            }
        }
    }
}
