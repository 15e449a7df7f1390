//! Who runs in the next step, and with how many tokens: a function of what it is given. It reads no clock, takes no lock
//! and touches no model, so that its promises are tested with random traces.
//!
//! * Texts that are being written run in every step, one token each.
//! * Prompts fill what is left of the step's time, so that the tokens of the step are a multiple of eight (the kernels'
//!   tile).
//! * Between clients the one that was served the fewest tokens comes first; within a client and between its priorities
//!   the one with the lowest rank, which waiting lowers, so that none starves.
//! * A text is admitted once the pages that it is expected to need are free, so that texts that were admitted do not run
//!   out of memory halfway. One that writes more than was expected waits for a page, and keeps those that it has.

use std::collections::BTreeMap;
use std::time::Duration;

use bitnet_core::kv::KV_PAGE;

use super::cost::{CostModel, Load};

/// The tokens of a step with prompts are a multiple of this: the kernels' tile.
pub const TILE: usize = 8;

/// They are a multiple of this where there is time for no more. Kernels take as long for a token less.
const SMALL_TILE: usize = 4;

/// Prompt tokens of a step while texts are written, at least.
const LEAST: usize = 2;

/// Prompt tokens of a step before its cost is known.
const FIRST_CHUNK: usize = 32;

/// How long a request that does not fit into memory is passed by smaller ones.
const PATIENCE: Duration = Duration::from_secs(10);

/// How urgent a request is. A lower priority waits as if it had come half a minute later.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum Priority {
    /// After the others.
    Low,
    /// The usual one.
    #[default]
    Normal,
    /// Before the others.
    High,
}

/// Limits of a step.
#[derive(Debug, Clone, PartialEq)]
pub struct StepLimits {
    /// Texts that run at a time.
    pub max_sequences: usize,
    /// Prompt tokens of a step.
    pub max_prompt_tokens: usize,
    /// How many times longer a step with prompt tokens may take than one without.
    pub stretch: f64,
    /// Seconds of a step that reads prompts alone.
    pub max_seconds: f64,
}

impl Default for StepLimits {
    fn default() -> Self {
        Self { max_sequences: 32, max_prompt_tokens: 256, stretch: 2.0, max_seconds: 1.0 }
    }
}

/// A request that waits to be admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Waiting {
    /// Its number.
    pub id: u64,
    /// Who sent it.
    pub client: u64,
    /// How urgent it is.
    pub priority: Priority,
    /// When it came, since the engine began.
    pub arrived: Duration,
    /// Prompt tokens that must be read.
    pub prompt_left: usize,
    /// Pages that it is expected to need beside those that are in use.
    pub pages: usize,
    /// Texts that it writes.
    pub sequences: usize,
    /// Whether another request is reading the beginning that both have.
    pub follows: bool,
}

/// A text that was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Active {
    /// Its number.
    pub id: u64,
    /// Who sent it.
    pub client: u64,
    /// How urgent it is.
    pub priority: Priority,
    /// When it came, since the engine began.
    pub arrived: Duration,
    /// Prompt tokens that must be read; none while it writes.
    pub prompt_left: usize,
    /// Positions that are filled.
    pub context: usize,
    /// Positions that its pages have left.
    pub room: usize,
    /// Pages that must be copied before they are written: others share them.
    pub copies: usize,
    /// Texts that it is, or will be once the prompt is read.
    pub sequences: usize,
    /// Pages that it was expected to need and has not taken.
    pub promised: usize,
    /// Whether its reader is behind, so that nothing should be written.
    pub is_blocked: bool,
}

impl Active {
    /// Returns the pages that the next `tokens` need.
    fn pages_for(&self, tokens: usize) -> usize {
        self.copies + tokens.saturating_sub(self.room).div_ceil(KV_PAGE)
    }
}

/// The next step.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    /// Texts that run, with the tokens that they read.
    pub run: Vec<(u64, usize)>,
    /// Texts that wait for a page.
    pub paused: Vec<u64>,
    /// A text that must end, since no text can go on otherwise.
    pub ended: Option<u64>,
    /// The work of the step.
    pub load: Load,
}

