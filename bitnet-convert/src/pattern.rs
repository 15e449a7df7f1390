//! Patterns of tensor names: `*` matches any text, `?` one character.

/// Returns whether `name` matches `pattern` completely.
///
/// Each character of the name is compared at most once per `*`, so the cost is bounded.
pub(crate) fn matches(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) =
        (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    // The position of the last `*`, and the number of characters that it matched.
    let mut star: Option<(usize, usize)> = None;
    while n < name.len() {
        match pattern.get(p) {
            Some('*') => {
                star = Some((p, n));
                p += 1;
            }
            Some(&c) if c == '?' || c == name[n] => {
                p += 1;
                n += 1;
            }
            _ => match star {
                Some((at, taken)) => {
                    star = Some((at, taken + 1));
                    p = at + 1;
                    n = taken + 1;
                }
                None => return false,
            },
        }
    }
    pattern[p..].iter().all(|&c| c == '*')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stars_and_question_marks() {
        for (pattern, name) in [
            ("blk.*.ffn_down", "blk.12.ffn_down"),
            ("*", ""),
            ("*attn*", "blk.0.attn_q"),
            ("blk.?.attn_q", "blk.3.attn_q"),
            ("a*b*c", "a-bb-bc"),
            ("output", "output"),
        ] {
            assert!(matches(pattern, name), "{pattern} {name}");
        }
        for (pattern, name) in [
            ("blk.?.attn_q", "blk.12.attn_q"),
            ("output", "output_norm"),
            ("", "a"),
            ("a*b", "a-b-"),
            ("?", ""),
        ] {
            assert!(!matches(pattern, name), "{pattern} {name}");
        }
        assert!(!matches(&"*a".repeat(40), &"a".repeat(39)));
    }
}
