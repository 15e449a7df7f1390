//! What a pool records about itself while it is used.

mod config;

pub use config::{TrackingConfig, TrackingLevel};
