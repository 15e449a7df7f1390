//! The three dense products of a linear layer; weights may be latent or fake-quantised.
use ndarray::{ArrayView2, ArrayViewMut2, linalg::general_mat_mul};

fn view(data: &[f32], rows: usize, columns: usize) -> ArrayView2<'_, f32> {
    ArrayView2::from_shape((rows, columns), data).expect("matrix shape must match its slice")
}

fn view_mut(data: &mut [f32], rows: usize, columns: usize) -> ArrayViewMut2<'_, f32> {
    ArrayViewMut2::from_shape((rows, columns), data).expect("matrix shape must match its slice")
}

/// `y[tokens, out] = x[tokens, in] · w[out, in]ᵀ`, added to `y` if `accumulate`.
///
/// # Panics
/// If a slice is not `tokens` x its width long.
pub fn linear_forward(y: &mut [f32], x: &[f32], w: &[f32], shape: [usize; 3], accumulate: bool) {
    let [tokens, out, input] = shape;
    let beta = f32::from(u8::from(accumulate));
    general_mat_mul(
        1.0,
        &view(x, tokens, input),
        &view(w, out, input).t(),
        beta,
        &mut view_mut(y, tokens, out),
    );
}

/// `dx[tokens, in] = dy[tokens, out] · w[out, in]`, overwriting `dx`.
///
/// # Panics
/// If a slice is not `tokens` x its width long.
pub fn linear_backward_input(dx: &mut [f32], dy: &[f32], w: &[f32], shape: [usize; 3]) {
    let [tokens, out, input] = shape;
    general_mat_mul(
        1.0,
        &view(dy, tokens, out),
        &view(w, out, input),
        0.0,
        &mut view_mut(dx, tokens, input),
    );
}

/// `dw[out, in] += dy[tokens, out]ᵀ · x[tokens, in]`.
///
/// # Panics
/// If a slice is not `tokens` x its width long.
pub fn linear_backward_weight(dw: &mut [f32], dy: &[f32], x: &[f32], shape: [usize; 3]) {
    let [tokens, out, input] = shape;
    general_mat_mul(
        1.0,
        &view(dy, tokens, out).t(),
        &view(x, tokens, input),
        1.0,
        &mut view_mut(dw, out, input),
    );
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::finite_difference::{assert_gradient, random};

    #[test]
    fn backward_agrees_with_finite_differences() {
        let shape = [3, 4, 5];
        let (x, w, dy) = (random(15, 1), random(20, 2), random(12, 3));
        let run = |x: &[f32], w: &[f32]| {
            let mut y = vec![0.0; 12];
            linear_forward(&mut y, x, w, shape, false);
            y
        };
        let mut dx = vec![0.0; 15];
        linear_backward_input(&mut dx, &dy, &w, shape);
        assert_gradient(&x, &dx, &dy, |x| run(x, &w));
        let mut dw = vec![0.0; 20];
        linear_backward_weight(&mut dw, &dy, &x, shape);
        assert_gradient(&w, &dw, &dy, |w| run(&x, w));
    }
}
