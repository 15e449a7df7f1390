//! `bitnet run`: continues a text, or answers a message.

use std::sync::Arc;

use anyhow::{Result, bail};
use bitnet_inference::chat::{AnswerFormat, AnswerParser, Message};
use bitnet_inference::{FinishReason, GenerateOptions};
use serde_json::json;

use super::answer::{self, AnswerWriter};
use super::{Outcome, constraint, memory, sampling};
use crate::args::{AnswerArgs, Cli, RunArgs};
use crate::interrupt::Listener;
use crate::output::{Output, document};
use crate::{input_text, load};

/// Returns whether the text is a message, to be answered, instead of a beginning to be continued.
fn is_message(args: &RunArgs) -> bool {
    let AnswerArgs { tools, think, no_think, reasoning } = &args.answer;
    args.message || tools.is_some() || *think || *no_think || reasoning.is_some()
}

/// Continues the prompt, or answers it, and streams the text.
pub(crate) fn run(cli: &Cli, args: &RunArgs, output: &mut Output) -> Result<Outcome> {
    let prompt = input_text::prompt(&args.text)?;
    let chat_options = answer::chat_options(&args.answer)?;
    let pool = args.memory_report.then(memory::recorded_pool).transpose()?;
    let (model, draft) = load::with_drafts(pool.as_ref(), cli, &args.drafts, output)?;
    let seed = cli.general.seed().unwrap_or_else(sampling::random_seed);
    let constraint = constraint::compile(&args.constraint, &model)?;
    let sampling = sampling::options(&args.sampling, &model, seed);
    let options = GenerateOptions { draft, constraint, ..sampling };
    let mut session = load::session(cli, &model, output)?;
    load::check_length(&model, &prompt, session.capacity())?;
    let (tokens, parser) = if is_message(args) {
        let rendered = model.render_chat(&[Message::new("user", &prompt)], &chat_options)?;
        (model.encode_rendered(&rendered)?, model.answer_parser(&rendered, &chat_options))
    } else {
        (model.encode_prompt(&prompt)?, AnswerParser::new(AnswerFormat::default(), Arc::default()))
    };
    constraint::check_answer(options.constraint.as_ref(), &parser)?;
    if tokens.is_empty() {
        bail!("the prompt is empty and the model has no BOS token; add some text");
    }
    // Invalid values are reported before the prompt is printed.
    options.sampler.validate(model.config().vocab_size)?;

    let listener = Listener::new();
    let mut written = Ok(());
    let mut text_so_far = String::new();
    let mut writer = AnswerWriter::new(parser, args.answer.reasoning, output);
    if !args.no_echo && !is_message(args) {
        writer.echo(&prompt, output)?;
    }
    let generation = session.generate(&tokens, &options)?.cancel_when(|| listener.asked());
    let generated = sampling::write(generation, |text| {
        text_so_far.push_str(text);
        written = writer.push(text, output);
        written.is_ok()
    });
    written?;
    let answer = writer.finish(output)?;
    let interrupted = listener.asked();
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
        if is_message(args) {
            answer::add_to_json(&mut value, &answer);
        }
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
