//! `bitnet chat`: a conversation in turns.

mod command;
mod conversation;
mod input;

use std::io::IsTerminal;
use std::path::Path;

use anyhow::{Context, Result, bail};
use bitnet_inference::chat::{AnswerParser, ChatOptions, Message};
use bitnet_inference::{FinishReason, GenerateOptions, Generated, Model, Session};
use serde_json::json;

use super::answer::{self, AnswerWriter};
use super::{Outcome, constraint, sampling};
use crate::args::{ChatArgs, Cli, ReasoningView};
use crate::input_text::{self, LONGEST_SETTINGS};
use crate::interrupt::{self, Listener};
use crate::load;
use crate::output::{Output, count, document, without_controls};
use crate::output_file::OutputFile;
use command::{Command, HELP};
use conversation::Conversation;
use input::{Input, Line};

/// The part of the context reserved for an answer when old turns are dropped.
const ANSWER_PART: usize = 4;

/// Runs the chat until the user leaves.
pub(crate) fn run(cli: &Cli, args: &ChatArgs, output: &mut Output) -> Result<Outcome> {
    let chat_options = answer::chat_options(&args.answer)?;
    let (model, draft) = load::with_drafts(None, cli, &args.drafts, output)?;
    if let Some(Err(problem)) = model.template() {
        return Err(problem.clone().into());
    }
    check(&model, &chat_options)?;
    let session = load::session(cli, &model, output)?;
    let constraint = constraint::compile(&args.constraint, &model)?;
    let sampling = sampling::options(&args.sampling, &model, 0);
    let options = GenerateOptions { draft, constraint, ..sampling };
    options.sampler.validate(model.config().vocab_size)?;
    let interactive = std::io::stdin().is_terminal() && output.stdout_is_terminal && !output.json;
    let mut chat = Chat {
        model: &model,
        session,
        options,
        seed: cli.general.seed(),
        conversation: Conversation::new(args.system.clone()),
        chat_options,
        reasoning: args.answer.reasoning,
        left_out: 0,
        last: None,
        interactive,
        interrupted: false,
    };
    chat.welcome(output);
    let mut input = Input::new(interactive)?;
    let result = chat.talk(&mut input, output);
    input.save();
    result
}

struct Chat<'m> {
    model: &'m Model,
    session: Session,
    options: GenerateOptions,
    /// The seed set by the user.
    seed: Option<u64>,
    conversation: Conversation,
    chat_options: ChatOptions,
    /// What is shown of the reasoning, if the user said so.
    reasoning: Option<ReasoningView>,
    /// The number of dropped oldest turns.
    left_out: usize,
    last: Option<Generated>,
    interactive: bool,
    /// Whether Ctrl-C interrupted the last answer.
    interrupted: bool,
}

