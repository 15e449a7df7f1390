//! Cases of `store` and `attention`, for every type of cache.

use std::ops::Range;

use crate::{EPS, Numbers, assert_close, bits, dirty, pool, tensor};
use bitnet_core::backend::AttentionShape;
use bitnet_core::backend::Backend;
use bitnet_core::kv::{KV_PAGE, KvCache, KvShape, KvSpan, KvType};
use bitnet_core::reference::ReferenceBackend;

pub(crate) const KINDS: [KvType; 3] = [KvType::F32, KvType::F16, KvType::Int8];

/// The layer that is written and read, the second of two.
pub(crate) const LAYER: usize = 1;

/// An empty cache with pages for `capacity` positions.
fn reserved(kind: KvType, capacity: usize, (kv_heads, head_dim): (usize, usize)) -> KvCache {
    let mut cache =
        KvCache::new(KvShape { kind, layers: 2, kv_heads, head_dim }, capacity, &pool()).unwrap();
    cache.reserve(capacity).unwrap();
    cache
}

/// A cache of `capacity` positions whose first `filled` hold `k` and `v`, written by `backend` in two pieces; what
/// stands behind them is not a number where the type has that.
pub(crate) fn cache(
    backend: &dyn Backend,
    kind: KvType,
    (kv_heads, head_dim): (usize, usize),
    capacity: usize,
    [k, v]: [&[f32]; 2],
) -> KvCache {
    let (pool, width) = (pool(), kv_heads * head_dim);
    let mut cache = reserved(kind, capacity, (kv_heads, head_dim));
    let nothing = tensor(capacity, width, &vec![f32::NAN; capacity * width], &pool);
    backend.store(&nothing, &nothing, &mut cache, LAYER, 0).unwrap();
    let cut = k.len() / width / 3;
    for (rows, first) in [(0..cut * width, 0), (cut * width..k.len(), cut)] {
        let on = |x: &[f32]| tensor(rows.len() / width, width, &x[rows.clone()], &pool);
        backend.store(&on(k), &on(v), &mut cache, LAYER, first).unwrap();
    }
    cache
}

/// What a head reads back as, by the definition of the type.
fn stored(kind: KvType, head: &[f32]) -> Vec<f64> {
    let largest = head.iter().fold(0f32, |m, x| m.max(x.abs()));
    let one = |x: &f32| match kind {
        KvType::F32 => f64::from(*x),
        KvType::F16 => half::f16::from_f32(x.clamp(-65504.0, 65504.0)).to_f64(),
        KvType::Int8 if largest == 0.0 => 0.0,
        KvType::Int8 => {
            let integer = (x * (127.0 / largest)).round_ties_even();
            f64::from(integer) * f64::from(largest / 127.0)
        }
    };
    head.iter().map(one).collect()
}

/// The positions that the token at `position` sees.
pub(crate) fn visible(shape: AttentionShape, position: usize) -> Range<usize> {
    let end = position + 1;
    end - shape.window.map_or(end, |window| window.min(end))..end
}

