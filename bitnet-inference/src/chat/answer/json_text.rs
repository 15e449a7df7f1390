//! The extents of JSON values in text, so that arguments leave as the model wrote them: no number is rounded.

use serde_json::Value;

/// Follows JSON text byte by byte: how deep it is nested, and whether a string is open.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct JsonScan {
    depth: usize,
    in_string: bool,
    escaped: bool,
}

impl JsonScan {
    /// Takes the next byte.
    pub(super) fn push(&mut self, byte: u8) {
        match byte {
            _ if self.escaped => self.escaped = false,
            b'\\' if self.in_string => self.escaped = true,
            b'"' => self.in_string = !self.in_string,
            b'{' | b'[' if !self.in_string => self.depth += 1,
            b'}' | b']' if !self.in_string => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
    }

    /// Whether a string is open.
    pub(super) fn in_string(self) -> bool {
        self.in_string
    }

    /// Whether no string, list or object is open.
    pub(super) fn is_closed(self) -> bool {
        self.depth == 0 && !self.in_string
    }
}

/// The members of a JSON object with the text of their values; of two with one name the later one counts.
///
/// # Errors
/// What is wrong with the text, for a message.
pub(super) fn members(text: &str) -> Result<Vec<(String, &str)>, String> {
    let text = text.trim();
    match serde_json::from_str(text) {
        Ok(Value::Object(_)) => {}
        Ok(_) => return Err("not a JSON object".into()),
        Err(error) => return Err(format!("no JSON: {error}")),
    }
    let inner = text.get(1..text.len() - 1).unwrap_or_default();
    let mut members: Vec<(String, &str)> = Vec::new();
    for part in split(inner, b',') {
        let mut halves = split(part, b':');
        let key = halves.next().unwrap_or_default();
        let Some(value) = part.get(key.len() + 1..) else { continue };
        let key: String = serde_json::from_str(key.trim()).map_err(|error| error.to_string())?;
        members.retain(|(other, _)| *other != key);
        members.push((key, value.trim()));
    }
    Ok(members)
}

/// Cuts valid JSON text at a sign that is in no string, list or object.
fn split(text: &str, sign: u8) -> impl Iterator<Item = &str> {
    let mut rest = Some(text).filter(|text| !text.trim().is_empty());
    std::iter::from_fn(move || {
        let whole = rest?;
        let mut scan = JsonScan::default();
        for (at, byte) in whole.bytes().enumerate() {
            if byte == sign && scan.is_closed() {
                rest = whole.get(at + 1..);
                return whole.get(..at);
            }
            scan.push(byte);
        }
        rest = None;
        Some(whole)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_keep_their_text() {
        let text =
            r#" {"a": 12345678901234567890123, "b,:": {"c": "},\"", "d": [1.0, 2]} , "e": "x" } "#;
        let members = members(text).unwrap();
        let expected = [
            ("a", "12345678901234567890123"),
            ("b,:", r#"{"c": "},\"", "d": [1.0, 2]}"#),
            ("e", "\"x\""),
        ];
        assert_eq!(members.iter().map(|(k, v)| (k.as_str(), *v)).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn empty_objects_have_no_members_and_other_values_are_refused() {
        assert_eq!(members("{ }"), Ok(vec![]));
        assert_eq!(members(r#"{"a": 1, "a": 2}"#), Ok(vec![("a".into(), "2")]));
        for wrong in ["", "[]", "{", "{\"a\" 1}", "{} {}", "\"a\"", "{'a': 1}"] {
            assert!(members(wrong).is_err(), "{wrong}");
        }
    }
}