/// Shares steps among clients.
#[derive(Debug, Clone, Default)]
pub struct Scheduler {
    limits: StepLimits,
    /// Tokens that each client was served.
    served: BTreeMap<u64, u64>,
}

/// Returns the time by which requests of a client are ordered: the arrival, later for long prompts and low priorities.
fn rank(arrived: Duration, priority: Priority, prompt_left: usize, token_seconds: f64) -> f64 {
    let by_priority = match priority {
        Priority::High => -30.0,
        Priority::Normal => 0.0,
        Priority::Low => 30.0,
    };
    arrived.as_secs_f64() + by_priority + prompt_left as f64 * token_seconds
}

/// Removes and returns the item that comes first: the one whose client was served the fewest tokens, and of those the one
/// with the lowest rank. `order` returns both.
fn take_first<'a, T>(items: &mut Vec<&'a T>, order: impl Fn(&T) -> (u64, f64)) -> Option<&'a T> {
    let first = (0..items.len()).min_by(|&a, &b| {
        let ((a, x), (b, y)) = (order(items[a]), order(items[b]));
        a.cmp(&b).then(x.total_cmp(&y))
    })?;
    Some(items.swap_remove(first))
}

impl Scheduler {
    /// Returns a scheduler that has served nobody.
    pub fn new(limits: StepLimits) -> Self {
        Self { limits, served: BTreeMap::new() }
    }

    /// The limits of a step.
    pub fn limits(&self) -> &StepLimits {
        &self.limits
    }

    /// Names the clients that have requests, before they are [admitted](Self::admit) or run. Others are forgotten; one that
    /// comes anew counts as served as little as those that are there.
    pub fn set_clients(&mut self, clients: impl Iterator<Item = u64>) {
        let present: BTreeMap<u64, Option<u64>> =
            clients.map(|client| (client, self.served.get(&client).copied())).collect();
        let least = present.values().flatten().min().copied().unwrap_or(0);
        self.served =
            present.into_iter().map(|(client, served)| (client, served.unwrap_or(least))).collect();
    }

    /// Returns the requests to be admitted now, in order. `free` pages are not in use.
    pub fn admit(
        &mut self,
        waiting: &[Waiting],
        active: &[Active],
        free: usize,
        cost: &CostModel,
        now: Duration,
    ) -> Vec<u64> {
        let token = cost.of_prompt_token(0).unwrap_or(0.0);
        let promised: usize = active.iter().map(|a| a.promised).sum();
        let mut free = free.saturating_sub(promised);
        let running: usize = active.iter().map(|a| a.sequences).sum();
        let mut places = self.limits.max_sequences.saturating_sub(running);
        let mut served = self.served.clone();
        let mut left: Vec<&Waiting> = waiting.iter().filter(|w| !w.follows).collect();
        let mut admitted = Vec::new();
        while places > 0 {
            let order = |w: &Waiting| {
                let rank = rank(w.arrived, w.priority, w.prompt_left, token);
                (served.get(&w.client).copied().unwrap_or(0), rank)
            };
            let Some(next) = take_first(&mut left, order) else { break };
            if next.pages > free || next.sequences > places {
                if now.saturating_sub(next.arrived) > PATIENCE {
                    break;
                }
                continue;
            }
            free -= next.pages;
            places -= next.sequences;
            *served.entry(next.client).or_default() += next.prompt_left as u64;
            admitted.push(next.id);
        }
        admitted
    }

    /// Returns the next step. `free` pages are not in use.
    pub fn step(&mut self, active: &[Active], free: usize, cost: &CostModel) -> Plan {
        let mut plan = Plan::default();
        let promised: usize = active.iter().map(|a| a.promised).sum();
        let mut pages = Pages { free, unpromised: free.saturating_sub(promised) };
        let mut ordered: Vec<&Active> = active.iter().filter(|a| !a.is_blocked).collect();
        ordered.sort_by(|a, b| {
            let rank = |a: &Active| rank(a.arrived, a.priority, 0, 0.0);
            rank(a).total_cmp(&rank(b)).then(a.id.cmp(&b.id))
        });
        for text in ordered.iter().filter(|a| a.prompt_left == 0) {
            match pages.take(text, text.pages_for(1)) {
                true => self.run(&mut plan, text, 1, 1),
                false => plan.paused.push(text.id),
            }
        }
        self.read_prompts(&mut plan, &ordered, &mut pages, cost);
        if plan.run.is_empty() {
            plan.ended = ordered.last().map(|text| text.id);
        }
        plan
    }

