//! The operators of the template language that make or compare large values, with the meter running.
//!
//! The engine bounds steps, not sizes: `~`, `+`, `*`, slices and comparisons count as one step whatever they handle. So
//! these instructions are exchanged, one for one, for calls of the filters here, which do the same and pay for it.

use std::sync::Arc;

use minijinja::machinery::{Instruction, Instructions};
use minijinja::value::{Rest, Tuple, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind};

use super::arguments::invalid;
use super::budget::{Budget, Stop};
use super::percent;

const JOIN: &str = "operator:~";
const ADD: &str = "operator:+";
const MULTIPLY: &str = "operator:*";
const REMAINDER: &str = "operator:%";
const FLOOR_DIVIDE: &str = "operator://";
const SLICE: &str = "operator:[]";
const WEIGH: &str = "operator:weigh";
const LIST: &str = "list:";
const TUPLE: &str = "tuple:";
const MAP: &str = "map:";
const COMPARISONS: [(&str, &str); 7] = [
    ("operator:==", "a == b"),
    ("operator:!=", "a != b"),
    ("operator:<", "a < b"),
    ("operator:<=", "a <= b"),
    ("operator:>", "a > b"),
    ("operator:>=", "a >= b"),
    ("operator:in", "a in b"),
];
/// Marks a filter that the engine is not to cache by its position.
const NOT_CACHED: u8 = u8::MAX;

