//! Rendered chat templates, held to what another program makes of them.

use bitnet_inference::chat::TemplateError;

/// A rendered template, and the text or the raised message that is expected.
pub(crate) struct Rendered<'a> {
    pub(crate) name: &'a str,
    pub(crate) got: Result<String, TemplateError>,
    pub(crate) text: Option<&'a String>,
    pub(crate) error: Option<&'a String>,
}

/// Panics with the first differences unless all are as expected.
pub(crate) fn assert_as_expected<'a>(all: impl Iterator<Item = Rendered<'a>>) {
    let (mut wrong, mut count) = (Vec::new(), 0);
    for Rendered { name, got, text, error } in all {
        count += 1;
        let right = match (&got, text, error) {
            (Ok(got), Some(text), None) => got == text,
            (Err(TemplateError::Raised { message, .. }), None, Some(error)) => message == error,
            _ => false,
        };
        if !right {
            wrong.push(format!("{name}: {got:?}\n   not {text:?} {error:?}"));
        }
    }
    let shown = &wrong[..wrong.len().min(40)];
    assert!(wrong.is_empty(), "{} of {count}\n{}", wrong.len(), shown.join("\n"));
}
