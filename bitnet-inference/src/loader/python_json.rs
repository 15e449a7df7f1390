//! JSON as Python writes it: `NaN`, `Infinity` and `-Infinity` stand where other programs allow no such number.
//!
//! Each becomes `{"__float__": "Infinity"}`, the form in which transformers 5 writes such numbers; no setting that is
//! read takes an object, so that one which has to be a number is refused by its name.

use serde_json::Value;

use crate::bounded_json::Bounded;

/// The key of the object that stands for a number that is not finite.
const TAG: &str = "__float__";
/// At most this many in one file; a published one has a handful.
const LIMIT: usize = 1 << 12;
/// At most this many values in one file: some 100 MB of memory.
const MAX_PARTS: usize = 1 << 20;
/// Python's words; a sign in front of the second belongs to it.
const WORDS: [&[u8]; 3] = [b"NaN", b"-Infinity", b"Infinity"];

/// Parses JSON, or what Python takes for it.
///
/// # Errors
/// The problem and its position, as a sentence.
pub fn parse(bytes: &[u8]) -> Result<Value, String> {
    let read = |bytes: &[u8]| serde_json::from_slice::<Bounded<MAX_PARTS>>(bytes);
    let read = |bytes: &[u8]| read(bytes).map(|value| value.0);
    let value = match read(bytes) {
        Ok(value) => Ok(value),
        Err(error) => tagged(bytes)?.map_or(Err(error), |text| read(&text)),
    };
    value.map_err(|error| format!("not valid JSON: {error}"))
}

/// The name of a number that is not finite, if the value stands for one.
pub(crate) fn non_finite(value: &Value) -> Option<&str> {
    let object = value.as_object().filter(|object| object.len() == 1)?;
    object.get(TAG)?.as_str()
}

/// The text with every such number outside of strings replaced; `None` where there is none.
fn tagged(bytes: &[u8]) -> Result<Option<Vec<u8>>, String> {
    let mut out = Vec::new();
    let (mut copied, mut at, mut in_string, mut found) = (0, 0, false, 0);
    while at < bytes.len() {
        match bytes[at] {
            // A quote or a backslash behind a backslash does not end the string.
            b'\\' if in_string => at += 1,
            b'"' => in_string = !in_string,
            _ if in_string => {}
            _ => {
                if let Some(word) = WORDS.iter().find(|word| bytes[at..].starts_with(word)) {
                    found += 1;
                    if found > LIMIT {
                        return Err(format!("more than {LIMIT} numbers in it are not finite"));
                    }
                    out.extend_from_slice(&bytes[copied..at]);
                    let name = String::from_utf8_lossy(word);
                    out.extend_from_slice(format!("{{\"{TAG}\":\"{name}\"}}").as_bytes());
                    at += word.len();
                    copied = at;
                    continue;
                }
            }
        }
        at += 1;
    }
    out.extend_from_slice(&bytes[copied..]);
    Ok((found > 0).then_some(out))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn numbers_of_python_are_read_outside_of_strings_only() {
        let text =
            br#"{"x": [0.0, Infinity, -Infinity, NaN], "text": "NaN \" Infinity \\", "n": 1}"#;
        let value = parse(text).unwrap();
        let number = |name: &str| json!({ "__float__": name });
        assert_eq!(
            value,
            json!({
                "x": [0.0, number("Infinity"), number("-Infinity"), number("NaN")],
                "text": "NaN \" Infinity \\",
                "n": 1,
            })
        );
        assert_eq!(non_finite(&value["x"][2]), Some("-Infinity"));
        assert_eq!(non_finite(&value["n"]), None);
    }

    #[test]
    fn what_python_refuses_is_refused() {
        for wrong in
            ["{\"x\": Nan}", "{\"x\": +Infinity}", "NaNNaN", "{\"x\": \"NaN}", "[1e999 NaN]", ""]
        {
            assert!(parse(wrong.as_bytes()).is_err(), "{wrong}");
        }
        let many = format!("[{}1]", "NaN,".repeat(LIMIT + 1));
        assert!(parse(many.as_bytes()).unwrap_err().contains("not finite"));
    }
}
