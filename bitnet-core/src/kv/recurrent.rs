//! Recurrent state beside keys and values: what a gated delta rule remembers of a sequence, and the last inputs of its
//! convolution.
//!
//! ```text
//! chunk        16 positions from a multiple of 16 on: the state at its start, and a log of its positions
//! state        [layer][value head][component of a key][component of a value, rounded up to a multiple of 16]
//! log          [layer] of
//!   inputs       [taps - 1 + 16][channels]: what the convolution read, from `taps - 1` positions before the chunk on
//!   keys         [key head][16][component]: normalised
//!   corrections  [value head][16][component of a value, rounded up]: what each position added along its key
//!   decays       [value head][16]: sums of the logarithms of decay from the chunk's start on
//! ```
//!
//! The state inside a chunk follows from its start and its log:
//! `S_t = exp(decay_t) * S + Σ_{j <= t} exp(decay_t - decay_j) * key_j ⊗ correction_j`. So the arithmetic of a position
//! depends on the position alone and not on which tokens are read together, a token writes 16th parts of what it reads,
//! and a sequence can be cut anywhere in a chunk that is still there: the last two are, and those that
//! [`checkpoint`](super::KvCache::checkpoint) keeps.

use std::sync::Arc;

use smallvec::SmallVec;

use crate::memory::{HybridMemoryPool, PoolBuffer};
use crate::{Error, Result};

/// Positions of a chunk.
pub const STATE_CHUNK: usize = 16;

/// Lanes to which the components of a value are rounded up.
const LANES: usize = 16;

/// Checkpoints that a sequence keeps at most.
const CHECKPOINTS: usize = 4;

/// The sizes of the recurrent layers of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RecurrentShape {
    /// Layers with a state.
    pub layers: usize,
    /// Heads of keys and queries.
    pub key_heads: usize,
    /// Heads of values; a multiple of `key_heads`.
    pub value_heads: usize,
    /// Components of a key.
    pub key_dim: usize,
    /// Components of a value.
    pub value_dim: usize,
    /// Positions that the convolution reads for one output.
    pub taps: usize,
}

impl RecurrentShape {
    /// Returns the channels of the convolution: those of queries, keys and values.
    pub fn channels(&self) -> usize {
        2 * self.key_heads * self.key_dim + self.value_heads * self.value_dim
    }

    /// Returns the components of all values.
    pub fn values(&self) -> usize {
        self.value_heads * self.value_dim
    }

    /// Returns the stored components of a value: `value_dim` rounded up to a multiple of 16.
    pub fn value_width(&self) -> usize {
        self.value_dim.next_multiple_of(LANES)
    }

    /// Returns the numbers of one head's state.
    pub fn head_state(&self) -> usize {
        self.key_dim * self.value_width()
    }

    fn layer_state(&self) -> usize {
        self.value_heads * self.head_state()
    }

    /// Rows of inputs in a log.
    fn input_rows(&self) -> usize {
        self.taps - 1 + STATE_CHUNK
    }

    /// Numbers of inputs, keys, corrections and decays of one layer.
    fn log_parts(&self) -> [usize; 4] {
        [
            self.input_rows() * self.channels(),
            self.key_heads * STATE_CHUNK * self.key_dim,
            self.value_heads * STATE_CHUNK * self.value_width(),
            self.value_heads * STATE_CHUNK,
        ]
    }

    fn layer_log(&self) -> usize {
        self.log_parts().iter().sum()
    }

    /// Returns the bytes of a chunk, or `None` if they overflow or a size is impossible.
    pub fn chunk_bytes(&self) -> Option<usize> {
        let sizes = [self.key_heads, self.value_heads, self.key_dim, self.value_dim, self.taps];
        let is_possible = sizes.iter().all(|&size| (1..=1 << 20).contains(&size))
            && self.taps <= STATE_CHUNK
            && self.value_heads.is_multiple_of(self.key_heads);
        let head = self.key_dim.checked_mul(self.value_width())?;
        let state = self.value_heads.checked_mul(head)?;
        let bytes =
            state.checked_add(self.layer_log())?.checked_mul(self.layers)?.checked_mul(4)?;
        (is_possible && isize::try_from(bytes).is_ok()).then_some(bytes)
    }
}

