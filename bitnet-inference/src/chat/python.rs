//! Values as Python's `str` and `repr` write them.

use std::fmt::{Error, Result, Write};
use std::sync::LazyLock;

use fancy_regex::Regex;
use minijinja::value::{Value, ValueKind};

/// Characters that `str.isprintable` rejects: control, format, unassigned and private ones, and separators.
static UNPRINTABLE: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[\p{C}\p{Z}]").ok());

/// Writes a value as `str` does; its size and depth were checked before.
pub(crate) fn write_str(value: &Value, out: &mut dyn Write) -> Result {
    match value.kind() {
        ValueKind::String => out.write_str(value.as_str().unwrap_or_default()),
        ValueKind::Undefined => Ok(()),
        _ => write_repr(value, out),
    }
}

/// Writes a value as `repr` does; its size and depth were checked before.
pub(crate) fn write_repr(value: &Value, out: &mut dyn Write) -> Result {
    match value.kind() {
        ValueKind::Undefined => out.write_str("Undefined"),
        ValueKind::None => out.write_str("None"),
        ValueKind::Bool => out.write_str(if value.is_true() { "True" } else { "False" }),
        ValueKind::Number => match f64::try_from(value.clone()) {
            Ok(float) if !value.is_integer() => out.write_str(&float_repr(float)),
            _ => write!(out, "{value}"),
        },
        ValueKind::String => write_quoted(value.as_str().unwrap_or_default(), out),
        ValueKind::Seq | ValueKind::Iterable => {
            let tuple = value.is_tuple();
            out.write_char(if tuple { '(' } else { '[' })?;
            let mut count = 0;
            for item in value.try_iter().map_err(|_| Error)?.checked() {
                if count > 0 {
                    out.write_str(", ")?;
                }
                write_repr(&item.map_err(|_| Error)?, out)?;
                count += 1;
            }
            if tuple && count == 1 {
                out.write_char(',')?;
            }
            out.write_char(if tuple { ')' } else { ']' })
        }
        ValueKind::Map => {
            out.write_char('{')?;
            for (index, key) in value.try_iter().map_err(|_| Error)?.checked().enumerate() {
                let key = key.map_err(|_| Error)?;
                if index > 0 {
                    out.write_str(", ")?;
                }
                write_repr(&key, out)?;
                out.write_str(": ")?;
                write_repr(&value.get_item(&key).map_err(|_| Error)?, out)?;
            }
            out.write_char('}')
        }
        _ => write!(out, "{value}"),
    }
}

fn write_quoted(text: &str, out: &mut dyn Write) -> Result {
    let quote = if text.contains('\'') && !text.contains('"') { '"' } else { '\'' };
    out.write_char(quote)?;
    let mut buffer = [0; 4];
    for letter in text.chars() {
        match letter {
            '\\' => out.write_str("\\\\")?,
            '\n' => out.write_str("\\n")?,
            '\r' => out.write_str("\\r")?,
            '\t' => out.write_str("\\t")?,
            letter if letter == quote => write!(out, "\\{letter}")?,
            ' '..='~' => out.write_char(letter)?,
            letter => {
                let shown = letter.encode_utf8(&mut buffer);
                let hidden = UNPRINTABLE.as_ref().map_or(Ok(false), |regex| regex.is_match(shown));
                match (hidden.unwrap_or(false) || letter == '\u{7f}', letter as u32) {
                    (false, _) => out.write_char(letter)?,
                    (true, code @ ..=0xFF) => write!(out, "\\x{code:02x}")?,
                    (true, code @ ..=0xFFFF) => write!(out, "\\u{code:04x}")?,
                    (true, code) => write!(out, "\\U{code:08x}")?,
                }
            }
        }
    }
    out.write_char(quote)
}

/// A float as `repr` writes it: shortest digits, an exponent below 1e-4 and from 1e16 on, `inf`, `nan`.
pub(crate) fn float_repr(float: f64) -> String {
    if float.is_nan() {
        return "nan".into();
    }
    if float.is_infinite() {
        return if float > 0.0 { "inf" } else { "-inf" }.into();
    }
    let magnitude = float.abs();
    if magnitude != 0.0 && !(1e-4..1e16).contains(&magnitude) {
        let text = format!("{float:e}");
        return match text.split_once('e') {
            Some((digits, exponent)) => match exponent.strip_prefix('-') {
                Some(exponent) => format!("{digits}e-{exponent:0>2}"),
                None => format!("{digits}e+{exponent:0>2}"),
            },
            None => text,
        };
    }
    let text = format!("{float}");
    if text.contains('.') { text } else { text + ".0" }
}