/// With queries, keys and values in -1..1, a score lies within `(d + 2) · 2⁻²⁴ · d · scale` of the exact one, a weight
/// within twice that of its own size; the sum of the values adds `(min(n, 256) + 8 · n / 256 + 48) · 2⁻²⁴`.
pub(crate) fn attention_case(
    backend: &dyn Backend,
    kind: KvType,
    shape: AttentionShape,
    (tokens, first, capacity): (usize, usize, usize),
) {
    let pool = pool();
    let AttentionShape { heads, kv_heads, head_dim, scale, .. } = shape;
    let mut numbers = Numbers::new(8);
    let q = numbers.floats(tokens * heads * head_dim);
    let stride = kv_heads * head_dim;
    let seen = first + tokens;
    let (k, v) = (numbers.floats(seen * stride), numbers.floats(seen * stride));
    let cache = cache(backend, kind, (kv_heads, head_dim), capacity, [&k, &v]);
    let mut out = dirty(tokens, heads * head_dim, &pool);
    let query = tensor(tokens, heads * head_dim, &q, &pool);
    let span = KvSpan { cache: &cache, layer: LAYER, first, tokens };
    backend.attention(&query, &[span], shape, &mut out).unwrap();
    let [k, v] =
        [k, v].map(|x| x.chunks_exact(head_dim).map(|x| stored(kind, x)).collect::<Vec<_>>());
    let mut expected = vec![];
    for (index, q) in q.chunks_exact(head_dim).enumerate() {
        let visible = visible(shape, first + index / heads);
        let kv = index % heads / (heads / kv_heads);
        let score = |p: usize| -> f64 {
            let products = q.iter().zip(&k[p * kv_heads + kv]).map(|(&q, &k)| f64::from(q) * k);
            products.sum::<f64>() * f64::from(scale)
        };
        let scores: Vec<f64> = visible.clone().map(score).collect();
        let largest = scores.iter().copied().fold(f64::MIN, f64::max);
        let weights: Vec<f64> = scores.iter().map(|score| (score - largest).exp()).collect();
        let total: f64 = weights.iter().sum();
        expected.extend((0..head_dim).map(|j| {
            let values = visible.clone().map(|p| v[p * kv_heads + kv][j]);
            let sum: f64 = weights.iter().zip(values).map(|(weight, value)| weight * value).sum();
            sum / total
        }));
    }
    let d = head_dim as f64;
    let scores = (d + 2.0) * EPS * d * f64::from(scale);
    let values = ((seen as f64).min(256.0) + seen as f64 / 32.0 + 48.0) * EPS;
    let case = format!("attention {kind} {shape:?}, {tokens} tokens at {first}");
    assert_close(&case, out.f32().unwrap(), &expected, |_| 4.0 * scores + values);
}

fn attention(backend: &dyn Backend) {
    let places = [
        (1, 0, 1),
        (3, 0, 8),
        (0, 2, 4),
        (1, 100, 101),
        (7, 60, 70),
        (1, 600, 700),
        (40, 250, 300),
    ];
    for (heads, kv_heads, head_dim) in [(1, 1, 2), (4, 2, 16), (5, 1, 20), (6, 6, 64), (20, 5, 128)]
    {
        for place in places {
            let scales = [1.0 / (head_dim as f32).sqrt(), 20.0 / head_dim as f32];
            // The largest heads once: the exact result takes its time.
            for scale in scales.into_iter().take(if head_dim > 64 { 1 } else { 2 }) {
                let shape = AttentionShape { heads, kv_heads, head_dim, scale, window: None };
                for kind in KINDS {
                    attention_case(backend, kind, shape, place);
                }
            }
        }
    }
}

/// A cache holds the same bytes whoever writes it, whatever the numbers are.
fn store(backend: &dyn Backend) {
    let pool = pool();
    for (kv_heads, head_dim) in [(1, 1), (2, 16), (3, 20), (5, 128)] {
        let width = kv_heads * head_dim;
        let mut values = Numbers::new(21).floats(40 * width);
        for (index, x) in values.iter_mut().enumerate() {
            match index % 7 {
                0 => *x *= 1e5,
                1 => *x *= 1e-5,
                2 => *x *= 1e-7,
                _ => {}
            }
        }
        values[..head_dim].fill(0.0);
        for kind in KINDS {
            let caches = [backend, &ReferenceBackend].map(|backend| {
                let mut cache = reserved(kind, 300, (kv_heads, head_dim));
                let x = tensor(40, width, &values, &pool);
                backend.store(&x, &x, &mut cache, LAYER, 250).unwrap();
                let none = tensor(0, width, &[], &pool);
                backend.store(&none, &none, &mut cache, LAYER, 300).unwrap();
                cache
            });
            let head_at =
                |cache: &KvCache, position: usize, head: usize| -> (Vec<Vec<u8>>, [u32; 2]) {
                    let place = cache.head(LAYER, head, position / KV_PAGE).unwrap();
                    let scale =
                        |scales: &[f32]| scales.get(position % KV_PAGE).map_or(0, |x| x.to_bits());
                    let bytes = |part: &[u8], at: usize| {
                        let size = kind.element_bytes();
                        part[at * size..][..size].to_vec()
                    };
                    let components = (0..head_dim).flat_map(|j| {
                        [
                            bytes(place.k, cache.k_index(position, j)),
                            bytes(place.v, cache.v_index(position, j)),
                        ]
                    });
                    (components.collect(), [scale(place.k_scales), scale(place.v_scales)])
                };
            let [got, expected] = &caches;
            for position in 250..290 {
                for head in 0..kv_heads {
                    let case = format!("{kind}: position {position}, head {head}");
                    assert_eq!(
                        head_at(got, position, head),
                        head_at(expected, position, head),
                        "{case}"
                    );
                }
            }
        }
    }
}

