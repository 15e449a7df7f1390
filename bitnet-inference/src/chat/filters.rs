//! The filters, methods, tests and functions that a template may call, with the meter running.

use std::sync::Arc;

use minijinja::value::{Kwargs, Rest, Tuple, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, State, filters as engine, functions, tests};

use super::arguments::{call, invalid, together, weighed};
use super::budget::{Budget, Stop};
use super::methods::{self, join, replace, trimmed};
use super::{clock, json, numbers, percent, sequences};

/// Filters that the engine has and Jinja2 has not, and those whose text differs from Jinja2's.
const REMOVED: [&str; 6] = ["chain", "zip", "pprint", "urlencode", "lines", "debug"];

/// Gives an environment its filters, methods, tests and functions.
pub(crate) fn install(env: &mut Environment<'_>, budget: &Arc<Budget>, now: u64) {
    for name in REMOVED {
        env.remove_filter(name);
        env.remove_global(name);
    }
    for (name, filter) in bounded_filters() {
        let meter = budget.clone();
        env.add_filter(name, move |state: &mut State<'_, '_>, args: Rest<Value>, named: Kwargs| {
            call(&meter, state, &filter, &together(args, named))
        });
    }
    for (name, test) in comparing_tests() {
        let meter = budget.clone();
        env.add_test(name, move |state: &mut State<'_, '_>, args: Rest<Value>, named: Kwargs| {
            weighed(&meter, state, &test, &together(args, named)).map(|value| value.is_true())
        });
    }
    for (name, function) in [
        ("range", Value::from_function(functions::range)),
        ("dict", Value::from_function(functions::dict)),
        ("namespace", Value::from_function(functions::namespace)),
    ] {
        let meter = budget.clone();
        env.add_function(
            name,
            move |state: &mut State<'_, '_>, args: Rest<Value>, named: Kwargs| {
                weighed(&meter, state, &function, &together(args, named))
            },
        );
    }
    growing_filters(env, budget);
    sequences::install(env, budget);
    numbers::install(env);
    env.add_test("sequence", |value: &Value| {
        matches!(value.kind(), ValueKind::Seq | ValueKind::Map | ValueKind::String)
    });
    // `none` is not iterable in Python; an undefined value is.
    env.add_test("iterable", |value: &Value| {
        use ValueKind::{Iterable, Map, Seq, String, Undefined};
        matches!(value.kind(), Iterable | Map | Seq | String | Undefined)
    });
    env.add_test("callable", |value: &Value| {
        matches!(value.kind(), ValueKind::Plain | ValueKind::Undefined)
    });
    let meter = budget.clone();
    env.add_function("raise_exception", move |message: Value| -> Result<Value, Error> {
        let text = meter.text(&message)?;
        Err(meter.stop(Stop::Raised(text.chars().take(1000).collect())))
    });
    let meter = budget.clone();
    env.add_function("strftime_now", move |format: &str| -> Result<String, Error> {
        meter.pay_text(format.len() as u64 * 16)?;
        clock::strftime(format, now).map_err(invalid)
    });
    let meter = budget.clone();
    env.set_unknown_method_callback(move |state, value, method, args| {
        methods::method(&meter, state, value, method, args)
    });
}

/// Filters whose result is at most a small multiple of their arguments.
fn bounded_filters() -> Vec<(&'static str, Value)> {
    vec![
        ("lower", Value::from_function(engine::lower)),
        ("upper", Value::from_function(engine::upper)),
        ("title", Value::from_function(engine::title)),
        ("capitalize", Value::from_function(engine::capitalize)),
        ("items", Value::from_function(engine::items)),
        ("reverse", Value::from_function(engine::reverse)),
        ("split", Value::from_function(engine::split)),
        ("first", Value::from_function(engine::first)),
        ("last", Value::from_function(engine::last)),
        ("min", Value::from_function(engine::min)),
        ("max", Value::from_function(engine::max)),
        ("sort", Value::from_function(engine::sort)),
        ("list", Value::from_function(engine::list)),
        ("unique", Value::from_function(engine::unique)),
        ("select", Value::from_function(engine::select)),
        ("reject", Value::from_function(engine::reject)),
        ("selectattr", Value::from_function(engine::selectattr)),
        ("rejectattr", Value::from_function(engine::rejectattr)),
        ("map", Value::from_function(engine::map)),
        ("groupby", Value::from_function(engine::groupby)),
        ("length", Value::from_function(engine::length)),
        ("count", Value::from_function(engine::length)),
        ("attr", Value::from_function(engine::attr)),
        ("escape", Value::from_function(engine::escape)),
        ("e", Value::from_function(engine::escape)),
    ]
}

