//! Rotary position embedding, rotate-half order: pairs `(j, j + d/2)` turn by `position · base^(-2j/d)`.

/// Cosines and sines for positions `0..positions`.
#[derive(Debug, Clone)]
pub struct RotaryTable {
    half: usize,
    cos_sin: Vec<(f32, f32)>,
}

impl RotaryTable {
    /// Computes the angles in `f64` and stores `[positions, head_dim / 2]`.
    #[must_use]
    pub fn new(positions: usize, head_dim: usize, base: f32) -> Self {
        let half = head_dim / 2;
        let angle =
            |p: usize, j: usize| p as f64 * f64::from(base).powf(-2.0 * j as f64 / head_dim as f64);
        let cos_sin = (0..positions)
            .flat_map(|p| (0..half).map(move |j| angle(p, j)))
            .map(|a| (a.cos() as f32, a.sin() as f32))
            .collect();
        Self { half, cos_sin }
    }

    /// Rotates one head in place, or rotates back if `inverse` (the backward pass: the transpose of a rotation).
    ///
    /// # Panics
    /// If `position` exceeds the table or `head` is not `head_dim` long.
    pub fn rotate(&self, head: &mut [f32], position: usize, inverse: bool) {
        let (low, high) = head.split_at_mut(self.half);
        let table = &self.cos_sin[position * self.half..][..self.half];
        for ((x, y), &(cos, sin)) in low.iter_mut().zip(high).zip(table) {
            let sin = if inverse { -sin } else { sin };
            (*x, *y) = (*x * cos - *y * sin, *y * cos + *x * sin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::finite_difference::{assert_gradient, random};

    #[test]
    fn the_inverse_is_the_gradient() {
        let table = RotaryTable::new(8, 6, 10_000.0);
        let (x, mut dx) = (random(6, 1), random(6, 2));
        let dy = dx.clone();
        table.rotate(&mut dx, 7, true);
        assert_gradient(&x, &dx, &dy, |x| {
            let mut y = x.to_vec();
            table.rotate(&mut y, 7, false);
            y
        });
    }

    #[test]
    fn position_one_rotates_the_first_pair_by_one_radian() {
        let mut head = [1.0, 0.0, 0.0, 0.0];
        RotaryTable::new(2, 4, 10_000.0).rotate(&mut head, 1, false);
        assert!((head[0] - 1f32.cos()).abs() < 1e-7 && (head[2] - 1f32.sin()).abs() < 1e-7);
    }
}
