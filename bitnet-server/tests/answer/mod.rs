//! An answer over HTTP/1.1, as a client reads it.

use serde_json::Value;

#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Answer {
    /// Reads an answer whose chunks, if it has any, are put together.
    pub(crate) fn parse(text: &str) -> Self {
        let (head, mut rest) =
            text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        let mut body = String::new();
        if head.to_ascii_lowercase().contains("transfer-encoding: chunked") {
            while let Some((len, after)) = rest.split_once("\r\n") {
                let len = usize::from_str_radix(len, 16).unwrap();
                body.push_str(&after[..len]);
                rest = after[len..].strip_prefix("\r\n").unwrap_or_default();
            }
        } else {
            body.push_str(rest);
        }
        Self { status, head: head.to_owned(), body }
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("not JSON: {}", self.body))
    }
}
