//! Value parsers shared by several commands.

use clap::builder::{PossibleValue, PossibleValuesParser, TypedValueParser};

/// The maximum number of threads, below the limits of operating systems.
const MOST_THREADS: usize = 1024;

/// A value of an option: its name, its help and what it stands for.
pub(crate) type Choice<T> = (&'static str, &'static str, T);

/// Returns the parser of an option that takes one of `choices`.
pub(crate) fn one_of<T: Copy + Send + Sync>(
    choices: &'static [Choice<T>],
) -> impl TypedValueParser<Value = T> {
    let names = choices.iter().map(|&(name, help, _)| PossibleValue::new(name).help(help));
    PossibleValuesParser::new(names).try_map(|name| {
        let found = choices.iter().find(|choice| choice.0 == name);
        found.map(|&(.., value)| value).ok_or("the name has no value")
    })
}

/// Parses an integer of at least 1.
pub(crate) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("expected an integer of at least 1".into()),
        Ok(number) => Ok(number),
    }
}

/// Parses a number of threads.
pub(crate) fn threads(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=MOST_THREADS).contains(number));
    number.ok_or_else(|| format!("expected an integer from 1 to {MOST_THREADS}"))
}

/// A seed; `None` requests a random one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(pub(crate) Option<u64>);

/// Parses a seed; -1 requests a random one.
pub(super) fn seed(text: &str) -> Result<Seed, String> {
    if text == "-1" {
        return Ok(Seed(None));
    }
    let wrong = |_| format!("expected an integer from 0 to {}, or -1 for a random seed", u64::MAX);
    text.parse().map(|seed| Seed(Some(seed))).map_err(wrong)
}

/// Parses a number of tokens; -1 is unlimited.
pub(super) fn token_limit(text: &str) -> Result<usize, String> {
    if text == "-1" {
        return Ok(usize::MAX);
    }
    text.parse().map_err(|_| {
        "expected an integer of at least 0, or -1 to generate until the text or the context ends"
            .into()
    })
}

/// Parses a number of candidate tokens; 0 and -1 are all.
pub(super) fn top_k(text: &str) -> Result<usize, String> {
    if text == "-1" {
        return Ok(0);
    }
    text.parse().map_err(|_| "expected an integer of at least 0 (0 = all tokens)".into())
}

/// Parses a number; the sampler checks its range.
pub(super) fn number(text: &str) -> Result<f32, String> {
    text.trim().parse().map_err(|_| "expected a number such as 0.7".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_out_of_range_are_refused() {
        assert_eq!((threads("1"), threads("1024")), (Ok(1), Ok(1024)));
        for wrong in ["0", "1025", "-1", "9223372036854775807", "99999999999999999999999", "x"] {
            assert!(threads(wrong).is_err(), "{wrong}");
        }
        assert_eq!((seed("7"), seed("-1")), (Ok(Seed(Some(7))), Ok(Seed(None))));
        assert!(seed("-2").is_err() && seed("18446744073709551616").is_err());
        assert_eq!((token_limit("-1"), token_limit("0")), (Ok(usize::MAX), Ok(0)));
        assert!(token_limit("-2").is_err() && top_k("-2").is_err());
        assert!(number("warm").is_err() && number("").is_err());
    }
}
