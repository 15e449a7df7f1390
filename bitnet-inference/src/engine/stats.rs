//! What an engine has done and holds, for operators.

use std::time::Duration;

use super::cost::Load;
use crate::draft::DraftStats;

/// Upper bounds of the classes of step times, in seconds; the last class has none.
pub const STEP_BOUNDS: [f64; 12] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// Counts since the engine began, and what it holds now.
#[derive(Debug, Clone, PartialEq, Default)]
#[non_exhaustive]
pub struct EngineStats {
    /// Requests that were taken.
    pub requests: u64,
    /// Requests that were refused since too many waited.
    pub refused: u64,
    /// Requests that ended with all their texts.
    pub finished: u64,
    /// Requests whose reader went away.
    pub cancelled: u64,
    /// Requests that ended with an error.
    pub failed: u64,
    /// Prompt tokens that were read.
    pub prompt_tokens: u64,
    /// Prompt tokens whose keys and values were found in memory.
    pub cached_tokens: u64,
    /// Tokens that were written.
    pub written_tokens: u64,
    /// Tokens that were read ahead as drafts, of requests that have ended.
    pub drafted_tokens: u64,
    /// Those of them that were chosen.
    pub accepted_tokens: u64,
    /// Steps.
    pub steps: u64,
    /// Steps in each class of [`STEP_BOUNDS`], and of those above all.
    pub step_classes: [u64; STEP_BOUNDS.len() + 1],
    /// Time of all steps.
    pub step_time: Duration,
    /// Steps in which a text waited for memory.
    pub paused: u64,
    /// Requests that wait to be admitted.
    pub waiting: usize,
    /// Prompt tokens of the requests that wait.
    pub waiting_tokens: usize,
    /// Texts that were admitted and have not ended.
    pub active: usize,
    /// Pages of keys and values in use, each counted once.
    pub pages: usize,
    /// Those of them that texts in progress hold.
    pub active_pages: usize,
    /// Pages that may be in use.
    pub page_limit: usize,
    /// Bytes of a page.
    pub page_bytes: usize,
    /// Texts in the prefix cache.
    pub cached_texts: usize,
    /// Texts that were dropped from the prefix cache for want of memory.
    pub evicted: u64,
    /// Tokens read and written in a second, over the last steps.
    pub tokens_per_second: f64,
}

impl EngineStats {
    /// Counts the drafts of a text.
    pub(super) fn count_drafts(&mut self, drafts: DraftStats) {
        self.drafted_tokens += drafts.drafted as u64;
        self.accepted_tokens += drafts.accepted as u64;
    }

    /// Counts a step.
    pub(super) fn step(&mut self, load: Load, seconds: f64) {
        self.steps += 1;
        self.step_time += Duration::from_secs_f64(seconds.max(0.0));
        let class = STEP_BOUNDS.iter().position(|&bound| seconds <= bound);
        self.step_classes[class.unwrap_or(STEP_BOUNDS.len())] += 1;
        let rate = load.tokens as f64 / seconds.max(1e-9);
        self.tokens_per_second = match self.steps {
            1 => rate,
            _ => self.tokens_per_second + 0.1 * (rate - self.tokens_per_second),
        };
    }
}
