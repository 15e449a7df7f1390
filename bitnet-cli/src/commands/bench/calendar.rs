//! Time stamps of run files.

use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Error, Result};
use bitnet_inference::chat::strftime;

/// Returns the current time in UTC: `2026-01-31T23:59:59Z`.
pub(crate) fn now() -> Result<String> {
    let seconds = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
    written(seconds)
}

/// Formats the time `seconds` after the start of 1970.
fn written(seconds: u64) -> Result<String> {
    strftime("%FT%TZ", seconds).map_err(Error::msg)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_are_counted_as_the_calendar_does() {
        assert_eq!(written(0).unwrap(), "1970-01-01T00:00:00Z");
        assert_eq!(written(951_782_399).unwrap(), "2000-02-28T23:59:59Z");
        assert_eq!(written(951_782_400).unwrap(), "2000-02-29T00:00:00Z");
        assert_eq!(written(1_735_689_599).unwrap(), "2024-12-31T23:59:59Z");
        assert_eq!(written(4_107_542_400).unwrap(), "2100-03-01T00:00:00Z");
    }
}
