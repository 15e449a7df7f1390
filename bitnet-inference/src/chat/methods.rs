//! Python's methods of texts, lists and maps, with the meter running.

use std::sync::LazyLock;

use fancy_regex::Regex;
use minijinja::value::{Kwargs, Rest, Tuple, Value, ValueKind, from_args};
use minijinja::{Error, State};

use super::arguments::invalid;
use super::budget::{Budget, Stop};

/// Calls a method of a value.
pub(crate) fn method(
    meter: &Budget,
    state: &mut State<'_, '_>,
    value: &Value,
    method: &str,
    args: &[Value],
) -> Result<Value, Error> {
    meter.pay(64)?;
    if let Some(text) = value.as_str() {
        meter.pay(text.len() as u64)?;
        meter.weigh_all(args)?;
        if let Some(made) = text_method(meter, text, method, args)? {
            return Ok(made);
        }
    } else if matches!(value.kind(), ValueKind::Seq) || !args.is_empty() {
        meter.weigh(value)?;
        meter.weigh_all(args)?;
    } else {
        meter.pay(value.len().unwrap_or(1) as u64 * 64)?;
    }
    match (value.kind(), method, args) {
        // Nothing can change a value in place, so it is its own copy.
        (ValueKind::Seq | ValueKind::Map, "copy", []) => return Ok(value.clone()),
        (ValueKind::Seq, "index", [wanted]) => {
            let at = value.try_iter()?.checked().enumerate();
            for (at, item) in at {
                if item? == *wanted {
                    return Ok(Value::from(at));
                }
            }
            return Err(invalid("the value is not in the list"));
        }
        _ => {}
    }
    let made = minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)?;
    meter.keep(made)
}

/// The methods that are written here; `None` for any other.
fn text_method(
    meter: &Budget,
    text: &str,
    method: &str,
    args: &[Value],
) -> Result<Option<Value>, Error> {
    let letters = args.first().and_then(Value::as_str);
    Ok(Some(match (method, args) {
        ("strip", [] | [_]) => Value::from(trimmed(text, letters, true, true)),
        ("lstrip", [] | [_]) => Value::from(trimmed(text, letters, true, false)),
        ("rstrip", [] | [_]) => Value::from(trimmed(text, letters, false, true)),
        ("title", []) => meter.keep(Value::from(titled(text)))?,
        ("swapcase", []) => meter.keep(Value::from(swapped(text)))?,
        ("split" | "rsplit", _) => split(meter, text, args, method == "rsplit")?,
        ("splitlines", [] | [_]) => {
            meter.pay(text.len() as u64 * 64)?;
            lines(text, args.first().is_some_and(Value::is_true))
                .into_iter()
                .map(Value::from)
                .collect()
        }
        ("partition" | "rpartition", [_]) => {
            partition(text, letters.ok_or_else(must_be_text)?, method == "rpartition")?
        }
        ("removeprefix", [_]) => {
            let prefix = letters.ok_or_else(must_be_text)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        ("removesuffix", [_]) => {
            let suffix = letters.ok_or_else(must_be_text)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        ("ljust" | "rjust" | "center" | "zfill", [width]) => {
            padded(meter, text, method, width, if method == "zfill" { '0' } else { ' ' })?
        }
        ("ljust" | "rjust" | "center", [width, fill]) => {
            let mut fill = fill.as_str().unwrap_or_default().chars();
            match (fill.next(), fill.next()) {
                (Some(fill), None) => padded(meter, text, method, width, fill)?,
                _ => return Err(invalid("the fill character must be exactly one character long")),
            }
        }
        ("find" | "rfind" | "index" | "rindex" | "count", [_] | [_, _] | [_, _, _]) => {
            search(text, method, letters.ok_or_else(must_be_text)?, &args[1..])?
        }
        ("startswith" | "endswith", [wanted, rest @ ..]) if rest.len() <= 2 => {
            let (part, _) = part_of(text, rest)?.unwrap_or(("", 0));
            let begins = |wanted: &Value| -> Result<bool, Error> {
                let wanted = wanted.as_str().ok_or_else(must_be_text)?;
                Ok(if method == "startswith" {
                    part.starts_with(wanted)
                } else {
                    part.ends_with(wanted)
                })
            };
            if wanted.as_str().is_some() {
                Value::from(begins(wanted)?)
            } else if wanted.is_tuple() {
                let all = meter.list(wanted)?;
                Value::from(all.iter().map(begins).collect::<Result<Vec<_>, _>>()?.contains(&true))
            } else {
                return Err(must_be_text());
            }
        }
        ("isspace", []) => Value::from(!text.is_empty() && text.chars().all(is_space)),
        ("isalpha", []) => Value::from(consists_of(&ALPHA, text)),
        ("isalnum", []) => Value::from(consists_of(&ALNUM, text)),
        ("isdecimal", []) => Value::from(consists_of(&DECIMAL, text)),
        ("isdigit", []) => Value::from(consists_of(&DIGIT, text)),
        ("join", [items]) => join(meter, items, text)?,
        ("replace", [from, to, rest @ ..]) => {
            let (from, to) = (meter.text(from)?, meter.text(to)?);
            let (rest, named): (Rest<Value>, Kwargs) = from_args(rest)?;
            let count = rest.first().cloned().or(named.get::<Option<Value>>("count")?);
            named.assert_all_used()?;
            replace(meter, text, &from, &to, count.as_ref().and_then(Value::as_i64))?
        }
        ("format", _) => {
            let all = [Value::from(text)];
            check_format(meter, &all, args)?;
            return Ok(None);
        }
        _ => return Ok(None),
    }))
}

fn must_be_text() -> Error {
    invalid("the argument must be a text")
}

static ALPHA: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\p{L}+$").ok());
static ALNUM: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^[\p{L}\p{N}]+$").ok());
static DECIMAL: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"^\p{Nd}+$").ok());
/// Decimal digits, superscripts, subscripts and digits in circles.
static DIGIT: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(
        r"^[\p{Nd}\x{b2}\x{b3}\x{b9}\x{2070}\x{2074}-\x{2079}\x{2080}-\x{2089}\x{2460}-\x{2468}]+$",
    )
    .ok()
});
/// What Python's `\w+` finds.
static WORD: LazyLock<Option<Regex>> = LazyLock::new(|| Regex::new(r"[\p{L}\p{N}_]+").ok());

