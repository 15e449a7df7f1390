//! Cases of attention to a window of positions.

use crate::cached::{KINDS, LAYER, attention_case, cache, visible};
use crate::{Numbers, bits, dirty, pool, tensor};
use bitnet_core::backend::{AttentionShape, Backend};
use bitnet_core::kv::KvSpan;

/// Windows that end in a block, in a page, in a tile, at their edges, and beyond the sequence.
const WINDOWS: [usize; 11] = [1, 2, 15, 16, 17, 63, 64, 65, 255, 256, 513];

/// Tokens, the position of the first, positions of the cache: inside a tile, across blocks, pages and tiles.
const PLACES: [(usize, usize, usize); 7] = [
    (1, 0, 1),
    (3, 0, 8),
    (1, 255, 256),
    (1, 600, 700),
    (40, 250, 300),
    (70, 500, 600),
    (9, 1020, 1030),
];

fn exact(backend: &dyn Backend) {
    for (heads, kv_heads, head_dim) in [(1, 1, 2), (4, 2, 16), (5, 1, 20)] {
        let scale = 1.0 / (head_dim as f32).sqrt();
        for window in WINDOWS {
            let shape = AttentionShape { heads, kv_heads, head_dim, scale, window: Some(window) };
            for (place, kind) in
                PLACES.into_iter().flat_map(|place| KINDS.map(|kind| (place, kind)))
            {
                attention_case(backend, kind, shape, place);
            }
        }
    }
}

/// A window that hides nothing gives the bits of no window, and each token those that it gets alone.
fn tokens_are_answered_as_if_alone(backend: &dyn Backend) {
    let pool = pool();
    let (tokens, first) = (70, 460);
    let seen = tokens + first;
    for kind in KINDS {
        let mut numbers = Numbers::new(51);
        let (k, v) = (numbers.floats(seen * 64), numbers.floats(seen * 64));
        let cache = cache(backend, kind, (2, 32), seen, [&k, &v]);
        let q = tensor(tokens, 192, &numbers.floats(tokens * 192), &pool);
        let run = |window: Option<usize>, token: usize, tokens: usize| {
            let shape = AttentionShape { heads: 6, kv_heads: 2, head_dim: 32, scale: 0.18, window };
            let mut out = dirty(tokens, 192, &pool);
            let span = KvSpan { cache: &cache, layer: LAYER, first: first + token, tokens };
            let q = q.narrow(0, token..token + tokens).unwrap();
            backend.attention(&q, &[span], shape, &mut out).unwrap();
            bits(&out)
        };
        assert_eq!(run(Some(seen), 0, tokens), run(None, 0, tokens), "{kind}");
        assert_eq!(run(Some(usize::MAX), 0, tokens), run(None, 0, tokens), "{kind}");
        for window in [1, 30, 204, 205, 300] {
            let together = run(Some(window), 0, tokens);
            for (token, together) in together.chunks_exact(192).enumerate() {
                assert_eq!(
                    together,
                    run(Some(window), token, 1),
                    "{kind}: {window}, token {token}"
                );
            }
        }
    }
}

/// What a window hides from a token does not reach it, even if it is not finite; what it sees does.
fn hidden_positions_are_not_read(backend: &dyn Backend) {
    let pool = pool();
    let head_dim = 16;
    for (heads, tokens, first, spoiled, window) in [
        (1, 8, 10, 9, 4),
        (2, 20, 250, 249, 7),
        (3, 9, 60, 40, 24),
        (1, 30, 300, 255, 50),
        (8, 3, 70, 69, 2),
    ] {
        let shape =
            AttentionShape { heads, kv_heads: 1, head_dim, scale: 0.25, window: Some(window) };
        let (seen, cols) = (first + tokens, heads * head_dim);
        for kind in KINDS {
            for spoil_keys in [true, false] {
                let mut numbers = Numbers::new(52);
                let (mut k, mut v) =
                    (numbers.floats(seen * head_dim), numbers.floats(seen * head_dim));
                let spoil = if spoil_keys { &mut k } else { &mut v };
                spoil[spoiled * head_dim..][..head_dim].fill(f32::NAN);
                let cache = cache(backend, kind, (1, head_dim), seen, [&k, &v]);
                let q = tensor(tokens, cols, &numbers.floats(tokens * cols), &pool);
                let mut out = dirty(tokens, cols, &pool);
                let span = KvSpan { cache: &cache, layer: LAYER, first, tokens };
                backend.attention(&q, &[span], shape, &mut out).unwrap();
                for (token, row) in out.f32().unwrap().chunks_exact(cols).enumerate() {
                    let sees = visible(shape, first + token).contains(&spoiled);
                    let case = format!("{kind}, keys {spoil_keys}, window {window}, token {token}");
                    assert!(row.iter().all(|x| x.is_finite() != sees), "{case}: {row:?}");
                }
            }
        }
    }
}

pub(crate) fn cases(backend: &dyn Backend) {
    exact(backend);
    tokens_are_answered_as_if_alone(backend);
    hidden_positions_are_not_read(backend);
}
