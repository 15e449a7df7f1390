//! One text that is being written.

use bitnet_core::kv::KV_PAGE;

use super::live::Pending;
use super::request::Request;
use super::scheduler::Active;
use crate::draft::Drafter;
use crate::generate::{FinishReason, TextWriter};
use crate::sampler::Sampler;
use crate::session::Session;

/// Tokens that a text is expected to have, at most: memory is promised for them.
const EXPECTED: usize = 256;

/// Bits of a sequence's number that count the texts of its request.
const CHOICE_BITS: u32 = 8;

/// The texts of a request, at most.
pub(super) const MAX_CHOICES: usize = (1 << CHOICE_BITS) - 1;

/// One text: what is read of it, and what is to be read.
#[derive(Debug)]
pub(super) struct Sequence {
    pub(super) choice: usize,
    pub(super) session: Session,
    /// The prompt and what was written. The session has read a part of it.
    pub(super) tokens: Vec<u32>,
    pub(super) sampler: Sampler,
    pub(super) drafter: Drafter,
    pub(super) writer: TextWriter,
    /// Tokens that it may have, the prompt's included.
    pub(super) max_len: usize,
    /// Pages that it is expected to have in the end.
    pub(super) expected_pages: usize,
    /// Whether it has ended.
    pub(super) is_done: bool,
}

/// Returns the number by which a scheduler knows a text of a request.
pub(super) fn sequence_id(request: u64, choice: usize) -> u64 {
    request << CHOICE_BITS | choice as u64
}

/// Returns the request of a sequence.
pub(super) fn request_of(sequence: u64) -> u64 {
    sequence >> CHOICE_BITS
}

/// Returns the text of a sequence among those of its request.
pub(super) fn choice_of(sequence: u64) -> usize {
    sequence as usize & MAX_CHOICES
}

/// Returns the pages that one text of `request` is expected to have, the prompt's included, of `limit` pages in all.
pub(super) fn expected_pages(request: &Request, context: usize, limit: usize) -> usize {
    let written = request.options.max_tokens.min(EXPECTED);
    let positions = request.prompt.len().saturating_add(written).min(context);
    positions.div_ceil(KV_PAGE).min(limit)
}

/// Returns the pages of their own that texts forked after a prompt are expected to need. `expected` pages are those of one
/// text with the prompt.
pub(super) fn pages_of_forks(forks: usize, expected: usize, prompt_len: usize) -> usize {
    forks * expected.saturating_sub(prompt_len / KV_PAGE)
}

impl Sequence {
    /// Tokens that are to be read before the next one is written.
    pub(super) fn left(&self) -> usize {
        self.tokens.len() - self.session.tokens().len()
    }

    /// Whether it writes in its next step: one token is left, and it is not the prompt's.
    pub(super) fn writes(&self, request: &Request) -> bool {
        self.tokens.len() > request.prompt.len() && self.left() == 1
    }

    /// Reads the token that was written last, alone in its step, with a draft of what may follow it.
    pub(super) fn read_with_draft(&mut self) -> crate::Result<()> {
        let Self { session, drafter, sampler, tokens, max_len, .. } = self;
        let read = session.tokens().len();
        // A draft takes no page beyond that of the token.
        let in_page = KV_PAGE - 1 - read % KV_PAGE;
        let room = in_page.min(session.capacity() - read - 1);
        // After the tokens of a draft one more is written, and the last one is not read.
        let to_write = max_len.saturating_sub(tokens.len());
        drafter.read(session, tokens[read], room.min(to_write.saturating_sub(1)), sampler)
    }

    /// Whether it has all the tokens that it may have.
    pub(super) fn is_full(&self) -> bool {
        self.tokens.len() >= self.max_len
    }

    /// Returns why no token may follow the last one, if that is so.
    pub(super) fn limit(&self) -> Option<FinishReason> {
        if self.is_full() {
            return Some(FinishReason::Length);
        }
        let can_read = self.session.tokens().len() < self.session.capacity();
        (!can_read).then_some(FinishReason::ContextFull)
    }

    /// Returns how the scheduler sees it. Texts that are forked after the prompt need pages of their own.
    pub(super) fn active(&self, pending: &Pending, forks: usize, is_blocked: bool) -> Active {
        let request = &pending.request;
        let cache = self.session.cache();
        let (pages, written) = (cache.page_ids().len(), cache.pages_to_reserve(1));
        let room = pages * KV_PAGE - cache.len();
        let copies = usize::from(room > 0 && written > 0);
        let own = (self.expected_pages + copies).saturating_sub(pages);
        let of_forks = pages_of_forks(forks, self.expected_pages, request.prompt.len());
        Active {
            id: sequence_id(pending.id, self.choice),
            client: request.client,
            priority: request.priority,
            arrived: pending.arrived,
            prompt_left: if self.writes(request) { 0 } else { self.left() },
            context: cache.len(),
            room,
            copies,
            sequences: 1 + forks,
            promised: own + of_forks,
            is_blocked,
        }
    }
}
