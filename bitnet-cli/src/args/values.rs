//! Values that several commands take.

/// The most threads that the program starts: more than any machine has use for, and fewer than systems refuse.
const MOST_THREADS: usize = 1024;

/// A whole number of at least 1.
pub(crate) fn positive(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(0) | Err(_) => Err("a whole number of at least 1 is needed".into()),
        Ok(number) => Ok(number),
    }
}

/// A number of threads.
pub(crate) fn threads(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| (1..=MOST_THREADS).contains(number));
    number.ok_or_else(|| format!("a whole number from 1 to {MOST_THREADS} is needed"))
}

/// A seed; `None` stands for another one in each run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seed(pub(crate) Option<u64>);

/// A seed, or -1 for another one in each run.
pub(super) fn seed(text: &str) -> Result<Seed, String> {
    if text == "-1" {
        return Ok(Seed(None));
    }
    let wrong = |_| format!("a whole number from 0 to {} is needed, or -1 for any", u64::MAX);
    text.parse().map(|seed| Seed(Some(seed))).map_err(wrong)
}

/// A number of tokens, or -1 for as many as there is room for.
pub(super) fn token_limit(text: &str) -> Result<usize, String> {
    if text == "-1" {
        return Ok(usize::MAX);
    }
    text.parse().map_err(|_| {
        "a whole number of at least 0 is needed, or -1 to go on until the text or the context ends"
            .into()
    })
}

/// A number of tokens to choose among; 0 and -1 are all.
pub(super) fn top_k(text: &str) -> Result<usize, String> {
    if text == "-1" {
        return Ok(0);
    }
    text.parse().map_err(|_| "a whole number of at least 0 is needed (0 = all tokens)".into())
}

/// A number; whether it is in range is for the sampler to say.
pub(super) fn number(text: &str) -> Result<f32, String> {
    text.trim().parse().map_err(|_| "a number such as 0.7 is needed".into())
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
