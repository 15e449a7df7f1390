//! Joining neighbouring symbols, best pair first, until no pair can be joined: the core of both kinds of vocabulary.
//!
//! Symbols form a list over the text; a heap holds every pair that can be joined. A pair whose symbols have changed
//! since it was put there is recognised by its length and dropped. O(n log n) in the number of characters.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

/// A piece of the text that is or becomes a token.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Symbol {
    /// Byte range in the text; empty once joined to its left neighbour.
    pub(crate) start: usize,
    pub(crate) end: usize,
    /// The token, if the vocabulary has one for it.
    pub(crate) id: Option<u32>,
    previous: Option<usize>,
    next: Option<usize>,
}

impl Symbol {
    /// The symbol's text.
    pub(crate) fn text<'t>(&self, text: &'t str) -> &'t str {
        text.get(self.start..self.end).unwrap_or_default()
    }
}

/// Joins the characters of `text`. `single` gives the token of a character; `pair` says how good a pair is, greater
/// first, and which token it becomes. Equally good pairs are joined from the left.
pub(crate) fn merge<P: Ord>(
    text: &str,
    single: impl Fn(&str) -> Option<u32>,
    pair: impl Fn(&Symbol, &Symbol) -> Option<(P, u32)>,
) -> Vec<Symbol> {
    let mut symbols: Vec<Symbol> = Vec::with_capacity(text.len());
    for (start, letter) in text.char_indices() {
        let end = start + letter.len_utf8();
        let previous = symbols.len().checked_sub(1);
        let id = text.get(start..end).and_then(&single);
        symbols.push(Symbol { start, end, id, previous, next: Some(symbols.len() + 1) });
    }
    if let Some(last) = symbols.last_mut() {
        last.next = None;
    }
    let mut heap = BinaryHeap::new();
    let propose = |symbols: &[Symbol],
                   heap: &mut BinaryHeap<_>,
                   left: Option<usize>,
                   right: Option<usize>| {
        let (Some(left), Some(right)) = (left, right) else { return };
        let (Some(first), Some(second)) = (symbols.get(left), symbols.get(right)) else { return };
        if let Some((priority, id)) = pair(first, second) {
            heap.push((priority, Reverse(left), right, second.end - first.start, id));
        }
    };
    for right in 1..symbols.len() {
        propose(&symbols, &mut heap, Some(right - 1), Some(right));
    }
    while let Some((_, Reverse(left), right, length, id)) = heap.pop() {
        let (Some(&first), Some(&second)) = (symbols.get(left), symbols.get(right)) else {
            continue;
        };
        let alive = first.start < first.end && second.start < second.end;
        if !alive || first.next != Some(right) || second.end - first.start != length {
            continue;
        }
        symbols[left] = Symbol { end: second.end, id: Some(id), next: second.next, ..first };
        symbols[right].end = second.start;
        if let Some(after) = second.next.and_then(|next| symbols.get_mut(next)) {
            after.previous = Some(left);
        }
        propose(&symbols, &mut heap, first.previous, Some(left));
        propose(&symbols, &mut heap, Some(left), second.next);
    }
    symbols.retain(|symbol| symbol.start < symbol.end);
    symbols
}
