//! Filters over lists and numbers that follow Jinja2 where the engine does not, with the meter running.

use std::sync::Arc;

use minijinja::value::{Kwargs, Rest, Value};
use minijinja::{Environment, Error, State, filters as engine};

use super::arguments::{argument, call, invalid};
use super::budget::Budget;
use super::{methods, operators};

fn count(value: Option<Value>, default: usize) -> Result<usize, Error> {
    value.map_or(Ok(default), |value| {
        value.as_usize().ok_or_else(|| invalid("a number of at least 0 is needed"))
    })
}

/// Adds the filters to an environment.
pub(crate) fn install(env: &mut Environment<'_>, budget: &Arc<Budget>) {
    let meter = budget.clone();
    env.add_filter("sum", move |state: &mut State<'_, '_>, args: Rest<Value>, named: Kwargs| {
        sum(&meter, state, &args, &named)
    });
    for (name, filter) in [
        ("batch", Value::from_function(engine::batch)),
        ("slice", Value::from_function(engine::slice)),
    ] {
        let meter = budget.clone();
        env.add_filter(name, move |state: &mut State<'_, '_>, args: Rest<Value>, named: Kwargs| {
            let key = if name == "batch" { "linecount" } else { "slices" };
            let groups = count(argument(&args, 1, &named, key)?, 0)?;
            let fill = argument(&args, 2, &named, "fill_with")?;
            named.assert_all_used()?;
            // The last batch is filled up, and so many slices are made.
            meter.pay((groups as u64).saturating_mul(128))?;
            let items = args.first().cloned().unwrap_or_default();
            let args: Vec<Value> = [items, Value::from(groups)].into_iter().chain(fill).collect();
            call(&meter, state, &filter, &args)
        });
    }
    let meter = budget.clone();
    env.add_filter("wordcount", move |value: &Value| -> Result<usize, Error> {
        Ok(methods::count_words(&meter.text(value)?))
    });
    let meter = budget.clone();
    env.add_filter("truncate", move |value: &Value, args: Rest<Value>, named: Kwargs| {
        truncate(&meter, value, &args, &named)
    });
    let meter = budget.clone();
    env.add_filter("center", move |value: &Value, width: Option<Value>| {
        let text = meter.text(value)?;
        methods::padded(&meter, &text, "center", &width.unwrap_or(Value::from(80)), ' ')
    });
    let meter = budget.clone();
    env.add_filter("indent", move |value: &Value, args: Rest<Value>, named: Kwargs| {
        indent(&meter, value, &args, &named)
    });
    let meter = budget.clone();
    let dictsort = Value::from_function(engine::dictsort);
    env.add_filter(
        "dictsort",
        move |state: &mut State<'_, '_>, args: Rest<Value>, named: Kwargs| {
            let items = args.first().cloned().unwrap_or_default();
            let mut options = Vec::new();
            for (at, name) in [(1, "case_sensitive"), (2, "by"), (3, "reverse")] {
                options.extend(argument(&args, at, &named, name)?.map(|value| (name, value)));
            }
            named.assert_all_used()?;
            call(&meter, state, &dictsort, &[items, Value::from(Kwargs::from_iter(options))])
        },
    );
}

fn sum(
    meter: &Budget,
    state: &mut State<'_, '_>,
    args: &[Value],
    named: &Kwargs,
) -> Result<Value, Error> {
    let items = args.first().cloned().unwrap_or_default();
    let attribute = argument(args, 1, named, "attribute")?;
    let mut total = argument(args, 2, named, "start")?.unwrap_or(Value::from(0));
    named.assert_all_used()?;
    let items = match attribute {
        None => items,
        Some(attribute) => {
            let named = Value::from(Kwargs::from_iter([("attribute", attribute)]));
            call(meter, state, &Value::from_function(engine::map), &[items, named])?
        }
    };
    if total.as_str().is_some() {
        return Err(invalid("texts cannot be summed; join them"));
    }
    for item in meter.list(&items)? {
        total = operators::add(meter, &[total, item])?;
    }
    Ok(total)
}

/// Jinja2's `truncate`: up to `leeway` characters more than `length` stay.
fn truncate(meter: &Budget, value: &Value, args: &[Value], named: &Kwargs) -> Result<Value, Error> {
    let text = meter.text(value)?;
    let length = count(argument(args, 0, named, "length")?, 255)?;
    let kill_words = argument(args, 1, named, "killwords")?.is_some_and(|kill| kill.is_true());
    let end = argument(args, 2, named, "end")?;
    let end = end.map_or(Ok("...".to_owned()), |end| meter.text(&end))?;
    let leeway = count(argument(args, 3, named, "leeway")?, 5)?;
    named.assert_all_used()?;
    let shortened = length
        .checked_sub(end.chars().count())
        .ok_or_else(|| invalid("the length of truncate is shorter than its end"))?;
    if text.chars().count() <= length.saturating_add(leeway) {
        return Ok(Value::from(text));
    }
    let shortened: String = text.chars().take(shortened).collect();
    let shortened = if kill_words {
        &shortened
    } else {
        shortened.rsplit_once(' ').map_or(&*shortened, |(shortened, _)| shortened)
    };
    meter.pay_text((shortened.len() + end.len()) as u64)?;
    Ok(Value::from(format!("{shortened}{end}")))
}

/// Jinja2's `indent`: by a number of spaces or a text; not the first line and empty ones, unless requested.
fn indent(meter: &Budget, value: &Value, args: &[Value], named: &Kwargs) -> Result<Value, Error> {
    let text = meter.text(value)?;
    let width = argument(args, 0, named, "width")?.unwrap_or(Value::from(4));
    let first = argument(args, 1, named, "first")?.is_some_and(|first| first.is_true());
    let blank = argument(args, 2, named, "blank")?.is_some_and(|blank| blank.is_true());
    named.assert_all_used()?;
    let by = match width.as_str() {
        Some(by) => by.to_owned(),
        None => {
            let width = width.as_i64().ok_or_else(|| invalid("the width must be an integer"))?;
            let width = usize::try_from(width).unwrap_or(0);
            meter.pay_text(width as u64)?;
            " ".repeat(width)
        }
    };
    let lines = methods::lines(&text, false);
    let size = (lines.len() as u64 + 1).saturating_mul(by.len() as u64 + 1);
    meter.pay_text(size.saturating_add(text.len() as u64))?;
    let mut out = String::new();
    for (index, line) in lines.into_iter().enumerate() {
        if index > 0 {
            out.push('\n');
        }
        if if index == 0 { first } else { blank || !line.is_empty() } {
            out.push_str(&by);
        }
        out.push_str(line);
    }
    // A line end at the end of a text is the beginning of one more, empty line.
    if text.is_empty() || methods::ends_line(&text) {
        out.push_str(if text.is_empty() { "" } else { "\n" });
        out.push_str(if blank && !text.is_empty() || first && text.is_empty() { &by } else { "" });
    }
    Ok(Value::from(out))
}
