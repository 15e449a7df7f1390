//! Operations of recurrent layers, scalar: rotation, convolution and the gated delta rule, one token at a time.

use crate::backend::{Activation, Direction, HeadOrder, Rotation};
use crate::kv::{LayerChunk, LayerState, STATE_CHUNK, StateNumbers, chunk_start};

use super::ops::activate;

/// Rotates one row.
///
/// # Panics
/// If the row has not as many components as the rotation has signs.
pub fn hadamard(x: &[f32], rotation: &Rotation, direction: Direction, out: &mut [f32]) {
    let (signs, factor) = (rotation.signs(), rotation.factor());
    for ((out, x), sign) in out.iter_mut().zip(x).zip(signs) {
        *out = if direction == Direction::Forward { x * sign } else { *x };
    }
    for block in out.chunks_exact_mut(rotation.block()) {
        let mut stride = 1;
        while stride < block.len() {
            for pair in block.chunks_exact_mut(2 * stride) {
                let (low, high) = pair.split_at_mut(stride);
                for (a, b) in low.iter_mut().zip(high) {
                    (*a, *b) = (*a + *b, *a - *b);
                }
            }
            stride *= 2;
        }
    }
    for (out, sign) in out.iter_mut().zip(signs) {
        *out *= factor;
        if direction == Direction::Inverse {
            *out *= sign;
        }
    }
}

/// The convolution of the rows `x` (`[tokens, channels]`), which stand at `first` and after.
pub fn causal_conv(
    x: &[f32],
    weight: &[f32],
    state: &mut LayerState<'_>,
    first: usize,
    out: &mut [f32],
) {
    let (channels, taps) = (state.shape.channels(), state.shape.taps);
    let mut rows = state.inputs_before(first).to_vec();
    rows.extend_from_slice(x);
    state.store_inputs(x, first);
    for (token, out) in out.chunks_exact_mut(channels).enumerate() {
        for (channel, out) in out.iter_mut().enumerate() {
            let product =
                |tap| weight[tap * channels + channel] * rows[(token + tap) * channels + channel];
            *out = activate(Activation::Silu, (0..taps).map(product).sum());
        }
    }
}

/// Returns the logarithm of decay of one head: `rate * softplus(step)`, NaN of infinity.
pub fn log_decay(rate: f32, step: f32) -> f32 {
    if step.is_infinite() {
        return f32::NAN;
    }
    let step = f64::from(step);
    // Beyond this, the difference is below half a unit of f64.
    let softplus = if step > 40.0 { step } else { step.exp().ln_1p() };
    (f64::from(rate) * softplus) as f32
}

/// Returns the factor that gives `x` the length 1: `1 / sqrt(Σ x² + 1e-6)`.
pub fn length_factor(squares: f64) -> f32 {
    (1.0 / (squares + 1e-6).sqrt()) as f32
}

fn normalised(x: &[f32], factor: f32) -> Vec<f32> {
    let length = length_factor(x.iter().map(|&x| f64::from(x) * f64::from(x)).sum());
    x.iter().map(|x| x * length * factor).collect()
}

/// Tokens of one sequence, with what the gated delta rule reads of them.
pub struct DeltaTokens<'a> {
    /// Queries, keys and values, `[tokens, channels]`.
    pub qkv: &'a [f32],
    /// The logarithms of decay, `[tokens, value_heads]`.
    pub log_decays: &'a [f32],
    /// The shares of corrections that are written, `[tokens, value_heads]`.
    pub shares: &'a [f32],
    /// Position of the first token.
    pub first: usize,
    /// Which key head each value head reads.
    pub order: HeadOrder,
}

/// See [`crate::backend::Operations::delta_rule`]; `out` is `[tokens, value_heads * value_dim]`.
///
/// The state is in f64, but rounded to f32 where a chunk begins, and with corrections in f32: so it is the same whether
/// it goes on from a token before or from what the cache holds.
pub fn delta_rule(tokens: &DeltaTokens<'_>, state: &mut LayerState<'_>, out: &mut [f32]) {
    for head in 0..state.shape.value_heads {
        delta_rule_of_head(tokens, head, state, out);
    }
}

