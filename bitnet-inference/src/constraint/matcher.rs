//! One text under a constraint: which tokens may follow, and whether it may end.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use llguidance::Matcher as TokenMatcher;
use llguidance::toktrie::SimpleVob;

use super::ConstraintError;
use super::compile::short;
use crate::Result;

/// The tokens that may come next.
#[derive(Clone, PartialEq, Eq)]
pub struct TokenMask {
    allowed: SimpleVob,
}

impl TokenMask {
    /// Whether a token may come next.
    pub fn allows(&self, token: u32) -> bool {
        (token as usize) < self.allowed.len() && self.allowed.is_allowed(token)
    }

    /// Number of tokens that may come next.
    pub fn count(&self) -> usize {
        self.allowed.num_set()
    }

    /// Sets the logits of all tokens that may not come next to minus infinity; `logits` are `[vocabulary]`.
    pub fn apply(&self, logits: &mut [f32]) {
        for (token, logit) in (0u32..).zip(logits) {
            if !self.allows(token) {
                *logit = f32::NEG_INFINITY;
            }
        }
    }
}

impl fmt::Debug for TokenMask {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TokenMask").field("count", &self.count()).finish_non_exhaustive()
    }
}

/// Follows one text token by token. Clones are independent: a text that is forked takes one along.
#[derive(Clone)]
pub struct Matcher {
    inner: TokenMatcher,
    end_tokens: Arc<BTreeSet<u32>>,
    mask: TokenMask,
    may_end: bool,
    is_ended: bool,
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Matcher")
            .field("mask", &self.mask)
            .field("may_end", &self.may_end)
            .field("is_ended", &self.is_ended)
            .finish_non_exhaustive()
    }
}

impl Matcher {
    /// A matcher before the first token. `end_tokens` are allowed where the text may end.
    pub(super) fn new(inner: TokenMatcher, end_tokens: Arc<BTreeSet<u32>>) -> Result<Self> {
        let mask = TokenMask { allowed: SimpleVob::new() };
        let mut matcher = Self { inner, end_tokens, mask, may_end: false, is_ended: false };
        matcher.follow()?;
        Ok(matcher)
    }

    /// A matcher in the same state that shares nothing with this one, caches included: a fault of one text can't reach
    /// another, nor can the states that it makes the lexer remember.
    #[must_use]
    pub(super) fn separate(&self) -> Self {
        Self { inner: self.inner.deep_clone(), ..self.clone() }
    }

    /// The same matcher for texts that go on after the model's end tokens: these are not allowed then.
    #[must_use]
    pub(crate) fn ignoring_end(mut self) -> Self {
        for &token in &*self.end_tokens {
            self.mask.allowed.disallow_token(token);
        }
        self.end_tokens = Arc::default();
        self
    }

    /// The tokens that may come next; none if the text has [ended](Matcher::is_ended).
    pub fn mask(&self) -> &TokenMask {
        &self.mask
    }

    /// Whether the text is complete, so that it may end here. End tokens are allowed exactly then.
    pub fn may_end(&self) -> bool {
        self.may_end
    }

    /// Whether nothing may follow.
    pub fn is_ended(&self) -> bool {
        self.is_ended
    }

    /// Takes the token that was written. Returns whether the text has ended with it.
    ///
    /// # Errors
    /// [`ConstraintError::Stopped`] for a token that is not allowed, when a limit of the matcher is reached, and when no
    /// token may follow although the text is not complete. Every later call has an error too: the text must not go on.
    pub fn accept(&mut self, token: u32) -> Result<bool> {
        if !self.mask.allows(token) {
            return Err(self.stop(format!("token {token} is not allowed")));
        }
        if self.end_tokens.contains(&token) && self.may_end {
            self.end();
            return Ok(true);
        }
        if let Err(error) = self.inner.consume_token(token) {
            return Err(self.stop(short(&error)));
        }
        self.follow()?;
        Ok(self.is_ended)
    }

    /// Finds out what may follow.
    fn follow(&mut self) -> Result<()> {
        if self.inner.is_stopped() {
            if self.inner.is_error() || !self.inner.stop_reason().is_ok() {
                let reason = self.inner.get_error();
                return Err(self.stop(reason.map_or_else(String::new, |text| short(&text))));
            }
            self.end();
            return Ok(());
        }
        let mut allowed = match self.inner.compute_mask() {
            Ok(allowed) => allowed,
            Err(error) => {
                let problem = short(&error).replace("NoExtensionBias", "no token may follow");
                return Err(self.stop(problem));
            }
        };
        // The last one stands for the end of the text.
        let end = allowed.len().saturating_sub(1) as u32;
        self.may_end = allowed.is_allowed(end);
        allowed.disallow_token(end);
        if allowed.is_zero() {
            if !self.may_end {
                return Err(self.stop("no token may follow".into()));
            }
            self.end();
            return Ok(());
        }
        if self.may_end {
            for &token in self.end_tokens.iter().filter(|&&token| token < end) {
                allowed.allow_token(token);
            }
        }
        self.mask = TokenMask { allowed };
        Ok(())
    }

    fn end(&mut self) {
        self.mask.allowed.set_all(false);
        (self.may_end, self.is_ended) = (true, true);
    }

    fn stop(&mut self, problem: String) -> crate::InferenceError {
        self.mask.allowed.set_all(false);
        self.may_end = false;
        ConstraintError::Stopped(problem).into()
    }
}
