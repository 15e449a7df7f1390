//! Downloads of models from a hub.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::Result;
use bitnet_core::device::{Device, DeviceCapabilities};
use bitnet_hub::choose::{Choice, Selection, Wanted, choose};
use bitnet_hub::recommend::{Recommended, recommend};
use bitnet_hub::{Event, Hub, Listing, ModelName, Pulled, Settings, State};

use crate::interrupt::Listener;
use crate::output::{self, Output, Progress, without_controls};

/// Poll interval for Ctrl-C during a pause.
const INTERVAL: Duration = Duration::from_millis(100);

/// Returns the path of a cached or downloaded model; `None` if the user stopped the download. Of several models in a
/// repository, selects the best for this machine and prints its name.
///
/// # Errors
/// If the model is not available.
pub(crate) fn model(
    name: &ModelName,
    offline: bool,
    output: &mut Output,
) -> Result<Option<PathBuf>> {
    let settings = settings(offline)?;
    match settings.cache.find(name) {
        Ok(path) => return Ok(Some(path)),
        Err(bitnet_hub::Error::Choose { .. }) if name.file.is_none() => {
            let (path, recommended) = settings.cache.find_best(name, memory())?;
            output.note(&format!("{name}: {}", words(&recommended)));
            return Ok(Some(path));
        }
        Err(bitnet_hub::Error::NotCached { what, folder, missing }) if settings.offline => {
            return Err(bitnet_hub::Error::Offline { what, folder, missing }.into());
        }
        Err(bitnet_hub::Error::NotCached { .. }) => {}
        Err(error) => return Err(error.into()),
    }
    let mut downloads = Downloads::new(settings, false, output)?;
    let Some(listing) = downloads.list(name)? else { return Ok(None) };
    let selection = select(name, &listing, downloads.output)?;
    Ok(downloads.take(&listing, &selection)?.map(|_| downloads.path(&listing, &selection)))
}

/// Selects the files to download and prints the selection.
fn select(name: &ModelName, listing: &Listing, output: &mut Output) -> Result<Selection> {
    let files = listing.found();
    if let Some(file) = &name.file {
        return Ok(choose(&name.repository, &files, &Wanted::File(file))?);
    }
    let recommended = recommend(&name.repository, &files, memory())?;
    output.note(&format!("downloading {name}: {}", words(&recommended)));
    if let Some(draft) = &recommended.draft {
        let file = without_controls(&draft.file);
        output.note(&format!(
            "{file} drafts tokens for it: `bitnet pull {}:{file}` and --draft-model use it",
            name.repository
        ));
    }
    if !recommended.fits {
        output.warning("this model takes more memory than is free; it may be slow or fail");
    }
    Ok(recommended.selection)
}

fn words(recommended: &Recommended) -> String {
    let Recommended { choice: Choice { file, bytes }, why, .. } = recommended;
    let size = bytes.map_or_else(|| "size unknown".to_owned(), output::bytes);
    let memory = match (recommended.needs, memory()) {
        (Some(needs), Some(free)) => {
            let (needs, free) = (output::bytes(needs), output::bytes(free));
            format!("; takes about {needs} of memory, {free} are free")
        }
        _ => String::new(),
    };
    format!("{} ({size}{memory}; {why})", without_controls(file))
}

/// Returns the memory available for a model, if known.
fn memory() -> Option<u64> {
    DeviceCapabilities::without_bandwidth(&Device::Cpu).available_memory
}

/// Returns the settings from the environment and `--offline`.
///
/// # Errors
/// If a variable is invalid.
pub(crate) fn settings(offline: bool) -> Result<Settings> {
    let mut settings = Settings::from_environment()?;
    settings.offline |= offline;
    Ok(settings)
}

/// Downloads with progress, which stop on Ctrl-C.
pub(crate) struct Downloads<'o> {
    hub: Hub,
    show: Show,
    pub(crate) output: &'o mut Output,
}

impl<'o> Downloads<'o> {
    /// Connects to the hub of `settings`; `quiet` hides progress.
    ///
    /// # Errors
    /// If certificates or proxies are invalid.
    pub(crate) fn new(settings: Settings, quiet: bool, output: &'o mut Output) -> Result<Self> {
        let listener = Rc::new(Listener::new());
        let hub = Hub::new(settings)?.pausing_with({
            let listener = Rc::clone(&listener);
            move |pause| wait(pause, &listener)
        });
        let show = Show { progress: None, waiting: false, quiet, listener };
        Ok(Self { hub, show, output })
    }