fn consists_of(class: &LazyLock<Option<Regex>>, text: &str) -> bool {
    // `$` also matches before a newline at the end.
    let regex = class.as_ref();
    !text.ends_with('\n') && regex.is_some_and(|regex| regex.is_match(text).unwrap_or(false))
}

/// The number of words in a text.
pub(crate) fn count_words(text: &str) -> usize {
    WORD.as_ref().map_or(0, |regex| regex.find_iter(text).count())
}

/// What Python's `str.isspace` holds to be white space.
pub(crate) fn is_space(letter: char) -> bool {
    letter.is_whitespace() || matches!(letter, '\u{1c}'..='\u{1f}')
}

pub(crate) fn trimmed<'t>(text: &'t str, letters: Option<&str>, start: bool, end: bool) -> &'t str {
    let cut =
        |letter: char| letters.map_or_else(|| is_space(letter), |letters| letters.contains(letter));
    let text = if start { text.trim_start_matches(cut) } else { text };
    if end { text.trim_end_matches(cut) } else { text }
}

/// Python's `str.title`: a capital after everything that has no case.
fn titled(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for letter in text.chars() {
        if inside {
            out.extend(letter.to_lowercase());
        } else {
            out.extend(letter.to_uppercase());
        }
        inside = letter.is_lowercase() || letter.is_uppercase();
    }
    out
}

fn swapped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for letter in text.chars() {
        if letter.is_uppercase() {
            out.extend(letter.to_lowercase());
        } else {
            out.extend(letter.to_uppercase());
        }
    }
    out
}

