//! Blocks that are plain data, so that they can lie in a memory pool.

use bytemuck::{Pod, Zeroable};

use super::{ActivationBlock, ColumnAcc16, PanelHalf, WideBlock};

// SAFETY: an array of `i8`, of which zeros are numbers.
unsafe impl Zeroable for ActivationBlock {}
// SAFETY: `repr(C)` over 128 bytes of `i8`, a multiple of its alignment of 64: no padding, and any bits are numbers.
unsafe impl Pod for ActivationBlock {}

// SAFETY: arrays of `i16`, of which zeros are numbers.
unsafe impl Zeroable for ColumnAcc16 {}
// SAFETY: `repr(C)` over 256 bytes of `i16`, a multiple of its alignment of 64: no padding, and any bits are numbers.
unsafe impl Pod for ColumnAcc16 {}

// SAFETY: arrays of `u8`, of which zeros are numbers.
unsafe impl Zeroable for PanelHalf {}
// SAFETY: `repr(C)` over 2048 bytes of `u8`, a multiple of its alignment of 64: no padding, and any bits are numbers.
unsafe impl Pod for PanelHalf {}

// SAFETY: arrays of `i8`, of which zeros are numbers.
unsafe impl Zeroable for WideBlock {}
// SAFETY: `repr(C)` over 128 bytes of `i8`, a multiple of its alignment of 64: no padding, and any bits are numbers.
unsafe impl Pod for WideBlock {}

const _: () = {
    assert!(size_of::<ActivationBlock>() == 128 && align_of::<ActivationBlock>() == 64);
    assert!(size_of::<ColumnAcc16>() == 256 && align_of::<ColumnAcc16>() == 64);
    assert!(size_of::<PanelHalf>() == 3072 && align_of::<PanelHalf>() == 64);
    assert!(size_of::<WideBlock>() == 128 && align_of::<WideBlock>() == 64);
};
