//! Cases of `hadamard`, `causal_conv` and `delta_rule`.

use crate::{EPS, Numbers, assert_close, bits, dirty, pool, tensor};
use bitnet_core::backend::{Backend, DeltaInputs, Direction, HeadOrder, Rotation};
use bitnet_core::kv::{KvCache, KvShape, KvType, RecurrentShape, StateSpan};
use bitnet_core::memory::HybridMemoryPool;
use bitnet_core::memory::tensor::BitNetTensor;
use bitnet_core::reference;

fn signs(n: usize, seed: u64) -> Vec<f32> {
    Numbers::new(seed).floats(n).into_iter().map(|x| if x < 0.0 { -1.0 } else { 1.0 }).collect()
}

/// Bit for bit the reference; within `log2(block) + 2` roundings of the dense product; its own inverse.
fn hadamard(backend: &dyn Backend, pool: &HybridMemoryPool) {
    for (tokens, blocks, block) in [
        (1, 3, 1),
        (2, 3, 2),
        (3, 5, 8),
        (1, 2, 16),
        (3, 3, 32),
        (2, 3, 64),
        (2, 1, 128),
        (2, 5, 1024),
        (1, 1, 4096),
    ] {
        let cols = blocks * block;
        let rotation = Rotation::new(block, signs(cols, 31)).unwrap();
        let x = Numbers::new(30).floats(tokens * cols);
        let mut out = dirty(tokens, cols, pool);
        let case = format!("hadamard {tokens} x {cols}, blocks of {block}");
        for direction in [Direction::Inverse, Direction::Forward] {
            backend
                .hadamard(&tensor(tokens, cols, &x, pool), &rotation, direction, &mut out)
                .unwrap();
            let mut same = vec![0.0; tokens * cols];
            for (x, same) in x.chunks_exact(cols).zip(same.chunks_exact_mut(cols)) {
                reference::hadamard(x, &rotation, direction, same);
            }
            assert_eq!(bits(&out), bits(&tensor(tokens, cols, &same, pool)), "{case}");
        }
        let size = (block as f64).sqrt();
        let dense = |i: usize| -> f64 {
            let (start, row) = (i / block * block, i % block);
            let sign = |j: usize| if (row & j).count_ones().is_multiple_of(2) { 1.0 } else { -1.0 };
            let x = |j| f64::from(x[start + j]) * f64::from(rotation.signs()[(start + j) % cols]);
            (0..block).map(|j| sign(j) * x(j)).sum::<f64>() / size
        };
        let expected: Vec<f64> = (0..tokens * cols).map(dense).collect();
        let roundings = f64::from(block.ilog2() + 2);
        assert_close(&case, out.f32().unwrap(), &expected, |_| roundings * 2.0 * EPS * size);
        let mut back = dirty(tokens, cols, pool);
        backend.hadamard(&out, &rotation, Direction::Inverse, &mut back).unwrap();
        let expected: Vec<f64> = x.iter().map(|&x| f64::from(x)).collect();
        assert_close(&case, back.f32().unwrap(), &expected, |_| roundings * 4.0 * EPS * size);
    }
}

/// What is not a number stays in its block.
fn hadamard_of_nan(backend: &dyn Backend, pool: &HybridMemoryPool) {
    let rotation = Rotation::new(32, signs(96, 3)).unwrap();
    let mut x = vec![1.0; 2 * 96];
    x[40] = f32::NAN;
    let mut out = dirty(2, 96, pool);
    backend.hadamard(&tensor(2, 96, &x, pool), &rotation, Direction::Forward, &mut out).unwrap();
    for (i, out) in out.f32().unwrap().iter().enumerate() {
        assert_eq!(out.is_nan(), (32..64).contains(&i), "[{i}]");
    }
}

/// A small model's recurrent layers.
const SHAPES: [RecurrentShape; 3] = [
    RecurrentShape { layers: 2, key_heads: 2, value_heads: 6, key_dim: 20, value_dim: 24, taps: 4 },
    RecurrentShape { layers: 1, key_heads: 1, value_heads: 1, key_dim: 3, value_dim: 1, taps: 1 },
    RecurrentShape {
        layers: 2,
        key_heads: 2,
        value_heads: 2,
        key_dim: 128,
        value_dim: 128,
        taps: 4,
    },
];

/// How many tokens are read together, pass after pass.
const PASSES: [&[usize]; 5] =
    [&[70], &[1, 69], &[16, 16, 38], &[5, 27, 1, 1, 1, 30, 5], &[3, 3, 3, 3, 3, 3, 3, 3, 46]];

fn new_cache(shape: RecurrentShape, pool: &HybridMemoryPool) -> KvCache {
    let kv = KvShape { kind: KvType::F32, layers: 1, kv_heads: 1, head_dim: 16 };
    KvCache::new(kv, 128, pool).unwrap().with_recurrent_state(shape, pool).unwrap()
}