/// A key or a value that is not finite makes every answer that sees it NaN or infinite, with every type of cache.
fn non_finite_keys_and_values(backend: &dyn Backend) {
    let pool = pool();
    let (head_dim, seen) = (16, 20);
    let shape = AttentionShape { heads: 1, kv_heads: 1, head_dim, scale: 0.25, window: None };
    for kind in KINDS {
        for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
            for spoil_keys in [true, false] {
                let mut numbers = Numbers::new(22);
                let (mut k, mut v) =
                    (numbers.floats(seen * head_dim), numbers.floats(seen * head_dim));
                let q = vec![1.0; head_dim];
                let spoiled = if spoil_keys { &mut k } else { &mut v };
                spoiled[10 * head_dim..11 * head_dim].fill(wrong);
                let cache = cache(backend, kind, (1, head_dim), 32, [&k, &v]);
                let run = |first| {
                    let mut out = dirty(1, head_dim, &pool);
                    let span = KvSpan { cache: &cache, layer: LAYER, first, tokens: 1 };
                    let q = tensor(1, head_dim, &q, &pool);
                    backend.attention(&q, &[span], shape, &mut out).unwrap();
                    out.f32().unwrap().to_vec()
                };
                let case = format!("{kind}, {wrong}, keys {spoil_keys}");
                assert!(run(9).iter().all(|x| x.is_finite()), "{case}: before it");
                // A key of minus infinity has no weight, which is what masks are made of.
                if !(spoil_keys && wrong == f32::NEG_INFINITY && kind != KvType::Int8) {
                    let out = run(seen - 1);
                    assert!(out.iter().all(|x| !x.is_finite()), "{case}: {out:?}");
                }
            }
        }
    }
}

/// A value that is not finite reaches no token before it, however many are read at once, and later tokens as if each
/// had been read alone.
fn non_finite_values_stay_hidden_from_earlier_tokens(backend: &dyn Backend) {
    let pool = pool();
    let head_dim = 16;
    for (heads, tokens, first, spoiled) in
        [(1, 8, 0, 4), (1, 4, 0, 2), (2, 8, 10, 15), (3, 3, 14, 15), (1, 20, 250, 260)]
    {
        let shape = AttentionShape { heads, kv_heads: 1, head_dim, scale: 0.25, window: None };
        let (seen, cols) = (first + tokens, heads * head_dim);
        for kind in KINDS {
            for wrong in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
                let mut numbers = Numbers::new(23);
                let (k, mut v) = (numbers.floats(seen * head_dim), numbers.floats(seen * head_dim));
                v[spoiled * head_dim..][..head_dim].fill(wrong);
                let cache = cache(backend, kind, (1, head_dim), seen, [&k, &v]);
                let q = tensor(tokens, cols, &numbers.floats(tokens * cols), &pool);
                let run = |token: usize, tokens: usize| {
                    let mut out = dirty(tokens, cols, &pool);
                    let span = KvSpan { cache: &cache, layer: LAYER, first: first + token, tokens };
                    let q = q.narrow(0, token..token + tokens).unwrap();
                    backend.attention(&q, &[span], shape, &mut out).unwrap();
                    out
                };
                let together = run(0, tokens);
                for token in 0..tokens {
                    let case = format!("{kind}, {wrong}, {heads} heads, token {token} of {tokens}");
                    let row = token * cols..(token + 1) * cols;
                    let finite = together.f32().unwrap()[row.clone()].iter().all(|x| x.is_finite());
                    if first + token < spoiled {
                        assert!(finite, "{case}: before the value");
                    }
                    let together = bits(&together)[row].to_vec();
                    assert_eq!(together, bits(&run(token, 1)), "{case}");
                }
            }
        }
    }
}

