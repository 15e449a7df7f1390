//! Giving memory that nobody uses back to the system.

mod config;

pub use config::CleanupConfig;
