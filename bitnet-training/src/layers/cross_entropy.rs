//! Softmax cross-entropy over the vocabulary, forward and backward in one pass.

/// Returns the summed loss in nats; `logits[tokens, vocabulary]` is replaced by `(softmax - onehot(target)) · scale`.
///
/// # Panics
/// If a target is not below `vocabulary`.
pub fn cross_entropy(logits: &mut [f32], targets: &[u32], vocabulary: usize, scale: f32) -> f64 {
    let mut loss = 0.0;
    for (row, &target) in logits.chunks_exact_mut(vocabulary).zip(targets) {
        let target = target as usize;
        let max = row.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let chosen = row[target] - max;
        let mut sum = 0.0f32;
        for x in row.iter_mut() {
            *x = (*x - max).exp();
            sum += *x;
        }
        loss += f64::from(sum.ln() - chosen);
        let factor = scale / sum;
        row.iter_mut().for_each(|x| *x *= factor);
        row[target] -= scale;
    }
    loss
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layers::finite_difference::{assert_gradient, random};

    #[test]
    fn gradient_agrees_with_finite_differences() {
        let x = random(14, 1);
        let mut dx = x.clone();
        cross_entropy(&mut dx, &[3, 6], 7, 0.5);
        assert_gradient(&x, &dx, &[0.5], |x| {
            vec![cross_entropy(&mut x.to_vec(), &[3, 6], 7, 1.0) as f32]
        });
    }

    #[test]
    fn uniform_logits_have_log_vocabulary_loss() {
        let loss = cross_entropy(&mut [2.0; 16], &[0], 16, 1.0);
        assert!((loss - 16f64.ln()).abs() < 1e-6);
    }
}
