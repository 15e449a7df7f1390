//! `bitnet pull`: models from a hub, where downloading is built in.

#[cfg(feature = "hub")]
pub(crate) use built_in::run;
#[cfg(not(feature = "hub"))]
pub(crate) use left_out::run;

#[cfg(not(feature = "hub"))]
mod left_out {
    use anyhow::{Result, bail};

    use crate::args::PullArgs;
    use crate::commands::Outcome;
    use crate::output::Output;

    /// Says how to get downloads.
    pub(crate) fn run(_: &PullArgs, _: &mut Output) -> Result<Outcome> {
        bail!(
            "this program was built without downloads; build it with: cargo build --release --features hub"
        )
    }
}

#[cfg(feature = "hub")]
mod built_in {
    use std::ops::ControlFlow;
    use std::rc::Rc;
    use std::time::Duration;

    use anyhow::{Context, Result, bail};
    use bitnet_hub::choose::{Choice, Found, Selection, Wanted, choose};
    use bitnet_hub::{Event, Hub, HubError, Listing, ModelName, Pulled, Settings, State};
    use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
    use serde_json::{Value, json};

    use crate::args::PullArgs;
    use crate::commands::Outcome;
    use crate::interrupt::Listener;
    use crate::output::{self, Output, without_controls};

    /// How often Ctrl-C is looked for during a pause.
    const INTERVAL: Duration = Duration::from_millis(100);

    /// Pulls what is asked for, or lists what there is.
    pub(crate) fn run(args: &PullArgs, output: &mut Output) -> Result<Outcome> {
        let name = ModelName::parse(&args.name)?;
        let matching = !args.include.is_empty() || !args.exclude.is_empty();
        if matching && name.file.is_some() {
            bail!("{name} names a file; leave out --include and --exclude, or the file");
        }
        let listener = Rc::new(Listener::new());
        let hub = Hub::new(Settings::from_environment()?)?.pausing_with({
            let listener = Rc::clone(&listener);
            move |pause| wait(pause, &listener)
        });
        let mut show = Show { output, bar: None, quiet: args.quiet, listener };
        let listing =
            match hub.list(&name.repository, name.revision(), &mut |event| show.event(event)) {
                Err(HubError::Stopped) => return Ok(Outcome::Interrupted),
                listing => listing?,
            };
        let mut files = listing.found();
        files.sort_by(|a, b| a.path.cmp(&b.path));
        if args.list {
            list(&listing, &files, show.output)?;
            return Ok(Outcome::Done);
        }
        let wanted = match name.file.as_deref() {
            Some(file) => Wanted::File(file),
            None if matching => Wanted::Matching { include: &args.include, exclude: &args.exclude },
            None => Wanted::Model,
        };
        let selection = match choose(&name.repository, &files, &wanted) {
            Err(HubError::Choose { choices, .. }) => return ask(&name, &choices, show.output),
            selection => selection?,
        };
        pull(&hub, &listing, &selection, &mut show)
    }

    fn pull(
        hub: &Hub,
        listing: &Listing,
        selection: &Selection,
        show: &mut Show<'_>,
    ) -> Result<Outcome> {
        let mut pulled = Vec::new();
        for path in &selection.paths {
            let result = hub.pull(listing, path, &mut |event| show.event(event));
            show.end();
            match result {
                Err(HubError::Stopped) => {
                    show.output.note(&HubError::Stopped.to_string());
                    return Ok(Outcome::Interrupted);
                }
                result => {
                    let file = result?;
                    show.arrived(path, &file);
                    pulled.push((path.as_str(), file));
                }
            }
        }
        hub.settle(listing)?;
        let path = hub.cache(listing).shown(&listing.commit, selection.run.as_deref());
        let path = path.to_str().context("the path of the cache is not UTF-8")?;
        if show.output.json {
            show.output.json(&report(listing, path, &pulled))?;
        } else {
            show.output.line(path)?;
        }
        Ok(Outcome::Done)
    }

    fn report(listing: &Listing, path: &str, pulled: &[(&str, Pulled)]) -> Value {
        let files: Vec<Value> = pulled
            .iter()
            .map(|(name, file)| {
                let (state, from) = match file.state {
                    State::Present => ("present", None),
                    State::Downloaded => ("downloaded", None),
                    State::Resumed(from) => ("resumed", Some(from)),
                };
                let path = file.path.display().to_string();
                json!({ "file": name, "bytes": file.bytes, "path": path, "state": state, "resumed_at": from })
            })
            .collect();
        json!({
            "repository": listing.repository.as_str(),
            "revision": listing.revision,
            "commit": listing.commit,
            "path": path,
            "files": files,
        })
    }

