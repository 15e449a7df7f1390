//! Size classes of small blocks: four to a doubling, in cache lines.
//!
//! A request of n lines takes the smallest class that holds it; a class is (4 + r) << k lines with r in 1..=4, so at
//! most a fifth of a block above four lines is lost. The largest class is 1 MiB.

/// A cache line, in bytes: the smallest block and the smallest alignment.
pub(in crate::memory) const LINE: usize = 64;
/// Requests of this many bytes and more are not small.
pub(in crate::memory) const SMALL_LIMIT: usize = 1 << 20;
/// The number of classes.
pub(super) const CLASSES: usize = 52;

/// Lines of requests whose class is read from a table: up to 32 KiB.
const TABLE_LINES: usize = 512;

/// The class of a request that ends in the line of each index.
static CLASS_OF_LINE: [u8; TABLE_LINES] = {
    let mut classes = [0; TABLE_LINES];
    let mut line = 0;
    while line < TABLE_LINES {
        classes[line] = class_of_line(line) as u8;
        line += 1;
    }
    classes
};

/// The class of a request of `size` bytes, which must be below [`SMALL_LIMIT`].
#[inline(always)]
pub(super) fn class_of(size: usize) -> usize {
    let last_line = size.saturating_sub(1) / LINE;
    match CLASS_OF_LINE.get(last_line) {
        Some(&class) => usize::from(class),
        None => class_of_line(last_line),
    }
}

/// The class of a request whose last byte is in the line of this index.
const fn class_of_line(last_line: usize) -> usize {
    if last_line < 4 {
        return last_line;
    }
    let log = last_line.ilog2() as usize;
    (log - 1) * 4 + ((last_line >> (log - 2)) & 3)
}

/// The bytes of a block of `class`.
pub(super) const fn block_bytes(class: usize) -> usize {
    if class < 4 {
        return (class + 1) * LINE;
    }
    (5 + class % 4) << (class / 4 - 1) << LINE.trailing_zeros()
}

/// The bytes of a slab of `class`: at least four blocks and 64 KiB, in whole units of 64 KiB.
pub(super) const fn slab_bytes(class: usize) -> usize {
    let block = block_bytes(class);
    let blocks = if block > 256 << 10 { 4 } else { 8 };
    let bytes = block * blocks;
    bytes.next_multiple_of(64 << 10)
}

/// How many blocks of `class` move at once between a thread and the others.
pub(super) const fn batch(class: usize) -> usize {
    let blocks = (128 << 10) / block_bytes(class);
    if blocks > super::magazine::SLOTS {
        super::magazine::SLOTS
    } else if blocks < 2 {
        2
    } else {
        blocks
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_size_has_the_smallest_class_that_holds_it() {
        assert_eq!(class_of(0), 0);
        for size in 1..SMALL_LIMIT {
            let class = class_of(size);
            assert!(class < CLASSES && block_bytes(class) >= size, "{size}");
            assert!(class == 0 || block_bytes(class - 1) < size, "{size}");
        }
        assert_eq!(block_bytes(CLASSES - 1), SMALL_LIMIT);
    }

    #[test]
    fn slabs_waste_at_most_an_eighth() {
        for class in 0..CLASSES {
            let (block, slab) = (block_bytes(class), slab_bytes(class));
            assert_eq!(block % LINE, 0);
            assert!(slab / block >= 4 && batch(class) >= 2);
            assert!((slab % block) * 8 <= slab, "class {class}: {} of {slab} left", slab % block);
            if class > 3 {
                let previous = block_bytes(class - 1);
                assert!((block - previous - 1) * 5 <= block, "class {class}");
            }
        }
    }
}