    /// Adds prompt tokens to a step that has its written texts.
    fn read_prompts(
        &mut self,
        plan: &mut Plan,
        ordered: &[&Active],
        pages: &mut Pages,
        cost: &CostModel,
    ) {
        let token = cost.of_prompt_token(0).unwrap_or(0.0);
        let mut prompts: Vec<&Active> =
            ordered.iter().copied().filter(|a| a.prompt_left > 0).collect();
        let writing = plan.load;
        let mut left = self.limits.max_prompt_tokens;
        while left > 0 {
            let order = |a: &Active| {
                let rank = rank(a.arrived, a.priority, a.prompt_left, token);
                (self.served.get(&a.client).copied().unwrap_or(0), rank)
            };
            let Some(prompt) = take_first(&mut prompts, order) else { break };
            let fitting = self.fitting(plan.load, writing, prompt.context, cost);
            let tokens = fitting.min(left).min(prompt.prompt_left);
            let tokens = tokens.min(pages.tokens(prompt));
            if tokens == 0 {
                continue;
            }
            pages.take(prompt, prompt.pages_for(tokens));
            let rows = usize::from(tokens == prompt.prompt_left);
            self.run(plan, prompt, tokens, rows);
            left -= tokens;
            if tokens == fitting {
                break;
            }
        }
    }

    /// Returns the prompt tokens after `context` positions for which a step has time, so that the tokens of the step are
    /// whole tiles; a few at least if it has no prompt tokens yet.
    fn fitting(&self, planned: Load, writing: Load, context: usize, cost: &CostModel) -> usize {
        let has_prompt_tokens = planned.tokens > writing.tokens;
        let least = match has_prompt_tokens {
            true => 0,
            false => (planned.tokens + LEAST).next_multiple_of(SMALL_TILE) - planned.tokens,
        };
        let (Some(used), Some(token)) = (cost.predict(planned), cost.of_prompt_token(context))
        else {
            return if has_prompt_tokens { 0 } else { FIRST_CHUNK };
        };
        let target = match cost.predict(writing).filter(|_| writing.tokens > 0) {
            Some(seconds) => (seconds * self.limits.stretch).min(self.limits.max_seconds),
            None => self.limits.max_seconds,
        };
        let tokens = (target - used).max(0.0) / token.max(1e-9);
        let tokens = tokens.min(self.limits.max_prompt_tokens as f64) as usize;
        let total = (planned.tokens + tokens) / TILE * TILE;
        total.saturating_sub(planned.tokens).max(least)
    }

    fn run(&mut self, plan: &mut Plan, text: &Active, tokens: usize, rows: usize) {
        plan.run.push((text.id, tokens));
        plan.load = plan.load.plus(Load::of(tokens, text.context, rows));
        *self.served.entry(text.client).or_default() += tokens as u64;
    }
}

/// Pages that a step can take.
struct Pages {
    free: usize,
    /// Those of them that no text was promised.
    unpromised: usize,
}

impl Pages {
    /// Takes pages for a text, out of its promise first. Returns whether there were enough.
    fn take(&mut self, text: &Active, pages: usize) -> bool {
        let beyond = pages.saturating_sub(text.promised);
        if pages > self.free || beyond > self.unpromised {
            return false;
        }
        self.free -= pages;
        self.unpromised -= beyond;
        true
    }

    /// Returns the tokens for which a text can have pages.
    fn tokens(&self, text: &Active) -> usize {
        let pages = self.free.min(text.promised.saturating_add(self.unpromised));
        let Some(pages) = pages.checked_sub(text.copies) else { return 0 };
        text.room.saturating_add(pages.saturating_mul(KV_PAGE))
    }
}

#[cfg(test)]
#[path = "scheduler_tests.rs"]
mod tests;
