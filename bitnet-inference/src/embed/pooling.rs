//! From the states of a text's tokens to one vector.

use std::fmt;
use std::str::FromStr;

/// How the states of a text's tokens become one vector.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Pooling {
    /// Their mean.
    Mean,
    /// That of the last token.
    Last,
    /// That of the first token.
    Cls,
}

impl Pooling {
    /// Every pooling.
    pub const ALL: [Self; 3] = [Self::Mean, Self::Last, Self::Cls];

    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Mean => "mean",
            Self::Last => "last",
            Self::Cls => "cls",
        }
    }
}

impl fmt::Display for Pooling {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Pooling {
    type Err = String;

    fn from_str(name: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|pooling| pooling.name() == name);
        found.ok_or_else(|| format!("{name:?} is not a pooling; mean, last and cls are"))
    }
}

/// A vector in the making, over the states of a text's tokens.
#[derive(Debug)]
pub(super) struct Pool {
    pooling: Pooling,
    sums: Vec<f64>,
    tokens: usize,
}

impl Pool {
    pub(super) fn new(pooling: Pooling, width: usize) -> Self {
        Self { pooling, sums: vec![0.0; width], tokens: 0 }
    }

    /// Adds the states of the next tokens, row after row.
    pub(super) fn add(&mut self, states: &[f32]) {
        for state in states.chunks_exact(self.sums.len()) {
            match self.pooling {
                Pooling::Cls if self.tokens > 0 => {}
                Pooling::Mean => {
                    self.sums.iter_mut().zip(state).for_each(|(sum, &x)| *sum += f64::from(x));
                }
                Pooling::Cls | Pooling::Last => {
                    self.sums.iter_mut().zip(state).for_each(|(sum, &x)| *sum = f64::from(x));
                }
            }
            self.tokens += 1;
        }
    }

    /// Returns the vector, multiplied by `factor`, or of length 1.
    pub(super) fn finish(self, factor: f32, normalize: bool) -> Vec<f32> {
        /// The least length that is divided by, as in PyTorch's `normalize`.
        const LEAST: f64 = 1e-12;
        let count = if self.pooling == Pooling::Mean { self.tokens.max(1) as f64 } else { 1.0 };
        let mut out = self.sums;
        out.iter_mut().for_each(|x| *x *= f64::from(factor) / count);
        if normalize {
            let length = out.iter().map(|x| x * x).sum::<f64>().sqrt().max(LEAST);
            out.iter_mut().for_each(|x| *x /= length);
        }
        out.into_iter().map(|x| x as f32).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_pooling_takes_its_tokens_in_any_pieces() {
        let states = [1.0, 2.0, 3.0, -2.0, 5.0, 6.0];
        for (pooling, expected) in
            [(Pooling::Mean, [3.0, 2.0]), (Pooling::Last, [5.0, 6.0]), (Pooling::Cls, [1.0, 2.0])]
        {
            for cut in [0, 2, 4, 6] {
                let mut pool = Pool::new(pooling, 2);
                pool.add(&states[..cut]);
                pool.add(&states[cut..]);
                assert_eq!(pool.finish(1.0, false), expected, "{pooling}");
            }
        }
    }

    #[test]
    fn vectors_have_length_1_unless_they_are_0() {
        let unit = |state: [f32; 2]| {
            let mut pool = Pool::new(Pooling::Last, 2);
            pool.add(&state);
            pool.finish(1.0, true)
        };
        assert_eq!(unit([3.0, 4.0]), [0.6, 0.8]);
        assert_eq!(unit([0.0, 0.0]), [0.0, 0.0]);
    }

    #[test]
    fn names_parse_back() {
        for pooling in Pooling::ALL {
            assert_eq!(pooling.name().parse(), Ok(pooling));
        }
        assert!("max".parse::<Pooling>().unwrap_err().contains("max"));
    }
}
