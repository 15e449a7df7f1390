//! What the crate asks of the operating system: one place for each kind of question.

pub(crate) mod pages;
