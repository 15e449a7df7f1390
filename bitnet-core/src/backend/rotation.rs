//! The rotation of a vector by signs and blockwise Walsh-Hadamard transforms.

use crate::{Error, Result};

/// Signs, and the length of the blocks that are transformed.
///
/// With `H` the Sylvester matrix of order `block` in natural order, divided by `sqrt(block)`, a row `x` rotates to
/// `H (signs * x)` block by block, and back by `signs * (H z)`: `H` is its own inverse.
#[derive(Debug, Clone, PartialEq)]
pub struct Rotation {
    block: usize,
    signs: Vec<f32>,
}

/// Which way a [`Rotation`] turns.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// `H (signs * x)`: what a rotated weight reads.
    Forward,
    /// `signs * (H x)`: what a rotated embedding row stands for.
    Inverse,
}

impl Rotation {
    /// Returns the rotation of rows of as many components as there are signs.
    ///
    /// # Errors
    /// [`Error::BadArgument`] if `block` is not a power of two that divides the number of signs, or a sign is neither
    /// 1 nor -1.
    pub fn new(block: usize, signs: Vec<f32>) -> Result<Self> {
        let bad = |what, value: String, expected| {
            Err(Error::BadArgument { op: "rotation", what, value, expected })
        };
        if !block.is_power_of_two() || !signs.len().is_multiple_of(block) {
            let value = format!("{block} for rows of {}", signs.len());
            return bad("the block", value, "a power of two that divides a row is");
        }
        match signs.iter().find(|sign| sign.abs() != 1.0) {
            Some(sign) => bad("a sign", sign.to_string(), "1 and -1 are"),
            None => Ok(Self { block, signs }),
        }
    }

    /// Returns the components that are transformed together.
    pub fn block(&self) -> usize {
        self.block
    }

    /// Returns the signs, one for each component of a row.
    pub fn signs(&self) -> &[f32] {
        &self.signs
    }

    /// Returns `1 / sqrt(block)` as f32.
    pub fn factor(&self) -> f32 {
        (1.0 / (self.block as f64).sqrt()) as f32
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_and_signs_that_are_none_are_refused() {
        assert!(Rotation::new(4, vec![1.0, -1.0, 1.0, 1.0]).is_ok());
        for (block, signs) in [
            (0, vec![]),
            (3, vec![1.0; 3]),
            (4, vec![1.0; 6]),
            (2, vec![1.0, 0.0]),
            (1, vec![f32::NAN]),
        ] {
            assert!(Rotation::new(block, signs.clone()).is_err(), "{block} {signs:?}");
        }
    }
}
