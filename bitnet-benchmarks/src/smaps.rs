//! Memory of this process, from `/proc/self/smaps`.

use std::fs;

/// Anonymous memory: heaps, stacks, pools.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Anonymous {
    /// Bytes of address space.
    pub mapped: u64,
    /// Resident bytes.
    pub resident: u64,
}

/// Reads `/proc/self/smaps`; `None` if the system has no such file.
pub fn anonymous() -> Option<Anonymous> {
    parse(&fs::read_to_string("/proc/self/smaps").ok()?)
}

fn parse(text: &str) -> Option<Anonymous> {
    let mut sum = Anonymous::default();
    let mut counts = false;
    for line in text.lines() {
        let mut fields = line.split_ascii_whitespace();
        let first = fields.next()?;
        let field = if counts { first } else { "" };
        match field {
            "Size:" => sum.mapped += kibibytes(fields.next())?,
            "Rss:" => sum.resident += kibibytes(fields.next())?,
            _ if first.ends_with(':') => {}
            // The header of a mapping: addresses, permissions, offset, device, inode, name.
            _ => counts = fields.nth(3) == Some("0"),
        }
    }
    Some(sum)
}

fn kibibytes(field: Option<&str>) -> Option<u64> {
    Some(field?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_mappings_without_a_file_count() {
        let text = "\
55d0-55d1 r-xp 00001000 fe:00 4242 /bin/program
Size:                  4 kB
Rss:                   4 kB
7f00-7f01 rw-p 00000000 00:00 0
Size:               2048 kB
KernelPageSize:        4 kB
Rss:                1024 kB
7ffc-7ffd rw-p 00000000 00:00 0                          [stack]
Size:                136 kB
Rss:                  12 kB
VmFlags: rd wr mr mw me
";
        let sum = Anonymous { mapped: (2048 + 136) * 1024, resident: (1024 + 12) * 1024 };
        assert_eq!(parse(text), Some(sum));
        assert_eq!(parse("7f00-7f01 rw-p 00000000 00:00 0\nRss: many kB\n"), None);
    }
}
