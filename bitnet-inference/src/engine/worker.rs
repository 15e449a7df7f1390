//! The engine's thread: takes requests, plans steps, runs them and tells readers.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bitnet_core::kv::KvCache;

use super::cost::CostModel;
use super::live::{Live, Pending};
use super::memory::{Pages, make_room, pages_of_state};
use super::prefix::PrefixCache;
use super::request::{EngineError, Request, Usage};
use super::scheduler::{Active, Plan, Scheduler, Waiting};
use super::sequence::{Sequence, expected_pages, request_of, sequence_id};
use super::step::{self, Outcome, Part, SCORED_ROWS, unwind};
use super::{EngineConfig, Shared};
use crate::Model;
use crate::generate::TextWriter;
use crate::session::Session;

/// How long the thread sleeps while all readers are behind.
const READERS: Duration = Duration::from_millis(2);

/// Requests that are looked at for admission in one step.
const CANDIDATES: usize = 64;

/// A common beginning of so many tokens is worth waiting for while another request reads it.
const WORTH_WAITING: usize = 32;

/// How a request ends.
enum End {
    Finished,
    Cancelled,
    Failed(EngineError),
}

#[derive(Debug)]
pub(super) struct Worker {
    model: Arc<Model>,
    shared: Arc<Shared>,
    config: EngineConfig,
    empty: Session,
    page_limit: usize,
    scheduler: Scheduler,
    cost: CostModel,
    prefixes: PrefixCache,
    waiting: Vec<Pending>,
    live: BTreeMap<u64, Live>,
}

impl Worker {
    pub(super) fn new(
        model: Arc<Model>,
        shared: Arc<Shared>,
        config: EngineConfig,
        empty: Session,
        page_limit: usize,
    ) -> Self {
        Self {
            model,
            shared,
            scheduler: Scheduler::new(config.step.clone()),
            config,
            empty,
            page_limit,
            cost: CostModel::default(),
            prefixes: PrefixCache::default(),
            waiting: Vec::new(),
            live: BTreeMap::new(),
        }
    }

    /// Runs until the engine shall end.
    pub(super) fn run(mut self) {
        while self.take_requests() {
            self.drop_cancelled();
            self.drop_late();
            self.deliver_held();
            let waiting = self.waiting.iter().map(|pending| pending.request.client);
            let live = self.live.values().map(|live| live.pending.request.client);
            self.scheduler.set_clients(waiting.chain(live));
            self.admit();
            let plan = self.plan();
            if let Some(id) = plan.ended {
                let limit = self.page_limit.saturating_mul(self.empty.cache().page_bytes());
                self.end(request_of(id), End::Failed(EngineError::OutOfMemory { limit }));
            }
            if plan.run.is_empty() {
                if !self.live.is_empty() && plan.ended.is_none() {
                    std::thread::sleep(READERS);
                }
                continue;
            }
            self.step(&plan);
        }
        for (_, live) in std::mem::take(&mut self.live) {
            let _ = live.pending.events.try_send(Err(EngineError::ShuttingDown));
        }
        for pending in self.waiting.drain(..) {
            let _ = pending.events.try_send(Err(EngineError::ShuttingDown));
        }
    }

    /// Takes new requests, waiting for one if there is nothing to do. Returns whether the engine goes on.
    fn take_requests(&mut self) -> bool {
        let mut inbox = self.shared.inbox();
        while inbox.new.is_empty()
            && self.live.is_empty()
            && self.waiting.is_empty()
            && !inbox.is_ending
        {
            self.shared.stats().active = 0;
            inbox = match self.shared.changed.wait(inbox) {
                Ok(inbox) => inbox,
                Err(poisoned) => poisoned.into_inner(),
            };
        }
        let new = std::mem::take(&mut inbox.new);
        let goes_on = !inbox.is_ending;
        drop(inbox);
        self.shared.stats().requests += new.len() as u64;
        self.waiting.extend(new);
        goes_on
    }

