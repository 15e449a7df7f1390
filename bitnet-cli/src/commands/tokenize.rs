//! `bitnet tokenize`: conversion between text and tokens.

use std::fmt::Write;

use anyhow::{Context, Result};
use bitnet_inference::tokenizer::{EncodeOptions, Tokenizer};
use bitnet_inference::tokenizer_of;
use serde::ser::{Error, SerializeSeq};
use serde::{Serialize, Serializer};
use serde_json::json;

use crate::args::{Cli, TokenizeArgs};
use crate::output::{Output, count};
use crate::{input_text, load};

/// Prints tokens, or the text of tokens.
pub(crate) fn run(cli: &Cli, args: &TokenizeArgs, output: &mut Output) -> Result<()> {
    let text = if args.decode.is_empty() { Some(input_text::prompt(&args.text)?) } else { None };
    let tokenizer = tokenizer_of(load::source(cli, None)?, &load::options(cli)?)?
        .context("the model has no tokenizer; put tokenizer.json next to it")?;
    match text {
        None => decode(&tokenizer, &args.decode, output),
        Some(text) => encode(&tokenizer, &text, args, output),
    }
}

fn decode(tokenizer: &Tokenizer, ids: &[u32], output: &mut Output) -> Result<()> {
    let text = tokenizer.decode(ids, false)?;
    if output.json {
        return output.json(&json!({ "ids": ids, "text": text }));
    }
    output.stream(&text)?;
    output.line("")
}

/// The JSON document of a text's tokens.
#[derive(Serialize)]
struct Tokens<'a> {
    count: usize,
    ids: &'a [u32],
    pieces: Pieces<'a>,
}

/// The texts of tokens, made one by one: there may be millions.
struct Pieces<'a> {
    tokenizer: &'a Tokenizer,
    ids: &'a [u32],
}

impl Serialize for Pieces<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut list = serializer.serialize_seq(Some(self.ids.len()))?;
        for &id in self.ids {
            list.serialize_element(&piece(self.tokenizer, id).map_err(S::Error::custom)?)?;
        }
        list.end()
    }
}

fn encode(
    tokenizer: &Tokenizer,
    text: &str,
    args: &TokenizeArgs,
    output: &mut Output,
) -> Result<()> {
    let special = !args.no_special;
    let ids =
        tokenizer.encode(text, EncodeOptions { add_special: special, parse_special: special })?;
    if output.json {
        let pieces = Pieces { tokenizer, ids: &ids };
        return output.json(&Tokens { count: ids.len(), ids: &ids, pieces });
    }
    if args.ids {
        let mut line = String::new();
        for id in &ids {
            let space = if line.is_empty() { "" } else { " " };
            write!(line, "{space}{id}")?;
        }
        return output.line(&line);
    }
    for &id in &ids {
        output.line(&format!("{id:>7}  {}", piece(tokenizer, id)?))?;
    }
    let characters = count(text.chars().count(), "character");
    output.note(&format!("[{} for {characters}]", count(ids.len(), "token")));
    Ok(())
}

/// Returns the escaped text of a token; the name of a control token; incomplete characters as
/// `\xE2`.
fn piece(tokenizer: &Tokenizer, id: u32) -> Result<String> {
    if tokenizer.is_special(id) {
        return Ok(tokenizer.token_text(id).unwrap_or_default().to_owned());
    }
    let bytes = tokenizer.token_bytes(id)?;
    let mut out = String::from("\"");
    for chunk in bytes.utf8_chunks() {
        out.extend(chunk.valid().chars().flat_map(char::escape_debug));
        out.extend(chunk.invalid().iter().map(|byte| format!("\\x{byte:02X}")));
    }
    out.push('"');
    Ok(out)
}
