//! Drafts: tokens that are likely to come next, read ahead so that the model reads its weights once for several tokens.
//!
//! The text with drafts is the text without them, bit for bit, at any temperature: [`crate::Session::accept`] says why.
//! How many tokens are drafted follows from what drafts have brought so far and what steps have taken ([`pace`]), so that
//! they are left out where they do not pay.

mod ngram;
mod pace;
mod state;

use std::time::{Duration, Instant};

use self::pace::Pace;
pub(crate) use self::state::DraftState;
use crate::Result;
use crate::read_ahead::MAX_DRAFT;
use crate::sampler::Sampler;
use crate::session::Session;

/// The class of matches that are better drafts than those of a layer: of eight tokens or more.
const LONG_MATCH: usize = 2;

/// The class of drafts by a layer of the model.
const LAYER_CLASS: usize = ngram::CLASSES;

/// Where drafted tokens come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum DraftMode {
    /// No tokens are drafted.
    #[default]
    Off,
    /// What followed the same tokens earlier in the sequence (prompt lookup).
    NGram,
    /// The model's layer for multi-token prediction; [`DraftMode::NGram`] where many tokens occurred before, and for a
    /// model without such a layer.
    Mtp,
}

impl DraftMode {
    /// The name that programs read.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Off => "off",
            Self::NGram => "ngram",
            Self::Mtp => "mtp",
        }
    }
}

/// What drafts have brought.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DraftStats {
    /// Tokens that were read ahead.
    pub drafted: usize,
    /// Those of them that were chosen.
    pub accepted: usize,
}

/// A draft: tokens, and how alike the text was that they were taken from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
struct Draft {
    tokens: Vec<u32>,
    /// A class of drafts that are as likely as each other to be right, below [`pace::CLASSES`].
    class: usize,
}

/// Proposes tokens and learns how many pay.
#[derive(Debug)]
pub(crate) struct Drafter {
    mode: DraftMode,
    pace: Pace,
    stats: DraftStats,
    /// The draft that is being read, and how many of its tokens were chosen.
    reading: Option<(Draft, usize)>,
}

impl Drafter {
    pub(crate) fn new(mode: DraftMode) -> Self {
        Self { mode, pace: Pace::default(), stats: DraftStats::default(), reading: None }
    }

    pub(crate) fn is_on(&self) -> bool {
        self.mode != DraftMode::Off
    }

    pub(crate) fn stats(&self) -> DraftStats {
        self.stats
    }

    /// Makes `session` read the token that was chosen last: takes it from what was read ahead, else reads it with a draft of
    /// at most `limit` tokens after it.
    ///
    /// # Errors
    /// Those of [`Session::extend`], [`Session::accept`] and [`Session::extend_with_draft`].
    pub(crate) fn read(
        &mut self,
        session: &mut Session,
        token: u32,
        limit: usize,
        sampler: &Sampler,
    ) -> Result<()> {
        if !self.is_on() {
            session.extend(&[token])?;
            return Ok(());
        }
        if session.accept(token)? {
            self.accepted();
            return Ok(());
        }
        self.finished();
        session.drop_ahead();
        let start = Instant::now();
        let history = [session.tokens(), &[token]].concat();
        let draft = self.propose(session, &history, limit, sampler)?;
        session.extend_with_draft(token, &draft, sampler)?;
        self.took(start.elapsed());
        Ok(())
    }

    /// Returns tokens that may follow `history`, at most `limit`; none where reading them would not pay. `history` is the
    /// session's tokens and one more.
    fn propose(
        &mut self,
        session: &mut Session,
        history: &[u32],
        limit: usize,
        sampler: &Sampler,
    ) -> Result<Vec<u32>> {
        let limit = limit.min(MAX_DRAFT);
        let mut draft = match self.mode {
            DraftMode::Off => Draft::default(),
            DraftMode::NGram | DraftMode::Mtp => ngram::propose(history, limit),
        };
        let layer = session.draft.as_mut().filter(|_| self.mode == DraftMode::Mtp);
        match layer.filter(|_| draft.class < LONG_MATCH) {
            Some(layer) => {
                draft.class = LAYER_CLASS;
                draft.tokens = match self.pace.length(LAYER_CLASS, limit) {
                    0 => Vec::new(),
                    count => layer.draft(&session.decoder, history, sampler, count)?,
                };
            }
            None => draft.tokens.truncate(self.pace.length(draft.class, draft.tokens.len())),
        }
        self.stats.drafted += draft.tokens.len();
        let proposed = draft.tokens.clone();
        self.reading = Some((draft, 0));
        Ok(proposed)
    }

    /// Notes that a drafted token was chosen.
    fn accepted(&mut self) {
        self.stats.accepted += 1;
        if let Some((_, accepted)) = &mut self.reading {
            *accepted += 1;
        }
    }

    /// Notes that the draft that was proposed last is used up, or a token was chosen that it does not have.
    pub(crate) fn finished(&mut self) {
        if let Some((draft, accepted)) = self.reading.take() {
            self.pace.learn(draft.class, draft.tokens.len(), accepted);
        }
    }

    /// Notes the time of a step that read one token and the draft that was proposed last.
    fn took(&mut self, time: Duration) {
        if let Some((draft, _)) = &self.reading {
            self.pace.took(draft.tokens.len(), time);
        }
    }
}
