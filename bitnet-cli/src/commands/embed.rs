//! `bitnet embed`: embeddings of texts, and their similarities.

use std::fmt::Write;
use std::io::IsTerminal;
use std::path::Path;

use anyhow::{Result, bail};
use bitnet_inference::{EmbedOptions, Embedding, Model, Pooling, Prompt};
use serde::Serialize;

use super::Outcome;
use crate::args::{Cli, EmbedArgs};
use crate::input_text::{LONGEST_TEXT, read_text};
use crate::interrupt::Listener;
use crate::load;
use crate::output::{Output, count};

/// Texts that are read between two looks at the user's wish to stop.
const TOGETHER: usize = 32;
/// Texts whose similarities are printed: the numbers are the square of it.
const MOST_COMPARED: usize = 4096;

/// Prints the embedding of each text.
pub(crate) fn run(cli: &Cli, args: &EmbedArgs, output: &mut Output) -> Result<Outcome> {
    let texts = texts(args)?;
    if args.similarity && texts.len() > MOST_COMPARED {
        bail!("--similarity compares at most {MOST_COMPARED} texts; there are {}", texts.len());
    }
    let model = load::model(cli, output)?;
    let options = EmbedOptions {
        pooling: args.pooling,
        normalize: !args.no_normalize,
        prompt: match (&args.prefix, &args.prompt_name) {
            (Some(text), _) => Prompt::Text(text.clone()),
            (None, Some(name)) => Prompt::Named(name.clone()),
            (None, None) => Prompt::Default,
        },
        max_tokens: args.max_tokens.or(cli.model.ctx),
        truncate: args.truncate,
    };
    let listener = Listener::new();
    let mut embeddings = Vec::with_capacity(texts.len());
    let mut progress = output.progress("text");
    for part in texts.chunks(TOGETHER) {
        progress.update(embeddings.len(), texts.len());
        if listener.asked() {
            return Ok(Outcome::Interrupted);
        }
        embeddings.extend(model.embed(part, &options)?);
    }
    drop(progress);
    let cut = embeddings.iter().filter(|embedding| embedding.left_out > 0).count();
    if cut > 0 {
        output.warning(&format!("{} cut to the limit of tokens", count(cut, "text")));
    }
    if output.json {
        output.json(&document(&model, args, &options, &texts, &embeddings)?)?;
    } else if args.similarity {
        let table = similarities(&embeddings);
        table
            .iter()
            .try_for_each(|row| output.line(&numbers(row.iter().map(|x| format!("{x:.4}")))))?;
    } else {
        for embedding in &embeddings {
            output.line(&numbers(embedding.values.iter().map(f32::to_string)))?;
        }
    }
    Ok(Outcome::Done)
}

/// The texts of a command line: arguments, or lines of a file or of standard input; empty lines are left out.
fn texts(args: &EmbedArgs) -> Result<Vec<String>> {
    let lines = match (&args.input, &args.texts[..]) {
        (Some(path), _) => read_text(path, LONGEST_TEXT)?,
        (None, []) if std::io::stdin().is_terminal() => {
            bail!("there is no text: add one, as in: bitnet embed -m MODEL \"a text\" \"another\"")
        }
        (None, []) => read_text(Path::new("-"), LONGEST_TEXT)?,
        (None, [only]) if only == "-" => read_text(Path::new("-"), LONGEST_TEXT)?,
        (None, texts) => return Ok(texts.to_vec()),
    };
    let texts: Vec<String> =
        lines.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect();
    if texts.is_empty() {
        bail!("there is no text: every line is empty");
    }
    Ok(texts)
}

/// The cosines of all pairs.
fn similarities(embeddings: &[Embedding]) -> Vec<Vec<f64>> {
    let row = |a: &Embedding| embeddings.iter().map(|b| a.cosine(b)).collect();
    embeddings.iter().map(row).collect()
}

/// Numbers in a line.
fn numbers(all: impl Iterator<Item = String>) -> String {
    let mut line = String::new();
    for number in all {
        let space = if line.is_empty() { "" } else { " " };
        // Writing to a string cannot fail.
        let _ = write!(line, "{space}{number}");
    }
    line
}

/// The document of `--json`.
#[derive(Serialize)]
struct Document<'a> {
    model: &'a str,
    pooling: &'static str,
    normalized: bool,
    dimensions: usize,
    embeddings: Vec<Item<'a>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    similarity: Option<Vec<Vec<f64>>>,
}

/// The embedding of a text.
#[derive(Serialize)]
struct Item<'a> {
    index: usize,
    text: &'a str,
    tokens: usize,
    truncated: usize,
    embedding: &'a [f32],
}

fn document<'a>(
    model: &'a Model,
    args: &EmbedArgs,
    options: &EmbedOptions,
    texts: &'a [String],
    embeddings: &'a [Embedding],
) -> Result<Document<'a>> {
    let pooling = match options.pooling {
        Some(pooling) => pooling,
        None => model.embedding_settings()?.pooling.unwrap_or(Pooling::Mean),
    };
    let item = |(index, (text, embedding)): (usize, (&'a String, &'a Embedding))| Item {
        index,
        text,
        tokens: embedding.tokens,
        truncated: embedding.left_out,
        embedding: &embedding.values,
    };
    Ok(Document {
        model: &model.facts().file,
        pooling: pooling.name(),
        normalized: options.normalize,
        dimensions: model.config().hidden,
        embeddings: texts.iter().zip(embeddings).enumerate().map(item).collect(),
        similarity: args.similarity.then(|| similarities(embeddings)),
    })
}
