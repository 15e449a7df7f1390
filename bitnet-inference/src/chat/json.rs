//! Values as Python's `json.dumps` writes them.

use minijinja::Error;
use minijinja::value::{Value, ValueKind};

use super::arguments::invalid;
use super::python;

/// The options of `json.dumps`.
#[derive(Debug, Clone)]
pub(crate) struct Style {
    /// Spaces or text put before each item per level; `None` writes one line.
    pub(crate) indent: Option<String>,
    /// Between items.
    pub(crate) comma: String,
    /// Between key and value.
    pub(crate) colon: String,
    /// Keys in order of their text.
    pub(crate) sort_keys: bool,
    /// Everything outside ASCII as `\u` and four hexadecimal digits.
    pub(crate) ascii: bool,
}

/// Writes a value; its size was checked before.
pub(crate) fn write(
    value: &Value,
    style: &Style,
    depth: usize,
    out: &mut String,
) -> Result<(), Error> {
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => number(value, out)?,
        ValueKind::String => string(value.as_str().unwrap_or_default(), style.ascii, out),
        ValueKind::Seq | ValueKind::Iterable => {
            let items: Vec<Value> = value.try_iter()?.checked().collect::<Result<_, _>>()?;
            enclosed(('[', ']'), &items, style, depth, out, |item, out| {
                write(item, style, depth + 1, out)
            })?;
        }
        ValueKind::Map => {
            let mut keys: Vec<Value> = value.try_iter()?.checked().collect::<Result<_, _>>()?;
            if style.sort_keys {
                keys.sort();
            }
            enclosed(('{', '}'), &keys, style, depth, out, |key, out| {
                match key.as_str() {
                    Some(text) => string(text, style.ascii, out),
                    None => {
                        let mut text = String::new();
                        write(key, style, depth + 1, &mut text)?;
                        string(&text, style.ascii, out);
                    }
                }
                out.push_str(&style.colon);
                write(&value.get_item(key)?, style, depth + 1, out)
            })?;
        }
        other => {
            return Err(invalid(format!("a value of kind {other} cannot be written as JSON")));
        }
    }
    Ok(())
}

fn enclosed(
    (open, close): (char, char),
    items: &[Value],
    style: &Style,
    depth: usize,
    out: &mut String,
    mut item: impl FnMut(&Value, &mut String) -> Result<(), Error>,
) -> Result<(), Error> {
    let line = |depth: usize, out: &mut String| {
        if let Some(indent) = &style.indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    };
    out.push(open);
    for (index, value) in items.iter().enumerate() {
        if index > 0 {
            out.push_str(&style.comma);
        }
        line(depth + 1, out);
        item(value, out)?;
    }
    if !items.is_empty() {
        line(depth, out);
    }
    out.push(close);
    Ok(())
}

fn number(value: &Value, out: &mut String) -> Result<(), Error> {
    if value.is_integer() {
        out.push_str(&value.to_string());
        return Ok(());
    }
    let float = f64::try_from(value.clone())?;
    out.push_str(&if float.is_nan() {
        "NaN".to_owned()
    } else if float.is_infinite() {
        if float > 0.0 { "Infinity".to_owned() } else { "-Infinity".to_owned() }
    } else {
        python::float_repr(float)
    });
    Ok(())
}

fn string(text: &str, ascii: bool, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        match letter {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            letter if (letter as u32) < 0x20 || (ascii && !matches!(letter, ' '..='~')) => {
                let mut units = [0u16; 2];
                for unit in letter.encode_utf16(&mut units) {
                    out.push_str(&format!("\\u{unit:04x}"));
                }
            }
            letter => out.push(letter),
        }
    }
    out.push('"');
}

#[cfg(test)]
mod tests {
    use super::*;

    fn dumps(json: serde_json::Value, indent: Option<&str>) -> String {
        let style = Style {
            indent: indent.map(str::to_owned),
            comma: if indent.is_some() { ",".into() } else { ", ".into() },
            colon: ": ".into(),
            sort_keys: false,
            ascii: false,
        };
        let mut out = String::new();
        write(&Value::from(minijinja::value::Serde(json)), &style, 0, &mut out).unwrap();
        out
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let value = serde_json::json!({"b": [1, 2.5, 1e16, 1.0, 1e-5], "a": {"é\u{7f}": null, "x": true}, "e": [], "f": {}});
        assert_eq!(
            dumps(value.clone(), None),
            "{\"b\": [1, 2.5, 1e+16, 1.0, 1e-05], \"a\": {\"é\u{7f}\": null, \"x\": true}, \"e\": [], \"f\": {}}"
        );
        assert_eq!(
            dumps(serde_json::json!({"a": [1, {"b": "\n\"<"}], "e": []}), Some("  ")),
            "{\n  \"a\": [\n    1,\n    {\n      \"b\": \"\\n\\\"<\"\n    }\n  ],\n  \"e\": []\n}"
        );
    }
}
