//! Downloads of models from a hub.

use std::ops::ControlFlow;
use std::path::PathBuf;
use std::rc::Rc;
use std::time::Duration;

use anyhow::{Context, Result};
use bitnet_hub::choose::{Selection, Wanted, choose};
use bitnet_hub::recommend::recommend;
use bitnet_hub::{Event, Hub, Listing, ModelName, Pulled, Settings, State};

use crate::interrupt::Listener;
use crate::load::free_memory;
use crate::output::{self, Output, Progress, without_controls};
use crate::planned::Planned;
use crate::remote_header;

/// Poll interval for Ctrl-C during a pause.
const INTERVAL: Duration = Duration::from_millis(100);

/// Returns the path of a cached or downloaded model; `None` if the user stopped the download. Of several files in a
/// repository, selects the best for this machine and says why. `context` are the tokens that memory should suffice for.
///
/// # Errors
/// If the model is not available.
pub(crate) fn model(
    name: &ModelName,
    offline: bool,
    context: Option<usize>,
    output: &mut Output,
) -> Result<Option<PathBuf>> {
    let settings = settings(offline)?;
    match settings.cache.find(name) {
        Ok(path) => return Ok(Some(path)),
        Err(bitnet_hub::Error::Choose { .. }) if name.file.is_none() => {
            let (path, recommended) = settings.cache.find_best(name, free_memory())?;
            output.note(&format!("{name}: {}", Planned::recommended(&recommended).words()));
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
    let planned = downloads.plan(name, &listing, Purpose::Run, context)?;
    let Some((selection, _)) = planned else { return Ok(None) };
    Ok(downloads.take(&listing, &selection)?.map(|_| downloads.path(&listing, &selection)))
}

/// What a model is downloaded for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// To be loaded.
    Run,
    /// To be kept, by another program maybe.
    Keep,
}

/// Returns the first part of the error for a model that can't be run.
fn refusal(listing: &Listing, selection: &Selection) -> String {
    let repository = &listing.repository;
    let (what, anyway) = match &selection.run {
        Some(file) => {
            let name = format!("{repository}:{}", without_controls(file));
            (name.clone(), format!("bitnet pull {name}"))
        }
        None => (repository.to_string(), format!("bitnet pull {repository} --include '*'")),
    };
    format!("{what} was not downloaded, because it can't be run (to download it anyway: {anyway})")
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

    /// Selects the files of a model and says which and why; `None` if the user stopped it. The header of a GGUF file, or
    /// the settings of a folder, are read before.
    ///
    /// # Errors
    /// If there is no model that can be run, or the user has to choose.
    pub(crate) fn plan(
        &mut self,
        name: &ModelName,
        listing: &Listing,
        purpose: Purpose,
        context: Option<usize>,
    ) -> Result<Option<(Selection, Option<Planned>)>> {
        let files = listing.found();
        let (selection, planned, draft) = match &name.file {
            Some(file) => {
                let selection = choose(&name.repository, &files, &Wanted::File(file))?;
                let planned = Planned::named(listing, &selection);
                (selection, planned, None)
            }
            None => {
                let found = recommend(&name.repository, &files, free_memory())?;
                let planned = Planned::recommended(&found);
                (found.selection, Some(planned), found.draft)
            }
        };
        let Some(mut planned) = planned else { return Ok(Some((selection, None))) };
        let listener = Rc::clone(&self.show.listener);
        let watch = &mut |_: Event<'_>| match listener.asked() {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        };
        let paths = &selection.paths;
        match remote_header::problem(&self.hub, listing, paths, &mut planned, context, watch) {
            Err(bitnet_hub::Error::Stopped) => {
                self.output.note(&bitnet_hub::Error::Stopped.to_string());
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
            Ok(None) => {}
            Ok(Some(problem)) if purpose == Purpose::Keep && name.file.is_some() => {
                self.output.warning(&format!("this program can't run it: {problem}"));
            }
            Ok(Some(problem)) => return Err(problem).with_context(|| refusal(listing, &selection)),
        }
        let cache = self.hub.cache(listing);
        let is_here = |path: &String| cache.shown(&listing.commit, Some(path)).exists();
        let verb = if selection.paths.iter().all(is_here) { "" } else { "downloading " };
        if !self.show.quiet {
            self.output.note(&format!("{verb}{name}: {}", planned.words()));
        }
        if let Some(draft) = draft.filter(|_| !self.show.quiet) {
            let file = without_controls(&draft.file);
            self.output.note(&format!(
                "{file} drafts tokens for it: `bitnet pull {}:{file}` and --draft-model use it",
                name.repository
            ));
        }
        planned.warn(self.output);
        Ok(Some((selection, Some(planned))))
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
        if !self.hub.settings().offline {
            self.hub.ensure_room(listing, &selection.paths)?;
        }
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