fn delta_rule_of_head(
    tokens: &DeltaTokens<'_>,
    head: usize,
    state: &mut LayerState<'_>,
    out: &mut [f32],
) {
    let shape = state.shape;
    let (dim, width, heads) = (shape.key_dim, shape.value_width(), shape.value_heads);
    let key_head = tokens.order.key_head(head, shape.key_heads, heads);
    let (mut s, mut sum) = (state_at(state, head, key_head, tokens.first), 0.0);
    if let Some(base) = state.chunks.first()
        && tokens.first > base.start
    {
        sum = base.decays[head * STATE_CHUNK..][tokens.first - base.start - 1];
    }
    for (index, qkv) in tokens.qkv.chunks_exact(shape.channels()).enumerate() {
        let position = tokens.first + index;
        let row = position % STATE_CHUNK;
        if row == 0 {
            sum = 0.0;
            s.iter_mut().for_each(|s| *s = f64::from(*s as f32));
            begin_chunk(state, head, position, &s);
        }
        let (queries, rest) = qkv.split_at(shape.key_heads * dim);
        let (keys, values) = rest.split_at(shape.key_heads * dim);
        let of = |x: &[f32], factor| normalised(&x[key_head * dim..][..dim], factor);
        let (q, k) = (of(queries, (1.0 / (dim as f64).sqrt()) as f32), of(keys, 1.0));
        let before = f64::from(sum);
        sum += tokens.log_decays[index * heads + head];
        let decay = (f64::from(sum) - before).exp();
        let mut correction = vec![0f32; width];
        for (j, v) in values[head * shape.value_dim..][..shape.value_dim].iter().enumerate() {
            let known = decay * dot(&k, &s[j..], width);
            let share = f64::from(tokens.shares[index * heads + head]);
            correction[j] = (share * (f64::from(*v) - known)) as f32;
        }
        step(&mut s, decay, &k, &correction);
        let at = index * shape.values() + head * shape.value_dim;
        for (j, out) in out[at..][..shape.value_dim].iter_mut().enumerate() {
            *out = dot(&q, &s[j..], width) as f32;
        }
        if let Some(chunk) = chunk_of(state, position) {
            let numbers = &mut chunk.corrections[(head * STATE_CHUNK + row) * width..][..width];
            numbers.copy_from_slice(&correction);
            chunk.keys[(key_head * STATE_CHUNK + row) * dim..][..dim].copy_from_slice(&k);
            chunk.decays[head * STATE_CHUNK + row] = sum;
        }
    }
}

/// `s = decay * s + key ⊗ correction`
fn step(s: &mut [f64], decay: f64, key: &[f32], correction: &[f32]) {
    for (s, &k) in s.chunks_exact_mut(correction.len()).zip(key) {
        let products = s.iter_mut().zip(correction);
        products.for_each(|(s, &u)| *s = *s * decay + f64::from(k) * f64::from(u));
    }
}

/// Returns `Σ_i x_i * column_i`, where the numbers of the column are `stride` apart.
fn dot(x: &[f32], column: &[f64], stride: usize) -> f64 {
    x.iter().zip(column.iter().step_by(stride)).map(|(&x, &s)| f64::from(x) * s).sum()
}

fn chunk_of<'s, 'a>(
    state: &'s mut LayerState<'a>,
    position: usize,
) -> Option<&'s mut LayerChunk<'a>> {
    let start = chunk_start(position);
    state.chunks.iter_mut().find(|chunk| chunk.start == start)
}

/// Writes the state of a head to the chunk that begins at `start`, if that is one that the pass must fill.
fn begin_chunk(state: &mut LayerState<'_>, head: usize, start: usize, s: &[f64]) {
    if let Some(LayerChunk { state: StateNumbers::Unknown(numbers), .. }) = chunk_of(state, start) {
        let numbers = numbers[head * s.len()..][..s.len()].iter_mut();
        numbers.zip(s).for_each(|(number, &s)| *number = s as f32);
    }
}

/// Returns the state of a head before `position`, `[key_dim, value_width]`: that of the first chunk's start, and what
/// its log adds.
fn state_at(state: &LayerState<'_>, head: usize, key_head: usize, position: usize) -> Vec<f64> {
    let shape = state.shape;
    let (dim, width, len) = (shape.key_dim, shape.value_width(), shape.head_state());
    let Some(base) = state.chunks.first() else { return vec![0.0; len] };
    let StateNumbers::Known(numbers) = &base.state else { return vec![0.0; len] };
    let mut s: Vec<f64> = numbers[head * len..][..len].iter().map(|&s| f64::from(s)).collect();
    let mut before = 0.0;
    for row in 0..position - base.start {
        let sum = f64::from(base.decays[head * STATE_CHUNK + row]);
        let decay = (sum - before).exp();
        before = sum;
        let correction = &base.corrections[(head * STATE_CHUNK + row) * width..][..width];
        let key = &base.keys[(key_head * STATE_CHUNK + row) * dim..][..dim];
        step(&mut s, decay, key, correction);
    }
    s
}