    fn drop_cancelled(&mut self) {
        let gone: Vec<u64> = self
            .live
            .iter()
            .filter(|(_, live)| live.pending.events.is_closed())
            .map(|(&id, _)| id)
            .collect();
        gone.into_iter().for_each(|id| self.end(id, End::Cancelled));
        let closed = |pending: &Pending| pending.events.is_closed();
        for pending in extract(&mut self.waiting, closed) {
            self.left_queue(&pending);
            self.count_end(&End::Cancelled);
        }
    }

    /// Ends requests that have waited longer than they wanted to.
    fn drop_late(&mut self) {
        let now = self.shared.start.elapsed();
        let waited = |pending: &Pending| now.saturating_sub(pending.arrived);
        let late = |p: &Pending| p.request.patience.is_some_and(|patience| waited(p) > patience);
        for pending in extract(&mut self.waiting, late) {
            self.left_queue(&pending);
            let end = End::Failed(EngineError::Late { waited: waited(&pending) });
            self.count_end(&end);
            if let End::Failed(error) = end {
                let _ = pending.events.try_send(Err(error));
            }
        }
    }

    /// Gives readers that were behind what they have room for, and ends those that stay behind for too long.
    fn deliver_held(&mut self) {
        let mut slow = Vec::new();
        for (&id, live) in &mut self.live {
            live.deliver();
            let patience = self.config.reader_patience;
            if live.held_since.is_some_and(|since| since.elapsed() > patience) {
                slow.push(id);
            }
        }
        for id in slow {
            self.end(id, End::Failed(EngineError::SlowReader(self.config.reader_patience)));
        }
        let done: Vec<u64> = self
            .live
            .iter()
            .filter(|(_, live)| live.is_done() && live.held.is_empty())
            .map(|(&id, _)| id)
            .collect();
        done.into_iter().for_each(|id| self.end(id, End::Finished));
    }

    fn active_caches(&self) -> impl Iterator<Item = &KvCache> {
        self.live.values().flat_map(|live| &live.sequences).map(|s| s.session.cache())
    }

    fn active(&self) -> Vec<Active> {
        let mut active = Vec::new();
        for (&id, live) in &self.live {
            let forks = match live.is_reading() {
                true => live.pending.request.choices - 1,
                false => 0,
            };
            for sequence in live.sequences.iter().filter(|s| !s.is_done) {
                let view = sequence.active(id, &live.pending.request, forks);
                let (arrived, is_blocked) = (live.pending.arrived, !live.held.is_empty());
                active.push(Active { arrived, is_blocked, ..view });
            }
        }
        active
    }

