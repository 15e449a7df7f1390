//! Checks of operands: every back end makes them before it touches a byte.

use super::dense::DenseRows;
use super::top_logits::LogitQuery;
use super::{AttentionShape, DeltaInputs, RopeTable, Rotation, TernaryWeight};
use crate::kv::{KvCache, KvSpan, RecurrentShape, RecurrentState, StateSpan};
use crate::memory::tensor::BitNetTensor;
use crate::{Error, Result};

/// Checks that `t` is `[rows, cols]`.
///
/// # Errors
/// [`Error::ShapeMismatch`] otherwise.
pub fn expect_shape(
    op: &'static str,
    operand: &'static str,
    t: &BitNetTensor,
    rows: usize,
    cols: usize,
) -> Result<()> {
    t.expect_shape(op, operand, &[rows, cols])
}

/// Checks that both tensors have one shape.
///
/// # Errors
/// [`Error::ShapeMismatch`] otherwise.
pub fn expect_same(op: &'static str, a: &BitNetTensor, b: &BitNetTensor) -> Result<()> {
    b.expect_shape(op, "second operand", a.shape())
}

/// Checks `embed`: every token is a row of `table`, `out` is `[tokens, cols]`.
///
/// # Errors
/// [`Error::OutOfRange`] or [`Error::ShapeMismatch`].
pub fn embed(table: &dyn DenseRows, tokens: &[u32], out: &BitNetTensor) -> Result<()> {
    if let Some(&token) = tokens.iter().find(|&&t| t as usize >= table.rows()) {
        return Err(Error::OutOfRange { op: "embed", index: token as usize, len: table.rows() });
    }
    expect_shape("embed", "out", out, tokens.len(), table.cols())
}

/// Checks `bit_linear`; returns the number of tokens.
///
/// # Errors
/// [`Error::ShapeMismatch`].
pub fn bit_linear(
    x: &BitNetTensor,
    weights: &[&dyn TernaryWeight],
    out: &[&mut BitNetTensor],
) -> Result<usize> {
    let (tokens, _) = x.dims2("bit_linear", "x")?;
    if weights.len() != out.len() {
        return Err(Error::ShapeMismatch {
            op: "bit_linear",
            operand: "outputs",
            got: vec![out.len()],
            expected: format!("{} outputs", weights.len()),
        });
    }
    for (weight, out) in weights.iter().zip(out) {
        expect_shape("bit_linear", "x", x, tokens, weight.cols())?;
        expect_shape("bit_linear", "out", out, tokens, weight.rows())?;
    }
    Ok(tokens)
}

/// Checks `linear`; returns the number of tokens.
///
/// # Errors
/// [`Error::ShapeMismatch`].
pub fn linear(x: &BitNetTensor, weight: &dyn DenseRows, out: &BitNetTensor) -> Result<usize> {
    let (tokens, _) = x.dims2("linear", "x")?;
    expect_shape("linear", "x", x, tokens, weight.cols())?;
    expect_shape("linear", "out", out, tokens, weight.rows())?;
    Ok(tokens)
}

/// Checks `top_logits`: a query for each row of `x`, and every extra token is a row of the head.
///
/// # Errors
/// [`Error::ShapeMismatch`] or [`Error::OutOfRange`].
pub fn top_logits(x: &BitNetTensor, rows: &dyn DenseRows, queries: &[LogitQuery]) -> Result<()> {
    expect_shape("top_logits", "x", x, queries.len(), rows.cols())?;
    let mut tokens = queries.iter().flat_map(|query| &query.extra_tokens);
    match tokens.find(|&&token| token as usize >= rows.rows()) {
        Some(&token) => {
            Err(Error::OutOfRange { op: "top_logits", index: token as usize, len: rows.rows() })
        }
        None => Ok(()),
    }
}

/// Checks `rms_norm`.
///
/// # Errors
/// [`Error::ShapeMismatch`].
pub fn rms_norm(x: &BitNetTensor, weight: &BitNetTensor, out: &BitNetTensor) -> Result<()> {
    expect_same("rms_norm", x, out)?;
    let (_, width) = x.dims2("rms_norm", "x")?;
    match *weight.shape() {
        [n] if n > 0 && width.is_multiple_of(n) => Ok(()),
        [n] => Err(x.mismatch("rms_norm", "x", format!("rows of a multiple of {n} components"))),
        _ => Err(weight.mismatch("rms_norm", "weight", "one dimension")),
    }
}

