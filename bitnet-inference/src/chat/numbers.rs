//! Jinja2's filters `round`, `int` and `float`.

use minijinja::value::{Kwargs, Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind};

use super::arguments::{argument, invalid};

/// Adds the filters to an environment.
pub(crate) fn install(env: &mut Environment<'_>) {
    env.add_filter("round", round);
    env.add_filter("int", int);
    env.add_filter("float", float);
}

/// `common` rounds half to even, as Python does on the exact decimal value; a float stays one.
fn round(value: &Value, args: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let precision = argument(&args, 0, &named, "precision")?;
    let precision = precision.map_or(Some(0), |precision| precision.as_i64());
    let precision = precision.filter(|precision| (-300..=300).contains(precision));
    let precision = precision.ok_or_else(|| invalid("a precision of -300 to 300 is supported"))?;
    let way = argument(&args, 1, &named, "method")?;
    let way = way.as_ref().and_then(Value::as_str).unwrap_or("common").to_owned();
    named.assert_all_used()?;
    if !value.is_number() {
        return Err(invalid("only numbers can be rounded"));
    }
    if way == "common" && value.is_integer() && precision >= 0 {
        return Ok(value.clone());
    }
    let float = f64::try_from(value.clone())?;
    let scale = 10f64.powi(precision.unsigned_abs() as i32);
    let rounded = match (way.as_str(), usize::try_from(precision)) {
        // Formatting rounds the exact value, half to even.
        ("common", Ok(digits)) => format!("{float:.digits$}").parse().unwrap_or(float),
        ("common", Err(_)) if value.is_integer() => {
            return Err(invalid("integers can't be rounded to tens"));
        }
        ("common", Err(_)) => (float / scale).round_ties_even() * scale,
        ("ceil", Ok(_)) => (float * scale).ceil() / scale,
        ("ceil", Err(_)) => (float / scale).ceil() * scale,
        ("floor", Ok(_)) => (float * scale).floor() / scale,
        ("floor", Err(_)) => (float / scale).floor() * scale,
        _ => return Err(invalid("the method must be common, ceil or floor")),
    };
    Ok(Value::from(rounded))
}

/// A whole number from a text in a base, or from a number by cutting its fraction off; else the default.
fn int(value: &Value, args: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let default = argument(&args, 0, &named, "default")?.unwrap_or(Value::from(0));
    let base = argument(&args, 1, &named, "base")?.map_or(Some(10), |base| base.as_i64());
    named.assert_all_used()?;
    let base =
        base.and_then(|base| u32::try_from(base).ok()).filter(|base| (2..=36).contains(base));
    let base = base.ok_or_else(|| invalid("a base of 2 to 36 is supported"))?;
    let cut = |float: f64| -> Value {
        if float.is_finite() && float.abs() < 1e30 {
            Value::from(float.trunc() as i128)
        } else {
            default.clone()
        }
    };
    Ok(match value.kind() {
        ValueKind::Undefined => return Err(Error::from(ErrorKind::UndefinedError)),
        ValueKind::Bool => Value::from(i64::from(value.is_true())),
        ValueKind::Number if value.is_integer() => value.clone(),
        ValueKind::Number => cut(f64::try_from(value.clone())?),
        _ => match value.as_str() {
            None => default,
            Some(text) => match whole(text.trim(), base) {
                Some(number) => Value::from(number),
                None => text.trim().parse().map_or_else(|_| default.clone(), cut),
            },
        },
    })
}

fn whole(text: &str, base: u32) -> Option<i128> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text.strip_prefix('+').unwrap_or(text)),
    };
    let prefixes: &[&str] = match base {
        16 => &["0x", "0X"],
        8 => &["0o", "0O"],
        2 => &["0b", "0B"],
        _ => &[],
    };
    let prefixed = prefixes.iter().find_map(|prefix| digits.strip_prefix(prefix));
    let digits = prefixed.unwrap_or(digits).replace('_', "");
    let number =
        i128::from_str_radix(&digits, base).ok().filter(|_| !digits.starts_with(['+', '-']))?;
    Some(if negative { -number } else { number })
}

/// A float from a text or a number; else the default.
fn float(value: &Value, args: Rest<Value>, named: Kwargs) -> Result<Value, Error> {
    let default = argument(&args, 0, &named, "default")?.unwrap_or(Value::from(0.0));
    named.assert_all_used()?;
    Ok(match value.kind() {
        ValueKind::Undefined => return Err(Error::from(ErrorKind::UndefinedError)),
        ValueKind::Bool => Value::from(if value.is_true() { 1.0 } else { 0.0 }),
        ValueKind::Number => Value::from(f64::try_from(value.clone())?),
        _ => {
            let parsed = value.as_str().and_then(|text| text.trim().parse::<f64>().ok());
            parsed.map_or(default, Value::from)
        }
    })
}