/// The state at a multiple of 16, and the log of the positions after it.
#[derive(Debug, Clone)]
struct Chunk {
    start: usize,
    /// Positions of the log that are filled.
    filled: usize,
    is_checkpoint: bool,
    state: Arc<PoolBuffer<f32>>,
    log: Arc<PoolBuffer<f32>>,
}

/// The recurrent state of one sequence in every layer.
#[derive(Debug)]
pub struct RecurrentState {
    shape: RecurrentShape,
    pool: HybridMemoryPool,
    /// Chunks that can be returned to, in ascending order.
    chunks: Vec<Chunk>,
    /// Chunks that the pass in progress fills.
    pending: SmallVec<[Chunk; 2]>,
    /// Buffers of a chunk that was dropped, for the next one.
    spare: Option<[Arc<PoolBuffer<f32>>; 2]>,
}

/// The state of one layer during a pass.
#[derive(Debug)]
pub struct LayerState<'a> {
    /// The sizes of the state.
    pub shape: RecurrentShape,
    /// The chunk of the pass's first position, whose state is known, then those that the pass must fill.
    pub chunks: SmallVec<[LayerChunk<'a>; 3]>,
}

/// One chunk of one layer.
#[derive(Debug)]
pub struct LayerChunk<'a> {
    /// The first position of the chunk, a multiple of 16.
    pub start: usize,
    /// The state at that position.
    pub state: StateNumbers<'a>,
    /// `[taps - 1 + 16, channels]`
    pub inputs: &'a mut [f32],
    /// `[key_heads, 16, key_dim]`
    pub keys: &'a mut [f32],
    /// `[value_heads, 16, value_width]`
    pub corrections: &'a mut [f32],
    /// `[value_heads, 16]`
    pub decays: &'a mut [f32],
}

/// `[value_heads, key_dim, value_width]`
#[derive(Debug)]
pub enum StateNumbers<'a> {
    /// Known.
    Known(&'a [f32]),
    /// To be computed.
    Unknown(&'a mut [f32]),
}

/// Tokens of one sequence in one recurrent layer: they stand at `first..first + tokens` of its cache.
#[derive(Debug)]
pub struct StateSpan<'a> {
    /// The sequence's cache, with those positions [reserved](super::KvCache::reserve).
    pub cache: &'a mut super::KvCache,
    /// The layer, counted among recurrent layers.
    pub layer: usize,
    /// Position of the first token.
    pub first: usize,
    /// Number of tokens.
    pub tokens: usize,
}

impl StateSpan<'_> {
    /// Returns the state of the span's layer.
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if the cache has no such layer, or nothing is reserved.
    pub fn layer_state(&mut self) -> Result<LayerState<'_>> {
        let missing = Error::OutOfRange { op: "recurrent state", index: self.layer, len: 0 };
        self.cache.recurrent_state_mut().ok_or(missing)?.layer_mut(self.layer)
    }
}

/// Returns the start of the chunk that holds `position`.
#[inline]
pub fn chunk_start(position: usize) -> usize {
    position / STATE_CHUNK * STATE_CHUNK
}

impl RecurrentState {
    /// Returns the state of an empty sequence. Allocates nothing in `pool` yet.
    ///
    /// # Errors
    /// [`Error::SizeOverflow`] for sizes that no model has.
    pub(super) fn new(shape: RecurrentShape, pool: &HybridMemoryPool) -> Result<Self> {
        shape.chunk_bytes().ok_or(Error::SizeOverflow { what: "recurrent state" })?;
        let (chunks, pending) = (Vec::new(), SmallVec::new());
        Ok(Self { shape, pool: pool.clone(), chunks, pending, spare: None })
    }

    /// Returns the sizes.
    pub fn shape(&self) -> RecurrentShape {
        self.shape
    }

    /// Returns a state that shares its chunks with this one.
    pub(super) fn fork(&self) -> Self {
        let (shape, pool, chunks) = (self.shape, self.pool.clone(), self.chunks.clone());
        Self { shape, pool, chunks, pending: SmallVec::new(), spare: None }
    }

