//! Admission: which waiting requests begin, and with what is known of their prompts.

use std::collections::VecDeque;
use std::time::Instant;

use bitnet_core::kv::KvCache;

use super::live::{Live, Pending};
use super::memory::{Pages, pages_of_state};
use super::prefix::PrefixCache;
use super::request::{Request, Usage};
use super::scheduler::{Active, Waiting};
use super::sequence::{Sequence, expected_pages, pages_of_forks};
use super::worker::{End, Worker};
use crate::draft::Drafter;
use crate::generate::TextWriter;
use crate::sampler::Sampler;
use crate::session::common_len;

/// Requests that are looked at for admission in one step.
const CANDIDATES: usize = 64;

/// A common beginning of so many tokens is worth waiting for while another request reads it.
const WORTH_WAITING: usize = 32;

impl Worker {
    /// Admits requests for which there is room beside the `active` texts. Returns whether there were any.
    pub(super) fn admit(&mut self, active: &[Active]) -> bool {
        if self.waiting.is_empty() {
            return false;
        }
        let running: usize = active.iter().map(|a| a.sequences).sum();
        if running >= self.config.step.max_sequences {
            return false;
        }
        let held = self.active_pages();
        self.share_read_prompts();
        let views = self.waiting_views(&held);
        let free = self.page_limit.saturating_sub(held.count());
        let now = self.shared.start.elapsed();
        let admitted = self.scheduler.admit(&views, active, free, &self.cost, now);
        let any = !admitted.is_empty();
        for id in admitted {
            let Some(index) = self.waiting.iter().position(|pending| pending.id == id) else {
                continue;
            };
            let pending = self.waiting.remove(index);
            self.left_queue(&pending);
            match self.first_sequence(&pending.request, &pending.sampler) {
                Ok(first) => self.begin(pending, first),
                Err(error) => self.close(&pending, End::Failed(error.into())),
            }
        }
        any
    }

    /// Puts the prompts that are being read into the prefix cache as far as a waiting request has use for them.
    fn share_read_prompts(&mut self) {
        let Self { prefixes, waiting, live, .. } = self;
        for pending in waiting.iter().take(CANDIDATES) {
            let request = &pending.request;
            if request.prompt_logprobs.is_some() {
                continue;
            }
            for live in live.values().filter(|l| l.pending.request.group == request.group) {
                let Some(first) = live.sequences.first() else { continue };
                let read = first.session.tokens();
                let common = common_len(read, &request.prompt);
                if common > WORTH_WAITING
                    && prefixes.matched(request.group, &read[..common]) < common
                {
                    let cache = first.session.cache().fork(common);
                    prefixes.insert(request.group, read, cache);
                }
            }
        }
    }

    /// Returns how the scheduler sees the first requests that wait.
    fn waiting_views(&mut self, held: &Pages) -> Vec<Waiting> {
        let context = self.empty.capacity();
        let state = pages_of_state(self.empty.cache());
        let mut views: Vec<Waiting> = Vec::new();
        let count = self.waiting.len().min(CANDIDATES);
        for index in 0..count {
            let Pending { id, request, arrived, .. } = &self.waiting[index];
            let found = find_prefix(&mut self.prefixes, request);
            let matched = found.as_ref().map_or(0, KvCache::len);
            let shared = found.map_or(0, |cache| held.shared_with(&cache));
            let pages = expected_pages(request, context, self.page_limit);
            let of_forks = pages_of_forks(request.choices - 1, pages, request.prompt.len());
            let pages = pages.saturating_sub(shared) + of_forks + request.choices * state;
            let follows = self.follows(request, index, matched, &views);
            views.push(Waiting {
                id: *id,
                client: request.client,
                priority: request.priority,
                arrived: *arrived,
                prompt_left: request.prompt.len() - matched,
                pages: pages.min(self.page_limit),
                sequences: request.choices,
                follows,
            });
        }
        views
    }

    /// Whether a request that is being read, or comes before `index` in the queue, has a beginning in common with
    /// `request` that is worth waiting for.
    fn follows(&self, request: &Request, index: usize, matched: usize, before: &[Waiting]) -> bool {
        let is_worth = |other: &Request, read: usize| {
            let common = common_len(&other.prompt, known_part(&request.prompt));
            other.group == request.group
                && other.priority >= request.priority
                && common > matched.max(read) + WORTH_WAITING
        };
        if request.prompt_logprobs.is_some() {
            return false;
        }
        let reading = self.live.values().filter(|live| live.is_reading());
        let mut reading = reading.filter_map(|live| {
            let first = live.sequences.first()?;
            Some((&live.pending.request, first.session.tokens().len()))
        });
        reading.any(|(other, read)| is_worth(other, read))
            || before.iter().zip(&self.waiting[..index]).any(|(view, other)| {
                !view.follows
                    && other.request.prompt_logprobs.is_none()
                    && is_worth(&other.request, 0)
            })
    }

    /// Begins to read a request's prompt after what its first text knows of it.
    fn begin(&mut self, pending: Pending, first: Sequence) {
        let cached = first.session.tokens().len();
        let usage = Usage {
            prompt_tokens: pending.request.prompt.len(),
            cached_tokens: cached,
            queue_time: self.shared.start.elapsed().saturating_sub(pending.arrived),
            ..Usage::default()
        };
        self.shared.stats().cached_tokens += cached as u64;
        let mut live = Live {
            sequences: vec![first],
            held: VecDeque::new(),
            held_since: None,
            usage,
            first_step: Instant::now(),
            first_token: None,
            is_told: false,
            pending,
        };
        if cached > 0 {
            live.tell_prompt(Vec::new());
        }
        self.live.insert(live.pending.id, live);
    }

    /// Returns the first text of a request, with what is known of its prompt.
    fn first_sequence(&mut self, request: &Request, sampler: &Sampler) -> crate::Result<Sequence> {
        let context = self.empty.capacity();
        let session = match find_prefix(&mut self.prefixes, request) {
            Some(cache) => self.empty.with_cache(&request.prompt[..cache.len()], cache),
            None => self.model.session(Some(context))?,
        };
        Ok(Sequence {
            choice: 0,
            writer: TextWriter::new(&session, &request.options)?,
            session,
            tokens: request.prompt.clone(),
            sampler: sampler.clone(),
            drafter: Drafter::new(request.options.draft_mode()),
            max_len: request.prompt.len().saturating_add(request.options.max_tokens),
            expected_pages: expected_pages(request, context, self.page_limit),
            is_done: false,
        })
    }
}

/// Returns the keys and values that are known of a request's prompt. None are used where the whole prompt must be read.
fn find_prefix(prefixes: &mut PrefixCache, request: &Request) -> Option<KvCache> {
    match request.prompt_logprobs {
        Some(_) => None,
        None => prefixes.find(request.group, known_part(&request.prompt)),
    }
}

/// Returns the part of a prompt that may be found: all but its last token, whose logits are needed.
fn known_part(prompt: &[u32]) -> &[u32] {
    &prompt[..prompt.len().saturating_sub(1)]
}
