//! `bitnet top`: a server's figures in the terminal.

mod client;
mod sample;
mod view;

use std::sync::mpsc::{Receiver, channel};
use std::time::Duration;

use anyhow::{Result, anyhow};
use ratatui::DefaultTerminal;
use ratatui::crossterm::event::{self, Event, KeyCode, KeyEventKind, KeyModifiers};
use ratatui::widgets::Paragraph;
use serde_json::json;

use self::client::Client;
use self::sample::Sample;
use self::view::{History, Server};
use super::Outcome;
use crate::api_keys;
use crate::args::TopArgs;
use crate::interrupt::Listener;
use crate::output::Output;

/// How often keys are looked at.
const LOOK: Duration = Duration::from_millis(100);

/// Shows a server until the user ends it.
pub(crate) fn run(args: &TopArgs, output: &mut Output) -> Result<Outcome> {
    let key = match &args.api_key_file {
        Some(path) => api_keys::read(path)?.into_iter().next(),
        None => None,
    };
    let client = Client::new(&args.url, key)?;
    let first = client.sample()?;
    let server = client.server();
    if output.json {
        document(&server, &first, output)?;
        return Ok(Outcome::Done);
    }
    let interval = Duration::from_secs(args.interval.into());
    let mut history = History::default();
    history.push(first);
    let listener = Listener::new();
    if !output.stdout_is_terminal {
        return lines(&client, history, interval, &listener, output);
    }
    let samples = take(client, interval)?;
    // Restores the terminal if the program panics, too.
    let mut terminal = ratatui::try_init()?;
    let result = show(&mut terminal, &server, history, &samples, &listener);
    ratatui::restore();
    result.map(|()| Outcome::Done)
}

/// Prints one sample as a document.
fn document(server: &Server, sample: &Sample, output: &mut Output) -> Result<()> {
    // Counts are whole numbers.
    let number = |value: f64| match value {
        value if value.fract() == 0.0 && value.abs() < 9e15 => json!(value as i64),
        value => json!(value),
    };
    let figures: serde_json::Map<_, _> =
        sample.figures.iter().map(|(name, &value)| (name.clone(), number(value))).collect();
    let bound = |bound: f64| if bound.is_finite() { json!(bound) } else { json!("+Inf") };
    let steps: Vec<_> = sample
        .step_classes(None)
        .iter()
        .map(|&(le, steps)| json!({"le": bound(le), "steps": number(steps)}))
        .collect();
    output.json(&json!({
        "url": server.url,
        "model": server.model,
        "context": server.context,
        "parallel": server.parallel,
        "metrics": figures,
        "step_seconds": steps,
    }))
}

/// Prints a line for each sample.
fn lines(
    client: &Client,
    mut history: History,
    interval: Duration,
    listener: &Listener,
    output: &mut Output,
) -> Result<Outcome> {
    loop {
        let next = std::time::Instant::now() + interval;
        while std::time::Instant::now() < next {
            if listener.asked() {
                return Ok(Outcome::Done);
            }
            std::thread::sleep(LOOK.min(interval));
        }
        history.push(client.sample()?);
        output.verbatim(&view::plain(&history))?;
    }
}

/// Takes samples on a thread of their own, so that keys are obeyed while a server does not answer.
fn take(client: Client, interval: Duration) -> Result<Receiver<Result<Sample>>> {
    let (sender, samples) = channel();
    let thread = std::thread::Builder::new().name("samples".into());
    thread.spawn(move || {
        loop {
            std::thread::sleep(interval);
            if sender.send(client.sample()).is_err() {
                return;
            }
        }
    })?;
    Ok(samples)
}

/// Draws the samples as they come.
fn show(
    terminal: &mut DefaultTerminal,
    server: &Server,
    mut history: History,
    samples: &Receiver<Result<Sample>>,
    listener: &Listener,
) -> Result<()> {
    while !listener.asked() {
        for sample in samples.try_iter() {
            match sample {
                Ok(sample) => history.push(sample),
                Err(error) => history.problem = Some(error.to_string()),
            }
        }
        terminal.draw(|frame| {
            let area = frame.area();
            let lines = view::lines(server, &history, area.width.into(), area.height.into());
            frame.render_widget(Paragraph::new(lines), area);
        })?;
        if event::poll(LOOK).map_err(|error| anyhow!("the terminal can't be read: {error}"))?
            && is_end(&event::read()?)
        {
            return Ok(());
        }
    }
    Ok(())
}

/// Whether a key ends the view: q, Escape or Ctrl-C.
fn is_end(event: &Event) -> bool {
    let Event::Key(key) = event else { return false };
    let is_control = key.modifiers.contains(KeyModifiers::CONTROL);
    key.kind == KeyEventKind::Press
        && match key.code {
            KeyCode::Char('c' | 'd') => is_control,
            KeyCode::Char('q' | 'Q') | KeyCode::Esc => true,
            _ => false,
        }
}

#[cfg(test)]
mod tests;
