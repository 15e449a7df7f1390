//! Chat templates: messages to the text that a model was trained on, as `transformers.apply_chat_template` renders it.
//!
//! A template comes with a model and is a program: it runs within a budget of steps, work, memory and output, cannot
//! reach files, and is tried once when it is loaded.

mod answer;
mod arguments;
mod budget;
mod builtin;
mod clock;
mod error;
mod filters;
mod json;
mod message;
mod methods;
mod numbers;
mod operators;
mod percent;
mod prompt;
mod python;
mod sequences;
mod source;
mod tools;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::machinery::{CodeGenerator, Token, eval, make_string_output, parse, tokenize};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Serde, Value};
use minijinja::{AutoEscape, Environment, Error, ErrorKind, Output, State};

pub use answer::{
    Answer, AnswerEvent, AnswerFormat, AnswerNote, AnswerParser, CallSyntax, Delimiters,
};
pub use builtin::{Builtin, is_broken_bitnet_template};
pub use clock::strftime;
pub use error::TemplateError;
pub use message::{FunctionCall, Message, ToolCall, ToolKind};
pub use prompt::{ChatOptions, PromptEnd};
pub(crate) use source::ModelTemplates;
pub use source::TemplateChoice;
pub use tools::{Tools, ToolsError};

use crate::tokenizer::SpecialTokens;
use budget::{Budget, Stop};

/// Longest template source, in bytes.
const MAX_SOURCE: usize = 64 * 1024;
/// Steps, beside those that the messages add.
const STEPS: u64 = 100_000;
/// Steps added per message.
const STEPS_PER_MESSAGE: u64 = 2_000;
/// Work and memory in bytes, beside what the messages add.
const WORK: u64 = 48 << 20;
/// Work added per byte of the messages.
const WORK_PER_BYTE: u64 = 64;
/// Longest single text, beside what the messages add.
const TEXT: u64 = 256 << 10;
/// Longest single text, as a multiple of the messages.
const TEXT_PER_BYTE: u64 = 4;
/// Most words and signs in one tag: the engine recurses along an expression, so its length bounds the stack.
const TAG: usize = 400;
/// Most `elif`s, each of which the engine nests in the one before.
const BRANCHES: usize = 150;
/// Calls within calls.
const RECURSION: usize = 100;

/// What a template receives beside the messages.
#[derive(Debug, Clone, Default)]
pub struct RenderOptions<'a> {
    /// End with the words that make the model answer.
    pub add_generation_prompt: bool,
    /// The beginning-of-text token as text; empty where there is none, and then undefined in the template.
    pub bos_token: &'a str,
    /// The end-of-text token as text; empty where there is none, and then undefined in the template.
    pub eos_token: &'a str,
    /// All named special tokens of the model: each is a variable of its name.
    pub special_tokens: Option<&'a SpecialTokens>,
    /// Functions that the model may call.
    pub tools: Option<&'a Tools>,
    /// Whether the model reasons before it answers, where the template has a switch (`enable_thinking`); `None` leaves
    /// it to the template.
    pub enable_thinking: Option<bool>,
    /// Further variables. They come from the program, never from a request.
    pub extra: serde_json::Map<String, serde_json::Value>,
    /// The time of `strftime_now` in seconds since 1970 (UTC); by default that of the system's clock.
    pub now: Option<u64>,
}

/// A chat template, tried once and ready to render.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    name: String,
    source: String,
    /// The source as the engine gets it.
    program: String,
}

impl ChatTemplate {
    /// Takes a Jinja source and tries it on a small conversation; `name` is what messages call it.
    ///
    /// # Errors
    /// [`TemplateError::Syntax`], [`TemplateError::TooLong`] or [`TemplateError::Limit`]. A template that refuses the
    /// small conversation itself is taken: it may want another one.
    pub fn new(source: &str, name: &str) -> Result<Self, TemplateError> {
        if source.len() > MAX_SOURCE {
            return Err(TemplateError::TooLong {
                name: name.into(),
                size: source.len(),
                limit: MAX_SOURCE,
            });
        }
        let program = one_kind_of_newline(source);
        let program = without_generation_marks(&newline_after_raw(&program));
        let template = Self { name: name.into(), source: source.into(), program };
        let options =
            RenderOptions { add_generation_prompt: true, now: Some(0), ..RenderOptions::default() };
        match template.render(&[Message::new("user", "Hello")], &options) {
            Ok(_) | Err(TemplateError::Raised { .. } | TemplateError::Render { .. }) => {
                Ok(template)
            }
            Err(error) => Err(error),
        }
    }

