//! `bitnet run`: continues a text.

use std::io::Read;

use anyhow::{Context, Result, bail};
use bitnet_inference::{FinishReason, generate};
use serde_json::json;

use super::{Outcome, memory, sampling};
use crate::args::{Cli, RunArgs};
use crate::interrupt::Listener;
use crate::load;
use crate::output::Output;

/// Continues the prompt, showing each piece as it is written.
pub(crate) fn run(cli: &Cli, args: &RunArgs, output: &mut Output) -> Result<Outcome> {
    let prompt = text_or_stdin(&args.prompt)?;
    let pool = args.memory_report.then(memory::recorded_pool).transpose()?;
    let model = match &pool {
        Some(pool) => load::model_in(pool, cli, output)?,
        None => load::model(cli, output)?,
    };
    let seed = cli.general.seed.unwrap_or_else(sampling::random_seed);
    let options = sampling::options(&args.sampling, &model, seed);
    let tokens = model.encode_prompt(&prompt)?;
    if tokens.is_empty() {
        bail!("the prompt is empty and the model has no token that begins a text; give some text");
    }
    let mut session = load::session(cli, &model, output)?;
    // Wrong values are told before the prompt is shown.
    options.sampler.validate(model.config().vocab_size)?;

    let listener = Listener::new();
    let mut written = Ok(());
    let mut ends_line = true;
    let quiet = output.json;
    let mut show = |text: &str, output: &mut Output| {
        if !quiet && !text.is_empty() && written.is_ok() {
            ends_line = text.ends_with('\n');
            written = output.stream(text);
        }
        written.is_ok() && !listener.asked()
    };
    if !args.no_echo {
        show(&prompt, output);
    }
    let generated =
        generate(&model, &mut session, &tokens, &options, &mut |text| show(text, output));
    written?;
    let interrupted = listener.asked();
    if !quiet && !ends_line {
        output.stream("\n")?;
    }
    let generated = generated?;
    let files = memory::files_of(load::source(cli, None)?);
    if output.json {
        let mut value = sampling::to_json(&generated, &options);
        value["model"] = json!(model.facts().file);
        value["prompt"] = json!(prompt);
        if let Some(pool) = &pool {
            value["memory"] = memory::Used::now(pool, &files).to_json();
        }
        output.json(&value)?;
    } else {
        output.note(&sampling::summary(&generated, &options));
        if let Some(pool) = &pool {
            memory::Used::now(pool, &files).tell(output);
        }
    }
    let stopped = interrupted && generated.finish == FinishReason::Cancelled;
    Ok(if stopped { Outcome::Interrupted } else { Outcome::Done })
}

/// The text itself, or all of standard input for `-`, without the line break at its end.
pub(crate) fn text_or_stdin(text: &str) -> Result<String> {
    if text != "-" {
        return Ok(text.to_owned());
    }
    let mut bytes = Vec::new();
    std::io::stdin().lock().read_to_end(&mut bytes).context("can't read standard input")?;
    let mut text = String::from_utf8(bytes).context("standard input is not UTF-8 text")?;
    if text.ends_with('\n') {
        text.truncate(text.len() - 1);
        if text.ends_with('\r') {
            text.truncate(text.len() - 1);
        }
    }
    Ok(text)
}
