//! Word wrapping, of whole lines or of a stream.

use std::borrow::Cow;

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// Columns between two tab stops.
const TAB: usize = 8;

/// Wraps a paragraph to lines of at most `width` columns; longer words get their own lines.
pub(crate) fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    let mut used = 0;
    for word in text.split_whitespace() {
        let columns = visible_width(word);
        if used > 0 && used + 1 + columns > width {
            lines.push(String::new());
            used = 0;
        }
        if let Some(last) = lines.last_mut() {
            if used > 0 {
                last.push(' ');
                used += 1;
            }
            last.push_str(word);
            used += columns;
        }
    }
    lines
}

/// Wraps lines longer than `width` columns between words. Shorter lines are unchanged, including spaces; continuation
/// lines have the indentation of their line.
pub(crate) fn wrap_lines(text: &str, width: usize) -> Cow<'_, str> {
    if text.lines().all(|line| visible_width(line) <= width) {
        return text.into();
    }
    let lines: Vec<String> = text.split('\n').map(|line| wrap_line(line, width)).collect();
    lines.join("\n").into()
}

fn wrap_line(line: &str, width: usize) -> String {
    if visible_width(line) <= width {
        return line.to_owned();
    }
    let body = line.trim_start_matches(' ');
    let indent = &line[..line.len() - body.len()];
    // An indentation that leaves no space for words is dropped.
    let indent = if indent.len() * 2 > width { "" } else { indent };
    let mut out = indent.to_owned();
    let mut used = indent.len();
    let mut empty = true;
    for (at, word) in body.split(' ').enumerate() {
        let columns = visible_width(word);
        let blank = usize::from(at > 0);
        if !empty && used + blank + columns > width {
            out.truncate(out.trim_end_matches(' ').len());
            out.push('\n');
            out.push_str(indent);
            used = indent.len();
            empty = true;
        } else if at > 0 && !empty {
            out.push(' ');
            used += 1;
        }
        out.push_str(word);
        used += columns;
        empty &= word.is_empty();
    }
    out
}

/// Returns the columns of a line on a terminal, ignoring escape sequences for colours.
pub(crate) fn visible_width(line: &str) -> usize {
    if !line.contains('\x1b') {
        return line.width();
    }
    let mut width = 0;
    let mut rest = line;
    while let Some(at) = rest.find('\x1b') {
        width += rest[..at].width();
        rest = rest[at..].split_once('m').map_or("", |(_, after)| after);
    }
    width + rest.width()
}

/// Wraps a stream of text between words, independent of its pieces. The last word is delayed until it is complete.
/// Words longer than a line are split at its end; lines may end between characters of double width (Chinese, Japanese,
/// Korean).
#[derive(Debug, Default)]
pub(crate) struct StreamWrap {
    /// Columns written on the current line.
    column: usize,
    /// Pending spaces, written only if a word follows on the same line.
    blanks: String,
    /// The delayed word.
    word: String,
}

impl StreamWrap {
    /// Adds text and returns the part to write, on a terminal of `width` columns.
    pub(crate) fn push(&mut self, text: &str, width: usize) -> String {
        let width = width.max(1);
        let mut out = String::with_capacity(text.len() + 1);
        for c in text.chars() {
            match c {
                '\n' => {
                    self.place(width, &mut out);
                    self.blanks.clear();
                    out.push('\n');
                    self.column = 0;
                }
                ' ' | '\t' => {
                    self.place(width, &mut out);
                    self.blanks.push(c);
                }
                c if c.width() == Some(2) => {
                    self.place(width, &mut out);
                    self.word.push(c);
                    self.place(width, &mut out);
                }
                c => {
                    if self.word.width() + c.width().unwrap_or(0) > width {
                        self.place(width, &mut out);
                    }
                    self.word.push(c);
                }
            }
        }
        out
    }

    /// Returns all delayed text.
    pub(crate) fn flush(&mut self, width: usize) -> String {
        let mut out = String::new();
        self.place(width.max(1), &mut out);
        out.push_str(&self.blanks);
        self.column = self.after_blanks();
        self.blanks.clear();
        out
    }

