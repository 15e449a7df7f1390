//! The operators of the template language that make or compare large values, with the meter running.
//!
//! The engine bounds steps, not sizes: `~`, `+`, `*`, slices and comparisons count as one step whatever they handle. So
//! these instructions are exchanged, one for one, for calls of the filters here, which do the same and pay for it.

use std::sync::Arc;

use minijinja::machinery::{Instruction, Instructions};
use minijinja::value::{Rest, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind};

use super::budget::{Budget, Stop};

const JOIN: &str = "operator:~";
const ADD: &str = "operator:+";
const MULTIPLY: &str = "operator:*";
const SLICE: &str = "operator:[]";
const LIST: &str = "list:";
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
    let mut index = 0;
    while let Some(instruction) = instructions.get_mut(index) {
        let filter = |name, count| Some(Instruction::ApplyFilter(name, Some(count), NOT_CACHED));
        let count =
            |n: usize| u16::try_from(n).map_err(|_| "a list or map with more than 65535 items");
        let metered = match instruction {
            Instruction::StringConcat => filter(JOIN, 2),
            Instruction::Add => filter(ADD, 2),
            Instruction::Mul => filter(MULTIPLY, 2),
            Instruction::Slice => filter(SLICE, 4),
            Instruction::Eq => filter(COMPARISONS[0].0, 2),
            Instruction::Ne => filter(COMPARISONS[1].0, 2),
            Instruction::Lt => filter(COMPARISONS[2].0, 2),
            Instruction::Lte => filter(COMPARISONS[3].0, 2),
            Instruction::Gt => filter(COMPARISONS[4].0, 2),
            Instruction::Gte => filter(COMPARISONS[5].0, 2),
            Instruction::In => filter(COMPARISONS[6].0, 2),
            Instruction::BuildList(Some(n)) | Instruction::BuildTuple(Some(n)) if *n > 0 => {
                filter(LIST, count(*n)?)
            }
            Instruction::BuildMap(n) if *n > 0 => filter(MAP, count(n.saturating_mul(2))?),
            Instruction::CompareAndPreserve(_) => {
                return Err("a comparison of more than two values");
            }
            _ => None,
        };
        if let Some(metered) = metered {
            *instruction = metered;
        }
        index += 1;
    }
    Ok(())
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

/// Adds the metered operators to an environment.
pub(crate) fn install(env: &mut Environment<'_>, budget: &Arc<Budget>) {
    let meter = budget.clone();
    env.add_filter(JOIN, move |args: Rest<Value>| -> Result<Value, Error> {
        let (left, right) = two(&args)?;
        let (mut text, right) = (meter.text(left)?, meter.text(right)?);
        meter.pay_text((text.len() + right.len()) as u64)?;
        text.push_str(&right);
        Ok(Value::from(text))
    });
    let meter = budget.clone();
    env.add_filter(ADD, move |args: Rest<Value>| add(&meter, &args));
    let meter = budget.clone();
    env.add_filter(MULTIPLY, move |args: Rest<Value>| multiply(&meter, &args));
    let meter = budget.clone();
    env.add_filter(SLICE, move |args: Rest<Value>| slice(&meter, &args));
    for (name, expression) in COMPARISONS {
        let meter = budget.clone();
        env.add_filter(name, move |args: Rest<Value>| -> Result<Value, Error> {
            let (left, right) = two(&args)?;
            meter.weigh(left)?;
            meter.weigh(right)?;
            evaluate(expression, &[("a", left), ("b", right)])
        });
    }
    let meter = budget.clone();
    env.add_filter(LIST, move |args: Rest<Value>| -> Result<Value, Error> {
        args.iter().try_for_each(|item| meter.weigh(item).map(|_| ()))?;
        Ok(Value::from(args.0))
    });
    let meter = budget.clone();
    env.add_filter(MAP, move |args: Rest<Value>| -> Result<Value, Error> {
        args.iter().try_for_each(|item| meter.weigh(item).map(|_| ()))?;
        let pairs = args
            .chunks_exact(2)
            .filter_map(|pair| Some((pair.first()?.clone(), pair.get(1)?.clone())));
        Ok(Value::from_pairs(pairs))
    });
}

fn is_list(value: &Value) -> bool {
    matches!(value.kind(), ValueKind::Seq | ValueKind::Iterable)
}

fn add(meter: &Budget, args: &[Value]) -> Result<Value, Error> {
    let (left, right) = two(args)?;
    if let (Some(left), Some(right)) = (left.as_str(), right.as_str()) {
        meter.pay_text((left.len() + right.len()) as u64)?;
        return Ok(Value::from([left, right].concat()));
    }
    if is_list(left) && is_list(right) {
        let mut items = meter.list(left)?;
        items.extend(meter.list(right)?);
        return Ok(Value::from(items));
    }
    if left.is_undefined() || right.is_undefined() {
        return Err(Error::new(
            ErrorKind::UndefinedError,
            "cannot add to a value that is not defined",
        ));
    }
    evaluate("a + b", &[("a", left), ("b", right)])
}

fn multiply(meter: &Budget, args: &[Value]) -> Result<Value, Error> {
    let (left, right) = two(args)?;
    let (many, times) = if left.is_number() { (right, left) } else { (left, right) };
    if !times.is_number() || (many.as_str().is_none() && !is_list(many)) {
        return evaluate("a * b", &[("a", left), ("b", right)]);
    }
    let times = times.as_usize().unwrap_or(0);
    if let Some(text) = many.as_str() {
        meter.pay_text((text.len() as u64).saturating_mul(times as u64))?;
        return Ok(Value::from(text.repeat(times)));
    }
    let items = meter.list(many)?;
    meter.pay((items.len() as u64).saturating_mul(times as u64).saturating_mul(64))?;
    Ok(Value::from(vec![items; times].concat()))
}

fn slice(meter: &Budget, args: &[Value]) -> Result<Value, Error> {
    let [value, start, stop, step] = args else {
        return Err(Error::from(ErrorKind::MissingArgument));
    };
    let size = value.as_str().map_or(value.len().unwrap_or(0).saturating_mul(64), str::len);
    meter.pay(size as u64)?;
    let sliced = evaluate("a[b:c:d]", &[("a", value), ("b", start), ("c", stop), ("d", step)])?;
    meter.keep(sliced)
}

/// An operation on bounded operands, by the engine's own rules.
fn evaluate(expression: &str, operands: &[(&str, &Value)]) -> Result<Value, Error> {
    thread_local! {
        static PLAIN: Environment<'static> = Environment::empty();
    }
    let context = Value::from_pairs(operands.iter().map(|&(name, value)| (name, value.clone())));
    PLAIN.with(|env| env.compile_expression(expression)?.eval(context))
}

/// The error for a form that cannot be metered.
pub(crate) fn unmetered(budget: &Budget, what: &str) -> Error {
    budget.stop(Stop::Limit(format!("{what} is not supported")))
}