    /// A template known by name.
    ///
    /// # Errors
    /// None in practice: the built-in templates are tried as any other.
    pub fn builtin(kind: Builtin) -> Result<Self, TemplateError> {
        Self::new(kind.source(), kind.name())
    }

    /// What the template is called in messages.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The Jinja source.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The prompt for a conversation.
    ///
    /// # Errors
    /// [`TemplateError::Raised`] if the template refuses the messages, [`TemplateError::Limit`] or
    /// [`TemplateError::Render`] if it fails.
    pub fn render(
        &self,
        messages: &[Message],
        options: &RenderOptions<'_>,
    ) -> Result<String, TemplateError> {
        let size: u64 = messages.iter().map(|message| message.size() as u64).sum();
        let size = size.saturating_add(options.tools.map_or(0, Tools::size) as u64);
        let budget = Arc::new(Budget::new(
            WORK.saturating_add(size.saturating_mul(WORK_PER_BYTE)),
            TEXT.saturating_add(size.saturating_mul(TEXT_PER_BYTE)),
        ));
        let now = options.now.unwrap_or_else(|| {
            SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |t| t.as_secs())
        });
        let mut env = Environment::new();
        env.set_recursion_limit(RECURSION);
        operators::install(&mut env, &budget);
        filters::install(&mut env, &budget, now);
        let meter = budget.clone();
        env.set_formatter(move |out: &mut Output<'_>, _: &mut State<'_, '_>, value: &Value| {
            let text = meter.text(value)?;
            out.write_str(&text).map_err(Error::from)
        });
        self.run(&mut env, &budget, messages, options)
            .map_err(|error| self.explain(&error, &budget))
    }

    fn run(
        &self,
        env: &mut Environment<'_>,
        budget: &Budget,
        messages: &[Message],
        options: &RenderOptions<'_>,
    ) -> Result<String, Error> {
        let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?;
        check_shape(&self.program, syntax.clone(), budget)?;
        let tree = parse(&self.program, &self.name, syntax)?;
        let mut generator = CodeGenerator::new(&self.name, &self.program);
        generator.compile_stmt(&tree);
        let (mut program, mut blocks) = generator.finish();
        let mut raw = 0;
        for part in std::iter::once(&mut program).chain(blocks.values_mut()) {
            raw = raw.max(operators::longest_raw(part));
            operators::exchange(part).map_err(|what| operators::unmetered(budget, what))?;
        }
        // Text between tags costs one step whatever its length, so long texts leave fewer steps.
        let steps = STEPS.min(WORK / (raw as u64 + 1)) + STEPS_PER_MESSAGE * messages.len() as u64;
        env.set_fuel(Some(steps));
        let mut text = String::new();
        let context = context(messages, options);
        eval(
            env,
            &program,
            context,
            &blocks,
            &mut make_string_output(&mut text),
            AutoEscape::None,
        )?;
        Ok(text)
    }

    fn explain(&self, error: &Error, budget: &Budget) -> TemplateError {
        let name = self.name.clone();
        match budget.stopped() {
            Some(Stop::Raised(message)) => return TemplateError::Raised { name, message },
            Some(Stop::Limit(problem)) => return TemplateError::Limit { name, problem },
            None => {}
        }
        let mut problem = error.to_string();
        if let Some(line) = error.line() {
            problem = format!("line {line}: {problem}");
        }
        match error.kind() {
            ErrorKind::SyntaxError
            | ErrorKind::UnknownFilter
            | ErrorKind::UnknownTest
            | ErrorKind::TemplateNotFound
            | ErrorKind::BadInclude => TemplateError::Syntax { name, problem },
            ErrorKind::OutOfFuel => {
                TemplateError::Limit { name, problem: "it takes too many steps".into() }
            }
            _ if problem.contains("recursion limit") => TemplateError::Limit { name, problem },
            _ => TemplateError::Render { name, problem },
        }
    }
}