/// The numbers of both operations for one layer and 70 tokens.
struct Layer {
    shape: RecurrentShape,
    x: Vec<f32>,
    weight: Vec<f32>,
    step: Vec<f32>,
    write: Vec<f32>,
    rate: Vec<f32>,
    step_bias: Vec<f32>,
    order: HeadOrder,
}

/// Tokens of a [`Layer`].
const TOKENS: usize = 70;

impl Layer {
    fn new(shape: RecurrentShape, order: HeadOrder) -> Self {
        let mut numbers = Numbers::new(77);
        let (heads, channels) = (shape.value_heads, shape.channels());
        let scaled =
            |numbers: Vec<f32>, factor: f32| numbers.into_iter().map(|x| x * factor).collect();
        let (x, weight) =
            (numbers.floats(TOKENS * channels), numbers.floats(shape.taps * channels));
        Self {
            shape,
            x,
            weight,
            step: scaled(numbers.floats(TOKENS * heads), 4.0),
            write: scaled(numbers.floats(TOKENS * heads), 4.0),
            rate: numbers.floats(heads).into_iter().map(|x| -0.3 * x.abs() - 0.001).collect(),
            step_bias: numbers.floats(heads),
            order,
        }
    }

    /// Runs some tokens of both operations after what the caches hold, in the last layer.
    fn run(
        &self,
        backend: &dyn Backend,
        caches: &mut [&mut KvCache],
        tokens: usize,
        pool: &HybridMemoryPool,
    ) -> [BitNetTensor; 2] {
        let (heads, channels) = (self.shape.value_heads, self.shape.channels());
        let rows = |numbers: &[f32], width: usize, caches: &[&mut KvCache]| {
            let starts = caches.iter().map(|cache| cache.len());
            let rows = starts.flat_map(|first| &numbers[first * width..(first + tokens) * width]);
            tensor(tokens * caches.len(), width, &rows.copied().collect::<Vec<_>>(), pool)
        };
        let x = rows(&self.x, channels, caches);
        let (step, write) = (&rows(&self.step, heads, caches), &rows(&self.write, heads, caches));
        let vector =
            |numbers: &[f32]| BitNetTensor::from_f32(&[numbers.len()], numbers, pool).unwrap();
        let (rate, step_bias) = (&vector(&self.rate), &vector(&self.step_bias));
        let count = tokens * caches.len();
        caches.iter_mut().for_each(|cache| cache.reserve(tokens).unwrap());
        let layer = self.shape.layers - 1;
        let mut spans: Vec<StateSpan<'_>> = caches
            .iter_mut()
            .map(|cache| StateSpan { first: cache.len(), cache, layer, tokens })
            .collect();
        let weight = tensor(self.shape.taps, channels, &self.weight, pool);
        let mut qkv = dirty(count, channels, pool);
        backend.causal_conv(&x, &weight, &mut spans, &mut qkv).unwrap();
        let mut out = dirty(count, self.shape.values(), pool);
        let inputs = DeltaInputs { qkv: &qkv, step, write, rate, step_bias, order: self.order };
        backend.delta_rule(inputs, &mut spans, &mut out).unwrap();
        caches.iter_mut().for_each(|cache| cache.advance(tokens));
        [qkv, out]
    }

    /// The convolution in f64, `[tokens, channels]`.
    fn convolution(&self) -> Vec<f64> {
        let (channels, taps) = (self.shape.channels(), self.shape.taps);
        let at = |t: usize, tap: usize, c: usize| match (t + tap + 1).checked_sub(taps) {
            Some(row) => f64::from(self.x[row * channels + c] * 1.0),
            None => 0.0,
        };
        (0..TOKENS * channels)
            .map(|i| {
                let (t, c) = (i / channels, i % channels);
                let weight = |tap: usize| f64::from(self.weight[tap * channels + c]);
                let sum: f64 = (0..taps).map(|tap| weight(tap) * at(t, tap, c)).sum();
                sum / (1.0 + (-sum).exp())
            })
            .collect()
    }