/// Exchanges the instructions; the error names one for which there is no metered form.
pub(crate) fn exchange(instructions: &mut Instructions<'_>) -> Result<(), &'static str> {
    let (mut index, mut chains) = (0, Vec::new());
    while let Some(instruction) = instructions.get_mut(index) {
        let filter = |name, count| Some(Instruction::ApplyFilter(name, Some(count), NOT_CACHED));
        let count =
            |n: usize| u16::try_from(n).map_err(|_| "a list or map with more than 65535 items");
        let metered = match instruction {
            Instruction::StringConcat => filter(JOIN, 2),
            Instruction::Add => filter(ADD, 2),
            Instruction::Mul => filter(MULTIPLY, 2),
            Instruction::Rem => filter(REMAINDER, 2),
            Instruction::IntDiv => filter(FLOOR_DIVIDE, 2),
            Instruction::Slice => filter(SLICE, 4),
            Instruction::Eq => filter(COMPARISONS[0].0, 2),
            Instruction::Ne => filter(COMPARISONS[1].0, 2),
            Instruction::Lt => filter(COMPARISONS[2].0, 2),
            Instruction::Lte => filter(COMPARISONS[3].0, 2),
            Instruction::Gt => filter(COMPARISONS[4].0, 2),
            Instruction::Gte => filter(COMPARISONS[5].0, 2),
            Instruction::In => filter(COMPARISONS[6].0, 2),
            Instruction::BuildList(Some(n)) if *n > 0 => filter(LIST, count(*n)?),
            Instruction::BuildTuple(Some(n)) if *n > 0 => filter(TUPLE, count(*n)?),
            Instruction::BuildMap(n) if *n > 0 => filter(MAP, count(n.saturating_mul(2))?),
            // Every value of Jinja2's is escaped within it; here none would be.
            Instruction::PushAutoEscape => return Err("{% autoescape %}"),
            Instruction::CompareAndPreserve(_) => {
                chains.push(index);
                None
            }
            _ => None,
        };
        if let Some(metered) = metered {
            *instruction = metered;
        }
        index += 1;
    }
    chain_comparisons(instructions, &chains);
    Ok(())
}

/// Pays for both sides of each comparison within a chain such as `a < b < c` before it is made.
///
/// Jump targets are positions, so nothing can be put between instructions: a comparison becomes a jump to the end of
/// the program, where its sides are weighed and compared, and a jump back.
fn chain_comparisons(instructions: &mut Instructions<'_>, chains: &[u32]) {
    if chains.is_empty() {
        return;
    }
    // Without it a program would run on into what is added after its end.
    let guard = instructions.add(Instruction::Jump(0));
    for &at in chains {
        let Some(place) = instructions.get_mut(at) else { continue };
        let comparison = std::mem::replace(place, Instruction::Jump(guard));
        let weigh = || Instruction::ApplyFilter(WEIGH, Some(1), NOT_CACHED);
        let start = instructions.add(weigh());
        for step in [Instruction::Swap, weigh(), Instruction::Swap, comparison] {
            instructions.add(step);
        }
        let end = instructions.add(Instruction::Jump(at + 1));
        if let Some(place) = instructions.get_mut(at) {
            *place = Instruction::Jump(start);
        }
        if let Some(place) = instructions.get_mut(guard) {
            *place = Instruction::Jump(end + 1);
        }
    }
}

/// The longest text between tags in a program.
pub(crate) fn longest_raw(instructions: &Instructions<'_>) -> usize {
    let raw = |index| match instructions.get(index)? {
        Instruction::EmitRaw(text) => Some(text.len()),
        _ => Some(0),
    };
    (0..).map_while(raw).max().unwrap_or(0)
}

fn two(args: &[Value]) -> Result<(&Value, &Value), Error> {
    match args {
        [left, right] => Ok((left, right)),
        _ => Err(Error::from(ErrorKind::MissingArgument)),
    }
}

/// An operator as a filter of its operands.
type Operator = fn(&Budget, &[Value]) -> Result<Value, Error>;

const OPERATORS: [(&str, Operator); 10] = [
    (JOIN, join),
    (ADD, add),
    (MULTIPLY, multiply),
    (REMAINDER, remainder),
    (FLOOR_DIVIDE, floor_divide),
    (SLICE, slice),
    (WEIGH, weigh),
    (LIST, list),
    (TUPLE, tuple),
    (MAP, map),
];

/// Adds the metered operators to an environment.
pub(crate) fn install(env: &mut Environment<'_>, budget: &Arc<Budget>) {
    for (name, operator) in OPERATORS {
        let meter = budget.clone();
        env.add_filter(name, move |args: Rest<Value>| operator(&meter, &args));
    }
    for (name, expression) in COMPARISONS {
        let meter = budget.clone();
        env.add_filter(name, move |args: Rest<Value>| compare(&meter, expression, &args));
    }
}

fn join(meter: &Budget, args: &[Value]) -> Result<Value, Error> {
    let (left, right) = two(args)?;
    let (mut text, right) = (meter.text(left)?, meter.text(right)?);
    meter.pay_text((text.len() + right.len()) as u64)?;
    text.push_str(&right);
    Ok(Value::from(text))
}

fn compare(meter: &Budget, expression: &str, args: &[Value]) -> Result<Value, Error> {
    let (left, right) = two(args)?;
    meter.weigh_all(args)?;
    if expression.contains(['<', '>']) {
        comparable(left, right)?;
        return evaluate(expression, &as_number(left), &as_number(right));
    }
    if expression == "a in b" && right.as_str().is_some() && left.as_str().is_none() {
        return Err(invalid(format!("a {} cannot be in a text", left.kind())));
    }
    evaluate(expression, left, right)
}

fn weigh(meter: &Budget, args: &[Value]) -> Result<Value, Error> {
    meter.weigh_all(args)?;
    Ok(args.first().map(as_number).unwrap_or_default())
}

fn list(meter: &Budget, args: &[Value]) -> Result<Value, Error> {
    meter.weigh_all(args)?;
    Ok(Value::from(args.to_vec()))
}

fn tuple(meter: &Budget, args: &[Value]) -> Result<Value, Error> {
    meter.weigh_all(args)?;
    Ok(Value::from(Tuple::from(args.to_vec())))
}

fn map(meter: &Budget, args: &[Value]) -> Result<Value, Error> {
    meter.weigh_all(args)?;
    let (pairs, _) = args.as_chunks::<2>();
    Ok(Value::from_pairs(pairs.iter().cloned().map(|[key, value]| (key, value))))
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

/// A list, or a tuple.
fn sequence(items: Vec<Value>, is_tuple: bool) -> Value {
    if is_tuple { Value::from(Tuple::from(items)) } else { Value::from(items) }
}

pub(crate) fn add(meter: &Budget, args: &[Value]) -> Result<Value, Error> {
    let (left, right) = two(args)?;
    if let (Some(left), Some(right)) = (left.as_str(), right.as_str()) {
        meter.pay_text((left.len() + right.len()) as u64)?;
        return Ok(Value::from([left, right].concat()));
    }
    if is_list(left) && is_list(right) && left.is_tuple() == right.is_tuple() {
        let mut items = meter.list(left)?;
        items.extend(meter.list(right)?);
        return Ok(sequence(items, left.is_tuple()));
    }
    if left.is_undefined() || right.is_undefined() {
        return Err(Error::new(
            ErrorKind::UndefinedError,
            "cannot add to a value that is not defined",
        ));
    }
    if is_list(left) || is_list(right) {
        return Err(invalid(format!("cannot add a {} and a {}", left.kind(), right.kind())));
    }
    evaluate("a + b", left, right)
}

/// How often a text or a list is repeated: never for a number below zero, as in Python.
fn repetitions(times: &Value) -> Result<usize, Error> {
    if times.kind() == ValueKind::Bool {
        return Ok(times.is_true().into());
    }
    if !times.is_integer() {
        return Err(invalid("cannot repeat by a number that is not whole"));
    }
    let times = times.as_i64().ok_or_else(|| invalid("cannot repeat that often"))?;
    Ok(usize::try_from(times).unwrap_or(0))
}

fn multiply(meter: &Budget, args: &[Value]) -> Result<Value, Error> {
    let (left, right) = two(args)?;
    let is_count = |value: &Value| value.is_number() || value.kind() == ValueKind::Bool;
    let (many, times) = if is_count(left) { (right, left) } else { (left, right) };
    if !is_count(times) || (many.as_str().is_none() && !is_list(many)) {
        return evaluate("a * b", left, right);
    }
    let times = repetitions(times)?;
    if let Some(text) = many.as_str() {
        meter.pay_text((text.len() as u64).saturating_mul(times as u64))?;
        return Ok(Value::from(text.repeat(times)));
    }
    let items = meter.list(many)?;
    // Nothing is paid for an empty list, however often it is repeated.
    let times = if items.is_empty() { 0 } else { times };
    meter.pay((items.len() as u64).saturating_mul(times as u64).saturating_mul(64))?;
    Ok(sequence(std::iter::repeat_n(&items, times).flatten().cloned().collect(), many.is_tuple()))
}

/// A truth value as the number that Python compares it as; the engine orders it by its type.
fn as_number(value: &Value) -> Value {
    match value.kind() {
        ValueKind::Bool => Value::from(i64::from(value.is_true())),
        _ => value.clone(),
    }
}

/// Refuses to order what Python does not order.
fn comparable(left: &Value, right: &Value) -> Result<(), Error> {
    let number = |value: &Value| matches!(value.kind(), ValueKind::Number | ValueKind::Bool);
    let same = (number(left) && number(right))
        || (left.as_str().is_some() && right.as_str().is_some())
        || (is_list(left) && is_list(right) && left.is_tuple() == right.is_tuple());
    if same {
        return Ok(());
    }
    Err(invalid(format!("a {} and a {} have no order", left.kind(), right.kind())))
}

/// `%`: fills a text, or gives the remainder with the sign of the divisor.
fn remainder(meter: &Budget, args: &[Value]) -> Result<Value, Error> {
    let (left, right) = two(args)?;
    if let Some(pattern) = left.as_str() {
        return percent::fill(meter, pattern, right).map(Value::from);
    }
    divide(
        (left, right),
        "a % b",
        |left, right| {
            let rest = left.checked_rem(right)?;
            Some(if rest != 0 && (rest < 0) != (right < 0) { rest + right } else { rest })
        },
        |left, right| {
            let rest = left % right;
            if rest != 0.0 && (rest < 0.0) != (right < 0.0) { rest + right } else { rest }
        },
    )
}

/// `//`: the quotient, rounded down.
fn floor_divide(_: &Budget, args: &[Value]) -> Result<Value, Error> {
    divide(
        two(args)?,
        "a // b",
        |left, right| {
            let (quotient, rest) = (left.checked_div(right)?, left.checked_rem(right)?);
            Some(quotient - i64::from(rest != 0 && (rest < 0) != (right < 0)))
        },
        |left, right| (left / right).floor(),
    )
}

/// Divides two whole numbers, or two numbers; what are none are left to the engine's own `expression`.
fn divide(
    (left, right): (&Value, &Value),
    expression: &str,
    of_whole: impl Fn(i64, i64) -> Option<i64>,
    of_floats: impl Fn(f64, f64) -> f64,
) -> Result<Value, Error> {
    let by_zero = || invalid("division by zero");
    if let (Some(left), Some(right)) = (whole(left), whole(right)) {
        return of_whole(left, right).map(Value::from).ok_or_else(by_zero);
    }
    match floats(left, right) {
        Some((_, 0.0)) => Err(by_zero()),
        Some((left, right)) => Ok(Value::from(of_floats(left, right))),
        None => evaluate(expression, left, right),
    }
}

fn whole(value: &Value) -> Option<i64> {
    match value.kind() {
        ValueKind::Bool => Some(i64::from(value.is_true())),
        ValueKind::Number if value.is_integer() => value.as_i64(),
        _ => None,
    }
}

fn floats(left: &Value, right: &Value) -> Option<(f64, f64)> {
    let float = |value: &Value| match value.kind() {
        ValueKind::Bool => Some(f64::from(u8::from(value.is_true()))),
        ValueKind::Number => f64::try_from(value.clone()).ok(),
        _ => None,
    };
    Some((float(left)?, float(right)?))
}

fn slice(meter: &Budget, args: &[Value]) -> Result<Value, Error> {
    let [value, start, stop, step] = args else {
        return Err(Error::from(ErrorKind::MissingArgument));
    };
    let bound = |value: &Value| -> Result<Option<i64>, Error> {
        let value = Some(value).filter(|value| !value.is_none() && !value.is_undefined());
        value.map(|value| value.clone().try_into()).transpose()
    };
    let (start, stop, step) = (bound(start)?, bound(stop)?, bound(step)?.unwrap_or(1));
    if step == 0 {
        return Err(invalid("slice step cannot be zero"));
    }
    if let Some(text) = value.as_str() {
        meter.pay((text.len() as u64).saturating_mul(4))?;
        let letters: Vec<char> = text.chars().collect();
        let picked = picks(letters.len(), start, stop, step).filter_map(|at| letters.get(at));
        return meter.keep(Value::from(picked.collect::<String>()));
    }
    if value.is_undefined() {
        return Err(Error::from(ErrorKind::UndefinedError));
    }
    if !is_list(value) {
        return Ok(Value::UNDEFINED);
    }
    let items = meter.list(value)?;
    let picked: Vec<Value> =
        picks(items.len(), start, stop, step).filter_map(|at| items.get(at).cloned()).collect();
    meter.keep(sequence(picked, value.is_tuple()))
}

/// The places that a slice picks, as Python's `slice.indices` gives them.
fn picks(
    length: usize,
    start: Option<i64>,
    stop: Option<i64>,
    step: i64,
) -> impl Iterator<Item = usize> {
    let length = i64::try_from(length).unwrap_or(i64::MAX);
    let (lowest, highest) = if step < 0 { (-1, length - 1) } else { (0, length) };
    let place = |at: Option<i64>, default: i64| match at {
        None => default,
        Some(at) if at < 0 => at.saturating_add(length).max(lowest),
        Some(at) => at.min(highest),
    };
    let (first, last) = if step < 0 { (highest, lowest) } else { (lowest, highest) };
    let (mut at, stop) = (place(start, first), place(stop, last));
    std::iter::from_fn(move || {
        let inside = if step < 0 { at > stop } else { at < stop };
        let picked = at;
        at = at.saturating_add(step);
        if inside { usize::try_from(picked).ok() } else { None }
    })
}

/// An operation on bounded operands, by the engine's own rules.
fn evaluate(expression: &str, a: &Value, b: &Value) -> Result<Value, Error> {
    thread_local! {
        static PLAIN: Environment<'static> = Environment::empty();
    }
    let context = Value::from_pairs([("a", a.clone()), ("b", b.clone())]);
    PLAIN.with(|env| env.compile_expression(expression)?.eval(context))
}

/// The error for a form that cannot be metered.
pub(crate) fn unmetered(budget: &Budget, what: &str) -> Error {
    budget.stop(Stop::Limit(format!("{what} is not supported")))
}
