//! Downloads from correct and faulty hubs on loopback. Tests never sleep: delays are recorded instead.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod refusals;
mod server;
mod transfers;

use std::cell::RefCell;
use std::ops::ControlFlow;
use std::path::Path;
use std::rc::Rc;
use std::time::Duration;

use bitnet_hub::choose::{Wanted, choose};
use bitnet_hub::{Error, Event, Hub, HubCache, Listing, Pulled, Repository, Settings, Token};

/// A hub client with recorded delays and events.
pub(crate) struct Puller {
    pub(crate) hub: Hub,
    pub(crate) pauses: Rc<RefCell<Vec<u64>>>,
    pub(crate) events: RefCell<Vec<String>>,
}

impl Puller {
    pub(crate) fn new(endpoint: &str, cache: &Path) -> Self {
        Self::with(Self::settings(endpoint, cache))
    }

    pub(crate) fn settings(endpoint: &str, cache: &Path) -> Settings {
        Settings {
            endpoint: endpoint.to_owned(),
            token: None,
            cache: HubCache::new(cache),
            offline: false,
            timeout: Duration::from_secs(60),
            proxies: false,
            certificates: None,
        }
    }

    pub(crate) fn with(settings: Settings) -> Self {
        let pauses = Rc::new(RefCell::new(Vec::new()));
        let noted = Rc::clone(&pauses);
        let hub = Hub::new(settings).unwrap();
        let hub = hub.pausing_with(move |pause| noted.borrow_mut().push(pause.as_secs()));
        Self { hub, pauses, events: RefCell::default() }
    }

    pub(crate) fn list(&self) -> Result<Listing, Error> {
        self.hub.list(&own(), "main", &mut |event| self.note(event))
    }

    pub(crate) fn pull(&self, path: &str) -> Result<Pulled, Error> {
        let listing = self.list()?;
        self.hub.pull(&listing, path, &mut |event| self.note(event))
    }

    /// Downloads the files that a model needs.
    pub(crate) fn pull_model(&self) -> Result<Vec<Pulled>, Error> {
        let listing = self.list()?;
        let selection = choose(&own(), &listing.found(), &Wanted::Model)?;
        let pulled = selection.paths.iter();
        let pulled =
            pulled.map(|path| self.hub.pull(&listing, path, &mut |event| self.note(event)));
        let pulled = pulled.collect::<Result<_, _>>()?;
        self.hub.settle(&listing)?;
        Ok(pulled)
    }

    fn note(&self, event: Event<'_>) -> ControlFlow<()> {
        match event {
            Event::Progress { .. } => {}
            other => self.events.borrow_mut().push(format!("{other:?}")),
        }
        ControlFlow::Continue(())
    }
}

pub(crate) fn own() -> Repository {
    Repository::new("own/model").unwrap()
}

pub(crate) fn secret() -> Option<Token> {
    Token::new("hf_secret", "").unwrap()
}

/// Returns non-repeating bytes.
pub(crate) fn contents(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = |_| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 24) as u8
    };
    (0..length).map(next).collect()
}
