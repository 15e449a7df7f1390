//! Sentence templates: `{key}` is replaced by the word of that key, `{Key}` by the capitalised word.
//!
//! A word that begins with a vowel turns a preceding `a` into `an`.
use crate::rng::Rng;

/// The words of one story, by key, and the generator that chooses between templates.
#[derive(Debug)]
pub(super) struct Teller {
    words: Vec<(&'static str, String)>,
    rng: Rng,
    text: String,
}

impl Teller {
    /// Creates an empty story.
    pub(super) fn new(rng: Rng) -> Self {
        Self { words: Vec::new(), rng, text: String::new() }
    }

    /// Returns the generator.
    pub(super) fn rng(&mut self) -> &mut Rng {
        &mut self.rng
    }

    /// Sets a word.
    pub(super) fn set(&mut self, key: &'static str, word: impl Into<String>) {
        let word = word.into();
        match self.words.iter_mut().find(|(k, _)| *k == key) {
            Some(entry) => entry.1 = word,
            None => self.words.push((key, word)),
        }
    }

    /// Returns the word of a key, empty if it was never set.
    pub(super) fn word(&self, key: &str) -> &str {
        self.words.iter().find(|(k, _)| *k == key).map_or("", |(_, word)| word.as_str())
    }

    /// Sets a word to one of several.
    pub(super) fn choose(&mut self, key: &'static str, words: &[&str]) {
        let word = self.rng.pick(words).to_owned();
        self.set(key, word);
    }

    /// Appends one of the templates.
    pub(super) fn say(&mut self, templates: &[&str]) {
        let template = self.rng.pick(templates);
        if !self.text.is_empty() {
            self.text.push(' ');
        }
        self.expand(template);
    }

    /// Appends one of the templates, or nothing, with probability `p`.
    pub(super) fn maybe(&mut self, p: f64, templates: &[&str]) {
        if self.rng.chance(p) {
            self.say(templates);
        }
    }

    /// Returns the finished text.
    pub(super) fn finish(self) -> String {
        self.text
    }

    fn expand(&mut self, template: &str) {
        let mut rest = template;
        while let Some((before, tail)) = rest.split_once('{') {
            let (key, after) = tail.split_once('}').unwrap_or((tail, ""));
            self.text.push_str(before);
            let lower = key.to_ascii_lowercase();
            let word = self.word(&lower).to_owned();
            debug_assert!(!word.is_empty(), "no word for {{{key}}} in {template}");
            let vowel = word.starts_with(['a', 'e', 'i', 'o', 'u']);
            if vowel && (self.text.ends_with(" a ") || self.text.ends_with("A ")) {
                self.text.insert(self.text.len() - 1, 'n');
            }
            if key.starts_with(|c: char| c.is_ascii_uppercase()) {
                let (first, others) = word.split_at(word.len().min(1));
                self.text.push_str(&first.to_ascii_uppercase());
                self.text.push_str(others);
            } else {
                self.text.push_str(&word);
            }
            rest = after;
        }
        self.text.push_str(rest);
    }
}