    /// Makes positions `len..len + tokens` writable.
    pub(super) fn reserve(&mut self, len: usize, tokens: usize) -> Result<()> {
        self.drop_pending();
        if tokens == 0 {
            return Ok(());
        }
        if self.chunks.is_empty() {
            let zeros = |len| Ok(Arc::new(PoolBuffer::zeroed(len, &self.pool)?));
            let (state, log) = (zeros(self.state_len())?, zeros(self.log_len())?);
            self.chunks.push(Chunk { start: 0, filled: 0, is_checkpoint: false, state, log });
        }
        let pool = &self.pool;
        let Some(base) = self.chunks.last_mut() else { return Ok(()) };
        if Arc::get_mut(&mut base.log).is_none() {
            base.log = Arc::new(PoolBuffer::from_slice(&base.log, pool)?);
        }
        let (base, last) = (base.start, chunk_start(len + tokens - 1));
        for start in [last.saturating_sub(STATE_CHUNK), last] {
            if start > base && self.pending.last().is_none_or(|chunk| chunk.start < start) {
                let chunk = self.new_chunk(start)?;
                self.pending.push(chunk);
            }
        }
        Ok(())
    }

    /// Forgets what a pass did not finish.
    fn drop_pending(&mut self) {
        for chunk in self.pending.drain(..) {
            self.spare = Some([chunk.state, chunk.log]);
        }
    }

    fn state_len(&self) -> usize {
        self.shape.layers * self.shape.layer_state()
    }

    fn log_len(&self) -> usize {
        self.shape.layers * self.shape.layer_log()
    }

    fn new_chunk(&mut self, start: usize) -> Result<Chunk> {
        let [state, log] = match self.spare.take() {
            Some(spare) => spare,
            None => {
                let scratch = |len| Ok(Arc::new(PoolBuffer::scratch(len, &self.pool)?));
                [scratch(self.state_len())?, scratch(self.log_len())?]
            }
        };
        Ok(Chunk { start, filled: 0, is_checkpoint: false, state, log })
    }

    /// Takes the reserved positions `len..len + tokens` over.
    pub(super) fn advance(&mut self, len: usize, tokens: usize) {
        let end = len + tokens;
        self.chunks.extend(self.pending.drain(..));
        for chunk in &mut self.chunks {
            let filled = end.saturating_sub(chunk.start).min(STATE_CHUNK);
            chunk.filled = chunk.filled.max(filled);
        }
        let kept = self.chunks.len().saturating_sub(2);
        let mut index = 0;
        let mut dropped = None;
        self.chunks.retain(|chunk| {
            index += 1;
            let is_kept = chunk.is_checkpoint || index > kept;
            if !is_kept {
                dropped = Some([Arc::clone(&chunk.state), Arc::clone(&chunk.log)]);
            }
            is_kept
        });
        let unique =
            dropped.filter(|buffers| buffers.iter().all(|buffer| Arc::strong_count(buffer) == 1));
        self.spare = unique.or(self.spare.take());
    }

    /// Keeps the chunk of the last of `len` positions until the sequence is cut before it.
    pub(super) fn checkpoint(&mut self, len: usize) {
        let start = chunk_start(len.saturating_sub(1));
        if let Some(chunk) = self.chunks.iter_mut().find(|chunk| chunk.start == start) {
            chunk.is_checkpoint = true;
        }
        let count = self.chunks.iter().filter(|chunk| chunk.is_checkpoint).count();
        if count > CHECKPOINTS
            && let Some(oldest) = self.chunks.iter_mut().find(|chunk| chunk.is_checkpoint)
        {
            oldest.is_checkpoint = false;
        }
    }

    /// Cuts the sequence at `len`, or at the nearest position before it whose state is known; returns it.
    pub(super) fn truncate(&mut self, len: usize) -> usize {
        self.drop_pending();
        let reachable = |chunk: &Chunk| len.min(chunk.start + chunk.filled);
        let before = self.chunks.iter().filter(|chunk| chunk.start <= len);
        let reached = before.map(reachable).max().unwrap_or(0);
        // A chunk that begins where the sequence ends holds its state; at 0 there is none to hold.
        self.chunks.retain(|chunk| reached > 0 && chunk.start <= reached);
        if let Some(last) = self.chunks.last_mut() {
            last.filled = reached - last.start;
        }
        reached
    }

