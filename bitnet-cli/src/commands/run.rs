//! `bitnet run`: continues a text.

use anyhow::{Result, bail};
use bitnet_inference::{FinishReason, GenerateOptions};
use serde_json::json;

use super::{Outcome, memory, sampling};
use crate::args::{Cli, RunArgs};
use crate::interrupt::Listener;
use crate::output::{Output, document};
use crate::{input_text, load};

/// Continues the prompt and streams the text.
pub(crate) fn run(cli: &Cli, args: &RunArgs, output: &mut Output) -> Result<Outcome> {
    let prompt = input_text::prompt(&args.text)?;
    let pool = args.memory_report.then(memory::recorded_pool).transpose()?;
    let (model, draft) = load::with_drafts(pool.as_ref(), cli, &args.drafts, output)?;
    let seed = cli.general.seed().unwrap_or_else(sampling::random_seed);
    let options = GenerateOptions { draft, ..sampling::options(&args.sampling, &model, seed) };
    let mut session = load::session(cli, &model, output)?;
    load::check_length(&model, &prompt, session.capacity())?;
    let tokens = model.encode_prompt(&prompt)?;
    if tokens.is_empty() {
        bail!("the prompt is empty and the model has no BOS token; add some text");
    }
    // Invalid values are reported before the prompt is printed.
    options.sampler.validate(model.config().vocab_size)?;

    let listener = Listener::new();
    let mut written = Ok(());
    let mut ends_line = true;
    let quiet = output.json;
    let mut text_so_far = String::new();
    let mut show = |text: &str, output: &mut Output| {
        if !quiet && !text.is_empty() && written.is_ok() {
            ends_line = text.ends_with('\n');
            written = output.stream(text);
        }
        written.is_ok()
    };
    if !args.no_echo {
        show(&prompt, output);
    }
    let generation = session.generate(&tokens, &options)?.cancel_when(|| listener.asked());
    let generated = sampling::write(generation, |text| {
        text_so_far.push_str(text);
        show(text, output)
    });
    written?;
    let interrupted = listener.asked();
    if !quiet && !ends_line {
        output.stream("\n")?;
    }
    document::set_partial(json!({
        "text": text_so_far,
        "seed": options.sampler.seed,
        "prompt_tokens": tokens.len(),
        "model": model.facts().file,
        "prompt": prompt,
    }));
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
            memory::Used::now(pool, &files).print(output);
        }
    }
    let stopped = interrupted && generated.finish == FinishReason::Cancelled;
    Ok(if stopped { Outcome::Interrupted } else { Outcome::Done })
}