impl Chat<'_> {
    fn welcome(&self, output: &mut Output) {
        let facts = self.model.facts();
        if self.interactive {
            let name = without_controls(facts.name.as_deref().unwrap_or(&facts.file)).into_owned();
            output.note(&format!("{name}: /help lists the commands, Ctrl-D leaves"));
        }
        if self.model.template().is_none() {
            output.note("no chat template: the model continues your lines as one text (--chat-template sets one)");
        }
    }

    fn talk(&mut self, input: &mut Input, output: &mut Output) -> Result<Outcome> {
        let mut interrupted_before = false;
        loop {
            let prompt = match self.conversation.pending_call() {
                Some(call) => format!("result of {}> ", without_controls(&call.function.name)),
                None => "> ".to_owned(),
            };
            let line = match input.read(&prompt)? {
                Line::Text(line) => line,
                Line::End => return Ok(Outcome::Done),
                Line::Interrupt if interrupted_before => return Ok(Outcome::Interrupted),
                Line::Interrupt => {
                    output.note("press Ctrl-C again, or Ctrl-D, to leave");
                    interrupted_before = true;
                    continue;
                }
            };
            interrupted_before = false;
            if line.trim().is_empty() {
                continue;
            }
            let done = match command::parse(&line) {
                Some(Ok(Command::Quit)) => return Ok(Outcome::Done),
                Some(Ok(command)) => self.obey(&command, output),
                Some(Err(problem)) => Err(anyhow::anyhow!(problem)),
                None => {
                    let text =
                        line.strip_prefix('/').filter(|l| l.starts_with('/')).unwrap_or(&line);
                    if self.conversation.pending_call().is_some() {
                        self.take_result(text, output)
                    } else {
                        self.conversation.ask(text);
                        self.answer(output)
                    }
                }
            };
            match done {
                // An invalid command ends a script but not an interactive chat.
                Err(error) if self.interactive && !crate::output::is_closed_pipe(&error) => {
                    output.error(&error)
                }
                done => done?,
            }
            // An interactive chat continues; a script stops.
            // Ctrl-C at the very end of an answer has nothing to stop and must not wait for the next line.
            let stopped = self.interrupted || interrupt::asked();
            if stopped && (!self.interactive || interrupt::terminated()) {
                return Ok(Outcome::Interrupted);
            }
        }
    }

    fn obey(&mut self, command: &Command<'_>, output: &mut Output) -> Result<()> {
        match *command {
            Command::Help => output.note(HELP),
            Command::System("") => {
                let text = self.conversation.system.as_deref().unwrap_or("no system prompt");
                output.note(&without_controls(text));
            }
            Command::System(text) => {
                self.start_again();
                self.conversation.set_system(text);
                output.note("system prompt set; the conversation starts again");
            }
            Command::Reset => {
                self.start_again();
                output.note("the conversation starts again");
            }
            Command::Undo => match self.conversation.undo() {
                Some(text) => output.note(&format!("taken back: {}", without_controls(&text))),
                None => output.note("there is nothing to undo"),
            },
            Command::Retry => match self.conversation.undo() {
                Some(text) => {
                    self.conversation.ask(&text);
                    return self.answer(output);
                }
                None => output.note("there is nothing to retry"),
            },
            Command::Save(file) => {
                save(&self.conversation, Path::new(file))?;
                output.note(&format!(
                    "{} saved in {file}",
                    count(self.conversation.turns.len(), "turn")
                ));
            }
            Command::Load(file) => {
                self.conversation = open(Path::new(file))?;
                self.left_out = 0;
                output.note(&format!(
                    "{} loaded from {file}",
                    count(self.conversation.turns.len(), "turn")
                ));
            }
            Command::Tools(None) => self.list_tools(output),
            Command::Tools(Some(file)) => self.load_tools(Path::new(file), output)?,
            Command::ToolResult(file) => {
                if self.conversation.pending_call().is_none() {
                    bail!("no call waits for a result");
                }
                let text = input_text::read_text(Path::new(file), LONGEST_SETTINGS)?;
                return self.take_result(text.trim_end_matches(['\n', '\r']), output);
            }
            Command::Reasoning(Some(view)) => self.reasoning = Some(view),
            Command::Reasoning(None) => {
                let text = self.conversation.last_reasoning().unwrap_or("no reasoning");
                output.note(&without_controls(text));
            }
            Command::Think(on) => {
                let options =
                    ChatOptions { enable_thinking: Some(on), ..self.chat_options.clone() };
                check(self.model, &options)?;
                self.chat_options = options;
            }
            Command::Stats => {
                let text = match &self.last {
                    Some(generated) => sampling::summary(generated, &self.options),
                    None => "there is no answer yet".into(),
                };
                output.note(&text);
                let (used, all) = (self.session.tokens().len(), self.session.capacity());
                output.note(&format!("[context {used} of {all} tokens]"));
            }
            Command::Seed(seed) => self.seed = seed,
            Command::Temp(temperature) => self.options.sampler.temperature = temperature,
            Command::Quit => {}
        }
        Ok(())
    }

    fn start_again(&mut self) {
        self.conversation.turns.clear();
        self.left_out = 0;
        self.last = None;
    }

    /// Takes the result of the pending call, and answers once no other call waits for one.
    fn take_result(&mut self, text: &str, output: &mut Output) -> Result<()> {
        let Some(call) = self.conversation.pending_call() else { return Ok(()) };
        let message = Message::tool_result(call, text);
        self.conversation.add(message);
        if self.conversation.pending_call().is_some() { Ok(()) } else { self.answer(output) }
    }

    fn list_tools(&self, output: &mut Output) {
        let tools = &self.chat_options.tools;
        if tools.is_empty() {
            output.note("no tools; /tools FILE loads some");
        }
        for function in tools.functions() {
            let text = |key: &str| function[key].as_str().unwrap_or_default();
            let line = format!("{}  {}", text("name"), text("description"));
            output.note(without_controls(&line).trim_end());
        }
    }

    fn load_tools(&mut self, path: &Path, output: &mut Output) -> Result<()> {
        let tools = answer::read_tools(path)?;
        let options = ChatOptions { tools, ..self.chat_options.clone() };
        check(self.model, &options)?;
        self.chat_options = options;
        let number = count(self.chat_options.tools.len(), "tool");
        output.note(&format!("{number} loaded from {}", path.display()));
        Ok(())
    }

    /// Answers the last message, or removes it on failure.
    fn answer(&mut self, output: &mut Output) -> Result<()> {
        let answered = self.try_answer(output);
        if answered.is_err() {
            self.conversation.undo();
        }
        answered
    }

    fn try_answer(&mut self, output: &mut Output) -> Result<()> {
        let (tokens, parser) = self.prompt(output)?;
        self.options.sampler.seed = self.seed.unwrap_or_else(sampling::random_seed);
        let listener = Listener::new();
        let mut shown = Ok(());
        let mut text_so_far = String::new();
        let json = output.json;
        let hint = if self.interactive { "; /reasoning shows it" } else { "" };
        let mut writer = AnswerWriter::new(parser, self.reasoning, output).with_hint(hint);
        let generation = self.session.generate(&tokens, &self.options)?;
        let generation = generation.cancel_when(|| listener.asked());
        let generated = sampling::write(generation, |text| {
            text_so_far.push_str(text);
            shown = writer.push(text, output);
            shown.is_ok()
        });
        shown?;
        let answer = writer.finish(output)?;
        document::set_partial(json!({ "text": text_so_far }));
        let generated = generated?;
        self.interrupted = generated.finish == FinishReason::Cancelled;
        match generated.finish {
            FinishReason::Cancelled => output.note("[stopped]"),
            FinishReason::Length => output.note("[cut off at the length limit; raise it with -n]"),
            FinishReason::ContextFull => {
                output.note("[cut off: the context is full; raise it with --ctx, or /reset]")
            }
            _ => {}
        }
        document::set_partial(json!({}));
        if json {
            let mut value = sampling::to_json(&generated, &self.options);
            answer::add_to_json(&mut value, &answer);
            value["turns_left_out"] = json!(self.left_out);
            output.json_line(&value)?;
        } else if output.verbose {
            output.note(&sampling::summary(&generated, &self.options));
        }
        self.last = Some(generated);
        self.conversation.add(answer.message);
        if self.interactive && self.conversation.pending_call().is_some() {
            output.note("type the result of the call, or /result FILE; /undo takes the turn back");
        }
        Ok(())
    }

    /// Returns the tokens of the part of the conversation that fits, and a parser for the answer to it.
    fn prompt(&mut self, output: &mut Output) -> Result<(Vec<u32>, AnswerParser)> {
        let capacity = self.session.capacity();
        let reserve = (capacity / ANSWER_PART).min(self.options.max_tokens);
        let (conversation, model, options) = (&self.conversation, self.model, &self.chat_options);
        let mut parser = model.answer_parser("", options);
        let (first, tokens) = conversation.fitting(capacity - reserve, |first| {
            if model.template().is_none() {
                return Ok(model.encode_prompt(&conversation.text(first))?);
            }
            let prompt = model.render_chat(&conversation.messages(first), options)?;
            parser = model.answer_parser(&prompt, options);
            Ok(model.encode_rendered(&prompt)?)
        })?;
        constraint::check_answer(self.options.constraint.as_ref(), &parser)?;
        if tokens.is_empty() {
            bail!(
                "the chat template renders no text for this conversation; set another with --chat-template"
            );
        }
        if tokens.len() >= capacity {
            let length = count(tokens.len(), "token");
            bail!(
                "this message takes {length} and the context is {capacity}; shorten it or raise --ctx"
            );
        }
        if first > self.left_out {
            let forgotten = count(first, "turn");
            output.note(&format!(
                "[the context is full: dropped the oldest {forgotten} of this conversation]"
            ));
        }
        self.left_out = first;
        Ok((tokens, parser.first_call(self.conversation.calls())))
    }
}

/// Checks that the model's template makes use of the options.
fn check(model: &Model, options: &ChatOptions) -> Result<()> {
    match model.template() {
        Some(template) => Ok(template.map_err(Clone::clone)?.check(options)?),
        None if options.tools.is_empty() && options.enable_thinking.is_none() => Ok(()),
        None => bail!("tools and reasoning need a chat template; set one with --chat-template"),
    }
}

/// Writes a conversation to a new file or replaces a saved conversation.
fn save(conversation: &Conversation, path: &Path) -> Result<()> {
    let text = format!("{:#}\n", conversation.to_json());
    let is_one = |bytes: &[u8]| {
        let value = serde_json::from_slice(bytes).ok();
        value.is_some_and(|value| Conversation::from_json(&value).is_ok())
    };
    OutputFile { path, what: "a saved conversation", is_one }.write(text.as_bytes())
}

fn open(path: &Path) -> Result<Conversation> {
    let text = input_text::read(path, LONGEST_SETTINGS)?;
    let value =
        serde_json::from_slice(&text).with_context(|| format!("{} is not JSON", path.display()))?;
    Conversation::from_json(&value)
        .with_context(|| format!("{} is not a conversation", path.display()))
}