    /// Appends the word to this line, or to the next one if it does not fit.
    fn place(&mut self, width: usize, out: &mut String) {
        if self.word.is_empty() {
            return;
        }
        let columns = self.word.width();
        if self.after_blanks() + columns > width && self.column > 0 {
            out.push('\n');
            self.column = 0;
        } else {
            out.push_str(&self.blanks);
            self.column = self.after_blanks();
        }
        self.blanks.clear();
        out.push_str(&self.word);
        self.column += columns;
        self.word.clear();
    }

    /// Returns the column after the spaces.
    fn after_blanks(&self) -> usize {
        self.blanks.chars().fold(self.column, |column, c| match c {
            '\t' => (column / TAB + 1) * TAB,
            _ => column + 1,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::iter::once;

    /// Wraps `text` in pieces of `size` characters.
    fn streamed(text: &str, size: usize, width: usize) -> String {
        let mut wrap = StreamWrap::default();
        let characters: Vec<char> = text.chars().collect();
        let pieces = characters.chunks(size).map(|piece| piece.iter().collect::<String>());
        let mut out: String = pieces.map(|piece| wrap.push(&piece, width)).collect();
        out.push_str(&wrap.flush(width));
        out
    }

    #[test]
    fn streamed_wrapping_is_independent_of_pieces() {
        for size in 1..20 {
            for (text, width, expected) in [
                ("one two three", 7, "one two\nthree"),
                ("one two three", 80, "one two three"),
                ("one  two\n\n  three four", 7, "one\ntwo\n\n  three\nfour"),
                ("a\tb c", 9, "a\tb\nc"),
                ("abcdefghij kl", 4, "abcd\nefgh\nij\nkl"),
                ("ab ", 2, "ab "),
                ("日本語の文", 4, "日本\n語の\n文"),
                ("e\u{301}e\u{301} xy", 4, "e\u{301}e\u{301}\nxy"),
            ] {
                assert_eq!(streamed(text, size, width), expected, "{text:?} by {size}");
            }
        }
    }

    #[test]
    fn streamed_lines_fit_and_lose_no_word() {
        let text =
            "Once upon a time, in a cabin near the forest, there lived a happy girl. ".repeat(9);
        for width in [1, 12, 40, 80, 200] {
            let out = streamed(&text, 5, width);
            assert!(out.lines().all(|line| line.trim_end().width() <= width), "{width}: {out}");
            if width >= 12 {
                let words: Vec<_> = out.split_whitespace().collect();
                assert_eq!(words, text.split_whitespace().collect::<Vec<_>>(), "{width}");
            }
        }
    }

    #[test]
    fn a_word_is_written_as_soon_as_it_ends() {
        let mut wrap = StreamWrap::default();
        let out: Vec<String> = ["On", "ce", " upon", " a"].map(|text| wrap.push(text, 80)).into();
        assert_eq!(out, ["", "", "Once", " upon"]);
        assert_eq!(once(wrap.flush(80)).collect::<String>(), " a");
    }

    #[test]
    fn only_long_lines_are_wrapped() {
        assert_eq!(wrap_lines("a  b", 4), "a  b");
        assert_eq!(wrap_lines("  one two three\n\nfour", 9), "  one two\n  three\n\nfour");
        assert_eq!(wrap_lines("\x1b[2mone two\x1b[0m", 7), "\x1b[2mone two\x1b[0m");
        assert_eq!(wrap_lines("\x1b[2mone two\x1b[0m", 6), "\x1b[2mone\ntwo\x1b[0m");
        assert_eq!(wrap_lines("a/very/long/path x", 4), "a/very/long/path\nx");
    }

    #[test]
    fn paragraphs_are_broken_between_words() {
        assert_eq!(wrap("one two three", 7), ["one two", "three"]);
        assert_eq!(wrap("extraordinary", 5), ["extraordinary"]);
        assert_eq!(wrap("", 5), [""]);
    }
}