/// Tests that compare two values of any size.
fn comparing_tests() -> Vec<(&'static str, Value)> {
    vec![
        ("eq", Value::from_function(tests::is_eq)),
        ("equalto", Value::from_function(tests::is_eq)),
        ("==", Value::from_function(tests::is_eq)),
        ("ne", Value::from_function(tests::is_ne)),
        ("!=", Value::from_function(tests::is_ne)),
        ("lt", Value::from_function(tests::is_lt)),
        ("lessthan", Value::from_function(tests::is_lt)),
        ("<", Value::from_function(tests::is_lt)),
        ("le", Value::from_function(tests::is_le)),
        ("<=", Value::from_function(tests::is_le)),
        ("gt", Value::from_function(tests::is_gt)),
        ("greaterthan", Value::from_function(tests::is_gt)),
        (">", Value::from_function(tests::is_gt)),
        ("ge", Value::from_function(tests::is_ge)),
        (">=", Value::from_function(tests::is_ge)),
        ("in", Value::from_function(tests::is_in)),
    ]
}

/// Filters whose result can be far longer than their arguments: each computes the length before it writes.
fn growing_filters(env: &mut Environment<'_>, budget: &Arc<Budget>) {
    let meter = budget.clone();
    env.add_filter("trim", move |value: &Value, letters: Option<String>| -> Result<Value, Error> {
        let text = meter.text(value)?;
        Ok(Value::from(trimmed(&text, letters.as_deref(), true, true)))
    });
    for name in ["string", "safe"] {
        let meter = budget.clone();
        env.add_filter(name, move |value: &Value| meter.text(value).map(Value::from));
    }
    let meter = budget.clone();
    env.add_filter("tojson", move |value: &Value, indent: Option<Value>, options: Kwargs| {
        to_json(&meter, value, indent, &options)
    });
    let meter = budget.clone();
    env.add_filter(
        "replace",
        move |value: &Value, from: &Value, to: &Value, count: Option<i64>| {
            let (value, from, to) = (meter.text(value)?, meter.text(from)?, meter.text(to)?);
            replace(&meter, &value, &from, &to, count)
        },
    );
    let meter = budget.clone();
    env.add_filter("join", move |state: &mut State<'_, '_>, args: Rest<Value>, named: Kwargs| {
        let (items, with) = join_options(&meter, state, &args, &named)?;
        join(&meter, &items, &with)
    });
    let meter = budget.clone();
    env.add_filter("format", move |value: &Value, args: Rest<Value>, named: Kwargs| {
        let pattern = meter.text(value)?;
        let has_names = named.args().next().is_some();
        let values = if has_names { Value::from(named) } else { Value::from(Tuple::from(args.0)) };
        percent::fill(&meter, &pattern, &values)
    });
}

fn to_json(
    meter: &Budget,
    value: &Value,
    indent: Option<Value>,
    options: &Kwargs,
) -> Result<String, Error> {
    let indent = match indent {
        Some(indent) => Some(indent),
        None => options.get::<Option<Value>>("indent")?,
    };
    let indent = match indent.filter(|indent| !indent.is_none() && !indent.is_undefined()) {
        None => None,
        Some(indent) => match (indent.as_str(), indent.as_usize()) {
            (Some(text), _) if text.len() <= 16 => Some(text.to_owned()),
            (None, Some(width)) if width <= 16 => Some(" ".repeat(width)),
            _ => return Err(meter.stop(Stop::Limit("an indent of more than 16 for JSON".into()))),
        },
    };
    let (mut comma, mut colon) =
        (if indent.is_some() { "," } else { ", " }.to_owned(), ": ".to_owned());
    if let Some(separators) = options.get::<Option<Vec<String>>>("separators")? {
        match <[String; 2]>::try_from(separators) {
            Ok([item, key]) if item.len() <= 16 && key.len() <= 16 => (comma, colon) = (item, key),
            _ => return Err(invalid("separators must be two short texts")),
        }
    }
    let style = json::Style {
        indent,
        comma,
        colon,
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
        ascii: options.get::<Option<bool>>("ensure_ascii")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let size = meter.weigh(value)?;
    meter.pay_text(size)?;
    meter.pay(size.saturating_mul(6))?;
    let mut out = String::new();
    json::write(value, &style, 0, &mut out)?;
    meter.pay_text(out.len() as u64)?;
    Ok(out)
}

/// The items to join and the text between them; with `attribute` each item's attribute of that name.
fn join_options(
    meter: &Budget,
    state: &mut State<'_, '_>,
    args: &[Value],
    named: &Kwargs,
) -> Result<(Value, String), Error> {
    let items = args.first().ok_or_else(|| Error::from(ErrorKind::MissingArgument))?;
    let with = args.get(1).cloned().or(named.get::<Option<Value>>("d")?);
    let with = with.map_or(Ok(String::new()), |with| meter.text(&with))?;
    let attribute = args.get(2).cloned().or(named.get::<Option<Value>>("attribute")?);
    named.assert_all_used()?;
    let Some(attribute) = attribute else { return Ok((items.clone(), with)) };
    let named = Value::from(Kwargs::from_iter([("attribute", attribute)]));
    let map = Value::from_function(engine::map);
    Ok((call(meter, state, &map, &[items.clone(), named])?, with))
}