/// Checks `rope`.
///
/// # Errors
/// [`Error::ShapeMismatch`], or [`Error::OutOfRange`] for a position beyond the table.
pub fn rope(
    x: &BitNetTensor,
    head_dim: usize,
    positions: &[usize],
    table: &RopeTable,
) -> Result<()> {
    let (tokens, width) = x.dims2("rope", "x")?;
    if head_dim == 0
        || !width.is_multiple_of(head_dim)
        || table.dim > head_dim
        || tokens != positions.len()
    {
        let (tokens, rotated) = (positions.len(), table.dim);
        let expected =
            format!("{tokens} tokens with heads of {head_dim} components, {rotated} rotated");
        return Err(x.mismatch("rope", "x", expected));
    }
    match positions.iter().find(|&&position| position >= table.positions()) {
        Some(&index) => Err(Error::OutOfRange { op: "rope", index, len: table.positions() }),
        None => Ok(()),
    }
}

/// Checks `store`; returns the number of tokens.
///
/// # Errors
/// [`Error::ShapeMismatch`], or [`Error::OutOfRange`] for a layer that it lacks or a position without a page.
pub fn store(
    k: &BitNetTensor,
    v: &BitNetTensor,
    cache: &KvCache,
    layer: usize,
    first: usize,
) -> Result<usize> {
    let (tokens, _) = k.dims2("store", "k")?;
    let width = cache.kv_heads() * cache.head_dim();
    expect_shape("store", "k", k, tokens, width)?;
    expect_shape("store", "v", v, tokens, width)?;
    expect_reserved("store", cache, layer, first, tokens)?;
    Ok(tokens)
}

/// That the cache has the layer, and pages for the positions.
fn expect_reserved(
    op: &'static str,
    cache: &KvCache,
    layer: usize,
    first: usize,
    tokens: usize,
) -> Result<()> {
    if layer >= cache.layers() {
        return Err(Error::OutOfRange { op, index: layer, len: cache.layers() });
    }
    let end = first.saturating_add(tokens);
    if tokens > 0 && end > cache.reserved() {
        return Err(Error::OutOfRange { op, index: end - 1, len: cache.reserved() });
    }
    Ok(())
}

