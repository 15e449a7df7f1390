//! Arguments and calls of filters.

use minijinja::value::{Kwargs, Rest, Value};
use minijinja::{Error, ErrorKind, State};

use super::budget::Budget;

pub(crate) fn invalid(problem: &str) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem.to_owned())
}

/// A positional or named argument that may be missing.
pub(crate) fn argument(
    args: &[Value],
    at: usize,
    named: &Kwargs,
    name: &str,
) -> Result<Option<Value>, Error> {
    Ok(args.get(at).cloned().or(named.get::<Option<Value>>(name)?).filter(|value| !value.is_none()))
}

/// Calls a filter: pays for what it reads, and for what it makes.
pub(crate) fn call(
    meter: &Budget,
    state: &mut State<'_, '_>,
    filter: &Value,
    args: &[Value],
) -> Result<Value, Error> {
    for arg in args {
        meter.weigh(arg)?;
    }
    let made = filter.call(state, args)?;
    meter.keep(made)
}

/// The arguments as the engine passes them on: named ones last.
pub(crate) fn together(args: Rest<Value>, named: Kwargs) -> Vec<Value> {
    let mut args = args.0;
    if named.args().next().is_some() {
        args.push(Value::from(named));
    }
    args
}