/// Sequences of different lengths, some reading one token and some several, are each answered as if alone, and a
/// token as if it had been read alone.
fn sequences(backend: &dyn Backend) {
    let pool = pool();
    let shape = AttentionShape { heads: 6, kv_heads: 2, head_dim: 32, scale: 0.18, window: None };
    let reads = [(1, 0), (1, 300), (30, 240), (0, 5), (1, 16), (5, 511)];
    for kind in KINDS {
        let mut numbers = Numbers::new(31);
        let caches = reads.map(|(tokens, first)| {
            let len = (tokens + first) * 64;
            let (k, v) = (numbers.floats(len), numbers.floats(len));
            cache(backend, kind, (2, 32), 520, [&k, &v])
        });
        let all: usize = reads.iter().map(|read| read.0).sum();
        let q = tensor(all, 192, &numbers.floats(all * 192), &pool);
        let spans: Vec<_> = reads
            .iter()
            .zip(&caches)
            .map(|(&(tokens, first), cache)| KvSpan { cache, layer: LAYER, first, tokens })
            .collect();
        let mut together = dirty(all, 192, &pool);
        backend.attention(&q, &spans, shape, &mut together).unwrap();
        let together = bits(&together);
        let mut row = 0;
        for span in spans {
            for token in 0..span.tokens {
                let q = q.narrow(0, row..row + 1).unwrap();
                let mut alone = dirty(1, 192, &pool);
                let span = KvSpan { first: span.first + token, tokens: 1, ..span };
                backend.attention(&q, &[span], shape, &mut alone).unwrap();
                assert_eq!(
                    together[row * 192..(row + 1) * 192],
                    bits(&alone),
                    "{kind}: token {row}"
                );
                row += 1;
            }
        }
    }
}

/// A fork of a cache, whose pages are shared, gives the same answers, and what is written after it stays its own.
fn forks(backend: &dyn Backend) {
    let pool = pool();
    let shape = AttentionShape { heads: 2, kv_heads: 1, head_dim: 32, scale: 0.18, window: None };
    for kind in KINDS {
        let mut numbers = Numbers::new(41);
        let (k, v) = (numbers.floats(300 * 32), numbers.floats(300 * 32));
        let mut original = cache(backend, kind, (1, 32), 400, [&k, &v]);
        original.advance(300);
        let q = tensor(1, 64, &numbers.floats(64), &pool);
        let answer = |cache: &KvCache, first: usize| {
            let mut out = dirty(1, 64, &pool);
            let span = KvSpan { cache, layer: LAYER, first, tokens: 1 };
            backend.attention(&q, &[span], shape, &mut out).unwrap();
            bits(&out)
        };
        let before = answer(&original, 299);
        let mut fork = original.fork(280);
        assert_eq!(answer(&fork, 279), answer(&original, 279), "{kind}");
        fork.reserve(20).unwrap();
        let other = tensor(20, 32, &numbers.floats(20 * 32), &pool);
        backend.store(&other, &other, &mut fork, LAYER, 280).unwrap();
        assert_eq!(answer(&original, 299), before, "{kind}");
        assert_ne!(answer(&fork, 299), before, "{kind}");
    }
}

pub(crate) fn cases(backend: &dyn Backend) {
    store(backend);
    forks(backend);
    attention(backend);
    sequences(backend);
    non_finite_keys_and_values(backend);
    non_finite_values_stay_hidden_from_earlier_tokens(backend);
}