/// Checks `attention`; returns the number of tokens.
///
/// # Errors
/// [`Error::ShapeMismatch`], or [`Error::OutOfRange`] for a layer that a cache lacks or a position without a page.
pub fn attention(
    q: &BitNetTensor,
    spans: &[KvSpan<'_>],
    shape: AttentionShape,
    out: &BitNetTensor,
) -> Result<usize> {
    let AttentionShape { heads, kv_heads, head_dim, .. } = shape;
    if heads == 0 || kv_heads == 0 || head_dim == 0 || !heads.is_multiple_of(kv_heads) {
        let expected = format!("{heads} heads divisible by {kv_heads} key heads");
        return Err(q.mismatch("attention", "q", expected));
    }
    if shape.window == Some(0) {
        return Err(q.mismatch("attention", "q", "a window of at least 1 position"));
    }
    let mut tokens = 0usize;
    for span in spans {
        let cache = span.cache;
        if (cache.kv_heads(), cache.head_dim()) != (kv_heads, head_dim) {
            return Err(Error::ShapeMismatch {
                op: "attention",
                operand: "cache",
                got: vec![cache.kv_heads(), cache.head_dim()],
                expected: format!("{kv_heads} heads of {head_dim} components"),
            });
        }
        expect_reserved("attention", cache, span.layer, span.first, span.tokens)?;
        tokens = tokens.saturating_add(span.tokens);
    }
    expect_shape("attention", "q", q, tokens, heads * head_dim)?;
    expect_same("attention", q, out)?;
    Ok(tokens)
}

/// Checks `clamped_gate`: one shape, and a limit above zero (`clamp` has no other).
///
/// # Errors
/// [`Error::ShapeMismatch`] or [`Error::BadArgument`].
pub fn clamped_gate(limit: f32, gate: &BitNetTensor, up: &BitNetTensor) -> Result<()> {
    const OP: &str = "clamped_gate";
    if limit.is_nan() || limit <= 0.0 {
        let (what, expected) = ("the limit", "a number above 0");
        return Err(Error::BadArgument { op: OP, what, value: limit.to_string(), expected });
    }
    expect_same(OP, gate, up)
}

/// Checks `weighted_sum`; returns the rows that are added up for each token.
///
/// # Errors
/// [`Error::ShapeMismatch`].
pub fn weighted_sum(x: &BitNetTensor, weights: &[f32], out: &BitNetTensor) -> Result<usize> {
    const OP: &str = "weighted_sum";
    let (tokens, cols) = out.dims2(OP, "out")?;
    expect_shape(OP, "x", x, weights.len(), cols)?;
    match weights.len().checked_div(tokens) {
        None if weights.is_empty() => Ok(0),
        Some(each) if each * tokens == weights.len() => Ok(each),
        _ => Err(x.mismatch(OP, "x", format!("a multiple of {tokens} rows"))),
    }
}

/// Checks `causal_conv`.
///
/// # Errors
/// [`Error::ShapeMismatch`], or [`Error::OutOfRange`] for a layer that a cache lacks or a position that is not reserved.
pub fn causal_conv(
    x: &BitNetTensor,
    weight: &BitNetTensor,
    spans: &[StateSpan<'_>],
    out: &BitNetTensor,
) -> Result<()> {
    const OP: &str = "causal_conv";
    let (_, channels) = x.dims2(OP, "x")?;
    let (taps, _) = weight.dims2(OP, "weight")?;
    expect_shape(OP, "weight", weight, taps, channels)?;
    expect_same(OP, x, out)?;
    expect_state(OP, x, spans, |shape| (shape.channels(), shape.taps) == (channels, taps))
}

/// Checks `delta_rule`.
///
/// # Errors
/// As [`causal_conv`].
pub fn delta_rule(
    inputs: &DeltaInputs<'_>,
    spans: &[StateSpan<'_>],
    out: &BitNetTensor,
) -> Result<()> {
    const OP: &str = "delta_rule";
    let (tokens, channels) = inputs.qkv.dims2(OP, "qkv")?;
    let (_, heads) = inputs.step.dims2(OP, "step")?;
    let (_, values) = out.dims2(OP, "out")?;
    expect_shape(OP, "step", inputs.step, tokens, heads)?;
    expect_shape(OP, "write", inputs.write, tokens, heads)?;
    expect_shape(OP, "out", out, tokens, values)?;
    for (name, vector) in [("rate", inputs.rate), ("step_bias", inputs.step_bias)] {
        if *vector.shape() != [heads] {
            return Err(vector.mismatch(OP, name, format!("{heads} numbers")));
        }
    }
    expect_state(OP, inputs.qkv, spans, |shape| {
        (shape.channels(), shape.value_heads, shape.values()) == (channels, heads, values)
    })
}

/// That spans hold the rows of `x`, and that each cache has a state of the layer that `fits`.
fn expect_state(
    op: &'static str,
    x: &BitNetTensor,
    spans: &[StateSpan<'_>],
    fits: impl Fn(&RecurrentShape) -> bool,
) -> Result<()> {
    let mut tokens = 0usize;
    for span in spans {
        let shape = span.cache.recurrent_state().map(RecurrentState::shape);
        let Some(shape) = shape.filter(&fits) else {
            let expected = "a cache with a recurrent state of these sizes".to_owned();
            return Err(x.mismatch(op, "x", expected));
        };
        if span.layer >= shape.layers {
            return Err(Error::OutOfRange { op, index: span.layer, len: shape.layers });
        }
        let (len, end) = (span.cache.len(), span.first.saturating_add(span.tokens));
        if span.first != len || end > span.cache.reserved() {
            return Err(Error::OutOfRange { op, index: end, len: span.cache.reserved() });
        }
        tokens = tokens.saturating_add(span.tokens);
    }
    let (_, width) = x.dims2(op, "x")?;
    expect_shape(op, "x", x, tokens, width)
}

/// Checks `hadamard`.
///
/// # Errors
/// [`Error::ShapeMismatch`].
pub fn hadamard(x: &BitNetTensor, rotation: &Rotation, out: &BitNetTensor) -> Result<()> {
    let (tokens, _) = x.dims2("hadamard", "x")?;
    expect_shape("hadamard", "x", x, tokens, rotation.signs().len())?;
    expect_same("hadamard", x, out)
}
