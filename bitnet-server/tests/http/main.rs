//! The server over TCP, as clients of each API see it.
#![allow(clippy::unwrap_used, reason = "a test fails with what it did not expect")]

#[path = "../answer/mod.rs"]
mod answer;
mod anthropic;
mod chat;
mod constraints;
mod embeddings;
mod ollama;
mod openai;
mod responses;
mod server;
