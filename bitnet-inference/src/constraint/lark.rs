//! What is checked of a grammar before its parser reads it: the depth of its brackets, and what would not be obeyed.

use super::ConstraintError;

/// Brackets within brackets, at most.
pub(super) const MAX_DEPTH: usize = 64;

/// Returns an error for a grammar whose brackets are nested too deeply for a parser that calls itself, or that asks for
/// what is not done.
pub(super) fn check(text: &str) -> Result<(), ConstraintError> {
    let (mut depth, mut deepest, mut code) = (0usize, 0usize, String::new());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        if !c.is_whitespace() {
            code.push(c);
        }
        match c {
            '/' if chars.peek() == Some(&'/') => skip_line(&mut chars),
            '#' => skip_line(&mut chars),
            '"' | '/' => skip_literal(&mut chars, c),
            // The name of a special token.
            '<' => drop(chars.find(|&c| c == '>' || c == '<' || c.is_whitespace())),
            '(' | '[' | '{' => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            ')' | ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    if deepest > MAX_DEPTH {
        let (kind, what) = ("grammar", "depth of brackets");
        return Err(ConstraintError::TooLarge { kind, what, used: deepest, limit: MAX_DEPTH });
    }
    let refused = [
        (text.contains("x-guidance"), "x-guidance: options of the library behind it can't be set"),
        (
            code.contains("temperature="),
            "temperature: it is set for the whole text, not for a rule",
        ),
    ];
    if let Some((_, problem)) = refused.into_iter().find(|(holds, _)| *holds) {
        return Err(ConstraintError::Invalid { kind: "grammar", problem: problem.into() });
    }
    Ok(())
}

/// Skips a string or a regex, which ends with `end` that has no backslash before it. A string ends with its line.
fn skip_literal(chars: &mut impl Iterator<Item = char>, end: char) {
    while let Some(c) = chars.next() {
        match c {
            '\\' => drop(chars.next()),
            _ if c == end || (end == '"' && c == '\n') => return,
            _ => {}
        }
    }
}

fn skip_line(chars: &mut impl Iterator<Item = char>) {
    chars.find(|&c| c == '\n');
}
