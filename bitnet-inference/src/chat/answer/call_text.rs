//! Where the text of a call ends.

use super::calls::{self, FUNCTION_END, PARAMETER_END};
use super::json_text::JsonScan;
use super::python_calls::from_python;
use crate::chat::{FunctionCall, Tools};

/// How a call is enclosed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// Between a tag and this one.
    Tagged(&'static str),
    /// Between a tag and this one, as Python writes it.
    Python(&'static str),
    /// From `<function=` to `</function>`.
    Function,
    /// A JSON object by itself.
    Object,
}

/// A call whose text is not complete yet.
#[derive(Debug, Clone)]
pub(super) struct CallText {
    pub(super) kind: Kind,
    /// The text before the call that announced it.
    pub(super) opening: String,
    /// Bytes of the text that were looked at.
    seen: usize,
    scan: JsonScan,
}

/// What is known of a call.
#[derive(Debug)]
pub(super) enum Progress {
    /// More text is needed.
    Wait,
    /// Its end may be in a string that is not closed: look again, strictly.
    Restart,
    /// It ends after `length` bytes, closing tag included.
    Ends {
        /// Bytes.
        length: usize,
        /// The calls, or what is wrong with them.
        calls: Result<Vec<FunctionCall>, String>,
    },
    /// The text ends before it.
    Unfinished {
        /// Bytes.
        length: usize,
    },
}

impl CallText {
    pub(super) fn new(kind: Kind, opening: String) -> Self {
        Self { kind, opening, seen: 0, scan: JsonScan::default() }
    }

    /// Looks at more of `text`, which begins after the opening. With `strict` the first closing tag ends the call, else
    /// the first one that is not within a value.
    pub(super) fn advance(
        &mut self,
        text: &str,
        finishing: bool,
        strict: bool,
        tools: &Tools,
    ) -> Progress {
        let is_json = text.trim_start().starts_with('{') && !matches!(self.kind, Kind::Python(_));
        let close = match self.kind {
            Kind::Tagged(close) | Kind::Python(close) => close,
            Kind::Function => FUNCTION_END,
            Kind::Object => "",
        };
        while let Some(&byte) = text.as_bytes().get(self.seen) {
            if byte == b'<' && !close.is_empty() && (strict || !is_json || !self.scan.in_string()) {
                let (body, rest) = text.split_at(self.seen);
                if rest.starts_with(close) && (strict || self.is_whole(body, is_json)) {
                    let length = self.seen + close.len();
                    let whole =
                        if self.kind == Kind::Function { text.get(..length) } else { Some(body) };
                    return Progress::Ends {
                        length,
                        calls: self.read(whole.unwrap_or(body), tools),
                    };
                }
                if close.starts_with(rest) && !finishing {
                    return Progress::Wait;
                }
            }
            self.scan.push(byte);
            self.seen += 1;
            if self.kind == Kind::Object && self.scan.is_closed() {
                let body = text.get(..self.seen).unwrap_or(text);
                return Progress::Ends { length: self.seen, calls: self.read(body, tools) };
            }
        }
        if !finishing {
            return Progress::Wait;
        }
        // The closing tag may be left out at the end of an answer.
        match self.read(text, tools) {
            Ok(calls) => Progress::Ends { length: text.len(), calls: Ok(calls) },
            Err(_) if !strict && !close.is_empty() && text.contains(close) => Progress::Restart,
            Err(_) => Progress::Unfinished { length: text.len() },
        }
    }

    /// Whether a closing tag after `body` ends the call, rather than being a part of a value.
    fn is_whole(&self, body: &str, is_json: bool) -> bool {
        let text = body.trim();
        match self.kind {
            Kind::Function => text.ends_with(PARAMETER_END) || !text.contains("<parameter="),
            Kind::Tagged(_) => is_json || !text.starts_with('<') || text.ends_with(FUNCTION_END),
            Kind::Object | Kind::Python(_) => true,
        }
    }

    fn read(&self, body: &str, tools: &Tools) -> Result<Vec<FunctionCall>, String> {
        let text = body.trim_start();
        match self.kind {
            Kind::Python(_) => from_python(text),
            _ if text.starts_with('<') => Ok(vec![calls::from_xml(text, tools)?]),
            _ => Ok(vec![calls::from_json(text)?]),
        }
    }
}
