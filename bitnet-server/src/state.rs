//! What all requests share.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::http::StatusCode;
use bitnet_inference::engine::Engine;
use bitnet_inference::tokenizer::Tokenizer;
use bitnet_inference::{DraftMode, Model};

use crate::access::Keys;
use crate::embeddings::Turns;
use crate::error::ApiError;
use crate::watch::EngineWatch;

/// Returns the time since 1970, UTC; 0 for a clock before it.
pub(crate) fn since_1970() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}

/// What all requests share.
#[derive(Debug, Clone)]
pub(crate) struct AppState(Arc<Shared>);

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) engine: Engine,
    pub(crate) watch: EngineWatch,
    /// What clients call the model.
    pub(crate) model_name: String,
    pub(crate) keys: Keys,
    /// Where drafts come from.
    pub(crate) draft: DraftMode,
    /// Whether the server listens on the loopback interface alone.
    pub(crate) is_loopback: bool,
    /// When the server began, in seconds since 1970.
    pub(crate) created: u64,
    /// Begins the names of answers, so that two runs of a server give different ones.
    run: u64,
    answers: AtomicU64,
    /// Who computes embeddings.
    pub(crate) turns: Turns,
}

impl std::ops::Deref for AppState {
    type Target = Shared;

    fn deref(&self) -> &Shared {
        &self.0
    }
}

impl AppState {
    pub(crate) fn new(
        engine: Engine,
        model_name: String,
        keys: Keys,
        draft: DraftMode,
        is_loopback: bool,
    ) -> Self {
        let since = since_1970();
        Self(Arc::new(Shared {
            watch: EngineWatch::new(engine.clone()),
            engine,
            model_name,
            keys,
            draft,
            is_loopback,
            created: since.as_secs(),
            run: since.as_nanos() as u64,
            answers: AtomicU64::new(0),
            turns: Turns::default(),
        }))
    }

    pub(crate) fn model(&self) -> &Arc<Model> {
        self.engine.model()
    }

    pub(crate) fn tokenizer(&self) -> Result<&Tokenizer, ApiError> {
        let missing = || ApiError::new(StatusCode::BAD_REQUEST, "the model has no tokenizer");
        self.model().tokenizer().ok_or_else(missing)
    }

    /// Returns a name for an answer.
    pub(crate) fn answer_id(&self, prefix: &str) -> String {
        let number = self.answers.fetch_add(1, Ordering::Relaxed);
        format!("{prefix}{:016x}{number:08x}", self.run)
    }

    /// Returns a seed for a request that names none.
    pub(crate) fn seed(&self) -> u64 {
        self.run
            .wrapping_add(self.answers.fetch_add(1, Ordering::Relaxed).wrapping_mul(0x9e37_79b9))
            & 0xffff_ffff
    }
}
