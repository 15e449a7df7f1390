//! End-to-end tests of the program: every command with the embedded model, and with invalid files and values.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod benches;
mod bounds;
mod calibrating;
mod chatting;
mod constraining;
mod converting;
mod embedding;
mod failures;
mod general;
mod habits;
mod hub_models;
mod memory;
mod models;
mod program;
mod pulling;
#[cfg(all(unix, feature = "serve"))]
mod serving;
mod tools;
mod untrained;
mod weight_cache;
mod weights;
mod writing;
