//! The benchmark filter of the command line.

/// Words, one of which must occur in a benchmark's name, ignoring case; an empty filter matches all.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Filter(Vec<String>);

impl Filter {
    /// Creates a filter from words.
    pub fn new(words: &[String]) -> Self {
        Self(words.iter().map(|word| word.to_lowercase()).collect())
    }

    /// Returns whether a benchmark matches: a word occurs in `suite`, `name` or `suite/name`.
    pub fn matches(&self, suite: &str, name: &str) -> bool {
        let whole = format!("{suite}/{name}").to_lowercase();
        self.0.is_empty() || self.0.iter().any(|word| whole.contains(word))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filter(words: &[&str]) -> Filter {
        Filter::new(&words.iter().map(|&word| word.to_owned()).collect::<Vec<_>>())
    }

    #[test]
    fn case_does_not_matter_and_suites_count() {
        let name = "Pair/64 B, 1 thread";
        assert!(filter(&[]).matches("memory", name));
        assert!(filter(&["memory"]).matches("memory", name));
        assert!(filter(&["MEMORY"]).matches("memory", name));
        assert!(filter(&["pair/64"]).matches("memory", name));
        assert!(filter(&["memory/pair"]).matches("memory", name));
        assert!(filter(&["nothing", "1 THREAD"]).matches("memory", name));
        assert!(!filter(&["larson"]).matches("memory", name));
        assert!(!filter(&["64 b, 2"]).matches("memory", name));
    }
}
