//! A prepared weight as named arrays of bytes, so that it can be cached on disk and mapped again.

use crate::memory::Shared;
use crate::ternary::{ScaleGranularity, TernaryMatrix};
use crate::{Error, Result};

/// Named arrays in insertion order. Numbers are in the byte order of the machine.
#[derive(Debug, Clone, Default)]
pub struct PreparedParts(Vec<(String, Shared<u8>)>);

impl PreparedParts {
    /// Returns whether there are no arrays.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Iterates over names and arrays.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Shared<u8>)> {
        self.0.iter().map(|(name, bytes)| (name.as_str(), bytes))
    }

    /// Adds an array. A name is used once.
    pub fn put(&mut self, name: impl Into<String>, bytes: Shared<u8>) {
        self.0.push((name.into(), bytes));
    }

    /// Returns whether there is an array of that name.
    pub fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(n, _)| n == name)
    }

    /// Returns the array of that name.
    ///
    /// # Errors
    /// [`Error::BadPart`] if there is none.
    pub fn get(&self, name: &str) -> Result<&Shared<u8>> {
        let found = self.0.iter().find(|(n, _)| n == name).map(|(_, bytes)| bytes);
        found.ok_or_else(|| bad(name, "is missing".into()))
    }

    /// Adds a matrix as `NAME.shape`, `NAME.scales` and `NAME.words`.
    pub fn put_matrix(&mut self, name: &str, matrix: &TernaryMatrix) {
        let group = match matrix.granularity() {
            ScaleGranularity::Tensor => 0,
            ScaleGranularity::Row => 1,
            ScaleGranularity::Group(n) => n as u64,
        };
        let doubled = matrix.doubled() as u64;
        let shape = [matrix.rows() as u64, matrix.cols() as u64, group, doubled];
        let shape = shape.iter().flat_map(|n| n.to_ne_bytes()).collect::<Vec<u8>>();
        // Numbers fit bytes at any address.
        let none = || Vec::new().into();
        let scales = matrix.shared_scales().cast::<u8>().unwrap_or_else(none);
        let words = matrix.shared_words().cast::<u8>().unwrap_or_else(none);
        self.put(format!("{name}.shape"), shape.into());
        self.put(format!("{name}.scales"), scales);
        self.put(format!("{name}.words"), words);
    }

    /// Returns whether there is a matrix of that name.
    pub fn has_matrix(&self, name: &str) -> bool {
        self.has(&format!("{name}.shape"))
    }

    /// Returns the matrix of that name; its words are not copied.
    ///
    /// # Errors
    /// [`Error::BadPart`] for arrays that are missing or of another length, those of [`TernaryMatrix::from_words`].
    pub fn matrix(&self, name: &str) -> Result<TernaryMatrix> {
        let part = format!("{name}.shape");
        let stored = self.get(&part)?;
        let (&[rows, cols, group, doubled], []) = stored.as_chunks::<8>() else {
            return Err(bad(&part, format!("has {} bytes, not 32", stored.len())));
        };
        let number = |bytes| {
            usize::try_from(u64::from_ne_bytes(bytes))
                .map_err(|_| bad(&part, "exceeds the address space".into()))
        };
        let granularity = match number(group)? {
            0 => ScaleGranularity::Tensor,
            1 => ScaleGranularity::Row,
            n => ScaleGranularity::Group(n),
        };
        let part = format!("{name}.scales");
        let scales = self.get(&part)?.cast();
        let scales: Shared<f32> =
            scales.ok_or_else(|| bad(&part, "is not an array of numbers".into()))?;
        let part = format!("{name}.words");
        let words = self.get(&part)?.cast();
        let words = words.ok_or_else(|| bad(&part, "is not an array of words".into()))?;
        let (rows, cols, doubled) = (number(rows)?, number(cols)?, number(doubled)?);
        if doubled == 0 {
            return TernaryMatrix::from_words(rows, cols, words, granularity, scales);
        }
        let matrix =
            TernaryMatrix::from_words_with_doubled(rows, cols, words, granularity, scales)?;
        let problem = || format!("has {} weights of +2, not {doubled}", matrix.doubled());
        if matrix.doubled() == doubled { Ok(matrix) } else { Err(bad(&part, problem())) }
    }
}

fn bad(part: &str, problem: String) -> Error {
    Error::BadPart { part: part.into(), problem }
}