/// Refuses a source whose expressions or branches are too long for the engine's stack.
fn check_shape(source: &str, syntax: SyntaxConfig, budget: &Budget) -> Result<(), Error> {
    let (mut length, mut branches) = (0, 0);
    for token in tokenize(source, false, syntax) {
        let token = token?.0;
        let text = match &token {
            Token::Str(text) => text,
            Token::String(text) => &**text,
            _ => "",
        };
        // The engine would leave it as it is.
        if text.contains("\\N{") {
            let problem = "a character by its name, \\N{...}, is not supported";
            return Err(budget.stop(Stop::Limit(problem.into())));
        }
        match token {
            Token::VariableStart | Token::BlockStart => length = 0,
            Token::Ident("elif") => branches += 1,
            _ => length += 1,
        }
        if length > TAG || branches > BRANCHES {
            let problem = format!(
                "it has more than {TAG} words and signs in one tag, or more than {BRANCHES} elifs"
            );
            return Err(budget.stop(Stop::Limit(problem)));
        }
    }
    Ok(())
}

/// The variables of a template; of two with one name the later one counts, as in transformers.
fn context(messages: &[Message], options: &RenderOptions<'_>) -> Value {
    let special = options.special_tokens.into_iter().flat_map(|tokens| tokens.variables());
    let special = special.map(|(key, value)| (key.clone(), Value::from(Serde(value))));
    let named = [("bos_token", options.bos_token), ("eos_token", options.eos_token)];
    let named = named.into_iter().filter(|(_, text)| !text.is_empty());
    let named = named.map(|(key, text)| (key.to_owned(), Value::from(text)));
    let own = [
        (
            "messages",
            messages.iter().map(|message| Value::from(Serde(message.for_template()))).collect(),
        ),
        ("add_generation_prompt", Value::from(options.add_generation_prompt)),
        (
            "tools",
            options.tools.map_or(Value::from(()), |tools| Value::from(Serde(tools.as_list()))),
        ),
        ("documents", Value::from(())),
    ];
    let thinking = options.enable_thinking.map(|on| ("enable_thinking", Value::from(on)));
    let own = own.into_iter().chain(thinking).map(|(key, value)| (key.to_owned(), value));
    let extra = options.extra.iter().map(|(key, value)| (key.clone(), Value::from(Serde(value))));
    Value::from_pairs(special.chain(named).chain(own).chain(extra))
}

/// `\r\n` and `\r` as `\n`, as Jinja2 reads every source.
fn one_kind_of_newline(source: &str) -> Cow<'_, str> {
    if !source.contains('\r') {
        return Cow::Borrowed(source);
    }
    Cow::Owned(source.replace("\r\n", "\n").replace('\r', "\n"))
}

/// Doubles the newline after `{% raw %}`: the engine takes one away after every tag, Jinja2 not after this one.
fn newline_after_raw(source: &str) -> Cow<'_, str> {
    let mut out = String::new();
    let mut rest = source;
    while let Some((before, tag)) = rest.split_once("{%") {
        let body = tag.trim_start_matches(['-', '+']).trim_start();
        let after = body.strip_prefix("raw").map(str::trim_start);
        out.push_str(before);
        out.push_str("{%");
        let Some(text) = after.and_then(|after| after.strip_prefix("%}")) else {
            rest = tag;
            continue;
        };
        out.push_str(&tag[..tag.len() - text.len()]);
        if text.starts_with('\n') {
            out.push('\n');
        }
        // Within the block every tag is text, up to its end.
        let end = text.find("endraw").unwrap_or(text.len());
        out.push_str(&text[..end]);
        rest = &text[end..];
    }
    if out.is_empty() {
        return Cow::Borrowed(source);
    }
    out.push_str(rest);
    Cow::Owned(out)
}

/// `{% generation %}` marks what a trainer learns from and has no bearing on
/// the text: it becomes a condition that holds.
fn without_generation_marks(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at + 2);
        out.push_str(before);
        let body = tag.trim_start_matches(['-', '+']).trim_start();
        let lead = &tag[..tag.len() - body.len()];
        out.push_str(lead);
        rest = body;
        for (mark, condition) in [("generation", "if true"), ("endgeneration", "endif")] {
            let after = body.strip_prefix(mark);
            if let Some(after) = after
                .filter(|after| after.trim_start().trim_start_matches(['-', '+']).starts_with("%}"))
            {
                out.push_str(condition);
                rest = after;
            }
        }
    }
    out.push_str(rest);
    out
}
