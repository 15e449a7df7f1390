//! Drives the built program as a user does: every command with the embedded model, and with wrong files and values.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on must fail")]

mod benches;
mod bounds;
mod calibrating;
mod chatting;
mod converting;
mod failures;
mod general;
mod habits;
mod hub_models;
mod keeping;
mod memory;
mod models;
mod program;
mod pulling;
mod weights;
mod writing;