    /// Returns layer `layer` for the pass whose positions were [reserved](super::KvCache::reserve).
    ///
    /// # Errors
    /// [`Error::OutOfRange`] if there is no such layer, or nothing is reserved.
    pub fn layer_mut(&mut self, layer: usize) -> Result<LayerState<'_>> {
        const OP: &str = "recurrent state";
        let shape = self.shape;
        if layer >= shape.layers {
            return Err(Error::OutOfRange { op: OP, index: layer, len: shape.layers });
        }
        let base = self.chunks.last_mut().ok_or(Error::OutOfRange { op: OP, index: 0, len: 0 })?;
        let layer_state = layer * shape.layer_state()..(layer + 1) * shape.layer_state();
        let mut chunks = SmallVec::new();
        let known = StateNumbers::Known(&base.state[layer_state.clone()]);
        chunks.push(layer_chunk(shape, layer, base.start, known, &mut base.log)?);
        for chunk in &mut self.pending {
            let state = Arc::get_mut(&mut chunk.state).ok_or(Error::NotWritable { op: OP })?;
            let unknown = StateNumbers::Unknown(&mut state[layer_state.clone()]);
            chunks.push(layer_chunk(shape, layer, chunk.start, unknown, &mut chunk.log)?);
        }
        Ok(LayerState { shape, chunks })
    }
}

fn layer_chunk<'a>(
    shape: RecurrentShape,
    layer: usize,
    start: usize,
    state: StateNumbers<'a>,
    log: &'a mut Arc<PoolBuffer<f32>>,
) -> Result<LayerChunk<'a>> {
    let log = Arc::get_mut(log).ok_or(Error::NotWritable { op: "recurrent state" })?;
    let [inputs, keys, corrections, _] = shape.log_parts();
    let log = &mut log[layer * shape.layer_log()..][..shape.layer_log()];
    let (inputs, log) = log.split_at_mut(inputs);
    let (keys, log) = log.split_at_mut(keys);
    let (corrections, decays) = log.split_at_mut(corrections);
    Ok(LayerChunk { start, state, inputs, keys, corrections, decays })
}

impl LayerState<'_> {
    /// Writes rows `x` (`[tokens, channels]`), which stand at `first` and after, to the logs of the pass's chunks, so
    /// that each chunk that a later pass begins in has the inputs that its convolution reads.
    pub fn store_inputs(&mut self, x: &[f32], first: usize) {
        let (channels, back) = (self.shape.channels(), self.shape.taps - 1);
        let end = first + x.len() / channels.max(1);
        let Some((base, later)) = self.chunks.split_first_mut() else { return };
        // Row `r` of a log stands at `start + r - back`.
        let row = |start: usize, position: usize| (position + back - start) * channels;
        for chunk in later {
            let from = chunk.start.saturating_sub(back);
            if from < first {
                let (source, len) = (row(base.start, from), (first - from) * channels);
                chunk.inputs[row(chunk.start, from)..][..len]
                    .copy_from_slice(&base.inputs[source..][..len]);
            }
            copy_rows(chunk, x, first, from.max(first)..end, row, channels);
        }
        copy_rows(base, x, first, first..end, row, channels);
    }

    /// Returns the rows that the convolution of position `first` reads before it, `[taps - 1, channels]`.
    pub fn inputs_before(&self, first: usize) -> &[f32] {
        let (channels, back) = (self.shape.channels(), self.shape.taps - 1);
        match self.chunks.first() {
            Some(base) => &base.inputs[(first - base.start) * channels..][..back * channels],
            None => &[],
        }
    }
}

/// Copies the rows of `positions` that a chunk's log has room for.
fn copy_rows(
    chunk: &mut LayerChunk<'_>,
    x: &[f32],
    first: usize,
    positions: std::ops::Range<usize>,
    row: impl Fn(usize, usize) -> usize,
    channels: usize,
) {
    let end = positions.end.min(chunk.start + STATE_CHUNK);
    if positions.start < end {
        let len = (end - positions.start) * channels;
        chunk.inputs[row(chunk.start, positions.start)..][..len]
            .copy_from_slice(&x[(positions.start - first) * channels..][..len]);
    }
}
