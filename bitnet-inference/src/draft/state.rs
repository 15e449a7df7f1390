//! What a session knows for its layer that drafts tokens: the pairs of tokens and states that it has read.

use bitnet_core::kv::KvCache;
use bitnet_core::memory::tensor::BitNetTensor;

use crate::models::Decoder;
use crate::sampler::Sampler;
use crate::{InferenceError, Result};

/// Pairs that wait at most, so that a prompt does not hold the states of all its tokens.
const WAITING: usize = 64;

/// The keys and values of a layer that drafts tokens, and the states that it has yet to read. Each of its positions is a
/// token of the sequence with the state of the model before it.
#[derive(Debug)]
pub(crate) struct DraftState {
    cache: KvCache,
    /// The state after the last token that was followed, `[1, hidden]`, unless the sequence was cut there.
    last: Option<BitNetTensor>,
    /// Tokens and the states before them that are not in the cache yet.
    tokens: Vec<u32>,
    states: Vec<BitNetTensor>,
}

impl DraftState {
    pub(crate) fn new(cache: KvCache) -> Self {
        Self { cache, last: None, tokens: Vec::new(), states: Vec::new() }
    }

    /// Takes note of tokens that the model has read, and its hidden states after them, `[tokens, hidden]`.
    pub(crate) fn follow(
        &mut self,
        decoder: &Decoder,
        tokens: &[u32],
        h: &BitNetTensor,
    ) -> Result<()> {
        let states = decoder.normed(h)?;
        for (row, token) in tokens.iter().enumerate() {
            if let Some(before) = self.last.replace(states.narrow(0, row..row + 1)?) {
                self.tokens.push(*token);
                self.states.push(before);
            }
            if self.tokens.len() == WAITING {
                self.read(decoder)?;
            }
        }
        Ok(())
    }

    /// Reads the pairs that wait. Returns the state that the last of them leads to, `[1, hidden]`.
    fn read(&mut self, decoder: &Decoder) -> Result<BitNetTensor> {
        let tokens = std::mem::take(&mut self.tokens);
        let states: Vec<_> = std::mem::take(&mut self.states);
        let states = decoder.compute.stack(&states.iter().collect::<Vec<_>>())?;
        let after = decoder.draft_states(&tokens, &states, &mut self.cache)?;
        Ok(after.narrow(0, tokens.len() - 1..tokens.len())?)
    }

    /// Returns `count` tokens that may follow `history`, whose last token the model has not read: what `sampler` would
    /// choose if the layer's logits were the model's. None where the state before that token is not known.
    pub(crate) fn draft(
        &mut self,
        decoder: &Decoder,
        history: &[u32],
        sampler: &Sampler,
        count: usize,
    ) -> Result<Vec<u32>> {
        let (Some(before), Some(&token)) = (self.last.clone(), history.last()) else {
            return Ok(Vec::new());
        };
        self.tokens.push(token);
        self.states.push(before.clone());
        let mut state = self.read(decoder)?;
        let known = self.cache.len();
        let (mut history, mut sampler, mut drafted) = (history.to_vec(), sampler.clone(), vec![]);
        for _ in 0..count {
            if let Some(&token) = drafted.last() {
                state = decoder.draft_states(&[token], &state, &mut self.cache)?;
            }
            // Logits that are no numbers draft nothing.
            let token = match choose(decoder, &state, &history, &mut sampler) {
                Err(InferenceError::Parameter { .. }) => break,
                token => token?,
            };
            drafted.push(token);
            history.push(token);
        }
        // The pair of the token that is read next comes again with its followers.
        self.cache.truncate(known - 1);
        self.last = Some(before);
        Ok(drafted)
    }

    /// Forgets the last `count` tokens of the sequence.
    pub(crate) fn cut(&mut self, count: usize) {
        if count == 0 {
            return;
        }
        let waiting = self.tokens.len().saturating_sub(count);
        let read = count - (self.tokens.len() - waiting);
        self.tokens.truncate(waiting);
        self.states.truncate(waiting);
        self.cache.truncate(self.cache.len().saturating_sub(read));
        self.last = None;
    }
}

/// The token that `sampler` chooses after `history` from the logits of a state `[1, hidden]`.
fn choose(
    decoder: &Decoder,
    state: &BitNetTensor,
    history: &[u32],
    sampler: &mut Sampler,
) -> Result<u32> {
    if let Some(query) = sampler.plan_query(history)
        && let Some(found) = decoder.top_logits_of_normed(|| Ok(state.clone()), &[query])?
        && let Some(top) = found.first()
    {
        return sampler.sample_top(top, history);
    }
    let logits = decoder.logits_of_normed(state.clone())?;
    sampler.sample(&mut logits.f32()?.to_vec(), history)
}
