//! Python's `%` on texts: `'%s of %d' % ('a', 3)`, and the filter `format`.

use std::iter::Peekable;
use std::str::Chars;

use minijinja::Error;
use minijinja::formatting::{FormatStyle, format};
use minijinja::value::{Value, ValueKind};

use super::arguments::invalid;
use super::budget::{Budget, Stop};
use super::python;

/// Largest width or precision.
const MAX_WIDTH: usize = 999;

/// One `%…` of a format.
struct Conversion {
    /// The name in `%(name)s`.
    key: Option<String>,
    /// `-`, `+`, `0`, space and `#`.
    flags: String,
    width: Option<usize>,
    precision: Option<usize>,
    kind: char,
}

/// Fills a format with values: a tuple gives them one after the other,
/// a mapping by name, anything else is the only one.
pub(crate) fn fill(meter: &Budget, pattern: &str, values: &Value) -> Result<String, Error> {
    meter.pay_text(pattern.len() as u64)?;
    let list = if values.is_tuple() { meter.list(values)? } else { vec![values.clone()] };
    let mut rest = list.iter();
    let mut named = false;
    let mut out = String::new();
    let mut letters = pattern.chars().peekable();
    while let Some(letter) = letters.next() {
        if letter != '%' {
            out.push(letter);
            continue;
        }
        let conversion = conversion(meter, &mut letters)?;
        if conversion.kind == '%' {
            out.push('%');
            continue;
        }
        let value = match &conversion.key {
            Some(key) if values.kind() == ValueKind::Map => {
                named = true;
                let value = values.get_item(&Value::from(key.as_str()))?;
                if value.is_undefined() {
                    return Err(invalid(format!("the format names {key:?}, which is missing")));
                }
                value
            }
            Some(_) => return Err(invalid("a format with names requires a mapping")),
            None => rest
                .next()
                .cloned()
                .ok_or_else(|| invalid("not enough arguments for the format"))?,
        };
        let text = convert(meter, &conversion, &value)?;
        meter.pay_appended(out.len(), text.len())?;
        out.push_str(&text);
    }
    if rest.next().is_some() && !named && values.kind() != ValueKind::Map {
        return Err(invalid("not all arguments converted during string formatting"));
    }
    Ok(out)
}

fn conversion(meter: &Budget, letters: &mut Peekable<Chars<'_>>) -> Result<Conversion, Error> {
    let mut key = None;
    if letters.next_if_eq(&'(').is_some() {
        let name: String =
            std::iter::from_fn(|| letters.next_if(|&letter| letter != ')')).collect();
        letters.next();
        key = Some(name);
    }
    let flags =
        std::iter::from_fn(|| letters.next_if(|&letter| "-+ 0#".contains(letter))).collect();
    let number = |letters: &mut Peekable<Chars<'_>>| -> Result<Option<usize>, Error> {
        if letters.peek() == Some(&'*') {
            return Err(meter.stop(Stop::Limit("a format with a width from its arguments".into())));
        }
        let digits: String =
            std::iter::from_fn(|| letters.next_if(char::is_ascii_digit)).take(8).collect();
        if digits.is_empty() {
            return Ok(None);
        }
        match digits.parse() {
            Ok(width) if width <= MAX_WIDTH => Ok(Some(width)),
            _ => {
                let problem = format!("a format with a width of more than {MAX_WIDTH}");
                Err(meter.stop(Stop::Limit(problem)))
            }
        }
    };
    let width = number(letters)?;
    let mut precision = None;
    if letters.next_if_eq(&'.').is_some() {
        precision = Some(number(letters)?.unwrap_or(0));
    }
    while letters.next_if(|letter| "hlL".contains(*letter)).is_some() {}
    let kind = letters.next().ok_or_else(|| invalid("incomplete format"))?;
    Ok(Conversion { key, flags, width, precision, kind })
}

fn convert(meter: &Budget, conversion: &Conversion, value: &Value) -> Result<String, Error> {
    let Conversion { flags, width, precision, kind, .. } = conversion;
    let text = match kind {
        's' => meter.text(value)?,
        'r' | 'a' => {
            let text = meter.repr(value)?;
            if *kind == 'a' && !text.is_ascii() {
                return Err(invalid("%a of a text outside ASCII is not supported"));
            }
            text
        }
        'c' => match (value.as_str(), value.as_i64()) {
            (Some(text), _) if text.chars().count() == 1 => text.to_owned(),
            (None, Some(code)) if value.is_number() => u32::try_from(code)
                .ok()
                .and_then(char::from_u32)
                .ok_or_else(|| invalid("%c requires a character"))?
                .to_string(),
            _ => return Err(invalid("%c requires a number or a single character")),
        },
        'd' | 'i' | 'u' | 'x' | 'X' | 'o' | 'e' | 'E' | 'f' | 'F' | 'g' | 'G' => {
            let number = match value.kind() {
                ValueKind::Bool => Value::from(i64::from(value.is_true())),
                ValueKind::Number => value.clone(),
                _ => return Err(invalid(format!("%{kind} requires a number"))),
            };
            return formatted_number(conversion, number);
        }
        other => return Err(invalid(format!("unsupported format character {other:?}"))),
    };
    let text: String = match precision.filter(|_| *kind != 'c') {
        Some(precision) => text.chars().take(precision).collect(),
        None => text,
    };
    let missing = width.unwrap_or(0).saturating_sub(text.chars().count());
    let spaces = " ".repeat(missing);
    Ok(if flags.contains('-') { text + &spaces } else { spaces + &text })
}

/// A number by the engine's own rules, whose widths and precisions are bounded here.
fn formatted_number(conversion: &Conversion, number: Value) -> Result<String, Error> {
    let Conversion { flags, width, precision, kind, .. } = conversion;
    let whole = "diu".contains(*kind);
    let number = match f64::try_from(number.clone()) {
        // `%d` cuts the fraction off.
        Ok(float) if whole && !number.is_integer() => {
            if !float.is_finite() || float.abs() >= 1e18 {
                return Err(invalid("cannot convert this float to an integer"));
            }
            Value::from(float.trunc() as i64)
        }
        _ if "xXo".contains(*kind) && !number.is_integer() => {
            return Err(invalid(format!("%{kind} requires an integer")));
        }
        _ => number,
    };
    let mut spec = format!("%{flags}");
    if let Some(width) = width {
        spec += &width.to_string();
    }
    if let Some(precision) = precision {
        spec += &format!(".{precision}");
    }
    spec.push(if whole { 'd' } else { *kind });
    format(FormatStyle::Printf, &spec, &[number])
}

impl Budget {
    /// A value as Python's `repr` writes it, paid for while it is written.
    pub(crate) fn repr(&self, value: &Value) -> Result<String, Error> {
        self.weigh(value)?;
        self.written(|out| python::write_repr(value, out))
    }
}