    /// Admits requests for which there is room.
    fn admit(&mut self) {
        let active = self.active();
        let running: usize = active.iter().map(|a| a.sequences).sum();
        if self.waiting.is_empty() || running >= self.config.step.max_sequences {
            return;
        }
        let held = Pages::of(self.active_caches());
        self.share_read_prompts();
        let views = self.waiting_views(&held);
        let free = self.page_limit.saturating_sub(held.count());
        let now = self.shared.start.elapsed();
        let admitted = self.scheduler.admit(&views, &active, free, &self.cost, now);
        for id in admitted {
            let Some(index) = self.waiting.iter().position(|pending| pending.id == id) else {
                continue;
            };
            let pending = self.waiting.remove(index);
            self.left_queue(&pending);
            self.begin(pending);
        }
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
            let found = match request.prompt_logprobs {
                Some(_) => None,
                None => self.prefixes.find(request.group, known_part(&request.prompt)),
            };
            let matched = found.as_ref().map_or(0, KvCache::len);
            let shared = found.map_or(0, |cache| cache.page_ids().len() - held.missing(&cache));
            let pages = expected_pages(request, context, self.page_limit);
            let of_forks = (request.choices - 1)
                * pages.saturating_sub(request.prompt.len() / bitnet_core::kv::KV_PAGE);
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

    /// Begins to read a request's prompt after what is known of it.
    fn begin(&mut self, pending: Pending) {
        let request = &pending.request;
        let found = match request.prompt_logprobs {
            Some(_) => None,
            None => self.prefixes.find(request.group, known_part(&request.prompt)),
        };
        let session = match found {
            Some(cache) => self.empty.with_cache(&request.prompt[..cache.len()], cache),
            None => match self.model.session(Some(self.empty.capacity())) {
                Ok(session) => session,
                Err(error) => {
                    let _ = pending.events.try_send(Err(error.into()));
                    self.count_end(&End::Cancelled);
                    return;
                }
            },
        };
        let cached = session.tokens().len();
        let Some(tokenizer) = self.empty.tokenizer.clone() else { return };
        let sequence = Sequence {
            choice: 0,
            session,
            tokens: request.prompt.clone(),
            sampler: pending.sampler.clone(),
            writer: TextWriter::new(tokenizer, &self.empty.end_tokens, &request.options),
            expected_pages: expected_pages(request, self.empty.capacity(), self.page_limit),
            is_done: false,
        };
        let usage = Usage {
            prompt_tokens: request.prompt.len(),
            cached_tokens: cached,
            queue_time: self.shared.start.elapsed().saturating_sub(pending.arrived),
            ..Usage::default()
        };
        self.shared.stats().cached_tokens += cached as u64;
        let mut live = Live {
            sequences: vec![sequence],
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

    /// Plans the next step, and drops earlier texts whose pages it needs.
    fn plan(&mut self) -> Plan {
        let active = self.active();
        let held = Pages::of(self.active_caches()).count();
        let free = self.page_limit.saturating_sub(held);
        let plan = self.scheduler.step(&active, free, &self.cost);
        let needed: usize = plan
            .run
            .iter()
            .filter_map(|&(id, tokens)| {
                let live = self.live.get(&request_of(id))?;
                let found =
                    live.sequences.iter().find(|s| sequence_id(request_of(id), s.choice) == id);
                Some(found?.session.cache().pages_to_reserve(tokens))
            })
            .sum();
        let caches = self.live.values().flat_map(|live| &live.sequences);
        let caches = caches.map(|s| s.session.cache());
        let (used, evicted) = make_room(caches, &mut self.prefixes, needed, self.page_limit);
        let mut stats = self.shared.stats();
        stats.paused += u64::from(!plan.paused.is_empty());
        stats.evicted += evicted;
        (stats.pages, stats.active_pages) = (used, held);
        (stats.active, stats.cached_texts) = (active.len(), self.prefixes.len());
        drop(stats);
        plan
    }

    /// Runs a step and tells the readers.
    fn step(&mut self, plan: &Plan) {
        let planned: BTreeMap<u64, usize> = plan.run.iter().copied().collect();
        let start = Instant::now();
        let (mut ids, mut parts) = (Vec::new(), Vec::new());
        for (&request, live) in &mut self.live {
            let (logprobs, scores) =
                (live.pending.request.logprobs, live.pending.request.prompt_logprobs);
            let prompt = live.pending.request.prompt.len();
            for sequence in &mut live.sequences {
                let id = sequence_id(request, sequence.choice);
                let Some(&tokens) = planned.get(&id) else { continue };
                let prompt_logprobs = scores.filter(|_| sequence.session.tokens().len() < prompt);
                let limit = prompt_logprobs.map_or(usize::MAX, |_| SCORED_ROWS);
                let tokens = tokens.min(sequence.left()).min(limit);
                ids.push(id);
                parts.push(Part { sequence, tokens, logprobs, prompt_logprobs });
            }
        }
        let outcomes = step::run(&mut parts);
        let seconds = start.elapsed().as_secs_f64();
        drop(parts);
        self.cost.learn(plan.load, seconds);
        self.shared.stats().step(plan.load, seconds);
        for (id, outcome) in ids.into_iter().zip(outcomes) {
            let told = outcome.and_then(|outcome| {
                let told = unwind(|| self.tell(id, outcome));
                told.unwrap_or_else(|panic| Err(EngineError::Panicked(panic)))
            });
            if let Err(error) = told {
                self.end(request_of(id), End::Failed(error));
            }
        }
        let done: Vec<u64> =
            self.live.iter().filter(|(_, live)| live.is_done()).map(|(&id, _)| id).collect();
        for id in done {
            if let Some(live) = self.live.get_mut(&id) {
                live.finish();
                if live.held.is_empty() {
                    self.end(id, End::Finished);
                }
            }
        }
    }

    /// Tells the reader of a text what came of it.
    fn tell(&mut self, id: u64, outcome: Outcome) -> Result<(), EngineError> {
        let Some(live) = self.live.get_mut(&request_of(id)) else { return Ok(()) };
        let Some(index) =
            live.sequences.iter().position(|s| sequence_id(request_of(id), s.choice) == id)
        else {
            return Ok(());
        };
        let prompt = live.pending.request.prompt.len();
        let sequence = &mut live.sequences[index];
        let has_read_prompt = sequence.tokens.len() == prompt;
        if has_read_prompt {
            let was_all = sequence.left() == 0;
            if was_all {
                sequence.session.cache.checkpoint();
            }
            live.tell_prompt(outcome.prompt_logprobs);
            if !was_all {
                return Ok(());
            }
            self.keep_prompt(request_of(id));
        }
        let Some(live) = self.live.get_mut(&request_of(id)) else { return Ok(()) };
        let logprobs = outcome.logprobs;
        if has_read_prompt {
            live.fork_prompt(self.empty.end_tokens.clone())?;
        }
        let mut written = live.write(index, outcome.token, logprobs)?;
        if has_read_prompt {
            for fork in 1..live.sequences.len() {
                let (token, logprobs) = live.choose_first(fork)?;
                written += live.write(fork, token, logprobs)?;
            }
        }
        self.shared.stats().written_tokens += written;
        Ok(())
    }

    /// Keeps the keys and values of a prompt that was read.
    fn keep_prompt(&mut self, id: u64) {
        let Some(live) = self.live.get(&id) else { return };
        let Some(first) = live.sequences.first() else { return };
        let tokens = first.session.tokens();
        let read = tokens.len() - live.usage.cached_tokens;
        self.shared.stats().prompt_tokens += read as u64;
        let cache = first.session.cache().fork(tokens.len());
        self.prefixes.insert(live.pending.request.group, tokens, cache);
    }

    fn left_queue(&self, pending: &Pending) {
        let mut inbox = self.shared.inbox();
        inbox.waiting -= 1;
        inbox.waiting_tokens -= pending.request.prompt.len();
    }

    fn count_end(&self, end: &End) {
        let mut stats = self.shared.stats();
        match end {
            End::Finished => stats.finished += 1,
            End::Cancelled => stats.cancelled += 1,
            End::Failed(_) => stats.failed += 1,
        }
        drop(stats);
        // Who finds that nothing is left finds it counted.
        self.shared.inbox().unfinished -= 1;
    }

    /// Ends a request, and keeps what was read for it.
    fn end(&mut self, id: u64, end: End) {
        let Some(live) = self.live.remove(&id) else { return };
        for sequence in &live.sequences {
            let tokens = sequence.session.tokens();
            if !matches!(end, End::Failed(EngineError::Panicked(_))) && !tokens.is_empty() {
                let cache = sequence.session.cache().fork(tokens.len());
                let group = live.pending.request.group;
                // A recurrent state may be known of fewer tokens.
                let tokens = &tokens[..cache.len()];
                self.prefixes.insert(group, tokens, cache);
            }
        }
        self.count_end(&end);
        if let End::Failed(error) = end {
            // A reader that is behind has no room for the error: it finds the stream ended.
            let _ = live.pending.events.try_send(Err(error));
        }
    }
}

/// Returns the part of a prompt that may be found: all but its last token, whose logits are needed.
fn known_part(prompt: &[u32]) -> &[u32] {
    &prompt[..prompt.len().saturating_sub(1)]
}

fn common_len(a: &[u32], b: &[u32]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Removes the items for which `is_wanted` holds, and returns them.
fn extract<T>(items: &mut Vec<T>, is_wanted: impl Fn(&T) -> bool) -> Vec<T> {
    let (wanted, others) = std::mem::take(items).into_iter().partition(is_wanted);
    *items = others;
    wanted
}
