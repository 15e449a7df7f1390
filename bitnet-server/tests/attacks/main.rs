//! What hostile and careless clients do to a server, over TCP: each is refused by name or served, and leaves nothing behind.
#![allow(clippy::unwrap_used, reason = "a test fails with what it did not expect")]

#[path = "../answer/mod.rs"]
mod answer;
mod bodies;
mod connections;
mod crowds;
mod server;
