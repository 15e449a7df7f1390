//! Central differences, for testing backward functions.
use crate::rng::Rng;

/// Returns `n` values of the standard normal distribution.
pub(crate) fn random(n: usize, seed: u64) -> Vec<f32> {
    let mut rng = Rng::new(seed);
    (0..n).map(|_| rng.normal()).collect()
}

/// Asserts that `gradient` is the derivative of `sum(dy * f(x))` at `x`, element by element.
pub(crate) fn assert_gradient(
    x: &[f32],
    gradient: &[f32],
    dy: &[f32],
    f: impl Fn(&[f32]) -> Vec<f32>,
) {
    const STEP: f32 = 1.0 / 128.0;
    let objective =
        |x: &[f32]| f(x).iter().zip(dy).map(|(&y, &d)| f64::from(y) * f64::from(d)).sum::<f64>();
    assert_eq!(x.len(), gradient.len());
    for i in 0..x.len() {
        let mut moved = x.to_vec();
        moved[i] = x[i] + STEP;
        let up = objective(&moved);
        moved[i] = x[i] - STEP;
        let numeric = (up - objective(&moved)) / f64::from(2.0 * STEP);
        let error = (numeric - f64::from(gradient[i])).abs();
        assert!(
            error < 2e-3 * (1.0 + numeric.abs()),
            "element {i}: analytic {} numeric {numeric}",
            gradient[i]
        );
    }
}
