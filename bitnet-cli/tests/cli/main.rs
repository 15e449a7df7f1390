//! Drives the built program as a user does: every command with the embedded model, and with wrong files and values.

mod chatting;
mod general;
mod models;
mod program;
mod writing;