    fn list(listing: &Listing, files: &[Found], output: &mut Output) -> Result<()> {
        if output.json {
            let files: Vec<Value> =
                files.iter().map(|f| json!({ "file": f.path, "bytes": f.bytes })).collect();
            return output.json(&json!({
                "repository": listing.repository.as_str(),
                "revision": listing.revision,
                "commit": listing.commit,
                "files": files,
            }));
        }
        for file in files {
            output.line(&format!("{:>10}  {}", size(file.bytes), without_controls(&file.path)))?;
        }
        let sum = files.iter().try_fold(0_u64, |sum, file| sum.checked_add(file.bytes?));
        output.line(&format!("{:>10}  in {}", size(sum), output::count(files.len(), "file")))
    }

    /// Names the models of which the user has to choose one.
    fn ask(name: &ModelName, choices: &[Choice], output: &mut Output) -> Result<Outcome> {
        let repository = match &name.revision {
            None => name.repository.to_string(),
            Some(revision) => format!("{}@{revision}", name.repository),
        };
        for choice in choices {
            let file = without_controls(&choice.file);
            output.note(&format!("{:>10}  {repository}:{file}", size(choice.bytes)));
        }
        bail!("{repository} has {}; name one of these", output::count(choices.len(), "model"))
    }

    fn size(bytes: Option<u64>) -> String {
        bytes.map_or_else(|| "?".to_owned(), output::bytes)
    }

    /// Sleeps, or wakes when Ctrl-C comes.
    fn wait(pause: Duration, listener: &Listener) {
        let mut left = pause;
        while !left.is_zero() && !listener.asked() {
            let step = left.min(INTERVAL);
            std::thread::sleep(step);
            left -= step;
        }
    }

    /// What the user sees while files come: a bar on a terminal, a line for each file elsewhere.
    struct Show<'o> {
        output: &'o mut Output,
        bar: Option<ProgressBar>,
        quiet: bool,
        listener: Rc<Listener>,
    }

    impl Show<'_> {
        fn event(&mut self, event: Event<'_>) -> ControlFlow<()> {
            match event {
                Event::Progress { file, have, bytes } => self.progress(file, have, bytes),
                Event::Waiting { file } => self.say_once(file, "another program pulls it; waiting"),
                Event::Again { file, why, pause } => {
                    self.say(file, &format!("{why}; trying again in {} s", pause.as_secs()));
                }
                Event::FromTheBeginning { file, why } => {
                    self.say(file, &format!("from the beginning: {why}"))
                }
            }
            if self.listener.asked() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
        }

        fn progress(&mut self, file: &str, have: u64, bytes: u64) {
            if self.quiet || !self.output.stderr_is_terminal() {
                return;
            }
            let bar = self.bar.get_or_insert_with(|| bar(file, bytes));
            bar.set_position(have);
        }

        fn say(&mut self, file: &str, text: &str) {
            if self.quiet {
                return;
            }
            let line = format!("{}: {text}", without_controls(file));
            match &self.bar {
                Some(bar) => bar.suspend(|| self.output.note(&line)),
                None => self.output.note(&line),
            }
        }

        /// Says it unless a bar shows already that something goes on.
        fn say_once(&mut self, file: &str, text: &str) {
            if self.bar.is_none() {
                self.say(file, text);
                self.bar = Some(ProgressBar::hidden());
            }
        }

        fn end(&mut self) {
            if let Some(bar) = self.bar.take() {
                bar.finish_and_clear();
            }
        }

        fn arrived(&mut self, name: &str, file: &Pulled) {
            let size = output::bytes(file.bytes);
            let how = match file.state {
                State::Present => format!("{size}, was here"),
                State::Downloaded => size,
                State::Resumed(from) => {
                    format!("{size}, of which {} were here", output::bytes(from))
                }
            };
            self.say(name, &how);
        }
    }

    fn bar(file: &str, bytes: u64) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(bytes), ProgressDrawTarget::stderr());
        let template = "{msg}  {bar:24} {bytes}/{total_bytes}  {bytes_per_sec}  {eta} left";
        // The default style stands in for a template that can't be read.
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.with_style(style.progress_chars("=> "))
            .with_message(without_controls(file).into_owned())
    }
}
