//! The states of reductions. Sums and products are accumulated in f64.

use super::loops::Reducer;

macro_rules! reducers {
    ($($(#[$doc:meta])* $name:ident: $state:ty => $output:ty, $start:expr,
        |$s:ident, $x:ident, $about:ident| $step:expr, |$a:ident, $b:ident| $join:expr,
        |$end:ident, $count:ident| $finish:expr;)*) => {$(
        $(#[$doc])*
        pub(super) struct $name;

        impl Reducer for $name {
            type State = $state;
            type Output = $output;

            const START: $state = $start;

            #[inline(always)]
            fn step($s: $state, $x: f32, $about: f64) -> $state {
                $step
            }

            #[inline(always)]
            fn join($a: $state, $b: $state) -> $state {
                $join
            }

            #[inline(always)]
            fn finish($end: $state, $count: usize) -> $output {
                $finish
            }
        }
    )*};
}

reducers! {
    Sum: f64 => f32, 0.0, |s, x, _about| s + f64::from(x), |a, b| a + b, |s, _count| s as f32;
    Mean: f64 => f32, 0.0, |s, x, _about| s + f64::from(x), |a, b| a + b, |s, n| (s / n as f64) as f32;
    /// The mean in f64, for deviations from it.
    Centre: f64 => f64, 0.0, |s, x, _about| s + f64::from(x), |a, b| a + b, |s, n| s / n as f64;
    /// The sum of squared deviations.
    Deviations: f64 => f64, 0.0,
        |s, x, mean| { let d = f64::from(x) - mean; s + d * d }, |a, b| a + b, |s, _count| s;
    Product: f64 => f32, 1.0, |s, x, _about| s * f64::from(x), |a, b| a * b, |s, _count| s as f32;
    Largest: f32 => f32, f32::NEG_INFINITY,
        |s, x, _about| if x > s || x.is_nan() { x } else { s },
        |a, b| if b > a || b.is_nan() { b } else { a }, |s, _count| s;
    Smallest: f32 => f32, f32::INFINITY,
        |s, x, _about| if x < s || x.is_nan() { x } else { s },
        |a, b| if b < a || b.is_nan() { b } else { a }, |s, _count| s;
    Any: u8 => u8, 0, |s, x, _about| s | u8::from(x != 0.0), |a, b| a | b, |s, _count| s;
    All: u8 => u8, 1, |s, x, _about| s & u8::from(x != 0.0), |a, b| a & b, |s, _count| s;
}
