//! Bytes and durations as short texts, for reports.

use std::time::Duration;

/// Bytes with a binary unit: `3.4 MiB`.
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// A duration with one decimal of its largest unit.
pub fn duration(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    match seconds {
        s if s >= 3600.0 => format!("{:.1} h", s / 3600.0),
        s if s >= 120.0 => format!("{:.1} min", s / 60.0),
        s if s >= 1.0 => format!("{s:.1} s"),
        s if s >= 1e-3 => format!("{:.1} ms", s * 1e3),
        s if s >= 1e-6 => format!("{:.1} us", s * 1e6),
        _ => format!("{} ns", time.as_nanos()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_change_at_their_limits() {
        assert_eq!([bytes(0), bytes(1023), bytes(1024)], ["0 B", "1023 B", "1.0 KiB"]);
        assert_eq!([bytes(3 << 19), bytes(u64::MAX)], ["1.5 MiB", "16384.0 PiB"]);
        let spans = [0, 999, 1_000, 1_500_000, 2_000_000_000, 300_000_000_000];
        let texts = spans.map(|nanoseconds| duration(Duration::from_nanos(nanoseconds)));
        assert_eq!(texts, ["0 ns", "999 ns", "1.0 us", "1.5 ms", "2.0 s", "5.0 min"]);
        assert_eq!(duration(Duration::from_secs(5400)), "1.5 h");
    }
}
