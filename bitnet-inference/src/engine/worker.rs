//! The engine's thread: takes requests, plans steps, runs them and tells readers.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::cost::CostModel;
use super::live::{Live, Pending};
use super::memory::{Pages, make_room};
use super::prefix::PrefixCache;
use super::request::EngineError;
use super::scheduler::{Active, Plan, Scheduler};
use super::sequence::{choice_of, request_of, sequence_id};
use super::step::{self, Outcome, Part, SCORED_ROWS, unwind};
use super::{EngineConfig, Shared};
use crate::Model;
use crate::session::Session;

/// How long the thread sleeps while all readers are behind.
const READERS: Duration = Duration::from_millis(2);

/// How a request ends.
pub(super) enum End {
    Finished,
    Cancelled,
    Failed(EngineError),
}

#[derive(Debug)]
pub(super) struct Worker {
    pub(super) model: Arc<Model>,
    pub(super) shared: Arc<Shared>,
    pub(super) config: EngineConfig,
    pub(super) empty: Session,
    pub(super) page_limit: usize,
    pub(super) scheduler: Scheduler,
    pub(super) cost: CostModel,
    pub(super) prefixes: PrefixCache,
    pub(super) waiting: Vec<Pending>,
    pub(super) live: BTreeMap<u64, Live>,
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
            let mut active = self.active();
            if self.admit(&active) {
                active = self.active();
            }
            let plan = self.plan(&active);
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
        let live = std::mem::take(&mut self.live).into_values().map(|live| live.pending);
        for pending in live.chain(self.waiting.drain(..)) {
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
            let mut stats = self.shared.stats();
            (stats.active, stats.active_pages) = (0, 0);
            drop(stats);
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
            self.close(&pending, End::Cancelled);
        }
    }

    /// Ends requests that have waited longer than they wanted to.
    fn drop_late(&mut self) {
        let now = self.shared.start.elapsed();
        let waited = |pending: &Pending| now.saturating_sub(pending.arrived);
        let late = |p: &Pending| p.request.patience.is_some_and(|patience| waited(p) > patience);
        for pending in extract(&mut self.waiting, late) {
            self.left_queue(&pending);
            let waited = waited(&pending);
            self.close(&pending, End::Failed(EngineError::Late { waited }));
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

    /// Returns the pages of the texts in progress.
    pub(super) fn active_pages(&self) -> Pages {
        let sequences = self.live.values().flat_map(|live| &live.sequences);
        Pages::of(sequences.map(|sequence| sequence.session.cache()))
    }

    /// Returns how the scheduler sees the texts in progress.
    fn active(&self) -> Vec<Active> {
        self.live.values().flat_map(Live::active).collect()
    }

    /// Plans the next step, and drops earlier texts whose pages it needs.
    fn plan(&mut self, active: &[Active]) -> Plan {
        let held = self.active_pages();
        let free = self.page_limit.saturating_sub(held.count());
        let plan = self.scheduler.step(active, free, &self.cost);
        let needed = plan.run.iter().filter_map(|&(id, tokens)| {
            let sequence = self.live.get(&request_of(id))?.sequences.get(choice_of(id))?;
            Some(sequence.session.cache().pages_to_reserve(tokens))
        });
        let needed = needed.sum();
        let (used, evicted) = make_room(&held, &mut self.prefixes, needed, self.page_limit);
        let mut stats = self.shared.stats();
        stats.paused += u64::from(!plan.paused.is_empty());
        stats.evicted += evicted;
        (stats.pages, stats.active_pages) = (used, held.count());
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
        let may_draft = step::may_draft(&parts);
        let outcomes = step::run(&mut parts);
        let seconds = start.elapsed().as_secs_f64();
        drop(parts);
        // A step with a draft is longer than its load says, one whose token was read ahead shorter.
        if !may_draft {
            self.cost.learn(plan.load, seconds);
        }
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
        let (request, choice) = (request_of(id), choice_of(id));
        let Some(live) = self.live.get_mut(&request) else { return Ok(()) };
        let prompt = live.pending.request.prompt.len();
        let sequence = &mut live.sequences[choice];
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
            self.keep_prompt(request);
        }
        let Some(live) = self.live.get_mut(&request) else { return Ok(()) };
        if has_read_prompt {
            live.fork_prompt()?;
        }
        let mut written = live.write(choice, outcome.token, outcome.logprobs)?;
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

    /// Counts a request that waits no more.
    pub(super) fn left_queue(&self, pending: &Pending) {
        let mut inbox = self.shared.inbox();
        inbox.waiting = inbox.waiting.without(&pending.request);
    }

    /// Counts a request that has ended, and tells its reader of an error.
    pub(super) fn close(&self, pending: &Pending, end: End) {
        let mut stats = self.shared.stats();
        match end {
            End::Finished => stats.finished += 1,
            End::Cancelled => stats.cancelled += 1,
            End::Failed(_) => stats.failed += 1,
        }
        drop(stats);
        // Who finds that nothing is left finds it counted.
        self.shared.inbox().unfinished -= 1;
        if let End::Failed(error) = end {
            // A reader that is behind has no room for the error: it finds the stream ended.
            let _ = pending.events.try_send(Err(error));
        }
    }

    /// Ends a request, and keeps what was read for it.
    fn end(&mut self, id: u64, end: End) {
        let Some(live) = self.live.remove(&id) else { return };
        for sequence in &live.sequences {
            self.shared.stats().count_drafts(sequence.drafter.stats());
            let tokens = sequence.session.tokens();
            if !matches!(end, End::Failed(EngineError::Panicked(_))) && !tokens.is_empty() {
                let cache = sequence.session.cache().fork(tokens.len());
                let group = live.pending.request.group;
                // A recurrent state may be known of fewer tokens.
                let tokens = &tokens[..cache.len()];
                self.prefixes.insert(group, tokens, cache);
            }
        }
        self.close(&live.pending, end);
    }
}

/// Removes the items for which `is_wanted` holds, and returns them.
fn extract<T>(items: &mut Vec<T>, is_wanted: impl Fn(&T) -> bool) -> Vec<T> {
    let (wanted, others) = std::mem::take(items).into_iter().partition(is_wanted);
    *items = others;
    wanted
}