    /// The rule, one token after the other in f64, of what the convolution gave: `[tokens, values]`.
    fn rule(&self, qkv: &[f32]) -> Vec<f64> {
        let RecurrentShape { key_heads, value_heads, key_dim, value_dim, .. } = self.shape;
        let (channels, values) = (self.shape.channels(), self.shape.values());
        let mut out = vec![0.0; TOKENS * values];
        for head in 0..value_heads {
            let key_head = match self.order {
                HeadOrder::Grouped => head / (value_heads / key_heads),
                HeadOrder::Tiled => head % key_heads,
            };
            let mut s = vec![vec![0f64; value_dim]; key_dim];
            for token in 0..TOKENS {
                let part = |start: usize, len: usize| -> Vec<f64> {
                    qkv[token * channels + start..][..len].iter().map(|&x| f64::from(x)).collect()
                };
                let unit = |x: Vec<f64>| -> Vec<f64> {
                    let length = (x.iter().map(|x| x * x).sum::<f64>() + 1e-6).sqrt();
                    x.into_iter().map(|x| x / length).collect()
                };
                let q = unit(part(key_head * key_dim, key_dim));
                let k = unit(part((key_heads + key_head) * key_dim, key_dim));
                let v = part(2 * key_heads * key_dim + head * value_dim, value_dim);
                let at = token * value_heads + head;
                let step = f64::from(self.step[at]) + f64::from(self.step_bias[head]);
                let decay = (f64::from(self.rate[head]) * (1.0 + step.exp()).ln()).exp();
                let share = 1.0 / (1.0 + (-f64::from(self.write[at])).exp());
                s.iter_mut().flatten().for_each(|s| *s *= decay);
                for j in 0..value_dim {
                    let known: f64 = k.iter().zip(&s).map(|(k, s)| k * s[j]).sum();
                    let u = share * (v[j] - known);
                    s.iter_mut().zip(&k).for_each(|(s, k)| s[j] += k * u);
                    let read: f64 = q.iter().zip(&s).map(|(q, s)| q * s[j]).sum();
                    out[token * values + head * value_dim + j] = read / (key_dim as f64).sqrt();
                }
            }
        }
        out
    }
}

/// Within the stated bounds of the formulas, and equal bits however tokens are divided into passes.
fn passes(backend: &dyn Backend, pool: &HybridMemoryPool) {
    for shape in SHAPES {
        for order in [HeadOrder::Grouped, HeadOrder::Tiled] {
            let layer = Layer::new(shape, order);
            let mut first: Option<[Vec<u32>; 2]> = None;
            for passes in PASSES {
                let case = format!("{shape:?} {order:?} {passes:?}");
                let mut cache = new_cache(shape, pool);
                let mut results: [Vec<f32>; 2] = [vec![], vec![]];
                for &tokens in passes {
                    let rows = layer.run(backend, &mut [&mut cache], tokens, pool);
                    let [a, b] = &mut results;
                    a.extend_from_slice(rows[0].f32().unwrap());
                    b.extend_from_slice(rows[1].f32().unwrap());
                }
                let convolution = layer.convolution();
                assert_close(&case, &results[0], &convolution, |_| 32.0 * shape.taps as f64 * EPS);
                let largest = results[0].iter().fold(0f32, |m, x| m.max(x.abs()));
                let bound = f64::from(largest) / f64::from(1u32 << 16);
                assert_close(&case, &results[1], &layer.rule(&results[0]), |_| bound);
                let got = results.map(|x| x.iter().map(|x| x.to_bits()).collect::<Vec<_>>());
                assert!(*first.get_or_insert_with(|| got.clone()) == got, "{case}");
            }
        }
    }
}

/// A sequence in a crowd, and one that was cut and read again, equal a fresh one bit for bit.
fn caches(backend: &dyn Backend, pool: &HybridMemoryPool) {
    let layer = Layer::new(SHAPES[0], HeadOrder::Grouped);
    let values = SHAPES[0].values();
    let mut fresh = new_cache(SHAPES[0], pool);
    let expected = bits(&layer.run(backend, &mut [&mut fresh], TOKENS, pool)[1]);
    let (mut a, mut b) = (new_cache(SHAPES[0], pool), new_cache(SHAPES[0], pool));
    layer.run(backend, &mut [&mut a], 19, pool);
    layer.run(backend, &mut [&mut b], 30, pool);
    let both = bits(&layer.run(backend, &mut [&mut a, &mut b], 9, pool)[1]);
    assert_eq!(both[..9 * values], expected[19 * values..28 * values]);
    assert_eq!(both[9 * values..], expected[30 * values..39 * values]);
    for (checkpoint, read, cut, reached) in [
        (0, 40, 33, 33),
        (0, 40, 32, 32),
        (0, 40, 17, 17),
        (0, 70, 20, 0),
        (35, 70, 35, 35),
        (35, 70, 34, 34),
        (16, 60, 16, 16),
        (16, 60, 20, 16),
    ] {
        let mut cache = new_cache(SHAPES[0], pool);
        if checkpoint > 0 {
            layer.run(backend, &mut [&mut cache], checkpoint, pool);
            cache.checkpoint();
        }
        while cache.len() < read {
            let tokens = 5.min(read - cache.len());
            layer.run(backend, &mut [&mut cache], tokens, pool);
        }
        let mut fork = cache.fork(cut);
        for cache in [&mut cache, &mut fork] {
            assert_eq!(cache.truncate(cut), reached, "cut at {cut} of {read}");
            let rest = TOKENS - reached;
            let got = bits(&layer.run(backend, &mut [cache], rest, pool)[1]);
            assert_eq!(got, expected[reached * values..], "cut at {cut} of {read}");
        }
    }
}

pub(crate) fn cases(backend: &dyn Backend) {
    let pool = pool();
    hadamard(backend, &pool);
    hadamard_of_nan(backend, &pool);
    passes(backend, &pool);
    caches(backend, &pool);
}
