//! Peak resident memory of this process.

/// Resets the peak, if the OS supports it (Linux: `clear_refs`).
pub(crate) fn reset_peak() -> bool {
    std::fs::write("/proc/self/clear_refs", "5").is_ok()
}

/// Returns the bytes of resident memory at the peak, mapped files included;
/// `None` if the operating system does not report it.
pub(crate) fn peak_bytes() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    kibibytes(&status, "VmHWM:").map(|kib| kib << 10)
}

fn kibibytes(status: &str, key: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(key))?;
    line.trim().strip_suffix("kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_words_are_read() {
        let status = "Name:\tx\nVmHWM:\t    1234 kB\nVmRSS:\t 12 kB\n";
        assert_eq!(kibibytes(status, "VmHWM:"), Some(1234));
        assert_eq!(kibibytes(status, "VmSwap:"), None);
        if cfg!(target_os = "linux") {
            assert!(peak_bytes().unwrap() > 0);
        }
    }
}