/// `split` and `rsplit`: by a separator, or without one at runs of white space.
fn split(meter: &Budget, text: &str, args: &[Value], from_right: bool) -> Result<Value, Error> {
    let (args, named): (Rest<Value>, Kwargs) = from_args(args)?;
    let separator = args.first().cloned().or(named.get::<Option<Value>>("sep")?);
    let most = args.get(1).cloned().or(named.get::<Option<Value>>("maxsplit")?);
    named.assert_all_used()?;
    let most = match most {
        None => -1,
        Some(most) => most.as_i64().ok_or_else(|| invalid("maxsplit must be an integer"))?,
    };
    let most = usize::try_from(most).unwrap_or(usize::MAX - 1);
    meter.pay(text.len() as u64 * 64)?;
    let separator = separator.filter(|separator| !separator.is_none());
    let Some(separator) = separator else {
        return Ok(words(text, most, from_right).into_iter().map(Value::from).collect());
    };
    let separator = separator.as_str().ok_or_else(must_be_text)?;
    if separator.is_empty() {
        return Err(invalid("empty separator"));
    }
    Ok(if from_right {
        let mut parts: Vec<&str> = text.rsplitn(most + 1, separator).collect();
        parts.reverse();
        parts.into_iter().map(Value::from).collect()
    } else {
        text.splitn(most + 1, separator).map(Value::from).collect()
    })
}

fn words(text: &str, most: usize, from_right: bool) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = trimmed(text, None, !from_right, from_right);
    while !rest.is_empty() {
        if words.len() == most {
            words.push(rest);
            break;
        }
        let cut = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(at) = cut else {
            words.push(rest);
            break;
        };
        let (before, after) = rest.split_at(at);
        if from_right {
            words.push(trimmed(after, None, true, false));
            rest = trimmed(before, None, false, true);
        } else {
            words.push(before);
            rest = trimmed(after, None, true, false);
        }
    }
    if from_right {
        words.reverse();
    }
    words
}

/// Where Python's `splitlines` ends a line.
fn is_line_end(letter: char) -> bool {
    matches!(
        letter,
        '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
    )
}

/// Whether the last line of a text is ended.
pub(crate) fn ends_line(text: &str) -> bool {
    text.ends_with(is_line_end)
}

/// The lines of a text, as `splitlines` gives them.
pub(crate) fn lines(text: &str, keep_ends: bool) -> Vec<&str> {
    let (mut lines, mut rest) = (Vec::new(), text);
    while let Some(at) = rest.find(is_line_end) {
        let (line, after) = rest.split_at(at);
        let length = if after.starts_with("\r\n") {
            2
        } else {
            after.chars().next().map_or(0, char::len_utf8)
        };
        let whole = rest.get(..at + length).unwrap_or(line);
        lines.push(if keep_ends { whole } else { line });
        rest = after.get(length..).unwrap_or_default();
    }
    if !rest.is_empty() {
        lines.push(rest);
    }
    lines
}

fn partition(text: &str, separator: &str, from_right: bool) -> Result<Value, Error> {
    if separator.is_empty() {
        return Err(invalid("empty separator"));
    }
    let cut = if from_right { text.rsplit_once(separator) } else { text.split_once(separator) };
    let parts = match cut {
        Some((before, after)) => [before, separator, after],
        None if from_right => ["", "", text],
        None => [text, "", ""],
    };
    Ok(Value::from(Tuple::from(parts.map(Value::from))))
}

/// `ljust`, `rjust`, `center` and `zfill`.
pub(crate) fn padded(
    meter: &Budget,
    text: &str,
    method: &str,
    width: &Value,
    fill: char,
) -> Result<Value, Error> {
    let width = width.as_i64().filter(|_| width.is_number());
    let width = width.ok_or_else(|| invalid("the width must be an integer"))?;
    let width = usize::try_from(width).unwrap_or(0);
    let length = text.chars().count();
    let missing = width.saturating_sub(length);
    let cost = (missing as u64).saturating_mul(fill.len_utf8() as u64);
    meter.pay_text(cost.saturating_add(text.len() as u64))?;
    let fills = |count: usize| std::iter::repeat_n(fill, count);
    let mut out = String::with_capacity(text.len() + missing * fill.len_utf8());
    let before = match method {
        "ljust" => 0,
        // CPython puts the odd space on the left where the width is odd.
        "center" => missing / 2 + (missing & width & 1),
        _ => missing,
    };
    let sign = method == "zfill" && text.starts_with(['+', '-']);
    let (sign, body) = text.split_at(usize::from(sign));
    out.push_str(sign);
    out.extend(fills(before));
    out.push_str(body);
    out.extend(fills(missing - before));
    Ok(Value::from(out))
}

