//! Arguments and calls of filters.

use std::borrow::Cow;

use minijinja::value::{Kwargs, Rest, Value};
use minijinja::{Error, ErrorKind, State};

use super::budget::Budget;

pub(crate) fn invalid(problem: impl Into<Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::InvalidOperation, problem)
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

/// Calls a function: pays for what it reads.
pub(crate) fn weighed(
    meter: &Budget,
    state: &mut State<'_, '_>,
    function: &Value,
    args: &[Value],
) -> Result<Value, Error> {
    meter.weigh_all(args)?;
    function.call(state, args)
}

/// Calls a filter: pays for what it reads, and for what it makes.
pub(crate) fn call(
    meter: &Budget,
    state: &mut State<'_, '_>,
    filter: &Value,
    args: &[Value],
) -> Result<Value, Error> {
    meter.keep(weighed(meter, state, filter, args)?)
}

/// The arguments as the engine passes them on: named ones last.
pub(crate) fn together(args: Rest<Value>, named: Kwargs) -> Vec<Value> {
    let mut args = args.0;
    if named.args().next().is_some() {
        args.push(Value::from(named));
    }
    args
}
