//! Stop strings in streamed text: what may still become one is held back.

/// Watches streamed text for stop strings.
#[derive(Debug, Clone)]
pub struct StopFilter {
    stops: Vec<String>,
    held: String,
    found: Option<usize>,
}

impl StopFilter {
    /// A filter for these strings; empty ones are ignored.
    pub fn new(stops: &[String]) -> Self {
        Self {
            stops: stops.iter().filter(|s| !s.is_empty()).cloned().collect(),
            held: String::new(),
            found: None,
        }
    }

    /// Takes more text: what can be shown now, and whether a stop string has come (it is not shown, nor what
    /// follows it).
    pub fn push(&mut self, text: &str) -> (String, bool) {
        self.held.push_str(text);
        let places = self.stops.iter().enumerate();
        let places = places.filter_map(|(n, stop)| Some((self.held.find(stop.as_str())?, n)));
        if let Some((at, index)) = places.min() {
            self.found = Some(index);
            self.held.truncate(at);
            return (std::mem::take(&mut self.held), true);
        }
        let keep = self
            .stops
            .iter()
            .map(|stop| longest_suffix_prefix(&self.held, stop))
            .max()
            .unwrap_or(0);
        let rest = self.held.split_off(self.held.len() - keep);
        (std::mem::replace(&mut self.held, rest), false)
    }

    /// The stop string that has come; of several at one place, the one that was named first.
    pub fn found(&self) -> Option<&str> {
        self.stops.get(self.found?).map(String::as_str)
    }

    /// What was held back, once no more text will come.
    pub fn finish(&mut self) -> String {
        std::mem::take(&mut self.held)
    }
}

/// Length of the longest end of `text` that `stop` begins with; shorter than `stop`.
pub(crate) fn longest_suffix_prefix(text: &str, stop: &str) -> usize {
    let most = text.len().min(stop.len().saturating_sub(1));
    (1..=most)
        .rev()
        .find(|&n| {
            let start = text.len() - n;
            text.is_char_boundary(start) && stop.is_char_boundary(n) && text[start..] == stop[..n]
        })
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn run(stops: &[&str], pieces: &[&str]) -> (String, bool) {
        let stops: Vec<String> = stops.iter().map(|s| (*s).to_owned()).collect();
        let mut filter = StopFilter::new(&stops);
        let mut shown = String::new();
        for piece in pieces {
            let (text, stopped) = filter.push(piece);
            shown.push_str(&text);
            if stopped {
                return (shown, true);
            }
        }
        shown.push_str(&filter.finish());
        (shown, false)
    }

    #[test]
    fn a_stop_string_split_over_pieces_is_never_shown() {
        assert_eq!(run(&["User:"], &["Hi\nUs", "er", ": x"]), ("Hi\n".into(), true));
        assert_eq!(run(&["User:"], &["Hi\nUs", "ed"]), ("Hi\nUsed".into(), false));
        assert_eq!(run(&["b", "ab"], &["xa", "bc"]), ("x".into(), true));
        assert_eq!(run(&[""], &["abc"]), ("abc".into(), false));
        let mut filter = StopFilter::new(&["b".into(), "ab".into(), "a".into()]);
        assert_eq!((filter.push("x"), filter.found()), (("x".into(), false), None));
        assert_eq!((filter.push("ab"), filter.found()), ((String::new(), true), Some("ab")));
        assert_eq!(run(&["é!"], &["caf", "é", "?"]), ("café?".into(), false));
    }

    proptest! {
        #[test]
        fn pieces_do_not_matter(text in "[abé]{0,30}", stop in "[abé]{1,4}", cut in 0usize..30) {
            let at = (0..=text.len()).filter(|&i| text.is_char_boundary(i)).nth(cut).unwrap_or(0);
            let whole = run(&[&stop], &[&text]);
            prop_assert_eq!(&run(&[&stop], &[&text[..at], &text[at..]]), &whole);
            let expected = text.find(&stop).map_or((text.clone(), false), |i| (text[..i].to_owned(), true));
            prop_assert_eq!(whole, expected);
        }
    }
}