/// The part of a text between two positions in characters, and the first
/// position; `None` where it begins beyond the end.
fn part_of<'t>(text: &'t str, bounds: &[Value]) -> Result<Option<(&'t str, usize)>, Error> {
    if bounds.is_empty() {
        return Ok(Some((text, 0)));
    }
    let length = text.chars().count();
    let place = |value: Option<&Value>, default: usize| -> Result<usize, Error> {
        let Some(value) = value.filter(|value| !value.is_none()) else { return Ok(default) };
        let at = value.as_i64().ok_or_else(|| invalid("a position must be an integer"))?;
        let at = if at < 0 { at.saturating_add(length as i64) } else { at };
        Ok(usize::try_from(at).unwrap_or(0))
    };
    let (start, end) = (place(bounds.first(), 0)?, place(bounds.get(1), length)?.min(length));
    if start > end {
        return Ok(None);
    }
    let byte = |at: usize| text.char_indices().nth(at).map_or(text.len(), |(byte, _)| byte);
    Ok(Some((text.get(byte(start)..byte(end)).unwrap_or_default(), start)))
}

/// `find`, `rfind`, `index`, `rindex` and `count`, in characters.
fn search(text: &str, method: &str, wanted: &str, bounds: &[Value]) -> Result<Value, Error> {
    let part = part_of(text, bounds)?;
    if method == "count" {
        let count = part.map_or(0, |(part, _)| match wanted {
            "" => part.chars().count() + 1,
            wanted => part.matches(wanted).count(),
        });
        return Ok(Value::from(count));
    }
    let found = part.and_then(|(part, start)| {
        let at = if method.starts_with('r') { part.rfind(wanted) } else { part.find(wanted) }?;
        Some(start + part.get(..at)?.chars().count())
    });
    match found {
        Some(at) => Ok(Value::from(at)),
        None if method.ends_with("index") => Err(invalid("substring not found")),
        None => Ok(Value::from(-1)),
    }
}

/// Refuses widths of `str.format` that make much from little.
fn check_format(meter: &Budget, text: &[Value], args: &[Value]) -> Result<(), Error> {
    let pattern = text.first().and_then(Value::as_str).unwrap_or_default();
    let mut digits = 0;
    for letter in pattern.chars() {
        digits = if letter.is_ascii_digit() { digits + 1 } else { 0 };
        if digits > 3 {
            return Err(
                meter.stop(Stop::Limit("a format with a width of more than three digits".into()))
            );
        }
    }
    if pattern.split('{').skip(1).any(|field| !field.contains('}') && !field.is_empty()) {
        return Err(meter.stop(Stop::Limit("a format with a field inside a field".into())));
    }
    let fields = pattern.matches('{').count() as u64;
    let size = text.iter().chain(args).map(|arg| meter.weigh(arg)).sum::<Result<u64, _>>()?;
    meter.pay_text(fields.saturating_mul(size.saturating_add(1000)))
}

pub(crate) fn replace(
    meter: &Budget,
    text: &str,
    from: &str,
    to: &str,
    count: Option<i64>,
) -> Result<Value, Error> {
    let found = if from.is_empty() { text.chars().count() + 1 } else { text.matches(from).count() };
    let times =
        count.and_then(|count| usize::try_from(count).ok()).map_or(found, |count| count.min(found));
    meter.pay_text(
        (text.len() as u64).saturating_add((times as u64).saturating_mul(to.len() as u64)),
    )?;
    Ok(Value::from(text.replacen(from, to, times)))
}

pub(crate) fn join(meter: &Budget, value: &Value, with: &str) -> Result<Value, Error> {
    let mut out = String::new();
    let items = match value.as_str() {
        Some(text) => {
            meter.pay(text.len() as u64 * 64)?;
            text.chars().map(|letter| Value::from(letter.to_string())).collect()
        }
        None => meter.list(value)?,
    };
    for (index, item) in items.iter().enumerate() {
        let text = meter.text(item)?;
        let between = if index > 0 { with } else { "" };
        meter.pay_appended(out.len(), between.len() + text.len())?;
        out.push_str(between);
        out.push_str(&text);
    }
    Ok(Value::from(out))
}
