//! The longest sequence that a model can run, and why.

/// The longest sequence that is computed as the model's authors meant it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextLimit {
    /// Positions.
    pub positions: usize,
    /// What is not supported beyond them.
    pub reason: LimitReason,
}

/// What a model does beyond a [`ContextLimit`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum LimitReason {
    /// The frequencies of RoPE change with the length of the sequence.
    DynamicRope,
    /// Some layers attend to the last `positions` tokens only.
    SlidingWindow,
    /// LongRoPE takes other frequencies for a longer sequence, for all of its tokens.
    LongRope,
}

impl std::fmt::Display for ContextLimit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { positions, reason } = self;
        match reason {
            LimitReason::DynamicRope => write!(
                f,
                "RoPE is dynamic: it is plain up to {positions} tokens, and longer sequences are refused"
            ),
            LimitReason::LongRope => write!(
                f,
                "LongRoPE changes its frequencies beyond {positions} tokens: longer sequences are refused"
            ),
            LimitReason::SlidingWindow => write!(
                f,
                "layers attend to a window of {positions} tokens: longer sequences are refused"
            ),
        }
    }
}