    /// Lists a repository; `None` if the user stopped it.
    ///
    /// # Errors
    /// If the listing fails.
    pub(crate) fn list(&mut self, name: &ModelName) -> Result<Option<Listing>> {
        let (show, output) = (&mut self.show, &mut *self.output);
        let watch = &mut |event: Event<'_>| show.event(event, output);
        match self.hub.list(&name.repository, name.revision(), watch) {
            Err(bitnet_hub::Error::Stopped) => Ok(None),
            listing => Ok(Some(listing?)),
        }
    }

    /// Downloads missing files; `None` if the user stopped it.
    ///
    /// # Errors
    /// If a download fails.
    pub(crate) fn take(
        &mut self,
        listing: &Listing,
        selection: &Selection,
    ) -> Result<Option<Vec<(String, Pulled)>>> {
        match self.pull_all(listing, selection) {
            Err(error) if matches!(error.downcast_ref(), Some(bitnet_hub::Error::Stopped)) => {
                self.output.note(&bitnet_hub::Error::Stopped.to_string());
                Ok(None)
            }
            pulled => pulled.map(Some),
        }
    }

    fn pull_all(
        &mut self,
        listing: &Listing,
        selection: &Selection,
    ) -> Result<Vec<(String, Pulled)>> {
        let (show, output) = (&mut self.show, &mut *self.output);
        let hold = self.hub.hold(&listing.repository, &mut |event| show.event(event, output))?;
        let mut pulled = Vec::new();
        for path in &selection.paths {
            let (show, output) = (&mut self.show, &mut *self.output);
            let watch = &mut |event: Event<'_>| show.event(event, output);
            let result = self.hub.pull(listing, path, watch);
            self.show.end();
            let file = result?;
            self.show.say(path, &arrival(&file), self.output);
            pulled.push((path.clone(), file));
            self.check_stopped()?;
        }
        self.hub.settle(listing)?;
        drop(hold);
        self.check_stopped()?;
        Ok(pulled)
    }

    /// Also checks for Ctrl-C while no data is received.
    fn check_stopped(&self) -> Result<(), bitnet_hub::Error> {
        if self.show.listener.asked() { Err(bitnet_hub::Error::Stopped) } else { Ok(()) }
    }

    /// Returns the path to run.
    pub(crate) fn path(&self, listing: &Listing, selection: &Selection) -> PathBuf {
        self.hub.cache(listing).shown(&listing.commit, selection.run.as_deref())
    }
}

/// Sleeps until the time is over or Ctrl-C arrives.
fn wait(pause: Duration, listener: &Listener) {
    let mut left = pause;
    while !left.is_zero() && !listener.asked() {
        let step = left.min(INTERVAL);
        std::thread::sleep(step);
        left -= step;
    }
}

fn arrival(file: &Pulled) -> String {
    let size = output::bytes(file.bytes);
    match file.state {
        State::Present => format!("{size}, was here"),
        State::Downloaded => size,
        State::Resumed(from) => format!("{size}, resumed after {}", output::bytes(from)),
    }
}

/// The progress display of downloads.
struct Show {
    progress: Option<Progress>,
    waiting: bool,
    quiet: bool,
    listener: Rc<Listener>,
}

impl Show {
    fn event(&mut self, event: Event<'_>, output: &mut Output) -> ControlFlow<()> {
        match event {
            Event::Progress { file, have, bytes } if !self.quiet => {
                let name = || output.progress(&without_controls(file));
                self.progress.get_or_insert_with(name).update_bytes(have, bytes);
            }
            Event::Progress { .. } => {}
            Event::Waiting { file } => {
                if !std::mem::replace(&mut self.waiting, true) {
                    self.say(file, "waiting for another program that downloads it", output);
                }
            }
            Event::Again { file, why, pause } => {
                let pause = pause.as_secs();
                self.say(file, &format!("{why}; retrying in {pause} s"), output);
            }
            Event::FromTheBeginning { file, why } => {
                self.say(file, &format!("restarting: {why}"), output);
            }
        }
        if self.listener.asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    fn say(&mut self, file: &str, text: &str, output: &mut Output) {
        if !self.quiet {
            self.progress = None;
            output.note(&format!("{}: {text}", without_controls(file)));
        }
    }

    fn end(&mut self) {
        self.progress = None;
        self.waiting = false;
    }
}
